"""Do the report and the verdict on a log hold what they state, from the table to the sentence?

Two hundred logs are drawn from a world whose truth is known exactly. An interval at 95 % may miss
it on one log in twenty, and a router that is worth no more than a single tier may be said to pay,
or not to pay, on one in twenty. That the estimators underneath hold is tested in
``test_offpolicy_coverage``; here the propensities may be missing, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from scipy.stats import binom

from tests.logged_feedback import N_CALIBRATION, NAMES, LoggedWorld
from training.evaluate_logged import evaluate_logged
from training.synthetic import NumericWorld

pytestmark = pytest.mark.slow

N_LOGS = 200
CONFIDENCE = 0.95
# A level that is kept is found broken by bad luck in one check of a thousand, at worst.
MOST = int(binom.ppf(0.999, N_LOGS, 1 - CONFIDENCE))
# Of the clear world: success rate and USD per request. The heuristic sends the easy half to mid.
TRUTH = {
    "router": (0.95, 0.5 * 0.001 + 0.5 * 0.1),
    "keyword": (0.95, 0.5 * 0.01 + 0.5 * 0.1),
    "always-nano": (0.525, 0.001),
    "always-mid": (0.675, 0.01),
    "always-frontier": (0.95, 0.1),
}
EXPLORED = tuple(np.mean([TRUTH[f"always-{name}"] for name in NAMES], axis=0))
TRUTH["logging"] = tuple(0.7 * np.array(TRUTH["keyword"]) + 0.3 * np.array(EXPLORED))


@pytest.mark.parametrize("recorded", [True, False])
def test_the_reports_intervals_hold_their_level(recorded: bool) -> None:
    missed: Counter[tuple[str, str]] = Counter()
    given: Counter[tuple[str, str]] = Counter()
    for seed in range(N_LOGS):
        world = LoggedWorld(1500, "clear", seed, success_value_usd=0.5)
        table = world.log(world.exploring(0.3), recorded=recorded)
        report = evaluate_logged(world.router(), table, seed=seed)
        assert report.propensity.estimated != recorded
        for name, (success, cost) in TRUTH.items():
            value = report.policies[name].headline
            if value is None:
                continue
            for what, estimate, true in (
                ("success", value.success_rate, success),
                ("cost", value.cost_usd_per_request, cost),
                ("cps", value.cps_usd, cost / success),
            ):
                if estimate.interval is not None:
                    given[name, what] += 1
                    missed[name, what] += not estimate.interval[0] <= true <= estimate.interval[1]
        saved = report.saved
        assert saved is not None
        for what, estimate, true in (
            ("saved", saved.saved_usd_per_request, TRUTH["logging"][1] - TRUTH["router"][1]),
            ("gained", saved.success_rate_difference, TRUTH["router"][0] - TRUTH["logging"][0]),
        ):
            assert estimate.interval is not None
            given["router", what] += 1
            missed["router", what] += not estimate.interval[0] <= true <= estimate.interval[1]
    for name in ("router", "logging", "keyword", "always-frontier"):
        assert given[name, "cps"] >= 0.9 * N_LOGS
    assert {key: n for key, n in missed.items() if n > MOST} == {}


@dataclass(frozen=True)
class Indifferent(LoggedWorld):
    """Two tiers that are worth exactly the same; what the router goes by says nothing."""

    @cached_property
    def world(self) -> NumericWorld:
        rng = np.random.default_rng(self.seed)
        n = self.n + N_CALIBRATION
        p = np.tile([0.1, 0.8, 0.8], (n, 1))
        expected = np.tile([0.01, 0.02, 0.02], (n, 1))
        cost = expected * rng.uniform(0.5, 1.5, (n, 3))
        success = (rng.random((n, 3)) < p).astype(float)
        p_hat = np.clip(p + rng.uniform(-0.05, 0.05, (n, 3)), 0, 1)
        return NumericWorld(
            *("indifferent", 0.8, p[0], expected[0], p_hat, expected),
            *(p, expected, success, cost),
        )


def test_a_router_that_is_worth_one_tier_is_seldom_said_to_be_more_or_less() -> None:
    labels: Counter[str] = Counter()
    for seed in range(N_LOGS):
        world = Indifferent(1000, seed=seed, success_value_usd=0.1)
        report = evaluate_logged(world.router(), world.log(world.uniform), seed=seed)
        labels[report.verdict.label] += 1
    assert labels["pays"] <= MOST
    assert labels["does not pay"] <= MOST


def test_a_router_that_is_better_is_found_to_be() -> None:
    labels: Counter[str] = Counter()
    for seed in range(20):
        world = LoggedWorld(2000, "clear", seed, success_value_usd=0.5)
        report = evaluate_logged(world.router(), world.log(world.uniform), seed=seed)
        labels[report.verdict.label] += 1
    assert labels["pays"] == 20, labels
