"""A few cheap facts about a query that stand beside its embedding.

Of a long text the part that ``router.text`` names is read, but the lengths are the whole
text's. Every number is finite for every str; counts and lengths enter as log(1 + x).

>>> features = dict(zip(FEATURE_NAMES, query_features("2+2?").tolist()))
>>> features["digit_share"], round(features["question_marks"], 2)
(0.5, 0.69)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from math import log1p

import numpy as np
import numpy.typing as npt

from router.stored_query import FLOAT32, Query, StoredQuery, numbers
from router.text import clip

FloatArray = npt.NDArray[np.float32]

FEATURE_NAMES = (
    "log_characters",
    "log_words",
    "digit_share",
    "upper_share",
    "code_marks",
    "formula_marks",
    "question_marks",
    "line_breaks",
    "non_ascii_share",
    "non_latin_share",
)
N_FEATURES = len(FEATURE_NAMES)

# One pass puts every ASCII character into a class, whose members are then counted.
_CODE, _FORMULA, _BOTH, _DIGIT, _UPPER, _QUESTION, _LINE, _BLANK = b"cfbduqls"
_MEMBERS = {
    _CODE: b"{}();<>`",
    _FORMULA: b"+-*/^\\$",
    _BOTH: b"=",
    _DIGIT: b"0123456789",
    _UPPER: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    _QUESTION: b"?",
    _LINE: b"\n",
    _BLANK: b" \t",
}
_CLASSES = bytes(
    next((code for code, members in _MEMBERS.items() if byte in members), ord("."))
    for byte in range(256)
)
# From Greek on, without Vietnamese and other Latin letters, punctuation, symbols and emoji.
NON_LATIN = re.compile(
    "[\u0370-\u1dff\u1f00-\u1fff\u2c80-\ud7ff\uf900-\uffef\U00010000-\U0001efff\U00020000-\U0003ffff]"
)


def query_features(text: str) -> FloatArray:
    """The features (k,) of one text, in the order of FEATURE_NAMES."""
    return np.array(_measure(text), np.float32)


def query_features_many(texts: Sequence[Query]) -> FloatArray:
    """The features (n, k) of many texts or stored queries."""
    measured = chain.from_iterable(map(_measured, texts))
    features = np.fromiter(measured, np.float32, len(texts) * N_FEATURES)
    return features.reshape(len(texts), N_FEATURES)


def _measured(text: Query) -> Sequence[float]:
    if isinstance(text, StoredQuery):
        found: list[float] = numbers(text.features, FLOAT32).tolist()
        return found
    return _measure(text)


def _measure(text: str) -> tuple[float, ...]:
    length = len(text)
    text = clip(text)
    n_read = len(text) or 1
    n_words = len(text.split()) * max(length / n_read, 1.0)
    n_non_ascii = n_non_latin = 0
    if text.isascii():
        marks = text.encode("ascii").translate(_CLASSES)
    else:
        # Lone surrogates are left out too: they are no ASCII.
        marks = text.encode("ascii", "ignore").translate(_CLASSES)
        n_non_ascii = len(text) - len(marks)
        n_non_latin = len(NON_LATIN.findall(text))
    count = marks.count
    n_both = count(_BOTH)
    # An indented line counts as a mark of code.
    n_code = count(_CODE) + n_both + count(b"ls")
    return (
        log1p(length),
        log1p(n_words),
        count(_DIGIT) / n_read,
        count(_UPPER) / n_read,
        log1p(n_code),
        log1p(count(_FORMULA) + n_both),
        log1p(count(_QUESTION)),
        log1p(count(_LINE)),
        n_non_ascii / n_read,
        n_non_latin / n_read,
    )
