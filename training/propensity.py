"""How likely the logging policy was to choose which tier, where the log does not say.

Shapes: ``n`` logged requests, ``T`` tiers, ``D`` inputs. Two ways, both compiled to plain arrays,
so that a router can ask of a new query which tiers were tried on queries like it:

- ``fit_propensity``: multinomial logistic regression on what is known of the query. What the
  logging policy went by and the inputs do not show looks like chance to it.
- ``propensity_by_stratum``: shares within strata, for a logging policy that is known to go by
  them, such as the keyword heuristic (its own choice is the stratum). It is exact: a rule that was
  always followed has shares of 0 and 1, whatever else the query says.

Estimated propensities are right only as far as the model is; reports must say that they are
estimated. They are never clipped here: what comes close to 0 is no overlap (``overlap``), and the
weights made from them are clipped and counted (``training.importance``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from router.errors import InputError
from router.support import MIN_PROPENSITY
from training.importance import (
    Logged,
    importance_weights,
    supported_by_log,
)
from training.inputs import Scale
from training.intervals import betting_interval
from training.metrics import calibration_error

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# The strengths (inverse penalties) tried, weakest first. The strong ones are for deterministic
# rules, whose logits have no end.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
# More rows than this make a linear model hardly better; a sample of them is fitted.
MAX_FITTING_ROWS = 20_000
_MAX_ITERATIONS = 300
# The logit of a tier that does not occur, and the least logarithm of a probability.
_NEVER = -50.0
_LOG_TEMPERATURES = (-3.0, 3.0)
# Shares of exploration tried, and by how much log likelihood each must beat the one before.
_EPSILONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_CLEARLY = 4.0
_QUANTILES = (0.05, 0.5, 0.95)
# A recorded propensity this near to 1 leaves nothing for the other tiers.
CERTAIN = 1.0 - 1e-9
# A tier's weights average 1 over requests on which it had a chance: by how much they may not, and
# how sure it must be that they do not, over all tiers.
_OFF = 0.01
# So that its weight can be squared.
_LEAST_RECORDED = 1e-12
_OFF_CONFIDENCE = 0.999


@dataclass(frozen=True, slots=True, eq=False)
class PropensityModel:
    """(1 - epsilon) softmax((x @ weight + bias) / temperature) + epsilon / number of tiers in use.

    ``weight`` (D, T), ``bias`` (T,) and two numbers; ``used`` (T,) are the tiers that the log has,
    among which the share ``epsilon`` of requests is spread evenly, as an exploring policy does.
    """

    weight: FloatArray
    bias: FloatArray
    temperature: float
    epsilon: float
    used: BoolArray

    def propensities(self, x: FloatArray) -> FloatArray:
        """Of every tier for inputs (n, D), (n, T); rows sum to 1, and unused tiers are 0.

        >>> used = np.array([True, True, False])
        >>> model = PropensityModel(np.zeros((1, 3)), np.zeros(3), 1.0, 0.1, used)
        >>> model.propensities(np.ones((1, 1)))
        array([[0.5, 0.5, 0. ]])
        """
        logits = x @ self.weight[:, self.used] + self.bias[self.used]
        result = np.zeros((len(x), len(self.used)))
        result[:, self.used] = _tempered(logits, self.temperature, self.epsilon)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class StratumModel:
    """P(tier | stratum): one row per stratum, (S, T); a stratum that was never seen is all 0."""

    table: FloatArray

    def propensities(self, stratum: IntArray) -> FloatArray:
        """Of every tier for strata (n,), (n, T)."""
        result: FloatArray = self.table[stratum]
        return result


Model = TypeVar("Model", PropensityModel, StratumModel)


@dataclass(frozen=True, slots=True, eq=False)
class Propensities(Generic[Model]):
    """Estimated propensities (n, T) of the logged requests, and how good they are.

    ``calibration_error`` is the mean over tiers of the expected calibration error (Kull et al.,
    NeurIPS 2019: classwise), ``log_loss`` the mean of -log of the chosen tier's probability; of two
    models of one log the one of less loss knows the logging policy better. ``sentence`` goes with
    every number that rests on them.
    """

    values: FloatArray
    model: Model
    calibration_error: float
    log_loss: float
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; without the propensities themselves."""
        return {
            "estimated": True,
            "calibration_error": self.calibration_error,
            "log_loss": self.log_loss,
            "sentence": self.sentence,
        }


def softmax(logits: FloatArray) -> FloatArray:
    """Rows (n, T) to probabilities, of which none is below exp(-50) before they are normalised.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).round(3).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    weight = np.exp(np.maximum(logits - logits.max(axis=1, keepdims=True), _NEVER))
    result: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return result


def fit_propensity(
    x: FloatArray,
    tier: IntArray,
    n_tiers: int,
    fold: IntArray,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Propensities[PropensityModel]:
    """Cross-fitted, calibrated P(tier | x) by multinomial logistic regression.

    ``x`` is (n, D), ``tier`` and ``fold`` (n,); give one fold to all requests of a text. A row's
    propensities come from the other folds, with the strength of least held-out loss, and are then
    calibrated on the held-out logits by a temperature (Guo et al., ICML 2017) and, where it earns
    its place, a share ``epsilon`` of even exploration: the level that a policy explores at is no
    linear function of anything. Unlike isotonic regression these keep the model compact and what is
    possible above 0, and are so few that held-out rows may choose them. The model for new queries
    is fitted on all folds.
    Of a log above 20,000 rows a sample is fitted.
    A tier that occurs nowhere has propensity 0.

    Raises:
        InputError: shapes that do not fit, fewer than two folds, or a tier that is no index.
    """
    n = len(tier)
    _check(tier, n_tiers)
    if x.ndim != 2 or len(x) != n or fold.shape != (n,) or not np.isfinite(x).all():
        raise InputError(
            f"expected finite inputs and a fold for each of {n} requests, got shapes {x.shape} and "
            f"{fold.shape}: give a row and a fold per request."
        )
    folds = np.unique(fold)
    if len(folds) < 2:
        raise InputError("expected at least two folds to cross-fit on, got one: split the texts.")
    scale = Scale.of(x)
    z = scale(x)
    fitted = _sample(n, seed)
    # Tiers that occur, numbered among themselves.
    seen, label = np.unique(tier, return_inverse=True)
    held_out = {strength: np.zeros((n, len(seen))) for strength in strengths}
    for f in folds:
        inside, outside = fitted[fold[fitted] != f], fold == f
        for strength, logits in held_out.items():
            weight, bias = _fit(z[inside], label[inside], len(seen), strength)
            logits[outside] = z[outside] @ weight + bias
    strength = min(held_out, key=lambda s: _log_loss(softmax(held_out[s]), label))
    logits = held_out[strength]
    temperature, epsilon = _calibrate(logits, label)
    values = np.zeros((n, n_tiers))
    values[:, seen] = _tempered(logits, temperature, epsilon)
    weight, bias, used = np.zeros((x.shape[1], n_tiers)), np.zeros(n_tiers), np.zeros(n_tiers, bool)
    weight[:, seen], bias[seen] = scale.fold(*_fit(z[fitted], label[fitted], len(seen), strength))
    used[seen] = True
    error = _calibration_error(values, tier)
    return Propensities(
        values=values,
        model=PropensityModel(weight, bias, temperature, epsilon, used),
        calibration_error=error,
        log_loss=_log_loss(values, tier),
        sentence=(
            "Propensities are not recorded but estimated from the queries, with a calibration "
            f"error of {error:.2g}: what the logging policy went by and the query does not show "
            "is not corrected for."
        ),
    )


def propensity_by_stratum(
    stratum: IntArray, tier: IntArray, n_tiers: int
) -> Propensities[StratumModel]:
    """Shares of the tiers within each stratum (n,), numbered from 0: the log of a known rule.

    Maximum likelihood for a rule followed always, or left at random. Counted on the rows
    themselves: with strata of many rows nothing is gained by cross-fitting.

    >>> found = propensity_by_stratum(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), 2)
    >>> found.model.table.tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    _check(tier, n_tiers)
    if stratum.shape != tier.shape or stratum.min() < 0:
        raise InputError(
            f"expected a stratum from 0 for each of {len(tier)} requests, got shape "
            f"{stratum.shape}: number the strata."
        )
    counts = np.zeros((int(stratum.max()) + 1, n_tiers))
    np.add.at(counts, (stratum, tier), 1.0)
    table = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    values: FloatArray = table[stratum]
    followed = float((tier == table.argmax(axis=1)[stratum]).mean())
    return Propensities(
        values=values,
        model=StratumModel(table),
        calibration_error=_calibration_error(values, tier),
        log_loss=_log_loss(values, tier),
        sentence=(
            "Propensities are not recorded but estimated from a rule that the log follows on "
            f"{100 * followed:.3g} % of its requests."
        ),
    )


def overlap(propensities: FloatArray, minimum: float = MIN_PROPENSITY) -> BoolArray:
    """Which tiers were tried on requests like each: propensities (n, T) of at least ``minimum``.

    >>> overlap(np.array([[0.995, 0.005], [0.5, 0.5]])).tolist()
    [[True, False], [True, True]]
    """
    result: BoolArray = propensities >= minimum
    return result


def not_adding_up(tier: IntArray, propensity: FloatArray, text: npt.NDArray[Any]) -> list[int]:
    """Tiers whose recorded propensities cannot be all there is to know; all (n,).

    On a request on which a tier had a chance, [it was called] / propensity has the expectation 1.
    A log that tries a tier on some requests only, as one does that explores among the tiers that
    keep a floor, makes its mean less than that, and so do wrong propensities make another one. No
    scalar propensity says so of its row, but for a 1, which leaves the other tiers no chance: such
    rows are left out. Requests of one ``text`` are one observation. A tier that was never called is
    not among them. No outcome is looked at; a mean within 0.01 of 1 passes.

    >>> tier, chance = np.tile([0, 1, 0, 0], 500), np.full(2000, 0.5)
    >>> not_adding_up(tier, chance, np.arange(2000))
    [0, 1]
    >>> not_adding_up(np.tile([0, 1], 1000), chance, np.arange(2000))
    []
    """
    open_ = propensity < CERTAIN
    tier, propensity = tier[open_], np.maximum(propensity[open_], _LEAST_RECORDED)
    _, group, copies = np.unique(text[open_], return_inverse=True, return_counts=True)
    used = np.unique(tier)
    confidence = 1.0 - (1.0 - _OFF_CONFIDENCE) / max(len(used), 1)
    found = []
    for t in used.tolist():
        weight = np.bincount(group, (tier == t) / propensity, len(copies)) / copies
        most = float(weight.max())
        low, high = betting_interval(weight, 0.0, most, confidence, variance=most)
        if low > 1.0 + _OFF or high < 1.0 - _OFF:
            found.append(t)
    return found


@dataclass(frozen=True, slots=True)
class TierOverlap:
    """How much the log says about one tier.

    ``n`` requests were served by it, a ``share`` of all; ``propensity_min`` and
    ``propensity_quantiles`` (5, 50 and 95 %) are those of its requests, None where there are none;
    ``effective_sample_size`` is that of always using it; ``supported_share`` the share of requests
    like which it was tried.
    """

    n: int
    share: float
    propensity_min: float | None
    propensity_quantiles: tuple[float, ...] | None
    effective_sample_size: float
    supported_share: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        quantiles = self.propensity_quantiles
        return {
            "n": self.n,
            "share": self.share,
            "propensity_min": self.propensity_min,
            "propensity_quantiles": None if quantiles is None else list(quantiles),
            "effective_sample_size": self.effective_sample_size,
            "supported_share": self.supported_share,
        }


def overlap_table(
    logged: Logged, n_tiers: int, supported: BoolArray | None = None
) -> list[TierOverlap]:
    """One record per tier; ``supported`` (n, T) is by default ``supported_by_log``.

    >>> log = Logged(np.array([0, 0, 1, 0]), np.full(4, 0.5), np.ones(4), np.ones(4))
    >>> [(tier.n, tier.effective_sample_size) for tier in overlap_table(log, 2)]
    [(3, 3.0), (1, 1.0)]
    """
    if supported is None:
        supported = supported_by_log(logged, n_tiers)
    table = []
    for t in range(n_tiers):
        chosen = logged.propensity[logged.tier == t]
        always = np.zeros((logged.n, n_tiers))
        always[:, t] = 1.0
        some = len(chosen) > 0
        table.append(
            TierOverlap(
                n=len(chosen),
                share=len(chosen) / logged.n,
                propensity_min=float(chosen.min()) if some else None,
                propensity_quantiles=tuple(np.quantile(chosen, _QUANTILES).tolist())
                if some
                else None,
                effective_sample_size=importance_weights(always, logged, supported=supported).ess,
                supported_share=float(logged.per_text(supported[:, t].astype(float)).mean()),
            )
        )
    return table


def _check(tier: IntArray, n_tiers: int) -> None:
    if tier.ndim != 1 or len(tier) == 0 or tier.min() < 0 or tier.max() >= n_tiers:
        raise InputError(
            f"expected the logged tier of every request as an index from 0 to {n_tiers - 1}, got "
            "something else: leave out requests that no tier served."
        )


def _sample(n: int, seed: int) -> npt.NDArray[np.intp]:
    if n <= MAX_FITTING_ROWS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MAX_FITTING_ROWS, replace=False))


def _fit(
    z: FloatArray, tier: IntArray, n_tiers: int, strength: float
) -> tuple[FloatArray, FloatArray]:
    """Weight (D, T) and bias (T,); a tier that does not occur has the logit of never."""
    weight, bias = np.zeros((z.shape[1], n_tiers)), np.full(n_tiers, _NEVER)
    seen = np.unique(tier)
    if len(seen) < 2:
        bias[seen] = 0.0
        return weight, bias
    model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS)
    # Products this small wait longer for a second thread than they take.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # A deterministic rule has no finite optimum; stopping early is the remedy, not a failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z, tier)
    if len(seen) == 2:
        # One logit, of the second against the first.
        weight[:, seen[1]], bias[seen] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weight[:, seen], bias[seen] = model.coef_.T, model.intercept_
    return weight, bias


def _log_loss(p: FloatArray, tier: IntArray) -> float:
    return float(-np.log(p[np.arange(len(tier)), tier]).mean())


def _tempered(logits: FloatArray, temperature: float, epsilon: float) -> FloatArray:
    even = epsilon / logits.shape[1]
    result: FloatArray = (1.0 - epsilon) * softmax(logits / temperature) + even
    return result


def _calibrate(logits: FloatArray, label: IntArray) -> tuple[float, float]:
    """Temperature (between exp(-3) and exp(3)) and epsilon of least loss.

    An epsilon above 0 says that every tier was tried everywhere, and must be clearly better.
    """
    best, least = (1.0, 0.0), math.inf
    for epsilon in _EPSILONS:

        def loss(log_temperature: float, epsilon: float = epsilon) -> float:
            return _log_loss(_tempered(logits, math.exp(log_temperature), epsilon), label)

        found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
        if found.fun < least - (_CLEARLY / len(label) if epsilon > 0 else 0.0):
            best, least = (math.exp(found.x), epsilon), float(found.fun)
    return best


def _calibration_error(p: FloatArray, tier: IntArray) -> float:
    return float(
        np.mean([calibration_error(p[:, t], (tier == t).astype(float)) for t in range(p.shape[1])])
    )
