"""Anthropic's Message Batches: the requests go in one call, the results are one file.

A batch keeps no name of ours, so one whose hand-in was not answered is looked for by what the list
tells: when it was made and how many requests it has. Once it has ended, its results name ours, and
that settles it. While it runs, the only candidate is taken for ours: custom ids that a job derives
from its content show a mistake when the results come. Of several that run, none can be chosen.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from router.errors import ProviderError
from router.providers.base import Answer, Prompt
from router.providers.batch_calls import (
    CLOCK_SKEW_S,
    BatchCalls,
    all_before,
    batch_body,
    custom_id_of,
    json_line,
    row_of,
)
from router.providers.batching import (
    BatchItem,
    BatchLimits,
    BatchResult,
    BatchState,
    BatchStatus,
)
from router.providers.failures import UnreadableError
from router.providers.sdk import DEFAULT_TIMEOUT_S

# The API allows 256 MB, and does not say of what size; the rest is room.
LIMITS = BatchLimits(max_items=100_000, max_bytes=240_000_000, keeps_keys=False)
_PAGE_SIZE = 100
_RUNNING = ("in_progress", "canceling")
# When to look again where several running batches may be ours.
_LOOK_AGAIN_S = 300.0


class AnthropicBatches(BatchCalls):
    """The batch half of ``AnthropicProvider``; keeps the protocol in ``batching``."""

    batch_limits = LIMITS

    def batch_bytes(self, model: str, item: BatchItem) -> int:
        """How many bytes a prompt adds to the request that hands the batch in."""
        return len(json_line(item.custom_id, self._batch_request(model, item)))

    def submit_batch(self, model: str, items: Sequence[BatchItem], *, key: str) -> str:
        """Hand a batch in; returns the provider's id of it. The API has no place for the key.

        Raises:
            ProviderError: whatever went wrong; ``billed`` where the batch may have been made.
            InputError: a prompt cannot be sent.
        """
        requests = [self._batch_request(model, item) for item in items]
        for request in requests:
            json_line(request["custom_id"], request)  # refuses what the SDK could not write

        def create(client: Any) -> str:
            batch = client.messages.batches.create(requests=requests, timeout=DEFAULT_TIMEOUT_S)
            return _id(batch)

        return self._batch_call(create, may_cost=True)

    def find_batch(
        self,
        key: str,
        custom_ids: Collection[str],
        *,
        since: datetime,
        known: Collection[str] = (),
    ) -> str | None:
        """The id of a batch made since then that is ours, or may be; None where there is none.

        Raises:
            ProviderError: whatever went wrong; "outage" where several that run may be ours, which
                is settled when they end.
        """
        found = self._batch_call(lambda client: list(_made_since(client, since, len(custom_ids))))
        candidates = [batch for batch in found if _id(batch) not in known]
        running = [batch for batch in candidates if batch.processing_status in _RUNNING]
        for batch in candidates:
            if batch not in running and self._first_custom_id(batch) in custom_ids:
                return _id(batch)
        if len(running) > 1:
            raise ProviderError(
                f"expected at most one running batch at {self.id} that may be the one looked for, "
                f"got {len(running)}: look again when one of them has ended.",
                kind="outage",
                retry_after_s=_LOOK_AGAIN_S,
            )
        return _id(running[0]) if running else None

    def batch_status(self, batch_id: str) -> BatchStatus:
        """Where it stands; "cancelled" and "expired" where some prompts were."""

        def status(client: Any) -> BatchStatus:
            batch = client.messages.batches.retrieve(batch_id, timeout=DEFAULT_TIMEOUT_S)
            counts = batch.request_counts
            state: BatchState
            if batch.processing_status in _RUNNING:
                state = "running"
            elif batch.processing_status != "ended":
                raise UnreadableError("status")
            elif counts.canceled:
                state = "cancelled"
            else:
                state = "expired" if counts.expired else "ended"
            return BatchStatus(
                state,
                n_items=_n_requests(batch),
                n_done=counts.succeeded,
                n_failed=counts.errored + counts.canceled + counts.expired,
                ended_at=None if state == "running" else batch.ended_at,
            )

        return self._batch_call(status)

    def batch_results(self, batch_id: str) -> Iterator[BatchResult]:
        """What has come, in any order; nothing while the batch runs.

        A prompt may be missing, or come twice: as many rows come as the provider's file has.
        """
        batch = self._batch_call(
            lambda client: client.messages.batches.retrieve(batch_id, timeout=DEFAULT_TIMEOUT_S)
        )
        if batch.results_url:
            yield from self._batch_rows(self._lines(batch_id), "custom_id", self._row_answer)
        elif batch.processing_status not in _RUNNING:
            raise ProviderError(
                f"expected the results of a batch at {self.id}, got none any more: Anthropic keeps "
                "them for 29 days, so hand in again what is still wanted.",
                kind="refused",
            )

    def cancel_batch(self, batch_id: str) -> None:
        """Ask for an end; a batch that has ended stays as it is."""
        self._cancel(
            lambda client: client.messages.batches.cancel(batch_id, timeout=DEFAULT_TIMEOUT_S),
            batch_id,
        )

    def _item_request(self, model: str, prompt: Prompt) -> Mapping[str, Any]:
        """The arguments of the SDK's call for a prompt in a batch."""
        return self._request(model, prompt)

    def _batch_request(self, model: str, item: BatchItem) -> dict[str, Any]:
        params = batch_body(item, self._item_request(model, item.prompt))
        return {"custom_id": item.custom_id, "params": params}

    def _lines(self, batch_id: str) -> Iterator[bytes]:
        @contextmanager
        def chunks(client: Any) -> Iterator[Iterable[bytes]]:
            # The SDK's own reader of lines gives up at one that is no JSON.
            streamed = client.messages.batches.with_streaming_response
            with streamed.results(batch_id, timeout=DEFAULT_TIMEOUT_S) as response:
                yield response.iter_bytes()

        return self._batch_lines(chunks)

    def _first_custom_id(self, batch: Any) -> str | None:
        if not batch.results_url:
            return None
        with closing(self._lines(_id(batch))) as lines:  # type: ignore[type-var]
            for line in lines:
                row = row_of(line)
                custom_id = custom_id_of(line) if row is None else row.get("custom_id")
                if isinstance(custom_id, str):
                    return custom_id
        return None

    def _row_answer(self, row: Mapping[str, Any]) -> Answer:
        result = row["result"]
        if result["type"] == "succeeded":
            return self._answer(self._sdk().types.Message.construct(**result["message"]))
        if result["type"] == "errored":
            raise self._row_failure(type=result["error"]["error"]["type"])
        raise self._row_failure(type=result["type"])


def _made_since(client: Any, since: datetime, n_requests: int) -> Iterator[Any]:
    """The batches of so many requests that were made since then, by the server's clock."""
    reply = client.messages.batches.with_raw_response.list(
        limit=_PAGE_SIZE, timeout=DEFAULT_TIMEOUT_S
    )
    ahead_s = _clock_ahead_s(reply.headers.get("date"), time.time())
    earliest = since.timestamp() + ahead_s
    for page in reply.parse().iter_pages():
        times = [batch.created_at.timestamp() for batch in page.data or []]
        for batch, created_at in zip(page.data or [], times, strict=True):
            if created_at >= earliest and _n_requests(batch) == n_requests:
                yield batch
        if all_before(times, since, skew_s=-ahead_s):
            break


def _clock_ahead_s(date: str | None, now: float) -> float:
    """How far the server's clock is ahead, at least; from the date of its reply as it comes.

    A batch of somebody else's that was made shortly before shall not be taken for ours, so the
    clocks are compared rather than much room left.

    >>> _clock_ahead_s("Tue, 24 Nov 2026 12:00:10 GMT", 1795521600.0)
    9.0
    """
    try:
        # One second for what its times leave out.
        return parsedate_to_datetime(date or "").timestamp() - now - 1.0
    except ValueError:
        return -CLOCK_SKEW_S


def _n_requests(batch: Any) -> int:
    counts = batch.request_counts
    n_ended: int = counts.succeeded + counts.errored + counts.canceled + counts.expired
    return n_ended + int(counts.processing)


def _id(made: Any) -> str:
    if not isinstance(made.id, str) or not made.id:
        raise UnreadableError("id")
    return made.id
