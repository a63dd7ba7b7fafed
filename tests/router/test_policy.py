"""Policies against their definitions: brute force over every alternative on small instances."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from router.errors import InputError
from router.policy import (
    Policy,
    cheapest_mix,
    choose,
    choose_one,
    min_cps_value,
    mix_hull,
    value_for_budget,
    value_sweep,
)

FloatArray = npt.NDArray[np.float64]

# Sixteenths: many ties, and sums and products that are exact in binary arithmetic.
P = st.integers(0, 16).map(lambda k: k / 16)
COST = st.integers(1, 16).map(lambda k: k / 16)
VALUE = st.integers(-6, 6).map(lambda k: 2.0**k) | st.just(0.0)


@st.composite
def problems(draw: st.DrawFn, max_n: int = 8, max_t: int = 5) -> tuple[FloatArray, FloatArray]:
    """(P(success), cost), both (n, T)."""
    shape = draw(st.integers(1, max_n)), draw(st.integers(1, max_t))
    return draw(arrays(float, shape, elements=P)), draw(arrays(float, shape, elements=COST))


@st.composite
def tier_means(draw: st.DrawFn) -> tuple[FloatArray, FloatArray]:
    """(mean cost, mean success), both (T,)."""
    n_tiers = draw(st.integers(1, 9))
    return (
        draw(arrays(float, n_tiers, elements=COST)),
        draw(arrays(float, n_tiers, elements=P)),
    )


# ---------------------------------------------------------------- choose


@given(problems(), VALUE)
def test_choose_takes_least_loss_then_least_cost_then_most_success_then_the_first(
    problem: tuple[FloatArray, FloatArray], value: float
) -> None:
    p, cost = problem
    for row, tier in enumerate(choose(p, cost, value)):
        ranked = [
            (cost[row, t] - value * p[row, t], cost[row, t], -p[row, t], t)
            for t in range(p.shape[1])
        ]
        assert tier == min(ranked)[-1]


def test_tiers_that_lose_equally_much() -> None:
    p = np.array([[0.75, 0.5, 0.5, 0.25]])
    cost = np.array([[0.75, 0.5, 0.5, 0.5]])
    assert choose(p, cost, 1.0).tolist() == [1]  # equal losses: the lower cost, then the first
    assert choose_one(p[0].tolist(), cost[0].tolist(), 1.0) == 1
    assert choose(p[:, ::-1], cost[:, ::-1], 1.0).tolist() == [1]
    # Where success is worth nothing, the likeliest of the cheapest.
    assert choose(p[:, ::-1], cost[:, ::-1], 0.0).tolist() == [1]
    assert choose_one(p[0, ::-1].tolist(), cost[0, ::-1].tolist(), 0.0) == 1


@given(problems(), VALUE)
def test_one_at_a_time_chooses_the_same(
    problem: tuple[FloatArray, FloatArray], value: float
) -> None:
    p, cost = problem
    one_by_one = [choose_one(p[i].tolist(), cost[i].tolist(), value) for i in range(len(p))]
    assert one_by_one == choose(p, cost, value).tolist()


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
def test_one_at_a_time_chooses_the_same_of_any_numbers(seed: int, value: float) -> None:
    rng = np.random.default_rng(seed)
    p, cost = rng.random((20, 4)), np.exp(rng.normal(-6, 3, (20, 4)))
    one_by_one = [choose_one(p[i].tolist(), cost[i].tolist(), value) for i in range(20)]
    assert one_by_one == choose(p, cost, value).tolist()


@given(problems(), VALUE, st.data())
def test_tiers_that_are_not_allowed_might_as_well_not_exist(
    problem: tuple[FloatArray, FloatArray], value: float, data: st.DataObject
) -> None:
    p, cost = problem
    allowed = data.draw(arrays(bool, p.shape))
    allowed[:, data.draw(st.integers(0, p.shape[1] - 1))] = True
    for row, tier in enumerate(choose(p, cost, value, allowed)):
        usable = np.flatnonzero(allowed[row])
        sub = choose(p[row : row + 1, usable], cost[row : row + 1, usable], value)
        assert tier == usable[sub[0]]


@given(problems(), VALUE, VALUE)
def test_a_success_worth_more_never_lowers_the_expected_success_or_cost(
    problem: tuple[FloatArray, FloatArray], one: float, other: float
) -> None:
    p, cost = problem
    rows = np.arange(len(p))
    low, high = (choose(p, cost, value) for value in sorted((one, other)))
    assert (p[rows, high] >= p[rows, low]).all()
    assert (cost[rows, high] >= cost[rows, low]).all()


@given(problems(), VALUE, st.randoms(use_true_random=False))
def test_the_order_of_the_tiers_changes_no_choice(
    problem: tuple[FloatArray, FloatArray], value: float, random: object
) -> None:
    p, cost = problem
    order = list(range(p.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = np.arange(len(p))
    tier, moved = choose(p, cost, value), choose(p[:, order], cost[:, order], value)
    # Tiers that tie in loss and in cost are the same choice.
    assert (p[rows, tier] == p[:, order][rows, moved]).all()
    assert (cost[rows, tier] == cost[:, order][rows, moved]).all()


@given(problems(), VALUE, st.integers(-30, 30))
def test_the_unit_of_money_changes_no_choice(
    problem: tuple[FloatArray, FloatArray], value: float, exponent: int
) -> None:
    p, cost = problem
    unit = 2.0**exponent
    assert (choose(p, cost, value) == choose(p, cost * unit, value * unit)).all()


# ---------------------------------------------------------------- least CPS


@given(problems(max_n=4, max_t=3))
def test_dinkelbach_finds_the_least_ratio_of_sums_of_all_policies(
    problem: tuple[FloatArray, FloatArray],
) -> None:
    p, cost = problem
    rows = np.arange(len(p))
    best = math.inf
    for tiers in product(range(p.shape[1]), repeat=len(p)):
        succeeded = p[rows, list(tiers)].sum()
        if succeeded > 0:
            best = min(best, cost[rows, list(tiers)].sum() / succeeded)
    assert min_cps_value(p, cost) == pytest.approx(best, rel=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_choosing_at_the_least_cps_value_reaches_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, cost = rng.uniform(0.05, 1, (30, 3)), np.exp(rng.normal(-6, 2, (30, 3)))
    value = min_cps_value(p, cost)
    rows = np.arange(30)
    tier = choose(p, cost, value)
    assert cost[rows, tier].sum() / p[rows, tier].sum() == pytest.approx(value, rel=1e-9)


def test_the_least_ratio_per_request_is_not_the_least_ratio_of_sums() -> None:
    rows = np.arange(2)
    p, cost = np.array([[0.5, 1.0], [1.0, 1.0]]), np.array([[1.0, 2.1], [10.0, 10.0]])
    naive = (cost / p).argmin(axis=1)
    assert min_cps_value(p, cost) < cost[rows, naive].sum() / p[rows, naive].sum() - 1.0


def test_least_cps_where_nothing_or_everything_is_free() -> None:
    never, some = np.zeros((3, 2)), np.full((3, 2), 0.5)
    assert min_cps_value(never, np.ones((3, 2))) == math.inf
    assert min_cps_value(np.empty((0, 2)), np.empty((0, 2))) == math.inf
    assert min_cps_value(some, np.array([[0.0, 1.0]] * 3)) == 0.0
    # A tier that is free and never succeeds ties with the best ratio and must not hide it.
    assert min_cps_value(np.array([[0.0, 1.0]]), np.array([[0.0, 2.0]])) == 2.0


@given(problems(), st.integers(-30, 30))
def test_least_cps_is_in_the_unit_of_money(
    problem: tuple[FloatArray, FloatArray], exponent: int
) -> None:
    p, cost = problem
    unit = 2.0**exponent
    assert min_cps_value(p, cost * unit) == min_cps_value(p, cost) * unit


# ---------------------------------------------------------------- sweep and budget


@given(problems(max_n=12), st.integers(3, 20))
def test_the_sweep_goes_down_from_most_success_to_least_cost(
    problem: tuple[FloatArray, FloatArray], n_values: int
) -> None:
    p, cost = problem
    values = value_sweep(p, cost, n_values)
    assert 1 <= len(values) <= n_values
    assert (np.diff(values) < 0).all() and values[-1] == 0.0
    rows = np.arange(len(p))
    assert (p[rows, choose(p, cost, float(values[0]))] == p.max(axis=1)).all()
    assert (cost[rows, choose(p, cost, 0.0)] == cost.min(axis=1)).all()
    played = [cost[rows, choose(p, cost, float(value))].sum() for value in values]
    assert (np.diff(played) <= 0).all()


@given(problems(max_n=3, max_t=3))
def test_a_long_enough_sweep_misses_no_policy_of_the_curve(
    problem: tuple[FloatArray, FloatArray],
) -> None:
    """Every policy that is best over a range of success values at least 3 % wide is found."""
    p, cost = problem
    found = {tuple(choose(p, cost, float(value))) for value in value_sweep(p, cost, 500)}
    on_a_fine_grid = [tuple(choose(p, cost, float(v))) for v in np.geomspace(1e-2, 1e3, 1200)]
    # Neighbours on the grid are 1 % apart.
    for one, two in zip(on_a_fine_grid, on_a_fine_grid[3:], strict=False):
        assert one != two or one in found


def test_the_sweep_follows_the_share_of_requests_that_move() -> None:
    """Half of the requests move at $1 and half around $1000: half of the values go to each."""
    extra = np.concatenate([np.linspace(1.0, 1.5, 100), np.linspace(1000.0, 1500.0, 100)])
    p = np.tile([0.0, 1.0], (200, 1))
    cost = np.column_stack([np.zeros(200), extra])
    values = value_sweep(p, cost, 41)
    assert len(values) == 41
    assert 18 <= (values > 500).sum() <= 22


@given(problems(max_n=8), st.floats(0.05, 1.2))
def test_a_budget_buys_the_most_success_that_the_curve_has_for_it(
    problem: tuple[FloatArray, FloatArray], budget: float
) -> None:
    p, cost = problem
    rows = np.arange(len(p))

    def played(value: float) -> tuple[float, float]:
        tier = choose(p, cost, value)
        return float(cost[rows, tier].mean()), float(p[rows, tier].mean())

    if cost.min(axis=1).mean() > budget:
        with pytest.raises(InputError, match="budget"):
            value_for_budget(p, cost, budget)
        return
    spent, gained = played(value_for_budget(p, cost, budget))
    assert spent <= budget
    for value in value_sweep(p, cost, 512):
        other_spent, other_gained = played(float(value))
        assert other_spent > budget or other_gained <= gained


# ---------------------------------------------------------------- mixes of single tiers


@given(tier_means())
def test_the_hull_rises_ever_more_steeply_and_nothing_lies_below_it(
    means: tuple[FloatArray, FloatArray],
) -> None:
    cost, success = means
    hull = mix_hull(cost, success)
    x, y = success[hull], cost[hull]
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
    slopes = np.diff(y) / np.diff(x)
    assert (np.diff(slopes) > 0).all()
    assert y[0] == cost.min()
    assert x[-1] == success.max()
    for tier in range(len(cost)):
        assert cost[tier] >= np.interp(success[tier], x, y) - 1e-12


@given(tier_means(), st.randoms(use_true_random=False))
def test_the_hull_does_not_depend_on_the_order_of_the_tiers(
    means: tuple[FloatArray, FloatArray], random: object
) -> None:
    cost, success = means
    order = list(range(len(cost)))
    random.shuffle(order)  # type: ignore[attr-defined]
    hull, moved = mix_hull(cost, success), mix_hull(cost[order], success[order])
    corners = [(cost[t], success[t]) for t in hull]
    assert corners == [(cost[order][t], success[order][t]) for t in moved]


@given(tier_means(), st.floats(0.0, 1.0))
def test_the_cheapest_mix_is_the_cheapest_of_all_coin_flips(
    means: tuple[FloatArray, FloatArray], target: float
) -> None:
    cost, success = means
    mix = cheapest_mix(cost, success, target)
    blended = (1 - mix.share_high) * success[mix.low] + mix.share_high * success[mix.high]
    paid = (1 - mix.share_high) * cost[mix.low] + mix.share_high * cost[mix.high]
    assert paid == pytest.approx(mix.cost_usd)
    assert 0.0 <= mix.share_high <= 1.0
    if target > success.max():
        assert not mix.reached or target - success.max() < 1e-11
        assert blended == success.max()
        assert paid == cost[success == success.max()].min()
        return
    assert mix.reached
    assert blended >= target - 1e-11
    # With one constraint some best mixture has at most two tiers.
    best = math.inf
    for a in range(len(cost)):
        for b in range(len(cost)):
            if success[a] >= target:
                best = min(best, cost[a])
            elif success[b] >= target:
                share = (target - success[a]) / (success[b] - success[a])
                best = min(best, cost[a] + share * (cost[b] - cost[a]))
    assert mix.cost_usd == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_the_cheapest_mix_solves_the_linear_programme(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_tiers = int(rng.integers(2, 9))
    success, cost = rng.random(n_tiers), np.exp(rng.normal(-6, 2, n_tiers))
    target = float(rng.uniform(success.min(), success.max()))
    solved = linprog(
        cost / cost.max(),
        A_ub=-success[None],
        b_ub=[-target],
        A_eq=np.ones((1, n_tiers)),
        b_eq=[1.0],
    )
    assert solved.success
    assert cheapest_mix(cost, success, target).cost_usd == pytest.approx(
        solved.fun * cost.max(), rel=1e-7
    )


def test_a_rate_that_differs_by_rounding_is_the_same_rate() -> None:
    best = 0.1 + 0.2  # 0.30000000000000004
    mix = cheapest_mix([1.0, 2.0], [0.1, 0.3], best)
    assert (mix.reached, mix.share_high, mix.cost_usd) == (True, 1.0, 2.0)
    assert cheapest_mix([1.0, 2.0], [0.3, 0.9], best).cost_usd == 1.0
    assert not cheapest_mix([1.0, 2.0], [0.1, 0.3], 0.3001).reached


# ---------------------------------------------------------------- Policy


@st.composite
def policies(draw: st.DrawFn, n_tiers: int) -> Policy:
    tier = st.integers(0, n_tiers - 1)
    value, safe, strongest = draw(VALUE), draw(tier), draw(tier)
    kind = draw(st.sampled_from(["value", "tier", "mix"]))
    if kind == "value":
        return Policy("value", value, safe, strongest)
    if kind == "tier" or n_tiers == 1:
        return Policy.single(draw(tier), value, safe, strongest)
    low = draw(tier)
    high = draw(tier.filter(lambda t: t != low))
    return Policy("mix", value, safe, strongest, low, high, draw(st.integers(1, 19)) / 20)


@given(problems(), st.data())
def test_action_dist_is_a_distribution_over_allowed_tiers(
    problem: tuple[FloatArray, FloatArray], data: st.DataObject
) -> None:
    p, cost = problem
    policy = data.draw(policies(p.shape[1]))
    unknown = data.draw(arrays(bool, len(p)))
    allowed = data.draw(arrays(bool, p.shape))
    allowed[:, data.draw(st.integers(0, p.shape[1] - 1))] = True
    free = policy.action_dist(p, cost, unknown)
    limited = policy.action_dist(p, cost, unknown, allowed)
    for dist in (free, limited):
        assert dist.shape == p.shape
        assert (dist >= 0).all()
        assert dist.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert (limited[~allowed] == 0).all()
    fallback = choose(p, cost, policy.success_value_usd, allowed)
    for row in range(len(p)):
        inside = free[row] * allowed[row]
        if inside.sum() == 0:  # nothing that the policy wants can take the request
            assert limited[row, fallback[row]] == 1.0
        else:  # what is left keeps its proportions
            assert limited[row] == pytest.approx(inside / inside.sum())


@given(problems(), st.data())
def test_the_certain_tier_is_the_one_that_action_dist_is_certain_of(
    problem: tuple[FloatArray, FloatArray], data: st.DataObject
) -> None:
    p, cost = problem
    policy = data.draw(policies(p.shape[1]))
    unknown = data.draw(arrays(bool, len(p)))
    dist = policy.action_dist(p, cost, unknown)
    for row in range(len(p)):
        tier = policy.certain_tier(p[row].tolist(), cost[row].tolist(), bool(unknown[row]))
        if tier is None:
            assert 0.0 < dist[row].max() < 1.0
        else:
            assert dist[row, tier] == 1.0


def test_each_kind_plays_what_it_says() -> None:
    p, cost = np.array([[0.5, 0.9, 0.95]] * 3), np.array([[0.001, 0.01, 0.1]] * 3)
    unknown = np.array([False, False, True])
    value = Policy("value", 0.1, 2, 2)
    assert value.action_dist(p, cost, unknown).argmax(axis=1).tolist() == [1, 1, 2]
    single = Policy.single(0, 0.1, 1, 2)
    assert single.action_dist(p, cost, unknown).argmax(axis=1).tolist() == [0, 0, 1]
    mix = Policy("mix", 0.1, 2, 2, 0, 2, 0.25)
    assert mix.action_dist(p, cost, unknown).tolist() == [[0.75, 0, 0.25]] * 2 + [[0, 0, 1]]
    assert mix.action_dist(p, cost).tolist() == [[0.75, 0, 0.25]] * 3


@given(st.data())
def test_a_policy_survives_the_manifest(data: st.DataObject) -> None:
    policy = data.draw(policies(4))
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
