"""P(success) compiled to plain arrays. No scikit-learn here.

``training/fit.py`` fits with scikit-learn and compiles to these; a test holds both to the same
predictions. Shapes, and how linear predictors are read, are those of ``router.arrays``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from router.arrays import Arrays, Linear, bounded, linear_predictor
from router.errors import ArtifactError

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# As an array, with which numpy calculates twice as fast as with a number.
_HALF = np.array(0.5)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    # np.tanh saturates quietly where np.exp would warn.
    out: FloatArray = _HALF + _HALF * np.tanh(_HALF * x)
    return out


# Cosine similarities in float32 that differ by less are the same: the last digits depend on how
# many queries are asked at once, and must not decide between copies of one text.
_SAME_SIMILARITY = 1e-6


class _Member(Arrays, ABC):
    """A part of the success estimator: logits from a linear predictor and from similarities."""

    @property
    @abstractmethod
    def linear(self) -> Linear:
        """(weight, bias) of the linear predictor; of no columns where there is none."""

    @abstractmethod
    def from_eta(self, eta: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T) from the linear predictor and similarities (n, m)."""

    def score(self, x: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T) from inputs (n, D) and similarities (n, m)."""
        return self.from_eta(linear_predictor(x, self.linear), similarity)


@dataclass(frozen=True, slots=True)
class LinearScore(_Member):
    """Logits ``x @ weight + bias`` of embedding and query features: weight (d+k, T), bias (T,)."""

    kind: ClassVar[str] = "logistic"
    shapes: ClassVar = {"weight": ("d+k", "T"), "bias": ("T",)}
    weight: FloatArray
    bias: FloatArray

    @property
    def linear(self) -> Linear:
        """Weight and bias."""
        return self.weight, self.bias

    def from_eta(self, eta: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T): the linear predictor itself."""
        return eta

    def scaled(self, slope: FloatArray, intercept: FloatArray) -> Self:
        """The member whose logits are ``slope * logit + intercept`` (T,)."""
        return type(self)(self.weight * slope, self.bias * slope + intercept)


@dataclass(frozen=True, slots=True)
class RidgeScore(LinearScore):
    """The same on all inputs: weight (D, T)."""

    kind: ClassVar[str] = "ridge"
    shapes: ClassVar = {"weight": ("D", "T"), "bias": ("T",)}


@dataclass(frozen=True, slots=True)
class MlpScore(_Member):
    """One hidden ReLU layer, all tiers' units side by side: w1 (d+k, h), b1, w2 (h, T), b2 (T,).

    A tier has its own units; in ``w2`` the rows of the others' are 0.
    """

    kind: ClassVar[str] = "mlp"
    shapes: ClassVar = {"w1": ("d+k", "h"), "b1": ("h",), "w2": ("h", "T"), "b2": ("T",)}
    w1: FloatArray
    b1: FloatArray
    w2: FloatArray
    b2: FloatArray

    @property
    def linear(self) -> Linear:
        """The hidden units before they are rectified."""
        return self.w1, self.b1

    def from_eta(self, eta: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T) from the hidden units (n, h)."""
        return np.maximum(eta, 0.0) @ self.w2 + self.b2

    def scaled(self, slope: FloatArray, intercept: FloatArray) -> MlpScore:
        """The member whose logits are ``slope * logit + intercept`` (T,)."""
        return MlpScore(self.w1, self.b1, self.w2 * slope, self.b2 * slope + intercept)


@dataclass(frozen=True, slots=True)
class NeighbourScore(_Member):
    """k nearest references, weighted by distance, shrunk to each tier's mean.

    With d_j the squared distance to the j-th nearest reference, the weight is
    w_j = 1 - d_j / d_(k+1), which fades to nothing at the edge, so that predictions are continuous
    in the query. For unit vectors d = 2 - 2 s with s the cosine similarity, so that w_j is in
    proportion to s_j - s_(k+1). With A, B the weighted means of successes and outcomes counted at
    the references, p = (k A + shrinkage * prior) / (k B + shrinkage).

    counts (m, 2 T + 1) holds the successes, the outcomes and a 1, so that one product gives both
    sums and the total weight; prior, slope and intercept are (T,).
    Logits are slope * logit(p) + intercept.
    """

    kind: ClassVar[str] = "knn"
    shapes: ClassVar = {
        "counts": ("m", "2T+1"),
        "prior": ("T",),
        "slope": ("T",),
        "intercept": ("T",),
        "n_neighbours": (),
        "shrinkage": (),
    }
    counts: FloatArray
    prior: FloatArray
    slope: FloatArray
    intercept: FloatArray
    n_neighbours: npt.NDArray[np.int64]
    shrinkage: FloatArray

    def probability(self, similarity: Float32Array) -> FloatArray:
        """Uncalibrated P(success) (n, T) from cosine similarities (n, m) to the references."""
        k, n_tiers = int(self.n_neighbours), len(self.prior)
        edge_rank = max(similarity.shape[-1] - k - 1, 0)
        edge = np.partition(similarity, edge_rank)[..., edge_rank : edge_rank + 1]
        above = similarity - edge
        weights = np.where(above > _SAME_SIMILARITY, above, 0.0).astype(np.float64)
        sums = weights @ self.counts
        total = sums[..., -1:]
        if not total.all():
            # All of the nearest are equally far: they count alike.
            sums = np.where(total > 0, weights, above >= -_SAME_SIMILARITY) @ self.counts
            total = sums[..., -1:]
        # (k A + shrinkage * prior) / (k B + shrinkage), with total / k taken out of both.
        pseudo = total * (float(self.shrinkage) / k)
        shrunk: FloatArray = (sums[..., :n_tiers] + pseudo * self.prior) / (
            sums[..., n_tiers:-1] + pseudo
        )
        return shrunk

    @property
    def linear(self) -> Linear:
        """None: similarities are all that it reads."""
        return np.zeros((0, 0)), np.zeros(0)

    def from_eta(self, eta: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T) from similarities (n, m)."""
        p = self.probability(similarity)  # inside (0, 1): the prior is, and shrinkage is above 0
        return self.slope * np.log(p / (1.0 - p)) + self.intercept

    def sound(self) -> bool:
        """Whether probabilities stay inside (0, 1)."""
        n_tiers = len(self.prior)
        succeeded, seen = self.counts[:, :n_tiers], self.counts[:, n_tiers:-1]
        return (
            bounded(self.counts, self.slope, self.intercept, self.shrinkage)
            and bool(((self.prior > 0) & (self.prior < 1)).all())
            and bool(((succeeded >= 0) & (succeeded <= seen * (1 + 1e-9))).all())
            and bool((self.counts[:, -1] == 1).all())
            and int(self.n_neighbours) >= 1
            and float(self.shrinkage) > 0
        )

    def scaled(self, slope: FloatArray, intercept: FloatArray) -> NeighbourScore:
        """The member whose logits are ``slope * logit + intercept`` (T,)."""
        return replace(self, slope=self.slope * slope, intercept=self.intercept * slope + intercept)


Member = LinearScore | RidgeScore | MlpScore | NeighbourScore
_MEMBERS: dict[str, type[Member]] = {
    c.kind: c for c in (LinearScore, RidgeScore, MlpScore, NeighbourScore)
}


@dataclass(frozen=True, slots=True)
class SuccessEstimator:
    """P(success) (n, T): the sigmoid of the sum of the members' logits.

    Calibration, and the share that each member has in a mean, are folded into the members.
    """

    members: tuple[Member, ...]

    @property
    def linear(self) -> tuple[Linear, ...]:
        """(weight, bias) of each member's linear predictor."""
        return tuple(member.linear for member in self.members)

    def from_eta(self, etas: Sequence[FloatArray], similarity: Float32Array) -> FloatArray:
        """Calibrated P(success) (n, T) from each member's linear predictor and similarities."""
        score = self.members[0].from_eta(etas[0], similarity)
        for member, eta in zip(self.members[1:], etas[1:], strict=True):
            score = score + member.from_eta(eta, similarity)
        return sigmoid(score)

    def predict(self, x: FloatArray, similarity: Float32Array) -> FloatArray:
        """Calibrated P(success), shape (n, T), from inputs (n, D) and similarities (n, m)."""
        return self.from_eta([linear_predictor(x, linear) for linear in self.linear], similarity)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for member in self.members:
            arrays.update(member.to_arrays(f"success.{member.kind}"))
        return arrays

    @classmethod
    def from_arrays(
        cls,
        kinds: list[str],
        arrays: Mapping[str, npt.NDArray[Any]],
        sizes: Mapping[str, int],
    ) -> SuccessEstimator:
        """From the artifact; ``kinds`` are the members' kinds in order, ``sizes`` D, T and m."""
        unknown = [kind for kind in kinds if kind not in _MEMBERS]
        if unknown or not kinds or len(set(kinds)) < len(kinds):
            raise ArtifactError(
                f"expected different estimators among {sorted(_MEMBERS)}, got {kinds}: "
                "the artifact needs a newer cps-router."
            )
        return cls(
            tuple(_MEMBERS[kind].from_arrays(f"success.{kind}", arrays, sizes) for kind in kinds)
        )
