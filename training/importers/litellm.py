"""LiteLLM: its StandardLoggingPayload as JSON lines, or the table LiteLLM_SpendLogs.

Fields (docs.litellm.ai/docs/proxy/logging_spec, and the proxy's schema for the table):

=====================  ===================================================================
outcome                StandardLoggingPayload / SpendLogs
=====================  ===================================================================
request_id             id / request_id
query                  messages; in newer tables proxy_server_request
model                  model, without the prefix that repeats custom_llm_provider
cost_usd               response_cost / spend
input, output tokens   prompt_tokens (cached ones included), completion_tokens
cached, written        metadata.usage_object: prompt_tokens_details.cached_tokens or
                       cache_read_input_tokens; cache_creation_input_tokens
at, latency_s          startTime, endTime
session_id             session_id, else trace_id
our own keys           metadata, and in it spend_logs_metadata and requester_metadata
=====================  ===================================================================

Prompts are only there if the proxy stored them. LiteLLM has no field for feedback: it comes from a
file of its own, joined on the id or on litellm_call_id (the header x-litellm-call-id).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from router.errors import InputError, OutcomeError
from training.importers.core import Call, Item
from training.importers.fields import (
    FAILED,
    Object,
    as_object,
    cost_of,
    first,
    key_of,
    latency_of,
    marks,
    parsed,
    tokens,
)
from training.importers.messages import query_of
from training.importers.records import read_records
from training.importers.verdicts import Judgement, Rule, Verdicts, most_specific

NOT_STORED = "no prompt: the proxy stores them only with store_prompts_in_spend_logs"
REDACTED = "the prompt was redacted by the proxy"
CUT = "the prompt was cut off by the proxy (MAX_STRING_LENGTH_PROMPT_IN_DB)"
FROM_CACHE = "answered from the proxy's own cache, not by the model"

_IDS = ("id", "request_id", "litellm_call_id")
_REDACTED = "redacted-by-litellm"
_CUT_MARK = "litellm_truncated"
_NO_CALLS = ("embedding", "image", "speech", "transcription", "moderation", "rerank", "file")


def read_calls(path: Path, feedback: Verdicts) -> Iterator[Item]:
    """The calls of a log, each with what the feedback says of it.

    Raises:
        InputError: the file cannot be read.
    """
    for position, row in read_records(path):
        if isinstance(row, OutcomeError):
            yield Item(position, row)
            continue
        payload = as_object(row.get("standard_logging_object")) or row
        request_id = first(payload, "id", "request_id")
        try:
            yield Item(position, call_of(payload, feedback), request_id)
        except OutcomeError as error:
            yield Item(position, error, request_id)


def call_of(row: Object, feedback: Verdicts) -> Call | None:
    """One payload or table row; None where it asked no language model.

    Raises:
        OutcomeError: it cannot be mapped.
    """
    call_type = row.get("call_type")
    if isinstance(call_type, str) and any(word in call_type for word in _NO_CALLS):
        return None
    metadata = as_object(row.get("metadata"))
    if "failure" in (row.get("status"), metadata.get("status")):
        raise OutcomeError(FAILED)
    if str(row.get("cache_hit")).lower() == "true":
        raise OutcomeError(FROM_CACHE)
    usage = as_object(metadata.get("usage_object"))
    details = as_object(usage.get("prompt_tokens_details"))
    counts = tokens(
        row.get("prompt_tokens"),
        row.get("completion_tokens"),
        first(details, "cached_tokens") or first(usage, "cache_read_input_tokens"),
        first(usage, "cache_creation_input_tokens"),
    )
    request_id = first(row, "id", "request_id")
    began = row.get("startTime")
    keys = [key_of(request_id), *_call_ids(row, metadata)]
    return Call(
        {
            **marks(
                metadata,
                metadata.get("spend_logs_metadata"),
                metadata.get("requester_metadata"),
            ),
            **counts,
            "request_id": request_id,
            "query": _query(row),
            "model": _model(row),
            "cost_usd": cost_of(first(row, "response_cost", "spend"), counts),
            "session_id": first(row, "session_id", "trace_id"),
            "at": began,
            "latency_s": latency_of(began, row.get("endTime")),
        },
        most_specific(feedback.get(key) for key in keys if key is not None),
    )


def read_feedback(path: Path, rule: Rule) -> tuple[Verdicts, dict[str, int]]:
    """Feedback by id, and counts of the rows that could not be read by reason.

    A row has ``id``, ``request_id`` or ``litellm_call_id``; ``success`` or ``score``; and may have
    ``name``, ``label``, ``at`` and ``source`` ("human" goes before others). With a threshold the
    score decides where both are given.

    Raises:
        InputError: the file cannot be read, or no row has an id.
    """
    verdicts, bad = Verdicts(rule), Counter[str]()
    for _, row in read_records(path):
        if isinstance(row, OutcomeError):
            bad[row.reason] += 1
            continue
        keys = {key for name in _IDS if (key := key_of(row.get(name)))}
        if not keys:
            bad["no id"] += 1
        by_score = rule.threshold is not None and row.get("score") is not None
        judgement = Judgement(
            name=row.get("name"),
            value=first(row, "score", "success") if by_score else first(row, "success", "score"),
            label=row.get("label"),
            at=row.get("at"),
            human=str(row.get("source")).lower() == "human",
        )
        for key in keys:
            verdicts.add(key, judgement)
    if not len(verdicts):
        raise InputError(
            f"{path}: expected feedback with id, request_id or litellm_call_id and success or "
            f"score, none of its {bad.total():,} rows has an id: name the columns so."
        )
    return verdicts, dict(bad.most_common())


def _query(row: Object) -> str:
    request = as_object(row.get("proxy_server_request"))
    body = as_object(request.get("body")) or request
    prompt = parsed(row.get("messages")) or body
    if not prompt:
        raise OutcomeError(NOT_STORED)
    if prompt is body and body.get(_CUT_MARK):
        raise OutcomeError(CUT)
    query = query_of(prompt)
    if query == _REDACTED:
        raise OutcomeError(REDACTED)
    if _CUT_MARK in query:
        raise OutcomeError(CUT)
    return query


def _model(row: Object) -> object:
    model, provider = row.get("model"), row.get("custom_llm_provider")
    if isinstance(model, str) and isinstance(provider, str) and provider:
        return model.removeprefix(f"{provider}/")
    return model


def _call_ids(row: Object, metadata: Object) -> list[str | None]:
    hidden = as_object(row.get("hidden_params"))
    return [key_of(place.get("litellm_call_id")) for place in (row, metadata, hidden)]
