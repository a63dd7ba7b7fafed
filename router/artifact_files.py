"""Files of an artifact: written atomically, read only where they are plain files inside it.

Payload files never change once written; replacing ``manifest.json`` is the one atomic step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from router.errors import ArtifactError

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 8 * 2**20

# Names that mean the same on every system; "." and ".." need the letter that they lack.
_PLAIN_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._-]{1,100}")
# What saving puts beside the manifest, and may remove again.
_OUR_NAME = re.compile(r"(\.saving|arrays|embedder)-[0-9a-f]{12}(\.safetensors)?")


def check_destination(folder: str | Path) -> None:
    """Raise ArtifactError where no artifact can be saved: worth asking before hours of training."""
    folder = Path(folder)
    try:
        if folder.exists():
            fitting = folder.is_dir() and (not any(folder.iterdir()) or _is_artifact(folder))
            if not fitting:
                raise ArtifactError(
                    f"expected a new folder or an older artifact at {folder}, got something else: "
                    "choose another --out."
                )
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            raise ArtifactError(
                f"expected to be allowed to write to {nearest}, got a place that cannot be "
                "written: choose another --out."
            )
    except OSError as error:
        raise ArtifactError(
            f"expected a folder for the artifact at {folder}, got {error.strerror or 'an error'}: "
            "choose another --out."
        ) from error


def write_all(
    folder: Path,
    payload: Mapping[str, bytes],
    files: Mapping[str, Mapping[str, Any]],
    manifest: str,
) -> None:
    """Put the payload files in place, then the manifest that makes them current.

    ``payload`` holds bytes by name, ``files`` the manifest's entry for each. Killed at any point,
    this leaves what the folder held as it was.
    """
    # A scratch name that cannot collide; left-overs of killed saves are removed by the next one.
    scratch = folder / f".saving-{secrets.token_hex(6)}"
    scratch.mkdir()
    tops = {name.split("/")[0] for name in payload}
    try:
        for name, data in payload.items():
            _write(scratch / name, data)
        for top in tops:
            if (scratch / top).is_dir():
                _sync_folder(scratch / top)
            _move_into_place(scratch / top, folder / top, files)
        _write(scratch / MANIFEST, manifest.encode())
        _sync_folder(folder)  # what the manifest names is there before the manifest is
        os.replace(scratch / MANIFEST, folder / MANIFEST)
        _sync_folder(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _remove_stale(folder, tops)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait for another save to the folder to end; the lock of a process that dies goes with it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Not every system and file system can lock; then saves must not meet.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_artifact(folder: Path) -> bool:
    """True also for a first save that was killed: nothing but scratch and payload files."""
    names = [entry.name for entry in folder.iterdir()]
    if MANIFEST not in names:
        return all(_is_ours(name) for name in names)
    if any(_is_ours(name) for name in names):
        return True
    # Other tools have a manifest.json too.
    try:
        return "artifact_id" in json.loads(read_regular(folder, MANIFEST, MAX_MANIFEST_BYTES))
    except (ArtifactError, ValueError, TypeError, RecursionError):
        return False


def _is_ours(name: str) -> bool:
    return _OUR_NAME.fullmatch(name) is not None


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


def read_regular(folder: Path, name: str, max_bytes: int) -> bytes:
    """Bytes of a regular file inside the folder; symbolic links and odd names are refused."""
    check_name(name)
    try:
        with ExitStack() as opened:
            at = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, at)
            # Each step is opened where the last one is, and what was opened is what is looked at:
            # nobody can put a link in between. Opening a named pipe does not wait.
            for part in name.split("/"):
                at = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
                opened.callback(os.close, at)
            status = os.fstat(at)
            if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
                raise ArtifactError(
                    f"expected {name} to be a regular file of at most {max_bytes} bytes, "
                    "got something else: do not use this artifact."
                )
            with open(at, "rb", closefd=False) as file:
                return file.read(max_bytes + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ArtifactError(
                f"expected {name} to be a regular file, got a symbolic link: "
                "copy the artifact with its files."
            ) from None
        raise ArtifactError(
            f"expected to read {name} in {folder}, got {error.strerror or 'an error'}: "
            "the artifact is incomplete; fetch it again."
        ) from None


def check_name(name: str) -> None:
    """Raise ArtifactError unless the name is plain, and at most one folder deep."""
    parts = name.split("/")
    if len(parts) > 2 or not all(_PLAIN_NAME.fullmatch(part) for part in parts):
        raise ArtifactError(
            "expected plain file names in the manifest, got one that leaves the artifact folder "
            "or has unusual characters: do not use this artifact."
        )


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
