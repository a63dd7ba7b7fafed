"""The sections of a report on full feedback, and those that a report on a log shares with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.report_data import data_card, reproduce
from training.report_floors import floor_section
from training.report_groups import calibration, groups, worst
from training.report_html import Html, folded, join, scrolling, table, tag
from training.report_numbers import (
    NOTHING,
    cell,
    difference,
    estimate,
    in_words,
    interval_cell,
    level,
    percent,
    plain,
    rate,
    signed_usd_per_1000,
    usd,
    usd_per_1000,
    whole,
)
from training.report_plots import (
    bar_plot,
    frontier_key,
    frontier_plot,
)

Facts = Mapping[str, Any]
Section = tuple[str, str, list[Html]]


def full_sections(facts: Facts, texts: Mapping[str, str] | None) -> list[Section]:
    """(id, heading, content) of every section, in the order in which they are read."""
    return [
        ("verdict", "Verdict", verdict(facts)),
        ("cps", "Cost per success", cps(facts)),
        ("frontier-section", "Cost and success", frontier(facts)),
        ("savings", "Savings per month", savings(facts)),
        ("groups", "Where it wins and loses", groups(facts)),
        ("calibration", "Calibration per tier", calibration(facts)),
        ("floors", "The success floor", floor_section(facts)),
        ("worst", "Where the router was most wrong", worst(facts, texts)),
        ("data", "The data", data_card(facts)),
        ("reproduce", "How to reproduce it", reproduce(facts)),
    ]


def verdict(facts: Facts) -> list[Html]:
    """The sentence, its interval, and the bounds it rests on."""
    found = facts["verdict"]
    parts = [_badge(found["label"]), tag("p", found["sentence"], class_="verdict")]
    saved = facts["savings"]["against_strongest"]
    if saved["saved_share"] is not None:
        parts.append(
            tag(
                "p",
                f"Against {saved['baseline']} the router saves ",
                in_words(saved, "saved_share", percent),
                " of the cost, at a difference of ",
                in_words(saved, "success_rate_difference", difference),
                f" in success rate ({level(facts)} intervals).",
            )
        )
    floor = facts["floor"]
    if floor is not None:
        met = "is met" if floor["met"] else "is NOT met"
        parts.append(
            tag("p", f"Its floor, {floor['description']}, {met} on these requests by the mean.")
        )
    parts.append(
        bounds_table(
            found["bounds"],
            "always-",
            f"What the verdict rests on: loss (cost less the value of success) of the router less "
            f"that of each tier, USD per 1,000 requests; below 0 the router is better "
            f"({100 * found['confidence']:g} % bounds)",
        )
    )
    return parts


def bounds_table(bounds: Mapping[str, Facts], prefix: str, caption: str) -> Html:
    """Mean and bounds against each rival: the interval that the verdict's sentence rests on."""
    rows = [
        [
            prefix + name,
            cell(bound["mean_usd"], signed_usd_per_1000),
            "identical"
            if bound["identical"]
            else interval_cell([bound["lower_usd"], bound["upper_usd"]], signed_usd_per_1000),
        ]
        for name, bound in bounds.items()
    ]
    return table(caption, ["against", "mean", "bounds"], rows, label="Table of bounds")


def _badge(label: str) -> Html:
    kind = {"pays": "good", "does not pay": "bad", "refused": "bad"}.get(label, "open")
    return tag("p", tag("strong", label), class_=f"badge {kind}")


def cps(facts: Facts) -> list[Html]:
    """Every tier and every policy, and how far cost per success may be from what was seen."""
    tiers = list(facts["tiers"])
    rows = [
        [
            name,
            estimate(policy, "success_rate", rate),
            estimate(policy, "cost_usd_per_request", usd_per_1000),
            estimate(policy, "cps_usd", usd),
            cell(policy["total_cost_usd"], usd),
            *(cell(policy["share"][tier], percent) for tier in tiers),
        ]
        for name, policy in facts["policies"].items()
    ]
    ratio = facts["mix_ratio"]
    notes: list[Html] = []
    if all(policy["cps_is_infinite"] for policy in facts["policies"].values()):
        notes.append(
            tag(
                "p",
                "Nothing succeeded on these requests, on any tier: no cost per success is finite.",
            )
        )
    if ratio is not None:
        remarks = [
            words
            for words, holds in (
                (
                    "the router succeeds more often than every tier",
                    facts["mix_ratio_above_best"],
                ),
                ("near a kink of the mixes, where it is unstable", facts["mix_ratio_near_kink"]),
            )
            if holds
        ]
        notes.append(
            tag(
                "p",
                "Mix ratio, the router's cost over that of the cheapest coin-flip between single "
                "tiers at the same success rate: ",
                in_words(facts, "mix_ratio", plain),
                f" ({'; '.join(remarks)})." if remarks else ". Below 1 the router earns its keep.",
            )
        )
    return [
        tag(
            "p",
            f"All policies on the same {whole(facts['n_requests'])} requests, of which every "
            "tier's outcome is known. CPS is the sum of cost over the sum of successes. Below each "
            f"number its {level(facts)} interval.",
        ),
        table(
            "Cost per success of the router, of every tier alone, and of what it must beat",
            [
                "policy",
                "success rate",
                "USD per 1,000",
                "CPS",
                "total cost",
                *(f"to {t}" for t in tiers),
            ],
            rows,
            strong="router",
            label="Table of cost per success",
        ),
        *notes,
    ]


def frontier(facts: Facts) -> list[Html]:
    """The picture, the operating point and its certificate."""
    details = facts["details"]
    swept = facts["frontier"]
    rows = [
        [cell(value, usd), cell(cost, usd_per_1000), cell(success, rate)]
        for value, cost, success in zip(
            swept["success_value_usd"],
            swept["cost_usd_per_request"],
            swept["success_rate"],
            strict=True,
        )
    ]
    return [
        certificate(facts),
        scrolling(frontier_plot(facts), "Plot: cost and success of every policy"),
        frontier_key(facts),
        tag(
            "p",
            "Mixes of single tiers, cheapest first: ",
            join(details["hull"], ", "),
            ". A router is worth having where its curve lies to the left of them.",
        ),
        folded(
            "Table: the router at other values of a success",
            table(
                "The router's curve; the single points are in the table of cost per success",
                ["value of a success", "USD per 1,000", "success rate"],
                rows,
                label="Table of the frontier",
            ),
        ),
    ]


def certificate(facts: Facts) -> Html:
    """The operating point that is served, and what is promised of it."""
    details = facts["details"]
    found = details["certificate"]
    parts: list[object] = ["Operating point: ", tag("strong", details["policy"]), ". "]
    if found is None:
        parts.append(
            f"No floor was asked for ({details['data']['objective']}), so none is certified."
        )
    else:
        parts += [
            "Certificate: " if found["certified"] else "No certificate: ",
            found["sentence"],
            " There it succeeds at ",
            cell(found["success_rate"], rate),
            " and costs ",
            cell(found["cost_usd_per_request"], usd_per_1000),
            " per 1,000.",
        ]
    return tag("p", *parts)


def savings(facts: Facts) -> list[Html]:
    """A month at the user's volume."""
    details = facts["details"]
    monthly = details["monthly"]
    rows = [
        [
            name,
            estimate(month, "cost_usd", usd),
            estimate(month, "saved_usd", usd) if "saved_usd" in month else NOTHING,
            *(
                [
                    estimate(details["savings"][name], "saved_share", percent),
                    estimate(details["savings"][name], "success_rate_difference", difference),
                ]
                if name in details["savings"]
                else [NOTHING, NOTHING]
            ),
        ]
        for name, month in monthly.items()
    ]
    bars = [
        (name, month["cost_usd"], month["cost_usd_interval"])
        for name, month in monthly.items()
        if month["cost_usd"] is not None
    ]
    return [
        tag(
            "p",
            "At ",
            cell(details["requests_per_month"], whole),
            " requests a month like those that were compared, at their logged cost (",
            tag("code", "--requests-per-month", class_="flag"),
            " sets how many). Prompt caching and batch prices are not in it: ",
            tag("code", "cps-router savings", class_="flag"),
            " adds them.",
        ),
        scrolling(
            bar_plot("monthly", "Dollars per month of every policy", bars),
            "Plot: dollars per month",
        ),
        table(
            "A month, and what the router saves against each policy (below 0: costs more)",
            [
                "policy",
                "USD per month",
                "router saves",
                "share saved",
                "router's success rate less its",
            ],
            rows,
            strong="router",
            label="Table of savings",
        ),
    ]
