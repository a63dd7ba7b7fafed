"""The protocol that providers keep, and the words it is spoken in: Prompt, Answer, Chunk.

A prompt's messages are in the chat form that most SDKs know: mappings with ``role`` ("system",
"user", "assistant", "tool") and ``content`` (text, or a list of parts); tools are function tools in
the same form, ``{"type": "function", "function": {"name", "description", "parameters"}}``. Each
provider shapes them into its own request.

Nothing here, and no error, shows a prompt, an answer or a key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from router.providers.caching import CachePolicy
from router.usage import Usage

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CacheMarks:
    """What a caller wants of the provider's prompt cache.

    ``enabled`` False marks nothing (a provider that caches by itself may still do so). ``ttl`` is
    how long a written prefix shall live, where the provider lets one choose. ``key`` groups
    requests that share a prefix, where the provider routes by it. ``explicit`` asks for a cache
    that we create and delete ourselves, where the provider has both kinds.
    """

    enabled: bool = True
    ttl: Literal["5m", "1h"] = "5m"
    key: str | None = None
    explicit: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a model; ``options`` go to the SDK's call as they are."""

    messages: tuple[Message, ...] = field(repr=False)
    tools: tuple[Tool, ...] = field(default=(), repr=False)
    max_output_tokens: int | None = None
    temperature: float | None = None
    cache: CacheMarks = field(default_factory=CacheMarks)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said; ``usage`` None where the provider did not say what it took.

    ``tool_calls`` are in the chat form, ``{"id", "type": "function", "function": {"name",
    "arguments"}}`` with the arguments as JSON text. ``finish_reason`` is "stop", "length",
    "tool_calls", "content_filter" or the provider's own word. ``raw`` is the SDK's object.
    """

    text: str = field(repr=False)
    usage: Usage | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    finish_reason: str | None = None
    model: str | None = None
    provider_request_id: str | None = None
    raw: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; the last one has no text and carries the whole ``answer``."""

    text: str = field(default="", repr=False)
    answer: Answer | None = None


@runtime_checkable
class Provider(Protocol):
    """One provider's API. Safe to share between threads; ``id`` is its id in the price book.

    Calls raise ProviderError, and nothing else, for whatever the provider or the network did; they
    try once: whether to wait, to retry or to fall back is for the caller.
    """

    id: str

    def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Answer:
        """One answer."""
        ...

    async def acomplete(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Answer:
        """As ``complete``, awaited."""
        ...

    def stream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Iterator[Chunk]:
        """Pieces as they come; a stream that ends without its last chunk raises ProviderError."""
        ...

    def astream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> AsyncIterator[Chunk]:
        """As ``stream``, awaited."""
        ...

    def cache_policy(self, model: str, marks: CacheMarks) -> CachePolicy | None:
        """What the prompt cache of a model does; None where there is none."""
        ...
