"""Routing by price and cache: which tier, where a prefix is warm on some and not on others.

What may be chosen depends on what was promised. Without a success floor: any tier, by the
objective's success value lambda. With a certified floor the rule is certified anew, cache included,
since what a cache makes cheap draws requests to where it is warm:

1. for each state of the cache that is told apart (which tier served last, how long the prefix
   is), candidates are success values on a fixed grid, the safest first. Each is played on the
   calibration rows in that state and tested against the floor; the first that fails ends the
   search, the last that passed is used in such states. All of them share the error 1 - confidence
   evenly, so that the floor holds in each of those states, and in whatever mixture traffic brings.
2. in a state where none passes: the policy's own tier, whatever the cache holds.

So no decision loses a certificate by naming a session. The test has the policy's confidence for
itself: it speaks about the requests that name a session, the policy's about the others. Where a
floor was asked for and is not certified in the first place, only tiers are chosen that are
predicted to succeed at least as often as the policy's own. States between the tested ones take the
values of the nearest; several warm tiers count as the last one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from numbers import Real
from typing import Literal

import numpy as np
import numpy.typing as npt

from router.cache_state import CacheState, Prefix, Warmth
from router.cache_worth import MAX_ROWS, CachePrices, least_loss
from router.certificate import Floor
from router.decision import Predictions
from router.errors import InputError
from router.policy import SAME_RATE, Policy
from router.prices import PriceBook
from router.providers.caching import cache_policy
from router.selection import SUCCESS_VALUES_USD, CalibrationRows, Certificate
from router.tiers import TierSet

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

# A session's name that nobody observes.
NO_SESSION = "\0"
# States of the cache in which a floor is tested: prefix length, turns to come, time between turns.
_TESTED_TOKENS = (2_000, 20_000)
_TESTED_TURNS, _TESTED_GAP_S = 5.0, 60.0
# Steps of 19 % of the success value: every second one of the policy's own grid.
_VALUES_USD = SUCCESS_VALUES_USD[::2]

Rule = Literal["any", "no-worse", "own"]
# The tier that served last, where one is warm, and the place of the prefix's length.
CacheClass = tuple[int | None, int]


@dataclass(frozen=True, slots=True)
class CacheRouting:
    """One router's policy with its prices. ``rule`` says which tiers a cache may lead to.

    "any": all that can take the request; "no-worse": those predicted to succeed at least as often
    as the policy's own tier; "own": that one. ``values_usd`` holds the success value of every state
    of the cache that is told apart, and no value where the rule there is "own"; with None it is
    ``value_usd`` everywhere. ``certified`` is True where the floor covers what the rule does.
    """

    names: tuple[str, ...]
    rule: Rule
    value_usd: float
    prices: CachePrices
    values_usd: Mapping[CacheClass, float] | None = None
    certified: bool = False

    @classmethod
    def of(
        cls,
        tiers: TierSet,
        policy: Policy,
        certificate: Certificate | None,
        rows: CalibrationRows,
        book: PriceBook,
    ) -> CacheRouting:
        """Raises PriceError where the price of a tier's tokens is unknown."""
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
            tuple(cache_policy(tier.provider, tier.model) for tier in tiers),
            np.where(allowed, loss, np.inf),
        )
        made = cls(tiers.names, rule, value, prices)
        if certificate is None or not certificate.certified:
            return made
        if policy.kind != "value":
            return replace(made, rule="own", certified=True)
        return replace(made, values_usd=made._certified(rows, certificate, own), certified=True)

    def _certified(
        self, rows: CalibrationRows, certificate: Certificate, dist: FloatArray
    ) -> dict[CacheClass, float]:
        """The least success value that passes the floor in every state, where one does."""
        floor = Floor(certificate.rate, certificate.margin, certificate.relative_to)
        n_tiers = len(self.names)
        states = list(product((None, *range(n_tiers)), range(len(_TESTED_TOKENS))))
        delta = (1.0 - certificate.confidence) / len(states)
        own, predicted, every = dist.argmax(axis=1), rows.predictions, [1.0] * n_tiers
        # Many states, and many values, lead to the same choices on these rows.
        known: dict[bytes, bool] = {}
        found: dict[CacheClass, float] = {}
        for last, size in states:
            tokens = _TESTED_TOKENS[size]
            worth = self.prices.worth(tokens, _TESTED_TURNS, every, _TESTED_GAP_S)
            warm = [tokens if tier == last else 0 for tier in range(n_tiers)]
            extra = np.array(self.prices.now(tokens, warm, every))
            ahead = self.prices.ahead(0 if last is None else 1 << last, worth)
            for value in _VALUES_USD.tolist():
                candidate = replace(self, value_usd=value)
                tier = candidate.played(predicted, own, extra, ahead, last, tokens)
                success = rows.success[np.arange(len(rows)), tier]
                digest = success.tobytes()
                if digest not in known:
                    known[digest] = rows.passes(floor, success, delta)
                if not known[digest]:
                    break
                found[last, size] = value
        return found

    def played(
        self,
        predicted: Predictions,
        own: IntArray,
        extra_usd: FloatArray,
        ahead_usd: FloatArray,
        last: int | None,
        prefix_tokens: int,
    ) -> IntArray:
        """The tier (n,) of every request where the policy by itself would take ``own`` (n,).

        ``extra_usd`` (T,) is the prefix's price now, ``ahead_usd`` (T,) what follows.
        """
        rule, value = self.rule, self.value_usd
        if self.values_usd is not None:
            found = self.values_usd.get((last, _size(prefix_tokens)))
            rule, value = (rule, found) if found is not None else ("own", value)
        bill = predicted.cost_usd + extra_usd
        total = bill - value * predicted.p_success + ahead_usd
        staying = bill[:, 0 if last is None else last]
        return least_loss(total, _allowed(rule, predicted, own), last, staying)

    def priced(
        self, prefix: Prefix, state: CacheState, expected_turns: float | None
    ) -> tuple[Warmth, FloatArray, FloatArray, int | None]:
        """What is warm; the prefix's price now and what follows (T,); the last turn's tier."""
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
        last = None
        if warmth.last_tier in self.names:
            last = self.names.index(warmth.last_tier)
        return warmth, extra, self.prices.ahead(used, worth), last


def _size(n_tokens: int) -> int:
    """The place of the tested length that is nearest in ratio."""
    size = math.log(max(n_tokens, 1))
    return min(
        range(len(_TESTED_TOKENS)), key=lambda place: abs(math.log(_TESTED_TOKENS[place]) - size)
    )


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


def as_prefix(session: str | None, prefix_tokens: int | None, prefix: Prefix | None) -> Prefix:
    """The prefix that a caller of ``Router.route`` has described.

    Raises InputError where it is none.
    """
    if prefix is not None:
        return prefix
    # Without a name nothing is known to be warm, but the prefix has its price all the same.
    return Prefix.of_session(NO_SESSION if session is None else session, prefix_tokens or 0)


def shared(dist: FloatArray, choices: Sequence[int]) -> FloatArray:
    """Distribution (T,) over what is chosen, where the policy's own tier is drawn from ``dist``."""
    out = np.zeros_like(dist)
    for own, chosen in enumerate(choices):
        out[chosen] += dist[own]
    return out
