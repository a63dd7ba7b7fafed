"""The requests on which the router was most wrong, in hindsight: by id, never by text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.metrics import expected_outcome

FloatArray = npt.NDArray[np.float64]
ObjectArray = npt.NDArray[np.object_]

N_WORST = 20


@dataclass(frozen=True, slots=True)
class WorstRequest:
    """One request: what the router chose and believed, and what hindsight would have chosen.

    ``regret_usd`` is cost - lambda * success of the router less that of the best tier.
    """

    request_id: str
    task: str | None
    tier: str
    p_success: float
    success: float
    cost_usd: float
    best_tier: str
    best_p_success: float
    best_success: float
    best_cost_usd: float
    regret_usd: float
    out_of_distribution: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self)


def worst_requests(
    names: Sequence[str],
    request_id: ObjectArray,
    task: ObjectArray,
    dist: FloatArray,
    p_success: FloatArray,
    out_of_distribution: npt.NDArray[np.bool_],
    success: FloatArray,
    cost_usd: FloatArray,
    success_value_usd: float,
    n_worst: int = N_WORST,
) -> tuple[WorstRequest, ...]:
    """Requests of the greatest regret, the worst first; those of none are left out.

    All matrices are (n, T). A policy that flips a coin is shown with the tier it likes best, and
    its regret is the expected one. Without a finite value of a success there is no regret to speak
    of. Hindsight is unfair: much of it is chance that nothing in a query tells of.
    """
    if not math.isfinite(success_value_usd):
        return ()
    loss = cost_usd - success_value_usd * success
    regret = expected_outcome(dist, loss) - loss.min(axis=1)
    order = np.argsort(-regret, kind="stable")[:n_worst]
    found = []
    for row in order[regret[order] > 0].tolist():
        tier, best = int(dist[row].argmax()), int(loss[row].argmin())
        found.append(
            WorstRequest(
                request_id=str(request_id[row]),
                task=None if task[row] is None else str(task[row]),
                tier=names[tier],
                p_success=float(p_success[row, tier]),
                success=float(success[row, tier]),
                cost_usd=float(cost_usd[row, tier]),
                best_tier=names[best],
                best_p_success=float(p_success[row, best]),
                best_success=float(success[row, best]),
                best_cost_usd=float(cost_usd[row, best]),
                regret_usd=float(regret[row]),
                out_of_distribution=bool(out_of_distribution[row]),
            )
        )
    return tuple(found)
