"""From the ledger to outcomes: what is trained on, and what is left out and why."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.embedding import load_embedder
from router.ledger import Ledger
from router.ledger.export import Export
from router.outcomes import Outcome, write_jsonl
from router.records import AttemptRecord, RequestRecord, nanousd
from router.tiers import Tier, TierSet
from router.usage import Usage
from tests.artifacts import sample_table, tiny_embedder
from tests.command_line import COMMAND
from tests.ledgers import NOON, attempt, decision, request
from training.store import stored_queries
from training.synthetic import log, make_world, sample, tiers_toml, to_outcomes, uniform_policy
from training.table import OutcomeTable, read_outcomes


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


def exported(ledger: Ledger, **options: Any) -> tuple[list[Outcome], dict[str, int]]:
    rows = Export(ledger, **options)
    found = list(rows)
    assert rows.n_rows == len(found)
    return found, dict(rows.left_out)


def test_a_row_has_all_that_is_known(ledger: Ledger) -> None:
    ledger.record(
        request(session_id="s", task="t"),
        [attempt(usage=Usage(100, 20, 30, 40), cost_nanousd=155_000, latency_s=0.25)],
    )
    ledger.feedback("r1", 0.5, score=3.0)
    (row,), left_out = exported(ledger)
    assert left_out == {}
    assert row == Outcome(
        request_id="r1",
        query="what is r1?",
        success=0.5,
        score=3.0,
        tier="nano",
        model="gpt-nano",
        cost_usd=0.000155,
        input_tokens=100,
        output_tokens=20,
        cached_input_tokens=30,
        cache_write_tokens=40,
        task="t",
        latency_s=0.25,
        propensity=0.75,
        session_id="s",
        at=NOON,
        artifact_id="a1",
    )


# What is recorded of a request, whether it got feedback, and why its attempts are no outcomes.
LEFT_OUT: list[tuple[RequestRecord, list[AttemptRecord], bool, dict[str, int]]] = [
    (request(), [], True, {"no attempt was recorded": 1}),
    (request(), [attempt()], False, {"no feedback": 1}),
    (request(query=None), [attempt()], True, {"its query is not kept": 1}),
    (request(), [attempt(cost_nanousd=None, usage=None)], True, {"its cost is unknown": 1}),
    (request(), [attempt(status="outage", served=False)], True, {"no answer (outage)": 1}),
    (request(), [attempt(served=False)], True, {"its answer was not served": 1}),
    (request(tier="mid"), [attempt()], True, {"another tier than the one decided": 1}),
    (
        request(decision=decision(reason="pinned")),
        [attempt()],
        True,
        {"the caller named the tier": 1},
    ),
    (
        request(),
        [attempt(status="timeout", served=False), attempt(2, "mid", role="fallback")],
        True,
        {"no answer (timeout)": 1, "a later attempt (fallback)": 1},
    ),
    (
        request(),
        [attempt(status="rejected", served=False), attempt(2, "mid")],
        False,
        {
            "rejected, but its request has no feedback": 1,
            "a later attempt (escalation)": 1,
        },
    ),
    (
        request(decision=decision(propensity=0.0)),
        [attempt()],
        True,
        {"propensity is not above 0 and at most 1": 1},
    ),
]


@pytest.mark.parametrize(("record", "attempts", "rated", "reasons"), LEFT_OUT)
def test_what_is_left_out_is_counted_by_reason(
    ledger: Ledger,
    record: RequestRecord,
    attempts: list[AttemptRecord],
    rated: bool,
    reasons: dict[str, int],
) -> None:
    ledger.record(record, attempts)
    if rated:
        ledger.feedback("r1", True)
    assert exported(ledger) == ([], reasons)


def test_a_rejected_first_attempt_failed_whatever_the_next_one_did(ledger: Ledger) -> None:
    ledger.record(request(), [attempt(status="rejected", served=False), attempt(2, "mid")])
    ledger.feedback("r1", True)
    (row,), left_out = exported(ledger)
    assert (row.tier, row.success, row.propensity, row.attempt) == ("nano", 0.0, 0.75, 1)
    assert left_out == {"a later attempt (escalation)": 1}


def test_where_every_answer_is_verified_no_feedback_is_needed(ledger: Ledger) -> None:
    ledger.record(request("good"), [attempt()])
    ledger.record(request("bad"), [attempt(status="rejected", served=False), attempt(2, "mid")])
    ledger.record(request("disliked"), [attempt()])
    ledger.feedback("disliked", False)
    rows, _ = exported(ledger, accepted_is_success=True)
    assert {row.request_id: row.success for row in rows} == {
        "good": 1.0,
        "bad": 0.0,
        "disliked": 0.0,
    }


def test_a_stored_query_and_a_start(ledger: Ledger) -> None:
    (stored,) = stored_queries(["a secret"], load_embedder("static"))
    ledger.record(request("old"), [attempt()])
    ledger.record(request("new", query=stored, at=NOON + timedelta(hours=2)), [attempt()])
    for name in ("old", "new"):
        ledger.feedback(name, True)
    (row,), _ = exported(ledger, since=NOON + timedelta(hours=1))
    assert row.query == stored
    assert Outcome.from_mapping(row.to_mapping()) == row


def fill(ledger: Ledger, table: OutcomeTable) -> None:
    """A log of one tier per request as a client would have recorded it, feedback included."""
    records = []
    for outcome in to_outcomes(table):
        assert isinstance(outcome.query, str) and outcome.tier is not None
        assert outcome.input_tokens is not None and outcome.output_tokens is not None
        at = outcome.at or NOON
        record = request(
            outcome.request_id,
            at=at,
            query=outcome.query,
            task=outcome.task,
            decision=decision(outcome.tier, outcome.propensity or 1.0),
        )
        made = attempt(
            tier=outcome.tier,
            model=table.tiers[table.tiers.names.index(outcome.tier)].model,
            usage=Usage(outcome.input_tokens, outcome.output_tokens),
            cost_nanousd=nanousd(outcome.cost_usd),
        )
        records.append((record, [made]))
    ledger.record_many(records)
    for outcome in to_outcomes(table):
        ledger.feedback(outcome.request_id, outcome.success)


def test_a_batched_attempt_is_exported_at_what_serving_will_cost(ledger: Ledger) -> None:
    batched: list[tuple[int | None, int | None, int | None, float | None]] = [
        (10_000, 10_000, 20_000, 20_000 / 1e9),
        (5_000, 10_000, 20_000, 10_000 / 1e9),  # half of it came from a cache
        (0, 0, 0, 0.0),
        (10_000, 10_000, None, None),
        (None, None, 20_000, None),
    ]
    for number, (cost, uncached, standard, _) in enumerate(batched):
        money = {"cost_nanousd": cost, "uncached_nanousd": uncached, "standard_nanousd": standard}
        ledger.record(request(f"r{number}"), [attempt(batch=True, **money)])
        ledger.feedback(f"r{number}", True)
    rows, left_out = exported(ledger)
    assert left_out == {}
    assert [row.cost_usd for row in rows] == [expected for *_, expected in batched]


def test_what_has_no_price_yet_is_exported_with_its_tokens_and_read_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    """And under the name that was decided on: the provider's own is in no tiers file."""
    for number in range(4):
        known = {"cost_nanousd": 10_000 if number else None}
        made = attempt(model="gpt-nano-2025-08-07", **known)
        ledger.record(request(f"r{number}"), [made])
        ledger.feedback(f"r{number}", True)
    write_jsonl(tmp_path / "out.jsonl", Export(ledger))
    prices = {"input_price_usd_per_mtok": 1.0, "output_price_usd_per_mtok": 10.0}
    tiers = TierSet(
        [
            Tier("nano", "openai", "gpt-nano", **prices),  # type: ignore[arg-type]
            Tier("mid", "openai", "gpt-nano-2025-08-07", **prices),  # type: ignore[arg-type]
        ]
    )
    table = read_outcomes(tmp_path / "out.jsonl", tiers)
    assert table.report.n_bad == 0 and list(table.report.warnings()) == []
    np.testing.assert_allclose(table.cost_usd[:, 0], [0.0003, 1e-5, 1e-5, 1e-5])


def test_reading_an_export_gives_the_table(ledger: Ledger, tmp_path: Path) -> None:
    drawn = sample(make_world(), 60, 5)
    table = log(drawn, uniform_policy(drawn), 1)
    fill(ledger, table)
    write_jsonl(tmp_path / "out.jsonl", Export(ledger))
    found = read_outcomes(tmp_path / "out.jsonl", table.tiers)
    order = np.argsort(found.request_id)
    expected = np.argsort(table.request_id)
    assert found.request_id[order].tolist() == table.request_id[expected].tolist()
    assert found.query[order].tolist() == table.query[expected].tolist()
    for name in ("success", "propensity", "cost_usd", "input_tokens", "output_tokens"):
        np.testing.assert_allclose(
            getattr(found, name)[order], getattr(table, name)[expected], atol=1e-9, err_msg=name
        )


@pytest.mark.slow
def test_export_pipes_into_train(tmp_path: Path) -> None:
    """The loop closes on the real command line: ledger, export, pipe, train, load, route."""
    drawn = sample(make_world(), 1500, 5)
    table = log(drawn, uniform_policy(drawn), 1)
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, table)
    (tmp_path / "tiers.toml").write_text(tiers_toml(table.tiers))
    tiny_embedder(tmp_path / "embedder", list(table.query))
    export = subprocess.Popen(
        [*COMMAND, "ledger", "export", "ledger.db"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    done = subprocess.run(
        [
            *(*COMMAND, "train", "-", "--tiers", "tiers.toml", "--out", "router", "--json"),
            *("--embedder", "embedder", "--estimator", "logistic", "--no-mlflow"),
            *("--success-value", "0.05"),
        ],
        cwd=tmp_path,
        stdin=export.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert export.stdout is not None and export.stderr is not None
    with export:
        said = export.stderr.read().decode()
    assert (export.returncode, done.returncode) == (0, 0), done.stderr
    assert said == "cps-router: 1,500 rows of 1,500 requests; left out: nothing\n"
    assert '"name": "standard input"' in done.stdout
    assert "reading standard input: 1,500 rows" in done.stderr or "reading" in done.stderr
    routed = subprocess.run(
        [*COMMAND, "route", "router", "what is this?", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"tier"' in routed.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("embedder", "ledger.db", "router", "tiers.toml")
    ]


def test_outcomes_on_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    table = sample_table(20)
    write_jsonl(tmp_path / "a.jsonl", to_outcomes(table))
    lines = (tmp_path / "a.jsonl").read_bytes()
    piped = io.TextIOWrapper(io.BytesIO(lines + b"{}\n"))
    monkeypatch.setattr(sys, "stdin", piped)
    found = read_outcomes("-", table.tiers, max_bad_share=0.5)
    assert found.n_requests == 20
    assert (found.report.path, found.report.n_bad) == ("standard input", 1)
    assert found.report.rejects_path == str(Path("stdin.jsonl.rejects.jsonl"))
    assert "tier and model are missing" in (tmp_path / "stdin.jsonl.rejects.jsonl").read_text()
