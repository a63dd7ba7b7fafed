from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from router.policy import cheapest_mix, choose
from training import metrics
from training.baselines import one_hot

FloatArray = npt.NDArray[np.float64]


@st.composite
def worlds(draw: st.DrawFn, max_tiers: int = 5) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(p_success, cost_usd, success), each (n, T); success is 0 or 1."""
    n, t = draw(st.integers(1, 25)), draw(st.integers(1, max_tiers))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = rng.random((n, t)).round(draw(st.sampled_from([1, 8])))
    cost = rng.gamma(1.0, 1.0, (n, t)).round(draw(st.sampled_from([1, 8]))) + 0.1
    return p, cost, (rng.random((n, t)) < p).astype(float)


# --- sums and ratios ---------------------------------------------------------------------------


def test_means_ratios_and_shares() -> None:
    cost, success = np.array([1.0, 9.0, 2.0]), np.array([1.0, 0.0, 1.0])
    assert metrics.success_rate(success) == 2 / 3
    assert metrics.mean_cost(cost) == 4.0
    assert metrics.dollar_ratio(np.array([1.0, 1.0, 4.0]), cost) == 0.5
    assert metrics.dollar_ratio(cost, np.zeros(3)) is None
    assert metrics.saved_share(cost, np.array([2.0, 3.0, 0.0])).tolist() == [0.5, -2.0, -math.inf]


@given(worlds())
def test_auc_is_that_of_scikit_learn(world: tuple[FloatArray, FloatArray, FloatArray]) -> None:
    p, _, success = world
    found = metrics.auc(p[:, 0], success[:, 0])
    if len(np.unique(success[:, 0])) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(success[:, 0], p[:, 0]))


def test_auc_leaves_out_what_is_neither_success_nor_failure() -> None:
    score, success = np.array([0.1, 0.5, 0.9]), np.array([0.0, 0.5, 1.0])
    assert metrics.auc(score, success) == 1.0
    assert math.isnan(metrics.auc(score[:2], success[:2]))
    assert math.isnan(metrics.auc(score[:0], success[:0]))


def test_a_coin_flip_policy_is_valued_without_a_coin() -> None:
    dist = np.array([[0.5, 0.5], [1.0, 0.0]])
    outcome = np.array([[1.0, 3.0], [5.0, 100.0]])
    assert metrics.expected_outcome(dist, outcome).tolist() == [2.0, 5.0]


# --- mix ratio ---------------------------------------------------------------------------------


def test_mix_ratio_by_hand() -> None:
    """Tiers (1, .5), (3, 1): at success .75 the coin-flip costs 2; the router pays 1.5."""
    cost = np.array([[1.0, 3.0]] * 4)
    success = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = metrics.mix_ratio(
        np.array([1.0, 1.0, 1.0, 3.0]), np.array([1.0, 1.0, 0.0, 1.0]), cost, success
    )
    assert found.ratio == 0.75
    assert (found.mix.low, found.mix.high, found.mix.share_high) == (0, 1, 0.5)
    assert not found.above_best


@given(worlds(), st.integers(0, 4))
def test_a_single_tier_on_the_hull_has_ratio_one_and_none_has_less(
    world: tuple[FloatArray, FloatArray, FloatArray], tier: int
) -> None:
    _, cost, success = world
    tier %= cost.shape[1]
    found = metrics.mix_ratio(cost[:, tier].copy(), success[:, tier].copy(), cost, success)
    assert found.ratio >= 1 - 1e-9
    assert not found.above_best
    if found.mix.low == found.mix.high == tier:
        assert found.ratio == 1.0


@given(worlds(max_tiers=1))
def test_with_one_tier_the_ratio_is_one(world: tuple[FloatArray, FloatArray, FloatArray]) -> None:
    _, cost, success = world
    found = metrics.mix_ratio(cost[:, 0], success[:, 0], cost, success)
    assert (found.ratio, found.above_best, found.near_kink) == (1.0, False, False)


@given(worlds(), st.randoms(use_true_random=False), st.sampled_from([0.125, 2.0, 1024.0]))
def test_order_of_rows_and_unit_of_cost_are_of_no_effect(
    world: tuple[FloatArray, FloatArray, FloatArray], random: object, factor: float
) -> None:
    p, cost, success = world
    rows = np.arange(len(p))
    tier = choose(p, cost, 1.0)
    routed = cost[rows, tier], success[rows, tier]
    order = np.array(random.sample(range(len(p)), len(p)))  # type: ignore[attr-defined]
    one = metrics.mix_ratio(*routed, cost, success)
    other = metrics.mix_ratio(
        routed[0][order] * factor, routed[1][order], cost[order] * factor, success[order]
    )
    assert other.ratio == pytest.approx(one.ratio)
    assert other.above_best == one.above_best


@given(worlds())
def test_the_mix_costs_more_the_more_success_is_asked(
    world: tuple[FloatArray, FloatArray, FloatArray],
) -> None:
    _, cost, success = world
    means = metrics.tier_means(cost), metrics.tier_means(success)
    costs = [cheapest_mix(*means, target).cost_usd for target in np.linspace(0, 1, 41)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(costs))


def test_above_the_best_tier_it_is_flagged_and_compared_with_that_tier() -> None:
    cost = np.array([[1.0, 4.0], [1.0, 4.0]])
    success = np.array([[1.0, 0.0], [0.0, 1.0]])
    success_and_one = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = metrics.mix_ratio(np.array([1.0, 4.0]), np.ones(2), cost, success)
    assert found.above_best
    assert found.ratio == 2.5  # the cheaper of two equally good tiers is the better one
    found = metrics.mix_ratio(
        np.array([1.0, 4.0, 4.0]), np.ones(3), np.array([[1.0, 4.0]] * 3), success_and_one
    )
    assert (found.above_best, found.ratio) == (True, 0.75)


def test_near_a_corner_of_the_hull_it_is_flagged() -> None:
    rng = np.random.default_rng(0)
    success = (rng.random((4000, 3)) < [0.2, 0.6, 0.9]).astype(float)
    cost = np.broadcast_to([1.0, 2.0, 10.0], success.shape).copy()
    like_middle = (rng.random(4000) < 0.6).astype(float)
    between = (rng.random(4000) < 0.75).astype(float)
    assert metrics.mix_ratio(np.full(4000, 2.0), like_middle, cost, success).near_kink
    assert not metrics.mix_ratio(np.full(4000, 5.0), between, cost, success).near_kink
    # With few requests nobody can tell how far away the corner is.
    assert metrics.mix_ratio(np.full(9, 5.0), between[:9], cost[:9], success[:9]).near_kink


def test_free_mixes_divide_nothing_by_zero() -> None:
    success = np.array([[1.0, 1.0]])
    free, paid = np.zeros((1, 2)), np.array([[0.0, 1.0]])
    assert metrics.mix_ratio(free[:, 0], success[:, 0], free, success).ratio == 1.0
    assert metrics.mix_ratio(paid[:, 1], success[:, 1], paid, success).ratio == math.inf


# --- mean mix ratio ----------------------------------------------------------------------------


@given(worlds(), st.floats(0, 1))
def test_lambda_for_a_floor_is_the_smallest_that_realises_it(
    world: tuple[FloatArray, FloatArray, FloatArray], floor: float
) -> None:
    """Against brute force over every lambda at which some request could change its tier."""
    p, cost, success = world
    rows = np.arange(len(p))

    def realised(value: float) -> float:
        return float(success[rows, choose(p, cost, value)].mean())

    found = float(metrics.success_values_for_floors(p, cost, success, np.array([floor]))[0])
    gain = p[:, :, None] - p[:, None, :]
    extra = cost[:, :, None] - cost[:, None, :]
    worth = (gain > 1e-9) & (extra > 0)
    points = np.unique(extra[worth] / gain[worth])
    middles = (points[:-1] + points[1:]) / 2
    trial = [0.0, *middles.tolist(), *(points[-1:] * 2).tolist()]
    # Between 0 and the first point tiers of equal cost change places.
    trial.insert(1, min(1e-6, float(points[0]) / 2) if points.size else 1e-6)
    reaching = [value for value in trial if realised(value) >= floor - 1e-12]
    if not reaching:
        assert realised(found) == realised(trial[-1])
        assert realised(found * 1e3) == realised(found)
        return
    assert realised(found) >= floor - 1e-12
    assert found <= min(reaching) * (1 + 1e-6)
    below = [value for value in trial if value < found * (1 - 1e-6)]
    assert all(realised(value) < floor - 1e-12 for value in below)


def test_equal_prices_still_let_the_better_tier_win() -> None:
    p, cost = np.array([[0.2, 0.8]]), np.array([[1.0, 1.0]])
    value = metrics.success_values_for_floors(p, cost, np.array([[0.0, 1.0]]), np.array([0.5]))
    assert choose(p, cost, float(value[0])).tolist() == [1]


def test_mean_mix_ratio_by_hand() -> None:
    """Half of the requests are easy, known exactly: cost 1 + f against the coin-flip's 1 + 9f.

    Tiers cost 1 and 10 and succeed at .5 and 1. At the floor .5 + .5 f the first lambda that
    reaches it moves all hard requests together: success 1 at a cost of 5.5, against 10.
    """
    p = np.array([[1.0, 1.0], [0.0, 1.0]] * 10)
    cost = np.array([[1.0, 10.0]] * 20)
    found = metrics.mean_mix_ratio((p, cost, p), (p, cost, p, cost))
    assert found.ratios == pytest.approx(np.full(20, 0.55))
    assert found.mean == pytest.approx(0.55)
    assert found.floors[[0, -1]] == pytest.approx([0.55, 0.99])
    assert np.diff(found.floors) == pytest.approx(np.full(19, 0.88 / 19 / 2))


def test_mean_mix_ratio_chooses_lambda_on_training_rows_alone() -> None:
    p = np.array([[1.0, 1.0], [0.0, 1.0]] * 10)
    cost = np.array([[1.0, 10.0]] * 20)
    train = (p, cost, p)
    wrong = 1.0 - p  # test rows that behave otherwise: the tiers' rates there are .5 and 0
    found = metrics.mean_mix_ratio(train, (p, cost, wrong, cost))
    assert found.success_values_usd.tolist() == (
        metrics.mean_mix_ratio(train, (p, cost, p, cost)).success_values_usd.tolist()
    )
    # The dear tier fails where the cheap one would have succeeded: dearer than "always cheapest".
    assert found.mean == pytest.approx(5.5)


def test_mean_mix_ratio_takes_lambda_from_expected_success_not_from_single_labels() -> None:
    """Which request of a tier succeeded is noise; how many of them did is not."""
    rng = np.random.default_rng(3)
    p = np.column_stack([rng.uniform(0.1, 0.9, 300), rng.uniform(0.6, 1.0, 300)])
    cost = np.broadcast_to([1.0, 10.0], p.shape) * rng.uniform(0.8, 1.2, p.shape)
    success = (rng.random(p.shape) < p).astype(float)
    shuffled = np.column_stack([rng.permutation(column) for column in success.T])
    test = (p, cost, success, cost)
    found = metrics.mean_mix_ratio((p, cost, success), test)
    again = metrics.mean_mix_ratio((p, cost, shuffled), test)
    np.testing.assert_allclose(again.success_values_usd, found.success_values_usd, rtol=1e-9)
    assert again.ratios == pytest.approx(found.ratios)
    # The lambdas are those at which the expected success, so recentred, reaches the floor.
    expected = metrics.recentred(p, success)
    rows = np.arange(300)
    for floor, value in zip(found.floors, found.success_values_usd, strict=True):
        assert expected[rows, choose(p, cost, value)].mean() >= floor - 1e-9
        if value > 0:
            assert expected[rows, choose(p, cost, value * (1 - 1e-6))].mean() < floor
    assert len(set(found.success_values_usd)) > 15


def test_mean_mix_ratio_of_badly_calibrated_predictions_still_aims_at_the_floor() -> None:
    """Predictions that are too low for every tier are recentred on what was realised."""
    rng = np.random.default_rng(4)
    easy = rng.random(2000) < 0.5
    p = np.column_stack([np.where(easy, 0.9, 0.3), np.full(2000, 0.95)])
    cost = np.broadcast_to([1.0, 10.0], p.shape).copy()
    success = (rng.random(p.shape) < p).astype(float)
    test = (p, cost, success, cost)
    true = metrics.mean_mix_ratio((p, cost, success), test)
    low = metrics.mean_mix_ratio((p - 0.3, cost, success), (p - 0.3, cost, success, cost))
    assert low.floors == pytest.approx(true.floors)
    assert low.mean == pytest.approx(true.mean)


@given(worlds())
def test_recentred_probabilities_have_the_realised_means(
    world: tuple[FloatArray, FloatArray, FloatArray],
) -> None:
    p, _, success = world
    moved = metrics.recentred(p, success)
    assert moved.mean(axis=0) == pytest.approx(success.mean(axis=0))
    np.testing.assert_allclose(moved - moved.mean(axis=0), p - p.mean(axis=0), atol=1e-12)
    assert metrics.recentred(moved, success) == pytest.approx(moved)


def test_mean_mix_ratio_of_useless_predictions_is_above_one() -> None:
    rng = np.random.default_rng(1)
    cost = np.broadcast_to([1.0, 10.0], (400, 2)).copy()
    success = (rng.random((400, 2)) < [0.4, 0.9]).astype(float)
    p = np.column_stack([rng.random(400) * 0.2, np.full(400, 0.9)])
    found = metrics.mean_mix_ratio((p, cost, success), (p, cost, success, cost))
    assert 0.9 < found.mean < 1.1


def test_mean_mix_ratio_where_no_lambda_reaches_the_floor() -> None:
    """Predictions that prefer the weaker tier: the largest lambda is taken."""
    p = np.array([[0.9, 0.1]] * 4)
    cost = np.array([[1.0, 10.0]] * 4)
    success = np.array([[0.0, 1.0]] * 4)
    found = metrics.mean_mix_ratio((p, cost, success), (p, cost, success, cost))
    assert found.ratios.tolist() == [1.0] * 20


@given(worlds(max_tiers=1))
def test_mean_mix_ratio_of_one_tier_is_one(
    world: tuple[FloatArray, FloatArray, FloatArray],
) -> None:
    p, cost, success = world
    assert metrics.mean_mix_ratio((p, cost, success), (p, cost, success, cost)).mean == 1.0


# --- curves ------------------------------------------------------------------------------------


def test_frontier_ends_at_the_cheapest_tier_and_follows_decisions() -> None:
    rng = np.random.default_rng(2)
    p = rng.random((200, 3))
    cost = np.broadcast_to([1.0, 3.0, 9.0], p.shape) * rng.uniform(0.9, 1.1, p.shape)
    success = (rng.random(p.shape) < p).astype(float)
    curve = metrics.frontier(p, cost, success, cost, n_values=20)
    assert curve.success_values_usd[-1] == 0.0
    assert curve.cost_usd[-1] == pytest.approx(cost[:, 0].mean())
    assert (np.diff(curve.success_values_usd) < 0).all()
    assert (np.diff(curve.cost_usd) <= 1e-12).all()  # expected cost is the realised one here
    rows, value = np.arange(200), float(curve.success_values_usd[7])
    assert curve.success_rate[7] == success[rows, choose(p, cost, value)].mean()


@pytest.mark.parametrize(
    ("cost", "success", "cost_range", "expected"),
    [
        ([0.0, 1.0], [0.0, 1.0], None, 0.5),
        ([1.0, 3.0], [0.4, 0.8], None, 0.6),
        # a point below the hull changes nothing, one above it does
        ([1.0, 2.0, 3.0], [0.4, 0.5, 0.8], None, 0.6),
        ([1.0, 2.0, 3.0], [0.4, 0.8, 0.8], None, 0.7),
        # dearer and worse: the hull stays level
        ([1.0, 3.0], [0.8, 0.4], None, 0.8),
        # wider range: 0 before the first point, level after the last
        ([1.0, 3.0], [0.4, 0.8], (0.0, 4.0), (2 * 0.6 + 0.8) / 4),
        # narrower range
        ([1.0, 3.0], [0.4, 0.8], (2.0, 3.0), 0.7),
        ([2.0, 3.0], [0.4, 0.8], (0.0, 1.0), 0.0),
        # an empty range has a height
        ([2.0, 2.0], [0.4, 0.8], None, 0.8),
        ([2.0], [0.4], (1.0, 1.0), 0.0),
    ],
)
def test_aiq(
    cost: list[float],
    success: list[float],
    cost_range: tuple[float, float] | None,
    expected: float,
) -> None:
    found = metrics.aiq(np.array(cost), np.array(success), cost_range)
    assert found == pytest.approx(expected)


def test_apgr_of_perfect_blind_and_inverted_scores() -> None:
    """A third of the requests need the strong tier: PGR rises to 1 over the first third."""
    weak, strong = np.array([0.0, 1.0, 1.0] * 10), np.ones(30)
    assert metrics.apgr(strong - weak, weak, strong) == pytest.approx(1 - 1 / 6)
    assert metrics.apgr(np.zeros(30), weak, strong) == pytest.approx(0.5)
    assert metrics.apgr(weak - strong, weak, strong) == pytest.approx(1 / 6)
    order = np.random.default_rng(0).permutation(30)
    score = np.tile([0.5, 0.5, 0.1], 10)
    assert metrics.apgr(score, weak, strong) == metrics.apgr(
        score[order], weak[order], strong[order]
    )


def test_apgr_needs_a_gap() -> None:
    assert metrics.apgr(np.arange(2.0), np.array([1.0, 0.0]), np.array([0.0, 1.0])) is None


# --- calibration -------------------------------------------------------------------------------


def test_calibration_error_of_a_constant() -> None:
    p, success = np.full(100, 0.7), np.array([1.0, 0.0, 0.0, 0.0, 0.0] * 20)
    assert metrics.calibration_error(p, success) == pytest.approx(0.5)
    assert metrics.calibration_error(np.full(100, 0.2), success) == pytest.approx(0.0)


def test_calibration_error_weighs_bins_of_equal_mass() -> None:
    """Ten predictions near 0 that are right, ten near 1 that are wrong by .5."""
    p = np.array([0.0] * 10 + [1.0] * 10)
    success = np.array([0.0] * 10 + [1.0, 0.0] * 5)
    assert metrics.calibration_error(p, success, n_bins=2) == pytest.approx(0.25)
    assert metrics.calibration_bins(p, success, n_bins=2).n.tolist() == [10, 10]


def test_opposite_errors_in_different_bins_do_not_cancel() -> None:
    p, success = np.array([0.4, 0.4, 0.6, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    assert metrics.calibration_error(p, success, n_bins=2) == pytest.approx(0.1)
    assert metrics.calibration_error(p, success, n_bins=1) == pytest.approx(0.0)


@given(worlds(), st.integers(1, 40))
def test_calibration_error_does_not_depend_on_order(
    world: tuple[FloatArray, FloatArray, FloatArray], n_bins: int
) -> None:
    p, _, success = world
    one = metrics.calibration_error(p[:, 0], success[:, 0], n_bins)
    assert metrics.calibration_error(p[::-1, 0], success[::-1, 0], n_bins) == pytest.approx(one)
    assert 0.0 <= one <= 1.0 + 1e-12


# --- bootstrap ---------------------------------------------------------------------------------


def test_resamples_are_multinomial_over_rows_of_several_blocks() -> None:
    """Two rows in two blocks: row 1 is drawn 0, 1 or 2 times with probability 1/4, 1/2, 1/4."""
    drawn = metrics.bootstrap_means(np.array([[0.0], [1.0]]), 2**20, seed=0)[:, 0]
    shares = [float((drawn == value).mean()) for value in (0.0, 0.5, 1.0)]
    assert sum(shares) == 1.0
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.003)


def test_resamples_have_the_spread_of_a_mean() -> None:
    values = np.random.default_rng(3).gamma(1.0, 1.0, (3000, 1))  # three blocks of rows
    drawn = metrics.bootstrap_means(values, 1000, seed=1)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.003)
    assert drawn.std() == pytest.approx(values.std() / math.sqrt(3000), rel=0.1)


def test_columns_are_resampled_together() -> None:
    column = np.random.default_rng(4).random(2500)
    drawn = metrics.bootstrap_means(np.column_stack([column, column + 1.0]), 500, seed=2)
    assert drawn[:, 1] - drawn[:, 0] == pytest.approx(np.ones(500))
    assert drawn[:, 0].std() > 0


def test_resamples_repeat_with_their_seed_and_report_progress() -> None:
    values, seen = np.random.default_rng(5).random((2500, 2)), list[int]()
    one = metrics.bootstrap_means(values, 1000, 7, seen.append)
    assert (one == metrics.bootstrap_means(values, 1000, 7)).all()
    assert not (one == metrics.bootstrap_means(values, 1000, 8)).all()
    assert seen == sorted(seen)
    assert seen[-1] == 2500
    assert len(seen) > 1


def test_intervals_are_order_statistics_and_survive_infinity() -> None:
    values = np.arange(1.0, 1001.0)
    assert metrics.percentile_interval(values[::-1], 0.95) == (25.0, 976.0)
    assert metrics.percentile_interval(np.array([math.inf] * 4), 0.95) == (math.inf, math.inf)
    assert metrics.percentile_interval(np.append(values, math.inf), 0.999) == (1.0, math.inf)
    assert metrics.percentile_interval(np.array([5.0]), 0.95) == (5.0, 5.0)
    assert metrics.percentile_interval(np.empty(0), 0.95) is None


def test_interval_of_a_mean_covers_at_its_level() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for run in range(300):
        values = rng.gamma(2.0, 0.5, (150, 1))
        low, high = metrics.percentile_interval(
            metrics.bootstrap_means(values, 400, run)[:, 0], 0.9
        ) or (0.0, 0.0)
        covered += low <= 1.0 <= high
    # Binomial(300, .88) lies in this range with probability .999; .88: skewed data, 150 rows.
    assert 245 <= covered <= 287


def test_one_hot_policies_have_exactly_their_tier_s_means() -> None:
    """Else a router that always uses one tier would differ from it in the last digit."""
    rng = np.random.default_rng(7)
    cost = rng.gamma(1.0, 0.01, (1237, 3))
    for tier in range(3):
        played = metrics.expected_outcome(one_hot(np.full(1237, tier), 3), cost)
        assert (played == cost[:, tier]).all()
        assert metrics.mean_cost(played) == metrics.tier_means(cost)[tier]
