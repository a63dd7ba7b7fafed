"""Confidence sequences: bounds of a mean that hold at every moment, however often one looks.

A gambler bets on each row, with bets fixed by the rows before it, that a mean exceeds a stated
value. While it does not, the wealth is a nonnegative supermartingale that starts at 1, so that by
Ville's inequality P(it ever reaches 1/alpha) <= alpha. The values at which it did are excluded from
then on, and the bound only ever tightens (Waudby-Smith and Ramdas, Estimating means of bounded
random variables by betting, J. R. Stat. Soc. B 86, 2024).

``router.certificate`` bets for a test of a known number of rows. Here the number is open: the
wealth is split over constant bets that were fixed for all time (a mixture over a grid, their
section 4), which costs log(number of bets) of evidence and needs no tuning to n.

All bounds are of a *ratio* r: E[y] = r E[h], row by row, given the rows before. With h = 1 it is a
mean; with h the predicted and y the actual cost it is a ratio of sums. The rows may change from one
to the next: what is excluded is that r lay on the far side of the bound *all* the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["RatioRows"]

FloatArray = npt.NDArray[np.float64]

# Shares of the largest bet that is safe. No bet may lose more than 3/4 of its wealth on one row.
_BETS = 0.75 * 2.0 ** -np.arange(11.0)
# Rows beyond these go in blocks: of 2 up to twice as many, of 4 up to four times, and so on. Which
# block a row is in depends on its place alone, so that a later look goes on with the same wealth.
_SINGLE_ROWS = 16_384
# Halvings of an interval: to a 65,536th of its width.
_STEPS = 16


@dataclass(frozen=True, slots=True)
class RatioRows:
    """Rows (n,) in order of time, with the limits that were fixed before the first of them.

    ``y`` lies in [y_low, y_high], ``h`` in [h_low, h_high] with h_low >= 0 and h_high > 0. Where
    ``h`` varies, only ratios of at least 0 are looked at, and values of ``y`` below 0 leave ``r``
    without a lower bound: the wealth would not fall in r throughout.
    """

    y: FloatArray
    h: FloatArray
    y_low: float
    y_high: float
    h_low: float
    h_high: float

    @classmethod
    def mean(cls, y: FloatArray, low: float = 0.0, high: float = 1.0) -> RatioRows:
        """For the mean of values in [low, high]."""
        return cls(y, np.ones(len(y)), low, high, 1.0, 1.0)

    def __len__(self) -> int:
        return len(self.y)

    def exceeds(self, ratio: float, alpha: float) -> int | None:
        """After how many rows it was clear that r > ``ratio``; None: not so far.

        Falsely so at any time, under any r <= ``ratio``, with probability at most ``alpha``.

        >>> RatioRows.mean(np.ones(100)).exceeds(0.5, 0.05)
        10
        >>> RatioRows.mean(np.tile([0.0, 1.0], 50)).exceeds(0.5, 0.05) is None
        True
        """
        return self._crossing(ratio, alpha, upwards=True)

    def falls_below(self, ratio: float, alpha: float) -> int | None:
        """After how many rows it was clear that r < ``ratio``; the mirror image of ``exceeds``."""
        return self._crossing(ratio, alpha, upwards=False)

    def lower(self, alpha: float, least: float, most: float) -> float:
        """The running lower bound of r after all rows, within [least, most]; ``least`` if none.

        ``exceeds(x, alpha)`` holds exactly for x below the bound.
        """
        if self.y_low < 0.0 and self.h_low < self.h_high:
            return least
        return self._bound(alpha, least, most, upwards=True)

    def upper(self, alpha: float, least: float, most: float) -> float:
        """The running upper bound of r; the mirror image of ``lower``."""
        return self._bound(alpha, least, most, upwards=False)

    def _bound(self, alpha: float, least: float, most: float, *, upwards: bool) -> float:
        weak, strong = (least, most) if upwards else (most, least)
        blocks = self._blocks()
        for _ in range(_STEPS):
            middle = 0.5 * (weak + strong)
            if blocks._first(middle, alpha, upwards=upwards) is None:
                strong = middle
            else:
                weak = middle
        return weak

    def _crossing(self, ratio: float, alpha: float, *, upwards: bool) -> int | None:
        found = self._blocks()._first(ratio, alpha, upwards=upwards)
        return None if found is None else _rows_in(found + 1)

    def _first(self, ratio: float, alpha: float, *, upwards: bool) -> int | None:
        """Index of the first row after which the mixed wealth is at least 1/alpha.

        The wealth falls in ``ratio`` (upwards), so that halving finds where the bound is.
        """
        if not len(self):
            return None
        if upwards:
            x, worst = self.y - ratio * self.h, ratio * self.h_high - self.y_low
        else:
            x, worst = ratio * self.h - self.y, self.y_high - ratio * self.h_low
        if worst <= 0.0:
            # No row can lie on the far side; exactly there is not beyond.
            return 0 if worst < 0.0 else None
        wealth = np.cumsum(np.log1p(np.multiply.outer(_BETS / worst, x)), axis=1)
        # The wealth is the mean over the bets, which start equal.
        evidence = math.log(len(_BETS) / alpha)
        top = wealth.max(axis=0)
        hopeful = np.flatnonzero(top >= evidence - math.log(len(_BETS)))
        if not len(hopeful):
            return None
        at = wealth[:, hopeful]
        mixed = top[hopeful] + np.log(np.exp(at - top[hopeful]).sum(axis=0))
        reached = hopeful[mixed >= evidence]
        return int(reached[0]) if len(reached) else None

    def _blocks(self) -> RatioRows:
        """The rows, those far on as means of blocks; a last block that is not full waits."""
        if len(self) <= _SINGLE_ROWS:
            return self
        y, h = (_in_blocks(values) for values in (self.y, self.h))
        return RatioRows(y, h, self.y_low, self.y_high, self.h_low, self.h_high)


def _in_blocks(values: FloatArray) -> FloatArray:
    parts, start, size = [values[:_SINGLE_ROWS]], _SINGLE_ROWS, 2
    while start < len(values):
        part = values[start : 2 * start]
        full = len(part) // size
        parts.append(part[: full * size].reshape(full, size).mean(axis=1))
        start, size = 2 * start, 2 * size
    return np.concatenate(parts)


def _rows_in(n_blocks: int) -> int:
    """How many rows the first blocks hold."""
    rows, left, size = min(n_blocks, _SINGLE_ROWS), n_blocks - _SINGLE_ROWS, 2
    while left > 0:
        rows += size * min(left, _SINGLE_ROWS // 2)
        left, size = left - _SINGLE_ROWS // 2, 2 * size
    return rows
