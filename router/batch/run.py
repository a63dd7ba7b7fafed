"""Working on a batch job: hand in, look, collect, try again; each step noted before it is taken.

A part (one batch of one provider) goes through these states::

    planned -> handing-in -> running -> ended -> closed

Handing in is in `router.batch.hand_in`. A state never goes back: what the provider says of a part
that has ended is not asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from router.batch.calls import Calls
from router.batch.hand_in import ADOPTED, HandIn, Tools, Troubles, batch_provider, row_of
from router.batch.records import Ending
from router.batch.rows import Rows
from router.errors import ProviderError
from router.ledger.batch_parts import Part, PartStore
from router.ledger.batch_rows import COST_LIMIT, RowStore
from router.ledger.batches import BatchStore, Job
from router.ledger.rows import moment_us
from router.providers.batching import BatchProvider, BatchResult, BatchStatus

_RESULTS_AT_A_TIME = 500
_OF_OUTCOME: dict[str, Ending] = {
    "expired": Ending(kind="expired"),
    "cancelled": Ending(kind="cancelled"),
    "failed": Ending(kind="outage", reason="failed"),
    # It may have been answered and charged; nobody will ever tell.
    "ended": Ending(kind="malformed", reason="missing", billed=True),
}
# Kept for some weeks only; whoever pays for another answer shall know that it is another.
_GONE = Ending(kind="refused", reason="results-gone", billed=True)
_OF_OUTCOME["gone"] = _GONE


class Worker:
    """Works on one job whose lease is held.

    Attributes:
        troubles: What did not work and will be tried again.
    """

    def __init__(self, store: BatchStore, job: Job, rows: Rows, tools: Tools) -> None:
        self._store, self._job, self._rows, self._tools = store, job, rows, tools
        self._parts, self._marks = PartStore(store), RowStore(store)
        self.troubles = Troubles()
        self._hand_ins = HandIn(store, job, rows, tools, self.troubles)
        self._calls = Calls(
            *(store, job, rows, tools.provider_of, tools.n_calls, tools.call_timeout_s, tools.say)
        )

    def hand_in(self) -> None:
        """Settle what is in doubt, then hand in all that waits for a batch."""
        self._hand_ins.settle()
        if self._cancelling():
            self._give_up()
        else:
            self._hand_ins.all()

    def once(self) -> bool:
        """One round: hand in, look, collect, call. Whether the job is done."""
        self.hand_in()
        for part in self._parts.parts(self._job.job_id, "running"):
            self._look(part)
        for part in self._parts.parts(self._job.job_id, "ended"):
            self._collect(part)
        if self._cancelling():
            self._give_up()
        else:
            refused = self._calls.make()
            self.troubles.is_blocked |= bool(refused)
            self.troubles.sentences += refused
            self._hand_ins.all()
            self._out_of_money()
        if self._parts.parts(self._job.job_id, "planned", "handing-in", "running", "ended"):
            return False
        return self._store.close_job(self._job.job_id)

    def _give_up(self) -> None:
        """The job is cancelled: what is nowhere yet has failed."""
        for part in self._parts.parts(self._job.job_id, "planned"):
            self._parts.give_back(part, "cancelled")
        self._calls.settle_lost()
        self._marks.fail_waiting(self._job.job_id, "cancelled")

    def _out_of_money(self) -> None:
        """Rows that wait, while nothing is under way that could leave money over."""
        if self._rows.left_nanousd() is None or self.troubles.sentences:
            return
        job_id = self._job.job_id
        if self._parts.parts(job_id, "planned", "handing-in", "running", "ended"):
            return
        if not self._calls.any_later():
            self._marks.fail_waiting(job_id, COST_LIMIT)

    # Looking and collecting

    def _look(self, part: Part) -> None:
        provider = batch_provider(self._tools, part, self.troubles)
        if provider is None or part.batch_id is None:
            return
        try:
            if self._cancelling() and part.outcome == ADOPTED:
                # Another's batch shall not be cancelled; the results tell whose it is.
                self._troubles_of_adopted(part)
            elif self._cancelling() and part.outcome != "cancelling":
                self._cancel(provider, part, part.batch_id)
            status = provider.batch_status(part.batch_id)
        except ProviderError as error:
            if error.kind == "refused" and self._is_gone(part):
                return
            self.troubles.add(
                f"{part.provider} does not say how a batch stands ({error.kind})", error
            )
            return
        if status.is_final:
            self._parts.set(
                part,
                "mark ended",
                state="ended",
                outcome=status.state,
                ended_us=self._ended_us(part, status),
                n_done=status.n_done,
            )
        elif status.n_done != part.n_done or part.ended_us is not None:
            self._parts.set(part, "note progress", n_done=status.n_done, ended_us=None)
        self._tools.looked_us[part.job_id, part.part] = self._store.now_us()
        self._tools.say(f"waiting for batch {part.part}: {status.n_done:,} of {part.n_rows:,}")

    def _cancel(self, provider: BatchProvider, part: Part, batch_id: str) -> None:
        try:
            provider.cancel_batch(batch_id)
        except ProviderError as error:
            if error.kind != "refused":
                raise
            return  # whether it knows the batch at all, its status tells
        self._parts.set(part, "mark cancelling", outcome="cancelling")

    def _troubles_of_adopted(self, part: Part) -> None:
        self.troubles.add(
            f"a batch at {part.provider} is not cancelled, since only its results tell whether it "
            "is this job's"
        )

    def _is_gone(self, part: Part) -> bool:
        """The provider knows of no such batch; whether there is nothing more to wait for."""
        now_us = self._store.now_us()
        # While a part runs: when this was first said, since a list may lag behind.
        first_us = part.ended_us
        if not self._cancelling():
            if first_us is None:
                self._parts.set(part, "note unknown", ended_us=now_us)
            if first_us is None or now_us - first_us < self._tools.settle_s * 1e6:
                return False
        self._parts.set(part, "mark gone", state="ended", outcome="gone", ended_us=None)
        return True

    def _ended_us(self, part: Part, status: BatchStatus) -> int | None:
        """When it ended; None where nobody saw it, so that it counts for no duration."""
        now_us = self._store.now_us()
        begun_us = part.handed_in_us or now_us
        if status.ended_at is not None:
            # The clocks may differ.
            return min(max(moment_us("ended_at", status.ended_at), begun_us), now_us)
        before_us = self._tools.looked_us.get((part.job_id, part.part), begun_us)
        return now_us if now_us - before_us <= 2 * self._tools.poll_s * 1e6 else None

    def _collect(self, part: Part) -> None:
        provider = batch_provider(self._tools, part, self.troubles)
        if provider is None or part.batch_id is None:
            return
        ending = _OF_OUTCOME.get(part.outcome or "", _OF_OUTCOME["ended"])
        # Of a row that is there twice, an answer counts more than an error, wherever it stands.
        found: dict[int, BatchResult] = {}
        errors: dict[int, BatchResult] = {}
        n_ours = n_others = 0
        try:
            for result in provider.batch_results(part.batch_id):
                row = row_of(part, result.custom_id)
                if row is None:
                    n_others += 1
                    continue
                n_ours += 1
                (errors if result.answer is None else found)[row] = result
                if len(found) >= _RESULTS_AT_A_TIME:
                    self._record(part, found)
                    found = {}
        except ProviderError as error:
            self._record(part, found)
            if error.kind != "refused":
                self.troubles.add(
                    f"results cannot be fetched from {part.provider} ({error.kind})", error
                )
                return
            ending = ending if part.outcome == "failed" else _GONE
        else:
            self._record(part, found)
        failed = iter(errors.items())
        while some := dict(islice(failed, _RESULTS_AT_A_TIME)):
            self._record(part, some)
        if n_others and not n_ours:
            # Taken for ours while it ran, as a provider may that keeps no names: look again.
            gone = {"batch_id": None, "outcome": None, "ended_us": None}
            self._parts.set(part, "disown batch", state="handing-in", **gone)
            return
        self._close(part, ending)

    def _close(self, part: Part, ending: Ending) -> None:
        """What has no result has ended so."""
        missing = [row["row"] for row in self._parts.rows(part)]
        if part.outcome == "failed" and len(missing) == part.n_rows:
            self._hand_ins.refused(part)
            return
        for start in range(0, len(missing), _RESULTS_AT_A_TIME):
            rows = self._parts.rows_of(part, missing[start : start + _RESULTS_AT_A_TIME])
            self._rows.end(rows.values(), lambda _: ending, "record missing", part=part)
        self._parts.set(part, "close part", state="closed")

    def _record(self, part: Part, found: Mapping[int, BatchResult]) -> None:
        if not found:
            return
        rows = self._parts.rows_of(part, list(found))

        def ending(row: int) -> Ending:
            result = found[row]
            if result.answer is not None:
                return Ending(result.answer)
            error = result.error
            if error is None:
                return Ending(kind="malformed", billed=True)
            return Ending(kind=error.kind, billed=error.billed)

        self._rows.end(rows.values(), ending, "record results", part=part)
        self._tools.say(f"collecting: batch {part.part}")

    def _cancelling(self) -> bool:
        return self._store.job(self._job.job_id).state == "cancelling"
