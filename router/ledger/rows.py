"""From records to rows of the ledger's tables and back; what cannot be kept is refused here.

Refused before anything is written, and so before the call that a record announces is paid for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from router.errors import InputError, OutcomeError
from router.query_record import record_of, stored_query
from router.records import AttemptRecord, FeedbackRecord, RequestRecord, Role, Status, WarmPrefix
from router.stored_query import Query, StoredQuery
from router.usage import Usage

Row = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MAX_CHARACTERS = 500
"""Of an id or a name: an index of PostgreSQL takes no more than some 2,700 bytes."""
ERASED = "null"
"""In ``query_json``: the query was erased, and no later record brings it back."""
_MAX_ATTEMPT = 10_000
_MAX_WHOLE = 2**63 - 1
# A request that is done outranks every state before it.
_DONE = 2**32
# What no SQL text of every database can hold.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_ROLES, _STATUSES = get_args(Role), get_args(Status)
_USAGE = tuple(Usage.__slots__)
_MONEY = ("cost_nanousd", "uncached_nanousd", "standard_nanousd")


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A request with all that is known of it, its feedback in order of time."""

    request: RequestRecord
    attempts: tuple[AttemptRecord, ...] = ()
    feedback: tuple[FeedbackRecord, ...] = ()

    @property
    def success(self) -> float | None:
        """What the latest feedback says; None where there is none.

        Of several of one moment the worst counts.
        """
        return None if self.latest is None else self.latest.success

    @property
    def latest(self) -> FeedbackRecord | None:
        """The feedback that counts."""
        return max(self.feedback, key=lambda f: (f.at, -f.success), default=None)

    def success_of(self, attempt: AttemptRecord) -> float | None:
        """Success of one attempt, None where it is unknown.

        Feedback is about the answer that was served. A rejected attempt failed, where there is
        feedback on the request: counted without, failures would be known more often than
        successes, and every rate would be too low.
        """
        if attempt.served:
            return self.success
        return 0.0 if attempt.status == "rejected" and self.feedback else None


def revision_of(request: RequestRecord, attempts: Sequence[AttemptRecord]) -> int:
    """Which state of a request a record is of: the further it has come, the higher.

    A record replaces rows of the same or a lower revision, never of a higher one: what is repeated
    late, or comes out of order, undoes nothing.
    """
    last = max((attempt.attempt for attempt in attempts), default=0)
    return revision_after(last, done=request.done)


def revision_after(last: int, *, done: bool) -> int:
    """The revision of a state whose last attempt has this number."""
    return last + (_DONE if done else 0)


def rows_of(
    request: RequestRecord, attempts: Sequence[AttemptRecord], *, store: str
) -> tuple[Row, list[Row]]:
    """The row of a request and those of its attempts. Raises InputError."""
    if not isinstance(request, RequestRecord):
        raise InputError(f"expected a RequestRecord to record, got {type(request).__name__}.")
    attempts = list(attempts)
    for attempt in attempts:
        if not isinstance(attempt, AttemptRecord):
            raise InputError(f"expected AttemptRecords to record, got {type(attempt).__name__}.")
        _whole("attempt", attempt.attempt, 1, _MAX_ATTEMPT)
    if len({attempt.attempt for attempt in attempts}) < len(attempts):
        raise InputError(
            "expected attempts of different numbers, got one number twice: count them from 1."
        )
    revision = revision_of(request, attempts)
    row = _request_row(request, store)
    row["revision"] = revision
    return row, [
        {**_attempt_row(attempt), "request_id": row["request_id"], "revision": revision}
        for attempt in attempts
    ]


def _request_row(request: RequestRecord, store: str) -> Row:
    text, as_json = _query_columns(request.query if store == "text" else None)
    return {
        "request_id": name_of("request_id", request.request_id),
        "at_us": moment_us("at", request.at),
        "done": _bool("done", request.done),
        "session_id": _optional_name("session_id", request.session_id),
        "task": _optional_name("task", request.task),
        "decision": _decision_json(request.decision),
        "baseline_tier": _optional_name("baseline_tier", request.baseline_tier),
        "baseline_nanousd": _optional_whole("baseline_nanousd", request.baseline_nanousd),
        "baseline_measured": _bool("baseline_measured", request.baseline_measured),
        "exploration_nanousd": _whole(
            "exploration_nanousd", request.exploration_nanousd, -_MAX_WHOLE
        ),
        "query": text,
        "query_json": as_json,
    }


def _attempt_row(attempt: AttemptRecord) -> Row:
    if attempt.role not in _ROLES or attempt.status not in _STATUSES:
        raise InputError(
            f"expected a role of {', '.join(_ROLES)} and a status of {', '.join(_STATUSES)}, got "
            f"{attempt.role!r:.40} and {attempt.status!r:.40}: use one of each."
        )
    if attempt.usage is not None and not isinstance(attempt.usage, Usage):
        raise InputError(
            f"expected a Usage or None as usage, got {type(attempt.usage).__name__}: read what the "
            "provider reports into one."
        )
    return {
        "attempt": attempt.attempt,
        "at_us": moment_us("at", attempt.at),
        "tier": name_of("tier", attempt.tier),
        "provider": name_of("provider", attempt.provider),
        "model": name_of("model", attempt.model),
        "role": attempt.role,
        "status": attempt.status,
        "latency_s": number("latency_s", attempt.latency_s, 0.0),
        **{
            name: None if attempt.usage is None else _whole(name, getattr(attempt.usage, name))
            for name in _USAGE
        },
        **{name: _optional_whole(name, getattr(attempt, name)) for name in _MONEY},
        "batch": _bool("batch", attempt.batch),
        "served": _bool("served", attempt.served),
    }


def feedback_row(request_id: str, success: object, score: object, source: str, at_us: int) -> Row:
    """The row of a feedback. Raises InputError."""
    if not isinstance(success, bool | int | float) or not 0 <= success <= 1:
        raise InputError(
            "expected a success of True, False or a number from 0 to 1, got "
            f"{type(success).__name__ if isinstance(success, str) else success!r:.40}: say how far "
            "the answer succeeded."
        )
    return {
        "request_id": name_of("request_id", request_id),
        "source": name_of("source", source),
        "at_us": at_us,
        "success": float(success),
        "score": None if score is None else number("score", score, -math.inf),
    }


def warm_row(entry: WarmPrefix) -> Row:
    """The row of a warm prefix. Raises InputError."""
    if not isinstance(entry, WarmPrefix):
        raise InputError(f"expected WarmPrefix entries, got {type(entry).__name__}.")
    return {
        "tier": name_of("tier", entry.tier),
        "key": name_of("key", entry.key),
        "tokens": _whole("tokens", entry.tokens),
        "stored_at_s": number("stored_at_s", entry.stored_at_s, 0.0),
        "ttl_s": number("ttl_s", entry.ttl_s, 0.0),
    }


def request_from(row: Mapping[str, Any]) -> RequestRecord:
    """The record of a row of requests."""
    return RequestRecord(
        request_id=row["request_id"],
        at=moment(row["at_us"]),
        decision=json.loads(row["decision"]),
        query=_query_from(row["query"], row["query_json"]),
        session_id=row["session_id"],
        task=row["task"],
        baseline_tier=row["baseline_tier"],
        baseline_nanousd=row["baseline_nanousd"],
        baseline_measured=row["baseline_measured"],
        exploration_nanousd=row["exploration_nanousd"],
        done=row["done"],
    )


def attempt_from(row: Mapping[str, Any]) -> AttemptRecord:
    """The record of a row of attempts."""
    known = row["input_tokens"] is not None
    same = ("attempt", "tier", "provider", "model", "role", "status", "latency_s", "batch")
    return AttemptRecord(
        at=moment(row["at_us"]),
        usage=Usage(**{name: row[name] for name in _USAGE}) if known else None,
        served=row["served"],
        **{name: row[name] for name in (*same, *_MONEY)},
    )


def feedback_from(row: Mapping[str, Any]) -> FeedbackRecord:
    """The record of a row of feedback."""
    return FeedbackRecord(
        row["request_id"], row["success"], moment(row["at_us"]), row["source"], row["score"]
    )


def moment_us(name: str, at: object) -> int:
    """Whole microseconds since 1970 of an aware time. Raises InputError."""
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise InputError(
            f"expected {name} as a datetime with a time zone, got "
            f"{'one without' if isinstance(at, datetime) else type(at).__name__}: use for example "
            "datetime.now(UTC)."
        )
    us = (at - _EPOCH) // _MICROSECOND
    if us < 0:
        raise InputError(f"expected {name} since 1970, got an earlier time: set the clock.")
    return us


def moment(us: int) -> datetime:
    """The time of whole microseconds since 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def name_of(what: str, value: object) -> str:
    """A text that an index of every database takes. Raises InputError."""
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_CHARACTERS
        or _UNSTORABLE.search(value)
    ):
        got = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise InputError(
            f"expected {what} as a text of 1 to {MAX_CHARACTERS} characters without NUL and lone "
            f"surrogates, got {got}: use another one."
        )
    return value


def _optional_name(what: str, value: object) -> str | None:
    return None if value is None or value == "" else name_of(what, value)


def _whole(what: str, value: object, low: int = 0, high: int = _MAX_WHOLE) -> int:
    if type(value) is not int or not low <= value <= high:
        raise InputError(
            f"expected {what} as a whole number from {low} to {high}, got {value!r:.40}: correct "
            "it, or leave it out where it is unknown."
        )
    return value


def _optional_whole(what: str, value: object) -> int | None:
    return None if value is None else _whole(what, value)


def number(what: str, value: object, low: float) -> float:
    """A finite number of at least ``low``. Raises InputError."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < low
    ):
        raise InputError(
            f"expected {what} as a finite number"
            f"{'' if low == -math.inf else f' of at least {low:g}'}, got {value!r:.40}: correct it."
        )
    return float(value)


def _bool(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"expected {what} as True or False, got {type(value).__name__}.")
    return value


def _decision_json(decision: object) -> str:
    try:
        if isinstance(decision, Mapping):
            return json.dumps(dict(decision), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    raise InputError(
        "expected a decision as Decision.to_dict() gives it, got something that is no JSON object: "
        "pass that on unchanged."
    )


def _query_columns(query: Query | None) -> tuple[str | None, str | None]:
    if query is None:
        return None, None
    if isinstance(query, StoredQuery):
        return None, json.dumps(record_of(query))
    if not isinstance(query, str):
        raise InputError(
            f"expected a query as text, as a StoredQuery or None, got {type(query).__name__}."
        )
    if _UNSTORABLE.search(query):
        return None, json.dumps(query)
    return query, None


def _query_from(text: str | None, as_json: str | None) -> Query | None:
    if as_json is None:
        return text
    if as_json == ERASED:
        return None
    found = json.loads(as_json)
    if isinstance(found, str):
        return found
    try:
        return stored_query(found)
    except OutcomeError:
        return None  # a record of another version: of no use to this release
