"""OpenAI's files and batches on the wire, beside its chat completions."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from tests.wire.batch_server import Batch, BatchControls, End, as_json, not_found
from tests.wire.openai_server import OpenAIServer, answer
from tests.wire.server import Received, Reply, status

_STATUS = {"ended": "completed", "failed": "failed", "cancelled": "cancelled", "expired": "expired"}


@dataclass
class File:
    """An uploaded file."""

    id: str
    name: str
    purpose: str
    content: bytes
    created_at: float


class OpenAIBatchServer(BatchControls, OpenAIServer):
    """``OpenAIProvider(base_url=server.url)``; ``files`` are those that were uploaded.

    As with OpenAI, the rows that a batch that expired did not get to are in its error file, and
    those of a cancelled one nowhere, unless ``tells_cancelled_rows``.
    """

    CALLS = ("upload", "list_files", "create", "list", "status", "results", "cancel")

    def _clean(self) -> None:
        super()._clean()
        self.files: dict[str, File] = {}
        self.tells_cancelled_rows = False

    def call_of(self, received: Received) -> str | None:
        path, is_post = received.path.rstrip("/"), received.method == "POST"
        if path == "/files":
            return "upload" if is_post else "list_files"
        if path.startswith("/files/"):
            return "results"
        if path == "/batches":
            return "create" if is_post else "list"
        if path.startswith("/batches/"):
            return "cancel" if is_post else "status"
        return None

    def carry_out(self, call: str, received: Received) -> Reply:
        parts = received.path.strip("/").split("/")
        if call == "upload":
            return self._upload(received)
        if call == "list_files":
            files = sorted(self.files.values(), key=lambda file: file.created_at, reverse=True)
            return _page(received, [_file(file) for file in files], len(files) or 1)
        if call == "create":
            return self._create(received.json)
        if call == "list":
            batches = [self._shown(batch, peek=True) for batch in self.in_order()]
            return _page(received, batches, self.page_size)
        if call == "results":
            return self._content(parts[1])
        if parts[1] not in self.batches:
            return not_found()
        batch = self.batches[parts[1]]
        if call == "cancel":
            if batch.end is not None:
                return status(409, {"error": {"message": "it has ended"}})
            batch.is_cancelling = True
        else:
            self.poll(batch)
        return Reply(as_json(self._shown(batch)))

    # Files.

    def _upload(self, received: Received) -> Reply:
        content_type, options = parse_options_header(received.headers["content-type"])
        _, form, files = FormDataParser(max_form_memory_size=None).parse(
            io.BytesIO(received.body), content_type, len(received.body), options
        )
        upload = files["file"]
        with upload.stream:
            content = upload.stream.read()
        id = f"file-{len(self.files) + 1}"
        name = upload.filename or ""
        self.files[id] = File(id, name, form["purpose"], content, self.now())
        return Reply(as_json(_file(self.files[id])))

    def _content(self, file_id: str) -> Reply:
        batch_id, _, kind = file_id.rpartition("-")
        batch = self.batches.get(batch_id)
        if batch is None or batch.end is None:
            return not_found()
        return self.results(batch.answers if kind == "output" else batch.errors)

    # Batches.

    def _create(self, body: Any) -> Reply:
        file = self.files.get(body["input_file_id"])
        if file is None or file.purpose != "batch" or body["endpoint"] != "/v1/chat/completions":
            return status(400, {"error": {"message": "no such file, or endpoint"}})
        requests: dict[str, Any] = {}
        # As a server would that reads lines of text: what ends one there must not be in them.
        for line in file.content.decode().splitlines():
            row = json.loads(line)
            assert (row["method"], row["url"]) == ("POST", body["endpoint"])
            assert row["custom_id"] not in requests
            requests[row["custom_id"]] = row["body"]
        batch = Batch(
            id=f"batch_{len(self.batches) + 1}",
            key=(body.get("metadata") or {}).get("cps_router_key"),
            model=next(iter(requests.values()), {}).get("model"),
            requests=requests,
            created_at=self.now(),
        )
        self.add(batch)
        return Reply(as_json(self._shown(batch)))

    def _shown(self, batch: Batch, *, peek: bool = False) -> dict[str, Any]:
        state = _STATUS[batch.end] if batch.end else "in_progress"
        if batch.is_cancelling and batch.end is None:
            state = "cancelling"
        if batch.shown:
            state = batch.shown[0] if peek else batch.shown.popleft()
        is_final = state in _STATUS.values()
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-1",
            "completion_window": "24h",
            "status": state,
            "created_at": int(batch.created_at),
            f"{state}_at": int(batch.ended_at),
            "metadata": {"cps_router_key": batch.key} if batch.key else None,
            "request_counts": {
                "total": len(batch.requests),
                "completed": batch.n_answered,
                "failed": batch.n_errors,
            },
            "output_file_id": f"{batch.id}-output" if is_final and batch.answers else None,
            "error_file_id": f"{batch.id}-error" if is_final and batch.errors else None,
        }

    # Rows.

    def answered_row(self, custom_id: str, text: str) -> bytes:
        return _row(custom_id, 200, json.loads(answer(text).body))

    def malformed_row(self, custom_id: str) -> bytes:
        return _row(custom_id, 200, {"object": "chat.completion", "choices": "none"})

    def failed_row(self, custom_id: str, code: int) -> tuple[bytes, bool]:
        return _row(custom_id, code, {"error": {"message": "no: Where is the Louvre?"}}), False

    def unanswered_row(self, custom_id: str, end: End) -> bytes | None:
        if end == "cancelled" and not self.tells_cancelled_rows:
            return None
        error = {"code": f"batch_{end}", "message": "not executed: Where is the Louvre?"}
        return as_json({"id": "r", "custom_id": custom_id, "response": None, "error": error})


def _row(custom_id: str, code: int, body: object) -> bytes:
    response = {"status_code": code, "request_id": f"req_{custom_id}", "body": body}
    return as_json({"id": "r", "custom_id": custom_id, "response": response, "error": None})


def _file(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.content),
        "created_at": int(file.created_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def _page(received: Received, items: list[dict[str, Any]], page_size: int) -> Reply:
    query = parse_qs(received.query)
    after = query.get("after", [None])[0]
    start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), 0)
    page = items[start : start + page_size]
    more = start + page_size < len(items)
    return Reply(as_json({"object": "list", "data": page, "has_more": more}))
