"""``cps-router promote``: the whole story on the command line, and docs/promoting.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.outcomes import write_jsonl
from router.routing import Router
from tests.artifacts import resave, sample_table
from tests.command_line import Done, Run, apart, here
from training.synthetic import log, make_world, sample, tiers_toml, to_outcomes, uniform_policy

NAMES = ("nano", "mid", "frontier")


@pytest.fixture
def cps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(here, monkeypatch, capsys)


@pytest.fixture(scope="module")
def files(small_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router for each tier that always uses it, outcomes that none was trained on, and a log."""
    folder = tmp_path_factory.mktemp("files")

    def always(tier: int, manifest: dict[str, Any]) -> None:
        manifest["policy"].update(
            kind="tier", low=tier, high=tier, safe_tier=tier, success_value_usd=0.0005
        )

    for tier, name in enumerate(NAMES):
        resave(small_artifact, folder / name, manifest=partial(always, tier))
    outcomes = sample(make_world(), 2500, 8)
    write_jsonl(folder / "outcomes.jsonl", to_outcomes(outcomes.table))
    write_jsonl(folder / "log.jsonl", to_outcomes(log(outcomes, uniform_policy(outcomes), 1)))
    (folder / "tiers.toml").write_text(tiers_toml(outcomes.table.tiers))
    assert outcomes.table.tiers.names == NAMES
    return folder


def told(done: Done, code: int = 0) -> dict[str, Any]:
    assert done.code == code, done.err
    found = json.loads(done.out)
    assert isinstance(found, dict)
    return found


def test_promoted_refused_rolled_back_and_exported(cps: Run, files: Path, tmp_path: Path) -> None:
    outcomes = files / "outcomes.jsonl"
    # The dearest tier alone does not beat the heuristic by its own scale.
    found = told(cps("promote", files / "frontier", outcomes, "--json"), code=3)
    assert (found["promoted"], found["version"], found["champion_version"]) == (False, 1, None)
    assert found["routers"][1]["name"] == "keyword"
    assert found["never"] is True

    first = ("promote", files / "mid", outcomes, "--margin", 0.5, "--json")
    found = told(cps(*first, "--incumbent", files / "frontier"))
    assert (found["promoted"], found["version"], found["champion_version"]) == (True, 2, 2)
    # As they say: the two single tiers' means.
    table = sample_table(2500, seed=8)
    trained = Router.load(files / "mid").trained_query_hashes
    from training.split import query_hashes

    hashes = query_hashes(table.query)
    rows = ~np.isin(hashes, trained)
    assert found["counts"]["n_requests"] == rows.sum()
    assert found["routers"][0]["success_rate"] == pytest.approx(
        table.success[rows, 1].mean(), abs=0.01
    )
    assert found["routers"][1]["cost_usd_per_request"] == pytest.approx(
        table.cost_usd[rows, 2].mean(), rel=0.01
    )

    found = told(cps("promote", files / "nano", outcomes, "--json"), code=3)
    assert found["success_difference"]["passed"] is False
    assert found["loss_difference_usd"]["passed"] is True
    assert (found["version"], found["champion_version"], found["previous_version"]) == (3, 2, 2)
    done = cps("promote", files / "nano", outcomes, "--margin", 0.9)
    assert done.code == 0
    assert "PROMOTED: its success rate differs by -0." in done.out
    assert "champion: version 3, instead of version 2" in done.out

    status = told(cps("promote", "--status", "--json"))
    assert status["aliases"] == {"champion": 3, "previous-champion": 2, "challenger": 3}
    assert [version["version"] for version in status["versions"]] == [3, 2, 1]
    assert told(cps("promote", "--export", "live", "--json"))["champion"]["version"] == 3
    assert json.loads(cps("route", "live", "hello", "--json").out)["tier"] == "nano"
    back = told(cps("promote", "--rollback", "--json"))
    assert (back["rolled_back"]["version"], back["champion"]["version"]) == (3, 2)
    assert cps("promote", "--export", "live").code == 0
    assert json.loads(cps("route", "live", "hello", "--json").out)["tier"] == "mid"
    done = cps("promote", "--rollback")
    assert done.code == 2
    assert "expected a champion before version 2" in done.err
    shown = cps("promote", "--status").out
    assert "version 2 (champion): artifact" in shown
    assert "rolled back to version 2 at" in shown


def test_a_log_will_do(cps: Run, files: Path) -> None:
    given = ("promote", files / "mid", files / "log.jsonl", "--incumbent", files / "frontier")
    found = told(cps(*given, "--margin", 0.5, "--json"))
    assert (found["promoted"], found["feedback"]) == (True, "logged")
    found = told(cps("promote", files / "frontier", files / "log.jsonl", "--json"), code=3)
    assert found["never"] is True


def test_names_are_apart(cps: Run, files: Path) -> None:
    given = ("promote", files / "mid", files / "outcomes.jsonl", "--name", "other", "--json")
    found = told(cps(*given))
    assert (found["name"], found["promoted"]) == ("other", True)
    assert found["sentence"].startswith("PROMOTED: ")
    assert told(cps("promote", "--status", "--json"))["versions"] == []
    assert "nothing is registered as 'cps-router'" in cps("promote", "--status").out


def test_an_altered_champion_stops_everything_but_a_rollback(
    cps: Run, files: Path, tmp_path: Path
) -> None:
    given = (files / "outcomes.jsonl", "--margin", 0.9)
    assert cps("promote", files / "mid", *given, "--incumbent", files / "frontier").code == 0
    assert cps("promote", files / "nano", *given).code == 0
    altered = [
        path
        for path in tmp_path.glob("mlruns/**/artifacts/artifact/manifest.json")
        if '"low": 0' in path.read_text()
    ]
    [manifest] = altered
    manifest.write_text(manifest.read_text().replace('"low": 0', '"low": 1'))
    for arguments in (("promote", files / "mid", *given), ("promote", "--export", "live")):
        done = cps(*arguments)
        assert done.code == 2
        assert "altered in the store; do not use it (--rollback restores" in done.err
    assert cps("promote", "--rollback").code == 0
    assert cps("promote", "--export", "live").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "got none"),
        (("mid",), "got CHALLENGER OUTCOMES (incomplete)"),
        (("--rollback", "--status"), "got --rollback and --status"),
        (("mid", "outcomes.jsonl", "--rollback"), "got --rollback and CHALLENGER OUTCOMES"),
        (("mid", "outcomes.jsonl", "--margin", "-1"), "expected a margin from 0"),
        (("mid", "outcomes.jsonl", "--confidence", "0.4"), "expected a confidence above 0.5"),
        (("nowhere", "outcomes.jsonl"), "expected an artifact folder at nowhere"),
        (("mid", "nowhere.jsonl"), "nowhere.jsonl"),
        (("mid", "empty.jsonl"), "the file has no rows"),
        (("mid", "outcomes.jsonl", "--incumbent", "nowhere"), "expected an artifact folder at"),
        (("mid", "outcomes.jsonl", "--name", "a/b"), "expected a name"),
        (("mid", "train.jsonl"), "are marked train; bring new requests"),
        (("--rollback",), "expected a champion of 'cps-router' to roll back"),
        (("--export", "live"), "expected a champion of 'cps-router' to export"),
    ],
)
def test_bad_input_is_one_sentence_and_registers_nothing(
    cps: Run, files: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name in ("mid", "outcomes.jsonl"):
        (tmp_path / name).symlink_to(files / name)
    (tmp_path / "empty.jsonl").write_text("")
    rows = [json.loads(line) for line in (files / "outcomes.jsonl").read_text().splitlines()][:300]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows)
    )
    done = cps("promote", *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("cps-router: ") == 1
    assert told(cps("promote", "--status", "--json"))["versions"] == []


def test_an_incumbent_beside_a_champion_is_refused(cps: Run, files: Path) -> None:
    given = ("promote", files / "mid", files / "outcomes.jsonl", "--margin", 0.5, "--incumbent")
    assert cps(*given, files / "frontier").code == 0
    done = cps(*given, "keyword")
    assert done.code == 2
    assert "expected no --incumbent, since version 1 of 'cps-router' is champion" in done.err


def test_no_query_text_is_stored_or_shown(cps: Run, files: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (files / "outcomes.jsonl").read_text().splitlines()]
    marker = "platypus-4711"
    for row in rows:
        row["query"] += f" {marker}"
    (tmp_path / "marked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cps("promote", files / "mid", "marked.jsonl")
    assert done.code in (0, 3)
    assert marker not in done.out + done.err
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and "marked" not in path.name]
    assert len(stored) > 3
    assert not [path for path in stored if marker.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_refusal_ends_the_process_with_3(files: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    given = ("promote", files / "frontier", files / "outcomes.jsonl", "--json")
    done = apart(*given, MLFLOW_TRACKING_URI=uri)
    assert done.code == 3
    assert json.loads(done.out)["promoted"] is False


def test_the_commands_of_the_page_run(
    cps: Run, files: Path, tmp_path: Path, repository: Path
) -> None:
    page = (repository / "docs" / "promoting.md").read_text("utf-8")
    commands = [
        shlex.split(line)[1:] for line in re.findall("^    (cps-router .*)$", page, re.MULTILINE)
    ]
    assert [command[1] for command in commands] == [
        "my-router",
        "--status",
        "--export",
        "--rollback",
    ]
    shutil.copytree(files / "mid", tmp_path / "my-router")
    shutil.copy(files / "outcomes.jsonl", tmp_path / "outcomes.jsonl")
    given = (files / "outcomes.jsonl", "--margin", 0.9)
    assert cps("promote", files / "frontier", *given).code == 3
    assert cps("promote", files / "nano", *given, "--incumbent", files / "mid").code == 0
    assert [cps(*command).code for command in commands] == [3, 0, 0, 2]
    from training.gate import DEFAULT_MARGIN
    from training.offpolicy import MAX_MISSING_SHARE, MIN_ESS

    assert f"({DEFAULT_MARGIN} if not" in page
    assert f"sample below {MIN_ESS:g}, or more than {100 * MAX_MISSING_SHARE:g} % of" in page
