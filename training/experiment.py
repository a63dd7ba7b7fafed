"""Training runs in MLflow: parameters, metrics, the data's fingerprint, artifact and floor menu.

mlflow is imported only when a run is logged; the other modules that may import it are
``training.registry`` and the importer of its traces. Runs go to
``MLFLOW_TRACKING_URI`` or to ``sqlite:///mlflow.db`` in the current folder, under the experiment
``MLFLOW_EXPERIMENT_NAME`` or "cps-router". No query text is logged: the data set is described by
its fingerprint and by numbers.

MLflow is driven through its client, so that no global state (active run, tracking URI) of a caller
who uses MLflow as well is touched; no model is pickled, and nothing is written to standard output.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from router.errors import CpsRouterError, InputError, MissingExtraError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RunInfo", "log_evaluation", "log_training", "tracking_store"]

DEFAULT_EXPERIMENT = "cps-router"
DEFAULT_DATABASE = "mlflow.db"

_Value = TypeVar("_Value")

# What the stores accept.
_MAX_KEY = 250
_MAX_PARAM = 6000
_MAX_DIGEST = 36
_PARAMS_PER_CALL = 100
_METRICS_PER_CALL = 1000
# Of a foreign error, this much is shown.
_MAX_REASON = 160


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where a training run was logged.

    ``tracking_uri`` is fit to be shown (a password in it is masked); ``ui_command`` opens the run
    in a browser or starts the server that does.
    """

    run_id: str
    tracking_uri: str
    ui_command: str


def tracking_store() -> str:
    """The URI that runs go to, without contacting it; call before training, to fail early.

    A relative SQLite path becomes absolute: the run stays where it was logged when the process
    changes its folder. Raises MissingExtraError without mlflow, InputError where the store is a
    folder.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtraError("mlflow", "train", "logging the run (or use --no-mlflow)")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_DATABASE}"
    if uri.startswith("sqlite:///") and not uri.startswith(("sqlite:////", "sqlite:///:memory:")):
        return f"sqlite:///{Path.cwd() / uri.removeprefix('sqlite:///')}"
    if _is_folder(uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise InputError(
            "expected MLFLOW_TRACKING_URI to name a database or a server, got a folder, which "
            "MLflow no longer writes to: set it to sqlite:///mlflow.db or to your server's "
            "address, or use --no-mlflow."
        )
    return uri


def log_artifact(manifest: Mapping[str, Any], folder: Path) -> RunInfo:
    """Log a saved artifact to MLflow: everything comes from its manifest."""
    training, certificate = manifest["training"], manifest["certificate"] or {}
    metrics = {**manifest["metrics"]}
    for name in ("success_rate", "cost_usd_per_request"):
        if certificate:
            metrics[f"calibration.{name}"] = certificate[name]
    summary = {name: value for name, value in training.items() if name.startswith("n_")}
    return log_training(
        parameters={
            "objective": manifest["objective"],
            "confidence": certificate.get("confidence"),
            "estimator": manifest["estimator"]["family"],
            "embedder": manifest["embedder"]["id"],
            "seed": manifest["estimator"]["seed"],
            "policy": manifest["policy"]["description"],
        },
        metrics=metrics,
        dataset_name=training["name"],
        dataset_fingerprint=training["fingerprint"],
        dataset_summary=summary,
        manifest=manifest,
        artifact_dir=folder,
        floor_menu=manifest["floor_menu"],
    )


def log_training(
    *,
    parameters: Mapping[str, object],
    metrics: Mapping[str, float],
    dataset_name: str,
    dataset_fingerprint: str,
    dataset_summary: Mapping[str, float],
    manifest: Mapping[str, object],
    artifact_dir: Path,
    floor_menu: Sequence[Mapping[str, object]] = (),
) -> RunInfo:
    """Log one training run; the artifact must already be saved in ``artifact_dir``.

    Args:
        parameters: what was asked for; written as text, cut at 6,000 characters.
        metrics: numbers. What is not finite (a CPS where nothing succeeded) is named in the tag
            ``metrics_not_finite`` instead, since stores turn infinity into 1.8e308.
        dataset_name: a short name, for example the file's name.
        dataset_fingerprint: hex digest of the training data; the run's data set carries its first
            36 characters (MLflow's limit), the tag ``dataset_fingerprint`` all of them.
        dataset_summary: numbers only (counts, rates, dollars), so that no query text can slip in.
        manifest: the artifact's manifest; its ``artifact_id`` names the run.
        artifact_dir: the saved artifact, logged as the folder ``artifact``.
        floor_menu: rows of the floor menu, logged as the table ``floor_menu.json``.

    Raises:
        MissingExtraError: mlflow is not installed.
        InputError: the store is a folder, ``artifact_dir`` is none, or ``dataset_summary`` holds
            something but numbers.
        CpsRouterError: the store could not be reached or written; the artifact is not affected.
    """
    uri = tracking_store()
    profile = _numeric_profile(dataset_summary)
    if not artifact_dir.is_dir():
        # MLflow would log nothing of it, and not say so.
        raise InputError(
            f"expected the saved artifact in {artifact_dir}, got no such folder: save it before "
            "the run is logged."
        )
    artifact_id = str(manifest.get("artifact_id", ""))
    tags = _tags("train", artifact_id, dataset_fingerprint, metrics)
    done = f"the artifact is written to {artifact_dir}"
    with _new_run(uri, artifact_id or None, tags, done) as (client, info):
        _log_numbers(client, info.run_id, parameters, metrics)
        _log_dataset(client, info.run_id, dataset_name, dataset_fingerprint, profile, "training")
        client.log_artifacts(info.run_id, str(artifact_dir), "artifact")
        client.log_dict(info.run_id, dict(manifest), "manifest.json")
        if floor_menu:
            client.log_table(info.run_id, _columns(floor_menu), "floor_menu.json")
    return info


def log_evaluation(facts: Mapping[str, Any], files: Mapping[str, str], folder: Path) -> RunInfo:
    """Log an evaluation and its report, which is already written to ``folder``.

    Args:
        facts: the evaluation's JSON, with its details.
        files: the report's files by name, without query texts; logged under ``report``.
        folder: where the user has them, for the message where logging fails.

    Raises:
        MissingExtraError: mlflow is not installed.
        InputError: the store is a folder.
        CpsRouterError: the store could not be reached or written; the report is not affected.
    """
    uri = tracking_store()
    metrics = {}
    for name, policy in facts["policies"].items():
        for key in ("success_rate", "cost_usd_per_request", "cps_usd"):
            if policy[key] is not None:
                metrics[f"{name}.{key}"] = policy[key]
            elif policy["cps_is_infinite"]:
                metrics[f"{name}.{key}"] = math.inf
    if facts.get("mix_ratio") is not None:
        metrics["mix_ratio"] = facts["mix_ratio"]
    parameters = {
        "data": facts["data"],
        "n_requests": facts["n_requests"],
        "confidence": facts["confidence"],
        "seed": facts["seed"],
        "verdict": facts["verdict"]["label"],
    }
    data = facts["details"]["data"]
    artifact_id, fingerprint = str(facts["artifact_id"]), str(data["fingerprint"])
    tags = _tags("evaluate", artifact_id, fingerprint, metrics)
    tags["verdict"] = _cut(facts["verdict"]["sentence"])
    profile = _numeric_profile(
        {name: value for name, value in data["read"].items() if name.startswith("n_")}
    )
    done = f"the report is written to {folder}"
    with _new_run(uri, f"evaluate {artifact_id}", tags, done) as (client, info):
        _log_numbers(client, info.run_id, parameters, metrics)
        _log_dataset(client, info.run_id, facts["data"], fingerprint, profile, "evaluation")
        for name, text in files.items():
            client.log_text(info.run_id, text, f"report/{name}")
    return info


@contextlib.contextmanager
def _new_run(
    uri: str, name: str | None, tags: Mapping[str, str], done: str
) -> Iterator[tuple[MlflowClient, RunInfo]]:
    """A run that ends with the block: finished, or failed where the block did.

    ``done`` says what the user has whatever becomes of the run.
    """
    with quiet():
        try:
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=uri)
            experiment_id = experiment_id_of(client, uri)
            run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
            run_id = str(run.info.run_id)
            try:
                yield (
                    client,
                    RunInfo(run_id, masked(uri), _ui_command(uri, experiment_id, run_id)),
                )
            except BaseException:
                # Interrupted or refused: a run left "running" for ever would be a lie.
                with contextlib.suppress(Exception):
                    client.set_terminated(run_id, status="FAILED")
                raise
            client.set_terminated(run_id)
        except Exception as error:
            # Whatever a store raises (MLflow's, SQLAlchemy's, requests', the system's errors) means
            # the same thing to the user, and none of it may cost them what was made.
            raise CpsRouterError(
                f"{done}, but the run could not be logged to {masked(uri)}, got "
                f"{reason_of(error)}: check MLFLOW_TRACKING_URI, or use --no-mlflow."
            ) from error


def experiment_id_of(client: MlflowClient, uri: str) -> str:
    """The experiment's id, making the experiment where it does not exist yet."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if uri.startswith("sqlite:////"):
            # Beside the database: MLflow's own default depends on the folder a process starts in.
            location = str(Path(uri.removeprefix("sqlite:///")).parent / "mlruns" / _key(name))
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another process was faster
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def _tags(
    command: str, artifact_id: str, fingerprint: str, metrics: Mapping[str, float]
) -> dict[str, str]:
    tags = {
        "artifact_id": artifact_id,
        "dataset_fingerprint": fingerprint,
        "mlflow.source.name": f"cps-router {command}",
        "mlflow.source.type": "LOCAL",
    }
    if commit := _git_commit():
        tags["mlflow.source.git.commit"] = commit
    if odd := [name for name, value in metrics.items() if not math.isfinite(value)]:
        tags["metrics_not_finite"] = ", ".join(odd)[:_MAX_PARAM]
    return tags


def _log_numbers(
    client: MlflowClient,
    run_id: str,
    parameters: Mapping[str, object],
    metrics: Mapping[str, float],
) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    params = [Param(key, _cut(str(value))) for key, value in _keyed(parameters).items()]
    values = [
        Metric(key, float(value), now_ms, 0)
        for key, value in _keyed(metrics).items()
        if math.isfinite(value)
    ]
    for start in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])
    for start in range(0, len(values), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=values[start : start + _METRICS_PER_CALL])


def _log_dataset(
    client: MlflowClient, run_id: str, name: str, fingerprint: str, profile: str, context: str
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=fingerprint[:_MAX_DIGEST],
        source_type="local",
        source=json.dumps({"uri": name}),
        profile=profile,
    )
    tags = [InputTag("mlflow.data.context", context)]
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])


def _numeric_profile(summary: Mapping[str, float]) -> str:
    """The summary as JSON; refuses everything but numbers, NaN and infinity become null."""
    numbers: dict[str, float | None] = {}
    for key, value in summary.items():
        if not isinstance(value, Real):
            raise InputError(
                f"expected numbers in the data set's summary, got {type(value).__name__} for "
                f"{key!r}: leave it out, since a run carries no text of the data."
            )
        number = int(value) if isinstance(value, Integral) else float(value)
        numbers[key] = number if math.isfinite(number) else None
    return json.dumps(numbers)


def _columns(rows: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    """Rows to columns, in the order of first appearance; None where a row has no such column."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _keyed(values: Mapping[str, _Value]) -> dict[str, _Value]:
    """The same values under keys that every store takes; keys that become alike are numbered.

    >>> _keyed({"cost/gpt-6 (mini)": 1, "cost/gpt-6 [mini]": 2})
    {'cost/gpt-6 _mini_': 1, 'cost/gpt-6 _mini__2': 2}
    """
    keyed: dict[str, _Value] = {}
    for name, value in values.items():
        key = _key(name)
        same = 1
        while key in keyed:
            same += 1
            key = f"{_key(name)}_{same}"
        keyed[key] = value
    return keyed


def _key(name: str) -> str:
    """A name without what MLflow refuses in keys: odd characters, and parts that a path would drop.

    >>> _key("share/../openai/gpt-6:mini")
    'share/openai/gpt-6_mini'
    """
    parts = re.sub(r"[^\w.\- /]", "_", name).split("/")
    # Room is left for the number of a key that is used twice.
    return "/".join(part for part in parts if part not in {"", ".", ".."})[: _MAX_KEY - 10] or "_"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_PARAM else text[: _MAX_PARAM - 3] + "..."


def _git_commit() -> str | None:
    """The commit checked out in the current folder, where there is one and git to tell it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
        return found.stdout.strip() or None
    return None


def _is_folder(uri: str) -> bool:
    """Whether MLflow would take the URI for a folder: no scheme, file: or a Windows drive.

    >>> [_is_folder(uri) for uri in ("./mlruns", "file:///data/mlruns", "C:/mlruns")]
    [True, True, True]
    >>> [_is_folder(uri) for uri in ("http://localhost:5000", "sqlite:///mlflow.db", "databricks")]
    [False, False, False]
    """
    scheme = urlsplit(uri).scheme
    return scheme == "file" or len(scheme) == 1 or (not scheme and uri != "databricks")


def masked(uri: str) -> str:
    """The URI without its password.

    >>> masked("postgresql://cps:secret@db:5432/mlflow")
    'postgresql://cps:***@db:5432/mlflow'
    """
    return re.sub(r"(?<=://)([^/@:]*):[^/]*@", r"\1:***@", uri)


def reason_of(error: BaseException) -> str:
    """Why it failed, in words: what the system said, if it was the system that refused.

    Clients wrap that several times, each time with everything they know; else their first line is
    taken, without the password.
    """
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return textwrap.shorten(masked(first).rstrip(". "), _MAX_REASON, placeholder=" ...")


def _ui_command(uri: str, experiment_id: str, run_id: str) -> str:
    """The command that shows the run.

    >>> _ui_command("http://localhost:5000/", "1", "ab12")
    "python -m webbrowser 'http://localhost:5000/#/experiments/1/runs/ab12'"
    """
    if uri.startswith(("http://", "https://")):
        address = f"{masked(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
        return f"python -m webbrowser {shlex.quote(address)}"
    # Outside an activated environment the script mlflow is not found; its module is.
    mlflow = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
    if uri.startswith(("sqlite:", "postgresql", "mysql", "mssql")):
        shown = shlex.quote(uri) if uri == masked(uri) else '"$MLFLOW_TRACKING_URI"'
        return f"{mlflow} server --backend-store-uri {shown}"
    return f"{mlflow} runs describe --run-id {run_id}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow from writing to the terminal and from waiting for minutes.

    These settings are read from the environment, some of them on MLflow's first import; those that
    the user made win.
    """
    wanted = {
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # Training data stays here: no usage reports to MLflow's makers.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow's own 7 retries take 4 minutes to find that a server is not there.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    }
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
