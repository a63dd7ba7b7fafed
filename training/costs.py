"""Fit what a tier costs on a query: tokens where the log has them and a price is known, else USD.

A query's cost matters as much as its success: both decide the tier. Heads are ridge regressions on
the logarithm, cross-fitted by query text, with smearing so that predicted and logged sums agree.
Held-out dollars take their smearing from the other folds: it has not seen what it is measured on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.costs import CostEstimator, LogLinearHead, TierMeans
from router.errors import InputError
from router.prices import PriceBook, current_prices
from training.design import Design
from training.inputs import Inputs
from training.metrics import dollar_ratio
from training.ridge import fit_ridge
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

RIDGE_PENALTIES = (1.0, 3.0, 10.0, 30.0)
# Tokens must be logged on this share of a tier's rows before its cost goes by tokens.
_MIN_SHARE_WITH_TOKENS = 0.9
# Today's price of the logged tokens may differ from the logged dollars by this factor unremarked.
_UNREMARKED_FACTOR = 1.25


@dataclass(frozen=True, slots=True)
class FittedCost:
    """The cost estimator, its cross-fitted dollars (n, T), and how prices compare with the log.

    ``priced_over_logged`` is, per tier, today's price of the logged tokens over the logged dollars
    (None where either is unknown).
    """

    estimator: CostEstimator
    cross_fitted: FloatArray
    means: TierMeans
    priced_over_logged: list[float | None]
    warnings: list[str]


def fit_cost(
    data: Inputs,
    design: Design,
    table: OutcomeTable,
    book: PriceBook,
    weight: FloatArray | None = None,
) -> FittedCost:
    """Token heads and dollar heads of every tier, at today's prices.

    ``weight`` (n,) are importance weights of requests that were chosen for their tier: predicted
    and logged sums then agree for all traffic.

    Raises InputError where a tier has neither a price with logged tokens nor logged dollars.
    """
    observed = table.observed
    input_price, output_price = current_prices(table.tiers, book)
    with_tokens = observed & np.isfinite(table.input_tokens) & np.isfinite(table.output_tokens)
    enough = with_tokens.sum(axis=0) >= _MIN_SHARE_WITH_TOKENS * np.maximum(observed.sum(axis=0), 1)
    input_price[~enough] = output_price[~enough] = np.nan
    ratios, agrees, warnings = _against_log(table, input_price, output_price)
    input_price[~agrees] = output_price[~agrees] = np.nan

    head, held_out = fit_head(
        data,
        design,
        np.hstack((table.input_tokens, table.output_tokens, table.cost_usd)),
        np.hstack((with_tokens, with_tokens, observed)),
        weight,
    )
    input_tokens, output_tokens, usd = np.hsplit(held_out, 3)
    input_head, output_head, usd_head = head.split(3)
    estimator = CostEstimator(input_head, output_head, usd_head, input_price, output_price)
    if not estimator.known.all():
        missing = [n for n, k in zip(table.tiers.names, estimator.known, strict=True) if not k]
        raise InputError(
            f"expected logged costs, or tokens and a price, for every tier, got none for "
            f"{', '.join(missing)}: log outcomes of it or drop it from the tiers file."
        )
    priced = estimator.dollars(input_tokens, output_tokens)
    cross_fitted = np.where(estimator.by_tokens, priced, usd)
    means = TierMeans(*(part.mean(axis=0) for part in (input_tokens, output_tokens, usd)))
    return FittedCost(estimator, cross_fitted, means, ratios, warnings)


def _against_log(
    table: OutcomeTable, input_price: FloatArray, output_price: FloatArray
) -> tuple[list[float | None], BoolArray, list[str]]:
    """Today's price of the logged tokens over the logged dollars, and whether both agree (T,).

    Where they do not (an old log, a discount, tokens that the log does not show), the dollars that
    were paid are believed, unless the tiers file itself sets the price.
    """
    priced = (table.input_tokens * input_price + table.output_tokens * output_price) * 1e-6
    ratios: list[float | None] = []
    agrees = np.ones(len(table.tiers), dtype=bool)
    warnings = []
    for index, tier in enumerate(table.tiers):
        both = np.isfinite(priced[:, index]) & (table.cost_usd[:, index] > 0)
        ratio = dollar_ratio(priced[both, index], table.cost_usd[both, index])
        ratios.append(ratio)
        if ratio is None or 1 / _UNREMARKED_FACTOR <= ratio <= _UNREMARKED_FACTOR:
            continue
        agrees[index] = tier.has_price
        basis = "the tiers file's price" if tier.has_price else "the logged dollars"
        warnings.append(
            f"{tier.name}: today's price of the logged tokens is {ratio:.2f} times the logged "
            f"dollars; decisions use {basis}: set or mend the tier's prices in the tiers file."
        )
    return ratios, agrees, warnings


def fit_head(
    data: Inputs,
    design: Design,
    values: FloatArray,
    observed: BoolArray,
    weight: FloatArray | None = None,
) -> tuple[LogLinearHead, FloatArray]:
    """E[value] for values (n, K) of at least 0 by ridge on log value; cross-fitted ones (n, K).

    A column with fewer than two known values stays NaN; one whose values are all 0 is 0. Else
    values of 0 count as a tenth of the least positive one in the logarithm, and as 0 in the
    smearing. ``weight`` (n,) counts in the smearing alone: what a tier costs on a query is learned
    from the queries that it had.
    """
    known = observed & np.isfinite(values)
    positive = known & (values > 0)
    fitted = (known.sum(axis=0) >= 2) & positive.any(axis=0)
    least = np.where(positive, values, np.inf).min(axis=0, initial=np.inf)
    log_y = np.log(np.maximum(np.where(known, values, 1.0), np.where(fitted, 0.1 * least, 1.0)))
    low = np.where(known, log_y, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, log_y, -np.inf).max(axis=0, initial=-np.inf)
    ridge = fit_ridge(design.matrix, data.fold, log_y, known & fitted, RIDGE_PENALTIES)
    u = np.ones(len(values)) if weight is None else weight
    coefficients, bias = design.unfold(ridge.weight, ridge.bias)
    raw = np.exp(np.clip(ridge.held_out, low, high))
    smear = np.full(len(fitted), np.nan)
    held_out = np.full(values.shape, np.nan)
    for column in np.flatnonzero(fitted):
        seen = known[:, column]
        y, expected = u[seen] * values[seen, column], u[seen] * raw[seen, column]
        smear[column] = y.sum() / expected.sum()
        for f, inside in _other_folds(data.fold, seen).items():
            factor = y[inside].sum() / expected[inside].sum()
            held_out[data.fold == f, column] = factor * raw[data.fold == f, column]
    # A tier of one's own may be free.
    free = (known.sum(axis=0) >= 2) & ~fitted
    for part in (coefficients, bias, low, high, smear, held_out):
        part[..., free] = 0.0
        part[..., ~fitted & ~free] = np.nan
    return LogLinearHead(coefficients, bias, low, high, smear), held_out


def _other_folds(fold: IntArray, known: BoolArray) -> dict[int, BoolArray]:
    """Of every fold the known rows outside it; all of them where fewer than two are."""
    result = {}
    for f in np.unique(fold):
        outside = fold[known] != f
        result[int(f)] = outside if outside.sum() >= 2 else np.ones_like(outside)
    return result
