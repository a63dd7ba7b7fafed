"""The artifact on disk: save it atomically, verify it, load it. No pickle, no network.

::

    my-router/
      manifest.json                   what it is; names every other file with size and SHA-256
      arrays-<digest>.safetensors     estimators, references, calibration matrix (no text)
      embedder-<digest>/              tokenizer.json, model.safetensors (static embedders only)

Payload files carry their digest in their name and never change once written; replacing
``manifest.json`` is the one atomic step that makes a new artifact current. A save killed at any
point therefore leaves the old artifact whole.

Loading reads each file once, compares size and SHA-256 with the manifest, and parses only bytes
that were compared. With a signing key configured, the manifest's HMAC-SHA256 must match before its
digests are believed.

FORMAT is raised by one when an older cps-router could no longer read what is written; a new
optional manifest key or array does not raise it. Every older FORMAT stays loadable, held by golden
artifacts in the tests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import ArtifactError

FORMAT = 1
MANIFEST = "manifest.json"
SIGNING_KEY_VARIABLE = "CPS_ROUTER_SIGNING_KEY"

_MAX_MANIFEST_BYTES = 8 * 2**20
_MAX_FILE_BYTES = 2 * 2**30
# Not part of the identity: two runs that learn the same thing have the same id.
_NOT_IDENTITY = ("artifact_id", "created", "signature")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified artifact in memory: manifest, arrays, the embedder's files as bytes by name."""

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]
    embedder_files: Mapping[str, bytes]

    @property
    def artifact_id(self) -> str:
        """Content-derived id, stable across machines."""
        return str(self.manifest["artifact_id"])


def default_artifact_folder() -> Path:
    """The artifact that ships with cps-router: package data, or models/default in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "default_artifact"
    return packaged if packaged.is_dir() else here.parent / "models" / "default"


def save_artifact(
    folder: str | Path,
    manifest: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    embedder_files: Mapping[str, bytes] | None = None,
    *,
    key: str | bytes | None = None,
) -> str:
    """Write an artifact and return its id; atomic, and an artifact already there is replaced.

    ``manifest`` holds everything but format, id, files and signature, which are filled in here.
    ``key`` (or the environment variable CPS_ROUTER_SIGNING_KEY) signs the manifest. Raises
    ArtifactError where ``folder`` holds something that is not an artifact.
    """
    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not _has_manifest(folder))
    ):
        raise ArtifactError(
            f"expected a new folder or an older artifact at {folder}, got something else: "
            "choose another --out."
        )
    # A scratch name that cannot collide; left-overs of killed saves are removed by the next one.
    scratch = folder / f".saving-{secrets.token_hex(6)}"
    scratch.mkdir(parents=True)
    try:
        payload = _payload(arrays, embedder_files or {})
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in payload.items()
        }
        filled = {**manifest, "format": FORMAT, "files": files}
        artifact_id = _identity(filled)
        filled["artifact_id"] = artifact_id
        secret = _key_bytes(key)
        if secret is not None:
            filled["signature"] = _signature(filled, secret)
        for name, data in payload.items():
            _write(scratch / name, data)
        for top in {name.split("/")[0] for name in payload}:
            _move_into_place(scratch / top, folder / top, files)
        _write(scratch / MANIFEST, _dump(filled).encode())
        os.replace(scratch / MANIFEST, folder / MANIFEST)
        _sync_folder(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _remove_stale(folder, {name.split("/")[0] for name in files})
    return artifact_id


def load_artifact(folder: str | Path, *, key: str | bytes | None = None) -> Artifact:
    """Read and verify an artifact; raises ArtifactError and returns nothing half-loaded.

    ``key`` (or CPS_ROUTER_SIGNING_KEY) makes a valid signature mandatory.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"expected an artifact folder at {folder}, got none: check the path.")
    manifest = read_manifest(folder, key=key)
    try:
        return _load_payload(folder, manifest)
    except ArtifactError:
        # Somebody may have replaced the artifact since the manifest was read: read the new one.
        again = read_manifest(folder, key=key)
        if again["artifact_id"] == manifest["artifact_id"]:
            raise
        return _load_payload(folder, again)


def read_manifest(folder: Path, *, key: str | bytes | None = None) -> dict[str, Any]:
    """The manifest, checked for format, identity and (with a key) signature."""
    data = _read_regular(folder, MANIFEST, _MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(data)
        found = manifest["format"]
        if not isinstance(found, int) or not isinstance(manifest["files"], dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(
            f"expected a manifest with format and files in {folder / MANIFEST}, got something "
            "else: the artifact is damaged, train it again."
        ) from None
    if found > FORMAT or found < 1:
        raise ArtifactError(
            f"expected an artifact of format 1 to {FORMAT}, got format {found}: "
            "upgrade cps-router to load it."
        )
    secret = _key_bytes(key)
    if secret is not None:
        signature = manifest.get("signature")
        if not isinstance(signature, str):
            raise ArtifactError(
                "expected a signed artifact because a signing key is configured, got an unsigned "
                "one: sign it by saving it with the key set."
            )
        if not hmac.compare_digest(signature, _signature(manifest, secret)):
            raise ArtifactError(
                "expected a signature made with the configured key, got another one: "
                "the artifact was altered or signed with another key; do not use it."
            )
    if manifest.get("artifact_id") != _identity(manifest):
        raise ArtifactError(
            f"expected the manifest in {folder} to match its artifact id, got other content: "
            "the artifact was altered; fetch it again."
        )
    return dict(manifest)


def _load_payload(folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse_safetensors

    arrays: dict[str, npt.NDArray[Any]] = {}
    embedder_files: dict[str, bytes] = {}
    for name, expected in manifest["files"].items():
        data = _read_regular(folder, name, _MAX_FILE_BYTES)
        if not isinstance(expected, dict) or len(data) != expected.get("bytes"):
            raise ArtifactError(
                f"expected {name} to have the size in the manifest, got {len(data)} bytes: "
                "the artifact is truncated or altered; fetch it again."
            )
        if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
            raise ArtifactError(
                f"expected {name} to have the SHA-256 in the manifest, got another one: "
                "the artifact was altered; fetch it again."
            )
        if "/" in name:
            embedder_files[name.split("/", 1)[1]] = data
        else:
            try:
                arrays.update(parse_safetensors(data))
            except (SafetensorError, ValueError, KeyError, TypeError):
                raise ArtifactError(
                    f"expected safetensors in {name}, got something else: train the artifact again."
                ) from None
    return Artifact(folder, manifest, arrays, embedder_files)


def _payload(
    arrays: Mapping[str, npt.NDArray[Any]], embedder_files: Mapping[str, bytes]
) -> dict[str, bytes]:
    from safetensors.numpy import save as dump_safetensors

    data = dump_safetensors({name: np.asarray(a, order="C") for name, a in sorted(arrays.items())})
    payload = {f"arrays-{hashlib.sha256(data).hexdigest()[:12]}.safetensors": data}
    if embedder_files:
        digest = hashlib.sha256()
        for name in sorted(embedder_files):
            digest.update(hashlib.sha256(embedder_files[name]).digest())
        folder = f"embedder-{digest.hexdigest()[:12]}"
        payload.update({f"{folder}/{name}": embedder_files[name] for name in embedder_files})
    return payload


def _has_manifest(folder: Path) -> bool:
    """True also for a first save that was killed: nothing but scratch and payload files."""
    return (folder / MANIFEST).exists() or all(_is_ours(entry.name) for entry in folder.iterdir())


def _is_ours(name: str) -> bool:
    return name.startswith((".saving-", "arrays-", "embedder-"))


def _move_into_place(source: Path, target: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    if target.exists() or target.is_symlink():
        if not target.is_symlink() and _same_content(target, files):
            return
        # Damaged, or foreign: an artifact that relied on it would be refused anyway.
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()
    os.replace(source, target)


def _same_content(target: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    for name, expected in files.items():
        if name.split("/")[0] != target.name:
            continue
        path = target.parent / name
        if path.is_symlink() or not path.is_file():
            return False
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected["sha256"]:
            return False
    return True


def _remove_stale(folder: Path, current: set[str]) -> None:
    for entry in folder.iterdir():
        if not _is_ours(entry.name) or entry.name in current:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _read_regular(folder: Path, name: str, max_bytes: int) -> bytes:
    """Bytes of a regular file inside the folder; symbolic links and odd names are refused."""
    parts = name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise ArtifactError(
            "expected plain file names in the manifest, got one that leaves the artifact folder: "
            "do not use this artifact."
        )
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ArtifactError(
                f"expected {name} to be a regular file, got a symbolic link: "
                "copy the artifact with its files."
            )
    try:
        # Looked at before it is opened: opening a named pipe would wait for ever.
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise ArtifactError(
                f"expected {name} to be a regular file of at most {max_bytes} bytes, "
                "got something else: do not use this artifact."
            )
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise ArtifactError(
            f"expected to read {name} in {folder}, got {error.strerror or 'an error'}: "
            "the artifact is incomplete; fetch it again."
        ) from None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def _canonical(manifest: Mapping[str, Any], without: tuple[str, ...]) -> bytes:
    kept = {name: value for name, value in manifest.items() if name not in without}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _identity(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(manifest, _NOT_IDENTITY)).hexdigest()[:16]


def _signature(manifest: Mapping[str, Any], secret: bytes) -> str:
    return hmac.new(secret, _canonical(manifest, ("signature",)), hashlib.sha256).hexdigest()


def _key_bytes(key: str | bytes | None) -> bytes | None:
    if key is None:
        key = os.environ.get(SIGNING_KEY_VARIABLE) or None
    return key.encode() if isinstance(key, str) else key
