"""The limits of scripts and words follow the fitting queries, and leave like queries in."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest

from router.coverage import SCRIPTS
from training.coverage import SCRIPT_MARGIN, SIMILARITY_WEIGHT, coverage_of
from training.synthetic_queries import write_queries

SHARE = 0.0005
GREEK = "Solve for x: αx + β = γ. Show each step."
JAPANESE = "今日はとても良い天気ですね"


def texts(n: int, seed: int, spanish_share: float = 0.0) -> list[str]:
    return [query.text for query in write_queries(n, seed, spanish_share=spanish_share)]


def folds(n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(n, dtype=np.int64) % 5


def test_greek_letters_are_outside_where_training_had_none_and_inside_where_it_had() -> None:
    english = texts(300, 1)
    without = coverage_of(english, folds(300), SHARE)
    with_greek = [*english[:-9], *(f"Solve for α: α + β = {i}." for i in range(9))]
    having = coverage_of(with_greek, folds(300), SHARE)
    assert without.excludes(GREEK)
    assert not having.excludes(GREEK)
    # One letter in a longer text is none of another language.
    assert not without.excludes(f"{english[0]} What is the value of π, please?")
    # Greek covers Greek alone.
    assert having.excludes(f"Translate this for me: {JAPANESE}")


def test_a_script_of_a_tenth_of_the_training_queries_is_covered() -> None:
    mixed = [*texts(270, 1), *(f"{JAPANESE} {i}" for i in range(30))]
    assert not coverage_of(mixed, folds(300), SHARE).excludes(JAPANESE)


def test_one_odd_query_of_many_covers_nothing() -> None:
    english = texts(1_200, 1)
    made = coverage_of([*english[:-1], JAPANESE], folds(1_200), 0.001)
    assert made.excludes(JAPANESE)
    assert made.max_script_share == pytest.approx(np.full(len(SCRIPTS), SCRIPT_MARGIN))


def test_another_language_in_latin_letters_is_outside_unless_training_had_it() -> None:
    spanish = texts(400, 9, spanish_share=1.0)
    english_only = coverage_of(texts(600, 1), folds(600), SHARE)
    assert english_only.excludes_many(spanish, repeat(-1.0)).mean() > 0.95
    both = coverage_of(texts(600, 1, spanish_share=0.3), folds(600), SHARE)
    assert both.excludes_many(spanish, repeat(-1.0)).mean() < 0.01


@pytest.mark.parametrize("spanish_share", [0.0, 0.3])
def test_about_the_asked_share_of_like_queries_is_outside(spanish_share: float) -> None:
    made = coverage_of(texts(1_000, 1, spanish_share), folds(1_000), 0.01)
    flagged = made.excludes_many(texts(4_000, 2, spanish_share), repeat(-1.0)).mean()
    assert 0.003 < flagged < 0.02


def test_queries_without_a_word_and_few_queries_have_limits_too() -> None:
    made = coverage_of(["2 + 2", "", "3?"], folds(3), SHARE)
    assert made.max_rarity == 0.0
    assert not made.excludes("4 + 4")
    assert made.excludes("word")


def test_copies_of_a_text_make_its_words_no_commoner() -> None:
    english = [*texts(300, 1), "Zyxwvu tsrqpo nmlkji"]
    once = coverage_of(english, folds(301), SHARE)
    often = coverage_of([*english, *english[-1:] * 4], np.append(folds(301), [0] * 4), SHARE)
    np.testing.assert_array_equal(once.rarity, often.rarity)


def test_a_word_of_one_query_alone_leaves_no_trace() -> None:
    english = texts(300, 1)
    secret = [*english[:-1], f"{english[-1]} Zyxwvu"]
    before, after = (coverage_of(queries, folds(300), SHARE) for queries in (english, secret))
    np.testing.assert_array_equal(before.rarity, after.rarity)


def test_what_a_query_lacks_in_similarity_counts_as_rarity() -> None:
    english, similarity = texts(300, 1), np.full(300, 0.75)
    alone = coverage_of(english, folds(300), SHARE)
    made = coverage_of(english, folds(300), SHARE, similarity)
    assert alone.similarity_weight == 0.0
    assert made.similarity_weight == SIMILARITY_WEIGHT
    # All lack equally much, and so the limit is as much higher.
    assert made.max_rarity == pytest.approx(alone.max_rarity + 0.25 * SIMILARITY_WEIGHT)
    # Rare words count however similar the query is, and more so the less it is.
    unseen = "Zyxwvu tsrqpo nmlkji"
    assert made.excludes(unseen, 1.0) and made.excludes(unseen, 0.0)
    near_limit = replace(made, max_rarity=made.mean_rarity(english[0]) + 0.25)
    assert near_limit.excludes(english[0], 0.74) and not near_limit.excludes(english[0], 0.76)


def test_queries_without_words_do_not_raise_the_limit() -> None:
    numbers = [f"{i} + {i}" for i in range(200)]
    lacking = np.repeat([-1.0, 1.0], [200, 300])
    made = coverage_of([*numbers, *texts(300, 1)], folds(500), SHARE, lacking)
    assert not made.excludes("7 + 7", -1.0)
    assert made.max_rarity < made.rarity.max()


def test_few_queries_flag_no_more_of_like_traffic_than_many() -> None:
    others = texts(4_000, 2)

    def flagged(n: int) -> float:
        made = [coverage_of(texts(n, seed), folds(n), SHARE) for seed in range(10, 20)]
        return float(np.mean([c.excludes_many(others, repeat(-1.0)).mean() for c in made]))

    # The largest of fifty values alone is exceeded by some 2 % of further ones.
    assert flagged(50) < 0.005
    assert flagged(800) < 0.005
