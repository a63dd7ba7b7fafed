"""Predictor: query text -> expected success and dollars per tier, and "is this like training?".

Training and serving share this one class: training builds it from what it fitted and predicts the
calibration rows with it, so that what was certified is what is served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from router.costs import CostEstimator
from router.coverage import Coverage
from router.decision import Predictions
from router.embedding import Embedder, embed_all
from router.errors import ArtifactError
from router.estimators import SuccessEstimator
from router.inputs import InputMap
from router.linear_map import LinearMap, product
from router.stored_query import Query
from router.support import Support, support_from_arrays, tried

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# Rows predicted at a time: what is worked out for them stays in the processor's cache.
_CHUNK = 128
# Lengths in single precision may be a little more than 1.
_UNIT = 1.001


@dataclass(frozen=True, slots=True)
class Predictor:
    """Embedder and estimators in one; immutable, safe to share between threads.

    references (m, d) float32 are unit rows: training queries, or centroids of them. A query is out
    of distribution where its largest cosine similarity to them is below ``min_similarity``, or
    where ``coverage`` excludes it (None in artifacts that were made without). ``support`` says
    which tiers the log has tried on which queries, None where all were tried everywhere.
    """

    embedder: Embedder
    input_map: InputMap
    success: SuccessEstimator
    cost: CostEstimator
    references: Float32Array
    min_similarity: float
    coverage: Coverage | None = None
    support: Support | None = None
    _references_t: Float32Array = field(init=False, repr=False, compare=False)
    _linear: LinearMap = field(init=False, repr=False, compare=False)
    _n_success: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n_references, dimension = self.references.shape
        sizes = self.input_map.sizes(dimension, n_references)
        parts = (*self.success.linear, *self.cost.linear)
        linear = LinearMap.of(self.input_map, sizes["d+k"], sizes["D"], parts)
        object.__setattr__(self, "_references_t", np.ascontiguousarray(self.references.T))
        object.__setattr__(self, "_linear", linear)
        object.__setattr__(self, "_n_success", len(self.success.linear))

    def predict_one(self, query: str) -> tuple[list[float], list[float], bool]:
        """(P(success) of T tiers, their E[cost], out of distribution?) of one query."""
        p, etas, unknown = self._one(query)
        return p.tolist(), self.cost.from_eta(etas).tolist(), unknown

    def predict_one_apart(self, query: str) -> tuple[list[float], list[float], FloatArray, bool]:
        """As ``predict_one``, and third: what of E[cost] (T,) is for input tokens."""
        p, etas, unknown = self._one(query)
        cost = self.cost.from_eta(etas).tolist()
        return p.tolist(), cost, self.cost.input_usd_from_eta(etas), unknown

    def output_tokens_one(self, query: str) -> FloatArray:
        """Expected output tokens (T,) of one query; NaN for tiers that do not go by tokens."""
        etas = self._one(query)[1]
        return self.cost.output_tokens_from_eta(etas)

    def _one(self, query: str) -> tuple[FloatArray, Sequence[FloatArray], bool]:
        """P(success) (T,), the linear predictors of cost, and whether it is out of distribution."""
        embedding = self.embedder.embed_one(query)
        similarity = self.references.dot(embedding)
        etas = self._linear.one(query, embedding, similarity)
        p = self.success.from_eta(etas[: self._n_success], similarity)
        # By argmax, which is several times as fast as max.
        nearest = float(similarity[similarity.argmax()])
        unknown = nearest < self.min_similarity
        if not unknown and self.coverage is not None:
            unknown = self.coverage.excludes(query, nearest)
        return p, etas[self._n_success :], unknown

    def predict(self, queries: Sequence[Query]) -> Predictions:
        """Predictions of many queries, texts or stored ones."""
        return self.predict_embedded(queries, embed_all(self.embedder, queries))

    def predict_embedded(self, queries: Sequence[Query], embeddings: Float32Array) -> Predictions:
        """Predictions of queries that are already embedded (n, d)."""
        parts = [
            self._predict_chunk(queries[i : i + _CHUNK], embeddings[i : i + _CHUNK])
            for i in range(0, max(len(queries), 1), _CHUNK)
        ]
        p, cost, unknown = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Predictions(p, cost, unknown, tried=self._tried(queries, embeddings))

    def tried(self, queries: Sequence[Query]) -> npt.NDArray[np.bool_] | None:
        """Which tiers (n, T) the log has tried on queries like these; None where all."""
        if self.support is None:
            return None
        return self._tried(queries, embed_all(self.embedder, queries))

    def _tried(
        self, queries: Sequence[Query], embeddings: Float32Array
    ) -> npt.NDArray[np.bool_] | None:
        if self.support is None:
            return None
        dense = self.input_map.narrow_many(queries, embeddings, embeddings[:, :0])
        return tried(self.support.propensities(queries, dense))

    def _predict_chunk(
        self, queries: Sequence[Query], embeddings: Float32Array
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        similarity = product(embeddings, self._references_t)
        etas = self._linear.many(queries, embeddings, similarity)
        p = self.success.from_eta(etas[: self._n_success], similarity)
        cost = self.cost.from_eta(etas[self._n_success :])
        nearest = similarity.max(axis=1, initial=-1.0)
        unknown = nearest < self.min_similarity
        if self.coverage is not None:
            unknown |= self.coverage.excludes_many(queries, nearest.tolist())
        return p, cost, unknown

    def inputs(self, queries: Sequence[Query], embeddings: Float32Array) -> FloatArray:
        """What the estimators see of queries that are already embedded, (n, D)."""
        return self.input_map.many(queries, embeddings, product(embeddings, self._references_t))

    def priced(self, input_usd_per_mtok: FloatArray, output_usd_per_mtok: FloatArray) -> Predictor:
        """The same predictor at other prices (T,), NaN where a tier goes by its dollar head."""
        return replace(self, cost=self.cost.priced(input_usd_per_mtok, output_usd_per_mtok))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact; the embedder is stored apart."""
        return {
            "references": self.references,
            **self.input_map.to_arrays(),
            **self.success.to_arrays(),
            **self.cost.to_arrays(),
            **({} if self.coverage is None else self.coverage.to_arrays()),
            **({} if self.support is None else self.support.to_arrays()),
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        *,
        embedder: Embedder,
        dimension: int,
        members: list[str],
        min_similarity: float,
        input_usd_per_mtok: FloatArray,
        output_usd_per_mtok: FloatArray,
    ) -> Predictor:
        """From the artifact's arrays; raises ArtifactError where they do not fit each other.

        ``dimension`` is the embedder's: asking a contextual one would load it.
        """
        references = arrays.get("references")
        if (
            references is None
            or references.dtype != np.float32
            or references.ndim != 2
            or references.shape[0] < 1
            or references.shape[1] != dimension
            # Unit rows, but for rounding; NaN is none.
            or not (np.linalg.norm(references.astype(np.float64), axis=1) <= _UNIT).all()
        ):
            raise ArtifactError(
                f"expected unit references of {dimension} dimensions in the artifact, got others: "
                "train it again."
            )
        n_tiers = len(input_usd_per_mtok)
        input_map = InputMap.from_arrays(arrays)
        sizes = {
            **input_map.sizes(dimension, len(references)),
            "T": n_tiers,
            "2T+1": 2 * n_tiers + 1,
            "m": len(references),
        }
        return cls(
            embedder,
            input_map,
            SuccessEstimator.from_arrays(members, arrays, sizes),
            CostEstimator.from_arrays(arrays, sizes, input_usd_per_mtok, output_usd_per_mtok),
            references,
            min_similarity,
            Coverage.from_arrays(arrays),
            support_from_arrays(arrays, sizes["d+k"], n_tiers),
        )
