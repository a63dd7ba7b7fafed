"""Cost per success: the one place where it is computed, and a tracker that adds it up per tier.

CPS = sum of cost / sum of successes: a ratio of sums, never a mean of ratios, and ``inf`` where
nothing succeeded. JSON has no infinity, so mappings carry ``"cps_usd": None`` and
``"cps_is_infinite": True`` instead.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from numbers import Integral
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from router.errors import InputError

FloatArray = npt.NDArray[np.float64]

# Raised when the meaning of to_dict changes.
_FORMAT = 1


@overload
def cost_per_success(cost_usd: float, successes: float) -> float: ...
@overload
def cost_per_success(cost_usd: FloatArray, successes: FloatArray) -> FloatArray: ...
def cost_per_success(
    cost_usd: float | FloatArray, successes: float | FloatArray
) -> float | FloatArray:
    """Dollars spent per success: total cost / total successes, ``inf`` where nothing succeeded.

    Both arguments are *sums* (or arrays of sums, then element by element). Raises InputError for
    NaN, infinite or negative values: an unknown cost is an error, never 0.

    >>> round(cost_per_success(0.018, 423), 7)
    4.26e-05
    >>> cost_per_success(0.5, 0)
    inf
    """
    cost, count = np.asarray(cost_usd, dtype=float), np.asarray(successes, dtype=float)
    for name, values in (("costs in USD", cost), ("successes", count)):
        if not (np.isfinite(values) & (values >= 0)).all():
            raise InputError(
                f"expected {name} that are known, finite and not negative, got something else: "
                "fill in or leave out the outcomes concerned."
            )
    some = count > 0
    # A success of nearly nothing makes a ratio beyond all numbers: that is infinite as well.
    with np.errstate(over="ignore"):
        ratio = np.where(some, cost / np.where(some, count, 1.0), math.inf)
    return float(ratio) if ratio.ndim == 0 else ratio


def cps_fields(cost_usd: float, successes: float) -> dict[str, Any]:
    """CPS as JSON can say it: ``cps_usd`` (None where infinite) and ``cps_is_infinite``.

    >>> cps_fields(0.5, 0)
    {'cps_usd': None, 'cps_is_infinite': True}
    """
    value = cost_per_success(cost_usd, successes)
    infinite = math.isinf(value)
    return {"cps_usd": None if infinite else value, "cps_is_infinite": infinite}


class _Sums:
    """Number, successes and dollars of one tier; the sums keep their rounding error (Neumaier).

    A plain sum of a million costs of $0.00001 loses digits, and differently in every order, so two
    processes that merge would not agree with one.
    """

    __slots__ = ("_cost", "_cost_rest", "_success", "_success_rest", "n")

    def __init__(self) -> None:
        self.n = 0
        self._cost = self._cost_rest = self._success = self._success_rest = 0.0

    @property
    def cost_usd(self) -> float:
        return self._cost + self._cost_rest

    @property
    def successes(self) -> float:
        return self._success + self._success_rest

    def add(self, n: int, cost_usd: float, successes: float) -> None:
        self.n += n
        self._cost, self._cost_rest = _add(self._cost, self._cost_rest, cost_usd)
        self._success, self._success_rest = _add(self._success, self._success_rest, successes)

    def row(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "successes": self.successes,
            "success_rate": self.successes / self.n if self.n else None,
            "total_cost_usd": self.cost_usd,
            **cps_fields(self.cost_usd, self.successes),
        }


def _add(total: float, rest: float, value: float) -> tuple[float, float]:
    new = total + value
    if abs(total) >= abs(value):
        return new, rest + ((total - new) + value)
    return new, rest + ((value - new) + total)


class CpsTracker:
    """Running cost per success of every tier; thread-safe, mergeable across processes.

    >>> tracker = CpsTracker()
    >>> tracker.record("nano", cost_usd=0.00004, success=True)
    >>> tracker.record("nano", cost_usd=0.00004, success=False)
    >>> tracker.cps("nano")
    8e-05
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}
        self._lock = threading.Lock()

    def record(self, tier: str, cost_usd: float, success: float | bool, *, n: int = 1) -> None:
        """Add an outcome: what it cost in USD and how far it succeeded (bool or 0..1).

        With ``n`` above 1, ``cost_usd`` and ``success`` are the totals of ``n`` outcomes. Raises
        InputError where the tier is no text, ``n`` no whole number, the cost missing, infinite or
        negative, or the success out of 0..n.
        """
        if not isinstance(tier, str) or not isinstance(n, Integral) or isinstance(n, bool):
            raise InputError(
                "expected a tier's name and a whole number of outcomes, got "
                f"{type(tier).__name__} and {n!r}: name the tier, and record each outcome once."
            )
        cost, successes = _number(cost_usd), _number(success)
        if n < 1 or not (math.isfinite(cost) and cost >= 0 and 0 <= successes <= n):
            raise InputError(
                "expected a known cost_usd of at least 0 and a success between 0 and the number "
                f"of outcomes, got cost_usd {cost!r} and success {successes!r} for {n!r}: record "
                "an outcome once its cost and its success are known."
            )
        with self._lock:
            self._sums.setdefault(tier, _Sums()).add(int(n), cost, successes)

    def cps(self, tier: str | None = None) -> float:
        """CPS in USD of one tier, or of all of them together; ``inf`` where nothing succeeded."""
        with self._lock:
            wanted = self._sums.values() if tier is None else [self._sums.get(tier) or _Sums()]
            return cost_per_success(
                math.fsum(sums.cost_usd for sums in wanted),
                math.fsum(sums.successes for sums in wanted),
            )

    def report(self) -> dict[str, Any]:
        """JSON-serialisable: ``tiers`` by name and their ``total``.

        Each has n, successes, success_rate (None without outcomes), total_cost_usd, cps_usd and
        cps_is_infinite.
        """
        with self._lock:
            total = _Sums()
            for sums in self._sums.values():
                total.add(sums.n, sums.cost_usd, sums.successes)
            rows = {tier: self._sums[tier].row() for tier in sorted(self._sums)}
        return {"tiers": rows, "total": total.row()}

    def merge(self, other: CpsTracker) -> CpsTracker:
        """Add everything ``other`` has recorded to this tracker; returns this tracker."""
        # Copied first, under the other's lock alone: two trackers that merge each other at the
        # same moment would wait for each other for ever if both locks were held.
        recorded = other.to_dict()["tiers"]
        for tier, row in recorded.items():
            self.record(tier, row["total_cost_usd"], row["successes"], n=row["n"])
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable state, for another process to merge."""
        with self._lock:
            tiers = {
                tier: {"n": s.n, "successes": s.successes, "total_cost_usd": s.cost_usd}
                for tier, s in self._sums.items()
            }
        return {"format": _FORMAT, "tiers": tiers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CpsTracker:
        """Back from ``to_dict``. Raises InputError where ``data`` is something else."""
        tracker = cls()
        try:
            if data["format"] != _FORMAT:
                raise KeyError("format")
            for tier, row in data["tiers"].items():
                tracker.record(tier, row["total_cost_usd"], row["successes"], n=row["n"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "expected the state of a CpsTracker as to_dict() writes it, got something else: "
                "pass on what to_dict() returned, unchanged."
            ) from error
        return tracker


def _number(value: object) -> float:
    """A float; NaN where there is no number (None, text), so that one check refuses them all."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
