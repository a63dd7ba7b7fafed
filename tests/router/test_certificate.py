"""Tests and bounds against closed forms: exact tails, exact error rates by enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from router.certificate import (
    Floor,
    betting_lower,
    betting_upper,
    binomial_tail_p,
    is_binary,
    log_wealth,
    mean_exceeds,
    rows_needed,
)

FloatArray = npt.NDArray[np.float64]

UNIT = st.integers(0, 64).map(lambda k: k / 64)
SAMPLES = st.integers(1, 60).flatmap(lambda n: arrays(float, n, elements=UNIT))
MEANS = st.floats(0.01, 0.99)
DELTAS = st.floats(1e-4, 0.5)


# ---------------------------------------------------------------- the binomial tail


@given(st.integers(0, 3000), st.data(), st.floats(1e-6, 1 - 1e-6))
def test_the_binomial_tail_is_that_of_scipy(n: int, data: st.DataObject, floor: float) -> None:
    successes = data.draw(st.integers(0, n))
    expected = float(binom.sf(successes - 1, n, floor))
    assert binomial_tail_p(successes, n, floor) == pytest.approx(expected, rel=1e-8, abs=1e-290)


@pytest.mark.parametrize(
    ("successes", "n", "floor"), [(18_200, 20_000, 0.9), (999_500, 1_000_000, 0.999), (3, 50, 1e-9)]
)
def test_the_binomial_tail_of_many_rows_and_of_tiny_rates(
    successes: int, n: int, floor: float
) -> None:
    expected = float(binom.sf(successes - 1, n, floor))
    assert binomial_tail_p(successes, n, floor) == pytest.approx(expected, rel=1e-6)


def test_the_binomial_tail_at_its_ends() -> None:
    assert binomial_tail_p(0, 10, 0.9) == 1.0
    assert binomial_tail_p(0, 0, 0.9) == 1.0
    assert binomial_tail_p(10, 10, 1.0) == 1.0
    assert binomial_tail_p(1, 10, 0.0) == 0.0
    assert binomial_tail_p(10, 10, 0.9) == pytest.approx(0.9**10)


# ---------------------------------------------------------------- the betting test


def slow_log_wealth(x: FloatArray, mean: float, delta: float) -> float:
    """The recursion written out, one row at a time."""
    n, wealth, most = len(x), 0.0, 0.0
    variance, squares, total = 0.25, 0.25, 0.5
    for i, value in enumerate(x, start=1):
        bet = min(math.sqrt(2 * math.log(1 / delta) / (n * variance)), 0.75 / mean)
        wealth += math.log(1 + bet * (value - mean))
        most = max(most, wealth)
        total += value
        squares += (value - total / (i + 1)) ** 2
        variance = squares / (i + 1)
    return most


@given(SAMPLES, MEANS, DELTAS)
def test_log_wealth_is_the_recursion(x: FloatArray, mean: float, delta: float) -> None:
    assert log_wealth(x, mean, delta) == pytest.approx(slow_log_wealth(x, mean, delta), abs=1e-9)


@pytest.mark.parametrize("delta", [0.3, 0.1, 0.02])
@pytest.mark.parametrize("mean", [0.05, 0.3, 0.6])
def test_the_betting_test_errs_at_most_as_often_as_stated(mean: float, delta: float) -> None:
    """Exactly, over all 0/1 sequences of 14 rows whose true mean is the tested one."""
    n = 14
    wrong = 0.0
    for x in product((0.0, 1.0), repeat=n):
        if mean_exceeds(np.array(x), mean, delta):
            ones = int(sum(x))
            wrong += mean**ones * (1 - mean) ** (n - ones)
    assert wrong <= delta
    assert wrong > 0  # it does reject sometimes


@pytest.mark.parametrize(("up", "down"), [(0.1, 0.2), (0.3, 0.4), (0.45, 0.5)])
def test_it_errs_as_seldom_on_paired_differences(up: float, down: float) -> None:
    """Exactly, over all sequences of nine differences in (-1, 0, 1), recoded to (0, 1/2, 1)."""
    chance = {0.0: down, 0.5: 1 - up - down, 1.0: up}
    mean = sum(value * p for value, p in chance.items())
    wrong = sum(
        math.prod(chance[value] for value in x)
        for x in product((0.0, 0.5, 1.0), repeat=9)
        if mean_exceeds(np.array(x), mean, 0.2)
    )
    assert 0 < wrong <= 0.2


@given(SAMPLES, MEANS, st.floats(0.0, 1.0), DELTAS)
def test_what_exceeds_a_mean_exceeds_all_lower_ones(
    x: FloatArray, mean: float, share: float, delta: float
) -> None:
    assert log_wealth(x, mean * share, delta) >= log_wealth(x, mean, delta) - 1e-9


def test_nothing_is_shown_by_no_rows_and_anything_exceeds_nothing() -> None:
    assert not mean_exceeds(np.empty(0), 0.5, 0.05)
    assert mean_exceeds(np.zeros(3), 0.0, 0.05)
    assert not mean_exceeds(np.ones(1000), 1.0, 0.05)


# ---------------------------------------------------------------- the bounds


@given(SAMPLES, DELTAS)
def test_the_lower_bound_is_where_the_test_turns(x: FloatArray, alpha: float) -> None:
    bound = betting_lower(x, 0.0, 1.0, alpha)
    mean = float(x.mean())
    assert 0.0 <= bound <= mean + 1e-12
    if bound > 1e-6:
        assert mean_exceeds(x, bound - 1e-7, alpha)
    if 1e-6 < bound < mean - 1e-6:
        assert not mean_exceeds(x, bound + 1e-7, alpha)


@given(SAMPLES, DELTAS, st.floats(-3, 3), st.floats(0.01, 4))
def test_the_bounds_are_each_others_mirror_image(
    x: FloatArray, alpha: float, low: float, width: float
) -> None:
    high = low + width
    values = low + x * width
    values = np.clip(values, low, high)
    assert betting_upper(values, low, high, alpha) == -betting_lower(-values, -high, -low, alpha)
    assert (
        betting_lower(values, low, high, alpha)
        <= values.mean() + 1e-9
        <= betting_upper(values, low, high, alpha) + 2e-9
    )


@given(SAMPLES, DELTAS, st.floats(0.05, 1.0))
def test_more_confidence_never_tightens_a_bound(x: FloatArray, alpha: float, share: float) -> None:
    assert betting_lower(x, 0.0, 1.0, alpha * share) <= betting_lower(x, 0.0, 1.0, alpha) + 1e-9
    assert betting_upper(x, 0.0, 1.0, alpha * share) >= betting_upper(x, 0.0, 1.0, alpha) - 1e-9


@given(SAMPLES, DELTAS, st.integers(-3, 3), st.sampled_from([0.25, 1.0, 8.0]))
def test_the_bounds_are_in_the_unit_of_the_data(
    x: FloatArray, alpha: float, shift: int, unit: float
) -> None:
    moved = betting_lower(shift + unit * x, float(shift), shift + unit, alpha)
    assert moved == pytest.approx(shift + unit * betting_lower(x, 0.0, 1.0, alpha), abs=1e-9)


@given(SAMPLES, DELTAS, st.floats(0.1, 0.9))
def test_values_beyond_the_harmless_end_are_drawn_in(
    x: FloatArray, alpha: float, limit: float
) -> None:
    inside = np.minimum(x, limit)
    assert betting_lower(x, 0.0, limit, alpha) == betting_lower(inside, 0.0, limit, alpha)
    assert betting_lower(x, 0.0, limit, alpha) <= inside.mean() + 1e-9
    raised = np.maximum(x, limit)
    assert betting_upper(x, limit, 1.0, alpha) == betting_upper(raised, limit, 1.0, alpha)


def test_a_value_beyond_the_other_end_voids_the_bound() -> None:
    x = np.array([0.5] * 100 + [-0.1])
    assert betting_lower(x, 0.0, 1.0, 0.05) == -math.inf
    assert betting_upper(x, 0.0, 1.0, 0.05) < 1.0
    x = np.array([0.5] * 100 + [1.1])
    assert betting_upper(x, 0.0, 1.0, 0.05) == math.inf
    assert betting_lower(x, 0.0, 1.0, 0.05) > 0.0


def test_bounds_without_data_or_without_width() -> None:
    assert betting_lower(np.empty(0), 0.0, 1.0, 0.05) == -math.inf
    assert betting_upper(np.empty(0), 0.0, 1.0, 0.05) == math.inf
    assert betting_lower(np.full(5, 0.3), 0.3, 0.3, 0.05) == 0.3
    assert betting_upper(np.full(5, 0.3), 0.3, 0.3, 0.05) == 0.3
    assert betting_lower(np.zeros(50), 0.0, 1.0, 0.05) == 0.0
    assert betting_upper(np.ones(50), 0.0, 1.0, 0.05) == 1.0


def test_bounds_close_in_on_the_mean() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (100, 1_600, 25_600):
        x = rng.beta(7, 3, n)
        lower, upper = betting_lower(x, 0, 1, 0.05), betting_upper(x, 0, 1, 0.05)
        assert lower < 0.7 < upper
        widths.append(upper - lower)
    # Half as wide, or nearly, for four times the rows; and not far from the normal interval.
    assert widths[1] < widths[0] / 3
    assert widths[2] < widths[1] / 3
    assert widths[2] < 2 * 2.45 * 1.25 * x.std() / math.sqrt(25_600)


# ---------------------------------------------------------------- floors


@given(st.data())
def test_the_terms_of_a_floor_hold_exactly_if_the_floor_does(data: st.DataObject) -> None:
    n, n_tiers = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 4))
    tiers = data.draw(arrays(float, (n, n_tiers), elements=UNIT))
    policy = data.draw(arrays(float, n, elements=UNIT))
    reference = data.draw(st.integers(0, n_tiers - 1))
    for floor, gap in (
        (Floor(rate=0.625), policy.mean() - 0.625),
        (
            Floor(margin=-0.125, relative_to=reference),
            policy.mean() - (tiers[:, reference].mean() - 0.125),
        ),
    ):
        x, mean = floor.terms(policy, tiers)
        assert ((x >= 0) & (x <= 1)).all()
        assert (x.mean() - mean) * (1 if floor.rate else 2) == pytest.approx(gap, abs=1e-12)


def test_a_0_1_absolute_floor_is_tested_exactly() -> None:
    """From n = 29 on, successes throughout certify .9 at 95 %: .9 ** 29 = .047."""
    floor, tiers = Floor(rate=0.9), np.zeros((29, 1))
    assert floor.passes(np.ones(29), tiers, 0.05)
    assert not floor.passes(np.ones(28), tiers[:28], 0.05)
    for n, successes in ((200, 188), (200, 187), (200, 186), (60, 58)):
        x = np.r_[np.ones(successes), np.zeros(n - successes)]
        certified = binom.sf(successes - 1, n, 0.9) <= 0.05
        assert floor.passes(x, np.zeros((n, 1)), 0.05) == certified


def test_fractions_and_coin_flips_are_tested_by_betting() -> None:
    floor = Floor(rate=0.9)
    for x in (np.ones(60), np.full(400, 0.95)):
        tiers = np.zeros((len(x), 1))
        assert floor.passes(x, tiers, 0.05, randomised=True) == mean_exceeds(x, 0.9, 0.05)
        assert floor.passes(x, tiers, 0.05) == (is_binary(x) or mean_exceeds(x, 0.9, 0.05))
    assert not floor.passes(np.ones(30), np.zeros((30, 1)), 0.05, randomised=True)


def test_no_rows_certify_no_floor() -> None:
    assert not Floor(rate=0.01).passes(np.empty(0), np.empty((0, 2)), 0.5)
    assert not Floor(margin=-0.9, relative_to=1).passes(np.empty(0), np.empty((0, 2)), 0.5)


def test_a_relative_floor_compares_row_by_row() -> None:
    """Equal on every row: certified by a margin, however often both fail."""
    rng = np.random.default_rng(0)
    tiers = (rng.random((400, 2)) < 0.3).astype(float)
    floor = Floor(margin=-0.05, relative_to=1)
    assert floor.passes(tiers[:, 1], tiers, 0.05)
    assert not Floor(margin=0.0, relative_to=1).passes(tiers[:, 1], tiers, 0.05)
    assert not floor.passes(rng.permutation(tiers[:, 1]), tiers, 0.05)


# ---------------------------------------------------------------- how many rows are needed


@pytest.mark.parametrize("delta", [0.1, 0.05, 0.0375, 0.0125])
@pytest.mark.parametrize(
    ("rate", "floor"), [(0.95, 0.9), (0.92, 0.9), (0.99, 0.95), (0.6, 0.5), (0.03, 0.02)]
)
def test_the_rows_told_give_about_80_percent_power_on_0_1_data(
    rate: float, floor: float, delta: float
) -> None:
    """Power by closed form: the chance of enough successes among as many rows as told."""
    x = np.zeros(10_000)
    x[: round(rate * 10_000)] = 1.0
    n = rows_needed(x, floor, delta, binary=True)
    assert n is not None
    successes = np.arange(n + 1)
    enough = binom.sf(successes - 1, n, floor) <= delta
    assert 0.65 <= binom.pmf(successes, n, rate)[enough].sum() <= 0.95


def _differences(better: float, worse: float) -> FloatArray:
    x = np.full(10_000, 0.5)
    x[: round(better * 10_000)] = 1.0
    x[10_000 - round(worse * 10_000) :] = 0.0
    return x


@pytest.mark.parametrize(
    ("x", "mean", "delta"),
    [
        (_differences(0.02, 0.02), 0.475, 0.0375),
        (_differences(0.03, 0.05), 0.475, 0.05),
        (_differences(0.00, 0.01), 0.49, 0.0375),
        (_differences(0.00, 0.01), 0.475, 0.0125),
        (_differences(0.02, 0.08), 0.45, 0.1),
        (_differences(0.15, 0.20), 0.45, 0.0125),
        (np.random.default_rng(0).beta(9, 1, 10_000), 0.88, 0.05),
        (np.random.default_rng(0).beta(2, 1, 10_000), 0.6, 0.05),
        (np.random.default_rng(0).beta(20, 1, 10_000), 0.9, 0.0375),
    ],
)
def test_the_rows_told_give_about_80_percent_power_by_betting(
    x: FloatArray, mean: float, delta: float
) -> None:
    n = rows_needed(x, mean, delta, binary=False)
    assert n is not None
    rng = np.random.default_rng(1)
    power = np.mean([mean_exceeds(rng.choice(x, n), mean, delta) for _ in range(400)])
    assert 0.65 <= power <= 0.95


def test_where_nothing_varies_the_rows_told_are_exact() -> None:
    x = np.full(50, 0.5)
    n = rows_needed(x, 0.475, 0.0375, binary=False)
    assert n is not None
    assert mean_exceeds(np.full(n, 0.5), 0.475, 0.0375)
    assert not mean_exceeds(np.full(round(0.9 * n), 0.5), 0.475, 0.0375)


@pytest.mark.parametrize("binary", [True, False])
def test_no_number_of_rows_certifies_a_floor_that_is_not_met(binary: bool) -> None:
    x = np.r_[np.ones(3), np.zeros(1)]
    assert rows_needed(x, 0.75, 0.05, binary=binary) is None
    assert rows_needed(x, 0.8, 0.05, binary=binary) is None
    # above by rounding only
    assert rows_needed(np.full(10, 0.1 + 0.2), 0.3, 0.05, binary=binary) is None
    assert rows_needed(np.empty(0), 0.8, 0.05, binary=binary) is None


@pytest.mark.parametrize("binary", [True, False])
def test_a_narrower_gap_and_a_smaller_error_take_more_rows(binary: bool) -> None:
    x = np.r_[np.ones(95), np.zeros(5)]
    by_gap = [rows_needed(x, mean, 0.05, binary=binary) for mean in (0.8, 0.9, 0.94, 0.9499)]
    by_delta = [rows_needed(x, 0.9, delta, binary=binary) for delta in (0.2, 0.05, 0.01)]
    for told in (by_gap, by_delta):
        numbers = [n for n in told if n is not None]
        assert len(numbers) == len(told)
        assert numbers == sorted(set(numbers))
    # Four times the rows for half the gap, more or less.
    assert by_gap[3] is not None and by_gap[3] > 1_000_000


def test_the_words_of_a_floor() -> None:
    names = ("nano", "frontier")
    assert Floor(rate=0.9).describe(names) == "success rate >= 0.9"
    relative = Floor(margin=-0.05, relative_to=1)
    assert relative.describe(names) == "success rate >= that of frontier - 0.05"
    x = np.r_[np.ones(95), np.zeros(5)]
    told = Floor(rate=0.9).rows_needed(x, np.zeros((100, 2)), 0.05)
    assert told == rows_needed(x, 0.9, 0.05, binary=True)
    coin = Floor(rate=0.9).rows_needed(x, np.zeros((100, 2)), 0.05, randomised=True)
    assert coin == rows_needed(x, 0.9, 0.05, binary=False)
