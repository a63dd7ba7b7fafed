"""A local HTTP server that plays a provider: scripted replies out, received requests kept.

The formats are in the modules beside this one, one for each wire format. A reply knows its plain
form and its stream of events; which is sent depends on what the request asks for.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass
class Received:
    """One request as it came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What to send back.

    ``events`` are the blocks of the stream, each complete with its empty line; ``cut_after`` sends
    only so many and then closes; ``breaks`` announces more than it sends. ``hangs`` sends
    nothing until the server is told to let go (with ``cut_after``: nothing more).
    """

    body: bytes = b""
    events: list[bytes] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON
    cut_after: int | None = None
    breaks: bool = False
    hangs: bool = False


class FakeServer:
    """The common part: a queue of replies, and the requests that came.

    With no reply queued it sends ``default()``. Use as a context manager.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.replies: deque[Reply] = deque()
        self._let_go = threading.Event()
        self._lock = threading.Lock()
        self._server = HTTPServer(host="127.0.0.1", threaded=True)
        self._server.expect_request(re.compile(".*")).respond_with_handler(self._handle)

    @property
    def url(self) -> str:
        """What the provider takes as ``base_url``."""
        return self._server.url_for("").rstrip("/")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._let_go.set()
        self._server.stop()

    @property
    def last(self) -> Received:
        return self.requests[-1]

    def reset(self) -> None:
        """Forget replies and requests, and let go of whoever is kept waiting."""
        self._let_go.set()
        self._let_go = threading.Event()
        self.requests.clear()
        self.replies.clear()

    def reply(self, *replies: Reply) -> None:
        """Queue replies, in order."""
        self.replies.extend(replies)

    def default(self) -> Reply:
        raise NotImplementedError

    def route(self, received: Received) -> Reply | None:
        """A reply of the format's own (files, batches, caches); None to take the queue's."""
        return None

    def wants_stream(self, received: Received) -> bool:
        raise NotImplementedError

    def _handle(self, request: Request) -> Response:
        received = Received(
            request.method,
            request.path,
            request.query_string.decode(),
            {name.lower(): value for name, value in request.headers.items()},
            request.get_data(),
        )
        with self._lock:
            let_go = self._let_go
            self.requests.append(received)
            reply = self.route(received)
            if reply is None:
                reply = self.replies.popleft() if self.replies else self.default()
        if reply.hangs and reply.cut_after is None:
            let_go.wait(30)
            return Response(b"", status=500)
        headers = dict(reply.headers)
        if reply.breaks:
            headers["Content-Length"] = "1000000"  # more than will come
        if reply.status == 200 and reply.events and self.wants_stream(received):
            return Response(self._events(reply, let_go), headers=headers, content_type=EVENTS)
        return Response(
            # In pieces: of a whole body, the server corrects the length.
            iter([reply.body]) if reply.breaks else reply.body,
            status=reply.status,
            headers=headers,
            content_type=reply.content_type,
        )

    def _events(self, reply: Reply, let_go: threading.Event) -> Iterator[bytes]:
        yield from reply.events[: reply.cut_after]
        if reply.hangs:
            let_go.wait(30)


def status(code: int, body: object = None, headers: dict[str, str] | None = None) -> Reply:
    """An error reply."""
    return Reply(
        json.dumps({} if body is None else body).encode(), status=code, headers=headers or {}
    )


def raw(body: bytes, content_type: str = JSON) -> Reply:
    """A reply of any bytes, sent also where a stream was asked for."""
    return Reply(body, content_type=content_type)


def hang() -> Reply:
    """No reply before the server goes away."""
    return Reply(hangs=True)


@contextmanager
def unreachable() -> Iterator[str]:
    """The URL of a port on which nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"
