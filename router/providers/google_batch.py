"""Google's batches: a file of requests goes up, a batch is made of it, a file of results comes.

Small batches could be sent inline, and their results come with the batch's status. But then the
results are reported to come without our ids, a single one that the SDK cannot read makes the whole
unreadable, and every question for the status brings them all. So there is always a file.

A batch is found again by its display name, and an upload whose batch was never made by its own.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from tempfile import SpooledTemporaryFile
from types import SimpleNamespace
from typing import Any

from router.errors import FailureKind
from router.providers.base import Answer
from router.providers.batch_calls import (
    BatchCalls,
    all_before,
    batch_body,
    is_since,
    json_line,
    unsendable,
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

# The API allows 2 GB, and limits the tokens that wait rather than the prompts. A batch is built in
# memory, and as large as the other providers' is large enough. Google aims at a day, and lets a
# batch expire after two.
LIMITS = BatchLimits(max_items=50_000, max_bytes=190_000_000)
_PAGE_SIZE = 100
# An uploaded file is kept for two days. One that goes while the batch waits is of no use.
_LEAST_LIFE = timedelta(hours=24)
# Above this, results go through a temporary file without a name rather than through memory.
_MAX_IN_MEMORY_BYTES = 32_000_000
_CHUNK_BYTES = 1 << 20
_STATES: dict[str, BatchState] = {
    **dict.fromkeys(
        ("UNSPECIFIED", "QUEUED", "PENDING", "RUNNING", "CANCELLING", "PAUSED", "UPDATING"),
        "running",
    ),
    "SUCCEEDED": "ended",
    "PARTIALLY_SUCCEEDED": "ended",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
# The codes of google.rpc.Status, which a row has in place of an HTTP status.
_KIND_OF_CODE: dict[int, FailureKind] = {
    1: "cancelled",
    **dict.fromkeys((3, 5, 6, 9, 11, 12), "refused"),
    4: "timeout",
    **dict.fromkeys((7, 16), "auth"),
    8: "rate-limit",
}


class GoogleBatches(BatchCalls):
    """The batch half of ``GoogleProvider``; keeps the protocol in ``batching``.

    An explicit cache that a prompt asks for is left out: it would have to be paid for as long as
    the batch may take.
    """

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
        file_name = self._uploaded(key, len(content)) or self._upload(key, content)

        def create(client: Any) -> str:
            config = {"display_name": key, **_limited()}
            return _name(client.batches.create(model=model, src=file_name, config=config))

        return self._batch_call(create, may_cost=True)

    def find_batch(
        self,
        key: str,
        custom_ids: Collection[str],
        *,
        since: datetime,
        known: Collection[str] = (),
    ) -> str | None:
        """The id of a batch with this key, the newest of several; None where there is none."""

        def find(client: Any) -> str | None:
            pager = client.batches.list(config={"page_size": _PAGE_SIZE, **_limited()})
            for page in _pages(pager):
                for job in page:
                    # A key may be an older batch's too, as of a ledger that is there no more.
                    if (
                        job.display_name == key
                        and is_since(_moment(job.create_time), since)
                        and _name(job) not in known
                    ):
                        return _name(job)
                if all_before([_moment(job.create_time) for job in page], since):
                    break
            return None

        return self._batch_call(find)

    def batch_status(self, batch_id: str) -> BatchStatus:
        """Where it stands; the SDK does not say how many prompts it has."""

        def status(client: Any) -> BatchStatus:
            job = _job(client, batch_id)
            state = _state(job)
            return BatchStatus(state, ended_at=None if state == "running" else job.end_time)

        return self._batch_call(status)

    def batch_results(self, batch_id: str) -> Iterator[BatchResult]:
        """What has come, in any order; nothing while the batch runs.

        A prompt may be missing, or come twice: as many rows come as the provider's file has.
        """
        job = self._batch_call(lambda client: _job(client, batch_id))
        file_name = job.dest.file_name if job.dest is not None else None
        if file_name:
            yield from self._batch_rows(self._lines(file_name), "key", self._row_answer)

    def cancel_batch(self, batch_id: str) -> None:
        """Ask for an end; a batch that has ended stays as it is."""
        self._cancel(
            lambda client: client.batches.cancel(name=batch_id, config=_limited()), batch_id
        )

    # Requests.

    def _batch_line(self, model: str, item: BatchItem) -> bytes:
        request = self._request(model, item.prompt)
        config = batch_body(item, request["shaped"].config)
        try:
            body = self._wire(request["shaped"].contents, config)
        except (TypeError, ValueError):
            body = None
        if body is None:
            # Outside the handler: the SDK's exception repeats what it could not read.
            raise unsendable(item.custom_id)
        return json_line(item.custom_id, {"key": item.custom_id, "request": body})

    def _wire(self, contents: Sequence[Any], config: Mapping[str, Any]) -> Any:
        """The request as the SDK would send it, which has no public name for that."""
        sdk = self._sdk()
        request = sdk.types.InlinedRequest(contents=list(contents), config=dict(config))
        # What it asks its client: which of Google's two APIs this is.
        api = SimpleNamespace(vertexai=False)
        wire = sdk.batches._InlinedRequest_to_mldev(api, request, {})
        common = sdk._common
        return common.encode_unserializable_types(common.convert_to_dict(wire))["request"]

    def _upload(self, key: str, content: bytes) -> str:
        config = {"display_name": _file_name(key), "mime_type": "application/jsonl", **_limited()}
        return self._batch_call(
            lambda client: _name(client.files.upload(file=io.BytesIO(content), config=config))
        )

    def _uploaded(self, key: str, n_bytes: int) -> str | None:
        """The name of a file that an earlier hand-in has uploaded in full."""

        def find(client: Any) -> str | None:
            enough = datetime.now(UTC) + _LEAST_LIFE
            pager = client.files.list(config={"page_size": _PAGE_SIZE, **_limited()})
            for file in chain.from_iterable(_pages(pager)):
                if (
                    file.display_name == _file_name(key)
                    and file.size_bytes == n_bytes
                    and getattr(file.state, "value", file.state) in (None, "ACTIVE")
                    and (file.expiration_time is None or file.expiration_time > enough)
                ):
                    return _name(file)
            return None

        return self._batch_call(find)

    # Results.

    def _lines(self, file_name: str) -> Iterator[bytes]:
        @contextmanager
        def chunks(client: Any) -> Iterator[Iterable[bytes]]:
            with SpooledTemporaryFile(max_size=_MAX_IN_MEMORY_BYTES) as held:
                client.files.download(file=file_name, destination=held, config=_limited())
                held.seek(0)
                yield iter(lambda: held.read(_CHUNK_BYTES), b"")

        return self._batch_lines(chunks)

    def _row_answer(self, row: Mapping[str, Any]) -> Answer:
        response = row.get("response")
        if isinstance(response, dict):
            # The SDK's own reader of responses, which leaves out fields that it does not know.
            types = self._sdk().types
            return self._answer(
                types.GenerateContentResponse._from_response(response=response, kwargs={})
            )
        error = row.get("error") or row.get("status")
        code = error.get("code") if isinstance(error, Mapping) else None
        if isinstance(code, int) and code in _KIND_OF_CODE:
            raise self._row_error(_KIND_OF_CODE[code])
        raise self._row_failure(status=code)


def _pages(pager: Any) -> Iterator[list[Any]]:
    """The pages of a list; the SDK's own loop gives up at one that is empty in the middle."""
    while True:
        yield list(pager.page)
        if not pager.config.get("page_token"):
            return
        pager.next_page()


def _job(client: Any, batch_id: str) -> Any:
    return client.batches.get(name=batch_id, config=_limited())


def _state(job: Any) -> BatchState:
    # Some states come by their name at Google's other API, some by their own.
    name = str(getattr(job.state, "value", job.state))
    state = _STATES.get(name.removeprefix("JOB_STATE_").removeprefix("BATCH_STATE_"))
    if state is None:
        raise UnreadableError("state")
    return state


def _moment(created: datetime | None) -> float:
    return created.timestamp() if created is not None else float("inf")


def _limited() -> dict[str, Any]:
    return {"http_options": {"timeout": round(DEFAULT_TIMEOUT_S * 1000)}}


def _file_name(key: str) -> str:
    return f"{key}.jsonl"


def _name(made: Any) -> str:
    if not isinstance(made.name, str) or not made.name:
        raise UnreadableError("name")
    return made.name
