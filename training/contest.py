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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from router.costs import TierMeans
from router.decision import Predictions
from router.errors import InputError
from router.keyword import KeywordRouter
from router.routing import Router
from router.tiers import TierSet
from training import baselines, metrics
from training.defaults import DEFAULT_CONFIDENCE
from training.doubly_robust import PairedTerms, QValues, compare
from training.gate import DEFAULT_MARGIN, GateResult, Side, check_levels, decide, refuse
from training.importance import Logged, supported_by_log, weight_limit
from training.logged_rows import OneTier
from training.offpolicy import MIN_ESS, evaluate_policy
from training.propensity import not_adding_up
from training.split import fitting_calibration, query_hashes
from training.table import OutcomeTable
from training.verdict import RANGE_FACTOR

__all__ = ["KEYWORD", "contest", "tiers_of_both"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]
# Gets what is being done, how many requests are done, and of how many.
Progress = Callable[[str, int, int], None]

KEYWORD = "keyword"

# From so many other rows of a log on, none has to be set aside to fix the maximum weight.
_MIN_OTHER_ROWS = 100
_SET_ASIDE = 0.2
_CHUNK = 8192
# A difference of probabilities this small is rounding.
_ROUNDING = 1e-12


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
    columns = _columns(names, table)
    kept, other, counts = _rows(pair, table)
    observed = table.observed[np.ix_(kept, columns)].sum(axis=1)
    complete = observed == len(names)
    chosen = np.where(complete, -1, _one_tier(table, kept, columns))
    n_unknown = int(((observed == 1) & ~complete & (chosen < 0)).sum())
    full = int(complete.sum()) >= int((chosen >= 0).sum()) and complete.any()
    rows = kept[complete] if full else kept[chosen >= 0]
    counts["n_incomplete" if full else "n_not_one_tier"] = len(kept) - len(rows)
    if not full:
        counts["n_not_one_tier"] -= n_unknown
        counts["n_without_propensity"] = n_unknown
    if not len(rows):
        raise InputError(_nothing_left(counts))
    # The order of the file is of no effect.
    rows = rows[np.argsort(table.request_id[rows], kind="stable")]
    table.take(rows).require_costs()
    progress: Progress = on_progress or (lambda stage, done, total: None)
    if full:
        return _full(pair, table, rows, columns, counts, progress)
    return _logged(pair, table, rows, other, columns, counts, progress)


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
    def routers(self) -> list[Router]:
        return [self.challenger] + ([] if self.incumbent is None else [self.incumbent])

    def columns(self, router: Router) -> IntArray:
        """Where the router's tiers stand among those of both."""
        return np.array([self.names.index(name) for name in router.tiers.names], dtype=np.intp)

    def spread(self, router: Router, values: FloatArray, fill: float) -> FloatArray:
        """(n, its tiers) -> (n, T)."""
        result = np.full((len(values), len(self.names)), fill)
        result[:, self.columns(router)] = values
        return result

    def heuristic(self) -> KeywordRouter:
        """Over the challenger's tiers, by what they cost in its training."""
        means = TierMeans.from_dict(self.challenger.manifest["training"]["tier_means"])
        cost = means.dollars(self.challenger.predictor.cost)
        names = self.challenger.tiers.names
        return KeywordRouter.for_tiers([names[i] for i in np.argsort(cost, kind="stable")])

    def play(
        self, queries: list[str], progress: Progress
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """What each would do, and predicted success and cost (mean of the two): each (n, T)."""
        dists, success, cost = [], [], []
        for router in self.routers:
            predicted = _predict(router, queries, progress)
            dists.append(self.spread(router, router.action_dist(predicted), 0.0))
            success.append(self.spread(router, predicted.p_success, math.nan))
            cost.append(self.spread(router, predicted.cost_usd, math.nan))
        if self.incumbent is None:
            dists.append(baselines.keyword(queries, self.names, self.heuristic()))
        # Every tier belongs to one of the two: no column is all NaN.
        return (
            dists[0],
            dists[1],
            np.nanmean(np.stack(success), axis=0),
            np.nanmean(np.stack(cost), axis=0),
        )

    def before(self) -> _Before:
        """The calibration rows that the artifacts carry, as columns of all tiers."""
        success, cost = [], []
        for router in self.routers:
            rows = router.calibration
            success.append(self.spread(router, rows.success, math.nan))
            cost.append(self.spread(router, rows.realised_cost_usd, math.nan))
        shares, choices = [], []
        for router in self.routers:
            rows = router.calibration
            dist = router.action_dist(rows.predictions)
            mean = dist.mean(axis=0) if len(dist) else np.full(dist.shape[1], 1 / dist.shape[1])
            shares.append(self.spread(router, mean[None, :], 0.0)[0])
            choices.append(shares[-1] > 0)
            choices[-1][self.columns(router)[router.safe_tier]] = True
        if self.incumbent is None:
            tiers = [self.names.index(name) for name in self.heuristic().tiers]
            shares.append(np.eye(len(self.names))[tiers[1]])
            choices.append(np.isin(np.arange(len(self.names)), tiers))
        return _Before(np.concatenate(success), np.concatenate(cost), *shares, *choices)

    def sides(self, rates: Sequence[float], costs: Sequence[float]) -> tuple[Side, Side]:
        """Both for the report."""
        champion = Side(KEYWORD, KEYWORD, rates[1], costs[1])
        if self.incumbent is not None:
            champion = Side("champion", self.incumbent.artifact_id, rates[1], costs[1])
        return Side("challenger", self.challenger.artifact_id, rates[0], costs[0]), champion


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """Outcomes known before the compared ones, (m, T) with NaN; and how the two use the tiers.

    The shares are those of every tier (T,) there, the choices (T,) the tiers that may be chosen.
    """

    success: FloatArray
    cost_usd: FloatArray
    challenger_share: FloatArray
    champion_share: FloatArray
    challenger_choices: BoolArray
    champion_choices: BoolArray

    def largest_cost(self) -> FloatArray:
        """The most that a request cost on each tier, (T,); where unknown, on any."""
        known = np.where(np.isnan(self.cost_usd), -1.0, self.cost_usd)
        largest: FloatArray = known.max(axis=0, initial=-1.0)
        return np.where(largest < 0, largest.max(initial=0.0), largest)

    def loss_range(self, value: float) -> float:
        """How much larger the challenger's loss on a request can be than the champion's."""
        dearest, most = self.largest_cost(), 0.0
        for s, t in product(*map(np.flatnonzero, (self.challenger_choices, self.champion_choices))):
            if s == t:
                continue
            apart = self.cost_usd[:, s] - self.cost_usd[:, t]
            apart = apart[np.isfinite(apart)]
            # Costs are not negative: without both on a row, the dearer of the two at its dearest.
            most = max(most, float(apart.max()) if len(apart) else float(dearest[s]))
        return RANGE_FACTOR * most + value

    def variances(self, value: float) -> tuple[float, float]:
        """About the mean squared difference of success, and of loss, between the two."""
        parts = []
        for outcome in (self.success, self.cost_usd - value * self.success):
            total = 0.0
            for s in np.flatnonzero(self.challenger_share):
                for t in np.flatnonzero(self.champion_share):
                    squared = (outcome[:, s] - outcome[:, t]) ** 2
                    squared = squared[np.isfinite(squared)]
                    both = self.challenger_share[s] * self.champion_share[t]
                    total += float(both * (squared.mean() if len(squared) else 0.0))
            parts.append(total)
        return parts[0], parts[1]

    def weighted_variances(self, value: float, max_weight: float) -> tuple[float, float]:
        """The same for terms that are weighted: about their variance around predictions."""
        share = self.challenger_share + self.champion_share
        parts = []
        for outcome in (self.success, self.cost_usd - value * self.success):
            spread = np.array(
                [
                    float(np.var(column[np.isfinite(column)])) if np.isfinite(column).any() else 0.0
                    for column in outcome.T
                ]
            )
            parts.append(max_weight * float(share @ spread))
        return parts[0], parts[1]


def _full(
    pair: _Pair,
    table: OutcomeTable,
    rows: IntArray,
    columns: IntArray,
    counts: dict[str, int],
    progress: Progress,
) -> GateResult:
    dist, champion, _, _ = pair.play(table.query[rows].tolist(), progress)
    value, before = pair.success_value_usd, pair.before()
    shift = _shift(dist, champion)
    limit = before.loss_range(value)
    # From here on outcomes are looked at.
    texts = query_hashes(table.query[rows])
    success, cost = table.success[np.ix_(rows, columns)], table.cost_usd[np.ix_(rows, columns)]
    better = _per_text(metrics.expected_outcome(shift, success), texts)
    dearer = _per_text(metrics.expected_outcome(shift, cost), texts)
    differ = _per_text((np.abs(shift).sum(axis=1) > 0).astype(float), texts) > 0
    played = [
        [
            float(_per_text(metrics.expected_outcome(d, outcome), texts).mean())
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
        variances=before.variances(value),
        identical=not differ.any(),
        feedback="full",
        sides=pair.sides(*played),
        counts=counts | {"n_requests": len(rows), "n_differ": int(differ.sum())},
        seed=pair.seed,
    )


def _logged(
    pair: _Pair,
    table: OutcomeTable,
    rows: IntArray,
    other: IntArray,
    columns: IntArray,
    counts: dict[str, int],
    progress: Progress,
) -> GateResult:
    known = _one_tier(table, other, columns)
    other = other[known >= 0]
    counts = {**counts, "n_set_aside": 0}
    if len(other) < _MIN_OTHER_ROWS:
        aside = fitting_calibration(
            query_hashes(table.query[rows]), calibration_share=_SET_ASIDE, salt="gate"
        )
        if not aside.any() or aside.all():
            raise InputError(
                f"expected enough different texts to set a fifth aside, got {len(rows)} requests: "
                "give a longer log."
            )
        other, rows = rows[aside], rows[~aside]
        counts["n_set_aside"] = int(aside.sum())
    counts["n_requests"] = len(rows)
    logged = _as_logged(table, rows, columns)
    value, before = pair.success_value_usd, pair.before()
    # The costs of the other rows, as known before as those of calibration.
    before = replace(
        before,
        success=np.concatenate((before.success, table.success[np.ix_(other, columns)])),
        cost_usd=np.concatenate((before.cost_usd, table.cost_usd[np.ix_(other, columns)])),
    )
    max_weight = weight_limit(_as_logged(table, other, columns), n_rows=logged.n_texts)
    dist, champion, p, predicted_cost = pair.play(table.query[rows].tolist(), progress)
    q = QValues(p, predicted_cost)
    shift = _shift(dist, champion)
    # The terms know tiers that neither may choose by their weight of 0 alone.
    chosen = before.challenger_choices | before.champion_choices | (shift != 0).any(axis=0)
    bound = np.where(chosen, RANGE_FACTOR * before.largest_cost(), 0.0)
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
    assert logged.text is not None
    odd = [
        pair.names[t]
        for t in not_adding_up(logged.tier, logged.propensity, logged.text)
        if shift[:, t].any()
    ]
    if odd:
        refusals.append(
            f"the recorded propensities of {', '.join(odd)} do not add up to the requests: they "
            "are wrong, or the log gave it no chance on some; check how they were recorded, and "
            "explore among all tiers"
        )
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
        if not refusals and terms.ess < MIN_ESS:
            refusals.append(_too_few(terms, logged.n_texts))
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
        variances=before.weighted_variances(value, max_weight),
        identical=identical,
        sides=report,
        seed=pair.seed,
        **common,  # type: ignore[arg-type]
    )


def _predict(router: Router, queries: list[str], progress: Progress) -> Predictions:
    parts = []
    for start in range(0, len(queries), _CHUNK):
        parts.append(router.predict(queries[start : start + _CHUNK]))
        progress("predict", min(start + _CHUNK, len(queries)), len(queries))
    return Predictions.joined(parts)


def _shift(challenger: FloatArray, champion: FloatArray) -> FloatArray:
    """What the challenger does more often than the champion, (n, T); 0 where it is rounding."""
    shift = challenger - champion
    return np.where(np.abs(shift) > _ROUNDING, shift, 0.0)


def _per_text(values: FloatArray, texts: npt.NDArray[np.uint64]) -> FloatArray:
    """Mean over the requests of each text, (n,) -> (number of texts,)."""
    _, group, sizes = np.unique(texts, return_inverse=True, return_counts=True)
    result: FloatArray = np.bincount(group, values, len(sizes)) / sizes
    return result


def _columns(names: tuple[str, ...], table: OutcomeTable) -> IntArray:
    index = {name: i for i, name in enumerate(table.tiers.names)}
    missing = [name for name in names if name not in index]
    if missing:
        raise InputError(
            f"expected outcomes of the tiers of both routers ({', '.join(names)}), got none of "
            f"{', '.join(missing)}: use a tiers file that names them all."
        )
    return np.array([index[name] for name in names], dtype=np.intp)


def _rows(pair: _Pair, table: OutcomeTable) -> tuple[IntArray, IntArray, dict[str, int]]:
    """Requests to compare, those left out because of training, and counts."""
    train = np.array([value == "train" for value in table.split], dtype=bool)
    hashes = query_hashes(table.query)
    trained = np.zeros(len(hashes), dtype=bool)
    for router in pair.routers:
        trained |= np.isin(hashes, router.trained_query_hashes)
    out = train | trained
    counts = {
        "n_rows": table.n_requests,
        "n_train_split": int(train.sum()),
        "n_left_out_trained": int((trained & ~train).sum()),
    }
    return np.flatnonzero(~out), np.flatnonzero(out), counts


def _one_tier(table: OutcomeTable, rows: IntArray, columns: IntArray) -> IntArray:
    """The tier whose outcome is used, with its propensity (``OneTier``), (n,); else -1."""
    tier = OneTier.of(table, rows, columns).tier
    recorded = np.isfinite(table.propensity[rows, columns[tier]])
    result: IntArray = np.where((tier >= 0) & recorded, tier, -1)
    return result


def _as_logged(table: OutcomeTable, rows: IntArray, columns: IntArray) -> Logged:
    tier = _one_tier(table, rows, columns)
    at = rows, columns[tier]
    cost = table.cost_usd[at]
    return Logged(
        tier=tier.astype(np.int64),
        propensity=table.propensity[at],
        success=table.success[at],
        # Of rows that only fix the maximum weight the cost may be unknown.
        cost_usd=np.nan_to_num(cost),
        text=np.unique(query_hashes(table.query[rows]), return_inverse=True)[1].astype(np.int64),
    )


def _too_few(terms: PairedTerms, n_texts: int) -> str:
    more = "log with exploration"
    if terms.ess > 0:
        needed = math.ceil(MIN_ESS / terms.ess * n_texts)
        more = f"about {needed:,} texts logged in this way, or more exploration, would do"
    return (
        f"the two differ on too little of the log: expected an effective sample size of at least "
        f"{MIN_ESS:g} where they differ, got {terms.ess:.3g} from {n_texts:,} different texts; "
        f"{more}"
    )


def _uncapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _nothing_left(counts: dict[str, int]) -> str:
    left_out = [
        (counts["n_train_split"], "are marked train"),
        (counts["n_left_out_trained"], "have a text that one of the routers was trained on"),
        (counts.get("n_incomplete", 0), "lack the outcome of a tier"),
        (counts.get("n_without_propensity", 0), "were logged without a propensity"),
        (counts.get("n_not_one_tier", 0), "have neither every tier's outcome nor just one"),
    ]
    why = ", ".join(f"{n:,} {what}" for n, what in left_out if n)
    return (
        "expected requests that neither router was trained on, with the outcome of every tier or "
        f"of one tier and its propensity, got none of {counts['n_rows']:,}: {why}; bring new "
        "requests, and record the propensity that every decision carries."
    )
