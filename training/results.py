"""What an evaluation found: plain records and their JSON. Nothing is computed here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.metrics import CalibrationBins, Frontier, Interval, MeanMixRatio, MixRatio
from training.verdict import Verdict

if TYPE_CHECKING:
    from training.details import Details


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its confidence interval; None where no resamples were drawn."""

    value: float
    interval: Interval | None = None

    def put(self, out: dict[str, Any], name: str) -> None:
        """Write ``name`` and ``name_interval``; JSON knows no infinity, which becomes None."""
        out[name] = finite(self.value)
        interval = self.interval
        out[f"{name}_interval"] = None if interval is None else [finite(x) for x in interval]


@dataclass(frozen=True, slots=True)
class TierResult:
    """One tier on the compared requests.

    ``cost_calibration_ratio`` is predicted / actual dollars, None where the tier is free.
    """

    n: int
    success_rate: float
    total_cost_usd: float
    cps_usd: float
    calibration_error: float
    cost_calibration_ratio: float | None
    calibration_bins: CalibrationBins

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        bins = self.calibration_bins
        return {
            "n": self.n,
            "success_rate": self.success_rate,
            "total_cost_usd": self.total_cost_usd,
            "cps_usd": finite(self.cps_usd),
            "cps_is_infinite": math.isinf(self.cps_usd),
            "calibration_error": self.calibration_error,
            "cost_calibration_ratio": self.cost_calibration_ratio,
            "calibration_bins": {
                "p_success": bins.p_success.tolist(),
                "success": bins.success.tolist(),
                "n": bins.n.tolist(),
            },
        }


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy on the compared requests; ``share`` is the share of requests of every tier."""

    success_rate: Estimate
    cost_usd_per_request: Estimate
    total_cost_usd: float
    cps_usd: Estimate
    share: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        out: dict[str, Any] = {}
        self.success_rate.put(out, "success_rate")
        self.cost_usd_per_request.put(out, "cost_usd_per_request")
        out["total_cost_usd"] = self.total_cost_usd
        self.cps_usd.put(out, "cps_usd")
        out["cps_is_infinite"] = math.isinf(self.cps_usd.value)
        out["share"] = dict(self.share)
        return out


@dataclass(frozen=True, slots=True)
class Saving:
    """The router against the policy ``baseline``; positive is cheaper, or succeeds more often.

    ``saved_share`` is 1 - cost of the router / cost of the baseline, None where that one is free.
    """

    baseline: str
    saved_share: Estimate | None
    saved_usd_per_request: Estimate
    success_rate_difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        out: dict[str, Any] = {"baseline": self.baseline}
        (self.saved_share or Estimate(math.nan)).put(out, "saved_share")
        self.saved_usd_per_request.put(out, "saved_usd_per_request")
        self.success_rate_difference.put(out, "success_rate_difference")
        return out


@dataclass(frozen=True, slots=True)
class FloorResult:
    """The artifact's success floor: in words, as a rate on these requests, and if it was met."""

    description: str
    success_rate: float
    met: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the table's requests: ``n_requests`` of ``n_rows`` are compared."""

    n_rows: int
    n_train_split: int
    n_left_out_trained: int
    n_incomplete: int
    n_requests: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything ``evaluate`` found. Tiers and policies are keyed by name, in order.

    ``mean_mix_ratio`` is None where the artifact has no complete calibration rows, ``apgr`` unless
    there are two tiers of different success rate, ``floor`` where the objective was no floor, and
    ``against_best_single_tier`` where no single tier meets the floor (without a floor: reaches the
    router's success rate). ``details`` is None unless they were asked for.
    """

    artifact_id: str
    data: str
    confidence: float
    n_bootstrap: int
    seed: int
    counts: Counts
    out_of_distribution_share: float
    tiers: dict[str, TierResult]
    policies: dict[str, PolicyResult]
    against_strongest: Saving
    against_random_mix: Saving
    against_best_single_tier: Saving | None
    mix_ratio: MixRatio
    mix_ratio_interval: Interval | None
    mean_mix_ratio: MeanMixRatio | None
    aiq: float
    aiq_single_tiers: float
    apgr: float | None
    frontier: Frontier
    floor: FloorResult | None
    verdict: Verdict
    details: Details | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``cps-router evaluate --json``: no NaN, no infinity, no query text."""
        names = list(self.tiers)
        mix, best = self.mix_ratio.mix, self.against_best_single_tier
        out: dict[str, Any] = {
            "artifact_id": self.artifact_id,
            "data": self.data,
            "n_rows": self.counts.n_rows,
            "n_train_split": self.counts.n_train_split,
            "n_left_out_trained": self.counts.n_left_out_trained,
            "n_incomplete": self.counts.n_incomplete,
            "n_requests": self.counts.n_requests,
            "out_of_distribution_share": self.out_of_distribution_share,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
            "seed": self.seed,
            "tiers": {name: tier.to_dict() for name, tier in self.tiers.items()},
            "policies": {name: policy.to_dict() for name, policy in self.policies.items()},
            "savings": {
                "against_strongest": self.against_strongest.to_dict(),
                "against_random_mix": self.against_random_mix.to_dict(),
                "against_best_single_tier": None if best is None else best.to_dict(),
            },
        }
        Estimate(self.mix_ratio.ratio, self.mix_ratio_interval).put(out, "mix_ratio")
        mean = self.mean_mix_ratio
        out |= {
            "mix_ratio_above_best": self.mix_ratio.above_best,
            "mix_ratio_near_kink": self.mix_ratio.near_kink,
            "random_mix": {
                "low": names[mix.low],
                "high": names[mix.high],
                "share_high": mix.share_high,
            },
            "mean_mix_ratio": None if mean is None else finite(mean.mean),
            "mix_ratio_by_floor": None
            if mean is None
            else {
                "success_floor": mean.floors.tolist(),
                "success_value_usd": mean.success_values_usd.tolist(),
                "mix_ratio": [finite(ratio) for ratio in mean.ratios.tolist()],
            },
            "aiq": self.aiq,
            "aiq_single_tiers": self.aiq_single_tiers,
            "apgr": self.apgr,
            "frontier": {
                "success_value_usd": self.frontier.success_values_usd.tolist(),
                "cost_usd_per_request": self.frontier.cost_usd.tolist(),
                "success_rate": self.frontier.success_rate.tolist(),
            },
            "floor": None
            if self.floor is None
            else {
                "description": self.floor.description,
                "success_rate": self.floor.success_rate,
                "met": self.floor.met,
            },
            "verdict": self.verdict.to_dict(),
        }
        if self.details is not None:
            out["details"] = self.details.to_dict()
        return out


def finite(value: float) -> float | None:
    """A number that JSON can hold, or None.

    >>> finite(1.5), finite(math.inf)
    (1.5, None)
    """
    return value if math.isfinite(value) else None
