"""Where the router wins and loses: by task, by script and by length, each with honest intervals.

In every group the router is compared with always using the strongest tier and with the coin-flip
between single tiers that succeeds as often as the router, both fixed before these requests were
looked at (the coin-flip on the artifact's calibration rows). What is gained on a request is

    (cost of the rival - cost of the router) + lambda * (success of the router - that of the rival)

with lambda the artifact's value of a success. Intervals are by betting, which holds at every number
of requests, and share the error budget over everything shown (Bonferroni): with the stated
confidence *all* of them hold, so that the worst group may be picked by eye.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from router.coverage import SCRIPTS, script_shares
from router.cps import cost_per_success
from router.stored_query import Query
from training.comparison import Played
from training.intervals import betting_interval
from training.metrics import mean_cost, saved_share, success_rate
from training.results import Estimate, finite

FloatArray = npt.NDArray[np.float64]
ObjectArray = npt.NDArray[np.object_]
Finding = Literal["wins", "loses", "not clear", "same"]

# Smaller groups are taken together, and so are those beyond the largest ones.
MIN_REQUESTS = 30
MAX_GROUPS = 20
# Characters, each edge included below; fixed, so that no group depends on the requests.
LENGTH_EDGES = (80, 320, 1280, 5120)
# A query counts to a script, Latin excepted, where so much of what is read of it is in its letters.
_LEAST_SCRIPT_SHARE = 0.1
# Intervals of each group: of success against one rival, of the gain against two.
_INTERVALS_PER_GROUP = 3
# A gain that hardly varied in calibration may vary more here: bets start no bolder than this share
# of the range.
_LEAST_SPREAD = 0.01


@dataclass(frozen=True, slots=True)
class Rival:
    """What the router is compared with: its outcomes, and what calibration says of the gain.

    ``gain_range_usd`` bounds the gain on a request, ``gain_variance`` is its variance there.
    """

    name: str
    played: Played
    gain_range_usd: float
    gain_variance: float


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of one kind. Gains are USD per request, None where a success has no finite value."""

    dimension: str
    name: str
    n: int
    success_rate: float
    cost_usd_per_request: float
    cps_usd: float
    strongest_success_rate: float
    strongest_cost_usd_per_request: float
    success_difference: Estimate
    saved_share: float | None
    gain_against_strongest: Estimate | None
    gain_against_mix: Estimate | None
    finding_against_strongest: Finding
    finding_against_mix: Finding

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        out: dict[str, Any] = {
            "name": self.name,
            "n": self.n,
            "success_rate": self.success_rate,
            "cost_usd_per_request": self.cost_usd_per_request,
            "cps_usd": finite(self.cps_usd),
            "strongest_success_rate": self.strongest_success_rate,
            "strongest_cost_usd_per_request": self.strongest_cost_usd_per_request,
            "saved_share": self.saved_share,
            "finding_against_strongest": self.finding_against_strongest,
            "finding_against_mix": self.finding_against_mix,
        }
        self.success_difference.put(out, "success_difference")
        nothing = Estimate(math.nan)
        (self.gain_against_strongest or nothing).put(out, "gain_against_strongest_usd")
        (self.gain_against_mix or nothing).put(out, "gain_against_mix_usd")
        return out


@dataclass(frozen=True, slots=True)
class Breakdown:
    """All groups, by dimension ("task", "script", "length"; no tasks where the log names none)."""

    strongest: str
    mix: str | None
    success_value_usd: float
    confidence: float
    n_intervals: int
    groups: tuple[Group, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        by_dimension: dict[str, list[dict[str, Any]]] = {}
        for group in self.groups:
            by_dimension.setdefault(group.dimension, []).append(group.to_dict())
        return {
            "strongest": self.strongest,
            "mix": self.mix,
            "success_value_usd": finite(self.success_value_usd),
            "confidence": self.confidence,
            "n_intervals": self.n_intervals,
            "groups": by_dimension,
        }


def break_down(
    queries: Sequence[Query],
    task: ObjectArray,
    router: Played,
    strongest: Rival,
    mix: Rival | None,
    *,
    success_value_usd: float,
    confidence: float,
    seed: int = 0,
) -> Breakdown:
    """Compare the router with its rivals in every group of the n requests.

    The router *wins* against a rival where the gain's interval lies above 0, *loses* where it lies
    below, does the *same* where no request of the group had another outcome or cost; else it is
    *not clear*.
    """
    kinds = {"task": _merged([_task_name(name) for name in task])}
    if not any(task):
        del kinds["task"]
    kinds["script"] = _merged([script_of(query) for query in queries])
    lengths = np.searchsorted(LENGTH_EDGES, [len(query) for query in queries], side="left")
    kinds["length"] = _merged([_LENGTHS[place] for place in lengths], order=_LENGTHS)
    n_groups = sum(len(groups) for groups in kinds.values())
    n_intervals = n_groups * _INTERVALS_PER_GROUP
    each = 1.0 - (1.0 - confidence) / n_intervals

    def group(dimension: str, name: str, rows: npt.NDArray[np.intp]) -> Group:
        cost, success = router.cost_usd[rows], router.success[rows]
        base_cost = strongest.played.cost_usd[rows]
        base_success = strongest.played.success[rows]
        difference = success - base_success
        gain, found = _gain(strongest, router, rows, success_value_usd, each, seed)
        mix_gain, mix_found = _gain(mix, router, rows, success_value_usd, each, seed)
        paid, rate = mean_cost(cost), success_rate(success)
        base_paid = mean_cost(base_cost)
        return Group(
            dimension=dimension,
            name=name,
            n=len(rows),
            success_rate=rate,
            cost_usd_per_request=paid,
            cps_usd=cost_per_success(paid, rate),
            strongest_success_rate=success_rate(base_success),
            strongest_cost_usd_per_request=base_paid,
            success_difference=Estimate(
                float(difference.mean()),
                betting_interval(difference, -1.0, 1.0, each, variance=0.25, seed=seed),
            ),
            saved_share=finite(saved_share(paid, base_paid)),
            gain_against_strongest=gain,
            gain_against_mix=mix_gain,
            finding_against_strongest=found,
            finding_against_mix=mix_found,
        )

    return Breakdown(
        strongest=strongest.name,
        mix=None if mix is None else mix.name,
        success_value_usd=success_value_usd,
        confidence=confidence,
        n_intervals=n_intervals,
        groups=tuple(
            group(dimension, name, rows)
            for dimension, groups in kinds.items()
            for name, rows in groups.items()
        ),
    )


def script_of(query: Query) -> str:
    """The script that a query is written in, as far as its letters tell; no language is guessed.

    >>> [script_of(text) for text in ("2 + 2?", "¿Qué hora es?", "民法と刑法", "area = π r²")]
    ['ASCII only', 'Latin and signs beyond ASCII', 'han', 'Latin and signs beyond ASCII']
    """
    shares = script_shares(query)
    most = max(shares)
    if most >= _LEAST_SCRIPT_SHARE and not (isinstance(query, str) and query.isascii()):
        return SCRIPTS[shares.index(most)]
    return _ASCII if _is_ascii(query) else _LATIN


_ASCII, _LATIN = "ASCII only", "Latin and signs beyond ASCII"
_LENGTHS = (
    f"up to {LENGTH_EDGES[0]:,} characters",
    *(f"{low + 1:,} to {high:,} characters" for low, high in pairwise(LENGTH_EDGES)),
    f"more than {LENGTH_EDGES[-1]:,} characters",
)


def _is_ascii(query: Query) -> bool:
    # A stored query says whether it has letters of other scripts, not whether it has an accent.
    return query.isascii()


def _task_name(name: object) -> str:
    return "(no task)" if name is None else str(name)


def _merged(
    labels: Sequence[str], order: Sequence[str] | None = None
) -> dict[str, npt.NDArray[np.intp]]:
    """Rows of every group, the largest first or in an order; small ones and many are one group."""
    counts = Counter(labels)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    kept = [name for name in ranked if counts[name] >= MIN_REQUESTS][:MAX_GROUPS]
    rest = len(ranked) - len(kept)
    if rest == 1 and len(kept) < MAX_GROUPS:  # a group of one is named
        kept, rest = ranked, 0
    if order is not None:
        kept = [name for name in order if name in kept]
    place = {name: i for i, name in enumerate(kept)}
    index = np.array([place.get(label, len(kept)) for label in labels], dtype=np.intp)
    groups = {name: np.flatnonzero(index == i) for i, name in enumerate(kept)}
    if rest:
        other = f"{rest:,} others together"
        groups[other if other not in groups else f"{other} "] = np.flatnonzero(index == len(kept))
    return groups


def _gain(
    rival: Rival | None,
    router: Played,
    rows: npt.NDArray[np.intp],
    success_value_usd: float,
    confidence: float,
    seed: int,
) -> tuple[Estimate | None, Finding]:
    if rival is None:
        return None, "not clear"
    saved = rival.played.cost_usd[rows] - router.cost_usd[rows]
    better = router.success[rows] - rival.played.success[rows]
    if not saved.any() and not better.any():
        return Estimate(0.0, (0.0, 0.0)), "same"
    limit = rival.gain_range_usd
    if not (math.isfinite(success_value_usd) and 0.0 < limit < math.inf):
        return None, "not clear"
    values = saved + success_value_usd * better
    variance = max(rival.gain_variance, (_LEAST_SPREAD * limit) ** 2)
    low, high = betting_interval(values, -limit, limit, confidence, variance=variance, seed=seed)
    finding: Finding = "wins" if low > 0 else "loses" if high < 0 else "not clear"
    return Estimate(float(values.mean()), (low, high)), finding
