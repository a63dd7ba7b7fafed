"""A comparison of routers on a log: doubly robust values, and paired terms against the first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training import metrics
from training.compare_full import Asked
from training.compare_results import Difference, Entry
from training.contenders import shift_between
from training.contest_rows import Selected, logged_of, odd_propensities, too_few
from training.doubly_robust import PairedTerms, QValues, compare
from training.importance import supported_by_log, weight_limit
from training.intervals import likelihood_interval
from training.known_outcomes import Habits, KnownOutcomes
from training.offpolicy import Evaluation, evaluate_policy
from training.paired_test import bounded, difference_of
from training.results import Estimate
from training.table import OutcomeTable
from training.verdict import RANGE_FACTOR

FloatArray = npt.NDArray[np.float64]


def compare_logged(
    asked: Asked,
    table: OutcomeTable,
    chosen: Selected,
    known: KnownOutcomes,
    habits: Sequence[Habits],
    played: Sequence[FloatArray],
    predicted: tuple[FloatArray, FloatArray],
) -> tuple[list[Entry], list[Difference], int]:
    """Entries, differences from the first, and the number of different texts.

    ``played`` is what each entry would do, (n, T); ``predicted`` are success and cost as the
    artifacts expect them. The other rows of the log fix the maximum weight and, with what was
    ``known``, the bounds on costs.
    """
    rows, other, columns = chosen.rows, chosen.other, chosen.columns
    labels, names, value = asked.labels, asked.names, asked.success_value_usd
    logged = logged_of(table, rows, columns)
    q = QValues(*predicted)
    before = KnownOutcomes(
        np.concatenate((known.success, table.success[np.ix_(other, columns)])),
        np.concatenate((known.cost_usd, table.cost_usd[np.ix_(other, columns)])),
    )
    max_weight = weight_limit(logged_of(table, other, columns), n_rows=logged.n_texts)
    supported = supported_by_log(logged, len(names))
    largest = RANGE_FACTOR * before.largest_cost()

    def evaluated(dist: FloatArray) -> Evaluation:
        return evaluate_policy(
            dist,
            logged,
            q,
            confidence=asked.confidence,
            max_weight=max_weight,
            supported=supported,
            seed=asked.seed,
        )

    tiers = [evaluated(np.tile(row, (len(rows), 1))) for row in np.eye(len(names))]
    found = [evaluated(dist) for dist in played]
    entries = [
        _entry(*label, each, logged.per_text(dist), names, tiers)
        for label, each, dist in zip(labels, found, played, strict=True)
    ]
    differences = []
    for i in range(1, len(played)):
        shift = shift_between(played[i], played[0])
        # The terms know tiers that neither may choose by their weight of 0 alone.
        may = habits[i].choices | habits[0].choices | (shift != 0).any(axis=0)
        bound = np.where(may, largest, 0.0)
        terms = compare(
            played[i],
            played[0],
            logged,
            q,
            value,
            max_weight=max_weight,
            cost_bound_usd=bound,
        )
        refusals = [
            f"of {label}, {each.refusal[:1].lower()}{each.refusal[1:].rstrip('.')}"
            for (label, _), each in ((labels[i], found[i]), (labels[0], found[0]))
            if each.refusal is not None
        ]
        why = [odd_propensities(logged, names, shift), *refusals]
        if not any(why):
            why.append(too_few(terms, logged.n_texts))
        variances = before.weighted_variances(value, max_weight, habits[i], habits[0])
        success, cost, loss = _intervals(
            terms, float(bound.max()), asked.level, variances, asked.seed
        )
        cps = None
        ours, theirs = entries[i].cps_usd, entries[0].cps_usd
        if ours is not None and theirs is not None and np.isfinite(ours.value - theirs.value):
            # A difference of ratios of weighted means has no interval that would hold.
            cps = Estimate(ours.value - theirs.value)
        differences.append(
            difference_of(
                labels[i][0],
                labels[0][0],
                success=success,
                cost=cost,
                cps=cps,
                loss=loss,
                loss_range_usd=terms.loss_bound_usd,
                differ=terms.ess,
                identical=not shift.any(),
                refusal="; ".join(filter(None, why)) or None,
            )
        )
    return entries, differences, logged.n_texts


def _intervals(
    terms: PairedTerms,
    cost_bound_usd: float,
    level: float,
    variances: tuple[float, float],
    seed: int,
) -> tuple[Estimate, Estimate, Estimate]:
    """Differences of success, cost and loss; what the log cannot tell widens each interval."""
    value = terms.success_value_usd
    success = bounded(
        terms.success, terms.success_bound, terms.success_slack, level, variances[0], seed
    )
    dearer = terms.loss_usd + value * terms.success
    low, high = likelihood_interval(dearer, None, level, max(terms.ess, 2.0))
    slack = terms.success_slack * cost_bound_usd
    cost = Estimate(float(dearer.mean()), (low - slack, high + slack))
    loss = bounded(
        terms.loss_usd, terms.loss_bound_usd, terms.loss_slack_usd, level, variances[1], seed
    )
    return success, cost, loss


def _entry(
    label: str,
    artifact_id: str | None,
    found: Evaluation,
    dist: FloatArray,
    names: tuple[str, ...],
    tiers: Sequence[Evaluation],
) -> Entry:
    share = dict(zip(names, dist.mean(axis=0).tolist(), strict=True))
    ess = found.weights.ess
    if found.refusal is not None:
        return Entry(label, artifact_id, None, None, None, None, share, ess, found.refusal)
    value = found.values["dr"]
    ratio, above_best = None, False
    if all(tier.refusal is None for tier in tiers):
        costs, rates = (
            np.array([getattr(tier.values["dr"], part).value for tier in tiers])
            for part in ("cost_usd_per_request", "success_rate")
        )
        mean, rate = value.cost_usd_per_request.value, value.success_rate.value
        number, mix = metrics.mix_ratio_of_means(mean, rate, costs, rates)
        ratio, above_best = Estimate(number), not bool(mix.reached)
    return Entry(
        label,
        artifact_id,
        value.success_rate,
        value.cost_usd_per_request,
        value.cps_usd,
        ratio,
        share,
        ess,
        above_best=above_best,
    )
