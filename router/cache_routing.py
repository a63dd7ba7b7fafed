"""Routing by price and cache: which tier, where a prefix is warm on some and not on others.

What may be chosen depends on what was promised. Without a success floor: any tier, by the
objective's success value lambda. With a certified floor the rule is certified anew, cache included,
since what a cache makes cheap draws requests to where it is warm:

1. states of the cache are told apart by the tier that served last, where most of the prefix is
   still warm there, and by the prefix's length, in steps of four. For each of them candidates are
   success values on a fixed grid, the safest first. Each is played on the calibration rows and
   tested against the floor; the first that fails ends the search, the last that passed is used in
   such states. All of them share the error 1 - confidence evenly, so that the floor holds in each,
   and in whatever mixture traffic brings.
2. in a state where none passes: the policy's own tier, whatever the cache holds.

What is served in a state is what was tested in it: the choice is made with the prices of the
state's own length and of a few turns to come, not with those of the session at hand, which could
lead further than any test has looked. (The decision's dollars are the session's own.)

So no decision loses a certificate by naming a session. The test has the policy's confidence for
itself: it speaks about the requests that name a session, the policy's about the others. Where a
floor was asked for and is not certified in the first place, only tiers are chosen that are
predicted to succeed at least as often as the policy's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from numbers import Real
from typing import Literal

import numpy as np
import numpy.typing as npt

from router.cache_state import CacheState, Prefix
from router.cache_worth import MANY_TOKENS, MAX_ROWS, CachePrices, least_loss
from router.certificate import Floor
from router.decision import Predictions
from router.errors import InputError, PriceError
from router.policy import SAME_RATE, Policy
from router.prices import PriceBook
from router.providers.caching import cache_policy
from router.selection import SUCCESS_VALUES_USD, CalibrationRows, Certificate
from router.tiers import TierSet

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

# A key that nobody observes.
_NO_SESSION = "\0"
# States of the cache in which a floor is tested: prefix lengths, turns to come, time between turns.
_TESTED_TOKENS = (1_000, 4_000, 16_000, 64_000)
_TESTED_TURNS, _TESTED_GAP_S = 5.0, 60.0
# Steps of 19 % of the success value: every second one of the policy's own grid.
_VALUES_USD = SUCCESS_VALUES_USD[::2]

Rule = Literal["any", "no-worse", "own"]
# The tier that served last, where one is warm, and the place of the prefix's length.
CacheClass = tuple[int | None, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a turn stands: the prefix's price now and what follows a turn on each tier, both (T,).

    In dollars. ``last`` is the tier of the turn before, where it is still warm there.
    """

    now_usd: FloatArray
    ahead_usd: FloatArray
    last: int | None


@dataclass(frozen=True, slots=True)
class PricedPrefix:
    """A prefix of ``n_tokens`` before a turn, and what is warm of it by tier's name."""

    n_tokens: int
    warm_tokens: Mapping[str, int]
    standing: Standing


@dataclass(frozen=True, slots=True)
class CacheRouting:
    """One router's policy with its prices. ``rule`` says which tiers a cache may lead to.

    "any": all that can take the request; "no-worse": those predicted to succeed at least as often
    as the policy's own tier; "own": that one. ``tested`` holds, for every state of the cache that
    is told apart, the success value that passed the floor and where a turn stood in the test; in a
    state without one the rule is "own". Where it is None, ``value_usd`` and the session's own
    standing are used. ``certified`` is True where the floor covers what the rule does.
    """

    names: tuple[str, ...]
    rule: Rule
    value_usd: float
    prices: CachePrices
    tested: Mapping[CacheClass, tuple[float, Standing]] | None = None
    certified: bool = False

    @classmethod
    def of(
        cls,
        tiers: TierSet,
        policy: Policy,
        certificate: Certificate | None,
        rows: CalibrationRows,
        book: PriceBook,
        ttl: Literal["5m", "1h"] = "5m",
    ) -> CacheRouting:
        """Raises PriceError where the price of a tier's tokens, or of keeping them, is unknown."""
        value = policy.success_value_usd
        few = _spread(len(rows))
        predicted = rows.predictions
        own = policy.action_dist(
            rows.p_success, rows.cost_usd, rows.out_of_distribution, rows.tried
        )
        rule: Rule = "any"
        if certificate is not None and not certificate.certified:
            rule = "no-worse"
        allowed = _allowed(rule, predicted, own.argmax(axis=1))[few]
        loss = rows.cost_usd[few] - value * rows.p_success[few]
        prices = CachePrices(
            tuple(book.price(tier) for tier in tiers),
            tuple(cache_policy(tier.provider, tier.model, ttl) for tier in tiers),
            np.where(allowed, loss, np.inf),
        )
        for index, name in enumerate(tiers.names):
            if math.isnan(prices.prefix_usd(index, MANY_TOKENS, 0)):
                raise PriceError(
                    f"no price is known for what {name} keeps in its cache for {ttl}: give "
                    "cache_write_1h_price_usd_per_mtok in the tiers file."
                )
        made = cls(tiers.names, rule, value, prices)
        if certificate is None or not certificate.certified:
            return made
        if policy.kind != "value":
            return replace(made, rule="own", certified=True)
        return replace(made, tested=made._certified(rows, certificate, own), certified=True)

    def _certified(
        self, rows: CalibrationRows, certificate: Certificate, dist: FloatArray
    ) -> dict[CacheClass, tuple[float, Standing]]:
        """The least success value that passes the floor in every state, where one does."""
        floor = Floor(certificate.rate, certificate.margin, certificate.relative_to)
        n_tiers = len(self.names)
        states = list(product((None, *range(n_tiers)), range(len(_TESTED_TOKENS))))
        delta = (1.0 - certificate.confidence) / len(states)
        own, predicted, every = dist.argmax(axis=1), rows.predictions, [1.0] * n_tiers
        # Many states, and many values, lead to the same choices on these rows.
        known: dict[bytes, bool] = {}
        found: dict[CacheClass, tuple[float, Standing]] = {}
        for last, size in states:
            tokens = _TESTED_TOKENS[size]
            worth = self.prices.worth(tokens, _TESTED_TURNS, every, _TESTED_GAP_S)
            warm = [tokens if tier == last else 0 for tier in range(n_tiers)]
            ahead = self.prices.ahead(0 if last is None else 1 << last, worth)
            standing = Standing(np.array(self.prices.now(tokens, warm, every)), ahead, last)
            for value in _VALUES_USD.tolist():
                tier = _chosen(self.rule, value, predicted, own, standing)
                success = rows.success[np.arange(len(rows)), tier]
                digest = success.tobytes()
                if digest not in known:
                    known[digest] = rows.passes(floor, success, delta)
                if not known[digest]:
                    break
                found[last, size] = value, standing
        return found

    def played(self, predicted: Predictions, own: IntArray, prefix: PricedPrefix) -> IntArray:
        """The tier (n,) of every request where the policy by itself would take ``own`` (n,)."""
        standing = prefix.standing
        if self.tested is None:
            return _chosen(self.rule, self.value_usd, predicted, own, standing)
        found = self.tested.get((standing.last, _size(prefix.n_tokens)))
        if found is None:
            return own
        return _chosen(self.rule, found[0], predicted, own, found[1])

    def priced(
        self, prefix: Prefix, state: CacheState, expected_turns: float | None
    ) -> PricedPrefix:
        """What the prefix costs on every tier, as far as the state knows what is warm."""
        warmth = state.warmth(prefix)
        warm = [warmth.tokens.get(name, 0) for name in self.names]
        hits = [state.hit_rate(name) for name in self.names]
        turns = state.mean_turns if expected_turns is None else expected_turns
        if not (isinstance(turns, Real) and turns >= 1):
            raise InputError(
                f"expected at least one turn of the session, this one included, got {turns!r}: "
                "give for example 5."
            )
        extra = np.array(self.prices.now(prefix.n_tokens, warm, hits))
        worth = self.prices.worth(prefix.n_tokens, turns, hits, state.mean_gap_s)
        # Half of a prefix is nearer to all of it than to none.
        used = sum(1 << t for t, tokens in enumerate(warm) if 2 * tokens > prefix.n_tokens)
        last = self.names.index(warmth.last_tier) if warmth.last_tier in self.names else None
        if last is not None and not used >> last & 1:
            last = None
        standing = Standing(extra, self.prices.ahead(used, worth), last)
        return PricedPrefix(prefix.n_tokens, warmth.tokens, standing)

    def choices(self, one: Predictions, base: FloatArray, prefix: PricedPrefix) -> dict[int, int]:
        """What is taken of one request, for every tier that the policy may take by itself.

        ``base`` (T,) is the policy's distribution.
        """
        return {
            own: int(self.played(one, np.array([own]), prefix)[0])
            for own in np.flatnonzero(base).tolist()
        }


def mixed(base: FloatArray, choices: Mapping[int, int]) -> FloatArray:
    """Distribution (T,) over what is taken, where the policy's own tier is drawn from ``base``."""
    dist = np.zeros_like(base)
    for own, chosen in choices.items():
        dist[chosen] += base[own]
    return dist


def _size(n_tokens: int) -> int:
    """The place of the tested length that is nearest in ratio."""
    size = math.log(max(n_tokens, 1))
    return min(
        range(len(_TESTED_TOKENS)), key=lambda place: abs(math.log(_TESTED_TOKENS[place]) - size)
    )


def _chosen(
    rule: Rule, value_usd: float, predicted: Predictions, own: IntArray, standing: Standing
) -> IntArray:
    """The tier (n,) of least cost less value, the prefix's price now and later included."""
    bill = predicted.cost_usd + standing.now_usd
    total = bill - value_usd * predicted.p_success + standing.ahead_usd
    staying = bill[:, 0 if standing.last is None else standing.last]
    return least_loss(total, _allowed(rule, predicted, own), standing.last, staying)


def _allowed(rule: Rule, predicted: Predictions, own: IntArray) -> BoolArray:
    """Tiers (n, T) that may be chosen; out of distribution, ``own``, which always may."""
    p, candidates = predicted.p_success, predicted.candidates
    rows = np.arange(len(p))
    allowed = np.ones(p.shape, dtype=bool) if candidates is None else candidates.copy()
    if rule == "no-worse":
        allowed &= p >= p[rows, own][:, None] - SAME_RATE
    allowed[predicted.out_of_distribution | (rule == "own")] = False
    allowed[rows, own] = True
    return allowed


def _spread(n_rows: int) -> IntArray:
    """Evenly spread places among the rows, and the same ones every time."""
    n_few = min(n_rows, MAX_ROWS)
    few: IntArray = np.unique(np.linspace(0, max(n_rows - 1, 0), n_few).astype(np.intp))
    return few


def as_prefix(
    session: str | None, prefix_tokens: int | None, prefix: Prefix | None
) -> Prefix | None:
    """The prefix that a caller of ``Router.route`` has described; None where none is.

    Raises InputError where it is no prefix.
    """
    if prefix is not None:
        return prefix
    if session is None and prefix_tokens is None:
        return None
    if session is None:
        # Nothing is known to be warm, but the prefix has its price all the same.
        return Prefix((_NO_SESSION,), (prefix_tokens or 0,))
    return Prefix.of_session(session, prefix_tokens or 0)
