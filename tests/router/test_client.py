"""The client on good days: routing, plans, verifiers, records, costs, both drivers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.client import Reply, RoutedClient
from router.client.choosing import Ask
from router.errors import InputError
from router.exploration import Exploration
from router.keyword import KeywordRouter
from router.prices import PriceBook
from router.providers.base import Answer, CacheMarks, Prompt
from router.records import AttemptRecord
from router.routing import Router
from router.testing import FakeProvider
from router.tiers import Tier, TierSet
from router.usage import Usage
from router.verifiers import Verdict, exact, regex
from tests.artifacts import sample_table
from tests.router.client_world import (
    EASY,
    HARD,
    TIERS,
    MemoryLedger,
    PlanRouter,
    World,
    client_of,
)

Ways = dict[str, Callable[..., Reply]]


def in_every_way(client: RoutedClient) -> Ways:
    """The four ways to ask, each giving a Reply."""

    def streamed(messages: Any, **options: Any) -> Reply:
        with client.stream(messages, **options) as stream:
            text = "".join(stream)
            assert text == stream.reply.text
            return stream.reply

    async def astreamed(messages: Any, **options: Any) -> Reply:
        async with client.astream(messages, **options) as stream:
            text = "".join([piece async for piece in stream])
            assert text == stream.reply.text
            return stream.reply

    return {
        "complete": client.complete,
        "acomplete": lambda m, **o: asyncio.run(client.acomplete(m, **o)),
        "stream": streamed,
        "astream": lambda m, **o: asyncio.run(astreamed(m, **o)),
    }


WAYS = ("complete", "acomplete", "stream", "astream")


def short(attempts: Any) -> list[tuple[str, str, str, bool]]:
    return [(a.tier, a.role, a.status, a.served) for a in attempts]


@pytest.mark.parametrize("way", WAYS)
def test_one_request_is_routed_answered_priced_and_recorded(way: str) -> None:
    ledger = MemoryLedger()
    client, fake = client_of("two words", ledger=ledger)
    reply = in_every_way(client)[way](EASY, request_id="r-1", session="s-1", task="greeting")
    assert reply.text == "two words"
    assert (reply.tier, reply.decision.tier, reply.request_id) == ("nano", "nano", "r-1")
    assert short(reply.attempts) == [("nano", "routed", "answered", True)]
    usage = reply.attempts[0].usage
    assert usage == Usage(5 + 4, 2)
    assert reply.cost_usd == reply.known_cost_usd == pytest.approx((9 * 1 + 2 * 4) / 1e6)
    assert reply.verified is None
    assert reply.recorded is True
    assert [call.model for call in fake.calls] == ["nano-model"]
    # Before the call without attempts; at the end done, with all of them.
    assert [(r.done, len(a)) for r, a in ledger.calls] == [(False, 0), (True, 1)]
    kept = ledger.requests["r-1"]
    assert (kept.session_id, kept.task, kept.query) == ("s-1", "greeting", EASY[0]["content"])
    assert kept.decision == reply.decision.to_dict()
    assert ledger.made("r-1") == list(reply.attempts)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_asked_for_reaches_the_provider(way: str) -> None:
    client, fake = client_of("ok", timeout_s=7.0)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    in_every_way(client)[way](
        EASY,
        tools=[tool],
        max_output_tokens=77,
        temperature=0.3,
        options={"seed": 1},
        cache=CacheMarks(ttl="1h"),
    )
    (call,) = fake.calls
    assert call.prompt == Prompt(tuple(EASY), (tool,), 77, 0.3, CacheMarks(ttl="1h"), {"seed": 1})
    assert call.timeout_s == 7.0
    assert call.streamed is (way in ("stream", "astream"))


def test_a_request_has_an_id_of_its_own() -> None:
    client, _ = client_of()
    ids = {client.complete(EASY).request_id for _ in range(3)}
    assert len(ids) == 3
    assert all(uuid.UUID(found).version == 4 for found in ids)


def test_the_query_is_the_last_text_of_the_user_unless_given() -> None:
    router = PlanRouter(["nano"])
    client, _ = client_of(router=router)
    client.complete(
        [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "hm"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "second"},
                    {"type": "image_url", "image_url": {"url": "data:..."}},
                    {"type": "text", "text": "third"},
                ],
            },
            {"role": "tool", "content": "42"},
        ]
    )
    client.complete(EASY, query="mine")
    assert [asked["query"] for asked in router.asked] == ["second\nthird", "mine"]


def test_routing_is_told_all_that_limits_it() -> None:
    router = PlanRouter(["nano"])
    client, _ = client_of(router=router)
    client.complete(EASY, request_id="r", exclude="mid", needs=["tools"])
    (asked,) = router.asked
    assert asked["request_id"] == "r"
    assert asked["exclude"] == ["mid"]
    assert asked["needs"] == ("tools",)
    assert asked["context_tokens"] == len(EASY[0]["content"]) // 3


@pytest.mark.parametrize("way", ["complete", "acomplete"])
def test_a_rejected_answer_leads_to_the_next_tier_of_the_plan(way: str) -> None:
    ledger = MemoryLedger()
    router = PlanRouter(["nano", "frontier"])
    answers = {"nano-model": "no", "frontier-model": "yes"}
    client, _ = client_of(answers, router=router, ledger=ledger, verifier=exact("yes"))
    reply = in_every_way(client)[way](EASY, request_id="r")
    assert (reply.text, reply.verified, reply.tier) == ("yes", True, "frontier")
    assert short(reply.attempts) == [
        ("nano", "routed", "rejected", False),
        ("frontier", "escalation", "answered", True),
    ]
    assert reply.decision.tier == "nano"
    # The floor was tested on the policy alone, not on a plan.
    assert reply.decision.certified is False
    assert reply.cost_usd == pytest.approx(sum(a.cost_nanousd or 0 for a in reply.attempts) / 1e9)
    assert short(ledger.made("r")) == short(reply.attempts)


def test_where_the_plan_ends_the_last_answer_is_served_as_rejected() -> None:
    client, _ = client_of("no", router=PlanRouter(["nano", "mid"]), verifier=exact("yes"))
    reply = client.complete(EASY)
    assert (reply.text, reply.verified, reply.tier) == ("no", False, "mid")
    assert [a.status for a in reply.attempts] == ["rejected", "rejected"]
    assert [a.served for a in reply.attempts] == [False, True]


def test_a_plan_of_the_policys_own_tier_stays_certified() -> None:
    client, _ = client_of(router=PlanRouter(["nano"]), verifier=exact("ok"))
    assert client.complete(EASY).decision.certified is True


def test_plans_know_how_often_the_verifier_errs() -> None:
    router = PlanRouter(["nano"])
    client, _ = client_of(router=router)
    client.complete(EASY, verifier=regex(".", miss_rate=0.2, false_alarm_rate=0.1))
    client.complete(EASY, verifier=lambda answer, prompt: True)
    rates = [(p["miss_rate"], p["false_alarm_rate"]) for p in router.planned]
    assert rates == [(0.2, 0.1), (0.0, 0.0)]


def test_no_verifier_for_one_request() -> None:
    router = PlanRouter(["nano", "mid"])
    client, _ = client_of(router=router, verifier=exact("never"))
    assert client.complete(EASY, verifier=None).verified is None
    assert router.planned == []


def boom(answer: Answer, prompt: Prompt) -> bool:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("check", "verified"),
    [
        (lambda a, p: True, True),
        (lambda a, p: Verdict(True, 0.9), True),
        (lambda a, p: Verdict(False), False),
        (lambda a, p: None, None),
        (lambda a, p: "yes", None),
        (boom, None),
    ],
)
def test_a_check_that_cannot_tell_rejects_nothing(check: Any, verified: bool | None) -> None:
    client, _ = client_of(router=PlanRouter(["nano"]), verifier=check)
    for way, ask in in_every_way(client).items():
        assert ask(EASY).verified is verified, way


def test_an_async_verifier_is_awaited_and_refused_where_it_cannot_be() -> None:
    async def check(answer: Answer, prompt: Prompt) -> bool:
        await asyncio.sleep(0)
        return answer.text == "ok"

    client, fake = client_of(router=PlanRouter(["nano"]), verifier=check)
    assert asyncio.run(client.acomplete(EASY)).verified is True
    n_calls = len(fake.calls)
    with pytest.raises(InputError, match="async"):
        client.complete(EASY)
    # One that only shows when it is called could not verify, and leaves no coroutine behind.
    assert client.complete(EASY, verifier=lambda a, p: check(a, p)).verified is None
    assert len(fake.calls) == n_calls + 1


def test_a_stream_is_verified_at_its_end_and_not_escalated() -> None:
    router = PlanRouter(["nano", "mid"])
    client, _ = client_of("no", router=router, verifier=exact("yes"))
    with client.stream(EASY) as stream:
        assert list(stream) == ["no"]
    assert stream.reply.verified is False
    assert short(stream.reply.attempts) == [("nano", "routed", "rejected", True)]
    assert router.planned == []


def test_the_first_piece_of_a_stream_is_not_held_back() -> None:
    log: list[str] = []

    class Slow(FakeProvider):
        def stream(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Any:
            for chunk in super().stream(model, prompt, timeout_s=timeout_s):
                log.append(f"made {chunk.text}")
                yield chunk

    fake = Slow("a b")
    client, _ = client_of(providers={"one": fake, "two": fake})
    for text in client.stream(EASY):
        log.append(f"read {text}")
    assert log == ["made a", "read a", "made  b", "read  b", "made "]


def test_a_stream_sends_nothing_before_it_is_read() -> None:
    ledger = MemoryLedger()
    client, fake = client_of(ledger=ledger)
    with client.stream(EASY) as stream:
        pass
    with pytest.raises(InputError, match="read to its end"):
        _ = stream.reply
    assert fake.calls == []
    assert ledger.calls == []


def test_the_keyword_router_escalates_to_tiers_for_harder_queries() -> None:
    client, _ = client_of("no", verifier=exact("yes"))
    assert [a.tier for a in client.complete(EASY).attempts] == ["nano", "mid", "frontier"]
    assert [a.tier for a in client.complete(HARD).attempts] == ["frontier"]
    assert client.complete(HARD, exclude=["frontier"]).decision.reason == "fallback"
    assert client.complete(EASY, pin="mid").attempts[-1].tier == "mid"


def test_the_keyword_router_keeps_to_windows_and_features() -> None:
    tiers = TierSet(
        [
            Tier("nano", "one", "n", context_window_tokens=5),
            Tier("mid", "one", "m", features=frozenset({"tools"})),
            Tier("frontier", "one", "f"),
        ]
    )
    client, _ = client_of(tiers=tiers)
    assert client.complete(EASY).tier == "mid"
    assert client.complete(HARD, needs="tools").tier == "mid"


def test_what_the_strongest_tier_would_have_cost_is_measured_where_it_served() -> None:
    ledger = MemoryLedger()
    client, _ = client_of("one two three", ledger=ledger)
    client.complete(HARD, request_id="served")
    kept = ledger.requests["served"]
    assert (kept.baseline_tier, kept.baseline_measured) == ("frontier", True)
    assert kept.baseline_nanousd == ledger.made("served")[0].standard_nanousd
    client.complete(EASY, request_id="cheap")
    kept = ledger.requests["cheap"]
    # Of a heuristic: as many tokens as the tier that served, at the strongest tier's prices.
    assert kept.baseline_nanousd == ((9 * 100 + 3 * 400) * 1000)
    assert kept.baseline_measured is False


def test_the_cache_is_left_out_of_what_a_call_would_have_cost() -> None:
    ledger = MemoryLedger()
    tiers = TierSet(
        [Tier("only", "one", "m", (), 1.0, 0.1, 4.0, cache_write_price_usd_per_mtok=1.25)]
    )
    usage = Usage(1000, 100, cached_input_tokens=600, cache_write_tokens=200)
    client, _ = client_of(
        Answer("x", usage, model="m-2026"),
        router=KeywordRouter.for_tiers(["only"]),
        tiers=tiers,
        ledger=ledger,
    )
    client.complete(EASY, request_id="r")
    (attempt,) = ledger.made("r")
    assert attempt.cost_nanousd == (200 * 1000 + 600 * 100 + 200 * 1250 + 100 * 4000)
    assert attempt.uncached_nanousd == attempt.standard_nanousd == 1000 * 1000 + 100 * 4000
    # Billed to the tier that was called, with the name that the provider gave.
    assert (attempt.tier, attempt.model) == ("only", "m-2026")


def test_an_explored_tier_is_recorded_with_what_it_was_expected_to_cost_more() -> None:
    ledger = MemoryLedger()
    router = PlanRouter(["mid", "nano"], explored=True)
    client, _ = client_of(router=router, ledger=ledger)
    reply = client.complete(EASY, request_id="r")
    assert reply.decision.explored
    assert ledger.requests["r"].exploration_nanousd == round((0.01 - 0.001) * 1e9)


def test_feedback_goes_to_the_ledger() -> None:
    ledger = MemoryLedger()
    client, _ = client_of(ledger=ledger)
    client.complete(EASY, request_id="r")
    assert client.feedback("r", True, score=0.9) is True
    assert asyncio.run(client.afeedback("other", 0.5, source="judge")) is False
    assert ledger.feedbacks == [
        ("r", True, 0.9, "user", None),
        ("other", 0.5, None, "judge", None),
    ]
    with pytest.raises(InputError, match="ledger"):
        client_of()[0].feedback("r", True)


def test_the_cache_state_is_asked_before_and_told_after() -> None:
    class Seam:
        def __init__(self) -> None:
            self.told: list[tuple[str, Usage | None]] = []

        def before_routing(self, ask: Ask) -> dict[str, Any]:
            assert ask.prompt.messages == tuple(EASY)
            return {"session": ask.session, "expected_turns": ask.expected_turns}

        def after_attempt(self, ask: Ask, tier: Tier, usage: Usage | None) -> None:
            self.told.append((tier.name, usage))
            raise RuntimeError("what only makes it cheaper fails no request")

    router, seam = PlanRouter(["nano"]), Seam()
    client, _ = client_of(router=router, cache_state=seam)
    reply = client.complete(EASY, session="chat", expected_turns=3.0)
    assert router.asked[0]["session"] == "chat"
    assert router.asked[0]["expected_turns"] == 3.0
    assert seam.told == [("nano", reply.attempts[0].usage)]


@pytest.fixture(scope="module")
def router(small_artifact: Path) -> Router:
    return Router.load(small_artifact)


class TestLearned:
    """With a real artifact."""

    def client(self, router: Router, **options: Any) -> RoutedClient:
        fake = FakeProvider("a b c")
        providers = {tier.provider: fake for tier in router.tiers}
        return RoutedClient(router, providers=providers, **options)

    @pytest.mark.parametrize("way", WAYS)
    def test_it_goes_where_the_router_says(self, router: Router, way: str) -> None:
        ask = in_every_way(self.client(router))[way]
        for n in range(20):
            messages = [{"role": "user", "content": f"query number {n}"}]
            reply = ask(messages, request_id=f"r{n}")
            assert reply.decision == router.route(
                messages[0]["content"], request_id=f"r{n}", context_tokens=4
            )
            assert reply.tier == reply.decision.tier

    def test_with_a_verifier_it_follows_the_plan(self, router: Router) -> None:
        client = self.client(router, verifier=lambda a, p: False)
        seen = set()
        for n in range(30):
            query = f"word{n} and more"
            plan = router.plan(query)
            reply = client.complete([{"role": "user", "content": query}])
            assert [a.tier for a in reply.attempts] == plan
            assert reply.decision.tier == plan[0]
            assert reply.decision.propensity == 1.0
            seen.add(len(plan))
        assert seen

    def test_lengths_of_the_baseline_are_corrected_by_what_is_expected(
        self, router: Router
    ) -> None:
        ledger = MemoryLedger()
        client = self.client(router, ledger=ledger)
        strongest = router.tiers.names[router.policy.strongest]
        other = next(name for name in router.tiers.names if name != strongest)
        query = "what is the capital"
        reply = client.complete([{"role": "user", "content": query}], request_id="r", pin=other)
        kept = ledger.requests["r"]
        assert kept.baseline_tier == strongest
        from router.client.choosing import LearnedChooser

        expected = LearnedChooser(router).expected_output_tokens(query)
        usage = reply.attempts[0].usage
        assert usage is not None
        price = PriceBook().price(router.tiers[router.policy.strongest])
        n_output = usage.output_tokens * expected[strongest] / expected[other]
        assert kept.baseline_nanousd == round(price.cost_usd(usage.input_tokens, n_output) * 1e9)
        assert kept.baseline_measured is False

    def test_exploration_is_only_recorded_where_it_happened(self, router: Router) -> None:
        ledger = MemoryLedger()
        explorer = router.exploring(Exploration(epsilon=1.0, margin=1.0))
        client = self.client(explorer, ledger=ledger)
        found = set()
        for n, query in enumerate(sample_table(60).query):
            reply = client.complete([{"role": "user", "content": query}], request_id=f"r{n}")
            amount = ledger.requests[f"r{n}"].exploration_nanousd
            own = router.route(query, request_id=f"r{n}").tier
            costs = reply.decision.cost_usd
            expected = (costs[reply.decision.tier] or 0) - (costs[own] or 0)
            assert amount == (round(expected * 1e9) if reply.decision.explored else 0)
            found.add(reply.decision.explored)
        assert found == {True, False}


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": "hello"},
    {"messages": ["hello"]},
    {"messages": [{"role": "system", "content": "x"}]},
    {"messages": EASY, "request_id": ""},
    {"messages": EASY, "request_id": 7},
    {"messages": EASY, "session": ""},
    {"messages": EASY, "max_output_tokens": 0},
    {"messages": EASY, "max_output_tokens": True},
    {"messages": EASY, "max_cost_usd": -1.0},
    {"messages": EASY, "max_cost_usd": float("nan")},
    {"messages": EASY, "verifier": "yes"},
    {"messages": EASY, "tools": "none"},
    {"messages": EASY, "pin": "no-such-tier"},
    {"messages": EASY, "exclude": ["no-such-tier"]},
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_anything_is_sent(arguments: dict[str, Any]) -> None:
    ledger = MemoryLedger()
    client, fake = client_of(ledger=ledger)
    for way, ask in in_every_way(client).items():
        given = dict(arguments)
        with pytest.raises(InputError):
            ask(given.pop("messages"), **given)
        assert fake.calls == [], way
    assert ledger.calls == []


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"deadline_s": float("inf")},
        {"retries": -1},
        {"max_cost_usd": "1"},
        {"max_waiting": -1},
        {"backoff_s": None},
        {"tiers": None},
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        client_of(**options)


def test_what_is_no_router_is_refused() -> None:
    with pytest.raises(InputError, match="Router"):
        RoutedClient("nano")
    with pytest.raises(InputError, match="tiers"):
        client_of(router=PlanRouter(["nano"]), tiers=TIERS)


def test_providers_made_here_are_closed_and_given_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closing(FakeProvider):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    made, given = Closing(), Closing()
    monkeypatch.setattr("router.providers.make_provider", lambda id: made, raising=False)
    client, _ = client_of(providers={"one": given})
    with client:
        assert client.complete(EASY).tier == "nano"
        assert client.complete(EASY, pin="mid").tier == "mid"
    assert (made.closed, given.closed) == (1, 0)

    async def run() -> None:
        async with client:
            await client.acomplete(EASY, pin="mid")

    asyncio.run(run())
    assert (made.closed, given.closed) == (2, 0)
    assert [len(p.calls) for p in (made, given)] == [2, 1]


def test_a_reply_and_a_client_show_no_text() -> None:
    client, _ = client_of("marker answer")
    reply = client.complete([{"role": "user", "content": "marker prompt"}])
    assert "marker" not in repr(reply) + repr(client) + repr(client._parts)


def test_latency_is_of_the_call_alone() -> None:
    world = World()
    client, fake = client_of(world=world, ledger=MemoryLedger())
    fake.latency_s = 2.5
    (attempt,) = client.complete(EASY).attempts
    assert isinstance(attempt, AttemptRecord)
    assert attempt.latency_s == 2.5
    assert attempt.at == World().wall
