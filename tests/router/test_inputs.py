"""What estimators see of a query: the order of its parts, the ranges they are held in, arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ArtifactError
from router.inputs import KERNEL_WIDTH, InputMap
from router.query_features import FEATURE_NAMES, N_FEATURES, query_features, query_features_many
from router.routing import Router
from router.word_grams import N_GRAMS, WordGrams
from tests.artifacts import HARD_QUERIES, sample_table, tiny_embedder, train_tiny

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

D, M = 8, 5
DENSE = D + N_FEATURES
TEXTS = [
    "What is 12 + 7?",
    "Translate the LETTER into Spanish, please: dear sir",
    "def f(x):\n    return {x}\nwhy?",
    "Summarise in one line",
]
OLD = InputMap.from_arrays({})
MADE = InputMap.of(TEXTS)


def unit(n: int, seed: int = 0) -> Float32Array:
    rows = np.random.default_rng(seed).normal(size=(n, D))
    result: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return result


def features_of(made: InputMap, query: str) -> FloatArray:
    """The query features as they enter."""
    return made.narrow(query, unit(1)[0], unit(M) @ unit(1)[0])[D:DENSE]


def test_parts_stand_in_their_order() -> None:
    embeddings = unit(len(TEXTS))
    similarity = embeddings @ unit(M, seed=1).T
    x = MADE.many(TEXTS, embeddings, similarity)
    assert x.shape == (len(TEXTS), MADE.sizes(D, M)["D"]) == (4, DENSE + N_GRAMS + M)
    assert x.dtype == np.float64
    assert MADE.sizes(D, M)["d+k"] == DENSE
    np.testing.assert_array_equal(x[:, :D], embeddings)
    # Of the queries it was made of, features are as they are.
    np.testing.assert_array_equal(x[:, D:DENSE], query_features_many(TEXTS))
    np.testing.assert_array_equal(x[:, DENSE : DENSE + N_GRAMS], WordGrams.of(TEXTS).vectors(TEXTS))
    kernel = np.exp(KERNEL_WIDTH * (similarity - 1.0))
    np.testing.assert_allclose(x[:, DENSE + N_GRAMS :], kernel, rtol=1e-6)


def test_the_kernel_is_one_at_a_reference_and_fades() -> None:
    references = unit(M)
    x = MADE.narrow("hello", references[2], references @ references[2])
    kernel = x[-M:]
    assert kernel[2] == pytest.approx(1.0, abs=1e-5)
    assert (np.delete(kernel, 2) < 1).all() and (kernel > 0).all()
    nothing = MADE.narrow("", np.zeros(D, np.float32), np.zeros(M, np.float32))
    assert nothing[-M:] == pytest.approx(np.full(M, np.exp(-KERNEL_WIDTH)))
    assert np.isfinite(nothing).all()


@pytest.mark.parametrize("made", [OLD, MADE])
def test_one_query_is_read_as_it_is_among_many(made: InputMap) -> None:
    queries = [*TEXTS, *HARD_QUERIES]
    embeddings = unit(len(queries))
    references = unit(M, seed=1)
    similarity = embeddings @ references.T
    together = made.narrow_many(queries, embeddings, similarity)
    assert np.isfinite(together).all()
    for i, query in enumerate(queries):
        alone = made.narrow(query, embeddings[i], similarity[i])
        assert alone.shape == together[i].shape and alone.dtype == np.float64
        np.testing.assert_allclose(alone, together[i], rtol=1e-6, atol=0)
        np.testing.assert_array_equal(alone[:DENSE], together[i, :DENSE])


@pytest.mark.parametrize("made", [OLD, MADE])
def test_the_narrow_inputs_are_all_but_the_word_grams(made: InputMap) -> None:
    embeddings = unit(len(TEXTS))
    similarity = embeddings @ unit(M, seed=1).T
    x = made.many(TEXTS, embeddings, similarity)
    beside = np.ones(x.shape[1], bool)
    beside[DENSE : DENSE + N_GRAMS] = False
    np.testing.assert_array_equal(made.narrow_many(TEXTS, embeddings, similarity), x[:, beside])


def test_no_queries() -> None:
    nothing, none = np.empty((0, D), np.float32), np.empty((0, M), np.float32)
    assert MADE.many([], nothing, none).shape == (0, DENSE + N_GRAMS + M)
    assert OLD.many([], nothing, none).shape == (0, DENSE)


# ---------------------------------------------------------------- ranges


@given(st.text(max_size=200))
def test_features_stay_within_the_range_of_the_queries_learned_from(query: str) -> None:
    seen = query_features_many(TEXTS).astype(float)
    found = features_of(MADE, query)
    assert (found >= seen.min(axis=0)).all() and (found <= seen.max(axis=0)).all()
    expected = np.clip(query_features(query), seen.min(axis=0), seen.max(axis=0))
    np.testing.assert_array_equal(found, expected)


def test_a_mark_that_was_never_seen_is_not_extrapolated() -> None:
    rare = FEATURE_NAMES.index("non_latin_share"), FEATURE_NAMES.index("non_ascii_share")
    query = "Solve for θ: sin(θ)=½"
    assert (query_features(query)[list(rare)] > 0).all()
    assert (features_of(MADE, query)[list(rare)] == 0).all()
    assert (features_of(OLD, query) == query_features(query)).all()


def test_a_longer_query_counts_as_the_longest_seen() -> None:
    length = FEATURE_NAMES.index("log_characters")
    longest = float(query_features_many(TEXTS)[:, length].max())
    assert features_of(MADE, "word " * 5000)[length] == longest


GREEK = "Solve for θ: sin(θ)=½"
PLAIN = GREEK.replace("θ", "").replace("½", "")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder") / "e"
    return tiny_embedder(folder, list(sample_table(600).query))


@pytest.mark.parametrize("estimator", ["ridge", "logistic", "mlp", "blend"])
def test_letters_that_were_never_seen_do_not_decide_the_probability(
    estimator: str, embedder: Path, tmp_path: Path
) -> None:
    table = sample_table(600)
    assert not query_features_many(list(table.query))[:, -1].any()
    router = Router.load(train_tiny(table, tmp_path, embedder, estimator=estimator).folder)
    p = router.predict([GREEK, PLAIN]).p_success
    assert p[0] == pytest.approx(p[1], abs=0.1)
    decision = router.route(GREEK)
    assert list(decision.p_success.values()) == pytest.approx(p[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("estimator", ["ridge", "logistic"])
def test_letters_that_were_hardly_ever_seen_are_not_extrapolated_to_certainty(
    estimator: str, embedder: Path, tmp_path: Path
) -> None:
    """Of 600 queries six have one such letter, among a hundred others, and nothing solved them."""
    table = sample_table(600)
    queries, success = table.query.copy(), table.success.copy()
    for i in range(0, 600, 100):
        queries[i] = f"{queries[i]} α"
        success[i] = 0.0
    table = replace(table, query=queries, success=success)
    router = Router.load(train_tiny(table, tmp_path, embedder, estimator=estimator).folder)
    made = router.predictor
    most, share = made.input_map.high[-1], query_features(GREEK)[-1]
    assert 0 < most < 0.3 * share

    def asked(input_map: InputMap) -> FloatArray:
        return replace(made, input_map=input_map).predict([GREEK, PLAIN]).p_success

    held = asked(made.input_map)
    unheld = asked(replace(made.input_map, high=np.full(N_FEATURES, np.inf)))
    # The plain text is within the ranges. Of the other, failure would be certain.
    assert held[1] == pytest.approx(unheld[1])
    assert unheld[0].min() < 1e-4
    # Held, it is judged about as the queries that have such a letter.
    alike = router.predict(list(queries[::100])).p_success
    assert (held[0] > 0.5 * alike.min(axis=0)).all()


# ---------------------------------------------------------------- arrays and back


def test_it_survives_its_arrays() -> None:
    arrays = MADE.to_arrays()
    assert sorted(arrays) == [
        *("inputs.gram_weight", "inputs.high", "inputs.kernel_width", "inputs.low"),
    ]
    again = InputMap.from_arrays({**arrays, "references": unit(M), "usd.bias": np.ones(3)})
    embeddings = unit(len(TEXTS))
    similarity = embeddings @ unit(M, seed=1).T
    asked = [f"{text} α 1999 other" for text in TEXTS]
    before, after = (made.many(asked, embeddings, similarity) for made in (MADE, again))
    np.testing.assert_array_equal(after, before)
    assert again.kernel_width == MADE.kernel_width


def test_gram_weights_may_be_given() -> None:
    weight = np.random.default_rng(0).uniform(1, 3, N_GRAMS)
    made = InputMap.of(TEXTS, weight)
    assert made.grams is not None
    np.testing.assert_array_equal(made.grams.weight, weight)
    np.testing.assert_array_equal(made.high, MADE.high)


def test_an_artifact_of_format_1_has_embedding_and_unbounded_features_alone() -> None:
    made = InputMap.from_arrays({"references": unit(M), "success.logistic.bias": np.ones(3)})
    assert made.grams is None
    assert made.sizes(D, M) == {"d+k": DENSE, "D": DENSE}
    embeddings = unit(len(HARD_QUERIES))
    x = made.many(HARD_QUERIES, embeddings, embeddings @ unit(M).T)
    expected = np.hstack((embeddings, query_features_many(HARD_QUERIES)))
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("name", ["low", "high", "gram_weight", "kernel_width"])
def test_a_part_of_the_arrays_is_not_enough(name: str) -> None:
    arrays = MADE.to_arrays()
    del arrays[f"inputs.{name}"]
    with pytest.raises(ArtifactError, match=rf"^expected the array inputs\.{name} .*train it"):
        InputMap.from_arrays(arrays)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("low", np.zeros(N_FEATURES, np.float32)),
        ("low", np.zeros(N_FEATURES, np.int64)),
        ("low", np.zeros((1, N_FEATURES))),
        ("low", np.full(N_FEATURES, np.nan)),
        ("low", np.full(N_FEATURES, -np.inf)),
        ("high", np.zeros(N_FEATURES - 1)),
        ("high", np.full(N_FEATURES, 1e6)),
        ("high", np.full(N_FEATURES, -1.0)),
        ("gram_weight", np.ones(N_GRAMS, np.float32)),
        ("gram_weight", np.ones(N_GRAMS + 1)),
        ("gram_weight", np.full(N_GRAMS, np.nan)),
        ("gram_weight", np.full(N_GRAMS, np.inf)),
        ("kernel_width", np.array([4.0])),
        ("kernel_width", np.array(4)),
        ("kernel_width", np.array(np.nan)),
        ("kernel_width", np.array(0.0)),
        ("kernel_width", np.array(-1.0)),
        ("kernel_width", np.array(1e5)),
    ],
)
def test_arrays_that_would_fail_or_mislead_are_refused(name: str, array: Any) -> None:
    # Where the ranges cross it is the upper end that is named.
    with pytest.raises(ArtifactError, match=rf"^expected the array inputs\.{name} .*train it"):
        InputMap.from_arrays({**MADE.to_arrays(), f"inputs.{name}": array})
