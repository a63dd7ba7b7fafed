"""Batch jobs: what is handed in, what comes back, what is tried again, and what it costs."""

from __future__ import annotations

import asyncio
import json
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from router.batch import BatchJobs
from router.batch.channels import batch_time_s
from router.batch.report import JobStatus, RowResult
from router.errors import InputError, LedgerError
from router.ledger import Ledger
from router.ledger.batch_rows import RowStore
from router.ledger.report import report
from router.providers.base import Answer, Prompt
from router.providers.batching import BatchItem, BatchLimits, BatchResult, BatchStatus
from router.tiers import Tier, TierSet
from tests.batches import (
    BATCH_PRICES,
    COST,
    NOON,
    PRICES,
    STANDARD,
    TIERS,
    UNCACHED,
    USAGE,
    Batches,
    Clock,
    OneByOne,
    failure,
    text_of,
    write_rows,
)

WEEK_S = 7 * 86_400.0


class Setting:
    """A ledger, a provider and a clock."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.provider = Batches(folder / "provider")
        self.single = OneByOne(folder / "single")
        self.ledger = Ledger(url)

    def jobs(self, tiers: TierSet = TIERS, **options: Any) -> BatchJobs:
        given = {
            "tiers": tiers,
            "providers": {"fake": self.provider, "single": self.single},
            "now": self.clock.now,
            "sleep": self.clock.sleep,
        }
        return BatchJobs(self.ledger, **{**given, **options})

    def run(
        self, rows: Any, *, tier: str = "small", **options: Any
    ) -> tuple[JobStatus, list[RowResult]]:
        """Submit and wait for the end."""
        jobs = self.jobs()
        job = jobs.submit(rows, tier=tier, **{"deadline_s": WEEK_S, **options})
        status = jobs.resume(job.job_id, wait=True)
        assert status.is_done and status.n_open == 0
        return status, list(jobs.results(job.job_id))

    def attempts(self, request_id: str) -> list[tuple[str, str, bool, int | None]]:
        entry = self.ledger.request(request_id)
        assert entry is not None and entry.request.done
        return [(a.role, a.status, a.batch, a.cost_nanousd) for a in entry.attempts]


@pytest.fixture
def setting(ledger_url: str, tmp_path: Path) -> Iterator[Setting]:
    found = Setting(ledger_url, tmp_path)
    with found.ledger:
        yield found


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Setting]:
    found = Setting(str(tmp_path / "ledger.db"), tmp_path)
    with found.ledger:
        yield found


def queries(n: int) -> list[dict[str, Any]]:
    return [{"query": f"q{i}", "request_id": f"r{i}"} for i in range(n)]


def test_submit_hands_in_and_returns_and_resume_collects(setting: Setting) -> None:
    setting.provider.looks = 1
    setting.provider.batch_limits = BatchLimits(4, 10**6)
    jobs = setting.jobs()
    job = jobs.submit(write_rows(setting.folder / "in.jsonl", 10), tier="small")
    assert (job.state, job.n_open, job.batches) == ("open", 10, {"running": 3})
    assert [len(b["items"]) for b in setting.provider.batches().values()] == [4, 4, 2]
    assert list(jobs.results(job.job_id)) == []
    assert jobs.resume(job.job_id).batches == {"running": 3}
    done = jobs.resume(job.job_id)
    assert (done.state, done.rows, done.batches) == ("done", {"answered": 10}, {"closed": 3})
    rows = list(jobs.results(job.job_id))
    assert [row.request_id for row in rows] == [f"r{i}" for i in range(10)]
    first = rows[0]
    assert (first.text, first.status, first.tier, first.model, first.attempts, first.batch) == (
        *("answer to q0", "answered", "small", "s-1", 1, True),
    )
    assert first.cost_usd == COST / 1e9 and first.usage is not None
    assert first.usage["cached_input_tokens"] == USAGE.cached_input_tokens
    for batch in setting.provider.batches().values():
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in batch["items"])
    assert jobs.submit(setting.folder / "in.jsonl", tier="small") == done
    assert setting.provider.handed_in.total() == 10


def test_costs_are_those_of_a_batch_and_the_parts_add_up(setting: Setting) -> None:
    setting.provider.rows = {"q1": [failure("outage")]}
    setting.run(queries(5))
    savings = report(setting.ledger).savings
    assert savings.n_requests == 5
    assert savings.cost_nanousd == 5 * COST
    assert savings.batch_nanousd == 5 * (STANDARD - UNCACHED)
    assert savings.cache_nanousd == 5 * (UNCACHED - COST)
    assert savings.baseline_nanousd == 5 * STANDARD == savings.measured_nanousd
    assert savings.saved_nanousd == (
        savings.cache_nanousd
        + savings.routing_nanousd
        + savings.batch_nanousd
        - savings.escalation_nanousd
        - savings.exploration_nanousd
    )
    assert setting.attempts("r0") == [("routed", "answered", True, COST)]
    # The second attempt is one after the first, as in every report.
    assert setting.attempts("r1") == [
        ("routed", "outage", True, 0),
        ("retry", "answered", True, COST),
    ]
    entry = setting.ledger.request("r0")
    assert entry is not None and entry.request.query == "q0"
    assert entry.request.decision["tier"] == "small"


def test_what_fails_is_tried_again_and_the_rest_is_reported_by_reason(setting: Setting) -> None:
    provider = setting.provider
    provider.twice = True
    lost = failure("outage")
    provider.rows = {
        "q0": [lost, None],  # an error, then no result at all, then an answer
        "q1": [failure("refused")],  # final
        "q2": [lost, lost, lost],  # as often as may be
        "q3": [failure("cancelled")],  # somebody's wish
        "q4": [failure("malformed", billed=True)],
    }
    status, rows = setting.run(queries(6))
    assert [row.status for row in rows] == [
        *("answered", "refused", "outage", "cancelled", "answered", "answered"),
    ]
    assert status.reasons == {"refused": 1, "outage": 1, "cancelled": 1}
    assert [row.attempts for row in rows] == [3, 1, 3, 1, 2, 1]
    assert provider.handed_in == Counter(q0=3, q1=1, q2=3, q3=1, q4=2, q5=1)
    assert [a[1] for a in setting.attempts("r0")] == ["outage", "malformed", "answered"]
    # What may have been charged without a usage is unknown, never free.
    assert [row.cost_usd for row in rows] == [None, 0.0, 0.0, 0.0, None, COST / 1e9]
    assert status.n_unknown_cost == 2
    assert setting.attempts("r2")[0] == ("routed", "outage", True, 0)


def test_a_batch_that_expires_is_handed_in_again(setting: Setting) -> None:
    setting.provider.states = {1: "expired"}
    _, rows = setting.run(queries(3))
    assert [(row.status, row.attempts) for row in rows] == [("answered", 2)] * 3
    assert [a[1] for a in setting.attempts("r0")] == ["expired", "answered"]


def test_without_time_for_another_batch_it_is_asked_one_by_one(setting: Setting) -> None:
    setting.provider.states, setting.provider.looks = {1: "expired"}, 1
    status, rows = setting.run(queries(3), deadline_s=86_400)
    assert [row.batch for row in rows] == [False] * 3
    assert setting.provider.called == Counter(q0=1, q1=1, q2=1)
    assert status.ways == {"small": {"one by one": 3}}
    entry = setting.ledger.request("r0")
    assert entry is not None
    assert [(a.batch, a.cost_nanousd) for a in entry.attempts] == [(True, 0), (False, 2 * COST)]


def test_a_prompt_for_which_a_whole_batch_is_refused_does_not_cost_the_others(
    setting: Setting,
) -> None:
    setting.provider.refuses = {"q11"}
    setting.provider.fails = {"q11": [failure("refused")]}
    status, rows = setting.run(queries(32))
    assert status.reasons == {"refused": 1}
    assert [row.request_id for row in rows if row.status != "answered"] == ["r11"]
    assert set(setting.provider.handed_in.values()) == {1}
    # Cut in two four times, and the last two of them asked one by one.
    assert setting.provider.called.total() == 2


def test_a_batch_that_failed_as_a_whole_is_cut_in_two(lite: Setting) -> None:
    lite.provider.states = {1: "failed", 2: "failed"}
    status, rows = lite.run(queries(8))
    assert {row.status for row in rows} == {"answered"}
    assert [len(b["items"]) for b in lite.provider.batches().values()] == [8, 4, 4, 2, 2]
    assert status.batches == {"closed": 5}
    assert {row.attempts for row in rows} == {1}  # nothing of it was asked before


def test_a_hand_in_whose_answer_was_lost_is_found_again(setting: Setting) -> None:
    provider = setting.provider
    provider.submit_fails = [(failure("timeout", billed=True), True)]
    jobs = setting.jobs()
    job = jobs.submit(queries(3), tier="small", deadline_s=WEEK_S)
    assert job.batches == {"handing-in": 1}
    assert job.troubles == ("fake did not take a batch (timeout)",)
    assert jobs.resume(job.job_id).is_done
    assert provider.handed_in == Counter(q0=1, q1=1, q2=1)
    assert provider.finds


def test_a_hand_in_that_was_lost_is_made_again_when_lists_would_show_it(setting: Setting) -> None:
    provider = setting.provider
    provider.submit_fails = [(failure("outage", billed=True), False)]
    jobs = setting.jobs()
    job = jobs.submit(queries(3), tier="small", deadline_s=WEEK_S)
    setting.clock.sleep(59)
    (trouble,) = jobs.resume(job.job_id).troubles
    assert trouble.startswith("it is not certain yet whether fake has a batch")
    assert provider.batches() == {}
    setting.clock.sleep(2)
    assert jobs.resume(job.job_id).is_done
    assert provider.handed_in == Counter(q0=1, q1=1, q2=1)


def test_who_is_too_busy_is_asked_again_without_looking(lite: Setting) -> None:
    lite.provider.submit_fails = [(failure("rate-limit"), False)]
    lite.provider.status_fails = [failure("outage")]
    lite.provider.results_fail = [failure("cut")]
    status, rows = lite.run(queries(6))
    assert status.troubles == () and [row.attempts for row in rows] == [1] * 6
    assert lite.provider.finds == []
    assert set(lite.provider.handed_in.values()) == {1}


def test_a_batch_that_is_somebody_elses_is_given_up_and_ours_is_handed_in(lite: Setting) -> None:
    """As with a provider that keeps no names: found by its size, and taken for ours."""
    provider = lite.provider
    others = [
        BatchItem(f"other-{i}", Prompt(({"role": "user", "content": "x"},))) for i in range(3)
    ]
    other = provider.submit_batch("s-1", others, key="other")
    provider.submit_fails = [(failure("outage", billed=True), False)]
    jobs = lite.jobs()
    job = jobs.submit(queries(3), tier="small", deadline_s=WEEK_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provider, "find_batch", lambda key, custom_ids, **_: other)
        found = jobs.resume(job.job_id)
        assert found.batches == {"handing-in": 1} and found.rows == {"parted": 3}
    lite.clock.sleep(100)
    done = jobs.resume(job.job_id, wait=True)
    assert done.rows == {"answered": 3} and done.n_unknown_cost == 0
    assert provider.handed_in == Counter(x=3, q0=1, q1=1, q2=1)


def test_the_batch_of_another_part_is_not_taken_for_this_ones(lite: Setting) -> None:
    provider = lite.provider
    provider.batch_limits, provider.looks = BatchLimits(2, 10**6), 3
    provider.submit_fails = [(failure("outage"), True), (failure("outage"), False)]
    jobs = lite.jobs()
    job = jobs.submit(queries(4), tier="small", deadline_s=WEEK_S)
    assert job.batches == {"handing-in": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provider, "find_batch", lambda key, custom_ids, **_: "batch_1")
        lite.clock.sleep(100)
        assert jobs.resume(job.job_id).batches == {"running": 2}
    assert len(provider.batches()) == 2
    assert jobs.resume(job.job_id, wait=True).rows == {"answered": 4}
    assert set(provider.handed_in.values()) == {1}


class Nameless(Batches):
    """Keeps no names of ours, as Anthropic: what runs and is as large is taken for ours."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.batch_limits = BatchLimits(100, 10**6, keeps_keys=False)

    def find_batch(
        self, key: str, custom_ids: Any, *, since: Any, known: Collection[str] = ()
    ) -> str | None:
        running = [
            name
            for name, batch in self.batches().items()
            if len(batch["items"]) == len(custom_ids)
            and name not in known
            and self.n_looks[name] <= self.looks
        ]
        return running[0] if len(running) == 1 else None


def test_the_batch_of_another_job_is_neither_taken_nor_cancelled(lite: Setting) -> None:
    lite.provider = Nameless(lite.folder / "provider")
    lite.provider.looks = 5
    jobs = lite.jobs(settle_s=0.0)
    lite.provider.submit_fails = [(failure("outage"), False)]
    lost = jobs.submit(queries(2), tier="small", deadline_s=WEEK_S, name="lost")
    other = jobs.submit(queries(2), tier="small", deadline_s=WEEK_S, name="other")
    assert jobs.cancel(lost.job_id).reasons == {"cancelled": 2}
    assert jobs.resume(other.job_id, wait=True).rows == {"answered": 2}


def test_a_batch_taken_by_its_size_alone_is_not_cancelled(lite: Setting) -> None:
    lite.provider = Nameless(lite.folder / "provider")
    lite.provider.looks = 3
    others = [
        BatchItem(f"other-{i}", Prompt(({"role": "user", "content": "x"},))) for i in range(2)
    ]
    other = lite.provider.submit_batch("s-1", others, key="other")
    jobs = lite.jobs(settle_s=0.0)
    lite.provider.submit_fails = [(failure("outage"), False)]
    job = jobs.submit(queries(2), tier="small", deadline_s=WEEK_S)
    assert jobs.resume(job.job_id).batches == {"running": 1}
    found = jobs.cancel(job.job_id)
    assert found.state == "cancelling" and "is not cancelled" in found.troubles[0]
    assert jobs.resume(job.job_id, wait=True).reasons == {"cancelled": 2}
    assert not lite.provider.batches()[other]["cancelled"]


def test_a_batch_that_the_provider_does_not_know_any_more_is_an_end(lite: Setting) -> None:
    jobs = lite.jobs()
    job = jobs.submit(queries(2), tier="small", deadline_s=WEEK_S)
    lite.provider.status_fails = [failure("refused")]
    assert jobs.resume(job.job_id).batches == {"running": 1}
    lite.provider.status_fails = [failure("refused")] * 20
    lite.provider.results_fail = [failure("refused")]
    lite.clock.sleep(10)
    assert jobs.resume(job.job_id).batches == {"running": 1}
    done = jobs.resume(job.job_id, wait=True)
    assert done.is_done and done.reasons["results-gone"] >= 1


def test_results_that_are_gone_are_not_paid_for_again(lite: Setting) -> None:
    lite.provider.results_fail = [failure("refused")]
    status, rows = lite.run(queries(4))
    assert status.reasons == {"results-gone": 2} and status.n_unknown_cost == 2
    assert Counter(row.cost_usd is None for row in rows) == {True: 2, False: 2}
    assert set(lite.provider.handed_in.values()) == {1}


def test_a_key_that_is_refused_ends_the_waiting_and_loses_nothing(lite: Setting) -> None:
    lite.provider.submit_fails = [(failure("auth"), False)] * 2
    jobs = lite.jobs()
    job = jobs.submit(queries(2), tier="small")
    found = jobs.resume(job.job_id, wait=True)
    assert found.troubles == ("fake did not take a batch (auth)",) and found.n_open == 2
    assert jobs.resume(job.job_id, wait=True).rows == {"answered": 2}


def test_a_state_that_goes_backwards_is_not_asked_again(lite: Setting) -> None:
    lite.provider.results_fail = [failure("outage")]
    jobs = lite.jobs()
    job = jobs.submit(queries(2), tier="small")
    assert jobs.resume(job.job_id).batches == {"ended": 1}
    lite.provider.looks = 10**6  # "running" from now on
    assert jobs.resume(job.job_id).is_done


SINGLE = TierSet([Tier("one", "single", "m-1", **PRICES)])


def test_a_provider_without_batches_is_asked_one_by_one(setting: Setting) -> None:
    jobs = setting.jobs(SINGLE)
    setting.single.fails = {
        "q1": [failure("rate-limit", retry_after_s=20.0)],
        "q2": [failure("refused")],
        "q3": [failure("auth")],
    }
    job = jobs.submit(queries(5), tier="one")
    assert job.ways == {"one": {"one by one": 5}} and job.batches == {}
    assert setting.single.called.total() == 0  # submit returns; resume calls
    refused = jobs.resume(job.job_id, wait=True)
    assert refused.troubles == ("a provider refuses the key, or has none",)
    before = setting.clock.at
    done = jobs.resume(job.job_id, wait=True)
    assert done.rows == {"answered": 4, "failed": 1} and done.reasons == {"refused": 1}
    assert (setting.clock.at - before).total_seconds() >= 20
    assert setting.attempts("r1") == [
        ("routed", "rate-limit", False, 0),
        ("retry", "answered", False, 2 * COST),
    ]
    assert setting.attempts("r3") == [("routed", "answered", False, 2 * COST)]


def test_many_calls_put_what_waits_in_order_a_few_times(
    lite: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.batch.calls._KEYS_AT_A_TIME", 10)
    asked: list[int] = []
    due_calls = RowStore.due_calls

    def counted(store: RowStore, job_id: str, limit: int) -> list[int]:
        asked.append(limit)
        return due_calls(store, job_id, limit)

    monkeypatch.setattr(RowStore, "due_calls", counted)
    jobs = lite.jobs(SINGLE)
    job = jobs.submit(queries(25), tier="one")
    assert jobs.resume(job.job_id).rows == {"answered": 25}
    assert asked == [10] * 4
    assert set(lite.single.called.values()) == {1}


def test_price_and_time_decide_between_batch_and_one_by_one(lite: Setting) -> None:
    dear = {**PRICES, **{name: 3 * price for name, price in BATCH_PRICES.items()}}
    none = Tier("none", "fake", "m-3", **PRICES)
    tiers = TierSet([TIERS[0], Tier("dear", "fake", "m-2", **dear), none])
    jobs = lite.jobs(tiers)
    ways = {}
    for tier, deadline_s in (
        ("small", 86_400),
        ("small", 86_399),
        ("dear", 86_400),
        ("none", WEEK_S),
    ):
        job = jobs.submit(queries(1), tier=tier, deadline_s=deadline_s, name="n")
        ways[tier, deadline_s] = job.ways[tier]
    assert ways == {
        ("small", 86_400): {"batch": 1},
        ("small", 86_399): {"one by one": 1},
        ("dear", 86_400): {"one by one": 1},
        ("none", WEEK_S): {"one by one": 1},
    }


def test_how_long_batches_have_been_taking_is_learned(lite: Setting) -> None:
    for number in range(5):
        jobs = lite.jobs()
        job = jobs.submit(queries(1), tier="small", name=str(number), deadline_s=WEEK_S)
        lite.provider.ended_at = lite.clock.at + timedelta(seconds=600)
        lite.clock.sleep(90_000)  # what counts is when it ended, not when somebody looked
        assert jobs.resume(job.job_id).is_done
    quick = lite.jobs().submit(queries(1), tier="small", name="quick", deadline_s=700)
    assert quick.ways == {"small": {"batch": 1}}
    late = lite.jobs().submit(queries(1), tier="small", name="late", deadline_s=500)
    assert late.ways == {"small": {"one by one": 1}}
    assert batch_time_s([1.0, 2.0, 3.0, 4.0], 9.0) == 9.0
    assert batch_time_s([float(i) for i in range(100, 0, -1)], 9.0) == 90.0


def test_how_long_a_batch_took_that_nobody_watched_is_not_known(lite: Setting) -> None:
    for number in range(10):
        jobs = lite.jobs()
        job = jobs.submit(queries(1), tier="small", name=str(number), deadline_s=WEEK_S)
        lite.clock.sleep(90_000 if number < 5 else 50)
        assert jobs.resume(job.job_id).is_done
        if number == 4:
            day = lite.jobs().submit(queries(1), tier="small", name="day", deadline_s=86_400)
            assert day.ways == {"small": {"batch": 1}}
    quick = lite.jobs().submit(queries(1), tier="small", name="quick", deadline_s=60)
    assert quick.ways == {"small": {"batch": 1}}


def test_a_limit_on_cost_stops_new_hand_ins(setting: Setting) -> None:
    # About (1 + 100 x 4) / 2 nanodollars x 1000 are expected of each, and 545,000 come to it.
    rows = [{**row, "max_output_tokens": 100} for row in queries(10)]
    status, found = setting.run(rows, max_cost_usd=0.0010)
    answered = [row for row in found if row.status == "answered"]
    assert status.reasons == {"cost-limit": 6} and len(answered) == 4
    assert status.spent_usd == pytest.approx(4 * COST / 1e9)
    assert setting.provider.handed_in.total() == 4


def test_what_comes_cheaper_than_expected_leaves_money_for_more(lite: Setting) -> None:
    # 500 tokens of output are expected where nobody says: about 1,000,500 nanodollars.
    status, _ = lite.run(queries(4), max_cost_usd=0.0022)
    # Two are handed in at first, then one more for what they left over.
    assert [len(b["items"]) for b in lite.provider.batches().values()] == [2, 1]
    assert status.reasons == {"cost-limit": 1}


def test_a_limit_on_cost_holds_for_calls_too(lite: Setting) -> None:
    jobs = lite.jobs(SINGLE)
    rows = [{**row, "max_output_tokens": 100} for row in queries(6)]
    job = jobs.submit(rows, tier="one", max_cost_usd=0.0025)
    done = jobs.resume(job.job_id, wait=True)
    assert done.reasons == {"cost-limit": 6 - lite.single.called.total()}
    assert 1 <= lite.single.called.total() <= 4


def test_a_limit_that_is_raised_lets_the_rest_go_on(setting: Setting) -> None:
    rows = [{**row, "max_output_tokens": 100} for row in queries(6)]
    setting.provider.rows = {"q0": [failure("outage")]}
    status, _ = setting.run(rows, max_cost_usd=0.0009)
    n_short = status.reasons["cost-limit"]
    assert n_short >= 1
    again = setting.jobs().submit(rows, tier="small", deadline_s=WEEK_S, max_cost_usd=0.0009)
    assert again == status
    status, found = setting.run(rows, max_cost_usd=1.0, max_attempts=2)
    assert status.rows == {"answered": 6} and {row.status for row in found} == {"answered"}
    assert len(setting.attempts("r0")) == 2
    assert setting.provider.handed_in == Counter(q0=2, q1=1, q2=1, q3=1, q4=1, q5=1)


def test_limits_of_a_job_under_way_can_be_changed(lite: Setting) -> None:
    lite.provider.submit_fails = [(failure("rate-limit"), False)]
    jobs = lite.jobs()
    jobs.submit(queries(4), tier="small", deadline_s=WEEK_S)
    lite.provider.rows = {"q0": [failure("outage")] * 3}
    status, rows = lite.run(queries(4), max_attempts=1)
    assert status.reasons == {"outage": 1} and rows[0].attempts == 1


def test_a_limit_on_cost_needs_a_price(lite: Setting) -> None:
    jobs = lite.jobs(TierSet([Tier("x", "single", "nobody-knows")]))
    with pytest.raises(InputError, match="expected a known price of tier x"):
        jobs.submit(queries(1), tier="x", max_cost_usd=1.0)
    assert jobs.jobs() == []


def test_a_job_whose_provider_cannot_be_made_is_none(lite: Setting) -> None:
    jobs = lite.jobs(TierSet([Tier("x", "nobody", "m", **PRICES)]))
    with pytest.raises(InputError, match="expected a provider among"):
        jobs.submit(queries(1), tier="x")
    assert jobs.jobs() == []


def test_cancel_ends_what_is_nowhere_yet_and_keeps_what_was_answered(setting: Setting) -> None:
    provider = setting.provider
    provider.batch_limits = BatchLimits(2, 10**6)
    provider.looks = 1
    jobs = setting.jobs()
    job = jobs.submit(queries(6), tier="small", deadline_s=WEEK_S)
    provider.n_looks.update({"batch_1": 1})
    jobs.resume(job.job_id)
    done = jobs.cancel(job.job_id)
    assert done.is_done
    assert done.rows == {"answered": 2, "failed": 4} and done.reasons == {"cancelled": 4}
    assert [b["cancelled"] for b in provider.batches().values()] == [False, True, True]
    assert setting.attempts("r5") == [("routed", "cancelled", True, 0)] or done.rows
    assert jobs.cancel(job.job_id) == done
    assert provider.handed_in.total() == 6


def test_every_bad_row_is_told_and_the_good_ones_go_on(setting: Setting) -> None:
    path = setting.folder / "in.jsonl"
    good = {"query": "fine", "request_id": "a"}
    lines: list[Any] = [
        good,
        "not json",
        [1],
        {},
        {"query": " "},
        {"query": "x", "request_id": 1.5},
        {"query": "x", "request_id": "a" * 401},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "request_id": "b"},
        {"query": "x", "max_output_tokens": 0, "request_id": "c"},
        {"query": "x", "temperature": "hot"},
        {"query": "x", "session": ""},
        {"query": "x", "tools": {}},
        {"query": "again", "request_id": "a"},
        {"query": "x\ud800\0y", "request_id": "d", "max_output_tokens": 5},
        {"query": "no id"},
    ]
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\ufeff" + "\n".join(texts) + "\n\n", encoding="utf-8")
    status, rows = setting.run(path)
    assert status.n_rejected == 14
    assert {row.text for row in rows} == {
        *("answer to fine", "answer to x\ud800\0y", "answer to no id"),
    }
    rejects = [json.loads(line) for line in Path(f"{path}.rejects.jsonl").read_text().splitlines()]
    reasons = {row["line"]: row["reason"] for row in rejects}
    assert list(reasons) == list(range(2, 16))
    assert Counter(reasons.values()) == status.rejects
    words = {2: "not JSON", 8: "text to route on", 9: "no list", 12: "no number", 15: "twice"}
    assert all(word in reasons[line] for line, word in words.items())
    assert not any("nobody" in row["reason"] for row in rejects)


def test_a_file_that_is_not_there_or_is_no_input(lite: Setting) -> None:
    jobs = lite.jobs()
    with pytest.raises(InputError, match=r"expected a file of JSON lines at .*missing"):
        jobs.submit(lite.folder / "missing.jsonl", tier="small")
    with pytest.raises(InputError, match="expected a router, or a tier"):
        lite.jobs().submit(queries(1))
    with pytest.raises(InputError, match="expected a deadline"):
        jobs.submit(queries(1), tier="small", deadline_s=0)
    with pytest.raises(InputError, match="expected max_attempts"):
        jobs.submit(queries(1), tier="small", max_attempts=0)
    with pytest.raises(InputError, match="expected rows that can be written as JSON"):
        jobs.submit([{"query": object()}], tier="small")
    with pytest.raises(InputError, match="expected a job of this ledger"):
        jobs.resume("nothing")
    empty = jobs.submit([], tier="small")
    assert jobs.resume(empty.job_id, wait=True).is_done


def test_a_name_that_is_taken_gets_the_jobs_behind_it(setting: Setting) -> None:
    setting.run(queries(2))
    _, rows = setting.run(queries(2), name="again")
    assert [row.request_id for row in rows] == ["r0", "r1"]
    assert all(re.fullmatch(r"r\d@b[0-9a-f]{16}", row.ledger_id) for row in rows)
    assert len(list(setting.ledger.requests())) == 4
    assert report(setting.ledger).savings.n_requests == 4


def test_rows_that_share_a_beginning_stand_together_and_mark_it(lite: Setting) -> None:
    prompts: list[Prompt] = []

    class Looks(Batches):
        def submit_batch(self, model: str, items: Any, *, key: str) -> str:
            prompts.extend(item.prompt for item in items)
            return super().submit_batch(model, items, key=key)

    lite.provider = Looks(lite.folder / "provider")
    rows = [
        {
            "messages": [
                {"role": "system", "content": f"system {i % 3 if i < 9 else i}"},
                {"role": "user", "content": f"q{i}"},
            ]
        }
        for i in range(10)
    ]
    lite.run(rows)
    systems = [prompt.messages[0]["content"] for prompt in prompts]
    runs = [name for i, name in enumerate(systems) if i == 0 or systems[i - 1] != name]
    assert len(runs) == len(set(systems)) == 4
    marked = {prompt.messages[0]["content"]: prompt.cache.enabled for prompt in prompts}
    assert marked == {"system 0": True, "system 1": True, "system 2": True, "system 9": False}
    assert text_of(prompts[0]).startswith("q")


def test_a_batch_holds_no_more_bytes_than_it_may(lite: Setting) -> None:
    item = BatchItem("x" * 64, Prompt(({"role": "user", "content": "q0"},)))
    each = lite.provider.batch_bytes("s-1", item)
    lite.provider.batch_limits = BatchLimits(100, 3 * each)
    long = [{"query": "long" * each, "request_id": "long"}]
    status, rows = lite.run([*queries(8), *long])
    assert [len(b["items"]) for b in lite.provider.batches().values()] == [3, 3, 2]
    assert {row.status for row in rows} == {"answered"}
    # What no batch takes goes by itself.
    assert status.ways == {"small": {"batch": 8, "one by one": 1}}


def test_forgotten_prompts_are_gone_from_the_job(setting: Setting) -> None:
    jobs = setting.jobs()
    job = jobs.submit(queries(2), tier="small")
    with pytest.raises(InputError, match="expected a job that is done"):
        jobs.forget(job.job_id)
    jobs.resume(job.job_id, wait=True)
    jobs.forget(job.job_id)
    assert [(row.status, row.text) for row in jobs.results(job.job_id)] == [("answered", None)] * 2


def test_the_same_awaited(lite: Setting) -> None:
    async def act() -> list[RowResult]:
        jobs = lite.jobs()
        job = await jobs.asubmit(queries(3), tier="small")
        assert (await jobs.astatus(job.job_id)).n_open == 3
        assert (await jobs.aresume(job.job_id, wait=True)).is_done
        assert (await jobs.acancel(job.job_id)).is_done
        return [row async for row in jobs.aresults(job.job_id)]

    assert [row.text for row in asyncio.run(act())] == [f"answer to q{i}" for i in range(3)]


def test_two_calls_of_one_object_do_not_work_on_one_job(lite: Setting) -> None:
    class Slow(OneByOne):
        def complete(self, *arguments: Any, **options: Any) -> Answer:
            time.sleep(0.05)
            return super().complete(*arguments, **options)

    lite.single = Slow(lite.folder / "single")
    jobs = lite.jobs(SINGLE)
    job = jobs.submit(queries(6), tier="one")

    async def act() -> list[Any]:
        both = (jobs.aresume(job.job_id) for _ in range(2))
        return await asyncio.gather(*both, return_exceptions=True)

    found = asyncio.run(act())
    (refused,) = [one for one in found if isinstance(one, LedgerError)]
    assert "another call of this process does" in str(refused)
    assert set(lite.single.called.values()) == {1}
    assert jobs.status(job.job_id).rows == {"answered": 6}
    assert jobs.resume(job.job_id).is_done


def test_what_was_answered_before_an_interruption_is_kept(lite: Setting) -> None:
    class Interrupted(OneByOne):
        def complete(self, model: str, prompt: Prompt, **options: Any) -> Answer:
            if text_of(prompt) == "q0" and not self.called["q0"]:
                super().complete(model, prompt)
                raise KeyboardInterrupt
            return super().complete(model, prompt, **options)

    lite.single = Interrupted(lite.folder / "single")
    jobs = lite.jobs(SINGLE)
    job = jobs.submit(queries(4), tier="one")
    with pytest.raises(KeyboardInterrupt):
        jobs.resume(job.job_id)
    assert jobs.status(job.job_id).rows == {"answered": 3, "calling": 1}
    assert jobs.resume(job.job_id, wait=True).rows == {"answered": 4}
    assert lite.single.called == Counter(q0=2, q1=1, q2=1, q3=1)


def test_a_name_that_the_ledger_refuses_is_a_bad_row(lite: Setting) -> None:
    rows = [{"query": "x", field: "a\ud800"} for field in ("session", "task", "request_id")]
    status, _ = lite.run([*rows, *queries(1)])
    assert status.rows == {"answered": 1}
    assert status.rejects == {
        f"its {field} has characters that cannot be stored": 1
        for field in ("session", "task", "request_id")
    }


def test_rows_given_up_after_an_attempt_are_finished_in_the_ledger(lite: Setting) -> None:
    lite.provider.rows = {"q0": [failure("outage")]}
    jobs = lite.jobs()
    job = jobs.submit(queries(2), tier="small", deadline_s=WEEK_S)
    lite.provider.submit_fails = [(failure("rate-limit"), False)] * 3
    assert jobs.resume(job.job_id).n_open == 1
    assert jobs.cancel(job.job_id).reasons == {"cancelled": 1}
    assert lite.attempts("r0") == [("routed", "outage", True, 0)]


def test_of_an_error_and_an_answer_far_apart_the_answer_counts(
    lite: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.batch.run._RESULTS_AT_A_TIME", 2)
    given = lite.provider.batch_results

    def results(batch_id: str) -> Iterator[BatchResult]:
        first, *others = given(batch_id)
        yield BatchResult(first.custom_id, error=failure("outage"))
        yield from (*others, first)

    monkeypatch.setattr(lite.provider, "batch_results", results)
    status, rows = lite.run(queries(9))
    assert status.rows == {"answered": 9} and {row.attempts for row in rows} == {1}


def test_input_that_was_not_read_to_its_end_is_read_again(lite: Setting) -> None:
    """Of a process that was interrupted while it read, from a file that then changed."""

    def interrupted(name: str) -> None:
        if name == "before open job":
            raise KeyboardInterrupt

    path = write_rows(lite.folder / "in.jsonl", 3)
    with pytest.raises(KeyboardInterrupt):
        lite.jobs(trace=interrupted).submit(path, tier="small")
    (job,) = lite.jobs().jobs()
    assert job.state == "loading" and lite.provider.batches() == {}
    before = path.read_text()
    path.write_text("")
    with pytest.raises(InputError, match="submit the same input again"):
        lite.jobs().resume(job.job_id)
    path.write_text(before)
    assert lite.jobs().resume(job.job_id, wait=True).rows == {"answered": 3}
    assert lite.provider.handed_in.total() == 3
    assert job.created == NOON


class Counts(Batches):
    """Keeps no prompts, and gives long answers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ids: dict[str, list[str]] = {}

    def submit_batch(self, model: str, items: Any, *, key: str) -> str:
        self.ids[key] = [item.custom_id for item in items]
        return key

    def batch_status(self, batch_id: str) -> BatchStatus:
        return BatchStatus("ended")

    def batch_results(self, batch_id: str) -> Iterator[BatchResult]:
        for name in self.ids[batch_id]:
            yield BatchResult(name, Answer("y" * 5000, USAGE))


def peak_bytes(folder: Path, n: int) -> int:
    """The most memory that a job of so many rows takes, from reading it to its results."""
    folder.mkdir()
    path = folder / "in.jsonl"
    with path.open("w") as file:
        for i in range(n):
            file.write(json.dumps({"query": f"{i}" + "x" * 5000}) + "\n")
    provider = Counts(folder / "provider")
    provider.batch_limits = BatchLimits(10**6, 10**9)
    with Ledger(folder / "ledger.db") as ledger:
        jobs = BatchJobs(ledger, tiers=TIERS, providers={"fake": provider})
        tracemalloc.start()
        job = jobs.submit(path, tier="small")
        assert jobs.resume(job.job_id, wait=True).rows == {"answered": n}
        assert sum(1 for _ in jobs.results(job.job_id)) == n
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def test_more_rows_do_not_take_more_memory(tmp_path: Path) -> None:
    small, large = peak_bytes(tmp_path / "small", 550), peak_bytes(tmp_path / "large", 1100)
    # Of 550 rows more, prompts and answers are 5.5 MB: only names and numbers may grow.
    assert large - small < 1_000_000, (small, large)
