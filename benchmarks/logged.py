"""What a log of one tier per request costs in decisions, beside every tier's outcome.

Of the training rows all outcomes but one are hidden, as a keyword rule that explores a little would
have logged them; ``train`` learns from that as it would from a user's log. It is compared with
``train`` on everything, for as many queries, on the same complete test rows. Every number that is
chosen (lambda, families, flattening) is chosen from what the training at hand was shown.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.results import Budget, Say, Section, Table, budget_table
from router.errors import InputError
from router.keyword import KeywordRouter
from router.policy import choose
from router.routing import Router
from router.selection import CALIBRATION_SHARE, CalibrationRows
from training import metrics
from training.pipeline import train
from training.search import DEFAULT_MARGIN, describe_policy
from training.split import query_hashes, split_table
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
# A share of the gain with its interval.
Share = tuple[float, float, float]

# How often each is drawn; the first of LOGS is the one that is summed up.
N_LOGS = 5
N_OTHER_LOGS = 3
ESTIMATOR = "ridge"
LOGGED_BUDGET_S = 60.0
CONFIDENCE = 0.95
# Mix ratios whose distance from 1 is the gain.
GAINS = ("mean_mix_ratio", "median_mix_ratio")
EVERYTHING = "everything"
TIERS_ALONE = "every tier, no other model"
HALF = "everything, half the queries"


@dataclass(frozen=True, slots=True)
class Log:
    """How a log came about: the keyword rule, and a tier at random for a share ``epsilon``."""

    name: str
    epsilon: float
    recorded: bool = True


LOGS = (
    Log("log, epsilon 0.1", 0.1),
    Log("log, epsilon 0.3", 0.3),
    Log("log, epsilon 0.1, propensities not recorded", 0.1, recorded=False),
    Log("log, keyword rule alone", 0.0),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One training, measured on the complete test rows: (success rate, USD per request) each.

    ``served`` is the policy in the artifact, at the default floor; ``expected`` that of the least
    lambda from which the training expects this floor, without a certificate; ``valued`` that of a
    success value which all trainings of a set share. Where a log confines the router, only
    ``served`` and ``valued`` say something.
    """

    policy: str
    served: tuple[float, float]
    expected: tuple[float, float] | None
    valued: tuple[float, float]
    mean_mix_ratio: float | None
    median_mix_ratio: float | None
    share_confined: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self)


def hide(table: OutcomeTable, log: Log, seed: int) -> OutcomeTable:
    """The training rows as the log shows them; test rows stay as they are.

    Tiers are ordered by what they cost on the training rows. Outcomes of models that are no tier
    are hidden too.
    """
    split = split_table(table)
    cost = np.nanmean(table.cost_usd[split.train], axis=0)
    names = [table.tiers.names[tier] for tier in np.argsort(cost, kind="stable")]
    rule = KeywordRouter.for_tiers(names)
    chosen = np.array([table.tiers.index(rule.tier_of(query)) for query in table.query])
    n_tiers = table.n_tiers
    chance = np.full((table.n_requests, n_tiers), log.epsilon / n_tiers)
    chance[np.arange(len(chosen)), chosen] += 1.0 - log.epsilon
    rng = np.random.default_rng([seed, 23])
    explores = rng.random(len(chosen)) < log.epsilon
    called = np.where(explores, rng.integers(0, n_tiers, len(chosen)), chosen)
    one = called[:, None] == np.arange(n_tiers)
    shown = np.where(split.train[:, None], one & table.observed, table.observed)

    def seen(values: FloatArray) -> FloatArray:
        return np.where(shown, values, np.nan)

    propensity = np.where(split.train[:, None] & shown & log.recorded, chance, np.nan)
    logged = replace(
        table,
        success=seen(table.success),
        cost_usd=seen(table.cost_usd),
        input_tokens=seen(table.input_tokens),
        output_tokens=seen(table.output_tokens),
        propensity=propensity,
        observed=shown,
    )
    return without_others(logged.take(shown.any(axis=1)))


def without_others(table: OutcomeTable) -> OutcomeTable:
    """The table without outcomes of models that are no tier."""
    return replace(table, other_success=table.other_success[:, :0])


def halved(table: OutcomeTable, seed: int) -> OutcomeTable:
    """The test rows, and the training rows of a random half of the training texts."""
    split = split_table(table)
    texts = np.unique(query_hashes(table.query[split.train]))
    kept = np.random.default_rng([seed, 29]).permutation(texts)[: len(texts) // 2]
    return table.take(split.test | (split.train & np.isin(query_hashes(table.query), kept)))


@dataclass(frozen=True)
class Comparison:
    """Trains on tables that show different things, and measures all of it on the same rows."""

    name: str
    test: OutcomeTable
    estimator: str
    seed: int
    say: Say

    @classmethod
    def of(cls, name: str, table: OutcomeTable, estimator: str, seed: int, say: Say) -> Comparison:
        """On the complete test rows of ``table``."""
        return cls(name, table.take(split_table(table).test & table.complete), estimator, seed, say)

    def train(self, table: OutcomeTable, label: str) -> tuple[Router, float]:
        """The router that ``train`` makes of a table, at its defaults; and how long that took."""
        with tempfile.TemporaryDirectory(prefix="cps-router-bench-") as folder:
            started = time.perf_counter()
            result = train(
                table,
                Path(folder) / "artifact",
                estimator=self.estimator,
                seed=self.seed,
                name=self.name,
                track=False,
                on_progress=lambda message: self.say(f"{self.name}, {label}: {message}"),
            )
            seconds = time.perf_counter() - started
            return Router.load(result.folder), seconds

    def measure(self, router: Router, seconds: float, value_usd: float) -> Result:
        """On the test rows, with lambdas from the router's own calibration rows."""
        test, known = self.test, router.calibration
        predicted = router.predict(list(test.query))
        rows = np.arange(test.n_requests)

        def means(dist: FloatArray) -> tuple[float, float]:
            success = metrics.expected_outcome(dist, test.success)
            cost = metrics.expected_outcome(dist, test.cost_usd)
            return float(success.mean()), float(cost.mean())

        def valued(value: float) -> tuple[float, float]:
            tier = choose(predicted.p_success, predicted.cost_usd, value, predicted.tried)
            dist = np.zeros_like(test.success)
            dist[rows, tier] = 1.0
            return means(dist)

        served = means(router.action_dist(predicted))
        confined, found = predicted.tried, None
        if confined is None:
            found = metrics.mean_mix_ratio(
                (known.p_success, known.cost_usd, pooled(known)),
                (predicted.p_success, predicted.cost_usd, test.success, test.cost_usd),
            )
        return Result(
            policy=describe_policy(router.policy, router.tiers.names),
            served=served,
            expected=valued(value_at_floor(router)) if confined is None else None,
            valued=valued(value_usd),
            mean_mix_ratio=None if found is None else found.mean,
            median_mix_ratio=None if found is None else found.median,
            share_confined=0.0 if confined is None else float(1.0 - confined.all(axis=1).mean()),
            seconds=seconds,
        )


def pooled(known: CalibrationRows) -> FloatArray:
    """Success (n, T) whose means over calibration rows are what all training rows say of the tiers.

    Predictions agree in the mean with the fitting rows; they are moved to the calibration rows'
    outcomes (pseudo-outcomes of a log, with weights of up to 30) by as much as these are of all.
    """
    return known.p_success + CALIBRATION_SHARE * (known.success - known.p_success)


def value_at_floor(router: Router) -> float:
    """The least lambda that expects the default floor on the router's calibration rows."""
    known = router.calibration
    rates = pooled(known)
    floor = float(rates.mean(axis=0).max()) + DEFAULT_MARGIN
    p = metrics.recentred(known.p_success, rates)
    found = metrics.success_values_for_floors(known.p_success, known.cost_usd, p, np.array([floor]))
    return float(found[0])


def share_kept(logged: Sequence[float], full: float, nothing: float) -> Share:
    """Share of the gain kept, (x - nothing) / (full - nothing): mean over logs, and its interval.

    The interval is Student's t over the logs; it does not hold what other test rows would have
    shown. NaN bounds for a single log.

    >>> [round(x, 3) for x in share_kept([0.75, 0.85], full=0.6, nothing=1.0)]
    [0.5, -1.088, 2.088]
    """
    shares = (np.asarray(logged) - nothing) / (full - nothing)
    n, mean = len(shares), float(shares.mean())
    if n < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * float(shares.std(ddof=1)) / n**0.5
    return mean, mean - half, mean + half


def compare_set(
    name: str,
    table: OutcomeTable,
    say: Say,
    *,
    logs: Sequence[Log] = LOGS,
    n_logs: int = N_LOGS,
    n_other: int = N_OTHER_LOGS,
    estimator: str = ESTIMATOR,
    seed: int = 0,
) -> tuple[Table, dict[str, Any]]:
    """Every training of one set, as a table and as JSON."""
    comparison = Comparison.of(name, table, estimator, seed, say)
    router, seconds = comparison.train(table, EVERYTHING)
    value = value_at_floor(router)
    found = {EVERYTHING: [comparison.measure(router, seconds, value)]}

    refused: dict[str, str] = {}

    def add(label: str, shown: OutcomeTable) -> None:
        results = found.setdefault(label, [])
        try:
            made = comparison.train(shown, label)
        except InputError as error:
            refused[label] = str(error)
        else:
            results.append(comparison.measure(*made, value))

    if table.other_success.shape[1]:
        add(TIERS_ALONE, without_others(table))
    for draw in range(n_other):
        add(HALF, halved(table, draw))
    for log in logs:
        for draw in range(n_logs if log == logs[0] else n_other):
            add(log.name, hide(table, log, draw))
    kept = {
        which: {
            label: share_kept(ratios(results, which), ratios(found[EVERYTHING], which)[0], 1.0)
            for label, results in found.items()
            if label != EVERYTHING and ratios(results, which)
        }
        for which in GAINS
    }
    twice = {
        which: share_kept(
            ratios(found[logs[0].name], which), float(np.mean(ratios(found[HALF], which))), 1.0
        )
        for which in GAINS
    }
    split = split_table(table)
    data = {
        "n_train": int(split.train.sum()),
        "n_test": comparison.test.n_requests,
        "estimator": estimator,
        "success_value_usd": value,
        "tiers": {
            tier: [float(s), float(c)]
            for tier, s, c in zip(
                table.tiers.names,
                comparison.test.success.mean(axis=0),
                comparison.test.cost_usd.mean(axis=0),
                strict=True,
            )
        },
        "results": {label: [r.to_dict() for r in results] for label, results in found.items()},
        "refused": refused,
        "share_of_gain_kept": kept,
        "share_of_gain_kept_with_twice_the_queries": twice,
    }
    return _table(name, data, found, kept, twice, logs[0].name), data


def ratios(results: Sequence[Result], which: str = "mean_mix_ratio") -> list[float]:
    """One kind of mix ratio of every training that has it."""
    found = [getattr(result, which) for result in results]
    return [ratio for ratio in found if ratio is not None]


def measure(
    tables: Mapping[str, OutcomeTable],
    left_out: Sequence[str],
    say: Say,
    *,
    seed: int = 0,
) -> Section:
    """Every set: full feedback, logs of it, and what a log keeps of the gain."""
    shown: list[Table] = []
    data: dict[str, Any] = {}
    budgets = []
    for name, table in tables.items():
        found, data[name] = compare_set(name, table, say, seed=seed)
        shown.append(found)
        if name == "paretobandit":
            slowest = max(r["seconds"] for r in data[name]["results"][LOGS[0].name])
            what = f"train on a log of {name}, {ESTIMATOR}"
            budgets = [Budget(what, slowest, LOGGED_BUDGET_S, "s")]
    if budgets:
        shown.append(budget_table("Training on a log", budgets))
    if left_out:
        shown.append(Table("Left out", ("set",), [(sentence,) for sentence in left_out]))
    return Section("Logged feedback", shown, data)


def _table(
    name: str,
    data: Mapping[str, Any],
    found: Mapping[str, Sequence[Result]],
    kept: Mapping[str, Mapping[str, Share]],
    twice: Mapping[str, Share],
    log: str,
) -> Table:
    columns = (
        *("trained on", "trainings", "mean mix ratio", "gain kept [95 %]"),
        *("median mix ratio", "gain kept [95 %]", "served: success", "$ per 1,000"),
        *("expected floor: success", "$ per 1,000", "common value: success", "$ per 1,000"),
        *("confined", "training s"),
    )
    rows = [
        (
            label,
            f"{len(results)}",
            _spread(ratios(results)),
            _share(kept["mean_mix_ratio"].get(label)),
            _spread(ratios(results, "median_mix_ratio")),
            _share(kept["median_mix_ratio"].get(label)),
            *_means([r.served for r in results]),
            *_means([r.expected for r in results]),
            *_means([r.valued for r in results]),
            f"{np.mean([r.share_confined for r in results]):.0%}" if results else "",
            f"{np.mean([r.seconds for r in results]):.0f}" if results else "",
        )
        for label, results in found.items()
    ]
    rows += [
        (f"always {tier}", *[""] * 5, f"{rate:.3f}", f"{1000 * cost:.4g}", *[""] * 6)
        for tier, (rate, cost) in data["tiers"].items()
    ]
    facts = (
        f"{data['n_train']:,} training queries in all, {data['n_test']:,} complete test rows; "
        f"estimator {data['estimator']}, standard deviations in brackets. Served: the policy in "
        "the artifact, certified for strongest - 0.05 where that can be. Expected floor: the least "
        "lambda from which the training expects that floor, without a certificate. Common value: a "
        f"success is worth ${data['success_value_usd']:.4g}, which is that lambda of everything."
    )
    gain = (
        "Gain kept: (1 - mix ratio) over (1 - that of everything); the interval is over logs. Mean "
        "and median are over 20 floors, of which one near a kink can outweigh the others. A log of "
        f"twice the queries ({log}, against {HALF}) keeps {_share(twice['mean_mix_ratio'])}, by "
        f"medians {_share(twice['median_mix_ratio'])}."
    )
    refusals = [f"{label} is refused: {said}" for label, said in data["refused"].items()]
    return Table(f"{name}: learning from logs", columns, rows, (facts, gain, *refusals))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.3f}" + (f" ({np.std(values, ddof=1):.3f})" if values[1:] else "")


def _share(share: Share | None) -> str:
    if share is None:
        return ""
    mean, low, high = share
    return f"{mean:.0%}" + (f" [{low:.0%}, {high:.0%}]" if math.isfinite(low) else "")


def _means(values: Sequence[tuple[float, float] | None]) -> tuple[str, str]:
    known = [value for value in values if value is not None]
    if not known:
        return "", ""
    rate, cost = np.mean(known, axis=0)
    return f"{rate:.3f}", f"{1000 * cost:.4g}"
