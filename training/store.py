"""Leave the text of queries out of outcomes: what training and evaluation read is kept instead.

Every number is measured by the same function that would read the text, so that what is trained on
stored queries is what would have been trained on their texts, with the same embedder.
docs/privacy.md says what a stored query still tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from router.coverage import script_shares, word_places
from router.embedding import Embedder
from router.errors import EmbeddingError, OutcomeError
from router.keyword import KeywordRouter
from router.outcomes import Outcome
from router.query_features import query_features
from router.query_record import checked
from router.stored_query import FLOAT32, FLOAT64, UINT16, MadeBy, Query, StoredQuery
from router.word_grams import N_GRAMS, WordGrams
from training.split import query_hash, text_hash

# Outcomes embedded at a time: an encoder is fast on many, and few are held.
_CHUNK = 512
_KEYWORD = KeywordRouter(tiers=("0", "1", "2"))


def without_text(outcomes: Iterable[Outcome], embedder: Embedder) -> Iterator[Outcome]:
    """The outcomes in their order, with stored queries; those that are stored stay as they are.

    Raises:
        EmbeddingError: the embedder's vectors are not finite or longer than 1.
    """
    rows = iter(outcomes)
    while chunk := list(islice(rows, _CHUNK)):
        stored = stored_queries([outcome.query for outcome in chunk], embedder)
        for outcome, query in zip(chunk, stored, strict=True):
            yield replace(outcome, query=query)


def stored_queries(queries: Sequence[Query], embedder: Embedder) -> list[StoredQuery]:
    """Stored queries of texts; those that are stored already stay as they are.

    Raises:
        EmbeddingError: the embedder's vectors are not finite or longer than 1.
    """
    texts = list(dict.fromkeys(query for query in queries if isinstance(query, str)))
    made_by, grams = MadeBy(embedder.id, embedder.digest), WordGrams(np.ones(N_GRAMS))
    vectors = embedder.embed(texts) if texts else np.zeros((0, 0), np.float32)
    made = {
        text: _stored(text, vector, made_by, grams)
        for text, vector in zip(texts, vectors, strict=True)
    }
    return [made[query] if isinstance(query, str) else query for query in queries]


def _stored(
    text: str, vector: npt.NDArray[np.float32], made_by: MadeBy, grams: WordGrams
) -> StoredQuery:
    query = StoredQuery(
        embedder=made_by,
        query_hash=query_hash(text),
        text_hash=text_hash(text),
        n_characters=len(text),
        keyword_place=int(_KEYWORD.tier_of(text)),
        vector=_bytes(vector, FLOAT32),
        features=_bytes(query_features(text), FLOAT32),
        scripts=_bytes(script_shares(text), FLOAT64),
        grams=_bytes(grams.find_many([text])[1], UINT16),
        words=_bytes(sorted(word_places(text)), UINT16),
    )
    try:
        return checked(query)
    except OutcomeError as error:
        raise EmbeddingError(
            "expected an embedder with an id, a SHA-256 as digest and finite vectors of at most "
            f"length 1, got another ({error.reason}): correct it."
        ) from None


def _bytes(values: npt.ArrayLike, kind: np.dtype[Any]) -> bytes:
    return np.asarray(values).astype(kind).tobytes()
