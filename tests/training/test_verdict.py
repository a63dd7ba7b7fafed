from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from training.verdict import differences, fixed_ranges, judge

FloatArray = npt.NDArray[np.float64]


def noise(mean: float, n: int, seed: int = 0) -> FloatArray:
    """``n`` values of +-1 with the given mean, as one column."""
    up = np.random.default_rng(seed).random(n) < (1 + mean) / 2
    return np.where(up, 1.0, -1.0)[:, None]


def test_pays_only_if_every_tier_is_beaten() -> None:
    good, even = noise(-0.5, 2000), noise(0.0, 2000, seed=1)
    both = judge(["a", "b"], np.column_stack([good, good]), np.full(2, 2.0), 1.0)
    assert both.label == "pays"
    assert all(bound.upper_usd < 0 for bound in both.bounds)
    one = judge(["a", "b"], np.column_stack([good, even]), np.full(2, 2.0), 1.0)
    assert one.label == "not proven"
    assert one.bounds[0].upper_usd < 0 < one.bounds[1].upper_usd


def test_does_not_pay_if_one_tier_is_better() -> None:
    found = judge(
        ["a", "b"],
        np.column_stack([noise(-0.5, 2000), noise(0.5, 2000)]),
        np.full(2, 2.0),
        1.0,
    )
    assert found.label == "does not pay"
    assert found.bounds[1].lower_usd >= 0
    assert "always-b" in found.sentence


def test_a_router_that_is_one_tier_does_not_pay() -> None:
    found = judge(["a", "b"], np.column_stack([noise(-0.5, 50), np.zeros(50)]), np.ones(2), 1.0)
    assert found.label == "does not pay"
    assert found.bounds[1].identical
    assert "exactly what always-b does" in found.sentence
    # also where it was one tier on every calibration row
    assert judge(["a"], np.zeros((1, 1)), np.zeros(1), 1.0).label == "does not pay"


def test_one_request_proves_nothing() -> None:
    assert judge(["a"], np.array([[-1.0]]), np.array([2.0]), 1.0).label == "not proven"


def test_each_lower_bound_has_a_share_of_the_level() -> None:
    values = noise(0.3, 400)
    alone = judge(["a"], values, np.array([2.0]), 1.0, confidence=0.9).bounds[0]
    shared = judge(
        ["a", "b"], np.column_stack([values, values]), np.full(2, 2.0), 1.0, confidence=0.9
    ).bounds[0]
    twice = judge(["a"], values, np.array([2.0]), 1.0, confidence=0.95).bounds[0]
    assert shared.lower_usd == pytest.approx(twice.lower_usd)
    assert shared.lower_usd < alone.lower_usd
    assert shared.upper_usd == alone.upper_usd


def test_the_range_is_twice_the_largest_cost_difference_and_one_success() -> None:
    seen = np.array([[0.5, -3.0], [-1.0, 2.0]])
    assert fixed_ranges(seen).tolist() == [2.0, 6.0]
    assert fixed_ranges(seen, 0.25).tolist() == [2.25, 6.25]
    assert fixed_ranges(np.empty((0, 2)), 0.25).tolist() == [0.0, 0.0]


def test_a_success_that_calibration_never_saw_is_within_the_range() -> None:
    """Rare successes: the range may not rest on costs alone because nothing else was seen."""
    cost = np.array([[0.01, 0.02]] * 30)
    ranges = fixed_ranges(cost[:, :1] - cost, 5.0)
    value = differences(np.array([0.01]), np.array([0.0]), cost[:1], np.array([[0.0, 1.0]]), 5.0)
    assert (np.abs(value) <= ranges).all()


def test_a_value_above_the_range_makes_the_upper_bound_infinite() -> None:
    values = noise(-0.9, 2000)
    values[17] = 2.5
    found = judge(["a"], values, np.array([2.0]), 1.0)
    assert found.label == "not proven"
    assert found.bounds[0].upper_usd == math.inf
    assert found.bounds[0].lower_usd > -math.inf
    assert "outside the range" in found.sentence


def test_a_value_below_the_range_leaves_the_upper_bound_valid() -> None:
    """It is lifted to the range, which can only hide some of the gain."""
    values = noise(-0.9, 2000)
    before = judge(["a"], values, np.array([2.0]), 1.0).bounds[0]
    values[17] = -1e6
    found = judge(["a"], values, np.array([2.0]), 1.0)
    assert found.label == "pays"
    assert found.bounds[0].lower_usd == -math.inf
    assert abs(found.bounds[0].upper_usd - before.upper_usd) < 0.01


def test_outliers_cannot_hide_in_blocks_of_many_rows() -> None:
    values = noise(-0.9, 100_000)
    values[17] = 2.5
    assert judge(["a"], values, np.array([2.0]), 1.0).bounds[0].upper_usd == math.inf


def test_blocks_of_many_rows_give_a_sharper_bound_and_the_same_mean() -> None:
    few = judge(["a"], noise(-0.1, 20_000), np.array([2.0]), 1.0).bounds[0]
    many = judge(["a"], noise(-0.1, 200_000), np.array([2.0]), 1.0).bounds[0]
    assert many.lower_usd < many.mean_usd < many.upper_usd
    assert many.upper_usd - many.lower_usd < 0.5 * (few.upper_usd - few.lower_usd)


def test_sorted_rows_are_judged_like_shuffled_ones() -> None:
    """Betting on rows in the order of their values would be a fraud."""
    values = noise(0.0, 3000)
    for ordered in (np.sort(values, axis=0), np.sort(values, axis=0)[::-1]):
        assert judge(["a"], ordered, np.array([2.0]), 1.0).label == "not proven"


def test_equal_outcomes_differ_by_exactly_nothing() -> None:
    rng = np.random.default_rng(0)
    cost, success = rng.random((100, 2)), rng.random((100, 2))
    found = differences(cost[:, 1], success[:, 1], cost, success, 0.1234567)
    assert (found[:, 1] == 0).all()
    assert found[:, 0] == pytest.approx(
        cost[:, 1] - cost[:, 0] - 0.1234567 * (success[:, 1] - success[:, 0])
    )


def test_without_a_finite_success_value_nothing_is_proven_but_identity() -> None:
    rng = np.random.default_rng(0)
    cost, success = rng.random((50, 2)), rng.random((50, 2))
    routed = np.where(np.arange(50) < 25, 0, 1)
    rows = np.arange(50)
    mixed = differences(cost[rows, routed], success[rows, routed], cost, success, math.inf)
    found = judge(["a", "b"], mixed, fixed_ranges(cost, math.inf), math.inf)
    assert found.label == "not proven"
    assert "no finite value" in found.sentence
    json.dumps(found.to_dict(), allow_nan=False)
    same = differences(cost[:, 0], success[:, 0], cost, success, math.inf)
    assert judge(["a", "b"], same, fixed_ranges(cost, math.inf), math.inf).label == "does not pay"


@pytest.mark.parametrize(
    ("mean", "loud"), [(-0.5, "PAYS"), (0.5, "DOES NOT PAY"), (0.0, "NOT PROVEN")]
)
def test_the_sentence_says_it_loudly_with_level_and_rows(mean: float, loud: str) -> None:
    found = judge(["mid"], noise(mean, 1500), np.array([2.0]), 0.25, confidence=0.9)
    assert loud in found.sentence
    assert found.sentence.endswith(".")
    for part in ("90 % confidence", "1,500 requests", "$0.25", "always-mid"):
        assert part in found.sentence


@pytest.mark.parametrize("mean", [0.0, 0.02])
def test_a_router_that_is_no_better_rarely_pays(mean: float) -> None:
    """At 90 % confidence a worthless router may be said to pay in one world of ten."""
    wrong = sum(
        judge(["a"], noise(mean, 120, seed), np.array([2.0]), 1.0, confidence=0.9).label == "pays"
        for seed in range(300)
    )
    assert wrong <= 45  # Binomial(300, .1) stays at or below 45 with probability .997
