"""What is written down of a request under way: its attempts, their cost, its record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from router.client.effects import Record
from router.client.flight import Job, Parts, Started
from router.client.request_costs import FREE, Baseline, baseline_of, cost_of
from router.decision import Decision
from router.records import AttemptRecord, RequestRecord, Status, nanousd
from router.usage import Usage

_LOG = logging.getLogger(__name__)

# After these the provider may have worked, and charge for it, whatever else it says.
_MAY_BE_BILLED = frozenset({"timeout", "cut", "malformed"})


class FlightLog:
    """Of one request.

    Attributes:
        attempts: Those that have ended, in order.
        spent_usd: What they can have cost at most, where there is a limit.
    """

    def __init__(self, parts: Parts, job: Job, at: datetime, clock: Callable[[], float]) -> None:
        self._parts, self._job, self._ask, self._at = parts, job, job.ask, at
        self._clock = clock
        self.attempts: list[AttemptRecord] = []
        self.spent_usd = 0.0

    def ended(
        self,
        started: Started,
        status: Status,
        usage: Usage | None = None,
        model: str | None = None,
        *,
        free: bool = False,
    ) -> None:
        """An attempt has ended; ``free`` where the provider says that it charges nothing.

        It is billed to the tier that was called, whatever model the provider names.
        """
        # First of all: what follows takes time that is not the provider's.
        latency_s = max(self._clock() - started.begun_s, 0.0)
        usage = usage if isinstance(usage, Usage) else None
        tier = started.tier
        price = None if usage is None else self._parts.prices.of(tier, started.at)
        cost = FREE if free and status not in _MAY_BE_BILLED else cost_of(price, usage)
        if started.bound is not None and cost is not FREE:
            # Unknown costs count at their bound. A nanodollar more, for what rounding took.
            known = cost.actual
            self.spent_usd += started.bound.usd if known is None else (known + 1) / 1e9
        self.attempts.append(
            AttemptRecord(
                attempt=len(self.attempts) + 1,
                tier=tier.name,
                provider=tier.provider,
                model=model if isinstance(model, str) and model else tier.model,
                at=started.at,
                role=started.role,
                status=status,
                latency_s=latency_s,
                usage=usage,
                cost_nanousd=cost.actual,
                uncached_nanousd=cost.uncached,
                standard_nanousd=cost.standard,
            )
        )
        if self._parts.cache is not None:
            try:
                self._parts.cache.after_attempt(self._ask, tier, usage)
            except Exception as error:  # what only makes requests cheaper fails none
                _LOG.warning("the cache state was not told: %s", type(error).__name__)

    def rejected(self) -> None:
        """The verifier rejects the answer of the latest attempt."""
        self.attempts[-1] = replace(self.attempts[-1], status="rejected")

    def served(self) -> AttemptRecord:
        """Mark the attempt whose answer is served: the last one that has an answer."""
        answered = [
            place
            for place, attempt in enumerate(self.attempts)
            if attempt.status in ("answered", "rejected")
        ]
        self.attempts[answered[-1]] = replace(self.attempts[answered[-1]], served=True)
        return self.attempts[answered[-1]]

    def record(
        self,
        decision: Decision,
        exploration_usd: float,
        *,
        first: bool = False,
        done: bool = False,
        served: AttemptRecord | None = None,
    ) -> Record:
        """The state of the request, to be recorded."""
        ask = self._ask
        baseline = self._baseline(decision, served) if done else Baseline(None)
        request = RequestRecord(
            request_id=ask.request_id,
            at=self._at,
            decision=decision.to_dict(),
            query=ask.query,
            session_id=ask.session,
            task=ask.task,
            baseline_tier=self._parts.chooser.strongest,
            baseline_nanousd=baseline.nanousd,
            baseline_measured=baseline.measured,
            exploration_nanousd=nanousd(exploration_usd) or 0,
            done=done,
        )
        return Record(request, tuple(self.attempts), first)

    def story(self) -> str:
        """What was tried, for who reads an error."""
        made = ", ".join(f"{attempt.tier} {attempt.status}" for attempt in self.attempts)
        return f"request {self._ask.request_id}: {made or 'nothing was sent'}"

    def _baseline(self, decision: Decision, served: AttemptRecord | None) -> Baseline:
        if not self._parts.keeps_records:
            return Baseline(None)
        chooser = self._parts.chooser
        try:
            tokens: dict[str, float] = {}
            if served is not None and served.tier != chooser.strongest:
                tokens = chooser.expected_output_tokens(self._ask.query)
            strongest = chooser.tiers[chooser.tiers.index(chooser.strongest)]
            price = self._parts.prices.of(strongest, self._at)
            return baseline_of(strongest.name, price, served, decision.cost_usd, tokens)
        except Exception as error:  # an estimate is not worth an answer
            _LOG.warning("the baseline cannot be estimated: %s", type(error).__name__)
            return Baseline(None)
