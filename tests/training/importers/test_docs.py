"""The commands of docs/importing.md run as they stand, and what it says of keys and words holds."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from router.outcomes import METADATA_KEYS
from tests.command_line import Run
from tests.training.importers import helpers
from tests.training.importers.helpers import (
    evaluation,
    event,
    observation,
    read_lines,
    score,
    slp,
    span,
    table_of,
    write_lines,
)
from training.importers.verdicts import _WORDS

COMMANDS = ("litellm", "langfuse", "mlflow", "otel", "outcomes")


@pytest.fixture(scope="session")
def page(repository: Path) -> str:
    return (repository / "docs" / "importing.md").read_text("utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_run(
    cps: Run, tmp_path: Path, page: str, name: str, request: pytest.FixtureRequest
) -> None:
    [line] = re.findall(rf"^    (cps-router import {name} .*)$", page, flags=re.MULTILINE)
    write_files(tmp_path)
    if name == "mlflow":
        shutil.copy(request.getfixturevalue("mlflow_store"), tmp_path / "mlflow.db")
        line += " --score right"
    done = cps(*shlex.split(line)[1:])
    assert (done.code, done.err.count("cps-router:")) == (0, 0)
    assert read_lines(tmp_path / "outcomes.jsonl")
    assert table_of(tmp_path / "outcomes.jsonl").n_requests >= 1


def write_files(folder: Path) -> None:
    write_lines(folder / "payloads.jsonl", [slp(1)])
    write_lines(folder / "feedback.jsonl", [{"id": "chatcmpl-1", "success": True}])
    write_lines(folder / "observations.jsonl", [observation(1)])
    write_lines(folder / "scores.jsonl", [score({"kind": "trace", "id": "trace-1"}, True)])
    write_lines(folder / "spans.jsonl", [helpers.request(span(events=[event(evaluation(1))]))])
    outcome = {"request_id": "1", "query": "q", "success": 1, "model": "acme-small", "cost_usd": 1}
    write_lines(folder / "with-text.jsonl", [outcome])


def test_the_keys_and_words_are_those_of_the_code(page: str) -> None:
    assert set(re.findall(r"`(cps_router\.\w+)`", page)) == set(METADATA_KEYS)
    listed = re.search(r"if it is ([a-z, ]+) or (\w+) \(([a-z, ]+) and (\w+) are failures\)", page)
    assert listed is not None
    good = {*listed[1].split(", "), listed[2]}
    bad = {*listed[3].split(", "), listed[4]}
    assert good == {word for word, success in _WORDS.items() if success}
    assert bad == {word for word, success in _WORDS.items() if not success}


def test_the_options_exist(page: str) -> None:
    from typer.main import get_command

    from training.cli import app

    group = get_command(app).commands["import"]  # type: ignore[attr-defined]
    known = {
        option
        for command in group.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= known
    assert set(group.commands) == set(COMMANDS)
