"""How a stored query stands in a row of outcomes: column ``query_record``.

A JSON object (in CSV the same as JSON text) of named facts; arrays are base64 of little-endian
numbers. ``VERSION`` says by which rules a text was measured: whatever changes what a text's
features, words, scripts, hashes or keyword place are changes it, and records of another version are
refused, since texts and records would no longer be read alike.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping

import numpy as np

from router.coverage import SCRIPTS, WORD_PLACES
from router.errors import OutcomeError
from router.query_features import N_FEATURES
from router.stored_query import FLOAT32, FLOAT64, UINT16, MadeBy, StoredQuery, numbers
from router.text import MAX_CHARACTERS
from router.word_grams import N_GRAMS

VERSION = 1

# Of the longest names and vectors that a record may bring.
_MAX_ID_CHARACTERS = 200
_MAX_DIMENSION = 65_536
# A word of two letters and a space, of all that is read of a text.
_MAX_WORDS = MAX_CHARACTERS // 3 + 1
_MAX_LENGTH = 2**53
# Lengths in single precision may be a little more than 1.
_UNIT = 1.001
# Features are shares and logarithms of counts.
_MAX_FEATURE = 50.0
_ARRAYS = {
    "vector": 4 * _MAX_DIMENSION,
    "features": 4 * N_FEATURES,
    "scripts": 8 * len(SCRIPTS),
    "grams": 2 * N_GRAMS,
    "words": 2 * _MAX_WORDS,
}
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{16}", re.ASCII)


def record_of(query: StoredQuery) -> dict[str, object]:
    """The record of a stored query, JSON-serialisable."""
    return {
        "version": VERSION,
        "embedder": query.embedder.id,
        "embedder_digest": query.embedder.digest,
        "query_hash": f"{query.query_hash:016x}",
        "text_hash": f"{query.text_hash:016x}",
        "characters": query.n_characters,
        "keyword": query.keyword_place,
        **{name: base64.b64encode(getattr(query, name)).decode("ascii") for name in _ARRAYS},
    }


def stored_query(record: object) -> StoredQuery:
    """The stored query of a record, an object or its JSON text.

    Raises:
        OutcomeError: it is none; ``reason`` is a fixed short text.
    """
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError):
            raise OutcomeError("query_record is not JSON") from None
    if not isinstance(record, Mapping):
        raise OutcomeError("query_record is not an object")
    version = record.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise OutcomeError("query_record is of another version")
    return checked(
        StoredQuery(
            MadeBy(
                # One object for the equal names of all rows.
                sys.intern(_text(record, "embedder")),
                sys.intern(_text(record, "embedder_digest")),
            ),
            _hash(record, "query_hash"),
            _hash(record, "text_hash"),
            _whole(record, "characters", _MAX_LENGTH),
            _whole(record, "keyword", 2),
            *(_decoded(record, name, limit) for name, limit in _ARRAYS.items()),
        )
    )


def checked(query: StoredQuery) -> StoredQuery:
    """The query; raises OutcomeError where its numbers are no query's."""
    if not _DIGEST.fullmatch(query.embedder.digest):
        raise OutcomeError("query_record embedder_digest is no SHA-256")
    if not 0 < len(query.embedder.id) <= _MAX_ID_CHARACTERS:
        raise OutcomeError("query_record embedder is no name")
    sizes = {name: len(getattr(query, name)) for name in _ARRAYS}
    if (
        not 0 < sizes["vector"] <= _ARRAYS["vector"]
        or sizes["vector"] % 4
        or sizes["features"] != _ARRAYS["features"]
        or sizes["scripts"] != _ARRAYS["scripts"]
        or sizes["grams"] % 2
        or sizes["words"] % 2
    ):
        raise OutcomeError("query_record has an array of another size")
    vector = numbers(query.vector, FLOAT32).astype(np.float64)
    features, scripts = numbers(query.features, FLOAT32), numbers(query.scripts, FLOAT64)
    # NaN is none of it.
    if not (
        vector.dot(vector) <= _UNIT**2
        and ((features >= 0) & (features <= _MAX_FEATURE)).all()
        and ((scripts >= 0) & (scripts <= 1)).all()
    ):
        raise OutcomeError("query_record has numbers out of range")
    grams, words = numbers(query.grams, UINT16), numbers(query.words, UINT16)
    places = grams % N_GRAMS
    if (
        (grams >= 2 * N_GRAMS).any()
        or (places[1:] <= places[:-1]).any()
        or (words >= WORD_PLACES).any()
        or (words[1:] < words[:-1]).any()
    ):
        raise OutcomeError("query_record has words that are none")
    return query


def _text(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise OutcomeError(f"query_record {name} is missing or not text")
    return str(value)


def _hash(record: Mapping[str, object], name: str) -> int:
    value = _text(record, name)
    if not _HASH.fullmatch(value):
        raise OutcomeError(f"query_record {name} is no hash")
    return int(value, 16)


def _whole(record: Mapping[str, object], name: str, most: int) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise OutcomeError(f"query_record {name} is no whole number in its range")
    return value


def _decoded(record: Mapping[str, object], name: str, limit: int) -> bytes:
    value = _text(record, name)
    # Before a gigabyte is decoded.
    if len(value) > 4 * (limit // 3 + 1):
        raise OutcomeError(f"query_record {name} is too long")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise OutcomeError(f"query_record {name} is not base64") from None
