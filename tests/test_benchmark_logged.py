"""The benchmark of logs hides what a log hides, and says what share of the gain is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import logged, run
from benchmarks.logged import EVERYTHING, HALF, LOGS, TIERS_ALONE, Log, compare_set, halved, hide
from benchmarks.results import Section
from router.keyword import KeywordRouter
from training.logging_policy import is_logged
from training.split import query_hashes, split_table
from training.synthetic import make_world, sample
from training.table import OutcomeTable


def quiet(message: str) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    full = sample(make_world(), 700, 3).table
    return replace(full, other_success=full.success[:, :1])


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_one_outcome_of_each_training_row_is_shown(table: OutcomeTable, log: Log) -> None:
    shown = hide(table, log, 0)
    split = split_table(shown)
    np.testing.assert_array_equal(shown.request_id, table.request_id)
    assert shown.other_success.shape[1] == 0
    assert shown.observed[split.test].all() and is_logged(shown.take(split.train))
    train, truth = shown.take(split.train), table.take(split.train)
    assert (train.observed.sum(axis=1) == 1).all()
    for name in ("success", "cost_usd", "input_tokens", "output_tokens"):
        values = getattr(train, name)
        np.testing.assert_array_equal(np.isfinite(values), train.observed)
        np.testing.assert_array_equal(values[train.observed], getattr(truth, name)[train.observed])
    rule = KeywordRouter.for_tiers(table.tiers.names)  # which stand in the order of their costs
    follows = np.array(
        [
            rule.tier_of(q) == table.tiers.names[t]
            for q, t in zip(train.query, train.observed.argmax(axis=1), strict=True)
        ]
    )
    assert np.mean(~follows) == pytest.approx(log.epsilon * 2 / 3, abs=0.05)
    if not log.recorded:
        assert np.isnan(shown.propensity).all()
        return
    expected = np.where(follows, 1 - log.epsilon * 2 / 3, log.epsilon / 3)
    np.testing.assert_allclose(train.propensity[train.observed], expected)


def test_half_the_queries_are_half_the_training_texts(table: OutcomeTable) -> None:
    half, whole = halved(table, 0), split_table(table)
    split = split_table(half)
    assert split.test.sum() == whole.test.sum()
    n = len(np.unique(query_hashes(table.query[whole.train])))
    assert len(np.unique(query_hashes(half.query[split.train]))) == n // 2


def test_a_set_is_compared_on_the_same_test_rows(table: OutcomeTable) -> None:
    logs = (Log("some", 0.5), Log("none", 0.0))
    shown, data = compare_set("made up", table, quiet, logs=logs, n_logs=2, n_other=1)
    found = data["results"]
    assert list(found) == [EVERYTHING, TIERS_ALONE, HALF, "some", "none"]
    assert [len(found[label]) for label in found] == [1, 1, 1, 2, 1]
    assert data["n_test"] == int(split_table(table).test.sum())
    for label, results in found.items():
        for result in results:
            confined = label == "none"
            assert result["share_confined"] == confined
            assert (result["mean_mix_ratio"] is None) == confined
            assert 0.4 < result["served"][0] < 1.0 and result["served"][1] > 0
    mean, low, high = data["share_of_gain_kept"]["mean_mix_ratio"]["some"]
    full = found[EVERYTHING][0]["mean_mix_ratio"]
    kept = [(1 - r["mean_mix_ratio"]) / (1 - full) for r in found["some"]]
    assert mean == pytest.approx(np.mean(kept)) and low < mean < high
    text = shown.text()
    assert "always frontier" in text and "A log of twice the queries" in text
    json.dumps(run._finite(data), allow_nan=False)


def test_a_log_that_cannot_be_trained_on_is_said_to_be_refused(table: OutcomeTable) -> None:
    plain = replace(table, query=np.array([f"say {i} of them" for i in range(700)], object))
    logs = (Log("some", 0.5), Log("none", 0.0))
    shown, data = compare_set("made up", plain, quiet, logs=logs, n_logs=1, n_other=1)
    assert data["results"]["none"] == []
    assert "got none for nano, frontier" in data["refused"]["none"]
    assert "none is refused: expected" in shown.text()


def test_the_part_runs_alone(
    table: OutcomeTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import data

    monkeypatch.setattr(
        data, "available_sets", lambda say, names=None: ({"a": table}, ["b is out."])
    )
    called: list[int] = []

    def measure(tables: object, left_out: object, say: object, *, seed: int) -> Section:
        called.append(seed)
        return Section("Logged feedback", [], {"sets": list(tables)})  # type: ignore[call-overload]

    monkeypatch.setattr(logged, "measure", measure)
    run.main(["--only", "logged", "--json", "--seed", "3"])
    assert called == [3]
    assert json.loads(capsys.readouterr().out)["logged feedback"] == {"sets": ["a"]}
