"""From the ledger to rows of the outcome contract: the loop back to a better router.

A row is an attempt whose propensity is the one that was recorded: the first of its request, on the
tier that was decided. Later attempts were made because another failed, and a tier that the caller
named was nobody's draw: trained on as if they were, they would bias what is learned. They are left
out and counted by reason, as is everything of unknown success or query, and that of which neither
cost nor tokens are known.

Costs are those of standard processing, which is what serving will cost: a batched attempt is
exported at the price it would have had without its batch. The model is the tier's, as it was
decided on, and not the dated name that the provider returned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from router.errors import OutcomeError
from router.ledger import Ledger
from router.ledger.rows import LedgerEntry
from router.outcomes import Outcome
from router.query_record import record_of
from router.records import NANOUSD_PER_USD, AttemptRecord
from router.stored_query import StoredQuery

_ANSWERED = ("answered", "rejected")


class Export:
    """Outcomes of a ledger, the oldest first; iterate over it once.

    Args:
        ledger: Where they are.
        since: Requests before it are no part of it.
        accepted_is_success: Where *every* answer is verified: without feedback, an answer that was
            served and accepted is a success, and a rejected one a failure. Otherwise only feedback
            tells.

    Attributes:
        n_requests: Requests read so far.
        n_rows: Outcomes so far.
        left_out: Attempts (and requests without any) that are no outcomes, by reason.
    """

    def __init__(
        self, ledger: Ledger, *, since: datetime | None = None, accepted_is_success: bool = False
    ) -> None:
        self._ledger, self._since = ledger, since
        self._accepted_is_success = accepted_is_success
        self.n_requests = 0
        self.n_rows = 0
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Outcome]:
        for entry in self._ledger.requests(since=self._since):
            self.n_requests += 1
            if not entry.attempts:
                self.left_out["no attempt was recorded"] += 1
            for attempt in entry.attempts:
                try:
                    outcome = self._outcome(entry, attempt)
                except OutcomeError as error:
                    self.left_out[error.reason] += 1
                else:
                    self.n_rows += 1
                    yield outcome

    def _outcome(self, entry: LedgerEntry, attempt: AttemptRecord) -> Outcome:
        """The outcome of an attempt; raises OutcomeError with the reason why it is none."""
        request, decision = entry.request, entry.request.decision
        if attempt.attempt > 1:
            raise OutcomeError(f"a later attempt ({attempt.role})")
        if decision.get("tier") != attempt.tier:
            raise OutcomeError("another tier than the one decided")
        if decision.get("reason") == "pinned":
            raise OutcomeError("the caller named the tier")
        if attempt.status not in _ANSWERED:
            raise OutcomeError(f"no answer ({attempt.status})")
        success = self._success(entry, attempt)
        if request.query is None:
            raise OutcomeError("its query is not kept")
        cost_nanousd = _standard_cost(attempt)
        if cost_nanousd is None and attempt.usage is None:
            raise OutcomeError("its cost is unknown")
        row: dict[str, Any] = {
            "request_id": request.request_id,
            "tier": attempt.tier,
            "model": decision.get("model") or attempt.model,
            "success": success,
            # Where it is unknown, the tokens are priced when they are read.
            "cost_usd": None if cost_nanousd is None else cost_nanousd / NANOUSD_PER_USD,
            "latency_s": attempt.latency_s,
            "propensity": decision.get("propensity"),
            "artifact_id": decision.get("artifact_id"),
            "attempt": attempt.attempt,
            "session_id": request.session_id,
            "task": request.task,
            "at": request.at,
        }
        if isinstance(request.query, StoredQuery):
            row["query_record"] = record_of(request.query)
        else:
            row["query"] = request.query
        if attempt.usage is not None:
            usage = attempt.usage
            row |= {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_input_tokens": usage.cached_input_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
            }
        if attempt.served and entry.latest is not None:
            row["score"] = entry.latest.score
        return Outcome.from_mapping(row)

    def _success(self, entry: LedgerEntry, attempt: AttemptRecord) -> float:
        success = entry.success_of(attempt)
        if success is None and self._accepted_is_success:
            if attempt.status == "rejected":
                success = 0.0
            elif attempt.served:
                success = 1.0
        if success is not None:
            return success
        if attempt.status == "rejected":
            raise OutcomeError("rejected, but its request has no feedback")
        if not attempt.served:
            raise OutcomeError("its answer was not served")
        raise OutcomeError("no feedback")


def _standard_cost(attempt: AttemptRecord) -> int | None:
    """What an attempt would have cost without a batch, its cache as it was."""
    cost, uncached, standard = (
        attempt.cost_nanousd,
        attempt.uncached_nanousd,
        attempt.standard_nanousd,
    )
    if cost is None or not attempt.batch:
        return cost
    if uncached is None or standard is None:
        return None
    # Exact where nothing came from a cache; else as if a batch lowered every price alike.
    return round(cost * standard / uncached) if uncached else standard
