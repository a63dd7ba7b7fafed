"""Results as text for a terminal: tables and sentences; computes nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from training.pipeline import TrainResult
    from training.results import Estimate, PolicyResult, Report
from training.search import CONFINED

# Wider than any table: cells are never folded. With three tiers a table takes about 110 columns.
_WIDTH = 1000


def training_text(result: TrainResult) -> str:
    """What training made: data, policy, certificate, floor menu, and where it is."""
    manifest = result.manifest
    training, certificate = manifest["training"], manifest["certificate"]
    read = training["read"]
    rows = (
        f"{training['n_fitting']:,} requests fitted, {training['n_calibration']:,} for the "
        f"certificate, {training['n_test']:,} left for testing ({training['split']['source']} "
        f"split); {read['n_bad']:,} bad rows, {read['n_not_a_tier']:,} rows of no tier."
    )
    if read["reasons"]:
        reasons = "; ".join(f"{reason} ({n:,})" for reason, n in read["reasons"].items())
        rows += f"\nbad rows, listed in the .rejects.jsonl file: {reasons}"
    feedback = manifest["feedback"]
    if feedback["kind"] == "logged":
        rows += (
            f"\na log of one tier's outcome per request, propensities {feedback['propensity']}: "
            "success and cost below are doubly robust estimates, on an effective sample of "
            f"{feedback['effective_sample_size']:,.0f} of the calibration requests."
        )
    lines = [
        rows,
        f"estimator: {manifest['estimator']['family']}",
        f"policy: {manifest['policy']['description']}",
        certificate["sentence"] if certificate else f"objective: {manifest['objective']}",
        "",
        menu_text(manifest["floor_menu"]),
        "",
        f"artifact {manifest['artifact_id']} is in {result.folder}",
    ]
    if result.run:
        lines.append(f"MLflow run {result.run.run_id}; to look at it: {result.run.ui_command}")
    return "\n".join(lines)


def menu_text(menu: Sequence[dict[str, Any]]) -> str:
    """The floor menu: what each floor would cost, on the calibration rows."""
    table = new_table(
        "Floor menu on the calibration rows (* is the one asked for; vs: share of its cost saved)",
        ("floor", "certified", "policy"),
        (
            "success",
            "$ per\n1,000",
            "vs\nstrongest",
            "vs best\nsingle",
            "vs random\nmix",
            "rows\nneeded",
        ),
    )
    for row in menu:
        floor = row["floor"].removeprefix("success rate >= ").removeprefix("that of ")
        # The table is about floors; the success value that each comes to is in the manifest.
        policy = row["policy"].removesuffix(CONFINED)
        policy = "routed" if policy.startswith("routed,") else policy
        table.add_row(
            floor + (" *" if row["asked"] else ""),
            "yes" if row["certified"] else "no",
            policy,
            f"{row['success_rate']:.3f}",
            f"{1000 * row['cost_usd_per_request']:.4g}",
            _share(row["saving_vs_always_strongest"]),
            _share(row["saving_vs_best_single_tier"]),
            _share(row["saving_vs_random_mix"]),
            "" if row["rows_needed"] is None else f"~{row['rows_needed']:,}",
        )
    return render(table)


def report_text(report: Report) -> str:
    """An evaluation: cost per success of tiers and policies, savings, verdict."""
    counts = report.counts
    head = (
        f"{report.data}: {counts.n_requests:,} requests compared "
        f"({counts.n_train_split:,} of the train split, {counts.n_left_out_trained:,} the artifact "
        f"was trained on and {counts.n_incomplete:,} without every tier's outcome left out); "
        f"{report.confidence:.0%} intervals"
    )
    table = new_table(
        "Cost per success on the test rows",
        ("policy",),
        (
            "success",
            "$ per 1,000",
            "CPS $",
            "CPS interval",
            *(f"to {tier}" for tier in report.tiers),
        ),
    )
    for name, policy in report.policies.items():
        table.add_row(*_policy_row(name, policy), style="bold" if name == "router" else None)
    lines = [head, "", render(table), ""]
    savings = [
        report.against_strongest,
        report.against_best_single_tier,
        report.against_random_mix,
    ]
    # The best single tier may be the strongest one.
    for saving in {saving.baseline: saving for saving in savings if saving is not None}.values():
        if saving.saved_share is not None:
            difference = saving.success_rate_difference
            lines.append(
                f"saved against {saving.baseline}: {with_interval(saving.saved_share, '{:.1%}')} "
                f"of its cost, at {with_interval(difference, '{:+.3f}')} of success rate"
            )
    ratio = report.mix_ratio
    interval = report.mix_ratio_interval
    notes = [
        note
        for note, holds in (
            ("above the best single tier's success rate", ratio.above_best),
            ("near a kink of the mix hull, where it is unstable", ratio.near_kink),
        )
        if holds
    ]
    lines.append(
        f"mix ratio (cost over the cheapest coin-flip at the same success rate): "
        f"{ratio.ratio:.3f}"
        + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
        + (f" ({'; '.join(notes)})" if notes else "")
    )
    if report.mean_mix_ratio is not None:
        # One floor near a kink can outweigh the others in the mean.
        found = report.mean_mix_ratio
        lines.append(
            f"mean mix ratio over {len(found.floors)} floors: {found.mean:.3f}, "
            f"median {found.median:.3f}"
        )
    errors = ", ".join(f"{name} {t.calibration_error:.3f}" for name, t in report.tiers.items())
    lines.append(f"AIQ {report.aiq:.4f}; calibration error of P(success): {errors}")
    ratios = ", ".join(
        f"{name} {t.cost_calibration_ratio:.2f}"
        for name, t in report.tiers.items()
        if t.cost_calibration_ratio is not None
    )
    lines.append(f"predicted over actual dollars: {ratios}")
    if report.floor is not None:
        met = "met" if report.floor.met else "not met"
        lines.append(f"floor: {report.floor.description}: {met} on these rows")
    lines += ["", f"verdict: {report.verdict.sentence}"]
    return "\n".join(lines)


def _policy_row(name: str, policy: PolicyResult) -> tuple[str, ...]:
    interval = policy.cps_usd.interval
    return (
        name,
        f"{policy.success_rate.value:.3f}",
        f"{1000 * policy.cost_usd_per_request.value:.4g}",
        f"{policy.cps_usd.value:.3g}",
        "" if interval is None else f"{interval[0]:.3g} .. {interval[1]:.3g}",
        *(f"{share:.0%}" if share else "" for share in policy.share.values()),
    )


def with_interval(estimate: Estimate, form: str) -> str:
    """A number and, where there is one, its interval in brackets, each in the given form."""
    if estimate.interval is None:
        return form.format(estimate.value)
    low, high = (form.format(bound) for bound in estimate.interval)
    return f"{form.format(estimate.value)} [{low}, {high}]"


def _share(value: float | None) -> str:
    # Adding 0.0 takes the sign off a rounded nothing.
    return "" if value is None else f"{round(value, 3) + 0.0:.1%}"


def new_table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table with columns of words, to the left, and then of numbers, to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in words:
        table.add_column(Text(name))
    for name in numbers:
        table.add_column(Text(name), justify="right")
    return table


def render(table: Table) -> str:
    """The table as plain text, without blanks at the ends of lines."""
    out = io.StringIO()
    # Names are the user's: what looks like markup in them is text.
    Console(file=out, width=_WIDTH, no_color=True, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
