"""Which rows of a log are recent: after a moment, or within a span before the newest row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.since import parse_since
from training.table import OutcomeTable

__all__ = ["Recent", "check_since", "recent_rows"]

IntArray = npt.NDArray[np.intp]

# Clocks differ and time zones are mixed up by up to a day; a row later than that is of no time.
_CLOCKS_DIFFER_BY = timedelta(days=1)


@dataclass(frozen=True, eq=False)
class Recent:
    """Requests since a moment, as ``rows`` of the table in order of time, and their times.

    ``n_without_time`` requests say no time, ``n_future`` lie more than a day ahead of the clock;
    neither are recent. ``n_before`` are older.
    """

    rows: IntArray
    at: list[datetime]
    since: datetime
    n_without_time: int
    n_future: int
    n_before: int


def recent_rows(table: OutcomeTable, since: str, *, now: datetime | None = None) -> Recent:
    """The requests with ``at`` >= ``since``, the oldest first.

    Args:
        table: Its ``at`` is in UTC, or taken for it.
        since: ISO 8601 date or time (UTC where it names no zone), or a span before the newest row:
            a number and m, h, d or w (minutes, hours, days, weeks), for example 7d.
        now: The clock, for tests.

    Raises:
        InputError: ``since`` is neither, no row has a time, or none is recent.
    """
    asked = parse_since(since)
    moment = asked if isinstance(asked, datetime) else None
    latest = (datetime.now(UTC) if now is None else now) + _CLOCKS_DIFFER_BY
    times = [_time(value) for value in table.at]
    known = [i for i, at in enumerate(times) if at is not None]
    if not known:
        raise InputError(
            f"expected rows with a time (column at) to compare what came since {since}, got none "
            f"in {table.n_requests:,} requests: log when each request was made."
        )
    timed = [(at, i) for i, at in enumerate(times) if at is not None and at <= latest]
    n_future = len(known) - len(timed)
    if isinstance(asked, timedelta) and timed:
        newest = max(timed)[0]
        try:
            moment = newest - asked
        except OverflowError:
            moment = datetime.min.replace(tzinfo=UTC)
    recent = [(at, str(table.request_id[i]), i) for at, i in timed if moment and at >= moment]
    if not recent or moment is None:
        newest_words = (
            f"the newest is of {max(timed)[0].isoformat()}" if timed else "none is usable"
        )
        future = f", {n_future:,} lie in the future" if n_future else ""
        raise InputError(
            f"expected rows since {since}, got none of {len(known):,} with a time ({newest_words}"
            f"{future}): choose an earlier time."
        )
    # Rows of one moment go by their ids, so that the order of the file is of no effect.
    recent.sort()
    return Recent(
        rows=np.array([i for _, _, i in recent], dtype=np.intp),
        at=[at for at, _, _ in recent],
        since=moment,
        n_without_time=table.n_requests - len(known),
        n_future=n_future,
        n_before=len(timed) - len(recent),
    )


def check_since(since: str) -> None:
    """Refuse what is neither a moment nor a span, before a long log is read. Raises InputError."""
    parse_since(since)


def _time(value: Any) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    try:
        return aware.astimezone(UTC)
    except OverflowError:
        return None  # within a zone's width of the first or the last year
