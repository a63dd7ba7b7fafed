"""What a policy would have cost and reached, from the log of another one; or why that is unknown.

Shapes: ``n`` logged requests, ``T`` tiers; ``action_dist`` (n, T) is the *evaluation policy*, the
one asked about, ``w`` (n,) its clipped importance weights (``training.importance``), ``q`` (n, T)
cross-fitted predictions. For an outcome y, success or cost in USD, of the tier a_i logged::

    DM     mean_i sum_a pi(a|x_i) q(x_i, a)
    IPS    mean_i w_i y_i
    SNIPS  sum_i w_i y_i / sum_i w_i
    DR     mean_i [ sum_a pi(a|x_i) q(x_i, a) + w_i (y_i - q(x_i, a_i)) ]

and CPS = V_cost / V_success, both with the same weights. DM is only as right as q; IPS and SNIPS
only as the propensities; DR is right where either is (Dudik, Langford and Li, ICML 2011). SNIPS
divides the weights' luck away (Swaminathan and Joachims, NeurIPS 2015); its CPS is that of IPS,
since the divisor is the same for cost and success.

Intervals are given for IPS and DR. That of the success rate is by betting, and holds at every n
for exact propensities. Those of cost and CPS are by empirical likelihood, since no bound on a cost
is both safe and of use: they hold in the long run, hence the least effective sample sizes below.
On logs of known truth with effective samples from 120 on, 95 % intervals covered the success rate
in 96 to 100 % of them, cost and CPS in 93 to 97 % (tests/validity/test_offpolicy_coverage.py).
What the log cannot tell is added to each interval at its worst; where that is much, there is no
estimate but a sentence that says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from training.defaults import DEFAULT_CONFIDENCE
from training.doubly_robust import (
    PairedTerms,
    QValues,
    check_shape,
    compare,
    dr_terms,
    ips_terms,
)
from training.importance import (
    Logged,
    Weights,
    check_action_dist,
    effective_sample_size,
    importance_weights,
    missing_share,
    supported_by_log,
    weight_limit,
)
from training.intervals import Interval, betting_interval, likelihood_interval, mean_is
from training.results import Estimate

__all__ = [
    "MAX_MISSING_SHARE",
    "MIN_EFFECTIVE_SUCCESSES",
    "MIN_ESS",
    "Evaluation",
    "Logged",
    "PairedTerms",
    "QValues",
    "Value",
    "Weights",
    "compare",
    "dr_terms",
    "effective_sample_size",
    "evaluate_logging_policy",
    "evaluate_policy",
    "importance_weights",
    "ips_terms",
    "supported_by_log",
    "weight_limit",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# With fewer effective rows a success rate is known to 10 points at best (2 * 0.5 / sqrt(100)), and
# the intervals of cost and CPS do not reach their confidence any more.
MIN_ESS = 100.0
# A ratio to fewer effective successes than this has no interval that holds.
MIN_EFFECTIVE_SUCCESSES = 20.0
# Each interval already allows for the worst on the share of choices about which the log says
# nothing. Above this share it would say nothing either.
MAX_MISSING_SHARE = 0.05
# Weights average 1 where all is right: refused for another average only beyond any doubt.
_WEIGHT_CONFIDENCE = 0.999


@dataclass(frozen=True, slots=True)
class Value:
    """One estimator's answer: success rate, USD per request and CPS, in their possible ranges.

    An interval of None is none that would hold: never one that is certain.
    """

    success_rate: Estimate
    cost_usd_per_request: Estimate
    cps_usd: Estimate

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; infinite is None."""
        out: dict[str, Any] = {}
        self.success_rate.put(out, "success_rate")
        self.cost_usd_per_request.put(out, "cost_usd_per_request")
        self.cps_usd.put(out, "cps_usd")
        out["cps_is_infinite"] = math.isinf(self.cps_usd.value)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What the log says about one policy.

    ``values`` by estimator ("dm", "ips", "snips", "dr"), or empty where ``refusal`` says why.
    ``missing_share`` is the share of the policy's choices about which the log says nothing;
    ``effective_successes`` the least effective number of successes that CPS rests on.
    ``caveats`` are sentences that belong beside the numbers.
    """

    values: dict[str, Value]
    refusal: str | None
    caveats: tuple[str, ...]
    weights: Weights
    missing_share: float
    effective_successes: float
    n_requests: int
    n_texts: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "refusal": self.refusal,
            "caveats": list(self.caveats),
            "estimates": {name: value.to_dict() for name, value in self.values.items()},
            "weights": self.weights.to_dict(),
            "missing_share": self.missing_share,
            "effective_successes": self.effective_successes,
            "n_requests": self.n_requests,
            "n_texts": self.n_texts,
            "confidence": self.confidence,
        }


def evaluate_policy(
    action_dist: FloatArray,
    logged: Logged,
    q: QValues,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    max_weight: float | None = None,
    min_ess: float = MIN_ESS,
    supported: BoolArray | None = None,
    estimated_propensity: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Evaluate the policy ``action_dist`` (n, T) on the log, or refuse to.

    ``max_weight`` clips the weights (default: ``weight_limit``). ``supported`` (n, T) says which
    tiers were tried on requests like each (default: ``supported_by_log``; for estimated
    propensities take ``training.propensity.overlap``). ``estimated_propensity``
    only adds the caveat that goes with it. ``seed`` orders the values for betting.

    Raises:
        InputError: shapes that do not fit, rows that are no distribution, a confidence outside
            0..1.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"expected a confidence between 0 and 1, got {confidence}: use 0.95.")
    check_action_dist(action_dist, logged)
    check_shape(q.success, action_dist)
    if supported is None:
        supported = supported_by_log(logged, action_dist.shape[1])
    check_shape(supported, action_dist)
    weights = importance_weights(action_dist, logged, max_weight, supported=supported)
    missing = missing_share(action_dist, logged, weights, supported)
    successes = _effective_successes(weights, logged)
    refusal = _refusal(weights, missing, logged, min_ess)
    values: dict[str, Value] = {}
    if refusal is None:
        values = _values(
            action_dist, logged, q, weights, missing, successes, confidence=confidence, seed=seed
        )
    caveats = _caveats(successes, estimated_propensity, bool(values))
    return Evaluation(
        values,
        refusal,
        caveats,
        weights,
        missing,
        successes,
        logged.n,
        logged.n_texts,
        confidence,
    )


def evaluate_logging_policy(
    logged: Logged, *, confidence: float = DEFAULT_CONFIDENCE, seed: int = 0
) -> Evaluation:
    """What the log's own policy cost and reached: the log's means ("ips"), with intervals.

    All weights are 1, so that no propensity is needed, and nothing is missing.

    >>> log = Logged(np.zeros(200, int), np.ones(200), np.ones(200), np.full(200, 0.5))
    >>> evaluate_logging_policy(log).values["ips"].cps_usd.value
    0.5
    """
    n = logged.n
    weights = Weights(np.ones(n), 1.0, 1.0, 0, 0.0, float(logged.n_texts), 1.0)
    always = np.ones((n, 1))
    on_policy = Logged(
        np.zeros(n, dtype=np.int64), np.ones(n), logged.success, logged.cost_usd, logged.text
    )
    successes = _effective_successes(weights, on_policy)
    refusal = _refusal(weights, 0.0, on_policy, MIN_ESS)
    values: dict[str, Value] = {}
    if refusal is None:
        nothing = QValues(np.zeros((n, 1)), np.zeros((n, 1)))
        found = _values(
            always, on_policy, nothing, weights, 0.0, successes, confidence=confidence, seed=seed
        )
        values = {"ips": found["ips"]}
    caveats = _caveats(successes, False, bool(values))
    return Evaluation(
        values, refusal, caveats, weights, 0.0, successes, n, logged.n_texts, confidence
    )


def _caveats(successes: float, estimated_propensity: bool, has_values: bool) -> tuple[str, ...]:
    caveats = []
    if estimated_propensity:
        caveats.append(
            "The propensities are estimated from the log, and the intervals take them for exact."
        )
    if has_values and successes < MIN_EFFECTIVE_SUCCESSES:
        caveats.append(
            f"CPS has no interval: expected at least {MIN_EFFECTIVE_SUCCESSES:g} effective "
            f"successes, got {successes:.3g}; a longer log would have more."
        )
    return tuple(caveats)


def _effective_successes(weights: Weights, logged: Logged) -> float:
    """Sum of w s over texts / max_weight: at most Kish's number, however many rows are unseen."""
    total = float(logged.per_text(weights.values * logged.success).sum())
    return total / weights.max_weight


def _refusal(weights: Weights, missing: float, logged: Logged, min_ess: float) -> str | None:
    n = f"{logged.n_texts:,} different texts"
    if missing > MAX_MISSING_SHARE:
        return (
            f"No estimate: expected at most {100 * MAX_MISSING_SHARE:g} % of this policy's choices "
            f"to be of a tier that the log (almost) never tried on such requests, got "
            f"{100 * missing:.3g} %; log with exploration, or ask about a policy that keeps to "
            "what was tried."
        )
    if weights.ess < min_ess:
        factor = min_ess / weights.ess if weights.ess > 0 else math.inf
        more = (
            f"about {math.ceil(factor * logged.n_texts):,} texts logged in this way, or more "
            "exploration, would do"
            if math.isfinite(factor)
            else "none of this policy's choices was logged: log with exploration"
        )
        return (
            f"No estimate: expected an effective sample size of at least {min_ess:g}, got "
            f"{weights.ess:.3g} from {n}; {more}."
        )
    expected = 1.0 - missing
    off = weights.mean - expected
    edge = expected + math.copysign(MAX_MISSING_SHARE, off)
    by_text = logged.per_text(weights.values)
    if abs(off) > MAX_MISSING_SHARE and not mean_is(by_text, edge, _WEIGHT_CONFIDENCE, weights.ess):
        return (
            f"No estimate: expected importance weights that average {expected:.3g}, got "
            f"{weights.mean:.3g} over "
            f"{n}: the propensities are wrong, or the log never tries some of this policy's "
            "choices; check how they were recorded."
        )
    return None


def _values(
    action_dist: FloatArray,
    logged: Logged,
    q: QValues,
    weights: Weights,
    missing: float,
    successes: float,
    *,
    confidence: float,
    seed: int,
) -> dict[str, Value]:
    w = weights.values
    w_success, w_cost = ips_terms(w, logged.success), ips_terms(w, logged.cost_usd)
    ips = logged.per_text(np.column_stack((w_success, w_cost, w - w_success)))
    dr = logged.per_text(
        np.column_stack(
            (
                dr_terms(action_dist, w, logged, logged.success, q.success),
                dr_terms(action_dist, w, logged, logged.cost_usd, q.cost_usd),
            )
        )
    )
    dm = logged.per_text(
        np.column_stack([(action_dist * part).sum(axis=1) for part in (q.success, q.cost_usd)])
    )
    limit = weights.max_weight

    # E[w^2 y^2] is at most max_weight E[w]: no smaller bound is known before the outcomes.
    def bet(values: FloatArray, low: float, high: float) -> Interval:
        return betting_interval(values, low, high, confidence, variance=limit, seed=seed)

    # w s and w (1 - s) are not negative: the lower end for each of them holds whatever is missing.
    ips_success = (
        bet(ips[:, 0], 0.0, limit)[0],
        1.0 - bet(ips[:, 2], 0.0, limit)[0],
    )
    low, high = bet(dr[:, 0], -limit, 1.0 + limit)
    dearest = float(max(logged.cost_usd.max(), q.cost_usd.max()))
    unknown = (missing, missing * dearest)

    def value(pairs: FloatArray, success_interval: Interval) -> Value:
        return _with_intervals(pairs, success_interval, weights.ess, successes, unknown, confidence)

    ips_means = ips.mean(axis=0)
    return {
        "dm": _value(*dm.mean(axis=0)),
        "ips": value(ips[:, :2], ips_success),
        "snips": _value(*(ips_means[:2] / weights.mean)),
        "dr": value(dr, (low - missing, high + missing)),
    }


def _with_intervals(
    pairs: FloatArray,
    success_interval: Interval,
    ess: float,
    successes: float,
    unknown: tuple[float, float],
    confidence: float,
) -> Value:
    """A value with intervals, widened by what is ``unknown`` of success and of cost."""
    success, cost = pairs.T
    rate = float(success.mean())
    low, high = likelihood_interval(cost, None, confidence, ess)
    cps_interval = None
    if successes >= MIN_EFFECTIVE_SUCCESSES and rate > 0:
        cheap, dear = likelihood_interval(cost, success, confidence, min(ess, successes))
        lost_success, lost_cost = unknown
        cps_interval = (
            max(0.0, (cheap * rate - lost_cost) / (rate + lost_success)),
            (dear * rate + lost_cost) / (rate - lost_success) if rate > lost_success else math.inf,
        )
    return _value(
        rate,
        float(cost.mean()),
        (max(0.0, success_interval[0]), min(1.0, success_interval[1])),
        (max(0.0, low - unknown[1]), high + unknown[1]),
        cps_interval,
    )


def _value(
    success: float,
    cost: float,
    success_interval: Interval | None = None,
    cost_interval: Interval | None = None,
    cps_interval: Interval | None = None,
) -> Value:
    """In the possible ranges: an unbiased estimate can leave them by chance."""
    cps = max(0.0, float(cost)) / float(success) if success > 0 else math.inf
    return Value(
        Estimate(min(1.0, max(0.0, float(success))), success_interval),
        Estimate(max(0.0, float(cost)), cost_interval),
        Estimate(cps, cps_interval),
    )
