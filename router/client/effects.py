"""What a request needs from the outside, as values; and the two drivers that fetch it.

The flow of a request (`router.client.dispatch`) is a generator that yields these and is sent what
they gave, or thrown what they raised. It waits for nothing itself, so that the sync and the async
client are one flow with two thin drivers, and a test can be a third.

Providers raise ProviderError for whatever went wrong. Whatever else comes out of one may carry a
prompt or a key in its message: it is replaced here by a ProviderError with the type's name alone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from router.errors import InputError, ProviderError
from router.providers.base import Answer, Prompt, Provider
from router.records import AttemptRecord, RequestRecord
from router.verifiers import AnswerCheck, is_async_check

if TYPE_CHECKING:
    from router.client.recording import Recording

T = TypeVar("T")
# How much longer than it was told a provider may take until the async client cancels its call.
GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to do outside the flow."""

    calls_model: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CallModel(Effect):
    """Gives an Answer."""

    calls_model: ClassVar[bool] = True
    provider: Provider
    model: str
    prompt: Prompt
    timeout_s: float


@dataclass(frozen=True, slots=True)
class OpenStream(CallModel):
    """Gives the stream."""


@dataclass(frozen=True, slots=True)
class NextChunk(Effect):
    """Gives the next Chunk of a stream, None at its end."""

    calls_model: ClassVar[bool] = True
    stream: Any
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CloseStream(Effect):
    """Lets go of a stream."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Emit(Effect):
    """Hands a piece of text to the reader of a stream."""

    text: str


@dataclass(frozen=True, slots=True)
class Sleep(Effect):
    """Waits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Verify(Effect):
    """Gives what a check says."""

    check: AnswerCheck
    answer: Answer
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Record(Effect):
    """Gives whether the ledger has acknowledged it."""

    request: RequestRecord
    attempts: tuple[AttemptRecord, ...]
    first: bool = False


class Abandoned(BaseException):
    """The reader of a stream has left.

    GeneratorExit says so to the driver, but cannot be thrown into a flow: ``yield from`` would
    close the inner generators, which then could not let go of the stream and record the attempt.
    """


Flow = Generator[Effect, Any, T]


class SyncWorld:
    """Does effects, and waits for each."""

    def __init__(self, recording: Recording, sleep: Callable[[float], object]) -> None:
        self._recording = recording
        self._sleep = sleep

    def run(self, flow: Flow[T]) -> T:
        """To the flow's end."""
        texts = self.texts(flow)
        while True:
            try:
                next(texts)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    def texts(self, flow: Flow[T]) -> Generator[str, None, T]:
        """What the flow emits; its result is the generator's."""
        step: Callable[[Any], Effect] = flow.send
        value: Any = None
        while True:
            try:
                effect = step(value)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            except Abandoned:
                raise GeneratorExit from None
            step, value = flow.send, None
            try:
                if isinstance(effect, Emit):
                    yield effect.text
                else:
                    value = self._do(effect)
            except BaseException as error:  # all of them are the flow's business, even an exit
                step, value = flow.throw, _for_flow(effect, error)

    def _do(self, effect: Effect) -> Any:
        if isinstance(effect, Record):
            return self._recording.record(effect.request, effect.attempts, first=effect.first)
        if isinstance(effect, OpenStream):
            return effect.provider.stream(effect.model, effect.prompt, timeout_s=effect.timeout_s)
        if isinstance(effect, CallModel):
            return effect.provider.complete(effect.model, effect.prompt, timeout_s=effect.timeout_s)
        if isinstance(effect, NextChunk):
            stream: Iterator[Any] = effect.stream
            return next(stream, None)
        if isinstance(effect, CloseStream):
            close = getattr(effect.stream, "close", None)
            return None if close is None else close()
        if isinstance(effect, Sleep):
            return self._sleep(effect.seconds)
        assert isinstance(effect, Verify)
        result = effect.check(effect.answer, effect.prompt)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise InputError(
                "expected a verifier that gives its verdict at once, got an async one: use it with "
                "acomplete, or make it a plain function."
            )
        return result


class AsyncWorld:
    """Does effects on the event loop; the ledger and plain verifiers, in a thread beside it."""

    def __init__(self, recording: Recording, sleep: Callable[[float], Any]) -> None:
        self._recording = recording
        self._sleep = sleep

    async def run(self, flow: Flow[T]) -> T:
        """To the flow's end."""
        results: list[T] = []
        async for _ in self.texts(flow, results.append):
            pass
        return results[0]

    async def texts(
        self, flow: Flow[T], on_result: Callable[[T], object]
    ) -> AsyncGenerator[str, None]:
        """What the flow emits; its result is handed to ``on_result``."""
        step: Callable[[Any], Effect] = flow.send
        value: Any = None
        while True:
            try:
                effect = step(value)
            except StopIteration as stop:
                on_result(stop.value)
                return
            except Abandoned:
                raise GeneratorExit from None
            step, value = flow.send, None
            try:
                if isinstance(effect, Emit):
                    yield effect.text
                else:
                    value = await self._do(effect)
            except BaseException as error:
                step, value = flow.throw, _for_flow(effect, error)

    async def _do(self, effect: Effect) -> Any:
        if isinstance(effect, Record):
            if self._recording.ledger is None:
                return False
            # Shielded: a record that is under way is finished, whoever is cancelled meanwhile.
            work = asyncio.to_thread(
                self._recording.record, effect.request, effect.attempts, first=effect.first
            )
            return await asyncio.shield(asyncio.ensure_future(work))
        if isinstance(effect, OpenStream):
            return effect.provider.astream(effect.model, effect.prompt, timeout_s=effect.timeout_s)
        if isinstance(effect, CallModel):
            async with asyncio.timeout(effect.timeout_s + GRACE_S):
                return await effect.provider.acomplete(
                    effect.model, effect.prompt, timeout_s=effect.timeout_s
                )
        if isinstance(effect, NextChunk):
            stream: AsyncIterator[Any] = effect.stream
            async with asyncio.timeout(effect.timeout_s + GRACE_S):
                return await anext(stream, None)
        if isinstance(effect, CloseStream):
            close = getattr(effect.stream, "aclose", None)
            return None if close is None else await close()
        if isinstance(effect, Sleep):
            return await self._sleep(effect.seconds)
        assert isinstance(effect, Verify)
        if is_async_check(effect.check):
            result: Any = effect.check(effect.answer, effect.prompt)
        else:
            result = await asyncio.to_thread(effect.check, effect.answer, effect.prompt)
        return await result if inspect.isawaitable(result) else result


def _for_flow(effect: Effect, error: BaseException) -> BaseException:
    """The error as the flow may see it: of a provider's, nothing but what a ProviderError says."""
    if isinstance(error, GeneratorExit):
        return Abandoned()
    if not effect.calls_model or not isinstance(error, Exception):
        return error
    if isinstance(error, ProviderError | InputError):
        # What it was made from may carry the prompt or the key.
        error.__cause__ = error.__context__ = None
        return error
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return ProviderError(f"no answer in time ({name})", kind="timeout", billed=True)
    if isinstance(error, OSError):
        return ProviderError(f"the provider cannot be reached ({name})", kind="outage", billed=True)
    return ProviderError(
        f"expected an answer, got an unexpected {name} from the provider: report it to its author.",
        kind="malformed",
        billed=True,
    )
