"""Whether a prefix that costs more to write will be read while it lives: a rule by expected cost.

In units of the plain input price: writing costs w (1.25 for five minutes, 2 for an hour), reading r
(0.1). If a share P of the uses of a prefix comes within its time to live after the one before, a
use of a prefix that is always marked costs P r + (1 - P) w on average, and one that never is costs
1. So a mark pays where::

    P > (w - 1) / (w - r)        0.22 for five minutes, 0.53 for an hour

P is estimated from the gaps between the uses of that very prefix, the later ones counting more
(each a fifth less than the one after it): a share of gaps, since traffic comes in bursts, where the
mean of the gaps would say little. Of a prefix never seen before nothing is known, and it is marked:
so ordinary traffic is cached from its first call, and a prefix that is used once an hour pays one
premium, ever. Where new prefixes mostly turn out to be used once (a time or a found document stands
in the system prompt), they are no longer marked until their second use: the same rule, for the
share of new prefixes that are used again in time. A prefix that was marked and still lives is
marked whatever P is: that is a read.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

# Of the input price. Some newer models read at 0.05, for which a mark pays even earlier.
WRITE = {"5m": 1.25, "1h": 2.0}
READ = 0.1
TTL_S = {"5m": 300.0, "1h": 3600.0}
# How much less a gap counts than the one after it.
_FADING = 0.8
MAX_PREFIXES = 4096


# So many new prefixes (faded) must have shown what became of them before they are judged by it.
_LEAST_EVIDENCE = 3.0


@dataclass(slots=True)
class _Share:
    """Of gaps that were within the time to live; the later ones count more."""

    hits: float = 0.0
    gaps: float = 0.0

    def add(self, is_hit: bool) -> None:
        self.hits = _FADING * self.hits + is_hit
        self.gaps = _FADING * self.gaps + 1.0

    def pays(self, ttl: str) -> bool:
        return self.hits > break_even(ttl) * self.gaps


@dataclass(slots=True)
class _Seen:
    last_s: float
    warm_until_s: float
    share: _Share = field(default_factory=_Share)


class Reuse:
    """When prefixes were used, in bounded memory; safe to share between threads.

    Args:
        max_prefixes: So many are remembered: what was used longest ago is forgotten first.
        clock: Monotonic seconds.

    >>> now = iter([0.0, 3600.0, 7200.0])
    >>> reuse = Reuse(clock=lambda: next(now))
    >>> [reuse.pays("a prompt once an hour") for _ in range(3)]
    [True, False, False]
    """

    def __init__(
        self, max_prefixes: int = MAX_PREFIXES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_prefixes = max_prefixes
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        # Until when those that were used once may prove themselves, and how such ones have done.
        self._new: OrderedDict[str, float] = OrderedDict()
        self._new_ones = _Share()

    def pays(self, key: str, ttl: str = "5m", *, anyway: bool = False) -> bool:
        """Whether to mark this use of a prefix, which is noted.

        ``key`` stands for its bytes; ``anyway`` says that it is written whatever is said here.
        """
        now, ttl_s = self._clock(), TTL_S[ttl]
        with self._lock:
            self._judge_new_ones(now)
            seen = self._seen.get(key)
            if seen is None:
                few = self._new_ones.gaps < _LEAST_EVIDENCE
                marks = anyway or few or self._new_ones.pays(ttl)
                self._seen[key] = seen = _Seen(now, now)
                self._new[key] = now + ttl_s
                if len(self._seen) > self._max_prefixes:
                    forgotten, _ = self._seen.popitem(last=False)
                    self._new.pop(forgotten, None)
            else:
                self._seen.move_to_end(key)
                if self._new.pop(key, None) is not None:
                    self._new_ones.add(True)
                seen.share.add(now - seen.last_s <= ttl_s)
                marks = anyway or now < seen.warm_until_s or seen.share.pays(ttl)
            seen.last_s = now
            if marks:
                seen.warm_until_s = now + ttl_s
            return marks

    def _judge_new_ones(self, now: float) -> None:
        """Those whose time is over were not used again in time."""
        while self._new:
            key, until_s = next(iter(self._new.items()))
            if now <= until_s:
                return
            del self._new[key]
            self._new_ones.add(False)


def break_even(ttl: str) -> float:
    """The share of uses within the time to live of the one before, from which a mark pays.

    >>> round(break_even("5m"), 3), round(break_even("1h"), 3)
    (0.217, 0.526)
    """
    return (WRITE[ttl] - 1.0) / (WRITE[ttl] - READ)
