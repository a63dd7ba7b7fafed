"""What drift is looked for in: streams of numbers, each with what training says it should be.

Shapes: ``n`` recent requests in order of time, ``m`` calibration rows, ``T`` tiers. A stream's mean
(or ratio) is followed by a confidence sequence (``training.confidence_sequence``), so that one may
look after every row. With K = 5 T + 1 streams each has the level (1 - confidence) / K:

=====================  ============================================  =============================
stream                 value per request                             should be
=====================  ============================================  =============================
success of a tier      success - predicted p, where it served        0
cost of a tier         cost / predicted cost, a ratio of sums        1
ranking of a tier      cov(success, p) / var(p), where it served     1; below 1/2 is lost
share of a tier        probability of the policy to send it there    the mean in calibration
out of distribution    1 or 0                                        the share in calibration
sent to a tier         1 or 0, less the policy's probability         0
=====================  ============================================  =============================

What calibration rows show is itself uncertain: for shares half of a stream's level goes to bounds
of what training had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from router.certificate import betting_lower, betting_upper
from training.confidence_sequence import RatioRows
from training.metrics import auc

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]
Kind = Literal["success", "cost", "ranking", "share", "out of distribution", "sent"]
Status = Literal["drift", "within tolerance", "not yet known", "no rows"]

# Dollars per tier scatter more than successes: their tolerance, a share of the predicted cost.
COST_TOLERANCE_FACTOR = 5.0
# Predictions of which less than half of what they tell apart is true rank no longer.
RANKING_TOLERANCE = 0.5

# Distances from the mean prediction count up to this many standard deviations.
_DISTANCES = 2.0
# For how many rows the means of calibration count beside those of the recent rows.
_PRIOR_ROWS = 10.0
# Predictions that differ by less than this rank nothing.
_MIN_SPREAD = 1e-6
_LOG_BETS = math.log(11.0)
_MOST = 20.0  # times the predicted cost, or the predicted slope: what a bound is looked for in


@dataclass(frozen=True, eq=False)
class Rows:
    """Requests with what the router says of them, and what is known of their outcomes.

    ``p_success``, ``cost_usd``, ``dist`` (the policy's probabilities), ``success`` and
    ``realised_cost_usd`` (NaN where unknown) are (n, T); ``out_of_distribution`` is (n,). ``sent``
    (n,) is the index of the tier that this artifact sent the request to, -1 where it did not.
    """

    p_success: FloatArray
    cost_usd: FloatArray
    dist: FloatArray
    out_of_distribution: BoolArray
    success: FloatArray
    realised_cost_usd: FloatArray
    sent: IntArray

    def __len__(self) -> int:
        return len(self.p_success)


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream: what was observed and predicted, and the difference with its interval.

    ``lower`` and ``upper`` are running bounds of the difference (for a cost and a ranking of
    ratio - 1), None where there is none. ``status`` is "drift" once a bound has left the tolerance,
    after row ``first_row`` of the recent ones. ``rows_needed``: about how many rows of this stream
    would bring the interval within three tolerances.
    """

    kind: Kind
    tier: str | None
    n: int
    observed: float | None
    predicted: float | None
    difference: float | None
    lower: float | None
    upper: float | None
    tolerance: float
    status: Status
    first_row: int | None = None
    rows_needed: int | None = None
    auc: float | None = None
    auc_at_training: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; the two AUCs only for a ranking."""
        out: dict[str, Any] = {
            "kind": self.kind,
            "tier": self.tier,
            "n": self.n,
            "observed": self.observed,
            "predicted": self.predicted,
            "difference": self.difference,
            "interval": [self.lower, self.upper],
            "tolerance": self.tolerance,
            "status": self.status,
        }
        if self.kind == "ranking":
            out |= {"auc": self.auc, "auc_at_training": self.auc_at_training}
        return out


def n_streams(n_tiers: int) -> int:
    """K, over which the level is shared whether or not a stream has rows."""
    return 5 * n_tiers + 1


def find_streams(
    names: Sequence[str], training: Rows, recent: Rows, *, tolerance: float, confidence: float
) -> list[Stream]:
    """All streams of recent rows, in the order of the table above.

    ``training`` are the calibration rows. If nothing has drifted by more than the tolerance, the
    probability that any stream ever says "drift" is at most 1 - confidence.
    """
    level = (1.0 - confidence) / n_streams(len(names))
    streams = []
    for tier, name in enumerate(names):
        streams.append(_success(tier, name, recent, tolerance, level))
        streams.append(_cost(tier, name, training, recent, tolerance, level))
        streams.append(_ranking(tier, name, training, recent, level))
    for tier, name in enumerate(names):
        streams.append(_share(tier, name, training, recent, tolerance, level))
    streams.append(_out_of_distribution(training, recent, tolerance, level))
    for tier, name in enumerate(names):
        streams.append(_sent(tier, name, recent, tolerance, level))
    return streams


def _stream(
    kind: Kind,
    tier: str | None,
    rows: RatioRows,
    places: IntArray,
    *,
    observed: float,
    predicted: float | None,
    expected: tuple[float, float],
    tolerance: float,
    side: float,
    within: tuple[float, float],
    directions: str = "both",
    variance: float = 0.25,
    reach: float = 1.0,
) -> Stream:
    """Follow ``rows``, which lie at ``places`` of the recent ones, each side at level ``side``.

    ``expected``: bounds of what training says. ``within``: where the bounds are looked for.
    """
    if not len(rows):
        return Stream(kind, tier, 0, None, predicted, None, None, None, tolerance, "no rows")
    least, most = expected
    crossings = []
    lower: float | None = None
    if directions != "down":
        crossings.append(rows.exceeds(most + tolerance, side))
    if directions != "up":
        crossings.append(rows.falls_below(least - tolerance, side))
    if kind != "ranking":
        lower = rows.lower(side, *within) - most
    upper = rows.upper(side, *within) - least
    if lower is not None and lower > upper:
        lower, upper = upper, lower  # the mean moved while it was watched
    found = [after for after in crossings if after is not None]
    status: Status = "not yet known"
    if found:
        status = "drift"
    elif (directions == "up" or lower is None or lower > -tolerance) and (
        directions == "down" or upper < tolerance
    ):
        status = "within tolerance"
    if kind == "ranking" and not found:
        # Only a lower bound could say that it still ranks.
        status = "not yet known"
    difference = None if predicted is None else observed - predicted
    return Stream(
        kind,
        tier,
        len(rows),
        observed,
        predicted,
        difference,
        lower,
        upper,
        tolerance,
        status,
        int(places[min(found) - 1]) if found else None,
        _rows_needed(difference or 0.0, len(rows), 3.0 * tolerance, variance, reach, side),
    )


def _rows_needed(
    difference: float, n: int, margin: float, variance: float, reach: float, side: float
) -> int:
    """About how many rows bring a bound of a mean of this variance within the margin."""
    # A difference that chance explains is none.
    certain = max(abs(difference) - 2.0 * math.sqrt(variance / n), 0.0)
    room = max(margin - certain, margin / 3.0)
    evidence = math.log(1.0 / side) + _LOG_BETS
    return math.ceil(evidence * (2.0 * variance / room**2 + reach / room))


def _served(tier: int, rows: Rows) -> IntArray:
    return np.flatnonzero(np.isfinite(rows.success[:, tier]))


def _success(tier: int, name: str, recent: Rows, tolerance: float, level: float) -> Stream:
    places = _served(tier, recent)
    success, p = recent.success[places, tier], recent.p_success[places, tier]
    return _stream(
        "success",
        name,
        RatioRows.mean(success - p, -1.0, 1.0),
        places,
        observed=_mean(success),
        predicted=_mean(p) if len(places) else None,
        expected=(0.0, 0.0),
        tolerance=tolerance,
        side=level / 2,
        within=(-1.0, 1.0),
        variance=_mean(p * (1.0 - p)),
    )


def _cost(
    tier: int, name: str, training: Rows, recent: Rows, tolerance: float, level: float
) -> Stream:
    """Costs count up to the largest in calibration, so that one enormous bill voids no bound."""
    cost_tolerance = min(COST_TOLERANCE_FACTOR * tolerance, 0.95)
    expected = training.cost_usd[:, tier]
    most = float(np.nanmax(expected, initial=0.0))
    known = training.realised_cost_usd[:, tier]
    limit = max(most, float(np.nanmax(known, initial=0.0)))
    predicted = recent.cost_usd[:, tier]
    # A rule on queries alone: those predicted to cost more than any in calibration stay out.
    fits = np.isfinite(recent.realised_cost_usd[:, tier]) & (predicted <= most) & (most > 0.0)
    places = np.flatnonzero(fits & np.isfinite(recent.success[:, tier]))
    h = predicted[places]
    y = np.minimum(recent.realised_cost_usd[places, tier], limit)
    mean, spread = _mean(h), _mean((y - h) ** 2)
    if mean <= 0.0:
        return _nothing("cost", name, cost_tolerance)
    return _stream(
        "cost",
        name,
        RatioRows(y, h, 0.0, limit, 0.0, most),
        places,
        observed=_mean(y) / mean,
        predicted=1.0,
        expected=(1.0, 1.0),
        tolerance=cost_tolerance,
        side=level / 2,
        within=(0.0, _MOST),
        variance=spread / mean**2,
        reach=limit / mean,
    )


def _nothing(kind: Kind, tier: str, tolerance: float) -> Stream:
    return Stream(kind, tier, 0, None, 1.0, None, None, None, tolerance, "no rows")


def _ranking(tier: int, name: str, training: Rows, recent: Rows, level: float) -> Stream:
    """Do higher predictions still succeed more often? The slope of success on p.

    With d = p - its mean so far (cut off at two standard deviations), E[(s - mean of s) d] is
    slope * E[(p - mean of p) d]; a shift of success that is the same for all queries changes
    neither.
    """
    places = _served(tier, recent)
    success, p = recent.success[places, tier], recent.p_success[places, tier]
    past_p = training.p_success[:, tier]
    known = np.isfinite(training.success[:, tier])
    past_success = training.success[known, tier]
    far = _DISTANCES * float(past_p.std()) if len(past_p) else 0.0
    if far < _MIN_SPREAD or not len(places) or not len(past_success):
        return _nothing("ranking", name, RANKING_TOLERANCE)
    from_mean_p = p - _mean_before(p, _mean(past_p))
    d = np.clip(from_mean_p, -far, far)
    y, h = (success - _mean_before(success, _mean(past_success))) * d, from_mean_p * d
    spread = float(h.sum())
    found = _stream(
        "ranking",
        name,
        RatioRows(y, h, -far, far, 0.0, far),
        places,
        observed=float(y.sum()) / spread if spread > 0.0 else 0.0,
        predicted=1.0,
        expected=(1.0, 1.0),
        tolerance=RANKING_TOLERANCE,
        side=level,
        within=(0.0, _MOST),
        directions="down",
    )
    areas = auc(p, success), auc(past_p[known], past_success)
    now, then = (area if math.isfinite(area) else None for area in areas)
    return replace(found, auc=now, auc_at_training=then)


def _share(
    tier: int, name: str, training: Rows, recent: Rows, tolerance: float, level: float
) -> Stream:
    past, y = training.dist[:, tier], recent.dist[:, tier]
    expected = (0.0, 1.0)
    if len(past):
        expected = (
            max(0.0, betting_lower(past, 0.0, 1.0, level / 4)),
            min(1.0, betting_upper(past, 0.0, 1.0, level / 4)),
        )
    return _stream(
        "share",
        name,
        RatioRows.mean(y),
        np.arange(len(y)),
        observed=_mean(y),
        predicted=_mean(past) if len(past) else None,
        expected=expected,
        tolerance=tolerance,
        side=level / 4,
        within=(0.0, 1.0),
    )


def _out_of_distribution(training: Rows, recent: Rows, tolerance: float, level: float) -> Stream:
    """Only more of them is drift: fewer are no reason to do anything."""
    past, y = training.out_of_distribution, recent.out_of_distribution.astype(np.float64)
    share = _mean(y)
    return _stream(
        "out of distribution",
        None,
        RatioRows.mean(y),
        np.arange(len(y)),
        observed=share,
        predicted=float(past.mean()) if len(past) else None,
        expected=_binomial_bounds(int(past.sum()), len(past), level / 4),
        tolerance=tolerance,
        side=level / 4,
        within=(0.0, 1.0),
        directions="up",
        variance=share * (1.0 - share),
    )


def _sent(tier: int, name: str, recent: Rows, tolerance: float, level: float) -> Stream:
    places = np.flatnonzero(recent.sent >= 0)
    sent = (recent.sent[places] == tier).astype(np.float64)
    would = recent.dist[places, tier]
    return _stream(
        "sent",
        name,
        RatioRows.mean(sent - would, -1.0, 1.0),
        places,
        observed=_mean(sent),
        predicted=_mean(would) if len(places) else None,
        expected=(0.0, 0.0),
        tolerance=tolerance,
        side=level / 2,
        within=(-1.0, 1.0),
    )


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _mean_before(values: FloatArray, prior: float) -> FloatArray:
    """Mean of the values before each, those of calibration counting for some rows."""
    sums = np.cumsum(values) - values
    means: FloatArray = (sums + _PRIOR_ROWS * prior) / (np.arange(len(values)) + _PRIOR_ROWS)
    return means


def _binomial_bounds(successes: int, n: int, side: float) -> tuple[float, float]:
    """Clopper and Pearson's exact bounds of a share; each side at its own level.

    >>> [round(bound, 4) for bound in _binomial_bounds(0, 10, 0.05)]  # 1 - 0.05 ** (1 / 10)
    [0.0, 0.2589]
    """
    from scipy.special import betaincinv

    low, high = 0.0, 1.0
    if successes > 0:
        low = float(betaincinv(successes, n - successes + 1, side))
    if successes < n:
        high = float(betaincinv(successes + 1, n - successes, 1.0 - side))
    return low, high
