"""What an evaluation on logged feedback found: plain records and their JSON; computes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.logged_propensity import LogPolicy
from training.logged_rows import LoggedCounts
from training.logged_verdict import LoggedVerdict
from training.offpolicy import MAX_MISSING_SHARE, MIN_ESS, Evaluation, Value
from training.propensity import TierOverlap
from training.results import Saving, finite

if TYPE_CHECKING:
    from training.details import Details

# The estimator whose numbers stand for the policy.
HEADLINE = "dr"


@dataclass(frozen=True, slots=True)
class ServedTier:
    """The requests that one tier served: what was chosen for it, not what it would do on all."""

    n: int
    success_rate: float
    total_cost_usd: float
    cps_usd: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; without requests the rates are None."""
        return {
            "n": self.n,
            "success_rate": finite(self.success_rate),
            "total_cost_usd": self.total_cost_usd,
            "cps_usd": finite(self.cps_usd),
            "cps_is_infinite": self.n > 0 and math.isinf(self.cps_usd),
        }


@dataclass(frozen=True, slots=True, eq=False)
class LoggedPolicy:
    """One policy: what the log says of it, and its share of requests of every tier."""

    evaluation: Evaluation
    share: dict[str, float]

    @property
    def headline(self) -> Value | None:
        """The doubly robust value; None where the log has no estimate."""
        return self.evaluation.values.get(HEADLINE)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable: the headline as for full feedback, then everything else."""
        out: dict[str, Any] = {"estimator": HEADLINE}
        if self.headline is None:
            for name in ("success_rate", "cost_usd_per_request", "cps_usd"):
                out |= {name: None, f"{name}_interval": None}
            out["cps_is_infinite"] = False
        else:
            out |= self.headline.to_dict()
        return {**out, "share": dict(self.share), **self.evaluation.to_dict()}


@dataclass(frozen=True, slots=True)
class LoggedReport:
    """Everything that ``evaluate`` found on a log of one tier's outcome per request.

    Tiers and policies are keyed by name, in order; ``saved`` is the router against the log itself,
    None where there is no estimate. ``notes`` are sentences that belong beside the numbers.
    """

    artifact_id: str
    data: str
    confidence: float
    seed: int
    counts: LoggedCounts
    out_of_distribution_share: float
    propensity: LogPolicy
    tiers: dict[str, ServedTier]
    overlap: dict[str, TierOverlap]
    policies: dict[str, LoggedPolicy]
    saved: Saving | None
    notes: tuple[str, ...]
    verdict: LoggedVerdict
    details: Details | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``cps-router evaluate --json``: no NaN, no infinity, no query text."""
        out = {
            "artifact_id": self.artifact_id,
            "data": self.data,
            "feedback": "logged",
            **self.counts.to_dict(),
            "out_of_distribution_share": self.out_of_distribution_share,
            "confidence": self.confidence,
            "seed": self.seed,
            "propensity": self.propensity.to_dict(),
            "effective_sample_size": {
                name: policy.evaluation.weights.ess for name, policy in self.policies.items()
            },
            "min_effective_sample_size": MIN_ESS,
            "max_missing_share": MAX_MISSING_SHARE,
            "tiers": {name: tier.to_dict() for name, tier in self.tiers.items()},
            "overlap": {name: tier.to_dict() for name, tier in self.overlap.items()},
            "policies": {name: policy.to_dict() for name, policy in self.policies.items()},
            "savings": {"against_logging": None if self.saved is None else self.saved.to_dict()},
            "notes": list(self.notes),
            "verdict": self.verdict.to_dict(),
        }
        if self.details is not None:
            out["details"] = self.details.to_dict()
        return out
