"""Evaluate a router on logged feedback: the outcome of one tier per request.

What other choices would have cost and reached is estimated from the log's own, weighted by how
likely each was (``training.offpolicy``), for the router, every single tier, the keyword heuristic
and the log itself. As in ``training.evaluate``, everything that could be tuned comes from the
artifact, before an outcome is looked at. The predictions in the direct method and in the doubly
robust estimator are the artifact's own: they were fitted on other queries, since those that it was
trained on are left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.keyword import KeywordRouter
from training import baselines, metrics
from training.defaults import DEFAULT_CONFIDENCE
from training.details import Asked, logged_details_of
from training.evaluate import Progress, predict_all, tier_columns, untrained_rows
from training.importance import Logged
from training.intervals import likelihood_interval
from training.logged_propensity import LogPolicy, log_policy
from training.logged_results import LoggedPolicy, LoggedReport, ServedTier
from training.logged_rows import MAX_WITHOUT_PROPENSITY, LoggedCounts, OneTier
from training.logged_verdict import LOGGING, CostRanges, against_logging, judge_logged
from training.offpolicy import (
    MAX_MISSING_SHARE,
    MIN_EFFECTIVE_SUCCESSES,
    MIN_ESS,
    Evaluation,
    QValues,
    Value,
    evaluate_logging_policy,
    evaluate_policy,
)
from training.propensity import overlap_table
from training.results import Estimate, Saving
from training.split import query_hashes
from training.table import OutcomeTable

if TYPE_CHECKING:
    from router.routing import Router

__all__ = ["LoggedReport", "evaluate_logged", "is_logged"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

# A failed call often has no cost: more missing than this can make a log look better than it was.
_MANY_WITHOUT_COST = 0.01


def is_logged(router: Router, table: OutcomeTable) -> bool:
    """Whether a table is logged feedback for this router: one tier's outcome per request.

    It is where more requests that could be compared have the outcome of a single tier than have
    that of every tier of the artifact. (Where training leaves nothing to compare, all requests are
    counted.) Requests with several outcomes but not all count on neither side.

    Raises:
        InputError: the table lacks a tier of the artifact.
    """
    columns = tier_columns(router.tiers.names, table)
    kept, _, _ = untrained_rows(router, table)
    for rows in (kept, np.arange(table.n_requests)):
        found = OneTier.of(table, rows, columns)
        n_single, n_complete = int(found.single.sum()), int(found.complete.sum())
        if n_single or n_complete:
            return n_single > n_complete
    return False


def evaluate_logged(
    router: Router,
    table: OutcomeTable,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
    details: Asked | None = None,
    on_progress: Progress | None = None,
) -> LoggedReport:
    """Estimate what the router, every single tier and the keyword rule would do on a log.

    Left out, and counted, are the requests that ``training.logged_rows.LoggedCounts`` lists. The
    order of the rows is of no effect. Propensities that are not recorded are estimated, and the
    report says so; what the log cannot tell is refused.

    Args:
        router: A loaded artifact.
        table: Outcomes, with propensities where the log has them.
        confidence: Level of the intervals and of the verdict.
        seed: Of the folds and of the shuffles that the bounds need.
        details: Look closer too: floors and all else that the report shows.
        on_progress: Called with a stage, requests done, and of how many.

    Raises:
        InputError: no request is left, a tier is missing, or an argument is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(
            f"expected a confidence between 0 and 1, got {confidence}: choose for example 0.95."
        )
    progress: Progress = on_progress or (lambda stage, done, total: None)
    names = router.tiers.names
    columns = tier_columns(names, table)
    rows, tier, counts = _used_rows(router, table, columns)
    queries = table.query[rows].tolist()
    hashes = query_hashes(queries)
    counts = replace(counts, n_texts=len(np.unique(hashes)))
    predicted, dist = predict_all(router, queries, progress)
    heuristic = KeywordRouter.for_tiers(
        [
            names[t]
            for t in _cheapest_first(router.calibration.realised_cost_usd, predicted.cost_usd)
        ]
    )
    keyword = baselines.keyword(queries, names, heuristic)

    def seen(matrix: FloatArray) -> FloatArray:
        values: FloatArray = matrix[rows, columns[tier]]
        return values

    n = len(rows)
    logged = Logged(
        tier.astype(np.int64),
        np.ones(n),
        seen(table.success),
        seen(table.cost_usd),
        np.unique(hashes, return_inverse=True)[1].astype(np.int64),
    )
    policy = log_policy(
        logged,
        seen(table.propensity),
        len(names),
        queries,
        hashes,
        keyword.argmax(axis=1),
        lambda: router.predictor.embedder,
        names=names,
        seed=seed,
        on_progress=lambda done: progress("estimate propensities", done, n),
    )
    logged = policy.logged
    q = QValues(predicted.p_success, predicted.cost_usd)
    dists = {"router": dist}
    for t, name in enumerate(names):
        dists[f"always-{name}"] = baselines.one_hot(np.full(n, t), len(names))
    dists["keyword"] = keyword
    policies: dict[str, LoggedPolicy] = {}
    for done, (name, played) in enumerate(dists.items()):
        progress("weigh policies", done, len(dists))
        found = evaluate_policy(
            played,
            logged,
            q,
            confidence=confidence,
            supported=policy.supported,
            estimated_propensity=policy.estimated,
            seed=seed,
        )
        policies[name] = LoggedPolicy(found, _shares(names, played))
        if name == "router":
            policies[LOGGING] = LoggedPolicy(
                _logging(logged, q, confidence, seed),
                _shares(names, baselines.one_hot(logged.tier, len(names))),
            )
    known_rows = router.calibration
    chosen = router.action_dist(known_rows.predictions)
    verdict = judge_logged(
        names,
        dist,
        logged,
        q,
        router.policy.success_value_usd,
        ranges=CostRanges.fixed(known_rows.realised_cost_usd, chosen),
        refused=_refused(names, policies),
        supported=policy.supported,
        confidence=confidence,
        seed=seed,
    )
    saved = _saved(policies["router"].evaluation, dist, policy, q, confidence)
    closer = None
    if details is not None:
        values = {name: played.headline for name, played in policies.items()}
        closer = logged_details_of(
            router, table.take(rows), details, predicted, values, saved, progress
        )
    return LoggedReport(
        artifact_id=router.artifact_id,
        data=Path(table.report.path).name,
        confidence=confidence,
        seed=seed,
        counts=counts,
        out_of_distribution_share=float(predicted.out_of_distribution.mean()),
        propensity=policy,
        tiers=_served(names, logged),
        overlap=dict(zip(names, overlap_table(logged, len(names), policy.supported), strict=True)),
        policies=policies,
        saved=saved,
        notes=_notes(counts),
        verdict=verdict,
        details=closer,
    )


def _used_rows(
    router: Router, table: OutcomeTable, columns: IntArray
) -> tuple[IntArray, IntArray, LoggedCounts]:
    """Requests whose one outcome is used, in the order of their ids, and the tier of each."""
    kept, n_train, n_trained = untrained_rows(router, table)
    found = OneTier.of(table, kept, columns)
    without = found.n_observed == 0
    several = (found.tier < 0) & ~without
    complete = several & found.complete
    rows, tier = kept[found.tier >= 0], found.tier[found.tier >= 0]
    priced = np.isfinite(table.cost_usd[rows, columns[tier]])
    n_without_cost = int((~priced).sum())
    rows, tier = rows[priced], tier[priced]
    recorded = np.isfinite(table.propensity[rows, columns[tier]])
    n_without_propensity = int((~recorded).sum())
    if n_without_propensity <= MAX_WITHOUT_PROPENSITY * len(rows):
        rows, tier = rows[recorded], tier[recorded]
    else:
        n_without_propensity = 0  # they are used: all propensities are estimated
    if not len(rows):
        raise InputError(
            "expected logged requests with the outcome of one tier and its cost that were not used "
            f"in training, got none of {table.n_requests:,}: {n_train:,} are marked train, the "
            f"artifact was trained on the text of {n_trained:,}, {int(without.sum()):,} have no "
            f"outcome of its tiers, {int(several.sum()):,} have several, {n_without_cost:,} have "
            "no cost; evaluate on newer requests, and log cost_usd or add prices to the tiers file."
        )
    order = np.argsort(table.request_id[rows], kind="stable")
    counts = LoggedCounts(
        n_rows=table.n_requests,
        n_train_split=n_train,
        n_left_out_trained=n_trained,
        n_without_outcome=int(without.sum()),
        n_several_tiers=int(several.sum()),
        n_complete=int(complete.sum()),
        n_without_cost=n_without_cost,
        n_without_propensity=n_without_propensity,
        n_requests=len(rows),
        n_texts=0,
    )
    return rows[order], tier[order], counts


def _cheapest_first(calibration_cost_usd: FloatArray, predicted_usd: FloatArray) -> list[int]:
    """Tiers by mean cost on the calibration rows; by what is predicted where one is unknown."""
    known = np.isfinite(calibration_cost_usd)
    counts = known.sum(axis=0)
    if (counts > 0).all():
        means = np.where(known, calibration_cost_usd, 0.0).sum(axis=0) / counts
    else:
        means = metrics.tier_means(predicted_usd)
    return [int(t) for t in np.argsort(means, kind="stable")]


def _shares(names: tuple[str, ...], dist: FloatArray) -> dict[str, float]:
    return dict(zip(names, dist.mean(axis=0).tolist(), strict=True))


def _logging(logged: Logged, q: QValues, confidence: float, seed: int) -> Evaluation:
    """The log's own policy: all weights are 1, and every estimator but DM is the log's mean."""
    found = evaluate_logging_policy(logged, confidence=confidence, seed=seed)
    if not found.values:
        return found
    means = found.values["ips"]
    chosen = np.column_stack([logged.at_logged(part) for part in (q.success, q.cost_usd)])
    success, cost = (float(mean) for mean in logged.per_text(chosen).mean(axis=0))
    direct = Value(
        Estimate(success), Estimate(cost), Estimate(cost / success if success > 0 else math.inf)
    )
    plain = Value(
        *(
            Estimate(estimate.value)
            for estimate in (means.success_rate, means.cost_usd_per_request, means.cps_usd)
        )
    )
    return replace(found, values={"dm": direct, "ips": means, "snips": plain, "dr": means})


def _refused(names: tuple[str, ...], policies: dict[str, LoggedPolicy]) -> set[str]:
    """Of the router and the tiers, those that the log has nothing to compare with.

    A small effective sample is no reason for a tier: its bounds then are only wide.
    """
    refused = {"router"} if policies["router"].evaluation.refusal is not None else set()
    for name in names:
        found = policies[f"always-{name}"].evaluation
        too_few = found.weights.ess < MIN_ESS and found.missing_share <= MAX_MISSING_SHARE
        if found.refusal is not None and not too_few:
            refused.add(name)
    return refused


def _served(names: tuple[str, ...], logged: Logged) -> dict[str, ServedTier]:
    served = {}
    for t, name in enumerate(names):
        chosen = logged.tier == t
        n, successes = int(chosen.sum()), float(logged.success[chosen].sum())
        cost = float(logged.cost_usd[chosen].sum())
        served[name] = ServedTier(
            n=n,
            success_rate=successes / n if n else math.nan,
            total_cost_usd=cost,
            cps_usd=cost / successes if successes > 0 else math.inf,
        )
    return served


def _saved(
    evaluation: Evaluation,
    dist: FloatArray,
    policy: LogPolicy,
    q: QValues,
    confidence: float,
) -> Saving | None:
    """The router against the log itself, by paired doubly robust terms; in the long run."""
    if not evaluation.values:
        return None
    logged = policy.logged
    # Only tests need a bound from beforehand: here it is what was seen.
    dearest = float(max(logged.cost_usd.max(), q.cost_usd.max()))
    terms, cost = against_logging(
        dist,
        logged,
        q,
        0.0,
        max_weight=evaluation.weights.max_weight,
        cost_bound_usd=np.full(dist.shape[1], dearest),
        log_cost_bound_usd=dearest,
        supported=policy.supported,
    )
    # Few texts on which the two differ tell little of how far.
    enough = terms.ess >= MIN_EFFECTIVE_SUCCESSES
    spent = logged.per_text(logged.cost_usd)

    def estimate(values: FloatArray, slack: float, per: FloatArray | None = None) -> Estimate:
        """Of mean(values), or of mean(values) / mean(per)."""
        mean = float(values.mean() / (1.0 if per is None else per.mean()))
        if enough:
            low, high = likelihood_interval(values, per, confidence, terms.ess)
            return Estimate(mean, (low - slack, high + slack))
        return Estimate(mean, (0.0, 0.0) if terms.success_slack == 0 and not values.any() else None)

    usd_slack = terms.success_slack * dearest
    share = None
    if spent.any():
        share = estimate(-cost, usd_slack / float(spent.mean()), spent)
    return Saving(
        baseline=LOGGING,
        saved_share=share,
        saved_usd_per_request=estimate(-cost, usd_slack),
        success_rate_difference=estimate(terms.success, terms.success_slack),
    )


def _notes(counts: LoggedCounts) -> tuple[str, ...]:
    notes = []
    n_outcomes = counts.n_requests + counts.n_without_cost + counts.n_without_propensity
    if counts.n_without_cost > _MANY_WITHOUT_COST * n_outcomes:
        notes.append(
            f"{counts.n_without_cost:,} of {n_outcomes:,} requests have no cost and are left out: "
            "where it is failed calls that log none, all success rates here are too high."
        )
    if counts.n_complete:
        notes.append(
            f"{counts.n_complete:,} requests have the outcome of every tier: in a file of their "
            "own they can be compared without weights."
        )
    if counts.n_texts < counts.n_requests:
        notes.append(
            f"{counts.n_requests:,} requests have {counts.n_texts:,} different texts, and each "
            "text counts once: means are over texts."
        )
    return tuple(notes)
