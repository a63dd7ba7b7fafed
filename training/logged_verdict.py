"""Does the router pay, as far as a log can tell? The verdict's linear test on doubly robust terms.

As ``training.verdict``: with lambda fixed by the artifact, D_r is the mean over requests of
(c - lambda s) of the router less that of a rival r: every single tier, and the logging policy. The
terms of D_r are those of ``training.doubly_robust``, one per different text. The bounds are by
betting, which holds at every n, within a range that no outcome of the log has a part in: twice the
largest cost, on the artifact's calibration rows, of the tiers that the router chose there and of
the rival's; and the largest weight in a tenth of the texts, which then take no part in the test
(at most sqrt(n); larger ones are clipped). What the log cannot tell is added at its worst.

- *pays*: for every rival the upper bound of D_r is below 0, each at the whole level.
- *does not pay*: for some rival the lower bound is at least 0, each at its share of the level; a
  router that does what a single tier does is among these. A log that was made by the router itself
  is no rival.
- *refused*: the log has no estimate of the router; or it never tried what a rival does, or its
  propensities cannot be right. (That a rival's effective sample is small is no reason.)
- *not proven*: none of these.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from training.doubly_robust import PairedTerms, QValues, compare, dr_terms
from training.importance import (
    Logged,
    effective_sample_size,
    importance_weights,
)
from training.intervals import betting_interval
from training.results import finite
from training.verdict import RANGE_FACTOR

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
LoggedLabel = Literal["pays", "does not pay", "not proven", "refused"]

LOGGING = "logging"
# One in so many texts only tells how large weights are.
_PILOT = 10
# Probabilities of one choice differ by rounding at most by this.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class RivalBound:
    """D_r of one rival in USD per request: estimate, bounds, and what they rest on.

    The bounds hold for differences within ``-range_usd`` to ``range_usd`` and already contain
    ``slack_usd``, the most that what the log cannot tell may amount to. They are infinite where
    there is none, and so where the rival is ``refused``. ``identical``: the router does what the
    rival does, on every request.
    """

    rival: str
    mean_usd: float
    lower_usd: float
    upper_usd: float
    range_usd: float
    slack_usd: float
    identical: bool
    refused: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; what is infinite or unknown is None."""
        return {
            "mean_usd": finite(self.mean_usd),
            "lower_usd": finite(self.lower_usd),
            "upper_usd": finite(self.upper_usd),
            "range_usd": finite(self.range_usd),
            "slack_usd": finite(self.slack_usd),
            "identical": self.identical,
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True)
class LoggedVerdict:
    """``label`` and the bounds it rests on, those of the tiers and that of the logging policy."""

    label: LoggedLabel
    success_value_usd: float
    confidence: float
    n_texts: int
    bounds: tuple[RivalBound, ...]
    logging: RivalBound
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "label": self.label,
            "sentence": self.sentence,
            "success_value_usd": finite(self.success_value_usd),
            "confidence": self.confidence,
            "n_texts": self.n_texts,
            "bounds": {bound.rival: bound.to_dict() for bound in self.bounds},
            "logging": self.logging.to_dict(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class CostRanges:
    """The most that a request is taken to cost, from calibration rows: (T,), 0 where not ``known``.

    ``used`` (T,) are the tiers that the router chose there.
    """

    cost_usd: FloatArray
    known: BoolArray
    used: BoolArray

    @classmethod
    def fixed(cls, calibration_cost_usd: FloatArray, calibration_dist: FloatArray) -> CostRanges:
        """Twice the largest cost of every tier; costs and the router's choices are (m, T).

        >>> ranges = CostRanges.fixed(np.array([[1.0, 8.0], [3.0, np.nan]]), np.eye(2)[[0, 0]])
        >>> ranges.cost_usd.tolist(), ranges.of().tolist(), ranges.of(1).tolist()
        ([6.0, 16.0], [6.0, 6.0], [6.0, 16.0])
        """
        known = np.isfinite(calibration_cost_usd)
        costs = np.where(known, calibration_cost_usd, 0.0)
        largest: FloatArray = RANGE_FACTOR * costs.max(axis=0, initial=0.0)
        return cls(
            largest,
            np.logical_or.reduce(known, axis=0),
            np.logical_or.reduce(calibration_dist > 0, axis=0),
        )

    def of(self, rival: int | None = None) -> FloatArray:
        """Bounds (T,) for the router against a tier; of others it is not meant to have outcomes.

        A tier that the router did not choose in calibration is expected not to be chosen again. If
        it is and costs more than the dearest that was, the range is broken, which is noticed.
        """
        counts = self.used.copy()
        if rival is not None:
            counts[rival] = True
        result: FloatArray = np.minimum(self.cost_usd, self.cost_usd[counts].max(initial=0.0))
        return result


def against_logging(
    dist: FloatArray,
    logged: Logged,
    q: QValues,
    success_value_usd: float,
    *,
    max_weight: float,
    cost_bound_usd: FloatArray,
    log_cost_bound_usd: float,
    supported: BoolArray,
) -> tuple[PairedTerms, FloatArray]:
    """Paired terms of a policy ``dist`` (n, T) against the log itself; and those of cost alone.

    ``cost_bound_usd`` (T,) bounds the costs of what the policy chooses, ``log_cost_bound_usd``
    those of what the log chose.

    With the loss l of the logged choice::

        z_i = sum_a pi(a|x_i) q_l(x_i, a) + w_i (l_i - q_l(x_i, a_i)) - l_i

    which needs the log's choices, not its whole distribution. Where both do the same for certain,
    z is 0.
    """
    weights = importance_weights(dist, logged, max_weight, supported=supported)
    w = weights.values
    success = dr_terms(dist, w, logged, logged.success, q.success) - logged.success
    q_cost = np.minimum(q.cost_usd, cost_bound_usd)
    cost = dr_terms(dist, w, logged, logged.cost_usd, q_cost) - logged.cost_usd
    untried = float(logged.per_text(np.where(supported, 0.0, dist).sum(axis=1)).mean())
    slack = untried + weights.mass_lost
    scale = float(cost_bound_usd.max()) + success_value_usd
    # Where the policy chooses otherwise for certain, w is 0 and z its prediction less l.
    of_log = log_cost_bound_usd + success_value_usd
    terms = PairedTerms(
        loss_usd=logged.per_text(cost - success_value_usd * success),
        success=logged.per_text(success),
        loss_bound_usd=max((1.0 + max_weight) * scale, scale + of_log),
        success_bound=1.0 + max_weight,
        loss_slack_usd=slack * scale,
        success_slack=slack,
        ess=effective_sample_size(logged.per_text(np.abs(w - 1.0))),
        success_value_usd=success_value_usd,
    )
    return terms, logged.per_text(cost)


def made_by(dist: FloatArray, logged: Logged) -> bool:
    """Whether the log is that of the policy ``dist`` (n, T): it chose with these probabilities.

    >>> one = np.ones(2)
    >>> log = Logged(np.array([0, 1]), np.array([0.5, 1.0]), one, one)
    >>> made_by(np.array([[0.5, 0.5], [0.0, 1.0]]), log), made_by(np.eye(2)[[1, 1]], log)
    (True, False)
    """
    chosen = logged.at_logged(dist)
    return bool(
        (np.abs(chosen - logged.propensity) <= _SAME).all() or (chosen >= 1.0 - _SAME).all()
    )


def judge_logged(
    names: tuple[str, ...],
    dist: FloatArray,
    logged: Logged,
    q: QValues,
    success_value_usd: float,
    *,
    ranges: CostRanges,
    refused: Collection[str],
    supported: BoolArray,
    confidence: float,
    seed: int = 0,
) -> LoggedVerdict:
    """The verdict on the router ``dist`` (n, T).

    ``refused`` has "router", or the tiers' names, where the log says nothing of them.
    """
    alpha = 1.0 - confidence
    by_itself = made_by(dist, logged)
    # The logging policy is a rival too, unless it is the router.
    n_rivals = len(names) + (not by_itself)
    pilot = _pilot(logged, seed)
    testable = math.isfinite(success_value_usd) and bool(ranges.known.all())
    value = success_value_usd if math.isfinite(success_value_usd) else 0.0
    max_weight = _largest_weight(logged, supported, pilot)
    # A log of a single text has nothing left to test on; it is refused anyway.
    rest = ~pilot if not pilot.all() else pilot
    tested = Logged(
        logged.tier[rest],
        logged.propensity[rest],
        logged.success[rest],
        logged.cost_usd[rest],
        None if logged.text is None else logged.text[rest],
        None if logged.propensities is None else logged.propensities[rest],
    )
    q, played, supported = QValues(q.success[rest], q.cost_usd[rest]), dist[rest], supported[rest]

    def bound(rival: str, terms: PairedTerms, identical: bool) -> RivalBound:
        limit, slack = terms.loss_bound_usd, terms.loss_slack_usd
        if identical:
            return RivalBound(rival, 0.0, 0.0, 0.0, limit, 0.0, identical=True, refused=False)
        mean, lower, upper = math.nan, -math.inf, math.inf
        unknown = rival in refused or "router" in refused
        if not unknown and math.isfinite(success_value_usd):
            mean = float(terms.loss_usd.mean())
        if not unknown and testable:
            lower = _bounds(terms, max_weight, alpha / n_rivals, seed)[0] - slack
            upper = _bounds(terms, max_weight, alpha, seed)[1] + slack
        return RivalBound(rival, mean, lower, upper, limit, slack, identical=False, refused=unknown)

    bounds = []
    for tier, name in enumerate(names):
        always = np.zeros(played.shape)
        always[:, tier] = 1.0
        terms = compare(
            played,
            always,
            tested,
            q,
            value,
            max_weight=max_weight,
            cost_bound_usd=ranges.of(tier),
            supported=supported,
        )
        bounds.append(bound(name, terms, bool((dist[:, tier] >= 1.0 - _SAME).all())))
    terms, _ = against_logging(
        played,
        tested,
        q,
        value,
        max_weight=max_weight,
        cost_bound_usd=ranges.of(),
        log_cost_bound_usd=float(ranges.cost_usd.max()),
        supported=supported,
    )
    logging = bound(LOGGING, terms, by_itself)
    return _verdict(tuple(bounds), logging, success_value_usd, confidence, tested.n_texts, testable)


def _pilot(logged: Logged, seed: int) -> BoolArray:
    """Requests of about a tenth of the texts, (n,); drawn without a look at anything else."""
    group = np.arange(logged.n)
    if logged.text is not None:
        group = np.unique(logged.text, return_inverse=True)[1]
    n_texts = int(group.max()) + 1
    drawn = np.zeros(n_texts, bool)
    drawn[np.random.default_rng([seed, 1]).permutation(n_texts)[: -(-n_texts // _PILOT)]] = True
    result: BoolArray = drawn[group]
    return result


def _largest_weight(logged: Logged, supported: BoolArray, pilot: BoolArray) -> float:
    """1 / the smallest propensity of a choice that counts, but at most sqrt(n_texts)."""
    counts = pilot & supported[np.arange(logged.n), logged.tier]
    largest = 1.0 / float(logged.propensity[counts].min(initial=1.0))
    return max(1.0, min(largest, math.sqrt(logged.n_texts)))


def _bounds(terms: PairedTerms, max_weight: float, level: float, seed: int) -> tuple[float, float]:
    """Lower and upper bound, each at ``level``."""
    limit = terms.loss_bound_usd
    # Bets start from a guess at the variance, and soon learn it: losses of a tenth of their range.
    guess = max_weight * (0.1 * limit / (1.0 + max_weight)) ** 2
    return betting_interval(
        terms.loss_usd, -limit, limit, 1.0 - 2.0 * level, variance=guess, seed=seed
    )


def _verdict(
    bounds: tuple[RivalBound, ...],
    logging: RivalBound,
    success_value_usd: float,
    confidence: float,
    n_texts: int,
    testable: bool,
) -> LoggedVerdict:
    rivals = [*bounds, *([] if logging.identical else [logging])]
    label: LoggedLabel = "not proven"
    if any(rival.lower_usd >= 0 for rival in rivals):
        label = "does not pay"
    elif any(rival.refused for rival in rivals):
        label = "refused"
    elif all(rival.upper_usd < 0 for rival in rivals):
        label = "pays"
    sentence = _sentence(label, rivals, success_value_usd, confidence, n_texts, testable)
    if logging.identical and label != "refused":
        sentence += " The log was made by the router itself, which is no rival."
    return LoggedVerdict(label, success_value_usd, confidence, n_texts, bounds, logging, sentence)


def _name(rival: RivalBound) -> str:
    return "the logging policy" if rival.rival == LOGGING else f"always-{rival.rival}"


def _listed(rivals: list[RivalBound]) -> str:
    *names, last = [_name(rival) for rival in rivals]
    return f"{', '.join(names)} and {last}" if names else last


def _sentence(
    label: LoggedLabel,
    rivals: list[RivalBound],
    success_value_usd: float,
    confidence: float,
    n_texts: int,
    testable: bool,
) -> str:
    basis = (
        f"(at ${success_value_usd:.3g} per further success, {100 * confidence:g} % confidence, "
        f"{n_texts:,} different texts)"
    )
    if label == "does not pay":
        rival = max(rivals, key=lambda r: r.lower_usd)
        if rival.identical:
            return (
                f"The router DOES NOT PAY: it does exactly what {_name(rival)} does on all of "
                f"these requests."
            )
        return f"The router DOES NOT PAY: {_name(rival)} is at least as good {basis}."
    if label == "refused":
        unknown = [rival for rival in rivals if rival.refused]
        if len(unknown) == len(rivals):
            return "REFUSED: this log has no estimate of the router; see the reason above."
        return (
            f"REFUSED: this log has no estimate of {_listed(unknown)}, so that it cannot tell "
            f"whether the router beats every single tier. {_known(rivals, basis)}"
        )
    if label == "pays":
        closest = max(rivals, key=lambda rival: rival.upper_usd)
        return (
            f"The router PAYS: it beats every single tier and what the log did; the closest, "
            f"{_name(closest)}, loses at least {_per_1000(-closest.upper_usd)} to it {basis}."
        )
    if not math.isfinite(success_value_usd):
        return "It is NOT PROVEN either way: the artifact puts no finite value on a success."
    if not testable:
        return (
            "It is NOT PROVEN either way: the artifact carries no calibration costs of some tier, "
            "which the test needs as its range."
        )
    return f"It is NOT PROVEN either way: {_behind(rivals)} {basis}."


def _known(rivals: list[RivalBound], basis: str) -> str:
    """What can be said where not every rival can be compared."""
    known = [rival for rival in rivals if not rival.refused]
    beaten = [rival for rival in known if rival.upper_usd < 0]
    if len(beaten) == len(known):
        least = max(beaten, key=lambda rival: rival.upper_usd)
        return f"It does beat {_listed(known)}, by at least {_per_1000(-least.upper_usd)} {basis}."
    sentence = _behind(known)
    return f"{sentence[0].upper()}{sentence[1:]} {basis}."


def _behind(rivals: list[RivalBound]) -> str:
    rival = max(
        (r for r in rivals if not r.upper_usd < 0),
        key=lambda r: r.mean_usd if math.isfinite(r.mean_usd) else -math.inf,
    )
    if not math.isfinite(rival.mean_usd):
        return f"nothing is known of the router beside {_name(rival)}"
    relation = "behind" if rival.mean_usd > 0 else "ahead of"
    reason = "chance may explain that"
    if math.isinf(rival.upper_usd):
        reason = "some differences fall outside the range seen in calibration and void the bound"
    elif rival.upper_usd - rival.slack_usd < 0:
        reason = "what the log cannot tell may make up for it"
    return (
        f"on average the router is {_per_1000(abs(rival.mean_usd))} {relation} {_name(rival)}, "
        f"but {reason}"
    )


def _per_1000(usd_per_request: float) -> str:
    return f"${1000 * usd_per_request:.3g} per 1,000 requests"
