from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from router.keyword import KeywordRouter
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


def test_keyword_rule_goes_by_name_not_by_position() -> None:
    names = ["large", "small", "medium"]
    router = KeywordRouter.for_tiers(["small", "medium", "large"])
    queries = ["translate", "good morning", "analyze and compare"]
    assert baselines.keyword(queries, names, router).argmax(axis=1).tolist() == [1, 2, 0]


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
