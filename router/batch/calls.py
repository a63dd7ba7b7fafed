"""Rows of a batch job that are asked one by one: no batch reaches their tier in time, or cheaper.

A row is marked before it is called. A call cannot be looked for as a batch can: one whose process
died counts as an attempt of unknown cost, and is made again within the limit on attempts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from router.batch.input import prompt_of
from router.batch.records import Ending
from router.batch.rows import Rows
from router.errors import InputError, MissingExtraError, ProviderError
from router.ledger.batch_rows import RowStore
from router.ledger.batches import BatchStore, Job
from router.providers.base import Provider
from router.tiers import TierSet

LOST = Ending(kind="cut", reason="lost", billed=True)
_ROWS_AT_A_TIME = 500
_KEYS_AT_A_TIME = 5000


class Calls:
    """Makes the calls of one job, ``n_calls`` at a time."""

    def __init__(
        self,
        store: BatchStore,
        job: Job,
        rows: Rows,
        provider_of: Callable[[str], Provider],
        n_calls: int,
        timeout_s: float,
        say: Callable[[str], object],
    ) -> None:
        self._say, self._marks = say, RowStore(store)
        self._store, self._job, self._rows = store, job, rows
        self._provider_of, self._n_calls, self._timeout_s = provider_of, n_calls, timeout_s
        self._tiers = TierSet.from_dicts(job.settings["tiers"])

    def settle_lost(self) -> None:
        """End the attempts whose process died."""
        while lost := self._marks.lost_calls(self._job.job_id, _ROWS_AT_A_TIME):
            self._rows.end(lost, lambda _: LOST, "record lost calls")

    def make(self) -> Counter[str]:
        """Call all rows that are due, as far as the money goes; what did not work, by sentence."""
        self.settle_lost()
        troubles: Counter[str] = Counter()
        keys: deque[int] = deque()
        with ThreadPoolExecutor(self._n_calls) as pool:
            while True:
                if self._store.job(self._job.job_id).state == "cancelling":
                    return troubles
                if not keys:
                    keys.extend(self._marks.due_calls(self._job.job_id, _KEYS_AT_A_TIME))
                some = list(islice(keys, self._n_calls))
                due = self._affordable(self._marks.waiting(self._job.job_id, some))
                if not due:
                    return troubles
                numbers = [row["row"] for row in due]
                for _ in due:
                    keys.popleft()
                self._marks.mark_calling(self._job.job_id, numbers)
                marked = self._marks.lost_calls(self._job.job_id, self._n_calls)
                calls: dict[int, Future[tuple[Ending, float]]] = {}
                outcomes: dict[int, tuple[Ending, float]] = {}
                try:
                    for row in due:
                        calls[row["row"]] = pool.submit(self._call, row)
                    for number, call in calls.items():
                        outcomes[number] = call.result()
                except BaseException:
                    # Such as Ctrl-C: those that are under way are paid for, so they are waited for.
                    outcomes |= _ended(calls)
                    raise
                finally:
                    self._record(marked, outcomes, troubles)
                if troubles:
                    return troubles

    def _record(
        self,
        marked: list[Any],
        outcomes: Mapping[int, tuple[Ending, float]],
        troubles: Counter[str],
    ) -> None:
        unasked = [row for row, (ending, _) in outcomes.items() if ending.kind == "auth"]
        if unasked:
            # Nothing was asked, and the next ones would fail in the same way.
            self._marks.unmark_calling(self._job.job_id, unasked)
            troubles["a provider refuses the key, or has none"] += 1
        asked = [row for row in marked if row["row"] in outcomes and row["row"] not in unasked]
        waits_s = {row: wait_s for row, (_, wait_s) in outcomes.items()}
        endings = {row: ending for row, (ending, _) in outcomes.items()}
        self._rows.end(asked, endings.__getitem__, "record calls", waits_s=waits_s)
        self._say(f"calling: {len(asked)} more rows")

    def any_later(self) -> bool:
        """Whether a row waits for its time to be called again."""
        next_us = self._marks.next_call_us(self._job.job_id)
        return next_us is not None and next_us > self._store.now_us()

    def _affordable(self, due: list[Any]) -> list[Any]:
        left = self._rows.left_nanousd() if due else None
        if left is None:
            return due
        taken = []
        for row in due:
            left -= row["expected_nanousd"]
            if left < 0:
                break
            taken.append(row)
        return taken

    def _call(self, row: Mapping[str, Any]) -> tuple[Ending, float]:
        """How it ended, and how long the provider asks to wait."""
        tier = self._tiers[self._tiers.index(row["tier"])]
        try:
            provider = self._provider_of(tier.provider)
            prompt = prompt_of(row["prompt"])
            answer = provider.complete(tier.model, prompt, timeout_s=self._timeout_s)
        except MissingExtraError:
            raise
        except ProviderError as error:
            return Ending(kind=error.kind, billed=error.billed), error.retry_after_s or 0.0
        except InputError:
            return Ending(kind="refused"), 0.0
        return Ending(answer), 0.0


def _ended(calls: Mapping[int, Future[tuple[Ending, float]]]) -> dict[int, tuple[Ending, float]]:
    """How those calls ended that ended by themselves, once all have."""
    wait(calls.values())
    return {
        number: call.result()
        for number, call in calls.items()
        if not call.cancelled() and call.exception() is None
    }
