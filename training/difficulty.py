"""How difficult a query is: what the outcomes of many models on it have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def difficulty(
    success: FloatArray,
    observed: BoolArray,
    other_success: FloatArray | None,
    weight: FloatArray | None = None,
) -> tuple[FloatArray, BoolArray]:
    """Mean over the models seen on a request of (success - the model's mean), (n,); where known.

    Models may be seen on different requests: taking off each one's mean makes them comparable,
    with a ``weight`` (n,) of each request where the requests were chosen for the model.
    """
    cells = np.where(observed, success, np.nan)
    if other_success is not None:
        cells = np.hstack((cells, other_success))
    known = np.isfinite(cells)
    filled = np.where(known, cells, 0.0)
    u = np.ones(len(cells)) if weight is None else weight
    total = u @ known
    centred = np.where(known, filled - (u @ filled) / np.where(total > 0, total, 1.0), 0.0)
    n_seen = known.sum(axis=1)
    return centred.sum(axis=1) / np.maximum(n_seen, 1), n_seen > 0
