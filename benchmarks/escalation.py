"""Trying tiers until a verifier is content, against routing once: cost at the same success rate.

All is on the test rows, after fitting on the training rows of a set (the estimators alone, as in
the nested folds: no certificate, no out-of-distribution rule, no prior). ``benchmarks/cascade.py``
says what a verifier is and what counts as a success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.cascade import (
    CHEAPEST_FIRST,
    GIVEN,
    INDEPENDENT,
    METHODS,
    ONCE,
    UNTOLD,
    Plan,
    Predicted,
    Worth,
    net_values,
    planners,
    plans_by_value,
    played,
)
from benchmarks.escalation_rules import curve, rules_table
from benchmarks.results import Say, Section, Table
from router.embedding import Embedder
from router.escalation import Escalation, Verifier
from router.policy import cheapest_mix
from router.prices import PriceBook
from training.costs import fit_cost
from training.design import Design
from training.escalation import fit_escalation, loss_after_failure
from training.features import embed_queries
from training.fit import fit_success
from training.prepare import prepare
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]

FAMILY = "ridge"
# Success rates at which costs are compared, from that of the tier that is strongest on the test
# rows; the last one is half of the way to "some tier succeeds".
TARGETS = (-0.05, -0.02, 0.0)
VALUES_USD = (0.001, 0.01, 0.1, 1.0)
N_RESAMPLES = 200
# Ratios as near to 1 as this differ by rounding.
SAME = 1e-9
VERIFIERS = (Verifier(0.0, 0.0), Verifier(0.05, 0.05), Verifier(0.2, 0.1))


def fitted(table: OutcomeTable, embedder: Embedder, seed: int, say: Say) -> Predicted:
    """Fit on the training rows, predict the test rows on which every tier is known."""
    with threadpool_limits(limits=1):  # as in the pipeline
        rows = prepare(table, embedder, seed, say)
        fitting, complete = rows.fitting, rows.fitting.complete
        design = Design.of(rows.data, rows.refs.all)
        say("fitting")
        costs = fit_cost(rows.data, design, fitting, PriceBook()).estimator
        success = fit_success(
            rows.data,
            design,
            rows.refs,
            fitting.success,
            fitting.observed,
            (FAMILY,),
            other_success=fitting.other_success,
        )[FAMILY]
        found = fit_escalation(
            success.cross_fitted[complete], fitting.success[complete], rows.data.fold[complete]
        ).estimator
        test = table.take(rows.split.test & table.complete)
        queries = test.query.tolist()
        vectors = embed_queries(embedder, queries)
        similarity = vectors @ rows.refs.all.T
        x = rows.input_map.many(queries, vectors, similarity)
        return Predicted(
            success.estimator.predict(x, similarity),
            costs.predict(x),
            test.success,
            test.cost_usd,
            found or Escalation(np.zeros(len(table.tiers))),
        )


def cost_at(success: FloatArray, paid: FloatArray, target: float) -> float:
    """Least mean dollars of a coin-flip between two points of a curve (V,) that reaches the rate.

    Infinite where no point reaches it.
    """
    mix = cheapest_mix(paid, success, target)
    return mix.cost_usd if mix.reached else float("inf")


@dataclass(frozen=True, slots=True)
class Matched:
    """Mean dollars of every method at one success rate, infinite where it is not reached.

    Ratios of the plan's to another method's come with a 95 % interval over resampled rows, and are
    NaN where neither reaches it.
    """

    verifier: Verifier
    success_rate: float
    cost_usd: dict[str, float]
    ratio: dict[str, tuple[float, float, float]]

    @property
    def wins(self) -> str:
        """Whether the plan or routing once is cheaper beyond chance."""
        ratio, low, high = self.ratio[ONCE]
        if np.isnan(ratio):
            return "neither reaches it"
        return "plan" if high < 1 - SAME else "once" if low > 1 + SAME else "tie"

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            **asdict(self.verifier),
            "success_rate": self.success_rate,
            "cost_usd": self.cost_usd,
            "plan_over": self.ratio,
            "wins": self.wins,
        }


def matched(
    data: Predicted, plans: Mapping[str, list[list[Plan]]], verifier: Verifier, seed: int
) -> list[Matched]:
    """Costs at each target, and how sure the ratios are."""
    curves = {}
    for method, points in plans.items():
        each = [played(point, data.success, data.realised_usd, verifier) for point in points]
        curves[method] = tuple(np.array(column) for column in zip(*each, strict=True))
    n = len(data.success)
    strongest = data.success.mean(axis=0).max()
    some = data.success.max(axis=1).mean()
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(n, np.full(n, 1 / n), N_RESAMPLES).T / n
    drawn = {method: (s @ weight, c @ weight) for method, (s, c) in curves.items()}
    result = []
    for target in (*(strongest + gap for gap in TARGETS), (strongest + some) / 2):
        cost = {
            method: cost_at(s.mean(axis=1), c.mean(axis=1), target)
            for method, (s, c) in curves.items()
        }
        again = {
            method: np.array([cost_at(s[:, b], c[:, b], target) for b in range(N_RESAMPLES)])
            for method, (s, c) in drawn.items()
        }
        ratio = {
            method: _interval(cost[GIVEN], cost[method], again[GIVEN], again[method])
            for method in plans
            if method != GIVEN
        }
        result.append(Matched(verifier, float(target), cost, ratio))
    return result


def _interval(
    a: float, b: float, drawn_a: FloatArray, drawn_b: FloatArray
) -> tuple[float, float, float]:
    """Ratio a / b and its interval: 0 where only a reaches the rate, infinite where only b does."""
    if np.isinf(a) and np.isinf(b):
        return float("nan"), float("nan"), float("nan")
    either = np.isfinite(drawn_a) | np.isfinite(drawn_b)
    drawn = drawn_a[either] / drawn_b[either]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return a / b, float(low), float(high)


def _say(say: Say, name: str, message: str) -> None:
    say(f"{name}: {message}")


def losses(data: Predicted) -> tuple[float, float]:
    """Log-loss on test rows after a failure, of the fitted loadings and of independence."""
    loading = data.escalation.loading
    given, independent = (
        loss_after_failure(data.p_success, data.success, x) for x in (loading, 0.0 * loading)
    )
    return given, independent


def measure(
    tables: Mapping[str, OutcomeTable],
    left_out: Sequence[str],
    embedder: Embedder,
    say: Say,
    *,
    seed: int = 0,
) -> Section:
    """Every set: log-loss after failures, cost at the same success rate, worth at a given value."""
    shown: list[Table] = []
    sets: dict[str, Any] = {}
    loss_rows: list[tuple[str, ...]] = []
    for name, table in tables.items():
        data = fitted(table, embedder, seed, partial(_say, say, name))
        say(f"{name}: planning {len(data.success):,} test requests")
        loss = losses(data)
        loading = " ".join(f"{value:.2f}" for value in data.escalation.loading)
        loss_rows.append((name, f"{len(data.success):,}", loading, *(f"{x:.3f}" for x in loss)))
        rates: list[Matched] = []
        worth: list[Worth] = []
        for verifier in VERIFIERS:
            methods = planners(data, verifier)
            rates += matched(data, plans_by_value(data, methods), verifier, seed)
            worth += [net_values(data, methods, value) for value in VALUES_USD]
        shown += [_matched_table(name, rates), _worth_table(name, worth)]
        sets[name] = {
            "n_test": len(data.success),
            "loading": data.escalation.loading.tolist(),
            "log_loss_after_failure": {"given": loss[0], "independent": loss[1]},
            "matched": [one.to_dict() for one in rates],
            "worth": [asdict(one) for one in worth],
        }
    note = (
        "Of each tier's success on test rows where one other tier failed, over all such pairs; "
        "the loadings (0: independent) are in the order of the tiers file."
    )
    columns = ("set", "test rows", "loadings", "log-loss after a failure", "if independent")
    shown.insert(0, Table("Do tiers fail together?", columns, loss_rows, (note,)))
    curves = {
        name: curve(table, embedder, partial(_say, say, name)) for name, table in tables.items()
    }
    shown.insert(1, rules_table(curves))
    for name, by_n in curves.items():
        sets[name]["rules"] = {
            str(n): [{"real": real, "independent": made} for real, made in pairs]
            for n, pairs in by_n.items()
        }
    if left_out:
        shown.append(Table("Left out", ("set",), [(sentence,) for sentence in left_out]))
    return Section("Escalation", shown, {"left_out": list(left_out), "sets": sets})


def _matched_table(name: str, rates: Sequence[Matched]) -> Table:
    columns = ("miss / false alarm", "success", *METHODS, "plan / once [95 %]")
    others = (ONCE, UNTOLD, INDEPENDENT, CHEAPEST_FIRST)
    rows = [
        (
            _label(one.verifier),
            f"{one.success_rate:.3f}",
            *(_dollars(one.cost_usd[method]) for method in METHODS),
            *(_ratio(one.ratio[method]) for method in others),
            one.wins,
        )
        for one in rates
    ]
    note = (
        "$ per 1,000 requests at that success rate, on each method's own curve over the test rows "
        "(the success value swept; the fixed cascades, every subset of the tiers from the cheapest "
        "up); '-': not reached, a ratio of 0: by the plan alone. Rates: the strongest tier's -.05, "
        "-.02 and +0, and half of the way from it to 'some tier succeeds'."
    )
    more = ("/ not told", "/ independent", "/ cheapest first", "cheaper")
    return Table(f"{name}: until success or once", (*columns, *more), rows, (note,))


def _worth_table(name: str, worth: Sequence[Worth]) -> Table:
    methods, others = (ONCE, GIVEN, UNTOLD), (ONCE, UNTOLD, INDEPENDENT)
    columns = (
        *("miss / false alarm", "a success is worth", *methods),
        *("plan - once [95 %]", "plan - not told", "plan - independent"),
    )
    rows = []
    for one in worth:
        cells = [
            f"{success:.3f} {1000 * paid:.3g} {1000 * net:.4g}"
            for success, paid, net in (one.means[method] for method in methods)
        ]
        gaps = ["{:+.3g} [{:+.3g}, {:+.3g}]".format(*_thousands(one.gap[m])) for m in others]
        rows.append((_label(one.verifier), f"${one.value_usd:g}", *cells, *gaps))
    note = (
        "Success rate, $ per 1,000 requests, and what is left of the successes' worth per 1,000; "
        "differences of the latter, paired by request."
    )
    return Table(f"{name}: at a given worth of a success", columns, rows, (note,))


def _label(verifier: Verifier) -> str:
    return f"{verifier.miss_rate:g} / {verifier.false_alarm_rate:g}"


def _thousands(values: Sequence[float]) -> list[float]:
    return [1000 * value + 0.0 for value in values]


def _dollars(cost_usd: float) -> str:
    return f"{1000 * cost_usd:.4g}" if np.isfinite(cost_usd) else "-"


def _ratio(found: tuple[float, float, float]) -> str:
    return "" if np.isnan(found[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*found)
