"""The providers that take batches, as the tests of all of them see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from router.providers.batching import BatchItem, BatchResult
from tests.router.providers.setups import ANTHROPIC, GOOGLE, OPENAI, QUESTION, Setup
from tests.wire.anthropic_batch_server import AnthropicBatchServer
from tests.wire.batch_server import BatchControls
from tests.wire.google_batch_server import GoogleBatchServer
from tests.wire.openai_batch_server import OpenAIBatchServer


@dataclass(frozen=True)
class BatchSetup:
    """A provider, and its fake server."""

    setup: Setup
    server: Callable[[], BatchControls]
    # The wire's words for a batch that has ended, and for one that runs.
    ended: str
    running: str
    # Whether a batch that expired keeps what was answered, and tells of the rest.
    keeps_expired: bool = True


BATCH_SETUPS = [
    BatchSetup(OPENAI, OpenAIBatchServer, "completed", "in_progress"),
    BatchSetup(ANTHROPIC, AnthropicBatchServer, "ended", "in_progress"),
    BatchSetup(GOOGLE, GoogleBatchServer, "SUCCEEDED", "RUNNING", keeps_expired=False),
]


def items(n_items: int = 5, prefix: str = "c") -> list[BatchItem]:
    return [BatchItem(f"{prefix}{i}", QUESTION) for i in range(n_items)]


def ids(given: Iterable[BatchItem]) -> list[str]:
    return [item.custom_id for item in given]


def kinds(results: Iterable[BatchResult]) -> dict[str, str]:
    """Custom id to "answer" or to the kind of its error."""
    return {
        result.custom_id: "answer" if result.error is None else result.error.kind
        for result in results
    }
