"""Logged feedback with known truth for tests: numeric worlds as routers and outcome tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from router.decision import Predictions
from router.policy import Policy, choose
from router.routing import Router
from router.selection import CalibrationRows
from router.tiers import Tier, TierSet
from training.split import query_hashes
from training.synthetic import NumericWorld, numeric_world
from training.table import OutcomeTable, ReadReport

FloatArray = npt.NDArray[np.float64]

NAMES = ("nano", "mid", "frontier")
TIERS = TierSet.from_dicts([Tier(name, "maker", f"model-{name}").to_dict() for name in NAMES])
N_CALIBRATION = 500


def row_of(query: str) -> int:
    """Queries are "q17 ...": the number is their row."""
    return int(query.split()[0][1:])


def mood_of(row: int) -> float:
    """Something in a query that says nothing of its difficulty, in -1..1."""
    return math.sin(1.7 * row)


def clear_world(n: int, seed: int) -> NumericWorld:
    """Half the queries are easy for every tier, the others for the dearest one; all can be read."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random((n, 1)) < 0.5, 0.95, [0.1, 0.4, 0.95])
    expected = np.array([0.001, 0.01, 0.1]) * rng.uniform(0.5, 1.5, (n, 1))
    cost = expected * rng.uniform(0.8, 1.2, (n, 3))
    success = (rng.random((n, 3)) < p).astype(float)
    rates, costs = np.array([0.525, 0.675, 0.95]), np.array([0.001, 0.01, 0.1])
    return NumericWorld("clear", 0.9, rates, costs, p, expected, p, expected, success, cost)


@dataclass
class WorldRouter:
    """A router whose predictions are a world's: those of query "q17" are row 17."""

    world: NumericWorld
    policy: Policy
    calibration: CalibrationRows
    trained: tuple[str, ...] = ()
    tiers: TierSet = TIERS
    artifact_id: str = "world"
    outside: frozenset[int] = frozenset()
    calls: list[int] = field(default_factory=list)

    @property
    def trained_query_hashes(self) -> npt.NDArray[np.uint64]:
        return np.sort(query_hashes(list(self.trained)))

    def predict(self, queries: list[str]) -> Predictions:
        self.calls.append(len(queries))
        rows = np.array([row_of(query) for query in queries])
        outside = np.isin(rows, list(self.outside))
        return Predictions(self.world.p_hat[rows], self.world.cost_hat[rows], outside)

    def action_dist(self, predictions: Predictions) -> FloatArray:
        return self.policy.action_dist(
            predictions.p_success, predictions.cost_usd, predictions.out_of_distribution
        )

    @property
    def predictor(self) -> Any:
        def embed(texts: list[str]) -> npt.NDArray[np.float32]:
            rows = [row_of(text) for text in texts]
            mood = np.array([mood_of(row) for row in rows])
            return np.column_stack((self.world.p_hat[rows], mood)).astype(np.float32)

        return SimpleNamespace(embedder=SimpleNamespace(embed=embed))


@dataclass(frozen=True)
class LoggedWorld:
    """n requests of a world: a router that reads them, and logs of them."""

    n: int
    kind: str = "plain"
    seed: int = 0
    success_value_usd: float = 0.05

    @cached_property
    def world(self) -> NumericWorld:
        n = self.n + N_CALIBRATION
        return (
            clear_world(n, self.seed)
            if self.kind == "clear"
            else numeric_world(self.kind, n, self.seed)
        )

    def router(self, policy: Policy | None = None, **options: Any) -> Router:
        """By default the value policy; its calibration rows are the world's last."""
        world, rest = self.world, slice(self.n, None)
        calibration = CalibrationRows(
            world.p_hat[rest],
            world.cost_hat[rest],
            world.success[rest],
            world.cost[rest],
            np.zeros(N_CALIBRATION, bool),
        )
        policy = policy or Policy("value", self.success_value_usd, 2, 2)
        return cast("Router", WorldRouter(world, policy, calibration, **options))

    @cached_property
    def queries(self) -> list[str]:
        """The keyword heuristic sends a third of them to each tier, by how easy they look."""
        p = self.world.p_hat[: self.n, 0]
        hard, easy = np.quantile(p, [1 / 3, 2 / 3])
        words = np.where(p > easy, "translate", np.where(p > hard, "say", "debug and compare"))
        return [f"q{i} {word}" for i, word in enumerate(words)]

    @cached_property
    def keyword(self) -> FloatArray:
        """What the heuristic does, (n, T)."""
        tier = [{"translate": 0, "say": 1}.get(q.split(" ", 1)[1], 2) for q in self.queries]
        result: FloatArray = np.eye(3)[tier]
        return result

    @property
    def uniform(self) -> FloatArray:
        return np.full((self.n, 3), 1 / 3)

    def exploring(self, epsilon: float = 0.3) -> FloatArray:
        """The heuristic, and now and then any tier."""
        return (1 - epsilon) * self.keyword + epsilon * self.uniform

    def moody(self) -> FloatArray:
        """By what the text shows, but not as the heuristic does."""
        mood = np.array([[mood_of(i)] for i in range(self.n)])
        weight = np.exp(mood * [2.0, 0.0, -1.0])
        result: FloatArray = weight / weight.sum(axis=1, keepdims=True)
        return result

    @property
    def routed(self) -> FloatArray:
        """What the default router does."""
        tier = choose(
            self.world.p_hat[: self.n], self.world.cost_hat[: self.n], self.success_value_usd
        )
        result: FloatArray = np.eye(3)[tier]
        return result

    def log(self, chances: FloatArray, *, recorded: bool = True, **columns: Any) -> OutcomeTable:
        """One tier per request, drawn from ``chances`` (n, T)."""
        rng = np.random.default_rng([self.seed, 7])
        tier = (rng.random((self.n, 1)) < chances.cumsum(axis=1) * (1 + 1e-12)).argmax(axis=1)
        observed = np.eye(3)[tier].astype(bool)

        def seen(values: FloatArray) -> FloatArray:
            return np.where(observed, values, np.nan)

        columns.setdefault("propensity", seen(chances) if recorded else None)
        columns.setdefault("request_id", [f"r{i:05d}" for i in range(self.n)])
        table = OutcomeTable.from_arrays(
            TIERS,
            self.queries,
            seen(self.world.success[: self.n]),
            seen(columns.pop("cost_usd", self.world.cost[: self.n])),
            observed=observed,
            **columns,
        )
        return replace(table, report=ReadReport(path="/some/where/log.jsonl"))
