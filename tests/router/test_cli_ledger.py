"""``cps-router ledger``: what it prints, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from router.client.spill import append_to_spill
from router.ledger import Ledger
from router.ledger import tables as ledger_tables
from router.ledger.report import report
from router.outcomes import read_jsonl
from tests import postgres
from tests.command_line import Done, Run, here
from tests.ledgers import attempt, many, request


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPS_ROUTER_LEDGER", raising=False)
    return partial(here, monkeypatch, capsys)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.record_many(many(120, sessions=40))
        for record, _ in many(60):
            ledger.feedback(record.request_id, int(record.request_id[1:]) % 3 > 0)
    return path


def refused(done: Done, code: int) -> str:
    """The error: one sentence on stderr, and nothing on stdout."""
    assert (done.code, done.out) == (code, "")
    (error,) = done.err.splitlines()
    assert error.startswith("cps-router: ") and error.endswith(".")
    return error.removeprefix("cps-router: ")


def dollars(line: str) -> int:
    """The amount at the end of a line, in nanodollars."""
    found = re.search(r"(-?)\$([\d,]+)\.(\d{9})$", line)
    assert found, line
    return int(f"{found[1]}{found[2].replace(',', '')}{found[3]}")


def test_the_report_in_words_adds_up(cps: Run, filled: Path) -> None:
    done = cps("ledger", "report")  # ledger.db of the current folder
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "120 requests"
    start = next(i for i, line in enumerate(lines) if line.startswith("baseline: always"))
    amounts = [dollars(line) for line in lines[start : start + 7]]
    baseline, routing, cache, batch, later, exploration, cost = amounts
    assert baseline - routing - cache - batch + later + exploration == cost
    assert "Effective discount" in done.out and "over 40 sessions" in done.out
    assert "not that the baseline is estimated" in done.out
    assert [" measured " in line for line in lines[start + 1 : start + 7]] == [
        *(False, True, True, True, False, True)
    ]
    assert re.search(r"baseline is measured for \d+ requests .* estimated for \d+", done.out)


def test_the_report_as_json_is_the_report(cps: Run, filled: Path) -> None:
    done = cps("ledger", "report", filled, "--json", "--by", "tier, day", "--confidence", 0.8)
    found = json.loads(done.out)
    with Ledger(filled) as ledger:
        expected = report(ledger, by=["tier", "day"], confidence=0.8).to_dict()
    assert found == json.loads(json.dumps(expected))
    s = found["savings"]
    assert s["baseline_nanousd"] == (
        s["cost_nanousd"] + s["cache_saving_nanousd"] + s["routing_saving_nanousd"]
        + s["batch_saving_nanousd"] - s["escalation_cost_nanousd"] - s["exploration_cost_nanousd"]
    )  # fmt: skip
    assert found["by"] == ["tier", "day"] and len(found["groups"]) == 3


def test_what_is_unknown_is_said(cps: Run, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.record(request("r1"), [attempt(usage=None, cost_nanousd=None)])
        ledger.record(request("r2", done=False))
        ledger.feedback("r3", True)
    out = cps("ledger", "report").out
    assert "Nothing can be said of what was saved" in out
    assert "Left out of the saving: 1 requests, the cost of an attempt is unknown." in out
    assert "Left out of the saving: 1 requests, not finished." in out
    assert "The cost of 1 attempts is unknown: the true bill is higher." in out
    assert "1 requests have feedback and no record (yet)." in out


def test_a_table_is_as_wide_as_its_cells(cps: Run, tmp_path: Path) -> None:
    model, tier = "m" * 40, "a-tier-whose-name-says-all-of-it-at-length"
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.record(request(), [attempt(tier=tier, model=model, cost_nanousd=123_456_700_000)])
        ledger.feedback("r1", True)
    (row,) = (line for line in cps("ledger", "report").out.splitlines() if tier in line)
    assert row.split() == [
        *("2026-03-01", model, tier, "1", "1", "100.0%", "0", "$123.4567", "0", "$123.456700"),
    ]


def test_what_the_headline_covers_is_said(cps: Run, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        for number in range(30):
            ledger.record(request(f"r{number}"), [attempt()])
            ledger.record(request(f"u{number}"), [attempt(tier="mid", cost_nanousd=None)])
    out = cps("ledger", "report", "--by", "tier").out
    assert "(50.0% of those answered, 50.0% of their attempts)" in out
    assert "No discount is given: less than 80%" in out and "Effective discount" not in out
    (row,) = (line for line in out.splitlines() if line.startswith("mid "))
    assert row.split() == ["mid", "30", "30", "-", "30", "-", "30", "-"]


def test_a_loss_is_said_plainly(cps: Run, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        for number in range(30):
            ledger.record(request(f"r{number}", baseline_nanousd=5_000), [attempt()])
    out = cps("ledger", "report", "--by", "tier").out
    assert "NOTHING WAS SAVED: always the strongest tier would have been cheaper" in out
    assert "Effective discount" not in out


def test_an_empty_ledger(cps: Run, tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    assert cps("ledger", "report").out == "no requests\n"
    assert json.loads(cps("ledger", "report", "--json").out)["groups"] == []
    assert cps("ledger", "report", "--since", "2026-03-01").out == (
        "no requests since 2026-03-01 00:00 UTC\n"
    )
    done = cps("ledger", "export")
    assert (done.out, done.err) == (
        "",
        "cps-router: 0 rows of 0 requests; left out: nothing\n",
    )


def test_which_ledger_is_meant(
    cps: Run, filled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    with Ledger(other) as ledger:
        ledger.record(request(), [attempt()])
    assert cps("ledger", "report").out.startswith("120 requests")
    monkeypatch.setenv("CPS_ROUTER_LEDGER", str(other))
    assert cps("ledger", "report").out.startswith("1 requests")
    assert cps("ledger", "report", filled).out.startswith("120 requests")
    for name in ("mistyped.db", "x" * 300):
        assert "found no file" in refused(cps("ledger", "report", name), 2)
    assert not (tmp_path / "mistyped.db").exists()


def test_export_to_a_file(cps: Run, filled: Path, tmp_path: Path) -> None:
    done = cps("ledger", "export", filled, "--out", "out.jsonl", "--json")
    assert (done.code, done.out) == (0, "")
    counts = json.loads(done.err)
    rows = list(read_jsonl(tmp_path / "out.jsonl"))
    assert counts["n_requests"] == 120 and counts["n_rows"] == len(rows) > 40
    assert set(counts["left_out"]) >= {"no feedback", "a later attempt (escalation)"}
    piped = cps("ledger", "export", filled)
    assert piped.out == (tmp_path / "out.jsonl").read_text()
    assert "left out: " in piped.err and " x no feedback" in piped.err
    everything = cps("ledger", "export", filled, "--accepted-is-success")
    assert len(everything.out.splitlines()) == 120
    assert len(
        cps("ledger", "export", filled, "--since", "2026-03-01T12:30").out.splitlines()
    ) < len(rows)
    message = refused(cps("ledger", "export", filled, "--out", "nowhere/out.jsonl"), 2)
    assert "expected to write outcomes to nowhere/out.jsonl" in message


def test_feedback_on_one_request(cps: Run, filled: Path) -> None:
    done = cps(
        "ledger", "feedback", filled, "r0000007", "--failure", "--score", 2, "--source", "me"
    )
    assert (done.code, done.out, done.err) == (0, "1 feedback kept\n", "")
    done = cps("ledger", "feedback", filled, "unheard-of", "--success", "--json")
    assert json.loads(done.out) == {"n_feedback": 1, "n_unknown_requests": 1}
    with Ledger(filled) as ledger:
        entry = ledger.request("r0000007")
    assert entry is not None and entry.success == 0.0
    (latest,) = (one for one in entry.feedback if one.source == "me")
    assert latest.score == 2.0


def test_feedback_from_a_file(cps: Run, filled: Path, tmp_path: Path) -> None:
    lines = [
        '{"request_id": "r0000100", "success": true}',
        "",
        '{"request_id": "r0000101", "success": 0.5, "at": "2026-03-05T00:00Z", "source": "judge"}',
        '{"request_id": 7, "success": "no"}',
    ]
    (tmp_path / "feedback.jsonl").write_text("\n".join(lines) + "\n")
    for arguments, stdin in (
        (("--file", "feedback.jsonl"), b""),
        (("--file", "-"), "\n".join(lines).encode()),
    ):
        done = cps("ledger", "feedback", filled, *arguments, stdin=stdin)
        assert done.out == ("3 feedback kept\n1 of them on requests that are not recorded (yet)\n")
    with Ledger(filled) as ledger:
        entries = [ledger.request(name) for name in ("r0000100", "r0000101")]
    assert [entry.success for entry in entries if entry is not None] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{nonsense", "expected a JSON object in line 2 of the feedback"),
        (b"[1]", "expected a JSON object in line 2 of the feedback"),
        (b'{"request_id": "r1"}', "line 2: expected feedback that can be kept, but success is"),
        (b'{"request_id": "r1", "success": 3}', "success is not between 0 and 1"),
        (b'{"success": true}', "line 2: expected request_id as a text"),
        (b'{"request_id": "r1", "success": true, "at": "noon"}', "at is not a time"),
    ],
)
def test_bad_feedback_names_its_line(cps: Run, filled: Path, line: bytes, words: str) -> None:
    good = b'{"request_id": "r0000100", "success": true}\n'
    done = cps("ledger", "feedback", filled, "--file", "-", stdin=good + line + b"\n")
    assert words in refused(done, 2)


def test_feedback_of_a_file_has_its_facts_in_its_lines(cps: Run, filled: Path) -> None:
    line = b'{"request_id": "r0000100", "success": true, "source": null, "score": null}\n'
    done = cps("ledger", "feedback", filled, "--file", "-", "--source", "judge", stdin=line)
    assert done.out == "1 feedback kept\n"
    with Ledger(filled) as ledger:
        entry = ledger.request("r0000100")
    assert entry is not None and [one.source for one in entry.feedback] == ["judge"]
    for option in (("--score", 3), ("--at", "2026-03-05")):
        message = refused(cps("ledger", "feedback", filled, "--file", "-", *option, stdin=line), 2)
        assert "with --file: write score and at into its lines" in message


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("r1",),
        ("--success",),
        ("r1", "--success", "--file", "x.jsonl"),
        ("r1", "--file", "x.jsonl"),
    ],
)
def test_feedback_is_of_one_request_or_of_a_file(
    cps: Run, filled: Path, arguments: tuple[str, ...]
) -> None:
    message = refused(cps("ledger", "feedback", filled, *arguments), 2)
    assert "expected either a REQUEST_ID with --success or --failure, or --file" in message


def test_bad_options(cps: Run, filled: Path, tmp_path: Path) -> None:
    assert "as a span before now" in refused(cps("ledger", "report", "--since", "soon"), 2)
    assert "day, model, tier" in refused(cps("ledger", "report", "--by", "hour"), 2)
    assert "confidence" in refused(cps("ledger", "report", "--confidence", 2), 2)
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to look at " * 9)
    assert "is no SQLite database" in refused(cps("ledger", "report", "text.db"), 1)
    missing = cps("ledger", "feedback", filled, "--file", "missing.jsonl")
    assert "expected feedback at missing.jsonl" in refused(missing, 2)
    soon = cps("ledger", "erase", filled, "--before", "soon")
    assert "expected --before as an ISO 8601 date" in refused(soon, 2)
    url = "postgresql://me:topsecret@127.0.0.1:1/d"
    assert "topsecret" not in refused(cps("ledger", "report", url), 1)


def test_erasing_queries(cps: Run, filled: Path) -> None:
    done = cps("ledger", "erase", filled, "--before", "2026-03-01T13:00Z")
    assert (done.code, done.out) == (0, "60 queries erased\n")
    assert (
        json.loads(cps("ledger", "erase", filled, "--before", "1d", "--json").out)["n_erased"] == 60
    )
    assert "its query is not kept" in cps("ledger", "export", filled).err


def test_erasing_says_what_stays(cps: Run, tmp_path: Path) -> None:
    row: dict[str, object] = dict.fromkeys(
        ("row", "n_bytes", "expected_nanousd", "attempts", "not_before_us"), 0
    )
    row |= dict.fromkeys(("job_id", "request_id", "ledger_id", "state", "tier", "order_key"), "x")
    with (
        Ledger(tmp_path / "ledger.db") as ledger,
        ledger.engine.writing() as connection,
    ):
        row |= {"batched": True, "prompt": "private"}
        connection.execute(ledger_tables.batch_rows.insert(), [row])
    out = cps("ledger", "erase", "ledger.db", "--before", "1d").out
    assert out.splitlines()[0] == "0 queries erased"
    assert "1 rows of batch jobs keep their prompt or answer" in out and "--forget" in out


def test_replaying_a_spill(cps: Run, filled: Path, tmp_path: Path) -> None:
    for number in range(3):
        append_to_spill(tmp_path / "spill.jsonl", request(f"spilled{number}"), (attempt(),))
    for _ in range(2):  # twice is once
        done = cps("ledger", "replay", filled, "spill.jsonl")
        assert (done.code, done.out) == (0, "3 records taken in\n")
    with Ledger(filled) as ledger:
        entry = ledger.request("spilled1")
        assert entry is not None and entry.attempts == (attempt(),)
        assert sum(1 for _ in ledger.requests()) == 123
    assert "missing.jsonl" in refused(cps("ledger", "replay", filled, "missing.jsonl"), 2)


def test_on_postgresql(cps: Run, postgres_server: postgres.Server) -> None:
    url = postgres_server.new_database()
    assert "found none in that database" in refused(cps("ledger", "report", url), 2)
    with Ledger(url) as ledger:
        ledger.record(request(), [attempt()])
    assert cps("ledger", "feedback", url, "r1", "--success").code == 0
    assert json.loads(cps("ledger", "report", url, "--json").out)["total"]["success_rate"] == 1.0
    assert json.loads(cps("ledger", "export", url).out)["request_id"] == "r1"


def test_a_long_report_says_what_it_does(
    cps: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.cli_ledger._SILENT_S", 0.0)
    from router.ledger import report as ledger_report

    real = ledger_report._added

    def slow(rows: object) -> object:
        import time

        time.sleep(0.2)
        return real(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger_report, "_added", slow)
    done = cps("ledger", "report", "--json")
    json.loads(done.out)
    assert done.err.startswith("cps-router: ") and " ...\n" in done.err


def test_without_sqlalchemy_the_command_names_the_extra(filled: Path, repository: Path) -> None:
    # A process of its own: what is imported without it would stay for other tests.
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "sys.argv = ['cps-router', 'ledger', 'report', sys.argv[1]]\n"
        "from router.cli import app, run\n"
        "run(app)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(filled)], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "cps-router[ledger]" in done.stderr and done.stderr.count("\n") == 1
