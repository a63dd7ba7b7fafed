"""No message of ours repeats a query, and what docs/privacy.md promises of stored queries holds.

A marker stands in every query that is trained on, evaluated, routed and refused here; then it is
looked for in whatever was printed, written or logged.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from router import InputError, KeywordRouter, Router
from router.errors import CpsRouterError
from router.outcomes import write_jsonl
from tests.command_line import Run, here
from tests.training.importers.helpers import slp, write_lines
from training.gather import as_objects
from training.synthetic import (
    SyntheticOutcomes,
    log,
    make_world,
    sample,
    tiers_toml,
    to_outcomes,
    uniform_policy,
)
from training.table import read_outcomes

MARKER = "zyxmarkerquux"
N = 300


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(here, monkeypatch, capsys)


@pytest.fixture(scope="module")
def marked() -> SyntheticOutcomes:
    """The marker is in every query, capitals too."""
    found = sample(make_world(), N, 3)
    query = as_objects([f"{text} {MARKER} {MARKER.upper()}" for text in found.table.query])
    return replace(found, table=replace(found.table, query=query))


@pytest.fixture
def files(marked: SyntheticOutcomes, tmp_path: Path) -> Path:
    """tiers.toml, full.jsonl (one of its rows bad) and log.jsonl."""
    (tmp_path / "tiers.toml").write_text(tiers_toml(marked.table.tiers))
    write_jsonl(tmp_path / "full.jsonl", to_outcomes(marked.table))
    with (tmp_path / "full.jsonl").open("a") as file:
        bad = {"request_id": "bad", "query": MARKER, "success": 7, "tier": "nano", "cost_usd": 1}
        file.write(json.dumps(bad) + "\n")
        file.write(f'{{"query": "{MARKER}\n')
    write_jsonl(tmp_path / "log.jsonl", to_outcomes(log(marked, uniform_policy(marked), 1)))
    return tmp_path


def holders(folder: Path, *but: str) -> list[str]:
    """Files that hold the marker, but for those named."""
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and path.name not in but and has_marker(path.read_bytes())
    )


def has_marker(content: bytes) -> bool:
    return MARKER.encode() in content.lower()


TEXTS = ("full.jsonl", "log.jsonl", "queries.jsonl", "payloads.jsonl", "bad.csv")


def test_train_evaluate_and_route_do_not_repeat_queries(
    cps: Run, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for data in ("full", "log"):
        train = ("train", f"{data}.jsonl", "--tiers", "tiers.toml", "--out", f"{data}-router")
        said.append(cps(*train, "--estimator", "ridge"))
        evaluate = ("evaluate", f"{data}-router", f"{data}.jsonl")
        said.append(cps(*evaluate, "--report", f"{data}-report"))
        said.append(cps(*evaluate, "--json"))
    query = json.dumps({"query": f"compare {MARKER}", "request_id": "1"})
    said.append(cps("route", "full-router", f"compare {MARKER}"))
    said.append(cps("route", "full-router", "--file", "-", stdin=query.encode()))
    assert [done.code for done in said] == [0] * len(said)
    assert not any(has_marker((done.out + done.err).encode()) for done in said)
    assert not has_marker(caplog.text.encode())
    # Manifests, model cards, reports, rejects and the store of MLflow are all here.
    names = {path.name for path in files.rglob("*")}
    assert {"manifest.json", "report.txt", "full.jsonl.rejects.jsonl", "mlflow.db"} <= names
    assert holders(files, *TEXTS) == []
    with sqlite3.connect(files / "mlflow.db") as store:
        assert store.execute("select count(*) from params").fetchone()[0] > 0


def test_errors_do_not_repeat_queries(cps: Run, files: Path, small_artifact: Path) -> None:
    (files / "bad.csv").write_text(
        f'request_id,query,success,tier,cost_usd\n1,"{MARKER}",2,nano,1\n2,{MARKER},x,y,z,{MARKER}\n'
    )
    (files / "queries.jsonl").write_text(f'{{"query": "{MARKER}"}}\n{{"query": ["{MARKER}"]}}\n')
    write_lines(files / "payloads.jsonl", [slp(1, messages=[{"role": "x", "content": MARKER}])])
    (files / "feedback.jsonl").write_text('{"id": "chatcmpl-1", "success": true}\n')
    few = files / "few.jsonl"
    few.write_bytes(b"".join((files / "full.jsonl").read_bytes().splitlines(True)[:6]))
    commands: list[tuple[object, ...]] = [
        ("train", "bad.csv", "--tiers", "tiers.toml", "--out", "a", "--no-mlflow"),
        ("train", "few.jsonl", "--tiers", "tiers.toml", "--out", "a", "--no-mlflow"),
        ("evaluate", small_artifact, "bad.csv"),
        ("evaluate", small_artifact, "full.jsonl", "--since", "7d"),
        ("evaluate", small_artifact, "full.jsonl", "--max-bad-share", "0"),
        ("route", small_artifact, "--file", "queries.jsonl"),
        ("route", small_artifact, "compare", MARKER),
        ("import", "litellm", "payloads.jsonl", "--feedback", "feedback.jsonl", "--out", "o.jsonl"),
        ("import", "outcomes", "bad.csv", "--out", "o.jsonl", "--store", "vectors"),
    ]
    for command in commands:
        done = cps(*command)
        assert done.code != 0, command
        assert not has_marker((done.out + done.err).encode()), command
    assert holders(files, "few.jsonl", *TEXTS) == []


class Failing:
    """A shadow whose error repeats the query."""

    def route(self, query: str, **options: Any) -> Any:
        raise ValueError(query)

    def route_many(self, queries: Any, request_ids: Any = None) -> Any:
        raise ValueError(queries)


def test_objects_and_log_records_do_not_repeat_queries(
    files: Path, marked: SyntheticOutcomes, small_artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    table = read_outcomes(files / "full.jsonl", marked.table.tiers)
    assert MARKER in table.query[0]
    router = Router.load(small_artifact)
    decision = router.route(f"compare {MARKER}", shadow=Failing())
    shown = [
        table,
        next(to_outcomes(table)),
        router,
        decision,
        decision.to_dict(),
        router.predictor,
    ]
    assert not any(has_marker(repr(value).encode()) for value in shown)
    assert "shadow router failed" in caplog.text and not has_marker(caplog.text.encode())
    for wrong in ([MARKER], {MARKER: 1}, MARKER.encode()):
        for made in (router, KeywordRouter()):
            with pytest.raises(InputError) as refused:
                made.route(wrong)  # type: ignore[arg-type]
            assert not has_marker(str(refused.value).encode())
    with pytest.raises(CpsRouterError) as refused_many:
        router.route_many(MARKER)
    assert not has_marker(str(refused_many.value).encode())


# Without text


def test_an_import_without_text_writes_none_and_trains_the_same(cps: Run, files: Path) -> None:
    done = cps("import", "outcomes", "full.jsonl", "--out", "v.jsonl", "--store", "vectors")
    assert done.code == 0 and f"{3 * N:,} of {3 * N + 2:,} rows" in done.out
    assert holders(files, *TEXTS) == []
    lines = [json.loads(line) for line in (files / "v.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * N
    assert all("query" not in line and line["query_record"]["version"] == 1 for line in lines)
    manifests = []
    for data in ("full", "v"):
        options = ("--tiers", "tiers.toml", "--out", data, "--estimator", "ridge", "--no-mlflow")
        assert cps("train", f"{data}.jsonl", *options).code == 0
        manifests.append(json.loads((files / data / "manifest.json").read_text()))
    for name in ("certificate", "metrics", "policy", "floor_menu"):
        assert manifests[0][name] == manifests[1][name]
    # Each of the two artifacts on each of the two files.
    reports = [
        json.loads(cps("evaluate", artifact, f"{data}.jsonl", "--json").out)
        for artifact, data in (("full", "full"), ("full", "v"), ("v", "full"), ("v", "v"))
    ]
    for name in ("policies", "mix_ratio", "verdict"):
        assert all(report[name] == reports[0][name] for report in reports)


def test_the_embedder_of_an_import_is_the_one_to_train_with(
    cps: Run, files: Path, small_artifact: Path
) -> None:
    [folder] = small_artifact.parent.glob("embedder")
    store = ("--store", "vectors", "--embedder", folder)
    assert cps("import", "outcomes", "full.jsonl", "--out", "v.jsonl", *store).code == 0
    train = ("train", "v.jsonl", "--tiers", "tiers.toml", "--no-mlflow", "--estimator", "ridge")
    done = cps(*train, "--out", "a")
    assert done.code == 2
    [sentence] = [line for line in done.err.splitlines() if line.startswith("cps-router: ")]
    assert "expected queries stored with the embedder static-256-" in sentence
    assert cps(*train, "--out", "b", "--embedder", folder).code == 0


def test_an_embedder_needs_vectors_to_store(cps: Run, files: Path) -> None:
    done = cps("import", "outcomes", "full.jsonl", "--out", "v.jsonl", "--embedder", "static")
    assert (done.code, done.out) == (2, "")
    assert "expected --store vectors with --embedder static" in done.err


def test_outcomes_are_kept_as_they_are(cps: Run, files: Path) -> None:
    assert cps("import", "outcomes", "log.jsonl", "--out", "same.jsonl").code == 0
    assert (files / "same.jsonl").read_bytes() == (files / "log.jsonl").read_bytes()
    for source, out in (("log", "once"), ("once", "twice")):
        done = cps(
            "import", "outcomes", f"{source}.jsonl", "--out", f"{out}.jsonl", "--store", "vectors"
        )
        assert done.code == 0
    assert (files / "twice.jsonl").read_bytes() == (files / "once.jsonl").read_bytes()


def test_the_page_says_what_there_is(cps: Run, files: Path, repository: Path) -> None:
    page = (repository / "docs" / "privacy.md").read_text("utf-8")
    write_lines(files / "payloads.jsonl", [slp(1, messages=[{"role": "user", "content": MARKER}])])
    (files / "feedback.jsonl").write_text('{"id": "chatcmpl-1", "success": true}\n')
    [line, *_] = re.findall(r"^    (cps-router import .*)$", page, flags=re.MULTILINE)
    assert cps(*shlex.split(line)[1:]).code == 0
    [row] = [json.loads(line) for line in (files / "outcomes.jsonl").read_text().splitlines()]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert set(row["query_record"]) == named | {"version", "embedder", "embedder_digest"}
    kilobytes = float(re.findall(r"about ([\d.]+) kB", page)[0])
    big = cps("import", "outcomes", "log.jsonl", "--out", "v.jsonl", "--store", "vectors")
    assert big.code == 0
    records = [
        json.loads(line)["query_record"] for line in (files / "v.jsonl").read_text().splitlines()
    ]
    sizes = [len(json.dumps(record)) for record in records]
    assert sum(sizes) / len(sizes) / 1000 == pytest.approx(kilobytes, rel=0.15)
