"""With a certified floor, does it hold in every state of the prompt caches that is told apart?

Data sets are drawn from worlds whose true success rates are known. On each, ``certify`` chooses a
policy and ``CacheRouting`` what may be done where a prefix is warm; it is *wrong* where, in any of
the states, the rule that is served has a true success rate below the floor. That may happen on one
data set in twenty. The same check must refuse a test that is broken on purpose.
"""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from router.cache_routing import CacheRouting, _chosen
from router.certificate import Floor
from router.decision import Predictions
from router.policy import SAME_RATE
from router.prices import PriceBook
from router.selection import CalibrationRows, certify
from router.tiers import Tier, TierSet
from tests.validity.test_floor import World, check_promise

pytestmark = pytest.mark.slow

MODELS = ("claude-sonnet-4-5", "claude-sonnet-4-6", "claude-opus-4-6")
N_DATA_SETS, N_ROWS, MARGIN = 60, 800, -0.06


def tiers_at(cost_usd: np.ndarray) -> TierSet:
    """Tiers whose prefix of 4,000 tokens, unread, costs as much as an answer does."""
    named = zip(MODELS, cost_usd / 4_000 * 1e6, strict=True)
    return TierSet(
        [
            Tier(
                name=f"t{i}",
                provider="anthropic",
                model=model,
                input_price_usd_per_mtok=float(price),
                cached_input_price_usd_per_mtok=float(price) / 10,
                cache_write_price_usd_per_mtok=float(price) * 1.25,
                output_price_usd_per_mtok=float(price) * 5,
            )
            for i, (model, price) in enumerate(named)
        ]
    )


def wrong_data_sets(kind: str) -> tuple[int, int, int]:
    """How many data sets are wrong, and have a certificate; in how many states a rule passed."""
    world = World(kind)
    population = world.rows
    predicted = Predictions(
        population.p_hat, population.cost_hat, np.zeros(len(population.p_hat), bool)
    )
    truth = population.p_true
    rows = np.arange(len(truth))
    excess = truth[:, -1] - world.rate[-1]
    wrong = certified = states = 0
    for seed in range(N_DATA_SETS):
        drawn, known = world.draw(N_ROWS, seed)
        drawn = CalibrationRows(
            drawn.p_success,
            drawn.cost_usd,
            drawn.success,
            drawn.realised_cost_usd,
            np.zeros(N_ROWS, bool),
        )
        floor = Floor(margin=MARGIN, relative_to=known.strongest)
        policy, certificate = certify(
            drawn,
            floor,
            tier_success=known.tier_success,
            tier_cost_usd=known.tier_cost_usd,
            names=("t0", "t1", "t2"),
            safe_tier=known.strongest,
            strongest=known.strongest,
            confidence=0.95,
        )
        if policy.kind != "value" or not certificate.certified:
            continue
        certified += 1
        caching = CacheRouting.of(
            tiers_at(known.tier_cost_usd), policy, certificate, drawn, PriceBook()
        )
        assert caching.tested is not None
        least = world.rate[known.strongest] + MARGIN
        bad = False
        for value, standing in caching.tested.values():
            states += 1
            tier = _chosen("any", value, predicted, tier_of(predicted), standing)
            played = truth[rows, tier]
            # The strongest tier's known rate takes out most of the population's own noise.
            slope = np.cov(played, excess)[0, 1] / excess.var()
            bad |= played.mean() - slope * excess.mean() < least - SAME_RATE
        wrong += bad
    return wrong, certified, states


def tier_of(predicted: Predictions) -> np.ndarray:
    return predicted.p_success.argmax(axis=1)


@pytest.mark.parametrize("kind", ["plain", "near_ties"])
def test_the_floor_holds_in_every_state(kind: str) -> None:
    wrong, certified, states = wrong_data_sets(kind)
    # Something must have been certified, or nothing was tested.
    assert certified > N_DATA_SETS / 4 and states > 4 * certified
    check_promise(wrong, certified, 0.05)


def test_a_test_that_looks_at_the_mean_alone_is_found_out() -> None:
    def by_mean(rows: CalibrationRows, floor: Floor, success: np.ndarray, *_: object, **__: object):
        reference = rows.success[:, floor.relative_to].mean() + floor.margin
        return bool(success.mean() >= reference)

    original = CalibrationRows.passes
    calls = {"n": 0}

    def passes(
        self: CalibrationRows, floor: Floor, success: np.ndarray, delta: float, **more: bool
    ):
        # The policy itself is certified properly; the cache's states are not.
        if delta < 0.01:
            calls["n"] += 1
            return by_mean(self, floor, success)
        return original(self, floor, success, delta, **more)

    with patch.object(CalibrationRows, "passes", passes):
        wrong, certified, _ = wrong_data_sets("plain")
    assert calls["n"]
    with pytest.raises(AssertionError, match="wrong on"):
        check_promise(wrong, certified, 0.05)
