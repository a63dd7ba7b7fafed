"""Every query on every tier by batch jobs, at batch prices; durable through the jobs' own ledger.

What is handed in is noted in the journal before, and the job's id after, by which a later run finds
it. A run that was interrupted in between hands the same rows in again under the same name, which is
the same job; were they or the tiers edited, it would be another and paid again, and is refused.
Where a limit holds, as many queries are handed in as their bounds allow; what they cost less than
that is for the next round.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from router.errors import InputError, ProviderError
from router.tiers import Tier, TierSet
from router.usage import Usage
from training.label_input import LabelQuery
from training.label_journal import Answered, Journal, Purse
from training.label_run import (
    AfterUsd,
    Bounds,
    Ran,
    Say,
    model_of,
    nothing_after,
    plan,
    with_missing,
)

if TYPE_CHECKING:
    from router.batch import BatchJobs
    from router.batch.report import RowResult

DEADLINE_S = 86_400.0
_SENT = ("messages", "tools", "max_output_tokens", "temperature", "task")


class InBatches:
    """The seam's way through batch jobs.

    Args:
        jobs_of: Makes the jobs for a set of tiers; they keep their own ledger.
        journal: Where answers go, and are found.
        purse: What may be spent.
        bounds: Of calls.
        after_usd: What to set aside for judging one answer.
        deadline_s: Until when answers are wanted; slower providers are asked one by one.
        on_progress: Is told how far it is.
    """

    def __init__(
        self,
        jobs_of: Callable[[TierSet], BatchJobs],
        journal: Journal,
        purse: Purse,
        bounds: Bounds,
        *,
        after_usd: AfterUsd = nothing_after,
        deadline_s: float = DEADLINE_S,
        on_progress: Say = lambda _: None,
    ) -> None:
        self._jobs_of, self._journal, self._purse = jobs_of, journal, purse
        self._bounds, self._after_usd = bounds, after_usd
        self._deadline_s, self._say = deadline_s, on_progress

    def __call__(self, queries: Sequence[LabelQuery], tiers: TierSet) -> Ran:
        """See `RunEverywhere`."""
        jobs, ran = self._jobs_of(tiers), Ran()
        by_key = {query.key: query for query in queries}
        self._collect_old(jobs, tiers, by_key)
        left = list(queries)
        while left:
            part: dict[str, list[tuple[LabelQuery, float]]] = {}
            for query in left:
                wanted = plan(query, tiers, self._journal, self._bounds, self._after_usd)
                fits = self._purse.set_aside(wanted.usd)
                if not fits and wanted.call_usd:
                    break
                ran.aside_usd |= wanted.after_usd if fits else {}
                ran.n_begun += 1
                ran.n_calls += len(wanted.call_usd)
                ran.n_reused += len(tiers) - len(wanted.call_usd)
                for name, usd in wanted.call_usd.items():
                    part.setdefault(name, []).append((query, usd))
            if not part and ran.n_begun < len(queries):
                ran.budget_reached = True
                break
            left = list(queries[ran.n_begun :])
            self._run(jobs, tiers, part, ran)
        return with_missing(ran, queries, tiers, self._journal)

    def _run(
        self,
        jobs: BatchJobs,
        tiers: TierSet,
        part: dict[str, list[tuple[LabelQuery, float]]],
        ran: Ran,
    ) -> None:
        """Hand in one round, wait for it, and note its answers."""
        open_: list[tuple[Tier, str, str]] = []
        for tier in tiers:
            if tier.name in part:
                rows = part[tier.name]
                name = f"label-{uuid.uuid4().hex}"
                keys = [query.key for query, _ in rows]
                queries = [query for query, _ in rows]
                self._journal.handing_in(
                    name,
                    tier.name,
                    model_of(tier),
                    keys,
                    self._digest(tier, tiers, queries),
                    sum(usd for _, usd in rows),
                )
                self._say(f"handing in: {len(rows):,} queries for {tier.name}")
                open_.append((tier, name, self._submit(jobs, tier, name, queries)))
        for tier, name, job_id in open_:
            before_usd = self._journal.spent_usd
            self._collect(jobs, tier, name, job_id, [query for query, _ in part[tier.name]])
            aside = sum(usd for _, usd in part[tier.name])
            paid = self._journal.spent_usd - before_usd + aside
            for query, _ in part[tier.name]:
                if (query.key, model_of(tier)) not in self._journal.answers:
                    aside += ran.aside_usd.pop((query.key, model_of(tier)), 0.0)
            self._purse.pay(aside, paid)

    def _collect_old(self, jobs: BatchJobs, tiers: TierSet, by_key: dict[str, LabelQuery]) -> None:
        """Batches that an earlier run handed in and did not see the end of."""
        before_usd = self._journal.spent_usd
        found = list(self._journal.handed_in.items())
        for _, record in found:  # all of them, before any is gone on with
            if record["tier"] not in tiers.names or not by_key.keys() >= set(record["keys"]):
                raise InputError(
                    f"expected the queries of a batch that an earlier run handed in for the tier "
                    f"{record['tier']}, got others: give the same queries, tiers, --n and --seed "
                    "as then, or write to other outcomes."
                )
            tier = tiers[tiers.index(record["tier"])]
            rows = [by_key[key] for key in record["keys"]]
            is_same = record.get("model") in (None, model_of(tier))
            if "job_id" not in record and "digest" in record:
                is_same = record["digest"] == self._digest(tier, tiers, rows)
            if not is_same:
                raise InputError(
                    f"expected the tiers and rows of a batch that an earlier run was handing in "
                    f"for the tier {tier.name}, got edited ones, with which it would be paid "
                    "twice: undo the edit until it is collected, write to another --out, or "
                    "delete the journal, which knows what was paid."
                )
        for name, record in found:
            tier = tiers[tiers.index(record["tier"])]
            rows = [by_key[key] for key in record["keys"]]
            self._say(f"finding again: {len(rows):,} queries for {tier.name}")
            job_id = record.get("job_id") or self._submit(jobs, tier, name, rows)
            self._collect(jobs, tier, name, job_id, rows)
        self._purse.pay(0.0, self._journal.spent_usd - before_usd)

    def _submit(self, jobs: BatchJobs, tier: Tier, name: str, queries: Sequence[LabelQuery]) -> str:
        rows = [_row(query) for query in queries]
        status = jobs.submit(
            rows,
            tier=tier.name,
            deadline_s=self._deadline_s,
            max_attempts=1 if self._purse.is_limited else 3,
            name=name,
        )
        self._journal.has_job(name, status.job_id)
        return status.job_id

    def _digest(self, tier: Tier, tiers: TierSet, queries: Sequence[LabelQuery]) -> str:
        """Of all that a job's id depends on, but for its name."""
        rows = [_row(query) for query in queries]
        text = json.dumps([rows, tier.name, tiers.to_dicts(), self._deadline_s])
        return hashlib.sha256(text.encode()).hexdigest()

    def _collect(
        self,
        jobs: BatchJobs,
        tier: Tier,
        name: str,
        job_id: str,
        queries: Sequence[LabelQuery],
    ) -> None:
        self._say(f"waiting: {tier.name}")
        status = jobs.resume(job_id, wait=True)
        if not status.is_done:  # the batch stays open in the journal, at its bound
            why = ", ".join(status.troubles) or f"it is {status.state}"
            raise ProviderError(
                f"expected batch job {job_id} for the tier {tier.name} to be done, got "
                f"{status.n_open:,} open rows ({why}): check the provider's key, and run the same "
                "command again, which finds the job and pays nothing twice.",
                kind="auth",
            )
        by_key = {query.key: query for query in queries}
        for row in jobs.results(job_id):
            found = row.request_id, model_of(tier)
            if found in self._journal.answers:
                continue
            usd = row.cost_usd
            if usd is None:  # what nobody knows may have cost what it can
                usd = self._bounds.usd(tier, by_key[row.request_id].prompt)
            self._note(row, found, usd)
        self._journal.collected(name)

    def _note(self, row: RowResult, name: tuple[str, str], usd: float) -> None:
        call = uuid.uuid4().hex
        if row.status != "answered":
            self._journal.failed(call, name, row.status, usd)
            return
        usage = None if row.usage is None else Usage(**row.usage)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        answered = Answered(row.text or "", usage, row.finish_reason, None, at)
        self._journal.answered(call, name, answered, usd)


def _row(query: LabelQuery) -> dict[str, Any]:
    """As `router.batch.input` reads it, by the name under which its answer is found."""
    fields = json.loads(query.stored)
    kept = {name: fields[name] for name in _SENT if fields.get(name) is not None}
    if fields.get("query") is not None:
        kept["query"] = fields["query"]
    return {"request_id": query.key, **kept}
