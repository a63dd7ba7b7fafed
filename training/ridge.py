"""Ridge regression of many targets at once, cross-fitted, with a penalty for each of them.

All targets share one Gram matrix per set of rows: over the columns where there are more rows than
columns, over the rows (the dual form, the same solution) where there are fewer. Folds are left out
by leaving their part out of it, so that cross-fitting needs no second pass over the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ridge:
    """K fitted targets: weight (P, K), bias (K,), penalty (K,), and held-out values (n, K).

    A target without a known value is NaN throughout.
    """

    weight: FloatArray
    bias: FloatArray
    penalty: FloatArray
    held_out: FloatArray


def fit_ridge(
    design: FloatArray,
    fold: IntArray,
    targets: FloatArray,
    known: BoolArray,
    penalties: Sequence[float],
    weight: FloatArray | None = None,
) -> Ridge:
    """Min over w of sum u (y - mean(y) - x w)^2 + penalty |w|^2, on the ``known`` (n, K) cells.

    The penalty of each target is the one of least held-out squared error. ``design`` is (n, P),
    ``fold`` (n,); held-out values are given for every row, known or not. ``weight`` (n,) are the
    u, by default 1; means and errors are weighted too.
    """
    n_rows, n_targets = targets.shape
    if design.shape[0] != n_rows or not len(penalties):
        raise InputError("expected a design row for every target row, and penalties to try.")
    result = Ridge(
        np.full((design.shape[1], n_targets), np.nan),
        np.full(n_targets, np.nan),
        np.full(n_targets, np.nan),
        np.full((n_rows, n_targets), np.nan),
    )
    u = np.ones(n_rows) if weight is None else weight
    # Targets known on the same rows are solved together.
    patterns: dict[bytes, list[int]] = {}
    for column in range(n_targets):
        if known[:, column].any():
            patterns.setdefault(np.packbits(known[:, column]).tobytes(), []).append(column)
    for columns in patterns.values():
        rows = np.flatnonzero(known[:, columns[0]])
        y = targets[rows][:, columns]
        _fit_together(result, design, fold, rows, y, u[rows], columns, penalties)
    return result


def _fit_together(
    result: Ridge,
    design: FloatArray,
    fold: IntArray,
    rows: npt.NDArray[np.intp],
    y: FloatArray,
    u: FloatArray,
    columns: list[int],
    penalties: Sequence[float],
) -> None:
    gram = _Gram(design[rows], fold[rows], u)
    held_out = np.empty((len(penalties), len(design), len(columns)))
    for f in np.unique(fold):
        inside = fold[rows] != f
        if not inside.any():  # all known rows are in this fold
            inside = np.ones(len(rows), dtype=bool)
        asked = design[fold == f]
        for i, penalty in enumerate(penalties):
            weight, mean = gram.solve(inside, y, penalty)
            held_out[i, fold == f] = mean + asked @ weight
    error = (u[:, None] * (held_out[:, rows] - y) ** 2).sum(axis=1)
    best = error.argmin(axis=0)
    everything = np.ones(len(rows), dtype=bool)
    for i in np.unique(best):
        at = np.flatnonzero(best == i)
        weight, mean = gram.solve(everything, y[:, at], penalties[i])
        into = np.array(columns)[at]
        result.weight[:, into], result.bias[into] = weight, mean
        result.penalty[into] = penalties[i]
        result.held_out[:, into] = held_out[i][:, at]


class _Gram:
    """Solves for any union of folds out of one Gram matrix."""

    def __init__(self, x: FloatArray, fold: IntArray, u: FloatArray) -> None:
        self._u, self._fold = u, fold
        x = x * np.sqrt(u)[:, None]
        self._x = x
        self._dual = x.shape[0] <= x.shape[1]
        if self._dual:
            self._gram = x @ x.T
        else:
            parts = {f: x[fold == f] for f in np.unique(fold)}
            self._parts = {f: part.T @ part for f, part in parts.items()}
            self._gram = np.sum(list(self._parts.values()), axis=0)

    def solve(
        self, inside: BoolArray, y: FloatArray, penalty: float
    ) -> tuple[FloatArray, FloatArray]:
        """Weight (P, K) and mean (K,) of the rows ``inside``, whole folds of them."""
        x, y, u = self._x[inside], y[inside], self._u[inside]
        mean = np.average(y, axis=0, weights=u)
        y = np.sqrt(u)[:, None] * (y - mean)
        if self._dual:
            gram = self._gram[np.ix_(inside, inside)]
        else:
            gram = self._gram.copy()
            for f in np.unique(self._fold[~inside]):
                gram -= self._parts[f]
        gram.flat[:: len(gram) + 1] += penalty
        factor = cho_factor(gram, overwrite_a=True, check_finite=False)
        if self._dual:
            return x.T @ cho_solve(factor, y, check_finite=False), mean
        return cho_solve(factor, x.T @ y, check_finite=False), mean
