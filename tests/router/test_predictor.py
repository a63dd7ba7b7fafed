"""The predictor: one query and many, chunks, novelty, and its arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from router import predictor as predictor_module
from router.costs import CostEstimator, LogLinearHead
from router.errors import ArtifactError
from router.estimators import (
    LinearScore,
    NeighbourScore,
    RidgeScore,
    SuccessEstimator,
)
from router.inputs import InputMap
from router.predictor import Predictor
from router.query_features import N_FEATURES
from router.word_grams import N_GRAMS
from tests.artifacts import HARD_QUERIES

Float32Array = npt.NDArray[np.float32]

DIMENSION, T, M = 5, 3, 12
DENSE = DIMENSION + N_FEATURES
D = DENSE + N_GRAMS + M
MEMBERS = ["logistic", "knn", "ridge"]
QUERIES = [f"What is {i} + {i * i}? Please explain question {i}." for i in range(25)]


class HashEmbedder:
    """A unit vector per text, drawn by its hash; zero for a text without letters or digits."""

    id = "hash"
    digest = "0" * 64
    dimension = DIMENSION

    def embed_one(self, text: str) -> Float32Array:
        if not text.strip():
            return np.zeros(DIMENSION, np.float32)
        encoded = text.encode("utf-8", "surrogatepass")
        seed = int.from_bytes(hashlib.blake2b(encoded, digest_size=4).digest(), "big")
        vector = np.random.default_rng(seed).standard_normal(DIMENSION)
        result: Float32Array = (vector / np.linalg.norm(vector)).astype(np.float32)
        return result

    def embed(self, texts: Sequence[str]) -> Float32Array:
        rows = [self.embed_one(text) for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), DIMENSION)


def head(rng: np.random.Generator) -> LogLinearHead:
    bias = rng.normal(size=T)
    return LogLinearHead(
        0.01 * rng.normal(size=(D, T)), bias, bias - 3.0, bias + 3.0, np.full(T, 1.1)
    )


def predictor(min_similarity: float = -1.0, seed: int = 0) -> Predictor:
    rng = np.random.default_rng(seed)
    success = (rng.random((M, T)) < 0.6).astype(float)
    return Predictor(
        HashEmbedder(),
        InputMap.of([f"reference {i}?" for i in range(M)]),
        SuccessEstimator(
            (
                LinearScore(0.01 * rng.normal(size=(DENSE, T)), rng.normal(size=T)),
                NeighbourScore(
                    np.hstack((success, np.ones((M, T)), np.ones((M, 1)))),
                    np.full(T, 0.6),
                    np.ones(T),
                    np.zeros(T),
                    np.array(4),
                    np.array(2.0),
                ),
                RidgeScore(0.3 * rng.normal(size=(D, T)), rng.normal(size=T)),
            )
        ),
        CostEstimator(head(rng), head(rng), head(rng), np.ones(T), np.array([1.0, np.nan, 5.0])),
        HashEmbedder().embed([f"reference {i}" for i in range(M)]),
        min_similarity,
    )


def test_one_query_is_predicted_like_many() -> None:
    made = predictor(0.6)
    many = made.predict(QUERIES)
    assert many.p_success.shape == many.cost_usd.shape == (25, T)
    assert 0 < many.out_of_distribution.sum() < 25
    for i, query in enumerate(QUERIES):
        p, cost, unknown = made.predict_one(query)
        assert p == pytest.approx(many.p_success[i].tolist(), abs=1e-6)
        assert cost == pytest.approx(many.cost_usd[i].tolist(), rel=1e-6)
        assert unknown == many.out_of_distribution[i]
        assert isinstance(unknown, bool)
        assert all(type(value) is float for value in [*p, *cost])


def test_predictions_are_the_estimators_of_what_the_input_map_makes() -> None:
    made = predictor()
    embeddings = made.embedder.embed(QUERIES)
    similarity = embeddings @ made.references.T
    x = made.inputs(QUERIES, embeddings)
    assert x.shape == (25, D)
    assert x.dtype == np.float64
    assert (x == made.input_map.many(QUERIES, embeddings, similarity)).all()
    found = made.predict(QUERIES)
    assert found.p_success == pytest.approx(made.success.predict(x, similarity), abs=1e-6)
    assert found.cost_usd == pytest.approx(made.cost.predict(x))


@pytest.mark.parametrize("seed", range(3))
def test_one_query_is_predicted_by_the_dense_formula(seed: int) -> None:
    """Embedding, features, grams and kernel in one row, times each estimator's own weights."""
    made = predictor(seed=seed)
    for query in (*QUERIES, *HARD_QUERIES):
        embedding = made.embedder.embed_one(query)
        similarity = made.references.dot(embedding)[None]
        x = made.input_map.many([query], embedding[None], similarity)
        p, cost, _ = made.predict_one(query)
        assert p == pytest.approx(made.success.predict(x, similarity)[0].tolist(), abs=1e-9)
        assert cost == pytest.approx(made.cost.predict(x)[0].tolist(), rel=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 25, 26])
def test_chunks_are_of_no_effect(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    made = predictor(0.6)
    whole = made.predict(QUERIES)
    monkeypatch.setattr(predictor_module, "_CHUNK", chunk)
    parts = made.predict(QUERIES)
    assert parts.p_success == pytest.approx(whole.p_success, abs=1e-6)
    assert parts.cost_usd == pytest.approx(whole.cost_usd)
    assert (parts.out_of_distribution == whole.out_of_distribution).all()


def test_no_queries() -> None:
    found = predictor().predict([])
    assert found.p_success.shape == found.cost_usd.shape == (0, T)
    assert found.out_of_distribution.shape == (0,)


def test_the_order_of_the_queries_is_of_no_effect() -> None:
    made = predictor(0.6)
    forth, back = made.predict(QUERIES), made.predict(QUERIES[::-1])
    assert back.p_success[::-1] == pytest.approx(forth.p_success, abs=1e-6)
    assert (back.out_of_distribution[::-1] == forth.out_of_distribution).all()


def test_a_query_is_unknown_where_no_reference_is_near() -> None:
    query = "something else"
    nearest = float((predictor().references @ HashEmbedder().embed_one(query)).max())
    for step, expected in ((-1e-4, False), (1e-4, True)):
        made = predictor(nearest + step)
        assert made.predict_one(query)[2] is expected
        assert made.predict([query]).out_of_distribution.tolist() == [expected]
    reference = "reference 3"
    assert predictor(0.999).predict_one(reference)[2] is False
    assert predictor(0.999).predict([reference]).out_of_distribution.tolist() == [False]


@pytest.mark.parametrize("query", ["", " \n "])
def test_a_query_that_cannot_be_read_is_unknown_and_gets_numbers_all_the_same(query: str) -> None:
    made = predictor(0.05)
    p, cost, unknown = made.predict_one(query)
    assert unknown
    assert all(0 < value < 1 for value in p)
    assert all(value > 0 for value in cost)
    many = made.predict([query, *QUERIES])
    assert many.out_of_distribution[0]
    assert many.p_success[0] == pytest.approx(p, abs=1e-6)


def test_other_prices_change_the_cost_of_token_priced_tiers_alone() -> None:
    made = predictor()
    before = made.predict(QUERIES)
    after = made.priced(np.full(T, 10.0), np.array([10.0, np.nan, 50.0])).predict(QUERIES)
    assert after.cost_usd[:, [0, 2]] == pytest.approx(10 * before.cost_usd[:, [0, 2]])
    assert (after.cost_usd[:, 1] == before.cost_usd[:, 1]).all()
    assert (after.p_success == before.p_success).all()
    assert (made.predict(QUERIES).cost_usd == before.cost_usd).all()


def test_a_predictor_survives_its_arrays() -> None:
    made = predictor(0.6)
    again = Predictor.from_arrays(
        made.to_arrays(),
        embedder=made.embedder,
        dimension=DIMENSION,
        members=MEMBERS,
        min_similarity=0.6,
        input_usd_per_mtok=made.cost.input_usd_per_mtok,
        output_usd_per_mtok=made.cost.output_usd_per_mtok,
    )
    before, after = made.predict(QUERIES), again.predict(QUERIES)
    for name in ("p_success", "cost_usd", "out_of_distribution"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_references_that_do_not_fit_embedder_or_estimators_are_refused() -> None:
    made = predictor()
    for references in (
        made.references[:, :-1],
        made.references[:0],
        made.references[0],
        made.references.astype(np.float64),
        np.where(np.eye(M, DIMENSION, dtype=bool), np.nan, made.references).astype(np.float32),
        made.references * np.float32(1.01),
        made.references[:-1],
    ):
        with pytest.raises(ArtifactError, match=r"^expected .* in the artifact"):
            Predictor.from_arrays(
                {**made.to_arrays(), "references": references},
                embedder=made.embedder,
                dimension=DIMENSION,
                members=MEMBERS,
                min_similarity=0.6,
                input_usd_per_mtok=made.cost.input_usd_per_mtok,
                output_usd_per_mtok=made.cost.output_usd_per_mtok,
            )
