"""MLflow traces: one request per trace, read page by page from a tracking store.

Fields (mlflow.org: Trace, and the keys of its trace_metadata):

=====================  ===================================================================
outcome                trace
=====================  ===================================================================
request_id             info.trace_id
query                  inputs of the root span (the request)
model                  mlflow.llm.model of its spans, which must be one
cost_usd               trace_metadata mlflow.trace.cost, total_cost
tokens                 trace_metadata mlflow.trace.tokenUsage: input_tokens, output_tokens,
                       cache_read_input_tokens, cache_creation_input_tokens
at, latency_s          request_time, execution_duration
session_id             trace_metadata mlflow.trace.session
our own keys           trace_metadata, else tags (text in both)
=====================  ===================================================================

Feedback is in the trace's assessments; what a person gave (source_type HUMAN) goes first,
expectations and what was overridden do not count.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router.errors import CpsRouterError, InputError, MissingExtraError, OutcomeError
from router.outcomes import number_of
from training.experiment import masked, quiet, reason_of
from training.importers.core import Call, Item
from training.importers.fields import (
    FAILED,
    Object,
    as_list,
    as_object,
    cost_of,
    first,
    marks,
    tokens,
)
from training.importers.messages import query_of
from training.importers.verdicts import Judgement, Rule, resolve

SEVERAL_MODELS = "its calls went to several models"

_PAGE = 100
_SQLITE = "sqlite:///"


def read_calls(source: str, rule: Rule, experiment: str | None) -> Iterator[Item]:
    """The traces of an experiment (of all, where none is named), oldest first.

    Raises:
        InputError: the store or the experiment does not exist.
        CpsRouterError: the store could not be read.
    """
    for position, trace in enumerate(read_traces(source, experiment), start=1):
        trace_id = as_object(trace.get("info")).get("trace_id")
        try:
            yield Item(position, call_of(trace, rule), trace_id)
        except OutcomeError as error:
            yield Item(position, error, trace_id)


def call_of(trace: Object, rule: Rule) -> Call | None:
    """One trace, as MLflow writes it out; None where it asked no model.

    Raises:
        OutcomeError: it cannot be mapped.
    """
    info = as_object(trace.get("info"))
    metadata, tags = as_object(info.get("trace_metadata")), as_object(info.get("tags"))
    spans = [as_object(span) for span in as_list(as_object(trace.get("data")).get("spans"))]
    models = {model for span in spans if isinstance(model := _attribute(span, "llm.model"), str)}
    usage = as_object(metadata.get("mlflow.trace.tokenUsage"))
    if not models and not usage:
        return None
    if info.get("state") not in (None, "OK"):
        raise OutcomeError(FAILED)
    if len(models) > 1:
        raise OutcomeError(SEVERAL_MODELS)
    counts = tokens(
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        usage.get("cache_read_input_tokens"),
        usage.get("cache_creation_input_tokens"),
    )
    cost = as_object(metadata.get("mlflow.trace.cost")).get("total_cost")
    return Call(
        {
            **marks(metadata, tags),
            **counts,
            "request_id": info.get("trace_id"),
            "query": query_of(_request(spans)),
            "model": next(iter(models), None),
            "cost_usd": cost_of(cost, counts),
            "session_id": metadata.get("mlflow.trace.session"),
            "at": info.get("request_time"),
            "latency_s": _latency(info.get("execution_duration_ms")),
        },
        resolve(map(_judgement, _feedback(info)), rule),
    )


def read_traces(source: str, experiment: str | None) -> Iterator[dict[str, Any]]:
    """Traces as MLflow writes them out (`Trace.to_dict`), a page in memory at a time.

    Raises:
        InputError: the store or the experiment does not exist.
        CpsRouterError: the store could not be read.
    """
    uri = _uri(source)
    try:
        with quiet():
            from mlflow import MlflowClient
    except ModuleNotFoundError:
        raise MissingExtraError("mlflow", "train", "reading MLflow traces") from None
    try:
        with quiet():
            client = MlflowClient(tracking_uri=uri)
            locations = _experiments(client, experiment, uri)
        for location in locations:
            token = None
            while True:
                with quiet():
                    page = client.search_traces(
                        locations=[location],
                        max_results=_PAGE,
                        order_by=["timestamp_ms ASC"],
                        page_token=token,
                    )
                # Spans are fetched by several threads: the page may come in another order.
                page_traces = sorted(page, key=lambda t: (t.info.request_time, t.info.trace_id))
                yield from (trace.to_dict() for trace in page_traces)
                token = page.token
                if not token:
                    break
    except CpsRouterError:
        raise
    except Exception as error:
        # Whatever a store raises (MLflow's, SQLAlchemy's, requests' errors) means the same here.
        raise CpsRouterError(
            f"expected to read traces from {masked(uri)}, got {reason_of(error)}: check the "
            "address of the store."
        ) from error


def _uri(source: str) -> str:
    """The tracking URI of a source: a URI, or the path of a SQLite database.

    MLflow would make a database that is not there, and its tables in one that is not its own.
    """
    path = Path(source.removeprefix(_SQLITE))
    if "://" in source and not source.startswith(_SQLITE):
        return source
    if not path.is_file():
        raise InputError(
            f"expected a tracking URI or the path of an MLflow database, found no file at {path}: "
            "check the path."
        )
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as database:
            query = "SELECT count(*) FROM sqlite_master WHERE name = 'trace_info'"
            (known,) = database.execute(query).fetchone()
    except sqlite3.Error:
        known = 0
    if not known:
        raise InputError(f"expected an MLflow database at {path}, got something else: check it.")
    return f"{_SQLITE}{path.resolve()}"


def _experiments(client: Any, name: str | None, uri: str) -> list[str]:
    if name is not None:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise InputError(
                f"expected the experiment {name!r} in {masked(uri)}, it has none of that name: "
                "check --experiment."
            )
        return [str(found.experiment_id)]
    ids: list[str] = []
    token = None
    while True:
        page = client.search_experiments(order_by=["experiment_id ASC"], page_token=token)
        ids += [str(experiment.experiment_id) for experiment in page]
        token = page.token
        if not token:
            return ids


def _request(spans: list[Object]) -> object:
    """What the root span was given."""
    for span in spans:
        if first(span, "parent_span_id", "parent_id") is None:
            return _attribute(span, "spanInputs")
    return None


def _attribute(span: Object, name: str) -> object:
    """An attribute of MLflow's; they are JSON as text."""
    value = as_object(span.get("attributes")).get(f"mlflow.{name}")
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _latency(milliseconds: object) -> float | None:
    duration = number_of(milliseconds, "latency_s")
    return None if duration is None else duration / 1000


def _feedback(info: Object) -> Iterator[Object]:
    for item in as_list(info.get("assessments")):
        assessment = as_object(item)
        feedback = as_object(assessment.get("feedback"))
        if feedback and assessment.get("valid") is not False and not feedback.get("error"):
            yield assessment


def _judgement(assessment: Object) -> Judgement:
    return Judgement(
        name=assessment.get("assessment_name"),
        value=as_object(assessment.get("feedback")).get("value"),
        at=first(assessment, "last_update_time", "create_time"),
        human=as_object(assessment.get("source")).get("source_type") == "HUMAN",
    )
