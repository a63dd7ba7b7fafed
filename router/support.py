"""Which tiers a log has tried on queries like this one: elsewhere nothing is known of them.

An artifact that was trained on logged feedback carries this where the logging policy did not try
every tier everywhere. A query's candidates are then the tiers that the policy chose on queries like
it with a propensity of at least ``MIN_PROPENSITY``; the likeliest one always is. Two kinds:

* linear: the tempered softmax of a linear predictor of embedding and query features (d+k);
* keyword: shares by what the keyword heuristic says, for a log that was made by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import ArtifactError
from router.keyword import KeywordRouter
from router.stored_query import Query

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]

# A tier that a query like it gets less often was not tried there: it takes more than a hundred
# such queries to see it once, and a weight above a hundred to speak for it.
MIN_PROPENSITY = 0.01

_PREFIX = "support."
# Far below what is fitted, and far from overflow when divided by.
_LEAST_TEMPERATURE = 1e-6


def tried(propensities: FloatArray) -> BoolArray:
    """Which tiers (n, T) have been tried where, from the propensities of all; one at least.

    >>> tried(np.array([[0.995, 0.005], [0.5, 0.5]])).tolist()
    [[True, False], [True, True]]
    """
    found: BoolArray = propensities >= MIN_PROPENSITY
    found[np.arange(len(found)), propensities.argmax(axis=1)] = True
    return found


@dataclass(frozen=True, slots=True)
class LinearSupport:
    """Logits (x @ weight + bias) / temperature of the tiers in use, (T,); else -inf.

    ``weight`` (d+k, T) and ``bias`` (T,); a share ``epsilon`` is spread evenly over the tiers that
    are ``used`` (T,).
    """

    weight: FloatArray
    bias: FloatArray
    temperature: float
    epsilon: float
    used: BoolArray

    def propensities(self, queries: Sequence[Query], dense: FloatArray) -> FloatArray:
        """Of every tier, (n, T), from embeddings and query features (n, d+k)."""
        eta = (dense @ self.weight + self.bias) / self.temperature
        eta = np.where(self.used, eta, -np.inf)
        chance = np.exp(eta - eta.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        result: FloatArray = (1.0 - self.epsilon) * chance + self.epsilon * self.used / max(
            int(self.used.sum()), 1
        )
        return result

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
        return {
            f"{_PREFIX}weight": self.weight,
            f"{_PREFIX}bias": self.bias,
            f"{_PREFIX}temperature": np.array(self.temperature),
            f"{_PREFIX}epsilon": np.array(self.epsilon),
            f"{_PREFIX}used": self.used.astype(np.uint8),
        }


@dataclass(frozen=True, slots=True)
class KeywordSupport:
    """Shares (T, T) of the tiers by what the keyword heuristic says: ``keyword_places``."""

    share: FloatArray

    def propensities(self, queries: Sequence[Query], dense: FloatArray) -> FloatArray:
        """Of every tier, (n, T)."""
        result: FloatArray = self.share[keyword_places(queries, len(self.share))]
        return result

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
        return {f"{_PREFIX}share": self.share}


Support = LinearSupport | KeywordSupport


def keyword_places(queries: Sequence[Query], n_tiers: int) -> IntArray:
    """What the keyword heuristic chooses among ``n_tiers`` tiers, 0 the cheapest, (n,)."""
    heuristic = KeywordRouter.for_tiers([str(place) for place in range(n_tiers)])
    return np.array([int(heuristic.tier_of(query)) for query in queries], np.intp)


def support_from_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], n_dense: int, n_tiers: int
) -> Support | None:
    """From the artifact's arrays; None where every tier was tried everywhere."""
    own = {name[len(_PREFIX) :]: a for name, a in arrays.items() if name.startswith(_PREFIX)}
    if not own:
        return None
    if set(own) == {"share"}:
        share = own["share"]
        if (
            share.dtype == np.float64
            and share.shape == (n_tiers, n_tiers)
            and ((share >= 0) & (share <= 1)).all()
        ):
            return KeywordSupport(share)
    elif set(own) == {"weight", "bias", "temperature", "epsilon", "used"}:
        shapes = {"weight": (n_dense, n_tiers), "bias": (n_tiers,), "temperature": ()}
        if (
            all(own[name].shape == shape for name, shape in {**shapes, "epsilon": ()}.items())
            and all(own[name].dtype == np.float64 for name in (*shapes, "epsilon"))
            and all((np.abs(own[name]) < 1e9).all() for name in (*shapes, "epsilon"))
            and own["temperature"] > _LEAST_TEMPERATURE
            and 0 <= own["epsilon"] <= 1
            and own["used"].dtype == np.uint8
            and own["used"].shape == (n_tiers,)
            and own["used"].any()
        ):
            return LinearSupport(
                own["weight"],
                own["bias"],
                float(own["temperature"]),
                float(own["epsilon"]),
                own["used"].astype(bool),
            )
    raise ArtifactError(
        "expected which tiers the log has tried in the artifact, got arrays that do not fit: "
        "train it again."
    )
