"""Objects out of files: lines, arrays, documents and tables, one at a time."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError, OutcomeError
from training.importers import records
from training.importers.records import mentions, read_records
from training.rows import Row


def listed(rows: list[Row]) -> list[tuple[int, object]]:
    return [(n, row.reason if isinstance(row, OutcomeError) else row) for n, row in rows]


def read(path: Path) -> list[tuple[int, object]]:
    return listed(list(read_records(path)))


@pytest.mark.parametrize("name", ["log.jsonl", "log.json", "log", "log.ndjson.gz"])
def test_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = b'{"a": 1}\n\n7\n{oops\n{"b": "\xff"}\n{"a": 2}'
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read(path) == [
        (1, {"a": 1}),
        (3, "not a JSON object"),
        (4, "invalid JSON"),
        (5, "invalid UTF-8"),
        (6, {"a": 2}),
    ]


def test_a_first_line_that_is_bad_costs_only_itself_where_the_name_says_lines(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{oops\n{"a": 1}\n')
    assert read(path) == [(1, "invalid JSON"), (2, {"a": 1})]


@pytest.mark.parametrize("name", ["log.jsonl", "log.json"])
def test_an_array(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf \n[\n {"a": 1},\n 7, {"b": "\xff"},\n{"c": "\xc3\xa4"}] \n')
    assert read(path) == [
        (1, {"a": 1}),
        (2, "not a JSON object"),
        (3, "invalid UTF-8"),
        (4, {"c": "ä"}),
    ]


@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=5), st.text(max_size=40) | st.integers(), max_size=4)
    ),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    plain=st.booleans(),
)
def test_an_array_reads_back_wherever_its_chunks_end(
    rows: list[dict[str, object]], chunk: int, indent: int | None, plain: bool
) -> None:
    text = io.TextIOWrapper(
        io.BytesIO(json.dumps(rows, indent=indent, ensure_ascii=plain).encode("utf-8", "replace"))
    )
    expected = json.loads(json.dumps(rows, ensure_ascii=plain).encode("utf-8", "replace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHUNK", chunk)
        assert [v for _, v in records._elements(text, Path("log.json"))] == expected


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}',
        '[{"a": 1},',
        '[{"a": 1},]',
        '[{"a": 1} {"a": 2}]',
        '[{"a": 1}, {"a" 2}]',
        '[{"a": "cut off',
        '[{"a": 1}] and more',
        "[" * 100_000,
        "[",
        "[" + "1" * 10_000 + "]",
    ],
)
def test_a_broken_array_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a JSON array"):
        read(path)


def test_an_early_error_in_an_array_does_not_read_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text('[{"a" 1},' + '{"a": "xxxxxxxxxxxxxxxxxxxx"},' * 1_000_000 + "1]")
    tracemalloc.start()
    with pytest.raises(InputError, match="its element 1 is no JSON"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_an_array_on_one_line_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("[" + ", ".join('{"a": "' + "x" * 100 + '"}' for _ in range(100_000)) + "]")
    tracemalloc.start()
    assert sum(1 for _ in read_records(path)) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_document(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"resourceSpans": [{"a": 1}]}, indent=2))
    assert read(path) == [(1, {"resourceSpans": [{"a": 1}]})]
    path.write_text('{\n"a": 1')
    with pytest.raises(InputError, match="expected JSON lines, a JSON array or one JSON object"):
        read(path)
    path.write_bytes(b'{\n"a": "\xff"}')
    with pytest.raises(InputError, match="expected JSON lines, a JSON array or one JSON object"):
        read(path)


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('request_id,metadata\nr1,"{""a"": 1}"\nr2,\nr3,x,y\n')
    assert read(path) == [
        (2, {"request_id": "r1", "metadata": '{"a": 1}'}),
        (3, {"request_id": "r2"}),
        (4, "more fields than the header"),
    ]
    path = tmp_path / "log.parquet"
    rows = [{"request_id": "r1", "metadata": {"a": 1}}, {"request_id": "r2", "metadata": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == [(1, rows[0]), (2, rows[1])]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(InputError, match=r"expected an export at .*, found no file"):
            read(path)
        with pytest.raises(InputError, match=r"expected an export at .*, found no file"):
            mentions(path, b"x")
    path = tmp_path / "log.json.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="it is damaged"):
        read(path)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    for text in ("", " \n \n", "[]"):
        path.write_text(text)
        assert read(path) == []


def test_a_file_mentions_text_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHUNK", 4)
    path = tmp_path / "log.json"
    path.write_bytes(b"........resourceLogs....")
    assert mentions(path, b"resourceLogs")
    assert not mentions(path, b"resourceSpans")


@given(st.binary(max_size=200), st.sampled_from(["log.json", "log.jsonl", "log.csv"]))
def test_any_bytes_give_rows_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    said = "."
    try:
        for _, row in read_records(path):
            assert isinstance(row, dict | OutcomeError)
    except InputError as error:
        said = str(error)
    assert said.endswith(".")
