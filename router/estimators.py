"""Estimators compiled to plain arrays: P(success), E[tokens], E[cost]. No scikit-learn here.

``training/fit.py`` fits with scikit-learn and compiles to these; a test holds both to the same
predictions. Shapes: ``n`` requests, ``T`` tiers, ``D`` inputs in the order of
``router.inputs``, ``d`` embedding dimensions, ``m`` references (training queries, or centroids of
them). An estimator with fewer weights than inputs reads the first of them.

All but the nearest neighbours read their inputs through a linear predictor eta = x @ weight + bias
alone, and say with ``from_eta`` what they make of it; serving works out the linear predictors of
all estimators at once (``router.linear_map``). For one request, ``from_eta`` takes and gives arrays
without the first dimension.

Prices are not in here: heads predict tokens, and the price book turns them into dollars when a
decision is made. A tier whose log has only dollars, or whose price nobody knows, has a dollar head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

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
# Far beyond anything fitted, and far from overflow when multiplied with inputs.
_BOUND = 1e100
_MAX_LOG = 100.0


def _bounded(*arrays: npt.NDArray[Any]) -> bool:
    return all(bool((np.abs(array) < _BOUND).all()) for array in arrays)  # False for NaN


# Weight (inputs, K) and bias (K,) of a linear predictor.
Linear = tuple[FloatArray, FloatArray]


def _eta(x: FloatArray, linear: Linear) -> FloatArray:
    """The linear predictor (n, K) of inputs (n, D), of which it may read the first only."""
    weight, bias = linear
    return x[:, : len(weight)] @ weight + bias


class _Arrays:
    """Round trip of a dataclass of arrays through a flat mapping with a prefix.

    ``shapes`` names the dimensions of each array: those of the module's docstring, "h" hidden
    units, "2T+1"; none for a single number.
    """

    kind: ClassVar[str]
    shapes: ClassVar[Mapping[str, tuple[str, ...]]]

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        return {f"{prefix}.{f.name}": np.asarray(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_arrays(
        cls, prefix: str, arrays: Mapping[str, npt.NDArray[Any]], sizes: Mapping[str, int]
    ) -> Self:
        """From the artifact's arrays; refuses what would fail, or mislead, when routing."""
        known = dict(sizes)
        for name, dimensions in cls.shapes.items():
            array = arrays.get(f"{prefix}.{name}")
            number = np.int64 if name == "n_neighbours" else np.float64
            if (
                array is None
                or array.dtype != number
                or array.ndim != len(dimensions)
                or any(
                    known.setdefault(d, n) != n
                    for d, n in zip(dimensions, array.shape, strict=True)
                )
            ):
                got = "none" if array is None else f"{array.dtype} of shape {array.shape}"
                raise ArtifactError(
                    f"expected the array {prefix}.{name} in the artifact as {number.__name__} of "
                    f"shape ({', '.join(dimensions)}), got {got}: train it again."
                )
        made = cls(**{name: arrays[f"{prefix}.{name}"] for name in cls.shapes})
        if not made.sound():
            raise ArtifactError(
                f"expected usable numbers in the arrays {prefix}.* of the artifact, got others: "
                "train it again."
            )
        return made

    def sound(self) -> bool:
        """Whether the numbers can be calculated with."""
        return _bounded(*(getattr(self, name) for name in self.shapes))


class _Member(_Arrays):
    """A part of the success estimator: logits from a linear predictor and from similarities."""

    @property
    def linear(self) -> Linear:
        """(weight, bias) of the linear predictor; of no columns where there is none."""
        raise NotImplementedError

    def from_eta(self, eta: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T) from the linear predictor and similarities (n, m)."""
        raise NotImplementedError

    def score(self, x: FloatArray, similarity: Float32Array) -> FloatArray:
        """Logits (n, T) from inputs (n, D) and similarities (n, m)."""
        return self.from_eta(_eta(x, self.linear), similarity)


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
            _bounded(self.counts, self.slope, self.intercept, self.shrinkage)
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
        return self.from_eta([_eta(x, linear) for linear in self.linear], similarity)

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


@dataclass(frozen=True, slots=True)
class LogLinearHead(_Arrays):
    """E[y] for positive y: ``smear * exp(clip(x @ weight + bias))``; NaN where unfitted.

    weight (D, T), the rest (T,). ``smear`` corrects the bias of exp(E[log y]) (N. Duan, Smearing
    estimate, JASA 78, 1983, as a ratio so that predicted and logged sums agree); the logarithm is
    clipped to the range seen in training, so that a strange query cannot cost a fortune on paper.
    """

    kind: ClassVar[str] = "log-linear"
    shapes: ClassVar = {
        "weight": ("D", "T"),
        "bias": ("T",),
        "log_low": ("T",),
        "log_high": ("T",),
        "smear": ("T",),
    }
    weight: FloatArray
    bias: FloatArray
    log_low: FloatArray
    log_high: FloatArray
    smear: FloatArray

    @property
    def linear(self) -> Linear:
        """Weight and bias."""
        return self.weight, self.bias

    def from_eta(self, eta: FloatArray) -> FloatArray:
        """Expected value (n, T) from its unclipped logarithm."""
        log_y = np.minimum(np.maximum(eta, self.log_low), self.log_high)
        out: FloatArray = self.smear * np.exp(log_y)
        return out

    def predict(self, x: FloatArray) -> FloatArray:
        """Expected value (n, T) from inputs (n, D)."""
        return self.from_eta(_eta(x, self.linear))

    def split(self, n_parts: int) -> list[Self]:
        """Heads of equally many columns each."""
        columns = [np.split(getattr(self, f.name), n_parts, axis=-1) for f in fields(self)]
        return [type(self)(*part) for part in zip(*columns, strict=True)]

    def sound(self) -> bool:
        """Whether fitted tiers get a finite value."""
        fit = self.fitted
        weight, bias, smear = self.weight[:, fit], self.bias[fit], self.smear[fit]
        low, high = self.log_low[fit], self.log_high[fit]
        return (
            _bounded(weight, bias, smear)
            and bool((smear >= 0).all())
            and bool(((low >= -_MAX_LOG) & (low <= high) & (high <= _MAX_LOG)).all())
        )

    @property
    def fitted(self) -> npt.NDArray[np.bool_]:
        """Which tiers (T,) this head can predict."""
        return np.isfinite(self.bias)


@dataclass(frozen=True, slots=True)
class CostEstimator:
    """E[cost in USD] (n, T) from token heads and prices, or from a dollar head.

    input_usd_per_mtok and output_usd_per_mtok (T,) are NaN for tiers that use the dollar head.
    ``by_tokens`` (T,) are the tiers whose cost is tokens times price.
    """

    input_tokens: LogLinearHead
    output_tokens: LogLinearHead
    usd: LogLinearHead
    input_usd_per_mtok: FloatArray
    output_usd_per_mtok: FloatArray
    by_tokens: npt.NDArray[np.bool_] = field(init=False)
    # Those that some tier's cost needs: the token heads, the dollar head or all three.
    _heads: tuple[LogLinearHead, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        priced = np.isfinite(self.input_usd_per_mtok) & np.isfinite(self.output_usd_per_mtok)
        by_tokens = priced & self.input_tokens.fitted & self.output_tokens.fitted
        heads = (self.input_tokens, self.output_tokens) if by_tokens.any() else ()
        object.__setattr__(self, "by_tokens", by_tokens)
        object.__setattr__(self, "_heads", heads if by_tokens.all() else (*heads, self.usd))

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Tiers (T,) whose cost can be predicted at all."""
        return self.by_tokens | self.usd.fitted

    def predict(self, x: FloatArray) -> FloatArray:
        """Expected dollars (n, T) from inputs (n, D)."""
        return self.from_eta([_eta(x, linear) for linear in self.linear])

    @property
    def linear(self) -> tuple[Linear, ...]:
        """(weight, bias) of the linear predictor of each head that some tier's cost needs."""
        return tuple(head.linear for head in self._heads)

    def from_eta(self, etas: Sequence[FloatArray]) -> FloatArray:
        """Expected dollars (n, T) from the linear predictors of those heads."""
        values = [head.from_eta(eta) for head, eta in zip(self._heads, etas, strict=True)]
        if len(values) == 1:
            return values[0]
        tokens = self.dollars(values[0], values[1])
        return tokens if len(values) == 2 else np.where(self.by_tokens, tokens, values[2])

    def dollars(self, input_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
        """Tokens (n, T) times price; NaN for tiers that do not go by tokens."""
        return (
            input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok
        ) * 1e-6

    def priced(self, input_usd_per_mtok: FloatArray, output_usd_per_mtok: FloatArray) -> Self:
        """The same heads at other prices."""
        return type(self)(
            self.input_tokens, self.output_tokens, self.usd, input_usd_per_mtok, output_usd_per_mtok
        )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact (prices live in the manifest)."""
        return {
            **self.input_tokens.to_arrays("input_tokens"),
            **self.output_tokens.to_arrays("output_tokens"),
            **self.usd.to_arrays("usd"),
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        sizes: Mapping[str, int],
        input_usd_per_mtok: FloatArray,
        output_usd_per_mtok: FloatArray,
    ) -> CostEstimator:
        """From the artifact; ``sizes`` are D, T and m."""
        made = cls(
            LogLinearHead.from_arrays("input_tokens", arrays, sizes),
            LogLinearHead.from_arrays("output_tokens", arrays, sizes),
            LogLinearHead.from_arrays("usd", arrays, sizes),
            input_usd_per_mtok,
            output_usd_per_mtok,
        )
        if not made.known.all():
            raise ArtifactError(
                "expected a cost of every tier in the artifact, got none for some: train it again."
            )
        return made


@dataclass(frozen=True, slots=True)
class TierMeans:
    """Mean expected tokens and dollars of every tier (T,) on the fitting rows, NaN where unknown.

    Prices being linear, they give the tiers' mean cost at any price.
    """

    input_tokens: FloatArray
    output_tokens: FloatArray
    usd: FloatArray

    def dollars(self, cost: CostEstimator) -> FloatArray:
        """Mean expected dollars (T,) at the prices of ``cost``."""
        by_tokens = cost.dollars(self.input_tokens, self.output_tokens)
        out: FloatArray = np.where(cost.by_tokens, by_tokens, self.usd)
        return out

    def to_dict(self) -> dict[str, list[float]]:
        """JSON form, with NaN still in it."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, list[float | None]]) -> TierMeans:
        """Back from the manifest, where NaN is null."""
        return cls(**{f.name: np.array(data[f.name], dtype=float) for f in fields(cls)})
