"""The commands of docs/drift.md run as they stand, and its numbers are those of the code."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from router.outcomes import write_jsonl
from tests.artifacts import make_small_artifact
from tests.command_line import here
from training.defaults import DRIFT_TOLERANCE
from training.drift import FINE_TOLERANCES, MIN_SHARE_SERVED
from training.drift_streams import COST_TOLERANCE_FACTOR, RANKING_TOLERANCE, n_streams
from training.synthetic import make_world, sample, to_outcomes


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "drift.md").read_text("utf-8")


def test_the_commands_run(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    cps = partial(here, monkeypatch, capsys)
    make_small_artifact(tmp_path).rename(tmp_path / "my-router")
    table = sample(make_world(), 200, 9).table
    start = datetime(2026, 3, 1, tzinfo=UTC)
    table.at[:] = np.array([start + timedelta(hours=i) for i in range(200)], dtype=object)
    write_jsonl(tmp_path / "outcomes.jsonl", to_outcomes(table))
    commands = re.findall(r"^    (cps-router .*)$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        done = cps(*shlex.split(command)[1:])
        assert (done.code, done.err.count("cps-router:")) == (0, 0)
        assert "verdict" in done.out
    assert (tmp_path / "drift-report" / "report.json").is_file()


def test_the_numbers_are_those_of_the_code(page: str) -> None:
    assert f"| {DRIFT_TOLERANCE:g} |" in page
    assert f"| {COST_TOLERANCE_FACTOR * DRIFT_TOLERANCE:g}, five times the other |" in page
    assert f"| {RANKING_TOLERANCE:g}: below one half" in page
    assert (FINE_TOLERANCES, MIN_SHARE_SERVED, COST_TOLERANCE_FACTOR) == (3, 0.1, 5)
    assert n_streams(4) - n_streams(3) == 5 and n_streams(0) == 1
