"""What a request cost, and what it would have cost otherwise: dollars from usages, for the ledger.

Whatever cannot be known (no usage, no price) is None, never 0; a price that is missing costs
neither the answer nor the record.

The baseline is the strongest tier, always, without cache and batch. Where it served, it is
measured. Else two things are unknown of the call that was not made, and are estimated:

- its input tokens: those of the call that was made. Tokenizers differ by some percent.
- its output tokens: those of the call that was made, times what the artifact expects of the
  strongest tier over what it expects of the one that served, on this query. The length of an answer
  depends on the request more than on the model, so a length that was seen says more than one that
  was predicted; the ratio corrects for how talkative the models are. Where the artifact has learned
  dollars instead of tokens, the same is done in dollars; where it expects nothing, as the keyword
  heuristic, the lengths count as equal.

Where nothing was served there is no baseline: nobody knows that the strongest tier would have
answered what the others could not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from router.errors import CpsRouterError
from router.prices import PriceBook
from router.records import AttemptRecord, nanousd
from router.tier_price import TierPrice
from router.tiers import Tier
from router.usage import Usage

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanodollars of one call: as it was, without a cache, without cache and batch."""

    actual: int | None = None
    uncached: int | None = None
    standard: int | None = None


UNKNOWN = Cost()
FREE = Cost(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the strongest tier would have cost; ``measured`` where it is what served."""

    nanousd: int | None
    measured: bool = False


class Prices:
    """Prices of tiers; None, and one word in the log, where one cannot be had for any reason."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._missing: set[str] = set()

    def of(self, tier: Tier, at: datetime | None = None) -> TierPrice | None:
        """The price of a tier at a time (None: now)."""
        why = "nobody knows it"
        try:
            found = self._book.find(tier, at)
        except Exception as error:  # a price book of somebody else's; the answer is paid for
            found, why = None, type(error).__name__
        if found is not None:
            self._missing.discard(tier.name)
        elif tier.name not in self._missing:
            self._missing.add(tier.name)
            _LOG.warning(
                "what calls to tier %s cost is unknown, for want of a price: %s", tier.name, why
            )
        return found


def cost_of(price: TierPrice | None, usage: Usage | None) -> Cost:
    """What a call cost; unknown where price or usage is.

    >>> cost_of(TierPrice(1.0, 0.1, 1.0, 4.0), Usage(1000, 100, cached_input_tokens=900))
    Cost(actual=590000, uncached=1400000, standard=1400000)
    """
    if price is None or usage is None:
        return UNKNOWN
    try:
        uncached = nanousd(price.of_usage(Usage(usage.input_tokens, usage.output_tokens)))
    except (CpsRouterError, OverflowError):
        return UNKNOWN
    try:
        return Cost(nanousd(price.of_usage(usage)), uncached, uncached)
    except (CpsRouterError, OverflowError):
        return Cost(None, uncached, uncached)


def baseline_of(
    strongest: str,
    price: TierPrice | None,
    served: AttemptRecord | None,
    expected_usd: Mapping[str, float | None],
    expected_output_tokens: Mapping[str, float],
) -> Baseline:
    """What always using the strongest tier would have cost; see the module's docstring.

    Args:
        strongest: Name of the strongest tier.
        price: Its price, None where unknown.
        served: The attempt whose answer the caller got, None where there was none.
        expected_usd: Expected cost by tier, as in the decision.
        expected_output_tokens: By tier; empty where the artifact expects none.
    """
    if served is None:
        return Baseline(None)
    if served.usage is None:
        return Baseline(nanousd(expected_usd.get(strongest)))
    if served.tier == strongest:
        return Baseline(served.standard_nanousd, served.standard_nanousd is not None)
    ratio = _ratio(expected_output_tokens, strongest, served.tier)
    if ratio is None and served.standard_nanousd is not None:
        in_dollars = _ratio(expected_usd, strongest, served.tier)
        if in_dollars is not None:
            return Baseline(round(served.standard_nanousd * in_dollars))
    if price is None:
        return Baseline(None)
    usage = served.usage
    n_output = usage.output_tokens * (1.0 if ratio is None else ratio)
    return Baseline(nanousd(price.cost_usd(usage.input_tokens, n_output)))


def _ratio(
    expected: Mapping[str, float | None] | Mapping[str, float], a: str, b: str
) -> float | None:
    over, under = expected.get(a), expected.get(b)
    return None if over is None or not under else over / under
