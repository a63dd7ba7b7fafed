"""Reports: every sum against plain Python, and a saving that adds up to the last nanodollar."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from router.errors import InputError
from router.ledger import Ledger, LedgerEntry
from router.ledger.report import Report, report
from router.savings import MIN_CLUSTERS, Savings, _student, discount_interval
from router.since import parse_since
from tests import postgres
from tests.ledgers import NOON, any_records, attempt, many, request

FRESH = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def fresh(ledger_url: str) -> Callable[[], Ledger]:
    """A ledger that is emptied whenever it is opened."""

    def opened() -> Ledger:
        ledger = Ledger(ledger_url)
        with ledger.engine.writing() as connection:
            for table in ("cps_requests", "cps_attempts", "cps_feedback"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
        return ledger

    return opened


def why_left_out(entry: LedgerEntry) -> str | None:
    request, attempts = entry.request, entry.attempts
    if not request.done:
        return "not finished"
    if not attempts:
        return "no attempt"
    if not any(a.served for a in attempts):
        return "no answer was served"
    if attempts[0].attempt != 1:
        return "its first attempt is missing"
    if any(a.cost_nanousd is None for a in attempts):
        return "the cost of an attempt is unknown"
    if any(a.uncached_nanousd is None or a.standard_nanousd is None for a in attempts):
        return "the cost of an attempt without cache or batch is unknown"
    return "the baseline is unknown" if request.baseline_nanousd is None else None


def in_python(entries: list[LedgerEntry]) -> dict[str, Any]:
    """The savings and totals, by the formulas as they are written."""
    whole = [e for e in entries if why_left_out(e) is None]
    attempts = [a for e in whole for a in e.attempts]
    further = Counter({"escalation": 0, "fallback": 0, "retry": 0, "failed": 0})
    own = 0
    for e in whole:
        answers = [a for a in e.attempts if a.served or a.status in ("answered", "rejected")]
        own += answers[0].standard_nanousd or 0
        for a in e.attempts:
            if a is not answers[0]:
                known = a.role if a.role in further else "other"
                kind = known if a in answers else "failed"
                further[kind] += a.standard_nanousd or 0
    baseline = sum(e.request.baseline_nanousd or 0 for e in whole)
    exploration = sum(e.request.exploration_nanousd for e in whole)
    return {
        "n_requests": len(whole),
        "baseline": baseline,
        "cost": sum(a.cost_nanousd or 0 for a in attempts),
        "cache": sum((a.uncached_nanousd or 0) - (a.cost_nanousd or 0) for a in attempts),
        "batch": sum((a.standard_nanousd or 0) - (a.uncached_nanousd or 0) for a in attempts),
        "escalation": sum(further.values()),
        "by_role": {kind: usd for kind, usd in further.items() if kind != "other" or usd},
        "exploration": exploration,
        "routing": baseline - (own - exploration),
        "n_measured": sum(e.request.baseline_measured for e in whole),
        "left_out": Counter(why for e in entries if (why := why_left_out(e)) is not None),
    }


def as_reported(found: Report) -> dict[str, Any]:
    s = found.savings
    return {
        "n_requests": s.n_requests,
        "baseline": s.baseline_nanousd,
        "cost": s.cost_nanousd,
        "cache": s.cache_nanousd,
        "batch": s.batch_nanousd,
        "escalation": s.escalation_nanousd,
        "by_role": s.further_nanousd,
        "exploration": s.exploration_nanousd,
        "routing": s.routing_nanousd,
        "n_measured": s.n_measured,
        "left_out": found.left_out,
    }


def adds_up(s: Savings) -> bool:
    return s.baseline_nanousd == (
        s.cost_nanousd + s.cache_nanousd + s.routing_nanousd + s.batch_nanousd
        - s.escalation_nanousd - s.exploration_nanousd
    )  # fmt: skip


@FRESH
@given(records=any_records(), verdicts=st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1))))
def test_any_ledger_adds_up_and_agrees_with_python(
    fresh: Callable[[], Ledger], records: list[Any], verdicts: list[tuple[int, float]]
) -> None:
    with fresh() as ledger:
        ledger.record_many(records)
        for number, (which, success) in enumerate(verdicts):
            at = NOON + timedelta(hours=number % 3)
            ledger.feedback(f"r{which}", success, source=f"s{number % 2}", at=at)
        entries = list(ledger.requests())
        found = report(ledger)
    assert adds_up(found.savings)
    assert as_reported(found) == in_python(entries)
    check_groups(found, entries)


def check_groups(found: Report, entries: list[LedgerEntry]) -> None:
    expected: dict[tuple[str, str, str], dict[str, float]] = {}
    for entry in entries:
        for a in entry.attempts:
            key = (entry.request.at.date().isoformat(), a.model, a.tier)
            sums = expected.setdefault(key, Counter())  # type: ignore[arg-type]
            success = entry.success_of(a)
            sums["n_attempts"] += 1
            sums["n_requests"] += a.served
            sums["n_unknown_cost"] += a.cost_nanousd is None
            sums["cost_nanousd"] += a.cost_nanousd or 0
            sums["n_answers"] += a.served or a.status == "rejected"
            is_answer = a.served or a.status in ("answered", "rejected")
            if not is_answer and entry.feedback and (a.cost_nanousd or 0) > 0:
                sums["n_cps"] += 1
                sums["cps_cost_nanousd"] += a.cost_nanousd or 0
            if success is not None:
                sums["n_known"] += 1
                sums["successes"] += success
                if a.cost_nanousd is not None:
                    sums["n_cps"] += 1
                    sums["cps_cost_nanousd"] += a.cost_nanousd
                    sums["cps_successes"] += success
    keys = [(g.key["day"], g.key["model"], g.key["tier"]) for g in found.groups]
    assert sorted(keys) == sorted(expected)
    for key, group in zip(keys, found.groups, strict=True):
        for name in dataclasses.asdict(group):
            if name != "key":
                assert getattr(group, name) == pytest.approx(expected[key].get(name, 0)), name
    total = found.total
    assert total.n_requests == len(entries)
    assert total.cost_nanousd == sum(group.cost_nanousd for group in found.groups)
    assert total.n_unknown_cost == sum(group.n_unknown_cost for group in found.groups)
    rated = [(e, e.success) for e in entries if e.success is not None]
    assert total.n_known == len(rated)
    assert total.successes == pytest.approx(sum(success for _, success in rated))
    priced = [(e, s) for e, s in rated if all(a.cost_nanousd is not None for a in e.attempts)]
    assert total.n_cps == len(priced)
    assert total.cps_cost_nanousd == sum(a.cost_nanousd or 0 for e, _ in priced for a in e.attempts)


def test_an_example_by_hand(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        # Always the strongest tier would have cost 1.00; tried nano for 0.10 (0.04 of it saved by
        # the cache), then mid for 0.30 by batch at half the price.
        ledger.record(
            request(baseline_nanousd=1_000_000_000, exploration_nanousd=20_000_000),
            [
                attempt(
                    status="rejected", served=False,
                    cost_nanousd=60_000_000, uncached_nanousd=100_000_000,
                    standard_nanousd=100_000_000,
                ),
                attempt(
                    2, "mid", batch=True,
                    cost_nanousd=150_000_000, uncached_nanousd=150_000_000,
                    standard_nanousd=300_000_000,
                ),
            ],
        )  # fmt: skip
        found = report(ledger).savings
    assert found.cost_nanousd == 210_000_000
    assert found.cache_nanousd == 40_000_000
    assert found.batch_nanousd == 150_000_000
    assert found.escalation_nanousd == 300_000_000
    assert found.exploration_nanousd == 20_000_000
    assert found.routing_nanousd == 920_000_000
    assert found.discount == pytest.approx(0.79)
    assert adds_up(found)


FREE: dict[str, Any] = {
    "served": False,
    "usage": None,
    "cost_nanousd": 0,
    "uncached_nanousd": 0,
    "standard_nanousd": 0,
}


def paid(number: int, tier: str, nanousd: int, **facts: Any) -> Any:
    same = dict.fromkeys(("cost_nanousd", "uncached_nanousd", "standard_nanousd"), nanousd)
    return attempt(number, tier, **{**same, **facts})


def test_what_nobody_answered_was_not_saved(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        for number in range(30):
            attempts = [
                attempt(status="outage", **FREE),
                attempt(2, "mid", status="outage", **FREE),
            ]
            ledger.record(request(f"r{number}"), attempts)
        found = report(ledger)
    assert found.left_out == {"no answer was served": 30}
    assert found.savings.discount is None and found.savings.saved_nanousd == 0


# Always the strongest tier would have cost 1,000: attempts, what routing saved, and what else was
# paid for.
MEANINGS: dict[str, tuple[list[Any], int, dict[str, int]]] = {
    "at once": ([paid(1, "nano", 100)], 900, {}),
    "a free failure, tried again": (
        [attempt(status="rate-limit", **FREE), paid(2, "nano", 100, role="retry")],
        900,
        {},
    ),
    "a free failure, another tier stood in: it saved what that one was cheaper": (
        [attempt(status="outage", **FREE), paid(2, "mid", 300, role="fallback")],
        700,
        {},
    ),
    "a free failure, a dearer tier stood in": (
        [attempt(status="outage", **FREE), paid(2, "frontier", 1200, role="fallback")],
        -200,
        {},
    ),
    "a batch that expired, and a row that ran again": (
        [attempt(status="expired", batch=True, **FREE), paid(2, "nano", 100, role="retry")],
        900,
        {},
    ),
    "a failure that was charged for, tried again": (
        [paid(1, "nano", 40, status="cut", served=False), paid(2, "nano", 100, role="retry")],
        900,
        {"failed": 40},
    ),
    "a rejected answer": (
        [
            attempt(status="rate-limit", **FREE),
            paid(2, "nano", 100, role="retry", status="rejected", served=False),
            paid(3, "mid", 300),
        ],
        900,
        {"escalation": 300},
    ),
    "a rejected answer, and the next tier was down": (
        [
            paid(1, "nano", 100, status="rejected", served=False),
            paid(2, "mid", 30, status="cut", served=False),
            paid(3, "frontier", 1000, role="fallback"),
        ],
        900,
        {"failed": 30, "fallback": 1000},
    ),
    "nothing after a rejected answer": (
        [paid(1, "nano", 100, status="rejected"), attempt(2, "mid", status="outage", **FREE)],
        900,
        {},
    ),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_the_parts_mean_what_they_say(case: str, fresh: Callable[[], Ledger]) -> None:
    attempts, routing, further = MEANINGS[case]
    with fresh() as ledger:
        ledger.record(request(baseline_nanousd=1000), attempts)
        found = report(ledger).savings
    assert found.routing_nanousd == routing
    assert {kind: usd for kind, usd in found.further_nanousd.items() if usd} == further
    assert adds_up(found)


def test_feedback_without_a_request_is_looked_for_by_a_join(
    postgres_server: postgres.Server,
) -> None:
    """A plan for each feedback through all requests would never end where there are many."""
    from router.ledger import sums as ledger_sums

    with Ledger(postgres_server.new_database()) as ledger:
        ledger.record_many((request(f"r{i}"), []) for i in range(5000))
        with ledger.engine.writing() as connection:
            connection.exec_driver_sql(
                "INSERT INTO cps_feedback SELECT request_id, 'user', at_us, 1, NULL "
                "FROM cps_requests"
            )
            connection.exec_driver_sql("ANALYZE cps_requests, cps_feedback")
            connection.exec_driver_sql("SET LOCAL work_mem = '64kB'")
            statement = ledger_sums.orphans().compile(dialect=connection.dialect)
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", statement.params).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Anti Join" in plan and "SubPlan" not in plan


def test_an_unknown_cost_is_counted_and_never_free(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        ledger.record(request("known"), [attempt(cost_nanousd=100)])
        ledger.record(request("unknown"), [attempt(usage=None, cost_nanousd=None)])
        ledger.feedback("known", True)
        ledger.feedback("unknown", True)
        found = report(ledger, by=["tier"])
    (group,) = found.groups
    assert (group.n_requests, group.n_known, group.successes) == (2, 2, 2.0)
    assert (group.cost_nanousd, group.n_unknown_cost) == (100, 1)
    # Two successes for the price of one would be too good.
    assert group.to_dict()["cps_usd"] == found.total.to_dict()["cps_usd"] == 100 / 1e9
    assert found.left_out == {"the cost of an attempt is unknown": 1}


def test_a_rejected_attempt_failed_where_its_request_was_rated(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        for name in ("rated", "unrated"):
            rejected = attempt(status="rejected", served=False)
            ledger.record(request(name), [rejected, attempt(2, "mid")])
        ledger.feedback("rated", True)
        nano, mid = sorted(report(ledger, by=["tier"]).groups, key=lambda g: g.key["tier"] == "mid")
    assert (nano.n_answers, nano.n_known, nano.successes) == (2, 1, 0.0)
    assert (mid.n_answers, mid.n_known, mid.successes) == (2, 1, 1.0)
    assert nano.to_dict()["cps_is_infinite"] is True and nano.to_dict()["cps_usd"] is None


def test_since_and_the_dimensions(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        ledger.record_many(many(300))
        everything = report(ledger, by=["day"])
        assert [g.key["day"] for g in everything.groups] == ["2026-03-01"]
        late = report(ledger, by=["day", "tier"], since=NOON + timedelta(minutes=290))
        assert late.total.n_requests == 10 and late.savings.n_requests == 10
        assert sum(g.n_requests for g in late.groups) == 10
        assert {tuple(g.key) for g in late.groups} == {("day", "tier")}
        (all_of_it,) = report(ledger, by=[]).groups
        assert all_of_it.cost_nanousd == everything.total.cost_nanousd
        empty = report(ledger, since=NOON + timedelta(days=9))
        assert empty.groups == [] and empty.savings == Savings(
            further_nanousd=empty.savings.further_nanousd
        )
        assert empty.interval is None and empty.savings.discount is None
        for by in (["hour"], ["day", "day"]):
            with pytest.raises(InputError, match="expected to report by"):
                report(ledger, by=by)
        for confidence in (0.0, 1.0, 1 - 1e-12, math.nan):
            with pytest.raises(InputError, match="confidence"):
                report(ledger, confidence=confidence)


def test_feedback_without_a_request_is_counted(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        ledger.feedback("nobody", True)
        ledger.feedback("nobody", True, source="judge")
        assert report(ledger).total.n_feedback_without_request == 1
        ledger.record(request("nobody"), [attempt()])
        assert report(ledger).total.n_feedback_without_request == 0


def test_the_clusters_are_sessions(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        ledger.record_many(many(400, sessions=40))
        found = report(ledger)
        sessions: dict[str | None, np.ndarray] = {}
        for entry in ledger.requests():
            sums = sessions.setdefault(entry.request.session_id, np.zeros(2))
            sums += sum(a.cost_nanousd or 0 for a in entry.attempts), entry.request.baseline_nanousd
        cost, baseline = np.array(list(sessions.values())).T
        ratio = cost.sum() / baseline.sum()
        error = math.sqrt(40 / 39 * ((cost - ratio * baseline) ** 2).sum()) / baseline.sum()
        reach = student.ppf(0.975, 39) * error
        assert found.n_clusters == 40
        assert found.interval == pytest.approx((1 - ratio - reach, 1 - ratio + reach))
        # Requests of no session are each their own, also where an id looks like a session's name.
        ledger.record(request("s1", session_id=None), [attempt()])
        assert report(ledger).n_clusters == 41


def test_reports_and_reading_take_memory_that_does_not_grow(tmp_path: Path) -> None:
    peaks = []
    for n in (1_000, 8_000):
        with Ledger(tmp_path / f"{n}.db") as ledger:
            ledger.record_many(many(n, sessions=n // 4))
            report(ledger, by=["tier"])  # what is loaded and kept the first time
            tracemalloc.start()
            report(ledger, by=["tier"])
            after_report = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            assert sum(1 for _ in ledger.requests(chunk=100)) == n
            peaks.append((after_report, tracemalloc.get_traced_memory()[1]))
            tracemalloc.stop()
    for small, large in zip(*peaks, strict=True):
        assert large < 1.5 * small + 200_000


def test_feedback_on_what_nobody_answered_counts_in_both_places(
    fresh: Callable[[], Ledger],
) -> None:
    with fresh() as ledger:
        ledger.record(request("down"), [attempt(status="outage", **FREE)])
        ledger.record(request("up"), [attempt()])
        ledger.feedback("down", False)
        ledger.feedback("up", True)
        total = report(ledger).total
        entry = ledger.request("down")
    assert entry is not None and entry.success == 0.0
    assert (total.n_known, total.successes) == (2, 1.0)


def test_what_failed_and_was_charged_for_is_in_the_cps_of_its_tier(
    fresh: Callable[[], Ledger],
) -> None:
    with fresh() as ledger:
        for number in range(10):
            cut = paid(1, "nano", 90_000, status="cut", served=False)
            mid = paid(2, "mid", 10_000, role="fallback")
            ledger.record(request(f"r{number}"), [cut, mid])
            ledger.record(request(f"q{number}"), [paid(1, "nano", 10_000)])
            for name in "rq":
                ledger.feedback(f"{name}{number}", True)
        mid_tier, nano = report(ledger, by=["tier"]).groups
    assert nano.to_dict()["cps_usd"] == pytest.approx(100_000 / 1e9)
    assert mid_tier.to_dict()["cps_usd"] == pytest.approx(10_000 / 1e9)
    # Its rate is of answers.
    assert nano.to_dict()["success_rate"] == 1.0 and nano.n_known == 10


@pytest.mark.parametrize(("n_unknown", "given"), [(0, True), (8, True), (9, False)])
def test_no_discount_from_a_part_that_need_not_be_like_the_rest(
    n_unknown: int, given: bool, fresh: Callable[[], Ledger]
) -> None:
    with fresh() as ledger:
        for number in range(32):
            ledger.record(request(f"k{number}"), [attempt()])
        for number in range(n_unknown):
            unknown = attempt(2, cost_nanousd=None)
            ledger.record(request(f"u{number}"), [attempt(status="cut", **FREE), unknown])
        for number in range(50):  # where nothing could be saved, nothing is unknown
            ledger.record(request(f"d{number}"), [attempt(status="outage", **FREE)])
        found = report(ledger)
    assert found.covered == 32 / (32 + n_unknown)
    assert (found.discount is not None, found.interval is not None) == (given, given)
    facts = found.to_dict()["savings"]
    assert (facts["discount"] is not None) == given
    assert facts["covered_share_of_attempts"] == 32 / (32 + 2 * n_unknown)
    assert found.savings.n_requests == 32


def test_no_discount_is_above_one() -> None:
    found = discount_interval(1.0, 100.0, 9000.0, 25)
    assert found is not None and found[0] < 0.99 and found[1] == 1.0


def test_how_each_part_is_known_is_said(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        ledger.record(request("r1"), [attempt()])
        assert report(ledger).savings.to_dict()["basis"]["baseline"] == "estimated"
        ledger.record(request("r2", baseline_measured=True), [attempt()])
        basis = report(ledger).savings.to_dict()["basis"]
    assert basis["baseline"] == "partly measured"
    assert {part for part, how in basis.items() if how == "estimated"} == {
        *("routing_saving", "exploration_cost", "saved")
    }


def test_few_sessions_have_no_interval(fresh: Callable[[], Ledger]) -> None:
    with fresh() as ledger:
        ledger.record_many(many(400, sessions=MIN_CLUSTERS - 1))
        assert report(ledger).interval is None
    assert discount_interval(1.0, 2.0, 0.1, MIN_CLUSTERS) is not None


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("freedom", [19, 30, 100, 10**5])
def test_the_quantile_of_student(confidence: float, freedom: int) -> None:
    probability = 0.5 + confidence / 2
    assert _student(probability, freedom) == pytest.approx(
        student.ppf(probability, freedom), abs=1e-4
    )


@pytest.mark.parametrize("n_sessions", [30, 300])
def test_the_interval_covers_the_true_discount(n_sessions: int) -> None:
    """Skewed bills, requests alike within a session: covered nearly as often as promised."""
    rng = np.random.default_rng(5)
    n_runs, size = 2000, rng.integers(1, 8, size=n_sessions)
    covered = too_narrow = 0
    for _ in range(n_runs):
        session = np.repeat(np.arange(n_sessions), size)
        baseline = rng.lognormal(0, 0.8, len(session))
        share = np.clip(0.35 + rng.normal(0, 0.15, n_sessions), 0.05, None)[session]
        cost = baseline * share
        for clusters in (session, np.arange(len(session))):
            a, b = np.bincount(clusters, cost), np.bincount(clusters, baseline)
            ratio = a.sum() / b.sum()
            found = discount_interval(
                a.sum(), b.sum(), float(((a - ratio * b) ** 2).sum()), len(a), 0.9
            )
            assert found is not None
            inside = found[0] <= 1 - TRUE_SHARE <= found[1]
            if clusters is session:
                covered += inside
            else:
                too_narrow += inside
    assert 0.86 <= covered / n_runs <= 0.93
    # What would happen if requests of one session were taken for independent.
    assert too_narrow / n_runs < 0.85


# The mean of a normal of mean 0.35 and deviation 0.15, cut off below 0.05.
TRUE_SHARE = 0.05 + 0.15 * (
    2.0 * 0.5 * (1 + math.erf(2.0 / math.sqrt(2))) + math.exp(-2.0) / math.sqrt(2 * math.pi)
)


def test_what_since_takes() -> None:
    assert parse_since("7d") == timedelta(days=7)
    assert parse_since(" 1.5H ") == timedelta(minutes=90)
    assert parse_since("2026-03-01T06:00+01:00") == datetime(2026, 3, 1, 5, tzinfo=UTC)
    for text in ("yesterday", "", "7", "7y", "-1d"):
        with pytest.raises(InputError, match="as a span before now, got"):
            parse_since(text, "now")
