from __future__ import annotations

import gzip
import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError, OutcomeError
from router.outcomes import COLUMNS, Outcome, read_jsonl, write_jsonl

GOOD: dict[str, object] = {
    "request_id": "r1",
    "query": "What is 2 + 2?",
    "success": True,
    "tier": "nano",
    "cost_usd": 0.001,
}

texts = st.text(st.characters(), min_size=1, max_size=20)  # surrogates included
counts = st.integers(0, 10**9)
finite = st.floats(0, 1e9, allow_nan=False)
times = st.datetimes(timezones=st.just(UTC), allow_imaginary=False)
outcomes = st.builds(
    Outcome,
    request_id=texts,
    query=st.text(st.characters()),
    success=st.floats(0, 1),
    tier=texts,
    model=st.none() | texts,
    cost_usd=finite,
    input_tokens=counts.map(lambda n: n + 2000),
    output_tokens=st.none() | counts,
    cached_input_tokens=st.integers(0, 1000),
    cache_write_tokens=st.integers(0, 1000),
    task=st.none() | texts,
    latency_s=st.none() | finite,
    propensity=st.none() | st.floats(0, 1, exclude_min=True),
    attempt=st.integers(1, 9),
    session_id=st.none() | texts,
    at=st.none() | times,
    artifact_id=st.none() | texts,
    split=st.sampled_from([None, "train", "test"]),
    score=st.none() | st.floats(-1e9, 1e9),
)


def row(**changes: object) -> dict[str, object]:
    return {key: value for key, value in (GOOD | changes).items() if value is not ...}


@given(outcomes)
def test_an_outcome_survives_json(outcome: Outcome) -> None:
    assert Outcome.from_mapping(json.loads(json.dumps(outcome.to_mapping()))) == outcome


@given(outcomes)
def test_an_outcome_survives_as_text_in_every_field(outcome: Outcome) -> None:
    # As CSV gives it: numbers as text, what is missing as "".
    as_text = dict.fromkeys(COLUMNS, "") | {k: str(v) for k, v in outcome.to_mapping().items()}
    assert Outcome.from_mapping(as_text) == outcome


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["true", "nan", "inf", "-1", "1e999", "2026-01-01", "99999999999999", " "])
    | st.sampled_from([Decimal("NaN"), Decimal("sNaN"), Decimal(1), np.bool_(True), np.int64(3)]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(COLUMNS), values), st.booleans())
def test_any_row_is_an_outcome_or_an_outcome_error(row: dict[str, object], whole: bool) -> None:
    try:
        outcome = Outcome.from_mapping(GOOD | row if whole else row)
    except OutcomeError:
        return
    assert 0.0 <= outcome.success <= 1.0
    for name in ("cost_usd", "latency_s", "score", "propensity"):
        value = getattr(outcome, name)
        assert value is None or (type(value) is float and math.isfinite(value))
    for name in ("input_tokens", "output_tokens", "cached_input_tokens", "attempt"):
        assert isinstance(getattr(outcome, name), int | None)
    assert Outcome.from_mapping(json.loads(json.dumps(outcome.to_mapping()))) == outcome


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, 1.0),
        (False, 0.0),
        (np.True_, 1.0),
        (np.False_, 0.0),
        (1, 1.0),
        (0, 0.0),
        (0.83, 0.83),
        (np.float32(0.5), 0.5),
        (Decimal("0.25"), 0.25),
        ("true", 1.0),
        ("TRUE", 1.0),
        ("False", 0.0),
        (" yes ", 1.0),
        ("No", 0.0),
        ("1", 1.0),
        ("0", 0.0),
        ("0.83", 0.83),
    ],
)
def test_success_in_all_its_spellings(given: object, expected: float) -> None:
    assert Outcome.from_mapping(row(success=given)).success == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request_id": ...}, "request_id is missing"),
        ({"request_id": ""}, "request_id is missing"),
        ({"request_id": 1.5}, "request_id is not text"),
        ({"request_id": True}, "request_id is not text"),
        ({"query": ...}, "query is missing"),
        ({"query": None}, "query is missing"),
        ({"query": ["hello"]}, "query is not text"),
        ({"query": b"hello"}, "query is not text"),
        ({"tier": ...}, "tier and model are missing"),
        ({"tier": "", "model": ""}, "tier and model are missing"),
        ({"tier": 3}, "tier is not text"),
        ({"model": {}}, "model is not text"),
        ({"success": ...}, "success is missing"),
        ({"success": ""}, "success is missing"),
        ({"success": "maybe"}, "success is not a number"),
        ({"success": []}, "success is not a number"),
        ({"success": 1.01}, "success is not between 0 and 1"),
        ({"success": -1}, "success is negative"),
        ({"success": math.nan}, "success is not finite"),
        ({"success": "nan"}, "success is not finite"),
        ({"cost_usd": ...}, "cost_usd is missing, and so are input_tokens or output_tokens"),
        ({"cost_usd": None, "input_tokens": 5}, "cost_usd is missing, and so are input_tokens or"),
        ({"cost_usd": "free"}, "cost_usd is not a number"),
        ({"cost_usd": "$0.10"}, "cost_usd is not a number"),
        ({"cost_usd": "1_000"}, "cost_usd is not a number"),
        ({"cost_usd": False}, "cost_usd is not a number"),
        ({"cost_usd": math.inf}, "cost_usd is not finite"),
        ({"cost_usd": "-inf"}, "cost_usd is not finite"),
        ({"cost_usd": -1e-9}, "cost_usd is negative"),
        ({"cost_usd": 10**400}, "cost_usd is not a number"),
        ({"input_tokens": -1}, "input_tokens is negative"),
        ({"input_tokens": 1.5}, "input_tokens is not a whole number"),
        ({"output_tokens": "3.2"}, "output_tokens is not a whole number"),
        ({"output_tokens": True}, "output_tokens is not a number"),
        ({"output_tokens": 10**30}, "output_tokens is too large"),
        ({"input_tokens": 9, "cached_input_tokens": 5, "cache_write_tokens": 5}, "exceed input_t"),
        ({"propensity": 0}, "propensity is not above 0 and at most 1"),
        ({"propensity": 1.5}, "propensity is not above 0 and at most 1"),
        ({"attempt": 0}, "attempt is below 1"),
        ({"latency_s": -0.5}, "latency_s is negative"),
        ({"split": "validation"}, "split is neither train nor test"),
        ({"task": {"a": 1}}, "task is not text"),
        ({"at": "yesterday"}, "at is not a time"),
        ({"at": "2026-02-30"}, "at is not a time"),
        ({"at": True}, "at is not a time"),
        ({"at": math.nan}, "at is not a time"),
        ({"at": 1_772_355_600_000}, "at is not a time"),  # milliseconds would be the year 58,000
        ({"at": "0001-01-01T00:00:00+10:00"}, "at is not a time"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(OutcomeError) as caught:
        Outcome.from_mapping(row(**changes))
    assert reason in caught.value.reason


def test_a_reason_never_repeats_what_the_row_says() -> None:
    for name in COLUMNS:
        with pytest.raises(OutcomeError) as caught:
            Outcome.from_mapping(row(**{name: ["SECRET"]}))
        assert "SECRET" not in str(caught.value)


def test_missing_is_none_and_never_zero() -> None:
    outcome = Outcome.from_mapping(row(latency_s="", propensity=None, input_tokens=""))
    assert outcome.latency_s is None
    assert outcome.propensity is None
    assert outcome.input_tokens is None
    priced = Outcome.from_mapping(row(cost_usd="", input_tokens=0, output_tokens="0"))
    assert priced.cost_usd is None
    assert (priced.input_tokens, priced.output_tokens) == (0, 0)


def test_numbers_serve_as_ids_and_unknown_columns_are_ignored() -> None:
    outcome = Outcome.from_mapping(row(request_id=17, session_id=np.int64(4), mood=["fine"]))
    assert (outcome.request_id, outcome.session_id) == ("17", "4")


def test_an_empty_query_is_a_query() -> None:
    assert Outcome.from_mapping(row(query="")).query == ""


@pytest.mark.parametrize(
    "given",
    [
        "2026-03-01T09:00:00Z",
        "2026-03-01T09:00:00",  # without a zone: UTC
        "2026-03-01 10:00:00+01:00",
        "20260301T090000Z",
        1772355600,
        1772355600.0,
        "1772355600",
        Decimal(1772355600),
        datetime(2026, 3, 1, 9),  # noqa: DTZ001 - naive on purpose
        datetime(2026, 3, 1, 4, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_one_moment_in_many_spellings(given: object) -> None:
    at = Outcome.from_mapping(row(at=given)).at
    assert at == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert at is not None
    assert at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("given", ["2026-03-01", "20260301", date(2026, 3, 1)])
def test_a_date_is_its_midnight(given: object) -> None:
    assert Outcome.from_mapping(row(at=given)).at == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_score_replaces_success_only_with_a_threshold() -> None:
    graded = row(success=False, score=0.8)
    assert Outcome.from_mapping(graded).success == 0.0
    assert Outcome.from_mapping(graded, success_threshold=0.8).success == 1.0
    assert Outcome.from_mapping(graded, success_threshold=0.81).success == 0.0
    assert Outcome.from_mapping(row(success=..., score=-3), success_threshold=-5).success == 1.0
    assert Outcome.from_mapping(row(success=True), success_threshold=0.5).success == 1.0
    with pytest.raises(OutcomeError, match="success is missing"):
        Outcome.from_mapping(row(success=...), success_threshold=0.5)


def test_jsonl_lines_are_counted_from_one_and_blank_ones_skipped(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + good + b"\r\n\n   \n" + good + b"\n" + b'"text"\n' + b"{oops}\n"
        b'{"query": "\xff"}\n' + b"[" * 100_000 + b"\n" + good[:-9]
    )
    read = list(read_jsonl(path))
    assert [line for line, _ in read] == [1, 4, 5, 6, 7, 8, 9]
    assert read[0][1] == read[1][1] == Outcome.from_mapping(GOOD)
    assert [str(bad) for _, bad in read[2:]] == [
        "not a JSON object",
        "invalid JSON",
        "invalid UTF-8",
        "invalid JSON",
        "last line is cut off",
    ]


def test_a_good_last_line_needs_no_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(GOOD))
    assert [outcome for _, outcome in read_jsonl(path)] == [Outcome.from_mapping(GOOD)]


@given(st.lists(outcomes, max_size=3))
def test_a_file_of_outcomes_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Outcome]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "log.jsonl"
    write_jsonl(path, rows)
    assert list(read_jsonl(path)) == list(enumerate(rows, start=1))


def test_other_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    text = "one\u2028two\x85three\x0cfour"
    path.write_text(json.dumps(row(query=text), ensure_ascii=False), encoding="utf-8")
    [(line, outcome)] = read_jsonl(path)
    assert line == 1
    assert isinstance(outcome, Outcome)
    assert outcome.query == text


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    whole = gzip.compress(json.dumps(GOOD).encode() * 100)
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert [outcome for _, outcome in read_jsonl(path)] == [Outcome.from_mapping(GOOD)]
    for damaged in (whole[:-20], b"no gzip at all", whole[:20] + b"\xff\xff\xff" + whole[23:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot read the outcomes"):
            list(read_jsonl(path))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected outcomes at .*gone\.jsonl, found no file"):
        list(read_jsonl(tmp_path / "gone.jsonl"))
    with pytest.raises(InputError, match="cannot read the outcomes"):
        list(read_jsonl(tmp_path))


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    broken = Outcome("r", "q", 1.0, tier="nano", cost_usd=math.nan)
    with pytest.raises(InputError, match="outcome 1 holds a number that is not finite"):
        write_jsonl(tmp_path / "log.jsonl", [broken])
