"""P(tier succeeds | others were rejected): closed forms, independent references, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from router.errors import ArtifactError
from router.escalation import ARRAY, MAX_LOADING, Escalation, Verifier
from router.plans import best_plan
from router.routing import Router
from tests.artifacts import resave
from training.escalation import after_failures

FloatArray = npt.NDArray[np.float64]


def escalation(*loading: float) -> Escalation:
    return Escalation(np.array(loading, dtype=float))


def mask_row(failed: int, n_tiers: int) -> FloatArray:
    return np.array([[float(failed >> t & 1) for t in range(n_tiers)]])


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5))
def test_without_loadings_a_failure_says_nothing(p: list[float]) -> None:
    chance = Escalation(np.zeros(len(p))).given(p)
    for failed in range(1 << len(p)):
        assert [chance(t, failed) for t in range(len(p))] == pytest.approx(p, abs=1e-12)


def test_even_chances_are_the_arcsine_law() -> None:
    """All of k even chances fail together with 1/4 + a/2 pi and 1/8 + sum a/4 pi (a = arcsin r)."""
    loading = (0.9, 0.5, 0.7)
    chance = escalation(*loading).given([0.5] * 3)
    a = {(i, j): math.asin(loading[i] * loading[j]) for i in range(3) for j in range(i)}
    two = 0.25 + a[1, 0] / (2 * math.pi)
    three = 0.125 + sum(a.values()) / (4 * math.pi)
    assert chance(1, 0b001) == pytest.approx(1 - two / 0.5, abs=1e-6)
    assert chance(2, 0b011) == pytest.approx(1 - three / two, abs=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(0.05, 0.95), st.floats(-0.95, 0.95)), min_size=2, max_size=4
    ).filter(lambda tiers: all(abs(loading) > 0.01 for _, loading in tiers))
)
def test_it_is_the_normal_distribution_of_all_tiers(tiers: list[tuple[float, float]]) -> None:
    p, loading = np.array(tiers).T
    correlation = np.outer(loading, loading)
    np.fill_diagonal(correlation, 1.0)

    def all_fail(which: list[int]) -> float:
        law = multivariate_normal(np.zeros(len(which)), correlation[np.ix_(which, which)])
        return float(law.cdf(norm.ppf(1 - p[which]), rng=0))

    failed = list(range(len(p) - 1))
    expected = 1 - all_fail([*failed, len(p) - 1]) / all_fail(failed)
    chance = Escalation(loading).given(p.tolist())
    assert chance(len(p) - 1, (1 << len(failed)) - 1) == pytest.approx(expected, abs=2e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_serving_is_training(seed: int, n_tiers: int) -> None:
    rng = np.random.default_rng(seed)
    p, loading = rng.random(n_tiers), rng.uniform(-MAX_LOADING, MAX_LOADING, n_tiers)
    chance = Escalation(loading).given(p.tolist())
    for failed in range(1, 1 << n_tiers):
        expected = after_failures(p[None], loading, mask_row(failed, n_tiers))[0]
        for tier in range(n_tiers):
            if not failed >> tier & 1:
                assert chance(tier, failed) == pytest.approx(expected[tier], abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(-0.95, 0.95)), min_size=2, max_size=4),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_a_rejection_is_a_failure_or_a_false_alarm(
    tiers: list[tuple[float, float]], miss: float, alarm: float
) -> None:
    """By Bayes over which of the rejected tiers failed, from a perfect verifier's chances."""
    assume(miss < 0.99 or alarm > 0.01)
    p, loading = (list(column) for column in zip(*tiers, strict=True))
    one = Escalation(np.array(loading))
    last, n_rejected = len(p) - 1, len(p) - 1
    g = norm.ppf((np.arange(4000) + 0.5) / 4000)
    r = np.array(loading)[:, None]
    good = norm.cdf((norm.ppf(p)[:, None] + r * g) / np.sqrt(1 - r**2))
    reject = (1 - good) * (1 - miss) + good * alarm
    weight = reject[:n_rejected].prod(axis=0)
    assume(weight.sum() > 1e-6)
    expected = (weight * good[last]).sum() / weight.sum()
    chance = one.given(p, None, Verifier(miss, alarm))(last, (1 << n_rejected) - 1)
    assert chance == pytest.approx(expected, abs=3e-3)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5), st.floats(0.0, 0.99))
def test_verdicts_that_say_nothing_change_nothing(p: list[float], miss: float) -> None:
    useless = Verifier(miss, 1.0 - miss)
    assert useless.says_nothing
    chance = Escalation(np.full(len(p), 0.8)).given(p, None, useless)
    for rejected in range(1 << len(p)):
        assert [chance(t, rejected) for t in range(len(p))] == pytest.approx(p, abs=1e-5)
        assert useless.good_if_rejected(p[0]) == pytest.approx(p[0])


def test_a_verifier_by_its_two_rates() -> None:
    verifier = Verifier(0.2, 0.1)
    assert verifier.rejects(0.5) == pytest.approx(0.5 * 0.8 + 0.5 * 0.1)
    assert verifier.good_if_rejected(0.5) == pytest.approx(0.05 / 0.45)
    assert (Verifier().rejects(0.3), Verifier().good_if_rejected(0.3)) == (0.7, 0.0)
    assert Verifier(1.0, 0.0).good_if_rejected(0.3) == 0.0
    assert not verifier.says_nothing and Verifier(0.9, 0.1).says_nothing


@given(st.integers(0, 2**32 - 1))
def test_some_tiers_alone_count_as_the_caller_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, every = rng.random(4).tolist(), Escalation(rng.uniform(-0.9, 0.9, 4))
    whole = every.given(p)
    tiers = rng.permutation(4)[:3].tolist()
    part = every.given([p[t] for t in tiers], tiers)
    for failed in range(8):
        mask = sum(1 << tiers[i] for i in range(3) if failed >> i & 1)
        for i in range(3):
            if not failed >> i & 1:
                assert part(i, failed) == pytest.approx(whole(tiers[i], mask), abs=1e-12)


def test_the_first_try_is_what_was_calibrated() -> None:
    p = [0.123456789, 0.0, 1.0]
    chance = escalation(0.9, 0.9, 0.9).given(p)
    assert [chance(t, 0) for t in range(3)] == p


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_certainties_stay_chances(sign: float) -> None:
    loading = np.array([MAX_LOADING, sign * MAX_LOADING, 0.0, MAX_LOADING] * 3)
    chance = Escalation(loading).given([0.0, 1.0, 1.0, 1.0] * 3)
    for failed in (0b1, 0b10, 0b1010, 0b111111, 0b1111_1111_1111 - 1):
        for tier in range(12):
            assert 0.0 <= chance(tier, failed) <= 1.0


def test_after_a_failure_of_a_tier_like_it_nothing_else_is_worth_trying() -> None:
    p, cost, value = [0.6, 0.6, 0.6], [0.01, 0.02, 0.03], 0.1
    alike = escalation(*[MAX_LOADING] * 3).given(p)
    assert alike(2, 0b001) < 0.08
    assert alike(2, 0b011) < alike(2, 0b001)
    assert best_plan(p, cost, value).order == [0, 1, 2]
    assert best_plan(p, cost, value, alike).order == [0]


def test_a_dear_tier_is_worth_it_where_it_fails_on_its_own() -> None:
    # Both others depend on g: after one failure only the third is still what it was.
    chance = escalation(0.95, 0.95, 0.0).given([0.6, 0.6, 0.6])
    assert best_plan([0.6] * 3, [0.01, 0.02, 0.03], 0.1, chance).order == [0, 2]


def test_round_trip() -> None:
    one = escalation(0.5, -0.25, 0.0)
    again = Escalation.from_arrays(one.to_arrays(), 3)
    assert again is not None
    np.testing.assert_array_equal(again.loading, one.loading)
    assert Escalation.from_arrays({}, 3) is None


@pytest.mark.parametrize(
    "loading",
    [
        np.zeros(4),
        np.zeros((3, 1)),
        np.zeros(3, np.float32),
        np.array([0.0, np.nan, 0.0]),
        np.array([0.0, np.inf, 0.0]),
        np.array([0.0, 0.0, 1.0]),
        np.array(0.5),
    ],
    ids=str,
)
def test_other_loadings_are_refused_on_loading(
    small_artifact: Path, tmp_path: Path, loading: npt.NDArray[Any]
) -> None:
    with pytest.raises(ArtifactError, match="expected the array escalation"):
        Escalation.from_arrays({ARRAY: loading}, 3)
    folder = resave(small_artifact, tmp_path / "changed", arrays={ARRAY: loading})
    with pytest.raises(ArtifactError, match="expected the array escalation"):
        Router.load(folder)
