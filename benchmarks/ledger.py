"""How many records a second a ledger takes: SQLite flushing or not, PostgreSQL where there is one.

A record is what a client writes after an attempt: a request and its attempt, one transaction. All
of them are read back and counted before a number is believed.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Literal

from benchmarks.results import Say, Section, Table
from router.errors import MissingExtraError
from router.ledger import Ledger
from router.records import AttemptRecord, RequestRecord
from router.usage import Usage
from tests import postgres

N_RECORDS = 2000
N_THREADS = (1, 4)
N_REPORTED = 100_000
_START = datetime(2026, 3, 1, tzinfo=UTC)

Record = tuple[RequestRecord, list[AttemptRecord]]


def measure(say: Say, *, n_records: int = N_RECORDS, n_reported: int = N_REPORTED) -> Section:
    """Writes per second of each kind of ledger, alone and from four threads; and a large report."""
    try:
        return _measured(say, n_records, n_reported)
    except MissingExtraError as error:
        columns = ("ledger", "measured")
        return Section(
            "Ledger", [Table("Records a second", columns, [("all", "no")], (str(error),))]
        )


def _measured(say: Say, n_records: int, n_reported: int) -> Section:
    rows: list[tuple[str, ...]] = []
    data: dict[str, object] = {}
    notes = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, tuple[str, Literal["normal", "full"]]] = {
            "SQLite, synchronous=normal": (f"{folder}/normal.db", "normal"),
            "SQLite, synchronous=full": (f"{folder}/full.db", "full"),
        }
        try:
            server = stack.enter_context(postgres.server(fsync=True))
            kinds["PostgreSQL"] = (server.new_database(), "normal")
        except RuntimeError as error:
            notes.append(f"PostgreSQL was not measured: {error}.")
        for name, (url, synchronous) in kinds.items():
            rates = []
            with Ledger(url, synchronous=synchronous, busy_timeout_s=60) as ledger:
                for n_threads in N_THREADS:
                    say(f"ledger: {name}, {n_threads} threads")
                    rates.append(_rate(ledger, n_records, n_threads))
            rows.append((name, *(f"{rate:,.0f}" for rate in rates)))
            data[name] = dict(zip(map(str, N_THREADS), rates, strict=True))
        places = {"SQLite": f"{folder}/large.db"}
        if "PostgreSQL" in kinds:
            places["PostgreSQL"] = server.new_database()
        took = {}
        for name, place in places.items():
            say(f"ledger: a report over {n_reported:,} requests, {name}")
            took[name] = _report_s(place, n_reported)
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    notes.append(f"A report by day, model and tier over {n_reported:,} requests: {shown}.")
    data["report"] = {"n_requests": n_reported, "seconds": took}
    table = Table(
        "Records a second (request and attempt, one transaction each)",
        ("ledger", *(f"{n} thread{'s' if n > 1 else ''}" for n in N_THREADS)),
        rows,
        tuple(notes),
    )
    return Section("Ledger", [table], data)


def _record(name: str, number: int) -> Record:
    at = _START + timedelta(seconds=number)
    request = RequestRecord(
        name,
        at,
        {"tier": "nano", "model": "m", "propensity": 0.9, "artifact_id": "a"},
        "What is the capital of France, and since when? " * 10,
        session_id=f"s{number % 1000}",
        baseline_tier="frontier",
        baseline_nanousd=1000 + number % 7,
        done=True,
    )
    attempt = AttemptRecord(
        1, "nano", "openai", "m", at, "routed", "answered", 0.5, Usage(100, 50),
        cost_nanousd=100, uncached_nanousd=120, standard_nanousd=200, served=True,
    )  # fmt: skip
    return request, [attempt]


def _rate(ledger: Ledger, n_records: int, n_threads: int) -> float:
    each = n_records // n_threads
    work = [
        [_record(f"{n_threads}-{thread}-{i}", i) for i in range(each)]
        for thread in range(n_threads)
    ]
    ledger.record(*_record(f"{n_threads}-warm", 0))

    def write(records: list[Record]) -> None:
        for request, attempts in records:
            ledger.record(request, attempts)

    seconds = _timed(write, work)
    kept = {entry.request.request_id for entry in ledger.requests() if entry.attempts}
    expected = {request.request_id for records in work for request, _ in records}
    assert expected <= kept, "records are missing"
    return each * n_threads / seconds


def _timed(write: Callable[[list[Record]], None], work: list[list[Record]]) -> float:
    threads = [threading.Thread(target=write, args=(records,)) for records in work]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def _report_s(place: str, n: int) -> float:
    from router.ledger.report import report

    with Ledger(place, busy_timeout_s=60) as ledger:
        for start in range(0, n, 5000):
            ledger.record_many(_record(f"r{i}", i) for i in range(start, min(start + 5000, n)))
        for i in range(0, n, 100):
            ledger.feedback(f"r{i}", True)
        started = time.perf_counter()
        found = report(ledger)
        seconds = time.perf_counter() - started
    assert found.total.n_requests == found.savings.n_requests == n, "requests are missing"
    assert found.savings.cost_nanousd == 100 * n, "the sum is wrong"
    return seconds
