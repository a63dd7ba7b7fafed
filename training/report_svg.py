"""Drawing: scales, axes, labels that do not lie on each other. Places only, no statistics.

By hand and not by a plotting library: text stays text, colours come from the page (light, dark and
print), the file is the same byte for byte, and there is nothing to install.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from training.report_html import Html, tag
from training.report_numbers import significant

# Of letters of 14 px, on average; a little more than most are, so that labels keep clear.
LETTER_PX = 8.5
LINE_PX = 17.0
# Labels are cut to this.
MAX_LETTERS = 22
_TICKS_PER_DECADE = (1, 2, 5)


def at(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def cut(text: str, letters: int = MAX_LETTERS) -> str:
    """A label that is short enough.

    >>> cut("a" * 30, 5)
    'aaaa…'
    """
    return text if len(text) <= letters else text[: letters - 1] + "…"


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, even or by factors."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def over(
        cls, values: Sequence[float], start: float, end: float, *, logarithmic: bool = False
    ) -> Scale:
        """A scale that holds the values with a little room on both sides.

        By factors only where all are above 0 and the largest is several times the least.
        """
        values = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(values), max(values)
        if logarithmic and low > 0 and high / low > 4:
            room = (high / low) ** 0.06
            return cls(low / room, high * room, start, end, True)
        room = 0.06 * (high - low) or abs(high) * 0.5 or 0.5
        return cls(low - room if low else 0.0, high + room, start, end)

    def __call__(self, value: float) -> float:
        """The pixel; values beyond the scale are drawn at its end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """Round values on the scale, about ``n``."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in (_TICKS_PER_DECADE, (1, 3), (1,)):
                found = [s * 10.0**d for d in decades for s in steps]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) <= n + 2:
                    return found
            return found[:: -(-len(found) // n)]
        size = (self.high - self.low) / n
        power = 10.0 ** math.floor(math.log10(size))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= size * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the drawing that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(slots=True)
class Labels:
    """Puts labels beside points where nothing else lies; a label without room is left out.

    What it names then stands in the table alone.
    """

    frame: Box
    taken: list[Box] = field(default_factory=list)

    def avoid(self, x: float, y: float, reach: float = 7.0) -> None:
        """A mark that no label may hide."""
        self.taken.append(Box(x - reach, y - reach, x + reach, y + reach))

    def place(self, text: str, x: float, y: float, class_: str = "label") -> Html:
        """The label of a mark at (x, y)."""
        text = cut(text)
        width = LETTER_PX * len(text)
        for far in (0.0, 12.0, 26.0):
            for dx, dy, anchor in (
                (11 + far, 5, "start"),
                (-11 - far, 5, "end"),
                (0, -12 - far, "middle"),
                (0, 22 + far, "middle"),
                (9 + far, -9 - far, "start"),
                (-9 - far, -9 - far, "end"),
                (9 + far, 20 + far, "start"),
                (-9 - far, 20 + far, "end"),
            ):
                left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
                box = Box(left, y + dy - 12, left + width, y + dy + 4)
                inside = (
                    box.left >= self.frame.left
                    and box.right <= self.frame.right
                    and box.top >= self.frame.top
                    and box.bottom <= self.frame.bottom
                )
                if inside and not any(box.meets(other) for other in self.taken):
                    self.taken.append(box)
                    return tag(
                        "text", text, x=at(x + dx), y=at(y + dy), text_anchor=anchor, class_=class_
                    )
        return Html("")


def axes(
    x: Scale, y: Scale, x_title: str, y_title: str, *, n_x: int = 6, percent_y: bool = False
) -> Html:
    """Lines and round numbers below and to the left, and what they are."""
    parts: list[Html] = []
    for value in y.ticks():
        height = at(y(value))
        parts.append(tag("line", x1=at(x.start), x2=at(x.end), y1=height, y2=height, class_="grid"))
        parts.append(
            tag(
                "text",
                f"{100 * value:g} %" if percent_y else tick(value),
                x=at(x.start - 8),
                y=at(y(value) + 5),
                text_anchor="end",
                class_="tick",
            )
        )
    parts.append(
        tag("line", x1=at(x.start), x2=at(x.end), y1=at(y.start), y2=at(y.start), class_="axis")
    )
    beyond = -math.inf
    for value in x.ticks(n_x):
        text, pixel = tick(value), x(value)
        half = LETTER_PX * len(text) / 2
        parts.append(
            tag(
                "line",
                x1=at(pixel),
                x2=at(pixel),
                y1=at(y.start),
                y2=at(y.start + 5),
                class_="axis",
            )
        )
        # Numbers that would touch are left out.
        if pixel - half > beyond:
            beyond = pixel + half + 4
            parts.append(
                tag(
                    "text",
                    text,
                    x=at(pixel),
                    y=at(y.start + 21),
                    text_anchor="middle",
                    class_="tick",
                )
            )
    middle = (x.start + x.end) / 2
    parts.append(
        tag("text", x_title, x=at(middle), y=at(y.start + 43), text_anchor="middle", class_="title")
    )
    parts.append(tag("text", y_title, x=at(x.start - 48), y=at(y.end - 14), class_="title"))
    return Html("".join(parts))


def tick(value: float) -> str:
    """A number at an axis, as short as it can be.

    >>> tick(0.05), tick(2000.0), tick(0.0)
    ('0.05', '2,000', '0')
    """
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def line(points: Sequence[tuple[float, float]], class_: str) -> Html:
    """A line through pixels."""
    return tag("polyline", points=" ".join(f"{at(x)},{at(y)}" for x, y in points), class_=class_)


def drawing(
    identifier: str, width: float, height: float, title: str, description: str, *content: object
) -> Html:
    """An SVG picture that says what it shows."""
    return tag(
        "svg",
        tag("title", title, id=f"{identifier}-title"),
        tag("desc", description, id=f"{identifier}-desc"),
        *content,
        id=identifier,
        viewbox=f"0 0 {at(width)} {at(height)}",
        role="img",
        aria_labelledby=f"{identifier}-title",
        aria_describedby=f"{identifier}-desc",
    )
