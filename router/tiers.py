"""Tiers: price classes, each bound to one provider and model, read from a TOML file.

The file is an array of tables::

    [[tiers]]
    name = "nano"                      # any name, unique
    provider = "openai"                # id of the provider in the price book
    model = "gpt-5-nano"               # id of the model in the price book
    aliases = ["gpt-5-nano-2025-08-07"]            # optional: other names the log uses
    input_price_usd_per_mtok = 0.05                # optional: your own price; input and output
    output_price_usd_per_mtok = 0.40               #   belong together
    cached_input_price_usd_per_mtok = 0.005        # optional, with the two above
    cache_write_price_usd_per_mtok = 0.05          # optional, with the two above
    cache_write_1h_price_usd_per_mtok = 0.10       # optional: written for an hour
    batch_input_price_usd_per_mtok = 0.025         # optional: the same keys again, with batch_ in
                                                   #   front; all that are given above, or none
    context_window_tokens = 400000                 # optional
    features = ["tools", "images"]                 # optional

The order of the file is kept, and says nothing: which tier is cheaper or stronger is measured.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from router.errors import InputError, TiersError
from router.stored_query import Query

# A token has about four characters of English and about two of denser scripts; three is the
# cautious middle, used only to keep long requests away from tiers whose window is too small.
_CHARACTERS_PER_TOKEN = 3

_REQUIRED_KEYS = ("name", "provider", "model")
PRICE_KEYS = (
    "input_price_usd_per_mtok",
    "cached_input_price_usd_per_mtok",
    "cache_write_price_usd_per_mtok",
    "output_price_usd_per_mtok",
    "cache_write_1h_price_usd_per_mtok",
)
BATCH_PRICE_KEYS = tuple(f"batch_{key}" for key in PRICE_KEYS)
_ALL_PRICE_KEYS = (*PRICE_KEYS, *BATCH_PRICE_KEYS)
_KEYS = (*_REQUIRED_KEYS, "aliases", *_ALL_PRICE_KEYS, "context_window_tokens", "features")


def estimated_tokens(text: Query) -> int:
    """About how many tokens a text has, whatever the model.

    >>> estimated_tokens("What is the capital of France?")
    10
    """
    return len(text) // _CHARACTERS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Tier:
    """A price class bound to one provider and model.

    Prices are USD per million tokens and None where the price book shall be asked; an override
    has the input and the output price, or neither. Of batch prices it has as many as of the others,
    or none: some providers halve what reading a cache costs in a batch, some do not. ``aliases``
    are further names under which a log may know the model. ``context_window_tokens`` None means no
    limit is known.

    Raises:
        TiersError: an override is incomplete.
    """

    name: str
    provider: str
    model: str
    aliases: tuple[str, ...] = ()
    input_price_usd_per_mtok: float | None = None
    cached_input_price_usd_per_mtok: float | None = None
    output_price_usd_per_mtok: float | None = None
    context_window_tokens: int | None = None
    features: frozenset[str] = frozenset()
    cache_write_price_usd_per_mtok: float | None = None
    cache_write_1h_price_usd_per_mtok: float | None = None
    batch_input_price_usd_per_mtok: float | None = None
    batch_cached_input_price_usd_per_mtok: float | None = None
    batch_cache_write_price_usd_per_mtok: float | None = None
    batch_output_price_usd_per_mtok: float | None = None
    batch_cache_write_1h_price_usd_per_mtok: float | None = None

    def __post_init__(self) -> None:
        given = [key for key in _ALL_PRICE_KEYS if getattr(self, key) is not None]
        if given and not {"input_price_usd_per_mtok", "output_price_usd_per_mtok"} <= set(given):
            # Half an override would be completed from elsewhere, or worse, by a zero.
            raise TiersError(
                "a tier's own price needs both input_price_usd_per_mtok and "
                f"output_price_usd_per_mtok, got only {', '.join(given)}: add the missing one "
                "or remove the rest."
            )
        odd = unmatched_batch_key(given)
        if odd is not None:
            raise TiersError(
                f"batch prices need the same keys as the prices without batch, and {odd} stands "
                "alone: add its other half, or remove it."
            )

    @property
    def has_price(self) -> bool:
        """Whether the tier carries its own price."""
        return self.input_price_usd_per_mtok is not None

    def to_dict(self) -> dict[str, object]:
        """The tier as a JSON-serialisable object with the keys of the TOML file.

        Keys that are not set are left out.
        """
        result: dict[str, object] = {}
        for key in _KEYS:
            value = getattr(self, key)
            if key == "aliases":
                value = list(self.aliases) or None
            elif key == "features":
                value = sorted(self.features) or None
            if value is not None:
                result[key] = value
        return result


class TierSet(Sequence[Tier]):
    """The tiers of one routing problem, in file order; at least one, names unique.

    Raises:
        TiersError: no tiers, or a name, model or alias that belongs to two of them.
    """

    __slots__ = ("_by_log_name", "_by_name", "_tiers", "names")

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self._tiers = tuple(tiers)
        if not self._tiers:
            raise TiersError("expected at least one tier, got none: add a [[tiers]] table.")
        self.names: tuple[str, ...] = tuple(tier.name for tier in self._tiers)
        self._by_name = {name: index for index, name in enumerate(self.names)}
        if len(self._by_name) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise TiersError(f"tier name {twice!r} occurs twice: give every tier its own name.")
        # One map for names, models and aliases: a log name has to lead to exactly one tier.
        self._by_log_name: dict[str, int] = {}
        for index, tier in enumerate(self._tiers):
            for log_name in (tier.name, tier.model, *tier.aliases):
                owner = self._by_log_name.setdefault(log_name, index)
                if owner != index:
                    raise TiersError(
                        f"{log_name!r} belongs to the tiers {self.names[owner]!r} and "
                        f"{tier.name!r}: a name, model or alias may lead to one tier only."
                    )

    @overload
    def __getitem__(self, index: int) -> Tier: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tier, ...]: ...
    def __getitem__(self, index: int | slice) -> Tier | tuple[Tier, ...]:
        return self._tiers[index]

    def __len__(self) -> int:
        return len(self._tiers)

    def __iter__(self) -> Iterator[Tier]:
        return iter(self._tiers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TierSet) and self._tiers == other._tiers

    def __hash__(self) -> int:
        return hash(self._tiers)

    def __repr__(self) -> str:
        return f"TierSet({', '.join(self.names)})"

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """Position of a tier, given by name or as a Tier.

        Raises:
            TiersError: there is no such tier (the message names the nearest).
        """
        name = value.name if isinstance(value, Tier) else value
        position = self._by_name.get(name) if isinstance(name, str) else None
        end = len(self) if stop is None else stop
        if position is None or not start <= position < end:
            raise TiersError(
                f"expected the name of a tier, got {name!r}{_hint(str(name), self.names)}: "
                f"use one of {', '.join(self.names)}."
            )
        return position

    def find(self, tier: str | None, model: str | None) -> int | None:
        """Position of the tier that a log row means, or None if it is not a tier.

        Both are matched exactly, against tier names, models and aliases; ``tier`` goes first, and
        ``model`` is asked where ``tier`` is missing or unknown.
        """
        if tier is not None:
            index = self._by_log_name.get(tier)
            if index is not None:
                return index
        return None if model is None else self._by_log_name.get(model)

    @classmethod
    def from_toml(cls, path: str | Path) -> TierSet:
        """Read a tiers file.

        Raises:
            TiersError: the file is missing, is not TOML, or breaks a rule of this module.
        """
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise TiersError(
                f"expected a tiers file at {path}, found none: write one with a [[tiers]] table "
                f"for each tier."
            ) from None
        except OSError as error:
            raise TiersError(
                f"{path}: cannot read the tiers file ({error.strerror}): check the path and its "
                f"permissions."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TiersError(f"{path}: expected TOML, got an error: {error}.") from error
        for key in data:
            if key != "tiers":
                raise TiersError(
                    f"{path}: unknown key {key!r}{_hint(key, ('tiers',))}: the file holds only "
                    f"[[tiers]] tables."
                )
        tables = data.get("tiers")
        if not isinstance(tables, list) or not tables:
            raise TiersError(f"{path}: expected [[tiers]] tables, found none: add one per tier.")
        return cls.from_dicts(tables, source=str(path))

    def takes(self, n_tokens: int) -> list[bool]:
        """Which tiers have a context window for a request of so many tokens."""
        return [n_tokens <= (tier.context_window_tokens or n_tokens) for tier in self._tiers]

    def to_dicts(self) -> list[dict[str, object]]:
        """The tiers as JSON-serialisable objects; `from_dicts` reads them back."""
        return [tier.to_dict() for tier in self._tiers]

    @classmethod
    def from_dicts(cls, dicts: Sequence[Mapping[str, object]], *, source: str = "tiers") -> TierSet:
        """Build a set from the tables of a tiers file or from `to_dicts`.

        Raises:
            TiersError: an unknown or missing key, a value of the wrong type, a negative price, or
                a duplicate; the message names the key, and the nearest valid one.
        """
        tiers = [_tier(table, f"{source}: tier {i}") for i, table in enumerate(dicts, start=1)]
        try:
            return cls(tiers)
        except TiersError as error:
            raise TiersError(f"{source}: {error}") from None


def _tier(table: object, where: str) -> Tier:
    if not isinstance(table, Mapping):
        raise TiersError(f"{where}: expected a table, got {type(table).__name__}.")
    if isinstance(table.get("name"), str):
        where = f"{where} ({table['name']!r})"
    for key in table:
        if key not in _KEYS:
            raise TiersError(
                f"{where}: unknown key {key!r}{_hint(str(key), _KEYS)}: "
                f"use only {', '.join(_KEYS)}."
            )
    name, provider, model = (_text(table.get(key), key, where) for key in _REQUIRED_KEYS)
    prices = {
        key: checked_price(table.get(key), f"{where}: {key}", TiersError) for key in _ALL_PRICE_KEYS
    }
    aliases, features = (_texts(table.get(key), key, where) for key in ("aliases", "features"))
    window = table.get("context_window_tokens")
    if window is not None and (type(window) is not int or window <= 0):
        raise TiersError(
            f"{where}: context_window_tokens must be a whole number above 0, got {window!r}."
        )
    try:
        return Tier(
            name=name,
            provider=provider,
            model=model,
            aliases=aliases,
            context_window_tokens=window,
            features=frozenset(features),
            **prices,
        )
    except TiersError as error:
        raise TiersError(f"{where}: {error}") from None


def _text(value: object, key: str, where: str) -> str:
    if value is None:
        raise TiersError(f"{where}: the key {key!r} is missing: add it.")
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise TiersError(
            f"{where}: {key} must be text without spaces at its ends, got {value!r}: correct it."
        )
    if not value.isprintable():
        # It would break a line, or colour the rest of it, wherever the tier is shown.
        raise TiersError(
            f"{where}: {key} must be text that can be printed, got {value!r}: correct it."
        )
    return value


def _texts(value: object, key: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise TiersError(f"{where}: {key} must be a list of texts, got {value!r}: correct it.")
    return tuple(_text(item, key, where) for item in value)


def checked_price(value: object, what: str, error: type[InputError]) -> float | None:
    """A price in USD per million tokens, or None; raises ``error``, which begins with ``what``."""
    if value is None:
        return None
    # bool is an int to Python, and `true` is no price.
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            price = float(value)
            if math.isfinite(price) and price >= 0:
                return price
    raise error(
        f"{what} must be a finite price of at least 0 USD per million tokens, got "
        f"{repr(value)[:40]}: correct it."
    )


def unmatched_batch_key(given: Sequence[str]) -> str | None:
    """A given price that has no batch counterpart, or the other way round; None without batch.

    >>> unmatched_batch_key(["input_price_usd_per_mtok", "output_price_usd_per_mtok"])
    >>> unmatched_batch_key(["input_price_usd_per_mtok", "batch_output_price_usd_per_mtok"])
    'input_price_usd_per_mtok'
    """
    pairs = list(zip(PRICE_KEYS, BATCH_PRICE_KEYS, strict=True))
    if not any(batch in given for _, batch in pairs):
        return None
    for standard, batch in pairs:
        if (standard in given) != (batch in given):
            return standard if standard in given else batch
    return None


def _hint(wrong: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, valid, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
