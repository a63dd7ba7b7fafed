"""Cascades: what becomes of plans under a verifier that errs, and the plans of every method.

A verifier has two rates of error: it passes a failed answer as good (miss), and sends a good one
back (false alarm), independently from try to try. The last answer of a plan is taken as it is. A
success is an answer that was taken and is truly right; what happens is averaged over the verifier's
coins, so that only the rows are a sample. Asking the verifier costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from router.escalation import Escalation
from router.policy import choose, escalation_order, value_sweep

FloatArray = npt.NDArray[np.float64]
Plan = tuple[int, ...]

ONCE, GIVEN, INDEPENDENT = "route once", "plan", "plan, tries independent"
CHEAPEST_FIRST = "cheapest first, no text"
METHODS = (ONCE, GIVEN, INDEPENDENT, CHEAPEST_FIRST)
N_VALUES = 32


@dataclass(frozen=True, slots=True)
class Verifier:
    """Shares of failed answers that are passed, and of good ones that are sent back."""

    miss: float
    false_alarm: float

    @property
    def label(self) -> str:
        """Both rates, in this order."""
        return f"{self.miss:g} / {self.false_alarm:g}"


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
    """(P(the answer taken is right), expected dollars) of every request (n,) under its plan.

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
            right[rows] += reach * s * (1.0 if last else 1.0 - verifier.false_alarm)
            reach = reach * (s * verifier.false_alarm + (1.0 - s) * (1.0 - verifier.miss))
    return right, paid


def plans_by_value(data: Predicted) -> dict[str, list[list[Plan]]]:
    """For every method its plans (n,) at each point of its curve."""
    p, cost = data.p_success, data.cost_usd
    n, n_tiers = p.shape
    given = [data.escalation.given(row) for row in p.tolist()]
    chance = np.array(
        [[[one(t, mask) for t in range(n_tiers)] for mask in range(2**n_tiers)] for one in given]
    )
    # From the values at which a try starts to pay, for somebody after some failures.
    pays = cost[:, None] / np.maximum(chance, 1e-4)
    # A hair above, so that it does.
    values = np.quantile(pays, np.linspace(0.0, 1.0, N_VALUES)) * 1.01

    def plan(value: float, dependent: bool) -> list[Plan]:
        return [
            tuple(escalation_order(p[i], cost[i], value, given[i] if dependent else None))
            for i in range(n)
        ]

    by_cost = np.argsort(cost.mean(axis=0)).tolist()
    fixed = [[some] * n for size in range(1, n_tiers + 1) for some in combinations(by_cost, size)]
    return {
        ONCE: [[(int(t),) for t in choose(p, cost, float(v))] for v in value_sweep(p, cost)],
        GIVEN: [plan(float(value), True) for value in values],
        INDEPENDENT: [plan(float(value), False) for value in values],
        CHEAPEST_FIRST: fixed,
    }


def net_values(
    data: Predicted, verifier: Verifier, value_usd: float
) -> dict[str, tuple[float, ...]]:
    """(success rate, mean dollars, mean net dollars) where a success is worth ``value_usd``.

    Under "difference": mean net dollars of the plan over those with tries independent, and the
    standard error.
    """
    p, cost = data.p_success, data.cost_usd
    ask: dict[str, Callable[[int], Sequence[int]]] = {
        GIVEN: lambda i: escalation_order(
            p[i], cost[i], value_usd, data.escalation.given(p[i].tolist())
        ),
        INDEPENDENT: lambda i: escalation_order(p[i], cost[i], value_usd),
    }
    plans: dict[str, list[Plan]] = {ONCE: [(int(t),) for t in choose(p, cost, value_usd)]}
    plans |= {name: [tuple(one(i)) for i in range(len(p))] for name, one in ask.items()}
    found: dict[str, tuple[float, ...]] = {}
    net = {}
    for method, each in plans.items():
        right, paid = played(each, data.success, data.realised_usd, verifier)
        net[method] = value_usd * right - paid
        found[method] = float(right.mean()), float(paid.mean()), float(net[method].mean())
    gap = net[GIVEN] - net[INDEPENDENT]
    found["difference"] = float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))
    return found
