"""Which tier a request tries next: the router's choice among those that may be called now.

A tier may not be called while it rests (circuit breaker), where it is too dear (cost limit), and
where this request has met with its failure. None of these is the router's business: it is asked
without them, first and again after every failure that leaves the request without an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from router.client.choosing import Choice
from router.client.cost_limit import Bound, bound_of, left_of
from router.client.flight import Job, Parts
from router.decision import Decision
from router.errors import CostLimitError, ProviderError, RoutingError
from router.tiers import Tier


class Candidates:
    """The tiers of one request; ``spent_usd`` says what it may have cost up to now."""

    def __init__(self, parts: Parts, job: Job, spent_usd: Callable[[], float]) -> None:
        self._parts, self._job, self._ask = parts, job, job.ask
        self._spent_usd = spent_usd
        self._rates = job.rates
        self._order: list[str] = []
        self._down: set[str] = set()
        self.decision: Decision
        self.exploration_usd = 0.0

    def choose(self) -> None:
        """Ask the router, for the first time or without the tiers that are down.

        Raises:
            RoutingError: the request itself leaves no tier.
            CostLimitError: the limit leaves none.
            ProviderError: those that are left rest.
        """
        ask, resting, dear = self._ask, self._parts.breaker.resting(), self._too_dear()
        choose = self._parts.chooser.choose
        without = {*ask.exclude, *self._down}
        exclude: list[str] = []
        if ask.pin is not None:
            choice = choose(ask, (), self._rates)
            if ask.pin in dear:
                raise self._over_limit()
            if ask.pin in resting:
                raise self.all_rest([ask.pin])
        else:
            exclude = sorted(without | resting | dear)
            try:
                choice = choose(ask, exclude, self._rates)
            except RoutingError as error:
                raise self._why_none(without, resting, dear) or error from None
        self._follow(choice, exclude)

    def next(self, *, has_answer: bool) -> Tier | None:
        """Of the plan, else of a new choice; None where nothing more shall be tried.

        An answer, even a rejected one, ends the plan; without any, the router is asked again.
        Raises as ``choose`` does.
        """
        while self._order:
            tier = self._tier(self._order.pop(0))
            if tier.name not in self._down and self.fits(tier):
                return tier
        if has_answer or self._ask.pin is not None:
            return None
        self.choose()
        return self._tier(self._order.pop(0))

    def is_down(self, tier: Tier) -> None:
        """It failed, for this request."""
        self._down.add(tier.name)

    def provider_is_down(self, provider_id: str) -> None:
        """All its tiers failed, for this request."""
        tiers = self._parts.chooser.tiers
        self._down |= {tier.name for tier in tiers if tier.provider == provider_id}

    def bound(self, tier: Tier) -> Bound | None:
        """What a call can cost at most; None where that does not fit, or there is no limit."""
        limit = self._job.max_cost_usd
        price = None if limit is None else self._parts.prices.of(tier)
        if limit is None or price is None:
            return None
        return bound_of(
            price,
            self._job.n_input_tokens,
            self._ask.prompt.max_output_tokens,
            left_of(limit, self._spent_usd()),
            for_an_hour=self._job.for_an_hour,
        )

    def fits(self, tier: Tier) -> bool:
        """Whether a call keeps within the limit."""
        return self._job.max_cost_usd is None or self.bound(tier) is not None

    def all_rest(self, names: Iterable[str]) -> ProviderError:
        """The error that says so, and until when."""
        names = sorted(names)
        rest_s = self._parts.breaker.rest_left_s(names)
        return ProviderError(
            f"expected a tier that can be called, got none: {', '.join(names)} failed and will be "
            f"tried again in {rest_s:.0f} s.",
            kind="outage",
            retry_after_s=rest_s,
        )

    def _follow(self, choice: Choice, exclude: list[str]) -> None:
        decision = choice.decision
        if self._down:
            decision = replace(decision, reason="fallback", certified=False)
        self.decision, self._order = decision, list(choice.order)
        self.exploration_usd = 0.0
        if decision.explored and self._parts.keeps_records:
            self.exploration_usd = self._parts.chooser.exploration_usd(self._ask, exclude, decision)

    def _tier(self, name: str) -> Tier:
        tiers = self._parts.chooser.tiers
        return tiers[tiers.index(name)]

    def _too_dear(self) -> set[str]:
        if self._job.max_cost_usd is None:
            return set()
        return {tier.name for tier in self._parts.chooser.tiers if not self.fits(tier)}

    def _why_none(
        self, without: set[str], resting: frozenset[str], dear: set[str]
    ) -> Exception | None:
        """Which rule left no tier; None where the request itself did."""
        if dear and self._possible(without | resting):
            return self._over_limit()
        if resting and self._possible(without | dear):
            return self.all_rest(resting - without - dear)
        if dear and resting and self._possible(without):
            return self._over_limit()
        return None

    def _possible(self, exclude: Iterable[str]) -> bool:
        try:
            self._parts.chooser.choose(self._ask, sorted(exclude), self._rates)
        except RoutingError:
            return False
        return True

    def _over_limit(self) -> CostLimitError:
        return CostLimitError(
            f"expected a tier whose call can cost no more than what is left of "
            f"${self._job.max_cost_usd:.6g}, got none (input of at most "
            f"{self._job.n_input_tokens} tokens): raise max_cost_usd, shorten the request, or "
            "lower max_output_tokens."
        )
