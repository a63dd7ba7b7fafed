"""Decision: what a router answers, and Predictions: what it believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Reason = Literal["policy", "out-of-distribution", "pinned", "fallback"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one query goes, and why.

    ``p_success`` and ``cost_usd`` hold every tier's expected value (None where a router has no
    opinion). ``propensity`` is the exact probability with which this tier was chosen: record it
    with the outcome. ``reason`` is "policy"; "out-of-distribution" (the safe tier, since the query
    is unlike anything in training); "pinned" (the caller named the tier); or "fallback" (the
    policy's tier was excluded, too small for the request, or lacked a needed feature).
    ``certified`` is True where the artifact's success floor covers this decision.
    """

    tier: str
    model: str
    p_success: dict[str, float | None]
    cost_usd: dict[str, float | None]
    propensity: float
    reason: Reason
    artifact_id: str
    certified: bool = False
    request_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; ``request_id`` only where one was given."""
        out: dict[str, Any] = {
            "tier": self.tier,
            "model": self.model,
            "p_success": dict(self.p_success),
            "cost_usd": dict(self.cost_usd),
            "propensity": self.propensity,
            "reason": self.reason,
            "certified": self.certified,
            "artifact_id": self.artifact_id,
        }
        if self.request_id is not None:
            out["request_id"] = self.request_id
        return out


@dataclass(frozen=True, slots=True)
class Predictions:
    """Expected success and dollars (n, T), and which queries (n,) are unlike the training ones.

    ``allowed`` (n, T) marks the tiers whose context window takes the query; None where all do.
    """

    p_success: npt.NDArray[np.float64]
    cost_usd: npt.NDArray[np.float64]
    out_of_distribution: npt.NDArray[np.bool_]
    allowed: npt.NDArray[np.bool_] | None = None

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Several chunks as one."""
        allowed = None
        if any(part.allowed is not None for part in parts):
            allowed = np.concatenate(
                [
                    np.ones(part.p_success.shape, bool) if part.allowed is None else part.allowed
                    for part in parts
                ]
            )
        return cls(
            np.concatenate([part.p_success for part in parts]),
            np.concatenate([part.cost_usd for part in parts]),
            np.concatenate([part.out_of_distribution for part in parts]),
            allowed,
        )
