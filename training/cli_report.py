"""``cps-router evaluate --report DIR``: what is asked for, written, and logged."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.errors import InputError
from training.cli_parts import extra


def check_report_options(
    report: Path | None, since: str | None, show_queries: bool, requests_per_month: int | None
) -> None:
    """Refuse options that would be without effect."""
    given = "--show-queries" if show_queries else "--requests-per-month"
    if show_queries or requests_per_month is not None:
        if report is None:
            raise InputError(
                f"expected --report with {given}, got none: name a folder for the report."
            )
        if since is not None:
            raise InputError(
                f"expected {given} without --since, got both: drift is written as report.json and "
                "report.txt alone."
            )


def command_of(artifact: str, outcomes: str, options: Sequence[tuple[str, object]]) -> str:
    """The command, as it can be given again; files by name alone, since where they lie is private.

    >>> command_of("here/my router", "log.jsonl", [("--seed", 1), ("--tiers", None), ("-v", True)])
    "cps-router evaluate 'my router' log.jsonl --seed 1 -v"
    """
    words = ["cps-router", "evaluate", Path(artifact).name or artifact, outcomes]
    for name, value in options:
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [name, str(value)]
    return shlex.join(words)


def texts_of(table: Any) -> dict[str, str]:
    """Query texts by request id; a query that is stored without its text has none."""
    pairs = zip(table.request_id, table.query, strict=True)
    return {str(name): query for name, query in pairs if isinstance(query, str)}


def save_report(
    folder: Path,
    facts: Mapping[str, Any],
    text: str,
    *,
    texts: Mapping[str, str] | None,
    track: bool,
    say: Callable[[str], None],
) -> None:
    """Write report.json, report.txt and, where there are details, report.html; log them.

    What is logged has no query texts, whatever is shown in the folder.
    """
    with extra("train"):
        from training.report import HTML, JSON, TEXT, as_json, report_html, write_report

    files = {JSON: as_json(facts), TEXT: text + "\n"}
    if "details" not in facts:
        write_report(folder, files)
        return
    say(f"writing the report to {folder}")
    write_report(folder, files | {HTML: report_html(facts, texts)})
    if track:
        from training.experiment import log_evaluation

        say("logging the run to MLflow")
        log_evaluation(facts, files | {HTML: report_html(facts)}, folder)
