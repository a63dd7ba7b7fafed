"""Routing with sessions: what a warm prefix changes, and what stays promised."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.cache_routing import _TESTED_TOKENS as TESTED_TOKENS
from router.cache_routing import CacheRouting, PricedPrefix
from router.cache_state import CacheState, Prefix
from router.certificate import Floor
from router.embedding import embed_all
from router.errors import InputError, PriceError, RoutingError, TiersError
from router.exploration import Exploration
from router.policy import Policy
from router.prices import PriceBook
from router.providers.caching import cache_policy
from router.routing import Router
from router.tiers import estimated_tokens
from router.usage import Usage
from tests.artifacts import resave, sample_table

NAMES = ("nano", "mid", "frontier")
MODELS = {
    "nano": ("openai", "gpt-5-nano"),
    "mid": ("anthropic", "claude-sonnet-4-5"),
    "frontier": ("anthropic", "claude-opus-4-6"),
}
QUERIES = list(dict.fromkeys(sample_table(600).query))[:150]
TOKENS = 20_000


class Clock:
    now = 5_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(small_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small router with tiers whose providers have caches."""

    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            tier["provider"], tier["model"] = MODELS[tier["name"]]

    return resave(small_artifact, tmp_path_factory.mktemp("cached") / "router", manifest=change)


@pytest.fixture
def router(folder: Path) -> Router:
    return Router.load(folder, cache_state=CacheState(clock=Clock()))


def valued(router: Router, value: float) -> Router:
    """Without a floor, at a success value."""
    other = copy.copy(router)
    other.policy = Policy("value", value, router.policy.safe_tier, router.policy.strongest)
    other.certificate, other._certified = None, False
    other._settled, other._caching = other, {}
    return other


def warm(router: Router, session: str, tier: str, tokens: int = TOKENS) -> None:
    """As if the tier had just answered a prompt of so many tokens."""
    policy = cache_policy(*MODELS[tier])
    assert policy is not None
    written = policy.cacheable_tokens(tokens) if policy.writes_reported else 0
    usage = Usage(tokens, 100, 0, written)
    router.cache_state.observe(tier, Prefix.of_session(session, tokens), usage, policy)


def test_the_bill_includes_the_prefix(router: Router) -> None:
    plain = router.route(QUERIES[0])
    decision = router.route(QUERIES[0], session="s", prefix_tokens=TOKENS)
    note = decision.cache
    assert note is not None and note.prefix_tokens == TOKENS and note.warm_tokens == {}
    predictor = router.predictor
    x = predictor.inputs([QUERIES[0]], embed_all(predictor.embedder, [QUERIES[0]]))
    predicted = predictor.cost.input_tokens.predict(x)[0]
    for index, tier in enumerate(router.tiers):
        price = PriceBook().price(tier)
        written = TOKENS if tier.provider == "anthropic" else 0
        prefix = price.cost_usd(TOKENS, 0, 0, written)
        assert note.prefix_usd[tier.name] == pytest.approx(prefix)
        # The prompt's length is told, so that the input tokens of the log do not count again.
        told = estimated_tokens(QUERIES[0]) - predicted[index]
        query = plain.cost_usd[tier.name] + told * price.input_usd_per_mtok / 1e6
        assert decision.cost_usd[tier.name] == pytest.approx(query + prefix, rel=1e-5)
    assert decision.p_success == plain.p_success
    assert json.loads(json.dumps(decision.to_dict()))["cache"]["policy_tier"] == plain.tier
    assert "cache" not in plain.to_dict()


def test_without_a_session_nothing_changes(router: Router) -> None:
    for query in QUERIES[:20]:
        assert router.route(query).cache is None
        assert router.route(query).tier == router.route_many([query])[0].tier


def test_a_prefix_without_a_name_is_cold_but_has_its_price(router: Router) -> None:
    decision = router.route(QUERIES[0], prefix_tokens=TOKENS)
    assert decision.cache is not None and decision.cache.warm_tokens == {}
    assert decision.cache.prefix_usd["frontier"] > decision.cache.prefix_usd["nano"] > 0


def test_a_warm_tier_keeps_what_ties_and_gives_up_what_is_worth_it(router: Router) -> None:
    """The same query stays where its session is warm, and moves where the gain is larger."""
    value = 0.02
    free = valued(router, value)
    stayed = moved = 0
    for i, query in enumerate(QUERIES):
        own = free.route(query).tier
        warm(free, f"s{i}", "mid")
        decision = free.route(query, session=f"s{i}", prefix_tokens=TOKENS, expected_turns=1)
        cost, p = decision.cost_usd, decision.p_success
        loss = {name: cost[name] - value * p[name] for name in NAMES}  # type: ignore[operator]
        best = min(loss, key=loss.__getitem__)
        # With no turn to come the choice is the least of cost - value x success, bar a near tie.
        near = loss["mid"] - loss[best] <= 0.02 * cost["mid"]  # type: ignore[operator]
        assert decision.tier == ("mid" if near else best)
        stayed += decision.tier == "mid" != own
        moved += decision.tier != "mid"
    assert stayed > 0 and moved > 0


def test_the_more_turns_are_expected_the_more_a_dear_move_has_to_gain(router: Router) -> None:
    """What one answer gains is paid once; what a move costs the session later, again and again."""
    free = valued(router, 0.3)
    shares = []
    for turns in (1, 50):
        moved = 0
        for i, query in enumerate(QUERIES):
            warm(free, f"s{turns}-{i}", "mid", 6_000)
            decision = free.route(
                query, session=f"s{turns}-{i}", prefix_tokens=6_000, expected_turns=turns
            )
            moved += decision.tier == "frontier"
        shares.append(moved / len(QUERIES))
    assert 0.05 < shares[0] < 0.95
    assert shares[1] != shares[0]


def test_a_session_does_not_flap(router: Router) -> None:
    """Far fewer changes of tier within a session than routing blind to the cache makes."""
    free = valued(router, 0.03)
    policies = {name: cache_policy(*MODELS[name]) for name in NAMES}
    blind = [free.route(query).tier for query in QUERIES]
    aware: list[str] = []
    tokens = 12_000
    for query in QUERIES:
        prefix = Prefix.of_session("long", tokens)
        tier = free.route(query, session="long", prefix_tokens=tokens, expected_turns=10).tier
        held = free.cache_state.warmth(prefix).tokens.get(tier, 0)
        policy = policies[tier]
        assert policy is not None
        wrote = tokens - held if policy.writes_reported else 0
        free.cache_state.observe(tier, prefix, Usage(tokens, 50, held, wrote), policy)
        aware.append(tier)
        tokens += 50

    def changes(tiers: list[str]) -> int:
        return sum(a != b for a, b in pairwise(tiers))

    assert changes(blind) > 20
    assert changes(aware) < 0.7 * changes(blind)


def test_with_a_certified_floor_the_rule_is_certified_in_every_state(router: Router) -> None:
    assert router.certificate is not None and router.certificate.certified
    caching = router._cache_routing()
    assert caching.certified
    rows, floor = router.calibration, router.certificate
    asked = Floor(floor.rate, floor.margin, floor.relative_to)
    own = router.policy.action_dist(
        rows.p_success, rows.cost_usd, rows.out_of_distribution, rows.tried
    ).argmax(axis=1)
    assert caching.tested is not None
    n_states = len(TESTED_TOKENS) * (1 + len(NAMES))
    for (last, size), (_, standing) in caching.tested.items():
        tier = caching.played(
            rows.predictions, own, PricedPrefix(TESTED_TOKENS[size], {}, standing)
        )
        success = rows.success[np.arange(len(rows)), tier]
        assert rows.passes(asked, success, 0.05 / n_states)
        assert standing.last == last


@pytest.mark.parametrize("tokens", [10, 1_500, 100_000])
@pytest.mark.parametrize("turns", [1, 50])
def test_what_is_served_is_what_was_tested(router: Router, tokens: int, turns: int) -> None:
    """However long the session and its prefix are, no decision leaves the tested rules."""
    caching = router._cache_routing()
    assert caching.tested
    size = int(np.abs(np.log(np.array(TESTED_TOKENS) / tokens)).argmin())
    for i, query in enumerate(QUERIES[:60]):
        held = (None, 0, 1, 2)[i % 4]
        if held is not None:
            warm(router, f"s{i}", NAMES[held], tokens)
        # Where the prefix is too short to be kept, nothing is warm.
        last = held if held is not None and tokens >= (1024, 1024, 4096)[held] else None
        decision = router.route(query, session=f"s{i}", prefix_tokens=tokens, expected_turns=turns)
        assert decision.certified
        value, standing = caching.tested[last, size]
        predicted = router.predict([query])
        loss = predicted.cost_usd[0] + standing.now_usd - value * predicted.p_success[0]
        total = loss + standing.ahead_usd
        best = int(total.argmin())
        near = last is not None and total[last] - total[best] <= 0.02 * (
            predicted.cost_usd[0][last] + standing.now_usd[last]
        )
        if not predicted.out_of_distribution[0]:
            assert decision.tier == NAMES[last if near and last is not None else best]


def test_where_the_rule_is_not_certified_the_policy_has_its_way(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.selection.CalibrationRows.passes", lambda *_, **__: False)
    assert router._cache_routing().tested == {}
    for i, query in enumerate(QUERIES[:40]):
        warm(router, f"s{i}", "frontier")
        decision = router.route(query, session=f"s{i}", prefix_tokens=TOKENS)
        assert decision.cache is not None
        assert decision.tier == decision.cache.policy_tier == router.route(query).tier
        assert decision.certified


def test_a_floor_that_is_not_certified_lets_a_cache_draw_upwards_only(router: Router) -> None:
    other = copy.copy(router)
    assert router.certificate is not None
    other.certificate = replace(router.certificate, certified=False)
    other._certified, other._settled, other._caching = False, other, {}
    for i, query in enumerate(QUERIES[:60]):
        warm(other, f"s{i}", NAMES[i % 3])
        decision = other.route(query, session=f"s{i}", prefix_tokens=TOKENS)
        assert decision.cache is not None
        own = decision.cache.policy_tier
        assert decision.p_success[decision.tier] >= decision.p_success[own] - 1e-12  # type: ignore[operator]
        assert not decision.certified


def test_a_query_out_of_distribution_goes_to_the_safe_tier_whatever_is_warm(router: Router) -> None:
    warm(router, "s", "nano")
    decision = router.route("", session="s", prefix_tokens=TOKENS)
    assert decision.reason == "out-of-distribution"
    assert decision.tier == NAMES[router.safe_tier]


def test_pins_and_exclusions_hold(router: Router) -> None:
    warm(router, "s", "mid")
    pinned = router.route(QUERIES[0], session="s", prefix_tokens=TOKENS, pin="frontier")
    assert (pinned.tier, pinned.reason, pinned.certified) == ("frontier", "pinned", False)
    without = router.route(QUERIES[0], session="s", prefix_tokens=TOKENS, exclude=["mid", "nano"])
    assert without.tier == "frontier"
    with pytest.raises(RoutingError, match="expected a tier"):
        router.route(QUERIES[0], session="s", prefix_tokens=TOKENS, exclude=NAMES)
    with pytest.raises(TiersError):
        router.route(QUERIES[0], session="s", prefix_tokens=TOKENS, exclude=["large"])


def test_a_prefix_counts_against_the_context_window(small_artifact: Path, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            tier["context_window_tokens"] = 50_000 if tier["name"] == "frontier" else 10_000

    narrow = Router.load(resave(small_artifact, tmp_path / "narrow", manifest=change))
    for query in QUERIES[:10]:
        assert narrow.route(query, session="s", prefix_tokens=TOKENS).tier == "frontier"


def test_what_leaves_out_the_tier_that_the_cache_leads_to_is_not_what_was_tested(
    router: Router,
) -> None:
    seen = 0
    for i, query in enumerate(QUERIES):
        warm(router, f"s{i}", "frontier")
        asked = {"session": f"s{i}", "prefix_tokens": TOKENS}
        free = router.route(query, **asked)
        if free.reason != "policy":
            continue
        others = [name for name in NAMES if name != free.tier]
        without = router.route(query, exclude=[free.tier], **asked)
        assert (without.reason, without.certified) == ("fallback", False)
        # What leaves out a tier that nothing leads to changes nothing.
        note = free.cache
        assert note is not None
        spare = [name for name in others if name != note.policy_tier]
        same = router.route(query, exclude=spare[:1], **asked)
        if same.tier == free.tier:
            seen += 1
            assert same.certified == (same.reason == "policy")
    assert seen > 20


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
def test_a_router_that_explores_certifies_no_decision_of_a_session(
    router: Router, kind: Any
) -> None:
    exploring = router.exploring(Exploration(kind=kind, epsilon=0.1, margin=1.0, strength=200))
    settled = different = 0
    for i, query in enumerate(QUERIES):
        warm(router, f"s{i}", "nano")
        asked = {"session": f"s{i}", "prefix_tokens": TOKENS, "request_id": f"r{i}"}
        decision = exploring.route(query, **asked)
        assert not decision.certified
        # Apart from the share that explores it is what the router does that does not.
        if not decision.explored:
            settled += 1
            different += decision.tier != router.route(query, **asked).tier
    assert settled > 100 and different == 0


def test_a_mix_that_explores_keeps_its_sessions(router: Router) -> None:
    other = copy.copy(router)
    value = router.policy.success_value_usd
    other.policy = Policy("mix", value, 2, 2, low=1, high=2, share_high=0.5)
    other._settled, other._caching = other, {}
    exploring = other.exploring(Exploration(epsilon=0.02, margin=1.0))
    tiers, explored, propensities = set(), 0, set()
    for i in range(60):
        decision = exploring.route(
            QUERIES[1], session="one", prefix_tokens=TOKENS, request_id=str(i)
        )
        explored += decision.explored
        if not decision.explored:
            tiers.add(decision.tier)
            propensities.add(round(decision.propensity, 9))
    assert len(tiers) == 1 and explored < 10
    (propensity,) = propensities
    assert propensity == pytest.approx(0.5 * 0.98 + 0.02 / 3)


def test_exploration_keeps_exact_propensities(router: Router) -> None:
    """Drawn over many requests, every tier comes as often as its propensity says."""
    exploring = router.exploring(Exploration(epsilon=0.6, margin=1.0))
    query = QUERIES[3]
    warm(router, "s", "mid")
    counts: dict[str, int] = {}
    propensity: dict[str, float] = {}
    n = 1_500
    for i in range(n):
        decision = exploring.route(
            query, session="s", prefix_tokens=TOKENS, request_id=str(i), expected_turns=3
        )
        counts[decision.tier] = counts.get(decision.tier, 0) + 1
        propensity[decision.tier] = decision.propensity
    assert sum(propensity.values()) == pytest.approx(1.0)
    for tier, p in propensity.items():
        assert counts[tier] / n == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)


def test_a_mix_keeps_a_session_on_the_tier_that_its_coin_gave_it(router: Router) -> None:
    other = copy.copy(router)
    value = router.policy.success_value_usd
    other.policy = Policy("mix", value, 2, 2, low=0, high=2, share_high=0.5)
    other._settled, other._caching = other, {}
    seen = {}
    for session in range(60):
        tiers = {
            other.route(
                query, session=f"s{session}", prefix_tokens=TOKENS, request_id=f"{session}-{i}"
            ).tier
            for i, query in enumerate(QUERIES[:5])
        }
        assert len(tiers) == 1
        seen[session] = tiers.pop()
    assert 10 < sum(tier == "frontier" for tier in seen.values()) < 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix_tokens": -1},
        {"prefix_tokens": 1.5},
        {"prefix_tokens": "many"},
        {"session": ""},
        {"session": 5},
        {"session": "s", "expected_turns": 0},
        {"session": "s", "expected_turns": float("nan")},
        {"session": "s", "expected_turns": "5"},
    ],
)
def test_what_is_no_session_is_refused(router: Router, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        router.route(QUERIES[0], **wrong)


def test_a_tier_without_a_price_of_tokens_cannot_be_priced(
    small_artifact: Path, tmp_path: Path
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for tier in manifest["tiers"]:
            for key in [key for key in tier if key.endswith("_price_usd_per_mtok")]:
                del tier[key]

    bare = Router.load(resave(small_artifact, tmp_path / "bare", manifest=change))
    with pytest.raises(PriceError, match="no price"):
        bare.route(QUERIES[0], session="s", prefix_tokens=10)
    assert bare.route(QUERIES[0]).tier in NAMES


def test_threads_find_the_same_rule(folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    router = Router.load(folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda q: router.route(q, session="s", prefix_tokens=500).tier, QUERIES[:40])
        )
    assert found == [router.route(q, session="s", prefix_tokens=500).tier for q in QUERIES[:40]]


def test_what_is_worked_out_once_is_the_same_for_the_router_that_explores(router: Router) -> None:
    exploring: Callable[[], CacheRouting] = router.exploring(Exploration())._cache_routing
    assert exploring() is router._cache_routing()
