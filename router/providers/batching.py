"""The protocol of batches: many prompts handed in at once, answered within a day at half the price.

A batch is known by three names: ours (``key``, the same whenever the same batch is handed in), the
provider's (``batch_id``), and, for each of its prompts, a ``custom_id`` by which its result is
found again; results come in any order. A hand-in whose answer was lost is looked for by
``find_batch`` before it is repeated, so that nothing is paid for twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from router.errors import ProviderError
from router.providers.base import Answer, Prompt

# "running" includes being checked, queued and wound up; the others are final.
BatchState = Literal["running", "ended", "failed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One prompt of a batch; ``custom_id`` has 1 to 64 letters, digits, "-" and "_"."""

    custom_id: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch may hold, and within what time it is answered.

    ``keeps_keys`` False: the provider keeps no names of ours, so that a batch that was looked for
    may turn out to be somebody else's.
    """

    max_items: int
    max_bytes: int
    turnaround_s: float = 86_400.0
    keeps_keys: bool = True


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """Where a batch stands. Also a cancelled or expired one may have results.

    ``ended_at`` is when it became final, by the provider's clock; None where it does not say.
    """

    state: BatchState
    n_items: int | None = None
    n_done: int = 0
    n_failed: int = 0
    ended_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One prompt's answer, or why there is none; exactly one of the two is there."""

    custom_id: str
    answer: Answer | None = None
    error: ProviderError | None = None


@runtime_checkable
class BatchProvider(Protocol):
    """A provider that takes batches. Calls raise ProviderError, and try once."""

    id: str
    batch_limits: BatchLimits

    def batch_bytes(self, model: str, item: BatchItem) -> int:
        """How many bytes a prompt adds to what is handed in."""
        ...

    def submit_batch(self, model: str, items: Sequence[BatchItem], *, key: str) -> str:
        """Hand a batch in; returns the provider's id of it."""
        ...

    def find_batch(
        self,
        key: str,
        custom_ids: Collection[str],
        *,
        since: datetime,
        known: Collection[str] = (),
    ) -> str | None:
        """The provider's id of a batch that was handed in with this key, None where there is none.

        ``since`` is a moment before the hand-in. A provider that keeps no names of ours compares
        what it tells of its batches with ``custom_ids``. ``known`` are batches that are others.
        """
        ...

    def batch_status(self, batch_id: str) -> BatchStatus:
        """Where it stands."""
        ...

    def batch_results(self, batch_id: str) -> Iterator[BatchResult]:
        """What has come, in any order; read as a stream."""
        ...

    def cancel_batch(self, batch_id: str) -> None:
        """Ask for an end; what was answered stays answered, and is charged."""
        ...
