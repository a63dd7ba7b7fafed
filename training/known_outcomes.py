"""What is known of costs before outcomes are compared: it fixes the ranges that bounds rely on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from training.verdict import RANGE_FACTOR

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Habits:
    """How a policy uses the tiers: its share of each, (T,), and those that it may choose, (T,)."""

    share: FloatArray
    choices: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class KnownOutcomes:
    """Outcomes known before the compared ones, (m, T) with NaN."""

    success: FloatArray
    cost_usd: FloatArray

    def largest_cost(self) -> FloatArray:
        """The most that a request cost on each tier, (T,); where unknown, on any."""
        known = np.where(np.isnan(self.cost_usd), -1.0, self.cost_usd)
        largest: FloatArray = known.max(axis=0, initial=-1.0)
        return np.where(largest < 0, largest.max(initial=0.0), largest)

    def loss_range(self, value: float, a: Habits, b: Habits) -> float:
        """How much larger the loss of policy a on a request can be than that of b."""
        dearest, most = self.largest_cost(), 0.0
        for s, t in product(*map(np.flatnonzero, (a.choices, b.choices))):
            if s == t:
                continue
            apart = self.cost_usd[:, s] - self.cost_usd[:, t]
            apart = apart[np.isfinite(apart)]
            # Costs are not negative: without both on a row, the dearer of the two at its dearest.
            most = max(most, float(apart.max()) if len(apart) else float(dearest[s]))
        return RANGE_FACTOR * most + value

    def variances(self, value: float, a: Habits, b: Habits) -> tuple[float, float]:
        """About the mean squared difference of success, and of loss, between the two."""
        parts = []
        for outcome in (self.success, self.cost_usd - value * self.success):
            total = 0.0
            for s in np.flatnonzero(a.share):
                for t in np.flatnonzero(b.share):
                    squared = (outcome[:, s] - outcome[:, t]) ** 2
                    squared = squared[np.isfinite(squared)]
                    both = a.share[s] * b.share[t]
                    total += float(both * (squared.mean() if len(squared) else 0.0))
            parts.append(total)
        return parts[0], parts[1]

    def weighted_variances(
        self, value: float, max_weight: float, a: Habits, b: Habits
    ) -> tuple[float, float]:
        """The same for terms that are weighted: about their variance around predictions."""
        share = a.share + b.share
        parts = []
        for outcome in (self.success, self.cost_usd - value * self.success):
            spread = np.array(
                [
                    float(np.var(column[np.isfinite(column)])) if np.isfinite(column).any() else 0.0
                    for column in outcome.T
                ]
            )
            parts.append(max_weight * float(share @ spread))
        return parts[0], parts[1]
