"""Reports out of a ledger: what each day, model and tier cost and achieved, and what was saved.

The database adds up, so that the number of requests does not matter to memory. An unknown cost is
counted apart, never as free; a request with an unknown part is left out of the savings as a whole,
and counted with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from router.cps import cps_fields
from router.errors import InputError
from router.ledger import Ledger
from router.ledger import sums as ledger_sums
from router.ledger.rows import moment_us
from router.records import NANOUSD_PER_USD
from router.savings import (
    CONFIDENCE,
    FURTHER,
    MAX_CONFIDENCE,
    MIN_CLUSTERS,
    MIN_COVERED,
    Savings,
    discount_interval,
)

DIMENSIONS = ("day", "model", "tier")
# Of such requests nothing is unknown: there was nothing to save.
_NOTHING_TO_SAVE = (ledger_sums.NOT_FINISHED, ledger_sums.NO_ATTEMPT, ledger_sums.NO_ANSWER)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Group:
    """Attempts of one day, model and tier, of those that were asked for.

    ``n_requests`` had their answer from here. Of the ``n_answers`` (served, or rejected by a
    verifier) ``n_known`` are of known success. ``cost_nanousd`` is the sum of the known costs;
    ``n_unknown_cost`` attempts have none. CPS is over the ``n_cps`` attempts of which both cost and
    success are known; what failed, brought no answer and was charged for is one of them, without a
    success, where its request has feedback.
    """

    key: dict[str, str]
    n_requests: int
    n_attempts: int
    n_answers: int
    n_known: int
    successes: float
    cost_nanousd: int
    n_unknown_cost: int
    n_cps: int
    cps_cost_nanousd: int
    cps_successes: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            **self.key,
            "n_requests": self.n_requests,
            "n_attempts": self.n_attempts,
            "n_success_known": self.n_known,
            "n_success_unknown": self.n_answers - self.n_known,
            "success_rate": self.successes / self.n_known if self.n_known else None,
            "cost_nanousd": self.cost_nanousd,
            "cost_usd": self.cost_nanousd / NANOUSD_PER_USD,
            "n_cost_unknown": self.n_unknown_cost,
            **_cps(self.n_cps, self.cps_cost_nanousd, self.cps_successes),
        }


@dataclass(frozen=True, slots=True)
class Total:
    """All requests. ``n_cps`` are those of known success all of whose attempts' costs are known.

    Feedback counts also on a request that nobody answered.
    """

    n_requests: int = 0
    n_done: int = 0
    n_served: int = 0
    n_attempts: int = 0
    n_known: int = 0
    successes: float = 0.0
    cost_nanousd: int = 0
    n_unknown_cost: int = 0
    n_cps: int = 0
    cps_cost_nanousd: int = 0
    cps_successes: float = 0.0
    n_feedback_without_request: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "n_requests": self.n_requests,
            "n_done": self.n_done,
            "n_served": self.n_served,
            "n_attempts": self.n_attempts,
            "n_success_known": self.n_known,
            "n_success_unknown": self.n_requests - self.n_known,
            "success_rate": self.successes / self.n_known if self.n_known else None,
            "cost_nanousd": self.cost_nanousd,
            "cost_usd": self.cost_nanousd / NANOUSD_PER_USD,
            "n_cost_unknown": self.n_unknown_cost,
            **_cps(self.n_cps, self.cps_cost_nanousd, self.cps_successes),
            "n_feedback_without_request": self.n_feedback_without_request,
        }


def _cps(n: int, cost_nanousd: int, successes: float) -> dict[str, Any]:
    if n == 0:
        return {"n_cps": 0, "cps_usd": None, "cps_is_infinite": False}
    return {"n_cps": n, **cps_fields(cost_nanousd / NANOUSD_PER_USD, successes)}


@dataclass(frozen=True, slots=True)
class Report:
    """What `report` found.

    ``left_out`` counts the requests that are not in ``savings`` by reason, ``left_out_nanousd`` is
    what is known of their cost. Of ``n_answered`` requests with ``n_answered_attempts`` those in
    ``savings`` have ``n_covered_attempts``. ``interval`` is of the discount, over ``n_clusters``
    sessions (or requests that are of none); None with too few of them.
    """

    by: tuple[str, ...]
    since: datetime | None
    groups: list[Group]
    total: Total
    savings: Savings
    left_out: dict[str, int] = field(default_factory=dict)
    left_out_nanousd: int = 0
    interval: tuple[float, float] | None = None
    confidence: float = CONFIDENCE
    n_clusters: int = 0
    n_answered: int = 0
    n_answered_attempts: int = 0
    n_covered_attempts: int = 0

    @property
    def covered(self) -> float | None:
        """The share of the answered requests of which every part is known; None without any."""
        return self.savings.n_requests / self.n_answered if self.n_answered else None

    @property
    def discount(self) -> float | None:
        """1 - cost / baseline; None where there is none, or too few requests are covered."""
        if self.covered is None or self.covered < MIN_COVERED:
            return None
        return self.savings.discount

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "by": list(self.by),
            "since": None if self.since is None else self.since.isoformat(),
            "groups": [group.to_dict() for group in self.groups],
            "total": self.total.to_dict(),
            "savings": {
                **self.savings.to_dict(),
                "discount": self.discount,
                "discount_interval": None if self.interval is None else list(self.interval),
                "n_answered": self.n_answered,
                "covered_share": self.covered,
                "covered_share_of_attempts": self.n_covered_attempts / self.n_answered_attempts
                if self.n_answered_attempts
                else None,
                "min_covered_share": MIN_COVERED,
                "confidence": self.confidence,
                "n_clusters": self.n_clusters,
                "min_clusters": MIN_CLUSTERS,
                "left_out": dict(self.left_out),
                "left_out_cost_nanousd": self.left_out_nanousd,
            },
        }


def report(
    ledger: Ledger,
    *,
    since: datetime | None = None,
    by: Sequence[str] = DIMENSIONS,
    confidence: float = CONFIDENCE,
    on_progress: Say | None = None,
) -> Report:
    """Add up the requests since a time, all from one state of the ledger.

    Args:
        ledger: Where they are.
        since: Requests with ``at`` before it are left out.
        by: Some of day (UTC, of the request), model and tier.
        confidence: Of the discount's interval.
        on_progress: Gets what is being done.

    Raises:
        InputError: ``by`` or ``confidence`` is something else.
        LedgerError: the ledger cannot be read.
    """
    by = tuple(by)
    if not set(by) <= set(DIMENSIONS) or len(set(by)) < len(by):
        raise InputError(
            f"expected to report by some of {', '.join(DIMENSIONS)}, each once, got "
            f"{', '.join(map(str, by))[:80]!r}: choose among them."
        )
    if not 0 < confidence <= MAX_CONFIDENCE:
        raise InputError(
            f"expected a confidence above 0 and up to {MAX_CONFIDENCE:g}, got {confidence!r:.40}: "
            f"give for example {CONFIDENCE:g}."
        )
    say = on_progress or (lambda _: None)
    since_us = None if since is None else moment_us("since", since)
    with ledger.engine.reading() as connection:
        say("adding up the attempts")
        groups = [_group(row, by) for row in connection.execute(ledger_sums.grouped(by, since_us))]
        say("adding up the requests")
        each = ledger_sums.per_request(since_us).subquery()
        rows = connection.execute(ledger_sums.summed(each)).mappings().all()
        total, savings, left_out, left_out_nanousd = _added(rows)
        answered = [row for row in rows if row["reason"] not in _NOTHING_TO_SAVE]
        covered = [row for row in answered if row["reason"] is None]
        n_answered = sum(int(row["n_requests"]) for row in answered)
        is_covered = savings.n_requests >= MIN_COVERED * n_answered
        orphans = connection.scalar(ledger_sums.orphans())
        interval, n_clusters = None, 0
        if savings.baseline_nanousd > 0 and is_covered:
            say("comparing the sessions")
            ratio = savings.cost_nanousd / savings.baseline_nanousd
            found = connection.execute(ledger_sums.residuals(each, ratio)).one()
            n_clusters = int(found[0])
            interval = discount_interval(
                savings.cost_nanousd,
                savings.baseline_nanousd,
                float(found[1] or 0.0),
                n_clusters,
                confidence,
            )
    total = Total(**{**_fields(total), "n_feedback_without_request": int(orphans or 0)})
    return Report(
        by, since, groups, total, savings, left_out, left_out_nanousd, interval, confidence,
        n_clusters, n_answered, _attempts_of(answered), _attempts_of(covered),
    )  # fmt: skip


def _attempts_of(rows: Sequence[Any]) -> int:
    return sum(int(row["n_attempts"]) for row in rows)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _group(row: Any, by: tuple[str, ...]) -> Group:
    values = dict(row._mapping)
    key = {name: values.pop(name) for name in by}
    if "day" in key:
        key["day"] = (_EPOCH + timedelta(days=int(key["day"]))).date().isoformat()
    return Group(key, **_numbers(values))


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Sums as Python has them; PostgreSQL adds whole numbers up to decimals."""
    return {
        name: float(value) if name.endswith("successes") else int(value)
        for name, value in values.items()
    }


def _added(rows: Sequence[Any]) -> tuple[Total, Savings, dict[str, int], int]:
    total = dict.fromkeys(_fields(Total()), 0.0)
    savings: dict[str, Any] = dict.fromkeys(_fields(Savings()), 0)
    further = dict.fromkeys(FURTHER, 0)
    left_out: dict[str, int] = {}
    left_out_nanousd = 0
    for row in rows:
        values = dict(row)
        reason, measured = values.pop("reason"), values.pop("baseline_measured")
        values = _numbers(values)
        for name in total:
            total[name] += values.get(name, 0)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + values["n_requests"]
            left_out_nanousd += values["cost_nanousd"]
            continue
        for name in savings:
            savings[name] += values.get(name, 0)
        for name in further:
            further[name] += values[f"further_{name}"]
        if measured:
            savings["n_measured"] += values["n_requests"]
            savings["measured_nanousd"] += values["baseline_nanousd"]
    counts: Any = {
        name: value if name.endswith("successes") else int(value) for name, value in total.items()
    }
    if not further["other"]:
        del further["other"]
    by_count = dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0])))
    added = Savings(**{**savings, "further_nanousd": further})
    return Total(**counts), added, by_count, left_out_nanousd
