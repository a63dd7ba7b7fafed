"""P(a tier succeeds | a verifier rejected other tiers' answers): what plans rest on.

Tries are not independent: where one model fails, others tend to fail. What the text of a query
does not show of it is one number g ~ N(0, 1), how easy it is, on which every tier depends by its
own loading (T,), from -0.99 to 0.99::

    q_t(g) = P(t succeeds | x, g) = Phi((Phi^-1(p_t(x)) + loading_t g) / sqrt(1 - loading_t^2))
    r_f(g) = P(f is rejected | x, g) = (1 - q_f(g)) (1 - miss_rate) + q_f(g) false_alarm_rate
    P(t succeeds | x, F rejected) = E[q_t prod_F r_f] / E[prod_F r_f]     (E over g)

A verifier errs independently from answer to answer; without errors the rejected are the failed.
Averaged over g, q_t is p_t(x) whatever the loading: what routes once stays as it was calibrated.
Loadings of 0 are independent tries. T numbers describe all 2^T sets of failures, so that few rows
suffice; cross-validated on real sets this predicted as well as an offset and a slope of logit p_t
fitted for each set of failures, and better than offsets alone.
Source: the one-factor Gaussian copula (O. Vasicek, Loan portfolio value, Risk 15(12), 2002), which
for one tier is the normal-ogive model of test theory (F. Lord, Psychometric Monograph 7, 1952).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from router.errors import ArtifactError, InputError

FloatArray = npt.NDArray[np.float64]

ARRAY = "escalation.loading"
MAX_LOADING = 0.99
# Probabilities are kept this far from 0 and 1, where the inverse of Phi is infinite.
TINY = 1e-9
# Values of g (K,) and their weights: a plain sum over an even grid, which for such smooth functions
# is exact to many digits.
NODES: FloatArray = np.linspace(-5.0, 5.0, 41)
WEIGHTS: FloatArray = np.exp(-0.5 * NODES**2)
WEIGHTS /= WEIGHTS.sum()

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Verifier:
    """How often a check of answers errs, as shares from 0 to 1.

    ``miss_rate`` is P(a failed answer passes), ``false_alarm_rate`` P(a good answer is rejected).
    Raises InputError for anything else than two such numbers.
    """

    miss_rate: float = 0.0
    false_alarm_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("miss_rate", "false_alarm_rate"):
            rate = getattr(self, name)
            is_number = isinstance(rate, Real) and not isinstance(rate, bool)
            if not (is_number and 0.0 <= float(rate) <= 1.0):
                raise InputError(
                    f"expected the verifier's {name} as a share from 0 to 1, got {rate!r}: "
                    "give for example 0.05."
                )
            object.__setattr__(self, name, float(rate))

    @property
    def says_nothing(self) -> bool:
        """Whether a rejected answer is at least as likely to be good as it was before."""
        return self.miss_rate + self.false_alarm_rate >= 1.0

    def rejects(self, p_success: float) -> float:
        """P(an answer is rejected) that is good with ``p_success``."""
        return (1.0 - p_success) * (1.0 - self.miss_rate) + p_success * self.false_alarm_rate

    def good_if_rejected(self, p_success: float) -> float:
        """P(an answer is good | it was rejected); 0 where none of them ever is.

        >>> round(Verifier(0.2, 0.1).good_if_rejected(0.5), 3)  # .05 of .45
        0.111
        """
        rejected = self.rejects(p_success)
        return p_success * self.false_alarm_rate / rejected if rejected > 0.0 else 0.0


PERFECT = Verifier()


@dataclass(frozen=True, slots=True)
class Escalation:
    """How strongly every tier depends on what no text shows: loading (T,)."""

    loading: FloatArray

    def given(
        self,
        p_success: Sequence[float],
        tiers: Sequence[int] | None = None,
        verifier: Verifier = PERFECT,
    ) -> Callable[[int, int], float]:
        """``p_given_rejected(tier, mask)`` of one query, for ``best_plan``.

        ``p_success`` holds P(success) of ``tiers``, by default of all T. The function counts as the
        caller does: tier i is ``tiers[i]``, and bit i of the mask says that the verifier rejected
        its answer.

        >>> p = Escalation(np.array([0.8, 0.8])).given([0.6, 0.9])
        >>> p(1, 0b00), round(p(1, 0b01), 3)
        (0.9, 0.785)
        """
        loading = (self.loading if tiers is None else self.loading[list(tiers)])[:, None]
        probit = [_NORMAL.inv_cdf(min(max(p, TINY), 1.0 - TINY)) for p in p_success]
        z = (np.array(probit)[:, None] + loading * NODES) / np.sqrt(1.0 - loading**2)
        tails = [math.erfc(value) for value in (z * math.sqrt(0.5)).ravel().tolist()]
        fails = 0.5 * np.array(tails).reshape(z.shape)
        succeeds = 1.0 - fails
        rejects = fails * (1.0 - verifier.miss_rate) + succeeds * verifier.false_alarm_rate
        weights = {0: WEIGHTS}  # of g, after the rejections in the mask
        chances = {0: [float(p) for p in p_success]}

        def after(rejected: int) -> FloatArray:
            if rejected not in weights:
                last = rejected & -rejected
                before = after(rejected ^ last)
                left = before * rejects[last.bit_length() - 1]
                total = left.sum()
                # A rejection beyond what numbers can tell teaches nothing.
                weights[rejected] = left / total if total > 0 else before
            return weights[rejected]

        def p_given_rejected(tier: int, rejected: int) -> float:
            if rejected not in chances:
                chances[rejected] = (succeeds @ after(rejected)).tolist()
            return chances[rejected][tier]

        return p_given_rejected

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The array by its name in the artifact."""
        return {ARRAY: self.loading}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], n_tiers: int) -> Escalation | None:
        """From the artifact's arrays; None in those without it, whose tries count as independent.

        Raises ArtifactError where the loadings are not those of ``n_tiers`` tiers.
        """
        loading = arrays.get(ARRAY)
        if loading is None:
            return None
        if (
            loading.dtype != np.float64
            or loading.shape != (n_tiers,)
            or not (np.abs(loading) <= MAX_LOADING).all()  # False for NaN
        ):
            raise ArtifactError(
                f"expected the array {ARRAY} in the artifact as {n_tiers} numbers from "
                f"{-MAX_LOADING} to {MAX_LOADING}, got others: train it again."
            )
        return cls(loading)
