"""A prompt as the arguments of a chat completion, with the marks of OpenAI's cache.

The chat form is OpenAI's own: messages pass as they are, without other providers' marks. OpenAI
caches by itself from 1,024 tokens. From gpt-5.6 on it can be told where a prefix ends instead, and
then writes nothing else, which matters because from there on a write has a price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.providers.base import Prompt
from router.providers.caching import has_breakpoints, min_cacheable_tokens
from router.providers.shaping import (
    estimated_prompt_tokens,
    function_of,
    parts_of,
    role_of,
    stable,
    tool_calls_of,
    without_marks,
)

MAX_BREAKPOINTS = 4
BREAKPOINT = {"mode": "explicit"}


def chat_request(
    model: str, prompt: Prompt, *, max_tokens_field: str, openai_caching: bool
) -> dict[str, Any]:
    """The arguments of ``chat.completions.create``; ``prompt.options`` have the last word.

    ``max_tokens_field`` is what the API calls the limit of the output; ``openai_caching`` whether
    it knows OpenAI's cache parameters.
    """
    messages = [_message(message, index) for index, message in enumerate(prompt.messages)]
    request: dict[str, Any] = {"model": model}
    if prompt.tools:
        request["tools"] = [_tool(tool, index) for index, tool in enumerate(prompt.tools)]
    request["messages"] = messages
    if prompt.max_output_tokens is not None:
        request[max_tokens_field] = prompt.max_output_tokens
    if prompt.temperature is not None:
        request["temperature"] = prompt.temperature
    marks = prompt.cache
    if openai_caching and marks.enabled:
        if marks.key is not None:
            request["prompt_cache_key"] = marks.key
        if marks.explicit and has_breakpoints(model):
            request["prompt_cache_options"] = {"mode": "explicit", "ttl": "30m"}
            _set_breakpoints(model, prompt, messages, request.get("tools", ()))
    return {**request, **prompt.options}


def _tool(tool: Mapping[str, Any], index: int) -> Any:
    function = without_marks(function_of(tool, index))
    return stable({**without_marks(tool), "function": function})


def _message(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    role_of(message, index)
    result = without_marks(message)
    if isinstance(message.get("content"), list | tuple):
        result["content"] = [without_marks(part) for part in parts_of(message, index)]
    else:
        parts_of(message, index)  # refuses what is neither text nor parts
    calls = tool_calls_of(message, index)
    if calls:
        result["tool_calls"] = [without_marks(call) for call in calls]
    return result


def _set_breakpoints(
    model: str, prompt: Prompt, messages: list[dict[str, Any]], tools: Sequence[Any]
) -> None:
    """Mark the end of the system prompt and, in a conversation, of its last two turns.

    The user's own marks come first. A prefix that is too short is left unmarked.
    """
    marked = [
        (index, number)
        for index, message in enumerate(prompt.messages)
        for number, part in enumerate(parts_of(message, index))
        if "cache_control" in part or "prompt_cache_breakpoint" in part
    ]
    positions = [(index, None) for index in breakpoint_messages(prompt.messages)]
    least = min_cacheable_tokens("openai", model) or 0
    tokens = estimated_prompt_tokens(tools)
    prefix_tokens = []
    for message in messages:
        tokens += estimated_prompt_tokens(message)
        prefix_tokens.append(tokens)
    free = MAX_BREAKPOINTS
    done: set[int] = set()
    for index, number in [*marked[-free:], *positions]:
        if free == 0 or (number is None and (index in done or prefix_tokens[index] < least)):
            continue
        content = messages[index].get("content")
        if isinstance(content, str) and content:
            messages[index]["content"] = content = [{"type": "text", "text": content}]
        if not content or isinstance(content, str):
            continue
        part = content[-1 if number is None else number]
        part["prompt_cache_breakpoint"] = dict(BREAKPOINT)
        done.add(index)
        free -= 1


def breakpoint_messages(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Which messages end a prefix worth keeping, the most valuable first.

    The last of the system messages at the beginning, shared by all conversations; and where there
    is a conversation, its last message, from which the next turn goes on, and the end of the turn
    before, which the last request wrote. A single question is in no later prompt: it is not marked.

    >>> roles = ["system", "user", "assistant", "user"]
    >>> breakpoint_messages([{"role": role, "content": "x"} for role in roles])
    [0, 3, 1]
    """
    roles = [role_of(message, index) for index, message in enumerate(messages)]
    n_system = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    found = [n_system - 1] if n_system else []
    if "assistant" in roles[:-1]:
        last_answer = len(roles) - 2 - roles[-2::-1].index("assistant")
        found.append(len(roles) - 1)
        if last_answer - 1 >= n_system:
            found.append(last_answer - 1)
    return found
