"""Google's Gemini API: the call, the answer, the tokens, and its explicit caches."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from typing import Any

from router.providers.base import Answer, Prompt
from router.providers.counts import UnknownCountError, count, plain, usage_or_unknown
from router.providers.failures import CutError, UnreadableError
from router.providers.google_batch import LIMITS, GoogleBatches
from router.providers.google_caches import Call, GoogleCaches, Outcome, Use, is_gone, with_cache
from router.providers.google_request import Shaped, generate_request
from router.providers.sdk import DEFAULT_TIMEOUT_S
from router.usage import Usage

_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        ),
        "content_filter",
    ),
}
_TTL_S = {"5m": 300, "1h": 3600}


def usage_of(reported: Mapping[str, Any] | None) -> Usage | None:
    """The usage of a response; None where it is missing or cannot be read.

    Google's prompt includes what was cached, and not what its own tools read; its candidates do
    not include the thoughts, which are billed as output. Names may be the SDK's or the wire's.

    >>> report = {"prompt_token_count": 9, "candidates_token_count": 3, "thoughts_token_count": 40}
    >>> usage_of(report).output_tokens
    43
    """
    if not isinstance(reported, Mapping):
        return None
    named = {_snake(str(name)): value for name, value in reported.items()}
    try:
        prompt = count(named, "prompt_token_count")
        tools = count(named, "tool_use_prompt_token_count") or 0
        candidates = count(named, "candidates_token_count")
        thoughts = count(named, "thoughts_token_count") or 0
        total = count(named, "total_token_count")
        cached = count(named, "cached_content_token_count") or 0
    except UnknownCountError:
        return None
    if prompt is None:
        return None
    if candidates is None:
        # A count of 0 is left out. Only the total says whether it is 0 or was not counted.
        if total is None or total != prompt + tools + thoughts:
            return None
        candidates = 0
    if cached > prompt:
        return None
    return usage_or_unknown(
        input_tokens=prompt + tools,
        output_tokens=candidates + thoughts,
        cached_input_tokens=cached,
        reasoning_tokens=thoughts,
    )


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


class GoogleProvider(GoogleBatches):
    """generateContent, alone and in batches, through the ``google-genai`` SDK.

    Args:
        api_key: Else ``GOOGLE_API_KEY`` or ``GEMINI_API_KEY``.
        base_url: Else Google.
        max_caches: So many explicit caches are kept at a time.
        sdk_options: For the SDK's client; ``vertexai``, ``project``, ``credentials`` need no key.
            With the first there are no batches: Vertex AI takes them from its own storage only.
    """

    id = "google"
    _package = "google.genai"
    _extra = "google"
    _key_variables = ("GOOGLE_API_KEY", "GEMINI_API_KEY")

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        max_caches: int = 32,
        **sdk_options: Any,
    ) -> None:
        super().__init__(api_key, base_url=base_url, **sdk_options)
        self._caches = GoogleCaches(max_caches)
        if not (sdk_options.get("vertexai") or sdk_options.get("enterprise")):
            self.batch_limits = LIMITS

    def _new_client(self, sdk: Any, *, asynchronous: bool) -> Any:
        options = dict(self._sdk_options)
        if not {"vertexai", "enterprise", "credentials"} & set(options):
            options["api_key"] = self._key()
        # Including the first: 1 is no retry.
        http_options: dict[str, Any] = {"retry_options": {"attempts": 1}}
        if self._base_url is not None:
            http_options["base_url"] = self._base_url
        options["http_options"] = {**http_options, **options.get("http_options", {})}
        if not asynchronous:
            return sdk.Client(**options)
        return _AsyncClient(sdk, options)

    async def _close_async(self, client: _AsyncClient) -> None:
        await client.aclose()

    def _request(self, model: str, prompt: Prompt) -> dict[str, Any]:
        marks = prompt.cache
        return {
            "model": model,
            "shaped": generate_request(model, prompt),
            "ttl_s": _TTL_S[marks.ttl] if marks.enabled and marks.explicit else None,
        }

    def _send(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool
    ) -> Any:
        shaped: Shaped = request["shaped"]
        types = self._sdk().types
        try:
            types.GenerateContentConfig.model_validate(shaped.config)
            for content in shaped.contents:
                types.Content.model_validate(content)
        except ValueError:
            # The SDK would say the same of an answer that it cannot read.
            raise TypeError("config or contents") from None
        call = client.models.generate_content_stream if stream else client.models.generate_content
        return call(
            model=request["model"],
            contents=shaped.contents,
            config={**shaped.config, **_limited(timeout_s)},
        )

    # Explicit caches.

    def _call(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool = False
    ) -> Any:
        use = self._run(client, self._steps(request), timeout_s)
        if use is not None:
            try:
                return self._begin(client, _cached(request, use), timeout_s, stream=stream)
            except Exception as error:
                if not is_gone(error):
                    raise
                self._caches.forget(use.key)
        return self._begin(client, request, timeout_s, stream=stream)

    async def _acall(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool = False
    ) -> Any:
        use = await self._arun(client, self._steps(request), timeout_s)
        if use is not None:
            try:
                return await self._abegin(client, _cached(request, use), timeout_s, stream=stream)
            except Exception as error:
                if not is_gone(error):
                    raise
                self._caches.forget(use.key)
        return await self._abegin(client, request, timeout_s, stream=stream)

    def _steps(self, request: Mapping[str, Any]) -> Generator[Call, Outcome, Use | None]:
        if request["ttl_s"] is None:
            return None
        return (
            yield from self._caches.steps(request["model"], request["shaped"], request["ttl_s"])
        )

    def _begin(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool
    ) -> Any:
        raw = self._send(client, request, timeout_s, stream=stream)
        # The SDK sends a stream's request when the first piece is asked for.
        return _with_first(next(raw, None), raw) if stream else raw

    async def _abegin(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool
    ) -> Any:
        raw = await self._send(client, request, timeout_s, stream=stream)
        return _awith_first(await anext(raw, None), raw) if stream else raw

    def _run(self, client: Any, steps: Generator[Call, Outcome, Any], timeout_s: float) -> Any:
        outcome: Outcome | None = None
        try:
            while True:
                call = steps.send(outcome) if outcome is not None else next(steps)
                try:
                    made = getattr(client.caches, call.operation)(**_timed(call, timeout_s))
                    outcome = Outcome(made)
                except Exception as error:
                    outcome = Outcome(error=error)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    async def _arun(
        self, client: Any, steps: Generator[Call, Outcome, Any], timeout_s: float
    ) -> Any:
        outcome: Outcome | None = None
        try:
            while True:
                try:
                    call = steps.send(outcome) if outcome is not None else next(steps)
                except StopIteration as end:
                    return end.value
                try:
                    made = await getattr(client.caches, call.operation)(**_timed(call, timeout_s))
                    outcome = Outcome(made)
                except Exception as error:
                    outcome = Outcome(error=error)
        finally:
            steps.close()

    def delete_caches(self) -> int:
        """Delete the explicit caches that this provider made; how many it could delete."""
        if self._caches.is_empty:
            return 0
        self._caches.forget_all()
        n_deleted: int = self._run(self._sync_client(), self._caches.deletions(), DEFAULT_TIMEOUT_S)
        return n_deleted

    async def adelete_caches(self) -> int:
        """As ``delete_caches``, awaited."""
        if self._caches.is_empty:
            return 0
        self._caches.forget_all()
        n_deleted: int = await self._arun(
            self._async_client(), self._caches.deletions(), DEFAULT_TIMEOUT_S
        )
        return n_deleted

    def close(self) -> None:
        """Delete the explicit caches, and close the synchronous client."""
        self.delete_caches()
        super().close()

    async def aclose(self) -> None:
        """Delete the explicit caches, close the running event loop's client and the other one."""
        await self.adelete_caches()
        await super().aclose()

    # Answers.

    def _answer(self, raw: Any) -> Answer:
        collector = _Response()
        collector.add(raw)
        return collector.answer(raw)

    def _collector(self) -> _Response:
        return _Response()


class _AsyncClient:
    """The SDK's asynchronous side, over the network library of its synchronous one.

    Left alone, the SDK changes to aiohttp where that happens to be installed, in a way that aiohttp
    warns about, and with other exceptions.
    """

    def __init__(self, sdk: Any, options: dict[str, Any]) -> None:
        library = getattr(sdk.errors, "httpx2", None) or getattr(sdk.errors, "httpx", None)
        self._connections: Any = None
        if library is not None and "httpx_async_client" not in options["http_options"]:
            self._connections = library.AsyncClient(follow_redirects=True, timeout=None)
            http_options = {**options["http_options"], "httpx_async_client": self._connections}
            options = {**options, "http_options": http_options}
        self._client = sdk.Client(**options)
        self.models = self._client.aio.models
        self.caches = self._client.aio.caches

    async def aclose(self) -> None:
        await self._client.aio.aclose()
        self._client.close()
        if self._connections is not None:
            await self._connections.aclose()


class _Response:
    """Puts a response together, from its chunks or from the one that it is."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._finish: str | None = None
        self._usage: object = None
        self._model: str | None = None
        self._id: str | None = None

    def add(self, event: Any) -> str:
        self._model = event.model_version or self._model
        self._id = event.response_id or self._id
        self._usage = event.usage_metadata or self._usage
        if event.prompt_feedback is not None and event.prompt_feedback.block_reason is not None:
            self._finish = "content_filter"
        text = ""
        for candidate in (event.candidates or ())[:1]:
            content = candidate.content
            for piece in (content.parts if content is not None else None) or ():
                if piece.function_call is not None:
                    self._calls.append(_tool_call(piece))
                elif piece.text and not piece.thought:
                    text += piece.text
            if candidate.finish_reason is not None:
                reason = getattr(candidate.finish_reason, "value", str(candidate.finish_reason))
                self._finish = _FINISH.get(reason, reason.lower())
        self._texts.append(text)
        return text

    def answer(self, raw: Any = None) -> Answer:
        if self._finish is None:
            # A whole response without an end has no candidates: it is no answer.
            raise CutError if raw is None else UnreadableError("no candidates")
        finish = "tool_calls" if self._calls and self._finish == "stop" else self._finish
        return Answer(
            text="".join(self._texts),
            usage=usage_of(plain(self._usage)),
            tool_calls=tuple(self._calls),
            finish_reason=finish,
            model=self._model,
            provider_request_id=self._id,
            raw=raw,
        )


def _tool_call(piece: Any) -> dict[str, Any]:
    called = piece.function_call
    call: dict[str, Any] = {
        # Gemini gives none; the other providers want one, and no two the same.
        "id": called.id or f"call_{uuid.uuid4().hex[:16]}",
        "type": "function",
        "function": {"name": called.name, "arguments": json.dumps(called.args or {})},
    }
    if piece.thought_signature:
        signature = base64.urlsafe_b64encode(piece.thought_signature).decode()
        call["extra_content"] = {"google": {"thought_signature": signature}}
    return call


def _cached(request: Mapping[str, Any], use: Use) -> dict[str, Any]:
    return {**request, "shaped": with_cache(request["shaped"], use)}


def _limited(timeout_s: float) -> dict[str, Any]:
    return {"http_options": {"timeout": max(1, round(timeout_s * 1000))}}


def _timed(call: Call, timeout_s: float) -> dict[str, Any]:
    config = {**call.arguments.get("config", {}), **_limited(timeout_s)}
    return {**call.arguments, "config": config}


def _with_first(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    try:
        if first is not None:
            yield first
            yield from rest
    finally:
        rest.close()  # type: ignore[attr-defined]


async def _awith_first(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        if first is not None:
            yield first
            async for event in rest:
                yield event
    finally:
        await rest.aclose()  # type: ignore[attr-defined]
