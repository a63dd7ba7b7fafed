"""From a stream of calls to a file of outcomes: what every importer ends in.

The stream is read once and nothing of it is kept, so that its length does not matter.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from router.embedding import Embedder
from router.errors import InputError, OutcomeError
from router.outcomes import Outcome, write_jsonl
from training.gather import Rejects
from training.importers.verdicts import Finding, Verdict
from training.store import without_text

_PROGRESS_EVERY_ROWS = 10_000
# What looks like an id may stand beside the reason of a reject; anything else may be a prompt.
_ID = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model as its format tells it.

    ``columns`` are columns of the outcome contract, not yet validated, all but success and score;
    ``finding`` is what was found out about its success.
    """

    columns: dict[str, object] = field(repr=False)
    finding: Finding


class Item(NamedTuple):
    """One row of a source: where it stands, and what it is.

    That is a call (or an outcome already), the reason why it is none that can be mapped, or None
    where it is no call to a model at all (a tool, a retrieval, a step of a chain). ``position`` is
    the line from 1 of JSON lines and CSV, else the number of the row.
    """

    position: int
    call: Call | Outcome | OutcomeError | None
    request_id: object = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the rows of a source.

    ``n_rows == n_outcomes + n_rejected + n_not_calls``; ``reasons`` counts the rejected rows by
    reason, the commonest first. ``rejects_path`` lists them, None if there were none.
    """

    out: str
    n_rows: int = 0
    n_outcomes: int = 0
    n_not_calls: int = 0
    n_rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rejects_path: str | None = None
    n_with_cost: int = 0
    n_with_propensity: int = 0

    def to_dict(self) -> dict[str, object]:
        """The report as a JSON-serialisable object."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def check_out(out: Path, *sources: Path) -> None:
    """Refuse a file that could not be written, or that is read, before anything is read.

    Raises:
        InputError: says what is wrong with it.
    """
    if out.suffix.lower() not in (".jsonl", ".ndjson"):
        raise InputError(
            f"expected --out to end in .jsonl, got {out.name!r}: outcomes are JSON lines."
        )
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(
            f"expected --out in a folder that exists, got {out}: make the folder or choose another."
        )
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise InputError(f"expected --out to be another file than {source}: choose another.")


def write_outcomes(
    items: Iterable[Item],
    out: Path,
    *,
    source: str,
    embedder: Embedder | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Write the calls that can be mapped to ``out`` in their order, and count the others.

    Those are listed in ``<out>.rejects.jsonl`` with position and reason. ``out`` is replaced when
    all is written, and left alone where nothing could be mapped. ``source`` names the source in
    errors; ``on_progress`` gets the number of rows so far. With an ``embedder`` no text of a query
    is written: what training reads of it is stored in its place.

    Raises:
        EmbeddingError: the vectors of ``embedder`` cannot be stored.
        InputError: the source has no rows, or none of them could be mapped.
    """
    partial = out.with_name(out.name + ".partial")
    with Rejects(out) as rejects:
        stream = _Stream(items, rejects, on_progress)
        try:
            outcomes = stream.outcomes()
            write_jsonl(partial, without_text(outcomes, embedder) if embedder else outcomes)
            report = stream.report(out)
            _check(report, source)
            partial.replace(out)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    return report


class _Stream:
    """Outcomes out of items, counting on the way."""

    def __init__(
        self,
        items: Iterable[Item],
        rejects: Rejects,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._items = items
        self._rejects = rejects
        self._on_progress = on_progress
        self._count: Counter[str] = Counter()

    def outcomes(self) -> Iterator[Outcome]:
        count = self._count
        for item in self._items:
            count["n_rows"] += 1
            if self._on_progress is not None and count["n_rows"] % _PROGRESS_EVERY_ROWS == 0:
                self._on_progress(count["n_rows"])
            if item.call is None:
                count["n_not_calls"] += 1
                continue
            try:
                outcome = _outcome(item.call)
            except OutcomeError as error:
                self._rejects.add(item.position, error.reason, _shown(item.request_id))
                continue
            count["n_outcomes"] += 1
            count["n_with_cost"] += outcome.cost_usd is not None
            count["n_with_propensity"] += outcome.propensity is not None
            yield outcome
        if self._on_progress is not None:
            self._on_progress(count["n_rows"])

    def report(self, out: Path) -> ImportReport:
        return ImportReport(
            out=str(out),
            n_rejected=self._rejects.n_bad,
            reasons=dict(self._rejects.reasons.most_common()),
            rejects_path=None if self._rejects.path is None else str(self._rejects.path),
            **self._count,
        )


def _outcome(call: Call | Outcome | OutcomeError) -> Outcome:
    if isinstance(call, OutcomeError):
        raise call
    if isinstance(call, Outcome):
        return call
    if not isinstance(call.finding, Verdict):
        raise OutcomeError(call.finding)
    columns = {**call.columns, "success": call.finding.success, "score": call.finding.score}
    return Outcome.from_mapping(columns)


def _shown(request_id: object) -> str | None:
    text = str(request_id) if isinstance(request_id, str | int) else ""
    return text if _ID.fullmatch(text) else None


def _check(report: ImportReport, source: str) -> None:
    if report.n_rows == 0:
        raise InputError(f"{source}: expected a log of model calls, it has no rows: check it.")
    if report.n_outcomes:
        return
    if not report.reasons:
        raise InputError(
            f"{source}: expected calls to models, none of its {report.n_rows:,} rows is one: check "
            "that it is a log of this format."
        )
    reason, n = next(iter(report.reasons.items()))
    where = f"; see {report.rejects_path}" if report.rejects_path else ""
    raise InputError(
        f"{source}: none of its {report.n_rows:,} rows could be mapped to an outcome, most often "
        f"because: {reason} ({n:,} rows{where})."
    )
