"""OpenTelemetry: spans of GenAI calls as OTLP JSON, and evaluations of them.

Each line, or the one object, is an ExportTraceServiceRequest (resourceSpans, scopeSpans, spans) or
an ExportLogsServiceRequest (resourceLogs, scopeLogs, logRecords); numbers of 64 bit are text there.
Attribute names are literals: the conventions for GenAI are in development and have moved, so that
`ALIASES` lists the present name first, then OpenInference's (Phoenix) and those used before.

A span is a call to a model if its operation (gen_ai.operation.name, openinference.span.kind) says
so, or if it says nothing but names a model. Evaluations come as the event gen_ai.evaluation.result
of the span, as a log record of that name which has the span's id or its gen_ai.response.id, or as
OpenInference annotations. There is no cost in GenAI's conventions: the tokens are written, and
priced when the outcomes are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from router.errors import OutcomeError
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
from training.importers.messages import NO_PROMPT, query_of
from training.importers.records import mentions, read_records
from training.importers.verdicts import Judgement, Rule, Verdicts, merge, most_specific, resolve

ALIASES: dict[str, tuple[str, ...]] = {
    "model": (
        *("gen_ai.request.model", "gen_ai.response.model"),
        *("llm.model_name", "llm.request.model"),
    ),
    "input": (
        *("gen_ai.usage.input_tokens", "llm.token_count.prompt"),
        *("gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
    ),
    "output": (
        *("gen_ai.usage.output_tokens", "llm.token_count.completion"),
        *("gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
    ),
    "cached": (
        *("gen_ai.usage.cache_read.input_tokens", "llm.token_count.prompt_details.cache_read"),
        "gen_ai.usage.cache_read_input_tokens",
    ),
    "written": (
        "gen_ai.usage.cache_creation.input_tokens",
        "llm.token_count.prompt_details.cache_write",
        "gen_ai.usage.cache_creation_input_tokens",
    ),
    "cost": ("llm.cost.total", "gen_ai.usage.cost"),
    "session": ("gen_ai.conversation.id", "session.id"),
    "prompt": ("gen_ai.input.messages", "gen_ai.prompt"),
}
EVALUATION = "gen_ai.evaluation.result"
NOT_OTLP = "not OTLP JSON (resourceSpans, scopeSpans, spans)"

_CALLS = ("chat", "text_completion", "generate_content", "completion")
# Lists of objects are flattened: prefix.INDEX.rest.
_FLAT_PROMPTS = (("llm.input_messages", "message."), ("gen_ai.prompt", ""))
_FLAT_JUDGEMENTS = (("annotations", "annotation."), ("evaluations", "evaluation."))
_MAX_DEPTH = 32


def read_calls(path: Path, evaluations: Verdicts) -> Iterator[Item]:
    """The calls of a file of spans, in its order, each with what its evaluations come to.

    Raises:
        InputError: the file cannot be read.
    """
    for position, row in read_records(path):
        if isinstance(row, OutcomeError):
            yield Item(position, row)
            continue
        if "resourceSpans" not in row and "resourceLogs" not in row:
            yield Item(position, OutcomeError(NOT_OTLP))
        for span in _parts(row, "resourceSpans", "scopeSpans", "spans"):
            if span is None:
                yield Item(position, OutcomeError(NOT_OTLP))
                continue
            try:
                yield Item(position, call_of(span, evaluations), span.get("spanId"))
            except OutcomeError as error:
                yield Item(position, error, span.get("spanId"))


def call_of(span: Object, evaluations: Verdicts) -> Call | None:
    """One span; None where it is no call to a model.

    Raises:
        OutcomeError: it cannot be mapped.
    """
    attributes = attributes_of(span)
    if not _is_call(attributes):
        return None
    if as_object(span.get("status")).get("code") in (2, "2", "STATUS_CODE_ERROR"):
        raise OutcomeError(FAILED)
    events = [event for event in as_list(span.get("events")) if isinstance(event, Mapping)]
    began, ended = (seconds(span.get(f"{end}TimeUnixNano")) for end in ("start", "end"))
    counts = tokens(
        *(_known(attributes, name) for name in ("input", "output", "cached", "written"))
    )
    span_id = span.get("spanId")
    keys = (key_of(span_id), key_of(attributes.get("gen_ai.response.id")))
    own = resolve(_judgements(attributes, events), evaluations.rule)
    apart = most_specific(evaluations.get(key) for key in keys if key is not None)
    return Call(
        {
            **marks(attributes, attributes.get("metadata")),
            **counts,
            "request_id": span_id,
            "query": _query(attributes, events),
            "model": _known(attributes, "model"),
            "cost_usd": cost_of(_known(attributes, "cost"), counts),
            "session_id": _known(attributes, "session"),
            "at": began,
            "latency_s": latency_of(began, ended),
        },
        merge(own, apart),
    )


def read_evaluations(path: Path, verdicts: Verdicts) -> None:
    """Add the evaluations that stand apart from their spans, as log records.

    Raises:
        InputError: the file cannot be read.
    """
    for _, row in read_records(path):
        if isinstance(row, OutcomeError):
            continue
        for record in _parts(row, "resourceLogs", "scopeLogs", "logRecords"):
            if record is None:
                continue
            attributes = attributes_of(record)
            name = first(record, "eventName") or attributes.get("event.name")
            key = key_of(record.get("spanId")) or key_of(attributes.get("gen_ai.response.id"))
            if name == EVALUATION and key is not None:
                when = first(record, "timeUnixNano", "observedTimeUnixNano")
                verdicts.add(key, _judgement(attributes, when))


def evaluations_of(rule: Rule, *paths: Path) -> Verdicts:
    """The evaluations in log records of these files."""
    verdicts = Verdicts(rule)
    for path in paths:
        if mentions(path, b"resourceLogs"):
            read_evaluations(path, verdicts)
    return verdicts


def attributes_of(thing: Object) -> dict[str, object]:
    """The attributes of a span, an event or a log record by name.

    >>> attributes_of({"attributes": [{"key": "n", "value": {"intValue": "3"}}]})
    {'n': '3'}
    """
    return _pairs(thing.get("attributes"), 0)


def seconds(nanoseconds: object) -> float | None:
    """Seconds since 1970 out of nanoseconds, which OTLP JSON writes as text.

    Raises:
        OutcomeError: it is neither.
    """
    if nanoseconds in (None, "", 0, "0"):
        return None
    try:
        return int(str(nanoseconds)) / 1e9
    except (ValueError, OverflowError):
        raise OutcomeError("at is not a time (nanoseconds since 1970)") from None


def _parts(row: Object, *names: str) -> Iterator[Object | None]:
    """The objects that many lists down; None for each that is something else."""
    if not names:
        yield row
        return
    value = row.get(names[0])
    for part in value if isinstance(value, list) else () if value is None else (None,):
        if isinstance(part, Mapping):
            yield from _parts(part, *names[1:])
        else:
            yield None


def _pairs(pairs: object, depth: int) -> dict[str, object]:
    return {
        pair["key"]: _value(pair.get("value"), depth)
        for pair in as_list(pairs)
        if isinstance(pair, Mapping) and isinstance(pair.get("key"), str)
    }


def _value(value: object, depth: int) -> object:
    """An AnyValue as Python has it; 64-bit numbers stay text, which columns can be read from."""
    if not isinstance(value, Mapping) or depth > _MAX_DEPTH:
        return None
    for name in ("stringValue", "intValue", "doubleValue", "boolValue"):
        if name in value:
            return value[name]
    if "arrayValue" in value:
        values = as_list(as_object(value["arrayValue"]).get("values"))
        return [_value(item, depth + 1) for item in values]
    if "kvlistValue" in value:
        return _pairs(as_object(value["kvlistValue"]).get("values"), depth + 1)
    return None


def _known(attributes: Object, name: str) -> object:
    return first(attributes, *ALIASES[name])


def _is_call(attributes: Object) -> bool:
    operation = first(attributes, "gen_ai.operation.name", "llm.request.type")
    kind = attributes.get("openinference.span.kind")
    if operation is None and kind is None:
        return _known(attributes, "model") is not None
    return operation in _CALLS or kind == "LLM"


def _query(attributes: Object, events: list[Object]) -> str:
    # The prompt stood in events before it moved to the span.
    places = [attributes, *map(attributes_of, events)]
    for place in places:
        prompt = _known(place, "prompt")
        if prompt is not None:
            return query_of(prompt)
    for prefix, inner in _FLAT_PROMPTS:
        messages = [_message(flat) for flat in _flattened(attributes, prefix, inner)]
        if messages:
            return query_of(messages)
    if attributes.get("input.value") is None:
        raise OutcomeError(NO_PROMPT)
    return query_of(attributes["input.value"])


def _message(flat: dict[str, object]) -> dict[str, object]:
    """A message out of its flattened parts: role, content, or contents.N.message_content.text."""
    parts = _flattened(flat, "contents", "message_content.")
    return {**flat, "content": parts} if parts else flat


def _flattened(attributes: Object, prefix: str, inner: str) -> list[dict[str, object]]:
    """Objects out of ``prefix.INDEX.inner`` attributes, by index."""
    found: dict[int, dict[str, object]] = {}
    for name, value in attributes.items():
        if name.startswith(f"{prefix}."):
            index, _, rest = name.removeprefix(f"{prefix}.").partition(".")
            if index.isdecimal() and len(index) < 6 and rest.startswith(inner):
                found.setdefault(int(index), {})[rest.removeprefix(inner)] = value
    return [found[index] for index in sorted(found)]


def _judgements(attributes: Object, events: list[Object]) -> Iterator[Judgement]:
    for prefix, inner in _FLAT_JUDGEMENTS:
        for flat in _flattened(attributes, prefix, inner):
            human = flat.get("annotator_kind") == "HUMAN"
            yield Judgement(flat.get("name"), flat.get("score"), flat.get("label"), None, human)
    for event in events:
        if event.get("name") == EVALUATION:
            yield _judgement(attributes_of(event), event.get("timeUnixNano"))


def _judgement(attributes: Object, nanoseconds: object) -> Judgement:
    try:
        at = seconds(nanoseconds)
    except OutcomeError:
        at = None
    return Judgement(
        name=attributes.get("gen_ai.evaluation.name"),
        value=attributes.get("gen_ai.evaluation.score.value"),
        label=attributes.get("gen_ai.evaluation.score.label"),
        at=at,
    )
