"""What a log chose: the tier that was called for every request, and with which propensity.

What the log's choice does to estimates is undone by importance weights, 1 / propensity of the tier
that was called. Where a propensity is not recorded it is estimated. Where the logging policy never
tried a tier on queries like one, nothing is known of it there (``router.support``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from router.stored_query import Query
from router.support import (
    MIN_PROPENSITY,
    KeywordSupport,
    LinearSupport,
    Support,
    keyword_places,
    tried,
)
from training.importance import effective_sample_size
from training.logged_rows import OneTier
from training.propensity import CERTAIN, fit_propensity, not_adding_up, propensity_by_stratum
from training.split import query_hashes
from training.table import OutcomeTable

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# Weights stay below that of the least propensity that counts as tried.
MAX_WEIGHT = 1.0 / MIN_PROPENSITY
# The largest weight is rounded up to a power of this, so that it hardly depends on the rows.
_STEP = 2.0**0.25


def is_logged(table: OutcomeTable) -> bool:
    """Whether more requests show one tier's outcome than show every tier's, as in evaluation.

    A table of a single tier is full feedback.
    """
    found = OneTier.of(table, np.arange(table.n_requests), np.arange(table.n_tiers))
    return int(found.single.sum()) > int(found.complete.sum())


def as_logged(table: OutcomeTable) -> tuple[OutcomeTable, int]:
    """The requests whose logged choice is known, with its outcome alone; and how many are not.

    A request with the outcomes of several tiers counts where it is known which was chosen first
    (``training.logged_rows``).
    """
    tier = OneTier.of(table, np.arange(table.n_requests), np.arange(table.n_tiers)).tier
    kept = tier >= 0
    chosen = tier[:, None] == np.arange(table.n_tiers)

    def seen(values: FloatArray) -> FloatArray:
        return np.where(chosen, values, np.nan)

    logged = replace(
        table,
        success=seen(table.success),
        cost_usd=seen(table.cost_usd),
        input_tokens=seen(table.input_tokens),
        output_tokens=seen(table.output_tokens),
        propensity=seen(table.propensity),
        observed=chosen,
    )
    return logged.take(kept), int((~kept).sum())


@dataclass(frozen=True, eq=False)
class Choices:
    """What the log chose on n requests: tier and its propensity (n,), and what was tried (n, T).

    ``weight`` (n,) is 1 / propensity, clipped on ``n_clipped`` requests.
    """

    tier: IntArray
    propensity: FloatArray
    tried: BoolArray
    weight: FloatArray
    n_clipped: int

    def pseudo_outcomes(self, outcome: FloatArray, q: FloatArray) -> FloatArray:
        """Doubly robust pseudo-outcomes (n, T) from outcomes and predictions, both (n, T).

        q, plus weight * (outcome - q) for the tier that was called: the mean over any policy that
        keeps to what was tried estimates its value without bias if the propensities are right, or
        if q is (M. Dudik, J. Langford and L. Li, ICML 2011).
        """
        rows = np.arange(len(q))
        result = q.copy()
        result[rows, self.tier] += self.weight * (outcome[rows, self.tier] - q[rows, self.tier])
        return result


@dataclass(frozen=True, eq=False)
class LoggingPolicy:
    """The choices on the fitting and on the held rows, and what is known of the policy behind them.

    ``approximate``: some propensity is estimated, some weight on the held rows was clipped, or
    some tier had no chance where ``support`` says that it was tried: pseudo-outcomes are mere
    predictions there. ``support`` is None where every tier was tried everywhere.
    """

    fitting: Choices
    held: Choices
    support: Support | None
    max_weight: float
    n_recorded: int
    n_left_out: int
    sentences: tuple[str, ...]
    approximate: bool

    @property
    def share_confined(self) -> float:
        """Share of the held requests on which some tier was never tried."""
        return float(1.0 - self.held.tried.all(axis=1).mean()) if len(self.held.tier) else 0.0

    def effective_sample_size(self, dist: FloatArray) -> float:
        """Of an action distribution (n, T) on the held rows."""
        rows = np.arange(len(dist))
        return effective_sample_size(dist[rows, self.held.tier] * self.held.weight)

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        n = len(self.fitting.tier) + len(self.held.tier)
        return {
            "kind": "logged",
            "propensity": "recorded" if self.n_recorded == n else "estimated",
            "n_recorded": self.n_recorded,
            "n_left_out": self.n_left_out,
            "max_weight": self.max_weight,
            "n_clipped": self.fitting.n_clipped + self.held.n_clipped,
            "approximate": self.approximate,
            "share_confined": self.share_confined,
        }


def read_logging_policy(
    fitting: OutcomeTable,
    held: OutcomeTable,
    dense: tuple[FloatArray, FloatArray],
    fold: IntArray,
    *,
    n_left_out: int = 0,
    seed: int = 0,
) -> LoggingPolicy:
    """From tables of logged feedback and embeddings with query features (n, d+k) of each.

    The model of what is not recorded is fitted on the fitting rows, and cross-fitted for them by
    ``fold`` (n,). It also tells what was tried, unless the record does: every propensity is there,
    none is 1, and the weights of every tier average 1, as they do where each had its chance.
    """
    tables = (fitting, held)
    tiers = [table.observed.argmax(axis=1) for table in tables]
    recorded = [
        table.propensity[np.arange(table.n_requests), tier]
        for table, tier in zip(tables, tiers, strict=True)
    ]
    n_recorded = int(sum(np.isfinite(part).sum() for part in recorded))
    n = sum(len(part) for part in recorded)
    sure = [part >= CERTAIN for part in recorded]
    odd: list[str] = []
    if n_recorded == n:
        texts = np.concatenate([query_hashes(table.query) for table in tables])
        found = not_adding_up(np.concatenate(tiers), np.concatenate(recorded), texts)
        odd = [fitting.tiers.names[t] for t in found]
    everything = n_recorded == n and not odd and not any(part.any() for part in sure)
    no_chance = 0
    support: Support | None = None
    sentences: list[str] = []
    if everything:
        used = fitting.observed.any(axis=0)
        all_tried = [np.tile(used, (table.n_requests, 1)) for table in tables]
        propensity = recorded
    else:
        support, of_all, sentence = _estimate(fitting, held, dense, tiers[0], fold, seed)
        if n_recorded < n:
            sentences.append(sentence)
        all_tried = [tried(values) for values in of_all]
        # The router will choose between several tiers there, and the log had only one.
        no_chance = int((sure[1] & (all_tried[1].sum(axis=1) > 1)).sum())
        propensity = []
        for part, values, tier, known in zip(recorded, of_all, tiers, all_tried, strict=True):
            rows = np.arange(len(tier))
            estimated = np.maximum(values[rows, tier], MIN_PROPENSITY)
            propensity.append(np.where(np.isfinite(part), part, estimated))
            # What was called was tried, whatever the model says.
            known[rows, tier] = True
        if all(part.all() for part in all_tried):
            support = None
    least = float(propensity[0].min()) if len(propensity[0]) else 1.0
    max_weight = min(_STEP ** math.ceil(math.log(1.0 / least, _STEP) - 1e-9), MAX_WEIGHT)
    choices = [
        Choices(tier, part, known, np.minimum(1.0 / part, max_weight), int(above.sum()))
        for tier, part, known, above in (
            (tier, part, known, 1.0 / part > max_weight * (1 + 1e-9))
            for tier, part, known in zip(tiers, propensity, all_tried, strict=True)
        )
    ]
    if odd:
        sentences.append(
            f"the recorded propensities of {', '.join(odd)} do not add up to the requests: they "
            "are wrong, or the log gave it no chance on some; what it would do there is only "
            "predicted, and no floor is certified."
        )
    elif no_chance:
        sentences.append(
            f"on {no_chance:,} of {held.n_requests:,} calibration requests a propensity of 1 left "
            "the other tiers no chance, though requests like them tried several; what these would "
            "do there is only predicted, and no floor is certified."
        )
    approximate = n_recorded < n or choices[1].n_clipped > 0 or bool(odd) or no_chance > 0
    policy = LoggingPolicy(
        choices[0],
        choices[1],
        support,
        max_weight,
        n_recorded,
        n_left_out,
        tuple(sentences),
        approximate,
    )
    return replace(policy, sentences=(*sentences, *_say(policy)))


def _estimate(
    fitting: OutcomeTable,
    held: OutcomeTable,
    dense: tuple[FloatArray, FloatArray],
    tier: IntArray,
    fold: IntArray,
    seed: int,
) -> tuple[Support, tuple[FloatArray, FloatArray], str]:
    """The likelier of two models: a linear one, and the keyword heuristic with exceptions."""
    n_tiers = fitting.n_tiers
    linear = fit_propensity(dense[0], tier, n_tiers, fold, seed=seed)
    queries: list[Sequence[Query]] = [fitting.query.tolist(), held.query.tolist()]
    places = keyword_places(queries[0], n_tiers)
    rule = propensity_by_stratum(places, tier, n_tiers)
    # What the heuristic says of no fitting row is as if it said nothing.
    share = np.tile(np.bincount(tier, minlength=n_tiers) / len(tier), (n_tiers, 1))
    seen = np.unique(places)
    share[seen] = rule.model.table[seen]
    if rule.log_loss <= linear.log_loss:
        keyword = KeywordSupport(share)
        values = tuple(share[keyword_places(asked, n_tiers)] for asked in queries)
        return keyword, (values[0], values[1]), rule.sentence
    model = linear.model
    compiled = LinearSupport(model.weight, model.bias, model.temperature, model.epsilon, model.used)
    return compiled, (linear.values, model.propensities(dense[1])), linear.sentence


def _say(policy: LoggingPolicy) -> list[str]:
    said = []
    if policy.n_left_out:
        said.append(
            f"{policy.n_left_out:,} requests show the outcomes of several tiers and not which was "
            "chosen first; they were left out: record cps_router.propensity with the choice."
        )
    n_clipped = policy.fitting.n_clipped + policy.held.n_clipped
    if n_clipped:
        said.append(
            f"the importance weights of {n_clipped:,} requests were clipped at "
            f"{policy.max_weight:.3g}: the log calls their tier too rarely on such queries."
        )
    if policy.share_confined > 0:
        said.append(
            f"on {policy.share_confined:.1%} of the traffic some tier was never tried; there the "
            "router keeps to the tiers that the log used: explore a little to learn more."
        )
    return said
