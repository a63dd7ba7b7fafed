"""Anthropic's batches: what is sent, and how one is found that has no name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from router.errors import ProviderError
from router.providers.anthropic import AnthropicProvider
from router.providers.base import Prompt
from router.providers.batching import BatchItem, BatchProvider
from tests.router.providers.batch_setups import ids, items
from tests.router.providers.setups import KEY
from tests.wire.anthropic_batch_server import AnthropicBatchServer

MODEL = "claude-haiku-4-5"
LONG = {"role": "system", "content": "You answer questions about museums. " * 900}


@pytest.fixture(scope="module")
def running() -> Iterator[AnthropicBatchServer]:
    with AnthropicBatchServer() as server:
        yield server


@pytest.fixture
def server(running: AnthropicBatchServer) -> Iterator[AnthropicBatchServer]:
    yield running
    running.reset()


@pytest.fixture
def provider(server: AnthropicBatchServer) -> Iterator[AnthropicProvider]:
    made = AnthropicProvider(KEY, base_url=server.url)
    yield made
    made.close()


def lose(server: AnthropicBatchServer, provider: AnthropicProvider, given: list[BatchItem]) -> str:
    """Hand in without an answer; the id that the caller is not told."""
    server.cut("create")
    with pytest.raises(ProviderError):
        provider.submit_batch(MODEL, given, key="job")
    return next(reversed(server.batches))


def test_it_keeps_the_protocol() -> None:
    assert isinstance(AnthropicProvider(KEY), BatchProvider)


def test_a_row_is_what_a_single_call_sends(
    server: AnthropicBatchServer, provider: AnthropicProvider
) -> None:
    prompt = Prompt(
        (LONG, {"role": "user", "content": "Où est le Louvre?"}),
        options={"extra_body": {"service_tier": "auto"}},
    )
    provider.complete(MODEL, prompt)
    single = server.last.json
    single.pop("stream")
    item = BatchItem("c0", prompt)
    batch_id = provider.submit_batch(MODEL, [item], key="job")
    assert server.batches[batch_id].requests == {"c0": single}
    assert single["service_tier"] == "auto" and single["system"][0]["cache_control"]
    # What a prompt adds, and the two brackets around all of them.
    body = server.last.body
    assert len(body) == len(b'{"requests":[') + provider.batch_bytes(MODEL, item) - 1 + len(b"]}")


def test_the_only_one_that_runs_is_taken_for_ours(
    server: AnthropicBatchServer, provider: AnthropicProvider
) -> None:
    since = datetime.now(UTC)
    provider.submit_batch(MODEL, items(4, "more"), key="other")
    mine = lose(server, provider, items(3))
    assert provider.find_batch("job", ids(items(3)), since=since) == mine


def test_of_several_that_run_none_is_chosen_until_one_has_ended(
    server: AnthropicBatchServer, provider: AnthropicProvider
) -> None:
    since = datetime.now(UTC)
    other = provider.submit_batch(MODEL, items(3, "other"), key="other")
    mine = lose(server, provider, items(3))
    with pytest.raises(ProviderError, match="2") as caught:
        provider.find_batch("job", ids(items(3)), since=since)
    assert caught.value.kind == "outage" and caught.value.retry_after_s == 300
    assert not caught.value.billed
    # The other one is told from its results, and the one that is left is ours.
    server.finish(other, reverse=True)
    assert provider.find_batch("job", ids(items(3)), since=since) == mine
    server.finish(mine, reverse=True)
    assert provider.find_batch("job", ids(items(3)), since=since) == mine


def test_ours_is_settled_while_another_runs(
    server: AnthropicBatchServer, provider: AnthropicProvider
) -> None:
    since = datetime.now(UTC)
    mine = lose(server, provider, items(3))
    provider.submit_batch(MODEL, items(3, "other"), key="other")
    server.finish(mine)
    assert provider.find_batch("job", ids(items(3)), since=since) == mine


def test_one_that_ended_and_is_not_ours_is_not_taken(
    server: AnthropicBatchServer, provider: AnthropicProvider
) -> None:
    since = datetime.now(UTC)
    provider.submit_batch(MODEL, items(3, "other"), key="other")
    server.finish(garbage=[b"no json"])
    assert provider.find_batch("job", ids(items(3)), since=since) is None


@pytest.mark.parametrize("skew_s", [-500.0, 0.0, 500.0])
def test_one_made_before_is_not_taken_whatever_the_clocks(
    server: AnthropicBatchServer, provider: AnthropicProvider, skew_s: float
) -> None:
    server.clock_skew_s = skew_s
    older = provider.submit_batch(MODEL, items(3), key="older")
    server.batches[older].created_at -= 5
    since = datetime.now(UTC)
    assert provider.find_batch("job", ids(items(3)), since=since) is None
    mine = lose(server, provider, items(3))
    assert provider.find_batch("job", ids(items(3)), since=since) == mine


def test_results_that_are_gone_are_not_no_results(
    server: AnthropicBatchServer, provider: AnthropicProvider
) -> None:
    batch_id = provider.submit_batch(MODEL, items(3), key="job")
    server.finish(batch_id)
    server.has_archived = True
    with pytest.raises(ProviderError, match="29 days") as caught:
        list(provider.batch_results(batch_id))
    assert caught.value.kind == "refused"
    assert provider.find_batch("job", ids(items(3)), since=datetime.now(UTC)) is None
