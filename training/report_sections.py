"""The sections of a report on full feedback, and those that a report on a log shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.report_floors import floor_section
from training.report_html import Html, escape, folded, join, scrolling, table, tag
from training.report_numbers import (
    NOTHING,
    cell,
    difference,
    estimate,
    in_words,
    interval_cell,
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
    calibration_plots,
    forest_plot,
    frontier_key,
    frontier_plot,
)

Facts = Mapping[str, Any]
Section = tuple[str, str, list[Html]]

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
                f" in success rate ({_confidence(facts)} intervals).",
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


def _confidence(facts: Facts) -> str:
    return f"{100 * facts['confidence']:g} %"


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
            f"number its {_confidence(facts)} interval.",
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
            + f". With {_confidence(facts)} confidence all {found['n_intervals']:,} intervals of "
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


def data_card(facts: Facts) -> list[Html]:
    """What was read, what was left out, what was trained on."""
    data = facts["details"]["data"]
    read, training = data["read"], data["training"]
    counts = [
        (name, words)
        for name, words in (
            ("n_rows", "requests in the file"),
            ("n_train_split", "left out: of the train split"),
            ("n_left_out_trained", "left out: the artifact was trained on the text"),
            ("n_incomplete", "left out: without every tier's outcome"),
            ("n_without_outcome", "left out: without an outcome of its tiers"),
            ("n_several_tiers", "left out: several tiers, and none was said to be chosen"),
            ("n_without_cost", "left out: without a cost"),
            ("n_without_propensity", "left out: without a propensity"),
            ("n_requests", "requests used"),
            ("n_texts", "different texts among them"),
        )
        if name in facts
    ]
    rejected: list[list[object]] = [
        [f"rejected: {reason}", cell(n, whole)] for reason, n in read["reasons"].items()
    ]
    used: list[list[object]] = [[words, cell(facts[name], whole)] for name, words in counts]
    rows: list[list[object]] = [
        ["file", facts["data"] or NOTHING],
        ["rows read", cell(read["n_rows"], whole)],
        ["rows that are no outcome (rejected)", cell(read["n_bad"], whole)],
        *rejected,
        ["rows of models that are no tier", cell(read["n_not_a_tier"], whole)],
        ["retries, not counted", cell(read["n_retries"], whole)],
        *used,
        ["out of distribution", cell(facts["out_of_distribution_share"], percent)],
        ["fingerprint of what was compared", tag("code", data["fingerprint"])],
        [
            "trained on",
            (training["name"] or NOTHING) + (" (synthetic)" if training["synthetic"] else ""),
        ],
        ["training: requests fitted", cell(training["n_fitting"], whole)],
        ["training: calibration requests", cell(training["n_calibration"], whole)],
        ["training: split", (training["split"] or {}).get("source") or NOTHING],
        ["training: fingerprint", tag("code", training["fingerprint"] or NOTHING)],
        ["objective", data["objective"] or NOTHING],
        ["estimator", data["estimator"]],
        ["embedder", data["embedder"]],
    ]
    return [table("Data card", ["what", "value"], rows, words=2, label="Data card")]


def reproduce(facts: Facts) -> list[Html]:
    """Command, artifact, seed and versions."""
    found, data = facts["details"]["reproduction"], facts["details"]["data"]
    rows: list[list[object]] = [
        ["artifact", tag("code", facts["artifact_id"])],
        ["artifact made", data["created"] or NOTHING],
        ["prices as of", data["prices_as_of"] or NOTHING],
        ["seed", cell(facts["seed"], whole)],
        ["confidence", cell(facts["confidence"], percent)],
    ]
    if "n_bootstrap" in facts:
        rows.append(["resamples", cell(facts["n_bootstrap"], whole)])
    rows += [[name, version] for name, version in found["versions"].items()]
    command = found["command"]
    return [
        *([] if command is None else [tag("pre", tag("code", command), tabindex="0")]),
        tag(
            "p",
            "The same artifact, data, seed and versions give this file again, byte for byte. All "
            "its numbers are in report.json beside it.",
        ),
        table("Artifact, seed and versions", ["what", "value"], rows, words=2, label="Versions"),
    ]


def remark_list(sentences: Sequence[str]) -> Html:
    """Sentences that belong beside the numbers."""
    return tag("ul", *(tag("li", escape(sentence)) for sentence in sentences))
