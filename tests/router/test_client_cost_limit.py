"""The limit on what a request costs: never exceeded, whatever providers do within their bounds."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from router.artifact import default_artifact_folder
from router.client.cost_limit import bound_of, input_tokens_at_most, left_of
from router.errors import CostLimitError, CpsRouterError, InputError, ProviderError
from router.prices import PriceBook
from router.providers.base import Answer, CacheMarks, Prompt
from router.testing import FakeProvider
from router.tier_price import PriceStep, TierPrice
from router.tiers import Tier, TierSet
from router.usage import Usage
from router.verifiers import exact
from tests.router.client_world import EASY, TIERS, MemoryLedger, PlanRouter, World, client_of

KINDS = ("rate-limit", "timeout", "outage", "cut", "malformed", "auth")
price_usd = st.floats(0.001, 500.0)


@st.composite
def prices(draw: st.DrawFn) -> TierPrice:
    """Any prices; a step may be dearer or cheaper, writing for an hour may be unknown."""
    steps = ()
    if draw(st.booleans()):
        row = [draw(price_usd) for _ in range(4)]
        above = draw(st.integers(0, 2000))
        steps = (PriceStep(above, *row, draw(price_usd)),)
    row = [draw(price_usd) for _ in range(4)]
    return TierPrice(*row, draw(st.sampled_from([0.0, 0.001])), draw(price_usd), steps)


class Book(PriceBook):
    """Prices by tier name; None is unknown."""

    def __init__(self, by_name: dict[str, TierPrice | None]) -> None:
        super().__init__()
        self.by_name = by_name

    def find(self, tier: Tier, *args: Any, **options: Any) -> TierPrice | None:
        return self.by_name[tier.name]


class Spender(FakeProvider):
    """Answers and fails at random, with any usage within what it was told; remembers true costs."""

    def __init__(self, seed: int, book: Book, tiers: TierSet, n_input: int, long: bool) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.book, self.tiers, self.n_input, self.long = book, tiers, n_input, long
        self.true_usd: list[float] = []

    def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Answer:
        draw = self.random
        assert prompt.max_output_tokens is not None
        (name,) = (tier.name for tier in self.tiers if tier.model == model)
        kind = draw.choice(("ok", "ok", "no usage", *KINDS))
        late_outage = kind == "outage" and draw.random() < 0.5
        billed = kind in ("timeout", "cut", "malformed") or late_outage
        usage = self.usage(prompt.max_output_tokens)
        if kind in ("ok", "no usage") or billed:
            price = self.book.by_name[name]
            assert price is not None
            self.true_usd.append(price.of_usage(usage))
        if kind == "ok":
            return Answer(draw.choice(("good", "bad")), usage)
        if kind == "no usage":
            return Answer(draw.choice(("good", "bad")), None)
        raise ProviderError("x", kind=kind, billed=late_outage)

    def usage(self, most_output: int) -> Usage:
        draw = self.random
        n_input = draw.choice((self.n_input, draw.randint(0, self.n_input)))
        cached = draw.choice((0, n_input, draw.randint(0, n_input)))
        written = draw.choice((0, n_input - cached, draw.randint(0, n_input - cached)))
        long = written if self.long and draw.random() < 0.5 else 0
        return Usage(n_input, draw.choice((most_output, 0)), cached, written, long)


@settings(max_examples=300)
@given(
    st.lists(prices(), min_size=3, max_size=3),
    st.integers(0, 10**6),
    st.floats(1e-6, 2.0),
    st.one_of(st.none(), st.integers(1, 5000)),
    st.booleans(),
    st.booleans(),
    st.permutations(["nano", "mid", "frontier"]),
    st.integers(1, 3),
)
def test_the_sum_of_true_costs_never_exceeds_the_limit(
    each: list[TierPrice],
    seed: int,
    limit: float,
    max_output_tokens: int | None,
    long: bool,
    verified: bool,
    plan: list[str],
    n_planned: int,
) -> None:
    tiers = TierSet([Tier(t.name, t.provider, t.model) for t in TIERS])
    book = Book(dict(zip(tiers.names, each, strict=True)))
    n_input = 1 + seed % 3000
    fake = Spender(seed, book, tiers, n_input, long)
    client, _ = client_of(
        router=PlanRouter(plan[:n_planned], tiers),
        providers={"one": fake, "two": fake},
        price_book=book,
        max_cost_usd=limit,
        verifier=exact("good") if verified else None,
    )
    for _ in range(3):
        fake.true_usd.clear()
        try:
            reply = client.complete(
                EASY,
                input_tokens_at_most=n_input,
                max_output_tokens=max_output_tokens,
                cache=CacheMarks(ttl="1h" if long else "5m"),
            )
        except CpsRouterError:
            pass
        else:
            assert reply.known_cost_usd <= limit + 1e-9
        assert math.fsum(fake.true_usd) <= limit


@given(
    st.lists(
        st.text(max_size=60) | st.sampled_from(["\ufdfa" * 9, "\ud83d", "㍿㍿", "a\u0301" * 9]),
        min_size=1,
        max_size=4,
    )
)
def test_the_fake_tokenizer_never_makes_more_tokens_than_the_bound(texts: list[str]) -> None:
    prompt = Prompt(tuple({"role": "user", "content": text} for text in texts))
    answer = FakeProvider("x").complete("m", prompt)
    assert answer.usage is not None
    assert answer.usage.input_tokens <= input_tokens_at_most(prompt)


def test_real_tokenizers_make_no_more_tokens_than_bytes() -> None:
    (found,) = default_artifact_folder().rglob("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(found))
    for text in ("hello world", "愛と学校", "\ufdfa", "🙂👨‍👩‍👧‍👦", "{}[]()\n\t" * 20):
        n_tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert n_tokens <= input_tokens_at_most(Prompt(({"role": "user", "content": text},)))


def test_the_bound_counts_everything_that_is_sent() -> None:
    short = input_tokens_at_most(Prompt(({"role": "user", "content": "x"},)))

    def longer(**more: Any) -> int:
        message = {"role": "user", "content": "x"}
        return input_tokens_at_most(Prompt((message,), **more)) - short

    schema = {"type": "object", "properties": {"a" * 1000: {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert longer(tools=(tool,)) >= 2000
    assert longer(options={"response_format": {"schema": schema}}) >= 1000
    call = {"id": "1", "function": {"name": "f", "arguments": "y" * 500}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert input_tokens_at_most(Prompt((said,))) >= 500
    assert input_tokens_at_most(Prompt(({"role": "user", "content": "é" * 100},))) >= 200


NOT_TEXT: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]},
    {"role": "assistant", "content": None, "audio": {"id": "a"}},
    # What says that it is text, and brings something along.
    {"role": "user", "content": [{"type": "text", "file_data": {"file_uri": "gs://big"}}]},
    {"role": "user", "content": [{"type": "text", "text": "x", "image_url": {"url": "x"}}]},
    {"role": "user", "content": [{"type": "text", "text": {"uri": "gs://big"}}]},
]


HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
LONG_LIVED: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", **HOUR}]}]},
    {"messages": [{**EASY[0], **HOUR}], "input_tokens_at_most": 100_000},
    {"tools": [{"type": "function", "function": FUNCTION, **HOUR}]},
    {"tools": [{"type": "function", "function": {**FUNCTION, **HOUR}}]},
    {"cache": CacheMarks(ttl="1h")},
    {
        "messages": [
            *EASY,
            {"role": "user", "content": [{"type": "tool_result", "content": [{**HOUR}]}]},
        ],
        "input_tokens_at_most": 100_000,
    },
]


@pytest.mark.parametrize("given", LONG_LIVED)
def test_a_mark_for_an_hour_anywhere_is_bounded_at_its_price(given: dict[str, Any]) -> None:
    price = TierPrice(1.0, 0.1, 1.25, 4.0, cache_write_1h_usd_per_mtok=2.0)
    book = Book(dict.fromkeys(TIERS.names, price))
    # All of the input is written for an hour, which at 1.25 a million would fit.
    given = {"messages": EASY, "input_tokens_at_most": 100_000, **given}
    n = given["input_tokens_at_most"]
    usage = Usage(n, 1000, cache_write_tokens=n, cache_write_1h_tokens=n)
    client, fake = client_of(Answer("x", usage), price_book=book)
    with pytest.raises(CostLimitError):
        client.complete(**given, query="q", max_output_tokens=1000, max_cost_usd=0.15)
    assert fake.calls == []
    reply = client.complete(**given, query="q", max_output_tokens=1000, max_cost_usd=0.205)
    assert reply.cost_usd == pytest.approx(0.204)


def test_a_mark_whose_price_nobody_knows_is_refused_under_a_limit() -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "24h"}}
    client, fake = client_of(max_cost_usd=1.0)
    with pytest.raises(InputError, match="ttl"):
        client.complete([{"role": "user", "content": [part]}])
    assert fake.calls == []


@pytest.mark.parametrize("message", NOT_TEXT)
def test_what_is_no_text_needs_the_callers_word(message: dict[str, Any]) -> None:
    client, fake = client_of(max_cost_usd=1.0)
    with pytest.raises(InputError, match="input_tokens_at_most"):
        client.complete([message], query="look")
    assert fake.calls == []
    client.complete([message], query="look", input_tokens_at_most=2000)
    client.complete([message], query="look", max_cost_usd=None)
    assert len(fake.calls) == 2


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"n": 5}},
        {"options": {"service_tier": "priority"}},
        {"options": {"max_tokens": 10**6}},
        {"tools": [{"type": "web_search"}]},
        {"cache": CacheMarks(explicit=True)},
        {"cache": CacheMarks(explicit=True), "input_tokens_at_most": 10},
        {"input_tokens_at_most": -1},
        {"input_tokens_at_most": 10.5},
    ],
)
def test_what_no_bound_covers_is_refused_where_there_is_a_limit(more: dict[str, Any]) -> None:
    client, fake = client_of(max_cost_usd=1.0)
    with pytest.raises(InputError, match="expected"):
        client.complete(EASY, **more)
    assert fake.calls == []


def test_nothing_is_sent_where_no_tier_fits() -> None:
    ledger = MemoryLedger()
    client, fake = client_of(max_cost_usd=1e-6, ledger=ledger)
    with pytest.raises(CostLimitError, match="max_cost_usd"):
        client.complete(EASY)
    with pytest.raises(CostLimitError):
        client.complete(EASY, pin="frontier", max_cost_usd=0.01)
    assert fake.calls == []
    assert ledger.calls == []


def test_the_router_is_asked_for_a_tier_that_fits() -> None:
    router = PlanRouter(["frontier", "mid"])
    client, _ = client_of(router=router, max_cost_usd=0.02)
    reply = client.complete(EASY)
    assert router.asked[0]["exclude"] == ["frontier"]
    assert reply.tier == "mid"


def test_a_step_of_the_plan_that_does_not_fit_gives_way_to_a_cheaper_one() -> None:
    # After the first answer there is too little left for frontier, and enough for nano.
    router = PlanRouter(["mid", "frontier", "nano"])
    client, fake = client_of("no", router=router, verifier=exact("yes"), retries=0)
    usage = Usage(1000, 200)
    fake._answers = {f"{name}-model": Answer("no", usage) for name in TIERS.names}
    reply = client.complete(
        EASY, input_tokens_at_most=1000, max_output_tokens=200, max_cost_usd=0.181
    )
    assert [a.tier for a in reply.attempts] == ["mid", "nano"]
    assert (reply.verified, reply.tier) == (False, "nano")
    assert reply.cost_usd is not None
    assert reply.cost_usd <= 0.181


def test_where_nothing_more_fits_what_there_is_is_served() -> None:
    router = PlanRouter(["nano", "mid"])
    client, _ = client_of(Answer("no", None), router=router, verifier=exact("yes"))
    reply = client.complete(
        EASY, input_tokens_at_most=1000, max_output_tokens=200, max_cost_usd=0.019
    )
    assert [a.tier for a in reply.attempts] == ["nano"]
    assert (reply.text, reply.verified) == ("no", False)


def test_unknown_costs_count_at_their_bound() -> None:
    answers = {"nano-model": ProviderError("x", kind="timeout"), "mid-model": "never"}
    client, _ = client_of(answers, router=PlanRouter(["nano", "mid"]))
    bound = {"input_tokens_at_most": 1000, "max_output_tokens": 200}
    # mid alone may cost 0.018, and the time-out of nano 0.0018.
    with pytest.raises(ProviderError) as caught:
        client.complete(EASY, max_cost_usd=0.019, **bound)
    assert caught.value.kind == "timeout"
    assert client.complete(EASY, max_cost_usd=0.0199, **bound).text == "never"


def test_the_longest_output_is_what_the_limit_pays_for() -> None:
    client, fake = client_of(world=World())
    for limit, expected in ((10.0, 4096), (0.005, 1000), (0.0021, 275)):
        client.complete(EASY, pin="nano", max_cost_usd=limit, input_tokens_at_most=1000)
        assert fake.calls[-1].prompt.max_output_tokens == pytest.approx(expected, abs=1)
    with pytest.raises(CostLimitError):
        client.complete(EASY, pin="nano", max_cost_usd=0.002, input_tokens_at_most=1000)
    client.complete(
        EASY, pin="nano", max_cost_usd=0.002, input_tokens_at_most=1000, max_output_tokens=100
    )
    assert fake.calls[-1].prompt.max_output_tokens == 100


def test_a_tier_without_a_price_is_not_called_under_a_limit() -> None:
    book = Book({"nano": None, "mid": TierPrice(1, 1, 1, 1), "frontier": None})
    client, _ = client_of(router=PlanRouter(["nano", "mid"]), price_book=book, max_cost_usd=1.0)
    assert client.complete(EASY).tier == "mid"
    assert client.complete(EASY, max_cost_usd=None).tier == "nano"


def test_writing_for_an_hour_at_an_unknown_price_has_no_bound() -> None:
    price = TierPrice(1.0, 0.1, 1.25, 4.0)
    assert bound_of(price, 1000, 100, 1.0, for_an_hour=True) is None
    found = bound_of(price, 1000, 100, 1.0)
    assert found is not None
    assert found.usd == pytest.approx((1000 * 1.25 + 100 * 4) / 1e6)


def test_rounding_never_leads_beyond_the_limit() -> None:
    limit, spent = 1.0, 0.0
    price = TierPrice(0.1, 0.1, 0.1, 0.3)
    made = []
    while (found := bound_of(price, 333, 777, left_of(limit, spent))) is not None:
        made.append(found.usd)
        spent += found.usd
    assert math.fsum(made) <= limit
    assert math.fsum(made) > limit - 2 * made[0]
