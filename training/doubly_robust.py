"""Terms whose means are a policy's value, and paired terms between two policies.

Shapes: ``n`` logged requests, ``T`` tiers; policies and predictions are (n, T). The doubly robust
estimator is that of Dudik, Langford and Li, ICML 2011.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from training.importance import (
    Logged,
    check_action_dist,
    effective_sample_size,
    importance_weights,
    supported_by_log,
)
from training.results import finite

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# A difference of weights this small is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class QValues:
    """Predicted success (clipped to 0..1) and cost in USD (to >= 0) of every tier, both (n, T).

    They must not have seen the outcome of the row that they predict: cross-fit them by text.

    Raises:
        InputError: the shapes differ, or a value is not finite.
    """

    success: FloatArray
    cost_usd: FloatArray

    def __post_init__(self) -> None:
        if self.success.ndim != 2 or self.success.shape != self.cost_usd.shape:
            raise InputError(
                "expected predictions of success and cost of one shape (requests, tiers), got "
                f"{self.success.shape} and {self.cost_usd.shape}: predict both for every tier."
            )
        if not (np.isfinite(self.success).all() and np.isfinite(self.cost_usd).all()):
            raise InputError(
                "expected finite predictions for every request and tier, got others: fall back on "
                "a mean where a tier cannot be predicted."
            )
        object.__setattr__(self, "success", np.clip(self.success, 0.0, 1.0))
        object.__setattr__(self, "cost_usd", np.maximum(self.cost_usd, 0.0))


def ips_terms(weights: FloatArray, outcome: FloatArray) -> FloatArray:
    """Inverse propensity scoring: w_i y_i, both (n,); their mean estimates the policy's value.

    >>> ips_terms(np.array([2.0, 0.0]), np.array([0.5, 1.0])).tolist()
    [1.0, 0.0]
    """
    return weights * outcome


def dr_terms(
    action_dist: FloatArray,
    weights: FloatArray,
    logged: Logged,
    outcome: FloatArray,
    q: FloatArray,
) -> FloatArray:
    """Doubly robust: sum_a pi(a|x_i) q(x_i, a) + w_i (y_i - q(x_i, a_i)), (n,).

    ``action_dist`` and ``q`` are (n, T), ``weights`` and ``outcome`` (n,). Unbiased if the
    propensities in the weights are right, or if ``q`` is.

    >>> one = np.ones(1)
    >>> log = Logged(np.array([0]), np.array([0.5]), one, one)
    >>> dr_terms(np.array([[1.0, 0.0]]), np.array([2.0]), log, one, np.array([[0.75, 0.5]]))
    array([1.25])
    """
    direct: FloatArray = np.einsum("ij,ij->i", action_dist, q)
    return direct + weights * (outcome - logged.at_logged(q))


def check_shape(matrix: npt.NDArray[Any], action_dist: FloatArray) -> None:
    """Raises InputError unless a matrix of predictions or support fits ``action_dist`` (n, T)."""
    if matrix.shape != action_dist.shape:
        raise InputError(
            f"expected predictions and support of the shape {action_dist.shape} of the action "
            f"distribution, got {matrix.shape}: give a row per request and a column per tier."
        )


@dataclass(frozen=True, slots=True, eq=False)
class PairedTerms:
    """Policy a against policy b on the same log: independent terms, one per different text.

    ``loss_usd`` and ``success`` (n_texts,) have the means V_a - V_b of cost - success_value *
    success (below 0: a is better) and of success (above 0: a succeeds more often), but for what
    the log cannot tell: at most ``loss_slack_usd`` and ``success_slack``. The terms lie within
    ``-loss_bound_usd .. loss_bound_usd`` and ``-success_bound .. success_bound``, which follow from
    the maximum weight and the bounds on cost, and from no row of the log; a dearer row than
    promised can break the first, which a betting bound finds out. ``ess`` is the effective number
    of texts on which the two differ, 0 where they nowhere do.
    """

    loss_usd: FloatArray
    success: FloatArray
    loss_bound_usd: float
    success_bound: float
    loss_slack_usd: float
    success_slack: float
    ess: float
    success_value_usd: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; without the terms themselves."""
        return {
            "loss_usd": finite(float(self.loss_usd.mean())),
            "success": float(self.success.mean()),
            "loss_bound_usd": finite(self.loss_bound_usd),
            "success_bound": self.success_bound,
            "loss_slack_usd": finite(self.loss_slack_usd),
            "success_slack": self.success_slack,
            "effective_sample_size": self.ess,
            "success_value_usd": self.success_value_usd,
            "n_texts": len(self.loss_usd),
        }


def compare(
    dist_a: FloatArray,
    dist_b: FloatArray,
    logged: Logged,
    q: QValues,
    success_value_usd: float,
    *,
    max_weight: float,
    cost_bound_usd: FloatArray,
    supported: BoolArray | None = None,
) -> PairedTerms:
    """Paired DR terms between two policies, both (n, T), for tests that bet.

    With the loss l = cost - success_value * success::

        z_i = sum_a (pi_a - pi_b)(a|x_i) q_l(x_i, a) + (w_a - w_b)_i (l_i - q_l(x_i, a_i))

    ``max_weight`` and ``cost_bound_usd`` (T,), the most that a request can cost on every tier, must
    come from other rows than those of the log (``weight_limit`` of the training rows; twice the
    largest cost there). A tier that neither policy can ever choose may be given 0.
    """
    check_action_dist(dist_a, logged)
    check_shape(dist_b, dist_a)
    check_shape(q.success, dist_a)
    if cost_bound_usd.shape != dist_a.shape[1:] or not (cost_bound_usd >= 0).all():
        raise InputError(
            f"expected a bound on the cost of each of {dist_a.shape[1]} tiers, not negative, got "
            f"{cost_bound_usd}: take twice the largest cost among the training rows."
        )
    if not (math.isfinite(success_value_usd) and success_value_usd >= 0):
        raise InputError(
            f"expected a success value in USD that is finite and not negative, got "
            f"{success_value_usd}: fix it beforehand."
        )
    supported = supported_by_log(logged, dist_a.shape[1]) if supported is None else supported
    check_shape(supported, dist_a)
    shift = dist_a - dist_b
    raw = logged.at_logged(np.where(supported, shift, 0.0)) / logged.propensity
    w_a, w_b = (
        importance_weights(dist, logged, max_weight, supported=supported).values
        for dist in (dist_a, dist_b)
    )
    weight = w_a - w_b
    q_cost = np.minimum(q.cost_usd, cost_bound_usd)
    success = dr_terms(shift, weight, logged, logged.success, q.success)
    cost = dr_terms(shift, weight, logged, logged.cost_usd, q_cost)
    # What was never tried, and what clipping took: where the policies agree it does not matter.
    untried = np.where(supported, 0.0, np.abs(shift)).sum(axis=1)
    clipped = np.abs(raw - weight)
    lost = untried + np.where(clipped > _ROUNDING * max_weight, clipped, 0.0)
    slack = float(logged.per_text(lost).mean())
    scale = float(cost_bound_usd.max()) + success_value_usd
    return PairedTerms(
        loss_usd=logged.per_text(cost - success_value_usd * success),
        success=logged.per_text(success),
        loss_bound_usd=(1.0 + max_weight) * scale,
        success_bound=1.0 + max_weight,
        loss_slack_usd=slack * scale,
        success_slack=slack,
        ess=effective_sample_size(logged.per_text(np.abs(weight))),
        success_value_usd=success_value_usd,
    )
