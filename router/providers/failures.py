"""What an SDK or the network did, as a ProviderError: kind, when to come back, whether it may cost.

The SDKs share a network library and have error classes of the same names, which are told apart by
these names: nothing has to be imported for it. A message names the provider, the model and the
status, never what an exception says: that may repeat the prompt, and its request holds the key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from router.errors import FailureKind, ProviderError

_ADVICE: dict[FailureKind, str] = {
    "rate-limit": "wait, or use another tier",
    "timeout": "allow more time, or use another tier",
    "outage": "try again, or use another tier",
    "cut": "try again, or use another tier",
    "malformed": "try again, or use another tier",
    "refused": "correct the request (model, messages, tools, options)",
    "auth": "check the provider's key and what it may do",
}
# Raised before anything of the request was sent.
_NOT_SENT = {
    *("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "InvalidURL"),
    *("ProxyError", "LocalProtocolError"),
}
_TIMEOUTS = {"APITimeoutError", "TimeoutException", "TimeoutError"}
# A time-out at the provider, or at who stands before it: the model may have worked all the while.
_TIMEOUT_STATUSES = (408, 504, 524)
_NETWORK = {"APIConnectionError", "TransportError", "OSError", "StreamError"}
# Types that an error event in the middle of a stream may have.
_KIND_OF_EVENT: dict[str, FailureKind] = {
    "rate_limit_error": "rate-limit",
    "rate_limit_exceeded": "rate-limit",
    "overloaded_error": "outage",
    "api_error": "outage",
    "server_error": "outage",
    "timeout_error": "timeout",
    "invalid_request_error": "refused",
    "authentication_error": "auth",
    "permission_error": "auth",
}


class UnreadableError(ValueError):
    """An answer that lacks what every answer has; becomes a ProviderError of kind "malformed"."""


class CutError(Exception):
    """A stream that ended before its end; becomes a ProviderError of kind "cut"."""


def failure(
    provider: str, model: str, error: Exception, *, streaming: bool = False
) -> ProviderError:
    """The error to raise for one that came out of a call.

    ``streaming`` says that the model had begun to answer, so that tokens may have been charged.
    """
    if isinstance(error, ProviderError):
        return error
    names = {cls.__name__ for link in _chain(error) for cls in type(link).__mro__}
    status = status_of(error)
    sent = not names & _NOT_SENT
    kind: FailureKind
    if isinstance(error, CutError):
        kind, what, billed = "cut", "a stream that ended in the middle", True
    elif status is not None:
        kind, what = kind_of_status(status), f"HTTP {status}"
        billed = streaming or kind == "timeout"
    elif (event := _event_type(error)) in _KIND_OF_EVENT:
        kind, what = _KIND_OF_EVENT[event], "an error instead of an answer"
        billed = streaming or kind == "timeout"
    elif names & _TIMEOUTS:
        kind, what, billed = "timeout", "no answer in time", sent
    elif names & _NETWORK and streaming:
        kind, what, billed = "cut", "a connection that broke in the middle of the answer", True
    elif names & _NETWORK:
        kind, what, billed = "outage", "a connection that failed", sent
    elif "APIError" in names and "APIResponseValidationError" not in names:
        kind, what, billed = "cut", "an error instead of the rest of the answer", True
    elif isinstance(error, TypeError) and "authentication" in str(error):
        kind, what, billed = "auth", "no key", False
    elif isinstance(error, TypeError) and not streaming:
        kind, what, billed = "refused", "options that its SDK does not take", False
    else:
        kind, what, billed = "malformed", "one that cannot be read", True
    return ProviderError(
        f"expected an answer from {provider} {model}, got {what}: {_ADVICE[kind]}.",
        kind=kind,
        retry_after_s=retry_after_s(error),
        billed=billed,
    )


def kind_of_status(status: int) -> FailureKind:
    """What an HTTP status of 400 or more means for the caller.

    >>> kind_of_status(529), kind_of_status(422), kind_of_status(403), kind_of_status(504)
    ('outage', 'refused', 'auth', 'timeout')
    """
    if status == 429:
        return "rate-limit"
    if status in _TIMEOUT_STATUSES:
        return "timeout"
    if status in (401, 403):
        return "auth"
    return "refused" if status < 500 else "outage"


def status_of(error: Exception) -> int | None:
    """The HTTP status an SDK's error carries; None where it is not about one."""
    for name in ("status_code", "code"):
        status = getattr(error, name, None)
        if type(status) is int and status >= 400:
            return status
    return None


def retry_after_s(error: Exception, now: datetime | None = None) -> float | None:
    """How long the provider asks to wait: from its headers, or from Google's RetryInfo."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is not None:
        milliseconds = _seconds(headers.get("retry-after-ms"))
        if milliseconds is not None:
            return milliseconds / 1000
        given = headers.get("retry-after")
        seconds = _seconds(given)
        if seconds is not None:
            return seconds
        if given:
            try:
                at = parsedate_to_datetime(given)
            except ValueError:
                return None
            # A date without a zone is in UTC (RFC 9110).
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
    for info in _error_details(getattr(error, "details", None)):
        delay = info.get("retryDelay")
        if str(info.get("@type", "")).endswith("RetryInfo") and isinstance(delay, str):
            return _seconds(delay.removesuffix("s"))
    return None


def _seconds(text: object) -> float | None:
    try:
        seconds = float(str(text))
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _error_details(body: object) -> Iterator[Mapping[str, Any]]:
    error = body.get("error") if isinstance(body, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping):
            yield detail


def _event_type(error: Exception) -> str:
    """The type in the body of an error that came as an event; '' where there is none."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    named = (body.get("type"), body.get("code")) if isinstance(body, Mapping) else ()
    return next((str(name) for name in named if str(name) in _KIND_OF_EVENT), "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
