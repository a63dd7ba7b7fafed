"""Routers told the task's name, which play its averages; how well scores rank successes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.metrics import auc

FloatArray = npt.NDArray[np.float64]

MEAN_COST = "told the task: its mean success, its mean cost"
COST_FROM_TEXT = "told the task: its mean success, cost from text"


def task_means(
    train_task: Sequence[object], outcome: FloatArray, task: Sequence[object]
) -> FloatArray:
    """Each task's mean outcome (m, T) on training rows, for every row of ``task``: (n, T).

    A task that was never seen gets the mean of all.

    >>> task_means(["a", "a", "b"], np.array([[0.0], [1.0], [1.0]]), ["b", "a"]).tolist()
    [[1.0], [0.5]]
    """
    rows_of: dict[object, list[int]] = {}
    for row, name in enumerate(train_task):
        rows_of.setdefault(name, []).append(row)
    overall = outcome.mean(axis=0)
    means = {name: outcome[rows].mean(axis=0) for name, rows in rows_of.items()}
    return np.array([means.get(name, overall) for name in task]).reshape(-1, outcome.shape[1])


def auc_per_tier(p_success: FloatArray, success: FloatArray) -> list[float]:
    """Area under the ROC curve of every tier (T,); NaN where a tier always or never succeeds."""
    return [auc(p, s) for p, s in zip(p_success.T, success.T, strict=True)]
