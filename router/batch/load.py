"""Loading a batch job: its input is read, routed and stored, row by row and once each.

Nothing is handed in before all of it is stored. A process that dies in the middle leaves a job that
is "loading"; whoever goes on reads the same file again, and rows that are there stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from router.batch.channels import Channel
from router.batch.input import InputRow, Reject, Rejects, read_rows
from router.batch.plan import NO_TIER, Planned, Planner, expected_nanousd
from router.errors import InputError
from router.ledger.batch_rows import RowStore
from router.ledger.batches import BatchStore
from router.providers.base import Provider
from router.providers.batching import BatchItem, BatchProvider

_ROWS_AT_A_TIME = 500
# Of the longest custom id there can be.
_ANY_ID = "x" * 64
TWICE = "its request_id occurs twice"

Say = Callable[[str], object]


class Loader:
    """Loads one job through a planner; ``channels`` by tier."""

    def __init__(
        self,
        store: BatchStore,
        job_id: str,
        planner: Planner,
        channels: Mapping[str, Channel],
        provider_of: Callable[[str], Provider],
        say: Say,
    ) -> None:
        self._store, self._job_id, self._planner = store, job_id, planner
        self._rows = RowStore(store)
        self._channels, self._provider_of, self._say = channels, provider_of, say

    def load(self, path: Path, rejects_beside: Path | None) -> Path | None:
        """Read the input to its end; where the bad rows were written, None without any."""
        n = 0
        with Rejects(rejects_beside) as rejects, _opened(path) as lines:
            found = read_rows(lines)
            while rows := list(islice(found, _ROWS_AT_A_TIME)):
                good = []
                for row in rows:
                    if isinstance(row, Reject):
                        rejects.add(row)
                    else:
                        good.append(row)
                for reject in self._add(good):
                    rejects.add(reject)
                n += len(rows)
                self._say(f"reading and routing: {n:,} rows")
            self._store.count_rejects(self._job_id, rejects.reasons)
        return rejects.path

    def _add(self, rows: list[InputRow]) -> list[Reject]:
        named, rejects = self._named(rows)
        if not named:
            return rejects
        plans = self._planner.plan([row for row, _ in named], [name for _, name in named])
        added = []
        for (row, name), planned in zip(named, plans, strict=True):
            if planned is None:
                rejects.append(Reject(row.line, NO_TIER, row.request_id))
            else:
                added.append(self._stored(row, name, planned))
        self._rows.add_rows(self._job_id, added)
        return rejects

    def _named(self, rows: list[InputRow]) -> tuple[list[tuple[InputRow, str]], list[Reject]]:
        """Rows with their names in the ledger, which are their own where these are free."""
        mine = f"@{self._job_id}"
        ids = [row.request_id or f"{self._job_id}-{row.line}" for row in rows]
        taken = self._rows.taken_ids([*ids, *(name + mine for name in ids)])
        named, rejects, here = [], [], set()
        for row, own in zip(rows, ids, strict=True):
            # Rows of this job keep what they got at an earlier reading.
            owners = {name: taken[name] for name in (own, own + mine) if name in taken}
            kept = next((n for n, who in owners.items() if who == (self._job_id, row.line)), None)
            twice = own in here or any(
                who[0] == self._job_id and who[1] != row.line for who in owners.values()
            )
            if kept is None and twice:
                rejects.append(Reject(row.line, TWICE, row.request_id))
                continue
            here.add(own)
            named.append((row, kept or (own + mine if own in owners else own)))
        return named, rejects

    def _stored(self, row: InputRow, name: str, planned: Planned) -> dict[str, Any]:
        tier = planned.decision.tier
        channel = self._channels[tier]
        n_bytes, is_batched = len(row.stored), False
        if channel.limits is not None:
            # Its channel has limits, so it takes batches; to ask each time would take longer.
            provider = cast(BatchProvider, self._provider_of(channel.tier.provider))
            try:
                item = BatchItem(_ANY_ID, row.prompt)
                n_bytes = provider.batch_bytes(channel.tier.model, item)
                is_batched = channel.batched(planned.n_input, planned.n_output, n_bytes)
            except InputError:
                pass  # a prompt that this provider cannot shape: its own call will say so
        decided = {"decision": planned.decision.to_dict(), "baseline": planned.baseline}
        return {
            "job_id": self._job_id,
            "row": row.line,
            "request_id": row.request_id or f"{self._job_id}-{row.line}",
            "ledger_id": name,
            "state": "waiting",
            "tier": tier,
            "batched": is_batched,
            "order_key": row.order_key,
            "n_bytes": n_bytes,
            "expected_nanousd": expected_nanousd(channel, planned, batched=is_batched),
            "attempts": 0,
            "not_before_us": 0,
            "prompt": row.stored,
            "decision": json.dumps(decided),
        }


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            f"expected a file of JSON lines at {path}, got {error.strerror or 'an error'}: check "
            "the path."
        ) from None
    with file:
        yield file
