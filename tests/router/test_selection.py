"""Candidates and certificate: the fixed sequence against a slow one, and the corners."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router.certificate import Floor
from router.policy import Policy, mix_hull
from router.selection import (
    CALIBRATION_SHARE,
    MIX_CHAIN_SHARE,
    ROUTER_CHAIN_SHARE,
    SUCCESS_VALUES_USD,
    CalibrationRows,
    Certificate,
    certify,
    exchange_rate,
    mix_chain,
    router_chain,
)
from training.split import fitting_calibration
from training.synthetic import numeric_world

FloatArray = npt.NDArray[np.float64]

NAMES = ("nano", "mid", "frontier")
RATE, COST = np.array([0.60, 0.88, 0.95]), np.array([5e-5, 1e-3, 1.5e-2])
SIXTEENTHS = st.integers(1, 16).map(lambda k: k / 16)


def rows_of(kind: str, n: int, seed: int, unknown_share: float = 0.0) -> CalibrationRows:
    world = numeric_world(kind, n, seed)
    unknown = np.random.default_rng([seed, 1]).random(n) < unknown_share
    return CalibrationRows(world.p_hat, world.cost_hat, world.success, world.cost, unknown)


def random_rows(seed: int, n: int, n_tiers: int) -> CalibrationRows:
    """Tiers that differ little, some of the outcomes fractional."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.5, 1.0, (n, n_tiers))
    cost = np.exp(rng.normal(-6, 1, (n, n_tiers)))
    success = (rng.random((n, n_tiers)) < p).astype(float)
    return CalibrationRows(p, cost, success, cost, rng.random(n) < 0.1)


def no_rows(n_tiers: int = 3) -> CalibrationRows:
    none = np.empty((0, n_tiers))
    return CalibrationRows(none, none, none, none, np.empty(0, dtype=bool))


def run(
    rows: CalibrationRows, floor: Floor, confidence: float = 0.95, **options: Any
) -> tuple[Policy, Certificate]:
    given: dict[str, Any] = {
        "tier_success": RATE,
        "tier_cost_usd": COST,
        "names": NAMES,
        "safe_tier": 2,
        "strongest": 2,
    }
    return certify(rows, floor, confidence=confidence, **{**given, **options})


# ---------------------------------------------------------------- candidates


def test_success_values_are_a_grid_that_rows_cannot_move() -> None:
    assert (np.diff(SUCCESS_VALUES_USD) < 0).all()
    assert SUCCESS_VALUES_USD[0] >= 1e3
    assert SUCCESS_VALUES_USD[-1] < 1e-7
    steps = SUCCESS_VALUES_USD[:-1] / SUCCESS_VALUES_USD[1:]
    assert steps == pytest.approx(2 ** (1 / 8))
    chain = router_chain(1, 2)
    assert [policy.success_value_usd for policy in chain] == SUCCESS_VALUES_USD.tolist()
    assert {(policy.kind, policy.safe_tier, policy.strongest) for policy in chain} == {
        ("value", 1, 2)
    }


@given(st.integers(1, 5).flatmap(lambda t: arrays(float, (6, t), elements=SIXTEENTHS)), st.data())
def test_expected_success_falls_along_the_router_chain(p: FloatArray, data: st.DataObject) -> None:
    cost = data.draw(arrays(float, p.shape, elements=SIXTEENTHS))
    # Predicted outcomes in the place of logged ones: what the chain's order rests on.
    rows = CalibrationRows(p, cost, p, cost, np.zeros(len(p), dtype=bool))
    played = [rows.played(policy) for policy in router_chain(0, 0)]
    success = np.array([s.mean() for s, _ in played])
    paid = np.array([c.mean() for _, c in played])
    assert (np.diff(success) <= 1e-9).all()
    assert (np.diff(paid) <= 1e-9).all()


@given(st.integers(1, 9).flatmap(lambda t: arrays(float, (2, t), elements=SIXTEENTHS)))
def test_the_mix_chain_holds_every_tier_and_every_step_between_neighbours(
    means: FloatArray,
) -> None:
    cost, success = means
    strongest = int(success.argmax())
    chain = mix_chain(cost, success, 0, strongest)
    hull = mix_hull(cost, success)
    assert sorted(p.low for p in chain if p.kind == "tier" and p.low is not None) == list(
        range(len(cost))
    )
    mixes = [(p.low, p.high, round(p.share_high * 20)) for p in chain if p.kind == "mix"]
    assert sorted(mixes) == sorted(
        (low, high, step) for low, high in pairwise(hull) for step in range(1, 20)
    )

    def rate(policy: Policy) -> float:
        assert policy.low is not None and policy.high is not None
        low, high = success[policy.low], success[policy.high]
        return float(low + policy.share_high * (high - low))

    rates = [rate(policy) for policy in chain]
    assert (np.diff(rates) <= 1e-12).all()
    assert chain[0].kind == "tier" and chain[0].low == strongest
    assert all(math.isfinite(p.success_value_usd) and p.success_value_usd > 0 for p in chain)


def test_the_strongest_leads_the_tiers_it_ties_with() -> None:
    success, cost = np.array([0.9, 0.9, 0.9]), np.array([3.0, 1.0, 2.0])
    for strongest in range(3):
        assert mix_chain(cost, success, 0, strongest)[0].low == strongest


# ---------------------------------------------------------------- exchange rate


def test_the_exchange_rate_is_the_slope_of_the_hull() -> None:
    first, second = (1e-3 - 5e-5) / 0.28, (1.5e-2 - 1e-3) / 0.07
    for rate, expected in [
        (0.0, first),
        (0.60, first),
        (0.70, first),
        (0.88, first),  # at a corner: the dearest success that was bought to get there
        (0.89, second),
        (0.95, second),
        (1.00, second),
    ]:
        assert exchange_rate(COST, RATE, rate) == pytest.approx(expected, rel=1e-9)


@given(st.integers(2, 9).flatmap(lambda t: arrays(float, (2, t), elements=SIXTEENTHS)), st.data())
def test_at_its_exchange_rate_a_policy_of_the_hull_is_a_best_one(
    means: FloatArray, data: st.DataObject
) -> None:
    """Its loss, cost less the value of successes, is the least of all single tiers."""
    cost, success = means
    hull = mix_hull(cost, success)
    strongest = int(success.argmax())
    for policy in mix_chain(cost, success, 0, strongest):
        assert policy.low is not None and policy.high is not None
        value = policy.success_value_usd
        loss = cost - value * success
        if policy.low in hull and len(hull) > 1:
            assert loss[policy.low] == pytest.approx(loss.min(), abs=1e-9)
            assert loss[policy.high] == pytest.approx(loss.min(), abs=1e-9)


def test_the_exchange_rate_of_one_tier_is_its_cps() -> None:
    assert exchange_rate(np.array([0.2]), np.array([0.5]), 0.5) == 0.4
    # The other tier is dearer and worse: there is nothing to exchange.
    assert exchange_rate(np.array([0.2, 0.3]), np.array([0.5, 0.4]), 0.4) == 0.4
    assert exchange_rate(np.array([0.2]), np.array([0.0]), 0.0) == 0.0


@given(
    st.integers(1, 6).flatmap(lambda t: arrays(float, (2, t), elements=SIXTEENTHS)),
    st.integers(0, 16).map(lambda k: k / 16),
    st.integers(-20, 20),
)
def test_the_exchange_rate_is_in_the_unit_of_money(
    means: FloatArray, rate: float, exponent: int
) -> None:
    cost, success = means
    assert exchange_rate(cost * 2.0**exponent, success, rate) == pytest.approx(
        exchange_rate(cost, success, rate) * 2.0**exponent
    )


# ---------------------------------------------------------------- the fixed sequence


def slow_certify(
    rows: CalibrationRows,
    floor: Floor,
    confidence: float,
    tier_success: FloatArray,
    tier_cost: FloatArray,
    safe_tier: int,
    strongest: int,
) -> list[Policy]:
    """All that is certified: each chain up to its first failure, and what holds by identity."""
    certified = []
    for chain, share in (
        (router_chain(safe_tier, strongest), ROUTER_CHAIN_SHARE),
        (mix_chain(tier_cost, tier_success, safe_tier, strongest), MIX_CHAIN_SHARE),
    ):
        failed = False
        for policy in chain:
            success, _ = rows.played(policy)
            by_identity = (
                policy.kind == "tier"
                and policy.low == floor.relative_to
                and safe_tier == floor.relative_to
            )
            passes = by_identity or floor.passes(
                success,
                rows.success,
                (1 - confidence) * share,
                randomised=policy.kind == "mix",
            )
            failed = failed or not passes
            if not failed or by_identity:
                certified.append(policy)
    return certified


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 25, 120]),
    st.integers(1, 9),
    st.sampled_from([0.5, 0.9, 0.95]),
    st.data(),
)
def test_what_is_certified_is_each_chain_up_to_its_first_failure(
    seed: int, n: int, n_tiers: int, confidence: float, data: st.DataObject
) -> None:
    rows = random_rows(seed, n, n_tiers)
    rng = np.random.default_rng(seed + 1)
    tier_success, tier_cost = rng.uniform(0.5, 1.0, n_tiers), rng.random(n_tiers)
    tier = st.integers(0, n_tiers - 1)
    strongest, safe = int(tier_success.argmax()), data.draw(tier)
    floor = data.draw(
        st.sampled_from([0.5, 0.6, 0.7]).map(lambda rate: Floor(rate=rate))
        | st.tuples(st.sampled_from([0.0, -0.1, -0.3]), tier).map(
            lambda pair: Floor(margin=pair[0], relative_to=pair[1])
        )
    )
    policy, certificate = certify(
        rows,
        floor,
        tier_success=tier_success,
        tier_cost_usd=tier_cost,
        names=tuple(f"t{i}" for i in range(n_tiers)),
        safe_tier=safe,
        strongest=strongest,
        confidence=confidence,
    )
    expected = slow_certify(rows, floor, confidence, tier_success, tier_cost, safe, strongest)
    assert certificate.n_passed == len(expected)
    assert certificate.certified == bool(expected)
    assert certificate.n_rows == n
    if not expected:
        assert (policy.kind, policy.low) == ("tier", strongest)
        return
    assert policy in expected

    def cps(candidate: Policy) -> float:
        success, cost = rows.played(candidate)
        return float(cost.mean() / success.mean()) if success.any() else math.inf

    assert cps(policy) == min(cps(candidate) for candidate in expected)


def test_what_is_reported_is_what_the_policy_did_on_the_rows() -> None:
    rows = rows_of("plain", 500, 3, unknown_share=0.05)
    for floor in (Floor(rate=0.85), Floor(margin=-0.05, relative_to=2), Floor(rate=0.99)):
        policy, certificate = run(rows, floor)
        success, cost = rows.played(policy)
        assert certificate.success_rate == success.mean()
        assert certificate.cost_usd_per_request == cost.mean()
        assert certificate.n_candidates == len(SUCCESS_VALUES_USD) + 3 + 2 * 19


@pytest.mark.parametrize("floor", [Floor(rate=0.85), Floor(margin=-0.05, relative_to=2)])
def test_more_confidence_certifies_less_and_costs_no_less(floor: Floor) -> None:
    for seed in range(5):
        rows = rows_of("plain", 300, seed)
        found = [run(rows, floor, confidence)[1] for confidence in (0.7, 0.9, 0.99, 0.9999)]
        assert (np.diff([c.n_passed for c in found]) <= 0).all()
        cps = [c.cost_usd_per_request / c.success_rate for c in found]
        assert (np.diff(cps) >= 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("floor", [Floor(rate=0.85), Floor(margin=-0.05, relative_to=2)])
def test_the_order_of_the_tiers_changes_nothing(seed: int, floor: Floor) -> None:
    rows = rows_of("plain", 250, seed, unknown_share=0.05)
    policy, certificate = run(rows, floor)
    order = [2, 0, 1]  # the new position i holds the old tier order[i]
    place = {old: new for new, old in enumerate(order)}
    moved_rows = CalibrationRows(
        rows.p_success[:, order],
        rows.cost_usd[:, order],
        rows.success[:, order],
        rows.realised_cost_usd[:, order],
        rows.out_of_distribution,
    )
    moved_floor = replace(
        floor, relative_to=None if floor.relative_to is None else place[floor.relative_to]
    )
    moved, again = run(
        moved_rows,
        moved_floor,
        tier_success=RATE[order],
        tier_cost_usd=COST[order],
        names=tuple(NAMES[t] for t in order),
        safe_tier=place[2],
        strongest=place[2],
    )
    assert (moved.kind, moved.success_value_usd, moved.share_high) == (
        policy.kind,
        pytest.approx(policy.success_value_usd),
        policy.share_high,
    )
    for old, new in ((policy.low, moved.low), (policy.high, moved.high)):
        assert new == (None if old is None else place[old])
    assert again.n_passed == certificate.n_passed
    assert again.success_rate == pytest.approx(certificate.success_rate)
    assert again.sentence == certificate.sentence


@pytest.mark.parametrize("seed", range(4))
def test_dollars_in_another_unit_give_the_same_router(seed: int) -> None:
    """The grid has eight steps to a doubling: a power of two moves it onto itself."""
    rows = rows_of("plain", 250, seed)
    unit = 4.0
    policy, certificate = run(rows, Floor(rate=0.85))
    scaled, again = run(
        replace(
            rows, cost_usd=rows.cost_usd * unit, realised_cost_usd=rows.realised_cost_usd * unit
        ),
        Floor(rate=0.85),
        tier_cost_usd=COST * unit,
    )
    assert scaled.kind == policy.kind
    assert scaled.success_value_usd == pytest.approx(policy.success_value_usd * unit)
    assert again.success_rate == certificate.success_rate
    assert again.cost_usd_per_request == pytest.approx(certificate.cost_usd_per_request * unit)


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("n", [0, 1, 2, 50])
@pytest.mark.parametrize("margin", [0.0, -0.05])
def test_the_strongest_meets_a_floor_relative_to_itself_by_identity(n: int, margin: float) -> None:
    """However few the rows, and however badly it did on them."""
    rows = no_rows()
    if n:
        rows = rows_of("plain", n, 0)
        rows = replace(rows, success=np.tile([1.0, 1.0, 0.0], (n, 1)))
    _, certificate = run(rows, Floor(margin=margin, relative_to=2), confidence=0.999999)
    assert certificate.certified
    assert certificate.n_passed >= 1
    if n < 50:
        assert certificate.n_passed == 1


def test_identity_needs_the_safe_tier_to_be_the_reference() -> None:
    """Queries out of distribution would go to another tier than the floor's."""
    rows = replace(
        rows_of("plain", 40, 0),
        success=np.tile([0.0, 0.0, 1.0], (40, 1)),
        out_of_distribution=np.ones(40, dtype=bool),
    )
    floor = Floor(margin=-0.05, relative_to=2)
    assert run(rows, floor)[1].certified
    policy, certificate = run(rows, floor, safe_tier=0)
    assert not certificate.certified
    assert certificate.success_rate == 0.0  # what would really be served
    assert policy.safe_tier == 0
    assert not run(no_rows(), floor, safe_tier=0)[1].certified


def test_identity_holds_for_a_tier_that_does_not_lead_its_chain() -> None:
    """Always mid meets "as good as mid" whatever the strongest does; what follows it is not saved.

    The cheapest tier is as good as mid here, but the chain had failed before it came to that.
    """
    rows = replace(rows_of("plain", 400, 0), success=np.tile([1.0, 1.0, 0.0], (400, 1)))
    policy, certificate = run(rows, Floor(margin=-0.02, relative_to=1), safe_tier=1)
    assert certificate.certified
    assert (policy.kind, policy.low) == ("tier", 1)
    assert certificate.n_passed == 1
    assert certificate.success_rate == 1.0
    assert "always using mid" in certificate.sentence


# ---------------------------------------------------------------- corners


def test_without_calibration_rows_nothing_else_is_certified() -> None:
    policy, certificate = run(no_rows(), Floor(rate=0.5))
    assert (policy.kind, policy.low) == ("tier", 2)
    assert not certificate.certified
    assert (certificate.n_rows, certificate.n_passed, certificate.rows_needed) == (0, 0, None)
    assert "without a promise" in certificate.sentence
    json.dumps(certificate.to_dict(), allow_nan=False)


def test_one_tier() -> None:
    rng = np.random.default_rng(0)
    cost = rng.random((200, 1))
    success = (rng.random((200, 1)) < 0.95).astype(float)
    rows = CalibrationRows(np.full((200, 1), 0.9), cost, success, cost, np.zeros(200, dtype=bool))
    options: dict[str, Any] = {
        "tier_success": np.array([0.95]),
        "tier_cost_usd": np.array([0.5]),
        "names": ("only",),
        "safe_tier": 0,
        "strongest": 0,
        "confidence": 0.95,
    }
    policy, certificate = certify(rows, Floor(rate=0.9), **options)
    assert certificate.certified
    assert (policy.kind, policy.low) == ("tier", 0)
    assert policy.success_value_usd == pytest.approx(0.5 / 0.95)
    assert not certify(rows, Floor(rate=0.97), **options)[1].certified
    assert certify(rows, Floor(margin=0.0, relative_to=0), **options)[1].certified


def test_nine_tiers() -> None:
    rng = np.random.default_rng(0)
    rate, cost = np.linspace(0.5, 0.95, 9), np.geomspace(1e-5, 1e-2, 9)
    p = np.clip(rate + rng.normal(0, 0.05, (800, 1)), 0.01, 0.99)
    success = (rng.random((800, 9)) < p).astype(float)
    expected = np.tile(cost, (800, 1))
    rows = CalibrationRows(p, expected, success, expected, np.zeros(800, dtype=bool))
    policy, certificate = certify(
        rows,
        Floor(rate=0.7),
        tier_success=rate,
        tier_cost_usd=cost,
        names=tuple(f"t{i}" for i in range(9)),
        safe_tier=8,
        strongest=8,
        confidence=0.95,
    )
    assert certificate.certified
    assert certificate.cost_usd_per_request < cost[6]
    assert certificate.success_rate > 0.7
    assert policy.action_dist(p, expected).shape == (800, 9)


def test_of_policies_that_do_the_same_the_plainest_is_served() -> None:
    """One tier is better and cheaper on every query: a success is not worth $1000 for that."""
    n = 200
    p, cost = np.tile([0.95, 0.9], (n, 1)), np.tile([0.001, 0.002], (n, 1))
    success = np.ones((n, 2))
    rows = CalibrationRows(p, cost, success, cost, np.zeros(n, dtype=bool))
    policy, certificate = run(
        rows,
        Floor(rate=0.9),
        tier_success=np.array([0.95, 0.9]),
        tier_cost_usd=np.array([0.001, 0.002]),
        names=("good", "bad"),
        safe_tier=0,
        strongest=0,
    )
    assert certificate.certified
    assert (policy.kind, policy.low) == ("tier", 0)
    assert policy.success_value_usd == pytest.approx(0.001 / 0.95)


def test_the_success_value_is_the_smallest_that_does_the_same() -> None:
    """Half of the queries move up at $0.02, the other half at $0.18, and nothing between."""
    n = 400
    hard = np.arange(n) % 2 == 0
    p = np.column_stack((np.where(hard, 0.5, 0.9), np.full(n, 0.95)))
    cost = np.tile([0.001, 0.010], (n, 1))
    success = np.column_stack((~hard, np.ones(n))).astype(float)
    rows = CalibrationRows(p, cost, success, cost, np.zeros(n, dtype=bool))
    policy, certificate = run(
        rows,
        Floor(rate=0.9),
        tier_success=np.array([0.7, 0.95]),
        tier_cost_usd=np.array([0.001, 0.010]),
        names=("low", "high"),
        safe_tier=1,
        strongest=1,
    )
    assert policy.kind == "value"
    assert certificate.cost_usd_per_request == pytest.approx(0.0055)
    assert 0.02 < policy.success_value_usd <= 0.02 * 2 ** (1 / 8)


def test_out_of_distribution_rows_are_played_on_the_safe_tier() -> None:
    rows = rows_of("plain", 100, 1, unknown_share=0.3)
    unknown = rows.out_of_distribution
    assert 10 < unknown.sum() < 60
    for policy in (Policy("value", 0.0, 1, 2), Policy.single(0, 0.1, 1, 2)):
        success, cost = rows.played(policy)
        assert (success[unknown] == rows.success[unknown, 1]).all()
        assert (cost[unknown] == rows.realised_cost_usd[unknown, 1]).all()
        assert (success[~unknown] == rows.success[~unknown, 0]).all()
    success, cost = rows.played(Policy("mix", 0.1, 1, 2, 0, 2, 0.25))
    known = ~unknown
    assert cost[known] == pytest.approx(
        0.75 * rows.realised_cost_usd[known, 0] + 0.25 * rows.realised_cost_usd[known, 2]
    )


# ---------------------------------------------------------------- other prices


def test_realised_costs_move_in_proportion_to_expected_ones() -> None:
    rows = rows_of("plain", 50, 0)
    free = replace(rows, cost_usd=rows.cost_usd * [1.0, 1.0, 0.0])
    new = rows.cost_usd * [2.0, 0.5, 3.0]
    moved = rows.repriced(new)
    assert moved.realised_cost_usd == pytest.approx(rows.realised_cost_usd * [2.0, 0.5, 3.0])
    assert moved.cost_usd is new
    assert moved.success is rows.success
    # What was free has no proportion: its logged cost stays.
    assert free.repriced(new).realised_cost_usd[:, 2] == pytest.approx(rows.realised_cost_usd[:, 2])


@pytest.mark.parametrize("seed", range(3))
def test_the_same_prices_give_the_same_certificate(seed: int) -> None:
    rows = rows_of("plain", 400, seed)
    floor = Floor(margin=-0.05, relative_to=2)
    assert run(rows.repriced(rows.cost_usd.copy()), floor) == run(rows, floor)


def test_a_price_change_moves_the_router_and_is_tested_again() -> None:
    rows, floor = rows_of("plain", 700, 0), Floor(rate=0.85)
    before, certificate = run(rows, floor)
    assert certificate.certified
    # The strongest tier becomes the cheapest.
    factor = np.array([1.0, 1.0, 1e-4])
    cheap = rows.repriced(rows.cost_usd * factor)
    after, again = run(cheap, floor, tier_cost_usd=COST * factor)
    assert again.certified
    shares = after.action_dist(cheap.p_success, cheap.cost_usd).mean(axis=0)
    assert shares[2] > 0.95
    assert before.action_dist(rows.p_success, rows.cost_usd).mean(axis=0)[2] < 0.5
    assert again.cost_usd_per_request < certificate.cost_usd_per_request
    # The middle tier becomes dearer than the strongest: it is not used any more.
    factor = np.array([1.0, 100.0, 1.0])
    dear = rows.repriced(rows.cost_usd * factor)
    after, again = run(dear, floor, tier_cost_usd=COST * factor)
    assert after.action_dist(dear.p_success, dear.cost_usd).mean(axis=0)[1] < 0.01
    assert again.cost_usd_per_request > certificate.cost_usd_per_request


# ---------------------------------------------------------------- what is said


def test_the_sentence_of_a_certified_floor() -> None:
    rows = rows_of("plain", 700, 0)
    for confidence, words in ((0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%")):
        _, certificate = run(rows, Floor(rate=0.8), confidence)
        assert certificate.sentence == (
            f"success rate >= 0.8 is certified at {words} confidence on 700 calibration rows."
        )
        assert certificate.rows_needed is None


def test_a_floor_that_more_rows_would_certify_says_how_many() -> None:
    rows = rows_of("plain", 60, 1)
    _, certificate = run(rows, Floor(rate=0.9))
    assert not certificate.certified
    assert certificate.rows_needed is not None and certificate.rows_needed > 60
    more = certificate.rows_needed - 60
    assert f"about {more:,} more of them would do it with 80 % power" in certificate.sentence
    # As many training queries bring as many calibration rows.
    queries = math.ceil(more / CALIBRATION_SHARE)
    assert f"about {queries:,} more training queries, as 40% of them" in certificate.sentence
    divided = fitting_calibration(np.arange(queries, dtype=np.uint64))
    assert divided.sum() == pytest.approx(more, abs=1)
    assert "always frontier is served, without a promise" in certificate.sentence


def test_a_floor_out_of_reach_promises_nothing() -> None:
    rows = rows_of("plain", 300, 1)
    _, certificate = run(rows, Floor(rate=0.999))
    assert not certificate.certified
    assert certificate.rows_needed is None
    assert "more such rows would not help" in certificate.sentence


def test_rows_are_counted_to_the_first_cheaper_candidate_and_all_on_the_way() -> None:
    """Each chain must pass its first candidates to come to a cheaper one."""
    rows, floor, confidence = rows_of("plain", 60, 0), Floor(margin=-0.05, relative_to=2), 0.95
    policy, certificate = run(rows, floor, confidence)
    assert (policy.kind, policy.low) == ("tier", 2)
    assert "nothing cheaper is certified" in certificate.sentence
    expected = []
    for chain, share in (
        (router_chain(2, 2), ROUTER_CHAIN_SHARE),
        (mix_chain(COST, RATE, 2, 2), MIX_CHAIN_SHARE),
    ):
        needs: list[float] = []
        for candidate in chain:
            if (candidate.kind, candidate.low) == ("tier", 2):
                continue
            success, cost = rows.played(candidate)
            told = floor.rows_needed(
                success,
                rows.success,
                (1 - confidence) * share,
                randomised=candidate.kind == "mix",
            )
            needs.append(math.inf if told is None else told)
            if cost.mean() < 0.95 * certificate.cost_usd_per_request:
                break
        expected.append(max(needs))
    assert certificate.rows_needed == min(expected)


def test_a_later_candidate_that_needs_fewer_rows_waits_for_the_first() -> None:
    """The chain of routers starts with a few bad choices, and makes many good ones after that."""
    n, floor = 1000, Floor(margin=-0.02, relative_to=1)
    bad, good = np.arange(n) < 15, (np.arange(n) >= 15) & (np.arange(n) < 515)
    p = np.column_stack((np.select([bad, good], [0.99, 0.90], 0.10), np.full(n, 0.91)))
    success = np.column_stack((good, np.arange(n) % 10 > 0)).astype(float)
    success[bad, 1] = 1.0
    cost = np.tile([0.001, 0.010], (n, 1))
    rows = CalibrationRows(p, cost, success, cost, np.zeros(n, dtype=bool))
    # At so high a confidence no router is certified on these rows.
    delta = 1e-9
    needs = []
    for value in (100.0, 0.1):
        played = rows.played(Policy("value", value, 1, 1))[0]
        needs.append(floor.rows_needed(played, rows.success, delta * ROUTER_CHAIN_SHARE))
    first, later = needs
    assert first is not None and later is not None and later < first / 10
    policy, certificate = run(
        rows,
        floor,
        1 - delta,
        tier_success=np.array([0.5, 0.9]),
        tier_cost_usd=np.array([0.001, 0.010]),
        names=("low", "high"),
        safe_tier=1,
        strongest=1,
    )
    assert (policy.kind, policy.low) == ("tier", 1)
    assert certificate.rows_needed == pytest.approx(first, rel=0.02)


def test_a_certificate_survives_the_manifest() -> None:
    for floor in (Floor(rate=0.85), Floor(margin=-0.05, relative_to=2), Floor(rate=0.999)):
        certificate = run(rows_of("plain", 200, 0), floor)[1]
        text = json.dumps(certificate.to_dict(), allow_nan=False)
        assert Certificate.from_dict(json.loads(text)) == certificate
