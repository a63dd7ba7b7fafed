from __future__ import annotations

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

from router.errors import PriceError
from router.prices import PriceBook, TierPrice, current_prices
from router.tiers import Tier

MAY_2026 = datetime(2026, 5, 4, 12, tzinfo=UTC)


def tier(provider: str, model: str, **prices: float) -> Tier:
    return Tier("a tier", provider, model, **prices)  # type: ignore[arg-type]


def book(folder: Path, text: str) -> PriceBook:
    path = folder / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return PriceBook(path)


@pytest.mark.parametrize(
    ("provider", "model", "uncached", "cached"),
    [
        ("openai", "gpt-5-nano", 0.000245, 0.000155),
        ("openai", "gpt-5", 0.006125, 0.003875),
        ("anthropic", "claude-sonnet-4-6", 0.012000, 0.006600),
        ("anthropic", "claude-haiku-4-5", 0.004000, 0.002200),
    ],
)
def test_published_prices(provider: str, model: str, uncached: float, cached: float) -> None:
    # 2,500 input tokens, of which 2,000 from the cache or not, and 300 output tokens.
    price = PriceBook().price(tier(provider, model), MAY_2026)
    assert price.cost_usd(2500, 300) == pytest.approx(uncached, rel=1e-12)
    assert price.cost_usd(2500, 300, 2000) == pytest.approx(cached, rel=1e-12)


def test_cache_writes_cost_more_where_the_provider_says_so() -> None:
    prices = PriceBook()
    haiku = prices.price(tier("anthropic", "claude-haiku-4-5"), MAY_2026)
    assert haiku.cost_usd(2500, 300, 0, 2000) == pytest.approx(0.0045)
    nano = prices.price(tier("openai", "gpt-5-nano"), MAY_2026)
    assert nano.cost_usd(2500, 300, 0, 2000) == nano.cost_usd(2500, 300)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-5"),
        ("openai", "gpt-5.4"),
        ("anthropic", "claude-sonnet-4-6"),
        ("google", "gemini-2.5-pro"),
        ("deepseek", "deepseek-v4-flash"),
    ],
)
def test_linear_prices_equal_the_price_data_below_the_long_context_surcharge(
    provider: str, model: str
) -> None:
    price = PriceBook().price(tier(provider, model), MAY_2026)
    for fresh, cached, output in [(1, 0, 0), (150_000, 0, 7), (10, 50_000, 4_000), (0, 3, 1)]:
        usage = genai_prices.Usage(
            input_tokens=fresh + cached, cache_read_tokens=cached, output_tokens=output
        )
        expected = genai_prices.calc_price(
            usage, model, provider_id=provider, genai_request_timestamp=MAY_2026
        ).total_price
        assert price.cost_usd(fresh + cached, output, cached) == pytest.approx(float(expected))


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
        ("my own server", "llama", "no provider 'my own server': correct the provider or add"),
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
