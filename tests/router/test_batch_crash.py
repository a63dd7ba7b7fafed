"""Batch jobs survive the end of their process at every point, and never pay twice for it.

A process that dies is played by an error that is raised at the k-th step, and at every later one
(nothing that tidies up gets through either); for every k there is. Real SIGKILLs come on top.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from router.batch import BatchJobs
from router.batch.report import JobStatus
from router.errors import LedgerError
from router.ledger import Ledger
from router.ledger.report import report
from router.providers.batching import BatchLimits
from router.tiers import Tier, TierSet
from tests.batches import COST, PRICES, TIERS, Batches, Clock, OneByOne, failure, write_rows

N = 5
# So long that a second batch is in time too.
WEEK_S = 7 * 86_400.0


class Killed(BaseException):
    """The end of the process; nothing catches it."""


@dataclass
class Steps:
    """Counts steps, and kills at the k-th and whenever something comes after it."""

    kill_at: int | None = None
    names: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if self.kill_at is not None and len(self.names) >= self.kill_at:
            raise Killed


@dataclass
class World:
    """A provider and a ledger that outlive processes, and a job in them."""

    url: str
    folder: Path
    tiers: TierSet
    set_up: Callable[[Batches], object]
    clock: Clock = field(default_factory=Clock)

    def provider(self, trace: Steps) -> Batches:
        provider = Batches(self.folder / "provider", trace)
        provider.batch_limits = BatchLimits(max_items=3, max_bytes=10**6)
        self.set_up(provider)
        return provider

    def run(
        self, kill_at: int | None, act: Callable[[BatchJobs], JobStatus]
    ) -> tuple[JobStatus | None, Steps]:
        """A process: it does something, and maybe dies."""
        trace = Steps(kill_at)
        providers = {
            "fake": self.provider(trace),
            "single": OneByOne(self.folder / "single", trace),
        }
        with Ledger(self.url) as ledger:
            jobs = BatchJobs(
                ledger,
                tiers=self.tiers,
                providers=providers,
                trace=trace,
                now=self.clock.now,
                sleep=self.clock.sleep,
                n_calls=1,
            )
            try:
                return act(jobs), trace
            except Killed:
                return None, trace

    def to_the_end(self) -> JobStatus:
        """Another process, when the dead one's lease has ended."""
        self.clock.sleep(1000)
        rows = self.folder / "in.jsonl"

        def act(jobs: BatchJobs) -> JobStatus:
            known = jobs.jobs()
            tier = self.tiers[0].name
            job = known[0] if known else jobs.submit(rows, tier=tier, deadline_s=WEEK_S)
            return jobs.resume(job.job_id, wait=True)

        status, _ = self.run(None, act)
        assert status is not None
        return status

    def check(self) -> None:
        """Nothing lost, nothing twice, and the sums are exact."""
        with Ledger(self.url) as ledger:
            entries = {entry.request.request_id: entry for entry in ledger.requests()}
            assert set(entries) == {f"r{i}" for i in range(N)}
            assert all(entry.request.done for entry in entries.values())
            savings = report(ledger).savings
            assert savings.n_requests == N
            assert savings.cost_nanousd == COST * N
            assert (
                savings.baseline_nanousd
                == savings.cost_nanousd
                + savings.cache_nanousd
                + savings.routing_nanousd
                + savings.batch_nanousd
                - savings.escalation_nanousd
                - savings.exploration_nanousd
            )


def plain(provider: Batches) -> None:
    provider.looks = 1


def troubled(provider: Batches) -> None:
    """At first one prompt has an error in place of an answer, and another one nothing."""
    provider.twice = True
    provider.rows = {"q1": [failure("outage")], "q4": [failure("expired")]}


@pytest.fixture
def world(tmp_path: Path, ledger_url: str) -> World:
    write_rows(tmp_path / "in.jsonl", N)
    return World(ledger_url, tmp_path, TIERS, plain)


def submit_and_wait(folder: Path, tier: str = "small") -> Callable[[BatchJobs], JobStatus]:
    def act(jobs: BatchJobs) -> JobStatus:
        job = jobs.submit(folder / "in.jsonl", tier=tier, deadline_s=WEEK_S)
        return jobs.resume(job.job_id, wait=True)

    return act


def worlds(tmp_path: Path, set_up: Callable[[Batches], object], tiers: TierSet) -> Iterator[World]:
    """Worlds without end, each of its own; in SQLite, which is quick to make."""
    n = 0
    while True:
        n += 1
        folder = tmp_path / str(n)
        folder.mkdir()
        write_rows(folder / "in.jsonl", N)
        yield World(str(folder / "ledger.db"), folder, tiers, set_up)


def test_a_death_at_every_step_loses_nothing_and_hands_nothing_in_twice(tmp_path: Path) -> None:
    fresh = worlds(tmp_path, troubled, TIERS)
    whole = next(fresh)
    done, steps = whole.run(None, submit_and_wait(whole.folder))
    assert done is not None and done.is_done and done.rows == {"answered": N}
    whole.check()
    expected = whole.provider(Steps()).handed_in
    assert expected == Counter({f"q{i}": 1 for i in range(N)}) + Counter({"q1": 1, "q4": 1})
    names = steps.names
    assert {"before mark handing in", "before submit", "after submit", "before mark running"} <= {
        *names
    }
    assert len(names) > 40
    for k in range(1, len(names) + 1):
        world = next(fresh)
        died, _ = world.run(k, submit_and_wait(world.folder))
        assert died is None
        status = world.to_the_end()
        assert status.is_done and status.rows == {"answered": N}, names[k - 1]
        assert status.n_unknown_cost == 0 and not status.troubles
        assert world.provider(Steps()).handed_in == expected, names[k - 1]
        world.check()


def test_a_second_death_while_going_on_changes_nothing(tmp_path: Path) -> None:
    fresh = worlds(tmp_path, plain, TIERS)
    for first in (9, 14, 20, 31):
        for second in range(2, 40, 6):
            world = next(fresh)
            world.run(first, submit_and_wait(world.folder))
            world.clock.sleep(1000)
            world.run(second, submit_and_wait(world.folder))
            assert world.to_the_end().rows == {"answered": N}
            assert set(world.provider(Steps()).handed_in.values()) == {1}
            world.check()


SINGLE = TierSet([Tier("one", "single", "m-1", **PRICES)])


def test_a_call_whose_process_died_is_made_again_and_counted(tmp_path: Path) -> None:
    fresh = worlds(tmp_path, plain, SINGLE)
    whole = next(fresh)
    _, steps = whole.run(None, submit_and_wait(whole.folder, "one"))
    assert steps.names.count("before call") == N
    for k in range(1, len(steps.names) + 1, 2):
        world = next(fresh)
        world.run(k, submit_and_wait(world.folder, "one"))
        status = world.to_the_end()
        assert status.rows == {"answered": N}
        called = OneByOne(world.folder / "single").called
        # One call was under way; whether it arrived nobody can tell: at most that one is repeated.
        assert set(called) == {f"q{i}" for i in range(N)}
        assert called.total() <= N + 1
        assert status.n_unknown_cost <= 1
        with Ledger(world.url) as ledger:
            attempts = [a for entry in ledger.requests() for a in entry.attempts]
        assert sum(a.cost_nanousd is None for a in attempts) == status.n_unknown_cost
        assert len(attempts) == N + status.n_unknown_cost


_PROCESS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from router.batch import BatchJobs
from router.ledger import Ledger
from router.providers.batching import BatchLimits
from tests.batches import TIERS, Batches
left = int(sys.argv[4])
def trace(name):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[2])
provider = Batches(folder / "provider", trace)
provider.batch_limits = BatchLimits(max_items=3, max_bytes=10**6)
with Ledger(sys.argv[1]) as ledger:
    jobs = BatchJobs(ledger, tiers=TIERS, providers={"fake": provider}, trace=trace, settle_s=0)
    job = jobs.submit(folder / "in.jsonl", tier="small")
    print(jobs.resume(job.job_id, wait=True).state)
"""


def test_kill_9_and_the_next_process_goes_on_at_once(world: World, repository: Path) -> None:
    """The lease of a process that is gone from this machine holds nobody up."""
    deaths = 0
    for kill_at in (13, 9, 16, 10**6):
        done = subprocess.run(
            [
                *(sys.executable, "-c", _PROCESS, world.url, str(world.folder), str(repository)),
                str(kill_at),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == -signal.SIGKILL:
            deaths += 1
            continue
        assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "done")
        break
    assert deaths == 3
    assert world.provider(Steps()).handed_in == Counter({f"q{i}": 1 for i in range(N)})
    world.check()


def test_two_who_go_on_at_once_hand_in_once(world: World) -> None:
    trace = Steps()
    seen: list[str] = []

    def second(name: str) -> None:
        """Another one comes at the moment in which the first is about to hand in."""
        if name != "before submit" or seen:
            return
        with Ledger(world.url) as ledger:
            jobs = BatchJobs(
                ledger, tiers=TIERS, providers={"fake": world.provider(trace)}, now=world.clock.now
            )
            (job,) = jobs.jobs()
            with pytest.raises(LedgerError) as caught:
                jobs.resume(job.job_id)
        seen.append(str(caught.value))

    provider = world.provider(trace)
    provider.trace = second
    with Ledger(world.url) as ledger:
        jobs = BatchJobs(
            ledger,
            tiers=TIERS,
            providers={"fake": provider},
            now=world.clock.now,
            sleep=world.clock.sleep,
        )
        job = jobs.submit(world.folder / "in.jsonl", tier="small")
        assert jobs.resume(job.job_id, wait=True).is_done
    (message,) = seen
    assert message.startswith("expected to work on job ") and "another process does" in message
    assert set(provider.handed_in.values()) == {1}
    world.check()


def test_who_was_replaced_writes_nothing_more(world: World) -> None:
    """A process that slept beyond its lease finds out at its next step."""
    seen: list[str] = []

    def overslept(name: str) -> None:
        if name == "after submit" and not seen:
            seen.append(name)
            world.to_the_end()

    provider = world.provider(Steps())
    provider.trace = overslept
    with Ledger(world.url) as ledger:
        jobs = BatchJobs(ledger, tiers=TIERS, providers={"fake": provider}, now=world.clock.now)
        with pytest.raises(LedgerError, match="another process took it over"):
            jobs.submit(world.folder / "in.jsonl", tier="small")
    assert provider.handed_in == Counter({f"q{i}": 1 for i in range(N)})
    world.check()


def test_a_step_that_takes_longer_than_the_lease_keeps_it(world: World) -> None:
    """As a large upload may: the lease is renewed beside it."""
    provider = world.provider(Steps())
    seen: list[str] = []

    def slow(name: str) -> None:
        if name != "before submit" or seen:
            return
        for _ in range(3):
            world.clock.sleep(600)
            waits = iter([False, True])
            jobs._store.renew_until(job_id, lambda _, waits=waits: next(waits))
        with Ledger(world.url) as ledger:
            other = BatchJobs(
                ledger, tiers=TIERS, providers={"fake": provider}, now=world.clock.now
            )
            with pytest.raises(LedgerError, match="another process does"):
                other.resume(job_id)
        seen.append(name)

    provider.trace = slow
    with Ledger(world.url) as ledger:
        jobs = BatchJobs(
            ledger,
            tiers=TIERS,
            providers={"fake": provider},
            now=world.clock.now,
            sleep=world.clock.sleep,
        )
        provider.submit_fails = [(failure("rate-limit"), False)]
        provider.trace = Steps()
        job_id = jobs.submit(world.folder / "in.jsonl", tier="small", deadline_s=WEEK_S).job_id
        provider.trace = slow
        assert jobs.resume(job_id, wait=True).rows == {"answered": N}
    assert seen
    assert set(provider.handed_in.values()) == {1}
    # Who has lost it renews nothing.
    with Ledger(world.url) as ledger:
        waits = iter([False, True])
        BatchJobs(ledger, tiers=TIERS)._store.renew_until(job_id, lambda _: next(waits))


def test_a_lease_tells_whose_process_has_gone(tmp_path: Path) -> None:
    from router.ledger.lease import Holder

    me = Holder.of_this_process()
    assert me.may_replace(me.name)
    assert not me.may_replace(Holder.of_this_process().name)  # lives, as this process does
    child = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from router.ledger.lease import Holder; print(Holder.of_this_process().name)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert me.may_replace(child.stdout.strip())
    machine, pid, started, rest = me.name.split("|")
    assert pid == str(os.getpid())
    assert not me.may_replace(f"elsewhere|{child.stdout.split('|')[1]}|1|x")
    if started:
        assert me.may_replace(f"{machine}|{pid}|{int(started) - 1}|{rest}")  # the number, again
    assert json.dumps(me.name)
