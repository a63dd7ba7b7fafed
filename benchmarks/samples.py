"""How many outcomes of one's own a router needs: cold start, and warm start from a prior.

For every set the prior is fitted on the *other* public sets, so that it has seen neither the
queries nor the grades of the set that it is measured on. Rows are drawn from three quarters of the
texts and measured on the fourth; cold and warm see the same rows, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.results import Say, Section, Table
from benchmarks.told import auc_per_tier
from router.embedding import Embedder
from router.errors import InputError
from router.prices import PriceBook
from training import metrics
from training.costs import fit_cost
from training.design import Design
from training.features import embed_queries
from training.fit import fit_success
from training.prepare import N_FOLDS, inputs_of
from training.prior import SETS, Prior, fit_prior
from training.split import fold_ids, query_hashes
from training.table import OutcomeTable

# Outcomes per tier, and how often they are drawn: small samples vary most.
DRAWS = {50: 12, 100: 12, 200: 8, 500: 6, 1000: 4, 2000: 4}
N_OUTER_FOLDS = 4
FAMILY = "ridge"


@dataclass(frozen=True, slots=True)
class Score:
    """One fit on n outcomes: mean mix ratio and mean AUC over the tiers on held-out rows."""

    mean_mix_ratio: float
    auc: float


def score(
    rows: OutcomeTable, held: OutcomeTable, embedder: Embedder, seed: int, prior: Prior | None
) -> Score:
    """Fit on ``rows``, measure on ``held``; all outcomes known."""
    weight = None if prior is None else prior.gram_weight
    fold = fold_ids(query_hashes(rows.query), N_FOLDS, seed)
    vectors = embed_queries(embedder, rows.query.tolist())
    data, input_map, refs = inputs_of(rows.query.tolist(), vectors, fold, seed, weight, rows.task)
    design = Design.of(data, refs.all, None if prior is None else prior.weight)
    costs = fit_cost(data, design, rows, PriceBook())
    fitted = fit_success(
        data,
        design,
        refs,
        rows.success,
        rows.observed,
        [FAMILY],
        other_success=rows.other_success,
    )[FAMILY]
    held_vectors = embed_queries(embedder, held.query.tolist())
    similarity = held_vectors @ refs.all.T
    x = input_map.many(held.query.tolist(), held_vectors, similarity)
    p = fitted.estimator.predict(x, similarity)
    ratio = metrics.mean_mix_ratio(
        (fitted.cross_fitted, costs.cross_fitted, rows.success),
        (p, costs.estimator.predict(x), held.success, held.cost_usd),
    )
    return Score(ratio.mean, float(np.nanmean(auc_per_tier(p, held.success))))


def curve(
    name: str,
    table: OutcomeTable,
    prior: Prior,
    embedder: Embedder,
    say: Say,
    draws: Mapping[int, int] | None = None,
) -> dict[int, list[tuple[Score, Score]]]:
    """(cold, warm) scores of every draw, by number of outcomes."""
    table = table.take(table.complete)
    hashes, found = query_hashes(table.query), {}
    for n, times in (draws or DRAWS).items():
        pairs: list[tuple[Score, Score]] = []
        for draw in range(times):
            outer = fold_ids(hashes, N_OUTER_FOLDS, 1000 + draw)
            pool, held = np.flatnonzero(outer != 0), np.flatnonzero(outer == 0)
            if n > len(pool):
                break
            say(f"{name}: {n} outcomes, draw {draw + 1} of {times}")
            chosen = np.sort(np.random.default_rng(draw).choice(pool, n, replace=False))
            rows, asked = table.take(chosen), table.take(held)
            with threadpool_limits(limits=1):
                pairs.append(
                    (
                        score(rows, asked, embedder, draw, None),
                        score(rows, asked, embedder, draw, prior),
                    )
                )
        if pairs:
            found[n] = pairs
    return found


def measure(
    tables: Mapping[str, OutcomeTable],
    embedder: Embedder,
    say: Say,
    draws: Mapping[int, int] | None = None,
) -> Section:
    """The curve of every set that some other public set can be the prior of."""
    shown: list[Table] = []
    data: dict[str, Any] = {}
    for name, table in tables.items():
        others = {other: tables[other] for other in SETS if other != name and other in tables}
        if not others:
            continue
        say(f"{name}: fitting the prior on {' and '.join(others)}")
        with threadpool_limits(limits=1):
            prior, _ = fit_prior(others, embedder)
        found = curve(name, table, prior, embedder, say, draws)
        shown.append(_table(name, tuple(others), found))
        data[name] = {
            str(n): [
                {"cold": c.mean_mix_ratio, "warm": w.mean_mix_ratio, "auc": [c.auc, w.auc]}
                for c, w in pairs
            ]
            for n, pairs in found.items()
        }
    if not shown:
        raise InputError(
            f"expected the sets {' and '.join(SETS)} to fit a prior on, got neither: set "
            "CPS_ROUTER_DATA to the folder that holds them."
        )
    return Section("Sample efficiency", shown, data)


def _table(
    name: str, others: Sequence[str], found: Mapping[int, list[tuple[Score, Score]]]
) -> Table:
    rows = []
    for n, pairs in found.items():
        ratios = np.array([[cold.mean_mix_ratio, warm.mean_mix_ratio] for cold, warm in pairs])
        aucs = np.array([[cold.auc, warm.auc] for cold, warm in pairs]).mean(axis=0)
        gap = ratios[:, 1] - ratios[:, 0]
        median = np.median(ratios, axis=0)
        error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else float("nan")
        rows.append(
            (
                f"{n:,}",
                f"{len(pairs)}",
                f"{ratios[:, 0].mean():.3f}",
                f"{ratios[:, 1].mean():.3f}",
                f"{gap.mean():+.3f} ({error:.3f})",
                f"{median[0]:.3f}",
                f"{median[1]:.3f}",
                f"{aucs[0]:.3f}",
                f"{aucs[1]:.3f}",
            )
        )
    columns = (
        *("outcomes per tier", "draws", "cold", "warm", "warm - cold (s.e.)"),
        *("median cold", "median warm", "AUC cold", "AUC warm"),
    )
    note = (
        f"Mean mix ratio on held-out rows (below 1 beats the coin-flip); prior from "
        f"{' and '.join(others)}; estimator {FAMILY}; AUC is the mean over the tiers."
    )
    return Table(f"{name}: sample efficiency", columns, rows, (note,))
