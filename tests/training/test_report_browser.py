"""The report in a real browser: the slider, the keyboard, narrow pages, print, and no requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.routing import Router
from tests.artifacts import sample_table
from tests.browser import END, HOME, LEFT, MISSING, RIGHT, Browser, binaries, browser
from training.details import Asked
from training.evaluate import evaluate
from training.evaluate_logged import evaluate_logged
from training.report import report_html
from training.synthetic import keyword_policy, log, make_world, sample

pytestmark = pytest.mark.skipif(binaries() is None, reason=MISSING)

LONG = "https://example.org/" + "x" * 300 + "<b>"
# Texts of one picture that lie on each other by more than a hair.
OVERLAPS = """
const found = [];
for (const svg of document.querySelectorAll("svg:not(.swatch)")) {
  const texts = [...svg.querySelectorAll("text")]
    .map(t => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 2 && high > 4) found.push(svg.id + ": " + a + " / " + b);
  }));
  const box = svg.getBoundingClientRect();
  for (const [a, p] of texts)
    if (p.left < box.left - 2 || p.right > box.right + 2) found.push(svg.id + " cuts " + a);
}
return found;
"""


@pytest.fixture(scope="module")
def facts(small_artifact: Path) -> dict[str, Any]:
    table = sample_table(300, 11)
    long = np.array([LONG if i % 3 else "short" for i in range(table.n_requests)], dtype=object)
    ids = np.array([f"{LONG}{i}" for i in range(table.n_requests)], dtype=object)
    table = replace(table, task=long, request_id=ids)
    return evaluate(Router.load(small_artifact), table, details=Asked()).to_dict()


@pytest.fixture(scope="module")
def pages(
    facts: dict[str, Any], small_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    outcomes = sample(make_world(), 900, 5)
    logged = log(outcomes, keyword_policy(outcomes, epsilon=0.3), 1)
    found = {
        "full": report_html(facts, {LONG + "0": LONG}),
        "logged": report_html(
            evaluate_logged(Router.load(small_artifact), logged, details=Asked()).to_dict()
        ),
    }
    for name, text in found.items():
        (folder / f"{name}.html").write_text(text)
    return {name: (folder / f"{name}.html").as_uri() for name in found}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as session:
        yield session


def shown(chromium: Browser) -> dict[str, str]:
    """What the explorer says, by the ids of its places."""
    found: dict[str, str] = chromium.run(
        "return Object.fromEntries([...document.querySelectorAll('#floor-output dd')]"
        ".map(e => [e.id, e.textContent]))"
    )
    return found


def test_the_slider_moves_the_operating_point(
    chromium: Browser, pages: dict[str, str], facts: dict[str, Any]
) -> None:
    points = facts["details"]["floors"]["points"]
    asked = next(i for i, point in enumerate(points) if point["asked"])
    chromium.open(pages["full"])
    assert chromium.run("return document.getElementById('floor-explorer').hidden") is False
    slider = "const s = document.getElementById('floor-slider'); "
    assert chromium.run(slider + "return s.value") == str(asked)
    assert chromium.text("#floor-words") == points[asked]["floor"] + ", the one asked for"
    chromium.run(slider + "s.focus()")
    places = {}
    for keys, index in (
        (RIGHT, asked + 1),
        (LEFT + LEFT, asked - 1),
        (HOME, 0),
        (END, len(points) - 1),
    ):
        chromium.press(keys)
        assert chromium.run(slider + "return s.value") == str(index)
        said, point = shown(chromium), points[index]
        assert chromium.text("#floor-words").startswith(point["floor"])
        assert chromium.run(slider + "return s.getAttribute('aria-valuetext')").startswith(
            point["floor"]
        )
        assert said["floor-certified"].startswith("yes" if point["certified"] else "no")
        assert said["floor-policy"] == point["policy"]
        assert said["floor-success"].startswith(f"{point['measured']['success_rate']:.3f} (")
        shares = [float(said[f"floor-share-{t}"].rstrip("\xa0%")) for t in range(3)]
        assert shares == [round(100 * share, 1) for share in point["share"].values()]
        places[index] = float(
            chromium.run("return document.getElementById('floor-marker').getAttribute('x')")
        )
    assert [places[i] for i in sorted(places)] == sorted(places.values())
    assert len(set(places.values())) == 4
    assert chromium.messages() == []


def test_a_link_opens_at_a_floor_and_nonsense_opens_at_the_asked_one(
    chromium: Browser, pages: dict[str, str], facts: dict[str, Any]
) -> None:
    points = facts["details"]["floors"]["points"]
    chromium.open("about:blank")
    chromium.open(pages["full"] + "#floor=3")
    assert chromium.text("#floor-words") == points[3]["floor"]
    for wrong in ("#floor=9999", "#floor=<b>", "#floor=-1"):
        chromium.open("about:blank")
        chromium.open(pages["full"] + wrong)
        assert "the one asked for" in chromium.text("#floor-words")
    assert chromium.messages() == []


def test_without_javascript_the_table_of_floors_stands_there(
    chromium: Browser, pages: dict[str, str], facts: dict[str, Any]
) -> None:
    chromium.chrome("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(pages["full"])
        # The driver's own scripts still run.
        root = chromium.chrome("DOM.getDocument")["root"]["nodeId"]

        def nodes(selector: str) -> list[int]:
            found: list[int] = chromium.chrome(
                "DOM.querySelectorAll", nodeId=root, selector=selector
            )["nodeIds"]
            return found

        assert nodes("#floor-explorer[hidden]")
        floors = len(facts["details"]["floors"]["points"])
        assert len(nodes("#floors details tbody tr")) == floors
    finally:
        chromium.chrome("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("name", ["full", "logged"])
@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_overflows_nor_overlaps(
    chromium: Browser, pages: dict[str, str], name: str, width: int
) -> None:
    chromium.size(width, 900)
    chromium.open(pages[name])
    chromium.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.run(OVERLAPS) == []
    # What is wider scrolls by itself, and can be reached by keyboard.
    assert chromium.run(
        "return [...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)"
    )
    assert chromium.messages() == []


def test_light_and_dark_are_two(chromium: Browser, pages: dict[str, str]) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    chromium.media(dark=False)
    chromium.open(pages["full"])
    assert chromium.run(ground) == "rgb(255, 255, 255)"
    chromium.media(dark=True)
    assert chromium.run(ground) != "rgb(255, 255, 255)"
    # Paper is white whatever the screen is, and does not scroll.
    chromium.media(dark=True, kind="print")
    assert chromium.run(ground) == "rgb(255, 255, 255)"
    chromium.size(740, 1000)
    chromium.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert chromium.run("return document.documentElement.scrollWidth") <= 740
    chromium.media()


def test_on_paper_everything_is_unfolded(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["full"])
    chromium.run(
        "window.seen = []; window.addEventListener('beforeprint', () => { window.seen ="
        "[...document.querySelectorAll('details')].map(d => d.open); })"
    )
    assert chromium.pdf().startswith(b"%PDF")
    seen = chromium.run("return window.seen")
    assert seen and all(seen)
    assert chromium.run("return document.querySelectorAll('details[open]').length") == 0


def test_nothing_is_asked_for(chromium: Browser, pages: dict[str, str]) -> None:
    for page in pages.values():
        chromium.open(page)
        assert chromium.run("return performance.getEntriesByType('resource').length") == 0
        # The page's own policy would stop what a hostile text might try.
        stopped = chromium.run(
            "const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
            "document.body.append(s); return window.bad === undefined"
        )
        assert stopped
        assert any("Content Security Policy" in message for message in chromium.messages())
