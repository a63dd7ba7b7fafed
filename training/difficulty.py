"""How difficult a query is: what the outcomes of many models on it have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def difficulty(
    success: FloatArray, observed: BoolArray, other_success: FloatArray | None
) -> tuple[FloatArray, BoolArray]:
    """Mean over the models seen on a request of (success - the model's mean), (n,); where known.

    Models may be seen on different requests: taking off each one's mean makes them comparable.
    """
    cells = np.where(observed, success, np.nan)
    if other_success is not None:
        cells = np.hstack((cells, other_success))
    known = np.isfinite(cells)
    counts = known.sum(axis=0)
    filled = np.where(known, cells, 0.0)
    centred = np.where(known, filled - filled.sum(axis=0) / np.maximum(counts, 1), 0.0)
    n_seen = known.sum(axis=1)
    return centred.sum(axis=1) / np.maximum(n_seen, 1), n_seen > 0
