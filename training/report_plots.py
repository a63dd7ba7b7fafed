"""The pictures of the report, from the facts of an evaluation; each has its table beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from training.report_html import Html, tag
from training.report_numbers import usd
from training.report_svg import LETTER_PX, Box, Labels, Scale, at, axes, cut, drawing, line

Facts = Mapping[str, Any]
Point = tuple[float, float]

WIDTH = 680.0
LEFT, RIGHT, TOP, BELOW = 64.0, 18.0, 34.0, 56.0
# A straight line between two mixes is curved where the axis goes by factors.
_STEPS_PER_MIX = 24
_ROW_PX = 26.0


def per_1000(usd_per_request: float) -> float:
    """Dollars per 1,000 requests, as the axes show them."""
    return 1000.0 * usd_per_request


def frontier_plot(facts: Facts) -> Html:
    """Cost and success of the router, of single tiers and their mixes, and of the others."""
    policies = facts["policies"]
    points = {
        name: (per_1000(policy["cost_usd_per_request"]), policy["success_rate"])
        for name, policy in policies.items()
        if policy["cost_usd_per_request"] is not None
    }
    curve: list[Point] = []
    if "frontier" in facts:
        swept = facts["frontier"]
        curve = [
            (per_1000(cost), rate)
            for cost, rate in zip(swept["cost_usd_per_request"], swept["success_rate"], strict=True)
        ]
    corners = [points[f"always-{name}"] for name in facts.get("details", {}).get("hull", ())]
    router = policies["router"]
    spans = [
        [per_1000(end) for end in router["cost_usd_per_request_interval"] or () if end is not None],
        [end for end in router["success_rate_interval"] or () if end is not None],
    ]
    height = 440.0
    x = Scale.over(
        [c for c, _ in [*points.values(), *curve]] + spans[0],
        LEFT,
        WIDTH - RIGHT,
        logarithmic=True,
    )
    y = Scale.over([s for _, s in [*points.values(), *curve]] + spans[1], height - BELOW, TOP)
    labels = Labels(Box(LEFT, TOP - 16, WIDTH, height - BELOW))
    parts = [axes(x, y, "USD per 1,000 requests", "success rate")]
    floor = facts.get("floor")
    if floor is not None and y.low <= floor["success_rate"] <= y.high:
        level = y(floor["success_rate"])
        parts.append(line([(x.start, level), (x.end, level)], "floor"))
        words = "success floor"
        width = LETTER_PX * len(words)
        labels.taken.append(Box(x.end - width, level - 18, x.end, level + 2))
        parts.append(
            tag("text", words, x=at(x.end), y=at(level - 5), text_anchor="end", class_="note")
        )
    if curve:
        parts.append(line([(x(c), y(s)) for c, s in curve], "curve"))
    mixed = [
        (
            x(a[0] + step / _STEPS_PER_MIX * (b[0] - a[0])),
            y(a[1] + step / _STEPS_PER_MIX * (b[1] - a[1])),
        )
        for a, b in pairwise(corners)
        for step in range(_STEPS_PER_MIX + 1)
    ]
    if mixed:
        parts.append(line(mixed, "hull"))
    if "router" in points:
        here = points["router"]
        if len(spans[0]) == 2:
            parts.append(line([(x(end), y(here[1])) for end in spans[0]], "whisker"))
        if len(spans[1]) == 2:
            parts.append(line([(x(here[0]), y(end)) for end in spans[1]], "whisker"))
    for cost, rate in points.values():
        labels.avoid(x(cost), y(rate))
    # The marks that matter most have the first choice of where their labels go.
    ranked = sorted(points, key=lambda name: (name != "router", not name.startswith("always-")))
    marks, texts = [], []
    for name in ranked:
        cx, cy = x(points[name][0]), y(points[name][1])
        marks.append(_mark(name, cx, cy))
        texts.append(
            labels.place(
                name.removeprefix("always-"),
                cx,
                cy,
                "label strong" if name == "router" else "label",
            )
        )
    best = usd(router["cost_usd_per_request"] * 1000) if "router" in points else "no estimate"
    return drawing(
        "frontier",
        WIDTH,
        height,
        "Cost and success of every policy",
        f"Success rate over USD per 1,000 requests. The router stands at {best}; the table below "
        "has every point.",
        *parts,
        *reversed(marks),
        *texts,
    )


def frontier_key(facts: Facts) -> Html:
    """What the marks of the frontier mean."""
    entries = [
        ("router", "the router, with its intervals"),
        ("always-x", "always one tier"),
        ("random-mix", "random mix: the cheapest coin-flip at the router's success rate"),
        ("keyword", "keyword heuristic"),
        ("oracle", "oracle: the cheapest tier that succeeds, known in hindsight"),
        ("logging", "the log itself"),
    ]
    names = {"always-x", *facts["policies"]}
    items = [
        tag("li", swatch(_mark(name, 9, 9)), " ", words) for name, words in entries if name in names
    ]
    if "frontier" in facts:
        line_mark = tag("line", x1=1, x2=17, y1=9, y2=9, class_="curve")
        items.append(tag("li", swatch(line_mark), " the router at other values of a success"))
    if facts.get("details", {}).get("hull"):
        line_mark = tag("line", x1=1, x2=17, y1=9, y2=9, class_="hull")
        items.append(tag("li", swatch(line_mark), " mixes of single tiers"))
    return tag("ul", *items, class_="key")


def swatch(mark: Html) -> Html:
    """A mark beside the words that say what it means."""
    return tag("svg", mark, viewbox="0 0 18 18", class_="swatch", aria_hidden="true")


def _mark(name: str, x: float, y: float) -> Html:
    if name == "router":
        return tag("circle", cx=at(x), cy=at(y), r=7, class_="mark router")
    if name.startswith("always-"):
        return tag("rect", x=at(x - 5), y=at(y - 5), width=10, height=10, class_="mark tier")
    corners = {
        "keyword": ((0, -7), (7, 0), (0, 7), (-7, 0)),
        "random-mix": ((0, -7), (6.5, 5), (-6.5, 5)),
        "oracle": ((-6.5, -5), (6.5, -5), (0, 7)),
    }.get(name, ((-5, -6), (5, -6), (5, 6), (-5, 6)))
    outline = " L".join(f"{at(x + dx)} {at(y + dy)}" for dx, dy in corners)
    return tag("path", d=f"M{outline} Z", class_="mark other")


def forest_plot(
    identifier: str,
    title: str,
    x_title: str,
    rows: Sequence[tuple[str, float, Sequence[float | None] | None]],
    *,
    percent: bool = False,
) -> Html:
    """One interval a row, and a line where there is no difference."""
    left = min(LETTER_PX * max(len(cut(name, 30)) for name, _, _ in rows) + 14, 260.0)
    height = TOP + _ROW_PX * len(rows) + BELOW
    ends = [end for _, _, span in rows for end in span or () if end is not None]
    # One short group must not squeeze the others.
    x = Scale.over([0.0, *(value for _, value, _ in rows), *ends], left, WIDTH - RIGHT)
    bottom = TOP + _ROW_PX * len(rows)
    parts: list[Html] = []
    for value in x.ticks(6):
        pixel = at(x(value))
        text = f"{100 * value:g} %" if percent else f"{value:g}"
        parts.append(tag("line", x1=pixel, x2=pixel, y1=at(TOP - 8), y2=at(bottom), class_="grid"))
        parts.append(
            tag(
                "text",
                text.replace("-", "−"),
                x=pixel,
                y=at(bottom + 19),
                text_anchor="middle",
                class_="tick",
            )
        )
    zero = at(x(0.0))
    parts.append(tag("line", x1=zero, x2=zero, y1=at(TOP - 8), y2=at(bottom), class_="zero"))
    for i, (name, value, span) in enumerate(rows):
        y = TOP + _ROW_PX * (i + 0.5)
        low, high = span or (value, value)
        ends_px = (x(x.low if low is None else low), x(x.high if high is None else high))
        parts += [
            tag(
                "text",
                cut(name, 30),
                x=at(left - 10),
                y=at(y + 5),
                text_anchor="end",
                class_="label",
            ),
            line([(ends_px[0], y), (ends_px[1], y)], "whisker"),
            tag("circle", cx=at(x(value)), cy=at(y), r=5, class_="mark router"),
        ]
    parts.append(
        tag(
            "text",
            x_title,
            x=at((left + WIDTH - RIGHT) / 2),
            y=at(bottom + 42),
            text_anchor="middle",
            class_="title",
        )
    )
    return drawing(
        identifier, WIDTH, height, title, f"{title}; the table has every number.", *parts
    )


def bar_plot(
    identifier: str, title: str, rows: Sequence[tuple[str, float, Sequence[float | None] | None]]
) -> Html:
    """Dollars, one bar a row, with what chance may add or take; the number stands at its end."""
    left = min(LETTER_PX * max(len(cut(name, 26)) for name, _, _ in rows) + 14, 230.0)
    right = WIDTH - 110.0
    ends = [end for _, _, span in rows for end in span or () if end is not None]
    largest = max([value for _, value, _ in rows] + ends + [0.0])
    x = Scale(0.0, largest or 1.0, left, right)
    parts: list[Html] = []
    for i, (name, value, span) in enumerate(rows):
        y = 8 + _ROW_PX * i
        end = max(x(value), x.start + 1)
        reach = end
        parts += [
            tag(
                "text",
                cut(name, 26),
                x=at(left - 10),
                y=at(y + 16),
                text_anchor="end",
                class_="label",
            ),
            tag(
                "rect",
                x=at(left),
                y=at(y + 4),
                width=at(end - left),
                height=14,
                class_="bar strong" if name == "router" else "bar",
            ),
        ]
        if span is not None and span[0] is not None and span[1] is not None:
            parts.append(line([(x(span[0]), y + 11), (x(span[1]), y + 11)], "whisker over"))
            reach = max(reach, x(span[1]))
        parts.append(tag("text", usd(value), x=at(reach + 8), y=at(y + 16), class_="label"))
    height = 16 + _ROW_PX * len(rows)
    return drawing(
        identifier, WIDTH, height, title, f"{title}; the table has every number.", *parts
    )
