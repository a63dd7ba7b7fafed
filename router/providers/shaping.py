"""The chat form of messages and tools, read once for all providers; and what keeps it byte-stable.

A provider's cache holds the longest beginning that is the same byte for byte. So the same tools
have to become the same bytes whatever order a dictionary was filled in, and what one provider's
marks add for another (``cache_control``, ``prompt_cache_breakpoint``) must not be sent to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from router.errors import InputError
from router.providers.base import Message, Tool
from router.tiers import estimated_tokens

ROLES = ("system", "developer", "user", "assistant", "tool")
# Marks of one provider's cache or thoughts, on parts, messages, tools and tool calls.
MARKS = ("cache_control", "prompt_cache_breakpoint", "extra_content")


def stable(value: Any) -> Any:
    """The value with the keys of its objects in order, so that the same tool has the same bytes.

    The order of a schema's ``properties`` is kept: models fill arguments in that order, and a field
    for reasoning belongs before the one for the answer.

    >>> stable({"b": 1, "a": {"properties": {"y": {}, "x": {}}}})
    {'a': {'properties': {'y': {}, 'x': {}}}, 'b': 1}
    """
    if isinstance(value, Mapping):
        result = {}
        for key in sorted(value, key=str):
            inner = value[key]
            if key == "properties" and isinstance(inner, Mapping):
                result[key] = {name: stable(schema) for name, schema in inner.items()}
            else:
                result[key] = stable(inner)
        return result
    if isinstance(value, list | tuple):
        return [stable(item) for item in value]
    return value


def without_marks(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without the marks of a cache."""
    return {key: inner for key, inner in value.items() if key not in MARKS}


def function_of(tool: Tool, index: int) -> Mapping[str, Any]:
    """The function a tool declares.

    Raises:
        InputError: it is no function tool.
    """
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(
            f"expected tool {index} as {{'type': 'function', 'function': {{'name': ...}}}}, got "
            "something else: correct the tools, or pass the provider's own form as an option."
        )
    return function


def role_of(message: Message, index: int) -> str:
    """A message's role, "developer" read as "system".

    Raises:
        InputError: there is no such role.
    """
    role = message.get("role")
    if role not in ROLES:
        raise InputError(
            f"expected the role of message {index} to be one of {', '.join(ROLES)}, got another: "
            "correct the messages."
        )
    return "system" if role == "developer" else str(role)


def parts_of(message: Message, index: int) -> list[Mapping[str, Any]]:
    """A message's content as parts; no part for no content.

    Raises:
        InputError: the content is neither text nor a list of parts.
    """
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        return list(content)
    raise InputError(
        f"expected the content of message {index} to be text or a list of parts, got "
        f"{type(content).__name__}: correct the messages."
    )


def text_of(message: Message, index: int) -> str:
    """The text of a message's text parts, one after the other."""
    return "".join(
        str(part.get("text") or "") for part in parts_of(message, index) if "text" in part
    )


def tool_calls_of(message: Message, index: int) -> list[Mapping[str, Any]]:
    """The calls an assistant's message makes.

    Raises:
        InputError: they are no list of mappings.
    """
    calls = message.get("tool_calls")
    if calls is None:
        return []
    if (
        isinstance(calls, Sequence)
        and not isinstance(calls, str | bytes)
        and all(isinstance(call, Mapping) for call in calls)
    ):
        return list(calls)
    raise InputError(
        f"expected the tool_calls of message {index} as a list of mappings, got "
        f"{type(calls).__name__}: pass on those of the answer unchanged."
    )


def called(call: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a tool call.

    Arguments that are no JSON object, as a weaker model may have written them, are kept as text:
    the next model shall see what was called.
    """
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    given = function.get("arguments")
    arguments: Any = given
    if isinstance(given, str):
        try:
            arguments = json.loads(given) if given.strip() else {}
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": given}
    return str(function.get("name")), arguments


def unsendable(provider: str) -> InputError:
    """The error for a prompt that has no form in which it could be sent; it quotes nothing."""
    return InputError(
        f"expected a prompt of texts, numbers, lists and mappings in the chat form for {provider}, "
        "got something in it that is none of these: correct its messages, tools and options."
    )


def is_json(value: Any) -> bool:
    r"""Whether a request can be written as JSON, in UTF-8.

    >>> is_json({"text": "caf\u00e9"}), is_json({"text": "\ud800"}), is_json([float("nan")])
    (True, False, False)
    """
    try:
        # Objects of the SDK's own are its business.
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=_fields).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _fields(value: Any) -> Any:
    return [getattr(value, name) for name in getattr(value, "__dataclass_fields__", ())]


def image_of(part: Mapping[str, Any]) -> tuple[str, str] | str | None:
    """An image part: (media type, base64) of a data URL, or the URL; None for another part."""
    image = part.get("image_url")
    if part.get("type") != "image_url" or image is None:
        return None
    url = str(image.get("url") if isinstance(image, Mapping) else image)
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        return head.removeprefix("data:").removesuffix(";base64"), data
    return url


def estimated_prompt_tokens(value: Any) -> int:
    """About how many tokens a message, a part or a tool has; images count nothing."""
    return estimated_tokens("".join(_texts(value)))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [] if value.startswith("data:") else [value]
    if isinstance(value, Mapping):
        # Roles and kinds are marks between the texts, of a token or none.
        inner = [
            text
            for key, item in value.items()
            if key not in ("role", "type")
            for text in _texts(item)
        ]
        # The names of a schema's fields are read by the model too; those of a message are not.
        if "properties" in value and isinstance(value["properties"], Mapping):
            inner.extend(str(name) for name in value["properties"])
        return inner
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return []
