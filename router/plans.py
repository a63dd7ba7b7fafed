"""Plans: in which order to try tiers where a verifier can reject an answer.

The next tier of a plan is tried when the verifier rejected the answer of the one before it; the
answer of the last tier is served whatever the verifier says of it. A plan is worth::

    success_value * P(the answer that is served is good) - expected cost

With q = P(t is good | R rejected) and a verifier's rates of error, trying t after R were rejected
loses, in dollars (a negative loss is a gain), with t as the last try or with more to come::

    r = P(t is rejected | R rejected) = (1 - q) (1 - miss_rate) + q false_alarm_rate
    g = P(t is good | R and t rejected) = q false_alarm_rate / r
    L(R) = min_t  c_t - V q + r min(0, V g + L(R + t))

Without errors g is 0 and L the recursion over subsets of failed tiers. Where miss_rate +
false_alarm_rate >= 1 a rejected answer is as likely to be good as before, or likelier, and no
plan is worth more than the best single tier: each is, at best, a coin-flip between single tiers
that pays for more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from router.escalation import PERFECT, Verifier
from router.policy import choose_one

FloatArray = npt.NDArray[np.float64]
# P(tier's answer is good | the tiers in the bit mask were rejected).
Chances = Callable[[int, int], float]

# Above this many tiers the exact search over orders (2^T states) gives way to looking ahead as if
# tries were independent.
MAX_TIERS_FOR_EXACT_ORDER = 12


class Plan(NamedTuple):
    """Tiers in the order of trying, at least one, and what the plan is worth in dollars.

    Above twelve tiers the worth is an estimate, as if the tries after the first were independent.
    """

    order: list[int]
    value_usd: float


def best_plan(
    p_success: Sequence[float] | FloatArray,
    cost_usd: Sequence[float] | FloatArray,
    success_value_usd: float,
    p_given_rejected: Chances | None = None,
    verifier: Verifier = PERFECT,
) -> Plan:
    """The plan of greatest worth for P(success) and expected cost (T,) of one request.

    ``p_given_rejected(tier, mask)`` is P(tier's answer is good | those of the tiers in the bit mask
    were rejected), as ``Escalation.given`` makes it for the same verifier; without it tries count
    as independent. Exact by dynamic programming over the subsets of rejected tiers. The first tier
    is always tried, since the request needs an answer; of plans of equal worth the shorter one, and
    then the earlier tier, is taken.

    >>> best_plan([0.6, 0.9], [0.001, 0.02], success_value_usd=0.1).order
    [0, 1]
    >>> best_plan([0.6, 0.9], [0.001, 0.02], success_value_usd=0.01).order
    [0]
    >>> best_plan([0.6, 0.9], [0.001, 0.02], 0.1, verifier=Verifier(0.7, 0.1)).order
    [1]
    """
    p, cost = [float(x) for x in p_success], [float(x) for x in cost_usd]
    given = p_given_rejected or (lambda tier, rejected: p[tier])
    if verifier.says_nothing:
        chance = [given(tier, 0) for tier in range(len(p))]
        tier = choose_one(chance, cost, success_value_usd)
        return Plan([tier], success_value_usd * chance[tier] - cost[tier])
    if len(p) > MAX_TIERS_FOR_EXACT_ORDER:
        return _looking_ahead(cost, success_value_usd, given, verifier)
    return _exact(cost, success_value_usd, given, verifier)


def _exact(cost: list[float], value: float, given: Chances, verifier: Verifier) -> Plan:
    """L(R) of the module docstring for every R, from the largest down."""
    n_tiers = len(cost)
    full = (1 << n_tiers) - 1
    loss = [math.inf] * (full + 1)
    # The best tier after R, and whether to go on where it is rejected.
    best: list[tuple[int, bool]] = [(0, False)] * (full + 1)
    for rejected in range(full - 1, -1, -1):
        least = math.inf
        for tier in range(n_tiers):
            if rejected >> tier & 1:
                continue
            chance = given(tier, rejected)
            rejection = verifier.rejects(chance)
            after = value * verifier.good_if_rejected(chance) + loss[rejected | 1 << tier]
            goes_on = after < 0.0
            expected = cost[tier] - value * chance + (rejection * after if goes_on else 0.0)
            if expected < least:
                least, best[rejected] = expected, (tier, goes_on)
        loss[rejected] = least
    order: list[int] = []
    rejected, goes_on = 0, True
    while goes_on:
        tier, goes_on = best[rejected]
        order.append(tier)
        rejected |= 1 << tier
    return Plan(order, -loss[0])


def _looking_ahead(cost: list[float], value: float, given: Chances, verifier: Verifier) -> Plan:
    """Try by try: the first tier of the best plan as if what is left were independent.

    Exact where tries are independent.
    """
    order: list[int] = []
    worth, held, rejected = 0.0, math.inf, 0
    left = list(range(len(cost)))
    while left:
        chance = {tier: given(tier, rejected) for tier in left}
        ahead, loss = _as_if_independent(left, chance, cost, value, verifier)
        if order and not value * held + loss < 0.0:
            break
        tier = ahead[0]
        worth = worth if order else -loss
        order.append(tier)
        left.remove(tier)
        held = verifier.good_if_rejected(chance[tier])
        rejected |= 1 << tier
    return Plan(order, worth)


def _as_if_independent(
    left: list[int],
    chance: dict[int, float],
    cost: list[float],
    value: float,
    verifier: Verifier,
) -> tuple[list[int], float]:
    """The best order of independent tries, and its loss in dollars.

    Two neighbours before the last one stand best by what each loses per acceptance, by an exchange
    of the two; so for every tier as the last one the others are taken in that order, or left out.
    """
    alone, passed, keeps = {}, {}, {}
    for tier in left:
        rejection = verifier.rejects(chance[tier])
        alone[tier] = cost[tier] - value * chance[tier]
        keeps[tier] = rejection
        # What is lost where the try is not the last one: its rejected good answers do not count.
        passed[tier] = alone[tier] + value * rejection * verifier.good_if_rejected(chance[tier])
    by_loss = sorted(
        left, key=lambda t: passed[t] / (1.0 - keeps[t]) if keeps[t] < 1.0 else math.inf
    )
    best, least = left, math.inf
    for last in left:
        order, loss = [last], alone[last]
        for tier in reversed(by_loss):
            if tier != last and passed[tier] + keeps[tier] * loss < loss:
                order.append(tier)
                loss = passed[tier] + keeps[tier] * loss
        # Of equal losses, as they come.
        if (loss, order[::-1]) < (least, best):
            best, least = order[::-1], loss
    return best, least
