"""``cps-router evaluate`` on logged feedback, with a real artifact and queries in words."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from router.outcomes import write_jsonl
from tests.command_line import Run, here
from training.synthetic import (
    SyntheticOutcomes,
    keyword_policy,
    log,
    make_world,
    sample,
    to_outcomes,
    uniform_policy,
)


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(here, monkeypatch, capsys)


@pytest.fixture(scope="module")
def drawn() -> SyntheticOutcomes:
    """Requests that the small artifact has not seen, and their truth."""
    return sample(make_world(), 900, 21)


@pytest.fixture
def logged(drawn: SyntheticOutcomes, tmp_path: Path) -> Path:
    path = tmp_path / "uniform.jsonl"
    write_jsonl(path, to_outcomes(log(drawn, uniform_policy(drawn), 1)))
    return path


def test_as_json(cps: Run, small_artifact: Path, logged: Path, drawn: SyntheticOutcomes) -> None:
    done = cps("evaluate", small_artifact, logged, "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["feedback"] == "logged"
    assert report["data"] == "uniform.jsonl"
    assert report["n_rows"] == 900
    assert report["n_requests"] + report["n_left_out_trained"] == 900
    assert report["propensity"]["source"] == "recorded"
    assert report["artifact_id"]
    names = ["nano", "mid", "frontier"]
    assert list(report["tiers"]) == list(report["overlap"]) == names
    assert sum(tier["n"] for tier in report["tiers"].values()) == report["n_requests"]
    for tier in report["tiers"].values():
        successes = tier["success_rate"] * tier["n"]
        assert tier["cps_usd"] == pytest.approx(tier["total_cost_usd"] / successes)
    for t, name in enumerate(names):
        policy = report["policies"][f"always-{name}"]
        assert set(policy["estimates"]) == {"dm", "ips", "snips", "dr"}
        low, high = policy["success_rate_interval"]
        assert low <= drawn.p_success[:, t].mean() <= high
        low, high = policy["cost_usd_per_request_interval"]
        assert low <= drawn.expected_cost_usd[:, t].mean() <= high
    assert report["policies"]["router"]["cps_usd_interval"] is not None
    assert report["verdict"]["label"] in ("pays", "does not pay", "not proven", "refused")
    # The same twice; another seed shuffles otherwise.
    assert cps("evaluate", small_artifact, logged, "--json").out == done.out
    assert cps("evaluate", small_artifact, logged, "--json", "--seed", 1).out != done.out
    # No text of a query leaves.
    assert not any(query.text in done.out for query in drawn.queries if len(query.text) > 20)


def test_in_words_and_as_files(cps: Run, small_artifact: Path, logged: Path) -> None:
    done = cps("evaluate", small_artifact, logged, "--report", "out", "--confidence", 0.9)
    assert done.code == 0
    assert "90% intervals" in done.out
    for name in ("router", "logging", "always-nano", "always-mid", "always-frontier", "keyword"):
        assert f"\n{name} " in done.out
    assert "the router against the log: saves" in done.out
    assert "\nverdict: " in done.out
    assert all(line == line.rstrip() for line in done.out.splitlines())
    assert Path("out/report.txt").read_text() == done.out
    assert json.loads(Path("out/report.json").read_text())["feedback"] == "logged"


def test_the_log_of_a_rule_that_never_explores(
    cps: Run, small_artifact: Path, drawn: SyntheticOutcomes, tmp_path: Path
) -> None:
    table = log(drawn, keyword_policy(drawn), 1)
    outcomes = list(to_outcomes(table))
    for outcome in outcomes:
        object.__setattr__(outcome, "propensity", None)
    path = tmp_path / "log.jsonl"
    write_jsonl(path, outcomes)
    done = cps("evaluate", small_artifact, path)
    assert done.code == 0
    assert "the log follows it on 100 % of its requests" in done.out
    assert "always-frontier: no estimate: expected at most 5 %" in done.out
    found = json.loads(cps("evaluate", small_artifact, path, "--json").out)
    assert found["verdict"]["label"] == "refused"
    assert found["policies"]["keyword"]["success_rate"] == pytest.approx(
        found["policies"]["logging"]["success_rate"]
    )


def test_full_feedback_is_evaluated_as_ever(
    cps: Run, small_artifact: Path, drawn: SyntheticOutcomes, tmp_path: Path
) -> None:
    path = tmp_path / "full.jsonl"
    write_jsonl(path, to_outcomes(drawn.table.take(np.arange(100))))
    report = json.loads(cps("evaluate", small_artifact, path, "--json").out)
    assert "feedback" not in report
    assert "mix_ratio" in report


@pytest.mark.parametrize("rows", [1, 20])
def test_a_short_log(
    cps: Run, small_artifact: Path, logged: Path, tmp_path: Path, rows: int
) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text("".join(logged.read_text().splitlines(keepends=True)[:rows]))
    for extra in ((), ("--json",)):
        done = cps("evaluate", small_artifact, path, *extra)
        assert done.code == 0
        assert "effective sample size of at least 100" in done.out


def test_a_log_without_costs(cps: Run, small_artifact: Path, logged: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in logged.read_text().splitlines()]
    for row in rows:
        # Tokens of a model that no price book knows.
        del row["cost_usd"]
    path = tmp_path / "free.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        "".join(
            f'[[tiers]]\nname = "{name}"\nprovider = "nobody"\nmodel = "unheard-of-{name}"\n'
            for name in ("nano", "mid", "frontier")
        )
    )
    for row in rows:
        del row["model"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cps("evaluate", small_artifact, path, "--tiers", tiers)
    assert done.code == 2
    assert done.out == ""
    assert "have no cost" in done.err.splitlines()[-1]
    # Priced by the artifact's own tiers it works.
    assert cps("evaluate", small_artifact, path).code == 0
