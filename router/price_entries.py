"""Entries of genai-prices, looked up by exact provider and model, as prices of our own.

Import this module only when a price is needed: genai-prices takes half a second to import.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from genai_prices import Usage, types
from genai_prices.data_snapshot import get_snapshot

from router.errors import PriceError
from router.model_names import core
from router.tier_price import PriceStep, TierPrice

_MTOK = 1_000_000
_TEXT_PRICES = (
    "input_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_5m_mtok",
    "cache_write_1h_mtok",
    "output_mtok",
)
# Not "service_tier": that one is ignored, and the full price comes back.
_BATCH = {"processing": "batch"}
# Anthropic documents it for all its models; the data has it for those that are still sold.
_ANTHROPIC_1H_FACTOR = 2


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One model of one provider in the price data."""

    provider: types.Provider
    model: types.ModelInfo

    def conditions(self, at: datetime, *, batch: bool = False) -> tuple[bool, ...]:
        """Which conditions (dates, hours) of the entry hold at an aware time.

        Equal conditions mean equal prices.
        """
        prices = self.model.prices
        found: list[types.ConditionalPrice | types.PriceVariant] = []
        if isinstance(prices, list):
            found += prices
        if batch:
            found += self._batch_variants()
        return tuple(_holds(part, at) for part in found)

    def price(self, at: datetime, *, batch: bool = False) -> TierPrice:
        """The entry's prices at an aware time.

        Each is worked out by genai-prices itself, from a usage on either side of every length at
        which a price jumps.

        Raises:
            PriceError: the entry prices no input or no output tokens, or no batch.
        """
        context = dict(_BATCH) if batch else None
        if batch:
            self._check_batch(at)
        known = self.model.get_prices(at, context)
        for direction in ("input", "output"):
            if getattr(known, f"{direction}_mtok") is None:
                raise PriceError(
                    f"genai-prices has no price for {direction} tokens of {self._name}: "
                    "give prices of your own (tiers file, price file or --price)."
                )
        base, *steps = (
            self._step(start, known, at, context) for start in (0, *_starts_of_steps(known))
        )
        return TierPrice(
            base.input_usd_per_mtok,
            base.cached_input_usd_per_mtok,
            base.cache_write_usd_per_mtok,
            base.output_usd_per_mtok,
            float(self._usd(at, context)),
            base.cache_write_1h_usd_per_mtok,
            tuple(steps),
        )

    @property
    def _name(self) -> str:
        return f"{self.provider.id}/{self.model.id}"

    def _batch_variants(self) -> list[types.PriceVariant]:
        return [v for v in self.model.price_variants or () if v.when == _BATCH]

    def _check_batch(self, at: datetime) -> None:
        """Without a batch price genai-prices would answer the full one, without a word."""
        variants = [v for v in self._batch_variants() if _has_both_directions(v)]
        if any(_holds(variant, at) for variant in variants):
            return
        starts = [getattr(v.constraint, "start_date", None) for v in variants]
        later = min((start for start in starts if start is not None), default=None)
        since = f" before {later}, the day from which genai-prices has one" if later else ""
        raise PriceError(
            f"no batch price is known for {self._name}{since}: use its standard price, or add "
            "batch prices to the tiers file or the price file."
        )

    def _step(
        self, start: int, known: types.ModelPrice, at: datetime, context: dict[str, str] | None
    ) -> PriceStep:
        """Prices per million tokens of a request that is one token longer than a step's start."""
        n = start + 1
        fee = self._usd(at, context)
        prompt = self._usd(at, context, input_tokens=n)

        def all_of_it(**counts: int) -> float:
            usd = self._usd(at, context, input_tokens=n, **counts)
            return float((usd - fee) / n * _MTOK)

        fresh = all_of_it()
        one_hour = None
        if known.cache_write_1h_mtok is not None:
            one_hour = all_of_it(cache_write_tokens=n, cache_write_1h_tokens=n)
        elif self.provider.id == "anthropic" and known.cache_write_mtok is not None:
            one_hour = _ANTHROPIC_1H_FACTOR * fresh
        return PriceStep(
            start,
            fresh,
            all_of_it(cache_read_tokens=n),
            all_of_it(cache_write_tokens=n),
            float((self._usd(at, context, input_tokens=n, output_tokens=1) - prompt) * _MTOK),
            one_hour,
        )

    def _usd(
        self,
        at: datetime,
        context: dict[str, str] | None,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        **cached: int,
    ) -> Decimal:
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, **cached)
        try:
            found = self.model.calc_price(
                usage, self.provider, genai_request_timestamp=at, price_context=context
            )
        except ValueError as error:
            raise PriceError(
                f"genai-prices cannot price {self._name} by its tokens: "
                "give prices of your own (tiers file, price file or --price)."
            ) from error
        return found.total_price


def newest_date(today: date) -> date | None:
    """The newest date up to today from which a price of the data holds."""
    found = {
        part.constraint.start_date
        for provider in get_snapshot().providers
        for model in provider.models
        for part in _dated_parts(model)
        if isinstance(part.constraint, types.StartDateConstraint)
    }
    return max((day for day in found if day <= today), default=None)


def provider_of(model_ref: str) -> str:
    """The id of the provider that makes a model; where it has only one provider, that one.

    Raises:
        PriceError: none has it, or several have and none of them makes it.
    """
    providers = get_snapshot().providers
    having = [provider for provider in providers if _find_exactly(provider, model_ref)]
    makers = [p for p in having if p.model_match and p.model_match.is_match(model_ref.lower())]
    if len(makers) == 1 or len(having) == 1:
        return (makers or having)[0].id
    if having:
        raise PriceError(
            f"expected a model that one provider makes, got {model_ref!r}, which is at "
            f"{', '.join(provider.id for provider in having)}: write PROVIDER/{model_ref}."
        )
    known = [m.id for p in providers if p.model_match is not None for m in p.models]
    raise PriceError(
        f"no price is known for the model {model_ref[:80]!r}{_nearest(model_ref, known)}: correct "
        "it, write PROVIDER/MODEL, or give its price."
    )


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
            "correct the provider, or give prices of your own (tiers file, price file or --price)."
        )
    model = _find_exactly(provider, model_ref)
    if model is None:
        raise PriceError(
            f"no price is known for {provider_id}/{model_ref}: the provider has no such model"
            f"{_nearest(model_ref, [m.id for m in provider.models])}: "
            "correct the model, or give prices of your own (tiers file, price file or --price)."
        )
    return PriceEntry(provider, model)


def has_its_own(provider_id: str, model_ref: str, other: str) -> bool:
    """Whether a name is published word for word, with prices that are not those of another name.

    So is a dated version whose price is not that of the model's newest one.
    """
    try:
        entry = find_entry(provider_id, model_ref)
    except PriceError:
        return False
    try:
        if find_entry(provider_id, other) == entry:
            return False
    except PriceError:
        pass
    return model_ref.lower() in {entry.model.id.lower(), *_literals(entry.model.match)}


def _find_exactly(provider: types.Provider, model_ref: str) -> types.ModelInfo | None:
    # Without the other providers: a fallback to another provider's price would be a guess.
    model = next((m for m in provider.models if m.id.lower() == model_ref.lower()), None)
    if model is None:
        model = provider.find_model(model_ref)
    return model if model is not None and _is_exact(model, model_ref) else None


def _is_exact(model: types.ModelInfo, ref: str) -> bool:
    """Whether the price data names this model, up to its date and version.

    genai-prices matches many models by prefix, which would price "gpt-5-nano-turbo" as gpt-5-nano.
    """
    names = {model.id.lower(), *_literals(model.match)}
    ref = ref.lower()
    return ref in names or core(ref) in {core(name) for name in names}


def _starts_of_steps(price: types.ModelPrice) -> list[int]:
    """The lengths beyond which a price of text tokens is another one, in rising order."""
    stepped = (getattr(price, key) for key in _TEXT_PRICES)
    return sorted(
        {
            step.start
            for found in stepped
            if isinstance(found, types.TieredPrices)
            for step in found.tiers
        }
    )


def _dated_parts(
    model: types.ModelInfo,
) -> Iterator[types.ConditionalPrice | types.PriceVariant]:
    if isinstance(model.prices, list):
        yield from model.prices
    yield from model.price_variants or ()


def _holds(part: types.ConditionalPrice | types.PriceVariant, at: datetime) -> bool:
    return part.constraint is None or part.constraint.active(at)


def _has_both_directions(variant: types.PriceVariant) -> bool:
    prices = variant.prices
    return prices.input_mtok is not None and prices.output_mtok is not None


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


def _nearest(wrong: str, known: list[str]) -> str:
    wrong = wrong.lower()
    # A suffix such as "-preview" is forgotten more often than a version is mistaken.
    near = [name for name in known if name.startswith(wrong)]
    near += difflib.get_close_matches(wrong, set(known) - set(near), n=3, cutoff=0.5)
    near = near[:3]
    return f" (nearest: {', '.join(near)})" if near else ""
