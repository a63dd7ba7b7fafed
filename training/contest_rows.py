"""Which requests routers are compared on: none that any was trained on; of full or logged feedback.

Of full feedback (every tier's outcome is known) and logged (one tier's, with its recorded
propensity) the one with more requests decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.routing import Router
from training.doubly_robust import PairedTerms
from training.importance import Logged
from training.logged_rows import OneTier
from training.offpolicy import MIN_ESS
from training.propensity import not_adding_up
from training.split import fitting_calibration, query_hashes
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]
# Gets what is being done, how many requests are done, and of how many.
Progress = Callable[[str, int, int], None]

# From so many other rows of a log on, none has to be set aside to fix the maximum weight.
_MIN_OTHER_ROWS = 100
_SET_ASIDE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """Rows of a table to compare on, in the order of their request ids; ``counts`` of the rest.

    ``columns`` (T,) are the table's columns of the tiers asked for. ``other`` are the rows left out
    because of training: of a log, those (and what is set aside) with one tier's outcome, which fix
    the maximum weight.
    """

    rows: IntArray
    other: IntArray
    columns: IntArray
    full: bool
    counts: dict[str, int]

    @classmethod
    def of(cls, routers: Sequence[Router], names: tuple[str, ...], table: OutcomeTable) -> Selected:
        """Choose the rows; InputError where none is left, or a tier or a cost is missing."""
        columns = _columns(names, table)
        kept, other, counts = _untrained(routers, table)
        observed = table.observed[np.ix_(kept, columns)].sum(axis=1)
        complete = observed == len(names)
        chosen = np.where(complete, -1, _one_tier(table, kept, columns))
        n_unknown = int(((observed == 1) & ~complete & (chosen < 0)).sum())
        full = bool(int(complete.sum()) >= int((chosen >= 0).sum()) and complete.any())
        rows = kept[complete] if full else kept[chosen >= 0]
        counts["n_incomplete" if full else "n_not_one_tier"] = len(kept) - len(rows)
        if not full:
            counts["n_not_one_tier"] -= n_unknown
            counts["n_without_propensity"] = n_unknown
        if not len(rows):
            raise InputError(_nothing_left(counts))
        # The order of the file is of no effect.
        rows = rows[np.argsort(table.request_id[rows], kind="stable")]
        table.take(rows).require_costs()
        if full:
            return cls(rows, other, columns, True, counts)
        other = other[_one_tier(table, other, columns) >= 0]
        counts["n_set_aside"] = 0
        if len(other) < _MIN_OTHER_ROWS:
            aside = fitting_calibration(
                query_hashes(table.query[rows]), calibration_share=_SET_ASIDE, salt="gate"
            )
            if not aside.any() or aside.all():
                raise InputError(
                    "expected enough different texts to set a fifth aside, got "
                    f"{len(rows)} requests: give a longer log."
                )
            other, rows = rows[aside], rows[~aside]
            counts["n_set_aside"] = int(aside.sum())
        return cls(rows, other, columns, False, counts)


def logged_of(table: OutcomeTable, rows: IntArray, columns: IntArray) -> Logged:
    """The log of one tier per request in ``rows``."""
    tier = _one_tier(table, rows, columns)
    at = rows, columns[tier]
    return Logged(
        tier=tier.astype(np.int64),
        propensity=table.propensity[at],
        success=table.success[at],
        # Of rows that only fix the maximum weight the cost may be unknown.
        cost_usd=np.nan_to_num(table.cost_usd[at]),
        text=np.unique(query_hashes(table.query[rows]), return_inverse=True)[1].astype(np.int64),
    )


def per_text(values: FloatArray, texts: npt.NDArray[np.uint64]) -> FloatArray:
    """Mean over the requests of each text, (n,) -> (number of texts,).

    >>> per_text(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 2], np.uint64)).tolist()
    [5.0, 2.0]
    """
    _, group, sizes = np.unique(texts, return_inverse=True, return_counts=True)
    result: FloatArray = np.bincount(group, values, len(sizes)) / sizes
    return result


def odd_propensities(logged: Logged, names: Sequence[str], shift: FloatArray) -> str | None:
    """Why the log cannot tell policies apart that differ by ``shift`` (n, T); None if it can."""
    assert logged.text is not None
    odd = [
        names[t]
        for t in not_adding_up(logged.tier, logged.propensity, logged.text)
        if shift[:, t].any()
    ]
    if not odd:
        return None
    return (
        f"the recorded propensities of {', '.join(odd)} do not add up to the requests: they "
        "are wrong, or the log gave it no chance on some; check how they were recorded, and "
        "explore among all tiers"
    )


def too_few(terms: PairedTerms, n_texts: int) -> str | None:
    """Why a log tells too little of two policies; None where it tells enough."""
    if terms.ess >= MIN_ESS:
        return None
    more = "log with exploration"
    if terms.ess > 0:
        needed = math.ceil(MIN_ESS / terms.ess * n_texts)
        more = f"about {needed:,} texts logged in this way, or more exploration, would do"
    return (
        f"the two differ on too little of the log: expected an effective sample size of at least "
        f"{MIN_ESS:g} where they differ, got {terms.ess:.3g} from {n_texts:,} different texts; "
        f"{more}"
    )


def _columns(names: tuple[str, ...], table: OutcomeTable) -> IntArray:
    index = {name: i for i, name in enumerate(table.tiers.names)}
    missing = [name for name in names if name not in index]
    if missing:
        raise InputError(
            f"expected outcomes of the tiers of all routers ({', '.join(names)}), got none of "
            f"{', '.join(missing)}: use a tiers file that names them all."
        )
    return np.array([index[name] for name in names], dtype=np.intp)


def _untrained(
    routers: Sequence[Router], table: OutcomeTable
) -> tuple[IntArray, IntArray, dict[str, int]]:
    """Requests to compare, those left out because of training, and counts."""
    train = np.array([value == "train" for value in table.split], dtype=bool)
    hashes = query_hashes(table.query)
    trained = np.zeros(len(hashes), dtype=bool)
    for router in routers:
        trained |= np.isin(hashes, router.trained_query_hashes)
    out = train | trained
    counts = {
        "n_rows": table.n_requests,
        "n_train_split": int(train.sum()),
        "n_left_out_trained": int((trained & ~train).sum()),
    }
    return np.flatnonzero(~out), np.flatnonzero(out), counts


def _one_tier(table: OutcomeTable, rows: IntArray, columns: IntArray) -> IntArray:
    """The tier whose outcome is used, with its propensity (``OneTier``), (n,); else -1."""
    tier = OneTier.of(table, rows, columns).tier
    recorded = np.isfinite(table.propensity[rows, columns[tier]])
    result: IntArray = np.where((tier >= 0) & recorded, tier, -1)
    return result


def _nothing_left(counts: dict[str, int]) -> str:
    left_out = [
        (counts["n_train_split"], "are marked train"),
        (counts["n_left_out_trained"], "have a text that one of the routers was trained on"),
        (counts.get("n_incomplete", 0), "lack the outcome of a tier"),
        (counts.get("n_without_propensity", 0), "were logged without a propensity"),
        (counts.get("n_not_one_tier", 0), "have neither every tier's outcome nor just one"),
    ]
    why = ", ".join(f"{n:,} {what}" for n, what in left_out if n)
    return (
        "expected requests that no router was trained on, with the outcome of every tier or "
        f"of one tier and its propensity, got none of {counts['n_rows']:,}: {why}; bring new "
        "requests, and record the propensity that every decision carries."
    )
