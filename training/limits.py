"""Limits that a stated small share of like values exceeds, also where values are few."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

_deviations = NormalDist().inv_cdf


def upper_limit(values: npt.NDArray[np.float64], share_outside: float) -> float:
    """What about ``share_outside`` of further values like ``values`` (n) exceed.

    The empirical quantile, which for n < 1 / share_outside is the largest value: of further values
    1 / (n + 1) exceed that, more than asked. So few are extrapolated like a normal tail, whose
    width is how far the upper half of the values lies above the median (root mean square). Two
    such tails are drawn, one on from the largest value and one out from the median, and the nearer
    limit is taken: it stays near the largest value where that is about the quantile anyway, and
    does not run away where the largest value is an odd one.

    >>> upper_limit(np.arange(10_001.0), 0.001)
    9990.0
    >>> round(upper_limit(np.arange(11.0), 0.001), 1)
    14.4
    """
    quantile = float(np.quantile(values, 1.0 - share_outside, method="higher"))
    missing = 1.0 / (len(values) + 1)
    if missing <= share_outside:
        return quantile
    median = float(np.median(values))
    width = float(np.sqrt(np.mean((values[values >= median] - median) ** 2)))
    asked = _deviations(1.0 - share_outside)
    on = quantile + (asked - _deviations(1.0 - missing)) * width
    return min(on, max(quantile, median + asked * width))
