"""Intervals by betting and by empirical likelihood: closed forms and what they must not do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from training import intervals
from training.intervals import (
    betting_interval,
    in_blocks,
    likelihood_interval,
    log_likelihood_ratio,
    mean_is,
)


@given(st.integers(0, 10_000), st.floats(0.01, 100.0), st.floats(-10.0, 10.0))
def test_betting_knows_no_unit(seed: int, scale: float, shift: float) -> None:
    x = np.random.default_rng(seed).random(80)
    low, high = betting_interval(x, 0.0, 1.0, 0.9, variance=0.1)
    other = betting_interval(
        scale * x + shift, shift, scale + shift, 0.9, variance=0.1 * scale * scale
    )
    expected = (scale * low + shift, scale * high + shift)
    assert other == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale)


def test_betting_is_symmetric() -> None:
    x = np.random.default_rng(0).random(200) ** 3
    low, high = betting_interval(x, 0.0, 1.0, 0.95)
    assert betting_interval(-x, -1.0, 0.0, 0.95) == pytest.approx((-high, -low))
    assert 0.0 <= low < x.mean() < high <= 1.0


def test_a_value_outside_the_range_voids_the_end_that_rests_on_it() -> None:
    x = np.append(np.full(200, 0.5), 1.5)
    low, high = betting_interval(x, 0.0, 1.0, 0.95)
    assert 0.3 < low < 0.5
    assert high == math.inf


def test_nothing_seen_is_not_nothing() -> None:
    """After n failures the rate may still be about log(2 / alpha) / n, as the binomial has it."""
    low, high = betting_interval(np.zeros(400), 0.0, 1.0, 0.95)
    assert low == 0.0
    assert math.log(40) / 400 < high < 4 * math.log(40) / 400


def test_the_likelihood_interval_is_the_normal_one_for_many_plain_values() -> None:
    x = norm.ppf((np.arange(4000) + 0.5) / 4000)
    low, high = likelihood_interval(x, None, 0.95, 4000)
    assert high == pytest.approx(1.96 * x.std() / math.sqrt(4000), rel=0.01)
    assert low == pytest.approx(-high, rel=1e-3)


def test_a_ratio_to_a_constant_is_a_mean() -> None:
    x = np.random.default_rng(0).exponential(size=300)
    mean = likelihood_interval(x, None, 0.9, 300)
    assert likelihood_interval(x, np.full(300, 4.0), 0.9, 300) == pytest.approx(
        (mean[0] / 4, mean[1] / 4), rel=1e-6
    )


def test_a_ratio_of_equal_values_is_certain() -> None:
    x = np.random.default_rng(0).random(50)
    low, high = likelihood_interval(3.0 * x, x, 0.95, 50)
    assert (low, high) == pytest.approx((3.0, 3.0))


def test_a_denominator_that_may_be_nothing_leaves_an_end_open() -> None:
    rng = np.random.default_rng(0)
    denominator = np.append(np.zeros(99), 1.0) - 0.5 * np.append(np.ones(1), np.zeros(99))
    assert likelihood_interval(rng.random(100), denominator, 0.95, 100)[1] == math.inf
    assert likelihood_interval(np.ones(3), np.zeros(3), 0.95, 3) == (-math.inf, math.inf)


def test_the_ends_are_where_the_likelihood_says() -> None:
    rng = np.random.default_rng(1)
    top, bottom = rng.exponential(size=200), rng.random(200)
    for end in likelihood_interval(top, bottom, 0.95, 1e9):
        assert log_likelihood_ratio(top - end * bottom) == pytest.approx(1.96**2 / 2, rel=1e-2)
    low, high = likelihood_interval(top, None, 0.95, 200)
    width = high - low
    assert mean_is(top, low + 0.01 * width, 0.95, 200)
    assert not mean_is(top, high + 0.01 * width, 0.95, 200)


def test_two_values_have_a_closed_form() -> None:
    """Of 0 and 1 the likelihood is binomial."""
    x = np.repeat([0.0, 1.0], [30, 10])
    m = 0.4
    expected = -(30 * math.log((1 - m) / 0.75) + 10 * math.log(m / 0.25))
    assert log_likelihood_ratio(x - m) == pytest.approx(expected, rel=1e-6)


def test_many_values_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_MAX_VALUES", 100)
    assert in_blocks(np.arange(100.0)).tolist() == list(range(100))
    assert in_blocks(np.arange(301.0).reshape(-1, 1)).shape == (75, 1)
    x = np.random.default_rng(0).random(1000)
    low, high = likelihood_interval(x, None, 0.95, 1000)
    assert low < x.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * x.std() / math.sqrt(1000), rel=0.3)
