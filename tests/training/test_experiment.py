"""Training runs are logged to a real MLflow store and read back with MLflow's own client."""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.errors import CpsRouterError, InputError, MissingExtraError
from router.tiers import Tier, TierSet
from training.experiment import RunInfo, log_training, reason_of, tracking_store
from training.pipeline import train
from training.table import OutcomeTable

FINGERPRINT = "5f" * 32
FLOOR_MENU = [
    {"floor": "strongest -0.02", "certified": False, "cost_usd": None, "queries_needed": 2400},
    {"floor": "strongest -0.05", "certified": True, "cost_usd": 0.0026},
]


def arguments(artifact: Path) -> dict[str, Any]:
    return {
        "parameters": {"seed": 0, "success_floor": "strongest:-0.05", "tiers/a (small)": "x"},
        "metrics": {"cps_usd.nano": 5e-05, "mix_ratio": 0.62, "cps_usd.broken": math.inf},
        "dataset_name": "outcomes.jsonl",
        "dataset_fingerprint": FINGERPRINT,
        "dataset_summary": {
            "n_requests": np.int64(3609),
            "success_rate.nano": 0.6,
            "cost_usd.nano": math.nan,
        },
        "manifest": {"artifact_id": "cps-1234", "FORMAT": 1},
        "artifact_dir": artifact,
        "floor_menu": FLOOR_MENU,
    }


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    (folder / "embedder").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"artifact_id": "cps-1234"}')
    (folder / "embedder" / "model.safetensors").write_bytes(bytes(range(256)))
    return folder


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str, experiment: str = "cps-router") -> list[Any]:
    store = client(uri)
    return list(store.search_runs([store.get_experiment_by_name(experiment).experiment_id]))


def test_everything_logged_is_read_back(
    tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    info = log_training(**arguments(artifact))

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    assert info.tracking_uri == uri
    assert info.ui_command.endswith(f"mlflow server --backend-store-uri '{uri}'")
    # The store is found again from another folder, with the artifacts beside the database.
    monkeypatch.chdir(tmp_path)
    (run,) = runs(uri)
    assert run.info.run_id == info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "cps-1234"
    assert run.data.params == {
        "seed": "0",
        "success_floor": "strongest:-0.05",
        "tiers/a _small_": "x",
    }
    assert run.data.metrics == {"cps_usd.nano": 5e-05, "mix_ratio": 0.62}
    assert run.data.tags["metrics_not_finite"] == "cps_usd.broken"
    assert run.data.tags["artifact_id"] == "cps-1234"
    assert run.data.tags["dataset_fingerprint"] == FINGERPRINT

    (logged,) = run.inputs.dataset_inputs
    assert logged.dataset.name == "outcomes.jsonl"
    assert FINGERPRINT.startswith(logged.dataset.digest)
    assert json.loads(logged.dataset.profile) == {
        "n_requests": 3609,
        "success_rate.nano": 0.6,
        "cost_usd.nano": None,
    }

    got = Path(client(uri).download_artifacts(info.run_id, "", str(tmp_path)))
    weights = got / "artifact" / "embedder" / "model.safetensors"
    assert weights.read_bytes() == bytes(range(256))
    assert json.loads((got / "manifest.json").read_text())["FORMAT"] == 1
    table = json.loads((got / "floor_menu.json").read_text())
    assert table["columns"] == ["floor", "certified", "cost_usd", "queries_needed"]
    assert table["data"][1] == ["strongest -0.05", True, 0.0026, None]
    assert (folder / "mlruns").is_dir()


def test_experiment_name_and_database_come_from_the_environment(
    tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Tráfico: España")
    first = log_training(**arguments(artifact))
    second = log_training(**arguments(artifact))
    found = {run.info.run_id for run in runs(f"sqlite:///{tmp_path}/team.db", "Tráfico: España")}
    assert found == {first.run_id, second.run_id}


def test_more_parameters_than_one_call_takes_and_long_or_clashing_ones(artifact: Path) -> None:
    parameters: dict[str, object] = {f"tier.{i}": i for i in range(250)}
    parameters |= {"long": "x" * 10_000, "a+b": 1, "a=b": 2}
    metrics = {f"metric.{i}": float(i) for i in range(1200)}
    info = log_training(**{**arguments(artifact), "parameters": parameters, "metrics": metrics})
    (run,) = runs(info.tracking_uri)
    assert len(run.data.params) == 253
    assert run.data.params["long"].endswith("...")
    assert (run.data.params["a_b"], run.data.params["a_b_2"]) == ("1", "2")
    assert len(run.data.metrics) == 1200


@pytest.mark.parametrize("activated", [True, False])
def test_the_command_that_shows_runs_can_be_pasted(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, activated: bool
) -> None:
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(folder if activated else artifact))
    command = shlex.split(log_training(**arguments(artifact)).ui_command.split(" server ")[0])
    assert command == (["mlflow"] if activated else [sys.executable, "-m", "mlflow"])
    shown = subprocess.run([*command, "--version"], capture_output=True, check=True)
    assert b"version 3." in shown.stdout


def test_text_in_the_summary_is_refused_before_anything_is_stored(
    tmp_path: Path, artifact: Path
) -> None:
    broken = {**arguments(artifact), "dataset_summary": {"first_query": "my salary is 1000"}}
    with pytest.raises(InputError, match="expected numbers") as caught:
        log_training(**broken)
    assert "salary" not in str(caught.value)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("uri", ["./mlruns", "file:///var/mlruns", "/var/mlruns"])
def test_a_folder_as_store_is_refused_in_one_sentence(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=r"got a folder, .* sqlite:///mlflow\.db"):
        tracking_store()


def test_an_allowed_folder_is_written(
    tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    info = log_training(**arguments(artifact))
    assert list((tmp_path / "store").rglob(f"{info.run_id}/artifacts/floor_menu.json"))


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cps-router\[train\]'"):
        tracking_store()


def test_an_unreachable_server_costs_the_run_but_not_the_artifact(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:  # bound and never listening: every connection is refused
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ana:secret@127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(CpsRouterError) as caught:
            log_training(**arguments(artifact))
    message = str(caught.value)
    assert message.startswith(f"the artifact is written to {artifact}, but the run could not be")
    # One sentence, though the client's own words are a nest of errors.
    assert message.endswith(
        f"could not be logged to http://ana:***@127.0.0.1:{port}, got Connection refused: "
        "check MLFLOW_TRACKING_URI, or use --no-mlflow."
    )
    assert "secret" not in message
    assert "\n" not in message
    assert caught.value.exit_code == 1
    assert (artifact / "manifest.json").exists()


def test_a_file_that_is_no_database_is_reported(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, " * 100)
    with pytest.raises(
        CpsRouterError, match=r"the run could not be logged to sqlite:///.*mlflow\.db"
    ):
        log_training(**arguments(artifact))


def test_an_artifact_that_was_not_saved_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the saved artifact in"):
        log_training(**arguments(tmp_path / "nowhere"))
    assert not (tmp_path / "mlflow.db").exists()


def test_what_else_a_store_says_is_cut_between_words_and_without_the_password() -> None:
    error = RuntimeError("\nno http://ana:secret@host/ and " + "word " * 100 + "\nmore")
    said = reason_of(error)
    assert said.startswith("no http://ana:***@host/ and word") and said.endswith("word ...")
    assert len(said) <= 160
    assert reason_of(RuntimeError("")) == "RuntimeError"


def test_a_run_that_breaks_off_is_marked_as_failed(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "mlruns").write_text("a file where the store wants a folder")
    with pytest.raises(CpsRouterError, match="could not be logged"):
        log_training(**arguments(artifact))
    (run,) = runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert run.info.status == "FAILED"


def test_the_callers_own_mlflow_is_left_alone(artifact: Path) -> None:
    import mlflow

    uri, environment = mlflow.get_tracking_uri(), dict(os.environ)
    log_training(**arguments(artifact))
    assert mlflow.get_tracking_uri() == uri
    assert mlflow.active_run() is None
    assert dict(os.environ) == environment


IN_A_NEW_PROCESS = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from test_experiment import arguments
from training.experiment import log_training
assert "mlflow" not in sys.modules
print(json.dumps({"run_id": log_training(**arguments(Path(sys.argv[1]))).run_id}))
"""


def log_in_a_new_process(artifact: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-c", IN_A_NEW_PROCESS),
            *(artifact, Path(__file__).parent, repository),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=artifact.parent,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_DISABLE_TELEMETRY"},
    )


def test_nothing_but_the_callers_output_is_printed(artifact: Path, repository: Path) -> None:
    done = log_in_a_new_process(artifact, repository)
    assert json.loads(done.stdout)["run_id"]
    assert done.stderr == ""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real tracking server on this machine; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    store = f"sqlite:///{tmp_path / 'server.db'}"
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", store], cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            for _ in range(1000):
                try:
                    urllib.request.urlopen(f"{address}/health")
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, (tmp_path / "server.log").read_text()
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_a_tracking_server_takes_runs_and_nothing_is_printed(
    server: str, artifact: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    done = log_in_a_new_process(artifact, repository)
    assert done.stderr == ""
    run_id = json.loads(done.stdout)["run_id"]
    (run,) = runs(server)
    assert run.info.run_id == run_id
    assert {item.path for item in client(server).list_artifacts(run_id)} == {
        "artifact",
        "floor_menu.json",
        "manifest.json",
    }
    info = log_training(**arguments(artifact))
    assert isinstance(info, RunInfo)
    assert info.ui_command.startswith(f"python -m webbrowser '{server}/#/experiments/")


MARKER = "platypus-4711"


@pytest.fixture
def marked_table() -> OutcomeTable:
    """Full feedback on two tiers; a word in every query that is found nowhere else."""
    rng = np.random.default_rng(0)
    n = 120
    tiers = TierSet([Tier("small", "p", "model-s"), Tier("large", "p", "model-l")])
    success = (rng.random((n, 2)) < (0.5, 0.9)).astype(float)
    cost = np.full((n, 2), (0.001, 0.01))
    queries = [f"{MARKER}: what is {i} times {i + 7}?" for i in range(n)]
    return OutcomeTable.from_arrays(tiers, queries, success, cost)


@pytest.mark.slow
def test_a_training_run_leaves_no_query_text_in_the_store(
    marked_table: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train(marked_table, tmp_path / "artifact", estimator="logistic")
    assert result.run
    (run,) = runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert run.info.run_id == result.run.run_id
    assert run.data.tags["artifact_id"] == result.manifest["artifact_id"]
    assert run.data.metrics
    logged = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "manifest.json", "floor_menu.json"} <= {path.name for path in logged}
    assert [path for path in logged if holds(path, MARKER)] == []
    # The search itself finds text where there is some.
    (tmp_path / "found.txt").write_text(f"... {MARKER} ...")
    assert holds(tmp_path / "found.txt", MARKER)


def holds(path: Path, text: str) -> bool:
    content = path.read_bytes()
    return any(text.encode(encoding) in content for encoding in ("utf-8", "utf-16-le", "utf-16-be"))
