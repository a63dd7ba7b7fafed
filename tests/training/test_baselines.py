from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.keyword import KeywordRouter
from router.policy import cheapest_mix
from training import baselines
from training.metrics import expected_outcome, tier_means

FloatArray = npt.NDArray[np.float64]


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[FloatArray, FloatArray]:
    """(success, cost_usd), each (n, T); success may be fractional."""
    n, t = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    success = rng.random((n, t)).round(draw(st.sampled_from([0, 1])))
    return success, rng.gamma(1.0, 1.0, (n, t)).round(1)


def test_always_one_tier() -> None:
    dist = baselines.always_tier(3, 4, 2)
    assert dist.tolist() == [[0.0, 0.0, 1.0, 0.0]] * 3


@given(outcomes(), st.floats(0, 1))
def test_the_random_mix_reaches_the_success_rate_at_the_cost_it_says(
    world: tuple[FloatArray, FloatArray], target: float
) -> None:
    success, cost = world
    mix = cheapest_mix(tier_means(cost), tier_means(success), target)
    dist = baselines.random_mix(*success.shape, mix)
    assert dist.sum(axis=1) == pytest.approx(np.ones(len(success)))
    assert expected_outcome(dist, cost).mean() == pytest.approx(mix.cost_usd)
    best = float(tier_means(success).max())
    assert expected_outcome(dist, success).mean() >= min(target, best) - 1e-9
    assert mix.reached == (target <= best)


def test_the_mix_of_one_tier_with_itself_is_that_tier() -> None:
    mix = cheapest_mix([1.0, 2.0], [0.5, 0.9], 0.1)
    assert baselines.random_mix(1, 2, mix).tolist() == [[1.0, 0.0]]


def test_keyword_rule_goes_by_name_not_by_position() -> None:
    names = ["large", "small", "medium"]
    router = KeywordRouter.for_tiers(["small", "medium", "large"])
    queries = ["translate", "good morning", "analyze and compare"]
    assert baselines.keyword(queries, names, router).argmax(axis=1).tolist() == [1, 2, 0]


def test_per_task_takes_the_best_tier_of_each_task() -> None:
    """Maths needs the dear tier, chat does not; a new task gets what is best on the whole."""
    task = ["maths"] * 4 + ["chat"] * 6
    success = np.array([[0.0, 1.0]] * 4 + [[1.0, 1.0]] * 6)
    cost = np.array([[1.0, 3.0]] * 10)
    new = ["chat", None, "maths"]
    # dear pays for maths (2 < 4 * 1), not on the whole (2 > 4 * .4)
    assert baselines.per_task(task, success, cost, 4.0, new).argmax(axis=1).tolist() == [0, 0, 1]
    # on the whole it pays from lambda 5 on
    assert baselines.per_task(task, success, cost, 6.0, new).argmax(axis=1).tolist() == [0, 1, 1]
    # without a value on success the cheapest does
    assert baselines.per_task(task, success, cost, 0.0, new).argmax(axis=1).tolist() == [0, 0, 0]


def test_rows_without_a_task_are_a_task_of_their_own() -> None:
    success, cost = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 2.0]] * 2)
    dist = baselines.per_task([None, "chat"], success, cost, 3.0, [None, "chat"])
    assert dist.argmax(axis=1).tolist() == [1, 0]


def test_oracle_takes_the_cheapest_success_and_wastes_nothing_on_failures() -> None:
    success = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    cost = np.array([[1.0, 9.0, 5.0], [3.0, 2.0, 9.0], [1.0, 0.5, 1.0]])
    assert baselines.oracle(success, cost).argmax(axis=1).tolist() == [2, 1, 0]


@given(outcomes(), st.integers(0, 2**32 - 1))
def test_no_policy_succeeds_more_often_than_the_oracle(
    world: tuple[FloatArray, FloatArray], seed: int
) -> None:
    success, cost = world
    best = expected_outcome(baselines.oracle(success, cost), success).mean()
    dist = np.random.default_rng(seed).dirichlet(np.ones(success.shape[1]), len(success))
    assert expected_outcome(dist, success).mean() <= best + 1e-12
    for tier in range(success.shape[1]):
        assert tier_means(success)[tier] <= best + 1e-12
