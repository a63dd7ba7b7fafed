"""What a router has to beat, each as an action distribution: (n, T), rows sum to 1.

``n`` requests, ``T`` tiers; ``success`` (0..1) and ``cost_usd`` are (n, T) with every entry known.
All but the oracle could be served; the oracle knows the outcomes and shows what is left to gain.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from router.keyword import KeywordRouter
from router.policy import Mix, choose

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def one_hot(tier: IntArray, n_tiers: int) -> FloatArray:
    """The distribution of a policy that never flips a coin; ``tier`` is (n,).

    >>> one_hot(np.array([1, 0]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    dist = np.zeros((len(tier), n_tiers))
    dist[np.arange(len(tier)), tier] = 1.0
    return dist


def always_tier(n_requests: int, n_tiers: int, tier: int) -> FloatArray:
    """Every request to one tier.

    >>> always_tier(2, 3, 1).tolist()
    [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    return one_hot(np.full(n_requests, tier), n_tiers)


def random_mix(n_requests: int, n_tiers: int, mix: Mix) -> FloatArray:
    """The coin-flip ``mix`` between two tiers, the same for every request.

    With ``router.policy.cheapest_mix`` at a router's success rate this is the baseline that
    routing must beat.

    >>> random_mix(1, 3, Mix(0, 2, 0.25, cost_usd=1.0, reached=True)).tolist()
    [[0.75, 0.0, 0.25]]
    """
    dist = np.zeros((n_requests, n_tiers))
    dist[:, mix.low] += 1.0 - mix.share_high
    dist[:, mix.high] += mix.share_high
    return dist


def keyword(queries: Sequence[str], names: Sequence[str], router: KeywordRouter) -> FloatArray:
    """The keyword heuristic; ``names`` are the tiers in the order of the columns.

    >>> names = ["frontier", "mid", "nano"]
    >>> keyword(["Translate: hola"], names, KeywordRouter()).tolist()
    [[0.0, 0.0, 1.0]]
    """
    index = {name: i for i, name in enumerate(names)}
    tier = np.fromiter((index[router.tier_of(q)] for q in queries), np.intp, len(queries))
    return one_hot(tier, len(names))


def per_task(
    train_task: Sequence[Hashable],
    train_success: FloatArray,
    train_cost_usd: FloatArray,
    success_value_usd: float,
    task: Sequence[Hashable],
) -> FloatArray:
    """The best single tier of each task, learned from training rows: a router told the task's name.

    For a task the tier of least mean(cost - lambda * success) on its training rows, lambda being
    ``success_value_usd``; a task that was never seen gets the tier that is best on all rows.
    ``train_*`` have m rows, ``task`` has n.

    >>> success, cost = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 2.0]] * 2)
    >>> per_task(["maths", "chat"], success, cost, 3.0, ["chat", "maths", "?"]).argmax(1).tolist()
    [0, 1, 1]
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, name in enumerate(train_task):
        rows_of.setdefault(name, []).append(row)

    def best(rows: list[int] | slice) -> int:
        success, cost = train_success[rows].mean(axis=0), train_cost_usd[rows].mean(axis=0)
        return int(choose(success[None], cost[None], success_value_usd)[0])

    overall = best(slice(None))
    tier_of = {name: best(rows) for name, rows in rows_of.items()}
    tier = np.fromiter((tier_of.get(name, overall) for name in task), np.intp, len(task))
    return one_hot(tier, train_success.shape[1])


def oracle(success: FloatArray, cost_usd: FloatArray) -> FloatArray:
    """In hindsight the cheapest tier that succeeds; where none does, the cheapest tier.

    Of fractional successes the greatest counts as succeeding. No policy has more success.

    >>> success, cost = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 9.0]] * 3)
    >>> oracle(success, cost).argmax(axis=1).tolist()
    [0, 1, 0]
    """
    succeeds = success == success.max(axis=1, keepdims=True)
    tier: IntArray = np.where(succeeds, cost_usd, np.inf).argmin(axis=1)
    return one_hot(tier, success.shape[1])
