"""Records of stored queries: there and back, what pins their rules, and hostile ones."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.coverage import SCRIPTS
from router.errors import InputError, OutcomeError
from router.keyword import KeywordRouter
from router.outcomes import Outcome
from router.query_features import N_FEATURES, query_features_many
from router.query_record import VERSION, record_of, stored_query
from router.routing import Router
from router.stored_query import FLOAT32, UINT16, MadeBy, StoredQuery, numbers
from router.tiers import estimated_tokens
from router.word_grams import N_GRAMS, WordGrams
from tests.artifacts import HARD_QUERIES
from training.split import query_hash, text_hash
from training.store import stored_queries

Record = dict[str, Any]


class Two:
    """An embedder of two dimensions."""

    id, digest, dimension = "two", "ab" * 32, 2

    def embed_one(self, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array([0.6, 0.8], np.float32)

    def embed(self, texts: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.tile(self.embed_one(""), (len(texts), 1))


def store(text: str) -> StoredQuery:
    return stored_queries([text], Two())[0]


@pytest.fixture
def record() -> Record:
    return record_of(store("Compare naïve Bayes with π = 3: explain why one is faster"))


@given(st.text())
def test_there_and_back(text: str) -> None:
    query = store(text)
    found = record_of(query)
    assert stored_query(found) == stored_query(json.dumps(found)) == query
    assert Outcome.from_mapping(row(query_record=found)).query == query


@pytest.mark.parametrize("text", HARD_QUERIES, ids=range(len(HARD_QUERIES)))
def test_what_reads_a_text_reads_the_same_of_its_record(text: str) -> None:
    query = stored_query(record_of(store(text)))
    np.testing.assert_array_equal(query_features_many([text]), query_features_many([query]))
    grams = WordGrams.of([text, "hello"])
    np.testing.assert_array_equal(grams.weight, WordGrams.of([query, "hello"]).weight)
    np.testing.assert_array_equal(
        grams.vectors([text, "hello", text]), grams.vectors([query, "hello", query])
    )
    assert (query_hash(query), text_hash(query)) == (query_hash(text), text_hash(text))
    assert (len(query), estimated_tokens(query)) == (len(text), estimated_tokens(text))
    keyword = KeywordRouter()
    assert keyword.tier_of(query) == keyword.tier_of(text)


def test_the_rules_of_this_version_are_these() -> None:
    """Where this fails, texts are read otherwise than in records: raise VERSION with it."""
    assert VERSION == 1
    query = store("Translate to French: 12 apples, naïve cafés and π")
    assert query.embedder == MadeBy("two", "ab" * 32)
    assert (query.query_hash, query.text_hash) == (QUERY_HASH, TEXT_HASH)
    assert (query.n_characters, query.keyword_place) == (49, 0)
    assert numbers(query.vector, FLOAT32).tolist() == pytest.approx([0.6, 0.8])
    assert numbers(query.features, FLOAT32).tolist() == pytest.approx(FEATURES, abs=1e-5)
    assert query.scripts == struct.pack("<10d", 1 / 49, *[0.0] * 9)
    assert numbers(query.grams, UINT16).tolist() == GRAMS
    assert numbers(query.words, UINT16).tolist() == WORDS


QUERY_HASH = 0xE08C4C3F088BF48A
TEXT_HASH = 0x6B02CBE98E8F0682
FEATURES = [3.912023, 2.302585, 0.040816, 0.040816, 0.0, 0.0, 0.0, 0.0, 0.061224, 0.020408]
GRAMS = [
    47,
    2336,
    358,
    2654,
    623,
    639,
    2736,
    708,
    758,
    2874,
    830,
    2925,
    878,
    887,
    1184,
    3374,
    3393,
    1354,
    1599,
    3678,
    4050,
]
WORDS = [358, 7021, 9546, 12335, 20062, 21188, 25463]


def test_it_shows_nothing_of_the_query() -> None:
    query = store("a marker that nobody must see")
    assert repr(query) == "StoredQuery(29 characters, 2 dimensions)"
    assert "marker" not in json.dumps(record_of(query))
    outcome = Outcome("r", "a marker that nobody must see", 1.0, tier="nano")
    assert "marker" not in repr(outcome)


def test_words_have_no_order_and_grams_no_count() -> None:
    a, b = store("red green blue"), store("blue green red")
    assert a.words == b.words and a.grams != b.grams
    assert store("go go go go").grams == store("go go go").grams


# Rows


def row(**columns: object) -> dict[str, object]:
    return {"request_id": "r", "success": 1, "tier": "nano", "cost_usd": 0.1, **columns}


def test_a_row_has_a_query_or_a_record(record: Record) -> None:
    found = Outcome.from_mapping(row(query_record=record))
    assert isinstance(found.query, StoredQuery)
    assert found.to_mapping() == {**row(), "success": 1.0, "query_record": record}
    for empty in (None, ""):
        assert Outcome.from_mapping(row(query="q", query_record=empty)).query == "q"
    for columns in ({"query": "q", "query_record": record}, {"query": "", "query_record": record}):
        with pytest.raises(OutcomeError, match="query and query_record are both there"):
            Outcome.from_mapping(row(**columns))
    with pytest.raises(OutcomeError, match="query is missing"):
        Outcome.from_mapping(row())


def packed(kind: str, *values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}{kind}", *values)).decode()


# What is put in place of a field, and the reason that it is refused for.
ARRAY_SIZE = "query_record has an array of another size"
OUT_OF_RANGE = "query_record has numbers out of range"
NO_WORDS = "query_record has words that are none"
HOSTILE: list[tuple[str, object, str]] = [
    ("version", 2, "query_record is of another version"),
    ("version", True, "query_record is of another version"),
    ("version", None, "query_record is of another version"),
    ("embedder", "", "query_record embedder is no name"),
    ("embedder", "x" * 10_000, "query_record embedder is no name"),
    ("embedder", 3, "query_record embedder is missing or not text"),
    ("embedder_digest", "ab" * 31, "query_record embedder_digest is no SHA-256"),
    ("embedder_digest", "AB" * 32, "query_record embedder_digest is no SHA-256"),
    ("query_hash", "٣" * 16, "query_record query_hash is no hash"),
    ("query_hash", 7, "query_record query_hash is missing or not text"),
    ("text_hash", "f" * 17, "query_record text_hash is no hash"),
    ("characters", -1, "query_record characters is no whole number in its range"),
    ("characters", 2**60, "query_record characters is no whole number in its range"),
    ("characters", 3.0, "query_record characters is no whole number in its range"),
    ("characters", True, "query_record characters is no whole number in its range"),
    ("keyword", 3, "query_record keyword is no whole number in its range"),
    ("vector", None, "query_record vector is missing or not text"),
    ("vector", "", ARRAY_SIZE),
    ("vector", "AAAA", ARRAY_SIZE),
    ("vector", "mZkZPw=", "query_record vector is not base64"),
    ("vector", "mZkZ Pw==", "query_record vector is not base64"),
    ("vector", "é", "query_record vector is not base64"),
    ("vector", "A" * 400_000, "query_record vector is too long"),
    ("vector", packed("f", math.nan, 0.1), OUT_OF_RANGE),
    ("vector", packed("f", math.inf, 0.1), OUT_OF_RANGE),
    ("vector", packed("f", 3e38, 3e38), OUT_OF_RANGE),
    ("vector", packed("f", 1.0, 1.0), OUT_OF_RANGE),
    ("features", packed("f", *[0.0] * (N_FEATURES - 1)), ARRAY_SIZE),
    ("features", packed("f", *[0.0] * (N_FEATURES + 1)), "query_record features is too long"),
    ("features", packed("f", *[math.nan] * N_FEATURES), OUT_OF_RANGE),
    ("features", packed("f", *[-1.0] * N_FEATURES), OUT_OF_RANGE),
    ("features", packed("f", *[1e30] * N_FEATURES), OUT_OF_RANGE),
    ("scripts", packed("d", *[0.0] * (len(SCRIPTS) - 1)), ARRAY_SIZE),
    ("scripts", packed("d", *[1.5] * len(SCRIPTS)), OUT_OF_RANGE),
    ("scripts", packed("d", *[math.nan] * len(SCRIPTS)), OUT_OF_RANGE),
    ("grams", "AAAA", ARRAY_SIZE),
    ("grams", packed("H", 2 * N_GRAMS), NO_WORDS),
    ("grams", packed("H", 5, 4), NO_WORDS),
    ("grams", packed("H", 5, 5), NO_WORDS),
    ("grams", packed("H", 5, N_GRAMS + 5), NO_WORDS),
    ("grams", packed("H", *range(N_GRAMS), 0, 0, 0), "query_record grams is too long"),
    ("words", packed("H", 2**15), NO_WORDS),
    ("words", packed("H", 2, 1), NO_WORDS),
    ("words", packed("H", *[7] * 6000), "query_record words is too long"),
]


@pytest.mark.parametrize(("name", "value", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_record_is_refused_for_one_reason(
    record: Record, name: str, value: object, reason: str
) -> None:
    without = {key: kept for key, kept in record.items() if key != name}
    for changed in [{**record, name: value}] + ([without] if value is None else []):
        for given_as in (changed, json.dumps(changed)):
            with pytest.raises(OutcomeError) as refused:
                Outcome.from_mapping(row(query_record=given_as))
            assert refused.value.reason == reason


NO_OBJECTS: tuple[object, ...] = ([], 7, True, 0.5, b"{}", "[]", "7", '"x"', "null")
NO_JSON: tuple[object, ...] = ("{", "x", "[" * 100_000, '{"version": 1')
NO_RECORDS = [
    *((value, "query_record is not an object") for value in NO_OBJECTS),
    *((value, "query_record is not JSON") for value in NO_JSON),
    ({}, "query_record is of another version"),
]


@pytest.mark.parametrize(("value", "reason"), NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_what_is_no_record(value: object, reason: str) -> None:
    with pytest.raises(OutcomeError) as refused:
        Outcome.from_mapping(row(query_record=value))
    assert refused.value.reason == reason


@given(st.dictionaries(st.sampled_from([*record_of(store("a")), "x"]), st.text() | st.none()))
def test_whatever_comes_is_a_record_or_refused(changes: dict[str, object]) -> None:
    changed = {**record_of(store("some words")), **changes}
    reason = ""
    try:
        stored_query(changed)
    except OutcomeError as error:
        reason = error.reason
    assert reason.startswith("query_record ") or reason == ""


# What cannot do with it


def test_a_keyword_heuristic_of_its_own_terms_needs_the_text() -> None:
    query = store("translate this")
    assert KeywordRouter(tiers=("a", "b", "c")).tier_of(query) == "a"
    routers: list[Callable[[], KeywordRouter]] = [
        lambda: KeywordRouter(high=("prove",)),
        lambda: KeywordRouter(low=("prove",)),
        lambda: KeywordRouter(short_words=3),
    ]
    for made in routers:
        with pytest.raises(InputError, match="queries with their text"):
            made().tier_of(query)


def test_routing_takes_texts_only(small_artifact: Any) -> None:
    router, query = Router.load(small_artifact), store("translate this")
    with pytest.raises(InputError, match="expected the query as text, got StoredQuery"):
        router.route(query)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected the query as text, got StoredQuery"):
        router.route_many([query])  # type: ignore[list-item]
