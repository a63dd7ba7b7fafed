"""Drift: do recent rows still look as training said they would? And if not, what is due?

The streams and their tests are in ``training.drift_streams``. From them the verdict follows by
four rules, the first that applies:

1. *retrain*, if the queries have changed (a share per tier of the policy, or more queries out of
   distribution) or a tier's predictions no longer rank its queries: other inputs, or another
   relation to success, are nothing that a shift of the level could mend.
2. *recalibrate*, if success or cost of a tier is off: the level has moved, and nothing says that
   the order has.
3. *fine*, if for every tier that served at least one in ten of the rows success and cost are known
   to lie within three tolerances of what was predicted, and the share out of distribution not more
   than three tolerances above that of training.
4. *too early to tell* otherwise, with about how many more rows would do.

"sent" (what was sent is not what the router would send: pins, outages, exploration) is shown, and
decides nothing: it says nothing of the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from training.defaults import DEFAULT_CONFIDENCE, DRIFT_TOLERANCE
from training.drift_streams import Rows, Stream, find_streams
from training.evaluate import Progress, predict_all, tier_columns, untrained_rows
from training.recent import recent_rows
from training.split import query_hashes
from training.table import OutcomeTable

if TYPE_CHECKING:
    from router.routing import Router

__all__ = ["DriftReport", "find_drift", "judge_drift"]

IntArray = npt.NDArray[np.intp]
Verdict = Literal["retrain", "recalibrate", "fine", "too early to tell"]

# A difference of this many tolerances would have been seen, where the verdict is "fine".
FINE_TOLERANCES = 3.0
# A tier that served fewer of the rows decides little, and is not waited for.
MIN_SHARE_SERVED = 0.10
_NEW_QUERIES = ("share", "out of distribution")


@dataclass(frozen=True, slots=True)
class DriftCounts:
    """What became of the requests of the log; the last is how many were compared.

    Of the recent ones, ``n_train_split`` are marked "train", ``n_left_out_trained`` have a text
    that the artifact was made from, ``n_repeated`` repeat an earlier text.
    """

    n_requests: int
    n_without_time: int
    n_future: int
    n_before: int
    n_train_split: int
    n_left_out_trained: int
    n_repeated: int
    n_compared: int


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The verdict with its reason in a sentence, and the streams that it rests on."""

    artifact_id: str
    data: str
    since: datetime
    until: datetime
    tolerance: float
    confidence: float
    counts: DriftCounts
    verdict: Verdict
    reason: str
    rows_needed: int | None
    streams: tuple[Stream, ...]
    first_seen: tuple[datetime | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "artifact_id": self.artifact_id,
            "data": self.data,
            "n_rows": self.counts.n_compared,
            "counts": {name: getattr(self.counts, name) for name in DriftCounts.__slots__},
            "drift": {
                "verdict": self.verdict,
                "reason": self.reason,
                "since": self.since.isoformat(),
                "until": self.until.isoformat(),
                "tolerance": self.tolerance,
                "confidence": self.confidence,
                "rows_needed": self.rows_needed,
                "streams": [
                    stream.to_dict() | {"first_seen": None if at is None else at.isoformat()}
                    for stream, at in zip(self.streams, self.first_seen, strict=True)
                ],
            },
        }


def find_drift(
    router: Router,
    table: OutcomeTable,
    since: str,
    *,
    tolerance: float = DRIFT_TOLERANCE,
    confidence: float = DEFAULT_CONFIDENCE,
    now: datetime | None = None,
    on_progress: Progress | None = None,
) -> DriftReport:
    """Compare the rows of a log since a moment with what the artifact's training said.

    Full and logged feedback alike: every outcome that the log has of a tier counts for that tier.
    Requests marked "train" in a split column and those whose text the artifact was made from are
    left out, and of the requests with one text only the first counts, as in the certificate.

    The level holds however often one looks at the same ``since`` as the log grows. A span moves
    with the newest row: each look is then a test of its own.

    Args:
        router: A loaded artifact.
        table: Outcomes with ``at``.
        since: ISO 8601, or a span before the newest row; see ``training.recent``.
        tolerance: Largest difference of a share or success rate that is no drift; five times that
            for the ratio of costs.
        confidence: Of no false alarm in any stream.
        now: The clock, for tests.
        on_progress: Called with a stage, requests done, and of how many.

    Raises:
        InputError: no row is recent, none is left, a tier is missing, or an argument is wrong.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(
            f"expected a confidence between 0 and 1, got {confidence}: choose for example 0.95."
        )
    if not 0.0 < tolerance < 1.0:
        raise InputError(
            f"expected a tolerance between 0 and 1, got {tolerance}: choose for example 0.02, "
            "which is 2 points."
        )
    names = router.tiers.names
    columns = tier_columns(names, table)
    recent = recent_rows(table, since, now=now)
    at, part = recent.at, table.take(recent.rows)
    kept, n_train, n_trained = untrained_rows(router, part)
    hashes = query_hashes(part.query[kept])
    first = np.sort(np.unique(hashes, return_index=True)[1])
    kept = kept[first]
    if not len(kept):
        raise InputError(
            f"expected requests since {since} that were not used in training, got none of "
            f"{part.n_requests:,}: {n_train:,} are marked train, the artifact was made from the "
            f"text of {n_trained:,}; wait for new ones, or choose an earlier time."
        )
    counts = DriftCounts(
        n_requests=table.n_requests,
        n_without_time=recent.n_without_time,
        n_future=recent.n_future,
        n_before=recent.n_before,
        n_train_split=n_train,
        n_left_out_trained=n_trained,
        n_repeated=len(hashes) - len(kept),
        n_compared=len(kept),
    )
    part, at = part.take(kept), [at[i] for i in kept]
    progress: Progress = on_progress or (lambda stage, done, total: None)
    predicted, dist = predict_all(router, part.query.tolist(), progress)
    rows = Rows(
        predicted.p_success,
        predicted.cost_usd,
        dist,
        predicted.out_of_distribution,
        part.success[:, columns],
        part.cost_usd[:, columns],
        _sent(router.artifact_id, part, columns),
    )
    progress("compare", 0, len(rows))
    streams = find_streams(
        names, _training(router), rows, tolerance=tolerance, confidence=confidence
    )
    verdict, reason, needed = judge_drift(streams, len(rows), tolerance)
    return DriftReport(
        artifact_id=router.artifact_id,
        data=Path(table.report.path).name,
        since=recent.since,
        until=at[-1],
        tolerance=tolerance,
        confidence=confidence,
        counts=counts,
        verdict=verdict,
        reason=reason,
        rows_needed=needed,
        streams=tuple(streams),
        first_seen=tuple(None if s.first_row is None else at[s.first_row] for s in streams),
    )


def _training(router: Router) -> Rows:
    """The artifact's calibration rows: what its training expected, and what came of it."""
    known = router.calibration
    return Rows(
        known.p_success,
        known.cost_usd,
        router.action_dist(known.predictions),
        known.out_of_distribution,
        known.success,
        known.realised_cost_usd,
        np.full(len(known), -1, dtype=np.intp),
    )


def _sent(artifact_id: str, table: OutcomeTable, columns: IntArray) -> IntArray:
    """The tier to which this artifact sent each request (n,), -1 where that is not known.

    Several outcomes of one request do not tell which tier came first.
    """
    ours = np.array([value == artifact_id for value in table.artifact_id], dtype=bool)
    observed = table.observed[:, columns]
    ours &= observed.sum(axis=1) == 1
    return np.where(ours, observed.argmax(axis=1), -1)


def judge_drift(
    streams: Sequence[Stream], n_rows: int, tolerance: float
) -> tuple[Verdict, str, int | None]:
    """Verdict, its reason in a sentence, and about how many more rows are needed, by the rules."""
    drifted = [stream for stream in streams if stream.status == "drift"]
    queries = [stream for stream in drifted if stream.kind in _NEW_QUERIES]
    ranking = [stream for stream in drifted if stream.kind == "ranking"]
    level = [stream for stream in drifted if stream.kind in ("success", "cost")]
    notes = "".join(f" ({_in_words(s)})" for s in drifted if s.kind == "sent")
    said = "; ".join(_in_words(stream) for stream in (*queries, *ranking, *level))
    if queries:
        return "retrain", f"The queries have changed: {said}.{notes}", None
    if ranking:
        return "retrain", f"The predictions no longer rank: {said}.{notes}", None
    if level:
        why = "The level of the predictions is off, and no loss of their order was found"
        if all(stream.kind == "cost" for stream in level):
            why = "Prices or lengths have changed, and success was not found to"
        return "recalibrate", f"{why}: {said}.{notes}", None
    waiting = [s for s in _decisive(streams) if not _known(s)]
    margin = FINE_TOLERANCES * tolerance
    if not waiting and any(s.kind == "success" and s.n for s in streams):
        cost = max((s.tolerance for s in streams if s.kind == "cost"), default=0.0)
        reason = (
            f"No drift beyond {tolerance:g} was found, and where requests went success is within "
            f"{margin:g} and cost within {FINE_TOLERANCES * cost:.0%} of what was predicted."
        )
        return "fine", reason + notes, None
    last, needed = None, 0
    for stream in waiting:
        # Rows of this stream, in rows of the log.
        more = max(stream.rows_needed or 0, 1.1 * stream.n) - stream.n
        rows = math.ceil(max(more, 1.0) * n_rows / max(stream.n, 1))
        if rows > needed:
            last, needed = stream, rows
    if last is None:
        return "too early to tell", f"No outcome of any tier was logged.{notes}", None
    of = "the share out of distribution" if last.tier is None else f"{last.kind} of {last.tier}"
    reason = (
        f"Nothing has drifted so far, but {FINE_TOLERANCES:g} times the tolerance could have been "
        f"missed: about {_rounded(needed):,} more requests like these are needed, most of all for "
        f"{of}."
    )
    return "too early to tell", reason + notes, needed


def _decisive(streams: Sequence[Stream]) -> list[Stream]:
    """What has to be known before all is fine."""
    served = {s.tier: s.n for s in streams if s.kind == "success"}
    enough = MIN_SHARE_SERVED * sum(served.values())
    return [
        stream
        for stream in streams
        if stream.n
        and (
            stream.kind == "out of distribution"
            or (stream.kind in ("success", "cost") and served[stream.tier] >= enough)
        )
    ]


def _known(stream: Stream) -> bool:
    margin = FINE_TOLERANCES * stream.tolerance
    above = stream.upper is not None and stream.upper < margin
    if stream.kind == "out of distribution":
        return above
    return above and stream.lower is not None and stream.lower > -margin


def _in_words(stream: Stream) -> str:
    observed, predicted = stream.observed or 0.0, stream.predicted or 0.0
    if stream.kind == "success":
        return f"success of {stream.tier} is {observed:.3f} where {predicted:.3f} was predicted"
    if stream.kind == "cost":
        return f"cost of {stream.tier} is {observed:.2f} times what was predicted"
    if stream.kind == "ranking":
        return f"success of {stream.tier} moves {observed:.2f} as much as its prediction does"
    if stream.kind == "share":
        return f"{observed:.3f} of requests would go to {stream.tier}, {predicted:.3f} at training"
    if stream.kind == "sent":
        return (
            f"{observed:.3f} of requests were sent to {stream.tier}, where the router would send "
            f"{predicted:.3f}"
        )
    return f"{observed:.3f} of requests are out of distribution, {predicted:.3f} at training"


def _rounded(count: int) -> int:
    """To two digits: the number is rough.

    >>> _rounded(12_345), _rounded(7)
    (12000, 7)
    """
    return int(float(f"{count:.1e}"))
