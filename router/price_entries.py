"""Entries of genai-prices, looked up by exact provider and model and reduced to linear prices.

Import this module only when a price is needed: genai-prices takes half a second to import.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from genai_prices import Usage, types
from genai_prices.data_snapshot import get_snapshot

from router.errors import PriceError

# What may differ between two spellings of one model: region and vendor in front, date and
# version behind ("us.anthropic.claude-haiku-4-5-20251001-v1:0").
_BEFORE = re.compile(r"^(?:(?:us|eu|apac|jp|au|global|regional)\.)?(?:[a-z]+\.)?(?=[a-z])")
_BEHIND = re.compile(r"(?:[-@](?:20\d{6}|20\d\d-\d\d-\d\d|\d{3,4}|latest))?(?:-v\d+(?::\d+)?)?-?$")
_MTOK = 1_000_000


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One model of one provider in the price data."""

    provider: types.Provider
    model: types.ModelInfo

    def conditions(self, at: datetime) -> tuple[bool, ...]:
        """Which conditions (dates, hours) of the entry hold at an aware time.

        Equal conditions mean equal prices.
        """
        prices = self.model.prices
        if not isinstance(prices, list):
            return ()
        return tuple(p.constraint is None or p.constraint.active(at) for p in prices)

    def prices_usd_per_mtok(self, at: datetime) -> tuple[float, float, float, float]:
        """USD per million input, cached input, cache-write and output tokens at an aware time.

        They are taken at a usage of one token, below every context length at which prices jump.

        Raises:
            PriceError: the entry prices no input or no output tokens.
        """
        known = self.model.get_prices(at)
        for direction in ("input", "output"):
            if getattr(known, f"{direction}_mtok") is None:
                raise PriceError(
                    f"genai-prices has no price for {direction} tokens of {self.provider.id}/"
                    f"{self.model.id}: add prices to the tiers file."
                )
        fee = self._usd(Usage(input_tokens=0, output_tokens=0), at)
        usages = (
            Usage(input_tokens=1),
            Usage(input_tokens=1, cache_read_tokens=1),
            Usage(input_tokens=1, cache_write_tokens=1),
            Usage(output_tokens=1),
        )
        first, cached, written, output = (
            float((self._usd(usage, at) - fee) * _MTOK) for usage in usages
        )
        return first, cached, written, output

    def request_usd(self, at: datetime) -> float:
        """USD charged for a request whatever its length; 0 for all but a few models."""
        return float(self._usd(Usage(input_tokens=0, output_tokens=0), at))

    def _usd(self, usage: Usage, at: datetime) -> Decimal:
        try:
            found = self.model.calc_price(usage, self.provider, genai_request_timestamp=at)
        except ValueError as error:
            raise PriceError(
                f"genai-prices cannot price {self.provider.id}/{self.model.id} by its tokens: "
                f"add prices to the tiers file."
            ) from error
        return found.total_price


def find_entry(provider_id: str, model_ref: str) -> PriceEntry:
    """The entry of exactly this provider and model.

    Raises:
        PriceError: there is none; the message names the nearest ids.
    """
    providers = get_snapshot().providers
    provider = next((p for p in providers if p.id == provider_id), None)
    if provider is None:
        raise PriceError(
            f"no price is known for {provider_id}/{model_ref}: the price book has no provider "
            f"{provider_id!r}{_nearest(provider_id, [p.id for p in providers])}: "
            f"correct the provider or add prices to the tiers file."
        )
    # Without the other providers: a fallback to another provider's price would be a guess.
    model = next((m for m in provider.models if m.id.lower() == model_ref.lower()), None)
    if model is None:
        model = provider.find_model(model_ref)
    if model is None or not _is_exact(model, model_ref):
        raise PriceError(
            f"no price is known for {provider_id}/{model_ref}: the provider has no such model"
            f"{_nearest(model_ref, [m.id for m in provider.models])}: "
            f"correct the model or add prices to the tiers file."
        )
    return PriceEntry(provider, model)


def _is_exact(model: types.ModelInfo, ref: str) -> bool:
    """Whether the price data names this model, up to its date and version.

    genai-prices matches many models by prefix, which would price "gpt-5-nano-turbo" as gpt-5-nano.
    """
    names = {model.id.lower(), *_literals(model.match)}
    ref = ref.lower()
    return ref in names or _core(ref) in {_core(name) for name in names}


def _literals(clause: types.MatchLogic) -> Iterator[str]:
    if isinstance(clause, types.ClauseOr):
        for part in clause.or_:
            yield from _literals(part)
    elif isinstance(clause, types.ClauseEquals):
        yield clause.equals.lower()
    elif isinstance(clause, types.ClauseStartsWith):
        yield clause.starts_with.lower()
    elif isinstance(clause, types.ClauseContains):
        yield clause.contains.lower()


def _core(name: str) -> str:
    return _BEHIND.sub("", _BEFORE.sub("", name))


def _nearest(wrong: str, known: list[str]) -> str:
    wrong = wrong.lower()
    # A suffix such as "-preview" is forgotten more often than a version is mistaken.
    near = [name for name in known if name.startswith(wrong)]
    near += difflib.get_close_matches(wrong, set(known) - set(near), n=3, cutoff=0.5)
    near = near[:3]
    return f" (nearest: {', '.join(near)})" if near else ""
