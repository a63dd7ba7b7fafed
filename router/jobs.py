"""From what a caller gives to a job: checked before anything is sent."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from router.choosing import Ask
from router.cost_limit import check_limit
from router.cost_limit import input_tokens_at_most as n_tokens_at_most
from router.errors import InputError
from router.flight import Job
from router.providers.base import CacheMarks, Message, Prompt, Tool
from router.tiers import estimated_tokens
from router.verifiers import AnswerCheck, is_async_check, rates_of


class Unset:
    """Where an argument that may be None was not given: the client's own setting."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = Unset()


class RequestOptions(TypedDict, total=False):
    """What a request may be given beside its messages; see `RoutedClient.complete`."""

    query: str | None
    tools: Sequence[Tool]
    request_id: str | None
    session: str | None
    task: str | None
    verifier: AnswerCheck | None
    max_cost_usd: float | None
    input_tokens_at_most: int | None
    max_output_tokens: int | None
    temperature: float | None
    pin: str | None
    exclude: Iterable[str]
    needs: Iterable[str]
    expected_turns: float | None
    options: Mapping[str, Any] | None
    cache: CacheMarks | None


def job_of(
    messages: Sequence[Message],
    *,
    streamed: bool,
    is_async: bool,
    query: str | None = None,
    tools: Sequence[Tool] = (),
    request_id: str | None = None,
    session: str | None = None,
    task: str | None = None,
    verifier: AnswerCheck | None = None,
    max_cost_usd: float | None = None,
    input_tokens_at_most: int | None = None,
    max_output_tokens: int | None = None,
    temperature: float | None = None,
    pin: str | None = None,
    exclude: Iterable[str] = (),
    needs: Iterable[str] = (),
    expected_turns: float | None = None,
    options: Mapping[str, Any] | None = None,
    cache: CacheMarks | None = None,
) -> Job:
    """The job of these arguments.

    Raises:
        InputError: one of them is not what it must be; the message has nothing of the prompt.
    """
    prompt = Prompt(
        _mappings(messages, "messages"),
        _mappings(tools, "tools") if tools else (),
        _output_tokens(max_output_tokens),
        temperature,
        CacheMarks() if cache is None else cache,
        dict(options or {}),
    )
    if not prompt.messages:
        raise InputError("expected at least one message, got none: give what to ask.")
    if verifier is not None:
        _check_verifier(verifier, is_async)
    check_limit(max_cost_usd)
    ask = Ask(
        query=_last_user_text(prompt.messages) if query is None else query,
        prompt=prompt,
        request_id=str(uuid.uuid4()) if request_id is None else _text(request_id, "request_id"),
        context_tokens=_about_tokens(prompt, input_tokens_at_most),
        session=None if session is None else _text(session, "session"),
        task=None if task is None else _text(task, "task"),
        pin=pin,
        exclude=_names(exclude),
        needs=_names(needs),
        expected_turns=expected_turns,
    )
    most = 0 if max_cost_usd is None else n_tokens_at_most(prompt, input_tokens_at_most)
    return Job(ask, verifier, max_cost_usd, most, streamed)


def _mappings(values: Sequence[Mapping[str, Any]], what: str) -> tuple[Mapping[str, Any], ...]:
    good = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    if not good or not all(isinstance(value, Mapping) for value in values):
        raise InputError(
            f"expected {what} as a list of mappings in the chat form, got something else: give "
            "for example [{'role': 'user', 'content': 'Hello'}]."
        )
    return tuple(values)


def _last_user_text(messages: Sequence[Message]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            texts = _texts_of(content)
            if texts:
                return "\n".join(texts)
    raise InputError(
        "expected a message of the user with a text to route on, got none: give query=..."
    )


def _texts_of(content: object) -> list[str]:
    """The texts of a message's content, other parts left out."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence):
        return []
    found = [part if isinstance(part, str) else _text_part(part) for part in content]
    return [text for text in found if text is not None]


def _text_part(part: object) -> str | None:
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else None


def _about_tokens(prompt: Prompt, given: int | None) -> int:
    """About how long the whole request is, for tiers whose context window is small."""
    if type(given) is int:
        return given
    texts = [text for message in prompt.messages for text in _texts_of(message.get("content"))]
    return sum(map(estimated_tokens, texts)) + sum(len(repr(tool)) // 3 for tool in prompt.tools)


def _check_verifier(verifier: AnswerCheck, is_async: bool) -> None:
    if not callable(verifier):
        raise InputError(
            f"expected a verifier to call with an answer and a prompt, got "
            f"{type(verifier).__name__}: see router.verifiers."
        )
    rates_of(verifier)
    if not is_async and is_async_check(verifier):
        raise InputError(
            "expected a verifier that gives its verdict at once, got an async one: use it with "
            "acomplete, or make it a plain function."
        )


def _output_tokens(n: int | None) -> int | None:
    if n is None or (type(n) is int and n > 0):
        return n
    raise InputError(
        f"expected max_output_tokens as a whole number above 0, got {n!r}: give for example 1000."
    )


def _text(value: object, what: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise InputError(
        f"expected {what} as a text that is not empty, got {type(value).__name__}: give one, or "
        "leave it out."
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
