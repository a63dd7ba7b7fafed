"""The success floor as a dial: at each of some 41 floors, what is certified and what it does.

Every floor is certified by itself, by the same function that training and a change of prices use,
on the calibration rows that the artifact carries. The policy found is then played on the compared
requests. The confidence does not cover picking a floor after looking at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from router.certificate import Floor
from router.costs import TierMeans
from router.cps import cost_per_success
from router.decision import Predictions
from router.policy import Policy
from router.selection import CalibrationRows, Certificate, certify
from training import metrics
from training.comparison import Played
from training.defaults import DEFAULT_CONFIDENCE
from training.results import Estimate, PolicyResult, finite
from training.search import describe_policy

if TYPE_CHECKING:
    from router.routing import Router

FloatArray = npt.NDArray[np.float64]

N_STEPS = 40
# Of which the smallest is taken whose 40 steps reach from the strongest tier to the weakest.
_STEP_SIZES = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.025)
# Floors at least this far below the strongest tier are shown, however close the tiers are.
_LEAST_SPAN = 0.10
# Beyond this many numbers (160 MB) no resamples are drawn; intervals of so many rows are narrow.
_MAX_RESAMPLED = 20_000_000


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One floor: the policy that is certified for it, and what that does.

    ``measured`` is on the compared requests, None where their outcomes are not all known;
    ``share`` is that of the requests of every tier, on them. ``saved_share`` is of the cost of
    always using the strongest tier there. What the calibration rows say is in ``certificate``.
    """

    level: float
    asked: bool
    policy: Policy
    policy_words: str
    certificate: Certificate
    share: dict[str, float]
    measured: PolicyResult | None
    saved_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        found = self.certificate
        cps = cost_per_success(found.cost_usd_per_request, found.success_rate)
        return {
            "floor": found.floor,
            "level": self.level,
            "asked": self.asked,
            "certified": found.certified,
            "policy": self.policy_words,
            "sentence": found.sentence,
            "rows_needed": found.rows_needed,
            "calibration": {
                "success_rate": found.success_rate,
                "cost_usd_per_request": found.cost_usd_per_request,
                "cps_usd": finite(cps),
            },
            "share": dict(self.share),
            "measured": None if self.measured is None else self.measured.to_dict(),
            "saved_share": self.saved_share,
        }


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """Floors, the lowest first; ``relative_to`` names the tier that levels are margins to.

    Without one, levels are success rates. ``confidence`` is that of each certificate by itself.
    """

    relative_to: str | None
    strongest: str
    confidence: float
    n_calibration: int
    points: tuple[OperatingPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "relative_to": self.relative_to,
            "strongest": self.strongest,
            "confidence": self.confidence,
            "n_calibration": self.n_calibration,
            "points": [point.to_dict() for point in self.points],
        }


@dataclass(frozen=True, slots=True)
class _Remembering(CalibrationRows):
    """Calibration rows that play each policy once: every floor tries the same candidates."""

    known: dict[Policy, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    @classmethod
    def over(cls, rows: CalibrationRows) -> _Remembering:
        return cls(**{part.name: getattr(rows, part.name) for part in fields(CalibrationRows)})

    def played(self, policy: Policy) -> tuple[FloatArray, FloatArray]:
        found = self.known.get(policy)
        if found is None:
            found = CalibrationRows.played(self, policy)
            self.known[policy] = found
        return found


def operating_points(
    router: Router,
    predicted: Predictions,
    outcomes: tuple[FloatArray, FloatArray] | None,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    n_bootstrap: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> OperatingPoints:
    """What the artifact would do at every floor.

    Args:
        router: A loaded artifact.
        predicted: What it expects of the compared requests.
        outcomes: (cost_usd, success) of the compared requests, (n, T) and all known; or None.
        confidence: Of the intervals of what is measured, at each floor by itself. A certificate
            has the artifact's own.
        n_bootstrap: Resamples for these; with the same ``seed`` they are the evaluation's own.
        seed: Of the resamples.
        on_progress: Gets the floors that are done, and of how many.
    """
    training = router.manifest["training"]
    tier_success = np.asarray(training["tier_success"], dtype=float)
    tier_cost = TierMeans.from_dict(training["tier_means"]).dollars(router.predictor.cost)
    names, policy, own = router.tiers.names, router.policy, router.certificate
    level = DEFAULT_CONFIDENCE if own is None else own.confidence
    asked = None if own is None else Floor(own.rate, own.margin, own.relative_to)
    floors = floors_around(asked, tier_success, policy.strongest)
    rows = _Remembering.over(router.calibration)
    found: list[tuple[Policy, Certificate]] = []
    for floor in floors:
        found.append(
            certify(
                rows,
                floor,
                tier_success=tier_success,
                tier_cost_usd=tier_cost,
                names=names,
                safe_tier=router.safe_tier,
                strongest=policy.strongest,
                confidence=level,
            )
        )
        if on_progress is not None:
            on_progress(len(found), len(floors))
    distinct = list(dict.fromkeys(policy for policy, _ in found))
    dists = {chosen: _dist(chosen, predicted) for chosen in distinct}
    shares = {
        chosen: dict(zip(names, dist.mean(axis=0).tolist(), strict=True))
        for chosen, dist in dists.items()
    }
    measured: Mapping[Policy, PolicyResult] = {}
    strongest_usd = math.nan
    if outcomes is not None:
        measured = _measured(names, dists, outcomes, confidence, n_bootstrap, seed)
        strongest_usd = float(outcomes[0][:, policy.strongest].mean())
    reference = floors[0].relative_to
    return OperatingPoints(
        relative_to=None if reference is None else names[reference],
        strongest=names[policy.strongest],
        confidence=level,
        n_calibration=len(rows),
        points=tuple(
            OperatingPoint(
                level=floor.margin if floor.rate is None else floor.rate,
                asked=floor == asked,
                policy=chosen,
                policy_words=describe_policy(chosen, names, confined=rows.tried is not None),
                certificate=certificate,
                share=shares[chosen],
                measured=measured.get(chosen),
                saved_share=_saved(measured.get(chosen), strongest_usd),
            )
            for floor, (chosen, certificate) in zip(floors, found, strict=True)
        ),
    )


def floors_around(asked: Floor | None, tier_success: FloatArray, strongest: int) -> list[Floor]:
    """The lowest floor first: even steps that reach from the strongest tier to the weakest.

    As the asked floor is meant: absolute, or relative to its tier, and with it where it lies
    between two steps; without one, relative to the strongest tier. They depend on the fitting
    rows alone, so that no calibration row has a part in what is tested on it.

    >>> floors = floors_around(Floor(margin=-0.05, relative_to=1), np.array([0.6, 0.9]), 1)
    >>> [round(floor.margin, 4) for floor in floors[:2] + floors[-2:]], len(floors)
    ([-0.4, -0.39, -0.01, 0.0], 41)
    """
    top = float(tier_success[strongest])
    span = max(_LEAST_SPAN, top - float(tier_success.min()))
    step = next((size for size in _STEP_SIZES if size * N_STEPS >= span), _STEP_SIZES[-1])
    if asked is not None and asked.rate is not None:
        first = math.ceil(top / step)
        levels = [round((first - k) * step, 6) for k in range(N_STEPS + 1)]
        floors = [Floor(rate=level) for level in levels if 0.0 < level < 1.0]
    else:
        tier = strongest if asked is None or asked.relative_to is None else asked.relative_to
        levels = [0.0 - round(k * step, 6) for k in range(N_STEPS + 1)]
        floors = [Floor(margin=level, relative_to=tier) for level in levels if level > -1.0]
    if asked is not None:
        # Nearly the same is the same: the asked one is written with other digits.
        floors = [floor for floor in floors if not _alike(floor, asked)] + [asked]
    return sorted(floors, key=lambda floor: floor.margin if floor.rate is None else floor.rate)


def _alike(a: Floor, b: Floor) -> bool:
    return abs((a.rate or 0.0) - (b.rate or 0.0)) + abs(a.margin - b.margin) < 1e-9


def _dist(policy: Policy, predicted: Predictions) -> FloatArray:
    return policy.action_dist(
        predicted.p_success,
        predicted.cost_usd,
        predicted.out_of_distribution,
        predicted.candidates,
    )


def _measured(
    names: Sequence[str],
    dists: Mapping[Policy, FloatArray],
    outcomes: tuple[FloatArray, FloatArray],
    confidence: float,
    n_bootstrap: int,
    seed: int,
) -> dict[Policy, PolicyResult]:
    """Each policy on requests of known outcome; the resamples are the same for all of them."""
    played = {policy: Played.of(dist, *outcomes) for policy, dist in dists.items()}
    n = len(outcomes[0])
    drawn = np.empty((0, 2 * len(played)))
    if n_bootstrap and 2 * n * len(played) <= _MAX_RESAMPLED:
        columns = [column for p in played.values() for column in (p.cost_usd, p.success)]
        drawn = metrics.bootstrap_means(np.column_stack(columns), n_bootstrap, seed)

    def interval(values: FloatArray) -> metrics.Interval | None:
        return metrics.percentile_interval(values, confidence)

    results = {}
    for i, (policy, p) in enumerate(played.items()):
        costs, rates = drawn[:, 2 * i], drawn[:, 2 * i + 1]
        cost, rate = metrics.mean_cost(p.cost_usd), metrics.success_rate(p.success)
        results[policy] = PolicyResult(
            success_rate=Estimate(rate, interval(rates)),
            cost_usd_per_request=Estimate(cost, interval(costs)),
            total_cost_usd=cost * n,
            cps_usd=Estimate(
                cost_per_success(cost, rate), interval(cost_per_success(costs, rates))
            ),
            share=dict(zip(names, p.share.tolist(), strict=True)),
        )
    return results


def _saved(measured: PolicyResult | None, strongest_usd: float) -> float | None:
    if measured is None:
        return None
    return finite(metrics.saved_share(measured.cost_usd_per_request.value, strongest_usd))
