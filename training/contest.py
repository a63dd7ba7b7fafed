"""Two routers on the same outcomes: the paired terms that the gate tests (``training.gate``).

Everything that the tests rest on is fixed before an outcome is looked at:

- *lambda* is the champion's success value, as its artifact has it at today's prices; where the
  keyword heuristic is the incumbent, which knows none, the challenger's;
- *rows*: requests marked "train", and those whose text either router was trained on, are left out;
- *full feedback* (every tier's outcome is known): the paired differences of what the two would
  have done on average, one row per different text. The range of the loss is twice the largest
  difference in cost, among the calibration rows that the artifacts carry, between tiers that the
  two choose on some of the queries compared, plus lambda. That looks at queries, not at outcomes;
- *logged feedback* (one tier's outcome per request, with its recorded propensity): doubly robust
  terms (``training.doubly_robust.compare``). Predictions are the mean of what the two artifacts
  say, which were trained on other rows. The maximum weight comes from other rows of the log: those
  left out, or, where they are fewer than 100, a fifth of the texts, which is then set aside. Twice
  the largest cost of each tier, there and in the calibration rows, bounds its cost.

Of full and logged feedback the one with more requests decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from router.errors import InputError
from router.routing import Router
from router.stored_query import Query
from router.tiers import TierSet
from training import metrics
from training.contenders import Field, heuristic_of, keyword_habits, keyword_play, shift_between
from training.contest_rows import (
    Progress,
    Selected,
    logged_of,
    odd_propensities,
    per_text,
    too_few,
)
from training.defaults import DEFAULT_CONFIDENCE
from training.doubly_robust import PairedTerms, QValues, compare
from training.gate import DEFAULT_MARGIN, GateResult, Side, check_levels, decide, refuse
from training.importance import supported_by_log, weight_limit
from training.known_outcomes import Habits
from training.offpolicy import evaluate_policy
from training.split import query_hashes
from training.table import OutcomeTable
from training.verdict import RANGE_FACTOR

__all__ = ["KEYWORD", "contest", "tiers_of_both"]

FloatArray = npt.NDArray[np.float64]
KEYWORD = "keyword"


def tiers_of_both(challenger: Router, incumbent: Router | None) -> TierSet:
    """The tiers of both, the challenger's first: what outcomes have to be about.

    Raises:
        InputError: a tier's name stands for different models in the two.
    """
    tiers = list(challenger.tiers)
    if incumbent is None:
        return TierSet(tiers)
    ours = {tier.name: tier for tier in tiers}
    for tier in incumbent.tiers:
        same = ours.get(tier.name)
        if same is None:
            tiers.append(tier)
        elif tier.model != same.model and not {tier.model, same.model} & {
            *tier.aliases,
            *same.aliases,
        }:
            raise InputError(
                f"expected the tier {tier.name} to be one model, got {same.model} in the "
                f"challenger and {tier.model} in the champion: give the tier another name where "
                "its model changes, or say with --tiers what the log means."
            )
    return TierSet(tiers)


def contest(
    challenger: Router,
    incumbent: Router | None,
    table: OutcomeTable,
    *,
    margin: float = DEFAULT_MARGIN,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> GateResult:
    """Whether the challenger may take the incumbent's place, by these outcomes.

    Args:
        challenger: A loaded artifact.
        incumbent: Another one; None for the keyword heuristic over the challenger's tiers.
        table: Outcomes of the tiers of both; full or logged feedback.
        margin: The success rate that may be lost, at most.
        confidence: 1 - the probability that a challenger that should not be promoted is.
        seed: Of the shuffles.
        on_progress: Called with a stage, requests done, and of how many.

    Raises:
        InputError: no request is left, a tier, a cost or all propensities are missing, or an
            argument is out of range.
    """
    check_levels(margin, confidence)
    names = challenger.tiers.names
    if incumbent is not None:
        names = (*names, *(name for name in incumbent.tiers.names if name not in names))
    pair = _Pair(challenger, incumbent, names, margin, confidence, seed)
    chosen = Selected.of(pair.field.routers, names, table)
    progress: Progress = on_progress or (lambda stage, done, total: None)
    run = _full if chosen.full else _logged
    return run(pair, table, chosen, progress)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """The two, the names of the tiers of both (T), and what was asked for."""

    challenger: Router
    incumbent: Router | None
    names: tuple[str, ...]
    margin: float
    confidence: float
    seed: int

    @property
    def success_value_usd(self) -> float:
        """Lambda: the champion's, or where there is none, the challenger's."""
        return (self.incumbent or self.challenger).policy.success_value_usd

    @property
    def field(self) -> Field:
        routers = [self.challenger] + ([] if self.incumbent is None else [self.incumbent])
        return Field(routers, self.names)

    def play(
        self, queries: list[Query], progress: Progress
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """What each would do, and predicted success and cost (mean of the two): each (n, T)."""
        dists, success, cost = self.field.play(queries, progress)
        if self.incumbent is None:
            dists.append(keyword_play(heuristic_of(self.challenger), queries, self.names))
        return dists[0], dists[1], success, cost

    def habits(self) -> tuple[Habits, Habits]:
        """How the challenger and the champion use the tiers."""
        ours = self.field.habits(self.challenger)
        if self.incumbent is None:
            return ours, keyword_habits(heuristic_of(self.challenger), self.names)
        return ours, self.field.habits(self.incumbent)

    def sides(self, rates: Sequence[float], costs: Sequence[float]) -> tuple[Side, Side]:
        """Both for the report."""
        champion = Side(KEYWORD, KEYWORD, rates[1], costs[1])
        if self.incumbent is not None:
            champion = Side("champion", self.incumbent.artifact_id, rates[1], costs[1])
        return Side("challenger", self.challenger.artifact_id, rates[0], costs[0]), champion


def _full(pair: _Pair, table: OutcomeTable, chosen: Selected, progress: Progress) -> GateResult:
    rows, columns, counts = chosen.rows, chosen.columns, chosen.counts
    dist, champion, _, _ = pair.play(table.query[rows].tolist(), progress)
    value, before, habits = pair.success_value_usd, pair.field.known(), pair.habits()
    shift = shift_between(dist, champion)
    limit = before.loss_range(value, *habits)
    # From here on outcomes are looked at.
    texts = query_hashes(table.query[rows])
    success, cost = table.success[np.ix_(rows, columns)], table.cost_usd[np.ix_(rows, columns)]
    better = per_text(metrics.expected_outcome(shift, success), texts)
    dearer = per_text(metrics.expected_outcome(shift, cost), texts)
    differ = per_text((np.abs(shift).sum(axis=1) > 0).astype(float), texts) > 0
    played = [
        [
            float(per_text(metrics.expected_outcome(d, outcome), texts).mean())
            for d in (dist, champion)
        ]
        for outcome in (success, cost)
    ]
    terms = PairedTerms(
        loss_usd=dearer - value * better,
        success=better,
        loss_bound_usd=limit,
        success_bound=1.0,
        loss_slack_usd=0.0,
        success_slack=0.0,
        ess=float(differ.sum()),
        success_value_usd=value,
    )
    return decide(
        terms,
        margin=pair.margin,
        confidence=pair.confidence,
        variances=before.variances(value, *habits),
        identical=not differ.any(),
        feedback="full",
        sides=pair.sides(*played),
        counts=counts | {"n_requests": len(rows), "n_differ": int(differ.sum())},
        seed=pair.seed,
    )


def _logged(pair: _Pair, table: OutcomeTable, chosen: Selected, progress: Progress) -> GateResult:
    rows, other, columns = chosen.rows, chosen.other, chosen.columns
    counts = {**chosen.counts, "n_requests": len(rows)}
    logged = logged_of(table, rows, columns)
    value, before, habits = pair.success_value_usd, pair.field.known(), pair.habits()
    # The costs of the other rows, as known before as those of calibration.
    before = replace(
        before,
        success=np.concatenate((before.success, table.success[np.ix_(other, columns)])),
        cost_usd=np.concatenate((before.cost_usd, table.cost_usd[np.ix_(other, columns)])),
    )
    max_weight = weight_limit(logged_of(table, other, columns), n_rows=logged.n_texts)
    dist, champion, p, predicted_cost = pair.play(table.query[rows].tolist(), progress)
    q = QValues(p, predicted_cost)
    shift = shift_between(dist, champion)
    # The terms know tiers that neither may choose by their weight of 0 alone.
    may = habits[0].choices | habits[1].choices | (shift != 0).any(axis=0)
    bound = np.where(may, RANGE_FACTOR * before.largest_cost(), 0.0)
    terms = compare(dist, champion, logged, q, value, max_weight=max_weight, cost_bound_usd=bound)
    common = {
        "margin": pair.margin,
        "confidence": pair.confidence,
        "counts": counts,
        "feedback": "logged",
    }
    identical = not shift.any()
    supported = supported_by_log(logged, len(pair.names))
    sides, refusals = [], []
    odd = odd_propensities(logged, pair.names, shift)
    if odd is not None:
        refusals.append(odd)
    for who, policy in zip(("the challenger", "the champion"), (dist, champion), strict=True):
        found = evaluate_policy(
            policy,
            logged,
            q,
            confidence=pair.confidence,
            max_weight=max_weight,
            supported=supported,
            seed=pair.seed,
        )
        if found.refusal is not None:
            refusals.append(f"of {who}, {_uncapitalised(found.refusal)}")
        else:
            sides.append(found.values["dr"])
    report: tuple[Side, ...] = ()
    if len(sides) == 2:
        report = pair.sides(
            [side.success_rate.value for side in sides],
            [side.cost_usd_per_request.value for side in sides],
        )
    if not identical:
        few = too_few(terms, logged.n_texts)
        if not refusals and few is not None:
            refusals.append(few)
        if refusals:
            return refuse(
                "; ".join(refusals),
                success_value_usd=value,
                n_texts=logged.n_texts,
                sides=report,
                **common,  # type: ignore[arg-type]
            )
    return decide(
        terms,
        variances=before.weighted_variances(value, max_weight, *habits),
        identical=identical,
        sides=report,
        seed=pair.seed,
        **common,  # type: ignore[arg-type]
    )


def _uncapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
