"""Records as JSON lines: what a ledger could not take for too long, kept in a file until it can.

The file is made for its owner alone, since records hold the text of queries.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.errors import InputError
from router.query_record import record_of, stored_query
from router.records import AttemptRecord, RequestRecord
from router.stored_query import Query, StoredQuery
from router.usage import Usage

if TYPE_CHECKING:
    from router.client.recording import Recorder

# What comes of reading a line that is none of ours.
_UNREADABLE = (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
# So many lines are named.
_MAX_SHOWN = 20


def append_to_spill(
    path: Path, request: RequestRecord, attempts: tuple[AttemptRecord, ...]
) -> None:
    """Add one request's records to the file, whole or not at all. Raises OSError."""
    line = json.dumps(_to_json(request, attempts), allow_nan=False).encode("ascii") + b"\n"
    place = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _lock(place)  # until it is closed: what is cut back below is nobody else's
        size = os.fstat(place).st_size
        if size and os.pread(place, 1, size - 1) != b"\n":
            line = b"\n" + line  # a process was killed in the middle of its line
        written = os.write(place, line)
        if written != len(line):
            # As a disk does that is nearly full. Half a line would also spoil the next one.
            os.ftruncate(place, size)
            raise OSError(errno.ENOSPC, "a record was written in part, and taken back")
    finally:
        os.close(place)


def _lock(place: int) -> None:
    """Lines of several processes do not mix; where there are no locks, they are one write each."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover
        return
    with contextlib.suppress(OSError):  # some file systems have none
        fcntl.flock(place, fcntl.LOCK_EX)


def replay_spill(path: str | Path, ledger: Recorder) -> int:
    """Hand every record of the file to the ledger; how many there were.

    A line that cannot be taken keeps none of the others: all of them are handed over first.
    Nothing is counted twice where a file is replayed twice. Delete the file afterwards.

    Raises:
        InputError: the file cannot be read; or, at the end, lines are none of ours or are refused
            by the ledger for good (their numbers are named).
        LedgerError: the ledger cannot take them now.
    """
    try:
        lines = Path(path).read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise InputError(
            f"expected a file of spilled records at {path}, got {type(error).__name__}: check the "
            "path."
        ) from None
    n, bad = 0, []
    for number, line in enumerate([] if lines == [b""] else lines, start=1):
        try:
            record = _from_json(json.loads(line))
        except _UNREADABLE:
            bad.append(number)
            continue
        try:
            ledger.record(*record)
        except InputError:
            bad.append(number)
        else:
            n += 1
    if bad:
        shown = ", ".join(map(str, bad[:_MAX_SHOWN])) + (", ..." if len(bad) > _MAX_SHOWN else "")
        raise InputError(
            f"{path}, line {shown}: expected a spilled record, got something else; the other {n} "
            "are in the ledger: mend or remove the line."
        )
    return n


def _to_json(request: RequestRecord, attempts: tuple[AttemptRecord, ...]) -> dict[str, Any]:
    query = request.query
    plain = asdict(replace(request, query=None, decision={}))
    plain["decision"] = dict(request.decision)
    plain["at"] = request.at.isoformat()
    plain["query"] = record_of(query) if isinstance(query, StoredQuery) else query
    made = [{**asdict(attempt), "at": attempt.at.isoformat()} for attempt in attempts]
    return {"request": plain, "attempts": made}


def _from_json(line: Mapping[str, Any]) -> tuple[RequestRecord, tuple[AttemptRecord, ...]]:
    plain = dict(line["request"])
    found = plain.pop("query")
    query: Query | None = stored_query(found) if isinstance(found, dict) else found
    at = datetime.fromisoformat(plain.pop("at"))
    attempts = []
    for made in line["attempts"]:
        usage = made["usage"]
        values = {**made, "at": datetime.fromisoformat(made["at"])}
        attempts.append(
            AttemptRecord(**{**values, "usage": None if usage is None else Usage(**usage)})
        )
    return RequestRecord(at=at, query=query, **plain), tuple(attempts)
