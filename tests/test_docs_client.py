"""The blocks of docs/client.md run as they stand, in order, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import router.verifiers


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "docs" / "client.md").read_text(encoding="utf-8")


def test_the_blocks_run(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/client.md", "exec"), namespace)
    assert capsys.readouterr().out == "Bonjour"


def test_the_table_of_verifiers_is_whole(text: str) -> None:
    rows = set(re.findall(r"^\| `(\w+)\(", text, flags=re.MULTILINE))
    ready = {
        name
        for name, value in vars(router.verifiers).items()
        if getattr(value, "__annotations__", {}).get("return") == "TextCheck"
    }
    assert rows == ready
