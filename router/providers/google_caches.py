"""Explicit caches at Google: created for a prefix, reused, kept alive, and deleted by us.

Which prefix: the contents up to the user's last ``cache_control``; without one, the system prompt
and the tools where these are long enough, which all conversations share; else the conversation
before its last turn. A living cache of any beginning of a prompt is used rather than a new one
made: storage is billed by the hour.

The decisions are a generator that asks for the SDK's calls one by one, so that they are the same
with and without asyncio.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from router.providers.caching import min_cacheable_tokens
from router.providers.failures import status_of
from router.providers.google_request import Shaped
from router.providers.shaping import estimated_prompt_tokens

# With one of these the API has no caches, or a cache of its own choice.
_OWN_FIELDS = ("cached_content", "tool_config")
# What the API says of a cache that is gone, belongs to somebody else ("CachedContent not found (or
# permission denied)", 403 or 404) or has expired ("Cache content 12 is expired.", 400): what it is
# about, and what is the matter with it. The same statuses stand for a hundred faults of a request,
# some of which mention the cache ("CachedContent can not be used with ...").
_GONE_STATUSES = (400, 403, 404)
_GONE = re.compile(
    r"\bcached?[ _]?contents?\b[^.;]{0,200}?"
    r"\b(?:not found|expired|permission denied|does not exist)\b",
    re.IGNORECASE,
)
# So many prefixes that the API would not cache are remembered.
_MAX_REFUSED = 1000


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the SDK's ``caches`` to make; answered with what it returned or raised."""

    operation: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A cache to use: its name, its key here, and how many contents it stands for."""

    name: str
    key: str
    n_contents: int


@dataclass(slots=True)
class _Entry:
    name: str
    ttl_s: int
    expires_s: float


class GoogleCaches:
    """The caches of one provider; safe to share between threads.

    At most ``max_caches`` are kept: what was used longest ago is deleted first.
    """

    def __init__(self, max_caches: int = 32, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_caches = max_caches
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._creating: set[str] = set()
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._doomed: list[str] = []

    def steps(self, model: str, shaped: Shaped, ttl_s: int) -> Generator[Call, Outcome, Use | None]:
        """Asks for the calls that are needed; returns the cache to use, None to go without."""
        if any(name in shaped.config for name in _OWN_FIELDS):
            return None
        keys = prefix_digests(model, shaped)
        found = self._living(keys)
        if found is not None:
            use, entry, refresh = found
            if refresh:
                outcome = yield Call(
                    "update", {"name": use.name, "config": {"ttl": f"{entry.ttl_s}s"}}
                )
                if outcome.error is None:
                    with self._lock:
                        entry.expires_s = self._clock() + entry.ttl_s
                elif is_gone(outcome.error):
                    self.forget(use.key)
                    return None
            return use
        n_contents = stable_contents(model, shaped)
        if n_contents is None or not self._claim(keys[n_contents]):
            return None
        key = keys[n_contents]
        created: str | None = None
        try:
            outcome = yield Call(
                "create", {"model": model, "config": _cached(shaped, n_contents, ttl_s)}
            )
            created = getattr(outcome.value, "name", None)
            if created is None:
                self._refuse(key, outcome.error)
                return None
        finally:
            with self._lock:
                self._creating.discard(key)
                if created is not None:
                    expires_s = self._clock() + ttl_s
                    self._entries[key] = _Entry(created, ttl_s, expires_s)
                    while len(self._entries) > self._max_caches:
                        self._doomed.append(self._entries.popitem(last=False)[1].name)
        yield from self.deletions()
        return Use(created, key, n_contents)

    def deletions(self) -> Generator[Call, Outcome, int]:
        """Asks for the deletion of what is no longer kept; returns how many were deleted."""
        n_deleted = 0
        while True:
            with self._lock:
                if not self._doomed:
                    return n_deleted
                name = self._doomed.pop()
            # One that cannot be deleted ends with its time to live.
            outcome = yield Call("delete", {"name": name})
            n_deleted += outcome.error is None

    def forget(self, key: str) -> None:
        """A cache that was refused: it is used no more, and deleted if it still exists."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._doomed.append(entry.name)

    def forget_all(self) -> None:
        """All of them are to be deleted."""
        with self._lock:
            self._doomed.extend(entry.name for entry in self._entries.values())
            self._entries.clear()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to delete."""
        with self._lock:
            return not self._entries and not self._doomed

    def _living(self, keys: list[str]) -> tuple[Use, _Entry, bool] | None:
        """The cache of the longest prefix, and whether half of its life is over."""
        now = self._clock()
        with self._lock:
            # The last content is the new one: a cache never stands for all of them.
            for n_contents in range(len(keys) - 2, -1, -1):
                entry = self._entries.get(keys[n_contents])
                if entry is None:
                    continue
                if entry.expires_s <= now:
                    del self._entries[keys[n_contents]]
                    continue
                self._entries.move_to_end(keys[n_contents])
                refresh = entry.expires_s - now < entry.ttl_s / 2
                return Use(entry.name, keys[n_contents], n_contents), entry, refresh
        return None

    def _claim(self, key: str) -> bool:
        """Whether this call shall create it: one that others create now is not waited for."""
        with self._lock:
            if key in self._creating or key in self._refused:
                return False
            self._creating.add(key)
            return True

    def _refuse(self, key: str, error: Exception | None) -> None:
        """A prefix that the API will not cache (too short, say) is not offered again."""
        status = None if error is None else status_of(error)
        if status is not None and 400 <= status < 500 and status not in (401, 403, 408, 429):
            with self._lock:
                self._refused[key] = None
                while len(self._refused) > _MAX_REFUSED:
                    self._refused.popitem(last=False)


def is_gone(error: Exception) -> bool:
    """Whether the API says of the cache, and of nothing else, that it is not there (any more)."""
    message = getattr(error, "message", None)
    return (
        status_of(error) in _GONE_STATUSES
        and isinstance(message, str)
        and _GONE.search(message) is not None
    )


def stable_contents(model: str, shaped: Shaped) -> int | None:
    """How many contents belong into a new cache; None where there is nothing to cache."""
    least = min_cacheable_tokens("google", model) or 0
    system = [shaped.config.get("tools"), shaped.config.get("system_instruction")]
    tokens = estimated_prompt_tokens(system)
    if shaped.marked is not None:
        n_contents = min(shaped.marked, len(shaped.contents) - 1)
    elif tokens >= least:
        n_contents = 0
    else:
        n_contents = len(shaped.contents) - 1
    if n_contents < 0:
        return None
    tokens += estimated_prompt_tokens(shaped.contents[:n_contents])
    return n_contents if tokens >= least else None


def prefix_digests(model: str, shaped: Shaped) -> list[str]:
    """A digest of the system prompt and tools, and one after each content."""
    system = [model, shaped.config.get("tools"), shaped.config.get("system_instruction")]
    chain = blake2b(_canonical(system), digest_size=16)
    digests = [chain.hexdigest()]
    for content in shaped.contents:
        chain.update(_canonical(content))
        digests.append(chain.hexdigest())
    return digests


def _canonical(value: Any) -> bytes:
    # Signatures are bytes.
    text = json.dumps(value, ensure_ascii=False, default=lambda inner: inner.hex())
    # A length before each, so that no two chains of parts run together.
    data = text.encode("utf-8", "surrogatepass")
    return f"{len(data)}:".encode() + data


def _cached(shaped: Shaped, n_contents: int, ttl_s: int) -> dict[str, Any]:
    config: dict[str, Any] = {"ttl": f"{ttl_s}s"}
    for name in ("system_instruction", "tools"):
        if name in shaped.config:
            config[name] = shaped.config[name]
    if n_contents:
        config["contents"] = shaped.contents[:n_contents]
    return config


def with_cache(shaped: Shaped, use: Use) -> Shaped:
    """The rest of a request whose beginning is cached: to say it twice is an error of the API."""
    config = {
        name: value
        for name, value in shaped.config.items()
        if name not in ("system_instruction", "tools")
    }
    return Shaped(
        shaped.contents[use.n_contents :], {**config, "cached_content": use.name}, shaped.marked
    )
