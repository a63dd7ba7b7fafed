"""Plans: closed forms, every order of every subset by enumeration, and simulated cascades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import ndtri

import router.plans as plans_module
from router.escalation import PERFECT, Escalation, Verifier
from router.plans import Chances, Plan, best_plan
from router.policy import choose_one

FloatArray = npt.NDArray[np.float64]

SEED = st.integers(0, 2**32 - 1)
VALUE = st.floats(1e-2, 10)
RATE = st.one_of(st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.floats(0.0, 1.0))
USELESS = RATE.map(lambda miss_rate: Verifier(miss_rate, 1.0 - miss_rate))
VERIFIERS = st.builds(Verifier, RATE, RATE)


def orders(n_tiers: int) -> Iterator[tuple[int, ...]]:
    """Every order of every non-empty set of tiers."""
    for length in range(1, n_tiers + 1):
        yield from permutations(range(n_tiers), length)


class World:
    """Who succeeds, as a joint distribution: bit t of a pattern is tier t's success."""

    def __init__(self, joint: FloatArray, n_tiers: int) -> None:
        self.joint, self.n_tiers = joint, n_tiers
        self.good = np.array(list(product([0.0, 1.0], repeat=n_tiers)))[:, ::-1]

    @classmethod
    def drawn(cls, seed: int, n_tiers: int) -> World:
        """Any joint distribution, often a lopsided one."""
        rng = np.random.default_rng(seed)
        return cls(rng.dirichlet(np.full(2**n_tiers, 0.3)), n_tiers)

    @classmethod
    def independent(cls, p: Sequence[float]) -> World:
        good = np.array(list(product([0.0, 1.0], repeat=len(p))))[:, ::-1]
        joint = (good * p + (1 - good) * (1 - np.array(p))).prod(axis=1)
        return cls(joint, len(p))

    def rejects(self, verifier: Verifier) -> FloatArray:
        return self.good * verifier.false_alarm_rate + (1 - self.good) * (1 - verifier.miss_rate)

    def given(self, verifier: Verifier) -> Chances:
        """P(a tier's answer is good | others were rejected), by Bayes over all patterns."""
        rejects = self.rejects(verifier)

        def chance(tier: int, rejected: int) -> float:
            weight = self.joint.copy()
            for other in range(self.n_tiers):
                if rejected >> other & 1:
                    weight = weight * rejects[:, other]
            total = weight.sum()
            return float(weight @ self.good[:, tier] / total) if total > 0 else 0.0

        return chance

    def value(
        self, order: Sequence[int], cost: Sequence[float], worth: float, verifier: Verifier
    ) -> float:
        """Pattern by pattern: what is expected to be served, and what it costs to get there."""
        rejects = self.rejects(verifier)
        reach, served, paid = self.joint.copy(), 0.0, 0.0
        for tier in order:
            paid += cost[tier] * reach.sum()
            passed = 1.0 - rejects[:, tier] if tier != order[-1] else 1.0
            served += float((reach * passed * self.good[:, tier]).sum())
            reach = reach * rejects[:, tier]
        return float(worth * served - paid)

    def best_value(self, cost: Sequence[float], worth: float, verifier: Verifier) -> float:
        return max(self.value(order, cost, worth, verifier) for order in orders(self.n_tiers))


def costs(seed: int, n_tiers: int) -> list[float]:
    drawn: list[float] = np.exp(np.random.default_rng(seed + 1).normal(-2, 1.5, n_tiers)).tolist()
    return drawn


# ----------------------------------------------------------------------------------- closed forms


@given(
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2),
    st.lists(st.floats(0.001, 1.0), min_size=2, max_size=2),
    VALUE,
    VERIFIERS,
)
def test_two_independent_tiers(
    p: list[float], cost: list[float], worth: float, verifier: Verifier
) -> None:
    miss, alarm = verifier.miss_rate, verifier.false_alarm_rate

    def both(first: int, second: int) -> float:
        again = (1 - p[first]) * (1 - miss) + p[first] * alarm
        good = p[first] * (1 - alarm) + again * p[second]
        return worth * good - cost[first] - again * cost[second]

    once = [worth * p[t] - cost[t] for t in range(2)]
    found = best_plan(p, cost, worth, verifier=verifier)
    assert found.value_usd == pytest.approx(max(*once, both(0, 1), both(1, 0)), abs=1e-9)
    by_order = {(0,): once[0], (1,): once[1], (0, 1): both(0, 1), (1, 0): both(1, 0)}
    assert by_order[tuple(found.order)] == pytest.approx(found.value_usd, abs=1e-9)


def test_what_errors_change() -> None:
    p, cost = [0.6, 0.9], [0.001, 0.02]
    assert best_plan(p, cost, 0.1).order == [0, 1]
    # .001 + .4 x .02 for .96 successes.
    assert best_plan(p, cost, 0.1).value_usd == pytest.approx(0.096 - 0.009)
    # .6 + .2 x .9 = .78 for .001 + .2 x .02 beats .9 for .02.
    assert best_plan(p, cost, 0.1, verifier=Verifier(0.5, 0.0)).value_usd == pytest.approx(0.073)
    # .54 + .18 x .9 = .702 for .001 + .18 x .02 does not.
    assert best_plan(p, cost, 0.1, verifier=Verifier(0.7, 0.1)) == Plan([1], pytest.approx(0.07))
    # Good answers that are sent back cost money, and do no harm where the last tier is sure.
    assert best_plan([0.6, 1.0], cost, 0.1, verifier=Verifier(0.0, 0.5)).order == [0, 1]


@given(SEED, st.integers(1, 5), VALUE, USELESS)
def test_a_useless_verifier_leaves_the_best_single_tier(
    seed: int, n_tiers: int, worth: float, verifier: Verifier
) -> None:
    world, cost = World.drawn(seed, n_tiers), costs(seed, n_tiers)
    p = [world.given(PERFECT)(t, 0) for t in range(n_tiers)]
    found = best_plan(p, cost, worth, world.given(verifier), verifier)
    assert found.order == [choose_one(p, cost, worth)]
    assert found.value_usd == pytest.approx(max(worth * p[t] - cost[t] for t in range(n_tiers)))
    assert found.value_usd == pytest.approx(world.best_value(cost, worth, verifier), abs=1e-9)


# ------------------------------------------------------------------------------------ enumeration


@given(SEED, st.integers(1, 4), VALUE, VERIFIERS)
def test_it_is_the_best_of_all_orders(
    seed: int, n_tiers: int, worth: float, verifier: Verifier
) -> None:
    world, cost = World.drawn(seed, n_tiers), costs(seed, n_tiers)
    # P(success) itself is asked of the function: the first argument says how many tiers there are.
    found = best_plan([0.5] * n_tiers, cost, worth, world.given(verifier), verifier)
    assert len(set(found.order)) == len(found.order) >= 1
    best = world.best_value(cost, worth, verifier)
    assert found.value_usd == pytest.approx(best, abs=1e-9)
    assert world.value(found.order, cost, worth, verifier) == pytest.approx(best, abs=1e-9)


@given(SEED, st.integers(1, 5), st.floats(0.0, 10), VERIFIERS)
def test_many_independent_tiers_are_planned_as_well_as_exactly(
    seed: int, n_tiers: int, worth: float, verifier: Verifier
) -> None:
    """The way for more than twelve tiers, on few of them, against every order."""
    p = np.random.default_rng(seed).random(n_tiers).tolist()
    world, cost = World.independent(p), costs(seed, n_tiers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans_module, "MAX_TIERS_FOR_EXACT_ORDER", 0)
        found = best_plan(p, cost, worth, verifier=verifier)
    best = world.best_value(cost, worth, verifier)
    assert found.value_usd == pytest.approx(best, abs=1e-9)
    assert world.value(found.order, cost, worth, verifier) == pytest.approx(best, abs=1e-9)


@given(SEED, st.integers(1, 6), st.floats(0.0, 10))
def test_without_errors_it_is_the_recursion_over_failures(
    seed: int, n_tiers: int, worth: float
) -> None:
    """W(F) = min(0, min_t c_t - V p(t|F) + (1 - p(t|F)) W(F + t)), the first try being forced."""
    world, cost = World.drawn(seed, n_tiers), costs(seed, n_tiers)
    chance = world.given(PERFECT)

    def loss(failed: int) -> tuple[float, list[int]]:
        tries = []
        for tier in range(n_tiers):
            if not failed >> tier & 1:
                after, then = loss(failed | 1 << tier)
                p = chance(tier, failed)
                tries.append((cost[tier] - worth * p + (1 - p) * after, [tier, *then]))
        least = min(tries, default=(0.0, []), key=lambda one: one[0])
        return least if failed == 0 or least[0] < 0 else (0.0, [])

    expected, order = loss(0)
    found = best_plan([0.5] * n_tiers, cost, worth, chance)
    assert found.order == order
    assert found.value_usd == pytest.approx(-expected, abs=1e-12)


@given(SEED, st.integers(1, 4), VALUE, VERIFIERS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_better_verifier_is_worth_no_less(
    seed: int, n_tiers: int, worth: float, verifier: Verifier, miss: float, alarm: float
) -> None:
    assume(not verifier.says_nothing)
    world, cost = World.drawn(seed, n_tiers), costs(seed, n_tiers)
    better = Verifier(miss * verifier.miss_rate, alarm * verifier.false_alarm_rate)
    values = [
        best_plan([0.5] * n_tiers, cost, worth, world.given(one), one).value_usd
        for one in (verifier, better)
    ]
    assert values[1] >= values[0] - 1e-9
    once = max(worth * world.given(PERFECT)(t, 0) - cost[t] for t in range(n_tiers))
    assert values[0] >= once - 1e-9


# -------------------------------------------------------------------------------------- simulated


@pytest.mark.parametrize(
    ("loading", "verifier"),
    [
        ([0.8, 0.7, 0.6], Verifier(0.2, 0.1)),
        ([0.8, 0.7, 0.6], Verifier(0.05, 0.3)),
        ([0.9, -0.6, 0.3], Verifier(0.3, 0.2)),
        ([0.0, 0.0, 0.0], Verifier(0.1, 0.1)),
    ],
    ids=str,
)
def test_simulated_cascades_are_worth_what_the_plan_says(
    loading: list[float], verifier: Verifier
) -> None:
    """Latent normals with the loadings, a verdict per answer, and the plan played out."""
    rng, n = np.random.default_rng(7), 200_000
    p, cost, worth = [0.55, 0.7, 0.8], [0.01, 0.05, 0.2], 1.0
    r = np.array(loading)
    latent = rng.normal(size=(n, 1)) * r + rng.normal(size=(n, 3)) * np.sqrt(1 - r**2)
    good = latent + ndtri(p) > 0
    rejected = np.where(
        good,
        rng.random((n, 3)) < verifier.false_alarm_rate,
        rng.random((n, 3)) > verifier.miss_rate,
    )

    def net(order: Sequence[int]) -> FloatArray:
        value, asking = np.zeros(n), np.ones(n, dtype=bool)
        for tier in order:
            value -= cost[tier] * asking
            served = asking & ~rejected[:, tier] if tier != order[-1] else asking
            value += worth * (served & good[:, tier])
            asking = asking & rejected[:, tier]
        return value

    given = Escalation(r).given(p, None, verifier)
    found = best_plan(p, cost, worth, given, verifier)
    assert len(found.order) > 1
    played = net(found.order)
    error = played.std() / np.sqrt(n)
    assert found.value_usd == pytest.approx(played.mean(), abs=5 * error)
    for order in orders(3):
        gap = net(order) - played
        assert gap.mean() < 5 * gap.std() / np.sqrt(n) + 1e-12


# ----------------------------------------------------------------------------------------- corners


def test_more_tiers_than_the_exact_search_takes() -> None:
    n_tiers = plans_module.MAX_TIERS_FOR_EXACT_ORDER + 1
    cost, even = np.linspace(0.1, 1.0, n_tiers), np.full(n_tiers, 0.5)
    assert best_plan(even, cost, 10.0).order == list(range(n_tiers))
    assert best_plan(even, cost, 1.0).order == [t for t in range(n_tiers) if cost[t] < 0.5]
    assert best_plan(np.zeros(n_tiers), cost, 1.0).order == [0]


def test_many_tiers_that_make_up_for_each_other_are_tried_on() -> None:
    """Where one is rejected the other is nearly sure, which looking ahead alone does not see."""
    n_tiers = plans_module.MAX_TIERS_FOR_EXACT_ORDER + 2
    loading = np.zeros(n_tiers)
    loading[:2] = 0.99, -0.99
    p, cost = [0.5, 0.5] + [0.01] * (n_tiers - 2), [0.1] * n_tiers
    given = Escalation(loading).given(p)
    assert best_plan(p, cost, 1.0, given).order == [0, 1]


def test_a_try_that_can_no_longer_help_is_left_out() -> None:
    """The dear tier fails whenever the cheap one does: independent, it would be worth a try."""
    assume_dependent = {(0, 0): 0.6, (1, 0): 0.6, (1, 0b01): 0.0, (0, 0b10): 0.0}
    found = best_plan(
        [0.6, 0.6], [0.1, 0.2], 1.0, lambda tier, rejected: assume_dependent[tier, rejected]
    )
    assert found.order == [0]
    assert best_plan([0.6, 0.6], [0.1, 0.2], 1.0).order == [0, 1]


def test_certainties_break_nothing() -> None:
    for verifier in (PERFECT, Verifier(0.0, 0.5), Verifier(0.5, 0.0), Verifier(1.0, 1.0)):
        found = best_plan([0.0, 1.0, 1.0], [0.0, 0.1, 0.0], 1.0, verifier=verifier)
        assert found.value_usd == pytest.approx(1.0)


@given(SEED, st.integers(1, 4), st.floats(0.0, 10), VERIFIERS)
def test_a_plan_of_one_tier_is_the_routed_tier(
    seed: int, n_tiers: int, worth: float, verifier: Verifier
) -> None:
    p, cost = np.random.default_rng(seed).random(n_tiers).tolist(), costs(seed, n_tiers)
    order = best_plan(p, cost, worth, verifier=verifier).order
    assume(len(order) == 1)
    routed = choose_one(p, cost, worth)
    assert cost[order[0]] - worth * p[order[0]] == pytest.approx(cost[routed] - worth * p[routed])
