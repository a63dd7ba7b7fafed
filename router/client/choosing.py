"""What the client asks a router: which tiers to try, in which order, and what else it believes.

One face for `Router` and `KeywordRouter`. The learned one makes plans; the heuristic, which knows
nothing of success, escalates and falls back to the tiers that it takes for harder queries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from router.decision import Decision
from router.errors import InputError, RoutingError
from router.escalation import Verifier
from router.keyword import KeywordRouter
from router.providers.base import Prompt
from router.tiers import Tier, TierSet
from router.usage import Usage

if TYPE_CHECKING:
    from router.routing import Router


@dataclass(frozen=True, slots=True)
class Ask:
    """What is known of a request when it is routed; ``prompt`` is what will be sent."""

    query: str = field(repr=False)
    prompt: Prompt
    request_id: str
    context_tokens: int
    session: str | None = None
    task: str | None = None
    pin: str | None = None
    exclude: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    expected_turns: float | None = None
    # What a CacheSeam has worked out about this request.
    notes: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


class CacheSeam(Protocol):
    """Where the state of prompt caches comes in: asked before routing, told after each attempt."""

    def before_routing(self, ask: Ask) -> Mapping[str, Any]:
        """Further arguments for ``Router.route`` (session, prefix and so on); none by default."""
        ...

    def after_attempt(self, ask: Ask, tier: Tier, usage: Usage | None) -> None:
        """An attempt has ended; its usage is None where it is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision, and the tiers to try in order: the next one after a *rejected* answer."""

    decision: Decision
    order: tuple[str, ...]


class Chooser(Protocol):
    """What the client needs of a router."""

    @property
    def tiers(self) -> TierSet:
        """The tiers, with their providers."""
        ...

    @property
    def strongest(self) -> str:
        """The tier that the baseline is made of."""
        ...

    def choose(self, ask: Ask, exclude: Collection[str], rates: Verifier | None) -> Choice:
        """Where to go without the excluded tiers; ``rates`` None is a client without a verifier.

        Raises RoutingError where no tier is left.
        """
        ...

    def exploration_usd(self, ask: Ask, exclude: Collection[str], decision: Decision) -> float:
        """What an explored tier is expected to cost more than the policy's own; 0 if none was."""
        ...

    def expected_output_tokens(self, query: str) -> dict[str, float]:
        """By tier; empty where it expects none."""
        ...


class LearnedChooser:
    """Of a `Router`; ``cache`` says what to tell it of prompt caches."""

    def __init__(self, router: Router, cache: CacheSeam | None = None) -> None:
        self._router = router
        self._settled = router.exploring(None)
        self._cache = cache
        self.tiers = router.tiers
        self.strongest = router.tiers.names[router.policy.strongest]

    def choose(self, ask: Ask, exclude: Collection[str], rates: Verifier | None) -> Choice:
        """As ``route``; with a verifier as ``plan``, whose first tier may be another.

        A plan is made without exploration and without a coin, so its decision's propensity is 1.
        The success floor was tested on the policy alone: the decision is certified only where the
        plan is the policy's own tier and nothing else.
        """
        # Where answers are verified `plan` decides, and it does not explore.
        router = self._router if rates is None else self._settled
        decision = self._route(router, ask, exclude)
        if rates is None or ask.pin is not None:
            return Choice(decision, (decision.tier,))
        more = self._told(ask)
        order = self._router.plan(
            ask.query,
            miss_rate=rates.miss_rate,
            false_alarm_rate=rates.false_alarm_rate,
            exclude=exclude,
            context_tokens=ask.context_tokens,
            needs=ask.needs,
            **{name: more[name] for name in ("session", "prefix") if name in more},
        )
        if order != [decision.tier] or decision.propensity != 1.0:
            first = self.tiers[self.tiers.index(order[0])]
            decision = replace(
                decision, tier=first.name, model=first.model, propensity=1.0, certified=False
            )
        return Choice(decision, tuple(order))

    def exploration_usd(self, ask: Ask, exclude: Collection[str], decision: Decision) -> float:
        """Expected cost of the explored tier minus that of the tier that the policy has."""
        if not decision.explored:
            return 0.0
        own = self._route(self._settled, ask, exclude).tier
        explored_usd, own_usd = decision.cost_usd[decision.tier], decision.cost_usd[own]
        return 0.0 if explored_usd is None or own_usd is None else explored_usd - own_usd

    def expected_output_tokens(self, query: str) -> dict[str, float]:
        """Of the tiers whose output tokens the artifact has learned."""
        predictor = self._router.predictor
        tokens = predictor.output_tokens_one(query)
        by_tokens = predictor.cost.by_tokens
        expected = zip(self.tiers.names, tokens.tolist(), by_tokens, strict=True)
        return {name: n for name, n, known in expected if known}

    def _route(self, router: Router, ask: Ask, exclude: Collection[str]) -> Decision:
        return router.route(
            ask.query,
            request_id=ask.request_id,
            pin=ask.pin,
            exclude=exclude,
            context_tokens=ask.context_tokens,
            needs=ask.needs,
            **self._told(ask),
        )

    def _told(self, ask: Ask) -> Mapping[str, Any]:
        return {} if self._cache is None else self._cache.before_routing(ask)


class KeywordChooser:
    """Of a `KeywordRouter`, whose tiers are given; tiers for harder queries stand later."""

    def __init__(self, router: KeywordRouter, tiers: TierSet) -> None:
        self._router = router
        self.tiers = tiers
        self._order = tuple(dict.fromkeys(router.tiers))
        for name in self._order:
            tiers.index(name)
        self.strongest = self._order[-1]

    def choose(self, ask: Ask, exclude: Collection[str], rates: Verifier | None) -> Choice:
        """Its own tier, else the next harder one that can be had, else the next easier one."""
        own = self._router.route(ask.query, request_id=ask.request_id)
        if ask.pin is not None:
            pinned = self.tiers[self.tiers.index(ask.pin)]
            decision = replace(own, tier=pinned.name, model=pinned.model, reason="pinned")
            return Choice(decision, (pinned.name,))
        takes = dict(zip(self.tiers.names, self.tiers.takes(ask.context_tokens), strict=True))
        needed = frozenset(ask.needs)
        for name in exclude:
            self.tiers.index(name)
        place = self._order.index(own.tier)
        harder = [
            name
            for name in (*self._order[place:], *reversed(self._order[:place]))
            if takes[name]
            and name not in exclude
            and needed <= self.tiers[self.tiers.index(name)].features
        ]
        if not harder:
            raise RoutingError(
                f"expected a tier for a request of about {ask.context_tokens} tokens, got none of "
                f"{', '.join(self._order)}: shorten the request, or allow another tier."
            )
        first = self.tiers[self.tiers.index(harder[0])]
        reason = own.reason if first.name == own.tier else "fallback"
        decision = replace(own, tier=first.name, model=first.model, reason=reason)
        after = self._order[self._order.index(first.name) + 1 :]
        order = (first.name, *(name for name in harder[1:] if name in after))
        return Choice(decision, order if rates is not None else order[:1])

    def exploration_usd(self, ask: Ask, exclude: Collection[str], decision: Decision) -> float:
        """It does not explore."""
        return 0.0

    def expected_output_tokens(self, query: str) -> dict[str, float]:
        """It expects nothing."""
        return {}


def chooser_of(router: object, tiers: TierSet | None, cache: CacheSeam | None) -> Chooser:
    """The face of a router; a KeywordRouter needs ``tiers``, a learned one brings its own.

    Raises InputError where it is no router, or the tiers are missing or given twice.
    """
    if isinstance(router, KeywordRouter):
        if tiers is None:
            raise InputError(
                "expected the tiers of a KeywordRouter, got none: give for example "
                "tiers=TierSet.from_toml(path)."
            )
        return KeywordChooser(router, tiers)
    if not all(hasattr(router, name) for name in ("route", "plan", "tiers", "exploring")):
        raise InputError(
            f"expected a Router or a KeywordRouter, got {type(router).__name__}: load one, for "
            "example with Router.load()."
        )
    if tiers is not None:
        raise InputError(
            "expected no tiers beside a Router, which brings its own, got some: leave them out."
        )
    return LearnedChooser(router, cache)  # type: ignore[arg-type]
