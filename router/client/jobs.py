"""From what a caller gives to a job: checked before anything is sent."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from router.client.choosing import Ask
from router.client.cost_limit import check_limit, lives_an_hour
from router.client.cost_limit import input_tokens_at_most as n_tokens_at_most
from router.client.flight import Job
from router.client.job_checks import (
    check_verifier,
    mappings,
    marks_of,
    messages_of,
    names_of,
    options_of,
    output_tokens,
    query_of,
    temperature_of,
    text,
    turns_of,
)
from router.errors import InputError
from router.providers.base import CacheMarks, Message, Prompt, Tool
from router.tiers import estimated_tokens
from router.verifiers import AnswerCheck


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
        messages_of(messages),
        mappings(tools, "tools") if tools else (),
        output_tokens(max_output_tokens),
        temperature_of(temperature),
        marks_of(cache),
        options_of(options),
    )
    if verifier is not None:
        check_verifier(verifier, is_async)
    check_limit(max_cost_usd)
    ask = Ask(
        query=last_user_text(prompt.messages) if query is None else query_of(query),
        prompt=prompt,
        request_id=str(uuid.uuid4()) if request_id is None else text(request_id, "request_id"),
        context_tokens=_about_tokens(prompt, input_tokens_at_most),
        session=None if session is None else text(session, "session"),
        task=None if task is None else text(task, "task"),
        pin=None if pin is None else text(pin, "pin"),
        exclude=names_of(exclude, "exclude"),
        needs=names_of(needs, "needs"),
        expected_turns=turns_of(expected_turns),
    )
    if max_cost_usd is None:
        return Job(ask, verifier, streamed=streamed)
    most = n_tokens_at_most(prompt, input_tokens_at_most)
    return Job(ask, verifier, max_cost_usd, most, lives_an_hour(prompt), streamed)


def last_user_text(messages: Sequence[Message]) -> str:
    """What is routed on where the caller names no query; InputError where no user has a text."""
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
    found = [_text_part(part) for part in content]
    return [piece for piece in found if piece is not None]


def _text_part(part: object) -> str | None:
    piece = part.get("text") if isinstance(part, Mapping) else None
    return piece if isinstance(piece, str) else None


def _about_tokens(prompt: Prompt, given: int | None) -> int:
    """About how long the whole request is, for tiers whose context window is small."""
    if type(given) is int:
        return given
    texts = [found for message in prompt.messages for found in _texts_of(message.get("content"))]
    return sum(map(estimated_tokens, texts)) + sum(len(repr(tool)) // 3 for tool in prompt.tools)
