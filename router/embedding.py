"""Turn text into vectors: what an embedder is, and which embedder a name stands for.

``StaticEmbedder`` is the default and needs tokenizers and numpy; ``SentenceTransformerEmbedder`` is
any sentence-transformers model and needs the extra ``encoder``. ``router.text`` says what they read
of a text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from router.artifact import default_artifact_folder
from router.encoder import SentenceTransformerEmbedder
from router.errors import EmbeddingError
from router.static_embedding import StaticEmbedder, is_static_folder, static_files
from router.stored_query import FLOAT32, Query, StoredQuery, any_stored, numbers

__all__ = [
    "Embedder",
    "SentenceTransformerEmbedder",
    "StaticEmbedder",
    "default_embedder_folder",
    "embed_all",
    "embedder_spec",
    "load_embedder",
    "static_files",
]

FloatArray = npt.NDArray[np.float32]

# One of them is in every folder that sentence-transformers reads.
_MODEL_FILES = ("modules.json", "config.json")


class Embedder(Protocol):
    """What estimators need of an embedder."""

    @property
    def id(self) -> str:
        """A readable name."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) that changes whenever the vectors would."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def embed_one(self, text: str) -> FloatArray:
        """The vector (dimension,) of one text, of unit length; zero where nothing can be read."""
        ...

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Rows (n, dimension), each what ``embed_one`` would give."""
        ...


def load_embedder(name: str | Path) -> Embedder:
    """The embedder that ``name`` stands for.

    ``"static"`` is the one that ships with cps-router; the folder of a StaticEmbedding gives a
    StaticEmbedder; any other text is a sentence-transformers folder or name. Raises EmbeddingError.
    """
    if str(name) == "static":
        return StaticEmbedder.load(default_embedder_folder())
    folder = Path(name)
    if is_static_folder(folder):
        return StaticEmbedder.load(folder)
    # Told from a name before the seconds that importing sentence-transformers takes.
    is_path = folder.is_dir() or str(name).startswith((".", "~", os.sep))
    if is_path and not any((folder / file).is_file() for file in _MODEL_FILES):
        raise EmbeddingError(
            "expected 'static', a sentence-transformers folder or the name of such a model, "
            f"got {os.fspath(name)!r}, where no model is: check the path."
        )
    return SentenceTransformerEmbedder(name)


def embed_all(
    embedder: Embedder,
    queries: Sequence[Query],
    embed: Callable[[Sequence[str]], FloatArray] | None = None,
) -> FloatArray:
    """Vectors (n, dimension) of texts and of stored queries, whose vectors are as they were stored.

    ``embed`` embeds the texts, by default ``embedder.embed``.

    Raises:
        EmbeddingError: a stored query's vector was made by another embedder.
    """
    embed = embed or embedder.embed
    if not any_stored(queries):
        return embed(cast(Sequence[str], queries))
    vectors = np.zeros((len(queries), embedder.dimension), np.float32)
    text_rows, texts = [], []
    digest, size = embedder.digest, vectors.shape[1] * vectors.itemsize
    for row, query in enumerate(queries):
        if not isinstance(query, StoredQuery):
            text_rows.append(row)
            texts.append(query)
        elif query.embedder.digest != digest or len(query.vector) != size:
            raise _other_embedder(embedder, query)
        else:
            vectors[row] = numbers(query.vector, FLOAT32)
    if texts:
        vectors[text_rows] = embed(texts)
    return vectors


def _other_embedder(embedder: Embedder, query: StoredQuery) -> EmbeddingError:
    found, dimension = query.embedder, len(query.vector) // 4
    return EmbeddingError(
        f"expected queries stored with the embedder {embedder.id} ({embedder.digest[:8]}, "
        f"{embedder.dimension} dimensions), got one stored with {found.id[:60]!r} "
        f"({found.digest[:8]}, {dimension} dimensions): use that embedder, or store the queries "
        "again from their text."
    )


def embedder_spec(embedder: Embedder) -> dict[str, Any]:
    """What a manifest says of an embedder: kind, id, digest and dimension."""
    if isinstance(embedder, StaticEmbedder):
        kind = "static"
    elif isinstance(embedder, SentenceTransformerEmbedder):
        kind = "sentence-transformers"
    else:
        kind = "custom"
    return {
        "kind": kind,
        "id": embedder.id,
        "digest": embedder.digest,
        "dimension": embedder.dimension,
    }


def default_embedder_folder() -> Path:
    """The static embedder inside the artifact that ships with cps-router."""
    artifact = default_artifact_folder()
    found = [path for path in artifact.glob("embedder-*") if path.is_dir()]
    if len(found) != 1:
        raise EmbeddingError(
            f"expected one embedder folder in {os.fspath(artifact)!r}, got {len(found)}: "
            "install cps-router again."
        )
    return found[0]
