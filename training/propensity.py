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

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from router.errors import InputError
from training.importance import (
    Logged,
    importance_weights,
    supported_by_log,
)
from training.inputs import Scale
from training.metrics import calibration_error

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# A tier that a query like it gets less often was not tried there: it takes more than a hundred
# such queries to see it once, and a weight above a hundred to speak for it.
MIN_PROPENSITY = 0.01
# The strengths (inverse penalties) tried, weakest first. The strong ones are for deterministic
# rules, whose logits have no end.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
# More rows than this do not make a linear model better; a sample of them is fitted.
MAX_FITTING_ROWS = 50_000
_MAX_ITERATIONS = 300
# Logits of tiers that never occur, and the least logarithm of a probability.
_NEVER = -50.0
_LOG_TEMPERATURES = (-3.0, 3.0)
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class PropensityModel:
    """P(tier | inputs) = softmax((x @ weight + bias) / temperature): (D, T), (T,) and a number."""

    weight: FloatArray
    bias: FloatArray
    temperature: float

    def propensities(self, x: FloatArray) -> FloatArray:
        """Of every tier for inputs (n, D), (n, T); rows sum to 1, and no entry is 0.

        >>> PropensityModel(np.zeros((1, 2)), np.zeros(2), 1.0).propensities(np.ones((1, 1)))
        array([[0.5, 0.5]])
        """
        return softmax((x @ self.weight + self.bias) / self.temperature)


@dataclass(frozen=True, slots=True, eq=False)
class StratumModel:
    """P(tier | stratum): one row per stratum, (S, T); a stratum that was never seen is all 0."""

    table: FloatArray

    def propensities(self, stratum: IntArray) -> FloatArray:
        """Of every tier for strata (n,), (n, T)."""
        result: FloatArray = self.table[stratum]
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Propensities:
    """Estimated propensities (n, T) of the logged requests, and how good they are.

    ``calibration_error`` is the mean over tiers of the expected calibration error (Kull et al.,
    NeurIPS 2019: classwise), ``log_loss`` the mean of -log of the chosen tier's probability; of two
    models of one log the one of less loss knows the logging policy better. ``sentence`` goes with
    every number that rests on them.
    """

    values: FloatArray
    model: PropensityModel | StratumModel
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
) -> Propensities:
    """Cross-fitted, calibrated P(tier | x) by multinomial logistic regression.

    ``x`` is (n, D), ``tier`` and ``fold`` (n,); give one fold to all requests of a text. A row's
    propensities come from the other folds, with the strength of least held-out loss, and are then
    calibrated by one temperature (Guo et al., ICML 2017), fitted on the held-out logits. It keeps
    the model linear and every probability above 0, which isotonic regression would not, and is one
    number, so that held-out rows may choose it. The model for new queries is fitted on all folds.
    Of a log above 50,000 rows a sample is fitted.

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
    rows = np.arange(n)
    held_out = {strength: np.zeros((n, n_tiers)) for strength in strengths}
    for f in folds:
        inside, outside = fitted[fold[fitted] != f], fold == f
        for strength, logits in held_out.items():
            weight, bias = _fit(z[inside], tier[inside], n_tiers, strength)
            logits[outside] = z[outside] @ weight + bias
    loss = {s: _log_loss(softmax(logits), tier) for s, logits in held_out.items()}
    strength = min(loss, key=lambda s: loss[s])
    logits = held_out[strength]
    temperature = _temperature(logits, tier)
    values = softmax(logits / temperature)
    weight, bias = scale.fold(*_fit(z[fitted], tier[fitted], n_tiers, strength))
    error = _calibration_error(values, tier)
    return Propensities(
        values=values,
        model=PropensityModel(weight, bias, temperature),
        calibration_error=error,
        log_loss=float(-np.log(values[rows, tier]).mean()),
        sentence=(
            "Propensities are not recorded but estimated from the queries, with a calibration "
            f"error of {error:.2g}: what the logging policy went by and the query does not show "
            "is not corrected for."
        ),
    )


def propensity_by_stratum(stratum: IntArray, tier: IntArray, n_tiers: int) -> Propensities:
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
    with warnings.catch_warnings():
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


def _temperature(logits: FloatArray, tier: IntArray) -> float:
    """That of least loss, between exp(-3) and exp(3)."""
    found = minimize_scalar(
        lambda log_t: _log_loss(softmax(logits / np.exp(log_t)), tier),
        bounds=_LOG_TEMPERATURES,
        method="bounded",
    )
    return float(np.exp(found.x))


def _calibration_error(p: FloatArray, tier: IntArray) -> float:
    return float(
        np.mean([calibration_error(p[:, t], (tier == t).astype(float)) for t in range(p.shape[1])])
    )
