"""Which of the log's tasks is this? Read off the query: one more thing for estimators to see.

A log that names tasks says for nothing which queries are of a kind. Their names are never asked for
when a query is routed: P(task | query) is fitted here, and what a task's queries have in common
then costs few rows to learn. The posterior of a fitting row is the one of the folds without it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from router.inputs import TaskPosterior
from training.design import Design
from training.inputs import Inputs
from training.ridge import fit_ridge

FloatArray = npt.NDArray[np.float64]

RIDGE_PENALTIES = (1.0, 3.0, 10.0, 30.0)
# A task of fewer fitting queries than this has no posterior of its own, nor have any beyond the
# most frequent ones: every one of them is a column more for every query that is routed.
MIN_QUERIES = 20
MAX_TASKS = 64


def fit_tasks(
    task: npt.NDArray[np.object_], data: Inputs, design: Design
) -> tuple[TaskPosterior, FloatArray] | None:
    """The posterior over the tasks of n rows, and its cross-fitted values (n, K).

    ``task`` (n,) may hold None. None where fewer than two tasks are frequent enough.

    Ridge regression on a task's indicator estimates P(task | x) where that is linear (J. Friedman,
    T. Hastie and R. Tibshirani, The Elements of Statistical Learning, 4.2); the softmax of it is
    sharpened, since most queries are of one kind.
    """
    counts = Counter(name for name in task if name is not None)
    frequent = [name for name, count in counts.most_common(MAX_TASKS) if count >= MIN_QUERIES]
    if len(frequent) < 2:
        return None
    frequent.sort()  # equal counts come in the order of the rows
    indicator = np.column_stack([task == name for name in frequent]).astype(np.float64)
    known = np.repeat(indicator.sum(axis=1, keepdims=True) > 0, len(frequent), axis=1)
    ridge = fit_ridge(design.matrix, data.fold, indicator, known, RIDGE_PENALTIES)
    posterior = TaskPosterior(*design.unfold(ridge.weight, ridge.bias))
    return posterior, posterior.from_eta(ridge.held_out)
