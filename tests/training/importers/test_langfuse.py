"""Langfuse: generations of the API and of exports, with the scores on them, traces and sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.errors import InputError, OutcomeError
from tests.command_line import Run
from tests.training.importers.helpers import (
    error_of,
    observation,
    read_lines,
    score,
    table_of,
    write_lines,
)
from training.importers.langfuse import call_of, read_scores
from training.importers.messages import NO_PROMPT
from training.importers.verdicts import (
    NO_FEEDBACK,
    NOT_A_SHARE,
    OTHER_NAME,
    SEVERAL_NAMES,
    UNKNOWN_LABEL,
    Finding,
    Rule,
    Verdict,
    Verdicts,
)

EXPORTED = {
    "traceId": "trace_id",
    "sessionId": "session_id",
    "startTime": "start_time",
    "endTime": "end_time",
    "model": "provided_model_name",
    "usageDetails": "usage_details",
    "totalCost": "total_cost",
}


def exported(row: dict[str, Any]) -> dict[str, Any]:
    """The same observation as the blob storage export writes it."""
    times = {"startTime": "2026-03-01 09:00:00.000000", "endTime": "2026-03-01 09:00:01.250000"}
    return {EXPORTED.get(key, key): value for key, value in {**row, **times}.items()}


def columns(row: dict[str, Any]) -> dict[str, object]:
    call = call_of(row, Verdicts(Rule()))
    assert call is not None
    return call.columns


def usage(**details: object) -> tuple[object, ...]:
    row = columns(observation(1, usageDetails=details))
    names = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")
    return tuple(row[name] for name in names)


def test_an_observation() -> None:
    assert columns(observation(1)) == {
        "request_id": "obs-1",
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
        "latency_s": 1.25,
    }


def test_an_export_says_the_same() -> None:
    of_export = columns(exported(observation(1)))
    assert of_export == {**columns(observation(1)), "at": "2026-03-01 09:00:00.000000"}
    texts = {
        name: json.dumps(observation(1)[name]) for name in ("usageDetails", "metadata")
    }  # as CSV has them
    assert columns(exported(observation(1, **texts))) == of_export


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"input": 10, "output": 5, "total": 15}, (10, 5, 0, 0)),
        ({"input": 10, "output": 5}, (10, 5, 0, 0)),
        # Langfuse takes the details out of the input.
        ({"input": 4, "input_cached_tokens": 6, "output": 5, "total": 15}, (10, 5, 6, 0)),
        ({"input": 4, "cache_read_input_tokens": 6, "output": 5}, (10, 5, 6, 0)),
        ({"input": 4, "input_audio_tokens": 2, "output": 1, "output_reasoning": 4}, (6, 5, 0, 0)),
        ({"input_cached_tokens": 6, "output": 5}, (6, 5, 6, 0)),
        # A provider's numbers as they are: the total says that the details are parts.
        ({"input": 10, "input_cached_tokens": 6, "output": 5, "total": 15}, (10, 5, 6, 0)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "output_reasoning_tokens": 3,
                "total": 15,
            },
            (10, 5, 0, 0),
        ),
        ({"total": 15}, (None, None, 0, 0)),
        ({}, (None, None, 0, 0)),
    ],
)
def test_usage(details: dict[str, object], expected: tuple[object, ...]) -> None:
    assert usage(**details) == expected


def test_costs() -> None:
    assert columns(observation(1, totalCost=0))["cost_usd"] is None
    details = observation(1, totalCost=None, costDetails={"input": 0.1, "total": 0.3})
    assert columns(details)["cost_usd"] == 0.3


def test_what_is_no_call_and_what_cannot_be_mapped() -> None:
    for kind in ("SPAN", "EVENT", "TOOL", "EMBEDDING", "EVALUATOR", 7):
        assert call_of(observation(1, type=kind), Verdicts(Rule())) is None
    assert columns(observation(1, type=None))["request_id"] == "obs-1"
    for changes, reason in [
        ({"level": "ERROR"}, "the call failed"),
        ({"input": None}, NO_PROMPT),  # the API leaves it out unless asked
        ({"usageDetails": {"input": -5}}, "input is negative"),
        ({"totalCost": "dear"}, "cost_usd is not a number"),
    ]:
        with pytest.raises(OutcomeError) as caught:
            call_of(observation(1, **changes), Verdicts(Rule()))
        assert caught.value.reason == reason


def finding(tmp_path: Path, *scores: dict[str, Any], rule: Rule | None = None) -> Finding:
    path = write_lines(tmp_path / "scores.jsonl", scores)
    call = call_of(observation(1), read_scores(path, rule or Rule())[0])
    assert call is not None
    return call.finding


def success(tmp_path: Path, *scores: dict[str, Any], rule: Rule | None = None) -> float:
    found = finding(tmp_path, *scores, rule=rule)
    assert isinstance(found, Verdict), found
    return found.success


OBSERVATION = {"kind": "observation", "id": "obs-1", "traceId": "trace-1"}
TRACE = {"kind": "trace", "id": "trace-1"}
SESSION = {"kind": "session", "id": "session-1"}


def test_scores_of_the_three_types(tmp_path: Path) -> None:
    good = Rule(labels=frozenset({"good"}))
    assert success(tmp_path, score(OBSERVATION, True)) == 1.0
    assert success(tmp_path, score(OBSERVATION, 0, dataType="BOOLEAN")) == 0.0
    assert success(tmp_path, score(OBSERVATION, 0.25)) == 0.25
    assert success(tmp_path, score(OBSERVATION, 4), rule=Rule(threshold=3)) == 1.0
    assert finding(tmp_path, score(OBSERVATION, 4)) == NOT_A_SHARE
    assert success(tmp_path, score(OBSERVATION, "good"), rule=good) == 1.0
    assert success(tmp_path, score(OBSERVATION, "bad"), rule=good) == 0.0
    assert finding(tmp_path, score(OBSERVATION, "good")) == UNKNOWN_LABEL
    # An export has the category's number, which says nothing, and its name beside it.
    category = {"dataType": "CATEGORICAL", "string_value": "good"}
    assert success(tmp_path, score(OBSERVATION, 0, **category), rule=good) == 1.0
    assert finding(tmp_path, score(OBSERVATION, 0, **category)) == UNKNOWN_LABEL


def test_the_observation_goes_before_the_trace_and_that_before_the_session(tmp_path: Path) -> None:
    on = [score(subject, value) for subject, value in ((SESSION, 0.1), (TRACE, 0.2))]
    assert success(tmp_path, *on, score(OBSERVATION, 0.3)) == 0.3
    assert success(tmp_path, *on) == 0.2
    assert success(tmp_path, on[0]) == 0.1
    other = score({"kind": "trace", "id": "session-1"}, 0.9)  # an id alone is not enough
    assert finding(tmp_path, other) == NO_FEEDBACK


def test_subjects_of_exports(tmp_path: Path) -> None:
    ids = {"trace_id": "trace-1", "observation_id": "obs-1", "session_id": None}
    assert success(tmp_path, score(None, 0.3, **ids), score(TRACE, 0.2)) == 0.3
    assert success(tmp_path, score(None, 0.3, trace_id="trace-1"), score(SESSION, 0.2)) == 0.3
    assert success(tmp_path, score(None, 0.3, traceId="trace-1")) == 0.3


def test_people_names_and_times(tmp_path: Path) -> None:
    person = score(OBSERVATION, 0.0, source="ANNOTATION", timestamp="2026-03-01T09:00:00Z")
    assert success(tmp_path, person, score(OBSERVATION, 1.0)) == 0.0
    later = score(OBSERVATION, 0.5, timestamp="2026-03-02T09:00:00Z")
    assert success(tmp_path, later, score(OBSERVATION, 1.0)) == 0.5
    tone = score(OBSERVATION, 0.7, name="tone")
    assert finding(tmp_path, tone, score(OBSERVATION, 1.0)) == SEVERAL_NAMES
    assert success(tmp_path, tone, score(OBSERVATION, 1.0), rule=Rule("tone")) == 0.7
    assert finding(tmp_path, tone, rule=Rule("speed")) == OTHER_NAME


def test_scores_that_are_none(tmp_path: Path) -> None:
    rows = [
        score(OBSERVATION, "free text", dataType="TEXT"),
        score({"kind": "experiment", "id": "e"}, 1),
        score(None, 1),
        b"7",
    ]
    path = write_lines(tmp_path / "scores.jsonl", [*rows, score(OBSERVATION, 1)])
    assert read_scores(path, Rule())[1] == {
        "no observation, trace or session": 2,
        "free text": 1,
        "not a JSON object": 1,
    }
    write_lines(path, rows)
    with pytest.raises(InputError, match="none of its 4 rows is one, most often because: no obs"):
        read_scores(path, Rule())


@pytest.mark.parametrize("form", ["lines", "array", "pages", "page"])
def test_import(cps: Run, tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [
        observation(1),
        observation(2, type="SPAN", input="SECRET"),
        exported(observation(3, model="acme-large", metadata={})),
        observation(4, input=[{"role": "system", "content": "SECRET"}]),
        observation(5, totalCost=None),
        observation(6, traceId="trace-9", sessionId=None),
    ]
    scores = [score({"kind": "trace", "id": f"trace-{n}"}, n != 3) for n in range(1, 6)]
    for name, things in (("log.json", rows), ("scores.json", scores)):
        path = tmp_path / name
        if form == "lines":
            write_lines(path, things)
        elif form == "array":
            path.write_text(json.dumps(things, indent=1))
        elif form == "pages":
            write_lines(path, [{"data": things[:2], "meta": {}}, {"data": things[2:], "meta": {}}])
        else:
            path.write_text(json.dumps({"data": things, "meta": {"cursor": None}}, indent=1))
    done = cps("import", "langfuse", "log.json", "--scores", "scores.json", "--out", "o.jsonl")
    assert done.code == 0
    assert "outcomes: 3 of 6 rows, in o.jsonl\n  with a cost: 2, with a propensity: 2" in done.out
    assert "passed over, no calls to a model: 1 rows" in done.out
    assert "1  the prompt has no message of the user" in done.out
    assert f"1  {NO_FEEDBACK}" in done.out
    assert "scores: on 5 ids" in done.out
    rejects = (tmp_path / "o.jsonl.rejects.jsonl").read_text()
    assert "SECRET" not in done.out + done.err + rejects
    assert [row["request_id"] for row in read_lines(tmp_path / "o.jsonl")] == [
        "obs-1",
        "obs-3",
        "obs-5",
    ]
    table = table_of(tmp_path / "o.jsonl")
    np.testing.assert_array_equal(table.success, [[1, np.nan], [np.nan, 0], [1, np.nan]])
    priced = (200 * 1.0 + 600 * 0.1 + 200 * 1.25 + 100 * 4.0) * 1e-6
    np.testing.assert_allclose(table.cost_usd[:, 0], [0.0015, np.nan, priced])
    np.testing.assert_array_equal(table.propensity[:, 0], [0.5, np.nan, 0.5])


def test_import_of_parquet(cps: Run, tmp_path: Path) -> None:
    rows = [exported(observation(1)), exported(observation(2, totalCost=None))]
    for row in rows:
        for name in ("usage_details", "metadata"):
            row[name] = list(row[name].items())
    names = [*rows[0]]
    kinds = {
        "usage_details": pa.map_(pa.string(), pa.int64()),
        "metadata": pa.map_(pa.string(), pa.string()),
        "total_cost": pa.float64(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "log.parquet")
    scores = [score(None, 1, observation_id=f"obs-{n}", dataType="BOOLEAN") for n in (1, 2)]
    columns = ("name", "value", "data_type", "observation_id")
    scores = [{**row, "data_type": row["dataType"]} for row in scores]
    lines = [",".join(str(row[name]) for name in columns) for row in scores]
    (tmp_path / "scores.csv").write_text("\n".join([",".join(columns), *lines]))
    run = ("import", "langfuse", "log.parquet", "--scores", "scores.csv", "--out", "o.jsonl")
    assert cps(*run).code == 0
    table = table_of(tmp_path / "o.jsonl")
    priced = (200 * 1.0 + 600 * 0.1 + 200 * 1.25 + 100 * 4.0) * 1e-6
    np.testing.assert_allclose(table.cost_usd[:, 0], [0.0015, priced])
    np.testing.assert_array_equal(table.propensity[:, 0], [0.5, 0.5])
    np.testing.assert_array_equal(table.success[:, 0], [1, 1])


def test_labels_on_the_command_line(cps: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", [observation(n) for n in (1, 2, 3)])
    labels = {1: "Good", 2: "okay", 3: "bad"}
    scores = [score({"kind": "observation", "id": f"obs-{n}"}, w) for n, w in labels.items()]
    write_lines(tmp_path / "scores.jsonl", scores)
    done = cps(
        *("import", "langfuse", "log.jsonl", "--scores", "scores.jsonl", "--out", "o.jsonl"),
        *("--success-label", "good", "--success-label", "okay", "--score", "helpful"),
    )
    assert done.code == 0
    assert [row["success"] for row in read_lines(tmp_path / "o.jsonl")] == [1.0, 1.0, 0.0]


def test_bad_usage(cps: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", [observation(1)])
    write_lines(tmp_path / "scores.jsonl", [score(OBSERVATION, True)])
    run = ("import", "langfuse", "log.jsonl", "--out", "o.jsonl")
    assert "expected --scores FILE" in error_of(cps(*run))
    error = error_of(cps(*run, "--scores", "scores.jsonl", "--score", "speed"))
    assert f"most often because: {OTHER_NAME} (1 rows" in error
    (tmp_path / "log.jsonl").write_text('[{"id": "a"}')
    error = error_of(cps(*run, "--scores", "scores.jsonl"))
    assert "its element 2 is no JSON or is cut off" in error
