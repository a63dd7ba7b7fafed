"""What ``--since`` takes: a moment, or a span before another one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from router.errors import InputError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])\Z", re.ASCII | re.IGNORECASE)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN_CHARACTERS = 60


def parse_since(
    text: str, before: str = "the newest row", option: str = "--since"
) -> datetime | timedelta:
    """A moment in UTC (ISO 8601, UTC where it names no zone), or a span such as 7d or 24h.

    Raises:
        InputError: it is neither; the message names the ``option``, and ``before`` says before
            what a span is.

    >>> parse_since("36h")
    datetime.timedelta(days=1, seconds=43200)
    >>> parse_since("2026-03-01").isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    stripped = text.strip()
    span = _SPAN.match(stripped)
    try:
        if span is not None:
            return timedelta(**{_UNITS[span[2].lower()]: float(span[1])})
        found = datetime.fromisoformat(stripped)
        aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return aware.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InputError(
        f"expected {option} as an ISO 8601 date or time, or as a span before {before}, got "
        f"{text[:_SHOWN_CHARACTERS]!r}: give for example 2026-03-01, 2026-03-01T06:00+01:00, 7d or "
        "24h."
    )
