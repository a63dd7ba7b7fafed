"""Cost heads against their formulas, at their extremes, and back from their arrays."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.costs import CostEstimator, LogLinearHead, TierMeans
from router.errors import ArtifactError

FloatArray = npt.NDArray[np.float64]

N, D, T = 40, 6, 3
SIZES = {"D": D, "T": T}


def asked() -> FloatArray:
    return np.random.default_rng(1).normal(size=(N, D))


def head(rng: np.random.Generator, unfitted: tuple[int, ...] = ()) -> LogLinearHead:
    weight, bias, smear = 0.1 * rng.normal(size=(D, T)), rng.normal(size=T), rng.uniform(1, 1.5, T)
    known = np.where(np.isin(np.arange(T), unfitted), np.nan, 1.0)
    return LogLinearHead(
        weight * known, bias * known, (bias - 2.0) * known, (bias + 2.0) * known, smear * known
    )


def cost_estimator(
    prices_in: list[float],
    prices_out: list[float],
    unfitted_tokens: tuple[int, ...] = (),
    unfitted_usd: tuple[int, ...] = (),
) -> CostEstimator:
    rng = np.random.default_rng(5)
    return CostEstimator(
        head(rng, unfitted_tokens),
        head(rng, unfitted_tokens),
        head(rng, unfitted_usd),
        np.array(prices_in),
        np.array(prices_out),
    )


def test_a_cost_estimator_survives_its_arrays() -> None:
    prices = [1.0, math.nan, 2.0], [3.0, 4.0, 5.0]
    made = cost_estimator(*prices, unfitted_tokens=(1,), unfitted_usd=(0,))
    again = CostEstimator.from_arrays(made.to_arrays(), SIZES, *map(np.array, prices))
    x = asked()
    np.testing.assert_array_equal(again.predict(x), made.predict(x))
    assert again.by_tokens.tolist() == made.by_tokens.tolist() == [True, False, True]


def test_one_request_without_a_first_dimension_is_that_request() -> None:
    made, x = cost_estimator([1.0, math.nan, 2.0], [3.0, 4.0, 5.0]), asked()
    for row in (0, 7):
        etas = [x[row] @ weight + bias for weight, bias in made.linear]
        assert made.from_eta(etas) == pytest.approx(made.predict(x)[row])


def test_only_heads_that_some_price_asks_for_are_worked_out() -> None:
    known, unknown = [1.0, 1.0, 1.0], [math.nan] * 3
    assert len(cost_estimator(known, known).linear) == 2
    assert len(cost_estimator(unknown, known).linear) == 1
    assert len(cost_estimator([1.0, math.nan, 1.0], known).linear) == 3


def test_a_head_is_smeared_and_clipped_to_what_training_saw() -> None:
    made, x = head(np.random.default_rng(0)), asked()
    for row, tier in ((0, 0), (9, 2)):
        log_y = x[row] @ made.weight[:, tier] + made.bias[tier]
        log_y = min(max(log_y, made.log_low[tier]), made.log_high[tier])
        assert made.predict(x)[row, tier] == pytest.approx(made.smear[tier] * math.exp(log_y))
    far = made.predict(1e9 * x)
    assert np.isfinite(far).all()
    assert (far >= made.smear * np.exp(made.log_low) * (1 - 1e-9)).all()
    assert (far <= made.smear * np.exp(made.log_high) * (1 + 1e-9)).all()
    assert np.unique(far.round(12)).size > T  # both ends are reached


def test_an_unfitted_tier_is_unknown_and_the_others_are_not_touched() -> None:
    rng = np.random.default_rng(0)
    made, whole = head(rng, unfitted=(1,)), head(np.random.default_rng(0))
    x = asked()
    assert made.fitted.tolist() == [True, False, True]
    assert np.isnan(made.predict(x)[:, 1]).all()
    assert (made.predict(x)[:, [0, 2]] == whole.predict(x)[:, [0, 2]]).all()


def test_cost_is_tokens_times_price_where_both_are_known_and_dollars_elsewhere() -> None:
    x = asked()
    made = cost_estimator([1.0, math.nan, 3.0], [2.0, 5.0, 4.0], unfitted_tokens=(2,))
    assert made.by_tokens.tolist() == [True, False, False]
    assert made.known.all()
    found, usd = made.predict(x), made.usd.predict(x)
    tokens = made.input_tokens.predict(x)[:, 0] * 1.0 + made.output_tokens.predict(x)[:, 0] * 2.0
    assert found[:, 0] == pytest.approx(tokens / 1e6)
    assert (found[:, 1:] == usd[:, 1:]).all()


def test_cost_by_dollars_alone_and_by_tokens_alone() -> None:
    x = asked()
    none = cost_estimator([math.nan] * T, [math.nan] * T)
    assert (none.predict(x) == none.usd.predict(x)).all()
    every = cost_estimator([1.0] * T, [2.0] * T, unfitted_usd=(0, 1, 2))
    assert every.known.all()
    assert np.isfinite(every.predict(x)).all()


def test_a_tier_without_price_or_dollars_is_not_known() -> None:
    made = cost_estimator([1.0, math.nan, 1.0], [1.0] * T, unfitted_usd=(1,))
    assert made.known.tolist() == [True, False, True]
    assert np.isnan(made.predict(asked())[:, 1]).all()
    with pytest.raises(ArtifactError, match="cost of every tier"):
        CostEstimator.from_arrays(
            made.to_arrays(), SIZES, made.input_usd_per_mtok, made.output_usd_per_mtok
        )


@given(st.floats(0.0, 1e3), st.floats(0.0, 1e3))
def test_cost_is_linear_in_prices(input_price: float, output_price: float) -> None:
    x = asked()
    made = cost_estimator([1.0] * T, [1.0] * T)
    one = made.priced(np.full(T, input_price), np.zeros(T)).predict(x)
    other = made.priced(np.zeros(T), np.full(T, output_price)).predict(x)
    both = made.priced(np.full(T, input_price), np.full(T, output_price)).predict(x)
    assert both == pytest.approx(one + other)
    assert one == pytest.approx(made.input_tokens.predict(x) * input_price / 1e6)
    assert (made.predict(x) == made.priced(np.ones(T), np.ones(T)).predict(x)).all()


def test_tier_means_give_the_mean_cost_at_any_price() -> None:
    x = asked()
    made = cost_estimator([1.0, 2.0, math.nan], [3.0, 4.0, math.nan])
    means = TierMeans(
        made.input_tokens.predict(x).mean(axis=0),
        made.output_tokens.predict(x).mean(axis=0),
        made.usd.predict(x).mean(axis=0),
    )
    for factor in (1.0, 0.1):
        priced = made.priced(made.input_usd_per_mtok * factor, made.output_usd_per_mtok * factor)
        assert means.dollars(priced) == pytest.approx(priced.predict(x).mean(axis=0))


def test_tier_means_survive_the_manifest_where_unknown_is_null() -> None:
    means = TierMeans(np.array([1.5, math.nan]), np.array([2.5, math.nan]), np.array([0.1, 0.2]))
    text = json.dumps(means.to_dict()).replace("NaN", "null")
    again = TierMeans.from_dict(json.loads(text))
    for name in ("input_tokens", "output_tokens", "usd"):
        np.testing.assert_array_equal(getattr(again, name), getattr(means, name))
