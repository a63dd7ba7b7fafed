"""The blocks of docs/labelling.md run as they stand and print what stands below them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.label_checks import CHECKS
from training.label_choice import KERNEL_POWER, STRENGTH
from training.label_input import DEFAULT_MAX_OUTPUT_TOKENS
from training.label_select import RANDOM_SHARE
from training.prepare import MAX_RANDOM_CALIBRATION

_BLOCK = re.compile(r"^```python\n(.*?)^```\n\n?((?:    [^\n]*\n)*)", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "docs" / "labelling.md").read_text(encoding="utf-8")


def test_the_blocks_run_and_print_what_they_show(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, object] = {}
    shown = 0
    for block, output in _BLOCK.findall(text):
        exec(compile(block, "docs/labelling.md", "exec"), namespace)
        assert capsys.readouterr().out.splitlines() == [line[4:] for line in output.splitlines()]
        shown += bool(output)
    assert shown >= 4


def test_the_table_of_checks_is_whole(text: str) -> None:
    rows = {name.partition(":")[0] for name in re.findall(r"^\| `([a-z-]+)", text, re.MULTILINE)}
    assert rows >= set(CHECKS)


def test_the_constants_are_those_of_the_code(text: str) -> None:
    assert f"s = {STRENGTH:g} like it" in text
    assert KERNEL_POWER == 4 and "to the fourth power" in text
    assert f"({DEFAULT_MAX_OUTPUT_TOKENS:,} where" in text
    assert f"{RANDOM_SHARE:.0%}".replace("%", " %") in text
    assert MAX_RANDOM_CALIBRATION == 2 / 3 and "two thirds of the drawn" in " ".join(text.split())
