"""Queries to label: out of a file of JSON lines, or of the ledger; bad rows are counted by reason.

A row is as for a batch job (``router/batch/input.py``: ``query`` or ``messages``, and maybe
``request_id``, ``max_output_tokens``, ``temperature``, ``tools``, ``task``), and may have what its
answers are judged by: ``expected`` (a text), ``schema`` (a JSON schema), ``test`` (code that is
run behind the answer's); and ``split``. Rows of one text are one query, asked once; how often it
came is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.batch.input import InputRow, Reject, Rejects, prompt_of, read_rows
from router.client.jobs import job_of
from router.errors import InputError
from router.outcomes import open_binary, unreadable
from router.providers.base import Prompt
from training.split import query_hash

if TYPE_CHECKING:
    from datetime import datetime

    from router.ledger import Ledger

DEFAULT_MAX_OUTPUT_TOKENS = 2048
_JUDGED_BY = ("expected", "schema", "test")


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """One text to label: what is sent, what is routed on, and what its answers are judged by.

    ``key`` is the digest of what is sent: answers are found again by it.
    """

    request_id: str
    query: str = field(repr=False)
    stored: str = field(repr=False)
    key: str
    query_hash: int
    context_tokens: int
    task: str | None = None
    expected: str | None = field(default=None, repr=False)
    schema: Mapping[str, Any] | None = field(default=None, repr=False)
    test: str | None = field(default=None, repr=False)
    split: str | None = None
    n_times: int = 1

    @property
    def prompt(self) -> Prompt:
        """What is sent; nothing is written to a cache, since it is sent once."""
        return prompt_of(self.stored, cached=False)

    @property
    def max_output_tokens(self) -> int:
        """The longest answer."""
        return int(json.loads(self.stored)["max_output_tokens"])


@dataclass(frozen=True, slots=True)
class Pool:
    """Different queries in the order of the input, and what was left out by reason."""

    queries: list[LabelQuery]
    n_rows: int
    rejects: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    rejects_path: Path | None = None

    @property
    def n_copies(self) -> int:
        """Rows that repeat a text."""
        return sum(query.n_times - 1 for query in self.queries)


def read_pool(
    path: str | Path,
    *,
    needs: Collection[str] = (),
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
) -> Pool:
    """Queries of a file. ``needs`` are fields without which no answer of a row can be judged.

    Bad rows are written to ``<file>.rejects.jsonl`` with their line and the reason.

    Raises:
        InputError: the file cannot be read.
    """
    path = Path(path)
    found = _Gathered(max_output_tokens)
    try:
        with Rejects(path) as rejects, open_binary(path) as lines:
            for number, line in enumerate(lines, start=1):
                for row in read_rows([line]):
                    _take(found, rejects, replace(row, line=number), line, needs)
    except (OSError, EOFError) as error:
        raise unreadable(path, error) from error
    return Pool(
        list(found.queries.values()),
        found.n_rows,
        dict(rejects.reasons.most_common()),
        found.examples,
        rejects.path,
    )


def pool_of(
    rows: Iterable[Mapping[str, Any]],
    *,
    needs: Collection[str] = (),
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
) -> Pool:
    """As `read_pool`, of rows that are there already.

    >>> pool = pool_of([{"query": "1 + 1?", "expected": "2"}, {"query": "1 + 1?"}, {"ask": "?"}])
    >>> len(pool.queries), pool.n_copies, pool.rejects
    (1, 1, {'it has neither query nor messages': 1})
    """
    found = _Gathered(max_output_tokens)
    with Rejects(None) as rejects:
        for number, given in enumerate(rows, start=1):
            line = json.dumps(given).encode()
            for row in read_rows([line]):
                _take(found, rejects, replace(row, line=number), line, needs)
    return Pool(
        list(found.queries.values()),
        found.n_rows,
        dict(rejects.reasons.most_common()),
        found.examples,
    )


def pool_of_ledger(
    ledger: Ledger,
    *,
    since: datetime | None = None,
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
) -> Pool:
    """Queries of the requests in a ledger, each sent alone: a ledger keeps no earlier messages."""
    found, left_out = _Gathered(max_output_tokens), Counter[str]()
    for entry in ledger.requests(since=since):
        query, task = entry.request.query, entry.request.task
        if not isinstance(query, str):
            left_out["its text is not kept in the ledger"] += 1
        elif not query.strip():
            left_out["its query is no text, or empty"] += 1
        else:
            stored = json.dumps({"messages": [{"role": "user", "content": query}]})
            n_tokens = job_of(
                [{"role": "user", "content": query}], streamed=False, is_async=False
            ).ask.context_tokens
            name = entry.request.request_id
            found.add(name, query, stored, n_tokens, {} if task is None else {"task": task})
        found.n_rows += 1
    return Pool(list(found.queries.values()), found.n_rows, dict(left_out.most_common()))


class _Gathered:
    """Queries by the hash of their text."""

    def __init__(self, max_output_tokens: int) -> None:
        if type(max_output_tokens) is not int or max_output_tokens < 1:
            raise InputError(
                f"expected a longest answer of at least 1 token, got {max_output_tokens!r}: give "
                "for example 2048."
            )
        self.queries: dict[int, LabelQuery] = {}
        self.ids: dict[str, int] = {}
        self.n_rows = 0
        self.examples: list[str] = []
        self._max_output_tokens = max_output_tokens

    def add(
        self,
        request_id: str | None,
        query: str,
        stored: str,
        context_tokens: int,
        facts: Mapping[str, Any],
    ) -> None:
        text = query_hash(query)
        request_id = f"q-{text:016x}" if request_id is None else request_id
        if self.ids.setdefault(request_id, text) != text:
            raise InputError("its request_id is that of another query")
        known = self.queries.get(text)
        if known is not None:
            self.queries[text] = replace(known, n_times=known.n_times + 1)
            return
        fields = {"max_output_tokens": self._max_output_tokens, **json.loads(stored)}
        sent = {k: v for k, v in sorted(fields.items()) if k not in ("query", "session", "task")}
        key = hashlib.sha256(json.dumps(sent).encode()).hexdigest()[:24]
        self.queries[text] = LabelQuery(
            request_id, query, json.dumps(fields), key, text, context_tokens, **facts
        )


def _take(
    found: _Gathered,
    rejects: Rejects,
    row: InputRow | Reject,
    line: bytes,
    needs: Collection[str],
) -> None:
    found.n_rows += 1
    if isinstance(row, InputRow):
        raw = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        reason = _fault(raw, needs)
        if reason is None:
            facts = {name: raw[name] for name in _JUDGED_BY if raw.get(name) is not None}
            if "expected" in facts:
                facts["expected"] = _text(facts["expected"])
            facts |= {name: raw[name] for name in ("task", "split") if raw.get(name)}
            try:
                found.add(row.request_id, row.query, row.stored, row.context_tokens, facts)
                return
            except InputError as error:
                reason = str(error)
        row = Reject(row.line, reason, row.request_id)
    rejects.add(row)
    if len(found.examples) < 5:
        found.examples.append(f"line {row.line}: {row.reason}")


def _text(expected: object) -> str:
    return expected if isinstance(expected, str) else json.dumps(expected)


def _fault(row: Mapping[str, Any], needs: Collection[str]) -> str | None:
    """What is wrong with that by which answers are judged; None where nothing is."""
    for name in needs:
        if row.get(name) is None:
            return f"it has no {name}, which the check needs"
    expected = row.get("expected")
    if isinstance(expected, list | Mapping):
        return "its expected is no text, number or boolean"
    if row.get("split") not in (None, "", "train", "test"):
        return "its split is neither train nor test"
    if row.get("test") is not None and not isinstance(row["test"], str):
        return "its test is no text"
    schema = row.get("schema")
    if schema is None:
        return None
    if not isinstance(schema, Mapping):
        return "its schema is no JSON object"
    if "schema" in needs:
        from router.verifiers import json_schema

        try:
            json_schema(schema)
        except InputError:
            return "its schema is no JSON schema, or refers to another file"
    return None
