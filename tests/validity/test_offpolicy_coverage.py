"""Do intervals from a log hold what they state, and are its estimators unbiased where they should?

Hundreds of logs are drawn from worlds whose truth is known, by logging policies that explore
evenly, explore around a keyword rule, follow a softmax of what no text shows, or never explore. An
interval at 95 % may miss the truth on one log in twenty. The same check must refuse intervals that
are too narrow, or it would prove nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from router.certificate import betting_lower
from router.policy import choose
from training.importance import weight_limit
from training.offpolicy import (
    Logged,
    QValues,
    Value,
    compare,
    dr_terms,
    evaluate_logging_policy,
    evaluate_policy,
    importance_weights,
    ips_terms,
)
from training.propensity import fit_propensity, overlap
from training.synthetic import NumericWorld, numeric_world

pytestmark = pytest.mark.slow

FloatArray = npt.NDArray[np.float64]
Policy = Callable[[NumericWorld], FloatArray]

N_LOGS = 200
CONFIDENCE = 0.95
# A level that is kept is found broken by bad luck in one check of a thousand, at worst.
SLACK_QUANTILE = 0.999
# The mean over all logs may be off by so many of its standard errors: once in 16,000 checks.
MAX_ERRORS = 4.0
POPULATION = 400_000
SUCCESS_VALUE_USD = {"plain": 0.05, "rare_success": 2.0}


def check_coverage(missed: int, n: int, confidence: float = CONFIDENCE) -> None:
    """AssertionError where ``missed`` of ``n`` is more than intervals at this level may miss."""
    most = int(binom.ppf(SLACK_QUANTILE, n, 1 - confidence))
    assert missed <= most, f"missed on {missed} of {n} logs; at {confidence:.3g} at most {most}"


# ---------------------------------------------------------------- policies


def uniform(world: NumericWorld) -> FloatArray:
    return np.full(world.p_hat.shape, 1.0 / world.p_hat.shape[1])


def one_hot(tier: npt.NDArray[np.intp]) -> FloatArray:
    result: FloatArray = np.eye(3)[tier]
    return result


@cache
def keyword_edges(kind: str) -> FloatArray:
    result: FloatArray = np.quantile(numeric_world(kind, 20_000, 1).p_hat[:, 0], [2 / 3, 1 / 3])
    return result


def keyword(world: NumericWorld) -> FloatArray:
    """A rule on what can be read: about a third of the requests to every tier."""
    easy, hard = keyword_edges(world.kind)
    p = world.p_hat[:, 0]
    return one_hot(np.where(p > easy, 0, np.where(p > hard, 1, 2)))


def exploring_keyword(world: NumericWorld) -> FloatArray:
    return 0.9 * keyword(world) + 0.1 * uniform(world)


def softmax(world: NumericWorld) -> FloatArray:
    """Goes by the true probability, part of which no estimator sees."""
    spread = 1.5 * world.p_true.std()
    weight = np.exp((world.p_true - world.p_true.max(axis=1, keepdims=True)) / spread)
    result: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return result


def always(tier: int) -> Policy:
    def policy(world: NumericWorld) -> FloatArray:
        return one_hot(np.full(len(world.p_hat), tier))

    return policy


def router(world: NumericWorld) -> FloatArray:
    return one_hot(choose(world.p_hat, world.cost_hat, SUCCESS_VALUE_USD[world.kind]))


def hesitant(world: NumericWorld) -> FloatArray:
    """The keyword rule, but for a coin-flip on requests that it sends to the middle tier."""
    rule = keyword(world)
    return np.where(rule[:, 1:2] == 1, [0.5, 0.5, 0.0], rule)


POLICIES: dict[str, Policy] = {
    "cheapest": always(0),
    "middle": always(1),
    "strongest": always(2),
    "router": router,
    "keyword": keyword,
    "hesitant": hesitant,
}
LOGGERS: dict[str, Policy] = {
    "uniform": uniform,
    "exploring keyword": exploring_keyword,
    "softmax": softmax,
    "keyword": keyword,
}


@cache
def truth(policy: Policy, kind: str) -> tuple[float, float]:
    """Success rate and USD per request over a large population; by chance off by about 0.05 %."""
    world = numeric_world(kind, POPULATION, 999_999)
    dist = policy(world)
    # What single tiers are known to be takes out what the population has by chance.
    known = dist.mean(axis=0)
    return tuple(  # type: ignore[return-value]
        float((dist * each).sum(axis=1).mean() + known @ (exact - each.mean(axis=0)))
        for each, exact in (
            (world.p_true, world.true_rate),
            (world.cost_true, world.true_cost_usd),
        )
    )


def draw(logger: Policy, kind: str, n: int, seed: int) -> tuple[NumericWorld, Logged, QValues]:
    world = numeric_world(kind, n, seed)
    chances = logger(world)
    uniform_draw = np.random.default_rng([seed, 5]).random((n, 1))
    tier = (uniform_draw < chances.cumsum(axis=1) * (1 + 1e-12)).argmax(axis=1)
    rows = np.arange(n)
    logged = Logged(tier, chances[rows, tier], world.success[rows, tier], world.cost[rows, tier])
    return world, logged, QValues(world.p_hat, world.cost_hat)


# ---------------------------------------------------------------- intervals hold


def misses(value: Value, success: float, cost: float) -> dict[str, bool]:
    """Which of the intervals given miss the truth."""
    found = {
        "success": (value.success_rate, success),
        "cost": (value.cost_usd_per_request, cost),
        "cps": (value.cps_usd, cost / success),
    }
    return {
        name: not estimate.interval[0] <= true <= estimate.interval[1]
        for name, (estimate, true) in found.items()
        if estimate.interval is not None
    }


# logger, evaluation policy, kind of world, requests, and whether q is told nothing true.
CASES = [
    ("uniform", "cheapest", "plain", 600, False),
    ("uniform", "router", "plain", 600, True),
    ("uniform", "strongest", "rare_success", 2000, False),
    ("exploring keyword", "strongest", "plain", 2500, False),
    ("exploring keyword", "router", "plain", 2500, False),
    ("exploring keyword", "strongest", "rare_success", 2500, False),
    ("softmax", "cheapest", "plain", 1500, False),
    ("softmax", "router", "plain", 800, False),
    ("keyword", "keyword", "plain", 600, False),
]


@pytest.mark.parametrize(("logger", "policy", "kind", "n", "misled"), CASES)
def test_intervals_hold_their_level(
    logger: str, policy: str, kind: str, n: int, misled: bool
) -> None:
    success, cost = truth(POLICIES[policy], kind)
    missed: Counter[tuple[str, str]] = Counter()
    given: Counter[tuple[str, str]] = Counter()
    for seed in range(N_LOGS):
        world, logged, q = draw(LOGGERS[logger], kind, n, seed)
        if misled:
            q = QValues(1.0 - q.success, q.cost_usd[:, ::-1])
        found = evaluate_policy(POLICIES[policy](world), logged, q, confidence=CONFIDENCE)
        for estimator in ("ips", "dr"):
            if estimator in found.values:
                for name, miss in misses(found.values[estimator], success, cost).items():
                    given[estimator, name] += 1
                    missed[estimator, name] += miss
    # A refusal now and then, but no rule that speaks only when it is sure.
    assert given["dr", "success"] >= 0.9 * N_LOGS
    assert kind == "rare_success" or given["dr", "cps"] >= 0.9 * N_LOGS
    for key in given:
        check_coverage(missed[key], N_LOGS)


def test_the_logs_own_policy_is_known_at_its_level() -> None:
    success, cost = truth(exploring_keyword, "plain")
    missed: Counter[str] = Counter()
    for seed in range(N_LOGS):
        _, logged, _ = draw(exploring_keyword, "plain", 400, seed)
        missed.update(
            name
            for name, miss in misses(
                evaluate_logging_policy(logged).values["ips"], success, cost
            ).items()
            if miss
        )
    for name in ("success", "cost", "cps"):
        check_coverage(missed[name], N_LOGS)


def test_the_intervals_are_of_use() -> None:
    """Not by being endless: within a few times what exact normal theory would give."""
    world, logged, q = draw(uniform, "plain", 3000, 0)
    value = evaluate_policy(router(world), logged, q).values["dr"]
    for estimate, widest in (
        (value.success_rate, 0.08),
        (value.cost_usd_per_request, 0.1),
        (value.cps_usd, 0.12),
    ):
        assert estimate.interval is not None
        assert estimate.interval[1] - estimate.interval[0] < widest * estimate.value


def test_normal_intervals_of_rare_outcomes_are_found_out() -> None:
    """Broken: the mean give or take 1.96 standard errors, where hardly a success was seen."""
    success, _ = truth(always(0), "rare_success")
    missed = 0
    for seed in range(N_LOGS):
        world, logged, q = draw(exploring_keyword, "rare_success", 2500, seed)
        dist = always(0)(world)
        weights = importance_weights(dist, logged).values
        terms = dr_terms(dist, weights, logged, logged.success, q.success)
        missed += abs(terms.mean() - success) > 1.96 * terms.std() / np.sqrt(len(terms))
    with pytest.raises(AssertionError, match="missed on"):
        check_coverage(missed, N_LOGS)


def with_copies(seed: int, n_texts: int = 300) -> Logged:
    """Each text is logged several times, and succeeds always or never, at always one cost."""
    rng = np.random.default_rng(seed)
    text = np.repeat(np.arange(n_texts), rng.geometric(0.25, n_texts))
    tier = rng.integers(0, 2, len(text))
    success = (rng.random((n_texts, 2)) < 0.7).astype(float)[text, tier]
    cost = (0.001 * rng.exponential(size=(n_texts, 2)))[text, tier]
    return Logged(tier, np.full(len(text), 0.5), success, cost, text)


@pytest.mark.parametrize("counted_as_one", [True, False])
def test_copies_of_a_text_buy_no_confidence(counted_as_one: bool) -> None:
    missed: Counter[str] = Counter()
    for seed in range(N_LOGS):
        logged = with_copies(seed)
        if not counted_as_one:
            logged = replace(logged, text=None)
        n = logged.n
        q = QValues(np.full((n, 2), 0.7), np.full((n, 2), 0.001))
        value = evaluate_policy(np.tile([1.0, 0.0], (n, 1)), logged, q).values["dr"]
        missed.update(name for name, miss in misses(value, 0.7, 0.001).items() if miss)
    for name in ("success", "cost", "cps"):
        if counted_as_one:
            check_coverage(missed[name], N_LOGS)
        elif name != "success":
            with pytest.raises(AssertionError, match="missed on"):
                check_coverage(missed[name], N_LOGS)


# ---------------------------------------------------------------- estimators are unbiased


@dataclass(frozen=True)
class Means:
    """An estimator's value on every log, less the truth: success and cost."""

    errors: FloatArray

    def in_standard_errors(self) -> FloatArray:
        spread = self.errors.std(axis=0, ddof=1) / np.sqrt(len(self.errors))
        result: FloatArray = np.abs(self.errors.mean(axis=0)) / spread
        return result


Estimator = Callable[[FloatArray, FloatArray, Logged, NumericWorld], list[FloatArray]]


def ips(dist: FloatArray, w: FloatArray, logged: Logged, world: NumericWorld) -> list[FloatArray]:
    return [ips_terms(w, logged.success), ips_terms(w, logged.cost_usd)]


def dr_with(q: Callable[[NumericWorld], tuple[FloatArray, FloatArray]]) -> Estimator:
    def estimator(
        dist: FloatArray, w: FloatArray, logged: Logged, world: NumericWorld
    ) -> list[FloatArray]:
        outcomes = (logged.success, logged.cost_usd)
        return [
            dr_terms(dist, w, logged, y, each) for y, each in zip(outcomes, q(world), strict=True)
        ]

    return estimator


def right(world: NumericWorld) -> tuple[FloatArray, FloatArray]:
    return world.p_true, world.cost_true


def wrong(world: NumericWorld) -> tuple[FloatArray, FloatArray]:
    return 1.0 - world.p_hat, world.cost_hat[:, ::-1]


def errors(
    estimator: Estimator, logger: Policy, *, right_propensities: bool = True, n_logs: int = 400
) -> Means:
    target = truth(router, "plain")
    rows = []
    for seed in range(n_logs):
        world, logged, _ = draw(logger, "plain", 500, seed)
        if not right_propensities:
            logged = replace(logged, propensity=np.full(logged.n, 1 / 3))
        dist = router(world)
        weights = importance_weights(dist, logged, max_weight=1e6).values
        rows.append([terms.mean() for terms in estimator(dist, weights, logged, world)])
    return Means(np.array(rows) - target)


@pytest.mark.parametrize("logger", [uniform, exploring_keyword, softmax])
@pytest.mark.parametrize("estimator", [ips, dr_with(right), dr_with(wrong)])
def test_with_known_propensities_nothing_is_biased(logger: Policy, estimator: Estimator) -> None:
    assert errors(estimator, logger).in_standard_errors().max() < MAX_ERRORS


def test_right_predictions_make_up_for_wrong_propensities() -> None:
    found = errors(dr_with(right), softmax, right_propensities=False)
    assert found.in_standard_errors().max() < MAX_ERRORS


@pytest.mark.parametrize("estimator", [ips, dr_with(wrong)])
def test_wrong_on_both_sides_is_biased_and_found_out(estimator: Estimator) -> None:
    found = errors(estimator, softmax, right_propensities=False, n_logs=100)
    assert found.in_standard_errors().max() > MAX_ERRORS


# ---------------------------------------------------------------- logs that never explore


def test_a_deterministic_log_is_refused_exactly_where_it_tried_nothing_else() -> None:
    for seed in range(N_LOGS):
        world, logged, q = draw(keyword, "plain", 400, seed)
        rule = keyword(world)
        for tier in range(3):
            found = evaluate_policy(always(tier)(world), logged, q)
            assert found.missing_share == pytest.approx(1.0 - rule[:, tier].mean())
            assert found.values == {}
        followed = evaluate_policy(rule, logged, q)
        assert followed.missing_share == 0.0 and followed.values


def test_the_log_of_a_hesitant_rule_supports_what_it_hesitates_between() -> None:
    """The middle third is a coin-flip between two tiers: there, and only there, they compare."""
    success, cost = truth(keyword, "plain")
    missed: Counter[str] = Counter()
    for seed in range(N_LOGS):
        world, logged, q = draw(hesitant, "plain", 800, seed)
        known = replace(logged, propensities=hesitant(world))
        # The keyword rule keeps to what the log tried; always-middle does not.
        value = evaluate_policy(keyword(world), known, q).values["dr"]
        missed.update(name for name, miss in misses(value, success, cost).items() if miss)
        assert evaluate_policy(always(1)(world), known, q).refusal is not None
    for name in ("success", "cost", "cps"):
        check_coverage(missed[name], N_LOGS)


def test_estimated_propensities_refuse_the_same_region() -> None:
    """A rule that the inputs show, and nothing recorded: support is exact off the rule's edges."""
    n, wrong_rows, rows = 1000, 0, 0
    for seed in range(20):
        world, logged, _ = draw(keyword, "plain", n, seed)
        rule = keyword(world)
        # A rule on keywords: the inputs hold each of them, and much else.
        words = np.column_stack((rule[:, 0], rule[:, 2]))
        x = np.column_stack((words, np.random.default_rng(seed).standard_normal((n, 10))))
        found = fit_propensity(x, logged.tier, 3, np.arange(n) % 5)
        wrong_rows += int((overlap(found.values) != (rule > 0)).any(axis=1).sum())
        rows += n
    assert wrong_rows == 0, f"support is wrong on {wrong_rows} of {rows} requests"


# ---------------------------------------------------------------- pairs


def test_bets_on_pairs_hold_their_level() -> None:
    """Two policies that are equally good at this success value: neither is often called better."""
    world = numeric_world("plain", 1, 0)
    dearer = world.true_cost_usd[2] - world.true_cost_usd[1]
    value = float(dearer / (world.true_rate[2] - world.true_rate[1]))
    rejected: Counter[str] = Counter()
    for seed in range(N_LOGS):
        _, training, _ = draw(uniform, "plain", 600, 10_000 + seed)
        world, logged, q = draw(uniform, "plain", 600, seed)
        # What the bets rely on is fixed on other rows.
        bound = np.array([2 * training.cost_usd[training.tier == t].max() for t in range(3)])
        limit = weight_limit(training, n_rows=600)
        dist_a, dist_b = always(1)(world), always(2)(world)
        pair = compare(dist_a, dist_b, logged, q, value, max_weight=limit, cost_bound_usd=bound)
        # Each bet alone is at 5 %, on the two sides of the loss and of success.
        least = world.true_rate[1] - world.true_rate[2]
        for name, terms, limit_of, true in (
            ("loss", pair.loss_usd, pair.loss_bound_usd, 0.0),
            ("success", pair.success, pair.success_bound, least),
        ):
            rejected[name + " above"] += betting_lower(terms, -limit_of, limit_of, 0.05) > true
            rejected[name + " below"] += betting_lower(-terms, -limit_of, limit_of, 0.05) > -true
    for count in rejected.values():
        check_coverage(count, N_LOGS)
