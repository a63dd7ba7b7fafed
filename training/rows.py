"""Raw rows out of JSON lines, CSV and Parquet: one stream of (line, row or reason).

Nothing is validated here beyond what makes a row a row; `Outcome.from_mapping` does the rest.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.errors import InputError, MissingExtraError, OutcomeError
from router.outcomes import COLUMNS, READ_ERRORS, STDIN, open_binary, read_jsonl_rows, unreadable

Row = tuple[int, Mapping[str, object] | OutcomeError]
Check = Callable[[Sequence[str]], None]

# csv refuses fields above 128 KiB by default; a query can be a whole document. The limit is a C
# long, 32 bit on Windows.
_CSV_FIELD_LIMIT = 2**31 - 1
_PARQUET_BATCH_ROWS = 8192
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_rows(path: Path, *, needs_success: bool = True) -> Iterator[Row]:
    """Rows of an outcomes file; the suffix tells the format. ``-`` is JSON lines on standard input.

    Yields (number, row or the reason why it is none). The number is the line from 1 for JSON lines
    and CSV (the last line of a CSV row that spans several), and the row from 1 for Parquet.
    ``needs_success`` is False where a score can stand in for a missing success column.

    Raises:
        InputError: unknown suffix, unreadable file, or columns of the contract are missing.
    """
    name = path.name.lower()
    if path == STDIN or name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
        return iter(read_jsonl_rows(path))

    def check(names: Sequence[str]) -> None:
        _check_columns(path, names, needs_success)

    rows = read_table(path, check, COLUMNS)
    if rows is None:
        raise InputError(
            f"expected outcomes as .jsonl, .csv or .parquet, got {path.name!r}: convert or rename "
            "it."
        )
    return rows


def read_table(
    path: Path, check: Check | None = None, columns: Sequence[str] | None = None
) -> Iterator[Row] | None:
    """Rows of a CSV or Parquet file, numbered as by `read_rows`; None if the suffix is neither.

    ``check`` gets the names of the columns before the first row. Of a Parquet file only
    ``columns`` are read, where given.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, check)
    if name.endswith((".parquet", ".pq")):
        return _read_parquet(path, check, columns)
    return None


def _read_csv(path: Path, check: Check | None) -> Iterator[Row]:
    # A setting of the whole process; it stays raised, since two readers may interleave.
    csv.field_size_limit(max(csv.field_size_limit(), _CSV_FIELD_LIMIT))
    try:
        # Bytes that are no UTF-8 become lone surrogates, which mark just their own row as bad.
        with (
            open_binary(path) as raw,
            io.TextIOWrapper(
                raw, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as text,
        ):
            reader = csv.reader(text, strict=True)
            header = next((row for row in reader if row), None)
            if header is None:
                raise InputError(f"{path}: expected a CSV header, got an empty file.")
            header = [name.strip() for name in header]
            if check is not None:
                check(header)
            yield from _csv_rows(reader, header)
    except csv.Error as error:
        raise InputError(f"{path}: cannot read the CSV header ({error}).") from error
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def _csv_rows(reader: Any, header: list[str]) -> Iterator[Row]:
    width = len(header)
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                yield reader.line_num, OutcomeError("malformed CSV")
                continue
            # An open quote swallows the rest of the file: each line of it is a lost row.
            for line in range(first, reader.line_num + 1):
                yield line, OutcomeError("a quoted field never closes")
            return
        line = reader.line_num
        if not fields:
            continue  # a blank line
        if len(fields) != width:
            more = "more" if len(fields) > width else "fewer"
            yield line, OutcomeError(f"{more} fields than the header")
        elif any(not field.isascii() and _SURROGATE.search(field) for field in fields):
            yield line, OutcomeError("invalid UTF-8")
        else:
            # An empty field is a missing value in CSV, an empty query included.
            yield line, {k: v for k, v in zip(header, fields, strict=True) if v != ""}


def _read_parquet(path: Path, check: Check | None, columns: Sequence[str] | None) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "train", "Reading Parquet") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if check is not None:
                check(names)
            wanted = None if columns is None else [name for name in columns if name in names]
            row = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=wanted):
                values = [_parquet_values(column) for column in batch.columns]
                keys = batch.schema.names
                for cells in zip(*values, strict=True):
                    row += 1
                    if _UNDECODABLE in cells:
                        yield row, OutcomeError("invalid UTF-8")
                    else:
                        yield row, dict(zip(keys, cells, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


_UNDECODABLE = object()
_OUT_OF_RANGE = object()  # no text, number or time, and so refused by the validator


def _parquet_values(column: Any) -> list[object]:
    """The values of one Arrow column as Python objects; what cannot become one is marked."""
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        # Nanoseconds would need pandas, and other time zones a database of them. Coarser units
        # stay, since multiplying could overflow.
        unit = "us" if column.type.unit == "ns" else column.type.unit
        zone = None if column.type.tz is None else "UTC"
        column = column.cast(pyarrow.timestamp(unit, tz=zone), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_parquet_value(scalar) for scalar in column]


def _parquet_value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _UNDECODABLE
    except (ValueError, OverflowError):
        return _OUT_OF_RANGE


def _check_columns(path: Path, names: Sequence[str], needs_success: bool) -> None:
    """Refuse a table that lacks a required column, rather than reject each of its rows."""
    have = set(names)
    missing = [name for name in ("request_id", "query") if name not in have]
    if "query_record" in have and "query" in missing:
        missing.remove("query")
    if not have & {"tier", "model"}:
        missing.append("tier or model")
    if "success" not in have and (needs_success or "score" not in have):
        missing.append("success")
    if "cost_usd" not in have and not {"input_tokens", "output_tokens"} <= have:
        missing.append("cost_usd, or input_tokens and output_tokens")
    if missing:
        raise InputError(
            f"{path}: the columns {'; '.join(missing)} are missing: add them or rename yours."
        )
    if len(have) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        if twice in COLUMNS:
            raise InputError(f"{path}: the column {twice!r} occurs twice: rename one of them.")
