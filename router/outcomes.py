"""Outcome: one row of the contract (request x tier -> success, cost), and its JSON lines.

`Outcome.from_mapping` is the only validator: JSON lines, CSV and Parquet rows all pass through it,
so that a row is good or bad for the same reason in every format.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import IO, cast

import numpy as np

from router.errors import InputError, OutcomeError
from router.query_record import record_of, stored_query
from router.stored_query import Query, StoredQuery

_BOOL_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_EPOCH = re.compile(r"[+-]?\d+(\.\d*)?\Z", re.ASCII)
_MAX_TOKENS = 2**53  # the largest whole number a float64 matrix holds exactly
READ_ERRORS = (OSError, EOFError, zlib.error)
"""What reading a missing, forbidden or damaged (compressed) file raises."""
STDIN = Path("-")
"""In place of a file of JSON lines: standard input, which can be read once."""
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt: a request answered by a tier.

    ``query`` is its text, or what is kept in place of it (column ``query_record``).
    ``success`` lies in 0..1. Either ``cost_usd`` or both token counts are known. ``input_tokens``
    includes the cached and the written ones. ``at`` is aware, in UTC. ``split`` is None, "train"
    or "test"; ``sampling`` None, "random" or "chosen": whether the request is there because of what
    was predicted for it. None means unknown, never zero.
    """

    request_id: str
    # Not shown: where an outcome is printed, its query is not.
    query: Query = field(repr=False)
    success: float
    tier: str | None = None
    model: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    task: str | None = None
    latency_s: float | None = None
    propensity: float | None = None
    attempt: int = 1
    session_id: str | None = None
    at: datetime | None = None
    artifact_id: str | None = None
    split: str | None = None
    score: float | None = None
    sampling: str | None = None

    @classmethod
    def from_mapping(
        cls, row: Mapping[str, object], *, success_threshold: float | None = None
    ) -> Outcome:
        """Validate one row.

        Numbers, words for booleans and times may come as text (CSV); None and "" mean missing,
        except that an empty ``query`` is a query. There is a ``query`` or a ``query_record`` (an
        object, or its JSON as text), not both. Unknown keys are ignored. With
        ``success_threshold``, a row that has a ``score`` succeeds if score >= threshold, whatever
        its ``success`` says.

        Raises:
            OutcomeError: the row breaks the contract; ``reason`` is a fixed short text.
        """
        get = row.get
        request_id = label(get("request_id"), "request_id")
        if request_id is None:
            raise OutcomeError("request_id is missing")
        query = _query(get("query"), get("query_record"))
        tier = _text(get("tier"), "tier")
        model = _text(get("model"), "model")
        if tier is None and model is None:
            raise OutcomeError("tier and model are missing")

        success, score = success_of(row, success_threshold)
        cost_usd = number_of(get("cost_usd"), "cost_usd")
        input_tokens = count_of(get("input_tokens"), "input_tokens")
        output_tokens = count_of(get("output_tokens"), "output_tokens")
        if cost_usd is None and (input_tokens is None or output_tokens is None):
            raise OutcomeError("cost_usd is missing, and so are input_tokens or output_tokens")
        cached = count_of(get("cached_input_tokens"), "cached_input_tokens") or 0
        written = count_of(get("cache_write_tokens"), "cache_write_tokens") or 0
        if input_tokens is not None and cached + written > input_tokens:
            raise OutcomeError("cached_input_tokens and cache_write_tokens exceed input_tokens")

        propensity = number_of(get("propensity"), "propensity")
        if propensity is not None and not 0.0 < propensity <= 1.0:
            raise OutcomeError("propensity is not above 0 and at most 1")
        split = _one_of(get("split"), "split", ("train", "test"))
        sampling = _one_of(get("sampling"), "sampling", ("random", "chosen"))
        return cls(
            request_id=request_id,
            query=query,
            success=success,
            tier=tier,
            model=model,
            cost_usd=cost_usd,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            task=label(get("task"), "task"),
            latency_s=number_of(get("latency_s"), "latency_s"),
            propensity=propensity,
            attempt=attempt_of(row),
            session_id=label(get("session_id"), "session_id"),
            at=time_of(get("at")),
            artifact_id=label(get("artifact_id"), "artifact_id"),
            split=split,
            score=score,
            sampling=sampling,
        )

    def to_mapping(self) -> dict[str, object]:
        """The row as JSON-serialisable values; unknown values and defaults are left out."""
        row: dict[str, object] = {}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if name == "at" and value is not None:
                value = value.isoformat()
            if isinstance(value, StoredQuery):
                row["query_record"] = record_of(value)
            elif name in _REQUIRED or value != default:
                row[name] = value
        return row


_REQUIRED = ("request_id", "query", "success")
_DEFAULTS: dict[str, object] = {field.name: field.default for field in fields(Outcome)}
COLUMNS: tuple[str, ...] = (*_DEFAULTS, "query_record")
"""Names of the columns of the contract, in the order of `Outcome`."""
METADATA_KEYS: dict[str, str] = {
    "cps_router.propensity": "propensity",
    "cps_router.tier": "tier",
    "cps_router.task": "task",
    "cps_router.artifact_id": "artifact_id",
}
"""Under which key a log's free metadata carries a column that no log format has a field for."""


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Outcome | OutcomeError]]:
    """Read outcomes from JSON lines, one at a time.

    Yields (line number from 1, the outcome or the reason why the line is bad). Blank lines are
    skipped. A path that ends in ``.gz`` is decompressed.

    Raises:
        InputError: the file cannot be read.
    """
    for line, row in read_jsonl_rows(path):
        if isinstance(row, OutcomeError):
            yield line, row
            continue
        try:
            yield line, Outcome.from_mapping(row)
        except OutcomeError as error:
            yield line, error


def read_jsonl_rows(path: str | Path) -> Iterator[tuple[int, dict[str, object] | OutcomeError]]:
    """As `read_jsonl`, but yields the objects of the lines as they stand, not yet validated."""
    path = Path(path)
    try:
        with open_binary(path) as file:
            # Bytes are split at line feeds only: U+2028 within a query ends no line.
            for line, raw in enumerate(file, start=1):
                if line == 1 and raw.startswith(_UTF8_BOM):
                    raw = raw[len(_UTF8_BOM) :]
                if raw.isspace() or not raw:
                    continue
                try:
                    row = json.loads(raw.decode("utf-8"))
                except UnicodeDecodeError:
                    yield line, OutcomeError("invalid UTF-8")
                    continue
                except (ValueError, RecursionError):
                    cut = not raw.endswith(b"\n")
                    yield line, OutcomeError("last line is cut off" if cut else "invalid JSON")
                    continue
                if isinstance(row, dict):
                    yield line, row
                else:
                    yield line, OutcomeError("not a JSON object")
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def write_jsonl(path: str | Path, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes as JSON lines (ASCII, so that every text survives).

    Raises:
        InputError: a number of an outcome is not finite.
    """
    with Path(path).open("w", encoding="ascii", newline="\n") as file:
        for number, outcome in enumerate(outcomes, start=1):
            try:
                line = json.dumps(outcome.to_mapping(), allow_nan=False)
            except ValueError:
                raise InputError(
                    f"outcome {number} holds a number that is not finite: leave it out instead."
                ) from None
            file.write(line + "\n")


def open_binary(path: Path) -> IO[bytes]:
    """Open for reading; decompresses where the name ends in ``.gz``; ``-`` is standard input."""
    if path == STDIN:
        if sys.stdin is None:
            raise InputError(
                "expected outcomes on standard input, which is closed: pipe them in or name a file."
            )
        return sys.stdin.buffer
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def unreadable(path: Path, error: Exception, what: str = "outcomes") -> InputError:
    """The error for a file that is missing, is a folder, is forbidden or is damaged."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"expected {what} at {path}, found no file: check the path.")
    detail = getattr(error, "strerror", None) or "it is damaged"
    return InputError(f"{path}: cannot read the {what} ({detail}): check the file.")


def _query(text: object, record: object) -> Query:
    if record is not None and record != "":
        if text is not None:
            raise OutcomeError("query and query_record are both there")
        return stored_query(record)
    if text is None:
        raise OutcomeError("query is missing")
    if not isinstance(text, str):
        raise OutcomeError("query is not text")
    return text


def _text(value: object, name: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    raise OutcomeError(f"{name} is not text")


def label(value: object, name: str) -> str | None:
    """A short text; whole numbers are taken as text, since ids often are numbers; "" is none.

    Raises:
        OutcomeError: it is something else.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    return _text(value, name)


def _one_of(value: object, name: str, words: tuple[str, str]) -> str | None:
    word = label(value, name)
    if word is None:
        return None
    word = word.strip().lower()
    if word not in words:
        raise OutcomeError(f"{name} is neither {words[0]} nor {words[1]}")
    return word


def success_of(
    row: Mapping[str, object], success_threshold: float | None = None
) -> tuple[float, float | None]:
    """Success in 0..1 and the score, where there is one; with a threshold the score decides.

    Raises:
        OutcomeError: either is something else.
    """
    score = number_of(row.get("score"), "score", low=-math.inf)
    if success_threshold is not None and score is not None:
        return float(score >= success_threshold), score
    return _success(row.get("success")), score


def attempt_of(row: Mapping[str, object]) -> int:
    """The number of the attempt, 1 where there is none.

    Raises:
        OutcomeError: it is no count from 1.
    """
    attempt = count_of(row.get("attempt"), "attempt")
    if attempt == 0:
        raise OutcomeError("attempt is below 1")
    return 1 if attempt is None else int(attempt)


def _success(value: object) -> float:
    if value is True:
        return 1.0
    if value is False:
        return 0.0
    if isinstance(value, str):
        word = _BOOL_WORDS.get(value.strip().lower())
        if word is not None:
            return word
    elif isinstance(value, np.bool_):  # neither an int nor a bool
        return float(value)
    number = number_of(value, "success")
    if number is None:
        raise OutcomeError("success is missing")
    if number > 1.0:
        raise OutcomeError("success is not between 0 and 1")
    return number


def number_of(value: object, name: str, *, low: float = 0.0) -> float | None:
    """A finite number of at least ``low``, also out of text; None and blank text are none.

    Raises:
        OutcomeError: it is something else.
    """
    if value is None:
        return None
    if type(value) is not float:
        if isinstance(value, str):
            value = value.strip()
            if not value:
                return None
            if "_" in value:  # Python reads 1_000, other readers of the same file do not
                raise OutcomeError(f"{name} is not a number")
        elif isinstance(value, bool) or not isinstance(value, Real | Decimal):
            raise OutcomeError(f"{name} is not a number")
        try:
            value = float(value)
        except (ValueError, OverflowError):
            raise OutcomeError(f"{name} is not a number") from None
    if not math.isfinite(value):
        raise OutcomeError(f"{name} is not finite")
    if value < low:
        raise OutcomeError(f"{name} is negative")
    return value


def count_of(value: object, name: str) -> int | None:
    """As `number_of`, but whole.

    Raises:
        OutcomeError: it is something else.
    """
    if type(value) is int:
        number = value
    else:
        real = number_of(value, name)
        if real is None:
            return None
        number = int(real)
        if number != real:
            raise OutcomeError(f"{name} is not a whole number")
    if number < 0:
        raise OutcomeError(f"{name} is negative")
    if number > _MAX_TOKENS:
        raise OutcomeError(f"{name} is too large")
    return number


def time_of(value: object) -> datetime | None:
    """A moment in UTC out of ISO 8601 text, seconds since 1970, a datetime or a date.

    Raises:
        OutcomeError: it is something else.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            text = value.strip()
            # Eight digits are an ISO date; any other bare number counts seconds since 1970.
            if _EPOCH.match(text) and len(text) != 8:
                value = float(text)
            else:
                value = datetime.fromisoformat(text)
        if isinstance(value, datetime):
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return aware.astimezone(UTC)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, Real | Decimal) and not isinstance(value, bool):
            return datetime.fromtimestamp(float(value), tz=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise OutcomeError("at is not a time (ISO 8601 or seconds since 1970)")
