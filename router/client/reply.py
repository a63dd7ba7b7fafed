"""Reply: an answer with how it was come by; and streams, which have one at their end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from router.decision import Decision
from router.errors import InputError
from router.providers.base import Answer
from router.records import NANOUSD_PER_USD, AttemptRecord


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer that is served.

    ``verified`` is what the verifier says of it: None where there was none, or it could not tell.
    ``recorded`` is True where the ledger has acknowledged the request; False without a ledger, and
    where its record still waits.
    """

    text: str = field(repr=False)
    answer: Answer = field(repr=False)
    decision: Decision
    request_id: str
    attempts: tuple[AttemptRecord, ...]
    verified: bool | None = None
    recorded: bool = False

    @property
    def tier(self) -> str:
        """The tier that answered; not the decision's where the plan went on."""
        return next(a.tier for a in self.attempts if a.served)

    @property
    def known_cost_usd(self) -> float:
        """What is known of the cost: all attempts whose cost is known."""
        return sum(a.cost_nanousd or 0 for a in self.attempts) / NANOUSD_PER_USD

    @property
    def cost_usd(self) -> float | None:
        """The cost of all attempts; None where that of any is unknown."""
        if any(attempt.cost_nanousd is None for attempt in self.attempts):
            return None
        return self.known_cost_usd


class ReplyStream:
    """The texts of an answer as they come; ``reply`` afterwards.

    Close it, or use it in a ``with`` block, where it may not be read to its end: the request is
    then recorded as cut. Nothing is sent before the first text is asked for.
    """

    def __init__(self, texts: Generator[str, None, Reply]) -> None:
        self._texts = texts
        self._reply: Reply | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            return next(self._texts)
        except StopIteration as stop:
            self._reply = self._reply or stop.value
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave; what was not read is not read."""
        self._texts.close()

    @property
    def reply(self) -> Reply:
        """What the stream was. Raises InputError before its end, or where it had none."""
        return _ended(self._reply)


class AsyncReplyStream:
    """As `ReplyStream`, for ``async for`` and ``async with``."""

    def __init__(
        self, texts: Callable[[Callable[[Reply], object]], AsyncGenerator[str, None]]
    ) -> None:
        self._reply: Reply | None = None
        self._texts = texts(self._keep)

    def _keep(self, reply: Reply) -> None:
        self._reply = reply

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._texts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave; what was not read is not read."""
        await self._texts.aclose()

    @property
    def reply(self) -> Reply:
        """What the stream was. Raises InputError before its end, or where it had none."""
        return _ended(self._reply)


def _ended(reply: Reply | None) -> Reply:
    if reply is None:
        raise InputError(
            "expected a stream that was read to its end, got one that was not: read all of its "
            "texts, then ask for the reply."
        )
    return reply
