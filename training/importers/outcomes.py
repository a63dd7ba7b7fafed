"""Outcomes as they are: an outcomes file in another format, or without the text of its queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from router.errors import OutcomeError
from router.outcomes import Outcome
from training.importers.core import Item
from training.rows import read_rows


def read_calls(path: Path, success_threshold: float | None = None) -> Iterator[Item]:
    """The rows of a file of outcomes, validated; columns that the contract does not know are lost.

    Raises:
        InputError: the file is unreadable, of another kind, or lacks columns.
    """
    for position, row in read_rows(path, needs_success=success_threshold is None):
        if isinstance(row, OutcomeError):
            yield Item(position, row)
            continue
        found: Outcome | OutcomeError
        try:
            found = Outcome.from_mapping(row, success_threshold=success_threshold)
        except OutcomeError as error:
            found = error
        yield Item(position, found, row.get("request_id"))
