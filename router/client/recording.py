"""Handing records to the ledger without ever losing an answer that was paid for.

What the ledger does not take now waits in memory, bounded, one entry per request, and is offered
again with later requests, by ``flush`` and at the end. Where more waits than may, the oldest goes
to a spill file, if there is one, and is otherwise dropped and counted. A ledger that is down is
left alone for a while, so that not every request waits for its time-out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from router.client.spill import append_to_spill
from router.errors import InputError, LedgerError
from router.records import AttemptRecord, RequestRecord

_LOG = logging.getLogger(__name__)

DEFAULT_MAX_WAITING = 1000
# Taken from those waiting with each record that the ledger has taken: some, so that the backlog
# shrinks, and few, since a request waits for it.
_PER_RECORD = 4
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

Entry = tuple[RequestRecord, tuple[AttemptRecord, ...]]


class Recorder(Protocol):
    """What the client needs of a ledger."""

    def record(self, request: RequestRecord, attempts: Sequence[AttemptRecord] = ()) -> None:
        """Keep a request and attempts of it; what was kept of them before is brought up to date.

        Attempts are counted from 1 whenever a request is made, also under an id that was used
        before: one that was made at another time, or by another tier, is another attempt.

        Returns when it is safe. Raises LedgerError where it cannot be kept now.
        """
        ...

    def feedback(
        self,
        request_id: str,
        success: float,
        *,
        score: float | None = None,
        source: str = "user",
        at: datetime | None = None,
    ) -> bool:
        """Keep what somebody says of an answer; False where the request is unknown."""
        ...


class Recording:
    """The way to one ledger. Safe to share between threads.

    Args:
        ledger: Where records go; None keeps none.
        max_waiting: How many requests may wait for it.
        spill_path: A file of JSON lines for what is more than that; it holds the text of queries.
        clock: Monotonic seconds.

    Attributes:
        n_dropped: Requests whose record is lost.
        n_spilled: Requests whose record is in the spill file.
    """

    def __init__(
        self,
        ledger: Recorder | None,
        *,
        max_waiting: int = DEFAULT_MAX_WAITING,
        spill_path: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(max_waiting) is not int or max_waiting < 0:
            raise InputError(
                f"expected max_waiting as a whole number of at least 0, got {max_waiting!r}: give "
                "how many records may wait for the ledger."
            )
        self.ledger = ledger
        self.n_dropped = 0
        self.n_spilled = 0
        self._max_waiting = max_waiting
        self._spill_path = None if spill_path is None else Path(spill_path)
        self._clock = clock
        self._lock = threading.Lock()
        # By id and time: requests that were given one id are not one request here.
        self._waiting: OrderedDict[tuple[str, datetime], Entry] = OrderedDict()
        self._pause_s = 0.0
        self._paused_until_s = 0.0

    @property
    def n_waiting(self) -> int:
        """How many requests' records the ledger has not taken yet."""
        return len(self._waiting)

    def record(
        self, request: RequestRecord, attempts: Sequence[AttemptRecord], *, first: bool = False
    ) -> bool:
        """Whether the ledger has it now; if not, it waits.

        Raises InputError for the ``first`` record of a request, before anything was paid for, where
        the ledger says that it can never be kept.
        """
        if self.ledger is None:
            return False
        entry = self._taken_together(request, tuple(attempts))
        if self._clock() < self._paused_until_s:
            self._wait(entry)
            return False
        try:
            self.ledger.record(*entry)
        except InputError as error:
            if first:
                raise
            self._refused(entry, error)
            return False
        except Exception as error:  # no ledger's fault may cost the answer
            self._failed(error)
            self._wait(entry)
            return False
        self._pause_s = 0.0
        if self._waiting:
            self._offer(_PER_RECORD)
        return True

    def flush(self) -> int:
        """Offer everything that waits, pause or not; how much still waits then."""
        self._paused_until_s = 0.0
        self._offer(None)
        return self.n_waiting

    def close(self) -> None:
        """Flush; what the ledger still does not take is spilled, or dropped and counted."""
        self.flush()
        with self._lock:
            left = list(self._waiting.values())
            self._waiting.clear()
        for entry in left:
            self._let_go(entry)

    def _taken_together(self, request: RequestRecord, attempts: tuple[AttemptRecord, ...]) -> Entry:
        """With what waits of the same request, which this brings up to date."""
        if not self._waiting:
            return request, attempts
        with self._lock:
            earlier = self._waiting.pop(_key(request), None)
        if earlier is None:
            return request, attempts
        by_number = {attempt.attempt: attempt for attempt in (*earlier[1], *attempts)}
        return request, tuple(by_number[number] for number in sorted(by_number))

    def _offer(self, most: int | None) -> None:
        """Hand over the oldest of those waiting, until there are no more or one is not taken."""
        done = 0
        while self.ledger is not None and (most is None or done < most):
            with self._lock:
                if not self._waiting:
                    return
                _, entry = self._waiting.popitem(last=False)
            try:
                self.ledger.record(*entry)
            except InputError as error:
                self._refused(entry, error)
            except Exception as error:
                self._failed(error)
                self._wait(entry, oldest=True)
                return
            done += 1

    def _wait(self, entry: Entry, *, oldest: bool = False) -> None:
        key = _key(entry[0])
        too_many: list[Entry] = []
        with self._lock:
            # While one was under way, a later state of the same request may have come to wait.
            if oldest and key in self._waiting:
                return
            self._waiting[key] = entry
            if oldest:
                self._waiting.move_to_end(key, last=False)
            while len(self._waiting) > self._max_waiting:
                too_many.append(self._waiting.popitem(last=False)[1])
        for older in too_many:
            self._let_go(older)

    def _let_go(self, entry: Entry) -> None:
        """Into the spill file, else it is lost."""
        if self._spill_path is not None:
            try:
                append_to_spill(self._spill_path, *entry)
            except (OSError, TypeError, ValueError) as error:
                _LOG.warning("a record cannot be spilled: %s", type(error).__name__)
            else:
                with self._lock:
                    self.n_spilled += 1
                return
        with self._lock:
            self.n_dropped += 1
            n = self.n_dropped
        _LOG.warning("records that the ledger did not take were dropped, %d so far", n)

    def _refused(self, entry: Entry, error: Exception) -> None:
        _LOG.warning("the ledger refuses a record for good: %s", type(error).__name__)
        self._let_go(entry)

    def _failed(self, error: Exception) -> None:
        """The ledger is left alone for a while, each time twice as long."""
        self._pause_s = min(max(2.0 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._paused_until_s = self._clock() + self._pause_s
        known = isinstance(error, LedgerError)
        _LOG.warning(
            "the ledger takes no records now (%s); %d wait, and it is asked again in %.0f s",
            type(error).__name__ if known else f"unexpected {type(error).__name__}",
            self.n_waiting + 1,
            self._pause_s,
        )


def _key(request: RequestRecord) -> tuple[str, datetime]:
    return request.request_id, request.at
