"""Pictures of many parts: calibration, a square a tier; shares of tiers, a column a floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.report_html import Html, join, tag
from training.report_plots import BELOW, LEFT, RIGHT, TOP, WIDTH, swatch
from training.report_svg import LETTER_PX, Scale, at, cut, drawing, line

Facts = Mapping[str, Any]

_PANEL_PX = 216.0
# Tiers have as many colours as there are; more tiers begin again.
N_COLOURS = 9


def calibration_plots(tiers: Mapping[str, Facts]) -> Html:
    """One small square a tier: what was predicted, and what came of it."""
    return tag(
        "div",
        *(_calibration_plot(i, name, tier) for i, (name, tier) in enumerate(tiers.items())),
        class_="panels",
    )


def _calibration_plot(i: int, name: str, tier: Facts) -> Html:
    bins = tier["calibration_bins"]
    size, start = _PANEL_PX, 46.0
    x = Scale(0.0, 1.0, start, size - 10)
    y = Scale(0.0, 1.0, size - 46, 26)
    parts: list[Html] = []
    for value in (0.0, 0.5, 1.0):
        parts += [
            tag(
                "line",
                x1=at(x.start),
                x2=at(x.end),
                y1=at(y(value)),
                y2=at(y(value)),
                class_="grid",
            ),
            tag(
                "text",
                f"{value:g}",
                x=at(x.start - 7),
                y=at(y(value) + 5),
                text_anchor="end",
                class_="tick",
            ),
            tag(
                "text",
                f"{value:g}",
                x=at(x(value)),
                y=at(y.start + 18),
                text_anchor="middle",
                class_="tick",
            ),
        ]
    points = [(x(p), y(s)) for p, s in zip(bins["p_success"], bins["success"], strict=True)]
    parts += [
        line([(x.start, y.start), (x.end, y.end)], "zero"),
        line(points, "curve"),
        *(tag("circle", cx=at(px), cy=at(py), r=4, class_="mark router") for px, py in points),
        tag("text", cut(name, 20), x=at(x.start), y=16, class_="label strong"),
        tag(
            "text",
            "predicted",
            x=at((x.start + x.end) / 2),
            y=at(y.start + 37),
            text_anchor="middle",
            class_="title",
        ),
    ]
    return drawing(
        f"calibration-{i}",
        size,
        size,
        f"Calibration of {name}",
        "Realised success over predicted success, in bins of equally many requests; on the "
        "diagonal both are the same.",
        *parts,
    )


def share_plot(floors: Facts, tiers: Sequence[str]) -> Html:
    """How the requests divide among the tiers at every floor: one column a floor."""
    points = floors["points"]
    height = 330.0
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, height - BELOW
    y = Scale(0.0, 1.0, bottom, top)
    step = (right - left) / len(points)
    parts: list[Html] = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            tag("line", x1=at(left), x2=at(right), y1=at(y(value)), y2=at(y(value)), class_="grid"),
            tag(
                "text",
                f"{100 * value:g} %",
                x=at(left - 8),
                y=at(y(value) + 5),
                text_anchor="end",
                class_="tick",
            ),
        ]
    for i, point in enumerate(points):
        base = 0.0
        for t, name in enumerate(tiers):
            share = point["share"][name]
            if share > 0:
                parts.append(
                    tag(
                        "rect",
                        x=at(left + i * step + 0.5),
                        width=at(step - 1),
                        y=at(y(base + share)),
                        height=at(y(base) - y(base + share)),
                        class_=f"tier-{t % N_COLOURS}" + ("" if point["certified"] else " faint"),
                    )
                )
            base += share
    beyond = -1e9
    for i, point in enumerate(points):
        text = level_words(floors, point["level"])
        pixel = left + (i + 0.5) * step
        half = LETTER_PX * len(text) / 2
        last = left + (len(points) - 0.5) * step - LETTER_PX * 5
        if pixel - half > beyond and (i == len(points) - 1 or pixel + half < last):
            beyond = pixel + half + 14
            parts.append(
                tag(
                    "text",
                    text,
                    x=at(min(pixel, WIDTH - half)),
                    y=at(bottom + 19),
                    text_anchor="middle",
                    class_="tick",
                )
            )
    reference = floors["relative_to"]
    x_title = "success floor" + ("" if reference is None else f", relative to {cut(reference)}")
    asked = next((i for i, point in enumerate(points) if point["asked"]), len(points) - 1)
    parts += [
        tag(
            "text",
            x_title,
            x=at((left + right) / 2),
            y=at(bottom + 42),
            text_anchor="middle",
            class_="title",
        ),
        tag("text", "share of requests", x=at(left - 48), y=at(top - 14), class_="title"),
        tag(
            "rect",
            id="floor-marker",
            x=at(left + asked * step),
            width=at(step),
            y=at(top - 3),
            height=at(bottom - top + 6),
            class_="marker",
        ),
    ]
    return drawing(
        "shares",
        WIDTH,
        height,
        "Share of requests per tier at every success floor",
        "One column a floor, the lowest floor at the left; the table of floors has every number.",
        *parts,
    )


def marker_x(floors: Facts) -> list[float]:
    """Where the marker of the shares stands at every floor."""
    n = len(floors["points"])
    step = (WIDTH - RIGHT - LEFT) / n
    return [round(LEFT + i * step, 1) for i in range(n)]


def level_words(floors: Facts, level: float) -> str:
    """A floor in few signs: a margin in points, or a rate.

    >>> level_words({"relative_to": "frontier"}, -0.05), level_words({"relative_to": None}, 0.9)
    ('−5', '0.9')
    """
    if floors["relative_to"] is None:
        return f"{level:g}"
    points = round(100 * level, 4) + 0.0
    return f"{points:g}".replace("-", "−")


def tier_key(tiers: Sequence[str]) -> Html:
    """Which colour is which tier."""
    return tag(
        "ul",
        join(
            tag(
                "li",
                swatch(tag("rect", x=2, y=2, width=14, height=14, class_=f"tier-{t % N_COLOURS}")),
                " ",
                name,
            )
            for t, name in enumerate(tiers)
        ),
        class_="key",
    )
