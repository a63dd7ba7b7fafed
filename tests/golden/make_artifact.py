"""Makes tests/golden/artifact-format-<FORMAT> and the decisions beside it; not run by any test.

::

    python -m tests.golden.make_artifact

An artifact of a FORMAT stays as it was first written: the test holds later versions of cps-router
to reading it and deciding as it did then. Run this for a *new* FORMAT only (the folder's name
follows it), and leave the older folders alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from router.artifact import FORMAT
from router.policy import Policy
from router.routing import Router
from tests.artifacts import sample_table, tiny_embedder, train_tiny
from training.fit import FAMILIES
from training.search import Objective

HERE = Path(__file__).resolve().parent

# What a router must survive, beside queries that are like the training ones.
HARD = ("", "🙂 ¿qué? \ud83d", "愛と学校", "word " * 5000)
N_COINS = 40
MEMBERS = ("ridge", "logistic", "knn", "mlp")


def decisions(router: Router, queries: Sequence[str]) -> dict[str, Any]:
    """What is held: the answers of the router that its users rely on."""
    dearer = router.repriced(np.array([10.0, 1.0, 1.0]), np.array([20.0, 2.0, 2.0]))
    held = {
        "queries": list(queries),
        "artifact_id": router.artifact_id,
        "policy": router.policy.to_dict(),
        "routed": [router.route(query).to_dict() for query in queries],
        "plans": [router.plan(query, success_value_usd=1.0) for query in queries],
        "repriced_cost_usd": [dearer.route(query).cost_usd for query in queries],
        "n_calibration": len(router.calibration),
        "query_hashes": [int(value) for value in router.trained_query_hashes[:5]],
    }
    safe, strongest = router.safe_tier, router.policy.strongest
    router.policy = Policy("value", 0.002, safe, strongest)
    held["by_value"] = [router.route(query).tier for query in queries]
    # A replay of a mixed policy needs the same coin for ever.
    router.policy = Policy("mix", 0.1, safe, strongest, 0, 2, 0.5)
    held["coins"] = [router.route(queries[0], request_id=f"r-{i}").tier for i in range(N_COINS)]
    return held


def main() -> None:
    """Train on 130 synthetic requests of two tasks with every kind of estimator."""
    table = sample_table(130)
    lengths = np.array([len(query) for query in table.query])
    task = np.where(lengths > np.median(lengths), "long", "short").astype(object)
    table = replace(table, task=task)
    folder = HERE / f"artifact-format-{FORMAT}"
    with tempfile.TemporaryDirectory() as scratch:
        embedder = tiny_embedder(Path(scratch) / "embedder", list(table.query))
        objective = Objective(rate=0.5)
        FAMILIES["every"] = MEMBERS
        train_tiny(table, folder, embedder, estimator="every", objective=objective)
    (HERE / f"{folder.name}.json").write_text(
        json.dumps(decisions(Router.load(folder), [*table.query[:10], *HARD]), indent=1) + "\n",
        encoding="ascii",
    )


if __name__ == "__main__":
    main()
