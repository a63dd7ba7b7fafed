"""StoredQuery: what training and evaluation read of a query, kept in place of its text.

Wherever many queries are read, a ``Query`` is either a text or one of these: each function that
measures a text hands out what was measured when the query was stored. ``router.query_record`` is
its form in a file, ``training.store`` makes it. Routing takes texts only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FLOAT32, FLOAT64, UINT16 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<u2")


class MadeBy(NamedTuple):
    """Which embedder made a vector."""

    id: str
    digest: str


@dataclass(frozen=True, slots=True, repr=False)
class StoredQuery:
    """A query without its text; numbers as little-endian bytes, so that millions fit in memory.

    ``vector`` is float32 (d,), of ``embedder``; ``features`` float32, as ``router.query_features``
    gives them; ``scripts`` float64, the shares of ``router.coverage.SCRIPTS``; ``grams`` uint16,
    ascending by place, one per place, as ``WordGrams.find_many`` gives them; ``words`` uint16,
    the places of its words of ``router.coverage``, ascending, so that their order is lost.
    ``query_hash`` is of the normalised text, ``text_hash`` of the text as it stands;
    ``keyword_place`` is what the keyword heuristic says: 0 easy, 1 ordinary, 2 hard.
    """

    embedder: MadeBy
    query_hash: int
    text_hash: int
    n_characters: int
    keyword_place: int
    vector: bytes
    features: bytes
    scripts: bytes
    grams: bytes
    words: bytes

    def __len__(self) -> int:
        """How many characters the text has."""
        return self.n_characters

    def isascii(self) -> bool:
        """Whether its scripts may be passed over, as those of an ASCII text: all shares are 0."""
        return not any(self.scripts)

    def __repr__(self) -> str:
        return f"StoredQuery({self.n_characters} characters, {len(self.vector) // 4} dimensions)"


Query = str | StoredQuery


def any_stored(queries: Iterable[Query]) -> bool:
    """Whether any of them is stored without its text."""
    return StoredQuery in map(type, queries)


def numbers(content: bytes, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Its numbers (n,), in the byte order of this machine."""
    return np.frombuffer(content, kind).astype(kind.newbyteorder("="), copy=False)
