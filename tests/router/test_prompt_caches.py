"""The client and the cache state together: sessions through RoutedClient, with real artifacts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from router.cache_state import CacheState
from router.client import RoutedClient
from router.errors import InputError
from router.keyword import KeywordRouter
from router.ledger import Ledger
from router.prices import PriceBook
from router.providers.base import Answer, CacheMarks
from router.providers.caching import CachePolicy
from router.routing import Router
from router.testing import FakeProvider
from router.tiers import Tier, TierSet
from router.usage import Usage
from tests.artifacts import resave

MODELS = {
    "nano": ("openai", "gpt-5-nano"),
    "mid": ("anthropic", "claude-sonnet-4-5"),
    "frontier": ("anthropic", "claude-opus-4-6"),
}
# Some 6,000 tokens, above every model's least length.
SYSTEM = {"role": "system", "content": "You are careful and brief. " * 900}
QUESTION = {"role": "user", "content": "What is the capital of France?"}


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(small_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            tier["provider"], tier["model"] = MODELS[tier["name"]]

    return resave(small_artifact, tmp_path_factory.mktemp("cached") / "router", manifest=change)


def providers(clock: Clock) -> dict[str, FakeProvider]:
    return {
        "openai": FakeProvider("Paris.", id="openai", cache=CachePolicy(1024, 300), clock=clock),
        "anthropic": FakeProvider(
            "Paris.",
            id="anthropic",
            cache=CachePolicy(1024, 300, automatic=False, writes_reported=True),
            clock=clock,
        ),
    }


def turns(client: RoutedClient, n: int, **options: Any) -> list[Any]:
    """A conversation of n turns."""
    messages, replies = [SYSTEM, QUESTION], []
    for _ in range(n):
        reply = client.complete(messages, **options)
        replies.append(reply)
        messages = [*messages, {"role": "assistant", "content": reply.text}, QUESTION]
    return replies


def test_a_conversation_is_known_again_by_its_messages(folder: Path) -> None:
    clock = Clock()
    router = Router.load(folder, cache_state=CacheState(clock=clock))
    client = RoutedClient(router, providers=providers(clock))
    first, second, third = turns(client, 3)
    assert first.decision.cache.warm_tokens == {}
    for reply in (second, third):
        note = reply.decision.cache
        # All that stood in the prompt before is warm on the tier that answered it.
        assert note.warm_tokens[first.tier] > 0.9 * note.prefix_tokens
        assert reply.tier == first.tier
        assert reply.attempts[0].usage.cached_input_tokens > 0
        assert reply.cost_usd < first.cost_usd


def test_another_conversation_shares_the_system_prompt(folder: Path) -> None:
    clock = Clock()
    router = Router.load(folder, cache_state=CacheState(clock=clock))
    client = RoutedClient(router, providers=providers(clock))
    first = client.complete([SYSTEM, QUESTION])
    other = client.complete([SYSTEM, {"role": "user", "content": "Translate: good morning"}])
    assert other.decision.cache.warm_tokens[first.tier] > 5_000
    clock.now += 301
    late = client.complete([SYSTEM, QUESTION])
    assert late.decision.cache.warm_tokens == {}


def test_a_question_alone_has_no_prefix(folder: Path) -> None:
    client = RoutedClient(Router.load(folder), providers=providers(Clock()))
    assert client.complete([QUESTION]).decision.cache is None


def test_the_async_client_does_the_same(folder: Path) -> None:
    async def talk() -> Any:
        clock = Clock()
        router = Router.load(folder, cache_state=CacheState(clock=clock))
        async with RoutedClient(router, providers=providers(clock)) as client:
            await client.acomplete([SYSTEM, QUESTION])
            return await client.acomplete([SYSTEM, QUESTION])

    assert asyncio.run(talk()).decision.cache.warm_tokens


def test_two_processes_share_what_is_warm_through_the_ledger(folder: Path, tmp_path: Path) -> None:
    clock = Clock()
    with Ledger(tmp_path / "ledger.db") as one, Ledger(tmp_path / "ledger.db") as two:
        router = Router.load(folder)
        first = RoutedClient(
            router,
            providers=providers(clock),
            ledger=one,
            cache_state=CacheState(store=one, clock=clock),
        )
        second = RoutedClient(
            router,
            providers=providers(clock),
            ledger=two,
            cache_state=CacheState(store=two, clock=clock),
        )
        served = first.complete([SYSTEM, QUESTION])
        assert second.complete([SYSTEM, QUESTION]).decision.cache.warm_tokens[served.tier] > 5_000
        assert router.cache_state.mean_turns == 3.0  # the router's own was not touched
        first.close()
        second.close()


def test_a_plan_counts_the_prefix(folder: Path) -> None:
    """Where a long prefix is warm on one tier alone, trying others first costs too much."""
    clock = Clock()
    router = Router.load(folder, cache_state=CacheState(clock=clock))
    client = RoutedClient(router, providers=providers(clock), verifier=lambda answer, prompt: True)
    pinned = client.complete([SYSTEM, QUESTION], pin="frontier")
    assert pinned.tier == "frontier"
    query = QUESTION["content"]
    prefix = {"session": "s", "prefix_tokens": 60_000}
    cold = router.plan(query, success_value_usd=0.05, **prefix)
    free = router.plan(query, success_value_usd=0.05)
    # Each try pays for 60,000 tokens: fewer of them are worth it, or cheaper ones.
    assert len(cold) <= len(free)
    assert cold[0] == "nano"


def test_without_prices_prompts_are_routed_without_their_prefix_and_it_is_said_once(
    small_artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            for key in [key for key in tier if key.endswith("_price_usd_per_mtok")]:
                del tier[key]

    router = Router.load(resave(small_artifact, tmp_path / "bare", manifest=change))
    client = RoutedClient(router, providers={t.provider: FakeProvider() for t in router.tiers})
    with caplog.at_level(logging.WARNING, "router.client"):
        replies = turns(client, 3)
    assert all(reply.decision.cache is None for reply in replies)
    said = [r.getMessage() for r in caplog.records if "without their prefix" in r.getMessage()]
    assert len(said) == 1 and "nano" in said[0]


def test_a_keyword_router_has_no_cache_state() -> None:
    tiers = TierSet([Tier("a", "fake", "a-1"), Tier("b", "fake", "b-1")])
    router = KeywordRouter.for_tiers(tiers.names)
    client = RoutedClient(router, tiers=tiers, providers={"fake": FakeProvider()})
    assert [reply.decision.cache for reply in turns(client, 2)] == [None, None]


def test_a_cache_state_beside_a_keyword_router_is_refused() -> None:
    tiers = TierSet([Tier("a", "fake", "a-1")])
    router = KeywordRouter.for_tiers(tiers.names)
    with pytest.raises(InputError, match="expected a Router beside a cache state"):
        RoutedClient(router, tiers=tiers, providers={}, cache_state=CacheState())


def test_the_clients_prices_are_those_of_its_prefixes(small_artifact: Path, tmp_path: Path) -> None:
    """Models that nobody publishes a price of, in a price file that the client is given."""

    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            tier["provider"], tier["model"] = "openai", f"own-{tier['name']}"
            for key in [key for key in tier if key.endswith("_price_usd_per_mtok")]:
                del tier[key]

    entries = "".join(
        f'[[prices]]\nprovider = "openai"\nmodel = "own-{name}"\nfrom = 2026-01-01\n'
        f"input_price_usd_per_mtok = {n}\noutput_price_usd_per_mtok = {n}\n"
        for n, name in enumerate(MODELS, 1)
    )
    (tmp_path / "prices.toml").write_text(entries)
    client = RoutedClient(
        Router.load(resave(small_artifact, tmp_path / "own", manifest=change)),
        providers={"openai": FakeProvider("Paris.", id="openai")},
        price_book=PriceBook(tmp_path / "prices.toml"),
    )
    note = client.complete([SYSTEM, QUESTION]).decision.cache
    assert note is not None
    assert note.prefix_usd["mid"] == pytest.approx(2 * note.prefix_usd["nano"])


def test_images_do_not_change_how_long_a_text_is(folder: Path) -> None:
    clock = Clock()
    state = CacheState(clock=clock)
    client = RoutedClient(Router.load(folder), providers=providers(clock), cache_state=state)
    plain = client.complete([SYSTEM, QUESTION]).decision.cache.prefix_tokens
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    dear = Answer("A cat.", usage=Usage(40_000, 5))
    looker = RoutedClient(
        Router.load(folder),
        providers={name: FakeProvider(dear, id=name) for name in ("openai", "anthropic")},
        cache_state=state,
    )
    for _ in range(30):
        content = [{"type": "text", "text": "What is this?"}, image]
        looker.complete([SYSTEM, {"role": "user", "content": content}])
    after = looker.complete([SYSTEM, QUESTION]).decision.cache.prefix_tokens
    assert after <= plain


def test_a_verifier_meets_the_shared_state(folder: Path) -> None:
    clock = Clock()
    client = RoutedClient(
        Router.load(folder),
        providers=providers(clock),
        cache_state=CacheState(clock=clock),
        verifier=lambda answer, prompt: True,
    )
    first = client.complete([SYSTEM, QUESTION])
    second = client.complete([SYSTEM, QUESTION])
    assert second.decision.cache.warm_tokens.get(first.tier, 0) > 5_000


def test_an_hours_life_has_its_own_price(small_artifact: Path, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            tier["provider"], tier["model"] = MODELS[tier["name"]]
            price = tier["input_price_usd_per_mtok"]
            tier["cache_write_price_usd_per_mtok"] = 1.25 * price
            tier["cache_write_1h_price_usd_per_mtok"] = 2 * price

    path = resave(small_artifact, tmp_path / "hour", manifest=change)
    paid = {}
    for ttl in ("5m", "1h"):
        client = RoutedClient(Router.load(path), providers=providers(Clock()))
        note = client.complete([SYSTEM, QUESTION], cache=CacheMarks(ttl=ttl)).decision.cache
        paid[ttl] = note.prefix_usd["frontier"]
    assert paid["1h"] == pytest.approx(paid["5m"] * 2 / 1.25)


def test_without_a_price_of_an_hour_the_prefix_is_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = RoutedClient(Router.load(folder), providers=providers(Clock()))
    with caplog.at_level(logging.WARNING, "router.client"):
        reply = client.complete([SYSTEM, QUESTION], cache=CacheMarks(ttl="1h"))
    assert reply.decision.cache is None
    assert "kept for 1h" in caplog.text


def test_what_marks_no_cache_is_routed_without_one(folder: Path) -> None:
    clock = Clock()
    state = CacheState(clock=clock)
    client = RoutedClient(Router.load(folder), providers=providers(clock), cache_state=state)
    reply = client.complete([SYSTEM, QUESTION], cache=CacheMarks(enabled=False))
    assert reply.decision.cache is None
    assert len(state) == 0


def test_no_prompt_is_in_what_is_remembered(folder: Path) -> None:
    clock = Clock()
    state = CacheState(clock=clock)
    client = RoutedClient(Router.load(folder), providers=providers(clock), cache_state=state)
    turns(client, 2)
    kept = repr(state.__dict__)
    assert "France" not in kept and "careful" not in kept
