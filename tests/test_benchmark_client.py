"""The client's benchmark measures what it says, and refuses to time what is wrong."""

from __future__ import annotations

import pytest

from benchmarks import client
from router.client.reply import Reply


def test_every_way_is_measured_against_the_bare_call() -> None:
    section = client.measure(lambda _: None, n_requests=8)
    assert section.name == "Client"
    ways = section.data["ways"]
    assert next(iter(ways)) == "the provider alone"
    assert {"complete", "acomplete", "stream", "complete with a ledger"} <= set(ways)
    assert ways["the provider alone"]["added_p50_ms"] == 0.0
    assert ways["complete"]["added_p50_ms"] > 0.0
    assert len(section.data["budgets"]) == len(ways) - 1
    assert all(table.text() and table.markdown() for table in section.tables)


def test_a_wrong_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reply, "tier", property(lambda self: "another"))
    with pytest.raises(AssertionError):
        client.measure(lambda _: None, n_requests=2)
