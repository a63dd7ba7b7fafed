"""What the fake batch servers share: the batches that came, how they end, and what goes wrong.

A test hands batches in through a provider, then says how each one ends::

    with OpenAIBatchServer() as server:
        batch_id = provider.submit_batch("gpt-5-nano", items, key="job-1")
        server.finish(batch_id, missing={"c3"}, failed={"c4": 400})
        list(provider.batch_results(batch_id))

``server.batches`` holds what was handed in, ``server.n_handed_in`` how often each row was.
``server.ends_after_n_polls = 2`` lets every batch end by itself. ``server.fail("create")`` and
``server.cut("create")`` are the faults: an error status, and a call that the server carries out and
does not answer. The calls are "upload", "list_files", "create", "list", "status", "results" and
"cancel"; a server lists those that it has in ``CALLS``.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from socket import SHUT_RDWR
from typing import Any, Literal, Self

from werkzeug import Request, Response

from tests.wire.server import FakeServer, Received, Reply, status

End = Literal["ended", "failed", "cancelled", "expired"]
# A line that is no JSON, one that is no object, and one without an id; sent among the results.
GARBAGE = (b'{"custom_id": ', b"[1, 2]", b'{"id": "r", "response": {}}', b"\xff\xfe")


@dataclass
class Batch:
    """A batch as it was handed in, and how it ended."""

    id: str
    key: str | None
    model: str | None
    requests: dict[str, Any]  # custom id -> the body of its request
    created_at: float
    end: End | None = None  # None while it runs
    ended_at: float = 0.0
    is_cancelling: bool = False
    # Wire states that the next calls for its status see instead of the true one.
    shown: deque[str] = field(default_factory=deque)
    answers: list[bytes] = field(default_factory=list)  # lines
    errors: list[bytes] = field(default_factory=list)  # lines, where the wire keeps them apart
    n_answered: int = 0
    n_errors: int = 0
    n_polls: int = 0


@dataclass
class _Fault:
    call: str
    status: int | None  # None: carried out, then cut
    headers: dict[str, str]


class BatchControls(FakeServer):
    """The controls; a server of one wire format says what its calls and rows look like.

    ``page_size`` is how many batches a page of the list has at most. ``clock_skew_s`` is how far
    the server's clock is ahead of ours. ``answer_text`` makes the text of an answer.
    """

    CALLS: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.batches: dict[str, Batch] = {}
        self.calls: list[str] = []
        self._clean()

    def _clean(self) -> None:
        self.batches.clear()
        self.calls.clear()
        self.page_size = 100
        self.clock_skew_s = 0.0
        self.ends_after_n_polls: int | None = None
        self.oldest_first = False
        self.answer_text: Callable[[str, Any], str] = lambda custom_id, _: f"answer {custom_id}"
        self._faults: deque[_Fault] = deque()
        self._cut_request: Received | None = None

    def reset(self) -> None:
        super().reset()
        with self._lock:
            self._clean()

    # What a test asks.

    @property
    def n_handed_in(self) -> Counter[str]:
        """In how many batches each custom id is."""
        return Counter(custom_id for batch in self.batches.values() for custom_id in batch.requests)

    def batch_of(self, key: str) -> Batch:
        """The one batch of that key."""
        (batch,) = [batch for batch in self.batches.values() if batch.key == key]
        return batch

    # What a test arranges.

    def fail(
        self,
        call: str,
        status: int = 500,
        *,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The next calls of this kind are refused with a status, and do nothing."""
        assert call in self.CALLS
        self._faults.extend(_Fault(call, status, dict(headers or {})) for _ in range(times))

    def cut(self, call: str, *, times: int = 1) -> None:
        """The next calls of this kind are carried out, and the connection goes before the answer.

        Of "results", half of the body comes.
        """
        assert call in self.CALLS
        self._faults.extend(_Fault(call, None, {}) for _ in range(times))

    def finish(
        self,
        batch_id: str | None = None,
        end: End = "ended",
        *,
        answered: Collection[str] | None = None,
        failed: Mapping[str, int] | None = None,
        missing: Collection[str] = (),
        duplicated: Collection[str] = (),
        malformed: Collection[str] = (),
        garbage: Collection[bytes] = (),
        reverse: bool = False,
    ) -> None:
        """End a batch, or all that run.

        Args:
            batch_id: Which; None for all that run.
            end: How.
            answered: What has an answer; the rest was not got to. None for all, or nothing of a
                batch that failed.
            failed: Custom id to the HTTP status that its request got.
            missing: What is in no file of results at all.
            duplicated: What comes twice.
            malformed: What has an id and an answer that cannot be read.
            garbage: Lines to send among the results.
            reverse: The last handed in comes first.
        """
        with self._lock:
            ids = [batch_id] if batch_id is not None else list(self.batches)
            for batch in (self.batches[id] for id in ids):
                if batch.end is None:
                    self._finish(
                        batch,
                        end,
                        answered=answered,
                        failed=failed or {},
                        missing=missing,
                        duplicated=duplicated,
                        malformed=malformed,
                        garbage=garbage,
                        reverse=reverse,
                    )

    def _finish(
        self,
        batch: Batch,
        end: End,
        *,
        answered: Collection[str] | None = None,
        failed: Mapping[str, int] | None = None,
        missing: Collection[str] = (),
        duplicated: Collection[str] = (),
        malformed: Collection[str] = (),
        garbage: Collection[bytes] = (),
        reverse: bool = False,
    ) -> None:
        batch.end, batch.ended_at = end, self.now()
        if answered is None:
            answered = () if end == "failed" else set(batch.requests)
        failed = failed or {}
        ids = list(reversed(batch.requests)) if reverse else list(batch.requests)
        for custom_id in ids:
            if end == "failed":
                break  # its file was refused: there are no results
            if custom_id in failed:
                line, is_answer = self.failed_row(custom_id, failed[custom_id])
            elif custom_id in answered:
                text = self.answer_text(custom_id, batch.requests[custom_id])
                line, is_answer = self.answered_row(custom_id, text), True
            else:
                line, is_answer = self.unanswered_row(custom_id, end), False
            if custom_id in malformed:
                line = self.malformed_row(custom_id)
            batch.n_answered += custom_id in answered and custom_id not in failed
            batch.n_errors += custom_id in failed
            if custom_id in missing or line is None:
                continue
            lines = batch.answers if is_answer else batch.errors
            lines.extend([line] * (2 if custom_id in duplicated else 1))
        batch.answers[1:1] = garbage

    # What a wire format says. A line of None is left out.

    def answered_row(self, custom_id: str, text: str) -> bytes:
        raise NotImplementedError

    def malformed_row(self, custom_id: str) -> bytes:
        raise NotImplementedError

    def failed_row(self, custom_id: str, code: int) -> tuple[bytes, bool]:
        """The line, and whether it is among the answers."""
        raise NotImplementedError

    def unanswered_row(self, custom_id: str, end: End) -> bytes | None:
        raise NotImplementedError

    def call_of(self, received: Received) -> str | None:
        """Which of CALLS a request is; None for another API's."""
        raise NotImplementedError

    def carry_out(self, call: str, received: Received) -> Reply:
        raise NotImplementedError

    # What the wire formats use.

    def now(self) -> float:
        return time.time() + self.clock_skew_s

    def add(self, batch: Batch) -> None:
        self.batches[batch.id] = batch

    def poll(self, batch: Batch) -> None:
        """A call for its status: a batch may end by itself."""
        batch.n_polls += 1
        after = self.ends_after_n_polls
        if after is not None and batch.end is None and batch.n_polls >= after:
            self._finish(batch, "cancelled" if batch.is_cancelling else "ended")

    def in_order(self) -> list[Batch]:
        """The batches as a list shows them: the newest first, unless told otherwise."""
        found = list(self.batches.values())
        return found if self.oldest_first else found[::-1]

    def results(self, lines: list[bytes]) -> Reply:
        body = b"".join(line + b"\n" for line in lines)
        return Reply(body, content_type="application/octet-stream")

    # The server.

    def route(self, received: Received) -> Reply | None:
        call = self.call_of(received)
        if call is None:
            return super().route(received)
        self.calls.append(call)
        fault = next((fault for fault in self._faults if fault.call == call), None)
        if fault is not None:
            self._faults.remove(fault)
            if fault.status is not None:
                # As if to find out who repeats what an error says: all that is secret.
                said = f"{received.headers} {received.body[:2000]!r}"
                body = {"error": {"message": said, "type": "x"}}
                return status(fault.status, body, fault.headers)
        reply = self.carry_out(call, received)
        if fault is not None:
            if call == "results":
                reply.body, reply.breaks = reply.body[: len(reply.body) // 2], True
            else:
                self._cut_request = received
        return reply

    def __enter__(self) -> Self:
        super().__enter__()
        server: Any = self._server.server
        now = self.now

        class Handler(server.RequestHandlerClass):  # type: ignore[misc]
            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(now(), usegmt=True)

        # The date in every reply's head is by the same clock as the batches.
        server.RequestHandlerClass = Handler
        return self

    def _handle(self, request: Request) -> Response:
        response = super()._handle(request)
        with self._lock:
            cut = self._cut_request
            is_cut = cut is not None and cut is self._received(request)
            if is_cut:
                self._cut_request = None
        if is_cut:
            # Answering then fails as for a client that has gone, which the server takes calmly.
            request.environ["werkzeug.socket"].shutdown(SHUT_RDWR)
        return response

    def _received(self, request: Request) -> Received | None:
        body = request.get_data()
        same = (
            received
            for received in reversed(self.requests)
            if (received.method, received.path) == (request.method, request.path)
            and received.body == body
        )
        return next(same, None)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def not_found() -> Reply:
    return status(404, {"error": {"message": "no such thing", "type": "not_found"}})
