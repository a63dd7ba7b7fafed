"""Linear predictors of a query: inputs @ weight + bias, without forming the inputs.

Of the inputs that ``router.inputs`` describes most are word grams, and nearly all of those are 0.
Serving therefore sums the few rows of the weight that a query's grams name. All estimators'
weights stand side by side in one, so that a query is read once for all of them; that of the
posterior over tasks is among them, and what the posterior adds to the others comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from router.arrays import Linear
from router.inputs import InputMap
from router.stored_query import Query
from router.word_grams import N_GRAMS, GramProduct

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# Multiplications up to which a matrix product stays on one thread (in OpenBLAS).
_ONE_THREAD = 2**18


def product(rows: npt.NDArray[Any], weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``rows @ weight``, (n, K), in blocks of rows too small to be spread over threads.

    Waiting for a thread on a busy machine takes many times as long as a product of this size.
    """
    (n, width), n_columns = rows.shape, weight.shape[1]
    block = max(_ONE_THREAD // max(weight.size, 1), 1)
    n_blocks = n // block
    whole = n_blocks * block
    out = np.empty((n, n_columns), np.result_type(rows, weight))
    blocks = rows[:whole].reshape(n_blocks, block, width)
    np.matmul(blocks, weight, out=out[:whole].reshape(n_blocks, block, n_columns))
    np.matmul(rows[whole:], weight, out=out[whole:])
    return out


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Queries -> linear predictors, one array for each (weight, bias) it was made of.

    Immutable and safe to share between threads.
    """

    input_map: InputMap
    _narrow: FloatArray  # (K, d+k+m), of all inputs but the word grams
    _grams: GramProduct | None
    _bias: FloatArray  # (K,)
    _columns: tuple[slice, ...]
    _task_rows: FloatArray  # (tasks, K), of the posterior over tasks, whose predictor comes last

    @classmethod
    def of(
        cls, input_map: InputMap, n_dense: int, n_inputs: int, parts: Sequence[Linear]
    ) -> LinearMap:
        """For parts (rows, K_i) that read the first of ``n_inputs`` inputs.

        The first ``n_dense`` inputs are embedding and query features.
        """
        tasks = input_map.tasks
        n_tasks = 0 if tasks is None else len(tasks.bias)
        columns_asked = len(parts)
        if tasks is not None:
            parts = [*parts, (tasks.weight, tasks.bias)]
        weight = np.zeros((n_inputs, sum(len(bias) for _, bias in parts)))
        ends = accumulate((len(bias) for _, bias in parts), initial=0)
        columns = tuple(slice(start, end) for start, end in pairwise(ends))
        for at, (own, _) in zip(columns, parts, strict=True):
            weight[: len(own), at] = own
        weight, task_rows = np.split(weight, [n_inputs - n_tasks])
        grams = None
        if input_map.grams is not None:
            dense, wide, kernel = np.split(weight, [n_dense, n_dense + N_GRAMS])
            grams, weight = GramProduct(input_map.grams, wide), np.vstack((dense, kernel))
        bias = np.concatenate([bias for _, bias in parts])
        narrow = np.ascontiguousarray(weight.T)
        return cls(input_map, narrow, grams, bias, columns[:columns_asked], task_rows)

    def one(
        self, query: str, embedding: Float32Array, similarity: Float32Array
    ) -> list[FloatArray]:
        """Linear predictors (K_i,) from an embedding (d,) and similarities (m,)."""
        eta = self._narrow.dot(self.input_map.narrow(query, embedding, similarity))
        if self._grams is not None:
            eta += self._grams.one(query)
        eta += self._bias
        self._add_tasks(eta)
        return [eta[at] for at in self._columns]

    def many(
        self, queries: Sequence[Query], embeddings: Float32Array, similarity: Float32Array
    ) -> list[FloatArray]:
        """Linear predictors (n, K_i) from embeddings (n, d) and similarities (n, m)."""
        narrow = self.input_map.narrow_many(queries, embeddings, similarity)
        eta = product(narrow, self._narrow.T)
        if self._grams is not None:
            eta += self._grams.many(queries)
        eta += self._bias
        self._add_tasks(eta)
        return [eta[:, at] for at in self._columns]

    def _add_tasks(self, eta: FloatArray) -> None:
        """Add what the posterior over tasks adds to predictors (..., K)."""
        if self.input_map.tasks is not None:
            n_tasks = len(self._task_rows)
            eta += self.input_map.tasks.from_eta(eta[..., -n_tasks:]).dot(self._task_rows)
