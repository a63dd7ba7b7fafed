from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from router.tiers import Tier, TierSet
from training.split import (
    SplitMasks,
    fitting_calibration,
    fold_ids,
    normalise_text,
    query_hash,
    query_hashes,
    split_table,
)
from training.table import OutcomeTable

TIERS = TierSet([Tier("nano", "p", "m1"), Tier("frontier", "p", "m2")])
texts = st.lists(st.sampled_from("abcdefghijklmnop").map(str), min_size=1, max_size=60)


def table(
    queries: list[str],
    split: list[str | None] | None = None,
    at: list[datetime | None] | None = None,
) -> OutcomeTable:
    ones = np.ones((len(queries), 2))
    return OutcomeTable.from_arrays(TIERS, queries, ones, ones, split=split, at=at)


def many(n: int) -> list[str]:
    return [f"query number {i}" for i in range(n)]


def test_normalised_text() -> None:
    assert normalise_text("  What\tIS\r\n it? ") == "what is it?"
    assert normalise_text("ＷＨＡＴ is\u00a0it?") == "what is it?"
    assert normalise_text("Straße") == normalise_text("STRASSE") == "strasse"
    assert normalise_text("é") == normalise_text("e\u0301") == "é"
    assert normalise_text("ﬁne Ⅷ") == "fine viii"
    assert normalise_text("") == normalise_text(" \n ") == ""
    assert normalise_text("a\ud800b") == "a\ud800b"
    assert normalise_text("what is it") != normalise_text("what is it?")


@given(st.text(st.characters()))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert query_hash(once) == query_hash(text)


@given(st.text())
def test_case_forms_and_white_space_are_one_text(text: str) -> None:
    spaced = "  " + "\t\n".join(text.split()) + " "
    assert query_hash(spaced) == query_hash(text)


def test_hashes_are_the_same_in_another_process_and_another_year() -> None:
    # Artifacts carry these hashes: a change of the function would let trained queries into tests.
    assert query_hash("What is 2 + 2?") == 0xF33329AE8B6EA96D
    assert query_hash("what  IS 2 + 2?") == query_hash("What is 2 + 2?")
    hashes = query_hashes(np.array(["What is 2 + 2?", "", "\ud800"], dtype=object))
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 3
    code = "from training.split import query_hash; print(query_hash('What is 2 + 2?'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "77"},
    )
    assert int(done.stdout) == int(hashes[0])


def assert_no_text_crosses(masks: SplitMasks, queries: list[str]) -> None:
    hashes = query_hashes(queries)
    assert not (masks.train & masks.test).any()
    assert not np.isin(hashes[masks.train], hashes[masks.test]).any()


@given(
    st.lists(
        st.tuples(st.sampled_from("aAbBcCdDeE"), st.sampled_from([None, "train", "test"])),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from(["hash", "time"]),
)
def test_no_text_crosses_whatever_the_column_says(
    rows: list[tuple[str, str | None]], by: str
) -> None:
    queries = [query for query, _ in rows]
    split = [given for _, given in rows]
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    at: list[datetime | None] = [moment + timedelta(hours=i % 7) for i in range(len(rows))]
    masks = split_table(table(queries, split, at), by=by)  # type: ignore[arg-type]
    assert_no_text_crosses(masks, queries)
    asked = np.array(split, dtype=object)
    assert masks.test[asked == "test"].all()
    assert not masks.test[asked == "train"].any()
    neither = ~masks.train & ~masks.test
    assert neither.sum() == masks.n_leaked
    assert (asked[neither] != "test").all()


@given(texts, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(queries: list[str], random: object) -> None:
    order = np.arange(len(queries))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = [queries[i] for i in order]
    here, there = split_table(table(queries)), split_table(table(shuffled))
    assert (here.test[order] == there.test).all()
    assert (here.train[order] == there.train).all()
    hashes = query_hashes(queries)
    assert (fitting_calibration(hashes)[order] == fitting_calibration(hashes[order])).all()
    n_folds = min(3, len(set(queries)))
    if n_folds >= 2:
        assert (fold_ids(hashes, n_folds, 5)[order] == fold_ids(hashes[order], n_folds, 5)).all()


@given(texts)
def test_equal_texts_stay_together(queries: list[str]) -> None:
    hashes = query_hashes(queries)
    assignments = [
        split_table(table(queries)).test,
        fitting_calibration(hashes),
        fold_ids(hashes, 2, 0) if len(set(queries)) > 1 else np.zeros(len(queries)),
    ]
    for assignment in assignments:
        for query in set(queries):
            assert len(set(assignment[np.array(queries) == query].tolist())) == 1


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_the_test_share_is_near_the_one_asked_for(share: float) -> None:
    masks = split_table(table(many(10_000)), test_share=share)
    assert masks.source == "hash"
    assert masks.n_leaked == 0
    assert masks.test.mean() == pytest.approx(share, abs=0.02)  # 4 standard deviations
    assert (masks.train == ~masks.test).all()


def test_a_text_keeps_its_side_as_the_log_grows() -> None:
    before = split_table(table(many(500))).test
    after = split_table(table(many(2000))).test
    assert (after[:500] == before).all()


def test_the_split_column_is_respected_and_the_rest_goes_by_hash() -> None:
    queries = many(400)
    split: list[str | None] = ["train"] * 100 + ["test"] * 100 + [None] * 200
    masks = split_table(table(queries, split))
    by_hash = split_table(table(queries))
    assert masks.source == "column"
    assert masks.train[:100].all()
    assert masks.test[100:200].all()
    assert (masks.test[200:] == by_hash.test[200:]).all()
    assert 0 < masks.test[200:].sum() < 200


def test_training_rows_whose_text_is_in_test_are_in_neither() -> None:
    queries = ["Hello there", "hello  THERE", "something else", "hello there."]
    masks = split_table(table(queries, ["train", "test", "train", "train"]))
    assert masks.train.tolist() == [False, False, True, True]
    assert masks.test.tolist() == [False, True, False, False]
    assert masks.n_leaked == 1


def test_by_time_the_latest_rows_are_the_test() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    at: list[datetime | None] = [start + timedelta(minutes=(7 * i) % 100) for i in range(100)]
    masks = split_table(table(many(100), at=at), by="time", test_share=0.25)
    moments = np.array(at, dtype=object)
    assert masks.source == "time"
    assert masks.test.sum() == 25
    assert max(moments[masks.train]) < min(moments[masks.test])


def test_rows_of_one_moment_are_not_torn_apart() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    at: list[datetime | None] = [start + timedelta(days=i // 10) for i in range(40)]
    masks = split_table(table(many(40), at=at), by="time", test_share=0.3)
    assert masks.test.sum() == 20
    assert masks.test[20:].all()


def test_by_time_needs_times() -> None:
    with pytest.raises(InputError, match="needs 'at' in every row, 2 requests have none"):
        split_table(table(many(3), at=[None, datetime(2026, 1, 1, tzinfo=UTC), None]), by="time")


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match=r"test share between 0 and 1, got 1\.5"):
        split_table(table(many(3)), test_share=1.5)
    with pytest.raises(InputError, match="by 'hash' or 'time', got 'random'"):
        split_table(table(many(3)), by="random")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="calibration share from 0 to 1"):
        fitting_calibration(query_hashes(many(3)), calibration_share=-0.1)
    with pytest.raises(InputError, match=r"expected 2 to 3 folds .* got 4"):
        fold_ids(query_hashes(many(3)), 4, 0)
    with pytest.raises(InputError, match="got 1"):
        fold_ids(query_hashes(many(3)), 1, 0)


def test_no_rows_at_all() -> None:
    masks = split_table(table([]))
    assert len(masks.train) == len(masks.test) == masks.n_leaked == 0
    assert len(fitting_calibration(query_hashes([]))) == 0


@given(texts, st.floats(0, 1))
def test_the_calibration_share_is_met_up_to_half_a_group(queries: list[str], share: float) -> None:
    hashes = query_hashes(queries)
    chosen = fitting_calibration(hashes, calibration_share=share)
    largest = max(queries.count(query) for query in queries)
    assert abs(chosen.sum() - share * len(queries)) <= largest / 2 + 1e-9


def test_divisions_are_independent_of_each_other() -> None:
    # The calibration rows must not be, say, those that are nearly in the test set.
    queries = many(20_000)
    hashes = query_hashes(queries)
    test = split_table(table(queries)).test
    calibration = fitting_calibration(hashes)
    other = fitting_calibration(hashes, salt="other")
    fold = fold_ids(hashes, 5, 0)
    assert calibration[test].mean() == pytest.approx(0.4, abs=0.03)
    assert calibration[other].mean() == pytest.approx(0.4, abs=0.03)
    assert (fold != fold_ids(hashes, 5, 1)).mean() == pytest.approx(0.8, abs=0.03)
    for number in range(5):
        assert calibration[fold == number].mean() == pytest.approx(0.4, abs=0.04)


@given(texts, st.integers(2, 5), st.integers(0, 100))
def test_folds_are_balanced(queries: list[str], n_folds: int, seed: int) -> None:
    if len(set(queries)) < n_folds:
        return
    sizes = np.bincount(fold_ids(query_hashes(queries), n_folds, seed), minlength=n_folds)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(queries.count(query) for query in queries)
