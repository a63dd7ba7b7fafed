"""What choosing which queries to label is worth: mean mix ratio reached per labelling dollar.

Every arm starts from the same queries drawn at random and labels in rounds, with the same dollars:
those that a random choice of the stated number of queries costs on average. ``random`` goes on at
random. ``value`` spends 30 % at random and the rest as ``cps-router label --choose value`` does,
with predictions fitted on what it has labelled so far. ``cheap`` spends the rest on the queries
that are expected to be cheapest to label: what of a gain is due to buying more labels alone.

Measured on the test rows of each set, which no arm may label. An arm's lambdas are chosen on its
random rows alone, as ``train`` does. Draws differ in the pool, the start and the random choices;
the test rows are the same, so that intervals say how sure we are of the difference on *these* rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

from benchmarks.results import Say, Section, Table
from router.embedding import Embedder
from router.prices import PriceBook
from training import metrics
from training.costs import fit_cost
from training.design import Design
from training.features import embed_queries
from training.fit import fit_success
from training.label_choice import Believed, choose_by_value
from training.label_select import RANDOM_SHARE
from training.prepare import N_FOLDS, inputs_of
from training.split import fold_ids, query_hashes, split_table
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

ARMS = ("random", "cheap", "value")
# As many queries as a random choice labels for the money of each round.
ROUNDS = (50, 100, 200, 400)
N_DRAWS = 8
# So many queries stand to be chosen in a draw, and are measured on.
MAX_POOL = 2_500
MAX_TEST = 2_000
FAMILY = "ridge"
CONFIDENCE = 0.95
# Of the 20 floors over which a mean mix ratio is taken, the one whose lambda values are reckoned
# at: about three quarters of the way from the weakest to the strongest tier.
FLOOR = 14


@dataclass(frozen=True)
class Fitted:
    """Estimators of what is labelled: their predictions of the pool and of the test rows, (n, T).

    ``values_usd`` are the lambdas of 20 floors; ``mean`` and ``median`` the mix ratio over them.
    """

    pool: tuple[FloatArray, FloatArray]
    values_usd: FloatArray
    mean: float
    median: float


@dataclass(frozen=True)
class Reached:
    """Where an arm stands after a round."""

    usd: float
    n_queries: int
    n_random: int
    mean: float
    median: float


@dataclass(frozen=True)
class Arena:
    """The queries that may be labelled in a draw, and those that are measured on."""

    pool: OutcomeTable
    pool_vectors: Float32Array
    test: OutcomeTable
    test_vectors: Float32Array
    seed: int

    @property
    def label_usd(self) -> FloatArray:
        """What labelling each query of the pool on all tiers costs, (n,)."""
        usd: FloatArray = self.pool.cost_usd.sum(axis=1)
        return usd

    def fit(self, rows: IntArray, drawn: npt.NDArray[np.bool_]) -> Fitted:
        """On these rows of the pool, of which some were ``drawn`` at random."""
        order = np.argsort(rows)
        rows, drawn = rows[order], drawn[order]
        known, vectors = self.pool.take(rows), self.pool_vectors[rows]
        queries = known.query.tolist()
        fold = fold_ids(query_hashes(known.query), N_FOLDS, self.seed)
        data, input_map, refs = inputs_of(queries, vectors, fold, self.seed, None, known.task)
        design = Design.of(data, refs.all)
        costs = fit_cost(data, design, known, PriceBook())
        fitted = fit_success(data, design, refs, known.success, known.observed, [FAMILY])[FAMILY]

        def predicted(table: OutcomeTable, vectors: Float32Array) -> tuple[FloatArray, FloatArray]:
            similarity = vectors @ refs.all.T
            x = input_map.many(table.query.tolist(), vectors, similarity)
            return fitted.estimator.predict(x, similarity), costs.estimator.predict(x)

        test = predicted(self.test, self.test_vectors)
        ratio = metrics.mean_mix_ratio(
            (fitted.cross_fitted[drawn], costs.cross_fitted[drawn], known.success[drawn]),
            (*test, self.test.success, self.test.cost_usd),
        )
        pool = predicted(self.pool, self.pool_vectors)
        return Fitted(pool, ratio.success_values_usd, ratio.mean, ratio.median)

    def play(
        self, arm: str, start: IntArray, order: IntArray, money: Sequence[float]
    ) -> list[Reached]:
        """An arm's rounds; ``money`` is what may have been spent in all after each."""
        rows, drawn = start, np.ones(len(start), bool)
        fitted: Fitted | None = None
        reached = []
        for number, usd in enumerate(money):
            if number:
                left = usd - float(self.label_usd[rows].sum())
                share = 1.0 if arm == "random" else RANDOM_SHARE
                free = order[~np.isin(order, rows)]
                at_random = self.within(free, share * left)
                rows = np.concatenate((rows, at_random))
                drawn = np.concatenate((drawn, np.ones(len(at_random), bool)))
                if arm != "random" and fitted is not None:
                    left = usd - float(self.label_usd[rows].sum())
                    chosen = self.within(self.choose(arm, rows, fitted, left), left)
                    rows = np.concatenate((rows, chosen))
                    drawn = np.concatenate((drawn, np.zeros(len(chosen), bool)))
            fitted = self.fit(rows, drawn)
            spent = float(self.label_usd[rows].sum())
            reached.append(Reached(spent, len(rows), int(drawn.sum()), fitted.mean, fitted.median))
        return reached

    def choose(self, arm: str, rows: IntArray, fitted: Fitted, usd: float) -> IntArray:
        """Queries in the order in which an arm would label them, by predictions alone."""
        p, cost = fitted.pool
        label_usd = np.maximum(cost, 1e-9).sum(axis=1)
        if arm == "cheap":
            order = np.argsort(label_usd, kind="stable")
            return order[~np.isin(order, rows)]
        value = float(fitted.values_usd[FLOOR])
        believed = Believed(self.pool_vectors, p, cost, value, label_usd, np.ones(len(p)))
        # More than the money pays: what a query costs may be less than what was expected.
        return choose_by_value(believed, taken=rows, max_usd=2 * usd, seed=self.seed)

    def within(self, order: IntArray, usd: float) -> IntArray:
        """The first ones whose true costs fit."""
        spent = np.cumsum(self.label_usd[order])
        return order[: int(np.searchsorted(spent, usd, side="right"))]


def arena(table: OutcomeTable, vectors: Float32Array, draw: int) -> Arena:
    """The training texts of a set as pool (a random part of a large one), its test rows."""
    split = split_table(table)
    rng = np.random.default_rng([draw, 31])
    pool, test = np.flatnonzero(split.train), np.flatnonzero(split.test)
    pool = np.sort(rng.permutation(pool)[:MAX_POOL])
    # The same test rows in every draw.
    test = np.sort(np.random.default_rng(31).permutation(test)[:MAX_TEST])
    return Arena(table.take(pool), vectors[pool], table.take(test), vectors[test], draw)


def compare(
    name: str,
    table: OutcomeTable,
    embedder: Embedder,
    say: Say,
    rounds: Sequence[int] = ROUNDS,
    n_draws: int = N_DRAWS,
) -> dict[str, list[list[Reached]]]:
    """By arm, for each draw, where it stands after each round."""
    table = table.take(table.complete)
    vectors = embed_queries(embedder, table.query.tolist())
    found: dict[str, list[list[Reached]]] = {arm: [] for arm in ARMS}
    for draw in range(n_draws):
        here = arena(table, vectors, draw)
        mean_usd = float(here.label_usd.mean())
        order = np.random.default_rng([draw, 37]).permutation(here.pool.n_requests)
        money = [n * mean_usd for n in rounds]
        start = here.within(order, money[0])
        for arm in ARMS:
            say(f"{name}: draw {draw + 1} of {n_draws}, {arm}")
            with threadpool_limits(limits=1):
                found[arm].append(here.play(arm, start, order, money))
    return found


def measure(
    tables: Mapping[str, OutcomeTable],
    left_out: Sequence[str],
    embedder: Embedder,
    say: Say,
    rounds: Sequence[int] = ROUNDS,
    n_draws: int = N_DRAWS,
) -> Section:
    """All sets that can be had."""
    shown: list[Table] = []
    data: dict[str, Any] = {"left_out": list(left_out)}
    for name, table in tables.items():
        found = compare(name, table, embedder, say, rounds, n_draws)
        shown.append(_table(name, found, rounds))
        data[name] = {
            arm: [[vars(reached) for reached in draw] for draw in draws]
            for arm, draws in found.items()
        }
    if shown:
        shown[-1] = replace(shown[-1], notes=(*shown[-1].notes, *left_out))
    return Section("Labelling", shown, data)


def paired(ours: FloatArray, theirs: FloatArray) -> tuple[float, float, float]:
    """Mean difference (of draws, (n,)) and its interval by Student's t.

    >>> paired(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    (1.0, 1.0, 1.0)
    """
    gap = ours - theirs
    if len(gap) < 2:
        return float(gap.mean()), -np.inf, np.inf
    half = student.ppf((1 + CONFIDENCE) / 2, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
    return float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half)


def _table(name: str, found: Mapping[str, list[list[Reached]]], rounds: Sequence[int]) -> Table:
    rows, proven = [], []
    for place in range(len(rounds)):
        for arm in ARMS:
            reached = [draw[place] for draw in found[arm]]
            base = [draw[place] for draw in found["random"]]
            if not place and arm != "random":
                continue  # all arms start from the same rows
            cells = []
            for what in ("mean", "median"):
                ours = np.array([getattr(r, what) for r in reached])
                gap, low, high = paired(ours, np.array([getattr(r, what) for r in base]))
                cells.append(f"{ours.mean():.3f}")
                cells.append("" if arm == "random" else f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]")
                if arm == "value" and high < 0:
                    proven.append(f"{what} at ${np.mean([r.usd for r in reached]):.2f}")
            rows.append(
                (
                    arm if place else "start, at random",
                    f"{np.mean([r.usd for r in reached]):.2f}",
                    f"{np.mean([r.n_queries for r in reached]):.0f}",
                    *cells,
                )
            )
    columns = (
        *("choice", "labelling USD", "queries", "mean mix ratio", "less random's"),
        *("median mix ratio", "less random's"),
    )
    how = (
        f"{len(found['random'])} draws; below 1 beats the coin-flip; over 20 floors, on test rows "
        f"that nobody may label; paired {CONFIDENCE:.0%} intervals over draws, not corrected for "
        "their number."
    )
    verdict = (
        f"Choosing by value beats choosing at random beyond noise in: {', '.join(proven)}."
        if proven
        else "Choosing by value is not proven better than choosing at random at any of these sums."
    )
    return Table(f"{name}: choosing what to label", columns, rows, (how, verdict))
