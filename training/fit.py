"""Fit P(success) with scikit-learn, calibrate it, compile it to arrays.

Everything is cross-fitted by query text: what calibrates an estimator or compares families are
predictions for rows that the estimator at hand did not see. ``n`` fitting rows, ``T`` tiers, ``D``
inputs. Cells of tiers that a request was not sent to are simply absent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from router.errors import InputError
from router.estimators import (
    LinearScore,
    Member,
    MlpScore,
    RidgeScore,
    SuccessEstimator,
    sigmoid,
)
from training.design import Design
from training.difficulty import difficulty
from training.inputs import Inputs, Scale
from training.metrics import auc, dollar_ratio
from training.neighbours import References, neighbours
from training.ridge import Ridge, fit_ridge
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]

FAMILIES: dict[str, tuple[str, ...]] = {
    "ridge": ("ridge",),
    "logistic": ("logistic",),
    "knn": ("knn",),
    "mlp": ("mlp",),
    "blend": ("ridge", "knn"),
    "task": ("task",),
    "ridge-task": ("ridge", "task"),
}
# Those that need a log that names its tasks.
TASK_FAMILIES = ("task", "ridge-task")
# Candidates of `auto`: the first is taken unless another one decides clearly better.
AUTO_FAMILIES = ("ridge", "logistic", "knn", "mlp", "blend")
AUTO_FAMILIES_WITH_TASKS = (*AUTO_FAMILIES, "ridge-task", "task")
RIDGE_PENALTIES = (3.0, 10.0, 30.0, 100.0)
# Of a log: powers of importance weights, and the part of a tier's own fit beside the difficulty.
FLATTENINGS = (0.0, 0.5, 1.0)
OWN_PARTS = (0.0, 0.5)
# Of a log: how far the slope of a tier's calibration may be expected to lie from that of all
# tiers, in log-odds per standard deviation of the score.
SLOPE_SPREAD = 0.1
# Inverse regularisation strengths, chosen between by cross-fitted log-loss.
LOGISTIC_STRENGTHS = (0.03, 0.1, 0.3, 1.0)
# Of the success rates of tasks, by how many queries each of them has.
TASK_STRENGTHS = (1.0, 10.0)
MLP_HIDDEN = 16
MLP_PENALTIES = (30.0, 100.0)
MLP_ITERATIONS = 60
# Of the squares of what calibrates: keeps a perfectly separable score finite.
_WHIFF = 1e-3


@dataclass(frozen=True, slots=True)
class Fitted:
    """A compiled success estimator with its cross-fitted predictions (n, T) on the fitting rows."""

    family: str
    estimator: SuccessEstimator
    cross_fitted: FloatArray


def fit_success(
    data: Inputs,
    design: Design,
    refs: References,
    success: FloatArray,
    observed: BoolArray,
    families: Iterable[str],
    on_progress: Callable[[str], None] | None = None,
    *,
    other_success: FloatArray | None = None,
    weight: FloatArray | None = None,
) -> dict[str, Fitted]:
    """Fit families on success (n, T) where ``observed``; calibrated on cross-fitted predictions.

    ``other_success`` (n, M), NaN where unknown, are outcomes of models that are no tier: they say
    how difficult a query is. ``weight`` (n,) are importance weights of requests that were chosen
    for the tier that is observed: what is calibrated with them holds for all traffic.

    Members are calibrated by Platt's sigmoid on scores for rows they were not fitted on, then
    fitted once more on all rows; the mean of several members' logits is calibrated the same way.
    A member that several families share is fitted once. Raises InputError where a family needs
    tasks and ``data`` has none.
    """
    members: dict[str, tuple[Member, FloatArray]] = {}
    fitted = {}
    for family in families:
        if family in TASK_FAMILIES and not data.n_tasks:
            raise InputError(
                f"expected outcomes that name at least two tasks for the estimator {family}, got "
                "fewer that are frequent enough: fill the task column or choose another estimator."
            )
        for kind in FAMILIES[family]:
            if kind not in members:
                if on_progress:
                    on_progress(f"fitting success: {kind}")
                if kind == "ridge":
                    members[kind] = _fit_ridge(
                        data, design, success, observed, other_success, weight
                    )
                else:
                    members[kind] = _fit_member(kind, data, refs, success, observed, weight)
        parts = [members[kind] for kind in FAMILIES[family]]
        score = np.mean([held_out for _, held_out in parts], axis=0)
        n_tiers = success.shape[1]
        slope, intercept = np.ones(n_tiers), np.zeros(n_tiers)
        if len(parts) > 1:
            slope, intercept = _platt(score, success, observed, weight)
        p = sigmoid(slope * score + intercept)
        # Each member carries its share of the mean and of the mean's calibration.
        share = 1.0 / len(parts)
        scaled = [member.scaled(slope * share, intercept * share) for member, _ in parts]
        fitted[family] = Fitted(family, SuccessEstimator(_merged(scaled)), p)
    return fitted


def _merged(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members of one kind that are linear in the same inputs become one: their logits add up."""
    merged: list[Member] = []
    for member in members:
        last = merged[-1] if merged else None
        if isinstance(member, RidgeScore) and isinstance(last, RidgeScore):
            merged[-1] = RidgeScore(last.weight + member.weight, last.bias + member.bias)
        else:
            merged.append(member)
    return tuple(merged)


def _fit_member(
    kind: str,
    data: Inputs,
    refs: References,
    success: FloatArray,
    observed: BoolArray,
    weight: FloatArray | None,
) -> tuple[Member, FloatArray]:
    """The calibrated member on all rows, and its calibrated held-out scores (n, T)."""
    if kind == "knn":
        held_out = np.zeros(success.shape)
        for fold in np.unique(data.fold):
            inside, outside = data.fold != fold, data.fold == fold
            fold_refs = refs.without_fold[int(fold)]
            part = neighbours(data.embedding[inside], fold_refs, success[inside], observed[inside])
            held_out[outside] = part.score(data.x[outside], data.embedding[outside] @ fold_refs.T)
        slope, intercept = _platt(held_out, success, observed, weight)
        member = neighbours(data.embedding, refs.all, success, observed)
        return member.scaled(slope, intercept), slope * held_out + intercept
    fit_one, options = _FITS[kind]
    read = data.tasks if kind == "task" else data.dense
    scale = Scale.of(read)
    z = scale(read)
    best: tuple[float, float, FloatArray] | None = None
    for option in options:
        held_out = np.zeros(success.shape)
        for fold in np.unique(data.fold):
            inside, outside = data.fold != fold, data.fold == fold
            models = [
                fit_one(z[inside], success[inside, t], observed[inside, t], option, data.seed)
                for t in range(success.shape[1])
            ]
            held_out[outside] = np.column_stack([decision(m, z[outside]) for m in models])
        slope, intercept = _platt(held_out, success, observed, weight)
        held_out = slope * held_out + intercept
        loss = log_loss(sigmoid(held_out), success, observed, weight)
        if best is None or loss < best[0]:
            best = (loss, option, held_out)
            calibration = slope, intercept
    assert best is not None
    _, option, held_out = best
    models = [
        fit_one(z, success[:, t], observed[:, t], option, data.seed)
        for t in range(success.shape[1])
    ]
    compiled: Member
    if kind == "mlp":
        compiled = compile_mlp(models, scale)
    elif kind == "logistic":
        compiled = compile_logistic(models, scale)
    else:
        # The posterior over tasks stands behind all other inputs.
        linear = compile_logistic(models, scale)
        others = np.zeros((data.x.shape[1] - data.n_tasks, success.shape[1]))
        compiled = RidgeScore(np.vstack((others, linear.weight)), linear.bias)
    return compiled.scaled(*calibration), held_out


def _fit_ridge(
    data: Inputs,
    design: Design,
    success: FloatArray,
    observed: BoolArray,
    other_success: FloatArray | None,
    weight: FloatArray | None,
) -> tuple[Member, FloatArray]:
    """Each tier's own success and a difficulty that all models share, in equal parts.

    A tier's labels are few and noisy, the difficulty is the mean of many, but tiers differ in more
    than difficulty: both read the same inputs linearly, so that their calibrated mean is one linear
    member.

    Of a log most tiers have very few labels. Importance weights take away what the choice of the
    requests did to the fit, and add noise, so that they are raised to one of ``FLATTENINGS``
    (M. Sugiyama, M. Krauledat and K.-R. Mueller, J. Mach. Learn. Res. 8, 2007), and the own part
    is one of ``OWN_PARTS``. The first of these, which have the least variance, are taken unless
    the held-out loss, weighted in full, tells another one apart from them: see ``_plainest``.
    """
    hard, known = difficulty(success, observed, other_success, weight)
    targets = np.column_stack((np.where(observed, success, 0.0), hard))
    known_targets = np.column_stack((observed, known))
    if weight is None:
        ridge = fit_ridge(design.matrix, data.fold, targets, known_targets, RIDGE_PENALTIES)
        return _ridge_member(ridge, design, success, observed)
    found = []
    for power in FLATTENINGS:
        ridge = fit_ridge(
            design.matrix, data.fold, targets, known_targets, RIDGE_PENALTIES, weight**power
        )
        found += [
            _ridge_member(ridge, design, success, observed, weight, own_part)
            for own_part in OWN_PARTS
        ]
    losses = [row_losses(sigmoid(score), success, observed) for _, score in found]
    return found[_plainest(losses, weight)]


def _plainest(losses: list[FloatArray], weight: FloatArray) -> int:
    """The first whose weighted mean loss is within one standard error of the least.

    ``losses`` (n,) each, of the same requests, the plainest candidate first. The standard error is
    that of the paired difference d to the least: sqrt(sum (u (d - mean d))^2) / sum u (the
    one-standard-error rule of Breiman et al., 1984).

    >>> _plainest([np.array([1.0, 1.2, 0.8]), np.array([0.9, 1.3, 0.7])], np.ones(3))
    0
    >>> _plainest([np.array([2.0, 2.1, 2.2]), np.array([1.0, 1.2, 1.1])], np.ones(3))
    1
    """
    total = float(weight.sum())
    means = [float(weight @ loss) / total for loss in losses]
    least = losses[int(np.argmin(means))]
    for place, loss in enumerate(losses):
        d = loss - least
        mean = float(weight @ d) / total
        if mean <= float(np.sqrt(((weight * (d - mean)) ** 2).sum())) / total:
            return place
    raise AssertionError("the least is within an error of itself")


def _ridge_member(
    ridge: Ridge,
    design: Design,
    success: FloatArray,
    observed: BoolArray,
    weight: FloatArray | None = None,
    own_part: float = 0.5,
) -> tuple[Member, FloatArray]:
    """The calibrated mix of both fits, and its held-out scores (n, T)."""
    n_tiers = success.shape[1]
    held = np.nan_to_num(ridge.held_out)
    raw, bias = design.unfold(np.nan_to_num(ridge.weight), np.nan_to_num(ridge.bias))
    own, shared = held[:, :-1], np.repeat(held[:, -1:], n_tiers, axis=1)

    def calibrate(score: FloatArray) -> tuple[FloatArray, FloatArray]:
        if weight is None:
            return _platt(score, success, observed)
        return _pooled_platt(score, success, observed, weight)

    a, b = own_part, 1.0 - own_part
    own_slope, own_shift = calibrate(own)
    shared_slope, shared_shift = calibrate(shared)
    score = a * (own_slope * own + own_shift) + b * (shared_slope * shared + shared_shift)
    slope, intercept = calibrate(score)
    for tier in range(n_tiers):
        known_success = success[observed[:, tier], tier]
        if len(np.unique(known_success)) < 2:
            slope[tier], intercept[tier] = 0.0, _constant_logit(known_success)
    member = RidgeScore(
        a * raw[:, :-1] * own_slope + b * raw[:, -1:] * shared_slope,
        a * (bias[:-1] * own_slope + own_shift) + b * (bias[-1] * shared_slope + shared_shift),
    )
    return member.scaled(slope, intercept), slope * score + intercept


def _as_classes(
    z: FloatArray, success: FloatArray, observed: BoolArray, weight: FloatArray | None = None
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Rows, 0/1 labels and weights: a fractional success counts as both, in proportion."""
    z, s = z[observed], success[observed]
    u = np.ones(len(s)) if weight is None else weight[observed]
    whole = (s == 0.0) | (s == 1.0)
    part = ~whole
    rows = np.concatenate([z[whole], z[part], z[part]])
    labels = np.concatenate([s[whole], np.ones(part.sum()), np.zeros(part.sum())]).astype(np.intp)
    weights = np.concatenate([u[whole], u[part] * s[part], u[part] * (1.0 - s[part])])
    return rows, labels, weights


def _fit_logistic(
    z: FloatArray, success: FloatArray, observed: BoolArray, strength: float, seed: int
) -> Any:
    rows, labels, weights = _as_classes(z, success, observed)
    if len(np.unique(labels)) < 2:
        return _constant_logit(success[observed])
    # One strength for any number of inputs: the penalty counts standardised columns.
    model = LogisticRegression(C=strength / z.shape[1], max_iter=500)
    return model.fit(rows, labels, sample_weight=weights)


def _fit_mlp(
    z: FloatArray, success: FloatArray, observed: BoolArray, penalty: float, seed: int
) -> Any:
    rows, labels, weights = _as_classes(z, success, observed)
    if len(np.unique(labels)) < 2:
        return _constant_logit(success[observed])
    model = MLPClassifier(
        (MLP_HIDDEN,), solver="lbfgs", alpha=penalty, max_iter=MLP_ITERATIONS, random_state=seed
    )
    with warnings.catch_warnings():
        # Stopping early is part of the regularisation here, not a failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, labels, sample_weight=weights)


def _constant_logit(success: FloatArray) -> float:
    """Logit of a tier that always or never succeeded, or was never seen: add-one smoothed."""
    p = (float(success.sum()) + 0.5) / (len(success) + 1.0)
    return float(np.log(p / (1.0 - p)))


def decision(model: Any, z: FloatArray) -> FloatArray:
    """Logits (n,) of a fitted scikit-learn classifier, or of a constant."""
    if isinstance(model, float):
        return np.full(len(z), model)
    if isinstance(model, LogisticRegression):
        out: FloatArray = model.decision_function(z)
        return out
    p = np.clip(model.predict_proba(z)[:, 1], 1e-12, 1 - 1e-12)
    logit: FloatArray = np.log(p / (1 - p))
    return logit


def compile_logistic(models: list[Any], scale: Scale) -> LinearScore:
    """One weight matrix on raw inputs, with standardisation folded in."""
    n_inputs = len(scale.centre)
    weight = np.column_stack(
        [np.zeros(n_inputs) if isinstance(m, float) else m.coef_[0] for m in models]
    )
    bias = np.array([m if isinstance(m, float) else m.intercept_[0] for m in models])
    weight, bias = scale.fold(weight, bias)
    return LinearScore(weight, bias)


def compile_mlp(models: list[Any], scale: Scale) -> MlpScore:
    """All tiers' hidden layers side by side, with standardisation folded in."""
    n_inputs, n_tiers = len(scale.centre), len(models)
    w1, b1 = np.zeros((n_inputs, n_tiers, MLP_HIDDEN)), np.zeros((n_tiers, MLP_HIDDEN))
    w2, b2 = np.zeros((n_tiers, MLP_HIDDEN, n_tiers)), np.zeros(n_tiers)
    for tier, model in enumerate(models):
        if isinstance(model, float):
            b2[tier] = model
            continue
        w1[:, tier], w2[tier, :, tier] = model.coefs_[0], model.coefs_[1][:, 0]
        b1[tier], b2[tier] = model.intercepts_[0], model.intercepts_[1][0]
    weight, bias = scale.fold(w1.reshape(n_inputs, -1), b1.ravel())
    return MlpScore(weight, bias, w2.reshape(-1, n_tiers), b2)


def _platt(
    score: FloatArray,
    success: FloatArray,
    observed: BoolArray,
    weight: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Slope and intercept (T,) of Platt's sigmoid on held-out scores (n, T)."""
    slopes, intercepts = [], []
    for tier in range(score.shape[1]):
        rows, labels, weights = _as_classes(
            score[:, tier : tier + 1], success[:, tier], observed[:, tier], weight
        )
        if weight is not None and weights.sum() > 0:
            # The penalty below counts rows.
            weights = weights * (len(weights) / float(weights.sum()))
        if len(np.unique(labels)) < 2:
            slopes.append(1.0)
            intercepts.append(0.0)
            continue
        slope = 0.0
        if np.ptp(rows) >= 1e-9:
            # A whiff of regularisation keeps a perfectly separable score finite.
            model = LogisticRegression(C=100.0, max_iter=500)
            slope = float(model.fit(rows, labels, sample_weight=weights).coef_[0, 0])
        # A score that is the same for all, or points the wrong way, is noise: the mean is kept.
        if slope <= 0:
            rate = float(np.average(labels, weights=weights))
            slopes.append(0.0)
            intercepts.append(float(np.log(rate / (1 - rate))))
        else:
            slopes.append(slope)
            intercepts.append(float(model.intercept_[0]))
    return np.array(slopes), np.array(intercepts)


def _pooled_platt(
    score: FloatArray, success: FloatArray, observed: BoolArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Platt's sigmoid (T,) for tiers of which a log has few rows: they share most of the slope.

    P(success of tier t) = sigmoid((s + d_t) z + b_t), z the score in standard deviations, with the
    prior d_t ~ N(0, ``SLOPE_SPREAD``^2): the maximum of

        sum over rows of u (y log p + (1 - y) log(1 - p)) - sum_t d_t^2 / (2 SLOPE_SPREAD^2)

    where the importance weights u average 1 within each tier. A few dozen rows of large weight
    fix the level of a tier, but not how steeply its success falls with difficulty (a multilevel
    model: A. Gelman and J. Hill, 2007, chapter 14).
    """
    n_tiers = score.shape[1]
    row, tier = np.nonzero(observed)
    y, z, u = success[row, tier], score[row, tier], weight[row].astype(np.float64)
    sums, counts = np.bincount(tier, u, n_tiers), np.bincount(tier, minlength=n_tiers)
    u *= (counts / np.where(sums > 0, sums, 1.0))[tier]
    scale = float(z.std())
    rate = (np.bincount(tier, u * y, n_tiers) + 0.5) / (counts + 1.0)
    level = np.log(rate / (1.0 - rate))
    if scale < 1e-9:
        return np.zeros(n_tiers), level
    z = z / scale

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        shared, own, shift = theta[0], theta[1 : n_tiers + 1], theta[n_tiers + 1 :]
        eta = (shared + own[tier]) * z + shift[tier]
        error = u * (sigmoid(eta) - y)
        value = float((u * (np.logaddexp(0.0, eta) - y * eta)).sum())
        value += float(own @ own) / (2.0 * SLOPE_SPREAD**2) + _WHIFF * float(theta @ theta)
        slopes = np.bincount(tier, error * z, n_tiers)
        parts = (np.array([slopes.sum()]), slopes + own / SLOPE_SPREAD**2)
        gradient = np.concatenate((*parts, np.bincount(tier, error, n_tiers)))
        return value, gradient + 2.0 * _WHIFF * theta

    start = np.concatenate((np.zeros(n_tiers + 1), level))
    theta = minimize(loss, start, jac=True, method="L-BFGS-B").x
    slope = (theta[0] + theta[1 : n_tiers + 1]) / scale
    # A score that points the wrong way is noise: the mean is kept.
    useful = slope > 0
    return np.where(useful, slope, 0.0), np.where(useful, theta[n_tiers + 1 :], level)


_FITS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "logistic": (_fit_logistic, LOGISTIC_STRENGTHS),
    "mlp": (_fit_mlp, MLP_PENALTIES),
    "task": (_fit_logistic, TASK_STRENGTHS),
}


def log_loss(
    p: FloatArray, success: FloatArray, observed: BoolArray, weight: FloatArray | None = None
) -> float:
    """Mean log-loss of P(success) (n, T) over the observed cells, with weights (n,) of the rows."""
    p = np.clip(p, 1e-9, 1 - 1e-9)[observed]
    s = success[observed]
    u = None
    if weight is not None:
        u = np.broadcast_to(weight.reshape(-1, *[1] * (observed.ndim - 1)), observed.shape)
        u = u[observed]
    return float(np.average(-(s * np.log(p) + (1 - s) * np.log(1 - p)), weights=u))


def row_losses(p: FloatArray, success: FloatArray, observed: BoolArray) -> FloatArray:
    """Log-loss of every request (n,): the sum over its observed tiers, of P(success) (n, T)."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    s = np.where(observed, success, 0.0)
    loss = np.where(observed, -(s * np.log(p) + (1 - s) * np.log(1 - p)), 0.0)
    result: FloatArray = loss.sum(axis=1)
    return result


def fit_metrics(
    p_success: FloatArray, cost_usd: FloatArray, table: OutcomeTable
) -> dict[str, float]:
    """Cross-fitted quality per tier: AUC, log-loss, and predicted over logged dollars."""
    metrics: dict[str, float] = {}
    for tier, name in enumerate(table.tiers.names):
        seen = table.observed[:, tier]
        success, p = table.success[seen, tier], p_success[seen, tier]
        found = {
            "auc": auc(p, success),
            "log_loss": log_loss(p, success, np.ones(len(p), dtype=bool)) if len(p) else None,
            "cost_ratio": dollar_ratio(cost_usd[seen, tier], table.cost_usd[seen, tier]),
        }
        for what, value in found.items():
            if value is not None and math.isfinite(value):
                metrics[f"{what}.{name}"] = value
    return metrics
