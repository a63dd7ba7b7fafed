"""The sections of a report on a log of one tier's outcome per request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.report_data import data_card, remark_list, reproduce
from training.report_floors import floor_section
from training.report_html import Html, escape, folded, scrolling, table, tag
from training.report_numbers import (
    NOTHING,
    cell,
    difference,
    estimate,
    in_words,
    percent,
    plain,
    rate,
    usd,
    usd_per_1000,
    whole,
)
from training.report_plots import bar_plot, frontier_key, frontier_plot
from training.report_sections import (
    Section,
    bounds_table,
    certificate,
)

Facts = Mapping[str, Any]


def logged_sections(facts: Facts) -> list[Section]:
    """As ``full_sections``; what no log can tell is said to be missing."""
    return [
        ("verdict", "Verdict", _verdict(facts)),
        ("cps", "Cost per success", _cps(facts)),
        ("frontier-section", "Cost and success", _frontier(facts)),
        ("savings", "Savings per month", _savings(facts)),
        ("floors", "The success floor", floor_section(facts)),
        ("overlap", "What the log can tell", _overlap(facts)),
        ("missing", "What it cannot", _missing()),
        ("data", "The data", data_card(facts)),
        ("reproduce", "How to reproduce it", reproduce(facts)),
    ]


def _verdict(facts: Facts) -> list[Html]:
    found = facts["verdict"]
    kind = {"pays": "good", "does not pay": "bad", "refused": "bad"}.get(found["label"], "open")
    parts = [
        tag("p", tag("strong", found["label"]), class_=f"badge {kind}"),
        tag("p", found["sentence"], class_="verdict"),
    ]
    saved = facts["savings"]["against_logging"]
    if saved is not None and saved["saved_share"] is not None:
        parts.append(
            tag(
                "p",
                "Against what the log did, the router saves ",
                in_words(saved, "saved_share", percent),
                " of the cost, at a difference of ",
                in_words(saved, "success_rate_difference", difference),
                f" in success rate ({100 * facts['confidence']:g} % intervals).",
            )
        )
    bounds = {f"always-{name}": bound for name, bound in found["bounds"].items()}
    bounds["the log"] = found["logging"]
    parts.append(
        bounds_table(
            bounds,
            "",
            "What the verdict rests on: loss (cost less the value of success) of the router less "
            "that of each rival, USD per 1,000 requests; below 0 the router is better "
            f"({100 * found['confidence']:g} % bounds)",
        )
    )
    return parts


def _cps(facts: Facts) -> list[Html]:
    tiers = list(facts["tiers"])
    rows = []
    for name, policy in facts["policies"].items():
        weights = policy["weights"]
        rows.append(
            [
                name,
                estimate(policy, "success_rate", rate),
                estimate(policy, "cost_usd_per_request", usd_per_1000),
                estimate(policy, "cps_usd", usd),
                cell(weights["effective_sample_size"], whole),
                *(cell(policy["share"][tier], percent) for tier in tiers),
            ]
        )
    return [
        tag(
            "p",
            f"{whole(facts['n_requests'])} logged requests with one tier's outcome each: what "
            "other choices would have done is estimated (doubly robust), weighted by how likely "
            "each was. "
            f"{facts['propensity']['sentence']} A dash: the log has no estimate.",
        ),
        table(
            "Cost per success of the router, of the log itself, and of every tier alone",
            [
                "policy",
                "success rate",
                "USD per 1,000",
                "CPS",
                "effective sample",
                *(f"to {tier}" for tier in tiers),
            ],
            rows,
            strong="router",
            label="Table of cost per success",
        ),
    ]


def _frontier(facts: Facts) -> list[Html]:
    parts = [certificate(facts)]
    if any(policy["success_rate"] is not None for policy in facts["policies"].values()):
        parts += [
            scrolling(frontier_plot(facts), "Plot: cost and success of every policy"),
            frontier_key(facts),
            tag("p", "Only policies of which the log has an estimate."),
            folded(
                "Table: every point",
                table(
                    "Cost and success of every policy",
                    ["policy", "USD per 1,000 requests", "success rate"],
                    [
                        [
                            name,
                            estimate(policy, "cost_usd_per_request", usd_per_1000),
                            estimate(policy, "success_rate", rate),
                        ]
                        for name, policy in facts["policies"].items()
                    ],
                    label="Table of cost and success",
                ),
            ),
        ]
    else:
        parts.append(
            tag("p", "The log has no estimate of any policy, so there is nothing to draw.")
        )
    return parts


def _savings(facts: Facts) -> list[Html]:
    details = facts["details"]
    monthly = details["monthly"]
    bars = [
        (name, month["cost_usd"], month["cost_usd_interval"])
        for name, month in monthly.items()
        if month["cost_usd"] is not None
    ]
    rows = [
        [
            name,
            estimate(month, "cost_usd", usd),
            estimate(month, "saved_usd", usd) if "saved_usd" in month else NOTHING,
        ]
        for name, month in monthly.items()
    ]
    parts = [
        tag(
            "p",
            "At ",
            cell(details["requests_per_month"], whole),
            " requests a month like the logged ones (",
            tag("code", "--requests-per-month", class_="flag"),
            " sets how many).",
        )
    ]
    if bars:
        parts.append(
            scrolling(
                bar_plot("monthly", "Dollars per month of every policy", bars),
                "Plot: dollars per month",
            )
        )
    parts.append(
        table(
            "A month, and what the router saves against the log",
            ["policy", "USD per month", "router saves"],
            rows,
            strong="router",
            label="Table of savings",
        )
    )
    return parts


def _overlap(facts: Facts) -> list[Html]:
    tiers = facts["tiers"]
    rows = []
    for name, overlap in facts["overlap"].items():
        quantiles = overlap["propensity_quantiles"]
        rows.append(
            [
                name,
                cell(overlap["n"], whole),
                cell(overlap["share"], percent),
                cell(tiers[name]["success_rate"], rate),
                cell(tiers[name]["cps_usd"], usd, tiers[name]["cps_is_infinite"]),
                cell(overlap["propensity_min"], plain),
                cell(None if quantiles is None else quantiles[len(quantiles) // 2], plain),
                cell(overlap["effective_sample_size"], whole),
                cell(overlap["supported_share"], percent),
            ]
        )
    refused = [
        f"{name}: {policy['refusal']}"
        for name, policy in facts["policies"].items()
        if policy["refusal"] is not None
    ]
    caveats = list(
        dict.fromkeys(c for policy in facts["policies"].values() for c in policy["caveats"])
    )
    weights = [
        [
            name,
            cell(policy["weights"]["effective_sample_size"], whole),
            cell(policy["weights"]["largest"], plain),
            cell(policy["weights"]["n_clipped"], whole),
            cell(policy["missing_share"], percent),
        ]
        for name, policy in facts["policies"].items()
    ]
    parts = [
        tag("p", escape(facts["propensity"]["sentence"])),
        table(
            "What the log tried; success and CPS are of what each tier was chosen for",
            [
                "tier",
                "requests",
                "share",
                "success rate",
                "CPS",
                "least propensity",
                "median",
                "effective sample",
                "can have been tried on",
            ],
            rows,
            label="Table of overlap",
        ),
        table(
            f"How much the log says of each policy; below an effective sample of "
            f"{facts['min_effective_sample_size']:g}, or above "
            f"{100 * facts['max_missing_share']:g} % never tried, there is no estimate",
            ["policy", "effective sample", "largest weight", "clipped", "never tried"],
            weights,
            label="Table of effective samples",
        ),
        tag("h3", "What was refused"),
        remark_list(refused) if refused else tag("p", "Nothing: the log has an estimate of all."),
    ]
    if caveats or facts["notes"]:
        parts += [
            tag("h3", "What belongs beside the numbers"),
            remark_list([*caveats, *facts["notes"]]),
        ]
    return parts


def _missing() -> list[Html]:
    return [
        tag(
            "p",
            "A log shows one tier's outcome per request. So there is no oracle and no random mix "
            "here, no calibration of tiers on what they were not chosen for, no list of the "
            "requests on which another tier would have been better, and no division into groups: "
            "run a few hundred requests on every tier to see them.",
        )
    ]
