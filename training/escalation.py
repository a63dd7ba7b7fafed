"""Fit how tiers fail together: the loadings of ``router.escalation``, from full feedback.

By maximum likelihood of all outcomes of a request at once, given cross-fitted P(success): what an
estimator has seen it predicts too well, and failures would then look less shared than they are.
Few rows say little, so that loadings are drawn to what they are elsewhere: from .53 to .86, on
average .7, for nine tiers of three public sets, whichever of the sets is left out. They are kept
where cross-validation finds them better than independence. Asking for a gain of one standard error
on top (Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, 3.4.3) loses
on real sets, where tiers do fail together: ``benchmarks/escalation_rules.py`` shows by how much.
Source of the prior on atanh(loading), normal: R. Fisher's transformation of a correlation,
Metron 1 (1921).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

from router.escalation import MAX_LOADING, NODES, TINY, WEIGHTS, Escalation

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# Loadings are few numbers: more rows than this only take longer. Rows come in hash order, so that
# the first ones are a random sample.
MAX_ROWS = 3_000
# The prior on atanh(loading): normal around atanh(TYPICAL_LOADING), of standard deviation 0.35, so
# that two thirds lie from .5 to .85.
TYPICAL_LOADING = 0.7
PRIOR_PRECISION = 8.0


@dataclass(frozen=True, slots=True)
class FittedEscalation:
    """Loadings, and what they are worth on rows that they were not fitted on.

    ``candidate`` has the loadings of all rows. Log-losses, in nats, are of each tier's success
    after the failure of another one, over all such pairs; NaN where nothing failed. ``gain_error``
    is the standard error of their difference, the pairs of a request being a cluster; infinite
    where fewer than two requests had a failure.
    """

    candidate: Escalation
    log_loss: float
    independent_log_loss: float
    gain_error: float

    @property
    def gain(self) -> float:
        """Nats by which the loadings predict better than independence; NaN where unknown."""
        return self.independent_log_loss - self.log_loss

    @property
    def estimator(self) -> Escalation | None:
        """The candidate, or None where independence predicts no worse."""
        return self.candidate if self.gain > 0 else None

    @property
    def metrics(self) -> dict[str, float]:
        """Both log-losses by name, for the manifest; empty where they are unknown."""
        if not np.isfinite(self.log_loss):
            return {}
        return {
            "log_loss_after_failure": self.log_loss,
            "log_loss_after_failure.independent": self.independent_log_loss,
        }


def fit_escalation(
    p_success: FloatArray,
    success: FloatArray,
    fold: IntArray,
    typical: float = TYPICAL_LOADING,
) -> FittedEscalation:
    """Fit on cross-fitted P(success) and success, both (n, T), of rows with every tier's outcome.

    ``fold`` (n,) divides the rows for the comparison with independence. ``typical`` is the loading
    without evidence.
    """
    p, s, fold = p_success[:MAX_ROWS], success[:MAX_ROWS], fold[:MAX_ROWS]
    loading = np.zeros_like(p)
    for number in np.unique(fold):
        out = fold == number
        loading[out] = fit_loading(p[~out], s[~out], typical)
    given, weight = losses_after_failure(p, s, loading)
    independent, _ = losses_after_failure(p, s, np.zeros_like(p))
    return FittedEscalation(
        Escalation(fit_loading(p, s, typical)),
        _ratio(given, weight)[0],
        _ratio(independent, weight)[0],
        _ratio(independent - given, weight)[1],
    )


def loss_after_failure(p_success: FloatArray, success: FloatArray, loading: FloatArray) -> float:
    """Mean log-loss of each tier's success where one other tier failed; NaN where none did.

    Every pair counts, whatever became of the tiers outside it; ``loading`` is (T,), or (n, T) for
    loadings of each row's own.
    """
    return _ratio(*losses_after_failure(p_success, success, loading))[0]


def losses_after_failure(
    p_success: FloatArray, success: FloatArray, loading: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Every request's sum of log-losses after a failure, and how many such pairs it has, (n,) each.

    A failure by a half, of a success between 0 and 1, counts as half a pair.
    """
    loss, pairs = np.zeros(len(p_success)), np.zeros(len(p_success))
    for tier, failure in enumerate((1.0 - success).T):
        failed = np.zeros_like(p_success)
        failed[:, tier] = 1.0
        others = np.delete(np.arange(p_success.shape[1]), tier)
        p = after_failures(p_success, loading, failed)[:, others].clip(TINY, 1.0 - TINY)
        s = success[:, others]
        each = -(s * np.log(p) + (1.0 - s) * np.log(1.0 - p))
        loss += failure * each.sum(axis=1)
        pairs += failure * len(others)
    return loss, pairs


def _ratio(total: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """sum(total) / sum(weight) over clusters (n,), and its standard error.

    NaN where all weights are 0; the error is infinite where fewer than two are not.
    Source: W. Cochran, Sampling Techniques, 3rd ed., 1977, 6.4.
    """
    counts = weight > 0
    total, weight = total[counts], weight[counts]
    n = len(weight)
    mean = float(total.sum() / weight.sum()) if n else float("nan")
    if n < 2:
        return mean, float("inf")
    residual = total - mean * weight
    return mean, float(np.sqrt(n / (n - 1) * (residual**2).sum()) / weight.sum())


def fit_loading(
    p_success: FloatArray, success: FloatArray, typical: float = TYPICAL_LOADING
) -> FloatArray:
    """The likeliest loadings (T,) by success (n, T) given P(success) (n, T), and by the prior.

    A success between 0 and 1 counts as its two outcomes in proportion. Without rows all loadings
    are ``typical``.
    """
    usual = np.full(p_success.shape[1], typical)
    if len(p_success) < 2:
        return usual
    probit = ndtri(np.clip(p_success, TINY, 1.0 - TINY))
    sign = 2.0 * success - 1.0

    def loss(loading: FloatArray) -> tuple[float, FloatArray]:
        spread = np.sqrt(1.0 - loading**2)[:, None]
        z = (probit[:, :, None] + loading[:, None] * NODES) / spread
        # The likelihood of each outcome at every value of g, (n, T, K), and its derivative.
        outcome = np.maximum((1.0 - success)[:, :, None] + sign[:, :, None] * ndtr(z), 1e-300)
        slope = sign[:, :, None] * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
        slope *= (NODES + loading[:, None] * probit[:, :, None]) / spread**3
        joint = WEIGHTS * np.exp(np.log(outcome).sum(axis=1))
        total = np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
        gradient = np.einsum("nk,ntk->t", joint / total, slope / outcome)
        away = np.arctanh(loading) - np.arctanh(typical)
        value = 0.5 * PRIOR_PRECISION * float((away**2).sum()) - float(np.log(total).sum())
        return value, PRIOR_PRECISION * away / (1.0 - loading**2) - gradient

    direction = _start(success - p_success)
    # Where residuals do not all vary together, what is usual may lie at another maximum.
    starts = [direction, usual] if (direction < 0).any() else [direction]
    bounds = [(-MAX_LOADING, MAX_LOADING)] * len(usual)
    found = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
    loading: FloatArray = min(found, key=lambda one: float(one.fun)).x
    return np.clip(loading, -MAX_LOADING, MAX_LOADING)


def _start(residual: FloatArray) -> FloatArray:
    """The direction (T,) in which residuals (n, T) vary together most, with its signs.

    From 0 there is no way to go, and the likelihood has a maximum for either sign: mostly positive
    is the one where g is easiness.
    """
    covariance = residual.T @ residual / len(residual)
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    direction: FloatArray = np.linalg.eigh(covariance / np.outer(spread, spread))[1][:, -1]
    return 0.7 * direction * (1.0 if direction.sum() >= 0 else -1.0)


def after_failures(p_success: FloatArray, loading: FloatArray, failed: FloatArray) -> FloatArray:
    """P(each tier succeeds | the others of ``failed`` failed), (n, T): what serving computes.

    ``failed`` (n, T) is 1 where a tier failed; what is not known to have failed says nothing.
    ``loading`` is (T,), or (n, T) for loadings of each row's own.
    """
    probit = ndtri(np.clip(p_success, TINY, 1.0 - TINY))
    z = probit[:, :, None] + loading[..., None] * NODES
    z /= np.sqrt(1.0 - loading**2)[..., None]
    log_fails = failed[:, :, None] * np.log(np.maximum(ndtr(-z), 1e-300))
    others = log_fails.sum(axis=1, keepdims=True) - log_fails
    weight = WEIGHTS * np.exp(others - others.max(axis=2, keepdims=True))
    result: FloatArray = (weight * ndtr(z)).sum(axis=2) / weight.sum(axis=2)
    return result
