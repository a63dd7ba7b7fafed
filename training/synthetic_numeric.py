"""Worlds of numbers without text, for the validity tests: fast, and with exactly known averages.

The tests that hold the certificate to its promise draw hundreds of data sets, so a world of
thousands of rows is made in about a millisecond. Every tier's success rate and mean cost over the
whole population are known exactly, not estimated: see :func:`numeric_world`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]

_STEEPNESS = 1.5  # how fast success falls with difficulty
_READABLE_SHARE = 0.6  # of the variance of the difficulty: what p_hat can know
_COST_SD = 0.5  # of log cost between queries
_COST_NOISE_SD = 0.4  # of log cost between answers to one query
_SHARED_LUCK = 0.5  # share of rows on which one draw decides for all tiers
_LIMIT = 3.0  # draws are clipped at this many standard deviations, so that costs are bounded


@dataclass(frozen=True, slots=True, eq=False)
class NumericWorld:
    """Predictions, truth and outcomes of ``n`` requests on ``T`` tiers (cheapest first).

    ``p_hat``, ``cost_hat`` are what an estimator that is roughly calibrated would say; ``p_true``,
    ``cost_true`` the probability and the mean cost each outcome was drawn with; ``success`` (0 or
    1) and ``cost`` the outcomes: all (n, T), costs in USD. ``true_rate`` and ``true_cost_usd``,
    (T,), are the population's success rates and mean costs, exact; ``floor`` is the success floor
    that makes the kind hard.
    """

    kind: str
    floor: float
    true_rate: FloatArray
    true_cost_usd: FloatArray
    p_hat: FloatArray
    cost_hat: FloatArray
    p_true: FloatArray
    cost_true: FloatArray
    success: FloatArray
    cost: FloatArray


@dataclass(frozen=True, slots=True)
class _Kind:
    rate: tuple[float, ...]
    spread: tuple[float, ...]  # success goes from rate - spread to rate + spread
    cost_usd: tuple[float, ...]
    floor: float


_KINDS: Mapping[str, _Kind] = {
    "plain": _Kind((0.60, 0.88, 0.95), (0.35, 0.11, 0.045), (5e-5, 1e-3, 1.5e-2), 0.85),
    # The middle tier sits exactly at the floor, and exactly 5 points below the strongest.
    "tier_at_floor": _Kind((0.60, 0.90, 0.95), (0.35, 0.095, 0.045), (5e-5, 1e-3, 1.5e-2), 0.90),
    "near_ties": _Kind((0.62, 0.898, 0.902), (0.35, 0.095, 0.09), (5e-5, 1e-3, 1.05e-3), 0.90),
    "rare_success": _Kind((0.010, 0.018, 0.030), (0.008, 0.014, 0.024), (5e-5, 1e-3, 1.5e-2), 0.02),
}
NUMERIC_KINDS: tuple[str, ...] = tuple(_KINDS)


def clipped_lognormal_mean(sd: float, limit: float = _LIMIT) -> float:
    """E[exp(sd * Z)] for a standard normal Z clipped to [-limit, limit].

    Dividing by it gives bounded multiplicative noise with mean exactly 1.

    >>> round(clipped_lognormal_mean(0.5, 50.0), 6) == round(math.exp(0.125), 6)
    True
    """

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    ends = 2.0 * math.cosh(sd * limit) * below(-limit)
    return ends + math.exp(sd * sd / 2.0) * (below(limit - sd) - below(-limit - sd))


def numeric_world(kind: str, n: int, seed: int) -> NumericWorld:
    """Draw ``n`` requests of a world: "plain", "tier_at_floor", "near_ties" or "rare_success".

    The population is fixed by ``kind`` and the draw by ``seed``, so a large world with another
    seed measures the true rate of any policy chosen on a small one. Success is
    ``rate - spread * tanh(1.5 * x)`` with ``x`` symmetric about 0, hence the population's rate is
    ``rate`` exactly; part of ``x`` cannot be read and is missing from ``p_hat``. On half of the
    rows one random draw decides for all tiers, so that tiers fail together as real ones do.

    Raises:
        InputError: unknown kind, or ``n`` below 1.
    """
    if kind not in _KINDS:
        raise InputError(f"expected a kind of world among {', '.join(_KINDS)}, got {kind!r}.")
    if n < 1:
        raise InputError(f"expected at least 1 request, got {n}: ask for more.")
    spec = _KINDS[kind]
    rng = np.random.default_rng([seed, NUMERIC_KINDS.index(kind)])
    rate, spread, mean_cost = (np.array(v) for v in (spec.rate, spec.spread, spec.cost_usd))
    shape = (n, len(rate))

    readable, unreadable = rng.standard_normal((2, n, 1))
    tilt = _STEEPNESS * math.sqrt(_READABLE_SHARE)
    hidden = _STEEPNESS * math.sqrt(1.0 - _READABLE_SHARE)
    p_true = rate - spread * np.tanh(tilt * readable + hidden * unreadable)
    # The usual probit approximation of the mean over what is hidden, plus an estimator's own error.
    shrink = math.sqrt(1.0 + math.pi / 2.0 * hidden**2)
    error = 0.15 * rng.standard_normal(shape)
    p_hat = np.clip(rate - spread * (np.tanh(tilt * readable / shrink) + error), 1e-4, 1.0 - 1e-4)

    length = np.clip(0.8 * readable + 0.6 * rng.standard_normal((n, 1)), -_LIMIT, _LIMIT)
    cost_true = mean_cost * np.exp(_COST_SD * length) / clipped_lognormal_mean(_COST_SD)
    cost_hat = cost_true * np.exp(0.2 * rng.standard_normal(shape))
    noise = np.clip(rng.standard_normal(shape), -_LIMIT, _LIMIT)
    cost = cost_true * np.exp(_COST_NOISE_SD * noise) / clipped_lognormal_mean(_COST_NOISE_SD)

    draw = rng.random(shape)
    together = rng.random((n, 1)) < _SHARED_LUCK
    success = (np.where(together, draw[:, :1], draw) < p_true).astype(np.float64)
    return NumericWorld(
        kind=kind,
        floor=spec.floor,
        true_rate=rate,
        true_cost_usd=mean_cost,
        p_hat=p_hat,
        cost_hat=cost_hat,
        p_true=p_true,
        cost_true=cost_true,
        success=success,
        cost=cost,
    )
