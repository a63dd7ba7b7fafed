"""Cascades: what becomes of plans under a verifier that errs, and the plans of every method.

The verifier errs independently from try to try, and asking it costs nothing. The last answer of a
plan is served as it is. A success is an answer that was served and is truly good; what happens is
averaged over the verifier's coins, so that only the rows are a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from router.escalation import PERFECT, Escalation, Verifier
from router.plans import Chances, best_plan
from router.policy import choose, value_sweep

FloatArray = npt.NDArray[np.float64]
Plan = tuple[int, ...]

ONCE, GIVEN, UNTOLD = "route once", "plan", "plan, not told of errors"
INDEPENDENT, CHEAPEST_FIRST = "plan, tries independent", "cheapest first, no text"
METHODS = (ONCE, GIVEN, UNTOLD, INDEPENDENT, CHEAPEST_FIRST)
# Success values on a curve: from where a further try starts to pay, and from where routing once
# takes another tier.
N_VALUES = 12, 12
Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class Predicted:
    """P(success), predicted dollars, success and logged dollars of test rows, all (n, T)."""

    p_success: FloatArray
    cost_usd: FloatArray
    success: FloatArray
    realised_usd: FloatArray
    escalation: Escalation


def played(
    plans: Sequence[Plan], success: FloatArray, cost_usd: FloatArray, verifier: Verifier
) -> tuple[FloatArray, FloatArray]:
    """(P(the answer served is good), expected dollars) of every request (n,) under its plan.

    >>> s, c = np.array([[0.0, 1.0]] * 2), np.array([[1.0, 10.0]] * 2)
    >>> [x.tolist() for x in played([(0,), (0, 1)], s, c, Verifier(0.25, 0.1))]
    [[0.0, 0.75], [1.0, 8.5]]
    """
    right, paid = np.zeros(len(plans)), np.zeros(len(plans))
    rows_of: dict[Plan, list[int]] = {}
    for row, plan in enumerate(plans):
        rows_of.setdefault(plan, []).append(row)
    for plan, rows in rows_of.items():
        reach = np.ones(len(rows))
        for tier in plan:
            s = success[rows, tier]
            paid[rows] += reach * cost_usd[rows, tier]
            last = tier == plan[-1]
            right[rows] += reach * s * (1.0 if last else 1.0 - verifier.false_alarm_rate)
            reach = reach * (s * verifier.false_alarm_rate + (1.0 - s) * (1.0 - verifier.miss_rate))
    return right, paid


class Planner:
    """Plans of every test row; what a rejection says is worked out once for all success values."""

    def __init__(self, data: Predicted, verifier: Verifier, dependent: bool = True) -> None:
        self.p, self.cost = data.p_success.tolist(), data.cost_usd.tolist()
        self.verifier = verifier
        self.given: list[Chances | None] = [
            data.escalation.given(p, None, verifier) if dependent else None for p in self.p
        ]

    def __call__(self, success_value_usd: float) -> list[Plan]:
        """One plan for each row."""
        return [
            tuple(best_plan(p, cost, success_value_usd, given, self.verifier).order)
            for p, cost, given in zip(self.p, self.cost, self.given, strict=True)
        ]


def planners(data: Predicted, verifier: Verifier) -> dict[str, Planner]:
    """The plan that knows the verifier's rates, and two that lack something."""
    return {
        GIVEN: Planner(data, verifier),
        UNTOLD: Planner(data, PERFECT),
        INDEPENDENT: Planner(data, verifier, dependent=False),
    }


def plans_by_value(
    data: Predicted, by_method: Mapping[str, Planner]
) -> dict[str, list[list[Plan]]]:
    """For every method its plans (n,) at each point of its curve."""
    p, cost = data.p_success, data.cost_usd
    n, n_tiers = p.shape
    perfect = by_method[UNTOLD].given
    chance = np.array(
        [
            [[one(t, mask) for t in range(n_tiers)] for mask in range(2**n_tiers)]
            for one in perfect
            if one is not None
        ]
    )
    pays = cost[:, None] / np.maximum(chance, 1e-4)
    swept = value_sweep(p, cost)
    values = np.concatenate(
        [
            np.quantile(some, np.linspace(0.0, 1.0, count))
            for some, count in zip((pays, swept), N_VALUES, strict=True)
        ]
    )
    by_cost = np.argsort(cost.mean(axis=0)).tolist()
    fixed = [[some] * n for size in range(1, n_tiers + 1) for some in combinations(by_cost, size)]
    return {
        ONCE: [[(int(t),) for t in choose(p, cost, float(v))] for v in swept],
        # A hair above the value at which a try starts to pay, so that it does.
        **{name: [plan(1.01 * float(v)) for v in values] for name, plan in by_method.items()},
        CHEAPEST_FIRST: fixed,
    }


@dataclass(frozen=True, slots=True)
class Worth:
    """Success rate, mean dollars and mean net dollars of every method at one success value.

    ``gap`` is the plan's mean net dollars over another method's, with a 95 % interval of the paired
    difference over requests.
    """

    verifier: Verifier
    value_usd: float
    means: dict[str, tuple[float, float, float]]
    gap: dict[str, tuple[float, float, float]]


def net_values(data: Predicted, by_method: Mapping[str, Planner], value_usd: float) -> Worth:
    """Every planner and routing once, where a success is worth ``value_usd``."""
    once = choose(data.p_success, data.cost_usd, value_usd)
    plans = {ONCE: [(int(tier),) for tier in once]}
    plans |= {name: plan(value_usd) for name, plan in by_method.items()}
    verifier = by_method[GIVEN].verifier
    means, net = {}, {}
    for method, each in plans.items():
        right, paid = played(each, data.success, data.realised_usd, verifier)
        net[method] = value_usd * right - paid
        means[method] = float(right.mean()), float(paid.mean()), float(net[method].mean())
    gap = {name: _interval(net[GIVEN] - net[name]) for name in plans if name != GIVEN}
    return Worth(verifier, value_usd, means, gap)


def _interval(difference: FloatArray) -> tuple[float, float, float]:
    mean = float(difference.mean())
    half = Z_95 * float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return mean, mean - half, mean + half
