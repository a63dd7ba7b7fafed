"""Working on a batch job: hand in, look, collect, try again; each step noted before it is taken.

A part (one batch of one provider) goes through these states::

    planned -> handing-in -> running -> ended -> closed

"handing-in" is written before the provider is called. Who finds a part in that state does not know
whether the provider has it: it is looked for by its key first, and handed in again only where it
is not found, some time after the hand-in (``settle_s``), since lists of providers may lag behind.
A state never goes back: what the provider says of a part that has ended is not asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from router.batch_calls import Calls
from router.batch_channels import Channel
from router.batch_input import prompt_of
from router.batch_records import Ending
from router.batch_rows import Rows
from router.errors import InputError, MissingExtraError, ProviderError
from router.ledger_batch_parts import Part, PartStore
from router.ledger_batches import BatchStore, Job
from router.ledger_rows import moment
from router.providers.base import Provider
from router.providers.batching import BatchItem, BatchProvider, BatchResult
from router.tiers import TierSet

# A batch that is refused as a whole is cut in two so often; then its prompts are asked one by one.
MAX_HALVINGS = 4
_RESULTS_AT_A_TIME = 500
# After these the provider has certainly not taken a batch in.
_NOT_TAKEN = ("rate-limit", "refused", "auth")
_OF_OUTCOME = {
    "expired": Ending(kind="expired"),
    "cancelled": Ending(kind="cancelled"),
    "failed": Ending(kind="outage", reason="failed"),
    # It may have been answered and charged; nobody will ever tell.
    "ended": Ending(kind="malformed", reason="missing", billed=True),
}
# Kept for some weeks only; whoever pays for another answer shall know that it is another.
_GONE = Ending(kind="refused", reason="results-gone", billed=True)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker needs beside the store."""

    provider_of: Callable[[str], Provider]
    channel_of: Callable[[str], Channel]
    say: Callable[[str], object]
    settle_s: float
    n_calls: int
    call_timeout_s: float


class Worker:
    """Works on one job whose lease is held.

    Attributes:
        troubles: What did not work and will be tried again, by sentence.
        is_blocked: Whether one of them will not go away by waiting: a key is refused.
    """

    def __init__(self, store: BatchStore, job: Job, rows: Rows, tools: Tools) -> None:
        self._store, self._job, self._rows, self._tools = store, job, rows, tools
        self._parts = PartStore(store)
        self._tiers = TierSet.from_dicts(job.settings["tiers"])
        self.troubles: Counter[str] = Counter()
        self.is_blocked = False
        self._calls = Calls(
            *(store, job, rows, tools.provider_of, tools.n_calls, tools.call_timeout_s, tools.say)
        )

    def hand_in(self) -> None:
        """Settle what is in doubt, then hand in all that waits for a batch."""
        for part in self._parts.parts(self._job.job_id, "handing-in"):
            self._hand_in(part)
        if self._cancelling():
            self._give_up()
            return
        self._form()
        while parts := self._parts.parts(self._job.job_id, "planned"):
            for number, part in enumerate(parts, start=1):
                self._tools.say(f"handing in: batch {number} of {len(parts)}")
                self._hand_in(part)
            # What was cut in two is planned anew; what could not be handed in now waits.
            if self.troubles or not self._parts.parts(self._job.job_id, "planned"):
                return

    def once(self) -> bool:
        """One round: hand in, look, collect, call. Whether the job is done."""
        self.troubles.clear()
        self.hand_in()
        for part in self._parts.parts(self._job.job_id, "running"):
            self._look(part)
        for part in self._parts.parts(self._job.job_id, "ended"):
            self._collect(part)
        if self._cancelling():
            self._give_up()
        else:
            refused = self._calls.make()
            self.is_blocked |= bool(refused)
            self.troubles += refused
            self.hand_in()
            self._out_of_money()
        if self._parts.parts(self._job.job_id, "planned", "handing-in", "running", "ended"):
            return False
        return self._store.close_job(self._job.job_id)

    # Handing in

    def _form(self) -> None:
        for tier in self._tiers:
            channel = self._tools.channel_of(tier.name)
            limits = channel.limits
            provider = self._provider(tier.provider)
            if limits is None and isinstance(provider, BatchProvider):
                limits = provider.batch_limits  # rows were promised to it when it was in time
            if limits is None:
                continue
            named = (tier.name, tier.provider, tier.model)
            left = self._rows.left_nanousd()
            while True:
                expected = self._parts.form(
                    self._job.job_id, named, limits.max_items, limits.max_bytes, left
                )
                if expected is None:
                    break
                left = None if left is None else left - expected

    def _hand_in(self, part: Part) -> None:
        provider = self._provider(part.provider)
        if not isinstance(provider, BatchProvider):
            self._trouble(f"{part.provider} takes no batches (any more)")
            return
        now_us = self._store.now_us()
        items = PartItems(self._parts, part)
        since_us = now_us if part.since_us is None else part.since_us
        if part.state == "handing-in":
            assert part.handed_in_us is not None
            try:
                found = provider.find_batch(
                    part_key(part), items.custom_ids(), since=moment(since_us)
                )
            except ProviderError as error:
                self._trouble(
                    f"a batch cannot be looked for at {part.provider} ({error.kind})", error
                )
                return
            # Who keeps no names of ours may take another part's batch for this one.
            others = {other.batch_id for other in self._parts.parts(part.job_id)}
            if found is not None and found not in others:
                self._parts.set(part, "found part", state="running", batch_id=found)
                return
            age_s = (now_us - part.handed_in_us) / 1e6
            if age_s < self._tools.settle_s:
                self._trouble(
                    f"it is not certain yet whether {part.provider} has a batch: resume again in "
                    f"{self._tools.settle_s - age_s:.0f} s"
                )
                return
            if self._cancelling():
                self._parts.give_back(part, "cancelled")
                return
        self._parts.set(
            part, "mark handing in", state="handing-in", since_us=since_us, handed_in_us=now_us
        )
        try:
            batch_id = provider.submit_batch(part.model, items, key=part_key(part))
        except MissingExtraError:
            raise
        except (InputError, ProviderError) as error:
            self._not_handed_in(part, error)
            return
        self._parts.set(part, "mark running", state="running", batch_id=batch_id)

    def _not_handed_in(self, part: Part, error: InputError | ProviderError) -> None:
        kind = error.kind if isinstance(error, ProviderError) else "refused"
        if kind == "refused":
            self._refused(part)
            return
        if kind in _NOT_TAKEN:
            self._parts.set(part, "back to planned", state="planned")
        self._trouble(f"{part.provider} did not take a batch ({kind})", error)

    def _refused(self, part: Part) -> None:
        """Refused as a whole, maybe for one prompt: the others shall not pay for it."""
        if part.n_rows > 1 and part.halvings < MAX_HALVINGS and not self._cancelling():
            self._parts.halve(part)
        else:
            self._parts.give_back(part)

    def _give_up(self) -> None:
        """The job is cancelled: what is nowhere yet has failed."""
        for part in self._parts.parts(self._job.job_id, "planned"):
            self._parts.give_back(part, "cancelled")
        self._calls.settle_lost()
        self._store.fail_waiting(self._job.job_id, "cancelled")

    def _out_of_money(self) -> None:
        """Rows that wait, while nothing is under way that could leave money over."""
        if self._rows.left_nanousd() is None or self.troubles:
            return
        job_id = self._job.job_id
        if self._parts.parts(job_id, "planned", "handing-in", "running", "ended"):
            return
        if not self._calls.any_later():
            self._store.fail_waiting(job_id, "cost-limit")

    # Looking and collecting

    def _look(self, part: Part) -> None:
        provider = self._provider(part.provider)
        if not isinstance(provider, BatchProvider) or part.batch_id is None:
            self._trouble(f"{part.provider} takes no batches (any more)")
            return
        try:
            if self._cancelling() and part.outcome != "cancelling":
                provider.cancel_batch(part.batch_id)
                self._parts.set(part, "mark cancelling", outcome="cancelling")
            status = provider.batch_status(part.batch_id)
        except ProviderError as error:
            if error.kind == "refused" and self._cancelling():
                # It knows of no such batch (any more): there is nothing to wait for.
                self._parts.set(part, "mark gone", state="ended", outcome="ended")
                return
            self._trouble(f"{part.provider} does not say how a batch stands ({error.kind})", error)
            return
        if status.is_final:
            self._parts.set(
                part,
                "mark ended",
                state="ended",
                outcome=status.state,
                ended_us=self._store.now_us(),
                n_done=status.n_done,
            )
        elif status.n_done != part.n_done:
            self._parts.set(part, "note progress", n_done=status.n_done)
        self._tools.say(f"waiting for batch {part.part}: {status.n_done:,} of {part.n_rows:,}")

    def _collect(self, part: Part) -> None:
        provider = self._provider(part.provider)
        if not isinstance(provider, BatchProvider) or part.batch_id is None:
            self._trouble(f"{part.provider} takes no batches (any more)")
            return
        ending = _OF_OUTCOME.get(part.outcome or "", _OF_OUTCOME["ended"])
        found: dict[int, BatchResult] = {}
        n_ours = n_others = 0
        try:
            for result in provider.batch_results(part.batch_id):
                row = row_of(part, result.custom_id)
                if row is None:
                    n_others += 1
                    continue
                n_ours += 1
                # Of a row that is there twice, an answer counts more than an error.
                if row not in found or found[row].answer is None:
                    found[row] = result
                if len(found) >= _RESULTS_AT_A_TIME:
                    self._record(part, found)
                    found = {}
        except ProviderError as error:
            self._record(part, found)
            if error.kind != "refused":
                self._trouble(
                    f"results cannot be fetched from {part.provider} ({error.kind})", error
                )
                return
            ending = ending if part.outcome == "failed" else _GONE
        else:
            self._record(part, found)
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
            self._refused(part)
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

    def _provider(self, provider_id: str) -> Provider:
        return self._tools.provider_of(provider_id)

    def _cancelling(self) -> bool:
        return self._store.job(self._job.job_id).state == "cancelling"

    def _trouble(self, sentence: str, error: Exception | None = None) -> None:
        self.troubles[sentence] += 1
        self.is_blocked |= isinstance(error, ProviderError) and error.kind == "auth"


def part_key(part: Part) -> str:
    """Our name for a part, the same whenever it is handed in."""
    return f"cps-{part.job_id}-{part.part}"


def custom_id(part: Part, row: int) -> str:
    """Our name for a row of a part; another one in every part that it is in."""
    return f"{part.job_id}-{part.part}-{row}"


def row_of(part: Part, name: str) -> int | None:
    """The row of a custom id; None where it is none of this part's."""
    head, _, number = name.rpartition("-")
    if head != f"{part.job_id}-{part.part}" or not number.isascii() or not number.isdigit():
        return None
    return int(number)


class PartItems(Sequence[BatchItem]):
    """The prompts of a part, read from the ledger as they are asked for."""

    def __init__(self, parts: PartStore, part: Part) -> None:
        self._parts, self._part = parts, part

    def __len__(self) -> int:
        return self._part.n_rows

    def __getitem__(self, index: object) -> BatchItem:  # type: ignore[override]
        found = list(self)[index]  # type: ignore[call-overload]
        return found  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[BatchItem]:
        """In order of their prefixes; a prefix is marked for the cache where a neighbour has it."""
        rows = self._parts.rows(self._part, "prompt")
        before, row = "", next(rows, None)
        while row is not None:
            following = next(rows, None)
            head = _head(row)
            shared = head in (before, None if following is None else _head(following))
            name = custom_id(self._part, row["row"])
            yield BatchItem(name, prompt_of(row["prompt"], cached=shared))
            before, row = head, following

    def custom_ids(self) -> set[str]:
        """The names of its rows."""
        return {custom_id(self._part, row["row"]) for row in self._parts.rows(self._part)}


def _head(row: Mapping[str, str]) -> str:
    return row["order_key"].partition("/")[0]
