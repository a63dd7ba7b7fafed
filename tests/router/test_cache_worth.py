"""What a warm prefix is worth: closed forms, an exact solution by enumeration, hysteresis."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache_state import survival
from router.cache_worth import CachePrices, least_loss
from router.prices import TierPrice
from router.providers.caching import CachePolicy

# USD per million tokens: input, cached input, cache write, output.
NANO = TierPrice(0.05, 0.005, 0.05, 0.40)
HAIKU = TierPrice(1.0, 0.10, 1.25, 5.0)
SONNET = TierPrice(3.0, 0.30, 3.75, 15.0)
SILENT = CachePolicy(1024, ttl_s=300, step_tokens=128)
REPORTS = CachePolicy(1024, ttl_s=300, automatic=False, writes_reported=True)


def prices(*rows: tuple[float, float], policy: CachePolicy | None = REPORTS) -> CachePrices:
    return CachePrices((HAIKU, SONNET), (policy, policy), np.array(rows or [[0.0, 0.0]]))


def test_a_prefix_costs_what_the_price_list_says() -> None:
    book = CachePrices((NANO, HAIKU), (SILENT, REPORTS), np.zeros((1, 2)))
    assert book.prefix_usd(0, 2000, 0) == pytest.approx(2000 * 0.05e-6)
    assert book.prefix_usd(1, 2000, 0) == pytest.approx(2000 * 1.25e-6)  # written
    assert book.prefix_usd(1, 2000, 2000) == pytest.approx(2000 * 0.10e-6)
    assert book.prefix_usd(1, 2000, 1500) == pytest.approx(1500 * 0.10e-6 + 500 * 1.25e-6)
    # Half of what is believed warm is: half of each.
    half = 0.5 * (2000 * 0.10e-6) + 0.5 * (2000 * 1.25e-6)
    assert book.prefix_usd(1, 2000, 2000, 0.5) == pytest.approx(half)


def test_a_prefix_that_is_too_short_is_neither_written_nor_read() -> None:
    assert prices().prefix_usd(0, 1000, 1000) == pytest.approx(1000 * 1e-6)
    assert prices(policy=None).prefix_usd(0, 9000, 9000) == pytest.approx(9000 * 1e-6)


@given(st.integers(0, 50_000), st.integers(0, 50_000), st.floats(0, 1))
def test_warmth_never_makes_a_prefix_dearer(n_tokens: int, warm: int, hit_rate: float) -> None:
    book = prices()
    cold = book.prefix_usd(1, n_tokens, 0)
    assert book.prefix_usd(1, n_tokens, min(warm, n_tokens), hit_rate) <= cold * (1 + 1e-12)
    assert book.prefix_usd(1, n_tokens, 0) <= n_tokens * 3.75e-6 * (1 + 1e-12)


def test_without_turns_to_come_nothing_follows() -> None:
    assert prices().worth(5000, 1.0, [1.0, 1.0], 60.0) == {}
    assert prices().ahead(1, {}).tolist() == [0.0, 0.0]


def exact(book: CachePrices, n_tokens: int, turns: float, hits: list[float], gap_s: float):
    """V of every state by trying every stationary policy: a linear system for each."""
    loss = book.later_loss_usd
    states = [(1, 0), (2, 1), (3, 0), (3, 1)]
    go = 1 - 1 / turns
    best = np.full(len(states), math.inf)
    # A policy says, for each state and each later query, which tier is used.
    for flat in itertools.product(range(2), repeat=len(states) * len(loss)):
        choice = np.array(flat).reshape(len(states), len(loss))
        bill, move = np.zeros(len(states)), np.zeros((len(states), len(states)))
        for s, (used, last) in enumerate(states):
            for x, tier in enumerate(choice[s]):
                warm = 0.0
                if used >> tier & 1:
                    warm = hits[tier] * survival(300, gap_s, 1 if tier == last else 2)
                pay = book.prefix_usd(tier, n_tokens, n_tokens if warm else 0, warm)
                bill[s] += (loss[x, tier] + pay) / len(loss)
                move[s, states.index((used | 1 << tier, tier))] += 1 / len(loss)
        best = np.minimum(best, np.linalg.solve(np.eye(len(states)) - go * move, bill))
    return {state: go * (v - best.min()) for state, v in zip(states, best, strict=True)}


@pytest.mark.parametrize("turns", [1.5, 4.0, 20.0])
@pytest.mark.parametrize("gap_s", [64.0, 512.0])
def test_what_follows_is_what_enumeration_of_all_policies_finds(turns: float, gap_s: float) -> None:
    # One later query is for the cheap tier, the other one just worth the dear tier.
    book = prices((-0.010, -0.002), (-0.004, -0.030))
    found = book.worth(8192, turns, [0.9, 0.9], gap_s)
    truth = exact(book, 8192, turns, [0.9, 0.9], gap_s)
    scale = 8192 * 3.75e-6
    assert found.keys() == truth.keys()
    for state, value in truth.items():
        assert found[state] == pytest.approx(value, abs=2e-3 * scale)


def test_alike_requests_are_worked_out_once() -> None:
    book = prices((-0.010, -0.002))
    one = book.worth(8000, 5.0, [0.91, 0.9], 60.0)
    assert book.worth(8100, 5.0, [0.9, 0.9], 61.0) is one
    assert book.worth(16_000, 5.0, [0.9, 0.9], 61.0) is not one


def test_with_many_tiers_the_last_one_alone_is_taken_as_warm() -> None:
    book = CachePrices((HAIKU,) * 9, (REPORTS,) * 9, np.zeros((3, 9)))
    worth = book.worth(8000, 5.0, [0.9] * 9, 60.0)
    assert len(worth) == 9
    assert np.ptp(book.ahead(0b1, worth)) == pytest.approx(0.0, abs=1e-9)


def test_two_tiers_that_tie_do_not_take_turns() -> None:
    every = np.ones((1, 2), dtype=bool)
    bill = np.array([1.0])
    assert least_loss(np.array([[1.0, 0.985]]), every, 0, bill).tolist() == [0]
    assert least_loss(np.array([[1.0, 0.975]]), every, 0, bill).tolist() == [1]
    assert least_loss(np.array([[1.0, 0.985]]), every, 0, bill, hysteresis=0.0).tolist() == [1]
    # The last tier cannot take this one.
    only = np.array([[False, True]])
    assert least_loss(np.array([[0.0, 9.0]]), only, 0, bill).tolist() == [1]
