"""FakeProvider: a provider without a network, for tests of code that calls models.

It answers from a script, counts tokens by a simple rule, keeps a prompt cache like the real ones,
streams, takes as long as it is told to (by an injected sleep) and remembers how it was called.

>>> from router.providers.base import Prompt
>>> provider = FakeProvider({"small": "four", "large": ["one", OSError("down")]})
>>> provider.complete("small", Prompt(({"role": "user", "content": "2 + 2?"},))).text
'four'
>>> [call.model for call in provider.calls]
['small']
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.errors import InputError, ProviderError
from router.providers.base import Answer, CacheMarks, Chunk, Prompt
from router.providers.caching import CachePolicy
from router.usage import Usage

# Like the chat formats of real models, each message costs a little more than its words.
TOKENS_PER_MESSAGE = 4
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MAX_CACHED_PROMPTS = 256
# A prefix is kept from 32 tokens on, so that short tests see a cache at work.
DEFAULT_CACHE = CachePolicy(min_tokens=32, ttl_s=300.0, writes_reported=True)


@dataclass(frozen=True, slots=True)
class Cut:
    """A script's answer whose stream ends after some pieces; a call that is not streamed fails."""

    text: str
    after_chunks: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was made; ``at_s`` by the provider's clock."""

    model: str
    prompt: Prompt
    timeout_s: float | None
    streamed: bool
    at_s: float = field(compare=False)


Script = str | Answer | Cut | BaseException | Callable[[Prompt], Any]


def count_tokens(text: str) -> int:
    """Words and punctuation marks, each one token; never more than the text has bytes.

    >>> count_tokens("Hello, world!")
    4
    """
    return len(_TOKEN.findall(text))


class FakeProvider:
    """A scripted provider. Safe to share between threads.

    Args:
        answers: What models say, by model; or one script for all of them. A script is a text, an
            `Answer` (given as it is, without usage where it has none), a `Cut`, an error to raise,
            a function of the prompt that returns one of these, or a list of them: one per call,
            the last one again and again.
        id: The provider's id.
        latency_s: How long an answer (a stream's first piece) takes. Where a call may take no
            longer than ``timeout_s`` and this is more, it fails as a time-out does.
        cache: Rules of the prompt cache; None for a provider without one.
        clock: Seconds, for the cache.
        sleep: What waits, and ``asleep`` in async calls.
        asleep: See ``sleep``.

    Attributes:
        calls: The calls made, in order.
        open_streams: Streams that were begun and neither read to the end nor closed.
    """

    def __init__(
        self,
        answers: Mapping[str, Script | Sequence[Script]] | Script | Sequence[Script] = "ok",
        *,
        id: str = "fake",
        latency_s: float = 0.0,
        cache: CachePolicy | None = DEFAULT_CACHE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        asleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.id = id
        self.latency_s = latency_s
        self.calls: list[Call] = []
        self.open_streams = 0
        self._answers = answers
        self._given: dict[str, int] = {}
        self._cache = cache
        self._clock = clock
        self._sleep = sleep
        self._asleep = asleep
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple[str, tuple[str, ...]], float] = OrderedDict()

    def cache_policy(self, model: str, marks: CacheMarks) -> CachePolicy | None:
        """The rules given as ``cache``, for every model."""
        return self._cache

    def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Answer:
        """One answer, after ``latency_s``."""
        script = self._begin(model, prompt, timeout_s, streamed=False)
        wait_s, late = self._wait(timeout_s)
        if wait_s:
            self._sleep(wait_s)
        return self._end(model, prompt, script, late)

    async def acomplete(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Answer:
        """As ``complete``, awaited."""
        script = self._begin(model, prompt, timeout_s, streamed=False)
        wait_s, late = self._wait(timeout_s)
        if wait_s:
            await self._asleep(wait_s)
        return self._end(model, prompt, script, late)

    def stream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Iterator[Chunk]:
        """The answer word by word."""
        script = self._begin(model, prompt, timeout_s, streamed=True)
        with _Open(self):
            wait_s, late = self._wait(timeout_s)
            if wait_s:
                self._sleep(wait_s)
            yield from self._chunks(model, prompt, script, late)

    async def astream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> AsyncIterator[Chunk]:
        """As ``stream``, awaited."""
        script = self._begin(model, prompt, timeout_s, streamed=True)
        with _Open(self):
            wait_s, late = self._wait(timeout_s)
            if wait_s:
                await self._asleep(wait_s)
            for chunk in self._chunks(model, prompt, script, late):
                yield chunk

    def _begin(
        self, model: str, prompt: Prompt, timeout_s: float | None, *, streamed: bool
    ) -> Script:
        with self._lock:
            self.calls.append(Call(model, prompt, timeout_s, streamed, self._clock()))
            scripts = self._answers
            if isinstance(scripts, Mapping):
                if model not in scripts:
                    raise InputError(
                        f"expected a script for the model {model!r}, got scripts for "
                        f"{', '.join(map(repr, scripts))}: add one to the answers."
                    )
                scripts = scripts[model]
            if isinstance(scripts, list | tuple):
                place = self._given.get(model, 0)
                self._given[model] = place + 1
                script: Script = scripts[min(place, len(scripts) - 1)]
                return script
            return scripts  # type: ignore[return-value]

    def _wait(self, timeout_s: float | None) -> tuple[float, bool]:
        """How long to wait, and whether the time is then up."""
        if timeout_s is not None and self.latency_s > timeout_s:
            return timeout_s, True
        return self.latency_s, False

    def _end(self, model: str, prompt: Prompt, script: Script, late: bool) -> Answer:
        result = self._result(prompt, script, late)
        if isinstance(result, Cut):
            raise ProviderError("the answer was cut, as scripted", kind="cut", billed=True)
        return result if isinstance(result, Answer) else self._answer(model, prompt, result)

    def _chunks(self, model: str, prompt: Prompt, script: Script, late: bool) -> Iterator[Chunk]:
        result = self._result(prompt, script, late)
        text = result if isinstance(result, str) else result.text
        for n, piece in enumerate(re.findall(r"\s*\S+|\s+$", text)):
            if isinstance(result, Cut) and n >= result.after_chunks:
                break
            yield Chunk(piece)
        if isinstance(result, Cut):
            raise ProviderError("the stream was cut, as scripted", kind="cut", billed=True)
        answer = result if isinstance(result, Answer) else self._answer(model, prompt, text)
        yield Chunk(answer=answer)

    def _result(self, prompt: Prompt, script: Script, late: bool) -> str | Answer | Cut:
        if late:
            raise ProviderError("no answer in time, as scripted", kind="timeout", billed=True)
        result = script
        if callable(result) and not isinstance(result, BaseException):
            result = result(prompt)
        if isinstance(result, ProviderError):
            # A new one: one that is raised again and again would gather tracebacks and notes.
            raise ProviderError(
                str(result),
                kind=result.kind,
                retry_after_s=result.retry_after_s,
                billed=result.billed,
            )
        if isinstance(result, BaseException):
            raise copy.copy(result)
        return result

    def _answer(self, model: str, prompt: Prompt, text: str) -> Answer:
        tokens = _tokens(prompt)
        n_input = len(tokens) + TOKENS_PER_MESSAGE * len(prompt.messages)
        n_output = count_tokens(text)
        finish = "stop"
        limit = prompt.max_output_tokens
        if limit is not None and n_output > limit:
            ends = [found.end() for found in _TOKEN.finditer(text)]
            text, n_output, finish = text[: ends[limit - 1]] if limit else "", limit, "length"
        cached, written = self._use_cache(model, prompt, tokens, n_input)
        policy = self._cache
        long_lived = policy is not None and policy.ttl_s >= 3600.0
        usage = Usage(n_input, n_output, cached, written, written if long_lived else 0)
        return Answer(text, usage, finish_reason=finish, model=model)

    def _use_cache(
        self, model: str, prompt: Prompt, tokens: tuple[str, ...], n_input: int
    ) -> tuple[int, int]:
        """Tokens read from the cache and written to it."""
        policy = self._cache
        if policy is None or not (policy.automatic or prompt.cache.enabled):
            return 0, 0
        now = self._clock()
        with self._lock:
            longest = 0
            for (other, kept), stored_s in list(self._cached.items()):
                if now - stored_s > policy.ttl_s or now < stored_s:
                    del self._cached[other, kept]
                    continue
                common = _common(tokens, kept) if other == model else 0
                if common and policy.cacheable_tokens(common) and policy.refreshed_by_hits:
                    self._cached[other, kept] = now
                longest = max(longest, common)
            self._cached[model, tokens] = now
            while len(self._cached) > _MAX_CACHED_PROMPTS:
                self._cached.popitem(last=False)
        cached = policy.cacheable_tokens(longest)
        whole = policy.cacheable_tokens(n_input)
        return cached, max(whole - cached, 0) if policy.writes_reported else 0


class _Open:
    """Counts a stream while it is open."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        with self._provider._lock:
            self._provider.open_streams += 1

    def __exit__(self, *error: object) -> None:
        with self._provider._lock:
            self._provider.open_streams -= 1


def _tokens(prompt: Prompt) -> tuple[str, ...]:
    """Of tools and messages in the order in which a model reads them."""
    parts = [json.dumps(tool, default=str) for tool in prompt.tools]
    for message in prompt.messages:
        content = message.get("content")
        parts.append(content if isinstance(content, str) else json.dumps(content, default=str))
    return tuple(token for part in parts for token in _TOKEN.findall(part))


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Length of the common prefix."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
