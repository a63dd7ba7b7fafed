"""Whatever a log holds: rows are mapped or counted, never a crash, never a prompt in a message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from router.outcomes import read_jsonl
from tests.training.importers import test_mlflow
from tests.training.importers.helpers import (
    evaluation,
    event,
    observation,
    read_lines,
    request,
    score,
    slp,
    span,
    write_lines,
)
from training.importers import langfuse, litellm, mlflow, otel
from training.importers.core import ImportReport, Item, write_outcomes
from training.importers.verdicts import Judgement, Rule, Verdicts

Read = Callable[[Path], Iterable[Item]]

_KNOWN = Verdicts(Rule())
for _key in ("chatcmpl-1", "observation:obs-1", f"{1:016x}"):
    _KNOWN.add(_key, Judgement(value=True))


def _read_mlflow(path: Path) -> Iterable[Item]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow, "read_traces", lambda source, experiment: iter(read_lines(path)))
        yield from mlflow.read_calls(str(path), Rule(), None)


FORMATS: dict[str, tuple[Callable[[], dict[str, Any]], Read]] = {
    "litellm": (lambda: slp(1), lambda path: litellm.read_calls(path, _KNOWN)),
    "langfuse": (lambda: observation(1), lambda path: langfuse.read_calls(path, _KNOWN)),
    "otel": (
        lambda: request(span(events=[event(evaluation(1, name=None))])),
        lambda path: otel.read_calls(path, _KNOWN),
    ),
    "mlflow": (test_mlflow.trace, _read_mlflow),
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["", "SECRET prompt", "-1", "1e999", "NaN", "[", "{}", '{"a": "SECRET prompt"}', "\ud800"]
    )
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The way to everything within a JSON value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


def spoil(row: Any, path: tuple[Any, ...], value: object) -> None:
    """Put a value in one place, as far as other changes have left the place."""
    for step in path[:-1]:
        try:
            row = row[step]
        except (KeyError, IndexError, TypeError):
            return
    with suppress(IndexError, TypeError):
        row[path[-1]] = value


def imported(folder: Path, rows: list[object], read: Read) -> ImportReport | InputError:
    source, out = folder / "log.jsonl", folder / "out.jsonl"
    write_lines(source, rows)
    try:
        return write_outcomes(read(source), out, source="log")
    except InputError as error:
        return error


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_a_row_with_anything_anywhere(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    make, read = FORMATS[name]
    good, bad = make(), make()
    for _ in range(data.draw(st.integers(1, 4))):
        spoil(bad, data.draw(st.sampled_from(places(make()))), data.draw(junk))
    folder = tmp_path_factory.mktemp("hostile")
    report = imported(folder, [good, bad], read)
    assert isinstance(report, ImportReport)  # the good row is always mapped
    assert report.n_rows == report.n_outcomes + report.n_rejected + report.n_not_calls
    assert report.n_outcomes >= 1
    # Everything that was written can be read.
    assert not [row for _, row in read_jsonl(folder / "out.jsonl") if isinstance(row, InputError)]
    rejects = folder / "out.jsonl.rejects.jsonl"
    assert "SECRET" not in "".join(report.reasons)
    listed = read_lines(rejects) if report.rejects_path else []
    assert len(listed) == report.n_rejected
    assert all(row["line"] == 2 for row in listed)
    assert "SECRET" not in str(listed)


@pytest.mark.parametrize("name", FORMATS)
@given(rows=st.lists(st.dictionaries(st.text(max_size=3), junk, max_size=3), max_size=4))
def test_rows_of_anything_are_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[object]
) -> None:
    error = imported(tmp_path_factory.mktemp("hostile"), rows, FORMATS[name][1])
    assert isinstance(error, InputError)
    assert str(error).endswith(".")
    assert "SECRET" not in str(error)


@given(rows=st.lists(junk, max_size=6))
def test_scores_of_anything(tmp_path_factory: pytest.TempPathFactory, rows: list[object]) -> None:
    path = tmp_path_factory.mktemp("hostile") / "scores.jsonl"
    mixed = [score({"kind": "trace", "id": "t"}, True), {"id": "a", "success": True}, *rows]
    mixed += [{"id": "b", "success": row, "score": row, "name": row, "at": row} for row in rows]
    mixed += [score({"kind": "trace", "id": "u"}, row, name=row, dataType=row) for row in rows]
    write_lines(path, mixed)
    scores, _ = langfuse.read_scores(path, Rule())
    feedback, _ = litellm.read_feedback(path, Rule())
    assert scores.get("trace:t") is not None
    assert len(feedback) >= 1
    write_lines(path, [{"resourceLogs": [{"scopeLogs": [{"logRecords": rows}]}]}, *rows])
    otel.evaluations_of(Rule(), path)


def test_a_huge_line_and_duplicates(tmp_path: Path) -> None:
    huge = slp(1, messages=[{"role": "user", "content": "x" * 5_000_000}])
    report = imported(tmp_path, [huge, huge, slp(1)], FORMATS["litellm"][1])
    assert isinstance(report, ImportReport)
    # Which of several rows of one id is the outcome is decided where outcomes are read.
    assert report.n_outcomes == 3
    assert len(read_lines(tmp_path / "out.jsonl")[0]["query"]) == 5_000_000


def test_not_finite_numbers_are_counted(tmp_path: Path) -> None:
    rows: list[object] = [slp(1), slp(1, response_cost=float("nan")), slp(1, prompt_tokens=1e999)]
    report = imported(tmp_path, rows, FORMATS["litellm"][1])
    assert isinstance(report, ImportReport)
    assert report.reasons == {"cost_usd is not finite": 1, "input_tokens is not finite": 1}
