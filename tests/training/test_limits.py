"""A limit leaves about the asked share of further values outside, however few it was drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from training.limits import upper_limit

SHARE = 0.001


def test_of_many_values_it_is_their_quantile() -> None:
    values = np.random.default_rng(0).standard_exponential(5_000)
    limit = upper_limit(values, SHARE)
    assert limit == np.quantile(values, 1 - SHARE, method="higher")
    assert (values > limit).sum() == 4


@pytest.mark.parametrize("n", [20, 50, 200, 900])
def test_of_few_values_about_the_asked_share_lies_outside(n: int) -> None:
    rng = np.random.default_rng(n)
    further = rng.normal(5.0, 2.0, 100_000)
    outside = [(further > upper_limit(rng.normal(5.0, 2.0, n), SHARE)).mean() for _ in range(300)]
    # The largest value alone leaves 1 / (n + 1) outside.
    assert SHARE / 2 < np.mean(outside) < 0.25 / (n + 1) + 1.2 * SHARE


@pytest.mark.parametrize("n", [1, 2, 30, 999])
def test_it_is_no_less_than_the_largest_of_few_and_equal_where_all_are(n: int) -> None:
    values = np.random.default_rng(n).standard_normal(n)
    assert upper_limit(values, SHARE) >= values.max()
    assert upper_limit(np.full(n, 0.25), SHARE) == 0.25


def test_a_second_hump_that_is_well_sampled_is_not_extrapolated_beyond() -> None:
    # Near 1 / share values, the largest of them is about the quantile.
    two = np.concatenate((np.linspace(0.0, 1.0, 600), np.linspace(9.0, 10.0, 390)))
    assert upper_limit(two, SHARE) < 10.1


def test_one_odd_value_does_not_carry_the_limit_away() -> None:
    values = np.append(np.linspace(0.0, 1.0, 100), 9.0)
    assert upper_limit(values, SHARE) == 9.0
