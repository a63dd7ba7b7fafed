"""Batch jobs in the ledger: every change is committed before it is acted on, under a lease.

One process at a time works on a job. It holds a lease, which each of its writes renews and checks:
who has lost it writes nothing more. A lease ends by itself, or at once where its holder is seen to
be dead on this machine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.errors import InputError, LedgerError
from router.ledger import Ledger
from router.ledger.lease import Holder
from router.ledger.statements import _insert
from router.ledger.tables import batch_jobs, batch_rows

Row = dict[str, Any]

_OPEN_ROWS = ("waiting", "parted", "calling")


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
        # All calls of one object hold leases under one name, so it has to tell them apart itself.
        self._at_work: set[str] = set()
        self._lock = threading.Lock()

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
            insert_new(connection, batch_jobs, [values])
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
            set_job(connection, job_id, state=state)

    def set_limits(self, job_id: str, limits: Mapping[str, Any]) -> Job:
        """Change limits of a job, under its lease; rows that had none left wait again if raised."""
        from router.ledger.batch_rows import reopen

        job = self.job(job_id)
        new, old = limits["max_cost_usd"], job.settings["max_cost_usd"]
        if any(job.settings[name] != value for name, value in limits.items()):
            with self.held(job_id, "set limits") as connection:
                settings = json.dumps({**job.settings, **limits}, allow_nan=False)
                set_job(connection, job_id, settings=settings)
                if old is not None and (new is None or new > old):
                    n = reopen(connection, job_id)
                    if n and job.state == "done":
                        set_job(connection, job_id, state="open")
        return self.job(job_id)

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
            set_job(
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
            LedgerError: somebody else holds it, or another call of this object.
        """
        with self._lock:
            if job_id in self._at_work:
                raise LedgerError(
                    f"expected to work on job {job_id}, but another call of this process does: "
                    "wait for it."
                )
            self._at_work.add(job_id)
        try:
            with self._leased(job_id):
                yield
        finally:
            with self._lock:
                self._at_work.discard(job_id)

    @contextmanager
    def _leased(self, job_id: str) -> Iterator[None]:
        self._take(job_id)
        over = threading.Event()
        beat = threading.Thread(target=self.renew_until, args=(job_id, over.wait), daemon=True)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()
            c = batch_jobs.c
            with self._writing("give lease back") as connection:
                connection.execute(
                    batch_jobs.update()
                    .where((c.job_id == job_id) & (c.lease_owner == self.holder.name))
                    .values(lease_owner=None, lease_until_us=0)
                )

    def renew_until(self, job_id: str, wait: Callable[[float], bool]) -> None:
        """Renew the lease again and again while one step takes long, as a large upload may."""
        while not wait(self.holder.lease_s / 3):
            # Where it cannot be renewed, or is lost, the next step of the work says so.
            with suppress(LedgerError), self.held(job_id, "renew lease"):
                pass

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
            set_job(connection, job_id, lease_owner=self.holder.name, lease_until_us=until_us)

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


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows; those that are there already stay as they are."""
    insert = _insert(connection.dialect.name, table)
    keys = [column.name for column in table.primary_key]
    connection.execute(insert.on_conflict_do_nothing(index_elements=keys), rows)


def set_job(connection: sa.Connection, job_id: str, **values: Any) -> None:
    """Change a job, within a write that is under way."""
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
