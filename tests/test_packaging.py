"""What users install: the wheel, built from the checkout and from the source distribution."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.network]

QUERY = "Translate to Spanish: where is the station?"


def run(*command: str | Path, cwd: Path, input: str | None = None) -> str:
    """Standard output of a command that must succeed, outside the checkout and its settings."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "CPS_ROUTER_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        input=input,
        env=environment,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One wheel built from the checkout, one from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--outdir")
    run(*build, folder / "checkout", "--wheel", repository, cwd=folder)
    # Without --wheel or --sdist, the wheel is built from the source distribution.
    run(*build, folder / "sdist", repository, cwd=folder)
    return {name: next((folder / name).glob("*.whl")) for name in ("checkout", "sdist")}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel and nothing but what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", wheels["sdist"], cwd=folder)
    return folder / "bin"


def contents(wheel: Path) -> dict[str, int]:
    """Path to (size, CRC) of every file but the list of files itself."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename: entry.CRC
            for entry in archive.infolist()
            if not entry.filename.endswith("/RECORD")
        }


def test_both_ways_build_the_same_wheel(wheels: dict[str, Path]) -> None:
    assert contents(wheels["checkout"]) == contents(wheels["sdist"])


def test_the_wheel_holds_the_packages_the_artifact_and_nothing_else(
    wheels: dict[str, Path], repository: Path
) -> None:
    names = set(contents(wheels["checkout"]))
    shipped = repository / "models" / "default"
    expected = {
        f"router/default_artifact/{path.relative_to(shipped).as_posix()}" for path in files(shipped)
    }
    for package in ("router", "training"):
        expected |= {
            path.relative_to(repository).as_posix()
            for path in files(repository / package)
            if path.suffix != ".pyc"
        }
    assert {
        "router/py.typed",
        "training/py.typed",
        "router/default_artifact/manifest.json",
    } <= names
    assert {name for name in names if ".dist-info/" not in name} == expected


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_wheel_is_small_enough_for_an_index(wheels: dict[str, Path]) -> None:
    assert wheels["checkout"].stat().st_size < 25_000_000


def test_the_metadata_name_licence_extras_and_command(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["sdist"]) as archive:
        texts = {
            Path(name).name: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "Name: cps-router\n" in texts["METADATA"]
    assert "License-Expression: Apache-2.0\n" in texts["METADATA"]
    assert "Requires-Python: >=3.11\n" in texts["METADATA"]
    for extra in ("train", "encoder", "test", "dev"):
        assert f"Provides-Extra: {extra}\n" in texts["METADATA"]
    assert "Apache License" in texts["LICENSE"]
    assert "cps-router = training.cli:main" in texts["entry_points.txt"]


def test_a_clean_environment_loads_the_shipped_artifact_and_routes(
    installed: Path, tmp_path: Path, repository: Path
) -> None:
    code = (
        "import json, router\n"
        f"decision = router.Router.load().route({QUERY!r}, request_id='r1')\n"
        "print(json.dumps({**decision.to_dict(), 'home': router.__file__}))"
    )
    decision: dict[str, Any] = json.loads(run(installed / "python", "-I", "-c", code, cwd=tmp_path))
    manifest = json.loads((repository / "models" / "default" / "manifest.json").read_text())
    assert decision["artifact_id"] == manifest["artifact_id"]
    assert decision["request_id"] == "r1"
    assert decision["tier"] in decision["cost_usd"]
    assert Path(decision["home"]).is_relative_to(installed.parent)


def test_serving_dependencies_are_all_that_is_installed(installed: Path, tmp_path: Path) -> None:
    pip = (installed / "python", "-m", "pip", "--disable-pip-version-check")
    names = {item["name"] for item in json.loads(run(*pip, "list", "--format=json", cwd=tmp_path))}
    assert {"cps-router", "numpy", "tokenizers"} <= names
    assert names.isdisjoint({"torch", "scikit-learn", "pandas", "pyarrow", "mlflow", "scipy"})


def test_the_command_line_routes_without_the_training_extra(
    installed: Path, tmp_path: Path, repository: Path
) -> None:
    command = installed / "cps-router"
    listed = run(command, "--help", cwd=tmp_path)
    for name in ("train", "evaluate", "route", "data"):
        assert name in listed
    artifact = repository / "models" / "default"
    decision = json.loads(run(command, "route", artifact, QUERY, "--json", cwd=tmp_path))
    assert decision["tier"] in decision["cost_usd"]


def test_training_without_its_extra_names_the_extra(
    installed: Path, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "tiers.toml").write_text(
        '[[tiers]]\nname = "a"\nprovider = "p"\nmodel = "m"\n'
        '[[tiers]]\nname = "b"\nprovider = "p"\nmodel = "n"\n'
    )
    rows = [
        {"request_id": str(i), "query": f"{i} ?", "tier": tier, "success": True, "cost_usd": 0.1}
        for i in range(10)
        for tier in "ab"
    ]
    (tmp_path / "outcomes.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ("train", "outcomes.jsonl", "--tiers", "tiers.toml", "--out", "artifact")
    done = subprocess.run(
        [installed / "cps-router", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "cps-router[train]" in done.stderr
    assert "Traceback" not in done.stderr
