"""How far the time of each tag is known to have come.

The *watermark* of a tag is its newest time less the lateness that is waited for. A tag that is silent holds its windows
open no longer than `idle`: then its watermark follows the wall clock, `idle` behind it, as long as that is known to be
right. Silence is measured only while somebody listens: after a stop, what was not heard in the meantime is still to
come. The watermark never goes back.

The *horizon* lies `allowed` behind the watermark: what is older than that is too late, and changes nothing any more.

A clock that was years ahead for a moment would leave tags with a watermark that nothing reaches again: `ahead` finds
them, and `reset` gives them a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.step import SECOND, Turn, grown
from preprocessor.windows.ragged import NEVER, Times

_LISTENING: Final = 5 * SECOND
"""Turns that are further apart were not heard in between."""
_AHEAD: Final = 2 * 86_400 * SECOND
"""No time of a sample is further ahead of a clock that is trusted."""
_COLUMNS: Final = ("newest", "heard", "mark", "horizon")


class Watermarks:
    """By slot. All durations in ns."""

    def __init__(self, lateness: int, allowed: int, idle: int) -> None:
        self._lateness, self._allowed, self._idle = lateness, allowed, idle
        self._listened = 0
        self._steady: int | None = None
        self.newest: Times = np.zeros(0, dtype=np.int64)
        """The newest time; NEVER: nothing came yet."""
        self.heard: Times = np.zeros(0, dtype=np.int64)
        self.mark: Times = np.zeros(0, dtype=np.int64)
        self.horizon: Times = np.zeros(0, dtype=np.int64)

    def grow(self, size: int) -> None:
        """Room for so many tags."""
        self.newest = grown(self.newest, size, NEVER)
        self.heard = grown(self.heard, size, 0)
        self.mark = grown(self.mark, size, NEVER)
        self.horizon = grown(self.horizon, size, NEVER)

    def listen(self, turn: Turn) -> None:
        """A turn begins."""
        if self._steady is not None:
            self._listened += min(max(turn.steady - self._steady, 0), _LISTENING)
        self._steady = turn.steady

    def came(self, slots: NDArray[np.int32], newest: Times) -> None:
        """These tags had samples, the newest of each at this time."""
        self.newest[slots] = np.maximum(self.newest[slots], newest)
        self.heard[slots] = self._listened

    def advance(self, turn: Turn) -> None:
        """Watermarks after what came in this turn."""
        known = self.newest > NEVER
        np.maximum(self.mark, np.where(known, self.newest - self._lateness, NEVER), out=self.mark)
        if turn.trusted:
            idle = known & (self._listened - self.heard >= self._idle)
            if idle.any():
                self.mark[idle] = np.maximum(self.mark[idle], turn.now - self._idle)

    def settle(self, most: Times) -> None:
        """Horizons behind the watermarks, none further than `most` of its tag."""
        np.maximum(self.horizon, np.minimum(self.mark - self._allowed, most), out=self.horizon)

    def ahead(self, turn: Turn) -> NDArray[np.intp]:
        """Tags whose time cannot be: it lies days ahead of a clock that is trusted."""
        if not turn.trusted or not len(self.mark) or int(self.mark.max()) <= turn.now + _AHEAD:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(self.mark > turn.now + _AHEAD)

    def reset(self, slots: NDArray[np.intp], turn: Turn) -> None:
        """These tags go on from now."""
        self.newest[slots] = turn.now
        self.mark[slots] = self.horizon[slots] = turn.now - self._lateness - self._allowed
        self.heard[slots] = self._listened

    def save(self, known: NDArray[np.int32]) -> dict[str, Any]:
        """What is known of these tags, for `load`."""
        return {
            "listened": self._listened,
            "steady": self._steady,
            **{name: getattr(self, name)[known] for name in _COLUMNS},
        }

    def load(self, known: NDArray[np.int32], saved: Mapping[str, Any]) -> None:
        """The same again. Raises ValueError for columns that do not agree."""
        for name in _COLUMNS:
            getattr(self, name)[known] = saved[name]
        self._listened = int(saved["listened"])
        self._steady = None if saved["steady"] is None else int(saved["steady"])
