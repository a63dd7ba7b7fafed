"""The nested protocol: mean mix ratio of every estimator family over folds of all rows of a set.

Outer folds are by query text; within the outer training rows everything is cross-fitted again, and
lambda for each floor comes from those predictions, so that the held-out fold decides nothing. No
certificate, no shrinkage to the mixes: this compares estimators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.results import Say, Section, Table
from benchmarks.told import COST_FROM_TEXT, MEAN_COST, auc_per_tier, task_means
from router.embedding import Embedder
from router.prices import PriceBook
from training import metrics
from training.costs import FittedCost, fit_cost
from training.design import Design
from training.features import embed_queries
from training.fit import FAMILIES, fit_success
from training.prepare import N_FOLDS, inputs_of
from training.split import fold_ids, query_hashes
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

N_OUTER_FOLDS = 4
SEEDS = (0, 1)
BLEND_MEAN_COST = "blend, mean costs instead of cost from text"


@dataclass(frozen=True, slots=True)
class Held:
    """What a router predicts: P(success) and cost (n, T), of training rows and of held-out rows."""

    p_train: FloatArray
    cost_train: FloatArray
    p_held: FloatArray
    cost_held: FloatArray


@dataclass(frozen=True, slots=True)
class Score:
    """One router on one held-out fold."""

    mean_mix_ratio: float
    auc: list[float]


def one_fold(
    table: OutcomeTable,
    vectors: Float32Array,
    held_out: BoolArray,
    seed: int,
    families: Sequence[str],
) -> dict[str, Score]:
    """Scores by router on the rows ``held_out`` (n,) of a table whose outcomes are all known."""
    rows, held = table.take(~held_out), table.take(held_out)
    fold = fold_ids(query_hashes(rows.query), N_FOLDS, seed)
    data, input_map, refs = inputs_of(rows.query.tolist(), vectors[~held_out], fold, seed)
    design = Design.of(data, refs.all)
    costs = fit_cost(data, design, rows, PriceBook())
    similarity = vectors[held_out] @ refs.all.T
    x = input_map.many(held.query.tolist(), vectors[held_out], similarity)
    cost_held = costs.estimator.predict(x)
    fitted = fit_success(
        data,
        design,
        refs,
        rows.success,
        rows.observed,
        families,
        other_success=rows.other_success,
    )
    predicted = {
        family: Held(
            fitted[family].cross_fitted,
            costs.cross_fitted,
            fitted[family].estimator.predict(x, similarity),
            cost_held,
        )
        for family in families
    }
    if "blend" in predicted:
        blend, mean = predicted["blend"], rows.cost_usd.mean(axis=0)
        predicted[BLEND_MEAN_COST] = Held(
            blend.p_train,
            np.broadcast_to(mean, blend.p_train.shape),
            blend.p_held,
            np.broadcast_to(mean, blend.p_held.shape),
        )
    predicted |= _told_the_task(rows, held, fold, costs, cost_held)
    return {name: _score(found, rows, held) for name, found in predicted.items()}


def _told_the_task(
    rows: OutcomeTable,
    held: OutcomeTable,
    fold: IntArray,
    costs: FittedCost,
    cost_held: FloatArray,
) -> dict[str, Held]:
    """Task averages, those for training rows from their other folds."""

    def means(outcome: FloatArray) -> tuple[FloatArray, FloatArray]:
        crossed = np.empty_like(outcome)
        for number in np.unique(fold):
            outside = fold == number
            crossed[outside] = task_means(
                rows.task[~outside].tolist(), outcome[~outside], rows.task[outside].tolist()
            )
        return crossed, task_means(rows.task.tolist(), outcome, held.task.tolist())

    p_train, p_held = means(rows.success)
    cost_by_task, cost_by_task_held = means(rows.cost_usd)
    return {
        MEAN_COST: Held(p_train, cost_by_task, p_held, cost_by_task_held),
        COST_FROM_TEXT: Held(p_train, costs.cross_fitted, p_held, cost_held),
    }


def _score(found: Held, rows: OutcomeTable, held: OutcomeTable) -> Score:
    ratio = metrics.mean_mix_ratio(
        (found.p_train, found.cost_train, rows.success),
        (found.p_held, found.cost_held, held.success, held.cost_usd),
    )
    return Score(ratio.mean, auc_per_tier(found.p_held, held.success))


def every_fold(
    name: str,
    table: OutcomeTable,
    embedder: Embedder,
    say: Say,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    n_folds: int = N_OUTER_FOLDS,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, list[Score]]:
    """Scores by router, one for every fold of every seed; the split column is ignored."""
    table = table.take(table.complete)
    table.require_costs()
    hashes = query_hashes(table.query)
    say(f"{name}: embedding {table.n_requests:,} queries")
    vectors = embed_queries(embedder, list(table.query))
    scores: dict[str, list[Score]] = {}
    for seed, number, held_out in _folds(hashes, n_folds, seeds):
        say(f"{name}: seed {seed}, fold {number + 1} of {n_folds}")
        with threadpool_limits(limits=1):  # as in the pipeline
            found = one_fold(table, vectors, held_out, seed, families)
        for router, score in found.items():
            scores.setdefault(router, []).append(score)
    return scores


def _folds(
    hashes: npt.NDArray[np.uint64], n_folds: int, seeds: Sequence[int]
) -> Iterator[tuple[int, int, BoolArray]]:
    for seed in seeds:
        # Another seed than that of the inner folds, which split by the same hashes.
        fold = fold_ids(hashes, n_folds, 1000 + seed)
        for number in range(n_folds):
            yield seed, number, fold == number


def measure(
    tables: Mapping[str, OutcomeTable],
    embedders: Mapping[str, Embedder],
    say: Say,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    n_folds: int = N_OUTER_FOLDS,
    seeds: Sequence[int] = SEEDS,
) -> Section:
    """Every set with every embedder."""
    shown: list[Table] = []
    data: dict[str, Any] = {"n_folds": n_folds, "seeds": list(seeds), "sets": {}}
    for label, embedder in embedders.items():
        found = {
            name: every_fold(
                name, table, embedder, say, families=families, n_folds=n_folds, seeds=seeds
            )
            for name, table in tables.items()
        }
        shown += [_ratio_table(label, found, n_folds, seeds), _auc_table(label, found)]
        for name, scores in found.items():
            data["sets"].setdefault(name, {})[label] = {
                router: {
                    "mean_mix_ratio": [score.mean_mix_ratio for score in each],
                    "auc": np.mean([score.auc for score in each], axis=0).tolist(),
                }
                for router, each in scores.items()
            }
    return Section("Nested folds", shown, data)


def _ratio_table(
    label: str, found: Mapping[str, Mapping[str, list[Score]]], n_folds: int, seeds: Sequence[int]
) -> Table:
    routers = list(next(iter(found.values())))
    rows = []
    for router in routers:
        cells = [router]
        for scores in found.values():
            ratios = np.array([score.mean_mix_ratio for score in scores[router]])
            told = np.array([score.mean_mix_ratio for score in scores[COST_FROM_TEXT]])
            gap = ratios - told
            cells.append(f"{ratios.mean():.3f} ({ratios.std(ddof=1):.3f})")
            cells.append(
                "" if router == COST_FROM_TEXT else f"{gap.mean():+.3f} ({gap.std(ddof=1):.3f})"
            )
        rows.append(tuple(cells))
    columns = ["router"]
    for name in found:
        columns += [name, "- told"]
    note = (
        f"Mean and, in brackets, standard deviation over {n_folds} folds x {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}); '- told' is the paired difference from '{COST_FROM_TEXT}'"
        "; below 0 is better. Rows with every tier known, the split column ignored."
    )
    return Table(f"{label}: mean mix ratio, nested folds", tuple(columns), rows, (note,))


def _auc_table(label: str, found: Mapping[str, Mapping[str, list[Score]]]) -> Table:
    routers = [name for name in next(iter(found.values())) if name != BLEND_MEAN_COST]
    rows = []
    for router in routers:
        cells = [router]
        for scores in found.values():
            mean = np.mean([score.auc for score in scores[router]], axis=0)
            cells.append(" ".join(f"{auc:.3f}" for auc in mean))
        rows.append(tuple(cells))
    return Table(f"{label}: AUC per tier, mean over the folds", ("router", *found), rows)
