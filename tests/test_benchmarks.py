"""The benchmarks run and measure what they say, on inputs of a second; never how fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import (
    caching,
    cascade,
    checks,
    client,
    data,
    escalation,
    escalation_rules,
    fold_tables,
    folds,
    labelling,
    ledger,
    logged,
    outside,
    process,
    quality,
    results,
    rivals,
    run,
    samples,
    serving,
)
from benchmarks.page import updated
from benchmarks.results import Budget, Section, Table, as_text, environment
from benchmarks.told import COST_FROM_TEXT, MEAN_COST, auc_per_tier, task_means
from router.embedding import default_embedder_folder, load_embedder, static_files
from router.errors import DatasetError, InputError
from router.escalation import Escalation, Verifier
from router.routing import Router
from training.fit import AUTO_FAMILIES
from training.synthetic import make_world, sample, synthetic_tiers
from training.table import OutcomeTable

QUERIES = [
    "Translate to French: good morning",
    "What is 17 times 23?",
    "Compare both designs, and explain why one of them is faster than the other",
    "¿Cuál es la capital de Australia? 🙂",
    "Write a function that merges overlapping intervals",
    "Is the sky blue, yes or no?",
]


def quiet(message: str) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def router() -> Router:
    return Router.load()


@pytest.fixture(scope="module")
def floor() -> checks.Floor:
    return checks.bare_floor(static_files(default_embedder_folder()))


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return sample(make_world(), 160, seed=1).table


def by_task(n: int) -> OutcomeTable:
    """Three tiers, of which each task needs another one: whoever knows the task knows the tier."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, n)
    success = (np.arange(3) >= kind[:, None]).astype(float)
    words = np.array(["apple", "bridge", "copper"])[kind]
    return OutcomeTable.from_arrays(
        synthetic_tiers(),
        [f"{word} question number {i}" for i, word in enumerate(words)],
        success,
        np.tile([0.001, 0.01, 0.1], (n, 1)),
        task=[f"task {word}" for word in words],
    )


# ------------------------------------------------------------------------------------- escalation


def perfect(n: int = 200) -> cascade.Predicted:
    """Half of the requests need the dearer tier, and nothing tells which."""
    success = np.column_stack((np.arange(n) % 2, np.ones(n))).astype(float)
    cost = np.tile([1.0, 10.0], (n, 1))
    loading = Escalation(np.zeros(2))
    return cascade.Predicted(np.tile([0.5, 0.99], (n, 1)), cost, success, cost, loading)


def test_a_cascade_pays_for_every_try_and_succeeds_with_the_answer_it_takes() -> None:
    success, cost = np.array([[0.0, 1.0, 1.0]]), np.array([[1.0, 10.0, 100.0]])
    right, paid = cascade.played([(0, 1, 2)], success, cost, Verifier(0.2, 0.1))
    # 0 fails and is sent back with .8; 1 is right and is sent back with .1; 2 is taken as it is.
    assert paid[0] == pytest.approx(1 + 0.8 * (10 + 0.1 * 100))
    assert right[0] == pytest.approx(0.8 * (0.9 + 0.1))
    # A verifier that errs can spoil what a single tier had right.
    spoilt, _ = cascade.played([(1, 0)], success, cost, Verifier(0.2, 0.1))
    assert spoilt[0] == pytest.approx(0.9)


def matched(found: cascade.Predicted, verifier: Verifier) -> list[escalation.Matched]:
    plans = cascade.plans_by_value(found, cascade.planners(found, verifier))
    return escalation.matched(found, plans, verifier, 0)


def test_a_perfect_verifier_reaches_every_success_and_a_useless_one_costs() -> None:
    found = perfect()
    (best, *_) = (one for one in matched(found, Verifier()) if one.success_rate == 1.0)
    # 1 + 10 / 2 against 10 for the dearer tier always.
    assert best.cost_usd[cascade.GIVEN] == pytest.approx(6.0)
    assert best.cost_usd[cascade.CHEAPEST_FIRST] == pytest.approx(6.0)
    assert best.cost_usd[cascade.ONCE] == pytest.approx(10.0)
    assert best.ratio[cascade.ONCE][0] == pytest.approx(0.6)
    assert best.wins == "plan"
    useless = matched(found, Verifier(1.0, 1.0))
    assert all(one.wins != "plan" for one in useless)
    # Told of it, the plan is to route once; not told, it does worse.
    for one in useless:
        assert one.cost_usd[cascade.GIVEN] == pytest.approx(one.cost_usd[cascade.ONCE])
        assert not one.cost_usd[cascade.UNTOLD] < one.cost_usd[cascade.ONCE]


def test_a_rate_that_is_not_reached_is_said_not_to_be() -> None:
    assert escalation.cost_at(np.array([0.5, 0.8]), np.array([1.0, 2.0]), 0.9) == np.inf
    assert escalation.cost_at(np.array([0.5, 0.8]), np.array([1.0, 2.0]), 0.65) == 1.5


def test_a_success_worth_much_is_tried_for_until_it_comes() -> None:
    found = perfect()
    worth = cascade.net_values(found, cascade.planners(found, Verifier()), 100.0)
    assert worth.means[cascade.GIVEN] == pytest.approx((1.0, 6.0, 94.0))
    assert worth.means[cascade.ONCE] == pytest.approx((1.0, 10.0, 90.0))
    assert worth.gap[cascade.UNTOLD] == worth.gap[cascade.INDEPENDENT] == (0.0, 0.0, 0.0)
    mean, low, high = worth.gap[cascade.ONCE]
    # Of +9 and -1 in equal parts, over 200 requests.
    assert mean == pytest.approx(4.0)
    assert (high - low) / 2 == pytest.approx(1.96 * 5 / np.sqrt(199))


def test_who_knows_of_the_verifiers_errors_does_better_by_them() -> None:
    found = perfect()
    verifier = Verifier(0.9, 0.05)
    worth = cascade.net_values(found, cascade.planners(found, verifier), 100.0)
    assert worth.means[cascade.GIVEN] == pytest.approx((1.0, 10.0, 90.0))
    assert worth.gap[cascade.UNTOLD][1] > 0.0


def test_few_requests_are_read_by_every_rule() -> None:
    rng = np.random.default_rng(0)
    p = np.repeat(rng.uniform(0.2, 0.9, (400, 1)), 3, axis=1)
    same = np.repeat(rng.random((400, 1)) < p[:, :1], 3, axis=1).astype(float)
    draw = escalation_rules.Draw(p, same, np.arange(400) % 5, p, same)
    real, independent = (escalation_rules.losses(one) for one in (draw, draw.made_independent(0)))
    assert set(real) == {escalation_rules.INDEPENDENT, *escalation_rules.RULES}
    for name in escalation_rules.RULES:
        assert real[name] < real[escalation_rules.INDEPENDENT] - 0.1
        assert independent[name] < independent[escalation_rules.INDEPENDENT] + 0.01


def test_escalation_is_measured_on_every_set(
    monkeypatch: pytest.MonkeyPatch, table: OutcomeTable, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "available_sets", lambda *_: ({"sample": table}, ["x is left out."]))
    monkeypatch.setattr(escalation_rules, "DRAWS", {50: 2, 100_000: 1})
    run.main(["--only", "escalation", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"environment", "escalation"}
    sample_set = found["escalation"]["sets"]["sample"]
    assert len(sample_set["loading"]) == 3
    assert len(sample_set["matched"]) == 12
    assert len(sample_set["worth"]) == 12
    assert set(sample_set["rules"]) == {"50"}
    for one in sample_set["worth"]:
        success, paid, net = one["means"][cascade.GIVEN]
        assert net == pytest.approx(one["value_usd"] * success - paid)


# ---------------------------------------------------------------------------------------- serving


def test_the_floor_is_the_mean_of_token_rows(floor: checks.Floor, router: Router) -> None:
    checks.check_floor(floor, router, QUERIES)
    assert floor(QUERIES[0]).shape == (router.predictor.embedder.dimension,)


def test_a_floor_over_other_vectors_is_refused(floor: checks.Floor, router: Router) -> None:
    with pytest.raises(AssertionError):
        checks.check_floor(lambda text: floor(text)[::-1], router, QUERIES)


def test_a_router_that_contradicts_itself_is_not_timed(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.check_route(router, QUERIES)
    wrong = [0.123] * len(router.tiers)
    honest: Callable[..., object] = router._decision
    monkeypatch.setattr(router, "_decision", lambda tier, p, *rest: honest(tier, wrong, *rest))
    with pytest.raises(AssertionError):
        checks.check_route(router, QUERIES)


def test_timed_decisions_that_differ_from_the_checked_ones_are_refused(router: Router) -> None:
    decisions = [router.route(query) for query in QUERIES]
    checks.check_same(decisions, decisions)
    with pytest.raises(AssertionError):
        checks.check_same(decisions[::-1], decisions)


def test_calls_in_turns_answer_every_query_once_in_order() -> None:
    asked: list[str] = []

    def call(text: str) -> str:
        asked.append(text)
        return text.upper()

    calls: dict[str, Callable[[str], object]] = {"a": call, "b": len}
    seconds, results = serving.in_turns(calls, QUERIES, block=4)
    assert asked == QUERIES
    assert results == {"a": [q.upper() for q in QUERIES], "b": [len(q) for q in QUERIES]}
    assert all(len(times) == len(QUERIES) and (times > 0).all() for times in seconds.values())


def test_latency_times_floor_and_route_on_new_and_repeated_queries(floor: checks.Floor) -> None:
    times = serving.latency(Router.load, floor, QUERIES[:4], QUERIES[4:], rounds=2)
    assert set(times) == {"floor", "route", "repeated floor", "repeated route"}
    for found in times.values():
        assert len(found.seconds) == 8
        assert 0 < found.p50 <= found.p99


def test_throughput_counts_queries_per_second(router: Router) -> None:
    rates = serving.throughput(router, QUERIES, repeats=1)
    assert rates["ratio"] == pytest.approx(rates["route_many_per_s"] / rates["route_per_s"])


def test_growth_doubles_the_tokens(router: Router) -> None:
    sizes = serving.growth(router, lambda text: len(text.split()), QUERIES, repeats=1)
    assert [size["tokens"] / sizes[0]["tokens"] for size in sizes] == [1.0, 2.0, 4.0]
    with pytest.raises(AssertionError, match="not read whole"):
        serving.growth(router, len, ["word " * 2_000], repeats=1)


def test_growth_is_told_from_quadratic_growth() -> None:
    def exponent(time_of: Callable[[float], float]) -> float:
        return serving.growth_exponent([{"seconds": time_of(k)} for k in (1.0, 2.0, 4.0)])

    assert exponent(lambda k: 5 + 3 * k) == pytest.approx(1.0)
    assert exponent(lambda k: 5 + 3 * k**2) == pytest.approx(2.0)


def test_a_long_query_is_routed(router: Router) -> None:
    found = serving.long_query(router, " ".join(QUERIES).split(), n_words=5_000)
    assert found["words"] == 5_000
    assert found["milliseconds"] > 0


def test_a_fresh_process_starts_and_routes_the_same(router: Router) -> None:
    found = process.cold_start(QUERIES[0], router.route(QUERIES[0]).tier, runs=1)
    assert 0 < found["interpreter_mb"] < found["resident_mb"] <= found["peak_mb"]
    assert found["seconds"] > 0
    assert "Router.load()" in process.process_table(found, {"words": 1, "milliseconds": 1}).text()


# ---------------------------------------------------------------------------------------- quality


def test_a_task_plays_its_own_mean_and_a_new_one_that_of_all() -> None:
    outcome = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    found = task_means(["a", "a", "b"], outcome, ["b", "new", "a"])
    assert found.tolist() == [[1.0, 0.0], pytest.approx([2 / 3, 2 / 3]), [0.5, 1.0]]


def test_auc_ranks_whole_successes_and_is_unknown_for_a_constant() -> None:
    p = np.array([[0.1, 0.5], [0.9, 0.5], [0.2, 0.5], [0.5, 0.5]])
    success = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.5, 1.0]])
    first, second = auc_per_tier(p, success)
    assert first == 1.0
    assert np.isnan(second)


def test_a_request_has_one_role(table: OutcomeTable) -> None:
    roles = quality.Roles.of(table, load_embedder("static"), 0, quiet)
    parts = [set(part.request_id) for part in (roles.fitting, roles.calibration, roles.test)]
    assert set.union(*parts) <= set(table.request_id)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert min(map(len, parts)) > 0


@pytest.fixture(scope="module")
def measured(table: OutcomeTable) -> tuple[list[Table], dict[str, Any], list[quality.Trained]]:
    return quality.measure_set("sample", table, "static", "static", quiet, estimators=("knn",))


def test_a_set_is_measured_with_the_real_pipeline(
    measured: tuple[list[Table], dict[str, Any], list[quality.Trained]], table: OutcomeTable
) -> None:
    tables, found, (trained,) = measured
    assert trained.manifest["estimator"]["family"] == "knn"
    assert trained.report.counts.n_requests == found["n_test"]
    assert len(trained.auc) == len(table.tiers)
    json.dumps(run._finite(found), allow_nan=False)
    menu, results = tables
    assert len(menu.rows) == 3
    assert [row[0] for row in results.rows] == ["knn", MEAN_COST, COST_FROM_TEXT]
    # Of a floor it is a ratio to the random mix, no dollars.
    (run_found,) = found["runs"]
    value = run_found["decision_values"]["knn"]
    assert results.rows[0][results.columns.index("decision value")] == f"{value:.3f}"
    assert 0.1 < value < 10
    assert trained.report.verdict.sentence in menu.text()


def test_who_is_told_the_task_gains_where_the_task_says_it_all() -> None:
    outcomes = by_task(300)
    _, found, (trained,) = quality.measure_set(
        "by task", outcomes, "static", "static", quiet, estimators=("knn",)
    )
    # Three tasks, a tier each: one third of the requests need the dearest tier, none needs a coin.
    for told in found["told_the_task"].values():
        assert told["mean_mix_ratio"] < 0.8
        assert told["auc"][:2] == [1.0, 1.0]
    blind = np.full_like(trained.predicted.p_success, 0.5)
    roles = quality.Roles.of(outcomes, load_embedder("static"), 0, quiet)
    known = trained.calibration
    nothing_known = quality.mean_mix_ratio(
        (np.full_like(known.p_success, 0.5), known.cost_usd), (blind, roles.test.cost_usd), roles
    )
    assert nothing_known >= 1.0 - 1e-9


def test_folds_show_what_the_names_of_tasks_are_worth() -> None:
    table = by_task(150)
    unnamed = replace(table, task=np.full(150, None, object))
    vectors = load_embedder("static").embed(list(table.query))
    told, untold = (
        folds.our_predictions(next(folds.outer_folds(each, vectors, 2, (0,))), ["ridge"])
        for each in (table, unnamed)
    )
    assert set(told) - set(untold) == {folds.WITHOUT_TASKS}
    blind = told[folds.WITHOUT_TASKS]
    np.testing.assert_array_equal(blind.p_held, untold["ridge"].p_held)
    np.testing.assert_array_equal(blind.cost_held, untold["ridge"].cost_held)
    assert not np.array_equal(blind.p_held, told["ridge"].p_held)


def test_folds_know_the_task_where_the_text_or_the_name_says_it() -> None:
    found = folds.every_fold(
        "by task",
        by_task(180),
        load_embedder("static"),
        quiet,
        families=("knn",),
        n_folds=2,
        seeds=(0,),
    )
    assert set(found) == {"knn", MEAN_COST, COST_FROM_TEXT, *folds.RIVALS}
    knows = set(found) - {rivals.KEYWORD, rivals.RANDOM_MIX, rivals.WIN_RATE}
    for router, scores in found.items():
        assert len(scores) == 2
        if router in knows:
            assert all(score.mean_mix_ratio < 0.8 for score in scores), router
    assert [score.mean_mix_ratio for score in found[rivals.RANDOM_MIX]] == [1.0, 1.0]


def test_folds_hold_out_whole_texts_once_a_seed() -> None:
    hashes = np.repeat(np.arange(50, dtype=np.uint64), 2)
    seen: dict[int, npt.NDArray[np.int64]] = {}
    for seed, held_out in folds._folds(hashes, 4, (0, 1)):
        seen[seed] = seen.get(seed, np.zeros(100, np.int64)) + held_out
        assert (held_out[::2] == held_out[1::2]).all()
    assert {seed: set(counts.tolist()) for seed, counts in seen.items()} == {0: {1}, 1: {1}}


def test_the_fold_tables_show_mean_spread_and_difference() -> None:
    def scores(*ratios: float) -> list[fold_tables.Score]:
        floors = np.full(fold_tables.N_FLOORS, 0.9)
        return [
            fold_tables.Score(ratio, [0.5, 0.75], floors, ours, setting="k = 5")
            for ratio, ours in zip(ratios, (0.6, 0.6), strict=True)
        ]

    found = {"set": {"ridge": scores(0.6, 0.6), rivals.KNN: scores(0.5, 0.9)}}
    text = "\n".join(
        table.text() for table in fold_tables.tables("static", found, "ridge", 2, (0,))
    )
    assert "0.700 (0.283)" in text
    assert "+0.100 (0.200)" in text
    assert "-0.100 (0.000) at 10%" in text
    assert "0.500 0.750" in text
    assert "k = 5 (2)" in text
    json.dumps(run._finite(fold_tables.to_dict(found["set"][rivals.KNN])), allow_nan=False)


def test_the_nested_tables_are_of_every_router_and_say_what_is_left_out() -> None:
    table = by_task(90)
    section = folds.measure(
        {"by task": table},
        {"static": load_embedder("static")},
        ["x is left out."],
        quiet,
        families=("ridge",),
        n_folds=2,
        seeds=(0,),
    )
    assert section.name == "Nested folds"
    ratios = section.tables[0]
    assert ratios.rows[0][0] == "ridge"
    assert ratios.rows[0][2] == ""  # no difference from itself
    assert section.tables[-1].rows == [("x is left out.",)]
    json.dumps(run._finite(section.data), allow_nan=False)


# ---------------------------------------------------------------------------- results and command


def test_a_missed_budget_is_reported_and_not_raised() -> None:
    late, fast = Budget("start", 0.6, 0.5, "s"), Budget("rate", 3.0, 2.0, "x", at_least=True)
    assert (late.row()[-1], fast.row()[-1]) == ("missed", "met")
    assert (late.to_dict()["met"], fast.to_dict()["met"]) == (False, True)


def test_tables_hold_every_cell_in_both_forms() -> None:
    table = Table("Title", ("what", "n"), [("a|b", "1"), ("c", "22")], ("A note.",))
    section = Section("S", [table])
    text, markdown = as_text([section], {}), updated("", [(section, {})])
    assert "\na|b    1\nc     22\n" in text
    assert "| a/b | 1 |" in markdown
    assert all(part in found for found in (text, markdown) for part in ("Title", "A note."))


def test_the_environment_names_versions_and_no_place() -> None:
    facts = environment()
    assert {"machine", "python", "numpy", "cps-router"} <= set(facts)
    assert str(Path.home()) not in json.dumps(facts)


def test_a_busy_machine_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (500.0, 0.0, 0.0))
    (sentence,) = results.busy()
    assert "load 500.0" in sentence
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert results.busy() == ()


def test_sets_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPS_ROUTER_DATA", raising=False)
    tables, left_out = data.available_sets(quiet, ["mmlu_pro", "zeroeval"])
    assert tables == {}
    assert [sentence.split()[0] for sentence in left_out] == ["mmlu_pro", "zeroeval"]


def test_without_an_index_the_sample_is_used_and_named(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise DatasetError("no index.")

    monkeypatch.chdir(repository)
    monkeypatch.setattr(data, "fetch", offline)
    queries, source = data.real_queries(quiet)
    assert len(queries) == len(set(queries)) > 100
    assert "synthetic" in source


def test_the_command_prints_json_and_writes_markdown(
    monkeypatch: pytest.MonkeyPatch,
    table: OutcomeTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(data, "available_sets", lambda *_: ({"sample": table}, ["x is left out."]))
    out = tmp_path / "bench.md"
    run.main(["--only", "quality", "--json", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    (measured,) = found["quality"]["sets"]["sample"]
    assert [each["asked"] for each in measured["runs"]] == ["auto", *AUTO_FAMILIES]
    assert found["environment"]["seed"] == "0"
    markdown = out.read_text(encoding="utf-8")
    assert "floor menu" in markdown
    assert "x is left out." in markdown


def test_the_whole_benchmark_has_every_part_and_folds_may_be_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(name: str) -> Callable[..., Section]:
        return lambda *_, **__: Section(name, [], {"here": True})

    monkeypatch.setattr(data, "available_sets", lambda *_: ({}, []))
    monkeypatch.setattr(data, "real_queries", lambda *_: (QUERIES, "tests"))
    for module, name in ((serving, "Serving"), (quality, "Quality"), (folds, "Nested folds")):
        monkeypatch.setattr(module, "measure", part(name))
    monkeypatch.setattr(escalation, "measure", part("Escalation"))
    monkeypatch.setattr(outside, "measure", part("Outside"))
    monkeypatch.setattr(logged, "measure", part("Logged feedback"))
    monkeypatch.setattr(caching, "measure", part("Caching"))
    monkeypatch.setattr(ledger, "measure", part("Ledger"))
    monkeypatch.setattr(client, "measure", part("Client"))
    monkeypatch.setattr(labelling, "measure", part("Labelling"))
    monkeypatch.setattr(run, "_languages", part("Languages"))

    def parts(*arguments: str) -> list[str]:
        run.main([*arguments, "--json"])
        return [name for name in json.loads(capsys.readouterr().out) if name != "environment"]

    named = ["serving", "caching", "ledger", "client", "quality", "nested folds", "escalation"]
    assert parts() == [*named, "languages", "outside", "logged feedback", "labelling"]
    assert parts("--folds") == ["nested folds"]
    assert parts("--only", "quality") == ["quality"]
    assert parts("--only", "outside") == ["outside"]
    assert parts("--only", "logged") == ["logged feedback"]
    assert parts("--only", "caching") == ["caching"]
    assert parts("--only", "ledger") == ["ledger"]
    assert parts("--only", "client") == ["client"]
    assert parts("--only", "labelling") == ["labelling"]


def test_a_ledger_is_measured_in_each_kind_of_database() -> None:
    section = ledger.measure(lambda _: None, n_records=20, n_reported=50)
    (table,) = section.tables
    assert [row[0] for row in table.rows][:2] == [
        "SQLite, synchronous=normal",
        "SQLite, synchronous=full",
    ]
    assert len(table.rows) == 3 or "PostgreSQL was not measured" in table.notes[0]
    assert "over 50 requests" in table.notes[-1]


def test_a_set_nobody_knows_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(["--only", "quality", "--set", "nonsense"])
    assert stopped.value.code == 2
    assert "no data set 'nonsense'" in capsys.readouterr().err


def test_sample_efficiency_is_paired_and_its_prior_is_of_other_sets() -> None:
    tables = {
        "mmlu_pro": sample(make_world(), 260, seed=1).table,
        "zeroeval": sample(make_world(), 240, seed=2).table,
        "paretobandit": sample(make_world(), 220, seed=3).table,
    }
    found = samples.measure(tables, load_embedder("static"), quiet, {40: 2, 10_000: 2})
    assert set(found.data) == set(tables)
    for numbers in found.data.values():
        assert list(numbers) == ["40"] and len(numbers["40"]) == 2
        for draw in numbers["40"]:
            assert draw["cold"] > 0 and draw["warm"] > 0 and draw["cold"] != draw["warm"]
    notes = " ".join(note for table in found.tables for note in table.notes)
    assert "prior from mmlu_pro and zeroeval" in notes and "prior from zeroeval;" in notes
    with pytest.raises(InputError, match="set CPS_ROUTER_DATA"):
        samples.measure({"paretobandit": tables["paretobandit"]}, load_embedder("static"), quiet)
