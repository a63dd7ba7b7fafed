"""Confidence intervals of a mean and of a ratio of means, for independent observations.

Two kinds, for two kinds of values:

- ``betting_interval`` for values in a range known beforehand: it holds at every n and for every
  distribution in that range, rare values of great weight included (Waudby-Smith and Ramdas, J. R.
  Stat. Soc. B 86, 2024), and pays for it by being wider where the range is.
- ``likelihood_interval`` for values without a useful bound, and for ratios: empirical likelihood
  (Owen, Biometrika 75, 1988; Qin and Lawless, Ann. Stat. 22, 1994). It follows skewed data where a
  normal interval is symmetric, and needs enough effective rows: it holds in the long run only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import t as student

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]

# No bet may lose more than this share of the wealth on one value.
_MAX_BET = 0.75
# Above this many values intervals are taken over means of blocks of them.
_MAX_VALUES = 100_000
# How far out an end is looked for, in widenings by half of the distance from the estimate.
_MAX_WIDENINGS = 60


def betting_interval(
    values: FloatArray,
    low: float,
    high: float,
    confidence: float,
    *,
    variance: float | None = None,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of independent ``values`` (n,) in [low, high], by betting; both sides.

    A gambler bets against every candidate mean m: W_t = prod (1 + b_i (x_i - m)). At the true mean
    W is a martingale, so that it reaches 2 / alpha with probability at most alpha / 2, on either
    side. Bets are sized by the values before: b_i = sqrt(2 log(2 / alpha) / (n var_{i-1})), with
    the running variance starting from the guess ``variance`` (default: the largest there can be,
    (high - low)^2 / 4). A good guess narrows the interval, and no guess makes it wrong. ``seed``
    shuffles, since the order of the values must not depend on them.

    An end that cannot hold, because a value lies beyond the range, is infinite.

    >>> low, high = betting_interval(np.full(500, 0.5), 0.0, 1.0, 0.95)
    >>> low < 0.5 < high and high - low < 0.1
    True
    """
    order = np.random.default_rng(seed).permutation(len(values))
    values = in_blocks(values[order])
    if variance is None:
        variance = (high - low) ** 2 / 4
    alpha = 1.0 - confidence
    lower = _betting_lower(values, low, high, alpha / 2, variance)
    return lower, -_betting_lower(-values, -high, -low, alpha / 2, variance)


def _betting_lower(
    values: FloatArray, low: float, high: float, alpha: float, variance: float
) -> float:
    if float(values.min()) < low:
        return -math.inf
    # Lowering a value can only lower the bound.
    values = np.minimum(values, high)
    count = np.arange(1, len(values) + 1)
    running_mean = np.cumsum(values) / count
    spread = (variance + np.cumsum((values - running_mean) ** 2)) / (count + 1)
    before = np.concatenate(([variance], spread[:-1]))
    bets = np.sqrt(2.0 * math.log(1.0 / alpha) / (len(values) * np.maximum(before, 1e-300)))
    evidence = math.log(1.0 / alpha)

    def rejected(mean: float) -> bool:
        bet = np.minimum(bets, _MAX_BET / (mean - low)) if mean > low else bets
        return float(np.cumsum(np.log1p(bet * (values - mean))).max()) >= evidence

    inside, outside = low, float(values.mean())
    if outside <= low or not rejected(low + 1e-12 * (outside - low)):
        return low
    # The wealth falls in the mean, so that halving finds where the test turns.
    for _ in range(30):
        middle = 0.5 * (inside + outside)
        if rejected(middle):
            inside = middle
        else:
            outside = middle
    return inside


def likelihood_interval(
    numerator: FloatArray, denominator: FloatArray | None, confidence: float, ess: float
) -> Interval:
    """Interval of mean(numerator) / mean(denominator), both (n,), by empirical likelihood.

    Inverts the test of "the mean of z = numerator - ratio * denominator is 0": a ratio is rejected
    where max_l sum_i log(1 + l z_i) exceeds t^2 / 2, t the quantile of Student's distribution with
    ``ess`` - 1 degrees of freedom (``ess`` effective rows). Without a denominator it is the
    interval of a mean. As by Fieller's method, an end is infinite where the denominator cannot be
    told from 0; unlike it, the interval follows the skewness of the data.

    >>> x = np.random.default_rng(0).exponential(size=100)
    >>> low, high = likelihood_interval(x, None, 0.95, 100)
    >>> low < 1 < high, bool(high - x.mean() > x.mean() - low)
    (True, True)
    """
    if denominator is None:
        denominator = np.ones(len(numerator))
    pairs = in_blocks(np.column_stack((numerator, denominator)))
    numerator, denominator = pairs[:, 0], pairs[:, 1]
    bottom = float(denominator.mean())
    if bottom <= 0:
        return -math.inf, math.inf
    estimate = float(numerator.mean()) / bottom
    rest = numerator - estimate * denominator
    error = float(rest.std()) / math.sqrt(len(rest)) / bottom
    if error <= 1e-12 * abs(estimate):
        return estimate, estimate
    limit = _evidence(confidence, ess)

    def excess(ratio: float) -> float:
        return min(log_likelihood_ratio(numerator - ratio * denominator), 1e3 * limit) - limit

    def end(direction: int) -> float:
        near, far = 0.0, 2.0 * error
        for _ in range(_MAX_WIDENINGS):
            if excess(estimate + direction * far) > 0:
                where: float = brentq(
                    lambda step: excess(estimate + direction * step),
                    near,
                    far,
                    xtol=1e-4 * error,
                    rtol=1e-4,
                )
                return estimate + direction * where
            near, far = far, 1.5 * far
        return direction * math.inf

    return end(-1), end(1)


def mean_is(values: FloatArray, mean: float, confidence: float, ess: float) -> bool:
    """Whether ``mean`` lies inside the ``likelihood_interval`` of the values (n,): one test of it.

    >>> mean_is(np.array([0.0, 1.0, 1.0, 0.0]), 0.5, 0.95, 4), mean_is(np.ones(4), 0.5, 0.95, 4)
    (True, False)
    """
    return log_likelihood_ratio(in_blocks(values) - mean) <= _evidence(confidence, ess)


def _evidence(confidence: float, ess: float) -> float:
    """The log likelihood that a value inside the interval may lose at most."""
    return float(student.ppf(0.5 + confidence / 2, max(ess - 1.0, 1.0))) ** 2 / 2


def log_likelihood_ratio(z: FloatArray) -> float:
    """Max over l of sum_i log(1 + l z_i), for z (n,): evidence that the mean of z is not 0.

    It is the empirical log likelihood lost by forcing the mean to 0; infinite where all values lie
    on one side of 0. Twice it is about chi-square with one degree of freedom.

    >>> log_likelihood_ratio(np.array([-1.0, 1.0])), log_likelihood_ratio(np.array([1.0, 2.0]))
    (0.0, inf)
    """
    low, high = float(z.min()), float(z.max())
    if low == high == 0.0:
        return 0.0
    if low >= 0.0 or high <= 0.0:
        return math.inf
    # The sum is concave in l: Newton's steps, halving where one leaves the bracket.
    below, above, at = -1.0 / high, -1.0 / low, 0.0
    for _ in range(100):
        part = z / (1.0 + at * z)
        slope, curvature = float(part.sum()), float((part * part).sum())
        if slope > 0:
            below = at
        else:
            above = at
        step = slope / curvature
        if abs(step * slope) < 1e-10:
            break
        at = at + step if below < at + step < above else 0.5 * (below + above)
    return max(0.0, float(np.log1p(at * z).sum()))


def in_blocks(values: FloatArray) -> FloatArray:
    """Means of blocks of equal size once there are more than 100,000 values; (n, ...) -> (m, ...).

    Independent values have independent block means of the same mean, in the same range; up to one
    block of values is left over.
    """
    size = -(-len(values) // _MAX_VALUES)
    if size == 1:
        return values
    n_blocks = len(values) // size
    whole = values[: n_blocks * size]
    result: FloatArray = whole.reshape(n_blocks, size, *values.shape[1:]).mean(axis=1)
    return result
