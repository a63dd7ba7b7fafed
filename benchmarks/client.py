"""What the client adds to a call of a provider: routing, breaker, prices, records, drivers.

The bare call is that of a fake provider that answers at once, so that what is measured is ours
alone. Every way of asking is shown to give the provider's answer by the router's tier, and every
record to be in the ledger, before and after it is timed.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import Budget, Say, Section, Table, budget_table
from router.client import Reply, RoutedClient
from router.errors import MissingExtraError
from router.prices import PriceBook
from router.providers.base import Answer, Prompt
from router.routing import Router
from router.testing import FakeProvider

N_REQUESTS = 400
LIMIT_MS = 1.0
_WARM_UP = 20
_ANSWER = "The capital of France is Paris."


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask; ``ask`` gives the text of the answer to a query."""

    name: str
    ask: Callable[[str], str]
    has_budget: bool = True


def measure(say: Say, *, n_requests: int = N_REQUESTS) -> Section:
    """Median milliseconds of each way beyond those of the bare call, all taking turns."""
    router = Router.load()
    queries = [
        f"What is the capital of country number {n}, and since when?" for n in range(n_requests)
    ]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        notes: list[str] = []
        book = _book(router, Path(folder))
        provider = FakeProvider(_ANSWER, cache=None)
        runner = stack.enter_context(asyncio.Runner())
        ways = [Way("the provider alone", _bare(provider, router), has_budget=False)]
        plain = _client(router, provider, book)
        ways += _ways(plain, "", runner)
        ledger = None
        try:
            from router.ledger import Ledger

            ledger = stack.enter_context(Ledger(Path(folder, "ledger.db")))
        except (ImportError, MissingExtraError) as error:
            notes.append(f"With a ledger it was not measured: {type(error).__name__}.")
        if ledger is not None:
            ways += _ways(_client(router, provider, book, ledger), " with a ledger", runner)
        _check(plain, router, queries[: min(50, n_requests)])
        say(f"client: {len(ways)} ways, {n_requests} requests each")
        seconds = _in_turns(ways, queries)
        if ledger is not None:
            kept = [entry.request.done and len(entry.attempts) == 1 for entry in ledger.requests()]
            n_expected = 3 * (n_requests + _WARM_UP)
            assert len(kept) == n_expected and all(kept), "records are missing"
    bare_ms = float(np.median(seconds[ways[0].name])) * 1e3
    rows, budgets, data = [], [], {}
    for way in ways:
        each_ms = seconds[way.name] * 1e3
        p50, p95 = float(np.median(each_ms)), float(np.quantile(each_ms, 0.95))
        rows.append((way.name, f"{p50:.3f}", f"{p95:.3f}", f"{p50 - bare_ms:.3f}"))
        data[way.name] = {"p50_ms": p50, "p95_ms": p95, "added_p50_ms": p50 - bare_ms}
        if way.has_budget:
            budgets.append(Budget(f"added by {way.name}", p50 - bare_ms, LIMIT_MS, "ms"))
    columns = ("way", "p50 (ms)", "p95 (ms)", "added p50 (ms)")
    tables = [
        Table("A request through the client", columns, rows, tuple(notes)),
        budget_table("What the client may add, at the median", budgets),
    ]
    return Section("Client", tables, {"ways": data, "budgets": [b.to_dict() for b in budgets]})


def _client(
    router: Router, provider: FakeProvider, book: PriceBook, ledger: object = None
) -> RoutedClient:
    providers = {tier.provider: provider for tier in router.tiers}
    return RoutedClient(router, providers=providers, price_book=book, ledger=ledger)  # type: ignore[arg-type]


def _book(router: Router, folder: Path) -> PriceBook:
    """Prices of all tiers: with unknown ones there would be less to do."""
    tables = [
        f'[[prices]]\nprovider = "{tier.provider}"\nmodel = "{tier.model}"\nfrom = 2020-01-01\n'
        "input_price_usd_per_mtok = 1.0\noutput_price_usd_per_mtok = 4.0\n"
        for tier in router.tiers
    ]
    path = folder / "prices.toml"
    path.write_text("\n".join(tables), encoding="utf-8")
    return PriceBook(path)


def _messages(query: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": query}]


def _bare(provider: FakeProvider, router: Router) -> Callable[[str], str]:
    model = router.tiers[0].model

    def ask(query: str) -> str:
        answer: Answer = provider.complete(model, Prompt(tuple(_messages(query))))
        return answer.text

    return ask


def _ways(client: RoutedClient, suffix: str, runner: asyncio.Runner) -> list[Way]:
    def streamed(query: str) -> str:
        with client.stream(_messages(query)) as stream:
            return "".join(stream)

    async def awaited(query: str) -> Reply:
        return await client.acomplete(_messages(query))

    return [
        Way(f"complete{suffix}", lambda query: client.complete(_messages(query)).text),
        Way(f"acomplete{suffix}", lambda query: runner.run(awaited(query)).text),
        Way(f"stream{suffix}", streamed),
    ]


def _check(client: RoutedClient, router: Router, queries: Sequence[str]) -> None:
    for n, query in enumerate(queries):
        reply = client.complete(_messages(query), request_id=f"check-{n}")
        assert reply.text == _ANSWER
        assert reply.tier == router.route(query, request_id=f"check-{n}").tier
        assert reply.cost_usd is not None and reply.cost_usd > 0


def _in_turns(ways: Sequence[Way], queries: Sequence[str]) -> dict[str, np.ndarray]:
    """Seconds of every way on every query, way after way, in an order that turns."""
    clock = time.perf_counter
    for n in range(_WARM_UP):
        for way in ways:
            assert way.ask(f"warm {n}") == _ANSWER
    seconds = {way.name: np.empty(len(queries)) for way in ways}
    for n, query in enumerate(queries):
        shift = n % len(ways)
        for way in [*ways[shift:], *ways[:shift]]:
            begin = clock()
            text = way.ask(query)
            seconds[way.name][n] = clock() - begin
            assert text == _ANSWER, f"{way.name} gave another answer"
    return seconds
