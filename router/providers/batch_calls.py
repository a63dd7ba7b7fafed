"""What the providers' batches share: calls without secrets in their errors, requests as JSON, rows.

A batch API is asked in several calls, of which only one can cost anything: the one that hands the
batch in. The others may be repeated at will, so their errors are never ``billed``; neither is a
file that was uploaded and a result that could not be fetched.
"""

from __future__ import annotations

import json
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar

from router.errors import FailureKind, InputError, ProviderError
from router.providers.base import Answer
from router.providers.batching import BatchItem, BatchLimits, BatchResult, BatchStatus
from router.providers.failures import failure, kind_of_status, status_of
from router.providers.sdk import SdkProvider

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# How far a provider's clock may be from ours when batches are looked for by their time.
CLOCK_SKEW_S = 300.0
# Options of a call that say nothing about the prompt: a batch is neither streamed nor waited for.
_OF_THE_CALL = ("stream", "stream_options", "timeout")
_ONLY_OF_THE_CALL = ("extra_headers", "extra_query", "http_options")
# At a line's beginning only: further on there may be a tool call's argument of that name.
_CUSTOM_ID = re.compile(
    rb'\s*\{\s*(?:"id"\s*:\s*"[^"\\]*"\s*,\s*)?"(?:custom_id|key)"\s*:\s*"([A-Za-z0-9_-]{1,64})"'
)
# What ends a line for some reader of text, though not in JSON Lines.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
# Error types of the providers, where a row has no HTTP status.
_KIND_OF_ERROR: dict[str, FailureKind] = {
    **dict.fromkeys(("batch_expired", "expired"), "expired"),
    **dict.fromkeys(("batch_cancelled", "cancelled", "canceled"), "cancelled"),
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded"), "rate-limit"),
    "timeout_error": "timeout",
    **dict.fromkeys(("authentication_error", "permission_error", "billing_error"), "auth"),
    **dict.fromkeys(
        ("invalid_request_error", "invalid_request", "not_found_error", "request_too_large"),
        "refused",
    ),
}
_WHAT: dict[FailureKind, tuple[str, str]] = {
    "expired": ("none before the batch's time was over", "hand it in again"),
    "cancelled": ("none, as the batch was cancelled", "hand it in again if it is still wanted"),
    "malformed": ("one that cannot be read", "ask again, outside a batch"),
    "refused": ("a refusal of the request", "correct it (model, messages, tools, options)"),
    "auth": ("a refusal of the key", "check the provider's key and what it may do"),
}


class BatchCalls(SdkProvider):
    """A provider behind its SDK that takes batches; what its batch class builds on.

    ``batch_limits`` is there only where batches are taken: without it, an object does not keep
    the protocol.
    """

    batch_limits: BatchLimits

    def _batch_call(self, call: Callable[[Any], _T], *, may_cost: bool = False) -> _T:
        """What a call of the SDK's client returns; ProviderError for whatever went wrong."""
        client = self._sync_client()
        try:
            return call(client)
        except Exception as error:
            failed = failure(self.id, "batches", error)
        failed.billed = failed.billed and may_cost
        # Outside the handler: the SDK's exception holds the request, and with it prompts and key.
        raise failed

    def _batch_lines(
        self, open_chunks: Callable[[Any], AbstractContextManager[Iterable[bytes]]]
    ) -> Iterator[bytes]:
        """The lines of a result file as they come."""
        client = self._sync_client()
        begun = False
        failed: ProviderError | None = None
        try:
            with open_chunks(client) as chunks:
                for line in lines_of(chunks):
                    begun = True
                    yield line
        except Exception as error:
            failed = failure(self.id, "batches", error, streaming=begun)
        if failed is not None:
            failed.billed = False
            raise failed

    def _batch_rows(
        self, lines: Iterable[bytes], name: str, read: Callable[[Mapping[str, Any]], Answer]
    ) -> Iterator[BatchResult]:
        """One result for each line that says whose it is; the others are counted in the log.

        ``name`` is where a line has the custom id; ``read`` takes the answer out of a line, or
        raises what there is instead.
        """
        n_unknown = 0
        for line in lines:
            row = row_of(line)
            custom_id = custom_id_of(line) if row is None else row.get(name)
            if not isinstance(custom_id, str) or not custom_id:
                n_unknown += 1
                continue
            try:
                if row is None:
                    raise self._row_error("malformed", billed=True)
                result = BatchResult(custom_id, answer=read(row))
            except ProviderError as error:
                # Without the frames that it came through: they hold the row.
                result = BatchResult(custom_id, error=error.with_traceback(None))
            except Exception:
                # Whatever it is: the row was answered, and this code cannot read how.
                unreadable = self._row_error("malformed", billed=True)
                result = BatchResult(custom_id, error=unreadable)
            yield result
        if n_unknown:
            _LOG.warning(
                "%s: %d batch results without a custom id were left out", self.id, n_unknown
            )

    def _row_error(self, kind: FailureKind, *, billed: bool = False) -> ProviderError:
        what, advice = _WHAT.get(kind, ("an error", "hand it in again, or use another tier"))
        return ProviderError(
            f"expected an answer from {self.id} in a batch, got {what}: {advice}.",
            kind=kind,
            billed=billed,
        )

    def _row_failure(self, *, status: object = None, type: object = None) -> ProviderError:
        """What a row has instead of an answer, by its HTTP status or by the type of its error."""
        known = _KIND_OF_ERROR.get(str(type).lower())
        if known is None and isinstance(status, int) and status >= 400:
            known = kind_of_status(status)
        return self._row_error(known or "outage")

    def _cancel(self, cancel: Callable[[Any], Any], batch_id: str) -> None:
        """Cancel; a batch that is at its end already is no error."""
        client = self._sync_client()
        try:
            cancel(client)
            return
        except Exception as error:
            failed = failure(self.id, "batches", error)
            too_late = status_of(error) in (400, 409)
        failed.billed = False
        if not (too_late and self.batch_status(batch_id).is_final):
            raise failed

    @abstractmethod
    def batch_status(self, batch_id: str) -> BatchStatus:
        """Where it stands."""


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    r"""The lines in pieces of a file; only a line feed ends one, and empty ones are left out.

    The SDKs' own readers of lines also split at characters that a JSON text may hold as they are.

    >>> list(lines_of([b'{"a": 1}\n\n{"b"', b': 2}']))
    [b'{"a": 1}', b'{"b": 2}']
    """
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        pieces.append(first)
        for piece in more:
            line = b"".join(pieces).strip()
            if line:
                yield line
            pieces = [piece]
    line = b"".join(pieces).strip()
    if line:
        yield line


def row_of(line: bytes) -> Mapping[str, Any] | None:
    """The object in a line; None where there is none.

    >>> row_of(b'{"custom_id": "a"}'), row_of(b'[1]'), row_of(b'{"cust')
    ({'custom_id': 'a'}, None, None)
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def custom_id_of(line: bytes) -> str | None:
    """The custom id in a line that is no JSON, as of a file cut short; None where it is not clear.

    >>> custom_id_of(b'{"custom_id": "a-1", "response": {"body": {"id')
    'a-1'
    """
    found = _CUSTOM_ID.match(line)
    return found[1].decode() if found is not None else None


def batch_body(item: BatchItem, request: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an SDK's call as the body that it would have sent.

    Raises:
        InputError: the prompt's options are for one call (headers, a query), or no JSON.
    """
    body = {name: value for name, value in request.items() if name not in _OF_THE_CALL}
    extra = body.pop("extra_body", None)
    for name in _ONLY_OF_THE_CALL:
        if body.pop(name, None):
            raise InputError(
                f"expected options that travel in a batch for prompt {item.custom_id!r}, got "
                f"{name}, which only a single call can have: leave it out."
            )
    return {**body, **extra} if isinstance(extra, Mapping) else body


def json_line(custom_id: str, value: Mapping[str, Any]) -> bytes:
    r"""The value as one line of JSON, with its end.

    Raises:
        InputError: it cannot be written as JSON.

    >>> json_line("a", {"text": "caf\u00e9\u2028"}).decode()
    '{"text":"café\\u2028"}\n'
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.translate(_LINE_ENDS).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):
        pass
    # Outside the handler, and without what was found: that is a piece of the prompt.
    raise unsendable(custom_id)


def unsendable(custom_id: str) -> InputError:
    """The error for a prompt that the provider's SDK, or JSON, has no form for."""
    return InputError(
        f"expected prompt {custom_id!r} to be of text, numbers, lists and mappings as its provider "
        "takes them, got something else: correct its messages, tools and options."
    )


def all_before(times: Sequence[float], since: datetime, skew_s: float = CLOCK_SKEW_S) -> bool:
    """Whether a page of batches, and all pages after it, are older than ``since``.

    Only where the page shows by itself that the newest come first: no provider promises its order.
    """
    earliest = since.timestamp() - skew_s
    newest_first = len(times) > 1 and all(a >= b for a, b in pairwise(times))
    return newest_first and times[0] > times[-1] and times[0] < earliest


def is_since(created: float, since: datetime) -> bool:
    """Whether a batch may have been made since then, as far as clocks agree."""
    return created >= since.timestamp() - CLOCK_SKEW_S
