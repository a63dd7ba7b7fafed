"""benchmarks/RESULTS.md: a run replaces its own sections, and the README claims what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import page, run
from benchmarks.results import Section, Table
from router.errors import InputError

README_TABLE = """
<!-- results: speed -->
| way | one | both |
|---|---|---|
| by foot | **1,250.5** | 3 (0.25) |
| by 2 wheels | $7 | - |
"""


def section(name: str, *rows: tuple[str, ...], notes: tuple[str, ...] = ()) -> Section:
    return Section(name, [Table("Ways", ("way", "one", "both"), rows, notes)])


def speed(one: str = "1,250.5", both: str = "3 (0.25)") -> str:
    measured = section("Speed", ("walking", one, both), notes=("A cycle costs $7.",))
    return page.updated("", [(measured, {"date": "today"})])


def test_a_run_replaces_its_own_sections_and_keeps_the_others() -> None:
    first = page.updated("", [(section("A b", ("x", "1", "2")), {"date": "Monday", "seed": "0"})])
    both = page.updated(first, [(section("C", ("y", "3", "4")), {"date": "Tuesday"})])
    again = page.updated(both, [(section("A b", ("x", "5", "6")), {"date": "Friday"})])
    assert list(page.sections_of(again)) == ["a-b", "c"]
    assert page.sections_of(again)["c"] == page.sections_of(both)["c"]
    assert "| x | 5 | 6 |" in again and "Friday" in again
    assert "| x | 1 | 2 |" not in again and "Monday" not in again
    assert again.count("# Benchmark results") == 1
    assert page.updated(again, []) == again


def test_what_the_readme_claims_is_looked_up_in_the_section_it_names() -> None:
    assert page.missing_numbers(README_TABLE, speed()) == []
    # A table without a mark claims nothing, nor does a label or a cell without a number.
    assert page.missing_numbers(README_TABLE.replace("<!-- results: speed -->", ""), "") == []


@pytest.mark.parametrize(
    ("one", "both", "missed"),
    [
        ("1,250.6", "3 (0.25)", "'**1,250.5**' of 'by foot' is not in the section speed"),
        ("11,250.5", "3 (0.25)", "'**1,250.5**' of 'by foot' is not in the section speed"),
        ("1,250.5", "3 (0.26)", "'3 (0.25)' of 'by foot' is not in the section speed"),
        ("1,250.5", "0.25 | 3", "'3 (0.25)' of 'by foot' is not in the section speed"),
    ],
)
def test_a_number_that_was_not_measured_is_missing(one: str, both: str, missed: str) -> None:
    assert page.missing_numbers(README_TABLE, speed(one, both)) == [missed]


def test_a_section_that_was_not_measured_is_missing() -> None:
    other = page.updated("", [(section("Other", ("x", "1,250.5", "3 (0.25)")), {})])
    (sentence,) = page.missing_numbers(README_TABLE, other)
    assert "there is no section speed" in sentence


def test_the_command_writes_each_section_as_soon_as_it_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "RESULTS.md"

    def measured(*_: object) -> Iterator[Section]:
        yield section("First", ("x", "1", "2"))
        assert "| x | 1 | 2 |" in out.read_text(encoding="utf-8")
        raise InputError("expected more data, got none: bring some.")

    monkeypatch.setattr(run, "_measure", measured)
    with pytest.raises(SystemExit) as ended:
        run.main(["--only", "client", "--seed", "3", "--out", str(out)])
    assert ended.value.code == 2
    assert "expected more data" in capsys.readouterr().err
    text = page.sections_of(out.read_text(encoding="utf-8"))["first"]
    for fact in ("- date: ", "- machine: ", "- python: ", "- numpy: ", "- seed: 3", "- run time: "):
        assert fact in text
    assert "`python -m benchmarks.run --only client --seed 3`" in text


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# My notes\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"got another file: choose another --out"):
        page.write(path, [])
    assert path.read_text(encoding="utf-8") == "# My notes\n"
    with pytest.raises(InputError, match="expected to write results"):
        page.write(tmp_path / "nowhere" / "RESULTS.md", [])


def test_the_readme_claims_only_what_is_in_the_results(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    results = (repository / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert page.missing_numbers(readme, results) == []


def test_every_section_says_when_where_and_with_what_it_was_measured(repository: Path) -> None:
    results = (repository / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    sections = page.sections_of(results)
    assert sections
    for name, text in sections.items():
        for fact in ("date", "machine", "python", "cps-router", "numpy", "seed", "made by"):
            assert re.search(rf"^- {fact}: \S", text, re.MULTILINE), f"{name} does not say {fact}"
    assert not re.search(r"/home/|/tmp/|/work|/root", results)
