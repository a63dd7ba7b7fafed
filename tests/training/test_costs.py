"""What a tier costs on a query: tokens times price, or dollars, and what is believed when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from router.embedding import StaticEmbedder
from router.errors import InputError, PriceError
from router.prices import PriceBook, TierPrice, current_prices
from router.tiers import Tier, TierSet
from router.word_grams import N_GRAMS
from tests.minilm import static_folder
from training.costs import RIDGE_PENALTIES, fit_cost, fit_head
from training.design import Design
from training.inputs import Inputs
from training.prepare import inputs_of
from training.split import fold_ids, query_hashes
from training.synthetic import make_world, sample
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(limits=1):
        yield


class Prices(PriceBook):
    """A price book that knows what it is told, by model."""

    def __init__(self, **known: TierPrice) -> None:
        super().__init__()
        self.known = known

    def price(self, tier: Tier, at: datetime | None = None) -> TierPrice:
        """Overrides of the tiers file first, as in the real one."""
        if tier.has_price:
            return super().price(tier, at)
        if tier.model not in self.known:
            raise PriceError(f"expected a price of {tier.model}, got none: add it.")
        return self.known[tier.model]


def priced(input_usd: float, output_usd: float, request_usd: float = 0.0) -> TierPrice:
    return TierPrice(input_usd, input_usd, input_usd, output_usd, request_usd)


N = 400
# Held-out sums and logged ones agree about: the smearing of a fold comes from the others.
ABOUT = 0.01


def some_inputs(n: int = N, seed: int = 0) -> Inputs:
    """Two numbers as embedding, four as query features, the last of them constant."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal([0, 0, 2, 2, 2], 3, (n, 5)), np.full(n, 1.0)])
    return Inputs(x[:, :2].astype(np.float32), x, np.arange(n) % 5, 0)


def dense_design(data: Inputs) -> Design:
    """Of embedding and query features alone."""
    return Design.of(data, np.zeros((0, data.embedding.shape[1]), np.float32))


def with_grams(n: int = N, seed: int = 0) -> tuple[Inputs, npt.NDArray[np.float32]]:
    """The same with word grams and a kernel over 30 references beside them."""
    data = some_inputs(n, seed)
    rng = np.random.default_rng(seed + 50)
    grams = np.zeros((n, N_GRAMS))
    grams[:, ::100] = (rng.random((n, 21)) < 0.2) / 2.0
    refs = np.random.default_rng(1).normal(size=(30, 2))
    refs /= np.linalg.norm(refs, axis=1, keepdims=True)
    unit = data.x[:, :2] / np.linalg.norm(data.x[:, :2], axis=1, keepdims=True)
    x = np.hstack([unit, data.x[:, 2:], grams, np.exp(4.0 * (unit @ refs.T - 1.0))])
    return Inputs(unit.astype(np.float32), x, data.fold, 0, n_dense=6), refs.astype(np.float32)


def on_raw_inputs(design: Design, data: Inputs, x: FloatArray) -> FloatArray:
    """Rows (n, P) of the design for other inputs, block by block."""
    features = StandardScaler().fit(data.x[:, 2 : data.n_dense]).transform(x[:, 2 : data.n_dense])
    blocks = [x[:, :2] * np.sqrt(0.5), features * np.sqrt(0.3 / 4)]
    if x.shape[1] > data.n_dense:
        grams = data.n_dense + N_GRAMS
        blocks += [x[:, data.n_dense : grams], x[:, grams:] @ design.whitening]
    return np.hstack(blocks)


def tokens(data: Inputs, seed: int = 1) -> tuple[FloatArray, FloatArray]:
    """Input tokens as the query has them, output tokens that depend on it; both (n, 2)."""
    rng = np.random.default_rng(seed)
    n = len(data.x)
    asked = np.exp(4 + 0.1 * data.x[:, :1]) * np.ones((1, 2))
    answered = np.exp(5 + 0.2 * data.x[:, 1:3] + 0.4 * rng.normal(size=(n, 2)))
    return np.round(asked), np.round(answered)


def a_table(tiers: Sequence[Tier], cost: FloatArray, **columns: Any) -> OutcomeTable:
    queries = [f"q{i}" for i in range(len(cost))]
    return OutcomeTable.from_arrays(TierSet(tiers), queries, np.ones(cost.shape), cost, **columns)


SMALL, LARGE = Tier("small", "p", "model-s"), Tier("large", "p", "model-l")
OWN_PRICE = replace(SMALL, input_price_usd_per_mtok=0.5, output_price_usd_per_mtok=2.0)
BOOK = Prices(**{"model-s": priced(0.5, 2.0), "model-l": priced(5.0, 20.0)})


def dollars(asked: FloatArray, answered: FloatArray) -> FloatArray:
    return (asked * [0.5, 5.0] + answered * [2.0, 20.0]) * 1e-6


# Heads


@pytest.mark.parametrize("dual", [False, True])
def test_a_head_is_ridge_on_the_logarithm_with_smearing(dual: bool) -> None:
    """Of more rows than columns, and (with word grams) of fewer."""
    if dual:
        (data, refs), (fresh, _) = with_grams(), with_grams(100, seed=5)
        design = Design.of(data, refs)
        assert design.matrix.shape[1] > N
    else:
        data, fresh = some_inputs(), some_inputs(100, seed=5)
        design = dense_design(data)
        assert design.matrix.shape == (N, 6)
    rng = np.random.default_rng(0)
    values = np.exp(0.5 * data.x[:, :2] + 0.5 * rng.normal(size=(N, 2)))
    values[:20, 1] = 0.0
    observed = np.ones((N, 2), dtype=bool)
    observed[rng.random(N) < 0.4, 1] = False
    head, held_out = fit_head(data, design, np.where(observed, values, np.nan), observed)
    np.testing.assert_allclose(on_raw_inputs(design, data, data.x), design.matrix, atol=1e-12)

    for tier in (0, 1):
        known = observed[:, tier]
        y = values[known, tier]
        log_y = np.log(np.maximum(y, y[y > 0].min() / 10))

        def predicted(
            rows: npt.NDArray[np.bool_],
            penalty: float,
            asked: FloatArray,
            *,
            known: npt.NDArray[np.bool_] = known,
            log_y: FloatArray = log_y,
        ) -> FloatArray:
            mean = log_y[rows].mean()
            model = Ridge(penalty, fit_intercept=False, solver="cholesky")
            model.fit(design.matrix[known][rows], log_y[rows] - mean)
            return np.asarray(mean + model.predict(asked))

        # One penalty for all folds, of the least held-out squared error.
        by_penalty = {}
        for penalty in RIDGE_PENALTIES:
            logs = np.empty(N)
            for fold in range(5):
                out = data.fold == fold
                logs[out] = predicted(data.fold[known] != fold, penalty, design.matrix[out])
            by_penalty[penalty] = logs
        errors = {p: ((logs[known] - log_y) ** 2).sum() for p, logs in by_penalty.items()}
        penalty = min(errors, key=lambda p: errors[p])
        logs = np.clip(by_penalty[penalty], log_y.min(), log_y.max())
        smear = y.sum() / np.exp(logs[known]).sum()
        for fold in range(5):
            # What is held out is smeared as the other folds' held-out predictions ask for.
            others = data.fold[known] != fold
            own = y[others].sum() / np.exp(logs[known][others]).sum()
            out = data.fold == fold
            np.testing.assert_allclose(held_out[out, tier], own * np.exp(logs[out]), rtol=1e-6)
        asked = on_raw_inputs(design, data, fresh.x)
        everything = predicted(np.ones(len(y), dtype=bool), penalty, asked)
        expected = smear * np.exp(np.clip(everything, log_y.min(), log_y.max()))
        np.testing.assert_allclose(head.predict(fresh.x)[:, tier], expected, rtol=1e-6)


def test_held_out_values_know_nothing_of_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 60))
    data = Inputs(x.astype(np.float32), x, np.arange(120) % 5, 0)
    values = np.exp(rng.normal(size=(120, 1)))
    observed = np.ones((120, 1), dtype=bool)
    head, held_out = fit_head(data, dense_design(data), values, observed)
    assert np.corrcoef(np.log(held_out[:, 0]), np.log(values[:, 0]))[0, 1] < 0.25
    # On the rows it was fitted on the head itself does know it: that is what was left out.
    fitted = head.predict(x)[:, 0]
    assert np.corrcoef(np.log(fitted), np.log(values[:, 0]))[0, 1] > 0.5


def test_held_out_dollars_have_not_seen_the_sum_they_are_measured_on() -> None:
    rng = np.random.default_rng(0)
    observed = np.ones((N, 1), dtype=bool)
    ratios = []
    for seed in range(20):
        data = some_inputs(seed=seed)
        values = np.exp(0.3 * data.x[:, :1] + 1.5 * rng.normal(size=(N, 1)))
        _, held_out = fit_head(data, dense_design(data), values, observed)
        ratios.append(float(held_out.sum() / values.sum()))
    assert max(abs(ratio - 1) for ratio in ratios) > 0.005
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)


def test_a_strange_query_costs_no_more_than_was_ever_seen() -> None:
    data = some_inputs()
    values = np.exp(data.x[:, :1])
    head, _ = fit_head(data, dense_design(data), values, np.ones((N, 1), dtype=bool))
    far = np.full((1, data.x.shape[1]), 1e6)
    assert np.isfinite(head.predict(far)).all()
    assert head.predict(far)[0, 0] <= values.max() * head.smear[0] * (1 + 1e-9)
    assert head.predict(-far)[0, 0] >= values.min() * head.smear[0] * (1 - 1e-9)


@pytest.mark.parametrize("n_known", [0, 1, 2, 3])
def test_a_head_needs_two_known_values(n_known: int) -> None:
    data = some_inputs(50)
    values = np.full((50, 1), np.nan)
    values[:n_known] = 2.0
    head, held_out = fit_head(data, dense_design(data), values, ~np.isnan(values))
    assert head.fitted[0] == (n_known >= 2)
    assert np.isfinite(held_out).all() == (n_known >= 2)
    if n_known >= 2:
        np.testing.assert_allclose(head.predict(data.x), 2.0)


def test_a_tier_that_is_always_free_is_predicted_to_be_free() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    cost = dollars(asked, answered) * [0.0, 1.0]
    fitted = fit_cost(data, dense_design(data), a_table([SMALL, LARGE], cost), Prices())
    predicted = fitted.estimator.predict(data.x)
    assert (predicted[:, 0] == 0).all() and (predicted[:, 1] > 0).all()
    assert (fitted.cross_fitted[:, 0] == 0).all()


def test_some_free_requests_lower_the_mean_and_break_nothing() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    cost = dollars(asked, answered)
    cost[::3] = 0.0
    fitted = fit_cost(data, dense_design(data), a_table([SMALL, LARGE], cost), Prices())
    np.testing.assert_allclose(fitted.cross_fitted.sum(axis=0), cost.sum(axis=0), rtol=ABOUT)
    assert (fitted.cross_fitted > 0).all()


# Dollars on data nobody has seen


@pytest.mark.parametrize("with_tokens", [True, False])
def test_predicted_and_actual_dollars_agree_on_fresh_data(with_tokens: bool) -> None:
    embedder = StaticEmbedder.load(static_folder())

    drawn, fresh = sample(make_world(), 1500, 3), sample(make_world(), 4000, 4)
    table = drawn.table
    if not with_tokens:
        table = OutcomeTable.from_arrays(table.tiers, table.query, table.success, table.cost_usd)
    queries, asked = list(table.query), list(fresh.table.query)
    folds = fold_ids(query_hashes(queries), 5, 0)
    data, input_map, refs = inputs_of(queries, embedder.embed(queries), folds, 0)
    fitted = fit_cost(data, Design.of(data, refs.all), table, PriceBook())
    assert fitted.estimator.by_tokens.all() == with_tokens
    vectors = embedder.embed(asked)
    predicted = fitted.estimator.predict(input_map.many(asked, vectors, vectors @ refs.all.T))
    ratio = predicted.sum(axis=0) / fresh.table.cost_usd.sum(axis=0)
    np.testing.assert_allclose(ratio, 1.0, atol=0.05)
    # It reads the query: close to the true mean, which ranges over a factor of hundreds.
    truth = np.log(fresh.expected_cost_usd)
    assert (np.abs(np.log(predicted) - truth).mean(axis=0) < 0.3 * truth.std(axis=0)).all()
    assert fitted.warnings == []


# Which price is believed


def test_tokens_times_todays_price_where_both_are_known() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    table = a_table(
        [SMALL, LARGE], dollars(asked, answered), input_tokens=asked, output_tokens=answered
    )
    fitted = fit_cost(data, dense_design(data), table, BOOK)
    estimator = fitted.estimator
    assert estimator.by_tokens.tolist() == [True, True]
    np.testing.assert_allclose(fitted.priced_over_logged, 1.0)
    assert fitted.warnings == []
    # Tokens are predicted, then priced: another price changes the dollars and nothing else.
    by_hand = dollars(
        estimator.input_tokens.predict(data.x), estimator.output_tokens.predict(data.x)
    )
    np.testing.assert_allclose(estimator.predict(data.x), by_hand)
    doubled = estimator.priced(estimator.input_usd_per_mtok * 2, estimator.output_usd_per_mtok * 2)
    np.testing.assert_allclose(doubled.predict(data.x), 2 * by_hand)
    np.testing.assert_allclose(
        fitted.cross_fitted.sum(axis=0), table.cost_usd.sum(axis=0), rtol=ABOUT
    )
    np.testing.assert_allclose(fitted.means.dollars(estimator), fitted.cross_fitted.mean(axis=0))


def test_logged_dollars_where_tokens_or_the_price_are_unknown() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    cost = dollars(asked, answered)
    without_tokens = fit_cost(data, dense_design(data), a_table([SMALL, LARGE], cost), BOOK)
    assert without_tokens.estimator.by_tokens.tolist() == [False, False]
    assert without_tokens.priced_over_logged == [None, None]
    np.testing.assert_allclose(
        without_tokens.cross_fitted.sum(axis=0), cost.sum(axis=0), rtol=ABOUT
    )

    table = a_table([SMALL, LARGE], cost, input_tokens=asked, output_tokens=answered)
    one_price = fit_cost(data, dense_design(data), table, Prices(**{"model-l": priced(5.0, 20.0)}))
    assert one_price.estimator.by_tokens.tolist() == [False, True]
    assert one_price.priced_over_logged[0] is None
    np.testing.assert_allclose(one_price.cross_fitted.sum(axis=0), cost.sum(axis=0), rtol=ABOUT)
    np.testing.assert_allclose(
        one_price.means.dollars(one_price.estimator), one_price.cross_fitted.mean(axis=0)
    )
    assert without_tokens.warnings == one_price.warnings == []


@pytest.mark.parametrize(("share", "by_tokens"), [(0.95, True), (0.85, False)])
def test_tokens_must_be_logged_nearly_always(share: float, by_tokens: bool) -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    cost = dollars(asked, answered)
    logged = np.arange(N)[:, None] % 100 < 100 * share
    table = a_table(
        [SMALL, LARGE],
        cost,
        input_tokens=np.where(logged, asked, np.nan),
        output_tokens=np.where(logged, answered, np.nan),
    )
    fitted = fit_cost(data, dense_design(data), table, BOOK)
    assert fitted.estimator.by_tokens.all() == by_tokens
    np.testing.assert_allclose(fitted.cross_fitted.sum(axis=0), cost.sum(axis=0), rtol=0.05)


def test_the_tiers_files_own_price_goes_before_the_price_book() -> None:
    tier = replace(LARGE, input_price_usd_per_mtok=7.0, output_price_usd_per_mtok=9.0)
    input_price, output_price = current_prices(TierSet([SMALL, tier]), BOOK)
    assert input_price.tolist() == [0.5, 7.0]
    assert output_price.tolist() == [2.0, 9.0]


def test_an_override_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        '[[prices]]\nprovider = "p"\nmodel = "model-s"\nfrom = 2020-01-01\n'
        "input_price_usd_per_mtok = 0.5\noutput_price_usd_per_mtok = 2.0\n"
    )
    input_price, output_price = current_prices(TierSet([SMALL, LARGE]), PriceBook(path))
    np.testing.assert_array_equal(input_price, [0.5, np.nan])
    np.testing.assert_array_equal(output_price, [2.0, np.nan])


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_price_that_the_log_contradicts_gives_way_to_the_dollars_paid(factor: float) -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    paid = dollars(asked, answered) / [factor, 1.2]
    table = a_table([SMALL, LARGE], paid, input_tokens=asked, output_tokens=answered)
    fitted = fit_cost(data, dense_design(data), table, BOOK)
    np.testing.assert_allclose(fitted.priced_over_logged, [factor, 1.2])
    assert fitted.estimator.by_tokens.tolist() == [False, True]
    assert fitted.cross_fitted[:, 0].sum() == pytest.approx(paid[:, 0].sum(), rel=ABOUT)
    (warning,) = fitted.warnings
    assert warning.startswith("small: ") and "the logged dollars" in warning
    assert f"{factor:.2f} times" in warning


def test_the_tiers_files_own_price_is_kept_whatever_was_logged() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    paid = dollars(asked, answered) / 3
    table = a_table([OWN_PRICE, LARGE], paid, input_tokens=asked, output_tokens=answered)
    fitted = fit_cost(data, dense_design(data), table, BOOK)
    assert fitted.estimator.by_tokens.tolist() == [True, False]
    assert fitted.cross_fitted[:, 0].sum() == pytest.approx(3 * paid[:, 0].sum(), rel=ABOUT)
    own, published = fitted.warnings
    assert own.startswith("small: ") and "use the tiers file's price" in own
    assert published.startswith("large: ") and "use the logged dollars" in published


def test_a_price_that_is_not_used_is_not_compared() -> None:
    # Tokens on half of the rows only: dollars are used, whatever the tiers file's price says.
    data = some_inputs()
    asked, answered = tokens(data)
    asked[::2] = np.nan
    paid = dollars(*tokens(data)) / 3
    table = a_table([OWN_PRICE, LARGE], paid, input_tokens=asked, output_tokens=answered)
    fitted = fit_cost(data, dense_design(data), table, BOOK)
    assert fitted.estimator.by_tokens.tolist() == [False, False]
    assert fitted.warnings == []
    assert fitted.priced_over_logged == [None, None]


def test_a_fee_per_request_is_not_left_out() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    # A search model: half a cent for every request, beside which tokens hardly count.
    paid = dollars(asked, answered) + np.array([0.005, 0.0])
    table = a_table([SMALL, LARGE], paid, input_tokens=asked, output_tokens=answered)
    book = Prices(**{"model-s": priced(0.5, 2.0, 0.005), "model-l": priced(5.0, 20.0)})
    assert np.isnan(current_prices(table.tiers, book)[0]).tolist() == [True, False]
    fitted = fit_cost(data, dense_design(data), table, book)
    assert fitted.estimator.by_tokens.tolist() == [False, True]
    assert (fitted.estimator.predict(data.x)[:, 0] > 0.005).all()
    assert fitted.warnings == []


def test_tokens_and_a_price_do_without_logged_dollars() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    table = a_table(
        [SMALL, LARGE], np.full((N, 2), np.nan), input_tokens=asked, output_tokens=answered
    )
    fitted = fit_cost(data, dense_design(data), table, BOOK)
    assert fitted.priced_over_logged == [None, None]
    np.testing.assert_allclose(
        fitted.cross_fitted.sum(axis=0), dollars(asked, answered).sum(axis=0), rtol=ABOUT
    )


def test_neither_dollars_nor_priced_tokens_is_an_error_that_names_the_tier() -> None:
    data = some_inputs()
    asked, answered = tokens(data)
    cost = dollars(asked, answered) * [1.0, np.nan]
    table = a_table([SMALL, LARGE], cost, input_tokens=asked, output_tokens=answered)
    with pytest.raises(InputError, match=r"got none for large: ") as caught:
        fit_cost(data, dense_design(data), table, Prices())
    assert "small" not in str(caught.value)
