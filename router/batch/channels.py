"""Batch or one by one: how each tier can be reached by a deadline, and at what price."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from router.prices import PriceBook
from router.providers.base import Provider
from router.providers.batching import BatchLimits, BatchProvider
from router.tier_price import TierPrice
from router.tiers import Tier

QUANTILE = 0.9
MIN_HISTORY = 5
"""With fewer past batches of a provider its own promise counts, a day."""


@dataclass(frozen=True, slots=True)
class Channel:
    """How a tier is reached: its prices, None where nobody knows them, and what a batch may hold.

    ``limits`` None: it takes no batches, or none in time. ``batch_s`` is how long one takes.
    """

    tier: Tier
    standard: TierPrice | None
    batch: TierPrice | None = None
    limits: BatchLimits | None = None
    batch_s: float = math.inf

    def batched(self, n_input: float, n_output: float, n_bytes: int = 0) -> bool:
        """Whether a prompt of so many tokens goes into a batch: where it fits and is cheaper."""
        if self.limits is None or self.batch is None or n_bytes > self.limits.max_bytes:
            return False
        if self.standard is None:
            return True
        costs = [price.cost_usd(n_input, n_output) for price in (self.batch, self.standard)]
        return costs[0] <= costs[1]

    def price(self, *, batched: bool) -> TierPrice | None:
        """The price of the one or the other."""
        return self.batch if batched else self.standard


def batch_time_s(durations_s: Sequence[float], turnaround_s: float) -> float:
    """Within what time nine of ten batches were answered; without history, what is promised.

    >>> batch_time_s([600.0] * 9 + [3600.0], 86400.0), batch_time_s([600.0], 86400.0)
    (600.0, 86400.0)
    """
    if len(durations_s) < MIN_HISTORY:
        return turnaround_s
    return sorted(durations_s)[math.ceil(QUANTILE * len(durations_s)) - 1]


def channel_of(
    tier: Tier,
    provider: Provider,
    book: PriceBook,
    at: datetime,
    left_s: float,
    durations_s: Callable[[str], Sequence[float]],
) -> Channel:
    """The channel of a tier when ``left_s`` are left until the deadline.

    A provider without batches, a batch price that nobody knows, or batches that take longer than
    is left: its prompts go one by one.
    """
    standard = book.find(tier, at)
    if not isinstance(provider, BatchProvider):
        return Channel(tier, standard)
    batch = book.find(tier, at, batch=True)
    limits = provider.batch_limits
    takes_s = batch_time_s(durations_s(tier.provider), limits.turnaround_s)
    if batch is None or takes_s > left_s:
        return Channel(tier, standard, batch, None, takes_s)
    return Channel(tier, standard, batch, limits, takes_s)
