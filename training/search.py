"""Choose the policy: the objective, which estimator family serves it best, and the floor menu."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from router.certificate import Floor, relative_words
from router.errors import InputError
from router.policy import (
    Policy,
    cheapest_mix,
    choose,
    min_cps_value,
    value_for_budget,
    value_sweep,
)
from router.selection import CalibrationRows, Certificate, certify
from router.tiers import TierSet
from training.metrics import saved_share
from training.results import finite

__all__ = ["Objective"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Kind = Literal["floor", "value", "budget", "min-cps"]

STRONGEST = "strongest"
# What is said of a policy that keeps to the tiers that a log has tried.
CONFINED = ", of the tiers that the log tried"
DEFAULT_MARGIN = -0.05
MENU_MARGINS = (-0.02, -0.05, -0.10)
# How finely families are compared: policies swept, floors around the asked one, resamples, rows.
# What one floor costs on a swept curve is mostly noise, so that a family is chosen for many.
_N_SWEPT = 128
_FLOOR_SHIFTS = np.linspace(-0.03, 0.03, 9)
_N_RESAMPLES = 200
_MAX_ROWS_COMPARED = 20_000
# A mix of tiers that are free costs nothing.
_TINY_USD = 1e-12


@dataclass(frozen=True, slots=True)
class Objective:
    """What the owner asked for.

    kind "floor" has ``rate`` (absolute), or ``relative_to`` (a tier's name, or "strongest") with
    ``margin`` <= 0; "value" and "budget" have ``amount_usd``; "min-cps" nothing.
    """

    kind: Kind = "floor"
    rate: float | None = None
    margin: float = DEFAULT_MARGIN
    relative_to: str = STRONGEST
    amount_usd: float = math.nan

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                f"expected an objective among {', '.join(get_args(Kind))}, got {self.kind!r}: "
                "choose one of them."
            )
        if self.kind == "floor" and self.rate is not None and not 0.0 < self.rate < 1.0:
            raise InputError(
                f"expected a success floor between 0 and 1, got {self.rate:g}: try 0.9."
            )
        if self.kind == "floor" and self.rate is None and not -1.0 < self.margin <= 0.0:
            raise InputError(
                f"expected a margin from -1 to 0 below a tier, got {self.margin:g}: "
                "try strongest:-0.05."
            )
        if self.kind in ("value", "budget") and not (
            self.amount_usd > 0 and math.isfinite(self.amount_usd)
        ):
            raise InputError(
                f"expected dollars above 0 for the {self.kind}, got {self.amount_usd:g}: "
                "give for example 0.01."
            )

    def floor(self, tiers: TierSet, strongest: int) -> Floor | None:
        """The floor with its tier resolved; None for other objectives."""
        if self.kind != "floor":
            return None
        if self.rate is not None:
            return Floor(rate=self.rate)
        tier = strongest if self.relative_to == STRONGEST else tiers.index(self.relative_to)
        return Floor(margin=self.margin, relative_to=tier)

    def describe(self) -> str:
        """In words, for logs and the manifest."""
        if self.kind == "value":
            return f"a success is worth ${self.amount_usd:g}"
        if self.kind == "budget":
            return f"at most ${self.amount_usd:g} per request"
        if self.kind == "min-cps":
            return "least cost per success, whatever the success rate"
        if self.rate is not None:
            return f"success rate >= {self.rate:g}"
        return relative_words(self.relative_to, self.margin)


@dataclass(frozen=True, slots=True)
class Rows:
    """Predictions and outcomes of the same requests, all (n, T).

    Of logged feedback the outcomes are doubly robust pseudo-outcomes, and ``tried`` marks the
    tiers that were; None where all were.
    """

    p_success: FloatArray
    cost_usd: FloatArray
    success: FloatArray
    realised_cost_usd: FloatArray
    tried: BoolArray | None = None

    def played(self, success_value_usd: float) -> tuple[FloatArray, FloatArray]:
        """(success, cost) of every request (n,) when routed at this success value."""
        tier = choose(self.p_success, self.cost_usd, success_value_usd, self.tried)
        rows = np.arange(len(tier))
        return self.success[rows, tier], self.realised_cost_usd[rows, tier]

    def take(self, rows: npt.NDArray[np.intp]) -> Rows:
        """Some of the requests."""
        return Rows(
            self.p_success[rows],
            self.cost_usd[rows],
            self.success[rows],
            self.realised_cost_usd[rows],
            None if self.tried is None else self.tried[rows],
        )


def decision_values(
    objective: Objective, floor: Floor | None, rows: Rows, weights: FloatArray
) -> FloatArray:
    """What the predictions are worth for the objective, (B,) for B weightings (B, n) of the rows.

    Lower is better. For a floor: the least cost at which the swept policy reaches it over that of
    the random mix, both summed over floors from three points below to three above. Where the sweep
    does not reach a floor, the strongest tier's cost counts.
    """
    if floor is not None:
        played = [
            rows.played(float(value))
            for value in value_sweep(rows.p_success, rows.cost_usd, _N_SWEPT)
        ]
        success = weights @ np.column_stack([s for s, _ in played])
        cost = weights @ np.column_stack([c for _, c in played])
        tier_success, tier_cost = weights @ rows.success, weights @ rows.realised_cost_usd
        base = np.full(len(weights), floor.rate or 0.0)
        if floor.relative_to is not None:
            base = tier_success[:, floor.relative_to] + floor.margin
        strongest_cost = tier_cost[np.arange(len(weights)), tier_success.argmax(axis=1)]
        ours, mixed = np.zeros(len(weights)), np.zeros(len(weights))
        for shift in _FLOOR_SHIFTS:
            wanted = base + shift
            # What reaches the floor but for rounding reaches it.
            reaches = success >= wanted[:, None] - 1e-9
            ours += np.minimum(np.where(reaches, cost, np.inf).min(axis=1), strongest_cost)
            mixed += [
                cheapest_mix(*means).cost_usd
                for means in zip(tier_cost, tier_success, wanted, strict=True)
            ]
        return ours / np.maximum(mixed, _TINY_USD)
    if objective.kind == "value":
        s, c = rows.played(objective.amount_usd)
        return weights @ (c - objective.amount_usd * s)
    if objective.kind == "budget":
        value = value_for_budget(rows.p_success, rows.cost_usd, objective.amount_usd)
        return -(weights @ rows.played(value)[0])
    s, c = rows.played(min_cps_value(rows.p_success, rows.cost_usd))
    return (weights @ c) / np.maximum(weights @ s, 1e-12)


def pick_family(
    objective: Objective,
    floor: Floor | None,
    candidates: Mapping[str, Rows],
    seed: int,
) -> tuple[str, dict[str, float]]:
    """The simplest family whose decision value cannot be told from the least, and all values.

    ``candidates`` come the simplest first. Told apart means: by more than one standard error of the
    paired difference, by bootstrap (the one-standard-error rule of Breiman et al., 1984).
    """
    n = len(next(iter(candidates.values())).success)
    rng = np.random.default_rng(seed)
    used = np.sort(rng.choice(n, min(n, _MAX_ROWS_COMPARED), replace=False))
    resamples = rng.multinomial(len(used), np.full(len(used), 1 / len(used)), _N_RESAMPLES)
    weights = np.vstack([np.ones(len(used)), resamples]) / len(used)
    values = {
        name: decision_values(
            objective,
            floor,
            rows.take(used),
            weights,
        )
        for name, rows in candidates.items()
    }
    least = min(values.values(), key=lambda value: float(value[0]))
    best = next(
        name
        for name, value in values.items()
        if value[0] - least[0] <= float((value[1:] - least[1:]).std())
    )
    return best, {name: float(value[0]) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """The policy, its certificate (None unless a floor was asked for), and what to say about it."""

    policy: Policy
    certificate: Certificate | None
    warnings: list[str]


def choose_policy(
    objective: Objective,
    calibration: CalibrationRows,
    *,
    tiers: TierSet,
    tier_success: FloatArray,
    tier_cost_usd: FloatArray,
    strongest: int,
    safe_tier: int,
    confidence: float,
) -> Choice:
    """The policy for an objective.

    A floor is certified on the calibration rows. The other objectives promise no success rate, so
    their lambda is read off the same rows' predictions, under the out-of-distribution rule that it
    is served with; min-cps warns with the rate it ends at.
    """
    floor = objective.floor(tiers, strongest)
    if floor is not None:
        policy, certificate = certify(
            calibration,
            floor,
            tier_success=tier_success,
            tier_cost_usd=tier_cost_usd,
            names=tiers.names,
            safe_tier=safe_tier,
            strongest=strongest,
            confidence=confidence,
        )
        warnings = [] if certificate.certified else [certificate.sentence]
        return Choice(policy, certificate, warnings)
    p, cost = calibration.served(safe_tier)
    if objective.kind == "value":
        value = objective.amount_usd
    elif objective.kind == "budget":
        value = value_for_budget(p, cost, objective.amount_usd)
    else:
        value = min_cps_value(p, cost)
        if not math.isfinite(value):
            raise InputError(
                "expected at least one success to minimise cost per success, got none: "
                "check the success column."
            )
    policy = Policy("value", value, safe_tier, strongest)
    success, _ = calibration.played(policy)
    best = float(calibration.success.mean(axis=0).max())
    warnings = []
    if objective.kind == "min-cps":
        warnings.append(
            f"least cost per success ends at a success rate of {success.mean():.3f} on the "
            f"calibration rows, where the best tier has {best:.3f}: "
            "use --floor-relative or --success-floor to keep a rate."
        )
    return Choice(policy, None, warnings)


def floor_menu(
    objective: Objective,
    calibration: CalibrationRows,
    *,
    tiers: TierSet,
    tier_success: FloatArray,
    tier_cost_usd: FloatArray,
    strongest: int,
    safe_tier: int,
    confidence: float,
) -> list[dict[str, Any]]:
    """What other floors would cost: certified policy, cost, success and savings for each.

    Savings are shares of the mean cost of always the strongest tier, of the cheapest single tier
    that is certified to meet the same floor, and of the random mix at the policy's own success rate
    on these rows.
    Each floor is certified by itself; the confidence does not cover picking one after looking.
    """
    asked = objective.floor(tiers, strongest)
    floors = [Floor(margin=margin, relative_to=strongest) for margin in MENU_MARGINS]
    if asked is not None and asked not in floors:
        floors.append(asked)
    tier_rate = calibration.success.mean(axis=0)
    tier_cost = calibration.realised_cost_usd.mean(axis=0)
    menu = []
    for floor in floors:
        policy, certificate = certify(
            calibration,
            floor,
            tier_success=tier_success,
            tier_cost_usd=tier_cost_usd,
            names=tiers.names,
            safe_tier=safe_tier,
            strongest=strongest,
            confidence=confidence,
        )
        meeting = [
            tier
            for tier in range(len(tiers))
            if tier == floor.relative_to
            or calibration.passes(floor, calibration.success[:, tier], 1.0 - confidence)
        ] or [strongest]
        single = min(meeting, key=lambda t: float(tier_cost[t]))
        mix = cheapest_mix(tier_cost, tier_rate, certificate.success_rate)
        cost = certificate.cost_usd_per_request
        menu.append(
            {
                "floor": certificate.floor,
                "asked": floor == asked,
                "certified": certificate.certified,
                "policy": describe_policy(
                    policy, tiers.names, confined=calibration.tried is not None
                ),
                "success_rate": certificate.success_rate,
                "cost_usd_per_request": cost,
                "saving_vs_always_strongest": finite(
                    saved_share(cost, float(tier_cost[strongest]))
                ),
                "best_single_tier": tiers.names[single],
                "saving_vs_best_single_tier": finite(saved_share(cost, float(tier_cost[single]))),
                "saving_vs_random_mix": finite(saved_share(cost, mix.cost_usd)),
                "rows_needed": certificate.rows_needed,
                "sentence": certificate.sentence,
            }
        )
    return menu


def describe_policy(policy: Policy, names: Sequence[str], *, confined: bool = False) -> str:
    """In words; ``confined`` where it keeps to the tiers that a log has tried.

    >>> describe_policy(Policy("mix", 0.1, 1, 1, 0, 1, 0.25), ("nano", "frontier"))
    '75% nano, 25% frontier'
    """
    if policy.kind == "value":
        words = f"routed, a success worth ${policy.success_value_usd:.3g}"
    else:
        assert policy.low is not None and policy.high is not None
        share, low, high = policy.share_high, names[policy.low], names[policy.high]
        single = policy.kind == "tier"
        words = f"always {low}" if single else f"{1 - share:.0%} {low}, {share:.0%} {high}"
    return words + CONFINED if confined else words
