"""Training on logged feedback: what the log chose, what stands for outcomes, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ArtifactError, InputError
from router.exploration import Exploration
from router.keyword import KeywordRouter
from router.routing import Router
from router.selection import CalibrationRows
from router.support import (
    MIN_PROPENSITY,
    KeywordSupport,
    LinearSupport,
    Support,
    keyword_places,
    support_from_arrays,
    tried,
)
from router.tiers import TierSet
from tests.artifacts import resave, tiny_embedder, train_tiny
from training.drift import _training as find_training
from training.evaluate import _Calibration
from training.logging_policy import (
    MAX_WEIGHT,
    Choices,
    as_logged,
    is_logged,
    read_logging_policy,
)
from training.pipeline import TrainResult
from training.propensity import not_adding_up
from training.report_text import training_text
from training.search import CONFINED, Objective
from training.synthetic import (
    SyntheticOutcomes,
    keyword_policy,
    log,
    make_world,
    sample,
    softmax_policy,
    uniform_policy,
)
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
N = 900


@pytest.fixture(scope="module")
def outcomes() -> SyntheticOutcomes:
    return sample(make_world(), N, 5)


def without_propensity(table: OutcomeTable) -> OutcomeTable:
    return replace(table, propensity=np.full(table.propensity.shape, np.nan))


def trained(table: OutcomeTable, folder: Path, **options: object) -> TrainResult:
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    settings: dict[str, object] = {"estimator": "ridge", "warm_start": False, **options}
    return train_tiny(table, folder / "router", embedder, **settings)  # type: ignore[arg-type]


# What is a log


def test_most_requests_of_one_tier_make_a_log(outcomes: SyntheticOutcomes) -> None:
    full, logged = outcomes.table, log(outcomes, uniform_policy(outcomes), 0)
    assert not is_logged(full) and is_logged(logged)
    mixed = np.where((np.arange(N) % 2 == 0)[:, None], full.observed, logged.observed)
    assert not is_logged(replace(full, observed=mixed))
    mixed = np.where((np.arange(N) % 3 == 0)[:, None], full.observed, logged.observed)
    assert is_logged(replace(full, observed=mixed))


def test_a_log_of_a_single_tier_is_full_feedback() -> None:
    tiers = TierSet.from_dicts([{"name": "only", "provider": "p", "model": "m"}])
    assert not is_logged(OutcomeTable.from_arrays(tiers, ["a"], [[1.0]], [[0.1]]))


def test_of_several_outcomes_the_recorded_choice_counts_and_else_none(
    outcomes: SyntheticOutcomes,
) -> None:
    table = outcomes.table.take([0, 1, 2, 3])
    observed = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=bool)
    propensity = np.full((4, 3), np.nan)
    propensity[2, 1] = 0.2
    propensity[3, 1:] = 0.5, 0.5
    logged, n_left_out = as_logged(replace(table, observed=observed, propensity=propensity))
    assert n_left_out == 2
    assert logged.request_id.tolist() == [table.request_id[0], table.request_id[2]]
    assert logged.observed.tolist() == [[True, False, False], [False, True, False]]
    assert np.isfinite(logged.success).tolist() == logged.observed.tolist()
    assert np.isfinite(logged.cost_usd).tolist() == logged.observed.tolist()
    assert logged.propensity[1, 1] == 0.2


# Pseudo-outcomes


def test_a_pseudo_outcome_by_hand() -> None:
    choices = Choices(
        np.array([1]), np.array([0.25]), np.ones((1, 2), bool), np.array([4.0]), n_clipped=0
    )
    found = choices.pseudo_outcomes(np.array([[np.nan, 1.0]]), np.array([[0.3, 0.5]]))
    assert found.tolist() == [[0.3, 0.5 + 4.0 * 0.5]]


@given(st.integers(0, 2**32 - 1))
def test_pseudo_outcomes_average_to_the_truth_whatever_was_predicted(seed: int) -> None:
    """Over the choice of the log, exactly: each tier by its propensity."""
    rng = np.random.default_rng(seed)
    chance, outcome = rng.dirichlet(np.ones(3) * 3) * 0.9 + 0.1 / 3, rng.random((1, 3))
    q = rng.random((1, 3))
    mean = np.zeros((1, 3))
    for tier in range(3):
        weight = 1.0 / chance[[tier]]
        choices = Choices(np.array([tier]), chance[[tier]], np.ones((1, 3), bool), weight, 0)
        mean += chance[tier] * choices.pseudo_outcomes(outcome, q)
    np.testing.assert_allclose(mean, outcome, atol=1e-9)


# Propensities and what was tried


def read(
    table: OutcomeTable, x: FloatArray | None = None
) -> tuple[object, npt.NDArray[np.bool_], Support | None]:
    x = np.random.default_rng(0).normal(size=(N, 3)) if x is None else x
    half = N // 2
    policy = read_logging_policy(
        table.take(np.arange(half)),
        table.take(np.arange(half, N)),
        (x[:half], x[half:]),
        np.arange(half) % 5,
    )
    return policy, policy.held.tried, policy.support


def test_recorded_propensities_of_an_exploring_log_support_everything(
    outcomes: SyntheticOutcomes,
) -> None:
    policy, was_tried, support = read(log(outcomes, keyword_policy(outcomes, epsilon=0.3), 1))
    assert support is None and was_tried.all()
    assert policy.to_dict()["propensity"] == "recorded"  # type: ignore[attr-defined]
    assert not policy.approximate and policy.share_confined == 0.0  # type: ignore[attr-defined]
    assert policy.max_weight == pytest.approx(10.0, rel=0.2)  # type: ignore[attr-defined]
    assert policy.max_weight >= 10.0 - 1e-9  # type: ignore[attr-defined]
    assert policy.sentences == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_keyword_log_supports_exactly_what_the_rule_says(
    recorded: bool, outcomes: SyntheticOutcomes
) -> None:
    rule = keyword_policy(outcomes)
    table = log(outcomes, rule, 1)
    policy, was_tried, support = read(table if recorded else without_propensity(table))
    assert isinstance(support, KeywordSupport)
    np.testing.assert_array_equal(was_tried, rule[N // 2 :] > 0)
    assert policy.share_confined == 1.0  # type: ignore[attr-defined]
    assert policy.approximate is not recorded  # type: ignore[attr-defined]
    assert policy.max_weight == 1.0  # type: ignore[attr-defined]
    assert any("never tried" in said for said in policy.sentences)  # type: ignore[attr-defined]


def test_another_rule_is_read_off_the_inputs(outcomes: SyntheticOutcomes) -> None:
    x = np.random.default_rng(0).normal(size=(N, 3))
    rule = np.zeros((N, 3))
    rule[np.arange(N), np.where(x[:, 0] > 0, 2, 0)] = 1.0
    _, was_tried, support = read(without_propensity(log(outcomes, rule, 1)), x)
    assert isinstance(support, LinearSupport)
    clear = np.abs(x[N // 2 :, 0]) > 0.3
    np.testing.assert_array_equal(was_tried[clear], rule[N // 2 :][clear] > 0)


def test_rare_recorded_choices_are_clipped_and_said_to_be(outcomes: SyntheticOutcomes) -> None:
    table = log(outcomes, uniform_policy(outcomes), 1)
    propensity = table.propensity.copy()
    rare = N // 2 + 3
    propensity[rare, table.observed[rare]] = 1e-4
    policy, _, _ = read(replace(table, propensity=propensity))
    assert policy.approximate and policy.held.n_clipped == 1  # type: ignore[attr-defined]
    assert policy.held.weight.max() == policy.max_weight < MAX_WEIGHT  # type: ignore[attr-defined]
    assert any("clipped" in said for said in policy.sentences)  # type: ignore[attr-defined]


# Support in the artifact


def supports() -> list[Support]:
    rng = np.random.default_rng(0)
    linear = LinearSupport(
        rng.normal(size=(4, 3)), rng.normal(size=3), 0.5, 0.06, np.array([True, True, False])
    )
    return [linear, KeywordSupport(np.eye(3))]


@pytest.mark.parametrize("support", supports())
def test_support_survives_the_artifact(support: Support) -> None:
    again = support_from_arrays(support.to_arrays(), 4, 3)
    texts, dense = ["hi", "Explain the algorithm step by step"], np.ones((2, 4))
    assert again is not None
    expected = support.propensities(texts, dense)
    np.testing.assert_array_equal(again.propensities(texts, dense), expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0)
    assert support_from_arrays({}, 4, 3) is None


@pytest.mark.parametrize("support", supports())
def test_support_that_does_not_fit_is_refused(support: Support) -> None:
    arrays = support.to_arrays()
    for name, array in arrays.items():
        for broken in (array[..., :-1] if array.ndim else array * np.nan, array.astype("S8")):
            with pytest.raises(ArtifactError, match="tried"):
                support_from_arrays({**arrays, name: broken}, 4, 3)
    with pytest.raises(ArtifactError, match="tried"):
        support_from_arrays({**arrays, "support.more": np.ones(1)}, 4, 3)
    if isinstance(support, LinearSupport):
        with pytest.raises(ArtifactError, match="tried"):
            support_from_arrays(arrays, 5, 3)
        # Logits over this are no numbers.
        with pytest.raises(ArtifactError, match="tried"):
            support_from_arrays({**arrays, "support.temperature": np.array(1e-300)}, 4, 3)


def test_an_unused_tier_is_never_tried_and_the_likeliest_always_is() -> None:
    linear = supports()[0]
    p = linear.propensities(["x"] * 50, np.random.default_rng(1).normal(size=(50, 4)) * 9)
    assert (p[:, 2] == 0).all()
    found = tried(np.array([[0.005, 0.004, 0.001], [MIN_PROPENSITY, 0.5, 0.0]]))
    assert found.tolist() == [[True, False, False], [True, True, False]]


def test_places_are_those_of_the_keyword_heuristic() -> None:
    texts = ["What is 2 + 2?", "Analyze and design a distributed algorithm, prove it step by step"]
    names = ("a", "b", "c")
    heuristic = KeywordRouter.for_tiers(names)
    found = keyword_places(texts, 3)
    assert [names[place] for place in found] == [heuristic.tier_of(text) for text in texts]


# The whole way


@pytest.mark.parametrize("kind", ["uniform", "epsilon keyword", "softmax"])
def test_a_log_trains_a_router(kind: str, outcomes: SyntheticOutcomes, tmp_path: Path) -> None:
    chance = {
        "uniform": uniform_policy,
        "epsilon keyword": lambda o: keyword_policy(o, epsilon=0.5),
        "softmax": softmax_policy,
    }[kind](outcomes)
    table = log(outcomes, chance, 2)
    result = trained(table, tmp_path, objective=Objective(margin=-0.2))
    feedback = result.manifest["feedback"]
    assert (feedback["kind"], feedback["propensity"]) == ("logged", "recorded")
    assert not feedback["approximate"] and feedback["share_confined"] == 0.0
    assert 0 < feedback["effective_sample_size"] <= result.manifest["training"]["n_calibration"]
    router = Router.load(tmp_path / "router")
    assert router.calibration.max_weight == feedback["max_weight"] > 1.0
    assert router.calibration.tried is None
    # Means of the tiers as if every one had been asked everything.
    training = result.manifest["training"]
    np.testing.assert_allclose(training["tier_success"], outcomes.table.success.mean(0), atol=0.12)
    decision = router.route("What is the capital of France?")
    assert decision.propensity == 1.0 and decision.tier in router.tiers.names
    # Prices changed: tested again from what the artifact carries.
    dearer = router.repriced(np.array([9.0, 9.0, 9.0]), np.array([99.0, 99.0, 99.0]))
    assert dearer.certificate is not None and router.certificate is not None
    assert dearer.certificate.floor == router.certificate.floor


def test_a_deterministic_log_is_kept_to_where_nothing_else_was_tried(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    rule = keyword_policy(outcomes)
    result = trained(log(outcomes, rule, 2), tmp_path, objective=Objective("value", amount_usd=1.0))
    assert result.manifest["feedback"]["share_confined"] == 1.0
    assert any("never tried" in said for said in result.warnings)
    router = Router.load(tmp_path / "router")
    queries = list(outcomes.table.query)
    chosen = rule.argmax(axis=1)
    names = router.tiers.names
    assert [d.tier for d in router.route_many(queries)] == [names[t] for t in chosen]
    assert [router.route(q).tier for q in queries[:40]] == [names[t] for t in chosen[:40]]
    assert [router.plan(q) for q in queries[:40]] == [[names[t]] for t in chosen[:40]]
    predicted = router.predict(queries)
    assert predicted.tried is not None
    np.testing.assert_array_equal(router.action_dist(predicted), rule)
    # An outage leaves a choice that nothing is known of; it is made, and said to be a fallback.
    away = router.route(queries[0], exclude=[names[chosen[0]]])
    assert away.tier != names[chosen[0]] and away.reason == "fallback" and not away.certified


def test_a_floor_relative_to_a_tier_that_was_not_tried_everywhere_cannot_be_tested(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    result = trained(log(outcomes, keyword_policy(outcomes), 2), tmp_path)
    certificate = result.manifest["certificate"]
    assert not certificate["certified"] and certificate["rows_needed"] is None
    assert "never tried the tier that the floor is relative to" in certificate["sentence"]
    assert "explore" in certificate["sentence"]
    assert result.manifest["policy"]["description"].endswith(CONFINED)
    text = training_text(result)
    assert "a log of one tier's outcome per request, propensities recorded" in text
    assert "(one tier's outcome per request)" in (tmp_path / "router/MODEL_CARD.md").read_text()


def test_a_log_without_propensities_certifies_nothing(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    table = without_propensity(log(outcomes, uniform_policy(outcomes), 2))
    result = trained(table, tmp_path, objective=Objective(rate=0.3))
    certificate = result.manifest["certificate"]
    assert not certificate["certified"]
    assert "estimated" in certificate["sentence"] and "record" in certificate["sentence"]
    assert any("estimated" in said for said in result.warnings)
    router = Router.load(tmp_path / "router")
    dearer = router.repriced(np.array([9.0, 9.0, 9.0]), np.array([99.0, 99.0, 99.0]))
    for other in (router, dearer, router.exploring(Exploration(0.1)), dearer.exploring(None)):
        assert not other.route("hello").certified
        assert other.certificate is not None and not other.certificate.certified


def test_a_calibration_row_without_a_tier_is_refused(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    trained(log(outcomes, keyword_policy(outcomes), 2), tmp_path)

    tried_there = Router.load(tmp_path / "router").calibration.tried
    assert tried_there is not None
    none = {"calibration.tried": np.zeros(tried_there.shape, np.uint8)}
    with pytest.raises(ArtifactError, match="calibration rows"):
        Router.load(resave(tmp_path / "router", tmp_path / "other", arrays=none))


def test_a_log_that_says_too_little_says_so(outcomes: SyntheticOutcomes, tmp_path: Path) -> None:
    table = log(outcomes, keyword_policy(outcomes, epsilon=0.05), 2)
    result = trained(table, tmp_path)
    assert any("effective sample" in said for said in result.warnings)


def test_what_a_log_must_have(outcomes: SyntheticOutcomes, tmp_path: Path) -> None:
    table = log(outcomes, uniform_policy(outcomes), 2)
    with pytest.raises(InputError, match="at least 30 training requests"):
        trained(table.take(np.arange(20)), tmp_path)
    with pytest.raises(InputError, match=r"among ridge, logistic, .* got knn"):
        trained(table, tmp_path, estimator="knn")
    seen = table.observed & (np.arange(3) < 2)
    two = replace(
        table,
        observed=seen,
        success=np.where(seen, table.success, np.nan),
        cost_usd=np.where(seen, table.cost_usd, np.nan),
        input_tokens=np.where(seen, table.input_tokens, np.nan),
        output_tokens=np.where(seen, table.output_tokens, np.nan),
    )
    with pytest.raises(InputError, match="got none for frontier: log outcomes of it or drop it"):
        trained(two.take(seen.any(axis=1)), tmp_path)


# What recorded propensities leave out


def logged_by(
    outcomes: SyntheticOutcomes, dist: FloatArray, seed: int = 0
) -> Callable[[Path], TrainResult]:
    """A function from a folder to what training says of the log that ``dist`` (n, T) made."""
    table = log(outcomes, dist, seed)
    floor = Objective(rate=0.3)
    return lambda folder: trained(table, folder, objective=floor)


def test_a_tier_without_a_chance_on_some_requests_is_never_certified(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    # Which half has two tiers only is nothing that a query shows, and no propensity is 1.
    dist = uniform_policy(outcomes)
    n_tiers = dist.shape[1]
    dist[::2] = np.append(np.full(n_tiers - 1, 1 / (n_tiers - 1)), 0.0)
    found = logged_by(outcomes, dist)(tmp_path)
    assert any("do not add up" in warning for warning in found.warnings)
    assert found.manifest["feedback"]["approximate"]
    assert not any(row["certified"] for row in found.manifest["floor_menu"])
    assert not Router.load(found.folder).route("anything").certified


def test_a_propensity_of_1_leaves_nothing_to_certify_for_other_tiers(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    dist = uniform_policy(outcomes)
    dist[::2] = np.eye(dist.shape[1])[1]
    found = logged_by(outcomes, dist)(tmp_path)
    assert any("a propensity of 1 left" in warning for warning in found.warnings)
    assert found.manifest["feedback"]["approximate"]
    assert not found.manifest["certificate"]["certified"]


@pytest.mark.parametrize("seed", range(5))
def test_right_propensities_add_up(outcomes: SyntheticOutcomes, seed: int) -> None:
    for dist in (
        uniform_policy(outcomes),
        softmax_policy(outcomes),
        keyword_policy(outcomes, epsilon=0.1),
    ):
        tier = log(outcomes, dist, seed).observed.argmax(axis=1)
        assert not_adding_up(tier, dist[np.arange(N), tier], np.arange(N)) == []


def test_few_rows_of_one_tier_do_not_say_that_propensities_are_wrong() -> None:
    tier, text = np.zeros(40, np.int64), np.arange(40)
    assert not_adding_up(tier, np.full(40, 0.95), text) == []
    assert not_adding_up(tier, np.full(40, 0.2), text) == [0]
    assert not_adding_up(tier, np.full(40, 5e-324), text) == [0]
    # Copies of one text are one observation.
    assert not_adding_up(tier, np.full(40, 0.2), np.zeros(40)) == []


def test_tried_tiers_count_wherever_calibration_rows_are_played(
    outcomes: SyntheticOutcomes, tmp_path: Path
) -> None:
    # A keyword rule leaves most queries one tier: what drift and evaluation expect keeps to it.
    found = trained(
        without_propensity(log(outcomes, keyword_policy(outcomes), 0)),
        tmp_path,
        objective=Objective("value", amount_usd=0.5),
    )
    router = Router.load(found.folder)
    rows = router.calibration
    assert rows.tried is not None and not rows.tried.all()
    for dist in (find_training(router).dist, _Calibration.of(router).dist):
        assert not dist[~rows.tried].any()
    assert (rows.n_outcomes < len(rows)).any() or rows.max_weight == 1.0


def test_pseudo_outcomes_of_tiers_that_were_not_called_count_for_none() -> None:
    p, called = np.full((4, 2), 0.5), np.array([0, 0, 1, 0])
    success = p.copy()
    success[np.arange(4), called] = [2.0, -1.0, 1.25, 0.75]
    rows = CalibrationRows(p, p, success, p, np.zeros(4, bool), max_weight=3.0)
    assert rows.n_outcomes.tolist() == [3, 1]
    assert replace(rows, max_weight=1.0).n_outcomes.tolist() == [4, 4]
