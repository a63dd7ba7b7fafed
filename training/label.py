"""``label``: queries in, outcomes of every tier out, within a budget; what is paid is kept.

select -> run on every tier -> judge -> write outcomes that ``train`` reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from router.client.retrying import Retrying
from router.errors import InputError
from router.prices import PriceBook
from router.providers.base import Provider
from router.tiers import Tier, TierSet
from training.label_checks import Check
from training.label_input import LabelQuery, Pool
from training.label_journal import Journal, Purse
from training.label_judge import Agreement, Judge, JudgeSample, agreement
from training.label_outcomes import Verdicts, carried, n_complete, outcomes_of, rates, write
from training.label_run import Bounds, OneByOne, RunEverywhere, Say, not_taken
from training.label_select import (
    RANDOM_SHARE,
    Labelled,
    Selection,
    select_by_value,
    select_random,
)

if TYPE_CHECKING:
    from router.ledger import Ledger
    from router.routing import Router

CHOICES = ("random", "value")


@dataclass(frozen=True)
class LabelReport:
    """What a run of labelling did.

    ``n_labelled`` of the ``n_begun`` queries have the outcome of every tier. ``missing`` counts
    outcomes that there are not, by tier and reason. ``spent_usd`` is of all runs with this journal,
    ``spent_now_usd`` of this one; both take a call of which nothing came back at its bound.
    ``is_written`` is False where queries were to be labelled and none was: ``out`` is as it was.
    """

    out: str
    n_rows: int
    n_queries: int
    n_copies: int
    rejected: dict[str, int]
    n_selected: int
    n_begun: int
    n_random: int
    n_chosen: int
    n_drawn_again: int
    n_carried: int
    n_labelled: int
    n_outcomes: int
    n_reused: int
    n_cut_off: int
    missing: dict[str, dict[str, int]]
    success_rate: dict[str, float | None]
    budget_reached: bool
    expected_usd: float | None
    spent_usd: float
    spent_now_usd: float
    spent_on_judge_usd: float
    is_written: bool = True
    agreement: Agreement | None = None
    examples: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return found | {"agreement": None if self.agreement is None else self.agreement.to_dict()}


def label(
    pool: Pool,
    tiers: TierSet,
    out: str | Path,
    *,
    checks: Sequence[Check] = (),
    judge: Tier | None = None,
    judge_sample: JudgeSample | None = None,
    providers: Mapping[str, Provider],
    choose: str = "random",
    router: Router | None = None,
    n: int | None = None,
    max_cost_usd: float | None = None,
    random_share: float = RANDOM_SHARE,
    labelled: Labelled | None = None,
    seed: int = 0,
    batch_ledger: Ledger | None = None,
    batch_options: Mapping[str, Any] | None = None,
    n_calls: int = 8,
    retrying: Retrying | None = None,
    price_book: PriceBook | None = None,
    on_progress: Say = lambda _: None,
) -> LabelReport:
    """Label queries and write their outcomes to ``out``.

    Answers are kept in ``<out>.journal``; the same call again goes on where it stopped and pays for
    nothing twice. With other checks the answers that are there are judged anew.

    Args:
        pool: Queries (`training.label_input`).
        tiers: Where each of them is run.
        out: Outcomes, as JSON lines; replaced at the end, unless queries were to be labelled and
            none was.
        checks: How answers are judged; all must pass.
        judge: A model that judges what passes the checks.
        judge_sample: Labelled answers, to measure the judge on.
        providers: By id.
        choose: "random", or "value" (``training/label_choice.py``), which needs a ``router``.
        router: What the choice rests on.
        n: So many queries.
        max_cost_usd: No more than this is spent by all runs on this journal together, the judge
            included.
        random_share: With "value": the share that is drawn at random all the same.
        labelled: Outcomes that are there already; they are carried into ``out``.
        seed: Of the random order.
        batch_ledger: Where batch jobs are kept; None asks one by one, at standard prices.
        batch_options: More arguments of `router.batch.BatchJobs`.
        n_calls: Calls at the same time.
        retrying: When a failed call is tried again.
        price_book: Prices.
        on_progress: Is told how far it is.

    Raises:
        InputError: an argument is at fault, or a price is needed for the limit and unknown.
        ProviderError: a tier cannot be used at all, or a batch is not done and cannot go on.
    """
    out, book = Path(out), PriceBook() if price_book is None else price_book
    labelled = Labelled() if labelled is None else labelled
    _check(pool, choose, router, n, max_cost_usd, checks, judge)
    queries, rejected = _taken(pool, tiers)
    selection = _select(
        queries, labelled, tiers, choose, router, n, max_cost_usd, random_share, seed,
        batch_ledger is not None, book, on_progress,
    )  # fmt: skip
    with Journal(out.with_name(out.name + ".journal")) as journal:
        before_usd = journal.spent_usd
        purse = Purse(max_cost_usd, before_usd)
        bounds = Bounds(book, limited=max_cost_usd is not None, batch=batch_ledger is not None)
        model = None
        if judge is not None:
            model = Judge(judge, providers[judge.provider], journal, purse, bounds)
        verdicts = Verdicts(checks, model, journal)
        said = None
        if model is not None and judge_sample is not None:
            said = _measured(model, judge_sample, n_calls, on_progress)
        run: RunEverywhere
        if batch_ledger is None:
            run = OneByOne(
                providers, journal, purse, bounds, after_usd=verdicts.cost_usd, n_calls=n_calls,
                retrying=retrying, on_progress=on_progress,
            )  # fmt: skip
        else:
            from router.batch import BatchJobs
            from training.label_batch import InBatches

            def jobs_of(tiers: TierSet) -> BatchJobs:
                given = {"n_calls": n_calls, "on_progress": on_progress, **(batch_options or {})}
                return BatchJobs(
                    batch_ledger, tiers=tiers, providers=providers, price_book=book, **given
                )

            run = InBatches(
                jobs_of,
                journal,
                purse,
                bounds,
                after_usd=verdicts.cost_usd,
                on_progress=on_progress,
            )
        ran = run(selection.queries, tiers)
        begun = selection.queries[: ran.n_begun]
        outcomes, n_cut_off = outcomes_of(
            begun,
            tiers,
            selection,
            ran,
            verdicts,
            journal,
            purse,
            book=book,
            n_calls=n_calls,
            on_progress=on_progress,
        )
        kept = carried(labelled, selection, {query.query_hash for query in begun})
        is_written = bool(outcomes) or not selection.queries
        if is_written:
            write(out, [*kept, *outcomes])
        spent_usd = journal.spent_usd
    random_ones = [q for q in begun if selection.sampling[q.query_hash] == "random"]
    return LabelReport(
        out=str(out),
        n_rows=pool.n_rows,
        n_queries=len(pool.queries),
        n_copies=pool.n_copies,
        rejected=rejected,
        n_selected=len(selection.queries),
        n_begun=len(begun),
        n_random=len(random_ones),
        n_chosen=len(begun) - len(random_ones),
        n_drawn_again=len(selection.drawn_again),
        n_carried=len(kept),
        n_labelled=n_complete(outcomes, len(tiers)),
        n_outcomes=len(outcomes),
        n_reused=ran.n_reused,
        n_cut_off=n_cut_off,
        missing={tier: dict(reasons) for tier, reasons in ran.missing.items()},
        success_rate=rates(outcomes, tiers),
        budget_reached=ran.budget_reached,
        expected_usd=selection.expected_usd,
        spent_usd=spent_usd,
        spent_now_usd=spent_usd - before_usd,
        spent_on_judge_usd=0.0 if model is None else model.spent_usd,
        is_written=is_written,
        agreement=said,
        examples=pool.examples,
    )


def _check(
    pool: Pool,
    choose: str,
    router: Router | None,
    n: int | None,
    max_cost_usd: float | None,
    checks: Sequence[Check],
    judge: Tier | None,
) -> None:
    if choose not in CHOICES:
        raise InputError(
            f"expected a choice among {' and '.join(CHOICES)}, got {choose!r}: take one of them."
        )
    if choose == "value" and router is None:
        raise InputError(
            "expected an artifact with the choice by value, got none: give one (--artifact), or "
            "choose at random."
        )
    if n is None and max_cost_usd is None:
        raise InputError(
            "expected a number of queries or a limit in dollars, got neither: give --n, --max-cost "
            "or both."
        )
    if n is not None and n < 1:
        raise InputError(f"expected at least 1 query to label, got {n}: give for example 500.")
    if not checks and judge is None:
        raise InputError(
            "expected a way to judge answers, got none: give --check (exact, contains, "
            "regex:PATTERN, json-schema, unit-test:COMMAND), --judge PROVIDER/MODEL, or both."
        )
    if not pool.queries:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in pool.rejects.items())
        raise InputError(
            f"expected queries to label, got none ({reasons or 'no rows'}): correct the input."
        )


def _taken(pool: Pool, tiers: TierSet) -> tuple[list[LabelQuery], dict[str, int]]:
    """Queries that every tier can take, and all that was left out by reason."""
    kept, rejected = [], Counter(pool.rejects)
    for query in pool.queries:
        reason = not_taken(query, tiers)
        if reason is None:
            kept.append(query)
        else:
            rejected[reason] += 1
    return kept, dict(rejected)


def _select(
    queries: Sequence[LabelQuery],
    labelled: Labelled,
    tiers: TierSet,
    choose: str,
    router: Router | None,
    n: int | None,
    max_cost_usd: float | None,
    random_share: float,
    seed: int,
    batch: bool,
    book: PriceBook,
    say: Say,
) -> Selection:
    if choose == "random":
        return select_random(queries, labelled, n=n, seed=seed)
    assert router is not None
    return select_by_value(
        queries,
        labelled,
        router,
        tiers,
        n=n,
        max_usd=max_cost_usd,
        random_share=random_share,
        seed=seed,
        batch=batch,
        price_book=book,
        on_progress=say,
    )


def _measured(judge: Judge, sample: JudgeSample, n_calls: int, say: Say) -> Agreement:
    """The judge on the labelled sample."""
    say(f"measuring the judge: {len(sample.judgements):,} labelled answers")
    found = [passed for passed, _ in judge.judge_many(sample.judgements, n_calls=n_calls)]
    known = np.array([passed is not None for passed in found])
    passed = np.array([bool(passed) for passed in found])
    return agreement(passed[known], sample.success[known], n_unjudged=int((~known).sum()))
