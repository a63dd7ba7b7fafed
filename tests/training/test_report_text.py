"""Results as text: readable at 110 columns, and nothing crashes on awkward results."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import Router
from training.evaluate import evaluate
from training.experiment import RunInfo
from training.pipeline import TrainResult, train
from training.report_text import menu_text, report_text, training_text
from training.results import Estimate, Report
from training.search import Objective
from training.synthetic import make_world, sample
from training.table import OutcomeTable


def menu_row(**changes: Any) -> dict[str, Any]:
    row = {
        "floor": "success rate >= that of frontier - 0.05",
        "asked": False,
        "certified": True,
        "policy": "routed, a success worth $0.00832",
        "success_rate": 0.9062,
        "cost_usd_per_request": 0.00049478,
        "saving_vs_always_strongest": 0.967,
        "best_single_tier": "mid",
        "saving_vs_best_single_tier": 0.0019,
        "saving_vs_random_mix": -0.0096,
        "rows_needed": None,
        "sentence": "...",
    }
    return row | changes


MENU = [
    menu_row(
        floor="success rate >= that of frontier - 0.02",
        certified=False,
        policy="always frontier",
        saving_vs_best_single_tier=-12.018,
        rows_needed=12345,
    ),
    menu_row(asked=True),
    menu_row(floor="success rate >= 0.9", policy="40% mid, 60% frontier"),
]


def test_the_floor_menu_is_one_line_per_floor_in_110_columns() -> None:
    lines = menu_text(MENU).splitlines()
    assert max(map(len, lines)) <= 110
    title, above, header, *rows = lines
    assert title.startswith("Floor menu") and "* is the one asked for" in title
    assert header.split()[:3] == ["floor", "certified", "policy"]
    assert [row.split("  ")[0] for row in rows] == ["frontier - 0.02", "frontier - 0.05 *", "0.9"]
    assert rows[0].split()[3:] == [
        *("no", "always", "frontier", "0.906", "0.4948", "96.7%", "-1201.8%", "-1.0%", "~12,345")
    ]
    assert rows[1].split()[4:] == ["yes", "routed", "0.906", "0.4948", "96.7%", "0.2%", "-1.0%"]
    assert "40% mid, 60% frontier" in rows[2]
    # Numbers stand under the end of their heading.
    end = (above.index("best") + 4, header.index("success") + 7)
    assert {row[end[0] - 1] for row in rows} == {"%"}
    assert {row[end[1] - 5 : end[1]] for row in rows} == {"0.906"}


def test_a_floor_menu_without_savings_or_with_strange_names() -> None:
    nothing = {
        "saving_vs_always_strongest": None,
        "saving_vs_best_single_tier": None,
        "saving_vs_random_mix": None,
        "cost_usd_per_request": 0.0,
        "success_rate": 0.0,
    }
    text = menu_text(
        [
            menu_row(**nothing),
            # What rich would read as markup, a link or an emoji.
            menu_row(policy="always [red]x[/red] :smile: [/]"),
            menu_row(floor="success rate >= that of " + "a-very-long-name-of-a-tier" * 5),
        ]
    )
    assert "None" not in text and "nan" not in text
    assert "always [red]x[/red] :smile: [/]" in text
    assert "a-very-long-name-of-a-tier" * 5 in text
    assert len(text.splitlines()) == 6


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return sample(make_world(), 200, 0).table


@pytest.fixture(scope="module")
def result(table: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("report") / "artifact"
    return train(table, folder, estimator="logistic", track=False)


@pytest.fixture(scope="module")
def report(table: OutcomeTable, result: TrainResult) -> Report:
    return evaluate(Router.load(result.folder), table, n_bootstrap=100)


def test_what_training_made(result: TrainResult) -> None:
    text = training_text(result)
    training = result.manifest["training"]
    assert f"{training['n_fitting']} requests fitted, {training['n_calibration']} for the" in text
    assert f"{training['n_test']} left for testing (hash split)" in text
    assert result.manifest["certificate"]["sentence"] in text
    assert result.manifest["policy"]["description"] in text
    assert f"artifact {result.manifest['artifact_id']} is in {result.folder}" in text
    assert "MLflow" not in text
    logged = replace(result, run=RunInfo("run-7", "sqlite:///x.db", "mlflow server --x"))
    assert "MLflow run run-7; to look at it: mlflow server --x" in training_text(logged)


def test_what_training_made_without_a_floor(table: OutcomeTable, tmp_path: Path) -> None:
    objective = Objective("value", amount_usd=0.01)
    made = train(table, tmp_path, objective=objective, estimator="logistic", track=False)
    text = training_text(made)
    assert "objective: a success is worth $0.01" in text
    assert " *" not in text.replace("* is the one", "")


def lines_of_policies(text: str, report: Report) -> list[str]:
    lines = text.splitlines()
    return [next(line for line in lines if line.startswith(name)) for name in report.policies]


def test_an_evaluation_in_110_columns(report: Report) -> None:
    text = report_text(report)
    table = [line for line in text.splitlines() if line.startswith(("policy", *report.policies))]
    assert max(map(len, table)) <= 110
    assert len(table) == len(report.policies) + 1
    header = table[0]
    assert header.split()[-6:] == ["to", "nano", "to", "mid", "to", "frontier"]
    for line, policy in zip(lines_of_policies(text, report), report.policies.values(), strict=True):
        assert f"{policy.success_rate.value:.3f}" in line
        assert f"{policy.cps_usd.value:.3g}" in line
        # Shares stand under their tier.
        for tier, share in policy.share.items():
            end = header.index(f"to {tier}") + len(f"to {tier}")
            cell = line[end - 5 : end].strip()
            assert cell == (f"{share:.0%}" if share else "")
    assert report.verdict.sentence in text
    assert f"{report.counts.n_requests} requests compared" in text
    assert "mix ratio (cost over the cheapest coin-flip at the same success rate): " in text


def bare(estimate: Estimate, value: float | None = None) -> Estimate:
    return Estimate(estimate.value if value is None else value, None)


def test_without_intervals_and_with_nothing_to_compare(report: Report) -> None:
    policies = {
        name: replace(
            policy,
            success_rate=bare(policy.success_rate, 0.0),
            cost_usd_per_request=bare(policy.cost_usd_per_request),
            cps_usd=bare(policy.cps_usd, math.inf),
        )
        for name, policy in report.policies.items()
    }
    saving = report.against_strongest
    free = replace(report.against_random_mix, saved_share=None)
    plain = replace(
        saving,
        saved_share=None if saving.saved_share is None else bare(saving.saved_share),
        success_rate_difference=bare(saving.success_rate_difference),
    )
    text = report_text(
        replace(
            report,
            policies=policies,
            against_strongest=plain,
            against_random_mix=free,
            against_best_single_tier=None,
            mix_ratio=replace(report.mix_ratio, ratio=math.nan, above_best=True, near_kink=True),
            mix_ratio_interval=None,
            mean_mix_ratio=None,
            apgr=None,
            floor=None,
        )
    )
    for line in lines_of_policies(text, report):
        assert " inf" in line and ".." not in line
    assert text.count("saved against") == 1
    assert "above the best single tier's success rate; near a kink of the mix hull" in text
    assert "mean mix ratio" not in text and "floor:" not in text
    assert "None" not in text


def test_an_infinite_end_of_an_interval_is_shown(report: Report) -> None:
    router = report.policies["router"]
    endless = replace(router, cps_usd=Estimate(0.5, (0.1, math.inf)))
    text = report_text(replace(report, policies={**report.policies, "router": endless}))
    assert "0.1 .. inf" in lines_of_policies(text, report)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"success": 0.0},
        {"success": 1.0},
        {"cost_usd": 0.0, "input_tokens": None, "output_tokens": None},
    ],
)
@pytest.mark.parametrize("n_tiers", [1, 3])
def test_results_of_awkward_data_are_told(
    change: dict[str, Any], n_tiers: int, tmp_path: Path
) -> None:
    drawn = sample(make_world(n_tiers), 120, 0).table
    shape = drawn.success.shape
    columns = {"success": drawn.success, "cost_usd": drawn.cost_usd} | change
    success, cost = (np.broadcast_to(columns[name], shape) for name in ("success", "cost_usd"))
    table = OutcomeTable.from_arrays(drawn.tiers, drawn.query, success, cost)
    made = train(table, tmp_path, estimator="logistic", track=False)
    assert "Floor menu" in training_text(made)
    found = evaluate(Router.load(tmp_path), table, n_bootstrap=20)
    text = report_text(found)
    assert found.verdict.sentence in text
    assert "None" not in text
    if change.get("success") == 0.0:
        assert all(" inf" in line for line in lines_of_policies(text, found))
