"""How a batch job stands, and what came of its rows, read from the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from router.ledger.batch_parts import PartStore
from router.ledger.batch_rows import RowStore
from router.ledger.batches import BatchStore
from router.ledger.rows import moment
from router.records import NANOUSD_PER_USD

_COLUMNS = ("request_id", "ledger_id", "state", "tier", "batched", "attempts", "reason")
_FINAL = ("answered", "failed")


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands.

    ``state`` is "loading", "open", "cancelling" or "done". Rows are counted by state ("answered",
    "failed", and of those that are open "waiting", "parted" and "calling"), failed ones by reason,
    all by tier and way ("batch" or "one by one"). ``troubles`` is what did not work just now and
    will be tried again. ``spent_usd`` takes an unknown cost as it was expected.
    """

    job_id: str
    state: str
    created: datetime
    deadline_s: float
    n_rows: int
    rows: Mapping[str, int]
    reasons: Mapping[str, int]
    ways: Mapping[str, Mapping[str, int]]
    batches: Mapping[str, int]
    n_rejected: int
    rejects: Mapping[str, int]
    spent_usd: float
    n_unknown_cost: int
    troubles: tuple[str, ...] = ()
    rejects_path: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether every row has an answer, or a reason for having none."""
        return self.state == "done"

    @property
    def n_open(self) -> int:
        """Rows without either."""
        return self.n_rows - sum(self.rows.get(state, 0) for state in _FINAL)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {**asdict(self), "created": self.created.isoformat(), "n_open": self.n_open}


@dataclass(frozen=True, slots=True)
class RowResult:
    """What came of a row: ``status`` is "answered", or why there is no answer.

    ``usage`` and ``cost_usd`` are None where unknown; the cost is that of all attempts.
    ``ledger_id`` is its name in the ledger, for feedback.
    """

    request_id: str
    ledger_id: str
    status: str
    tier: str
    model: str
    text: str | None = field(repr=False)
    finish_reason: str | None
    tool_calls: list[Any] = field(repr=False)
    usage: Mapping[str, int] | None
    cost_usd: float | None
    attempts: int
    batch: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self)


def status_of(
    store: BatchStore,
    job_id: str,
    troubles: tuple[str, ...] = (),
    rejects_path: str | None = None,
) -> JobStatus:
    """How a job stands. Raises InputError where there is none of that id."""
    job = store.job(job_id)
    rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    ways: dict[str, Counter[str]] = {}
    for state, tier, is_batched, reason, n in RowStore(store).counts(job_id):
        rows[state] += n
        ways.setdefault(tier, Counter())["batch" if is_batched else "one by one"] += n
        if state == "failed":
            reasons[reason or "unknown"] += n
    batches = Counter(part.state for part in PartStore(store).parts(job_id))
    return JobStatus(
        job_id=job_id,
        state=job.state,
        created=moment(job.created_us),
        deadline_s=job.settings["deadline_s"],
        n_rows=rows.total(),
        rows=dict(rows),
        reasons=dict(reasons.most_common()),
        ways={tier: dict(count) for tier, count in ways.items()},
        batches=dict(batches),
        n_rejected=job.n_rejected,
        rejects=dict(job.rejects),
        spent_usd=job.spent_nanousd / NANOUSD_PER_USD,
        n_unknown_cost=job.n_unknown_cost,
        troubles=troubles,
        rejects_path=rejects_path,
    )


def results_of(store: BatchStore, job_id: str) -> Iterator[RowResult]:
    """Rows that have ended, in the order of the input, some in memory at a time."""
    models = {tier["name"]: tier["model"] for tier in store.job(job_id).settings["tiers"]}
    for row in RowStore(store).rows(job_id, (*_COLUMNS, "cost_nanousd", "answer"), chunk=500):
        if row["state"] in _FINAL:
            yield _result(row, models)


def _result(row: Mapping[str, Any], models: Mapping[str, str]) -> RowResult:
    answer = {} if row["answer"] is None else json.loads(row["answer"])
    cost = row["cost_nanousd"]
    if row["attempts"] == 0:
        cost = 0
    return RowResult(
        request_id=row["request_id"],
        ledger_id=row["ledger_id"],
        status="answered" if row["state"] == "answered" else row["reason"] or "unknown",
        tier=row["tier"],
        model=answer.get("model") or models[row["tier"]],
        text=answer.get("text"),
        finish_reason=answer.get("finish_reason"),
        tool_calls=answer.get("tool_calls") or [],
        usage=answer.get("usage"),
        cost_usd=None if cost is None else cost / NANOUSD_PER_USD,
        attempts=row["attempts"],
        batch=row["batched"],
    )
