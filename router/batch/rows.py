"""The end of an attempt at a row of a batch job: recorded, and tried again within the limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from router.batch.channels import Channel
from router.batch.records import Again, Bookkeeper, Ending
from router.ledger.batch_parts import Part
from router.ledger.batch_rows import RowStore
from router.ledger.batches import BatchStore, Job
from router.records import NANOUSD_PER_USD

# Another try may do better after these; "cancelled" was somebody's wish.
_TRANSIENT = ("rate-limit", "timeout", "outage", "cut", "malformed", "expired")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 60.0


class Rows:
    """Ends attempts of one job's rows."""

    def __init__(
        self,
        store: BatchStore,
        job: Job,
        bookkeeper: Bookkeeper,
        channel_of: Callable[[str], Channel],
    ) -> None:
        self._store, self._job, self._bookkeeper = store, job, bookkeeper
        self._channel_of = channel_of
        self._max_attempts = int(job.settings["max_attempts"])
        self._max_cost_usd: float | None = job.settings["max_cost_usd"]

    def end(
        self,
        rows: Iterable[Mapping[str, Any]],
        ending_of: Callable[[int], Ending],
        name: str,
        *,
        part: Part | None = None,
        waits_s: Mapping[int, float] | None = None,
    ) -> None:
        """Write how attempts ended, all in one transaction; of a part, or called one by one."""
        now_us = self._store.now_us()
        cancelling = self._store.job(self._job.job_id).state == "cancelling"
        updates, records = [], []
        for row in rows:
            ending = ending_of(row["row"])
            asked_s = (waits_s or {}).get(row["row"], 0.0)
            again = None if cancelling else self._again(row, ending, part, asked_s, now_us)
            begun_us = row["called_us"] if part is None else part.handed_in_us
            ended_us = now_us if part is None else part.ended_us
            update, record = self._bookkeeper.ended(
                row,
                ending,
                again,
                begun_us=begun_us or now_us,
                ended_us=ended_us or now_us,
                batched=part is not None,
            )
            updates.append(update)
            records.append(record)
        if updates:
            RowStore(self._store).record(self._job.job_id, updates, records, name)

    def left_nanousd(self) -> int | None:
        """What may still be spent, less what is expected of all under way; None without a limit."""
        if self._max_cost_usd is None:
            return None
        spent = self._store.job(self._job.job_id).spent_nanousd
        committed = RowStore(self._store).committed_nanousd(self._job.job_id)
        return round(self._max_cost_usd * NANOUSD_PER_USD) - spent - committed

    def _again(
        self,
        row: Mapping[str, Any],
        ending: Ending,
        part: Part | None,
        asked_s: float,
        now_us: int,
    ) -> Again | None:
        number = row["attempts"] + 1
        if ending.answer is not None or ending.kind not in _TRANSIENT:
            return None
        if number >= self._max_attempts:
            return None
        if part is not None:
            # A batch again where it is in time and takes the row, else one by one.
            return Again(self._channel_of(row["tier"]).limits is not None)
        wait_s = asked_s + min(_FIRST_WAIT_S * 2.0 ** (number - 1), _LONGEST_WAIT_S)
        return Again(False, now_us + round(wait_s * 1e6))
