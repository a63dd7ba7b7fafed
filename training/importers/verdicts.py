"""One success out of what was said of an answer: scores, feedback, evaluations, assessments.

The rule, the same in every format:

1. Only scores named by ``--score`` count. Without it all do, but then they must have one name.
2. The most specific subject decides: the call itself, else its trace, else its session.
3. A person's score goes before an automatic one, where the format tells them apart.
4. Of those that remain, the last by time; without a time, the last in the file.

A score is a boolean, a number or a label. A boolean says it; a number succeeds from
``--success-threshold`` on, or without one is itself the success if it lies in 0..1; a label
succeeds if it is a ``--success-label``, or without one if it is a word such as "yes" or "fail".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from router.errors import InputError, OutcomeError
from router.outcomes import number_of, time_of

NO_FEEDBACK = "no feedback on it"
OTHER_NAME = "no score of the name given as --score"
SEVERAL_NAMES = "scores of several names: choose one with --score"
NOT_A_SHARE = "the score is not between 0 and 1: give --success-threshold"
UNKNOWN_LABEL = "the score is a label that is no yes or no: give --success-label"
UNREADABLE = "the score is no boolean, number or label"

_WORDS = {
    **dict.fromkeys(("true", "yes", "pass", "passed"), 1.0),
    **dict.fromkeys(("false", "no", "fail", "failed"), 0.0),
}
# Weak reasons give way to any other.
_WEAK = (NO_FEEDBACK, OTHER_NAME)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One score as it was logged, of any type; ``label`` is the word for it where there is one."""

    name: object = None
    value: object = None
    label: object = None
    at: object = None
    human: bool = False


class Verdict(NamedTuple):
    """A success in 0..1, the number it was made of, and what decides between several of them."""

    success: float
    score: float | None
    name: str | None
    human: bool
    at: float


Finding = Verdict | str
"""A verdict, or the reason why there is none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How to read scores: what ``--score``, ``--success-threshold``, ``--success-label`` say."""

    name: str | None = None
    threshold: float | None = None
    labels: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise InputError(
                f"expected a number as success threshold, got {self.threshold:g}: choose for "
                "example 0.8."
            )

    def read(self, judgement: Judgement) -> Finding:
        """One score by itself."""
        name = judgement.name if isinstance(judgement.name, str) else None
        if self.name is not None and name != self.name:
            return OTHER_NAME
        try:
            success, score = self._success(judgement)
        except OutcomeError as error:
            return error.reason
        try:
            at = time_of(judgement.at)
        except OutcomeError:
            at = None
        return Verdict(
            success, score, name, judgement.human, -math.inf if at is None else at.timestamp()
        )

    def _success(self, judgement: Judgement) -> tuple[float, float | None]:
        value, label = judgement.value, judgement.label
        number = None
        if not isinstance(value, bool):
            try:
                number = number_of(value, "the score", low=-math.inf)
            except OutcomeError:
                # A word in the place of a number, or NaN.
                label = value if label is None else label
        label = (label.strip().casefold() or None) if isinstance(label, str) else None
        if self.labels and label is not None:
            return float(label in self.labels), number
        if isinstance(value, bool):
            return float(value), None
        if number is not None and self.threshold is not None:
            return float(number >= self.threshold), number
        if number is not None and 0.0 <= number <= 1.0:
            return number, number
        if label in _WORDS:
            return _WORDS[label], number
        if number is not None:
            raise OutcomeError(NOT_A_SHARE)
        raise OutcomeError(UNREADABLE if label is None else UNKNOWN_LABEL)


def merge(old: Finding, new: Finding) -> Finding:
    """Of two findings on one subject, the one that counts; ``new`` comes later in the file.

    >>> first = Verdict(1.0, None, "ok", human=True, at=1.0)
    >>> merge(first, Verdict(0.0, None, "ok", human=False, at=2.0)).success
    1.0
    >>> merge(first, Verdict(0.0, None, "ok", human=True, at=2.0)).success
    0.0
    >>> merge(first, Verdict(0.0, None, "other", human=True, at=2.0))
    'scores of several names: choose one with --score'
    """
    if SEVERAL_NAMES in (old, new):
        return SEVERAL_NAMES
    if isinstance(old, Verdict) and isinstance(new, Verdict):
        if old.name != new.name:
            return SEVERAL_NAMES
        return new if (new.human, new.at) >= (old.human, old.at) else old
    if isinstance(old, str) and (isinstance(new, Verdict) or old in _WEAK):
        return old if new == NO_FEEDBACK else new
    return old


def resolve(judgements: Iterable[Judgement], rule: Rule) -> Finding:
    """What the scores of one subject come to."""
    found: Finding = NO_FEEDBACK
    for judgement in judgements:
        found = merge(found, rule.read(judgement))
    return found


def most_specific(findings: Iterable[Finding]) -> Finding:
    """Of findings on ever wider subjects, the first that says anything."""
    found: Finding = NO_FEEDBACK
    for finding in findings:
        if finding not in _WEAK:
            return finding
        found = merge(found, finding)
    return found


class Verdicts:
    """Findings by id, for scores that are logged apart from the calls: one small record per id."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._found: dict[str, Finding] = {}

    def add(self, key: str, judgement: Judgement) -> None:
        """Take a score on the subject that has this key."""
        self._found[key] = merge(self.get(key), self.rule.read(judgement))

    def get(self, key: str) -> Finding:
        """What is known of the subject."""
        return self._found.get(key, NO_FEEDBACK)

    def __len__(self) -> int:
        return len(self._found)
