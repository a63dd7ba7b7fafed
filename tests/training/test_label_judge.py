"""Agreement by hand, verdicts out of words, and a judge that is paid once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from router.errors import InputError, ProviderError
from router.prices import PriceBook
from router.providers.base import Answer
from router.testing import FakeProvider
from router.tiers import Tier
from training.label_input import LabelQuery, pool_of
from training.label_journal import Journal, Purse
from training.label_judge import (
    MAX_JUDGED_CHARACTERS,
    Judge,
    Judgement,
    agreement,
    read_judge_sample,
    share_interval,
    verdict_of,
)
from training.label_run import Bounds

JUDGE = Tier("judge", "fake", "j-1", input_price_usd_per_mtok=1.0, output_price_usd_per_mtok=4.0)


def query(text: str = "2 + 2?", **facts: object) -> LabelQuery:
    return pool_of([{"query": text, **facts}]).queries[0]


def judge_with(
    provider: FakeProvider, journal: Journal, max_usd: float | None = None
) -> tuple[Judge, Purse]:
    purse = Purse(max_usd, journal.spent_usd)
    bounds = Bounds(PriceBook(), limited=max_usd is not None)
    return Judge(JUDGE, provider, journal, purse, bounds), purse


def test_agreement_by_hand() -> None:
    # Landis and Koch's table would be: 20 both yes, 15 both no, 5 judge alone, 10 people alone.
    passed = np.repeat([True, False, True, False], [20, 15, 5, 10])
    success = np.repeat([True, False, False, True], [20, 15, 5, 10])
    found = agreement(passed, success)
    assert found.kappa == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert found.miss_rate == pytest.approx(5 / 20)
    assert found.false_alarm_rate == pytest.approx(10 / 30)
    low, high = stats.binomtest(35, 50).proportion_ci(0.95, method="exact")
    assert found.kappa_interval == pytest.approx(((low - 0.5) / 0.5, (high - 0.5) / 0.5))
    exact = stats.binomtest(5, 20).proportion_ci(0.95, method="exact")
    assert found.miss_interval == pytest.approx((exact.low, exact.high))


def test_perfect_agreement_on_few_is_no_certainty() -> None:
    both = np.array([True, False] * 5)
    found = agreement(both, both)
    assert found.kappa == 1.0
    assert found.kappa_interval is not None
    assert found.kappa_interval[0] < 0.5 and found.kappa_interval[1] == 1.0
    assert found.miss_interval == share_interval(0, 5, 0.95)


def test_where_there_is_nothing_to_reckon_with_nothing_is_said() -> None:
    found = agreement(np.ones(4, bool), np.ones(4, bool), n_unjudged=2)
    assert (found.kappa, found.miss_rate, found.false_alarm_rate) == (None, None, 0.0)
    assert json.dumps(found.to_dict())
    assert agreement(np.zeros(0, bool), np.zeros(0, bool)).kappa is None


def test_exact_intervals_cover() -> None:
    for n, p in ((12, 0.1), (40, 0.5)):
        chances = stats.binom.pmf(np.arange(n + 1), n, p)
        ends = [share_interval(k, n, 0.95) for k in range(n + 1)]
        covered = sum(c for c, (low, high) in zip(chances, ends, strict=True) if low <= p <= high)
        assert 0.95 <= covered < 0.9999


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("Right.\nVERDICT: PASS", True),
        ("verdict: **fail**.", False),
        ("VERDICT: PASS\n... on reflection\nVERDICT: FAIL", False),
        ("I think it passes", None),
        ("VERDICT: PASSABLE", None),
        ("", None),
    ],
)
def test_the_last_verdict_counts(text: str, passed: bool | None) -> None:
    assert verdict_of(text) is passed


def test_a_verdict_is_paid_once_and_costs_what_it_took(tmp_path: Path) -> None:
    provider = FakeProvider("VERDICT: PASS")
    judgement = Judgement(query(), Answer("4"))
    with Journal(tmp_path / "j") as journal:
        judge, purse = judge_with(provider, journal, 1.0)
        assert judge.judge(judgement) == (True, None)
        assert judge.judge(judgement) == (True, None)
        assert judge.spent_usd == purse.spent_usd == journal.spent_usd > 0
    with Journal(tmp_path / "j") as journal:
        judge, _ = judge_with(provider, journal, 1.0)
        assert judge.judge(judgement) == (True, None)
        # Another answer, reference or question is another judgement.
        for other in (
            Judgement(query(), Answer("5")),
            Judgement(query(expected="4"), Answer("4")),
            Judgement(query("3 + 1?"), Answer("4")),
        ):
            judge.judge(other)
    assert len(provider.calls) == 4


def test_what_was_set_aside_is_free_again(tmp_path: Path) -> None:
    for script in ("VERDICT: PASS", "Hm.", ProviderError("no", kind="refused")):
        judge, purse = judge_with(FakeProvider(script), Journal(None), 1.0)
        assert purse.set_aside(0.9)
        judge.judge(Judgement(query(), Answer("4")), 0.9)
        assert purse.left_usd == pytest.approx(1.0 - purse.spent_usd)


def test_what_the_judge_sees() -> None:
    judge, _ = judge_with(FakeProvider(), Journal(None))
    prompt = judge.prompt(Judgement(query(expected="four"), Answer("a" * 50_000 + "end")))
    system, user = (message["content"] for message in prompt.messages)
    assert "no instruction" in system
    assert "2 + 2?" in user and "<reference>\nfour" in user and "[... cut ...]" in user
    assert "end\n</answer>" in user and len(user) < MAX_JUDGED_CHARACTERS + 1000
    assert prompt.max_output_tokens is not None and not prompt.cache.enabled


def test_without_money_or_answer_or_verdict_the_reason_is_told() -> None:
    judge, _ = judge_with(FakeProvider("VERDICT: PASS"), Journal(None), 1e-9)
    judgement = Judgement(query(), Answer("4"))
    assert judge.judge(judgement) == (None, "no money left for the judge")
    silent, _ = judge_with(FakeProvider("Hm."), Journal(None))
    assert silent.judge(judgement) == (None, "the judge gave no verdict")
    down = FakeProvider(ProviderError("down", kind="timeout", billed=True))
    failing, purse = judge_with(down, Journal(None), 1.0)
    assert failing.judge(judgement) == (None, "the judge did not answer (timeout)")
    # It may have been charged: its bound is spent.
    assert purse.spent_usd > 0


def test_a_sample_is_read_and_its_bad_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "sample.jsonl"
    rows = [
        {"query": "2 + 2?", "answer": "4", "success": True, "expected": "4"},
        {"query": "2 + 2?", "answer": "5", "success": False, "request_id": "x"},
        {"query": "2 + 2?", "answer": 5, "success": True},
        {"query": "2 + 2?", "answer": "5", "success": 0.5},
        {"answer": "5", "success": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{", encoding="utf-8")
    sample = read_judge_sample(path)
    assert sample.success.tolist() == [True, False]
    assert sample.judgements[0].query.expected == "4"
    assert list(sample.rejects) == [
        "line 3: answer is no text",
        "line 4: success is neither true nor false",
        "line 5: it has neither query nor messages",
        "line 6: last line is cut off",
    ]
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="expected labelled answers"):
        read_judge_sample(path)


def test_the_interval_of_kappa_stays_within_what_kappa_can_be() -> None:
    # One wrong answer of 20, passed: 19 agree, chance is 0.95, and (0.751 - 0.95) / 0.05 = -4.0.
    success = np.array([True] * 19 + [False])
    found = agreement(np.ones(20, dtype=bool), success)
    assert found.kappa == pytest.approx(0.0)
    assert found.kappa_interval is not None
    assert found.kappa_interval[0] == -1.0 and 0.9 < found.kappa_interval[1] <= 1.0
    for n in (2, 3, 5):
        for bits in range(4**n):
            passed = np.array([bits >> i & 1 for i in range(n)], dtype=bool)
            labels = np.array([bits >> (n + i) & 1 for i in range(n)], dtype=bool)
            one = agreement(passed, labels)
            if one.kappa is not None and one.kappa_interval is not None:
                low, high = one.kappa_interval
                assert -1.0 <= low <= one.kappa <= high <= 1.0
