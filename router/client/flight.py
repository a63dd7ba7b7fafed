"""What a request under way is made of: the parts that all requests share, and its own job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from router.client.breaker import Breaker
from router.client.choosing import Ask, CacheSeam, Chooser
from router.client.cost_limit import Bound
from router.client.request_costs import Prices
from router.client.retrying import Retrying
from router.escalation import Verifier
from router.providers.base import Provider
from router.records import Role
from router.tiers import Tier
from router.verifiers import AnswerCheck, rates_of


@dataclass(frozen=True, slots=True)
class Parts:
    """What all requests of a client share. Safe to share between threads."""

    chooser: Chooser
    provider_of: Callable[[str], Provider]
    breaker: Breaker
    prices: Prices
    retrying: Retrying
    keeps_records: bool
    cache: CacheSeam | None
    clock: Callable[[], float]
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Job:
    """What one request asks for beyond its routing.

    Where there is a limit on its cost, ``n_input_tokens`` bounds its input, and ``for_an_hour``
    says that some of it may be written to a cache for an hour, which is dearer.
    """

    ask: Ask
    check: AnswerCheck | None = None
    max_cost_usd: float | None = None
    n_input_tokens: int = 0
    for_an_hour: bool = False
    streamed: bool = False

    @property
    def rates(self) -> Verifier | None:
        """How often the check errs; None where no plan is made.

        A stream cannot be taken back: it is verified at its end, and never escalated.
        """
        return None if self.check is None or self.streamed else rates_of(self.check)


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt that has begun; ``bound`` is what it can cost, where there is a limit."""

    tier: Tier
    role: Role
    at: datetime
    begun_s: float
    bound: Bound | None
