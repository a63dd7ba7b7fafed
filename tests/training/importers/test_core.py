"""Writing outcomes: order, counts, rejects, and what is left behind when it fails."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import InputError, OutcomeError
from router.outcomes import Outcome, read_jsonl
from tests.training.importers.helpers import read_lines
from training.importers.core import Call, Item, check_out, write_outcomes
from training.importers.verdicts import NO_FEEDBACK, Verdict

YES = Verdict(1.0, None, None, human=False, at=0.0)


def call(number: int, **changes: object) -> Call:
    columns = {"request_id": f"r{number}", "query": "SECRET", "model": "m", "cost_usd": 0.5}
    return Call({**columns, **changes}, YES)


def test_outcomes_in_order_and_the_rest_by_reason(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    seen: list[int] = []
    report = write_outcomes(
        [
            Item(1, call(3, propensity=0.5), "r3"),
            Item(2, None),
            Item(3, OutcomeError("no prompt was logged"), "r4"),
            Item(4, Call({}, NO_FEEDBACK), "SECRET prompt in the place of an id"),
            Item(5, call(1, cost_usd=None, input_tokens=1, output_tokens=1), 1),
            Item(6, call(2, propensity=2.0), ["SECRET"]),
            Item(7, OutcomeError("no prompt was logged")),
        ],
        out,
        source="log",
        on_progress=seen.append,
    )
    assert [row["request_id"] for row in read_lines(out)] == ["r3", "r1"]
    assert report.to_dict() == {
        "out": str(out),
        "n_rows": 7,
        "n_outcomes": 2,
        "n_not_calls": 1,
        "n_rejected": 4,
        "reasons": {
            "no prompt was logged": 2,
            NO_FEEDBACK: 1,
            "propensity is not above 0 and at most 1": 1,
        },
        "rejects_path": f"{out}.rejects.jsonl",
        "n_with_cost": 1,
        "n_with_propensity": 1,
    }
    rejects = tmp_path / "out.jsonl.rejects.jsonl"
    assert [(row["line"], row["request_id"]) for row in read_lines(rejects)] == [
        (3, "r4"),
        (4, None),
        (6, None),
        (7, None),
    ]
    assert "SECRET" not in rejects.read_text()
    assert seen == [7]
    assert not list(tmp_path.glob("*.partial"))


def test_an_import_without_rejects_removes_those_of_the_last(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write_outcomes([Item(1, call(1)), Item(2, OutcomeError("bad"))], out, source="log")
    assert (tmp_path / "out.jsonl.rejects.jsonl").exists()
    report = write_outcomes([Item(1, call(1))], out, source="log")
    assert report.rejects_path is None
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_nothing_mapped_is_an_error_that_names_the_commonest_reason(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("of yesterday")
    items = [Item(1, OutcomeError("odd")), *(Item(n, OutcomeError("usual")) for n in (2, 3))]
    with pytest.raises(InputError, match=r"none of its 3 rows .*because: usual \(2 rows; see "):
        write_outcomes([*items], out, source="log")
    with pytest.raises(InputError, match="none of its 2 rows is one"):
        write_outcomes([Item(1, None), Item(2, None)], out, source="log")
    with pytest.raises(InputError, match="it has no rows"):
        write_outcomes([], out, source="log")
    assert out.read_text() == "of yesterday"
    assert not list(tmp_path.glob("*.partial"))


def test_a_source_that_breaks_off_leaves_the_file_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("of yesterday")

    def items() -> Iterator[Item]:
        yield Item(1, call(1))
        raise InputError("cut off.")

    with pytest.raises(InputError, match="cut off"):
        write_outcomes(items(), out, source="log")
    assert out.read_text() == "of yesterday"
    assert not list(tmp_path.glob("*.partial"))


def test_where_outcomes_cannot_go(tmp_path: Path) -> None:
    source = tmp_path / "log.jsonl"
    source.write_text("")
    for out, said in [
        (tmp_path / "out.parquet", r"end in \.jsonl"),
        (tmp_path / "gone" / "out.jsonl", "in a folder that exists"),
        (source, "another file than"),
    ]:
        with pytest.raises(InputError, match=said):
            check_out(out, source)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="in a folder that exists"):
        check_out(tmp_path / "folder.jsonl", source)
    check_out(tmp_path / "out.jsonl", source)


def test_the_number_of_rows_does_not_matter_for_memory(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        items = (Item(k, call(k) if k % 2 else OutcomeError("bad"), k) for k in range(1, n + 1))
        tracemalloc.start()
        write_outcomes(items, tmp_path / "out.jsonl", source="log")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # what is loaded once
    assert peak(20_000) < 1.5 * peak(1_000) + 100_000


def test_any_text_survives(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    query = "ä\u2028\ud800\x00" + json.dumps({"a": 1})
    write_outcomes([Item(1, call(1, query=query))], out, source="log")
    [(_, outcome)] = read_jsonl(out)
    assert isinstance(outcome, Outcome)
    assert outcome.query == query
