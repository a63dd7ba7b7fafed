"""Batch jobs end to end: the real SDKs against servers that speak the providers' protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from router.batch import BatchJobs
from router.ledger import Ledger
from router.ledger.report import report
from router.prices import PriceBook
from router.providers.anthropic import AnthropicProvider
from router.providers.base import Provider
from router.providers.deepseek import DeepSeekProvider
from router.providers.google import GoogleProvider
from router.providers.openai import OpenAIProvider
from router.tiers import Tier, TierSet
from tests.batches import BATCH_PRICES, PRICES
from tests.wire.anthropic_batch_server import AnthropicBatchServer
from tests.wire.batch_server import BatchControls
from tests.wire.google_batch_server import GoogleBatchServer
from tests.wire.openai_batch_server import OpenAIBatchServer

KEY = "sk-test-key"
WEEK_S = 7 * 86_400.0
N = 6
KINDS: dict[str, tuple[type[Any], Callable[..., Provider], str]] = {
    "openai": (OpenAIBatchServer, OpenAIProvider, "gpt-5-nano"),
    "anthropic": (AnthropicBatchServer, AnthropicProvider, "claude-haiku-4-5"),
    "google": (GoogleBatchServer, GoogleProvider, "gemini-2.5-flash"),
}


class Wire:
    """A job against one provider's server."""

    def __init__(self, kind: str, server: BatchControls, ledger: Ledger) -> None:
        _, make, model = KINDS[kind]
        self.server, self.ledger = server, ledger
        self.provider: Any = make(KEY, base_url=server.url)
        self.tiers = TierSet([Tier("small", kind, model)])
        self.kind = kind
        self.ahead = timedelta()
        self.n_sleeps = 0
        self.on_sleep: Callable[[int], object] = lambda n: server.finish()

    def sleep(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)
        self.n_sleeps += 1
        assert self.n_sleeps < 50
        self.on_sleep(self.n_sleeps)

    def jobs(self) -> BatchJobs:
        return BatchJobs(
            self.ledger,
            tiers=self.tiers,
            providers={self.kind: self.provider},
            now=lambda: datetime.now(UTC) + self.ahead,
            sleep=self.sleep,
        )

    def submit(self) -> str:
        rows = [{"query": f"question {i}", "request_id": f"r{i}"} for i in range(N)]
        return self.jobs().submit(rows, tier="small", deadline_s=WEEK_S).job_id

    def row_id(self, job_id: str, row: int, part: int = 1) -> str:
        return f"{job_id}-{part}-{row}"

    @property
    def n_handed_in(self) -> Counter[str]:
        """How often each row was, by its number in the input."""
        found: Counter[str] = Counter()
        for name, n in self.server.n_handed_in.items():
            found[name.rpartition("-")[2]] += n
        return found


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, BatchControls]]:
    with OpenAIBatchServer() as one, AnthropicBatchServer() as two, GoogleBatchServer() as three:
        yield {"openai": one, "anthropic": two, "google": three}


@pytest.fixture(params=sorted(KINDS))
def wire(
    request: pytest.FixtureRequest, servers: dict[str, BatchControls], tmp_path: Path
) -> Iterator[Wire]:
    server = servers[request.param]
    server.reset()
    with Ledger(tmp_path / "ledger.db") as ledger:
        made = Wire(request.param, server, ledger)
        yield made
        made.provider.close()
    server.reset()


ONCE = Counter({str(row): 1 for row in range(1, N + 1)})


def test_a_job_from_its_rows_to_the_report(wire: Wire) -> None:
    job_id = wire.submit()
    done = wire.jobs().resume(job_id, wait=True)
    assert done.is_done and done.rows == {"answered": N} and done.n_unknown_cost == 0
    assert wire.n_handed_in == ONCE
    rows = list(wire.jobs().results(job_id))
    assert [row.text for row in rows] == [
        f"answer {wire.row_id(job_id, row)}" for row in range(1, N + 1)
    ]
    savings = report(wire.ledger).savings
    assert savings.n_requests == N and savings.batch_nanousd > 0
    assert savings.batch_nanousd == savings.uncached_nanousd  # half of the price
    usage = rows[0].usage
    assert usage is not None
    price = PriceBook().price(wire.tiers[0], batch=True)
    plain = price.cost_usd(
        usage["input_tokens"],
        usage["output_tokens"],
        usage["cached_input_tokens"],
        usage["cache_write_tokens"],
        usage["cache_write_1h_tokens"],
    )
    assert rows[0].cost_usd == pytest.approx(plain, abs=1e-9)


def test_rows_that_miss_come_twice_fail_or_cannot_be_read(wire: Wire) -> None:
    job_id = wire.submit()
    names = [wire.row_id(job_id, row) for row in range(1, N + 1)]
    wire.server.finish(
        missing={names[0]},
        duplicated={names[1]},
        failed={names[2]: 500, names[3]: 400},
        malformed={names[4]},
        garbage=[b'{"custom_id": ', b"[1, 2]"],
        reverse=True,
    )
    done = wire.jobs().resume(job_id, wait=True)
    assert done.is_done
    assert done.rows == {"answered": N - 1, "failed": 1} and done.reasons == {"refused": 1}
    # Again: what is missing, what a fault of the server cost, what cannot be read.
    assert wire.n_handed_in == ONCE + Counter({"1": 1, "3": 1, "5": 1})
    attempts = {e.request.request_id: len(e.attempts) for e in wire.ledger.requests()}
    assert attempts == {"r0": 2, "r1": 1, "r2": 2, "r3": 1, "r4": 2, "r5": 1}


def test_a_hand_in_whose_answer_is_lost_is_found(wire: Wire) -> None:
    wire.server.cut("create")
    job_id = wire.submit()
    assert wire.jobs().status(job_id).batches == {"handing-in": 1}
    assert wire.jobs().resume(job_id, wait=True).rows == {"answered": N}
    assert wire.n_handed_in == ONCE


def test_busy_and_broken_servers_are_asked_again(wire: Wire) -> None:
    server = wire.server
    server.fail("create", 429)
    server.fail("status", 500)
    if "upload" in server.CALLS:
        server.fail("upload", 500)
    server.cut("results")
    job_id = wire.submit()
    done = wire.jobs().resume(job_id, wait=True)
    assert done.is_done and done.rows == {"answered": N}
    assert wire.n_handed_in == ONCE
    assert {len(e.attempts) for e in wire.ledger.requests()} == {1}


def test_a_create_that_failed_at_the_server_is_looked_for_first(wire: Wire) -> None:
    wire.server.fail("create", 503)
    job_id = wire.submit()
    assert wire.jobs().status(job_id).batches == {"handing-in": 1}
    done = wire.jobs().resume(job_id, wait=True)
    assert done.rows == {"answered": N} and wire.n_handed_in == ONCE
    calls = wire.server.calls
    assert "list" in calls[calls.index("create") : len(calls) - calls[::-1].index("create")]


def test_an_expired_batch_is_handed_in_again(wire: Wire) -> None:
    job_id = wire.submit()
    names = [wire.row_id(job_id, row) for row in (1, 2)]
    wire.server.finish(end="expired", answered=names)
    assert wire.jobs().resume(job_id, wait=True).rows == {"answered": N}
    # Of a batch that expired, Google keeps nothing.
    first = 1 if wire.kind == "google" else 3
    assert wire.n_handed_in == ONCE + Counter({str(row): 1 for row in range(first, N + 1)})


def test_a_cancelled_job_keeps_what_was_answered(wire: Wire) -> None:
    job_id = wire.submit()
    assert wire.jobs().cancel(job_id).state == "cancelling"
    wire.server.finish(end="cancelled", answered=[wire.row_id(job_id, 1)])
    done = wire.jobs().resume(job_id)
    assert done.is_done and done.rows == {"answered": 1, "failed": N - 1}
    assert done.reasons == {"cancelled": N - 1}
    assert wire.n_handed_in == ONCE


def test_a_key_that_is_refused_is_said_and_costs_nothing(wire: Wire) -> None:
    wire.server.fail("upload" if "upload" in wire.server.CALLS else "create", 401, times=2)
    job_id = wire.submit()
    found = wire.jobs().resume(job_id, wait=True)
    assert found.n_open == N and "auth" in found.troubles[0]
    assert wire.jobs().resume(job_id, wait=True).rows == {"answered": N}
    assert wire.n_handed_in == ONCE


def test_deepseek_takes_no_batches_and_is_called(
    servers: dict[str, BatchControls], tmp_path: Path
) -> None:
    server = servers["openai"]
    server.reset()
    tiers = TierSet([Tier("deep", "deepseek", "deepseek-chat", **PRICES, **BATCH_PRICES)])
    provider = DeepSeekProvider(KEY, base_url=server.url)
    with Ledger(tmp_path / "ledger.db") as ledger:
        jobs = BatchJobs(ledger, tiers=tiers, providers={"deepseek": provider})
        job = jobs.submit([{"query": f"q{i}"} for i in range(5)], tier="deep")
        done = jobs.resume(job.job_id, wait=True)
        assert done.rows == {"answered": 5} and done.ways == {"deep": {"one by one": 5}}
    assert server.calls == [] and len(server.requests) == 5
    provider.close()
    server.reset()
