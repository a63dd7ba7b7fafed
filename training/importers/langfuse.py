"""Langfuse: observations and scores, as its API answers or as it exports files.

Fields (langfuse.com: Observations API v2, Scores API v3, blob storage export field reference; the
API writes camelCase, exports write snake_case, and both are read):

=====================  ===================================================================
outcome                observation, of type GENERATION (others are no calls to a model)
=====================  ===================================================================
request_id             id
query                  input, which may be text that holds JSON
model                  model / provided_model_name
cost_usd               totalCost, else costDetails.total
input, output tokens   usageDetails: the kinds that begin with "input" or "output"; those about the
                       cache come on top, unless input and output are the total
cached, written        usageDetails: the kinds with "cache" in their name, written where they
                       say creation or write
at, latency_s          startTime, endTime
session_id             sessionId
our own keys           metadata
=====================  ===================================================================

Scores (name, value or string_value, dataType, source, timestamp) belong to an observation, a trace
or a session: by ``subject``, or by observation_id, trace_id and session_id. Source ANNOTATION is a
person's. Scores of dataType TEXT and CORRECTION, and those on experiments, are passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from router.errors import InputError, OutcomeError
from router.outcomes import count_of
from training.importers.core import Call, Item
from training.importers.fields import (
    FAILED,
    Object,
    as_list,
    as_object,
    cost_of,
    first,
    key_of,
    latency_of,
    marks,
    tokens,
)
from training.importers.messages import query_of
from training.importers.records import read_records
from training.importers.verdicts import Judgement, Rule, Verdicts, most_specific

_FREE_TEXT = ("TEXT", "CORRECTION")
_INPUT = ("input", "input_tokens", "prompt_tokens")
_OUTPUT = ("output", "output_tokens", "completion_tokens")


def read_calls(path: Path, scores: Verdicts) -> Iterator[Item]:
    """The generations of an export, each with what the scores say of it.

    Raises:
        InputError: the file cannot be read.
    """
    for position, row in _rows(path):
        if isinstance(row, OutcomeError):
            yield Item(position, row)
            continue
        try:
            yield Item(position, call_of(row, scores), row.get("id"))
        except OutcomeError as error:
            yield Item(position, error, row.get("id"))


def call_of(row: Object, scores: Verdicts) -> Call | None:
    """One observation; None where it is no generation.

    Raises:
        OutcomeError: it cannot be mapped.
    """
    if row.get("type") not in (None, "", "GENERATION"):
        return None
    if row.get("level") == "ERROR":
        raise OutcomeError(FAILED)
    counts = _usage(as_object(first(row, "usageDetails", "usage_details")))
    cost = first(row, "totalCost", "total_cost")
    if cost is None:
        cost = as_object(first(row, "costDetails", "cost_details")).get("total")
    began = first(row, "startTime", "start_time")
    session = first(row, "sessionId", "session_id")
    subjects = {
        "observation": row.get("id"),
        "trace": first(row, "traceId", "trace_id"),
        "session": session,
    }
    return Call(
        {
            **marks(row.get("metadata")),
            **counts,
            "request_id": row.get("id"),
            "query": query_of(row.get("input")),
            "model": first(row, "model", "providedModelName", "provided_model_name"),
            "cost_usd": cost_of(cost, counts),
            "session_id": session,
            "at": began,
            "latency_s": latency_of(began, first(row, "endTime", "end_time")),
        },
        most_specific(
            scores.get(f"{kind}:{key}")
            for kind, value in subjects.items()
            if (key := key_of(value)) is not None
        ),
    )


def read_scores(path: Path, rule: Rule) -> tuple[Verdicts, dict[str, int]]:
    """Scores by subject, and counts of the rows that could not be read by reason.

    Raises:
        InputError: the file cannot be read, or no row is a score on anything.
    """
    verdicts, bad = Verdicts(rule), Counter[str]()
    for _, row in _rows(path):
        if isinstance(row, OutcomeError):
            bad[row.reason] += 1
            continue
        data_type = first(row, "dataType", "data_type")
        subject = _subject(row)
        if data_type in _FREE_TEXT:
            bad["free text"] += 1
        elif subject is None:
            bad["no observation, trace or session"] += 1
        else:
            verdicts.add(subject, _judgement(row, data_type))
    if not len(verdicts):
        reason = f", most often because: {bad.most_common(1)[0][0]}" if bad else ""
        raise InputError(
            f"{path}: expected scores on observations, traces or sessions, none of its "
            f"{bad.total():,} rows is one{reason}: export the scores with their subject."
        )
    return verdicts, dict(bad.most_common())


def _rows(path: Path) -> Iterator[tuple[int, Object | OutcomeError]]:
    """Rows of a file, those of an API's page (``{"data": [...], "meta": ...}``) one by one."""
    for position, row in read_records(path):
        if isinstance(row, OutcomeError) or "id" in row or not as_list(row.get("data")):
            yield position, row
            continue
        for item in as_list(row["data"]):
            bad = OutcomeError("not a JSON object")
            yield position, item if isinstance(item, dict) else bad


def _subject(row: Object) -> str | None:
    subject = as_object(row.get("subject"))
    if subject:
        kind, key = subject.get("kind"), key_of(subject.get("id"))
        known = kind in ("observation", "trace", "session") and key is not None
        return f"{kind}:{key}" if known else None
    for kind in ("observation", "trace", "session"):
        key = key_of(first(row, f"{kind}Id", f"{kind}_id"))
        if key is not None:
            return f"{kind}:{key}"
    return None


def _judgement(row: Object, data_type: object) -> Judgement:
    value = row.get("value")
    label = first(row, "stringValue", "string_value")
    if data_type == "CATEGORICAL":
        # Exports put the index of the category where the API puts its name.
        label, value = (value if label is None else label), None
    elif data_type == "BOOLEAN" and value in (0, 1):
        value = bool(value)
    return Judgement(
        name=row.get("name"),
        value=value,
        label=label,
        at=first(row, "timestamp", "updatedAt", "updated_at"),
        human=row.get("source") == "ANNOTATION",
    )


def _usage(details: Object) -> dict[str, object]:
    """Columns for tokens out of Langfuse's free kinds of usage, which add up to the total."""
    sums: Counter[str] = Counter()
    for kind, value in details.items():
        name = _column(kind)
        if name is not None:
            sums[name] += count_of(value, name) or 0
    cache = sums["cached"], sums["written"]
    n_input, n_output = (count_of(first(details, *names), names[0]) for names in (_INPUT, _OUTPUT))
    total = count_of(details.get("total"), "total")
    if n_input is not None and n_output is not None and n_input + n_output == total:
        # A provider's own numbers: the other kinds are parts of these two.
        return tokens(n_input, n_output, *cache)
    if "output" not in sums or not ("input" in sums or sums["cached"]):
        return tokens(None, None)
    return tokens(sums["input"], sums["output"], *cache, apart=True)


def _column(kind: str) -> str | None:
    kind = kind.lower()
    if kind.startswith("output") or kind in _OUTPUT:
        return "output"
    if "cach" in kind:
        return "written" if "creation" in kind or "write" in kind else "cached"
    return "input" if kind.startswith("input") or kind in _INPUT else None
