"""PriceBook: what a tier costs per million tokens, on a date.

Where a price comes from, first hit wins:

1. the tier's own override in the tiers file;
2. the override file, a TOML file of dated entries that are appended, never overwritten; as in the
   published prices, an entry without a date in its model's name is for every dated spelling too::

       [[prices]]
       provider = "openai"
       model = "gpt-5-nano"
       from = 2026-01-01                        # UTC date from which the entry holds
       input_price_usd_per_mtok = 0.05
       output_price_usd_per_mtok = 0.40
       cached_input_price_usd_per_mtok = 0.005  # optional, else the input price

   with more keys for cache writes, batch and long prompts (docs/prices.md);
3. the entry of genai-prices for exactly this provider and model.

A price that is in none of them is an error, never 0; so is a batch price that the place which
has the standard one does not have: neither the full price nor half of it would be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from router.errors import PriceError
from router.model_names import nearest_spelling
from router.price_overrides import override_price, read_overrides
from router.tier_price import FloatArray, PriceStep, TierPrice
from router.tiers import Tier

if TYPE_CHECKING:
    from router.price_entries import PriceEntry

__all__ = ["PriceBook", "PriceStep", "TierPrice", "current_prices"]


class PriceBook:
    """Dated prices: tier overrides, an optional override file, genai-prices.

    Raises:
        PriceError: the override file is missing, malformed or contradicts itself.
    """

    def __init__(self, overrides: str | Path | None = None) -> None:
        self._dated = {} if overrides is None else read_overrides(Path(overrides))
        self._spelled: dict[tuple[str, str], tuple[str, str] | None] = {}
        self._entries: dict[tuple[str, str], PriceEntry | PriceError] = {}
        self._cache: dict[tuple[str, str, bool, tuple[bool, ...]], TierPrice | PriceError] = {}

    def price(self, tier: Tier, at: datetime | None = None, *, batch: bool = False) -> TierPrice:
        """The price of a tier at a time (None: now; a naive time is UTC), maybe in a batch.

        Raises:
            PriceError: nobody knows it; the message names the nearest ids.
        """
        found = self._lookup(tier, at, batch)
        if isinstance(found, PriceError):
            raise PriceError(str(found))  # a fresh one: the kept one would gather tracebacks
        return found

    def find(
        self, tier: Tier, at: datetime | None = None, *, batch: bool = False
    ) -> TierPrice | None:
        """As `price`, but None where the price is unknown."""
        found = self._lookup(tier, at, batch)
        return None if isinstance(found, PriceError) else found

    def provider_of(self, model: str) -> str:
        """The id of a model's provider: in the override file if it stands there, else its maker.

        Raises:
            PriceError: nobody has the model, or several have and none of them makes it.
        """
        own = {provider for provider, _ in self._dated if self._override_key(provider, model)}
        if len(own) == 1:
            return own.pop()
        if own:
            raise PriceError(
                f"expected a model of one provider, got {model!r}, which the price file has of "
                f"{', '.join(sorted(own))}: write PROVIDER/{model}."
            )
        from router.price_entries import provider_of

        return provider_of(model)

    @property
    def as_of(self) -> date | None:
        """The newest day up to today from which a published price holds; loads the price data.

        Prices that changed after it are not in the data. Data may also announce prices that begin
        later, so that of a very old release this can be a day after it was made.
        """
        from router.price_entries import newest_date

        return newest_date(datetime.now(tz=UTC).date())

    @property
    def data_version(self) -> str:
        """The release of the price data, such as "genai-prices 0.2.3"."""
        from importlib.metadata import version

        return f"genai-prices {version('genai-prices')}"

    def _lookup(self, tier: Tier, at: datetime | None, batch: bool) -> TierPrice | PriceError:
        if tier.has_price:
            if not batch:
                return override_price(lambda key: getattr(tier, key))
            if tier.batch_input_price_usd_per_mtok is not None:
                return override_price(lambda key: getattr(tier, key), "batch_")
            return PriceError(
                f"the tier {tier.name!r} has prices of its own and no batch price: add "
                "batch_input_price_usd_per_mtok and the others to the tiers file."
            )
        if at is None:
            at = datetime.now(tz=UTC)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        key = self._override_key(tier.provider, tier.model)
        for entry in reversed(() if key is None else self._dated[key]):
            if entry.start <= at.date():
                if not batch:
                    return entry.price
                return entry.batch or PriceError(
                    f"the price file has no batch price for {tier.provider}/{tier.model} from "
                    f"{entry.start}: add batch_input_price_usd_per_mtok and the others to it."
                )
        return self._published(tier.provider, tier.model, at, batch)

    def _override_key(self, provider: str, model: str) -> tuple[str, str] | None:
        """Under which spelling of a model the override file has it."""
        key = (provider, model)
        if key in self._dated or not self._dated:
            return key if self._dated else None
        if key not in self._spelled:
            known = [
                its_model for its_provider, its_model in self._dated if its_provider == provider
            ]
            found = nearest_spelling(model, known)
            if found is not None and found.lower() != model.lower():
                from router.price_entries import has_its_own

                if has_its_own(provider, model, found):
                    found = None
            self._spelled[key] = None if found is None else (provider, found)
        return self._spelled[key]

    def _published(
        self, provider: str, model: str, at: datetime, batch: bool
    ) -> TierPrice | PriceError:
        entry = self._entries.get((provider, model))
        if entry is None:
            # Half a second and 35 MB: only once a price is really looked up.
            from router.price_entries import find_entry

            try:
                entry = find_entry(provider, model)
            except PriceError as error:
                entry = error.with_traceback(None)
            self._entries[provider, model] = entry
        if isinstance(entry, PriceError):
            return entry
        key = (provider, model, batch, entry.conditions(at, batch=batch))
        found = self._cache.get(key)
        if found is None:
            try:
                found = entry.price(at, batch=batch)
            except PriceError as error:
                found = error.with_traceback(None)
            self._cache[key] = found
        return found


def current_prices(tiers: Sequence[Tier], book: PriceBook) -> tuple[FloatArray, FloatArray]:
    """Input and output prices (T,) in USD per million tokens today, NaN where nobody knows.

    NaN too where a fee per request comes on top: tokens times price would leave it out. They are
    those of prompts below the model's steps.
    """
    prices = np.full((2, len(tiers)), np.nan)
    now = datetime.now(UTC)
    for index, tier in enumerate(tiers):
        with suppress(PriceError):
            price = book.price(tier, now)
            if price.request_usd == 0:
                prices[:, index] = price.input_usd_per_mtok, price.output_usd_per_mtok
    return prices[0], prices[1]
