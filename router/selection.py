"""Candidates and their certificate: from calibration rows to the policy that is served.

The same function runs at the end of training and, on the calibration matrix that the artifact
carries, whenever a price has changed. Candidates are fixed before any calibration row is looked at
(a grid of success values that never changes, and mixes from means of the fitting rows), so the test
is valid both times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from router.certificate import Floor
from router.cps import cost_per_success
from router.decision import Predictions
from router.policy import Policy, cheapest_mix, mix_hull

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Of the training queries: the others are fitted on.
CALIBRATION_SHARE = 0.40
# The error budget 1 - confidence is shared by two chains; most goes to the one that reads queries.
ROUTER_CHAIN_SHARE = 0.75
MIX_CHAIN_SHARE = 0.25
# Mixes of neighbouring tiers are tried in steps of a twentieth.
_MIX_STEPS = 20
# What a candidate must save before more data is asked for on its account.
_CLEARLY_CHEAPER = 0.95
# From a success worth more than any call costs down to one worth nothing, in steps of 9 %. Fixed
# for all time, so that no candidate depends on the rows that test it.
SUCCESS_VALUES_USD = 1e3 * 2.0 ** (-np.arange(0, 37 * 8) / 8)


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Requests used for nothing but the certificate; all (n, T) but out_of_distribution (n,).

    ``cost_usd`` is the expected cost that the policy sees, ``realised_cost_usd`` the logged one.
    Where a log shows one tier's outcome per request, success and realised cost of every tier are
    doubly robust pseudo-outcomes, with weights of at most ``max_weight``; where these are
    ``approximate`` (of estimated propensities, or clipped), nothing is certified. ``tried`` marks
    the tiers that were tried on such requests, None where all were.
    """

    p_success: FloatArray
    cost_usd: FloatArray
    success: FloatArray
    realised_cost_usd: FloatArray
    out_of_distribution: BoolArray
    max_weight: float = 1.0
    approximate: bool = False
    tried: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.p_success)

    @property
    def predictions(self) -> Predictions:
        """What the router said of these rows: ``Router.action_dist`` then does as it serves."""
        return Predictions(
            self.p_success, self.cost_usd, self.out_of_distribution, tried=self.tried
        )

    @property
    def n_outcomes(self) -> npt.NDArray[np.int64]:
        """Outcomes of every tier, (T,): a pseudo-outcome that is the prediction itself is none."""
        known = np.isfinite(self.success)
        if self.max_weight > 1.0:
            known &= self.success != self.p_success
        result: npt.NDArray[np.int64] = known.sum(axis=0)
        return result

    def repriced(self, cost_usd: FloatArray) -> CalibrationRows:
        """The same rows at other expected costs; realised costs move in proportion."""
        old = np.where(self.cost_usd > 0, self.cost_usd, 1.0)
        factor = np.where(self.cost_usd > 0, cost_usd / old, 1.0)
        realised = self.realised_cost_usd * factor
        return replace(self, cost_usd=cost_usd, realised_cost_usd=realised)

    def served(self, safe_tier: int) -> tuple[FloatArray, FloatArray]:
        """(p_success, cost_usd) between which a success value can choose, both (n, T).

        Where a query is out of distribution, every choice comes to the safe tier; a tier that may
        not be chosen counts as the cheapest one that may.
        """
        unknown = self.out_of_distribution[:, None]
        p = np.where(unknown, self.p_success[:, [safe_tier]], self.p_success)
        cost = np.where(unknown, self.cost_usd[:, [safe_tier]], self.cost_usd)
        if self.tried is None:
            return p, cost
        cheapest = np.where(self.tried, cost, np.inf).argmin(axis=1)[:, None]
        return (
            np.where(self.tried, p, np.take_along_axis(p, cheapest, axis=1)),
            np.where(self.tried, cost, np.take_along_axis(cost, cheapest, axis=1)),
        )

    def played(self, policy: Policy) -> tuple[FloatArray, FloatArray]:
        """Expected (success, realised cost) of the policy on each row, both (n,)."""
        dist = policy.action_dist(
            self.p_success, self.cost_usd, self.out_of_distribution, self.tried
        )
        success: FloatArray = np.einsum("ij,ij->i", dist, self.success)
        cost: FloatArray = np.einsum("ij,ij->i", dist, self.realised_cost_usd)
        return success, cost

    def tells(self, floor: Floor) -> bool:
        """Whether the rows say how often the tier that a floor is relative to succeeds.

        A log does not, where it never tried that tier on some of the requests.
        """
        tier = floor.relative_to
        return tier is None or self.tried is None or bool(self.tried[:, tier].all())

    def passes(
        self, floor: Floor, success: FloatArray, delta: float, *, randomised: bool = False
    ) -> bool:
        """Whether rows on which a policy succeeds so (n,) certify its floor at level delta."""
        if not self.tells(floor):
            return False
        return floor.passes(
            success,
            self.success,
            delta,
            randomised=randomised,
            max_weight=self.max_weight,
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was tested and what came of it. ``certified`` False means: no promise is made."""

    floor: str
    rate: float | None
    margin: float
    relative_to: int | None
    confidence: float
    certified: bool
    n_rows: int
    n_candidates: int
    n_passed: int
    success_rate: float
    cost_usd_per_request: float
    rows_needed: int | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """Back from the manifest."""
        return cls(**{name: data[name] for name in cls.__slots__})


def router_chain(safe_tier: int, strongest: int) -> list[Policy]:
    """Policies by success value, the largest (safest) first: expected success falls along it."""
    return [Policy("value", float(v), safe_tier, strongest) for v in SUCCESS_VALUES_USD]


def mix_chain(
    tier_cost_usd: FloatArray, tier_success: FloatArray, safe_tier: int, strongest: int
) -> list[Policy]:
    """Every single tier and mixes of neighbouring ones, the highest success rate first.

    ``tier_cost_usd`` and ``tier_success`` (T,) are means over the fitting rows.
    """
    ranked: list[tuple[float, Policy]] = []
    for tier in range(len(tier_cost_usd)):
        value = exchange_rate(tier_cost_usd, tier_success, float(tier_success[tier]))
        policy = Policy.single(tier, value, safe_tier, strongest)
        ranked.append((float(tier_success[tier]), policy))
    hull = mix_hull(tier_cost_usd, tier_success)
    for low, high in pairwise(hull):
        gap = float(tier_success[high] - tier_success[low])
        value = float(tier_cost_usd[high] - tier_cost_usd[low]) / gap
        for step in range(1, _MIX_STEPS):
            share = step / _MIX_STEPS
            policy = Policy("mix", value, safe_tier, strongest, low, high, share)
            ranked.append((float(tier_success[low]) + share * gap, policy))
    # The strongest tier leads whatever ties it has: a floor relative to it holds by identity.
    ranked.sort(key=lambda pair: (-pair[0], pair[1].low != strongest))
    return [policy for _, policy in ranked]


def exchange_rate(
    tier_cost_usd: FloatArray, tier_success: FloatArray, success_rate: float
) -> float:
    """Dollars per further success on the hull of single tiers at this success rate."""
    hull = mix_hull(tier_cost_usd, tier_success)
    if len(hull) == 1:
        only = hull[0]
        return float(tier_cost_usd[only] / tier_success[only]) if tier_success[only] > 0 else 0.0
    mix = cheapest_mix(tier_cost_usd, tier_success, min(success_rate, tier_success[hull[-1]]))
    low, high = (mix.low, mix.high) if mix.low != mix.high else (hull[0], hull[1])
    return float(
        (tier_cost_usd[high] - tier_cost_usd[low]) / (tier_success[high] - tier_success[low])
    )


def certify(
    rows: CalibrationRows,
    floor: Floor,
    *,
    tier_success: FloatArray,
    tier_cost_usd: FloatArray,
    names: tuple[str, ...],
    safe_tier: int,
    strongest: int,
    confidence: float,
) -> tuple[Policy, Certificate]:
    """The cheapest candidate that is certified to meet the floor, else the strongest tier.

    ``tier_success`` and ``tier_cost_usd`` (T,) are means over the fitting rows. "Cheapest" is least
    cost per success on the calibration rows; every certified candidate may be picked by any rule.
    """
    budget = 1.0 - confidence
    chains = [
        (router_chain(safe_tier, strongest), budget * ROUTER_CHAIN_SHARE),
        (
            mix_chain(tier_cost_usd, tier_success, safe_tier, strongest),
            budget * MIX_CHAIN_SHARE,
        ),
    ]
    passed: list[_Scored] = []
    others: list[list[Policy]] = []
    for chain, delta in chains:
        going, failed = True, []
        for policy in chain:
            # The floor relative to a tier holds by identity for that tier, wherever it stands.
            # Out-of-distribution queries go to the safe tier: identity needs it to be this one.
            identical = (
                policy.kind == "tier"
                and floor.relative_to == policy.low == safe_tier
                and rows.tried is None
            )
            if going or identical:
                success, cost = rows.played(policy)
                going = going and (
                    identical or rows.passes(floor, success, delta, randomised=policy.kind == "mix")
                )
            if going or identical:
                passed.append(_Scored.of(policy, success, cost))
            else:
                failed.append(policy)
        others.append(failed)
    met = bool(passed)
    certified = met and not rows.approximate
    if met:
        best = _best(passed)
    else:
        value = exchange_rate(tier_cost_usd, tier_success, float(tier_success[strongest]))
        always = Policy.single(strongest, value, safe_tier, strongest)
        best = _Scored.of(always, *rows.played(always))
    # More data is asked for only where the floor leaves nothing but the reference tier itself.
    stuck = not met or (best.policy.kind == "tier" and best.policy.low == floor.relative_to)
    needed, told = None, rows.tells(floor)
    if stuck and len(rows) and told:
        dearest = _CLEARLY_CHEAPER * best.cost_usd if met else math.inf
        needs = [
            _rows_needed(rows, floor, failed, delta, dearest)
            for failed, (_, delta) in zip(others, chains, strict=True)
        ]
        needed = min((n for n in needs if n is not None), default=None)
    words = floor.describe(names)
    served = strongest if best.policy.low is None else best.policy.low
    return best.policy, Certificate(
        floor=words,
        rate=floor.rate,
        margin=floor.margin,
        relative_to=floor.relative_to,
        confidence=confidence,
        certified=certified,
        n_rows=len(rows),
        n_candidates=sum(len(chain) for chain, _ in chains),
        n_passed=len(passed),
        success_rate=best.success_rate,
        cost_usd_per_request=best.cost_usd,
        rows_needed=needed,
        sentence=_sentence(words, confidence, rows, met, stuck, needed, told, names[served]),
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    policy: Policy
    success_rate: float
    cost_usd: float

    @classmethod
    def of(cls, policy: Policy, success: FloatArray, cost: FloatArray) -> _Scored:
        if not len(success):
            return cls(policy, 0.0, 0.0)
        return cls(policy, float(success.mean()), float(cost.mean()))


def _best(passed: list[_Scored]) -> _Scored:
    """Least cost per success; of policies that do the same, the plainest.

    A single tier or a mix has the exchange rate of its place on the hull, and the smallest of
    several success values is the one at which the last request moved: both say what a success is
    worth here, as the top of the grid does not.
    """
    cps = cost_per_success(
        np.array([scored.cost_usd for scored in passed]),
        np.array([scored.success_rate for scored in passed]),
    )
    least = [scored for scored, value in zip(passed, cps, strict=True) if value == cps.min()]
    return min(least, key=lambda s: (s.policy.kind == "value", s.policy.success_value_usd))


def _rows_needed(
    rows: CalibrationRows, floor: Floor, failed: list[Policy], delta: float, dearest: float
) -> int | None:
    """About how many rows would certify the first candidate that costs less than ``dearest``.

    A chain reaches it only by way of those before it, so that the largest number counts.
    """
    needed, before = 0, None
    for policy in failed:
        success, cost = rows.played(policy)
        # Neighbours on the grid mostly do the same on these rows.
        if before is None or not np.array_equal(success, before):
            needs = floor.rows_needed(
                success,
                rows.success,
                delta,
                randomised=policy.kind == "mix",
                max_weight=rows.max_weight,
            )
            if needs is None:
                return None
            needed, before = max(needed, needs), success
        if cost.mean() < dearest:
            return needed
    return None


def _sentence(
    floor: str,
    confidence: float,
    rows: CalibrationRows,
    met: bool,
    stuck: bool,
    needed: int | None,
    told: bool,
    tier: str,
) -> str:
    n_rows, level = len(rows), f"{100 * confidence:g}%"
    if rows.tried is not None:
        tier += " (where the log never tried it, what the log used)"
    if met and not stuck and rows.approximate:
        return (
            f"{floor} would hold at {level} confidence on {n_rows:,} calibration rows, but some of "
            "their propensities are estimated, were clipped, or leave a tier no chance, so that it "
            "is not certified: record the propensity of every decision, and explore among all "
            "tiers."
        )
    if met and not stuck:
        return f"{floor} is certified at {level} confidence on {n_rows:,} calibration rows."
    if met:
        what = f"{floor} holds only by always using {tier}; nothing cheaper is certified"
    else:
        what = f"{floor} could not be certified; always {tier} is served, without a promise"
    if not told:
        advice = (
            "the log never tried the tier that the floor is relative to on some of them, so more "
            "such rows would not help; explore, or ask for an absolute floor"
        )
    elif needed is None:
        advice = "no cheaper candidate reaches it there, so more such rows would not help"
    else:
        more = max(needed - n_rows, 1)
        queries = math.ceil(more / CALIBRATION_SHARE)
        advice = (
            f"about {more:,} more of them would do it with 80 % power, which is about {queries:,} "
            f"more training queries, as {CALIBRATION_SHARE:.0%} of them calibrate"
        )
    return f"{what} on {n_rows:,} calibration rows: {advice}."
