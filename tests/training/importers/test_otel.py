"""OpenTelemetry: GenAI and OpenInference spans as OTLP JSON, with evaluations; the real SDK too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import OutcomeError
from tests.command_line import Run
from tests.training.importers.helpers import (
    GENAI,
    START_NS,
    any_value,
    error_of,
    evaluation,
    event,
    logs,
    pairs,
    read_lines,
    request,
    span,
    table_of,
    write_lines,
)
from training.importers.messages import NO_PROMPT
from training.importers.otel import NOT_OTLP, attributes_of, call_of, evaluations_of, read_calls
from training.importers.verdicts import (
    NO_FEEDBACK,
    SEVERAL_NAMES,
    Finding,
    Rule,
    Verdict,
    Verdicts,
)

OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "acme-small",
    "llm.token_count.prompt": 1000,
    "llm.token_count.completion": 100,
    "llm.token_count.prompt_details.cache_read": 600,
    "llm.token_count.prompt_details.cache_write": 200,
    "llm.cost.total": 0.0015,
    "session.id": "conversation-1",
    "metadata": json.dumps({"cps_router.propensity": 0.25, "cps_router.tier": "nano"}),
    "input.value": json.dumps({"messages": [{"role": "user", "content": "Question 1?"}]}),
}
OLD = {
    "gen_ai.system": "acme",
    "gen_ai.request.model": "acme-small",
    "gen_ai.usage.prompt_tokens": 1000,
    "gen_ai.usage.completion_tokens": 100,
    "gen_ai.usage.cache_read_input_tokens": 600,
    "gen_ai.usage.cache_creation_input_tokens": 200,
    "session.id": "conversation-1",
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": "You are terse.",
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": "Question 1?",
    "cps_router.propensity": "0.25",
    "cps_router.tier": "nano",
}


def call(row: dict[str, Any], rule: Rule | None = None) -> tuple[dict[str, object], Finding]:
    found = call_of(row, Verdicts(rule or Rule()))
    assert found is not None
    return found.columns, found.finding


def success(row: dict[str, Any], rule: Rule | None = None) -> float:
    finding = call(row, rule)[1]
    assert isinstance(finding, Verdict), finding
    return finding.success


EXPECTED = {
    "request_id": f"{1:016x}",
    "query": "Question 1?",
    "model": "acme-small",
    "tier": "nano",
    "cost_usd": None,
    "input_tokens": 1000,
    "output_tokens": 100,
    "cached_input_tokens": 600,
    "cache_write_tokens": 200,
    "session_id": "conversation-1",
    "at": START_NS / 1e9,
    "latency_s": 1.5,
}


@pytest.mark.parametrize(
    ("attributes", "cost_usd"), [(GENAI, None), (OPENINFERENCE, 0.0015), (OLD, None)]
)
def test_one_span_in_three_conventions(attributes: dict[str, Any], cost_usd: float | None) -> None:
    columns, finding = call(span(attributes))
    assert float(str(columns.pop("propensity"))) == 0.25
    assert columns == {**EXPECTED, "cost_usd": cost_usd}
    assert finding == NO_FEEDBACK


@pytest.mark.parametrize(
    "prompt",
    [
        {"gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Q"}]}]},
        {"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "Q"},
        {
            "input.value": "not this one",
            "llm.input_messages.10.message.role": "user",
            "llm.input_messages.10.message.contents.0.message_content.type": "text",
            "llm.input_messages.10.message.contents.0.message_content.text": "Q",
            "llm.input_messages.9.message.role": "assistant",
            "llm.input_messages.9.message.content": "not the last",
        },
        {"gen_ai.prompt": json.dumps([{"role": "user", "content": "Q"}])},
        {"input.value": "Q"},
    ],
)
def test_where_a_prompt_may_be(prompt: dict[str, Any]) -> None:
    attributes = {k: v for k, v in GENAI.items() if k != "gen_ai.input.messages"}
    assert call(span({**attributes, **prompt}))[0]["query"] == "Q"


def test_a_prompt_in_an_event() -> None:
    attributes = {k: v for k, v in GENAI.items() if k != "gen_ai.input.messages"}
    for name, key in (
        ("gen_ai.client.inference.operation.details", "gen_ai.input.messages"),
        ("gen_ai.content.prompt", "gen_ai.prompt"),
    ):
        prompt = event({key: json.dumps([{"role": "user", "content": "Q"}])}, name=name)
        assert call(span(attributes, events=[prompt]))[0]["query"] == "Q"
    with pytest.raises(OutcomeError, match=NO_PROMPT):
        call(span(attributes))


def test_which_spans_are_calls() -> None:
    for kind in ("execute_tool", "invoke_agent", "embeddings", "create_agent"):
        assert call_of(span({**GENAI, "gen_ai.operation.name": kind}), Verdicts(Rule())) is None
    for kind in ("CHAIN", "TOOL", "RETRIEVER", "EVALUATOR"):
        other = {**OPENINFERENCE, "openinference.span.kind": kind}
        assert call_of(span(other), Verdicts(Rule())) is None
    assert call_of(span({"http.method": "GET"}), Verdicts(Rule())) is None
    for kind in ("chat", "text_completion", "generate_content"):
        assert call(span({**GENAI, "gen_ai.operation.name": kind}))[0]["query"] == "Question 1?"


def test_a_failed_span() -> None:
    for code in (2, "STATUS_CODE_ERROR"):
        with pytest.raises(OutcomeError, match="the call failed"):
            call(span(status={"code": code, "message": "SECRET"}))
    assert call(span(status={"code": 1}))[0]["query"] == "Question 1?"


def test_attribute_values() -> None:
    values: dict[str, Any] = {
        "text": "t",
        "whole": 2**60,
        "real": 0.5,
        "flag": False,
        "list": [1, "a"],
        "object": {"a": {"b": True}},
    }
    assert attributes_of({"attributes": pairs(values)}) == {
        **values,
        "whole": str(2**60),
        "list": ["1", "a"],
    }
    assert attributes_of(
        {"attributes": [7, {"key": 1}, {"key": "a"}, {"key": "b", "value": 3}]}
    ) == {
        "a": None,
        "b": None,
    }
    deep = any_value("x")
    for _ in range(200):
        deep = {"arrayValue": {"values": [deep]}}
    assert attributes_of({"attributes": [{"key": "a", "value": deep}]})["a"] is not None


def test_evaluations_on_the_span() -> None:
    assert success(span(events=[event(evaluation(1))])) == 1.0
    assert success(span(events=[event(evaluation(0.25))])) == 0.25
    assert success(span(events=[event(evaluation(label="fail"))])) == 0.0
    assert success(span(events=[event(evaluation(4, "pass"))])) == 1.0
    assert success(span(events=[event(evaluation(4))]), Rule(threshold=5)) == 0.0
    both = [event(evaluation(1), START_NS + 2_000), event(evaluation(0), START_NS + 1_000)]
    assert success(span(events=both)) == 1.0  # the later one stands first
    both = [event(evaluation(1)), event(evaluation(0, name="tone"))]
    assert call(span(events=both))[1] == SEVERAL_NAMES
    assert success(span(events=both), Rule("tone")) == 0.0
    other = event(evaluation(1), name="gen_ai.choice")
    assert call(span(events=[other]))[1] == NO_FEEDBACK


@pytest.mark.parametrize("word", ["annotation", "evaluation"])
def test_openinference_annotations(word: str) -> None:
    def annotated(number: int, **fields: object) -> dict[str, object]:
        prefix = f"{word}s.{number}.{word}."
        return {prefix + name: value for name, value in {"name": "ok", **fields}.items()}

    person = annotated(0, score=0, annotator_kind="HUMAN")
    judge = annotated(1, score=1, annotator_kind="LLM")
    assert success(span({**OPENINFERENCE, **judge})) == 1.0
    assert success(span({**OPENINFERENCE, **person, **judge})) == 0.0
    assert success(span({**OPENINFERENCE, **annotated(0, label="pass")})) == 1.0


def record(attributes: dict[str, Any], **changes: object) -> dict[str, Any]:
    row = {
        "timeUnixNano": str(START_NS),
        "eventName": "gen_ai.evaluation.result",
        "traceId": f"{1:032x}",
        "spanId": f"{1:016x}",
        "attributes": pairs(attributes),
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "said",
    [
        record(evaluation(0)),
        record({**evaluation(0), "gen_ai.response.id": "resp-1"}, spanId=None, traceId=None),
        record({**evaluation(0), "event.name": "gen_ai.evaluation.result"}, eventName=None),
    ],
)
def test_evaluations_in_log_records(tmp_path: Path, said: dict[str, Any]) -> None:
    path = write_lines(tmp_path / "logs.jsonl", [b"{oops", logs(said, {"eventName": "other"})])
    [item] = read_calls(
        write_lines(tmp_path / "spans.jsonl", [request(span())]), evaluations_of(Rule(), path)
    )
    assert not isinstance(item.call, OutcomeError)
    assert item.call is not None
    assert isinstance(item.call.finding, Verdict)
    assert item.call.finding.success == 0.0


LARGE = {"gen_ai.request.model": "acme-large", "cps_router.tier": "frontier"}


def spans() -> list[dict[str, Any]]:
    yes, no = [event(evaluation(1))], [event(evaluation(0))]
    return [
        span(number=1, events=yes),
        span({"gen_ai.operation.name": "execute_tool"}, number=2),
        span({**GENAI, **LARGE}, number=3, events=no),
        span(number=4),
        span({**OPENINFERENCE, "input.value": "SECRET"}, number=5, events=yes, status={"code": 2}),
        span(OPENINFERENCE, number=6, events=no),
    ]


@pytest.mark.parametrize("form", ["lines", "one file", "array"])
def test_import(cps: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / "spans.json"
    if form == "lines":
        write_lines(path, [request(*spans()[:2]), request(*spans()[2:])])
    elif form == "one file":
        path.write_text(json.dumps(request(*spans()), indent=2))
    else:
        path.write_text(json.dumps([request(*spans())]))
    done = cps("import", "otel", "spans.json", "--out", "out.jsonl", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert (report["n_rows"], report["n_outcomes"], report["n_not_calls"]) == (6, 3, 1)
    assert report["reasons"] == {NO_FEEDBACK: 1, "the call failed": 1}
    rejects = read_lines(tmp_path / report["rejects_path"])
    assert [row["request_id"] for row in rejects] == [f"{4:016x}", f"{5:016x}"]
    assert "SECRET" not in json.dumps(rejects) + done.err
    table = table_of(tmp_path / "out.jsonl")
    np.testing.assert_array_equal(table.success, [[1, np.nan], [np.nan, 0], [0, np.nan]])
    # No cost in the first two: priced by the tier, cached and written tokens at their own prices.
    nano = (200 * 1.0 + 600 * 0.1 + 200 * 1.25 + 100 * 4.0) * 1e-6
    np.testing.assert_allclose(table.cost_usd[:, 0], [nano, np.nan, 0.0015])
    assert table.cost_usd[1, 1] > 0
    np.testing.assert_array_equal(table.propensity[:, 0], [0.25, np.nan, 0.25])


def test_import_of_the_price_at_the_rows_date(cps: Run, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from router.prices import PriceBook
    from router.tiers import TierSet
    from training.table import read_outcomes

    attributes = {**GENAI, "gen_ai.request.model": "gpt-5-nano"}
    attributes.pop("cps_router.tier")
    attributes.pop("gen_ai.usage.cache_creation.input_tokens")
    write_lines(tmp_path / "s.jsonl", [request(span(attributes, events=[event(evaluation(1))]))])
    assert cps("import", "otel", "s.jsonl", "--out", "o.jsonl").code == 0
    tiers_file = tmp_path / "t.toml"
    tiers_file.write_text('[[tiers]]\nname="nano"\nprovider="openai"\nmodel="gpt-5-nano"\n')
    tiers = TierSet.from_toml(tiers_file)
    price = PriceBook().find(tiers[0], datetime(2026, 3, 1, 9, tzinfo=UTC))
    assert price is not None
    cost = read_outcomes(tmp_path / "o.jsonl", tiers).cost_usd[0, 0]
    assert cost == pytest.approx(float(price.cost_usd(1000, 100, 600, 0)))
    assert cost < float(price.cost_usd(1000, 100, 0, 0))


def test_evaluations_in_the_same_file_or_another(cps: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "both.jsonl", [request(span()), logs(record(evaluation(1)))])
    done = cps("import", "otel", "both.jsonl", "--out", "out.jsonl")
    assert done.code == 0
    assert "outcomes: 1 of 1 rows" in done.out
    assert "evaluations: on 1 ids" in done.out
    write_lines(tmp_path / "spans.jsonl", [request(span())])
    write_lines(tmp_path / "logs.jsonl", [logs(record(evaluation(0)))])
    run = ("import", "otel", "spans.jsonl", "--out", "out.jsonl")
    assert cps(*run, "--evaluations", "logs.jsonl").code == 0
    assert read_lines(tmp_path / "out.jsonl")[0]["success"] == 0.0
    assert f"most often because: {NO_FEEDBACK}" in error_of(cps(*run))
    write_lines(tmp_path / "spans.jsonl", [{"spans": []}])
    assert f"because: {NOT_OTLP} (1 rows" in error_of(cps(*run))
    odd = [request(7, span(events=[event(evaluation(1))])), {"resourceSpans": "SECRET"}]
    write_lines(tmp_path / "spans.jsonl", odd)
    done = cps(*run)
    assert done.code == 0
    assert f"2  {NOT_OTLP}" in done.out


def test_spans_of_the_real_sdk(cps: Run, tmp_path: Path) -> None:
    """What the SDK records, in OTLP's own messages and their JSON."""
    import base64

    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span(
        "agent", attributes={"gen_ai.operation.name": "invoke_agent"}
    ):
        with tracer.start_as_current_span("chat acme-small", attributes=GENAI) as active:
            active.add_event("gen_ai.evaluation.result", evaluation(1.0, "pass"))
        with tracer.start_as_current_span("chat acme-large", attributes=OPENINFERENCE) as active:
            active.add_event("gen_ai.evaluation.result", evaluation(False))
    provider.shutdown()

    def value(given: Any) -> AnyValue:
        if isinstance(given, bool):
            return AnyValue(bool_value=given)
        if isinstance(given, int):
            return AnyValue(int_value=given)
        if isinstance(given, float):
            return AnyValue(double_value=given)
        if isinstance(given, str):
            return AnyValue(string_value=given)
        return AnyValue(array_value=ArrayValue(values=map(value, given)))

    def attributes(given: Any) -> list[KeyValue]:
        return [KeyValue(key=key, value=value(one)) for key, one in (given or {}).items()]

    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for done in exporter.get_finished_spans():
        context = done.get_span_context()
        assert context is not None
        made = scope.spans.add(
            trace_id=context.trace_id.to_bytes(16, "big"),
            span_id=context.span_id.to_bytes(8, "big"),
            name=done.name,
            start_time_unix_nano=done.start_time,
            end_time_unix_nano=done.end_time,
            attributes=attributes(done.attributes),
        )
        made.status.code = done.status.status_code.value  # type: ignore[assignment]
        for one in done.events:
            made.events.add(
                name=one.name, time_unix_nano=one.timestamp, attributes=attributes(one.attributes)
            )
    row = MessageToDict(message)
    for one in row["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        # OTLP JSON writes ids in hexadecimal where protobuf's JSON has base64.
        for name in ("traceId", "spanId"):
            one[name] = base64.b64decode(one[name]).hex()
    write_lines(tmp_path / "spans.jsonl", [row])

    ran = cps("import", "otel", "spans.jsonl", "--out", "out.jsonl")
    assert ran.code == 0
    assert "outcomes: 2 of 3 rows" in ran.out
    assert "passed over, no calls to a model: 1 rows" in ran.out
    first, second = read_lines(tmp_path / "out.jsonl")
    ids = {f"{s.context.span_id:016x}" for s in exporter.get_finished_spans()}
    assert {first["request_id"], second["request_id"]} < ids
    assert (first["query"], first["success"], first["score"]) == ("Question 1?", 1.0, 1.0)
    assert (first["input_tokens"], first["cached_input_tokens"]) == (1000, 600)
    assert (second["success"], second["cost_usd"], second["propensity"]) == (0.0, 0.0015, 0.25)
