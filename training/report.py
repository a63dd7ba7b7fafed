"""The report: one HTML file about an evaluation, beside its JSON and its text; computes nothing.

It is made from the evaluation's JSON alone, so that every figure in it is one of those. Query texts
are no part of that; they come apart, where the user asked for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.errors import InputError
from training.report_logged import logged_sections
from training.report_page import page
from training.report_sections import full_sections

HTML, JSON, TEXT = "report.html", "report.json", "report.txt"


def report_html(facts: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> str:
    """The page on an evaluation's JSON, which must have ``details``.

    Args:
        facts: ``Report.to_dict()`` or ``LoggedReport.to_dict()``.
        texts: Query texts by request id, to be shown where the router was most wrong; None leaves
            them out.
    """
    logged = facts.get("feedback") == "logged"
    sections = logged_sections(facts) if logged else full_sections(facts, texts)
    return page(facts, sections)


def write_report(folder: Path, files: Mapping[str, str]) -> None:
    """Write files of the report into a folder; nothing else in it is touched.

    Each is replaced at once or not at all. Raises InputError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            part = folder / f".{name}.part"
            part.write_text(text, encoding="utf-8", newline="\n")
            os.replace(part, folder / name)
    except OSError as error:
        raise InputError(
            f"expected to write the report to {folder}, got {error.strerror or 'an error'}: "
            "choose another folder."
        ) from None


def as_json(facts: Mapping[str, Any]) -> str:
    """The JSON that lies beside the page."""
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"
