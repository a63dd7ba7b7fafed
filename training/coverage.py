"""What the fitting queries cover of scripts and words: the limits of ``router.coverage``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from router.coverage import ALWAYS_STRANGE, Coverage, pieces, script_shares, word_place

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Places that words are hashed to; with fewer, those of a large vocabulary fill them all.
N_PLACES = 32_768
# A word of fewer queries leaves no trace in the artifact.
MIN_QUERIES = 2
# A query may hold so many times the share of a script that training had, and this much more: a few
# letters of another one are names and formulas in a text that can be read otherwise.
SCRIPT_FACTOR = 2.0
SCRIPT_MARGIN = 0.05
# Rare words count where a query is less similar to the references than all but this share of the
# training queries. Of 1.0, .5, .25, .10 and .05 the one with which held-out training queries of
# three real sets came nearest to the share that is meant to be outside.
STRANGE_SHARE = 0.10


def coverage_of(
    queries: Sequence[str],
    fold: IntArray,
    share_outside: float,
    similarity: npt.NDArray[np.floating[Any]] | None = None,
) -> Coverage:
    """Limits that about ``share_outside`` of queries like these (n) exceed, for each reading.

    Words of each fold (n,) are looked up among those of the other folds, as words of new queries
    will be; copies of a text are expected in one fold. ``similarity`` (n,) is how near each query
    comes to the references of the other folds; without it rare words always count.
    """
    places = [_places(query) for query in queries]
    folds, index = np.unique(fold, return_inverse=True)
    counts = np.zeros((len(folds), N_PLACES))
    n_in_fold = np.zeros(len(folds), np.int64)
    # Each text counts once: copies would make a word of one text a word of many.
    for first in {query: at for at, query in reversed(list(enumerate(queries)))}.values():
        counts[index[first], list(set(places[first]))] += 1.0
        n_in_fold[index[first]] += 1
    total, n = counts.sum(axis=0), int(n_in_fold.sum())
    mean_rarity = np.zeros(len(queries))
    for i in range(len(folds)):
        others = _rarity(total - counts[i], n - int(n_in_fold[i]))
        for row in np.flatnonzero(index == i):
            if places[row]:
                mean_rarity[row] = others[places[row]].mean(dtype=np.float64)
    shares = np.array([script_shares(query) for query in queries])
    return Coverage(
        _rarity(total, n),
        _limit(mean_rarity, share_outside),
        SCRIPT_FACTOR * np.array([_limit(share, share_outside) for share in shares.T])
        + SCRIPT_MARGIN,
        ALWAYS_STRANGE if similarity is None else float(np.quantile(similarity, STRANGE_SHARE)),
    )


def _places(query: str) -> list[int]:
    return [
        place
        for place in (word_place(piece, N_PLACES) for piece in pieces(query))
        if place is not None
    ]


def _rarity(with_place: FloatArray, n: int) -> Float32Array:
    counted = np.where(with_place >= MIN_QUERIES, with_place, 0.0)
    rarity: Float32Array = (1.0 + np.log((1.0 + n) / (1.0 + counted))).astype(np.float32)
    return rarity


def _limit(values: FloatArray, share_outside: float) -> float:
    """The least of the values that at most the share ``share_outside`` of them exceed."""
    return float(np.quantile(values, 1.0 - share_outside, method="higher"))
