"""Off-policy estimators: closed forms, properties, refusals and their records."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.certificate import betting_lower, betting_upper
from router.errors import InputError
from training.offpolicy import (
    MAX_MISSING_SHARE,
    Evaluation,
    Logged,
    QValues,
    compare,
    dr_terms,
    evaluate_logging_policy,
    evaluate_policy,
    importance_weights,
    ips_terms,
)

FloatArray = npt.NDArray[np.float64]
N_TIERS = 3


def a_log(n: int = 400, seed: int = 0) -> tuple[Logged, FloatArray]:
    """A log that explores, with its whole distribution (n, T)."""
    rng = np.random.default_rng(seed)
    chances = np.full((n, N_TIERS), 0.2)
    chances[np.arange(n), rng.integers(0, N_TIERS, n)] += 0.4
    tier = (rng.random((n, 1)) < chances.cumsum(axis=1)).argmax(axis=1)
    success = (rng.random(n) < 0.5 + 0.2 * tier).astype(float)
    cost = 10.0 ** (tier - 4.0) * rng.uniform(0.5, 1.5, n)
    return Logged(tier, chances[np.arange(n), tier], success, cost, propensities=chances), chances


def some_q(n: int = 400, seed: int = 1) -> QValues:
    rng = np.random.default_rng(seed)
    return QValues(rng.random((n, N_TIERS)), 1e-3 * rng.random((n, N_TIERS)))


def a_policy(n: int = 400, seed: int = 2) -> FloatArray:
    return np.random.default_rng(seed).dirichlet(np.ones(N_TIERS), n)


def always(tier: int, n: int = 400) -> FloatArray:
    result = np.zeros((n, N_TIERS))
    result[:, tier] = 1.0
    return result


def take(log: Logged, rows: npt.NDArray[np.intp]) -> Logged:
    assert log.propensities is not None
    return Logged(
        log.tier[rows],
        log.propensity[rows],
        log.success[rows],
        log.cost_usd[rows],
        None if log.text is None else log.text[rows],
        log.propensities[rows],
    )


def points(found: Evaluation) -> dict[str, tuple[float, float, float]]:
    return {
        name: (v.success_rate.value, v.cost_usd_per_request.value, v.cps_usd.value)
        for name, v in found.values.items()
    }


# ---------------------------------------------------------------- closed forms


def test_the_logging_policy_is_worth_the_logs_means() -> None:
    log, chances = a_log()
    means = (log.success.mean(), log.cost_usd.mean(), log.cost_usd.sum() / log.success.sum())
    found = evaluate_policy(chances, log, some_q())
    assert found.weights.ess == pytest.approx(400)
    for estimator in ("ips", "snips"):
        assert points(found)[estimator] == pytest.approx(means)
    on_policy = evaluate_logging_policy(log)
    assert points(on_policy) == {"ips": pytest.approx(means)}
    # It needs no propensities, and knows as much without them.
    nothing_known = replace(log, propensity=np.ones(400), propensities=None)
    assert evaluate_logging_policy(nothing_known).to_dict() == on_policy.to_dict()


def test_doubly_robust_without_predictions_is_ips() -> None:
    log, _ = a_log()
    nothing = QValues(np.zeros((400, N_TIERS)), np.zeros((400, N_TIERS)))
    found = points(evaluate_policy(a_policy(), log, nothing))
    assert found["dr"] == pytest.approx(found["ips"])
    assert found["dm"] == (0.0, 0.0, math.inf)


def test_doubly_robust_with_perfect_predictions_is_the_direct_method() -> None:
    log, _ = a_log()
    q = some_q()
    perfect = replace(log, success=log.at_logged(q.success), cost_usd=log.at_logged(q.cost_usd))
    found = points(evaluate_policy(a_policy(), perfect, q))
    assert found["dr"] == pytest.approx(found["dm"])


def test_a_uniform_log_of_every_tier_is_worth_its_tiers_means() -> None:
    """Every request is logged once on every tier: IPS is then exact, whatever the policy."""
    n = 120
    rng = np.random.default_rng(0)
    success, cost = rng.integers(0, 2, (n, N_TIERS)).astype(float), rng.random((n, N_TIERS))
    tier = np.tile(np.arange(N_TIERS), n)
    log = Logged(tier, np.full(n * N_TIERS, 1 / N_TIERS), success.ravel(), cost.ravel())
    policy = a_policy(n)
    repeated = np.repeat(policy, N_TIERS, axis=0)
    found = points(evaluate_policy(repeated, log, some_q(n * N_TIERS)))
    assert found["ips"][0] == pytest.approx((policy * success).sum(axis=1).mean())
    assert found["ips"][1] == pytest.approx((policy * cost).sum(axis=1).mean())


def test_the_cps_of_snips_is_that_of_ips() -> None:
    log, _ = a_log()
    found = points(evaluate_policy(a_policy(), log, some_q()))
    assert found["snips"][2] == pytest.approx(found["ips"][2])


# ---------------------------------------------------------------- properties


@given(st.integers(0, 1000))
def test_the_order_of_the_log_does_not_matter(seed: int) -> None:
    log, _ = a_log()
    order = np.random.default_rng(seed).permutation(400)
    q, policy = some_q(), a_policy()
    shuffled = evaluate_policy(
        policy[order], take(log, order), QValues(q.success[order], q.cost_usd[order])
    )
    expected = points(evaluate_policy(policy, log, q))
    for name, values in points(shuffled).items():
        assert values == pytest.approx(expected[name])


@settings(max_examples=20)
@given(st.floats(1e-3, 1e6))
def test_another_currency_scales_cost_and_cps(rate: float) -> None:
    log, _ = a_log()
    q, policy = some_q(), a_policy()
    found = evaluate_policy(policy, log, q)
    other = evaluate_policy(
        policy,
        replace(log, cost_usd=rate * log.cost_usd),
        QValues(q.success, rate * q.cost_usd),
    )
    for name, value in found.values.items():
        theirs = other.values[name]
        assert theirs.success_rate == value.success_rate
        for ours_at, theirs_at in (
            (value.cost_usd_per_request, theirs.cost_usd_per_request),
            (value.cps_usd, theirs.cps_usd),
        ):
            assert theirs_at.value == pytest.approx(rate * ours_at.value)
            if ours_at.interval is not None:
                assert theirs_at.interval is not None
                expected = (rate * ours_at.interval[0], rate * ours_at.interval[1])
                assert theirs_at.interval == pytest.approx(expected, rel=1e-3)


def test_copies_of_every_request_say_nothing_new() -> None:
    log, _ = a_log()
    q, policy = some_q(), a_policy()
    rows = np.tile(np.arange(400), 3)
    copied = replace(take(log, rows), text=rows)
    found = evaluate_policy(
        policy[rows], copied, QValues(q.success[rows], q.cost_usd[rows]), max_weight=5.0
    )
    once = evaluate_policy(policy, log, q, max_weight=5.0)
    assert found.n_requests == 1200 and found.n_texts == 400
    ours, theirs = found.to_dict(), once.to_dict()
    assert ours["estimates"]["dr"]["cps_usd_interval"] == pytest.approx(
        theirs["estimates"]["dr"]["cps_usd_interval"]
    )
    assert ours["estimates"]["dr"]["success_rate_interval"] == pytest.approx(
        theirs["estimates"]["dr"]["success_rate_interval"]
    )


def test_intervals_hold_their_estimate_and_widen_with_confidence() -> None:
    log, _ = a_log()
    narrow = evaluate_policy(a_policy(), log, some_q(), confidence=0.8)
    wide = evaluate_policy(a_policy(), log, some_q(), confidence=0.99)
    for name in ("ips", "dr"):
        for field in ("success_rate", "cost_usd_per_request", "cps_usd"):
            inner, outer = getattr(narrow.values[name], field), getattr(wide.values[name], field)
            assert outer.interval[0] < inner.interval[0] < inner.value
            assert inner.value < inner.interval[1] < outer.interval[1]
    for name in ("dm", "snips"):
        assert narrow.values[name].success_rate.interval is None


# ---------------------------------------------------------------- refusals


def test_a_small_effective_sample_is_refused_with_what_would_help() -> None:
    log, chances = a_log(250)
    found = evaluate_policy(always(0, 250), log, some_q(250))
    assert found.weights.ess < 100
    assert found.values == {}
    assert found.refusal is not None
    assert "expected an effective sample size of at least 100, got" in found.refusal
    assert "from 250 different texts; about" in found.refusal
    # The number it names is enough.
    named = int(found.refusal.split("about ")[1].split(" ")[0].replace(",", ""))
    longer, _ = a_log(named + 40)
    assert evaluate_policy(always(0, named + 40), longer, some_q(named + 40)).refusal is None
    assert evaluate_policy(chances, log, some_q(250)).refusal is None
    lower = evaluate_policy(always(0, 250), log, some_q(250), min_ess=20)
    assert lower.refusal is None


def deterministic(share: float, n: int = 1000) -> tuple[Logged, FloatArray]:
    """A log of always tier 0, and a policy that has tier 1 for a share of the requests."""
    rng = np.random.default_rng(0)
    log = Logged(np.zeros(n, int), np.ones(n), (rng.random(n) < 0.8).astype(float), rng.random(n))
    policy = always(0, n)
    policy[: round(share * n)] = [0.0, 1.0, 0.0]
    return log, policy


@pytest.mark.parametrize("share", [MAX_MISSING_SHARE + 0.001, 0.4, 1.0])
def test_choices_that_were_never_logged_are_refused(share: float) -> None:
    log, policy = deterministic(share)
    found = evaluate_policy(policy, log, some_q(1000))
    assert found.missing_share == pytest.approx(share)
    assert found.refusal is not None
    assert f"got {100 * share:.3g} %" in found.refusal
    assert found.to_dict()["estimates"] == {}


def test_a_few_choices_that_were_never_logged_widen_every_interval() -> None:
    """Whatever happens there, from never succeeding at the dearest to always at no cost."""
    log, policy = deterministic(0.04)
    seen = np.arange(1000) >= 40
    for success, cost in ((0.0, log.cost_usd.max()), (1.0, 0.0)):
        truth = 0.04 * success + 0.96 * log.success[seen].mean()
        dollars = 0.04 * cost + 0.96 * log.cost_usd[seen].mean()
        for wrong in (0.0, 1.0):
            q = QValues(np.full((1000, N_TIERS), wrong), np.full((1000, N_TIERS), 0.5))
            found = evaluate_policy(policy, log, q)
            assert found.missing_share == pytest.approx(0.04)
            for name in ("ips", "dr"):
                value = found.values[name]
                for estimate, true in (
                    (value.success_rate, truth),
                    (value.cost_usd_per_request, dollars),
                    (value.cps_usd, dollars / truth),
                ):
                    assert estimate.interval is not None
                    assert estimate.interval[0] <= true <= estimate.interval[1]


def test_a_tier_that_is_never_explored_is_found_by_the_weights() -> None:
    """The log explores, but never uses tier 2 on half of the requests, and does not say so."""
    n = 3000
    rng = np.random.default_rng(0)
    chances = np.where(np.arange(n)[:, None] % 2 == 0, np.array([0.5, 0.5, 0.0]), np.full(3, 1 / 3))
    tier = (rng.random((n, 1)) < chances.cumsum(axis=1)).argmax(axis=1)
    log = Logged(
        tier, chances[np.arange(n), tier], rng.integers(0, 2, n).astype(float), rng.random(n)
    )
    found = evaluate_policy(always(2, n), log, some_q(n))
    assert found.refusal is not None
    assert "expected importance weights that average 1, got 0.498" in found.refusal
    assert evaluate_policy(always(0, n), log, some_q(n)).refusal is None
    # With the whole distribution it need not be guessed.
    known = evaluate_policy(always(2, n), replace(log, propensities=chances), some_q(n))
    assert known.missing_share == pytest.approx(0.5)


def test_too_few_successes_leave_cps_without_an_interval() -> None:
    log, chances = a_log()
    rare = replace(log, success=(np.arange(400) % 50 == 0) * 1.0)
    found = evaluate_policy(chances, rare, some_q())
    dr = found.values["dr"]
    assert dr.cps_usd.interval is None
    assert dr.success_rate.interval is not None
    assert found.effective_successes == pytest.approx(8.0)
    assert len(found.caveats) == 1
    assert "expected at least 20 effective successes, got 8;" in found.caveats[0]


def test_estimated_propensities_are_named() -> None:
    log, chances = a_log()
    found = evaluate_policy(chances, log, some_q(), estimated_propensity=True)
    assert "estimated" in found.caveats[0]


def test_what_does_not_fit_is_refused() -> None:
    log, _ = a_log()
    with pytest.raises(InputError, match="confidence between 0 and 1"):
        evaluate_policy(a_policy(), log, some_q(), confidence=95)
    with pytest.raises(InputError, match=r"of the shape \(400, 3\)"):
        evaluate_policy(a_policy(), log, some_q(399))
    with pytest.raises(InputError, match="of one shape"):
        QValues(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="finite predictions"):
        QValues(np.full((2, 3), np.nan), np.zeros((2, 3)))


def test_predictions_are_kept_in_their_ranges() -> None:
    q = QValues(np.array([[-0.5, 1.5]]), np.array([[-1.0, 2.0]]))
    assert q.success.tolist() == [[0.0, 1.0]]
    assert q.cost_usd.tolist() == [[0.0, 2.0]]


def test_records_are_json_without_infinities() -> None:
    log, chances = a_log()
    never = replace(log, success=np.zeros(400))
    nothing = QValues(np.zeros((400, N_TIERS)), np.zeros((400, N_TIERS)))
    for found in (
        evaluate_policy(chances, never, nothing),
        evaluate_policy(always(0), log, some_q()),
        evaluate_policy(always(0), log, some_q(), min_ess=1e6),
        evaluate_logging_policy(never),
    ):
        record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert record["n_requests"] == 400
    dead = evaluate_policy(chances, never, nothing).to_dict()["estimates"]["dr"]
    assert dead["cps_usd"] is None and dead["cps_is_infinite"] is True


# ---------------------------------------------------------------- pairs


BOUND = np.array([1e-3, 1e-2, 1e-1])


def test_a_pair_is_the_difference_of_two_policies() -> None:
    log, _ = a_log()
    q, a, b = some_q(), a_policy(seed=5), a_policy(seed=6)
    pair = compare(a, b, log, q, 0.02, max_weight=10.0, cost_bound_usd=np.full(3, 1.0))
    w = [importance_weights(dist, log, 10.0).values for dist in (a, b)]
    success = [dr_terms(d, x, log, log.success, q.success) for d, x in zip((a, b), w, strict=True)]
    cost = [dr_terms(d, x, log, log.cost_usd, q.cost_usd) for d, x in zip((a, b), w, strict=True)]
    assert np.allclose(pair.success, success[0] - success[1])
    assert np.allclose(pair.loss_usd, cost[0] - cost[1] - 0.02 * (success[0] - success[1]))
    assert pair.loss_slack_usd == pair.success_slack == 0.0
    assert pair.to_dict()["n_texts"] == 400
    json.dumps(pair.to_dict(), allow_nan=False)


def test_a_policy_does_not_differ_from_itself() -> None:
    log, _ = deterministic(0.0)
    policy = a_policy(1000)
    pair = compare(policy, policy, log, some_q(1000), 1.0, max_weight=9.0, cost_bound_usd=BOUND)
    assert not pair.loss_usd.any() and not pair.success.any()
    assert pair.ess == 0.0 and pair.success_slack == 0.0


@given(st.integers(0, 300), st.floats(1.0, 40.0), st.floats(0.0, 10.0))
def test_the_terms_of_a_pair_stay_in_their_range(
    seed: int, max_weight: float, success_value: float
) -> None:
    log, _ = a_log(60, seed)
    log = replace(log, cost_usd=np.minimum(log.cost_usd, BOUND[log.tier]))
    q = QValues(some_q(60, seed).success, np.random.default_rng(seed).random((60, N_TIERS)))
    rng = np.random.default_rng(seed)
    a, b = np.eye(N_TIERS)[rng.integers(0, N_TIERS, (2, 60))]
    pair = compare(a, b, log, q, success_value, max_weight=max_weight, cost_bound_usd=BOUND)
    assert (np.abs(pair.loss_usd) <= pair.loss_bound_usd).all()
    assert (np.abs(pair.success) <= pair.success_bound).all()
    fixed = (1 + max_weight) * (BOUND.max() + success_value)
    assert pair.loss_bound_usd == pytest.approx(fixed)


def test_what_the_log_cannot_tell_about_a_pair_is_its_slack() -> None:
    log, policy = deterministic(0.3)
    pair = compare(
        policy, always(0, 1000), log, some_q(1000), 0.5, max_weight=1.0, cost_bound_usd=np.ones(3)
    )
    # Where they differ one choice was logged and the other was not.
    assert pair.success_slack == pytest.approx(0.3)
    assert pair.loss_slack_usd == pytest.approx(0.3 * 1.5)


def test_the_terms_of_a_pair_can_be_bet_on() -> None:
    log, _ = a_log(3000)
    q = QValues(np.full((3000, N_TIERS), 0.7), np.full((3000, N_TIERS), 1e-3))
    pair = compare(
        always(2, 3000), always(0, 3000), log, q, 0.1, max_weight=5.0, cost_bound_usd=BOUND * 2
    )
    bound = pair.success_bound
    low = betting_lower(pair.success, -bound, bound, 0.025)
    high = betting_upper(pair.success, -bound, bound, 0.025)
    assert low < 0.4 < high and high - low < 0.5


def test_the_bounds_of_a_pair_must_be_usable() -> None:
    log, _ = a_log()
    arguments = (a_policy(), always(0), log, some_q())
    with pytest.raises(InputError, match="a bound on the cost of each of 3 tiers"):
        compare(*arguments, 0.1, max_weight=5.0, cost_bound_usd=np.ones(2))
    with pytest.raises(InputError, match="success value in USD that is finite"):
        compare(*arguments, math.inf, max_weight=5.0, cost_bound_usd=BOUND)


def test_ips_terms_are_products() -> None:
    assert ips_terms(np.array([2.0]), np.array([0.5])).tolist() == [1.0]
