"""Importance weights: how a log made by one policy speaks about another, and how loudly.

Shapes: ``n`` logged requests, ``T`` tiers. The logging policy chose tier ``a_i`` for request
``x_i`` with the recorded propensity ``pi0(a_i | x_i)``; the evaluation policy would choose it with
``action_dist[i, a_i]``. The row's importance weight is the quotient of the two::

    w_i = min(action_dist[i, a_i] / propensity_i, max_weight)

Weights average 1 wherever the log tried all that the evaluation policy would do. What clipping
takes off that average, and what the log never tried, is *missing*: nothing in the log speaks
about it, and it is counted rather than guessed.

Several requests of the same text (``Logged.text``) are one observation: their values are averaged
first, so that every different text counts once, as it does in the certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Two records of one propensity may differ by this much.
_AGREES = 1e-6
# A propensity this close to 1 leaves nothing to the other tiers.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """Logged feedback of ``n`` requests, all (n,): what was chosen, how likely, and what came.

    ``tier`` is the index of the tier chosen, ``propensity`` the logging policy's probability of
    that choice, in (0, 1]; ``success`` is in 0..1, ``cost_usd`` known and not negative. ``text``
    gives equal numbers to requests of equal text; without it every request stands for itself.
    ``propensities`` (n, T) is the logging policy's whole distribution, where that is known (or
    estimated): it tells what the log can have tried, and how large a weight can be.

    Raises:
        InputError: a value outside its range, or columns of different length.
    """

    tier: IntArray
    propensity: FloatArray
    success: FloatArray
    cost_usd: FloatArray
    text: IntArray | None = None
    propensities: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.tier)
        columns: dict[str, npt.NDArray[Any] | None] = {
            "tier": self.tier,
            "propensity": self.propensity,
            "success": self.success,
            "cost": self.cost_usd,
            "text": self.text,
        }
        for name, values in columns.items():
            if values is not None and values.shape != (n,):
                raise InputError(
                    f"expected a {name} for each of {n} logged requests, got shape "
                    f"{values.shape}: give columns of one length."
                )
        if n == 0:
            raise InputError("expected at least one logged request, got none: give a longer log.")
        if not np.issubdtype(self.tier.dtype, np.integer) or self.tier.min() < 0:
            raise InputError(
                "expected the logged tier as an index from 0, got something else: "
                "leave out requests that no tier served."
            )
        self._require(
            "propensities above 0 and at most 1", (self.propensity > 0) & (self.propensity <= 1)
        )
        self._require("successes in 0..1", (self.success >= 0) & (self.success <= 1))
        known = np.isfinite(self.cost_usd) & (self.cost_usd >= 0)
        self._require("costs in USD that are known and not negative", known)
        if self.propensities is not None:
            check_action_dist(self.propensities, self)
            same = np.abs(self.at_logged(self.propensities) - self.propensity) <= _AGREES
            self._require("propensities that agree with the whole distribution", same)

    def _require(self, what: str, holds: BoolArray) -> None:
        if not holds.all():
            raise InputError(
                f"expected {what}, got another value on {int((~holds).sum())} of {len(holds)} "
                "logged requests: fill them in or leave them out."
            )

    @property
    def n(self) -> int:
        """Logged requests."""
        return len(self.tier)

    @property
    def n_texts(self) -> int:
        """Different texts: the observations that count."""
        return self.n if self.text is None else len(np.unique(self.text))

    def at_logged(self, values: FloatArray) -> FloatArray:
        """The logged tier's entry of every row, (n, T) -> (n,)."""
        result: FloatArray = values[np.arange(self.n), self.tier]
        return result

    def per_text(self, values: FloatArray) -> FloatArray:
        """Mean over the requests of each text, (n, ...) -> (n_texts, ...).

        >>> one = np.ones(3)
        >>> log = Logged(np.zeros(3, int), one, one, one, text=np.array([7, 7, 2]))
        >>> log.per_text(np.array([1.0, 3.0, 5.0])).tolist()
        [5.0, 2.0]
        """
        if self.text is None:
            return values
        _, group, sizes = np.unique(self.text, return_inverse=True, return_counts=True)
        if len(sizes) == self.n:
            return values
        totals = np.zeros((len(sizes), *values.shape[1:]))
        np.add.at(totals, group, values)
        return totals / sizes.reshape(-1, *[1] * (values.ndim - 1))


def check_action_dist(action_dist: FloatArray, logged: Logged) -> None:
    """Raises InputError unless ``action_dist`` (n, T) holds a distribution for every request."""
    if action_dist.ndim != 2 or len(action_dist) != logged.n:
        raise InputError(
            f"expected an action distribution with {logged.n} rows, one per logged request, got "
            f"shape {action_dist.shape}: give a row per request and a column per tier."
        )
    if logged.tier.max() >= action_dist.shape[1]:
        raise InputError(
            f"expected a column for each logged tier, got {action_dist.shape[1]} columns and tier "
            f"index {int(logged.tier.max())}: give every tier a column."
        )
    if not ((action_dist >= 0).all() and np.allclose(action_dist.sum(axis=1), 1.0, atol=1e-6)):
        raise InputError(
            "expected action probabilities that are not negative and sum to 1 in every row, got "
            "others: normalise them."
        )


def effective_sample_size(weights: FloatArray) -> float:
    """Kish's effective sample size, (sum w)^2 / sum w^2 of weights (n,); 0 where all are 0.

    So many equally weighted rows would tell as much about the mean.

    >>> effective_sample_size(np.array([1.0, 1.0, 1.0, 1.0])), effective_sample_size(np.eye(4)[0])
    (4.0, 1.0)
    """
    largest = float(weights.max(initial=0.0))
    if largest <= 0:
        return 0.0
    share = weights / largest
    return float(share.sum()) ** 2 / float((share * share).sum())


def weight_limit(
    logged: Logged, action_dist: FloatArray | None = None, *, n_rows: int | None = None
) -> float:
    """The default for ``max_weight``: the largest weight there can be, but at most sqrt(n).

    That is the largest quotient of ``action_dist`` (n, T) and the log's whole distribution, where
    both are known; else 1 / the smallest logged propensity, since a log that explores with at
    least this probability needs no larger weight. Nothing is then clipped. Where propensities come
    close to 0, no single row shall move the mean of n rows by more than 1 / sqrt(n), the size of
    its statistical error; clipping there keeps the estimate consistent (Ionides, J. Comput. Graph.
    Stat. 17, 2008). It depends on no outcome. For tests that bet on other rows, give their number
    as ``n_rows``.

    >>> one = np.ones(2)
    >>> log = Logged(np.array([0, 1]), np.array([0.9, 0.1]), one, one)
    >>> weight_limit(log, n_rows=10_000), weight_limit(log, n_rows=25)
    (10.0, 5.0)
    """
    most = math.sqrt(logged.n if n_rows is None else n_rows)
    if action_dist is None or logged.propensities is None:
        largest = 1.0 / float(logged.propensity.min())
    else:
        # A tier that the log leaves no chance has no weight: that choice is missing.
        tried = logged.propensities > 0
        largest = float((action_dist[tried] / logged.propensities[tried]).max())
    return max(1.0, min(largest, most))


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Clipped importance weights (n,), and what there is to know about them.

    ``largest`` is the largest weight before clipping at ``max_weight``; ``n_clipped`` rows were
    above it; ``mass_lost`` is mean(w before - w after), the part of the average weight of 1 that
    clipping took. ``ess`` is the effective sample size in different texts, and ``mean`` the average
    weight left.
    """

    values: FloatArray
    max_weight: float
    largest: float
    n_clipped: int
    mass_lost: float
    ess: float
    mean: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; without the weights themselves."""
        return {
            "max_weight": self.max_weight,
            "largest": self.largest,
            "n_clipped": self.n_clipped,
            "clipped_share": self.n_clipped / len(self.values),
            "mass_lost": self.mass_lost,
            "effective_sample_size": self.ess,
            "mean": self.mean,
        }


def importance_weights(
    action_dist: FloatArray,
    logged: Logged,
    max_weight: float | None = None,
    *,
    supported: BoolArray | None = None,
) -> Weights:
    """Weights of the evaluation policy ``action_dist`` (n, T), clipped at ``max_weight``.

    Without a maximum it is ``weight_limit`` of the log. A choice that is not ``supported`` (n, T)
    has weight 0: the few rows that there may be of it cannot speak for it. Raises InputError where
    ``action_dist`` is none, or ``max_weight`` is not a number of at least 1.

    >>> one = np.ones(2)
    >>> log = Logged(np.array([0, 1]), np.array([0.5, 0.1]), one, one)
    >>> importance_weights(np.array([[1.0, 0.0], [0.0, 1.0]]), log, max_weight=4.0).values.tolist()
    [2.0, 4.0]
    """
    check_action_dist(action_dist, logged)
    if supported is not None:
        action_dist = np.where(supported, action_dist, 0.0)
    if max_weight is None:
        max_weight = weight_limit(logged, action_dist)
    if not 1.0 <= max_weight < math.inf:
        raise InputError(f"expected a maximum weight of at least 1, got {max_weight}: raise it.")
    raw = logged.at_logged(action_dist) / logged.propensity
    # Rounding is no reason to call a weight clipped.
    above = raw > max_weight * (1 + _ROUNDING)
    values = np.where(above, max_weight, raw)
    by_text = logged.per_text(values)
    return Weights(
        values=values,
        max_weight=float(max_weight),
        largest=float(raw.max()),
        n_clipped=int(above.sum()),
        mass_lost=float(logged.per_text(raw - values).mean()),
        ess=effective_sample_size(by_text),
        mean=float(by_text.mean()),
    )


def supported_by_log(logged: Logged, n_tiers: int) -> BoolArray:
    """Which tiers the log can have tried on which of its requests, (n, T), from its own record.

    Those with a propensity above 0, where all propensities are known. Where not: the tier chosen,
    and the others unless the propensity is 1, which leaves nothing for them, or they occur nowhere
    in the log. That is exact for a deterministic log; for one that explores only among some tiers
    it can say too much, and estimated propensities (``training.propensity``) say more.

    >>> one = np.ones(2)
    >>> log = Logged(np.array([0, 1]), np.array([1.0, 0.5]), one, one)
    >>> supported_by_log(log, 3).tolist()
    [[True, False, False], [True, True, False]]
    """
    if logged.propensities is not None:
        return logged.propensities > 0.0
    tried = np.bincount(logged.tier, minlength=n_tiers) > 0
    result = (logged.propensity < 1.0 - _ROUNDING)[:, None] & tried
    result[np.arange(logged.n), logged.tier] = True
    return result


def missing_share(
    action_dist: FloatArray, logged: Logged, weights: Weights, supported: BoolArray
) -> float:
    """Share of the evaluation policy's choices about which the log says nothing, in 0..1.

    mean_i sum_a pi(a|x_i) [a was never tried on such requests], plus the mass lost in clipping.
    """
    untried = logged.per_text(np.where(supported, 0.0, action_dist).sum(axis=1)).mean()
    return min(1.0, float(untried) + weights.mass_lost)
