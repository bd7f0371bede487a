"""What a condition may be, and limits with hysteresis.

A limit is passed strictly beyond it. While a level stands, it and the milder levels on its side hold until the value is
back behind their limits by more than the hysteresis, or by exactly it. The level is the worst of those that are passed
or held; where two are as bad, the one that is passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

NAMES: Final = (
    "",
    "low",
    "high",
    "low-low",
    "high-high",
    "rate",
    "deviation",
    "equals",
    "stale",
    "expression",
    "bad",
)
"""The levels as events name them, by their number, which is kept in states: never change the order."""
LOW, HIGH, LOW_LOW, HIGH_HIGH, RATE, DEVIATION, EQUALS, STALE, EXPRESSION, BAD = range(1, len(NAMES))


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. side: 1 alarms above it, -1 below it."""

    level: int
    limit: float
    side: int
    severity: int


class Levels:
    """Limits of one alarm, and the level that a number has by them."""

    def __init__(self, limits: Sequence[Limit], hysteresis: float) -> None:
        self._limits = sorted(limits, key=lambda one: one.severity)
        self._by_level = {one.level: one for one in limits}
        self._hysteresis = hysteresis
        self.some = bool(limits)
        """Whether there are any."""

    def limit(self, level: int) -> float | None:
        """The limit of a level; None when it has none."""
        return self._by_level[level].limit if level in self._by_level else None

    def passed(self, numbers: NDArray[np.float64]) -> NDArray[np.int16]:
        """The worst level that each number passes; 0 for none, and for NaN."""
        found = np.zeros(len(numbers), dtype=np.int16)
        for one in self._limits:
            found[numbers > one.limit if one.side > 0 else numbers < one.limit] = one.level
        return found

    def level(self, number: float, now: int) -> int:
        """The level of a number where the level was `now`."""
        standing = self._by_level.get(now)
        best, rank = 0, (0, False)
        for one in self._limits:
            passed = one.side * number > one.side * one.limit
            held = (
                standing is not None
                and one.side == standing.side
                and one.severity <= standing.severity
                and one.side * number > one.side * one.limit - self._hysteresis
            )
            if (passed or held) and (one.severity, passed) > rank:
                best, rank = one.level, (one.severity, passed)
        return best
