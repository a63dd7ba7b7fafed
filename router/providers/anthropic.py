"""Anthropic's Messages API: the call, the answer, the tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from router.providers.anthropic_batch import AnthropicBatches
from router.providers.anthropic_request import DEFAULT_MAX_OUTPUT_TOKENS, messages_request
from router.providers.base import Answer, Prompt
from router.providers.counts import (
    UnknownCountError,
    count,
    needed,
    part,
    plain,
    usage_or_unknown,
)
from router.providers.failures import CutError, UnreadableError
from router.providers.reuse import Reuse
from router.usage import Usage

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def usage_of(reported: Mapping[str, Any] | None) -> Usage | None:
    """The usage of a message; None where it is missing or cannot be read.

    Anthropic's ``input_tokens`` are the fresh ones only: read and written come on top.

    >>> report = {"input_tokens": 500, "output_tokens": 9, "cache_read_input_tokens": 2000}
    >>> usage_of(report).input_tokens
    2500
    """
    if not isinstance(reported, Mapping):
        return None
    try:
        lives = part(reported, "cache_creation")
        of_1h = count(lives, "ephemeral_1h_input_tokens") or 0
        written = count(reported, "cache_creation_input_tokens")
        if written is None:
            written = of_1h + (count(lives, "ephemeral_5m_input_tokens") or 0)
        read = count(reported, "cache_read_input_tokens") or 0
        thinking = count(part(reported, "output_tokens_details"), "thinking_tokens") or 0
        return usage_or_unknown(
            input_tokens=needed(reported, "input_tokens") + read + written,
            output_tokens=needed(reported, "output_tokens"),
            cached_input_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=of_1h,
            reasoning_tokens=thinking,
        )
    except UnknownCountError:
        return None


class AnthropicProvider(AnthropicBatches):
    """The Messages API, alone and in batches, through the ``anthropic`` SDK.

    Args:
        api_key: Else what the SDK finds: ``ANTHROPIC_API_KEY``, ``ANTHROPIC_AUTH_TOKEN``, profile.
        base_url: Else ``ANTHROPIC_BASE_URL``, else Anthropic.
        default_max_output_tokens: The limit of a prompt that gives none; the API wants one.
        sdk_options: For the SDK's client (``default_headers``, ...).
    """

    id = "anthropic"
    _package = "anthropic"
    _extra = "anthropic"

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        default_max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
        **sdk_options: Any,
    ) -> None:
        super().__init__(api_key, base_url=base_url, **sdk_options)
        self._default_max_output_tokens = default_max_output_tokens
        self._reuse = Reuse()

    def _new_client(self, sdk: Any, *, asynchronous: bool) -> Any:
        options: dict[str, Any] = {"max_retries": 0, **self._sdk_options}
        if self._api_key is not None:
            options["api_key"] = self._api_key
        if self._base_url is not None:
            options["base_url"] = self._base_url
        return (sdk.AsyncAnthropic if asynchronous else sdk.Anthropic)(**options)

    def _request(self, model: str, prompt: Prompt) -> dict[str, Any]:
        return messages_request(
            model,
            prompt,
            default_max_output_tokens=self._default_max_output_tokens,
            reuse=self._reuse,
        )

    def _item_request(self, model: str, prompt: Prompt) -> dict[str, Any]:
        # The prompts of a batch are handed in at once: their gaps say nothing.
        return messages_request(
            model, prompt, default_max_output_tokens=self._default_max_output_tokens
        )

    def _send(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool
    ) -> Any:
        return client.messages.create(**{**request, "stream": stream}, timeout=timeout_s)

    def _answer(self, raw: Any) -> Answer:
        content = getattr(raw, "content", None)
        if not isinstance(content, list):
            raise UnreadableError("no content")
        answer = _Message()
        for index, block in enumerate(content):
            answer.start(index, block)
        return answer.finished(
            getattr(raw, "stop_reason", None),
            usage_of(plain(getattr(raw, "usage", None))),
            raw.model,
            raw.id,
            raw,
        )

    def _collector(self) -> _EventCollector:
        return _EventCollector()


class _Message:
    """Text and tool calls of a message, from whole blocks or from their pieces."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        # Index of the block -> id, name, the input as a whole, the input's JSON in pieces.
        self._calls: dict[int, tuple[str, str, object, list[str]]] = {}

    def start(self, index: int, block: Any) -> str:
        """Takes a block, or the beginning of a streamed one; its text."""
        if block.type == "text":
            return self.text(block.text)
        if block.type == "tool_use":
            self._calls[index] = (block.id, block.name, block.input, [])
        return ""

    def text(self, text: object) -> str:
        if not isinstance(text, str):
            raise UnreadableError("text")
        self._texts.append(text)
        return text

    def arguments(self, index: int, piece: str) -> None:
        if index in self._calls:
            self._calls[index][3].append(piece)

    def finished(
        self,
        stop_reason: str | None,
        usage: Usage | None,
        model: str | None,
        message_id: str | None,
        raw: object = None,
    ) -> Answer:
        return Answer(
            text="".join(self._texts),
            usage=usage,
            tool_calls=tuple(
                {
                    "id": call_id,
                    "type": "function",
                    "function": {
                        "name": name,
                        # An input that is empty comes in no pieces.
                        "arguments": "".join(pieces) or json.dumps(whole or {}),
                    },
                }
                for _, (call_id, name, whole, pieces) in sorted(self._calls.items())
            ),
            finish_reason=None if stop_reason is None else _FINISH.get(stop_reason, stop_reason),
            model=model,
            provider_request_id=message_id,
            raw=raw,
        )


class _EventCollector:
    """Puts a stream of message events together."""

    def __init__(self) -> None:
        self._message = _Message()
        self._usage: dict[str, Any] = {}
        self._usage_known = True
        self._model: str | None = None
        self._id: str | None = None
        self._stop_reason: str | None = None
        self._stopped = False

    def add(self, event: Any) -> str:
        kind = event.type
        if kind == "message_start":
            self._model, self._id = event.message.model, event.message.id
            self._report(getattr(event.message, "usage", None))
        elif kind == "content_block_start":
            return self._message.start(event.index, event.content_block)
        elif kind == "content_block_delta":
            if event.delta.type == "text_delta":
                return self._message.text(event.delta.text)
            if event.delta.type == "input_json_delta":
                self._message.arguments(event.index, event.delta.partial_json)
        elif kind == "message_delta":
            self._stop_reason = event.delta.stop_reason or self._stop_reason
            self._report(getattr(event, "usage", None))
        elif kind == "message_stop":
            self._stopped = True
        return ""

    def _report(self, usage: object) -> None:
        """Counts are cumulative: a later one replaces an earlier one, a null one does not."""
        reported = plain(usage)
        # The start counts one token of output; without the last report the rest is unknown.
        self._usage_known = reported is not None
        self._usage.update(
            (name, value) for name, value in (reported or {}).items() if value is not None
        )

    def answer(self) -> Answer:
        if not self._stopped:
            raise CutError
        usage = usage_of(self._usage) if self._usage_known else None
        return self._message.finished(self._stop_reason, usage, self._model, self._id)
