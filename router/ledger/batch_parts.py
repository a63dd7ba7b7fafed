"""The parts of a batch job in the ledger: each is one batch of one provider."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.ledger.batch_rows import finish_requests
from router.ledger.batches import BatchStore
from router.ledger.tables import batch_jobs, batch_parts, batch_rows

_ROWS_AT_A_TIME = 1000
# Of a provider's past batches: so many of the latest are looked at.
_HISTORY = 200


@dataclass(frozen=True, slots=True)
class Part:
    """A part as it stands; see `router.ledger.tables.batch_parts`."""

    job_id: str
    part: int
    tier: str
    provider: str
    model: str
    state: str
    outcome: str | None
    n_rows: int
    halvings: int
    batch_id: str | None
    since_us: int | None
    handed_in_us: int | None
    ended_us: int | None
    n_done: int


class PartStore:
    """Reads and writes the parts of jobs; see `BatchStore` for leases."""

    def __init__(self, store: BatchStore) -> None:
        self._store, self._engine = store, store.ledger.engine

    def parts(self, job_id: str, *states: str) -> list[Part]:
        """Parts in those states, or all of them."""
        p = batch_parts.c
        query = sa.select(batch_parts).where(p.job_id == job_id).order_by(p.part)
        if states:
            query = query.where(p.state.in_(states))
        with self._engine.reading() as connection:
            return [Part(**row) for row in connection.execute(query).mappings()]

    def form(
        self,
        job_id: str,
        tier: tuple[str, str, str],
        max_items: int,
        max_bytes: int,
        left_nanousd: int | None,
    ) -> int | None:
        """One part of waiting rows of a tier (name, provider, model), in order of their prefixes.

        As many as a batch takes and as the money that is left is expected to pay. None where no
        row fits; else what is expected of it, in nanodollars.
        """
        b = batch_rows.c
        chosen = (b.job_id == job_id) & (b.state == "waiting") & b.batched & (b.tier == tier[0])
        n = n_bytes = expected = 0
        last: tuple[str, int] | None = None
        for row in self._ordered(chosen, max_items, b.n_bytes, b.expected_nanousd):
            n_bytes += row["n_bytes"]
            too_dear = (
                left_nanousd is not None and expected + row["expected_nanousd"] > left_nanousd
            )
            if n_bytes > max_bytes or too_dear:
                break
            n, expected = n + 1, expected + row["expected_nanousd"]
            last = row["order_key"], row["row"]
        if last is None:
            return None
        with self._store.held(job_id, "form part") as connection:
            number = self._next(connection, job_id)
            self._insert(connection, job_id, number, tier, n, 0)
            upto = sa.tuple_(b.order_key, b.row) <= sa.tuple_(*map(sa.literal, last))
            connection.execute(
                batch_rows.update().where(chosen & upto).values(state="parted", part=number)
            )
        return expected

    def halve(self, part: Part) -> None:
        """Two parts in place of one that was refused as a whole."""
        b = batch_rows.c
        chosen = (b.job_id == part.job_id) & (b.part == part.part) & (b.state == "parted")
        middle = part.n_rows // 2
        *_, last = self._ordered(chosen, middle)
        upto = sa.tuple_(b.order_key, b.row) <= sa.tuple_(
            sa.literal(last["order_key"]), sa.literal(last["row"])
        )
        tier = (part.tier, part.provider, part.model)
        with self._store.held(part.job_id, "halve part") as connection:
            for n, where in ((middle, chosen & upto), (part.n_rows - middle, chosen)):
                number = self._next(connection, part.job_id)
                self._insert(connection, part.job_id, number, tier, n, part.halvings + 1)
                connection.execute(batch_rows.update().where(where).values(part=number))
            self._set(connection, part, state="closed")

    def set(self, part: Part, name: str, **values: Any) -> None:
        """Change a part."""
        with self._store.held(part.job_id, name) as connection:
            self._set(connection, part, **values)

    def give_back(self, part: Part, reason: str | None = None) -> None:
        """Close a part; its rows wait to be called one by one, or have failed for a reason."""
        b = batch_rows.c
        values: dict[str, Any] = {"state": "waiting", "part": None, "batched": False}
        if reason is not None:
            values = {"state": "failed", "reason": reason}
        chosen = (b.job_id == part.job_id) & (b.part == part.part) & (b.state == "parted")
        with self._store.held(part.job_id, "give back part") as connection:
            if reason is not None:
                finish_requests(connection, chosen)
            connection.execute(batch_rows.update().where(chosen).values(**values))
            self._set(connection, part, state="closed")

    def rows(self, part: Part, *columns: str) -> Iterator[Any]:
        """The rows of a part that have no result yet, in order of their prefixes."""
        b = batch_rows.c
        chosen = (b.job_id == part.job_id) & (b.part == part.part) & (b.state == "parted")
        return self._ordered(chosen, None, *(b[name] for name in columns))

    def rows_of(self, part: Part, numbers: Sequence[int]) -> dict[int, Any]:
        """Rows of a part that have no result yet, by number."""
        b = batch_rows.c
        query = sa.select(batch_rows).where(
            (b.job_id == part.job_id) & b.row.in_(numbers) & (b.part == part.part)
        )
        with self._engine.reading() as connection:
            found = connection.execute(query.where(b.state == "parted")).mappings()
            return {row["row"]: row for row in found}

    def batch_ids(self, provider: str) -> frozenset[str]:
        """All batches of a provider that a part of any job has."""
        p = batch_parts.c
        query = sa.select(p.batch_id).where((p.provider == provider) & p.batch_id.is_not(None))
        with self._engine.reading() as connection:
            return frozenset(connection.scalars(query))

    def durations_s(self, provider: str) -> list[float]:
        """Seconds that a provider's latest batches took; those that expired count too."""
        p = batch_parts.c
        query = (
            sa.select(p.ended_us - p.handed_in_us)
            .where((p.provider == provider) & p.ended_us.is_not(None))
            .where(p.outcome.in_(("ended", "expired")) & p.handed_in_us.is_not(None))
            .order_by(p.ended_us.desc())
            .limit(_HISTORY)
        )
        with self._engine.reading() as connection:
            return [us / 1e6 for us in connection.scalars(query)]

    def _ordered(self, where: Any, limit: int | None, *columns: Any) -> Iterator[Any]:
        b = batch_rows.c
        last: tuple[str, int] | None = None
        n = 0
        while limit is None or n < limit:
            size = _ROWS_AT_A_TIME if limit is None else min(_ROWS_AT_A_TIME, limit - n)
            query = sa.select(b.order_key, b.row, *columns).where(where)
            if last is not None:
                query = query.where(
                    sa.tuple_(b.order_key, b.row) > sa.tuple_(*map(sa.literal, last))
                )
            with self._engine.reading() as connection:
                query = query.order_by(b.order_key, b.row).limit(size)
                found = connection.execute(query).mappings().all()
            yield from found
            n += len(found)
            if len(found) < size:
                return
            last = found[-1]["order_key"], found[-1]["row"]

    def _next(self, connection: sa.Connection, job_id: str) -> int:
        c = batch_jobs.c
        connection.execute(
            batch_jobs.update().where(c.job_id == job_id).values(n_parts=c.n_parts + 1)
        )
        return int(connection.scalar(sa.select(c.n_parts).where(c.job_id == job_id)) or 0)

    def _insert(
        self,
        connection: sa.Connection,
        job_id: str,
        number: int,
        tier: tuple[str, str, str],
        n_rows: int,
        halvings: int,
    ) -> None:
        name, provider, model = tier
        connection.execute(
            batch_parts.insert().values(
                job_id=job_id,
                part=number,
                tier=name,
                provider=provider,
                model=model,
                state="planned",
                n_rows=n_rows,
                halvings=halvings,
                n_done=0,
            )
        )

    def _set(self, connection: sa.Connection, part: Part, **values: Any) -> None:
        p = batch_parts.c
        connection.execute(
            batch_parts.update()
            .where((p.job_id == part.job_id) & (p.part == part.part))
            .values(**values)
        )
