"""What a request pays: latency, throughput, cold start, memory. Correct first, then timed.

Times are compared within one run, in turns, since a shared machine's speed changes by the minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_safetensors
from tokenizers import Tokenizer

import router as router_package
from benchmarks.results import Budget, Say, Section, Table, budget_table
from router.artifact import default_artifact_folder
from router.decision import Decision
from router.embedding import default_embedder_folder, static_files
from router.routing import Router
from router.text import MAX_CHARACTERS, readable

FloatArray = npt.NDArray[np.float64]
Floor = Callable[[str], npt.NDArray[np.float32]]

# "About 20 words": what chat traffic looks like, and what the budgets are stated for.
SHORT_WORDS = range(15, 26)
LONG_WORDS = 100_000
_ROUNDS = 3
_BLOCK = 16
_GROWTH_TEXTS = 400

# Measured inside a process of its own. VmRSS and VmHWM rather than getrusage, whose peak a child
# process takes over from its parent.
_COLD_START = """
import json, sys, time

def resident_mb(name):
    try:
        with open("/proc/self/status") as file:
            found = [line.split()[1] for line in file if line.startswith(name)]
        return int(found[0]) / 1024
    except (OSError, IndexError):
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)

query = sys.stdin.read()
before = resident_mb("VmRSS")
start = time.perf_counter()
import router
loaded = router.Router.load()
seconds = time.perf_counter() - start
start = time.perf_counter()
tier = loaded.route(query).tier
first_s = time.perf_counter() - start
print(json.dumps({
    "seconds": seconds,
    "first_route_s": first_s,
    "interpreter_mb": before,
    "resident_mb": resident_mb("VmRSS"),
    "peak_mb": resident_mb("VmHWM"),
    "tier": tier,
}))
"""


def bare_floor(files: Mapping[str, bytes]) -> Floor:
    """The least that any router over these vectors must do: tokenize, mean of the table's rows.

    ``files`` are those of the static embedder's folder by name. Its own tokenizer and table, so
    that nothing is shared with what it is compared to.
    """
    tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    (stored,) = load_safetensors(files["model.safetensors"]).values()
    table = np.ascontiguousarray(stored, dtype=np.float32)

    def floor(text: str) -> npt.NDArray[np.float32]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        mean: npt.NDArray[np.float32] = table[ids].mean(axis=0)
        return mean

    return floor


def expected_tiers(router: Router, queries: Sequence[str]) -> list[str]:
    """The likeliest tier of every query by the batched path: predictions, then ``action_dist``."""
    chosen = router.action_dist(router.predict(queries)).argmax(axis=1)
    return [router.tiers.names[tier] for tier in chosen]


def check_route(router: Router, queries: Sequence[str]) -> list[Decision]:
    """One by one and batched agree with the predictions and the policy, and are JSON."""
    predicted = router.predict(queries)
    dist = router.action_dist(predicted)
    single = [router.route(query) for query in queries]
    many = router.route_many(queries)
    for row, (one, batched) in enumerate(zip(single, many, strict=True)):
        tier = router.tiers.index(one.tier)
        assert one.tier == batched.tier and one.reason == batched.reason
        assert dist[row, tier] > 0 and np.isclose(one.propensity, dist[row, tier])
        for decision in (one, batched):
            assert _close(decision.p_success, predicted.p_success[row])
            assert _close(decision.cost_usd, predicted.cost_usd[row])
        json.dumps(one.to_dict(), allow_nan=False)
    return single


def check_floor(floor: Floor, router: Router, queries: Sequence[str]) -> None:
    """The floor's mean has the direction of the router's own vector."""
    for query in queries:
        mean = floor(query).astype(np.float64)
        vector = router.predictor.embedder.embed_one(query).astype(np.float64)
        length = float(np.linalg.norm(mean))
        assert length == 0.0 or np.allclose(mean / length, vector, atol=1e-5)


def _close(values: Mapping[str, float | None], row: FloatArray) -> bool:
    found = [np.nan if value is None else value for value in values.values()]
    return bool(np.allclose(found, row, rtol=1e-4, atol=1e-9))


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of single calls, (n,)."""

    seconds: FloatArray

    @property
    def p50(self) -> float:
        """Median in microseconds."""
        return float(np.median(self.seconds)) * 1e6

    @property
    def p99(self) -> float:
        """99th percentile in microseconds."""
        return float(np.quantile(self.seconds, 0.99)) * 1e6


def in_turns(
    calls: Mapping[str, Callable[[str], object]], queries: Sequence[str], block: int = _BLOCK
) -> dict[str, FloatArray]:
    """Seconds of each call on each query, every query once; the calls take turns by blocks.

    Blocks are short, so that all calls see the same state of the machine; the order of the calls
    changes from block to block, so that none always goes first.
    """
    seconds = {name: np.empty(len(queries)) for name in calls}
    names = list(calls)
    clock = time.perf_counter
    for number, start in enumerate(range(0, len(queries), block)):
        texts = queries[start : start + block]
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            call, out = calls[name], seconds[name]
            for row, text in enumerate(texts, start):
                begin = clock()
                call(text)
                out[row] = clock() - begin
    return seconds


def latency(
    load: Callable[[], Router],
    floor: Floor,
    queries: Sequence[str],
    warm_up: Sequence[str],
    rounds: int = _ROUNDS,
) -> dict[str, Times]:
    """Times of the floor and of ``Router.route``, on distinct queries and on a repeated one.

    Every round has a router of its own, warmed by other texts than those timed: words may be known
    from other traffic, the queries themselves are new.
    """
    twin = load()
    check_route(twin, queries)
    check_floor(floor, twin, queries)
    expected = expected_tiers(twin, queries)
    parts: dict[str, list[FloatArray]] = {}
    for _ in range(rounds):
        router = load()
        for text in warm_up:
            router.route(text)
            floor(text)
        decisions: list[Decision] = []
        take = decisions.append
        distinct = in_turns(
            # The append is part of what is timed: some ten nanoseconds.
            {"floor": floor, "route": lambda text, route=router.route: take(route(text))},
            queries,
        )
        if all(decision.propensity == 1.0 for decision in decisions):
            assert [decision.tier for decision in decisions] == expected
        repeated = in_turns(
            {"repeated floor": floor, "repeated route": router.route},
            [queries[0]] * len(queries),
        )
        for name, seconds in {**distinct, **repeated}.items():
            parts.setdefault(name, []).append(seconds)
    return {name: Times(np.concatenate(seconds)) for name, seconds in parts.items()}


def throughput(router: Router, queries: Sequence[str], repeats: int = 5) -> dict[str, float]:
    """Queries per second of a ``route`` loop and of ``route_many``, medians of runs in turns."""
    check_route(router, queries)
    loop, many = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        for query in queries:
            router.route(query)
        loop.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        router.route_many(queries)
        many.append(time.perf_counter() - begin)
    n = len(queries)
    return {
        "route_per_s": n / float(np.median(loop)),
        "route_many_per_s": n / float(np.median(many)),
        "ratio": float(np.median(np.array(loop) / np.array(many))),
    }


def growth(
    router: Router, n_tokens: Callable[[str], int], queries: Sequence[str], repeats: int = 7
) -> list[dict[str, float]]:
    """Time of ``route_many`` on the same texts once, twice and four times as long.

    The least time of several runs each; ``tokens`` are those of all texts together.
    """
    sizes = []
    for times_length in (1, 2, 4):
        texts = [" ".join([query] * times_length) for query in queries]
        assert max(map(len, texts)) <= MAX_CHARACTERS, "longer texts are not read whole"
        check_route(router, texts[:50])
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            router.route_many(texts)
            seconds.append(time.perf_counter() - begin)
        tokens = sum(map(n_tokens, texts))
        sizes.append(
            {"length": float(times_length), "tokens": float(tokens), "seconds": min(seconds)}
        )
    return sizes


def growth_exponent(sizes: Sequence[Mapping[str, float]]) -> float:
    """How the time beyond the fixed part grows with tokens: 1 is linear, 2 is quadratic.

    log2 of (time from 2x to 4x) / (time from 1x to 2x), given that tokens double exactly.

    >>> growth_exponent([{"seconds": 2.0}, {"seconds": 3.0}, {"seconds": 5.0}])
    1.0
    """
    first, second, fourth = (size["seconds"] for size in sizes)
    early, late = second - first, fourth - second
    if early <= 0 or late <= 0:
        return 0.0  # no growth to be seen above the noise
    return float(np.log2(late / early))


def cold_start(query: str, tier: str, runs: int = 5) -> dict[str, float]:
    """Medians over fresh processes: ``import router`` + ``Router.load()``, and memory after it."""
    checkout = Path(router_package.__file__).resolve().parents[1]
    found: list[dict[str, Any]] = []
    for _ in range(runs + 1):
        done = subprocess.run(
            [sys.executable, "-c", _COLD_START],
            input=query.encode("utf-8", "replace").decode("utf-8"),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
            cwd=checkout,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        found.append(json.loads(done.stdout))
        assert found[-1].pop("tier") == tier
    # The first one may have had to compile modules and to read files from the disk.
    return {name: float(np.median([run[name] for run in found[1:]])) for name in found[0]}


def long_query(router: Router, words: Sequence[str], n_words: int = LONG_WORDS) -> dict[str, float]:
    """Milliseconds for one query of ``n_words`` words, median; it is read as documented."""
    text = " ".join(words[i % len(words)] for i in range(n_words))
    embed = router.predictor.embedder.embed_one
    assert np.array_equal(embed(text), embed(readable(text)))
    (decision,) = check_route(router, [text])
    assert decision.tier in router.tiers.names
    seconds = []
    for _ in range(9):
        begin = time.perf_counter()
        router.route(text)
        seconds.append(time.perf_counter() - begin)
    return {
        "words": float(n_words),
        "characters": float(len(text)),
        "milliseconds": float(np.median(seconds)) * 1e3,
    }


def measure(queries: Sequence[str], source: str, say: Say) -> Section:
    """The serving benchmark of the artifact that ships, on real queries."""
    files = static_files(default_embedder_folder())
    floor = bare_floor(files)
    tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])

    def n_tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    short = [query for query in queries if len(query.split()) in SHORT_WORDS]
    chosen = set(short)
    others = [query for query in queries if query not in chosen]
    say(f"latency: {len(short):,} distinct queries, {_ROUNDS} rounds")
    times = latency(Router.load, floor, short, others)
    router = Router.load()
    say("throughput")
    rates = {
        "short": throughput(router, short),
        "all": throughput(router, list(queries)),
    }
    say("growth with the texts' length")
    fitting = [query for query in queries if 4 * (len(query) + 1) <= MAX_CHARACTERS]
    sizes = growth(router, n_tokens, fitting[:_GROWTH_TEXTS])
    say("cold start in fresh processes")
    plain = next(query for query in short if query.isascii())
    cold = cold_start(plain, router.route(plain).tier)
    say(f"a query of {LONG_WORDS:,} words")
    long = long_query(router, " ".join(others).split())

    route, base = times["route"], times["floor"]
    budgets = [
        Budget("route p50, in bare floors", route.p50 / base.p50, 1.5, "x"),
        Budget("route p99, in its own p50", route.p99 / route.p50, 5.0, "x"),
        Budget("route_many over a route loop, short", rates["short"]["ratio"], 2.0, "x", True),
        Budget("route_many over a route loop, all", rates["all"]["ratio"], 2.0, "x", True),
        Budget("growth with tokens, exponent", growth_exponent(sizes), 1.25, "(1 = linear)"),
        Budget("import router + Router.load()", cold["seconds"], 0.5, "s"),
        Budget("resident after loading", cold["resident_mb"], 150.0, "MB"),
    ]
    words = float(np.mean([len(query.split()) for query in short]))
    data = {
        "artifact_id": router.artifact_id,
        "queries": {"source": source, "n_short": len(short), "mean_words": words},
        "latency_us": {name: {"p50": t.p50, "p99": t.p99} for name, t in times.items()},
        "throughput": rates,
        "growth": sizes,
        "cold_start": cold,
        "long_query": long,
        "budgets": [budget.to_dict() for budget in budgets],
    }
    tables = [
        _latency_table(times, len(short), words, source),
        _throughput_table(rates, sizes),
        _process_table(cold, long),
        budget_table("Serving budgets", budgets),
    ]
    return Section("Serving", tables, data)


def _latency_table(times: Mapping[str, Times], n: int, words: float, source: str) -> Table:
    labels = {
        "floor": ("bare floor, distinct queries", "floor"),
        "route": ("Router.route, distinct queries", "floor"),
        "repeated floor": ("bare floor, one query repeated", "repeated floor"),
        "repeated route": ("Router.route, one query repeated", "repeated floor"),
    }
    rows = [
        (
            label,
            f"{times[name].p50:.1f}",
            f"{times[name].p99:.1f}",
            f"{times[name].p50 / times[base].p50:.2f}",
        )
        for name, (label, base) in labels.items()
    ]
    note = (
        f"{n:,} distinct queries of {words:.0f} words on average from {source}, {_ROUNDS} rounds, "
        "each with a router that has seen only other texts. Floor: tokenize and mean of table rows."
    )
    return Table("Latency of one query", ("what", "p50 us", "p99 us", "x floor"), rows, (note,))


def _throughput_table(
    rates: Mapping[str, Mapping[str, float]], sizes: Sequence[Mapping[str, float]]
) -> Table:
    rows = [
        (
            f"{name} queries",
            f"{rate['route_per_s']:,.0f}",
            f"{rate['route_many_per_s']:,.0f}",
            f"{rate['ratio']:.2f}",
        )
        for name, rate in rates.items()
    ]
    grown = ", ".join(
        f"{size['length']:.0f}x: {size['tokens']:,.0f} tokens in {1e3 * size['seconds']:.1f} ms"
        for size in sizes
    )
    return Table(
        "Throughput",
        ("what", "route loop per s", "route_many per s", "ratio"),
        rows,
        (f"route_many on the same texts made longer: {grown}.",),
    )


def _process_table(cold: Mapping[str, float], long: Mapping[str, float]) -> Table:
    size = sum(
        path.stat().st_size for path in default_artifact_folder().rglob("*") if path.is_file()
    )
    rows = [
        ("import router + Router.load()", f"{cold['seconds']:.3f} s"),
        ("first route() after it", f"{1e3 * cold['first_route_s']:.2f} ms"),
        ("resident memory after it", f"{cold['resident_mb']:.0f} MB"),
        ("peak memory", f"{cold['peak_mb']:.0f} MB"),
        ("of which the bare interpreter", f"{cold['interpreter_mb']:.0f} MB"),
        ("artifact on disk", f"{size / 2**20:.1f} MB"),
        (f"one query of {long['words']:,.0f} words", f"{long['milliseconds']:.2f} ms"),
    ]
    return Table("Process", ("what", "measured"), rows)
