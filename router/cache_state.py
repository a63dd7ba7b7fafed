"""CacheState: which prompt prefix is warm on which tier, until when; learned from what came back.

A provider keeps a prefix for a time to live after it was written or last read. Nobody can ask it;
what is known comes from usages: tokens read from a cache were warm, tokens written to it are now.
So every entry is a belief, and how far such beliefs hold is learned too: ``hit_rate``.

A prefix is a chain of keys (digests), from the part that sessions share to the whole of one
conversation, each with its length in tokens; a caller that knows no more than a session's name has
a chain of one. Turns are counted by the session's name or by the conversation's own keys, never by
what it shares with others, and whether or not anything of it is kept warm. Memory is bounded: what
was used longest ago is forgotten first, and counts as cold.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
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

    ``shared`` says that the first key is of a part that other sessions have too. ``session`` is the
    conversation's name, where it has one, and ``start`` the key of its beginning up to the first
    question, which tells conversations apart that have none. ``ttl`` is how long what is written
    shall be kept, where a provider lets one choose.

    Raises:
        InputError: no key, or not one token count from 0 up for each.

    >>> Prefix.of_session("chat-7", 2000).n_tokens
    2000
    """

    keys: tuple[str, ...]
    tokens: tuple[int, ...]
    shared: bool = False
    session: str | None = None
    start: str | None = None
    ttl: Literal["5m", "1h"] = "5m"

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

    @property
    def identity(self) -> str | None:
        """What tells this conversation from others; None where nothing does."""
        return self.start if self.session is None else self.session

    @property
    def own_keys(self) -> tuple[str, ...]:
        """Keys that stand for this conversation alone."""
        named = () if self.session is None else (_session_key(self.session),)
        return (*named, *self.keys[self.shared :])

    @classmethod
    def of_session(cls, session: str, n_tokens: int) -> Prefix:
        """Of a session of which no more is known than its name."""
        if not isinstance(session, str) or not session:
            raise InputError(
                f"expected the session's name as text, got {type(session).__name__}: name it."
            )
        return cls((_session_key(session),), (n_tokens,), start=session)


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
        # When, and on which tier, a conversation had its latest turn.
        self._turns_by_key: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._pause_s = self._paused_until_s = 0.0

    def __len__(self) -> int:
        """How many prefixes are remembered."""
        return len(self._entries)

    def warmth(self, prefix: Prefix) -> Warmth:
        """What is warm of the prefix now; the longest part that is known counts."""
        now = self._clock()
        self._fetch(prefix.keys)
        tokens: dict[str, int] = {}
        with self._lock:
            for key in reversed(prefix.keys):
                for tier, entry in self._entries.get(key, {}).items():
                    if _is_warm(entry, now):
                        tokens.setdefault(tier, min(entry.tokens, prefix.n_tokens))
                    elif entry.tokens == 0:
                        # Found cold after what is shorter was stored.
                        tokens.setdefault(tier, 0)
            last = self._latest(prefix)
        warm = {tier: n for tier, n in tokens.items() if n > 0}
        return Warmth(warm, last[1] if last is not None and last[1] in warm else None)

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
        where the model has no cache, no more is learned than that there was a turn.
        """
        before = self.warmth(prefix)
        now = self._clock()
        last_key = prefix.keys[-1] if whole is None else whole
        made: list[WarmPrefix] = []
        if usage is not None and policy is not None:
            made = self._made(tier, prefix, usage, policy, last_key, now)
        with self._lock:
            self._count_turn(tier, prefix, last_key, now)
            believed = before.tokens.get(tier, 0)
            if usage is not None and policy is not None and believed:
                hits, answers = self._hits.get(tier, (0.0, 0.0))
                if answers >= _MEMORY:
                    hits, answers = hits / 2.0, answers / 2.0
                hit = min(usage.cached_input_tokens / believed, 1.0)
                self._hits[tier] = hits + hit, answers + 1.0
            for entry in made:
                self._keep(entry)
        self._send(made)

    def _made(
        self,
        tier: str,
        prefix: Prefix,
        usage: Usage,
        policy: CachePolicy,
        last_key: str,
        now: float,
    ) -> list[WarmPrefix]:
        """What an answer shows to be kept; of 0 tokens, what it shows not to be."""
        warm = policy.cacheable_tokens(usage.input_tokens)
        if policy.writes_reported:
            warm = usage.cached_input_tokens + usage.cache_write_tokens
        kept = {last_key: warm}
        if prefix.shared and warm:
            # Where nothing is kept, it is for others' answers to show whether the shared part is.
            kept.setdefault(prefix.keys[0], min(warm, policy.cacheable_tokens(prefix.tokens[0])))
        made = []
        for key, tokens in kept.items():
            stored = now
            if not policy.refreshed_by_hits and usage.cached_input_tokens:
                with self._lock:
                    known = self._entries.get(key, {}).get(tier)
                if known is not None and _is_warm(known, now):
                    stored = known.stored_at_s
            made.append(WarmPrefix(tier, key, tokens, stored, policy.ttl_s))
        return made

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

    def _count_turn(self, tier: str, prefix: Prefix, last_key: str, now: float) -> None:
        latest = self._latest(prefix)
        self._turns += 1.0
        gap = -1.0 if latest is None else now - latest[0]
        if gap < 0.0:  # a new session, or a clock that was set back
            self._sessions += 1.0
        else:
            self._gaps += 1.0
            self._gap_sum_s += gap
        shared = prefix.keys[:1] if prefix.shared else ()
        for key in (last_key, *prefix.own_keys[:1]):
            if key not in shared:
                self._turns_by_key[key] = now, tier
                self._turns_by_key.move_to_end(key)
        while len(self._turns_by_key) > self._max:
            self._turns_by_key.popitem(last=False)

    def _latest(self, prefix: Prefix) -> tuple[float, str] | None:
        """When and where the conversation had its latest turn; None where it is new."""
        times = [self._turns_by_key[key] for key in prefix.own_keys if key in self._turns_by_key]
        times += [
            (entry.stored_at_s, entry.tier)
            for key in prefix.own_keys
            for entry in self._entries.get(key, {}).values()
        ]
        return max(times, default=None)

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
        store = self._reachable_store()
        if store is None:
            return
        try:
            found = store.load_warm(keys)
        except LedgerError as error:
            self._store_lost(error)
            return
        with self._lock:
            for entry in found:
                self._keep(entry)

    def _send(self, entries: Sequence[WarmPrefix]) -> None:
        store = self._reachable_store()
        if store is None or not entries:
            return
        try:
            store.save_warm(entries)
        except LedgerError as error:
            self._store_lost(error)
        else:
            self._pause_s = 0.0

    def _reachable_store(self) -> WarmStore | None:
        """None too while it is left alone after a failure."""
        return None if self._clock() < self._paused_until_s else self._store

    def _store_lost(self, error: LedgerError) -> None:
        # Waiting for a lock costs seconds, and a request is not worth that for what only makes it
        # cheaper: the store is asked again after ever longer pauses.
        if self._pause_s == 0.0:
            _LOG.warning("what is warm cannot be shared between processes now: %s", error)
        self._pause_s = min(max(2.0 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._paused_until_s = self._clock() + self._pause_s


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


def _session_key(session: str) -> str:
    return f"session:{session}"


def _is_warm(entry: WarmPrefix, now: float) -> bool:
    return entry.tokens > 0 and -_CLOCK_SKEW_S <= now - entry.stored_at_s <= entry.ttl_s
