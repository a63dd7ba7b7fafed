"""The rivals of the benchmark do what their papers describe, where the right answer is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import folds, rivals
from benchmarks.fold_tables import N_FLOORS, Score, worst_floor
from benchmarks.rivals import Held, Known
from router.policy import choose
from training import metrics
from training.synthetic import synthetic_tiers
from training.table import OutcomeTable

COST = (1.0, 4.0, 16.0)


def three_kinds(n: int, seed: int = 0) -> tuple[Known, npt.NDArray[np.int64]]:
    """Unit vectors in three directions; a query of kind k needs tier k or a dearer one."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    vectors = np.eye(8)[kind] + rng.normal(0.0, 0.05, (n, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    success = (np.arange(3) >= kind[:, None]).astype(float)
    cost = np.outer(1.0 + kind, COST)
    return Known(vectors.astype(np.float32), success, cost), kind


def ratio(found: Held, train: Known, held: Known) -> float:
    return metrics.mean_mix_ratio(
        (found.p_train, found.cost_train, train.success),
        (found.p_held, found.cost_held, held.success, held.cost_usd),
    ).mean


@pytest.mark.parametrize("name", list(rivals.RIVALS))
def test_each_rival_learns_what_its_neighbourhood_shows(name: str) -> None:
    (train, _), (held, kind) = three_kinds(240), three_kinds(120, seed=1)
    fold = np.arange(240) % 4
    found, setting = rivals.route(rivals.RIVALS[name], train, fold, held.vectors)
    assert setting
    assert ratio(found, train, held) < 0.8
    easy, hard = found.p_held[kind == 0, 0], found.p_held[kind == 2, 0]
    assert easy.min() > hard.max()


def test_neighbours_are_the_most_similar_and_their_means_are_taken() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    success = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    known = Known(vectors, success, np.array([[1.0, 10.0], [3.0, 20.0], [5.0, 90.0]]))
    asked = np.array([[1, 0]], np.float32)
    one, two, all_of_them = rivals.nearest_neighbours(known, asked, [1, 2, 640])
    assert (one[0].tolist(), one[1].tolist()) == ([[1.0, 1.0]], [[1.0, 10.0]])
    assert (two[0].tolist(), two[1].tolist()) == ([[0.5, 1.0]], [[2.0, 15.0]])
    assert all_of_them[1].tolist() == [[3.0, 40.0]]


def test_a_cluster_plays_its_own_averages() -> None:
    train, _ = three_kinds(200)
    ((p, cost),) = rivals.clusters(train, np.eye(8, dtype=np.float32)[:3], [1])
    assert p.tolist() == [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    assert cost == pytest.approx(np.outer([1, 2, 3], COST))


def test_fewer_queries_than_clusters_will_do() -> None:
    train, _ = three_kinds(20)
    copies = Known(np.repeat(train.vectors[:1], 20, axis=0), train.success, train.cost_usd)
    ((p, _),) = rivals.clusters(copies, copies.vectors, [4])
    assert p == pytest.approx(np.tile(train.success.mean(axis=0), (20, 1)))


def test_the_win_rate_sends_to_the_strong_tier_only_where_the_cheap_one_loses() -> None:
    (train, _), (held, kind) = three_kinds(240), three_kinds(120, seed=1)
    pair, found, _ = rivals.win_rate_threshold(train, np.arange(240) % 4, held.vectors)
    assert pair == [0, 2]
    assert found.p_held[kind > 0, 1].min() > found.p_held[kind == 0, 1].max()
    spread = rivals.among_all(pair, found, 3)
    for value in (0.5, 1.0, 2.0, 1e6):
        assert 1 not in choose(spread.p_held, spread.cost_held, value)


def test_the_strongest_tier_is_another_one_than_the_cheapest() -> None:
    train, _ = three_kinds(50)
    backwards = Known(train.vectors, train.success[:, ::-1], train.cost_usd)
    assert rivals.cheapest_and_strongest(backwards) == [0, 1]


def test_costs_are_read_from_the_text_and_add_up() -> None:
    train, kind = three_kinds(300)
    found = rivals.logistic_heads(
        train, train.vectors, [(1.0, rivals.MEAN_COST), (1.0, rivals.LOG_COST)]
    )
    for _, cost in found:
        assert cost.sum(axis=0) == pytest.approx(train.cost_usd.sum(axis=0))
    assert np.ptp(found[0][1][:, 0]) == 0.0
    assert found[1][1][kind == 2, 0].min() > found[1][1][kind == 0, 0].max()


def test_a_tier_that_always_succeeds_and_one_that_is_free_are_no_trouble() -> None:
    train, _ = three_kinds(60)
    free = Known(train.vectors, np.ones((60, 3)), train.cost_usd * [0.0, 1.0, 1.0])
    ((p, cost),) = rivals.logistic_heads(free, train.vectors, [(1.0, rivals.LOG_COST)])
    assert p.min() == 1.0
    assert (cost[:, 0] == 0.0).all() and np.isfinite(cost).all()


def test_the_keyword_heuristic_is_one_point_with_thresholds_of_the_training_rows() -> None:
    queries = [f"{word} number {i}" for i in range(30) for word in ("classify", "compare")]
    easy = np.array([query.startswith("classify") for query in queries])
    success = np.column_stack([easy, easy, np.ones(60)]).astype(float)
    rows = OutcomeTable.from_arrays(synthetic_tiers(), queries, success, np.tile(COST, (60, 1)))
    point = rivals.keyword(rows, rows)
    # One term is enough here, of either kind; its own thresholds want two to call a query hard.
    assert point.setting == "high >= 1, low >= 1, under 50 words"
    assert point.train_success == 1.0
    assert point.ratio == pytest.approx((1 + 16) / 2 / 16)


def test_the_ratio_at_a_floor_is_of_the_least_lambda_that_reaches_it() -> None:
    (train, _), (held, _) = three_kinds(240), three_kinds(120, seed=1)

    def table(known: Known) -> OutcomeTable:
        queries = [f"query {i}" for i in range(len(known.success))]
        return OutcomeTable.from_arrays(synthetic_tiers(), queries, known.success, known.cost_usd)

    fold = np.arange(240) % 4
    outer = folds.Outer(table(train), train.vectors, fold, table(held), held.vectors, 0)
    truth = Held(train.success, train.cost_usd, held.success, held.cost_usd)
    blind = Held(
        *(np.full_like(values, 0.5) for values in (train.success, train.cost_usd)),
        *(np.full_like(values, 0.5) for values in (held.success, held.cost_usd)),
    )
    assert folds.ratio_at_floor(truth, outer, 0.9) < 0.7
    assert folds.ratio_at_floor(blind, outer, 0.9) == pytest.approx(1.0)


def test_the_worst_floor_is_where_the_mean_ratio_is_greatest() -> None:
    ratios = np.full(N_FLOORS, 0.5)
    ratios[-1] = 1.25
    scores = [Score(0.6, [], ratios + shift) for shift in (-0.1, 0.1)]
    found = worst_floor(scores, 2)
    assert found == pytest.approx((0.98, 0.25, np.std([-0.1, 0.1], ddof=1) / np.sqrt(2)))
    assert worst_floor([Score(0.6, [], np.full(N_FLOORS, np.nan))], 2) is None
