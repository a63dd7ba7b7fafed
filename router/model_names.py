"""Two spellings of one model: what may differ is region and vendor, date and version, and case.

Every place that looks a price up by a model's name reads it here, so that all mean the same.
"""

from __future__ import annotations

import re

# "us.anthropic.claude-haiku-4-5-20251001-v1:0": region and vendor before, date and version behind.
_BEFORE = re.compile(r"^(?:(?:us|eu|apac|jp|au|global|regional)\.)?(?:[a-z]+\.)?(?=[a-z])")
_MONTH, _DAY = "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
# 20251001, 2025-10-01, month and day (0613), year and month (2407), a version such as 001.
_DATE = (
    f"20[0-9]{{2}}{_MONTH}{_DAY}|20[0-9]{{2}}-{_MONTH}-{_DAY}|{_MONTH}{_DAY}|2[0-9]{_MONTH}|00[0-9]"
)
_BEHIND = re.compile(rf"(?:[-@](?:(?P<date>{_DATE})|latest))?(?:-v[0-9]+(?::[0-9]+)?)?-?$")


def core(name: str) -> str:
    """A model's name without what may differ between two spellings of it.

    >>> core("us.anthropic.claude-haiku-4-5-20251001-v1:0"), core("gpt-5-nano-999")
    ('claude-haiku-4-5', 'gpt-5-nano-999')
    """
    return _BEHIND.sub("", _BEFORE.sub("", name.lower()))


def date_of(name: str) -> str | None:
    """The date or version that a name ends with; None where it names the model alone.

    >>> date_of("claude-haiku-4-5@20251001"), date_of("claude-haiku-4-5")
    ('20251001', None)
    """
    found = _BEHIND.search(name.lower())
    date = None if found is None else found["date"]
    return None if date is None else date.replace("-", "")


def nearest_spelling(name: str, known: list[str]) -> str | None:
    """Which of the known names means the model that a name does; None where none does.

    The same spelling before another case, and that before the same core: of one date, then without
    a date. A name with a date is of that date alone, and never stands for the model as such.

    >>> nearest_spelling("claude-haiku-4-5-20251001", ["claude-haiku-4-5", "claude-haiku-4"])
    'claude-haiku-4-5'
    >>> nearest_spelling("gpt-4o", ["gpt-4o-2024-05-13"]) is None
    True
    """
    if name in known:
        return name
    same = [other for other in known if other.lower() == name.lower()]
    alike = [other for other in known if core(other) == core(name)]
    dated = [other for other in alike if date_of(other) == date_of(name)]
    plain = [other for other in alike if date_of(other) is None]
    return next(iter([*same, *dated, *plain]), None)
