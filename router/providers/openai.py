"""OpenAI, and whatever speaks its chat completions: the request, the answer, the tokens.

A server that speaks the same language is ``OpenAIProvider(id="groq", base_url="https://...")``: its
key is then looked for in ``GROQ_API_KEY``, never in OpenAI's variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
from router.providers.openai_batch import LIMITS, OpenAIBatches
from router.providers.openai_request import chat_request
from router.usage import Usage


def usage_of(reported: Mapping[str, Any] | None) -> Usage | None:
    """The usage of a chat completion; None where it is missing or cannot be read.

    Prompt tokens include the cached and the written ones, completion tokens the reasoning.

    >>> usage_of({"prompt_tokens": 9, "completion_tokens": 3}).output_tokens
    3
    """
    if not isinstance(reported, Mapping):
        return None
    try:
        prompt = part(reported, "prompt_tokens_details")
        completion = part(reported, "completion_tokens_details")
        return usage_or_unknown(
            input_tokens=needed(reported, "prompt_tokens"),
            output_tokens=needed(reported, "completion_tokens"),
            cached_input_tokens=count(prompt, "cached_tokens") or 0,
            cache_write_tokens=count(prompt, "cache_write_tokens") or 0,
            reasoning_tokens=count(completion, "reasoning_tokens") or 0,
        )
    except UnknownCountError:
        return None


class OpenAIProvider(OpenAIBatches):
    """Chat completions, alone and in batches, through the ``openai`` SDK.

    Args:
        api_key: Else ``OPENAI_API_KEY``, or with another ``id`` the variable named after it.
        base_url: Else ``OPENAI_BASE_URL``, else OpenAI.
        id: The provider's id in the price book.
        batches: Whether the server takes batches as OpenAI does; None: only OpenAI itself.
        sdk_options: For the SDK's client (``organization``, ``default_headers``, ...).
    """

    _package = "openai"
    _extra = "openai"
    _default_base_url: str | None = None

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        id: str = "openai",
        batches: bool | None = None,
        **sdk_options: Any,
    ) -> None:
        super().__init__(api_key, base_url=base_url or self._default_base_url, **sdk_options)
        self.id = id
        if batches or (batches is None and id == "openai"):
            self.batch_limits = LIMITS
        self._key_variables = (f"{re.sub('[^A-Za-z0-9]', '_', id).upper()}_API_KEY",)

    def _new_client(self, sdk: Any, *, asynchronous: bool) -> Any:
        options: dict[str, Any] = {"max_retries": 0, "api_key": self._key(), **self._sdk_options}
        if self._base_url is not None:
            options["base_url"] = self._base_url
        client = (sdk.AsyncOpenAI if asynchronous else sdk.OpenAI)(**options)
        if self.id != "openai":
            # The SDK has taken these from OpenAI's variables, and would send them to somebody else.
            client.organization = self._sdk_options.get("organization")
            client.project = self._sdk_options.get("project")
            client._custom_headers = self._sdk_options.get("default_headers") or {}
        return client

    def _request(self, model: str, prompt: Prompt) -> dict[str, Any]:
        ours = self.id == "openai"
        return chat_request(
            model,
            prompt,
            # Servers that copy the API mostly know the older name only.
            max_tokens_field="max_completion_tokens" if ours else "max_tokens",
            openai_caching=ours,
        )

    def _send(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool
    ) -> Any:
        if stream:
            options = {"stream_options": {"include_usage": True}, **request, "stream": True}
            return client.chat.completions.create(**options, timeout=timeout_s)
        return client.chat.completions.create(**{**request, "stream": False}, timeout=timeout_s)

    def _usage(self, reported: object) -> Usage | None:
        return usage_of(plain(reported))

    def _answer(self, raw: Any) -> Answer:
        choices = getattr(raw, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise UnreadableError("no choices")
        message = choices[0].message
        calls = tuple(_tool_call(call) for call in message.tool_calls or ())
        refusal = getattr(message, "refusal", None)
        return Answer(
            text=_text(message.content) or _text(refusal),
            usage=self._usage(getattr(raw, "usage", None)),
            tool_calls=calls,
            finish_reason="content_filter" if refusal else _finish(choices[0].finish_reason),
            model=getattr(raw, "model", None),
            provider_request_id=getattr(raw, "_request_id", None) or getattr(raw, "id", None),
            raw=raw,
        )

    def _collector(self) -> _ChatCollector:
        return _ChatCollector(self)


class _ChatCollector:
    """Puts the chunks of a streamed completion together."""

    def __init__(self, provider: OpenAIProvider) -> None:
        self._provider = provider
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish: str | None = None
        self._refused = False
        self._usage: object = None
        self._model: str | None = None
        self._id: str | None = None

    def add(self, event: Any) -> str:
        self._model = getattr(event, "model", None) or self._model
        self._id = getattr(event, "id", None) or self._id
        # Some servers report it with the last choice, OpenAI in a chunk of its own.
        self._usage = getattr(event, "usage", None) or self._usage
        text = ""
        for choice in getattr(event, "choices", None) or ():
            if choice.index != 0:
                continue
            refusal = getattr(choice.delta, "refusal", None)
            self._refused |= bool(refusal)
            text += _text(choice.delta.content) or _text(refusal)
            for piece in choice.delta.tool_calls or ():
                self._add_call(piece)
            self._finish = choice.finish_reason or self._finish
        self._texts.append(text)
        return text

    def _add_call(self, piece: Any) -> None:
        call = self._calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
        call["id"] = piece.id or call["id"]
        if piece.function is not None:
            call["name"] += piece.function.name or ""
            call["arguments"] += piece.function.arguments or ""

    def answer(self) -> Answer:
        if self._finish is None:
            raise CutError
        return Answer(
            text="".join(self._texts),
            usage=self._provider._usage(self._usage),
            tool_calls=tuple(
                _call(call["id"], call["name"], call["arguments"])
                for _, call in sorted(self._calls.items())
            ),
            finish_reason="content_filter" if self._refused else _finish(self._finish),
            model=self._model,
            provider_request_id=self._id,
        )


def _text(content: object) -> str:
    if content is None:
        return ""
    if not isinstance(content, str):
        raise UnreadableError("content")
    return content


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _tool_call(call: Any) -> dict[str, Any]:
    return _call(_text(call.id), _text(call.function.name), _text(call.function.arguments))


def _finish(reason: object) -> str | None:
    # "function_call" is the old name of the same end.
    return "tool_calls" if reason == "function_call" else None if reason is None else str(reason)
