"""What a new process loads: serving must start in a fraction of a second and a few megabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    *("torch", "transformers", "sentence_transformers"),
    *("sklearn", "scipy", "pandas", "pyarrow", "joblib", "mlflow", "matplotlib"),
]
NOT_FOR_SERVING = [*HEAVY, "genai_prices", "training", "typer", "rich"]

LOADED = "import sys, json; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"


def loaded_by(code: str, repository: Path, **environment: str) -> set[str]:
    """Top-level modules that a new interpreter has loaded after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_router_loads_next_to_nothing(repository: Path) -> None:
    loaded = loaded_by("import router", repository)
    assert "router" in loaded
    assert loaded.isdisjoint([*NOT_FOR_SERVING, "numpy", "tokenizers"])


def test_the_check_sees_what_is_loaded(repository: Path) -> None:
    assert "numpy" in loaded_by("import router, numpy", repository)


@pytest.mark.parametrize(
    "module", ["router.routing", "router.keyword", "router.cps", "router.outcomes", "router.prices"]
)
def test_serving_modules_load_nothing_heavy(module: str, repository: Path) -> None:
    assert loaded_by(f"import {module}", repository).isdisjoint(NOT_FOR_SERVING)


def test_importing_training_loads_nothing_heavy(repository: Path) -> None:
    assert loaded_by("import training", repository).isdisjoint(HEAVY)


def test_the_command_line_starts_without_anything_heavy(repository: Path) -> None:
    assert loaded_by("import training.cli", repository).isdisjoint(HEAVY)


def test_loading_the_shipped_artifact_and_routing_loads_nothing_heavy(repository: Path) -> None:
    route = (
        "from router import Router\n"
        "decision = Router.load().route('Translate to Spanish: where is the station?')\n"
        "assert decision.tier in decision.cost_usd, decision"
    )
    loaded = loaded_by(route, repository, CPS_ROUTER_DATA="", HF_HUB_OFFLINE="1")
    assert loaded.isdisjoint(NOT_FOR_SERVING)
