"""The override file: dated prices of your own, for what the price data lacks or has stale.

Entries are appended, never overwritten: each holds from its date on. The form is in
docs/prices.md; reading is strict, because a price that is misread is money.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from router.errors import PriceError
from router.tier_price import PriceStep, TierPrice
from router.tiers import BATCH_PRICE_KEYS, PRICE_KEYS, checked_price, unmatched_batch_key

_ALL_PRICE_KEYS = (*PRICE_KEYS, *BATCH_PRICE_KEYS)
_KEYS = ("provider", "model", "from", *_ALL_PRICE_KEYS, "steps")
_STEP_KEYS = ("above_input_tokens", *_ALL_PRICE_KEYS)

# Price keys and what they say; those that are not given are None.
_Prices = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """Prices from a UTC date on; ``batch`` None where the file has no batch price."""

    start: date
    price: TierPrice
    batch: TierPrice | None


def override_price(
    price_of: Callable[[str], float | None], prefix: str = "", steps: Sequence[PriceStep] = ()
) -> TierPrice:
    """The price that override keys describe; ``prefix`` "batch_" reads those of batch.

    Cache prices that are not given are the input price: caching changes nothing then. Writing for
    an hour is dearer where it can be chosen, so its price stays unknown.
    """
    step = _step(price_of, prefix, 0)
    return TierPrice(
        step.input_usd_per_mtok,
        step.cached_input_usd_per_mtok,
        step.cache_write_usd_per_mtok,
        step.output_usd_per_mtok,
        cache_write_1h_usd_per_mtok=step.cache_write_1h_usd_per_mtok,
        steps=tuple(steps),
    )


def _step(price_of: Callable[[str], float | None], prefix: str, above: int) -> PriceStep:
    fresh, cached, written, output, written_1h = (price_of(prefix + key) for key in PRICE_KEYS)
    if fresh is None or output is None:
        raise ValueError("an input and an output price were to be checked before")
    return PriceStep(
        above,
        fresh,
        fresh if cached is None else cached,
        fresh if written is None else written,
        output,
        written_1h,
    )


def read_overrides(path: Path) -> dict[tuple[str, str], tuple[DatedPrice, ...]]:
    """The entries of an override file by provider and model, in the order of their dates.

    Raises:
        PriceError: the file is missing, malformed or contradicts itself.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise PriceError(f"expected a price file at {path}, found none: check the path.") from None
    except OSError as error:
        raise PriceError(
            f"{path}: cannot read the price file ({error.strerror}): check the path and its "
            f"permissions."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
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
    book: dict[tuple[str, str], list[DatedPrice]] = {}
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


def _dated_price(table: object, where: str) -> tuple[tuple[str, str], DatedPrice]:
    checked = _checked_table(table, _KEYS, where)
    provider, model, start = (checked.get(key) for key in ("provider", "model", "from"))
    if not isinstance(provider, str) or not isinstance(model, str):
        raise PriceError(f"{where}: expected a provider and a model as text: add them.")
    # A datetime is a date to Python, but its hours would be ignored.
    if not isinstance(start, date) or isinstance(start, datetime):
        raise PriceError(f"{where}: expected 'from' as a date such as 2026-01-31, got {start!r}.")
    prices = _prices(checked, where)
    steps = _steps(checked.get("steps", []), prices, where)
    batch = None
    if prices["batch_input_price_usd_per_mtok"] is not None:
        batch_steps = [_step(found.get, "batch_", above) for above, found in steps]
        batch = override_price(prices.get, "batch_", batch_steps)
    standard_steps = [_step(found.get, "", above) for above, found in steps]
    price = override_price(prices.get, "", standard_steps)
    return (provider, model), DatedPrice(start, price, batch)


def _steps(tables: object, entry: _Prices, where: str) -> list[tuple[int, _Prices]]:
    """Lengths and prices of an entry's steps, in rising order."""
    if not isinstance(tables, list):
        raise PriceError(
            f"{where}: expected steps to be [[prices.steps]] tables, got {type(tables).__name__}: "
            "write each step as a table of its own."
        )
    steps: dict[int, _Prices] = {}
    for number, table in enumerate(tables, start=1):
        here = f"{where}: step {number}"
        checked = _checked_table(table, _STEP_KEYS, here)
        above = checked.get("above_input_tokens")
        if type(above) is not int or above <= 0:
            raise PriceError(
                f"{here}: expected above_input_tokens as a whole number above 0, got "
                f"{repr(above)[:40]}: correct it."
            )
        if above in steps:
            raise PriceError(f"{here}: {above} input tokens have two steps: remove one.")
        steps[above] = prices = _prices(checked, here)
        for key in _ALL_PRICE_KEYS:
            # A price that the step leaves out would be a guess: the lower one, or one in step?
            if (prices[key] is None) != (entry[key] is None):
                raise PriceError(
                    f"{here}: expected the same prices as the entry it belongs to, and {key} is in "
                    "one of them only: add it to the other."
                )
    return sorted(steps.items())


def _checked_table(table: object, keys: Sequence[str], where: str) -> Mapping[str, object]:
    if not isinstance(table, dict):
        raise PriceError(f"{where}: expected a table, got {type(table).__name__}: correct it.")
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise PriceError(f"{where}: unknown key {key!r}{hint}: use only {', '.join(keys)}.")
    return table


def _prices(table: Mapping[str, object], where: str) -> _Prices:
    prices = {
        key: checked_price(table.get(key), f"{where}: {key}", PriceError) for key in _ALL_PRICE_KEYS
    }
    if prices["input_price_usd_per_mtok"] is None or prices["output_price_usd_per_mtok"] is None:
        raise PriceError(
            f"{where}: expected both input_price_usd_per_mtok and output_price_usd_per_mtok: "
            f"add the missing one."
        )
    odd = unmatched_batch_key([key for key, price in prices.items() if price is not None])
    if odd is not None:
        raise PriceError(
            f"{where}: expected batch prices with the same keys as the prices without batch, and "
            f"{odd} stands alone: add its other half, or remove it."
        )
    return prices
