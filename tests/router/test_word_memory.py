"""What is remembered of pieces of text, and how many of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from router import word_memory
from router.word_memory import WordMemory, packed, unpacked


def lengths() -> WordMemory:
    return WordMemory(lambda piece: packed([len(piece)] if piece else []))


def test_a_text_is_its_pieces_in_order() -> None:
    memory = lengths()
    for text in ("one three\nfive\n\n seven ", "", " ", "\n", "a\tb  c"):
        expected = [len(piece) for piece in text.replace("\n", " ").split(" ") if piece]
        assert unpacked(memory.of(text)).tolist() == expected


def test_a_piece_is_looked_up_once() -> None:
    asked: list[str] = []

    def find(piece: str) -> bytes:
        asked.append(piece)
        return b"x"

    memory = WordMemory(find)
    assert memory.of("to be or not to be") == b"x" * 6
    assert memory.of("be\nnot") == b"xx"
    assert asked == ["to", "be", "or", "not"]


def test_remembered_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_memory, "_MAX_PIECES", 10)
    memory = lengths()
    for i in range(100):
        assert memory.of(f"word{i} {i}") == packed((len(f"word{i}"), len(str(i))))
        assert len(memory) <= 10
    long = "x" * 10_000
    assert unpacked(memory.of(long)).tolist() == [10_000]
    assert long not in memory


def test_threads_may_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_memory, "_MAX_PIECES", 5)
    memory = lengths()
    texts = [f"{'a' * (i % 7)} {'b' * (i % 11)} {'c' * (i % 13)} d" for i in range(500)]
    expected = [lengths().of(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(memory.of, texts)) == expected
