"""What a tier costs on a query, compiled to plain arrays: E[tokens], E[cost]. No scikit-learn here.

``training/costs.py`` fits them. Shapes, and how linear predictors are read, are those of
``router.arrays``.

Prices are not in here: heads predict tokens, and the price book turns them into dollars when a
decision is made. A tier whose log has only dollars, or whose price nobody knows, has a dollar head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from router.arrays import Arrays, Linear, bounded, linear_predictor
from router.errors import ArtifactError

FloatArray = npt.NDArray[np.float64]

# Logarithms of amounts that can be calculated with.
_MAX_LOG = 100.0


@dataclass(frozen=True, slots=True)
class LogLinearHead(Arrays):
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
        return self.from_eta(linear_predictor(x, self.linear))

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
            bounded(weight, bias, smear)
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
        return self.from_eta([linear_predictor(x, linear) for linear in self.linear])

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

    def input_usd_from_eta(self, etas: Sequence[FloatArray]) -> FloatArray:
        """What of ``from_eta`` is for input tokens; 0 for tiers that do not go by tokens."""
        if not self.by_tokens.any():
            return np.zeros(len(self.by_tokens))
        usd = self._heads[0].from_eta(etas[0]) * self.input_usd_per_mtok * 1e-6
        out: FloatArray = np.where(self.by_tokens, usd, 0.0)
        return out

    def output_tokens_from_eta(self, etas: Sequence[FloatArray]) -> FloatArray:
        """Expected output tokens; NaN for tiers that do not go by tokens."""
        if not self.by_tokens.any():
            return np.full(len(self.by_tokens), np.nan)
        out: FloatArray = np.where(self.by_tokens, self._heads[1].from_eta(etas[1]), np.nan)
        return out

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
