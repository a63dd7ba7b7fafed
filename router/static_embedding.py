"""The default embedder: the mean of a text's token rows, brought to unit length.

A folder in sentence-transformers' StaticEmbedding format is read with tokenizers and numpy alone,
in float32; sentence-transformers gives the same vectors for it. Made by ``training.distill``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from router.errors import EmbeddingError
from router.text import MAX_CHARACTERS, check_sequence, readable
from router.word_memory import WordMemory, packed, unpacked

FloatArray = npt.NDArray[np.float32]

STATIC_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "model.safetensors",
)

_TABLE_KEY = "embedding.weight"


class StaticEmbedder:
    """Mean of token rows; a short query takes about a seventh of the time of tokenizing it.

    Takes the bytes of ``tokenizer.json`` and ``model.safetensors``, so that a caller who has
    checked their digests parses exactly what was checked. Raises EmbeddingError where they are
    malformed. Safe to share between threads.
    """

    def __init__(self, tokenizer: bytes, weights: bytes, *, id: str | None = None) -> None:
        digests = hashlib.sha256(tokenizer).hexdigest() + hashlib.sha256(weights).hexdigest()
        self.digest = hashlib.sha256(digests.encode()).hexdigest()
        self._table = _parse_table(weights)
        self._split = _split_into_tokens(_parse_tokenizer(tokenizer, len(self._table)))
        self._take = self._table.take
        self.dimension = int(self._table.shape[1])
        self.id = id if id is not None else f"static-{self.dimension}-{self.digest[:8]}"

    @classmethod
    def load(cls, folder: Path | str, *, id: str | None = None) -> StaticEmbedder:
        """Read a StaticEmbedding folder.

        Raises EmbeddingError where it is missing, incomplete, malformed or of another kind.
        """
        return cls.from_files(static_files(folder), id=id)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, id: str | None = None) -> StaticEmbedder:
        """Build from a folder's files by name; tokenizer.json and model.safetensors are read."""
        missing = [name for name in ("tokenizer.json", "model.safetensors") if name not in files]
        if missing:
            raise EmbeddingError(
                f"expected a static embedder with tokenizer.json and model.safetensors, got one "
                f"without {' and '.join(missing)}: restore the folder."
            )
        return cls(files["tokenizer.json"], files["model.safetensors"], id=id)

    def embed_one(self, text: str) -> FloatArray:
        """The vector (dimension,) of one text: the fast path of serving.

        Raises EmbeddingError only for what is no text.
        """
        ids = self._ids(text)
        if not ids:
            return np.zeros(self.dimension, np.float32)
        # The sum and the mean of rows have the same direction, and only that is kept.
        total: FloatArray = np.add.reduce(self._take(unpacked(ids), 0), 0)
        square = float(total.dot(total))
        if square > 0.0:
            total *= 1.0 / math.sqrt(square)
        return total

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Vectors (n, dimension); needs no memory beyond them, whatever the texts' lengths."""
        check_sequence(texts)
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for total, text in zip(vectors, texts, strict=True):
            ids = self._ids(text)
            if ids:
                np.add.reduce(self._take(unpacked(ids), 0), 0, out=total)
        square = (vectors[:, None, :] @ vectors[:, :, None])[:, 0].astype(np.float64)
        square[square == 0.0] = 1.0
        vectors *= (1.0 / np.sqrt(square)).astype(np.float32)
        return vectors

    def _ids(self, text: str) -> bytes:
        """Token ids of what is read of a text, packed."""
        try:
            return self._split(text if len(text) <= MAX_CHARACTERS else readable(text))
        # What tokenizers raises for surrogates, and Python for no text.
        except (TypeError, AttributeError) as error:
            if not isinstance(text, str):
                raise EmbeddingError(
                    f"expected a text to embed, got {type(text).__name__}: give a str."
                ) from error
            return self._split(readable(text))


def _parse_table(weights: bytes) -> FloatArray:
    try:
        arrays = safetensors.numpy.load(weights)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise EmbeddingError(
            "expected model.safetensors to be a safetensors file that numpy can hold, got "
            "something else: restore the folder."
        ) from error
    stored = arrays.get(_TABLE_KEY)
    if stored is None or stored.ndim != 2 or stored.size == 0:
        raise EmbeddingError(
            f"expected a two-dimensional {_TABLE_KEY!r} in model.safetensors, got none: "
            "give the folder of a StaticEmbedding."
        )
    # Half precision is for the disk only: it gives NaN for empty texts and bends directions.
    table = np.ascontiguousarray(stored, dtype=np.float32)
    if not np.isfinite(table).all():
        raise EmbeddingError(
            "expected finite numbers in the embedder's table, got NaN or infinity: distil it again."
        )
    return table


def _parse_tokenizer(content: bytes, n_rows: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises nothing narrower
        raise EmbeddingError(
            "expected tokenizer.json to be a tokenizers file, got something else: "
            "restore the folder."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    needed = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if n_rows < needed:
        raise EmbeddingError(
            f"expected {needed} rows in the table, one for each token, got {n_rows}: "
            "the two files are of different embedders."
        )
    return tokenizer


def _split_into_tokens(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """Text -> packed token ids: word by word where that is exact, else as the tokenizer does.

    A BERT tokenizer always parts words at white space and at ASCII punctuation and looks at nothing
    beyond a word, so ids of words can be remembered. That is twenty times as fast as tokenizing.
    """
    normalizer, model = tokenizer.normalizer, tokenizer.model
    if (
        not isinstance(normalizer, BertNormalizer)
        or not isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        or not isinstance(model, WordPiece)
        or tokenizer.get_added_tokens_decoder()
    ):
        return lambda text: _tokenized(tokenizer, text)
    return _remembered(tokenizer, model, bool(normalizer.lowercase)).of


def _remembered(tokenizer: Tokenizer, model: WordPiece, lowercase: bool) -> WordMemory:
    """Packed token ids by piece of text and, within it, by word."""
    find_words = re.compile(r"[^ \t\n\r!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]").findall

    def find(piece: str) -> bytes:
        words = find_words(piece)
        if words != [piece]:
            return b"".join(map(memory.__getitem__, words))
        if piece.isascii() and piece.isalnum():
            # A plain word needs no normalizing but for its case, which is most of the time.
            tokens = model.tokenize(piece.lower() if lowercase else piece)
            return packed([token.id for token in tokens])
        return _tokenized(tokenizer, piece)

    memory = WordMemory(find)
    return memory


def _tokenized(tokenizer: Tokenizer, text: str) -> bytes:
    return packed(tokenizer.encode(text, add_special_tokens=False).ids)


def static_files(folder: Path | str) -> dict[str, bytes]:
    """The files of a StaticEmbedding folder by name: what an artifact carries of it."""
    folder = Path(folder)
    if not is_static_folder(folder):
        raise EmbeddingError(
            "expected a folder whose modules.json lists a StaticEmbedding and at most a Normalize, "
            f"got {os.fspath(folder)!r}: give a static embedder's folder."
        )
    present = [name for name in STATIC_FILES if (folder / name).is_file()]
    return {name: (folder / name).read_bytes() for name in present}


def is_static_folder(folder: Path) -> bool:
    """Whether modules.json lists a StaticEmbedding at the top and at most a Normalize after it."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        return (
            kinds in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"])
            and not modules[0]["path"]
        )
    except (OSError, ValueError, TypeError, KeyError):
        return False
