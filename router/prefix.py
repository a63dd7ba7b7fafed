"""The prefix of a prompt: its keys, its length, and why a provider may not keep it.

A prompt cache keeps the beginning that is the same byte for byte: tools, then system, then the
messages in order. ``lint`` names what makes that beginning new each time, without repeating any
text of it; ``prefix_keys`` are digests of ever longer beginnings, by which a warm one is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile
from typing import Any

from router.providers.base import Message, Prompt, Tool
from router.providers.caching import min_cacheable_tokens
from router.providers.shaping import (
    estimated_prompt_tokens,
    parts_of,
    role_of,
    stable,
    without_marks,
)

# What changes from one request to the next, and how it looks. Said once for each place, so the
# more telling kind comes first.
_VOLATILE: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    (
        "uuid",
        "a UUID",
        re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE),
    ),
    (
        "timestamp",
        "a time",
        re.compile(
            r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d"  # 2026-11-24T10:00
            r"|\b(?:[01]?\d|2[0-3]):[0-5]\d:[0-5]\d\b"  # 10:00:00
            r"|\b1[5-9]\d{8}(?:\d{3})?\b"  # seconds or milliseconds since 1970
        ),
    ),
    (
        "date",
        "a date",
        re.compile(
            r"\b\d{4}[-/]\d\d?[-/]\d\d?\b"
            r"|\b\d\d?[./]\d\d?[./]\d{4}\b"
            r"|\b\d\d?\.? (?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?,? \d{4}\b"
            r"|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d\d?,? \d{4}\b",
            re.IGNORECASE,
        ),
    ),
    (
        "random-id",
        "what looks like a random id",
        # At least 16 letters and digits in one, of both kinds.
        re.compile(r"\b(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{16,}\b", re.IGNORECASE),
    ),
)


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a prompt is not cached as it could be.

    ``code`` is "too-short", "uuid", "timestamp", "date", "random-id", "tools-reordered",
    "tools-changed", "key-order", "system-changed" or "late-system"; the message carries no text of
    the prompt.
    """

    code: str
    message: str


def lint(
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    provider: str,
    model: str,
    previous: Prompt | None = None,
) -> list[Finding]:
    """Why a model's prompt cache would not keep this prompt, or not find it again.

    Args:
        messages: In the chat form.
        tools: In the chat form.
        provider: Its id in the price book.
        model: The model, for its minimum length.
        previous: An earlier prompt of the same kind, to compare with.

    Raises:
        InputError: the messages are not in the chat form.

    >>> system = {"role": "system", "content": "You are an assistant. It is 2026-11-24. " * 200}
    >>> found = lint([system], provider="openai", model="gpt-5-nano")
    >>> [finding.code for finding in found]
    ['date']
    """
    findings = [
        *_too_short(messages, tools, provider, model),
        *_volatile(messages, tools),
        *_late_system(messages),
    ]
    if previous is not None:
        findings += _changed_tools(tools, previous.tools)
        findings += _changed_system(messages, previous.messages)
    return findings


def prefix_chain(
    messages: Sequence[Message], tools: Sequence[Tool] = ()
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """``prefix_keys`` and ``prefix_tokens`` in one walk."""
    chain = blake2b(digest_size=8)
    keys, tokens, n_tokens = [], [], 0
    for link in _links(messages, tools):
        data = _ENCODER.encode(link).encode("utf-8", "surrogatepass")
        # A length before each, so that no two chains of messages run together.
        chain.update(f"{len(data)}:".encode() + data)
        keys.append(chain.hexdigest())
        n_tokens += estimated_prompt_tokens(link)
        tokens.append(n_tokens)
    return tuple(keys), tuple(tokens)


def prefix_keys(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[str, ...]:
    """A digest of tools and leading system messages, and one after each message that follows.

    Two prompts share their first n keys where they share the beginning that these stand for.

    >>> question = {"role": "user", "content": "hi"}
    >>> keys = prefix_keys([{"role": "system", "content": "Be brief."}, question])
    >>> keys[0] == prefix_keys([{"role": "system", "content": "Be brief."}])[0], len(keys)
    (True, 2)
    """
    return prefix_chain(messages, tools)[0]


def prefix_tokens(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[int, ...]:
    """About how many tokens stand up to each of ``prefix_keys``: an estimate, images not counted.

    >>> prefix_tokens([{"role": "user", "content": "one two three"}])
    (0, 4)
    """
    return prefix_chain(messages, tools)[1]


def _links(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[Any]:
    """What the keys stand for, in order: as it is sent, without marks and with keys in order."""
    n_system = _n_leading_system(messages)
    # Whether the cache was marked is no part of what it holds.
    yield [
        [stable(_unmarked(tool)) for tool in tools],
        [_said(message, index) for index, message in enumerate(messages[:n_system])],
    ]
    for index, message in enumerate(messages[n_system:], n_system):
        yield _said(message, index)


def _said(message: Message, index: int) -> Any:
    """A message as the model reads it: text is the same as one part of text."""
    if len(message) == 2 and isinstance(message.get("content"), str):
        # The usual message, without the walk: what follows gives the same for it.
        text = {"text": message["content"], "type": "text"}
        return {"content": [text], "role": role_of(message, index)}
    parts = [without_marks(part) for part in parts_of(message, index)]
    said = {**without_marks(message), "role": role_of(message, index), "content": parts}
    return stable(_unmarked(said))


def _unmarked(value: Any) -> Any:
    """Without marks, on whatever part they were."""
    if isinstance(value, Mapping):
        return {key: _unmarked(inner) for key, inner in without_marks(value).items()}
    if isinstance(value, list | tuple):
        return [_unmarked(inner) for inner in value]
    return value


def _n_leading_system(messages: Sequence[Message]) -> int:
    roles = (role_of(message, index) for index, message in enumerate(messages))
    return sum(1 for _ in takewhile(lambda role: role == "system", roles))


def _too_short(
    messages: Sequence[Message], tools: Sequence[Tool], provider: str, model: str
) -> Iterator[Finding]:
    least = min_cacheable_tokens(provider, model)
    if least is None:
        return
    n_tokens = prefix_tokens(messages, tools)
    # All but the last message: a new question stands in no earlier prompt.
    reusable = n_tokens[-2] if len(n_tokens) > 1 else n_tokens[-1]
    if reusable < least:
        yield Finding(
            "too-short",
            f"expected at least {least} tokens before the last message for {provider} {model} to "
            f"cache them, got about {reusable} (an estimate from the length of the text): put what "
            "requests share into the system prompt, or expect no cache.",
        )


def _volatile(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[Finding]:
    places: list[tuple[str, Any]] = [(f"tool {index}", tool) for index, tool in enumerate(tools)]
    places += [
        (f"system message {index}", parts_of(message, index))
        for index, message in enumerate(messages[: _n_leading_system(messages)])
    ]
    for place, value in places:
        text = "\n".join(_strings(value))
        for code, kind, pattern in _VOLATILE:
            # What one kind has explained is not the next kind too: a date is part of a timestamp.
            text, n_found = pattern.subn(" ", text)
            if n_found:
                yield Finding(
                    code,
                    f"expected nothing in the prefix that changes between requests, got {kind} in "
                    f"{place}: move it into the last user message.",
                )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if not value.startswith("data:"):
            yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _late_system(messages: Sequence[Message]) -> Iterator[Finding]:
    first = _n_leading_system(messages)
    for index, message in enumerate(messages[first:], first):
        if role_of(message, index) == "system":
            yield Finding(
                "late-system",
                f"expected system messages before the first turn only, got one as message {index}: "
                "Anthropic and Google take it into the system prompt, which then is a new prefix; "
                "say it in the last user message.",
            )


def _changed_tools(tools: Sequence[Tool], previous: Sequence[Tool]) -> Iterator[Finding]:
    now, before = ([_written(_unmarked(tool)) for tool in given] for given in (tools, previous))
    if now == before or not before:
        return
    ordered, ordered_before = (
        [_written(stable(_unmarked(tool))) for tool in given] for given in (tools, previous)
    )
    if ordered == ordered_before:
        yield Finding(
            "key-order",
            "expected tools whose keys come in the same order as before, got the same tools with "
            "another order of keys: providers here put them in order, other clients do not; build "
            "them in one way.",
        )
    elif sorted(ordered) == sorted(ordered_before):
        yield Finding(
            "tools-reordered",
            "expected the tools in the order of the previous prompt, got the same tools in another "
            "order: keep one order, the cache begins with them.",
        )
    elif sorted(map(_sorted_text, tools)) == sorted(map(_sorted_text, previous)):
        yield Finding(
            "key-order",
            "expected the properties of the tools in the order of the previous prompt, got another "
            "order: build the schemas in one way, the order is part of the prompt.",
        )
    else:
        yield Finding(
            "tools-changed",
            f"expected the tools of the previous prompt ({len(before)}), got others ({len(now)}): "
            "send all tools always and choose among them with tool_choice.",
        )


def _changed_system(messages: Sequence[Message], previous: Sequence[Message]) -> Iterator[Finding]:
    now, before = (
        [_said(message, i) for i, message in enumerate(given[: _n_leading_system(given)])]
        for given in (messages, previous)
    )
    if before and now != before:
        pairs = zip(now, before, strict=False)
        changed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        yield Finding(
            "system-changed",
            f"expected the system prompt of the previous prompt, got another from system message "
            f"{changed} on: keep it the same, and move what changes into the last user message.",
        )


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _sorted_text(tool: Tool) -> str:
    return json.dumps(_unmarked(tool), sort_keys=True, ensure_ascii=False, default=str)
