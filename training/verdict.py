"""Does the router pay? A linear test against every single tier, at a lambda fixed beforehand.

With lambda the dollars one more success is worth, a policy's loss on a request is
c - lambda s. For a tier t let D_t be the mean of (c_r - lambda s_r) - (c_t - lambda s_t) over
requests: below 0 the router is better than always using t. A test of a mean keeps its level where
the interval of a ratio does not.

- *pays*: for every tier the upper confidence bound of D_t is below 0. All of them must hold at
  once, so that each may use the whole level (intersection-union test).
- *does not pay*: for some tier the lower bound is at least 0, each at its share of the level
  (Bonferroni); a router that does exactly what one tier does is among these.
- *not proven*: neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from router.certificate import betting_lower, betting_upper
from training.defaults import DEFAULT_CONFIDENCE

FloatArray = npt.NDArray[np.float64]
Label = Literal["pays", "does not pay", "not proven"]

# Costs on new rows may differ this many times as much as they did at most in calibration.
RANGE_FACTOR = 2.0
# Above this many rows the bounds are taken over means of blocks of rows.
_MAX_VALUES = 20_000


@dataclass(frozen=True, slots=True)
class TierBound:
    """D_t of one tier in USD per request: mean, bounds, and the range that was fixed beforehand.

    ``lower`` and ``upper`` are infinite where a difference falls outside ``-range_usd`` to
    ``range_usd``. ``identical``: the router did what this tier does on every request.
    """

    tier: str
    mean_usd: float
    lower_usd: float
    upper_usd: float
    range_usd: float
    identical: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; an infinite bound is None."""
        return {
            "mean_usd": _finite(self.mean_usd),
            "lower_usd": _finite(self.lower_usd),
            "upper_usd": _finite(self.upper_usd),
            "range_usd": _finite(self.range_usd),
            "identical": self.identical,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """``label`` and the bounds it rests on; ``sentence`` says it in plain words."""

    label: Label
    success_value_usd: float
    confidence: float
    n_requests: int
    bounds: tuple[TierBound, ...]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "label": self.label,
            "sentence": self.sentence,
            "success_value_usd": _finite(self.success_value_usd),
            "confidence": self.confidence,
            "n_requests": self.n_requests,
            "bounds": {bound.tier: bound.to_dict() for bound in self.bounds},
        }


def differences(
    router_cost_usd: FloatArray,
    router_success: FloatArray,
    cost_usd: FloatArray,
    success: FloatArray,
    success_value_usd: float,
) -> FloatArray:
    """(c_r - lambda s_r) - (c_t - lambda s_t) for every request and tier, (n, T) in USD.

    The router's outcomes are (n,), the tiers' (n, T). NaN where they differ and lambda is not
    finite.

    >>> one = np.ones(1)
    >>> differences(one, one, np.array([[3.0, 1.0]]), np.array([[1.0, 0.0]]), 5.0).tolist()
    [[-2.0, -5.0]]
    """
    # Cost with cost and success with success, so that equal outcomes differ by exactly 0.
    dearer = router_cost_usd[:, None] - cost_usd
    better = router_success[:, None] - success
    if not math.isfinite(success_value_usd):
        # No exchange rate: differences are unknown, except that equal outcomes stay equal.
        return np.where((dearer == 0) & (better == 0), 0.0, np.nan)
    return dearer - success_value_usd * better


def fixed_ranges(
    calibration_cost_differences: FloatArray, success_value_usd: float = 0.0
) -> FloatArray:
    """The range of every tier's differences that the bounds rely on, (T,), from calibration rows.

    Twice the largest absolute difference in cost, and all that success can make: it is from 0 to 1,
    however rare it was on the calibration rows. The range must not depend on the rows that are
    judged. If one of them falls outside, the bound is infinite rather than wrong.

    >>> fixed_ranges(np.array([[1.0, 0.0], [-3.0, 0.0]]), 0.5).tolist()
    [6.5, 0.5]
    """
    if len(calibration_cost_differences) == 0:
        return np.zeros(calibration_cost_differences.shape[1])
    largest: FloatArray = np.abs(calibration_cost_differences).max(axis=0)
    return RANGE_FACTOR * largest + abs(success_value_usd)


def judge(
    names: Sequence[str],
    tier_differences: FloatArray,
    ranges: FloatArray,
    success_value_usd: float,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> Verdict:
    """The verdict on ``tier_differences`` (n, T), within ``ranges`` (T,) fixed beforehand.

    The bounds are those of betting (``router.certificate``): valid at every n for independent
    requests whose differences stay in the range. Rows are shuffled by ``seed``, because the bounds
    need an order that says nothing of the values. Above 20,000 rows they are averaged in blocks of
    equal size, which are independent too and lie in the same range; up to one block of rows is
    left over.

    >>> judge(["a"], np.zeros((50, 1)), np.ones(1), 0.1).label
    'does not pay'
    >>> judge(["a"], np.full((500, 1), -0.5), np.ones(1), 0.1).label
    'pays'
    """
    n_requests, n_tiers = tier_differences.shape
    order = np.random.default_rng(seed).permutation(n_requests)
    alpha = 1.0 - confidence
    bounds = tuple(
        _bound(name, tier_differences[order, t], float(ranges[t]), alpha, n_tiers)
        for t, name in enumerate(names)
    )
    label: Label = "not proven"
    if any(bound.lower_usd >= 0 for bound in bounds):
        label = "does not pay"
    elif all(bound.upper_usd < 0 for bound in bounds):
        label = "pays"
    sentence = _sentence(label, bounds, success_value_usd, confidence, n_requests)
    return Verdict(label, success_value_usd, confidence, n_requests, bounds, sentence)


def _bound(name: str, values: FloatArray, limit: float, alpha: float, n_tiers: int) -> TierBound:
    mean = float(values.mean())
    if not values.any():
        return TierBound(name, 0.0, 0.0, 0.0, limit, True)
    # A success value that is infinite or unknown leaves nothing to bound.
    if not (math.isfinite(mean) and 0 < limit < math.inf):
        return TierBound(name, mean, -math.inf, math.inf, limit, False)
    lower, upper = -math.inf, math.inf
    # A value beyond the range on the other side is lifted to it, which is conservative.
    if values.min() >= -limit:
        lower = betting_lower(_blocks(np.minimum(values, limit)), -limit, limit, alpha / n_tiers)
    if values.max() <= limit:
        upper = betting_upper(_blocks(np.maximum(values, -limit)), -limit, limit, alpha)
    return TierBound(name, mean, lower, upper, limit, False)


def _blocks(values: FloatArray) -> FloatArray:
    size = -(-len(values) // _MAX_VALUES)
    if size == 1:
        return values
    n_blocks = len(values) // size
    result: FloatArray = values[: n_blocks * size].reshape(n_blocks, size).mean(axis=1)
    return result


def _sentence(
    label: Label,
    bounds: tuple[TierBound, ...],
    success_value_usd: float,
    confidence: float,
    n_requests: int,
) -> str:
    basis = (
        f"(at ${success_value_usd:.3g} per further success, {100 * confidence:g} % confidence, "
        f"{n_requests:,} requests)"
    )
    if label == "pays":
        closest = max(bounds, key=lambda bound: bound.upper_usd)
        return (
            f"The router PAYS: it beats every single tier; the closest, always-{closest.tier}, "
            f"loses at least {_per_1000(-closest.upper_usd)} to it {basis}."
        )
    if label == "does not pay":
        rival = max(bounds, key=lambda bound: bound.lower_usd)
        if rival.identical:
            return (
                f"The router DOES NOT PAY: it did exactly what always-{rival.tier} does on all "
                f"{n_requests:,} requests."
            )
        return f"The router DOES NOT PAY: always-{rival.tier} is at least as good {basis}."
    if not math.isfinite(success_value_usd):
        return "It is NOT PROVEN either way: the artifact puts no finite value on a success."
    rival = max((b for b in bounds if not b.upper_usd < 0), key=lambda bound: bound.mean_usd)
    relation = "behind" if rival.mean_usd > 0 else "ahead of"
    reason = "chance may explain that"
    if math.isinf(rival.upper_usd):
        reason = "some differences fall outside the range seen in calibration and void the bound"
    return (
        f"It is NOT PROVEN either way: on average the router is {_per_1000(abs(rival.mean_usd))} "
        f"{relation} always-{rival.tier}, but {reason} {basis}."
    )


def _per_1000(usd_per_request: float) -> str:
    return f"${1000 * usd_per_request:.3g} per 1,000 requests"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
