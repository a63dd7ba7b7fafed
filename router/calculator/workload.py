"""Workload, Line and Bill: what the savings calculator is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from router.errors import InputError
from router.tiers import Tier

_DAY_S = 86_400.0
_LARGEST_REQUESTS_PER_DAY = 1e12
_LARGEST_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the models.

    Every prompt is ``system_tokens`` that all requests share and ``user_tokens`` of its own.
    ``hit_rate`` None is worked out from ``arrivals_per_hour``, and that, where None, from a day's
    requests spread over its 24 hours. ``min_cacheable_tokens`` replaces what we know of a model's
    minimum. ``batch_share`` of the requests can wait for a batch.

    Raises:
        InputError: a number that is negative, not finite or beyond all use.
    """

    requests_per_day: float
    system_tokens: int
    user_tokens: int
    output_tokens: int
    days_per_month: float = 30
    hit_rate: float | None = None
    arrivals_per_hour: float | None = None
    ttl: Literal["5m", "1h"] = "5m"
    min_cacheable_tokens: int | None = None
    batch_share: float = 0.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float | None, float]] = {
            "requests per day": (self.requests_per_day, _LARGEST_REQUESTS_PER_DAY),
            "system tokens": (self.system_tokens, _LARGEST_TOKENS),
            "user tokens": (self.user_tokens, _LARGEST_TOKENS),
            "output tokens": (self.output_tokens, _LARGEST_TOKENS),
            "days per month": (self.days_per_month, 366),
            "hit rate": (self.hit_rate, 1),
            "arrivals per hour": (self.arrivals_per_hour, _LARGEST_REQUESTS_PER_DAY),
            "minimum of cacheable tokens": (self.min_cacheable_tokens, _LARGEST_TOKENS),
            "batch share": (self.batch_share, 1),
        }
        for name, (value, largest) in limits.items():
            # NaN fails the comparison too.
            if value is not None and not 0 <= value <= largest:
                raise InputError(
                    f"expected {name} from 0 to {largest:,.0f}, got {repr(value)[:40]}: correct it."
                )
        if self.ttl not in ("5m", "1h"):
            raise InputError(
                f"expected a time to live of 5m or 1h, got {repr(self.ttl)[:40]}: choose one."
            )

    @property
    def input_tokens(self) -> int:
        """Tokens of a whole prompt."""
        return self.system_tokens + self.user_tokens

    @property
    def arrivals_per_s(self) -> float:
        """How many requests come in a second while they come."""
        if self.arrivals_per_hour is not None:
            return self.arrivals_per_hour / 3600
        return self.requests_per_day / _DAY_S


@dataclass(frozen=True, slots=True)
class Bill:
    """USD of a day, by what is paid for."""

    fresh_usd: float = 0.0
    cache_read_usd: float = 0.0
    cache_write_usd: float = 0.0
    output_usd: float = 0.0
    request_fees_usd: float = 0.0

    @property
    def input_usd(self) -> float:
        """All that is paid for prompts."""
        return self.fresh_usd + self.cache_read_usd + self.cache_write_usd

    @property
    def total_usd(self) -> float:
        """All that is paid."""
        return self.input_usd + self.output_usd + self.request_fees_usd

    def __add__(self, other: Bill) -> Bill:
        return Bill(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model's part of a line.

    ``uncached`` is the same traffic without a cache. ``cached_tokens`` of a prompt are kept in the
    cache, 0 where caching is not part of the line or cannot be; ``why_not`` then says why.
    ``break_even_hit_rate`` is the one above which caching pays, None where it is free to try.
    """

    model: str
    share: float
    requests_per_day: float
    bill: Bill
    uncached: Bill
    cached_tokens: int = 0
    hit_rate: float = 0.0
    break_even_hit_rate: float | None = None
    batch_requests_per_day: float = 0.0
    why_not: str | None = None

    @property
    def caching_loses_usd(self) -> float:
        """What caching costs more in a day than it saves; 0 where it pays."""
        lost = self.bill.total_usd - self.uncached.total_usd
        # Below a billionth of the bill it is rounding.
        return lost if lost > 1e-9 * self.uncached.total_usd else 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One way to run the workload."""

    name: str
    includes: str
    models: tuple[ModelLine, ...]

    @property
    def bill(self) -> Bill:
        """USD of a day."""
        return sum((model.bill for model in self.models), Bill())


@dataclass(frozen=True, slots=True)
class Share:
    """A tier and the share of the requests that goes to it."""

    tier: Tier
    share: float
