"""Gemini's generateContent and cachedContents on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.wire.openai_server import event, pieces
from tests.wire.server import FakeServer, Received, Reply, status

USAGE: dict[str, Any] = {
    "promptTokenCount": 2500,
    "cachedContentTokenCount": 2000,
    "candidatesTokenCount": 180,
    "thoughtsTokenCount": 120,
    "totalTokenCount": 2800,
}
_FINISH = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}


class GoogleServer(FakeServer):
    """``GoogleProvider(base_url=server.url)``; keeps the caches that were created.

    ``caches`` maps name to what was sent for it; ``refuse_caches`` is a status to answer their
    creation with, ``refuse_updates`` one for their refresh. A request with a cache that is not
    there, or with a cache and what belongs into it, is refused as by the API.
    """

    def __init__(self) -> None:
        super().__init__()
        self.caches: dict[str, Any] = {}
        self.refuse_caches: int | None = None
        self.refuse_updates: int | None = None
        self._n_created = 0

    def reset(self) -> None:
        super().reset()
        self.caches.clear()
        self.refuse_caches = self.refuse_updates = None

    def default(self) -> Reply:
        return answer("Paris.")

    def wants_stream(self, received: Received) -> bool:
        return received.path.endswith(":streamGenerateContent")

    @property
    def cache_calls(self) -> list[tuple[str, str]]:
        """Method and path of what was asked of the caches."""
        return [
            (received.method, received.path.partition("/cachedContents")[2])
            for received in self.requests
            if "/cachedContents" in received.path
        ]

    @property
    def generated(self) -> list[Any]:
        """The bodies of the requests to generate."""
        return [received.json for received in self.requests if ":" in received.path]

    def route(self, received: Received) -> Reply | None:
        if "/cachedContents" in received.path:
            return self._cache(received)
        body = received.json
        name = body.get("cachedContent")
        if name is None:
            return None
        if name not in self.caches:
            message = "CachedContent not found (or permission denied)"
            return status(403, {"error": {"code": 403, "message": message}})
        if any(field in body for field in ("systemInstruction", "tools", "toolConfig")):
            return status(400, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}})
        return None

    def _cache(self, received: Received) -> Reply:
        name = "cachedContents" + received.path.partition("/cachedContents")[2]
        if received.method == "POST":
            if self.refuse_caches is not None:
                return status(self.refuse_caches, {"error": {"code": self.refuse_caches}})
            self._n_created += 1
            name = f"cachedContents/c{self._n_created}"
            self.caches[name] = received.json
        elif name not in self.caches:
            message = "CachedContent not found (or permission denied)"
            return status(404, {"error": {"code": 404, "message": message}})
        elif received.method == "PATCH" and self.refuse_updates is not None:
            message = "The caller does not have permission"
            return status(self.refuse_updates, {"error": {"message": message}})
        elif received.method == "DELETE":
            del self.caches[name]
            return Reply(b"{}")
        usage = {"totalTokenCount": 5000}
        return Reply(json.dumps({"name": name, "usageMetadata": usage}).encode())


def answer(
    text: str | None = "Paris.",
    *,
    usage: object = USAGE,
    tool_calls: Sequence[Mapping[str, Any]] = (),
    finish_reason: str = "stop",
    model: str = "gemini-2.5-flash",
    signature: str | None = None,
    thought: str | None = None,
) -> Reply:
    """A response, plain and streamed; ``tool_calls`` in the chat form, ``usage`` None: left out.

    ``signature`` (base64) is put on the first tool call.
    """
    reason = _FINISH.get(finish_reason, finish_reason)
    calls: list[dict[str, Any]] = []
    for call in tool_calls:
        function = call["function"]
        made = {"name": function["name"], "args": json.loads(function["arguments"])}
        calls.append({"functionCall": {**made, **({"id": call["id"]} if call["id"] else {})}})
    if calls and signature is not None:
        calls[0]["thoughtSignature"] = signature
    thoughts = [{"text": thought, "thought": True}] if thought is not None else []
    head: dict[str, Any] = {"modelVersion": model, "responseId": "resp_1"}

    def chunk(parts: Sequence[Any], finish: str | None = None, report: object = None) -> Any:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        made = {**head, "candidates": [candidate]}
        return made if report is None else {**made, "usageMetadata": report}

    whole = chunk([*thoughts, *([{"text": text}] if text else []), *calls], reason, usage)
    # Every chunk reports what was counted so far; the last one counts.
    so_far = {"promptTokenCount": 2500, "candidatesTokenCount": 1} if usage is not None else None
    streamed = [[part] for part in [*thoughts, *({"text": p} for p in pieces(text or ""))]]
    if calls:
        streamed.append(calls)
    events = [event(chunk(parts, None, so_far)) for parts in streamed or [[]]]
    events.append(event(chunk([], reason, usage)))
    return Reply(json.dumps(whole).encode(), events)


def blocked(reason: str = "SAFETY") -> Reply:
    """A prompt that was not answered at all."""
    usage = {"promptTokenCount": 10, "totalTokenCount": 10}
    body = {"promptFeedback": {"blockReason": reason}, "usageMetadata": usage}
    return Reply(json.dumps(body).encode(), [event(body)])
