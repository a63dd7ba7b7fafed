"""Inputs as ridge regression sees them: each block scaled by how much it may explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.inputs import KERNEL_WIDTH
from router.word_grams import N_GRAMS
from training.inputs import Inputs, Scale

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# Prior variances of the blocks, that of the word grams being 1. A unit vector counts half as a
# linear and half as a kernel term.
EMBEDDING_SHARE = 0.5
KERNEL_SHARE = 0.5
FEATURES_SHARE = 0.3
_LEAST_EIGENVALUE = 1e-6


@dataclass(frozen=True, slots=True)
class Design:
    """``matrix`` (n, P) = (inputs (n, D) - centre) @ blocks, without forming the blocks."""

    matrix: FloatArray
    n_embedding: int
    features: Scale
    feature_factor: float
    whitening: FloatArray

    @classmethod
    def of(cls, data: Inputs, references: Float32Array) -> Design:
        """Of all rows; this looks at no outcome.

        The kernel's columns become coordinates in which their inner products are the kernel
        (C. Williams and M. Seeger, Using the Nystroem method, NIPS 2000).
        """
        d, dense = data.embedding.shape[1], data.n_dense
        scale = Scale.of(data.x[:, d:dense])
        factor = np.sqrt(FEATURES_SHARE / max(dense - d, 1))
        blocks = [data.x[:, :d] * np.sqrt(EMBEDDING_SHARE), scale(data.x[:, d:dense]) * factor]
        whitening = np.zeros((0, 0))
        if data.x.shape[1] > dense:
            refs = references.astype(np.float64)
            values, vectors = np.linalg.eigh(np.exp(KERNEL_WIDTH * (refs @ refs.T - 1.0)))
            kept = values > _LEAST_EIGENVALUE * values[-1]
            whitening = vectors[:, kept] * np.sqrt(KERNEL_SHARE / values[kept])
            grams = data.x[:, dense : dense + N_GRAMS]
            blocks += [grams, data.x[:, dense + N_GRAMS :] @ whitening]
        return cls(np.hstack(blocks), d, scale, float(factor), whitening)

    def unfold(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(weight (D, K), bias (K,)) on raw inputs for those (P, K), (K,) on ``matrix``."""
        d, dense = self.n_embedding, self.n_embedding + len(self.features.centre)
        features, bias = self.features.fold(weight[d:dense] * self.feature_factor, bias)
        parts = [weight[:d] * np.sqrt(EMBEDDING_SHARE), features]
        if len(self.whitening):
            parts += [
                weight[dense : dense + N_GRAMS],
                self.whitening @ weight[dense + N_GRAMS :],
            ]
        return np.vstack(parts), bias
