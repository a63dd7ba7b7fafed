"""What the fitting queries cover of scripts and words: the limits of ``router.coverage``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from router.coverage import WORD_PLACES, Coverage, script_shares, word_places
from router.stored_query import Query
from training.limits import upper_limit
from training.split import text_hash

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# A word of fewer queries leaves no trace in the artifact.
MIN_QUERIES = 2
# A query may hold so many times the share of a script that training had, and this much more: a few
# letters of another one are names and formulas in a text that can be read otherwise.
SCRIPT_FACTOR = 2.0
SCRIPT_MARGIN = 0.05
# What a query lacks of the cosine similarity 1 counts as so much rarity, a natural logarithm. At 0,
# held-out training queries of three real sets exceed their limit more often, and more foreign text
# passes where training's own vocabulary is large; at 2, more of it passes where training had five
# other languages, and where queries are few.
SIMILARITY_WEIGHT = 1.0


def coverage_of(
    queries: Sequence[Query],
    fold: IntArray,
    share_outside: float,
    similarity: npt.NDArray[np.floating[Any]] | None = None,
    min_words: int = 1,
) -> Coverage:
    """Limits that about ``share_outside`` of queries like these (n) exceed, for each reading.

    Words of each fold (n,) are looked up among those of the other folds, as words of new queries
    will be; copies of a text are expected in one fold. ``similarity`` (n,) is how near each query
    comes to the references of the other folds; without it the words alone count.
    Queries of fewer than ``min_words`` words are not judged by them.
    """
    places = [word_places(query) for query in queries]
    folds, index = np.unique(fold, return_inverse=True)
    counts = np.zeros((len(folds), WORD_PLACES))
    n_in_fold = np.zeros(len(folds), np.int64)
    # Each text counts once: copies would make a word of one text a word of many.
    first_of = {text_hash(query): at for at, query in reversed(list(enumerate(queries)))}
    for first in first_of.values():
        counts[index[first], list(set(places[first]))] += 1.0
        n_in_fold[index[first]] += 1
    total, n = counts.sum(axis=0), int(n_in_fold.sum())
    mean_rarity = np.zeros(len(queries))
    for i in range(len(folds)):
        others = _rarity(total - counts[i], n - int(n_in_fold[i]))
        for row in np.flatnonzero(index == i):
            if places[row]:
                mean_rarity[row] = others[places[row]].mean(dtype=np.float64)
    weight = 0.0 if similarity is None else SIMILARITY_WEIGHT
    strangeness = mean_rarity
    if similarity is not None:
        # A query without words has nothing strange in them.
        strangeness = np.where(mean_rarity > 0, mean_rarity + weight * (1.0 - similarity), 0.0)
    shares = np.array([script_shares(query) for query in queries])
    return Coverage(
        _rarity(total, n),
        upper_limit(strangeness, share_outside),
        SCRIPT_FACTOR * np.array([_limit(share, share_outside) for share in shares.T])
        + SCRIPT_MARGIN,
        similarity_weight=weight,
        min_words=float(min_words),
    )


def _rarity(with_place: FloatArray, n: int) -> Float32Array:
    counted = np.where(with_place >= MIN_QUERIES, with_place, 0.0)
    rarity: Float32Array = (1.0 + np.log((1.0 + n) / (1.0 + counted))).astype(np.float32)
    return rarity


def _limit(values: FloatArray, share_outside: float) -> float:
    """The least of the values that at most the share ``share_outside`` of them exceed."""
    return float(np.quantile(values, 1.0 - share_outside, method="higher"))
