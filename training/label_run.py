"""Every query on every tier, one call at a time per thread, within a limit that is never passed.

The bounds of all calls of a query are set aside before the first of them is made, so that no query
is paid for in part. Where what is left does not cover the next query in line, the run ends there:
to go on with a shorter one would choose queries by their length.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from router.client.cost_limit import bound_of, input_tokens_at_most
from router.client.retrying import Retrying
from router.errors import InputError, PriceError, ProviderError
from router.prices import PriceBook
from router.providers.base import Answer, Prompt, Provider
from router.tier_price import TierPrice
from router.tiers import Tier, TierSet
from training.label_input import LabelQuery
from training.label_journal import Answered, Journal, Purse

# A tier that fails so often before its first answer is not asked further: key, name or network.
MAX_FIRST_FAILURES = 5
Say = Callable[[str], object]
# What judging the answer of a tier can cost, of one that is not there yet at most.
AfterUsd = Callable[[LabelQuery, Tier], float]


def nothing_after(query: LabelQuery, tier: Tier) -> float:
    """Judging costs nothing."""
    return 0.0


@dataclass(slots=True)
class Ran:
    """What became of the queries that were to be run.

    ``n_begun`` queries, the first ones in line, were sent (or had been); ``budget_reached`` says
    that the others were not because of the limit. ``missing`` counts answers that did not come, by
    tier and reason. ``aside_usd`` is kept for judging, by key and model.
    """

    n_begun: int = 0
    n_calls: int = 0
    n_reused: int = 0
    budget_reached: bool = False
    missing: dict[str, Counter[str]] = field(default_factory=dict)
    aside_usd: dict[tuple[str, str], float] = field(default_factory=dict)


class RunEverywhere(Protocol):
    """Gets the answers of all tiers to queries, in their order, into the journal."""

    def __call__(self, queries: Sequence[LabelQuery], tiers: TierSet) -> Ran:
        """Raises ProviderError where a tier cannot be used at all."""
        ...


def model_of(tier: Tier) -> str:
    """By what the journal knows a tier: another name for the same model costs nothing."""
    return f"{tier.provider}/{tier.model}"


def not_taken(query: LabelQuery, tiers: TierSet) -> str | None:
    """Why a query cannot be asked of every tier, None where it can."""
    takes = tiers.takes(query.context_tokens + query.max_output_tokens)
    names = [name for name, fits in zip(tiers.names, takes, strict=True) if not fits]
    return f"too long for the context window of {names[0]}" if names else None


class Bounds:
    """What a call can cost at most; 0 where nobody knows, and there is no limit to hold."""

    def __init__(self, book: PriceBook, *, limited: bool, batch: bool = False) -> None:
        self._book, self._limited, self._batch = book, limited, batch
        self._prices: dict[tuple[str, bool], TierPrice | None] = {}

    def price(self, tier: Tier, *, batch: bool = False) -> TierPrice | None:
        """The price of a tier today.

        Raises:
            PriceError: nobody knows it, and there is a limit to hold.
        """
        if (tier.name, batch) not in self._prices:
            try:
                self._prices[tier.name, batch] = self._book.price(tier, batch=batch)
            except PriceError:
                if self._limited and not batch:
                    raise
                self._prices[tier.name, batch] = None
        return self._prices[tier.name, batch]

    def usd(self, tier: Tier, prompt: Prompt, *, n_input_tokens: int | None = None) -> float:
        """The bound at standard prices, or at those of batches where these are dearer.

        A row of a batch may be asked one by one in the end.
        """
        price = self.price(tier)
        if price is None:
            return 0.0
        try:
            most = input_tokens_at_most(prompt) if n_input_tokens is None else n_input_tokens
        except InputError:
            if self._limited:
                raise
            return 0.0
        prices = [price, self.price(tier, batch=True) if self._batch else None]
        bounds = [
            bound_of(each, most, prompt.max_output_tokens, float("inf"))
            for each in prices
            if each is not None
        ]
        return max(bound.usd for bound in bounds if bound is not None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query still needs: bounds of calls by tier, and of judging by key and model."""

    call_usd: dict[str, float]
    after_usd: dict[tuple[str, str], float]

    @property
    def usd(self) -> float:
        """All of it."""
        return sum(self.call_usd.values()) + sum(self.after_usd.values())


def plan(
    query: LabelQuery, tiers: TierSet, journal: Journal, bounds: Bounds, after_usd: AfterUsd
) -> Wanted:
    """What a query needs beyond what the journal has."""
    calls, after = {}, {}
    for tier in tiers:
        name = query.key, model_of(tier)
        if name not in journal.answers:
            calls[tier.name] = bounds.usd(tier, query.prompt)
        after[name] = after_usd(query, tier)
    return Wanted(calls, after)


class OneByOne:
    """The seam's way without batches: answers now, at standard prices.

    Args:
        providers: By id.
        journal: Where answers go, and are found.
        purse: What may be spent.
        bounds: Of calls.
        after_usd: What to set aside for judging one answer.
        n_calls: Calls at the same time.
        retrying: When a failed call is tried again.
        on_progress: Is told how far it is.
        sleep: Waits between tries.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        journal: Journal,
        purse: Purse,
        bounds: Bounds,
        *,
        after_usd: AfterUsd = nothing_after,
        n_calls: int = 8,
        retrying: Retrying | None = None,
        on_progress: Say = lambda _: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if n_calls < 1:
            raise InputError(
                f"expected at least 1 call at a time, got {n_calls}: give for example 8."
            )
        self._providers, self._journal, self._purse = providers, journal, purse
        self._bounds, self._after_usd, self._say, self._sleep = (
            bounds,
            after_usd,
            on_progress,
            sleep,
        )
        self._n_calls = n_calls
        self._retrying = Retrying(retries=4, max_wait_s=60.0) if retrying is None else retrying
        self._failed: Counter[str] = Counter()
        self._answered: set[str] = set()

    def __call__(self, queries: Sequence[LabelQuery], tiers: TierSet) -> Ran:
        """See `RunEverywhere`."""
        ran = Ran()
        flying: set[Future[None]] = set()
        with ThreadPoolExecutor(self._n_calls) as pool:
            try:
                for query in queries:
                    wanted = plan(query, tiers, self._journal, self._bounds, self._after_usd)
                    fits = self._purse.set_aside(wanted.usd)
                    while not fits and flying:
                        flying = _landed(flying)
                        fits = self._purse.set_aside(wanted.usd)
                    if not fits and wanted.call_usd:
                        ran.budget_reached = True
                        break
                    # Where all answers are there, they are judged as far as the money goes.
                    ran.aside_usd |= wanted.after_usd if fits else {}
                    ran.n_begun += 1
                    ran.n_reused += len(tiers) - len(wanted.call_usd)
                    for tier in tiers:
                        if tier.name in wanted.call_usd:
                            ran.n_calls += 1
                            usd = wanted.call_usd[tier.name]
                            flying.add(pool.submit(self._call, query, tier, usd, ran.aside_usd))
                    while len(flying) > 2 * self._n_calls:
                        flying = _landed(flying)
                    self._say(f"asking every tier: {ran.n_begun:,} of {len(queries):,} queries")
                while flying:
                    flying = _landed(flying)
            except BaseException:
                # What is under way is paid for, and is waited for; what is not begun is not begun.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return with_missing(ran, queries, tiers, self._journal)

    def _call(
        self,
        query: LabelQuery,
        tier: Tier,
        bound_usd: float,
        kept_usd: dict[tuple[str, str], float],
    ) -> None:
        name, call = (query.key, model_of(tier)), uuid.uuid4().hex
        self._journal.calling(call, bound_usd)
        began = time.monotonic()
        try:
            answer = self._tried(tier, query.prompt)
        except ProviderError as error:
            usd = bound_usd if error.billed else 0.0
            self._journal.failed(call, name, error.kind, usd)
            self._purse.pay(bound_usd + kept_usd.pop(name), usd)
            self._count_failure(tier, error)
            return
        self._answered.add(tier.name)
        usd = spent_usd(self._bounds.price(tier), answer, bound_usd)
        found = Answered(
            answer.text,
            answer.usage,
            answer.finish_reason,
            time.monotonic() - began,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._journal.answered(call, name, found, usd)
        # The judge's share stays set aside until the answer is judged.
        self._purse.pay(bound_usd, usd)

    def _tried(self, tier: Tier, prompt: Prompt) -> Answer:
        provider, n_tries = self._providers[tier.provider], 0
        while True:
            try:
                return provider.complete(tier.model, prompt, timeout_s=self._retrying.timeout_s)
            except ProviderError as error:
                wait_s = None if error.billed else self._retrying.wait_s(error, n_tries)
                if wait_s is None:
                    raise
                self._sleep(wait_s)
                n_tries += 1

    def _count_failure(self, tier: Tier, error: ProviderError) -> None:
        self._failed[tier.name] += 1
        hopeless = self._failed[tier.name] >= MAX_FIRST_FAILURES
        if tier.name not in self._answered and (error.kind == "auth" or hopeless):
            raise ProviderError(
                f"expected answers of the tier {tier.name}, got none, but "
                f"{self._failed[tier.name]} failures (the last: {error.kind}): check its key, its "
                "model's name and the network, and run the same command again; what was answered "
                "is kept.",
                kind=error.kind,
            )


def spent_usd(price: TierPrice | None, answer: Answer, bound_usd: float) -> float:
    """What a call cost; its bound where the provider did not say what it took."""
    if answer.usage is None:
        return bound_usd
    if price is None:
        return 0.0
    with suppress(PriceError):
        return price.of_usage(answer.usage)
    return bound_usd


def _landed(flying: set[Future[None]]) -> set[Future[None]]:
    """Those that are still under way after at least one has ended; raises what it raised."""
    done, rest = wait(flying, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return set(rest)


def with_missing(ran: Ran, queries: Sequence[LabelQuery], tiers: TierSet, journal: Journal) -> Ran:
    """The same, with the answers counted that did not come."""
    for query in queries[: ran.n_begun]:
        for tier in tiers:
            name = query.key, model_of(tier)
            if name not in journal.answers:
                reason = journal.failures.get(name, "unknown")
                ran.missing.setdefault(tier.name, Counter())[f"no answer ({reason})"] += 1
    return ran
