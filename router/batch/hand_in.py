"""Handing in the batches of a job: formed, noted, handed in, and looked for after a lost answer.

"handing-in" is written before the provider is called. Who finds a part in that state does not know
whether the provider has it: it is looked for by its key first, and handed in again only where it
is not found, some time after the hand-in (``settle_s``), since lists of providers may lag behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from router.batch.channels import Channel
from router.batch.input import prompt_of
from router.batch.rows import Rows
from router.errors import InputError, MissingExtraError, ProviderError
from router.ledger.batch_parts import Part, PartStore
from router.ledger.batches import BatchStore, Job
from router.ledger.rows import moment
from router.providers.base import Provider
from router.providers.batching import BatchItem, BatchProvider
from router.tiers import TierSet

# A batch that is refused as a whole is cut in two so often; then its prompts are asked one by one.
MAX_HALVINGS = 4
# After these the provider has certainly not taken a batch in.
_NOT_TAKEN = ("rate-limit", "refused", "auth")


# The outcome of a part that runs under a batch that may be somebody else's.
ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker needs beside the store."""

    provider_of: Callable[[str], Provider]
    channel_of: Callable[[str], Channel]
    say: Callable[[str], object]
    settle_s: float
    n_calls: int
    call_timeout_s: float
    poll_s: float
    # When this process last saw a part run.
    looked_us: dict[tuple[str, int], int]


@dataclass(slots=True)
class Troubles:
    """What did not work and will be tried again, by sentence.

    ``is_blocked``: one of them will not go away by waiting, a key that is refused.
    """

    sentences: Counter[str] = field(default_factory=Counter)
    is_blocked: bool = False

    def add(self, sentence: str, error: Exception | None = None) -> None:
        """Note one."""
        self.sentences[sentence] += 1
        self.is_blocked |= isinstance(error, ProviderError) and error.kind == "auth"


class HandIn:
    """Hands in the batches of one job whose lease is held."""

    def __init__(
        self, store: BatchStore, job: Job, rows: Rows, tools: Tools, troubles: Troubles
    ) -> None:
        self._store, self._job, self._rows, self._tools = store, job, rows, tools
        self._parts, self._troubles = PartStore(store), troubles
        self._tiers = TierSet.from_dicts(job.settings["tiers"])

    def settle(self) -> None:
        """Find out what became of hand-ins whose answer was lost."""
        for part in self._parts.parts(self._job.job_id, "handing-in"):
            self._settle(part)

    def all(self) -> None:
        """Form batches of what waits, and hand them in."""
        self._form()
        while parts := self._parts.parts(self._job.job_id, "planned"):
            for number, part in enumerate(parts, start=1):
                self._tools.say(f"handing in: batch {number} of {len(parts)}")
                self._hand_in(part)
            # What was cut in two is planned anew; what could not be handed in now waits.
            if self._troubles.sentences:
                return

    def refused(self, part: Part) -> None:
        """Refused as a whole, maybe for one prompt: the others shall not pay for it."""
        if part.n_rows > 1 and part.halvings < MAX_HALVINGS and not self._cancelling():
            self._parts.halve(part)
        else:
            self._parts.give_back(part)

    def _form(self) -> None:
        for tier in self._tiers:
            channel = self._tools.channel_of(tier.name)
            limits = channel.limits
            provider = self._tools.provider_of(tier.provider)
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

    def _settle(self, part: Part) -> None:
        provider = self._provider(part)
        if provider is None:
            return
        assert part.since_us is not None and part.handed_in_us is not None
        ids = PartItems(self._parts, part).custom_ids()
        # Who keeps no names of ours may take another part's batch for this one.
        known = self._parts.batch_ids(part.provider)
        try:
            found = provider.find_batch(
                part_key(part), ids, since=moment(part.since_us), known=known
            )
        except ProviderError as error:
            sentence = f"a batch cannot be looked for at {part.provider} ({error.kind})"
            self._troubles.add(sentence, error)
            return
        if found is not None and found not in known:
            outcome = None if provider.batch_limits.keeps_keys else ADOPTED
            self._parts.set(part, "found part", state="running", batch_id=found, outcome=outcome)
            return
        age_s = (self._store.now_us() - part.handed_in_us) / 1e6
        if age_s < self._tools.settle_s:
            self._troubles.add(
                f"it is not certain yet whether {part.provider} has a batch: resume again in "
                f"{self._tools.settle_s - age_s:.0f} s"
            )
        elif self._cancelling():
            self._parts.give_back(part, "cancelled")
        else:
            self._hand_in(part)

    def _hand_in(self, part: Part) -> None:
        provider = self._provider(part)
        if provider is None:
            return
        now_us = self._store.now_us()
        since_us = now_us if part.since_us is None else part.since_us
        self._parts.set(
            part, "mark handing in", state="handing-in", since_us=since_us, handed_in_us=now_us
        )
        items = PartItems(self._parts, part)
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
            self.refused(part)
            return
        if kind in _NOT_TAKEN:
            self._parts.set(part, "back to planned", state="planned")
        self._troubles.add(f"{part.provider} did not take a batch ({kind})", error)

    def _provider(self, part: Part) -> BatchProvider | None:
        return batch_provider(self._tools, part, self._troubles)

    def _cancelling(self) -> bool:
        return self._store.job(self._job.job_id).state == "cancelling"


def batch_provider(tools: Tools, part: Part, troubles: Troubles) -> BatchProvider | None:
    """The provider of a part, None where it takes no batches (any more)."""
    provider = tools.provider_of(part.provider)
    if isinstance(provider, BatchProvider):
        return provider
    troubles.add(f"{part.provider} takes no batches (any more)")
    return None


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
