"""The time of a flow's turns: the wall clock, whether it can be trusted, and a clock that only goes on.

The steady clock goes on where the stored one stood, and over the time in between as far as the wall clock tells it: by
nothing when that went back, by a week at most.

The wall clock is trusted when it stands after 2026-01-01 and agrees with the sources: a live sample that came just now
is of the last or next 5 minutes, or nothing live came for a minute, so that there is nobody to ask. Once trusted it
stays so, unless it jumps back. A device that starts without network begins with a wrong clock: until somebody has
confirmed it, nothing is aged, closed or set aside by it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.step import SECOND, Turn

BUILT: Final = 1_767_225_600 * SECOND
"""2026-01-01T00:00:00Z: no clock that stands before it is right."""
AGREES: Final = 300 * SECOND
SILENCE: Final = 60 * SECOND
LONGEST_AWAY: Final = 7 * 86_400 * SECOND
_STEP_BACK: Final = SECOND


class Clock:
    """Of one flow. All times in ns; `wall` since 1970 UTC, `monotonic` of any steady clock of this process."""

    def __init__(self, wall: int, monotonic: int, *, now: int = 0, steady: int = 0) -> None:
        """now, steady: those of the last turn that is known; 0: there was none."""
        away = min(max(0, wall - now), LONGEST_AWAY) if now else 0
        self.trusted = False
        self._steady = steady + away + SECOND
        self._began = monotonic
        self._heard = monotonic
        self._wall = wall

    def heard(self, times: NDArray[np.int64], wall: int, monotonic: int) -> None:
        """Live samples of these source times have come."""
        self._heard = monotonic
        if not self.trusted and len(times) and wall >= BUILT and int(np.abs(times - wall).min()) <= AGREES:
            self.trusted = True

    def turn(self, wall: int, monotonic: int) -> Turn:
        """The time of a turn that is made now."""
        if wall < self._wall - _STEP_BACK:
            self.trusted = False
            self._heard = monotonic
        self._wall = wall
        if wall < BUILT:
            self.trusted = False
        elif monotonic - self._heard >= SILENCE:
            self.trusted = True
        return Turn(wall, self._steady + monotonic - self._began, self.trusted)
