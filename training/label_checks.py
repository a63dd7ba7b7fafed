"""How answers are judged: by the words of ``--check``, on top of the checks of `router.verifiers`.

=========================  ========================================================================
``exact``                  the answer is the row's ``expected``, but for white space and case
``contains``               the row's ``expected`` stands in the answer as words of its own; where it
                           is a number, it is the last number of the answer
``regex:PATTERN``          the pattern is found in the answer
``json-schema``            the answer is JSON that the row's ``schema`` accepts
``json-schema:FILE``       the same, by one schema for all rows
``unit-test:COMMAND``      the command ends well on the answer's code and the row's ``test``
=========================  ========================================================================

``contains`` knows no meaning: "no" stands in "no doubt", and "Paris" in "not Paris". A number is
compared with its sign, thousands (4,000), decimals and as a fraction (1/2 is 0.5), without currency
and per cent; other units and words beside it are not read.

Several checks must all pass. A check that cannot tell (None) leaves the answer unjudged.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from router.errors import InputError
from router.providers.base import Answer, Prompt
from router.verifiers import Verdict, code_of, exact, json_schema, regex, unit_test
from training.label_input import LabelQuery

CHECKS = ("exact", "contains", "regex", "json-schema", "unit-test")
UNIT_TEST_TIMEOUT_S = 10.0
_NOTHING = Prompt(())
# What looks like a number: a sign that is no hyphen, a currency, and all that hangs together with
# the first digit. What it is worth, if anything, is said by the other.
_NUMERAL = re.compile(
    r"(?:(?<![^\W_])(?<![)\]%.])[-+\u2212\u2013])?[$\u20ac\u00a3]?(?<![^\W_])(?:(?<!\.)\.)?"
    r"[0-9][^\W_]*(?:(?<=[0-9][eE])[-+][0-9]+)?(?:[.,/:][0-9][^\W_]*(?:(?<=[0-9][eE])[-+][0-9]+)?)*"
)
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"([-+\u2212\u2013]?)[$\u20ac\u00a3]?({_UNSIGNED})(?:[eE]([-+]?[0-9]{{1,3}}))?(?:/([0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Check:
    """A way to judge an answer to a query; ``needs`` are fields that every row must have."""

    name: str
    passes: Callable[[LabelQuery, Answer], bool | None]
    needs: tuple[str, ...] = ()


def check_of(word: str) -> Check:
    """The check that a word of the command line means.

    Raises:
        InputError: it means none, or what stands behind the colon is at fault.

    >>> check_of("exact").needs
    ('expected',)
    """
    name, _, rest = word.partition(":")
    made = _MAKERS.get(name)
    if made is None or (bool(rest) != (name in _WITH) and name != "json-schema"):
        raise InputError(
            f"expected a check among exact, contains, regex:PATTERN, json-schema, "
            f"json-schema:FILE and unit-test:COMMAND, got {word!r:.80}: correct it."
        )
    return made(rest)


def needs_of(checks: Sequence[Check]) -> tuple[str, ...]:
    """Fields that every row must have."""
    return tuple(dict.fromkeys(name for check in checks for name in check.needs))


def judged(checks: Sequence[Check], query: LabelQuery, answer: Answer) -> bool | None:
    """Whether all checks pass; None where none fails and one could not tell.

    A check that raises could not tell, as for a client.
    """
    unknown = False
    for check in checks:
        try:
            passed = check.passes(query, answer)
        except Exception:  # a check of somebody else's; one answer does not end the run
            passed = None
        if passed is False:
            return False
        unknown |= passed is None
    return None if unknown else True


def _told(verdict: object) -> bool | None:
    if isinstance(verdict, Verdict):
        return verdict.passed
    return verdict if isinstance(verdict, bool) else None


def _exact(rest: str) -> Check:
    def passes(query: LabelQuery, answer: Answer) -> bool | None:
        if query.expected is None:
            return None
        return exact(query.expected, ignore_case=True)(answer, _NOTHING)

    return Check("exact", passes, ("expected",))


def _contains(rest: str) -> Check:
    def passes(query: LabelQuery, answer: Answer) -> bool | None:
        if query.expected is None or not query.expected.strip():
            return None
        number = _number(query.expected.strip().removesuffix("%").rstrip())
        if number is not None:
            return number == last_number(answer.text)
        words = r"\s+".join(re.escape(word) for word in query.expected.split())
        return regex(rf"(?i)(?<!\w){words}(?!\w)")(answer, _NOTHING)

    return Check("contains", passes, ("expected",))


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None where there is none, or what hangs together is no number.

    >>> last_number("2,000 + 2,000.5 is **4,000.50**."), last_number("It is 4k.")
    (Fraction(8001, 2), None)
    """
    numerals = _NUMERAL.findall(text)
    return _number(numerals[-1]) if numerals else None


def _number(text: str) -> Fraction | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, digits, power, under = found.groups()
    if under is not None and not int(under):
        return None
    size = Fraction(digits.replace(",", "")) * Fraction(10) ** int(power or 0) / int(under or 1)
    return size if sign in ("", "+") else -size


def _regex(rest: str) -> Check:
    check = regex(rest)
    return Check("regex", lambda query, answer: check(answer, _NOTHING))


def _json_schema(rest: str) -> Check:
    if not rest:

        def passes(query: LabelQuery, answer: Answer) -> bool | None:
            if query.schema is None:
                return None
            return json_schema(query.schema)(answer, _NOTHING)

        return Check("json-schema", passes, ("schema",))
    try:
        schema = json.loads(Path(rest).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        schema = None
    if not isinstance(schema, dict):
        raise InputError(
            f"expected a JSON schema in the file {rest}, got none that can be read: check the path."
        )
    check = json_schema(schema)
    return Check("json-schema", lambda query, answer: check(answer, _NOTHING))


def _unit_test(rest: str) -> Check:
    try:
        command = shlex.split(rest)
    except ValueError as error:
        raise InputError(f"expected a command after unit-test:, got an error: {error}.") from None
    check = unit_test(command, UNIT_TEST_TIMEOUT_S)

    def passes(query: LabelQuery, answer: Answer) -> bool | None:
        if query.test is not None:
            # As one block: what stands around the code was no part of it before either.
            code = code_of(answer.text)
            answer = replace(answer, text=f"{code.rstrip()}\n\n{query.test}\n", raw=None)
        return _told(check(answer, _NOTHING))

    return Check("unit-test", passes)


_WITH = ("regex", "unit-test")
_MAKERS: dict[str, Callable[[str], Check]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "json-schema": _json_schema,
    "unit-test": _unit_test,
}
