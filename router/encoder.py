"""Contextual encoders: any sentence-transformers model, imported and loaded on first use."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from router.errors import EmbeddingError, MissingExtraError
from router.text import check_sequence, readable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FloatArray = npt.NDArray[np.float32]

_BATCH_TEXTS = 256


class SentenceTransformerEmbedder:
    """Any sentence-transformers model, by folder or by name; loaded on first use.

    ``id`` is the name as given. ``digest`` covers weights, tokenizer and configuration files, so
    that other weights under the same name are noticed; with ``expected_digest`` they are refused.
    Needs the extra ``encoder``. Blank texts give zero rows. Computes in float32, on the CPU unless
    ``device`` says otherwise.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        device: str = "cpu",
        local_files_only: bool = False,
        expected_digest: str | None = None,
    ) -> None:
        self.id = str(name_or_path)
        self._device = device
        self._local_files_only = local_files_only
        self._expected_digest = expected_digest
        self._lock = threading.Lock()
        self._model: SentenceTransformer | None = None
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over the model's files; a model known by name is loaded to find them."""
        if self._digest is None:
            if not Path(self.id).is_dir():
                self._load()
            self._digest = _folder_digest(_model_folder(self.id))
        return self._digest

    @property
    def dimension(self) -> int:
        """Length of a vector; loads the model."""
        model: Any = self._load()
        # sentence-transformers 6 shortened the name.
        get = getattr(model, "get_embedding_dimension", None)
        dimension = get() if get is not None else model.get_sentence_embedding_dimension()
        if dimension is None:
            raise EmbeddingError(
                f"expected a model that states its dimension, got {self.id!r}: use another model."
            )
        return int(dimension)

    def embed_one(self, text: str) -> FloatArray:
        """The vector (dimension,) of one text."""
        vector: FloatArray = self.embed([text])[0]
        return vector

    def embed(
        self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None
    ) -> FloatArray:
        """Vectors (n, dimension), in float32; ``on_progress`` is told how many are done."""
        check_sequence(texts)
        model = self._load()
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _BATCH_TEXTS):
            batch = [readable(text) for text in texts[start : start + _BATCH_TEXTS]]
            filled = [row for row, text in enumerate(batch) if text.strip()]
            if filled:
                found = model.encode(
                    [batch[row] for row in filled],
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
                vectors[[start + row for row in filled]] = found
            if on_progress is not None:
                on_progress(start + len(batch))
        if not np.isfinite(vectors).all():
            raise EmbeddingError(
                f"expected finite vectors from {self.id!r}, got NaN or infinity: use another model."
            )
        return vectors

    def _load(self) -> SentenceTransformer:
        with self._lock:
            if self._model is None:
                name, local_only = self.id, self._local_files_only
                if self._expected_digest is not None:
                    # Compared before anything is parsed; an artifact fetches nothing.
                    folder = _model_folder(self.id)
                    if _folder_digest(folder) != self._expected_digest:
                        raise EmbeddingError(
                            f"expected the weights of {self.id!r} that the router was trained "
                            "with, got others: install those weights or train again."
                        )
                    name, local_only = str(folder), True
                self._model = load_sentence_transformer(
                    name, device=self._device, local_files_only=local_only
                )
            return self._model


def load_sentence_transformer(
    name: str, *, device: str = "cpu", local_files_only: bool = False
) -> SentenceTransformer:
    """A model in float32, ready to encode.

    Raises MissingExtraError without sentence-transformers, EmbeddingError where there is no such
    model.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(
            "sentence-transformers", "encoder", f"The embedder {name!r}"
        ) from error
    console: Any = logging
    bars = console.is_progress_bar_enabled()
    console.disable_progress_bar()
    try:
        model = SentenceTransformer(name, device=device, local_files_only=local_files_only)
    except (OSError, ValueError, KeyError) as error:
        raise EmbeddingError(
            "expected 'static', a sentence-transformers folder or the name of such a model, got "
            f"{name!r}, which could not be loaded: check the spelling and the connection."
        ) from error
    finally:
        if bars:
            console.enable_progress_bar()
    return model.float().eval()


def check_model(name: str) -> None:
    """Whether a model can be loaded without a network, as far as can be told without loading it.

    Raises EmbeddingError where it is not on this machine, MissingExtraError without
    sentence-transformers.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError("sentence-transformers", "encoder", f"The embedder {name!r}")
    _model_folder(name)


def _model_folder(name: str) -> Path:
    """A model's folder: as given, or its snapshot in the hub's local cache."""
    if os.path.isdir(name):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface-hub", "encoder", f"The embedder {name!r}") from error
    repository = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (OSError, ValueError) as error:
        raise EmbeddingError(
            f"expected the model {name!r} in a folder or in the local cache, got neither: "
            "download it on this machine first."
        ) from error


def _folder_digest(folder: Path) -> str:
    # Weights in other formats are pickles, which run code when they are opened.
    weights = sorted(folder.rglob("*.safetensors"))
    settings = [*folder.rglob("*.json"), *folder.rglob("*.txt"), *folder.rglob("*.model")]
    if not weights:
        raise EmbeddingError(
            "expected a sentence-transformers folder with safetensors weights, got one without: "
            "use a model that has them."
        )
    digest = hashlib.sha256()
    for path in sorted({*weights, *settings}, key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
