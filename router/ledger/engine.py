"""The connection to a ledger's database: opened safely, short transactions, usable after errors.

SQLite is opened in WAL mode: readers never wait for the writer. A commit is then in the operating
system's hands and survives the end of the process, however sudden; with ``synchronous="full"`` it
is on the disk and survives a loss of power too.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Literal

import sqlalchemy as sa

from router.errors import InputError, LedgerError
from router.ledger.errors import driver_missing, one_sentence
from router.ledger.place import Place
from router.ledger.tables import is_current, prepare, version_of

Synchronous = Literal["normal", "full"]

_WRITES = "cps_ledger_writes"
# How long to wait before asking again for what SQLite's own timeout does not cover.
_AGAIN_AFTER_S = 0.02


class LedgerEngine:
    """Connections of one process to one ledger; safe between threads, and after a fork."""

    def __init__(
        self, place: Place, *, synchronous: Synchronous, busy_timeout_s: float, create: bool
    ) -> None:
        self.place = place
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._closed = False
        # Not Path.exists, which raises for a name that is too long.
        if place.path is not None and not create and not os.path.exists(place.path):
            raise InputError(
                f"expected a ledger at {place.shown}, found no file: check the path, or the "
                "variable CPS_ROUTER_LEDGER."
            )
        if place.path is not None and create:
            # For its owner alone: it holds queries. Where it cannot be made, SQLite says why.
            with suppress(OSError):
                os.close(os.open(place.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._engine = self._make_engine()
        self._start()
        try:
            with one_sentence(place):
                self._prepare(create)
        except BaseException:
            self._engine.dispose()
            raise

    @contextmanager
    def reading(self, *, at_once: bool = False) -> Iterator[sa.Connection]:
        """A connection that sees one state of the ledger until its end. Raises LedgerError.

        ``at_once``: a server that does not answer in time is an error (see
        `router.ledger.postgres`); otherwise it may take long, as a report does.
        """
        self._check()
        with one_sentence(self.place), self._engine.connect() as connection:
            if not self.place.is_sqlite:
                # The default would see, in each statement, what was committed meanwhile.
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin(), self._patience(connection, at_once):
                yield connection

    @contextmanager
    def writing(self, *, at_once: bool = False) -> Iterator[sa.Connection]:
        """A transaction, committed at its end; what fails is undone. Raises LedgerError.

        ``at_once`` as in `reading`.
        """
        self._check()
        with one_sentence(self.place):
            if not self.place.is_sqlite:
                with (
                    self._engine.begin() as connection,
                    self._patience(connection, at_once),
                ):
                    yield connection
                return
            # SQLite lets one write at a time, and those who wait for its lock ask again and again;
            # threads of this process queue up instead.
            if not self._write_lock.acquire(timeout=self._busy_timeout_s):
                raise LedgerError(
                    f"expected to write to the ledger {self.place.shown}, but other threads did "
                    f"so for {self._busy_timeout_s:g} s: try again, or raise busy_timeout_s."
                )
            try:
                with self._engine.connect() as connection:
                    connection = connection.execution_options(**{_WRITES: True})
                    with connection.begin():
                        yield connection
            finally:
                self._write_lock.release()

    def _patience(self, connection: sa.Connection, at_once: bool) -> AbstractContextManager[None]:
        if at_once or self.place.is_sqlite:
            return nullcontext()
        from router.ledger.postgres import patient

        return patient(connection)

    def close(self) -> None:
        """Close the connections; more than once is no error."""
        self._closed = True
        self._engine.dispose()

    def _check(self) -> None:
        if self._closed:
            raise LedgerError(
                f"expected an open ledger, but {self.place.shown} was closed: open it anew."
            )
        if os.getpid() != self._pid:
            # Connections of the parent process must not be used by two; they are left to it.
            self._engine.dispose(close=False)
            self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._write_lock = threading.Lock()

    def _make_engine(self) -> sa.Engine:
        timeout_s = self._busy_timeout_s
        options: dict[str, Any] = {"hide_parameters": True, "pool_timeout": max(timeout_s, 0.01)}
        if self.place.is_sqlite:
            options["connect_args"] = {"timeout": timeout_s}
        else:
            options["pool_pre_ping"] = True
        try:
            engine = sa.create_engine(_url_of(self.place), **options)
        except ModuleNotFoundError as error:
            raise driver_missing(error) from None
        except (sa.exc.ArgumentError, ValueError):
            raise InputError(
                "expected a URL like postgresql://user@host:5432/database, got one that cannot be "
                "read: write special characters of a password as %40 and the like."
            ) from None
        if self.place.is_sqlite:
            sa.event.listen(engine, "connect", self._set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        else:
            from router.ledger.postgres import guard

            guard(engine, timeout_s, flushes=self._synchronous == "full")
        return engine

    def _set_up_sqlite(self, connection: sqlite3.Connection, _: Any) -> None:
        # Transactions are begun by _begin_sqlite, not by the driver's guesses.
        connection.isolation_level = None
        # What is deleted is overwritten: queries may be anybody's.
        connection.execute("PRAGMA secure_delete = ON")
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        # NORMAL keeps a database whole only in WAL mode, which not every file system allows.
        level = self._synchronous if mode == "wal" else "full"
        connection.execute(f"PRAGMA synchronous = {level}")

    def _prepare(self, create: bool) -> None:
        with self._engine.connect() as connection:
            version = version_of(connection)
        if version is None and not create:
            raise InputError(
                f"expected a ledger at {self.place.shown}, found none in that database: check the "
                "path or URL."
            )
        if self.place.is_sqlite:
            self._use_wal()
        if version is not None and is_current(version, self.place.shown):
            return  # nothing to write: what may only be read can be opened
        with self.writing() as connection:
            prepare(connection, self.place.shown)

    def _use_wal(self) -> None:
        """Switch the file to WAL mode, which is for good; needs a moment without other users."""
        until = time.monotonic() + self._busy_timeout_s
        raw = self._engine.raw_connection()
        try:
            while True:
                try:
                    connection: Any = raw.driver_connection
                    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
                    if mode != "wal":
                        connection.execute("PRAGMA journal_mode = WAL").fetchone()
                    break
                except sqlite3.OperationalError as error:
                    name = error.sqlite_errorname
                    if name.startswith("SQLITE_READONLY"):
                        return  # to be read as it is
                    # SQLite's own timeout does not cover the switch of two at a time.
                    if not name.startswith("SQLITE_BUSY") or time.monotonic() >= until:
                        raise
                    time.sleep(_AGAIN_AFTER_S)
        finally:
            raw.close()
        # The connection at hand was set up before the switch.
        self._engine.dispose()


def _url_of(place: Place) -> sa.URL | str:
    if place.path is None:
        return place.url
    if not place.read_only:
        return sa.URL.create("sqlite", database=str(place.path))
    options = {"mode": "ro", "uri": "true"}
    return sa.URL.create("sqlite", database=place.path.as_uri(), query=options)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that began as a reader could not wait for its turn.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
