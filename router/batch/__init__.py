"""Batch jobs: prompts that can wait, each routed at batch prices, handed in once, and recorded.

::

    with Ledger("ledger.db") as ledger:
        jobs = BatchJobs(ledger, router=Router.load())
        job = jobs.submit("prompts.jsonl", deadline_s=24 * 3600)
        jobs.resume(job.job_id, wait=True)
        for row in jobs.results(job.job_id):
            ...

A process may die at any point; `resume`, of any process with the same ledger, goes on.
docs/batch.md says what survives what.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.batch.channels import Channel, channel_of
from router.batch.input import digest_of
from router.client.cost_limit import check_limit
from router.errors import InputError, LedgerError
from router.ledger import Ledger
from router.ledger.lease import DEFAULT_LEASE_S, Holder
from router.ledger.rows import moment, moment_us
from router.prices import PriceBook
from router.providers import make_provider
from router.providers.base import Provider
from router.tiers import Tier, TierSet

if TYPE_CHECKING:
    from router.batch.plan import Planner
    from router.batch.report import JobStatus, RowResult
    from router.batch.run import Worker
    from router.ledger.batches import BatchStore, Job
    from router.routing import Router

__all__ = ["BatchJobs"]

DAY_S = 86_400.0
MAX_ATTEMPTS = 3
Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class BatchJobs:
    """The batch jobs of one ledger. Any number of processes may look; one at a time works on a job.

    Args:
        ledger: Where jobs, prompts and answers are kept.
        router: Where each row goes; needed to submit without a ``tier``.
        tiers: For a ``tier`` without a router.
        providers: By id. Those that are missing are made on first use, from the environment.
        price_book: Prices for routing and records.
        on_progress: Is told in a few words what is being done.
        n_calls: How many rows that no batch takes are asked at a time.
        call_timeout_s: For one of these.
        poll_s: How long ``resume(wait=True)`` waits between two looks.
        settle_s: How long after a hand-in whose answer was lost the provider's lists are believed
            to lack what they do not show.
        lease_s: How long after its last step a process is believed to work on a job.
        now: The time, aware.
        sleep: Waits.
        trace: Is told of each step before and after it is taken; for tests of crashes.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        router: Router | None = None,
        tiers: TierSet | None = None,
        providers: Mapping[str, Provider] | None = None,
        price_book: PriceBook | None = None,
        on_progress: Callable[[str], object] = lambda _: None,
        n_calls: int = 4,
        call_timeout_s: float = 120.0,
        poll_s: float = 30.0,
        settle_s: float = 60.0,
        lease_s: float = DEFAULT_LEASE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], object] = time.sleep,
        trace: Callable[[str], object] = lambda _: None,
    ) -> None:
        from router.ledger.batches import BatchStore

        self._router, self._tiers = router, tiers
        self._providers: dict[str, Provider] = dict(providers or {})
        self._book = PriceBook() if price_book is None else price_book
        self._say, self._sleep, self._now = on_progress, sleep, now
        self._n_calls, self._call_timeout_s = n_calls, call_timeout_s
        self._poll_s, self._settle_s = poll_s, settle_s
        self._ledger = ledger
        self._looked_us: dict[tuple[str, int], int] = {}
        holder = Holder.of_this_process(lease_s)
        self._store: BatchStore = BatchStore(ledger, holder, self._now_us, trace)

    def submit(
        self,
        source: Source,
        *,
        tier: str | None = None,
        deadline_s: float = DAY_S,
        max_cost_usd: float | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        name: str = "",
    ) -> JobStatus:
        """Read rows, route them, store them, and hand in what goes in batches.

        The same input with the same settings is the same job, so that a submission that was cut
        off can be repeated: nothing is handed in twice. ``max_cost_usd`` and ``max_attempts`` of
        the latest one hold: rows that ended for want of money go on when the limit is raised. With
        another ``name`` it is another job.

        Args:
            source: A file of JSON lines, or rows as mappings; see `router.batch.input`.
            tier: The tier that all rows go to.
            deadline_s: Until when answers are wanted: a provider whose batches take longer is
                asked one by one.
            max_cost_usd: What the job may cost, by what its rows are expected to.
            max_attempts: How often a row is tried.
            name: Tells apart jobs of one input.

        Raises:
            InputError: the input cannot be read, or an argument is at fault.
            LedgerError: the ledger cannot be used, or another process works on the job.
        """
        check_limit(max_cost_usd)
        _check(deadline_s, max_attempts)
        with _as_file(source) as (path, given):
            settings = {
                "digest": digest_of(path),
                "source": given,
                "tier": tier,
                "tiers": self._tiers_of(tier).to_dicts(),
                "artifact_id": self._artifact_id(),
                "deadline_s": float(deadline_s),
                "max_cost_usd": max_cost_usd,
                "max_attempts": max_attempts,
                "name": name,
            }
            self._check_providers(settings)
            job = self._store.add_job(_job_id(settings), settings)
            limits = {name: settings[name] for name in ("max_cost_usd", "max_attempts")}
            if job.state == "done" and not self._is_raised(job, limits):
                return self.status(job.job_id)
            with self._store.leased(job.job_id):
                job = self._store.set_limits(job.job_id, limits)
                rejects_path = None
                if job.state == "loading":
                    beside = None if given is None else Path(given)
                    rejects_path = self._load(job, path, beside)
                worker = self._worker(job)
                worker.hand_in()
            return self._status(job.job_id, worker, rejects_path)

    def status(self, job_id: str) -> JobStatus:
        """How a job stands, as far as it was looked at. Raises InputError for an unknown job."""
        from router.batch.report import status_of

        return status_of(self._store, job_id)

    def jobs(self) -> list[JobStatus]:
        """All jobs, the latest first."""
        return [self.status(job.job_id) for job in self._store.jobs()]

    def results(self, job_id: str) -> Iterator[RowResult]:
        """Rows that have ended, in the order of the input; what is open is left out."""
        from router.batch.report import results_of

        return results_of(self._store, job_id)

    def resume(self, job_id: str, *, wait: bool = False) -> JobStatus:
        """Go on with a job: collect what has ended, try again what failed, hand in what waits.

        Without ``wait`` one round; with it until the job is done, or a provider refuses the key.

        Raises:
            InputError: there is no such job, or its input is needed again and is not there.
            LedgerError: another process works on it.
        """
        job = self._store.job(job_id)
        if job.state == "done":
            return self.status(job_id)
        with self._store.leased(job_id):
            job = self._store.job(job_id)  # its limits may have been changed meanwhile
            rejects_path = self._load_again(job) if job.state == "loading" else None
            while True:
                worker = self._worker(job)
                if worker.once() or worker.troubles.is_blocked or not wait:
                    break
                self._say(f"waiting: {self.status(job_id).n_open:,} rows are open")
                self._sleep(self._wait_s(job_id))
        return self._status(job_id, worker, rejects_path)

    def cancel(self, job_id: str) -> JobStatus:
        """End a job: what is with a provider is cancelled there, the rest is not handed in.

        What was answered stays answered, is charged, and is collected by `resume`.

        Raises:
            InputError: there is no such job.
        """
        self._store.job(job_id)
        self._store.ask_to_cancel(job_id)
        try:
            return self.resume(job_id)
        except LedgerError as error:
            # Whoever works on it ends it, at its next step.
            status = self.status(job_id)
            if status.state != "cancelling":
                raise
            return replace(status, troubles=(str(error),))

    def forget(self, job_id: str) -> None:
        """Erase prompts and answers of a job that is done; counts and costs stay.

        Raises:
            InputError: it is not done.
        """
        if self._store.job(job_id).state != "done":
            raise InputError(
                f"expected a job that is done, got {job_id}, which is not: resume or cancel it "
                "first."
            )
        from router.ledger.batch_rows import RowStore

        with self._store.leased(job_id):
            RowStore(self._store).forget(job_id)

    async def asubmit(self, source: Source, **options: Any) -> JobStatus:
        """As ``submit``, awaited."""
        return await asyncio.to_thread(partial(self.submit, source, **options))

    async def astatus(self, job_id: str) -> JobStatus:
        """As ``status``, awaited."""
        return await asyncio.to_thread(self.status, job_id)

    async def aresults(self, job_id: str) -> AsyncIterator[RowResult]:
        """As ``results``, for ``async for``."""
        rows = self.results(job_id)
        while (row := await asyncio.to_thread(next, rows, None)) is not None:
            yield row

    async def aresume(self, job_id: str, *, wait: bool = False) -> JobStatus:
        """As ``resume``, awaited."""
        return await asyncio.to_thread(partial(self.resume, job_id, wait=wait))

    async def acancel(self, job_id: str) -> JobStatus:
        """As ``cancel``, awaited."""
        return await asyncio.to_thread(self.cancel, job_id)

    # Loading

    def _load_again(self, job: Job) -> Path | None:
        source = job.settings["source"]
        if (
            source is None
            or not Path(source).exists()
            or digest_of(Path(source)) != (job.settings["digest"])
        ):
            raise InputError(
                f"expected the input of job {job.job_id}, which was not read to its end, got "
                "another file or none: submit the same input again, with the same settings."
            )
        if job.settings["artifact_id"] != self._artifact_id():
            raise InputError(
                f"expected the router that job {job.job_id} was submitted with, since its input "
                "was not read to its end, got another or none: submit the same input again."
            )
        return self._load(job, Path(source), Path(source))

    def _load(self, job: Job, path: Path, rejects_beside: Path | None) -> Path | None:
        from router.batch.load import Loader

        tiers = TierSet.from_dicts(job.settings["tiers"])
        # The whole time: what a provider promises to do within a day is in time for a day's end.
        whole_s = job.settings["deadline_s"]
        channels = {tier.name: self._channel(tier, whole_s) for tier in tiers}
        planner = self._planner(job, tiers, channels)
        loader = Loader(self._store, job.job_id, planner, channels, self._provider_of, self._say)
        return loader.load(path, rejects_beside)

    def _planner(self, job: Job, tiers: TierSet, channels: Mapping[str, Channel]) -> Planner:
        from router.batch.plan import RouterPlanner, TierPlanner

        tier = job.settings["tier"]
        if self._router is not None:
            return RouterPlanner(self._router, [channels[name] for name in tiers.names], tier)
        return TierPlanner(tiers, tier)

    def _tiers_of(self, tier: str | None) -> TierSet:
        if self._router is not None:
            tiers = self._router.tiers
        elif self._tiers is not None and tier is not None:
            tiers = self._tiers
        else:
            raise InputError(
                "expected a router, or a tier and the tiers it is one of, got neither: give "
                "router=Router.load(), or tier= and tiers=."
            )
        if tier is not None:
            tiers.index(tier)
        return tiers

    def _check_providers(self, settings: Mapping[str, Any]) -> None:
        """Before there is a job: each tier's provider is known, and its price where that counts."""
        tiers = TierSet.from_dicts(settings["tiers"])
        for tier in tiers:
            self._provider_of(tier.provider)
        if settings["max_cost_usd"] is None:
            return
        at = moment(self._now_us())
        chosen = settings["tier"]
        unknown = [
            tier.name
            for tier in tiers
            if chosen in (None, tier.name) and self._book.find(tier, at) is None
        ]
        if unknown and self._router is not None:
            # The artifact may know what the tier costs without knowing its prices.
            usd = self._router.route("the price of a tier").cost_usd
            unknown = [name for name in unknown if usd.get(name) is None]
        if unknown:
            raise InputError(
                f"expected a known price of tier {unknown[0]} for a limit on cost, got none: add "
                "it to the tiers or a price file, or leave the limit out."
            )

    def _is_raised(self, job: Job, limits: Mapping[str, Any]) -> bool:
        """Whether a job that is done has rows that more money would let go on."""
        from router.ledger.batch_rows import RowStore

        new, old = limits["max_cost_usd"], job.settings["max_cost_usd"]
        if old is None or (new is not None and new <= old):
            return False
        return RowStore(self._store).any_short_of_money(job.job_id)

    def _artifact_id(self) -> str | None:
        # Without its suffix, which prices have a part in.
        return None if self._router is None else self._router.artifact_id.split("+")[0]

    # Working

    def _worker(self, job: Job) -> Worker:
        from router.batch.hand_in import Tools
        from router.batch.records import Bookkeeper
        from router.batch.rows import Rows
        from router.batch.run import Worker

        tiers = TierSet.from_dicts(job.settings["tiers"])
        channels: dict[str, Channel] = {}

        def channel(name: str) -> Channel:
            if name not in channels:
                left_s = job.settings["deadline_s"] - (self._now_us() - job.created_us) / 1e6
                channels[name] = self._channel(tiers[tiers.index(name)], left_s)
            return channels[name]

        bookkeeper = Bookkeeper(self._ledger, tiers, self._book, job.created_us)
        rows = Rows(self._store, job, bookkeeper, channel)
        tools = Tools(
            self._provider_of,
            channel,
            self._say,
            self._settle_s,
            self._n_calls,
            self._call_timeout_s,
            self._poll_s,
            self._looked_us,
        )
        return Worker(self._store, job, rows, tools)

    def _channel(self, tier: Tier, left_s: float) -> Channel:
        from router.ledger.batch_parts import PartStore

        provider = self._provider_of(tier.provider)
        at = moment(self._now_us())
        return channel_of(
            tier, provider, self._book, at, left_s, PartStore(self._store).durations_s
        )

    def _wait_s(self, job_id: str) -> float:
        from router.ledger.batch_rows import RowStore

        next_us = RowStore(self._store).next_call_us(job_id)
        if next_us is None:
            return self._poll_s
        return min(max((next_us - self._now_us()) / 1e6, 0.1), self._poll_s)

    def _status(self, job_id: str, worker: Worker, rejects_path: Path | None) -> JobStatus:
        from router.batch.report import status_of

        shown = None if rejects_path is None else str(rejects_path)
        return status_of(self._store, job_id, tuple(worker.troubles.sentences), shown)

    def _provider_of(self, provider_id: str) -> Provider:
        found = self._providers.get(provider_id)
        if found is None:
            found = self._providers[provider_id] = make_provider(provider_id)
        return found

    def _now_us(self) -> int:
        return moment_us("now", self._now())


def _job_id(settings: Mapping[str, Any]) -> str:
    """The same for the same input and settings; letters and digits alone."""
    names = ("digest", "artifact_id", "tier", "tiers", "deadline_s", "name")
    text = json.dumps([settings[name] for name in names])
    return "b" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _check(deadline_s: float, max_attempts: int) -> None:
    if not isinstance(deadline_s, int | float) or not 0 < deadline_s < float("inf"):
        raise InputError(
            f"expected a deadline as a number of seconds above 0, got {deadline_s!r:.40}: give for "
            "example 86400."
        )
    if type(max_attempts) is not int or not 1 <= max_attempts <= 100:
        raise InputError(
            f"expected max_attempts as a whole number from 1 to 100, got {max_attempts!r:.40}: "
            "give for example 3."
        )


@contextmanager
def _as_file(source: Source) -> Iterator[tuple[Path, str | None]]:
    """The input as a file, and its path where it is the caller's."""
    if isinstance(source, str | os.PathLike):
        path = Path(source).absolute()
        yield path, str(path)
        return
    with tempfile.TemporaryDirectory(prefix="cps-router-") as folder:
        path = Path(folder, "rows.jsonl")
        with path.open("w", encoding="ascii", newline="\n") as file:
            for number, row in enumerate(source, start=1):
                try:
                    file.write(json.dumps(row) + "\n")
                except (TypeError, ValueError, RecursionError):
                    raise InputError(
                        f"expected rows that can be written as JSON, got one, number {number}, "
                        "that cannot: give texts, numbers, lists and mappings."
                    ) from None
        yield path, None
