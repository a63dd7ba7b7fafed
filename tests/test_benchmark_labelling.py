"""The labelling benchmark plays by its own rules: same start, same money, test rows for nobody."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import labelling
from router.embedding import Embedder, load_embedder
from training.features import embed_queries
from training.split import split_table
from training.synthetic import make_world, sample
from training.table import OutcomeTable

ROUNDS = (20, 40)


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return sample(make_world(), 260, seed=1).table


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder("static")


@pytest.fixture(scope="module")
def found(table: OutcomeTable, embedder: Embedder) -> dict[str, list[list[labelling.Reached]]]:
    return labelling.compare("sample", table, embedder, lambda _: None, ROUNDS, 2)


def test_all_arms_start_alike_and_spend_no_more(
    found: dict[str, list[list[labelling.Reached]]],
) -> None:
    assert set(found) == set(labelling.ARMS)
    for draws in zip(*found.values(), strict=True):
        assert len({start for start, _ in draws}) == 1
        start = draws[0][0]
        for arm, (_, end) in zip(found, draws, strict=True):
            assert start.usd < end.usd <= 2 * start.usd * 1.6
            # At random everything is drawn; else 30 % of the money beyond the start.
            assert (end.n_random == end.n_queries) == (arm == "random")
    cheap = np.mean([end.n_queries for _, end in found["cheap"]])
    assert cheap > np.mean([end.n_queries for _, end in found["random"]])


def test_test_rows_are_for_nobody(table: OutcomeTable, embedder: Embedder) -> None:
    vectors = embed_queries(embedder, table.query.tolist())
    split = split_table(table)
    here, there = (labelling.arena(table, vectors, draw) for draw in (0, 1))
    assert set(here.pool.query) <= set(table.query[split.train])
    assert set(here.test.query) <= set(table.query[split.test])
    assert list(here.test.query) == list(there.test.query)


def test_the_table_says_what_was_proven_and_what_not() -> None:
    def arm(shift: float) -> list[list[labelling.Reached]]:
        ends = [0.8, 0.85, 0.9, 0.82]
        start = labelling.Reached(1.0, 20, 20, 1.0, 1.0)
        return [
            [start, labelling.Reached(2.0, 40, 25, end + shift + 0.001 * i, end)]
            for i, end in enumerate(ends)
        ]

    better = labelling._table(
        "x", {"random": arm(0.0), "cheap": arm(0.0), "value": arm(-0.1)}, ROUNDS
    )
    assert better.notes[1].endswith("beyond noise in: mean at $2.00.")
    same = labelling._table("x", {"random": arm(0.0), "cheap": arm(0.0), "value": arm(0.0)}, ROUNDS)
    assert "not proven better" in same.notes[1]
    assert [row[0] for row in same.rows] == ["start, at random", "random", "cheap", "value"]


def test_the_section_has_every_set_and_what_was_left_out(
    table: OutcomeTable, embedder: Embedder
) -> None:
    section = labelling.measure(
        {"sample": table}, ["y is left out."], embedder, lambda _: None, (20, 30), 1
    )
    assert section.data["left_out"] == ["y is left out."]
    assert set(section.data["sample"]) == set(labelling.ARMS)
    assert "choosing what to label" in section.tables[0].title
    assert "y is left out." in section.tables[-1].notes
