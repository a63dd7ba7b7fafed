"""May a challenger take the champion's place? Two tests of paired differences, both must pass.

On the same requests, with lambda (the dollars that one more success is worth) and everything else
fixed before an outcome is looked at, the challenger is promoted only if

- *its success holds*: the lower confidence bound of V(success) of the challenger less that of the
  champion is at least ``-margin`` (non-inferiority), and
- *it is better*: the upper confidence bound of V(cost - lambda success), again the difference, is
  below 0.

Each bound is one-sided and uses the whole level: a challenger that fails one of the two gets
through only if that test errs (intersection-union test, Berger, Technometrics 24, 1982). So one
that succeeds less often by more than the margin, or is no better, is promoted with probability at
most 1 - confidence. The bounds are those of betting (``training.intervals``): they hold at every
number of rows, for independent terms in the range that was fixed for them.

What is tested are ``PairedTerms``, one per different text. Where they come from, and what fixes
their ranges: ``training.contest``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from router.certificate import rows_needed
from router.errors import InputError
from training.defaults import DEFAULT_CONFIDENCE
from training.doubly_robust import PairedTerms
from training.intervals import betting_interval
from training.results import finite

__all__ = [
    "DEFAULT_MARGIN",
    "Check",
    "GateResult",
    "Side",
    "check_levels",
    "decide",
    "gate_text",
    "refuse",
]

FloatArray = npt.NDArray[np.float64]

# One success in a hundred may be lost by chance; more would be seen by users.
DEFAULT_MARGIN = 0.01
_LEFT_OUT = {
    "n_train_split": "marked train",
    "n_left_out_trained": "of texts that one of the two was trained on",
    "n_incomplete": "without the outcome of some tier",
    "n_not_one_tier": "without the outcome of just one tier",
    "n_without_propensity": "without a propensity",
    "n_set_aside": "set aside to fix the maximum weight",
}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two routers on the compared requests: their means, and its id."""

    name: str
    artifact_id: str
    success_rate: float
    cost_usd_per_request: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        cps = self.cost_usd_per_request / self.success_rate if self.success_rate > 0 else math.inf
        return {
            "name": self.name,
            "artifact_id": self.artifact_id,
            "success_rate": self.success_rate,
            "cost_usd_per_request": self.cost_usd_per_request,
            "cps_usd": finite(cps),
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One test: the mean difference (challenger less champion), and the bound that has to hold.

    ``bound`` is the lower one for success, the upper one for the loss in USD; it is infinite where
    a term lies outside ``range``, which was fixed beforehand. It allows for ``slack``, the most
    that the log cannot tell. ``rows_needed`` is about how many different texts like these would
    pass the test with 80 % power; None where it passed, where the mean difference is on the wrong
    side (``never``), or where the range is broken.
    """

    mean: float
    bound: float
    range: float
    slack: float
    passed: bool
    never: bool = False
    rows_needed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; an infinite bound is None."""
        return {
            "mean": finite(self.mean),
            "bound": finite(self.bound),
            "range": finite(self.range),
            "slack": finite(self.slack),
            "passed": self.passed,
            "never": self.never,
            "rows_needed": self.rows_needed,
        }


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate decided, and the numbers it rests on; ``sentence`` says it in plain words.

    ``success`` and ``loss`` are None where the rows could not say anything, as ``reasons`` tells.
    ``sides`` are challenger and champion. ``rows_needed`` is about how many different texts in all
    would settle it; ``never`` says that no number would, if things are as they look.
    ``counts`` says what became of the requests.
    """

    promoted: bool
    reasons: tuple[str, ...]
    sentence: str
    feedback: str
    margin: float
    confidence: float
    success_value_usd: float
    n_texts: int
    success: Check | None
    loss: Check | None
    sides: tuple[Side, ...]
    counts: dict[str, int]
    caveats: tuple[str, ...] = ()

    @property
    def never(self) -> bool:
        """Whether a difference is on the wrong side."""
        return any(test.never for test in (self.success, self.loss) if test is not None)

    @property
    def rows_needed(self) -> int | None:
        """About how many texts would pass both tests; None where that is unknown, or never."""
        needed = [test.rows_needed for test in (self.success, self.loss) if test is not None]
        known = [rows for rows in needed if rows is not None]
        return max(known) if known and not self.never else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "promoted": self.promoted,
            "sentence": self.sentence,
            "reasons": list(self.reasons),
            "feedback": self.feedback,
            "margin": self.margin,
            "confidence": self.confidence,
            "success_value_usd": self.success_value_usd,
            "n_texts": self.n_texts,
            "success_difference": None if self.success is None else self.success.to_dict(),
            "loss_difference_usd": None if self.loss is None else self.loss.to_dict(),
            "rows_needed": self.rows_needed,
            "never": self.never,
            "routers": [side.to_dict() for side in self.sides],
            "counts": dict(self.counts),
            "caveats": list(self.caveats),
        }


def check_levels(margin: float, confidence: float) -> None:
    """Raises InputError where margin or confidence makes no test."""
    if not 0.0 <= margin < 1.0:
        raise InputError(
            f"expected a margin from 0 to below 1, got {margin}: it is the success rate that may "
            f"be lost, for example {DEFAULT_MARGIN}."
        )
    if not 0.5 < confidence < 1.0:
        raise InputError(
            f"expected a confidence above 0.5 and below 1, got {confidence}: choose for example "
            f"{DEFAULT_CONFIDENCE}."
        )


def decide(
    terms: PairedTerms,
    *,
    margin: float = DEFAULT_MARGIN,
    confidence: float = DEFAULT_CONFIDENCE,
    variances: tuple[float, float] | None = None,
    identical: bool = False,
    feedback: str = "full",
    sides: Sequence[Side] = (),
    counts: dict[str, int] | None = None,
    caveats: Sequence[str] = (),
    seed: int = 0,
) -> GateResult:
    """Test the terms of the challenger (a) against the champion (b).

    Args:
        terms: Paired terms; their bounds, and the success value, were fixed beforehand.
        margin: The success rate that may be lost, at most.
        confidence: 1 - the probability that a challenger that should not be promoted is.
        variances: Guesses, made beforehand, of the variance of the terms of success and of loss:
            the bets start from them. Good ones save rows, and none makes a bound wrong.
        identical: The two route every request alike: refused, with other words.
        feedback: "full" or "logged", for the report.
        sides: For the report, as ``counts`` and ``caveats``.
        counts: See there.
        caveats: See there.
        seed: Shuffles the terms, whose order must not depend on their values.

    >>> from dataclasses import replace
    >>> rng = np.random.default_rng(0)
    >>> cheaper, equal = rng.uniform(-0.02, 0.0, 2000), np.zeros(2000)
    >>> terms = PairedTerms(cheaper, equal, 0.02, 1.0, 0.0, 0.0, 2000.0, 0.01)
    >>> decide(terms).promoted, decide(replace(terms, loss_usd=-cheaper)).promoted
    (True, False)
    """
    check_levels(margin, confidence)
    alpha = 1.0 - confidence
    guess = variances or (terms.success_bound**2 / 4, terms.loss_bound_usd**2 / 4)
    success = _test(
        terms.success, terms.success_bound, terms.success_slack, -margin, alpha, guess[0], seed
    )
    # Better is a loss below 0: the same test of the gain.
    gain = _test(
        -terms.loss_usd, terms.loss_bound_usd, terms.loss_slack_usd, 0.0, alpha, guess[1], seed
    )
    # A gain of at least 0 is not better; at the end of the range it is not known to be.
    better = gain.passed and gain.bound > 0
    loss = Check(
        -gain.mean, -gain.bound, gain.range, gain.slack, better, gain.never, gain.rows_needed
    )
    promoted = success.passed and loss.passed and not identical
    n_texts = len(terms.success)
    reasons: tuple[str, ...] = ()
    if identical:
        reasons = ("it routes every one of these requests as the champion does",)
    elif not promoted:
        reasons = tuple(_reasons(success, loss, margin, n_texts))
    found = GateResult(
        promoted=promoted,
        reasons=reasons,
        sentence="",
        feedback=feedback,
        margin=margin,
        confidence=confidence,
        success_value_usd=terms.success_value_usd,
        n_texts=n_texts,
        success=success,
        loss=loss,
        sides=tuple(sides),
        counts=dict(counts or {}),
        caveats=tuple(caveats),
    )
    return replace(found, sentence=_sentence(found, identical))


def refuse(
    reason: str,
    *,
    margin: float,
    confidence: float,
    success_value_usd: float,
    n_texts: int,
    feedback: str,
    counts: dict[str, int],
    sides: Sequence[Side] = (),
) -> GateResult:
    """A refusal without a test: these rows cannot tell, as ``reason`` says."""
    return GateResult(
        promoted=False,
        reasons=(reason,),
        sentence=f"REFUSED: {reason}.",
        feedback=feedback,
        margin=margin,
        confidence=confidence,
        success_value_usd=success_value_usd,
        n_texts=n_texts,
        success=None,
        loss=None,
        sides=tuple(sides),
        counts=dict(counts),
    )


def _test(
    values: FloatArray,
    limit: float,
    slack: float,
    least: float,
    alpha: float,
    variance: float,
    seed: int,
) -> Check:
    """Is the mean of ``values``, which lie in ``-limit .. limit``, at least ``least``?

    Values above the limit are lowered to it, which is conservative; one below voids the bound.
    """
    mean, n = float(values.mean()), len(values)
    bound = -math.inf
    # No guess says that there is no variance.
    start = max(variance, limit**2 / (4 * n))
    if limit > 0:
        # Both ends at alpha: one of them is used.
        bound = betting_interval(
            values, -limit, limit, 1.0 - 2.0 * alpha, variance=start, seed=seed
        )[0]
    elif not values.any():
        bound = 0.0
    bound -= slack
    passed = bound >= least
    if passed:
        return Check(mean, bound, limit, slack, True)
    if math.isinf(bound):
        return Check(mean, bound, limit, slack, False)
    threshold = least + slack
    needed = None
    if mean > threshold and threshold < limit:
        unit = np.minimum((values + limit) / (2 * limit), 1.0)
        needed = rows_needed(
            unit,
            (threshold + limit) / (2 * limit),
            alpha,
            binary=False,
            start=start / (2 * limit) ** 2,
        )
    if needed is not None:
        # They say of themselves that fewer would mostly do: these had bad luck.
        needed = max(needed, math.ceil(1.1 * n))
    return Check(mean, bound, limit, slack, False, needed is None, needed)


def _reasons(success: Check, loss: Check, margin: float, n_texts: int) -> list[str]:
    reasons = []
    if not success.passed:
        difference = f"its success rate differs by {success.mean:+.3g}"
        if math.isinf(success.bound):
            reasons.append(f"{difference}, outside the range fixed beforehand")
        else:
            reasons.append(
                f"{difference}, and may be as low as {success.bound:+.3g}, below the "
                f"-{margin:g} that is allowed{_settle(success, n_texts)}"
            )
    if not loss.passed:
        difference = (
            f"its cost less the value of its successes is {_per_1000(abs(loss.mean))} "
            f"{'higher' if loss.mean > 0 else 'lower'}"
        )
        if math.isinf(loss.bound):
            reasons.append(
                f"{difference}, but some request costs more than {_usd(loss.range)} above the "
                "champion, the range fixed beforehand, which voids the bound"
            )
        elif loss.never:
            reasons.append(difference + _settle(loss, n_texts))
        else:
            reasons.append(
                f"{difference}, but may be {_per_1000(max(loss.bound, 0.0))} higher"
                f"{_settle(loss, n_texts)}"
            )
    return reasons


def _settle(test: Check, n_texts: int) -> str:
    if test.never:
        unknown = " (the log cannot tell it better)" if test.slack > 0 else ""
        return f"; it would not pass at any number of rows, if this is the truth{unknown}"
    if test.rows_needed is None:
        return ""
    return (
        f"; about {test.rows_needed - n_texts:,} more different texts, {test.rows_needed:,} in "
        "all, would pass with 80 % power"
    )


def _sentence(found: GateResult, identical: bool) -> str:
    basis = (
        f"(at ${found.success_value_usd:.3g} per further success, {100 * found.confidence:g} % "
        f"confidence, {found.n_texts:,} different texts)"
    )
    if not found.promoted:
        return f"REFUSED: {'; and '.join(found.reasons)}" + ("." if identical else f" {basis}.")
    assert found.success is not None
    assert found.loss is not None
    return (
        f"PROMOTED: its success rate differs by {found.success.mean:+.3g}, at least "
        f"{found.success.bound:+.3g} (allowed: -{found.margin:g}), and its cost less the value of "
        f"its successes is {_per_1000(-found.loss.mean)} lower, at least "
        f"{_per_1000(-found.loss.bound)} {basis}."
    )


def gate_text(found: GateResult) -> str:
    """The decision for a terminal: the routers, what was compared, and the sentence."""
    lines = []
    if found.sides:
        lines.append(f"{'router':<12}{'success':>8}{'$ per 1,000':>13}{'CPS $':>11}   artifact")
    for side in found.sides:
        cps = side.to_dict()["cps_usd"]
        lines.append(
            f"{side.name:<12}{side.success_rate:>8.3f}{1000 * side.cost_usd_per_request:>13.4g}"
            f"{'inf' if cps is None else format(cps, '.3g'):>11}   {side.artifact_id}"
        )
    counts = found.counts
    left_out = [f"{counts[key]:,} {what}" for key, what in _LEFT_OUT.items() if counts.get(key)]
    lines.append(
        f"{found.feedback} feedback on {counts.get('n_requests', 0):,} of "
        f"{counts.get('n_rows', 0):,} requests"
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
    )
    if "n_differ" in counts:
        lines.append(f"the two differ on {counts['n_differ']:,} of {found.n_texts:,} texts")
    lines += [*found.caveats, "", found.sentence]
    return "\n".join(lines)


def _per_1000(usd_per_request: float) -> str:
    return f"${1000 * usd_per_request:.3g} per 1,000 requests"


def _usd(amount: float) -> str:
    return f"${amount:.3g}"
