"""LiteLLM: payloads and the SpendLogs table, with feedback joined."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.errors import OutcomeError
from tests.command_line import Run
from tests.training.importers.helpers import error_of, read_lines, slp, table_of, write_lines
from training.importers.litellm import (
    CUT,
    FROM_CACHE,
    NOT_STORED,
    REDACTED,
    call_of,
    read_feedback,
)
from training.importers.verdicts import NO_FEEDBACK, OTHER_NAME, Judgement, Rule, Verdict, Verdicts


def verdicts(*ids: str) -> Verdicts:
    known = Verdicts(Rule())
    for key in ids:
        known.add(key, Judgement(value=True))
    return known


def columns(row: dict[str, Any]) -> dict[str, object]:
    call = call_of(row, verdicts("chatcmpl-1"))
    assert call is not None
    assert isinstance(call.finding, Verdict)
    return call.columns


def reason(row: dict[str, Any]) -> str:
    with pytest.raises(OutcomeError) as caught:
        call_of(row, verdicts())
    return caught.value.reason


def spend_log(number: int, **changes: object) -> dict[str, Any]:
    """A row of LiteLLM_SpendLogs; JSON columns are text, as COPY and pandas write them."""
    payload = slp(number)
    row: dict[str, Any] = {
        "request_id": payload["id"],
        "call_type": "acompletion",
        "api_key": "hash",
        "spend": 0.0015,
        "total_tokens": 1100,
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "startTime": "2026-03-01 09:00:00.000",
        "endTime": "2026-03-01 09:00:01.500",
        "model": "acme/acme-small",
        "custom_llm_provider": "acme",
        "metadata": json.dumps(payload["metadata"]),
        "cache_hit": "None",
        "session_id": f"session-{number}",
        "status": "success",
        "messages": "{}",
        "response": "{}",
        "proxy_server_request": json.dumps(
            {"model": "small", "messages": payload["messages"], "stream": False}
        ),
    }
    return {**row, **changes}


def test_a_payload() -> None:
    assert columns(slp(1)) == {
        "request_id": "chatcmpl-1",
        "query": "Question 1?",
        "model": "acme-small",
        "tier": "nano",
        "task": "support",
        "propensity": 0.75,
        "cost_usd": 0.0015,
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_input_tokens": 600,
        "cache_write_tokens": 200,
        "session_id": "trace-1",
        "at": 1_772_355_601.0,
        "latency_s": 1.5,
    }


def test_a_row_of_the_table() -> None:
    of_table = columns(spend_log(1))
    assert of_table == {
        **columns(slp(1)),
        "session_id": "session-1",
        "at": "2026-03-01 09:00:00.000",
    }
    older = spend_log(1, messages=json.dumps(slp(1)["messages"]), proxy_server_request=None)
    assert columns(older) == of_table
    whole = {"url": "/chat", "body": {"messages": slp(1)["messages"]}}
    assert columns(spend_log(1, proxy_server_request=whole)) == of_table


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"messages": None}, NOT_STORED),
        ({"messages": {}}, NOT_STORED),
        ({"messages": "{}"}, NOT_STORED),
        ({"messages": [{"role": "user", "content": "redacted-by-litellm"}]}, REDACTED),
        (
            {
                "messages": [
                    {"role": "user", "content": "Do... (litellm_truncated 900 chars) ...it"}
                ]
            },
            CUT,
        ),
        ({"messages": None, "proxy_server_request": '{"litellm_truncated": true}'}, CUT),
        ({"status": "failure"}, "the call failed"),
        ({"metadata": {"status": "failure"}}, "the call failed"),
        ({"cache_hit": True}, FROM_CACHE),
        ({"cache_hit": "True"}, FROM_CACHE),
        ({"prompt_tokens": -1}, "input_tokens is negative"),
        ({"prompt_tokens": "many"}, "input_tokens is not a number"),
        ({"response_cost": [1]}, "cost_usd is not a number"),
    ],
)
def test_what_cannot_be_mapped(changes: dict[str, object], expected: str) -> None:
    assert reason(slp(1, **changes)) == expected


def test_what_asks_no_language_model_is_passed_over() -> None:
    for call_type in ("aembedding", "image_generation", "atranscription", "rerank"):
        assert call_of(slp(1, call_type=call_type), verdicts()) is None


def test_zero_dollars_for_tokens_is_an_unknown_cost() -> None:
    assert columns(slp(1, response_cost=0.0))["cost_usd"] is None
    free = slp(1, response_cost=0.0, prompt_tokens=0, completion_tokens=0, metadata={})
    assert columns(free)["cost_usd"] == 0.0


def test_more_cached_tokens_than_input_are_counted_beside_it() -> None:
    usage = {"cache_read_input_tokens": 90, "cache_creation_input_tokens": 20}
    row = columns(slp(1, prompt_tokens=100, metadata={"usage_object": usage}))
    assert [
        row[name] for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens")
    ] == [
        210,
        90,
        20,
    ]


def test_our_keys_may_be_nested_or_in_any_metadata() -> None:
    nested = slp(1, metadata={"cps_router": {"propensity": "0.5", "artifact_id": "a1"}})
    row = columns(nested)
    assert (row["propensity"], row["artifact_id"]) == ("0.5", "a1")
    assert "tier" not in row


@pytest.mark.parametrize("key", ["chatcmpl-1", "call-1"])
def test_feedback_joins_on_either_id(key: str) -> None:
    call = call_of(slp(1), verdicts(key))
    assert call is not None
    assert isinstance(call.finding, Verdict)
    hidden = slp(1, litellm_call_id=None, hidden_params={"litellm_call_id": "call-1"})
    call = call_of(hidden, verdicts("call-1"))
    assert call is not None
    assert isinstance(call.finding, Verdict)
    call = call_of(slp(2), verdicts(key))
    assert call is not None
    assert call.finding == NO_FEEDBACK


def test_a_feedback_file(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "feedback.jsonl",
        [
            {"id": "a", "success": True},
            {"request_id": "b", "success": 0, "score": 5},
            {"litellm_call_id": 7, "score": 0.5},
            {"id": "c", "success": False, "at": "2026-03-01T10:00:00Z"},
            {"id": "c", "success": True, "at": "2026-03-01T09:00:00Z"},
            {"id": "d", "success": False, "source": "human"},
            {"id": "d", "success": True},
            {"id": "e", "name": "tone", "success": True},
            {"success": True},
            b"{oops",
        ],
    )

    def found(rule: Rule) -> dict[str, object]:
        known, bad = read_feedback(path, rule)
        assert bad == {"no id": 1, "invalid JSON": 1}
        assert len(known) == 6
        findings = {key: known.get(key) for key in ("a", "b", "7", "c", "d", "e")}
        return {k: f.success if isinstance(f, Verdict) else f for k, f in findings.items()}

    assert found(Rule()) == {"a": 1.0, "b": 0.0, "7": 0.5, "c": 0.0, "d": 0.0, "e": 1.0}
    # With a threshold the score decides where both are given.
    assert found(Rule(threshold=5)) == {"a": 1.0, "b": 1.0, "7": 0.0, "c": 0.0, "d": 0.0, "e": 1.0}
    assert found(Rule("tone")) == {**dict.fromkeys(["a", "b", "7", "c", "d"], OTHER_NAME), "e": 1.0}


def test_import_of_payloads(cps: Run, tmp_path: Path) -> None:
    rows = [
        slp(1),
        slp(2, messages=None),
        {"standard_logging_object": slp(3, model="acme-large", metadata={})},
        slp(4, call_type="aembedding"),
        b"\xff\xfe",
        slp(5),
        slp(6, response_cost=None),
    ]
    write_lines(tmp_path / "log.jsonl", rows)
    feedback = [{"id": f"chatcmpl-{n}", "success": n % 2} for n in (1, 2, 3, 6)]
    write_lines(tmp_path / "feedback.jsonl", feedback)
    done = cps(
        *("import", "litellm", "log.jsonl", "--feedback", "feedback.jsonl"),
        *("--out", "out.jsonl", "--json"),
    )
    assert done.code == 0
    report = json.loads(done.out)
    assert report["reasons"] == {NOT_STORED: 1, "invalid UTF-8": 1, NO_FEEDBACK: 1}
    assert (report["n_rows"], report["n_outcomes"], report["n_not_calls"]) == (7, 3, 1)
    assert (report["n_feedback"], report["feedback_rejected"]) == (4, {})
    assert [
        (row["line"], row["reason"]) for row in read_lines(tmp_path / report["rejects_path"])
    ] == [
        (2, NOT_STORED),
        (5, "invalid UTF-8"),
        (6, NO_FEEDBACK),
    ]
    table = table_of(tmp_path / "out.jsonl")
    assert list(table.request_id) == ["chatcmpl-1", "chatcmpl-3", "chatcmpl-6"]
    assert list(table.query) == ["Question 1?", "Question 3?", "Question 6?"]
    np.testing.assert_array_equal(table.observed, [[True, False], [False, True], [True, False]])
    assert [table.success[0, 0], table.success[1, 1], table.success[2, 0]] == [1, 1, 0]
    assert table.propensity[0, 0] == 0.75
    assert list(table.task) == ["support", None, "support"]
    # 200 fresh, 600 cached, 200 written and 100 output tokens at the tier's prices.
    priced = (200 * 1.0 + 600 * 0.1 + 200 * 1.25 + 100 * 4.0) * 1e-6
    np.testing.assert_allclose(table.cost_usd[:, 0], [0.0015, np.nan, priced])


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_import_of_the_table(cps: Run, tmp_path: Path, name: str) -> None:
    rows = [spend_log(1), spend_log(2, proxy_server_request="{}")]
    if name.endswith(".csv"):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        feedback = "feedback.csv"
        (tmp_path / feedback).write_text("request_id,success\nchatcmpl-1,yes\nchatcmpl-2,no\n")
    else:
        for row in rows:
            row["startTime"] = datetime.fromisoformat(row["startTime"])
            row["endTime"] = datetime.fromisoformat(row["endTime"])
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        feedback = "feedback.jsonl"
        write_lines(tmp_path / feedback, [{"id": f"chatcmpl-{n}", "success": 1} for n in (1, 2)])
    done = cps("import", "litellm", name, "--feedback", feedback, "--out", "out.jsonl")
    assert done.code == 0
    assert "outcomes: 1 of 2 rows, in out.jsonl" in done.out
    assert f"1  {NOT_STORED}" in done.out
    assert "feedback: on 2 ids" in done.out
    [row] = read_lines(tmp_path / "out.jsonl")
    assert row["at"] == "2026-03-01T09:00:00+00:00"
    assert row["latency_s"] == 1.5
    assert row["success"] == 1.0
    assert table_of(tmp_path / "out.jsonl").propensity[0, 0] == 0.75


def test_a_log_without_prompts_says_how_to_store_them(cps: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", [slp(n, messages=None) for n in range(3)])
    write_lines(tmp_path / "feedback.jsonl", [{"id": "chatcmpl-0", "success": 1}])
    arguments = ("import", "litellm", "log.jsonl", "--feedback", "feedback.jsonl")
    error = error_of(cps(*arguments, "--out", "out.jsonl"))
    assert "store_prompts_in_spend_logs (3 rows" in error
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_usage(cps: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", [slp(1)])
    write_lines(tmp_path / "feedback.jsonl", [{"user": "u", "success": 1}])
    run = ("import", "litellm", "log.jsonl", "--out", "out.jsonl")
    assert "expected --feedback FILE" in error_of(cps(*run))
    assert "none of its 1 rows has an id" in error_of(cps(*run, "--feedback", "feedback.jsonl"))
    assert "found no file" in error_of(cps(*run, "--feedback", "gone.jsonl"))
    (tmp_path / "feedback.jsonl").write_text('{"id": "chatcmpl-1", "success": 1}')
    run = (*run, "--feedback", "feedback.jsonl")
    assert "number as success threshold" in error_of(cps(*run, "--success-threshold", "nan"))
    assert "another file" in error_of(cps(*run[:3], *run[5:], "--out", "feedback.jsonl"))
