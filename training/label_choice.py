"""Which queries to label for the least money: where knowing more would change most decisions.

A query's success on tier t is believed to be p~_t, normal with mean p_t (the prediction) and the
variance of a Beta distribution of strength s: p_t (1 - p_t) / (s + 1), as if s queries like it had
been seen. With c_t what an answer costs and lambda what a success is worth, deciding now costs
min_t (c_t - lambda p_t); who knew p~ would pay E[min_t (c_t - lambda p~_t)]. The difference is the
expected value of perfect information: what not knowing costs on this query.

A label tells something of every query like it: it raises s there by a kernel of the cosine
similarity, and so lowers what not knowing costs. Queries are taken one by one, each time the one
that lowers the sum over the traffic most per dollar of labelling. That is uncertainty between
tiers, traffic of the like, and distance from what is labelled already, in one number.

What is chosen by predictions is no sample of the traffic. A share of every selection is therefore
drawn at random (``random_order``), by a rule that looks at nothing but the text and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
HashArray = npt.NDArray[np.uint64]

# Of the settings that were compared on training rows of public sets none stood out
# (docs/labelling.md).
STRENGTH = 4.0
KERNEL_POWER = 4.0
# More queries than these would need a matrix of gigabytes; a random part of them is looked at.
MAX_CANDIDATES = 20_000
MAX_TRAFFIC = 2_000
# Strengths at which the value of information is computed; between them it is interpolated.
_STRENGTHS = STRENGTH + np.concatenate(([0.0], np.geomspace(0.5, 512.0, 15)))
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_REACH = 8.0


def information_value(
    p_success: FloatArray, cost_usd: FloatArray, value_usd: float, strength: float
) -> FloatArray:
    """Expected value of perfect information (n,) in USD; ``p_success`` and ``cost_usd`` (n, T).

    min_t (c_t - lambda p_t) - E[min_t (c_t - lambda p~_t)], p~_t independent and normal. With
    U_t = lambda p~_t - c_t and m their greatest mean it is

        int_m^inf (1 - prod_t F_t(u)) du - int_-inf^m prod_t F_t(u) du,

    by Gauss-Legendre quadrature. Never below 0.

    >>> p, c = np.array([[0.5, 0.5]]), np.array([[0.01, 0.01]])
    >>> sd = np.sqrt(2 * 0.25 / 5)  # of the difference; Clark (1961): sd / sqrt(2 pi)
    >>> bool(np.isclose(information_value(p, c, 1.0, 4.0), sd / np.sqrt(2 * np.pi)))
    True
    """
    p = np.clip(p_success, 1e-6, 1.0 - 1e-6)
    mean = value_usd * p - cost_usd
    spread = value_usd * np.sqrt(p * (1.0 - p) / (strength + 1.0))
    best = mean.max(axis=1, keepdims=True)
    reach = _REACH * spread.max(axis=1, keepdims=True)
    if value_usd <= 0 or not len(p):
        return np.zeros(len(p))
    # From 0 to reach, on either side of the best mean.
    distance = reach * (_NODES + 1.0) / 2.0
    above, below = np.ones_like(distance), np.ones_like(distance)
    for tier in range(p.shape[1]):
        centre, width = mean[:, tier, None], spread[:, tier, None]
        above *= ndtr((best + distance - centre) / width)
        below *= ndtr((best - distance - centre) / width)
    values: FloatArray = ((1.0 - above - below) @ _WEIGHTS) * reach[:, 0] / 2.0
    return np.maximum(values, 0.0)


@dataclass(frozen=True, eq=False)
class Believed:
    """What is believed of n queries before any is labelled.

    ``vectors`` (n, d) are unit rows (zero rows are like nothing), ``p_success`` and ``cost_usd``
    (n, T) what the policy reckons with at ``value_usd``, and ``label_usd`` (n,) what labelling a
    query on all tiers is expected to cost. Every query counts once for each time it came:
    ``n_times`` (n,).
    """

    vectors: Float32Array
    p_success: FloatArray
    cost_usd: FloatArray
    value_usd: float
    label_usd: FloatArray
    n_times: FloatArray

    def __len__(self) -> int:
        return len(self.vectors)


def random_order(hashes: HashArray, seed: int) -> IntArray:
    """An order of texts that depends on nothing but each one's hash and the seed, (n,).

    The first m of it are a simple random sample of the texts, whatever is predicted for them.
    """
    keys = [
        hashlib.blake2b(f"label-{seed}-{value}".encode(), digest_size=8).digest()
        for value in hashes.tolist()
    ]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def choose_by_value(
    believed: Believed,
    *,
    taken: IntArray,
    closed: IntArray | None = None,
    labelled: Float32Array | None = None,
    max_usd: float = np.inf,
    max_queries: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], object] | None = None,
) -> IntArray:
    """Queries to label, the most valuable per dollar first, (k,).

    Args:
        believed: Of all queries.
        taken: Queries (by index) that are labelled or will be: never chosen, and what is known of
            their like counts.
        closed: Queries that may not be chosen, and of which nothing will be known.
        labelled: Unit vectors (m, d) of other labelled queries, whose like is known too.
        max_usd: The expected labelling costs of the chosen stay within it.
        max_queries: At most so many.
        seed: Of the random parts that stand for more queries than fit.
        on_progress: Told how many are chosen.
    """
    n = len(believed)
    most = n if max_queries is None else max_queries
    if most < 0 or not max_usd >= 0:
        raise InputError(
            f"expected a number of queries and a budget of at least 0, got {most} and "
            f"{max_usd:g}: give for example 500 queries, or 10 dollars."
        )
    rng = np.random.default_rng([seed, 11])
    free = np.setdiff1d(np.arange(n), taken)
    if closed is not None:
        free = np.setdiff1d(free, closed)
    if len(free) > MAX_CANDIDATES:
        free = np.sort(rng.choice(free, MAX_CANDIDATES, replace=False))
    traffic, weight = np.arange(n), believed.n_times
    if n > MAX_TRAFFIC:
        share = weight / weight.sum()
        traffic, weight = rng.choice(n, MAX_TRAFFIC, p=share), np.ones(MAX_TRAFFIC)
    here = believed.vectors[traffic]
    worth = _Worth.of(believed, traffic, weight)
    known = kernel(here, believed.vectors[taken]).sum(axis=1)
    if labelled is not None and len(labelled):
        known += kernel(here, labelled).sum(axis=1)
    likeness = kernel(believed.vectors[free], here)
    label_usd = np.maximum(believed.label_usd[free], 1e-12)
    open_ = np.ones(len(free), bool)
    chosen: list[int] = []
    left = max_usd
    while len(chosen) < most:
        open_ &= label_usd <= left
        if not open_.any():
            break
        gain = (likeness @ worth.of_more(known).astype(np.float32)) / label_usd
        best = int(np.where(open_, gain, -np.inf).argmax())
        open_[best] = False
        left -= float(label_usd[best])
        known += likeness[best]
        chosen.append(int(free[best]))
        if on_progress is not None:
            on_progress(len(chosen))
    return np.array(chosen, dtype=np.int64)


def kernel(a: Float32Array, b: Float32Array) -> Float32Array:
    """How much a label of one query tells of another, from 0 to 1: cosine to a power; (n, m)."""
    result: Float32Array = np.clip(a @ b.T, 0.0, 1.0) ** np.float32(KERNEL_POWER)
    return result


@dataclass(frozen=True, eq=False)
class _Worth:
    """What one more label of the very same query saves in USD, by the strength that is there."""

    slope: FloatArray

    @classmethod
    def of(cls, believed: Believed, rows: IntArray, weight: FloatArray) -> _Worth:
        p, cost = believed.p_success[rows], believed.cost_usd[rows]
        values = np.column_stack(
            [information_value(p, cost, believed.value_usd, float(s)) for s in _STRENGTHS]
        )
        steps = np.diff(_STRENGTHS)
        return cls(np.maximum(-np.diff(values, axis=1) / steps, 0.0) * weight[:, None])

    def of_more(self, known: FloatArray) -> FloatArray:
        place = np.searchsorted(_STRENGTHS, STRENGTH + known, side="right") - 1
        result: FloatArray = self.slope[
            np.arange(len(known)), np.minimum(place, self.slope.shape[1] - 1)
        ]
        return result
