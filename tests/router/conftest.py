"""Ledgers to test on: a file, and a database of a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A server for the session; each test takes a database of its own."""
    if postgres.binaries() is None:
        pytest.skip("NOT TESTED ON POSTGRESQL: it is not installed (apt-get install postgresql)")
    with postgres.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new ledger can be made, in each kind of database."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    running: postgres.Server = request.getfixturevalue("postgres_server")
    return running.new_database()
