"""Evaluation on logged feedback: what is used, estimated, refused, and what is said of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from router.errors import InputError
from router.policy import Policy
from router.tiers import TierSet
from tests.logged_feedback import NAMES, LoggedWorld
from training import logged_propensity
from training.evaluate_logged import evaluate_logged, is_logged
from training.logged_results import LoggedReport
from training.logged_text import logged_text
from training.results import Estimate
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
POLICIES = ("router", "logging", "always-nano", "always-mid", "always-frontier", "keyword")


def to_json(report: LoggedReport) -> dict[str, Any]:
    """The report's JSON, which has no NaN and no infinity."""
    result: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return result


def with_cells(table: OutcomeTable, success: FloatArray, **matrices: Any) -> OutcomeTable:
    """The table with other cells observed."""
    return OutcomeTable.from_arrays(
        table.tiers,
        table.query,
        success,
        matrices.pop("cost_usd", np.where(np.isfinite(success), 0.001, np.nan)),
        request_id=table.request_id,
        **matrices,
    )


# ---------------------------------------------------------------- what is a log, what is used


@pytest.mark.parametrize(
    ("n_single", "n_complete", "n_partial", "logged"),
    [
        (10, 0, 0, True),
        (0, 10, 0, False),
        (6, 5, 0, True),
        (5, 5, 0, False),
        (5, 6, 0, False),
        (1, 0, 9, True),
        (0, 1, 9, False),
        (0, 0, 9, False),
    ],
)
def test_a_log_is_where_most_requests_have_one_outcome(
    n_single: int, n_complete: int, n_partial: int, logged: bool
) -> None:
    world = LoggedWorld(20)
    n = n_single + n_complete + n_partial
    success = np.full((n, 3), np.nan)
    success[:, 0] = 1.0
    success[n_single:, 1] = 1.0
    success[n_single : n_single + n_complete, 2] = 1.0
    table = with_cells(world.log(world.uniform).take(np.arange(n)), success)
    assert is_logged(world.router(), table) is logged


def test_what_training_has_seen_does_not_make_a_log() -> None:
    world = LoggedWorld(20)
    success = np.ones((20, 3))
    success[:12, 1:] = np.nan
    table = with_cells(world.log(world.uniform), success)
    assert is_logged(world.router(), table)
    assert not is_logged(world.router(trained=tuple(world.queries[:12])), table)
    # Where nothing is left, the whole file tells what it is, and so what is missing.
    assert is_logged(world.router(trained=tuple(world.queries)), table)


def test_a_tier_of_one_is_full_feedback() -> None:
    tiers = TierSet.from_dicts([{"name": "only", "provider": "maker", "model": "only"}])
    table = OutcomeTable.from_arrays(tiers, ["q0 say"], [[1.0]], [[0.1]])
    world = LoggedWorld(5)
    assert not is_logged(world.router(tiers=tiers), table)


def test_everything_left_out_is_counted() -> None:
    world = LoggedWorld(400)
    table = world.log(world.uniform, split=["train"] * 10 + [None] * 390)
    success, cost = table.success.copy(), table.cost_usd.copy()
    propensity = table.propensity.copy()
    success[20:30] = np.nan  # no outcome
    success[30:40], cost[30:40], propensity[30:40] = 1.0, 0.1, np.nan  # full feedback
    success[40:50], cost[40:50], propensity[40:50] = [1, 1, np.nan], 0.1, np.nan
    # The third tier was asked afterwards: the second one was chosen.
    success[50:60], cost[50:60], propensity[50:60] = [np.nan, 1, 0], 0.1, [np.nan, 0.5, np.nan]
    cost[60:70] = np.nan
    propensity[70:73] = np.nan
    changed = with_cells(table, success, cost_usd=cost, propensity=propensity)
    changed = replace(changed, split=table.split, report=table.report)
    report = evaluate_logged(world.router(trained=tuple(world.queries[10:20])), changed)
    found = to_json(report)
    assert {name: found[name] for name in report.counts.to_dict()} == {
        "n_rows": 400,
        "n_train_split": 10,
        "n_left_out_trained": 10,
        "n_without_outcome": 10,
        "n_several_tiers": 20,
        "n_complete": 10,
        "n_without_cost": 10,
        "n_without_propensity": 3,
        "n_requests": 337,
        "n_texts": 337,
    }
    assert sum(tier["n"] for tier in found["tiers"].values()) == 337
    text = logged_text(report)
    for part in ("10 of the train split", "10 without a cost", "3 without a propensity"):
        assert part in text
    assert "10 of 350 requests have no cost and are left out" in text
    assert "10 requests have the outcome of every tier" in text


def test_nothing_left_is_an_error_that_says_why() -> None:
    world = LoggedWorld(50)
    table = world.log(world.uniform, cost_usd=np.full((50, 3), np.nan))
    with pytest.raises(InputError, match=r"got none of 50: .* 50 have no cost; .*log cost_usd"):
        evaluate_logged(world.router(), table)
    seen = world.router(trained=tuple(world.queries))
    with pytest.raises(InputError, match="trained on the text of 50"):
        evaluate_logged(seen, world.log(world.uniform))


def test_tiers_go_by_name_and_the_order_of_rows_is_of_no_effect() -> None:
    world = LoggedWorld(500)
    table = world.log(world.exploring())
    expected = to_json(evaluate_logged(world.router(), table))
    shuffled = table.take(np.random.default_rng(0).permutation(500))
    assert to_json(evaluate_logged(world.router(), shuffled)) == expected
    other = TierSet.from_dicts([*reversed(table.tiers.to_dicts())])
    turned = OutcomeTable.from_arrays(
        other,
        table.query,
        table.success[:, ::-1],
        table.cost_usd[:, ::-1],
        request_id=table.request_id,
        propensity=table.propensity[:, ::-1],
    )
    turned = replace(turned, report=table.report)
    assert to_json(evaluate_logged(world.router(), turned)) == expected


def test_predictions_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate._CHUNK", 128)
    world = LoggedWorld(300)
    router = world.router()
    stages: list[tuple[str, int, int]] = []
    evaluate_logged(router, world.log(world.uniform), on_progress=lambda *at: stages.append(at))
    assert cast("Any", router).calls == [128, 128, 44]
    assert ("predict", 300, 300) in stages


# ---------------------------------------------------------------- numbers


def test_the_logs_own_numbers_are_its_means() -> None:
    world = LoggedWorld(400)
    table = world.log(world.uniform)
    report = evaluate_logged(world.router(), table)
    success, cost = np.nansum(table.success), np.nansum(table.cost_usd)
    values = report.policies["logging"].evaluation.values
    assert list(values) == ["dm", "ips", "snips", "dr"]
    for name in ("ips", "snips", "dr"):
        assert values[name].success_rate.value == pytest.approx(success / 400)
        assert values[name].cps_usd.value == pytest.approx(cost / success)
    assert values["dm"].success_rate.value == pytest.approx(
        float(world.world.p_hat[:400][table.observed].mean())
    )
    for t, name in enumerate(NAMES):
        served = report.tiers[name]
        assert served.n == table.observed[:, t].sum()
        assert served.total_cost_usd == pytest.approx(np.nansum(table.cost_usd[:, t]))
        assert served.success_rate == pytest.approx(np.nanmean(table.success[:, t]))
        assert report.overlap[name].n == served.n


def test_a_tier_from_a_uniform_log_is_three_times_its_own_requests() -> None:
    world = LoggedWorld(600)
    table = world.log(world.uniform)
    found = to_json(evaluate_logged(world.router(), table))
    assert tuple(found["policies"]) == POLICIES
    for t, name in enumerate(NAMES):
        policy = found["policies"][f"always-{name}"]
        estimates = policy["estimates"]
        n = table.observed[:, t].sum()
        assert estimates["ips"]["success_rate"] == pytest.approx(
            min(1.0, 3 * np.nansum(table.success[:, t]) / 600)
        )
        assert estimates["snips"]["success_rate"] == pytest.approx(np.nanmean(table.success[:, t]))
        assert estimates["dm"]["success_rate"] == pytest.approx(world.world.p_hat[:600, t].mean())
        residual = np.nansum(table.success[:, t] - world.world.p_hat[:600, t])
        assert estimates["dr"]["success_rate"] == pytest.approx(
            world.world.p_hat[:600, t].mean() + 3 * residual / 600
        )
        assert policy["success_rate"] == estimates["dr"]["success_rate"]
        assert policy["cps_usd"] == estimates["dr"]["cps_usd"]
        low, high = policy["cps_usd_interval"]
        assert low < policy["cps_usd"] < high
        assert policy["weights"]["effective_sample_size"] == pytest.approx(n)
        assert policy["weights"]["largest"] == pytest.approx(3.0)
        assert policy["share"] == {other: float(other == name) for other in NAMES}
    assert found["feedback"] == "logged"
    assert found["data"] == "log.jsonl"
    assert found["effective_sample_size"].keys() == set(POLICIES)
    assert set(found["verdict"]["bounds"]) == set(NAMES)


def test_what_is_saved_against_the_log() -> None:
    world = LoggedWorld(3000)
    report = evaluate_logged(world.router(), world.log(world.uniform))
    saved = report.saved
    assert saved is not None and saved.saved_share is not None
    routed, logging = (report.policies[p].headline for p in ("router", "logging"))
    assert routed is not None and logging is not None
    usd = logging.cost_usd_per_request.value - routed.cost_usd_per_request.value
    assert saved.saved_usd_per_request.value == pytest.approx(usd)
    assert saved.saved_share.value == pytest.approx(usd / logging.cost_usd_per_request.value)
    assert saved.success_rate_difference.value == pytest.approx(
        routed.success_rate.value - logging.success_rate.value
    )
    # Against the truth of these very requests.
    outcomes, costs = world.world.p_true[:3000], world.world.cost_true[:3000]
    true = ((world.routed - world.uniform) * outcomes).sum(axis=1).mean()
    assert inside(saved.success_rate_difference, true)
    assert inside(
        saved.saved_usd_per_request, -((world.routed - world.uniform) * costs).sum(axis=1).mean()
    )
    assert inside(
        saved.saved_share,
        1 - (world.routed * costs).sum() / (world.uniform * costs).sum(),
    )


def inside(estimate: Estimate, true: float) -> bool:
    assert estimate.interval is not None
    return estimate.interval[0] <= true <= estimate.interval[1]


def test_copies_of_a_text_count_once() -> None:
    world = LoggedWorld(600)
    table = world.log(world.uniform)
    twice = OutcomeTable.from_arrays(
        table.tiers,
        [*table.query, *(query.upper() for query in table.query)],
        np.concatenate([table.success] * 2),
        np.concatenate([table.cost_usd] * 2),
        propensity=np.concatenate([table.propensity] * 2),
    )
    router = world.router()
    lower = cast("Any", router).predict
    router.predict = lambda queries: lower([q.lower() for q in queries])  # type: ignore[method-assign]
    once, both = evaluate_logged(router, table), evaluate_logged(router, twice)
    assert (both.counts.n_requests, both.counts.n_texts) == (1200, 600)
    assert "1,200 requests have 600 different texts" in logged_text(both)
    assert both.policies["router"].evaluation.weights.ess == pytest.approx(
        once.policies["router"].evaluation.weights.ess
    )
    single, double = (to_json(report)["policies"]["router"] for report in (once, both))
    assert double["cps_usd"] == pytest.approx(single["cps_usd"])
    assert double["cps_usd_interval"] == pytest.approx(single["cps_usd_interval"])
    # Bets depend on the order of the texts, but not on how many copies there are.
    assert double["success_rate_interval"] == pytest.approx(
        single["success_rate_interval"], abs=0.02
    )


# ---------------------------------------------------------------- propensities


def test_recorded_propensities_are_used() -> None:
    world = LoggedWorld(400)
    report = evaluate_logged(world.router(), world.log(world.exploring()))
    assert report.propensity.source == "recorded"
    assert not to_json(report)["propensity"]["estimated"]
    assert "those that the log recorded" in logged_text(report)


def test_a_log_that_follows_the_keyword_rule_is_found_out() -> None:
    world = LoggedWorld(3000)
    exact = evaluate_logged(world.router(), world.log(world.exploring(0.1)))
    table = world.log(world.exploring(0.1), recorded=False)
    report = evaluate_logged(world.router(), table)
    assert report.propensity.source == "keyword-rule"
    assert "follows it on 9" in report.propensity.sentence
    chances = world.exploring(0.1)[table.observed]
    assert np.abs(report.propensity.logged.propensity - chances).max() < 0.03
    for name in ("router", "keyword"):
        known, guessed = exact.policies[name].headline, report.policies[name].headline
        assert known is not None and guessed is not None
        assert guessed.success_rate.value == pytest.approx(known.success_rate.value, abs=0.03)


def test_a_log_that_goes_by_the_text_is_modelled() -> None:
    world = LoggedWorld(3000)
    chances = world.moody()
    table = world.log(chances, recorded=False)
    report = evaluate_logged(world.router(), table)
    assert report.propensity.source == "query-model"
    assert np.abs(report.propensity.logged.propensity - chances[table.observed]).mean() < 0.03
    assert "with a calibration error of" in report.propensity.sentence
    assert "estimated from the log, and the intervals take them for exact" in logged_text(report)


def test_of_a_long_log_a_sample_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_propensity, "MAX_FITTING_ROWS", 1500)
    monkeypatch.setattr(logged_propensity, "_CHUNK", 400)
    world = LoggedWorld(3000)
    chances = world.moody()
    table = world.log(chances, recorded=False)
    stages: list[tuple[str, int, int]] = []
    report = evaluate_logged(world.router(), table, on_progress=lambda *at: stages.append(at))
    assert report.propensity.source == "query-model"
    assert np.abs(report.propensity.logged.propensity - chances[table.observed]).mean() < 0.04
    assert ("estimate propensities", 3000, 3000) in stages


def test_where_half_are_missing_all_are_estimated() -> None:
    world = LoggedWorld(1000)
    table = world.log(world.exploring())
    propensity = table.propensity.copy()
    propensity[::2] = np.nan
    report = evaluate_logged(world.router(), replace(table, propensity=propensity))
    assert report.counts.n_requests == 1000
    assert report.propensity.estimated
    assert report.propensity.n_recorded == 500
    assert "records propensities on 500 of 1,000 requests; all are estimated" in logged_text(report)


def test_a_text_of_one_kind_needs_no_folds() -> None:
    world = LoggedWorld(300)
    table = world.log(world.uniform, recorded=False)
    same = replace(table, query=np.array([world.queries[0]] * 300, dtype=object))
    report = evaluate_logged(world.router(), same)
    assert report.counts.n_texts == 1
    assert all(not policy.evaluation.values for policy in report.policies.values())
    to_json(report)
    assert "keyword heuristic treats alike, since" in logged_text(report)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("recorded", [True, False])
def test_a_deterministic_log_knows_only_its_own_choices(recorded: bool) -> None:
    world = LoggedWorld(900)
    report = evaluate_logged(world.router(), world.log(world.keyword, recorded=recorded))
    refused = {name for name, p in report.policies.items() if p.evaluation.refusal is not None}
    assert refused == {"router", "always-nano", "always-mid", "always-frontier"}
    for t, name in enumerate(NAMES):
        assert report.policies[f"always-{name}"].evaluation.missing_share == pytest.approx(
            1 - world.keyword[:, t].mean()
        )
    assert report.saved is None
    assert report.verdict.label == "refused"
    text = logged_text(report)
    assert "router: no estimate: expected at most 5 % of this policy's choices" in text
    assert "verdict: REFUSED: this log has no estimate of the router" in text
    assert ("All of them are 1" in text) == recorded
    found = to_json(report)
    assert found["policies"]["router"]["success_rate"] is None
    assert found["policies"]["router"]["estimates"] == {}
    assert found["policies"]["router"]["refusal"]
    assert found["savings"]["against_logging"] is None


def test_few_requests_are_refused() -> None:
    world = LoggedWorld(20)
    for recorded in (True, False):
        report = evaluate_logged(world.router(), world.log(world.uniform, recorded=recorded))
        assert all(not policy.evaluation.values for policy in report.policies.values())
        assert "expected an effective sample size of at least 100" in logged_text(report)
        assert "The same by all estimators" not in logged_text(report)
        to_json(report)


def test_a_log_of_one_tier_knows_that_tier() -> None:
    world = LoggedWorld(300)
    only_mid = np.tile([0.0, 1.0, 0.0], (300, 1))
    report = evaluate_logged(world.router(), world.log(only_mid, recorded=False))
    assert report.propensity.source == "single-tier"
    assert not report.propensity.estimated
    assert report.policies["always-mid"].evaluation.values
    assert report.policies["always-nano"].evaluation.refusal is not None
    assert report.verdict.label == "refused"
    assert "All requests went to mid" in logged_text(report)
    found = to_json(report)
    assert found["tiers"]["nano"] == {
        "n": 0,
        "success_rate": None,
        "total_cost_usd": 0.0,
        "cps_usd": None,
        "cps_is_infinite": False,
    }


def test_no_success_at_all_is_an_infinite_cps() -> None:
    world = LoggedWorld(600)
    table = world.log(world.uniform)
    failed = replace(table, success=np.where(table.observed, 0.0, np.nan))
    report = evaluate_logged(world.router(), failed)
    found = to_json(report)
    assert found["policies"]["logging"]["cps_usd"] is None
    assert found["policies"]["logging"]["cps_is_infinite"]
    assert found["tiers"]["mid"]["cps_is_infinite"]
    text = logged_text(report)
    assert "inf" in text and "CPS has no interval" in text


def test_free_requests_and_wrong_propensities() -> None:
    world = LoggedWorld(2000)
    free = evaluate_logged(world.router(), world.log(world.uniform, cost_usd=np.zeros((2000, 3))))
    assert to_json(free)["savings"]["against_logging"]["saved_share"] is None
    table = world.log(world.uniform)
    wrong = evaluate_logged(
        world.router(), replace(table, propensity=np.where(table.observed, 0.9, np.nan))
    )
    assert wrong.verdict.label == "refused"
    assert "the propensities are wrong" in logged_text(wrong)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_a_confidence_that_is_none(confidence: float) -> None:
    world = LoggedWorld(20)
    with pytest.raises(InputError, match="confidence between 0 and 1"):
        evaluate_logged(world.router(), world.log(world.uniform), confidence=confidence)


def test_a_router_without_calibration_rows_still_has_estimates() -> None:
    world = LoggedWorld(400)
    router = world.router()
    rows = router.calibration
    names = ("p_success", "cost_usd", "success", "realised_cost_usd", "out_of_distribution")
    cast("Any", router).calibration = replace(
        rows, **{name: getattr(rows, name)[:0] for name in names}
    )
    report = evaluate_logged(router, world.log(world.uniform))
    assert report.policies["router"].evaluation.values
    assert report.verdict.label == "not proven"
    assert "no calibration costs" in report.verdict.sentence
    assert report.policies["keyword"].share["nano"] == pytest.approx(world.keyword[:, 0].mean())


# ---------------------------------------------------------------- verdict


def test_a_router_that_beats_everything_pays() -> None:
    world = LoggedWorld(4000, "clear", success_value_usd=0.5)
    report = evaluate_logged(world.router(), world.log(world.uniform))
    verdict = report.verdict
    assert verdict.label == "pays", verdict
    assert all(bound.upper_usd < 0 for bound in (*verdict.bounds, verdict.logging))
    assert "The router PAYS: it beats every single tier and what the log did" in verdict.sentence
    # Each bound lies on the right side of the estimate.
    for bound in (*verdict.bounds, verdict.logging):
        assert bound.lower_usd < bound.mean_usd < bound.upper_usd
        assert bound.slack_usd == 0.0


def test_what_cannot_be_compared_is_refused_and_the_rest_is_said() -> None:
    world = LoggedWorld(4000, "clear", success_value_usd=0.5)
    router = world.router()
    # Explores between two tiers only: those that the router uses.
    chances = np.tile([0.5, 0.0, 0.5], (4000, 1))
    verdict = evaluate_logged(router, world.log(chances)).verdict
    assert verdict.label == "refused"
    assert "REFUSED: this log has no estimate of always-mid, so that" in verdict.sentence
    assert "It does beat always-nano, always-frontier and the logging policy" in verdict.sentence
    found = verdict.to_dict()
    assert found["bounds"]["mid"]["refused"] and found["bounds"]["mid"]["upper_usd"] is None


def test_doing_what_one_tier_does_does_not_pay() -> None:
    world = LoggedWorld(300)
    for chances in (world.uniform, world.keyword):  # the second one has no estimate of the router
        router = world.router(Policy("tier", 0.05, 2, 2, low=1))
        verdict = evaluate_logged(router, world.log(chances)).verdict
        assert verdict.label == "does not pay"
        assert "does exactly what always-mid does" in verdict.sentence


def test_a_router_that_is_worse_than_the_log_does_not_pay() -> None:
    """Successes are worth nothing to the log, and the router takes the dearest tier for many."""
    world = LoggedWorld(6000, success_value_usd=0.0)
    dear = Policy("tier", 1e-6, 2, 2, low=2)
    report = evaluate_logged(world.router(dear), world.log(world.uniform))
    assert report.verdict.label == "does not pay"
    cheap_log = np.tile([0.9, 0.05, 0.05], (6000, 1))
    mixed = Policy("mix", 1e-6, 2, 2, low=1, high=2, share_high=0.9)
    verdict = evaluate_logged(world.router(mixed), world.log(cheap_log)).verdict
    assert verdict.label == "does not pay"
    assert verdict.logging.lower_usd > 0


def test_the_routers_own_log_is_no_rival() -> None:
    world = LoggedWorld(400)
    mixed = Policy("mix", 0.05, 2, 2, low=0, high=1, share_high=0.5)
    chances = np.tile([0.5, 0.5, 0.0], (400, 1))
    verdict = evaluate_logged(world.router(mixed), world.log(chances)).verdict
    assert verdict.logging.identical
    assert verdict.label == "does not pay"
    assert verdict.sentence.endswith("made by the router itself, which is no rival.")
    verdict = evaluate_logged(world.router(), world.log(world.routed)).verdict
    assert verdict.logging.identical


def test_without_a_finite_value_nothing_is_proven() -> None:
    world = LoggedWorld(400)
    report = evaluate_logged(
        world.router(Policy("mix", math.inf, 2, 2, low=0, high=1, share_high=0.5)),
        world.log(world.uniform),
    )
    assert report.verdict.label == "not proven"
    assert "no finite value" in report.verdict.sentence
    to_json(report)


def test_a_cost_beyond_the_range_voids_the_bound() -> None:
    world = LoggedWorld(4000)
    table = world.log(world.uniform)
    cost = np.where(table.observed, table.cost_usd * 1e4, np.nan)
    report = evaluate_logged(world.router(), replace(table, cost_usd=cost))
    assert report.verdict.label != "pays"
    assert any(math.isinf(bound.upper_usd) for bound in report.verdict.bounds)
    to_json(report)


def test_a_free_tier_is_no_obstacle_to_a_verdict() -> None:
    world = LoggedWorld(4000, "clear", success_value_usd=0.5)
    free = np.array([0.0, 1.0, 1.0])
    router = world.router()
    rows = router.calibration
    cast("Any", router).calibration = replace(rows, realised_cost_usd=rows.realised_cost_usd * free)
    table = world.log(world.uniform, cost_usd=world.world.cost[:4000] * free)
    assert evaluate_logged(router, table).verdict.label == "pays"


def test_a_rival_with_a_small_sample_is_compared_all_the_same() -> None:
    world = LoggedWorld(1500, "clear", success_value_usd=0.5)
    # One request in 25 goes to mid.
    chances = np.tile([0.48, 0.04, 0.48], (1500, 1))
    report = evaluate_logged(world.router(), world.log(chances))
    assert "effective sample size of at least 100" in str(
        report.policies["always-mid"].evaluation.refusal
    )
    bound = {bound.rival: bound for bound in report.verdict.bounds}["mid"]
    assert not bound.refused
    assert math.isfinite(bound.lower_usd) and math.isfinite(bound.upper_usd)
    assert report.verdict.label == "not proven"
