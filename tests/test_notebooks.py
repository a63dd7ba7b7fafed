"""Every notebook runs as it stands, and is stored without outputs.

Its code cells are plain Python (no magics), so that they are run in order in one fresh interpreter,
as a kernel would, in an empty folder; that needs no kernel and none of its packages.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run_python

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What a reader is promised to see.
SHOWN = {
    "01-from-logs-to-a-router.ipynb": (
        "4,500 rows; the first:",
        "3 bad rows, 0 rows of no tier.",
        '"line": 4501, "reason": "cost_usd is missing',
        "is certified at 95% confidence on",
        "Floor menu on the calibration rows",
        "Cost per success on the test rows",
        "random-mix",
        "verdict:",
        "Less my-router",
        "keyword against my-router:",
        "KeywordRouter",
        "frontier out-of-distribution",
    ),
    "02-the-frontier.ipynb": (
        "always nano",
        "- least cost per success ends at a success rate of 0.",
        "least c / p of each query   CPS $0.0001",
        "Dinkelbach                  CPS $0.00008",
        "mean over 20 floors 0.",
        "success rate >= that of frontier - 0.05",
        "min-cps against routed: WORSE",
        "always:frontier against routed: WORSE",
    ),
    "03-learning-from-logs.ipynb": (
        "outcomes: 5,000 of 5,000 rows",
        "reads as a log of one tier per request: True",
        "propensities recorded",
        "record the propensity of every decision",
        "on 100.0% of the traffic some tier was never tried",
        "Cost per success on the logged requests",
        "REFUSED",
        "PROMOTED",
        "exploration included",
        "success 0.",
    ),
    "04-caching-and-routing.ipynb": (
        "today            $ 4.02 a day",
        "multiplied, the two discounts would give $1.83 a day; together they give $2.29",
        "after 290 s: warm tokens {'large': 9200}",
        "after 310 s: warm tokens {}",
        "no session             -> small",
        "warm, last turn        -> large",
        "warm, 4 turns to come  -> small",
        "cold, last turn        -> small",
        "cached    30 requests",
        "adds up: True",
    ),
}


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def sources(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path, "code")]


def test_all_notebooks_are_held_to_something() -> None:
    assert [path.name for path in NOTEBOOKS] == sorted(SHOWN)
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(path.name in listed for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    assert not any(word in path.read_text(encoding="utf-8") for word in ("/home/", "/tmp/", "C:\\"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_links_to_what_is_there(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for part in "".join(cell["source"]).split("](")[1:]:
            assert (FOLDER / part.split(")")[0]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path, repository: Path) -> None:
    code = sources(path)
    for source in code:
        ast.parse(source)
    places = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(repository)}
    shown = run_python("\n".join(code), cwd=tmp_path, **places)
    for text in SHOWN[path.name]:
        assert text in shown, f"{text!r} is not in what {path.name} shows"
