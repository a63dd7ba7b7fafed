"""What counts as out of distribution, beside other languages: like traffic, other sets, small talk.

Three questions. How much of traffic *like* the training queries is flagged, though it should be
about one in a thousand, and how much of a foreign language, after training on few queries? Are the
queries of *another* set that are flagged as unlike training worth more on the safe tier than where
the router would send them? And where does the artifact that ships send everyday requests? Test rows
take no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.everyday_requests import EASY, HARD
from benchmarks.languages import readings, trained, write_items
from benchmarks.results import Say, Section, Table
from router.embedding import Embedder
from router.routing import Router
from training.coverage import coverage_of
from training.default_artifact import SUCCESS_VALUE_USD
from training.features import embed_queries
from training.inputs import Inputs
from training.metrics import expected_outcome
from training.neighbours import References, min_similarity
from training.pipeline import SHARE_OUTSIDE
from training.prepare import N_FOLDS
from training.prior import SETS
from training.search import Objective
from training.split import split_table
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

N_FITTING = (20, 50, 100, 200, 500, 1000)
N_DRAWS = 12
MAX_OTHERS = 3_000
FOREIGN = "Spanish"
N_FOREIGN = 300
# Fewer queries than these tell nothing of what they are worth.
MIN_FAR = 20


def measure(
    tables: Mapping[str, OutcomeTable],
    left_out: Sequence[str],
    embedder: Embedder,
    say: Say,
    *,
    seed: int = 0,
) -> Section:
    """Small logs of every set, each set's router on the other sets of its tiers, and the default
    artifact on everyday requests.
    """
    small = [row for name, t in tables.items() for row in small_logs(name, t, embedder, seed, say)]
    others = [
        found
        for name, table in tables.items()
        for found in _on_others(name, table, tables, seed, say)
    ]
    everyday = everyday_routes(Router.load())
    shown = [_everyday_table(everyday)]
    if others:
        shown.insert(0, _others_table(others))
    if small:
        shown.insert(0, _small_table(small))
    if left_out:
        shown.append(Table("Left out", ("set",), [(sentence,) for sentence in left_out]))
    return Section("Outside", shown, {"small": small, "others": others, "everyday": everyday})


@dataclass(frozen=True, slots=True)
class _Texts:
    """Different texts (n) with their embeddings (n, d)."""

    text: list[str]
    vectors: Float32Array

    @classmethod
    def of(cls, texts: Sequence[str], embedder: Embedder) -> _Texts:
        different = list(dict.fromkeys(texts))
        return cls(different, embed_queries(embedder, different))

    def take(self, rows: npt.NDArray[np.intp]) -> _Texts:
        return _Texts([self.text[row] for row in rows], self.vectors[rows])


def small_logs(
    name: str, table: OutcomeTable, embedder: Embedder, seed: int, say: Say
) -> list[dict[str, Any]]:
    """Shares flagged after fitting on few of the training rows' texts, over several draws.

    Of the other training texts ("like", by draw) and of requests in a foreign language.
    """
    texts = _Texts.of([*table.query[split_table(table).train]], embedder)
    foreign = _Texts.of([i.text(FOREIGN) for i in write_items(N_FOREIGN, seed)], embedder)
    rows = []
    for n in N_FITTING:
        if n > len(texts.text) * 3 // 4:
            continue
        say(f"outside, {name}: {N_DRAWS} draws of {n}")
        like, abroad = [], []
        for draw in range(N_DRAWS):
            order = np.random.default_rng([seed, draw]).permutation(len(texts.text))
            fitted = texts.take(order[:n])
            others = texts.take(order[n : n + MAX_OTHERS])
            flags = _flagged(fitted, (others, foreign), seed)
            like.append(float(flags[0].mean()))
            abroad.append(float(flags[1].mean()))
        rows.append({"set": name, "n": n, "like": like, "foreign": abroad})
    return rows


def _flagged(fitted: _Texts, asked: Sequence[_Texts], seed: int) -> list[BoolArray]:
    """Which texts are flagged by the limits that training would set on these."""
    fold = np.arange(len(fitted.text), dtype=np.int64) % N_FOLDS
    data = Inputs(fitted.vectors, fitted.vectors.astype(np.float64), fold, seed)
    refs = References.of(data)
    similarity = refs.similarity(data)
    least = min_similarity(similarity, SHARE_OUTSIDE / 2)
    coverage = coverage_of(fitted.text, fold, SHARE_OUTSIDE / 2, similarity)
    flags = []
    for texts in asked:
        nearest = (texts.vectors @ refs.all.T).max(axis=1)
        excluded = coverage.excludes_many(texts.text, nearest.tolist())
        flags.append((nearest < least) | excluded)
    return flags


def _on_others(
    name: str, table: OutcomeTable, tables: Mapping[str, OutcomeTable], seed: int, say: Say
) -> list[dict[str, Any]]:
    """How the router of one of SETS, whose tiers are the same models, fares on the others."""
    same = {other: tables[other] for other in SETS if other != name and other in tables}
    if name not in SETS or not same:
        return []
    objective = Objective("value", amount_usd=SUCCESS_VALUE_USD)
    router = trained(table, "ridge", seed, say, f"outside, {name}", objective=objective)
    return [found for other, rows in same.items() for found in worth(router, name, other, rows)]


def worth(router: Router, name: str, other: str, table: OutcomeTable) -> list[dict[str, Any]]:
    """What flagged and unflagged queries of a set are worth routed, and on the safe tier.

    In dollars per 1,000: a success is worth what it is to the artifact that ships.
    """
    rows = table.take(split_table(table).train)
    rows = rows.take(rows.complete)
    queries = list(rows.query)
    predicted = router.predict(queries)
    far, strange = readings(router, queries)
    blind = replace(predicted, out_of_distribution=np.zeros(len(queries), np.bool_))
    routed = router.action_dist(blind)
    safe = np.zeros_like(routed)
    safe[:, router.safe_tier] = 1.0
    found = []
    flagged = {
        "too far": far,
        "strange scripts or words": strange,
        "neither": ~(far | strange),
    }
    for label, chosen in flagged.items():
        if chosen.sum() < MIN_FAR:
            continue
        success, cost = rows.success[chosen], rows.cost_usd[chosen]
        plays: dict[str, dict[str, float]] = {}
        gains = []
        for play, dist in (("routed", routed[chosen]), ("safe", safe[chosen])):
            s, c = expected_outcome(dist, success), expected_outcome(dist, cost)
            gains.append(SUCCESS_VALUE_USD * s - c)
            plays[play] = {"success": float(s.mean()), "usd": 1000 * float(c.mean())}
        difference = 1000 * (gains[0] - gains[1])
        found.append(
            {
                "trained_on": name,
                "asked": other,
                "flagged": label,
                "n": int(chosen.sum()),
                **plays,
                "gain_usd": float(difference.mean()),
                "gain_error_usd": float(difference.std() / np.sqrt(len(difference))),
            }
        )
    return found


def everyday_routes(router: Router) -> list[dict[str, Any]]:
    """Where easy and hard everyday requests go: shares flagged and of each tier."""
    found = []
    for label, requests in (("easy", EASY), ("hard", HARD)):
        decisions = router.route_many(requests)
        tiers = [decision.tier for decision in decisions]
        flagged = [decision.reason == "out-of-distribution" for decision in decisions]
        found.append(
            {
                "requests": label,
                "n": len(requests),
                "flagged": float(np.mean(flagged)),
                "tiers": {t.name: tiers.count(t.name) / len(tiers) for t in router.tiers},
            }
        )
    return found


def _small_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("set", "fitting queries", "like flagged", "in the worst draw", f"{FOREIGN} flagged")
    cells = [
        (
            row["set"],
            f"{row['n']:,}",
            f"{np.mean(row['like']):.2%}",
            f"{np.max(row['like']):.2%}",
            f"{np.mean(row['foreign']):.1%}",
        )
        for row in rows
    ]
    note = (
        f"{N_DRAWS} draws; like are up to {MAX_OTHERS:,} other training texts of the same set, of "
        f"which about {SHARE_OUTSIDE:.1%} are meant to be flagged; {N_FOREIGN} requests are in "
        f"{FOREIGN}."
    )
    return Table("Outside: after training on few queries", columns, cells, (note,))


def _others_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        *("trained on", "asked", "flagged as", "queries", "success routed", "$ per 1,000"),
        *("success on safe tier", "$ per 1,000", "routing is worth $ more", "standard error"),
    )
    cells = [
        (
            *(row["trained_on"], row["asked"], row["flagged"], f"{row['n']:,}"),
            *(f"{row['routed']['success']:.3f}", f"{row['routed']['usd']:.3f}"),
            *(f"{row['safe']['success']:.3f}", f"{row['safe']['usd']:.3f}"),
            *(f"{row['gain_usd']:+.2f}", f"{row['gain_error_usd']:.2f}"),
        )
        for row in rows
    ]
    note = (
        "Training rows of another set, by what the router makes of them; the worth is per 1,000 "
        f"where a success is worth ${SUCCESS_VALUE_USD:g}."
    )
    return Table("Outside: is the safe tier worth it?", columns, cells, (note,))


def _everyday_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    tiers = tuple(rows[0]["tiers"])
    columns = ("everyday requests", "number", "flagged", *(f"to {tier}" for tier in tiers))
    cells = [
        (
            *(row["requests"], str(row["n"]), f"{row['flagged']:.0%}"),
            *(f"{row['tiers'][tier]:.0%}" for tier in tiers),
        )
        for row in rows
    ]
    return Table("Outside: everyday requests to the artifact that ships", columns, cells)
