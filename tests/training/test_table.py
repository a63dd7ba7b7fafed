from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from router.outcomes import COLUMNS
from router.prices import PriceBook
from router.tiers import Tier, TierSet
from training.table import OutcomeTable, ReadReport, read_outcomes

GOLDEN = Path(__file__).parents[1] / "golden" / "outcomes"
TIERS = TierSet(
    [
        Tier(
            "nano",
            "acme",
            "acme-small",
            input_price_usd_per_mtok=1.0,
            output_price_usd_per_mtok=2.0,
        ),
        Tier("frontier", "acme", "acme-large", aliases=("acme-large-2026",)),
    ]
)
NAN = float("nan")
FACTS = ("request_id", "query", "task", "split", "at", "artifact_id")
MATRICES = ("success", "cost_usd", "input_tokens", "output_tokens", "propensity", "observed")


def row(request_id: object = "r", tier: object = "nano", **changes: object) -> dict[str, object]:
    given = {"request_id": request_id, "query": f"q {request_id}", "success": True, "tier": tier}
    return {k: v for k, v in (given | {"cost_usd": 0.5} | changes).items() if v is not ...}


def jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, rows: Sequence[Mapping[str, object]], **options: Any) -> OutcomeTable:
    return read_outcomes(jsonl(folder / "log.jsonl", rows), TIERS, **options)


def rejects(table: OutcomeTable) -> list[tuple[int, str, object]]:
    assert table.report.rejects_path is not None
    lines = Path(table.report.rejects_path).read_text(encoding="utf-8").splitlines()
    return [(r["line"], r["reason"], r["request_id"]) for r in map(json.loads, lines)]


def assert_same(left: OutcomeTable, right: OutcomeTable) -> None:
    for name in FACTS:
        assert getattr(left, name).tolist() == getattr(right, name).tolist()
    for name in MATRICES:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def assert_counted(report: ReadReport) -> None:
    parts = (report.n_outcomes, report.n_retries, report.n_bad, report.n_not_a_tier)
    assert report.n_rows == sum(parts)
    assert report.n_bad == sum(report.reasons.values())
    assert report.n_not_a_tier == sum(report.not_a_tier.values())


# ------------------------------------------------------------------ golden files


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_golden_rejects(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    shutil.copyfile(GOLDEN / name, path)
    tiers = TierSet.from_toml(GOLDEN / "tiers.toml")
    table = read_outcomes(path, tiers, max_bad_share=1.0)
    assert table.report.rejects_path == str(path) + ".rejects.jsonl"
    written = Path(table.report.rejects_path).read_text(encoding="utf-8")
    expected = (GOLDEN / f"{name}.expected_rejects.jsonl").read_text(encoding="utf-8")
    assert written == expected
    assert_counted(table.report)


def test_golden_jsonl_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    shutil.copyfile(GOLDEN / "rows.jsonl", path)
    table = read_outcomes(path, TierSet.from_toml(GOLDEN / "tiers.toml"), max_bad_share=1.0)
    assert table.request_id.tolist() == ["a", "17", "b", "d"]
    assert table.query[1:].tolist() == [
        "Résumé in Español: ¿qué?\u2028second line",
        "",
        "retried",
    ]
    assert table.task.tolist() == ["maths", None, None, None]
    assert table.split.tolist() == ["train", None, "test", None]
    assert table.at[0] == datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    assert table.at[1] == datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    nan_equal = np.testing.assert_array_equal
    nan_equal(table.success, [[1, 1], [0.75, NAN], [NAN, 0], [0, NAN]])
    # Row 17 is priced: 500 fresh, 400 cached, 100 written and 100 output tokens.
    priced = (500 * 1.0 + 400 * 0.1 + 100 * 1.25 + 100 * 4.0) / 1e6
    nan_equal(table.cost_usd, [[2e-5, 0.004], [priced, NAN], [NAN, 0], [0.2, NAN]])
    nan_equal(table.input_tokens, [[12, NAN], [1000, NAN], [NAN, NAN], [NAN, NAN]])
    nan_equal(table.output_tokens, [[3, NAN], [100, NAN], [NAN, NAN], [NAN, NAN]])
    nan_equal(table.propensity, [[0.5, NAN], [NAN, NAN], [NAN, NAN], [NAN, NAN]])
    assert table.complete.tolist() == [True, False, False, False]
    assert table.report.not_a_tier == {"someone-elses-model": 1}
    assert table.report.n_retries == 1


def test_golden_csv_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    shutil.copyfile(GOLDEN / "rows.csv", path)
    table = read_outcomes(path, TierSet.from_toml(GOLDEN / "tiers.toml"), max_bad_share=1.0)
    assert table.request_id.tolist() == ["a", "17", "b", "k"]
    assert table.query[1] == 'Of several lines,\r\nwith "quotes" and a comma'
    np.testing.assert_array_equal(table.success, [[1, 1], [0.83, NAN], [NAN, 0], [0, NAN]])
    np.testing.assert_array_equal(
        table.cost_usd, [[2e-5, 0.004], [0.0014, NAN], [NAN, 0], [0.1, NAN]]
    )
    assert table.at[2] == datetime(2026, 3, 1, tzinfo=UTC)


# ------------------------------------------------------------------ formats

rows_of_a_log = st.lists(
    st.fixed_dictionaries(
        {
            "request_id": st.sampled_from(["a", "b", "c", "d"]),
            "query": st.just('the same, "quoted"\ntext — ¿qué?'),
            "success": st.floats(0, 1),
            "model": st.sampled_from(["acme-small", "acme-large", "acme-large-2026", "other"]),
        },
        optional={
            "cost_usd": st.floats(0, 10),
            "input_tokens": st.integers(0, 10**6),
            "output_tokens": st.integers(0, 10**6),
            "propensity": st.floats(0.01, 1),
            "attempt": st.integers(1, 3),
            "at": st.datetimes(timezones=st.just(UTC), allow_imaginary=False).map(
                lambda at: at.isoformat()
            ),
            "split": st.sampled_from(["train", "test"]),
            "task": st.sampled_from(["maths", "code"]),
            "artifact_id": st.sampled_from(["0123456789abcdef", "0123456789abcdef+01234567"]),
        },
    ),
    min_size=1,
    max_size=12,
)


@given(rows_of_a_log)
def test_every_format_gives_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "log.csv.gz").write_bytes(gzip.compress((folder / "log.csv").read_bytes()))
    jsonl(folder / "log.jsonl", rows)
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    pq.write_table(pa.table(columns), folder / "log.parquet")
    # The types that other writers choose: large and dictionary-encoded text, small numbers.
    other = {
        "request_id": pa.array(columns["request_id"], pa.large_string()),
        "query": pa.array(columns["query"], pa.string()).dictionary_encode(),
        "model": pa.array(columns["model"], pa.string_view()),
        "input_tokens": pa.array(columns["input_tokens"], pa.int32()),
        "attempt": pa.array(columns["attempt"], pa.uint8()),
        "at": pa.array(
            [value and datetime.fromisoformat(value) for value in columns["at"]],
            pa.timestamp("us", tz="UTC"),
        ),
    }
    pq.write_table(pa.table(columns | other), folder / "other.parquet")

    def outcome(name: str) -> OutcomeTable | str:
        try:
            return read_outcomes(folder / name, TIERS, max_bad_share=1.0)
        except InputError as error:
            return str(error).removeprefix(str(folder / name))

    expected = outcome("log.jsonl")
    for name in ("log.csv", "log.csv.gz", "log.parquet", "other.parquet"):
        table = outcome(name)
        if isinstance(expected, str) or isinstance(table, str):
            assert table == expected
            continue
        assert_same(table, expected)
        assert table.report.reasons == expected.report.reasons
        assert_counted(table.report)


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {
        "request_id": ["a", None, "c", "d"],
        "query": ["", "b", None, "d"],
        "success": [True, False, True, None],
        "tier": ["nano"] * 4,
        "cost_usd": [NAN, 1.0, 1.0, 1.0],
    }
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match="4 of 4 rows are bad"):
        read_outcomes(path, TIERS)
    written = (tmp_path / "log.parquet.rejects.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in written.splitlines()] == [
        {"line": 1, "reason": "cost_usd is not finite", "request_id": "a"},
        {"line": 2, "reason": "request_id is missing", "request_id": None},
        {"line": 3, "reason": "query is missing", "request_id": "c"},
        {"line": 4, "reason": "success is missing", "request_id": "d"},
    ]


def test_parquet_booleans_times_and_more_rows_than_a_batch(tmp_path: Path) -> None:
    n = 20_000
    path = tmp_path / "log.parquet"
    seconds = np.arange(n) * 1_000_000_007  # nanoseconds: not whole microseconds
    columns = {
        "request_id": np.arange(n),
        "query": [f"q{i}" for i in range(n)],
        "success": np.arange(n) % 3 == 0,
        "tier": ["nano"] * n,
        "cost_usd": np.full(n, 0.25, dtype=np.float32),
        "at": pa.array(seconds, pa.timestamp("ns", tz="America/New_York")),
    }
    pq.write_table(pa.table(columns), path)
    seen: list[int] = []
    table = read_outcomes(path, TIERS, on_progress=seen.append)
    assert seen == [10_000, 20_000, 20_000]
    assert table.request_id[-1] == str(n - 1)
    assert (table.success[:, 0] == (np.arange(n) % 3 == 0)).all()
    assert table.at[1] == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_parquet_text_that_is_no_utf8_spoils_its_own_row(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    query = pa.array([b"fine", b"\xff\xfe", b"also fine"]).cast(pa.binary()).view(pa.string())
    times = pa.array([0, 1, 2**50], pa.timestamp("s"))
    base = {"request_id": ["a", "b", "c"], "query": query, "success": [1.0] * 3, "at": times}
    pq.write_table(pa.table(base | {"tier": ["nano"] * 3, "cost_usd": [1.0] * 3}), path)
    table = read_outcomes(path, TIERS, max_bad_share=1.0)
    assert table.query.tolist() == ["fine"]
    assert rejects(table) == [
        (2, "invalid UTF-8", None),
        (3, "at is not a time (ISO 8601 or seconds since 1970)", "c"),
    ]


def test_csv_byte_order_mark_bad_bytes_and_huge_fields(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    long = "word " * 100_000  # above the limit of 131,072 that csv has by default
    path.write_bytes(
        b"\xef\xbb\xbfrequest_id,query,success,tier,cost_usd\n"
        b"a,caf\xc3\xa9 \xf0\x9f\x98\x80,1,nano,1\n"
        b"b,caf\xe9,1,nano,1\n"
        b"c,\xf0\x9f\x98\x80 and \xff,1,nano,1\n"
        b'd,"' + long.encode() + b'",1,nano,1\n'
    )
    table = read_outcomes(path, TIERS, max_bad_share=1.0)
    assert table.query.tolist() == ["café 😀", long]
    assert [(line, reason) for line, reason, _ in rejects(table)] == [
        (3, "invalid UTF-8"),
        (4, "invalid UTF-8"),
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ("request_id", "the columns request_id are missing"),
        ("query", "the columns query are missing"),
        ("tier", "the columns tier or model are missing"),
        ("success", "the columns success are missing"),
        ("cost_usd", "the columns cost_usd, or input_tokens and output_tokens are missing"),
    ],
)
def test_a_table_without_a_required_column_is_refused(
    tmp_path: Path, suffix: str, dropped: str, message: str
) -> None:
    columns = {name: [str(value)] for name, value in row(score=0.5).items() if name != dropped}
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        path.write_text(f"{','.join(columns)}\n{','.join(v[0] for v in columns.values())}\n")
    else:
        pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=message):
        read_outcomes(path, TIERS)
    if dropped == "success":
        assert read_outcomes(path, TIERS, success_threshold=0.5).success[0, 0] == 1.0


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("request_id,query,success,tier,cost_usd,query\na,b,1,nano,1,c\n")
    with pytest.raises(InputError, match="the column 'query' occurs twice"):
        read_outcomes(path, TIERS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.jsonl", b"", "the file has no rows"),
        ("log.jsonl", b"\n\n", "the file has no rows"),
        ("log.csv", b"", "expected a CSV header, got an empty file"),
        ("log.csv", b"request_id,query,success,tier,cost_usd\n", "the file has no rows"),
        ("log.csv", b'"never closed', "cannot read the CSV header"),
        ("log.parquet", b"no parquet", "cannot read the outcomes"),
        ("log.csv.gz", b"no gzip", "cannot read the outcomes"),
        ("log.xlsx", b"", "expected outcomes as .jsonl, .csv or .parquet, got 'log.xlsx'"),
        ("log.json", b"[]", "expected outcomes as .jsonl"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_outcomes(tmp_path / name, TIERS)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.csv", "gone.parquet", "gone.jsonl.gz"])
def test_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected outcomes at .*gone.*, found no file"):
        read_outcomes(tmp_path / name, TIERS)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({k: [v] * 5000 for k, v in row().items()}), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cannot read the outcomes"):
        read_outcomes(path, TIERS)


# ------------------------------------------------------------------ what becomes of rows


def test_full_feedback_and_logged_feedback_are_one_table(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        [
            row("full", "nano", propensity=0.7),
            row("full", "frontier", success=0.5),
            row("logged", ..., model="acme-large-2026"),
        ],
    )
    assert (table.n_requests, table.n_tiers) == (2, 2)
    assert table.observed.tolist() == [[True, True], [False, True]]
    assert table.complete.tolist() == [True, False]
    np.testing.assert_array_equal(table.success, [[1, 0.5], [NAN, 1]])
    np.testing.assert_array_equal(table.propensity, [[0.7, NAN], [NAN, NAN]])
    assert table.report.path == str(tmp_path / "log.jsonl")
    assert table.report.rejects_path is None
    assert_counted(table.report)


def test_rows_of_other_models_are_counted_and_never_bad(tmp_path: Path) -> None:
    others = [
        {"model": "other-1"},  # neither id, nor query, nor outcome: still no bad row
        row("b", ..., model="other-1", cost_usd=...),
        row("c", "an unknown tier"),
        row("d", "an unknown tier", model="other-2", success="maybe"),
    ]
    table = read(tmp_path, [row("a"), *others], max_bad_share=0.0)
    assert table.request_id.tolist() == ["a"]
    assert table.report.not_a_tier == {"other-1": 2, "an unknown tier": 1, "other-2": 1}
    assert table.report.n_bad == 0
    assert_counted(table.report)


def test_the_first_attempt_counts_and_the_others_are_retries(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        [
            row("a", attempt=3, success=1),
            row("a", attempt=1, success=0, cost_usd=0.1),
            row("a", attempt=2, success=1),
            row("a", "frontier", attempt=2, success=0.5),
        ],
    )
    np.testing.assert_array_equal(table.success, [[0, 0.5]])
    assert table.cost_usd[0, 0] == 0.1
    assert table.report.n_retries == 2
    assert_counted(table.report)


def test_an_attempt_reported_twice_is_a_bad_row(tmp_path: Path) -> None:
    rows = [row("a", success=0), row("b"), row("a", success=1), row("a", success=1, attempt=1)]
    table = read(tmp_path, rows, max_bad_share=0.5)
    assert table.success[0, 0] == 0  # the first of them in the file
    assert rejects(table) == [(3, "duplicate", "a"), (4, "duplicate", "a")]
    assert_counted(table.report)


def test_a_request_has_one_text_and_one_split(tmp_path: Path) -> None:
    rows = [
        row("a", query="one"),
        row("a", "frontier", query="two"),
        row("b", split="train"),
        row("b", "frontier", split="test"),
        row("c"),
        row("c", "frontier", split="test", task="maths", at="2026-01-01"),
    ]
    table = read(tmp_path, rows, max_bad_share=0.5)
    assert rejects(table) == [
        (2, "request_id has two different queries", "a"),
        (4, "request_id has two different splits", "b"),
    ]
    assert table.split.tolist() == [None, "train", "test"]
    assert table.task.tolist() == [None, None, "maths"]
    assert table.at[2] == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_tier_and_a_model_that_contradict_each_other_are_a_bad_row(tmp_path: Path) -> None:
    rows = [
        row("a", "nano", model="acme-large"),
        row("b", "nano", model="acme-small"),
        row("c", "nano", model="some snapshot of it"),
        row("d", "an old name", model="acme-large"),
    ]
    table = read(tmp_path, rows, max_bad_share=0.5)
    assert rejects(table) == [(1, "tier and model name different tiers", "a")]
    assert table.observed.tolist() == [[True, False], [True, False], [False, True]]


def test_more_bad_rows_than_allowed_stop_the_run(tmp_path: Path) -> None:
    rows = [row(i) for i in range(199)] + [row("x", success=2), row("SECRET", query=...)]
    with pytest.raises(InputError) as caught:
        read(tmp_path, rows, max_bad_share=0.009)
    message = str(caught.value)
    assert "2 of 201 rows are bad, more than the allowed 0.9%" in message
    assert "1 x success is not between 0 and 1, 1 x query is missing" in message
    assert f"see {tmp_path / 'log.jsonl.rejects.jsonl'}" in message
    assert "SECRET" not in message
    table = read(tmp_path, rows)  # 2 of 201 are within one percent
    assert table.n_requests == 199
    assert table.report.n_bad == 2
    assert len(rejects(table)) == 2


def test_rejects_of_an_earlier_read_do_not_stay(tmp_path: Path) -> None:
    table = read(tmp_path, [row("a"), row("b", success=7)], max_bad_share=1.0)
    assert len(rejects(table)) == 1
    again = read(tmp_path, [row("a"), row("b")])
    assert again.report.rejects_path is None
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_rejects_go_to_the_current_folder_where_the_input_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    log = tmp_path / "log.jsonl"
    # A folder in its place cannot be opened for writing, whoever runs this.
    log.with_name("log.jsonl.rejects.jsonl").mkdir()
    table = read_outcomes(jsonl(log, [row("a"), row("b", success=7)]), TIERS, max_bad_share=1.0)
    assert table.report.rejects_path == str(here / "log.jsonl.rejects.jsonl")
    assert rejects(table) == [(2, "success is not between 0 and 1", "b")]
    (here / "log.jsonl.rejects.jsonl").unlink()
    (here / "log.jsonl.rejects.jsonl").mkdir()
    table = read_outcomes(log, TIERS, max_bad_share=1.0)
    assert table.report.rejects_path is None
    assert table.report.reasons == {"success is not between 0 and 1": 1}


def test_nothing_that_is_a_tier(tmp_path: Path) -> None:
    rows = [row("a", ..., model="acme-large-v9"), row("b", "huge")]
    with pytest.raises(
        InputError, match=r"tiers nano, frontier, got none .*'acme-large-v9', 'huge'"
    ):
        read(tmp_path, rows)


def test_what_a_log_calls_its_models_cannot_break_the_error(tmp_path: Path) -> None:
    rows = [row("r", None, model="first line\nsecond \x1b[31mred" + "x" * 5000)]
    with pytest.raises(InputError, match=r"models seen: 'first line\\nsecond \\x1b") as caught:
        read(tmp_path, rows)
    said = str(caught.value).removeprefix(str(tmp_path))
    assert said.isprintable() and len(said) < 400


def test_a_score_can_decide(tmp_path: Path) -> None:
    rows = [row("a", score=0.9, success=False), row("b", score=0.1, success=...)]
    table = read(tmp_path, rows, success_threshold=0.5)
    assert table.success[:, 0].tolist() == [1.0, 0.0]


# ------------------------------------------------------------------ costs


def test_a_missing_cost_is_priced_at_the_date_of_the_row_or_unknown(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    entry = '[[prices]]\nprovider="acme"\nmodel="acme-large"\nfrom={}\n'
    entry += "input_price_usd_per_mtok={}\noutput_price_usd_per_mtok=0\n"
    prices.write_text(entry.format("2026-01-01", 10) + entry.format("2026-06-01", 20))
    tokens = {"cost_usd": ..., "input_tokens": 1_000_000, "output_tokens": 500_000}
    rows = [
        row("a", "nano", **tokens),
        row("b", "frontier", **tokens, at="2025-12-31"),
        row("c", "frontier", **tokens, at="2026-03-01"),
        row("d", "frontier", **tokens, at="2026-06-01"),
        row("e", "frontier", **(tokens | {"cost_usd": 0.125}), at="2026-06-01"),
    ]
    table = read(tmp_path, rows, price_book=PriceBook(prices))
    np.testing.assert_array_equal(table.cost_usd[:, 0], [2.0, NAN, NAN, NAN, NAN])
    np.testing.assert_array_equal(table.cost_usd[:, 1], [NAN, NAN, 10.0, 20.0, 0.125])
    assert table.success[1, 1] == 1.0
    with pytest.raises(InputError, match="without a known price: frontier 1: log cost_usd or add"):
        table.require_costs()
    table.take([0, 2, 3, 4]).require_costs()


def test_cached_tokens_and_long_prompts_of_a_log_are_priced_as_they_were_billed(
    tmp_path: Path,
) -> None:
    prices = tmp_path / "prices.toml"
    costs = "input_price_usd_per_mtok={0}\noutput_price_usd_per_mtok={0}\n"
    costs += "cached_input_price_usd_per_mtok={1}\ncache_write_price_usd_per_mtok={2}\n"
    prices.write_text(
        '[[prices]]\nprovider="acme"\nmodel="acme-large"\nfrom=2026-01-01\n'
        + costs.format(1, 0.1, 1.25)
        + "[[prices.steps]]\nabove_input_tokens=200000\n"
        + costs.format(2, 0.2, 2.5)
    )
    parts = {"cached_input_tokens": 50_000, "cache_write_tokens": 40_000, "output_tokens": 1000}
    rows = [
        row("a", "frontier", cost_usd=..., input_tokens=200_000, output_tokens=1000),
        row("b", "frontier", cost_usd=..., input_tokens=200_001, output_tokens=1000),
        row("c", "frontier", cost_usd=..., input_tokens=200_000, **parts),
        row("d", "frontier", cost_usd=..., input_tokens=300_000, **parts),
    ]
    table = read(tmp_path, rows, price_book=PriceBook(prices))
    np.testing.assert_allclose(
        table.cost_usd[:, 1], [0.201, 0.402002, 0.111 + 0.005 + 0.05, 2 * (0.211 + 0.005 + 0.05)]
    )


def test_unobserved_cells_need_no_cost(tmp_path: Path) -> None:
    read(tmp_path, [row("a", "nano"), row("b", "frontier")]).require_costs()


# ------------------------------------------------------------------ the table itself


def test_from_arrays_and_take() -> None:
    table = OutcomeTable.from_arrays(
        TIERS,
        ["q0", "q1", "q2"],
        [[1, 0], [NAN, 0.5], [1, 1]],
        [[1, 2], [3, 4], [5, NAN]],
        task=["maths", None, "code"],
        split=["train", "test", None],
        propensity=np.full((3, 2), 0.5),
    )
    assert table.request_id.tolist() == ["0", "1", "2"]
    assert table.observed.tolist() == [[True, True], [False, True], [True, True]]
    assert np.isnan(table.cost_usd[1, 0])
    assert np.isnan(table.propensity[1, 0])
    assert table.at.tolist() == [None] * 3
    for rows in ([2, 0], np.array([2, 0])):
        taken = table.take(rows)
        assert taken.query.tolist() == ["q2", "q0"]
        assert taken.split.tolist() == [None, "train"]
        np.testing.assert_array_equal(taken.success, [[1, 1], [1, 0]])
    assert table.take(table.complete).query.tolist() == ["q0", "q2"]
    assert table.take([]).n_requests == 0
    assert table.take(np.zeros(3, dtype=bool)).success.shape == (0, 2)
    with pytest.raises(InputError, match="frontier 1"):
        table.require_costs()


def test_from_arrays_takes_what_was_observed() -> None:
    success = np.ones((2, 2))
    table = OutcomeTable.from_arrays(
        TIERS, ["a", "b"], success, success, observed=[[True, False], [False, True]]
    )
    assert table.observed.tolist() == [[True, False], [False, True]]
    np.testing.assert_array_equal(table.success, [[1, NAN], [NAN, 1]])
    assert success.sum() == 4  # the arrays of the caller stay as they are


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"success": [[1.0]]}, r"expected success of shape \(1, 2\) .* got \(1, 1\)"),
        ({"cost_usd": [1.0, 2.0]}, r"expected cost_usd of shape \(1, 2\)"),
        ({"task": ["a", "b"]}, "expected 1 values of task, got 2"),
        ({"success": [[1.0, NAN]], "observed": [[True, True]]}, "a success for every observed"),
    ],
)
def test_from_arrays_checks_shapes(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"success": [[1.0, 1.0]], "cost_usd": [[1.0, 1.0]]}
    with pytest.raises(InputError, match=message):
        OutcomeTable.from_arrays(TIERS, ["a"], **(given | arguments))


def test_the_report_is_json(tmp_path: Path) -> None:
    table = read(tmp_path, [row("a"), row("b", ..., model="other")])
    report = json.loads(json.dumps(table.report.to_dict()))
    assert report["n_rows"] == 2
    assert report["not_a_tier"] == {"other": 1}
    assert ReadReport(**report) == table.report


# ------------------------------------------------------------------ models that are no tier


def asked_of(model: str, ids: Sequence[object], success: object = True, **more: Any) -> list[Any]:
    return [row(i, ..., model=model, success=success, **more) for i in ids]


def test_outcomes_of_models_that_are_no_tier_are_kept_by_request(tmp_path: Path) -> None:
    rows = [
        *asked_of("other-b", ["r1"]),  # before its request is known to any tier
        row("r1"),
        row("r2", success=False),
        row("r3", "frontier"),
        *asked_of("other-b", ["r3"], False),
        *asked_of("other-a", ["r2", "r3"], 0.25),
        row("r2", "an unknown tier", success=False),
    ]
    table = read(tmp_path, rows)
    assert table.request_id.tolist() == ["r1", "r2", "r3"]
    # By the names in order; a name in `tier` counts where there is no model.
    expected = [[NAN, NAN, 1.0], [0.0, 0.25, NAN], [NAN, 0.25, 0.0]]
    np.testing.assert_array_equal(table.other_success, expected)
    assert table.report.not_a_tier == {"other-b": 2, "other-a": 2, "an unknown tier": 1}
    assert_counted(table.report)


def test_they_change_nothing_else(tmp_path: Path) -> None:
    tiers = [row(f"r{i}", tier, success=i % 2) for i in range(9) for tier in ("nano", "frontier")]
    others = asked_of("other", [f"r{i}" for i in range(9)], task="t", split="test", cost_usd=9.0)
    plain = read(tmp_path, tiers)
    mixed = read(tmp_path, [*others, *tiers, *others])
    assert_same(plain, mixed)
    assert plain.other_success.shape == (9, 0)
    assert mixed.other_success.tolist() == [[1.0]] * 9
    assert mixed.report.n_outcomes == plain.report.n_outcomes == 18
    assert mixed.report.n_bad == mixed.report.n_retries == 0


def test_requests_that_no_tier_knows_are_no_rows(tmp_path: Path) -> None:
    table = read(tmp_path, [row("r1"), *asked_of("other", ["r1", "r2", "r3"])])
    assert table.request_id.tolist() == ["r1"]
    assert table.other_success.tolist() == [[1.0]]
    assert read(tmp_path, [row("r1"), *asked_of("other", ["r2"])]).other_success.shape == (1, 0)


def test_of_several_attempts_of_such_a_model_the_first_row_counts(tmp_path: Path) -> None:
    rows = [row("r1"), *asked_of("other", ["r1"], False), *asked_of("other", ["r1"], True)]
    table = read(tmp_path, rows)
    assert table.other_success.tolist() == [[0.0]]
    assert table.report.not_a_tier == {"other": 2}
    assert (table.report.n_bad, table.report.n_retries) == (0, 0)


def test_numbers_as_ids_meet_those_of_the_tiers(tmp_path: Path) -> None:
    table = read(tmp_path, [row(7), row("8"), *asked_of("other", ["7", 8])])
    assert table.other_success.tolist() == [[1.0], [1.0]]


def test_rare_models_are_left_out(tmp_path: Path) -> None:
    ids = [f"r{i}" for i in range(100)]
    rows = [
        *(row(i) for i in ids),
        *asked_of("few", ids[:4]),
        *asked_of("enough", ids[:5], False),
        *asked_of("elsewhere", [f"x{i}" for i in range(50)]),
    ]
    table = read(tmp_path, rows)
    assert table.other_success.shape == (100, 1)
    assert table.other_success[:6, 0].tolist() == [0.0] * 5 + [pytest.approx(NAN, nan_ok=True)]
    assert table.report.not_a_tier == {"elsewhere": 50, "enough": 5, "few": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"success": ...},
        {"success": None},
        {"success": "perhaps"},
        {"success": 1.5},
        {"success": [True]},
        {"success": 10**400},
        {"score": "high"},
        {"request_id": ...},
        {"request_id": ""},
        {"request_id": None},
        {"request_id": 1.5},
        {"request_id": ["r1"]},
    ],
)
def test_a_row_of_such_a_model_that_does_not_tell_is_passed_over(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    other = row("r1", ..., model="other") | changes
    other = {name: value for name, value in other.items() if value is not ...}
    rows = [row("r1"), other, *asked_of("more", ["r1"], False)]
    table = read(tmp_path, rows, max_bad_share=0.0)
    assert table.other_success.tolist() == [[0.0]]
    assert table.report.n_bad == 0 and table.report.rejects_path is None
    assert table.report.not_a_tier == {"other": 1, "more": 1}


def test_of_several_attempts_of_such_a_model_the_first_counts(tmp_path: Path) -> None:
    retried = [
        {**asked_of("other", ["r1"], True)[0], "attempt": 2},
        {**asked_of("other", ["r1"], False)[0], "attempt": 1},
        {**asked_of("other", ["r1"], True)[0], "attempt": 0},
    ]
    table = read(tmp_path, [row("r1"), *retried], max_bad_share=0.0)
    assert table.other_success.tolist() == [[0.0]]


def test_what_else_such_a_row_says_is_not_looked_at(tmp_path: Path) -> None:
    odd = {"query": 7, "cost_usd": -1, "input_tokens": "many", "at": "yesterday"}
    table = read(tmp_path, [row("r1"), *asked_of("other", ["r1"], **odd)], max_bad_share=0.0)
    assert table.other_success.tolist() == [[1.0]]
    assert table.query.tolist() == ["q r1"]


def test_a_threshold_on_the_score_holds_for_such_models_too(tmp_path: Path) -> None:
    rows = [
        *(row(i, score=0.9) for i in ("r1", "r2", "r3")),
        *asked_of("other", ["r1"], score=0.9),
        *asked_of("other", ["r2"], score=0.7),
        *asked_of("other", ["r3"], False),
    ]
    table = read(tmp_path, rows, success_threshold=0.8)
    assert table.other_success.tolist() == [[1.0], [0.0], [0.0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_such_models_in_other_file_formats(tmp_path: Path, suffix: str) -> None:
    rows = [row(f"r{i}", ..., model=m) for i in range(3) for m in ("acme-small", "other")]
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_outcomes(path, TIERS).other_success.tolist() == [[1.0]] * 3


def test_taking_requests_takes_the_rows_of_such_models() -> None:
    others = np.array([[0.0, NAN], [1.0, 0.5], [NAN, NAN]])
    table = OutcomeTable.from_arrays(
        TIERS, ["a", "b", "c"], np.ones((3, 2)), np.ones((3, 2)), other_success=others
    )
    np.testing.assert_array_equal(table.other_success, others)
    np.testing.assert_array_equal(table.take([2, 1]).other_success, others[[2, 1]])
    np.testing.assert_array_equal(table.take(np.array([1, 0, 1]) > 0).other_success, others[[0, 2]])
    assert table.take([]).other_success.shape == (0, 2)
    plain = OutcomeTable.from_arrays(TIERS, ["a"], np.ones((1, 2)), np.ones((1, 2)))
    assert plain.other_success.shape == (1, 0)
    assert plain.take([0, 0]).other_success.shape == (2, 0)


def test_other_successes_of_another_number_of_requests_are_refused() -> None:
    for others in (np.ones((2, 1)), np.ones(3), np.ones((3, 1, 1))):
        with pytest.raises(InputError, match=r"expected other_success of shape \(3, M\)"):
            OutcomeTable.from_arrays(
                TIERS, ["a", "b", "c"], np.ones((3, 2)), np.ones((3, 2)), other_success=others
            )
