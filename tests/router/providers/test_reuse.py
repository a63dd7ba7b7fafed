"""Marks that cost a premium are set where they pay: by closed form, and in simulated traffic."""

from __future__ import annotations

import math
import random

import pytest

from router.providers.anthropic_request import messages_request
from router.providers.base import CacheMarks, Prompt
from router.providers.reuse import READ, TTL_S, WRITE, Reuse, break_even
from tests.router.providers.test_anthropic import LONG, MODEL, TOOL, conversation, marks


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def cost(gaps: list[float], ttl: str, clock: Clock, reuse: Reuse) -> tuple[float, int]:
    """What the uses of a prefix cost in units of its plain price, and how many were writes."""
    total, n_writes, warm_until_s = 0.0, 0, -1.0
    for gap in gaps:
        clock.now_s += gap
        marked = reuse.pays("key", ttl)
        if not marked:
            total += 1.0
            continue
        is_read = clock.now_s <= warm_until_s
        total += READ if is_read else WRITE[ttl]
        n_writes += not is_read
        warm_until_s = clock.now_s + TTL_S[ttl]
    return total, n_writes


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_the_share_from_which_a_mark_pays(ttl: str) -> None:
    p = break_even(ttl)
    assert p * READ + (1 - p) * WRITE[ttl] == pytest.approx(1.0)


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_dense_traffic_is_marked_from_its_first_use(ttl: str) -> None:
    clock = Clock()
    total, n_writes = cost([20.0] * 500, ttl, clock, Reuse(clock=clock))
    assert (n_writes, total) == (1, pytest.approx(WRITE[ttl] + 499 * READ))


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_sparse_traffic_pays_one_premium(ttl: str) -> None:
    clock = Clock()
    total, n_writes = cost([1.5 * 3600.0] * 200, ttl, clock, Reuse(clock=clock))
    assert (n_writes, total) == (1, pytest.approx(200 + WRITE[ttl] - 1.0))


@pytest.mark.parametrize("mean_s", [30.0, 300.0, 900.0, 1200.0, 1800.0, 3600.0, 36_000.0])
def test_random_traffic_costs_hardly_more_than_the_better_of_always_and_never(
    mean_s: float,
) -> None:
    draw, clock = random.Random(1), Clock()
    gaps = [draw.expovariate(1 / mean_s) for _ in range(4000)]
    total, _ = cost(gaps, "5m", clock, Reuse(clock=clock))
    p = -math.expm1(-TTL_S["5m"] / mean_s)
    best = min(1.0, p * READ + (1 - p) * WRITE["5m"])
    assert total / len(gaps) <= 1.06 * best + 0.01


def test_bursts_are_marked_whatever_the_mean_of_the_gaps() -> None:
    clock = Clock()
    gaps = [36_000.0, *[5.0] * 9] * 50
    total, n_writes = cost(gaps, "5m", clock, Reuse(clock=clock))
    assert n_writes == 50
    assert total == pytest.approx(50 * (WRITE["5m"] + 9 * READ))


def test_traffic_that_changes_is_followed() -> None:
    clock = Clock()
    reuse = Reuse(clock=clock)
    cost([3600.0] * 50, "5m", clock, reuse)
    total, _ = cost([10.0] * 50, "5m", clock, reuse)
    assert total < 50 * READ + 4
    total, _ = cost([3600.0] * 50, "5m", clock, reuse)
    assert total < 50 + 8 * (WRITE["5m"] - 1)


def test_memory_is_bounded() -> None:
    clock = Clock()
    reuse = Reuse(max_prefixes=2, clock=clock)
    for n in range(100):
        clock.now_s += 1.0
        reuse.pays(f"key {n}")
    assert len(reuse._seen) == len(reuse._new) == 2


def test_prefixes_that_are_new_each_time_stop_paying_premiums() -> None:
    clock = Clock()
    reuse = Reuse(clock=clock)
    marked = []
    for n in range(200):
        clock.now_s += 60.0
        marked.append(reuse.pays(f"today is second {n}"))
    # What becomes of the first ones shows after five minutes.
    assert 1 <= sum(marked) <= 12 and not any(marked[12:])
    # One that is used again is marked from its second use, and new ones are trusted again.
    for n in range(4):
        clock.now_s += 10.0
        assert not reuse.pays(f"stays {n}") or n > 0
        clock.now_s += 10.0
        assert reuse.pays(f"stays {n}")
    clock.now_s += 10.0
    assert reuse.pays("another")


def test_what_is_written_anyway_is_read_while_it_lives() -> None:
    clock = Clock()
    reuse = Reuse(clock=clock)
    for _ in range(5):
        clock.now_s += 3600.0
        last = reuse.pays("key")
    assert not last
    clock.now_s += 3600.0
    assert reuse.pays("key", anyway=True)
    clock.now_s += 250.0
    assert reuse.pays("key")


def test_a_single_question_is_marked_while_its_system_prompt_is_in_use() -> None:
    clock = Clock()
    reuse = Reuse(clock=clock)

    def found(prompt: Prompt) -> list[tuple[str, str]]:
        return marks(messages_request(MODEL, prompt, reuse=reuse))

    question = conversation(LONG, "q", tools=[TOOL])
    assert found(question) == marks(messages_request(MODEL, question)) != []
    clock.now_s += 3600.0
    assert found(question) == []
    # What is written as part of a conversation is marked, and read by it.
    turns = conversation(LONG, "q", "a", "q2", tools=[TOOL])
    clock.now_s += 3600.0
    assert found(turns) == marks(messages_request(MODEL, turns))
    # Another prompt, another model: nothing is known of them.
    assert found(conversation("!" + LONG, "q")) != []
    assert marks(messages_request("claude-opus-4-6", question, reuse=reuse)) != []
    # One that is too short is not remembered, and marked no more than before.
    before = len(reuse._seen)
    assert found(conversation("short", "q")) == []
    assert len(reuse._seen) == before


def test_a_callers_own_mark_is_not_argued_with() -> None:
    clock = Clock()
    reuse = Reuse(clock=clock)
    part = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
    messages = ({"role": "system", "content": [part]}, {"role": "user", "content": "q"})
    for _ in range(3):
        clock.now_s += 3600.0
        prompt = Prompt(messages, cache=CacheMarks())
        assert ("system", "5m") in marks(messages_request(MODEL, prompt, reuse=reuse))
