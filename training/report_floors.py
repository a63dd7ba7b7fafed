"""The floor explorer: a slider over the success floors, and the table that stands for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.report_html import Html, folded, json_script, scrolling, table, tag
from training.report_numbers import (
    NOTHING,
    cell,
    estimate,
    percent,
    rate,
    usd,
    usd_per_1000,
    whole,
)
from training.report_panels import level_words, marker_x, share_plot, tier_key

Facts = Mapping[str, Any]


def floor_section(facts: Facts) -> list[Html]:
    """Shares as the floor moves, the explorer, and every floor in a table."""
    floors, tiers = facts["details"]["floors"], list(facts["tiers"])
    points = floors["points"]
    asked = next((i for i, point in enumerate(points) if point["asked"]), len(points) - 1)
    certified = f"{100 * floors['confidence']:g} %"
    where = "the compared requests" if points[0]["measured"] else "the calibration rows"
    return [
        tag(
            "p",
            "What the same estimators would do at other success floors. Each floor is certified by "
            f"itself, at {certified} confidence, on the {whole(floors['n_calibration'])} "
            "calibration rows that the artifact carries, as training does it. The confidence does "
            "not cover picking a floor after looking at all of them: choose one for what it is "
            "worth to you, then train with it. Cost, success and CPS are on "
            f"{where}.",
        ),
        _explorer(floors, tiers, asked),
        scrolling(share_plot(floors, tiers), "Plot: share of requests per tier at every floor"),
        tier_key(tiers),
        folded("Table: every floor", _table(floors, tiers, certified)),
        json_script("floor-data", _data(floors, tiers)),
    ]


def _explorer(floors: Facts, tiers: Sequence[str], asked: int) -> Html:
    """Shown by the script alone: without one, the table of floors stands there."""
    points = floors["points"]
    rows = [*_ROWS, *((f"share-{t}", f"to {name}") for t, name in enumerate(tiers))]
    reference = floors["relative_to"]
    what = (
        "Success floor"
        if reference is None
        else f"Success floor, in points relative to always-{reference}"
    )
    outputs = [
        tag("div", tag("dt", words), tag("dd", "", id=f"floor-{key}")) for key, words in rows
    ]
    return tag(
        "div",
        tag("label", what, for_="floor-slider"),
        tag(
            "input",
            type="range",
            id="floor-slider",
            min=0,
            max=len(points) - 1,
            step=1,
            value=asked,
            aria_controls="floor-output",
        ),
        tag("p", "", id="floor-words", class_="floor-words", role="status"),
        tag("dl", *outputs, id="floor-output", class_="facts"),
        id="floor-explorer",
        class_="explorer",
        hidden=True,
    )


_ROWS = (
    ("certified", "certified"),
    ("policy", "policy"),
    ("success", "success rate"),
    ("cost", "USD per 1,000 requests"),
    ("cps", "cost per success"),
    ("saved", "saved of always the strongest"),
    ("rows", "calibration rows needed"),
)


def _data(floors: Facts, tiers: Sequence[str]) -> dict[str, Any]:
    """What the script shows at every floor: the words of the table, computed nowhere else."""
    shown = []
    for point in floors["points"]:
        best = point["measured"] or point["calibration"]
        words = {
            "level": level_words(floors, point["level"]),
            "words": point["floor"] + (", the one asked for" if point["asked"] else ""),
            "certified": "yes" if point["certified"] else "no: " + point["sentence"],
            "policy": point["policy"],
            "success": _plain(best, "success_rate", rate),
            "cost": _plain(best, "cost_usd_per_request", usd_per_1000),
            "cps": _plain(best, "cps_usd", usd),
            "saved": NOTHING if point["saved_share"] is None else percent(point["saved_share"]),
            "rows": NOTHING
            if point["rows_needed"] is None
            else "about " + whole(point["rows_needed"]),
        }
        for t, name in enumerate(tiers):
            words[f"share-{t}"] = percent(point["share"][name])
        shown.append(words)
    return {"points": shown, "marker": marker_x(floors)}


def _plain(facts: Facts, name: str, form: Any) -> str:
    """A number and its interval as text."""
    value, span = facts[name], facts.get(f"{name}_interval")
    if value is None:
        return "∞" if name == "cps_usd" else NOTHING
    text: str = form(value)
    if span is None:
        return text
    low, high = ("∞" if end is None else form(end) for end in span)
    return f"{text} ({low} to {high})"


def _table(floors: Facts, tiers: Sequence[str], certified: str) -> Html:
    points = floors["points"]
    rows = []
    for point in points:
        best = point["measured"] or point["calibration"]
        mark = " (asked)" if point["asked"] else ""
        rows.append(
            [
                point["floor"].removeprefix("success rate >= ") + mark,
                "yes" if point["certified"] else "no",
                point["policy"],
                estimate(best, "success_rate", rate),
                estimate(best, "cost_usd_per_request", usd_per_1000),
                Html("∞") if best["cps_usd"] is None else estimate(best, "cps_usd", usd),
                cell(point["saved_share"], percent),
                cell(point["rows_needed"], whole),
                *(cell(point["share"][name], percent) for name in tiers),
            ]
        )
    return table(
        f"Every floor: what is certified at {certified} confidence, and what it does",
        [
            "success rate at least",
            "certified",
            "policy",
            "success",
            "USD per 1,000",
            "CPS",
            "saved of always the strongest",
            "rows needed",
            *(f"to {name}" for name in tiers),
        ],
        rows,
        words=3,
        label="Table of floors",
    )
