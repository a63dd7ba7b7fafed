"""Dollars of a request: what is unknown stays unknown, and what the baseline is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from router.client.request_costs import FREE, UNKNOWN, Baseline, Prices, baseline_of, cost_of
from router.prices import PriceBook
from router.records import AttemptRecord
from router.tier_price import TierPrice
from router.tiers import Tier
from router.usage import Usage

PRICE = TierPrice(1.0, 0.1, 1.25, 4.0)
STRONG = TierPrice(10.0, 1.0, 12.5, 40.0)


def served(tier: str = "small", usage: Usage | None = None, **more: Any) -> AttemptRecord:
    usage = Usage(1000, 100) if usage is None else usage
    cost = cost_of(PRICE, usage)
    return AttemptRecord(
        1, tier, "one", "m", datetime(2026, 1, 1, tzinfo=UTC), "routed", "answered", 1.0,
        **{"usage": usage, "standard_nanousd": cost.standard, "served": True, **more},
    )  # fmt: skip


def test_unknown_is_not_free() -> None:
    assert cost_of(None, Usage(1, 1)) == cost_of(PRICE, None) == UNKNOWN
    assert UNKNOWN != FREE
    assert UNKNOWN.actual is None


def test_writing_for_an_hour_at_an_unknown_price_leaves_the_rest_known() -> None:
    cost = cost_of(PRICE, Usage(1000, 100, 0, 500, 500))
    assert cost.actual is None
    assert cost.uncached == cost.standard == 1_400_000


def test_where_the_strongest_served_it_is_measured() -> None:
    found = baseline_of("big", STRONG, served("big"), {}, {"big": 1.0})
    assert found == Baseline(1_400_000, measured=True)
    unknown = baseline_of("big", STRONG, served("big", standard_nanousd=None), {}, {})
    assert unknown == Baseline(None, measured=False)


def test_the_length_that_was_seen_is_corrected_by_what_is_expected() -> None:
    found = baseline_of("big", STRONG, served(), {}, {"small": 200.0, "big": 50.0})
    assert found == Baseline(round((1000 * 10 + 100 * 0.25 * 40) * 1000))


def test_without_expected_tokens_the_ratio_is_in_dollars() -> None:
    usd = {"small": 0.001, "big": 0.02}
    assert baseline_of("big", STRONG, served(), usd, {}) == Baseline(1_400_000 * 20)
    # Where what served has no price, there are no dollars to scale: lengths count as equal.
    found = baseline_of("big", STRONG, served(standard_nanousd=None), usd, {})
    assert found == Baseline(14_000_000)


@pytest.mark.parametrize(
    "usd", [{}, {"small": None, "big": None}, {"small": 0.0, "big": 1.0}, {"big": 1.0}]
)
def test_a_router_that_expects_nothing_takes_lengths_as_equal(usd: dict[str, Any]) -> None:
    assert baseline_of("big", STRONG, served(), usd, {}) == Baseline(14_000_000)
    assert baseline_of("big", None, served(), usd, {}) == Baseline(None)


def test_where_nothing_was_served_there_is_none() -> None:
    assert baseline_of("big", STRONG, None, {"big": 0.5}, {}) == Baseline(None)
    assert baseline_of("big", STRONG, None, {}, {}) == Baseline(None)


def test_a_missing_price_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    prices = Prices(PriceBook())
    missing = Tier("odd", "no-such-provider", "m")
    assert [prices.of(missing) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "odd" in caplog.text
