"""Ridge regression of many targets against scikit-learn's, fold by fold and in both forms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from router.errors import InputError
from training.ridge import fit_ridge

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

PENALTIES = (0.3, 3.0, 30.0, 300.0)


def predicted(x: FloatArray, y: FloatArray, penalty: float, asked: FloatArray) -> FloatArray:
    mean = y.mean()
    model = SklearnRidge(penalty, fit_intercept=False, solver="cholesky").fit(x, y - mean)
    return np.asarray(mean + model.predict(asked))


def check(
    x: FloatArray, fold: IntArray, y: FloatArray, known: BoolArray, penalties: tuple[float, ...]
) -> None:
    """Every number of ``fit_ridge`` is what scikit-learn finds, one target and fold at a time."""
    found = fit_ridge(x, fold, y, known, penalties)
    asked = np.random.default_rng(9).normal(size=(7, x.shape[1]))
    for column in range(y.shape[1]):
        seen = known[:, column]
        held_out = {}
        for penalty in penalties:
            values = np.empty(len(x))
            for f in np.unique(fold):
                rows = seen & (fold != f)
                rows = rows if rows.any() else seen
                values[fold == f] = predicted(x[rows], y[rows, column], penalty, x[fold == f])
            held_out[penalty] = values
        error = {p: ((v - y[:, column])[seen] ** 2).sum() for p, v in held_out.items()}
        best = min(error, key=lambda p: error[p])
        assert found.penalty[column] == best
        np.testing.assert_allclose(found.held_out[:, column], held_out[best], rtol=0, atol=1e-6)
        expected = predicted(x[seen], y[seen, column], best, asked)
        got = asked @ found.weight[:, column] + found.bias[column]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        assert found.bias[column] == pytest.approx(y[seen, column].mean())


def drawn(n: int, p: int, seed: int = 0) -> tuple[FloatArray, IntArray, FloatArray, BoolArray]:
    """Targets: two of signal, one of noise, two known on a part of the rows (each on another)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) / np.sqrt(p)
    signal = 3 * x[:, :1] * np.sqrt(p)
    y = np.hstack([signal, -signal, np.zeros((n, 1)), signal, signal]) + rng.normal(size=(n, 5))
    known = np.ones((n, 5), dtype=bool)
    known[:, 3] = rng.random(n) < 0.5
    known[:, 4] = rng.random(n) < 0.3
    return x, rng.integers(0, 5, n), y + 2.0, known


@pytest.mark.parametrize(
    ("n", "p"),
    [
        pytest.param(200, 12, id="more rows than columns"),
        pytest.param(60, 150, id="fewer"),
        pytest.param(60, 60, id="as many"),
        pytest.param(100, 60, id="fewer known rows than columns for some targets"),
        pytest.param(62, 60, id="fewer rows than columns within a fold"),
    ],
)
def test_it_is_scikit_learns_ridge_with_the_best_penalty(n: int, p: int) -> None:
    x, fold, y, known = drawn(n, p)
    check(x, fold, y, known, PENALTIES)
    # Targets differ in the penalty that suits them.
    assert len(set(fit_ridge(x, fold, y, known, PENALTIES).penalty)) > 1


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(5, 40), st.integers(1, 40))
def test_any_shape_and_any_mask(seed: int, n: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    x, fold = rng.normal(size=(n, p)), rng.integers(0, 4, n) * 3
    y, known = rng.normal(size=(n, 3)), rng.random((n, 3)) < rng.random(3)
    known[rng.integers(n)] = True
    check(x, fold, y, known, (1.0,))


def test_unknown_cells_are_not_looked_at() -> None:
    x, fold, y, known = drawn(120, 10)
    known[fold == 2, 1] = False
    expected = fit_ridge(x, fold, y, known, PENALTIES)
    for filler in (0.0, 1e6, np.nan):
        found = fit_ridge(x, fold, np.where(known, y, filler), known, PENALTIES)
        np.testing.assert_array_equal(found.weight, expected.weight)
        np.testing.assert_array_equal(found.held_out, expected.held_out)
    assert np.isfinite(expected.held_out).all()  # also where a target is unknown


@pytest.mark.parametrize("p", [4, 300])
def test_a_target_that_is_never_known_is_nan_and_the_others_are_not_touched(p: int) -> None:
    x, fold, y, known = drawn(80, p)
    alone = fit_ridge(x, fold, y[:, :1], known[:, :1], PENALTIES)
    known[:, 1:] = False
    y[:, 1:] = np.nan
    found = fit_ridge(x, fold, y, known, PENALTIES)
    for array in (found.weight[:, 1:], found.bias[1:], found.penalty[1:], found.held_out[:, 1:]):
        assert np.isnan(array).all()
    np.testing.assert_array_equal(found.weight[:, :1], alone.weight)
    np.testing.assert_array_equal(found.held_out[:, :1], alone.held_out)


@pytest.mark.parametrize("p", [4, 300])
def test_all_known_rows_in_one_fold(p: int) -> None:
    """Nothing is left to hold out: that fold is predicted from its own rows, the others too."""
    x, fold, y, known = drawn(80, p)
    known[:] = (fold == 3)[:, None]
    check(x, fold, y, known, PENALTIES)


@pytest.mark.parametrize("p", [4, 300])
def test_one_known_row(p: int) -> None:
    x, fold, y, known = drawn(80, p)
    known[:] = False
    known[11] = True
    found = fit_ridge(x, fold, y, known, PENALTIES)
    np.testing.assert_allclose(found.held_out, np.tile(y[11], (80, 1)))
    np.testing.assert_allclose(found.weight, 0.0, atol=1e-12)


@pytest.mark.parametrize("p", [4, 300])
def test_a_constant_target_is_its_constant(p: int) -> None:
    x, fold, y, known = drawn(80, p)
    y[:, 0], y[:, 1] = 0.0, 1.0
    found = fit_ridge(x, fold, y, known, PENALTIES)
    np.testing.assert_allclose(found.held_out[:, :2], [[0.0, 1.0]] * 80, atol=1e-12)
    np.testing.assert_allclose(found.weight[:, :2], 0.0, atol=1e-12)


def test_held_out_values_know_nothing_of_noise() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 400)), rng.normal(size=(200, 1))
    found = fit_ridge(x, np.arange(200) % 5, y, np.ones((200, 1), dtype=bool), (1.0,))
    assert abs(np.corrcoef(found.held_out[:, 0], y[:, 0])[0, 1]) < 0.25
    inside = x @ found.weight[:, 0]
    assert np.corrcoef(inside, y[:, 0])[0, 1] > 0.95


def test_nothing_given_is_written_over() -> None:
    x, fold, y, known = drawn(80, 30)
    copies = x.copy(), fold.copy(), y.copy(), known.copy()
    fit_ridge(x, fold, y, known, PENALTIES)
    for array, copy in zip((x, fold, y, known), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_what_does_not_fit_is_refused() -> None:
    x, fold, y, known = drawn(80, 5)
    with pytest.raises(InputError, match="a design row for every target row"):
        fit_ridge(x[1:], fold, y, known, PENALTIES)
    with pytest.raises(InputError, match="penalties to try"):
        fit_ridge(x, fold, y, known, ())
