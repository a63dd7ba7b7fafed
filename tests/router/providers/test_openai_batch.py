"""OpenAI's batches: what is sent, what is found again, what its rows mean."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from router.errors import ProviderError
from router.providers.base import CacheMarks, Prompt
from router.providers.batching import BatchItem, BatchProvider
from router.providers.deepseek import DeepSeekProvider
from router.providers.openai import OpenAIProvider
from tests.router.providers.setups import KEY, QUESTION
from tests.wire.openai_batch_server import OpenAIBatchServer

LONG = {"role": "system", "content": "You answer questions about museums. " * 300}


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIBatchServer]:
    with OpenAIBatchServer() as server:
        yield server


@pytest.fixture
def server(running: OpenAIBatchServer) -> Iterator[OpenAIBatchServer]:
    yield running
    running.reset()


@pytest.fixture
def provider(server: OpenAIBatchServer) -> Iterator[OpenAIProvider]:
    made = OpenAIProvider(KEY, base_url=server.url)
    yield made
    made.close()


def items(n_items: int = 3) -> list[BatchItem]:
    return [BatchItem(f"c{i}", QUESTION) for i in range(n_items)]


def test_only_who_takes_batches_keeps_the_protocol() -> None:
    assert isinstance(OpenAIProvider(KEY), BatchProvider)
    assert isinstance(OpenAIProvider(KEY, id="groq", batches=True), BatchProvider)
    assert not isinstance(OpenAIProvider(KEY, id="groq"), BatchProvider)
    assert not isinstance(OpenAIProvider(KEY, batches=False), BatchProvider)
    assert not isinstance(DeepSeekProvider(KEY), BatchProvider)


def test_a_row_is_what_a_single_call_sends(
    server: OpenAIBatchServer, provider: OpenAIProvider
) -> None:
    prompt = Prompt(
        (LONG, {"role": "user", "content": "Où est le Louvre?\u2028"}),
        max_output_tokens=9,
        cache=CacheMarks(key="k", explicit=True),
        options={"stream": False, "extra_body": {"verbosity": "low"}},
    )
    provider.complete("gpt-6-luna", prompt)
    single = server.last.json
    single.pop("stream")
    batch_id = provider.submit_batch("gpt-6-luna", [BatchItem("c0", prompt)], key="job-1")
    assert server.batches[batch_id].requests == {"c0": single}
    assert single["verbosity"] == "low" and single["prompt_cache_options"]["mode"] == "explicit"


def test_the_file_is_as_long_as_was_said(
    server: OpenAIBatchServer, provider: OpenAIProvider
) -> None:
    provider.submit_batch("gpt-5-nano", items(), key="job-1")
    (file,) = server.files.values()
    assert len(file.content) == sum(provider.batch_bytes("gpt-5-nano", item) for item in items())
    assert (file.name, file.purpose) == ("job-1.jsonl", "batch")


def test_an_upload_whose_batch_was_never_made_is_used(
    server: OpenAIBatchServer, provider: OpenAIProvider
) -> None:
    since = datetime.now(UTC)
    server.fail("create")
    with pytest.raises(ProviderError):
        provider.submit_batch("gpt-5-nano", items(), key="job-1")
    server.cut("upload")
    with pytest.raises(ProviderError) as caught:
        provider.submit_batch("gpt-5-nano", items(), key="job-2")
    assert not caught.value.billed  # there cannot be a batch of it
    assert provider.find_batch("job-1", ["c0"], since=since) is None
    for key in ("job-1", "job-2"):
        provider.submit_batch("gpt-5-nano", items(), key=key)
    assert server.calls.count("upload") == 2
    assert len(server.files) == 2
    # Another content under the same name is another file.
    provider.submit_batch("gpt-5-nano", items(4), key="job-1")
    assert server.calls.count("upload") == 3
    assert server.n_handed_in["c3"] == 1


@pytest.mark.parametrize(
    ("wire", "state"),
    [
        ("validating", "running"),
        ("in_progress", "running"),
        ("finalizing", "running"),
        ("cancelling", "running"),
        ("completed", "ended"),
        ("failed", "failed"),
        ("expired", "expired"),
        ("cancelled", "cancelled"),
    ],
)
def test_what_a_status_means(
    server: OpenAIBatchServer, provider: OpenAIProvider, wire: str, state: str
) -> None:
    batch_id = provider.submit_batch("gpt-5-nano", items(), key="job-1")
    server.batches[batch_id].shown.append(wire)
    status = provider.batch_status(batch_id)
    assert (status.state, status.n_items) == (state, 3)


def test_a_status_nobody_knows_is_no_status(
    server: OpenAIBatchServer, provider: OpenAIProvider
) -> None:
    batch_id = provider.submit_batch("gpt-5-nano", items(), key="job-1")
    server.batches[batch_id].shown.append("asleep")
    with pytest.raises(ProviderError) as caught:
        provider.batch_status(batch_id)
    assert caught.value.kind == "malformed"


def test_the_rows_of_a_cancelled_batch_may_be_told(
    server: OpenAIBatchServer, provider: OpenAIProvider
) -> None:
    server.tells_cancelled_rows = True
    batch_id = provider.submit_batch("gpt-5-nano", items(), key="job-1")
    server.finish(batch_id, "cancelled", answered={"c0"})
    found = {result.custom_id: result for result in provider.batch_results(batch_id)}
    assert found["c0"].answer is not None
    for custom_id in ("c1", "c2"):
        error = found[custom_id].error
        assert error is not None and error.kind == "cancelled" and not error.billed


def test_a_batch_file_may_be_read_by_another_server_of_the_same_kind() -> None:
    with OpenAIBatchServer() as server:
        provider = OpenAIProvider(KEY, base_url=server.url, id="groq", batches=True)
        batch_id = provider.submit_batch("llama", items(1), key="job-1")
        body = server.batches[batch_id].requests["c0"]
        assert body["max_tokens"] == 50 and "max_completion_tokens" not in body
        provider.close()
