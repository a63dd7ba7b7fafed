"""RoutedClient: route a request, call the model, escalate, fall back, keep within a limit, record.

>>> from router.keyword import KeywordRouter
>>> from router.testing import FakeProvider
>>> from router.tiers import Tier, TierSet
>>> tiers = TierSet([Tier("small", "fake", "s-1"), Tier("large", "fake", "l-1")])
>>> router = KeywordRouter.for_tiers(tiers.names)
>>> client = RoutedClient(router, tiers=tiers, providers={"fake": FakeProvider("Bonjour")})
>>> reply = client.complete([{"role": "user", "content": "Translate to French: good morning"}])
>>> reply.text, reply.tier
('Bonjour', 'small')

Nothing of a prompt, an answer or a key is in what this logs, raises or prints as.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from router.cache_state import CacheState
from router.client.breaker import Breaker
from router.client.choosing import CacheSeam, chooser_of
from router.client.cost_limit import check_limit
from router.client.dispatch import Flight
from router.client.effects import AsyncWorld, Flow, SyncWorld
from router.client.flight import Job, Parts
from router.client.jobs import UNSET, RequestOptions, job_of
from router.client.prompt_caches import caches_of
from router.client.recording import DEFAULT_MAX_WAITING, Recorder, Recording
from router.client.reply import AsyncReplyStream, Reply, ReplyStream
from router.client.request_costs import Prices
from router.client.retrying import Retrying
from router.errors import InputError
from router.prices import PriceBook
from router.providers.base import CacheMarks, Message, Provider, Tool
from router.tiers import TierSet
from router.verifiers import AnswerCheck, rates_of

__all__ = ["AsyncReplyStream", "Reply", "ReplyStream", "RoutedClient"]


class RoutedClient:
    """Calls models through a router. Safe to share between threads, and between tasks.

    Args:
        router: A `Router`, or a `KeywordRouter` with ``tiers``.
        tiers: The tiers of a KeywordRouter.
        providers: By id. Those that are missing are made on first use, from the environment.
        ledger: Keeps every request; `router.client.recording` says what happens where it is down.
        verifier: Judges answers: ``(answer, prompt) -> bool | Verdict``; see `router.verifiers`.
        max_cost_usd: No request costs more than this, all its attempts together.
        price_book: Prices for the limit and the records.
        timeout_s: For one call of a model. The sync client relies on providers to keep it; the
            async one cancels a call that does not.
        deadline_s: For a whole request.
        retries: See `Retrying`, and so ``max_wait_s`` and ``backoff_s``.
        max_wait_s: See there.
        backoff_s: See there.
        breaker: Of the tiers, to share it between clients; by default one of its own.
        max_waiting: So many records wait in memory while the ledger takes none.
        spill_path: Where records go beyond that; a file that holds the text of queries.
        cache_state: What is believed warm in prompt caches, in place of the router's own; for
            example ``CacheState(store=ledger)``, which processes share. What implements
            `router.client.choosing.CacheSeam` is asked before routing and told after each attempt.
        clock: Monotonic seconds.
        now: The time of records, aware.
        sleep: Waits, and ``asleep`` in async calls.
        asleep: See ``sleep``.
        draw: Random numbers in [0, 1), for waits.

    Raises:
        InputError: an argument is none of these.
    """

    def __init__(
        self,
        router: object,
        *,
        tiers: TierSet | None = None,
        providers: Mapping[str, Provider] | None = None,
        ledger: Recorder | None = None,
        verifier: AnswerCheck | None = None,
        max_cost_usd: float | None = None,
        price_book: PriceBook | None = None,
        timeout_s: float = 60.0,
        deadline_s: float = 180.0,
        retries: int = 2,
        max_wait_s: float = 5.0,
        backoff_s: float = 0.5,
        breaker: Breaker | None = None,
        max_waiting: int = DEFAULT_MAX_WAITING,
        spill_path: str | Path | None = None,
        cache_state: CacheState | CacheSeam | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], object] = time.sleep,
        asleep: Callable[[float], Any] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        check_limit(max_cost_usd)
        if verifier is not None:
            rates_of(verifier)
        book = PriceBook() if price_book is None else price_book
        router, seam = caches_of(router, cache_state, book)
        chooser = chooser_of(router, tiers, seam)
        names = chooser.tiers.names
        self.router = router
        self.tiers = chooser.tiers
        self._verifier = verifier
        self._max_cost_usd = max_cost_usd
        self._providers: dict[str, Provider] = dict(providers or {})
        self._made: dict[str, Provider] = {}
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._recording = Recording(
            ledger, max_waiting=max_waiting, spill_path=spill_path, clock=clock
        )
        self._parts = Parts(
            chooser=chooser,
            provider_of=self._provider_of,
            breaker=Breaker(names, clock=clock, draw=draw) if breaker is None else breaker,
            prices=Prices(book),
            retrying=Retrying(timeout_s, deadline_s, retries, max_wait_s, backoff_s, draw),
            keeps_records=ledger is not None,
            cache=seam,
            clock=clock,
            now=now,
        )
        self._sync = SyncWorld(self._recording, sleep)
        self._async = AsyncWorld(self._recording, asleep)

    def __repr__(self) -> str:
        return f"RoutedClient({type(self.router).__name__}, tiers={list(self.tiers.names)})"

    def complete(
        self,
        messages: Sequence[Message],
        *,
        query: str | None = None,
        tools: Sequence[Tool] = (),
        request_id: str | None = None,
        session: str | None = None,
        task: str | None = None,
        verifier: AnswerCheck | None = UNSET,
        max_cost_usd: float | None = UNSET,
        input_tokens_at_most: int | None = None,
        max_output_tokens: int | None = None,
        temperature: float | None = None,
        pin: str | None = None,
        exclude: Iterable[str] = (),
        needs: Iterable[str] = (),
        expected_turns: float | None = None,
        options: Mapping[str, Any] | None = None,
        cache: CacheMarks | None = None,
    ) -> Reply:
        """One answer.

        Args:
            messages: In the chat form.
            query: What is routed on; by default the text of the last message of the user.
            tools: Function tools in the chat form.
            request_id: Yours, one per request; made where not given.
            session: Name of the conversation.
            task: What it is for, kept in the ledger.
            verifier: In place of the client's; None for none.
            max_cost_usd: In place of the client's; None for none.
            input_tokens_at_most: Where there is a limit: your word on the length of the input,
                needed where a message has parts that are no text.
            max_output_tokens: The longest answer. Where there is a limit and this is not given, as
                many as the limit pays for, from 256 to 4,096.
            temperature: Of the model.
            pin: The tier to use, whatever the router says and with no other in its place.
            exclude: Tiers not to use.
            needs: Features that the tier must have.
            expected_turns: Turns still expected of the session.
            options: More arguments for the SDK's call.
            cache: What is wanted of the provider's prompt cache.

        Raises:
            ProviderError: every tier that was tried failed; the last failure.
            CostLimitError: no tier fits the limit; nothing was sent.
            RoutingError: no tier can take the request.
            InputError: an argument is at fault, or a request of that id is under way.
        """
        given: dict[str, Any] = {
            "query": query,
            "tools": tools,
            "request_id": request_id,
            "session": session,
            "task": task,
            "verifier": verifier,
            "max_cost_usd": max_cost_usd,
            "input_tokens_at_most": input_tokens_at_most,
            "max_output_tokens": max_output_tokens,
            "temperature": temperature,
            "pin": pin,
            "exclude": exclude,
            "needs": needs,
            "expected_turns": expected_turns,
            "options": options,
            "cache": cache,
        }
        return self._sync.run(self._flow(messages, given, is_async=False))

    async def acomplete(
        self, messages: Sequence[Message], **options: Unpack[RequestOptions]
    ) -> Reply:
        """As ``complete``, awaited; a verifier may be async."""
        return await self._async.run(self._flow(messages, options, is_async=True))

    def stream(self, messages: Sequence[Message], **options: Unpack[RequestOptions]) -> ReplyStream:
        """As ``complete``, but text by text as it comes; ``.reply`` afterwards.

        Until the first text another tier may take over; a stream that breaks off later raises
        ProviderError of kind "cut". What was read cannot be taken back: a verifier says at the end
        whether the answer passes, and no other tier is tried.
        """
        flow = self._flow(messages, options, is_async=False, streamed=True)
        return ReplyStream(self._sync.texts(flow))

    def astream(
        self, messages: Sequence[Message], **options: Unpack[RequestOptions]
    ) -> AsyncReplyStream:
        """As ``stream``, for ``async for``."""
        flow = self._flow(messages, options, is_async=True, streamed=True)

        def texts(on_result: Callable[[Reply], object]) -> AsyncGenerator[str, None]:
            return self._async.texts(flow, on_result)

        return AsyncReplyStream(texts)

    def feedback(
        self,
        request_id: str,
        success: float,
        *,
        score: float | None = None,
        source: str = "user",
        at: datetime | None = None,
    ) -> bool:
        """Tell the ledger how good an answer was; False where it does not know the request (yet).

        Raises:
            InputError: there is no ledger, or the feedback is none.
            LedgerError: it cannot be kept now.
        """
        ledger = self._recording.ledger
        if ledger is None:
            raise InputError(
                "expected a client with a ledger to keep feedback, got one without: give "
                "ledger=Ledger(path)."
            )
        return ledger.feedback(request_id, success, score=score, source=source, at=at)

    async def afeedback(self, request_id: str, success: float, **options: Any) -> bool:
        """As ``feedback``, awaited."""
        return await asyncio.to_thread(self.feedback, request_id, success, **options)

    def flush(self) -> int:
        """Offer the ledger what it has not taken yet; how many requests still wait."""
        return self._recording.flush()

    @property
    def n_waiting(self) -> int:
        """Requests whose records wait for the ledger."""
        return self._recording.n_waiting

    @property
    def n_dropped(self) -> int:
        """Requests whose records are lost."""
        return self._recording.n_dropped

    def close(self) -> None:
        """Flush, spill what the ledger does not take, close the providers that were made here.

        The ledger and the providers that were given stay open: they are yours.
        """
        self._recording.close()
        for provider in self._taken_back():
            close = getattr(provider, "close", None)
            if close is not None:
                close()

    async def aclose(self) -> None:
        """As ``close``, awaited."""
        await asyncio.to_thread(self._recording.close)
        for provider in self._taken_back():
            close = getattr(provider, "aclose", None) or getattr(provider, "close", None)
            result = None if close is None else close()
            if inspect.isawaitable(result):
                await result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _flow(
        self,
        messages: Sequence[Message],
        given: Mapping[str, Any],
        *,
        is_async: bool,
        streamed: bool = False,
    ) -> Flow[Reply]:
        """The flow of a request; what is wrong with its arguments is raised here, at once."""
        own = {"verifier": self._verifier, "max_cost_usd": self._max_cost_usd}
        set_here = {name: value for name, value in given.items() if value is not UNSET}
        arguments = {**own, **set_here}
        return self._alone(job_of(messages, streamed=streamed, is_async=is_async, **arguments))

    def _alone(self, job: Job) -> Flow[Reply]:
        """Two requests of one id at a time would overwrite each other's records."""
        request_id = job.ask.request_id
        with self._lock:
            taken = request_id in self._under_way
            self._under_way.add(request_id)
        if taken:
            raise InputError(
                "expected a request_id of its own for every request, got one that is under way: "
                "make another, or wait for the first."
            )
        try:
            return (yield from Flight(self._parts, job).run())
        finally:
            with self._lock:
                self._under_way.discard(request_id)

    def _provider_of(self, provider_id: str) -> Provider:
        found = self._providers.get(provider_id)
        if found is None:
            from router.providers import make_provider

            with self._lock:
                found = self._providers.get(provider_id)
                if found is None:
                    found = make_provider(provider_id)
                    self._providers[provider_id] = self._made[provider_id] = found
        return found

    def _taken_back(self) -> list[Provider]:
        """Providers that were made here; the next request makes new ones."""
        with self._lock:
            made = list(self._made.values())
            for provider_id in self._made:
                self._providers.pop(provider_id, None)
            self._made.clear()
        return made
