"""Shadow mode: what another router would have done, and that it never gets in the way."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.decision import Decision, Shadow
from router.errors import InputError, RoutingError
from router.exploration import Exploration
from router.keyword import KeywordRouter
from router.routing import Router
from router.tiers import TierSet
from tests.artifacts import resave, sample_table

QUERIES = list(sample_table(600).query[:100])
IDS = [f"r-{i}" for i in range(len(QUERIES))]
NAMES = ("nano", "mid", "frontier")


@pytest.fixture(scope="module")
def router(small_artifact: Path) -> Router:
    return Router.load(small_artifact)


@pytest.fixture(scope="module")
def other(router: Router, small_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """Another policy, which moreover explores."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["policy"].update(kind="mix", low=0, high=1, share_high=0.5)

    folder = tmp_path_factory.mktemp("other") / "router"
    return Router.load(resave(small_artifact, folder, manifest=change)).exploring(
        Exploration(0.2, margin=1.0)
    )


class Broken:
    """A shadow that fails on some queries, with an error that tells the query."""

    def __init__(self, fails: Callable[[str], bool]) -> None:
        self.fails = fails

    def route(self, query: str, *, request_id: str | None = None) -> Decision:
        if self.fails(query):
            raise ValueError(f"cannot take {query}")
        return KeywordRouter().route(query, request_id=request_id)

    def route_many(
        self, queries: Sequence[str], request_ids: Sequence[str | None] | None = None
    ) -> list[Decision]:
        return [self.route(query) for query in queries]


def test_it_records_what_the_other_would_have_done(router: Router, other: Router) -> None:
    for query, name in zip(QUERIES, IDS, strict=True):
        decision = router.route(query, request_id=name, shadow=other)
        assert replace(decision, shadow=None) == router.route(query, request_id=name)
        theirs = other.route(query, request_id=name)
        assert decision.shadow == Shadow(
            theirs.tier,
            theirs.propensity,
            theirs.reason,
            theirs.artifact_id,
            theirs.p_success[theirs.tier],
            theirs.cost_usd[theirs.tier],
        )
    assert decision.shadow is not None and decision.shadow.error is None


def test_many_at_a_time(router: Router, other: Router) -> None:
    for ids in (None, IDS):
        decisions = router.route_many(QUERIES, ids, shadow=other)
        assert [replace(d, shadow=None) for d in decisions] == router.route_many(QUERIES, ids)
        expected = [Shadow.of(decision) for decision in other.route_many(QUERIES, ids)]
        assert [decision.shadow for decision in decisions] == expected
    assert router.route_many([], shadow=other) == []


def test_the_heuristic_on_either_side(router: Router) -> None:
    heuristic = KeywordRouter()
    for query, name in zip(QUERIES[:20], IDS, strict=False):
        beside = router.route(query, request_id=name, shadow=heuristic)
        assert beside.shadow is not None
        assert beside.shadow.tier == heuristic.tier_of(query)
        assert (beside.shadow.artifact_id, beside.shadow.propensity) == ("keyword", 1.0)
        assert beside.shadow.p_success is beside.shadow.cost_usd is None
        in_front = heuristic.route(query, request_id=name, shadow=router)
        assert replace(in_front, shadow=None) == heuristic.route(query, request_id=name)
        assert in_front.shadow == Shadow.of(router.route(query, request_id=name))
    many = heuristic.route_many(QUERIES, IDS, shadow=router)
    assert [d.tier for d in many] == [d.tier for d in heuristic.route_many(QUERIES)]
    assert [d.shadow for d in many] == [Shadow.of(d) for d in router.route_many(QUERIES, IDS)]
    assert heuristic.route_many(QUERIES[:2], shadow=router)[0].request_id is None


def test_a_shadow_is_json(router: Router, other: Router) -> None:
    for shadow in (other, KeywordRouter(), Broken(lambda _: True)):
        data = router.route(QUERIES[0], request_id="r", shadow=shadow).to_dict()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        if isinstance(shadow, Broken):
            assert data["shadow"] == {"error": "ValueError"}
        else:
            fields = {"tier", "propensity", "reason", "p_success", "cost_usd", "artifact_id"}
            assert set(data["shadow"]) == fields
    assert "shadow" not in router.route(QUERIES[0]).to_dict()


def test_it_is_asked_about_the_same_request(router: Router) -> None:
    excluded = router.route(QUERIES[0], exclude=(name for name in ["mid"]), shadow=router)
    assert excluded.shadow == Shadow.of(router.route(QUERIES[0], exclude="mid"))
    assert excluded.tier != "mid"
    # What is pinned says nothing of what a policy would do.
    pinned = router.route(QUERIES[0], pin="frontier", shadow=router)
    assert pinned.tier == "frontier"
    assert pinned.shadow == Shadow.of(router.route(QUERIES[0]))


def test_an_excluded_tier_need_not_be_one_of_the_shadow(router: Router, other: Router) -> None:
    renamed = Router.__new__(Router)
    renamed.__dict__.update(other.exploring(None).__dict__)
    renamed.tiers = TierSet.from_dicts(
        [{**tier.to_dict(), "name": f"their-{tier.name}"} for tier in other.tiers]
    )
    renamed._names = renamed.tiers.names
    decision = router.route(QUERIES[0], exclude="mid", shadow=renamed)
    assert decision.shadow is not None
    assert decision.shadow.error is None
    assert str(decision.shadow.tier).startswith("their-")


def test_a_shadow_that_fails_is_recorded_and_nothing_else(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    failing = QUERIES[3:6]
    shadow = Broken(lambda query: query in failing)
    with caplog.at_level(logging.WARNING):
        decision = router.route(failing[0], request_id="r", shadow=shadow)
        decisions = router.route_many(QUERIES, IDS, shadow=shadow)
    assert replace(decision, shadow=None) == router.route(failing[0], request_id="r")
    assert decision.shadow == Shadow(error="ValueError")
    assert [replace(d, shadow=None) for d in decisions] == router.route_many(QUERIES, IDS)
    errors = [None if d.shadow is None else d.shadow.error for d in decisions]
    assert errors == [("ValueError" if query in failing else None) for query in QUERIES]
    n = sum(query in failing for query in QUERIES)
    assert [record.getMessage() for record in caplog.records] == [
        "the shadow router failed on 1 of 1 requests: ValueError",
        f"the shadow router failed on {n} of 100 requests: ValueError",
    ]


def test_a_shadow_that_answers_nonsense(router: Router) -> None:
    class Nonsense(Broken):
        def route(self, query: str, *, request_id: str | None = None) -> Decision:
            return None  # type: ignore[return-value]

        def route_many(self, *_: Any) -> list[Decision]:
            return []

    shadow = Nonsense(lambda _: False)
    assert router.route(QUERIES[0], shadow=shadow).shadow == Shadow(error="AttributeError")
    many = router.route_many(QUERIES[:3], shadow=shadow)
    assert [decision.shadow for decision in many] == [Shadow(error="AttributeError")] * 3


def test_an_interrupt_is_not_swallowed(router: Router) -> None:
    class Stopped(Broken):
        def route(self, query: str, *, request_id: str | None = None) -> Decision:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        router.route(QUERIES[0], shadow=Stopped(lambda _: False))


def test_the_errors_of_the_router_itself_stay(router: Router, other: Router) -> None:
    with pytest.raises(RoutingError):
        router.route(QUERIES[0], exclude=NAMES, shadow=other)
    with pytest.raises(InputError, match="expected the query as text"):
        router.route(None, shadow=other)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one request id per query"):
        router.route_many(QUERIES, IDS[:3], shadow=other)
    with pytest.raises(InputError, match="one request id per query"):
        KeywordRouter().route_many(QUERIES, IDS[:3], shadow=other)


@pytest.mark.parametrize("shadow", ["build/my-router", 3, Path("router")])
def test_what_is_no_router_is_refused(router: Router, shadow: Any) -> None:
    for front in (router, KeywordRouter()):
        for call in (front.route, front.route_many):
            what: Any = QUERIES[0] if call == front.route else QUERIES
            with pytest.raises(InputError, match=r"^expected a router as shadow, got \w+: .*[.]$"):
                call(what, shadow=shadow)


def test_threads_share_routers_and_shadows(router: Router, other: Router) -> None:
    expected = router.route_many(QUERIES, IDS, shadow=other)

    def ask(query: str, name: str) -> Decision:
        return router.route(query, request_id=name, shadow=other)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, QUERIES, IDS))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.tier == theirs.tier
        assert mine.shadow is not None and theirs.shadow is not None
        assert mine.shadow.tier == theirs.shadow.tier
        assert mine.shadow.propensity == pytest.approx(theirs.shadow.propensity)
