"""Training end to end: what decides the artifact, what must not, and awkward data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from router import Router
from router.artifact import FORMAT, load_artifact
from router.costs import TierMeans
from router.errors import EmbeddingError, InputError
from router.outcomes import write_jsonl
from router.tiers import Tier, TierSet
from tests.minilm import minilm_folder, tiny_encoder
from training import package, pipeline
from training.evaluate import evaluate
from training.fit import AUTO_FAMILIES_WITH_TASKS, FAMILIES
from training.inputs import Inputs
from training.pipeline import TrainResult, train
from training.search import Objective, Rows
from training.split import fitting_calibration, query_hashes, split_table
from training.synthetic import make_world, sample, to_outcomes
from training.table import OutcomeTable, read_outcomes

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

COLUMNS = ("query", "success", "cost_usd", "request_id", "task", "split", "input_tokens")
COLUMNS += ("output_tokens", "observed")


def changed(table: OutcomeTable, **columns: Any) -> OutcomeTable:
    """The table with some columns replaced; unobserved cells stay so."""
    values = {name: getattr(table, name) for name in COLUMNS} | columns
    tiers, query = values.pop("tiers", table.tiers), values.pop("query")
    success, cost = values.pop("success"), values.pop("cost_usd")
    return OutcomeTable.from_arrays(tiers, query, success, cost, **values)


def run(table: OutcomeTable, out: Path, **options: Any) -> TrainResult:
    return train(table, out, **{"estimator": "logistic", "track": False, **options})


def roles(table: OutcomeTable) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Which requests fit, calibrate and test: from the text alone, as `train` divides them."""
    split = split_table(table)
    calibrates = np.zeros(table.n_requests, dtype=bool)
    calibrates[split.train] = fitting_calibration(query_hashes(table.query[split.train]))
    return split.train & ~calibrates, calibrates, split.test


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return sample(make_world(), 300, 0).table


@pytest.fixture(scope="module")
def trained(table: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(table, tmp_path_factory.mktemp("trained") / "artifact")


# What the manifest says


def test_the_manifest_says_what_was_done(table: OutcomeTable, trained: TrainResult) -> None:
    fits, calibrates, tests = roles(table)
    manifest = json.loads((trained.folder / "manifest.json").read_text())
    assert trained.manifest == manifest
    assert manifest["format"] == FORMAT and manifest["artifact_id"] and manifest["files"]
    assert [tier["name"] for tier in manifest["tiers"]] == ["nano", "mid", "frontier"]
    assert manifest["objective"] == "success rate >= that of strongest - 0.05"
    assert manifest["estimator"]["family"] == "logistic"
    assert manifest["embedder"]["kind"] == "static"
    training = manifest["training"]
    assert training["n_fitting"] == fits.sum()
    assert training["n_calibration"] == calibrates.sum() == manifest["certificate"]["n_rows"]
    assert training["n_test"] == tests.sum()
    assert training["split"] == {"source": "hash"}
    np.testing.assert_allclose(training["tier_success"], table.success[fits].mean(axis=0))
    assert manifest["policy"]["strongest"] == int(np.argmax(training["tier_success"]))
    assert manifest["prices"]["basis"] == ["tokens"] * 3
    np.testing.assert_allclose(manifest["prices"]["priced_over_logged"], 1.0)
    assert {row["floor"].split()[-1] for row in manifest["floor_menu"]} == {"0.02", "0.05", "0.1"}
    assert trained.run is None
    assert trained.warnings == []


def test_the_artifact_is_loaded_and_routes(table: OutcomeTable, trained: TrainResult) -> None:
    router = Router.load(trained.folder)
    assert router.artifact_id == trained.manifest["artifact_id"]
    decision = router.route("Extract the invoice number from: INV-2231, due Friday.")
    assert decision.tier in table.tiers.names
    assert all(0 < p < 1 for p in decision.p_success.values() if p is not None)
    assert all(cost is not None and cost > 0 for cost in decision.cost_usd.values())


def test_a_certified_router_keeps_its_floor_and_saves_on_fresh_requests(tmp_path: Path) -> None:
    world = make_world(noise_share=0.1)
    result = run(sample(world, 2500, 1).table, tmp_path, objective=Objective(margin=-0.1))
    assert result.manifest["certificate"]["certified"]
    router, fresh = Router.load(tmp_path), sample(world, 4000, 2)
    dist = router.action_dist(router.predict(list(fresh.table.query)))
    rate = float((dist * fresh.p_success).sum(axis=1).mean())
    cost = float((dist * fresh.table.cost_usd).sum(axis=1).mean())
    assert rate >= fresh.p_success[:, 2].mean() - 0.1
    assert cost < 0.8 * fresh.table.cost_usd[:, 2].mean()
    assert rate == pytest.approx(result.manifest["certificate"]["success_rate"], abs=0.04)


# What may decide the artifact


def test_test_rows_never_reach_the_artifact(
    table: OutcomeTable, trained: TrainResult, tmp_path: Path
) -> None:
    _, _, tests = roles(table)
    assert tests.any()
    rng = np.random.default_rng(0)
    success, cost, tokens = table.success.copy(), table.cost_usd.copy(), table.output_tokens.copy()
    success[tests] = rng.random(success[tests].shape)
    cost[tests] *= 1000
    tokens[tests] = 7
    cost[np.flatnonzero(tests)[0]] = np.nan  # not even a missing cost there stops it
    other = changed(table, success=success, cost_usd=cost, output_tokens=tokens)
    again = run(other, tmp_path)
    assert again.manifest["artifact_id"] == trained.manifest["artifact_id"]


def test_the_same_data_and_seed_give_the_same_artifact_and_another_seed_another(
    table: OutcomeTable, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"estimator": "mlp"}
    first = run(table, tmp_path / "a", **options)
    assert (
        run(table, tmp_path / "b", **options).manifest["artifact_id"]
        == (first.manifest["artifact_id"])
    )
    run(table, tmp_path / "c", seed=1, **options)
    a, c = load_artifact(tmp_path / "a").arrays, load_artifact(tmp_path / "c").arrays
    assert not np.array_equal(a["success.mlp.w1"], c["success.mlp.w1"])


def test_neither_the_order_nor_the_place_of_the_rows_matters(tmp_path: Path) -> None:
    # Every text three times, with outcomes of its own.
    table = changed(drawn(), query=np.repeat(drawn().query[:40], 3))
    outcomes = list(to_outcomes(table))
    ids = []
    for seed, folder in enumerate(("a", "b")):
        rows = [outcomes[i] for i in np.random.default_rng(seed).permutation(len(outcomes))]
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / f"log-{seed}.jsonl", rows)
        log_of = read_outcomes(tmp_path / folder / f"log-{seed}.jsonl", table.tiers)
        result = run(log_of, tmp_path / folder / "artifact", estimator="auto")
        ids.append(result.manifest["artifact_id"])
        assert str(tmp_path) not in (result.folder / "manifest.json").read_text()
    assert ids[0] == ids[1]


@pytest.mark.parametrize("estimator", ["logistic", "auto"])
def test_calibration_rows_are_used_for_nothing_but_the_certificate(
    table: OutcomeTable, tmp_path: Path, estimator: str
) -> None:
    _, calibrates, _ = roles(table)
    success, cost = table.success.copy(), table.cost_usd.copy()
    success[calibrates] = 1 - success[calibrates]
    cost[calibrates] *= 50
    tokens = table.output_tokens.copy()
    tokens[calibrates] *= 50
    other = changed(table, success=success, cost_usd=cost, output_tokens=tokens)
    before = run(table, tmp_path / "a", estimator=estimator).manifest
    after = run(other, tmp_path / "b", estimator=estimator).manifest

    a, b = load_artifact(tmp_path / "a").arrays, load_artifact(tmp_path / "b").arrays
    assert a.keys() == b.keys()
    differ = {name for name in a if not np.array_equal(a[name], b[name], equal_nan=True)}
    assert differ == {"calibration.success", "calibration.realised_cost_usd"}
    np.testing.assert_array_equal(b["calibration.success"], 1 - a["calibration.success"])

    keys = {name for name in before if before[name] != after[name]}
    assert keys <= {
        *("artifact_id", "created", "files", "training"),
        *("certificate", "policy", "floor_menu"),
    }
    assert before["certificate"] != after["certificate"]
    training = {n for n in before["training"] if before["training"][n] != after["training"][n]}
    assert training == {"fingerprint"}


def test_the_policy_is_chosen_with_the_means_of_the_fitting_rows(
    table: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They order the candidates, which must not depend on the rows that test them."""
    seen: list[dict[str, Any]] = []
    for name in ("choose_policy", "floor_menu"):
        function = getattr(pipeline, name)

        def spy(*arguments: Any, function: Any = function, **options: Any) -> Any:
            seen.append(options)
            return function(*arguments, **options)

        monkeypatch.setattr(pipeline, name, spy)
    manifest = run(table, tmp_path).manifest
    fits, _, _ = roles(table)
    fitted_cost = TierMeans.from_dict(manifest["training"]["tier_means"]).dollars(
        Router.load(tmp_path).predictor.cost
    )
    for options in seen:
        np.testing.assert_allclose(options["tier_success"], table.success[fits].mean(axis=0))
        # What is expected of all fitting rows, each from folds without it.
        np.testing.assert_allclose(options["tier_cost_usd"], fitted_cost)
    assert len(seen) == 2
    np.testing.assert_allclose(fitted_cost, table.cost_usd[fits].mean(axis=0), rtol=0.02)


@pytest.mark.parametrize("picked", ["logistic", "knn"])
def test_auto_serves_the_family_that_was_picked(
    picked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever has the better log-loss."""
    table = drawn()
    asked: list[dict[str, Rows]] = []

    def pick(objective: object, floor: object, candidates: dict[str, Rows], seed: int) -> Any:
        asked.append(candidates)
        return picked, dict.fromkeys(candidates, 0.5)

    monkeypatch.setattr(pipeline, "pick_family", pick)
    estimator = run(table, tmp_path, estimator="auto").manifest["estimator"]
    assert (estimator["family"], estimator["members"]) == (picked, [picked])
    (candidates,) = asked
    assert estimator["decision_values"] == dict.fromkeys(candidates, 0.5)
    # What they are compared by: predictions for rows that they did not see, and their outcomes.
    fits, _, _ = roles(table)
    assert "logistic" in candidates and "knn" in candidates
    for rows in candidates.values():
        assert sorted(rows.realised_cost_usd[:, 0]) == sorted(table.cost_usd[fits, 0])
        assert rows.success.shape == rows.p_success.shape == (fits.sum(), 3)


def test_copies_of_a_text_are_never_on_two_sides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = drawn(n=360)
    rng = np.random.default_rng(0)
    # Copies in other letter case and spacing, some of a text many times.
    texts = [base.query[i] for i in np.minimum(rng.geometric(0.02, 360), 300)]
    texts = [text.upper() if i % 3 else f"  {text} " for i, text in enumerate(texts)]
    table = changed(base, query=texts)
    seen: list[Inputs] = []
    fit_success = pipeline.fit_success

    def spy(data: Inputs, *arguments: Any, **options: Any) -> Any:
        seen.append(data)
        return fit_success(data, *arguments, **options)

    monkeypatch.setattr(pipeline, "fit_success", spy)
    run(table, tmp_path)

    fits, calibrates, tests = roles(table)
    texts_of = [set(query_hashes(table.query[rows]).tolist()) for rows in (fits, calibrates, tests)]
    assert all(texts_of)
    assert not texts_of[0] & texts_of[1]
    assert not (texts_of[0] | texts_of[1]) & texts_of[2]
    # Among the folds, in the order that training uses.
    (data,) = seen
    hashes = np.sort(query_hashes(table.query[fits]))
    assert len(np.unique(hashes)) < len(hashes) == len(data.fold)
    for one in np.unique(hashes):
        assert len(np.unique(data.fold[hashes == one])) == 1
    assert len(np.unique(data.fold)) == 5


def test_the_split_column_is_respected(table: OutcomeTable, tmp_path: Path) -> None:
    split = ["test" if i % 4 == 0 else "train" for i in range(300)]
    result = run(changed(table, split=split), tmp_path)
    training = result.manifest["training"]
    assert training["split"] == {"source": "column"}
    assert training["n_test"] == 75
    tested = {query_hashes([q])[0] for q, s in zip(table.query, split, strict=True) if s == "test"}
    learned = Router.load(tmp_path).trained_query_hashes
    assert not tested & set(learned)
    n_training = training["n_fitting"] + training["n_calibration"]
    assert training["n_left_out_as_leaked"] == 225 - n_training


def test_training_copies_of_test_texts_are_left_out_and_counted(
    table: OutcomeTable, trained: TrainResult, tmp_path: Path
) -> None:
    # Thirty rows more, marked as training rows, with the texts of test rows in other dress.
    texts = [f" {text.upper()}" for text in table.query[:30]]
    twice = {
        name: np.concatenate([getattr(table, name), getattr(table, name)[:30]])
        for name in COLUMNS
        if name not in ("query", "split", "request_id")
    }
    both = OutcomeTable.from_arrays(
        table.tiers,
        [*table.query, *texts],
        twice.pop("success"),
        twice.pop("cost_usd"),
        split=[*["test"] * 30, *["train"] * 300],
        request_id=[str(i) for i in range(330)],
        **twice,
    )
    result = run(both, tmp_path)
    originals = set(query_hashes(table.query[:30]).tolist())
    copies = 30 + sum(int(query_hashes([q])[0]) in originals for q in table.query[30:])
    assert result.manifest["training"]["n_left_out_as_leaked"] == copies
    assert trained.manifest["training"]["n_left_out_as_leaked"] == 0


# What was certified is what is served


@pytest.mark.parametrize(
    ("estimator", "n", "in_one_go", "one_by_one"),
    [
        ("logistic", 300, 1e-12, 1e-6),
        ("mlp", 300, 1e-12, 1e-6),
        # Similarities are float32, and among k neighbours only differences of them count.
        ("knn", 300, 1e-4, 1e-4),
        ("knn", 1500, 1e-4, 1e-4),
        ("blend", 300, 1e-4, 1e-4),
    ],
)
def test_served_predictions_are_those_that_were_certified(
    estimator: str, n: int, in_one_go: float, one_by_one: float, tmp_path: Path
) -> None:
    table = sample(make_world(), n, 0).table
    run(table, tmp_path, estimator=estimator)
    router = Router.load(tmp_path)
    stored = router.calibration
    _, calibrates, _ = roles(table)
    rows = np.flatnonzero(calibrates)
    ids, hashes = query_hashes(table.request_id[rows]), query_hashes(table.query[rows])
    rows = rows[np.lexsort((ids, hashes))]
    np.testing.assert_array_equal(stored.success, table.success[rows])
    np.testing.assert_array_equal(stored.realised_cost_usd, table.cost_usd[rows])

    queries = list(table.query[rows])
    served = router.predict(queries)
    np.testing.assert_allclose(served.p_success, stored.p_success, rtol=0, atol=in_one_go)
    np.testing.assert_allclose(served.cost_usd, stored.cost_usd, rtol=1e-9)
    np.testing.assert_array_equal(served.out_of_distribution, stored.out_of_distribution)
    dist = router.policy.action_dist(stored.p_success, stored.cost_usd, stored.out_of_distribution)
    np.testing.assert_array_equal(router.action_dist(served), dist)

    decisions = [router.route(query) for query in queries]
    p = np.array([list(decision.p_success.values()) for decision in decisions], dtype=float)
    cost = np.array([list(decision.cost_usd.values()) for decision in decisions], dtype=float)
    np.testing.assert_allclose(p, stored.p_success, rtol=0, atol=one_by_one)
    np.testing.assert_allclose(cost, stored.cost_usd, rtol=1e-5)
    names = np.array([table.tiers.index(decision.tier) for decision in decisions])
    assert (dist[np.arange(len(rows)), names] > 0).all()


def test_queries_unlike_the_training_ones_go_to_the_safe_tier(
    table: OutcomeTable, tmp_path: Path
) -> None:
    run(table, tmp_path, safe_tier="mid", objective=Objective("value", amount_usd=1e-9))
    router = Router.load(tmp_path)
    decision = router.route("民法と刑法の違い")
    assert (decision.reason, decision.tier) == ("out-of-distribution", "mid")
    # A success worth nothing: everything else goes to the cheapest tier.
    known = [router.route(query) for query in table.query]
    assert {(d.reason, d.tier) for d in known} >= {("policy", "nano")}
    assert sum(d.reason == "policy" for d in known) > 280


def test_without_a_limit_on_similarity_only_scripts_and_words_are_strange(
    table: OutcomeTable, tmp_path: Path
) -> None:
    # An emoji is nothing to the token table, and one word tells no language.
    emoji, foreign = "🙂", "民法と刑法の違い"
    greeting, german = "qwertz", "Bitte schreibe deiner Vermieterin einen kurzen Brief"
    reasons = []
    for name, limited in (("with", True), ("without", False)):
        run(table, tmp_path / name, similarity_limit=limited)
        router = Router.load(tmp_path / name)
        reasons.append([router.route(text).reason for text in (emoji, greeting, foreign, german)])
    assert reasons == [
        ["out-of-distribution"] * 4,
        ["policy"] * 2 + ["out-of-distribution"] * 2,
    ]


# Objectives and options


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (Objective(rate=0.7), None),
        (Objective(relative_to="mid", margin=-0.05), None),
        (Objective("value", amount_usd=0.01), "value"),
        (Objective("budget", amount_usd=0.001), "value"),
        (Objective("min-cps"), "value"),
    ],
)
def test_every_objective_ends_in_a_router(
    objective: Objective, kind: str | None, table: OutcomeTable, tmp_path: Path
) -> None:
    result = run(table, tmp_path, objective=objective)
    assert result.manifest["objective"] == objective.describe()
    assert (result.manifest["certificate"] is None) == (kind is not None)
    policy = result.manifest["policy"]
    if kind is not None:
        assert policy["kind"] == kind
    if objective.kind == "value":
        assert policy["success_value_usd"] == 0.01
    router = Router.load(tmp_path)
    rows = router.calibration
    if objective.kind == "budget":
        expected = replace(rows, realised_cost_usd=rows.cost_usd)
        assert expected.played(router.policy)[1].mean() <= 0.001
    assert bool(result.warnings) == (objective.kind == "min-cps")


def test_a_floor_out_of_reach_is_said(table: OutcomeTable, tmp_path: Path) -> None:
    result = run(table, tmp_path, objective=Objective(rate=0.999))
    (warning,) = result.warnings
    assert "could not be certified" in warning
    assert not Router.load(tmp_path).route("What is 3 + 4?").certified


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"estimator": "forest"},
            "among auto, ridge, logistic, knn, mlp, blend, task, ridge-task, got 'forest'",
        ),
        ({"confidence": 0.3}, "a confidence from 0.5 to 1, got 0.3"),
        ({"confidence": 1.0}, "a confidence from 0.5 to 1, got 1"),
        ({"confidence": math.nan}, "a confidence from 0.5 to 1, got nan"),
        ({"safe_tier": "medium"}, "got 'medium': use one of nano, mid, frontier"),
        ({"objective": Objective(relative_to="best")}, "got 'best': use one of nano, mid"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    options: dict[str, Any],
    says: str,
    table: OutcomeTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(name: object) -> Any:
        raise AssertionError("an embedder was opened")

    monkeypatch.setattr(package, "open_embedder", work)
    with pytest.raises(InputError) as caught:
        run(table, tmp_path / "artifact", **options)
    assert says in str(caught.value)
    assert not (tmp_path / "artifact").exists()


def test_a_failed_training_leaves_the_old_artifact(
    table: OutcomeTable, trained: TrainResult, tmp_path: Path
) -> None:
    run(table, tmp_path)
    with pytest.raises(InputError):
        run(table, tmp_path, objective=Objective("budget", amount_usd=1e-12))
    assert Router.load(tmp_path).artifact_id == trained.manifest["artifact_id"]


def test_every_stage_is_announced(table: OutcomeTable, tmp_path: Path) -> None:
    said: list[str] = []
    run(table, tmp_path, on_progress=said.append)
    assert [stage.split()[0] for stage in said] == [
        *("embedding", "fitting", "fitting", "certifying", "writing"),
    ]


def test_auto_takes_a_family_by_its_decision_value(table: OutcomeTable, tmp_path: Path) -> None:
    manifest = run(table, tmp_path, estimator="auto").manifest
    values = manifest["estimator"]["decision_values"]
    assert list(values) == sorted(AUTO_FAMILIES_WITH_TASKS)  # as JSON sorts them
    family = manifest["estimator"]["family"]
    assert family in values
    # What is linear in the same inputs is one member.
    linear = {"task": "ridge"}
    members = dict.fromkeys(linear.get(kind, kind) for kind in FAMILIES[family])
    assert manifest["estimator"]["members"] == list(members)


# Feedback that is not full


def test_requests_of_some_tiers_are_told_what_they_lack(tmp_path: Path) -> None:
    outcomes = sample(make_world(), 400, 0)
    success = outcomes.table.success.copy()
    success[np.arange(400), np.arange(400) % 3] = np.nan
    two_of_three = changed(outcomes.table, success=success, observed=np.isfinite(success))
    with pytest.raises(InputError) as caught:
        run(two_of_three, tmp_path / "artifact")
    message = str(caught.value)
    assert "the outcome of every tier (nano, mid, frontier), got 0 of" in message
    assert "run the same queries on every tier" in message
    assert not (tmp_path / "artifact").exists()


def test_incomplete_requests_help_to_fit_but_are_neither_compared_nor_certified(
    table: OutcomeTable, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    observed = rng.random((300, 3)) < 0.6
    observed[:120] = True
    fits, calibrates, _ = roles(table)
    partly = changed(
        table,
        success=np.where(observed, table.success, np.nan),
        observed=observed,
    )
    result = run(partly, tmp_path, estimator="blend")
    training = result.manifest["training"]
    complete = observed.all(axis=1)
    assert 0 < complete.sum() < 300
    assert training["n_fitting"] == fits.sum()
    assert training["n_calibration"] == (calibrates & complete).sum()
    np.testing.assert_allclose(
        training["tier_success"], table.success[fits & complete].mean(axis=0)
    )
    rows = Router.load(tmp_path).calibration
    assert np.isfinite(rows.success).all() and np.isfinite(rows.realised_cost_usd).all()
    # An outcome of an incomplete request is learned from.
    alone = partly.take(complete | ~fits)
    run(alone, tmp_path / "alone", estimator="blend")
    a, b = load_artifact(tmp_path).arrays, load_artifact(tmp_path / "alone").arrays
    assert not np.array_equal(a["success.ridge.weight"], b["success.ridge.weight"])


def test_outcomes_of_models_that_are_no_tier_are_learned_from_and_nothing_else(
    table: OutcomeTable, tmp_path: Path
) -> None:
    others = np.random.default_rng(0).random((300, 4)).round()
    others[:200, 0] = np.nan
    more = changed(table, other_success=others)
    plain = run(table, tmp_path / "plain", estimator="ridge").manifest
    mixed = run(more, tmp_path / "mixed", estimator="ridge").manifest
    a, b = (load_artifact(tmp_path / name).arrays for name in ("plain", "mixed"))
    differ = {name for name in a if not np.array_equal(a[name], b[name], equal_nan=True)}
    assert {"success.ridge.weight", "success.ridge.bias"} <= differ
    # Success and what depends on it: no cost, no reference, no row.
    assert not [
        name for name in differ if not name.startswith(("success.", "calibration.p_", "esc"))
    ]
    for name in ("tier_success", "tier_means", "n_fitting", "n_calibration", "n_test"):
        assert plain["training"][name] == mixed["training"][name]


def test_a_missing_cost_is_an_error_that_counts_them(table: OutcomeTable, tmp_path: Path) -> None:
    fits, _, _ = roles(table)
    cost = table.cost_usd.copy()
    cost[np.flatnonzero(fits)[:3], 1] = np.nan
    with pytest.raises(InputError, match=r"expected a cost for every outcome.*mid 3"):
        run(changed(table, cost_usd=cost), tmp_path)


# Awkward data


N_AWKWARD = 120


def drawn(n_tiers: int = 3, n: int = N_AWKWARD) -> OutcomeTable:
    return sample(make_world(n_tiers), n, 0).table


def asking(ask: Callable[[int, str], str]) -> OutcomeTable:
    table = drawn()
    return changed(table, query=[ask(i, query) for i, query in enumerate(table.query)])


def with_success(success: npt.ArrayLike) -> OutcomeTable:
    return changed(drawn(), success=np.broadcast_to(success, (N_AWKWARD, 3)))


def costing(change: Callable[[FloatArray], npt.ArrayLike]) -> OutcomeTable:
    """Dollars only, without tokens."""
    table = drawn()
    cost = np.broadcast_to(change(table.cost_usd), (N_AWKWARD, 3))
    return changed(table, cost_usd=cost, input_tokens=None, output_tokens=None)


AWKWARD: dict[str, Callable[[], OutcomeTable]] = {
    "1 tier": lambda: drawn(1),
    "2 tiers": lambda: drawn(2),
    "9 tiers": lambda: drawn(9),
    "60 rows": lambda: drawn(n=60),
    "43 rows": lambda: drawn(n=43),
    "all succeed": lambda: with_success(1.0),
    "none succeeds": lambda: with_success(0.0),
    "one tier never succeeds": lambda: with_success(drawn().success * [0, 1, 1]),
    "one success of each tier": lambda: with_success(np.eye(N_AWKWARD, 3)),
    "success is fractional": lambda: with_success(
        np.random.default_rng(0).random((N_AWKWARD, 3)).round(2)
    ),
    "success is always a half": lambda: with_success(0.5),
    "costs are equal": lambda: costing(lambda cost: 0.01),
    "everything is free": lambda: costing(lambda cost: 0.0),
    "one tier is free": lambda: costing(lambda cost: cost * [0, 1, 1]),
    "the cheapest tier is the best": lambda: costing(lambda cost: cost[:, ::-1]),
    "fifteen texts": lambda: asking(lambda i, query: f"question {i % 15}"),
    "many queries are empty": lambda: asking(lambda i, query: query if i % 3 else ""),
    "nothing can be read": lambda: asking(lambda i, query: "\x01" * (i + 1)),
    "lone surrogates": lambda: asking(lambda i, query: f"{query} \ud800"),
    "very long queries": lambda: asking(lambda i, query: f"{query} " * 200),
}


@pytest.mark.parametrize("name", list(AWKWARD))
def test_awkward_data_end_in_a_router_that_routes(name: str, tmp_path: Path) -> None:
    table = AWKWARD[name]()
    manifest = run(table, tmp_path, estimator="auto").manifest
    assert manifest["training"]["n_fitting"] > 10
    router = Router.load(tmp_path)
    predicted = router.predict(list(table.query[:50]))
    assert ((predicted.p_success > 0) & (predicted.p_success < 1)).all()
    assert np.isfinite(predicted.cost_usd).all() and (predicted.cost_usd >= 0).all()
    decision = router.route("Summarise this in one sentence: the shop opens at nine.")
    assert decision.tier in table.tiers.names
    assert set(router.plan("")) <= set(table.tiers.names)
    # By default the floor is relative to the strongest tier, which itself always meets it.
    assert manifest["certificate"]["certified"]
    report = evaluate(router, table, n_bootstrap=0)
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("texts", "split", "says"),
    [
        (["the same text"], "train", "got 1 different texts in 120 training requests"),
        ([""], "train", "got 1 different texts in 120 training requests"),
        (["one", "two"], "train", "got 2 different texts in 120 training requests"),
        (["the same text"], None, "got 1 different texts in 120 training requests"),
        ([f"question {i}" for i in range(120)], "test", "expected training requests, got none"),
    ],
)
def test_too_few_texts_to_divide_are_told_so(
    texts: list[str], split: str | None, says: str, tmp_path: Path
) -> None:
    table = asking(lambda i, query: texts[i % len(texts)])
    with pytest.raises(InputError) as caught:
        run(changed(table, split=[split] * N_AWKWARD), tmp_path / "artifact")
    assert says in str(caught.value)
    assert not (tmp_path / "artifact").exists()


def test_too_few_complete_requests_are_counted(tmp_path: Path) -> None:
    few = changed(drawn(), split=["train"] * 29 + ["test"] * (N_AWKWARD - 29))
    with pytest.raises(InputError, match=r"at least 30 training requests.*got (2\d) of \1"):
        run(few, tmp_path)


def test_a_price_that_the_log_contradicts_is_a_warning(table: OutcomeTable, tmp_path: Path) -> None:
    result = run(changed(table, cost_usd=table.cost_usd * [1, 1, 2]), tmp_path)
    (warning,) = result.warnings
    assert warning.startswith("frontier: ")
    assert result.manifest["prices"]["priced_over_logged"] == [
        pytest.approx(1),
        pytest.approx(1),
        pytest.approx(0.5),
    ]


def test_a_key_signs_the_artifact(table: OutcomeTable, tmp_path: Path) -> None:
    result = run(table, tmp_path, key="secret")
    assert result.manifest["signature"]
    assert Router.load(tmp_path, key="secret").artifact_id == result.manifest["artifact_id"]


# The contextual encoder


def contextual_table(n: int) -> OutcomeTable:
    """Two tiers without prices of their own."""
    table = drawn(2, n)
    tiers = TierSet([Tier("small", "p", "m-s"), Tier("large", "p", "m-l")])
    return OutcomeTable.from_arrays(tiers, table.query, table.success, table.cost_usd)


@pytest.mark.slow
@pytest.mark.network
def test_a_router_on_the_contextual_encoder(tmp_path: Path) -> None:
    folder = minilm_folder()
    table = contextual_table(80)
    result = run(table, tmp_path, embedder=folder, estimator="blend")
    manifest = result.manifest
    assert manifest["embedder"]["kind"] == "sentence-transformers"
    assert manifest["embedder"]["dimension"] == 384
    # The artifact carries no weights of it.
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 3_000_000
    router = Router.load(tmp_path)
    _, calibrates, _ = roles(table)
    served = router.predict(sorted(table.query[calibrates], key=lambda q: query_hashes([q])[0]))
    np.testing.assert_allclose(served.p_success, router.calibration.p_success, atol=1e-3)
    decision = router.route("Translate into Spanish: where is the station?")
    assert decision.tier in ("small", "large")
    assert evaluate(router, table, n_bootstrap=0).counts.n_requests > 0


@pytest.mark.slow
def test_other_weights_than_those_trained_with_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "encoder"
    tiny_encoder(weights, seed=0)
    run(contextual_table(60), tmp_path / "artifact", embedder=weights)
    assert Router.load(tmp_path / "artifact").route("why the cat sat?").tier
    for path in sorted(weights.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tiny_encoder(weights, seed=1)
    router = Router.load(tmp_path / "artifact")
    with pytest.raises(EmbeddingError, match="that the router was trained with, got others"):
        router.route("why the cat sat?")


# Experiment tracking


@pytest.mark.slow
def test_a_tracked_run_holds_parameters_metrics_and_the_artifact(
    table: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = run(table, tmp_path / "artifact", track=True, name="log.jsonl", seed=3)
    assert result.run is not None
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    logged = client.get_run(result.run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["estimator"] == "logistic"
    assert logged.data.params["seed"] == "3"
    assert logged.data.params["objective"] == result.manifest["objective"]
    assert logged.data.params["policy"] == result.manifest["policy"]["description"]
    for name, value in result.manifest["metrics"].items():
        assert logged.data.metrics[name] == pytest.approx(value)
    rate = result.manifest["certificate"]["success_rate"]
    assert logged.data.metrics["calibration.success_rate"] == pytest.approx(rate)
    got = Path(client.download_artifacts(result.run.run_id, "artifact", str(tmp_path)))
    assert Router.load(got).artifact_id == result.manifest["artifact_id"]


def test_an_untracked_run_leaves_nothing_but_the_artifact(
    table: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(table, tmp_path / "artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
