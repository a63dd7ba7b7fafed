"""Benchmark results: plain tables for a terminal, Markdown for a file, and where they were made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

import router

Say = Callable[[str], None]

_LIBRARIES = (
    "numpy",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "torch",
    "sentence-transformers",
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts: each row has one cell per column; notes are sentences below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """For a terminal: columns aligned, numbers to the right."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        right = [i > 0 and all(_numeric(row[i]) for row in self.rows) for i in range(len(widths))]

        def line(row: tuple[str, ...]) -> str:
            parts = [
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            ]
            return "  ".join(parts).rstrip()

        rule = "  ".join("-" * width for width in widths)
        body = [line(self.columns), rule, *(line(row) for row in self.rows)]
        return "\n".join([self.title, "", *body, *self.notes])

    def markdown(self) -> str:
        """As Markdown, with the title as a heading."""
        head = f"| {' | '.join(self.columns)} |\n|{'---|' * len(self.columns)}"
        rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", head, *rows, "", *self.notes]).rstrip()


def _numeric(cell: str) -> bool:
    return not cell or cell[0] in "-+<>~$0123456789" or cell == "inf"


@dataclass(frozen=True, slots=True)
class Section:
    """What one benchmark found: tables to read, and the same as ``data`` for ``--json``."""

    name: str
    tables: list[Table]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Budget:
    """A number that is held against a limit; missing it is reported, never raised."""

    what: str
    measured: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the number is within the limit."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def row(self) -> tuple[str, str, str, str]:
        """Cells: what, measured, budget, met or missed.

        >>> Budget("cold start", 0.25, 0.5, "s").row()
        ('cold start', '0.25 s', '<= 0.5 s', 'met')
        """
        sign = ">=" if self.at_least else "<="
        return (
            self.what,
            f"{self.measured:.3g} {self.unit}",
            f"{sign} {self.limit:g} {self.unit}",
            "met" if self.met else "missed",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "what": self.what,
            "measured": self.measured,
            "limit": self.limit,
            "unit": self.unit,
            "kind": "at least" if self.at_least else "at most",
            "met": self.met,
        }


def budget_table(title: str, budgets: Sequence[Budget], notes: tuple[str, ...] = ()) -> Table:
    """The budgets, and whether each is met."""
    rows = [budget.row() for budget in budgets]
    return Table(title, ("budget", "measured", "limit", "met?"), rows, notes)


def busy() -> tuple[str, ...]:
    """A sentence where more runs on this machine than it has cores for; else nothing."""
    load, cores = _load(), available_cores()
    if load is None or load <= cores:
        return ()
    sentence = (
        f"The machine was busy (load {load:.1f} on {cores} cores): times, and p99 above all, hold "
        "waiting for a core, the floor's too."
    )
    return (sentence,)


def environment() -> dict[str, str]:
    """Machine, versions and time; nothing that names a host, a user or a folder."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {available_cores()} cores, "
        f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cps-router": router.__version__,
    }
    load = _load()
    if load is not None:
        found["load average (1 min)"] = f"{load:.1f}"
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on every system
        return None


def available_cores() -> int:
    """Cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def as_text(sections: Sequence[Section], facts: dict[str, str]) -> str:
    """Everything for a terminal."""
    head = "\n".join(f"{name + ':':<22} {value}" for name, value in facts.items())
    tables = [table.text() for section in sections for table in section.tables]
    return "\n\n".join([head, *tables])


@contextmanager
def progress() -> Iterator[Say]:
    """A function that shows on stderr what is being measured; replaced in place on a terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("starting") as status:
            yield status.update
        return

    def say(message: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {message}\n")
        sys.stderr.flush()

    yield say
