"""Baselines beside single tiers and their mixes, as action distributions: (n, T), rows sum to 1.

``n`` requests, ``T`` tiers; ``success`` (0..1) and ``cost_usd`` are (n, T) with every entry known.
All but the oracle could be served; the oracle knows the outcomes and shows what is left to gain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from router.keyword import KeywordRouter
from router.stored_query import Query

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def one_hot(tier: IntArray, n_tiers: int) -> FloatArray:
    """The distribution of a policy that never flips a coin; ``tier`` is (n,).

    >>> one_hot(np.array([1, 0]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    dist = np.zeros((len(tier), n_tiers))
    dist[np.arange(len(tier)), tier] = 1.0
    return dist


def keyword(queries: Sequence[Query], names: Sequence[str], router: KeywordRouter) -> FloatArray:
    """The keyword heuristic; ``names`` are the tiers in the order of the columns.

    >>> names = ["frontier", "mid", "nano"]
    >>> keyword(["Translate: hola"], names, KeywordRouter()).tolist()
    [[0.0, 0.0, 1.0]]
    """
    index = {name: i for i, name in enumerate(names)}
    tier = np.fromiter((index[router.tier_of(q)] for q in queries), np.intp, len(queries))
    return one_hot(tier, len(names))


def oracle(success: FloatArray, cost_usd: FloatArray) -> FloatArray:
    """In hindsight the cheapest tier that succeeds; where none does, the cheapest tier.

    Of fractional successes the greatest counts as succeeding. No policy has more success.

    >>> success, cost = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 9.0]] * 3)
    >>> oracle(success, cost).argmax(axis=1).tolist()
    [0, 1, 0]
    """
    succeeds = success == success.max(axis=1, keepdims=True)
    tier: IntArray = np.where(succeeds, cost_usd, np.inf).argmin(axis=1)
    return one_hot(tier, success.shape[1])
