"""The nested protocol: our estimator families and their rivals, over folds of all rows of a set.

Outer folds are by query text; within the outer training rows everything is cross-fitted again, and
lambda for each floor comes from those predictions, as do the rivals' settings, so that the held-out
fold decides nothing. No certificate, no shrinkage to the mixes: this compares estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks import fold_tables, rivals
from benchmarks.fold_tables import N_FLOORS, Score
from benchmarks.results import Say, Section, Table
from benchmarks.rivals import Held, Known
from benchmarks.told import COST_FROM_TEXT, MEAN_COST, auc_per_tier, task_means
from router.embedding import Embedder
from router.policy import choose
from router.prices import PriceBook
from training import metrics
from training.costs import FittedCost, fit_cost
from training.design import Design
from training.features import embed_queries
from training.fit import AUTO_FAMILIES, FAMILIES, fit_success
from training.prepare import N_FOLDS, inputs_of
from training.split import fold_ids, query_hashes
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

N_OUTER_FOLDS = 4
SEEDS = (0, 1)
# What every other router is compared with: the first that `auto` tries.
DEFAULT_FAMILY = AUTO_FAMILIES[0]
# The networks take as long as all others together: the quality part measures them.
NESTED_FAMILIES = tuple(family for family in FAMILIES if family != "mlp")
OWN_TIERS = f"{DEFAULT_FAMILY}, of the tiers' own outcomes alone"
WITHOUT_TASKS = f"{DEFAULT_FAMILY}, of a log that names no tasks"
BLEND_MEAN_COST = "blend, mean costs instead of cost from text"
RIVALS = (
    *(rivals.KEYWORD, rivals.KNN, rivals.CLUSTERS, rivals.WIN_RATE, rivals.WIN_RATE_PAIR),
    *(rivals.LOGISTIC, rivals.RANDOM_MIX, rivals.ORACLE),
)


@dataclass(frozen=True, slots=True)
class Outer:
    """One outer fold: training ``rows`` with their inner ``fold`` ids, and the ``held`` ones."""

    rows: OutcomeTable
    vectors: Float32Array
    fold: IntArray
    held: OutcomeTable
    held_vectors: Float32Array
    seed: int

    @property
    def known(self) -> Known:
        """The training rows as rivals see them."""
        return Known(self.vectors, self.rows.success, self.rows.cost_usd)


@dataclass(frozen=True)
class Routers:
    """Scores by router on one outer fold, and the default family's predictions to compare with."""

    outer: Outer
    default: Held | None
    scores: dict[str, Score] = field(default_factory=dict)

    def add(self, name: str, found: Held, *, setting: str = "", ranks: bool = True) -> None:
        """Score predictions on the held-out rows; ``ranks`` where they are P(success)."""
        ours = math.nan if self.default is None else score(self.default, self.outer).mean_mix_ratio
        scored = replace(score(found, self.outer), ours=ours, setting=setting)
        if not ranks:
            scored = replace(scored, auc=[math.nan] * len(scored.auc))
        self.scores[name] = scored


def outer_folds(
    table: OutcomeTable, vectors: Float32Array, n_folds: int, seeds: Sequence[int]
) -> Iterator[Outer]:
    """Every fold of every seed, of a table whose outcomes are all known."""
    for seed, held in _folds(query_hashes(table.query), n_folds, seeds):
        rows = table.take(~held)
        fold = fold_ids(query_hashes(rows.query), N_FOLDS, seed)
        yield Outer(rows, vectors[~held], fold, table.take(held), vectors[held], seed)


def our_predictions(
    outer: Outer, families: Sequence[str], *, ablate: bool = True
) -> dict[str, Held]:
    """Of our families, of these with something left out, and of those who are told the task."""
    rows, queries = outer.rows, outer.held.query.tolist()
    data, input_map, refs = inputs_of(
        rows.query.tolist(), outer.vectors, outer.fold, outer.seed, task=rows.task
    )
    design = Design.of(data, refs.all)
    costs = fit_cost(data, design, rows, PriceBook())
    similarity = outer.held_vectors @ refs.all.T
    x = input_map.many(queries, outer.held_vectors, similarity)
    cost_held = costs.estimator.predict(x)

    def fitted(which: Sequence[str], others: FloatArray | None) -> dict[str, Held]:
        found = fit_success(
            data, design, refs, rows.success, rows.observed, which, other_success=others
        )
        return {
            family: Held(
                fit.cross_fitted,
                costs.cross_fitted,
                fit.estimator.predict(x, similarity),
                cost_held,
            )
            for family, fit in found.items()
        }

    predicted = fitted(families, rows.other_success)
    if ablate and DEFAULT_FAMILY in families and np.isfinite(rows.other_success).any():
        predicted[OWN_TIERS] = fitted([DEFAULT_FAMILY], None)[DEFAULT_FAMILY]
    if ablate and DEFAULT_FAMILY in families and data.n_tasks:
        untold = replace(outer, rows=replace(rows, task=np.full(len(rows.task), None, object)))
        found = our_predictions(untold, [DEFAULT_FAMILY], ablate=False)
        predicted[WITHOUT_TASKS] = found[DEFAULT_FAMILY]
    if ablate and "blend" in predicted:
        blend, mean = predicted["blend"], rows.cost_usd.mean(axis=0)
        predicted[BLEND_MEAN_COST] = Held(
            blend.p_train,
            np.broadcast_to(mean, blend.p_train.shape),
            blend.p_held,
            np.broadcast_to(mean, blend.p_held.shape),
        )
    return predicted | _told_the_task(outer, costs, cost_held)


def _told_the_task(outer: Outer, costs: FittedCost, cost_held: FloatArray) -> dict[str, Held]:
    """Task averages, those for training rows from their other folds."""
    rows, held, fold = outer.rows, outer.held, outer.fold

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


def score(found: Held, outer: Outer, tiers: Sequence[int] | None = None) -> Score:
    """Predictions (n, T) against the outcomes of all tiers, or of those that are named."""
    columns = slice(None) if tiers is None else list(tiers)
    success = outer.held.success[:, columns]
    ratio = metrics.mean_mix_ratio(
        (found.p_train, found.cost_train, outer.rows.success[:, columns]),
        (found.p_held, found.cost_held, success, outer.held.cost_usd[:, columns]),
        N_FLOORS,
    )
    return Score(ratio.mean, auc_per_tier(found.p_held, success), ratio.ratios)


def ratio_at_floor(found: Held, outer: Outer, floor: float) -> float:
    """Mix ratio on the held-out rows of the least lambda that reaches a floor on training rows."""
    success, held = outer.rows.success, outer.held
    expected = metrics.recentred(found.p_train, success)
    (value,) = metrics.success_values_for_floors(
        found.p_train, found.cost_train, expected, np.array([floor])
    )
    tier = choose(found.p_held, found.cost_held, float(value))
    rows = np.arange(len(tier))
    return metrics.mix_ratio_of_means(
        metrics.mean_cost(held.cost_usd[rows, tier]),
        metrics.success_rate(held.success[rows, tier]),
        metrics.tier_means(held.cost_usd),
        metrics.tier_means(held.success),
    )[0]


def add_rivals(routers: Routers, names: Sequence[str]) -> None:
    """Score the named ones of ``RIVALS``."""
    outer, train = routers.outer, routers.outer.known
    n_tiers = train.success.shape[1]
    if rivals.KEYWORD in names:
        routers.scores[rivals.KEYWORD] = _keyword(routers)
    for name, rival in rivals.RIVALS.items():
        if name in names:
            found, setting = rivals.route(rival, train, outer.fold, outer.held_vectors)
            routers.add(name, found, setting=setting)
    if rivals.WIN_RATE in names:
        pair, found, setting = rivals.win_rate_threshold(train, outer.fold, outer.held_vectors)
        spread = rivals.among_all(pair, found, n_tiers)
        routers.add(rivals.WIN_RATE, spread, setting=setting, ranks=False)
        routers.scores[rivals.WIN_RATE_PAIR] = _of_pair(routers, pair, found)
    if rivals.RANDOM_MIX in names:
        ours = math.nan if routers.default is None else score(routers.default, outer).mean_mix_ratio
        nothing = [math.nan] * n_tiers
        routers.scores[rivals.RANDOM_MIX] = Score(1.0, nothing, np.ones(N_FLOORS), ours)
    if rivals.ORACLE in names:
        held = outer.held
        truth = Held(train.success, train.cost_usd, held.success, held.cost_usd)
        routers.add(rivals.ORACLE, truth, ranks=False)


def _keyword(routers: Routers) -> Score:
    """One point, compared with ours at the floor that this point reaches on the training rows."""
    outer = routers.outer
    point = rivals.keyword(outer.rows, outer.held)
    ours = math.nan
    if routers.default is not None:
        ours = ratio_at_floor(routers.default, outer, point.train_success)
    nothing = [math.nan] * outer.rows.n_tiers
    return Score(point.ratio, nothing, np.full(N_FLOORS, math.nan), ours, point.setting)


def _of_pair(routers: Routers, pair: Sequence[int], found: Held) -> Score:
    """A router between two tiers against the mix of these, as is ours when it has only them."""
    ours = math.nan
    if (default := routers.default) is not None:
        only = Held(
            default.p_train[:, pair],
            default.cost_train[:, pair],
            default.p_held[:, pair],
            default.cost_held[:, pair],
        )
        ours = score(only, routers.outer, pair).mean_mix_ratio
    nothing = [math.nan] * routers.outer.rows.n_tiers
    return replace(score(found, routers.outer, pair), auc=nothing, ours=ours)


def one_fold(outer: Outer, families: Sequence[str], rival_names: Sequence[str]) -> dict[str, Score]:
    """Scores by router, the default family first."""
    with threadpool_limits(limits=1):  # as in the pipeline
        predicted = our_predictions(outer, families)
        routers = Routers(outer, predicted.get(DEFAULT_FAMILY))
        for name, found in predicted.items():
            routers.add(name, found)
        add_rivals(routers, rival_names)
    return routers.scores


def every_fold(
    name: str,
    table: OutcomeTable,
    embedder: Embedder,
    say: Say,
    *,
    families: Sequence[str] = NESTED_FAMILIES,
    rival_names: Sequence[str] = RIVALS,
    n_folds: int = N_OUTER_FOLDS,
    seeds: Sequence[int] = SEEDS,
    workers: int = 1,
) -> dict[str, list[Score]]:
    """Scores by router, one for every fold of every seed; the split column is ignored."""
    table = table.take(table.complete)
    table.require_costs()
    say(f"{name}: embedding {table.n_requests:,} queries")
    vectors = embed_queries(embedder, list(table.query))
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
    found = parallel(
        joblib.delayed(one_fold)(outer, families, rival_names)
        for outer in outer_folds(table, vectors, n_folds, seeds)
    )
    scores: dict[str, list[Score]] = {}
    n_all = n_folds * len(seeds)
    say(f"{name}: fold 1 of {n_all}")
    for number, scored in enumerate(found, start=2):
        if number <= n_all:
            say(f"{name}: fold {number} of {n_all}")
        for router, one in scored.items():
            scores.setdefault(router, []).append(one)
    return scores


def _folds(
    hashes: npt.NDArray[np.uint64], n_folds: int, seeds: Sequence[int]
) -> Iterator[tuple[int, BoolArray]]:
    for seed in seeds:
        # Another seed than that of the inner folds, which split by the same hashes.
        fold = fold_ids(hashes, n_folds, 1000 + seed)
        for number in range(n_folds):
            yield seed, fold == number


def measure(
    tables: Mapping[str, OutcomeTable],
    embedders: Mapping[str, Embedder],
    left_out: Sequence[str],
    say: Say,
    *,
    families: Sequence[str] = NESTED_FAMILIES,
    n_folds: int = N_OUTER_FOLDS,
    seeds: Sequence[int] = SEEDS,
    workers: int = 1,
) -> Section:
    """Every set with every embedder; ``workers`` folds at once."""
    shown: list[Table] = []
    data: dict[str, Any] = {"n_folds": n_folds, "seeds": list(seeds), "left_out": list(left_out)}
    data["sets"] = {}
    for label, embedder in embedders.items():
        found = {
            name: every_fold(
                name,
                table,
                embedder,
                say,
                families=families,
                n_folds=n_folds,
                seeds=seeds,
                workers=workers,
            )
            for name, table in tables.items()
        }
        if not found:
            break
        shown += fold_tables.tables(label, found, DEFAULT_FAMILY, n_folds, seeds)
        for name, scores in found.items():
            data["sets"].setdefault(name, {})[label] = {
                router: fold_tables.to_dict(each) for router, each in scores.items()
            }
    if left_out:
        shown.append(Table("Left out", ("set",), [(sentence,) for sentence in left_out]))
    return Section("Nested folds", shown, data)
