"""What a database complains of, as one sentence that holds no statement, no value and no password.

The driver's own words are never passed on: they may quote a prompt or the connection's URL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from router.errors import LedgerError, MissingExtraError
from router.ledger.place import Place

# By the beginning of sqlite3's error name: what is wrong, what to do.
_SQLITE = {
    "SQLITE_BUSY": ("it is locked by another connection", "try again, or raise busy_timeout_s"),
    "SQLITE_LOCKED": ("it is locked by another connection", "try again, or raise busy_timeout_s"),
    "SQLITE_FULL": ("the disk is full", "make room; what was acknowledged is kept"),
    "SQLITE_READONLY": ("it is read-only", "make it writable, or name another ledger"),
    "SQLITE_PERM": ("permission is denied", "make it writable, or name another ledger"),
    "SQLITE_CANTOPEN": ("it cannot be opened", "check that its folder exists and is writable"),
    "SQLITE_CORRUPT": ("the file is damaged", "restore it from a copy, or name another ledger"),
    "SQLITE_NOTADB": ("the file is no SQLite database", "name another ledger"),
    "SQLITE_IOERR": ("the disk cannot be read or written", "check the disk and its free space"),
    "SQLITE_TOOBIG": ("a text is too long for it", "shorten the query, or keep no text"),
}
# By the beginning of PostgreSQL's SQLSTATE, the longest that fits.
_POSTGRES = {
    "53100": ("its disk is full", "make room; what was acknowledged is kept"),
    "53": ("the server has no more resources", "try again, or allow it more connections"),
    "55P03": ("a row is locked by another connection", "try again, or raise busy_timeout_s"),
    "40": ("another transaction was in the way", "try again"),
    "25006": ("it is read-only", "connect to the primary server, as a user who may write"),
    "28": ("the server refused the user or password", "correct the URL"),
    "3D000": ("there is no such database", "create it, or correct the URL"),
    "3F": ("there is no such schema", "create it, or correct the search path"),
    "42501": ("the user may not do this", "grant the user the rights to create, read and write"),
    "57014": ("it did not answer in time", "try again, or raise busy_timeout_s"),
    "57": ("the server ended the connection", "try again once it is up"),
    "08": ("the server cannot be reached", "check that it is up, and the URL"),
    "54": ("a text is too long for it", "shorten the query, or keep no text"),
}
# Parts of what a server says that lets nobody in, and the state of that.
_REFUSALS = {
    'database "': "3D000",
    'role "': "28",
    "authentication failed": "28",
    "no password": "28",
    "pg_hba": "28",
    "too many": "53",
}
_GONE = ("the server cannot be reached", "check that it is up, and the URL, and try again")


@contextmanager
def one_sentence(place: Place) -> Iterator[None]:
    """Turn what goes wrong with the database into a LedgerError.

    The cause is not chained: tracebacks would show the statement's values.
    """
    try:
        yield
    except sa.exc.TimeoutError:
        raise _error(
            place, "all connections are in use", "try again, or use fewer threads"
        ) from None
    except sa.exc.DBAPIError as error:
        raise _error(place, *_words(error.orig)) from None
    except sqlite3.Error as error:
        raise _error(place, *_words(error)) from None
    except sa.exc.SQLAlchemyError as error:
        raise _error(
            place, f"the database layer failed ({type(error).__name__})", "try again"
        ) from None


def _error(place: Place, what: str, remedy: str) -> LedgerError:
    return LedgerError(f"expected to use the ledger {place.shown}, but {what}: {remedy}.")


def _words(error: BaseException | None) -> tuple[str, str]:
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None) or ""
        for head, words in _SQLITE.items():
            if name.startswith(head):
                return words
        return f"SQLite failed ({name or type(error).__name__})", "check the file"
    state = getattr(error, "sqlstate", None)
    if state is None:
        # A refused connection has no state, only words.
        said = str(error)
        return next((_POSTGRES[known] for part, known in _REFUSALS.items() if part in said), _GONE)
    for length in (5, 2):
        found = _POSTGRES.get(state[:length])
        if found is not None:
            return found
    return f"the server failed (SQLSTATE {state})", "look that state up in the server's manual"


def driver_missing(error: ModuleNotFoundError) -> MissingExtraError:
    """The error for a driver or SQLAlchemy itself that is not installed."""
    package = (error.name or "sqlalchemy").partition(".")[0]
    extra = "postgres" if package == "psycopg" else "ledger"
    return MissingExtraError(package, extra, "the ledger")
