"""An evaluation on logged feedback as text for a terminal; computes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from training.logged_verdict import LOGGING
from training.offpolicy import MIN_ESS
from training.report_text import new_table, render, with_interval

if TYPE_CHECKING:
    from training.logged_results import LoggedPolicy, LoggedReport
    from training.results import Estimate

_ESTIMATORS = ("dm", "ips", "snips", "dr")
_LEGEND = (
    f"{LOGGING}: what the log itself did. Effective sample: so many requests of its own would tell "
    f"as much about a policy; under {MIN_ESS:g}\nthere is no estimate. Never tried: share of its "
    "choices about which the log says nothing; intervals allow for the worst there."
)
_ABOUT_ESTIMATORS = (
    "DM takes the router's predictions for true (they were fitted on other queries); IPS and SNIPS "
    "weight\nwhat was logged; DR corrects DM by what was logged, and is right where either the "
    "predictions or\nthe propensities are."
)


def logged_text(report: LoggedReport) -> str:
    """What every policy would do on the logged requests, how well that is known, and a verdict."""
    lines = [*_head(report), "", _policies(report), ""]
    for name, policy in report.policies.items():
        if policy.evaluation.refusal is not None:
            lines.append(f"{name}: {_lower_first(policy.evaluation.refusal)}")
    caveats: dict[str, list[str]] = {}
    for name, policy in report.policies.items():
        for caveat in policy.evaluation.caveats:
            caveats.setdefault(caveat, []).append(name)
    lines += [
        caveat if len(names) >= len(report.policies) - 1 else f"{', '.join(names)}: {caveat}"
        for caveat, names in caveats.items()
    ]
    lines += [_LEGEND, ""]
    if any(policy.evaluation.values for policy in report.policies.values()):
        lines += [_estimators(report), "", _ABOUT_ESTIMATORS, ""]
    lines += [_tried(report), ""]
    if remarks := [*_saved(report), *report.notes]:
        lines += [*remarks, ""]
    lines.append(f"verdict: {report.verdict.sentence}")
    return "\n".join(lines)


def _head(report: LoggedReport) -> list[str]:
    counts = report.counts
    left_out = [
        f"{n:,} {why}"
        for n, why in (
            (counts.n_train_split, "of the train split"),
            (counts.n_left_out_trained, "the artifact was trained on"),
            (counts.n_without_outcome, "without an outcome of its tiers"),
            (counts.n_several_tiers, "with several tiers' outcomes and no propensity to choose by"),
            (counts.n_without_cost, "without a cost"),
            (counts.n_without_propensity, "without a propensity"),
        )
        if n
    ]
    used = f"{report.data}: {counts.n_requests:,} logged requests of {counts.n_rows:,} are used"
    if left_out:
        used += f" (left out: {', '.join(left_out)})"
    return [
        f"{used}; {report.confidence:.0%} intervals",
        "Each has one tier's outcome: what other choices would have done is estimated.",
        report.propensity.sentence,
    ]


def _policies(report: LoggedReport) -> str:
    table = new_table(
        "Cost per success on the logged requests (doubly robust estimates)",
        ("policy",),
        (
            "success",
            "interval",
            "$ per\n1,000",
            "interval",
            "CPS $",
            "interval",
            "effective\nsample",
            "largest\nweight",
            "clipped",
            "never\ntried",
            *(f"to {tier}" for tier in report.tiers),
        ),
    )
    for name, policy in report.policies.items():
        table.add_row(*_policy_row(name, policy), style="bold" if name == "router" else None)
    return render(table)


def _policy_row(name: str, policy: LoggedPolicy) -> tuple[str, ...]:
    value, weights = policy.headline, policy.evaluation.weights
    if value is None:
        numbers = ["no estimate", *[""] * 5]
    else:
        numbers = [
            *_cells(value.success_rate, "{:.3f}"),
            *_cells(value.cost_usd_per_request, "{:.4g}", 1000.0),
            *_cells(value.cps_usd, "{:.3g}"),
        ]
    n, missing = len(weights.values), policy.evaluation.missing_share
    return (
        name,
        *numbers,
        f"{weights.ess:,.0f}",
        f"{weights.largest:.3g}",
        f"{weights.n_clipped:,} ({weights.n_clipped / n:.1%})" if weights.n_clipped else "",
        f"{missing:.1%}" if missing else "",
        *(f"{share:.0%}" if share else "" for share in policy.share.values()),
    )


def _cells(estimate: Estimate, form: str, scale: float = 1.0) -> tuple[str, str]:
    interval = estimate.interval
    shown = "" if interval is None else " .. ".join(form.format(scale * x) for x in interval)
    return form.format(scale * estimate.value), shown


def _estimators(report: LoggedReport) -> str:
    table = new_table(
        "The same by all estimators",
        ("policy",),
        (
            *(f"success\n{name.upper()}" for name in _ESTIMATORS),
            *(f"CPS $\n{name.upper()}" for name in _ESTIMATORS),
        ),
    )
    for name, policy in report.policies.items():
        values = policy.evaluation.values
        if values:
            table.add_row(
                name,
                *(f"{values[key].success_rate.value:.3f}" for key in _ESTIMATORS),
                *(f"{values[key].cps_usd.value:.3g}" for key in _ESTIMATORS),
            )
    return render(table)


def _tried(report: LoggedReport) -> str:
    table = new_table(
        "What the log tried; success and CPS of what each tier was chosen for",
        ("tier",),
        (
            "requests",
            "share",
            "success",
            "CPS $",
            "propensity\nleast",
            "median",
            "can have been\ntried on",
        ),
    )
    for name, tier in report.tiers.items():
        overlap = report.overlap[name]
        quantiles = overlap.propensity_quantiles
        table.add_row(
            name,
            f"{tier.n:,}",
            f"{overlap.share:.1%}",
            f"{tier.success_rate:.3f}" if tier.n else "",
            f"{tier.cps_usd:.3g}" if tier.n else "",
            "" if overlap.propensity_min is None else f"{overlap.propensity_min:.3g}",
            "" if quantiles is None else f"{quantiles[len(quantiles) // 2]:.3g}",
            f"{overlap.supported_share:.1%}",
        )
    return render(table)


def _saved(report: LoggedReport) -> Iterable[str]:
    saved = report.saved
    if saved is None or saved.saved_share is None:
        return
    share, success = saved.saved_share, saved.success_rate_difference
    if math.isfinite(share.value):
        yield (
            f"the router against the log: saves {with_interval(share, '{:.1%}')} of its cost, at "
            f"{with_interval(success, '{:+.3f}')} of success rate"
        )


def _lower_first(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
