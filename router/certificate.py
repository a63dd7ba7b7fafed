"""Is a success floor met with the stated confidence? Tests, bounds and the fixed sequence.

The floor is certified by Learn-then-Test with a fixed sequence (Angelopoulos et al., arXiv
2110.01052): candidates are ordered from the safest down without looking at any outcome, each is
tested, the chain stops at the first failure, and everything that passed is certified at once. A 0/1
absolute floor uses the exact binomial tail; anything else a betting bound for bounded means
(Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86, 2024), which needs no distribution and no large n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from router.policy import SAME_RATE

FloatArray = npt.NDArray[np.float64]

# No bet may lose more than this share of the wealth on one row.
_MAX_BET = 0.75
# The standard normal quantile of 80 % power.
_Z_POWER = 0.8416


def binomial_tail_p(successes: int, n: int, floor: float) -> float:
    """P(Binomial(n, floor) >= successes): the exact p-value of "the true rate is below floor".

    >>> round(binomial_tail_p(10, 10, 0.5), 6)  # 0.5 ** 10
    0.000977
    """
    if successes <= 0 or floor >= 1:
        return 1.0
    if floor <= 0:
        return 0.0
    k = np.arange(successes, n + 1, dtype=float)
    first = (
        math.lgamma(n + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(n - successes + 1)
        + successes * math.log(floor)
        + (n - successes) * math.log1p(-floor)
    )
    steps = np.log((n - k[:-1]) / (k[:-1] + 1)) + math.log(floor) - math.log1p(-floor)
    log_terms = first + np.concatenate([[0.0], np.cumsum(steps)])
    top = float(log_terms.max())
    return min(1.0, math.exp(top) * float(np.exp(log_terms - top).sum()))


def log_wealth(x: FloatArray, mean: float, delta: float) -> float:
    """Largest log wealth of a gambler who bets that the mean of ``x`` in [0, 1] exceeds ``mean``.

    W_t = prod_{i<=t} (1 + b_i (x_i - mean)), with the bet b_i sized by the rows before it for a
    test of n rows at level ``delta``: b_i = sqrt(2 log(1/delta) / (n var_{i-1})), var the running
    variance started at 1/4 (the predictable plug-in of Waudby-Smith and Ramdas, eq. 15 and 26).
    While the true mean is at most ``mean`` this is a supermartingale, so by Ville's inequality
    P(max_t W_t >= 1/delta) <= delta. The order of ``x`` must not depend on its values.
    """
    return _best_log_wealth(x, mean, _bets(x, delta))


def _bets(x: FloatArray, delta: float) -> FloatArray:
    count = np.arange(1, len(x) + 1)
    running_mean = (0.5 + np.cumsum(x)) / (count + 1)
    variance = (0.25 + np.cumsum((x - running_mean) ** 2)) / (count + 1)
    before = np.concatenate(([0.25], variance[:-1]))
    bets: FloatArray = np.sqrt(2.0 * math.log(1.0 / delta) / (len(x) * before))
    return bets


def _best_log_wealth(x: FloatArray, mean: float, bets: FloatArray) -> float:
    if mean <= 0.0:
        return math.inf
    bet = np.minimum(bets, _MAX_BET / mean)
    return float(np.cumsum(np.log1p(bet * (x - mean))).max(initial=0.0))


def mean_exceeds(x: FloatArray, mean: float, delta: float) -> bool:
    """Is "the mean of ``x`` (values in [0, 1]) is at most ``mean``" rejected at level delta?"""
    return len(x) > 0 and log_wealth(x, mean, delta) >= math.log(1.0 / delta)


def betting_lower(x: FloatArray, low: float, high: float, alpha: float) -> float:
    """Lower confidence bound of the mean of iid data bounded in [low, high]; -inf if refused.

    The true mean is below the bound with probability at most ``alpha``. A value above ``high`` is
    lowered to it, which can only lower the bound; a value below ``low`` breaks the assumption, and
    the bound is then -inf.
    """
    if len(x) == 0 or float(x.min()) < low:
        return -math.inf
    if high <= low:
        return low
    unit = np.minimum((x - low) / (high - low), 1.0)
    # The wealth falls in the mean, so that halving finds where the test turns.
    bets, evidence = _bets(unit, alpha), math.log(1.0 / alpha)
    if _best_log_wealth(unit, 1e-12, bets) < evidence:
        return low
    inside, outside = 0.0, float(unit.mean())
    for _ in range(40):
        middle = 0.5 * (inside + outside)
        if _best_log_wealth(unit, middle, bets) >= evidence:
            inside = middle
        else:
            outside = middle
    return low + inside * (high - low)


def betting_upper(x: FloatArray, low: float, high: float, alpha: float) -> float:
    """Upper confidence bound of the mean of iid data bounded in [low, high]; +inf if refused.

    The mirror image of ``betting_lower``.
    """
    return -betting_lower(-np.asarray(x), -high, -low, alpha)


def is_binary(x: FloatArray) -> bool:
    """True where every value is 0 or 1, so that a binomial test is exact."""
    return bool(((x == 0.0) | (x == 1.0)).all())


def relative_words(name: str, margin: float) -> str:
    """A relative floor in words.

    >>> relative_words("frontier", -0.05), relative_words("frontier", 0.0)
    ('success rate >= that of frontier - 0.05', 'success rate >= that of frontier')
    """
    return f"success rate >= that of {name}" + (f" - {abs(margin):g}" if margin else "")


@dataclass(frozen=True, slots=True)
class Floor:
    """A success floor: absolute, or relative to a tier (``margin`` is then at most 0).

    >>> Floor(rate=0.9).describe(("nano", "frontier"))
    'success rate >= 0.9'
    >>> Floor(margin=-0.05, relative_to=1).describe(("nano", "frontier"))
    'success rate >= that of frontier - 0.05'
    """

    rate: float | None = None
    margin: float = 0.0
    relative_to: int | None = None

    def describe(self, names: tuple[str, ...]) -> str:
        """In words."""
        if self.relative_to is None:
            return f"success rate >= {self.rate:g}"
        return relative_words(names[self.relative_to], self.margin)

    def terms(
        self, policy_success: FloatArray, tier_success: FloatArray, max_weight: float = 1.0
    ) -> tuple[FloatArray, float]:
        """(x, m) with x in [0, 1]: the floor holds exactly if the mean of x is at least m.

        ``policy_success`` (n,) is the expected success of the policy on each row, ``tier_success``
        (n, T) that of every tier. Where only the logged tier's outcome is known, both are doubly
        robust terms q + w (s - q) with q and s in [0, 1] and weights w of at most ``max_weight`` W:
        they lie in [1 - W, W], and differences of two policies in [-W, W]. Known outcomes are the
        case W = 1.
        """
        if self.relative_to is None:
            assert self.rate is not None
            lowest, width = 1.0 - max_weight, 2.0 * max_weight - 1.0
            return (policy_success - lowest) / width, (self.rate - lowest) / width
        difference = policy_success - tier_success[:, self.relative_to]
        return (difference / max_weight + 1.0) / 2.0, (1.0 + self.margin / max_weight) / 2.0

    def passes(
        self,
        policy_success: FloatArray,
        tier_success: FloatArray,
        delta: float,
        *,
        randomised: bool = False,
        max_weight: float = 1.0,
    ) -> bool:
        """Is the floor certified for this policy at level ``delta``?

        A ``randomised`` policy has fractional expected success, whatever these rows happen to show.
        ``max_weight`` is that of ``terms``; a term that breaks its promise certifies nothing.

        For an absolute floor the rows themselves say which test is due: the binomial one where all
        are 0 or 1. Where success can be nothing else, that one is always taken and the level is
        exact. Where a share q of requests has a fraction, the binomial test is taken wrongly only
        if none of n rows has one. Even then it rejects no more often than it does for coins that
        come up with probability x, which are binomial and agree with rows of 0 and 1. So the level
        is at most delta + min(delta, (1 - q)^n): beyond about 5 / q rows it is delta for all that
        matters, and between, betting leaves about a third unused.
        """
        x, mean = self.terms(policy_success, tier_success, max_weight)
        if len(x) == 0 or not (x.min() >= -SAME_RATE and x.max() <= 1.0 + SAME_RATE):
            return False
        if self.relative_to is None and not randomised and max_weight == 1.0 and is_binary(x):
            return binomial_tail_p(int(x.sum()), len(x), mean) <= delta
        return mean_exceeds(x, mean, delta)

    def rows_needed(
        self,
        policy_success: FloatArray,
        tier_success: FloatArray,
        delta: float,
        *,
        randomised: bool = False,
        max_weight: float = 1.0,
    ) -> int | None:
        """About how many calibration rows like these certify the floor with 80 % power."""
        x, mean = self.terms(policy_success, tier_success, max_weight)
        whole = self.relative_to is None and not randomised and max_weight == 1.0
        binary = whole and is_binary(x)
        return rows_needed(x, mean, delta, binary=binary)


def rows_needed(
    x: FloatArray, mean: float, delta: float, *, binary: bool, start: float | None = None
) -> int | None:
    """About how many rows like these certify "mean of x > ``mean``" with 80 % power.

    Takes the observed values for the truth. None where their mean is not above ``mean``: then no
    number of rows would do. Binary data: the normal approximation of the exact binomial test. Else
    the least n at which the log wealth of the bets above, taken as normal, is probably enough;
    ``start`` is the variance that the bets start from, where it is not that of the bets above.
    """
    if len(x) == 0:
        return None
    gap, spread = float(x.mean()) - mean, float(x.std())
    # A mean that is above by rounding only is not above.
    if gap <= SAME_RATE:
        return None
    if binary:
        z_level = NormalDist().inv_cdf(1.0 - delta)
        root = z_level * math.sqrt(mean * (1 - mean)) + _Z_POWER * spread
        return math.ceil((root / gap) ** 2 + 1.0 / gap)
    # The mean log growth that a row brings per unit bet: nearly straight in the bet.
    bets = _MAX_BET / mean * np.concatenate(([0.0], np.geomspace(1e-3, 1.0, 20)))
    growth = np.array([gap] + [float(np.log1p(b * (x - mean)).mean()) / b for b in bets[1:]])
    # What the variance starts from: 1/4, and the running mean's way from 1/2 to the true mean.
    if start is None:
        start = 0.25 + (math.pi**2 / 6 - 1) * (float(x.mean()) - 0.5) ** 2
    evidence = math.log(1.0 / delta)

    def enough(rows: int) -> bool:
        n = float(rows)
        row = np.exp(np.linspace(0.0, math.log(n), 64))
        variance = (start + (row - 1.0) * spread**2) / row
        bet = np.minimum(np.sqrt(2.0 * evidence / (n * variance)), bets[-1])
        each = np.stack((np.interp(bet, bets, growth) * bet, (bet * spread) ** 2))
        # Sums over the rows 1 to n, by trapezia between some of them.
        drift, noise = np.trapezoid(each, row) + 0.5 * (each[:, 0] + each[:, -1])
        return bool(drift - evidence >= _Z_POWER * math.sqrt(noise))

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    # "About" is within one percent.
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
