"""One id given to several requests: no paid attempt is lost, whoever writes when."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from router.client.spill import replay_spill
from router.errors import ProviderError
from router.ledger import Ledger
from router.providers.base import Answer
from router.records import AttemptRecord, RequestRecord
from router.usage import Usage
from tests.ledgers import NOON, attempt, request
from tests.router.client_world import EASY, LOCKED, MemoryLedger, World, client_of


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with Ledger(ledger_url) as opened:
        yield opened


Stage = tuple[RequestRecord, list[AttemptRecord]]


def flight(hour: int, n: int, request_id: str = "r1") -> list[Stage]:
    """What a client records of a request with ``n`` attempts that began at an hour."""
    at = NOON + timedelta(hours=hour)
    made = [
        attempt(k, ("nano", "mid", "frontier")[k % 3], at=at + timedelta(seconds=k), served=k == n)
        for k in range(1, n + 1)
    ]
    open_ = [(request(request_id, at=at, done=False), made[:k]) for k in range(n + 1)]
    return [*open_, (request(request_id, at=at, task=f"hour {hour}"), made)]


def kept(ledger: Ledger, request_id: str = "r1") -> list[AttemptRecord]:
    entry = ledger.request(request_id)
    assert entry is not None
    assert [a.attempt for a in entry.attempts] == list(range(1, len(entry.attempts) + 1))
    return list(entry.attempts)


def test_one_after_the_other(ledger: Ledger) -> None:
    for hour, n in ((0, 2), (1, 3), (2, 1)):
        for stage in flight(hour, n):
            ledger.record(*stage)
    hours = [(a.at - NOON) // timedelta(hours=1) for a in kept(ledger)]
    assert hours == [0, 0, 1, 1, 1, 2]
    entry = ledger.request("r1")
    assert entry is not None and entry.request.task == "hour 2"


def test_what_is_repeated_adds_nothing(ledger: Ledger) -> None:
    stages = [*flight(0, 2), *flight(1, 2)]
    for stage in [*stages, *stages, *reversed(stages)]:
        ledger.record(*stage)
    assert len(kept(ledger)) == 4
    ledger.record_many(stages)
    assert len(kept(ledger)) == 4


@pytest.mark.parametrize("seed", range(5))
def test_two_at_a_time_in_any_order(ledger: Ledger, seed: int) -> None:
    draw, left = random.Random(seed), [flight(0, 3, f"s{seed}"), flight(1, 2, f"s{seed}")]
    while any(left):
        stages = draw.choice([each for each in left if each])
        ledger.record(*stages.pop(0))
    found = kept(ledger, f"s{seed}")
    assert len(found) == 5
    for hour in (0, 1):
        mine = [a for a in found if a.at - NOON >= timedelta(hours=hour)]
        mine = [a for a in mine if a.at - NOON < timedelta(hours=hour + 1)]
        assert mine == sorted(mine, key=lambda a: a.at)


def test_only_the_last_state_of_one_that_could_not_be_written_before(ledger: Ledger) -> None:
    ledger.record(*flight(0, 1)[-1])
    ledger.record(*flight(1, 3)[-1])
    assert [a.at.hour - NOON.hour for a in kept(ledger)] == [0, 1, 1, 1]


def test_all_in_one_go(ledger: Ledger) -> None:
    ledger.record_many(itertools.chain(*(flight(hour, 2) for hour in range(4))))
    assert len(kept(ledger)) == 8


def test_many_writers_of_one_id_lose_nothing(ledger_url: str) -> None:
    n_writers, gate, errors = 6, threading.Barrier(6), []

    def write(hour: int) -> None:
        # A ledger of its own, as another process has.
        with Ledger(ledger_url, busy_timeout_s=60.0) as ledger:
            gate.wait()
            try:
                for stage in flight(hour, 3, "many"):
                    ledger.record(*stage)
            except Exception as error:
                errors.append(error)

    with Ledger(ledger_url):
        pass
    threads = [threading.Thread(target=write, args=(hour,)) for hour in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Ledger(ledger_url) as ledger:
        assert len({a.at for a in kept(ledger, "many")}) == 3 * n_writers


def test_a_retry_with_ones_own_id_keeps_what_the_first_try_may_have_cost(tmp_path: Path) -> None:
    world = World()
    answers: Any = [
        ProviderError("late", kind="timeout", billed=True),
        Answer("fine", Usage(1000, 1000)),
    ]
    with Ledger(tmp_path / "ledger.db") as ledger:
        # Two clients: as two processes, they know nothing of each other.
        first, _ = client_of(answers[:1], ledger=ledger, world=world)
        with pytest.raises(ProviderError):
            first.complete(EASY, request_id="mine", pin="nano")
        world.sleep(1.0)
        second, _ = client_of(answers[1:], ledger=ledger, world=world)
        second.complete(EASY, request_id="mine", pin="nano")
        world.sleep(1.0)
        second.complete(EASY, request_id="mine", pin="nano")
        found = kept(ledger, "mine")
    assert [(a.status, a.cost_nanousd) for a in found] == [
        ("timeout", None),
        ("answered", 5_000_000),
        ("answered", 5_000_000),
    ]


def test_what_waits_for_a_ledger_that_is_down_is_kept_apart(tmp_path: Path) -> None:
    world, down = World(), MemoryLedger()
    down.down = LOCKED
    path = tmp_path / "spill.jsonl"
    client, _ = client_of(
        Answer("fine", Usage(1000, 1000)), ledger=down, world=world, spill_path=path
    )
    for _ in range(2):
        client.complete(EASY, request_id="mine")
        world.sleep(1.0)
    assert client.n_waiting == 2
    client.close()
    with Ledger(tmp_path / "ledger.db") as ledger:
        for _ in range(2):
            assert replay_spill(path, ledger) == 2
        assert [a.cost_nanousd for a in kept(ledger, "mine")] == [5_000_000] * 2
