"""Compiled estimators against their formulas, against scikit-learn, and at their extremes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.neighbors import KNeighborsRegressor

from router.errors import ArtifactError
from router.estimators import (
    LinearScore,
    Member,
    MlpScore,
    NeighbourScore,
    RidgeScore,
    SuccessEstimator,
    sigmoid,
)

FloatArray = npt.NDArray[np.float64]

N, D, T, M, H = 40, 6, 3, 30, 8
# Two kinds of estimator read the first DENSE inputs alone.
DENSE = 4
SIZES = {"d+k": DENSE, "D": D, "T": T, "m": M, "2T+1": 2 * T + 1}
ALL_KINDS = (0, 1, 2, 3)


def unit_rows(rng: np.random.Generator, n: int, d: int) -> FloatArray:
    rows = rng.standard_normal((n, d))
    result: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def one_outcome_each(success: FloatArray) -> FloatArray:
    """Counts of references that stand for one query each, every tier known."""
    return np.hstack((success, np.ones_like(success), np.ones((len(success), 1))))


def nearest(
    counts: FloatArray, k: int, shrinkage: float, prior: FloatArray | None = None
) -> NeighbourScore:
    n_tiers = (counts.shape[1] - 1) // 2
    return NeighbourScore(
        counts,
        np.full(n_tiers, 0.5) if prior is None else prior,
        np.ones(n_tiers),
        np.zeros(n_tiers),
        np.array(k),
        np.array(shrinkage),
    )


def members(seed: int = 0) -> tuple[LinearScore, MlpScore, NeighbourScore, RidgeScore]:
    rng = np.random.default_rng(seed)
    success = (rng.random((M, T)) < 0.6).astype(float)
    return (
        LinearScore(rng.normal(size=(DENSE, T)), rng.normal(size=T)),
        MlpScore(
            rng.normal(size=(DENSE, H)), rng.normal(size=H), rng.normal(size=(H, T)), np.zeros(T)
        ),
        replace(
            nearest(one_outcome_each(success), 7, 2.0, np.array([0.3, 0.5, 0.9])),
            slope=rng.uniform(0.5, 2, T),
            intercept=rng.normal(size=T),
        ),
        RidgeScore(rng.normal(size=(D, T)), rng.normal(size=T)),
    )


def asked(seed: int = 1) -> tuple[FloatArray, npt.NDArray[np.float32]]:
    """Inputs (n, D) and similarities (n, m)."""
    rng = np.random.default_rng(seed)
    similarity = unit_rows(rng, N, 5) @ unit_rows(rng, M, 5).T
    return rng.normal(size=(N, D)), similarity.astype(np.float32)


# ---------------------------------------------------------------- scores


def test_sigmoid_is_that_of_scipy_and_never_overflows() -> None:
    x = np.r_[np.linspace(-40, 40, 801), [-1e308, 1e308, -math.inf, math.inf]]
    assert sigmoid(x) == pytest.approx(expit(x), abs=1e-15)


@pytest.mark.parametrize(("kind", "n_read"), [(0, DENSE), (3, D)])
def test_a_linear_score_is_a_logit(kind: int, n_read: int) -> None:
    member, (x, similarity) = members()[kind], asked()
    assert isinstance(member, LinearScore)
    by_hand = [
        [float(x[i, :n_read] @ member.weight[:, t] + member.bias[t]) for t in range(T)]
        for i in (0, 7)
    ]
    assert member.score(x, similarity)[[0, 7]] == pytest.approx(np.array(by_hand))


def test_an_mlp_score_has_one_hidden_layer_of_rectified_units() -> None:
    member, (x, similarity) = members()[1], asked()
    for row, tier in ((0, 0), (7, 2)):
        total = member.b2[tier]
        for unit in range(H):
            hidden = x[row, :DENSE] @ member.w1[:, unit] + member.b1[unit]
            total += max(0.0, hidden) * member.w2[unit, tier]
        assert member.score(x, similarity)[row, tier] == pytest.approx(total)


@pytest.mark.parametrize("kind", [0, 1])
def test_an_estimator_of_the_dense_inputs_knows_nothing_of_the_others(kind: int) -> None:
    member, (x, similarity) = members()[kind], asked()
    other = x.copy()
    other[:, DENSE:] = 1e6
    assert (member.score(other, similarity) == member.score(x, similarity)).all()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_scaling_a_member_scales_its_logits(kind: int) -> None:
    member, (x, similarity) = members()[kind], asked()
    slope, intercept = np.array([2.0, 0.0, -1.5]), np.array([0.1, -3.0, 0.0])
    scaled = member.scaled(slope, intercept).scaled(np.full(T, 0.5), np.full(T, 0.25))
    expected = 0.5 * (slope * member.score(x, similarity) + intercept) + 0.25
    assert scaled.score(x, similarity) == pytest.approx(expected, abs=1e-12)
    assert type(scaled) is type(member)


def test_the_success_estimator_is_the_sigmoid_of_the_sum_of_logits() -> None:
    parts, (x, similarity) = members(), asked()
    estimator = SuccessEstimator(parts)
    logits = sum(part.score(x, similarity) for part in parts)
    expected = expit(logits)
    # twice: nothing that belongs to a member is written over
    for _ in range(2):
        assert estimator.predict(x, similarity) == pytest.approx(expected, abs=1e-15)


def test_row_by_row_is_the_same_as_together() -> None:
    estimator, (x, similarity) = SuccessEstimator(members()), asked()
    together = estimator.predict(x, similarity)
    for row in range(N):
        alone = estimator.predict(x[row : row + 1], similarity[row : row + 1])
        assert alone[0] == pytest.approx(together[row], abs=1e-12)


def test_one_request_without_a_first_dimension_is_that_request() -> None:
    estimator, (x, similarity) = SuccessEstimator(members()), asked()
    for row in (0, 7):
        etas = [x[row, : len(weight)] @ weight + bias for weight, bias in estimator.linear]
        p = estimator.from_eta(etas, similarity[row])
        assert p == pytest.approx(estimator.predict(x, similarity)[row], abs=1e-12)


def test_no_rows_give_no_predictions() -> None:
    estimator = SuccessEstimator(members())
    assert estimator.predict(np.empty((0, D)), np.empty((0, M), np.float32)).shape == (0, T)


def test_extreme_inputs_give_probabilities() -> None:
    estimator, (x, similarity) = SuccessEstimator(members()), asked()
    for scale in (1e6, -1e6, 1e200):
        p = estimator.predict(x * scale, similarity)
        assert ((p >= 0) & (p <= 1)).all()


# ---------------------------------------------------------------- nearest neighbours


@pytest.mark.parametrize(
    ("m", "d", "k"), [(500, 256, 40), (60, 8, 5), (500, 3, 7), (200, 16, 1), (41, 8, 40)]
)
def test_without_shrinkage_it_is_weighted_nearest_neighbours_of_scikit_learn(
    m: int, d: int, k: int
) -> None:
    rng = np.random.default_rng(m + d + k)
    references, queries = unit_rows(rng, m, d), unit_rows(rng, 100, d)
    success = rng.random((m, T))
    model = KNeighborsRegressor(
        n_neighbors=k + 1,
        weights=lambda distance: 1 - distance**2 / distance[:, -1:] ** 2,
        algorithm="brute",
    ).fit(references, success)
    member = nearest(one_outcome_each(success), k, 0.0)
    found = member.probability(queries @ references.T)  # type: ignore[arg-type]
    assert found == pytest.approx(model.predict(queries), abs=1e-9)
    # In the precision of embeddings; unit length then holds to seven digits only.
    single = queries.astype(np.float32) @ references.astype(np.float32).T
    assert member.probability(single) == pytest.approx(found, abs=1e-6 if d > 3 else 1e-5)


def by_definition(member: NeighbourScore, similarity: FloatArray) -> FloatArray:
    """The class docstring's formula, one query and one tier at a time."""
    k, n_tiers = int(member.n_neighbours), len(member.prior)
    p = np.empty((len(similarity), n_tiers))
    for row, s in enumerate(similarity):
        order = np.argsort(-s, kind="stable")
        distance = 2.0 - 2.0 * s[order[: k + 1]]
        weight = 1.0 - distance[:k] / distance[k]
        for tier in range(n_tiers):
            succeeded = member.counts[order[:k], tier]
            seen = member.counts[order[:k], n_tiers + tier]
            a = (weight * succeeded).sum() / weight.sum()
            b = (weight * seen).sum() / weight.sum()
            shrinkage = float(member.shrinkage)
            p[row, tier] = (k * a + shrinkage * member.prior[tier]) / (k * b + shrinkage)
    return p


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.floats(0.01, 100.0))
def test_it_is_the_shrunk_mean_of_its_docstring(seed: int, k: int, shrinkage: float) -> None:
    """With references that stand for several queries, some not sent to every tier."""
    rng = np.random.default_rng(seed)
    seen = rng.integers(0, 6, (M, T)).astype(float)
    succeeded = rng.binomial(seen.astype(int), 0.7).astype(float)
    counts = np.hstack((succeeded, seen, np.ones((M, 1))))
    member = nearest(counts, k, shrinkage, rng.uniform(0.1, 0.9, T))
    similarity = unit_rows(rng, 10, 8) @ unit_rows(rng, M, 8).T
    found = member.probability(similarity)  # type: ignore[arg-type]
    assert found == pytest.approx(by_definition(member, similarity), abs=1e-9)
    assert ((found > 0) & (found < 1)).all()


def test_shrinkage_goes_from_the_neighbours_to_the_prior() -> None:
    rng = np.random.default_rng(0)
    counts = one_outcome_each((rng.random((M, T)) < 0.5).astype(float))
    prior = np.array([0.2, 0.5, 0.8])
    similarity = asked()[1]
    raw = nearest(counts, 5, 0.0, prior).probability(similarity)
    none = nearest(counts, 5, 1e-9, prior).probability(similarity)
    equal = nearest(counts, 5, 5.0, prior).probability(similarity)
    all_ = nearest(counts, 5, 1e12, prior).probability(similarity)
    assert none == pytest.approx(raw, abs=1e-8)
    assert equal == pytest.approx((raw + prior) / 2)  # as many pseudo-queries as neighbours
    assert all_ == pytest.approx(np.tile(prior, (N, 1)), abs=1e-8)


def test_a_tier_nobody_asked_is_predicted_by_its_prior() -> None:
    counts = np.hstack((np.zeros((M, T)), np.zeros((M, T)), np.ones((M, 1))))
    prior = np.array([0.2, 0.5, 0.8])
    found = nearest(counts, 5, 10.0, prior).probability(asked()[1])
    assert found == pytest.approx(np.tile(prior, (N, 1)))


def test_one_reference() -> None:
    member = nearest(one_outcome_each(np.array([[1.0, 0.0]])), 1, 1.0)
    for similarity in (-1.0, 0.0, 0.3, 1.0):
        found = member.probability(np.full((2, 1), similarity, np.float32))
        assert found == pytest.approx(np.array([[0.75, 0.25]] * 2))


@pytest.mark.parametrize("m", [2, 5, 6])
def test_no_more_references_than_neighbours(m: int) -> None:
    """The farthest is the edge, whose weight is nothing."""
    rng = np.random.default_rng(m)
    success = (rng.random((m, T)) < 0.5).astype(float)
    similarity = rng.uniform(-1, 1, (7, m))
    found = nearest(one_outcome_each(success), 8, 0.0).probability(similarity)  # type: ignore[arg-type]
    weight = similarity - similarity.min(axis=1, keepdims=True)
    assert found == pytest.approx(weight @ success / weight.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("similarity", [0.0, 1.0, -1.0, 0.25])
def test_references_that_are_all_equally_far_count_alike(similarity: float) -> None:
    """As for a query in which nothing can be read: its similarities are all 0."""
    rng = np.random.default_rng(0)
    success = (rng.random((M, T)) < 0.5).astype(float)
    member = nearest(one_outcome_each(success), 5, 0.0)
    found = member.probability(np.full((3, M), similarity, np.float32))
    assert found == pytest.approx(np.tile(success.mean(axis=0), (3, 1)))
    mixed = np.vstack([np.full(M, similarity, np.float32), asked()[1][0]])
    assert member.probability(mixed)[0] == pytest.approx(success.mean(axis=0))
    assert member.probability(mixed)[1] == pytest.approx(member.probability(mixed[1:])[0])


@pytest.mark.parametrize("n_others", [1, 40, 449])
def test_copies_of_one_text_count_alike_however_many_queries_are_asked(n_others: int) -> None:
    """Rounding differs between one query and many; it must not pick one of the copies."""
    rng = np.random.default_rng(n_others)
    references = unit_rows(rng, 60 + n_others, 256).astype(np.float32)
    references[:60] = references[0]
    references = references[rng.permutation(len(references))]
    query = references[(references == references[:, None]).all(axis=2).sum(axis=1).argmax()]
    copies = (references == query).all(axis=1)
    assert copies.sum() == 60
    success = (rng.random((len(references), T)) < 0.6).astype(float)
    member = nearest(one_outcome_each(success), 40, 10.0)
    expected = (40 * success[copies].mean(axis=0) + 10 * 0.5) / 50
    alone = member.probability(references.dot(query)[None])
    among = member.probability(np.vstack([query] * 7) @ references.T)
    assert alone[0] == pytest.approx(expected)
    assert among == pytest.approx(np.tile(expected, (7, 1)))


@given(st.integers(0, 2**32 - 1))
def test_a_small_step_of_the_query_changes_little(seed: int) -> None:
    """Also where it swaps which reference is the last neighbour."""
    rng = np.random.default_rng(seed)
    member = nearest(one_outcome_each((rng.random((M, T)) < 0.5).astype(float)), 5, 1.0)
    references, query = unit_rows(rng, M, 3), unit_rows(rng, 1, 3)
    other = query + 1e-6 * unit_rows(rng, 1, 3)
    similarity, moved = query @ references.T, other @ references.T
    edge = np.sort(similarity[0])[-6:]
    if edge[-1] - edge[0] > 0.05:
        change = member.probability(moved) - member.probability(similarity)  # type: ignore[arg-type]
        assert np.abs(change).max() < 1e-3


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_references_is_of_no_effect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = one_outcome_each((rng.random((M, T)) < 0.5).astype(float))
    similarity = rng.uniform(-1, 1, (5, M)).astype(np.float32)
    order = rng.permutation(M)
    found = nearest(counts, 5, 2.0).probability(similarity)
    moved = nearest(counts[order], 5, 2.0).probability(similarity[:, order])
    assert moved == pytest.approx(found, abs=1e-9)


def test_logits_stay_finite_where_every_neighbour_agrees() -> None:
    for success in (np.ones((M, T)), np.zeros((M, T))):
        member = nearest(one_outcome_each(success), 5, 10.0)
        p = member.probability(asked()[1])
        assert np.isfinite(member.score(asked()[0], asked()[1])).all()
        assert p == pytest.approx((5 * success[:1] + 5) / 15 * np.ones((N, 1)))


# ---------------------------------------------------------------- arrays and back


@pytest.mark.parametrize("kinds", [(0,), (1,), (2,), (3,), ALL_KINDS, (3, 2), (2, 0)])
def test_a_success_estimator_survives_its_arrays(kinds: tuple[int, ...]) -> None:
    parts: tuple[Member, ...] = tuple(members()[kind] for kind in kinds)
    made = SuccessEstimator(parts)
    arrays = made.to_arrays()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    again = SuccessEstimator.from_arrays([part.kind for part in parts], arrays, SIZES)
    x, similarity = asked()
    assert (again.predict(x, similarity) == made.predict(x, similarity)).all()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_missing_or_misshapen_array_is_named(kind: int) -> None:
    member = members()[kind]
    arrays = SuccessEstimator((member,)).to_arrays()
    for name in arrays:
        without = {key: value for key, value in arrays.items() if key != name}
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            SuccessEstimator.from_arrays([member.kind], without, SIZES)
        longer = {**arrays, name: np.concatenate([np.atleast_1d(arrays[name])] * 2)}
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            SuccessEstimator.from_arrays([member.kind], longer, SIZES)


def test_estimators_of_the_future_and_none_at_all_are_refused() -> None:
    arrays = SuccessEstimator(members()).to_arrays()
    for kinds in (["logistic", "transformer"], [], ["knn", "knn"], ["ridge", "ridge"]):
        with pytest.raises(ArtifactError, match="expected"):
            SuccessEstimator.from_arrays(kinds, arrays, SIZES)
