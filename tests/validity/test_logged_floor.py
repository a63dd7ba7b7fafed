"""Is a floor that is certified from a log violated at most as often as promised?

The worlds and the check are those of ``test_floor``; of every request only the outcome of the tier
that a logging policy chose is kept, and doubly robust pseudo-outcomes stand for the others, with
predictions that are wrong on purpose, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from router.certificate import Floor
from router.selection import CalibrationRows
from tests.validity.test_floor import (
    MISSED,
    N_DATA_SETS,
    Known,
    World,
    check_promise,
    count,
    real,
    world,
)
from training.logging_policy import Choices

pytestmark = pytest.mark.slow

FloatArray = npt.NDArray[np.float64]
LoggingPolicy = Callable[[CalibrationRows, np.random.Generator], FloatArray]


def uniform(rows: CalibrationRows, rng: np.random.Generator) -> FloatArray:
    return np.full(rows.success.shape, 1.0 / rows.success.shape[1])


def epsilon_greedy(rows: CalibrationRows, rng: np.random.Generator) -> FloatArray:
    """A rule that goes by what is predicted of the first tier, with 30 % of exploration."""
    n, n_tiers = rows.success.shape
    chance = np.full((n, n_tiers), 0.3 / n_tiers)
    chance[np.arange(n), np.where(rows.p_success[:, 0] > 0.6, 0, n_tiers - 1)] += 0.7
    return chance


def softmax(rows: CalibrationRows, rng: np.random.Generator) -> FloatArray:
    """By a score that has seen the outcomes of the cheapest tier: as confounded as can be."""
    score = np.exp(rng.normal(size=rows.success.shape) * 0.3 + rows.success[:, [0]] * [1, 0, 0])
    chance = score / score.sum(axis=1, keepdims=True)
    return 0.7 * chance + 0.1


class Logged(World):
    """Another world, of whose outcomes the log has one per request."""

    def __init__(
        self, inner: World, policy: LoggingPolicy, *, q: str = "predicted", weighted: bool = True
    ) -> None:
        self.inner, self.policy, self.q, self.weighted = inner, policy, q, weighted
        self.rate, self.n_tiers = inner.rate, inner.n_tiers
        self.unknown_share = inner.unknown_share

    def true_rate(self, policy: object) -> float:  # type: ignore[override]
        return self.inner.true_rate(policy)  # type: ignore[arg-type]

    def draw(self, n: int, seed: int) -> tuple[CalibrationRows, Known]:
        rows, known = self.inner.draw(n, seed)
        rng = np.random.default_rng([seed, 7])
        chance = self.policy(rows, rng)
        tier = (rng.random((n, 1)) > chance.cumsum(axis=1)).sum(axis=1)
        propensity = chance[np.arange(n), tier]
        most = float(1.0 / chance.min()) if self.weighted else 1.0
        most = max(most, 1.0)
        weight = np.minimum(1.0 / propensity, most)
        tried = np.ones(rows.success.shape, bool)
        choices = Choices(tier, propensity, tried, weight, 0)
        q = rows.p_success if self.q == "predicted" else np.full(rows.success.shape, 0.99)
        logged = replace(
            rows,
            success=choices.pseudo_outcomes(rows.success, q),
            realised_cost_usd=choices.pseudo_outcomes(rows.realised_cost_usd, rows.cost_usd),
            max_weight=most,
        )
        return logged, known


@pytest.mark.parametrize("q", ["predicted", "far too high"])
@pytest.mark.parametrize("policy", [uniform, epsilon_greedy, softmax])
@pytest.mark.parametrize(
    ("kind", "floor", "n"),
    [
        ("tier_at_floor", Floor(rate=0.90), 500),
        ("plain", Floor(margin=-0.15, relative_to=0), 500),
        ("near_ties", Floor(rate=0.90), 1500),
    ],
)
def test_a_floor_from_a_log_is_violated_at_most_as_often_as_promised(
    kind: str, floor: Floor, n: int, policy: LoggingPolicy, q: str
) -> None:
    where = Logged(world(kind), policy, q=q)
    found = count(real, where, floor, n, 0.9, 200)
    check_promise(found.wrong, 200, 0.1)


def test_two_tiers_that_just_miss_the_floor() -> None:
    where, floor = MISSED
    found = count(real, Logged(where, uniform), floor, 300, 0.9, 600)
    check_promise(found.wrong, 600, 0.1)


def test_without_weights_the_promise_is_broken_and_found_out() -> None:
    """Taking predictions that are far too high for what nobody saw certifies what is not so."""
    where = Logged(world("tier_at_floor"), uniform, q="far too high", weighted=False)
    found = count(real, where, Floor(rate=0.90), 500, 0.9)
    with pytest.raises(AssertionError, match="wrong on"):
        check_promise(found.wrong, N_DATA_SETS, 0.1)


def test_a_log_certifies_something_cheaper_where_there_are_rows_enough() -> None:
    where = Logged(world("plain"), uniform)
    found = count(real, where, Floor(margin=-0.15, relative_to=0), 4000, 0.95, 40)
    assert found.cheaper >= 32
