"""A provider of batches that outlives the processes that use it: everything is in a folder."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from router.errors import ProviderError
from router.providers.base import Answer, CacheMarks, Prompt
from router.providers.batching import BatchItem, BatchLimits, BatchResult, BatchStatus
from router.providers.caching import CachePolicy
from router.tiers import Tier, TierSet
from router.usage import Usage

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
PRICES = {
    "input_price_usd_per_mtok": 1.0,
    "cached_input_price_usd_per_mtok": 0.1,
    "cache_write_price_usd_per_mtok": 1.25,
    "output_price_usd_per_mtok": 4.0,
}
BATCH_PRICES = {f"batch_{name}": price / 2 for name, price in PRICES.items()}
TIERS = TierSet([Tier("small", "fake", "s-1", **PRICES, **BATCH_PRICES)])
USAGE = Usage(1000, 100, cached_input_tokens=400, cache_write_tokens=200)
# By hand: half of 400 x 1 + 400 x 0.1 + 200 x 1.25 + 100 x 4; half of 1000 x 1 + 100 x 4; all.
COST, UNCACHED, STANDARD = 545_000, 700_000, 1_400_000

Trace = Callable[[str], object]


def no_trace(_: str) -> None:
    return None


class Clock:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.at = NOON
        self.n_sleeps = 0

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.n_sleeps += 1
        assert self.n_sleeps < 1000  # what never ends shall fail


def failure(kind: str, **facts: Any) -> ProviderError:
    return ProviderError("as scripted", kind=kind, **facts)  # type: ignore[arg-type]


class OneByOne:
    """A provider without batches; ``fails`` by text: kinds of failure, one a call."""

    id = "single"

    def __init__(self, folder: Path, trace: Trace = no_trace, id: str = "single") -> None:
        self.folder, self.trace, self.id = folder, trace, id
        self.fails: dict[str, list[ProviderError]] = {}
        folder.mkdir(exist_ok=True, parents=True)

    def complete(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Answer:
        text = text_of(prompt)
        self.trace("before call")
        with (self.folder / "calls").open("a") as file:
            file.write(json.dumps(text) + "\n")
        self.trace("after call")
        if self.fails.get(text):
            raise self.fails[text].pop(0)
        return answer_to(text, model)

    @property
    def called(self) -> Counter[str]:
        path = self.folder / "calls"
        return (
            Counter(map(json.loads, path.read_text().splitlines())) if path.exists() else Counter()
        )

    async def acomplete(
        self, model: str, prompt: Prompt, *, timeout_s: float | None = None
    ) -> Answer:
        raise AssertionError("batch jobs neither await nor stream")

    def stream(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Any:
        raise AssertionError("batch jobs neither await nor stream")

    def astream(self, model: str, prompt: Prompt, *, timeout_s: float | None = None) -> Any:
        raise AssertionError("batch jobs neither await nor stream")

    def cache_policy(self, model: str, marks: CacheMarks) -> CachePolicy | None:
        return None


class Batches(OneByOne):
    """Takes batches too. What goes wrong is set by attributes.

    Attributes:
        limits: What one batch may hold.
        looks: How often a batch is "running" before it is final.
        states: By number of the batch, from 1: its final state, "ended" where not given.
        refuses: Texts for which a batch is refused as a whole.
        rows: By text: what comes in place of the answer, one a batch: an error, or None for
            nothing at all.
        twice: Every result is given twice.
        submit_fails: One a hand-in: an error, and whether the batch was taken in all the same.
        results_fail: One a reading: an error in the middle of the results.
        ended_at: When batches ended, as the provider says.
    """

    def __init__(self, folder: Path, trace: Trace = no_trace, id: str = "fake") -> None:
        super().__init__(folder, trace, id)
        self.batch_limits = BatchLimits(max_items=100, max_bytes=10**6)
        self.looks = 0
        self.states: dict[int, str] = {}
        self.refuses: set[str] = set()
        self.rows: dict[str, list[ProviderError | None]] = {}
        self.twice = False
        self.submit_fails: list[tuple[ProviderError, bool]] = []
        self.results_fail: list[ProviderError] = []
        self.status_fails: list[ProviderError] = []
        self.listed = True
        self.ended_at: datetime | None = None
        self.n_looks: Counter[str] = Counter()
        self.finds: list[str] = []

    def batch_bytes(self, model: str, item: BatchItem) -> int:
        return len(item.custom_id) + len(json.dumps([dict(m) for m in item.prompt.messages]))

    def submit_batch(self, model: str, items: Sequence[BatchItem], *, key: str) -> str:
        self.trace("before submit")
        fails, taken = self.submit_fails.pop(0) if self.submit_fails else (None, True)
        given = {item.custom_id: text_of(item.prompt) for item in items}
        assert len(given) == len(items) <= self.batch_limits.max_items
        if self.refuses & set(given.values()):
            raise failure("refused")
        batch_id = f"batch_{len(self.batches()) + 1}"
        if taken:
            entry = {"key": key, "model": model, "items": given, "cancelled": False}
            self._write(batch_id, entry)
        self.trace("after submit")
        if fails is not None:
            raise fails
        return batch_id

    def find_batch(
        self,
        key: str,
        custom_ids: Collection[str],
        *,
        since: datetime,
        known: Collection[str] = (),
    ) -> str | None:
        self.finds.append(key)
        if not self.listed:
            return None
        found = [name for name, batch in self.batches().items() if batch["key"] == key]
        assert len(found) < 2
        if found:
            assert set(self.batches()[found[0]]["items"]) == set(custom_ids)
        self.trace("after find")
        return found[0] if found else None

    def batch_status(self, batch_id: str) -> BatchStatus:
        if self.status_fails:
            raise self.status_fails.pop(0)
        self.n_looks[batch_id] += 1
        batch = self.batches()[batch_id]
        if self.n_looks[batch_id] <= self.looks and not batch["cancelled"]:
            return BatchStatus("running", len(batch["items"]), self.n_looks[batch_id])
        state: Any = "cancelled" if batch["cancelled"] else self._state(batch_id)
        self.trace("after status")
        n = len(batch["items"])
        return BatchStatus(state, n, n, ended_at=self.ended_at)

    def batch_results(self, batch_id: str) -> Iterator[BatchResult]:
        batch = self.batches()[batch_id]
        if batch["cancelled"] or self._state(batch_id) in ("failed", "expired"):
            return
        items = list(batch["items"].items()) * (2 if self.twice else 1)
        random.Random(7).shuffle(items)
        for place, (name, text) in enumerate(items):
            if self.results_fail and place == len(items) // 2:
                raise self.results_fail.pop(0)
            self.trace("before result")
            scripted = self.rows.get(text, [])[self._nth(batch_id, text) :][:1]
            if not scripted:
                yield BatchResult(name, answer_to(text, batch["model"]))
            elif scripted[0] is not None:
                yield BatchResult(name, error=scripted[0])
        yield BatchResult("somebody-elses-1", answer_to("other", "m"))

    def cancel_batch(self, batch_id: str) -> None:
        self.trace("before cancel")
        self._write(batch_id, {**self.batches()[batch_id], "cancelled": True})
        self.trace("after cancel")

    def batches(self) -> dict[str, dict[str, Any]]:
        """Those that were handed in, in order."""
        paths = sorted(self.folder.glob("batch_*.json"), key=lambda p: int(p.stem.split("_")[1]))
        return {path.stem: json.loads(path.read_text()) for path in paths}

    @property
    def handed_in(self) -> Counter[str]:
        """How often each text was handed in."""
        return Counter(t for batch in self.batches().values() for t in batch["items"].values())

    def _nth(self, batch_id: str, text: str) -> int:
        """How many batches before had the text."""
        earlier = list(self.batches())[: list(self.batches()).index(batch_id)]
        return sum(text in self.batches()[name]["items"].values() for name in earlier)

    def _state(self, batch_id: str) -> str:
        return self.states.get(int(batch_id.split("_")[1]), "ended")

    def _write(self, batch_id: str, entry: Mapping[str, Any]) -> None:
        partial = self.folder / "partial"
        partial.write_text(json.dumps(entry))
        partial.replace(self.folder / f"{batch_id}.json")


def text_of(prompt: Prompt) -> str:
    content = prompt.messages[-1]["content"]
    assert isinstance(content, str)
    return content


def answer_to(text: str, model: str) -> Answer:
    return Answer(f"answer to {text}", USAGE, finish_reason="stop", model=model)


def write_rows(path: Path, n: int, **facts: Any) -> Path:
    rows = [{"query": f"q{i}", "request_id": f"r{i}", **facts} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
