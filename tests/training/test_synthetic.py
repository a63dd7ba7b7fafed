"""Synthetic outcomes: is the truth that comes with them the truth?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from router.errors import InputError
from router.outcomes import write_jsonl
from router.tiers import Tier, TierSet
from training.split import normalise_text
from training.synthetic import (
    NUMERIC_KINDS,
    SyntheticOutcomes,
    keyword_policy,
    log,
    main,
    make_world,
    numeric_world,
    sample,
    softmax_policy,
    synthetic_tiers,
    tiers_toml,
    to_outcomes,
    uniform_policy,
    write_sample,
)
from training.synthetic_queries import TASKS, write_queries
from training.table import OutcomeTable, read_outcomes

DATA = Path(__file__).parents[2] / "data"
N = 12_000


@pytest.fixture(scope="module")
def drawn() -> SyntheticOutcomes:
    return sample(make_world(), N, seed=1)


def _z(difference: np.ndarray) -> float:
    """Largest mean of a column, in standard errors."""
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    return float(np.max(np.abs(difference.mean(axis=0)) / error))


# ---------------------------------------------------------------- the truth


def test_success_happens_as_often_as_the_truth_says(drawn: SyntheticOutcomes) -> None:
    success, p = drawn.table.success, drawn.p_success
    assert set(np.unique(success)) == {0.0, 1.0}
    assert _z(success - p) < 4.0
    for tier in range(3):
        for low in np.arange(0.0, 1.0, 0.2):
            inside = (p[:, tier] >= low) & (p[:, tier] < low + 0.2)
            if inside.sum() >= 200:
                assert _z((success - p)[inside][:, [tier]]) < 4.5


def test_the_readable_truth_is_calibrated_but_knows_less(drawn: SyntheticOutcomes) -> None:
    success = drawn.table.success
    assert _z(success - drawn.p_readable) < 4.0
    assert np.all(drawn.p_readable.std(axis=0) < drawn.p_success.std(axis=0))
    gain = (success - drawn.p_readable) ** 2 - (success - drawn.p_success) ** 2
    assert np.all(gain.mean(axis=0) > 0.0)


def test_costs_average_to_the_expected_ones(drawn: SyntheticOutcomes) -> None:
    cost, expected = drawn.table.cost_usd, drawn.expected_cost_usd
    assert _z(cost / expected - 1.0) < 4.0
    for task in TASKS:
        of_task = drawn.table.task == task
        assert _z((cost / expected - 1.0)[of_task]) < 4.5


def test_costs_are_the_tokens_at_the_tiers_prices(drawn: SyntheticOutcomes) -> None:
    table = drawn.table
    assert np.all(np.isfinite(table.cost_usd))
    assert np.all(table.cost_usd > 0.0)
    assert np.all(table.output_tokens >= 1.0)
    for t, tier in enumerate(table.tiers):
        assert tier.input_price_usd_per_mtok is not None
        assert tier.output_price_usd_per_mtok is not None
        dollars = (
            table.input_tokens[:, t] * tier.input_price_usd_per_mtok
            + table.output_tokens[:, t] * tier.output_price_usd_per_mtok
        ) / 1e6
        np.testing.assert_allclose(table.cost_usd[:, t], dollars, rtol=1e-6)
    # Bounded noise: no answer is more than a few times as long as expected.
    assert np.max(table.cost_usd / drawn.expected_cost_usd) < 3.5


def test_dearer_tiers_succeed_more_and_cost_far_more(drawn: SyntheticOutcomes) -> None:
    rates = drawn.table.success.mean(axis=0)
    costs = drawn.table.cost_usd.mean(axis=0)
    assert drawn.cheapest_first == [0, 1, 2]
    assert np.all(np.diff(rates) > 0.02)
    assert np.all(costs[1:] / costs[:-1] > 8.0)


def test_reading_the_query_beats_the_coin_flip(drawn: SyntheticOutcomes) -> None:
    # Otherwise the sample could not show what a router is for.
    success, cost = drawn.table.success, drawn.table.cost_usd
    rows = np.arange(N)
    chosen = np.argmin(drawn.expected_cost_usd - 0.1 * drawn.p_readable, axis=1)
    rate, spent = success[rows, chosen].mean(), cost[rows, chosen].mean()
    rates, costs = success.mean(axis=0), cost.mean(axis=0)
    mixes = [
        costs[a] + (rate - rates[a]) / (rates[b] - rates[a]) * (costs[b] - costs[a])
        for a in range(3)
        for b in range(a + 1, 3)
        if rates[a] <= rate <= rates[b]
    ]
    assert spent < 0.8 * min(mixes)


def test_noise_share_is_what_no_text_can_show() -> None:
    readable = sample(make_world(noise_share=0.0), 500, seed=3)
    np.testing.assert_allclose(readable.p_readable, readable.p_success, atol=1e-12)
    noise = sample(make_world(noise_share=1.0), 6_000, seed=3)
    assert abs(np.corrcoef(noise.p_success[:, 0], _difficulty(noise))[0, 1]) < 0.1
    assert abs(np.corrcoef(readable.p_success[:, 0], _difficulty(readable))[0, 1]) > 0.8


def _difficulty(outcomes: SyntheticOutcomes) -> np.ndarray:
    return np.array([query.difficulty for query in outcomes.queries])


# ---------------------------------------------------------------- the queries


def test_queries_are_nearly_all_distinct() -> None:
    texts = [normalise_text(query.text) for query in write_queries(5_000, seed=0)]
    assert len(set(texts)) >= 4_950


def test_queries_have_no_unfilled_slot_and_no_stray_space() -> None:
    for query in write_queries(3_000, seed=4):
        without_code = query.text.split("```")[0]
        assert "{" not in without_code
        assert "}" not in without_code
        assert "  " not in without_code
        assert "\n " not in without_code
        assert query.text == query.text.strip()


def test_every_task_in_both_languages() -> None:
    queries = write_queries(4_000, seed=5)
    kinds = {(query.task, query.language) for query in queries}
    assert kinds == {(task, language) for task in TASKS for language in ("en", "es")}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_spanish_share(share: float) -> None:
    queries = write_queries(4_000, seed=6, spanish_share=share)
    spanish = np.mean([query.language == "es" for query in queries])
    assert abs(spanish - share) <= 4.0 * np.sqrt(share * (1.0 - share) / 4_000)


def test_difficulty_has_mean_zero_and_variance_one() -> None:
    difficulty = np.array([query.difficulty for query in write_queries(20_000, seed=7)])
    assert abs(difficulty.mean()) < 0.05
    assert abs(difficulty.std() - 1.0) < 0.05


def test_word_counts_read_the_difficulty(drawn: SyntheticOutcomes) -> None:
    texts, success = drawn.table.query, drawn.table.success[:, 0]
    model = make_pipeline(
        CountVectorizer(min_df=5, ngram_range=(1, 1)), LogisticRegression(C=0.1, max_iter=2_000)
    )
    model.fit(texts[:3_000], success[:3_000])
    assert roc_auc_score(success[3_000:], model.predict_proba(texts[3_000:])[:, 1]) > 0.72


def test_long_queries_occur() -> None:
    # The keyword rule has a branch for more than 200 words.
    words = np.array([query.n_words for query in write_queries(5_000, seed=8)])
    assert np.mean(words > 200) > 0.002
    assert np.median(words) < 50


# ---------------------------------------------------------------- seeds and worlds


def test_the_same_seed_gives_the_same_rows_and_another_gives_others() -> None:
    world = make_world()
    first, again, other = (sample(world, 200, seed) for seed in (1, 1, 2))
    assert list(first.table.query) == list(again.table.query)
    np.testing.assert_array_equal(first.table.cost_usd, again.table.cost_usd)
    np.testing.assert_array_equal(first.table.success, again.table.success)
    np.testing.assert_array_equal(first.p_success, again.p_success)
    assert len(set(first.table.query) & set(other.table.query)) < 5
    assert not set(first.table.request_id) & set(other.table.request_id)


def test_the_worlds_seed_changes_the_truth_and_not_the_queries() -> None:
    one, two = (sample(make_world(seed=seed), 200, seed=1) for seed in (0, 1))
    assert list(one.table.query) == list(two.table.query)
    assert not np.allclose(one.p_readable, two.p_readable)


@pytest.mark.parametrize("n_tiers", range(1, 10))
def test_any_number_of_tiers(n_tiers: int) -> None:
    outcomes = sample(make_world(n_tiers), 300, seed=0)
    assert outcomes.table.success.shape == (300, n_tiers)
    assert len(outcomes.world.tiers) == n_tiers
    policy = keyword_policy(outcomes, epsilon=0.2)
    np.testing.assert_allclose(policy.sum(axis=1), 1.0)


def test_tiers_of_your_own_in_any_order() -> None:
    tiers = TierSet(list(synthetic_tiers(3))[::-1])
    outcomes = sample(make_world(tiers=tiers), 2_000, seed=0)
    assert outcomes.cheapest_first == [2, 1, 0]
    assert np.all(np.diff(outcomes.table.success.mean(axis=0)) < 0.0)


def test_bad_arguments_are_refused(drawn: SyntheticOutcomes) -> None:
    with pytest.raises(InputError, match="1 to 9"):
        synthetic_tiers(10)
    with pytest.raises(InputError, match="noise_share"):
        make_world(noise_share=1.5)
    with pytest.raises(InputError, match="prices"):
        make_world(tiers=TierSet([Tier(name="a", provider="openai", model="gpt-5")]))
    with pytest.raises(InputError, match="at least 1"):
        sample(make_world(), 0, seed=0)
    with pytest.raises(InputError, match="seed"):
        sample(make_world(), 1, seed=-1)
    with pytest.raises(InputError, match="shape"):
        log(drawn, np.full((N, 2), 0.5), seed=0)
    with pytest.raises(InputError, match="sum to 1"):
        log(drawn, np.full((N, 3), 0.5), seed=0)
    with pytest.raises(InputError, match="epsilon"):
        keyword_policy(drawn, epsilon=-0.1)
    with pytest.raises(InputError, match="temperature"):
        softmax_policy(drawn, temperature=0.0)


# ---------------------------------------------------------------- logged feedback


def _policies(outcomes: SyntheticOutcomes) -> dict[str, np.ndarray]:
    return {
        "uniform": uniform_policy(outcomes),
        "keyword": keyword_policy(outcomes),
        "epsilon": keyword_policy(outcomes, epsilon=0.3),
        "softmax": softmax_policy(outcomes),
    }


@pytest.mark.parametrize("name", ["uniform", "keyword", "epsilon", "softmax"])
def test_logged_choices_follow_the_recorded_propensities(
    drawn: SyntheticOutcomes, name: str
) -> None:
    policy = _policies(drawn)[name]
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, atol=1e-12)
    table = log(drawn, policy, seed=5)
    assert np.all(table.observed.sum(axis=1) == 1)
    np.testing.assert_array_equal(np.isnan(table.propensity), ~table.observed)
    np.testing.assert_array_equal(table.propensity[table.observed], policy[table.observed])
    assert np.all(table.propensity[table.observed] > 0.0)
    for tier in range(3):
        off = table.observed[:, [tier]] - policy[:, [tier]]
        if off.std() == 0.0:  # a deterministic rule
            assert off[0] == 0.0
        else:
            assert _z(off) < 4.0
    # What is seen is what happened, and nothing else is seen.
    np.testing.assert_array_equal(
        table.success[table.observed], drawn.table.success[table.observed]
    )
    assert np.all(np.isnan(table.success[~table.observed]))
    assert np.all(np.isnan(table.cost_usd[~table.observed]))


def test_propensities_recover_the_value_of_another_policy(drawn: SyntheticOutcomes) -> None:
    # The point of logging them: inverse-propensity weighting is unbiased.
    behaviour, target = keyword_policy(drawn, epsilon=0.5), softmax_policy(drawn)
    table = log(drawn, behaviour, seed=6)
    seen = table.observed
    weighted = (target[seen] / table.propensity[seen]) * table.success[seen]
    truth = (target * drawn.p_success).sum(axis=1)
    assert _z((weighted - truth)[:, None]) < 4.0


def test_the_softmax_log_is_confounded(drawn: SyntheticOutcomes) -> None:
    table = log(drawn, softmax_policy(drawn, temperature=0.1), seed=7)
    seen_rate = np.nanmean(table.success[:, 0])
    assert seen_rate > drawn.table.success[:, 0].mean() + 0.05


def test_full_feedback_has_no_propensity(drawn: SyntheticOutcomes) -> None:
    assert np.all(drawn.table.complete)
    assert np.all(np.isnan(drawn.propensity))


def test_logs_repeat_by_seed(drawn: SyntheticOutcomes) -> None:
    policy = uniform_policy(drawn)
    one, again, other = (log(drawn, policy, seed).observed for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert 0.2 < np.mean(one.argmax(axis=1) == other.argmax(axis=1)) < 0.5


# ---------------------------------------------------------------- files


def _assert_same(read: OutcomeTable, made: OutcomeTable) -> None:
    assert list(read.request_id) == list(made.request_id)
    assert list(read.query) == list(made.query)
    assert list(read.task) == list(made.task)
    for name in (
        "success",
        "cost_usd",
        "input_tokens",
        "output_tokens",
        "propensity",
        "observed",
    ):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name), err_msg=name)


def test_full_feedback_survives_the_file(tmp_path: Path) -> None:
    made = write_sample(tmp_path, 120, seed=9).table
    tiers = TierSet.from_toml(tmp_path / "tiers.toml")
    assert tiers == made.tiers
    read = read_outcomes(tmp_path / "sample_outcomes.jsonl", tiers)
    _assert_same(read, made)
    assert read.report.n_bad == 0
    assert read.report.n_rows == 360


def test_logged_feedback_survives_the_file(tmp_path: Path) -> None:
    outcomes = sample(make_world(4), 200, seed=2)
    made = log(outcomes, keyword_policy(outcomes, epsilon=0.2), seed=3)
    write_jsonl(tmp_path / "log.jsonl", to_outcomes(made))
    _assert_same(read_outcomes(tmp_path / "log.jsonl", made.tiers), made)


def test_tiers_text_is_a_tiers_file(tmp_path: Path) -> None:
    tiers = TierSet(
        [
            Tier(name="a", provider="openai", model="gpt-5", aliases=("x", 'y"z')),
            Tier(name="b", provider="other", model="m", features=frozenset({"tools", "json"})),
        ]
    )
    (tmp_path / "tiers.toml").write_text(tiers_toml(tiers), encoding="utf-8")
    assert TierSet.from_toml(tmp_path / "tiers.toml") == tiers


def test_the_committed_sample_is_what_its_command_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "python -m training.synthetic --out data --requests 600 --seed 0"
    assert command in (DATA / "README.md").read_text(encoding="utf-8")
    main(["--out", str(tmp_path), "--requests", "600", "--seed", "0"])
    assert "600 synthetic requests x 3 tiers" in capsys.readouterr().out
    for name in ("sample_outcomes.jsonl", "tiers.toml"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name
    assert (DATA / "sample_outcomes.jsonl").stat().st_size < 1_000_000


def test_the_data_card_states_the_numbers_of_the_sample() -> None:
    card = (DATA / "README.md").read_text(encoding="utf-8")
    tiers = TierSet.from_toml(DATA / "tiers.toml")
    table = read_outcomes(DATA / "sample_outcomes.jsonl", tiers)
    for t, name in enumerate(tiers.names):
        rate, cost = table.success[:, t].mean(), table.cost_usd[:, t].mean()
        cps = f"${cost / rate:.3g}" if cost / rate >= 1e-4 else f"${cost / rate:.7f}"
        assert f"| {name} | {rate:.3f} | ${1_000.0 * cost:.4f} | {cps} |" in card
    assert f"{100.0 * table.success.max(axis=1).mean():.1f} % of the requests" in card
    counts = [int((table.task == task).sum()) for task in TASKS]
    assert f"| requests | {' | '.join(map(str, counts))} |" in card
    assert len({normalise_text(query) for query in table.query}) == 600


def test_the_command_refuses_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path), "--requests", "0"])
    assert stop.value.code == 2
    assert "at least 1 request" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- numbers without text


@pytest.mark.parametrize("kind", NUMERIC_KINDS)
def test_numeric_worlds_have_the_rates_they_state(kind: str) -> None:
    world = numeric_world(kind, 60_000, seed=1)
    assert _z(world.success - world.true_rate) < 4.0
    assert _z(world.success - world.p_true) < 4.0
    assert _z(world.cost / world.true_cost_usd - 1.0) < 4.0
    assert _z(world.cost / world.cost_true - 1.0) < 4.0
    assert np.all((world.p_true > 0.0) & (world.p_true < 1.0))
    assert np.all((world.p_hat > 0.0) & (world.p_hat < 1.0))
    assert np.all(world.cost > 0.0)
    assert np.all(world.cost_hat > 0.0)
    assert np.max(world.cost / world.true_cost_usd) < 20.0


@pytest.mark.parametrize("kind", NUMERIC_KINDS)
def test_numeric_predictions_are_noisy_and_roughly_calibrated(kind: str) -> None:
    world = numeric_world(kind, 60_000, seed=2)
    for tier in range(3):
        p_hat, p_true = world.p_hat[:, tier], world.p_true[:, tier]
        assert 0.6 < np.corrcoef(p_hat, p_true)[0, 1] < 0.95
        spread = p_true.max() - p_true.min()
        for rows in np.array_split(np.argsort(p_hat), 5):
            assert abs(p_hat[rows].mean() - p_true[rows].mean()) < 0.06 * spread


def test_the_hard_worlds_are_hard_in_the_way_they_say() -> None:
    at_floor = numeric_world("tier_at_floor", 10, seed=0)
    assert at_floor.floor in at_floor.true_rate
    assert at_floor.true_rate[2] - at_floor.true_rate[1] == pytest.approx(0.05)
    ties = numeric_world("near_ties", 10, seed=0)
    assert 0.0 < ties.true_rate[2] - ties.true_rate[1] < 0.01
    assert ties.true_rate[1] < ties.floor < ties.true_rate[2]
    rare = numeric_world("rare_success", 10, seed=0)
    assert np.all((rare.true_rate >= 0.01) & (rare.true_rate <= 0.03))


def test_tiers_of_a_numeric_world_fail_together() -> None:
    world = numeric_world("plain", 60_000, seed=3)
    assert np.corrcoef(world.success[:, 1], world.success[:, 2])[0, 1] > 0.1


def test_numeric_worlds_repeat_by_seed() -> None:
    one, again, other = (numeric_world("plain", 60, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.success, again.success)
    np.testing.assert_array_equal(one.p_hat, again.p_hat)
    assert not np.allclose(one.p_hat, other.p_hat)


def test_numeric_world_refuses_what_it_does_not_know() -> None:
    with pytest.raises(InputError, match="near_ties"):
        numeric_world("easy", 10, seed=0)
    with pytest.raises(InputError, match="at least 1"):
        numeric_world("plain", 0, seed=0)
