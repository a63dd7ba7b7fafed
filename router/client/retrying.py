"""When a failed call is tried again on the same tier, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from router.errors import InputError, ProviderError


@dataclass(frozen=True, slots=True)
class Retrying:
    """Times of one request, in seconds.

    ``timeout_s`` is for one call, ``deadline_s`` for all of them with their waits. A tier that is
    busy or cannot be reached is tried ``retries`` more times, each after what the provider asked
    for plus full jitter (evenly from 0 to ``backoff_s`` doubled each time, at most ``max_wait_s``).
    Where the provider asks for more than ``max_wait_s``, another tier is taken at once.
    Source of full jitter: M. Brooker, Exponential backoff and jitter, AWS Architecture Blog, 2015.

    >>> half = Retrying(draw=lambda: 0.5)
    >>> half.wait_s(ProviderError("busy", kind="rate-limit", retry_after_s=2.0), 0)
    2.25
    """

    timeout_s: float = 60.0
    deadline_s: float = 180.0
    retries: int = 2
    max_wait_s: float = 5.0
    backoff_s: float = 0.5
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("timeout_s", "deadline_s", "max_wait_s", "backoff_s"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value < float("inf")
                or (value == 0 and name in ("timeout_s", "deadline_s"))
            ):
                raise InputError(
                    f"expected {name} as a number of seconds above 0, got {value!r}: give for "
                    "example 30."
                )
        if type(self.retries) is not int or self.retries < 0:
            raise InputError(
                f"expected retries as a whole number of at least 0, got {self.retries!r}: give "
                "for example 2."
            )

    def wait_s(self, failure: ProviderError, n_retries: int) -> float | None:
        """How long to wait after so many retries; None where this tier shall not be tried again."""
        if failure.kind not in ("rate-limit", "outage") or n_retries >= self.retries:
            return None
        asked_s = max(failure.retry_after_s or 0.0, 0.0)
        if not asked_s <= self.max_wait_s:
            return None
        longest_s = min(self.backoff_s * 2.0 ** min(n_retries, 30), self.max_wait_s)
        return asked_s + longest_s * self.draw()
