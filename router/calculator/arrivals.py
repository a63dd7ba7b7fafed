"""How often a prompt prefix is still in the cache: hit rates from how requests arrive.

A provider keeps a prefix for a time to live. Whether the next request finds it depends on how long
ago the last one came, so that a share of the traffic has a lower hit rate than the whole: routing
thins what each tier sees.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]


def hit_rate(arrivals_per_s: float, ttl_s: float, *, refreshed_by_hits: bool = True) -> float:
    """Share of requests that find the prefix warm when they come independently of each other.

    Gaps between such (Poisson) arrivals are exponential. Where a hit starts the time to live anew,
    a request hits if its gap is at most that long: ``1 - exp(-rate * ttl)``. Where it does not, one
    miss is followed by the ``rate * ttl`` hits that come within its life, on average:
    ``rate * ttl / (1 + rate * ttl)``. Real traffic comes in bursts, which hits more often at the
    same mean rate; `hit_rate_of_gaps` takes measured gaps.

    Raises:
        InputError: a rate or time that is negative or no number.

    >>> round(hit_rate(10 / 3600, 300), 3), round(hit_rate(10 / 3600, 3600), 3)
    (0.565, 1.0)
    >>> round(hit_rate(10 / 3600, 300, refreshed_by_hits=False), 3)
    0.455
    """
    _check("arrivals_per_s", arrivals_per_s)
    _check("ttl_s", ttl_s)
    expected = arrivals_per_s * ttl_s
    if refreshed_by_hits:
        return -math.expm1(-expected)
    return expected / (1 + expected) if math.isfinite(expected) else 1.0


def hit_rate_of_share(whole: float, share: float, *, refreshed_by_hits: bool = True) -> float:
    """The hit rate of a share of the traffic, drawn at random, where that of all of it is known.

    Poisson arrivals that are thinned are Poisson arrivals at a share of the rate, and `hit_rate`
    says at which rate the whole has the hit rate h. Where hits refresh the life, 1 - h is
    ``exp(-rate * ttl)``, so that the share's is ``1 - (1 - h) ** share``; where they do not, h is
    ``x / (1 + x)``, and the share's ``share * h / (1 - h + share * h)``.

    >>> round(hit_rate_of_share(0.95, 0.3), 3), hit_rate_of_share(1.0, 0.3)
    (0.593, 1.0)
    >>> round(hit_rate_of_share(0.95, 0.3, refreshed_by_hits=False), 3)
    0.851
    """
    _check("whole", whole)
    _check("share", share)
    if whole >= 1 or share == 0:
        return 1.0 if whole >= 1 else 0.0
    if refreshed_by_hits:
        return -math.expm1(share * math.log1p(-whole))
    return share * whole / (1 - whole + share * whole)


def hit_rate_of_gaps(
    gaps_s: npt.ArrayLike, ttl_s: float, *, refreshed_by_hits: bool = True
) -> float:
    """Share of requests that find the prefix warm, given the gap before each, in order.

    The request before the first gap is a miss and is not counted.

    Raises:
        InputError: no gaps, or one that is negative or no number.

    >>> hit_rate_of_gaps([60, 200, 200, 400], ttl_s=300)
    0.75
    >>> hit_rate_of_gaps([60, 200, 200, 400], ttl_s=300, refreshed_by_hits=False)
    0.5
    """
    _check("ttl_s", ttl_s)
    gaps: FloatArray = np.asarray(gaps_s, dtype=np.float64).ravel()
    if gaps.size == 0 or not (np.isfinite(gaps).all() and (gaps >= 0).all()):
        raise InputError(
            "expected at least one gap in seconds, all finite and at least 0, got something else: "
            "take the differences of sorted times."
        )
    if refreshed_by_hits:
        return float(np.mean(gaps <= ttl_s))
    times = np.concatenate(([0.0], np.cumsum(gaps)))
    n_misses, written = 0, 0
    while written < gaps.size:
        # From a write on, all that come within its life hit; the next one writes anew.
        following = int(np.searchsorted(times, times[written] + ttl_s, side="right"))
        written = max(following, written + 1)
        n_misses += written <= gaps.size
    return 1 - n_misses / gaps.size


def _check(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(
            f"expected {name} to be a finite number of at least 0, got {value!r}: correct it."
        )
