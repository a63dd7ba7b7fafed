"""Checks of answers: what lets a client try the next tier where an answer is not good enough.

A check is any callable ``(answer, prompt) -> bool | Verdict``; for the async client it may be
``async``. One that raises, or says None, *could not verify*: the answer is served as it is. Where a
check carries ``miss_rate`` and ``false_alarm_rate``, plans reckon with them (see `Router.plan`);
the ready ones below take both as arguments.

>>> from router.providers.base import Answer, Prompt
>>> check = regex(r"^[0-9]+$")
>>> check(Answer("42"), Prompt(())), check(Answer("forty-two"), Prompt(()))
(True, False)
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.errors import InputError, MissingExtraError
from router.escalation import Verifier
from router.processes import passes
from router.providers.base import Answer, Prompt

# Of an answer, so much is looked at; longer ones do not pass.
MAX_CHARACTERS = 1_000_000
# Regular expressions see less: the time of some grows with the square of the text.
MAX_REGEX_CHARACTERS = 100_000

_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: whether the answer is good enough, and a score where it has one."""

    passed: bool
    score: float | None = None


class AnswerCheck(Protocol):
    """What a verifier is to the client."""

    def __call__(
        self, answer: Answer, prompt: Prompt, /
    ) -> bool | Verdict | Awaitable[bool | Verdict | None] | None:
        """Is the answer good enough? None: it could not be told."""
        ...


@dataclass(frozen=True, slots=True)
class TextCheck:
    """A check of the answer's text, and how often it errs."""

    judge: Callable[[str], bool] = field(repr=False)
    kind: str = "text"
    miss_rate: float = 0.0
    false_alarm_rate: float = 0.0

    def __post_init__(self) -> None:
        Verifier(self.miss_rate, self.false_alarm_rate)

    def __call__(self, answer: Answer, prompt: Prompt, /) -> bool:
        """Whether the text passes; one that is beyond the bound does not."""
        return len(answer.text) <= MAX_CHARACTERS and self.judge(answer.text)


def rates_of(check: AnswerCheck) -> Verifier:
    """How often a check errs: what it says of itself, else never.

    Raises InputError where what it says is no share from 0 to 1.
    """
    return Verifier(getattr(check, "miss_rate", 0.0), getattr(check, "false_alarm_rate", 0.0))


def is_async_check(verifier: object) -> bool:
    """Whether a verifier's verdict has to be awaited, as far as can be seen before."""
    call = getattr(verifier, "__call__", None)  # noqa: B004 -- is that of an object async?
    return inspect.iscoroutinefunction(verifier) or inspect.iscoroutinefunction(call)


def exact(
    text: str,
    *,
    ignore_case: bool = False,
    miss_rate: float = 0.0,
    false_alarm_rate: float = 0.0,
) -> TextCheck:
    r"""The answer is this text, but for white space around it.

    >>> exact("Paris")(Answer(" Paris\n"), Prompt(()))
    True
    """

    def normal(value: str) -> str:
        return value.strip().casefold() if ignore_case else value.strip()

    wanted = normal(text)
    return TextCheck(lambda found: normal(found) == wanted, "exact", miss_rate, false_alarm_rate)


def regex(
    pattern: str | re.Pattern[str],
    *,
    miss_rate: float = 0.0,
    false_alarm_rate: float = 0.0,
) -> TextCheck:
    """The pattern is found in the answer; anchor it to say more.

    A pattern with nested repetition, such as ``(a+)+$``, can take for ever on a short text, and
    Python cannot interrupt it: keeping patterns simple is up to you. Answers above 100,000
    characters do not pass.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"expected a regular expression, got an error: {error}.") from None

    def judge(text: str) -> bool:
        return len(text) <= MAX_REGEX_CHARACTERS and compiled.search(text) is not None

    return TextCheck(judge, "regex", miss_rate, false_alarm_rate)


def json_schema(
    schema: Mapping[str, Any],
    *,
    miss_rate: float = 0.0,
    false_alarm_rate: float = 0.0,
) -> TextCheck:
    """The answer, or its one fenced block, is JSON that the schema accepts.

    Nothing is fetched: a ``$ref`` must lead to a part of the schema itself.

    Raises:
        MissingExtraError: jsonschema is not installed.
        InputError: the schema is none, or refers to somewhere else.
    """
    try:
        import jsonschema  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("jsonschema", "verify", "checking JSON answers") from None
    schema = json.loads(json.dumps(schema))
    _check_references(schema)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InputError(
            f"expected a JSON schema, got an error in it: {error.message[:200]}."
        ) from None
    validator = kind(schema)

    def judge(text: str) -> bool:
        try:
            value = json.loads(_only_block(text), parse_constant=_no_constant)
            return bool(validator.is_valid(value))
        except (ValueError, RecursionError):
            return False

    return TextCheck(judge, "json_schema", miss_rate, false_alarm_rate)


def unit_test(
    command: Sequence[str],
    timeout_s: float = 10.0,
    *,
    environment: Mapping[str, str] | None = None,
    miss_rate: float = 0.0,
    false_alarm_rate: float = 0.0,
) -> TextCheck:
    """The command ends with exit code 0 when it is given the answer's code.

    The code is what stands in the answer's fenced blocks, else the whole text. It is written to a
    file whose path takes the place of ``{file}`` in the command, or given on standard input where
    no argument has ``{file}``. The command runs without a shell, in an empty folder that is deleted
    afterwards, without this process's environment (but for PATH); what it prints is thrown away.
    When the time is up it is killed with its children.

    **This is no sandbox**: the code can read your files and use the network as you can. Let the
    command be one that shuts it in (a container, ``bwrap``, another user).

    Raises:
        InputError: the command is a text or empty, its program is not found, or the time is not
            above 0.
    """
    if isinstance(command, str) or not command or not all(isinstance(a, str) for a in command):
        raise InputError(
            "expected the command as a list of texts, got another: give program and arguments "
            "apart, for example ['python', '{file}']."
        )
    program = shutil.which(command[0])
    if program is None:
        raise InputError(
            f"expected a program that can be run, got {command[0]!r}: install it, or give its path."
        )
    if not 0 < timeout_s < float("inf"):
        raise InputError(
            f"expected timeout_s above 0, got {timeout_s!r}: give seconds, for example 10."
        )
    fixed = (program, *command[1:])
    extra = dict(environment or {})

    def judge(text: str) -> bool:
        return passes(fixed, code_of(text), timeout_s, extra)

    return TextCheck(judge, "unit_test", miss_rate, false_alarm_rate)


def code_of(text: str) -> str:
    r"""What stands in the fenced blocks of a text, in order; the whole text where it has none.

    >>> code_of("Sure:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    """
    return "".join(_FENCED.findall(text)) or text


def _only_block(text: str) -> str:
    """The content of a text that is one fenced block, else the text."""
    found = _FENCED.fullmatch(text.strip())
    return text if found is None else found[1]


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _check_references(schema: object) -> None:
    """Raises InputError where a part of the schema is somewhere else."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str) and value[:1] != "#":
                raise InputError(
                    f"expected references within the schema, got {value[:100]!r}: write what it "
                    "refers to into $defs."
                )
            _check_references(value)
    elif isinstance(schema, list):
        for value in schema:
            _check_references(value)
