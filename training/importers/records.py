"""Objects out of an export: JSON lines, one JSON array, one JSON document, CSV or Parquet.

Lines, array elements and rows come one at a time; only a document that is a single object is held
whole.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from router.errors import InputError, OutcomeError
from router.outcomes import READ_ERRORS, open_binary, read_jsonl_rows, unreadable
from training.rows import Row, read_table

_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Something cut off ends in an error this close to the end: within a literal, number or escape.
_CUT = 16


def read_records(path: Path) -> Iterator[Row]:
    """The objects of a file as (position, object or the reason why it is none).

    The position is the line of JSON lines and CSV, else the number of the element or row, from 1.

    Raises:
        InputError: the file is missing, unreadable, or no JSON at all.
    """
    if not path.is_file():
        raise _missing(path)
    table = read_table(path)
    if table is not None:
        return table
    try:
        with open_binary(path) as file:
            kind = _kind(file, path.name.lower())
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    return _READERS[kind](path)


def mentions(path: Path, text: bytes) -> bool:
    """Whether the file has these bytes anywhere: much quicker than reading it as JSON.

    Raises:
        InputError: the file is missing or unreadable.
    """
    if not path.is_file():
        raise _missing(path)
    try:
        with open_binary(path) as file:
            end = b""
            while chunk := file.read(_CHUNK):
                seen = end + chunk
                if text in seen:
                    return True
                end = seen[-len(text) :]
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    return False


def _missing(path: Path) -> InputError:
    return InputError(f"expected an export at {path}, found no file: check the path.")


def _kind(file: IO[bytes], name: str) -> str:
    start = b""
    while not start and (chunk := file.read(_CHUNK)):
        start = chunk.removeprefix(_BOM).lstrip()
    if start.startswith(b"["):
        return "array"
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
        return "lines"
    file.seek(0)
    line = next((line for line in file if line.removeprefix(_BOM).strip()), b"{}")
    try:
        json.loads(line.removeprefix(_BOM))
    except (ValueError, RecursionError):
        return "document"
    return "lines"


def _read_document(path: Path) -> Iterator[Row]:
    try:
        with open_binary(path) as file:
            value = json.loads(file.read().removeprefix(_BOM))
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError):
        raise InputError(
            f"{path}: expected JSON lines, a JSON array or one JSON object, got something else: "
            "check that it is the right file and not cut off."
        ) from None
    yield 1, value if isinstance(value, dict) else OutcomeError("not a JSON object")


def _read_array(path: Path) -> Iterator[Row]:
    try:
        # Bytes that are no UTF-8 become lone surrogates, which mark just their own element as bad.
        with (
            open_binary(path) as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape") as text,
        ):
            for number, (source, value) in enumerate(_elements(text, path), start=1):
                if not source.isascii() and _SURROGATE.search(source):
                    yield number, OutcomeError("invalid UTF-8")
                elif isinstance(value, dict):
                    yield number, value
                else:
                    yield number, OutcomeError("not a JSON object")
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def _elements(text: io.TextIOWrapper, path: Path) -> Iterator[tuple[str, object]]:
    """Source and value of each element of the array that is the whole text."""
    decoder = json.JSONDecoder()
    buffer, at, number = text.read(_CHUNK), 0, 0

    def more() -> bool:
        # Twice as much each time, so that an element of any length is scanned a few times only.
        nonlocal buffer, at
        read = text.read(max(_CHUNK, len(buffer) - at))
        buffer, at = buffer[at:] + read, 0
        return bool(read)

    def skip_space() -> str:
        nonlocal at
        while True:
            found = _SPACE.match(buffer, at)
            at = found.end() if found else at
            if at < len(buffer) or not more():
                return buffer[at : at + 1]

    bad = InputError(f"{path}: expected a JSON array, got something else: check the file.")
    if skip_space() != "[":
        raise bad
    at += 1
    while (mark := skip_space()) != "]":
        if number:
            if mark != ",":
                raise _broken(path, number + 1)
            at += 1
            skip_space()
        number += 1
        while True:
            try:
                value, end = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(buffer) - _CUT or error.msg.startswith("Unterminated")
                if cut and more():
                    continue
                raise _broken(path, number) from None
            except (ValueError, RecursionError):
                raise _broken(path, number) from None
            # A number that ends where the buffer does may go on.
            if end < len(buffer) or not more():
                break
        yield buffer[at:end], value
        at = end
    at += 1
    if skip_space():
        raise bad


def _broken(path: Path, number: int) -> InputError:
    return InputError(
        f"{path}: expected a JSON array, its element {number} is no JSON or is cut off: export it "
        "again, or as JSON lines, where one bad line costs only itself."
    )


_READERS = {"lines": read_jsonl_rows, "array": _read_array, "document": _read_document}
