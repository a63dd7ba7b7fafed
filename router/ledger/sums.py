"""The statements of reports: sums over attempts, over requests and over sessions.

Both databases add whole numbers exactly, and take as much memory as they are set to.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from router.ledger.tables import attempts, feedback, requests
from router.savings import FURTHER

NO_ANSWER = "no answer was served"
NOT_FINISHED, NO_ATTEMPT = "not finished", "no attempt"
_DAY_US = 86_400_000_000


def _sum(value: Any, *, where: Any = None) -> Any:
    """Sum of a column, 0 where there is nothing."""
    if where is not None:
        value = sa.case((where, value), else_=0)
    return sa.func.coalesce(sa.func.sum(value), 0)


def _latest() -> Any:
    """The condition under which a row of feedback is what counts for its request."""
    other = feedback.alias()
    same = other.c.at_us == feedback.c.at_us
    worse = (other.c.success < feedback.c.success) | (
        (other.c.success == feedback.c.success) & (other.c.source < feedback.c.source)
    )
    newer = (other.c.request_id == feedback.c.request_id) & (
        (other.c.at_us > feedback.c.at_us) | (same & worse)
    )
    return ~sa.select(sa.literal(1)).select_from(other).where(newer).exists()


def _with_feedback(table: Any) -> Any:
    return table.outerjoin(feedback, (feedback.c.request_id == requests.c.request_id) & _latest())


def _since(query: Any, since_us: int | None) -> Any:
    return query if since_us is None else query.where(requests.c.at_us >= since_us)


def grouped(by: tuple[str, ...], since_us: int | None) -> Any:
    """Sums over the attempts by day, model and tier; see `Group`."""
    a, f = attempts.c, feedback.c
    rated = f.success.is_not(None)
    is_rejected = (a.status == "rejected") & ~a.served
    success = sa.case((a.served, f.success), (is_rejected & rated, 0.0))
    known, has_cost = success.is_not(None), a.cost_nanousd.is_not(None)
    # What was charged without an answer belongs to a tier's cost per success, not to its rate.
    is_burnt = ~_is_answer(a) & rated & (sa.func.coalesce(a.cost_nanousd, 0) > 0)
    counts = (known | is_burnt) & has_cost
    columns = {
        "day": (requests.c.at_us // sa.literal(_DAY_US, sa.BigInteger)).label("day"),
        "model": a.model,
        "tier": a.tier,
    }
    keys = [columns[name] for name in by]
    query = (
        sa.select(
            *keys,
            _sum(1, where=a.served).label("n_requests"),
            sa.func.count().label("n_attempts"),
            _sum(1, where=a.served | is_rejected).label("n_answers"),
            _sum(1, where=known).label("n_known"),
            _sum(success).label("successes"),
            _sum(a.cost_nanousd).label("cost_nanousd"),
            _sum(1, where=~has_cost).label("n_unknown_cost"),
            _sum(1, where=counts).label("n_cps"),
            _sum(a.cost_nanousd, where=counts).label("cps_cost_nanousd"),
            _sum(success, where=known & has_cost).label("cps_successes"),
        )
        .select_from(_with_feedback(requests.join(attempts, a.request_id == requests.c.request_id)))
        .group_by(*keys)
        .order_by(*keys)
    )
    return _since(query, since_us)


def _is_answer(a: Any) -> Any:
    return a.served | a.status.in_(("answered", "rejected"))


def _first_answers() -> Any:
    """Which attempt brought the first answer of a request."""
    a = attempts.alias().c
    query = sa.select(a.request_id, sa.func.min(a.attempt).label("attempt"))
    return query.where(_is_answer(a)).group_by(a.request_id).subquery()


def per_request(since_us: int | None) -> Any:
    """One row per request: sums over its attempts, and why it is left out of the savings."""
    r, a, f, own = requests.c, attempts.c, feedback.c, _first_answers()
    n = sa.func.count(a.attempt)
    n_served = _sum(1, where=a.served)
    is_own = a.attempt == own.c.attempt
    roles = FURTHER[:3]
    kind = sa.case((~_is_answer(a), "failed"), (a.role.in_(roles), a.role), else_="other")
    further = {name: _sum(a.standard_nanousd, where=~is_own & (kind == name)) for name in FURTHER}
    unknown_cost = n - sa.func.count(a.cost_nanousd)
    reason = sa.case(
        (~r.done, NOT_FINISHED),
        (n == 0, NO_ATTEMPT),
        # A baseline that answered what nobody could would save without end.
        (n_served == 0, NO_ANSWER),
        (sa.func.min(a.attempt) > 1, "its first attempt is missing"),
        (unknown_cost > 0, "the cost of an attempt is unknown"),
        (
            sa.func.count(a.uncached_nanousd) + sa.func.count(a.standard_nanousd) < 2 * n,
            "the cost of an attempt without cache or batch is unknown",
        ),
        (r.baseline_nanousd.is_(None), "the baseline is unknown"),
    )
    query = (
        sa.select(
            r.request_id,
            r.session_id,
            r.done,
            r.baseline_measured,
            r.baseline_nanousd,
            r.exploration_nanousd,
            reason.label("reason"),
            n.label("n_attempts"),
            unknown_cost.label("n_unknown_cost"),
            n_served.label("n_served"),
            sa.func.max(f.success).label("success"),
            _sum(a.cost_nanousd).label("cost_nanousd"),
            _sum(a.uncached_nanousd).label("uncached_nanousd"),
            _sum(a.standard_nanousd).label("standard_nanousd"),
            _sum(a.standard_nanousd, where=is_own).label("own_standard_nanousd"),
            *(value.label(f"further_{name}") for name, value in further.items()),
        )
        .select_from(
            _with_feedback(
                requests.outerjoin(attempts, a.request_id == r.request_id).outerjoin(
                    own, own.c.request_id == r.request_id
                )
            )
        )
        .group_by(r.request_id)
    )
    return _since(query, since_us)


def summed(each: Any) -> Any:
    """Sums over the requests by reason, and by whether their baseline was measured."""
    c = each.c
    known = c.success.is_not(None)
    counts = known & (c.n_unknown_cost == 0)
    plain = (
        *("n_attempts", "n_unknown_cost", "cost_nanousd", "uncached_nanousd", "standard_nanousd"),
        *("own_standard_nanousd", "exploration_nanousd", "baseline_nanousd"),
        *(f"further_{name}" for name in FURTHER),
    )
    return sa.select(
        c.reason,
        c.baseline_measured,
        sa.func.count().label("n_requests"),
        _sum(1, where=c.done).label("n_done"),
        _sum(1, where=c.n_served > 0).label("n_served"),
        _sum(1, where=known).label("n_known"),
        _sum(c.success).label("successes"),
        _sum(1, where=counts).label("n_cps"),
        _sum(c.cost_nanousd, where=counts).label("cps_cost_nanousd"),
        _sum(c.success, where=counts).label("cps_successes"),
        *(_sum(c[name]).label(name) for name in plain),
    ).group_by(c.reason, c.baseline_measured)


def residuals(each: Any, ratio: float) -> Any:
    """How many sessions (or requests of none) there are, and the sum of (A_c - ratio B_c)^2."""
    c = each.c
    # A request of no session is one for itself.
    cluster = sa.func.coalesce(sa.literal("s") + c.session_id, sa.literal("r") + c.request_id)
    sums = (
        sa.select(_sum(c.cost_nanousd).label("cost"), _sum(c.baseline_nanousd).label("baseline"))
        .where(c.reason.is_(None))
        .group_by(cluster)
        .subquery()
    )
    rest = sa.cast(sums.c.cost, sa.Double) - ratio * sa.cast(sums.c.baseline, sa.Double)
    return sa.select(sa.func.count(), sa.func.sum(rest * rest))


def orphans() -> Any:
    """How many requests have feedback and no record."""
    # NOT IN would be a loop in a loop to PostgreSQL, once the requests outgrow its memory.
    recorded = sa.select(sa.literal(1)).where(requests.c.request_id == feedback.c.request_id)
    return sa.select(sa.func.count(feedback.c.request_id.distinct())).where(~recorded.exists())
