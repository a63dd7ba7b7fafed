"""Artifacts of every FORMAT so far load, and decide as when they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.artifact import FORMAT, load_artifact
from router.routing import Router
from tests.golden.make_artifact import decisions

HERE = Path(__file__).resolve().parent
FORMATS = range(1, FORMAT + 1)
EVERY = ["ridge", "logistic", "knn", "mlp"]
MEMBERS = {1: ["logistic", "knn", "mlp"], 2: EVERY, 3: EVERY}
PARTS = {1: {"references"}, 2: {"references", "inputs", "coverage", "escalation"}}
PARTS[3] = PARTS[2]
# Embedding, query features; from format 2 on word grams and a kernel of the references, too; from
# format 3 on two tasks.
N_INPUTS = {1: 16 + 10, 2: 16 + 10 + 2048 + 48, 3: 16 + 10 + 2048 + 53 + 2}


def close(value: Any) -> Any:
    """Numbers may differ in the last digits between machines; everything else may not."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-6)
    if isinstance(value, dict):
        return {name: close(item) for name, item in value.items()}
    return [close(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("number", FORMATS)
def test_an_old_artifact_decides_as_it_did(number: int) -> None:
    folder = HERE / f"artifact-format-{number}"
    held = json.loads((HERE / f"{folder.name}.json").read_text("ascii"))
    # Through JSON, as its users get it.
    found = json.loads(json.dumps(decisions(Router.load(folder), held["queries"]), allow_nan=False))
    assert set(found) == set(held)
    for name, expected in held.items():
        assert found[name] == close(expected), name


@pytest.mark.parametrize("number", FORMATS)
def test_what_is_held_says_something(number: int) -> None:
    folder = HERE / f"artifact-format-{number}"
    held = json.loads((HERE / f"{folder.name}.json").read_text("ascii"))
    artifact = load_artifact(folder)
    manifest = artifact.manifest
    assert manifest["format"] == number
    assert manifest["estimator"]["members"] == MEMBERS[number]
    assert len(artifact.arrays["input_tokens.weight"]) == N_INPUTS[number]
    assert len(artifact.arrays["success.logistic.weight"]) == N_INPUTS[1]
    assert {name.split(".")[0] for name in artifact.arrays} >= PARTS[number]
    assert manifest["prices"]["basis"] == ["tokens"] * 3
    assert 24 <= manifest["estimator"]["n_references"] <= 60
    assert len(held["routed"]) == len(held["queries"]) >= 10
    assert len({decision["tier"] for decision in held["routed"]}) > 1
    assert {decision["reason"] for decision in held["routed"]} == {"policy", "out-of-distribution"}
    assert len(set(held["coins"])) == 2
    assert max(map(len, held["plans"])) > 1
    assert len(set(held["by_value"])) > 1
