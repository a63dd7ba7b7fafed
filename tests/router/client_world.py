"""What the tests of the client share: tiers with round prices, a clock, a ledger that can fail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from router.client import RoutedClient
from router.decision import Decision
from router.errors import LedgerError, RoutingError
from router.keyword import KeywordRouter
from router.providers.base import Provider
from router.records import AttemptRecord, RequestRecord
from router.testing import FakeProvider
from router.tiers import Tier, TierSet

EASY = [{"role": "user", "content": "Translate this: good morning"}]
HARD = [{"role": "user", "content": "Compare both, analyze why and debug it"}]


def tier(name: str, provider: str, input_usd: float, output_usd: float, **more: Any) -> Tier:
    return Tier(
        name,
        provider,
        f"{name}-model",
        input_price_usd_per_mtok=input_usd,
        output_price_usd_per_mtok=output_usd,
        **more,
    )


TIERS = TierSet(
    [
        tier("nano", "one", 1.0, 4.0),
        tier("mid", "two", 10.0, 40.0),
        tier("frontier", "one", 100.0, 400.0),
    ]
)


class World:
    """A monotonic clock, a wall clock and a sleep that moves both."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall = datetime(2026, 6, 1, tzinfo=UTC)
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return self.wall

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self.wall += timedelta(seconds=seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


class MemoryLedger:
    """A ledger in memory; while ``down`` it takes nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[RequestRecord, tuple[AttemptRecord, ...]]] = []
        self.requests: dict[str, RequestRecord] = {}
        self.attempts: dict[str, dict[int, AttemptRecord]] = {}
        self.down: Exception | None = None
        self.n_tried = 0
        self.feedbacks: list[tuple[Any, ...]] = []

    def record(self, request: RequestRecord, attempts: Sequence[AttemptRecord] = ()) -> None:
        self.n_tried += 1
        if self.down is not None:
            raise self.down
        self.calls.append((request, tuple(attempts)))
        kept_request = self.requests.get(request.request_id)
        if kept_request is not None and kept_request.done and not request.done:
            return  # as the ledger does: an earlier state undoes nothing
        self.requests[request.request_id] = request
        kept = self.attempts.setdefault(request.request_id, {})
        kept.update({attempt.attempt: attempt for attempt in attempts})

    def feedback(
        self,
        request_id: str,
        success: float,
        *,
        score: float | None = None,
        source: str = "user",
        at: datetime | None = None,
    ) -> bool:
        self.feedbacks.append((request_id, success, score, source, at))
        return request_id in self.requests

    def made(self, request_id: str) -> list[AttemptRecord]:
        return list(self.attempts.get(request_id, {}).values())


LOCKED = LedgerError("the ledger is locked: try again.")


def client_of(
    answers: Any = "ok",
    *,
    world: World | None = None,
    router: Any = None,
    providers: dict[str, Provider] | None = None,
    **options: Any,
) -> tuple[RoutedClient, FakeProvider]:
    """A client over three tiers and one fake provider for all of them; waits are drawn at 1."""
    world = world or World()
    fake = FakeProvider(
        answers, cache=None, clock=world.clock, sleep=world.sleep, asleep=world.asleep
    )
    if router is None:
        router, options["tiers"] = KeywordRouter(), options.get("tiers", TIERS)
    settings: dict[str, Any] = {
        "providers": {"one": fake, "two": fake} if providers is None else providers,
        "clock": world.clock,
        "now": world.now,
        "sleep": world.sleep,
        "asleep": world.asleep,
        "draw": lambda: 1.0,
        **options,
    }
    return RoutedClient(router, **settings), fake


class PlanRouter:
    """A stand-in for a learned router whose decisions and plans a test dictates."""

    def __init__(self, plan: Sequence[str], tiers: TierSet = TIERS, explored: bool = False) -> None:
        self.tiers = tiers
        self._plan = list(plan)
        self._explored = explored
        self.asked: list[dict[str, Any]] = []
        self.planned: list[dict[str, Any]] = []
        self.policy = type("Policy", (), {"strongest": len(tiers) - 1})()
        head = type("Head", (), {"fitted": type("Mask", (), {"any": lambda self: False})()})()
        self.predictor = type("P", (), {"cost": type("C", (), {"output_tokens": head})()})()

    def exploring(self, exploration: None) -> PlanRouter:
        if not self._explored:
            return self
        other = PlanRouter(self._plan[1:], self.tiers)
        other.asked = self.asked
        return other

    def route(self, query: str, **options: Any) -> Decision:
        self.asked.append({"query": query, **options})
        costs = {name: 0.001 * 10**place for place, name in enumerate(self.tiers.names)}
        pin, exclude = options.get("pin"), options.get("exclude", ())
        left = [name for name in self._plan + list(self.tiers.names) if name not in exclude]
        if pin is None and not left:
            raise RoutingError("expected a tier, got none.")
        name = pin or left[0]
        return Decision(
            name,
            self.tiers[self.tiers.index(name)].model,
            dict.fromkeys(self.tiers.names, 0.5),
            dict(costs),
            1.0,
            "policy",
            "planned",
            certified=True,
            request_id=options.get("request_id"),
            explored=self._explored,
        )

    def plan(self, query: str, **options: Any) -> list[str]:
        self.planned.append({"query": query, **options})
        left = [name for name in self._plan if name not in options.get("exclude", ())]
        if not left:
            left = [n for n in self.tiers.names if n not in options.get("exclude", ())][:1]
        if not left:
            raise RoutingError("expected a tier, got none.")
        return left
