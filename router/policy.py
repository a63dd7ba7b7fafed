"""Policies as pure functions: (P(success), cost) -> tier, and mixes of tiers.

Shapes: ``n`` requests, ``T`` tiers. ``p_success`` and ``cost_usd`` are (n, T); a *success value*
(lambda) is the dollars one more success is worth. Nothing here draws a random number, reads a file
or knows a query's text, so that what is evaluated offline is exactly what is served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

# Success rates closer than this are equal: sums of the same numbers in another order differ so.
SAME_RATE = 1e-12


def choose(
    p_success: FloatArray,
    cost_usd: FloatArray,
    success_value_usd: float,
    allowed: BoolArray | None = None,
) -> IntArray:
    """The tier of least ``cost - success_value * p_success`` for every request, shape (n,).

    Ties go to the tier of lower cost, then to the likelier one, then to the earlier one.
    ``allowed`` (n, T) marks the tiers that may be chosen; each row needs at least one.

    >>> p = np.array([[0.5, 0.9], [0.8, 0.9]])
    >>> c = np.array([[0.001, 0.02], [0.001, 0.02]])
    >>> choose(p, c, success_value_usd=0.1).tolist()
    [1, 0]
    """
    loss = cost_usd - success_value_usd * p_success
    if allowed is not None:
        loss = np.where(allowed, loss, np.inf)
    # By argmin, which is several times as fast as min over a few columns.
    ties = loss == loss[np.arange(len(loss)), loss.argmin(axis=1)][:, None]
    tied_cost = np.where(ties, cost_usd, np.inf)
    chosen: IntArray = tied_cost.argmin(axis=1)
    if success_value_usd == 0.0:
        # Only here can tiers that tie in loss and in cost differ in success.
        cheapest = tied_cost == tied_cost.min(axis=1, keepdims=True)
        chosen = np.where(cheapest, p_success, -np.inf).argmax(axis=1)
    return chosen


def choose_one(
    p_success: Sequence[float], cost_usd: Sequence[float], success_value_usd: float
) -> int:
    """``choose`` for one request; for a few tiers plain numbers are faster than arrays.

    >>> choose_one([0.5, 0.9], [0.001, 0.02], success_value_usd=0.1)
    1
    """
    chosen, least = 0, math.inf
    for tier, cost in enumerate(cost_usd):
        loss = cost - success_value_usd * p_success[tier]
        if loss < least or (
            loss == least and (cost, -p_success[tier]) < (cost_usd[chosen], -p_success[chosen])
        ):
            chosen, least = tier, loss
    return chosen


def min_cps_value(p_success: FloatArray, cost_usd: FloatArray) -> float:
    """Dinkelbach's lambda*: the least ratio sum(cost) / sum(success) that any policy reaches.

    ``choose`` at this value minimises the *ratio of sums*; the tier of least ``c / p`` per request
    does not. Returns 0.0 where success is free and ``inf`` where no tier ever succeeds.
    Source: W. Dinkelbach, On nonlinear fractional programming, Management Science 13 (1967).

    >>> p = np.array([[0.6, 0.9], [0.1, 0.9]])
    >>> c = np.array([[1.0, 2.0], [1.0, 2.0]])
    >>> round(min_cps_value(p, c), 4)  # (1 + 2) / (0.6 + 0.9), by tier 0 then tier 1
    2.0
    """
    if not (p_success > 0).any():
        return math.inf
    # Start above the fixed point: the tiers with the best own ratio.
    totals_p, totals_c = p_success.sum(axis=0), cost_usd.sum(axis=0)
    value = float((totals_c[totals_p > 0] / totals_p[totals_p > 0]).min())
    rows = np.arange(len(p_success))
    for _ in range(100):
        tier = choose(p_success, cost_usd, value)
        succeeded = float(p_success[rows, tier].sum())
        if succeeded <= 0:  # a free tier that never succeeds ties with the best ratio
            break
        ratio = float(cost_usd[rows, tier].sum()) / succeeded
        if ratio >= value * (1 - 1e-12):
            break
        value = ratio
    return value


def value_sweep(p_success: FloatArray, cost_usd: FloatArray, n_values: int = 64) -> FloatArray:
    """At most ``n_values`` success values, descending, that trace the cost-success curve.

    They are quantiles of the values at which some request changes between two tiers, so the curve
    is followed evenly in the share of requests that move. The last one (0.0) always chooses the
    cheapest tier.

    >>> value_sweep(np.array([[0.5, 1.0]]), np.array([[1.0, 2.0]]), 3).round(2).tolist()
    [2.02, 0.0]
    """
    switches = []
    n_tiers = p_success.shape[1]
    for low in range(n_tiers):
        for high in range(n_tiers):
            gain = p_success[:, high] - p_success[:, low]
            extra = cost_usd[:, high] - cost_usd[:, low]
            # `gain` below a millionth moves nobody who is in their right mind.
            worth = (gain > 1e-6) & (extra > 0)
            switches.append(extra[worth] / gain[worth])
    points = np.concatenate(switches) if switches else np.empty(0)
    if points.size == 0:
        return np.zeros(1)
    quantiles = np.quantile(points, np.linspace(0.0, 1.0, max(n_values - 1, 1)))
    # A hair above each switching point, so that the request has moved.
    return np.unique(np.append(quantiles * 1.01, 0.0))[::-1].copy()


def value_for_budget(
    p_success: FloatArray, cost_usd: FloatArray, budget_usd_per_request: float
) -> float:
    """The largest swept success value whose mean cost stays within the budget.

    Raises InputError where even the cheapest choice costs more.

    >>> p, c = np.array([[0.5, 1.0]] * 2), np.array([[1.0, 2.0], [1.0, 3.0]])
    >>> value = value_for_budget(p, c, 1.5)  # one of two requests may move up
    >>> choose(p, c, value).tolist()
    [1, 0]
    """
    rows = np.arange(len(p_success))
    for value in value_sweep(p_success, cost_usd, 512):
        mean_cost = cost_usd[rows, choose(p_success, cost_usd, float(value))].mean()
        if mean_cost <= budget_usd_per_request:
            return float(value)
    cheapest = float(cost_usd.min(axis=1).mean())
    raise InputError(
        f"expected a budget of at least ${cheapest:.6g} per request (the cheapest choice always), "
        f"got ${budget_usd_per_request:.6g}: raise the budget or add a cheaper tier."
    )


@dataclass(frozen=True, slots=True)
class Mix:
    """A coin-flip between two single tiers: ``high`` with probability ``share_high``, else ``low``.

    ``reached`` is False where no tier reaches the success rate that was asked for.
    """

    low: int
    high: int
    share_high: float
    cost_usd: float
    reached: bool


def mix_hull(mean_cost_usd: Sequence[float] | FloatArray, mean_success: Any) -> list[int]:
    """Tiers on the non-decreasing lower convex hull of cost over success, cheapest first.

    Mixtures of neighbours on it are the cheapest coin-flips between single tiers.

    >>> mix_hull([1.0, 9.0, 10.0], [0.5, 0.6, 0.9])  # the middle tier is dearer than a coin-flip
    [0, 2]
    """
    cost, success = np.asarray(mean_cost_usd, float), np.asarray(mean_success, float)
    # Cheapest first; of equal cost the more successful one first, so that it hides the others.
    hull: list[int] = []
    for tier in sorted(range(len(cost)), key=lambda t: (cost[t], -success[t], t)):
        if hull and success[tier] <= success[hull[-1]]:
            continue
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            slope_ab = (cost[b] - cost[a]) * (success[tier] - success[b])
            slope_bt = (cost[tier] - cost[b]) * (success[b] - success[a])
            if slope_ab < slope_bt:
                break
            hull.pop()
        hull.append(tier)
    return hull


def cheapest_mix(
    mean_cost_usd: Sequence[float] | FloatArray, mean_success: Any, target_success: float
) -> Mix:
    """The cheapest coin-flip between single tiers with success rate at least ``target_success``.

    >>> mix = cheapest_mix([1.0, 3.0], [0.5, 0.9], 0.7)
    >>> (mix.low, mix.high, round(mix.share_high, 6), round(mix.cost_usd, 6))
    (0, 1, 0.5, 2.0)
    """
    cost, success = np.asarray(mean_cost_usd, float), np.asarray(mean_success, float)
    hull = mix_hull(cost, success)
    about = target_success - SAME_RATE
    if about <= success[hull[0]]:
        return Mix(hull[0], hull[0], 0.0, float(cost[hull[0]]), True)
    for low, high in pairwise(hull):
        if about <= success[high]:
            share = (target_success - success[low]) / (success[high] - success[low])
            share = min(float(share), 1.0)
            blended = float(cost[low] + share * (cost[high] - cost[low]))
            return Mix(low, high, share, blended, True)
    return Mix(hull[-1], hull[-1], 0.0, float(cost[hull[-1]]), False)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is served: tiers by success value, one tier, or a coin-flip between two.

    ``success_value_usd`` is lambda for the kind "value"; for the other kinds it is the exchange
    rate at which that tier or mix would be chosen, used to judge and to escalate. ``safe_tier``
    takes the queries that are out of distribution; ``strongest`` is the tier of the highest
    success rate on the fitting rows.
    """

    kind: Literal["value", "tier", "mix"]
    success_value_usd: float
    safe_tier: int
    strongest: int
    low: int | None = None
    high: int | None = None
    share_high: float = 0.0

    def action_dist(
        self,
        p_success: FloatArray,
        cost_usd: FloatArray,
        out_of_distribution: BoolArray | None = None,
        allowed: BoolArray | None = None,
    ) -> FloatArray:
        """Probability of every tier for every request, shape (n, T); rows sum to 1.

        Where a tier that the policy wants is not ``allowed``, the choice falls back to the best
        allowed tier at the success value.
        """
        n_requests, n_tiers = p_success.shape
        dist = np.zeros((n_requests, n_tiers))
        if self.kind == "value":
            tier = choose(p_success, cost_usd, self.success_value_usd)
            dist[np.arange(n_requests), tier] = 1.0
        else:
            dist[:, self.low] += 1.0 - self.share_high
            dist[:, self.high] += self.share_high
        if out_of_distribution is not None:
            dist[out_of_distribution] = np.eye(n_tiers)[self.safe_tier]
        if allowed is not None:
            kept = np.where(allowed, dist, 0.0)
            total = kept.sum(axis=1, keepdims=True)
            fallback = np.eye(n_tiers)[choose(p_success, cost_usd, self.success_value_usd, allowed)]
            dist = np.where(total > 0, kept / np.where(total > 0, total, 1.0), fallback)
        return dist

    def certain_tier(
        self, p_success: Sequence[float], cost_usd: Sequence[float], out_of_distribution: bool
    ) -> int | None:
        """The one tier that ``action_dist`` gives a request, or None where a coin decides."""
        if out_of_distribution:
            return self.safe_tier
        if self.kind == "value":
            return choose_one(p_success, cost_usd, self.success_value_usd)
        return self.low if self.low == self.high else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """Back from the manifest."""
        return cls(**{name: data[name] for name in cls.__slots__})

    @classmethod
    def single(cls, tier: int, success_value_usd: float, safe_tier: int, strongest: int) -> Policy:
        """Always ``tier``."""
        return cls("tier", success_value_usd, safe_tier, strongest, tier, tier)
