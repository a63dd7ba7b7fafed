"""What routing is worth on real outcomes: the real pipeline, and routers told the task's name.

Everything is on the test rows of a set, after training on its training rows. "Told the task" knows
which benchmark a query is from, and plays that task's averages: the mark of a router that reads the
query is to beat it. Both choose lambda on the same calibration rows and are measured on the same
test rows by the same function.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.results import Budget, Say, Section, Table, budget_table
from benchmarks.told import COST_FROM_TEXT, MEAN_COST, auc_per_tier, task_means
from router.decision import Predictions
from router.embedding import Embedder, load_embedder
from router.routing import Router
from training import metrics
from training.evaluate import evaluate
from training.features import embed_queries
from training.fit import FAMILIES
from training.pipeline import AUTO, train
from training.prepare import prepare
from training.results import Report
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

TRAINING_BUDGET_S = 60.0


@dataclass(frozen=True)
class Remembered:
    """An embedder whose vectors are kept on disk, so that each text is embedded once."""

    embedder: Embedder

    @property
    def id(self) -> str:
        """Of the embedder within."""
        return self.embedder.id

    @property
    def digest(self) -> str:
        """Of the embedder within."""
        return self.embedder.digest

    @property
    def dimension(self) -> int:
        """Of the embedder within."""
        return self.embedder.dimension

    def embed_one(self, text: str) -> Float32Array:
        """The vector (dimension,) of one text."""
        return self.embedder.embed_one(text)

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """Vectors (n, dimension)."""
        return embed_queries(self.embedder, texts)


@dataclass(frozen=True, slots=True)
class Roles:
    """The requests with every tier's outcome, by what the pipeline uses them for."""

    fitting: OutcomeTable
    calibration: OutcomeTable
    test: OutcomeTable

    @classmethod
    def of(cls, table: OutcomeTable, embedder: Embedder, seed: int, say: Say) -> Roles:
        """The pipeline's own division; test rows in the order of ``evaluate``."""
        rows = prepare(table, embedder, seed, say)
        test = table.take(rows.split.test & table.complete)
        return cls(
            rows.fitting.take(rows.fitting.complete),
            rows.held,
            test.take(np.argsort(test.request_id, kind="stable")),
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """One run of the pipeline with its evaluation; seconds are those of training alone."""

    asked: str
    manifest: Mapping[str, Any]
    report: Report
    predicted: Predictions
    calibration: Predictions
    auc: list[float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable: the evaluation's own JSON, and what it does not hold."""
        return {
            "asked": self.asked,
            "family": self.manifest["estimator"]["family"],
            "decision_values": self.manifest["estimator"]["decision_values"],
            "policy": self.manifest["policy"]["description"],
            "floor_menu": self.manifest["floor_menu"],
            "auc": self.auc,
            "training_s": self.seconds,
            "report": self.report.to_dict(),
        }


def train_and_evaluate(
    name: str, table: OutcomeTable, roles: Roles, embedder: str, estimator: str, seed: int, say: Say
) -> Trained:
    """Run the real pipeline in a temporary folder, and evaluate the artifact it writes."""
    label = f"{name}, {estimator}"
    with tempfile.TemporaryDirectory(prefix="cps-router-bench-") as folder:
        started = time.perf_counter()
        result = train(
            table,
            Path(folder) / "artifact",
            embedder=embedder,
            estimator=estimator,
            seed=seed,
            name=name,
            track=False,
            on_progress=lambda message: say(f"{label}: {message}"),
        )
        seconds = time.perf_counter() - started
        router = Router.load(result.folder)
    router.predictor = replace(router.predictor, embedder=Remembered(router.predictor.embedder))
    say(f"{label}: evaluating")
    report = evaluate(router, table, seed=seed)
    predicted = router.predict(list(roles.test.query))
    known = router.calibration
    calibration = Predictions(known.p_success, known.cost_usd, known.out_of_distribution)
    assert np.array_equal(known.success, roles.calibration.success)
    _check_same_rows(report, calibration, predicted, roles)
    auc = auc_per_tier(predicted.p_success, roles.test.success)
    return Trained(estimator, result.manifest, report, predicted, calibration, auc, seconds)


def _check_same_rows(
    report: Report, calibration: Predictions, predicted: Predictions, roles: Roles
) -> None:
    """The evaluation's rows are ``roles``'; else the baselines would be measured on others."""
    assert report.counts.n_requests == roles.test.n_requests
    again = mean_mix_ratio(
        (calibration.p_success, calibration.cost_usd),
        (predicted.p_success, predicted.cost_usd),
        roles,
    )
    assert report.mean_mix_ratio is not None
    assert abs(again - report.mean_mix_ratio.mean) < 1e-9


def mean_mix_ratio(
    calibration: tuple[FloatArray, FloatArray], test: tuple[FloatArray, FloatArray], roles: Roles
) -> float:
    """Mean mix ratio of predictions (P(success), cost) on calibration rows and on test rows."""
    return metrics.mean_mix_ratio(
        (*calibration, roles.calibration.success),
        (*test, roles.test.success, roles.test.cost_usd),
    ).mean


def told_the_task(roles: Roles, trained: Trained) -> dict[str, dict[str, Any]]:
    """Both routers that are told the task; the second has the cost predictions of ``trained``."""
    fitting = roles.fitting

    def means(outcome: FloatArray, rows: OutcomeTable) -> FloatArray:
        return task_means(fitting.task.tolist(), outcome, rows.task.tolist())

    p = means(fitting.success, roles.calibration), means(fitting.success, roles.test)
    by_task = means(fitting.cost_usd, roles.calibration), means(fitting.cost_usd, roles.test)
    from_text = trained.calibration.cost_usd, trained.predicted.cost_usd
    auc = auc_per_tier(p[1], roles.test.success)
    return {
        name: {
            "mean_mix_ratio": mean_mix_ratio((p[0], cost[0]), (p[1], cost[1]), roles),
            "auc": auc,
        }
        for name, cost in ((MEAN_COST, by_task), (COST_FROM_TEXT, from_text))
    }


def measure_set(
    name: str,
    table: OutcomeTable,
    embedder: str,
    embedder_label: str,
    say: Say,
    *,
    estimators: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[list[Table], dict[str, Any], list[Trained]]:
    """One set with one embedder: tables, JSON, and the runs themselves.

    By default of `auto` and of every family that it tried: without tasks those are fewer.
    """
    roles = Roles.of(
        table, load_embedder(embedder), seed, lambda message: say(f"{name}: {message}")
    )

    def run(estimator: str) -> Trained:
        return train_and_evaluate(name, table, roles, embedder, estimator, seed, say)

    if estimators is None:
        runs = [run(AUTO)]
        tried = runs[0].manifest["estimator"]["decision_values"]
        runs += [run(family) for family in FAMILIES if family in tried]
    else:
        runs = [run(estimator) for estimator in estimators]
    told = told_the_task(roles, runs[0])
    title = f"{name}, {embedder_label}"
    tables = [_menu_table(title, runs[0]), _runs_table(title, runs, told, table.tiers.names)]
    data = {
        "embedder": embedder_label,
        "seed": seed,
        "n_fitting": roles.fitting.n_requests,
        "n_calibration": roles.calibration.n_requests,
        "n_test": roles.test.n_requests,
        "runs": [run.to_dict() for run in runs],
        "told_the_task": told,
    }
    return tables, data, runs


def measure(
    tables: Mapping[str, OutcomeTable],
    left_out: Sequence[str],
    embedders: Mapping[str, str],
    say: Say,
    *,
    seed: int = 0,
) -> Section:
    """Every set with every embedder; ``embedders`` maps a label to what ``train`` takes."""
    shown: list[Table] = []
    data: dict[str, Any] = {"left_out": list(left_out), "sets": {}}
    budgets = []
    for name, table in tables.items():
        data["sets"][name] = []
        for label, embedder in embedders.items():
            found, numbers, runs = measure_set(name, table, embedder, label, say, seed=seed)
            shown += found
            data["sets"][name].append(numbers)
            if name == "paretobandit" and embedder == "static":
                what = f"train on {name} ({table.n_requests:,} x {len(table.tiers)}), auto"
                budgets = [Budget(what, runs[0].seconds, TRAINING_BUDGET_S, "s")]
    if budgets:
        shown.append(budget_table("Training budget", budgets))
    if left_out:
        shown.append(Table("Left out", ("set",), [(sentence,) for sentence in left_out]))
    data["budgets"] = [budget.to_dict() for budget in budgets]
    return Section("Quality", shown, data)


def _menu_table(title: str, run: Trained) -> Table:
    columns = ("floor", "certified", "policy", "success", "$ per 1,000")
    against = ("vs strongest", "vs best single", "vs mix", "more rows")
    rows = [
        (
            entry["floor"] + (" *" if entry["asked"] else ""),
            "yes" if entry["certified"] else "no",
            entry["policy"],
            f"{entry['success_rate']:.3f}",
            f"{1000 * entry['cost_usd_per_request']:.4g}",
            _percent(entry["saving_vs_always_strongest"]),
            _percent(entry["saving_vs_best_single_tier"]),
            _percent(entry["saving_vs_random_mix"]),
            "" if entry["rows_needed"] is None else f"~{entry['rows_needed']:,}",
        )
        for entry in run.manifest["floor_menu"]
    ]
    training = run.manifest["training"]
    note = (
        f"auto took {run.manifest['estimator']['family']}; {training['n_fitting']:,} rows fitted, "
        f"{training['n_calibration']:,} calibration rows, which the menu is about; * asked for."
    )
    verdict = f"On {run.report.counts.n_requests:,} test rows: {run.report.verdict.sentence}"
    return Table(f"{title}: floor menu", columns + against, rows, (note, verdict))


def _runs_table(
    title: str, runs: Sequence[Trained], told: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Table:
    columns = (
        *("router", "success", "$ per 1,000", "mix ratio [95 %]", "mean mix ratio", "verdict"),
        *("decision value", f"AUC {' '.join(names)}", "predicted / logged $", "training s"),
    )
    # What every family was worth in cross-validation is known from the run that compared them.
    values = max((run.manifest["estimator"]["decision_values"] for run in runs), key=len)
    rows: list[tuple[str, ...]] = []
    for run in runs:
        policy, family = run.report.policies["router"], run.manifest["estimator"]["family"]
        assert run.report.mean_mix_ratio is not None
        ratios = [tier.cost_calibration_ratio for tier in run.report.tiers.values()]
        rows.append(
            (
                f"{run.asked} ({family})" if run.asked == AUTO else run.asked,
                f"{policy.success_rate.value:.3f}",
                f"{1000 * policy.cost_usd_per_request.value:.4g}",
                _ratio(run.report),
                f"{run.report.mean_mix_ratio.mean:.3f}",
                run.report.verdict.label,
                f"{values[family]:.3f}" if family in values else "",
                " ".join(f"{auc:.3f}" for auc in run.auc),
                " ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                f"{run.seconds:.0f}",
            )
        )
    for name, found in told.items():
        aucs = " ".join(f"{auc:.3f}" for auc in found["auc"])
        rows.append((name, "", "", "", f"{found['mean_mix_ratio']:.3f}", "", "", aucs, "", ""))
    note = (
        "Test rows; lambda from calibration rows for all. Decision value: cross-validated cost of "
        "reaching floors around the one asked for, over that of the random mix. k: near a kink of "
        "the mix hull; a: above the best tier."
    )
    return Table(f"{title}: test rows", columns, rows, (note,))


def _ratio(report: Report) -> str:
    interval = report.mix_ratio_interval
    bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    flags = "k" * report.mix_ratio.near_kink + "a" * report.mix_ratio.above_best
    return f"{report.mix_ratio.ratio:.3f}{bounds}{' ' + flags if flags else ''}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
