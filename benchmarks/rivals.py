"""Other ways to route, re-implemented from their published descriptions, on the same rows.

Each reads the same query vectors and is cross-fitted over the same inner folds as our own families,
and lambda for each success floor is chosen by the same rule (``metrics.mean_mix_ratio``). Its own
setting is the one of least mean mix ratio on the training rows' cross-fitted predictions.

- keyword heuristic: `router/keyword.py`, its thresholds chosen; one point, no frontier.
- k-NN routing: mean success and mean cost of the k nearest queries (Hu et al., RouterBench, arXiv
  2403.12031).
- cluster routing: k-means, per-cluster success and cost averages, averaged over the nearest
  clusters (Zhang et al., Avengers-Pro, arXiv 2508.12631; 60 clusters as there, its trade-off of
  normalised scores replaced by lambda).
- win-rate threshold: P(the strongest tier wins over the cheapest), swept (Ong et al., RouteLLM,
  arXiv 2406.18665; its classifiers replaced by a logistic one). It has no cost model and two tiers,
  so that it is measured against the mix of those two as well.
- P(correct) - lambda E[cost]: a logistic head per tier, and the tier's mean cost or a ridge
  regression of its log (the predictive router of RouterBench).
- random mix and oracle: no settings; the mix has ratio 1 by definition, the oracle knows outcomes.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV

from router.keyword import KeywordRouter
from training import baselines, metrics
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

KEYWORD = "keyword heuristic"
RANDOM_MIX = "random mix"
ORACLE = "oracle"
KNN = "k-NN routing"
CLUSTERS = "cluster routing, k-means 60"
WIN_RATE = "win-rate threshold, cheapest or strongest tier (no cost model)"
WIN_RATE_PAIR = "the same, against the mix of its two tiers"
LOGISTIC = "P(correct) - lambda E[cost], logistic"

N_CLUSTERS = 60
MEAN_COST, LOG_COST = "mean cost", "ridge log-cost"
RIDGE_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)

Predicted = tuple[FloatArray, FloatArray]
"""P(success) and cost in USD, each (n, T)."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a router predicts: P(success) and cost (n, T), of training rows and of held-out rows."""

    p_train: FloatArray
    cost_train: FloatArray
    p_held: FloatArray
    cost_held: FloatArray


@dataclass(frozen=True, slots=True)
class Known:
    """Rows with every outcome: ``vectors`` (n, d), ``success`` and ``cost_usd`` (n, T)."""

    vectors: Float32Array
    success: FloatArray
    cost_usd: FloatArray

    def take(self, rows: BoolArray) -> Known:
        """Some of the rows."""
        return Known(self.vectors[rows], self.success[rows], self.cost_usd[rows])

    def of_tiers(self, tiers: Sequence[int]) -> Known:
        """The same rows with some of the tiers."""
        return Known(self.vectors, self.success[:, tiers], self.cost_usd[:, tiers])


@dataclass(frozen=True, slots=True)
class Rival:
    """A way to predict: ``predict(known, asked, settings)`` gives one prediction a setting."""

    settings: Sequence[Any]
    predict: Callable[[Known, Float32Array, Sequence[Any]], Sequence[Predicted]]
    says: Callable[[Any], str]


def route(rival: Rival, train: Known, fold: IntArray, asked: Float32Array) -> tuple[Held, str]:
    """Its predictions with the setting that decides best on the training rows, and that setting.

    ``fold`` (n,) divides the training rows, ``asked`` (m, d) are the held-out queries.
    """
    shape = (len(rival.settings), *train.success.shape)
    p, cost = np.empty(shape), np.empty(shape)
    for number in np.unique(fold):
        outside = fold == number
        found = rival.predict(train.take(~outside), train.vectors[outside], rival.settings)
        for i, predicted in enumerate(found):
            p[i, outside], cost[i, outside] = predicted
    s, c = train.success, train.cost_usd
    values = [
        metrics.mean_mix_ratio((p[i], cost[i], s), (p[i], cost[i], s, c)).mean
        for i in range(len(rival.settings))
    ]
    best = int(np.argmin(values))
    setting = rival.settings[best]
    ((p_held, cost_held),) = rival.predict(train, asked, [setting])
    return Held(p[best], cost[best], p_held, cost_held), rival.says(setting)


def nearest_neighbours(
    train: Known, asked: Float32Array, settings: Sequence[int]
) -> list[Predicted]:
    """Means over the k rows of greatest cosine similarity, for every k."""
    most = min(max(settings), len(train.vectors))
    similarity = asked @ train.vectors.T
    near = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
    order = np.argsort(-np.take_along_axis(similarity, near, axis=1), axis=1, kind="stable")
    near = np.take_along_axis(near, order, axis=1)
    return [
        (train.success[near[:, :k]].mean(axis=1), train.cost_usd[near[:, :k]].mean(axis=1))
        for k in settings
    ]


def clusters(train: Known, asked: Float32Array, settings: Sequence[int]) -> list[Predicted]:
    """Averages of each k-means cluster: of the nearest one, or the mean of the m nearest ones'."""
    means = KMeans(min(N_CLUSTERS, len(train.vectors)), n_init=1, random_state=0)
    with warnings.catch_warnings():
        # Duplicate queries may leave fewer clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        home = means.fit_predict(train.vectors)
    used = np.unique(home)
    success = np.array([train.success[home == cluster].mean(axis=0) for cluster in used])
    cost = np.array([train.cost_usd[home == cluster].mean(axis=0) for cluster in used])
    near = means.transform(asked)[:, used].argsort(axis=1)
    return [(success[near[:, :m]].mean(axis=1), cost[near[:, :m]].mean(axis=1)) for m in settings]


def win_rate(train: Known, asked: Float32Array, settings: Sequence[float]) -> list[Predicted]:
    """Of a cheap and a strong tier: P(the strong one succeeds more), whose price is the unit.

    lambda is then 1 / the threshold on the win rate.
    """
    wins = train.success[:, 1] > train.success[:, 0]
    cost = np.tile([0.0, 1.0], (len(asked), 1))
    return [
        (
            np.column_stack(
                [np.zeros(len(asked)), _logistic(train.vectors, wins, asked, strength)]
            ),
            cost,
        )
        for strength in settings
    ]


def logistic_heads(
    train: Known, asked: Float32Array, settings: Sequence[tuple[float, str]]
) -> list[Predicted]:
    """A logistic regression per tier, and mean or regressed cost."""
    cost = {
        MEAN_COST: np.tile(train.cost_usd.mean(axis=0), (len(asked), 1)),
        LOG_COST: _log_cost(train, asked),
    }
    p = {
        strength: np.column_stack(
            [_logistic(train.vectors, s >= 0.5, asked, strength) for s in train.success.T]
        )
        for strength in {strength for strength, _ in settings}
    }
    return [(p[strength], cost[kind]) for strength, kind in settings]


def _logistic(
    vectors: Float32Array, label: BoolArray, asked: Float32Array, strength: float
) -> FloatArray:
    if label.all() or not label.any():
        return np.full(len(asked), float(label[0]))
    model = LogisticRegression(C=strength, max_iter=1000).fit(vectors, label)
    p: FloatArray = model.predict_proba(asked)[:, 1].astype(np.float64)
    return p


def _log_cost(train: Known, asked: Float32Array) -> FloatArray:
    """E[cost] by ridge on its log, the penalty by leave-one-out error, scaled to the same sum."""
    cost = train.cost_usd
    least = np.where(cost > 0, cost, np.inf).min(axis=0)
    log_cost = np.log(np.maximum(cost, 0.1 * np.where(np.isfinite(least), least, 1.0)))
    model = RidgeCV(RIDGE_PENALTIES, alpha_per_target=True).fit(train.vectors, log_cost)
    low, high = log_cost.min(axis=0), log_cost.max(axis=0)
    fitted = np.exp(np.clip(model.predict(train.vectors), low, high))
    smear = cost.sum(axis=0) / fitted.sum(axis=0)
    expected: FloatArray = smear * np.exp(np.clip(model.predict(asked), low, high))
    return expected


# Settings to choose from. Regularisation strengths are those for vectors of unit length.
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
RIVALS: dict[str, Rival] = {
    KNN: Rival((5, 10, 20, 40, 80, 160, 320, 640), nearest_neighbours, lambda k: f"k = {k}"),
    CLUSTERS: Rival((1, 2, 4, 8, 16), clusters, lambda m: f"nearest {m}"),
    LOGISTIC: Rival(
        tuple(itertools.product(STRENGTHS, (MEAN_COST, LOG_COST))),
        logistic_heads,
        lambda setting: f"C = {setting[0]:g}, {setting[1]}",
    ),
}
_WIN_RATE = Rival(STRENGTHS, win_rate, lambda strength: f"C = {strength:g}")


def cheapest_and_strongest(train: Known) -> list[int]:
    """The tiers of least mean cost and, of the others, of greatest success rate."""
    order = train.cost_usd.mean(axis=0).argsort(kind="stable").tolist()
    rates = train.success.mean(axis=0)
    return [order[0], max(order[1:], key=lambda tier: float(rates[tier]))]


def win_rate_threshold(
    train: Known, fold: IntArray, asked: Float32Array
) -> tuple[list[int], Held, str]:
    """The pair of tiers it decides between, its predictions (n, 2) for them, and its setting."""
    pair = cheapest_and_strongest(train)
    found, setting = route(_WIN_RATE, train.of_tiers(pair), fold, asked)
    return pair, found, setting


def among_all(pair: Sequence[int], found: Held, n_tiers: int) -> Held:
    """Predictions (n, 2) of a pair as (n, T), with every other tier too dear to be chosen."""

    def spread(values: FloatArray, other: float) -> FloatArray:
        result = np.full((len(values), n_tiers), other)
        result[:, pair] = values
        return result

    return Held(
        spread(found.p_train, 0.0),
        spread(found.cost_train, 2.0),
        spread(found.p_held, 0.0),
        spread(found.cost_held, 2.0),
    )


@dataclass(frozen=True, slots=True)
class KeywordPoint:
    """The heuristic's mix ratio on held-out rows, and its success rate on the training rows."""

    ratio: float
    train_success: float
    setting: str


def keyword(rows: OutcomeTable, held: OutcomeTable) -> KeywordPoint:
    """The thresholds are those of least mix ratio on the training rows, its own among them."""
    names = rows.tiers.names
    cheapest_first = [names[tier] for tier in rows.cost_usd.mean(axis=0).argsort()]
    tiers = KeywordRouter.for_tiers(cheapest_first).tiers

    def ratio_and_success(table: OutcomeTable, router: KeywordRouter) -> tuple[float, float]:
        dist = baselines.keyword(table.query.tolist(), names, router)
        cost, success = table.cost_usd, table.success
        mean_cost = metrics.mean_cost(metrics.expected_outcome(dist, cost))
        rate = metrics.success_rate(metrics.expected_outcome(dist, success))
        ratio, _ = metrics.mix_ratio_of_means(
            mean_cost, rate, metrics.tier_means(cost), metrics.tier_means(success)
        )
        return ratio, rate

    routers = {
        f"high >= {high}, low >= {low}, under {short} words": KeywordRouter(
            tiers=tiers, min_high=high, min_low=low, short_words=short
        )
        for high, low, short in itertools.product((2, 1, 3), (1, 2), (50, 200))
    }
    trained = {name: ratio_and_success(rows, router) for name, router in routers.items()}
    best = min(trained, key=lambda name: trained[name][0])
    ratio, _ = ratio_and_success(held, routers[best])
    return KeywordPoint(ratio, trained[best][1], best)
