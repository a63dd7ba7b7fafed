"""Does the gate let a challenger through that it should not, more often than stated?

Hundreds of data sets are drawn where the challenger is known to be exactly at the edge: it succeeds
less often by just the margin (and is much cheaper), or it is exactly as good by cost less the value
of success (and succeeds as often). Promoting it is then wrong, and may happen on one data set in
twenty at 95 % confidence. With full feedback and with logs. A gate whose bounds are too narrow must
be found out by the same check, and a clearly better challenger must mostly pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from training.doubly_robust import PairedTerms, QValues, compare
from training.gate import decide
from training.importance import Logged, weight_limit
from training.intervals import betting_interval
from training.synthetic import NumericWorld, numeric_world

pytestmark = pytest.mark.slow

FloatArray = npt.NDArray[np.float64]
Decision = Callable[[PairedTerms, float], bool]

N_DATA_SETS = 300
CONFIDENCE = 0.95
MARGIN = 0.02
# A level that is kept is found broken by bad luck in one check of a thousand, at worst.
SLACK_QUANTILE = 0.999
EXPLORATION = 0.3


def check_level(wrong: int, n: int, level: float = 1 - CONFIDENCE) -> None:
    """AssertionError where ``wrong`` of ``n`` is more than errors at this level explain."""
    most = int(binom.ppf(SLACK_QUANTILE, n, level))
    assert wrong <= most, f"promoted on {wrong} of {n} data sets; at {level:.3g} at most {most}"


def mix(*shares: float) -> FloatArray:
    return np.array(shares)


@dataclass(frozen=True)
class Case:
    """Two coin-flips between the three tiers, lambda, and the margin."""

    challenger: FloatArray
    champion: FloatArray
    value: float
    margin: float = MARGIN
    kind: str = "plain"

    def truth(self) -> tuple[float, float]:
        """Exact differences in success and in cost less value, in the long run."""
        world = numeric_world(self.kind, 1, 0)
        shift = self.challenger - self.champion
        success = float(shift @ world.true_rate)
        return success, float(shift @ world.true_cost_usd) - self.value * success


def share_at_margin(kind: str, margin: float) -> float:
    """How much of the dearest tier to give up for the middle one, to lose just the margin."""
    world = numeric_world(kind, 1, 0)
    return margin / float(world.true_rate[2] - world.true_rate[1])


def exchange(kind: str, low: int, high: int) -> float:
    """Lambda at which two tiers are worth the same."""
    world = numeric_world(kind, 1, 0)
    dearer = float(world.true_cost_usd[high] - world.true_cost_usd[low])
    return dearer / float(world.true_rate[high] - world.true_rate[low])


A = share_at_margin("plain", MARGIN)
EDGES = {
    # far cheaper, and just the margin worse
    "success at the edge": Case(mix(0, A, 1 - A), mix(0, 0, 1), 0.0),
    "rare success at the edge": Case(
        mix(0, 0.5, 0.5),
        mix(0, 0, 1),
        0.0,
        margin=0.006,
        kind="rare_success",
    ),
    # a clearly higher success rate that is worth exactly what it costs
    "value at the edge": Case(mix(0, 0.2, 0.8), mix(0, 0.8, 0.2), exchange("plain", 1, 2)),
    # as often as not the cheaper, as often as not the better
    "nothing to choose": Case(
        mix(0, 0.5, 0.5), mix(0, 0.5, 0.5), exchange("plain", 1, 2), margin=0.2
    ),
}


def one_hot(tier: npt.NDArray[np.intp]) -> FloatArray:
    result: FloatArray = np.eye(3)[tier]
    return result


def full(case: Case, n: int, seed: int) -> PairedTerms:
    """Each router's coins are tossed: the terms are what would have been paid and reached."""
    world = numeric_world(case.kind, n, 2 * seed)
    before = numeric_world(case.kind, max(n // 2, 50), 2 * seed + 1)
    rng = np.random.default_rng([seed, 3])
    played = [one_hot(rng.choice(3, n, p=p)) for p in (case.challenger, case.champion)]
    shift = played[0] - played[1]
    success, cost = (shift * world.success).sum(axis=1), (shift * world.cost).sum(axis=1)
    apart = [before.cost[:, s] - before.cost[:, t] for s in range(3) for t in range(3)]
    limit = 2.0 * float(np.max(apart)) + case.value
    return PairedTerms(
        cost - case.value * success, success, limit, 1.0, 0.0, 0.0, float(n), case.value
    )


def logged(case: Case, n: int, seed: int) -> PairedTerms:
    """A log of the champion's that explores evenly, now and then."""
    world = numeric_world(case.kind, n, 2 * seed)
    before = numeric_world(case.kind, max(n // 2, 50), 2 * seed + 1)
    rng = np.random.default_rng([seed, 4])
    logs = (1 - EXPLORATION) * case.champion + EXPLORATION / 3

    def log_of(drawn: NumericWorld) -> Logged:
        size = len(drawn.p_hat)
        rows, tier = np.arange(size), rng.choice(3, size, p=logs)
        return Logged(tier, logs[tier], drawn.success[rows, tier], drawn.cost[rows, tier])

    log, other = log_of(world), log_of(before)
    played = [np.tile(p, (n, 1)) for p in (case.challenger, case.champion)]
    return compare(
        played[0],
        played[1],
        log,
        QValues(world.p_hat, world.cost_hat),
        case.value,
        max_weight=weight_limit(other, n_rows=n),
        cost_bound_usd=2.0 * before.cost.max(axis=0),
    )


def real(terms: PairedTerms, margin: float) -> bool:
    guess = (float(terms.success_bound) * 0.2, (0.1 * terms.loss_bound_usd) ** 2)
    return decide(terms, margin=margin, confidence=CONFIDENCE, variances=guess).promoted


def one_standard_error(terms: PairedTerms, margin: float) -> bool:
    """Broken: means give or take one standard error."""
    low, high = (
        float(x.mean() + sign * x.std() / np.sqrt(len(x)))
        for x, sign in ((terms.success, -1), (terms.loss_usd, 1))
    )
    return low >= -margin and high < 0


FEEDBACK = {"full": full, "logged": logged}


def promotions(decision: Decision, kind: str, case: Case, n: int) -> int:
    return sum(decision(FEEDBACK[kind](case, n, seed), case.margin) for seed in range(N_DATA_SETS))


@pytest.mark.parametrize("name", list(EDGES))
def test_the_cases_lie_on_the_edge(name: str) -> None:
    case = EDGES[name]
    success, loss = case.truth()
    assert success == pytest.approx(-case.margin) or loss == pytest.approx(0.0, abs=1e-12)
    for draw in (full, logged):
        terms = draw(case, 200_000, 999)
        for values, truth in ((terms.success, success), (terms.loss_usd, loss)):
            error = float(values.std()) / np.sqrt(len(values))
            assert abs(float(values.mean()) - truth) <= 4.5 * error + 1e-12


@pytest.mark.parametrize("n", [200, 3000])
@pytest.mark.parametrize("name", list(EDGES))
@pytest.mark.parametrize("kind", list(FEEDBACK))
def test_a_worse_challenger_is_promoted_at_most_as_often_as_stated(
    kind: str, name: str, n: int
) -> None:
    check_level(promotions(real, kind, EDGES[name], n), N_DATA_SETS)


@pytest.mark.parametrize("kind", list(FEEDBACK))
def test_bounds_that_are_too_narrow_are_found_out(kind: str) -> None:
    case = EDGES["success at the edge"]
    with pytest.raises(AssertionError, match="promoted on"):
        check_level(promotions(one_standard_error, kind, case, 3000), N_DATA_SETS)


@pytest.mark.parametrize(
    ("kind", "n", "least"),
    [("full", 1500, 0.8), ("logged", 6000, 0.8)],
)
def test_a_clearly_better_challenger_mostly_passes(kind: str, n: int, least: float) -> None:
    """Half of the dearest tier's requests go to the middle one, which loses nothing to speak of."""
    case = Case(mix(0, 0.9, 0.1), mix(0.4, 0, 0.6), exchange("plain", 1, 2) / 4)
    success, loss = case.truth()
    assert success > 0.05 and loss < 0
    assert promotions(real, kind, case, n) >= least * N_DATA_SETS


@pytest.mark.parametrize("rare", [0.0005, 0.002, 0.01])
def test_a_dear_tier_that_is_rarely_called_is_allowed_for(rare: float) -> None:
    """On some requests of a thousand the challenger calls a tier that costs a hundred times more.

    What it saves on the others is exactly what those cost, so that promoting is wrong; and often
    none of them is among the compared rows. The range knows the dear tier all the same.
    """
    n, dear, wrong = 1000, 1.0, 0
    saved = rare * dear / (1 - rare)
    for seed in range(N_DATA_SETS):
        rng = np.random.default_rng(seed)
        called = rng.random(n) < rare
        noise = rng.uniform(0.5, 1.5, n)
        loss = np.where(called, dear * noise, -saved * noise)
        terms = PairedTerms(loss, np.zeros(n), 3.0 * dear, 1.0, 0.0, 0.0, float(n), 0.0)
        wrong += decide(
            terms, margin=0.05, confidence=CONFIDENCE, variances=(0.01, dear**2 * rare)
        ).promoted
    check_level(wrong, N_DATA_SETS)


def test_the_interval_that_the_gate_relies_on_is_one_sided_at_the_whole_level() -> None:
    """Both ends at 1 - 2 alpha leave alpha on the side that is used."""
    missed = 0
    for seed in range(N_DATA_SETS):
        x = (np.random.default_rng(seed).random(500) < 0.3).astype(float)
        missed += betting_interval(x, -1.0, 1.0, 1 - 2 * (1 - CONFIDENCE))[0] > 0.3
    check_level(missed, N_DATA_SETS)
