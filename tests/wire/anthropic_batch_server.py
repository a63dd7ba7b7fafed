"""Anthropic's Message Batches on the wire, beside its Messages."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from tests.wire.anthropic_server import AnthropicServer, answer
from tests.wire.batch_server import Batch, BatchControls, End, as_json, not_found
from tests.wire.server import Received, Reply, status

_PATH = "/v1/messages/batches"
_ERROR_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}


class AnthropicBatchServer(BatchControls, AnthropicServer):
    """``AnthropicProvider(base_url=server.url)``.

    Batches have no keys here. Every request has a row, unless it is told to be missing.
    """

    CALLS = ("create", "list", "status", "results", "cancel")

    def _clean(self) -> None:
        super()._clean()
        self.has_archived = False  # the results of what has ended are kept no more

    def call_of(self, received: Received) -> str | None:
        if not received.path.startswith(_PATH):
            return None
        is_post = received.method == "POST"
        rest = received.path.removeprefix(_PATH).strip("/")
        if not rest:
            return "create" if is_post else "list"
        if rest.endswith("/results"):
            return "results"
        return "cancel" if is_post else "status"

    def carry_out(self, call: str, received: Received) -> Reply:
        if call == "create":
            return self._create(received.json)
        if call == "list":
            return self._list(received)
        batch = self.batches.get(received.path.removeprefix(_PATH).split("/")[1])
        if batch is None:
            return not_found()
        if call == "results":
            return self.results(batch.answers) if batch.end else not_found()
        if call == "cancel":
            if batch.end is not None:
                return status(400, {"error": {"message": "it has ended"}})
            batch.is_cancelling = True
        elif not batch.shown:
            self.poll(batch)
        return Reply(as_json(self._shown(batch, shift=call == "status")))

    def _create(self, body: Any) -> Reply:
        requests = {row["custom_id"]: row["params"] for row in body["requests"]}
        assert len(requests) == len(body["requests"])
        assert not any("stream" in params for params in requests.values())
        batch = Batch(
            id=f"msgbatch_{len(self.batches) + 1}",
            key=None,
            model=next(iter(requests.values()), {}).get("model"),
            requests=requests,
            created_at=self.now(),
        )
        self.add(batch)
        return Reply(as_json(self._shown(batch)))

    def _list(self, received: Received) -> Reply:
        items = [self._shown(batch) for batch in self.in_order()]
        after = parse_qs(received.query).get("after_id", [None])[0]
        start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), 0)
        page = items[start : start + self.page_size]
        body = {
            "data": page,
            "has_more": start + self.page_size < len(items),
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }
        return Reply(as_json(body))

    def _shown(self, batch: Batch, *, shift: bool = False) -> dict[str, Any]:
        state = "ended" if batch.end else "canceling" if batch.is_cancelling else "in_progress"
        if batch.shown:
            state = batch.shown.popleft() if shift else batch.shown[0]
        n_left = len(batch.requests) - batch.n_answered - batch.n_errors
        has_ended = state == "ended"
        has_results = has_ended and not self.has_archived
        counts = {
            "processing": 0 if has_ended else len(batch.requests),
            "succeeded": batch.n_answered if has_ended else 0,
            "errored": batch.n_errors + (n_left if batch.end == "ended" else 0) if has_ended else 0,
            "canceled": n_left if has_ended and batch.end == "cancelled" else 0,
            "expired": n_left if has_ended and batch.end == "expired" else 0,
        }
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": state,
            "request_counts": counts,
            "created_at": datetime.fromtimestamp(batch.created_at, UTC).isoformat(),
            "ended_at": (
                datetime.fromtimestamp(batch.ended_at, UTC).isoformat() if has_ended else None
            ),
            "expires_at": datetime.fromtimestamp(batch.created_at + 86_400, UTC).isoformat(),
            "results_url": f"{self.url}{_PATH}/{batch.id}/results" if has_results else None,
        }

    # Rows.

    def answered_row(self, custom_id: str, text: str) -> bytes:
        return _row(custom_id, {"type": "succeeded", "message": json.loads(answer(text).body)})

    def malformed_row(self, custom_id: str) -> bytes:
        return _row(custom_id, {"type": "succeeded", "message": {"content": "none"}})

    def failed_row(self, custom_id: str, code: int) -> tuple[bytes, bool]:
        kind = _ERROR_TYPES.get(code, "api_error")
        error = {"type": "error", "error": {"type": kind, "message": "no: Where is the Louvre?"}}
        return _row(custom_id, {"type": "errored", "error": error}), True

    def unanswered_row(self, custom_id: str, end: End) -> bytes | None:
        # Among the others: this wire has one file.
        return _row(custom_id, {"type": "canceled" if end == "cancelled" else end})

    def _finish(self, batch: Batch, end: End, **how: Any) -> None:
        super()._finish(batch, end, **how)
        batch.answers += batch.errors
        batch.errors = []


def _row(custom_id: str, result: object) -> bytes:
    return as_json({"custom_id": custom_id, "result": result})
