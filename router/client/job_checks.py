"""What a caller gives with a request, checked value by value: one sentence for each fault.

Here and not where a value is used: there its fault would be taken for a provider's, and some of
them (a time to live that does not exist) would only show once a tier was chosen and recorded.
Nothing of a prompt is in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeGuard

from router.errors import InputError
from router.providers.base import CacheMarks, Message
from router.verifiers import AnswerCheck, is_async_check, rates_of


def mappings(values: object, what: str) -> tuple[Mapping[str, Any], ...]:
    """A list of mappings, as messages and tools are. Raises InputError."""
    if not _are_mappings(values):
        raise InputError(
            f"expected {what} as a list of mappings in the chat form, got something else: give "
            "for example [{'role': 'user', 'content': 'Hello'}]."
        )
    return tuple(values)


def messages_of(values: object) -> tuple[Message, ...]:
    """Messages: content is a text or a list of parts, calls of tools a list. Raises InputError."""
    messages = mappings(values, "messages")
    if not messages:
        raise InputError("expected at least one message, got none: give what to ask.")
    for index, message in enumerate(messages):
        content, calls = message.get("content"), message.get("tool_calls")
        if not (content is None or isinstance(content, str) or _are_mappings(content)):
            raise InputError(
                f"expected the content of message {index} as a text or a list of parts, each a "
                "mapping, got something else: give for example "
                "[{'type': 'text', 'text': 'Hello'}]."
            )
        if calls is not None and not (
            _are_mappings(calls) and all(isinstance(c.get("function"), Mapping) for c in calls)
        ):
            raise InputError(
                f"expected the tool_calls of message {index} as a list of mappings, each with a "
                "function, got something else: pass on those of the answer unchanged."
            )
    return messages


def options_of(options: object) -> dict[str, Any]:
    """Options for the SDK's call. Raises InputError."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise InputError(
            f"expected options as a mapping with texts for keys, got {type(options).__name__}: "
            "give for example {'top_p': 0.9}."
        )
    return dict(options)


def marks_of(cache: object) -> CacheMarks:
    """What is wanted of a cache. Raises InputError."""
    if cache is None:
        return CacheMarks()
    if not isinstance(cache, CacheMarks):
        raise InputError(
            f"expected cache as CacheMarks, got {type(cache).__name__}: give for example "
            'CacheMarks(ttl="1h").'
        )
    if cache.ttl not in ("5m", "1h"):
        raise InputError(
            f'expected a cache\'s ttl of "5m" or "1h", got {cache.ttl!r:.40}: choose one of them.'
        )
    for name in ("enabled", "explicit"):
        if not isinstance(getattr(cache, name), bool):
            raise InputError(
                f"expected a cache's {name} as True or False, got "
                f"{type(getattr(cache, name)).__name__}: give one of them."
            )
    if cache.key is not None:
        text(cache.key, "a cache's key")
    return cache


def output_tokens(n: object) -> int | None:
    """A limit on the output. Raises InputError."""
    if n is None or (type(n) is int and n > 0):
        return n
    raise InputError(
        f"expected max_output_tokens as a whole number above 0, got {n!r:.40}: give for example "
        "1000."
    )


def temperature_of(value: object) -> float | None:
    """A temperature. Raises InputError."""
    if value is None or (_is_number(value) and value >= 0):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise InputError(
        f"expected temperature as a number of at least 0, got {value!r:.40}: give for example 0.2."
    )


def turns_of(value: object) -> float | None:
    """Turns that are expected. Raises InputError."""
    if value is None or (_is_number(value) and value >= 1):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise InputError(
        f"expected expected_turns as a number of at least 1, this turn included, got "
        f"{value!r:.40}: give for example 5."
    )


def text(value: object, what: str) -> str:
    """A text that is not empty. Raises InputError."""
    if isinstance(value, str) and value:
        return value
    raise InputError(
        f"expected {what} as a text that is not empty, got {type(value).__name__}: give one, or "
        "leave it out."
    )


def query_of(value: object) -> str:
    """A text to route on. Raises InputError."""
    if isinstance(value, str):
        return value
    raise InputError(
        f"expected query as a text, got {type(value).__name__}: give what to route on, or leave it "
        "out."
    )


def names_of(values: object, what: str) -> tuple[str, ...]:
    """Names of tiers or features; one text is one name. Raises InputError."""
    if isinstance(values, str):
        return (values,)
    names = tuple(values) if isinstance(values, Iterable) else (None,)
    if all(isinstance(name, str) for name in names):
        return names
    raise InputError(
        f"expected {what} as a list of names, got something else: give for example ['nano']."
    )


def check_verifier(verifier: AnswerCheck, is_async: bool) -> None:
    """Raises InputError where answers cannot be verified by it."""
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


def _are_mappings(values: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str | bytes)
        and all(isinstance(value, Mapping) for value in values)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
