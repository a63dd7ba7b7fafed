"""Logged feedback, its importance weights, and what they leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from training.importance import (
    Logged,
    effective_sample_size,
    importance_weights,
    missing_share,
    supported_by_log,
    weight_limit,
)

FloatArray = npt.NDArray[np.float64]


def a_log(n: int = 6, seed: int = 0, n_tiers: int = 3) -> tuple[Logged, FloatArray]:
    """A log with its whole distribution (n, T)."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(n_tiers) * 2, n)
    tier = (rng.random((n, 1)) < chances.cumsum(axis=1)).argmax(axis=1)
    propensity = chances[np.arange(n), tier]
    return Logged(tier, propensity, rng.integers(0, 2, n).astype(float), rng.random(n)), chances


def always(tier: int, n: int, n_tiers: int = 3) -> FloatArray:
    result = np.zeros((n, n_tiers))
    result[:, tier] = 1.0
    return result


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("propensity", 0.0, "propensities above 0 and at most 1, got another value on 1 of 6"),
        ("propensity", 1.5, "propensities above 0"),
        ("propensity", np.nan, "propensities above 0"),
        ("success", 1.1, r"successes in 0\.\.1"),
        ("success", np.nan, r"successes in 0\.\.1"),
        ("cost_usd", np.nan, "costs in USD that are known"),
        ("cost_usd", -1.0, "costs in USD that are known"),
        ("cost_usd", np.inf, "costs in USD that are known"),
        ("tier", -1, "an index from 0"),
    ],
)
def test_values_outside_their_range_are_refused(column: str, value: float, message: str) -> None:
    log, _ = a_log()
    changed = getattr(log, column).copy()
    changed[2] = value
    with pytest.raises(InputError, match=message):
        replace(log, **{column: changed})


def test_columns_of_different_length_are_refused() -> None:
    log, _ = a_log()
    with pytest.raises(InputError, match="a cost for each of 6 logged requests"):
        replace(log, cost_usd=np.ones(5))
    with pytest.raises(InputError, match="at least one logged request"):
        Logged(*[np.zeros(0, int)] * 4)


def test_the_whole_distribution_must_agree_with_the_propensities() -> None:
    log, chances = a_log()
    assert replace(log, propensities=chances).propensities is chances
    with pytest.raises(InputError, match="agree with the whole distribution"):
        replace(log, propensities=np.roll(chances, 1, axis=1))


@pytest.mark.parametrize(
    ("dist", "message"),
    [
        (np.ones((5, 3)) / 3, "with 6 rows"),
        (np.ones((6, 1)), "a column for each logged tier"),
        (np.ones((6, 3)), "sum to 1"),
        (np.tile([2.0, -1.0, 0.0], (6, 1)), "not negative"),
    ],
)
def test_an_evaluation_policy_must_be_a_distribution(dist: FloatArray, message: str) -> None:
    log, _ = a_log()
    with pytest.raises(InputError, match=message):
        importance_weights(dist, log)


def test_the_logging_policy_itself_has_weights_of_one() -> None:
    log, chances = a_log(50)
    weights = importance_weights(chances, log)
    assert np.allclose(weights.values, 1.0)
    assert weights.ess == pytest.approx(50)
    assert weights.n_clipped == 0 and weights.mass_lost == 0.0
    assert weight_limit(replace(log, propensities=chances), chances) == pytest.approx(1.0)


def test_clipping_is_counted() -> None:
    one = np.ones(4)
    log = Logged(np.array([0, 0, 0, 1]), np.array([0.5, 0.1, 1.0, 1.0]), one, one)
    weights = importance_weights(always(0, 4, 2), log, max_weight=4.0)
    assert weights.values.tolist() == [2.0, 4.0, 1.0, 0.0]
    assert weights.largest == pytest.approx(10.0)
    assert weights.n_clipped == 1
    assert weights.mass_lost == pytest.approx(6.0 / 4)
    assert weights.mean == pytest.approx(7.0 / 4)
    assert weights.to_dict()["clipped_share"] == 0.25
    with pytest.raises(InputError, match="maximum weight of at least 1"):
        importance_weights(always(0, 4, 2), log, max_weight=0.5)


def test_the_weights_of_one_text_are_one_observation() -> None:
    one = np.ones(4)
    log = Logged(np.zeros(4, int), one, one, one, text=np.array([5, 5, 5, 1]))
    weights = importance_weights(always(0, 4, 1), log)
    assert log.n_texts == 2
    assert weights.ess == pytest.approx(2.0)


# Not below 1e-100: a weight that scaling rounds to 0 is another weight.
@given(
    st.lists(st.just(0.0) | st.floats(1e-100, 1e6), min_size=1, max_size=30), st.floats(1e-3, 1e3)
)
def test_the_effective_sample_size_knows_no_scale(weights: list[float], scale: float) -> None:
    values = np.array(weights)
    ess = effective_sample_size(values)
    assert 0.0 <= ess <= len(values) * (1 + 1e-9)
    assert effective_sample_size(scale * values) == pytest.approx(ess)


def test_a_deterministic_log_supports_what_it_chose_and_nothing_else() -> None:
    one = np.ones(3)
    log = Logged(np.array([0, 1, 1]), one, one, one)
    supported = supported_by_log(log, 3)
    assert supported.tolist() == [[True, False, False], [False, True, False], [False, True, False]]
    dist = np.array([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    weights = importance_weights(dist, log, supported=supported)
    assert missing_share(dist, log, weights, supported) == pytest.approx(1.25 / 3)


def test_a_choice_without_support_has_no_weight() -> None:
    log, chances = a_log(200, seed=3)
    log = replace(log, propensities=chances)
    supported = chances >= 0.3
    weights = importance_weights(always(1, 200), log, supported=supported)
    assert weights.largest <= 1 / 0.3
    untried = (log.tier == 1) & ~supported[:, 1]
    assert untried.any() and (weights.values[untried] == 0).all()
    # Nothing is clipped: what is missing is what has no support.
    missing = missing_share(always(1, 200), log, weights, supported)
    assert missing == pytest.approx((~supported[:, 1]).mean())
