"""Linear predictors against the dense inputs times the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.arrays import Linear
from router.inputs import InputMap, TaskPosterior
from router.linear_map import _ONE_THREAD, LinearMap, product
from tests.artifacts import HARD_QUERIES

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

D, M = 8, 5
TEXTS = ["What is 12 + 7?", "Translate the LETTER into Spanish", "def f(x):\n    return {x}", ""]
PLAIN = InputMap.of(TEXTS)
TASKS = TaskPosterior(
    np.random.default_rng(2).normal(size=(PLAIN.sizes(D, M)["D"], 6)) / 20, np.linspace(0, 0.2, 6)
)
INPUT_MAPS = {1: InputMap.from_arrays({}), 2: PLAIN, 3: replace(PLAIN, tasks=TASKS)}


def unit(n: int, seed: int = 0) -> Float32Array:
    rows = np.random.default_rng(seed).normal(size=(n, D))
    result: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return result


def parts(input_map: InputMap) -> list[Linear]:
    """Some that read all inputs, one that reads the dense ones alone, one that reads none."""
    rng, sizes = np.random.default_rng(0), input_map.sizes(D, M)
    shapes = [(sizes["D"], 3), (sizes["d+k"], 4), (0, 0), (sizes["D"], 2)]
    return [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in shapes]


def linear_map(input_map: InputMap, made_of: list[Linear]) -> LinearMap:
    sizes = input_map.sizes(D, M)
    return LinearMap.of(input_map, sizes["d+k"], sizes["D"], made_of)


def asked(texts: list[str]) -> tuple[Float32Array, Float32Array]:
    embeddings = unit(len(texts))
    return embeddings, embeddings @ unit(M, seed=1).T


@pytest.mark.parametrize("number", INPUT_MAPS)
def test_they_are_inputs_times_weights(number: int) -> None:
    input_map, texts = INPUT_MAPS[number], [*TEXTS, *HARD_QUERIES]
    made_of = parts(input_map)
    made, (embeddings, similarity) = linear_map(input_map, made_of), asked(texts)
    x = input_map.many(texts, embeddings, similarity)
    many = made.many(texts, embeddings, similarity)
    assert [eta.shape for eta in many] == [(len(texts), k) for k in (3, 4, 0, 2)]
    for eta, (weight, bias) in zip(many, made_of, strict=True):
        np.testing.assert_allclose(eta, x[:, : len(weight)] @ weight + bias, rtol=0, atol=1e-10)
    for i, text in enumerate(texts):
        one = made.one(text, embeddings[i], similarity[i])
        x = input_map.many([text], embeddings[i : i + 1], similarity[i : i + 1])
        for eta, (weight, bias) in zip(one, made_of, strict=True):
            assert eta.shape == bias.shape
            expected = x[0, : len(weight)] @ weight + bias
            np.testing.assert_allclose(eta, expected, rtol=0, atol=1e-10)


def test_what_is_not_fitted_is_nan_and_the_others_are_not_touched() -> None:
    input_map = INPUT_MAPS[2]
    whole = parts(input_map)
    weight, bias = (np.where(np.arange(3) == 1, np.nan, part) for part in whole[0])
    embeddings, similarity = asked(TEXTS)
    expected = linear_map(input_map, whole).many(TEXTS, embeddings, similarity)
    made = linear_map(input_map, [(weight, bias), *whole[1:]])
    found = made.many(TEXTS, embeddings, similarity)
    assert np.isnan(found[0][:, 1]).all()
    np.testing.assert_allclose(found[0][:, [0, 2]], expected[0][:, [0, 2]], atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-12)


@pytest.mark.parametrize("number", INPUT_MAPS)
def test_no_queries(number: int) -> None:
    input_map = INPUT_MAPS[number]
    found = linear_map(input_map, parts(input_map)).many([], *asked([]))
    assert [eta.shape for eta in found] == [(0, 3), (0, 4), (0, 0), (0, 2)]


@given(st.integers(0, 12), st.sampled_from([1, 7, 256]), st.sampled_from([0, 1, 256, 1025]))
def test_a_product_in_blocks_is_the_product(n: int, width: int, k: int) -> None:
    """Of more than one block, of a part of one, and where a row alone is more than a block."""
    rng = np.random.default_rng(n)
    rows, weight = rng.normal(size=(n, width)), rng.normal(size=(width, k))
    assert (_ONE_THREAD < 256 * 1025) and (_ONE_THREAD >= 4 * 256 * 256)
    np.testing.assert_allclose(product(rows, weight), rows @ weight, rtol=0, atol=1e-11)
    single = product(rows.astype(np.float32), weight.astype(np.float32))
    assert single.dtype == np.float32 and single.shape == (n, k)
    np.testing.assert_allclose(single, rows @ weight, rtol=0, atol=1e-3)
