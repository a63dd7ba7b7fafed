"""From answers to outcomes: judged, priced as serving will be, and written with earlier rounds'."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from router.errors import InputError
from router.outcomes import Outcome
from router.prices import PriceBook
from router.tiers import Tier, TierSet
from training.label_checks import Check, judged
from training.label_input import LabelQuery
from training.label_journal import Answered, Journal, Purse
from training.label_judge import Judge, Judgement
from training.label_run import Ran, Say, model_of
from training.label_select import Labelled, Selection
from training.split import query_hash


class Verdicts:
    """Checks first, which cost nothing; then the judge, on what passes them."""

    def __init__(self, checks: Sequence[Check], judge: Judge | None, journal: Journal) -> None:
        self.judge, self._checks, self._journal = judge, checks, journal
        self._checked: dict[tuple[str, str], bool | None] = {}

    def checked(self, query: LabelQuery, tier: Tier) -> bool | None:
        """What the checks say of an answer that is there; each is asked once."""
        name = query.key, model_of(tier)
        if name not in self._checked:
            answer = self._journal.answers[name].answer
            self._checked[name] = judged(self._checks, query, answer)
        return self._checked[name]

    def cost_usd(self, query: LabelQuery, tier: Tier) -> float:
        """What judging can cost: nothing without a judge, or where it has spoken or need not."""
        if self.judge is None:
            return 0.0
        found = self._journal.answers.get((query.key, model_of(tier)))
        if found is not None:
            key = self.judge.key(Judgement(query, found.answer))
            if key in self._journal.verdicts or self.checked(query, tier) is not True:
                return 0.0
        return self.judge.aside_usd(query)


def outcomes_of(
    queries: Sequence[LabelQuery],
    tiers: TierSet,
    selection: Selection,
    ran: Ran,
    verdicts: Verdicts,
    journal: Journal,
    purse: Purse,
    *,
    book: PriceBook,
    n_calls: int = 8,
    on_progress: Say = lambda _: None,
) -> tuple[list[Outcome], int]:
    """Outcomes of all answers that could be judged; the others are counted in ``ran.missing``.

    The second is how many answers were cut off at their longest.
    """
    cells = [
        (query, tier, journal.answers[name])
        for query in queries
        for tier in tiers
        if (name := (query.key, model_of(tier))) in journal.answers
    ]
    passed: list[bool | None] = []
    for done, (query, tier, _) in enumerate(cells, start=1):
        passed.append(verdicts.checked(query, tier))
        on_progress(f"checking: {done:,} of {len(cells):,} answers")
    reasons = ["the check could not tell" if verdict is None else None for verdict in passed]
    if verdicts.judge is not None:
        asked = [place for place, verdict in enumerate(passed) if verdict is True]
        names = [(cells[place][0].key, model_of(cells[place][1])) for place in asked]
        aside = [ran.aside_usd.pop(name, 0.0) for name in names]
        # What was kept for answers that the judge need not see.
        purse.pay(sum(ran.aside_usd.values()), 0.0)
        said = verdicts.judge.judge_many(
            [Judgement(cells[place][0], cells[place][2].answer) for place in asked],
            aside,
            n_calls=n_calls,
            on_progress=on_progress,
        )
        for place, (verdict, reason) in zip(asked, said, strict=True):
            passed[place], reasons[place] = verdict, reason
    outcomes = []
    for (query, tier, found), verdict, reason in zip(cells, passed, reasons, strict=True):
        if reason is None and found.usage is None:
            reason = "the provider did not say how many tokens it took"
        if reason is not None or verdict is None:
            ran.missing.setdefault(tier.name, Counter())[reason or "unknown"] += 1
            continue
        outcomes.append(_outcome(query, tier, found, verdict, selection, book))
    n_cut_off = sum(found.finish_reason == "length" for _, _, found in cells)
    return outcomes, n_cut_off


def _outcome(
    query: LabelQuery,
    tier: Tier,
    found: Answered,
    passed: bool,
    selection: Selection,
    book: PriceBook,
) -> Outcome:
    """The row: what serving this answer would cost, at standard prices and without a cache."""
    assert found.usage is not None
    sampling = selection.sampling[query.query_hash]
    price = book.find(tier)
    cost = None
    if price is not None:
        cost = price.cost_usd(found.usage.input_tokens, found.usage.output_tokens)
    return Outcome(
        request_id=query.request_id,
        query=query.query,
        success=float(passed),
        tier=tier.name,
        model=tier.model,
        cost_usd=cost,
        input_tokens=found.usage.input_tokens,
        output_tokens=found.usage.output_tokens,
        task=query.task,
        latency_s=found.latency_s,
        at=None if found.at is None else datetime.fromisoformat(found.at),
        split="train" if sampling == "chosen" else query.split,
        sampling=sampling,
    )


def carried(labelled: Labelled, selection: Selection, run_now: set[int]) -> list[Outcome]:
    """Outcomes of earlier rounds, without what is run anew; what is drawn now counts as drawn."""
    kept = []
    for outcome in labelled.outcomes:
        text = query_hash(outcome.query)
        if text in run_now:
            continue
        if text in selection.drawn_again and outcome.sampling == "chosen":
            # Its split was "train" because it was chosen.
            outcome = replace(outcome, sampling="random", split=None)
        kept.append(outcome)
    return kept


def write(out: Path, outcomes: Sequence[Outcome]) -> None:
    """All at once: what stood there stays until everything is written."""
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("w", encoding="ascii", newline="\n") as file:
            for outcome in outcomes:
                file.write(json.dumps(outcome.to_mapping(), allow_nan=False) + "\n")
        os.replace(partial, out)
    except OSError as error:
        raise InputError(
            f"expected to write outcomes to {out}, got {error.strerror or 'an error'}: make room, "
            "and run the same command again; nothing is paid twice."
        ) from None


def n_complete(outcomes: Sequence[Outcome], n_tiers: int) -> int:
    """Requests that have the outcome of every tier."""
    counts = Counter(outcome.request_id for outcome in outcomes)
    return sum(count == n_tiers for count in counts.values())


def rates(outcomes: Sequence[Outcome], tiers: TierSet) -> dict[str, float | None]:
    """Success rate by tier, None where it has no outcome."""
    found: dict[str, float | None] = {}
    for name in tiers.names:
        own = [outcome.success for outcome in outcomes if outcome.tier == name]
        found[name] = sum(own) / len(own) if own else None
    return found
