"""``cps-router savings``: the calculator on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from router.errors import InputError, PriceError

if TYPE_CHECKING:
    from router.calculator.workload import Share
    from router.prices import PriceBook
    from router.tiers import Tier

_PRICE_FORM = "MODEL=IN/OUT[/CACHED[/WRITE]]"

# The mark "\\b" keeps the lines of a paragraph as they are.
HELP = """Say what caching, routing and batch would save, from volume, tokens and prices alone.

No artifact and no log is needed. 10,000 requests a day with a system prompt of 3,000 tokens, today
all on one model; a router would send 60 % of them to a small one:

\b
  cps-router savings --requests-per-day 10000 \\
    --system-tokens 3000 --user-tokens 100 --output-tokens 500 \\
    --baseline claude-sonnet-4-6 \\
    --tier gpt-5-nano=0.6 --tier claude-sonnet-4-6=0.4

A model is named as its provider names it, or PROVIDER/MODEL where several have it. Amounts are USD.
"""


def savings(
    requests_per_day: Annotated[
        float, typer.Option("--requests-per-day", help="Requests a day, as many as you send now.")
    ],
    output_tokens: Annotated[
        int, typer.Option("--output-tokens", help="Tokens of an answer, reasoning included.")
    ],
    system_tokens: Annotated[
        int,
        typer.Option("--system-tokens", help="Tokens that all prompts begin with: what is cached."),
    ] = 0,
    user_tokens: Annotated[
        int, typer.Option("--user-tokens", help="Further tokens of a prompt, of its own.")
    ] = 0,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="MODEL", help="The model of today (default: the dearest --tier)."
        ),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(
            "--tier",
            metavar="MODEL=SHARE",
            help="With routing, this share of the requests goes there; once for each model.",
        ),
    ] = None,
    hit_rate: Annotated[
        float | None,
        typer.Option(
            "--hit-rate",
            help="Share of requests that find the prompt cached (0 to 1) where one model gets them "
            "all, if known; models that get a share hit less often.",
        ),
    ] = None,
    arrivals_per_hour: Annotated[
        float | None,
        typer.Option(
            "--arrivals-per-hour",
            help="Else it is worked out from this (default: a day's requests over 24 hours).",
        ),
    ] = None,
    ttl: Annotated[
        str,
        typer.Option("--ttl", metavar="5m|1h", help="How long a cached prompt lives, if chosen."),
    ] = "5m",
    min_cacheable: Annotated[
        int | None,
        typer.Option(
            "--min-cacheable",
            metavar="TOKENS",
            help="The length from which prompts are cached, where you know better than we do.",
        ),
    ] = None,
    batch_share: Annotated[
        float, typer.Option("--batch-share", help="Share of requests that can wait for a batch.")
    ] = 0.0,
    days_per_month: Annotated[float, typer.Option("--days-per-month")] = 30,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price",
            metavar=_PRICE_FORM,
            help="A price of your own, USD per million. Without CACHED or WRITE, reading or "
            "writing the cache costs the input price: give all four at a provider that "
            "charges more for writing.",
        ),
    ] = None,
    prices: Annotated[
        str | None, typer.Option("--prices", metavar="FILE", help="A price file (docs/prices.md).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what caching, routing and batch would save, from volume, tokens and prices alone."""
    from router.calculator import dearest, estimate
    from router.calculator.text import as_object, in_words
    from router.calculator.workload import Share, Workload
    from router.prices import PriceBook

    if not tier and baseline is None:
        raise InputError(
            "expected --baseline MODEL, the model of today, or --tier MODEL=SHARE, got neither: "
            "name one, such as --baseline claude-sonnet-4-6."
        )
    workload = Workload(
        requests_per_day,
        system_tokens,
        user_tokens,
        output_tokens,
        days_per_month,
        hit_rate,
        arrivals_per_hour,
        cast(Literal["5m", "1h"], ttl),
        min_cacheable,
        batch_share,
    )
    names = _Names(PriceBook(prices), price or [], ttl)
    mix: list[Share] = []
    for text in tier or []:
        model, share = _split(text, "--tier", "MODEL=SHARE, such as gpt-5-nano=0.6")
        found = names.tier(model)
        if any(found.name == other.tier.name for other in mix):
            raise InputError(
                f"expected each model in one --tier, got {found.name} twice: add up its shares."
            )
        mix.append(Share(found, _number(share, f"the share of {found.name}")))
    if baseline is None:
        today = dearest((share.tier for share in mix), workload, names.book)
    else:
        today = names.tier(baseline)
    names.check_all_used()
    lines = estimate(workload, today, mix, names.book)
    from router.cli import emit

    if as_json:
        answer = as_object(workload, lines, names.source())
        answer["notes"] += names.notes()
        emit(json.dumps(answer, allow_nan=False))
    else:
        said = [in_words(workload, lines, names.source())]
        emit("\n".join(said + [f"Mind: {note}." for note in names.notes()]))


class _Names:
    """Models as they are written on the command line, and the prices that come with them."""

    def __init__(self, book: PriceBook, own_prices: list[str], ttl: str) -> None:
        self.book = book
        self._own: dict[tuple[str, str], dict[str, float]] = {}
        self._unused: set[tuple[str, str]] = set()
        self._published = False
        for text in own_prices:
            ref, numbers = _split(text, "--price", f"{_PRICE_FORM}, such as gpt-5-nano=0.05/0.4")
            key = self._provider_and_model(ref, is_priced=True)
            if key in self._own:
                raise InputError(f"expected one --price of {'/'.join(key)}, got two: remove one.")
            self._own[key] = _own_price(numbers, "/".join(key), ttl)
            self._unused.add(key)

    def tier(self, ref: str) -> Tier:
        from router.tiers import Tier

        key = self._provider_and_model(_named(ref, "a model"))
        self._unused.discard(key)
        own = self._own.get(key, {})
        self._published = self._published or not own
        return Tier("/".join(key), *key, **cast(Any, own))

    def check_all_used(self) -> None:
        if self._unused:
            key = min(self._unused)
            raise InputError(
                f"expected a --price of a model in --baseline or --tier, got {'/'.join(key)}: "
                "correct its name, or leave it out."
            )

    def notes(self) -> list[str]:
        """What a price that was given leaves out, where its provider charges for it."""
        from router.tiers import Tier

        found = []
        for key, own in self._own.items():
            published = self.book.find(Tier("/".join(key), *key))
            if "cache_write_price_usd_per_mtok" in own or published is None:
                continue
            if published.cache_write_usd_per_mtok > published.input_usd_per_mtok:
                times = published.cache_write_usd_per_mtok / published.input_usd_per_mtok
                found.append(
                    f"the --price of {'/'.join(key)} has no WRITE, so writing to the cache counts "
                    f"at the input price; its provider charges {times:.4g} times that"
                )
        return found

    def source(self) -> str:
        """Where the prices come from, for the reader."""
        if not self._published:
            return "prices as given"
        given = " and as given" if self._own else ""
        return f"prices of {self.book.data_version}, the newest of {self.book.as_of}{given}"

    def _provider_and_model(self, ref: str, *, is_priced: bool = False) -> tuple[str, str]:
        provider, slash, model = ref.partition("/")
        if slash and provider and model:
            return provider, model
        same = [key for key in self._own if key[1] == ref]
        if len(same) == 1:
            return same[0]
        try:
            return self.book.provider_of(ref), ref
        except PriceError:
            if is_priced:
                return "own", ref  # of a provider that we know nothing of
            raise


def _own_price(text: str, model: str, ttl: str) -> dict[str, float]:
    parts = text.split("/")
    if not 2 <= len(parts) <= 4:
        raise InputError(
            f"expected the price of {model} as IN/OUT[/CACHED[/WRITE]] in USD per million tokens, "
            f"got {repr(text)[:60]}: write it as 3/15 or 3/15/0.3/3.75."
        )
    from router.tiers import PRICE_KEYS

    fresh, cached, written, output, written_1h = PRICE_KEYS
    keys = (fresh, output, cached, written)
    prices = {
        key: _number(part, f"each price of {model}") for key, part in zip(keys, parts, strict=False)
    }
    for key, number in prices.items():
        if not 0 <= number <= 1e9:
            raise InputError(
                f"expected {key} of {model} from 0 to a billion, got {number!r}: correct it."
            )
    if len(parts) == 4 and ttl == "1h":
        # What writing costs is asked for the time to live that was chosen.
        prices[written_1h] = prices[written]
    return prices


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    model, equals, rest = text.rpartition("=")
    if not equals or not model or not rest:
        raise InputError(
            f"expected {option} {form}, got {repr(text)[:60]}: write the model, an equals sign and "
            "numbers."
        )
    return _named(model, f"the model of {option}"), rest


def _named(model: str, what: str) -> str:
    if not model.isprintable() or model != model.strip() or not 0 < len(model) <= 200:
        raise InputError(
            f"expected {what} as a name such as gpt-5-nano, got {repr(model)[:60]}: correct it."
        )
    return model


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if number != number:
        raise InputError(f"expected {what} as a number, got {repr(text)[:40]}: correct it.")
    return number
