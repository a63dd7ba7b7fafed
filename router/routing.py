"""Router: load an artifact once, then ask it where each query should go.

>>> from router import Router
>>> decision = Router.load().route("What is 2 + 2?")
>>> decision.tier in decision.p_success, decision.reason
(True, 'policy')
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from router.artifact import Artifact, default_artifact_folder, load_artifact
from router.cache_routing import CacheRouting, as_prefix, mixed
from router.cache_state import CacheState, Prefix
from router.certificate import Floor
from router.contents import max_weight, read_contents, tested_prices
from router.costs import CostEstimator, TierMeans
from router.decision import CacheNote, Decision, Predictions, Reason
from router.errors import InputError, RoutingError
from router.escalation import Escalation, Verifier
from router.exploration import Exploration, Explorer, certify_explored, drawn
from router.plans import best_plan
from router.policy import Policy, min_cps_value, value_for_budget
from router.predictor import Predictor
from router.prices import PriceBook, current_prices
from router.selection import CalibrationRows, Certificate, certify
from router.shadow import AnyRouter, check_shadow, with_shadow, with_shadows
from router.stored_query import Query
from router.text import check_sequence
from router.tiers import TierSet, estimated_tokens

__all__ = ["Decision", "Router"]

FloatArray = npt.NDArray[np.float64]

# Of what the policy decides alone: is the query out of distribution?
_REASONS: dict[bool, Reason] = {False: "policy", True: "out-of-distribution"}


class Router:
    """A loaded artifact. Immutable after loading and safe to share between threads."""

    def __init__(
        self,
        artifact: Artifact,
        predictor: Predictor,
        tiers: TierSet,
        policy: Policy,
        certificate: Certificate | None,
    ) -> None:
        self.manifest: Mapping[str, Any] = artifact.manifest
        self.artifact_id = artifact.artifact_id
        self._trained_id = self.artifact_id.split("+")[0]
        self.predictor = predictor
        self.tiers = tiers
        self.policy = policy
        self.certificate = certificate
        self.safe_tier = policy.safe_tier
        self.escalation = Escalation.from_arrays(artifact.arrays, len(tiers))
        self.exploration: Exploration | None = None
        self._explorer: Explorer | None = None
        # The router that this one would be if it did not explore.
        self._settled = self
        self.cache_state = CacheState()
        self._price_book: PriceBook | None = None
        # By the time to live of what is written.
        self._caching: dict[str, CacheRouting] = {}
        self._arrays = artifact.arrays
        self._names = tiers.names
        self._models = tuple(tier.model for tier in tiers)
        self._certified = certificate is not None and certificate.certified
        self._limited = any(tier.context_window_tokens is not None for tier in tiers)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        key: str | bytes | None = None,
        price_book: PriceBook | None = None,
        cache_state: CacheState | None = None,
    ) -> Router:
        """Load an artifact; without a path, the one that ships with cps-router.

        ``key`` makes a valid signature mandatory. Where a price differs from the one that the
        floor was certified at, the floor is tested again on the calibration rows that the artifact
        carries. ``cache_state`` is what sessions are routed by; tell it the usages that come back,
        as `RoutedClient` does. Raises ArtifactError where anything is missing, altered, unsigned or
        too new.
        """
        artifact = load_artifact(default_artifact_folder() if path is None else path, key=key)
        contents = read_contents(artifact)
        router = cls(
            artifact, contents.predictor, contents.tiers, contents.policy, contents.certificate
        )
        tested = tested_prices(artifact.manifest)
        current = _prices_now(contents.tiers, *tested, price_book)
        if not all(_same(now, then) for now, then in zip(current, tested, strict=True)):
            router = router.repriced(*current)
        router._price_book = price_book
        if cache_state is not None:
            router.cache_state = cache_state
        return router

    def repriced(self, input_usd_per_mtok: FloatArray, output_usd_per_mtok: FloatArray) -> Router:
        """The same router at other prices (T,), NaN where a tier goes by logged dollars.

        A success floor is selected and tested again at the new prices; its certificate may be lost,
        and the decisions then say ``certified: false``. For a budget or least CPS the success value
        is found again. The artifact's id gets a suffix, since this is another policy.
        """
        if self.exploration is not None:
            settled = self._settled.repriced(input_usd_per_mtok, output_usd_per_mtok)
            return settled.exploring(self.exploration)
        prices = [np.array(p, dtype=float) for p in (input_usd_per_mtok, output_usd_per_mtok)]
        if any(p.shape != (len(self.tiers),) or (p < 0).any() or np.isinf(p).any() for p in prices):
            raise InputError(
                f"expected {len(self.tiers)} input and output prices of at least 0, got others: "
                "give one of each for every tier, NaN where its cost goes by dollars."
            )
        predictor = self.predictor.priced(*prices)
        if not predictor.cost.known.all():
            raise InputError(
                "expected a price of every tier whose cost is known in tokens only, got NaN: "
                "give its price."
            )
        own = self._trained_id
        tested = tested_prices(self.manifest)
        if not all(_same(now, then) for now, then in zip(prices, tested, strict=True)):
            own += f"+{hashlib.sha256(np.array(prices).tobytes()).hexdigest()[:8]}"
        manifest = {**self.manifest, "artifact_id": own}
        artifact = Artifact(Path(), manifest, self._arrays, {})
        router = Router(artifact, predictor, self.tiers, self.policy, self.certificate)
        router.cache_state, router._price_book = self.cache_state, self._price_book
        floor = self.certificate
        if floor is None:
            value = _value_at(self.manifest, *router.calibration.served(self.safe_tier))
            if value is not None:
                router.policy = replace(self.policy, success_value_usd=value)
            return router
        training = self.manifest["training"]
        policy, certificate = certify(
            router.calibration,
            Floor(floor.rate, floor.margin, floor.relative_to),
            tier_success=np.asarray(training["tier_success"], dtype=float),
            tier_cost_usd=TierMeans.from_dict(training["tier_means"]).dollars(predictor.cost),
            names=self._names,
            safe_tier=self.safe_tier,
            strongest=self.policy.strongest,
            confidence=floor.confidence,
        )
        other = Router(artifact, predictor, self.tiers, policy, certificate)
        other.cache_state, other._price_book = self.cache_state, self._price_book
        return other

    def exploring(self, exploration: Exploration | None) -> Router:
        """The same router, but exploring; with None, the one that does not.

        Now and then it tries another tier than the policy's, of those that keep the success floor
        on the query; a decision's propensity stays exact, so that its outcome can be learned from.
        Queries out of distribution, pinned ones and those whose tier was excluded never explore.
        Which requests do depends on the seed and on ``request_id``, else on the query's text.

        The floor is tested again on the calibration rows, exploration included; where it does not
        pass, ``certificate`` says so and the decisions say ``certified: false``. The artifact's id
        gets a suffix, since this is another policy. ``plan`` is as without exploration.

        >>> from router import Exploration
        >>> router = Router.load().exploring(Exploration(epsilon=0.1))
        >>> router.route("What is 2 + 2?", request_id="r-1").propensity >= 0.1 / 3
        True
        """
        settled = self._settled
        if exploration is None or not exploration.explores:
            return settled
        router = copy.copy(settled)
        router.exploration = exploration
        router.artifact_id = f"{settled.artifact_id}+explore-{exploration.suffix()}"
        router.manifest = {**settled.manifest, "artifact_id": router.artifact_id}
        rows, floor = settled.calibration, settled.certificate
        router._explorer = Explorer.of(exploration, settled.policy, floor, rows.n_outcomes)
        if floor is not None:
            training = settled.manifest["training"]
            router.certificate = certify_explored(
                exploration,
                settled.policy,
                floor,
                rows,
                tier_success=np.asarray(training["tier_success"], dtype=float),
                tier_cost_usd=TierMeans.from_dict(training["tier_means"]).dollars(
                    settled.predictor.cost
                ),
            )
            router._certified = router.certificate.certified
        return router

    def route(
        self,
        query: str,
        *,
        request_id: str | None = None,
        pin: str | None = None,
        exclude: Iterable[str] = (),
        context_tokens: int | None = None,
        needs: Iterable[str] = (),
        shadow: AnyRouter | None = None,
        session: str | None = None,
        prefix_tokens: int | None = None,
        expected_turns: float | None = None,
        prefix: Prefix | None = None,
    ) -> Decision:
        """Where this query should go.

        Args:
            query: The text the user sent.
            request_id: Yours; returned in the decision, and it seeds the coin of a mixed policy
                and of exploration.
            pin: Name of a tier to use whatever the policy says.
            exclude: Names of tiers that cannot be used now (an outage).
            context_tokens: Tokens of the whole request, for tiers with a limited context window;
                estimated from the query's length where not given.
            needs: Features that the tier must have.
            shadow: Another router (or a KeywordRouter). What it would have done with the request,
                were nothing pinned, stands in the decision's ``shadow``; the decision is the same.
            session: Name of the conversation. With it, or with ``prefix_tokens``, each tier is
                priced with what ``cache_state`` believes is warm there (``router.cache_worth``).
            prefix_tokens: Tokens that stand before the query: system prompt, tools, history. They
                replace the input tokens that a tier is expected to take; the dollars of a tier
                that goes by dollars are taken to be the query's alone.
            expected_turns: Turns still expected of the session, this one included; by default as
                long as sessions have been.
            prefix: In place of ``session`` and ``prefix_tokens``, the prefix by its keys.

        Raises:
            RoutingError: no tier is left.
            InputError: the query is no text, a tier's name is unknown, the shadow no router, or
                what is said of the session no prefix.
            PriceError: a session is named, and the price of a tier's tokens is unknown.
        """
        if shadow is not None:
            check_shadow(shadow)
            exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
            needs = (needs,) if isinstance(needs, str) else tuple(needs)
        before = as_prefix(session, prefix_tokens, prefix)
        if before is None:
            decision = self._route(query, request_id, pin, exclude, context_tokens, needs)
        else:
            if context_tokens is None and isinstance(query, str):
                context_tokens = before.n_tokens + estimated_tokens(query)
            decision = self._route_cached(
                query,
                request_id,
                pin,
                exclude,
                context_tokens,
                needs,
                before,
                expected_turns,
            )
        if shadow is None:
            return decision
        options: dict[str, Any] = {}
        if isinstance(shadow, Router):
            known = [name for name in exclude if name in shadow.tiers.names]
            options = {"exclude": known, "context_tokens": context_tokens, "needs": needs}
        return with_shadow(decision, shadow, query, request_id, options)

    def _route(
        self,
        query: str,
        request_id: str | None,
        pin: str | None,
        exclude: Iterable[str],
        context_tokens: int | None,
        needs: Iterable[str],
    ) -> Decision:
        self._check(query)
        p, cost, unknown = self.predictor.predict_one(query)
        if pin is not None:
            return self._decision(self.tiers.index(pin), p, cost, 1.0, "pinned", request_id)
        allowed = self._allowed(query, exclude, context_tokens, needs)
        return self._decide(p, cost, unknown, allowed, query, request_id)

    def _route_cached(
        self,
        query: str,
        request_id: str | None,
        pin: str | None,
        exclude: Iterable[str],
        context_tokens: int | None,
        needs: Iterable[str],
        prefix: Prefix,
        expected_turns: float | None,
    ) -> Decision:
        """As ``_route``, with what the prefix costs on every tier, now and over the turns to come.

        Where the policy is a mix, a session keeps the tier that its coin gave it. A router that
        explores does so evenly, with its epsilon, around what is chosen; no test covers that, so
        that its decisions are not certified.
        """
        self._check(query)
        caching = self._cache_routing(prefix.ttl)
        priced = caching.priced(prefix, self.cache_state, expected_turns)
        p, cost, here, unknown = self._predict_told(query)
        bill = (here + priced.standing.now_usd).tolist()
        reason, tested, propensity, explored = _REASONS[unknown], True, 1.0, False
        if pin is not None:
            tier = own = self.tiers.index(pin)
            reason = "pinned"
        else:
            allowed = self._allowed(query, exclude, context_tokens, needs)
            one = self._predictions(p, cost, unknown, allowed, query)
            base = self._settled.action_dist(one)[0]
            if caching.tested is None:
                one = replace(one, cost_usd=here[None])
            own = drawn(base, _coin(self.artifact_id, prefix.identity or request_id, query))
            choices = caching.choices(one, base, priced)
            dist = mixed(base, choices)
            if allowed is not None:
                # What is left out may change what the policy does, or only what its cache leads to.
                free = replace(one, allowed=None)
                before = self._settled.action_dist(replace(free, cost_usd=np.array([cost])))[0]
                if (dist != mixed(before, caching.choices(free, before, priced))).any():
                    reason = "fallback"
            tier = choices[own]
            if self._explorer is not None and reason == "policy":
                around = {
                    arm: self._explorer.around(chosen, one.p_success, one.candidates)
                    for arm, chosen in choices.items()
                }
                explored = (
                    dist[(tier := drawn(around[own], self._explore_coin(request_id, query)))] == 0.0
                )
                dist = sum(base[arm] * dist_of for arm, dist_of in around.items())
            propensity = float(dist[tier])
            tested = self._explorer is None and (caching.certified or tier == own)
        decision = self._decision(tier, p, bill, propensity, reason, request_id)
        note = CacheNote(
            self._names[own],
            prefix.n_tokens,
            dict(priced.warm_tokens),
            dict(zip(self._names, priced.standing.now_usd.tolist(), strict=True)),
        )
        certified = decision.certified and tested
        return replace(decision, certified=certified, explored=bool(explored), cache=note)

    def _predict_told(self, query: str) -> tuple[list[float], list[float], FloatArray, bool]:
        """As ``Predictor.predict_one``, and third: dollars (T,) with the query's own length.

        How long a prompt is need not be predicted where it is told.
        """
        p, cost, input_usd, unknown = self.predictor.predict_one_apart(query)
        estimator = self.predictor.cost
        told = np.where(estimator.by_tokens, estimated_tokens(query) * 1e-6, 0.0)
        here = np.array(cost) - input_usd + told * np.nan_to_num(estimator.input_usd_per_mtok)
        return p, cost, here, unknown

    def sharing(self, cache_state: CacheState, price_book: PriceBook | None = None) -> Router:
        """The same router with another cache state, for example one that processes share.

        ``price_book`` replaces the one that prefixes are priced by.
        """
        router = copy.copy(self)
        if self._settled is not self:
            router._settled = self._settled.sharing(cache_state, price_book)
        else:
            router._settled = router
        router.cache_state = cache_state
        if price_book is not None:
            router._price_book, router._caching = price_book, {}
        return router

    def _cache_routing(self, ttl: Literal["5m", "1h"] = "5m") -> CacheRouting:
        """Made on first use: prices that are not in the tiers file take half a second to look up.

        Two threads that come at once make the same.
        """
        router = self._settled
        if ttl not in router._caching:
            router._caching[ttl] = CacheRouting.of(
                router.tiers,
                router.policy,
                router.certificate,
                router.calibration,
                router._price_book or PriceBook(),
                ttl,
            )
        return router._caching[ttl]

    def route_many(
        self,
        queries: Sequence[str],
        request_ids: Sequence[str | None] | None = None,
        *,
        shadow: AnyRouter | None = None,
    ) -> list[Decision]:
        """Decisions in the order of the queries; faster than ``route`` one by one."""
        if shadow is not None:
            check_shadow(shadow)
            ids = [None] * len(queries) if request_ids is None else request_ids
            return with_shadows(self.route_many(queries, request_ids), shadow, queries, ids)
        check_sequence(queries)
        if request_ids is None:
            request_ids = [None] * len(queries)
        check_sequence(request_ids)
        if len(request_ids) != len(queries):
            raise InputError(
                f"expected one request id per query, got {len(request_ids)} for {len(queries)}: "
                "pass as many ids as queries, or none."
            )
        if not len(queries):
            return []
        for query in queries:
            self._check(query)
        predicted = self.predictor.predict(queries)
        if self._explorer is not None:
            if self._limited:
                every = [True] * len(self.tiers)
                allowed = np.array([self._allowed(query) or every for query in queries])
                predicted = replace(predicted, allowed=allowed)
            return self._explore(predicted, queries, request_ids)
        dist = self.action_dist(predicted)
        tiers = dist.argmax(axis=1)
        rows = zip(
            predicted.p_success.tolist(),
            predicted.cost_usd.tolist(),
            predicted.out_of_distribution.tolist(),
            tiers.tolist(),
            (dist[np.arange(len(dist)), tiers] == 1.0).tolist(),
            queries,
            request_ids,
            strict=True,
        )
        return [
            self._decision(tier, p, cost, 1.0, _REASONS[unknown], request_id)
            if certain and not self._limited
            else self._decide(p, cost, unknown, self._allowed(query), query, request_id)
            for p, cost, unknown, tier, certain, query, request_id in rows
        ]

    def plan(
        self,
        query: str,
        *,
        success_value_usd: float | None = None,
        miss_rate: float = 0.0,
        false_alarm_rate: float = 0.0,
        exclude: Iterable[str] = (),
        context_tokens: int | None = None,
        needs: Iterable[str] = (),
        session: str | None = None,
        prefix_tokens: int | None = None,
        prefix: Prefix | None = None,
    ) -> list[str]:
        """Tiers to try in order until an answer passes, as far as one more try is worth its cost.

        For callers with a verifier, that is, something that passes or rejects an answer. Where a
        plan ends, the answer of its last tier is served, whatever the verifier says of it. The plan
        maximises ``success_value_usd`` x P(the answer that is served is good) - expected cost. With
        a verifier that is no better than chance it is the single tier that is worth most.

        What a rejection says of the other tiers is in the artifact; without it, tries count as
        independent. The verifier errs independently from try to try; asking it costs nothing. A
        query out of distribution gets the safe tier alone.

        Args:
            query: The text the user sent.
            success_value_usd: Dollars that a good answer is worth; by default the exchange rate of
                the policy.
            miss_rate: P(the verifier passes a failed answer), from 0 to 1.
            false_alarm_rate: P(the verifier rejects a good answer), from 0 to 1.
            exclude: As in ``route``, and so ``context_tokens`` and ``needs``.
            context_tokens: See there.
            needs: See there.
            session: As in ``route``, and so ``prefix_tokens`` and ``prefix``; each try then costs
                what the prefix costs on its tier now. What follows in the session is not weighed:
                the next turn has a plan of its own.
            prefix_tokens: See there.
            prefix: See there.

        Raises:
            RoutingError: no tier is left.
            InputError: the query is no text, a tier's name is unknown, or a value or rate is no
                number in its range.
            PriceError: a session is named, and the price of a tier's tokens is unknown.
        """
        self._check(query)
        verifier = Verifier(miss_rate, false_alarm_rate)
        value = self.policy.success_value_usd if success_value_usd is None else success_value_usd
        if not (isinstance(value, Real) and 0 <= value < math.inf):
            raise InputError(
                f"expected a success to be worth 0 dollars or more, got {value!r}: "
                "give a finite amount, for example 0.01."
            )
        before = as_prefix(session, prefix_tokens, prefix)
        if before is None:
            p, cost, unknown = self.predictor.predict_one(query)
        else:
            if context_tokens is None:
                context_tokens = before.n_tokens + estimated_tokens(query)
            priced = self._cache_routing(before.ttl).priced(before, self.cache_state, 1.0)
            p, _, here, unknown = self._predict_told(query)
            cost = (here + priced.standing.now_usd).tolist()
        allowed = self._allowed(query, exclude, context_tokens, needs)
        mask = self._predictions(p, cost, unknown, allowed, query).candidates
        usable = [t for t in range(len(p)) if mask is None or mask[0, t]]
        if unknown and self.safe_tier in usable:
            usable = [self.safe_tier]
        p, cost = [p[t] for t in usable], [cost[t] for t in usable]
        given = self.escalation and self.escalation.given(p, usable, verifier)
        order = best_plan(p, cost, float(value), given, verifier).order
        return [self._names[usable[index]] for index in order]

    def predict(self, queries: Sequence[Query]) -> Predictions:
        """Expected success and cost of every tier for every query, a text or a stored one."""
        predicted = self.predictor.predict(queries)
        if not self._limited:
            return predicted
        return replace(predicted, allowed=np.array([self._candidates(query) for query in queries]))

    def action_dist(self, predictions: Predictions) -> FloatArray:
        """Probability of every tier (n, T) under the policy and the out-of-distribution rule.

        Only of tiers that the log has tried on such queries. Exploration included, where the router
        explores.
        """
        if self._explorer is not None:
            return self._explored(predictions)[0]
        return self.policy.action_dist(
            predictions.p_success,
            predictions.cost_usd,
            predictions.out_of_distribution,
            predictions.candidates,
        )

    def _explored(
        self, predictions: Predictions
    ) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(n, T) with and without exploration; (n,): the policy has its way? it is as tested?"""
        assert self._explorer is not None
        p, cost, unknown = (
            predictions.p_success,
            predictions.cost_usd,
            predictions.out_of_distribution,
        )
        tried, candidates = predictions.tried, predictions.candidates
        base = free = self.policy.action_dist(p, cost, unknown, tried)
        if predictions.allowed is not None:
            base = self.policy.action_dist(p, cost, unknown, candidates)
        own = (base == free).all(axis=1)
        dist = self._explorer.action_dist(p, cost, base, own & ~unknown, candidates)
        tested = own
        if predictions.allowed is not None:
            settled = self._explorer.action_dist(p, cost, free, ~unknown, tried)
            tested = (dist == settled).all(axis=1)
        return dist, base, own, tested

    def _explore(
        self,
        predictions: Predictions,
        queries: Sequence[str],
        request_ids: Sequence[str | None],
    ) -> list[Decision]:
        """Decisions of a router that explores."""
        assert self.exploration is not None
        dist, base, own, tested = self._explored(predictions)
        key = self._seeded_id()
        decisions = []
        for row, (query, request_id) in enumerate(zip(queries, request_ids, strict=True)):
            tier = drawn(dist[row], _coin(key, request_id, query))
            unknown = bool(predictions.out_of_distribution[row])
            decision = self._decision(
                tier,
                predictions.p_success[row].tolist(),
                predictions.cost_usd[row].tolist(),
                float(dist[row, tier]),
                _REASONS[unknown] if own[row] else "fallback",
                request_id,
            )
            explored = bool(base[row, tier] == 0.0)
            certified = decision.certified and bool(tested[row])
            decisions.append(replace(decision, explored=explored, certified=certified))
        return decisions

    def _seeded_id(self) -> str:
        """Of the coin that explores: settings that explore more explore these requests too."""
        assert self.exploration is not None
        return f"{self._settled.artifact_id}\0explore {self.exploration.seed}"

    def _explore_coin(self, request_id: str | None, query: str) -> float:
        return _coin(self._seeded_id(), request_id, query)

    @property
    def calibration(self) -> CalibrationRows:
        """The rows on which the floor was tested: predictions and outcomes, no text.

        At the prices in force: realised costs moved in proportion to the expected ones.
        """
        a = self._arrays
        cost = self.predictor.cost
        tried = a.get("calibration.tried")
        tested = CalibrationRows(
            a["calibration.p_success"],
            _calibration_cost(a, cost.priced(*tested_prices(self.manifest))),
            a["calibration.success"],
            a["calibration.realised_cost_usd"],
            a["calibration.out_of_distribution"].astype(bool),
            max_weight(self.manifest),
            bool(self.manifest.get("feedback", {}).get("approximate", False)),
            None if tried is None else tried.astype(bool),
        )
        return tested.repriced(_calibration_cost(a, cost))

    @property
    def trained_query_hashes(self) -> npt.NDArray[np.uint64]:
        """Sorted hashes of the normalised queries that the artifact was made from."""
        return self._arrays["training.query_hashes"]

    def _check(self, query: object) -> None:
        if not isinstance(query, str):
            raise InputError(
                f"expected the query as text, got {type(query).__name__}: pass a string."
            )

    def _allowed(
        self,
        query: Query,
        exclude: Iterable[str] = (),
        context_tokens: int | None = None,
        needs: Iterable[str] = (),
    ) -> list[bool] | None:
        """Which of the T tiers can take the request; None where all can."""
        if not (exclude or needs or self._limited):
            return None
        without = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        excluded = {self.tiers.index(name) for name in without}
        needed = frozenset((needs,) if isinstance(needs, str) else needs)
        if context_tokens is None:
            context_tokens = estimated_tokens(query)
        allowed = [
            fits and index not in excluded and needed <= self.tiers[index].features
            for index, fits in enumerate(self.tiers.takes(context_tokens))
        ]
        if not any(allowed):
            raise RoutingError(
                f"expected a tier for a request of about {context_tokens} tokens"
                f"{' with ' + ', '.join(sorted(needed)) if needed else ''}"
                f"{' without ' + ', '.join(without) if without else ''}, got none of "
                f"{', '.join(self._names)}: shorten the request, or allow another tier."
            )
        return None if all(allowed) else allowed

    def _candidates(self, query: Query) -> list[bool]:
        """As ``_allowed``, for the past: what no tier seems able to take was taken all the same."""
        every = [True] * len(self.tiers)
        try:
            return self._allowed(query) or every
        except RoutingError:
            return every

    def _decide(
        self,
        p: list[float],
        cost: list[float],
        unknown: bool,
        allowed: list[bool] | None,
        query: str,
        request_id: str | None,
    ) -> Decision:
        if self._explorer is not None:
            one = self._predictions(p, cost, unknown, allowed, query)
            return self._explore(one, [query], [request_id])[0]
        reason = _REASONS[unknown]
        tier = self.policy.certain_tier(p, cost, unknown)
        anywhere = self.predictor.support is None
        if tier is not None and anywhere and (allowed is None or allowed[tier]):
            return self._decision(tier, p, cost, 1.0, reason, request_id)
        one = self._predictions(p, cost, unknown, allowed, query)
        dist = self.action_dist(replace(one, allowed=None))[0]
        if allowed is not None:
            free = self.action_dist(one)[0]
            # Any change of the distribution breaks what was certified, whatever the coin says.
            if (free != dist).any():
                reason, dist = "fallback", free
        # Deterministic per request: a replay draws the same tier.
        coin = _coin(self.artifact_id, request_id, query)
        tier = min(int(np.searchsorted(dist.cumsum(), coin, side="right")), len(dist) - 1)
        return self._decision(tier, p, cost, float(dist[tier]), reason, request_id)

    def _predictions(
        self,
        p: list[float],
        cost: list[float],
        unknown: bool,
        allowed: list[bool] | None,
        query: str,
    ) -> Predictions:
        """Of one query, as of many."""
        return Predictions(
            np.array([p]),
            np.array([cost]),
            np.array([unknown]),
            None if allowed is None else np.array([allowed]),
            self.predictor.tried([query]),
        )

    def _decision(
        self,
        tier: int,
        p: list[float],
        cost: list[float],
        propensity: float,
        reason: Reason,
        request_id: str | None,
    ) -> Decision:
        return Decision(
            self._names[tier],
            self._models[tier],
            dict(zip(self._names, p, strict=True)),
            dict(zip(self._names, cost, strict=True)),
            propensity,
            reason,
            self.artifact_id,
            self._certified and reason in ("policy", "out-of-distribution"),
            request_id,
        )


def _coin(artifact_id: str, request_id: str | None, query: str) -> float:
    """A number in [0, 1), uniform over requests, the same for the same request."""
    text = f"{artifact_id}\0{request_id}" if request_id is not None else f"{artifact_id}\0\0{query}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _same(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-9, atol=0.0, equal_nan=True))


def _prices_now(
    tiers: TierSet, tested_in: FloatArray, tested_out: FloatArray, book: PriceBook | None
) -> tuple[FloatArray, FloatArray]:
    """Today's prices of the tiers that go by tokens; a price that has gone keeps its old value."""
    # The others are not looked up: published prices take half a second to import.
    by_tokens = np.flatnonzero(np.isfinite(tested_in))
    now = current_prices([tiers[int(tier)] for tier in by_tokens], book or PriceBook())
    known = np.isfinite(now[0])
    prices = tested_in.copy(), tested_out.copy()
    for price, today in zip(prices, now, strict=True):
        price[by_tokens[known]] = today[known]
    return prices


def _value_at(manifest: Mapping[str, Any], p: FloatArray, cost: FloatArray) -> float | None:
    """The success value of a budget or of least CPS at these costs; None for other aims."""
    if manifest.get("objective_kind") == "min-cps":
        return min_cps_value(p, cost)
    if manifest.get("objective_kind") != "budget":
        return None
    try:
        return value_for_budget(p, cost, float(manifest["objective_amount_usd"]))
    except InputError:
        return 0.0  # even the cheapest choice costs more now: it is what comes nearest


def _calibration_cost(arrays: Mapping[str, Any], cost: CostEstimator) -> FloatArray:
    tokens = cost.dollars(arrays["calibration.input_tokens"], arrays["calibration.output_tokens"])
    expected: FloatArray = np.where(cost.by_tokens, tokens, arrays["calibration.usd"])
    return expected
