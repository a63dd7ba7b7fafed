"""How several scores on one call become one success."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InputError
from training.importers.verdicts import (
    NO_FEEDBACK,
    NOT_A_SHARE,
    OTHER_NAME,
    SEVERAL_NAMES,
    UNKNOWN_LABEL,
    UNREADABLE,
    Finding,
    Judgement,
    Rule,
    Verdict,
    Verdicts,
    merge,
    most_specific,
    resolve,
)


def success(finding: Finding) -> float:
    assert isinstance(finding, Verdict), finding
    return finding.success


@pytest.mark.parametrize(
    ("judgement", "rule", "expected"),
    [
        (Judgement(value=True), Rule(), 1.0),
        (Judgement(value=False), Rule(threshold=0.5), 0.0),
        (Judgement(value=1), Rule(), 1.0),
        (Judgement(value=0.25), Rule(), 0.25),
        (Judgement(value="0.25"), Rule(), 0.25),
        (Judgement(value=4), Rule(threshold=4), 1.0),
        (Judgement(value=3.9), Rule(threshold=4), 0.0),
        (Judgement(value=-2), Rule(threshold=-2), 1.0),
        (Judgement(value="Yes"), Rule(), 1.0),
        (Judgement(label=" FAILED "), Rule(), 0.0),
        (Judgement(value=4, label="pass"), Rule(), 1.0),  # 4 is no share, the label says it
        (Judgement(value=0.9, label="fail"), Rule(), 0.9),  # the number goes first
        (Judgement(value=0.9, label="bad"), Rule(labels=frozenset({"good"})), 0.0),
        (Judgement(label="Good"), Rule(labels=frozenset({"good", "fine"})), 1.0),
        (Judgement(value=0.9), Rule(labels=frozenset({"good"})), 0.9),  # has no label
    ],
)
def test_one_score(judgement: Judgement, rule: Rule, expected: float) -> None:
    assert success(rule.read(judgement)) == expected


@pytest.mark.parametrize(
    ("value", "label", "reason"),
    [
        (4, None, NOT_A_SHARE),
        (-0.1, None, NOT_A_SHARE),
        (None, "splendid", UNKNOWN_LABEL),
        (None, None, UNREADABLE),
        ("", "", UNREADABLE),
        (math.nan, None, UNREADABLE),
        (math.inf, None, UNREADABLE),
        ({"a": 1}, ["b"], UNREADABLE),
    ],
)
def test_what_is_no_success(value: object, label: object, reason: str) -> None:
    assert Rule().read(Judgement(value=value, label=label)) == reason


def test_the_number_is_kept_beside_the_success() -> None:
    found = Rule(threshold=3).read(Judgement(value=4))
    assert isinstance(found, Verdict)
    assert (found.success, found.score) == (1.0, 4.0)
    found = Rule().read(Judgement(value=True))
    assert isinstance(found, Verdict)
    assert found.score is None


def test_the_last_by_time_counts() -> None:
    early = Judgement(value=True, at="2026-03-01T09:00:00Z")
    late = Judgement(value=False, at="2026-03-01T10:00:00+00:00")
    assert success(resolve([early, late], Rule())) == 0.0
    assert success(resolve([late, early], Rule())) == 0.0


def test_without_a_time_the_last_in_the_file_counts() -> None:
    assert success(resolve([Judgement(value=True), Judgement(value=False)], Rule())) == 0.0
    assert success(resolve([Judgement(value=False), Judgement(value=True)], Rule())) == 1.0
    # A time that cannot be read is none.
    timed = Judgement(value=True, at=1_772_355_600)
    assert success(resolve([timed, Judgement(value=False, at="soon")], Rule())) == 1.0


def test_a_person_goes_before_a_later_judge() -> None:
    person = Judgement(value=False, at=1, human=True)
    judge = Judgement(value=True, at=2)
    assert success(resolve([person, judge], Rule())) == 0.0
    assert success(resolve([judge, person], Rule())) == 0.0


def test_scores_of_several_names_need_a_choice() -> None:
    both = [Judgement(name="tone", value=1), Judgement(name="right", value=0)]
    assert resolve(both, Rule()) == SEVERAL_NAMES
    assert resolve([*both, Judgement(name="tone", value=1)], Rule()) == SEVERAL_NAMES
    assert success(resolve(both, Rule(name="right"))) == 0.0
    assert success(resolve(both, Rule(name="tone"))) == 1.0
    assert resolve(both, Rule(name="speed")) == OTHER_NAME
    assert resolve([], Rule(name="speed")) == NO_FEEDBACK


def test_a_score_that_cannot_be_read_gives_way() -> None:
    bad, good = Judgement(value=7), Judgement(value=1)
    assert success(resolve([bad, good], Rule())) == 1.0
    assert success(resolve([good, bad], Rule())) == 1.0
    assert resolve([bad], Rule()) == NOT_A_SHARE


def test_the_most_specific_subject_decides() -> None:
    yes, no = (Rule().read(Judgement(value=value)) for value in (True, False))
    assert most_specific([yes, no]) == yes
    assert most_specific([NO_FEEDBACK, no]) == no
    assert most_specific([OTHER_NAME, no]) == no
    # What the call itself has cannot be decided: a wider subject does not decide for it.
    assert most_specific([SEVERAL_NAMES, no]) == SEVERAL_NAMES
    assert most_specific([OTHER_NAME, NO_FEEDBACK]) == OTHER_NAME
    assert most_specific([]) == NO_FEEDBACK


def test_a_threshold_must_be_a_number() -> None:
    with pytest.raises(InputError, match="expected a number as success threshold"):
        Rule(threshold=math.nan)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
rules = st.builds(
    Rule,
    st.none() | st.just("a"),
    st.none() | st.floats(-1, 5),
    st.sampled_from([frozenset(), frozenset({"good"})]),
)


@given(st.lists(st.builds(Judgement, anything, anything, anything, anything, st.booleans())), rules)
def test_any_scores_give_a_success_or_a_reason(judgements: list[Judgement], rule: Rule) -> None:
    found = resolve(judgements, rule)
    if isinstance(found, Verdict):
        assert 0.0 <= found.success <= 1.0
        assert found.score is None or math.isfinite(found.score)
    else:
        assert found in {
            *(NO_FEEDBACK, NOT_A_SHARE, OTHER_NAME, SEVERAL_NAMES, UNKNOWN_LABEL, UNREADABLE)
        }


timed = st.builds(
    Judgement,
    st.sampled_from(["a", "a", "a", "b"]),
    st.booleans(),
    st.none(),
    st.integers(0, 10**6),
    st.booleans(),
)


@given(st.lists(timed, unique_by=lambda one: (one.human, one.at)), st.randoms())
def test_the_order_in_the_file_does_not_matter_where_times_differ(
    judgements: list[Judgement], random: object
) -> None:
    expected = resolve(judgements, Rule())
    shuffled = sorted(judgements, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert resolve(shuffled, Rule()) == expected
    # Joined bit by bit it is the same.
    verdicts = Verdicts(Rule())
    for judgement in judgements:
        verdicts.add("id", judgement)
    assert verdicts.get("id") == expected
    assert len(verdicts) == bool(judgements)


@given(st.lists(timed), st.lists(timed))
def test_two_sources_may_be_joined_separately(
    left: list[Judgement], right: list[Judgement]
) -> None:
    together = resolve([*left, *right], Rule())
    assert merge(resolve(left, Rule()), resolve(right, Rule())) == together
