"""Where the client and the cache state meet: what is asked before routing, what is told after it.

A prompt's prefix is everything before its last message. The client knows the messages, and so the
prefix by its keys: two sessions with the same system prompt share that part, and a conversation
that goes on is known again, whether or not the caller names its session.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from router.cache_state import CacheState, Prefix
from router.choosing import Ask, CacheSeam
from router.errors import PriceError
from router.prefix import prefix_keys, prefix_tokens
from router.prices import PriceBook
from router.providers.caching import CachePolicy, cache_policy
from router.tiers import Tier, TierSet
from router.usage import Usage

_LOG = logging.getLogger("router.client")

# So many tokens, estimated rightly, before any; and after how many an observation fades by 1/e.
_FIRST_TOKENS = 100.0
_MEMORY_TOKENS = 200_000.0


def caches_of(
    router: object, state: CacheState | CacheSeam | None, book: PriceBook
) -> tuple[object, CacheSeam | None]:
    """The router with this state in place of its own, and the seam to it.

    A router that keeps no cache state (a KeywordRouter) has no seam, unless it is given one.
    """
    if state is not None and not isinstance(state, CacheState):
        return router, state
    own = getattr(router, "cache_state", None)
    tiers = getattr(router, "tiers", None)
    if not isinstance(own, CacheState) or not isinstance(tiers, TierSet):
        return router, None
    if state is not None:
        router, own = router.sharing(state), state  # type: ignore[attr-defined]
    return router, PromptCaches(own, tiers, book)


class PromptCaches:
    """Prices tiers by what is warm there, and learns it from usages; safe between threads."""

    def __init__(self, state: CacheState, tiers: TierSet, book: PriceBook) -> None:
        self._state, self._tiers, self._book = state, tiers, book
        self._priced: bool | None = None
        # Input tokens that were counted by providers, and our estimates of the same prompts.
        self._counted = self._estimated = _FIRST_TOKENS

    def before_routing(self, ask: Ask) -> Mapping[str, Any]:
        """Arguments for ``Router.route``; none for a prompt without anything before the query."""
        prefix, _, _ = self._prefix_of(ask)
        if prefix is None or not self._has_prices():
            return {}
        return {
            "session": ask.session,
            "prefix": prefix,
            "expected_turns": ask.expected_turns,
        }

    def after_attempt(self, ask: Ask, tier: Tier, usage: Usage | None) -> None:
        """Learn from one answer. A prompt that marked nothing leaves nothing in a marked cache."""
        prefix, whole, estimated = self._prefix_of(ask)
        if usage is not None and estimated:
            # Two threads that come at once lose one of many observations.
            fade = _MEMORY_TOKENS / (_MEMORY_TOKENS + estimated)
            self._counted = fade * self._counted + usage.input_tokens
            self._estimated = fade * self._estimated + estimated
        if prefix is None:
            # The first turn of a session without a system prompt: what it wrote is read next time.
            prefix = Prefix((whole,), (0,))
        self._state.observe(tier.name, prefix, usage, self._policy(ask, tier), whole=whole)

    def _policy(self, ask: Ask, tier: Tier) -> CachePolicy | None:
        marks = ask.prompt.cache
        return cache_policy(tier.provider, tier.model, marks.ttl, explicit=marks.explicit)

    def _has_prices(self) -> bool:
        """Whether every tier's tokens have a price; without, a prefix cannot be weighed."""
        if self._priced is None:
            missing = []
            for tier in self._tiers:
                try:
                    self._book.price(tier)
                except PriceError:
                    missing.append(tier.name)
            self._priced = not missing
            if missing:
                _LOG.warning(
                    "prompts are routed without their prefix, since the price of a token is "
                    "unknown on %s: give prices in the tiers file.",
                    ", ".join(missing),
                )
        return self._priced

    def _prefix_of(self, ask: Ask) -> tuple[Prefix | None, str, int]:
        """What stands before the last message, if anything; the whole prompt's key and estimate.

        Lengths are estimates, corrected by how estimates have compared with what was counted.
        """
        if "prefix" not in ask.notes:  # a long conversation takes a millisecond
            messages, tools = ask.prompt.messages, ask.prompt.tools
            ask.notes["prefix"] = prefix_keys(messages, tools), prefix_tokens(messages, tools)
        keys, tokens = ask.notes["prefix"]
        ratio = self._counted / self._estimated
        before = [
            (key, round(n * ratio)) for key, n in zip(keys[:-1], tokens[:-1], strict=True) if n > 0
        ]
        if not before:
            return None, keys[-1], tokens[-1]
        shared = tokens[0] > 0
        prefix = Prefix(tuple(k for k, _ in before), tuple(n for _, n in before), shared=shared)
        return prefix, keys[-1], tokens[-1]
