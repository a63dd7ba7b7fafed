"""Anthropic's Messages API on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.wire.openai_server import pieces
from tests.wire.server import FakeServer, Received, Reply

USAGE: dict[str, Any] = {
    "input_tokens": 300,
    "output_tokens": 300,
    "cache_read_input_tokens": 2000,
    "cache_creation_input_tokens": 200,
    "cache_creation": {"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
    "output_tokens_details": {"thinking_tokens": 120},
}
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class AnthropicServer(FakeServer):
    """``AnthropicProvider(base_url=server.url)``."""

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
    model: str = "claude-haiku-4-5-20251001",
    thinking: str | None = None,
) -> Reply:
    """A message, plain and as events; ``tool_calls`` in the chat form; ``usage`` None: left out.

    The stream reports the prompt at its start and the output at its end, as Anthropic does.
    """
    reason = {"content_filter": "refusal", **_STOP}.get(finish_reason, finish_reason)
    head: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
    blocks: list[dict[str, Any]] = []
    if thinking is not None:
        blocks.append({"type": "thinking", "thinking": thinking, "signature": "c2ln"})
    if text is not None:
        blocks.append({"type": "text", "text": text})
    for call in tool_calls:
        function = call["function"]
        tool_use = {"type": "tool_use", "id": call["id"], "name": function["name"]}
        blocks.append({**tool_use, "input": json.loads(function["arguments"])})
    whole = {**head, "content": blocks, "stop_reason": reason, "stop_sequence": None}
    start = {**head, "content": [], "stop_reason": None, "stop_sequence": None}
    last: dict[str, Any] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
    if usage is not None:
        whole["usage"] = usage
        start["usage"] = {**usage, "output_tokens": 1} if isinstance(usage, dict) else usage
        # Only what is cumulative, and without the breakdown by lifetime.
        last["usage"] = (
            {name: value for name, value in usage.items() if name != "cache_creation"}
            if isinstance(usage, dict)
            else usage
        )
    events = [event("message_start", {"message": start}), event("ping", {})]
    for index, block in enumerate(blocks):
        events += _block_events(index, block)
    events += [event("message_delta", last), event("message_stop", {})]
    return Reply(json.dumps(whole).encode(), events)


def _block_events(index: int, block: Mapping[str, Any]) -> list[bytes]:
    if block["type"] == "text":
        empty: dict[str, Any] = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    elif block["type"] == "thinking":
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    else:
        empty = {**block, "input": {}}
        text = json.dumps(block["input"]) if block["input"] else ""
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)]
    return [
        event("content_block_start", {"index": index, "content_block": empty}),
        *(event("content_block_delta", {"index": index, "delta": delta}) for delta in deltas),
        event("content_block_stop", {"index": index}),
    ]


def event(kind: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def error_event(kind: str, message: str = "no") -> bytes:
    """An error in the middle of a stream."""
    return event("error", {"error": {"type": kind, "message": message}})
