"""What a warm prompt cache is worth: the prefix's price on each tier now, and over turns to come.

A prefix of P tokens of which w_t are warm on tier t costs there, this turn, with h the chance that
what is believed warm is read from the cache::

    now_t = h price(P, w_t read, the rest written) + (1 - h) price(P, all of it written)

Whether to stay or to move comes out of the expected cost of the turns that follow, not of a rule.
A session goes on with probability g = 1 - 1 / expected_turns after every turn. Its later queries
are taken to be like the calibration rows x: expected dollars c, P(success) p, and the tiers A(x)
that may be chosen. A state (S, l) is the set of tiers that were used and the one used last::

    V(S, l) = mean over x of min_{t in A(x)} c_t(x) - lambda p_t(x) + price_t(S, l) + g V(S + t, t)

with price_t as ``now_t``, where a tier of S is warm with the chance that it was used within its
time to live: one gap between turns ago for l, two for the others; gaps are exponential. The choice
is the tier of least ``c_t - lambda p_t + now_t + g V(S + t, t)``. That of the last turn is kept
unless another is better by more than a share of what staying costs (hysteresis), so that two tiers
that tie do not take turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from router.cache_state import survival
from router.prices import TierPrice
from router.providers.caching import CachePolicy

FloatArray = npt.NDArray[np.float64]

DEFAULT_HYSTERESIS = 0.02
# Above every model's least length.
MANY_TOKENS = 100_000
# So many calibration rows stand for the queries to come: their mean has 1/sqrt(n) of the spread.
MAX_ROWS = 128
# Above so many tiers only the last one is taken to be warm: there are T 2^(T-1) states else.
_MAX_TIERS_FOR_SETS = 4
_MAX_TURNS = 50.0
_MAX_KEPT = 4096
_TOLERANCE = 1e-4
_MAX_ROUNDS = 300

State = tuple[int, int]  # bit mask of the tiers used, the one used last


@dataclass(frozen=True, slots=True)
class CachePrices:
    """Prices and cache rules (T) of the tiers of one router; a policy of None: no cache there.

    ``later_loss_usd`` (m, T) is c - lambda p of queries that may follow, ``inf`` where a tier may
    not be chosen.
    """

    prices: tuple[TierPrice, ...]
    policies: tuple[CachePolicy | None, ...]
    later_loss_usd: FloatArray
    _worth: dict[tuple[object, ...], dict[State, float]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def prefix_usd(
        self, tier: int, n_tokens: int, warm_tokens: int, hit_rate: float = 1.0
    ) -> float:
        """Expected dollars of a prefix on a tier, of which ``warm_tokens`` are believed warm."""
        price, policy = self.prices[tier], self.policies[tier]
        cacheable = 0 if policy is None else policy.cacheable_tokens(n_tokens)
        cold = prompt_usd(price, n_tokens, 0, policy)
        read = min(warm_tokens, cacheable)
        if read == 0:
            return cold
        return hit_rate * prompt_usd(price, n_tokens, read, policy) + (1.0 - hit_rate) * cold

    def now(
        self, n_tokens: int, warm_tokens: Sequence[int], hit_rates: Sequence[float]
    ) -> list[float]:
        """Expected dollars (T) of the prefix this turn."""
        return [
            self.prefix_usd(tier, n_tokens, warm_tokens[tier], hit_rates[tier])
            for tier in range(len(self.prices))
        ]

    def worth(
        self,
        n_tokens: int,
        expected_turns: float,
        hit_rates: Sequence[float],
        mean_gap_s: float,
    ) -> dict[State, float]:
        """V(S, l) in dollars of the turns still to come; kept for requests that are alike.

        Alike: prefixes within a fifth, hit rates within a twentieth, gaps within a quarter.
        """
        turns = min(max(expected_turns, 1.0), _MAX_TURNS)
        if turns <= 1.0 or not len(self.later_loss_usd):
            return {}
        size = round(4 * math.log2(max(n_tokens, 1)))
        gap = round(3 * math.log2(max(mean_gap_s, 0.01)))
        hits = tuple(round(20 * rate) for rate in hit_rates)
        key = (size, round(turns, 1), hits, gap)
        found = self._worth.get(key)
        if found is None:
            if len(self._worth) >= _MAX_KEPT:
                self._worth.clear()
            found = self._solved(
                round(2 ** (size / 4)),
                1.0 - 1.0 / round(turns, 1),
                [h / 20 for h in hits],
                2 ** (gap / 3),
            )
            self._worth[key] = found
        return found

    def _solved(
        self,
        n_tokens: int,
        goes_on: float,
        hit_rates: Sequence[float],
        mean_gap_s: float,
    ) -> dict[State, float]:
        """The fixed point, by iteration until no *difference* between states moves."""
        n_tiers = len(self.prices)
        states = _states(n_tiers)
        place = {state: i for i, state in enumerate(states)}
        price = np.empty((len(states), n_tiers))
        after = np.empty((len(states), n_tiers), dtype=np.intp)
        for row, (used, last) in enumerate(states):
            for tier in range(n_tiers):
                policy, warm = self.policies[tier], 0.0
                if policy is not None and used >> tier & 1:
                    gaps = 1 if tier == last else 2
                    warm = hit_rates[tier] * survival(policy.ttl_s, mean_gap_s, gaps)
                price[row, tier] = self.prefix_usd(tier, n_tokens, n_tokens if warm else 0, warm)
                after[row, tier] = place[_next(used, tier, n_tiers)]
        value = np.zeros(len(states))
        spread = float(np.ptp(price)) or 1.0
        for _ in range(_MAX_ROUNDS):
            ahead = price + goes_on * value[after]
            new = (self.later_loss_usd[:, None, :] + ahead[None, :, :]).min(axis=2).mean(axis=0)
            # V itself grows with the turns to come; only its differences decide.
            change = new - value
            value = new
            if float(np.ptp(change)) <= _TOLERANCE * spread:
                break
        value -= value.min()
        return dict(zip(states, (goes_on * value).tolist(), strict=True))

    def ahead(self, used: int, worth: dict[State, float]) -> FloatArray:
        """What follows a turn on each tier (T), in dollars, where ``used`` were used before."""
        n_tiers = len(self.prices)
        return np.array([worth.get(_next(used, t, n_tiers), 0.0) for t in range(n_tiers)])


def least_loss(
    total_usd: FloatArray,
    allowed: npt.NDArray[np.bool_],
    last: int | None,
    staying_usd: FloatArray,
    hysteresis: float = DEFAULT_HYSTERESIS,
) -> npt.NDArray[np.intp]:
    """The allowed tier of least total loss (n, T) for every request, the last one if it is close.

    ``staying_usd`` (n,) is what this turn costs at the tier ``last``.

    >>> loss, every = np.array([[1.00, 0.99]]), np.array([[True, True]])
    >>> least_loss(loss, every, 0, np.array([1.0])), least_loss(loss, every, None, np.array([1.0]))
    (array([0]), array([1]))
    """
    total = np.where(allowed, total_usd, np.inf)
    best: npt.NDArray[np.intp] = total.argmin(axis=1)
    if last is None:
        return best
    gain = total[:, last] - total[np.arange(len(total)), best]
    kept: npt.NDArray[np.intp] = np.where(gain <= hysteresis * staying_usd, last, best)
    return kept


def prompt_usd(
    price: TierPrice, n_tokens: int, read_tokens: int, policy: CachePolicy | None
) -> float:
    """Dollars of a prompt's beginning: what is read, what is then written, or fresh if too short.

    NaN where the price of keeping it so long is unknown.
    """
    # A cache that is automatic and free to write does not report it; its write price is the input's
    # or the book says otherwise: the same formula for both.
    cacheable = 0 if policy is None else policy.cacheable_tokens(n_tokens)
    written = max(cacheable - read_tokens, 0)
    long_lived = written if policy is not None and policy.writes_long_lived else 0
    usd = price.cost_usd(n_tokens, 0, read_tokens, written, long_lived)
    return float(usd) - price.request_usd


def _next(used: int, tier: int, n_tiers: int) -> State:
    return (used | 1 << tier if n_tiers <= _MAX_TIERS_FOR_SETS else 1 << tier), tier


def _states(n_tiers: int) -> list[State]:
    if n_tiers > _MAX_TIERS_FOR_SETS:
        return [(1 << tier, tier) for tier in range(n_tiers)]
    return [
        (used, last)
        for used in range(1, 1 << n_tiers)
        for last in range(n_tiers)
        if used >> last & 1
    ]
