"""OutcomeTable: validated outcomes as (n_requests, n_tiers) matrices and an observed mask.

Full feedback (every tier per request) and logged feedback (one tier per request) become the same
table; they differ in how much of it is observed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import InputError, OutcomeError
from router.outcomes import STDIN, Outcome
from router.prices import PriceBook
from router.stored_query import Query
from router.tiers import TierSet
from training.defaults import MAX_BAD_SHARE
from training.gather import Gathered, Rejects, as_objects
from training.rows import read_rows

__all__ = ["OutcomeTable", "ReadReport", "read_outcomes"]

FloatMatrix = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ObjectArray = npt.NDArray[np.object_]

_PROGRESS_EVERY_ROWS = 10_000
# Beside which the bad rows of standard input are written, in the current folder.
_STDIN_NAME = Path("stdin.jsonl")
_SHOWN_CHARACTERS = 60
_COLUMNS = ("request_id", "query", "task", "split", "at", "artifact_id", "sampling")
_MATRICES = ("success", "cost_usd", "input_tokens", "output_tokens", "propensity", "observed")


@dataclass(frozen=True)
class ReadReport:
    """What became of the rows of a file.

    ``n_rows == n_outcomes + n_retries + n_bad + n_not_a_tier``. ``reasons`` counts the bad rows by
    reason, ``not_a_tier`` the rows of models that the tiers file does not name.
    ``other_models`` has, by tier, the first logged model that the tiers file does not know.
    ``rejects_path`` is where the bad rows were written, None if there were none.
    """

    path: str = ""
    n_rows: int = 0
    n_outcomes: int = 0
    n_bad: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    n_not_a_tier: int = 0
    not_a_tier: dict[str, int] = field(default_factory=dict)
    n_retries: int = 0
    other_models: dict[str, str] = field(default_factory=dict)
    rejects_path: str | None = None

    def warnings(self) -> list[str]:
        """What the owner of the log should hear although it could be read."""
        if not self.other_models:
            return []
        pairs = ", ".join(
            f"{model[:_SHOWN_CHARACTERS]!r} for {tier}" for tier, model in self.other_models.items()
        )
        text = (
            f"the log names models that its tiers do not ({pairs}): if they are the same models, "
            "add the names as aliases to the tiers file, else the outcomes are of other models."
        )
        return [text]

    def to_dict(self) -> dict[str, object]:
        """The report as a JSON-serialisable object."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class OutcomeTable:
    """Outcomes of n requests on T tiers, columns in the order of ``tiers``.

    ``request_id``, ``query``, ``task``, ``split``, ``at``, ``artifact_id`` (which artifact
    routed the request) and ``sampling`` are object arrays of shape (n,); the last five may hold
    None. A query is a text or a ``StoredQuery``. ``success``,
    ``cost_usd``, ``input_tokens``, ``output_tokens`` and ``propensity`` are float64 of shape
    (n, T), NaN where unobserved or unknown. ``observed`` is bool of shape (n, T).
    ``other_success`` (n, M) holds the successes of M models that are no tier:
    they route nothing, but say how difficult a query is.
    """

    tiers: TierSet
    request_id: ObjectArray
    query: ObjectArray = field(repr=False)
    task: ObjectArray
    split: ObjectArray
    at: ObjectArray
    success: FloatMatrix
    cost_usd: FloatMatrix
    input_tokens: FloatMatrix
    output_tokens: FloatMatrix
    propensity: FloatMatrix
    observed: BoolArray
    other_success: FloatMatrix
    report: ReadReport
    artifact_id: ObjectArray
    sampling: ObjectArray

    @property
    def n_requests(self) -> int:
        """Number of requests, n."""
        return len(self.query)

    @property
    def n_tiers(self) -> int:
        """Number of tiers, T."""
        return len(self.tiers)

    @property
    def complete(self) -> BoolArray:
        """Requests on which every tier is observed, bool of shape (n,)."""
        result: BoolArray = np.logical_and.reduce(self.observed, axis=1)
        return result

    @property
    def at_random(self) -> BoolArray:
        """Requests that are not there because of what was predicted for them, bool (n,).

        Averages over traffic, and so certificates and evaluations, may rest on these alone.
        """
        chosen: BoolArray = np.array([value == "chosen" for value in self.sampling], dtype=bool)
        return ~chosen

    def take(self, rows: npt.ArrayLike) -> OutcomeTable:
        """The table of some requests, given by bool mask or by index; the report is kept."""
        index: npt.NDArray[Any] = np.asarray(rows)
        if index.size == 0 and index.dtype != bool:
            index = index.astype(np.intp)  # an empty list is float to numpy
        columns = (*_COLUMNS, *_MATRICES, "other_success")
        return OutcomeTable(
            tiers=self.tiers,
            report=self.report,
            **{name: getattr(self, name)[index] for name in columns},
        )

    def require_costs(self) -> None:
        """Refuse a table with an observed outcome whose cost is unknown.

        Raises:
            InputError: names the tiers and how many costs each lacks.
        """
        missing = (self.observed & np.isnan(self.cost_usd)).sum(axis=0)
        if missing.any():
            counts = ", ".join(
                f"{name} {count}"
                for name, count in zip(self.tiers.names, missing, strict=True)
                if count
            )
            raise InputError(
                f"expected a cost for every outcome, outcomes without cost_usd and without a known "
                f"price: {counts}: log cost_usd or add prices to the tiers file."
            )

    @classmethod
    def from_arrays(
        cls,
        tiers: TierSet,
        query: Sequence[Query] | ObjectArray,
        success: npt.ArrayLike,
        cost_usd: npt.ArrayLike,
        *,
        request_id: Sequence[str] | ObjectArray | None = None,
        task: Sequence[str | None] | ObjectArray | None = None,
        split: Sequence[str | None] | ObjectArray | None = None,
        at: Sequence[Any] | ObjectArray | None = None,
        input_tokens: npt.ArrayLike | None = None,
        output_tokens: npt.ArrayLike | None = None,
        propensity: npt.ArrayLike | None = None,
        observed: npt.ArrayLike | None = None,
        other_success: npt.ArrayLike | None = None,
        artifact_id: Sequence[str | None] | ObjectArray | None = None,
        sampling: Sequence[str | None] | ObjectArray | None = None,
    ) -> OutcomeTable:
        """A table out of arrays (synthetic data, tests).

        ``observed`` defaults to where success is a number; unobserved cells become NaN in every
        matrix. Ids default to "0", "1", ...

        Raises:
            InputError: shapes do not fit, or an observed cell has no success.
        """
        shape = (len(query), len(tiers))

        def matrix(values: npt.ArrayLike | None, name: str) -> FloatMatrix:
            if values is None:
                return np.full(shape, np.nan)
            result = np.array(values, dtype=np.float64)
            if result.shape != shape:
                raise InputError(
                    f"expected {name} of shape {shape} (requests, tiers), got {result.shape}."
                )
            return result

        def column(values: Sequence[Any] | ObjectArray | None, name: str) -> ObjectArray:
            if values is not None and len(values) != shape[0]:
                raise InputError(f"expected {shape[0]} values of {name}, got {len(values)}.")
            return as_objects([None] * shape[0] if values is None else values)

        matrices = {
            "success": matrix(success, "success"),
            "cost_usd": matrix(cost_usd, "cost_usd"),
            "input_tokens": matrix(input_tokens, "input_tokens"),
            "output_tokens": matrix(output_tokens, "output_tokens"),
            "propensity": matrix(propensity, "propensity"),
        }
        known = ~np.isnan(matrices["success"])
        seen: BoolArray = known
        if observed is not None:
            seen = np.asarray(matrix(observed, "observed") > 0)
        if (seen & ~known).any():
            raise InputError("expected a success for every observed cell, got NaN: correct one.")
        for values in matrices.values():
            values[~seen] = np.nan
        if other_success is None:
            other_success = np.empty((shape[0], 0))
        others = np.array(other_success, np.float64)
        if others.ndim != 2 or len(others) != shape[0]:
            raise InputError(
                f"expected other_success of shape ({shape[0]}, M) (requests, models), got "
                f"{others.shape}."
            )
        ids = [str(i) for i in range(shape[0])] if request_id is None else request_id
        return cls(
            tiers=tiers,
            request_id=column(ids, "request_id"),
            query=as_objects(query),
            task=column(task, "task"),
            split=column(split, "split"),
            at=column(at, "at"),
            artifact_id=column(artifact_id, "artifact_id"),
            sampling=column(sampling, "sampling"),
            observed=seen,
            other_success=others,
            report=ReadReport(n_rows=int(seen.sum()), n_outcomes=int(seen.sum())),
            **matrices,
        )


def read_outcomes(
    path: str | Path,
    tiers: TierSet,
    *,
    price_book: PriceBook | None = None,
    max_bad_share: float = MAX_BAD_SHARE,
    success_threshold: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> OutcomeTable:
    """Read, validate and pivot a file of outcomes (.jsonl, .csv, .parquet; ``-`` is stdin).

    Requests keep the order of their first row. A missing ``cost_usd`` is priced from the tokens at
    the date of the row where a price is known, else it is NaN. The first attempt of a (request,
    tier) is its outcome, later ones are counted as retries. Bad rows are counted by reason and
    written to ``<file>.rejects.jsonl`` beside the input (in the current folder if that cannot be
    written), one object with line, reason and request_id for each; a rejects file left by an
    earlier read is removed when no row is bad. ``on_progress`` gets the number of rows read so far.

    Raises:
        InputError: the file is missing or has no outcome of any tier, or more than
            ``max_bad_share`` of all rows read are bad.
    """
    path = Path(path)
    if not 0.0 <= max_bad_share <= 1.0:
        raise InputError(
            f"expected a share of bad rows from 0 to 1, got {max_bad_share:g}: choose for example "
            "0.01."
        )
    if success_threshold is not None and not math.isfinite(success_threshold):
        raise InputError(
            f"expected a number as success threshold, got {success_threshold:g}: choose for "
            "example 0.8."
        )
    gathered = Gathered(tiers, PriceBook() if price_book is None else price_book)
    with Rejects(_STDIN_NAME if path == STDIN else path) as rejects:
        rows = read_rows(path, needs_success=success_threshold is None)
        for n_rows, (line, row) in enumerate(rows, start=1):
            try:
                if isinstance(row, OutcomeError):
                    raise row
                tier = gathered.tier_of(row)
                if tier is None:
                    gathered.add_other(row, success_threshold)
                else:
                    outcome = Outcome.from_mapping(row, success_threshold=success_threshold)
                    gathered.add(outcome, tier, line)
            except OutcomeError as error:
                request_id = row.get("request_id") if isinstance(row, Mapping) else None
                rejects.add(line, error.reason, request_id)
            gathered.n_rows = n_rows
            if on_progress is not None and n_rows % _PROGRESS_EVERY_ROWS == 0:
                on_progress(n_rows)
        columns = gathered.pivot(rejects)
    if on_progress is not None:
        on_progress(gathered.n_rows)
    report = ReadReport(
        path="standard input" if path == STDIN else str(path),
        n_rows=gathered.n_rows,
        n_outcomes=int(columns["observed"].sum()),
        n_bad=rejects.n_bad,
        reasons=dict(rejects.reasons.most_common()),
        n_not_a_tier=gathered.not_a_tier.total(),
        not_a_tier=dict(gathered.not_a_tier.most_common()),
        n_retries=gathered.n_retries,
        other_models=gathered.other_models,
        rejects_path=None if rejects.path is None else str(rejects.path),
    )
    _check(report, tiers, max_bad_share)
    return OutcomeTable(tiers=tiers, report=report, **columns)


def _check(report: ReadReport, tiers: TierSet, max_bad_share: float) -> None:
    """Refuse a read that left too little to trust."""
    if report.n_rows == 0:
        raise InputError(f"{report.path}: expected outcomes, the file has no rows: check it.")
    if report.n_bad > max_bad_share * report.n_rows:
        counts = ", ".join(f"{count} x {reason}" for reason, count in report.reasons.items())
        where = f"see {report.rejects_path}" if report.rejects_path else "no rejects file written"
        raise InputError(
            f"{report.path}: {report.n_bad} of {report.n_rows} rows are bad, more than the allowed "
            f"{100 * max_bad_share:g}% of all rows ({counts}; {where}): mend them or allow a "
            f"larger share of bad rows."
        )
    if report.n_outcomes == 0:
        # What a log calls its models may be anything: line breaks, or a whole prompt.
        seen = ", ".join(repr(name[:_SHOWN_CHARACTERS]) for name in list(report.not_a_tier)[:5])
        raise InputError(
            f"{report.path}: expected outcomes of the tiers {', '.join(tiers.names)}, "
            f"got none (models seen: {seen or 'none'}): name the models or aliases in the tiers "
            f"file as the log does."
        )
