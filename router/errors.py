"""Every error this project raises on purpose.

::

    CpsRouterError              base; exit code 1, a run-time failure
    |-- InputError              bad usage or bad input; exit code 2
    |   |-- OutcomeError        one outcome row breaks the contract (has .reason, countable)
    |   |-- TiersError          the tiers file is unusable
    |   |-- PriceError          a price is needed and not known
    |   |-- EmbeddingError      text or an embedder folder cannot be used
    |   |-- ArtifactError       the artifact is missing, truncated, altered, unsigned or too new
    |   `-- MissingExtraError   an optional dependency is not installed (names the extra)
    |-- DatasetError            a named data set cannot be had (network, digest)
    |-- RoutingError            no tier can take this query
    |-- ProviderError           a call to a model failed (has .kind, .retry_after_s, .billed)
    |-- CostLimitError          no attempt fits what a request may cost
    `-- LedgerError             the ledger cannot be read or written now

Messages are one sentence: what was expected, what came, what to do. They never carry query text.
"""

from __future__ import annotations

from typing import Literal

FailureKind = Literal[
    "rate-limit",
    "timeout",
    "outage",
    "cut",
    "malformed",
    "refused",
    "auth",
    "expired",
    "cancelled",
]


class CpsRouterError(Exception):
    """Base of all errors raised on purpose; the command line turns it into one line on stderr."""

    exit_code = 1


class InputError(CpsRouterError):
    """Bad usage or bad input: the caller can mend it."""

    exit_code = 2


class OutcomeError(InputError):
    """One outcome row breaks the contract.

    ``reason`` is a short text without values of the row, so that rejects can be counted by it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TiersError(InputError):
    """The tiers file is missing, malformed or contradicts itself."""


class PriceError(InputError):
    """A price is needed and neither the price book nor an override has it."""


class EmbeddingError(InputError):
    """Text cannot be embedded, or an embedder folder cannot be read."""


class ArtifactError(InputError):
    """The artifact is missing, truncated, altered, unsigned where a key is set, or too new."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: "
            f"run pip install 'cps-router[{extra}]'."
        )


class DatasetError(CpsRouterError):
    """A named data set could not be fetched or does not have the expected digest."""


class RoutingError(CpsRouterError):
    """No tier can take this query."""


class ProviderError(CpsRouterError):
    """A call to a model failed.

    ``kind`` is "rate-limit" (429), "timeout", "outage" (no connection, 5xx, overloaded), "cut" (a
    stream that ended in the middle), "malformed" (an answer that cannot be read), "refused" (the
    request itself is at fault: 4xx), "auth" (key or permission), or, of a prompt in a batch,
    "expired" or "cancelled" before it was answered. ``retry_after_s`` is what the provider asked
    for, None where it did not. ``billed`` is True where the call may have cost something although
    no usage came. The message carries neither prompt nor key.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        retry_after_s: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.retry_after_s = retry_after_s
        self.billed = billed


class CostLimitError(CpsRouterError):
    """No attempt fits what a request may cost; nothing was sent beyond the limit."""


class LedgerError(CpsRouterError):
    """The ledger cannot be read or written now (locked, disk full, server gone)."""
