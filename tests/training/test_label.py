"""Labelling from queries to outcomes, against scripted providers: what is paid and counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.client.retrying import Retrying
from router.errors import InputError, PriceError, ProviderError
from router.ledger import Ledger
from router.outcomes import Outcome, read_jsonl
from router.prices import PriceBook
from router.providers.base import Answer, Prompt
from router.routing import Router
from router.testing import FakeProvider
from router.tiers import Tier, TierSet
from router.usage import Usage
from tests.batches import Batches, failure
from training.label import LabelReport, label
from training.label_checks import check_of
from training.label_input import Pool, pool_of
from training.label_journal import Journal
from training.label_judge import Judgement, JudgeSample
from training.label_run import Bounds
from training.label_select import read_labelled
from training.split import split_table
from training.table import read_outcomes

PRICE = {"input_price_usd_per_mtok": 1.0, "output_price_usd_per_mtok": 4.0}
DEAR = {"input_price_usd_per_mtok": 10.0, "output_price_usd_per_mtok": 40.0}
TIERS = TierSet([Tier("small", "fake", "s-1", **PRICE), Tier("large", "fake", "l-1", **DEAR)])
JUDGE = Tier("judge", "fake", "j-1", **PRICE)
CHECKS = [check_of("contains")]
NO_WAIT = Retrying(retries=2, max_wait_s=0.0, backoff_s=0.0)


def pool(n: int = 6, **facts: Any) -> Pool:
    rows = [
        {"query": f"double {i}", "expected": str(2 * i), "request_id": f"r{i}", **facts}
        for i in range(n)
    ]
    return pool_of(rows, max_output_tokens=50)


def doubled(prompt: Prompt) -> str:
    return f"It is {2 * int(prompt.messages[-1]['content'].split()[1])}."


def provider(**scripts: Any) -> FakeProvider:
    """The large tier is always right, the small one on even numbers; the judge passes all."""

    def small(prompt: Prompt) -> str:
        number = int(prompt.messages[-1]["content"].split()[1])
        return doubled(prompt) if number % 2 == 0 else "I do not know."

    return FakeProvider({"s-1": small, "l-1": doubled, "j-1": "VERDICT: PASS", **scripts})


def run(tmp_path: Path, fake: Any, queries: Pool | None = None, **options: Any) -> LabelReport:
    given_ = {"checks": CHECKS, "n": 100, "n_calls": 3, "retrying": NO_WAIT} | options
    return label(
        pool() if queries is None else queries,
        options.pop("tiers", TIERS),
        tmp_path / "o.jsonl",
        providers={"fake": fake},
        **{name: value for name, value in given_.items() if name != "tiers"},
    )


def rows_of(path: Path) -> list[Outcome]:
    found = [row for _, row in read_jsonl(path)]
    assert all(isinstance(row, Outcome) for row in found)
    return [row for row in found if isinstance(row, Outcome)]


def asked(fake: FakeProvider, *models: str) -> Counter[tuple[str, str]]:
    return Counter(
        (call.model, str(call.prompt.messages[-1]["content"]))
        for call in fake.calls
        if not models or call.model in models
    )


# ---------------------------------------------------------------------------------- what comes out


def test_every_query_on_every_tier_judged_and_priced_as_serving_will_be(tmp_path: Path) -> None:
    fake = provider()
    report = run(tmp_path, fake, pool(task="sums"))
    table = read_outcomes(tmp_path / "o.jsonl", TIERS)
    assert table.complete.all() and table.n_requests == 6
    order = [int(name[1:]) for name in table.request_id]
    assert table.success[:, 0].tolist() == [float(i % 2 == 0) for i in order]
    assert table.success[:, 1].tolist() == [1.0] * 6
    assert set(table.task) == {"sums"} and set(table.sampling) == {"random"}
    # "double 3": 2 tokens and 4 for the message; "It is 6 .": 4 tokens, at 10 and 40 a million.
    assert table.cost_usd[0, 1] == pytest.approx(6 * 10e-6 + 4 * 40e-6)
    assert (table.input_tokens[0, 1], table.output_tokens[0, 1]) == (6, 4)
    assert report.spent_usd == pytest.approx(table.cost_usd.sum())
    assert (report.n_labelled, report.n_outcomes, report.n_random, report.n_chosen) == (6, 12, 6, 0)
    assert report.success_rate == {"small": 0.5, "large": 1.0}
    assert not report.missing and not report.budget_reached
    assert json.dumps(report.to_dict())


def test_what_did_not_come_or_could_not_be_judged_is_counted_and_no_failure(tmp_path: Path) -> None:
    def small(prompt: Prompt) -> Any:
        number = int(prompt.messages[-1]["content"].split()[1])
        if number == 0:
            return ProviderError("no", kind="refused")
        if number == 1:
            return Answer("It is 2.")  # without usage
        return doubled(prompt)

    report = run(tmp_path, provider(**{"s-1": small}))
    assert report.missing == {
        "small": {
            "no answer (refused)": 1,
            "the provider did not say how many tokens it took": 1,
        }
    }
    rows = rows_of(tmp_path / "o.jsonl")
    assert Counter(row.tier for row in rows) == {"small": 4, "large": 6}
    assert report.n_labelled == 4
    broken = [check_of("regex:."), check_of("json-schema")]
    again = run(tmp_path, provider(**{"s-1": small}), checks=broken)
    assert again.missing["large"] == {"the check could not tell": 6}
    # Nothing came of it: what stood there stays.
    assert again.n_outcomes == 0 and not again.is_written
    assert rows_of(tmp_path / "o.jsonl") == rows


def test_a_query_too_long_for_a_tier_is_left_out_by_reason(tmp_path: Path) -> None:
    tiers = TierSet([TIERS[0], Tier("large", "fake", "l-1", context_window_tokens=60, **DEAR)])
    rows = [{"query": "double 1"}, {"query": "double 2 " + "x" * 400}]
    report = run(
        tmp_path, provider(), pool_of(rows, max_output_tokens=50), tiers=tiers,
        checks=[check_of("regex:It")],
    )  # fmt: skip
    assert report.rejected == {"too long for the context window of large": 1}
    assert report.n_begun == 1


def test_answers_cut_off_are_told(tmp_path: Path) -> None:
    rows = [{"query": "double 2", "expected": "4", "max_output_tokens": 2}]
    assert run(tmp_path, provider(), pool_of(rows)).n_cut_off == 2


# -------------------------------------------------------------------------------------- the budget


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.floats(0, 0.02),
    st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), min_size=1, max_size=8),
    st.booleans(),
)
def test_the_budget_is_never_exceeded(
    tmp_path: Path, money: float, script: list[tuple[int, bool, bool]], with_judge: bool
) -> None:
    """Whatever answers take up to their longest, fail to come, or do not say what they took."""
    charged: list[float] = []

    def answer(price: dict[str, float]) -> Callable[[Prompt], Any]:
        def answers(prompt: Prompt) -> Any:
            words = prompt.messages[-1]["content"]
            tokens, fails, says = script[len(words) % len(script)]
            usage = Usage(len(words), min(tokens, prompt.max_output_tokens or 0))
            usd = usage.input_tokens * price["input_price_usd_per_mtok"]
            usd += usage.output_tokens * price["output_price_usd_per_mtok"]
            charged.append(usd / 1e6)
            if fails:
                return ProviderError("late", kind="timeout", billed=True)
            return Answer("1 VERDICT: PASS", usage if says else None)

        return answers

    rows = [{"query": f"double {'x' * i}"} for i in range(9)]
    for path in tmp_path.iterdir():
        path.unlink()
    scripts = {"s-1": answer(PRICE), "l-1": answer(DEAR), "j-1": answer(PRICE)}
    for _ in range(2):  # the second run, on what the first has left
        report = None
        with suppress(ProviderError):  # a tier that never answers ends the run
            report = run(
                tmp_path,
                FakeProvider(scripts),
                pool_of(rows, max_output_tokens=50),
                checks=[check_of("regex:1")],
                judge=JUDGE if with_judge else None,
                max_cost_usd=money,
            )
        assert sum(charged) <= money + 1e-12
        if report is not None:
            assert sum(charged) <= report.spent_usd + 1e-12
            assert report.spent_usd <= money + 1e-12


def test_the_run_ends_at_the_first_query_that_does_not_fit(tmp_path: Path) -> None:
    """A shorter one behind it is not taken instead: that would choose queries by length."""
    rows = [{"query": f"double 1 {'x' * (400 if i % 2 else 0)} {i}"} for i in range(40)]
    long_pool = pool_of(rows, max_output_tokens=50)
    report = run(
        tmp_path,
        provider(),
        long_pool,
        checks=[check_of("regex:It")],
        max_cost_usd=0.012,
        n_calls=1,
    )
    assert report.budget_reached and 0 < report.n_begun < 40
    everything = tmp_path / "all"
    everything.mkdir()
    full = run(everything, provider(), long_pool, checks=[check_of("regex:It")], n_calls=1)
    texts = [row.query for row in rows_of(everything / "o.jsonl")]
    assert [row.query for row in rows_of(tmp_path / "o.jsonl")] == texts[: 2 * report.n_begun]
    assert full.n_begun == 40


def test_a_batch_that_is_dearer_than_its_parts_is_bounded_by_itself() -> None:
    odd = {f"batch_{name}": 3 * price for name, price in PRICE.items()}
    tier, book = Tier("small", "fake", "s-1", **PRICE, **odd), PriceBook()
    prompt = pool(1).queries[0].prompt
    one_by_one, in_batch = (
        Bounds(book, limited=True, batch=b).usd(tier, prompt) for b in (False, True)
    )
    assert in_batch == pytest.approx(3 * one_by_one)


def test_a_limit_needs_prices(tmp_path: Path) -> None:
    tiers = TierSet([Tier("small", "fake", "s-1")])
    with pytest.raises(PriceError):
        run(tmp_path, provider(), tiers=tiers, max_cost_usd=1.0)
    report = run(tmp_path, provider(), tiers=tiers)
    assert rows_of(tmp_path / "o.jsonl")[0].cost_usd is None
    assert report.n_outcomes == 6


# ----------------------------------------------------------------------------- going on, and again


@pytest.mark.parametrize("stops_at", [1, 2, 5, 9, 11])
def test_an_interrupted_run_goes_on_and_pays_nothing_twice(tmp_path: Path, stops_at: int) -> None:
    n_calls = 0

    def stopping(prompt: Prompt) -> str:
        nonlocal n_calls
        n_calls += 1
        if n_calls == stops_at:
            raise KeyboardInterrupt
        return doubled(prompt)

    first = provider(**{"s-1": stopping, "l-1": stopping})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first, n_calls=1)
    second = provider(**{"s-1": doubled, "l-1": doubled})
    report = run(tmp_path, second)
    assert report.n_labelled == 6
    answered = asked(first, "s-1", "l-1").total() - 1
    assert report.n_reused == answered
    assert len(second.calls) == 12 - answered
    # Nothing at all is asked a third time.
    third = provider()
    again = run(tmp_path, third)
    assert not third.calls and again.spent_now_usd == 0.0 and again.n_outcomes == 12


def test_a_call_whose_answer_was_lost_counts_at_its_bound(tmp_path: Path) -> None:
    journal = tmp_path / "o.jsonl.journal"
    full = run(tmp_path, provider(), n_calls=1)
    lines = journal.read_bytes().splitlines(keepends=True)
    # Killed after a call was noted, while its answer was being written.
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    with Journal(journal) as kept:
        assert len(kept.answers) == 1 and kept.n_lost == 1
        bound = json.loads(lines[2])["bound_usd"]
        known = json.loads(lines[1])["usd"]
        assert kept.spent_usd == pytest.approx(bound + known)
    fake = provider()
    report = run(tmp_path, fake, n_calls=1)
    assert len(fake.calls) == 11
    assert report.spent_usd == pytest.approx(full.spent_usd + bound)


def test_other_checks_judge_the_same_answers_for_nothing(tmp_path: Path) -> None:
    run(tmp_path, provider())
    fake = provider()
    run(tmp_path, fake, checks=[check_of("exact")])
    assert not fake.calls
    assert [row.success for row in rows_of(tmp_path / "o.jsonl")] == [0.0] * 12


def test_two_runs_at_once_and_a_spoilt_journal_are_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "o.jsonl.journal"),
        pytest.raises(InputError, match="another run is using"),
    ):
        run(tmp_path, provider())
    (tmp_path / "o.jsonl.journal").write_text("{}\n", encoding="utf-8")
    with pytest.raises(InputError, match="number 1, that is none"):
        run(tmp_path, provider())


def test_busy_tiers_are_tried_again(tmp_path: Path) -> None:
    busy = ProviderError("busy", kind="rate-limit")
    fake = provider(**{"s-1": [busy, "2", busy, busy, "4"], "l-1": [busy] * 3 + ["0"]})
    report = run(tmp_path, fake, pool(3), n_calls=1)
    assert report.missing == {"large": {"no answer (rate-limit)": 1}}
    assert run(tmp_path, provider(), pool(3)).n_labelled == 3


def test_a_tier_that_cannot_be_used_stops_the_run_and_spares_the_others(tmp_path: Path) -> None:
    fake = provider(**{"s-1": ProviderError("no", kind="auth")})
    with pytest.raises(ProviderError, match="the tier small, got none, but 1 failures"):
        run(tmp_path, fake, pool(50), n_calls=1)
    assert len(fake.calls) < 10
    gone = provider(**{"l-1": ProviderError("no", kind="refused")})
    with pytest.raises(ProviderError, match="the tier large, got none, but 5 failures"):
        run(tmp_path, gone, pool(50), n_calls=1)
    assert len(gone.calls) < 20


# --------------------------------------------------------------------------------------- the judge


def test_a_judge_sees_what_the_checks_pass_and_is_measured(tmp_path: Path) -> None:
    def judge(prompt: Prompt) -> str:
        text = prompt.messages[-1]["content"]
        return "VERDICT: FAIL" if "8" in text else "VERDICT: PASS"

    fake = provider(**{"j-1": judge})
    known = pool_of([{"query": "double 2"}]).queries[0]
    sample = JudgeSample(
        [Judgement(known, Answer(text)) for text in ("4", "8", "5", "18")],
        np.array([True, False, False, False]),
    )
    report = run(tmp_path, fake, judge=JUDGE, judge_sample=sample, max_cost_usd=1.0)
    # Of the answers 3 of small and all of large pass the check; the same answer to the same
    # question is judged once; "It is 8." is sent back.
    assert asked(fake, "j-1").total() == 6 + 4
    rows = {(row.tier, row.query): row.success for row in rows_of(tmp_path / "o.jsonl")}
    assert rows["large", "double 4"] == rows["small", "double 4"] == 0.0
    assert sum(rows.values()) == 3 + 6 - 2
    assert report.agreement is not None
    assert report.agreement.miss_rate == pytest.approx(1 / 3)
    assert report.agreement.false_alarm_rate == 0.0
    assert 0 < report.spent_on_judge_usd < report.spent_usd
    again = provider(**{"j-1": judge})
    run(tmp_path, again, judge=JUDGE, judge_sample=sample, max_cost_usd=1.0)
    assert not again.calls


def test_money_for_the_judge_is_kept_while_answers_are_bought(tmp_path: Path) -> None:
    report = run(tmp_path, provider(), pool(100), judge=JUDGE, max_cost_usd=0.05, n_calls=4)
    assert report.budget_reached
    # Whatever was answered was judged.
    assert not report.missing and report.n_labelled == report.n_begun > 0


# ----------------------------------------------------------------------------------------- batches


def batched(tmp_path: Path, provider_: Batches, **options: Any) -> LabelReport:
    half = {f"batch_{name}": price / 2 for name, price in PRICE.items()}
    tiers = TierSet(
        [Tier("small", "fake", "s-1", **PRICE, **half), Tier("large", "one", "l-1", **DEAR)]
    )
    tiers = TierSet([*tiers, *options.pop("more", [])])
    with Ledger(tmp_path / "jobs.db") as ledger:
        return label(
            options.pop("queries", pool()), tiers, tmp_path / "o.jsonl",
            checks=[check_of("regex:answer to double 4")],
            providers={"fake": provider_, "one": provider(**{"m-3": doubled})},
            n=options.pop("n", 6), batch_ledger=ledger,
            batch_options={"poll_s": 0.0, "settle_s": 0.0}, **options,
        )  # fmt: skip


def test_in_batches_at_their_price(tmp_path: Path) -> None:
    fake = Batches(tmp_path / "provider")
    report = batched(tmp_path, fake)
    assert report.n_labelled == 6 and set(fake.handed_in.values()) == {1}
    rows = [row for row in rows_of(tmp_path / "o.jsonl") if row.tier == "small"]
    assert {row.query for row in rows if row.success} == {"double 4"}
    # What serving will cost is the standard price; what was paid is half of it.
    assert all(row.cost_usd == pytest.approx(1400e-6) for row in rows)
    large = [row for row in rows_of(tmp_path / "o.jsonl") if row.tier == "large"]
    paid = report.spent_usd - sum(row.cost_usd or 0.0 for row in large)
    assert 0 < paid <= 6 * 700e-6 + 1e-9
    assert batched(tmp_path, fake).spent_now_usd == 0.0
    assert set(fake.handed_in.values()) == {1}


class Killed(BaseException):
    """The process ends."""


@pytest.mark.parametrize("at", ["before submit", "after submit", "after status", "before result"])
def test_a_batch_whose_run_was_killed_is_found_again(tmp_path: Path, at: str) -> None:
    def trace(step: str) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        batched(tmp_path, Batches(tmp_path / "provider", trace))
    fake = Batches(tmp_path / "provider")
    report = batched(tmp_path, fake)
    assert report.n_labelled == 6
    assert set(fake.handed_in.values()) == {1}
    assert report.spent_usd == pytest.approx(batched(tmp_path, fake).spent_usd)


EDITS: list[dict[str, Any]] = [
    {"more": [Tier("third", "one", "m-3", **DEAR)]},
    {"queries": pool(task="sums")},
]


@pytest.mark.parametrize("edit", EDITS, ids=["tiers", "rows"])
@pytest.mark.parametrize("at", ["after status", "before result"])
def test_an_edit_after_the_hand_in_pays_no_batch_twice(
    tmp_path: Path, at: str, edit: dict[str, Any]
) -> None:
    def trace(step: str) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        batched(tmp_path, Batches(tmp_path / "provider", trace))
    fake = Batches(tmp_path / "provider")
    report = batched(tmp_path, fake, **edit)
    assert report.n_labelled == 6 and set(fake.handed_in.values()) == {1}


@pytest.mark.parametrize("edit", EDITS, ids=["tiers", "rows"])
@pytest.mark.parametrize("at", ["before submit", "after submit"])
def test_an_edit_while_a_hand_in_is_in_doubt_is_refused(
    tmp_path: Path, at: str, edit: dict[str, Any]
) -> None:
    def trace(step: str) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        batched(tmp_path, Batches(tmp_path / "provider", trace))
    fake = Batches(tmp_path / "provider")
    n_batches = len(fake.batches())
    with pytest.raises(InputError, match=r"for the tier small, got edited ones.*another --out"):
        batched(tmp_path, fake, **edit)
    assert len(fake.batches()) == n_batches
    # The edit undone, it goes on.
    report = batched(tmp_path, fake)
    assert report.n_labelled == 6 and set(fake.handed_in.values()) == {1}


@pytest.mark.parametrize("at", ["hand-in", "look"])
def test_a_key_refused_in_the_middle_forgets_no_batch(tmp_path: Path, at: str) -> None:
    (tmp_path / "o.jsonl").write_text("what stood there\n")
    fake = Batches(tmp_path / "provider")
    if at == "look":
        fake.status_fails = [failure("auth")]
    else:
        fake.submit_fails = [(failure("auth"), False)] * 9
    with pytest.raises(ProviderError, match=r"job b\w+ for the tier small .* 6 open rows \(.*auth"):
        batched(tmp_path, fake, max_cost_usd=1.0)
    assert (tmp_path / "o.jsonl").read_text() == "what stood there\n"
    with Journal(tmp_path / "o.jsonl.journal") as journal:
        # Both tiers' batches are open, at their bounds.
        assert {record["tier"] for record in journal.handed_in.values()} == {"small", "large"}
        bounds = [record["bound_usd"] for record in journal.handed_in.values()]
        assert journal.spent_usd == pytest.approx(sum(bounds)) and min(bounds) > 0
    fake.submit_fails = []
    report = batched(tmp_path, fake, max_cost_usd=1.0)
    assert report.n_labelled == 6 and set(fake.handed_in.values()) == {1}
    assert report.spent_usd < sum(bounds)
    assert len(rows_of(tmp_path / "o.jsonl")) == 12


def test_batches_keep_the_budget_in_rounds(tmp_path: Path) -> None:
    fake = Batches(tmp_path / "provider")
    # Bounds are far above what answers cost here, so that one round does not take them all.
    report = batched(tmp_path, fake, max_cost_usd=0.02)
    assert report.spent_usd <= 0.02
    assert 0 < report.n_begun <= 6
    assert max(fake.handed_in.values()) == 1


# --------------------------------------------------------------------------------------- selection


def test_earlier_outcomes_are_carried_and_not_paid_again(tmp_path: Path) -> None:
    run(tmp_path, provider(), pool(4))
    first = tmp_path / "first.jsonl"
    (tmp_path / "o.jsonl").rename(first)
    (tmp_path / "o.jsonl.journal").unlink()
    fake = provider()
    report = run(tmp_path, fake, pool(6), labelled=read_labelled(first, TIERS))
    assert (report.n_begun, report.n_carried, len(fake.calls)) == (2, 8, 4)
    table = read_outcomes(tmp_path / "o.jsonl", TIERS)
    assert table.n_requests == 6 and table.complete.all()


def test_what_was_chosen_and_is_drawn_later_counts_as_drawn_for_nothing(tmp_path: Path) -> None:
    run(tmp_path, provider(), pool(4))
    first = tmp_path / "first.jsonl"
    rows = [
        json.loads(line) | {"sampling": "chosen", "split": "train"}
        for line in (tmp_path / "o.jsonl").read_text().splitlines()
    ]
    first.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "o.jsonl.journal").unlink()
    fake = provider()
    report = run(tmp_path, fake, pool(8), n=5, labelled=read_labelled(first, TIERS))
    # Five are drawn of all eight, whether they were chosen before or not.
    assert report.n_drawn_again + report.n_begun == 5
    assert 0 < report.n_drawn_again < 5
    table = read_outcomes(tmp_path / "o.jsonl", TIERS)
    assert table.at_random.sum() == 5
    drawn = {row.query for row in rows_of(tmp_path / "o.jsonl") if row.sampling == "random"}
    alone = tmp_path / "alone"
    alone.mkdir()
    run(alone, provider(), pool(8), n=5)
    # And they are the same five that would have been drawn without an earlier round.
    assert drawn == {row.query for row in rows_of(alone / "o.jsonl")}
    assert not (split_table(table).test & ~table.at_random).any()


def test_arguments_that_make_no_sense_are_one_sentence(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n": None}, "neither: give --n, --max-cost"),
        ({"n": 0}, "at least 1 query"),
        ({"choose": "best"}, "among random and value"),
        ({"choose": "value"}, "expected an artifact"),
        ({"checks": ()}, "expected a way to judge"),
        ({"queries": pool_of([{"q": 1}])}, "1 x it has neither query nor messages"),
        ({"max_cost_usd": -1.0}, "max_cost_usd"),
        ({"n_calls": 0}, "at least 1 call"),
    ]
    for options, sentence in wrong:
        queries = options.pop("queries", None)
        with pytest.raises(InputError, match=sentence):
            run(tmp_path, provider(), queries, **options)


def test_chosen_rows_say_so_and_train_only(tmp_path: Path) -> None:
    router = Router.load()
    tiers = TierSet([Tier(name, "fake", f"m-{name}", **PRICE) for name in router.tiers.names])
    fake = FakeProvider("It is 4.")
    options: dict[str, Any] = {"choose": "value", "router": router, "n": 10}
    report = run(tmp_path, fake, pool(30), tiers=tiers, **options)
    assert (report.n_random, report.n_chosen) == (3, 7)
    rows = rows_of(tmp_path / "o.jsonl")
    assert Counter((row.sampling, row.split) for row in rows) == {
        ("random", None): 9,
        ("chosen", "train"): 21,
    }
    assert report.expected_usd is not None and report.expected_usd > 0
    assert run(tmp_path, fake, pool(30), tiers=tiers, **options).n_reused == 30
