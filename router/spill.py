"""Records as JSON lines: what a ledger could not take for too long, kept in a file until it can.

The file is made for its owner alone, since records hold the text of queries.
"""

from __future__ import annotations

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
    from router.recording import Recorder


def append_to_spill(
    path: Path, request: RequestRecord, attempts: tuple[AttemptRecord, ...]
) -> None:
    """Add one request's records to the file. Raises OSError."""
    line = json.dumps(_to_json(request, attempts), allow_nan=False) + "\n"
    # In one write at the end of the file: lines of several processes do not mix.
    place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(place, line.encode("ascii"))
    finally:
        os.close(place)


def replay_spill(path: str | Path, ledger: Recorder) -> int:
    """Hand every record of the file to the ledger; how many there were.

    Nothing is counted twice where a file is replayed twice. Delete the file afterwards.

    Raises:
        InputError: the file cannot be read, or a line is none of ours (its number is named).
        LedgerError: the ledger cannot take them now.
    """
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"expected a file of spilled records at {path}, got {type(error).__name__}: check the "
            "path."
        ) from None
    for number, line in enumerate(lines, start=1):
        try:
            request, attempts = _from_json(json.loads(line))
        except (InputError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path}, line {number}: expected a spilled record, got something else: remove the "
                "line."
            ) from None
        ledger.record(request, attempts)
    return len(lines)


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
