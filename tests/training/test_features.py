"""The embedding cache: what is embedded again, and what never is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from router.embedding import FloatArray, StaticEmbedder
from tests.minilm import static_folder
from training import features
from training.features import cache_folder, embed_queries, texts_digest


class Counting:
    """An embedder whose vectors are lengths of texts, and that remembers what it was asked."""

    id = "counting"
    dimension = 2

    def __init__(self, digest: str = "d1") -> None:
        self.digest = digest
        self.asked: list[str] = []

    def embed_one(self, text: str) -> FloatArray:
        vector: FloatArray = self.embed([text])[0]
        return vector

    def embed(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], np.float32).reshape(-1, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPS_ROUTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


TEXTS = ["one", "three", "\ud800", "", "three"]


def test_rows_follow_the_texts_and_a_second_run_reads_the_cache() -> None:
    first, second = Counting(), Counting()
    vectors = embed_queries(first, TEXTS)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [3, 5, 1, 0, 5]
    assert first.asked == ["one", "three", "\ud800", ""]
    np.testing.assert_array_equal(embed_queries(second, TEXTS), vectors)
    assert second.asked == []


def test_another_embedder_or_another_text_is_computed() -> None:
    embed_queries(Counting(), TEXTS)
    other_weights, other_texts = Counting("d2"), Counting()
    embed_queries(other_weights, TEXTS)
    embed_queries(other_texts, [*TEXTS, "new"])
    assert len(other_weights.asked) == 4 and "new" in other_texts.asked


def test_chunks_are_kept_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK_TEXTS", 2)

    class Dying(Counting):
        def embed(self, texts: Sequence[str]) -> FloatArray:
            if "e" in texts:
                raise KeyboardInterrupt
            return super().embed(texts)

    texts, done = ["a", "b", "cc", "a", "d", "e"], Counting()
    with pytest.raises(KeyboardInterrupt):
        embed_queries(Dying(), texts)
    progress: list[int] = []
    vectors = embed_queries(done, texts, on_progress=progress.append)
    assert vectors[:, 0].tolist() == [1, 1, 2, 1, 1, 1]
    assert done.asked == ["e"]
    assert progress == [3, 5, 6]


def test_no_texts() -> None:
    assert embed_queries(Counting(), []).shape == (0, 2)


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CPS_ROUTER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        embedder = Counting()
        assert embed_queries(embedder, ["one"]).tolist() == [[3, 1]]
        assert embedder.asked == ["one"]


def test_the_cache_holds_no_text(cache: Path) -> None:
    embed_queries(Counting(), ["a very secret query"])
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"secret" in path.read_bytes()]


def test_static_vectors_are_the_embedders_own_and_leave_nothing_on_disk(cache: Path) -> None:
    embedder = StaticEmbedder.load(static_folder())
    texts = [f"query number {i % 700}" for i in range(1500)]
    np.testing.assert_array_equal(embed_queries(embedder, texts), embedder.embed(texts))
    assert not cache.exists()


def test_borders_between_texts_count() -> None:
    assert texts_digest(["ab", "c"]) != texts_digest(["a", "bc"])
    assert texts_digest(["ab"]) != texts_digest(["ab", ""])


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CPS_ROUTER_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cps-router"
