"""How far the time of each tag is known to have come.

The *watermark* of a tag is its newest time less the lateness that is waited for. A tag that is silent holds its windows
open no longer than `idle`: then its watermark follows the wall clock, `idle` behind it, as long as that is known to be
right. Silence is measured only while somebody listens: after a stop, what was not heard in the meantime is still to
come. The watermark never goes back.

What is to come may be older than the wall clock says: a backlog is being read, or a source has a clock that is slow.
So the watermark of a silent tag stays back further, by the *lag*: by as much as those samples were behind the wall
clock that came last of tags that go on, and, up to ten minutes, by as much as its own last one was. The first sample of
a tag tells nothing of that: it may have its time from when the value last changed.

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
_SLOWEST: Final = 600 * SECOND
"""How slow the clock of a single tag may be for its windows to wait for it while it is silent."""
_COLUMNS: Final = ("newest", "heard", "mark", "horizon", "seen", "behind")


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
        self._seen_now: list[tuple[NDArray[np.int32], Times]] = []
        self._lag = 0
        self.seen: Times = np.zeros(0, dtype=np.int64)
        """The newest time, of samples that are too late as well."""
        self.behind: Times = np.zeros(0, dtype=np.int64)
        """By how much a sample of the tag that went on was behind the wall clock, the last time."""

    def grow(self, size: int) -> None:
        """Room for so many tags."""
        self.newest = grown(self.newest, size, NEVER)
        self.heard = grown(self.heard, size, 0)
        self.mark = grown(self.mark, size, NEVER)
        self.horizon = grown(self.horizon, size, NEVER)
        self.seen = grown(self.seen, size, NEVER)
        self.behind = grown(self.behind, size, 0)

    def listen(self, turn: Turn) -> None:
        """A turn begins."""
        if self._steady is not None:
            self._listened += min(max(turn.steady - self._steady, 0), _LISTENING)
        self._steady = turn.steady

    def saw(self, slots: NDArray[np.int32], newest: Times) -> None:
        """These tags had samples in this turn, of which some may be too late; the newest of each at this time."""
        self._seen_now.append((slots, newest))

    def came(self, slots: NDArray[np.int32], newest: Times) -> None:
        """These tags had samples, the newest of each at this time."""
        self.newest[slots] = np.maximum(self.newest[slots], newest)
        self.heard[slots] = self._listened

    def advance(self, turn: Turn) -> None:
        """Watermarks after what came in this turn."""
        self._learn(turn)
        known = self.newest > NEVER
        np.maximum(self.mark, np.where(known, self.newest - self._lateness, NEVER), out=self.mark)
        if turn.trusted:
            idle = known & (self._listened - self.heard >= self._idle)
            if idle.any():
                lag = np.maximum(self.behind[idle], self._lag)
                self.mark[idle] = np.maximum(self.mark[idle], turn.now - self._idle - lag)

    def _learn(self, turn: Turn) -> None:
        """How far behind the wall clock the samples of this turn are."""
        if not self._seen_now:
            return
        going_on = [slots[(self.seen[slots] > NEVER) & (newest > self.seen[slots])] for slots, newest in self._seen_now]
        for slots, newest in self._seen_now:
            self.seen[slots] = np.maximum(self.seen[slots], newest)
        self._seen_now = []
        on = np.concatenate(going_on)
        if turn.trusted and len(on):
            lag = np.maximum(turn.now - self.seen[on], 0)
            self.behind[on] = np.minimum(lag, _SLOWEST)
            self._lag = int(lag.min())

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
        self.newest[slots] = self.seen[slots] = turn.now
        self.mark[slots] = self.horizon[slots] = turn.now - self._lateness - self._allowed
        self.heard[slots] = self._listened

    def save(self, known: NDArray[np.int32]) -> dict[str, Any]:
        """What is known of these tags, for `load`."""
        return {
            "listened": self._listened,
            "steady": self._steady,
            "lag": self._lag,
            **{name: getattr(self, name)[known] for name in _COLUMNS},
        }

    def load(self, known: NDArray[np.int32], saved: Mapping[str, Any]) -> None:
        """The same again. Raises ValueError for columns that do not agree."""
        for name in _COLUMNS:
            getattr(self, name)[known] = saved[name]
        self._listened, self._lag = int(saved["listened"]), int(saved["lag"])
        self._steady = None if saved["steady"] is None else int(saved["steady"])
