"""From a table to what is fitted on and what certifies: copies of a text, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from router.embedding import load_embedder
from router.inputs import InputMap
from router.query_features import N_FEATURES
from router.tiers import Tier, TierSet
from tests.artifacts import tiny_embedder
from training import prepare as module
from training.prepare import Prepared, one_per_text, prepare
from training.split import fitting_calibration, query_hashes, split_table
from training.synthetic import make_world, sample
from training.table import OutcomeTable

TIERS = TierSet([Tier("low", "p", "m-low"), Tier("high", "p", "m-high")])
TEXTS = [f"question number {i} about {['red', 'green', 'blue'][i % 3]} things" for i in range(200)]


def table_of(queries: Sequence[str], seed: int = 0) -> OutcomeTable:
    """Rows of the given queries with outcomes of their own, all in the train split."""
    rng = np.random.default_rng(seed)
    shape = (len(queries), 2)
    return OutcomeTable.from_arrays(
        TIERS,
        list(queries),
        (rng.random(shape) < [0.6, 0.9]).astype(float),
        rng.uniform(0.5, 1.5, shape) * [0.001, 0.1],
        split=["train"] * len(queries),
    )


@pytest.fixture(scope="module")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_embedder(tmp_path_factory.mktemp("embedder") / "e", TEXTS)


def prepared(table: OutcomeTable, folder: Path) -> Prepared:
    return prepare(table, load_embedder(folder), 0, lambda message: None)


# Each text certifies once


def copied() -> OutcomeTable:
    """Every third text three times, in other letter case and spacing, in a random order."""
    queries = [*TEXTS, *(t.upper() for t in TEXTS[::3]), *(f" {t}  " for t in TEXTS[::3])]
    return table_of([queries[i] for i in np.random.default_rng(1).permutation(len(queries))])


def test_a_text_certifies_once_with_the_means_of_its_copies(embedder_folder: Path) -> None:
    table = copied()
    rows = prepared(table, embedder_folder)
    hashes = query_hashes(table.query)
    held = query_hashes(rows.held.query)
    assert len(np.unique(held)) == len(held)
    # All texts that calibrate, and those alone.
    assert set(held) == set(hashes[fitting_calibration(hashes)])
    n_copies = [int((hashes == text).sum()) for text in held]
    assert set(n_copies) == {1, 3}
    for row, text in enumerate(held):
        copies = hashes == text
        np.testing.assert_allclose(rows.held.success[row], table.success[copies].mean(axis=0))
        np.testing.assert_allclose(rows.held.cost_usd[row], table.cost_usd[copies].mean(axis=0))
    assert rows.counts["n_calibration"] == len(held) < fitting_calibration(hashes).sum()
    # What is fitted on keeps every copy.
    assert rows.counts["n_fitting"] == (~fitting_calibration(hashes)).sum()


def test_what_is_embedded_is_the_first_row_of_each_text(embedder_folder: Path) -> None:
    rows = prepared(copied(), embedder_folder)
    embedder = load_embedder(embedder_folder)
    np.testing.assert_allclose(
        rows.held_vectors, embedder.embed(list(rows.held.query)), rtol=1e-5, atol=1e-6
    )
    assert len(rows.held_vectors) == rows.held.n_requests
    # Features and word grams are read from the text: a copy in other spacing has others.
    train = query_hashes(rows.train.query)
    for row in range(rows.held.n_requests):
        text = query_hashes([rows.held.query[row]])[0]
        assert rows.held.query[row] == rows.train.query[np.flatnonzero(train == text)[0]]


def test_means_over_copies_by_hand() -> None:
    table = OutcomeTable.from_arrays(
        TIERS,
        ["b", "a", "B ", "b"],
        [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]],
        [[3.0, 30.0], [1.0, 10.0], [6.0, 60.0], [9.0, 90.0]],
    )
    merged, first = one_per_text(table, query_hashes(table.query))
    by_text = {
        str(q): (s.tolist(), c.tolist(), i)
        for q, s, c, i in zip(merged.query, merged.success, merged.cost_usd, first, strict=True)
    }
    assert by_text == {
        "a": ([0.0, 1.0], [1.0, 10.0], 1),
        "b": ([pytest.approx(1 / 3), 1.0], [6.0, 60.0], 0),
    }


def test_a_log_without_copies_is_left_as_it_is(embedder_folder: Path) -> None:
    table = table_of(TEXTS)
    rows = prepared(table, embedder_folder)
    calibrates = fitting_calibration(query_hashes(table.query))
    assert sorted(rows.held.request_id) == sorted(table.request_id[calibrates])
    assert set(np.unique(rows.held.success)) == {0.0, 1.0}


# What estimators see


def test_fitting_rows_are_seen_as_the_input_map_makes_them(embedder_folder: Path) -> None:
    rows = prepared(copied(), embedder_folder)
    embedding = load_embedder(embedder_folder).embed(list(rows.fitting.query))
    np.testing.assert_allclose(rows.data.embedding, embedding, rtol=1e-5, atol=1e-6)
    expected = rows.input_map.many(
        list(rows.fitting.query), rows.data.embedding, rows.data.embedding @ rows.refs.all.T
    )
    np.testing.assert_array_equal(rows.data.x, expected)
    assert rows.data.n_dense == embedding.shape[1] + N_FEATURES
    sizes = rows.input_map.sizes(embedding.shape[1], len(rows.refs.all))
    assert rows.data.x.shape == (rows.fitting.n_requests, sizes["D"])
    np.testing.assert_array_equal(rows.data.dense, rows.data.x[:, : sizes["d+k"]])


def test_ranges_and_weights_are_of_the_fitting_rows_alone(embedder_folder: Path) -> None:
    """Rows that certify are unlike any other: nothing that is fitted may know of it."""
    table = table_of(TEXTS)
    calibrates = fitting_calibration(query_hashes(table.query))
    made = prepared(table, embedder_folder).input_map
    own = InputMap.of(list(table.query[~calibrates]))
    assert made.grams is not None and own.grams is not None
    np.testing.assert_array_equal(made.low, own.low)
    np.testing.assert_array_equal(made.high, own.high)
    np.testing.assert_array_equal(made.grams.weight, own.grams.weight)


# What is said


@pytest.mark.parametrize(("n_copies", "said"), [(0, False), (9, False), (13, True)])
def test_copies_are_remarked_on_above_one_in_twenty(
    n_copies: int, said: bool, embedder_folder: Path
) -> None:
    # 9 of 209 rows are 4.3 %, 13 of 213 are 6.1 %.
    rows = prepared(table_of([*TEXTS, *TEXTS[:n_copies]]), embedder_folder)
    warnings = rows.warnings(TIERS)
    assert len(warnings) == said
    if said:
        assert warnings[0].startswith("6% of the training requests repeat a text")
        assert "each counted once" in warnings[0]


@pytest.mark.parametrize(("n_texts", "said"), [(160, True), (180, False)])
def test_few_different_queries_to_fit_on_are_remarked_on(
    n_texts: int, said: bool, embedder_folder: Path
) -> None:
    # 96 and 108 of them are fitted on.
    rows = prepared(table_of(TEXTS[:n_texts]), embedder_folder)
    warnings = rows.warnings(TIERS)
    assert [warning.split(" are few")[0] for warning in warnings] == (
        ["96 different queries to fit on"] if said else []
    )


@pytest.mark.parametrize(("n_long", "said"), [(0, False), (1, False), (2, True)])
def test_queries_too_long_for_a_tier_are_remarked_on_above_one_in_a_hundred(
    n_long: int, said: bool, embedder_folder: Path
) -> None:
    # 300 texts of which 120 calibrate: one long one is 0.8 %, two are 1.7 %.
    texts = [f"{text} {i}" for i in (0, 1) for text in TEXTS][:300]
    calibrates = np.flatnonzero(fitting_calibration(query_hashes(texts)))
    assert len(calibrates) == 120
    # In other spacing, so that the text and its side of the split stay the same.
    for i in calibrates[:n_long]:
        texts[i] = texts[i].replace(" ", " " * 2000)
    rows = prepared(table_of(texts), embedder_folder)
    small = TierSet([Tier("low", "p", "m-low", context_window_tokens=1000), TIERS[1]])
    assert rows.warnings(TIERS) == []
    warnings = rows.warnings(small)
    assert len(warnings) == said
    if said:
        assert warnings[0].startswith("2% of the calibration queries are too long")
        assert "not certified" in warnings[0]


def test_test_rows_are_in_nothing_that_is_prepared(embedder_folder: Path) -> None:
    table = copied()
    split = np.array(["train", "test"], dtype=object)[(np.arange(table.n_requests) % 5 == 0) * 1]
    table = OutcomeTable.from_arrays(TIERS, table.query, table.success, table.cost_usd, split=split)
    rows = prepared(table, embedder_folder)
    tested = set(query_hashes(table.query[split_table(table).test]))
    for part in (rows.train, rows.fitting, rows.held):
        assert not tested & set(query_hashes(part.query))
    assert rows.counts["n_left_out_as_leaked"] == rows.split.n_leaked > 0


def test_a_large_log_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sample(make_world(3), 300, 2).table
    whole = prepare(table, load_embedder("static"), 0, lambda message: None)
    monkeypatch.setattr(module, "MAX_FITTING_REQUESTS", 50)
    part = prepare(table, load_embedder("static"), 0, lambda message: None)
    assert part.fitting.n_requests == 50 == len(part.data.x)
    assert set(part.fitting.request_id) < set(whole.fitting.request_id)
    # Rows that only certify, and what the artifact was made from, stay as they were.
    assert part.held.request_id.tolist() == whole.held.request_id.tolist()
    assert part.train.n_requests == whole.train.n_requests
    assert any("a random 50 " in said for said in part.warnings(table.tiers))
    assert not any("a random" in said for said in whole.warnings(table.tiers))
