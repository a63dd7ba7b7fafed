"""OpenAI's batches: a file of requests goes up, a batch is made of it, files of results come down.

A batch is found again by our key in its metadata. An upload whose batch was never made is found by
its name, which is the key too, and used rather than uploaded again.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from router.providers.base import Answer
from router.providers.batch_calls import BatchCalls, all_before, batch_body, is_since, json_line
from router.providers.batching import (
    BatchItem,
    BatchLimits,
    BatchResult,
    BatchState,
    BatchStatus,
)
from router.providers.failures import UnreadableError
from router.providers.sdk import DEFAULT_TIMEOUT_S

ENDPOINT = "/v1/chat/completions"
# The API allows 200 MB, and does not say of what size; the rest is room.
LIMITS = BatchLimits(max_items=50_000, max_bytes=190_000_000)
KEY_NAME = "cps_router_key"
_PAGE_SIZE = 100
_STATES: dict[str, BatchState] = {
    **dict.fromkeys(("validating", "in_progress", "finalizing", "cancelling"), "running"),
    "completed": "ended",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}


class OpenAIBatches(BatchCalls):
    """The batch half of ``OpenAIProvider``; keeps the protocol in ``batching``."""

    def batch_bytes(self, model: str, item: BatchItem) -> int:
        """How many bytes a prompt adds to the uploaded file."""
        return len(self._batch_line(model, item))

    def submit_batch(self, model: str, items: Sequence[BatchItem], *, key: str) -> str:
        """Hand a batch in; returns the provider's id of it.

        Raises:
            ProviderError: whatever went wrong; ``billed`` where the batch may have been made.
            InputError: a prompt cannot be sent.
        """
        content = b"".join(self._batch_line(model, item) for item in items)
        file_id = self._uploaded(key, len(content)) or self._upload(key, content)

        def create(client: Any) -> str:
            batch = client.batches.create(
                input_file_id=file_id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={KEY_NAME: key},
                timeout=DEFAULT_TIMEOUT_S,
            )
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
        """The id of the newest batch with this key, None where there is none."""

        def find(client: Any) -> str | None:
            pages = client.batches.list(limit=_PAGE_SIZE, timeout=DEFAULT_TIMEOUT_S).iter_pages()
            for page in pages:
                batches = page.data or []
                for batch in batches:
                    # A key may be an older batch's too, as of a ledger that is there no more.
                    is_ours = (batch.metadata or {}).get(KEY_NAME) == key
                    if is_ours and is_since(batch.created_at, since) and _id(batch) not in known:
                        return _id(batch)
                if all_before([batch.created_at for batch in batches], since):
                    break
            return None

        return self._batch_call(find)

    def batch_status(self, batch_id: str) -> BatchStatus:
        """Where it stands."""

        def status(client: Any) -> BatchStatus:
            batch = client.batches.retrieve(batch_id, timeout=DEFAULT_TIMEOUT_S)
            if batch.status not in _STATES:
                raise UnreadableError("status")
            counts = batch.request_counts
            return BatchStatus(
                _STATES[batch.status],
                # Zero until the file was checked.
                n_items=(counts.total if counts is not None else None) or None,
                n_done=counts.completed if counts is not None else 0,
                n_failed=counts.failed if counts is not None else 0,
                ended_at=_ended_at(batch),
            )

        return self._batch_call(status)

    def batch_results(self, batch_id: str) -> Iterator[BatchResult]:
        """What has come, answers first, else in any order; nothing while the batch runs.

        A prompt may be missing, or come twice: as many rows come as the provider's files have.
        """
        batch = self._batch_call(
            lambda client: client.batches.retrieve(batch_id, timeout=DEFAULT_TIMEOUT_S)
        )
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                yield from self._batch_rows(self._lines(file_id), "custom_id", self._row_answer)

    def cancel_batch(self, batch_id: str) -> None:
        """Ask for an end; a batch that has ended stays as it is."""
        self._cancel(
            lambda client: client.batches.cancel(batch_id, timeout=DEFAULT_TIMEOUT_S), batch_id
        )

    # Requests.

    def _batch_line(self, model: str, item: BatchItem) -> bytes:
        row = {
            "custom_id": item.custom_id,
            "method": "POST",
            "url": ENDPOINT,
            "body": batch_body(item, self._request(model, item.prompt)),
        }
        return json_line(item.custom_id, row)

    def _upload(self, key: str, content: bytes) -> str:
        return self._batch_call(
            lambda client: _id(
                client.files.create(
                    file=(_file_name(key), io.BytesIO(content), "application/jsonl"),
                    purpose="batch",
                    timeout=DEFAULT_TIMEOUT_S,
                )
            )
        )

    def _uploaded(self, key: str, n_bytes: int) -> str | None:
        """The id of a file that an earlier hand-in has uploaded in full."""

        def find(client: Any) -> str | None:
            files = client.files.list(purpose="batch", order="desc", timeout=DEFAULT_TIMEOUT_S)
            for file in files:
                if (
                    file.filename == _file_name(key)
                    and file.bytes == n_bytes
                    and file.status != "error"
                ):
                    return _id(file)
            return None

        return self._batch_call(find)

    # Results.

    def _lines(self, file_id: str) -> Iterator[bytes]:
        @contextmanager
        def chunks(client: Any) -> Iterator[Iterable[bytes]]:
            streamed = client.files.with_streaming_response
            with streamed.content(file_id, timeout=DEFAULT_TIMEOUT_S) as response:
                yield response.iter_bytes()

        return self._batch_lines(chunks)

    def _row_answer(self, row: Mapping[str, Any]) -> Answer:
        response = row.get("response")
        if not isinstance(response, Mapping):
            error = row.get("error")
            code = error.get("code") if isinstance(error, Mapping) else None
            raise self._row_failure(type=code)
        if response.get("status_code") != 200:
            raise self._row_failure(status=response.get("status_code"))
        completion = self._sdk().types.chat.ChatCompletion.construct(**response["body"])
        return self._answer(completion)


def _file_name(key: str) -> str:
    return f"{key}.jsonl"


def _ended_at(batch: Any) -> datetime | None:
    at = getattr(batch, f"{batch.status}_at", None) if _STATES[batch.status] != "running" else None
    return datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else None


def _id(made: Any) -> str:
    if not isinstance(made.id, str) or not made.id:
        raise UnreadableError("id")
    return made.id
