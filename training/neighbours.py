"""References: training queries, or centroids of them, for k-NN and for judging novelty."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from router.estimators import NeighbourScore
from training.inputs import Inputs
from training.limits import upper_limit

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

N_NEIGHBOURS = 40
NEIGHBOUR_SHRINKAGE = 10.0
# Up to here every query is a reference; above, centroids stand for them (latency: one matrix-vector
# product per query over all references).
MAX_REFERENCE_ROWS = 512
N_CENTROIDS = 256
MAX_CLUSTERED_ROWS = 20_000
CLUSTER_ITERATIONS = 12
# The least cosine similarity there is.
NO_SIMILARITY = -1.0


def references(embedding: Float32Array, seed: int, max_rows: int) -> Float32Array:
    """Unit rows (m, d) that stand for the training queries: themselves, or k-means centroids.

    Queries stand for themselves up to ``max_rows`` of them.
    """
    readable = embedding[(embedding != 0).any(axis=1)]
    if len(readable) == 0:
        return np.zeros((1, embedding.shape[1]), np.float32)
    if len(readable) <= max_rows:
        return np.ascontiguousarray(readable)
    if len(readable) > MAX_CLUSTERED_ROWS:
        chosen = np.random.default_rng(seed).choice(len(readable), MAX_CLUSTERED_ROWS, False)
        readable = readable[chosen]
    means = KMeans(
        N_CENTROIDS, init="random", n_init=1, max_iter=CLUSTER_ITERATIONS, random_state=seed
    )
    with warnings.catch_warnings():
        # Rough centroids do as well, and duplicate queries may leave fewer of them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = means.fit(readable).cluster_centers_.astype(np.float32)
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.ascontiguousarray(centres / np.maximum(norms, 1e-12))


@dataclass(frozen=True, slots=True)
class References:
    """References (m, d) of all fitting queries, and for each fold those of the other folds."""

    all: Float32Array
    without_fold: dict[int, Float32Array]

    @classmethod
    def of(cls, data: Inputs) -> References:
        """One clustering of all rows, and one without each fold."""
        everyone = references(data.embedding, data.seed, MAX_REFERENCE_ROWS)
        # What calibrates the whole must be made like it: where all rows are condensed, so are the
        # fewer rows of the other folds (as far as there are enough of them).
        condensed = (data.embedding != 0).any(axis=1).sum() > MAX_REFERENCE_ROWS
        max_rows = N_CENTROIDS if condensed else MAX_REFERENCE_ROWS
        return cls(
            everyone,
            {
                int(fold): references(data.embedding[data.fold != fold], data.seed, max_rows)
                for fold in np.unique(data.fold)
            },
        )

    def similarity(self, data: Inputs) -> FloatArray:
        """How near each training query (n,) comes to the references of the other folds."""
        nearest = np.empty(len(data.embedding))
        for fold, others in self.without_fold.items():
            held_out = data.fold == fold
            nearest[held_out] = (data.embedding[held_out] @ others.T).max(axis=1)
        return nearest


def min_similarity(similarity: FloatArray, share_outside: float) -> float:
    """Cosine similarity below which a query is out of distribution, given that of like ones (n,).

    About the share ``share_outside`` of like traffic lies below it.
    """
    # However far that of few queries is extrapolated.
    return max(-upper_limit(-similarity, share_outside), NO_SIMILARITY)


def neighbours(
    embedding: Float32Array,
    refs: Float32Array,
    success: FloatArray,
    observed: BoolArray,
) -> NeighbourScore:
    """Each row's outcomes counted at its nearest reference; unreadable rows have none."""
    n_tiers = success.shape[1]
    readable = (embedding != 0).any(axis=1)
    home = np.concatenate(
        [(embedding[i : i + 8192] @ refs.T).argmax(axis=1) for i in range(0, len(embedding), 8192)]
    )
    counts = np.zeros((len(refs), 2 * n_tiers + 1))
    known = np.where(observed, success, 0.0)
    np.add.at(counts[:, :-1], home[readable], np.hstack((known, observed))[readable])
    counts[:, -1] = 1.0
    total = observed.sum(axis=0)
    prior = (known.sum(axis=0) + 0.5) / (total + 1.0)
    # About as many queries are asked whether references stand for one or for many of them.
    k = max(5, min(N_NEIGHBOURS, round(N_NEIGHBOURS * len(refs) / max(len(embedding), 1))))
    k = min(k, max(len(refs) - 1, 1))
    return NeighbourScore(
        counts,
        prior,
        np.ones(n_tiers),
        np.zeros(n_tiers),
        np.array(k),
        np.array(NEIGHBOUR_SHRINKAGE),
    )
