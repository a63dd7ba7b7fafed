from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import genai_prices
import numpy as np
import pytest
from genai_prices import types
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import PriceError
from router.price_overrides import read_overrides
from router.prices import PriceBook, PriceStep, TierPrice, current_prices
from router.tiers import BATCH_PRICE_KEYS, PRICE_KEYS, Tier
from router.usage import Usage

MAY_2026 = datetime(2026, 5, 4, 12, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 24, 12, tzinfo=UTC)


def tier(provider: str, model: str, **prices: float) -> Tier:
    return Tier("a tier", provider, model, **prices)  # type: ignore[arg-type]


def book(folder: Path, text: str) -> PriceBook:
    path = folder / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return PriceBook(path)


@pytest.mark.parametrize(
    ("provider", "model", "standard", "batch"),
    [
        ("openai", "gpt-5-nano", (0.000245, 0.000155), (0.0001225, 0.0000775)),
        ("openai", "gpt-5", (0.006125, 0.003875), (0.0030625, 0.0019375)),
        # Its batch price for cached tokens is published as 0.13, not half of 0.25.
        ("openai", "gpt-5.4", (0.010750, 0.006250), (0.005375, 0.003135)),
        ("openai", "gpt-6-luna", (0.000400, 0.000220), (0.000200, 0.000110)),
        ("anthropic", "claude-sonnet-4-6", (0.012000, 0.006600), (0.006000, 0.003300)),
        ("anthropic", "claude-haiku-4-5", (0.004000, 0.002200), (0.002000, 0.001100)),
        # Batch halves input and output here, and not what reading the cache costs.
        ("google", "gemini-3.1-pro-preview", (0.008600, 0.005000), (0.004300, 0.002700)),
        ("google", "gemini-2.5-flash", (0.001500, 0.000960), (0.000750, 0.000510)),
    ],
)
def test_published_prices(
    provider: str, model: str, standard: tuple[float, float], batch: tuple[float, float]
) -> None:
    # 2,500 input tokens, of which none or 2,000 from the cache, and 300 output tokens.
    for is_batch, (uncached, cached) in ((False, standard), (True, batch)):
        price = PriceBook().price(tier(provider, model), NOVEMBER, batch=is_batch)
        assert price.cost_usd(2500, 300) == pytest.approx(uncached, rel=1e-12)
        assert price.cost_usd(2500, 300, 2000) == pytest.approx(cached, rel=1e-12)
        usage = Usage(2500, 300, cached_input_tokens=2000)
        assert price.of_usage(usage) == pytest.approx(cached, rel=1e-12)


def test_a_cache_that_is_written_for_an_hour_is_dearer_than_for_five_minutes() -> None:
    haiku = PriceBook().price(tier("anthropic", "claude-haiku-4-5"), NOVEMBER)
    assert haiku.cost_usd(2500, 300) == pytest.approx(0.0040)
    assert haiku.cost_usd(2500, 300, 0, 2000) == pytest.approx(0.0045)
    assert haiku.cost_usd(2500, 300, 0, 2000, 2000) == pytest.approx(0.0060)
    # The hour's share of what was written.
    assert haiku.cost_usd(2500, 300, 0, 2000, 500) == pytest.approx(0.0045 + 500 * 0.75e-6)
    assert haiku.of_usage(
        Usage(2500, 300, cache_write_tokens=2000, cache_write_1h_tokens=500)
    ) == pytest.approx(0.0045 + 500 * 0.75e-6)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-5"),
        ("openai", "gpt-6-luna"),
        ("aws", "global.anthropic.claude-sonnet-4-20250514-v1:0"),
    ],
)
def test_an_unknown_price_for_an_hour_is_not_that_for_five_minutes(
    provider: str, model: str
) -> None:
    price = PriceBook().price(tier(provider, model), NOVEMBER)
    assert price.cache_write_1h_usd_per_mtok is None
    assert np.isnan(price.cost_usd(2500, 300, 0, 2000, 1))
    costs = price.cost_usd(np.array([2500.0, 2500.0]), 300, 0, 2000, np.array([0.0, 1.0]))
    assert costs[0] == price.cost_usd(2500, 300, 0, 2000)
    assert np.isnan(costs[1])
    with pytest.raises(PriceError, match=r"price for the 7 tokens .* for an hour, got none: add"):
        price.of_usage(Usage(2500, 300, cache_write_tokens=2000, cache_write_1h_tokens=7))


def test_anthropic_writes_for_an_hour_at_twice_the_input_price_throughout() -> None:
    import genai_prices.data

    provider = next(p for p in genai_prices.data.providers if p.id == "anthropic")
    for model in provider.models:
        price = PriceBook().price(tier("anthropic", model.id), NOVEMBER)
        for at in (price, *price.steps):
            if at.cache_write_usd_per_mtok != at.input_usd_per_mtok:
                assert at.cache_write_1h_usd_per_mtok == pytest.approx(2 * at.input_usd_per_mtok)


@pytest.mark.parametrize(("provider", "one_hour"), [("anthropic", 6.0), ("acme", None)])
def test_an_hour_that_the_data_leaves_out_is_known_at_anthropic_only(
    provider: str, one_hour: float | None
) -> None:
    step = types.TieredPrices(Decimal(3), [types.Tier(100, Decimal(4))])
    prices = types.ModelPrice(
        input_mtok=step, cache_write_mtok=Decimal("3.75"), output_mtok=Decimal(15)
    )
    free = types.ModelPrice(input_mtok=Decimal(3), output_mtok=Decimal(15))
    models = [
        types.ModelInfo(id=name, match=types.ClauseEquals(equals=name), prices=price)
        for name, price in (("old", prices), ("no-cache", free))
    ]
    made = types.Provider(id=provider, name=provider, api_pattern=provider, models=models)
    set_custom_snapshot(DataSnapshot(providers=[made], from_auto_update=False))
    try:
        found = PriceBook().price(tier(provider, "old"), NOVEMBER)
        assert found.cache_write_1h_usd_per_mtok == one_hour
        assert found.steps[0].cache_write_1h_usd_per_mtok == (one_hour and 8.0)
        without = PriceBook().price(tier(provider, "no-cache"), NOVEMBER)
        assert without.cache_write_1h_usd_per_mtok is None
    finally:
        set_custom_snapshot(None)


def test_where_the_data_has_no_batch_price_there_is_none() -> None:
    prices = PriceBook()
    for provider, model, message in [
        (
            "deepseek",
            "deepseek-v4-flash",
            "no batch price is known for deepseek/deepseek-v4-flash:",
        ),
        ("google", "gemini-3.5-flash", "no batch price is known"),
        # Its batch entry is there, and empty.
        ("openai", "gpt-3.5-turbo-1106", "no batch price is known"),
        ("openai", "gpt-5-nanoo", "no such model"),
    ]:
        for _ in range(2):
            with pytest.raises(PriceError, match=message):
                prices.price(tier(provider, model), NOVEMBER, batch=True)
        assert prices.find(tier(provider, model), NOVEMBER, batch=True) is None
    assert prices.find(tier("deepseek", "deepseek-v4-flash"), NOVEMBER) is not None


def test_a_batch_price_has_a_date_too() -> None:
    prices = PriceBook()
    nano = tier("openai", "gpt-5-nano")
    assert prices.price(
        nano, datetime(2026, 10, 14, tzinfo=UTC), batch=True
    ).input_usd_per_mtok == (0.025)
    with pytest.raises(PriceError, match="before 2026-10-14, the day from which genai-prices has"):
        prices.price(nano, datetime(2026, 10, 13, 23, tzinfo=UTC), batch=True)
    # And one answer is not given for the other question.
    assert prices.price(nano, NOVEMBER).input_usd_per_mtok == 0.05
    assert prices.price(nano, NOVEMBER, batch=True).input_usd_per_mtok == 0.025


def test_deepseek_chat_is_stale_in_the_data_and_mended_by_an_override(tmp_path: Path) -> None:
    stale = PriceBook().price(tier("deepseek", "deepseek-chat"), NOVEMBER)
    assert (stale.input_usd_per_mtok, stale.output_usd_per_mtok) == (0.27, 1.1)
    text = '[[prices]]\nprovider="deepseek"\nmodel="deepseek-chat"\nfrom=2025-09-29\n'
    text += "input_price_usd_per_mtok=0.28\noutput_price_usd_per_mtok=0.42\n"
    mended = book(tmp_path, text).price(tier("deepseek", "deepseek-chat"), NOVEMBER)
    assert mended.cost_usd(500, 300) * 30_000 == pytest.approx(7.98)


def test_the_data_says_of_when_it_is() -> None:
    prices = PriceBook()
    assert prices.as_of is not None
    assert date(2026, 10, 14) <= prices.as_of <= datetime.now(tz=UTC).date()
    assert prices.data_version == f"genai-prices {genai_prices.__version__}"


def test_cache_writes_cost_more_where_the_provider_says_so() -> None:
    prices = PriceBook()
    haiku = prices.price(tier("anthropic", "claude-haiku-4-5"), MAY_2026)
    assert haiku.cost_usd(2500, 300, 0, 2000) == pytest.approx(0.0045)
    nano = prices.price(tier("openai", "gpt-5-nano"), MAY_2026)
    assert nano.cost_usd(2500, 300, 0, 2000) == nano.cost_usd(2500, 300)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-5"),
        ("openai", "gpt-5.4"),
        ("openai", "gpt-6-luna"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-haiku-5-5"),
        ("google", "gemini-2.5-pro"),
        ("x-ai", "grok-4-fast"),
        ("openrouter", "qwen/qwen3-max"),
        ("openrouter", "qwen/qwen-plus"),
        ("deepseek", "deepseek-v4-flash"),
    ],
)
def test_prices_equal_the_price_data_at_every_length(
    provider: str, model: str, batch: bool
) -> None:
    price = PriceBook().find(tier(provider, model), NOVEMBER, batch=batch)
    if price is None:
        assert batch
        return
    counts = np.array(
        [
            (total, cached, written, output)
            for start in {1, *(step.above_input_tokens for step in price.steps)}
            for total in (start, start + 1, 3 * start)
            for cached, written, output in [(0, 0, 7), (1, 0, 0), (total // 3, total // 2, 4_000)]
        ],
        dtype=float,
    )
    total, cached, written, output = counts.T
    expected = [
        genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=int(n),
                cache_read_tokens=int(read),
                cache_write_tokens=int(wrote),
                output_tokens=int(out),
            ),
            model,
            provider_id=provider,
            genai_request_timestamp=NOVEMBER,
            price_context={"processing": "batch"} if batch else None,
        ).total_price
        for n, read, wrote, out in counts
    ]
    costs = price.cost_usd(total, output, cached, written)
    np.testing.assert_allclose(costs, np.array(expected, dtype=float), rtol=1e-12)
    one_by_one = [price.cost_usd(n, out, read, wrote) for n, read, wrote, out in counts.tolist()]
    np.testing.assert_array_equal(costs, one_by_one)


def test_a_long_prompt_is_dearer_as_a_whole_and_not_only_beyond_the_step() -> None:
    gpt = PriceBook().price(tier("openai", "gpt-5.4"), NOVEMBER)
    assert [step.above_input_tokens for step in gpt.steps] == [272_000]
    assert gpt.cost_usd(272_000, 1000) == pytest.approx(0.272 * 2.5 + 0.001 * 15)
    assert gpt.cost_usd(272_001, 1000) == pytest.approx(0.272001 * 5 + 0.001 * 22.5)
    # It is the whole prompt that counts, cached tokens included.
    assert gpt.cost_usd(300_000, 0, 300_000) == pytest.approx(0.3 * 0.5)


tokens = st.integers(0, 600_000)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(tokens, tokens, tokens, tokens, tokens), min_size=1),
    starts=st.lists(st.integers(1, 500_000), max_size=3, unique=True),
    has_1h=st.booleans(),
)
def test_many_requests_cost_what_each_of_them_costs(
    rows: list[tuple[int, ...]], starts: list[int], has_1h: bool
) -> None:
    steps = tuple(
        PriceStep(start, 2.0 + n, 0.2 + n, 2.5 + n, 9.0 + n, 4.0 + n if has_1h else None)
        for n, start in enumerate(sorted(starts))
    )
    price = TierPrice(1.0, 0.1, 1.25, 5.0, 0.01, 2.0 if has_1h else None, steps)
    columns = np.array(rows, dtype=float).T
    together = price.cost_usd(*columns)
    np.testing.assert_array_equal(together, [price.cost_usd(*map(float, row)) for row in rows])
    assert np.isfinite(together).all() or not has_1h


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.data())
def test_a_cache_moves_a_cost_between_what_reading_and_writing_everything_costs(
    total: int, output: int, data: st.DataObject
) -> None:
    price = PriceBook().price(tier("anthropic", "claude-haiku-4-5"), NOVEMBER)
    cached = data.draw(st.integers(0, total))
    written = data.draw(st.integers(0, total - cached))
    for_an_hour = data.draw(st.integers(0, written))
    usage = Usage(total, output, cached, written, for_an_hour)
    low, high = (
        price.cost_usd(total, output, total),
        price.cost_usd(total, output, 0, total, total),
    )
    assert low - 1e-12 <= price.of_usage(usage) <= high + 1e-12


def test_a_usage_too_large_to_pay_is_an_error() -> None:
    price = TierPrice(1.0, 1.0, 1.0, 1.0)
    for count in (10**400, 10**308 * 9):
        with pytest.raises(PriceError, match="expected a usage with a finite cost"):
            price.of_usage(Usage(count, count))


@pytest.fixture
def acme() -> Iterator[None]:
    """Price data of an invented provider, in place of the published ones."""

    def model(
        name: str, prices: types.ModelPrice | list[types.ConditionalPrice]
    ) -> types.ModelInfo:
        return types.ModelInfo(id=name, match=types.ClauseEquals(equals=name), prices=prices)

    def flat(**prices: int) -> types.ModelPrice:
        return types.ModelPrice(**{key: Decimal(price) for key, price in prices.items()})

    from_june = types.StartDateConstraint(date(2026, 6, 1))
    at_night = types.TimeOfDateConstraint(time(22, tzinfo=UTC), time(6, tzinfo=UTC))
    models = [
        model(
            "dated",
            [
                types.ConditionalPrice(prices=flat(input_mtok=2, output_mtok=3)),
                types.ConditionalPrice(
                    from_june, prices=flat(input_mtok=4, output_mtok=6, cache_read_mtok=1)
                ),
            ],
        ),
        model(
            "cheaper-at-night",
            [
                types.ConditionalPrice(prices=flat(input_mtok=2, output_mtok=2)),
                types.ConditionalPrice(at_night, prices=flat(input_mtok=1, output_mtok=1)),
            ],
        ),
        model("with-a-fee", flat(input_mtok=1, output_mtok=2, requests_kcount=5)),
        model("embedding", flat(input_mtok=1)),
        model("free", types.ModelPrice()),
        model("gratis", flat(input_mtok=0, output_mtok=0)),
    ]
    provider = types.Provider(id="acme", name="Acme", api_pattern="acme", models=models)
    set_custom_snapshot(DataSnapshot(providers=[provider], from_auto_update=False))
    yield
    set_custom_snapshot(None)


@pytest.mark.usefixtures("acme")
def test_a_price_is_that_of_its_date() -> None:
    prices = PriceBook()
    dated = tier("acme", "dated")
    before = TierPrice(2.0, 2.0, 2.0, 3.0)  # no cache price then: the input price
    after = TierPrice(4.0, 1.0, 4.0, 6.0)
    assert prices.price(dated, datetime(2026, 5, 31, 23, 59, tzinfo=UTC)) == before
    assert prices.price(dated, datetime(2026, 6, 1, tzinfo=UTC)) == after
    # The date counts in UTC: it is still May there.
    east = timezone(timedelta(hours=2))
    assert prices.price(dated, datetime(2026, 6, 1, 1, tzinfo=east)) == before


@pytest.mark.usefixtures("acme")
def test_off_peak_hours_are_told_apart() -> None:
    prices = PriceBook()
    night = tier("acme", "cheaper-at-night")
    by_hour = [prices.price(night, MAY_2026.replace(hour=h)).input_usd_per_mtok for h in range(24)]
    assert by_hour == [1.0] * 6 + [2.0] * 16 + [1.0] * 2


@pytest.mark.usefixtures("acme")
def test_a_fee_for_each_request_is_not_lost() -> None:
    price = PriceBook().price(tier("acme", "with-a-fee"), MAY_2026)
    assert price == TierPrice(1.0, 1.0, 1.0, 2.0, request_usd=0.005)
    assert price.cost_usd(1000, 500) == pytest.approx(0.005 + 0.001 + 0.001)


@pytest.mark.usefixtures("acme")
def test_todays_prices_are_known_where_tokens_say_it_all(tmp_path: Path) -> None:
    text = (
        DATED
        + '[[prices]]\nprovider="own"\nmodel="llama"\nfrom=2999-01-01\n'
        + ("input_price_usd_per_mtok=9\noutput_price_usd_per_mtok=9\n")
    )
    tiers = [tier("own", "llama"), tier("acme", "with-a-fee"), tier("acme", "no-such")]
    fresh, output = current_prices(tiers, book(tmp_path, text))
    np.testing.assert_array_equal(fresh, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(output, [0.5, np.nan, np.nan])
    assert [prices.shape for prices in current_prices([], PriceBook())] == [(0,), (0,)]


@pytest.mark.usefixtures("acme")
def test_a_price_that_is_not_given_is_not_zero() -> None:
    prices = PriceBook()
    with pytest.raises(PriceError, match="no price for output tokens of acme/embedding"):
        prices.price(tier("acme", "embedding"), MAY_2026)
    with pytest.raises(PriceError, match="no price for input tokens of acme/free"):
        prices.price(tier("acme", "free"), MAY_2026)
    assert prices.find(tier("acme", "free"), MAY_2026) is None
    # One that is given as 0 is.
    assert prices.price(tier("acme", "gratis"), MAY_2026) == TierPrice(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("provider", "model", "message"),
    [
        ("openai", "gpt-5-nanoo", r"no such model \(nearest: gpt-5-nano"),
        ("openai", "gpt-5-nano-turbo", r"no such model \(nearest: gpt-5-nano"),
        ("google", "gemini-3.1-pro", r"no such model \(nearest: gemini-3.1-pro-preview"),
        ("anthropic", "gpt-5-nano", "the provider has no such model"),
        ("opnai", "gpt-5", r"the price book has no provider 'opnai' \(nearest: openai"),
        ("my own server", "llama", "no provider 'my own server': correct the provider, or give"),
    ],
)
def test_an_unknown_price_is_an_error_and_never_zero(
    provider: str, model: str, message: str
) -> None:
    prices = PriceBook()
    for _ in range(2):  # the second answer comes out of the cache
        with pytest.raises(PriceError, match=message):
            prices.price(tier(provider, model), MAY_2026)
        assert prices.find(tier(provider, model), MAY_2026) is None


@pytest.mark.parametrize(
    ("provider", "model", "same_as"),
    [
        ("openai", "gpt-5-nano-2025-08-07", "gpt-5-nano"),
        ("openai", "GPT-5-nano", "gpt-5-nano"),
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        (
            "aws",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "regional.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
    ],
)
def test_dated_spellings_are_the_same_model(provider: str, model: str, same_as: str) -> None:
    prices = PriceBook()
    dated = prices.price(tier(provider, model), MAY_2026)
    assert dated == prices.price(tier(provider, same_as), MAY_2026)


def test_without_a_date_todays_price_holds() -> None:
    prices = PriceBook()
    gpt = tier("openai", "gpt-5")
    assert prices.price(gpt) == prices.price(gpt, datetime.now(tz=UTC))
    naive = datetime(2026, 5, 4, 12)  # noqa: DTZ001 - naive on purpose: it is taken as UTC
    assert prices.price(gpt, naive) == prices.price(gpt, MAY_2026)


def test_the_override_of_a_tier_goes_before_everything(tmp_path: Path) -> None:
    text = '[[prices]]\nprovider="openai"\nmodel="gpt-5"\nfrom=2020-01-01\n'
    text += "input_price_usd_per_mtok=50\noutput_price_usd_per_mtok=50\n"
    mine = tier("openai", "gpt-5", input_price_usd_per_mtok=2.0, output_price_usd_per_mtok=3.0)
    assert book(tmp_path, text).price(mine, MAY_2026) == TierPrice(2.0, 2.0, 2.0, 3.0)
    free = tier("own", "llama", input_price_usd_per_mtok=0.0, output_price_usd_per_mtok=0.0)
    assert PriceBook().price(free).cost_usd(1000, 1000) == 0.0  # a price of 0 that was asked for
    whole = tier(
        "own",
        "llama",
        input_price_usd_per_mtok=2.0,
        output_price_usd_per_mtok=3.0,
        cached_input_price_usd_per_mtok=0.5,
        cache_write_price_usd_per_mtok=2.5,
    )
    assert PriceBook().price(whole) == TierPrice(2.0, 0.5, 2.5, 3.0)


DATED = """
[[prices]]
provider = "openai"
model = "gpt-5"
from = 2026-06-01
input_price_usd_per_mtok = 30
output_price_usd_per_mtok = 40

[[prices]]
provider = "openai"
model = "gpt-5"
from = 2026-01-01
input_price_usd_per_mtok = 10
output_price_usd_per_mtok = 20
cached_input_price_usd_per_mtok = 1
cache_write_price_usd_per_mtok = 12

[[prices]]
provider = "own"
model = "llama"
from = 2026-01-01
input_price_usd_per_mtok = 0.5
output_price_usd_per_mtok = 0.5
"""


def test_dated_entries_of_the_override_file(tmp_path: Path) -> None:
    prices = book(tmp_path, DATED)
    gpt = tier("openai", "gpt-5")
    assert prices.price(gpt, MAY_2026) == TierPrice(10, 1, 12, 20)
    assert prices.price(gpt, datetime(2026, 5, 31, 23, 59, tzinfo=UTC)) == TierPrice(10, 1, 12, 20)
    assert prices.price(gpt, datetime(2026, 6, 1, tzinfo=UTC)) == TierPrice(30, 30, 30, 40)
    # Before the first entry the published price holds, or nothing does.
    early = datetime(2025, 12, 31, tzinfo=UTC)
    assert prices.price(gpt, early) == PriceBook().price(gpt, early)
    assert prices.find(tier("own", "llama"), early) is None
    assert prices.price(tier("own", "llama"), MAY_2026).input_usd_per_mtok == 0.5
    assert prices.find(tier("own", "llama-2"), MAY_2026) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("inputprice = 1", "unknown key 'inputprice'"),
        ("input_price_usd_per_mtok = -1", "input_price_usd_per_mtok .* got -1"),
        ("input_price_usd_per_mtok = nan", "input_price_usd_per_mtok .* got nan"),
        ("input_price_usd_per_mtok = true", "input_price_usd_per_mtok .* got True"),
        ("input_price_usd_per_mtok = '1'", "input_price_usd_per_mtok .* got '1'"),
        ("", "both input_price_usd_per_mtok and output_price_usd_per_mtok"),
    ],
)
def test_a_bad_override_entry_is_named(tmp_path: Path, change: str, message: str) -> None:
    text = '[[prices]]\nprovider="p"\nmodel="m"\nfrom=2026-01-01\noutput_price_usd_per_mtok=1\n'
    with pytest.raises(PriceError, match=f"price 1: .*{message}"):
        book(tmp_path, text + change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[prices]\n", "expected TOML"),
        ("[prices]\n", r"expected prices to be \[\[prices\]\] tables, got dict: write each"),
        ("prices = 3\n", r"expected prices to be \[\[prices\]\] tables, got int: write each"),
        ("[[price]]\n", "got the key 'price'"),
        ("prices = [1]\n", "expected a table, got int"),
        ('[[prices]]\nprovider="p"\nfrom=2026-01-01\n', "a provider and a model as text"),
        ('[[prices]]\nprovider="p"\nmodel="m"\n', "expected 'from' as a date .* got None"),
        ('[[prices]]\nprovider="p"\nmodel="m"\nfrom="2026-01-01"\n', "expected 'from' as a date"),
        ('[[prices]]\nprovider="p"\nmodel="m"\nfrom=2026-01-01T00:00:00Z\n', "'from' as a date"),
        (DATED + DATED, "price 4: openai/gpt-5 has two entries from 2026-06-01"),
    ],
)
def test_a_malformed_override_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PriceError, match=message) as caught:
        book(tmp_path, text)
    assert "prices.toml" in str(caught.value)


EVERY_KEY = """
[[prices]]
provider = "own"
model = "whole"
from = 2026-01-01
input_price_usd_per_mtok = 1
output_price_usd_per_mtok = 5
cached_input_price_usd_per_mtok = 0.1
cache_write_price_usd_per_mtok = 1.25
cache_write_1h_price_usd_per_mtok = 2
batch_input_price_usd_per_mtok = 0.5
batch_output_price_usd_per_mtok = 2.5
batch_cached_input_price_usd_per_mtok = 0.05
batch_cache_write_price_usd_per_mtok = 0.625
batch_cache_write_1h_price_usd_per_mtok = 1

[[prices.steps]]
above_input_tokens = 200000
input_price_usd_per_mtok = 2
output_price_usd_per_mtok = 7.5
cached_input_price_usd_per_mtok = 0.2
cache_write_price_usd_per_mtok = 2.5
cache_write_1h_price_usd_per_mtok = 4
batch_input_price_usd_per_mtok = 1
batch_output_price_usd_per_mtok = 3.75
batch_cached_input_price_usd_per_mtok = 0.1
batch_cache_write_price_usd_per_mtok = 1.25
batch_cache_write_1h_price_usd_per_mtok = 2
"""


def test_every_key_of_the_override_file(tmp_path: Path) -> None:
    assert all(key in EVERY_KEY for key in (*PRICE_KEYS, *BATCH_PRICE_KEYS))
    prices = book(tmp_path, EVERY_KEY)
    whole = tier("own", "whole")
    step = PriceStep(200_000, 2, 0.2, 2.5, 7.5, 4)
    assert prices.price(whole, NOVEMBER) == TierPrice(1, 0.1, 1.25, 5, 0, 2, (step,))
    step = PriceStep(200_000, 1, 0.1, 1.25, 3.75, 2)
    assert prices.price(whole, NOVEMBER, batch=True) == TierPrice(
        0.5, 0.05, 0.625, 2.5, 0, 1, (step,)
    )


def test_steps_are_put_in_order(tmp_path: Path) -> None:
    step = "[[prices.steps]]\nabove_input_tokens={0}\n"
    step += "input_price_usd_per_mtok={0}\noutput_price_usd_per_mtok=1\n"
    text = '[[prices]]\nprovider="p"\nmodel="m"\nfrom=2026-01-01\n'
    text += "input_price_usd_per_mtok=1\noutput_price_usd_per_mtok=1\n"
    price = book(tmp_path, text + step.format(300) + step.format(20)).price(tier("p", "m"))
    assert [price.cost_usd(n, 0) * 1e6 / n for n in (20, 21, 300, 301)] == pytest.approx(
        [1, 20, 20, 300]
    )


def test_an_override_without_a_batch_price_does_not_borrow_the_published_one(
    tmp_path: Path,
) -> None:
    prices = book(tmp_path, DATED)
    gpt = tier("openai", "gpt-5")
    with pytest.raises(
        PriceError, match="file has no batch price for openai/gpt-5 from 2026-06-01"
    ):
        prices.price(gpt, NOVEMBER, batch=True)
    mine = tier("openai", "gpt-5", input_price_usd_per_mtok=2.0, output_price_usd_per_mtok=3.0)
    with pytest.raises(PriceError, match="'a tier' has prices of its own and no batch price"):
        prices.price(mine, NOVEMBER, batch=True)
    both = tier(
        "openai",
        "gpt-5",
        **dict.fromkeys(("input_price_usd_per_mtok", "output_price_usd_per_mtok"), 2.0),
        **dict.fromkeys(("batch_input_price_usd_per_mtok", "batch_output_price_usd_per_mtok"), 0.5),
    )
    assert prices.price(both, NOVEMBER, batch=True) == TierPrice(0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("key", [*PRICE_KEYS, *BATCH_PRICE_KEYS])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "true", "'1'", "[]", "1e400", "-0.001"])
@pytest.mark.parametrize("within", ["[[prices]]", "[[prices.steps]]"])
def test_a_bad_price_is_named(tmp_path: Path, key: str, value: str, within: str) -> None:
    before, header, entry = EVERY_KEY.rpartition(within)
    entry = re.sub(rf"^{key} = .*$", f"{key} = {value}", entry, count=1, flags=re.MULTILINE)
    with pytest.raises(PriceError, match=f"price 1: .*{key} must be a finite price") as caught:
        book(tmp_path, before + header + entry)
    assert ("step 1" in str(caught.value)) == (within == "[[prices.steps]]")


@pytest.mark.parametrize("key", [*PRICE_KEYS, *BATCH_PRICE_KEYS])
@pytest.mark.parametrize("within", ["[[prices]]", "[[prices.steps]]"])
def test_a_price_without_its_other_half_is_refused(tmp_path: Path, key: str, within: str) -> None:
    before, header, entry = EVERY_KEY.rpartition(within)
    entry = re.sub(rf"^{key} = .*$", "", entry, count=1, flags=re.MULTILINE)
    with pytest.raises(PriceError, match=r"price 1: .*(expected both|stands alone)"):
        book(tmp_path, before + header + entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("200000", "0"), "step 1: expected above_input_tokens as a whole number above 0, got 0"),
        (("200000", "2e5"), "above_input_tokens as a whole number above 0, got 200000.0"),
        (("200000", "true"), "above_input_tokens as a whole number above 0, got True"),
        (("above_input_tokens", "above"), "step 1: unknown key 'above'"),
        (
            ("[[prices.steps]]", "[prices.steps]"),
            r"steps to be \[\[prices.steps\]\] tables, got dict",
        ),
        (("[[prices.steps]]", "steps = [1]\n[x]"), "got the key 'x'"),
    ],
)
def test_a_bad_step_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(PriceError, match=message):
        book(tmp_path, EVERY_KEY.replace(*change))


def test_a_step_has_the_prices_of_its_entry(tmp_path: Path) -> None:
    entry = '[[prices]]\nprovider="p"\nmodel="m"\nfrom=2026-01-01\n'
    main = "input_price_usd_per_mtok=1\noutput_price_usd_per_mtok=1\n"
    cached = "cached_input_price_usd_per_mtok=0.1\n"
    step = "[[prices.steps]]\nabove_input_tokens=9\n"
    for text in (entry + main + cached + step + main, entry + main + step + main + cached):
        with pytest.raises(
            PriceError, match=r"step 1: .* cached_input_price_usd_per_mtok is in one"
        ):
            book(tmp_path, text)
    with pytest.raises(PriceError, match="step 2: 9 input tokens have two steps: remove one"):
        book(tmp_path, entry + main + (step + main) * 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=80) | st.text(st.sampled_from("[]=.\"'{}#\n prices01-"), max_size=80))
def test_any_text_is_an_override_file_or_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(PriceError):
        assert isinstance(read_overrides(path), dict)


def test_missing_override_file(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match="found none: check the path"):
        PriceBook(tmp_path / "gone.toml")
    with pytest.raises(PriceError, match="cannot read the price file"):
        PriceBook(tmp_path)


def test_costs_of_many_requests_at_once() -> None:
    price = TierPrice(1.0, 0.1, 1.25, 4.0, request_usd=0.001)
    inputs = np.array([[1000.0, 0.0], [np.nan, 500.0]])
    outputs = np.array([100.0, 50.0])
    cached = np.array([[400.0, 0.0], [0.0, 500.0]])
    costs = price.cost_usd(inputs, outputs, cached, 100.0)
    assert costs.shape == (2, 2)
    assert costs[0, 0] == pytest.approx(price.cost_usd(1000, 100, 400, 100))
    assert costs[0, 0] == pytest.approx(0.001 + (500 + 40 + 125 + 400) / 1e6)
    assert np.isnan(costs[1, 0])
    # One prompt, many predicted lengths.
    assert price.cost_usd(1000, outputs).tolist() == [
        price.cost_usd(1000, 100),
        price.cost_usd(1000, 50),
    ]


def test_the_price_data_is_imported_only_when_a_price_is_looked_up() -> None:
    # Serving starts without it where every tier carries its price.
    code = (
        "import sys; from router.prices import PriceBook; from router.tiers import Tier;"
        "book = PriceBook();"
        "own = Tier('a', 'p', 'm', input_price_usd_per_mtok=1.0, output_price_usd_per_mtok=1.0);"
        "book.price(own); assert 'genai_prices' not in sys.modules;"
        "book.price(Tier('a', 'openai', 'gpt-5')); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_prices_are_exact_decimals() -> None:
    price = PriceBook().price(tier("openai", "gpt-5-nano"), MAY_2026)
    assert Decimal(repr(price.cached_input_usd_per_mtok)) == Decimal("0.005")


@pytest.mark.parametrize(
    ("provider", "entry", "model"),
    [
        ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5"),
        ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("anthropic", "claude-haiku-4-5", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("anthropic", "claude-haiku-4-5", "Claude-Haiku-4-5"),
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5@20251001"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("deepseek", "deepseek-chat", "DeepSeek-Chat-latest"),
        ("own", "large", "large-2026-02-03"),
    ],
)
def test_an_override_is_for_every_spelling_of_its_model(
    tmp_path: Path, provider: str, entry: str, model: str
) -> None:
    book = PriceBook(_override_of(tmp_path, (provider, entry)))
    assert book.price(Tier("t", provider, model), NOVEMBER).input_usd_per_mtok == 77
    assert book.provider_of(model) == provider


@pytest.mark.parametrize(
    ("entry", "model"),
    [
        ("gpt-4o-2024-05-13", "gpt-4o"),  # a date is not the model as such
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("gpt-4o", "gpt-4o-2024-05-13"),  # published with a price of its own
        ("gpt-5", "gpt-5-nano"),
        ("gpt-5-nano", "gpt-5"),
    ],
)
def test_an_override_is_for_no_other_model(tmp_path: Path, entry: str, model: str) -> None:
    book = PriceBook(_override_of(tmp_path, ("openai", entry)))
    assert book.price(Tier("t", "openai", model), NOVEMBER) == PriceBook().price(
        Tier("t", "openai", model), NOVEMBER
    )


def test_the_spelling_that_is_nearest_goes_first(tmp_path: Path) -> None:
    path = _override_of(tmp_path, ("own", "large"), ("own", "large-20260101"))
    path.write_text(path.read_text().replace("= 77", "= 78", 1))
    book = PriceBook(path)
    found = {
        model: book.price(Tier("t", "own", model), NOVEMBER).input_usd_per_mtok
        for model in ("large", "LARGE", "large-20260101", "large@2026-01-01", "large-20260202")
    }
    assert list(found.values()) == [78, 78, 77, 77, 78]


@pytest.mark.parametrize("model", ["gpt-5-nano-999", "gpt-5-nano-2099", "gpt-5-nano-20251399"])
def test_what_does_not_look_like_a_date_is_another_model(model: str) -> None:
    with pytest.raises(PriceError, match="no such model"):
        PriceBook().price(Tier("t", "openai", model), NOVEMBER)


def _override_of(folder: Path, *models: tuple[str, str]) -> Path:
    path = folder / "prices.toml"
    path.write_text(
        "".join(
            f'[[prices]]\nprovider = "{provider}"\nmodel = "{model}"\nfrom = 2026-01-01\n'
            "input_price_usd_per_mtok = 77\noutput_price_usd_per_mtok = 99\n"
            for provider, model in models
        )
    )
    return path
