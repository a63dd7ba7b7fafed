"""Objectives, the choice between families and the floor menu, checked against brute force."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from router.certificate import Floor
from router.errors import InputError, TiersError
from router.policy import Policy, cheapest_mix, choose, value_for_budget, value_sweep
from router.selection import CalibrationRows
from router.tiers import Tier, TierSet
from training import search
from training.search import (
    Objective,
    Rows,
    choose_policy,
    decision_values,
    describe_policy,
    floor_menu,
    pick_family,
)

FloatArray = npt.NDArray[np.float64]

TIERS = TierSet([Tier(name, "p", f"m-{name}") for name in ("nano", "mid", "frontier")])
COST = np.array([0.001, 0.004, 0.1])


def outcomes(n: int, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(p, success, cost), each (n, 3): half of the requests are easy, which p shows."""
    rng = np.random.default_rng(seed)
    easy = rng.random(n)[:, None] < 0.5
    p = np.where(easy, [0.95, 0.97, 0.99], [0.2, 0.75, 0.95])
    success = (rng.random((n, 3)) < p).astype(float)
    return p, success, COST * rng.uniform(0.5, 1.5, (n, 3))


def calibration(n: int, seed: int = 0) -> CalibrationRows:
    p, success, cost = outcomes(n, seed)
    return CalibrationRows(p, np.tile(COST, (n, 1)), success, cost, np.zeros(n, dtype=bool))


def options(**changes: Any) -> dict[str, Any]:
    return {
        "tiers": TIERS,
        "tier_success": np.array([0.575, 0.86, 0.97]),
        "tier_cost_usd": COST,
        "strongest": 2,
        "safe_tier": 2,
        "confidence": 0.95,
        **changes,
    }


# Objectives


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"rate": 0.0}, "success floor between 0 and 1, got 0"),
        ({"rate": 1.0}, "success floor between 0 and 1, got 1"),
        ({"rate": 95.0}, "success floor between 0 and 1, got 95"),
        ({"rate": math.nan}, "success floor between 0 and 1, got nan"),
        ({"margin": 0.05}, "margin from -1 to 0 below a tier, got 0.05"),
        ({"margin": -1.0}, "margin from -1 to 0 below a tier, got -1"),
        ({"margin": math.nan}, "margin from -1 to 0 below a tier, got nan"),
        ({"kind": "value"}, "dollars above 0 for the value, got nan"),
        ({"kind": "value", "amount_usd": 0.0}, "dollars above 0 for the value, got 0"),
        ({"kind": "value", "amount_usd": math.inf}, "dollars above 0 for the value, got inf"),
        ({"kind": "budget", "amount_usd": -1.0}, "dollars above 0 for the budget, got -1"),
        ({"kind": "cheap"}, "an objective among floor, value, budget, min-cps, got 'cheap'"),
    ],
)
def test_an_impossible_objective_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        Objective(**arguments)


def test_what_an_objective_does_not_use_is_not_checked() -> None:
    assert Objective("min-cps", margin=3.0).floor(TIERS, 2) is None
    assert Objective("value", amount_usd=0.01, rate=7.0).floor(TIERS, 2) is None


@pytest.mark.parametrize(
    ("objective", "floor", "words"),
    [
        (
            Objective(),
            Floor(margin=-0.05, relative_to=1),
            "success rate >= that of strongest - 0.05",
        ),
        (
            Objective(margin=-0.02, relative_to="nano"),
            Floor(margin=-0.02, relative_to=0),
            "success rate >= that of nano - 0.02",
        ),
        (
            Objective(margin=0.0),
            Floor(margin=0.0, relative_to=1),
            "success rate >= that of strongest",
        ),
        (Objective(rate=0.9), Floor(rate=0.9), "success rate >= 0.9"),
        (Objective("value", amount_usd=0.01), None, "a success is worth $0.01"),
        (Objective("budget", amount_usd=0.002), None, "at most $0.002 per request"),
        (Objective("min-cps"), None, "least cost per success, whatever the success rate"),
    ],
)
def test_an_objectives_floor_and_words(
    objective: Objective, floor: Floor | None, words: str
) -> None:
    assert objective.floor(TIERS, strongest=1) == floor
    assert objective.describe() == words


def test_a_floor_relative_to_an_unknown_tier_names_the_tiers() -> None:
    with pytest.raises(TiersError, match="nano, mid, frontier"):
        Objective(relative_to="fronteer").floor(TIERS, 2)


# Decision values


def test_decision_values_without_a_floor_are_sums_over_weighted_rows() -> None:
    p, success, cost = outcomes(6)
    rows = Rows(p, np.tile(COST, (6, 1)), success, cost)
    weights = np.random.default_rng(1).dirichlet(np.ones(6), size=3)

    def by_hand(value: float) -> tuple[FloatArray, FloatArray]:
        s, c = np.zeros(3), np.zeros(3)
        for i in range(6):
            loss = [COST[t] - value * p[i, t] for t in range(3)]
            tier = int(np.argmin(loss))
            s += weights[:, i] * success[i, tier]
            c += weights[:, i] * cost[i, tier]
        return s, c

    s, c = by_hand(0.02)
    got = decision_values(Objective("value", amount_usd=0.02), None, rows, weights)
    np.testing.assert_allclose(got, c - 0.02 * s)

    # A budget: the largest success value whose expected cost is within it.
    mean_cost = {
        float(v): COST[choose(p, rows.cost_usd, float(v))].mean()
        for v in value_sweep(p, rows.cost_usd, 512)
    }
    value = max(v for v, mean in mean_cost.items() if mean <= 0.01)
    got = decision_values(Objective("budget", amount_usd=0.01), None, rows, weights)
    np.testing.assert_allclose(got, -by_hand(value)[0])

    least = min(
        COST[list(tiers)].sum() / p[np.arange(6), list(tiers)].sum()
        for tiers in itertools.product(range(3), repeat=6)
    )
    s, c = by_hand(least * (1 + 1e-9))
    got = decision_values(Objective("min-cps"), None, rows, weights)
    np.testing.assert_allclose(got, c / s)


def test_the_decision_value_of_a_floor_is_what_reaching_it_costs_beside_the_mix() -> None:
    p, success, cost = outcomes(50)
    rows = Rows(p, np.tile(COST, (50, 1)), success, cost)
    weights = np.full((1, 50), 1 / 50)
    curve = []
    for value in value_sweep(p, rows.cost_usd, 128):
        tier = choose(p, rows.cost_usd, float(value))
        curve.append((success[np.arange(50), tier].mean(), float(cost[np.arange(50), tier].mean())))

    def cost_at(rate: float) -> float:
        reached = [c for s, c in curve if s >= rate - 1e-9]  # rates are multiples of 0.02
        strongest = int(success.mean(axis=0).argmax())
        return min([*reached, float(cost[:, strongest].mean())])

    for floor, base in (
        (Floor(rate=0.8), 0.8),
        (Floor(margin=-0.055, relative_to=2), success[:, 2].mean() - 0.055),
    ):
        wanted = base + np.linspace(-0.03, 0.03, 9)
        mixed = [cheapest_mix(cost.mean(axis=0), success.mean(axis=0), f).cost_usd for f in wanted]
        expected = sum(cost_at(f) for f in wanted) / sum(mixed)
        (got,) = decision_values(Objective(), floor, rows, weights)
        assert got == pytest.approx(expected)
    # What no policy reaches costs as much as the strongest tier, as does the mix.
    (got,) = decision_values(Objective(), Floor(rate=0.9999), rows, weights)
    assert got == pytest.approx(1.0, abs=0.05)


# Families


def families(n: int, blur: dict[str, float]) -> dict[str, Rows]:
    """Families that see the truth through noise in the logit."""
    p, success, cost = outcomes(n)
    found = {}
    for index, (name, noise) in enumerate(blur.items()):
        rng = np.random.default_rng(100 + index)
        logit = np.log(p / (1 - p)) + noise * rng.normal(size=p.shape)
        found[name] = Rows(1 / (1 + np.exp(-logit)), np.tile(COST, (n, 1)), success, cost)
    return found


@pytest.mark.parametrize(
    "objective",
    [Objective(), Objective(rate=0.9), Objective("value", amount_usd=0.05)],
)
def test_a_family_that_decides_clearly_worse_loses_whatever_its_log_loss(
    objective: Objective,
) -> None:
    candidates = families(2000, {"blind": 6.0, "seeing": 0.1})
    floor = objective.floor(TIERS, 2)
    best, values = pick_family(objective, floor, candidates, 0)
    assert best == "seeing"
    assert values["seeing"] < values["blind"]
    weights = np.full((1, 2000), 1 / 2000)
    for name, rows in candidates.items():
        assert values[name] == pytest.approx(decision_values(objective, floor, rows, weights)[0])


def test_of_families_that_decide_about_as_well_the_first_is_taken() -> None:
    candidates = families(300, {"a": 0.1, "b": 0.1, "blind": 6.0})
    floor = Floor(margin=-0.05, relative_to=2)
    for order in ("a", "b", "blind"), ("blind", "b", "a"):
        best, values = pick_family(Objective(), floor, {n: candidates[n] for n in order}, 0)
        assert best == next(name for name in order if name != "blind")
        assert values["a"] != values["b"]


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    # What a success is worth varies much from sample to sample, the difference between the families
    # hardly: one of them pays 5 % more for the same. No sample says otherwise, so that log-loss
    # does not decide.
    p, success, cost = outcomes(300)
    rows = Rows(p, np.tile(COST, (300, 1)), success, cost)
    dearer = Rows(p, np.tile(COST, (300, 1)), success, 1.05 * cost)
    objective = Objective("value", amount_usd=0.5)
    s, c = rows.played(0.5)
    assert 0.05 * c.mean() < 0.5 * s.std() / np.sqrt(300)
    best, _ = pick_family(objective, None, {"dear": dearer, "cheap": rows}, 0)
    assert best == "cheap"


def test_equal_families_the_first_named_wins_and_a_seed_reproduces() -> None:
    (rows,) = families(200, {"a": 0.5}).values()
    both = {"first": rows, "second": rows}
    one, other = (pick_family(Objective(), Floor(rate=0.9), both, 7) for _ in range(2))
    assert one == other
    assert one[0] == "first"


def test_many_rows_are_compared_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MAX_ROWS_COMPARED", 500)
    candidates = families(3000, {"blind": 6.0, "seeing": 0.1})
    floor = Floor(margin=-0.05, relative_to=2)
    best, values = pick_family(Objective(), floor, candidates, 0)
    assert best == "seeing"
    monkeypatch.setattr(search, "_MAX_ROWS_COMPARED", 3000)
    _, on_all = pick_family(Objective(), floor, candidates, 0)
    assert values != on_all
    assert values["seeing"] == pytest.approx(on_all["seeing"], rel=0.5)


# Policies


def test_a_success_value_is_the_policy() -> None:
    choice = choose_policy(Objective("value", amount_usd=0.03), calibration(50), **options())
    assert choice.policy == Policy("value", 0.03, 2, 2)
    assert choice.certificate is None and choice.warnings == []


def test_the_policy_of_a_budget_spends_as_much_of_it_as_it_can() -> None:
    rows = calibration(200)
    choice = choose_policy(Objective("budget", amount_usd=0.02), rows, **options())

    def mean_cost(value: float) -> float:
        tier = choose(rows.p_success, rows.cost_usd, value)
        return float(rows.cost_usd[np.arange(200), tier].mean())

    assert choice.policy.kind == "value"
    assert mean_cost(choice.policy.success_value_usd) <= 0.02
    for value in value_sweep(rows.p_success, rows.cost_usd, 512):
        assert value <= choice.policy.success_value_usd or mean_cost(float(value)) > 0.02


def test_a_budget_counts_queries_out_of_distribution_at_the_safe_tiers_cost() -> None:
    rows = calibration(400)
    unknown = np.arange(400) % 10 == 0
    rows = replace(rows, cost_usd=rows.realised_cost_usd, out_of_distribution=unknown)

    def spent(value: float, safe_tier: int) -> float:
        return float(rows.played(Policy("value", value, safe_tier, 2))[1].mean())

    budget = 0.02
    regardless = value_for_budget(rows.p_success, rows.cost_usd, budget)
    for safe_tier in (0, 2):
        choice = choose_policy(
            Objective("budget", amount_usd=budget), rows, **options(safe_tier=safe_tier)
        )
        assert 0.98 * budget <= spent(choice.policy.success_value_usd, safe_tier) <= budget
    # One request in ten costs a tenth of a dollar without a choice, or hardly anything.
    assert spent(regardless, 0) < 0.95 * budget < 1.05 * budget < spent(regardless, 2)
    # What the safe tier alone costs cannot be chosen away.
    least = rows.cost_usd.min(axis=1)[~unknown].sum() + rows.cost_usd[unknown, 2].sum()
    with pytest.raises(InputError, match=re.escape(f"at least ${least / 400:.6g} per request")):
        choose_policy(Objective("budget", amount_usd=0.005), rows, **options())


def test_least_cost_per_success_counts_queries_out_of_distribution() -> None:
    rows = replace(calibration(400), out_of_distribution=np.arange(400) % 10 == 0)
    choice = choose_policy(Objective("min-cps"), rows, **options())

    def expected_cps(value: float) -> float:
        expected = replace(rows, success=rows.p_success, realised_cost_usd=rows.cost_usd)
        success, cost = expected.played(replace(choice.policy, success_value_usd=value))
        return float(cost.sum() / success.sum())

    sweep = value_sweep(rows.p_success, rows.cost_usd, 512)
    least = min(expected_cps(float(value)) for value in sweep)
    assert expected_cps(choice.policy.success_value_usd * (1 + 1e-9)) <= least * (1 + 1e-9)
    assert least < expected_cps(least / 4)


def test_a_budget_below_the_cheapest_tier_says_what_would_do() -> None:
    with pytest.raises(InputError, match=r"at least \$0\.001 per request"):
        choose_policy(Objective("budget", amount_usd=0.0005), calibration(50), **options())


def test_least_cost_per_success_is_the_least_of_all_policies() -> None:
    rng = np.random.default_rng(0)
    p, cost = rng.uniform(0.1, 1.0, (5, 3)), rng.uniform(0.1, 1.0, (5, 3))
    rows = CalibrationRows(p, cost, (p > 0.5).astype(float), cost, np.zeros(5, dtype=bool))
    choice = choose_policy(Objective("min-cps"), rows, **options())
    least = min(
        cost[np.arange(5), list(tiers)].sum() / p[np.arange(5), list(tiers)].sum()
        for tiers in itertools.product(range(3), repeat=5)
    )
    assert choice.policy.success_value_usd == pytest.approx(least)
    # ... and says where that ends.
    played = choice.policy.action_dist(p, cost)
    (warning,) = choice.warnings
    assert f"success rate of {(played * rows.success).sum(axis=1).mean():.3f}" in warning
    assert f"best tier has {rows.success.mean(axis=0).max():.3f}" in warning


def test_least_cost_per_success_needs_a_chance_of_success() -> None:
    n = 20
    nothing = np.zeros((n, 3))
    rows = CalibrationRows(nothing, np.tile(COST, (n, 1)), nothing, nothing, np.zeros(n, bool))
    with pytest.raises(InputError, match="expected at least one success"):
        choose_policy(Objective("min-cps"), rows, **options())


def test_a_floor_is_certified_where_the_rows_suffice() -> None:
    rows = calibration(3000)
    choice = choose_policy(Objective(), rows, **options())
    assert choice.certificate is not None and choice.certificate.certified
    assert choice.warnings == []
    fresh = calibration(20_000, seed=1)
    success, cost = fresh.played(choice.policy)
    assert success.mean() >= fresh.success[:, 2].mean() - 0.05
    assert cost.mean() < 0.6 * fresh.realised_cost_usd[:, 2].mean()


def test_a_floor_that_cannot_be_certified_is_a_warning_and_the_strongest_tier() -> None:
    choice = choose_policy(Objective(rate=0.96), calibration(50), **options())
    assert choice.certificate is not None and not choice.certificate.certified
    assert (choice.policy.kind, choice.policy.low) == ("tier", 2)
    assert choice.warnings == [choice.certificate.sentence]
    assert "could not be certified" in choice.warnings[0]


@pytest.mark.parametrize("kind", ["value", "budget", "min-cps"])
def test_the_safe_tier_is_kept_in_the_policy(kind: Literal["value", "budget", "min-cps"]) -> None:
    objective = Objective(kind, amount_usd=0.05)
    choice = choose_policy(objective, calibration(50), **options(safe_tier=1))
    assert (choice.policy.safe_tier, choice.policy.strongest) == (1, 2)


# The floor menu


def test_the_menu_lists_the_usual_floors_and_the_asked_one_once() -> None:
    rows = calibration(400)
    usual = [f"success rate >= that of frontier - {m}" for m in ("0.02", "0.05", "0.1")]
    for objective, floors, asked in (
        (Objective(), usual, usual[1]),
        (Objective(relative_to="frontier", margin=-0.1), usual, usual[2]),
        (Objective(rate=0.9), [*usual, "success rate >= 0.9"], "success rate >= 0.9"),
        (Objective("value", amount_usd=0.01), usual, None),
        (Objective("min-cps"), usual, None),
    ):
        menu = floor_menu(objective, rows, **options())
        assert [row["floor"] for row in menu] == floors
        assert [row["floor"] for row in menu if row["asked"]] == ([asked] if asked else [])


def test_the_menus_asked_row_is_the_policy_that_is_served() -> None:
    rows = calibration(800)
    choice = choose_policy(Objective(), rows, **options())
    assert choice.certificate is not None
    (row,) = [row for row in floor_menu(Objective(), rows, **options()) if row["asked"]]
    assert row["policy"] == describe_policy(choice.policy, TIERS.names)
    assert row["sentence"] == choice.certificate.sentence
    success, cost = rows.played(choice.policy)
    assert row["success_rate"] == pytest.approx(success.mean())
    assert row["cost_usd_per_request"] == pytest.approx(cost.mean())


def test_the_menus_savings_are_shares_of_what_else_would_have_been_paid() -> None:
    rows = calibration(3000)
    rate, cost = rows.success.mean(axis=0), rows.realised_cost_usd.mean(axis=0)
    menu = floor_menu(Objective(rate=0.8), rows, **options())
    for row in menu:
        own = row["cost_usd_per_request"]
        assert row["saving_vs_always_strongest"] == pytest.approx(1 - own / cost[2])
        single = {"nano": 0, "mid": 1, "frontier": 2}[row["best_single_tier"]]
        target = 0.8 if "that of" not in row["floor"] else rate[2] - float(row["floor"].split()[-1])
        meets = [t for t in range(3) if rate[t] >= target]
        assert cost[single] == min(cost[t] for t in meets)
        assert row["saving_vs_best_single_tier"] == pytest.approx(1 - own / cost[single])
        # The coin between two tiers that succeeds as often, by hand.
        mixes = [
            cost[a] + (row["success_rate"] - rate[a]) / (rate[b] - rate[a]) * (cost[b] - cost[a])
            for a in range(3)
            for b in range(3)
            if rate[a] < row["success_rate"] <= rate[b]
        ]
        assert row["saving_vs_random_mix"] == pytest.approx(1 - own / min(mixes))
    # The lower the floor, the less it costs.
    relative = [row["cost_usd_per_request"] for row in menu[:3]]
    assert relative == sorted(relative, reverse=True)


def test_nothing_is_saved_of_what_is_free() -> None:
    n = 100
    p, success, _ = outcomes(n)
    free = np.zeros((n, 3))
    rows = CalibrationRows(p, free, success, free, np.zeros(n, dtype=bool))
    for row in floor_menu(Objective(), rows, **options(tier_cost_usd=np.zeros(3))):
        assert row["saving_vs_always_strongest"] is None
        assert row["saving_vs_best_single_tier"] is None
        assert row["saving_vs_random_mix"] is None


def test_policies_in_words() -> None:
    names = ("nano", "mid", "frontier")
    assert describe_policy(Policy("value", 0.012345, 2, 2), names) == (
        "routed, a success worth $0.0123"
    )
    assert describe_policy(Policy.single(1, 0.1, 2, 2), names) == "always mid"
    assert describe_policy(Policy("mix", 0.1, 2, 2, 0, 2, 0.05), names) == "95% nano, 5% frontier"
