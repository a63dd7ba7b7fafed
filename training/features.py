"""Embed queries once: encoder vectors are kept on disk between runs.

The cache is keyed by the embedder's digest and by the texts' digests, so other weights or other
texts never find old vectors. It holds vectors, no text. Where: the folder in CPS_ROUTER_CACHE, else
the user's cache folder; where that cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt

from router.embedding import Embedder, StaticEmbedder, embed_all
from router.stored_query import Query

FloatArray = npt.NDArray[np.float32]

CACHE_VARIABLE = "CPS_ROUTER_CACHE"
# An encoder takes some seconds for this many: a killed run loses no more.
CHUNK_TEXTS = 1024


def embed_queries(
    embedder: Embedder,
    queries: Sequence[Query],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> FloatArray:
    """Vectors (n, d) of ``queries``; ``on_progress`` is told how many texts are done.

    Each distinct text is embedded once; stored queries bring their vectors. A static embedder's
    vectors are not kept on disk: it is faster than reading them back.

    Raises:
        EmbeddingError: a stored query's vector was made by another embedder.
    """
    return embed_all(embedder, queries, lambda texts: _embed_texts(embedder, texts, on_progress))


def _embed_texts(
    embedder: Embedder, texts: Sequence[str], on_progress: Callable[[int], None] | None
) -> FloatArray:
    positions = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    distinct = list(positions)
    vectors = np.zeros((len(distinct), embedder.dimension), np.float32)
    n_occurrences = np.zeros(len(distinct), np.int64)
    rows = np.fromiter((positions[text] for text in texts), np.int64, len(texts))
    np.add.at(n_occurrences, rows, 1)
    n_done = 0
    embed = _plain if isinstance(embedder, StaticEmbedder) else _cached_embed()
    for start in range(0, len(distinct), CHUNK_TEXTS):
        chunk = distinct[start : start + CHUNK_TEXTS]
        end = start + len(chunk)
        vectors[start:end] = embed(embedder.digest, texts_digest(chunk), embedder, chunk)
        n_done += int(n_occurrences[start:end].sum())
        if on_progress is not None:
            on_progress(n_done)
    return vectors if len(distinct) == len(texts) else vectors[rows]


def texts_digest(texts: Sequence[str]) -> str:
    """SHA-256 (hex) of a sequence of texts; surrogates survive, borders between texts count."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where things fetched or computed once are kept: CPS_ROUTER_CACHE, else the user's cache."""
    if configured := os.environ.get(CACHE_VARIABLE):
        return Path(configured)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cps-router"


_Embed = Callable[[str, str, Embedder, list[str]], FloatArray]


def _plain(
    embedder_digest: str, digest_of_texts: str, embedder: Embedder, texts: list[str]
) -> FloatArray:
    # The two digests are what joblib keys the cache by.
    return embedder.embed(texts)


def _cached_embed() -> _Embed:
    folder = cache_folder() / "embeddings"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _plain
    if not os.access(folder, os.W_OK):
        return _plain
    memory = joblib.Memory(folder, verbose=0)
    cached: _Embed = memory.cache(_plain, ignore=["embedder", "texts"])
    return cached
