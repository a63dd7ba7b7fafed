"""How numbers are written in the report; each carries its exact value for whoever reads the page
by machine, so that it can be held against the JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from training.report_html import Html, escape, tag

NOTHING = "–"
MINUS = "\u2212"
# A number and its unit stay together.
NBSP = "\u00a0"


def significant(value: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent where that can be read.

    >>> significant(0.00057632), significant(15.164), significant(1234567.0), significant(1e-9)
    ('0.000576', '15.2', '1,230,000', '1.00e-09')
    """
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) < 1e-6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS, 1) if value < 0 else f"{value:.2e}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    # Rounding may carry into another digit: 9.999 is 10.0.
    rounded = round(value, places)
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return signed(f"{round(value, places):,.{max(places, 0)}f}")


def signed(text: str) -> str:
    """With a minus sign that is as wide as a plus."""
    return MINUS + text[1:] if text.startswith("-") else text


def usd(value: float) -> str:
    """Dollars.

    >>> usd(-0.5193), usd(1516.4)
    ('−$0.519', '$1,516')
    """
    amount = abs(value)
    text = f"{amount:,.0f}" if amount >= 1000 else significant(amount)
    return f"{MINUS if value < 0 else ''}${text}"


def usd_per_1000(value: float) -> str:
    """Dollars per 1,000 requests, of dollars per request."""
    return usd(1000 * value)


def signed_usd_per_1000(value: float) -> str:
    """The same of a difference: a plus where it is above 0."""
    return ("+" if value > 0 else "") + usd_per_1000(value)


def rate(value: float) -> str:
    """A success rate.

    >>> rate(0.90241)
    '0.902'
    """
    return f"{value:.3f}"


def difference(value: float) -> str:
    """Of success rates.

    >>> difference(-0.0204), difference(0.0)
    ('−0.020', '0.000')
    """
    rounded = round(value, 3) + 0.0
    return signed(f"{rounded:+.3f}") if rounded else "0.000"


def percent(value: float) -> str:
    """A share, with one decimal.

    >>> percent(0.9657).replace(NBSP, " ")
    '96.6 %'
    """
    return signed(f"{100 * value + 0.0:,.1f}{NBSP}%")


def whole(value: float) -> str:
    """A count."""
    return f"{round(value):,}"


def plain(value: float) -> str:
    """Three significant digits, without a unit."""
    return significant(value)


def cell(value: float | None, form: Any, infinite: bool = False) -> Html:
    """One number as it is shown, with its exact value; a dash where there is none."""
    if value is None:
        return escape("∞" if infinite else NOTHING)
    return tag("data", form(value), value=repr(value))


def interval_cell(
    found: Sequence[float | None] | None, form: Any, *, below: str = f"{MINUS}∞"
) -> Html:
    """An interval; an end that is infinite comes as None, and is written ``below`` at the left."""
    if found is None:
        return escape(NOTHING)
    low, high = found
    ends = (
        escape(below) if low is None else cell(low, form),
        escape("∞") if high is None else cell(high, form),
    )
    return tag("span", ends[0], " to ", ends[1], class_="interval")


def estimate(facts: Mapping[str, Any], name: str, form: Any) -> Html:
    """The number ``name`` and, on a line of its own, ``name_interval``; CPS may be infinite."""
    infinite = name == "cps_usd" and bool(facts.get("cps_is_infinite"))
    number = cell(facts.get(name), form, infinite)
    found = facts.get(f"{name}_interval")
    if found is None:
        return number
    # Cost per success is never below 0: its ends are infinite where nothing may have succeeded.
    below = "∞" if name == "cps_usd" else f"{MINUS}∞"
    return Html(f"{number}{interval_cell(found, form, below=below)}")


def in_words(facts: Mapping[str, Any], name: str, form: Any) -> Html:
    """The same within a sentence, the interval in brackets."""
    number = cell(facts.get(name), form)
    found = facts.get(f"{name}_interval")
    if found is None:
        return number
    return Html(f"{number} [{interval_cell(found, form)}]")


def level(facts: Mapping[str, Any]) -> str:
    """The confidence of intervals.

    >>> level({"confidence": 0.95})
    '95 %'
    """
    return f"{100 * facts['confidence']:g} %"
