"""Sections on where the router is right and wrong: groups, calibration, the worst requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.report_html import Html, folded, scrolling, table, tag
from training.report_numbers import (
    NOTHING,
    cell,
    difference,
    estimate,
    level,
    percent,
    plain,
    rate,
    signed_usd_per_1000,
    usd,
    usd_per_1000,
    whole,
)
from training.report_panels import calibration_plots
from training.report_plots import forest_plot

Facts = Mapping[str, Any]

_SHOWN_CHARACTERS = 300
_DIMENSIONS = {
    "task": ("By task", "As the log names them."),
    "script": (
        "By script",
        "The script that a query's letters are in, as far as they tell; no language is guessed.",
    ),
    "length": ("By length", "Characters of the query."),
}
_FINDINGS = {"wins": "wins", "loses": "loses", "same": "the same", "not clear": "not clear"}


def groups(facts: Facts) -> list[Html]:
    """By task, script and length; all intervals hold at once."""
    found = facts["details"]["breakdown"]
    if found is None:
        return [
            tag(
                "p",
                "The artifact has no calibration rows on which every tier is known, so that no "
                "range is fixed beforehand and no group is judged.",
            )
        ]
    value = found["success_value_usd"]
    worth = "a value that is not finite" if value is None else usd(value)
    parts = [
        tag(
            "p",
            f"The gain is what the router saves plus what its further successes are worth ({worth} "
            f"each), against {found['strongest']}"
            + (f" and a {found['mix']}" if found["mix"] else "")
            + f". With {level(facts)} confidence all {found['n_intervals']:,} intervals of "
            "this section hold at once (betting, Bonferroni), so that you may look for the worst. "
            'They are wide: "not clear" means that so few requests do not tell.',
        )
    ]
    for dimension, rows in found["groups"].items():
        heading, remark = _DIMENSIONS[dimension]
        plot = forest_plot(
            f"forest-{dimension}",
            f"{heading}: success rate of the router less that of {found['strongest']}",
            f"success rate less that of {found['strongest']}"[:70],
            [
                (row["name"], row["success_difference"], row["success_difference_interval"])
                for row in rows
            ],
        )
        parts += [
            tag("h3", heading, id=f"groups-{dimension}"),
            tag("p", remark),
            scrolling(plot, f"Plot: difference in success rate, {heading.lower()}"),
            _group_table(heading, rows, has_mix=found["mix"] is not None),
        ]
    return parts


def _group_table(heading: str, groups_found: Sequence[Facts], *, has_mix: bool) -> Html:
    rows = [
        [
            group["name"],
            _FINDINGS[group["finding_against_strongest"]],
            *([_FINDINGS[group["finding_against_mix"]]] if has_mix else []),
            cell(group["n"], whole),
            cell(group["success_rate"], rate),
            estimate(group, "success_difference", difference),
            estimate(group, "gain_against_strongest_usd", signed_usd_per_1000),
            *([estimate(group, "gain_against_mix_usd", signed_usd_per_1000)] if has_mix else []),
            cell(group["cost_usd_per_request"], usd_per_1000),
            cell(group["saved_share"], percent),
            cell(group["cps_usd"], usd, infinite=True),
        ]
        for group in groups_found
    ]
    return table(
        f"{heading}: the router against always the strongest tier"
        + (" and against the coin-flip" if has_mix else ""),
        [
            "group",
            "against strongest",
            *(["against coin-flip"] if has_mix else []),
            "requests",
            "success rate",
            "less the strongest's",
            "gain per 1,000",
            *(["gain on coin-flip"] if has_mix else []),
            "USD per 1,000",
            "saved",
            "CPS",
        ],
        rows,
        words=3 if has_mix else 2,
        label=f"Table of groups, {heading.lower()}",
    )


def calibration(facts: Facts) -> list[Html]:
    """Predicted against realised success, and dollars."""
    tiers = facts["tiers"]
    rows = [
        [
            name,
            cell(tier["n"], whole),
            cell(tier["success_rate"], rate),
            cell(tier["calibration_error"], rate),
            cell(tier["cost_calibration_ratio"], plain),
        ]
        for name, tier in tiers.items()
    ]
    bins = [
        [
            name,
            cell(n, whole),
            cell(predicted, rate),
            cell(success, rate),
        ]
        for name, tier in tiers.items()
        for n, predicted, success in zip(
            tier["calibration_bins"]["n"],
            tier["calibration_bins"]["p_success"],
            tier["calibration_bins"]["success"],
            strict=True,
        )
    ]
    return [
        tag(
            "p",
            "Of each tier: the success that was predicted, and the success that came, in ten bins "
            "of equally many requests: predicted to the right, realised upwards, the same on the "
            "diagonal. With few requests a bin, "
            "the error is above 0 by chance alone.",
        ),
        calibration_plots(tiers),
        table(
            "Calibration of every tier",
            [
                "tier",
                "requests",
                "success rate",
                "calibration error",
                "predicted over actual dollars",
            ],
            rows,
            label="Table of calibration",
        ),
        folded(
            "Table: every bin",
            table(
                "Bins of predicted success",
                ["tier", "requests", "predicted", "realised"],
                bins,
                label="Table of calibration bins",
            ),
        ),
    ]


def worst(facts: Facts, texts: Mapping[str, str] | None) -> list[Html]:
    """In hindsight; texts only where they were asked for."""
    found = facts["details"]["worst"]
    if not found:
        return [
            tag(
                "p",
                "None: the router did on every request what hindsight would have done, or "
                "a success has no finite value.",
            )
        ]
    rows = []
    for request in found:
        row = [
            request["request_id"],
            request["task"] or NOTHING,
            request["tier"] + (" (out of distribution)" if request["out_of_distribution"] else ""),
            request["best_tier"],
            cell(request["p_success"], rate),
            cell(request["success"], plain),
            cell(request["cost_usd"], usd),
            cell(request["best_p_success"], rate),
            cell(request["best_success"], plain),
            cell(request["best_cost_usd"], usd),
            cell(request["regret_usd"], usd),
        ]
        if texts is not None:
            text = texts.get(request["request_id"])
            shown = "(kept without its text)" if text is None else _shortened(text)
            row.insert(1, tag("span", shown, class_="query"))
        rows.append(row)
    about = (
        "Their texts are shown, up to 300 characters: this file is then as private as your log."
        if texts is not None
        else "Texts are left out, since queries are private; --show-queries shows them."
    )
    return [
        tag(
            "p",
            "Regret is cost less the value of success, of what the router chose, less that of the "
            "best tier in hindsight. Much of it is chance that no query tells of. " + about,
        ),
        table(
            f"The {len(found)} requests of the greatest regret",
            [
                "request",
                *(["query"] if texts is not None else []),
                "task",
                "router took",
                "best was",
                "P(success)",
                "success",
                "cost",
                "best's P",
                "best's success",
                "best's cost",
                "regret",
            ],
            rows,
            words=4 if texts is None else 5,
            label="Table of the worst requests",
        ),
    ]


def _shortened(text: str) -> str:
    """The beginning of a text on one line."""
    # A text may be megabytes long, and blank.
    words = " ".join(text[: 10 * _SHOWN_CHARACTERS].split())
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[: _SHOWN_CHARACTERS - 1]}…"
