"""What goes wrong around a ledger: processes killed, disks full, locks, damage, servers gone."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from router.errors import LedgerError
from router.ledger import Ledger
from tests import postgres
from tests.ledgers import attempt, request

SECRET = "the secret prompt"

_WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from router.ledger import Ledger
from tests.ledgers import attempt, request
ledger = Ledger(sys.argv[1])
for i in range(10**9):
    name = f"{sys.argv[3]}-{i}"
    ledger.record(request(name, done=False))
    ledger.record(request(name), [attempt()])
    ledger.feedback(name, True)
    sys.stdout.write(name + "\\n")
    sys.stdout.flush()
"""


def refused(act: Callable[[], object]) -> str:
    """The one sentence of the error, which shows no prompt."""
    with pytest.raises(LedgerError) as caught:
        act()
    message = str(caught.value)
    assert message.startswith("expected ") and message.endswith(".") and "\n" not in message
    assert SECRET not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    return message


def test_what_was_acknowledged_survives_kill_9(ledger_url: str, repository: Path) -> None:
    rng = random.Random(0)
    acknowledged: list[str] = []
    for run in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, ledger_url, str(repository), str(run)],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        with writer:
            names = [writer.stdout.readline() for _ in range(rng.randint(1, 60))]
            time.sleep(rng.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            names += writer.stdout.readlines()
        # The last line may be cut off: then it was not yet acknowledged.
        acknowledged += [name.decode().strip() for name in names if name.endswith(b"\n")]
    assert len(acknowledged) > 4
    with Ledger(ledger_url) as ledger:
        kept = {entry.request.request_id: entry for entry in ledger.requests()}
        assert set(acknowledged) <= set(kept)
        for name in acknowledged:
            entry = kept[name]
            assert entry.request.done and entry.attempts == (attempt(),) and entry.success == 1.0
        for entry in kept.values():  # nothing of half a transaction
            assert entry.request.done == bool(entry.attempts)
        ledger.record(request("after"), [attempt()])
    if not ledger_url.startswith("postgresql"):
        with closing(sqlite3.connect(ledger_url)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own with 1 MB; skips where none may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a file system may not be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(ledger: Ledger) -> list[str]:
    """Write until it fails; the ids that were acknowledged."""
    written: list[str] = []

    def write_on() -> None:
        for i in range(10_000):
            ledger.record(request(f"r{i}", query=SECRET * 2000), [attempt()])
            written.append(f"r{i}")

    message = refused(write_on)
    assert "disk is full" in message or "disk cannot be read or written" in message
    return written


def ids(ledger: Ledger) -> list[str]:
    return sorted(entry.request.request_id for entry in ledger.requests())


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 400_000)
        with Ledger(disk / "ledger.db") as ledger:
            written = fill(ledger)
            assert written
            assert ids(ledger) == sorted(written)
            ballast.unlink()
            ledger.record(request("after"), [attempt()])
            assert ids(ledger) == sorted([*written, "after"])
        with closing(sqlite3.connect(disk / "ledger.db")) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_database_that_may_not_grow(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        with ledger.engine.reading() as connection:
            raw = connection.connection.driver_connection
            pages = raw.execute("PRAGMA page_count").fetchone()[0]
            raw.execute(f"PRAGMA max_page_count = {pages + 50}")
        written = fill(ledger)
        assert ids(ledger) == sorted(written)
        with ledger.engine.reading() as connection:
            connection.connection.driver_connection.execute("PRAGMA max_page_count = 1000000")
        ledger.record(request("after"))
        assert len(ids(ledger)) == len(written) + 1


def test_a_database_that_another_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, busy_timeout_s=0.05) as ledger:
        ledger.record(request("before"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            message = refused(lambda: ledger.record(request("r1", query=SECRET)))
            assert "locked by another connection: try again, or raise busy_timeout_s" in message
            assert "locked" in refused(lambda: ledger.feedback("r1", True))
            assert ids(ledger) == ["before"]  # reading never waits
            other.execute("ROLLBACK")
        ledger.record(request("r1"))
        assert ids(ledger) == ["before", "r1"]


def test_a_row_that_another_holds(postgres_server: postgres.Server) -> None:
    url = postgres_server.new_database()
    with Ledger(url, busy_timeout_s=0.1) as ledger, Ledger(url) as other:
        ledger.record(request("r1"))
        with other.engine.writing() as connection:
            connection.exec_driver_sql("UPDATE cps_requests SET task = 'held'")
            message = refused(lambda: ledger.record(request("r1", query=SECRET)))
            assert "a row is locked by another connection" in message
            ledger.record(request("r2"))
        ledger.record(request("r1"))
        assert ids(ledger) == ["r1", "r2"]


def test_a_writer_that_waits_gets_its_turn(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, busy_timeout_s=30) as ledger:
        code = (
            "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
            "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(0.3); "
            "c.execute('ROLLBACK'); c.close()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            ledger.record(request("r1"))
        assert ids(ledger) == ["r1"]


def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.record(request("r1"), [attempt()])
    with Ledger(f"sqlite:///{path}?mode=ro", create=False) as ledger:
        assert ids(ledger) == ["r1"]
        message = refused(lambda: ledger.record(request("r2", query=SECRET)))
        assert "it is read-only" in message and str(path) in message


def test_a_server_that_may_only_be_read(postgres_server: postgres.Server) -> None:
    url = postgres_server.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    with Ledger(url) as ledger:
        ledger.record(request("r1"))
    postgres_server.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with Ledger(url) as ledger:
        assert ids(ledger) == ["r1"]
        assert "it is read-only" in refused(lambda: ledger.record(request("r2", query=SECRET)))


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.record_many([(request(f"r{i}", query="q" * 500), [attempt()]) for i in range(200)])
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = os.urandom(len(content) - 4096)
    path.write_bytes(content)

    def use() -> None:
        with Ledger(path) as ledger:
            ids(ledger)

    assert "the file is damaged" in refused(use)
    path.write_bytes(b"no database" * 1000)
    assert "is no SQLite database" in refused(use)


def test_a_place_that_cannot_be(tmp_path: Path, postgres_server: postgres.Server) -> None:
    missing = tmp_path / "missing" / "ledger.db"
    assert "check that its folder exists" in refused(lambda: Ledger(missing))
    assert "cannot be opened" in refused(lambda: Ledger(tmp_path))
    assert "there is no such database" in refused(lambda: Ledger(postgres_server.url("nowhere")))
    assert "refused the user" in refused(lambda: Ledger(postgres_server.url("postgres", "nobody")))


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.record(request())
        for file in tmp_path.glob("ledger.db*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


@pytest.mark.skipif(postgres.binaries() is None, reason="PostgreSQL is not installed")
def test_a_server_that_goes_and_comes_back() -> None:
    with postgres.server() as running:
        url = running.new_database()
        with Ledger(url, busy_timeout_s=1) as ledger:
            ledger.record(request("r1"))
            running.stop(how=signal.SIGQUIT)  # as in a crash: connections are cut
            message = refused(lambda: ledger.record(request("r2", query=SECRET)))
            assert "the server" in message
            refused(lambda: ids(ledger))
            running.start()
            ledger.record(request("r2"))
            assert ids(ledger) == ["r1", "r2"]


def test_a_server_that_hangs_is_an_error_and_not_for_ever(
    postgres_server: postgres.Server,
) -> None:
    """Its processes are stopped: the kernel still takes what is sent, and nobody answers."""
    url = postgres_server.new_database()
    database = url.split("@/")[1].partition("?")[0]
    with Ledger(url, busy_timeout_s=0.1) as ledger:
        ledger.record(request("before"))
        stopped: list[int] = []

        def stop(*_: Any) -> None:
            found = postgres_server.run(
                f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'"
            )
            stopped.extend(map(int, found.split()))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

        try:
            # Once the connection has been found alive, in the middle of a transaction.
            sa.event.listen(ledger.engine._engine, "begin", stop, once=True)
            assert "did not answer in time" in refused(lambda: ledger.record(request("during")))
            assert stopped
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        ledger.record(request("after"))
        assert {entry.request.request_id for entry in ledger.requests()} == {"before", "after"}


def test_what_takes_long_may_take_long(postgres_server: postgres.Server) -> None:
    with Ledger(postgres_server.new_database(), busy_timeout_s=0.1) as ledger:
        with ledger.engine.reading() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(2.5)")

        def slow() -> None:
            with ledger.engine.writing(at_once=True) as connection:
                connection.exec_driver_sql("SELECT pg_sleep(60)")

        assert "did not answer in time" in refused(slow)


def test_connections_that_the_server_ends(postgres_server: postgres.Server) -> None:
    url = postgres_server.new_database()
    with Ledger(url) as ledger:
        ledger.record(request("r1"))
        postgres_server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'"
        )
        ledger.record(request("r2"))  # a new connection is made without a word
        assert ids(ledger) == ["r1", "r2"]

        def cut_in_the_middle() -> None:
            with ledger.engine.writing() as connection:
                connection.exec_driver_sql("DELETE FROM cps_requests")
                connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

        assert "the server" in refused(cut_in_the_middle)
        assert ids(ledger) == ["r1", "r2"]
