"""Full and logged feedback behind one face, so that training reads the same for both.

Full feedback knows every tier's outcome on a request. A log knows that of the tier that was called:
doubly robust pseudo-outcomes stand for all of them, the floor is tested on their bounded terms, and
the policy keeps to tiers that were tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from router.decision import Predictions
from router.errors import InputError
from router.escalation import Escalation
from router.policy import Policy
from router.selection import CalibrationRows
from router.support import Support
from training.escalation import FittedEscalation, fit_escalation
from training.logging_policy import LoggingPolicy, read_logging_policy
from training.offpolicy import MIN_ESS
from training.prepare import MIN_COMPLETE_REQUESTS, Prepared, text_means
from training.search import Rows

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
RowIndex = npt.NDArray[np.intp]

# Estimators that can be fitted with importance weights; the others would learn the log's habits.
LOGGED_FAMILIES = ("ridge", "logistic", "ridge-task", "task")


class Feedback(Protocol):
    """What training asks of feedback; ``n`` fitting rows, ``T`` tiers.

    ``weight`` (n,) are importance weights, None where each request speaks for itself; ``support``
    says which tiers were tried where, None where all were.
    """

    weight: FloatArray | None
    support: Support | None

    def families(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Of the families of estimators those that can be fitted; InputError where none can."""

    def compared(self, p_success: FloatArray, cost_usd: FloatArray) -> Rows:
        """Cross-fitted predictions (n, T) with outcomes of every tier, to compare policies on."""

    def escalation(self, p_success: FloatArray, fold: IntArray) -> FittedEscalation:
        """How tiers fail together, from cross-fitted predictions (n, T)."""

    def calibration(self, predictions: Predictions) -> tuple[CalibrationRows, RowIndex]:
        """Rows to certify on from predictions on the held ones, and which of those they are."""

    def facts(self, policy: Policy) -> tuple[dict[str, Any], list[str]]:
        """For the manifest; and what the owner of the log should hear."""


class FullFeedback:
    """Every tier's outcome is known on the requests that count."""

    weight: FloatArray | None = None
    support: Support | None = None

    def __init__(self, rows: Prepared) -> None:
        self._rows = rows

    def families(self, asked: Sequence[str]) -> tuple[str, ...]:
        """All of them."""
        return tuple(asked)

    def compared(self, p_success: FloatArray, cost_usd: FloatArray) -> Rows:
        """On the complete requests; where enough were drawn at random, on those.

        Policies are compared by averages over traffic, of which requests that were chosen for what
        was predicted of them are no sample.
        """
        fitting = self._rows.fitting
        complete = fitting.complete
        if (complete & fitting.at_random).sum() >= MIN_COMPLETE_REQUESTS:
            complete &= fitting.at_random
        return Rows(
            p_success[complete],
            cost_usd[complete],
            fitting.success[complete],
            fitting.cost_usd[complete],
        )

    def escalation(self, p_success: FloatArray, fold: IntArray) -> FittedEscalation:
        """From the complete requests."""
        fitting = self._rows.fitting
        complete = fitting.complete
        return fit_escalation(p_success[complete], fitting.success[complete], fold[complete])

    def calibration(self, predictions: Predictions) -> tuple[CalibrationRows, RowIndex]:
        """The held rows as they are."""
        held = self._rows.held
        rows = CalibrationRows(
            predictions.p_success,
            predictions.cost_usd,
            held.success,
            held.cost_usd,
            predictions.out_of_distribution,
        )
        return rows, np.arange(len(rows))

    def facts(self, policy: Policy) -> tuple[dict[str, Any], list[str]]:
        """Nothing to say."""
        return {"kind": "full"}, []


class LoggedFeedback:
    """The outcome of the tier that was called is known, and how likely that call was."""

    def __init__(self, rows: Prepared, log: LoggingPolicy) -> None:
        self._rows, self._log = rows, log
        self.weight: FloatArray | None = log.fitting.weight
        self.support = log.support
        self._predictions: Predictions | None = None

    def families(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Those that take weights."""
        found = tuple(family for family in asked if family in LOGGED_FAMILIES)
        if not found:
            raise InputError(
                f"expected an estimator among {', '.join(LOGGED_FAMILIES)} for a log of one tier's "
                f"outcome per request, got {', '.join(asked)}, which would learn the log's habits: "
                "choose one of them, or auto."
            )
        return found

    def compared(self, p_success: FloatArray, cost_usd: FloatArray) -> Rows:
        """By pseudo-outcomes, of which each family's own predictions are a part."""
        choices, fitting = self._log.fitting, self._rows.fitting
        return Rows(
            p_success,
            cost_usd,
            choices.pseudo_outcomes(fitting.success, p_success),
            choices.pseudo_outcomes(fitting.cost_usd, cost_usd),
            None if self.support is None else choices.tried,
        )

    def escalation(self, p_success: FloatArray, fold: IntArray) -> FittedEscalation:
        """Unknown, so that tries count as independent: nobody saw two tiers on one request."""
        nothing = Escalation(np.zeros(p_success.shape[1]))
        return FittedEscalation(nothing, math.nan, math.nan, math.inf)

    def calibration(self, predictions: Predictions) -> tuple[CalibrationRows, RowIndex]:
        """One row per text, since copies are a cluster; their terms are averaged."""
        self._predictions = predictions
        held, choices = self._rows.held, self._log.held
        first, mean = text_means(self._rows.held_hashes)
        tried = predictions.tried
        rows = CalibrationRows(
            predictions.p_success[first],
            predictions.cost_usd[first],
            mean(choices.pseudo_outcomes(held.success, predictions.p_success)),
            mean(choices.pseudo_outcomes(held.cost_usd, predictions.cost_usd)),
            predictions.out_of_distribution[first],
            max_weight=self._log.max_weight,
            approximate=self._log.approximate,
            tried=None if tried is None else tried[first],
        )
        return rows, first

    def facts(self, policy: Policy) -> tuple[dict[str, Any], list[str]]:
        """With the effective sample size of the policy on the held rows."""
        found, log = self._predictions, self._log
        said = list(log.sentences)
        effective = 0.0
        if found is not None and len(found.p_success):
            dist = policy.action_dist(
                found.p_success, found.cost_usd, found.out_of_distribution, found.tried
            )
            effective = log.effective_sample_size(dist)
        if effective < MIN_ESS:
            said.append(
                f"the effective sample for the policy is {effective:.0f} of "
                f"{len(log.held.tier):,} calibration requests, where at least "
                f"{MIN_ESS:.0f} are expected: the log called too few of the tiers that "
                "the policy wants; log more requests, or explore more."
            )
        return {**log.to_dict(), "effective_sample_size": effective}, said


def read_feedback(rows: Prepared, seed: int) -> Feedback:
    """Full feedback, or what the log's choices say."""
    if not rows.logged:
        return FullFeedback(rows)
    fitting = rows.data.dense
    held = rows.input_map.narrow_many(
        rows.held.query.tolist(), rows.held_vectors, rows.held_vectors[:, :0]
    )
    log = read_logging_policy(
        rows.fitting,
        rows.held,
        (fitting, held),
        rows.data.fold,
        n_left_out=rows.n_ambiguous,
        seed=seed,
    )
    return LoggedFeedback(rows, log)
