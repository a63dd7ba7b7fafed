"""Scripts and words beyond what training had: one query and many, every str, and the arrays."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.coverage import SCRIPTS, Coverage, script_shares
from router.errors import ArtifactError
from router.routing import Router

N_PLACES = 4096
ENGLISH = [
    "What is the capital of Australia?",
    "Please summarise the text below in three short sentences.",
    "Write a function that merges the intervals and returns the list.",
]
MIXED = "Please summarise the text: 今日はとても良い天気ですね、散歩に行きましょう"
JAPANESE = "今日はとても良い天気ですね。オーストラリアの首都はどこですか。"
ACCENTED = {
    "Spanish": "¿Dónde está el año pasado? ¡Señor, qué corazón!",
    "French": "Où est-ce que l'élève a reçu çà, près de l'œuvre ?",
    "Vietnamese": "Thủ đô của nước Úc là gì? Viết một bài thơ về biển.",
    "German": "Größe und Maß über den Fuß, süß wie Öl",
}


def covering(max_script_share: float = 0.05, max_rarity: float = 100.0) -> Coverage:
    """Limits without training; by default no word is too rare."""
    return Coverage(
        np.full(N_PLACES, 2.0, np.float32), max_rarity, np.full(len(SCRIPTS), max_script_share)
    )


@given(st.text(st.characters()))
@example("\ud800")
@example("\U00020000\U00020001")
@example("𐐀")
@example("\U0001f642")
def test_shares_and_rarity_are_numbers_for_every_text(text: str) -> None:
    shares = script_shares(text)
    assert len(shares) == len(SCRIPTS)
    assert all(0 <= share <= 1 for share in shares)
    made = covering()
    assert made.mean_rarity(text) in (0.0, 2.0)
    assert made.excludes_many([text, text], repeat(-1.0)).tolist() == [made.excludes(text)] * 2


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("αβγ", "greek"),
        ("привет", "cyrillic"),
        ("שלום", "armenian, hebrew"),
        ("مرحبا", "arabic"),
        ("नमस्ते", "indic"),
        ("สวัสดี", "thai, lao"),
        ("こんにちは", "kana"),
        ("你好世界", "han"),
        ("안녕하세요", "hangul"),
        ("አማርኛ", "other"),
    ],
)
def test_a_script_is_told_by_its_letters(text: str, script: str) -> None:
    shares = dict(zip(SCRIPTS, script_shares(text), strict=True))
    assert shares[script] > 0.6
    assert sum(shares.values()) == shares[script]


@pytest.mark.parametrize(
    "text", [*ENGLISH, *ACCENTED.values(), "", " \n", "2 + 2 = 4 ± ½ € — “ok” 🙂"]
)
def test_latin_letters_accents_and_signs_are_no_other_script(text: str) -> None:
    assert not any(script_shares(text))
    assert not covering(max_script_share=0.0).excludes(text)


def test_text_in_another_script_is_excluded_whole_or_in_part() -> None:
    made = covering()
    assert (
        made.excludes_many([JAPANESE, MIXED, *ENGLISH], repeat(-1.0)).tolist()
        == [True] * 2 + [False] * 3
    )
    covered = replace(made, max_script_share=np.ones(len(SCRIPTS)))
    assert not covered.excludes_many([JAPANESE, MIXED], repeat(-1.0)).any()


def test_one_script_does_not_cover_another() -> None:
    limits = np.where(np.array(SCRIPTS) == "han", 1.0, 0.05)
    made = replace(covering(), max_script_share=limits)
    assert not made.excludes("澳大利亚的首都是哪里")
    assert made.excludes("ما هي عاصمة أستراليا")


def test_text_without_words_is_not_excluded() -> None:
    made = covering(max_rarity=0.5)
    assert not made.excludes_many(["", " \n\t", "12 + 30 = x", "🙂"], repeat(-1.0)).any()
    assert made.excludes("word")


def test_rarity_is_the_mean_over_the_words_whatever_stands_around_them() -> None:
    made = Coverage(np.arange(1, N_PLACES + 1, dtype=np.float32), 1e5, np.ones(len(SCRIPTS)))
    apple, pear = made.mean_rarity("apple"), made.mean_rarity("pear")
    assert apple != pear
    assert made.mean_rarity('(Apple), 12 x "PEAR"! 今日') == (apple + pear) / 2


def test_what_is_remembered_is_bounded_and_of_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Coverage(np.arange(1, N_PLACES + 1, dtype=np.float32), 1e5, np.ones(len(SCRIPTS)))
    texts = [f"word{chr(97 + i)} other{chr(97 + i)}" for i in range(20)]
    expected = [made.mean_rarity(text) for text in texts]
    monkeypatch.setattr("router.coverage._MAX_WORDS", 3)
    small = replace(made)
    assert [small.mean_rarity(text) for text in texts] == expected
    assert len(small._rarity_of.__self__) <= 3  # type: ignore[attr-defined]


def test_coverage_survives_its_arrays_and_older_artifacts_have_none() -> None:
    made = covering(0.25, 3.5)
    again = Coverage.from_arrays(made.to_arrays())
    assert again is not None
    for name, array in made.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])
    # Other numbers of places, and wider numbers, are as good.
    wide = {**made.to_arrays(), "coverage.rarity": np.full(7, 2.0)}
    assert Coverage.from_arrays(wide) is not None
    assert Coverage.from_arrays({"references": np.zeros((1, 2))}) is None


@pytest.mark.parametrize("name", ["rarity", "max_rarity", "max_script_share"])
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    arrays = covering().to_arrays()
    key = f"coverage.{name}"
    good = arrays[key]
    without = {other: array for other, array in arrays.items() if other != key}
    wrong = [good.astype(np.int64), good[..., None], good * np.nan, good - 1e7, good + 1e7]
    for broken in (without, *({**arrays, key: array} for array in wrong)):
        with pytest.raises(ArtifactError, match=key):
            Coverage.from_arrays(broken)


def test_every_way_to_ask_a_router_gives_the_same_answer(small_artifact: Path) -> None:
    router = Router.load(small_artifact)
    assert router.predictor.coverage is not None
    queries = [*ENGLISH, MIXED, JAPANESE, *ACCENTED.values(), "", "find ∑ of αβγδ"]
    one = [router.route(query) for query in queries]
    many = router.route_many(queries)
    assert [(d.tier, d.reason) for d in one] == [(d.tier, d.reason) for d in many]
    unknown = router.predict(queries).out_of_distribution
    assert [d.reason == "out-of-distribution" for d in one] == unknown.tolist()
    assert unknown[3]
    assert unknown[4]
    assert one[3].tier == one[4].tier == router.tiers[router.safe_tier].name


def test_rare_words_say_more_in_a_query_that_is_unlike_training() -> None:
    text = "Sort these words: zyxwv utsrq ponml kjihg"
    made = replace(covering(max_rarity=2.5), similarity_weight=1.0)
    assert made.excludes(text, 0.49) and not made.excludes(text, 0.51)
    # Without words there is nothing rare, however unlike the query is; scripts always count.
    assert not made.excludes("12 + 30 = ?", -1.0)
    assert made.excludes(JAPANESE, 0.99)
    again = Coverage.from_arrays(made.to_arrays())
    assert again is not None and again.similarity_weight == 1.0


def test_older_artifacts_keep_their_rule() -> None:
    text = "Sort these words: zyxwv utsrq ponml kjihg"
    familiar = replace(covering(max_rarity=1.5), familiar_similarity=0.7)
    older = familiar.to_arrays()
    del older["coverage.similarity_weight"], older["coverage.min_words"]
    made_before = Coverage.from_arrays(older)
    assert made_before is not None
    assert made_before.excludes(text, 0.69) and not made_before.excludes(text, 0.7)
    assert made_before.excludes(JAPANESE, 0.99)
    del older["coverage.familiar_similarity"]
    oldest = Coverage.from_arrays(older)
    assert oldest is not None and oldest.excludes(text, 0.99)


def test_a_word_or_two_are_not_judged_where_three_are_asked_for() -> None:
    made = replace(covering(max_rarity=0.5), min_words=3.0)
    assert made.excludes("zyxwv, 12 utsrq + ponml") and not made.excludes("zyxwv, 12 utsrq +")
    assert made.excludes("你好")
    again = Coverage.from_arrays(made.to_arrays())
    assert again is not None and again.min_words == 3.0
