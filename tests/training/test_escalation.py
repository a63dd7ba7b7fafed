"""How tiers fail together, fitted: closed forms, recovery of the truth, what it is worth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr, ndtri

from router.artifact import load_artifact
from router.plans import best_plan
from training.escalation import (
    TYPICAL_LOADING,
    after_failures,
    fit_escalation,
    fit_loading,
    loss_after_failure,
    losses_after_failure,
)

FloatArray = npt.NDArray[np.float64]


def world(
    loading: list[float], n: int = 3000, seed: int = 0
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """P(success) as the text shows it, success as the model has it, and folds."""
    rng = np.random.default_rng(seed)
    r = np.array(loading)
    p = ndtr(rng.normal(0.4, 0.7, (n, 1)) + rng.normal(0.0, 0.3, (n, len(r))))
    latent = r * rng.normal(size=(n, 1)) + np.sqrt(1 - r**2) * rng.normal(size=(n, len(r)))
    return p, (ndtri(p) + latent > 0).astype(float), np.arange(n) % 5


def test_the_truth_is_found_again() -> None:
    p, success, fold = world([0.8, 0.5, 0.7])
    fitted = fit_escalation(p, success, fold)
    assert fitted.estimator is not None
    np.testing.assert_allclose(fitted.estimator.loading, [0.8, 0.5, 0.7], atol=0.12)
    assert fitted.log_loss < fitted.independent_log_loss - 0.03
    assert set(fitted.metrics.values()) == {fitted.log_loss, fitted.independent_log_loss}


def test_chances_after_failures_are_the_frequencies() -> None:
    p, success, _ = world([0.8, 0.5, 0.7], n=40_000, seed=1)
    loading = fit_loading(p[:10_000], success[:10_000])
    np.testing.assert_allclose(loading, [0.8, 0.5, 0.7], atol=0.06)
    for failed in (0b001, 0b010, 0b011):
        rows = np.all([success[:, t] == 0 for t in range(3) if failed >> t & 1], axis=0)
        mask = np.tile([float(failed >> t & 1) for t in range(3)], (rows.sum(), 1))
        expected = after_failures(p[rows], loading, mask)[:, 2].mean()
        # What independence would say is far off.
        assert success[rows, 2].mean() == pytest.approx(expected, abs=0.02)
        assert p[rows, 2].mean() > success[rows, 2].mean() + 0.08


def test_independent_tiers_get_loadings_near_zero() -> None:
    p, success, fold = world([0.0, 0.0, 0.0])
    loading = fit_loading(p, success)
    # Two of them carry all of what chance put together.
    assert np.sort(np.abs(np.outer(loading, loading)[np.triu_indices(3, 1)]))[-1] < 0.08
    failed = np.tile([1.0, 0.0, 0.0], (len(p), 1))
    np.testing.assert_allclose(after_failures(p, loading, failed)[:, 1:], p[:, 1:], atol=0.05)
    fitted = fit_escalation(p, success, fold)
    assert fitted.estimator is None or fitted.log_loss < fitted.independent_log_loss


def test_tiers_that_are_one_tier_are_tried_once() -> None:
    p, one, fold = world([0.7], n=1000)
    same, success = np.repeat(p, 3, axis=1), np.repeat(one, 3, axis=1)
    fitted = fit_escalation(same, success, fold)
    assert fitted.estimator is not None
    chances, cost = [0.6] * 3, [0.01, 0.02, 0.03]
    given = fitted.estimator.given(chances)
    assert given(1, 0b001) < 0.1
    assert best_plan(chances, cost, 0.1, given).order == [0]
    assert best_plan(chances, cost, 0.1).order == [0, 1, 2]


def test_specialists_make_up_for_each_other() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(1000) < 0.5).astype(float)
    loading = fit_loading(np.full((1000, 2), 0.5), np.column_stack((one, 1 - one)))
    assert loading[0] * loading[1] < -0.9
    failed = np.array([[1.0, 0.0]])
    assert after_failures(np.array([[0.5, 0.5]]), loading, failed)[0, 1] > 0.9


def test_an_outcome_of_one_half_says_nothing() -> None:
    p, success, _ = world([0.8, 0.8])
    whole = fit_loading(p[:1000], success[:1000])
    padded = np.vstack((p[:1000], p[1000:])), np.vstack((success[:1000], 0 * p[1000:] + 0.5))
    np.testing.assert_allclose(fit_loading(*padded), whole, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_few_rows_teach_little_and_break_nothing(n: int) -> None:
    for seed in range(5):
        p, success, fold = world([0.8, 0.5, 0.7], n=n, seed=seed)
        fitted = fit_escalation(p, success, fold)
        assert np.abs(fit_loading(p, success)).max() < 0.9
        assert fitted.estimator is None or np.isfinite(fitted.estimator.loading).all()


def test_few_rows_leave_what_is_usual_and_many_do_not() -> None:
    p, success, _ = world([0.4, 0.4, 0.4])
    assert fit_loading(p[:1], success[:1]).tolist() == [TYPICAL_LOADING] * 3
    away = [np.abs(fit_loading(p[:n], success[:n]) - TYPICAL_LOADING).mean() for n in (3, 30, 3000)]
    assert away[0] < 0.1 and away[0] < away[1] < away[2]
    np.testing.assert_allclose(fit_loading(p, success), 0.4, atol=0.15)


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_few_rows_predict_better_with_what_is_usual_than_without(n: int) -> None:
    held_p, held, _ = world([0.6, 0.8, 0.7], n=4000, seed=99)
    losses = []
    for typical in (TYPICAL_LOADING, 0.0):
        fits = [
            fit_escalation(*world([0.6, 0.8, 0.7], n=n, seed=seed), typical) for seed in range(5)
        ]
        each = [fit.estimator.loading if fit.estimator else np.zeros(3) for fit in fits]
        losses.append(np.mean([loss_after_failure(held_p, held, one) for one in each]))
    assert losses[0] <= losses[1] + 1e-3
    assert losses[0] < loss_after_failure(held_p, held, np.zeros(3)) - 0.03


def test_the_gain_has_the_error_of_sums_over_requests() -> None:
    """Against the bootstrap over requests, with the loadings of each fold as they are."""
    p, success, fold = world([0.7, 0.7, 0.7], n=600)
    fitted = fit_escalation(p, success, fold)
    assert fitted.gain == pytest.approx(fitted.independent_log_loss - fitted.log_loss)
    loading = np.zeros_like(p)
    for number in range(5):
        loading[fold == number] = fit_loading(p[fold != number], success[fold != number])
    given, pairs = losses_after_failure(p, success, loading)
    without, _ = losses_after_failure(p, success, 0 * loading)
    rng = np.random.default_rng(0)
    again = rng.integers(0, 600, (2000, 600))
    drawn = (without - given)[again].sum(axis=1) / pairs[again].sum(axis=1)
    assert fitted.gain == pytest.approx(drawn.mean(), abs=5e-3)
    assert fitted.gain_error == pytest.approx(drawn.std(), rel=0.1)


def test_one_request_with_a_failure_has_no_error_to_speak_of() -> None:
    p = np.full((40, 2), 0.7)
    success = np.ones_like(p)
    success[3, 0] = 0.0
    fitted = fit_escalation(p, success, np.arange(40) % 5)
    assert np.isinf(fitted.gain_error)
    assert np.isfinite(fitted.log_loss)


def test_where_nothing_ever_fails_there_is_nothing_to_learn() -> None:
    p, success, fold = world([0.5, 0.5], n=100)
    fitted = fit_escalation(p, np.ones_like(success), fold)
    assert fitted.estimator is None
    assert math.isnan(fitted.log_loss)
    assert fitted.metrics == {}


def test_training_puts_it_into_the_artifact(small_artifact: Path) -> None:
    artifact = load_artifact(small_artifact)
    loading = artifact.arrays["escalation.loading"]
    assert loading.shape == (3,)
    # The synthetic world has a difficulty that no text shows.
    assert (loading > 0.2).all()
    found = artifact.manifest["metrics"]
    assert found["log_loss_after_failure"] < found["log_loss_after_failure.independent"]
