"""``cps-router train | evaluate | data``: what they print, and what they say when they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from router.outcomes import write_jsonl
from router.routing import Router
from tests.artifacts import sample_table, tiny_embedder
from tests.command_line import COMMAND, Done, Run, apart, here
from training.split import query_hash
from training.synthetic import tiers_toml, to_outcomes
from training.table import OutcomeTable

FAST = ("--estimator", "logistic", "--no-mlflow")


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(here, monkeypatch, capsys)


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outcomes.jsonl, tiers.toml and an embedder; do not write to it."""
    folder = tmp_path_factory.mktemp("log")
    table = sample_table(240)
    write_jsonl(folder / "outcomes.jsonl", to_outcomes(table))
    (folder / "tiers.toml").write_text(tiers_toml(table.tiers))
    tiny_embedder(folder / "embedder", list(table.query))
    return folder


@pytest.fixture(scope="session")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact trained on the log by the command; do not write to it."""
    out = tmp_path_factory.mktemp("trained") / "router"
    options = ("--tiers", log / "tiers.toml", "--embedder", log / "embedder", *FAST)
    done = apart("train", log / "outcomes.jsonl", "--out", out, *options)
    assert done.code == 0
    return out


def train(
    cps: Run, log: Path, *options: object, outcomes: Path | None = None, out: str = "out"
) -> Done:
    return cps(
        *("train", outcomes or log / "outcomes.jsonl", "--tiers", log / "tiers.toml"),
        *("--embedder", log / "embedder", "--out", out, *FAST, *options),
    )


def refused(done: Done, code: int = 2) -> str:
    """The error: one clear sentence at the end of stderr, and nothing on stdout."""
    assert (done.code, done.out) == (code, "")
    *progress, error = done.err.splitlines()
    assert error.startswith("cps-router: ")
    assert error.endswith(".")
    assert not any(line.startswith("cps-router: ") for line in progress)
    return error.removeprefix("cps-router: ")


def test_train_prints_the_manifest(cps: Run, log: Path, tmp_path: Path) -> None:
    done = train(cps, log, "--json")
    assert done.code == 0
    summary = json.loads(done.out)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.items() <= summary.items()
    assert summary["artifact"] == "out"
    assert summary["mlflow_run_id"] is None
    assert summary["objective"] == "success rate >= that of strongest - 0.05"
    assert summary["certificate"]["confidence"] == 0.95
    assert summary["training"]["name"] == "outcomes.jsonl"
    floors = [row["floor"] for row in summary["floor_menu"]]
    assert [floor.rsplit(" - ")[1] for floor in floors] == ["0.02", "0.05", "0.1"]
    assert [row["asked"] for row in summary["floor_menu"]] == [False, True, False]
    # Nothing but the artifact is left behind.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    decision = cps("route", "out", "Translate: good morning", "--json")
    assert json.loads(decision.out)["artifact_id"] == summary["artifact_id"]


def test_train_in_words(cps: Run, log: Path, tmp_path: Path) -> None:
    done = train(cps, log)
    assert done.code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    training = manifest["training"]
    assert f"{training['n_fitting']} requests fitted, {training['n_calibration']} for" in done.out
    assert manifest["certificate"]["sentence"] in done.out
    assert f"artifact {manifest['artifact_id']} is in out" in done.out
    menu = done.out[done.out.index("Floor menu") :]
    for margin in ("0.02", "0.05 *", "0.1"):
        assert f"frontier - {margin} " in menu
    assert "-0.0%" not in menu
    assert done.err.startswith("reading outcomes.jsonl")


@pytest.mark.parametrize(
    ("options", "objective", "kind"),
    [
        (("--success-floor", 0.5), "success rate >= 0.5", None),
        (("--floor-relative", "mid:-0.1"), "success rate >= that of mid - 0.1", None),
        (("--floor-relative", "strongest:0"), "success rate >= that of strongest", None),
        (("--success-value", 0.002), "a success is worth $0.002", "value"),
        (("--budget", "1e-3"), "at most $0.001 per request", "value"),
        (("--objective", "min-cps"), "least cost per success", "value"),
    ],
)
def test_objectives(
    cps: Run, log: Path, options: tuple[object, ...], objective: str, kind: str | None
) -> None:
    done = train(cps, log, "--json", *options)
    assert done.code == 0
    summary = json.loads(done.out)
    assert summary["objective"].startswith(objective)
    if kind is None:
        assert summary["certificate"]["floor"].startswith("success rate >= ")
    else:
        assert summary["certificate"] is None
        assert summary["policy"]["kind"] == kind
    said = [line for line in done.err.splitlines() if line.startswith("cps-router: ")]
    assert said == [f"cps-router: {warning}" for warning in summary["warnings"]]
    if "min-cps" in options:
        assert any("ends at a success rate of 0." in line for line in said)


def test_other_options(cps: Run, log: Path) -> None:
    options = ("--confidence", 0.8, "--seed", 7, "--safe-tier", "mid", "--success-threshold", 0.5)
    summary = json.loads(train(cps, log, "--json", *options).out)
    assert summary["certificate"]["confidence"] == 0.8
    assert summary["estimator"]["seed"] == 7
    assert summary["policy"]["safe_tier"] == 1


def test_training_again_replaces_the_artifact(cps: Run, log: Path) -> None:
    first = json.loads(train(cps, log, "--json").out)["artifact_id"]
    assert json.loads(train(cps, log, "--json").out)["artifact_id"] == first
    assert json.loads(train(cps, log, "--json", "--seed", 1).out)["artifact_id"] != first
    assert Router.load("out").artifact_id != first


def test_csv_and_parquet_are_the_same_log(cps: Run, log: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        [json.loads(line) for line in (log / "outcomes.jsonl").read_text().splitlines()]
    )
    rows.to_csv(tmp_path / "log.csv", index=False)
    rows.to_parquet(tmp_path / "log.parquet")
    fingerprints = {
        json.loads(train(cps, log, "--json", outcomes=outcomes).out)["training"]["fingerprint"]
        for outcomes in (log / "outcomes.jsonl", tmp_path / "log.csv", tmp_path / "log.parquet")
    }
    assert len(fingerprints) == 1


def bad_rows(log: Path, path: Path, n_bad: int) -> Path:
    path.write_text((log / "outcomes.jsonl").read_text() + "{broken\n" * n_bad)
    return path


def test_a_few_bad_rows_are_set_aside(cps: Run, log: Path, tmp_path: Path) -> None:
    outcomes = bad_rows(log, tmp_path / "log.jsonl", 7)
    done = train(cps, log, "--json", outcomes=outcomes)
    assert done.code == 0
    assert json.loads(done.out)["training"]["read"]["n_bad"] == 7
    rejects = (tmp_path / "log.jsonl.rejects.jsonl").read_text().splitlines()
    assert len(rejects) == 7


def test_many_bad_rows_stop_the_run(cps: Run, log: Path, tmp_path: Path) -> None:
    outcomes = bad_rows(log, tmp_path / "log.jsonl", 8)
    error = refused(train(cps, log, outcomes=outcomes))
    assert "8 of 728 rows are bad, more than the allowed 1%" in error
    assert "8 x " in error
    assert "log.jsonl.rejects.jsonl" in error
    assert not (tmp_path / "out").exists()
    assert train(cps, log, "--max-bad-share", 0.02, outcomes=outcomes).code == 0


def test_names_may_be_any(log: Path, tmp_path: Path) -> None:
    row = {"request_id": "x", "query": "q", "success": True, "cost_usd": 1, "model": "\ud83d [b]"}
    outcomes = tmp_path / "lög\udcff.jsonl"  # a name that is no UTF-8, as Linux allows
    outcomes.write_text((log / "outcomes.jsonl").read_text() + json.dumps(row) + "\n")
    options = ("--tiers", log / "tiers.toml", "--embedder", log / "embedder", *FAST)
    done = apart("train", outcomes, "--out", tmp_path / "out", *options, "--json")
    assert done.code == 0
    summary = json.loads(done.out)
    assert summary["training"]["read"]["n_not_a_tier"] == 1
    assert "[b]" not in done.out  # what a log calls its models stays out of the manifest
    assert summary["training"]["name"] == outcomes.name
    assert Router.load(tmp_path / "out").artifact_id == summary["artifact_id"]
    assert "l\xf6g\\udcff.jsonl" in (tmp_path / "out" / "MODEL_CARD.md").read_text("utf-8")
    assert apart("evaluate", tmp_path / "out", outcomes).code == 0


def write(folder: Path, name: str, content: bytes = b"") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


OUTCOMES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "nothing.jsonl", "found no file: check the path"),
    "suffix": (lambda f: write(f, "log.txt"), "expected outcomes as .jsonl, .csv or .parquet"),
    "folder": (lambda f: f, "expected outcomes as .jsonl, .csv or .parquet"),
    "empty": (lambda f: write(f, "log.jsonl"), "the file has no rows"),
    "empty csv": (lambda f: write(f, "log.csv"), "got an empty file"),
    "empty parquet": (lambda f: write(f, "log.parquet"), "it is damaged"),
    "header only": (
        lambda f: write(f, "log.csv", b"request_id,query,success,tier,cost_usd\n"),
        "the file has no rows",
    ),
    "other columns": (
        lambda f: write(f, "log.csv", b"a,b\n1,2\n"),
        "the columns request_id; query",
    ),
    "all bad": (lambda f: write(f, "log.jsonl", b"{\n" * 50), "50 of 50 rows are bad"),
    "no tier": (
        lambda f: write(
            f,
            "log.jsonl",
            b'{"request_id": "1", "query": "q", "success": 1, "model": "other", "cost_usd": 1}\n',
        ),
        "expected outcomes of the tiers nano, mid, frontier",
    ),
    "too few": (
        lambda f: write(
            f,
            "log.jsonl",
            b'{"request_id": "1", "query": "q", "success": 1, "tier": "mid", "cost_usd": 1}\n',
        ),
        "expected ",
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcomes_that_cannot_be_used(cps: Run, log: Path, tmp_path: Path, name: str) -> None:
    make, said = OUTCOMES[name]
    assert said in refused(train(cps, log, outcomes=make(tmp_path)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--success-floor", 0.9, "--budget", 1), "got --success-floor and --budget: choose one"),
        (("--success-value", 1, "--objective", "min-cps"), "--success-value and --objective"),
        (("--success-floor", "nan"), "a success floor between 0 and 1, got nan"),
        (("--success-floor", 90), "a success floor between 0 and 1, got 90"),
        (("--success-floor", 0), "a success floor between 0 and 1, got 0"),
        (("--floor-relative", "opus:-0.05"), "the name of a tier, got 'opus'"),
        (("--floor-relative", ":-0.05"), "the name of a tier, got ''"),
        (("--floor-relative", "strongest"), "expected TIER:MARGIN"),
        (("--floor-relative", "mid:five"), "expected TIER:MARGIN"),
        (("--floor-relative", "mid:0.05"), "a margin from -1 to 0"),
        (("--floor-relative", "mid:nan"), "a margin from -1 to 0"),
        (("--success-value", 0), "expected dollars above 0"),
        (("--success-value", "inf"), "expected dollars above 0"),
        (("--budget", -1), "expected dollars above 0"),
        (("--budget", 1e-12), "expected a budget of at least $"),
        (("--objective", "cheap"), "expected --objective min-cps, got 'cheap'"),
        (("--confidence", 2), "a confidence from 0.5 to 1, got 2"),
        (("--confidence", "nan"), "a confidence from 0.5 to 1, got nan"),
        (("--estimator", "forest"), "an estimator among auto, ridge, logistic"),
        (("--safe-tier", "opus"), "the name of a tier, got 'opus'"),
        (("--max-bad-share", "nan"), "a share of bad rows from 0 to 1, got nan"),
        (("--max-bad-share", -0.1), "a share of bad rows from 0 to 1, got -0.1"),
        (("--success-threshold", "nan"), "a number as success threshold, got nan"),
        (("--tiers", "nothing.toml"), "expected a tiers file at nothing.toml, found none"),
        (("--tiers", "."), "cannot read the tiers file"),
        (("--embedder", "./nothing"), "'static', a sentence-transformers folder"),
    ],
)
def test_options_that_cannot_be_used(
    cps: Run, log: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    assert said in refused(train(cps, log, *options))
    assert not (tmp_path / "out").exists()


def test_what_is_asked_wrongly_is_said_before_the_work(cps: Run, log: Path, tmp_path: Path) -> None:
    write(tmp_path, "thesis.tex", b"years of work")
    for options in (
        ("--floor-relative", "opus:-0.05"),
        ("--safe-tier", "opus"),
        ("--estimator", "forest"),
        ("--confidence", 95),
        ("--embedder", "./nothing"),
        ("--out", "."),
        ("--out", "thesis.tex"),
        ("--out", "thesis.tex/below"),
    ):
        done = train(cps, log, *options)
        assert refused(done)
        assert "reading" not in done.err  # a long log takes minutes
    assert (tmp_path / "thesis.tex").read_bytes() == b"years of work"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "Missing argument"),
        (["train", "log.jsonl", "--out", "out"], "Missing option '--tiers'"),
        (["train", "log.jsonl", "--tiers", "t.toml"], "Missing option '--out'"),
        (["train", "log.jsonl", "--tiers", "t", "--out", "o", "--seed", "-1"], "'--seed'"),
        (["train", "log.jsonl", "--tiers", "t", "--out", "o", "--seed", "x"], "'--seed'"),
        (["train", "log.jsonl", "--tiers", "t", "--out", "o", "--budget", "much"], "'--budget'"),
        (["evaluate", "default"], "Missing argument"),
        (["evaluate", "default", "x.jsonl", "--confidence", "high"], "'--confidence'"),
        (["data"], "Usage"),
        (["data", "fetch"], "Missing argument"),
        (["data", "get"], "No such command"),
    ],
)
def test_bad_usage(cps: Run, arguments: list[str], said: str) -> None:
    done = cps(*arguments)
    assert done.code == 2
    assert "Usage: cps-router " in done.out + done.err
    assert said in done.out + done.err


def test_evaluate_as_json(cps: Run, log: Path, trained: Path) -> None:
    done = cps("evaluate", trained, log / "outcomes.jsonl", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    manifest = json.loads((trained / "manifest.json").read_text())
    n_test = manifest["training"]["n_test"]
    assert report["n_requests"] == n_test
    assert report["n_left_out_trained"] == 240 - n_test
    assert report["artifact_id"] == manifest["artifact_id"]
    assert list(report["tiers"]) == ["nano", "mid", "frontier"]
    for tier in report["tiers"].values():
        assert tier["n"] == n_test
        successes = tier["success_rate"] * tier["n"]
        assert tier["cps_usd"] == pytest.approx(tier["total_cost_usd"] / successes)
    policies = {"router", "always-nano", "always-mid", "always-frontier", "random-mix", "oracle"}
    assert policies | {"keyword"} <= set(report["policies"])
    for policy in report["policies"].values():
        low, high = policy["cps_usd_interval"]
        assert low <= policy["cps_usd"] <= high
    assert report["mix_ratio"] > 0
    assert report["verdict"]["label"] in ("pays", "does not pay", "not proven")
    assert set(report["verdict"]["bounds"]) == set(report["tiers"])
    # The same twice; another seed resamples otherwise.
    assert cps("evaluate", trained, log / "outcomes.jsonl", "--json").out == done.out
    assert cps("evaluate", trained, log / "outcomes.jsonl", "--json", "--seed", 1).out != done.out


def test_evaluate_in_words(cps: Run, log: Path, trained: Path) -> None:
    done = cps("evaluate", trained, log / "outcomes.jsonl", "--confidence", 0.9)
    assert done.code == 0
    assert "90% intervals" in done.out
    for name in ("always-nano", "always-frontier", "random-mix", "oracle", "keyword", "router"):
        assert f"\n{name} " in done.out
    assert "\nverdict: " in done.out


def change(table: OutcomeTable, path: Path, **columns: Any) -> Path:
    write_jsonl(path, to_outcomes(replace(table, **columns)))
    return path


def test_a_tier_that_never_succeeds(cps: Run, trained: Path, tmp_path: Path) -> None:
    table = sample_table(60, 11)
    success = table.success.copy()
    success[:, 0] = 0.0
    done = cps(
        "evaluate", trained, change(table, tmp_path / "log.jsonl", success=success), "--json"
    )
    assert done.code == 0
    assert json.loads(done.out)["tiers"]["nano"]["cps_usd"] is None
    none = change(table, tmp_path / "log.jsonl", success=success * 0)
    for extra in ((), ("--json",)):
        assert cps("evaluate", trained, none, *extra).code == 0


def test_a_split_column_is_respected(cps: Run, log: Path, tmp_path: Path) -> None:
    table = sample_table(240)
    split = table.split.copy()
    split[:160], split[160:] = "train", "test"
    outcomes = change(table, tmp_path / "log.jsonl", split=split)
    summary = json.loads(train(cps, log, "--json", outcomes=outcomes).out)
    assert summary["training"]["split"]["source"] == "column"
    leaked = summary["training"]["n_left_out_as_leaked"]
    assert summary["training"]["n_test"] == 80
    assert summary["training"]["n_fitting"] + summary["training"]["n_calibration"] == 160 - leaked
    report = json.loads(cps("evaluate", "out", outcomes, "--json").out)
    assert report["n_requests"] == 80
    assert report["n_train_split"] == 160


def test_a_query_longer_than_any_window_is_evaluated(
    cps: Run, trained: Path, tmp_path: Path
) -> None:
    table = sample_table(60, 11)
    query = table.query.copy()
    query[0] = "word " * 100_000  # about 166,000 tokens by its length; the windows are 128,000
    done = cps("evaluate", trained, change(table, tmp_path / "log.jsonl", query=query), "--json")
    assert done.code == 0
    assert json.loads(done.out)["n_requests"] == 60


def test_a_log_of_other_models_is_remarked_on(
    cps: Run, log: Path, trained: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (log / "outcomes.jsonl").read_text().splitlines()]
    for row in rows:
        row["model"] = {"mid": "llama\n9"}.get(row["tier"], row["tier"])
    other = write(tmp_path, "other.jsonl", "".join(f"{json.dumps(r)}\n" for r in rows).encode())
    said = (
        "cps-router: the log names models that its tiers do not ('llama\\n9' for mid): if they are "
        "the same models, add the names as aliases to the tiers file, else the outcomes are of "
        "other models."
    )
    done = cps("evaluate", trained, other)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith("cps-router: ")] == [said]
    assert said in train(cps, log, outcomes=other).err
    same = cps("evaluate", trained, log / "outcomes.jsonl")
    assert "cps-router: " not in same.err


def test_evaluate_says_what_is_wrong(cps: Run, log: Path, trained: Path, tmp_path: Path) -> None:
    outcomes = log / "outcomes.jsonl"
    assert "expected an artifact folder" in refused(cps("evaluate", "nothing", outcomes))
    assert "found no file" in refused(cps("evaluate", trained, "nothing.jsonl"))
    assert "found none" in refused(cps("evaluate", trained, outcomes, "--tiers", "nothing.toml"))
    for confidence in (2, 0, "nan"):
        done = cps("evaluate", trained, outcomes, "--confidence", confidence)
        assert "a confidence between 0 and 1" in refused(done)
    assert "a share of bad rows" in refused(
        cps("evaluate", trained, outcomes, "--max-bad-share", "nan")
    )
    trained_on = set(Router.load(trained).trained_query_hashes.tolist())
    rows = [json.loads(line) for line in outcomes.read_text().splitlines()]
    seen = [row for row in rows if query_hash(row["query"]) in trained_on]
    hidden = write(tmp_path, "seen.jsonl", "".join(f"{json.dumps(r)}\n" for r in seen).encode())
    assert "that were not used in training, got none of 160" in refused(
        cps("evaluate", trained, hidden)
    )


def test_data_list(cps: Run) -> None:
    done = cps("data", "list", "--json")
    assert done.code == 0
    names = [row["name"] for row in json.loads(done.out)["datasets"]]
    assert names == ["paretobandit", "mmlu_pro", "zeroeval"]
    words = cps("data", "list").out
    assert [line.split()[0] for line in words.splitlines()] == names


@pytest.mark.parametrize("module", ["training.cli", "router.cli"])
def test_the_module_is_the_command_too(module: str, trained: Path, repository: Path) -> None:
    for arguments, key in ((("route", trained, "hello"), "tier"), (("data", "list"), "datasets")):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments, "--json"],
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        )
        assert key in json.loads(done.stdout)


def test_data_from_a_folder(cps: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPS_ROUTER_DATA", "")
    assert "CPS_ROUTER_DATA is not set" in refused(cps("data", "fetch", "zeroeval"), code=1)
    monkeypatch.setenv("CPS_ROUTER_DATA", str(tmp_path))
    assert "which it lacks" in refused(cps("data", "fetch", "zeroeval"), code=1)
    for name in ("zeroeval.parquet", "zeroeval.tiers.toml"):
        write(tmp_path, name)
    done = cps("data", "fetch", "zeroeval", "--json")
    assert json.loads(done.out) == {
        "outcomes": str(tmp_path / "zeroeval.parquet"),
        "tiers": str(tmp_path / "zeroeval.tiers.toml"),
    }


def test_data_that_cannot_be_had(cps: Run, tmp_path: Path) -> None:
    assert "did you mean 'paretobandit'" in refused(cps("data", "fetch", "paretobandits"))
    write(tmp_path, "file")
    done = cps("data", "fetch", "paretobandit", "--dest", "file")
    assert "choose another folder" in refused(done, code=1)


def test_data_without_a_network(tmp_path: Path) -> None:
    done = apart(
        *("data", "fetch", "paretobandit", "--dest", tmp_path),
        PIP_INDEX_URL="http://user:password@127.0.0.1:9/simple",
        PIP_EXTRA_INDEX_URL="",
        PIP_NO_INDEX="",
        PIP_FIND_LINKS="",
        PIP_CONFIG_FILE=os.devnull,
    )
    error = refused(done, code=1)
    assert "could not be reached or does not offer paretobandit==0.1.1" in error
    assert "password" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(log: Path, tmp_path: Path) -> None:
    python, dash_c, code = COMMAND
    code = code.replace("import sys;", "import sys; sys.modules['sklearn'] = None;")
    arguments = ["train", "x.jsonl", "--tiers", "t.toml", "--out", "out"]
    done = subprocess.run(
        [python, dash_c, code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "cps-router: this command needs the package 'sklearn', which is not installed: "
        "run pip install 'cps-router[train]'.\n"
    )


def test_nobody_reading_the_progress_does_not_stop_training(log: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            *(*COMMAND, "train", str(log / "outcomes.jsonl"), "--tiers", str(log / "tiers.toml")),
            *("--embedder", str(log / "embedder"), "--out", str(tmp_path / "out"), *FAST, "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.close()
        summary = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert Router.load(tmp_path / "out").artifact_id == summary["artifact_id"]


def test_a_run_is_logged_unless_told_otherwise(
    cps: Run, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store that is refused shows that one was asked for.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "runs"))
    done = cps(
        *("train", log / "outcomes.jsonl", "--tiers", log / "tiers.toml", "--out", "out"),
        *("--embedder", log / "embedder", "--estimator", "logistic", "--json"),
    )
    assert "MLFLOW_TRACKING_URI" in refused(done)
    assert train(cps, log).code == 0
