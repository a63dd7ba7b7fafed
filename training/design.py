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
# Of each score of the prior, which has unit variance.
PRIOR_SHARE = 0.5
# Of the posterior over tasks, which sums to 1: as much as a text's word grams.
TASKS_SHARE = 1.0
_LEAST_EIGENVALUE = 1e-6


@dataclass(frozen=True, slots=True)
class Design:
    """``matrix`` (n, P) = (inputs (n, D) - centre) @ blocks, without forming the blocks.

    ``prior`` (m, S) are the weights of S linear scores of the first m inputs, each a column more.
    """

    matrix: FloatArray
    n_embedding: int
    features: Scale
    feature_factor: float
    n_grams: int
    whitening: FloatArray
    n_tasks: int
    prior: FloatArray
    prior_scale: Scale

    @classmethod
    def of(cls, data: Inputs, references: Float32Array, prior: FloatArray | None = None) -> Design:
        """Of all rows; this looks at no outcome of theirs.

        The kernel's columns become coordinates in which their inner products are the kernel
        (C. Williams and M. Seeger, Using the Nystroem method, NIPS 2000).
        """
        d, dense = data.embedding.shape[1], data.n_dense
        scale = Scale.of(data.x[:, d:dense])
        factor = np.sqrt(FEATURES_SHARE / max(dense - d, 1))
        blocks = [data.x[:, :d] * np.sqrt(EMBEDDING_SHARE), scale(data.x[:, d:dense]) * factor]
        grams = data.x[:, dense : dense + N_GRAMS]
        blocks.append(grams)
        whitening = np.zeros((0, 0))
        before_tasks = data.x.shape[1] - data.n_tasks
        if before_tasks > dense + N_GRAMS:
            refs = references.astype(np.float64)
            values, vectors = np.linalg.eigh(np.exp(KERNEL_WIDTH * (refs @ refs.T - 1.0)))
            kept = values > _LEAST_EIGENVALUE * values[-1]
            whitening = vectors[:, kept] * np.sqrt(KERNEL_SHARE / values[kept])
            blocks.append(data.x[:, dense + N_GRAMS : before_tasks] @ whitening)
        blocks.append(data.tasks * np.sqrt(TASKS_SHARE))
        if prior is None:
            prior = np.zeros((0, 0))
        scores = data.x[:, : len(prior)] @ prior
        prior_scale = Scale.of(scores)
        blocks.append(prior_scale(scores) * np.sqrt(PRIOR_SHARE))
        return cls(
            np.hstack(blocks),
            d,
            scale,
            float(factor),
            grams.shape[1],
            whitening,
            data.n_tasks,
            prior,
            prior_scale,
        )

    def unfold(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(weight (D, K), bias (K,)) on raw inputs for those (P, K), (K,) on ``matrix``."""
        d, dense = self.n_embedding, self.n_embedding + len(self.features.centre)
        features, bias = self.features.fold(weight[d:dense] * self.feature_factor, bias)
        kernel = dense + self.n_grams
        tasks = kernel + self.whitening.shape[1]
        last = tasks + self.n_tasks
        prior, bias = self.prior_scale.fold(weight[last:] * np.sqrt(PRIOR_SHARE), bias)
        raw = np.vstack(
            (
                weight[:d] * np.sqrt(EMBEDDING_SHARE),
                features,
                weight[dense:kernel],
                self.whitening @ weight[kernel:tasks],
                weight[tasks:last] * np.sqrt(TASKS_SHARE),
            )
        )
        raw[: len(self.prior)] += self.prior @ prior
        return raw, bias
