"""What the fit of success does on a log, where most tiers have few labels of large weight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from router.estimators import sigmoid
from training import fit
from training.fit import SLOPE_SPREAD, row_losses

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

pooled = fit._pooled_platt


def logged(
    n: int, seed: int, *, few: float = 0.03, slopes: tuple[float, float] = (1.0, 1.0)
) -> tuple[FloatArray, FloatArray, BoolArray, FloatArray]:
    """Scores, successes, what is observed, and weights: the second tier is called rarely."""
    rng = np.random.default_rng(seed)
    score = np.repeat(rng.normal(size=(n, 1)), 2, axis=1)
    success = (rng.random((n, 2)) < sigmoid(score * slopes + np.array([0.5, 2.0]))).astype(float)
    rare = rng.random(n) < few
    observed = np.column_stack((~rare, rare))
    weight = np.where(rare, 1 / few, 1 / (1 - few))
    return score, np.where(observed, success, np.nan), observed, weight


def filled(success: FloatArray) -> FloatArray:
    return np.nan_to_num(success)


def test_the_optimum_is_where_the_documented_objective_is_stationary() -> None:
    score, success, observed, weight = logged(600, 0, few=0.1)
    slope, shift = pooled(score, success, observed, weight)
    row, tier = np.nonzero(observed)
    scale = score[row, tier].std()

    def objective(slope: FloatArray, shift: FloatArray) -> float:
        # The shared slope that goes best with given slopes of the tiers is their mean.
        own = slope * scale - (slope * scale).mean()
        p = sigmoid(slope * score + shift)
        total = float(own @ own) / (2 * SLOPE_SPREAD**2)
        for t in range(2):
            seen = observed[:, t]
            u = weight[seen] / weight[seen].mean()
            s = success[seen, t]
            total -= float((u * (s * np.log(p[seen, t]) + (1 - s) * np.log(1 - p[seen, t]))).sum())
        return total

    least = objective(slope, shift)
    for step in (np.array([1e-2, 0.0]), np.array([0.0, 1e-2])):
        for sign in (-1, 1):
            assert objective(slope + sign * step, shift) > least - 1e-4
            assert objective(slope, shift + sign * step) > least - 1e-4


def test_few_rows_of_a_tier_take_the_slope_of_the_others() -> None:
    """Closer to the truth than their own slope, over logs."""
    errors = []
    for seed in range(30):
        score, success, observed, weight = logged(1000, seed)
        alone = fit._platt(score, success, observed, weight)[0][1]
        together = pooled(score, success, observed, weight)[0][1]
        errors.append((abs(alone - 1.0), abs(together - 1.0)))
    own, shared = np.mean(errors, axis=0)
    assert shared < 0.5 * own


def test_many_rows_keep_their_own_slope_and_level() -> None:
    score, success, observed, weight = logged(40_000, 0, few=0.5, slopes=(1.0, 2.0))
    slope, shift = pooled(score, success, observed, weight)
    np.testing.assert_allclose(slope, [1.0, 2.0], atol=0.1)
    np.testing.assert_allclose(shift, [0.5, 2.0], atol=0.1)
    seen = observed[:, 1]
    model = LogisticRegression(C=np.inf).fit(score[seen, 1:], success[seen, 1])
    assert slope[1] == pytest.approx(model.coef_[0, 0], abs=0.06)


def test_the_calibrated_level_is_that_of_the_weighted_rows() -> None:
    score, success, observed, weight = logged(2000, 3, few=0.2)
    weight = weight * np.random.default_rng(0).uniform(0.2, 5.0, len(weight))
    slope, shift = pooled(score, success, observed, weight)
    p = sigmoid(slope * score + shift)
    for tier in range(2):
        seen = observed[:, tier]
        logged_rate = np.average(success[seen, tier], weights=weight[seen])
        assert np.average(p[seen, tier], weights=weight[seen]) == pytest.approx(
            logged_rate, abs=2e-3
        )


def test_a_score_that_says_nothing_or_points_the_wrong_way_keeps_the_mean() -> None:
    score, success, observed, weight = logged(500, 1, few=0.3)
    rate = [np.average(success[observed[:, t], t]) for t in range(2)]
    for useless in (np.zeros_like(score), -score):
        slope, shift = pooled(useless, success, observed, weight)
        assert slope.tolist() == [0.0, 0.0]
        np.testing.assert_allclose(sigmoid(shift), rate, atol=0.01)


def test_a_tier_that_was_never_called_or_never_failed_breaks_nothing() -> None:
    score, success, observed, weight = logged(300, 1, few=0.1)
    observed = np.column_stack((observed, np.zeros(300, bool)))
    success = np.column_stack((success, np.full(300, np.nan)))
    success[observed[:, 1], 1] = 1.0
    slope, shift = pooled(np.column_stack((score, score[:, 0])), success, observed, weight)
    assert np.isfinite(slope).all() and np.isfinite(shift).all()


def test_a_plainer_candidate_is_left_only_for_what_is_clearly_better() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400)
    clearly, barely = base - 0.1, base - rng.normal(0.005, 0.5, 400)
    weight = rng.uniform(1, 30, 400)
    assert fit._plainest([base, barely + 10, clearly], weight) == 2
    assert fit._plainest([base, base, base], weight) == 0


def test_losses_of_rows_are_those_of_the_mean() -> None:
    score, success, observed, weight = logged(200, 2)
    p = sigmoid(score)
    found = row_losses(p, success, observed)
    assert np.average(found, weights=weight) == pytest.approx(
        fit.log_loss(p, filled(success), observed, weight)
    )
