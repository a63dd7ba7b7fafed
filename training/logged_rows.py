"""Logged feedback out of a table: which requests tell one tier's outcome, and which do not.

A production log has the outcome of one tier per request, an evaluation run that of all. Both are
read into the same table (``training.table``); what makes the difference is counted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from training.table import OutcomeTable

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]

# Up to this share of requests without a recorded propensity is left out. With more, leaving them
# out would say something else than the log, and all propensities are estimated.
MAX_WITHOUT_PROPENSITY = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class OneTier:
    """Of n requests the tier whose outcome is used, (n,): a column, or -1 where there is none.

    That is the only tier that was observed; of several the one with a recorded propensity, if it is
    the only such one: the others were then asked afterwards. ``n_observed`` (n,) counts the
    observed tiers.
    """

    tier: IntArray
    n_observed: IntArray
    n_tiers: int

    @classmethod
    def of(cls, table: OutcomeTable, rows: IntArray, columns: IntArray) -> OneTier:
        """Of the requests ``rows`` and the tiers ``columns`` of a table.

        >>> import numpy as np
        >>> from router.tiers import Tier, TierSet
        >>> from training.table import OutcomeTable
        >>> tiers = TierSet.from_dicts([Tier(t, "maker", t).to_dict() for t in ("a", "b", "c")])
        >>> x = np.nan
        >>> seen = np.array([[x, 1, x], [1, 1, x], [1, 1, x], [1, 1, 1], [x, x, x]])
        >>> chance = np.array([[x, x, x], [x, 0.5, x], [x, x, x], [x, x, x], [x, x, x]])
        >>> table = OutcomeTable.from_arrays(tiers, list("pqrst"), seen, seen, propensity=chance)
        >>> found = OneTier.of(table, np.arange(5), np.arange(3))
        >>> found.tier.tolist(), found.single.tolist(), found.complete.tolist()
        ([1, 1, -1, -1, -1], [True, True, False, False, False], [False, False, False, True, False])
        """
        observed = table.observed[np.ix_(rows, columns)]
        recorded = observed & np.isfinite(table.propensity[np.ix_(rows, columns)])
        n_observed = observed.sum(axis=1)
        by_propensity = np.where(recorded.sum(axis=1) == 1, recorded.argmax(axis=1), -1)
        tier = np.where(n_observed == 1, observed.argmax(axis=1), by_propensity)
        return cls(tier, n_observed, len(columns))

    @property
    def complete(self) -> BoolArray:
        """Every tier was observed, (n,)."""
        result: BoolArray = self.n_observed == self.n_tiers
        return result

    @property
    def single(self) -> BoolArray:
        """One tier's outcome can be used, and not every tier was observed, (n,)."""
        return (self.tier >= 0) & ~self.complete


@dataclass(frozen=True, slots=True)
class LoggedCounts:
    """What became of the table's requests: ``n_requests`` of ``n_rows`` are used.

    Left out, in this order: marked train; of a text that the artifact was trained on; without an
    outcome of one of its tiers; with several tiers' outcomes and none that was chosen by a recorded
    propensity (``n_complete`` of them have every tier's); without a cost; without a recorded
    propensity where nearly all others have one. ``n_texts`` are the different texts used.
    """

    n_rows: int
    n_train_split: int
    n_left_out_trained: int
    n_without_outcome: int
    n_several_tiers: int
    n_complete: int
    n_without_cost: int
    n_without_propensity: int
    n_requests: int
    n_texts: int

    def to_dict(self) -> dict[str, int]:
        """JSON-serialisable."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
