"""What is read of a query, by every embedder and by the query features.

All of it up to 16,000 characters; of longer texts the first 8,000 and the last 8,000, with a space
between, so the time for one query has an upper bound. Pairs of surrogates are read as the character
they stand for, lone ones as U+FFFD, which the default tokenizer passes over as it does control
characters.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.errors import EmbeddingError

EDGE_CHARACTERS = 8_000
MAX_CHARACTERS = 2 * EDGE_CHARACTERS


def clip(text: str) -> str:
    """The part of ``text`` that is read."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:EDGE_CHARACTERS]} {text[-EDGE_CHARACTERS:]}"


def readable(text: str) -> str:
    r"""The part of ``text`` that is read, free of surrogates.

    >>> readable("\ud83d\ude00 and \ud83d").encode("ascii", "backslashreplace").decode()
    '\\U0001f600 and \\ufffd'
    """
    text = clip(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def check_sequence(texts: Sequence[str | None]) -> None:
    """Refuse one str, which would be read letter by letter, and what has no length."""
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        got = "one text" if isinstance(texts, str) else type(texts).__name__
        raise EmbeddingError(f"expected a sequence of texts, got {got}: put them into a list.")
