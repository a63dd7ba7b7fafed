"""Rows that were chosen for what was predicted of them are fitted on, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.embedding import load_embedder
from router.errors import OutcomeError
from router.outcomes import Outcome, write_jsonl
from training.feedback import FullFeedback
from training.prepare import Prepared, prepare
from training.split import query_hashes, split_table
from training.synthetic import synthetic_tiers
from training.table import OutcomeTable, read_outcomes

ROW: dict[str, Any] = {
    "request_id": "r",
    "query": "q",
    "success": True,
    "tier": "nano",
    "cost_usd": 1.0,
}


def labelled(n_random: int, n_chosen: int) -> OutcomeTable:
    """Chosen queries always fail on the cheapest tier, those drawn at random in half of the cases.

    No text has a split: what is not chosen may test.
    """
    n = n_random + n_chosen
    chosen = np.arange(n) >= n_random
    success = np.ones((n, 3))
    success[:, 0] = np.where(chosen, 0.0, np.arange(n) % 2)
    return OutcomeTable.from_arrays(
        synthetic_tiers(),
        [f"question {'hard' if c else 'usual'} number {i}" for i, c in enumerate(chosen)],
        success,
        np.tile([0.001, 0.01, 0.1], (n, 1)),
        sampling=["chosen" if c else "random" for c in chosen],
    )


def prepared(table: OutcomeTable) -> Prepared:
    return prepare(table, load_embedder("static"), 0, lambda _: None)


def test_the_column_is_read_and_written(tmp_path: Path) -> None:
    outcomes = [
        Outcome.from_mapping(ROW | {"request_id": name, "query": name, "sampling": name})
        for name in ("random", " Chosen")
    ]
    outcomes.append(Outcome.from_mapping(ROW | {"query": "neither"}))
    write_jsonl(tmp_path / "o.jsonl", outcomes)
    table = read_outcomes(tmp_path / "o.jsonl", synthetic_tiers())
    assert list(table.sampling) == ["random", "chosen", None]
    assert table.at_random.tolist() == [True, False, True]
    assert table.take([1]).at_random.tolist() == [False]
    assert table.take([]).at_random.shape == (0,)


def test_another_word_is_refused() -> None:
    with pytest.raises(OutcomeError, match="sampling is neither random nor chosen"):
        Outcome.from_mapping(ROW | {"sampling": "picked"})


def test_one_request_has_one_sampling(tmp_path: Path) -> None:
    rows = [
        Outcome.from_mapping(ROW | {"tier": tier, "sampling": sampling})
        for tier, sampling in (("nano", "random"), ("mid", "chosen"))
    ]
    write_jsonl(tmp_path / "o.jsonl", rows)
    table = read_outcomes(tmp_path / "o.jsonl", synthetic_tiers(), max_bad_share=1.0)
    assert table.report.reasons == {"request_id has two different samplings": 1}


def test_chosen_rows_never_test() -> None:
    table = labelled(200, 200)
    split = split_table(table)
    assert not (split.test & ~table.at_random).any()
    assert (split.train | split.test).all()
    # Of those drawn at random as many test as ever.
    assert 0.2 < split.test[table.at_random].mean() < 0.4


def test_chosen_rows_never_calibrate_and_averages_are_those_of_traffic() -> None:
    rows = prepared(labelled(300, 400))
    assert rows.held.at_random.all()
    assert (~rows.fitting.at_random).sum() == 400
    # About two thirds of those that were drawn and do not test.
    n_drawn = int(rows.train.at_random.sum())
    assert rows.held.n_requests == pytest.approx(n_drawn * 2 / 3, abs=1)
    # What a certificate rests on is the traffic's rate, not that of all labelled rows.
    assert rows.held.success[:, 0].mean() == pytest.approx(0.5, abs=0.12)
    assert rows.train.success[:, 0].mean() < 0.3
    compared = FullFeedback(rows).compared(rows.fitting.success, rows.fitting.cost_usd)
    assert compared.success[:, 0].mean() == pytest.approx(0.5, abs=0.2)


def test_with_few_chosen_rows_as_many_calibrate_as_without() -> None:
    rows = prepared(labelled(400, 40))
    assert rows.held.n_requests == pytest.approx(0.4 * rows.train.n_requests, abs=1)


def test_a_text_that_was_drawn_too_counts_as_drawn() -> None:
    # Two rounds of labelling, written apart: the second draws what the first had chosen.
    first, drawn = labelled(0, 60), labelled(0, 30)
    table = OutcomeTable.from_arrays(
        first.tiers,
        [*first.query, *drawn.query],
        np.vstack((first.success, drawn.success)),
        np.vstack((first.cost_usd, drawn.cost_usd)),
        sampling=["chosen"] * 60 + ["random"] * 30,
        split=["train"] * 90,
    )
    rows = prepared(table)
    assert set(rows.held.query) <= set(drawn.query)
    assert rows.held.n_requests == 18  # 40 % of 90 rows, two of each text
    assert not np.isin(rows.held_hashes, query_hashes(rows.fitting.query)).any()


def test_without_chosen_rows_nothing_changes() -> None:
    table = labelled(300, 0)
    plain = OutcomeTable.from_arrays(table.tiers, table.query, table.success, table.cost_usd)
    assert list(prepared(table).held.request_id) == list(prepared(plain).held.request_id)
