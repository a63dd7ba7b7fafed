"""PriceBook: what a tier costs per million tokens, on a date.

Where a price comes from, first hit wins:

1. the tier's own override in the tiers file;
2. the override file, a TOML file of dated entries that are appended, never overwritten::

       [[prices]]
       provider = "openai"
       model = "gpt-5-nano"
       from = 2026-01-01                        # UTC date from which the entry holds
       input_price_usd_per_mtok = 0.05
       output_price_usd_per_mtok = 0.40
       cached_input_price_usd_per_mtok = 0.005  # optional, else the input price
       cache_write_price_usd_per_mtok = 0.05    # optional, else the input price

3. the entry of genai-prices for exactly this provider and model.

A price that is in none of them is an error, never 0. Prices are linear in tokens: the surcharge of
some models on very long contexts is left out.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from router.errors import PriceError
from router.tiers import PRICE_KEYS, Tier, checked_price

if TYPE_CHECKING:
    from router.price_entries import PriceEntry

FloatArray = npt.NDArray[np.float64]

_KEYS = ("provider", "model", "from", *PRICE_KEYS)


@dataclass(frozen=True, slots=True)
class TierPrice:
    """Prices of one tier in USD per million tokens, and per request where one is charged."""

    input_usd_per_mtok: float
    cached_input_usd_per_mtok: float
    cache_write_usd_per_mtok: float
    output_usd_per_mtok: float
    request_usd: float = 0.0

    @overload
    def cost_usd(
        self,
        input_tokens: float,
        output_tokens: float,
        cached_input_tokens: float = 0,
        cache_write_tokens: float = 0,
    ) -> float: ...
    @overload
    def cost_usd(
        self,
        input_tokens: FloatArray,
        output_tokens: FloatArray | float,
        cached_input_tokens: FloatArray | float = 0,
        cache_write_tokens: FloatArray | float = 0,
    ) -> FloatArray: ...
    @overload
    def cost_usd(
        self,
        input_tokens: float,
        output_tokens: FloatArray,
        cached_input_tokens: FloatArray | float = 0,
        cache_write_tokens: FloatArray | float = 0,
    ) -> FloatArray: ...
    def cost_usd(
        self,
        input_tokens: FloatArray | float,
        output_tokens: FloatArray | float,
        cached_input_tokens: FloatArray | float = 0,
        cache_write_tokens: FloatArray | float = 0,
    ) -> FloatArray | float:
        """USD of a request, or of many (arrays that broadcast); NaN tokens give a NaN cost.

        ``input_tokens`` includes the tokens read from and written to the cache.

        >>> nano = TierPrice(0.05, 0.005, 0.05, 0.40)
        >>> round(nano.cost_usd(2500, 300), 9), round(nano.cost_usd(2500, 300, 2000), 9)
        (0.000245, 0.000155)
        """
        fresh = input_tokens - cached_input_tokens - cache_write_tokens
        return (
            fresh * self.input_usd_per_mtok
            + cached_input_tokens * self.cached_input_usd_per_mtok
            + cache_write_tokens * self.cache_write_usd_per_mtok
            + output_tokens * self.output_usd_per_mtok
        ) / 1e6 + self.request_usd


@dataclass(frozen=True, slots=True)
class _DatedPrice:
    start: date
    price: TierPrice


class PriceBook:
    """Dated prices: tier overrides, an optional override file, genai-prices.

    Raises:
        PriceError: the override file is missing, malformed or contradicts itself.
    """

    def __init__(self, overrides: str | Path | None = None) -> None:
        self._dated = {} if overrides is None else _read_overrides(Path(overrides))
        self._entries: dict[tuple[str, str], PriceEntry | PriceError] = {}
        self._cache: dict[tuple[str, str, tuple[bool, ...]], TierPrice | PriceError] = {}

    def price(self, tier: Tier, at: datetime | None = None) -> TierPrice:
        """The price of a tier at a time (None: now; a naive time is UTC).

        Raises:
            PriceError: nobody knows it; the message names the nearest ids.
        """
        found = self._lookup(tier, at)
        if isinstance(found, PriceError):
            raise PriceError(str(found))  # a fresh one: the kept one would gather tracebacks
        return found

    def find(self, tier: Tier, at: datetime | None = None) -> TierPrice | None:
        """As `price`, but None where the price is unknown."""
        found = self._lookup(tier, at)
        return None if isinstance(found, PriceError) else found

    def _lookup(self, tier: Tier, at: datetime | None) -> TierPrice | PriceError:
        if tier.input_price_usd_per_mtok is not None and tier.output_price_usd_per_mtok is not None:
            return _price(
                tier.input_price_usd_per_mtok,
                tier.cached_input_price_usd_per_mtok,
                tier.cache_write_price_usd_per_mtok,
                tier.output_price_usd_per_mtok,
            )
        if at is None:
            at = datetime.now(tz=UTC)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        dated = self._dated.get((tier.provider, tier.model), ())
        for entry in reversed(dated):
            if entry.start <= at.date():
                return entry.price
        return self._published(tier.provider, tier.model, at)

    def _published(self, provider: str, model: str, at: datetime) -> TierPrice | PriceError:
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
        key = (provider, model, entry.conditions(at))
        found = self._cache.get(key)
        if found is None:
            try:
                found = _price(*entry.prices_usd_per_mtok(at), entry.request_usd(at))
            except PriceError as error:
                found = error.with_traceback(None)
            self._cache[key] = found
        return found


def current_prices(tiers: Sequence[Tier], book: PriceBook) -> tuple[FloatArray, FloatArray]:
    """Input and output prices (T,) in USD per million tokens today, NaN where nobody knows.

    NaN too where a fee per request comes on top: tokens times price would leave it out.
    """
    prices = np.full((2, len(tiers)), np.nan)
    now = datetime.now(UTC)
    for index, tier in enumerate(tiers):
        with suppress(PriceError):
            price = book.price(tier, now)
            if price.request_usd == 0:
                prices[:, index] = price.input_usd_per_mtok, price.output_usd_per_mtok
    return prices[0], prices[1]


def _price(
    input_price: float,
    cached_input: float | None,
    cache_write: float | None,
    output: float,
    request_usd: float = 0.0,
) -> TierPrice:
    """Cache prices that are not given are the input price: caching changes nothing then."""
    return TierPrice(
        input_usd_per_mtok=input_price,
        cached_input_usd_per_mtok=input_price if cached_input is None else cached_input,
        cache_write_usd_per_mtok=input_price if cache_write is None else cache_write,
        output_usd_per_mtok=output,
        request_usd=request_usd,
    )


def _read_overrides(path: Path) -> dict[tuple[str, str], tuple[_DatedPrice, ...]]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise PriceError(f"expected a price file at {path}, found none: check the path.") from None
    except OSError as error:
        raise PriceError(
            f"{path}: cannot read the price file ({error.strerror}): check the path and its "
            f"permissions."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"{path}: expected TOML, got an error: {error}.") from error
    tables = data.get("prices", [])
    unknown = next((key for key in data if key != "prices"), None)
    if unknown is not None:
        raise PriceError(
            f"{path}: expected [[prices]] tables only, got the key {unknown!r}: correct it."
        )
    if not isinstance(tables, list):
        raise PriceError(
            f"{path}: expected prices to be [[prices]] tables, got {type(tables).__name__}: "
            "write each price as a table of its own."
        )
    book: dict[tuple[str, str], list[_DatedPrice]] = {}
    for number, table in enumerate(tables, start=1):
        (provider, model), entry = _dated_price(table, f"{path}: price {number}")
        entries = book.setdefault((provider, model), [])
        if any(entry.start == other.start for other in entries):
            raise PriceError(
                f"{path}: price {number}: {provider}/{model} has two entries from {entry.start}: "
                f"remove one."
            )
        entries.append(entry)
    return {key: tuple(sorted(value, key=lambda e: e.start)) for key, value in book.items()}


def _dated_price(table: object, where: str) -> tuple[tuple[str, str], _DatedPrice]:
    if not isinstance(table, dict):
        raise PriceError(f"{where}: expected a table, got {type(table).__name__}: correct it.")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise PriceError(f"{where}: unknown key {key!r}{hint}: use only {', '.join(_KEYS)}.")
    provider, model, start = table.get("provider"), table.get("model"), table.get("from")
    if not isinstance(provider, str) or not isinstance(model, str):
        raise PriceError(f"{where}: expected a provider and a model as text: add them.")
    # A datetime is a date to Python, but its hours would be ignored.
    if not isinstance(start, date) or isinstance(start, datetime):
        raise PriceError(f"{where}: expected 'from' as a date such as 2026-01-31, got {start!r}.")
    prices = [checked_price(table.get(key), f"{where}: {key}", PriceError) for key in PRICE_KEYS]
    input_price, cached_input, cache_write, output = prices
    if input_price is None or output is None:
        raise PriceError(
            f"{where}: expected both input_price_usd_per_mtok and output_price_usd_per_mtok: "
            f"add the missing one."
        )
    return (provider, model), _DatedPrice(
        start, _price(input_price, cached_input, cache_write, output)
    )
