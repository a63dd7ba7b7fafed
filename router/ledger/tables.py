"""Tables of the ledger (SQLAlchemy Core), their version, and how older ones are moved to it.

The same tables in SQLite and PostgreSQL. Money is whole nanodollars, moments are whole microseconds
since 1970 (UTC): both exact, and compared and added alike by both databases. Names begin with
``cps_``, since a PostgreSQL database may have other tenants.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from router.errors import LedgerError

SCHEMA_VERSION = 2
"""Raised with every change of the tables; MIGRATIONS then gets a step."""

metadata = sa.MetaData()

meta = sa.Table(
    "cps_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

requests = sa.Table(
    "cps_requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    # Of which state of the request this row is; see router.ledger.rows.revision_of.
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("task", sa.Text),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("baseline_tier", sa.Text),
    sa.Column("baseline_nanousd", sa.BigInteger),
    sa.Column("baseline_measured", sa.Boolean, nullable=False),
    sa.Column("exploration_nanousd", sa.BigInteger, nullable=False),
    sa.Column("query", sa.Text),
    # JSON: the record of a query stored without its text, or a text that SQL text cannot hold.
    sa.Column("query_json", sa.Text),
    sa.Index("cps_requests_by_time", "at_us", "request_id"),
)

attempts = sa.Table(
    "cps_attempts",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("latency_s", sa.Double, nullable=False),
    # All six are NULL where the usage is unknown.
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("cache_write_1h_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
    sa.Column("cost_nanousd", sa.BigInteger),
    sa.Column("uncached_nanousd", sa.BigInteger),
    sa.Column("standard_nanousd", sa.BigInteger),
    sa.Column("batch", sa.Boolean, nullable=False),
    sa.Column("served", sa.Boolean, nullable=False),
)

# No foreign key: feedback may come before the record of its request, from another process.
feedback = sa.Table(
    "cps_feedback",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("success", sa.Double, nullable=False),
    sa.Column("score", sa.Double),
)

warm_prefixes = sa.Table(
    "cps_warm_prefixes",
    metadata,
    sa.Column("tier", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("stored_at_s", sa.Double, nullable=False),
    sa.Column("ttl_s", sa.Double, nullable=False),
    sa.Index("cps_warm_prefixes_by_key", "key"),
)

# Since version 2: what waits a day for half the price; see router.batch.
batch_jobs = sa.Table(
    "cps_batch_jobs",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    # "loading", "open", "cancelling" or "done".
    sa.Column("state", sa.Text, nullable=False),
    # JSON: what was asked for, with the tiers.
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("n_rejected", sa.BigInteger, nullable=False),
    # JSON: how many bad rows there were for each reason.
    sa.Column("rejects", sa.Text, nullable=False),
    sa.Column("spent_nanousd", sa.BigInteger, nullable=False),
    # Answers whose cost is unknown, each of which counts with what was expected of it.
    sa.Column("n_unknown_cost", sa.BigInteger, nullable=False),
    sa.Column("n_parts", sa.Integer, nullable=False),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_until_us", sa.BigInteger, nullable=False),
)

batch_parts = sa.Table(
    "cps_batch_parts",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    # "planned", "handing-in", "running", "ended" or "closed".
    sa.Column("state", sa.Text, nullable=False),
    # What the provider said last of it, once it is final.
    sa.Column("outcome", sa.Text),
    sa.Column("n_rows", sa.Integer, nullable=False),
    # How often a batch that was refused as a whole was cut in two before this one.
    sa.Column("halvings", sa.Integer, nullable=False),
    sa.Column("batch_id", sa.Text),
    # Of the first hand-in, and of the latest.
    sa.Column("since_us", sa.BigInteger),
    sa.Column("handed_in_us", sa.BigInteger),
    sa.Column("ended_us", sa.BigInteger),
    sa.Column("n_done", sa.Integer, nullable=False),
    sa.Index("cps_batch_parts_by_provider", "provider", "ended_us"),
)

batch_rows = sa.Table(
    "cps_batch_rows",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("row", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.Text, nullable=False),
    # Under which it is in cps_requests: other than request_id where that one was taken.
    sa.Column("ledger_id", sa.Text, nullable=False, unique=True),
    # "waiting", "parted", "calling", "answered" or "failed".
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("batched", sa.Boolean, nullable=False),
    sa.Column("order_key", sa.Text, nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("expected_nanousd", sa.BigInteger, nullable=False),
    sa.Column("part", sa.Integer),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("not_before_us", sa.BigInteger, nullable=False),
    sa.Column("called_us", sa.BigInteger),
    sa.Column("reason", sa.Text),
    sa.Column("cost_nanousd", sa.BigInteger),
    # JSON, all three; NULL once they are forgotten.
    sa.Column("prompt", sa.Text),
    sa.Column("decision", sa.Text),
    sa.Column("answer", sa.Text),
    sa.Index("cps_batch_rows_open", "job_id", "state", "batched", "tier", "order_key", "row"),
    sa.Index("cps_batch_rows_of_part", "job_id", "part", "order_key", "row"),
)

Migration = Callable[[sa.Connection], None]


def _add_batches(connection: sa.Connection) -> None:
    metadata.create_all(connection, tables=[batch_jobs, batch_parts, batch_rows])


MIGRATIONS: dict[int, Migration] = {1: _add_batches}
"""By version: the step that moves a schema of that version to the next one."""

_VERSION = "schema_version"
# Of the lock under which PostgreSQL's tables are made and moved; any fixed number will do.
_ADVISORY_LOCK = 0x637073


def version_of(connection: sa.Connection) -> int | None:
    """The version of the schema in the database, None where there is no ledger yet."""
    if not sa.inspect(connection).has_table(meta.name):
        return None
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == _VERSION))
    return None if found is None else int(found)


def prepare(connection: sa.Connection, shown: str) -> None:
    """Make the tables, or move older ones to this version, within the transaction at hand.

    Raises:
        LedgerError: the schema is of a newer release, or of an older one that cannot be moved.
    """
    if connection.dialect.name == "postgresql":
        # Several processes may start on an empty database at the same moment.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    version = version_of(connection)
    if version is None:
        metadata.create_all(connection)
        connection.execute(meta.insert().values(name=_VERSION, value=str(SCHEMA_VERSION)))
        return
    while not is_current(version, shown):
        step = MIGRATIONS.get(version)
        if step is None:
            raise LedgerError(
                f"expected a ledger that this release can move from its schema {version} to "
                f"{SCHEMA_VERSION}, got {shown}, which it cannot: open it with the release between."
            )
        step(connection)
        version += 1
        connection.execute(meta.update().where(meta.c.name == _VERSION).values(value=str(version)))


def is_current(version: int, shown: str) -> bool:
    """Whether a schema is of this release; refuses that of a newer one. Raises LedgerError."""
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"expected a ledger with a schema of at most version {SCHEMA_VERSION}, got version "
            f"{version} at {shown}: upgrade cps-router, or use another ledger."
        )
    return version == SCHEMA_VERSION
