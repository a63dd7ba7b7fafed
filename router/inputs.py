"""What estimators see of a query, in this order:

    embedding (d) | query features (k) | word grams (N_GRAMS) | similarity kernel (m) | tasks (K)

Query features are held within the range of the fitting rows, so that a query with one rare
character is not extrapolated to certainty. The kernel exp(width * (s - 1)) of the cosine
similarities s to the references lets a linear estimator bend. The posterior over the K tasks that
the log named is read off the other inputs: what a kind of query has in common is then learned from
few rows. Training and serving share this one class; serving leaves the word grams, nearly all of
them 0, and the tasks to ``router.linear_map``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import ArtifactError
from router.query_features import N_FEATURES, query_features, query_features_many
from router.stored_query import Query
from router.word_grams import N_GRAMS, WordGrams

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# About what separates near neighbours from the rest among unit vectors of short texts.
KERNEL_WIDTH = 4.0
# Wider, the kernel of a similarity that rounding took above 1 would no longer be about 1.
_MAX_KERNEL_WIDTH = 1000.0
# Indicators that are estimated by least squares differ by far less than 1.
_SHARPNESS = np.array(10.0)
# Far more than training writes; memory for serving grows with the square of it.
_MOST_TASKS = 1024


@dataclass(frozen=True, slots=True)
class TaskPosterior:
    """P(task | query) of K tasks: the softmax of a sharpened linear predictor.

    ``weight`` (D - K, K) is of all other inputs, ``bias`` is (K,). The tasks have no names here.
    """

    weight: FloatArray
    bias: FloatArray

    def from_eta(self, eta: FloatArray) -> FloatArray:
        """Posterior (..., K) from the linear predictor of the same shape.

        >>> TaskPosterior(np.zeros((0, 2)), np.zeros(2)).from_eta(np.array([0.3, 0.3])).tolist()
        [0.5, 0.5]
        """
        likelihood: FloatArray = np.exp(_SHARPNESS * (eta - eta.max(axis=-1, keepdims=True)))
        likelihood /= likelihood.sum(axis=-1, keepdims=True)
        return likelihood

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
        return {"inputs.task_weight": self.weight, "inputs.task_bias": self.bias}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> TaskPosterior | None:
        """From the artifact's arrays; None where the log named no tasks."""
        weight, bias = arrays.get("inputs.task_weight"), arrays.get("inputs.task_bias")
        if weight is None and bias is None:
            return None
        for name, array, n_dimensions in (("task_weight", weight, 2), ("task_bias", bias, 1)):
            if (
                array is None
                or array.dtype != np.float64
                or array.ndim != n_dimensions
                or not (np.abs(array) < 1e6).all()
            ):
                raise _misfit(name)
        assert weight is not None and bias is not None
        if weight.shape[1] != len(bias) or not 0 < len(bias) <= _MOST_TASKS:
            raise _misfit("task_bias")
        return cls(weight, bias)


@dataclass(frozen=True, slots=True)
class InputMap:
    """Query -> inputs (D,); ``low`` and ``high`` (k,) bound the query features.

    Without ``grams`` (artifacts of format 1) the inputs are embedding and features alone.
    """

    low: FloatArray
    high: FloatArray
    grams: WordGrams | None
    kernel_width: float = KERNEL_WIDTH
    tasks: TaskPosterior | None = None

    def many(
        self, queries: Sequence[Query], embeddings: Float32Array, similarity: Float32Array
    ) -> FloatArray:
        """Inputs (n, D) of many queries from embeddings (n, d) and similarities (n, m)."""
        narrow = self.narrow_many(queries, embeddings, similarity)
        if self.grams is None:
            return narrow
        before_kernel, kernel = np.split(narrow, [narrow.shape[1] - similarity.shape[1]], axis=1)
        x = np.concatenate((before_kernel, self.grams.vectors(queries), kernel), axis=1)
        if self.tasks is None:
            return x
        posterior = self.tasks.from_eta(x @ self.tasks.weight + self.tasks.bias)
        return np.concatenate((x, posterior), axis=1)

    def narrow_many(
        self, queries: Sequence[Query], embeddings: Float32Array, similarity: Float32Array
    ) -> FloatArray:
        """The inputs without the word grams and the tasks, (n, d+k+m)."""
        features = np.clip(query_features_many(queries), self.low, self.high)
        if self.grams is None:
            return np.concatenate((embeddings, features), axis=1, dtype=np.float64)
        parts = (embeddings, features, self._kernel(similarity))
        return np.concatenate(parts, axis=1, dtype=np.float64)

    def narrow(self, query: str, embedding: Float32Array, similarity: Float32Array) -> FloatArray:
        """The same of one query, (d+k+m,), from its embedding (d,) and similarities (m,)."""
        features = query_features(query).astype(np.float64)
        features = np.minimum(np.maximum(features, self.low), self.high)
        if self.grams is None:
            return np.concatenate((embedding, features), dtype=np.float64)
        parts = (embedding, features, self._kernel(similarity))
        return np.concatenate(parts, dtype=np.float64)

    def _kernel(self, similarity: Float32Array) -> Float32Array:
        scaled = similarity - 1.0
        scaled *= self.kernel_width
        kernel: Float32Array = np.exp(scaled, out=scaled)
        return kernel

    def sizes(self, dimension: int, n_references: int) -> dict[str, int]:
        """Numbers of inputs: "d+k" of embedding and features, "D" of all.

        Raises ArtifactError where the posterior over tasks does not read all others.
        """
        dense = dimension + N_FEATURES
        others = dense if self.grams is None else dense + N_GRAMS + n_references
        if self.tasks is None:
            return {"d+k": dense, "D": others}
        if len(self.tasks.weight) != others:
            raise _misfit("task_weight")
        return {"d+k": dense, "D": others + len(self.tasks.bias)}

    @classmethod
    def of(cls, queries: Sequence[Query], gram_weight: FloatArray | None = None) -> InputMap:
        """Ranges of the queries to learn from, and their gram weights where none are given."""
        features = query_features_many(queries).astype(np.float64)
        grams = WordGrams.of(queries) if gram_weight is None else WordGrams(gram_weight)
        return cls(features.min(axis=0), features.max(axis=0), grams)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
        assert self.grams is not None
        return {
            "inputs.low": self.low,
            "inputs.high": self.high,
            "inputs.gram_weight": self.grams.weight,
            "inputs.kernel_width": np.array(self.kernel_width),
            **({} if self.tasks is None else self.tasks.to_arrays()),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> InputMap:
        """From the artifact's arrays; those of format 1 have none of these."""
        if not any(name.startswith("inputs.") for name in arrays):
            unbounded = np.full(N_FEATURES, np.inf)
            return cls(-unbounded, unbounded, None)
        shapes: dict[str, tuple[int, ...]] = {
            "low": (N_FEATURES,),
            "high": (N_FEATURES,),
            "gram_weight": (N_GRAMS,),
            "kernel_width": (),
        }
        found = {name: arrays.get(f"inputs.{name}") for name in shapes}
        for name, array in found.items():
            if (
                array is None
                or array.dtype != np.float64
                or array.shape != shapes[name]
                or not (np.abs(array) < 1e6).all()
            ):
                raise _misfit(name)
        low, high, weight, width = (array for array in found.values() if array is not None)
        if not (low <= high).all():
            raise _misfit("high")
        if not 0 < width <= _MAX_KERNEL_WIDTH:
            raise _misfit("kernel_width")
        return cls(low, high, WordGrams(weight), float(width), TaskPosterior.from_arrays(arrays))


def _misfit(name: str) -> ArtifactError:
    return ArtifactError(
        f"expected the array inputs.{name} in the artifact, got none that fits: train it again."
    )
