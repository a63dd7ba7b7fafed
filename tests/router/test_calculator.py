from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.calculator import dearest, estimate
from router.calculator.arrivals import hit_rate
from router.calculator.text import as_object, in_words, notes
from router.calculator.workload import Bill, Line, Share, Workload
from router.errors import InputError, PriceError
from router.prices import PriceBook
from router.providers.caching import cache_policy
from router.tiers import Tier

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
SONNET = Tier("sonnet", "anthropic", "claude-sonnet-4-6")
HAIKU = Tier("haiku", "anthropic", "claude-haiku-4-5")
NANO = Tier("nano", "openai", "gpt-5-nano")
OWN = Tier(
    "own",
    "own",
    "large",
    input_price_usd_per_mtok=1.0,
    output_price_usd_per_mtok=5.0,
    cached_input_price_usd_per_mtok=0.1,
    cache_write_price_usd_per_mtok=1.25,
)


def lines(workload: Workload, baseline: Tier, *mix: Share) -> dict[str, Line]:
    return {line.name: line for line in estimate(workload, baseline, mix, PriceBook(), AT)}


def month(workload: Workload, line: Line) -> float:
    return line.bill.total_usd * workload.days_per_month


# ------------------------------------------------------------------ an article's figures


@pytest.mark.parametrize(
    ("provider", "model", "prices", "usd"),
    [
        ("openai", "gpt-5-nano", None, 4.35),
        ("x-ai", "grok-4-1-fast", (0.20, 0.50), 7.50),
        ("deepseek", "deepseek-chat", (0.28, 0.42), 7.98),
        ("openai", "gpt-5-mini", None, 21.75),
        ("google", "gemini-3.1-pro-preview", None, 138.00),
        ("openai", "gpt-5.4", None, 172.50),
        ("anthropic", "claude-sonnet-4-6", None, 180.00),
        ("anthropic", "claude-opus-4-6", None, 300.00),
    ],
)
def test_thirty_thousand_requests_a_month(
    provider: str, model: str, prices: tuple[float, float] | None, usd: float
) -> None:
    tier = Tier("a", provider, model)
    if prices:
        tier = replace(
            tier, input_price_usd_per_mtok=prices[0], output_price_usd_per_mtok=prices[1]
        )
    workload = Workload(1_000, 0, 500, 300)
    assert month(workload, lines(workload, tier)["today"]) == pytest.approx(usd)


def test_ten_thousand_requests_a_day_at_95_percent_hits_pay_for_their_misses() -> None:
    workload = Workload(10_000, 2_000, 200, 0, hit_rate=0.95, min_cacheable_tokens=1024)
    found = lines(workload, SONNET)
    assert found["today"].bill.input_usd == pytest.approx(66.00)
    bill = found["caching"].bill
    # The article's figure has the hits and the users' tokens, and not the million missed tokens.
    assert bill.fresh_usd + bill.cache_read_usd == pytest.approx(11.70)
    missed_tokens = 10_000 * 0.05 * 2_000
    assert missed_tokens == pytest.approx(1e6)
    assert bill.cache_write_usd == pytest.approx(missed_tokens * 3.75e-6)
    assert bill.input_usd == pytest.approx(15.45)
    plain = replace(
        SONNET,
        input_price_usd_per_mtok=3.0,
        output_price_usd_per_mtok=15.0,
        cached_input_price_usd_per_mtok=0.3,
    )
    assert lines(workload, plain)["caching"].bill.input_usd == pytest.approx(14.70)


def test_a_prefix_below_the_minimum_saves_nothing_and_says_so() -> None:
    policy = cache_policy("anthropic", "claude-sonnet-4-6")
    assert policy is not None
    for system, saves in ((policy.min_tokens - 1, False), (policy.min_tokens, True)):
        workload = Workload(10_000, system, 200, 0, hit_rate=0.95)
        found = lines(workload, SONNET)
        assert (found["caching"].bill.total_usd < found["today"].bill.total_usd) == saves
        said = [
            note for note in notes(workload, tuple(found.values())) if "nothing is saved" in note
        ]
        assert len(said) == (not saves)
        if said:
            assert f"from {policy.min_tokens:,} tokens on" in said[0] and f"{system:,}" in said[0]


def test_every_prefix_from_the_cache() -> None:
    workload = Workload(10_000, 2_000, 0, 500, hit_rate=1.0, min_cacheable_tokens=1024)
    found = lines(workload, SONNET)
    assert month(workload, found["today"]) == pytest.approx(4_050)
    assert month(workload, found["caching"]) == pytest.approx(2_430)
    # At that many arrivals nearly every request is a hit by itself.
    by_arrivals = lines(replace(workload, hit_rate=None), SONNET)
    assert month(workload, by_arrivals["caching"]) == pytest.approx(2_430, rel=1e-6)


def test_discounts_of_a_bill_are_not_what_its_tokens_say() -> None:
    """$5,040 a month, and the article's 75 %, 70 % and 90 % off."""
    assert [5_040 * (1 - off) for off in (0.75, 0.7, 0.9)] == pytest.approx([1_260, 1_512, 504])
    mix = (Share(NANO, 0.7), Share(SONNET, 0.3))
    for system, output, caching in ((3_000, 500, 2_610), (5_000, 100, 990)):
        workload = Workload(10_000, system, 100, output, hit_rate=1.0)
        found = lines(workload, SONNET, *mix)
        assert month(workload, found["today"]) == pytest.approx(5_040)
        assert found["today"].bill.total_usd / 10 == pytest.approx(16.80)
        assert month(workload, found["caching"]) == pytest.approx(caching)
        both = month(workload, found["caching+routing"])
        multiplied = (
            month(workload, found["caching"])
            * month(workload, found["routing"])
            / month(workload, found["today"])
        )
        assert abs(both - multiplied) > 1


# ------------------------------------------------------------------ arrivals, routing, batch


def test_routing_thins_the_traffic_that_keeps_a_cache_warm() -> None:
    workload = Workload(200, 5_000, 200, 300)
    found = lines(workload, HAIKU, Share(HAIKU, 0.3), Share(NANO, 0.7))
    alone, (haiku, nano) = found["caching"].models[0], found["caching+routing"].models
    assert alone.hit_rate == pytest.approx(hit_rate(200 / 86_400, 300))
    assert haiku.hit_rate == pytest.approx(hit_rate(60 / 86_400, 300))
    assert nano.hit_rate == pytest.approx(hit_rate(140 / 86_400, 300))
    assert haiku.hit_rate < alone.hit_rate
    # Written at 1.25 times the input price and read at a tenth: worth it above 25/115.
    assert haiku.break_even_hit_rate == pytest.approx(0.25 / 1.15)
    assert haiku.caching_loses_usd > 0 and alone.caching_loses_usd == 0
    assert nano.break_even_hit_rate is None and nano.caching_loses_usd == 0
    said = " ".join(notes(workload, tuple(found.values())))
    assert "caching on anthropic/claude-haiku-4-5 loses $0.30 a month: 18.8% of its" in said
    assert "it pays above 21.7%" in said


def test_a_bill_is_what_a_simulated_day_costs() -> None:
    rng = np.random.default_rng(3)
    workload = Workload(400, 5_000, 200, 300)
    price = PriceBook().price(HAIKU, AT)
    gaps = rng.exponential(86_400 / 400, 100_000)
    hits = gaps <= 300
    written, read = np.where(hits, 0.0, 5_000), np.where(hits, 5_000, 0.0)
    each = price.cost_usd(np.full(len(gaps), 5_200.0), 300, read, written)
    caching = lines(workload, HAIKU)["caching"].bill.total_usd
    assert caching == pytest.approx(each.mean() * 400, rel=0.01)


def test_an_hours_life_is_warmer_and_dearer_to_write() -> None:
    workload = Workload(40, 5_000, 0, 0, ttl="1h", hit_rate=0.5)
    bill = lines(workload, HAIKU)["caching"].bill
    assert bill.cache_write_usd == pytest.approx(40 * 0.5 * 5_000 * 2e-6)
    assert bill.cache_read_usd == pytest.approx(40 * 0.5 * 5_000 * 0.1e-6)
    by_arrivals = lines(replace(workload, hit_rate=None), HAIKU)["caching"].models[0]
    assert by_arrivals.hit_rate == pytest.approx(hit_rate(40 / 86_400, 3600))
    # Where one cannot choose it, it changes nothing.
    assert lines(workload, NANO) == lines(replace(workload, ttl="5m"), NANO)
    own = replace(OWN, provider="anthropic")
    with pytest.raises(
        PriceError, match="writing to the cache of anthropic/large for an hour, got"
    ):
        lines(workload, own)


def test_a_busy_hour_replaces_the_days_mean() -> None:
    workload = Workload(200, 5_000, 200, 300, arrivals_per_hour=60)
    model = lines(workload, HAIKU)["caching"].models[0]
    assert model.hit_rate == pytest.approx(hit_rate(60 / 3600, 300))


def test_steps_of_the_cache_leave_a_rest_that_is_fresh() -> None:
    workload = Workload(1e6, 2_000, 0, 0, hit_rate=1.0)
    line = lines(workload, NANO)["caching"]
    assert line.models[0].cached_tokens == 1_920
    assert line.bill.fresh_usd == pytest.approx(80 * 0.05)


def test_a_batch_pays_its_own_price_and_reads_no_cache() -> None:
    workload = Workload(1_000, 5_000, 0, 1_000, hit_rate=1.0, batch_share=0.25)
    found = lines(workload, SONNET)
    full = found["today"].bill.total_usd
    assert full == pytest.approx(1_000 * (0.015 + 0.015))
    assert found["batch"].bill.total_usd == pytest.approx(0.75 * full + 0.25 * full / 2)
    cached = found["caching"].bill.total_usd
    assert found["everything"].bill.total_usd == pytest.approx(0.75 * cached + 0.25 * full / 2)
    assert found["everything"].models[0].batch_requests_per_day == 250
    # The hit rate of what is left, which is less traffic.
    thin = lines(replace(workload, requests_per_day=100, hit_rate=None), SONNET)
    assert thin["everything"].models[0].hit_rate == pytest.approx(hit_rate(75 / 86_400, 300))


@pytest.mark.parametrize(("output", "loses"), [(10, True), (5_000, False)])
def test_a_batch_that_costs_more_than_the_cache_is_said(output: int, loses: bool) -> None:
    workload = Workload(1_000, 10_000, 0, output, hit_rate=1.0, batch_share=0.5)
    found = lines(workload, SONNET)
    more = month(workload, found["everything"]) - month(workload, found["caching"])
    assert (more > 0) == loses
    said = [note for note in notes(workload, tuple(found.values())) if "here batch costs" in note]
    assert len(said) == loses
    if said:
        assert f"${more:,.2f} a month more" in said[0]


def test_a_batch_price_that_nobody_knows_is_not_made_up() -> None:
    workload = Workload(1_000, 0, 500, 300, batch_share=0.1)
    flash = Tier("flash", "deepseek", "deepseek-v4-flash")
    with pytest.raises(PriceError, match="no batch price is known for deepseek/deepseek-v4-flash"):
        lines(workload, SONNET, Share(flash, 0.5), Share(SONNET, 0.5))
    assert "batch" not in lines(replace(workload, batch_share=0.0), flash)


def test_a_long_prompt_is_priced_at_its_step() -> None:
    gpt = Tier("gpt", "openai", "gpt-5.4")
    workload = Workload(10, 250_000, 30_000, 1_000, hit_rate=0.5)
    found = lines(workload, gpt)
    price = PriceBook().price(gpt, AT)
    kept = 250_000 - 250_000 % 128
    assert found["today"].bill.total_usd == pytest.approx(10 * price.cost_usd(280_000, 1_000))
    assert found["caching"].bill.total_usd == pytest.approx(
        5 * price.cost_usd(280_000, 1_000, kept) + 5 * price.cost_usd(280_000, 1_000, 0, kept)
    )


def test_a_model_whose_cache_we_know_nothing_of() -> None:
    workload = Workload(10_000, 2_000, 0, 500)
    found = lines(workload, OWN)
    assert found["caching"].bill == found["today"].bill
    assert "no prompt cache is known for own/large" in " ".join(
        notes(workload, tuple(found.values()))
    )
    # A hit rate that its user has measured is believed.
    given_one = lines(replace(workload, hit_rate=0.9), OWN)["caching"]
    assert given_one.models[0].cached_tokens == 2_000
    assert given_one.bill.cache_read_usd == pytest.approx(10_000 * 0.9 * 2_000 * 0.1e-6)
    short = lines(replace(workload, hit_rate=0.9, min_cacheable_tokens=2_001), OWN)["caching"]
    assert short.models[0].cached_tokens == 0


def test_a_cache_without_a_discount_saves_nothing_and_says_so() -> None:
    plain = replace(OWN, cached_input_price_usd_per_mtok=None, cache_write_price_usd_per_mtok=None)
    workload = Workload(10, 2_000, 0, 0, hit_rate=0.9)
    found = lines(workload, plain)
    assert found["caching"].bill.total_usd == pytest.approx(found["today"].bill.total_usd)
    assert "caching on own/large saves nothing at these prices" in notes(
        workload, tuple(found.values())
    )
    dear = replace(OWN, cached_input_price_usd_per_mtok=1.0)
    assert lines(workload, dear)["caching"].models[0].break_even_hit_rate == 1.0


counts = st.integers(0, 10**6)


@given(
    requests=st.floats(0, 1e12),
    tokens=st.tuples(counts, counts, counts),
    hits=st.floats(0, 1) | st.none(),
    share=st.floats(0, 1),
    batch=st.floats(0, 1),
    ttl=st.sampled_from(["5m", "1h"]),
)
def test_any_workload_has_a_finite_bill_that_adds_up(
    requests: float,
    tokens: tuple[int, int, int],
    hits: float | None,
    share: float,
    batch: float,
    ttl: str,
) -> None:
    workload = Workload(requests, *tokens, hit_rate=hits, batch_share=batch, ttl=ttl)  # type: ignore[arg-type]
    found = estimate(workload, SONNET, [Share(HAIKU, share), Share(NANO, 1 - share)], BOOK, AT)
    shown = as_object(workload, found, "")
    for line, shown_line in zip(found, shown["lines"], strict=True):
        bill = line.bill
        assert math.isfinite(bill.total_usd) and bill.total_usd >= 0
        assert sum(model.bill.total_usd for model in line.models) == pytest.approx(bill.total_usd)
        assert sum(model.requests_per_day for model in line.models) == pytest.approx(requests)
        assert shown_line["usd_per_day"] == bill.total_usd
        # A line's output is never cached: caching leaves it as it is.
    by_name = {line.name: line for line in found}
    assert by_name["caching"].bill.output_usd == by_name["today"].bill.output_usd
    assert in_words(workload, found, "").startswith(f"{requests:,.6g} requests a day")


BOOK = PriceBook()


# ------------------------------------------------------------------ input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests_per_day": -1.0}, "requests per day from 0 to 1,000,000,000,000, got -1.0"),
        ({"requests_per_day": float("nan")}, "requests per day .* got nan"),
        ({"requests_per_day": float("inf")}, "requests per day .* got inf"),
        ({"system_tokens": -1}, "system tokens from 0"),
        ({"user_tokens": 10**400}, "user tokens from 0 .* got 1000"),
        ({"output_tokens": -5}, "output tokens from 0"),
        ({"days_per_month": 367.0}, "days per month from 0 to 366"),
        ({"hit_rate": 1.01}, "hit rate from 0 to 1, got 1.01"),
        ({"arrivals_per_hour": -1.0}, "arrivals per hour"),
        ({"min_cacheable_tokens": -1}, "minimum of cacheable tokens"),
        ({"batch_share": 2.0}, "batch share from 0 to 1"),
        ({"ttl": "2h"}, "time to live of 5m or 1h, got '2h'"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Workload(1, 1, 1, 1), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.6, 0.3), "shares of the tiers to sum to 1, got 0.9"),
        ((1.5, -0.5), "share of openai/gpt-5-nano from 0 to 1, got 1.5"),
        ((float("nan"), 1.0), "share of openai/gpt-5-nano from 0 to 1, got nan"),
    ],
)
def test_shares_that_are_none_are_refused(shares: tuple[float, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lines(Workload(1, 1, 1, 1), SONNET, Share(NANO, shares[0]), Share(SONNET, shares[1]))


def test_the_dearest_depends_on_the_tokens(tmp_path: Path) -> None:
    reader = replace(OWN, input_price_usd_per_mtok=9.0)
    writer = replace(OWN, model="writer", output_price_usd_per_mtok=50.0)
    tiers = (reader, writer)
    assert dearest(tiers, Workload(1, 0, 1_000, 10), BOOK) is reader
    assert dearest(tiers, Workload(1, 0, 10, 1_000), BOOK) is writer


def test_bills_add_up() -> None:
    both = Bill(1, 2, 3, 4, 5) + Bill(10, 20, 30, 40, 50)
    assert both == Bill(11, 22, 33, 44, 55)
    assert (both.input_usd, both.total_usd) == (66, 165)
