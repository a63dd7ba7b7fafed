"""One request from its routing to its record, as a generator of effects: it waits for nothing.

The order of things:

1. The router chooses, without the tiers that rest (circuit breaker) or are too dear (cost limit).
2. The request is recorded, then a tier is called. Each attempt is recorded as it ends.
3. An answer that the verifier rejects leads to the next tier of the plan (*escalation*). Where the
   plan ends the last answer is served, rejected or not.
4. A tier that fails is tried again where that may help, and else the router is asked again without
   it (*fallback*). Busy or unreachable (429, 5xx): again after a while, then another tier.
   Time-out or unreadable answer: another tier at once. Key or permission: a tier of another
   provider. Refused: the request itself is at fault, and no other tier is asked.
5. The request is recorded as done, and the caller gets a Reply or the last error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from router.breaker import Breaker, Permit
from router.choosing import Ask, CacheSeam, Choice, Chooser
from router.cost_limit import Bound, bound_of, left_of
from router.decision import Decision
from router.effects import (
    CallModel,
    CloseStream,
    Emit,
    Flow,
    NextChunk,
    OpenStream,
    Record,
    Sleep,
    Verify,
)
from router.errors import CostLimitError, InputError, ProviderError, RoutingError
from router.providers.base import Answer, Chunk, Prompt, Provider
from router.records import AttemptRecord, RequestRecord, Role, Status, nanousd
from router.reply import Reply
from router.request_costs import FREE, UNKNOWN, Baseline, Prices, baseline_of, cost_of
from router.retrying import Retrying
from router.tiers import Tier
from router.usage import Usage
from router.verifiers import AnswerCheck, Verdict, rates_of

_LOG = logging.getLogger(__name__)

# After these the provider may have worked, and charge for it, whatever else it says.
_MAY_BE_BILLED = frozenset({"timeout", "cut", "malformed"})


@dataclass(frozen=True, slots=True)
class Parts:
    """What all requests of a client share. Safe to share between threads."""

    chooser: Chooser
    provider_of: Callable[[str], Provider]
    breaker: Breaker
    prices: Prices
    retrying: Retrying
    keeps_records: bool
    cache: CacheSeam | None
    clock: Callable[[], float]
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Job:
    """What one request asks for beyond its routing; ``n_input_tokens`` bounds its input."""

    ask: Ask
    check: AnswerCheck | None = None
    max_cost_usd: float | None = None
    n_input_tokens: int = 0
    streamed: bool = False


class Flight:
    """One request under way; `run` it once."""

    def __init__(self, parts: Parts, job: Job) -> None:
        self._parts, self._job, self._ask = parts, job, job.ask
        # A stream cannot be taken back: it is verified at its end, and never escalated.
        escalates = job.check is not None and not job.streamed
        self._rates = rates_of(job.check) if escalates and job.check is not None else None
        self._at = parts.now()
        self._deadline = parts.clock() + parts.retrying.deadline_s
        self._order: list[str] = []
        self._down: set[str] = set()
        self._spent_usd = 0.0
        self._attempts: list[AttemptRecord] = []
        self._failure: ProviderError | None = None
        self._answer: Answer | None = None
        self._verified: bool | None = None
        self._emitted = False
        self._decision: Decision
        self._exploration_usd = 0.0

    def run(self) -> Flow[Reply]:
        """The whole request. Raises what its caller shall see."""
        self._choose()
        yield self._record(first=True)
        trouble: BaseException | None = None
        served = None
        try:
            yield from self._dispatch()
            served = self._served()
        except BaseException as error:  # a caller who leaves is recorded too
            trouble = error
        recorded = yield self._record(done=True, served=served)
        if trouble is not None:
            if isinstance(trouble, ProviderError):
                trouble.add_note(self._story())
            raise trouble
        assert self._answer is not None
        return Reply(
            text=self._answer.text,
            answer=self._answer,
            decision=self._decision,
            request_id=self._ask.request_id,
            attempts=tuple(self._attempts),
            verified=self._verified,
            recorded=recorded is True,
        )

    # Choosing

    def _choose(self) -> None:
        """Ask the router, for the first time or without the tiers that are down."""
        ask, resting, dear = self._ask, self._parts.breaker.resting(), self._too_dear()
        choose = self._parts.chooser.choose
        without = {*ask.exclude, *self._down}
        exclude: list[str] = []
        if ask.pin is not None:
            choice = choose(ask, (), self._rates)
            if ask.pin in dear:
                raise self._over_limit()
            if ask.pin in resting:
                raise self._all_rest([ask.pin])
        else:
            exclude = sorted(without | resting | dear)
            try:
                choice = choose(ask, exclude, self._rates)
            except RoutingError as error:
                raise self._why_none(without, resting, dear) or error from None
        self._follow(choice, exclude)

    def _follow(self, choice: Choice, exclude: list[str]) -> None:
        decision = choice.decision
        if self._down:
            decision = replace(decision, reason="fallback", certified=False)
        self._decision, self._order = decision, list(choice.order)
        if decision.explored and self._parts.keeps_records:
            self._exploration_usd = self._parts.chooser.exploration_usd(
                self._ask, exclude, decision
            )
        else:
            self._exploration_usd = 0.0

    def _why_none(
        self, without: set[str], resting: frozenset[str], dear: set[str]
    ) -> Exception | None:
        """Which rule left no tier; None where the request itself did."""
        if dear and self._possible(without | resting):
            return self._over_limit()
        if resting and self._possible(without | dear):
            return self._all_rest(resting - without - dear)
        if dear and resting and self._possible(without):
            return self._over_limit()
        return None

    def _possible(self, exclude: Iterable[str]) -> bool:
        try:
            self._parts.chooser.choose(self._ask, sorted(exclude), self._rates)
        except RoutingError:
            return False
        return True

    def _next_tier(self) -> Tier | None:
        """Of the plan, else of a new choice; None where nothing more can be tried."""
        tiers = self._parts.chooser.tiers
        if self._parts.clock() >= self._deadline:
            return None
        while self._order:
            name = self._order.pop(0)
            tier = tiers[tiers.index(name)]
            if name not in self._down and self._fits(tier):
                return tier
        # An answer, even a rejected one, ends the plan; without any, the router is asked again.
        if self._answer is not None or self._ask.pin is not None:
            return None
        try:
            self._choose()
        except (RoutingError, CostLimitError, ProviderError):
            if self._failure is None:
                raise
            return None
        name = self._order.pop(0)
        return tiers[tiers.index(name)]

    # Calling

    def _dispatch(self) -> Flow[None]:
        role: Role = "routed"
        while (tier := self._next_tier()) is not None:
            answer = yield from self._try(tier, role)
            if answer is None:
                role = "fallback"
                continue
            self._answer = answer
            self._verified = yield from self._verify(answer)
            if self._verified is not False:
                return
            self._attempts[-1] = replace(self._attempts[-1], status="rejected")
            if self._job.streamed:
                return
            role = "escalation"
        if self._answer is None:
            raise self._failure or ProviderError(
                f"expected an answer within {self._parts.retrying.deadline_s:g} s, got none: allow "
                "more time.",
                kind="timeout",
            )

    def _try(self, tier: Tier, role: Role) -> Flow[Answer | None]:
        """Call a tier, maybe several times; None where it has no answer for us."""
        retrying, clock = self._parts.retrying, self._parts.clock
        for n_retries in range(retrying.retries + 1):
            left_s = self._deadline - clock()
            bound = self._bound(tier)
            if left_s <= 0 or (bound is None and self._job.max_cost_usd is not None):
                break
            provider = self._provider(tier)
            permit = None if provider is None else self._parts.breaker.enter(tier.name)
            if provider is None or permit is None:
                self._failure = self._failure or self._all_rest([tier.name])
                break
            prompt = self._ask.prompt
            if bound is not None:
                prompt = replace(prompt, max_output_tokens=bound.max_output_tokens)
            call = _Call(tier, role, self._parts.now(), clock(), bound)
            try:
                answer = yield from self._call(
                    provider, tier.model, prompt, min(left_s, retrying.timeout_s)
                )
            except ProviderError as error:
                failure = error
            except InputError as error:
                permit.released()
                self._no_provider(tier, error)
                break
            except BaseException:
                permit.released()
                self._ended(call, "cut", None)
                raise
            else:
                permit.succeeded()
                self._ended(call, "answered", answer.usage, answer.model)
                if self._job.check is not None:
                    yield self._record()
                return answer
            self._failure = failure
            self._tell_breaker(permit, tier, failure)
            self._ended(call, failure.kind, None, free=not failure.billed)
            yield self._record()
            if self._emitted or (failure.kind == "refused" and self._answer is None):
                raise failure
            if failure.kind == "auth":
                self._provider_is_down(tier)
            resting = tier.name in self._parts.breaker.resting()
            wait_s = None if resting else retrying.wait_s(failure, n_retries)
            if wait_s is None or clock() + wait_s >= self._deadline:
                break
            yield Sleep(wait_s)
            role = "retry"
        self._down.add(tier.name)
        return None

    def _call(
        self, provider: Provider, model: str, prompt: Prompt, timeout_s: float
    ) -> Flow[Answer]:
        if not self._job.streamed:
            answer = yield CallModel(provider, model, prompt, timeout_s)
            return _checked(answer)
        stream = yield OpenStream(provider, model, prompt, timeout_s)
        try:
            while True:
                chunk = yield NextChunk(stream, timeout_s)
                if not isinstance(chunk, Chunk):
                    raise ProviderError("the stream ended too early", kind="cut", billed=True)
                if chunk.text:
                    self._emitted = True
                    yield Emit(chunk.text)
                if chunk.answer is not None:
                    return _checked(chunk.answer)
                if self._parts.clock() >= self._deadline:
                    raise ProviderError("no whole answer in time", kind="timeout", billed=True)
        except ProviderError as error:
            failure = error
        finally:
            try:
                yield CloseStream(stream)
            except Exception as error:
                _LOG.warning("a stream could not be closed: %s", type(error).__name__)
        if not self._emitted or failure.kind == "cut":
            raise failure
        raise ProviderError(f"the stream was cut: {failure}", kind="cut", billed=True)

    def _verify(self, answer: Answer) -> Flow[bool | None]:
        """What the check says; None where there is none or it could not verify."""
        check = self._job.check
        if check is None:
            return None
        try:
            result = yield Verify(check, answer, self._ask.prompt)
        except Exception as error:
            _LOG.warning("a verifier could not verify: %s", type(error).__name__)
            return None
        passed = result.passed if isinstance(result, Verdict) else result
        if isinstance(passed, bool | np.bool_):
            return bool(passed)
        if passed is not None:
            _LOG.warning("expected a bool or a Verdict, got %s", type(passed).__name__)
        return None

    # Providers that fail

    def _provider(self, tier: Tier) -> Provider | None:
        try:
            return self._parts.provider_of(tier.provider)
        except InputError as error:
            self._no_provider(tier, error)
            return None

    def _no_provider(self, tier: Tier, error: InputError) -> None:
        """It is not set up: told to the caller, but for a tier that only stands in for another."""
        if not self._attempts:
            raise error
        _LOG.warning("provider %s cannot be used: %s", tier.provider, type(error).__name__)
        self._provider_is_down(tier)

    def _provider_is_down(self, tier: Tier) -> None:
        tiers = self._parts.chooser.tiers
        self._down |= {other.name for other in tiers if other.provider == tier.provider}

    def _tell_breaker(self, permit: Permit, tier: Tier, failure: ProviderError) -> None:
        if failure.kind == "refused":
            permit.released()
            return
        permit.failed(failure.retry_after_s)
        asked_s = failure.retry_after_s or 0.0
        if asked_s > self._parts.retrying.max_wait_s:
            # It said when to come back; nobody needs to ask before.
            self._parts.breaker.rest(tier.name, asked_s)

    def _all_rest(self, names: Iterable[str]) -> ProviderError:
        names = sorted(names)
        rest_s = self._parts.breaker.rest_left_s(names)
        return ProviderError(
            f"expected a tier that can be called, got none: {', '.join(names)} failed and will be "
            f"tried again in {rest_s:.0f} s.",
            kind="outage",
            retry_after_s=rest_s,
        )

    # Money

    def _bound(self, tier: Tier) -> Bound | None:
        limit = self._job.max_cost_usd
        price = None if limit is None else self._parts.prices.of(tier)
        if limit is None or price is None:
            return None
        return bound_of(
            price,
            self._job.n_input_tokens,
            self._ask.prompt.max_output_tokens,
            left_of(limit, self._spent_usd),
            for_an_hour=self._ask.prompt.cache.ttl == "1h",
        )

    def _fits(self, tier: Tier) -> bool:
        return self._job.max_cost_usd is None or self._bound(tier) is not None

    def _too_dear(self) -> set[str]:
        if self._job.max_cost_usd is None:
            return set()
        return {tier.name for tier in self._parts.chooser.tiers if not self._fits(tier)}

    def _over_limit(self) -> CostLimitError:
        return CostLimitError(
            f"expected a tier whose call can cost no more than what is left of "
            f"${self._job.max_cost_usd:.6g}, got none (input of at most "
            f"{self._job.n_input_tokens} tokens): raise max_cost_usd, shorten the request, or "
            "lower max_output_tokens."
        )

    # Records

    def _ended(
        self,
        call: _Call,
        status: Status,
        usage: Usage | None,
        model: str | None = None,
        *,
        free: bool = False,
    ) -> None:
        """An attempt has ended: what it cost, and who wants to know."""
        # First of all: what follows takes time that is not the provider's.
        latency_s = max(self._parts.clock() - call.begun_s, 0.0)
        usage = usage if isinstance(usage, Usage) else None
        tier = call.tier
        price = self._parts.prices.of(tier, call.at) if usage is not None else None
        cost = FREE if free and status not in _MAY_BE_BILLED else cost_of(price, usage)
        if call.bound is not None and cost is not FREE:
            known = UNKNOWN if price is None else cost
            # Unknown costs count at their bound. A nanodollar more, for what rounding took.
            usd = None if known.actual is None else (known.actual + 1) / 1e9
            self._spent_usd += call.bound.usd if usd is None else usd
        self._attempts.append(
            AttemptRecord(
                attempt=len(self._attempts) + 1,
                tier=tier.name,
                provider=tier.provider,
                model=model if isinstance(model, str) and model else tier.model,
                at=call.at,
                role=call.role,
                status=status,
                latency_s=latency_s,
                usage=usage,
                cost_nanousd=cost.actual,
                uncached_nanousd=cost.uncached,
                standard_nanousd=cost.standard,
            )
        )
        if self._parts.cache is not None:
            try:
                self._parts.cache.after_attempt(self._ask, tier, usage)
            except Exception as error:  # what only makes requests cheaper fails none
                _LOG.warning("the cache state was not told: %s", type(error).__name__)

    def _served(self) -> AttemptRecord | None:
        """Mark the attempt whose answer is served: the last one that has an answer."""
        for place in range(len(self._attempts) - 1, -1, -1):
            attempt = self._attempts[place]
            if attempt.status in ("answered", "rejected"):
                self._attempts[place] = replace(attempt, served=True)
                return self._attempts[place]
        return None

    def _record(
        self, *, first: bool = False, done: bool = False, served: AttemptRecord | None = None
    ) -> Record:
        ask = self._ask
        baseline = self._baseline(served) if done else Baseline(None)
        request = RequestRecord(
            request_id=ask.request_id,
            at=self._at,
            decision=self._decision.to_dict(),
            query=ask.query,
            session_id=ask.session,
            task=ask.task,
            baseline_tier=self._parts.chooser.strongest,
            baseline_nanousd=baseline.nanousd,
            baseline_measured=baseline.measured,
            exploration_nanousd=nanousd(self._exploration_usd) or 0,
            done=done,
        )
        return Record(request, tuple(self._attempts), first)

    def _baseline(self, served: AttemptRecord | None) -> Baseline:
        if not self._parts.keeps_records:
            return Baseline(None)
        chooser = self._parts.chooser
        try:
            tokens: dict[str, float] = {}
            if served is not None and served.tier != chooser.strongest:
                tokens = chooser.expected_output_tokens(self._ask.query)
            strongest = chooser.tiers[chooser.tiers.index(chooser.strongest)]
            price = self._parts.prices.of(strongest, self._at)
            return baseline_of(strongest.name, price, served, self._decision.cost_usd, tokens)
        except Exception as error:  # an estimate is not worth an answer
            _LOG.warning("the baseline cannot be estimated: %s", type(error).__name__)
            return Baseline(None)

    def _story(self) -> str:
        made = ", ".join(f"{attempt.tier} {attempt.status}" for attempt in self._attempts)
        return f"request {self._ask.request_id}: {made or 'nothing was sent'}"


@dataclass(frozen=True, slots=True)
class _Call:
    tier: Tier
    role: Role
    at: datetime
    begun_s: float
    bound: Bound | None


def _checked(answer: Any) -> Answer:
    if isinstance(answer, Answer) and isinstance(answer.text, str):
        return answer
    raise ProviderError(
        f"expected an Answer with a text from the provider, got {type(answer).__name__}.",
        kind="malformed",
        billed=True,
    )
