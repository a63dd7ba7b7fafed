"""The README's Python blocks run as they stand, in order, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from training.cli import app


@pytest.mark.slow
def test_python_blocks_run(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The blocks read data/ and write build/: both seen from an empty folder.
    (tmp_path / "data").symlink_to(repository / "data")
    monkeypatch.chdir(tmp_path)
    text = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "calibration rows" in printed
    assert (tmp_path / "build" / "my-router" / "manifest.json").is_file()


def test_commands_and_options_exist(repository: Path) -> None:
    from typer.main import get_command

    commands: dict[str, Any] = {}

    def visit(command: Any, name: str) -> None:
        commands[name] = command
        for part, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{name} {part}")

    visit(get_command(app), "cps-router")
    known = {
        option
        for each in commands.values()
        for parameter in each.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    text = (repository / "README.md").read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z][a-z-]+", text))
    assert options - known <= {"--help", "--backend-store-uri", "--port"}
    named = set(re.findall(r"cps-router ([a-z]+)\b(?! import)", text)) - {"import"}
    assert {"train", "evaluate", "promote", "route", "data", "ledger", "savings", "batch"} <= named
    first = {name.split()[1] for name in commands if " " in name}
    assert {name for name in named if f"`cps-router {name}" in text} <= first


def test_nothing_is_left_to_fill_in(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"(DEMO|TEST)_(MB|MIN)", text)
    shown = re.search(r"<!-- demo -->\n(.*?)<!-- /demo -->", text, flags=re.DOTALL)
    assert shown is not None
    for row in ("always-nano", "always-frontier", "random-mix", "keyword", "oracle", "verdict:"):
        assert row in shown[1]
