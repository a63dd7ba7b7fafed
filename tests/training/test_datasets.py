from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from router.errors import CpsRouterError, DatasetError, InputError
from router.tiers import TierSet
from training import datasets
from training.datasets import DATASETS, fetch
from training.table import read_outcomes

ARMS = ("meta-llama/llama-3.1-8b-instruct", "mistralai/mistral-large-2512", "google/gemini-2.5-pro")
MEMBERS = {
    "train": "pareto_bandit/data/examples/val.jsonl",
    "test": "pareto_bandit/data/examples/test_holdout.jsonl",
}


def arm_rows(prompts: list[str], rewards: tuple[float, float, float]) -> bytes:
    costs = (0.00001, 0.0005, 0.02)
    rows = [
        {
            "prompt": prompt,
            "source": "gsm8k",
            "arms": {
                arm: {"reward": reward, "cost": cost, "near_best": True}
                for arm, reward, cost in zip(ARMS, rewards, costs, strict=True)
            },
        }
        for prompt in prompts
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def small_files() -> dict[str, bytes]:
    return {
        MEMBERS["train"]: arm_rows(["One?", "Two,\u2028of two lines?"], (0.2, 0.8, 0.95)),
        MEMBERS["test"]: arm_rows(["Three?"], (0.79, 1.0, 0.0)),
        "pareto_bandit/__init__.py": b"raise SystemExit('imported')",
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Index:
    """A package index that offers one wheel, and counts how often it is asked."""

    def __init__(self, content: bytes, file_name: str) -> None:
        self.content = content
        self.file_name = file_name
        self.asked: list[str] = []

    def __call__(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        (folder / self.file_name).write_bytes(self.content)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Index]:
    """Makes an index offer a small paretobandit wheel, whose digest and sizes are expected."""

    def offering(files: Mapping[str, bytes], expected: Mapping[str, bytes] | None = None) -> Index:
        info = DATASETS["paretobandit"]
        assert info.wheel is not None
        content = zipped(files)
        sizes = small_files() if expected is None else expected
        wheel = dataclasses.replace(
            info.wheel,
            sha256=hashlib.sha256(content).hexdigest(),
            members=tuple(
                dataclasses.replace(member, size_bytes=len(sizes[member.path]))
                for member in info.wheel.members
            ),
        )
        monkeypatch.setitem(DATASETS, info.name, dataclasses.replace(info, wheel=wheel))
        return Index(content, wheel.file_name)

    return offering


def test_the_folder_may_be_text(offer: Callable[..., Index], tmp_path: Path) -> None:
    index = offer(small_files())
    as_text = fetch("paretobandit", str(tmp_path), download=index)
    assert as_text == fetch("paretobandit", tmp_path, download=index)


def test_paretobandit_becomes_outcomes(offer: Callable[..., Index], tmp_path: Path) -> None:
    index = offer(small_files())
    said: list[str] = []
    fetched = fetch("paretobandit", tmp_path / "new", download=index, on_progress=said.append)
    assert index.asked == ["paretobandit==0.1.1"]
    assert "fetching paretobandit==0.1.1 from the package index" in said
    tiers = TierSet.from_toml(fetched.tiers)
    assert tiers.names == ("nano", "mid", "frontier")
    assert tuple(tier.model for tier in tiers) == ARMS
    table = read_outcomes(fetched.outcomes, tiers)
    assert table.report.n_rows == table.report.n_outcomes == 9
    assert table.query.tolist() == ["One?", "Two,\u2028of two lines?", "Three?"]
    assert table.split.tolist() == ["train", "train", "test"]
    assert table.task.tolist() == ["gsm8k"] * 3
    assert table.success.tolist() == [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    assert table.cost_usd[2].tolist() == [0.00001, 0.0005, 0.02]
    assert np.isnan(table.output_tokens).all()
    # Ids stay the same from one fetch to the next; the score is there for another threshold.
    again = fetch("paretobandit", tmp_path / "again", download=index)
    assert again.outcomes.read_bytes() == fetched.outcomes.read_bytes()
    strict = read_outcomes(fetched.outcomes, tiers, success_threshold=0.9)
    assert strict.success[0].tolist() == [0.0, 0.0, 1.0]


def test_the_wheel_is_fetched_once_and_checked_every_time(
    offer: Callable[..., Index], tmp_path: Path
) -> None:
    index = offer(small_files())
    first = fetch("paretobandit", tmp_path, download=index)
    good = first.outcomes.read_bytes()
    first.outcomes.write_bytes(b"altered")
    assert fetch("paretobandit", tmp_path, download=index).outcomes.read_bytes() == good
    assert len(index.asked) == 1
    wheel = tmp_path / index.file_name
    wheel.write_bytes(wheel.read_bytes() + b"altered")
    said: list[str] = []
    again = fetch("paretobandit", tmp_path, download=index, on_progress=said.append)
    assert again.outcomes.read_bytes() == good
    assert len(index.asked) == 2
    assert f"{index.file_name} was altered; fetching it again" in said
    # Nothing half-written stays behind.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [index.file_name, "paretobandit.jsonl", "paretobandit.tiers.toml"]
    )


def test_a_wrong_digest_is_refused_before_the_zip_is_opened(
    offer: Callable[..., Index], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = offer(small_files())
    index.content = zipped(small_files() | {"extra.py": b""})

    def opened(*arguments: object) -> None:
        raise AssertionError("the zip was opened")

    monkeypatch.setattr(datasets.zipfile, "ZipFile", opened)
    with pytest.raises(DatasetError, match=r"expected SHA-256 .* got .* it was not opened"):
        fetch("paretobandit", tmp_path, download=index)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_member(offer: Callable[..., Index], tmp_path: Path) -> None:
    files = small_files()
    del files[MEMBERS["test"]]
    with pytest.raises(DatasetError, match=r"expected .*test_holdout\.jsonl in the wheel"):
        fetch("paretobandit", tmp_path, download=offer(files))


@pytest.mark.parametrize("surplus", [b"x", b"\n" * 50_000_000])
def test_a_member_of_another_size_is_not_unpacked(
    offer: Callable[..., Index], tmp_path: Path, surplus: bytes
) -> None:
    files = small_files()
    files[MEMBERS["test"]] += surplus
    with pytest.raises(DatasetError, match=r"bytes in .*test_holdout\.jsonl, the wheel says"):
        fetch("paretobandit", tmp_path, download=offer(files))
    assert not (tmp_path / "paretobandit.jsonl").exists()


def test_a_member_that_lies_about_its_size_is_not_unpacked(
    offer: Callable[..., Index], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = small_files()
    files = expected | {MEMBERS["test"]: expected[MEMBERS["test"]] + b"\n" * 5_000_000}
    index = offer(files)
    # Both headers of the last member claim the expected size.
    lie = len(expected[MEMBERS["test"]]).to_bytes(4, "little")
    truth = len(files[MEMBERS["test"]]).to_bytes(4, "little")
    assert index.content.count(truth) == 2
    index.content = index.content.replace(truth, lie)
    info = DATASETS["paretobandit"]
    assert info.wheel is not None
    wheel = dataclasses.replace(info.wheel, sha256=hashlib.sha256(index.content).hexdigest())
    monkeypatch.setitem(DATASETS, info.name, dataclasses.replace(info, wheel=wheel))
    with pytest.raises(DatasetError):
        fetch("paretobandit", tmp_path, download=index)
    assert not (tmp_path / "paretobandit.jsonl").exists()


@pytest.mark.parametrize(
    "content", [b"not JSON\n", b'{"prompt": "x"}\n', b'["row"]\n', b'{"prompt":"x","arms":{}}\n']
)
def test_rows_of_another_shape(offer: Callable[..., Index], tmp_path: Path, content: bytes) -> None:
    files = small_files() | {MEMBERS["train"]: content}
    with pytest.raises(DatasetError, match=r"row 1 of val\.jsonl is not as expected"):
        fetch("paretobandit", tmp_path, download=offer(files, expected=files))


def test_what_is_no_zip(
    offer: Callable[..., Index], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = offer(small_files())
    index.content = b"<html>a captive portal</html>"
    info = DATASETS["paretobandit"]
    assert info.wheel is not None
    wheel = dataclasses.replace(info.wheel, sha256=hashlib.sha256(index.content).hexdigest())
    monkeypatch.setitem(DATASETS, info.name, dataclasses.replace(info, wheel=wheel))
    with pytest.raises(DatasetError, match="is damaged: delete it and fetch again"):
        fetch("paretobandit", tmp_path, download=index)


def test_an_index_that_gives_another_file(offer: Callable[..., Index], tmp_path: Path) -> None:
    index = offer(small_files())
    index.file_name = "paretobandit-0.1.1.tar.gz"
    with pytest.raises(DatasetError, match="it gave another file"):
        fetch("paretobandit", tmp_path, download=index)


def test_a_folder_that_cannot_be_written(offer: Callable[..., Index], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot keep the data set paretobandit in .*: choose"):
        fetch("paretobandit", tmp_path / "file", download=offer(small_files()))


def fake_pip(
    monkeypatch: pytest.MonkeyPatch, outcome: subprocess.CompletedProcess[str] | Exception
) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert options["capture_output"]
        assert "shell" not in options
        commands.append(command)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_pip_fetches_the_exact_version_and_no_dependency(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = fake_pip(monkeypatch, subprocess.CompletedProcess([], 0, "", ""))
    datasets.pip_download("paretobandit==0.1.1", tmp_path)
    [command] = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-3:] == ["--dest", str(tmp_path), "paretobandit==0.1.1"]
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:"
    # Which index is asked is the user's setting.
    assert not any("index" in part for part in command)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            subprocess.CompletedProcess([], 1, "", "ERROR: https://me:SECRET@host/ No matching"),
            "the package index could not be reached or does not offer paretobandit==0.1.1: check",
        ),
        (
            subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n"),
            "needs pip, which this Python does not have: run 'python -m ensurepip'",
        ),
        (subprocess.TimeoutExpired("pip", 600), "the package index could not be reached"),
        (FileNotFoundError(2, "gone"), "the package index could not be reached"),
    ],
)
def test_pip_failures_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    outcome: subprocess.CompletedProcess[str] | Exception,
    message: str,
) -> None:
    fake_pip(monkeypatch, outcome)
    with pytest.raises(DatasetError, match=message) as caught:
        fetch("paretobandit", tmp_path)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_pip_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Real pip, an index at a port where nothing listens.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DatasetError, match="the package index could not be reached"):
        fetch("paretobandit", tmp_path)


@pytest.mark.network
def test_the_real_paretobandit(tmp_path: Path) -> None:
    fetched = fetch("paretobandit", tmp_path)
    table = read_outcomes(fetched.outcomes, TierSet.from_toml(fetched.tiers))
    assert (table.n_requests, table.n_tiers) == (3609, 3)
    assert table.complete.all()
    test = table.split == "test"
    assert test.sum() == 1824
    assert table.success[test].mean(axis=0) == pytest.approx([0.600, 0.905, 0.922], abs=5e-4)
    assert table.cost_usd[test].mean(axis=0) * 1000 == pytest.approx(
        [0.0286, 0.5268, 15.156], rel=1e-3
    )


@pytest.mark.parametrize("name", ["mmlu_pro", "zeroeval"])
def test_sets_of_the_data_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (tmp_path / f"{name}.parquet", tmp_path / f"{name}.tiers.toml")
    monkeypatch.delenv("CPS_ROUTER_DATA", raising=False)
    with pytest.raises(DatasetError, match=f"CPS_ROUTER_DATA is not set: .*{files[0].name} and"):
        fetch(name, tmp_path)
    monkeypatch.setenv("CPS_ROUTER_DATA", "")
    with pytest.raises(DatasetError, match="CPS_ROUTER_DATA is not set"):
        fetch(name, tmp_path)
    monkeypatch.setenv("CPS_ROUTER_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=f"needs {files[0].name} and {files[1].name} in the"):
        fetch(name, tmp_path)
    files[0].write_bytes(b"")
    with pytest.raises(DatasetError, match=f"needs {files[1].name} in the folder"):
        fetch(name, tmp_path)
    files[1].write_bytes(b"")
    assert fetch(name, tmp_path / "elsewhere") == datasets.FetchedDataset(*files)
    assert not (tmp_path / "elsewhere").exists()


def test_an_unknown_name_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'zeroeval'\?.*: choose one of pareto"):
        fetch("zero_eval", tmp_path)
    assert issubclass(InputError, CpsRouterError)
    assert InputError.exit_code == 2


def test_the_catalogue_names_what_it_lists() -> None:
    assert list(DATASETS) == ["paretobandit", "mmlu_pro", "zeroeval"]
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.licence == "Apache-2.0"
