"""References that stand for training queries, and outcomes counted at them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsRegressor

from training import neighbours as module
from training.inputs import Inputs
from training.neighbours import (
    MAX_REFERENCE_ROWS,
    N_CENTROIDS,
    NEIGHBOUR_SHRINKAGE,
    NO_SIMILARITY,
    References,
    min_similarity,
    neighbours,
    references,
)

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# Groups of queries about the same things, as in traffic.
TOPICS = np.random.default_rng(123).normal(size=(30, 16))


def traffic(n: int, seed: int = 0, topics: FloatArray = TOPICS) -> Float32Array:
    rng = np.random.default_rng(seed)
    x = topics[rng.integers(len(topics), size=n)] + 0.3 * rng.normal(size=(n, topics.shape[1]))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def as_inputs(embedding: Float32Array, n_folds: int = 5) -> Inputs:
    return Inputs(embedding, embedding.astype(float), np.arange(len(embedding)) % n_folds, 0)


def test_few_queries_stand_for_themselves_except_unreadable_ones() -> None:
    embedding = traffic(100)
    embedding[[3, 50]] = 0.0
    np.testing.assert_array_equal(
        references(embedding, 0, 100), np.delete(embedding, [3, 50], axis=0)
    )


def test_without_a_readable_query_there_is_one_reference_that_nothing_is_near_to() -> None:
    refs = references(np.zeros((5, 16), np.float32), 0, MAX_REFERENCE_ROWS)
    np.testing.assert_array_equal(refs, np.zeros((1, 16)))
    data = as_inputs(np.zeros((10, 16), np.float32))
    assert min_similarity(References.of(data).similarity(data), 0.001) == 0.0


def test_many_queries_are_condensed_to_unit_centroids_near_them() -> None:
    embedding = traffic(MAX_REFERENCE_ROWS + 1)
    refs = references(embedding, 0, MAX_REFERENCE_ROWS)
    assert refs.shape == (N_CENTROIDS, 16) and refs.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(refs, axis=1), 1.0, atol=1e-6)
    # Nearer than the queries are to their nearest fellow.
    among = embedding @ embedding.T
    np.fill_diagonal(among, -1)
    assert (embedding @ refs.T).max(axis=1).mean() > among.max(axis=1).mean()
    np.testing.assert_array_equal(refs, references(embedding, 0, MAX_REFERENCE_ROWS))


def test_three_texts_repeated_a_thousand_times() -> None:
    embedding = np.repeat(traffic(3), 1000, axis=0)
    refs = references(embedding, 0, MAX_REFERENCE_ROWS)
    np.testing.assert_allclose(np.linalg.norm(refs, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose((embedding @ refs.T).max(axis=1), 1.0, atol=1e-6)
    success = np.repeat([[1.0], [0.0], [1.0]], 1000, axis=0)
    found = neighbours(embedding, refs, success, np.ones((3000, 1), dtype=bool))
    assert np.isfinite(found.probability(embedding[::500] @ refs.T)).all()


def test_clustering_looks_at_a_sample_where_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLUSTERED_ROWS", 400)
    refs = references(traffic(1000), 0, MAX_REFERENCE_ROWS)
    assert refs.shape == (N_CENTROIDS, 16)
    assert (traffic(500, seed=1) @ refs.T).max(axis=1).mean() > 0.8


def test_a_folds_references_hold_nothing_of_that_fold() -> None:
    embedding = traffic(200)
    data = as_inputs(embedding)
    refs = References.of(data)
    np.testing.assert_array_equal(refs.all, embedding)
    assert sorted(refs.without_fold) == [0, 1, 2, 3, 4]
    for fold, others in refs.without_fold.items():
        np.testing.assert_array_equal(others, embedding[data.fold != fold])


@pytest.mark.parametrize("n", [MAX_REFERENCE_ROWS, MAX_REFERENCE_ROWS + 8, 640, 700])
def test_folds_are_condensed_where_the_whole_is(n: int) -> None:
    # Else k-NN would be calibrated on queries, and asked about centroids.
    refs = References.of(as_inputs(traffic(n)))
    condensed = n > MAX_REFERENCE_ROWS
    assert len(refs.all) == (N_CENTROIDS if condensed else n)
    for others in refs.without_fold.values():
        assert (len(others) == N_CENTROIDS) == condensed


def test_a_fold_that_leaves_too_few_rows_to_condense_keeps_them() -> None:
    embedding = traffic(600)
    data = Inputs(embedding, embedding.astype(float), (np.arange(600) < 100).astype(np.int64), 0)
    refs = References.of(data)
    assert len(refs.all) == N_CENTROIDS
    assert len(refs.without_fold[0]) == 100 and len(refs.without_fold[1]) == N_CENTROIDS


@pytest.mark.parametrize("n", [300, 1500])
def test_about_the_asked_share_of_like_traffic_is_outside(n: int) -> None:
    data = as_inputs(traffic(n))
    refs = References.of(data)
    threshold = min_similarity(refs.similarity(data), 0.05)
    like = (traffic(4000, seed=1) @ refs.all.T).max(axis=1)
    assert 0.02 < (like < threshold).mean() < 0.09
    # Queries about something else are outside nearly always.
    rng = np.random.default_rng(9)
    strange = traffic(500, seed=2, topics=rng.normal(size=(20, 16)))
    assert ((strange @ refs.all.T).max(axis=1) < threshold).mean() > 0.9
    assert min_similarity(refs.similarity(data), 0.001) < threshold


def scikit_learns(
    refs: Float32Array,
    embedding: Float32Array,
    success: FloatArray,
    observed: npt.NDArray[np.bool_],
    asked: Float32Array,
    k: int,
) -> FloatArray:
    """Weighted means of successes and of outcomes among k + 1 references, shrunk to the mean."""
    n_tiers = success.shape[1]
    home = KNeighborsRegressor(1).fit(refs, np.arange(len(refs))).predict(embedding).astype(int)
    totals = np.zeros((len(refs), 2 * n_tiers))
    np.add.at(totals, home, np.hstack([np.where(observed, success, 0), observed]))

    def fading(distance: FloatArray) -> FloatArray:
        return 1 - distance**2 / (distance**2).max(axis=1, keepdims=True)

    found = KNeighborsRegressor(k + 1, weights=fading).fit(refs, totals).predict(asked)
    s, seen = np.where(observed, success, 0).sum(axis=0), observed.sum(axis=0)
    prior = (s + 0.5) / (seen + 1)
    p: FloatArray = (k * found[:, :n_tiers] + NEIGHBOUR_SHRINKAGE * prior) / (
        k * found[:, n_tiers:] + NEIGHBOUR_SHRINKAGE
    )
    return p


@pytest.mark.parametrize(("n", "k"), [(100, 40), (300, 40), (800, 13), (3000, 5)])
def test_probabilities_are_scikit_learns(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    # Exact unit lengths, so that distance and similarity say the same.
    embedding = traffic(n).astype(np.float64)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    success = np.round(rng.random((n, 3)), 1)
    observed = rng.random((n, 3)) < (1.0, 0.5, 0.05)
    data = Inputs(embedding, embedding, np.arange(n) % 5, 0)
    refs = References.of(data).all.astype(np.float64)
    asked = traffic(200, seed=1).astype(np.float64)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    found = neighbours(embedding, refs, np.where(observed, success, np.nan), observed)
    assert int(found.n_neighbours) == k
    got = found.probability(asked @ refs.T)
    expected = scikit_learns(refs, embedding, success, observed, asked, k)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert got[:, 0].std() > 0.01


def test_every_outcome_is_counted_once_at_the_nearest_reference() -> None:
    rng = np.random.default_rng(0)
    embedding = traffic(900)
    success = (rng.random((900, 2)) < 0.6).astype(float)
    observed = rng.random((900, 2)) < 0.7
    refs = references(embedding, 0, MAX_REFERENCE_ROWS)
    found = neighbours(embedding, refs, success, observed)
    counts = np.zeros((len(refs), 5))
    counts[:, 4] = 1
    for row in range(900):
        home = int(np.argmax(embedding[row] @ refs.T))
        counts[home, :4] += np.r_[success[row] * observed[row], observed[row]]
    np.testing.assert_array_equal(found.counts, counts)


def test_outcomes_of_unreadable_queries_belong_to_no_reference() -> None:
    rng = np.random.default_rng(0)
    embedding = traffic(100)
    success = (rng.random((100, 1)) < 0.5).astype(float)
    observed = np.ones((100, 1), dtype=bool)
    alone = neighbours(embedding, embedding, success, observed)
    # A hundred empty queries, all failed: they are near nothing, and count for the mean only.
    found = neighbours(
        np.vstack([embedding, np.zeros_like(embedding)]),
        embedding,
        np.vstack([success, np.zeros_like(success)]),
        np.ones((200, 1), dtype=bool),
    )
    np.testing.assert_array_equal(found.counts, alone.counts)
    assert found.prior[0] == pytest.approx((success.sum() + 0.5) / 201)


def test_an_unreadable_query_gets_each_tiers_mean() -> None:
    embedding = traffic(100)
    success = np.ones((100, 1))
    success[:25] = 0.0
    found = neighbours(embedding, embedding, success, np.ones((100, 1), dtype=bool))
    p = found.probability(np.zeros((1, 100), np.float32))
    assert p[0, 0] == pytest.approx(0.75, abs=0.01)


@given(st.integers(1, 60), st.integers(0, 1000))
def test_any_number_of_references_gives_probabilities(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    embedding = traffic(n, seed)
    success = (rng.random((n, 2)) < 0.5).astype(float)
    observed = rng.random((n, 2)) < 0.5
    found = neighbours(embedding, embedding, success, observed)
    assert 1 <= int(found.n_neighbours) <= max(n - 1, 1)
    p = found.probability(traffic(20, seed + 1) @ embedding.T)
    assert p.shape == (20, 2) and (p > 0).all() and (p < 1).all()


def test_probability_does_not_jump_as_a_query_moves() -> None:
    rng = np.random.default_rng(0)
    embedding = traffic(200)
    success = (rng.random((200, 1)) < 0.5).astype(float)
    found = neighbours(embedding, embedding, success, np.ones((200, 1), dtype=bool))
    # From one query to another in 5,000 steps, past many changes of who is among the nearest.
    share = np.linspace(0, 1, 5001)[:, None]
    path = (1 - share) * embedding[0].astype(float) + share * embedding[1]
    path /= np.linalg.norm(path, axis=1, keepdims=True)
    p = found.probability(path @ embedding.T.astype(float))[:, 0]
    assert np.abs(np.diff(p)).max() < 0.005 < np.ptp(p)


def test_the_least_similarity_of_few_is_a_similarity() -> None:
    far = np.array([-0.9, 0.9, 0.95])
    assert min_similarity(far, 1e-9) == NO_SIMILARITY
    near = np.array([0.90, 0.92, 0.95])
    assert 0.5 < min_similarity(near, 0.001) < near.min()
