"""The ledger: every request, attempt and feedback, kept where it survives the process.

SQLite by default (one file, any number of processes of one machine), PostgreSQL by URL. What a
method has returned from is committed. ``docs/ledger.md`` says what survives what.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from router.errors import InputError, LedgerError
from router.ledger.numbers import renumbered
from router.ledger.place import default_ledger, place_of
from router.ledger.rows import (
    LedgerEntry,
    Row,
    feedback_row,
    moment_us,
    name_of,
    number,
    rows_of,
    warm_row,
)
from router.records import AttemptRecord, RequestRecord, WarmPrefix

if TYPE_CHECKING:
    from router.ledger.engine import Synchronous

__all__ = ["Ledger", "LedgerEntry", "default_ledger"]

# Others can only take a number as often as they have attempts to record.
_MOST_TRIES = 20

Store = Literal["text", "none"]

BUSY_TIMEOUT_S = 5.0
CHUNK = 500
# Expired prefixes are removed by every so many savings.
_PRUNE_EVERY = 200


class _NumbersTakenError(Exception):
    """Undoes a transaction: fewer attempts were written than were given."""


class Ledger:
    """Requests, attempts, feedback and warm prefixes; safe between threads and processes.

    Args:
        url_or_path: A path (made where there is none), ``sqlite:///PATH``, or
            ``postgresql://user@host/database``.
        store: "text" keeps queries as they were recorded, texts or ``StoredQuery``; "none" keeps
            nothing of them, and what was recorded cannot be exported to train on.
        synchronous: Of SQLite. "normal": what was acknowledged survives the sudden end of the
            process, "full": a loss of power too, at the price of a disk's flush per record.
            PostgreSQL does as the server is set, or with "full" flushes always.
        busy_timeout_s: How long to wait for others' locks, for a free connection and for a server
            to answer, before a LedgerError.
        create: False refuses a ledger that is not there yet.

    Raises:
        MissingExtraError: SQLAlchemy or the driver is not installed.
        LedgerError: the ledger cannot be opened, or was written by a newer release.
        InputError: an argument is none of the above, or nothing is there with ``create`` False.
    """

    def __init__(
        self,
        url_or_path: str | PathLike[str] | None = None,
        *,
        store: Store = "text",
        synchronous: Synchronous = "normal",
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        create: bool = True,
    ) -> None:
        if store not in ("text", "none") or synchronous not in ("normal", "full"):
            raise InputError(
                f'expected store "text" or "none" and synchronous "normal" or "full", got '
                f"{store!r:.40} and {synchronous!r:.40}: choose one of each."
            )
        self._place = place_of(default_ledger() if url_or_path is None else url_or_path)
        busy_timeout_s = number("busy_timeout_s", busy_timeout_s, 0.0)
        try:
            from router.ledger import statements as ledger_statements
            from router.ledger.engine import LedgerEngine
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("sqlalchemy"):
                raise
            from router.errors import MissingExtraError

            raise MissingExtraError("sqlalchemy", "ledger", "the ledger") from None
        self._sql = ledger_statements
        self._store: Store = store
        self._savings = 0
        self._engine = LedgerEngine(
            self._place, synchronous=synchronous, busy_timeout_s=busy_timeout_s, create=create
        )

    def __repr__(self) -> str:
        return f"Ledger({self._place.shown!r}, store={self._store!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def store(self) -> Store:
        """What is kept of queries: "text" or "none"."""
        return self._store

    @property
    def engine(self) -> Any:
        """The connection that reports read through (``router.ledger.report``)."""
        return self._engine

    def close(self) -> None:
        """Close the connections; more than once is no error."""
        self._engine.close()

    def record(self, request: RequestRecord, attempts: Sequence[AttemptRecord] = ()) -> None:
        """Write a request and the attempts made so far, in one transaction; committed on return.

        Call it before the first model call (no attempts, ``done=False``) and after each attempt.
        Repeating a record changes nothing. A record replaces what is of the same or an earlier
        state of the request (``done``, then the highest attempt), never of a later one; a query
        that is left out does not erase one that was recorded. No attempt replaces another one,
        made at another time or by another tier, whose number it has: it gets the next number.

        Raises:
            LedgerError: nothing was written; try again when the cause has gone.
            InputError: the record cannot be kept.
        """
        self.record_many([(request, attempts)])

    def record_many(self, records: Iterable[tuple[RequestRecord, Sequence[AttemptRecord]]]) -> None:
        """As `record`, for many in one transaction: all of them are written, or none."""
        rows = [rows_of(request, attempts, store=self._store) for request, attempts in records]
        if not rows:
            return
        # In one order, so that two who write the same requests do not wait for each other.
        rows.sort(key=lambda row: (row[0]["request_id"], row[0]["revision"]))
        if not self._written(rows):
            self._write_renumbered(rows)

    def _written(self, rows: Sequence[tuple[Row, list[Row]]]) -> bool:
        """Write them under their numbers; False, and nothing is written, where some are others'."""
        try:
            with self._engine.writing(at_once=True) as connection:
                self._sql.upsert_requests(connection, [row for row, _ in rows])
                attempts = [row for _, its in rows for row in its]
                if self._sql.upsert_own_attempts(connection, attempts) < len(attempts):
                    raise _NumbersTakenError
        except _NumbersTakenError:
            return False
        return True

    def _write_renumbered(self, rows: Sequence[tuple[Row, list[Row]]]) -> None:
        """As `record_many`, with a look at what is there: it is late, or of an id used again."""
        ids = sorted({row["request_id"] for row, _ in rows})
        for _ in range(_MOST_TRIES):
            try:
                with self._engine.writing(at_once=True) as connection:
                    requests, attempts = renumbered(rows, self._sql.kept_of(connection, ids))
                    self._sql.upsert_requests(connection, requests)
                    if self._sql.upsert_own_attempts(connection, attempts) < len(attempts):
                        raise _NumbersTakenError
            except _NumbersTakenError:
                continue  # by another process, since we looked
            return
        raise LedgerError(
            "expected a number for an attempt, but other processes write to the same request all "
            "the time: try again, and give every request an id of its own."
        )

    def feedback(
        self,
        request_id: str,
        success: bool | float,
        *,
        score: float | None = None,
        source: str = "user",
        at: datetime | None = None,
    ) -> bool:
        """Write how far a request succeeded (bool or 0..1); minutes or weeks later.

        One feedback is kept per request and ``source``: the one with the latest ``at``; of one
        moment, the worse. Without ``at`` it is the latest, whatever the clock says. Feedback on a
        request that is not recorded is kept, since its record may be under way.

        Returns:
            Whether the request is recorded.

        Raises:
            LedgerError: nothing was written.
            InputError: the feedback cannot be kept.
        """
        at_us = moment_us("at", datetime.now(UTC) if at is None else at)
        row = feedback_row(request_id, success, score, source, at_us)
        with self._engine.writing(at_once=True) as connection:
            self._sql.upsert_feedback(connection, row, is_latest=at is None)
            return self._sql.is_recorded(connection, row["request_id"])

    def requests(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        chunk: int = CHUNK,
    ) -> Iterator[LedgerEntry]:
        """Requests with ``since <= at < until``, the oldest first, ``chunk`` in memory at a time.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        if type(chunk) is not int or not 1 <= chunk <= 10_000:
            raise InputError(f"expected a chunk of 1 to 10,000 requests, got {chunk!r:.40}.")
        low = None if since is None else moment_us("since", since)
        high = None if until is None else moment_us("until", until)
        last: tuple[int, str] | None = None
        while True:
            with self._engine.reading() as connection:
                entries = self._sql.entries_after(connection, last, low, high, chunk)
            yield from entries
            if len(entries) < chunk:
                return
            request = entries[-1].request
            last = moment_us("at", request.at), request.request_id

    def request(self, request_id: str) -> LedgerEntry | None:
        """One request, None where it is not recorded. Raises LedgerError."""
        with self._engine.reading(at_once=True) as connection:
            return self._sql.entry(connection, name_of("request_id", request_id))

    def erase_queries(self, *, before: datetime) -> int:
        """Erase what is kept of the queries of requests before a time; returns how many.

        Costs and feedback stay; such requests can no longer be exported to train on, and no later
        record of them brings a query back. What batch jobs keep (`n_batch_texts`) is not touched.
        """
        with self._engine.writing() as connection:
            return self._sql.erase_queries(connection, moment_us("before", before))

    def n_batch_texts(self) -> int:
        """How many rows of batch jobs still have their prompt or answer."""
        with self._engine.reading() as connection:
            return self._sql.n_batch_texts(connection)

    def load_warm(self, keys: Sequence[str]) -> list[WarmPrefix]:
        """What is stored of these keys, on any tier, expired entries included.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        wanted = sorted({name_of("key", key) for key in keys})
        if not wanted:
            return []
        with self._engine.reading(at_once=True) as connection:
            return self._sql.warm_of(connection, wanted)

    def save_warm(self, entries: Sequence[WarmPrefix]) -> None:
        """Store warm prefixes; of one tier and key the one stored last stays.

        One that was stored in the future, by a clock that was ahead, gives way to any.

        Raises:
            LedgerError: nothing was written.
        """
        rows: list[Row] = sorted(map(warm_row, entries), key=lambda row: (row["tier"], row["key"]))
        if not rows:
            return
        with self._engine.writing(at_once=True) as connection:
            self._sql.upsert_warm(connection, rows, time.time())
            self._savings += 1
            if self._savings % _PRUNE_EVERY == 0:
                self._sql.prune_warm(connection, time.time())

    def prune_warm(self, now_s: float | None = None) -> int:
        """Remove the prefixes that have expired; returns how many. `save_warm` does it at times."""
        now_s = time.time() if now_s is None else number("now_s", now_s, 0.0)
        with self._engine.writing() as connection:
            return self._sql.prune_warm(connection, now_s)
