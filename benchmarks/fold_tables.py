"""What the nested folds found, as tables: decision value, worst floor, ranking, settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import rivals
from benchmarks.results import Table
from training.metrics import FLOOR_RANGE

FloatArray = npt.NDArray[np.float64]

N_FLOORS = 20
FLOOR_SHARES = np.linspace(*FLOOR_RANGE, N_FLOORS)


@dataclass(frozen=True, slots=True)
class Score:
    """One router on one held-out fold.

    ``auc`` per tier and ``ratios`` per floor are NaN where there is no such thing. ``ours`` is the
    default family's mean mix ratio on the same terms, ``setting`` what inner folds chose.
    """

    mean_mix_ratio: float
    auc: list[float]
    ratios: FloatArray
    ours: float = math.nan
    setting: str = ""


Scores = dict[str, list[Score]]
"""By router, one for every fold of every seed."""


def standard_error(values: FloatArray, n_folds: int) -> FloatArray:
    """Of the mean over folds (first axis). Other seeds divide the same rows: they count as none."""
    spread: FloatArray = values.std(axis=0, ddof=1) / math.sqrt(n_folds)
    return spread


def worst_floor(scores: Sequence[Score], n_folds: int) -> tuple[float, float, float] | None:
    """Share of the way to the strongest tier, mix ratio - 1 there, and its standard error.

    Of the floor with the greatest mean ratio over the folds; None for a router that has no floors.
    """
    ratios = np.array([score.ratios for score in scores])
    if np.isnan(ratios).any():
        return None
    worst = int(ratios.mean(axis=0).argmax())
    loss = float(ratios[:, worst].mean()) - 1.0
    return float(FLOOR_SHARES[worst]), loss, float(standard_error(ratios, n_folds)[worst])


def tables(
    label: str,
    found: Mapping[str, Scores],
    default: str,
    n_folds: int,
    seeds: Sequence[int],
) -> list[Table]:
    """All of them, for the sets measured with one embedder."""
    return [
        ratio_table(label, found, default, n_folds, seeds),
        floor_table(label, found, n_folds),
        auc_table(label, found),
        settings_table(label, found),
    ]


def ratio_table(
    label: str, found: Mapping[str, Scores], default: str, n_folds: int, seeds: Sequence[int]
) -> Table:
    """Mean mix ratio of every router on every set, and its difference from the default family."""

    def cells(scores: Sequence[Score]) -> tuple[str, str]:
        ratios = np.array([score.mean_mix_ratio for score in scores])
        gap = ratios - np.array([score.ours for score in scores])
        error = float(standard_error(gap, n_folds))
        mean = f"{ratios.mean():.3f} ({ratios.std(ddof=1):.3f})"
        same = np.isnan(gap).any() or (gap == 0.0).all()
        return mean, "" if same else f"{gap.mean():+.3f} ({error:.3f})"

    columns = ["router"]
    for name in found:
        columns += [name, f"- {default}"]
    spread = (
        f"Mean mix ratio with its standard deviation over {n_folds} folds x {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}), and the paired difference from {default} with its "
        "standard error; below 1 is cheaper than a coin-flip between tiers, a difference above 0 "
        f"is a gain of {default}. Seeds divide the same rows: the standard error counts the folds "
        "of one."
    )
    terms = (
        "Rows with every tier known, the split column ignored. All choose lambda by one rule and "
        f"their own settings (below) on training rows alone, and read the same query vectors; "
        f"{default} reads words as well. Where a set has outcomes of models that are no tier, or "
        f"names tasks, {default} learns from them too, for which the rivals' published forms have "
        "no place: compare 'of the tiers' own outcomes alone' and 'of a log that names no tasks'."
    )
    points = (
        f"{rivals.KEYWORD}: its one point, without lambda; compared with {default} at the success "
        f"rate that this point has on the training rows. {rivals.WIN_RATE}: it cannot use the "
        f"tiers between, which the random mix can; below it, it and {default} with its two tiers "
        f"alone. {rivals.ORACLE}: each row's outcomes known in advance, at the same floors."
    )
    rows = [_row(router, found, cells, ("", "")) for router in _routers(found)]
    return Table(
        f"{label}: mean mix ratio, nested folds", tuple(columns), rows, (spread, terms, points)
    )


def floor_table(label: str, found: Mapping[str, Scores], n_folds: int) -> Table:
    """Where every router loses most to the random mix."""

    def cell(scores: Sequence[Score]) -> tuple[str]:
        worst = worst_floor(scores, n_folds)
        if worst is None:
            return ("",)
        share, loss, error = worst
        return (f"{loss:+.3f} ({error:.3f}) at {share:.0%}",)

    rows = [
        _row(router, found, cell, ("",))
        for router in _routers(found)
        if router not in (rivals.RANDOM_MIX, rivals.KEYWORD)
    ]
    note = (
        "Mix ratio - 1, averaged over the folds, at the floor where that is greatest (its standard "
        "error), and the floor's place between the weakest tier (0 %) and the strongest (100 %). "
        "Above 0 the coin-flip is cheaper there. The greatest of 20 noisy means is above the truth."
    )
    return Table(f"{label}: worst floor", ("router", *found), rows, (note,))


def auc_table(label: str, found: Mapping[str, Scores]) -> Table:
    """How well P(success) ranks, of those that predict it."""

    def cell(scores: Sequence[Score]) -> tuple[str]:
        mean = np.mean([score.auc for score in scores], axis=0)
        return ("" if np.isnan(mean).all() else " ".join(f"{auc:.3f}" for auc in mean),)

    rows = [_row(router, found, cell, ("",)) for router in _routers(found)]
    rows = [row for row in rows if any(row[1:])]
    return Table(f"{label}: AUC per tier, mean over the folds", ("router", *found), rows)


def settings_table(label: str, found: Mapping[str, Scores]) -> Table:
    """What the rivals' settings were, and on how many folds."""

    def cell(scores: Sequence[Score]) -> tuple[str]:
        counts = Counter(score.setting for score in scores if score.setting)
        return ("; ".join(f"{setting} ({n})" for setting, n in counts.most_common(3)),)

    rows = [_row(router, found, cell, ("",)) for router in _routers(found)]
    rows = [row for row in rows if any(row[1:])]
    note = "Least mean mix ratio of the inner folds' predictions; in brackets on how many folds."
    return Table(
        f"{label}: settings chosen, the three most frequent", ("router", *found), rows, (note,)
    )


def _routers(found: Mapping[str, Scores]) -> list[str]:
    """Of all sets, in the order of the set that has most of them."""
    return max((list(scores) for scores in found.values()), key=len)


def _row(router: str, found: Mapping[str, Scores], cells: Any, empty: Any) -> tuple[str, ...]:
    """The cells of every set; empty ones where a set lacks the router."""
    parts = [cells(scores[router]) if router in scores else empty for scores in found.values()]
    return router, *(cell for part in parts for cell in part)


def to_dict(scores: Sequence[Score]) -> dict[str, Any]:
    """JSON-serialisable."""
    return {
        "mean_mix_ratio": [score.mean_mix_ratio for score in scores],
        "default_family_on_the_same_terms": [score.ours for score in scores],
        "auc": np.mean([score.auc for score in scores], axis=0).tolist(),
        "ratio_by_floor": np.mean([score.ratios for score in scores], axis=0).tolist(),
        "settings": [score.setting for score in scores],
    }
