"""Is a query written in what training saw? Told by its scripts and by how rare its words are.

Similarity to the references does not tell: the token table reads words of any language piece by
piece, and what it makes of them lies among the vectors of other queries. Two cheap readings stand
beside it, each with a limit that only a stated share of the fitting rows exceeds:

* the share of the characters that are letters of a script, for each of ``SCRIPTS`` but Latin;
* the mean rarity of the words in Latin letters: in a language that training had not, nearly every
  word is one that it had not. What a query lacks in similarity is added to it, since rare words say
  more in a query that is unlike training in other ways too.

Training and serving share this one class.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import gt
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import ArtifactError, InputError
from router.query_features import NON_LATIN
from router.stored_query import FLOAT64, UINT16, Query, StoredQuery, numbers
from router.text import clip

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Scripts with the upper bytes of their characters in UTF-16; a byte shared by two is one of both.
_UPPER_BYTES: Mapping[str, Sequence[int]] = {
    "greek": (0x03, 0x1F),
    "cyrillic": (0x04,),
    "armenian, hebrew": (0x05,),
    "arabic": (0x06, 0x07, 0x08, 0xFC, 0xFD, 0xFE),
    "indic": range(0x09, 0x0E),
    "thai, lao": (0x0E,),
    "kana": (0x30,),
    "han": (*range(0x34, 0xA0), 0xF9, 0xFA),
    "hangul": (0x11, *range(0xAC, 0xD8)),
}
SCRIPTS = (*_UPPER_BYTES, "other")
_SCRIPT_OF_BYTE = bytes(
    next((i for i, held in enumerate(_UPPER_BYTES.values()) if byte in held), len(_UPPER_BYTES))
    for byte in range(256)
)

_find_letters = re.compile(f"{NON_LATIN.pattern}+").findall
_SCRIPT_INDICES = range(len(SCRIPTS))

# Places that words are hashed to, in stored queries and in what is trained now. With fewer, those
# of a large vocabulary fill them all.
WORD_PLACES = 32_768
# Most places that words may be hashed to.
_MAX_PLACES = 2**20
# Of each piece between spaces the first run of two Latin letters or more is its word.
_LATIN_WORD = re.compile("[a-zß-öø-ɏḀ-ỿ]{2,}")
# Remembered pieces, about 5 MB at most.
_MAX_WORDS = 32_768
_MAX_WORD_CHARACTERS = 32
_NO_WORD = 0.0
# No cosine similarity reaches it.
ALWAYS_STRANGE = 2.0


def script_shares(text: Query) -> list[float]:
    """Share of each of SCRIPTS (S) in the characters of a text that are read; 0..1.

    >>> shares = script_shares("2π = τ")
    >>> SCRIPTS[shares.index(max(shares))], round(max(shares), 2)
    ('greek', 0.33)
    """
    if isinstance(text, StoredQuery):
        shares: list[float] = numbers(text.scripts, FLOAT64).tolist()
        return shares
    text = clip(text)
    letters = "" if text.isascii() else "".join(_find_letters(text))
    if not letters:
        return [0.0] * len(SCRIPTS)
    count = letters.encode("utf-16-le", "surrogatepass")[1::2].translate(_SCRIPT_OF_BYTE).count
    n_read = len(text)
    # Beyond the basic plane a character is two units, and still one.
    return [min(count(script) / n_read, 1.0) for script in _SCRIPT_INDICES]


def word_place(piece: str, n_places: int) -> int | None:
    """Place 0..n_places-1 of the word in a lower-case piece between spaces; None without one.

    >>> word_place("(france?)", 64) == word_place("france", 64), word_place("x2", 64)
    (True, None)
    """
    found = _LATIN_WORD.search(piece)
    return None if found is None else zlib.crc32(found[0].encode()) % n_places


def pieces(text: str) -> list[str]:
    """The lower-case pieces between spaces of the part of a text that is read."""
    return clip(text).lower().split()


def word_places(text: Query) -> list[int]:
    """The places 0..WORD_PLACES-1 of a text's words; ascending if it is stored, else in order."""
    if isinstance(text, StoredQuery):
        stored: list[int] = numbers(text.words, UINT16).tolist()
        return stored
    places = (word_place(piece, WORD_PLACES) for piece in pieces(text))
    return [place for place in places if place is not None]


class _Rarities(dict[str, float]):
    """Rarity by piece, found when first asked for; holds a bounded number of them."""

    def __init__(self, rarity: Float32Array) -> None:
        super().__init__()
        self._rarity = rarity

    def __missing__(self, piece: str) -> float:
        place = word_place(piece, len(self._rarity))
        value = _NO_WORD if place is None else float(self._rarity[place])
        if len(piece) <= _MAX_WORD_CHARACTERS:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[piece] = value
        return value


@dataclass(frozen=True, slots=True)
class Coverage:
    """What training had of scripts and words, and the most that a query may differ from it.

    Words are hashed to P places, so that they stay out of the artifact. ``rarity`` (P,) is, above
    0, that of the words at each place: 1 + log((1 + n) / (1 + n with such a word)) over n fitting
    queries. ``max_rarity`` bounds their mean plus ``similarity_weight`` times what the query's
    cosine similarity to its nearest reference lacks of 1, in queries of ``min_words`` or more.
    ``max_script_share`` (S,) holds shares 0..1. Older artifacts have no such weight; there rare
    words say nothing of a query whose similarity reaches ``familiar_similarity``. Safe to share
    between threads.
    """

    rarity: Float32Array
    max_rarity: float
    max_script_share: FloatArray
    familiar_similarity: float = ALWAYS_STRANGE
    similarity_weight: float = 0.0
    min_words: float = 1.0
    _rarity_of: Callable[[str], float] = field(init=False, repr=False, compare=False)
    _most: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_most", self.max_script_share.tolist())
        object.__setattr__(self, "_rarity_of", _Rarities(self.rarity).__getitem__)

    def mean_rarity(self, text: Query) -> float:
        """Mean rarity of a text's words in Latin letters; 0 where it has none."""
        total, n_words = self._total_rarity(text)
        return total / n_words if n_words else 0.0

    def _total_rarity(self, text: Query) -> tuple[float, int]:
        """Total rarity of a text's words in Latin letters, and how many they are.

        Single precision adds up exactly here, in whatever order.
        """
        if isinstance(text, StoredQuery):
            return self._stored_rarity(text)
        found = list(map(self._rarity_of, pieces(text)))
        return sum(found), len(found) - found.count(_NO_WORD)

    def _stored_rarity(self, query: StoredQuery) -> tuple[float, int]:
        n_places = len(self.rarity)
        if WORD_PLACES % n_places:
            raise InputError(
                f"expected queries with their text, since this artifact hashes words to {n_places} "
                "places, got queries that are stored without it: train it again."
            )
        found = self.rarity[numbers(query.words, UINT16) % n_places]
        return float(found.sum(dtype=np.float64)), int(np.count_nonzero(found != _NO_WORD))

    def excludes(self, text: Query, similarity: float = -1.0) -> bool:
        """Whether a text is written in what training had not.

        ``similarity`` is that to its nearest reference.
        """
        if similarity < self.familiar_similarity:
            total, n_words = self._total_rarity(text)
            lack = self.similarity_weight * (1.0 - similarity)
            if n_words >= max(self.min_words, 1) and total / n_words + lack > self.max_rarity:
                return True
        return not text.isascii() and any(map(gt, script_shares(text), self._most))

    def excludes_many(self, texts: Iterable[Query], similarity: Iterable[float]) -> BoolArray:
        """The same of many texts, (n,)."""
        return np.array(list(map(self.excludes, texts, similarity)), np.bool_)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name for the artifact."""
        return {
            "coverage.rarity": self.rarity,
            "coverage.max_rarity": np.array(self.max_rarity),
            "coverage.max_script_share": self.max_script_share,
            "coverage.familiar_similarity": np.array(self.familiar_similarity),
            "coverage.similarity_weight": np.array(self.similarity_weight),
            "coverage.min_words": np.array(self.min_words),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Coverage | None:
        """From the artifact's arrays; None for one that was made without."""
        if not any(name.startswith("coverage.") for name in arrays):
            return None
        rarity = _checked(arrays, "rarity", None)
        most_rare = _checked(arrays, "max_rarity", ())
        share = _checked(arrays, "max_script_share", (len(SCRIPTS),))
        # Made before these were.
        later = {
            "familiar_similarity": ALWAYS_STRANGE,
            "similarity_weight": 0.0,
            "min_words": 1.0,
        }
        for name in later:
            if f"coverage.{name}" in arrays:
                later[name] = float(_checked(arrays, name, ()))
        return cls(
            rarity.astype(np.float32),
            float(most_rare),
            share.astype(np.float64, copy=False),
            **later,
        )


def _checked(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...] | None
) -> npt.NDArray[Any]:
    """An array of amounts of that shape, by default of any number of places."""
    array = arrays.get(f"coverage.{name}")
    if (
        array is None
        or array.dtype.kind != "f"
        or (
            array.ndim != 1 or not 0 < array.size <= _MAX_PLACES
            if shape is None
            else array.shape != shape
        )
        # NaN is none of it.
        or not ((array >= 0) & (array < 1e6)).all()
    ):
        raise ArtifactError(
            f"expected the array coverage.{name} in the artifact, got none that fits: "
            "train it again."
        )
    return array
