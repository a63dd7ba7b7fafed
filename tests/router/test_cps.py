from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cps import CpsTracker, cost_per_success, cps_fields
from router.errors import InputError

OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from(["nano", "mid", "frontier"]),
        st.floats(0, 10, allow_subnormal=False),
        st.floats(0, 1, allow_subnormal=False),
    ),
    max_size=40,
)


def filled(outcomes: list[tuple[str, float, float]]) -> CpsTracker:
    tracker = CpsTracker()
    for tier, cost, success in outcomes:
        tracker.record(tier, cost, success)
    return tracker


@pytest.mark.parametrize(
    ("successes", "n", "cost_usd", "expected"),
    [
        (423, 450, 0.018, "0.0000426"),
        (368, 380, 0.095, "0.000258"),
        (168, 170, 2.856, "0.0170"),
        (990, 1000, 16.80, "0.01697"),
    ],
)
def test_published_figures(successes: int, n: int, cost_usd: float, expected: str) -> None:
    digits = len(expected.split(".")[1])
    assert f"{cost_per_success(cost_usd, successes):.{digits}f}" == expected

    tracker = CpsTracker()
    for i in range(n):
        tracker.record("tier", cost_usd / n, i < successes)
    assert f"{tracker.cps('tier'):.{digits}f}" == expected
    row = tracker.report()["tiers"]["tier"]
    assert (row["n"], row["successes"]) == (n, successes)
    assert row["success_rate"] == successes / n


def test_it_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    tracker = filled([("a", 1.0, 1.0), ("a", 9.0, 0.0), ("a", 2.0, 1.0)])
    assert tracker.cps("a") == 6.0


def test_all_tiers_together_weigh_by_dollars_and_successes() -> None:
    tracker = filled([("cheap", 1.0, 1.0), ("cheap", 1.0, 1.0), ("dear", 10.0, 1.0)])
    assert tracker.cps() == 4.0
    assert tracker.report()["total"]["cps_usd"] == 4.0


@pytest.mark.parametrize("cost_usd", [0.0, 3.0])
def test_without_success_it_is_infinite_and_still_json(cost_usd: float) -> None:
    tracker = filled([("a", cost_usd, 0.0)])
    assert tracker.cps("a") == math.inf
    row = json.loads(json.dumps(tracker.report(), allow_nan=False))["tiers"]["a"]
    assert row["cps_usd"] is None
    assert row["cps_is_infinite"] is True


def test_a_tier_that_was_never_used_has_no_success() -> None:
    assert CpsTracker().cps("nobody") == math.inf
    assert CpsTracker().report()["total"]["success_rate"] is None


def test_arrays_of_sums_element_by_element() -> None:
    found = cost_per_success(np.array([1.0, 2.0]), np.array([4.0, 0.0]))
    assert found.tolist() == [0.25, math.inf]


def test_fields_carry_the_value_where_it_is_finite() -> None:
    assert cps_fields(1.0, 4.0) == {"cps_usd": 0.25, "cps_is_infinite": False}


@pytest.mark.parametrize("cost_usd", [math.nan, math.inf, -0.01, None, "unknown"])
def test_an_unknown_cost_is_an_error_and_never_zero(cost_usd: object) -> None:
    tracker = CpsTracker()
    with pytest.raises(InputError, match="known cost_usd"):
        tracker.record("a", cost_usd, True)  # type: ignore[arg-type]
    assert tracker.report()["tiers"] == {}


@pytest.mark.parametrize("success", [-0.1, 1.1, math.nan, None])
def test_success_must_lie_between_0_and_1(success: object) -> None:
    with pytest.raises(InputError, match="success between 0 and"):
        CpsTracker().record("a", 1.0, success)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tier", "n"), [(None, 1), (7, 1), ("a", 1.5), ("a", 2.0), ("a", True)])
def test_a_tier_is_named_and_outcomes_are_counted_in_whole_numbers(tier: object, n: object) -> None:
    tracker = CpsTracker()
    with pytest.raises(InputError, match="a tier's name and a whole number of outcomes"):
        tracker.record(tier, 1.0, 1.0, n=n)  # type: ignore[arg-type]
    tracker.record("a", 1.0, 1.0, n=np.int64(2))  # type: ignore[arg-type]
    assert json.loads(json.dumps(tracker.report()))["total"]["n"] == 2


@pytest.mark.parametrize(("cost_usd", "successes"), [(math.nan, 1.0), (1.0, math.nan), (-1.0, 1.0)])
def test_sums_that_cannot_be_are_refused(cost_usd: float, successes: float) -> None:
    with pytest.raises(InputError, match="known, finite and not negative"):
        cost_per_success(cost_usd, successes)


@given(OUTCOMES, st.integers(0, 40))
def test_merging_parts_from_other_processes_equals_one_tracker(
    outcomes: list[tuple[str, float, float]], cut: int
) -> None:
    sent = json.dumps(filled(outcomes[cut:]).to_dict(), allow_nan=False)
    merged = filled(outcomes[:cut]).merge(CpsTracker.from_dict(json.loads(sent)))
    whole = filled(outcomes)
    assert merged.report()["tiers"].keys() == whole.report()["tiers"].keys()
    for tier, row in whole.report()["tiers"].items():
        found = merged.report()["tiers"][tier]
        assert found["n"] == row["n"]
        assert found["total_cost_usd"] == pytest.approx(row["total_cost_usd"], rel=1e-14)
        assert found["successes"] == pytest.approx(row["successes"], rel=1e-14)


def test_merging_a_tracker_into_itself_doubles_it() -> None:
    tracker = filled([("a", 2.0, 1.0)])
    assert tracker.merge(tracker).report()["tiers"]["a"]["n"] == 2


def test_many_small_costs_lose_no_digits() -> None:
    costs = [0.1] * 10_000 + [1e6]
    tracker = filled([("a", cost, 1.0) for cost in costs])
    assert tracker.report()["tiers"]["a"]["total_cost_usd"] == math.fsum(costs)
    plain = 0.0
    for cost in costs:
        plain += cost
    assert plain != math.fsum(costs)  # what adding one by one would have said


def test_threads_lose_no_outcome() -> None:
    tracker = CpsTracker()

    def work() -> None:
        for _ in range(2000):
            tracker.record("a", 0.5, True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = tracker.report()["tiers"]["a"]
    assert (row["n"], row["successes"], row["total_cost_usd"]) == (16_000, 16_000.0, 8000.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"format": 2, "tiers": {}},
        {"format": 1, "tiers": {"a": {"n": 1}}},
        {"format": 1, "tiers": [1]},
        {"format": 1, "tiers": {"a": {"n": 1, "successes": 2, "total_cost_usd": 1.0}}},
    ],
)
def test_a_state_of_something_else_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(InputError):
        CpsTracker.from_dict(state)
