"""The report: what stands in it, that it is what the JSON says, and that data stays data."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import InputError
from router.outcomes import write_jsonl
from router.routing import Router
from tests.artifacts import sample_table
from tests.command_line import Done, here
from training.breakdown import MAX_GROUPS, MIN_REQUESTS
from training.details import DEFAULT_REQUESTS_PER_MONTH, Asked
from training.evaluate import evaluate
from training.evaluate_logged import evaluate_logged
from training.operating_points import N_STEPS
from training.package import MAX_CALIBRATION_ROWS_KEPT
from training.report import HTML, JSON, TEXT, report_html, write_report
from training.report_page import SCRIPT, STYLE, resource
from training.synthetic import keyword_policy, log, make_world, sample, to_outcomes
from training.table import OutcomeTable
from training.worst import N_WORST

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\u202e&lt;'
VOID = {"meta", "br", "input", "line", "rect", "circle", "path", "polyline", "col"}


class Page(HTMLParser):
    """What a browser would see: elements in order, with attributes, text and parents."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert [e["tag"] for e in self._open] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        parent = self._open[-1] if self._open else None
        element = {"tag": tag, "text": "", "parent": parent, **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def all(self, *tags: str) -> list[dict[str, Any]]:
        return [element for element in self.elements if element["tag"] in tags]

    def inside(self, element: dict[str, Any], tag: str) -> dict[str, Any] | None:
        parent = element["parent"]
        while parent is not None and parent["tag"] != tag:
            parent = parent["parent"]
        found: dict[str, Any] | None = parent
        return found


@pytest.fixture(scope="module")
def facts(small_artifact: Path) -> dict[str, Any]:
    report = evaluate(
        Router.load(small_artifact),
        sample_table(300, 11),
        details=Asked(2_000_000, "cps-router evaluate router log.jsonl"),
    )
    return report.to_dict()


@pytest.fixture(scope="module")
def logged_facts(small_artifact: Path) -> dict[str, Any]:
    outcomes = sample(make_world(), 900, 5)
    table = log(outcomes, keyword_policy(outcomes, epsilon=0.3), 1)
    return evaluate_logged(Router.load(small_artifact), table, details=Asked()).to_dict()


def numbers_of(value: object) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from numbers_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_of(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


KINDS = ["facts", "logged_facts"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_one_of_the_json(kind: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(kind)
    page = Page(report_html(found))
    known = set(numbers_of(found))
    shown = page.all("data")
    assert len(shown) > 150
    for element in shown:
        assert float(element["value"]) in known
        # What is read is the same number, as far as its digits go.
        digits = element["text"].replace(",", "").replace("−", "-").replace("\xa0", "")
        scale = 100.0 if digits.endswith("%") else 1.0
        read = float(re.sub("[$%+]", "", digits)) / scale
        value = float(element["value"])
        assert read == pytest.approx(value, rel=6e-3, abs=6e-4) or read == pytest.approx(
            1000 * value, rel=6e-3, abs=6e-4
        )
    # No table has a figure that is not marked so; words may hold digits, in names and sentences.
    for element in page.all("td"):
        if element["class"] == "number" and re.search("[0-9]", element["text"]):
            assert any(page.inside(data, "td") is element for data in shown), element["text"]


def test_the_headline_numbers_stand_in_their_rows(facts: dict[str, Any]) -> None:
    page = Page(report_html(facts))
    for name, policy in facts["policies"].items():
        row = next(r for r in page.all("tr") if r["text"].startswith(name) and "%" in r["text"])
        values = [float(d["value"]) for d in page.all("data") if page.inside(d, "tr") is row]
        assert values[:9] == [
            policy["success_rate"],
            *policy["success_rate_interval"],
            policy["cost_usd_per_request"],
            *policy["cost_usd_per_request_interval"],
            policy["cps_usd"],
            *policy["cps_usd_interval"],
        ]


def test_a_month_is_so_many_requests(facts: dict[str, Any]) -> None:
    details = facts["details"]
    for name, month in details["monthly"].items():
        policy = facts["policies"][name]
        assert month["cost_usd"] == pytest.approx(2e6 * policy["cost_usd_per_request"])
        if name != "router":
            saved = details["savings"][name]["saved_usd_per_request"]
            assert month["saved_usd"] == pytest.approx(2e6 * saved)
    strongest = facts["savings"]["against_strongest"]
    assert details["savings"][strongest["baseline"]] == strongest


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_can_be_read_without_seeing_it(kind: str, request: pytest.FixtureRequest) -> None:
    page = Page(report_html(request.getfixturevalue(kind)))
    assert page.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1
    levels = [int(element["tag"][1]) for element in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "aria-controls", "for"):
            assert element.get(name) is None or element[name] in ids
    for link in page.all("a"):
        assert link["href"].startswith("#") and link["href"][1:] in ids
    for picture in page.all("svg"):
        if picture.get("class") == "swatch":
            assert picture["aria-hidden"] == "true"
            continue
        assert picture["role"] == "img" and picture["aria-labelledby"]
        # Its table is in the same section.
        section = page.inside(picture, "section")
        assert any(page.inside(table, "section") is section for table in page.all("table"))
    for table in page.all("table"):
        inside = [e for e in page.elements if page.inside(e, "table") is table]
        assert any(e["tag"] == "caption" for e in inside)
        assert all(e.get("scope") for e in inside if e["tag"] == "th")
    for element in page.elements:
        if element.get("role") == "region":
            assert element["aria-label"] and element["tabindex"] == "0"


def test_sections_stand_in_the_order_in_which_one_decides(facts: dict[str, Any]) -> None:
    page = Page(report_html(facts))
    assert [h["text"] for h in page.all("h2")] == [
        "Verdict",
        "Cost per success",
        "Cost and success",
        "Savings per month",
        "Where it wins and loses",
        "Calibration per tier",
        "The success floor",
        "Where the router was most wrong",
        "The data",
        "How to reproduce it",
    ]
    text = page.all("main")[0]["text"]
    assert facts["verdict"]["sentence"] in text
    assert facts["details"]["certificate"]["sentence"] in text
    assert "cps-router evaluate router log.jsonl" in text
    assert facts["details"]["data"]["fingerprint"] in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_asks_for_nothing_and_runs_nothing_else(
    kind: str, request: pytest.FixtureRequest
) -> None:
    text = report_html(request.getfixturevalue(kind))
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", text)
    for element in page.elements:
        assert not {"src", "style", "srcset", "action"} & set(element)
        assert not [name for name in element if name.startswith("on")]
    (policy,) = (
        m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    (style,) = page.all("style")
    (script,) = (s for s in page.all("script") if "type" not in s)

    def hashed(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src {hashed(style['text'])}",
        f"script-src {hashed(script['text'])}",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def hostile(table: OutcomeTable) -> OutcomeTable:
    n = table.n_requests
    return replace(
        table,
        task=np.array([HOSTILE if i % 2 else None for i in range(n)], dtype=object),
        request_id=np.array([f"{HOSTILE}{i}" for i in range(n)], dtype=object),
        query=np.array([f"{HOSTILE}{query}" for query in table.query], dtype=object),
        report=replace(
            table.report,
            path=f"/somewhere/{HOSTILE.replace('/', '')}",
            n_bad=1,
            reasons={HOSTILE: 1},
        ),
    )


def test_hostile_names_and_queries_are_text(small_artifact: Path) -> None:
    table = hostile(sample_table(120, 12))
    facts = evaluate(Router.load(small_artifact), table, details=Asked(command=HOSTILE)).to_dict()
    plain = report_html(facts)
    texts = dict(zip(table.request_id, table.query, strict=True))
    shown = report_html(facts, texts)
    for text in (plain, shown):
        page = Page(text)
        assert not page.all("img")
        assert len(page.all("script")) == 2
        assert "\u202e" not in text and "alert(1)" in text
    # The data for the script cannot end it.
    data = [s for s in Page(shown).all("script") if s.get("type") == "application/json"]
    assert json.loads(data[0]["text"])["points"]
    some = facts["details"]["worst"][0]["request_id"]
    body = texts[some].removeprefix(HOSTILE)[:30]
    assert body in Page(shown).all("main")[0]["text"]
    assert body not in plain and body not in json.dumps(facts)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_tiers_are_text(kind: str, request: pytest.FixtureRequest) -> None:
    """Their names stand in sentences, in pictures and in the data of the explorer."""
    plain = json.dumps(request.getfixturevalue(kind))
    facts = json.loads(plain.replace("frontier", json.dumps(HOSTILE)[1:-1]))
    if HOSTILE in facts:  # the curve has the name of the tier
        facts["frontier"] = facts.pop(HOSTILE)
    text = report_html(facts)
    page = Page(text)
    assert not page.all("img") and len(page.all("script")) == 2
    (data,) = (s for s in page.all("script") if s.get("type") == "application/json")
    assert HOSTILE in json.loads(data["text"])["points"][0]["words"]
    assert "\u202e" not in text.replace("\\u202e", "")


def test_the_same_twice_and_small(facts: dict[str, Any]) -> None:
    text = report_html(facts)
    assert text == report_html(json.loads(json.dumps(facts)))
    assert len(text.encode()) < 500_000
    assert resource(STYLE) in text and resource(SCRIPT) in text


def test_without_a_floor_nothing_is_said_to_be_certified(facts: dict[str, Any]) -> None:
    details = {**facts["details"], "certificate": None, "worst": [], "breakdown": None}
    text = Page(report_html({**facts, "details": details, "floor": None})).all("main")[0]["text"]
    assert "No floor was asked for" in text
    assert "no group is judged" in text


def test_nothing_succeeded(small_artifact: Path) -> None:
    table = sample_table(80, 13)
    none = replace(table, success=table.success * 0)
    facts = evaluate(Router.load(small_artifact), none, details=Asked()).to_dict()
    page = Page(report_html(facts))
    text = page.all("main")[0]["text"]
    assert "Nothing succeeded on these requests" in text
    assert not re.search(r"\b(nan|inf)\b", text)
    # No end of an interval of cost per success is below 0.
    section = next(e for e in page.all("section") if e["id"] == "cps")
    assert "∞ to ∞" in section["text"] and "−∞" not in section["text"]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_few_requests(small_artifact: Path, size: int) -> None:
    table = sample_table(size, 14)
    facts = evaluate(Router.load(small_artifact), table, details=Asked(), n_bootstrap=0).to_dict()
    assert Page(report_html(facts)).all("svg")


def test_a_log_says_what_was_refused(small_artifact: Path) -> None:
    outcomes = sample(make_world(), 300, 6)
    table = log(outcomes, keyword_policy(outcomes, epsilon=0.0), 1)
    facts = evaluate_logged(Router.load(small_artifact), table, details=Asked()).to_dict()
    refused = [policy["refusal"] for policy in facts["policies"].values() if policy["refusal"]]
    assert refused
    text = Page(report_html(facts)).all("main")[0]["text"]
    for sentence in refused:
        assert sentence in text


def test_its_own_files_alone_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "report.html").write_text("old")
    write_report(tmp_path, {"report.html": "new", "report.txt": "text"})
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "mine.txt": "mine",
        "report.html": "new",
        "report.txt": "text",
    }
    with pytest.raises(InputError, match="choose another folder"):
        write_report(tmp_path / "mine.txt", {"report.html": "x"})


Run = Callable[..., Done]


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: here(monkeypatch, capsys, *arguments)


def test_the_command_writes_what_it_prints_and_logs_no_text(
    cps: Run, small_artifact: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    table = sample_table(90, 15)
    write_jsonl(tmp_path / "log.jsonl", to_outcomes(table))
    arguments = ("evaluate", small_artifact, "log.jsonl", "--report", "here", "--show-queries")
    done = cps(*arguments, "--requests-per-month", 5000, "--json")
    assert done.code == 0
    printed = json.loads(done.out)
    assert json.loads((tmp_path / "here" / "report.json").read_text()) == printed
    page = (tmp_path / "here" / "report.html").read_text()
    texts = dict(zip(table.request_id, table.query, strict=True))
    assert page == report_html(printed, texts)
    assert printed["details"]["requests_per_month"] == 5000
    command = printed["details"]["reproduction"]["command"]
    assert command == (
        "cps-router evaluate router log.jsonl --confidence 0.95 --seed 0 "
        "--requests-per-month 5000 --show-queries --report here"
    )
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cps-router")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["router.cps_usd"] == printed["policies"]["router"]["cps_usd"]
    assert run.data.tags["verdict"] == printed["verdict"]["sentence"]
    logged = Path(client.download_artifacts(run.info.run_id, "report", str(tmp_path)))
    assert (logged / "report.html").read_text() == report_html(printed)
    # Without the option neither text nor MLflow.
    assert cps(*arguments[:-1], "--no-mlflow").code == 0
    assert (tmp_path / "here" / "report.html").read_text() != page
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.parametrize(
    "options",
    [("--show-queries",), ("--requests-per-month", 10), ("--show-queries", "--since", "7d")],
)
def test_options_without_effect_are_refused(
    cps: Run, small_artifact: Path, options: tuple[object, ...]
) -> None:
    more = ("--report", "here") if "--since" in options else ()
    done = cps("evaluate", small_artifact, "nothing.jsonl", *options, *more)
    assert done.code == 2
    assert "expected --" in done.err


def test_report_modules_compute_nothing(repository: Path) -> None:
    """They import neither arrays nor anything that knows a formula."""
    allowed = {"router.errors"}
    paths = sorted((repository / "training").glob("report*.py"))
    paths = [path for path in paths if path.name != "report_text.py"]
    assert len(paths) >= 8
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top not in {"numpy", "scipy", "pandas", "statistics", "sklearn", "random"}
                if top in {"router", "training"}:
                    own = name.startswith("training.report") and name != "training.report_text"
                    assert own or name in allowed, f"{path.name} imports {name}"


def contrast(a: str, b: str) -> float:
    """WCAG 2: the ratio of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_have_contrast(theme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", resource(STYLE), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[theme]))
    for ground in ("page", "panel", "strong"):
        for ink in ("ink", "soft"):
            assert contrast(colours[ink], colours[ground]) >= 4.5
    for ink in ("link", "good", "bad", "open"):
        assert contrast(colours[ink], colours["page"]) >= 4.5
    for mark in ("router", "tier", "other", "curve", "hull"):
        assert contrast(colours[mark], colours["page"]) >= 3.0


def test_the_page_of_the_manual_runs_and_tells_the_code_s_numbers(
    cps: Run, small_artifact: Path, tmp_path: Path, repository: Path
) -> None:
    text = (repository / "docs" / "report.md").read_text("utf-8")
    (tmp_path / "my-router").symlink_to(small_artifact)
    write_jsonl(tmp_path / "outcomes.jsonl", to_outcomes(sample_table(60, 16)))
    (command,) = re.findall(r"^    cps-router (.*)$", text, re.M)
    done = cps(*shlex.split(command), "--no-mlflow")
    assert done.code == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {HTML, JSON, TEXT}
    for words in (
        f"({DEFAULT_REQUESTS_PER_MONTH:,} unless you say)",
        f"the {N_WORST} requests of the greatest regret",
        f"fewer than {MIN_REQUESTS} requests, and those beyond the {MAX_GROUPS} largest",
        f"some {N_STEPS + 1} floors",
        f"{MAX_CALIBRATION_ROWS_KEPT:,} calibration rows",
    ):
        assert words in " ".join(text.split())
