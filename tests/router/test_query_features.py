"""Query features: finite for every str, and each follows what its name says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.query_features import FEATURE_NAMES, query_features, query_features_many


def features(text: str) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, query_features(text).tolist(), strict=True))


@given(st.text(st.characters()))
@example("\ud800")
@example("")
@example("\x00\x85\u2028")
def test_finite_and_bounded_for_every_text(text: str) -> None:
    found = features(text)
    assert np.isfinite(query_features(text)).all()
    assert all(value >= 0 for value in found.values())
    assert all(value <= 1 for name, value in found.items() if name.endswith("_share"))


@given(st.lists(st.text(st.characters()), max_size=5))
def test_many_texts_give_the_rows_of_one_each(texts: list[str]) -> None:
    rows = query_features_many(texts)
    assert rows.shape == (len(texts), len(FEATURE_NAMES)) and rows.dtype == np.float32
    for row, text in zip(rows, texts, strict=True):
        np.testing.assert_array_equal(row, query_features(text))


def test_an_empty_text_is_all_zero() -> None:
    assert not query_features("").any()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("log_characters", "12345", math.log1p(5)),
        ("log_words", " two  words\n", math.log1p(2)),
        ("digit_share", "a1b2", 0.5),
        ("upper_share", "ABcd", 0.5),
        ("code_marks", "f(x) {y;}", math.log1p(5)),
        ("code_marks", "if a:\n    b\n\tc", math.log1p(2)),
        ("formula_marks", r"$x^2 + 1 = \pi$", math.log1p(6)),
        ("question_marks", "why? how?", math.log1p(2)),
        ("line_breaks", "a\nb\nc", math.log1p(2)),
        ("non_ascii_share", "ñandú", 0.4),
        ("non_latin_share", "Việt ñ š ¿— 🙂 ✓", 0.0),
        ("non_latin_share", "да no", 0.4),
        ("non_latin_share", "愛 한 か ل", 4 / 7),
    ],
)
def test_each_feature_counts_what_it_names(name: str, text: str, expected: float) -> None:
    assert features(text)[name] == pytest.approx(expected, abs=1e-6)


def test_ascii_and_other_texts_are_counted_alike() -> None:
    plain, marked = features("Is x = {1};\n  ok?"), features("Is x = {1};\n  ok?é")
    for name in ("code_marks", "formula_marks", "question_marks", "line_breaks"):
        assert plain[name] == marked[name]


def test_a_huge_text_is_measured_whole_but_read_in_part() -> None:
    found = features("ab1 " * 2_500_000)
    assert found["log_characters"] == pytest.approx(math.log1p(10_000_000), abs=1e-4)
    assert found["log_words"] == pytest.approx(math.log1p(2_500_000), abs=1e-3)
    assert found["digit_share"] == pytest.approx(0.25, abs=1e-3)
    middle = "a" * 8000 + "?" * 1000 + "b" * 8000
    assert features(middle)["question_marks"] == 0.0
