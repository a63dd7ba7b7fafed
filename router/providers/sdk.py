"""What the providers share: lazy clients of an SDK, one call, one stream, errors without secrets.

A subclass says how its SDK's client is made and called, how a request is shaped and an answer read.
The SDK is imported at the first call: that takes a second or more, and a program that routes
without calling anything shall not pay it.

``batch_calls`` stands beside this module and reuses the same ``_request`` of each provider.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from router.errors import CpsRouterError, InputError, MissingExtraError, ProviderError
from router.providers.base import Answer, CacheMarks, Chunk, Prompt
from router.providers.caching import CachePolicy, cache_policy
from router.providers.failures import failure
from router.providers.shaping import is_json, unsendable

# How long a provider may be silent where the caller does not say: what the SDKs themselves allow.
DEFAULT_TIMEOUT_S = 600.0


class Collector(Protocol):
    """Puts a streamed answer together."""

    def add(self, event: Any) -> str:
        """Takes one event of the SDK's stream; the text that it brings, '' for none."""
        ...

    def answer(self) -> Answer:
        """The whole answer; raises CutError where the stream has not come to its end."""
        ...


class SdkProvider(ABC):
    """A provider behind its official SDK; keeps the protocol in ``router.providers.base``.

    One synchronous client, and one asynchronous client for each event loop that uses it, since its
    connections belong to the loop.
    """

    id: str
    _package: str
    _extra: str
    _key_variables: tuple[str, ...] = ()

    def __init__(
        self, api_key: str | None = None, *, base_url: str | None = None, **sdk_options: Any
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._sdk_options = sdk_options
        self._lock = threading.Lock()
        self._client: Any = None
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = (
            weakref.WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r})"

    # What a subclass says.

    @abstractmethod
    def _new_client(self, sdk: Any, *, asynchronous: bool) -> Any:
        """A client of the imported SDK, with its own retries off."""

    @abstractmethod
    def _request(self, model: str, prompt: Prompt) -> Mapping[str, Any]:
        """The arguments of the SDK's call."""

    @abstractmethod
    def _send(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool
    ) -> Any:
        """The SDK's call; with an asynchronous client, what is to be awaited."""

    @abstractmethod
    def _answer(self, raw: Any) -> Answer:
        """The answer in the SDK's object; raises UnreadableError where there is none."""

    @abstractmethod
    def _collector(self) -> Collector:
        """What puts the events of a stream together."""

    def cache_policy(self, model: str, marks: CacheMarks) -> CachePolicy | None:
        """What the prompt cache of a model does; None where we know of none."""
        return cache_policy(self.id, model, marks.ttl, explicit=marks.explicit)

    # The protocol.

    def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Answer:
        """One answer; the provider may be silent for ``timeout_s``.

        Raises:
            ProviderError: whatever the provider or the network did.
            InputError: the prompt is not in the chat form.
        """
        request = self._shaped(model, prompt)
        client = self._sync_client()
        try:
            return self._answer(self._call(client, request, timeout_s or DEFAULT_TIMEOUT_S))
        except Exception as error:
            failed = self._failed(model, request, error)
        # Outside the handler: the SDK's exception holds the request, and with it prompt and key.
        raise failed

    async def acomplete(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Answer:
        """As ``complete``, awaited."""
        request = self._shaped(model, prompt)
        client = self._async_client()
        try:
            return self._answer(await self._acall(client, request, timeout_s or DEFAULT_TIMEOUT_S))
        except Exception as error:
            failed = self._failed(model, request, error)
        raise failed

    def stream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Iterator[Chunk]:
        """Pieces as they come; ``timeout_s`` is for the silence between two of them.

        Raises:
            ProviderError: whatever went wrong; "cut" for a stream that ends before its end.
            InputError: the prompt is not in the chat form.
        """
        request = self._shaped(model, prompt)
        client = self._sync_client()
        collector = self._collector()
        begun = False
        events: Any = None
        try:
            events = self._call(client, request, timeout_s or DEFAULT_TIMEOUT_S, stream=True)
            for event in events:
                text = collector.add(event)
                begun = True
                if text:
                    yield Chunk(text)
            last = Chunk(answer=collector.answer())
        except Exception as error:
            failed: Exception | None = self._failed(model, request, error, streaming=begun)
        else:
            failed = None
        finally:
            if hasattr(events, "close"):
                events.close()
        if failed is not None:
            raise failed
        yield last

    async def astream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> AsyncIterator[Chunk]:
        """As ``stream``, awaited."""
        request = self._shaped(model, prompt)
        client = self._async_client()
        collector = self._collector()
        begun = False
        events: Any = None
        try:
            events = await self._acall(client, request, timeout_s or DEFAULT_TIMEOUT_S, stream=True)
            async for event in events:
                text = collector.add(event)
                begun = True
                if text:
                    yield Chunk(text)
            last = Chunk(answer=collector.answer())
        except Exception as error:
            failed: Exception | None = self._failed(model, request, error, streaming=begun)
        else:
            failed = None
        finally:
            close = getattr(events, "aclose", None) or getattr(events, "close", None)
            if close is not None:
                await close()
        if failed is not None:
            raise failed
        yield last

    def close(self) -> None:
        """Close the synchronous client; a later call opens another.

        Asynchronous clients are closed by ``aclose``, in their own event loops.
        """
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the running event loop's client, and the synchronous one."""
        with self._lock:
            client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await self._close_async(client)
        self.close()

    # Whose fault it is.

    def _shaped(self, model: str, prompt: Prompt) -> Mapping[str, Any]:
        """The arguments of the SDK's call; whatever goes wrong here is the prompt's fault.

        Raises:
            InputError: the prompt cannot be shaped; nothing was sent.
        """
        try:
            return self._request(model, prompt)
        except InputError:
            raise
        except Exception:
            failed = unsendable(self.id)
        # Outside the handler: what was raised may quote the prompt.
        raise failed

    def _failed(
        self, model: str, request: Mapping[str, Any], error: Exception, *, streaming: bool = False
    ) -> CpsRouterError:
        """What to raise for what came out of a call."""
        failed = failure(self.id, model, error, streaming=streaming)
        # SDKs raise the same errors for a request that they cannot write and an answer that they
        # cannot read: which it was, the request shows.
        if failed.kind == "malformed" and not streaming and not is_json(request):
            return unsendable(self.id)
        return failed

    # Hooks with a usual answer.

    def _call(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool = False
    ) -> Any:
        return self._send(client, request, timeout_s, stream=stream)

    async def _acall(
        self, client: Any, request: Mapping[str, Any], timeout_s: float, *, stream: bool = False
    ) -> Any:
        return await self._send(client, request, timeout_s, stream=stream)

    async def _close_async(self, client: Any) -> None:
        await client.close()

    # Clients.

    def _key(self) -> str:
        """The key that was given, or the environment's."""
        key = self._api_key or next(
            (os.environ[name] for name in self._key_variables if os.environ.get(name)), None
        )
        if key is None:
            raise ProviderError(
                f"expected a key for {self.id}, got none: set {self._key_variables[0]}, "
                "or give api_key.",
                kind="auth",
            )
        return key

    def _sdk(self) -> Any:
        try:
            return import_module(self._package)
        except ModuleNotFoundError:
            missing = MissingExtraError(self._package, self._extra, f"Calling {self.id}")
        raise missing

    def _sync_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._new_client(self._sdk(), asynchronous=False)
            return self._client

    def _async_client(self) -> Any:
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._async_clients.get(loop)
            if client is None:
                client = self._new_client(self._sdk(), asynchronous=True)
                self._async_clients[loop] = client
            return client
