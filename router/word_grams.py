"""Hashed words and word pairs of a query: what a linear estimator reads beside the embedding.

Hashing keeps the words themselves out of the artifact. The hash of each word, and of each pair of
neighbours, names one of ``N_GRAMS`` places and a sign; a place is weighted by how rare it is, and
the whole is brought to unit length (signed feature hashing: Weinberger et al., arXiv 0902.2206).
How often a word occurs does not count. Digits are read as the digit 0, so that "12 apples" and
"57 apples" are alike.

>>> grams = WordGrams(np.ones(N_GRAMS))
>>> a, b = grams.vector("12 apples"), grams.vector("57 Apples")
>>> bool((a == b).all()), round(float(a @ a), 6)
(True, 1.0)
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from router.text import clip

FloatArray = npt.NDArray[np.float64]
HashArray = npt.NDArray[np.uint32]

N_GRAMS = 2048
# The hash of a pair mixes those of its words by an odd number (Knuth).
_MIX = np.uint32(0x9E3779B1)
_PLACE = np.uint32(N_GRAMS - 1)
_PLACE_AND_SIGN = np.uint32(2 * N_GRAMS - 1)
_find_words = re.compile(r"[^\W_]+|[^\w\s]|_").findall
_DIGITS = re.compile(r"\d")
# Remembered words, about 5 MB at most.
_MAX_WORDS = 32_768
_MAX_WORD_CHARACTERS = 32


class _WordHashes(dict[str, int]):
    """32-bit hash by word, found when first asked for; holds a bounded number of them."""

    def __missing__(self, word: str) -> int:
        shape = word if word.isalpha() else _DIGITS.sub("0", word)
        value = zlib.crc32(shape.encode("utf-8", "surrogatepass"))
        if len(word) <= _MAX_WORD_CHARACTERS:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = value
        return value


def gram_hashes(text: str, hash_of: Callable[[str], int]) -> HashArray:
    """Hashes of the words and of the pairs; of a long text those of the part that is read."""
    words = np.array(list(map(hash_of, _find_words(clip(text).lower()))), np.uint32)
    return np.concatenate((words, _pairs(words)))


def _pairs(words: HashArray) -> HashArray:
    left, right = words[:-1], words[1:]
    return (left ^ right) * _MIX + left


@dataclass(frozen=True, slots=True)
class WordGrams:
    """Texts -> vectors (``N_GRAMS``,) of unit length (zero for a text without words).

    ``weight`` (``N_GRAMS``,) says how much each place counts: its inverse document frequency.
    Safe to share between threads.
    """

    weight: FloatArray
    _signed: FloatArray = field(init=False, repr=False, compare=False)
    _hash_of: Callable[[str], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_signed", np.concatenate((self.weight, -self.weight)))
        object.__setattr__(self, "_hash_of", _WordHashes().__getitem__)

    def vector(self, text: str) -> FloatArray:
        """The vector (``N_GRAMS``,) of one text."""
        # As whole-word integers, which index several times as fast.
        at = (gram_hashes(text, self._hash_of) & _PLACE_AND_SIGN).astype(np.intp)
        out = np.zeros(N_GRAMS)
        out[at & (N_GRAMS - 1)] = self._signed.take(at)
        square = float(out.dot(out))
        if square > 0.0:
            out *= 1.0 / math.sqrt(square)
        return out

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """Vectors (n, ``N_GRAMS``) of many texts: the same, without a step per text."""
        words = [_find_words(clip(text).lower()) for text in texts]
        lengths = np.fromiter(map(len, words), np.intp, len(words))
        hashes = np.array(list(map(self._hash_of, chain.from_iterable(words))), np.uint32)
        row = np.repeat(np.arange(len(words)), lengths)
        inside = row[1:] == row[:-1]
        pairs = _pairs(hashes)[inside]
        out = np.zeros((len(words), N_GRAMS))
        for at, found in ((row, hashes), (row[1:][inside], pairs)):
            place = (found & _PLACE_AND_SIGN).astype(np.intp)
            out[at, place & (N_GRAMS - 1)] = self._signed.take(place)
        length = np.sqrt(np.einsum("ij,ij->i", out, out))
        out /= np.where(length > 0, length, 1.0)[:, None]
        return out

    @classmethod
    def of(cls, texts: Sequence[str]) -> WordGrams:
        """Weights from the texts to learn from: 1 + log((1 + n) / (1 + texts with that place))."""
        hash_of = _WordHashes().__getitem__
        with_place = np.zeros(N_GRAMS)
        for text in texts:
            with_place[gram_hashes(text, hash_of) & _PLACE] += 1.0
        return cls(1.0 + np.log((1.0 + len(texts)) / (1.0 + with_place)))
