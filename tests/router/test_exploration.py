"""Exploration: which tiers are tried, with exactly what probability, and what is promised then."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import router.exploration
from router.certificate import Floor, is_binary
from router.decision import Decision
from router.errors import InputError
from router.exploration import Exploration, Explorer, certify_explored, drawn
from router.policy import Policy, choose
from router.routing import Router
from router.selection import CalibrationRows, Certificate, certify
from tests.artifacts import resave, sample_table

FloatArray = npt.NDArray[np.float64]

QUERIES = list(sample_table(600).query[:300])
IDS = [f"r-{i}" for i in range(len(QUERIES))]
NAMES = ("nano", "mid", "frontier")
# The tiny embedder reads nothing in it, so that it is like no query of training.
UNLIKE = ""

VALUE = Policy("value", 1.0, 2, 2)
MIX = Policy("mix", 1.0, 2, 2, 0, 2, 0.25)
ALWAYS = Policy.single(1, 1.0, 2, 2)
RELATIVE = Certificate(
    floor="",
    rate=None,
    margin=-0.1,
    relative_to=2,
    confidence=0.95,
    certified=True,
    n_rows=0,
    n_candidates=0,
    n_passed=0,
    success_rate=0.0,
    cost_usd_per_request=0.0,
    rows_needed=None,
    sentence="",
)
ABSOLUTE = replace(RELATIVE, rate=0.8, margin=0.0, relative_to=None)


@pytest.fixture(scope="module")
def plain(small_artifact: Path) -> Router:
    return Router.load(small_artifact)


@pytest.fixture
def changed(small_artifact: Path, tmp_path: Path) -> Callable[..., Router]:
    """The small router with something else in its manifest."""

    def load(**more: Any) -> Router:
        def change(manifest: dict[str, Any]) -> None:
            manifest["policy"].update(more.pop("policy", {}))
            for tier in manifest["tiers"]:
                tier.update(more.get("tiers", {}).get(tier["name"], {}))

        return Router.load(resave(small_artifact, tmp_path / "changed", manifest=change))

    return load


def dist_of(
    exploration: Exploration,
    p: list[float],
    cost: list[float],
    policy: Policy = VALUE,
    certificate: Certificate | None = RELATIVE,
    allowed: list[bool] | None = None,
) -> list[float]:
    row, price = np.array([p]), np.array([cost])
    mask = None if allowed is None else np.array([allowed])
    explorer = Explorer.of(exploration, policy, certificate, np.full(len(p), 600))
    base = policy.action_dist(row, price, None, mask)
    found: list[float] = explorer.action_dist(row, price, base, np.array([True]), mask)[0].tolist()
    return found


# ---------------------------------------------------------------- which tiers, how often

COST = [0.01, 0.1, 1.0]


@pytest.mark.parametrize(
    ("p", "certificate", "margin", "expected"),
    [
        # The policy takes the cheapest; all are at least as good, so that all are tried.
        ([0.9, 0.9, 0.95], RELATIVE, None, [0.7 + 0.1, 0.1, 0.1]),
        # The middle one is chosen; the first lacks 0.1, as many points as the floor gives.
        ([0.6, 0.9, 0.95], RELATIVE, None, [0.0, 0.7 + 0.15, 0.15]),
        ([0.8, 0.9, 0.95], RELATIVE, None, [0.1, 0.7 + 0.1, 0.1]),
        # Where no floor says so, 0.05; and what the caller says goes before.
        ([0.8, 0.9, 0.95], None, None, [0.0, 0.7 + 0.15, 0.15]),
        ([0.8, 0.9, 0.95], RELATIVE, 0.0, [0.0, 0.7 + 0.15, 0.15]),
        ([0.1, 0.9, 0.95], RELATIVE, 1.0, [0.1, 0.7 + 0.1, 0.1]),
        # An absolute floor is a bar of its own, but nobody is held to more than the policy.
        ([0.78, 0.9, 0.95], ABSOLUTE, 0.2, [0.0, 0.7 + 0.15, 0.15]),
        ([0.81, 0.91, 0.95], ABSOLUTE, 0.2, [0.1, 0.7 + 0.1, 0.1]),
        ([0.5, 0.7, 0.4], ABSOLUTE, 0.3, [0.0, 1.0, 0.0]),
        # Nothing else will do: nothing else is tried.
        ([0.1, 0.95, 0.2], RELATIVE, None, [0.0, 1.0, 0.0]),
    ],
)
def test_closed_form_of_epsilon(
    p: list[float], certificate: Certificate | None, margin: float | None, expected: list[float]
) -> None:
    exploration = Exploration(epsilon=0.3, margin=margin)
    found = dist_of(exploration, p, COST, certificate=certificate)
    assert found == pytest.approx(expected, abs=1e-12)


def test_around_a_mix() -> None:
    # It succeeds with 0.75 x 0.45 + 0.25 x 0.9 = 0.5625: its own cheap tier lacks more than 0.1 of
    # that, and is not tried beyond its share.
    found = dist_of(Exploration(0.2), [0.45, 0.6, 0.9], COST, MIX)
    assert found == pytest.approx([0.8 * 0.75 + 0.0, 0.1, 0.8 * 0.25 + 0.1])
    found = dist_of(Exploration(0.2), [0.6, 0.6, 0.9], COST, MIX)
    assert found == pytest.approx([0.8 * 0.75 + 0.2 / 3, 0.2 / 3, 0.8 * 0.25 + 0.2 / 3])


def test_what_is_not_allowed_is_not_tried() -> None:
    found = dist_of(Exploration(0.2), [0.9, 0.9, 0.9], COST, allowed=[True, False, True])
    assert found == pytest.approx([0.9, 0.0, 0.1])


# ---------------------------------------------------------------- Thompson


def test_thompson_is_the_probability_of_being_best() -> None:
    """Two tiers: P(p_0 + d_0 Z_0 + gap > p_1 + d_1 Z_1), in closed form without the cut."""
    p, cost = [0.5, 0.52], [0.1, 0.15]
    exploration = Exploration(0.0, "thompson", margin=1.0, strength=24.0)
    deviation = np.sqrt(np.array(p) * (1 - np.array(p)) / 25.0)
    lead = (p[0] - cost[0]) - (p[1] - cost[1])
    expected = NormalDist().cdf(lead / float(np.hypot(*deviation)))
    assert dist_of(exploration, p, cost)[0] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("strength", [None, 1.0, 30.0])
def test_thompson_is_the_share_of_scenarios(strength: float | None) -> None:
    p, cost, n_outcomes = [0.7, 0.75, 0.8], [0.01, 0.05, 0.08], np.array([600, 300, 40])
    exploration = Exploration(0.0, "thompson", margin=1.0, strength=strength)
    explorer = Explorer.of(exploration, VALUE, RELATIVE, n_outcomes)
    worth = [30.0, 15.0, 5.0] if strength is None else [strength] * 3
    grid = [NormalDist().inv_cdf((k + 0.5) / 100) for k in range(100)]
    assert explorer.spread is not None
    z = explorer.spread * np.sqrt(np.array(worth) + 1.0)
    # Every tier has the same even grid, in an order that goes with no other tier's.
    assert np.sort(z, axis=0) == pytest.approx(np.tile(np.array(grid)[:, None], 3))
    assert (np.abs(np.corrcoef(z.T) - np.eye(3)) < 0.2).all()
    sampled = np.clip(np.array(p) + z * np.sqrt(np.array(p) * (1 - np.array(p)) / (np.array(worth) + 1)), 0, 1)  # noqa: E501  # fmt: skip
    best = choose(sampled, np.tile(cost, (100, 1)), VALUE.success_value_usd)
    dist = explorer.action_dist(np.array([p]), np.array([cost]), np.eye(3)[[0]], np.array([True]))
    assert dist[0].tolist() == (np.bincount(best, minlength=3) / 100).tolist()


def test_thompson_has_the_moments_of_a_beta() -> None:
    explorer = Explorer.of(Exploration(0, "thompson", strength=30), VALUE, RELATIVE, [9])
    assert explorer.spread is not None
    beta = stats.beta(30 * 0.7, 30 * 0.3)
    samples = 0.7 + explorer.spread[:, 0] * np.sqrt(0.7 * 0.3)
    assert samples.mean() == pytest.approx(beta.mean())
    assert samples.std() == pytest.approx(beta.std(), rel=0.02)


def test_thompson_knows_what_it_knows() -> None:
    p, cost = [0.7, 0.75, 0.8], [0.01, 0.05, 0.08]
    sure = dist_of(Exploration(0.0, "thompson", margin=1.0, strength=1e12), p, cost)
    assert sure == VALUE.action_dist(np.array([p]), np.array([cost]))[0].tolist()
    unsure = dist_of(Exploration(0.0, "thompson", margin=1.0, strength=5.0), p, cost)
    assert max(unsure) < 0.6
    # With a floor of epsilon, every tier that keeps the success floor has at least its share.
    both = dist_of(Exploration(0.3, "thompson", strength=1e12), p, cost)
    assert min(both) == pytest.approx(0.1)


@pytest.mark.parametrize("policy", [MIX, ALWAYS])
def test_a_policy_without_estimates_keeps_its_choice(policy: Policy) -> None:
    p = [0.7, 0.75, 0.8]
    assert dist_of(Exploration(0.2, "thompson"), p, COST, policy) == dist_of(
        Exploration(0.2), p, COST, policy
    )


# ---------------------------------------------------------------- properties

SHARE = st.floats(0, 1, allow_subnormal=False)
EXPLORATIONS = st.builds(
    Exploration,
    epsilon=SHARE,
    kind=st.sampled_from(["epsilon", "thompson"]),
    margin=st.none() | SHARE,
    strength=st.none() | st.floats(0.1, 1e6),
    seed=st.integers(),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Policy, FloatArray, FloatArray, Any, Any]:
    n, n_tiers = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    p = draw(arrays(float, (n, n_tiers), elements=SHARE))
    cost = draw(arrays(float, (n, n_tiers), elements=st.floats(1e-6, 10)))
    unknown = draw(arrays(bool, n))
    allowed = draw(st.none() | arrays(bool, (n, n_tiers)))
    if allowed is not None:
        allowed[np.arange(n), draw(arrays(np.intp, n, elements=st.integers(0, n_tiers - 1)))] = True
    tiers = st.integers(0, n_tiers - 1)
    kind: Literal["value", "tier", "mix"] = draw(st.sampled_from(["value", "tier", "mix"]))
    low, high = draw(tiers), draw(tiers)
    policy = Policy(kind, draw(st.floats(0, 100)), draw(tiers), 0, low, high, draw(SHARE))
    return policy, p, cost, unknown, allowed


@given(situations(), EXPLORATIONS, st.sampled_from([None, RELATIVE, ABSOLUTE]))
def test_a_distribution_over_tiers_that_may_be_tried(
    situation: tuple[Policy, FloatArray, FloatArray, Any, Any],
    exploration: Exploration,
    certificate: Certificate | None,
) -> None:
    policy, p, cost, unknown, allowed = situation
    explorer = Explorer.of(exploration, policy, certificate, np.full(p.shape[1], 100))
    base = policy.action_dist(p, cost, unknown, allowed)
    dist = explorer.action_dist(p, cost, base, ~unknown, allowed)
    assert (dist >= 0).all()
    assert dist.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert (dist[unknown] == base[unknown]).all()
    if allowed is not None:
        assert (dist[~allowed] == 0).all()
    served = (base * p).sum(axis=1, keepdims=True)
    tried = (dist > 0) & (base == 0)
    assert (p >= served - explorer.margin - 1e-9)[tried].all()
    if certificate is ABSOLUTE:
        assert (p >= np.minimum(served, 0.8) - 1e-9)[tried].all()
    # What is predicted to be lost is what was said.
    lost = served[:, 0] - (dist * p).sum(axis=1)
    share = exploration.epsilon if explorer.spread is None else 1.0
    assert (lost <= share * explorer.margin + 1e-9).all()
    for row in dist:
        for coin in (0.0, 0.5, 1.0):
            assert row[drawn(row, coin)] > 0


@given(situations())
def test_epsilon_zero_is_the_policy(
    situation: tuple[Policy, FloatArray, FloatArray, Any, Any],
) -> None:
    policy, p, cost, unknown, allowed = situation
    explorer = Explorer.of(Exploration(0.0), policy, RELATIVE, np.full(p.shape[1], 100))
    base = policy.action_dist(p, cost, unknown, allowed)
    assert (explorer.action_dist(p, cost, base, ~unknown, allowed) == base).all()


def test_many_rows_are_their_single_rows() -> None:
    rng = np.random.default_rng(0)
    p, cost = rng.random((2500, 3)), rng.random((2500, 3))
    explorer = Explorer.of(Exploration(0.1, "thompson"), VALUE, None, [50, 50, 50])
    base, free = VALUE.action_dist(p, cost), np.ones(2500, dtype=bool)
    together = explorer.action_dist(p, cost, base, free)
    for i in range(0, 2500, 97):
        row = slice(i, i + 1)
        single = explorer.action_dist(p[row], cost[row], base[row], free[row])
        assert (single == together[row]).all()


# ---------------------------------------------------------------- a router that explores


def test_it_is_off_until_asked_for(plain: Router) -> None:
    assert plain.exploration is None
    assert plain.exploring(None) is plain
    assert plain.exploring(Exploration(epsilon=0)) is plain
    exploring = plain.exploring(Exploration())
    assert exploring.exploring(None) is plain
    assert exploring.exploring(Exploration(0.2)).exploration == Exploration(0.2)
    assert plain.exploration is None
    assert all(not d.explored and d.propensity == 1.0 for d in plain.route_many(QUERIES))


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
def test_one_by_one_or_together_it_is_the_same(
    plain: Router, kind: Literal["epsilon", "thompson"]
) -> None:
    router = plain.exploring(Exploration(0.4, kind))
    together = router.route_many(QUERIES, IDS)
    dist = router.action_dist(router.predict(QUERIES))
    assert dist.sum(axis=1) == pytest.approx(1.0)
    policy = plain.action_dist(plain.predict(QUERIES))
    for i, decision in enumerate(together):
        single = router.route(QUERIES[i], request_id=IDS[i])
        assert single.tier == decision.tier
        assert single.propensity == pytest.approx(decision.propensity)
        tier = NAMES.index(decision.tier)
        assert decision.propensity == dist[i, tier]
        assert decision.explored == (policy[i, tier] == 0)
        assert decision.reason in ("policy", "out-of-distribution")
    assert any(d.explored for d in together)
    assert not all(d.explored for d in together)
    assert all(0 < d.propensity < 1 for d in together if d.explored)


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
@pytest.mark.parametrize("seed", [0, 1])
def test_choices_come_as_often_as_their_propensity_says(
    plain: Router, kind: Literal["epsilon", "thompson"], seed: int
) -> None:
    router = plain.exploring(Exploration(0.3, kind, seed=seed))
    query = next(
        query
        for query, row in zip(QUERIES, router.action_dist(router.predict(QUERIES)), strict=True)
        if (row > 0.05).all()
    )
    n = 2000
    decisions = router.route_many([query] * n, [f"r-{i}" for i in range(n)])
    for tier, probability in zip(
        NAMES, router.action_dist(router.predict([query]))[0], strict=True
    ):
        count = sum(decision.tier == tier for decision in decisions)
        assert stats.binomtest(count, n, probability).pvalue > 1e-3


def test_a_replay_makes_the_same_choices(plain: Router, small_artifact: Path) -> None:
    first = plain.exploring(Exploration(0.5, seed=3)).route_many(QUERIES, IDS)
    again = Router.load(small_artifact).exploring(Exploration(0.5, seed=3))
    assert again.route_many(QUERIES, IDS) == first
    order = np.random.default_rng(0).permutation(len(QUERIES))
    shuffled = again.route_many([QUERIES[i] for i in order], [IDS[i] for i in order])
    assert [d.tier for d in shuffled] == [first[i].tier for i in order]
    other = plain.exploring(Exploration(0.5, seed=4)).route_many(QUERIES, IDS)
    assert [d.tier for d in other] != [d.tier for d in first]
    # Without an id, the text decides.
    assert len({again.route(QUERIES[0]).tier for _ in range(20)}) == 1


def test_who_explores_more_explores_the_same_requests_too(plain: Router) -> None:
    def explored(epsilon: float) -> set[str | None]:
        decisions = plain.exploring(Exploration(epsilon)).route_many(QUERIES, IDS)
        # Of those that the first tier serves: its interval begins at 0, whatever epsilon.
        first = [d.tier == "nano" for d in plain.route_many(QUERIES)]
        rows = zip(decisions, first, strict=True)
        return {d.request_id for d, is_first in rows if is_first and d.explored}

    assert explored(0.2) < explored(0.6)


def test_another_policy_has_another_id(plain: Router) -> None:
    settings = [
        Exploration(),
        Exploration(0.06),
        Exploration(seed=1),
        Exploration(margin=0.05),
        Exploration(kind="thompson"),
        Exploration(kind="thompson", strength=5),
    ]
    routers = [plain.exploring(exploration) for exploration in settings]
    assert len({each.artifact_id for each in [plain, *routers]}) == len(settings) + 1
    for exploring in routers:
        assert exploring.artifact_id.startswith(plain.artifact_id + "+explore-")
        assert exploring.route(QUERIES[0]).artifact_id == exploring.artifact_id
        assert exploring.manifest["artifact_id"] == exploring.artifact_id
    same = Exploration(np.float64(0.05), seed=np.int64(0))  # type: ignore[arg-type]
    assert plain.exploring(same).artifact_id == routers[0].artifact_id


def test_pinned_and_strange_queries_and_those_that_fall_back_do_not_explore(
    plain: Router,
) -> None:
    router = plain.exploring(Exploration(1.0, margin=1.0))
    for i in range(50):
        name = f"r-{i}"
        pinned = router.route(QUERIES[i], pin="nano", request_id=name)
        assert (pinned.tier, pinned.reason, pinned.propensity) == ("nano", "pinned", 1.0)
        strange = router.route(UNLIKE, request_id=name)
        assert (strange.tier, strange.reason) == (NAMES[router.safe_tier], "out-of-distribution")
        assert (strange.propensity, strange.explored) == (1.0, False)
        usual = plain.route(QUERIES[i]).tier
        fallback = router.route(QUERIES[i], exclude=usual, request_id=name)
        assert fallback.reason == "fallback"
        assert (fallback.propensity, fallback.explored, fallback.certified) == (1.0, False, False)
        assert fallback.tier == plain.route(QUERIES[i], exclude=usual).tier
    assert router.route_many([UNLIKE], ["x"])[0].reason == "out-of-distribution"


def test_an_excluded_tier_is_not_explored(plain: Router) -> None:
    router = plain.exploring(Exploration(0.9, margin=1.0))
    query = next(q for q in QUERIES if plain.route(q).tier == "mid")
    decisions = [router.route(query, exclude="nano", request_id=str(i)) for i in range(200)]
    assert {d.tier: d.propensity for d in decisions} == {
        "mid": pytest.approx(0.1 + 0.45),
        "frontier": pytest.approx(0.45),
    }
    # The policy has its way, but this distribution is not the one that was tested.
    assert {(d.reason, d.certified) for d in decisions} == {("policy", False)}
    assert router.certificate is not None and router.certificate.certified


def test_a_context_window_is_kept(changed: Callable[..., Router]) -> None:
    small = changed(tiers={"nano": {"context_window_tokens": 5}})
    router = small.exploring(Exploration(0.9, margin=1.0))
    long = [query for query in QUERIES if len(query) > 60]
    decisions = router.route_many(long, IDS[: len(long)])
    assert len(long) > 20
    assert {d.tier for d in decisions} == {"mid", "frontier"}
    dist = router.action_dist(router.predict(long))
    assert (dist[:, 0] == 0).all()
    for row, query, name, decision in zip(dist, long, IDS, decisions, strict=False):
        assert decision.propensity == row[NAMES.index(decision.tier)]
        single = router.route(query, request_id=name)
        assert (single.tier, single.reason) == (decision.tier, decision.reason)


def test_a_mix_explores(changed: Callable[..., Router]) -> None:
    mixed = changed(policy={"kind": "mix", "low": 0, "high": 2, "share_high": 0.4})
    router = mixed.exploring(Exploration(0.3, margin=1.0))
    decisions = router.route_many(QUERIES, IDS)
    propensities = {(d.tier, round(d.propensity, 9)) for d in decisions if d.reason == "policy"}
    assert propensities == {("nano", 0.52), ("mid", 0.1), ("frontier", 0.38)}
    assert {d.tier for d in decisions if d.explored} == {"mid"}


def test_threads_share_a_router(plain: Router) -> None:
    router = plain.exploring(Exploration(0.5, "thompson"))
    expected = [router.route(q, request_id=i) for q, i in zip(QUERIES, IDS, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda q, i: router.route(q, request_id=i), QUERIES, IDS))
        many = list(pool.map(lambda _: router.route_many(QUERIES, IDS), range(4)))
    assert found == expected
    assert all([d.tier for d in decisions] == [d.tier for d in expected] for decisions in many)


def test_a_decision_that_explored_is_json(plain: Router) -> None:
    router = plain.exploring(Exploration(1.0, margin=1.0))
    decisions = router.route_many(QUERIES, IDS)
    explored = next(d for d in decisions if d.explored)
    data = json.loads(json.dumps(explored.to_dict(), allow_nan=False))
    assert data["explored"] is True
    assert "explored" not in next(d for d in decisions if not d.explored).to_dict()


def test_the_plan_does_not_explore(plain: Router) -> None:
    router = plain.exploring(Exploration(1.0, margin=1.0))
    assert [router.plan(q) for q in QUERIES[:20]] == [plain.plan(q) for q in QUERIES[:20]]


def test_it_explores_at_other_prices(plain: Router) -> None:
    router = plain.exploring(Exploration(0.3))
    cost = plain.predictor.cost
    prices = cost.input_usd_per_mtok * 2, cost.output_usd_per_mtok * 2
    moved = router.repriced(*prices)
    assert moved.exploration == router.exploration
    assert moved.artifact_id == plain.repriced(*prices).artifact_id + router.artifact_id[16:]
    assert moved.artifact_id.count("+") == 2


# ---------------------------------------------------------------- the certificate


def calibration(n: int, seed: int) -> CalibrationRows:
    rng = np.random.default_rng(seed)
    means = np.array([0.6, 0.85, 0.9])
    p_success = np.clip(means + 0.2 * rng.standard_normal((n, 3)), 0.02, 0.98)
    cost = np.tile([0.0001, 0.001, 0.01], (n, 1))
    success = (rng.random((n, 3)) < p_success).astype(float)
    return CalibrationRows(p_success, cost, success, cost, np.zeros(n, dtype=bool))


TIERS: dict[str, Any] = {
    "tier_success": np.array([0.6, 0.85, 0.9]),
    "tier_cost_usd": np.array([0.0001, 0.001, 0.01]),
}


def certified(rows: CalibrationRows, floor: Floor) -> tuple[Policy, Certificate]:
    return certify(rows, floor, names=NAMES, safe_tier=2, strongest=2, confidence=0.95, **TIERS)


def test_the_floor_is_tested_with_exploration() -> None:
    rows = calibration(2000, 0)
    policy, before = certified(rows, Floor(margin=-0.05, relative_to=2))
    assert before.certified
    assert policy.kind == "value"
    little = certify_explored(Exploration(0.05), policy, before, rows, **TIERS)
    assert little.certified
    assert little.sentence.endswith("exploration included.")
    assert little.cost_usd_per_request > before.cost_usd_per_request
    bad = certify_explored(Exploration(1.0, margin=1.0), policy, before, rows, **TIERS)
    assert not bad.certified
    assert "not with it" in bad.sentence
    assert bad.success_rate == pytest.approx(rows.success.mean())
    # Outcomes that are not all known can be no test; a floor that was lost stays lost.
    unseen = replace(
        rows, success=np.where(np.eye(3)[np.arange(2000) % 3] > 0, rows.success, np.nan)
    )
    assert not certify_explored(Exploration(0.05), policy, before, unseen, **TIERS).certified
    lost = replace(before, certified=False, sentence="It is lost.")
    after = certify_explored(Exploration(0.05), policy, lost, rows, **TIERS)
    assert (after.certified, after.sentence) == (False, "It is lost.")
    # Nor is a policy covered that is no candidate.
    odd = replace(policy, success_value_usd=0.0123)
    assert not certify_explored(Exploration(0.05), odd, before, rows, **TIERS).certified


def test_a_mix_is_tested_in_its_own_chain() -> None:
    rows = calibration(3000, 1)
    # Predictions that say nothing leave the mixes.
    rows = replace(rows, p_success=np.tile(rows.success.mean(axis=0), (3000, 1)))
    policy, before = certified(rows, Floor(rate=0.8))
    assert (policy.kind, before.certified) == ("mix", True)
    assert certify_explored(Exploration(0.05), policy, before, rows, **TIERS).certified


def test_an_absolute_floor_keeps_the_binomial_test(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = calibration(2000, 2)
    policy, before = certified(rows, Floor(rate=0.85))
    assert (policy.kind, before.certified) == ("value", True)
    seen: list[tuple[bool, bool]] = []

    class Watched(Floor):
        def passes(self, policy_success: FloatArray, *more: Any, **options: Any) -> bool:
            seen.append((is_binary(policy_success), options["randomised"]))
            assert abs(policy_success.mean() - before.success_rate) < 0.1
            return super().passes(policy_success, *more, **options)

    monkeypatch.setattr(router.exploration, "Floor", Watched)
    certify_explored(Exploration(0.1), policy, before, rows, **TIERS)
    assert set(seen) == {(True, False)}
    # Success that is a share has no binomial.
    seen.clear()
    shares = replace(rows, success=np.clip(rows.success, 0.01, 0.97))
    certify_explored(Exploration(0.1), policy, before, shares, **TIERS)
    assert set(seen) == {(False, True)}


def test_every_candidate_before_it_must_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = calibration(2000, 0)
    policy, before = certified(rows, Floor(margin=-0.05, relative_to=2))
    tests: list[float] = []

    class Counted(Floor):
        def passes(self, policy_success: FloatArray, *more: Any, **options: Any) -> bool:
            tests.append(float(policy_success.mean()))
            return len(tests) != fails and super().passes(policy_success, *more, **options)

    monkeypatch.setattr(router.exploration, "Floor", Counted)
    fails = 0
    passed = certify_explored(Exploration(0.05), policy, before, rows, **TIERS)
    assert passed.certified
    # From the safest down to the policy itself.
    assert tests[-1] == passed.success_rate < tests[0]
    n_tests, fails = len(tests), 4
    tests.clear()
    assert not certify_explored(Exploration(0.05), policy, before, rows, **TIERS).certified
    assert len(tests) == 4 < n_tests


def test_decisions_say_what_is_certified(plain: Router) -> None:
    assert plain.certificate is not None
    for exploration in (Exploration(0.05), Exploration(1.0, "thompson", margin=1.0, strength=0.1)):
        router = plain.exploring(exploration)
        assert router.certificate is not None
        promised = router.certificate.certified
        assert {d.certified for d in router.route_many([*QUERIES, UNLIKE])} == {promised}
        assert not router.route(QUERIES[0], pin="nano").certified
    assert plain.certificate.certified


def test_without_a_floor_nothing_is_promised(small_artifact: Path, tmp_path: Path) -> None:
    path = resave(small_artifact, tmp_path / "none", manifest=lambda m: m.update(certificate=None))
    router = Router.load(path).exploring(Exploration())
    assert router.certificate is None
    assert not any(decision.certified for decision in router.route_many(QUERIES, IDS))


@pytest.mark.slow
@pytest.mark.parametrize("floor", [Floor(margin=-0.03, relative_to=2), Floor(rate=0.86)])
def test_the_floor_holds_with_exploration_as_often_as_promised(floor: Floor) -> None:
    """Where it is certified with exploration, the truth keeps it: at most 5 % of the time not."""
    exploration, n_runs = Exploration(0.3), 200
    truth = calibration(40_000, 999)
    kept = broken = 0
    for seed in range(n_runs):
        rows = calibration(400, seed)
        policy, before = certified(rows, floor)
        if not certify_explored(exploration, policy, before, rows, **TIERS).certified:
            continue
        explorer = Explorer.of(exploration, policy, before, [400] * 3)
        base = policy.action_dist(truth.p_success, truth.cost_usd)
        free = np.ones(len(truth), dtype=bool)
        dist = explorer.action_dist(truth.p_success, truth.cost_usd, base, free)
        # Predictions are the truth here.
        rate = (dist * truth.p_success).sum(axis=1).mean()
        kept += 1
        least = truth.p_success[:, 2].mean() - 0.03 if floor.rate is None else floor.rate
        broken += bool(rate < least)
    assert kept > 20
    assert stats.binomtest(broken, n_runs, 0.05, "greater").pvalue > 0.01


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *[
            ({"epsilon": bad}, "share of requests")
            for bad in (-0.1, 1.1, float("nan"), "0.1", True)
        ],
        *[({"kind": bad}, "epsilon or thompson") for bad in ("greedy", None, "")],
        *[({"margin": bad}, "margin") for bad in (-0.1, 2.0, float("nan"), "much")],
        *[
            ({"strength": bad}, "strength above 0")
            for bad in (0.0, -1.0, float("nan"), float("inf"))
        ],
        *[({"seed": bad}, "whole number") for bad in (0.5, "1", None, True)],
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"^expected [^.]*{words}.*, got .*: .*[.]$"):
        Exploration(**options)


def test_settings_are_json() -> None:
    data = Exploration(0.1, "thompson", seed=2).to_dict()
    assert Exploration(**json.loads(json.dumps(data))) == Exploration(0.1, "thompson", seed=2)


def test_the_guide_runs(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (repository / "docs" / "exploration.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "exploration.md", "exec"), namespace)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_decision_keeps_its_defaults() -> None:
    decision = Decision("a", "m", {"a": None}, {"a": None}, 1.0, "policy", "id")
    assert (decision.explored, decision.shadow) == (False, None)
