"""Where the client and the cache state meet: what is asked before routing, what is told after it.

A prompt's prefix is everything before its last message. The client knows the messages, and so the
prefix by its keys: two sessions with the same system prompt share that part, and a conversation
that goes on is known again, whether or not the caller names its session.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from router.cache_state import CacheState, Prefix
from router.cache_worth import MANY_TOKENS, prompt_usd
from router.client.choosing import Ask, CacheSeam
from router.errors import InputError
from router.prefix import prefix_chain
from router.prices import PriceBook
from router.providers.caching import CachePolicy, cache_policy
from router.tiers import Tier, TierSet
from router.usage import Usage

_LOG = logging.getLogger("router.client")

# So many tokens, estimated rightly, before any; and after how many an observation fades by 1/e.
_FIRST_TOKENS = 100.0
_MEMORY_TOKENS = 200_000.0
# A token has one to nine characters in what people write; beyond that something else was counted.
_LEAST_RATIO, _LARGEST_RATIO = 1 / 3, 3.0


def caches_of(
    router: object, state: CacheState | CacheSeam | None, book: PriceBook
) -> tuple[object, CacheSeam | None]:
    """The router with this state and these prices in place of its own, and the seam to it.

    A router that keeps no cache state (a KeywordRouter) has no seam, unless it is given one.

    Raises:
        InputError: a CacheState for a router that keeps none.
    """
    if state is not None and not isinstance(state, CacheState):
        return router, state
    own = getattr(router, "cache_state", None)
    tiers = getattr(router, "tiers", None)
    if not isinstance(own, CacheState) or not isinstance(tiers, TierSet):
        if state is not None:
            raise InputError(
                f"expected a Router beside a cache state, got {type(router).__name__}, which does "
                "not route by what is warm: leave cache_state out."
            )
        return router, None
    own = own if state is None else state
    return router.sharing(own, book), PromptCaches(own, tiers, book)  # type: ignore[attr-defined]


class PromptCaches:
    """Prices tiers by what is warm there, and learns it from usages; safe between threads."""

    def __init__(self, state: CacheState, tiers: TierSet, book: PriceBook) -> None:
        self._state, self._tiers, self._book = state, tiers, book
        self._priced: dict[str, bool] = {}
        # By tier: input tokens that its provider counted, and our estimates of the same prompts.
        self._counts: dict[str, tuple[float, float]] = {}

    def before_routing(self, ask: Ask) -> Mapping[str, Any]:
        """Arguments for ``Router.route``; none for a prompt without anything before the query.

        Nor for one that marks no cache: what its provider keeps by itself is a windfall.
        """
        prefix = self._prefix_of(ask, None) if ask.prompt.cache.enabled else None
        if prefix is None or not self._has_prices(ask.prompt.cache.ttl):
            return {}
        return {"session": ask.session, "prefix": prefix, "expected_turns": ask.expected_turns}

    def after_attempt(self, ask: Ask, tier: Tier, usage: Usage | None) -> None:
        """Learn from one answer. A prompt that marked nothing leaves nothing in a marked cache."""
        keys, tokens = _chain(ask)
        if usage is not None and tokens[-1] and _is_text(ask):
            # Two threads that come at once lose one of many observations.
            counted, estimated = self._counts.get(tier.name, (_FIRST_TOKENS, _FIRST_TOKENS))
            fade = _MEMORY_TOKENS / (_MEMORY_TOKENS + tokens[-1])
            self._counts[tier.name] = (
                fade * counted + usage.input_tokens,
                fade * estimated + tokens[-1],
            )
        # The first turn without a system prompt: what it wrote is read next time.
        prefix = self._prefix_of(ask, tier.name) or Prefix((keys[-1],), (0,), session=ask.session)
        policy = self._policy(ask, tier) if ask.prompt.cache.enabled else None
        self._state.observe(tier.name, prefix, usage, policy, whole=keys[-1])

    def _policy(self, ask: Ask, tier: Tier) -> CachePolicy | None:
        marks = ask.prompt.cache
        return cache_policy(tier.provider, tier.model, marks.ttl, explicit=marks.explicit)

    def _has_prices(self, ttl: Literal["5m", "1h"]) -> bool:
        """Whether every tier's tokens have a price; without, a prefix cannot be weighed."""
        if ttl not in self._priced:
            missing = [tier.name for tier in self._tiers if not self._is_priced(tier, ttl)]
            self._priced[ttl] = not missing
            if missing:
                _LOG.warning(
                    "prompts are routed without their prefix, since the price of a token is "
                    "unknown on %s (kept for %s): give prices in the tiers file.",
                    ", ".join(missing),
                    ttl,
                )
        return self._priced[ttl]

    def _is_priced(self, tier: Tier, ttl: Literal["5m", "1h"]) -> bool:
        policy = cache_policy(tier.provider, tier.model, ttl)
        price = self._book.find(tier)
        return price is not None and not math.isnan(prompt_usd(price, MANY_TOKENS, 0, policy))

    def _prefix_of(self, ask: Ask, tier: str | None) -> Prefix | None:
        """What stands before the last message, None where nothing does.

        Lengths are estimates, corrected by how estimates have compared with what was counted: on a
        tier, or by default on all of them.
        """
        keys, tokens = _chain(ask)
        ratio = self._ratio(tier)
        before = [
            (key, round(n * ratio)) for key, n in zip(keys[:-1], tokens[:-1], strict=True) if n > 0
        ]
        if not before:
            return None
        return Prefix(
            tuple(key for key, _ in before),
            tuple(n for _, n in before),
            shared=tokens[0] > 0,
            session=ask.session,
            start=keys[1],
            ttl=ask.prompt.cache.ttl,
        )

    def _ratio(self, tier: str | None) -> float:
        counts = [*self._counts.values()] if tier is None else [self._counts.get(tier, (0.0, 0.0))]
        counted = _FIRST_TOKENS + sum(c for c, _ in counts)
        estimated = _FIRST_TOKENS + sum(e for _, e in counts)
        return min(max(counted / estimated, _LEAST_RATIO), _LARGEST_RATIO)


def _chain(ask: Ask) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Keys and estimated tokens of the prompt, worked out once: a long one takes a millisecond."""
    if "chain" not in ask.notes:
        ask.notes["chain"] = prefix_chain(ask.prompt.messages, ask.prompt.tools)
    chain: tuple[tuple[str, ...], tuple[int, ...]] = ask.notes["chain"]
    return chain


def _is_text(ask: Ask) -> bool:
    """Whether the estimate counts all of the prompt: images have tokens and no text."""
    return all(
        isinstance(content, str)
        or content is None
        or all(isinstance(part, str) or part.get("type") == "text" for part in content)
        for content in (message.get("content") for message in ask.prompt.messages)
    )
