"""OpenAI's chat completions on the wire; also DeepSeek's, and of whoever copies them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.wire.server import FakeServer, Received, Reply

USAGE: dict[str, Any] = {
    "prompt_tokens": 2500,
    "completion_tokens": 300,
    "total_tokens": 2800,
    "prompt_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 120},
}


class OpenAIServer(FakeServer):
    """``OpenAIProvider(base_url=server.url)``."""

    def default(self) -> Reply:
        return answer("Paris.")

    def wants_stream(self, received: Received) -> bool:
        return bool(received.json.get("stream"))


def answer(
    text: str | None = "Paris.",
    *,
    usage: object = USAGE,
    tool_calls: Sequence[Mapping[str, Any]] = (),
    finish_reason: str = "stop",
    model: str = "gpt-5-nano-2025-08-07",
    refusal: str | None = None,
) -> Reply:
    """A completion, plain and streamed (in words); ``usage`` None leaves it out."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    head = {"id": "chatcmpl-1", "created": 1764000000, "model": model}
    whole: dict[str, Any] = {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    if usage is not None:
        whole["usage"] = usage

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": word}) for word in pieces(text or "")]
    if refusal:
        events.append(chunk({"refusal": refusal}))
    for index, call in enumerate(tool_calls):
        function = call["function"]
        start = {"index": index, "id": call["id"], "type": "function"}
        events.append(chunk({"tool_calls": [{**start, "function": {**function, "arguments": ""}}]}))
        events += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in pieces(function["arguments"])
        ]
    events.append(chunk({}, finish_reason))
    if usage is not None:
        last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        events.append(event(last))
    events.append(b"data: [DONE]\n\n")
    return Reply(json.dumps(whole).encode(), events)


def event(data: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def pieces(text: str) -> list[str]:
    """The text in pieces of a few characters, as tokens come."""
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def tool_call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    """A call in the chat form."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
