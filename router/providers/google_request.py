"""A prompt as the arguments of Gemini's generateContent.

The system messages of the chat form become the system instruction, wherever they stood. Gemini
signs its thoughts on tool calls and wants the signature back: it travels in the chat form as
Google's own compatible API has it, ``extra_content.google.thought_signature`` of the tool call.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.errors import InputError
from router.providers.base import Message, Prompt, Tool
from router.providers.shaping import (
    called,
    function_of,
    image_of,
    parts_of,
    role_of,
    stable,
    tool_calls_of,
)

# What Google documents for a call that another model made: do not look for a signature. The SDK
# encodes bytes, and these are the ones that become that word.
_NO_SIGNATURE = base64.urlsafe_b64decode("skip_thought_signature_validator")


@dataclass(frozen=True, slots=True)
class Shaped:
    """A request, and after how many of its contents the user said that the stable part ends."""

    contents: list[dict[str, Any]]
    config: dict[str, Any]
    marked: int | None


def generate_request(model: str, prompt: Prompt) -> Shaped:
    """Contents and config of ``generate_content``; ``prompt.options`` have the last word."""
    system, contents, marked = _contents(model, prompt.messages)
    config: dict[str, Any] = {
        # The SDK would call Python functions by itself; ours are declarations only.
        "automatic_function_calling": {"disable": True},
    }
    if prompt.tools:
        declared = [_declaration(tool, index) for index, tool in enumerate(prompt.tools)]
        config["tools"] = [{"function_declarations": declared}]
    if system:
        config["system_instruction"] = {"parts": system}
    if prompt.max_output_tokens is not None:
        config["max_output_tokens"] = prompt.max_output_tokens
    if prompt.temperature is not None:
        config["temperature"] = prompt.temperature
    return Shaped(contents, {**config, **prompt.options}, marked)


def _declaration(tool: Tool, index: int) -> dict[str, Any]:
    function = function_of(tool, index)
    result: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        result["description"] = function["description"]
    if function.get("parameters"):
        result["parameters_json_schema"] = stable(function["parameters"])
    return result


def _contents(
    model: str, messages: Sequence[Message]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int | None]:
    """Parts of the system instruction, the contents, and where the user's last mark is."""
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    marked: int | None = None
    names: dict[str, str] = {}
    after_tool = False
    for index, message in enumerate(messages):
        role = role_of(message, index)
        given = parts_of(message, index)
        is_marked = "cache_control" in message or any("cache_control" in part for part in given)
        if role == "system":
            system.extend(_part(part) for part in given)
            marked = 0 if is_marked and marked is None else marked
            continue
        if role == "tool":
            parts = [_response(message, index, names)]
        else:
            parts = [_part(part) for part in given if part != {"type": "text", "text": ""}]
            for call in tool_calls_of(message, index):
                name, arguments = called(call)
                names[str(call.get("id"))] = name
                parts.append(_call(model, call, name, arguments))
        if role == "tool" and after_tool:
            # The results of parallel calls belong into one turn.
            contents[-1]["parts"].extend(parts)
        elif parts:
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
        if is_marked:
            marked = len(contents)
        after_tool = role == "tool"
    return system, contents, marked


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    image = image_of(part)
    if isinstance(image, tuple):
        return {"inline_data": {"mime_type": image[0], "data": image[1]}}
    if image is not None:
        return {"file_data": {"file_uri": image}}
    if "text" in part:
        return {"text": str(part["text"])}
    # One of Google's own parts.
    return {key: value for key, value in part.items() if key not in ("type", "cache_control")}


def _call(
    model: str, call: Mapping[str, Any], name: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    part: dict[str, Any] = {"function_call": {"name": name, "args": arguments}}
    signature = signature_of(call)
    if signature is not None:
        try:
            part["thought_signature"] = base64.urlsafe_b64decode(signature)
        except ValueError:
            raise InputError(
                "expected the thought_signature of a tool call in URL-safe base64, got something "
                "else: pass on extra_content as it came with the answer."
            ) from None
    elif not model.startswith(("gemini-1", "gemini-2")):
        part["thought_signature"] = _NO_SIGNATURE
    return part


def signature_of(call: Mapping[str, Any]) -> str | None:
    """The signature that a tool call carries, in URL-safe base64; None without one."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, Mapping) else None
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    return signature if isinstance(signature, str) else None


def _response(message: Message, index: int, names: Mapping[str, str]) -> dict[str, Any]:
    text = "".join(str(part.get("text") or "") for part in parts_of(message, index))
    try:
        result = json.loads(text)
    except ValueError:
        result = None
    name = names.get(str(message.get("tool_call_id"))) or message.get("name") or "unknown"
    # The API takes an object; what is none is the result as a whole.
    response = result if isinstance(result, dict) else {"result": text}
    return {"function_response": {"name": name, "response": response}}
