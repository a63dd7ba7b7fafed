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
that were compared. The manifest itself must be, byte for byte, what saving writes, and match its
own id; only its date is outside that id. With a signing key configured, the manifest's HMAC-SHA256
must match before its digests are believed.

FORMAT is raised by one when an older cps-router could no longer read what is written; a new
optional manifest key or array does not raise it. Format 2 brought word grams and the kernel to the
inputs, and the estimator "ridge"; format 3 the posterior over tasks. Every older FORMAT stays
loadable, held by golden artifacts in the tests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router.artifact_files import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    alone,
    check_destination,
    check_name,
    read_regular,
    write_all,
)
from router.errors import ArtifactError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "SIGNING_KEY_VARIABLE",
    "Artifact",
    "check_destination",
    "default_artifact_folder",
    "load_artifact",
    "read_manifest",
    "save_artifact",
]

FORMAT = 3
SIGNING_KEY_VARIABLE = "CPS_ROUTER_SIGNING_KEY"

_MAX_FILE_BYTES = 2 * 2**30
# Not part of the identity: two runs that learn the same thing have the same id.
_NOT_IDENTITY = ("artifact_id", "created", "prices_as_of", "signature")
# Where somebody replaces the artifact while it is read, it is read again, at most this often.
_LOAD_ATTEMPTS = 5


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
    ArtifactError where ``folder`` holds something that is not an artifact, or ``manifest``
    something that is not JSON.
    """
    folder = Path(folder)
    secret = _key_bytes(key)
    payload = _payload(arrays, embedder_files or {})
    files = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in payload.items()
    }
    filled = {**manifest, "format": FORMAT, "files": files}
    try:
        artifact_id = _identity(filled)
        filled["artifact_id"] = artifact_id
        if secret is not None:
            filled["signature"] = _signature(filled, secret)
        text = _dump(filled)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"expected a manifest of JSON values, got something else ({error}): leave it out or "
            "make it text, a number, a list or a mapping with text as keys."
        ) from error
    check_destination(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            check_destination(folder)
            write_all(folder, payload, files, text)
    except OSError as error:
        raise ArtifactError(
            f"expected to write an artifact to {folder}, got {error.strerror or 'an error'}: "
            "choose another --out, or make room; an older artifact there is untouched."
        ) from error
    return artifact_id


def load_artifact(folder: str | Path, *, key: str | bytes | None = None) -> Artifact:
    """Read and verify an artifact; raises ArtifactError and returns nothing half-loaded.

    ``key`` (or CPS_ROUTER_SIGNING_KEY) makes a valid signature mandatory.
    """
    folder = Path(folder)
    # os.path says "none" also of a name that is too long to be one.
    if not os.path.isdir(folder):
        raise ArtifactError(f"expected an artifact folder at {folder}, got none: check the path.")
    for _ in range(_LOAD_ATTEMPTS - 1):
        before = _manifest_stamp(folder)
        try:
            return _load_payload(folder, read_manifest(folder, key=key))
        except ArtifactError:
            if _manifest_stamp(folder) == before:
                raise
    return _load_payload(folder, read_manifest(folder, key=key))


def _manifest_stamp(folder: Path) -> tuple[int, int] | None:
    """Tells a manifest from the one that replaces it, also where both say the same."""
    try:
        found = os.stat(folder / MANIFEST, follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def read_manifest(folder: Path, *, key: str | bytes | None = None) -> dict[str, Any]:
    """The manifest, checked for format, identity and (with a key) signature."""
    data = read_regular(folder, MANIFEST, MAX_MANIFEST_BYTES)
    damaged = ArtifactError(
        f"expected a manifest with format and files in {folder / MANIFEST}, got something "
        "else: the artifact is damaged, train it again."
    )
    try:
        manifest = json.loads(data)
        found = manifest["format"]
        # A bool is an int to Python.
        if type(found) is not int or not isinstance(manifest["files"], dict):
            raise damaged
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if found > FORMAT or found < 1:
        raise ArtifactError(
            f"expected an artifact of format 1 to {FORMAT}, got format {found}: "
            "upgrade cps-router to load it."
        )
    try:
        # Another spelling of the same content (a key twice, NaN, other digits) is an alteration.
        as_saved = data == _dump(manifest).encode()
    except (ValueError, RecursionError):
        raise damaged from None
    secret = _key_bytes(key)
    if secret is not None:
        signature = manifest.get("signature")
        if not isinstance(signature, str):
            raise ArtifactError(
                "expected a signed artifact because a signing key is configured, got an unsigned "
                "one: sign it by saving it with the key set."
            )
        expected = _signature(manifest, secret)
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()):
            raise ArtifactError(
                "expected a signature made with the configured key, got another one: "
                "the artifact was altered or signed with another key; do not use it."
            )
    if not as_saved or manifest.get("artifact_id") != _identity(manifest):
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
        size = expected.get("bytes") if isinstance(expected, dict) else None
        if type(size) is not int or not 0 <= size <= _MAX_FILE_BYTES:
            raise ArtifactError(
                f"expected a size and a SHA-256 of every file in the manifest in {folder}, got "
                "something else: the artifact is damaged, train it again."
            )
        data = read_regular(folder, name, size)
        if len(data) != size:
            raise ArtifactError(
                f"expected {name} to have {size} bytes as in the manifest, got {len(data)}: "
                "the artifact is truncated; fetch it again."
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
    for name in payload:
        check_name(name)
    return payload


def _dump(manifest: Mapping[str, Any]) -> str:
    # ASCII: a lone surrogate in a model's name must not make the file unreadable.
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"


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
    if key is None:
        return None
    if not key:
        # Anybody could sign with it.
        raise ArtifactError("expected a signing key, got an empty one: set it, or pass none.")
    if isinstance(key, bytes):
        return key
    try:
        # Escapes stand for bytes that are no UTF-8, as in the environment.
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ArtifactError(
            "expected a signing key as text or bytes, got text with half a character: pass bytes."
        ) from None
