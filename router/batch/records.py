"""What became of a row of a batch job, in the words of the ledger: request, attempt, cost.

A batched attempt is priced at batch prices: ``cost_nanousd`` as it was, ``uncached_nanousd`` the
same tokens without a prompt cache in a batch, ``standard_nanousd`` without cache and batch, so that
what the batch saved stands apart in the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from router.batch.input import facts_of
from router.client.request_costs import FREE, UNKNOWN, Baseline, Cost, baseline_of, cost_of
from router.errors import FailureKind
from router.ledger import Ledger
from router.ledger.rows import moment, rows_of
from router.prices import PriceBook
from router.providers.base import Answer
from router.records import AttemptRecord, RequestRecord, Role, Status
from router.tier_price import TierPrice
from router.tiers import Tier, TierSet

_MOST_PRICES = 100


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt at a row ended: an answer, or a kind of failure and a word for it."""

    answer: Answer | None = None
    kind: FailureKind | None = None
    reason: str | None = None
    billed: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """How a row that failed is tried again."""

    batched: bool
    not_before_us: int = 0


class Bookkeeper:
    """Makes the updates and records of one job."""

    def __init__(self, ledger: Ledger, tiers: TierSet, book: PriceBook, created_us: int) -> None:
        self._store, self._tiers, self._book = ledger.store, tiers, book
        self._at = moment(created_us)
        self._prices: dict[tuple[str, bool, datetime], TierPrice | None] = {}

    def ended(
        self,
        row: Mapping[str, Any],
        ending: Ending,
        again: Again | None,
        *,
        begun_us: int,
        ended_us: int,
        batched: bool,
    ) -> tuple[dict[str, Any], Any]:
        """The update of a row and the ledger's rows; ``again`` None is its end."""
        tier = self._tiers[self._tiers.index(row["tier"])]
        at = moment(begun_us)
        answer = ending.answer
        cost = self._cost(tier, at, ending, batched)
        number = row["attempts"] + 1
        role: Role = "routed" if number == 1 else "retry"
        status: Status = "answered" if answer is not None else ending.kind or "malformed"
        attempt = AttemptRecord(
            attempt=number,
            tier=tier.name,
            provider=tier.provider,
            model=(None if answer is None else answer.model) or tier.model,
            at=at,
            role=role,
            status=status,
            latency_s=max(ended_us - begun_us, 0) / 1e6,
            usage=None if answer is None else answer.usage,
            cost_nanousd=cost.actual,
            uncached_nanousd=cost.uncached,
            standard_nanousd=cost.standard,
            batch=batched,
            served=answer is not None,
        )
        update = {
            "row": row["row"],
            "expected_state": row["state"],
            "attempts": number,
            "cost_nanousd": self._total(row, cost.actual),
            "spent_nanousd": row["expected_nanousd"] if cost.actual is None else cost.actual,
            "unknown": int(cost.actual is None),
            **_state(row, ending, again),
        }
        return update, self._records(row, attempt, done=again is None)

    def _cost(self, tier: Tier, at: datetime, ending: Ending, batched: bool) -> Cost:
        if ending.answer is None:
            return UNKNOWN if ending.billed else FREE
        usage = ending.answer.usage
        standard = cost_of(self._price(tier, at, False), usage)
        if not batched:
            return standard
        in_batch = cost_of(self._price(tier, at, True), usage)
        return Cost(in_batch.actual, in_batch.uncached, standard.standard)

    def _price(self, tier: Tier, at: datetime, batch: bool) -> TierPrice | None:
        # Of one batch all rows have the same time.
        key = (tier.name, batch, at)
        if key not in self._prices:
            if len(self._prices) > _MOST_PRICES:
                self._prices.clear()
            self._prices[key] = self._book.find(tier, at, batch=batch)
        return self._prices[key]

    def _total(self, row: Mapping[str, Any], cost: int | None) -> int | None:
        before = 0 if row["attempts"] == 0 else row["cost_nanousd"]
        return None if before is None or cost is None else before + cost

    def _records(self, row: Mapping[str, Any], attempt: AttemptRecord, *, done: bool) -> Any:
        decided = json.loads(row["decision"])
        given = decided["baseline"]
        facts = facts_of(row["prompt"])
        baseline = Baseline(None)
        if done:
            strongest = self._tiers[self._tiers.index(given["tier"])]
            baseline = baseline_of(
                strongest.name,
                self._price(strongest, attempt.at, False),
                attempt if attempt.served else None,
                given["usd"],
                given["output_tokens"],
            )
        request = RequestRecord(
            request_id=row["ledger_id"],
            at=self._at,
            decision=decided["decision"],
            query=facts["query"],
            session_id=facts["session"],
            task=facts["task"],
            baseline_tier=given["tier"],
            baseline_nanousd=baseline.nanousd,
            baseline_measured=baseline.measured,
            done=done,
        )
        return rows_of(request, [attempt], store=self._store)


def _state(row: Mapping[str, Any], ending: Ending, again: Again | None) -> dict[str, Any]:
    """What a row is after an attempt; always the same columns, so that many go in one statement."""
    same = {name: row[name] for name in ("part", "batched", "not_before_us")}
    if ending.answer is not None:
        answer = ending.answer
        kept = {
            "text": answer.text,
            "tool_calls": list(answer.tool_calls),
            "finish_reason": answer.finish_reason,
            "model": answer.model,
            "usage": None if answer.usage is None else asdict(answer.usage),
        }
        text = json.dumps(kept, default=str)
        return {**same, "state": "answered", "reason": None, "answer": text}
    reason = ending.reason or ending.kind
    if again is None:
        return {**same, "state": "failed", "reason": reason, "answer": None}
    return {
        "state": "waiting",
        "reason": reason,
        "answer": None,
        "part": None,
        "batched": again.batched,
        "not_before_us": again.not_before_us,
    }
