"""Records and a ledger that fails: no answer is lost, and what is lost is counted."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from router.client.recording import Recording
from router.client.spill import replay_spill
from router.errors import InputError, LedgerError, ProviderError
from router.records import RequestRecord
from router.testing import FakeProvider
from tests.router.client_world import EASY, LOCKED, MemoryLedger, PlanRouter, World, client_of
from tests.router.test_client import WAYS, in_every_way

DOWN = [LOCKED, OSError("disk"), RuntimeError("gone")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", DOWN)
def test_a_ledger_that_is_down_costs_no_answer(way: str, error: Exception) -> None:
    ledger, world = MemoryLedger(), World()
    ledger.down = error
    client, _ = client_of("paid for", ledger=ledger, world=world)
    ask = in_every_way(client)[way]
    reply = ask(EASY, request_id="r1")
    assert (reply.text, reply.recorded) == ("paid for", False)
    assert client.n_waiting == 1
    ledger.down = None
    world.now_s += 60.0
    # With the next request what waited is recorded too.
    assert ask(EASY, request_id="r2").recorded is True
    assert client.n_waiting == 0
    assert ledger.requests["r1"].done
    assert [a.served for a in ledger.made("r1")] == [True]


def test_a_ledger_that_is_down_is_left_alone_for_a_while_and_longer_each_time() -> None:
    ledger, world = MemoryLedger(), World()
    ledger.down = LOCKED
    client, _ = client_of(ledger=ledger, world=world)
    for _ in range(50):
        client.complete(EASY)
    assert ledger.n_tried == 1
    for pause_s, tried in ((1.0, 2), (1.0, 2), (1.0, 3), (4.0, 4), (8.0, 5)):
        world.now_s += pause_s
        client.complete(EASY)
        assert ledger.n_tried == tried
    # Asked for, it is tried at once.
    assert client.flush() == client.n_waiting == 55
    assert ledger.n_tried == 6
    ledger.down = None
    assert client.flush() == 0
    assert len(ledger.requests) == 55


def test_a_backlog_shrinks_with_every_record() -> None:
    ledger, world = MemoryLedger(), World()
    ledger.down = LOCKED
    client, _ = client_of(ledger=ledger, world=world)
    for n in range(20):
        client.complete(EASY, request_id=f"r{n}")
    ledger.down = None
    world.now_s += 60.0
    before = client.n_waiting
    client.complete(EASY)
    assert 0 < client.n_waiting < before
    for _ in range(3):
        client.complete(EASY)
    assert client.n_waiting == 0
    assert all(ledger.requests[f"r{n}"].done for n in range(20))


def test_closing_hands_over_what_waits() -> None:
    ledger = MemoryLedger()
    ledger.down = LOCKED
    client, _ = client_of(ledger=ledger)
    with client:
        client.complete(EASY, request_id="r")
        ledger.down = None
    assert ledger.requests["r"].done
    assert client.n_dropped == 0


def test_beyond_the_bound_the_oldest_is_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = MemoryLedger()
    ledger.down = LOCKED
    client, _ = client_of(ledger=ledger, max_waiting=3)
    for n in range(5):
        client.complete(EASY, request_id=f"r{n}")
    assert (client.n_waiting, client.n_dropped) == (3, 2)
    assert "2 so far" in caplog.text
    ledger.down = None
    client.close()
    assert sorted(ledger.requests) == ["r2", "r3", "r4"]


def test_beyond_the_bound_the_oldest_is_spilled_and_can_be_replayed(tmp_path: Path) -> None:
    ledger, path = MemoryLedger(), tmp_path / "spill.jsonl"
    ledger.down = LOCKED
    answers = [ProviderError("x", kind="outage"), "two words"]
    client, _ = client_of(answers, ledger=ledger, max_waiting=0, spill_path=path)
    reply = client.complete(EASY, request_id="r", session="s", task="t")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert client.n_dropped == 0
    client.close()
    later = MemoryLedger()
    n_lines = len(path.read_text().splitlines())
    assert replay_spill(path, later) == n_lines
    assert replay_spill(path, later) == n_lines
    assert later.made("r") == list(reply.attempts)
    kept = later.requests["r"]
    assert (kept.done, kept.session_id, kept.task, kept.query) == (
        True,
        "s",
        "t",
        EASY[0]["content"],
    )
    assert kept.decision == reply.decision.to_dict()


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"request": {}, "attempts": []}', "null"])
def test_a_line_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "spill.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match="line 1"):
        replay_spill(path, MemoryLedger())
    with pytest.raises(InputError, match="check the path"):
        replay_spill(tmp_path / "none", MemoryLedger())


def spilled(path: Path, *ids: str) -> None:
    ledger = MemoryLedger()
    ledger.down = LOCKED
    for request_id in ids:
        # One line each: what waits when the client closes.
        client, _ = client_of(ledger=ledger, spill_path=path)
        client.complete(EASY, request_id=request_id)
        client.close()


def test_a_bad_line_costs_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "spill.jsonl"
    spilled(path, "a", "b")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:30] + b"\n" + first + b"\xff\xfe\n" + b"[" * 100_000 + b"\n" + second)
    ledger = MemoryLedger()
    with pytest.raises(InputError, match=r"line 1, 3, 4: .* other 2 are in the ledger"):
        replay_spill(path, ledger)
    assert sorted(ledger.requests) == ["a", "b"]


def test_what_the_ledger_refuses_for_good_costs_no_other_line(tmp_path: Path) -> None:
    class Strict(MemoryLedger):
        def record(self, request: RequestRecord, attempts: Any = ()) -> None:
            if request.request_id == "a":
                raise InputError("expected another id.")
            super().record(request, attempts)

    path, ledger = tmp_path / "spill.jsonl", Strict()
    spilled(path, "a", "b")
    with pytest.raises(InputError, match="line 1: "):
        replay_spill(path, ledger)
    assert list(ledger.requests) == ["b"]


def test_a_disk_that_fills_up_leaves_whole_lines_and_a_counted_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ledger = tmp_path / "spill.jsonl", MemoryLedger()
    spilled(path, "a")
    before, write = path.read_bytes(), os.write
    ledger.down = LOCKED
    client, _ = client_of(ledger=ledger, spill_path=path)
    client.complete(EASY, request_id="b")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda place, data: write(place, data[:40]))
        client.close()
    assert (client.n_dropped, path.read_bytes()) == (1, before)
    spilled(path, "c")
    kept = MemoryLedger()
    assert replay_spill(path, kept) == 2
    assert sorted(kept.requests) == ["a", "c"]


def test_a_line_that_a_killed_process_left_spoils_no_other(tmp_path: Path) -> None:
    path, ledger = tmp_path / "spill.jsonl", MemoryLedger()
    path.write_bytes(b'{"request": {"requ')
    spilled(path, "a")
    with pytest.raises(InputError, match="line 1: "):
        replay_spill(path, ledger)
    assert list(ledger.requests) == ["a"]


def test_a_spill_that_cannot_be_written_is_a_loss_that_is_counted(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    ledger.down = LOCKED
    client, _ = client_of(ledger=ledger, max_waiting=0, spill_path=tmp_path / "no" / "such")
    assert client.complete(EASY).text == "ok"
    assert client.n_dropped >= 1


def test_what_the_ledger_can_never_keep_is_said_before_anything_is_sent() -> None:
    class Strict(MemoryLedger):
        def record(self, request: RequestRecord, attempts: Any = ()) -> None:
            if len(request.request_id) > 10:
                raise InputError("expected a shorter request_id: shorten it.")
            super().record(request, attempts)

    client, fake = client_of(ledger=Strict())
    with pytest.raises(InputError, match="shorter"):
        client.complete(EASY, request_id="x" * 11)
    assert fake.calls == []
    assert client.n_waiting == 0
    client.complete(EASY, request_id="short")


def test_a_record_that_is_refused_later_costs_no_answer_and_holds_up_no_other() -> None:
    class Odd(MemoryLedger):
        def record(self, request: RequestRecord, attempts: Any = ()) -> None:
            if attempts and request.request_id == "odd":
                raise InputError("expected another attempt.")
            super().record(request, attempts)

    ledger = Odd()
    client, _ = client_of(ledger=ledger)
    reply = client.complete(EASY, request_id="odd")
    assert (reply.text, reply.recorded) == ("ok", False)
    assert (client.n_waiting, client.n_dropped) == (0, 1)
    assert client.complete(EASY, request_id="fine").recorded is True


def test_a_ledger_that_fails_between_the_records_of_a_request() -> None:
    ledger, world = MemoryLedger(), World()

    def break_it(prompt: Any) -> str:
        ledger.down = LOCKED
        return "x"

    client, _ = client_of(break_it, ledger=ledger, world=world)
    assert client.complete(EASY, request_id="r").recorded is False
    assert not ledger.requests["r"].done
    ledger.down = None
    assert client.flush() == 0
    assert ledger.requests["r"].done
    assert len(ledger.made("r")) == 1


def test_a_later_state_is_never_replaced_by_an_earlier_one_that_waited() -> None:
    ledger = MemoryLedger()
    recording = Recording(ledger, clock=World().clock)
    at = World().wall
    first = RequestRecord("r", at, {})
    ledger.down = LOCKED
    assert recording.record(first, ()) is False
    ledger.down = None
    done = RequestRecord("r", at, {}, done=True)
    recording.flush()
    assert recording.record(done, ()) is True
    assert recording.flush() == 0
    assert ledger.requests["r"].done


def test_many_threads_and_a_ledger_that_comes_and_goes_lose_nothing() -> None:
    ledger, world = MemoryLedger(), World()
    # The clock runs on while a thread waits for its turn.
    client, _ = client_of(ledger=ledger, world=world, deadline_s=1e6)
    lock = threading.Lock()

    def ask(name: int) -> None:
        for n in range(50):
            with lock:
                ledger.down = LOCKED if (n + name) % 3 == 0 else None
                world.now_s += 1.0
            client.complete(EASY, request_id=f"{name}-{n}")

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.down = None
    assert client.flush() == 0
    assert len(ledger.requests) == 400
    assert all(request.done for request in ledger.requests.values())
    assert all(len(made) == 1 for made in ledger.attempts.values())


def test_the_warnings_have_no_text_of_a_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = MemoryLedger()
    ledger.down = LedgerError("locked while writing 'MARKER'")
    client, _ = client_of(ledger=ledger, max_waiting=0)
    client.complete([{"role": "user", "content": "MARKER"}])
    assert "LedgerError" in caplog.text
    assert "MARKER" not in caplog.text


def test_a_reader_who_leaves_while_the_ledger_is_down_is_not_lost() -> None:
    ledger = MemoryLedger()
    ledger.down = LOCKED
    client, _ = client_of("one two three", ledger=ledger)
    with client.stream(EASY, request_id="r") as stream:
        next(stream)
    ledger.down = None
    client.flush()
    assert [a.status for a in ledger.made("r")] == ["cut"]
    assert ledger.requests["r"].done


class TestRealLedger:
    """With SQLite."""

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Any:
        pytest.importorskip("sqlalchemy")
        from router.ledger import Ledger

        with Ledger(tmp_path / "ledger.db") as ledger:
            yield ledger

    @pytest.mark.parametrize("way", WAYS)
    def test_it_has_what_the_caller_has(self, way: str, ledger: Any) -> None:
        client, _ = client_of("a b c", ledger=ledger)
        reply = in_every_way(client)[way](EASY, request_id="r", session="s", task="t")
        assert reply.recorded is True
        assert client.feedback("r", True) is True
        entry = ledger.request("r")
        assert entry.attempts == reply.attempts
        assert entry.request.done
        assert entry.request.decision == reply.decision.to_dict()
        assert entry.request.baseline_tier == "frontier"
        assert entry.success == 1.0

    def test_failures_rejections_and_money_come_back_whole(self, ledger: Any) -> None:
        answers = {
            "nano-model": [ProviderError("x", kind="rate-limit"), "no"],
            "mid-model": ProviderError("x", kind="timeout", billed=True),
            "frontier-model": "no",
        }
        client, _ = client_of(
            answers,
            router=PlanRouter(["nano", "mid", "frontier"]),
            ledger=ledger,
            verifier=lambda answer, prompt: False,
        )
        reply = client.complete(EASY, request_id="r")
        entry = ledger.request("r")
        assert entry.attempts == reply.attempts
        assert [a.status for a in entry.attempts] == [
            "rate-limit",
            "rejected",
            "timeout",
            "rejected",
        ]
        assert [a.served for a in entry.attempts] == [False, False, False, True]
        assert entry.attempts[0].cost_nanousd == 0
        assert entry.attempts[2].cost_nanousd is None
        assert reply.cost_usd is None

    def test_cancelled_tasks_are_kept(self, ledger: Any) -> None:
        async def run() -> None:
            waiting = asyncio.Event()

            async def hang(seconds: float) -> None:
                waiting.set()
                await asyncio.Event().wait()

            fake = FakeProvider("x", latency_s=1.0, asleep=hang)
            client, _ = client_of(providers={"one": fake, "two": fake}, ledger=ledger)
            task = asyncio.create_task(client.acomplete(EASY, request_id="r"))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(run())
        entry = ledger.request("r")
        assert entry.request.done
        assert [a.status for a in entry.attempts] == ["cut"]
