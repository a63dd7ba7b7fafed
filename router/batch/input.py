"""The input of a batch job: JSON lines, each a prompt; a bad one is counted and the others go on.

A row has ``query`` (a text) or ``messages`` (in the chat form), and may have ``request_id``,
``max_output_tokens``, ``temperature``, ``tools``, ``session`` and ``task``; with ``messages``,
``query`` is what is routed on. Other fields are left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from router.client.jobs import job_of, last_user_text
from router.errors import InputError, OutcomeError
from router.ledger.rows import name_of
from router.outcomes import label
from router.prefix import prefix_keys
from router.providers.base import CacheMarks, Prompt

# So that a job's name fits behind it where the id is taken.
_MAX_ID_CHARACTERS = 400
_FIELDS = ("messages", "tools", "max_output_tokens", "temperature", "query", "session", "task")
# Of the keys by which rows are put in order, so many messages' are enough.
_MAX_KEYS = 6
# Of a last message that begins as others do: so much of its beginning counts.
_HEAD_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class InputRow:
    """A good row: ``line`` of the input, what is sent, what is routed on, and its stored form."""

    line: int
    request_id: str | None
    query: str = field(repr=False)
    prompt: Prompt
    context_tokens: int
    stored: str = field(repr=False)
    order_key: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """A bad row, and why; ``reason`` has no value of the row, so that rejects can be counted."""

    line: int
    reason: str
    request_id: str | None = None


class Rejects:
    """Counts bad rows and writes them to ``<input>.rejects.jsonl``, opened with the first."""

    def __init__(self, beside: Path | None) -> None:
        self._path = None if beside is None else beside.with_name(beside.name + ".rejects.jsonl")
        self._file: IO[str] | None = None
        self.path: Path | None = None
        self.reasons: Counter[str] = Counter()

    def add(self, reject: Reject) -> None:
        """Count and write one."""
        if self._path is not None and not self.reasons:
            for path in (self._path, Path.cwd() / self._path.name):
                with suppress(OSError):  # a read-only folder: the next place, else counts alone
                    self._file = path.open("w", encoding="ascii", newline="\n")
                    self.path = path
                    break
        self.reasons[reject.reason] += 1
        if self._file is not None:
            row = {"line": reject.line, "reason": reject.reason, "request_id": reject.request_id}
            self._file.write(json.dumps(row) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        elif kind is None and self._path is not None and not self.reasons:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)  # of an earlier read; it would mislead


def digest_of(path: Path) -> str:
    """SHA-256 of a file. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"expected a file of JSON lines at {path}, got {error.strerror or 'an error'}: check "
            "the path."
        ) from None


def read_rows(lines: Iterable[bytes]) -> Iterator[InputRow | Reject]:
    """Rows of JSON lines, counted from 1; empty lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield _row(number, line)


def prompt_of(stored: str, *, cached: bool = True) -> Prompt:
    """The prompt in its stored form; ``cached`` says whether its prefix is worth writing."""
    fields = json.loads(stored)
    fields.pop("query", None)
    job = job_of(
        fields.pop("messages"),
        query="",
        streamed=False,
        is_async=False,
        **fields,
        cache=CacheMarks(enabled=cached),
    )
    return job.ask.prompt


def facts_of(stored: str) -> dict[str, Any]:
    """What else the row said: ``query``, ``session`` and ``task``, None where it did not."""
    fields = json.loads(stored)
    query = fields.get("query")
    if query is None:
        query = last_user_text(fields["messages"])
    return {"query": query, "session": fields.get("session"), "task": fields.get("task")}


def _row(number: int, line: bytes) -> InputRow | Reject:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Reject(number, "it is not JSON")
    if not isinstance(row, Mapping):
        return Reject(number, "it is not a JSON object")
    try:
        request_id = label(row.get("request_id"), "request_id")
    except OutcomeError as error:
        return Reject(number, error.reason)
    shown = None if request_id is None else request_id[:_MAX_ID_CHARACTERS]
    reason = _fault(row, request_id)
    if reason is not None:
        return Reject(number, reason, shown)
    kept = {name: row[name] for name in _FIELDS if row.get(name) is not None}
    if "messages" not in kept:
        kept["messages"] = [{"role": "user", "content": kept.pop("query")}]
    if "query" not in kept and not _has_text(kept["messages"]):
        return Reject(number, "its messages have no text to route on; give query too", shown)
    try:
        job = job_of(streamed=False, is_async=False, **kept)
        keys = prefix_keys(job.ask.prompt.messages, job.ask.prompt.tools)
    except InputError:
        # The sentence may show a value of the row.
        return Reject(number, "its messages or tools are not in the chat form", shown)
    stored = json.dumps(kept)
    ask = job.ask
    head = json.dumps(ask.prompt.messages[-1])[:_HEAD_CHARACTERS].encode()
    last = hashlib.blake2b(head, digest_size=8).hexdigest()
    order_key = "/".join((*keys[:-1][:_MAX_KEYS], last))
    return InputRow(
        number, request_id, ask.query, ask.prompt, ask.context_tokens, stored, order_key
    )


def _has_text(messages: list[Any]) -> bool:
    """Whether there is a text to route on; what is no message at all is found elsewhere."""
    if not all(isinstance(message, Mapping) for message in messages):
        return True
    try:
        last_user_text(messages)
    except InputError:
        return False
    return True


def _fault(row: Mapping[str, Any], request_id: str | None) -> str | None:
    """What is wrong with a row, but for the form of its messages; None where nothing is."""
    if request_id is not None:
        if len(request_id) > _MAX_ID_CHARACTERS:
            return f"its request_id has more than {_MAX_ID_CHARACTERS} characters"
        if not _is_stored(request_id):
            return "its request_id has characters that cannot be stored"
    query, messages = row.get("query"), row.get("messages")
    if query is None and messages is None:
        return "it has neither query nor messages"
    if query is not None and (not isinstance(query, str) or not query.strip()):
        return "its query is no text, or empty"
    if messages is not None and not (isinstance(messages, list) and messages):
        return "its messages are no list, or empty"
    limit = row.get("max_output_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        return "its max_output_tokens is no whole number above 0"
    temperature = row.get("temperature")
    if temperature is not None and (
        isinstance(temperature, bool) or not isinstance(temperature, int | float)
    ):
        return "its temperature is no number"
    for name in ("session", "task"):
        value = row.get(name)
        if value is not None and not (
            isinstance(value, str) and 0 < len(value) <= _MAX_ID_CHARACTERS
        ):
            return f"its {name} is no text of 1 to {_MAX_ID_CHARACTERS} characters"
        if value is not None and not _is_stored(value):
            return f"its {name} has characters that cannot be stored"
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        return "its tools are no list"
    return None


def _is_stored(name: str) -> bool:
    """Whether the ledger takes it as a name."""
    try:
        name_of("name", name)
    except InputError:
        return False
    return True
