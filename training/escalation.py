"""Fit how tiers fail together: the loadings of ``router.escalation``, from full feedback.

By maximum likelihood of all outcomes of a request at once, given cross-fitted P(success): what an
estimator has seen it predicts too well, and failures would then look less shared than they are.
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
# Penalty on the sum of -log(1 - loading^2), in nats: without evidence, tries count as independent,
# and few rows do not make two tiers one.
PENALTY = 2.0


@dataclass(frozen=True, slots=True)
class FittedEscalation:
    """The estimator, and what it is worth on rows it was not fitted on.

    Log-losses in nats are of each tier's success after the failure of another one, over all such
    pairs; NaN where nothing failed. ``estimator`` is None where independence predicts no worse.
    """

    estimator: Escalation | None
    log_loss: float
    independent_log_loss: float

    @property
    def metrics(self) -> dict[str, float]:
        """Both log-losses by name, for the manifest; empty where they are unknown."""
        if not np.isfinite(self.log_loss):
            return {}
        return {
            "log_loss_after_failure": self.log_loss,
            "log_loss_after_failure.independent": self.independent_log_loss,
        }


def fit_escalation(p_success: FloatArray, success: FloatArray, fold: IntArray) -> FittedEscalation:
    """Fit on cross-fitted P(success) and success, both (n, T), of rows with every tier's outcome.

    ``fold`` (n,) divides the rows for the comparison with independence.
    """
    p, s, fold = p_success[:MAX_ROWS], success[:MAX_ROWS], fold[:MAX_ROWS]
    loading = np.zeros_like(p)
    for number in np.unique(fold):
        out = fold == number
        loading[out] = fit_loading(p[~out], s[~out])
    loss, independent = (loss_after_failure(p, s, x) for x in (loading, np.zeros_like(p)))
    # NaN where nothing failed, so that there is nothing to know.
    found = Escalation(fit_loading(p, s)) if loss < independent else None
    return FittedEscalation(found, loss, independent)


def loss_after_failure(p_success: FloatArray, success: FloatArray, loading: FloatArray) -> float:
    """Mean log-loss of each tier's success where one other tier failed; NaN where none did.

    Every pair counts, whatever became of the tiers outside it; ``loading`` is (T,), or (n, T) for
    loadings of each row's own.
    """
    total = weights = 0.0
    for tier, failure in enumerate((1.0 - success).T):
        failed = np.zeros_like(p_success)
        failed[:, tier] = 1.0
        others = np.delete(np.arange(p_success.shape[1]), tier)
        p = after_failures(p_success, loading, failed)[:, others].clip(TINY, 1.0 - TINY)
        s = success[:, others]
        loss = -(s * np.log(p) + (1.0 - s) * np.log(1.0 - p))
        total += float(failure @ loss.sum(axis=1))
        weights += float(failure.sum()) * len(others)
    return total / weights if weights > 0 else float("nan")


def fit_loading(p_success: FloatArray, success: FloatArray) -> FloatArray:
    """Loadings (T,) that maximise the likelihood of success (n, T) given P(success) (n, T).

    A success between 0 and 1 counts as its two outcomes in proportion.
    """
    if len(p_success) < 2:
        return np.zeros(p_success.shape[1])
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
        value = -PENALTY * float(np.log(1.0 - loading**2).sum()) - float(np.log(total).sum())
        return value, 2.0 * PENALTY * loading / (1.0 - loading**2) - gradient

    start = _start(success - p_success)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(-MAX_LOADING, MAX_LOADING)] * len(start)
    )
    loading: FloatArray = np.clip(found.x, -MAX_LOADING, MAX_LOADING)
    return loading


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
