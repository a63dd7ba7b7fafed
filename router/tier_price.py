"""TierPrice: what tokens cost on one tier at one time, for one request or for many.

Prices are USD per million tokens. Some models are dearer for long prompts: once the input is
longer than a step, the *whole* request is priced at the step's prices, output included, and not
only the tokens beyond it. That is how the price data has it for all providers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from router.errors import PriceError
from router.usage import Usage

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PriceStep:
    """Prices of a whole request whose input is longer than ``above_input_tokens``."""

    above_input_tokens: int
    input_usd_per_mtok: float
    cached_input_usd_per_mtok: float
    cache_write_usd_per_mtok: float
    output_usd_per_mtok: float
    cache_write_1h_usd_per_mtok: float | None = None


@dataclass(frozen=True, slots=True)
class TierPrice:
    """Prices of one tier in USD per million tokens, and per request where one is charged.

    ``cache_write_usd_per_mtok`` is that of the provider's usual time to live (5 minutes at
    Anthropic); writing for an hour has its own price, None where nobody knows it. ``steps``, in
    rising order, replace the prices for long prompts.
    """

    input_usd_per_mtok: float
    cached_input_usd_per_mtok: float
    cache_write_usd_per_mtok: float
    output_usd_per_mtok: float
    request_usd: float = 0.0
    cache_write_1h_usd_per_mtok: float | None = None
    steps: tuple[PriceStep, ...] = ()

    @overload
    def cost_usd(
        self,
        input_tokens: float,
        output_tokens: float,
        cached_input_tokens: float = 0,
        cache_write_tokens: float = 0,
        cache_write_1h_tokens: float = 0,
    ) -> float: ...
    @overload
    def cost_usd(
        self,
        input_tokens: FloatArray,
        output_tokens: FloatArray | float,
        cached_input_tokens: FloatArray | float = 0,
        cache_write_tokens: FloatArray | float = 0,
        cache_write_1h_tokens: FloatArray | float = 0,
    ) -> FloatArray: ...
    @overload
    def cost_usd(
        self,
        input_tokens: float,
        output_tokens: FloatArray,
        cached_input_tokens: FloatArray | float = 0,
        cache_write_tokens: FloatArray | float = 0,
        cache_write_1h_tokens: FloatArray | float = 0,
    ) -> FloatArray: ...
    def cost_usd(
        self,
        input_tokens: FloatArray | float,
        output_tokens: FloatArray | float,
        cached_input_tokens: FloatArray | float = 0,
        cache_write_tokens: FloatArray | float = 0,
        cache_write_1h_tokens: FloatArray | float = 0,
    ) -> FloatArray | float:
        """USD of a request, or of many (arrays that broadcast).

        ``input_tokens`` includes the tokens read from and written to the cache, and
        ``cache_write_tokens`` those written for an hour. The cost is NaN where a count is, and
        where tokens were written for an hour at an unknown price.

        >>> nano = TierPrice(0.05, 0.005, 0.05, 0.40)
        >>> round(nano.cost_usd(2500, 300), 9), round(nano.cost_usd(2500, 300, 2000), 9)
        (0.000245, 0.000155)
        >>> long = TierPrice(3, 0.3, 3.75, 15, steps=(PriceStep(200_000, 6, 0.6, 7.5, 22.5),))
        >>> long.cost_usd(200_000, 1000), long.cost_usd(200_001, 1000)
        (0.615, 1.222506)
        """
        fresh_rate, cached_rate, write_rate, output_rate, write_1h_rate = self._rates(input_tokens)
        cost = (
            (input_tokens - cached_input_tokens - cache_write_tokens) * fresh_rate
            + cached_input_tokens * cached_rate
            + (cache_write_tokens - cache_write_1h_tokens) * write_rate
            + output_tokens * output_rate
        )
        if isinstance(cache_write_1h_tokens, np.ndarray):
            # Where nothing was written for an hour, its price need not be known.
            with np.errstate(invalid="ignore"):
                written = cache_write_1h_tokens * write_1h_rate
            cost = cost + np.where(cache_write_1h_tokens == 0, 0.0, written)
        elif cache_write_1h_tokens != 0:
            cost = cost + cache_write_1h_tokens * write_1h_rate
        return cost / 1e6 + self.request_usd

    def of_usage(self, usage: Usage) -> float:
        """USD of one call.

        Raises:
            PriceError: tokens were written to a cache for an hour, and nobody knows that price; or
                the cost is no finite number.

        >>> TierPrice(1, 0.1, 1.25, 5).of_usage(Usage(2500, 300, cache_write_tokens=2000))
        0.0045
        """
        try:
            cost = float(
                self.cost_usd(
                    usage.input_tokens,
                    usage.output_tokens,
                    usage.cached_input_tokens,
                    usage.cache_write_tokens,
                    usage.cache_write_1h_tokens,
                )
            )
        except OverflowError:
            cost = float("inf")
        if np.isfinite(cost):
            return cost
        if np.isnan(cost):
            raise PriceError(
                f"expected a price for the {usage.cache_write_1h_tokens} tokens that were written "
                "to the cache for an hour, got none: add cache_write_1h_price_usd_per_mtok to the "
                "tier or to the price file."
            )
        raise PriceError(f"expected a usage with a finite cost, got {usage}: correct the counts.")

    def at_length(self, input_tokens: float) -> TierPrice | PriceStep:
        """The prices that hold for a prompt of so many tokens: a step's, or the first ones."""
        reached = [step for step in self.steps if input_tokens > step.above_input_tokens]
        return reached[-1] if reached else self

    def _rates(
        self, input_tokens: FloatArray | float
    ) -> tuple[float, float, float, float, float] | tuple[FloatArray, ...]:
        """Prices of fresh, cached, written, output and for an hour written tokens, at a length."""
        if not self.steps:
            return _row(self)
        if not isinstance(input_tokens, np.ndarray):
            return _row(self.at_length(input_tokens))
        starts = [step.above_input_tokens for step in self.steps]
        # A length that is exactly a step's is still below it.
        index = np.searchsorted(starts, input_tokens, side="left")
        table = np.array([_row(self), *(_row(step) for step in self.steps)])
        return tuple(column[index] for column in table.T)


def _row(prices: TierPrice | PriceStep) -> tuple[float, float, float, float, float]:
    one_hour = prices.cache_write_1h_usd_per_mtok
    return (
        prices.input_usd_per_mtok,
        prices.cached_input_usd_per_mtok,
        prices.cache_write_usd_per_mtok,
        prices.output_usd_per_mtok,
        float("nan") if one_hour is None else one_hour,
    )
