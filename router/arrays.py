"""What compiled estimators have in common: arrays, a linear predictor, the way to disk and back.

``router.estimators`` (P(success)) and ``router.costs`` (E[tokens], E[cost]) are made of these.
Shapes: ``n`` requests, ``T`` tiers, ``D`` inputs in the order of ``router.inputs``, ``d`` embedding
dimensions, ``k`` query features, ``m`` references (training queries, or centroids of them). An
estimator with fewer weights than inputs reads the first of them.

All but the nearest neighbours read their inputs through a linear predictor eta = x @ weight + bias
alone, and say with ``from_eta`` what they make of it; serving works out the linear predictors of
all estimators at once (``router.linear_map``). For one request, ``from_eta`` takes and gives arrays
without the first dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from router.errors import ArtifactError

FloatArray = npt.NDArray[np.float64]

# Weight (inputs, K) and bias (K,) of a linear predictor.
Linear = tuple[FloatArray, FloatArray]

# Far beyond anything fitted, and far from overflow when multiplied with inputs.
_BOUND = 1e100


def bounded(*arrays: npt.NDArray[Any]) -> bool:
    """Whether all numbers can be multiplied with inputs; NaN cannot."""
    return all(bool((np.abs(array) < _BOUND).all()) for array in arrays)


def linear_predictor(x: FloatArray, linear: Linear) -> FloatArray:
    """The linear predictor (n, K) of inputs (n, D), of which it may read the first only."""
    weight, bias = linear
    return x[:, : len(weight)] @ weight + bias


class Arrays:
    """Round trip of a dataclass of arrays through a flat mapping with a prefix.

    ``shapes`` names the dimensions of each array: those of this module's docstring, "h" hidden
    units, "2T+1"; none for a single number.
    """

    kind: ClassVar[str]
    shapes: ClassVar[Mapping[str, tuple[str, ...]]]

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
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
        return bounded(*(getattr(self, name) for name in self.shapes))
