"""CacheState: which prompt prefix is warm on which tier, until when; learned from what came back.

A provider keeps a prefix for a time to live after it was written or last read. Nobody can ask it;
what is known comes from usages: tokens read from a cache were warm, tokens written to it are now.
So every entry is a belief, and how far such beliefs hold is learned too: ``hit_rate``.

A prefix is a chain of keys (digests), from the part that sessions share to the whole of one
conversation, each with its length in tokens; a caller that knows no more than a session's name has
a chain of one. Memory is bounded: what was used longest ago is forgotten first, and counts as cold.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.errors import InputError, LedgerError
from router.providers.caching import CachePolicy
from router.records import WarmPrefix
from router.usage import Usage

_LOG = logging.getLogger("router.cache_state")

DEFAULT_MAX_PREFIXES = 100_000
# Clocks of two processes may differ by so much; further into the future an entry is not believed.
_CLOCK_SKEW_S = 5.0
# Beliefs are worth ten observations, nine of them hits, before the first; the weight of what was
# observed is halved when it reaches 200, so that a provider's new behaviour shows.
_PRIOR_HITS, _PRIOR_ANSWERS, _MEMORY = 9.0, 10.0, 200.0
# A session has three turns, a minute apart, until ten have shown something else.
_PRIOR_TURNS, _PRIOR_GAP_S, _PRIOR_SESSIONS = 3.0, 60.0, 10.0


class WarmStore(Protocol):
    """Where processes share what they know; the ledger is one."""

    def load_warm(self, keys: Sequence[str]) -> list[WarmPrefix]:
        """What is known of these prefixes."""
        ...

    def save_warm(self, entries: Sequence[WarmPrefix]) -> None:
        """Keep these, in place of older ones."""
        ...


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands in a prompt before the new text: keys and cumulative tokens, shortest first.

    ``shared`` says that the first key is of a part that other sessions have too.

    Raises:
        InputError: no key, or not one token count from 0 up for each.

    >>> Prefix.of_session("chat-7", 2000).n_tokens
    2000
    """

    keys: tuple[str, ...]
    tokens: tuple[int, ...]
    shared: bool = False

    def __post_init__(self) -> None:
        ascending = all(type(n) is int and n >= 0 for n in self.tokens) and (
            list(self.tokens) == sorted(self.tokens)
        )
        if not self.keys or len(self.keys) != len(self.tokens) or not ascending:
            raise InputError(
                "expected a prefix as keys with their ascending numbers of tokens, got "
                f"{len(self.keys)} keys and {list(self.tokens)[:5]}: give one whole number of at "
                "least 0 for each key."
            )

    @property
    def n_tokens(self) -> int:
        """Length of the whole prefix."""
        return self.tokens[-1]

    @classmethod
    def of_session(cls, session: str, n_tokens: int) -> Prefix:
        """Of a session of which no more is known than its name."""
        if not isinstance(session, str) or not session:
            raise InputError(
                f"expected the session's name as text, got {type(session).__name__}: name it."
            )
        return cls((f"session:{session}",), (n_tokens,))


@dataclass(frozen=True, slots=True)
class Warmth:
    """What is believed of one prefix: warm tokens by tier, and the tier of the latest turn."""

    tokens: dict[str, int]
    last_tier: str | None = None


class CacheState:
    """Safe to share between threads; ``store`` shares it between processes.

    Args:
        max_prefixes: How many prefixes are remembered (about 400 bytes each).
        store: A ledger. Where it cannot be reached, what this process knows has to do.
        clock: Seconds since 1970.

    >>> state = CacheState(clock=lambda: 0.0)
    >>> chat = Prefix.of_session("chat-7", 2000)
    >>> state.observe("mid", chat, Usage(2200, 90, 0, 2200), CachePolicy(1024, ttl_s=300))
    >>> state.warmth(chat).tokens
    {'mid': 2000}
    """

    def __init__(
        self,
        *,
        max_prefixes: int = DEFAULT_MAX_PREFIXES,
        store: WarmStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if type(max_prefixes) is not int or max_prefixes < 1:
            raise InputError(
                f"expected to remember at least one prefix, got {max_prefixes!r}: give a whole "
                "number above 0."
            )
        self._max = max_prefixes
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, dict[str, WarmPrefix]] = OrderedDict()
        self._hits: dict[str, tuple[float, float]] = {}  # tier: hits, answers
        self._sessions = self._turns = self._gaps = self._gap_sum_s = 0.0
        self._store_failed = False

    def __len__(self) -> int:
        """How many prefixes are remembered."""
        return len(self._entries)

    def warmth(self, prefix: Prefix) -> Warmth:
        """What is warm of the prefix now; the longest part that is known counts."""
        now = self._clock()
        self._fetch(prefix.keys)
        tokens: dict[str, int] = {}
        last: WarmPrefix | None = None
        with self._lock:
            for place in range(len(prefix.keys) - 1, -1, -1):
                own = not (prefix.shared and place == 0 and len(prefix.keys) > 1)
                for tier, entry in self._entries.get(prefix.keys[place], {}).items():
                    if not _is_warm(entry, now):
                        continue
                    tokens.setdefault(tier, min(entry.tokens, prefix.n_tokens))
                    if own and (last is None or entry.stored_at_s > last.stored_at_s):
                        last = entry
        return Warmth(tokens, None if last is None else last.tier)

    def observe(
        self,
        tier: str,
        prefix: Prefix,
        usage: Usage | None,
        policy: CachePolicy | None,
        *,
        whole: str | None = None,
    ) -> None:
        """Learn from an answer of ``tier`` to a prompt that began with ``prefix``.

        ``whole`` is the key of the whole prompt, where the caller has a chain. Without a usage, or
        where the model has no cache, nothing is learned.
        """
        if usage is None or policy is None:
            return
        before = self.warmth(prefix)
        now = self._clock()
        believed = before.tokens.get(tier, 0)
        warm = policy.cacheable_tokens(usage.input_tokens)
        if policy.writes_reported:
            warm = usage.cached_input_tokens + usage.cache_write_tokens
        last_key = prefix.keys[-1] if whole is None else whole
        kept = {last_key: warm}
        if prefix.shared:
            kept.setdefault(prefix.keys[0], min(warm, policy.cacheable_tokens(prefix.tokens[0])))
        made = [
            WarmPrefix(tier, key, tokens, now, policy.ttl_s)
            for key, tokens in kept.items()
            if tokens > 0
        ]
        with self._lock:
            self._count_turn(prefix, now)
            if believed:
                hits, answers = self._hits.get(tier, (0.0, 0.0))
                if answers >= _MEMORY:
                    hits, answers = hits / 2.0, answers / 2.0
                hit = min(usage.cached_input_tokens / believed, 1.0)
                self._hits[tier] = hits + hit, answers + 1.0
            if not warm:
                for key in prefix.keys:
                    self._entries.get(key, {}).pop(tier, None)
            for entry in made:
                self._keep(entry)
        self._send(made)

    def hit_rate(self, tier: str) -> float:
        """How much of what was believed warm on a tier was read from the cache, 0 to 1."""
        with self._lock:
            hits, answers = self._hits.get(tier, (0.0, 0.0))
        return (hits + _PRIOR_HITS) / (answers + _PRIOR_ANSWERS)

    @property
    def mean_gap_s(self) -> float:
        """Mean seconds between two turns of a session."""
        with self._lock:
            return (self._gap_sum_s + _PRIOR_GAP_S * _PRIOR_SESSIONS) / (
                self._gaps + _PRIOR_SESSIONS
            )

    @property
    def mean_turns(self) -> float:
        """Mean turns of a session: what is still expected of each, if their number is geometric."""
        with self._lock:
            return (self._turns + _PRIOR_TURNS * _PRIOR_SESSIONS) / (
                self._sessions + _PRIOR_SESSIONS
            )

    def _count_turn(self, prefix: Prefix, now: float) -> None:
        own = prefix.keys[1:] if prefix.shared and len(prefix.keys) > 1 else prefix.keys
        times = [entry.stored_at_s for key in own for entry in self._entries.get(key, {}).values()]
        self._turns += 1.0
        gap = now - max(times) if times else -1.0
        if gap < 0.0:  # a new session, or a clock that was set back
            self._sessions += 1.0
        else:
            self._gaps += 1.0
            self._gap_sum_s += gap

    def _keep(self, entry: WarmPrefix) -> None:
        tiers = self._entries.setdefault(entry.key, {})
        known = tiers.get(entry.tier)
        if (
            known is None
            or known.stored_at_s <= entry.stored_at_s
            or not _is_warm(known, entry.stored_at_s)
        ):
            tiers[entry.tier] = entry
        self._entries.move_to_end(entry.key)
        while len(self._entries) > self._max:
            self._entries.popitem(last=False)

    def _fetch(self, keys: Sequence[str]) -> None:
        if self._store is None:
            return
        try:
            found = self._store.load_warm(keys)
        except LedgerError as error:
            self._store_lost(error)
            return
        self._store_failed = False
        with self._lock:
            for entry in found:
                self._keep(entry)

    def _send(self, entries: Sequence[WarmPrefix]) -> None:
        if self._store is None or not entries:
            return
        try:
            self._store.save_warm(entries)
        except LedgerError as error:
            self._store_lost(error)

    def _store_lost(self, error: LedgerError) -> None:
        # Said once: a request is not worth failing for what only makes it cheaper.
        if not self._store_failed:
            self._store_failed = True
            _LOG.warning("what is warm cannot be shared between processes now: %s", error)


def survival(ttl_s: float, mean_gap_s: float, n_gaps: int = 1) -> float:
    """P(the sum of ``n_gaps`` exponential gaps is within ``ttl_s``): an Erlang distribution.

    The chance that a prefix is still warm at the next turn (1), or at the one after that (2).

    >>> round(survival(300, 60), 3), round(survival(300, 300, 2), 3)
    (0.993, 0.264)
    """
    if mean_gap_s <= 0:
        return 1.0
    a = ttl_s / mean_gap_s
    return 1.0 - math.exp(-a) * sum(a**i / math.factorial(i) for i in range(n_gaps))


def _is_warm(entry: WarmPrefix, now: float) -> bool:
    return -_CLOCK_SKEW_S <= now - entry.stored_at_s <= entry.ttl_s
