"""Routers, the keyword rule and single tiers over the same columns of tiers, to be compared.

``names`` are the tiers of the columns (T); a router may have fewer, in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.costs import TierMeans
from router.decision import Predictions
from router.keyword import KeywordRouter
from router.routing import Router
from router.stored_query import Query
from training import baselines
from training.contest_rows import Progress
from training.known_outcomes import Habits, KnownOutcomes

FloatArray = npt.NDArray[np.float64]
Names = tuple[str, ...]

_CHUNK = 8192
# A difference of probabilities this small is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Routers over the columns ``names``, and what they say and know together."""

    routers: Sequence[Router]
    names: Names

    def spread(self, router: Router, values: FloatArray, fill: float) -> FloatArray:
        """Values of the router's tiers (n, its tiers) as (n, T)."""
        result = np.full((len(values), len(self.names)), fill)
        result[:, [self.names.index(name) for name in router.tiers.names]] = values
        return result

    def play(
        self, queries: list[Query], progress: Progress
    ) -> tuple[list[FloatArray], FloatArray, FloatArray]:
        """What each would do, and success and cost as predicted by all on average: (n, T)."""
        dists, success, cost = [], [], []
        for router in self.routers:
            predicted = _predict(router, queries, progress)
            dists.append(self.spread(router, router.action_dist(predicted), 0.0))
            success.append(self.spread(router, predicted.p_success, math.nan))
            cost.append(self.spread(router, predicted.cost_usd, math.nan))
        # Every tier belongs to one of them: no column is all NaN.
        return dists, np.nanmean(np.stack(success), axis=0), np.nanmean(np.stack(cost), axis=0)

    def known(self) -> KnownOutcomes:
        """The calibration rows that the artifacts carry."""
        rows = [(router, router.calibration) for router in self.routers]
        return KnownOutcomes(
            np.concatenate([self.spread(r, known.success, math.nan) for r, known in rows]),
            np.concatenate(
                [self.spread(r, known.realised_cost_usd, math.nan) for r, known in rows]
            ),
        )

    def habits(self, router: Router) -> Habits:
        """What the router does on its own calibration rows; its safe tier may always be chosen."""
        dist = router.action_dist(router.calibration.predictions)
        mean = dist.mean(axis=0) if len(dist) else np.full(dist.shape[1], 1 / dist.shape[1])
        share = self.spread(router, mean[None, :], 0.0)[0]
        choices = share > 0
        choices[self.names.index(router.tiers.names[router.safe_tier])] = True
        return Habits(share, choices)


def heuristic_of(router: Router) -> KeywordRouter:
    """The keyword rule over a router's tiers, by what they cost in its training."""
    means = TierMeans.from_dict(router.manifest["training"]["tier_means"])
    cost = means.dollars(router.predictor.cost)
    names = router.tiers.names
    return KeywordRouter.for_tiers([names[i] for i in np.argsort(cost, kind="stable")])


def keyword_play(rule: KeywordRouter, queries: list[Query], names: Names) -> FloatArray:
    """What the keyword rule would do, (n, T)."""
    return baselines.keyword(queries, names, rule)


def keyword_habits(rule: KeywordRouter, names: Names) -> Habits:
    """What the keyword rule may do: mostly the tier in the middle."""
    share = np.eye(len(names))[names.index(rule.tiers[1])]
    return Habits(share, np.isin(np.array(names), rule.tiers))


def shift_between(a: FloatArray, b: FloatArray) -> FloatArray:
    """What policy a does more often than b, both (n, T); 0 where it is rounding."""
    shift = a - b
    return np.where(np.abs(shift) > _ROUNDING, shift, 0.0)


def _predict(router: Router, queries: list[Query], progress: Progress) -> Predictions:
    parts = []
    for start in range(0, len(queries), _CHUNK):
        parts.append(router.predict(queries[start : start + _CHUNK]))
        progress("predict", min(start + _CHUNK, len(queries)), len(queries))
    return Predictions.joined(parts)
