"""The linear test of one entry of a comparison against the first, and what it is called."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from training.compare_results import Difference, Verdict
from training.intervals import betting_interval
from training.results import Estimate

FloatArray = npt.NDArray[np.float64]


def bounded(
    values: FloatArray, limit: float, slack: float, level: float, variance: float, seed: int
) -> Estimate:
    """Mean of independent ``values`` in ``-limit .. limit`` with its interval by betting.

    ``slack`` is the most that the values do not know; it widens the interval at both ends. An end
    is infinite where a value lies beyond the limit that was fixed for it.

    >>> bounded(np.zeros(10), 0.0, 0.0, 0.95, 0.0, 0)
    Estimate(value=0.0, interval=(0.0, 0.0))
    """
    mean = float(values.mean())
    if limit > 0:
        # No guess says that there is no variance.
        start = max(variance, limit**2 / (4 * len(values)))
        low, high = betting_interval(values, -limit, limit, level, variance=start, seed=seed)
    else:
        low, high = (-math.inf, math.inf) if values.any() else (0.0, 0.0)
    return Estimate(mean, (low - slack, high + slack))


def difference_of(
    label: str,
    against: str,
    *,
    success: Estimate | None,
    cost: Estimate | None,
    cps: Estimate | None,
    loss: Estimate,
    loss_range_usd: float,
    differ: float,
    identical: bool,
    refusal: str | None = None,
) -> Difference:
    """The verdict on ``label`` against the first entry, from the interval of ``loss``."""
    assert loss.interval is not None
    low, high = loss.interval
    verdict: Verdict = "not proven"
    if identical:
        verdict = "identical"
        loss = Estimate(0.0, (0.0, 0.0))
    elif refusal is not None:
        verdict = "refused"
    elif high < 0:
        verdict = "better"
    elif low > 0:
        verdict = "worse"
    sentence = f"{label} against {against}: {_sentence(verdict, loss, loss_range_usd, refusal)}"
    known = verdict != "refused"
    return Difference(
        label,
        against,
        verdict,
        sentence,
        success if known else None,
        cost if known else None,
        cps if known else None,
        loss if known else None,
        loss_range_usd,
        differ,
    )


def _sentence(verdict: Verdict, loss: Estimate, limit: float, refusal: str | None) -> str:
    assert loss.interval is not None
    low, high = loss.interval
    what = "cost less the value of successes is"
    if verdict == "identical":
        return "IDENTICAL: both do the same on every one of these requests."
    if verdict == "refused":
        return f"REFUSED: {refusal}."
    if verdict == "better":
        return f"BETTER: {what} {_per_1000(-loss.value)} lower, at least {_per_1000(-high)}."
    if verdict == "worse":
        return f"WORSE: {what} {_per_1000(loss.value)} higher, at least {_per_1000(low)}."
    side = "higher" if loss.value > 0 else "lower"
    found = f"NOT PROVEN: {what} {_per_1000(abs(loss.value))} {side}"
    if math.isinf(low) or math.isinf(high):
        return (
            f"{found}, but some request differs by more than ${limit:.3g}, the range fixed "
            "beforehand, which voids a bound."
        )
    return f"{found}, but may be from {1000 * low:+.3g} to {1000 * high:+.3g}."


def _per_1000(usd_per_request: float) -> str:
    return f"${1000 * usd_per_request:.3g} per 1,000 requests"
