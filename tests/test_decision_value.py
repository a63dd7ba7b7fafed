"""Nothing gets worse silently: what the default family's decisions are worth on real outcomes.

A reduced version of the nested folds of ``make bench``: two folds, one seed, at most 3,000 rows,
the default family and k-NN routing. Limits are what was measured when they were set, and slack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks import folds, rivals
from benchmarks.fold_tables import Score
from benchmarks.folds import DEFAULT_FAMILY, Outer
from benchmarks.rivals import Held
from router.embedding import load_embedder
from router.errors import DatasetError
from router.tiers import TierSet
from training.datasets import fetch
from training.features import embed_queries
from training.table import OutcomeTable, read_outcomes

MAX_ROWS = 3_000
N_FOLDS = 2
SLACK = 0.04
AUC_SLACK = 0.015


@dataclass(frozen=True)
class Measured:
    """When last measured, the default family's mean mix ratio, that minus k-NN routing's, and AUC.

    Mean AUC over the tiers: where costs that are read from the query save most, the ratio hardly
    shows whether P(success) ranks at all.
    """

    ratio: float
    from_knn: float
    auc: float


MEASURED = {
    "paretobandit": Measured(0.592, -0.077, 0.704),
    "mmlu_pro": Measured(0.913, -0.011, 0.624),
    "zeroeval": Measured(0.864, 0.010, 0.820),
}


def outcomes(name: str, folder: Path) -> OutcomeTable:
    try:
        found = fetch(name, folder)
    except DatasetError as error:
        pytest.skip(f"{name} cannot be had: {error}")
    table = read_outcomes(found.outcomes, TierSet.from_toml(found.tiers))
    complete = np.flatnonzero(table.complete)
    n = min(MAX_ROWS, len(complete))
    return table.take(np.sort(np.random.default_rng(0).choice(complete, n, replace=False)))


def outer_folds(table: OutcomeTable) -> Iterator[Outer]:
    vectors = embed_queries(load_embedder("static"), list(table.query))
    return folds.outer_folds(table, vectors, N_FOLDS, (0,))


def for_other_queries(found: Held, *, costs: bool) -> Held:
    """The same probabilities, and costs if asked, each for another query than it was made for."""
    rng = np.random.default_rng(0)
    train, held = rng.permutation(len(found.p_train)), rng.permutation(len(found.p_held))
    worse = replace(found, p_train=found.p_train[train], p_held=found.p_held[held])
    if costs:
        worse = replace(worse, cost_train=found.cost_train[train], cost_held=found.cost_held[held])
    return worse


def complaints(name: str, ours: list[Score], knn: list[Score]) -> set[str]:
    """What is worse than it was, by more than the slack."""
    measured = MEASURED[name]
    ratio, knn_ratio = (np.mean([score.mean_mix_ratio for score in each]) for each in (ours, knn))
    found = {
        "ratio": ratio - measured.ratio > SLACK,
        "from k-NN": ratio - knn_ratio - measured.from_knn > SLACK,
        "AUC": measured.auc - np.mean([score.auc for score in ours]) > AUC_SLACK,
    }
    return {what for what, is_worse in found.items() if is_worse}


def shown(scores: list[Score]) -> str:
    ratio = np.mean([score.mean_mix_ratio for score in scores])
    return f"mean mix ratio {ratio:.3f}, AUC {np.mean([score.auc for score in scores]):.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("paretobandit", marks=pytest.mark.network), "mmlu_pro", "zeroeval"]
)
def test_decisions_are_worth_what_they_were(name: str, tmp_path: Path) -> None:
    scores: dict[str, list[Score]] = {}
    with threadpool_limits(limits=1):
        for outer in outer_folds(outcomes(name, tmp_path)):
            found = folds.our_predictions(outer, [DEFAULT_FAMILY], ablate=False)[DEFAULT_FAMILY]
            near, _ = rivals.route(
                rivals.RIVALS[rivals.KNN], outer.known, outer.fold, outer.held_vectors
            )
            routers = {
                "ours": found,
                "k-NN routing": near,
                "shuffled": for_other_queries(found, costs=True),
                "shuffled P(success)": for_other_queries(found, costs=False),
            }
            for router, held in routers.items():
                scores.setdefault(router, []).append(folds.score(held, outer))
    for router, each in scores.items():
        print(f"{name}, {router}: {shown(each)}")  # shown where an assertion fails
    knn = scores["k-NN routing"]
    assert not complaints(name, scores["ours"], knn)
    # The check is worth something: it fails for a router that is worse.
    assert complaints(name, scores["shuffled"], knn) == {"ratio", "from k-NN", "AUC"}
    assert "AUC" in complaints(name, scores["shuffled P(success)"], knn)
