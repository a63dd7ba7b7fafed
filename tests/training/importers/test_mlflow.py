"""MLflow: traces written and judged with the real library, in a real store."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import OutcomeError
from tests.command_line import Run
from tests.training.importers.helpers import USAGE, error_of, read_lines, table_of
from training.importers import mlflow as importer
from training.importers.core import Call
from training.importers.mlflow import SEVERAL_MODELS, call_of
from training.importers.verdicts import NO_FEEDBACK, SEVERAL_NAMES, Rule, Verdict


def trace(**info: object) -> dict[str, Any]:
    """A trace as `Trace.to_dict` writes it."""
    known: dict[str, Any] = {
        "trace_id": "tr-1",
        "request_time": "2026-03-01T09:00:00.000Z",
        "state": "OK",
        "execution_duration_ms": 1500,
        "trace_metadata": {
            "mlflow.trace.tokenUsage": json.dumps(USAGE),
            "mlflow.trace.cost": json.dumps({"total_cost": 0.0015}),
            "mlflow.trace.session": "session-1",
            "cps_router.propensity": "0.5",
        },
        "tags": {"cps_router.tier": "nano", "cps_router.propensity": "0.9"},
        "assessments": [assessment(True)],
    }
    return {"info": {**known, **info}, "data": {"spans": [model_span()]}}


def model_span(model: str = "acme-small", parent: str | None = None) -> dict[str, Any]:
    inputs = {"messages": [{"role": "user", "content": "Question 1?"}], "model": model}
    return {
        "parent_span_id": parent,
        "attributes": {
            "mlflow.spanType": '"CHAT_MODEL"',
            "mlflow.spanInputs": json.dumps(inputs),
            "mlflow.llm.model": json.dumps(model),
        },
    }


def assessment(value: object, source: str = "LLM_JUDGE", **changes: object) -> dict[str, Any]:
    row: dict[str, Any] = {
        "assessment_name": "right",
        "source": {"source_type": source, "source_id": "s"},
        "create_time": "2026-03-01T10:00:00.000Z",
        "last_update_time": "2026-03-01T10:00:00.000Z",
        "feedback": {"value": value},
        "valid": True,
    }
    return {**row, **changes}


def called(row: dict[str, Any], rule: Rule | None = None) -> Call:
    call = call_of(row, rule or Rule())
    assert call is not None
    return call


def success(*assessments: dict[str, Any], rule: Rule | None = None) -> object:
    finding = called(trace(assessments=[*assessments]), rule).finding
    return finding.success if isinstance(finding, Verdict) else finding


def test_a_trace() -> None:
    assert called(trace()).columns == {
        "request_id": "tr-1",
        "query": "Question 1?",
        "model": "acme-small",
        "tier": "nano",
        "propensity": "0.5",
        "cost_usd": 0.0015,
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_input_tokens": 600,
        "cache_write_tokens": 200,
        "session_id": "session-1",
        "at": "2026-03-01T09:00:00.000Z",
        "latency_s": 1.5,
    }


def test_the_model_is_that_of_any_span_but_must_be_one() -> None:
    row = trace()
    root = {"parent_span_id": None, "attributes": {"mlflow.spanInputs": '{"question": "Why?"}'}}
    row["data"]["spans"] = [model_span(parent="a"), root, model_span(parent="a")]
    columns = called(row).columns
    assert (columns["model"], columns["query"]) == ("acme-small", "Why?")
    row["data"]["spans"].append(model_span("acme-large", parent="a"))
    with pytest.raises(OutcomeError, match=SEVERAL_MODELS):
        called(row)
    row["data"]["spans"] = [root]
    assert called(row).columns["model"] is None  # the tier alone may do
    row["info"]["trace_metadata"] = {}
    assert call_of(row, Rule()) is None


def test_a_trace_that_failed() -> None:
    with pytest.raises(OutcomeError, match="the call failed"):
        called(trace(state="ERROR"))


def test_assessments() -> None:
    early = {"last_update_time": "2026-03-01T09:00:00.000Z"}
    assert success() == NO_FEEDBACK
    assert success(assessment(False)) == 0.0
    assert success(assessment("yes")) == 1.0
    assert success(assessment(4.0), rule=Rule(threshold=5)) == 0.0
    assert success(assessment(False), assessment(True, **early)) == 0.0
    assert success(assessment(False), assessment(True, "HUMAN", **early)) == 1.0
    assert success(assessment(True), assessment(False, valid=False)) == 1.0
    assert success(assessment(True), assessment(0, assessment_name="tone")) == SEVERAL_NAMES
    assert (
        success(assessment(True), assessment(0, assessment_name="tone"), rule=Rule("tone")) == 0.0
    )
    expectation = {**assessment(None), "expectation": {"value": True}}
    del expectation["feedback"]
    assert success(expectation) == NO_FEEDBACK
    failed = assessment(None)
    failed["feedback"] = {"value": None, "error": {"error_code": "RATE_LIMIT"}}
    assert success(failed) == NO_FEEDBACK


@pytest.mark.parametrize("as_uri", [False, True])
def test_round_trip(
    cps: Run, tmp_path: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch, as_uri: bool
) -> None:
    monkeypatch.setattr(importer, "_PAGE", 2)
    done = cps(
        *("import", "mlflow", f"sqlite:///{mlflow_store}" if as_uri else mlflow_store),
        *("--experiment", "production", "--score", "right", "--out", "out.jsonl", "--json"),
    )
    assert done.code == 0
    report = json.loads(done.out)
    assert (report["n_rows"], report["n_outcomes"], report["n_not_calls"]) == (6, 3, 1)
    assert report["reasons"] == {NO_FEEDBACK: 1, "the call failed": 1}
    text = done.out + done.err + (tmp_path / report["rejects_path"]).read_text()
    assert "SECRET" not in text
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["query"] for row in rows] == ["Question 0?", "Question 1?", "Question 5?"]
    assert [row["model"] for row in rows] == ["acme-small", "acme-large", "gpt-5-nano"]
    assert [row["success"] for row in rows] == [1.0, 0.0, 1.0]  # a person said no
    assert rows[0]["task"] == "support"
    assert rows[0]["session_id"] == "session-1"
    # MLflow knows the price of the real model only.
    assert ["cost_usd" in row for row in rows] == [False, False, True]
    table = table_of(tmp_path / "out.jsonl")
    np.testing.assert_array_equal(table.propensity[:, 0], [0.25, np.nan])
    priced = (200 * 1.0 + 600 * 0.1 + 200 * 1.25 + 100 * 4.0) * 1e-6
    np.testing.assert_allclose(table.cost_usd[:, 0], [priced, np.nan])


def test_scores_by_threshold_over_all_experiments(
    cps: Run, tmp_path: Path, mlflow_store: Path
) -> None:
    run = ("import", "mlflow", mlflow_store, "--out", "out.jsonl", "--score", "stars")
    done = cps(*run, "--success-threshold", 4)
    assert done.code == 0
    [row] = read_lines(tmp_path / "out.jsonl")
    assert (row["query"], row["success"], row["score"]) == ("Question 1?", 1.0, 4.0)
    error = error_of(
        cps("import", "mlflow", mlflow_store, "--out", "out.jsonl", "--experiment", "empty")
    )
    assert "it has no rows" in error


def test_bad_sources(cps: Run, tmp_path: Path, mlflow_store: Path) -> None:
    def error(source: object, *options: object) -> str:
        return error_of(cps("import", "mlflow", source, "--out", "out.jsonl", *options))

    assert "found no file" in error("gone.db")
    assert "found no file" in error("sqlite:///gone.db")
    assert not list(tmp_path.glob("gone*"))
    assert "expected the experiment 'gone'" in error(mlflow_store, "--experiment", "gone")
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE mine (a)").connection.close()
    before = other.read_bytes()
    assert "expected an MLflow database" in error(other)
    assert other.read_bytes() == before  # MLflow would have made its tables in it
    (tmp_path / "text.db").write_text("text")
    assert "expected an MLflow database" in error("text.db")


def test_a_server_that_is_not_there(cps: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = cps("import", "mlflow", "http://me:SECRET@127.0.0.1:9", "--out", "out.jsonl")
    assert (done.code, done.out) == (1, "")
    assert (
        "expected to read traces from http://me:***@127.0.0.1:9, got Connection refused" in done.err
    )
    assert "SECRET" not in done.err
