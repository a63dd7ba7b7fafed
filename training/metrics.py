"""What a policy is worth: pure functions of arrays, each formula in this one place.

Shapes: ``n`` requests, ``T`` tiers. Outcomes are ``cost_usd`` and ``success`` (0..1), of shape
(n, T) with every entry known, or (n,) for one policy; predictions are ``p_success`` and
``expected_cost_usd`` (n, T). No function here draws a picture or reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from router.policy import SAME_RATE, Mix, cheapest_mix, choose, mix_hull, value_sweep

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Interval = tuple[float, float]

# A tier that is likelier to succeed by less than this is not worth a success value of its own.
_LEAST_GAIN = 1e-9
# The cost-success curve's success values come from at most this many rows.
_MAX_SWEEP_ROWS = 100_000
# Where the floors of the mean mix ratio lie on the way from the weakest to the strongest tier.
FLOOR_RANGE = 0.10, 0.98


def expected_outcome(action_dist: FloatArray, outcome: FloatArray) -> FloatArray:
    """Expected outcome of a policy on every request: sum_t pi(t|x) y(x, t), shape (n,).

    ``action_dist`` and ``outcome`` are (n, T), the rows of ``action_dist`` sum to 1. Where every
    tier's outcome is known this is exact, and a coin-flip policy needs no coin.

    >>> expected_outcome(np.array([[0.25, 0.75]]), np.array([[1.0, 3.0]])).tolist()
    [2.5]
    """
    result: FloatArray = np.einsum("ij,ij->i", action_dist, outcome)
    return result


def success_rate(success: FloatArray) -> float:
    """Mean success, (1/n) sum_i s_i. ``success`` is (n,), n >= 1, in [0, 1]; so is the result.

    >>> success_rate(np.array([1.0, 0.0, 0.5]))
    0.5
    """
    return float(success.mean())


def mean_cost(cost_usd: FloatArray) -> float:
    """Mean cost in USD per request, (1/n) sum_i c_i. ``cost_usd`` is (n,), n >= 1.

    >>> mean_cost(np.array([0.25, 0.75]))
    0.5
    """
    return float(cost_usd.mean())


def dollar_ratio(expected_usd: FloatArray, logged_usd: FloatArray) -> float | None:
    """Expected over logged dollars, sum_i e_i / sum_i c_i, both (n,); None where nothing was paid.

    >>> dollar_ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    0.75
    """
    logged = float(logged_usd.sum())
    return float(expected_usd.sum()) / logged if logged > 0 else None


@overload
def saved_share(cost_usd: float, baseline_usd: float) -> float: ...
@overload
def saved_share(cost_usd: FloatArray, baseline_usd: FloatArray) -> FloatArray: ...
def saved_share(
    cost_usd: float | FloatArray, baseline_usd: float | FloatArray
) -> float | FloatArray:
    """Share of a baseline's cost that is saved, 1 - c / b; -inf where the baseline is free.

    >>> saved_share(1.0, 4.0)
    0.75
    """
    cost, baseline = np.asarray(cost_usd, dtype=float), np.asarray(baseline_usd, dtype=float)
    paid = baseline > 0
    share = np.where(paid, 1.0 - cost / np.where(paid, baseline, 1.0), -np.inf)
    return float(share) if share.ndim == 0 else share


def tier_means(outcome: FloatArray) -> FloatArray:
    """Mean of every tier's column, (n, T) -> (T,), with the rounding of ``mean`` on one column.

    >>> tier_means(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist()
    [0.5, 1.0]
    """
    result: FloatArray = np.ascontiguousarray(outcome.T).mean(axis=1)
    return result


@dataclass(frozen=True, slots=True)
class MixRatio:
    """A router's cost against the cheapest coin-flip between single tiers at its success rate.

    ``mix`` is that coin-flip. ``above_best``: the router succeeds more often than every tier, and
    is compared with the best one. ``near_kink``: a corner of the hull lies within two standard
    errors of the router's success rate, so that the interval of the ratio is unstable.
    """

    ratio: float
    mix: Mix
    success_rate: float
    above_best: bool
    near_kink: bool


def mix_ratio_of_means(
    router_cost_usd: float,
    router_success: float,
    tier_cost_usd: FloatArray,
    tier_success: FloatArray,
) -> tuple[float, Mix]:
    """The mix ratio from means alone (tiers' (T,)), and the mix; see ``mix_ratio``.

    >>> mix_ratio_of_means(1.0, 0.75, np.array([1.0, 3.0]), np.array([0.5, 1.0]))[0]
    0.5
    """
    nearest = float(tier_success[np.abs(tier_success - router_success).argmin()])
    target = nearest if abs(nearest - router_success) <= SAME_RATE else router_success
    mix = cheapest_mix(tier_cost_usd, tier_success, target)
    if mix.cost_usd > 0:
        return router_cost_usd / mix.cost_usd, mix
    return (math.inf if router_cost_usd > 0 else 1.0), mix


def mix_ratio(
    router_cost_usd: FloatArray,
    router_success: FloatArray,
    cost_usd: FloatArray,
    success: FloatArray,
) -> MixRatio:
    """Mix ratio: the router's mean cost / that of the cheapest mixture of single tiers.

    The mixture has a success rate of *at least* the router's. Below 1 the router earns its keep;
    a single tier on the hull has ratio 1. Above the best tier's success rate the divisor is that
    tier's cost, and ``above_best`` is set. ``inf`` where the mixture is free and the router not,
    1 where both are free.

    ``router_cost_usd``, ``router_success``: (n,), expected over the policy's own coin-flips.
    ``cost_usd``, ``success``: (n, T).

    >>> cost = np.array([[1.0, 3.0]] * 4)
    >>> success = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    >>> oracle_cost, oracle_success = np.array([1.0, 3.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0])
    >>> mix_ratio(oracle_cost, oracle_success, cost, success).ratio
    0.5
    """
    rate, tier_rates = success_rate(router_success), tier_means(success)
    tier_costs = tier_means(cost_usd)
    ratio, mix = mix_ratio_of_means(mean_cost(router_cost_usd), rate, tier_costs, tier_rates)
    hull = mix_hull(tier_costs, tier_rates)
    near = len(hull) > 1 and any(
        abs(rate - tier_rates[tier]) <= 2 * _standard_error(router_success - success[:, tier])
        for tier in hull
    )
    return MixRatio(ratio, mix, rate, not mix.reached, near)


def _standard_error(values: FloatArray) -> float:
    if len(values) < 2:
        return math.inf
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def success_values_for_floors(
    p_success: FloatArray, expected_cost_usd: FloatArray, success: FloatArray, floors: FloatArray
) -> FloatArray:
    """For every floor the smallest lambda at which ``choose`` realises a success rate >= floor.

    ``p_success``, ``expected_cost_usd``, ``success``: (n, T) of the *training* rows; ``floors``:
    (k,). Returns (k,) in USD per success. Exact: the lambdas at which some request moves to
    another tier are all followed, none of a grid. A floor that no lambda reaches gets the largest
    one, at which every request has its likeliest tier.

    >>> p, c = np.array([[0.5, 1.0], [0.9, 1.0]]), np.array([[1.0, 2.0]] * 2)
    >>> s = np.array([[0.0, 1.0], [1.0, 1.0]])
    >>> success_values_for_floors(p, c, s, np.array([0.5, 0.75, 2.0])).round(6).tolist()
    [0.0, 2.0, 10.0]
    """
    n_requests, n_tiers = p_success.shape
    rows = np.arange(n_requests)
    tier = choose(p_success, expected_cost_usd, 0.0)
    start = float(success[rows, tier].sum())
    moves: list[FloatArray] = []
    changes: list[FloatArray] = []
    at = np.zeros(n_requests)
    for _ in range(n_tiers - 1):
        # The lower envelope of the lines c_t - lambda p_t: which line is met next?
        gain = p_success - p_success[rows, tier][:, None]
        extra = expected_cost_usd - expected_cost_usd[rows, tier][:, None]
        better = gain > _LEAST_GAIN
        meets = np.where(better, extra / np.where(better, gain, 1.0), np.inf)
        # Of lines met at once the steepest stays lowest.
        first = np.where(meets == meets.min(axis=1, keepdims=True), p_success, -np.inf)
        following = first.argmax(axis=1)
        moved = better.any(axis=1)
        at = np.maximum(at, np.where(moved, meets[rows, following], 0.0))
        moves.append(at[moved])
        changes.append((success[rows, following] - success[rows, tier])[moved])
        tier = np.where(moved, following, tier)
    points = np.concatenate([np.full(1, -1.0), *moves])
    totals = np.concatenate([np.array([start]), *changes])
    order = np.argsort(points, kind="stable")
    points, totals = points[order], np.cumsum(totals[order])
    # Requests that move at the same lambda move together.
    last = np.append(points[1:] > points[:-1], True)
    points, rates = points[last], totals[last] / n_requests
    # A hair above the point, so that the request has moved. Before the first point lambda is 0,
    # where ``choose`` already takes the likeliest of the cheapest tiers.
    values = np.maximum(points, 0.0) * (1 + 1e-9)
    reached = rates[None, :] >= floors[:, None] - SAME_RATE
    result: FloatArray = np.where(reached.any(axis=1), values[reached.argmax(axis=1)], values[-1])
    return result


def recentred(p_success: FloatArray, success: FloatArray) -> FloatArray:
    """P(success) (n, T) moved so that every tier's mean is what it realised on the same rows.

    >>> recentred(np.array([[0.2], [0.4]]), np.array([[0.0], [1.0]])).round(6).tolist()
    [[0.4], [0.6]]
    """
    return p_success + (tier_means(success) - tier_means(p_success))


@dataclass(frozen=True, slots=True)
class MeanMixRatio:
    """``mean`` of the mix ``ratios`` at ``floors``, and the ``success_values_usd`` chosen; (k,)."""

    mean: float
    floors: FloatArray
    success_values_usd: FloatArray
    ratios: FloatArray

    @property
    def median(self) -> float:
        """Of the ratios: what one floor near a kink does not move."""
        return float(np.median(self.ratios))


def mean_mix_ratio(
    train: tuple[FloatArray, FloatArray, FloatArray],
    test: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    n_floors: int = 20,
) -> MeanMixRatio:
    """Mean mix ratio over success floors from 10 % to 98 % of the way from weakest to strongest.

    ``train`` = (p_success, expected_cost_usd, success), ``test`` = (p_success, expected_cost_usd,
    success, cost_usd); all (n, T), the two of different n. Weakest and strongest are the least and
    the greatest success rate of a tier on the training rows. Lambda for each floor is the smallest
    at which the success *expected* of the training rows reaches it (``recentred`` on what every
    tier realised there: the noise of single labels does not pick a lambda); the ratio is taken
    at the success rate which that lambda realises on the test rows, and is not capped at 1. Only
    tiers by lambda, no coin-flips.

    >>> p, c = np.array([[0.5, 1.0], [1.0, 1.0]] * 5), np.array([[1.0, 2.0]] * 10)
    >>> result = mean_mix_ratio((p, c, p.round()), (p, c, p.round(), c))
    >>> round(result.mean, 4)  # cost 1.5 where the coin-flip pays 2
    0.75
    """
    p_train, expected_train, success_train = train
    p_test, expected_test, success_test, cost_test = test
    tier_rates = tier_means(success_train)
    weakest, strongest = float(tier_rates.min()), float(tier_rates.max())
    floors = weakest + np.linspace(*FLOOR_RANGE, n_floors) * (strongest - weakest)
    expected_success = recentred(p_train, success_train)
    values = success_values_for_floors(p_train, expected_train, expected_success, floors)
    tier_costs, tier_rates = tier_means(cost_test), tier_means(success_test)
    rows = np.arange(len(p_test))
    # Neighbouring floors often share their lambda.
    ratio_of: dict[float, float] = {}
    for value in np.unique(values).tolist():
        tier = choose(p_test, expected_test, value)
        cost, success = mean_cost(cost_test[rows, tier]), success_rate(success_test[rows, tier])
        ratio_of[value] = mix_ratio_of_means(cost, success, tier_costs, tier_rates)[0]
    ratios = np.array([ratio_of[value] for value in values.tolist()])
    return MeanMixRatio(float(ratios.mean()), floors, values, ratios)


@dataclass(frozen=True, slots=True)
class Frontier:
    """The cost-success curve traced by lambda (``success_values_usd``, descending); all (k,)."""

    success_values_usd: FloatArray
    cost_usd: FloatArray
    success_rate: FloatArray


def frontier(
    p_success: FloatArray,
    expected_cost_usd: FloatArray,
    success: FloatArray,
    cost_usd: FloatArray,
    n_values: int = 64,
) -> Frontier:
    """Realised mean cost (USD per request) and success rate at every lambda of the sweep.

    All arguments (n, T); decisions are made from the first two, the outcomes are the last two.

    >>> p, c = np.array([[0.5, 1.0]]), np.array([[1.0, 2.0]])
    >>> curve = frontier(p, c, np.array([[0.0, 1.0]]), c)
    >>> curve.cost_usd.tolist(), curve.success_rate.tolist()
    ([2.0, 1.0], [1.0, 0.0])
    """
    step = -(-len(p_success) // _MAX_SWEEP_ROWS)
    values = value_sweep(p_success[::step], expected_cost_usd[::step], n_values)
    rows = np.arange(len(p_success))
    costs, rates = np.empty(len(values)), np.empty(len(values))
    for i, value in enumerate(values.tolist()):
        tier = choose(p_success, expected_cost_usd, value)
        costs[i], rates[i] = mean_cost(cost_usd[rows, tier]), success_rate(success[rows, tier])
    return Frontier(values, costs, rates)


def aiq(cost_usd: FloatArray, success: FloatArray, cost_range_usd: Interval | None = None) -> float:
    """AIQ: mean height of the non-decreasing concave hull of (cost, success) over a cost range.

    AIQ = 1 / (c_max - c_min) * integral from c_min to c_max of hull(c) dc. ``cost_usd`` and
    ``success`` are the curve's points, (k,) with k >= 1. The hull is level beyond its last point
    and 0 before its first one, where the budget buys nothing. Without a range that of the points
    is taken; curves can only be compared over the same one. Over an empty range it is the hull's
    height there. In [0, 1], higher is better.
    Reference: Hu et al., RouterBench, arXiv 2403.12031, section 3.

    >>> aiq(np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    0.75
    """
    hull = mix_hull(cost_usd, success)
    x, y = cost_usd[hull], success[hull]
    low, high = cost_range_usd or (float(cost_usd.min()), float(cost_usd.max()))
    if high <= low:
        return float(np.interp(high, x, y, left=0.0))
    start = max(low, float(x[0]))
    if start >= high:
        return 0.0
    at = np.unique(np.concatenate([[start, high], x[(x > start) & (x < high)]]))
    return _area(at, np.interp(at, x, y)) / (high - low)


def apgr(score: FloatArray, success_weak: FloatArray, success_strong: FloatArray) -> float | None:
    """APGR of a two-tier router: mean share of the gap between weak and strong that it recovers.

    PGR(k) = (rate of success with the share k of requests of highest ``score`` on the strong tier
    - weak) / (strong - weak); APGR = integral of PGR(k) over k from 0 to 1. All (n,). Requests of
    equal score move together, as a coin would send them. 0.5 for a coin-flip, higher is better;
    None where the two tiers succeed equally often.
    Reference: Ong et al., RouteLLM, arXiv 2406.18665, section 2.

    >>> apgr(np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    0.75
    """
    gap = float((success_strong - success_weak).sum())
    if abs(gap) <= SAME_RATE * len(score):
        return None
    _, group, sizes = np.unique(-score, return_inverse=True, return_counts=True)
    gains = np.bincount(group.ravel(), weights=success_strong - success_weak)
    share = np.concatenate([[0.0], np.cumsum(sizes) / len(score)])
    return _area(share, np.concatenate([[0.0], np.cumsum(gains) / gap]))


def _area(x: FloatArray, y: FloatArray) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)


def auc(score: FloatArray, success: FloatArray) -> float:
    """Area under the ROC curve: P(a success scores above a failure), ties counting half.

    Both (n,). Rows of fractional success are left out. 0.5 for scores that say nothing, NaN where
    nothing or everything succeeded.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.875
    """
    whole = (success == 0.0) | (success == 1.0)
    score, success = score[whole], success[whole]
    _, group = np.unique(score, return_inverse=True)
    won = np.bincount(group, weights=success)
    lost = np.bincount(group, weights=1.0 - success)
    pairs = float(won.sum() * lost.sum())
    below = np.cumsum(lost) - lost
    return float((won * (below + lost / 2)).sum()) / pairs if pairs else math.nan


@dataclass(frozen=True, slots=True)
class CalibrationBins:
    """Equal-mass bins: mean prediction, mean success and number of requests, each (n_bins,)."""

    p_success: FloatArray
    success: FloatArray
    n: IntArray


def calibration_bins(
    p_success: FloatArray, success: FloatArray, n_bins: int = 10
) -> CalibrationBins:
    """Bins of (almost) equally many requests by predicted success; both arguments (n,), n >= 1.

    Requests of equal prediction share the mean of their successes, so that their order is of no
    effect where a bin's edge falls between them. With fewer requests than bins each has its own.

    >>> calibration_bins(np.array([0.2, 0.8]), np.array([0.0, 1.0])).success.tolist()
    [0.0, 1.0]
    """
    predicted, group, sizes = np.unique(p_success, return_inverse=True, return_counts=True)
    shared = np.bincount(group.ravel(), weights=success) / sizes
    p_sorted, y_sorted = np.repeat(predicted, sizes), np.repeat(shared, sizes)
    edges = np.linspace(0, len(p_sorted), min(n_bins, len(p_sorted)) + 1).astype(int)
    n = np.diff(edges)
    return CalibrationBins(
        np.add.reduceat(p_sorted, edges[:-1]) / n, np.add.reduceat(y_sorted, edges[:-1]) / n, n
    )


def calibration_error(p_success: FloatArray, success: FloatArray, n_bins: int = 10) -> float:
    """Expected calibration error over equal-mass bins: sum_b (n_b / n) |mean p - mean s|.

    Both (n,), n >= 1, in [0, 1]; so is the result, 0 is best. With few requests a bin it is above
    0 by chance alone, also for true probabilities.
    Reference: Nguyen and O'Connor, EMNLP 2015 (adaptive bins).

    >>> round(calibration_error(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0, 1, 1, 1.0])), 6)
    0.25
    """
    bins = calibration_bins(p_success, success, n_bins)
    return float((bins.n / bins.n.sum() * np.abs(bins.p_success - bins.success)).sum())


def bootstrap_means(
    values: FloatArray,
    n_bootstrap: int,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> FloatArray:
    """Means of every column in ``n_bootstrap`` resamples of the rows, (n, k) -> (n_bootstrap, k).

    Each resample draws n requests with replacement (multinomial weights) and takes all columns of
    a drawn request, so that differences between columns are paired. The weights are drawn for one
    block of rows at a time: memory does not grow with n. ``on_progress`` gets the rows done.
    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

    >>> bootstrap_means(np.array([[1.0, 2.0], [1.0, 2.0]]), 3, seed=0).tolist()
    [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    """
    n_rows, n_columns = values.shape
    totals = np.zeros((n_bootstrap, n_columns))
    if n_bootstrap == 0:
        return totals
    rng = np.random.default_rng(seed)
    block = max(1, 2**20 // n_bootstrap)
    left = np.full(n_bootstrap, n_rows)
    for low in range(0, n_rows, block):
        high = min(low + block, n_rows)
        # A multinomial over all rows, taken apart: first how many draws fall into this block.
        draws = rng.binomial(left, (high - low) / (n_rows - low))
        left -= draws
        cell = rng.integers(0, high - low, int(draws.sum()))
        cell += np.repeat(np.arange(n_bootstrap) * (high - low), draws)
        weights = np.bincount(cell, minlength=n_bootstrap * (high - low))
        totals += weights.reshape(n_bootstrap, high - low).astype(float) @ values[low:high]
        if on_progress is not None:
            on_progress(high)
    result: FloatArray = totals / n_rows
    return result


def percentile_interval(replicates: FloatArray, confidence: float) -> Interval | None:
    """The middle ``confidence`` of bootstrap ``replicates`` (r,), as order statistics.

    No interpolation, so that infinite replicates (a resample without success) need no special
    case. None without replicates.

    >>> percentile_interval(np.arange(1.0, 101.0), 0.9)
    (5.0, 96.0)
    """
    n = len(replicates)
    if n == 0:
        return None
    ordered = np.sort(replicates)
    # A hair off, so that 0.05 * 100 stays 5 whatever its rounding.
    outside = max(1, math.floor(n * (1 - confidence) / 2 + 1e-9))
    return float(ordered[outside - 1]), float(ordered[n - outside])
