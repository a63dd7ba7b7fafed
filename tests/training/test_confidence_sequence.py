"""Confidence sequences: closed forms, and what must hold of any rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.confidence_sequence import _BETS, RatioRows, _in_blocks, _rows_in

FloatArray = npt.NDArray[np.float64]

values = st.lists(st.sampled_from([0.0, 0.25, 1.0]) | st.floats(0, 1), min_size=1, max_size=80).map(
    lambda found: np.array(found)
)
ratios = st.floats(0.01, 0.99)
levels = st.sampled_from([0.5, 0.1, 0.01])


@pytest.mark.parametrize("mean", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("alpha", [0.2, 0.001])
def test_wealth_on_nothing_but_successes(mean: float, alpha: float) -> None:
    # Each bet grows by 1 + b (1 - m) / m a row; the wealth is their mean.
    rows = np.arange(1, 3001)
    wealth = ((1 + _BETS[:, None] * (1 - mean) / mean) ** rows[:500]).mean(axis=0)
    expected = int(rows[:500][wealth >= 1 / alpha][0])
    assert RatioRows.mean(np.ones(3000)).exceeds(mean, alpha) == expected
    assert RatioRows.mean(np.zeros(3000)).falls_below(1 - mean, alpha) == expected
    assert RatioRows.mean(np.ones(3000)).falls_below(mean, alpha) is None


def test_the_bets_are_fixed_and_lose_no_more_than_three_quarters() -> None:
    assert _BETS.max() == 0.75
    assert (_BETS > 0).all()


@given(values, ratios, levels)
def test_a_later_look_goes_on_where_the_earlier_one_stopped(
    y: FloatArray, ratio: float, alpha: float
) -> None:
    found = RatioRows.mean(y).exceeds(ratio, alpha)
    for n in range(len(y) + 1):
        expected = found if found is not None and found <= n else None
        assert RatioRows.mean(y[:n]).exceeds(ratio, alpha) == expected


@given(values, levels)
def test_bounds_only_tighten_and_agree_with_the_tests(y: FloatArray, alpha: float) -> None:
    before = (0.0, 1.0)
    for n in (0, len(y) // 2, len(y)):
        rows = RatioRows.mean(y[:n])
        lower, upper = rows.lower(alpha, 0, 1), rows.upper(alpha, 0, 1)
        assert before[0] <= lower and upper <= before[1]
        before = lower, upper
    assert rows.exceeds(lower + 2e-5, alpha) is None
    assert rows.falls_below(upper - 2e-5, alpha) is None
    assert lower == 0 or rows.exceeds(lower - 2e-5, alpha) is not None
    assert upper == 1 or rows.falls_below(upper + 2e-5, alpha) is not None


@given(values, levels)
def test_mirror_and_scale(y: FloatArray, alpha: float) -> None:
    rows = RatioRows.mean(y)
    lower = rows.lower(alpha, 0, 1)
    assert RatioRows.mean(1 - y).upper(alpha, 0, 1) == pytest.approx(1 - lower, abs=2e-5)
    scaled = RatioRows.mean(6 * y - 3, -3, 3)
    assert scaled.lower(alpha, -3, 3) == pytest.approx(6 * lower - 3, abs=1e-4)


def test_a_ratio_of_sums() -> None:
    h = np.random.default_rng(0).uniform(0.1, 1.0, 4000)
    rows = RatioRows(1.5 * h, h, 0.0, 2.0, 0.0, 1.0)
    lower, upper = rows.lower(0.01, 0, 20), rows.upper(0.01, 0, 20)
    assert 1.45 < lower < 1.5 < upper < 1.55
    assert rows.exceeds(1.2, 0.01) is not None
    assert rows.falls_below(1.5, 0.01) is None
    # With values below 0 the wealth does not fall in the ratio: no lower bound is claimed.
    assert RatioRows(h, h, -1.0, 2.0, 0.0, 1.0).lower(0.01, 0, 20) == 0


@given(ratios, st.floats(-3, 3))
def test_what_cannot_be_is_known_at_once(ratio: float, shift: float) -> None:
    rows = RatioRows.mean(np.full(3, 0.5))
    assert rows.exceeds(-ratio, 0.01) == 1
    assert rows.exceeds(0.0, 0.01) is None
    assert rows.falls_below(1 + ratio, 0.01) == 1
    assert rows.falls_below(1.0, 0.01) is None
    assert RatioRows.mean(np.empty(0)).exceeds(shift, 0.01) is None


@given(st.integers(1, 200_000))
def test_blocks_depend_on_the_place_alone(n: int) -> None:
    values = np.arange(float(n))
    blocks = _in_blocks(values)
    covered = _rows_in(len(blocks))
    assert covered <= n < covered + max(2, n // 8192)
    assert len(blocks) <= 16_384 + 8192 * max(0, int(np.ceil(np.log2(max(n, 1) / 16_384))))
    # Each block is the mean of its rows, and a prefix has the same blocks.
    assert blocks[-1] == pytest.approx(
        values[_rows_in(len(blocks) - 1) : covered].mean() if len(blocks) > 1 else 0
    )
    np.testing.assert_array_equal(
        _in_blocks(values[: n // 2]), blocks[: len(_in_blocks(values[: n // 2]))]
    )


def test_a_long_log_reports_rows_and_not_blocks() -> None:
    y = np.concatenate((np.tile([0.0, 1.0], 50_000), np.ones(40_000)))
    found = RatioRows.mean(y).exceeds(0.52, 0.001)
    assert found is not None and 100_000 < found < 120_000
