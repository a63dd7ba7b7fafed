"""A prompt as the arguments of Anthropic's Messages API.

The system messages of the chat form become the ``system`` blocks, wherever they stood; tool
messages become results in a user turn; everything is sent as blocks, since only a block can carry
a cache mark and text that turned from a string into a block would be another prompt in our logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.providers.anthropic_marks import set_marks
from router.providers.base import Message, Prompt, Tool
from router.providers.reuse import Reuse
from router.providers.shaping import (
    MARKS,
    called,
    function_of,
    image_of,
    parts_of,
    role_of,
    stable,
    tool_calls_of,
)

# The API wants a limit; long enough for an answer, short enough that a runaway one is cheap.
DEFAULT_MAX_OUTPUT_TOKENS = 4096


def messages_request(
    model: str,
    prompt: Prompt,
    *,
    default_max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
    reuse: Reuse | None = None,
) -> dict[str, Any]:
    """The arguments of ``messages.create``; ``prompt.options`` have the last word.

    ``reuse`` remembers which beginnings are used how often; without it all are worth a mark.

    ``prompt.temperature`` is left out, as the API takes none any more.
    """
    tools = [_tool(tool, index) for index, tool in enumerate(prompt.tools)]
    system, messages = _turns(prompt.messages)
    if prompt.cache.enabled:
        set_marks(model, tools, system, messages, prompt, reuse)
    request: dict[str, Any] = {"model": model}
    if tools:
        request["tools"] = tools
    if system:
        request["system"] = system
    request["messages"] = messages
    request["max_tokens"] = (
        default_max_output_tokens if prompt.max_output_tokens is None else prompt.max_output_tokens
    )
    # No temperature: since its version 2026-10-21 the API refuses any, and a prompt that other
    # tiers take shall not fail on this one.
    return {**request, **prompt.options}


def _tool(tool: Tool, index: int) -> dict[str, Any]:
    function = function_of(tool, index)
    result: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        result["description"] = function["description"]
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    result["input_schema"] = stable(schema)
    if function.get("strict") is not None:
        result["strict"] = function["strict"]
    mark = tool.get("cache_control") or function.get("cache_control")
    if mark:
        result["cache_control"] = mark
    return result


def _turns(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """System blocks, and the turns of user and assistant."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    after_tool = False
    for index, message in enumerate(messages):
        role = role_of(message, index)
        blocks = [_block(part) for part in parts_of(message, index)]
        if role == "system":
            system.extend(_marked(blocks, message))
            continue
        if role == "tool":
            result: dict[str, Any] = {
                "type": "tool_result",
                "tool_use_id": message.get("tool_call_id"),
                "content": blocks,
            }
            # A mark within a result is one on the result: that is where our count looks.
            for mark in [block.pop("cache_control", None) for block in blocks]:
                if mark:
                    result["cache_control"] = mark
            blocks = [result]
        elif role == "assistant":
            # An answer of tool calls alone comes with an empty text, which the API refuses.
            blocks = [block for block in blocks if block != {"type": "text", "text": ""}]
            blocks += [_tool_use(call) for call in tool_calls_of(message, index)]
        blocks = _marked(blocks, message)
        if role == "tool" and after_tool:
            # The results of parallel calls belong into one turn.
            turns[-1]["content"].extend(blocks)
        elif blocks:
            turns.append({"role": "user" if role == "tool" else role, "content": blocks})
        after_tool = role == "tool"
    return system, turns


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    image = image_of(part)
    kept = {"cache_control": part["cache_control"]} if part.get("cache_control") else {}
    if image is None:
        # Text, and Anthropic's own blocks (thinking, documents), pass as they are.
        return {**{key: value for key, value in part.items() if key not in MARKS}, **kept}
    source = (
        {"type": "url", "url": image}
        if isinstance(image, str)
        else {"type": "base64", "media_type": image[0], "data": image[1]}
    )
    return {"type": "image", "source": source, **kept}


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    name, arguments = called(call)
    return {"type": "tool_use", "id": call.get("id"), "name": name, "input": arguments}


def _marked(blocks: list[dict[str, Any]], message: Message) -> list[dict[str, Any]]:
    """The blocks, the last of them with the mark that the user gave the whole message."""
    mark = message.get("cache_control")
    if mark and blocks:
        blocks[-1]["cache_control"] = mark
    return blocks
