"""Hashed words and word pairs of a query: what a linear estimator reads beside the embedding.

Hashing keeps the words themselves out of the artifact. The hash of each word, and of each pair of
neighbours, names one of ``N_GRAMS`` places and a sign; a place is weighted by how rare it is, and
the whole is brought to unit length (signed feature hashing: Weinberger et al., arXiv 0902.2206).
How often a word occurs does not count. Digits are read as the digit 0, so that "12 apples" and
"57 apples" are alike.

>>> grams = WordGrams(np.ones(N_GRAMS))
>>> a, b = grams.vectors(["12 apples", "57 Apples"])
>>> bool((a == b).all()), round(float(a @ a), 6)
(True, 1.0)
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from router.stored_query import UINT16, Query, StoredQuery, any_stored, numbers
from router.text import clip
from router.word_memory import IntArray, WordMemory, packed, unpacked

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_PLACE_BITS = 11
N_GRAMS = 2**_PLACE_BITS
# The lowest bits of a hash are its place, the next one is its sign; no higher bit is of effect.
# As arrays, with which numpy calculates twice as fast as with numbers.
_PLACE = np.array(N_GRAMS - 1)
_PLACE_AND_SIGN = np.array(2 * N_GRAMS - 1)
# The hash of a pair mixes those of its words by an odd number (Knuth).
_MIX = np.array(0x9E3779B1) & _PLACE_AND_SIGN
# For the grams of all texts together; leaves 2**20 texts in whole numbers of 63 bits.
_ORDER_BITS = 31
# Texts counted at a time.
_CHUNK = 4096
_find_words = re.compile(r"[^\W_]+|[^\w\s]|_").findall
_DIGITS = re.compile(r"\d")


def _hash_words(piece: str) -> bytes:
    """Packed places and signs of the words in a lower-case piece of text."""
    hashes = []
    for word in _find_words(piece):
        shape = word if word.isalpha() else _DIGITS.sub("0", word)
        hashes.append(zlib.crc32(shape.encode("utf-8", "surrogatepass")) % (2 * N_GRAMS))
    return packed(hashes)


def _pairs(words: IntArray) -> IntArray:
    """Places and signs of the pairs of neighbours, one fewer than there are words."""
    left = words[:-1]
    pairs = left ^ words[1:]
    pairs *= _MIX
    pairs += left
    pairs &= _PLACE_AND_SIGN
    return pairs


@dataclass(frozen=True, slots=True)
class WordGrams:
    """Texts -> vectors (``N_GRAMS``,) of unit length (zero for a text without words).

    ``weight`` (``N_GRAMS``,) says how much each place counts: its inverse document frequency.
    Safe to share between threads.
    """

    weight: FloatArray
    # The value at each place with either sign, (2 * N_GRAMS,).
    signed: FloatArray = field(init=False, repr=False, compare=False)
    _memory: WordMemory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signed", np.concatenate((self.weight, -self.weight)))
        object.__setattr__(self, "_memory", WordMemory(_hash_words))

    def find(self, text: str) -> tuple[IntArray, BoolArray]:
        """Indices (g,) into ``signed`` of a text's grams, and which of them (g,) count.

        Of those that meet at a place the last one does, whatever its sign; pairs come after words.
        """
        words = unpacked(self._memory.of(clip(text).lower()))
        found = np.concatenate((words, _pairs(words)))
        place, order = found & _PLACE, np.arange(len(found))
        last = np.empty(N_GRAMS, np.int64)
        last[place] = order
        return found, last[place] == order

    def find_many(self, texts: Sequence[Query]) -> tuple[IntArray, IntArray]:
        """The same of many texts, without a step per text: of what counts row and index (g,).

        Rows are ascending, and places within a row. Stored queries hold just that.
        """
        if any_stored(texts):
            return self._find_stored(texts)
        return self._find_texts(cast(Sequence[str], texts))

    def _find_texts(self, texts: Sequence[str]) -> tuple[IntArray, IntArray]:
        parts = [self._memory.of(clip(text).lower()) for text in texts]
        words = unpacked(b"".join(parts))
        lengths = np.array(list(map(len, parts)), np.int64) // words.itemsize
        row = np.repeat(np.arange(len(parts)), lengths)
        inside = row[1:] == row[:-1]
        found = np.concatenate((words, _pairs(words)[inside]))
        row = np.concatenate((row, row[1:][inside]))
        # Sorted by row, by place and by what came last, all in one number; signs ride along.
        key = (row << _PLACE_BITS | found & _PLACE) << _ORDER_BITS | np.arange(len(found))
        key = key << 1 | found >> _PLACE_BITS
        key.sort()
        taken = key >> _ORDER_BITS + 1
        counts = np.append(taken[1:] != taken[:-1], True)[: len(taken)]
        taken, sign = taken[counts], key[counts] & 1
        return taken >> _PLACE_BITS, taken & _PLACE | sign << _PLACE_BITS

    def _find_stored(self, texts: Sequence[Query]) -> tuple[IntArray, IntArray]:
        index = [
            numbers(text.grams, UINT16).astype(np.int64)
            if isinstance(text, StoredQuery)
            else self._find_texts([text])[1]
            for text in texts
        ]
        row = np.repeat(np.arange(len(texts)), np.array(list(map(len, index)), np.int64))
        return row, np.concatenate(index)

    def vectors(self, texts: Sequence[Query]) -> FloatArray:
        """Vectors (n, ``N_GRAMS``) of many texts."""
        row, index = self.find_many(texts)
        out = np.zeros((len(texts), N_GRAMS))
        out[row, index & _PLACE] = self.signed[index]
        length = np.sqrt(np.einsum("ij,ij->i", out, out))
        out /= np.where(length > 0, length, 1.0)[:, None]
        return out

    @classmethod
    def of(cls, texts: Sequence[Query]) -> WordGrams:
        """Weights from the texts to learn from: 1 + log((1 + n) / (1 + texts with that place))."""
        find_many = cls(np.ones(N_GRAMS)).find_many
        with_place = np.zeros(N_GRAMS)
        for start in range(0, len(texts), _CHUNK):
            _, index = find_many(texts[start : start + _CHUNK])
            with_place += np.bincount(index & _PLACE, minlength=N_GRAMS)
        return cls(1.0 + np.log((1.0 + len(texts)) / (1.0 + with_place)))


class GramProduct:
    """``grams.vectors(texts) @ weight`` for one weight (``N_GRAMS``, K), without the vectors.

    A text takes some forty of the places: their rows of the weight are summed.
    """

    def __init__(self, grams: WordGrams, weight: FloatArray) -> None:
        self._grams = grams
        # Rows as they enter with either sign; the last column adds up to the squared length.
        both = np.hstack((np.vstack((weight, weight)), grams.signed[:, None]))
        self._rows = both * grams.signed[:, None]

    def one(self, text: str) -> FloatArray:
        """The product (K,) of one text."""
        index, counts = self._grams.find(text)
        total = counts.astype(np.float64).dot(self._rows.take(index, 0))
        square = float(total[-1])
        product: FloatArray = total[:-1]
        if square > 0.0:
            product *= 1.0 / math.sqrt(square)
        return product

    def many(self, texts: Sequence[Query]) -> FloatArray:
        """The products (n, K) of many texts."""
        row, index = self._grams.find_many(texts)
        total = np.zeros((len(texts), self._rows.shape[1]))
        counts = np.bincount(row, minlength=len(texts))
        some = counts > 0
        if some.any():
            starts = (np.cumsum(counts) - counts)[some]
            total[some] = np.add.reduceat(self._rows.take(index, 0), starts, axis=0)
        square = total[:, -1:]
        square[square == 0.0] = 1.0
        product: FloatArray = total[:, :-1] / np.sqrt(square)
        return product
