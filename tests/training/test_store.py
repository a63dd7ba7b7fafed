"""Outcomes without the text of their queries: they train and evaluate as the texts do, to the bit.

And tables that hold them: which files, which embedder, which rows are the same query.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.artifact import load_artifact
from router.coverage import SCRIPTS, Coverage
from router.embedding import Embedder, load_embedder
from router.errors import EmbeddingError, InputError
from router.outcomes import Outcome, write_jsonl
from router.routing import Router
from router.stored_query import Query, StoredQuery
from tests.artifacts import HARD_QUERIES, tiny_embedder
from training.drift import find_drift
from training.evaluate import evaluate
from training.evaluate_logged import evaluate_logged
from training.features import embed_queries
from training.gather import as_objects
from training.pipeline import train
from training.store import stored_queries, without_text
from training.synthetic import (
    SyntheticOutcomes,
    keyword_policy,
    log,
    make_world,
    sample,
    softmax_policy,
    to_outcomes,
    uniform_policy,
)
from training.table import OutcomeTable, read_outcomes

N = 500


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder("static")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return load_embedder(tiny_embedder(tmp_path_factory.mktemp("other"), ["other words"]))


@pytest.fixture(scope="module")
def outcomes() -> SyntheticOutcomes:
    """With queries among them that are awkward to read, and copies of some."""
    found = sample(make_world(), N, 5)
    query = found.table.query.copy()
    query[: len(HARD_QUERIES)] = HARD_QUERIES
    query[50:60] = "What  IS it?", *["What is it?"] * 9
    return replace(found, table=replace(found.table, query=query))


def stored(table: OutcomeTable, embedder: Embedder, every: int = 1) -> OutcomeTable:
    """The table with every so manieth query stored."""
    query = table.query.copy()
    query[::every] = as_objects(stored_queries(query[::every].tolist(), embedder))
    return replace(table, query=query)


def full(outcomes: SyntheticOutcomes) -> OutcomeTable:
    return outcomes.table


def uniform(outcomes: SyntheticOutcomes) -> OutcomeTable:
    return log(outcomes, uniform_policy(outcomes), 1)


def keyword(outcomes: SyntheticOutcomes) -> OutcomeTable:
    """A deterministic log, that says nothing of how it chose."""
    table = log(outcomes, keyword_policy(outcomes), 1)
    return replace(table, propensity=np.full(table.propensity.shape, np.nan))


def softmax(outcomes: SyntheticOutcomes) -> OutcomeTable:
    """Propensities have to be estimated from the queries."""
    table = log(outcomes, softmax_policy(outcomes), 1)
    return replace(table, propensity=np.full(table.propensity.shape, np.nan))


@pytest.mark.parametrize("every", [1, 2], ids=["all stored", "every other"])
@pytest.mark.parametrize("feedback", [full, uniform, keyword, softmax])
def test_the_same_router_is_trained_and_the_same_report_made(
    outcomes: SyntheticOutcomes,
    embedder: Embedder,
    tmp_path: Path,
    feedback: Callable[[SyntheticOutcomes], OutcomeTable],
    every: int,
) -> None:
    table = feedback(outcomes)
    without = stored(table, embedder, every)
    a = train(table, tmp_path / "a", estimator="ridge", track=False)
    b = train(without, tmp_path / "b", estimator="ridge", track=False)
    assert {**a.manifest, "created": None} == {**b.manifest, "created": None}
    assert a.warnings == b.warnings
    arrays = load_artifact(b.folder).arrays
    for name, expected in load_artifact(a.folder).arrays.items():
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name)
    router = Router.load(b.folder)
    predicted, of_texts = router.predict(without.query.tolist()), router.predict([*table.query])
    for name in ("p_success", "cost_usd", "out_of_distribution", "tried"):
        np.testing.assert_array_equal(getattr(predicted, name), getattr(of_texts, name))
    run: Callable[[Router, OutcomeTable], Any] = evaluate if feedback is full else evaluate_logged
    assert run(router, without).to_dict() == run(router, table).to_dict()


def test_drift_is_found_alike(
    outcomes: SyntheticOutcomes, embedder: Embedder, tmp_path: Path
) -> None:
    table = outcomes.table
    train(table.take(np.arange(300)), tmp_path / "router", estimator="ridge", track=False)
    router = Router.load(tmp_path / "router")
    first = datetime(2026, 3, 1, tzinfo=UTC)
    table = replace(table, at=as_objects([first + timedelta(hours=i) for i in range(N)]))
    a, b = (find_drift(router, t, "2026-03-02") for t in (table, stored(table, embedder)))
    assert a.to_dict() == b.to_dict()


def test_limits_on_context_are_those_of_the_text(
    outcomes: SyntheticOutcomes, embedder: Embedder, tmp_path: Path
) -> None:
    rows = outcomes.table.tiers.to_dicts()
    rows[0]["context_window_tokens"] = 40
    tiers = type(outcomes.table.tiers).from_dicts(rows)
    table = replace(outcomes.table, tiers=tiers)
    made = train(table, tmp_path / "a", estimator="ridge", track=False)
    assert any("too long" in warning for warning in made.warnings)
    router = Router.load(made.folder)
    allowed = router.predict([*table.query]).allowed
    assert allowed is not None and not allowed.all()
    np.testing.assert_array_equal(
        router.predict(stored_queries([*table.query], embedder)).allowed, allowed
    )


# Files


@pytest.fixture
def texts(outcomes: SyntheticOutcomes) -> list[Outcome]:
    """The first requests as a file gives them, every tier of each."""
    first = list(to_outcomes(outcomes.table))[:120]
    # JSON makes one character of two surrogates.
    return [Outcome.from_mapping(json.loads(json.dumps(row.to_mapping()))) for row in first]


@pytest.fixture
def rows(texts: list[Outcome], embedder: Embedder) -> list[Outcome]:
    return list(without_text(texts, embedder))


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            if "query_record" in row:
                row = {**row, "query_record": json.dumps(row["query_record"])}
            writer.writerow(row)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_parquet_text(path: Path, rows: list[dict[str, Any]]) -> None:
    as_parquet(
        path,
        [
            {**row, "query_record": json.dumps(row["query_record"])}
            if "query_record" in row
            else row
            for row in rows
        ],
    )


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS = [
    ("a.jsonl", as_jsonl),
    ("a.csv", as_csv),
    ("a.parquet", as_parquet),
    ("a.parquet", as_parquet_text),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_every_format_holds_records(
    name: str,
    write: Callable[[Path, list[dict[str, Any]]], None],
    rows: list[Outcome],
    outcomes: SyntheticOutcomes,
    tmp_path: Path,
) -> None:
    write(tmp_path / name, [row.to_mapping() for row in rows])
    table = read_outcomes(tmp_path / name, outcomes.table.tiers, max_bad_share=0.0)
    assert table.query.tolist() == list(dict.fromkeys(row.query for row in rows))
    assert all(isinstance(query, StoredQuery) for query in table.query)
    assert "marker" not in repr(replace(table, query=as_objects(["marker"] * table.n_requests)))


def test_text_and_record_of_one_request_are_one_query(
    rows: list[Outcome], texts: list[Outcome], outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    mixed = [text if i % 2 else row for i, (text, row) in enumerate(zip(texts, rows, strict=True))]
    write_jsonl(tmp_path / "a.jsonl", mixed)
    table = read_outcomes(tmp_path / "a.jsonl", outcomes.table.tiers, max_bad_share=0.0)
    assert table.complete.sum() == 40
    assert {type(query) for query in table.query} == {str, StoredQuery}
    wrong = replace(mixed[0], query="something else", attempt=2)
    write_jsonl(tmp_path / "a.jsonl", [*mixed, wrong])
    report = read_outcomes(tmp_path / "a.jsonl", outcomes.table.tiers, max_bad_share=0.1).report
    assert report.reasons == {"request_id has two different queries": 1}


def test_bad_records_are_counted_by_reason(
    rows: list[Outcome], outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    lines = [row.to_mapping() for row in rows]
    for i, (name, value) in enumerate([("version", 9), ("vector", "AAA"), ("vector", "####")]):
        record = lines[i]["query_record"]
        assert isinstance(record, dict)
        lines[i] = {**lines[i], "query_record": {**record, name: value}}
    as_jsonl(tmp_path / "a.jsonl", lines)
    report = read_outcomes(tmp_path / "a.jsonl", outcomes.table.tiers, max_bad_share=0.1).report
    assert report.reasons == {
        "query_record vector is not base64": 2,
        "query_record is of another version": 1,
    }


# Embedders


def test_another_embedder_is_refused_in_one_sentence(
    outcomes: SyntheticOutcomes, embedder: Embedder, other: Embedder, tmp_path: Path
) -> None:
    table = stored(outcomes.table, other)
    said = rf"expected queries stored with the embedder {embedder.id} .*, got one stored with "
    with pytest.raises(EmbeddingError, match=said) as refused:
        train(table, tmp_path / "a", estimator="ridge", track=False)
    assert other.id in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "a").exists()
    train(outcomes.table, tmp_path / "b", estimator="ridge", track=False)
    with pytest.raises(EmbeddingError, match=said):
        evaluate(Router.load(tmp_path / "b"), table)
    # One among many is found, and a digest alone does not do.
    mixed: list[Query] = [*stored_queries(["a", "b"], embedder), *stored_queries(["c"], other), "d"]
    with pytest.raises(EmbeddingError, match=said):
        embed_queries(embedder, mixed)
    [ours, theirs] = mixed[0], mixed[2]
    assert isinstance(ours, StoredQuery) and isinstance(theirs, StoredQuery)
    forged = replace(theirs, embedder=ours.embedder)
    with pytest.raises(EmbeddingError, match=said):
        embed_queries(embedder, [forged])


def test_vectors_stand_as_they_were_stored(embedder: Embedder) -> None:
    texts = ["one", "two", "three", "one"]
    mixed: list[Query] = [texts[0], *stored_queries(texts[1:3], embedder), texts[3]]
    done: list[int] = []
    vectors = embed_queries(embedder, mixed, on_progress=done.append)
    np.testing.assert_array_equal(vectors, embedder.embed(texts))
    assert done == [2]


@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_vectors_that_cannot_be_stored_are_refused(value: float) -> None:
    class Broken:
        id, digest, dimension = "broken", "0" * 64, 2

        def embed_one(self, text: str) -> Any:
            return self.embed([text])[0]

        def embed(self, texts: Any) -> Any:
            return np.full((len(texts), 2), value, np.float32)

    with pytest.raises(EmbeddingError, match="finite vectors of at most length 1"):
        stored_queries(["a"], Broken())


def test_what_is_stored_stays(embedder: Embedder, other: Embedder) -> None:
    once = stored_queries(["a", "a", "b"], other)
    assert stored_queries(once, embedder) == once
    assert once[0] is once[1]


def test_an_artifact_with_other_places_needs_the_text(embedder: Embedder) -> None:
    [query] = stored_queries(["some words of English"], embedder)
    shares = np.ones(len(SCRIPTS))
    fine = Coverage(np.full(4096, 2.0, np.float32), 1.0, shares)
    assert fine.mean_rarity(query) == fine.mean_rarity("some words of English") == 2.0
    odd = Coverage(np.full(1000, 2.0, np.float32), 1.0, shares)
    with pytest.raises(InputError, match="queries with their text"):
        odd.excludes_many([query], [0.5])
