"""The circuit breaker: when it opens, who may probe, and that only a monotonic clock moves it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client.breaker import Breaker, Permit
from router.errors import InputError


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, **options: Any) -> Breaker:
    return Breaker(["a", "b"], clock=clock, draw=lambda: 1.0, **options)


def entered(breaker: Breaker, name: str = "a") -> Permit:
    permit = breaker.enter(name)
    assert permit is not None
    return permit


def opened(clock: Clock, **options: Any) -> Breaker:
    breaker = made(clock, failures_to_open=2, **options)
    entered(breaker).failed()
    entered(breaker).failed()
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = made(Clock(), failures_to_open=3)
    for _ in range(2):
        entered(breaker).failed()
    entered(breaker).succeeded()  # the row is broken
    for _ in range(2):
        entered(breaker).failed()
    assert breaker.resting() == frozenset()
    entered(breaker).failed()
    assert breaker.resting() == {"a"}
    assert breaker.enter("a") is None
    assert breaker.enter("b") is not None


def test_after_its_rest_one_call_probes_and_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock, rest_s=30.0)
    clock.now += 29.9
    assert breaker.enter("a") is None
    assert breaker.rest_left_s(["a"]) == pytest.approx(0.1)
    assert breaker.rest_left_s(["a", "b"]) == 0.0
    clock.now += 0.2
    assert breaker.resting() == frozenset()
    probe = entered(breaker)
    assert breaker.enter("a") is None
    assert breaker.resting() == {"a"}
    probe.succeeded()
    assert breaker.enter("a") is not None
    assert breaker.enter("a") is not None


def test_a_probe_that_fails_makes_the_rest_twice_as_long_up_to_the_longest() -> None:
    clock = Clock()
    breaker = opened(clock, rest_s=10.0, longest_rest_s=25.0)
    for rest in (10.0, 20.0, 25.0, 25.0):
        assert breaker.rest_left_s(["a"]) == pytest.approx(rest)
        clock.now += rest
        entered(breaker).failed()
    clock.now += 25.0
    entered(breaker).succeeded()
    entered(breaker).failed()
    entered(breaker).failed()
    assert breaker.rest_left_s(["a"]) == pytest.approx(10.0)


def test_rests_are_drawn_but_never_shorter_than_what_the_provider_asked_for() -> None:
    clock = Clock()
    draws = iter([0.0, 0.5])
    breaker = Breaker(["a", "b"], failures_to_open=1, clock=clock, draw=lambda: next(draws))
    entered(breaker, "a").failed()
    assert breaker.rest_left_s(["a"]) == pytest.approx(15.0)
    entered(breaker, "b").failed(retry_after_s=40.0)
    assert breaker.rest_left_s(["b"]) == pytest.approx(40.0)


def test_a_probe_whose_caller_left_gives_way_to_another() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 31.0
    entered(breaker).released()
    entered(breaker).succeeded()
    assert breaker.resting() == frozenset()


def test_calls_that_began_before_it_opened_have_no_say_afterwards() -> None:
    clock = Clock()
    breaker = made(clock, failures_to_open=1)
    late_success, late_failure, first = (entered(breaker) for _ in range(3))
    first.failed()
    late_success.succeeded()
    assert breaker.resting() == {"a"}
    clock.now += 31.0
    probe = entered(breaker)
    late_failure.failed()
    assert breaker.enter("a") is None, "the probe is still under way"
    probe.succeeded()
    assert breaker.enter("a") is not None


def test_only_the_first_word_on_a_call_counts() -> None:
    breaker = made(Clock(), failures_to_open=2)
    permit = entered(breaker)
    permit.failed()
    permit.failed()
    assert breaker.resting() == frozenset()


def test_a_rest_that_a_provider_asked_for_is_kept_and_bounded() -> None:
    clock = Clock()
    breaker = made(clock, longest_rest_s=300.0)
    breaker.rest("a", 60.0)
    breaker.rest("a", 5.0)
    assert breaker.rest_left_s(["a"]) == pytest.approx(60.0)
    breaker.rest("a", 1e12)
    assert breaker.rest_left_s(["a"]) == pytest.approx(300.0)
    clock.now += 300.0
    entered(breaker).succeeded()
    assert breaker.resting() == frozenset()


def test_many_threads_get_one_probe() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 31.0
    gate = threading.Barrier(16)
    permits: list[Permit | None] = []

    def ask() -> None:
        gate.wait()
        permits.append(breaker.enter("a"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(permit is not None for permit in permits) == 1


@given(st.lists(st.sampled_from(["success", "failure", "nothing", "wait", "rest"]), max_size=60))
def test_whatever_happens_a_tier_is_never_closed_for_ever(events: list[str]) -> None:
    clock = Clock()
    breaker = made(clock, failures_to_open=2, rest_s=1.0, longest_rest_s=8.0)
    for event in events:
        if event == "wait":
            clock.now += 1.0
        elif event == "rest":
            breaker.rest("a", 5.0)
        elif (permit := breaker.enter("a")) is not None:
            permit._end(event)
    clock.now += 8.0
    assert breaker.resting() == frozenset()
    assert breaker.enter("a") is not None
    assert breaker._n_open == sum(state.is_open for state in breaker._states.values())


@pytest.mark.parametrize(
    "options",
    [
        {"failures_to_open": 0},
        {"failures_to_open": True},
        {"rest_s": 0.0},
        {"rest_s": 10.0, "longest_rest_s": 5.0},
        {"rest_s": float("nan")},
    ],
)
def test_settings_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        made(Clock(), **options)
