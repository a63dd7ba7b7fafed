"""Exports as the loggers write them, and how to run an import on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from router.tiers import TierSet
from tests.command_line import Done
from training.table import OutcomeTable, read_outcomes

TIERS = """
[[tiers]]
name = "nano"
provider = "acme"
model = "acme-small"
input_price_usd_per_mtok = 1.0
cached_input_price_usd_per_mtok = 0.1
cache_write_price_usd_per_mtok = 1.25
output_price_usd_per_mtok = 4.0

[[tiers]]
name = "frontier"
provider = "acme"
model = "acme-large"
input_price_usd_per_mtok = 10.0
output_price_usd_per_mtok = 40.0
"""

# As MLflow logs it.
USAGE = {
    "input_tokens": 1000,
    "output_tokens": 100,
    "total_tokens": 1100,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 200,
}


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """JSON lines; bytes are written as they stand."""
    with path.open("wb") as file:
        for row in rows:
            file.write(row if isinstance(row, bytes) else json.dumps(row).encode())
            file.write(b"\n")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def table_of(path: Path) -> OutcomeTable:
    """The imported outcomes as training reads them; no bad row is allowed."""
    tiers = path.with_name("tiers.toml")
    tiers.write_text(TIERS)
    return read_outcomes(path, TierSet.from_toml(tiers), max_bad_share=0.0)


def error_of(done: Done) -> str:
    """The one sentence of a refused import."""
    assert (done.code, done.out) == (2, "")
    *_, error = done.err.splitlines()
    assert error.startswith("cps-router: ")
    assert error.endswith(".")
    return error.removeprefix("cps-router: ")


def slp(number: int, **changes: object) -> dict[str, Any]:
    """A StandardLoggingPayload with what an import reads of it, and some that it does not."""
    row: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "trace_id": f"trace-{number}",
        "litellm_call_id": f"call-{number}",
        "call_type": "acompletion",
        "stream": False,
        "response_cost": 0.0015,
        "response_cost_failure_debug_info": None,
        "status": "success",
        "custom_llm_provider": "acme",
        "total_tokens": 1100,
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "startTime": 1_772_355_600.0 + number,
        "endTime": 1_772_355_601.5 + number,
        "completionStartTime": 1_772_355_600.5 + number,
        "model": "acme/acme-small",
        "model_group": "small",
        "metadata": {
            "user_api_key_alias": "team-a",
            "spend_logs_metadata": {"cps_router.propensity": 0.75, "cps_router.tier": "nano"},
            "requester_metadata": {"cps_router.task": "support"},
            "usage_object": {
                "prompt_tokens": 1000,
                "completion_tokens": 100,
                "total_tokens": 1100,
                "prompt_tokens_details": {"cached_tokens": 600, "audio_tokens": None},
                "cache_creation_input_tokens": 200,
            },
        },
        "cache_hit": None,
        "request_tags": [],
        "end_user": "",
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": f"Question {number}?"},
        ],
        "response": {"choices": [{"message": {"role": "assistant", "content": "Answer."}}]},
        "model_parameters": {"temperature": 0.2},
        "hidden_params": {"model_id": "m-1"},
    }
    return {**row, **changes}


def observation(number: int, **changes: object) -> dict[str, Any]:
    """A generation as Langfuse's API answers it."""
    row: dict[str, Any] = {
        "id": f"obs-{number}",
        "traceId": f"trace-{number}",
        "sessionId": f"session-{number}",
        "projectId": "p",
        "type": "GENERATION",
        "level": "DEFAULT",
        "startTime": "2026-03-01T09:00:00.000Z",
        "endTime": "2026-03-01T09:00:01.250Z",
        "model": "acme-small",
        "input": json.dumps([{"role": "user", "content": f"Question {number}?"}]),
        "output": json.dumps({"role": "assistant", "content": "Answer."}),
        "usageDetails": {
            "input": 200,
            "input_cached_tokens": 600,
            "cache_creation_input_tokens": 200,
            "output": 100,
            "total": 1100,
        },
        "totalCost": 0.0015,
        "metadata": {"cps_router.propensity": "0.5", "cps_router.tier": "nano"},
    }
    return {**row, **changes}


def score(subject: dict[str, str] | None, value: object, **changes: object) -> dict[str, Any]:
    """A score as Langfuse's API answers it."""
    kinds = {bool: "BOOLEAN", str: "CATEGORICAL"}
    row: dict[str, Any] = {
        "id": "score-1",
        "name": "helpful",
        "value": value,
        "dataType": kinds.get(type(value), "NUMERIC"),
        "source": "API",
        "timestamp": "2026-03-01T10:00:00.000Z",
        "subject": subject,
    }
    return {**row, **changes}


def any_value(value: object) -> dict[str, Any]:
    """A value as OTLP JSON writes it."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": pairs(value)}}
    return {"stringValue": value}


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in attributes.items()]


GENAI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "acme",
    "gen_ai.request.model": "acme-small",
    "gen_ai.response.model": "acme-small-2026-01-01",
    "gen_ai.response.id": "resp-1",
    "gen_ai.conversation.id": "conversation-1",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 100,
    "gen_ai.usage.cache_read.input_tokens": 600,
    "gen_ai.usage.cache_creation.input_tokens": 200,
    "gen_ai.input.messages": json.dumps(
        [
            {"role": "system", "parts": [{"type": "text", "content": "You are terse."}]},
            {"role": "user", "parts": [{"type": "text", "content": "Question 1?"}]},
        ]
    ),
    "cps_router.propensity": 0.25,
    "cps_router.tier": "nano",
}
START_NS = 1_772_355_600_000_000_000


def evaluation(
    value: object = None, label: object = None, name: str | None = "quality"
) -> dict[str, Any]:
    """The attributes of an evaluation."""
    known = {
        "gen_ai.evaluation.name": name,
        "gen_ai.evaluation.score.value": value,
        "gen_ai.evaluation.score.label": label,
    }
    return {key: one for key, one in known.items() if one is not None}


def event(attributes: dict[str, Any], at: int = START_NS, name: str = "") -> dict[str, Any]:
    return {
        "name": name or "gen_ai.evaluation.result",
        "timeUnixNano": str(at),
        "attributes": pairs(attributes),
    }


def span(
    attributes: dict[str, Any] | None = None,
    *,
    number: int = 1,
    events: Sequence[dict[str, Any]] = (),
    **changes: object,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "traceId": f"{number:032x}",
        "spanId": f"{number:016x}",
        "name": "chat acme-small",
        "kind": 3,
        "startTimeUnixNano": str(START_NS),
        "endTimeUnixNano": str(START_NS + 1_500_000_000),
        "attributes": pairs(GENAI if attributes is None else attributes),
        "events": list(events),
        "status": {},
    }
    return {**row, **changes}


def request(*spans: object) -> dict[str, Any]:
    """An ExportTraceServiceRequest."""
    resource = {"attributes": pairs({"service.name": "chat"})}
    scopes = [{"scope": {"name": "tests"}, "spans": list(spans)}]
    return {"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}


def logs(*records: object) -> dict[str, Any]:
    """An ExportLogsServiceRequest."""
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}
