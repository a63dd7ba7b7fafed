"""Propensities estimated from a log, and the region where a tier was never tried."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from router.errors import InputError
from router.keyword import KeywordRouter
from training import propensity
from training.importance import Logged, supported_by_log
from training.offpolicy import QValues, evaluate_policy
from training.propensity import (
    fit_propensity,
    overlap,
    overlap_table,
    propensity_by_stratum,
    softmax,
)
from training.synthetic import SyntheticOutcomes, keyword_policy, log, make_world, sample

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
N_FOLDS = 5


def draw(chances: FloatArray, seed: int) -> IntArray:
    uniform = np.random.default_rng([seed, 1]).random((len(chances), 1))
    tier: IntArray = (uniform < chances.cumsum(axis=1)).argmax(axis=1).astype(np.int64)
    return tier


def linear_log(n: int, seed: int, n_tiers: int = 3) -> tuple[FloatArray, FloatArray]:
    """Inputs and the propensities of a logging policy that is linear in their logits."""
    rng = np.random.default_rng(seed)
    spread = np.array([1, 1, 1, 1, 10, 0.1])
    z = rng.standard_normal((n, 6))
    return z * spread, softmax(0.7 * z @ np.random.default_rng(0).standard_normal((6, n_tiers)))


def folds(n: int) -> IntArray:
    return np.arange(n) % N_FOLDS


# ---------------------------------------------------------------- the linear model


def test_a_linear_logging_policy_is_found() -> None:
    x, truth = linear_log(4000, 1)
    found = fit_propensity(x, draw(truth, 1), 3, folds(4000))
    assert np.allclose(found.values.sum(axis=1), 1.0)
    assert (found.values > 0).all()
    assert np.abs(found.values - truth).mean() < 0.02
    assert found.calibration_error < 0.03
    assert "estimated" in found.sentence
    # New queries by the arrays alone.
    new, expected = linear_log(500, 2)
    assert np.abs(found.model.propensities(new) - expected).mean() < 0.02


@pytest.mark.parametrize("n_tiers", [2, 3])
def test_the_arrays_are_the_fitted_classifier(n_tiers: int) -> None:
    x, truth = linear_log(300, 3, n_tiers)
    tier = draw(truth, 3)
    found = fit_propensity(x, tier, n_tiers, folds(300), strengths=(1.0,))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    fitted = LogisticRegression(C=1.0, max_iter=300).fit(z, tier)
    untempered = replace(found.model, temperature=1.0, epsilon=0.0)
    assert np.allclose(untempered.propensities(x), fitted.predict_proba(z), atol=1e-9)


def test_a_row_does_not_choose_its_own_propensity() -> None:
    x, truth = linear_log(200, 4)
    tier = draw(truth, 4)
    fold = folds(200)
    found = fit_propensity(x, tier, 3, fold, strengths=(1.0,))
    changed = tier.copy()
    changed[fold == 2] = (tier[fold == 2] + 1) % 3
    other = fit_propensity(x, changed, 3, fold, strengths=(1.0,))
    assert found.model.epsilon == other.model.epsilon == 0.0
    ours = np.log(found.values[fold == 2]) * found.model.temperature
    theirs = np.log(other.values[fold == 2]) * other.model.temperature
    # The same logits but for the temperature, which all rows choose together.
    assert np.allclose(ours - ours[:, :1], theirs - theirs[:, :1])


def test_even_exploration_is_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 5))
    rule = np.where(x[:, 0] > 0.5, 0, np.where(x[:, 0] > -0.5, 1, 2))
    truth = 0.8 * np.eye(3)[rule] + 0.2 / 3
    found = fit_propensity(x, draw(truth, 0), 3, folds(4000))
    assert found.model.epsilon == 0.2
    assert np.abs(found.values - truth).mean() < 0.07
    assert found.values.min() >= 0.2 / 3
    assert overlap(found.values).all()


def test_overconfident_logits_are_cooled() -> None:
    """Many inputs that say nothing, fitted without a penalty: held-out rows find it out."""
    rng = np.random.default_rng(0)
    x, tier = rng.standard_normal((300, 60)), rng.integers(0, 3, 300)
    found = fit_propensity(x, tier, 3, folds(300), strengths=(1000.0,))
    assert found.model.temperature > 3
    assert found.log_loss < np.log(3) + 0.05


def test_tiers_that_hardly_occur_can_be_estimated() -> None:
    x, _ = linear_log(100, 5)
    tier = np.zeros(100, dtype=np.int64)
    tier[7] = 2  # in one fold only
    found = fit_propensity(x, tier, 4, folds(100))
    assert np.isfinite(found.values).all() and np.isfinite(found.log_loss)
    assert (found.values[:, [1, 3]] == 0).all()
    assert (found.model.propensities(x)[:, [1, 3]] == 0).all()
    assert not overlap(found.model.propensities(x))[:, [1, 3]].any()
    only = fit_propensity(x, np.zeros(100, dtype=np.int64), 2, folds(100))
    assert (only.values[:, 0] > 1 - 1e-12).all()


def test_a_large_log_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propensity, "MAX_FITTING_ROWS", 500)
    x, truth = linear_log(4000, 6)
    found = fit_propensity(x, draw(truth, 6), 3, folds(4000))
    assert found.values.shape == (4000, 3)
    assert np.abs(found.values - truth).mean() < 0.06


def test_what_does_not_fit_is_refused() -> None:
    x, truth = linear_log(20, 7)
    tier = draw(truth, 7)
    with pytest.raises(InputError, match="at least two folds"):
        fit_propensity(x, tier, 3, np.zeros(20, dtype=np.int64))
    with pytest.raises(InputError, match="finite inputs and a fold"):
        fit_propensity(x * np.nan, tier, 3, folds(20))
    with pytest.raises(InputError, match="index from 0 to 1"):
        fit_propensity(x, np.full(20, 2), 2, folds(20))
    with pytest.raises(InputError, match="a stratum from 0 for each of 20"):
        propensity_by_stratum(np.zeros(3, dtype=np.int64), tier, 3)


# ---------------------------------------------------------------- no overlap


def keyword_world(n: int, seed: int) -> tuple[FloatArray, IntArray]:
    """Inputs of which two say if a keyword occurs, among noise; and the rule's tier."""
    rng = np.random.default_rng(seed)
    word = rng.random((n, 2)) < 0.3
    rule = np.where(word[:, 0], 0, np.where(word[:, 1], 2, 1))
    return np.column_stack((word, rng.standard_normal((n, 20)))), rule


@pytest.mark.parametrize("seed", range(3))
def test_a_deterministic_rule_has_no_overlap_off_its_choice(seed: int) -> None:
    x, rule = keyword_world(1500, seed)
    found = fit_propensity(x, rule, 3, folds(1500))
    only_the_rules = np.eye(3, dtype=bool)[rule]
    assert (overlap(found.values) == only_the_rules).all()
    new, rule_of_new = keyword_world(1500, seed + 100)
    assert (overlap(found.model.propensities(new)) == np.eye(3, dtype=bool)[rule_of_new]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_log_that_explores_in_one_region_has_overlap_there_alone(seed: int) -> None:
    """Without the first keyword all tiers are tried, with it only the cheapest."""
    x, _ = keyword_world(1500, seed)
    explored = x[:, :1] == 0
    chances = np.where(explored, [0.2, 0.5, 0.3], [1.0, 0.0, 0.0])
    found = fit_propensity(x, draw(chances, seed), 3, folds(1500))
    assert (overlap(found.values) == (chances > 0)).all()


def test_a_known_rule_is_exact() -> None:
    _, rule = keyword_world(500, 0)
    found = propensity_by_stratum(rule, rule, 3)
    assert (found.values == np.eye(3)[rule]).all()
    assert "follows on 100 % of its requests" in found.sentence
    assert (found.model.propensities(np.array([2, 0])) == np.eye(3)[[2, 0]]).all()
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_rule_that_was_never_asked_there_supports_nothing() -> None:
    found = propensity_by_stratum(np.array([0, 2]), np.array([0, 1]), 2)
    assert not overlap(found.model.propensities(np.array([1]))).any()


def synthetic(n: int) -> tuple[SyntheticOutcomes, IntArray]:
    """Queries, and the keyword heuristic's tier for each."""
    outcomes = sample(make_world(), n, 0)
    names = outcomes.world.tiers.names
    heuristic = KeywordRouter.for_tiers([names[t] for t in outcomes.cheapest_first])
    rule = [names.index(heuristic.tier_of(query.text)) for query in outcomes.queries]
    return outcomes, np.array(rule, dtype=np.int64)


def as_logged(outcomes: SyntheticOutcomes, epsilon: float) -> Logged:
    table = log(outcomes, keyword_policy(outcomes, epsilon=epsilon), 0)
    tier = table.observed.argmax(axis=1).astype(np.int64)
    rows = np.arange(table.n_requests)
    return Logged(
        tier, table.propensity[rows, tier], table.success[rows, tier], table.cost_usd[rows, tier]
    )


def test_the_keyword_heuristics_log_is_refused_exactly_where_it_tried_nothing_else() -> None:
    outcomes, rule = synthetic(1500)
    logged = as_logged(outcomes, epsilon=0.0)
    q = QValues(outcomes.p_readable, outcomes.expected_cost_usd)
    exactly = np.eye(3, dtype=bool)[rule]
    # By its own record, and by the rule where nothing is recorded.
    by_rule = propensity_by_stratum(rule, logged.tier, 3)
    assert (supported_by_log(logged, 3) == exactly).all()
    assert (overlap(by_rule.values) == exactly).all()
    followed = evaluate_policy(exactly.astype(float), logged, q)
    assert followed.refusal is None and followed.missing_share == 0.0
    for tier in range(3):
        always = np.zeros((1500, 3))
        always[:, tier] = 1.0
        found = evaluate_policy(always, logged, q)
        assert found.refusal is not None
        assert found.missing_share == pytest.approx((rule != tier).mean())


def test_an_exploring_heuristics_propensities_are_its_shares() -> None:
    outcomes, rule = synthetic(3000)
    logged = as_logged(outcomes, epsilon=0.3)
    found = propensity_by_stratum(rule, logged.tier, 3)
    truth = np.where(np.eye(3, dtype=bool)[rule], 0.8, 0.1)
    assert np.abs(found.values - truth).max() < 0.05
    assert overlap(found.values).all()
    assert found.log_loss < propensity_by_stratum(0 * rule, logged.tier, 3).log_loss


# ---------------------------------------------------------------- the table


def test_the_overlap_table_says_what_is_known_of_every_tier() -> None:
    n = 1000
    one = np.ones(n)
    tier = np.where(np.arange(n) % 10 == 0, 1, 0)
    logged = Logged(tier, np.where(tier == 1, 0.1, 0.9), one, one)
    cheap, dear, unused = overlap_table(logged, 3)
    assert (cheap.n, dear.n, unused.n) == (900, 100, 0)
    assert (cheap.share, dear.share) == (0.9, 0.1)
    assert dear.propensity_min == pytest.approx(0.1)
    assert dear.propensity_quantiles == pytest.approx((0.1, 0.1, 0.1))
    assert cheap.effective_sample_size == pytest.approx(900)
    assert dear.effective_sample_size == pytest.approx(100)
    assert unused.effective_sample_size == 0.0 and unused.propensity_min is None
    assert (cheap.supported_share, unused.supported_share) == (1.0, 0.0)
    json.dumps([row.to_dict() for row in (cheap, dear, unused)], allow_nan=False)
