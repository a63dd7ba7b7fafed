"""The rows of batch jobs in the ledger: read some at a time, and written under the job's lease."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from router.ledger.batches import BatchStore, Row, insert_new, set_job
from router.ledger.rows import revision_after
from router.ledger.statements import upsert_attempts, upsert_requests
from router.ledger.tables import batch_jobs, batch_rows, requests

_IDS_AT_A_TIME = 500
COST_LIMIT = "cost-limit"
_ENDED = ("state", "reason", "answer", "part", "batched", "not_before_us", "attempts")
_END_ROW = (
    batch_rows.update()
    .where(batch_rows.c.job_id == sa.bindparam("of_job"))
    .where(batch_rows.c.row == sa.bindparam("new_row"))
    .values({name: sa.bindparam(f"new_{name}") for name in (*_ENDED, "cost_nanousd")})
)


class RowStore:
    """Reads and writes rows; see `BatchStore` for leases."""

    def __init__(self, store: BatchStore) -> None:
        self._store, self._engine = store, store.ledger.engine

    def taken_ids(self, ids: Sequence[str]) -> dict[str, tuple[str | None, int]]:
        """Which names are in the ledger: by name, the job and row that have it, if it is a row."""
        taken: dict[str, tuple[str | None, int]] = {}
        b, r = batch_rows.c, requests.c
        with self._engine.reading() as connection:
            for start in range(0, len(ids), _IDS_AT_A_TIME):
                some = ids[start : start + _IDS_AT_A_TIME]
                known = sa.select(r.request_id).where(r.request_id.in_(some))
                taken |= dict.fromkeys(connection.scalars(known), (None, 0))
                rows = sa.select(b.ledger_id, b.job_id, b.row).where(b.ledger_id.in_(some))
                taken |= {name: (job, row) for name, job, row in connection.execute(rows)}
        return taken

    def add_rows(self, job_id: str, rows: Sequence[Row]) -> None:
        """Add rows; those that are there already stay as they are."""
        if rows:
            with self._store.held(job_id, "add rows") as connection:
                insert_new(connection, batch_rows, rows)

    def rows(
        self, job_id: str, columns: Sequence[str], where: Any = None, *, chunk: int = 1000
    ) -> Iterator[Any]:
        """Rows in the order of the input, ``chunk`` of them in memory."""
        last = 0
        fields = [batch_rows.c[name] for name in dict.fromkeys(("row", *columns))]
        while True:
            query = (
                sa.select(*fields)
                .where((batch_rows.c.job_id == job_id) & (batch_rows.c.row > last))
                .order_by(batch_rows.c.row)
                .limit(chunk)
            )
            if where is not None:
                query = query.where(where)
            with self._engine.reading() as connection:
                found = connection.execute(query).mappings().all()
            yield from found
            if len(found) < chunk:
                return
            last = found[-1]["row"]

    def due_calls(self, job_id: str, limit: int) -> list[int]:
        """Numbers of rows to be called now, in order of their prefixes.

        All that wait are put in order for it, so it is asked for thousands at a time.
        """
        b = batch_rows.c
        waiting = (b.state == "waiting") & ~b.batched & (b.not_before_us <= self._store.now_us())
        query = sa.select(b.row).where((b.job_id == job_id) & waiting)
        with self._engine.reading() as connection:
            return list(connection.scalars(query.order_by(b.order_key, b.row).limit(limit)))

    def waiting(self, job_id: str, numbers: Sequence[int]) -> list[Any]:
        """Rows that wait, in order of their prefixes."""
        b = batch_rows.c
        chosen = (b.job_id == job_id) & b.row.in_(numbers) & (b.state == "waiting")
        query = sa.select(batch_rows).where(chosen).order_by(b.order_key, b.row)
        with self._engine.reading() as connection:
            return list(connection.execute(query).mappings())

    def lost_calls(self, job_id: str, limit: int) -> list[Any]:
        """Rows whose call was under way when a process died."""
        b = batch_rows.c
        query = sa.select(batch_rows).where((b.job_id == job_id) & (b.state == "calling"))
        with self._engine.reading() as connection:
            return list(connection.execute(query.order_by(b.row).limit(limit)).mappings())

    def mark_calling(self, job_id: str, rows: Sequence[int]) -> None:
        """Note that rows are about to be called."""
        b = batch_rows.c
        with self._store.held(job_id, "mark calling") as connection:
            connection.execute(
                batch_rows.update()
                .where((b.job_id == job_id) & b.row.in_(rows) & (b.state == "waiting"))
                .values(state="calling", called_us=self._store.now_us())
            )

    def unmark_calling(self, job_id: str, rows: Sequence[int]) -> None:
        """Note that rows were not called after all."""
        b = batch_rows.c
        with self._store.held(job_id, "unmark calling") as connection:
            connection.execute(
                batch_rows.update()
                .where((b.job_id == job_id) & b.row.in_(rows) & (b.state == "calling"))
                .values(state="waiting", called_us=None)
            )

    def next_call_us(self, job_id: str) -> int | None:
        """When the first of the rows that wait to be called may be; None where none waits."""
        b = batch_rows.c
        waiting = (b.job_id == job_id) & (b.state == "waiting") & ~b.batched
        with self._engine.reading() as connection:
            found: int | None = connection.scalar(
                sa.select(sa.func.min(b.not_before_us)).where(waiting)
            )
        return found

    def record(self, job_id: str, updates: Sequence[Row], records: Sequence[Any], name: str) -> int:
        """Write what became of rows, and their requests and attempts, in one transaction.

        Each update has ``row``, ``expected_state`` and the new values; ``spent_nanousd`` and
        ``unknown`` go to the job. A row that is in another state by now is passed over, with its
        records. Returns how many were written.
        """
        b = batch_rows.c
        with self._store.held(job_id, name) as connection:
            numbers = [update["row"] for update in updates]
            query = sa.select(b.row, b.state).where((b.job_id == job_id) & b.row.in_(numbers))
            states = {found.row: found.state for found in connection.execute(query)}
            pairs = [
                (update, record)
                for update, record in zip(updates, records, strict=True)
                if states.get(update["row"]) == update["expected_state"]
            ]
            if not pairs:
                return 0
            values = [{f"new_{key}": value for key, value in u.items()} for u, _ in pairs]
            connection.execute(_END_ROW, [{"of_job": job_id, **each} for each in values])
            set_job(
                connection,
                job_id,
                spent_nanousd=batch_jobs.c.spent_nanousd
                + sum(u["spent_nanousd"] for u, _ in pairs),
                n_unknown_cost=batch_jobs.c.n_unknown_cost + sum(u["unknown"] for u, _ in pairs),
            )
            # In one order, as the ledger writes them.
            written = sorted((r for _, r in pairs), key=lambda r: str(r[0]["request_id"]))
            upsert_requests(connection, [request for request, _ in written])
            upsert_attempts(connection, [row for _, its in written for row in its])
        return len(pairs)

    def fail_waiting(self, job_id: str, reason: str, where: Any = None) -> None:
        """Rows that wait are given up, for a reason."""
        b = batch_rows.c
        chosen = (b.job_id == job_id) & (b.state == "waiting")
        if where is not None:
            chosen &= where
        with self._store.held(job_id, "give up") as connection:
            finish_requests(connection, chosen)
            connection.execute(
                batch_rows.update().where(chosen).values(state="failed", reason=reason)
            )

    def any_short_of_money(self, job_id: str) -> bool:
        """Whether rows ended since there was no money left, and can still go on."""
        query = sa.select(batch_rows.c.row).where(_short_of_money(job_id)).limit(1)
        with self._engine.reading() as connection:
            return connection.execute(query).first() is not None

    def forget(self, job_id: str) -> None:
        """Erase prompts, decisions and answers of a job."""
        with self._store.held(job_id, "forget") as connection:
            connection.execute(
                batch_rows.update()
                .where(batch_rows.c.job_id == job_id)
                .values(prompt=None, decision=None, answer=None)
            )

    def committed_nanousd(self, job_id: str) -> int:
        """What is expected of the rows that are with a provider now."""
        b = batch_rows.c
        under_way = b.state.in_(("parted", "calling"))
        query = sa.select(sa.func.sum(b.expected_nanousd)).where((b.job_id == job_id) & under_way)
        with self._engine.reading() as connection:
            return int(connection.scalar(query) or 0)

    def counts(self, job_id: str) -> list[tuple[str, str, bool, str | None, int]]:
        """State, tier, whether batched, reason, and how many rows are so."""
        b = batch_rows.c
        keys = (b.state, b.tier, b.batched, b.reason)
        query = sa.select(*keys, sa.func.count()).where(b.job_id == job_id).group_by(*keys)
        with self._engine.reading() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(*keys))]


def finish_requests(connection: sa.Connection, rows: Any) -> None:
    """Rows are given up: of those that were tried before, the ledger's requests are done."""
    r = requests.c
    tried = sa.select(batch_rows.c.ledger_id).where(rows & (batch_rows.c.attempts > 0))
    connection.execute(
        requests.update()
        .where(~r.done & r.request_id.in_(tried))
        .values(done=True, revision=r.revision + revision_after(0, done=True))
    )


def reopen(connection: sa.Connection, job_id: str) -> int:
    """Rows that ended since there was no money left wait again; how many there were."""
    r, chosen = requests.c, _short_of_money(job_id)
    tried = sa.select(batch_rows.c.ledger_id).where(chosen & (batch_rows.c.attempts > 0))
    connection.execute(
        requests.update()
        .where(r.done & r.request_id.in_(tried))
        .values(done=False, revision=r.revision - revision_after(0, done=True))
    )
    changed = connection.execute(
        batch_rows.update().where(chosen).values(state="waiting", reason=None)
    )
    return changed.rowcount


def _short_of_money(job_id: str) -> Any:
    b = batch_rows.c
    # Of those that were forgotten nothing is left to ask.
    has_prompt = b.prompt.is_not(None)
    return (b.job_id == job_id) & (b.state == "failed") & (b.reason == COST_LIMIT) & has_prompt
