"""Records to fill ledgers with, plain and at random."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

from router.records import AttemptRecord, RequestRecord
from router.usage import Usage

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIERS = {"nano": "gpt-nano", "mid": "claude-mid", "frontier": "gemini-frontier"}


def decision(tier: str = "nano", propensity: float = 0.75, **facts: Any) -> dict[str, Any]:
    return {
        "tier": tier,
        "model": TIERS.get(tier, tier),
        "propensity": propensity,
        "reason": "policy",
        "artifact_id": "a1",
        **facts,
    }


def request(request_id: str = "r1", **facts: Any) -> RequestRecord:
    tier = facts.pop("tier", "nano")
    given = {
        "at": NOON,
        "decision": decision(tier),
        "query": f"what is {request_id}?",
        "baseline_tier": "frontier",
        "baseline_nanousd": 1_000_000,
        "done": True,
    } | facts
    return RequestRecord(request_id, **given)


def attempt(number: int = 1, tier: str = "nano", **facts: Any) -> AttemptRecord:
    given = {
        "provider": "openai",
        "model": TIERS.get(tier, tier),
        "at": NOON + timedelta(seconds=number),
        "role": "routed" if number == 1 else "escalation",
        "status": "answered",
        "latency_s": 0.5,
        "usage": Usage(input_tokens=100, output_tokens=20),
        "cost_nanousd": 10_000,
        "uncached_nanousd": 12_000,
        "standard_nanousd": 20_000,
        "served": True,
    } | facts
    return AttemptRecord(attempt=number, tier=tier, **given)


def many(
    n: int, *, seed: int = 0, sessions: int = 0, start: int = 0
) -> list[tuple[RequestRecord, list[AttemptRecord]]]:
    """Requests of a few days with one to three attempts each; everything is known of them."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(start, start + n):
        k = 1 + int(rng.random() < 0.2) + int(rng.random() < 0.05)
        tiers = list(TIERS)[:k] if k > 1 else [list(TIERS)[int(rng.integers(3))]]
        attempts = []
        for number, tier in enumerate(tiers, start=1):
            standard = int(rng.integers(0, 10**6))
            uncached = standard // int(rng.integers(1, 3))
            cost = int(uncached * rng.uniform(0.2, 1.1))
            attempts.append(
                attempt(
                    number,
                    tier,
                    status="answered" if number == k else "rejected",
                    served=number == k,
                    standard_nanousd=standard,
                    uncached_nanousd=uncached,
                    cost_nanousd=cost,
                    latency_s=float(rng.uniform(0, 3)),
                )
            )
        record = request(
            f"r{i:07d}",
            tier=tiers[0],
            at=NOON + timedelta(minutes=i),
            session_id=f"s{i % sessions}" if sessions else None,
            baseline_nanousd=int(rng.integers(0, 3 * 10**6)),
            baseline_measured=bool(rng.random() < 0.3),
            exploration_nanousd=int(rng.integers(-1000, 1000)),
        )
        found.append((record, attempts))
    return found


_money = st.one_of(st.none(), st.integers(0, 10**12))
_usage = st.one_of(
    st.none(),
    st.builds(
        lambda fresh, read, written, hour, out: Usage(
            fresh + read + written, out, read, written, min(hour, written), out // 2
        ),
        *[st.integers(0, 10**6)] * 5,
    ),
)


def attempts_of(numbers: list[int]) -> st.SearchStrategy[list[AttemptRecord]]:
    """Attempts of these numbers, with anything unknown."""
    one = {
        n: st.builds(
            attempt,
            st.just(n),
            st.sampled_from(list(TIERS)),
            role=st.sampled_from(["routed", "escalation", "fallback", "retry"]),
            status=st.sampled_from(["answered", "rejected", "outage", "timeout"]),
            usage=_usage,
            cost_nanousd=_money,
            uncached_nanousd=_money,
            standard_nanousd=_money,
            served=st.booleans(),
        )
        for n in numbers
    }
    return st.tuples(*one.values()).map(list)


@st.composite
def any_records(draw: st.DrawFn) -> list[tuple[RequestRecord, list[AttemptRecord]]]:
    """A few requests in any state, of any number of attempts, with anything unknown."""
    found = []
    for i in range(draw(st.integers(0, 6))):
        first = draw(st.sampled_from([1, 1, 1, 2]))
        numbers = list(range(first, first + draw(st.integers(0, 4))))
        record = request(
            f"r{i}",
            at=NOON + timedelta(hours=draw(st.integers(-100, 100))),
            session_id=draw(st.sampled_from([None, "s1", "s2"])),
            baseline_nanousd=draw(_money),
            baseline_measured=draw(st.booleans()),
            exploration_nanousd=draw(st.integers(-(10**9), 10**9)),
            done=draw(st.sampled_from([True, True, False])),
        )
        found.append((record, draw(attempts_of(numbers))))
    return found
