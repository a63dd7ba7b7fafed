"""The time of a request that counts: without that which its reader takes.

A stream hands each piece to its reader, who comes back for the next one when they like. What they
take is neither the provider's latency nor a reason to end a stream that flows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OwnClock:
    """Seconds of a clock, those left out that passed while it was ``stopped``.

    >>> seconds = iter([1.0, 2.0, 10.0, 11.0])
    >>> clock = OwnClock(lambda: next(seconds))
    >>> before = clock()
    >>> with clock.stopped():
    ...     pass
    >>> clock() - before
    2.0
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left_out_s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self._clock() - self._left_out_s

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leaves out what passes within."""
        begun_s = self._clock()
        try:
            yield
        finally:
            self._left_out_s += self._clock() - begun_s
