"""What docs/ledger.md shows can be done, and its example is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.ledger import Ledger
from tests.ledgers import attempt, many, request


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "ledger.md").read_text(encoding="utf-8")


def test_the_statements_run_on_both_databases(page: str, ledger_url: str) -> None:
    statements = re.findall(r"```sql\n(.*?)```", page, flags=re.DOTALL)
    assert len(statements) == 3
    with Ledger(ledger_url) as ledger:
        ledger.record_many(many(50))
        with ledger.engine.reading() as connection:
            for statement in statements:
                assert connection.exec_driver_sql(statement.rstrip().rstrip(";")).fetchall()


def test_the_python_of_the_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names = {"request": request(), "attempts": [attempt()], "request_id": "r1"}
    exec(code, names)  # the page itself
    ledger = names["ledger"]
    assert isinstance(ledger, Ledger)
    (entry,) = ledger.requests()
    assert entry.success == 1.0 and entry.attempts == (attempt(),)
    ledger.close()


def test_the_example_adds_up(page: str) -> None:
    table = page[page.index("| baseline | $1.00 |") :].partition("\n\n")[0]
    amounts = [round(100 * float(cell)) for cell in re.findall(r"\| \$([\d.]+) \|", table)]
    baseline, routing, cache, batch, later, exploration, cost = amounts
    assert baseline - routing - cache - batch + later + exploration == cost


def test_the_tables_of_the_page_are_there(page: str, tmp_path: Path) -> None:
    from router.ledger.tables import metadata

    Ledger(tmp_path / "ledger.db").close()
    (listed,) = re.findall(r"Tables are (.*?);", page, flags=re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed.partition("; money")[0])) == set(metadata.tables)
