"""Gemini's files and batches on the wire, beside generateContent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from tests.wire.batch_server import Batch, BatchControls, End, as_json, not_found
from tests.wire.google_server import GoogleServer, answer
from tests.wire.server import Received, Reply, status

_STATES = {"ended": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED", "expired": "EXPIRED"}
_CODES = {400: 3, 401: 16, 408: 4, 429: 8, 500: 13}  # google.rpc.Status
_DAY_S = 86_400.0


@dataclass
class File:
    """An uploaded file."""

    name: str
    display_name: str
    content: bytes
    created_at: float


class GoogleBatchServer(BatchControls, GoogleServer):
    """``GoogleProvider(base_url=server.url)``; ``files`` are those that were uploaded.

    An upload is two calls: "start_upload" and "upload". As with Google, a batch that expired has no
    results. Of a cancelled one those are there that were answered.
    """

    CALLS = (
        *("start_upload", "upload", "list_files", "create", "list", "status", "results", "cancel"),
    )

    def _clean(self) -> None:
        super()._clean()
        self.files: dict[str, File] = {}
        self._starting: dict[str, str] = {}
        self.empty_first_page = False

    def fail(
        self,
        call: str,
        status: int = 500,
        *,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # Without it the SDK sends the piece again, after waiting.
        ended = {"x-goog-upload-status": "cancelled"} if call == "upload" else {}
        super().fail(call, status, times=times, headers={**ended, **(headers or {})})

    def call_of(self, received: Received) -> str | None:
        path, is_post = received.path, received.method == "POST"
        if path.startswith("/upload/"):
            return "start_upload"
        if path.startswith("/uploading/"):
            return "upload"
        if path.endswith(":batchGenerateContent"):
            return "create"
        if path.endswith("/files"):
            return "list_files"
        if path.endswith("/batches"):
            return "list"
        if "/batches/" in path:
            return "cancel" if is_post else "status"
        return "results" if path.endswith(":download") else None

    def carry_out(self, call: str, received: Received) -> Reply:
        if call == "start_upload":
            upload = f"u{len(self._starting) + 1}"
            self._starting[upload] = received.json["file"]["display_name"]
            where = f"{self.url}/uploading/{upload}"
            return Reply(b"{}", headers={"x-goog-upload-url": where})
        if call == "upload":
            return self._upload(received)
        if call == "list_files":
            files = [_file(file) for file in self.files.values()]
            return self._page(received, "files", files, len(files) or 1)
        if call == "create":
            return self._create(received)
        if call == "list":
            jobs = [self._shown(batch, peek=True) for batch in self.in_order()]
            return self._page(received, "operations", jobs, self.page_size)
        name = re.sub(r".*/(batches|files)/([^:]*).*", r"\1/\2", received.path)
        if call == "results":
            batch = self.batches.get(name.replace("files/results-", "batches/"))
            return not_found() if batch is None else self.results(batch.answers)
        batch = self.batches.get(name)
        if batch is None:
            return not_found()
        if call == "cancel":
            if batch.end is not None:
                return status(400, {"error": {"code": 400, "status": "FAILED_PRECONDITION"}})
            batch.is_cancelling = True
            return Reply(b"{}")
        self.poll(batch)
        return Reply(as_json(self._shown(batch)))

    # Files.

    def _upload(self, received: Received) -> Reply:
        assert received.headers["x-goog-upload-command"] == "upload, finalize"
        display_name = self._starting[received.path.rpartition("/")[2]]
        name = f"files/f{len(self.files) + 1}"
        self.files[name] = File(name, display_name, received.body, self.now())
        body = as_json({"file": _file(self.files[name])})
        return Reply(body, headers={"x-goog-upload-status": "final"})

    def _page(
        self, received: Received, what: str, items: list[dict[str, Any]], page_size: int
    ) -> Reply:
        token = parse_qs(received.query).get("pageToken", [None])[0]
        if self.empty_first_page and token is None:
            return Reply(as_json({"nextPageToken": "0"}))
        start = int(token or 0)
        end = start + page_size
        following = {"nextPageToken": str(end)} if end < len(items) else {}
        return Reply(as_json({what: items[start:end], **following}))

    # Batches.

    def _create(self, received: Received) -> Reply:
        given = received.json["batch"]
        file = self.files.get(given["inputConfig"]["fileName"])
        if file is None:
            return status(400, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}})
        requests: dict[str, Any] = {}
        # As a server would that reads lines of text: what ends one there must not be in them.
        for line in file.content.decode().splitlines():
            row = json.loads(line)
            assert row["key"] not in requests
            requests[row["key"]] = row["request"]
        batch = Batch(
            id=f"batches/b{len(self.batches) + 1}",
            key=given["displayName"],
            model=re.sub(r".*/(models/[^:]*):.*", r"\1", received.path),
            requests=requests,
            created_at=self.now(),
        )
        self.add(batch)
        return Reply(as_json(self._shown(batch)))

    def _shown(self, batch: Batch, *, peek: bool = False) -> dict[str, Any]:
        state = _STATES[batch.end] if batch.end else "RUNNING"
        if batch.shown:
            state = batch.shown[0] if peek else batch.shown.popleft()
        metadata: dict[str, Any] = {
            "displayName": batch.key,
            "state": f"BATCH_STATE_{state}",
            "createTime": _time(batch.created_at),
            "model": batch.model,
        }
        is_final = state in (*_STATES.values(), "PARTIALLY_SUCCEEDED")
        if is_final:
            metadata["endTime"] = _time(batch.ended_at)
        if is_final and batch.answers:
            metadata["output"] = {"responsesFile": batch.id.replace("batches/", "files/results-")}
        return {"name": batch.id, "metadata": metadata, "done": is_final}

    # Rows.

    def answered_row(self, custom_id: str, text: str) -> bytes:
        return as_json({"key": custom_id, "response": json.loads(answer(text).body)})

    def malformed_row(self, custom_id: str) -> bytes:
        return as_json({"key": custom_id, "response": {"candidates": "none"}})

    def failed_row(self, custom_id: str, code: int) -> tuple[bytes, bool]:
        error = {"code": _CODES[code], "message": "no: Where is the Louvre?"}
        return as_json({"key": custom_id, "error": error}), True

    def unanswered_row(self, custom_id: str, end: End) -> bytes | None:
        return None

    def _finish(self, batch: Batch, end: End, **how: Any) -> None:
        super()._finish(batch, end, **how)
        if end == "expired":
            batch.answers = []


def _file(file: File) -> dict[str, Any]:
    return {
        "name": file.name,
        "displayName": file.display_name,
        "mimeType": "application/jsonl",
        "sizeBytes": str(len(file.content)),
        "createTime": _time(file.created_at),
        "expirationTime": _time(file.created_at + 2 * _DAY_S),
        "state": "ACTIVE",
    }


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
