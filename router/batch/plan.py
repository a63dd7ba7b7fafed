"""Where each row of a batch job goes: to the tier of least expected cost, at the prices of batches.

The router is priced anew, with batch prices for the tiers that a batch reaches in time and standard
prices for the others; its success floor is then tested again at these prices, and the decisions say
``certified: false`` where it is not passed. A tier that the artifact knows in dollars only keeps
its standard dollars: nothing tells what a batch would have taken off them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router.batch.channels import Channel
from router.batch.input import InputRow
from router.decision import Decision
from router.embedding import embed_all
from router.errors import RoutingError
from router.records import nanousd
from router.routing import Router
from router.tiers import TierSet

NO_TIER = "no tier can take a request of its length"
# Of an answer of which neither the artifact nor the row says how long it will be.
_OUTPUT_TOKENS = 500.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A decision; ``baseline`` is what is needed later to say what the strongest tier would cost.

    ``expected_nanousd`` is 0 where the price is unknown.
    """

    decision: Decision
    baseline: dict[str, Any]
    n_input: float
    n_output: float


def expected_nanousd(channel: Channel, planned: Planned, *, batched: bool) -> int:
    """What a row is expected to cost; 0 where nobody knows the price."""
    price = channel.price(batched=batched)
    if price is None:
        return nanousd(planned.decision.cost_usd[channel.tier.name]) or 0
    return nanousd(price.cost_usd(planned.n_input, planned.n_output)) or 0


class RouterPlanner:
    """Plans by a `Router`; ``pin`` names the tier that all rows go to."""

    def __init__(self, router: Router, channels: Sequence[Channel], pin: str | None = None) -> None:
        self._standard = router.exploring(None)
        self._pin = pin
        self.tiers = router.tiers
        self.strongest = router.tiers.names[router.policy.strongest]
        self.router = _at_batch_prices(self._standard, channels)
        self._one_by_one = pin is not None or any(
            tier.context_window_tokens is not None for tier in self.tiers
        )

    def plan(self, rows: Sequence[InputRow], ids: Sequence[str]) -> list[Planned | None]:
        """A plan for each row, None where no tier can take it."""
        queries = [row.query for row in rows]
        if self._one_by_one:
            decisions = [self._one(row, name) for row, name in zip(rows, ids, strict=True)]
        else:
            decisions = list(self.router.route_many(queries, ids))
        predictor = self._standard.predictor
        x = predictor.inputs(queries, embed_all(predictor.embedder, queries))
        usd = predictor.cost.predict(x)
        head = predictor.cost.output_tokens
        tokens = np.where(head.fitted, head.predict(x), np.nan)
        return [
            None if decision is None else self._planned(row, decision, usd[i], tokens[i])
            for i, (row, decision) in enumerate(zip(rows, decisions, strict=True))
        ]

    def _one(self, row: InputRow, name: str) -> Decision | None:
        try:
            return self.router.route(
                row.query, request_id=name, pin=self._pin, context_tokens=row.context_tokens
            )
        except RoutingError:
            return None

    def _planned(self, row: InputRow, decision: Decision, usd: Any, tokens: Any) -> Planned:
        both = {decision.tier, self.strongest}
        at = {name: self.tiers.index(name) for name in both}
        known = {name: float(tokens[i]) for name, i in at.items() if np.isfinite(tokens[i])}
        baseline = {
            "tier": self.strongest,
            "usd": {name: float(usd[i]) for name, i in at.items() if np.isfinite(usd[i])},
            "output_tokens": known,
        }
        n_output = known.get(decision.tier, _OUTPUT_TOKENS)
        return Planned(decision, baseline, *_lengths(row, n_output))


class TierPlanner:
    """Plans without a router: all rows go to one tier, which is the baseline too."""

    def __init__(self, tiers: TierSet, tier: str) -> None:
        self.tiers, self.strongest = tiers, tier
        self._tier = tiers[tiers.index(tier)]

    def plan(self, rows: Sequence[InputRow], ids: Sequence[str]) -> list[Planned | None]:
        """A plan for each row."""
        baseline = {"tier": self._tier.name, "usd": {}, "output_tokens": {}}
        return [
            Planned(self._decision(name), baseline, *_lengths(row, _OUTPUT_TOKENS))
            for row, name in zip(rows, ids, strict=True)
        ]

    def _decision(self, name: str) -> Decision:
        tier = self._tier
        nothing: dict[str, float | None] = {tier.name: None}
        return Decision(
            tier.name, tier.model, nothing, dict(nothing), 1.0, "pinned", "none", False, name
        )


Planner = RouterPlanner | TierPlanner


def _lengths(row: InputRow, n_output: float) -> tuple[float, float]:
    limit = row.prompt.max_output_tokens
    return max(row.context_tokens, 1.0), n_output if limit is None else min(n_output, limit)


def _at_batch_prices(router: Router, channels: Sequence[Channel]) -> Router:
    cost = router.predictor.cost
    prices = cost.input_usd_per_mtok.copy(), cost.output_usd_per_mtok.copy()
    for index, channel in enumerate(channels):
        usual = prices[0][index], prices[1][index]
        batch = channel.batch
        if not np.isfinite(usual).all() or batch is None or batch.request_usd:
            continue
        # As a row of a usual length goes.
        if channel.batched(1000.0, _OUTPUT_TOKENS):
            prices[0][index] = batch.input_usd_per_mtok
            prices[1][index] = batch.output_usd_per_mtok
    if all(
        np.array_equal(new, old, equal_nan=True)
        for new, old in zip(
            prices, (cost.input_usd_per_mtok, cost.output_usd_per_mtok), strict=True
        )
    ):
        return router
    return router.repriced(*prices)
