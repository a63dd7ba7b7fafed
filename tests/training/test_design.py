"""Inputs scaled by how much each block may explain, and the way back to weights on raw inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.preprocessing import StandardScaler

from router.query_features import N_FEATURES
from router.word_grams import N_GRAMS
from training.design import (
    EMBEDDING_SHARE,
    FEATURES_SHARE,
    KERNEL_SHARE,
    Design,
)
from training.inputs import Inputs
from training.neighbours import References
from training.prepare import inputs_of

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

N, DIMENSION = 70, 6
DENSE = DIMENSION + N_FEATURES
GRAMS = slice(DENSE, DENSE + N_GRAMS)
QUERIES = [
    f"{['add', 'translate', 'debug'][i % 3]} {'abcdefg'[i % 7] * (i % 5 + 1)} {i}?"
    for i in range(N)
]


def vectors(n: int, seed: int = 0) -> Float32Array:
    rows = np.random.default_rng(seed).normal(size=(n, DIMENSION))
    result: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return result


def prepared(embedding: Float32Array | None = None) -> tuple[Inputs, References]:
    embedding = vectors(N) if embedding is None else embedding
    data, _, refs = inputs_of(QUERIES, embedding, np.arange(N) % 5, 0)
    return data, refs


def test_blocks_have_their_shares() -> None:
    data, refs = prepared()
    matrix = Design.of(data, refs.all).matrix
    assert data.n_dense == DENSE
    np.testing.assert_allclose(
        matrix[:, :DIMENSION], data.embedding * np.sqrt(EMBEDDING_SHARE), atol=1e-7
    )
    scaled = StandardScaler().fit_transform(data.x[:, DIMENSION:DENSE])
    np.testing.assert_allclose(
        matrix[:, DIMENSION:DENSE], scaled * np.sqrt(FEATURES_SHARE / N_FEATURES), atol=1e-9
    )
    np.testing.assert_array_equal(matrix[:, GRAMS], data.x[:, GRAMS])
    # A query that is like the others in nothing but words explains as much as its words may.
    assert np.linalg.norm(matrix[:, GRAMS], axis=1) == pytest.approx(np.ones(N))


def test_inner_products_of_the_kernels_columns_are_the_kernel() -> None:
    """Exactly so among references; each of the queries here is one."""
    data, refs = prepared()
    assert len(refs.all) == N
    columns = Design.of(data, refs.all).matrix[:, DENSE + N_GRAMS :]
    embedding = data.embedding.astype(float)
    kernel = KERNEL_SHARE * np.exp(4.0 * (embedding @ embedding.T - 1.0))
    np.testing.assert_allclose(columns @ columns.T, kernel, atol=1e-4)


@pytest.mark.parametrize("n_scores", [0, 1, 2])
def test_weights_on_the_matrix_are_the_same_as_the_unfolded_ones_on_inputs(n_scores: int) -> None:
    data, refs = prepared()
    rng = np.random.default_rng(1)
    prior = rng.normal(size=(DENSE + N_GRAMS, n_scores)) if n_scores else None
    design = Design.of(data, refs.all, prior)
    weight, bias = rng.normal(size=(design.matrix.shape[1], 3)), rng.normal(size=3)
    raw, raw_bias = design.unfold(weight, bias)
    assert raw.shape == (data.x.shape[1], 3) and raw_bias.shape == (3,)
    np.testing.assert_allclose(
        data.x @ raw + raw_bias, design.matrix @ weight + bias, rtol=0, atol=1e-6
    )


def test_the_prior_is_a_column_of_unit_variance_for_each_of_its_scores() -> None:
    data, refs = prepared()
    prior = np.random.default_rng(1).normal(size=(DENSE + N_GRAMS, 2))
    plain, more = Design.of(data, refs.all), Design.of(data, refs.all, prior)
    np.testing.assert_array_equal(more.matrix[:, :-2], plain.matrix)
    scores = StandardScaler().fit_transform(data.x[:, : len(prior)] @ prior)
    np.testing.assert_allclose(more.matrix[:, -2:], scores * np.sqrt(0.5), atol=1e-9)


def test_the_posterior_over_tasks_stands_before_the_prior_and_counts_as_it_is() -> None:
    data, refs = prepared()
    posterior = np.random.default_rng(3).dirichlet(np.ones(4), N)
    told = replace(data, x=np.hstack((data.x, posterior)), n_tasks=4)
    prior = np.random.default_rng(1).normal(size=(DENSE + N_GRAMS, 2))
    plain, design = Design.of(data, refs.all, prior), Design.of(told, refs.all, prior)
    expected = np.hstack((plain.matrix[:, :-2], posterior, plain.matrix[:, -2:]))
    np.testing.assert_allclose(design.matrix, expected, atol=1e-12)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(design.matrix.shape[1], 3)), rng.normal(size=3)
    raw, raw_bias = design.unfold(weight, bias)
    np.testing.assert_allclose(
        told.x @ raw + raw_bias, design.matrix @ weight + bias, rtol=0, atol=1e-6
    )


def test_inputs_without_word_grams() -> None:
    rng = np.random.default_rng(0)
    x = np.hstack([vectors(N).astype(float), rng.normal(5, 2, (N, 3))])
    data = Inputs(vectors(N), x, np.arange(N) % 5, 0)
    design = Design.of(data, References.of(data).all)
    assert design.matrix.shape == (N, DIMENSION + 3)
    weight, bias = rng.normal(size=(DIMENSION + 3, 2)), rng.normal(size=2)
    raw, raw_bias = design.unfold(weight, bias)
    np.testing.assert_allclose(x @ raw + raw_bias, design.matrix @ weight + bias, atol=1e-9)


@pytest.mark.parametrize("case", ["copies", "unreadable"])
def test_references_that_say_nothing_new_are_left_out(case: str) -> None:
    """Copies of one text, or no readable text at all: no direction is blown up by its noise."""
    embedding = vectors(N)
    if case == "copies":
        embedding[10:] = embedding[0]
    else:
        embedding[:] = 0.0
    data, refs = prepared(embedding)
    design = Design.of(data, refs.all)
    n_kernel = design.matrix.shape[1] - DENSE - N_GRAMS
    assert n_kernel == (10 if case == "copies" else 1)
    assert np.isfinite(design.matrix).all()
    assert np.abs(design.matrix[:, DENSE + N_GRAMS :]).max() <= np.sqrt(KERNEL_SHARE) * 1.01
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(design.matrix.shape[1], 2)), rng.normal(size=2)
    raw, raw_bias = design.unfold(weight, bias)
    np.testing.assert_allclose(
        data.x @ raw + raw_bias, design.matrix @ weight + bias, rtol=0, atol=1e-5
    )
