"""A drift report as text for a terminal; computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.report_text import new_table, render

if TYPE_CHECKING:
    from training.drift import DriftReport
    from training.drift_streams import Stream


def drift_text(report: DriftReport) -> str:
    """Counts, one line per stream that has rows, and the verdict."""
    counts = report.counts
    head = (
        f"{report.data}: {counts.n_compared:,} requests from {report.since.isoformat()} to "
        f"{report.until.isoformat()} compared with training ({counts.n_before:,} earlier, "
        f"{counts.n_without_time:,} without a time, {counts.n_future:,} in the future, "
        f"{counts.n_train_split:,} of the train split, {counts.n_left_out_trained:,} of texts in "
        f"training and {counts.n_repeated:,} of repeated texts left out)"
    )
    table = new_table(
        f"Drift beyond the tolerance, {report.confidence:.0%} over all streams and all looks",
        ("stream", "tier"),
        ("requests", "observed", "predicted", "difference", "interval", "tolerance", "status"),
    )
    for stream, at in zip(report.streams, report.first_seen, strict=True):
        if stream.n:
            since = "" if at is None else f", seen by {at.isoformat(timespec='seconds')}"
            table.add_row(*_cells(stream), stream.status + since)
    again = (
        f"to look again as the log grows keep --since {report.since.isoformat()}: the confidence "
        "holds over all such looks"
    )
    return "\n".join(
        [
            head,
            "",
            render(table),
            "",
            again,
            "",
            f"verdict: {report.verdict.upper()}. {report.reason}",
        ]
    )


def _cells(stream: Stream) -> tuple[str, ...]:
    # How a ranking is off has no lower bound.
    low = "" if stream.lower is None else f"{stream.lower:+.3f}"
    high = "" if stream.upper is None else f"{stream.upper:+.3f}"
    return (
        stream.kind,
        stream.tier or "",
        f"{stream.n:,}",
        _number(stream.observed, "{:.3f}"),
        _number(stream.predicted, "{:.3f}"),
        _number(stream.difference, "{:+.3f}"),
        f"{low} .. {high}",
        f"{stream.tolerance:g}",
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
