"""HTML out of data that nobody vouches for: text is escaped unless it was made here."""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Iterable, Sequence

_VOID = frozenset({"meta", "br", "input", "line", "rect", "circle", "path", "polyline", "col"})
# Characters that a cell of words holds on one line.
_SHORT = 28
# Control characters, lone surrogates, and marks that turn the direction of what follows.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cs"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


class Html(str):
    """Markup that was made by ``tag`` or is otherwise known to be safe."""

    __slots__ = ()


def shown(text: str) -> str:
    r"""The text with what would not be seen, or would turn its surroundings, written out.

    >>> shown("a\x1b[31m\u202eb\ud83d")
    'a\\u001b[31m\\u202eb\\ud83d'
    """
    return "".join(
        f"\\u{ord(c):04x}"
        if c in _TURNING or (unicodedata.category(c) in _HIDDEN_CATEGORIES and c not in "\n\t")
        else c
        for c in text
    )


def escape(text: object) -> Html:
    """Text as markup that shows it; markup stays what it is.

    >>> escape("<b> & 'x'")
    '&lt;b&gt; &amp; &#x27;x&#x27;'
    """
    return text if isinstance(text, Html) else Html(html.escape(shown(str(text)), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, each escaped."""
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. ``class_`` is class, ``aria_label`` is aria-label; None and False leave out.

    >>> tag("p", "1 < 2", tag("b", "x"), class_="a", hidden=True, id=None)
    '<p class="a" hidden>1 &lt; 2<b>x</b></p>'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        # SVG has the one attribute that is not in small letters.
        label = {"viewbox": "viewBox"}.get(label, label)
        parts.append(label if value is True else f'{label}="{escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    if name in _VOID and not children:
        # Void in HTML, and closed in SVG, where it is read as XML would be.
        return Html(opening[:-1] + "/>")
    return Html(f"{opening}{join(children)}</{name}>")


def json_script(identifier: str, value: object) -> Html:
    """Data for a script of the page. It cannot end its element, whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


def table(
    caption: object,
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    words: int = 1,
    strong: str | None = None,
    label: str,
) -> Html:
    """A table that scrolls by itself where it is too wide; the first column heads its rows.

    ``words`` columns at the left are text, the others numbers. The row whose head is ``strong``
    stands out. ``label`` names the region for a screen reader.
    """
    ends = ["word" if i < words else "number" for i in range(len(head))]

    def class_of(cell: object, end: str) -> str:
        # Short words stay on one line, as a browser on its own would not have them.
        short = end == "word" and not isinstance(cell, Html) and len(str(cell)) <= _SHORT
        return f"{end} short" if short else end

    header = tag(
        "tr",
        *(tag("th", cell, scope="col", class_=end) for cell, end in zip(head, ends, strict=True)),
    )
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=class_of(row[0], "word")),
            *(
                tag("td", cell, class_=class_of(cell, end))
                for cell, end in zip(row[1:], ends[1:], strict=True)
            ),
            class_="strong" if strong is not None and str(row[0]) == strong else None,
        )
        for row in rows
    ]
    return scrolling(
        tag(
            "table", tag("caption", tag("span", caption)), tag("thead", header), tag("tbody", *body)
        ),
        label,
    )


def scrolling(content: Html, label: str) -> Html:
    """What may be wider than the page; it takes the focus so that a keyboard can scroll it."""
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def folded(summary: object, *content: object) -> Html:
    """What is there for those who ask for it."""
    return tag("details", tag("summary", summary), *content)
