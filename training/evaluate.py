"""Evaluate a router on logged outcomes: cost per success, baselines, intervals, verdict.

Only requests on which every tier's outcome is known are compared, all policies on the same ones.
Everything that could be tuned (the policy, lambda, the verdict's ranges, the order of the tiers)
comes from the artifact, before an outcome is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from router.certificate import Floor
from router.decision import Predictions
from router.errors import InputError
from router.keyword import KeywordRouter
from router.policy import SAME_RATE
from router.stored_query import Query
from training import baselines, metrics
from training.comparison import Played, compare
from training.defaults import DEFAULT_CONFIDENCE
from training.details import Asked, Known, details_of
from training.results import Counts, FloorResult, PolicyResult, Report, TierResult
from training.split import query_hashes
from training.table import OutcomeTable
from training.verdict import Verdict, differences, fixed_ranges, judge

if TYPE_CHECKING:
    from router.routing import Router

__all__ = ["Report", "evaluate"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
# Gets what is being done, how many requests are done, and of how many.
Progress = Callable[[str, int, int], None]

# Queries predicted at a time, to bound memory and to show progress.
_CHUNK = 8192


def evaluate(
    router: Router,
    table: OutcomeTable,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    n_bootstrap: int = 1000,
    seed: int = 0,
    details: Asked | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Compare the router with every single tier, the random mix, the keyword rule and the oracle.

    Requests marked "train" in a split column are left out, then those whose text the artifact was
    trained on, then those on which some tier's outcome is unknown; each is counted. The table's
    tiers are matched to the artifact's by name; others are ignored. The order of the rows is of no
    effect.

    Args:
        router: A loaded artifact.
        table: Outcomes; every one that is compared needs a cost.
        confidence: Level of the intervals and of the verdict.
        n_bootstrap: Resamples for the intervals; 0 for no intervals.
        seed: Of the resamples and of the verdict's shuffle.
        details: Look closer too: groups, floors and all else that the report shows.
        on_progress: Called with a stage ("predict", "resample"), requests done, and of how many.

    Raises:
        InputError: no request is left, a tier or a cost is missing, or an argument is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(
            f"expected a confidence between 0 and 1, got {confidence}: choose for example 0.95."
        )
    if n_bootstrap < 0:
        raise InputError(f"expected 0 or more resamples, got {n_bootstrap}: choose 1000.")
    progress: Progress = on_progress or (lambda stage, done, total: None)
    names = router.tiers.names
    columns = tier_columns(names, table)
    progress("match texts with those of training", 0, table.n_requests)
    rows, counts = _compared_rows(router, table, columns)
    success, cost = table.success[np.ix_(rows, columns)], table.cost_usd[np.ix_(rows, columns)]
    if np.isnan(cost).any():
        table.take(rows).require_costs()
    queries = table.query[rows].tolist()
    predicted, dist = predict_all(router, queries, progress)
    known = _Calibration.of(router)

    progress("play policies", 0, len(rows))
    by_cost = np.argsort(metrics.tier_means(known.cost_usd if len(known) else cost), kind="stable")
    heuristic = KeywordRouter.for_tiers([names[tier] for tier in by_cost])
    played = {
        "router": Played.of(dist, cost, success),
        "keyword": Played.of(baselines.keyword(queries, names, heuristic), cost, success),
        "oracle": Played.of(baselines.oracle(success, cost), cost, success),
    }
    compared = compare(
        names,
        cost,
        success,
        played,
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        seed=seed,
        on_progress=lambda done: progress("resample", done, len(rows)),
    )
    floor, best_single = _floor(router, compared.policies)
    curve = metrics.frontier(predicted.p_success, predicted.cost_usd, success, cost)
    tier_costs, tier_rates = metrics.tier_means(cost), metrics.tier_means(success)
    cost_range = (float(tier_costs.min()), float(tier_costs.max()))
    report = Report(
        artifact_id=router.artifact_id,
        data=Path(table.report.path).name,
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        seed=seed,
        counts=counts,
        out_of_distribution_share=float(predicted.out_of_distribution.mean()),
        tiers=_tiers(names, predicted, cost, success, compared.policies),
        policies=compared.policies,
        against_strongest=compared.saving(f"always-{names[router.policy.strongest]}"),
        against_random_mix=compared.saving("random-mix"),
        against_best_single_tier=None if best_single is None else compared.saving(best_single),
        mix_ratio=compared.mix_ratio,
        mix_ratio_interval=compared.mix_ratio_interval,
        mean_mix_ratio=known.mean_mix_ratio(predicted, success, cost),
        aiq=metrics.aiq(curve.cost_usd, curve.success_rate, cost_range),
        aiq_single_tiers=metrics.aiq(tier_costs, tier_rates, cost_range),
        apgr=_apgr(predicted.p_success, success),
        frontier=curve,
        floor=floor,
        verdict=_verdict(router, known, played["router"], cost, success, confidence, seed),
    )
    if details is None:
        return report
    found = details_of(
        router,
        table.take(rows),
        details,
        predicted=predicted,
        dist=dist,
        success=success,
        cost_usd=cost,
        known=Known(known.success, known.cost_usd, known.dist),
        policies=compared.policies,
        savings={name: compared.saving(name) for name in compared.policies if name != "router"},
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        seed=seed,
        progress=progress,
    )
    return replace(report, details=found)


@dataclass(frozen=True, slots=True)
class _Calibration:
    """The artifact's calibration rows on which every tier is known; dist is its policy; (m, T)."""

    p_success: FloatArray
    expected_cost_usd: FloatArray
    success: FloatArray
    cost_usd: FloatArray
    dist: FloatArray

    def __len__(self) -> int:
        return len(self.success)

    @classmethod
    def of(cls, router: Router) -> _Calibration:
        rows = router.calibration
        known = (np.isfinite(rows.success) & np.isfinite(rows.realised_cost_usd)).all(axis=1)
        p_success, expected = rows.p_success[known], rows.cost_usd[known]
        dist = router.action_dist(rows.predictions)[known]
        return cls(p_success, expected, rows.success[known], rows.realised_cost_usd[known], dist)

    def mean_mix_ratio(
        self, predicted: Predictions, success: FloatArray, cost: FloatArray
    ) -> metrics.MeanMixRatio | None:
        if not len(self):
            return None
        return metrics.mean_mix_ratio(
            (self.p_success, self.expected_cost_usd, self.success),
            (predicted.p_success, predicted.cost_usd, success, cost),
        )


def tier_columns(names: tuple[str, ...], table: OutcomeTable) -> IntArray:
    """The table's columns of the artifact's tiers, by name; InputError where one is missing."""
    index = {name: i for i, name in enumerate(table.tiers.names)}
    missing = [name for name in names if name not in index]
    if missing:
        raise InputError(
            f"expected outcomes of the artifact's tiers ({', '.join(names)}), got none of "
            f"{', '.join(missing)}: use the tiers file that the artifact was trained with."
        )
    return np.array([index[name] for name in names], dtype=np.intp)


def untrained_rows(router: Router, table: OutcomeTable) -> tuple[IntArray, int, int]:
    """Requests neither marked "train" nor of a text that the artifact was trained on.

    And how many there are of the one kind, and among the others of the other.
    """
    kept = np.flatnonzero(np.array([value != "train" for value in table.split], dtype=bool))
    n_train = table.n_requests - len(kept)
    trained = np.isin(query_hashes(table.query[kept]), router.trained_query_hashes)
    return kept[~trained], n_train, int(trained.sum())


def _compared_rows(
    router: Router, table: OutcomeTable, columns: IntArray
) -> tuple[IntArray, Counts]:
    """Rows to compare, in the order of their request ids, and what became of the others."""
    kept, n_train, n_trained = untrained_rows(router, table)
    complete = table.observed[np.ix_(kept, columns)].all(axis=1)
    rows = kept[complete]
    n_incomplete = int((~complete).sum())
    if not len(rows):
        raise InputError(
            "expected requests with the outcome of every tier that were not used in training, got "
            f"none of {table.n_requests:,}: {n_train:,} are marked train, the artifact was trained "
            f"on the text of {n_trained:,}, {n_incomplete:,} lack the outcome of a tier; "
            "evaluate on new requests that were run on all tiers."
        )
    # Sums, resamples and the verdict's shuffle then do not depend on the order of the file.
    rows = rows[np.argsort(table.request_id[rows], kind="stable")]
    return rows, Counts(table.n_requests, n_train, n_trained, n_incomplete, len(rows))


def predict_all(
    router: Router, queries: Sequence[Query], progress: Progress
) -> tuple[Predictions, FloatArray]:
    """What the router expects of every query, and its action distribution; memory is bounded."""
    parts: list[Predictions] = []
    for start in range(0, len(queries), _CHUNK):
        parts.append(router.predict(queries[start : start + _CHUNK]))
        progress("predict", min(start + _CHUNK, len(queries)), len(queries))
    predicted = Predictions.joined(parts)
    return predicted, router.action_dist(predicted)


def _tiers(
    names: tuple[str, ...],
    predicted: Predictions,
    cost: FloatArray,
    success: FloatArray,
    policies: Mapping[str, PolicyResult],
) -> dict[str, TierResult]:
    results = {}
    for tier, name in enumerate(names):
        p, always = predicted.p_success[:, tier], policies[f"always-{name}"]
        results[name] = TierResult(
            n=len(success),
            success_rate=always.success_rate.value,
            total_cost_usd=always.total_cost_usd,
            cps_usd=always.cps_usd.value,
            calibration_error=metrics.calibration_error(p, success[:, tier]),
            cost_calibration_ratio=metrics.dollar_ratio(predicted.cost_usd[:, tier], cost[:, tier]),
            calibration_bins=metrics.calibration_bins(p, success[:, tier]),
        )
    return results


def _floor(
    router: Router, policies: Mapping[str, PolicyResult]
) -> tuple[FloorResult | None, str | None]:
    """The artifact's floor on these requests, and the cheapest single tier that meets it.

    Without a floor, the cheapest single tier that succeeds as often as the router.
    """
    names, ours = router.tiers.names, policies["router"].success_rate.value
    rates = {name: policies[f"always-{name}"].success_rate.value for name in names}
    floor, rate = None, ours
    certificate = router.certificate
    if certificate is not None:
        wanted = Floor(certificate.rate, certificate.margin, certificate.relative_to)
        if wanted.rate is not None:
            rate = wanted.rate
        elif wanted.relative_to is not None:
            rate = rates[names[wanted.relative_to]] + wanted.margin
        floor = FloorResult(wanted.describe(names), rate, ours >= rate - SAME_RATE)
    meeting = [f"always-{name}" for name in names if rates[name] >= rate - SAME_RATE]
    cheapest = min(meeting, key=lambda p: policies[p].cost_usd_per_request.value, default=None)
    return floor, cheapest


def _apgr(p_success: FloatArray, success: FloatArray) -> float | None:
    if success.shape[1] != 2:
        return None
    weak, strong = np.argsort(metrics.tier_means(success), kind="stable")
    score = p_success[:, strong] - p_success[:, weak]
    return metrics.apgr(score, success[:, weak], success[:, strong])


def _verdict(
    router: Router,
    known: _Calibration,
    routed: Played,
    cost: FloatArray,
    success: FloatArray,
    confidence: float,
    seed: int,
) -> Verdict:
    """Lambda and the ranges come from the artifact alone: they are fixed before this test."""
    value = router.policy.success_value_usd
    expected = metrics.expected_outcome(known.dist, known.cost_usd)
    ranges = fixed_ranges(expected[:, None] - known.cost_usd, value)
    found = differences(routed.cost_usd, routed.success, cost, success, value)
    return judge(router.tiers.names, found, ranges, value, confidence=confidence, seed=seed)
