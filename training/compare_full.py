"""A comparison of routers on full feedback: paired means over texts, bootstrap, linear test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.cps import cost_per_success
from training import metrics
from training.compare_results import Difference, Entry
from training.comparison import resampled_mixes
from training.contenders import shift_between
from training.contest_rows import Progress, per_text
from training.known_outcomes import Habits, KnownOutcomes
from training.paired_test import bounded, difference_of
from training.results import Estimate

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Asked:
    """Label and artifact id of each entry, the tiers, and what was fixed for the tests.

    ``level`` is that of one comparison with the first entry, ``confidence`` that of them all.
    """

    labels: Sequence[tuple[str, str | None]]
    names: tuple[str, ...]
    success_value_usd: float
    confidence: float
    level: float
    n_bootstrap: int
    seed: int


def compare_full(
    asked: Asked,
    known: KnownOutcomes,
    habits: Sequence[Habits],
    played: Sequence[FloatArray],
    success: FloatArray,
    cost: FloatArray,
    texts: npt.NDArray[np.uint64],
    progress: Progress,
) -> tuple[list[Entry], list[Difference], int]:
    """Entries, differences from the first, and the number of different texts.

    ``played`` is what each entry would do, (n, T), as are ``success`` and ``cost``; ``texts`` (n,)
    are hashes. Ranges come from what was ``known`` before.
    """
    limits = [
        max(
            known.loss_range(asked.success_value_usd, a, b)
            for a, b in ((each, habits[0]), (habits[0], each))
        )
        for each in habits
    ]

    def by_text(rows: FloatArray) -> FloatArray:
        return np.column_stack([per_text(column, texts) for column in rows.T])

    tier_cost, tier_success = by_text(cost), by_text(success)
    costs = [per_text(metrics.expected_outcome(dist, cost), texts) for dist in played]
    rates = [per_text(metrics.expected_outcome(dist, success), texts) for dist in played]
    n_texts, n_tiers, n = len(tier_cost), len(asked.names), len(played)
    drawn = metrics.bootstrap_means(
        np.column_stack([tier_cost, tier_success, *costs, *rates]),
        asked.n_bootstrap,
        asked.seed,
        lambda done: progress("resample", done, n_texts),
    )
    drawn_tiers = drawn[:, :n_tiers], drawn[:, n_tiers : 2 * n_tiers]
    drawn_cost = drawn[:, 2 * n_tiers : 2 * n_tiers + n]
    drawn_rate = drawn[:, 2 * n_tiers + n :]

    def estimate(value: float, replicates: FloatArray, level: float = asked.confidence) -> Estimate:
        interval = metrics.percentile_interval(replicates, level)
        return Estimate(value, interval)

    entries, differences = [], []
    for i, label in enumerate(asked.labels):
        mean, rate = metrics.mean_cost(costs[i]), metrics.success_rate(rates[i])
        pair = drawn_cost[:, i], drawn_rate[:, i]
        ratio = metrics.mix_ratio(costs[i], rates[i], tier_cost, tier_success)
        share = by_text(played[i]).mean(axis=0)
        entries.append(
            Entry(
                *label,
                estimate(rate, pair[1]),
                estimate(mean, pair[0]),
                estimate(cost_per_success(mean, rate), cost_per_success(*pair)),
                estimate(ratio.ratio, resampled_mixes(pair, drawn_tiers)[0]),
                dict(zip(asked.names, share.tolist(), strict=True)),
                # A single tier is itself a corner of the hull, or far from it.
                near_kink=bool(ratio.near_kink and share.max() < 1.0),
                above_best=bool(ratio.above_best),
            )
        )
        if i == 0:
            continue
        shift = shift_between(played[i], played[0])
        differ = per_text((np.abs(shift).sum(axis=1) > 0).astype(float), texts) > 0
        better = per_text(metrics.expected_outcome(shift, success), texts)
        dearer = per_text(metrics.expected_outcome(shift, cost), texts)
        loss = dearer - asked.success_value_usd * better
        variance = known.variances(asked.success_value_usd, habits[i], habits[0])[1]
        differences.append(
            difference_of(
                entries[i].label,
                entries[0].label,
                success=estimate(
                    float(better.mean()), drawn_rate[:, i] - drawn_rate[:, 0], asked.level
                ),
                cost=estimate(
                    float(dearer.mean()), drawn_cost[:, i] - drawn_cost[:, 0], asked.level
                ),
                cps=_cps_difference(entries[i], entries[0], drawn_cost, drawn_rate, i, asked.level),
                loss=bounded(loss, limits[i], 0.0, asked.level, variance, asked.seed),
                loss_range_usd=limits[i],
                differ=float(differ.sum()),
                identical=not differ.any(),
            )
        )
    return entries, differences, n_texts


def _cps_difference(
    entry: Entry,
    first: Entry,
    drawn_cost: FloatArray,
    drawn_rate: FloatArray,
    column: int,
    level: float,
) -> Estimate | None:
    """None where one of the two never succeeds; without an interval where a resample does not."""
    assert entry.cps_usd is not None
    assert first.cps_usd is not None
    if math.isinf(entry.cps_usd.value) or math.isinf(first.cps_usd.value):
        return None
    ours, theirs = (cost_per_success(drawn_cost[:, i], drawn_rate[:, i]) for i in (column, 0))
    interval = None
    if np.isfinite(ours).all() and np.isfinite(theirs).all():
        interval = metrics.percentile_interval(ours - theirs, level)
    return Estimate(entry.cps_usd.value - first.cps_usd.value, interval)
