"""benchmarks/RESULTS.md: one section per benchmark, each with its own date, machine and versions.

A run replaces the sections that it measured and keeps the others, since the whole takes long. What
the README's tables claim is looked up here: ``missing_numbers`` names what is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.results import Section
from router.errors import InputError

HEAD = """# Benchmark results

Written by `make bench`, never by hand. `python -m benchmarks.run --only PART --out FILE` writes the
sections of one part anew and leaves the others, so that each says when and where it was measured.
Times hold for that machine; what is compared was compared in one run.
"""

_SECTION = re.compile(
    r"^<!-- section: (\S+) -->\n(.*?)^<!-- /section -->\n", re.DOTALL | re.MULTILINE
)
# The table that follows such a mark in the README is looked up in the section that it names.
_CLAIM = re.compile(r"^<!-- results: (\S+) -->\n((?:\|.*\n)+)", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")

Numbers = tuple[str, ...]


def slug(name: str) -> str:
    """A section's name as the marks have it.

    >>> slug("Nested folds")
    'nested-folds'
    """
    return name.lower().replace(" ", "-")


def sections_of(page: str) -> dict[str, str]:
    """The page's sections by slug, in their order."""
    return dict(_SECTION.findall(page))


def updated(page: str, measured: Sequence[tuple[Section, Mapping[str, str]]]) -> str:
    """The page with these sections, each beside the facts on its run, in place of older ones."""
    found = sections_of(page)
    for section, facts in measured:
        # A list, or the lines of facts would run together.
        head = [f"- {name}: {value}" for name, value in facts.items()]
        tables = [table.markdown() for table in section.tables]
        parts = [f"## {section.name}", "\n".join(head), *tables]
        found[slug(section.name)] = "\n\n".join(parts) + "\n"
    body = [f"<!-- section: {name} -->\n{text}<!-- /section -->\n" for name, text in found.items()]
    return "\n".join([HEAD, *body])


def write(path: Path, measured: Sequence[tuple[Section, Mapping[str, str]]]) -> None:
    """Update the page at ``path``, or begin it.

    Raises:
        InputError: there is a file that is no page of results, or it cannot be written.
    """
    try:
        page = path.read_text(encoding="utf-8") if path.exists() else ""
        if page and not page.startswith(HEAD.splitlines()[0] + "\n"):
            raise InputError(
                f"expected a page of results at {path}, got another file: choose another --out."
            )
        path.write_text(updated(page, measured), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"expected to write results to {path}, got {error}: choose another --out."
        ) from None


def missing_numbers(readme: str, page: str) -> list[str]:
    """What the marked tables of ``readme`` claim and ``page`` does not say, as sentences.

    A mark ``<!-- results: SLUG -->`` stands on the line before a table. Each cell of that table,
    but for the first column, is looked up in the section SLUG: its numbers, as they are spelt and
    in their order, must stand side by side in one cell (or one note) there. A cell without a number
    claims nothing.
    """
    sections = sections_of(page)
    missing = []
    for name, table in _CLAIM.findall(readme):
        if name not in sections:
            missing.append(f"there is no section {name}: run that part of the benchmarks")
            continue
        known = list(_cells(sections[name]))
        for row in table.splitlines()[2:]:
            label, *cells = _split(row)
            missing += [
                f"{cell!r} of {label!r} is not in the section {name}"
                for cell in cells
                if not any(_holds(there, _numbers(cell)) for there in known)
            ]
    return missing


def _cells(section: str) -> Iterator[Numbers]:
    """The numbers of every cell of a section's tables, and of every other line of it."""
    for line in section.splitlines():
        parts = _split(line) if line.startswith("|") else [line]
        yield from map(_numbers, parts)


def _split(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _numbers(text: str) -> Numbers:
    return tuple(_NUMBER.findall(text))


def _holds(there: Numbers, claimed: Numbers) -> bool:
    n = len(claimed)
    return any(there[i : i + n] == claimed for i in range(len(there) - n + 1))
