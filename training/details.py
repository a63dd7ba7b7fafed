"""What a report shows beyond the evaluation itself: groups, floors, a month's dollars, the data.

All of it is computed here, and stands in the JSON of the evaluation under ``details``; the report
only shows it.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from router.decision import Predictions
from router.errors import InputError
from router.policy import cheapest_mix, mix_hull
from training import metrics
from training.breakdown import Breakdown, Rival, break_down
from training.comparison import Played
from training.offpolicy import Value
from training.operating_points import OperatingPoints, operating_points
from training.package import fingerprint
from training.results import Estimate, PolicyResult, Saving
from training.split import query_hashes
from training.table import OutcomeTable
from training.verdict import differences, fixed_ranges
from training.worst import WorstRequest, worst_requests

if TYPE_CHECKING:
    from router.routing import Router

FloatArray = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]

# Where nothing is said of the traffic.
DEFAULT_REQUESTS_PER_MONTH = 100_000
_LIBRARIES = ("cps-router", "numpy", "scipy", "tokenizers", "safetensors", "genai-prices")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the report was asked for: a month's traffic, and the command, to be shown."""

    requests_per_month: int = DEFAULT_REQUESTS_PER_MONTH
    command: str | None = None

    def __post_init__(self) -> None:
        if self.requests_per_month < 1:
            raise InputError(
                f"expected at least 1 request per month, got {self.requests_per_month:,}: "
                f"say how many you have, for example {DEFAULT_REQUESTS_PER_MONTH}."
            )


@dataclass(frozen=True, slots=True)
class Monthly:
    """Dollars of a month of a policy, and what the router saves against it."""

    cost_usd: Estimate
    saved_usd: Estimate | None

    @classmethod
    def of(cls, policy: PolicyResult, saving: Saving | None, n_requests: int) -> Monthly:
        """So many requests at the policy's mean cost."""
        saved = None if saving is None else _times(saving.saved_usd_per_request, n_requests)
        return cls(_times(policy.cost_usd_per_request, n_requests), saved)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        out: dict[str, Any] = {}
        self.cost_usd.put(out, "cost_usd")
        if self.saved_usd is not None:
            self.saved_usd.put(out, "saved_usd")
        return out


@dataclass(frozen=True, slots=True)
class Details:
    """``savings`` are the router's against every other policy; ``hull`` the tiers of the cheapest
    coin-flips, cheapest first. Of a log only what needs no other tier's outcome is known.
    """

    requests_per_month: int
    monthly: Mapping[str, Monthly]
    savings: Mapping[str, Saving]
    hull: tuple[str, ...]
    breakdown: Breakdown | None
    floors: OperatingPoints
    worst: tuple[WorstRequest, ...]
    certificate: Mapping[str, Any] | None
    policy: str
    data: Mapping[str, Any]
    reproduction: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; no query text."""
        return {
            "requests_per_month": self.requests_per_month,
            "monthly": {name: month.to_dict() for name, month in self.monthly.items()},
            "savings": {name: saving.to_dict() for name, saving in self.savings.items()},
            "hull": list(self.hull),
            "breakdown": None if self.breakdown is None else self.breakdown.to_dict(),
            "floors": self.floors.to_dict(),
            "worst": [request.to_dict() for request in self.worst],
            "certificate": self.certificate,
            "policy": self.policy,
            "data": dict(self.data),
            "reproduction": dict(self.reproduction),
        }


@dataclass(frozen=True, slots=True)
class Known:
    """Calibration rows on which every tier is known, and the router's choices there; (m, T)."""

    success: FloatArray
    cost_usd: FloatArray
    dist: FloatArray


def details_of(
    router: Router,
    table: OutcomeTable,
    asked: Asked,
    *,
    predicted: Predictions,
    dist: FloatArray,
    success: FloatArray,
    cost_usd: FloatArray,
    known: Known,
    policies: Mapping[str, PolicyResult],
    savings: Mapping[str, Saving],
    confidence: float,
    n_bootstrap: int,
    seed: int,
    progress: Progress,
) -> Details:
    """Look closer at the compared requests, the rows of ``table``; matrices are (n, T)."""
    names, n = router.tiers.names, table.n_requests
    routed = Played.of(dist, cost_usd, success)
    value = router.policy.success_value_usd
    progress("compare groups", 0, n)
    breakdown = None
    if len(known.success):
        strongest, mix = _rivals(router, known, routed, success, cost_usd, value)
        breakdown = break_down(
            table.query.tolist(),
            table.task,
            routed,
            strongest,
            mix,
            success_value_usd=value,
            confidence=confidence,
            seed=seed,
        )
    floors = operating_points(
        router,
        predicted,
        (cost_usd, success),
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        seed=seed,
        on_progress=lambda done, total: progress("certify floors", done, total),
    )
    hull = mix_hull(metrics.tier_means(cost_usd), metrics.tier_means(success))
    return Details(
        requests_per_month=asked.requests_per_month,
        monthly={
            name: Monthly.of(policy, savings.get(name), asked.requests_per_month)
            for name, policy in policies.items()
        },
        savings=savings,
        hull=tuple(names[tier] for tier in hull),
        breakdown=breakdown,
        floors=floors,
        worst=worst_requests(
            names,
            table.request_id,
            table.task,
            dist,
            predicted.p_success,
            predicted.out_of_distribution,
            success,
            cost_usd,
            value,
        ),
        certificate=None if router.certificate is None else router.certificate.to_dict(),
        policy=router.manifest["policy"]["description"],
        data=data_card(router, table),
        reproduction=reproduction(asked),
    )


def logged_details_of(
    router: Router,
    table: OutcomeTable,
    asked: Asked,
    predicted: Predictions,
    values: Mapping[str, Value | None],
    saved: Saving | None,
    progress: Progress,
) -> Details:
    """Of a log, whose used requests are the rows of ``table``: what needs no other outcome.

    ``values`` are the policies' estimates, None where the log has none; ``saved`` is the router's
    against the log itself. Floors are certified, and their shares are those on the log.
    """
    n, logging = asked.requests_per_month, None if saved is None else saved.baseline
    return Details(
        requests_per_month=n,
        monthly={
            name: Monthly(
                _times(Estimate(math.nan) if value is None else value.cost_usd_per_request, n),
                _times(saved.saved_usd_per_request, n) if saved and name == logging else None,
            )
            for name, value in values.items()
        },
        savings={} if saved is None else {saved.baseline: saved},
        hull=(),
        breakdown=None,
        floors=operating_points(
            router,
            predicted,
            None,
            on_progress=lambda done, total: progress("certify floors", done, total),
        ),
        worst=(),
        certificate=None if router.certificate is None else router.certificate.to_dict(),
        policy=router.manifest["policy"]["description"],
        data=data_card(router, table),
        reproduction=reproduction(asked),
    )


def _rivals(
    router: Router,
    known: Known,
    routed: Played,
    success: FloatArray,
    cost_usd: FloatArray,
    value: float,
) -> tuple[Rival, Rival | None]:
    """Always the strongest tier, and the coin-flip at the router's success rate in calibration.

    None where that is the strongest tier itself.
    """
    names, strongest = router.tiers.names, router.policy.strongest
    ours = Played.of(known.dist, known.cost_usd, known.success)
    mix = cheapest_mix(
        metrics.tier_means(known.cost_usd),
        metrics.tier_means(known.success),
        metrics.success_rate(ours.success),
    )
    flips = np.zeros(len(names))
    flips[mix.low] += 1.0 - mix.share_high
    flips[mix.high] += mix.share_high
    words = " and ".join(f"{flips[t]:.0%} {names[t]}" for t in np.flatnonzero(flips))

    def rival(name: str, shares: FloatArray) -> Rival:
        there = Played.of(np.tile(shares, (len(known.success), 1)), known.cost_usd, known.success)
        gain = -differences(
            ours.cost_usd, ours.success, there.cost_usd[:, None], there.success[:, None], value
        )
        ranges = fixed_ranges((ours.cost_usd - there.cost_usd)[:, None], value)
        here = Played.of(np.tile(shares, (len(success), 1)), cost_usd, success)
        return Rival(name, here, float(ranges[0]), float(np.nan_to_num(gain).var()))

    always = rival(f"always-{names[strongest]}", np.eye(len(names))[strongest])
    same = flips[strongest] > 1.0 - 1e-9
    return always, None if same else rival(f"coin-flip of {words}", flips)


def data_card(router: Router, table: OutcomeTable) -> dict[str, Any]:
    """What was read, what was compared (the rows of ``table``), and what was trained on."""
    read, training = table.report.to_dict(), router.manifest["training"]
    return {
        "read": {
            name: value
            for name, value in read.items()
            if name.startswith("n_") or name in ("reasons", "not_a_tier")
        },
        "fingerprint": fingerprint(table, query_hashes(table.query)),
        "training": {
            name: training.get(name)
            for name in (
                *("name", "synthetic", "fingerprint", "split"),
                *("n_fitting", "n_calibration", "n_test"),
            )
        },
        "created": router.manifest.get("created"),
        "prices_as_of": router.manifest.get("prices_as_of"),
        "objective": router.manifest.get("objective"),
        "estimator": router.manifest["estimator"]["family"],
        "embedder": router.manifest["embedder"]["id"],
    }


def reproduction(asked: Asked) -> dict[str, Any]:
    """The command, as it was given, and the versions that it ran on."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"command": asked.command, "versions": versions}


def _times(estimate: Estimate, n: int) -> Estimate:
    interval = estimate.interval
    return Estimate(
        n * estimate.value, None if interval is None else (n * interval[0], n * interval[1])
    )
