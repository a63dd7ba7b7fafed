"""Hashed words and pairs: what is alike, where it lands, and one text read as many are."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import word_memory
from router.text import EDGE_CHARACTERS
from router.word_grams import N_GRAMS, GramProduct, WordGrams
from tests.artifacts import HARD_QUERIES
from tests.command_line import run_python

FloatArray = npt.NDArray[np.float64]

TEXTS = [
    "Translate the letter into Spanish.",
    "What is 12 + 7 * 3?",
    "def f(x): return x_1 + 2  # why?",
    "¿Por qué el cielo es azul? Solve for θ: sin(θ)=½",
    "one",
    "the the the",
]
PLAIN = WordGrams(np.ones(N_GRAMS))
# What each place counts differs from place to place.
WEIGHTED = WordGrams(np.random.default_rng(0).uniform(0.5, 5.0, N_GRAMS))
WEIGHT = np.random.default_rng(1).normal(size=(N_GRAMS, 5))


def vector_of(grams: WordGrams, text: str) -> FloatArray:
    """The vector of one text, in the way in which one query is read when it is routed."""
    index, counts = grams.find(text)
    assert index.shape == counts.shape
    out = np.zeros(N_GRAMS)
    out[index[counts] % N_GRAMS] = grams.signed[index[counts]]
    assert len(np.unique(index[counts] % N_GRAMS)) == counts.sum()
    length = float(np.sqrt(out @ out))
    return out / length if length else out


def hash_of(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def pair_of(left: int, right: int) -> int:
    return ((left ^ right) * 0x9E3779B1 + left) % 2**32


def by_definition(words: list[str], weight: FloatArray) -> FloatArray:
    """The module's docstring for words that stand in this order, one gram at a time."""
    hashes = [hash_of(word) for word in words]
    hashes += [pair_of(a, b) for a, b in itertools.pairwise(hashes)]
    out = np.zeros(N_GRAMS)
    for value in hashes:
        place = value % N_GRAMS
        out[place] = -weight[place] if value // N_GRAMS % 2 else weight[place]
    length = np.sqrt((out**2).sum())
    return out / length if length else out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello", ["hello"]),
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("snake_case x2", ["snake", "_", "case", "x0"]),
        ("  many\n\tspaces ", ["many", "spaces"]),
        ("a=b+12.5", ["a", "=", "b", "+", "00", ".", "0"]),
        ("sin(θ)=½", ["sin", "(", "θ", ")", "=", "½"]),
        ("日本 語", ["日本", "語"]),
        ("no\ud83dhalf", ["no", "\ud83d", "half"]),
    ],
)
def test_words_and_pairs_of_neighbours_have_a_place_and_a_sign(text: str, words: list[str]) -> None:
    for grams in (PLAIN, WEIGHTED):
        expected = by_definition(words, grams.weight)
        np.testing.assert_allclose(vector_of(grams, text), expected, rtol=0, atol=1e-12)


def test_a_word_of_its_own_is_one_signed_place() -> None:
    for word in ("apple", "pear", "λ"):
        vector = vector_of(PLAIN, word)
        (place,) = np.flatnonzero(vector)
        assert place == hash_of(word) % N_GRAMS
        assert abs(vector[place]) == 1.0
    # Both signs occur, about equally often.
    signs = [vector_of(PLAIN, f"{a}{b}").sum() for a in "abcdefghij" for b in "klmnopqrst"]
    assert 30 < signs.count(1.0) < 70
    assert set(signs) == {1.0, -1.0}


def test_digits_are_alike_and_their_number_is_not() -> None:
    def same(a: str, b: str) -> bool:
        return bool((vector_of(PLAIN, a) == vector_of(PLAIN, b)).all())

    assert same("12 apples", "57 apples")
    assert same("in 1999, x1", "in 2024, x7")
    assert same("٣ apples", "5 apples")  # Arabic-Indic digits are digits
    assert not same("12 apples", "7 apples")
    assert not same("12 apples", "zero apples")


def test_letter_case_and_spacing_are_of_no_effect_and_order_is() -> None:
    def close(a: str, b: str) -> float:
        return float(vector_of(PLAIN, a) @ vector_of(PLAIN, b))

    assert close("Dog  BITES man", "dog bites\nman") == pytest.approx(1.0)
    # The same three words, other pairs.
    assert close("dog bites man", "man bites dog") == pytest.approx(3 / 5)
    assert close("dog bites man", "dog bites cat") == pytest.approx(3 / 5)
    assert close("dog bites man", "stars shine brightly") == 0.0


def test_how_often_a_word_occurs_does_not_count() -> None:
    once, often = vector_of(PLAIN, "the cat the"), vector_of(PLAIN, "the cat " * 50 + "the")
    assert (once == often).all()
    assert len(np.flatnonzero(once)) == 4  # both words, and both of their pairs


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003", "\x00"[:0]])
def test_a_text_without_words_is_zero(text: str) -> None:
    assert not vector_of(PLAIN, text).any()
    rows = PLAIN.vectors([text, "a word", text])
    assert not rows[[0, 2]].any()
    assert rows[1] @ rows[1] == pytest.approx(1.0)


def test_no_texts() -> None:
    assert PLAIN.vectors([]).shape == (0, N_GRAMS)
    assert PLAIN.vectors(["", " "]).shape == (2, N_GRAMS)


@pytest.mark.parametrize("grams", [PLAIN, WEIGHTED])
def test_one_text_is_read_as_it_is_among_many(grams: WordGrams) -> None:
    texts = [*TEXTS, *HARD_QUERIES]
    together = grams.vectors(texts)
    assert together.shape == (len(texts), N_GRAMS) and together.dtype == np.float64
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(vector_of(grams, text), row, rtol=0, atol=1e-12)
        assert row @ row == pytest.approx(1.0 if text.strip() else 0.0)
        assert np.isfinite(row).all()
    # No pair reaches from one text into the next.
    backwards = grams.vectors(texts[::-1])[::-1]
    assert (backwards == together).all()


@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_texts_are_read_one_by_one_as_together(texts: list[str]) -> None:
    together = WEIGHTED.vectors(texts)
    for row, text in zip(together, texts, strict=True):
        alone = vector_of(WEIGHTED, text)
        np.testing.assert_allclose(alone, row, rtol=0, atol=1e-12)
        assert alone @ alone == pytest.approx(1.0) or not alone.any()


@given(st.text(st.characters(), max_size=30), st.integers(0xD800, 0xDFFF))
def test_a_lone_surrogate_breaks_nothing(text: str, code: int) -> None:
    vector = vector_of(PLAIN, f"{text} a{chr(code)}b")
    assert vector @ vector == pytest.approx(1.0)


def test_places_that_meet_are_read_alike_one_by_one_and_together() -> None:
    """With 2,048 places, a long text has grams of either sign in many of them."""
    rng = random.Random(0)
    texts = [
        " ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(n)) for n in (500, 3000, 50)
    ]
    together = WEIGHTED.vectors(texts)
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(vector_of(WEIGHTED, text), row, rtol=0, atol=1e-12)
        np.testing.assert_allclose(by_definition(text.split(), WEIGHTED.weight), row, atol=1e-12)


def test_of_a_long_text_the_part_is_read_that_all_read() -> None:
    words = [f"w{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}" for i in range(100_000)]
    text = " ".join(words)
    vector = vector_of(PLAIN, text)
    assert vector @ vector == pytest.approx(1.0)
    read = f"{text[:EDGE_CHARACTERS]} {text[-EDGE_CHARACTERS:]}"
    assert (vector == vector_of(PLAIN, read)).all()
    middle = " ".join([*words[:50_000], "unseen", *words[50_000:]])
    assert (vector_of(PLAIN, middle) == vector).all()


def test_weights_are_inverse_document_frequencies() -> None:
    texts = ["red red car", "red bus", "", "blue bus"]
    weight = WordGrams.of(texts).weight
    assert weight.shape == (N_GRAMS,)

    def at(word: str) -> float:
        return float(weight[hash_of(word) % N_GRAMS])

    # A text counts once for a word, however often it has it.
    assert at("red") == pytest.approx(1 + np.log(5 / 3))
    assert at("car") == at("blue") == pytest.approx(1 + np.log(5 / 2))
    unseen = 1 + np.log(5)
    assert at("zebra") == weight.max() == pytest.approx(unseen)
    assert (weight >= 1.0).all()
    seen = {hash_of(word) % N_GRAMS for word in ("red", "car", "bus", "blue")}
    pairs = (("red", "red"), ("red", "car"), ("red", "bus"), ("blue", "bus"))
    seen |= {pair_of(hash_of(a), hash_of(b)) % N_GRAMS for a, b in pairs}
    assert set(np.flatnonzero(weight < unseen)) == seen


def test_rare_words_count_more() -> None:
    grams = WordGrams.of(["the cat", "the dog", "the sun", "the sea"])
    vector = vector_of(grams, "the cat")
    the, cat = (abs(vector[hash_of(word) % N_GRAMS]) for word in ("the", "cat"))
    assert cat > the > 0


def test_hashes_are_the_same_in_every_process(repository: Path) -> None:
    """Python's own hash of a text is not: an artifact would be of no use elsewhere."""
    code = """
import sys, hashlib
import numpy as np
from router.word_grams import N_GRAMS, WordGrams
rows = WordGrams(np.ones(N_GRAMS)).vectors(sys.argv[1:])
print(hashlib.sha256(np.sign(rows).astype(np.int8).tobytes()).hexdigest())
"""
    assert sys.flags.hash_randomization
    first, second = (run_python(code, *TEXTS, cwd=repository) for _ in range(2))
    rows = PLAIN.vectors(TEXTS)
    assert first == second
    held = hashlib.sha256(np.sign(rows).astype(np.int8).tobytes()).hexdigest()
    assert first.strip() == held
    # Held for ever: a change of the hash makes artifacts of this FORMAT predict nonsense.
    assert held == "139938141c9c6edcdfdf1755fa5e1a2a1031c1688e298d8c6b64a317b64ceabf"


@pytest.mark.parametrize("grams", [PLAIN, WEIGHTED])
def test_a_product_is_that_of_the_vectors(grams: WordGrams) -> None:
    rng = random.Random(0)
    long = " ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(3000))
    texts = ["", *TEXTS, " ", *HARD_QUERIES, long, ""]
    expected = grams.vectors(texts) @ WEIGHT
    made = GramProduct(grams, WEIGHT)
    np.testing.assert_allclose(made.many(texts), expected, rtol=0, atol=1e-12)
    for text, row in zip(texts, expected, strict=True):
        np.testing.assert_allclose(made.one(text), row, rtol=0, atol=1e-12)
        np.testing.assert_allclose(made.many([text])[0], row, rtol=0, atol=1e-12)


@given(st.lists(st.text(max_size=40), max_size=8))
def test_a_product_of_any_texts_is_that_of_the_vectors(texts: list[str]) -> None:
    made = GramProduct(WEIGHTED, WEIGHT)
    found = made.many(texts)
    assert found.shape == (len(texts), 5)
    np.testing.assert_allclose(found, WEIGHTED.vectors(texts) @ WEIGHT, rtol=0, atol=1e-12)
    for text, row in zip(texts, found, strict=True):
        np.testing.assert_allclose(made.one(text), row, rtol=0, atol=1e-12)


def test_a_product_with_nothing_known_of_a_column_leaves_the_others() -> None:
    made = GramProduct(WEIGHTED, np.where(np.arange(5) == 2, np.nan, WEIGHT))
    known = [0, 1, 3, 4]
    for found in (made.one(TEXTS[0]), made.many(TEXTS[:1])[0]):
        assert np.isnan(found[2])
        np.testing.assert_allclose(
            found[known], vector_of(WEIGHTED, TEXTS[0]) @ WEIGHT[:, known], atol=1e-12
        )


def test_threads_may_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the memory of words is emptied all the time."""
    monkeypatch.setattr(word_memory, "_MAX_PIECES", 20)
    grams = WordGrams(WEIGHTED.weight)
    made = GramProduct(grams, WEIGHT)
    texts = [f"{'abcdefghij'[i % 10]}q {'klmnopqrst'[i // 10 % 10]}z what {i}" for i in range(400)]
    expected = WEIGHTED.vectors(texts) @ WEIGHT
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(made.one, texts))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
