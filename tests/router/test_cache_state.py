"""CacheState: what is believed warm, learned from usages; bounded, shared, and wary of clocks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache_state import CacheState, Prefix, survival
from router.errors import InputError, LedgerError
from router.providers.caching import CachePolicy
from router.records import WarmPrefix
from router.usage import Usage

REPORTS = CachePolicy(1024, ttl_s=300, automatic=False, writes_reported=True)
SILENT = CachePolicy(1024, ttl_s=300, step_tokens=128)
N_SESSIONS = 1_000_000
CHAT = Prefix.of_session("chat", 2000)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Store:
    """A store that several states share."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], WarmPrefix] = {}
        self.down = False

    def load_warm(self, keys: Sequence[str]) -> list[WarmPrefix]:
        if self.down:
            raise LedgerError("the ledger is locked: try again.")
        return [entry for (key, _), entry in self.entries.items() if key in keys]

    def save_warm(self, entries: Sequence[WarmPrefix]) -> None:
        if self.down:
            raise LedgerError("the ledger is locked: try again.")
        self.entries.update({(entry.key, entry.tier): entry for entry in entries})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> CacheState:
    return CacheState(clock=clock)


def test_nothing_is_warm_at_first(state: CacheState) -> None:
    warmth = state.warmth(CHAT)
    assert warmth.tokens == {} and warmth.last_tier is None


def test_what_was_written_is_warm_until_its_time_is_over(state: CacheState, clock: Clock) -> None:
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    clock.now += 300
    assert state.warmth(CHAT).tokens == {"mid": 2000}
    clock.now += 0.1
    assert state.warmth(CHAT).tokens == {}


def test_a_hit_sets_the_time_back(state: CacheState, clock: Clock) -> None:
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    clock.now += 200
    state.observe("mid", CHAT, Usage(2200, 50, 2100, 100), REPORTS)
    clock.now += 299
    assert state.warmth(CHAT).tokens == {"mid": 2000}


def test_a_silent_cache_is_taken_at_its_rules(state: CacheState) -> None:
    state.observe("nano", CHAT, Usage(1500, 50), SILENT)
    assert state.warmth(CHAT).tokens == {"nano": 1408}  # 11 x 128
    state.observe("small", CHAT, Usage(1000, 50), SILENT)  # below the least length
    assert "small" not in state.warmth(CHAT).tokens


def test_a_cache_that_reports_that_it_wrote_nothing_is_cold(state: CacheState) -> None:
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    state.observe("mid", CHAT, Usage(2100, 50), REPORTS)
    assert state.warmth(CHAT).tokens == {}


@pytest.mark.parametrize(("usage", "policy"), [(None, REPORTS), (Usage(2100, 50, 0, 2100), None)])
def test_what_is_unknown_teaches_nothing(
    state: CacheState, usage: Usage | None, policy: CachePolicy | None
) -> None:
    state.observe("mid", CHAT, usage, policy)
    assert state.warmth(CHAT).tokens == {} and len(state) == 0


def test_tiers_are_warm_side_by_side_and_the_last_one_is_named(
    state: CacheState, clock: Clock
) -> None:
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    clock.now += 10
    state.observe("nano", CHAT, Usage(2100, 50), SILENT)
    assert state.warmth(CHAT).tokens == {"mid": 2000, "nano": 2000}
    assert state.warmth(CHAT).last_tier == "nano"


def test_of_a_chain_the_longest_warm_part_counts(state: CacheState) -> None:
    first = Prefix(("system",), (3000,), shared=True)
    state.observe("mid", first, Usage(3100, 50, 0, 3100), REPORTS, whole="system+u1")
    later = Prefix(("system", "system+u1", "system+u1+a1"), (3000, 3100, 3150), shared=True)
    assert state.warmth(later).tokens == {"mid": 3100}
    assert state.warmth(later).last_tier == "mid"
    # Another session shares the system prompt alone, and no tier has served it before.
    other = Prefix(("system", "system+v1"), (3000, 3200), shared=True)
    assert state.warmth(other).tokens == {"mid": 3000}
    assert state.warmth(other).last_tier is None


def test_how_far_beliefs_hold_is_learned(state: CacheState) -> None:
    assert state.hit_rate("mid") == pytest.approx(0.9)
    state.observe("mid", CHAT, Usage(2000, 50, 0, 2000), REPORTS)
    for _ in range(100):
        state.observe("mid", CHAT, Usage(2000, 50, 0, 2000), REPORTS)  # evicted every time
    assert state.hit_rate("mid") == pytest.approx(9 / 110)
    for _ in range(1_000):
        state.observe("mid", CHAT, Usage(2000, 50, 2000, 0), REPORTS)
    assert state.hit_rate("mid") > 0.95  # what was long ago weighs little
    assert state.hit_rate("nano") == pytest.approx(0.9)


def test_the_length_of_sessions_and_their_gaps_are_learned(state: CacheState, clock: Clock) -> None:
    assert (state.mean_turns, state.mean_gap_s) == (3.0, 60.0)
    for session in range(200):
        prefix = Prefix.of_session(f"s{session}", 2000)
        for _ in range(8):
            state.observe("mid", prefix, Usage(2100, 50, 0, 2100), REPORTS)
            clock.now += 20
    assert state.mean_turns == pytest.approx((1600 + 30) / 210)
    assert state.mean_gap_s == pytest.approx((1400 * 20 + 600) / 1410)


def test_a_clock_set_back_makes_nothing_warm_for_longer(state: CacheState, clock: Clock) -> None:
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    clock.now -= 3600
    assert state.warmth(CHAT).tokens == {}
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)  # by the new clock
    assert state.warmth(CHAT).tokens == {"mid": 2000}
    assert state.mean_gap_s == 60.0  # no gap of minus an hour
    clock.now += 7200
    assert state.warmth(CHAT).tokens == {}


def test_new_sessions_with_one_system_prompt_are_no_turns_of_each_other(
    state: CacheState, clock: Clock
) -> None:
    for number in range(300):
        prefix = Prefix(("system",), (3000,), shared=True, session=f"s{number}")
        assert state.warmth(prefix).last_tier is None
        state.observe("mid", prefix, Usage(3100, 50, 0, 3100), REPORTS, whole=f"u{number}")
        clock.now += 4
    assert state.mean_turns == pytest.approx(330 / 310)
    assert state.mean_gap_s == 60.0


def test_sessions_too_short_to_be_kept_are_sessions_all_the_same(
    state: CacheState, clock: Clock
) -> None:
    for session in range(50):
        for _ in range(10):
            prefix = Prefix.of_session(f"s{session}", 200)
            state.observe("nano", prefix, Usage(250, 50), SILENT)
            clock.now += 30
    assert state.mean_turns == pytest.approx((500 + 30) / 60)
    assert state.mean_gap_s == pytest.approx((450 * 30 + 600) / 460)


def test_a_conversation_without_a_name_is_known_by_its_own_keys(
    state: CacheState, clock: Clock
) -> None:
    state.observe(
        "mid", Prefix(("system",), (3000,), True), Usage(3100, 5, 0, 3100), REPORTS, whole="u1"
    )
    clock.now += 50
    later = Prefix(("system", "u1", "a1"), (3000, 3100, 3120), True)
    state.observe("mid", later, Usage(3200, 5, 3100, 100), REPORTS, whole="u2")
    assert state.mean_turns == pytest.approx(32 / 11)
    assert state.mean_gap_s == pytest.approx(650 / 11)


def test_what_was_found_cold_stays_cold_in_the_store_too(clock: Clock) -> None:
    store = Store()
    state = CacheState(store=store, clock=clock)
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    clock.now += 1
    state.observe("mid", CHAT, Usage(2100, 50), REPORTS)
    assert state.warmth(CHAT).tokens == {}
    assert CacheState(store=store, clock=clock).warmth(CHAT).tokens == {}


def test_a_prompt_that_kept_nothing_says_nothing_of_what_others_share(state: CacheState) -> None:
    shared = Prefix(("system",), (3000,), shared=True)
    state.observe("mid", shared, Usage(3100, 50, 0, 3100), REPORTS, whole="u1")
    state.observe("mid", shared, Usage(3100, 50), REPORTS, whole="u2")
    assert state.warmth(shared).tokens == {"mid": 3000}


def test_a_cache_that_hits_do_not_refresh_ends_when_it_ends(
    state: CacheState, clock: Clock
) -> None:
    fixed = CachePolicy(1024, ttl_s=300, automatic=False, refreshed_by_hits=False)
    state.observe("pro", CHAT, Usage(2100, 50), fixed)
    clock.now += 140
    state.observe("pro", CHAT, Usage(2100, 50, 2000), fixed)
    clock.now += 170
    assert state.warmth(CHAT).tokens == {}


@pytest.mark.slow
def test_memory_is_bounded_over_many_sessions(clock: Clock) -> None:
    state = CacheState(max_prefixes=1_000, clock=clock)
    for session in range(N_SESSIONS):
        state.observe(
            "mid", Prefix.of_session(str(session), 2000), Usage(2100, 5, 0, 2100), REPORTS
        )
    assert len(state) == 1_000
    assert state.warmth(Prefix.of_session(str(N_SESSIONS - 1), 2000)).tokens == {"mid": 2000}
    assert state.warmth(Prefix.of_session("0", 2000)).tokens == {}


def test_threads_share_a_state(clock: Clock) -> None:
    state = CacheState(max_prefixes=50, clock=clock)

    def work(thread: int) -> None:
        for i in range(300):
            prefix = Prefix.of_session(f"s{(thread + i) % 80}", 2000)
            state.observe(f"t{thread}", prefix, Usage(2100, 5, 0, 2100), REPORTS)
            for tokens in state.warmth(prefix).tokens.values():
                assert tokens == 2000

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(state) <= 50
    assert state.mean_turns >= 1.0


def test_processes_share_through_a_store(clock: Clock) -> None:
    store = Store()
    one, other = CacheState(store=store, clock=clock), CacheState(store=store, clock=clock)
    one.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    assert other.warmth(CHAT).tokens == {"mid": 2000}
    clock.now += 100
    other.observe("mid", CHAT, Usage(2200, 50, 2100, 100), REPORTS)
    clock.now += 250  # what the first process wrote itself is older than its time to live
    assert one.warmth(CHAT).tokens == {"mid": 2000}


def test_a_store_that_is_down_is_said_once_and_does_without(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    state = CacheState(store=store, clock=clock)
    store.down = True
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
            assert state.warmth(CHAT).tokens == {"mid": 2000}
    assert len(caplog.records) == 1
    store.down = False
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    assert store.entries == {}  # it is left alone for a while: a lock costs seconds
    clock.now += 61
    state.observe("mid", CHAT, Usage(2100, 50, 0, 2100), REPORTS)
    assert list(store.entries) == [("session:chat", "mid")]


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [((), ()), (("a",), ()), (("a", "b"), (5, 3)), (("a",), (-1,)), (("a",), (1.5,))],
)
def test_what_is_no_prefix_is_refused(keys: tuple[str, ...], tokens: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected a prefix"):
        Prefix(keys, tokens)


@pytest.mark.parametrize("name", ["", None, 7])
def test_what_is_no_session_is_refused(name: object) -> None:
    with pytest.raises(InputError, match="session's name"):
        Prefix.of_session(name, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match="at least one prefix"):
        CacheState(max_prefixes=size)  # type: ignore[arg-type]


@given(st.floats(1, 1e5), st.floats(1, 1e5))
def test_survival_is_a_probability_and_falls_with_gaps(ttl_s: float, gap_s: float) -> None:
    one, two = survival(ttl_s, gap_s), survival(ttl_s, gap_s, 2)
    assert 0.0 <= two <= one <= 1.0
    assert one == pytest.approx(1 - math.exp(-ttl_s / gap_s))
