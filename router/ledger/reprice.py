"""Fill in what was not known when it was recorded: costs of known usages, once a price is there.

Only what is unknown is filled in, at the prices of the attempt's day; a cost that was recorded
stays as it is. So it may be repeated, and stopped at any moment. A baseline is estimated from what
was served and from the costs that the decision expected: the tokens that the artifact expected are
not recorded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from router.client.request_costs import Cost, baseline_of, cost_of
from router.ledger import Ledger
from router.ledger.rows import attempt_from, moment
from router.ledger.tables import attempts, requests
from router.model_names import core
from router.prices import PriceBook
from router.records import AttemptRecord
from router.tiers import Tier, TierSet

_CHUNK = 1000
_MONEY = ("cost_nanousd", "uncached_nanousd", "standard_nanousd")


@dataclass(slots=True)
class Repriced:
    """How many attempts got a cost and how many requests a baseline, and what is still unknown.

    ``no_price`` counts attempts of known usage by provider and model; ``n_no_usage`` are attempts
    of which nobody said what they used.
    """

    n_costs: int = 0
    n_baselines: int = 0
    n_no_usage: int = 0
    no_price: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "n_costs": self.n_costs,
            "n_baselines": self.n_baselines,
            "n_no_usage": self.n_no_usage,
            "n_no_price": self.no_price.total(),
            "no_price": dict(self.no_price.most_common()),
        }


def reprice(ledger: Ledger, book: PriceBook, tiers: TierSet | None = None) -> Repriced:
    """Fill in the costs, and then the baselines, that are unknown and can be known now.

    Args:
        ledger: Where they are.
        book: The prices.
        tiers: Whose own prices go first, for tiers of the same name and model.

    Raises:
        LedgerError: it cannot be read or written; what was filled in before stays.
    """
    found = Repriced()
    named = {tier.name: tier for tier in tiers or ()}
    with ledger.engine.reading() as connection:
        unused = sa.select(sa.func.count()).where(
            attempts.c.input_tokens.is_(None) & attempts.c.cost_nanousd.is_(None)
        )
        found.n_no_usage = int(connection.scalar(unused) or 0)
    last: tuple[str, int] | None = ("", 0)
    while last is not None:
        with ledger.engine.writing() as connection:
            last = _fill_costs(connection, last, book, named, found)
    after: str | None = ""
    while after is not None:
        with ledger.engine.writing() as connection:
            after = _fill_baselines(connection, after, book, named, found)
    return found


def _fill_costs(
    connection: sa.Connection,
    last: tuple[str, int],
    book: PriceBook,
    named: Mapping[str, Tier],
    found: Repriced,
) -> tuple[str, int] | None:
    """Those of the next attempts; the key of the last of them, None at the end."""
    columns = attempts.c
    keys = (columns.request_id, columns.attempt)
    unknown = sa.or_(*(columns[name].is_(None) for name in _MONEY))
    query = (
        sa.select(attempts)
        .where(columns.input_tokens.is_not(None) & unknown)
        .where(sa.tuple_(*keys) > sa.tuple_(*map(sa.literal, last)))
        .order_by(*keys)
        .limit(_CHUNK)
    )
    rows = connection.execute(query).mappings().all()
    filled = []
    for row in rows:
        attempt = attempt_from({**row})
        tier = named.get(attempt.tier)
        if tier is None or not _is_model(tier, attempt):
            tier = Tier(attempt.tier, attempt.provider, attempt.model)
        cost = _cost(attempt, tier, book)
        values = (cost.actual, cost.uncached, cost.standard)
        new = {name: value for name, value in zip(_MONEY, values, strict=True) if row[name] is None}
        if all(value is None for value in new.values()):
            found.no_price[f"{tier.provider}/{tier.model}"] += 1
            continue
        found.n_costs += 1
        key = {"its_request": row["request_id"], "its_attempt": row["attempt"]}
        filled.append(key | {f"new_{name}": new.get(name) for name in _MONEY})
    if filled:
        update = (
            attempts.update()
            .where(columns.request_id == sa.bindparam("its_request"))
            .where(columns.attempt == sa.bindparam("its_attempt"))
            .values({n: sa.func.coalesce(columns[n], _new(n)) for n in _MONEY})
        )
        connection.execute(update, filled)
    return (rows[-1]["request_id"], rows[-1]["attempt"]) if len(rows) == _CHUNK else None


def _new(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(f"new_{name}", type_=sa.BigInteger)


def _is_model(tier: Tier, attempt: AttemptRecord) -> bool:
    """Whether a tier of a file is still what it was when the attempt was made."""
    return tier.provider == attempt.provider and core(tier.model) == core(attempt.model)


def _cost(attempt: AttemptRecord, tier: Tier, book: PriceBook) -> Cost:
    standard = cost_of(book.find(tier, attempt.at), attempt.usage)
    if not attempt.batch:
        return standard
    in_batch = cost_of(book.find(tier, attempt.at, batch=True), attempt.usage)
    return Cost(in_batch.actual, in_batch.uncached, standard.standard)


def _fill_baselines(
    connection: sa.Connection,
    after: str,
    book: PriceBook,
    named: Mapping[str, Tier],
    found: Repriced,
) -> str | None:
    """Those of the next requests; the last of them, None at the end."""
    r, a = requests.c, attempts.c
    query = (
        sa.select(attempts, r.decision, r.baseline_tier, r.at_us.label("asked_us"))
        .join(requests, a.request_id == r.request_id)
        .where(r.done & r.baseline_nanousd.is_(None) & r.baseline_tier.is_not(None))
        .where(a.served & a.input_tokens.is_not(None) & (a.request_id > after))
        .order_by(a.request_id, a.attempt)
        .limit(_CHUNK)
    )
    rows = connection.execute(query).mappings().all()
    filled: dict[str, dict[str, Any]] = {}
    strongest_of: dict[str, Tier | None] = {}
    for row in rows:
        name = row["baseline_tier"]
        if name not in strongest_of:
            strongest_of[name] = _tier_of(connection, name, named)
        strongest = strongest_of[name]
        price = None if strongest is None else book.find(strongest, moment(row["asked_us"]))
        expected = json.loads(row["decision"]).get("cost_usd")
        baseline = baseline_of(
            name,
            price,
            attempt_from({**row}),
            expected if isinstance(expected, Mapping) else {},
            {},
        )
        if baseline.nanousd is not None:
            filled[row["request_id"]] = {
                "its_request": row["request_id"],
                "new_nanousd": baseline.nanousd,
                "new_measured": baseline.measured,
            }
    if filled:
        update = (
            requests.update()
            .where((r.request_id == sa.bindparam("its_request")) & r.baseline_nanousd.is_(None))
            .values(
                baseline_nanousd=sa.bindparam("new_nanousd"),
                baseline_measured=sa.bindparam("new_measured"),
            )
        )
        connection.execute(update, list(filled.values()))
    found.n_baselines += len(filled)
    return rows[-1]["request_id"] if len(rows) == _CHUNK else None


def _tier_of(connection: sa.Connection, name: str, named: Mapping[str, Tier]) -> Tier | None:
    """A tier by its name: of the file, else as it was called last."""
    if name in named:
        return named[name]
    a = attempts.c
    query = sa.select(a.provider, a.model).where(a.tier == name).order_by(a.at_us.desc()).limit(1)
    rows: Sequence[Any] = connection.execute(query).all()
    return Tier(name, rows[0].provider, rows[0].model) if rows else None
