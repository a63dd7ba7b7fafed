"""docs/providers.md: its code runs without a network, its table is the one in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.providers.caching import CHECKED, MINIMUMS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/providers.md").read_text("utf-8")


def test_the_code_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "docs/providers.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "AnthropicProvider(id='anthropic')" in printed and "date - expected" in printed


def test_the_minimums_are_the_codes(page: str) -> None:
    rows = re.findall(r"^\| (\S+) \| ([^|]+) \| ([\d,]+) \| (yes|no) \|$", page, re.MULTILINE)
    found = {
        (
            provider,
            "" if model.startswith("any") else model.removesuffix("x"),
            int(tokens.replace(",", "")),
            confirmed == "yes",
        )
        for provider, model, tokens, confirmed in rows
    }
    assert found == {(row.provider, row.model, row.tokens, row.confirmed) for row in MINIMUMS}
    assert CHECKED.isoformat() in page
