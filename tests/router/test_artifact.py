"""Artifacts on disk: whole or refused, whatever happens to them."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from router import artifact as artifact_module
from router import artifact_files
from router.artifact import (
    FORMAT,
    SIGNING_KEY_VARIABLE,
    _dump,
    default_artifact_folder,
    load_artifact,
    read_manifest,
    save_artifact,
)
from router.errors import ArtifactError, MissingExtraError
from router.query_features import N_FEATURES
from router.routing import Router
from router.word_grams import N_GRAMS
from tests.artifacts import forge, resave, sample_table, tiny_embedder, train_tiny
from tests.command_line import run_python

ARRAYS = {
    "f8": np.linspace(-1, 1, 12).reshape(3, 4),
    "f8.transposed": np.linspace(-1, 1, 12).reshape(3, 4).T,
    "f4": np.float32([[0.1, np.nan]]),
    "i8": np.array([-(2**62), 2**62]),
    "u8": np.array([0, 2**64 - 1], dtype=np.uint64),
    "u1": np.array([0, 1, 255], dtype=np.uint8),
    "number": np.array(40),
    "none": np.empty((0, 3)),
}
EMBEDDER = {"tokenizer.json": b"{}", "model.safetensors": bytes(range(256))}


def save_two(folder: Path, number: int = 1, **options: Any) -> str:
    """An artifact of no use that says ``number`` twice."""
    arrays = {"number": np.full(100, float(number))}
    return save_artifact(folder, {"number": number}, arrays, EMBEDDER, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def parts(folder: Path) -> list[str]:
    """Names of the files that the manifest vouches for, and the manifest."""
    return ["manifest.json", *read_manifest(folder)["files"]]


def write_raw(folder: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "manifest.json").write_bytes(data)


def refused(folder: Path, match: str = "expected", **options: Any) -> str:
    with pytest.raises(ArtifactError, match=match) as caught:
        load_artifact(folder, **options)
    message = str(caught.value)
    assert message.startswith("expected ")
    assert "\n" not in message
    return message


@pytest.fixture
def copy(small_artifact: Path, tmp_path: Path) -> Path:
    """The small artifact, to be maltreated."""
    return Path(shutil.copytree(small_artifact, tmp_path / "copy"))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    manifest = {"tiers": ["größer", "\ud83d alone"], "x": {"y": [1, 2.5, None, True]}}
    saved_id = save_artifact(tmp_path / "a" / "b", manifest, ARRAYS, EMBEDDER)
    loaded = load_artifact(tmp_path / "a" / "b")
    assert loaded.artifact_id == saved_id == loaded.manifest["artifact_id"]
    assert loaded.manifest["format"] == FORMAT
    assert {name: loaded.manifest[name] for name in manifest} == manifest
    assert loaded.embedder_files == EMBEDDER
    assert set(loaded.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.arrays[name], array)


def test_the_id_follows_from_the_content_alone(tmp_path: Path) -> None:
    first = save_two(tmp_path / "first")
    again = save_artifact(
        tmp_path / "elsewhere",
        {"number": 1, "created": "another day"},
        {"number": np.full(100, 1.0)},
        EMBEDDER,
        key="signed",
    )
    assert first == again
    assert save_two(tmp_path / "second", 2) != first


def test_the_same_training_gives_the_same_artifact(tmp_path: Path) -> None:
    table = sample_table(120)
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    ids = {
        train_tiny(table, tmp_path / name, embedder, estimator="blend").manifest["artifact_id"]
        for name in ("one", "two")
    }
    assert len(ids) == 1
    other = train_tiny(table.take(np.arange(119)), tmp_path / "three", embedder)
    assert other.manifest["artifact_id"] not in ids


def test_it_is_json_and_safetensors_and_holds_no_query(small_artifact: Path) -> None:
    files = contents(small_artifact)
    assert len(files) >= 5
    for name, data in files.items():
        if name.endswith(".json"):
            json.loads(data)
        elif name.endswith(".safetensors"):
            safetensors.numpy.load(data)
        else:
            assert name == "MODEL_CARD.md"
        for query in sample_table(600).query[:50]:
            assert query.encode() not in data


def test_the_model_card_says_what_the_manifest_says(small_artifact: Path) -> None:
    manifest = read_manifest(small_artifact)
    card = (small_artifact / "MODEL_CARD.md").read_text()
    assert f"# Router {manifest['artifact_id']}" in card
    assert manifest["certificate"]["sentence"] in card
    for tier in manifest["tiers"]:
        assert f"| {tier['name']} | {tier['model']} |" in card


def test_the_shipped_artifact_is_whole() -> None:
    folder = default_artifact_folder()
    assert load_artifact(folder).artifact_id in (folder / "MODEL_CARD.md").read_text()


def test_any_altered_byte_is_noticed(copy: Path) -> None:
    rng = random.Random(0)
    # The dates are no part of what an artifact is; without a key nothing vouches for them.
    manifest = (copy / "manifest.json").read_bytes()
    dates: set[int] = set()
    for date in (b'"created"', b'"prices_as_of"'):
        start = manifest.index(date)
        dates |= set(range(start, manifest.index(b"\n", start)))
    for name in parts(copy):
        data = (copy / name).read_bytes()
        n_tried = 250 if name == "manifest.json" else 40
        positions = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(n_tried))}
        for position in positions:
            if name == "manifest.json" and position in dates:
                continue
            altered = bytearray(data)
            altered[position] ^= rng.choice([rng.randrange(1, 256), 1 << rng.randrange(8)])
            (copy / name).write_bytes(altered)
            refused(copy)
        (copy / name).write_bytes(data)
    assert load_artifact(copy).artifact_id


def test_white_space_and_order_of_the_manifest_count(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    reversed_keys = dict(reversed(manifest.items()))
    for text in (
        json.dumps(manifest),
        json.dumps(reversed_keys, indent=1) + "\n",
        _dump(manifest).replace("\n", "\r\n"),
        _dump(manifest) + " ",
        "\ufeff" + _dump(manifest),
        _dump(manifest).encode("utf-16"),
    ):
        write_raw(copy, text)
        refused(copy, "expected")
    write_raw(copy, _dump(manifest))
    assert load_artifact(copy).artifact_id


def test_truncation_at_any_length_is_noticed(copy: Path) -> None:
    for name in parts(copy):
        data = (copy / name).read_bytes()
        for length in {0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
            (copy / name).write_bytes(data[:length])
            refused(copy)
        (copy / name).write_bytes(data + b"\n")
        refused(copy)
        (copy / name).write_bytes(data)
    assert load_artifact(copy).artifact_id


def test_a_missing_file_is_noticed(copy: Path) -> None:
    for name in parts(copy):
        kept = (copy / name).rename(copy.parent / "kept")
        assert name in refused(copy, "No such file")
        kept.rename(copy / name)
    shutil.rmtree(next(copy.glob("embedder-*")))
    refused(copy, "No such file")


def test_no_artifact_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "got none: check the path")
    refused(tmp_path, "No such file")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "got none")
    for impossible in ("x" * 5000, "a\0b"):
        refused(Path(impossible), "got none")
        with pytest.raises(ArtifactError, match="got none"):
            Router.load(impossible)


@pytest.mark.parametrize("found", [FORMAT + 1, 99])
def test_a_newer_format_asks_for_an_upgrade(copy: Path, tmp_path: Path, found: int) -> None:
    newer = forge(copy, tmp_path / "newer", lambda m: m.update(format=found, spare={"new": 1}))
    assert "upgrade cps-router" in refused(newer, f"format 1 to {FORMAT}, got format {found}")
    # Whatever else a newer version writes differently, this is what is said.
    manifest = json.loads((newer / "manifest.json").read_text())
    write_raw(newer, json.dumps(manifest, separators=(",", ":")))
    refused(newer, "upgrade cps-router")


@pytest.mark.parametrize("found", [0, -1, True, "1", 1.0, None, [1], {}])
def test_a_format_that_is_no_format(copy: Path, tmp_path: Path, found: Any) -> None:
    refused(forge(copy, tmp_path / "forged", lambda m: m.update(format=found)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"manifest"',
        '{"format": 1}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format": 1, "files": {}, "deep": ' + "[" * 900 + "]" * 900 + "}",
        '{"format": 1, "files": {}, "deep": ' + "[" * 990 + "]" * 990 + "}",
        '{"format": 1, "files": {}, "big": ' + "9" * 10_000 + "}",
        '{"format": 1, "files": {}, "artifact_id": "\ud800"}',
        b"\xff\xfe\x00",
        b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
    ],
    ids=range(16),
)
def test_a_manifest_that_is_none(copy: Path, text: str | bytes) -> None:
    write_raw(copy, text)
    refused(copy)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know(copy: Path, tmp_path: Path, number: str) -> None:
    forged = forge(copy, tmp_path / "forged", lambda m: m.update(format=1))
    text = (forged / "manifest.json").read_text()
    write_raw(forged, text.replace('"min_similarity": ', f'"more": {number}, "min_similarity": '))
    refused(forged)


def test_a_key_that_occurs_twice(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    # To one parser the safe tier is 0, to ours what it was.
    write_raw(copy, text.replace('"safe_tier":', '"safe_tier": 0, "safe_tier":'))
    refused(copy, "match its artifact id")


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "/etc/hostname", "..", ".", "", "a//b", "a/../../secret", "a/b/c"),
        *("..\\secret", "C:\\secret", "C:secret", "a\x00b", "\ud800", "a\nb", "n" * 300, "~", "ñ"),
    ],
)
def test_names_that_lead_out_of_the_folder(copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    entry = {
        "bytes": 1,
        "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    }
    forged = forge(copy, tmp_path / "forged", lambda m: m["files"].update({name: entry}))
    refused(forged, "plain file names")


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 7, "x", [], {}, {"bytes": "1"}, {"bytes": True}, {"bytes": -1}, {"bytes": 2**62}),
        {"bytes": 1.0},
    ],
    ids=repr,
)
def test_entries_that_are_none(copy: Path, tmp_path: Path, entry: Any) -> None:
    forged = forge(copy, tmp_path / "forged", lambda m: m["files"].update({"more": entry}))
    refused(forged, "size and a SHA-256")


@pytest.mark.parametrize("digest", [None, 7, "", "0" * 64])
def test_digests_that_are_none(copy: Path, tmp_path: Path, digest: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"].values():
            entry["sha256"] = digest

    refused(forge(copy, tmp_path / "forged", change), "SHA-256")


def test_symbolic_links_are_refused(copy: Path, tmp_path: Path) -> None:
    (embedder,) = copy.glob("embedder-*")
    for path in [copy / name for name in parts(copy)] + [embedder]:
        kept = path.rename(tmp_path / "kept")
        path.symlink_to(kept)
        refused(copy, "symbolic link")
        path.unlink()
        kept.rename(path)
    # A link to the whole artifact is how releases are switched.
    (tmp_path / "current").symlink_to(copy)
    assert load_artifact(tmp_path / "current").artifact_id


def test_what_is_no_regular_file_is_refused(copy: Path, tmp_path: Path) -> None:
    for name in parts(copy):
        path = copy / name
        kept = path.rename(tmp_path / "kept")
        os.mkfifo(path)
        refused(copy, "regular file")  # and does not wait for a writer
        path.unlink()
        path.mkdir()
        refused(copy, "regular file")
        path.rmdir()
        kept.rename(path)


def test_huge_files_are_refused_unread(copy: Path) -> None:
    for name in parts(copy):
        data = (copy / name).read_bytes()
        with (copy / name).open("r+b") as file:
            file.truncate(3 * 2**30)  # sparse
        refused(copy, "regular file of at most")
        (copy / name).write_bytes(data)


def broken(name: str, manifest: Callable[[dict[str, Any]], object]) -> Any:
    return pytest.param({"manifest": manifest}, id=name)


def put(name: str, array: Any) -> Any:
    return pytest.param({"arrays": {name: array}}, id=f"{name}-{np.asarray(array).dtype}")


# A logistic estimator reads the dense inputs alone; heads read all of them.
N_TIERS, WIDTH, DENSE = 3, 16, 26
SMALL_ARRAYS = [
    "references",
    "success.logistic.weight",
    "success.logistic.bias",
    "usd.weight",
    "usd.smear",
    "input_tokens.log_low",
    "output_tokens.bias",
    "calibration.p_success",
    "calibration.success",
    "calibration.realised_cost_usd",
    "calibration.input_tokens",
    "calibration.output_tokens",
    "calibration.usd",
    "calibration.out_of_distribution",
    "training.query_hashes",
    "inputs.low",
    "inputs.high",
    "inputs.gram_weight",
    "inputs.kernel_width",
]


@pytest.mark.parametrize(
    "change",
    [
        *(pytest.param({"without": [name]}, id=f"no-{name}") for name in SMALL_ARRAYS),
        put("references", np.ones((5, WIDTH))),
        put("references", np.ones((5, WIDTH + 1), np.float32)),
        put("references", np.ones((0, WIDTH), np.float32)),
        put("references", np.full((5, WIDTH), np.nan, np.float32)),
        put("references", np.ones(WIDTH, np.float32)),
        put("references", np.ones((256, WIDTH), np.float32)),
        put("inputs.low", np.ones(N_FEATURES, np.float32)),
        put("inputs.low", np.ones(N_FEATURES + 1)),
        put("inputs.low", np.full(N_FEATURES, 1e5)),
        put("inputs.high", np.full(N_FEATURES, np.nan)),
        put("inputs.high", np.full(N_FEATURES, -1e5)),
        put("inputs.gram_weight", np.ones(N_GRAMS - 1)),
        put("inputs.gram_weight", np.full(N_GRAMS, np.inf)),
        put("inputs.kernel_width", np.array([4.0])),
        put("inputs.kernel_width", np.array(np.nan)),
        put("inputs.kernel_width", np.array(0.0)),
        put("inputs.kernel_width", np.array(-4.0)),
        put("inputs.kernel_width", np.array(1e5)),
        put("success.logistic.weight", np.ones((DENSE, N_TIERS), np.float32)),
        put("success.logistic.weight", np.ones((DENSE, N_TIERS + 1))),
        put("success.logistic.weight", np.ones((DENSE - 1, N_TIERS))),
        put("success.logistic.weight", np.full((DENSE, N_TIERS), np.nan)),
        put("success.logistic.weight", np.full((DENSE, N_TIERS), 1e300)),
        put("success.logistic.bias", np.ones((1, N_TIERS))),
        put("usd.weight", np.ones((N_TIERS, DENSE))),
        put("usd.weight", np.ones((DENSE, N_TIERS))),
        put("usd.bias", np.full(N_TIERS, 1e200)),
        put("output_tokens.log_high", np.full(N_TIERS, 1e6)),
        put("output_tokens.log_high", np.full(N_TIERS, -99.0)),
        put("output_tokens.smear", np.full(N_TIERS, -1.0)),
        put("calibration.p_success", np.full((9, N_TIERS), 0.5)),
        put("calibration.usd", np.ones((9, N_TIERS + 1))),
        *(
            pytest.param({"spoil": (name, value)}, id=f"{name} of {value}")
            for name, values in {
                "calibration.p_success": (-0.1, 1.1, np.nan),
                "calibration.success": (-0.1, 1.1, np.nan),
                "calibration.realised_cost_usd": (-1e-9, 1e308, np.inf, np.nan),
                "calibration.input_tokens": (-1.0, 1e308, np.inf, np.nan),
                "calibration.output_tokens": (-1.0, 1e308, np.inf, np.nan),
                "calibration.usd": (-1e-9, 1e308, np.inf, np.nan),
            }.items()
            for value in values
        ),
        put("calibration.out_of_distribution", np.zeros(3, np.uint8)),
        put("calibration.out_of_distribution", np.zeros(3, bool)),
        put("training.query_hashes", np.zeros(3)),
        broken("no tiers", lambda m: m.pop("tiers")),
        broken("tiers are text", lambda m: m.update(tiers="nano")),
        broken("no tier", lambda m: m.update(tiers=[])),
        broken("a tier less", lambda m: m["tiers"].pop()),
        broken("a tier twice", lambda m: m["tiers"][0].update(m["tiers"][1])),
        broken("a tier without a model", lambda m: m["tiers"][0].pop("model")),
        broken("a negative price", lambda m: m["prices"]["input_usd_per_mtok"].__setitem__(0, -1)),
        broken("a price less", lambda m: m["prices"]["output_usd_per_mtok"].pop()),
        broken("prices are text", lambda m: m["prices"].update(input_usd_per_mtok="free")),
        broken("a price too large", lambda m: m["prices"].update(input_usd_per_mtok=[10**400] * 3)),
        broken("no prices", lambda m: m.pop("prices")),
        broken("other features", lambda m: m["query_features"].reverse()),
        broken("no features", lambda m: m.pop("query_features")),
        broken("unknown estimator", lambda m: m["estimator"].update(members=["forest"])),
        broken("no estimator", lambda m: m["estimator"].update(members=[])),
        broken("members are text", lambda m: m["estimator"].update(members="logistic")),
        broken("members of members", lambda m: m["estimator"].update(members=[["logistic"]])),
        broken("a member twice", lambda m: m["estimator"].update(members=["logistic"] * 2)),
        broken("another member", lambda m: m["estimator"].update(members=["knn"])),
        broken("estimator is a list", lambda m: m.update(estimator=[])),
        broken("no threshold", lambda m: m["out_of_distribution"].clear()),
        broken("threshold is text", lambda m: m["out_of_distribution"].update(min_similarity="0")),
        broken("threshold is null", lambda m: m["out_of_distribution"].update(min_similarity=None)),
        broken(
            "threshold is no cosine",
            lambda m: m["out_of_distribution"].update(min_similarity=1e308),
        ),
        broken("a huge price", lambda m: m["prices"]["input_usd_per_mtok"].__setitem__(0, 1e308)),
        broken("a rate above 1", lambda m: m["training"]["tier_success"].__setitem__(0, 1e308)),
        broken("a rate below 0", lambda m: m["training"]["tier_success"].__setitem__(0, -1e308)),
        broken("no rate", lambda m: m["training"]["tier_success"].__setitem__(0, None)),
        *(
            broken(
                f"a mean of {name} is {value}",
                lambda m, name=name, value=value: m["training"]["tier_means"][name].__setitem__(
                    0, value
                ),
            )
            for name in ("usd", "input_tokens", "output_tokens")
            for value in (-1.0, 1e308, -1e308, None)
        ),
        broken("no embedder", lambda m: m.pop("embedder")),
        broken("embedder is a list", lambda m: m.update(embedder=[1])),
        broken("unknown embedder", lambda m: m["embedder"].update(kind="custom")),
        broken("embedder's id", lambda m: m["embedder"].update(id=None)),
        broken("embedder's digest", lambda m: m["embedder"].update(digest="0" * 64)),
        broken("embedder's dimension", lambda m: m["embedder"].update(dimension=17)),
        broken("embedder's dimension is text", lambda m: m["embedder"].update(dimension="16")),
        broken("no policy", lambda m: m.update(policy=None)),
        broken("unknown policy", lambda m: m["policy"].update(kind="best")),
        broken("safe tier out of range", lambda m: m["policy"].update(safe_tier=3)),
        broken("safe tier negative", lambda m: m["policy"].update(safe_tier=-1)),
        broken("safe tier is a name", lambda m: m["policy"].update(safe_tier="frontier")),
        broken("safe tier is a float", lambda m: m["policy"].update(safe_tier=2.0)),
        broken("safe tier is a bool", lambda m: m["policy"].update(safe_tier=True)),
        broken("strongest out of range", lambda m: m["policy"].update(strongest=7)),
        broken("value is null", lambda m: m["policy"].update(success_value_usd=None)),
        broken("value is negative", lambda m: m["policy"].update(success_value_usd=-0.1)),
        broken("value is text", lambda m: m["policy"].update(success_value_usd="0.1")),
        broken("mix without tiers", lambda m: m["policy"].update(kind="mix")),
        broken("mix out of range", lambda m: m["policy"].update(kind="mix", low=0, high=3)),
        broken("tier of two", lambda m: m["policy"].update(kind="tier", low=0, high=1)),
        broken(
            "share above 1", lambda m: m["policy"].update(kind="mix", low=0, high=1, share_high=1.5)
        ),
        broken("certificate is text", lambda m: m.update(certificate="yes")),
        broken("certificate is empty", lambda m: m.update(certificate={})),
        broken("certified is text", lambda m: m["certificate"].update(certified="yes")),
        broken("no confidence", lambda m: m["certificate"].update(confidence=None)),
        broken("too confident", lambda m: m["certificate"].update(confidence=1.0)),
        broken("floor of no tier", lambda m: m["certificate"].update(relative_to=5)),
        broken("floor of nothing", lambda m: m["certificate"].update(relative_to=None, rate=None)),
        broken("two floors", lambda m: m["certificate"].update(rate=0.9)),
        broken("no training", lambda m: m.pop("training")),
        broken("rates of two tiers", lambda m: m["training"]["tier_success"].pop()),
        broken("no means", lambda m: m["training"].pop("tier_means")),
        broken("means of two tiers", lambda m: m["training"]["tier_means"]["usd"].pop()),
        pytest.param({"files": {"tokenizer.json": b"{}"}}, id="no tokenizer"),
        pytest.param({"files": {"model.safetensors": b"junk"}}, id="no table"),
    ],
)
def test_content_that_would_fail_later_is_refused_on_loading(
    small_artifact: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    spoiled = change.pop("spoil", None)
    if spoiled is not None:
        name, value = spoiled
        array = load_artifact(small_artifact).arrays[name].copy()
        array[3, 1] = value
        change["arrays"] = {name: array}
    folder = resave(small_artifact, tmp_path / "changed", **change)
    with pytest.raises(ArtifactError, match=r"^expected .*: .*(train|upgrade|newer)"):
        Router.load(folder)


KNN = "success.knn."
N_INPUTS = DENSE + N_GRAMS + 48  # of 120 requests 48 are references


def of(estimator: str, name: str, array: Any) -> Any:
    return pytest.param(estimator, {"arrays": {name: array}}, id=f"{name}-{array.dtype}")


@pytest.mark.parametrize(
    ("estimator", "change"),
    [
        of("blend", KNN + "counts", np.ones((4, 7))),
        of("blend", KNN + "n_neighbours", np.array(0)),
        of("blend", KNN + "n_neighbours", np.array(5.0)),
        of("blend", KNN + "shrinkage", np.array(0.0)),
        of("blend", KNN + "prior", np.array([0.0, 0.5, 1.0])),
        of("blend", "success.ridge.weight", np.ones((DENSE, N_TIERS))),
        of("blend", "success.ridge.weight", np.ones((N_INPUTS + 1, N_TIERS))),
        of("blend", "success.ridge.weight", np.full((N_INPUTS, N_TIERS), np.nan)),
        of("blend", "success.ridge.bias", np.ones(N_TIERS + 1)),
        of("blend", "references", np.zeros((47, WIDTH), np.float32)),
        of("mlp", "success.mlp.w1", np.ones((DENSE, 5))),
        of("mlp", "success.mlp.w1", np.ones((N_INPUTS, 48))),
        of("mlp", "success.mlp.w2", np.ones((48, 4))),
    ],
)
def test_other_estimators_are_checked_too(
    other_artifacts: dict[str, Path], tmp_path: Path, estimator: str, change: dict[str, Any]
) -> None:
    folder = other_artifacts[estimator]
    assert len(load_artifact(folder).arrays["usd.weight"]) == N_INPUTS
    Router.load(folder).route("hello")
    with pytest.raises(ArtifactError, match=r"^expected "):
        Router.load(resave(folder, tmp_path / "changed", **change))


@pytest.fixture(scope="module")
def other_artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("others")
    table = sample_table(120)
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    return {
        kind: train_tiny(table, folder / kind, embedder, estimator=kind).folder
        for kind in ("blend", "mlp")
    }


def test_an_artifact_saved_anew_without_a_change_still_loads(
    small_artifact: Path, tmp_path: Path
) -> None:
    router = Router.load(resave(small_artifact, tmp_path / "same"))
    assert router.artifact_id == Router.load(small_artifact).artifact_id


def test_dollars_without_tokens_are_whole_too(tmp_path: Path) -> None:
    table = sample_table(120)
    nothing = np.full(table.input_tokens.shape, np.nan)
    table = replace(table, input_tokens=nothing, output_tokens=nothing)
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    folder = train_tiny(table, tmp_path / "router", embedder).folder
    assert Router.load(folder).manifest["prices"]["basis"] == ["logged usd"] * 3
    assert Router.load(folder).route("hello").tier


def encoder_artifact(source: Path, target: Path, model: object) -> Path:
    """An artifact whose embedder is said to be a contextual one."""
    change = {"kind": "sentence-transformers", "id": str(model), "digest": "0" * 64}
    return resave(source, target, manifest=lambda m: m["embedder"].update(change))


@pytest.mark.parametrize("name", ["/nowhere/encoder", "no-such/model", "no-such-model", "x" * 5000])
def test_an_encoder_that_is_not_there_is_missed_on_loading(
    small_artifact: Path, tmp_path: Path, name: str
) -> None:
    folder = encoder_artifact(small_artifact, tmp_path / "changed", name)
    with pytest.raises(ArtifactError, match="in a folder or in the local cache, got neither"):
        Router.load(folder)


def test_an_encoder_without_the_package_for_it_is_missed_on_loading(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = encoder_artifact(small_artifact, tmp_path / "changed", tmp_path)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"cps-router\[encoder\]"):
        Router.load(folder)


def test_loading_looks_for_an_encoder_without_importing_torch(
    small_artifact: Path, tmp_path: Path, repository: Path
) -> None:
    code = """
import sys
from router import Router
from router.errors import ArtifactError
Router.load(sys.argv[1])
try:
    Router.load(sys.argv[2])
except ArtifactError:
    print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""
    there = encoder_artifact(small_artifact, tmp_path / "there", tmp_path)
    missing = encoder_artifact(small_artifact, tmp_path / "missing", "no-such/model")
    assert run_python(code, there, missing, cwd=repository) == "[]\n"


def test_a_key_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed, plain = tmp_path / "signed", tmp_path / "plain"
    assert save_two(signed, key="secret") == save_two(plain)
    load_artifact(signed, key="secret")
    load_artifact(signed, key=b"secret")
    load_artifact(signed)  # without a key configured, a signature is not looked at
    refused(plain, "got an unsigned", key="secret")
    refused(signed, "signed with another key", key="other")

    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "secret")
    load_artifact(signed)
    refused(plain, "got an unsigned")
    refused(signed, "signed with another key", key="other")
    save_two(plain)
    load_artifact(plain)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "other")
    refused(plain, "signed with another key")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "")
    load_artifact(plain)


def test_a_signed_artifact_cannot_be_altered(tmp_path: Path) -> None:
    folder = tmp_path / "signed"
    save_two(folder, key="secret")
    for name, change in {
        "number": lambda m: m.update(number=2),
        "date": lambda m: m.update(created="tomorrow"),
        "digest": lambda m: next(iter(m["files"].values())).update(sha256="0" * 64),
        "more": lambda m: m.update(more=1),
        "unsigned": lambda m: m.pop("signature"),
        "number as signature": lambda m: m.update(signature=7),
        "empty": lambda m: m.update(signature=""),
        "not ASCII": lambda m: m.update(signature="é" * 64),
        "surrogate": lambda m: m.update(signature="\ud800"),
    }.items():
        refused(forge(folder, tmp_path / name, change), "sign", key="secret")


def test_an_empty_key_is_no_key(tmp_path: Path) -> None:
    save_two(tmp_path / "a")
    for key in ("", b""):
        refused(tmp_path / "a", "empty", key=key)
        with pytest.raises(ArtifactError, match="empty"):
            save_two(tmp_path / "b", key=key)
    assert not (tmp_path / "b").exists()


def test_a_key_of_half_a_character_is_refused(tmp_path: Path) -> None:
    save_two(tmp_path / "a")
    refused(tmp_path / "a", "half a character: pass bytes", key="\ud800")
    with pytest.raises(ArtifactError, match="half a character"):
        save_two(tmp_path / "b", key="\ud800")


def test_what_cannot_succeed_is_not_tried_again(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def count(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        return read_manifest(*arguments, **options)

    monkeypatch.setattr(artifact_module, "read_manifest", count)
    refused(copy, "unsigned", key="secret")
    refused(forge(copy, tmp_path / "newer", lambda m: m.update(format=FORMAT + 1)), "upgrade")
    next(copy.glob("arrays-*")).unlink()
    refused(copy, "No such file")
    assert len(tried) == 3


def test_what_is_replaced_while_it_is_read_is_read_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shutil.copytree(copy, copy.parent / "kept")

    def replace_after(folder: Path, **options: Any) -> Any:
        manifest = read_manifest(folder, **options)
        if not next(folder.glob("arrays-*"), None):
            # The same content, so that only the file tells that it is another one.
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
            (folder / "manifest.json").touch()
        return manifest

    next(copy.glob("arrays-*")).unlink()
    monkeypatch.setattr(artifact_module, "read_manifest", replace_after)
    assert load_artifact(copy).artifact_id

    next(copy.glob("arrays-*")).write_bytes(b"x")
    refused(copy, "truncated")


def test_a_router_asks_for_the_key_too(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="unsigned"):
        Router.load(small_artifact, key="secret")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "secret\udcff")  # not UTF-8, as Linux allows
    shutil.copytree(small_artifact, tmp_path / "plain")
    with pytest.raises(ArtifactError, match="unsigned"):
        Router.load(tmp_path / "plain")
    artifact = load_artifact_without_key(small_artifact, monkeypatch)
    save_artifact(tmp_path / "signed", artifact.manifest, artifact.arrays, artifact.embedder_files)
    assert Router.load(tmp_path / "signed").artifact_id == artifact.artifact_id


def load_artifact_without_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.delenv(SIGNING_KEY_VARIABLE)
        return load_artifact(folder)


def test_saving_replaces_and_tidies_up(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    first = save_two(folder, 1)
    (embedder,) = folder.glob("embedder-*")
    written = (embedder / "model.safetensors").stat().st_mtime_ns
    (folder / "notes.txt").write_text("the user's")
    (folder / "arrays-of-mine.txt").write_text("the user's")
    left_over = folder / ".saving-0123456789ab"
    left_over.mkdir()
    (left_over / "manifest.json").write_text("killed")
    assert save_two(folder, 2) != first
    assert load_artifact(folder).manifest["number"] == 2
    assert len(list(folder.glob("arrays-*.safetensors"))) == 1
    assert (embedder / "model.safetensors").stat().st_mtime_ns == written
    assert not left_over.exists()
    assert (folder / "notes.txt").read_text() == "the user's"
    assert (folder / "arrays-of-mine.txt").read_text() == "the user's"


def test_saving_mends_what_was_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    saved_id = save_two(folder)
    (embedder,) = folder.glob("embedder-*")
    (arrays,) = folder.glob("arrays-*")
    for damage in (
        lambda: (embedder / "tokenizer.json").write_bytes(b"damaged"),
        lambda: (embedder / "tokenizer.json").unlink(),
        lambda: shutil.rmtree(embedder),
        lambda: arrays.write_bytes(b""),
        lambda: (arrays.unlink(), arrays.symlink_to("/etc/hostname")),
        lambda: (arrays.unlink(), arrays.mkdir()),
        lambda: (folder / "manifest.json").write_text("{"),
        lambda: (folder / "manifest.json").unlink(),
    ):
        damage()
        refused(folder)
        assert save_two(folder) == saved_id
        assert load_artifact(folder).artifact_id == saved_id


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a document": lambda folder: (folder / "thesis.tex").write_text("years of work"),
    "another tool's manifest": lambda folder: (folder / "manifest.json").write_text('{"name": 1}'),
    "no JSON": lambda folder: (folder / "manifest.json").write_text("years of work"),
    "a folder": lambda folder: (folder / "src").mkdir(),
    "a link": lambda folder: (folder / "manifest.json").symlink_to("/etc/hostname"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_artifact_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    FOREIGN[name](folder)
    before = sorted(folder.iterdir()), contents(folder)
    with pytest.raises(ArtifactError, match="choose another --out"):
        save_two(folder)
    assert (sorted(folder.iterdir()), contents(folder)) == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "nowhere").symlink_to(tmp_path / "void")
    for place in ("file", "file/below", "nowhere", "n" * 300):
        with pytest.raises(ArtifactError, match=r"^expected .*: choose another --out"):
            save_two(tmp_path / place)
    assert (tmp_path / "file").read_text() == "years of work"


@pytest.mark.parametrize("step", range(4))
def test_a_full_disk_leaves_the_old_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder = tmp_path / "a"
    save_two(folder, 1)
    before = contents(folder)
    write, steps = artifact_files._write, iter(range(99))

    def full(path: Path, data: bytes) -> None:
        if next(steps) == step:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(artifact_files, "_write", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        save_artifact(folder, {}, {"number": np.zeros(3)}, {"a": b"1", "b": b"2"})
    assert load_artifact(folder).manifest["number"] == 1
    assert not list(folder.glob(".saving-*"))
    assert set(before.items()) <= set(contents(folder).items())
    monkeypatch.undo()
    save_two(folder, 1)
    assert contents(folder) == before


def test_what_cannot_be_saved_touches_nothing(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    for value in (float("nan"), float("inf"), object(), {1, 2}, np.ones(2), loop, {1: 1, "a": 2}):
        for key in (None, "secret"):
            with pytest.raises(ArtifactError, match=r"^expected a manifest of JSON values, got "):
                save_artifact(tmp_path / "a", {"x": value}, {}, {}, key=key)
    with pytest.raises(ArtifactError, match="plain file names"):
        save_artifact(tmp_path / "a", {}, {}, {"../x": b""})
    assert not list(tmp_path.iterdir())


# Saves a second artifact over the first one and dies at the n-th thing it asks of the system, for
# every n; after each death the folder is read. A process of its own, since it forks and dies.
DYING = """
import json, os, shutil, sys
from pathlib import Path
from router.artifact import load_artifact, save_artifact
from router.routing import Router

old, new, place = (Path(argument) for argument in sys.argv[1:])
second = load_artifact(new)
folder = place / "artifact"
deaths = 0

def save(dies_at):
    seen = -1
    def hook(event, arguments):
        nonlocal seen
        if event == "open" or event.startswith(("os.", "shutil.", "fcntl.")):
            seen += 1
            if seen == dies_at:
                os._exit(9)
    sys.addaudithook(hook)
    save_artifact(folder, second.manifest, second.arrays, second.embedder_files)
    os._exit(0)

step, results = 0, []
while True:
    shutil.rmtree(folder, ignore_errors=True)
    if old.exists():
        shutil.copytree(old, folder)
    child = os.fork()
    if child == 0:
        save(step)
    died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        found = Router.load(folder).route("Translate to Spanish: good morning").to_dict()
    except Exception as error:
        found = type(error).__name__
    save_artifact(folder, second.manifest, second.arrays, second.embedder_files)
    left = sorted(p.name for p in folder.iterdir() if p.name.startswith(".saving"))
    again = Router.load(folder).artifact_id == second.artifact_id
    results.append([died, found, left, again])
    if not died:
        break
    step += 1
print(json.dumps(results))
"""


@pytest.fixture
def changed_artifact(small_artifact: Path, tmp_path: Path) -> Path:
    """Another router: always the cheapest tier."""
    policy = {"kind": "tier", "low": 0, "high": 0, "safe_tier": 0}
    return resave(
        small_artifact, tmp_path / "changed", manifest=lambda m: m["policy"].update(policy)
    )


def test_a_save_killed_anywhere_leaves_the_old_artifact(
    small_artifact: Path, changed_artifact: Path, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "place").mkdir()
    arguments = small_artifact, changed_artifact, tmp_path / "place"
    results = json.loads(run_python(DYING, *arguments, cwd=repository))
    query = "Translate to Spanish: good morning"
    old, new = (Router.load(f).route(query).to_dict() for f in (small_artifact, changed_artifact))
    assert old != new
    assert len(results) > 20
    seen = [found for _, found, _, _ in results]
    assert all(found in (old, new) for found in seen)
    # Once the new one is there, it stays.
    assert seen.index(new) > 10
    assert seen == [old] * seen.index(new) + [new] * seen.count(new)
    assert [died for died, *_ in results] == [True] * (len(results) - 1) + [False]
    assert all(left == [] and again for _, _, left, again in results)


def test_a_first_save_killed_anywhere_can_be_repeated(
    changed_artifact: Path, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "place").mkdir()
    arguments = tmp_path / "nothing", changed_artifact, tmp_path / "place"
    results = json.loads(run_python(DYING, *arguments, cwd=repository))
    new = Router.load(changed_artifact).route("Translate to Spanish: good morning").to_dict()
    seen = [found for _, found, _, _ in results]
    assert seen == ["ArtifactError"] * seen.index(new) + [new] * seen.count(new)
    assert all(left == [] and again for _, _, left, again in results)


def test_readers_and_writers_at_once_see_whole_artifacts(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    save_two(folder, 0)
    errors: list[BaseException] = []
    writing = [True, True]

    def write(writer: int) -> None:
        try:
            for number in range(40):
                save_two(folder, 1000 * writer + number % 3)
        except BaseException as error:
            errors.append(error)
        finally:
            writing[writer] = False

    def read() -> None:
        try:
            while any(writing):
                artifact = load_artifact(folder)
                assert (artifact.arrays["number"] == artifact.manifest["number"]).all()
                assert artifact.embedder_files == EMBEDDER
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert load_artifact(folder).manifest["number"] in (2 - 2, 1000)
    assert len(list(folder.iterdir())) == 3


ALONE = """
import socket, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"sklearn", "scipy", "pandas", "joblib", "torch", "transformers",
                                  "sentence_transformers", "huggingface_hub", "mlflow", "training"}:
            raise ImportError(name)
sys.meta_path.insert(0, Forbidden())
import pickle
def refuse(*arguments, **options):
    raise AssertionError("forbidden")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse
from router import Router
router = Router.load(sys.argv[1])
print(router.route("Translate to Spanish: good morning").tier, router.plan("why?")[0])
"""


def test_it_loads_without_scikit_learn_network_and_pickle(
    small_artifact: Path, repository: Path
) -> None:
    said = run_python(ALONE, small_artifact, cwd=repository)
    assert set(said.split()) <= {"nano", "mid", "frontier"}
