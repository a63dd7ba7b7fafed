"""Champions and challengers in a real MLflow registry: aliases, digests, history, two at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from router.artifact import load_artifact
from router.errors import ArtifactError, CpsRouterError, InputError
from router.routing import Router
from tests.artifacts import resave
from training.registry import Registered, Registry, snapshot

GATE = {"sentence": "PROMOTED: it says so.", "promoted": True}


def digest_of(folder: Path, scratch: Path) -> str:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return snapshot(folder, scratch)


@pytest.fixture(scope="module")
def artifacts(small_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four artifacts that differ in a number."""
    folder = tmp_path_factory.mktemp("artifacts")
    return [
        resave(
            small_artifact,
            folder / f"router-{i}",
            manifest=lambda m, i=i: m["policy"].update(success_value_usd=0.01 + i),  # type: ignore[misc]
        )
        for i in range(4)
    ]


def add(registry: Registry, folder: Path, scratch: Path) -> Registered:
    copy = scratch / f"copy-{folder.name}"
    return registry.register(copy, digest_of(folder, copy), GATE)


def promote(registry: Registry, folder: Path, scratch: Path) -> Registered:
    champion = registry.champion()
    added = add(registry, folder, scratch)
    registry.promote(added.version, instead_of=None if champion is None else champion.version)
    return added


def aliases(registry: Registry) -> dict[str, int]:
    return {alias: v.version for v in registry.versions() for alias in v.aliases}


def test_what_is_registered_is_the_artifact_itself(artifacts: list[Path], tmp_path: Path) -> None:
    registry = Registry()
    assert registry.versions() == []
    added = promote(registry, artifacts[0], tmp_path)
    assert (added.version, added.aliases, added.status) == (1, ("challenger",), "tested")
    assert aliases(registry) == {"champion": 1, "challenger": 1}
    fetched = registry.fetch(1, added.manifest_sha256, tmp_path)
    for path in artifacts[0].rglob("*"):
        if path.is_file():
            assert (fetched / path.relative_to(artifacts[0])).read_bytes() == path.read_bytes()
    assert Router.load(fetched).artifact_id == added.artifact_id
    # Nothing was made of it that MLflow would unpickle.
    assert not list(tmp_path.rglob("MLmodel")) + list(tmp_path.rglob("*.pkl"))
    [gate] = tmp_path.rglob("gate.json")
    assert json.loads(gate.read_text()) == GATE


def test_only_what_belongs_to_the_artifact_is_stored(artifacts: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(artifacts[0], tmp_path / "messy")
    (folder / "secrets.env").write_text("KEY=1")
    registry = Registry()
    added = add(registry, folder, tmp_path)
    fetched = registry.fetch(added.version, added.manifest_sha256, tmp_path)
    assert not (fetched / "secrets.env").exists()


def test_the_same_artifact_is_one_version(artifacts: list[Path], tmp_path: Path) -> None:
    registry = Registry()
    assert [add(registry, artifacts[i], tmp_path).version for i in (0, 1, 0)] == [1, 2, 1]
    assert aliases(registry) == {"challenger": 1}
    assert registry.champion() is None


def test_champions_are_rolled_back_one_after_another(artifacts: list[Path], tmp_path: Path) -> None:
    registry = Registry()
    for folder in artifacts[:3]:
        promote(registry, folder, tmp_path)
    assert aliases(registry) == {"champion": 3, "previous-champion": 2, "challenger": 3}
    assert registry.versions()[1].status.startswith("replaced by version 3 at ")
    left, restored = registry.rollback()
    assert (left.version, restored.version) == (3, 2)
    assert left.status.startswith("rolled back to version 2 at ")
    assert restored.status.endswith(", by rollback")
    assert aliases(registry) == {"champion": 2, "previous-champion": 1, "challenger": 3}
    # What was rolled back is no champion to come back to.
    promote(registry, artifacts[3], tmp_path)
    assert aliases(registry)["previous-champion"] == 2
    assert [registry.rollback()[1].version for _ in range(2)] == [2, 1]
    assert aliases(registry) == {"champion": 1, "challenger": 4}
    with pytest.raises(InputError, match="expected a champion before version 1 of 'cps-router'"):
        registry.rollback()
    assert aliases(registry)["champion"] == 1


def test_without_a_champion_there_is_nothing_to_roll_back_or_to_export(
    artifacts: list[Path], tmp_path: Path
) -> None:
    registry = Registry("my router's")
    for _ in range(2):
        with pytest.raises(InputError, match=r"expected a champion of .* to roll back, got none"):
            registry.rollback()
        with pytest.raises(InputError, match=r"expected a champion of .* to export, got none"):
            registry.export(tmp_path / "out")
        add(registry, artifacts[0], tmp_path)


def test_an_alias_moved_by_hand_is_believed(artifacts: list[Path], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    registry = Registry()
    for folder in artifacts[:3]:
        promote(registry, folder, tmp_path)
    client = MlflowClient(tracking_uri=registry.uri)
    client.set_registered_model_alias("cps-router", "champion", "1")
    with pytest.raises(InputError, match="expected a champion before version 1"):
        registry.rollback()
    added = add(registry, artifacts[3], tmp_path)
    client.set_registered_model_alias("cps-router", "champion", str(added.version))
    # It never was promoted; the champions known stand before it.
    assert registry.rollback()[1].version == 3
    client.set_registered_model_tag("cps-router", "cps_router.champions", "no list")
    with pytest.raises(InputError, match="expected a champion before version 3"):
        registry.rollback()


def test_a_deleted_version_is_passed_over(artifacts: list[Path], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    registry = Registry()
    for folder in artifacts[:3]:
        promote(registry, folder, tmp_path)
    MlflowClient(tracking_uri=registry.uri).delete_model_version("cps-router", "2")
    assert registry.rollback()[1].version == 1


def stored(tmp_path: Path, registered: Registered) -> Path:
    [folder] = tmp_path.glob(f"mlruns/**/{registered.run_id}/artifacts/artifact")
    return folder


def test_an_artifact_altered_in_the_store_is_refused(artifacts: list[Path], tmp_path: Path) -> None:
    registry = Registry()
    first = promote(registry, artifacts[0], tmp_path)
    second = promote(registry, artifacts[1], tmp_path)
    [arrays] = stored(tmp_path, first).glob("arrays-*")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="altered in the store"):
        registry.fetch(first.version, first.manifest_sha256, tmp_path / "fetched")
    with pytest.raises(ArtifactError, match="altered in the store"):
        registry.rollback()
    assert aliases(registry)["champion"] == second.version
    # Another whole artifact in its place is none either.
    folder = stored(tmp_path, second)
    shutil.rmtree(folder)
    shutil.copytree(artifacts[2], folder)
    with pytest.raises(ArtifactError, match=r"version 2 .* to have the SHA-256 that it was"):
        registry.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # A good copy is stored anew rather than believed to be there.
    assert add(registry, artifacts[0], tmp_path).version == 3


def test_an_altered_folder_is_not_even_tested(artifacts: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(artifacts[0], tmp_path / "altered")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("0.01", "0.02"))
    with pytest.raises(ArtifactError, match="the artifact was altered"):
        digest_of(folder, tmp_path / "copy")


def test_the_champion_is_exported_in_one_step(artifacts: list[Path], tmp_path: Path) -> None:
    registry = Registry()
    promote(registry, artifacts[0], tmp_path)
    out = tmp_path / "live" / "router"
    assert registry.export(out).version == 1
    assert Router.load(out).artifact_id == load_artifact(artifacts[0]).artifact_id
    promote(registry, artifacts[1], tmp_path)
    assert registry.export(out).version == 2
    assert Router.load(out).artifact_id == load_artifact(artifacts[1]).artifact_id
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="expected a new folder or an older artifact"):
        registry.export(tmp_path / "other")


def test_a_champion_that_changed_meanwhile_is_not_overwritten(
    artifacts: list[Path], tmp_path: Path
) -> None:
    registry = Registry()
    promote(registry, artifacts[0], tmp_path)
    late = add(registry, artifacts[1], tmp_path)
    promote(registry, artifacts[2], tmp_path)
    with pytest.raises(CpsRouterError, match="another promotion or rollback was faster") as caught:
        registry.promote(late.version, instead_of=1)
    assert caught.value.exit_code == 1
    assert aliases(registry)["champion"] == 3
    with pytest.raises(CpsRouterError, match="expected the champion to be none"):
        registry.promote(late.version, instead_of=None)


def race(uri: str, folder: Path, scratch: Path, start: Any, results: Any) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    registry = Registry()
    digest = digest_of(folder, scratch)
    start.wait()
    try:
        added = registry.register(scratch, digest, GATE)
        registry.promote(added.version, instead_of=1)
        results.put(added.version)
    except CpsRouterError as error:
        results.put(str(error))


@pytest.mark.slow
def test_of_two_promotions_at_once_one_wins_and_both_versions_are_whole(
    artifacts: list[Path], tmp_path: Path
) -> None:
    registry = Registry()
    promote(registry, artifacts[0], tmp_path)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    racers = [
        context.Process(
            target=race,
            args=(registry.uri, artifacts[i], tmp_path / f"racer-{i}", start, results),
        )
        for i in (1, 2)
    ]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=300) for _ in racers]
    for racer in racers:
        racer.join()
    [winner] = [result for result in found if isinstance(result, int)]
    [loser] = [result for result in found if isinstance(result, str)]
    assert "another promotion or rollback was faster" in loser
    assert aliases(registry)["champion"] == winner
    assert aliases(registry)["previous-champion"] == 1
    assert len(registry.versions()) == 3
    for version in registry.versions():
        registry.verify(version.version, version.manifest_sha256)
    assert registry.rollback()[1].version == 1


def test_a_store_that_is_none_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, " * 100)
    with pytest.raises(CpsRouterError, match=r"the model registry in sqlite:///.*mlflow\.db, got"):
        Registry().versions()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(InputError, match="got a folder"):
        Registry()
    with pytest.raises(InputError, match="expected a name for the registered model"):
        Registry("a/b")
