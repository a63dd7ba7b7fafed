"""A simulated day of conversations: what routing and prompt caching save together, and apart.

Sessions arrive at random, their turns minutes or seconds apart; every prompt is the system prompt
that all share, the conversation so far, and a new query. Queries, success and answer lengths come
from a world with known truth (``training.synthetic``); prompt caches behave as their providers
document them: minimum lengths, times to live that hits refresh, prices of reading and writing. A
small share of what should be warm is gone all the same. Everybody meets the same traffic.

Everything is compared at one success rate, that of the strongest tier less five points: what
reads queries is swept over its success value on days of their own, and takes from there the value
that reaches the rate; the coin-flip takes its share from the same days.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.results import Say, Section, Table
from router.cache_state import CacheState, Prefix
from router.policy import Policy, cheapest_mix
from router.prices import PriceBook, TierPrice
from router.providers.caching import CachePolicy, cache_policy
from router.routing import Router
from router.tiers import Tier, TierSet
from router.usage import Usage
from training.pipeline import train
from training.synthetic import SyntheticOutcomes, make_world, sample

FloatArray = npt.NDArray[np.float64]

N_TRAIN, N_QUERIES = 4_000, 6_000
# Of the gaps between turns a tenth are pauses.
GAP_S, PAUSE_S, PAUSE_SHARE = 45.0, 1_200.0, 0.1
EVICTED_SHARE = 0.03
MARGIN = 0.05
TUNING_DAYS, TEST_DAYS = 2, 5
_DAY_S = 86_400.0
_VALUES = 12
# Success values of our curve, as multiples of the one that reaches the target.
_CURVE = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 6.0, 20.0, 1000.0)

TIERS = TierSet(
    [
        Tier("nano", "openai", "gpt-5-nano", (), 0.05, 0.005, 0.40),
        Tier("mid", "anthropic", "claude-haiku-4-5", (), 1.0, 0.10, 5.0, None, frozenset(), 1.25),
        Tier("top", "anthropic", "claude-sonnet-4-6", (), 3.0, 0.30, 15.0, None, frozenset(), 3.75),
    ]
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What sessions are like; ``turn_tokens`` is what tools and files add to each turn."""

    name: str
    n_sessions: int
    mean_turns: float
    system_tokens: int
    turn_tokens: int


TRAFFIC = (
    Traffic("chat", 600, 6.0, 5_000, 400),
    Traffic("agent", 250, 15.0, 12_000, 1_500),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session: when, which query, how many tokens stand before it."""

    at_s: float
    session: int
    row: int
    position: int


class ProviderCaches:
    """What the providers really hold; nobody who routes may look."""

    def __init__(
        self, policies: Sequence[CachePolicy], system_tokens: int, rng: np.random.Generator
    ) -> None:
        self._policies, self._system_tokens, self._rng = policies, system_tokens, rng
        self._held: dict[tuple[int, int], tuple[int, float]] = {}

    def answer(self, tier: int, session: int, now: float, n_tokens: int) -> tuple[int, int]:
        """Tokens read from and written to the cache by a prompt of ``n_tokens``."""
        policy, read = self._policies[tier], 0
        for key in (session, -1):  # -1: the system prompt
            tokens, used = self._held.get((tier, key), (0, -np.inf))
            if now - used <= policy.ttl_s and self._rng.random() >= EVICTED_SHARE:
                read = max(read, min(tokens, policy.cacheable_tokens(n_tokens)))
        cached = policy.cacheable_tokens(n_tokens)
        if cached:
            self._held[tier, session] = cached, now
        system = policy.cacheable_tokens(self._system_tokens)
        if system:
            self._held[tier, -1] = system, now
        return read, cached - read if policy.writes_reported else 0


@dataclass(frozen=True, slots=True)
class Day:
    """Traffic of one day over the queries of one world."""

    traffic: Traffic
    turns: tuple[Turn, ...]
    seed: int


def make_day(traffic: Traffic, outcomes: SyntheticOutcomes, seed: int) -> Day:
    """Sessions over a day; most of a session's queries are of one task."""
    rng = np.random.default_rng([41, seed])
    task = np.array([query.task for query in outcomes.queries])
    by_task = [np.flatnonzero(task == name) for name in np.unique(task)]
    turns = []
    for session in range(traffic.n_sessions):
        now = rng.random() * _DAY_S
        own = by_task[rng.integers(len(by_task))]
        for position in range(rng.geometric(1.0 / traffic.mean_turns)):
            rows = own if rng.random() < 0.7 else np.arange(len(task))
            turns.append(Turn(now, session, int(rng.choice(rows)), position))
            now += rng.exponential(PAUSE_S if rng.random() < PAUSE_SHARE else GAP_S)
    return Day(traffic, tuple(sorted(turns, key=lambda turn: turn.at_s)), seed)


@dataclass(slots=True)
class Context:
    """What a chooser may know of a turn."""

    query: str
    row: int
    session: str
    position: int
    prefix: Prefix


Choose = Callable[[Context], int]
Learn = Callable[[int, Context, Usage], None]


def play(
    day: Day,
    outcomes: SyntheticOutcomes,
    prices: Sequence[TierPrice],
    choose: Choose,
    learn: Learn | None = None,
    *,
    clock: list[float] | None = None,
    cached: bool = True,
) -> tuple[float, float, FloatArray]:
    """(success rate, dollars a day, share of each tier) of one way to choose."""
    policies = [_policy(tier) for tier in TIERS]
    system = day.traffic.system_tokens
    caches = ProviderCaches(policies, system, np.random.default_rng([43, day.seed]))
    history: dict[int, int] = {}
    success = cost = 0.0
    shares = np.zeros(len(TIERS))
    for turn in day.turns:
        if clock is not None:
            clock[0] = turn.at_s
        before = system + history.get(turn.session, 0)
        name = f"s{turn.session}"
        # As the client sees it: the first turn has nothing of its own before its question.
        keys = ("system", name) if turn.position else ("system",)
        tokens = (system, before) if turn.position else (system,)
        prefix = Prefix(keys, tokens, shared=True, session=name)
        query = outcomes.queries[turn.row]
        seen = Context(query.text, turn.row, name, turn.position, prefix)
        tier = choose(seen)
        n_input = before + query.input_tokens
        n_output = int(outcomes.table.output_tokens[turn.row, tier])
        read, written = (0, 0)
        if cached:
            read, written = caches.answer(tier, turn.session, turn.at_s, n_input)
        usage = Usage(n_input, n_output, read, written)
        cost += float(prices[tier].cost_usd(n_input, n_output, read, written))
        success += float(outcomes.p_success[turn.row, tier])
        shares[tier] += 1
        history[turn.session] = n_input - system + n_output + day.traffic.turn_tokens
        if learn is not None:
            learn(tier, seen, usage)
    return success / len(day.turns), cost, shares / len(day.turns)


def _policy(tier: Tier) -> CachePolicy:
    found = cache_policy(tier.provider, tier.model)
    assert found is not None
    return found


def valued(router: Router, value: float | None, clock: list[float]) -> Router:
    """The router with a success value in place of its policy (None: as it was trained)."""
    other = copy.copy(router)
    other._settled = other
    other._caching = {}
    other.cache_state = CacheState(clock=lambda: clock[0])
    if value is not None:
        policy = router.policy
        other.policy = Policy("value", value, policy.safe_tier, policy.strongest)
        other.certificate, other._certified = None, False
    return other


def blind(router: Router) -> Choose:
    """The tier that the router takes without knowing of caches."""
    return lambda seen: router.tiers.index(router.route(seen.query).tier)


def sticky(router: Router) -> Choose:
    """The tier of the first turn, for the whole session."""
    kept: dict[str, int] = {}

    def choose(seen: Context) -> int:
        if seen.session not in kept:
            kept[seen.session] = router.tiers.index(router.route(seen.query).tier)
        return kept[seen.session]

    return choose


def aware(router: Router) -> tuple[Choose, Learn]:
    """Our routing by price and cache, which learns from the usages."""
    policies = [_policy(tier) for tier in router.tiers]

    def choose(seen: Context) -> int:
        decision = router.route(seen.query, session=seen.session, prefix=seen.prefix)
        return router.tiers.index(decision.tier)

    def learn(tier: int, seen: Context, usage: Usage) -> None:
        router.cache_state.observe(
            router.tiers[tier].name, seen.prefix, usage, policies[tier], whole=seen.session
        )

    return choose, learn


def coin_flip(low: int, high: int, share_high: float, seed: int) -> Choose:
    """Every session is thrown to one of two tiers, for good: the coin-flip that keeps caches."""
    rng = np.random.default_rng([47, seed])
    kept: dict[str, int] = {}

    def choose(seen: Context) -> int:
        if seen.session not in kept:
            kept[seen.session] = high if rng.random() < share_high else low
        return kept[seen.session]

    return choose


def measure(say: Say, seed: int = 0) -> Section:
    """A table for each kind of traffic."""
    world = make_world(tiers=TIERS, seed=seed, spanish_share=0.0)
    say("a day of conversations: training a router")
    trained = sample(world, N_TRAIN, seed=seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "router"
        train(trained.table, out, track=False, synthetic=True, seed=seed)
        router = Router.load(out)
    outcomes = sample(world, N_QUERIES, seed=seed + 2)
    found = [_measured(traffic, router, outcomes, say, seed) for traffic in TRAFFIC]
    return Section(
        "Caching",
        [table for table, _ in found],
        {traffic.name: data for traffic, (_, data) in zip(TRAFFIC, found, strict=True)},
    )


def _measured(
    traffic: Traffic, router: Router, outcomes: SyntheticOutcomes, say: Say, seed: int
) -> tuple[Table, dict[str, Any]]:
    prices = [PriceBook().price(tier) for tier in TIERS]
    days = [
        make_day(traffic, outcomes, 1_000 + seed * 100 + i) for i in range(TUNING_DAYS + TEST_DAYS)
    ]
    tuning, testing = days[:TUNING_DAYS], days[TUNING_DAYS:]
    clock = [0.0]

    def run(kind: str, value: float | None, day: Day) -> tuple[float, float, FloatArray]:
        own = valued(router, value, clock)
        if kind == "aware":
            return play(day, outcomes, prices, *aware(own), clock=clock)
        chooser = blind(own) if kind == "blind" else sticky(own)
        return play(day, outcomes, prices, chooser)

    single = np.array(
        [
            np.mean(
                [play(d, outcomes, prices, lambda _, t=t: t)[:2] for d in tuning],  # type: ignore[misc]
                axis=0,
            )
            for t in range(len(TIERS))
        ]
    )
    target = float(single[:, 0].max()) - MARGIN
    mix = cheapest_mix(single[:, 1], single[:, 0], target)
    strongest = int(single[:, 0].argmax())
    values: dict[str, float] = {}
    grid = np.geomspace(2e-4, 1.0, _VALUES)
    for kind in ("blind", "sticky", "aware"):
        say(f"a day of {traffic.name}: the success value of {kind} routing")
        low, high = 0, len(grid) - 1
        while low < high:  # the success rate grows with the value
            middle = (low + high) // 2
            rate = np.mean([run(kind, float(grid[middle]), d)[0] for d in tuning])
            low, high = (low, middle) if rate >= target else (middle + 1, high)
        values[kind] = _refined(
            lambda v, kind=kind: float(np.mean([run(kind, v, d)[0] for d in tuning])),  # type: ignore[misc]
            float(grid[max(low - 1, 0)]),
            float(grid[low]),
            target,
        )
    say(f"a day of {traffic.name}: test days")
    ways: list[tuple[str, Callable[[Day], tuple[float, float, FloatArray]]]] = [
        (
            "(a) always the strongest tier, no cache",
            lambda d: play(d, outcomes, prices, lambda _: strongest, cached=False),
        ),
        (
            "(b) always the strongest tier, cached",
            lambda d: play(d, outcomes, prices, lambda _: strongest),
        ),
        (
            "(b') coin-flip of sessions between tiers, cached",
            lambda d: play(
                d, outcomes, prices, coin_flip(mix.low, mix.high, mix.share_high, d.seed)
            ),
        ),
        ("(c) routing blind to the cache", lambda d: run("blind", values["blind"], d)),
        ("(d) sticky sessions", lambda d: run("sticky", values["sticky"], d)),
        ("(e) cache-aware routing", lambda d: run("aware", values["aware"], d)),
        ("as trained, blind", lambda d: run("blind", None, d)),
        ("as trained, cache-aware above the floor", lambda d: run("aware", None, d)),
    ]
    found = {name: [way(day) for day in testing] for name, way in ways}
    say(f"a day of {traffic.name}: our curve on the test days")
    curves = [[run("aware", values["aware"] * step, day)[:2] for step in _CURVE] for day in testing]
    rows = []
    for name, each in found.items():
        ratio = np.array([c / _at(curve, s) for (s, c, _), curve in zip(each, curves, strict=True)])
        rows.append(
            (
                name,
                f"{np.mean([s for s, _, _ in each]):.3f}",
                f"{np.mean([c for _, c, _ in each]):.2f}",
                f"{ratio.mean():.3f} ({ratio.std(ddof=1):.3f})",
                " ".join(f"{100 * x:.0f}" for x in np.mean([x for _, _, x in each], axis=0)),
            )
        )
    n_turns = np.mean([len(day.turns) for day in testing])
    kind = (
        f"Mean of {TEST_DAYS} days of {traffic.n_sessions} sessions, {n_turns:.0f} turns; system "
        f"prompt {traffic.system_tokens:,} tokens, {traffic.turn_tokens:,} tokens a turn on top of "
        "query and answer."
    )
    asked = f"Success asked of (b') to (e): {target:.3f}, set on {TUNING_DAYS} other days."
    over = (
        "Cost over that of (e) at the way's own success rate, which (e) reaches at another success "
        "value: read off its curve on the same day. In brackets the standard deviation over days."
    )
    notes = (kind, asked, over)
    columns = ("way", "success", "$ a day", "cost over (e) there", "% of turns to nano mid top")
    table = Table(f"A day of conversations: {traffic.name}", columns, rows, notes)
    ways_found = {
        name: [{"success": s, "cost_usd": c} for s, c, _ in each] for name, each in found.items()
    }
    return table, {"target": target, "values": values, "ways": ways_found}


def _at(curve: Sequence[tuple[float, float]], success: float) -> float:
    """Dollars of our curve where it reaches a success rate; its dearest point beyond its end."""
    ordered = sorted(curve)
    return float(np.interp(success, [s for s, _ in ordered], [c for _, c in ordered]))


def _refined(
    rate: Callable[[float], float], low: float, high: float, target: float, steps: int = 4
) -> float:
    """The least value, to a few percent, that reaches the target."""
    for _ in range(steps):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if rate(middle) >= target else (middle, high)
    return high
