"""Decision: what a router answers, and Predictions: what it believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Reason = Literal["policy", "out-of-distribution", "pinned", "fallback"]


@dataclass(frozen=True, slots=True)
class Shadow:
    """What another router would have done with the same request; it cost no model call.

    ``p_success`` and ``cost_usd`` are what that router expected of its own tier, None where it has
    no opinion. Where it failed, ``error`` names the kind of error and all else is None.
    """

    tier: str | None = None
    propensity: float | None = None
    reason: Reason | None = None
    artifact_id: str | None = None
    p_success: float | None = None
    cost_usd: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, decision: Decision) -> Shadow:
        """Out of the other router's decision."""
        tier = decision.tier
        return cls(
            tier,
            decision.propensity,
            decision.reason,
            decision.artifact_id,
            decision.p_success[tier],
            decision.cost_usd[tier],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; ``error`` alone where there is one."""
        if self.error is not None:
            return {"error": self.error}
        return {
            "tier": self.tier,
            "propensity": self.propensity,
            "reason": self.reason,
            "p_success": self.p_success,
            "cost_usd": self.cost_usd,
            "artifact_id": self.artifact_id,
        }


@dataclass(frozen=True, slots=True)
class CacheNote:
    """What a prompt cache had to do with a decision.

    ``policy_tier`` is what the policy takes without a cache; ``warm_tokens`` what was believed warm
    of the ``prefix_tokens``, by tier; ``prefix_usd`` what the prefix costs this turn, by tier.
    """

    policy_tier: str
    prefix_tokens: int
    warm_tokens: dict[str, int]
    prefix_usd: dict[str, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one query goes, and why.

    ``p_success`` and ``cost_usd`` hold every tier's expected value (None where a router has no
    opinion). ``propensity`` is the exact probability with which this tier was chosen: record it
    with the outcome. ``reason`` is "policy"; "out-of-distribution" (the safe tier, since the query
    is unlike anything in training); "pinned" (the caller named the tier); or "fallback" (the
    policy's tier was excluded, too small for the request, or lacked a needed feature).
    ``certified`` is True where the artifact's success floor covers this decision. ``explored`` is
    True where a router that explores took a tier that its policy would never have chosen here.
    ``shadow`` is what another router would have done, where one was asked. ``cache`` says what a
    prompt cache had to do with it, where a session or a prefix was named; ``cost_usd`` then
    includes the prefix.
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
    explored: bool = False
    shadow: Shadow | None = None
    cache: CacheNote | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; what is optional stands in it only if it is there."""
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
        if self.explored:
            out["explored"] = True
        if self.shadow is not None:
            out["shadow"] = self.shadow.to_dict()
        if self.cache is not None:
            out["cache"] = asdict(self.cache)
        return out


@dataclass(frozen=True, slots=True)
class Predictions:
    """Expected success and dollars (n, T), and which queries (n,) are unlike the training ones.

    ``allowed`` (n, T) marks the tiers whose context window takes the query, ``tried`` (n, T) those
    that the log has tried on queries like it; None where that is true of all.
    """

    p_success: npt.NDArray[np.float64]
    cost_usd: npt.NDArray[np.float64]
    out_of_distribution: npt.NDArray[np.bool_]
    allowed: npt.NDArray[np.bool_] | None = None
    tried: npt.NDArray[np.bool_] | None = None

    @property
    def candidates(self) -> npt.NDArray[np.bool_] | None:
        """The tiers (n, T) between which a policy chooses; None where between all.

        Those that were tried and are allowed; where there is none, those that are allowed.
        """
        if self.allowed is None or self.tried is None:
            return self.tried if self.allowed is None else self.allowed
        both = self.allowed & self.tried
        return np.where(both.any(axis=1, keepdims=True), both, self.allowed)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Several chunks as one."""

        def mask(name: str) -> npt.NDArray[np.bool_] | None:
            masks = [getattr(part, name) for part in parts]
            if all(found is None for found in masks):
                return None
            return np.concatenate(
                [
                    np.ones(part.p_success.shape, bool) if found is None else found
                    for part, found in zip(parts, masks, strict=True)
                ]
            )

        return cls(
            np.concatenate([part.p_success for part in parts]),
            np.concatenate([part.cost_usd for part in parts]),
            np.concatenate([part.out_of_distribution for part in parts]),
            mask("allowed"),
            mask("tried"),
        )
