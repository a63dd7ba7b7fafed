"""What the client writes down and the ledger keeps: one request, its attempts, its feedback.

Money is in whole nanodollars (1e-9 USD), so that sums are exact and a decomposition adds up to the
last digit; None means unknown, never 0. Times are aware, in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from router.stored_query import Query
from router.usage import Usage

NANOUSD_PER_USD = 1_000_000_000

# Why an attempt was made.
Role = Literal["routed", "escalation", "fallback", "retry"]
# What became of it: "answered" was accepted (or not verified), "rejected" by a verifier; the others
# are the kinds of ProviderError.
Status = Literal[
    "answered",
    "rejected",
    "rate-limit",
    "timeout",
    "outage",
    "cut",
    "malformed",
    "refused",
    "auth",
    "expired",
    "cancelled",
]


def nanousd(cost_usd: float | None) -> int | None:
    """Dollars as whole nanodollars, rounded to the nearest; None stays None.

    >>> nanousd(0.000155)
    155000
    """
    return None if cost_usd is None else round(cost_usd * NANOUSD_PER_USD)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One call to one model.

    ``usage`` None is unknown. ``cost_nanousd`` is what it cost, None where usage or price are
    unknown; ``uncached_nanousd`` what the same tokens would have cost without a prompt cache at the
    same processing, ``standard_nanousd`` without a cache and without batch. ``served`` marks the
    attempt whose answer the caller got.
    """

    attempt: int
    tier: str
    provider: str
    model: str
    at: datetime
    role: Role
    status: Status
    latency_s: float
    usage: Usage | None = None
    cost_nanousd: int | None = None
    uncached_nanousd: int | None = None
    standard_nanousd: int | None = None
    batch: bool = False
    served: bool = False


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request: what was decided, and what the baseline would have cost.

    ``decision`` is ``Decision.to_dict()``. ``baseline_tier`` is the strongest tier; always using
    it, without cache and batch, would have cost ``baseline_nanousd``: measured where that tier
    served, else estimated (its output tokens are) and ``baseline_measured`` is False.
    ``exploration_nanousd`` is what the tier that was explored was expected to cost more (or, if
    negative, less) than the policy's own; 0 where nothing was explored. ``done`` is False from the
    moment before the first call until the request has ended.
    """

    request_id: str
    at: datetime
    decision: Mapping[str, Any]
    query: Query | None = field(default=None, repr=False)
    session_id: str | None = None
    task: str | None = None
    baseline_tier: str | None = None
    baseline_nanousd: int | None = None
    baseline_measured: bool = False
    exploration_nanousd: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class WarmPrefix:
    """A prompt prefix that a tier's provider holds in its cache.

    ``key`` stands for the prefix (a digest, never its text). It was written or last read at
    ``stored_at_s``, in seconds since 1970, and is gone ``ttl_s`` seconds after that.
    """

    tier: str
    key: str
    tokens: int
    stored_at_s: float
    ttl_s: float


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """What somebody said of a request's answer: ``success`` in 0..1, and who (``source``)."""

    request_id: str
    success: float
    at: datetime
    source: str = "user"
    score: float | None = None
