"""From a stream of outcomes to columns: requests numbered, cells pivoted, bad rows written aside.

Rows are kept as flat arrays of numbers while they are read, so that a million of them fit easily.
"""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from router.errors import OutcomeError
from router.outcomes import Outcome, attempt_of, label, success_of
from router.prices import PriceBook
from router.stored_query import Query
from router.tiers import TierSet
from training.split import text_hash

# Models that are no tier count where they were seen on this share of the requests: fewer outcomes
# say little about difficulty, and their columns take memory.
MIN_SHARE_OF_OTHERS = 0.05


class Rejects:
    """Counts bad rows and writes them to a file, which is opened with the first of them."""

    def __init__(self, outcomes_path: Path) -> None:
        self._beside = outcomes_path.with_name(outcomes_path.name + ".rejects.jsonl")
        self._file: IO[str] | None = None
        self.path: Path | None = None
        self.n_bad = 0
        self.reasons: Counter[str] = Counter()

    def add(self, line: int, reason: str, request_id: object) -> None:
        """Record one bad row."""
        if self.n_bad == 0:
            self._open()
        self.n_bad += 1
        self.reasons[reason] += 1
        if self._file is not None:
            known = request_id if isinstance(request_id, str | int) else None
            json.dump({"line": line, "reason": reason, "request_id": known}, self._file)
            self._file.write("\n")

    def _open(self) -> None:
        for path in (self._beside, Path.cwd() / self._beside.name):
            try:
                self._file = path.open("w", encoding="ascii", newline="\n")
            except OSError:
                continue  # a read-only folder: try the next place, else the counts alone remain
            self.path = path
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        elif kind is None and self.n_bad == 0:
            with contextlib.suppress(OSError):
                self._beside.unlink(missing_ok=True)  # of an earlier read; it would mislead


class Gathered:
    """The rows of a file that are outcomes of a tier, and the counts of those that are not."""

    def __init__(self, tiers: TierSet, price_book: PriceBook) -> None:
        self.n_rows = 0
        self.n_retries = 0
        self.not_a_tier: Counter[str] = Counter()
        self.other_models: dict[str, str] = {}
        self._tiers = tiers
        self._book = price_book
        self._found: dict[tuple[str | None, str | None], int | None] = {}
        self._request_index: dict[str, int] = {}
        self._queries: list[Query] = []
        # Facts of a request, from its first row that knows them.
        self._task: list[object] = []
        self._split: list[object] = []
        self._at: list[object] = []
        self._artifact_id: list[object] = []
        self._sampling: list[object] = []
        self._same: dict[str, str] = {}
        # Facts of a row. A cell is request * n_tiers + tier.
        self._others: dict[str, dict[str, tuple[int, float]]] = {}
        self._cell = array("q")
        self._attempt = array("q")
        self._line = array("q")
        self._numbers = {
            name: array("d")
            for name in ("success", "cost_usd", "input_tokens", "output_tokens", "propensity")
        }

    def tier_of(self, row: Mapping[str, object]) -> int | None:
        """The tier of a raw row; None, and counted, if its model is no tier.

        This goes before validation: a row of a model that is no tier is never a bad row.

        Raises:
            OutcomeError: the row names no tier and no model, or two different tiers.
        """
        tier, model = row.get("tier") or None, row.get("model") or None
        if not isinstance(tier, str | None):
            raise OutcomeError("tier is not text")
        if not isinstance(model, str | None):
            raise OutcomeError("model is not text")
        if tier is None and model is None:
            raise OutcomeError("tier and model are missing")
        try:
            found = self._found[tier, model]
        except KeyError:
            found = self._tiers.find(tier, model)
            by_model = self._tiers.find(None, model)
            if by_model is not None and by_model != found:
                raise OutcomeError("tier and model name different tiers") from None
            self._found[tier, model] = found
            if found is not None and model is not None and by_model is None:
                self.other_models.setdefault(self._tiers.names[found], model)
        if found is None:
            self.not_a_tier[model or tier or ""] += 1
        return found

    def add_other(self, row: Mapping[str, object], success_threshold: float | None) -> None:
        """Keep whether a model that is no tier succeeded; pass over a row that does not tell."""
        try:
            request_id = label(row.get("request_id"), "request_id")
            success, _ = success_of(row, success_threshold)
            attempt = attempt_of(row)
        except OutcomeError:
            return
        if request_id is not None:
            model = str(row.get("model") or row.get("tier"))
            found = self._others.setdefault(model, {})
            if attempt < found.get(request_id, (math.inf, 0.0))[0]:
                found[request_id] = attempt, success

    def add(self, outcome: Outcome, tier: int, line: int) -> None:
        """Take one outcome.

        Raises:
            OutcomeError: the outcome contradicts an earlier row of its request.
        """
        index = self._request_index.get(outcome.request_id)
        if index is None:
            index = len(self._queries)
            self._request_index[outcome.request_id] = index
            self._queries.append(outcome.query)
            self._task.append(self._shared(outcome.task))
            self._split.append(self._shared(outcome.split))
            self._at.append(outcome.at)
            self._artifact_id.append(self._shared(outcome.artifact_id))
            self._sampling.append(self._shared(outcome.sampling))
        else:
            if not _same(outcome.query, self._queries[index]):
                raise OutcomeError("request_id has two different queries")
            if outcome.split is not None:
                if self._split[index] not in (None, outcome.split):
                    raise OutcomeError("request_id has two different splits")
                self._split[index] = self._shared(outcome.split)
            if outcome.sampling is not None:
                if self._sampling[index] not in (None, outcome.sampling):
                    raise OutcomeError("request_id has two different samplings")
                self._sampling[index] = self._shared(outcome.sampling)
            if self._task[index] is None:
                self._task[index] = self._shared(outcome.task)
            if self._at[index] is None:
                self._at[index] = outcome.at
            if self._artifact_id[index] is None:
                self._artifact_id[index] = self._shared(outcome.artifact_id)
        self._cell.append(index * len(self._tiers) + tier)
        self._attempt.append(outcome.attempt)
        self._line.append(line)
        numbers = self._numbers
        numbers["success"].append(outcome.success)
        cost = outcome.cost_usd
        numbers["cost_usd"].append(self._priced(outcome, tier) if cost is None else cost)
        numbers["input_tokens"].append(_or_nan(outcome.input_tokens))
        numbers["output_tokens"].append(_or_nan(outcome.output_tokens))
        numbers["propensity"].append(_or_nan(outcome.propensity))

    def pivot(self, rejects: Rejects) -> dict[str, npt.NDArray[Any]]:
        """The columns and matrices of an `OutcomeTable`; repeated attempts become rejects.

        Of several attempts of a (request, tier), the one with the lowest number is the outcome.
        """
        cell = np.array(self._cell, dtype=np.int64)
        attempt = np.array(self._attempt, dtype=np.int64)
        order = np.lexsort((attempt, cell))  # stable: rows of one attempt stay in file order
        cell, attempt = cell[order], attempt[order]
        first = np.ones(len(cell), dtype=bool)
        first[1:] = cell[1:] != cell[:-1]
        repeated = np.zeros(len(cell), dtype=bool)
        repeated[1:] = ~first[1:] & (attempt[1:] == attempt[:-1])
        ids = as_objects(list(self._request_index))
        for row, its_cell in zip(order[repeated], cell[repeated], strict=True):
            rejects.add(self._line[row], "duplicate", ids[its_cell // len(self._tiers)])
        self.n_retries = int((~first & ~repeated).sum())

        shape = (len(ids), len(self._tiers))
        chosen, cells = order[first], cell[first]
        columns: dict[str, npt.NDArray[Any]] = {
            "request_id": ids,
            "query": as_objects(self._queries),
            "task": as_objects(self._task),
            "split": as_objects(self._split),
            "at": as_objects(self._at),
            "artifact_id": as_objects(self._artifact_id),
            "sampling": as_objects(self._sampling),
            "observed": np.zeros(shape, dtype=bool),
        }
        columns["observed"].ravel()[cells] = True
        for name, values in self._numbers.items():
            columns[name] = np.full(shape, np.nan)
            columns[name].ravel()[cells] = np.array(values, dtype=np.float64)[chosen]
        columns["other_success"] = self._pivot_others(len(ids))
        return columns

    def _pivot_others(self, n_requests: int) -> npt.NDArray[np.float64]:
        """Success (n, M) of the models that are no tier, NaN where unknown."""
        index, kept = self._request_index, []
        for name in sorted(self._others):
            found = [(index[i], s) for i, (_, s) in self._others[name].items() if i in index]
            if found and len(found) >= MIN_SHARE_OF_OTHERS * n_requests:
                column = np.full(n_requests, np.nan)
                rows, successes = zip(*found, strict=True)
                column[list(rows)] = successes
                kept.append(column)
        return np.column_stack(kept) if kept else np.empty((n_requests, 0))

    def _priced(self, outcome: Outcome, tier: int) -> float:
        price = self._book.find(self._tiers[tier], outcome.at)
        if price is None or outcome.input_tokens is None or outcome.output_tokens is None:
            return math.nan
        return float(
            price.cost_usd(
                outcome.input_tokens,
                outcome.output_tokens,
                outcome.cached_input_tokens,
                outcome.cache_write_tokens,
            )
        )

    def _shared(self, text: str | None) -> str | None:
        """One object for equal texts: tasks, splits and artifacts repeat in every row."""
        return None if text is None else self._same.setdefault(text, text)


def as_objects(values: Sequence[Any] | npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """An object array of shape (n,) that holds the values as they stand."""
    return np.fromiter(values, dtype=object, count=len(values))


def _same(a: Query, b: Query) -> bool:
    """Whether two are the same query, one of them maybe stored without its text."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    return text_hash(a) == text_hash(b)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
