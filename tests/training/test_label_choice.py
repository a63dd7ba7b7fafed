"""The value of information against closed forms and simulation; what is chosen, and what never."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from router.errors import InputError
from training.label_choice import (
    Believed,
    choose_by_value,
    information_value,
    kernel,
    random_order,
)

FloatArray = npt.NDArray[np.float64]


def simulated(p: FloatArray, cost: FloatArray, value: float, strength: float, n: int) -> float:
    """min_t E[c - value p~] - E[min_t (c - value p~)] of one query, by drawing."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(p, np.sqrt(p * (1 - p) / (strength + 1)), (n, len(p)))
    return float((cost - value * p).min() - (cost - value * drawn).min(axis=1).mean())


@pytest.mark.parametrize("strength", [1.0, 4.0, 64.0])
@pytest.mark.parametrize("value", [0.01, 0.1, 2.0])
def test_it_agrees_with_simulation(strength: float, value: float) -> None:
    p = np.array([0.55, 0.8, 0.9])
    cost = np.array([0.0001, 0.002, 0.02])
    found = information_value(p[None], cost[None], value, strength)[0]
    drawn = simulated(p, cost, value, strength, 400_000)
    assert found == pytest.approx(drawn, rel=0.03, abs=2e-3 * value)


def test_it_is_clarks_formula_for_two_tiers() -> None:
    # C. E. Clark, The greatest of a finite set of random variables, Operations Research 9, 1961.
    rng = np.random.default_rng(1)
    p, cost = rng.uniform(0.05, 0.95, (50, 2)), rng.uniform(0, 0.02, (50, 2))
    value, strength = 0.05, 5.0
    mean = value * p - cost
    theta = value * np.sqrt((p * (1 - p) / (strength + 1)).sum(axis=1))
    gap = np.abs(mean[:, 0] - mean[:, 1]) / theta
    closed = theta * (norm.pdf(gap) - gap * norm.cdf(-gap))
    found = information_value(p, cost, value, strength)
    assert found == pytest.approx(closed, rel=1e-4, abs=1e-9)


def test_of_equals_it_is_the_expected_greatest_of_normals() -> None:
    # E[max of three standard normals] = 3 / (2 sqrt(pi)).
    sd = np.sqrt(0.25 / 5.0)
    found = information_value(np.full((1, 3), 0.5), np.zeros((1, 3)), 1.0, 4.0)[0]
    assert found == pytest.approx(3 / (2 * np.sqrt(np.pi)) * sd, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.1)), min_size=1, max_size=5),
    st.floats(0, 10),
    st.floats(0, 1000),
)
def test_knowing_never_costs_and_more_evidence_leaves_less_to_win(
    tiers: list[tuple[float, float]], value: float, strength: float
) -> None:
    p, cost = np.array(tiers).T[:, None, :]
    now = information_value(p, cost, value, strength)[0]
    later = information_value(p, cost, value, 4 * strength + 1)[0]
    assert 0.0 <= later <= now + 1e-6 * (1 + value)
    if len(tiers) == 1:
        assert now == pytest.approx(0.0, abs=1e-9 * (1 + value))


def believed(
    vectors: list[list[float]],
    p: list[list[float]],
    label_usd: list[float],
    n_times: list[float] | None = None,
) -> Believed:
    unit = np.array(vectors, np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    n = len(p)
    times = np.ones(n) if n_times is None else np.array(n_times)
    cost = np.tile([0.001, 0.011], (n, 1))
    return Believed(unit, np.array(p), cost, 0.05, np.array(label_usd), times)


NOTHING = np.array([], np.int64)
SURE, UNSURE = [0.95, 0.96], [0.5, 0.7]  # 0.2 more success is worth the 0.01 that it costs
EYE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_uncertain_frequent_and_cheap_queries_go_first() -> None:
    everything = believed(EYE, [SURE, UNSURE, UNSURE, UNSURE], [1, 1, 1, 2], [1, 1, 3, 1])
    assert choose_by_value(everything, taken=NOTHING).tolist() == [2, 1, 3, 0]


def test_near_duplicates_wait_of_each_other_and_of_what_is_labelled() -> None:
    twins = [[1.0, 0, 0], [1, 0.05, 0], [0, 1, 0], [0, 0, 1]]
    # Together the twins are as frequent as each of the others.
    unsure = believed(twins, [UNSURE] * 4, [1.0, 1.01, 1.02, 1.03], [0.5, 0.5, 1.0, 1.0])
    first = choose_by_value(unsure, taken=NOTHING).tolist()
    # One of the twins stands for both and goes first; the other waits for all others.
    assert first[0] in (0, 1) and first[-1] in (0, 1)
    assert choose_by_value(unsure, taken=np.array([0])).tolist()[-1] == 1
    elsewhere = np.array([[0, 1, 0]], np.float32)
    # What was labelled elsewhere counts as well.
    of_others = choose_by_value(unsure, taken=NOTHING, labelled=elsewhere).tolist()
    assert of_others.index(2) > of_others.index(3)


def test_the_budget_is_never_passed_and_nothing_is_chosen_twice() -> None:
    rng = np.random.default_rng(2)
    n = 200
    usd = rng.exponential(1.0, n)
    pool = believed(
        rng.normal(size=(n, 8)).tolist(), rng.uniform(0.2, 0.9, (n, 2)).tolist(), list(usd)
    )
    taken, closed = np.arange(20), np.arange(20, 40)
    for budget in (0.0, 0.5, 7.0, 50.0, 1e9):
        chosen = choose_by_value(pool, taken=taken, closed=closed, max_usd=budget)
        assert usd[chosen].sum() <= budget
        assert len(set(chosen.tolist())) == len(chosen)
        assert chosen.min(initial=40) >= 40
        if budget == 1e9:
            assert len(chosen) == 160
    assert len(choose_by_value(pool, taken=taken, max_queries=7)) == 7


def test_more_candidates_and_traffic_than_fit_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.label_choice.MAX_CANDIDATES", 50)
    monkeypatch.setattr("training.label_choice.MAX_TRAFFIC", 30)
    rng = np.random.default_rng(3)
    pool = believed(
        rng.normal(size=(120, 4)).tolist(), rng.uniform(0.2, 0.9, (120, 2)).tolist(), [1.0] * 120
    )
    chosen = choose_by_value(pool, taken=np.arange(10), seed=1)
    assert len(chosen) == 50 and not set(chosen.tolist()) & set(range(10))
    assert chosen.tolist() == choose_by_value(pool, taken=np.arange(10), seed=1).tolist()


def test_a_budget_that_is_none_is_refused() -> None:
    for wrong in ({"max_usd": -1.0}, {"max_usd": float("nan")}, {"max_queries": -1}):
        with pytest.raises(InputError, match="of at least 0"):
            choose_by_value(believed(EYE, [SURE] * 4, [1] * 4), taken=NOTHING, **wrong)


def test_the_kernel_is_one_for_the_same_and_zero_for_the_opposite() -> None:
    a = np.array([[1, 0], [0, 0]], np.float32)
    b = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    assert kernel(a, b).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_the_random_order_knows_texts_and_seed_alone() -> None:
    hashes = np.random.default_rng(4).integers(0, 2**63, 500, dtype=np.uint64)
    order = random_order(hashes, 0)
    assert sorted(order.tolist()) == list(range(500))
    shuffled = np.random.default_rng(5).permutation(500)
    # In whatever order they come, the same texts go first.
    again = random_order(hashes[shuffled], 0)
    assert hashes[shuffled][again].tolist() == hashes[order].tolist()
    assert random_order(hashes, 1).tolist() != order.tolist()
    # The first half is no better than the second by any reckoning of the text.
    assert np.mean(hashes[order[:250]] < hashes[order[250:]]) == pytest.approx(0.5, abs=0.1)
