"""Does the verdict err at most as often as stated?

Hundreds of data sets are drawn where the router is known to be exactly as good as some tier, or a
hair better. Saying *pays* is then wrong in the first case, saying *does not pay* in the second;
each may happen on one data set in ten at 90 % confidence. Bounds that are too narrow must be found
out by the same check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from training.synthetic import numeric_world
from training.verdict import differences, fixed_ranges, judge

pytestmark = pytest.mark.slow

FloatArray = npt.NDArray[np.float64]

N_DATA_SETS = 300
# A level that is kept is found broken by bad luck in one check of a thousand, at worst.
SLACK_QUANTILE = 0.999
# Differences from 0 that are rounding.
ROUNDING = 1e-12


def check_level(wrong: int, n: int, level: float) -> None:
    """AssertionError where ``wrong`` of ``n`` is more than errors at this level explain."""
    most = int(binom.ppf(SLACK_QUANTILE, n, level))
    assert wrong <= most, f"wrong on {wrong} of {n} data sets; at {level:.3g} at most {most}"


@dataclass(frozen=True)
class Draw:
    """What the router and the tiers that it is compared with cost and reached, row by row."""

    router_cost: FloatArray
    router_success: FloatArray
    cost: FloatArray
    success: FloatArray

    def differences(self, value: float) -> FloatArray:
        return differences(self.router_cost, self.router_success, self.cost, self.success, value)

    def ranges(self, value: float) -> FloatArray:
        return fixed_ranges(self.router_cost[:, None] - self.cost, value)


@dataclass(frozen=True)
class Case:
    """A router that flips a coin between tiers, compared with some tiers at a success value.

    The success value is the exchange rate of two of the tiers, so that in the long run the router
    is exactly as good as the ``equal`` ones among the ``rivals``, and better than the others.
    """

    kind: str
    shares: tuple[float, float, float]
    rivals: tuple[int, ...]
    exchange: tuple[int, int]
    equal: tuple[int, ...]
    heavy_tails: bool = False

    def value(self) -> float:
        world = numeric_world(self.kind, 1, 0)
        low, high = self.exchange
        dearer = world.true_cost_usd[high] - world.true_cost_usd[low]
        return float(dearer / (world.true_rate[high] - world.true_rate[low]))

    def true_differences(self) -> FloatArray:
        """Exact long-run mean difference to each rival, by the world's known means."""
        world = numeric_world(self.kind, 1, 0)
        loss = world.true_cost_usd - self.value() * world.true_rate
        return float(np.dot(self.shares, loss)) - loss[list(self.rivals)]

    def draw(self, n: int, seed: int) -> Draw:
        world = numeric_world(self.kind, n, seed)
        rng = np.random.default_rng([seed, 77])
        cost = world.cost
        if self.heavy_tails:  # of mean 1, and without an upper bound
            cost = cost * np.exp(1.5 * rng.standard_normal(cost.shape) - 1.5**2 / 2)
        rows, tier = np.arange(n), rng.choice(3, n, p=self.shares)
        rivals = list(self.rivals)
        return Draw(
            cost[rows, tier],
            world.success[rows, tier],
            cost[:, rivals],
            world.success[:, rivals],
        )


CASES = {
    # as good as the strongest tier, and far better than the cheapest
    "plain": Case("plain", (0, 0.5, 0.5), (0, 2), (1, 2), (1,)),
    # as good as both rivals
    "two at once": Case("plain", (0, 0.5, 0.5), (1, 2), (1, 2), (0, 1)),
    "near ties": Case("near_ties", (0, 0.3, 0.7), (0, 1), (1, 2), (1,)),
    "rare success": Case("rare_success", (0, 0.5, 0.5), (0, 2), (1, 2), (1,)),
    # now and then the rival is spared an enormous bill, now and then the router gets one
    "heavy tail against": Case("plain", (0, 0.5, 0.5), (0, 1), (1, 2), (1,), heavy_tails=True),
    "heavy tail in favour": Case("plain", (0, 0.5, 0.5), (0, 2), (1, 2), (1,), heavy_tails=True),
}

# For differences (n, T) and ranges (T,): lower bounds, upper bounds and label.
Bounds = Callable[[FloatArray, FloatArray, float, float], tuple[FloatArray, FloatArray, str]]


def real(
    found: FloatArray, ranges: FloatArray, value: float, confidence: float
) -> tuple[FloatArray, FloatArray, str]:
    names = [f"tier {i}" for i in range(found.shape[1])]
    verdict = judge(names, found, ranges, value, confidence=confidence)
    return (
        np.array([bound.lower_usd for bound in verdict.bounds]),
        np.array([bound.upper_usd for bound in verdict.bounds]),
        verdict.label,
    )


def one_standard_error(
    found: FloatArray, ranges: FloatArray, value: float, confidence: float
) -> tuple[FloatArray, FloatArray, str]:
    """Broken: the mean give or take one standard error."""
    mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(len(found))
    lower, upper = mean - error, mean + error
    label = "not proven"
    if (lower >= 0).any():
        label = "does not pay"
    elif (upper < 0).all():
        label = "pays"
    return lower, upper, label


@dataclass(frozen=True)
class Errors:
    """On how many data sets each thing was said wrongly."""

    pays: int
    does_not_pay: int


def count_errors(bounds: Bounds, case: Case, n: int, confidence: float) -> Errors:
    """Against equal tiers "pays" is wrong.

    Were the router a hair better than all, "does not pay" would be wrong: that is said where a
    lower bound lies above the true difference.
    """
    truth, value = case.true_differences(), case.value()
    pays = does_not_pay = 0
    for seed in range(N_DATA_SETS):
        # The ranges are fixed on other rows than those that are judged.
        ranges = case.draw(max(n // 2, 30), 2 * seed).ranges(value)
        found = case.draw(n, 2 * seed + 1).differences(value)
        lower, _, label = bounds(found, ranges, value, confidence)
        pays += label == "pays"
        does_not_pay += bool((lower > truth + ROUNDING).any())
    return Errors(pays, does_not_pay)


# ---------------------------------------------------------------- the levels


@pytest.mark.parametrize("name", list(CASES))
def test_the_cases_are_as_hard_as_they_say(name: str) -> None:
    case = CASES[name]
    truth = case.true_differences()
    equal = list(case.equal)
    assert np.abs(truth[equal]).max() < ROUNDING
    assert (np.delete(truth, equal) < -1e-4).all()
    # A large draw agrees with the closed form.
    found = case.draw(200_000, 12_345).differences(case.value())
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - truth) < 4.5 * error).all()


@pytest.mark.parametrize("n", [60, 700])
@pytest.mark.parametrize("name", list(CASES))
def test_the_verdict_is_wrong_at_most_as_often_as_stated(name: str, n: int) -> None:
    confidence = 0.9 if n == 60 else 0.95
    errors = count_errors(real, CASES[name], n, confidence)
    check_level(errors.pays, N_DATA_SETS, 1 - confidence)
    check_level(errors.does_not_pay, N_DATA_SETS, 1 - confidence)


def test_many_tiers_at_once_are_no_better_chance_to_err() -> None:
    """Five tiers as good as the router: each lower bound may use a fifth of the level."""
    n, n_tiers, wrong, pays = 60, 5, 0, 0
    for seed in range(N_DATA_SETS):
        rng = np.random.default_rng(seed)
        # Each tier's own luck counts more than the router's.
        found = rng.choice([-1.0, 1.0], (n, n_tiers)) - 0.3 * rng.choice([-1.0, 1.0], (n, 1))
        lower, _, label = real(found, np.full(n_tiers, 2.6), 1.0, 0.9)
        wrong += bool((lower > 0).any())
        pays += label == "pays"
    check_level(wrong, N_DATA_SETS, 0.1)
    check_level(pays, N_DATA_SETS, 0.1)


@pytest.mark.parametrize("n", [1, 60, 700])
def test_a_router_that_is_one_tier_never_pays(n: int) -> None:
    case = Case("plain", (0, 1, 0), (0, 1, 2), (0, 1), (0, 1))
    for seed in range(100):
        ranges = case.draw(n, 2 * seed).ranges(case.value())
        found = case.draw(n, 2 * seed + 1).differences(case.value())
        assert real(found, ranges, case.value(), 0.9)[2] == "does not pay"


# ---------------------------------------------------------------- the check can fail


@pytest.mark.parametrize("name", ["plain", "near ties", "heavy tail in favour"])
def test_bounds_that_are_too_narrow_are_found_out(name: str) -> None:
    errors = count_errors(one_standard_error, CASES[name], 60, 0.9)
    with pytest.raises(AssertionError, match="wrong on"):
        check_level(errors.pays, N_DATA_SETS, 0.1)
    with pytest.raises(AssertionError, match="wrong on"):
        check_level(errors.does_not_pay, N_DATA_SETS, 0.1)


# ---------------------------------------------------------------- not by never saying anything


def _share_of(label: str, shares_by_difficulty: Sequence[tuple[float, float]]) -> float:
    """How often the label is given to a router that sends (easy, hard) queries up so often.

    The cheap tier fails on most hard queries; the dear one costs ten times as much.
    """
    said = 0
    for seed in range(50):
        parts = []
        for half in (0, 1):
            rng = np.random.default_rng([seed, half])
            hard = (rng.random(700) < 0.5).astype(int)
            cost = np.array([0.001, 0.01]) * rng.uniform(0.5, 1.5, (700, 2))
            p = np.column_stack((np.where(hard == 1, 0.1, 0.95), np.full(700, 0.95)))
            success = (rng.random((700, 2)) < p).astype(float)
            up = (rng.random(700) < np.array(shares_by_difficulty)[0][hard]).astype(int)
            rows = np.arange(700)
            parts.append(Draw(cost[rows, up], success[rows, up], cost, success))
        ranges, found = parts[0].ranges(0.05), parts[1].differences(0.05)
        said += real(found, ranges, 0.05, 0.95)[2] == label
    return said / 50


def test_a_router_that_reads_the_queries_is_mostly_said_to_pay() -> None:
    assert _share_of("pays", [(0.0, 1.0)]) >= 0.9


def test_a_router_that_reads_them_backwards_is_mostly_said_not_to_pay() -> None:
    assert _share_of("does not pay", [(1.0, 0.0)]) >= 0.9


def test_a_router_that_flips_a_coin_is_not_said_to_pay() -> None:
    assert _share_of("pays", [(0.5, 0.5)]) == 0.0
