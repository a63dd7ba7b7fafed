"""What an artifact folder says and holds, and what it must not hold."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import Router
from router.artifact import load_artifact, read_manifest
from router.embedding import StaticEmbedder, default_embedder_folder
from router.tiers import Tier, TierSet
from tests.artifacts import sample_table, tiny_embedder, train_tiny
from training import package
from training.package import fingerprint, model_card, open_embedder
from training.pipeline import TrainResult, train
from training.prior import Prior
from training.search import Objective
from training.split import query_hashes
from training.synthetic import make_world, sample
from training.table import OutcomeTable, ReadReport

# In every query a word that is found nowhere else, and that no tokenizer has.
MARK = "zqxj{:04d}vkw"
SECRETS = ("Ploetzlichkeitsfaktor", "0049-89-4711-0815", "/home/somebody/secret-logs")


def marked_table(n: int = 150) -> OutcomeTable:
    table = sample(make_world(), n, 0).table
    queries = [f"{MARK.format(i)} {query} {SECRETS[i % 2]}" for i, query in enumerate(table.query)]
    report = ReadReport(path=f"{SECRETS[2]}/log.jsonl", rejects_path=f"{SECRETS[2]}/rejects.jsonl")
    columns = {name: getattr(table, name) for name in ("task", "input_tokens", "output_tokens")}
    marked = OutcomeTable.from_arrays(
        table.tiers, queries, table.success, table.cost_usd, **columns
    )
    return replace(marked, report=report)


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return marked_table()


@pytest.fixture(scope="module")
def trained(table: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("package") / "artifact"
    return train(table, folder, estimator="blend", track=False, name="log of May", synthetic=True)


def test_an_artifact_holds_no_query_text(table: OutcomeTable, trained: TrainResult) -> None:
    files = {
        path.name: path.read_bytes().lower() for path in trained.folder.rglob("*") if path.is_file()
    }

    def holding(text: str) -> set[str]:
        wanted = [text.lower().encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
        return {name for name, data in files.items() if any(word in data for word in wanted)}

    # The search finds what is there: the data's name, and a word of the vocabulary.
    assert holding("log of May") == {"manifest.json", "MODEL_CARD.md"}
    assert holding("translate") == {"tokenizer.json"}
    # Nothing of the marks, whose beginning they share, nor of the rest.
    assert [text for text in (MARK.format(0)[:6], *SECRETS) if holding(text)] == []
    # Longer pieces of the queries' ordinary words neither.
    assert len({query[12:32] for query in table.query}) > 20
    assert [q for q in table.query[::5] if holding(q[12:32])] == []


def test_references_are_vectors_of_queries_but_not_the_queries(trained: TrainResult) -> None:
    arrays = load_artifact(trained.folder).arrays
    assert {array.dtype.kind for array in arrays.values()} <= {"f", "i", "u"}
    kept = {name for name in arrays if arrays[name].dtype.kind == "u"}
    assert kept == {"training.query_hashes", "calibration.out_of_distribution"}


# The manifest and the model card


def test_the_manifest_returned_is_the_one_saved(trained: TrainResult) -> None:
    assert trained.manifest == read_manifest(trained.folder)
    assert trained.manifest["training"]["read"] == {
        "n_rows": 0,
        "n_outcomes": 0,
        "n_bad": 0,
        "reasons": {},
        "n_not_a_tier": 0,
        "n_retries": 0,
    }
    assert set(trained.manifest["libraries"]) >= {"numpy", "scikit-learn", "tokenizers"}


def test_hashes_of_the_training_queries_are_sorted_and_once(
    table: OutcomeTable, trained: TrainResult
) -> None:
    hashes = Router.load(trained.folder).trained_query_hashes
    assert hashes.dtype == np.uint64
    assert (np.diff(hashes) > 0).all()
    # Test queries are not among them; those that the prior was fitted on are.
    prior = set(Prior.load().query_hashes)
    assert prior < set(hashes)
    assert set(hashes) - prior < set(query_hashes(table.query))


def test_the_model_card_says_what_the_manifest_says(trained: TrainResult) -> None:
    manifest = trained.manifest
    card = (trained.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == model_card(manifest)
    training = manifest["training"]
    for fact in (
        manifest["artifact_id"],
        manifest["objective"],
        manifest["policy"]["description"],
        manifest["certificate"]["sentence"],
        f"blend, on {manifest['embedder']['id']}",
        "log of May (synthetic)",
        f"{training['n_fitting']} fitting and {training['n_calibration']} calibration requests",
        training["fingerprint"][:16],
        "no query text",
    ):
        assert fact in card
    for tier, rate in zip(manifest["tiers"], training["tier_success"], strict=True):
        assert f"| {tier['name']} | {tier['model']} | {rate:.3f} | tokens |" in card
    rows = [line for line in card.splitlines() if line.startswith("| success rate")]
    assert len(rows) == len(manifest["floor_menu"]) == 3
    for line, row in zip(rows, manifest["floor_menu"], strict=True):
        assert row["floor"] in line and f"{row['success_rate']:.3f}" in line
        assert f"{row['saving_vs_always_strongest']:.1%}" in line
        assert ("| yes |" in line) == row["certified"]


def card_with(manifest: Mapping[str, Any], **changes: Any) -> str:
    return model_card({**manifest, **changes})


def test_the_model_card_of_real_data_without_a_floor(trained: TrainResult) -> None:
    manifest = trained.manifest
    card = card_with(
        manifest, certificate=None, training={**manifest["training"], "synthetic": False}
    )
    assert "**Certificate**: none was asked for" in card
    assert "synthetic" not in card
    menu = [{**row, "saving_vs_always_strongest": None} for row in manifest["floor_menu"]]
    assert "%" not in card_with(manifest, floor_menu=menu, certificate=None)


def test_training_again_replaces_artifact_and_card(tmp_path: Path, table: OutcomeTable) -> None:
    folder = tmp_path / "artifact"
    options: dict[str, Any] = {"estimator": "logistic", "track": False}
    first = train(table, folder, **options)
    second = train(table, folder, objective=Objective("value", amount_usd=0.02), **options)
    assert first.manifest["artifact_id"] != second.manifest["artifact_id"]
    card = (folder / "MODEL_CARD.md").read_text()
    assert second.manifest["artifact_id"] in card and first.manifest["artifact_id"] not in card
    assert len(list(folder.glob("arrays-*"))) == 1
    assert Router.load(folder).artifact_id == second.manifest["artifact_id"]


def test_what_json_cannot_hold_is_null() -> None:
    value = {
        "a": [math.nan, np.float64(math.inf), np.int64(3)],
        "b": (np.bool_(True), {1: np.float32(0.5)}),
        "c": None,
    }
    plain = package._jsonable(value)
    assert plain == {"a": [None, None, 3], "b": [True, {"1": 0.5}], "c": None}
    assert json.dumps(plain, allow_nan=False)


# Calibration rows


def test_of_many_calibration_rows_a_sample_is_kept(
    table: OutcomeTable, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_CALIBRATION_ROWS_KEPT", 10)
    train(table, tmp_path, estimator="blend", track=False)
    few, every = load_artifact(tmp_path).arrays, load_artifact(trained.folder).arrays
    for name in every:
        if name.startswith("calibration."):
            np.testing.assert_array_equal(few[name], every[name][:10])
            assert len(every[name]) > 10
        else:
            np.testing.assert_array_equal(few[name], every[name])
    # The certificate is of all of them all the same, and a new price is tested on those kept.
    router = Router.load(tmp_path)
    assert router.certificate == Router.load(trained.folder).certificate
    again = router.repriced(
        router.predictor.cost.input_usd_per_mtok * 2, router.predictor.cost.output_usd_per_mtok * 2
    )
    assert again.certificate is not None and again.certificate.n_rows == 10


def test_stored_tokens_give_the_stored_cost_at_todays_prices(trained: TrainResult) -> None:
    arrays, router = load_artifact(trained.folder).arrays, Router.load(trained.folder)
    prices = trained.manifest["prices"]
    expected = 1e-6 * (
        arrays["calibration.input_tokens"] * prices["input_usd_per_mtok"]
        + arrays["calibration.output_tokens"] * prices["output_usd_per_mtok"]
    )
    np.testing.assert_allclose(router.calibration.cost_usd, expected)


# The fingerprint


def small_table() -> OutcomeTable:
    rng = np.random.default_rng(0)
    tiers = TierSet([Tier("a", "p", "m-a"), Tier("b", "p", "m-b")])
    shape = (40, 2)
    observed = rng.random(shape) < 0.8
    observed[0] = True
    return OutcomeTable.from_arrays(
        tiers,
        [f"query {i % 30}" for i in range(40)],
        rng.random(shape),
        rng.random(shape),
        input_tokens=rng.integers(1, 9, shape),
        output_tokens=rng.integers(1, 9, shape),
        observed=observed,
    )


def print_of(table: OutcomeTable) -> str:
    return fingerprint(table, query_hashes(table.query))


def test_the_fingerprint_does_not_depend_on_the_order() -> None:
    table = small_table()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(40)
        assert print_of(table.take(order)) == print_of(table)
    assert len(print_of(table)) == 64


@pytest.mark.parametrize("column", ["success", "cost_usd", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("value", [0.123, math.nan])
def test_the_fingerprint_depends_on_every_outcome(column: str, value: float) -> None:
    table = small_table()
    values = getattr(table, column).copy()
    values[0, 1] = value
    assert print_of(replace(table, **{column: values})) != print_of(table)


def test_the_fingerprint_depends_on_the_tasks_where_the_log_names_them() -> None:
    table = small_table()
    assert {*table.task} == {None}
    named = replace(table, task=np.array(["sums", "code"] * 20, object))
    other = replace(table, task=np.array(["sums", "poems"] * 20, object))
    some = replace(table, task=np.array(["sums", None] * 20, object))
    assert len({print_of(each) for each in (table, named, other, some)}) == 4
    order = np.random.default_rng(1).permutation(40)
    assert print_of(named.take(order)) == print_of(named)


def test_the_fingerprint_depends_on_the_propensities_that_are_recorded() -> None:
    table = small_table()
    recorded = replace(table, propensity=np.full(table.success.shape, 0.5))
    other = recorded.propensity.copy()
    other[3, 1] = 0.25
    both = [recorded, replace(recorded, propensity=other)]
    assert len({print_of(each) for each in (table, *both)}) == 3


def test_the_fingerprint_depends_on_texts_and_on_how_often_they_come() -> None:
    table = small_table()
    other = table.query.copy()
    other[3] = "something else"
    assert print_of(replace(table, query=other)) != print_of(table)
    assert print_of(table.take(np.arange(39))) != print_of(table)
    assert print_of(table.take(np.r_[np.arange(40), 5])) != print_of(table)
    # Which text has which outcome counts, not just which there are.
    swapped = table.query.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert print_of(replace(table, query=swapped)) != print_of(table)
    # What counts as the same text does not.
    other = np.array([text.upper() for text in table.query], dtype=object)
    assert print_of(replace(table, query=other)) == print_of(table)


# Embedders


def test_the_default_embedder_comes_with_its_files(tmp_path: Path) -> None:
    embedder, files = open_embedder("static")
    assert isinstance(embedder, StaticEmbedder)
    assert {"tokenizer.json", "model.safetensors", "modules.json"} <= set(files)
    copy = tmp_path / "copy"
    shutil.copytree(default_embedder_folder(), copy)
    again, same = open_embedder(copy)
    assert again.digest == embedder.digest and same == files


def test_text_of_the_log_is_not_in_the_manifest(tmp_path: Path) -> None:
    table = sample_table(200)
    strange = ReadReport(
        path="/home/somebody/log.jsonl",
        n_rows=601,
        n_outcomes=600,
        n_not_a_tier=1,
        not_a_tier={"a prompt in the wrong column": 1},
    )
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    result = train_tiny(replace(table, report=strange), tmp_path / "artifact", embedder)
    text = (tmp_path / "artifact" / "manifest.json").read_text()
    assert "wrong column" not in text and "somebody" not in text
    assert result.manifest["training"]["read"]["n_not_a_tier"] == 1
