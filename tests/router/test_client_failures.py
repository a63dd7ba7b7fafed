"""The client on bad days: each with the outcome that is stated for it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from router.client import Reply, RoutedClient
from router.client import effects as effects
from router.client.breaker import Breaker
from router.errors import FailureKind, InputError, ProviderError, RoutingError
from router.keyword import KeywordRouter
from router.prices import PriceBook
from router.providers.base import Answer, Chunk, Prompt
from router.testing import Cut, FakeProvider
from router.tiers import Tier, TierSet
from router.usage import Usage
from router.verifiers import exact
from tests.router.client_world import EASY, TIERS, MemoryLedger, PlanRouter, World, client_of
from tests.router.test_client import WAYS, in_every_way, short


def failing(kind: FailureKind, **more: Any) -> ProviderError:
    return ProviderError(f"scripted: {kind}", kind=kind, **more)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["timeout", "malformed"])
def test_a_tier_that_fails_gives_way_at_once(way: str, kind: FailureKind) -> None:
    ledger, world = MemoryLedger(), World()
    answers = {"nano-model": failing(kind, billed=True), "mid-model": "fine"}
    router = PlanRouter(["nano", "mid"])
    client, _ = client_of(answers, router=router, ledger=ledger, world=world)
    reply = in_every_way(client)[way](EASY, request_id="r")
    assert reply.text == "fine"
    assert short(reply.attempts) == [
        ("nano", "routed", kind, False),
        ("mid", "fallback", "answered", True),
    ]
    assert short(ledger.made("r")) == short(reply.attempts)
    assert world.slept == []
    # It is the router that chose the other tier, told what is down.
    assert router.asked[-1]["exclude"] == ["nano"]
    assert (reply.decision.tier, reply.decision.reason) == ("mid", "fallback")
    assert reply.decision.certified is False
    # What the failed call cost is unknown, never 0.
    assert reply.attempts[0].cost_nanousd is None
    assert reply.cost_usd is None
    assert reply.known_cost_usd > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["rate-limit", "outage"])
def test_a_busy_tier_is_tried_again_with_growing_waits(way: str, kind: FailureKind) -> None:
    world = World()
    client, _ = client_of({"nano-model": [failing(kind), failing(kind), "late"]}, world=world)
    reply = in_every_way(client)[way](EASY)
    assert reply.text == "late"
    assert [a.role for a in reply.attempts] == ["routed", "retry", "retry"]
    assert world.slept == [0.5, 1.0]
    # Nothing was billed: the failed calls are known to be free.
    assert [a.cost_nanousd for a in reply.attempts[:2]] == [0, 0]
    assert reply.cost_usd == reply.known_cost_usd > 0


def test_after_the_last_retry_another_tier_is_taken() -> None:
    world = World()
    answers = {"nano-model": failing("outage"), "mid-model": "fine"}
    client, fake = client_of(answers, router=PlanRouter(["nano", "mid"]), world=world, retries=1)
    assert client.complete(EASY).tier == "mid"
    assert [call.model for call in fake.calls] == ["nano-model"] * 2 + ["mid-model"]


def test_what_the_provider_asks_for_is_waited_for_up_to_the_longest_wait() -> None:
    world = World()
    busy = failing("rate-limit", retry_after_s=4.0)
    client, _ = client_of({"nano-model": [busy, "late"]}, world=world)
    assert client.complete(EASY).text == "late"
    assert world.slept == [4.0 + 0.5]


def test_where_it_asks_for_more_another_tier_is_taken_and_it_rests() -> None:
    world = World()
    answers = {"nano-model": [failing("rate-limit", retry_after_s=60.0), "late"], "mid-model": "m"}
    client, fake = client_of(answers, router=PlanRouter(["nano", "mid"]), world=world)
    assert client.complete(EASY).tier == "mid"
    assert world.slept == []
    world.now_s += 59.0
    second = client.complete(EASY)
    assert (second.tier, len(second.attempts)) == ("mid", 1)
    world.now_s += 2.0
    assert client.complete(EASY).tier == "nano"
    assert len(fake.calls) == 4


def test_a_wait_that_does_not_fit_the_deadline_is_not_begun() -> None:
    world = World()
    answers = {"nano-model": failing("rate-limit", retry_after_s=4.0), "mid-model": "m"}
    client, _ = client_of(answers, router=PlanRouter(["nano", "mid"]), world=world, deadline_s=3.0)
    assert client.complete(EASY).tier == "mid"
    assert world.slept == []


def test_no_call_gets_more_time_than_the_deadline_leaves() -> None:
    world = World()
    client, fake = client_of(
        router=PlanRouter(["nano", "mid"]), world=world, timeout_s=40.0, deadline_s=60.0
    )
    fake.latency_s = 1000.0
    with pytest.raises(ProviderError) as caught:
        client.complete(EASY)
    assert caught.value.kind == "timeout"
    assert [call.timeout_s for call in fake.calls] == [40.0, 20.0]


def test_when_everything_fails_the_last_error_is_raised_and_all_is_recorded() -> None:
    ledger = MemoryLedger()
    answers = {
        "nano-model": failing("timeout", billed=True),
        "mid-model": failing("malformed", billed=True),
        "frontier-model": failing("outage"),
    }
    client, _ = client_of(answers, router=PlanRouter(["nano"]), ledger=ledger, retries=0)
    with pytest.raises(ProviderError, match="outage") as caught:
        client.complete(EASY, request_id="r")
    assert [a.status for a in ledger.made("r")] == ["timeout", "malformed", "outage"]
    assert not any(a.served for a in ledger.made("r"))
    assert ledger.requests["r"].done
    assert caught.value.__notes__ == ["request r: nano timeout, mid malformed, frontier outage"]


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_request_is_shown_to_no_other_tier(way: str) -> None:
    ledger = MemoryLedger()
    client, fake = client_of(failing("refused"), ledger=ledger)
    with pytest.raises(ProviderError) as caught:
        in_every_way(client)[way](EASY, request_id="r")
    assert caught.value.kind == "refused"
    assert len(fake.calls) == 1
    assert [a.status for a in ledger.made("r")] == ["refused"]
    assert ledger.requests["r"].done


def test_requests_that_are_refused_open_no_breaker() -> None:
    client, fake = client_of(failing("refused"))
    for _ in range(20):
        with pytest.raises(ProviderError):
            client.complete(EASY)
    assert len(fake.calls) == 20


def test_without_a_valid_key_another_provider_is_asked() -> None:
    answers = {"nano-model": failing("auth"), "mid-model": "m", "frontier-model": "f"}
    client, fake = client_of(answers, router=PlanRouter(["nano", "frontier", "mid"]))
    # nano and frontier are of one provider, whose key does not work for either.
    assert client.complete(EASY).tier == "mid"
    assert [call.model for call in fake.calls] == ["nano-model", "mid-model"]


def test_an_escalation_that_fails_serves_the_answer_that_there_is() -> None:
    for kind in ("refused", "timeout", "auth"):
        answers = {"nano-model": "so so", "mid-model": failing(kind)}
        client, _ = client_of(answers, router=PlanRouter(["nano", "mid"]), verifier=exact("x"))
        reply = client.complete(EASY)
        assert (reply.text, reply.verified) == ("so so", False)
        assert short(reply.attempts) == [
            ("nano", "routed", "rejected", True),
            ("mid", "escalation", kind, False),
        ]


def test_a_tier_that_is_down_is_left_out_of_the_plan() -> None:
    answers = {"nano-model": "no", "mid-model": failing("timeout"), "frontier-model": "yes"}
    client, _ = client_of(
        answers, router=PlanRouter(["nano", "mid", "frontier"]), verifier=exact("yes")
    )
    reply = client.complete(EASY)
    assert (reply.tier, reply.verified) == ("frontier", True)
    assert [a.role for a in reply.attempts] == ["routed", "escalation", "fallback"]


def test_a_pinned_tier_has_no_stand_in() -> None:
    client, fake = client_of(failing("timeout"))
    with pytest.raises(ProviderError) as caught:
        client.complete(EASY, pin="mid")
    assert caught.value.kind == "timeout"
    assert [call.model for call in fake.calls] == ["mid-model"]


def test_a_provider_that_is_not_set_up_is_told_at_once_but_not_as_a_stand_in() -> None:
    fake = FakeProvider(failing("timeout"), cache=None)
    client, _ = client_of(providers={"one": fake})
    with pytest.raises(InputError, match="'two'"):
        client.complete(EASY, pin="mid")
    client, _ = client_of(providers={"one": fake}, router=PlanRouter(["nano", "mid"]))
    with pytest.raises(ProviderError) as caught:
        client.complete(EASY)
    assert caught.value.kind == "timeout"
    assert [call.model for call in fake.calls] == ["nano-model", "frontier-model"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("usage", [None, {"input_tokens": 3}, "3", object()])
def test_a_missing_or_malformed_usage_is_unknown_and_never_free(way: str, usage: Any) -> None:
    ledger = MemoryLedger()
    client, _ = client_of(Answer("text", usage), ledger=ledger)
    reply = in_every_way(client)[way](EASY, request_id="r")
    assert reply.text == "text"
    assert (reply.cost_usd, reply.known_cost_usd) == (None, 0.0)
    (attempt,) = ledger.made("r")
    assert (attempt.usage, attempt.cost_nanousd, attempt.standard_nanousd) == (None, None, None)
    # What the strongest tier would have cost is then what was expected of it: nothing, here.
    assert ledger.requests["r"].baseline_nanousd is None


def test_a_price_that_is_missing_costs_neither_answer_nor_record() -> None:
    class Gone(PriceBook):
        def find(self, *args: Any, **options: Any) -> Any:
            raise OSError("/secret/path/of/prices")

    for book in (None, Gone()):
        ledger = MemoryLedger()
        tiers = TierSet([Tier("only", "one", "no-such-model-anywhere")])
        client, _ = client_of(
            "x",
            router=KeywordRouter.for_tiers(["only"]),
            tiers=tiers,
            ledger=ledger,
            price_book=book,
        )
        reply = client.complete(EASY, request_id="r")
        assert (reply.text, reply.recorded, reply.cost_usd) == ("x", True, None)
        (attempt,) = ledger.made("r")
        assert attempt.usage is not None
        assert attempt.cost_nanousd is None


@pytest.mark.parametrize("answer", [None, "text", object(), Answer(None)])  # type: ignore[arg-type]
def test_what_is_no_answer_is_malformed(answer: Any) -> None:
    class Odd(FakeProvider):
        def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Any:
            super().complete(model, prompt, timeout_s=timeout_s)
            return answer

    fake = Odd()
    client, _ = client_of(providers={"one": fake, "two": fake}, retries=0)
    with pytest.raises(ProviderError) as caught:
        client.complete(EASY)
    assert caught.value.kind == "malformed"


# Streams


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_breaks_off_is_cut_and_not_repeated(way: str) -> None:
    ledger = MemoryLedger()
    client, fake = client_of(Cut("one two three", 2), ledger=ledger)
    texts: list[str] = []

    def read() -> None:
        with client.stream(EASY, request_id="r") as stream:
            texts.extend(stream)

    async def aread() -> None:
        async with client.astream(EASY, request_id="r") as stream:
            texts.extend([text async for text in stream])

    with pytest.raises(ProviderError) as caught:
        read() if way == "stream" else asyncio.run(aread())
    assert (caught.value.kind, caught.value.billed) == ("cut", True)
    if way == "stream":
        assert texts == ["one", " two"]
    assert len(fake.calls) == 1
    (attempt,) = ledger.made("r")
    assert (attempt.status, attempt.usage, attempt.cost_nanousd) == ("cut", None, None)
    assert not attempt.served
    assert ledger.requests["r"].done
    assert fake.open_streams == 0


def test_any_failure_in_the_middle_is_a_cut() -> None:
    class Late(FakeProvider):
        def stream(self, *args: Any, **options: Any) -> Iterator[Chunk]:
            yield Chunk("one")
            raise failing("rate-limit")

    class Short(FakeProvider):
        def stream(self, *args: Any, **options: Any) -> Iterator[Chunk]:
            yield Chunk("one")

    class Nasty(FakeProvider):
        def stream(self, *args: Any, **options: Any) -> Iterator[Chunk]:
            yield Chunk("one")
            raise ValueError("marker")

    for fake in (Late(), Short(), Nasty()):
        ledger = MemoryLedger()
        client, _ = client_of(providers={"one": fake, "two": fake}, ledger=ledger)
        with pytest.raises(ProviderError) as caught:
            list(client.stream(EASY, request_id="r"))
        assert caught.value.kind == "cut"
        assert "marker" not in str(caught.value)
        assert [a.status for a in ledger.made("r")] == ["cut"]


def test_a_stream_that_fails_before_its_first_piece_falls_back() -> None:
    answers = {"nano-model": Cut("never", 0), "mid-model": "fine"}
    client, fake = client_of(answers, router=PlanRouter(["nano", "mid"]))
    with client.stream(EASY) as stream:
        assert list(stream) == ["fine"]
    assert [a.status for a in stream.reply.attempts] == ["cut", "answered"]
    assert fake.open_streams == 0


class Steady(FakeProvider):
    """Streams so many pieces, each after so many seconds of the world's clock."""

    def __init__(self, world: World, n: int, seconds: float) -> None:
        super().__init__("x", cache=None, clock=world.clock)
        self.world, self.n, self.seconds = world, n, seconds

    def stream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Iterator[Chunk]:
        for _ in range(self.n):
            self.world.now_s += self.seconds
            yield Chunk("word ")
        yield Chunk(answer=Answer("word " * self.n, Usage(10, self.n)))

    async def astream(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> AsyncIterator[Chunk]:
        for chunk in self.stream(model, prompt):
            yield chunk


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_the_readers_time_is_neither_latency_nor_a_failure(way: str) -> None:
    ledger, world = MemoryLedger(), World()
    fake = Steady(world, n=5, seconds=2.0)
    client, _ = client_of(providers={"one": fake, "two": fake}, ledger=ledger, world=world)

    async def aread(request_id: str) -> str:
        async with client.astream(EASY, request_id=request_id) as stream:
            async for _ in stream:
                world.now_s += 100.0
        return stream.reply.text

    def read(request_id: str) -> str:
        with client.stream(EASY, request_id=request_id) as stream:
            for _ in stream:
                world.now_s += 100.0
        return stream.reply.text

    for n in range(6):
        text = read(f"r{n}") if way == "stream" else asyncio.run(aread(f"r{n}"))
        assert text == "word " * 5
        (attempt,) = ledger.made(f"r{n}")
        assert (attempt.status, attempt.latency_s) == ("answered", pytest.approx(10.0))


def test_a_stream_that_flows_beyond_the_deadline_is_no_fault_of_its_tier() -> None:
    world = World()
    fake = Steady(world, n=100, seconds=5.0)
    client, _ = client_of(
        providers={"one": fake, "two": fake}, router=PlanRouter(["nano"]), world=world
    )
    for _ in range(5):
        with pytest.raises(ProviderError, match="in time") as caught:
            list(client.stream(EASY))
        assert (caught.value.kind, caught.value.billed) == ("cut", True)
    assert client._parts.breaker.resting() == frozenset()


def test_what_is_left_of_a_deadline_closes_no_healthy_tier() -> None:
    # nano always hangs; mid needs 30 s, and has 20 s left each time.
    world = World()
    client, fake = client_of(
        router=PlanRouter(["nano", "mid"]), world=world, timeout_s=40.0, deadline_s=60.0
    )
    fake.latency_s = 1000.0
    for _ in range(4):
        with pytest.raises(ProviderError):
            client.complete(EASY)
    breaker = client._parts.breaker
    # Four time-outs in a row: one more that was given its time opens it.
    for name in ("nano", "mid"):
        permit = breaker.enter(name)
        assert permit is not None
        permit.failed()
    assert breaker.resting() == {"nano"}


def test_a_tier_that_hangs_is_closed_where_the_deadline_is_shorter_than_a_time_out() -> None:
    world = World()
    client, fake = client_of(router=PlanRouter(["nano"]), world=world, deadline_s=30.0)
    fake.latency_s = 1000.0
    for _ in range(5):
        with pytest.raises(ProviderError):
            client.complete(EASY)
    assert client._parts.breaker.resting() == {"nano"}


def leave_by_close(client: RoutedClient) -> None:
    stream = client.stream(EASY, request_id="r")
    next(stream)
    stream.close()
    stream.close()


def leave_by_break(client: RoutedClient) -> None:
    with client.stream(EASY, request_id="r") as stream:
        for _ in stream:
            break


def leave_by_error(client: RoutedClient) -> None:
    def read() -> None:
        with client.stream(EASY, request_id="r") as stream:
            for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()


def leave_by_forgetting(client: RoutedClient) -> None:
    next(client.stream(EASY, request_id="r"))
    gc.collect()


def leave_async(client: RoutedClient) -> None:
    async def run() -> None:
        async with client.astream(EASY, request_id="r") as stream:
            async for _ in stream:
                break

    asyncio.run(run())


def leave_by_cancelling(client: RoutedClient) -> None:
    async def run() -> None:
        started = asyncio.Event()

        async def read() -> None:
            async with client.astream(EASY, request_id="r") as stream:
                async for _ in stream:
                    started.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_close,
        leave_by_break,
        leave_by_error,
        leave_by_forgetting,
        leave_async,
        leave_by_cancelling,
    ],
)
def test_a_reader_who_leaves_early_is_recorded(leave: Callable[[RoutedClient], None]) -> None:
    ledger = MemoryLedger()
    client, fake = client_of("one two three four", ledger=ledger)
    leave(client)
    (attempt,) = ledger.made("r")
    assert (attempt.status, attempt.usage, attempt.cost_nanousd) == ("cut", None, None)
    assert ledger.requests["r"].done
    assert fake.open_streams == 0
    # Nothing is left: the same id may be used again.
    client.complete(EASY, request_id="r")


# Async


def test_a_cancelled_task_is_recorded_and_cancelled() -> None:
    ledger = MemoryLedger()

    async def run() -> None:
        waiting = asyncio.Event()

        async def hang(seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        fake = FakeProvider("x", latency_s=1.0, asleep=hang)
        client, _ = client_of(providers={"one": fake, "two": fake}, ledger=ledger)
        task = asyncio.create_task(client.acomplete(EASY, request_id="r"))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(fake.calls) == 1

    asyncio.run(run())
    (attempt,) = ledger.made("r")
    assert (attempt.status, attempt.usage, attempt.cost_nanousd) == ("cut", None, None)
    assert ledger.requests["r"].done


@pytest.mark.parametrize("streamed", [False, True])
def test_a_provider_that_ignores_its_time_limit_is_cancelled(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "GRACE_S", 0.01)
    ended: list[str] = []

    class Hanging(FakeProvider):
        async def acomplete(self, *args: Any, **options: Any) -> Answer:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("call")
            raise AssertionError

        async def astream(self, *args: Any, **options: Any) -> AsyncIterator[Chunk]:
            try:
                await asyncio.Event().wait()
                yield Chunk("never")
            finally:
                ended.append("stream")

    async def run() -> Reply:
        fine, hanging = FakeProvider("fine"), Hanging()
        client, _ = client_of(
            providers={"one": hanging, "two": fine},
            router=PlanRouter(["nano", "mid"]),
            timeout_s=0.01,
        )
        if not streamed:
            return await client.acomplete(EASY)
        async with client.astream(EASY) as stream:
            async for _ in stream:
                pass
        return stream.reply

    reply = asyncio.run(run())
    assert [a.status for a in reply.attempts] == ["timeout", "answered"]
    assert ended == ["stream" if streamed else "call"]


def test_the_event_loop_runs_on_while_the_ledger_and_a_verifier_work() -> None:
    async def run() -> None:
        loop_ran = threading.Event()
        asyncio.get_running_loop().call_soon(loop_ran.set)

        class Slow(MemoryLedger):
            def record(self, *args: Any) -> None:
                assert loop_ran.wait(10)
                super().record(*args)

        def check(answer: Answer, prompt: Prompt) -> bool:
            return threading.current_thread() is not threading.main_thread()

        client, _ = client_of(ledger=Slow(), router=PlanRouter(["nano"]), verifier=check)
        assert (await client.acomplete(EASY)).verified is True

    asyncio.run(run())


# Storms, clocks, threads


def test_many_threads_and_a_storm_of_429_make_few_calls() -> None:
    world = World()
    lock = threading.Lock()
    n_threads, n_requests = 32, 20
    answers = {"nano-model": failing("rate-limit"), "mid-model": "m"}
    breaker = Breaker(TIERS.names, failures_to_open=5, clock=world.clock, draw=lambda: 1.0)
    client, fake = client_of(
        answers, router=PlanRouter(["nano", "mid"]), world=world, breaker=breaker
    )
    gate = threading.Barrier(n_threads)
    tiers: list[str] = []

    def ask() -> None:
        gate.wait()
        for _ in range(n_requests):
            reply = client.complete(EASY)
            with lock:
                tiers.append(reply.tier)

    threads = [threading.Thread(target=ask) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tiers == ["mid"] * (n_threads * n_requests)
    busy = sum(call.model == "nano-model" for call in fake.calls)
    # Those that were under way when it opened, and no more: then probes, one per rest of at least
    # 30 s of the clock, which only those who wait move.
    probes = sum(world.slept) / 30.0 + 1
    assert 5 <= busy <= n_threads + 5 + probes
    assert busy < n_threads * n_requests / 5


def test_when_all_tiers_rest_nobody_is_called_and_the_error_says_when() -> None:
    world = World()
    client, fake = client_of(failing("timeout"), world=world, router=PlanRouter(["nano"]))
    for _ in range(5):
        with pytest.raises(ProviderError):
            client.complete(EASY)
    n_calls = len(fake.calls)
    with pytest.raises(ProviderError, match="tried again") as caught:
        client.complete(EASY)
    assert caught.value.kind == "outage"
    assert caught.value.retry_after_s == pytest.approx(30.0)
    with pytest.raises(ProviderError, match="tried again"):
        client.complete(EASY, pin="mid")
    assert len(fake.calls) == n_calls


def test_a_wall_clock_that_jumps_moves_no_wait_and_no_rest() -> None:
    world = World()
    nano = [failing("rate-limit"), *[failing("timeout")] * 4, "back"]
    client, fake = client_of(
        {"nano-model": nano, "mid-model": "m"},
        router=PlanRouter(["nano", "mid"]),
        world=world,
        retries=1,
    )
    client.complete(EASY)
    assert world.slept == [0.5]
    for hours in (-9000, 9000, -1):
        world.wall += timedelta(hours=hours)
        reply = client.complete(EASY)
        assert all(attempt.latency_s == 0 for attempt in reply.attempts)
    # Five failures in a row: it rests for 30 s, whatever the calendar says.
    for days in (300, -300):
        world.wall += timedelta(days=days)
        assert client.complete(EASY).tier == "mid"
    assert sum(call.model == "nano-model" for call in fake.calls) == 5
    world.now_s += 31.0
    assert client.complete(EASY).text == "back"


def test_two_threads_with_one_request_id_do_not_overwrite_each_other() -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(prompt: Prompt) -> str:
        inside.set()
        assert go.wait(10)
        return "first"

    ledger = MemoryLedger()
    client, fake = client_of(slow, ledger=ledger)
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(client.complete(EASY, request_id="r")))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(InputError, match="under way"):
        client.complete(EASY, request_id="r")
    go.set()
    thread.join()
    assert len(fake.calls) == len(replies) == len(ledger.made("r")) == 1
    client.complete(EASY, request_id="r")


def test_a_router_without_a_tier_for_the_request_says_so() -> None:
    client, fake = client_of()
    with pytest.raises(RoutingError):
        client.complete(EASY, exclude=["nano", "mid", "frontier"])
    assert fake.calls == []


# Secrets

MARKER, KEY = "PROMPT-MARKER-7f3a", "sk-KEY-MARKER-91c2"


class Chained(FakeProvider):
    """Raises a clean ProviderError that was made from one that is not."""

    def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Answer:
        try:
            raise ValueError(f"{KEY} {prompt.messages}")
        except ValueError as error:
            raise failing("outage") from error


NASTY = [
    ValueError(f"{MARKER} {KEY}"),
    ConnectionError(f"{MARKER} {KEY}"),
    TimeoutError(f"{MARKER} {KEY}"),
    KeyError(MARKER, KEY),
    StopIteration(MARKER),
]


@pytest.mark.parametrize(
    ("way", "error"),
    [*[(way, error) for way in WAYS for error in NASTY], ("complete", "chained")],
)
def test_prompts_and_keys_are_in_no_log_error_or_traceback(
    way: str, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake: FakeProvider = Chained() if error == "chained" else FakeProvider(error)
    ledger = MemoryLedger()
    ledger.down = RuntimeError(f"{MARKER} {KEY}")
    client, _ = client_of(
        providers={"one": fake, "two": fake},
        ledger=ledger,
        verifier=lambda a, p: 1 / 0 > 1,
        retries=0,
    )
    messages = [{"role": "user", "content": MARKER}]
    with pytest.raises(ProviderError) as caught:
        in_every_way(client)[way](messages, request_id="r")
    shown = "".join(traceback.format_exception(caught.value))
    client.close()
    seen = shown + repr(caught.value) + str(caught.value) + caplog.text + repr(client)
    seen += "".join(f"{vars(r)}" for r in caplog.records)
    assert "client" in seen
    assert MARKER not in seen
    assert KEY not in seen
    assert caught.value.__cause__ is None
    kinds = {"ConnectionError": "outage", "TimeoutError": "timeout", "str": "outage"}
    if isinstance(error, RuntimeError | ValueError | KeyError):
        assert type(error).__name__ in str(caught.value)
    assert caught.value.kind == kinds.get(type(error).__name__, "malformed")


def test_a_verifier_that_raises_is_logged_by_its_type_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check(answer: Answer, prompt: Prompt) -> bool:
        raise RuntimeError(f"{answer.text} {prompt.messages}")

    client, _ = client_of(f"{KEY}", verifier=check)
    assert client.complete([{"role": "user", "content": MARKER}]).verified is None
    assert "RuntimeError" in caplog.text
    assert MARKER not in caplog.text
    assert KEY not in caplog.text
