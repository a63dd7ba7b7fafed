"""The model card: each fact from the manifest, for every format; and what models/ says by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from router.artifact import load_artifact, read_manifest
from tests.golden.test_golden_artifact import FORMATS
from training.model_card import model_card

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT = REPOSITORY / "models" / "default"


@pytest.fixture
def manifest() -> dict[str, Any]:
    return read_manifest(DEFAULT)


def rows(card: str, heading: str) -> dict[str, str]:
    """The table of two columns under a heading."""
    section = card.partition(f"## {heading}")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", section, flags=re.MULTILINE))


def test_the_shipped_card_is_what_its_manifest_makes(manifest: dict[str, Any]) -> None:
    assert (DEFAULT / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card(manifest)


def test_the_card_is_no_part_of_the_artifact(
    small_artifact: Path, manifest: dict[str, Any]
) -> None:
    assert "MODEL_CARD.md" not in manifest["files"]
    assert "MODEL_CARD.md" not in read_manifest(small_artifact)["files"]


@pytest.mark.parametrize("number", FORMATS)
def test_every_format_has_a_card(number: int) -> None:
    manifest = read_manifest(REPOSITORY / "tests" / "golden" / f"artifact-format-{number}")
    card = model_card(manifest)
    for part in ("## Intended use", "## Training data", "## Limits", manifest["artifact_id"]):
        assert part in card
    assert not re.search(r"\b(None|nan|null)\b", card)


def test_the_data_card_counts_what_was_read(manifest: dict[str, Any]) -> None:
    training = manifest["training"]
    found = rows(model_card(manifest), "Training data")
    assert found["rows read"] == f"{training['read']['n_rows']:,}"
    assert found["requests fitted"] == f"{training['n_fitting']:,}"
    assert found["requests for calibration"] == f"{training['n_calibration']:,}"
    assert found["requests left for testing"] == f"{training['n_test']:,}"
    assert found["split"] == "as the log's split column says"
    assert found["fingerprint (SHA-256)"] == f"`{training['fingerprint']}`"
    read = {**training["read"], "n_bad": 3, "reasons": {"cost_usd | missing": 3}}
    found = rows(model_card({**manifest, "training": {**training, "read": read}}), "Training data")
    assert found["bad rows"] == found["bad: cost_usd / missing"] == "3"


def test_metrics_stand_by_tier_and_are_left_out_where_nothing_was_measured(
    manifest: dict[str, Any],
) -> None:
    card = model_card(manifest)
    for tier in manifest["tiers"]:
        auc = manifest["metrics"][f"auc.{tier['name']}"]
        assert f"| {tier['name']} | {auc:.3f} |" in card
    assert "## Metrics" not in model_card({**manifest, "metrics": {}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"certificate": None}, "It promises no success rate"),
        ({"certificate": {"certified": False, "sentence": "no."}}, "It promises no success rate"),
        ({"training": {"synthetic": True}}, "for trying things out, not for production"),
        ({"policy": {"safe_tier": 0}}, "it cannot judge, go to nano."),
    ],
)
def test_what_it_is_for_follows_from_the_manifest(
    manifest: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    changed = {
        name: {**manifest[name], **value} if isinstance(manifest[name], dict) else value
        for name, value in changes.items()
    }
    assert sentence in model_card({**manifest, **changed})


def test_a_certified_router_promises_what_it_certifies(small_artifact: Path) -> None:
    manifest = read_manifest(small_artifact)
    assert manifest["certificate"]["certified"]
    assert "It promises no success rate" not in model_card(manifest)


# models/README.md is written by hand around the manifest


def test_the_page_on_models_says_what_the_manifest_says(manifest: dict[str, Any]) -> None:
    page = (REPOSITORY / "models" / "README.md").read_text(encoding="utf-8")
    about = page.partition("## The prior")[0]
    assert f"a success is worth ${manifest['objective_amount_usd']:g}" in about
    assert ("**no certificate**" in about) == (manifest["certificate"] is None)
    for name in manifest["training"]["name"].split(" + "):
        assert f"`{name}`" in about
    assert "three models" in about and len(manifest["tiers"]) == 3
    size = (REPOSITORY / "training" / "prior.safetensors").stat().st_size
    assert f"({round(size / 1000)} kB" in page


def test_the_page_on_models_says_how_large_the_table_is() -> None:
    page = (REPOSITORY / "models" / "README.md").read_text(encoding="utf-8")
    (folder,) = DEFAULT.glob("embedder-*")
    (table,) = load_file(folder / "model.safetensors").values()
    n_tokens, width = table.shape
    assert f"{n_tokens:,} tokens x {width}, stored as {table.dtype}" in page
    assert f"PCA to {width} directions" in page
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert len(tokens) == n_tokens
    assert load_artifact(DEFAULT).manifest["embedder"]["id"].startswith(f"static-{width}-")
