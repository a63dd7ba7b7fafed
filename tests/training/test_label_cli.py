"""``cps-router label``: what it says, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import router.providers
from router.ledger import Ledger
from router.testing import FakeProvider
from tests.batches import Batches, failure
from tests.command_line import Done, here
from tests.ledgers import many

TIERS = """
[[tiers]]
name = "small"
provider = "openai"
model = "gpt-5-nano"

[[tiers]]
name = "large"
provider = "openai"
model = "gpt-5"
"""

Label = Callable[..., Done]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    found = FakeProvider(
        {
            "gpt-5-nano": "It is 4.",
            "gpt-5": lambda prompt: "It is 4." if "2 + 2" in str(prompt.messages) else "It is 6.",
            "gpt-5-mini": "VERDICT: PASS",
        },
        id="openai",
    )
    monkeypatch.setattr(router.providers, "make_provider", lambda name: found)
    return found


@pytest.fixture
def label(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    fake: FakeProvider,
) -> Label:
    (tmp_path / "tiers.toml").write_text(TIERS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "q.jsonl", [("What is 2 + 2?", 4), ("What is 3 + 3?", 6)])

    def run(*arguments: object) -> Done:
        return here(monkeypatch, capsys, "label", *arguments)

    return run


def write(path: Path, rows: list[tuple[str, int]]) -> None:
    text = "".join(json.dumps({"query": q, "expected": e}) + "\n" for q, e in rows)
    path.write_text(text, encoding="utf-8")


USUAL = ("--tiers", "tiers.toml", "--out", "o.jsonl")


def test_it_says_what_was_run_spent_and_found(label: Label, fake: FakeProvider) -> None:
    done = label("q.jsonl", *USUAL, "--check", "contains", "--n", 10, "--sync")
    assert done.code == 0, done.err
    assert "run on every tier: 2 of 2, 2 at random and 0 chosen" in done.out
    assert "outcomes: 4, of 2 queries on every tier, in o.jsonl" in done.out
    assert "success of small: 50.0%" in done.out and "success of large: 100.0%" in done.out
    assert "spent: $0.0" in done.out and "asking every tier" in done.err
    rows = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert {(row["tier"], row["success"]) for row in rows} == {
        ("small", 1.0), ("small", 0.0), ("large", 1.0),
    }  # fmt: skip
    again = label("q.jsonl", *USUAL, "--check", "contains", "--n", 10, "--sync", "--json")
    found: dict[str, Any] = json.loads(again.out)
    assert (found["n_reused"], found["spent_now_usd"], len(fake.calls)) == (4, 0.0, 4)


def test_batch_is_the_default_and_keeps_its_jobs_beside_the_outcomes(label: Label) -> None:
    done = label("q.jsonl", *USUAL, "--check", "contains", "--n", 10, "--max-cost", 1, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_labelled"] == 2
    assert Path("o.jsonl.ledger.db").exists()


def test_bad_rows_are_told_by_line(label: Label) -> None:
    with Path("q.jsonl").open("a") as file:
        file.write('{"query": "no reference"}\n')
    done = label("q.jsonl", *USUAL, "--check", "contains", "--n", 10, "--sync")
    assert "cps-router: q.jsonl: line 3: it has no expected, which the check needs" in done.err
    assert "left out:       1  it has no expected, which the check needs" in done.out
    assert done.code == 0


def test_a_judge_is_measured(label: Label) -> None:
    sample = [("2 + 2?", "4", True), ("3 + 3?", "5", False), ("1 + 1?", "2", True)]
    Path("s.jsonl").write_text(
        "".join(
            json.dumps(dict(zip(("query", "answer", "success"), r, strict=True))) + "\n"
            for r in sample
        )
        + "{\n"
    )
    done = label(
        "q.jsonl", *USUAL, "--judge", "openai/gpt-5-mini", "--judge-sample", "s.jsonl", "--n", 1,
        "--sync", "--max-cost", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the judge on 3 labelled answers" in done.out
    assert "misses:       100.0% [2.5%, 100.0%] of wrong answers pass" in done.out
    assert "of it on the judge" in done.out
    assert "s.jsonl: line 4: last line is cut off" in done.err or "line 4: invalid JSON" in done.err


def test_queries_of_a_ledger(label: Label, fake: FakeProvider) -> None:
    with Ledger("l.db") as ledger:
        for record, attempts in many(3):
            ledger.record(record, attempts)
    done = label("--from-ledger", "l.db", *USUAL, "--check", "regex:4", "--n", 2, "--sync")
    assert done.code == 0, done.err
    assert "run on every tier: 2 of 2" in done.out and len(fake.calls) == 4
    refused = label("--from-ledger", "l.db", *USUAL, "--check", "exact", "--n", 2, "--sync")
    assert refused.code == 2 and "got a ledger, which has none" in refused.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tiers", "tiers.toml", "--out", "o.jsonl"), "expected QUERIES or --from-ledger"),
        (("q.jsonl", "--from-ledger", "l.db", *USUAL), "got both"),
        (("q.jsonl", "--out", "o.jsonl"), "expected --tiers, got none"),
        (("q.jsonl", "--tiers", "tiers.toml", "--out", "q.jsonl"), "to be another file"),
        (("q.jsonl", *USUAL, "--n", "5"), "expected a way to judge answers"),
        (("q.jsonl", *USUAL, "--check", "exact"), "neither: give --n, --max-cost"),
        (("q.jsonl", *USUAL, "--check", "right", "--n", "5"), "expected a check among"),
        (("q.jsonl", *USUAL, "--judge", "gpt-5", "--n", "5"), "expected --judge as PROVIDER/MODEL"),
        (("q.jsonl", *USUAL, "--judge-sample", "s", "--n", "5"), "expected --judge with"),
        (("q.jsonl", *USUAL, "--artifact", "default", "--n", "5"), "expected --choose value with"),
        (
            ("q.jsonl", *USUAL, "--check", "exact", "--choose", "value", "--n", "5"),
            "expected an artifact",
        ),
        (("no.jsonl", *USUAL, "--check", "exact", "--n", "5"), "found no file"),
    ],
)
def test_wrong_use_is_one_sentence(
    label: Label, fake: FakeProvider, arguments: tuple[str, ...], sentence: str
) -> None:
    done = label(*arguments)
    assert done.code == 2
    assert sentence in done.err.splitlines()[-1]
    assert not fake.calls


def test_help_teaches_with_an_example(label: Label) -> None:
    done = label("--help")
    assert done.code == 0
    shown = " ".join(done.out.split())
    assert "cps-router label queries.jsonl --tiers tiers.toml --check contains" in shown
    assert "not proven better" in shown
    assert "no stands in no doubt" in " ".join(shown.replace("│", " ").split())


def test_interrupted_it_says_how_to_go_on(label: Label, fake: FakeProvider) -> None:
    fake._answers = {"gpt-5-nano": KeyboardInterrupt(), "gpt-5": "It is 4."}
    done = label("q.jsonl", *USUAL, "--check", "contains", "--n", 10, "--sync")
    assert done.code != 0
    assert "the same command goes on where it stopped, and pays nothing twice" in done.err


def test_where_nothing_was_labelled_outcomes_stay_and_the_exit_says_so(label: Label) -> None:
    Path("o.jsonl").write_text("of an earlier run\n")
    money = ("--check", "contains", "--max-cost", "0.000001", "--sync")
    done = label("q.jsonl", *USUAL, *money)
    assert done.code == 1
    assert "nothing written to o.jsonl" in done.out
    assert "nothing was labelled: o.jsonl is left as it was" in done.err
    assert Path("o.jsonl").read_text() == "of an earlier run\n"


def test_a_refused_key_in_batches_is_one_sentence(
    label: Label, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = Batches(tmp_path / "provider", id="openai")
    refusing.submit_fails = [(failure("auth"), False)] * 9
    monkeypatch.setattr(router.providers, "make_provider", lambda name: refusing)
    done = label("q.jsonl", *USUAL, "--check", "contains", "--n", 10)
    assert done.code == 1
    assert "2 open rows" in done.err.splitlines()[-1] and "same command" in done.err
    assert not Path("o.jsonl").exists()
