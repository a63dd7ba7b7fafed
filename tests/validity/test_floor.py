"""Is a certified success floor violated at most as often as promised?

Hundreds of data sets are drawn from worlds whose true success rates are known. On each, the real
``certify`` chooses a policy; it is *wrong* where it calls a policy certified whose true success
rate is below the floor. A certificate at 95 % may be wrong on one data set in twenty.

The same check must refuse certificates that are broken on purpose, or it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from router import selection
from router.certificate import Floor
from router.policy import SAME_RATE, Policy, choose
from router.selection import (
    SUCCESS_VALUES_USD,
    CalibrationRows,
    certify,
    mix_chain,
    router_chain,
)
from training.synthetic import numeric_world

pytestmark = pytest.mark.slow

FloatArray = npt.NDArray[np.float64]

N_DATA_SETS = 300
# Where a data set takes a millisecond: so many that a level used half as often again is found out.
N_CHEAP_DATA_SETS = 2000
# A promise that is kept is found broken by bad luck in one check of a thousand, at worst.
SLACK_QUANTILE = 0.999
# Share of queries out of distribution, whatever they are.
UNKNOWN_SHARE = 0.03
# Rows on which the tiers' means are known beforehand, as a multiple of the calibration rows.
FITTING_ROWS = 1.5


def check_promise(wrong: int, n: int, level: float) -> None:
    """AssertionError where ``wrong`` of ``n`` is more than errors at this level explain."""
    most = int(binom.ppf(SLACK_QUANTILE, n, level))
    assert wrong <= most, f"wrong on {wrong} of {n} data sets; at {level:.3g} at most {most}"


# ---------------------------------------------------------------- worlds


@dataclass(frozen=True)
class Known:
    """What training knows before it certifies, from rows that it fits on."""

    tier_success: FloatArray
    tier_cost_usd: FloatArray

    @property
    def strongest(self) -> int:
        return int(self.tier_success.argmax())


class World:
    """One of the numeric worlds: draws data sets and knows every candidate's true success rate."""

    n_tiers = 3
    unknown_share = UNKNOWN_SHARE

    def __init__(self, kind: str) -> None:
        self.kind = kind
        population = numeric_world(kind, 60_000, seed=999_999)
        self.rate, self.rows = population.true_rate, population

    @cached_property
    def router_rates(self) -> FloatArray:
        """True success rate at every success value of the grid.

        Over a large population of its own, with the strongest tier's known rate taking out most of
        the noise that is left; one standard error is about 0.0002.
        """
        p, cost, truth = self.rows.p_hat, self.rows.cost_hat, self.rows.p_true
        index = np.arange(len(p))
        excess = truth[:, -1] - self.rate[-1]
        rates = []
        for value in SUCCESS_VALUES_USD:
            played = truth[index, choose(p, cost, float(value))]
            slope = np.cov(played, excess)[0, 1] / excess.var()
            rates.append(played.mean() - slope * excess.mean())
        return np.array(rates)

    def true_rate(self, policy: Policy) -> float:
        if policy.kind == "value":
            grid = np.flatnonzero(policy.success_value_usd == SUCCESS_VALUES_USD)
            known = float(self.router_rates[grid[0]])
        else:
            assert policy.low is not None and policy.high is not None
            low, high = self.rate[policy.low], self.rate[policy.high]
            known = float(low + policy.share_high * (high - low))
        share = self.unknown_share
        return (1 - share) * known + share * float(self.rate[policy.safe_tier])

    def draw(self, n: int, seed: int) -> tuple[CalibrationRows, Known]:
        """Calibration rows, and means of other rows."""
        drawn = numeric_world(self.kind, n, 2 * seed)
        fitting = numeric_world(self.kind, int(FITTING_ROWS * n), 2 * seed + 1)
        unknown = np.random.default_rng(seed).random(n) < UNKNOWN_SHARE
        return (
            CalibrationRows(drawn.p_hat, drawn.cost_hat, drawn.success, drawn.cost, unknown),
            Known(fitting.success.mean(axis=0), fitting.cost_hat.mean(axis=0)),
        )


class EqualTiers(World):
    """Nine tiers of the same success rate, independent of each other and of what is predicted.

    Whatever a policy does, its success rate is ``rate``. Each of hundreds of candidates gets its
    own luck, so that whoever looks for a lucky one finds it.
    """

    n_tiers = 9

    def __init__(self, rate: float) -> None:
        self.rate = np.full(self.n_tiers, rate)

    @cached_property
    def router_rates(self) -> FloatArray:
        return np.full(len(SUCCESS_VALUES_USD), self.rate[0])

    def draw(self, n: int, seed: int) -> tuple[CalibrationRows, Known]:
        rng = np.random.default_rng(seed)
        shape = (n, self.n_tiers)
        p, cost = rng.uniform(0.1, 0.9, shape), np.exp(rng.normal(-7, 2, shape))
        success = (rng.random(shape) < self.rate).astype(float)
        fitted = rng.binomial(1000, self.rate) / 1000
        return (
            CalibrationRows(p, cost, success, cost, rng.random(n) < UNKNOWN_SHARE),
            Known(
                fitted, np.sort(np.exp(rng.normal(-7, 2, self.n_tiers)))[fitted.argsort().argsort()]
            ),
        )


class TwoTiers(World):
    """A cheap tier that is ``gap`` below the strongest, and predictions that always prefer it.

    The chain of routers and that of mixes both come to the cheap tier on its own. Without a gap
    the first of each is another tier with outcomes of its own, so that their errors add up. No
    query is out of distribution: all that could lift a policy above a floor that just misses.
    """

    n_tiers = 2
    unknown_share = 0.0

    def __init__(self, strongest: float, gap: float) -> None:
        self.rate = np.array([strongest - gap, strongest])

    @cached_property
    def router_rates(self) -> FloatArray:
        return np.full(len(SUCCESS_VALUES_USD), self.rate[0])

    def draw(self, n: int, seed: int) -> tuple[CalibrationRows, Known]:
        rng = np.random.default_rng(seed)
        success = (rng.random((n, 2)) < self.rate).astype(float)
        p, cost = np.tile([0.9, 0.5], (n, 1)), np.tile([0.001, 0.1], (n, 1))
        # The fitting rows have shown which tier is the strongest.
        known = Known(self.rate - [0.01, 0.0], cost[0])
        return CalibrationRows(p, cost, success, cost, np.zeros(n, dtype=bool)), known


world = lru_cache(World)


# ---------------------------------------------------------------- certificates

Certifier = Callable[[CalibrationRows, Floor, Known, float], Policy | None]


def real(rows: CalibrationRows, floor: Floor, known: Known, confidence: float) -> Policy | None:
    """The policy that is called certified, or None."""
    policy, certificate = certify(
        rows,
        floor,
        tier_success=known.tier_success,
        tier_cost_usd=known.tier_cost_usd,
        names=tuple(f"tier {i}" for i in range(len(known.tier_success))),
        safe_tier=known.strongest,
        strongest=known.strongest,
        confidence=confidence,
    )
    return policy if certificate.certified else None


def _all_candidates(known: Known) -> list[Policy]:
    # Neighbours on the grid of success values do nearly the same: an eighth of them will do.
    strongest = known.strongest
    return [
        *router_chain(strongest, strongest)[::8],
        *mix_chain(known.tier_cost_usd, known.tier_success, strongest, strongest),
    ]


def _cheapest(rows: CalibrationRows, policies: list[Policy]) -> Policy | None:
    return min(policies, key=lambda policy: float(rows.played(policy)[1].mean()), default=None)


def by_point_estimate(
    rows: CalibrationRows, floor: Floor, known: Known, confidence: float
) -> Policy | None:
    """Broken: the cheapest candidate whose observed success rate meets the floor."""
    meeting = []
    for policy in _all_candidates(known):
        x, mean = floor.terms(rows.played(policy)[0], rows.success)
        if x.mean() >= mean:
            meeting.append(policy)
    return _cheapest(rows, meeting)


def without_sequence(
    rows: CalibrationRows, floor: Floor, known: Known, confidence: float
) -> Policy | None:
    """Broken: every candidate is tested at the whole level, and any that passes may be taken."""
    passing = [
        policy
        for policy in _all_candidates(known)
        if floor.passes(
            rows.played(policy)[0], rows.success, 1 - confidence, randomised=policy.kind == "mix"
        )
    ]
    return _cheapest(rows, passing)


def rows_counted_four_times(
    rows: CalibrationRows, floor: Floor, known: Known, confidence: float
) -> Policy | None:
    """Broken: each row counts four times, as if copies of a query were queries."""
    copies = replace(
        rows,
        p_success=np.repeat(rows.p_success, 4, axis=0),
        cost_usd=np.repeat(rows.cost_usd, 4, axis=0),
        success=np.repeat(rows.success, 4, axis=0),
        realised_cost_usd=np.repeat(rows.realised_cost_usd, 4, axis=0),
        out_of_distribution=np.repeat(rows.out_of_distribution, 4),
    )
    return real(copies, floor, known, confidence)


def delta_doubled(
    rows: CalibrationRows, floor: Floor, known: Known, confidence: float
) -> Policy | None:
    """Broken: wrong twice as often as promised."""
    return real(rows, floor, known, 1 - 2 * (1 - confidence))


def chains_do_not_share(
    rows: CalibrationRows, floor: Floor, known: Known, confidence: float
) -> Policy | None:
    """Broken: each chain has the whole error budget."""
    with (
        patch.object(selection, "ROUTER_CHAIN_SHARE", 1.0),
        patch.object(selection, "MIX_CHAIN_SHARE", 1.0),
    ):
        return real(rows, floor, known, confidence)


@dataclass(frozen=True)
class Count:
    """Data sets on which what is certified misses the floor, and on which it is cheaper."""

    wrong: int
    cheaper: int


def count(
    certifier: Certifier,
    where: World,
    floor: Floor,
    n: int,
    confidence: float,
    n_data_sets: int = N_DATA_SETS,
) -> Count:
    """On how many of the data sets something is certified whose true rate is below the floor.

    A floor relative to a tier is one relative to the strongest on the fitting rows; what is
    cheaper is anything but that tier.
    """
    wrong = cheaper = 0
    for seed in range(n_data_sets):
        rows, known = where.draw(n, seed)
        asked, bar = floor, floor.rate
        if floor.relative_to is not None:
            asked = replace(floor, relative_to=known.strongest)
        if bar is None:
            bar = float(where.rate[known.strongest]) + floor.margin
        policy = certifier(rows, asked, known, confidence)
        if policy is not None:
            wrong += where.true_rate(policy) < bar - SAME_RATE
            cheaper += policy.kind != "tier" or policy.low != known.strongest
    return Count(wrong, cheaper)


# ---------------------------------------------------------------- the promise

# The floor of each world that sits at, or just above, what a cheaper candidate truly reaches.
ABSOLUTE = {"plain": 0.85, "tier_at_floor": 0.90, "near_ties": 0.90, "rare_success": 0.02}


@pytest.mark.parametrize("n", [60, 700])
@pytest.mark.parametrize("kind", list(ABSOLUTE))
def test_an_absolute_floor_is_violated_at_most_as_often_as_promised(kind: str, n: int) -> None:
    confidence = 0.9 if n == 60 else 0.95
    found = count(real, world(kind), Floor(rate=ABSOLUTE[kind]), n, confidence)
    check_promise(found.wrong, N_DATA_SETS, 1 - confidence)


@pytest.mark.parametrize(
    ("kind", "margin", "n", "confidence"),
    [
        ("plain", -0.05, 700, 0.9),
        ("plain", -0.15, 60, 0.9),
        ("tier_at_floor", -0.05, 300, 0.95),
        ("near_ties", -0.05, 300, 0.9),
        ("rare_success", -0.01, 700, 0.9),
    ],
)
def test_a_relative_floor_is_violated_at_most_as_often_as_promised(
    kind: str, margin: float, n: int, confidence: float
) -> None:
    found = count(real, world(kind), Floor(margin=margin, relative_to=0), n, confidence)
    check_promise(found.wrong, N_DATA_SETS, 1 - confidence)
    # That the tier itself meets a floor relative to it would prove nothing.
    assert found.cheaper > 0.9 * N_DATA_SETS


@pytest.mark.parametrize("n", [60, 400])
@pytest.mark.parametrize("rate", [0.9, 0.03])
def test_nine_tiers_that_all_just_miss_the_floor(rate: float, n: int) -> None:
    """Whatever is certified is wrong: the whole level may be used up, and no more."""
    found = count(real, EqualTiers(rate), Floor(rate=rate + 1e-9), n, 0.9)
    check_promise(found.wrong, N_DATA_SETS, 0.1)


# At this rate the binomial tests of 60 rows nearly use up the levels that the chains have.
EQUAL = TwoTiers(0.69, 0.0), Floor(rate=0.69 + 1e-9)
MISSED = TwoTiers(0.9, 0.2), Floor(margin=-0.2 + 1e-9, relative_to=0)


@pytest.mark.parametrize(("where", "floor"), [EQUAL, MISSED], ids=["absolute", "relative"])
def test_two_tiers_that_just_miss_the_floor(where: World, floor: Floor) -> None:
    found = count(real, where, floor, 60, 0.9, N_CHEAP_DATA_SETS)
    check_promise(found.wrong, N_CHEAP_DATA_SETS, 0.1)


# ---------------------------------------------------------------- the check can fail


@pytest.mark.parametrize(
    ("certifier", "where", "floor"),
    [
        (by_point_estimate, world("tier_at_floor"), Floor(rate=0.90)),
        (by_point_estimate, *MISSED),
        (without_sequence, EqualTiers(0.9), Floor(rate=0.9 + 1e-9)),
        (rows_counted_four_times, world("tier_at_floor"), Floor(rate=0.90)),
        (rows_counted_four_times, *MISSED),
    ],
    ids=["point-absolute", "point-relative", "no-sequence", "copies-absolute", "copies-relative"],
)
def test_a_broken_certificate_is_found_out(
    certifier: Certifier, where: World, floor: Floor
) -> None:
    found = count(certifier, where, floor, 60, 0.9)
    with pytest.raises(AssertionError, match="wrong on"):
        check_promise(found.wrong, N_DATA_SETS, 0.1)


@pytest.mark.parametrize("certifier", [delta_doubled, chains_do_not_share])
def test_a_level_that_is_overdrawn_is_found_out(certifier: Certifier) -> None:
    """By the binomial tests: betting uses up less than two thirds of the level it is given."""
    found = count(certifier, *EQUAL, 60, 0.9, N_CHEAP_DATA_SETS)
    with pytest.raises(AssertionError, match="wrong on"):
        check_promise(found.wrong, N_CHEAP_DATA_SETS, 0.1)


def test_the_check_is_as_lenient_as_it_says() -> None:
    check_promise(28, 300, 0.05)
    with pytest.raises(AssertionError, match="at most 28"):
        check_promise(29, 300, 0.05)


# ---------------------------------------------------------------- not by never promising anything


@pytest.mark.parametrize(
    "floor", [Floor(rate=0.85), Floor(margin=-0.05, relative_to=0)], ids=["absolute", "relative"]
)
def test_it_mostly_certifies_something_much_cheaper(floor: Floor) -> None:
    where, n_sets, cheaper = world("plain"), 60, 0
    for seed in range(n_sets):
        rows, known = where.draw(700, seed)
        if floor.relative_to is not None:
            floor = replace(floor, relative_to=known.strongest)
        policy = real(rows, floor, known, 0.95)
        if policy is not None:
            cost = rows.played(policy)[1].mean()
            cheaper += cost < 0.7 * rows.realised_cost_usd[:, known.strongest].mean()
    assert cheaper >= 48
