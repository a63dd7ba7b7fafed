"""Router: where a query goes, why, with what probability, and what is promised about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.artifact import load_artifact
from router.decision import Decision
from router.errors import InputError, PriceError, RoutingError, TiersError
from router.escalation import Escalation, Verifier
from router.keyword import KeywordRouter
from router.plans import best_plan
from router.policy import Policy, choose_one
from router.prices import PriceBook, TierPrice
from router.routing import Router
from router.tiers import Tier, TierSet
from tests.artifacts import HARD_QUERIES, resave, sample_table, tiny_embedder, train_tiny
from training.search import Objective
from training.table import OutcomeTable

NAMES = ("nano", "mid", "frontier")
QUERIES = list(sample_table(600).query[:300])
# The tiny embedder reads nothing in it, so that it is like no query of training.
UNLIKE = ""


@pytest.fixture(scope="module")
def router(small_artifact: Path) -> Router:
    return Router.load(small_artifact)


@pytest.fixture
def changed(small_artifact: Path, tmp_path: Path) -> Callable[..., Router]:
    """The small router with another policy, other tiers, ..."""

    def load(
        policy: dict[str, Any] | None = None,
        tiers: dict[str, dict[str, Any]] | None = None,
        **more: Any,
    ) -> Router:
        def change(manifest: dict[str, Any]) -> None:
            manifest["policy"].update(policy or {})
            for tier in manifest["tiers"]:
                tier.update((tiers or {}).get(tier["name"], {}))
                for name in [name for name, value in tier.items() if value is None]:
                    del tier[name]
            manifest.update(more)

        return Router.load(resave(small_artifact, tmp_path / "changed", manifest=change))

    return load


@pytest.fixture
def unlimited(changed: Callable[..., Router]) -> Router:
    return changed(tiers={name: {"context_window_tokens": None} for name in NAMES})


def query_for(router: Router, tier: str) -> str:
    """A query that the policy gives to this tier."""
    for query in QUERIES:
        decision = router.route(query)
        if (decision.tier, decision.reason) == (tier, "policy"):
            return query
    raise AssertionError(f"no query goes to {tier}")


def shares(router: Router) -> Counter[str]:
    return Counter(decision.tier for decision in router.route_many(QUERIES))


def test_a_decision_is_complete_json(router: Router) -> None:
    decision = router.route(QUERIES[0], request_id="r-1")
    data = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert data == decision.to_dict()
    assert set(data) == {
        *("tier", "model", "p_success", "cost_usd", "propensity", "reason"),
        *("certified", "artifact_id", "request_id"),
    }
    assert data["request_id"] == "r-1"
    assert data["model"] == router.tiers[router.tiers.index(data["tier"])].model
    assert data["artifact_id"] == router.artifact_id == router.manifest["artifact_id"]
    for estimates in (data["p_success"], data["cost_usd"]):
        assert tuple(estimates) == NAMES
        assert all(isinstance(value, float) for value in estimates.values())
    assert all(0 < p < 1 for p in data["p_success"].values())
    assert all(cost > 0 for cost in data["cost_usd"].values())
    assert "request_id" not in router.route(QUERIES[0]).to_dict()


def test_the_policy_is_the_formula(router: Router) -> None:
    assert router.policy.kind == "value"
    for decision in router.route_many(QUERIES):
        if decision.reason == "policy":
            gain = {
                name: decision.cost_usd[name] - router.policy.success_value_usd * p
                for name, p in decision.p_success.items()
            }
            assert decision.tier == min(gain, key=lambda name: gain[name])
    assert len(shares(router)) > 1


def test_a_decision_is_its_own(router: Router) -> None:
    first = router.route(QUERIES[0])
    first.p_success.clear()
    assert tuple(router.route(QUERIES[0]).p_success) == NAMES


@pytest.mark.parametrize(
    "policy", [{}, {"kind": "mix", "low": 0, "high": 2, "share_high": 0.4}, {"safe_tier": 0}]
)
def test_one_by_one_or_together_decisions_agree(
    changed: Callable[..., Router], policy: dict[str, Any]
) -> None:
    router = changed(policy, {name: {"context_window_tokens": None} for name in NAMES})
    queries = [*HARD_QUERIES, *QUERIES, *HARD_QUERIES]
    ids = [str(i) if i % 3 else None for i in range(len(queries))]
    together = router.route_many(queries, ids)
    assert len(together) == len(queries)
    predicted = router.predict(queries)
    dist = router.action_dist(predicted)
    for i, (query, request_id) in enumerate(zip(queries, ids, strict=True)):
        alone = router.route(query, request_id=request_id)
        assert replace(together[i], p_success={}, cost_usd={}) == replace(
            alone, p_success={}, cost_usd={}
        )
        # Sums in another order differ in the last digits.
        for one, other in (
            (alone.p_success, predicted.p_success[i]),
            (alone.cost_usd, predicted.cost_usd[i]),
            (together[i].cost_usd, predicted.cost_usd[i]),
        ):
            np.testing.assert_allclose(list(one.values()), other, rtol=1e-5)
        assert alone.propensity == dist[i, NAMES.index(alone.tier)]
        json.dumps(alone.to_dict(), allow_nan=False)
    np.testing.assert_allclose(dist.sum(axis=1), 1.0)


def test_no_queries_give_no_decisions(router: Router) -> None:
    assert router.route_many([]) == []
    assert router.route_many([], []) == []
    assert router.predict([]).p_success.shape == (0, 3)


@pytest.mark.parametrize("query", [None, 7, b"bytes", b"b" * 20_000, ["text"], {}])
def test_what_is_no_text_is_refused(router: Router, query: Any) -> None:
    for call in (
        lambda: router.route(query),
        lambda: router.plan(query),
        lambda: router.route_many(["text", query]),
    ):
        with pytest.raises(InputError, match=r"^expected the query as text, got "):
            call()


def test_lists_must_fit(router: Router) -> None:
    with pytest.raises(InputError, match="one request id per query, got 1 for 2"):
        router.route_many(["a", "b"], ["1"])
    wrong: Any
    for wrong in ("one text", None, 7, (text for text in ["a"])):
        for some_router in (router, KeywordRouter()):
            with pytest.raises(InputError, match=r"^expected a sequence of texts, got .*a list"):
                some_router.route_many(wrong)
    for wrong in ("ab", 7, iter(["a", "b"])):
        with pytest.raises(InputError, match=r"^expected a sequence of texts, got .*a list"):
            router.route_many(["a", "b"], wrong)


def test_a_pinned_tier_is_used(router: Router) -> None:
    for name in NAMES:
        decision = router.route(QUERIES[0], pin=name, request_id="r")
        assert (decision.tier, decision.reason, decision.propensity) == (name, "pinned", 1.0)
        assert not decision.certified
        assert decision.p_success == router.route(QUERIES[0]).p_success
    assert router.route(HARD_QUERIES[8], pin="nano").tier == "nano"
    with pytest.raises(TiersError, match=r"got 'nanoo' .*did you mean 'nano'"):
        router.route(QUERIES[0], pin="nanoo")


def test_an_excluded_tier_is_not_used(router: Router) -> None:
    query = query_for(router, "nano")
    for exclude in (["nano"], ("nano",), {"nano"}, "nano", (name for name in ["nano"])):
        decision = router.route(query, exclude=exclude)
        assert (decision.tier, decision.reason) == ("mid", "fallback")
        assert not decision.certified
        assert decision.propensity == 1.0
        assert tuple(decision.p_success) == NAMES
    # What the policy would not have chosen changes nothing.
    assert router.route(query, exclude=["frontier"]) == router.route(query)
    assert router.route(query, exclude=["nano", "mid"]).tier == "frontier"
    with pytest.raises(TiersError, match="'opus'"):
        router.route(query, exclude=["opus"])


def test_where_no_tier_is_left(router: Router) -> None:
    secret = "the codeword is swordfish"
    message = (
        r"^expected a tier for a request of about \d+ tokens without nano, mid, frontier, got "
    )
    for call in (router.route, router.plan):
        with pytest.raises(RoutingError, match=message) as caught:
            call(secret, exclude=(name for name in NAMES))
        assert "swordfish" not in str(caught.value)
        assert caught.value.exit_code == 1


def test_needed_features(changed: Callable[..., Router]) -> None:
    router = changed(
        tiers={"mid": {"features": ["tools"]}, "frontier": {"features": ["tools", "images"]}}
    )
    query = query_for(router, "nano")
    for needs in (["tools"], {"tools"}, "tools", (name for name in ["tools"])):
        decision = router.route(query, needs=needs)
        assert (decision.tier, decision.reason, decision.certified) == ("mid", "fallback", False)
    assert router.route(query, needs=["tools", "images"]).tier == "frontier"
    assert router.route(query, needs=[]) == router.route(query)
    assert router.plan(query, needs=["images"]) == ["frontier"]
    with pytest.raises(RoutingError, match="with images, voice, got none of nano, mid, frontier"):
        router.route(query, needs=["voice", "images"])


def test_context_windows(changed: Callable[..., Router]) -> None:
    router = changed(
        tiers={
            "nano": {"context_window_tokens": 1000},
            "mid": {"context_window_tokens": 4000},
            "frontier": {"context_window_tokens": 9000},
        }
    )
    query = query_for(router, "nano")
    assert router.route(query, context_tokens=1000) == router.route(query)
    decision = router.route(query, context_tokens=1001)
    assert (decision.tier, decision.reason, decision.certified) == ("mid", "fallback", False)
    assert router.route(query, context_tokens=4001).tier == "frontier"
    assert router.plan(query, context_tokens=4001) == ["frontier"]
    with pytest.raises(
        RoutingError,
        match="about 9001 tokens, got none of nano, mid, frontier: shorten the request",
    ):
        router.route(query, context_tokens=9001)
    # A tier that is large enough keeps its reason.
    assert router.route(query_for(router, "mid"), context_tokens=1001).reason == "policy"


def test_without_a_count_the_length_of_the_query_is_taken(changed: Callable[..., Router]) -> None:
    router = changed(
        policy={"kind": "tier", "low": 0, "high": 0},
        tiers={"nano": {"context_window_tokens": 1000}, "mid": {"context_window_tokens": 4000}},
    )
    short, long, longer = ("word " * n for n in (500, 1500, 5000))
    assert router.route(short, context_tokens=10).reason == router.route(short).reason != "fallback"
    assert router.route(long).tier in ("mid", "frontier")
    assert router.route(longer).tier == "frontier"
    assert [d.tier for d in router.route_many([long, longer])] == [
        router.route(query).tier for query in (long, longer)
    ]
    allowed = router.predict([short, long, longer, "word " * 200_000]).allowed
    assert allowed is not None
    # A log may hold what seems too long for any tier: it was answered all the same.
    assert allowed.tolist() == [[True] * 3, [False, True, True], [False, False, True], [True] * 3]
    with pytest.raises(RoutingError, match="about 333333 tokens"):
        router.route_many(["hello", "word " * 200_000])


def test_a_query_unlike_any_in_training_goes_to_the_safe_tier(
    router: Router, changed: Callable[..., Router]
) -> None:
    assert router.predict([UNLIKE, *QUERIES]).out_of_distribution[0]
    assert router.predict(QUERIES).out_of_distribution.mean() < 0.05
    decision = router.route(UNLIKE)
    assert (decision.tier, decision.reason, decision.propensity) == (
        "frontier",
        "out-of-distribution",
        1.0,
    )
    careless = changed({"safe_tier": 0})
    assert careless.route(UNLIKE).tier == "nano"
    assert careless.plan(UNLIKE) == ["nano"]
    without = router.route(UNLIKE, exclude=["frontier"])
    assert without.tier in ("nano", "mid")
    assert without.reason == "fallback"


def test_what_is_certified(router: Router, changed: Callable[..., Router]) -> None:
    query = query_for(router, "nano")
    assert router.certificate is not None
    assert router.certificate.certified
    assert router.route(query).certified
    assert router.route(UNLIKE).certified  # the rule is part of what was tested
    assert not router.route(query, pin="nano").certified
    assert not router.route(query, exclude=["nano"]).certified
    failed = {**router.manifest["certificate"], "certified": False}
    for other in (changed(certificate=None), changed(certificate=failed)):
        assert not any(decision.certified for decision in other.route_many([query, UNLIKE]))
        assert other.route(query).tier == "nano"


MIX = {"kind": "mix", "low": 0, "high": 2, "share_high": 0.3}


def test_a_mix_flips_a_fair_coin(changed: Callable[..., Router]) -> None:
    router = changed(MIX)
    query = QUERIES[0]
    n = 4000
    decisions = router.route_many([query] * n, [f"request-{i}" for i in range(n)])
    counts = Counter(decision.tier for decision in decisions)
    assert set(counts) == {"nano", "frontier"}
    # Five standard deviations of a binomial.
    assert abs(counts["frontier"] - 0.3 * n) < 5 * (n * 0.3 * 0.7) ** 0.5
    assert {(d.tier, d.propensity) for d in decisions} == {("nano", 0.7), ("frontier", 0.3)}
    # One request says nothing of the next.
    chosen = np.array([decision.tier == "frontier" for decision in decisions], dtype=float)
    assert abs(np.corrcoef(chosen[1:], chosen[:-1])[0, 1]) < 5 / n**0.5


def test_a_replay_flips_the_same_coin(changed: Callable[..., Router], tmp_path: Path) -> None:
    router = changed(MIX)
    ids = [str(i) for i in range(200)]
    first = [router.route(QUERIES[0], request_id=i).tier for i in ids]
    assert len(set(first)) == 2
    again = Router.load(tmp_path / "changed")
    assert [again.route(QUERIES[0], request_id=i).tier for i in ids] == first
    assert [d.tier for d in router.route_many([QUERIES[1]] * 200, ids)] == first
    # Without an id the query stands for the request.
    by_query = [router.route(query).tier for query in QUERIES]
    assert [decision.tier for decision in router.route_many(QUERIES)] == by_query
    assert set(by_query) == {"nano", "frontier"}


def test_a_mix_without_one_of_its_tiers_is_the_other(changed: Callable[..., Router]) -> None:
    router = changed(MIX)
    for i in range(20):
        decision = router.route(QUERIES[0], request_id=str(i), exclude=["nano"])
        assert (decision.tier, decision.propensity, decision.reason) == (
            "frontier",
            1.0,
            "fallback",
        )
        assert not decision.certified
        kept = router.route(QUERIES[0], request_id=str(i), exclude=["mid"])
        assert kept == router.route(QUERIES[0], request_id=str(i))
    assert router.route(UNLIKE, request_id="1").propensity == 1.0


def test_the_order_of_escalation(router: Router) -> None:
    for query in QUERIES[:50]:
        decision = router.route(query)
        p, cost = list(decision.p_success.values()), list(decision.cost_usd.values())
        if decision.reason == "policy":
            for value in (None, 0.0, 0.001, 0.1, 10.0):
                worth = router.policy.success_value_usd if value is None else value
                assert router.escalation is not None
                given = router.escalation.given(p)
                expected = [NAMES[t] for t in best_plan(p, cost, worth, given).order]
                assert router.plan(query, success_value_usd=value) == expected
        assert len(router.plan(query, success_value_usd=0.0)) == 1
    rich = [router.plan(query, success_value_usd=100.0) for query in QUERIES]
    assert all(len(plan) == len(set(plan)) for plan in rich)
    assert max(map(len, rich)) == 3
    without = router.plan(query_for(router, "nano"), success_value_usd=100.0, exclude="mid")
    assert sorted(without) == ["frontier", "nano"]


@pytest.mark.parametrize("out", NAMES)
def test_an_excluded_tier_does_not_shift_what_failures_say(
    small_artifact: Path, tmp_path: Path, out: str
) -> None:
    # Tiers that depend on each other in ways that no other pair does.
    loading = np.array([0.9, -0.6, 0.3])
    folder = resave(small_artifact, tmp_path / "changed", arrays={"escalation.loading": loading})
    router = Router.load(folder)
    kept = [t for t, name in enumerate(NAMES) if name != out]
    lengths = set()
    for query in QUERIES[:60]:
        decision = router.route(query)
        p, cost = list(decision.p_success.values()), list(decision.cost_usd.values())
        given = Escalation(loading).given(p)
        for value in np.geomspace(1e-4, 1.0, 9):
            # The best of all orders of the tiers that are left, by hand.
            orders = [[t] for t in kept] + [kept, kept[::-1]]
            loss = []
            for order in orders:
                total = cost[order[0]] - value * p[order[0]]
                if len(order) == 2:
                    chance = given(order[1], 1 << order[0])
                    total += (1 - p[order[0]]) * (cost[order[1]] - value * chance)
                loss.append(total)
            best = [NAMES[t] for t in orders[int(np.argmin(loss))]]
            if decision.reason == "policy":
                assert router.plan(query, success_value_usd=float(value), exclude=out) == best
                lengths.add(len(best))
    assert lengths == {1, 2}


def test_without_loadings_tries_count_as_independent(small_artifact: Path, tmp_path: Path) -> None:
    older = resave(small_artifact, tmp_path / "older", without=["escalation.loading"])
    before, router = Router.load(older), Router.load(small_artifact)
    assert before.escalation is None
    differ = 0
    for query in QUERIES[:100]:
        decision = before.route(query)
        p, cost = list(decision.p_success.values()), list(decision.cost_usd.values())
        plan = before.plan(query, success_value_usd=0.01)
        if decision.reason == "policy":
            assert plan == [NAMES[t] for t in best_plan(p, cost, 0.01).order]
            differ += plan != router.plan(query, success_value_usd=0.01)
    assert differ > 0


def test_loadings_survive_other_prices(router: Router) -> None:
    other = router.repriced(np.array([10.0, 1.0, 1.0]), np.array([20.0, 2.0, 2.0]))
    assert router.escalation is not None and other.escalation is not None
    np.testing.assert_array_equal(other.escalation.loading, router.escalation.loading)


def test_the_plan_knows_the_errors_of_the_verifier(router: Router) -> None:
    shorter = 0
    for query in QUERIES[:60]:
        decision = router.route(query)
        p, cost = list(decision.p_success.values()), list(decision.cost_usd.values())
        if decision.reason != "policy":
            assert len(router.plan(query, miss_rate=0.2, false_alarm_rate=0.1)) == 1
            continue
        perfect = router.plan(query, success_value_usd=0.1)
        assert router.plan(query, success_value_usd=0.1, miss_rate=0, false_alarm_rate=0) == perfect
        assert router.escalation is not None
        verifier = Verifier(0.2, 0.1)
        given = router.escalation.given(p, None, verifier)
        told = router.plan(query, success_value_usd=0.1, miss_rate=0.2, false_alarm_rate=0.1)
        assert told == [NAMES[t] for t in best_plan(p, cost, 0.1, given, verifier).order]
        shorter += len(told) < len(perfect)
        useless = router.plan(query, success_value_usd=0.1, miss_rate=0.9, false_alarm_rate=0.1)
        assert useless == [NAMES[choose_one(p, cost, 0.1)]]
    assert shorter > 0


@pytest.mark.parametrize("name", ["miss_rate", "false_alarm_rate"])
@pytest.mark.parametrize("rate", [-0.01, 1.01, float("nan"), float("inf"), "0.1", None, True])
def test_rates_of_error_are_shares(router: Router, name: str, rate: Any) -> None:
    with pytest.raises(InputError, match=f"verifier's {name} as a share from 0 to 1, got"):
        router.plan(QUERIES[0], **{name: rate})


@pytest.mark.parametrize("value", [-0.01, float("nan"), float("inf"), float("-inf"), "0.1", [0.1]])
def test_a_success_is_worth_something(router: Router, value: Any) -> None:
    with pytest.raises(InputError, match="worth 0 dollars or more"):
        router.plan(QUERIES[0], success_value_usd=value)


def test_threads_share_a_router(small_artifact: Path) -> None:
    queries = [*QUERIES, *HARD_QUERIES[:8]] * 2
    expected = [Router.load(small_artifact).route(query) for query in queries]
    router = Router.load(small_artifact)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(router.route, queries)) == expected
        both = list(pool.map(router.route_many, [queries] * 4))
    for decisions in both:
        assert [decision.tier for decision in decisions] == [d.tier for d in expected]


def test_the_heuristic_is_replaced_by_one_line(router: Router) -> None:
    def serve(chooser: KeywordRouter | Router) -> list[str]:
        decision = chooser.route("Translate this: good morning", request_id="r")
        many = chooser.route_many(QUERIES[:3], ["1", None, "3"])
        assert [d.request_id for d in many] == ["1", None, "3"]
        assert all(isinstance(d, Decision) for d in many)
        assert set(many[0].to_dict()) == set(decision.to_dict())
        return [decision.tier, *(d.tier for d in many)]

    for chooser in (KeywordRouter(), router):
        assert set(serve(chooser)) <= set(NAMES)


# Prices. The tiers have none of their own, so that the price book decides.

OLD = {"nano": (0.05, 0.2), "mid": (0.4, 2.0), "frontier": (5.0, 25.0)}


def price_file(
    folder: Path, name: str, *dated: tuple[str, dict[str, tuple[float, float]]]
) -> PriceBook:
    lines = [
        f'[[prices]]\nprovider = "synthetic"\nmodel = "{tier}-model"\nfrom = {day}\n'
        f"input_price_usd_per_mtok = {fresh}\noutput_price_usd_per_mtok = {output}\n"
        for day, prices in dated
        for tier, (fresh, output) in prices.items()
    ]
    (folder / name).write_text("\n".join(lines))
    return PriceBook(folder / name)


def unpriced(table: OutcomeTable) -> OutcomeTable:
    tiers = TierSet.from_dicts(
        [
            {"name": tier.name, "provider": "synthetic", "model": f"{tier.name}-model"}
            for tier in table.tiers
        ]
    )
    return replace(table, tiers=tiers)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained at OLD prices out of a price file."""
    folder = tmp_path_factory.mktemp("priced")
    table = unpriced(sample_table(600))
    train_tiny(
        table,
        folder / "router",
        tiny_embedder(folder / "embedder", list(table.query)),
        objective=Objective(margin=-0.2),
        price_book=price_file(folder, "old.toml", ("2020-01-01", OLD)),
    )
    return folder / "router"


def times(factor: float, *names: str) -> dict[str, tuple[float, float]]:
    return {
        name: (fresh * factor, output * factor) if name in names else (fresh, output)
        for name, (fresh, output) in OLD.items()
    }


def test_prices_are_not_frozen_in(priced: Path, tmp_path: Path) -> None:
    before = Router.load(priced)
    assert before.manifest["prices"]["basis"] == ["tokens"] * 3
    doubled = times(2.0, *NAMES)
    book = price_file(tmp_path, "new.toml", ("2020-01-01", OLD), ("2020-01-02", doubled))
    after = Router.load(priced, price_book=book)
    queries = QUERIES[:20]
    np.testing.assert_allclose(
        after.predict(queries).cost_usd, 2 * before.predict(queries).cost_usd, rtol=1e-12
    )
    np.testing.assert_array_equal(
        after.predict(queries).p_success, before.predict(queries).p_success
    )
    assert after.artifact_id.startswith(f"{before.artifact_id}+")
    assert after.certificate is not None
    assert after.certificate.certified
    # Nobody knows these models but the price file: without it the old prices hold.
    assert Router.load(priced, price_book=PriceBook()).policy == before.policy
    with pytest.raises(PriceError):
        PriceBook().price(before.tiers[0])


def test_a_fee_for_each_request_leaves_the_tested_price(priced: Path) -> None:
    class WithAFee(PriceBook):
        def price(self, tier: Tier, at: datetime | None = None) -> TierPrice:
            return TierPrice(9.0, 9.0, 9.0, 9.0, request_usd=0.01 * (tier.name != "nano"))

    fresh, output = prices(Router.load(priced))
    fresh[0] = output[0] = 9.0
    loaded = Router.load(priced, price_book=WithAFee()).predictor.cost
    # Tokens times the new price would leave the fee out.
    np.testing.assert_array_equal(loaded.input_usd_per_mtok, fresh)
    np.testing.assert_array_equal(loaded.output_usd_per_mtok, output)


def test_a_price_change_moves_the_traffic(priced: Path, tmp_path: Path) -> None:
    before = Router.load(priced)
    assert shares(before)["mid"] > 50
    cheap = price_file(tmp_path, "cheap.toml", ("2020-01-01", times(0.001, "frontier")))
    dear = price_file(tmp_path, "dear.toml", ("2020-01-01", times(1000.0, "mid")))
    # The strongest tier for nearly nothing takes nearly everything.
    assert shares(Router.load(priced, price_book=cheap))["frontier"] > 0.9 * len(QUERIES)
    assert shares(Router.load(priced, price_book=dear))["mid"] < 0.1 * shares(before)["mid"]


def prices(router: Router, factor: float = 1.0) -> tuple[Any, Any]:
    table = router.manifest["prices"]
    return tuple(
        factor * np.array(table[name]) for name in ("input_usd_per_mtok", "output_usd_per_mtok")
    )


def test_at_the_tested_prices_nothing_changes(priced: Path) -> None:
    router = Router.load(priced)
    same = router.repriced(*prices(router))
    assert same.policy == router.policy
    assert same.certificate == router.certificate
    assert same.route_many(QUERIES) == router.route_many(QUERIES)


def test_prices_may_change_again(priced: Path) -> None:
    router = Router.load(priced)
    fresh, output = prices(router)
    other = fresh * [1.0, 30.0, 2.0], output * [1.0, 30.0, 2.0]
    at_once = router.repriced(*other)
    by_the_way = router.repriced(fresh * 7, output * [0.1, 5.0, 9.0]).repriced(*other)
    assert by_the_way.policy == at_once.policy
    assert by_the_way.certificate is not None
    assert at_once.certificate is not None
    assert by_the_way.certificate.cost_usd_per_request == pytest.approx(
        at_once.certificate.cost_usd_per_request
    )
    np.testing.assert_allclose(
        by_the_way.calibration.realised_cost_usd, at_once.calibration.realised_cost_usd
    )
    back = at_once.repriced(fresh, output)
    assert back.policy == router.policy
    np.testing.assert_array_equal(
        back.calibration.realised_cost_usd, router.calibration.realised_cost_usd
    )


def test_realised_costs_move_with_the_prices(priced: Path) -> None:
    router = Router.load(priced)
    before, after = router.calibration, router.repriced(*prices(router, 3.0)).calibration
    np.testing.assert_allclose(after.cost_usd, 3 * before.cost_usd)
    np.testing.assert_allclose(after.realised_cost_usd, 3 * before.realised_cost_usd)
    np.testing.assert_array_equal(after.success, before.success)
    assert len(before) == router.manifest["training"]["n_calibration"]


def test_a_floor_that_is_lost_is_no_longer_promised(priced: Path, tmp_path: Path) -> None:
    def promise(manifest: dict[str, Any]) -> None:
        manifest["certificate"].update(relative_to=None, rate=0.995)

    folder = resave(priced, tmp_path / "bold", manifest=promise)
    assert Router.load(folder).route(QUERIES[0]).certified
    book = price_file(tmp_path, "new.toml", ("2020-01-01", times(1.01, *NAMES)))
    router = Router.load(folder, price_book=book)
    assert router.certificate is not None
    assert not router.certificate.certified
    assert "could not be certified" in router.certificate.sentence
    # Then the strongest tier answers, and nothing is promised.
    assert {(d.tier, d.certified) for d in router.route_many(QUERIES)} == {("frontier", False)}


def test_without_a_floor_the_policy_stays(priced: Path, tmp_path: Path) -> None:
    folder = resave(priced, tmp_path / "value", manifest=lambda m: m.update(certificate=None))
    router = Router.load(folder)
    dearer = router.repriced(*prices(router, 50.0))
    assert dearer.policy == router.policy
    assert dearer.certificate is None
    assert shares(dearer)["nano"] > shares(router)["nano"]


@pytest.mark.parametrize(
    "bad", [[1.0, 2.0], [1.0, 2.0, -3.0], [1.0, 2.0, np.inf], 1.0, [[1.0, 2.0, 3.0]]]
)
def test_prices_that_are_none(priced: Path, bad: Any) -> None:
    router = Router.load(priced)
    good = [1.0, 2.0, 3.0]
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(InputError, match="expected 3 input and output prices"):
            router.repriced(*pair)
    assert router.repriced(good, good).policy  # type: ignore[arg-type]


def test_a_price_that_goes_leaves_the_logged_dollars(priced: Path, tmp_path: Path) -> None:
    router = Router.load(priced)
    fresh, output = prices(router)
    gone = router.repriced(fresh * [1, np.nan, 1], output * [1, np.nan, 1])
    by_dollars = gone.predict(QUERIES).cost_usd
    by_tokens = router.predict(QUERIES).cost_usd
    np.testing.assert_allclose(by_dollars[:, [0, 2]], by_tokens[:, [0, 2]], rtol=1e-12)
    assert (by_dollars[:, 1] != by_tokens[:, 1]).all()
    # Both estimate the same dollars.
    assert by_dollars[:, 1].mean() == pytest.approx(by_tokens[:, 1].mean(), rel=0.1)
    unfitted = {
        f"usd.{name}": np.full(shape, np.nan)
        for name, shape in [
            ("weight", load_artifact(priced).arrays["usd.weight"].shape),
            *((vector, (3,)) for vector in ("bias", "log_low", "log_high", "smear")),
        ]
    }
    tokens_only = Router.load(resave(priced, tmp_path / "tokens", arrays=unfitted))
    with pytest.raises(InputError, match="known in tokens only"):
        tokens_only.repriced(fresh * [1, np.nan, 1], output)


def test_policies_keep_their_tiers_after_a_change(priced: Path) -> None:
    router = Router.load(priced)
    changed = router.repriced(*prices(router, 2.0))
    assert isinstance(changed.policy, Policy)
    assert changed.safe_tier == router.safe_tier == changed.policy.safe_tier
    assert changed.tiers == router.tiers
    np.testing.assert_array_equal(changed.trained_query_hashes, router.trained_query_hashes)


def test_a_budget_is_kept_when_prices_rise(tmp_path: Path) -> None:
    table = sample_table(400)
    embedder = tiny_embedder(tmp_path / "embedder", list(table.query))
    budget = 0.003
    train_tiny(
        table, tmp_path / "budget", embedder, objective=Objective("budget", amount_usd=budget)
    )
    router = Router.load(tmp_path / "budget")

    def spent(router: Router, policy: Policy) -> float:
        rows = router.calibration
        return float(replace(rows, realised_cost_usd=rows.cost_usd).played(policy)[1].mean())

    assert 0.5 * budget < spent(router, router.policy) <= budget
    dearer = router.repriced(*prices(router, 10.0))
    assert dearer.policy.success_value_usd < router.policy.success_value_usd
    assert spent(dearer, dearer.policy) <= budget
    # Queries out of distribution cost what the safe tier costs, and are counted.
    unknown = (np.arange(len(router.calibration)) % 20 == 0).astype(np.uint8)
    arrays = {"calibration.out_of_distribution": unknown}
    other = Router.load(resave(tmp_path / "budget", tmp_path / "unknown", arrays=arrays))
    cheaper, others = (r.repriced(*prices(router, 0.9)) for r in (router, other))
    assert spent(others, others.policy) <= budget < spent(others, cheaper.policy)
    ruinous = router.repriced(*prices(router, 1e6))
    assert ruinous.policy.success_value_usd == 0.0


def test_another_policy_has_another_id(router: Router) -> None:
    dearer = router.repriced(*prices(router, 50.0))
    assert dearer.artifact_id.startswith(f"{router.artifact_id}+")
    assert dearer.route("hello").artifact_id == dearer.artifact_id
    again = dearer.repriced(*prices(router, 2.0))
    assert again.artifact_id.count("+") == 1 and again.artifact_id != dearer.artifact_id
