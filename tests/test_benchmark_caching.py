"""The simulated day: caches do what providers document, and everybody meets the same traffic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import caching
from benchmarks.caching import TIERS, Day, ProviderCaches, Turn, make_day, play
from router.prices import PriceBook
from router.providers.caching import cache_policy
from training.synthetic import SyntheticOutcomes, make_world, sample

NANO, MID, TOP = 0, 1, 2
PRICES = [PriceBook().price(tier) for tier in TIERS]
TRAFFIC = caching.Traffic("test", 20, 4.0, 5_000, 400)


@pytest.fixture(scope="module")
def outcomes() -> SyntheticOutcomes:
    return sample(make_world(tiers=TIERS, spanish_share=0.0), 200, seed=5)


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> ProviderCaches:
    monkeypatch.setattr(caching, "EVICTED_SHARE", 0.0)
    policies = [cache_policy(tier.provider, tier.model) for tier in TIERS]
    return ProviderCaches(policies, 5_000, np.random.default_rng(0))  # type: ignore[arg-type]


def test_what_was_written_is_read_until_its_time_is_over(caches: ProviderCaches) -> None:
    assert caches.answer(MID, 1, 0.0, 6_000) == (0, 6_000)
    assert caches.answer(MID, 1, 299.0, 6_500) == (6_000, 500)
    assert caches.answer(MID, 1, 598.0, 7_000) == (6_500, 500)  # the hit set the time back
    assert caches.answer(MID, 1, 899.0, 7_500) == (0, 7_500)


def test_sessions_share_the_system_prompt_and_tiers_nothing(caches: ProviderCaches) -> None:
    caches.answer(MID, 1, 0.0, 6_000)
    assert caches.answer(MID, 2, 10.0, 5_800) == (5_000, 800)
    assert caches.answer(TOP, 1, 10.0, 6_000) == (0, 6_000)


def test_a_silent_cache_reads_in_steps_and_reports_no_writes(caches: ProviderCaches) -> None:
    assert caches.answer(NANO, 1, 0.0, 6_000) == (0, 0)
    assert caches.answer(NANO, 1, 10.0, 6_500) == (5_888, 0)  # 46 x 128


def test_a_prompt_below_the_least_length_is_not_cached(caches: ProviderCaches) -> None:
    assert caches.answer(MID, 1, 0.0, 4_000) == (0, 0)
    assert caches.answer(MID, 1, 1.0, 4_000) == (0, 0)


def test_a_day_costs_what_its_turns_cost(
    outcomes: SyntheticOutcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "EVICTED_SHARE", 0.0)
    turns = (Turn(0.0, 0, 3, 0), Turn(60.0, 0, 4, 1), Turn(1_000.0, 0, 5, 2))
    success, cost, shares = play(Day(TRAFFIC, turns, 1), outcomes, PRICES, lambda _: MID)
    before, bill = 5_000, 0.0
    for turn, warm in zip(turns, (0, 1, 0), strict=True):
        n_input = before + outcomes.queries[turn.row].input_tokens
        n_output = int(outcomes.table.output_tokens[turn.row, MID])
        read = last if warm else 0  # noqa: F821
        bill += float(PRICES[MID].cost_usd(n_input, n_output, read, n_input - read))
        last = n_input  # noqa: F841
        before = n_input + n_output + 400
    assert cost == pytest.approx(bill)
    assert success == pytest.approx(outcomes.p_success[[3, 4, 5], MID].mean())
    assert shares.tolist() == [0.0, 1.0, 0.0]


def test_our_curve_is_read_between_its_points() -> None:
    curve = [(0.8, 10.0), (0.6, 4.0), (0.9, 30.0)]
    assert caching._at(curve, 0.7) == pytest.approx(7.0)
    assert caching._at(curve, 0.85) == pytest.approx(20.0)
    assert caching._at(curve, 0.95) == 30.0


def test_the_same_traffic_for_everybody(outcomes: SyntheticOutcomes) -> None:
    day = make_day(TRAFFIC, outcomes, 3)
    assert day == make_day(TRAFFIC, outcomes, 3)
    assert day != make_day(TRAFFIC, outcomes, 4)
    cached = play(day, outcomes, PRICES, lambda _: TOP)
    uncached = play(day, outcomes, PRICES, lambda _: TOP, cached=False)
    assert cached[0] == uncached[0] and cached[1] < uncached[1]


def test_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N_TRAIN": 300, "N_QUERIES": 150, "TEST_DAYS": 2, "TUNING_DAYS": 1}.items():
        monkeypatch.setattr(caching, name, value)
    monkeypatch.setattr(caching, "TRAFFIC", (replace(TRAFFIC, n_sessions=12),))
    monkeypatch.setattr(caching, "_VALUES", 3)
    monkeypatch.setattr(caching, "_CURVE", (0.5, 1.0, 1000.0))
    section = caching.measure(lambda _: None)
    (table,) = section.tables
    assert [row[0][:3] for row in table.rows[:6]] == ["(a)", "(b)", "(b'", "(c)", "(d)", "(e)"]
    costs = [float(row[2]) for row in table.rows]
    assert costs[0] > costs[1] > costs[5] > 0
    ways = section.data["test"]["ways"]
    assert all(len(days) == 2 for days in ways.values())
