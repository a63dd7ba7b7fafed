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


def test_the_figures_are_those_of_the_benchmark(text: str, repository: Path) -> None:
    results = (repository / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    heading = re.compile(r"^### (\w+): choosing what to label\n\n((?:\|.*\n)+)", re.MULTILINE)
    measured = {
        (name, line)
        for name, table in heading.findall(results)
        for line in table.splitlines()[2:]  # below the head
    }
    head = "| set | choice | labelling USD "
    shown = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    told = [re.fullmatch(r"\| (\w+) (\|.*)", line) for line in shown]
    assert {found.groups() for found in told if found} == measured and len(shown) == len(measured)
    # What is said in words below it.
    cells: dict[tuple[str, str], list[list[str]]] = {}
    for name, line in sorted(measured, key=lambda row: float(row[1].split("|")[2])):
        choice, *rest = (cell.strip() for cell in line.split("|")[1:-1])
        cells.setdefault((name, choice), []).append(rest)
    words = " ".join(text.split())
    steps = {
        name: float(rows[2][2]) - float(rows[1][2])
        for (name, choice), rows in cells.items()
        if choice == "random"
    }
    assert f"fell by {-steps['paretobandit']:.3f} on paretobandit" in words
    assert f"by {-steps['mmlu_pro']:.3f} on mmlu_pro" in words
    assert f"rose by {steps['zeroeval']:.3f} on zeroeval" in words
    more = max(
        int(cheap[1]) / int(random[1]) - 1
        for name in steps
        for cheap, random in zip(cells[name, "cheap"], cells[name, "random"], strict=True)
    )
    assert f"buys up to {more:.0%}".replace("%", " %") in words
    for place, at in ((0, "at the smallest sums"), (2, "at the largest")):
        ends = [
            [float(end) for end in re.findall(r"[-+][\d.]+", rows[place][3])[1:]]
            for (_, choice), rows in cells.items()
            if choice == "value"
        ]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        assert f"from {low:+.3f} to {high:+.3f} {at}" in words
    # None of them is proven better: its interval would lie below 0.
    assert "not beat choosing at random beyond noise" in words
    for (_, choice), rows in cells.items():
        for row in rows:
            if choice in ("value", "cheap"):
                assert float(re.findall(r"[-+][\d.]+", row[3])[2]) > 0
