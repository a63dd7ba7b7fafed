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
from dataclasses import replace
from typing import Any

import numpy as np

from router.client.breaker import Permit
from router.client.candidates import Candidates
from router.client.effects import (
    CallModel,
    CloseStream,
    Emit,
    Flow,
    NextChunk,
    OpenStream,
    Sleep,
    Verify,
)
from router.client.flight import Job, Parts, Started
from router.client.flight_log import FlightLog
from router.client.own_clock import OwnClock
from router.client.reply import Reply
from router.errors import CostLimitError, InputError, ProviderError, RoutingError
from router.providers.base import Answer, Chunk, Prompt, Provider
from router.records import Role
from router.tiers import Tier
from router.verifiers import Verdict

_LOG = logging.getLogger(__name__)


class Flight:
    """One request under way; `run` it once."""

    def __init__(self, parts: Parts, job: Job) -> None:
        self._parts, self._job, self._ask = parts, job, job.ask
        self._clock = OwnClock(parts.clock)
        self._deadline = self._clock() + parts.retrying.deadline_s
        self._log = FlightLog(parts, job, parts.now(), self._clock)
        self._candidates = Candidates(parts, job, lambda: self._log.spent_usd)
        self._failure: ProviderError | None = None
        self._answer: Answer | None = None
        self._verified: bool | None = None
        self._emitted = False
        # Whether the latest failure was one of time: the provider's, or what was left of ours.
        self._timed_out = self._out_of_time = False

    def run(self) -> Flow[Reply]:
        """The whole request. Raises what its caller shall see."""
        self._candidates.choose()
        yield from self._record(first=True)
        trouble: BaseException | None = None
        served = None
        try:
            yield from self._dispatch()
            served = self._log.served()
        except BaseException as error:  # a caller who leaves is recorded too
            trouble = error
        recorded = yield from self._record(done=True, served=served)
        if trouble is not None:
            if isinstance(trouble, ProviderError):
                trouble.add_note(self._log.story())
            raise trouble
        assert self._answer is not None
        return Reply(
            text=self._answer.text,
            answer=self._answer,
            decision=self._candidates.decision,
            request_id=self._ask.request_id,
            attempts=tuple(self._log.attempts),
            verified=self._verified,
            recorded=recorded is True,
        )

    def _record(self, **state: Any) -> Flow[Any]:
        candidates = self._candidates
        return (yield self._log.record(candidates.decision, candidates.exploration_usd, **state))

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
            self._log.rejected()
            if self._job.streamed:
                return
            role = "escalation"
        if self._answer is None:
            raise self._failure or ProviderError(
                f"expected an answer within {self._parts.retrying.deadline_s:g} s, got none: allow "
                "more time.",
                kind="timeout",
            )

    def _next_tier(self) -> Tier | None:
        if self._clock() >= self._deadline:
            return None
        try:
            return self._candidates.next(has_answer=self._answer is not None)
        except (RoutingError, CostLimitError, ProviderError):
            if self._failure is None:
                raise
            return None  # what failed says more than that nothing is left

    def _try(self, tier: Tier, role: Role) -> Flow[Answer | None]:
        """Call a tier, maybe several times; None where it has no answer for us."""
        retrying, clock = self._parts.retrying, self._clock
        for n_retries in range(retrying.retries + 1):
            left_s = self._deadline - clock()
            bound = self._candidates.bound(tier)
            if left_s <= 0 or (bound is None and self._job.max_cost_usd is not None):
                break
            provider = self._provider(tier)
            permit = None if provider is None else self._parts.breaker.enter(tier.name)
            if provider is None or permit is None:
                self._failure = self._failure or self._candidates.all_rest([tier.name])
                break
            prompt = self._ask.prompt
            if bound is not None:
                prompt = replace(prompt, max_output_tokens=bound.max_output_tokens)
            started = Started(tier, role, self._parts.now(), clock(), bound)
            timeout_s = min(left_s, retrying.timeout_s)
            # The first call has all the time there is, even where that is less.
            has_its_time = timeout_s >= retrying.timeout_s or not self._log.attempts
            self._timed_out = self._out_of_time = False
            try:
                answer = yield from self._call(provider, tier.model, prompt, timeout_s)
            except ProviderError as error:
                failure = error
            except InputError as error:
                permit.released()
                self._not_set_up(tier, error)
                break
            except BaseException:
                permit.released()
                self._log.ended(started, "cut")
                raise
            else:
                permit.succeeded()
                self._log.ended(started, "answered", answer.usage, answer.model)
                if self._job.check is not None:
                    # Checks take their time, and the answer is already paid for.
                    yield from self._record()
                return answer
            self._failure = failure
            self._timed_out |= failure.kind == "timeout"
            if self._out_of_time or (self._timed_out and not has_its_time):
                # It was not given the time that a call may take: nothing is known against it.
                permit.released()
            else:
                self._tell_breaker(permit, tier, failure)
            self._log.ended(started, failure.kind, free=not failure.billed)
            yield from self._record()
            if self._emitted or (failure.kind == "refused" and self._answer is None):
                raise failure
            if failure.kind == "auth":
                self._candidates.provider_is_down(tier.provider)
            resting = tier.name in self._parts.breaker.resting()
            wait_s = None if resting else retrying.wait_s(failure, n_retries)
            if wait_s is None or clock() + wait_s >= self._deadline:
                break
            yield Sleep(wait_s)
            role = "retry"
        self._candidates.is_down(tier)
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
                    with self._clock.stopped():
                        yield Emit(chunk.text)
                if chunk.answer is not None:
                    return _checked(chunk.answer)
                if self._clock() >= self._deadline:
                    self._out_of_time = True
                    raise ProviderError("no whole answer in time", kind="timeout", billed=True)
        except ProviderError as error:
            failure = error
            self._timed_out = failure.kind == "timeout"
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

    def _provider(self, tier: Tier) -> Provider | None:
        try:
            return self._parts.provider_of(tier.provider)
        except InputError as error:
            self._not_set_up(tier, error)
            return None

    def _not_set_up(self, tier: Tier, error: InputError) -> None:
        """Told to the caller, but for a tier that only stands in for another."""
        if not self._log.attempts:
            raise error
        _LOG.warning("provider %s cannot be used: %s", tier.provider, type(error).__name__)
        self._candidates.provider_is_down(tier.provider)

    def _tell_breaker(self, permit: Permit, tier: Tier, failure: ProviderError) -> None:
        if failure.kind == "refused":
            permit.released()
            return
        permit.failed(failure.retry_after_s)
        asked_s = failure.retry_after_s or 0.0
        if asked_s > self._parts.retrying.max_wait_s:
            # It said when to come back; nobody needs to ask before.
            self._parts.breaker.rest(tier.name, asked_s)


def _checked(answer: Any) -> Answer:
    if isinstance(answer, Answer) and isinstance(answer.text, str):
        return answer
    raise ProviderError(
        f"expected an Answer with a text from the provider, got {type(answer).__name__}.",
        kind="malformed",
        billed=True,
    )
