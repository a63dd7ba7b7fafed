"""Small readings that the formats share: objects in text, ids, tokens, costs, metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

from router.errors import OutcomeError
from router.outcomes import METADATA_KEYS, count_of, number_of, time_of

FAILED = "the call failed"

Object = Mapping[str, object]


def parsed(value: object) -> object:
    """The value, or the JSON object or list that its text holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def as_object(value: object) -> Object:
    """The value if it is an object, text that holds one or a Parquet map; else an empty one."""
    if type(value) is dict:  # most often, and asking for a Mapping takes ten times as long
        return value
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)  # pyarrow has maps as lists of pairs, which no JSON can hold
    value = parsed(value)
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[object]:
    """The value if it is a list; else an empty one."""
    return value if isinstance(value, list) else []


def first(row: Object, *names: str) -> object:
    """The first of these fields that holds something."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "":
            return value
    return None


def key_of(value: object) -> str | None:
    """An id as text, None where it is none."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def tokens(
    n_input: object,
    n_output: object,
    n_cached: object = None,
    n_written: object = None,
    *,
    apart: bool = False,
) -> dict[str, object]:
    """The columns for tokens; the contract's ``input_tokens`` includes cached and written ones.

    ``apart``: the format counts those beside the input. That also holds where they are more than
    the input, which can only mean that it leaves them out.

    Raises:
        OutcomeError: a count is none.
    """
    whole = count_of(n_input, "input_tokens")
    cached = count_of(n_cached, "cached_input_tokens") or 0
    written = count_of(n_written, "cache_write_tokens") or 0
    if whole is not None and (apart or cached + written > whole):
        whole += cached + written
    return {
        "input_tokens": whole,
        "output_tokens": count_of(n_output, "output_tokens"),
        "cached_input_tokens": cached,
        "cache_write_tokens": written,
    }


def cost_of(value: object, usage: Object) -> float | None:
    """A logged cost in USD. Zero dollars for tokens is how loggers say that they know no price.

    Then the cost is left out and the tokens are priced when outcomes are read; a tier that really
    is free says so in the tiers file.

    Raises:
        OutcomeError: it is no number of at least 0.
    """
    cost = number_of(value, "cost_usd")
    if cost == 0.0 and (usage.get("input_tokens") or usage.get("output_tokens")):
        return None
    return cost


def latency_of(start: object, end: object) -> float | None:
    """Seconds between two times; None where either is missing or they are the wrong way round."""
    try:
        began, ended = time_of(start), time_of(end)
    except OutcomeError:
        return None
    if began is None or ended is None or ended < began:
        return None
    return (ended - began).total_seconds()


def marks(*metadata: object) -> dict[str, object]:
    """The columns that a log carries under our keys in its free metadata; the first one wins.

    >>> marks({"cps_router.propensity": 0.25}, {"cps_router": {"tier": "nano"}})
    {'propensity': 0.25, 'tier': 'nano'}
    """
    found: dict[str, object] = {}
    for value in metadata:
        known = as_object(value)
        if not known:
            continue
        nested = as_object(known.get("cps_router"))  # some stores nest keys at their dots
        for key, column in METADATA_KEYS.items():
            mark = known.get(key, nested.get(key.partition(".")[2]))
            if mark is not None and mark != "":
                found.setdefault(column, mark)
    return found
