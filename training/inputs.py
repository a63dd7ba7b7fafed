"""What estimators are fitted on: embedded queries with their folds, and standardisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What estimators see of n queries: embeddings (n, d), all inputs (n, D), and fold ids (n,).

    The first ``n_dense`` inputs, by default all, are embedding and query features; the last
    ``n_tasks`` are the cross-fitted posterior over tasks.
    """

    embedding: Float32Array
    x: FloatArray
    fold: IntArray
    seed: int
    n_dense: int = -1
    n_tasks: int = 0

    def __post_init__(self) -> None:
        if self.n_dense < 0:
            object.__setattr__(self, "n_dense", self.x.shape[1])

    @property
    def dense(self) -> FloatArray:
        """Embedding and query features (n, d+k)."""
        return self.x[:, : self.n_dense]

    @property
    def tasks(self) -> FloatArray:
        """Posterior over tasks (n, n_tasks)."""
        return self.x[:, self.x.shape[1] - self.n_tasks :]


@dataclass(frozen=True, slots=True)
class Scale:
    """Standardisation of inputs (D,), folded into the weights when compiled."""

    centre: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, x: FloatArray) -> Scale:
        """Column means and standard deviations; a constant column is left as it is."""
        spread = x.std(axis=0)
        return cls(x.mean(axis=0), np.where(spread > 1e-9, spread, 1.0))

    def __call__(self, x: FloatArray) -> FloatArray:
        """Standardised inputs (n, D)."""
        return (x - self.centre) / self.spread

    def fold(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(weight, bias) on raw inputs for those on standardised ones."""
        raw = weight / self.spread[:, None]
        return raw, bias - self.centre @ raw
