"""Reading token counts out of what a provider reported: a count, or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.errors import InputError
from router.usage import Usage


class UnknownCountError(ValueError):
    """A count that is not one; makes the whole usage unknown."""


def plain(reported: object) -> Mapping[str, Any] | None:
    """A usage as a mapping, undeclared fields included; None where it is no such thing."""
    if isinstance(reported, Mapping):
        return reported
    dump = getattr(reported, "model_dump", None)
    # Without warnings: that a field is not of its declared type is for the counts to find.
    return dump(warnings=False) if dump is not None else None


def count(reported: Mapping[str, Any], name: str) -> int | None:
    """The count of that name; None where it is missing or null.

    Raises:
        UnknownCountError: it is no whole number, or negative.
    """
    value = reported.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise UnknownCountError(name)
    return value


def needed(reported: Mapping[str, Any], name: str) -> int:
    """The count of that name.

    Raises:
        UnknownCountError: it is missing, no whole number, or negative.
    """
    value = count(reported, name)
    if value is None:
        raise UnknownCountError(name)
    return value


def part(reported: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A breakdown within a usage; empty where it is missing or null.

    Raises:
        UnknownCountError: it is no object.
    """
    value = reported.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UnknownCountError(name)
    return value


def usage_or_unknown(**counts: int) -> Usage | None:
    """The usage of these counts; None where they contradict one another.

    A prompt of no tokens does not exist: who reports 0 has not counted.
    """
    try:
        usage = Usage(**counts)
    except InputError:
        return None
    return usage if usage.input_tokens > 0 else None
