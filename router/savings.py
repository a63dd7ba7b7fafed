"""What was saved, taken apart so that the parts add up to the last nanodollar.

::

    baseline = actual cost + cache saving + routing saving + batch saving
               - cost of escalation - cost of exploration

The baseline is the bill of always using the strongest tier, without prompt cache and batch. With a
request's attempts a = 1..k, each with its cost, the cost of its tokens without a cache ("uncached")
and that without cache and batch ("standard"), and o the first of them that brought an answer (one
that a verifier rejected is one):

- cache saving = sum of uncached - cost: net of what writing to caches costs more, may be negative;
- batch saving = sum of standard - uncached;
- cost of escalation = sum of standard over all attempts but o: what was paid beyond one answer.
  Attempts without an answer are "failed", before o and after it; the others go by their role;
- cost of exploration = what the tier that was tried was expected to cost more than the policy's;
- routing saving = baseline - (standard of o - cost of exploration).

So an attempt that failed and cost nothing is nobody's saving, and one tried again on the same tier
counts as if it had answered at once. Where another tier stood in for one that failed, routing saved
what the tier that answered was cheaper, or lost what it was dearer: what the one that was decided
on would have cost is not known, since it never answered.

Nothing here reads a ledger; ``router.ledger.report`` adds the sums up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from router.records import NANOUSD_PER_USD

CONFIDENCE = 0.95
MAX_CONFIDENCE = 0.9999
"""Beyond it the quantile of the interval is not exact enough to be said."""
MIN_COVERED = 0.8
"""With every part known of a smaller share of the answered requests, no discount is given."""
MIN_CLUSTERS = 20
"""With fewer independent sessions or requests no interval is given."""

BASIS = {
    "baseline": "partly measured",
    "routing_saving": "estimated",
    "cache_saving": "measured",
    "batch_saving": "measured",
    "escalation_cost": "measured",
    "exploration_cost": "estimated",
    "cost": "measured",
    "saved": "estimated",
}
"""How each part is known: from usages that were reported, at list prices; or from what was not
seen: the baseline where the strongest tier did not serve, and what exploring was to cost.
"""

FURTHER = ("escalation", "fallback", "retry", "failed", "other")
"""What is paid beyond one answer: by role, or without an answer ("failed")."""


@dataclass(frozen=True, slots=True)
class Savings:
    """Sums over the requests of which every part is known, in whole nanodollars.

    ``own_standard_nanousd`` is the standard cost of the first answers, ``further_nanousd`` that of
    all other attempts, by the words of FURTHER. Of the baseline, ``measured_nanousd`` is of the
    ``n_measured`` requests that the strongest tier served itself; the rest is estimated (its output
    tokens are).
    """

    n_requests: int = 0
    baseline_nanousd: int = 0
    cost_nanousd: int = 0
    uncached_nanousd: int = 0
    standard_nanousd: int = 0
    own_standard_nanousd: int = 0
    exploration_nanousd: int = 0
    further_nanousd: dict[str, int] = field(default_factory=dict)
    n_measured: int = 0
    measured_nanousd: int = 0

    @property
    def cache_nanousd(self) -> int:
        """What prompt caches saved, net of the dearer writes."""
        return self.uncached_nanousd - self.cost_nanousd

    @property
    def batch_nanousd(self) -> int:
        """What batches saved."""
        return self.standard_nanousd - self.uncached_nanousd

    @property
    def escalation_nanousd(self) -> int:
        """What was paid beyond one answer to each request."""
        return sum(self.further_nanousd.values())

    @property
    def routing_nanousd(self) -> int:
        """What the policy's own choices saved."""
        return self.baseline_nanousd - (self.own_standard_nanousd - self.exploration_nanousd)

    @property
    def saved_nanousd(self) -> int:
        """Baseline less cost; negative where the baseline was cheaper."""
        return self.baseline_nanousd - self.cost_nanousd

    @property
    def discount(self) -> float | None:
        """1 - cost / baseline; None without a baseline."""
        if self.baseline_nanousd == 0:
            return None
        return 1.0 - self.cost_nanousd / self.baseline_nanousd

    @property
    def baseline_basis(self) -> str:
        """How the baseline is known."""
        if self.n_measured == self.n_requests:
            return "measured"
        return "partly measured" if self.n_measured else "estimated"

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, in whole nanodollars and, for the eye, in dollars."""
        parts = {
            "baseline": self.baseline_nanousd,
            "cost": self.cost_nanousd,
            "cache_saving": self.cache_nanousd,
            "routing_saving": self.routing_nanousd,
            "batch_saving": self.batch_nanousd,
            "escalation_cost": self.escalation_nanousd,
            "exploration_cost": self.exploration_nanousd,
            "saved": self.saved_nanousd,
        }
        return {
            "n_requests": self.n_requests,
            **{f"{name}_nanousd": value for name, value in parts.items()},
            **{f"{name}_usd": value / NANOUSD_PER_USD for name, value in parts.items()},
            "basis": {**BASIS, "baseline": self.baseline_basis},
            "escalation_cost_by_role_nanousd": dict(self.further_nanousd),
            "baseline_measured": _share(self.n_measured, self.measured_nanousd),
            "baseline_estimated": _share(
                self.n_requests - self.n_measured, self.baseline_nanousd - self.measured_nanousd
            ),
        }


def _share(n_requests: int, nanousd: int) -> dict[str, Any]:
    return {
        "n_requests": n_requests,
        "baseline_nanousd": nanousd,
        "baseline_usd": nanousd / NANOUSD_PER_USD,
    }


def discount_interval(
    cost: float,
    baseline: float,
    squared_residuals: float,
    n_clusters: int,
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """Interval of 1 - cost / baseline, a ratio of sums over independent clusters (delta method).

    A cluster is a session, or a request that is of none: requests of one session are alike. With
    each cluster's cost A_c and baseline B_c and the ratio r = sum A / sum B, the variance of r is
    G / (G - 1) * sum (A_c - r B_c)^2 / (sum B)^2, and its quantile that of Student's distribution
    with G - 1 degrees of freedom. No discount is above 1. It covers which sessions came by chance;
    it does not cover that the baseline is estimated, list prices that you do not pay, or what is
    left out.

    Args:
        cost: Sum of A_c over all clusters.
        baseline: Sum of B_c.
        squared_residuals: Sum of (A_c - r B_c)^2.
        n_clusters: G.
        confidence: Between 0 and MAX_CONFIDENCE.

    Returns:
        Its ends, or None below MIN_CLUSTERS clusters and without a baseline.

    >>> low, high = discount_interval(40.0, 100.0, 25.0, 100)
    >>> round(low, 3), round(high, 3)
    (0.5, 0.7)
    """
    if n_clusters < MIN_CLUSTERS or baseline <= 0:
        return None
    variance = n_clusters / (n_clusters - 1) * squared_residuals / baseline**2
    reach = _student(0.5 + confidence / 2, n_clusters - 1) * math.sqrt(max(variance, 0.0))
    discount = 1.0 - cost / baseline
    return discount - reach, min(discount + reach, 1.0)


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution (Abramowitz and Stegun 26.7.5).

    Off by less than 1e-4 from 19 degrees of freedom on, which is where it is used from.

    >>> round(_student(0.975, 19), 3), round(_student(0.975, 10**6), 3)
    (2.093, 1.96)
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
