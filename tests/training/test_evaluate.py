from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from router.decision import Predictions
from router.errors import InputError
from router.policy import Policy
from router.routing import Router
from router.selection import CalibrationRows, Certificate
from router.tiers import Tier, TierSet
from tests.artifacts import sample_table, tiny_embedder
from training import evaluate as evaluate_module
from training.evaluate import evaluate
from training.pipeline import train
from training.results import Report
from training.search import Objective
from training.split import query_hashes, split_table
from training.table import OutcomeTable, ReadReport

FloatArray = npt.NDArray[np.float64]


@dataclass
class StubRouter:
    """A router whose predictions are given: those of query "q17" are row 17."""

    p_success: FloatArray
    expected_cost_usd: FloatArray
    calibration: CalibrationRows
    policy: Policy
    certificate: Certificate | None = None
    trained: tuple[str, ...] = ()
    outside: frozenset[int] = frozenset()
    artifact_id: str = "stub"
    manifest: dict[str, Any] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    @property
    def tiers(self) -> TierSet:
        return tier_set(self.p_success.shape[1])

    @property
    def trained_query_hashes(self) -> npt.NDArray[np.uint64]:
        return np.sort(query_hashes(list(self.trained)))

    def predict(self, queries: list[str]) -> Predictions:
        self.calls.append(len(queries))
        rows = np.array([int(query.split()[0][1:]) for query in queries])
        outside = np.isin(rows, list(self.outside))
        return Predictions(self.p_success[rows], self.expected_cost_usd[rows], outside)

    def action_dist(self, predictions: Predictions) -> FloatArray:
        return self.policy.action_dist(
            predictions.p_success, predictions.cost_usd, predictions.out_of_distribution
        )


@dataclass(frozen=True)
class World:
    """True chances, expected costs and outcomes, (n, T), and calibration rows drawn alike."""

    p_success: FloatArray
    success: FloatArray
    cost_usd: FloatArray
    expected_cost_usd: FloatArray
    calibration: CalibrationRows

    @classmethod
    def make(cls, n: int = 600, n_tiers: int = 3, seed: int = 0, n_calibration: int = 300) -> World:
        """Half the queries are easy for every tier; dearer tiers also solve most of the others."""
        rng = np.random.default_rng(seed)
        total = n + n_calibration
        hard = rng.random(total) < 0.5
        ability = np.linspace(0.1, 0.95, n_tiers) if n_tiers > 1 else np.array([0.6])
        p = np.where(hard[:, None], ability, 0.96)
        price = np.geomspace(0.001, 0.1, n_tiers) if n_tiers > 1 else np.array([0.01])
        expected = price * rng.uniform(0.5, 1.5, (total, 1))
        cost = expected * rng.uniform(0.8, 1.2, (total, n_tiers))
        success = (rng.random(p.shape) < p).astype(float)
        held = slice(n, total)
        calibration = CalibrationRows(
            p[held], expected[held], success[held], cost[held], np.zeros(n_calibration, dtype=bool)
        )
        return cls(p[:n], success[:n], cost[:n], expected[:n], calibration)

    def router(self, policy: Policy | None = None, **options: Any) -> Router:
        n_tiers = self.p_success.shape[1]
        policy = policy or Policy("value", 0.2, n_tiers - 1, n_tiers - 1)
        stub = StubRouter(
            self.p_success, self.expected_cost_usd, self.calibration, policy, **options
        )
        return cast("Router", stub)

    def table(self, **options: Any) -> OutcomeTable:
        n, n_tiers = self.success.shape
        table = OutcomeTable.from_arrays(
            tier_set(n_tiers),
            [f"q{i} translate this" if i % 3 else f"q{i} debug and compare" for i in range(n)],
            self.success,
            self.cost_usd,
            **options,
        )
        return replace(table, report=ReadReport(path="/some/where/log.jsonl"))


def tier_set(n_tiers: int) -> TierSet:
    return TierSet.from_dicts(
        [Tier(f"t{i}", "maker", f"model-{i}").to_dict() for i in range(n_tiers)]
    )


def certificate(
    rate: float | None, margin: float = 0.0, relative_to: int | None = None
) -> Certificate:
    return Certificate(
        floor="",
        rate=rate,
        margin=margin,
        relative_to=relative_to,
        confidence=0.95,
        certified=True,
        n_rows=1,
        n_candidates=1,
        n_passed=1,
        success_rate=0.9,
        cost_usd_per_request=0.1,
        rows_needed=None,
        sentence="",
    )


def as_json(report: Report) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return data


# --- the numbers -------------------------------------------------------------------------------


def test_every_policy_by_hand() -> None:
    """Four requests, two tiers at $1 and $3; the router sends the second half to the dear one."""
    p = np.array([[0.9, 0.9], [0.9, 0.9], [0.1, 0.9], [0.1, 0.9]])
    success = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    cost = np.array([[1.0, 3.0]] * 4)
    calibration = CalibrationRows(p, cost, success, cost, np.zeros(4, dtype=bool))
    world = World(p, success, cost, cost * 2, calibration)
    report = evaluate(world.router(Policy("value", 6.0, 1, 1)), world.table())
    found = {
        name: (
            policy.success_rate.value,
            policy.cost_usd_per_request.value,
            policy.total_cost_usd,
            policy.cps_usd.value,
            tuple(policy.share.values()),
        )
        for name, policy in report.policies.items()
    }
    assert found == {
        "router": (0.75, 2.0, 8.0, 8 / 3, (0.5, 0.5)),
        "always-t0": (0.5, 1.0, 4.0, 2.0, (1.0, 0.0)),
        "always-t1": (0.5, 3.0, 12.0, 6.0, (0.0, 1.0)),
        "random-mix": (0.5, 1.0, 4.0, 2.0, (1.0, 0.0)),
        # t1 for "debug and compare" (requests 0 and 3), t0 for "translate"
        "keyword": (0.5, 2.0, 8.0, 4.0, (0.5, 0.5)),
        "oracle": (0.75, 1.5, 6.0, 2.0, (0.75, 0.25)),
    }
    assert list(found) == ["router", "always-t0", "always-t1", "random-mix", "keyword", "oracle"]
    assert report.tiers["t1"].n == 4
    assert (report.tiers["t1"].total_cost_usd, report.tiers["t1"].cps_usd) == (12.0, 6.0)
    assert report.tiers["t1"].cost_calibration_ratio == pytest.approx(2.0)
    assert report.tiers["t1"].calibration_error == pytest.approx(0.4)
    assert (report.mix_ratio.ratio, report.mix_ratio.above_best) == (2.0, True)
    strongest = report.against_strongest
    assert strongest.baseline == "always-t1"
    assert strongest.saved_share is not None
    assert strongest.saved_share.value == pytest.approx(1 / 3)
    assert strongest.saved_usd_per_request.value == pytest.approx(1.0)
    assert strongest.success_rate_difference.value == pytest.approx(0.25)


def test_a_router_that_reads_queries_pays_and_saves() -> None:
    world = World.make(3000)
    report = evaluate(world.router(), world.table())
    assert report.verdict.label == "pays"
    assert report.mix_ratio.ratio < 0.9
    assert report.mix_ratio_interval is not None
    low, high = report.mix_ratio_interval
    assert low < report.mix_ratio.ratio < high < 1.0
    assert report.mean_mix_ratio is not None
    assert report.mean_mix_ratio.mean < 0.9
    assert report.aiq > report.aiq_single_tiers
    mix = report.against_random_mix
    assert mix.saved_share is not None
    assert mix.saved_share.value == pytest.approx(1 - report.mix_ratio.ratio)
    assert mix.success_rate_difference.value == pytest.approx(0.0, abs=1e-9)
    oracle, router = report.policies["oracle"], report.policies["router"]
    assert oracle.success_rate.value >= router.success_rate.value
    for policy in report.policies.values():
        for estimate in (policy.success_rate, policy.cost_usd_per_request, policy.cps_usd):
            assert estimate.interval is not None
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_a_router_that_is_one_tier_does_not_pay(tier: int) -> None:
    world = World.make()
    report = evaluate(world.router(Policy.single(tier, 0.1, 2, 2)), world.table())
    assert report.verdict.label == "does not pay"
    assert report.mix_ratio.ratio == pytest.approx(1.0, abs=0.2)
    assert not report.mix_ratio.above_best
    router, always = report.policies["router"], report.policies[f"always-t{tier}"]
    assert (router.cps_usd.value, router.total_cost_usd) == (
        always.cps_usd.value,
        always.total_cost_usd,
    )
    assert router.success_rate.interval == pytest.approx(always.success_rate.interval)


def test_a_router_that_wastes_money_does_not_pay() -> None:
    world = World.make(2000)

    def swapped(p_success: FloatArray) -> FloatArray:
        """Easy queries are taken for hard ones and the reverse."""
        easy = p_success[:, :1] == p_success.max()
        return np.where(easy, p_success[~easy[:, 0]][0], p_success.max())

    wrong = replace(
        world,
        p_success=swapped(world.p_success),
        calibration=replace(world.calibration, p_success=swapped(world.calibration.p_success)),
    )
    report = evaluate(wrong.router(), world.table())
    assert report.verdict.label == "does not pay"
    assert report.mix_ratio.ratio > 1.0


def test_little_data_proves_nothing() -> None:
    world = World.make(10)
    assert evaluate(world.router(), world.table()).verdict.label == "not proven"


def test_the_verdict_s_range_comes_from_the_calibration_rows() -> None:
    world = World.make(2000)
    before = evaluate(world.router(), world.table())
    assert before.verdict.label == "pays"
    cost = world.cost_usd.copy()
    cost[5] = 1e5  # dearer than anything in calibration, for every tier
    report = evaluate(world.router(), replace(world, cost_usd=cost).table())
    assert [b.range_usd for b in report.verdict.bounds] == [
        b.range_usd for b in before.verdict.bounds
    ]
    assert report.verdict.label == "pays"  # both sides of the difference paid it
    cost[5] = [0.001, 0.01, 1e5]
    sent = replace(world, cost_usd=cost, p_success=world.p_success.copy())
    sent.p_success[5] = [0.0, 0.0, 1.0]
    report = evaluate(sent.router(), sent.table())
    assert report.verdict.label == "not proven"
    assert "outside the range" in report.verdict.sentence


def test_the_mean_mix_s_lambdas_are_chosen_on_the_calibration_rows_alone() -> None:
    world = World.make(300)
    found = evaluate(world.router(), world.table(), n_bootstrap=0).mean_mix_ratio
    # Other outcomes of the test rows move the ratios, but neither a floor nor a lambda.
    failing = replace(world, success=world.success * np.array([1.0, 0.3, 0.9]))
    other = evaluate(failing.router(), failing.table(), n_bootstrap=0).mean_mix_ratio
    assert found is not None and other is not None
    np.testing.assert_array_equal(found.floors, other.floors)
    np.testing.assert_array_equal(found.success_values_usd, other.success_values_usd)
    assert (found.ratios != other.ratios).any()
    # ... those of the calibration rows move both.
    rows = replace(world.calibration, success=world.calibration.success * 0.5)
    third = evaluate(
        replace(world, calibration=rows).router(), world.table(), n_bootstrap=0
    ).mean_mix_ratio
    assert third is not None
    np.testing.assert_allclose(third.floors, found.floors / 2)


def test_lambda_is_the_policy_s_own() -> None:
    world = World.make()
    report = evaluate(world.router(Policy("value", 0.37, 2, 2)), world.table())
    assert report.verdict.success_value_usd == 0.37


def test_a_mixed_policy_is_valued_without_a_coin() -> None:
    world = World.make()
    report = evaluate(world.router(Policy("mix", 0.1, 2, 2, 0, 2, 0.25)), world.table())
    router, policies = report.policies["router"], report.policies
    assert router.share == pytest.approx({"t0": 0.75, "t1": 0.0, "t2": 0.25})
    assert router.cost_usd_per_request.value == pytest.approx(
        0.75 * policies["always-t0"].cost_usd_per_request.value
        + 0.25 * policies["always-t2"].cost_usd_per_request.value
    )


def test_out_of_distribution_queries_go_to_the_safe_tier_and_are_counted() -> None:
    world = World.make(100)
    policy = Policy.single(0, 0.1, safe_tier=2, strongest=2)
    report = evaluate(world.router(policy, outside=frozenset(range(25))), world.table())
    assert report.out_of_distribution_share == 0.25
    assert report.policies["router"].share == pytest.approx({"t0": 0.75, "t1": 0.0, "t2": 0.25})


def test_apgr_for_two_tiers_only() -> None:
    two, three = World.make(2000, n_tiers=2), World.make(50)
    found = evaluate(two.router(), two.table()).apgr
    # Half of the queries are hard and come first: PGR is 1 from there on.
    assert found == pytest.approx(0.75, abs=0.02)
    assert evaluate(three.router(), three.table()).apgr is None


def test_cheapest_is_measured_not_the_first_of_the_file() -> None:
    """With the tiers' costs turned round, the keyword rule sends easy queries to the last one."""
    world = World.make(300)
    turned = World(
        *(m[:, ::-1] for m in (world.p_success, world.success, world.cost_usd)),
        world.expected_cost_usd[:, ::-1],
        CalibrationRows(
            *(
                m[:, ::-1]
                for m in (
                    world.calibration.p_success,
                    world.calibration.cost_usd,
                    world.calibration.success,
                    world.calibration.realised_cost_usd,
                )
            ),
            world.calibration.out_of_distribution,
        ),
    )
    report = evaluate(turned.router(Policy("value", 0.2, 0, 0)), turned.table())
    share = report.policies["keyword"].share
    assert share == pytest.approx({"t0": 1 / 3, "t1": 0.0, "t2": 2 / 3})
    assert report.against_strongest.baseline == "always-t0"


# --- floors and savings ------------------------------------------------------------------------


def test_best_single_tier_is_the_cheapest_that_meets_the_floor() -> None:
    world = World.make(2000)  # single tiers succeed at about .53, .74 and .96
    table = world.table()

    def found(floor: Certificate | None) -> str | None:
        saving = evaluate(world.router(certificate=floor), table).against_best_single_tier
        return None if saving is None else saving.baseline

    assert found(certificate(0.5)) == "always-t0"
    assert found(certificate(0.7)) == "always-t1"
    assert found(certificate(0.999)) is None
    assert found(certificate(None, -0.3, relative_to=2)) == "always-t1"
    assert found(certificate(None, -0.05, relative_to=2)) == "always-t2"
    assert found(None) == "always-t2"  # the router succeeds more often than t1


def test_the_floor_is_reported_as_a_rate_on_these_requests() -> None:
    world = World.make(2000)
    floor = certificate(None, -0.2, relative_to=2)
    report = evaluate(world.router(certificate=floor), world.table())
    assert report.floor is not None
    assert report.floor.success_rate == pytest.approx(report.tiers["t2"].success_rate - 0.2)
    assert report.floor.met
    assert "t2" in report.floor.description
    missed = evaluate(world.router(certificate=certificate(0.999)), world.table()).floor
    assert missed is not None
    assert not missed.met


# --- which rows --------------------------------------------------------------------------------


def test_rows_left_out_are_counted_by_reason() -> None:
    world = World.make(100)
    split = ["train"] * 20 + ["test"] * 70 + [None] * 10
    success = world.success.copy()
    success[50:55, 1] = math.nan
    table = replace(world, success=success).table(split=split)
    trained = tuple(str(query).upper() + "  " for query in table.query[[0, 30, 31, 95]])
    report = evaluate(world.router(trained=trained), table)
    counts = report.counts
    assert counts.n_rows == 100
    assert counts.n_train_split == 20
    assert counts.n_left_out_trained == 3  # one of the four is marked train already
    assert counts.n_incomplete == 5
    assert counts.n_requests == 72 == report.tiers["t0"].n
    kept = [i for i in range(20, 100) if i not in (30, 31, 95, *range(50, 55))]
    assert report.tiers["t1"].success_rate == pytest.approx(world.success[kept, 1].mean())


def test_without_a_split_column_all_rows_count() -> None:
    world = World.make(40)
    assert evaluate(world.router(), world.table()).counts.n_requests == 40


@pytest.mark.parametrize("reason", ["split", "trained", "incomplete"])
def test_nothing_left_is_one_clear_sentence(reason: str) -> None:
    world = World.make(8)
    table = world.table(split=["train"] * 8 if reason == "split" else None)
    trained = tuple(table.query) if reason == "trained" else ()
    if reason == "incomplete":
        success = world.success.copy()
        success[:, 2] = math.nan
        table = replace(world, success=success).table()
    with pytest.raises(InputError) as caught:
        evaluate(world.router(trained=trained), table)
    text = str(caught.value)
    said = {
        "split": "8 are marked train",
        "trained": "trained on the text of 8",
        "incomplete": "8 lack",
    }
    assert said[reason] in text
    assert text.count(". ") == 0
    assert "translate this" not in text


def test_tiers_are_matched_by_name_and_others_ignored() -> None:
    world = World.make(200)
    columns = [2, 0, 1]
    extra = np.full((200, 1), math.nan)
    tiers = TierSet.from_dicts(
        [*(tier_set(3)[i].to_dict() for i in columns), Tier("other", "maker", "x").to_dict()]
    )
    table = OutcomeTable.from_arrays(
        tiers,
        world.table().query,
        np.column_stack([world.success[:, columns], extra]),
        np.column_stack([world.cost_usd[:, columns], extra]),
    )
    table = replace(table, report=ReadReport(path="log.jsonl"))
    assert as_json(evaluate(world.router(), table)) == as_json(
        evaluate(world.router(), world.table())
    )


def test_a_missing_tier_is_named() -> None:
    world, two = World.make(20), World.make(20, n_tiers=2)
    with pytest.raises(InputError, match="got none of t2"):
        evaluate(world.router(), two.table())


def test_a_missing_cost_is_an_error_only_where_it_is_compared() -> None:
    world = World.make(20)
    cost = world.cost_usd.copy()
    cost[3, 1] = math.nan
    unpriced = replace(world, cost_usd=cost)
    with pytest.raises(InputError, match="cost for every outcome"):
        evaluate(world.router(), unpriced.table())
    table = unpriced.table(split=["train"] * 4 + ["test"] * 16)
    assert evaluate(world.router(), table).counts.n_requests == 16


@pytest.mark.parametrize(("confidence", "n_bootstrap"), [(0.0, 10), (1.0, 10), (0.9, -1)])
def test_arguments_out_of_range_are_refused(confidence: float, n_bootstrap: int) -> None:
    world = World.make(5)
    with pytest.raises(InputError, match="expected"):
        evaluate(world.router(), world.table(), confidence=confidence, n_bootstrap=n_bootstrap)


# --- whatever comes ----------------------------------------------------------------------------


@given(
    n=st.sampled_from([1, 2, 7, 60]),
    n_tiers=st.integers(1, 9),
    n_calibration=st.sampled_from([0, 1, 30]),
    success=st.sampled_from(["drawn", "none", "all", "fractional"]),
    cost=st.sampled_from(["drawn", "free", "equal"]),
    kind=st.sampled_from(["value", "tier", "mix"]),
    seed=st.integers(0, 10_000),
)
@hypothesis_settings(max_examples=150)
def test_every_world_has_a_report(
    n: int, n_tiers: int, n_calibration: int, success: str, cost: str, kind: str, seed: int
) -> None:
    world = World.make(n, n_tiers, seed, n_calibration)
    rng = np.random.default_rng(seed)
    outcomes = {
        "drawn": world.success,
        "none": np.zeros((n, n_tiers)),
        "all": np.ones((n, n_tiers)),
        "fractional": rng.random((n, n_tiers)),
    }
    costs = {
        "drawn": world.cost_usd,
        "free": np.zeros((n, n_tiers)),
        "equal": np.full((n, n_tiers), 0.01),
    }
    world = replace(world, success=outcomes[success], cost_usd=costs[cost])
    last = n_tiers - 1
    policies = {
        "value": Policy("value", 0.2, last, last),
        "tier": Policy.single(last, math.inf, last, last),
        "mix": Policy("mix", 0.0, last, last, 0, last, 0.5),
    }
    report = evaluate(world.router(policies[kind]), world.table(), n_bootstrap=20)
    data = as_json(report)
    oracle = report.policies["oracle"].success_rate.value
    for policy in data["policies"].values():
        assert policy["cps_is_infinite"] == (policy["success_rate"] == 0)
        assert (policy["cps_usd"] is None) == policy["cps_is_infinite"]
        assert policy["success_rate"] <= oracle + 1e-12
        assert sum(policy["share"].values()) == pytest.approx(1.0)
    assert len(data["tiers"]) == n_tiers
    assert data["verdict"]["label"] in ("pays", "does not pay", "not proven")
    if n_tiers == 1:
        assert data["verdict"]["label"] == "does not pay"
        assert data["mix_ratio"] == 1.0


def test_order_of_the_rows_is_of_no_effect() -> None:
    world = World.make(300)
    table = world.table(request_id=[f"r{i * 7919 % 300}" for i in range(300)])
    order = np.random.default_rng(1).permutation(300)
    assert as_json(evaluate(world.router(), table)) == as_json(
        evaluate(world.router(), table.take(order))
    )


def test_cheaper_by_half_is_cheaper_by_half() -> None:
    world = World.make(300)
    calibration = world.calibration
    half = replace(
        world,
        cost_usd=world.cost_usd / 2,
        expected_cost_usd=world.expected_cost_usd / 2,
        calibration=replace(
            calibration,
            cost_usd=calibration.cost_usd / 2,
            realised_cost_usd=calibration.realised_cost_usd / 2,
        ),
    )
    one = evaluate(world.router(Policy("value", 0.2, 2, 2)), world.table())
    other = evaluate(half.router(Policy("value", 0.1, 2, 2)), half.table())
    assert other.verdict.label == one.verdict.label
    assert other.mix_ratio.ratio == pytest.approx(one.mix_ratio.ratio)
    assert other.aiq == pytest.approx(one.aiq)
    for name, policy in one.policies.items():
        assert other.policies[name].cps_usd.value == pytest.approx(policy.cps_usd.value / 2)
        assert other.policies[name].success_rate == policy.success_rate


def test_no_resamples_no_intervals() -> None:
    world = World.make(50)
    data = as_json(evaluate(world.router(), world.table(), n_bootstrap=0))
    assert data["mix_ratio_interval"] is None
    assert data["policies"]["router"]["cps_usd_interval"] is None
    assert data["verdict"]["label"]


def test_queries_are_predicted_in_chunks_and_progress_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World.make(2500)
    monkeypatch.setattr(evaluate_module, "_CHUNK", 1000)
    router, seen = world.router(), list[tuple[str, int, int]]()
    report = evaluate(router, world.table(), on_progress=lambda *args: seen.append(args))
    assert cast("StubRouter", router).calls == [1000, 1000, 500]
    assert [(done, total) for stage, done, total in seen if stage == "predict"] == [
        (1000, 2500),
        (2000, 2500),
        (2500, 2500),
    ]
    assert seen[-1] == ("resample", 2500, 2500)
    monkeypatch.undo()
    assert as_json(report) == as_json(evaluate(world.router(), world.table()))


# --- the contract ------------------------------------------------------------------------------

_ESTIMATES = ("success_rate", "cost_usd_per_request", "cps_usd")
_POLICY = {
    **dict.fromkeys(_ESTIMATES, "float"),
    **{f"{name}_interval": ["float"] for name in _ESTIMATES},
    "total_cost_usd": "float",
    "cps_is_infinite": "bool",
    "share": {"t0": "float", "t1": "float"},
}
_SAVING = {
    "baseline": "str",
    **dict.fromkeys(("saved_share", "saved_usd_per_request", "success_rate_difference"), "float"),
    "saved_share_interval": ["float"],
    "saved_usd_per_request_interval": ["float"],
    "success_rate_difference_interval": ["float"],
}
_TIER = {
    "n": "int",
    "success_rate": "float",
    "total_cost_usd": "float",
    "cps_usd": "float",
    "cps_is_infinite": "bool",
    "calibration_error": "float",
    "cost_calibration_ratio": "float",
    "calibration_bins": {"p_success": ["float"], "success": ["float"], "n": ["int"]},
}
_BOUND = {
    "mean_usd": "float",
    "lower_usd": "float",
    "upper_usd": "float",
    "range_usd": "float",
    "identical": "bool",
}
SHAPE = {
    "artifact_id": "str",
    "data": "str",
    "n_rows": "int",
    "n_train_split": "int",
    "n_left_out_trained": "int",
    "n_incomplete": "int",
    "n_requests": "int",
    "out_of_distribution_share": "float",
    "confidence": "float",
    "n_bootstrap": "int",
    "seed": "int",
    "tiers": {"t0": _TIER, "t1": _TIER},
    "policies": dict.fromkeys(
        ("router", "always-t0", "always-t1", "random-mix", "keyword", "oracle"), _POLICY
    ),
    "savings": dict.fromkeys(
        ("against_strongest", "against_random_mix", "against_best_single_tier"), _SAVING
    ),
    "mix_ratio": "float",
    "mix_ratio_interval": ["float"],
    "mix_ratio_above_best": "bool",
    "mix_ratio_near_kink": "bool",
    "random_mix": {"low": "str", "high": "str", "share_high": "float"},
    "mean_mix_ratio": "float",
    "mix_ratio_by_floor": {
        "success_floor": ["float"],
        "success_value_usd": ["float"],
        "mix_ratio": ["float"],
    },
    "aiq": "float",
    "aiq_single_tiers": "float",
    "apgr": "float",
    "frontier": {
        "success_value_usd": ["float"],
        "cost_usd_per_request": ["float"],
        "success_rate": ["float"],
    },
    "floor": {"description": "str", "success_rate": "float", "met": "bool"},
    "verdict": {
        "label": "str",
        "sentence": "str",
        "success_value_usd": "float",
        "confidence": "float",
        "n_requests": "int",
        "bounds": {"t0": _BOUND, "t1": _BOUND},
    },
}


def shape(value: Any) -> Any:
    """Keys and types; a list is of one type."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        (item,) = {shape(item) for item in value}
        return [item]
    return type(value).__name__


def test_the_json_keeps_its_shape() -> None:
    """Scripts read this object: a key may be added, none may go or change its type."""
    world = World.make(500, n_tiers=2)
    report = evaluate(world.router(certificate=certificate(0.5)), world.table())
    assert shape(as_json(report)) == SHAPE
    assert report.to_dict()["data"] == "log.jsonl"  # a name, no path of this machine


def test_where_nothing_succeeds_the_json_says_infinite() -> None:
    world = World.make(30)
    data = as_json(evaluate(world.router(), replace(world, success=np.zeros((30, 3))).table()))
    router = data["policies"]["router"]
    assert (router["cps_usd"], router["cps_is_infinite"]) == (None, True)
    assert router["cps_usd_interval"] == [None, None]
    assert data["tiers"]["t2"]["cps_usd"] is None


# --- the real thing ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OutcomeTable]:
    """A small router trained on synthetic outcomes, and the whole table."""
    from training.pipeline import train
    from training.search import Objective
    from training.synthetic import make_world, sample

    table = sample(make_world(n_tiers=3), 900, seed=0).table
    out = tmp_path_factory.mktemp("artifact") / "router"
    objective = Objective(kind="value", amount_usd=0.01)
    train(table, out, objective=objective, estimator="logistic", track=False)
    return out, table


@pytest.mark.slow
def test_a_trained_artifact_is_evaluated_on_what_it_has_not_seen(
    trained: tuple[Path, OutcomeTable],
) -> None:
    folder, table = trained
    router = Router.load(folder)
    report = evaluate(router, table)
    counts = report.counts
    assert counts.n_left_out_trained > 0.5 * table.n_requests
    assert counts.n_requests == table.n_requests - counts.n_left_out_trained > 0
    assert report.artifact_id == router.artifact_id
    assert report.floor is None  # the objective was a success's value
    assert report.verdict.success_value_usd == 0.01
    data = as_json(report)
    assert data["policies"]["oracle"]["success_rate"] >= data["policies"]["router"]["success_rate"]
    assert data["mean_mix_ratio"] > 0
    assert data["tiers"]["frontier"]["cps_usd"] == pytest.approx(
        data["policies"]["always-frontier"]["cps_usd"]
    )


@pytest.mark.slow
def test_what_is_evaluated_is_what_is_served(trained: tuple[Path, OutcomeTable]) -> None:
    folder, table = trained
    router = Router.load(folder)
    report = evaluate(router, table, n_bootstrap=0)
    seen = np.isin(query_hashes(table.query), router.trained_query_hashes)
    test = table.take(~seen)
    decisions = router.route_many(list(test.query))
    tier = np.array([router.tiers.index(decision.tier) for decision in decisions])
    spent = test.cost_usd[np.arange(len(tier)), tier]
    assert report.policies["router"].total_cost_usd == pytest.approx(float(spent.sum()))


def test_what_is_evaluated_is_what_is_served_where_windows_are_short(tmp_path: Path) -> None:
    table = sample_table(300)
    tiers = TierSet.from_dicts(
        [
            {**tier.to_dict(), "context_window_tokens": 40 if tier.name == "frontier" else 10**6}
            for tier in table.tiers
        ]
    )
    queries = list(table.query)
    embedder = tiny_embedder(tmp_path / "embedder", queries)
    result = train(
        replace(table, tiers=tiers),
        tmp_path / "artifact",
        objective=Objective("value", amount_usd=1.0),
        embedder=embedder,
        estimator="logistic",
        track=False,
    )
    assert any("too long for some tier" in warning for warning in result.warnings)
    router = Router.load(tmp_path / "artifact")
    report = evaluate(router, table, n_bootstrap=0)
    test = split_table(table).test
    decisions = router.route_many([query for query, t in zip(queries, test, strict=True) if t])
    assert {"fallback", "policy"} <= {decision.reason for decision in decisions}
    for name in tiers.names:
        served = np.mean([decision.tier == name for decision in decisions])
        assert report.policies["router"].share[name] == pytest.approx(served)
