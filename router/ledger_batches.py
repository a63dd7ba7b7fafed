"""Batch jobs in the ledger: every change is committed before it is acted on, under a lease.

One process at a time works on a job. It holds a lease, which each of its writes renews and checks:
who has lost it writes nothing more. A lease ends by itself, or at once where its holder is seen to
be dead on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.errors import InputError, LedgerError
from router.lease import Holder
from router.ledger import Ledger
from router.ledger_statements import _insert, upsert_attempts, upsert_requests
from router.ledger_tables import batch_jobs, batch_parts, batch_rows, requests

Row = dict[str, Any]

_OPEN_ROWS = ("waiting", "parted", "calling")
_IDS_AT_A_TIME = 500
# Of a provider's past batches: so many of the latest are looked at.
_HISTORY = 200

_ENDED = ("state", "reason", "answer", "part", "batched", "not_before_us", "attempts")
_END_ROW = (
    batch_rows.update()
    .where(batch_rows.c.job_id == sa.bindparam("of_job"))
    .where(batch_rows.c.row == sa.bindparam("new_row"))
    .values({name: sa.bindparam(f"new_{name}") for name in (*_ENDED, "cost_nanousd")})
)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands."""

    job_id: str
    state: str
    created_us: int
    settings: Mapping[str, Any]
    n_rejected: int
    rejects: Mapping[str, int]
    spent_nanousd: int
    n_unknown_cost: int


class BatchStore:
    """Reads and writes batch jobs of one ledger.

    Args:
        ledger: Where they are.
        holder: Who holds the leases that this object takes.
        now_us: Microseconds since 1970.
        trace: Is told "before NAME" and "after NAME" of each write; for tests of crashes.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: Holder,
        now_us: Callable[[], int],
        trace: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.ledger, self.holder, self.now_us = ledger, holder, now_us
        self._engine, self._trace = ledger.engine, trace

    # Jobs

    def add_job(self, job_id: str, settings: Mapping[str, Any]) -> Job:
        """The job of that id, new where there is none."""
        values = {
            "job_id": job_id,
            "created_us": self.now_us(),
            "state": "loading",
            "settings": json.dumps(settings, allow_nan=False),
            "n_rejected": 0,
            "rejects": "{}",
            "spent_nanousd": 0,
            "n_unknown_cost": 0,
            "n_parts": 0,
            "lease_until_us": 0,
        }
        with self._writing("add job") as connection:
            _insert_new(connection, batch_jobs, [values])
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        """A job. Raises InputError where there is none of that id."""
        with self._engine.reading() as connection:
            found = connection.execute(_of(batch_jobs, job_id)).mappings().first()
        if found is None:
            raise InputError(
                f"expected a job of this ledger, got {job_id[:40]!r}, which it does not have: see "
                "cps-router batch status for those it has."
            )
        return _job(found)

    def jobs(self) -> list[Job]:
        """All jobs, the latest first."""
        query = sa.select(batch_jobs).order_by(batch_jobs.c.created_us.desc(), batch_jobs.c.job_id)
        with self._engine.reading() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def set_job(self, job_id: str, state: str, name: str) -> None:
        """Move a job to another state."""
        with self.held(job_id, name) as connection:
            _set_job(connection, job_id, state=state)

    def ask_to_cancel(self, job_id: str) -> None:
        """Note that a job is to end, whoever works on it."""
        c = batch_jobs.c
        with self._writing("cancel job") as connection:
            connection.execute(
                batch_jobs.update()
                .where((c.job_id == job_id) & (c.state != "done"))
                .values(state="cancelling")
            )

    def close_job(self, job_id: str) -> bool:
        """Whether nothing is left to do, and so the job is done."""
        left = (
            sa.select(batch_rows.c.row)
            .where((batch_rows.c.job_id == job_id) & batch_rows.c.state.in_(_OPEN_ROWS))
            .limit(1)
        )
        with self._engine.reading() as connection:
            if connection.execute(left).first() is not None:
                return False
        self.set_job(job_id, "done", "close job")
        return True

    def count_rejects(self, job_id: str, rejects: Mapping[str, int]) -> None:
        """The input was read to its end: the job is open."""
        with self.held(job_id, "open job") as connection:
            state = connection.scalar(
                sa.select(batch_jobs.c.state).where(batch_jobs.c.job_id == job_id)
            )
            _set_job(
                connection,
                job_id,
                state="open" if state == "loading" else state,
                n_rejected=sum(rejects.values()),
                rejects=json.dumps(dict(rejects)),
            )

    # Leases

    @contextmanager
    def leased(self, job_id: str) -> Iterator[None]:
        """Hold the lease of a job.

        Raises:
            LedgerError: somebody else holds it.
        """
        self._take(job_id)
        try:
            yield
        finally:
            c = batch_jobs.c
            with self._writing("give lease back") as connection:
                connection.execute(
                    batch_jobs.update()
                    .where((c.job_id == job_id) & (c.lease_owner == self.holder.name))
                    .values(lease_owner=None, lease_until_us=0)
                )

    def _take(self, job_id: str) -> None:
        c = batch_jobs.c
        with self._writing("take lease") as connection:
            query = sa.select(c.lease_owner, c.lease_until_us).where(c.job_id == job_id)
            # In PostgreSQL the second of two who come at once waits for the first here.
            found = connection.execute(query.with_for_update()).first()
            owner, until_us = (None, 0) if found is None else found
            now_us = self.now_us()
            if owner is not None and until_us > now_us and not self.holder.may_replace(owner):
                raise LedgerError(
                    f"expected to work on job {job_id}, but another process does, for up to "
                    f"{(until_us - now_us) / 60e6:.0f} more minutes after its last step: wait for "
                    "it, or end it."
                )
            until_us = now_us + self.holder.lease_us
            _set_job(connection, job_id, lease_owner=self.holder.name, lease_until_us=until_us)

    @contextmanager
    def held(self, job_id: str, name: str) -> Iterator[sa.Connection]:
        """A write by who holds the job's lease, which is renewed.

        Raises:
            LedgerError: the lease was lost; nothing is written.
        """
        c = batch_jobs.c
        with self._writing(name) as connection:
            renewed = connection.execute(
                batch_jobs.update()
                .where((c.job_id == job_id) & (c.lease_owner == self.holder.name))
                .values(lease_until_us=self.now_us() + self.holder.lease_us)
            )
            if renewed.rowcount != 1:
                raise LedgerError(
                    f"expected to go on with job {job_id}, but another process took it over: let "
                    "that one go on."
                )
            yield connection

    @contextmanager
    def _writing(self, name: str) -> Iterator[sa.Connection]:
        self._trace(f"before {name}")
        with self._engine.writing() as connection:
            yield connection
        self._trace(f"after {name}")

    # Rows

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
            with self.held(job_id, "add rows") as connection:
                _insert_new(connection, batch_rows, rows)

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

    def due_calls(self, job_id: str, limit: int) -> list[Any]:
        """Rows to be called now, those that were being called when a process died first."""
        b = batch_rows.c
        waiting = (b.state == "waiting") & ~b.batched & (b.not_before_us <= self.now_us())
        query = sa.select(batch_rows).where((b.job_id == job_id) & waiting)
        with self._engine.reading() as connection:
            return list(
                connection.execute(query.order_by(b.order_key, b.row).limit(limit)).mappings()
            )

    def lost_calls(self, job_id: str, limit: int) -> list[Any]:
        """Rows whose call was under way when a process died."""
        b = batch_rows.c
        query = sa.select(batch_rows).where((b.job_id == job_id) & (b.state == "calling"))
        with self._engine.reading() as connection:
            return list(connection.execute(query.order_by(b.row).limit(limit)).mappings())

    def mark_calling(self, job_id: str, rows: Sequence[int]) -> None:
        """Note that rows are about to be called."""
        b = batch_rows.c
        with self.held(job_id, "mark calling") as connection:
            connection.execute(
                batch_rows.update()
                .where((b.job_id == job_id) & b.row.in_(rows) & (b.state == "waiting"))
                .values(state="calling", called_us=self.now_us())
            )

    def unmark_calling(self, job_id: str, rows: Sequence[int]) -> None:
        """Note that rows were not called after all."""
        b = batch_rows.c
        with self.held(job_id, "unmark calling") as connection:
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
        with self.held(job_id, name) as connection:
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
            _set_job(
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
        with self.held(job_id, "give up") as connection:
            connection.execute(
                batch_rows.update()
                .where(chosen if where is None else chosen & where)
                .values(state="failed", reason=reason)
            )

    def forget(self, job_id: str) -> None:
        """Erase prompts, decisions and answers of a job."""
        with self.held(job_id, "forget") as connection:
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


def _insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    insert = _insert(connection.dialect.name, table)
    keys = [column.name for column in table.primary_key]
    connection.execute(insert.on_conflict_do_nothing(index_elements=keys), rows)


def _set_job(connection: sa.Connection, job_id: str, **values: Any) -> None:
    connection.execute(batch_jobs.update().where(batch_jobs.c.job_id == job_id).values(**values))


def _of(table: sa.Table, job_id: str) -> Any:
    return sa.select(table).where(table.c.job_id == job_id)


def _job(row: Mapping[str, Any]) -> Job:
    same = ("job_id", "state", "created_us", "n_rejected", "spent_nanousd", "n_unknown_cost")
    return Job(
        settings=json.loads(row["settings"]),
        rejects=json.loads(row["rejects"]),
        **{name: row[name] for name in same},
    )
