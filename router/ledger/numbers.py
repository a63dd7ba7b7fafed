"""Numbers of attempts where one id was given to several requests, so that no paid call is lost.

A client counts the attempts of a request from 1. Who asks again under the same id, after an error
say, or in two processes at once, counts from 1 again. An attempt is told from another of the same
number by when it was made and by its tier; where they differ it comes after all that are there.
What is recorded again keeps the number that it got.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router.ledger.rows import Row, revision_after


@dataclass(slots=True)
class Kept:
    """What the ledger has of one request: revisions and identities by number."""

    revisions: dict[int, int] = field(default_factory=dict)
    identities: dict[int, tuple[int, str]] = field(default_factory=dict)

    def add(self, number: int, identity: tuple[int, str], revision: int) -> None:
        """A row that is there."""
        self.revisions[number] = revision
        self.identities[number] = identity


def identity_of(row: Row) -> tuple[int, str]:
    """What an attempt has to itself."""
    return row["at_us"], row["tier"]


def numbers_of(rows: Sequence[Row], kept: Kept) -> list[int]:
    """The number of each attempt of one record, in the order of its own numbers.

    >>> kept = Kept()
    >>> kept.add(1, (10, "nano"), 1)
    >>> again = [{"attempt": 1, "at_us": 90, "tier": "nano"}]
    >>> numbers_of(again, kept)
    [2]
    >>> kept.add(2, (90, "nano"), 2)
    >>> numbers_of([*again, {"attempt": 2, "at_us": 95, "tier": "mid"}], kept)
    [2, 3]
    """
    found: list[int] = []
    last, moved = max(kept.identities, default=0), False
    for row in rows:
        own, identity = row["attempt"], identity_of(row)
        if kept.identities.get(own) == identity:
            number = own
        else:
            same = [n for n, other in kept.identities.items() if other == identity]
            place = next((n for n in same if n not in found), None)
            if place is not None:
                number = place
            elif own in kept.identities or own in found or moved:
                number = last + 1
            else:
                number = own
        moved |= number != own
        last = max(last, number)
        found.append(number)
    return found


def renumbered(
    records: Sequence[tuple[Row, Sequence[Row]]], kept: Mapping[str, Kept]
) -> tuple[list[Row], list[Row]]:
    """Rows of requests and attempts as they can be written beside what is kept.

    Attempts of which a later state is kept are left out: they would change nothing.
    """
    known = defaultdict(Kept, kept)
    requests: list[Row] = []
    attempts: list[Row] = []
    for request, its in records:
        there = known[request["request_id"]]
        its = sorted(its, key=lambda row: row["attempt"])
        numbers = numbers_of(its, there)
        revision = revision_after(max(numbers, default=0), done=request["done"])
        requests.append({**request, "revision": revision})
        for row, number in zip(its, numbers, strict=True):
            if there.revisions.get(number, -1) <= revision:
                there.add(number, identity_of(row), revision)
                attempts.append({**row, "attempt": number, "revision": revision})
    return requests, attempts
