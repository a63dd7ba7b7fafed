"""Google's batches: what is sent, what is found again, what its states and rows mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from router.errors import InputError, ProviderError
from router.providers.base import CacheMarks, Prompt
from router.providers.batching import BatchItem, BatchProvider
from router.providers.google import GoogleProvider
from tests.router.providers.batch_setups import ids, items, kinds
from tests.router.providers.setups import KEY, QUESTION
from tests.wire.google_batch_server import GoogleBatchServer
from tests.wire.openai_server import tool_call

MODEL = "gemini-2.5-flash"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def running() -> Iterator[GoogleBatchServer]:
    with GoogleBatchServer() as server:
        yield server


@pytest.fixture
def server(running: GoogleBatchServer) -> Iterator[GoogleBatchServer]:
    yield running
    running.reset()


@pytest.fixture
def provider(server: GoogleBatchServer) -> Iterator[GoogleProvider]:
    made = GoogleProvider(KEY, base_url=server.url)
    yield made
    made.close()


def test_only_the_api_that_takes_files_keeps_the_protocol() -> None:
    assert isinstance(GoogleProvider(KEY), BatchProvider)
    assert not isinstance(GoogleProvider(vertexai=True, project="p"), BatchProvider)


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        (QUESTION.messages, {}),
        (({"role": "user", "content": "Où?\u2028"},), {"top_p": 0.5, "stop_sequences": ["x"]}),
        (
            (
                {"role": "user", "content": "And in Paris?"},
                {"role": "assistant", "content": None, "tool_calls": [tool_call("weather", "{}")]},
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            ),
            {"thinking_config": {"thinking_budget": 0}},
        ),
        (
            (
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,+/8="},
                        },
                    ],
                },
            ),
            {
                "response_mime_type": "application/json",
                "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
                "safety_settings": [
                    {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
                ],
                "tool_config": {"function_calling_config": {"mode": "AUTO"}},
            },
        ),
    ],
)
def test_a_row_is_what_a_single_call_sends(
    server: GoogleBatchServer,
    provider: GoogleProvider,
    messages: tuple[dict[str, Any], ...],
    options: dict[str, Any],
) -> None:
    prompt = Prompt(
        messages, tools=(WEATHER,), max_output_tokens=9, temperature=0.5, options=options
    )
    provider.complete(MODEL, prompt)
    single = server.last.json
    batch_id = provider.submit_batch(MODEL, [BatchItem("c0", prompt)], key="job-1")
    assert server.batches[batch_id].requests == {"c0": single}


def test_an_explicit_cache_is_not_made_for_a_batch(
    server: GoogleBatchServer, provider: GoogleProvider
) -> None:
    long = {"role": "system", "content": "You answer questions about museums. " * 2000}
    prompt = Prompt((long, *QUESTION.messages), cache=CacheMarks(explicit=True))
    batch_id = provider.submit_batch(MODEL, [BatchItem("c0", prompt)], key="job-1")
    assert server.caches == {}
    assert "museums" in json.dumps(server.batches[batch_id].requests["c0"])


def test_the_file_is_as_long_as_was_said(
    server: GoogleBatchServer, provider: GoogleProvider
) -> None:
    provider.submit_batch(MODEL, items(), key="job-1")
    (file,) = server.files.values()
    assert len(file.content) == sum(provider.batch_bytes(MODEL, item) for item in items())
    assert file.display_name == "job-1.jsonl"


def test_an_upload_whose_batch_was_never_made_is_used(
    server: GoogleBatchServer, provider: GoogleProvider
) -> None:
    since = datetime.now(UTC)
    server.fail("create")
    with pytest.raises(ProviderError):
        provider.submit_batch(MODEL, items(), key="job-1")
    server.cut("upload")
    with pytest.raises(ProviderError) as caught:
        provider.submit_batch(MODEL, items(), key="job-2")
    assert not caught.value.billed  # there cannot be a batch of it
    assert provider.find_batch("job-1", ids(items()), since=since) is None
    server.empty_first_page = True
    for key in ("job-1", "job-2"):
        provider.submit_batch(MODEL, items(), key=key)
        assert provider.find_batch(key, ids(items()), since=since) == server.batch_of(key).id
    assert server.calls.count("upload") == 2
    # Another content under the same name is another file, and so is one that is soon gone.
    provider.submit_batch(MODEL, items(6), key="job-1")
    assert server.calls.count("upload") == 3
    for file in server.files.values():
        file.created_at -= 90_000
    provider.submit_batch(MODEL, items(6), key="job-1")
    assert server.calls.count("upload") == 4


@pytest.mark.parametrize(
    ("wire", "state"),
    [
        ("UNSPECIFIED", "running"),
        ("PENDING", "running"),
        ("RUNNING", "running"),
        ("SUCCEEDED", "ended"),
        ("PARTIALLY_SUCCEEDED", "ended"),
        ("FAILED", "failed"),
        ("CANCELLED", "cancelled"),
        ("EXPIRED", "expired"),
    ],
)
@pytest.mark.filterwarnings("ignore:BATCH_STATE_PARTIALLY_SUCCEEDED is not a valid JobState")
def test_what_a_state_means(
    server: GoogleBatchServer, provider: GoogleProvider, wire: str, state: str
) -> None:
    batch_id = provider.submit_batch(MODEL, items(), key="job-1")
    server.batches[batch_id].shown.append(wire)
    assert provider.batch_status(batch_id).state == state


@pytest.mark.filterwarnings("ignore:BATCH_STATE_ASLEEP is not a valid JobState")
def test_a_state_nobody_knows_is_no_state(
    server: GoogleBatchServer, provider: GoogleProvider
) -> None:
    batch_id = provider.submit_batch(MODEL, items(), key="job-1")
    server.batches[batch_id].shown.append("ASLEEP")
    with pytest.raises(ProviderError) as caught:
        provider.batch_status(batch_id)
    assert caught.value.kind == "malformed"


def test_fields_that_the_sdk_does_not_know_are_no_reason_to_lose_an_answer(
    server: GoogleBatchServer, provider: GoogleProvider
) -> None:
    batch_id = provider.submit_batch(MODEL, items(1), key="job-1")
    server.finish(batch_id)
    batch = server.batches[batch_id]
    row = json.loads(batch.answers[0])
    row["response"]["newField"] = {"a": 1}
    row["response"]["candidates"][0]["newerField"] = 2
    batch.answers = [json.dumps(row).encode()]
    assert kinds(provider.batch_results(batch_id)) == {"c0": "answer"}


def test_options_that_the_sdk_does_not_take_are_refused_without_showing_them(
    server: GoogleBatchServer, provider: GoogleProvider
) -> None:
    prompt = Prompt(QUESTION.messages, options={"temprature": "secret"})
    with pytest.raises(InputError, match="'c0'") as caught:
        provider.submit_batch(MODEL, [BatchItem("c0", prompt)], key="job-1")
    assert "secret" not in str(caught.value) and caught.value.__context__ is None
    assert server.calls == []
    single = Prompt(QUESTION.messages, options={"http_options": {"headers": {"x": "y"}}})
    with pytest.raises(InputError, match="http_options"):
        provider.batch_bytes(MODEL, BatchItem("c0", single))


def test_more_than_fits_into_memory_comes_through_a_file(
    server: GoogleBatchServer, provider: GoogleProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.providers.google_batch._MAX_IN_MEMORY_BYTES", 1000)
    batch_id = provider.submit_batch(MODEL, items(50), key="job-1")
    server.finish(batch_id)
    results = provider.batch_results(batch_id)
    assert next(results).custom_id == "c0"
    assert len(list(results)) == 49
    abandoned = provider.batch_results(batch_id)
    next(abandoned)
    del abandoned  # warnings are errors: the file is closed


def test_a_batch_is_promised_within_a_day() -> None:
    """Google's target; only its expiry is later."""
    assert GoogleProvider(api_key="k").batch_limits.turnaround_s == 86_400.0
