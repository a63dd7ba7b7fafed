"""A circuit breaker per tier: after failures in a row a tier rests, then one call probes it.

::

    closed --(failures in a row)--> open --(rest is over)--> half-open --(probe ok)--> closed
                                      ^----(probe fails: a longer rest)---'

While a tier rests nobody calls it; when the rest is over one call at a time does, so that a
provider that comes back is not met by everybody at once. Rests are drawn at random within bounds,
so that many processes do not return in step; they are never shorter than what the provider asked
for. All times are of a monotonic clock: setting the wall clock changes nothing here.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from router.errors import InputError

# The part of a rest that is certain; the other part is drawn.
_LEAST_SHARE = 0.5


@dataclass(slots=True)
class _State:
    failures: int = 0
    rests: int = 0  # in a row: each is twice as long as the one before
    is_open: bool = False
    until_s: float = 0.0
    probing: bool = False
    # Raised whenever the breaker opens or closes; calls that began before have no say afterwards.
    generation: int = 0


class Permit:
    """Leave to call a tier once; say what became of it, the first word counts."""

    __slots__ = ("_breaker", "_generation", "_name", "_pending")

    def __init__(self, breaker: Breaker, name: str, generation: int) -> None:
        self._breaker = breaker
        self._name = name
        self._generation = generation
        self._pending = True

    def succeeded(self) -> None:
        """The provider answered."""
        self._end("success")

    def failed(self, retry_after_s: float | None = None) -> None:
        """The call failed by the provider's fault; it asked for ``retry_after_s`` of quiet."""
        self._end("failure", retry_after_s)

    def released(self) -> None:
        """Nothing was learned: the caller left, or was at fault."""
        self._end("nothing")

    def _end(self, what: str, retry_after_s: float | None = None) -> None:
        if self._pending:
            self._pending = False
            self._breaker._ended(self._name, self._generation, what, retry_after_s)


class Breaker:
    """Breakers of a fixed set of tiers. Safe to share between threads.

    Args:
        names: The tiers. No other state is kept, so memory is bounded.
        failures_to_open: So many failures in a row open it.
        rest_s: The first rest is at most this long (and at least half); each further one in a row
            twice as long, up to ``longest_rest_s``.
        longest_rest_s: See ``rest_s``; what a provider asks for counts up to this, too.
        clock: Monotonic seconds.
        draw: Random numbers in [0, 1).

    >>> breaker = Breaker(["nano"], failures_to_open=1, clock=lambda: 0.0)
    >>> breaker.enter("nano").failed()
    >>> sorted(breaker.resting()), breaker.enter("nano")
    (['nano'], None)
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        failures_to_open: int = 5,
        rest_s: float = 30.0,
        longest_rest_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if type(failures_to_open) is not int or failures_to_open < 1:
            raise InputError(
                f"expected failures_to_open as a whole number above 0, got {failures_to_open!r}: "
                "give for example 5."
            )
        if not 0 < rest_s <= longest_rest_s < float("inf"):
            raise InputError(
                f"expected 0 < rest_s <= longest_rest_s, got {rest_s!r} and {longest_rest_s!r}: "
                "give seconds, for example 30 and 300."
            )
        self._states = {name: _State() for name in names}
        self._failures_to_open = failures_to_open
        self._rest_s = rest_s
        self._longest_rest_s = longest_rest_s
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._n_open = 0

    def resting(self) -> frozenset[str]:
        """Tiers that may not be called now."""
        if not self._n_open:  # nearly always; reading a number needs no lock
            return frozenset()
        now = self._clock()
        with self._lock:
            return frozenset(n for n, s in self._states.items() if not _admits(s, now))

    def rest_left_s(self, names: Iterable[str]) -> float:
        """Seconds until the first of these tiers may be called; 0 where one may be now."""
        now = self._clock()
        with self._lock:
            states = [self._states[name] for name in names]
            left = [max(s.until_s - now, 0.0) if s.is_open else 0.0 for s in states]
        return min(left, default=0.0)

    def enter(self, name: str) -> Permit | None:
        """Leave for one call, or None where the tier rests or is being probed."""
        now = self._clock()
        with self._lock:
            state = self._states[name]
            if not _admits(state, now):
                return None
            state.probing = state.is_open
            return Permit(self, name, state.generation)

    def rest(self, name: str, seconds: float) -> None:
        """Let a tier rest for at least so long, whatever its failures: the provider asked for it.

        At most ``longest_rest_s``, so that a provider's slip of the pen does not close it for days.
        """
        with self._lock:
            state = self._states[name]
            until = self._clock() + min(max(seconds, 0.0), self._longest_rest_s)
            if not state.is_open:
                self._set_open(state, True)
            state.until_s = max(state.until_s, until)

    def _ended(self, name: str, generation: int, what: str, retry_after_s: float | None) -> None:
        with self._lock:
            state = self._states[name]
            if generation != state.generation:
                return
            state.probing = False
            if what == "success":
                state.failures = state.rests = 0
                if state.is_open:
                    self._set_open(state, False)
            elif what == "failure":
                state.failures += 1
                if state.is_open or state.failures >= self._failures_to_open:
                    self._open_for_a_rest(state, retry_after_s)

    def _open_for_a_rest(self, state: _State, retry_after_s: float | None) -> None:
        longest = min(self._rest_s * 2.0 ** min(state.rests, 30), self._longest_rest_s)
        drawn = longest * (_LEAST_SHARE + (1.0 - _LEAST_SHARE) * self._draw())
        asked = min(retry_after_s or 0.0, self._longest_rest_s)
        state.rests += 1
        self._set_open(state, True)
        state.until_s = self._clock() + max(drawn, asked)

    def _set_open(self, state: _State, is_open: bool) -> None:
        self._n_open += is_open - state.is_open
        state.is_open = is_open
        state.failures = 0
        state.probing = False
        state.generation += 1


def _admits(state: _State, now: float) -> bool:
    return not state.is_open or (now >= state.until_s and not state.probing)
