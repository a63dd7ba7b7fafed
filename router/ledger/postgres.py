"""A connection to PostgreSQL that ends: a server that falls silent costs seconds, not the process.

The server's own limits (``lock_timeout``, ``statement_timeout``) need a server that runs. One that
hangs, or whose machine or network does, keeps a client of libpq waiting for ever; so does
``tcp_user_timeout`` where the peer's kernel still acknowledges what nobody reads. Therefore every
wait of the driver is limited here too, except in transactions that may take long: reports, batch
jobs and maintenance.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

# What the server gets beyond the client's patience with locks, and the driver beyond the server's:
# whoever can say most exactly what is wrong shall be the first to say it.
_SERVER_LATER_S = 1.0
_DRIVER_LATER_S = 2.0
# How often the driver looks at the clock while it waits.
_INTERVAL_S = 0.1


class GuardedConnection(psycopg.Connection[Any]):
    """A connection that is closed, with an error, when the server is silent for ``limit_s``."""

    limit_s: float | None = None

    def wait(self, gen: Any, interval: float = _INTERVAL_S, *more: Any, **options: Any) -> Any:
        """Wait for the server, but no longer than the limit."""
        if self.limit_s is not None:
            gen = self._limited(gen, time.monotonic() + self.limit_s)
        return super().wait(gen, interval, *more, **options)

    def _limited(self, gen: Any, until: float) -> Generator[Any, Any, Any]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    # What it says later must not be taken for the answer to something else.
                    self.pgconn.finish()
                    raise psycopg.errors.QueryCanceled("the server did not answer in time")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def guard(engine: sa.Engine, busy_timeout_s: float, *, flushes: bool) -> None:
    """Limit the waits of all connections that an engine will make; ``flushes`` at every commit."""
    limit_s = busy_timeout_s + _DRIVER_LATER_S
    # What the URL says goes before. Keepalives and time-outs of TCP are ignored on local sockets.
    defaults = {
        "connect_timeout": max(2, round(busy_timeout_s)),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": round(limit_s * 1000),
    }

    def connect(_: Any, __: Any, cargs: Any, cparams: dict[str, Any]) -> GuardedConnection:
        made = GuardedConnection.connect(*cargs, **{**defaults, **cparams})
        made.limit_s = limit_s
        return made

    def set_up(connection: GuardedConnection, _: Any) -> None:
        lock_ms = max(1, round(busy_timeout_s * 1000))
        statement_ms = round((busy_timeout_s + _SERVER_LATER_S) * 1000)
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {lock_ms}".encode())
            cursor.execute(f"SET statement_timeout = {statement_ms}".encode())
            if flushes:
                cursor.execute("SET synchronous_commit = on")
        connection.commit()

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "connect", set_up)


@contextmanager
def patient(connection: sa.Connection) -> Iterator[None]:
    """Let what is done within the transaction at hand take as long as it takes; not its commit."""
    raw: Any = connection.connection.driver_connection
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    limit_s, raw.limit_s = raw.limit_s, None
    try:
        yield
    finally:
        raw.limit_s = limit_s
