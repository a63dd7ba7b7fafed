"""What a request pays: latency, throughput, cold start, memory. Correct first, then timed.

Times are compared within one run, in turns, since a shared machine's speed changes by the minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from benchmarks.checks import Floor, bare_floor, check_floor, check_route, check_same
from benchmarks.process import cold_start, process_table
from benchmarks.results import Budget, Say, Section, Table, budget_table, busy
from router.embedding import default_embedder_folder, static_files
from router.routing import Router
from router.text import MAX_CHARACTERS, readable

FloatArray = npt.NDArray[np.float64]
# "About 20 words": what chat traffic looks like, and what the budgets are stated for.
SHORT_WORDS = range(15, 26)
LONG_WORDS = 100_000
_ROUNDS = 3
_BLOCK = 16
_GROWTH_TEXTS = 200


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
) -> tuple[dict[str, FloatArray], dict[str, list[object]]]:
    """Seconds and results of each call on each query, every query once; calls take turns by blocks.

    Blocks are short, so that all calls see the same state of the machine; the order of the calls
    changes from block to block, so that none always goes first.
    """
    seconds = {name: np.empty(len(queries)) for name in calls}
    results: dict[str, list[object]] = {name: [] for name in calls}
    names = list(calls)
    clock = time.perf_counter
    for number, start in enumerate(range(0, len(queries), block)):
        texts = queries[start : start + block]
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            call, out, keep = calls[name], seconds[name], results[name].append
            for row, text in enumerate(texts, start):
                begin = clock()
                result = call(text)
                out[row] = clock() - begin
                keep(result)
    return seconds, results


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
    decisions = check_route(twin, queries)
    check_floor(floor, twin, queries)
    parts: dict[str, list[FloatArray]] = {}
    for _ in range(rounds):
        router = load()
        for text in warm_up:
            router.route(text)
            floor(text)
        calls: dict[str, Callable[[str], object]] = {"floor": floor, "route": router.route}
        distinct, results = in_turns(calls, queries)
        check_same(results["route"], decisions)
        repeated, results = in_turns(calls, [queries[0]] * len(queries))
        check_same(results["route"], [decisions[0]] * len(queries))
        for name, seconds in distinct.items():
            parts.setdefault(name, []).append(seconds)
            parts.setdefault(f"repeated {name}", []).append(repeated[name])
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
    router: Router, n_tokens: Callable[[str], int], queries: Sequence[str], repeats: int = 9
) -> list[dict[str, float]]:
    """Time of ``route_many`` on the same texts once, twice and four times as long.

    The least CPU time of this thread over several runs in turns, which a busy machine disturbs
    least; ``tokens`` are those of all texts together.
    """
    lengths = (1, 2, 4)
    texts = {k: [" ".join([query] * k) for query in queries] for k in lengths}
    assert max(map(len, texts[4])) <= MAX_CHARACTERS, "longer texts are not read whole"
    for longer in texts.values():
        check_route(router, longer)
    seconds = dict.fromkeys(lengths, np.inf)
    for _ in range(repeats):
        for k in lengths:
            begin = time.thread_time()
            router.route_many(texts[k])
            seconds[k] = min(seconds[k], time.thread_time() - begin)
    return [
        {"length": k, "tokens": sum(map(n_tokens, texts[k])), "seconds": seconds[k]}
        for k in lengths
    ]


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
    # The longest ones, so that what every query costs whatever its length does not hide it.
    fitting = [query for query in queries if 4 * (len(query) + 1) <= MAX_CHARACTERS]
    sizes = growth(router, n_tokens, sorted(fitting, key=len)[-_GROWTH_TEXTS:])
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
        _latency_table(times, len(short), words, source, router.artifact_id),
        _throughput_table(rates, sizes),
        process_table(cold, long),
        budget_table("Serving budgets", budgets, busy()),
    ]
    return Section("Serving", tables, data)


def _latency_table(
    times: Mapping[str, Times], n: int, words: float, source: str, artifact_id: str
) -> Table:
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
        f"Artifact {artifact_id}; {n:,} distinct queries of {words:.0f} words on average from "
        f"{source}, {_ROUNDS} rounds, each with a router that has seen only other texts. Floor: "
        "tokenize, mean of table rows."
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
