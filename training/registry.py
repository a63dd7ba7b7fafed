"""Champion and challenger in the MLflow model registry: artifacts as they are, under aliases.

A version of the registered model is one artifact folder, logged to a run of its own as
``artifact``: the manifest, the files that it names, and the model card. No model is rebuilt or
pickled. Its manifest holds the SHA-256 of every other file; the SHA-256 of the manifest stands in
the version's tag ``cps_router.manifest_sha256``. What comes back from the store is compared with
both, right after it was stored and whenever it is fetched.

Aliases: ``champion`` serves, ``previous-champion`` is what a rollback restores, ``challenger`` was
tested last, with or without success. Who was champion after whom is a stack in the registered
model's tag ``cps_router.champions``: promoting pushes, rolling back pops. Where somebody moved the
alias ``champion`` by other means, the alias is right, and the stack is mended.

Several at once: registering never disturbs, since each version has a run of its own. To move the
alias, whoever promotes or rolls back must find the champion that it was compared with, else it is
refused. With a SQLite store on one machine that is checked and done under a lock, so that one of
two wins and the other is refused. MLflow has no such step for a server: there two that move the
alias within the same second may both go through; the last one then is champion, and both versions
are whole.

The second of the two modules that write to MLflow; see ``training.experiment`` for the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.artifact import MANIFEST, check_destination, load_artifact
from router.artifact_files import MAX_MANIFEST_BYTES, alone, read_regular, write_all
from router.errors import ArtifactError, CpsRouterError, InputError
from training.experiment import experiment_id_of, masked, quiet, reason_of, tracking_store
from training.package import MODEL_CARD

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["DEFAULT_NAME", "Registered", "Registry", "snapshot"]

DEFAULT_NAME = "cps-router"
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous-champion", "challenger"

_DIGEST = "cps_router.manifest_sha256"
_ARTIFACT_ID = "cps_router.artifact_id"
_STATUS = "cps_router.status"
_GATE = "cps_router.gate"
_CHAMPIONS = "cps_router.champions"
# Champions that are remembered, and the length of a sentence in a tag.
_MOST_CHAMPIONS = 100
_MOST_TEXT = 4000
_MAX_CARD_BYTES = 4 * 2**20
_MAX_FILE_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Registered:
    """One version: its number, aliases, artifact, what became of it, what the gate said."""

    version: int
    aliases: tuple[str, ...]
    artifact_id: str
    manifest_sha256: str
    status: str
    gate: str
    run_id: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "version": self.version,
            "aliases": list(self.aliases),
            "artifact_id": self.artifact_id,
            "manifest_sha256": self.manifest_sha256,
            "status": self.status,
            "gate": self.gate,
            "run_id": self.run_id,
        }


def snapshot(folder: str | Path, into: Path) -> str:
    """Copy what belongs to an artifact, verified, to ``into``; the SHA-256 of its manifest.

    What is tested and what is stored are then the same bytes, whoever writes to the folder
    meanwhile; and nothing else that lies there is stored.

    Raises:
        ArtifactError: it is no artifact, or was altered.
    """
    folder = Path(folder)
    names = load_artifact(folder).manifest["files"]
    try:
        for name in (MANIFEST, *names):
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            limit = MAX_MANIFEST_BYTES if name == MANIFEST else _MAX_FILE_BYTES
            target.write_bytes(read_regular(folder, name, limit))
        if (folder / MODEL_CARD).exists():
            (into / MODEL_CARD).write_bytes(read_regular(folder, MODEL_CARD, _MAX_CARD_BYTES))
    except OSError as error:
        raise CpsRouterError(
            f"expected room for a copy of the artifact in {into}, got "
            f"{error.strerror or 'an error'}: make room."
        ) from error
    load_artifact(into)
    return _digest(into)


class Registry:
    """One registered model in the MLflow store of ``MLFLOW_TRACKING_URI``.

    Raises:
        MissingExtraError: mlflow is not installed.
        InputError: the store is a folder, or the name is none.
        CpsRouterError: from every method, where the store cannot be reached or refuses.
    """

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        if not name.strip() or set(name) & set('/:"\\'):
            raise InputError(
                f'expected a name for the registered model without / : " and \\, got {name!r}: '
                f"use for example {DEFAULT_NAME}."
            )
        self.name = name
        self.uri = tracking_store()

    @property
    def store(self) -> str:
        """The store, fit to be shown."""
        return masked(self.uri)

    def champion(self) -> Registered | None:
        """The version with the alias ``champion``."""
        return self.at(CHAMPION)

    def at(self, alias: str) -> Registered | None:
        """The version with an alias."""
        return next((v for v in self.versions() if alias in v.aliases), None)

    def versions(self) -> list[Registered]:
        """All versions, newest first; none where nothing was registered yet."""
        with self._client() as client:
            model = _model(client, self.name)
            if model is None:
                return []
            return [_registered(version, model.aliases) for version in _versions(client, self.name)]

    def register(self, folder: Path, digest: str, gate: Mapping[str, Any]) -> Registered:
        """Store the artifact in ``folder`` (a ``snapshot``) as it is, under ``challenger``.

        An artifact that is a version already is not stored again. ``gate`` is what was found,
        logged beside it as ``gate.json``.

        Raises:
            ArtifactError: what came back from the store is not what was stored.
        """
        manifest = load_artifact(folder).manifest
        said = str(gate["sentence"])[:_MOST_TEXT]
        with self._client() as client:
            _ensure_model(client, self.name)
            same = [v for v in _versions(client, self.name) if v.tags.get(_DIGEST) == digest]
        # The oldest of equal ones that is whole.
        number = next((int(v.version) for v in reversed(same) if self._is_whole(v, digest)), None)
        with self._client() as client:
            if number is None:
                number = int(self._store(client, folder, digest, manifest, gate).version)
                self.verify(number, digest)
            # What made the champion one is not overwritten by its being tested again.
            if _aliases(client, self.name).get(CHAMPION) != str(number):
                client.set_model_version_tag(self.name, str(number), _GATE, said)
            client.set_registered_model_alias(self.name, CHALLENGER, str(number))
            if not client.get_model_version(self.name, str(number)).tags.get(_STATUS):
                client.set_model_version_tag(self.name, str(number), _STATUS, "tested")
        return self._version(number)

    def promote(self, version: int, *, instead_of: int | None) -> None:
        """Make a version the champion, if the champion still is ``instead_of`` (None: none).

        Raises:
            CpsRouterError: another champion took the place meanwhile; nothing was changed.
        """
        with self._alone(), self._client() as client:
            current, champions = self._champions(client)
            if current != instead_of:
                raise CpsRouterError(
                    f"expected the champion to be {_number(instead_of)}, as when the challenger "
                    f"was compared with it, got {_number(current)}: another promotion or rollback "
                    "was faster; compare with the new champion."
                )
            champions = [*champions, version][-_MOST_CHAMPIONS:]
            self._set(client, champions)
            client.set_model_version_tag(
                self.name, str(version), _STATUS, f"champion since {_now()}"
            )
            if current is not None and current != version:
                self._tag(client, current, f"replaced by version {version} at {_now()}")

    def rollback(self) -> tuple[Registered, Registered]:
        """Give the place back to the champion before; (the one that left, the one restored).

        Versions that were deleted meanwhile are passed over. The restored one's artifact is
        fetched and verified first.

        Raises:
            InputError: there is no champion, or none before it.
            ArtifactError: the one before was altered in the store; nothing was changed.
        """
        with self._client() as client:
            current, champions = self._champions(client)
            there = {int(v.version) for v in _versions(client, self.name)} if champions else set()
        if current is None:
            raise InputError(
                f"expected a champion of {self.name!r} to roll back, got none in {self.store}: "
                "promote one first."
            )
        before = [version for version in champions[:-1] if version in there]
        if not before:
            raise InputError(
                f"expected a champion before version {current} of {self.name!r}, got none: it is "
                "the first that is left. To serve the keyword heuristic again, use KeywordRouter."
            )
        target = self._version(before[-1])
        self.verify(target.version, target.manifest_sha256)
        with self._alone(), self._client() as client:
            if self._champions(client)[0] != current:
                raise CpsRouterError(
                    f"expected version {current} of {self.name!r} to be the champion still, got "
                    "another: somebody promoted or rolled back meanwhile; look at --status."
                )
            self._set(client, before)
            self._tag(client, current, f"rolled back to version {target.version} at {_now()}")
            self._tag(client, target.version, f"champion since {_now()}, by rollback")
        return self._version(current), self._version(target.version)

    def fetch(self, version: int, digest: str, into: Path) -> Path:
        """Download a version's artifact to a folder in ``into``, and verify it.

        Raises:
            ArtifactError: it is not what was registered.
        """
        with self._client() as client:
            source = str(client.get_model_version(self.name, str(version)).source)
            run_id, _, path = source.removeprefix("runs:/").partition("/")
            if not source.startswith("runs:/"):
                raise InputError(
                    f"expected version {version} of {self.name!r} to be registered by cps-router, "
                    "got one with another source: promote an artifact folder."
                )
            folder = Path(client.download_artifacts(run_id, path, str(into)))
        try:
            load_artifact(folder)
            same = bool(digest) and _digest(folder) == digest
        except ArtifactError:
            same = False
        if not same:
            raise ArtifactError(
                f"expected the artifact of version {version} of {self.name!r} to have the SHA-256 "
                "that it was registered with, got another: it was altered in the store; do not "
                "use it (--rollback restores the champion before)."
            )
        return folder

    def verify(self, version: int, digest: str) -> None:
        """Fetch and verify a version's artifact, and throw the copy away."""
        with tempfile.TemporaryDirectory(prefix="cps-router-") as scratch:
            self.fetch(version, digest, Path(scratch))

    def export(self, out: Path) -> Registered:
        """Write the champion's artifact to a folder, verified; atomic, as saving an artifact is.

        Raises:
            InputError: there is no champion.
            ArtifactError: ``out`` holds something else, or the artifact was altered.
        """
        champion = self.champion()
        if champion is None:
            raise InputError(
                f"expected a champion of {self.name!r} to export, got none in {self.store}: "
                "promote one first."
            )
        check_destination(out)
        with tempfile.TemporaryDirectory(prefix="cps-router-") as scratch:
            folder = self.fetch(champion.version, champion.manifest_sha256, Path(scratch))
            files = load_artifact(folder).manifest["files"]
            payload = {name: read_regular(folder, name, _MAX_FILE_BYTES) for name in files}
            text = read_regular(folder, MANIFEST, MAX_MANIFEST_BYTES).decode()
            try:
                out.mkdir(parents=True, exist_ok=True)
                with alone(out):
                    write_all(out, payload, files, text)
                if (folder / MODEL_CARD).exists():
                    shutil.copyfile(folder / MODEL_CARD, out / MODEL_CARD)
            except OSError as error:
                raise ArtifactError(
                    f"expected to write the champion to {out}, got "
                    f"{error.strerror or 'an error'}: choose another folder, or make room."
                ) from error
        load_artifact(out)
        return champion

    def _is_whole(self, version: ModelVersion, digest: str) -> bool:
        try:
            self.verify(int(version.version), digest)
        except (ArtifactError, InputError):
            return False
        return True

    def _version(self, version: int) -> Registered:
        return next(v for v in self.versions() if v.version == version)

    def _store(
        self,
        client: MlflowClient,
        folder: Path,
        digest: str,
        manifest: Mapping[str, Any],
        gate: Mapping[str, Any],
    ) -> ModelVersion:
        artifact_id = str(manifest["artifact_id"])
        run = client.create_run(
            experiment_id_of(client, self.uri),
            run_name=f"promote {artifact_id}",
            tags={
                "artifact_id": artifact_id,
                _DIGEST: digest,
                "mlflow.source.name": "cps-router promote",
                "mlflow.source.type": "LOCAL",
            },
        )
        run_id = str(run.info.run_id)
        try:
            client.log_artifacts(run_id, str(folder), "artifact")
            client.log_dict(run_id, dict(gate), "gate.json")
        except BaseException:
            with contextlib.suppress(Exception):
                client.set_terminated(run_id, status="FAILED")
            raise
        client.set_terminated(run_id)
        return client.create_model_version(
            self.name,
            f"runs:/{run_id}/artifact",
            run_id=run_id,
            tags={_DIGEST: digest, _ARTIFACT_ID: artifact_id},
        )

    def _champions(self, client: MlflowClient) -> tuple[int | None, list[int]]:
        """The champion's version, and the stack that ends with it."""
        model = _model(client, self.name)
        if model is None or CHAMPION not in model.aliases:
            return None, []
        current = int(model.aliases[CHAMPION])
        try:
            champions = [int(version) for version in json.loads(model.tags.get(_CHAMPIONS, "[]"))]
        except (ValueError, TypeError):
            champions = []
        if current not in champions:
            return current, [*champions, current]
        # What stands above the alias never came to serve, or was taken back by hand.
        last = len(champions) - champions[::-1].index(current)
        return current, champions[:last]

    def _set(self, client: MlflowClient, champions: list[int]) -> None:
        """The stack and the aliases; ``champion`` last, since it is what counts."""
        client.set_registered_model_tag(self.name, _CHAMPIONS, json.dumps(champions))
        if len(champions) > 1:
            client.set_registered_model_alias(self.name, PREVIOUS, str(champions[-2]))
        elif PREVIOUS in _aliases(client, self.name):
            client.delete_registered_model_alias(self.name, PREVIOUS)
        client.set_registered_model_alias(self.name, CHAMPION, str(champions[-1]))

    def _tag(self, client: MlflowClient, version: int, status: str) -> None:
        # A note only: a version that was deleted meanwhile needs none.
        with contextlib.suppress(Exception):
            client.set_model_version_tag(self.name, str(version), _STATUS, status)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else on this machine moves aliases of a SQLite store meanwhile."""
        if self.uri.startswith("sqlite:////"):
            with alone(Path(self.uri.removeprefix("sqlite:///")).parent):
                yield
        else:
            yield

    @contextlib.contextmanager
    def _client(self) -> Iterator[MlflowClient]:
        """A client, with whatever the store raises as one sentence."""
        try:
            with quiet():
                from mlflow import MlflowClient

                yield MlflowClient(tracking_uri=self.uri)
        except CpsRouterError:
            raise
        except Exception as error:
            raise CpsRouterError(
                f"expected to read and write the model registry in {self.store}, got "
                f"{reason_of(error)}: check MLFLOW_TRACKING_URI."
            ) from error


def _digest(folder: Path) -> str:
    return hashlib.sha256(read_regular(folder, MANIFEST, MAX_MANIFEST_BYTES)).hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _number(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _model(client: MlflowClient, name: str) -> Any:
    """The registered model, None where there is none of this name."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    if _model(client, name) is not None:
        return
    try:
        client.create_registered_model(
            name, description="Router artifacts of cps-router; see its docs/promoting.md."
        )
    except MlflowException:
        if _model(client, name) is None:  # else another process was faster
            raise


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    model = _model(client, name)
    return {} if model is None else {k: str(v) for k, v in model.aliases.items()}


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Newest first."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f'name = "{name}"', page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return sorted(found, key=lambda version: -int(version.version))


def _registered(version: ModelVersion, aliases: Mapping[str, str]) -> Registered:
    tags, number = dict(version.tags), int(version.version)
    return Registered(
        version=number,
        aliases=tuple(sorted(name for name, of in aliases.items() if int(of) == number)),
        artifact_id=tags.get(_ARTIFACT_ID, ""),
        manifest_sha256=tags.get(_DIGEST, ""),
        status=tags.get(_STATUS, ""),
        gate=tags.get(_GATE, ""),
        run_id=str(version.run_id or ""),
    )
