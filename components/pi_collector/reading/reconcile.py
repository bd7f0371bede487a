"""Which part of the archive is looked at again, and when: values that came late, were edited or lost unseen. Pure.

Every stream has a turn once in `every` seconds: what the archive holds of its last `window` is read, and what was
handed on before is dropped by the tail. Streams of the same setting are read many at a time, in slices that are spread
evenly over the interval, so that it is never felt. A slice that fails has its turn again soon. It is not read

- before the stream's own beginning, nor before what the tail remembers: all of that would come as if it were new,
- where the stream has a hole that reaches back over the whole window: filling it reads the same.

Nothing depends on it: it moves no coverage, and opens no gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pi_collector.coverage.pieces import Kind, Piece

_SECOND: Final = 10**9
_MOST_AGAIN: Final = 1_000  # slices that wait for another try
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Turn:
    """How a stream is looked at again; seconds. window 0: never."""

    every: float
    window: float
    settle: float


@dataclass(slots=True)
class _Round:
    """Streams of the same setting."""

    turn: Turn
    handles: NDArray[np.int32]
    due: float
    place: int = 0

    def slices(self, most: int) -> int:
        return -(-len(self.handles) // most)


@dataclass(slots=True)
class _Again:
    """A slice that is read once more: of these streams, not before due."""

    turn: Turn
    handles: NDArray[np.int32]
    due: float
    tries: int
    rest: Piece | None = None
    """What is left of it."""


@dataclass(slots=True)
class Reconciling:
    """begin: from when on a stream may be read at all (ns); covered: up to when it has been (ns)."""

    begin: Callable[[int], int]
    covered: Callable[[int], int]
    late: int = 0
    """Values that it found."""
    slices: int = 0
    """How many were read."""
    given_up: int = 0
    """Slices that failed several times in a row; they have their turn again with the next round."""
    _rounds: dict[Turn, _Round] = field(default_factory=dict)
    _again: deque[_Again] = field(default_factory=lambda: deque(maxlen=_MOST_AGAIN))
    _busy: dict[int, tuple[Piece, _Again]] = field(default_factory=dict)  # by id of the piece

    def want(self, streams: Mapping[int, Turn], now: float) -> None:
        """Look at these from now on, and at no others."""
        by_turn: dict[Turn, list[int]] = {}
        for handle, turn in streams.items():
            if turn.window > 0:
                by_turn.setdefault(turn, []).append(handle)
        rounds: dict[Turn, _Round] = {}
        for turn, handles in by_turn.items():
            found = np.array(sorted(handles), np.int32)
            before = self._rounds.get(turn)
            if before is None:
                rounds[turn] = _Round(turn, found, now + turn.every)
            else:
                before.handles = found
                rounds[turn] = before
        self._rounds = rounds
        self._again = deque(
            (one for one in self._again if one.turn in rounds and np.isin(one.handles, rounds[one.turn].handles).all()),
            maxlen=_MOST_AGAIN,
        )

    def work(self, lower: int, now: float, most: int) -> Piece | None:
        """The next slice whose turn it is; lower: the server's clock at least (ns)."""
        for _ in range(len(self._again)):
            again = self._again.popleft()
            if again.due > now:
                self._again.append(again)
            elif (piece := self._piece(again, lower)) is not None:
                return piece
        for found in self._rounds.values():
            while now >= found.due:
                pause = found.turn.every / found.slices(most)
                found.due = max(found.due, now - pause) + pause  # what was missed is not made up for
                if found.place >= len(found.handles):
                    found.place = 0
                handles = found.handles[found.place : found.place + most]
                found.place += most
                if (piece := self._piece(_Again(found.turn, handles, now, 0), lower)) is not None:
                    return piece
        return None

    def _piece(self, again: _Again, lower: int) -> Piece | None:
        if again.rest is not None:
            self._busy[id(again.rest)] = again.rest, again
            return again.rest
        turn = again.turn
        earliest, stop = lower - int(turn.window * _SECOND), lower - int(turn.settle * _SECOND)
        begins = np.array([self.begin(handle) for handle in again.handles.tolist()], np.int64)
        covered = np.array([self.covered(handle) for handle in again.handles.tolist()], np.int64)
        start = np.maximum(begins, earliest)
        readable = (covered > start) & (start < stop)
        if not readable.any():
            return None
        piece = Piece(Kind.RECONCILE, again.handles[readable], start[readable], stop)
        self._busy[id(piece)] = piece, again
        return piece

    def finished(self, piece: Piece) -> None:
        """It has been read to its end."""
        if self._busy.pop(id(piece), None) is not None:
            self.slices += 1

    def resumed(self, piece: Piece, reached: Mapping[int, int]) -> None:
        """It made room for something more urgent: the rest of it is read soon. reached: up to when (ns), by stream."""
        found = self._busy.pop(id(piece), None)
        if found is not None:
            starts = zip(piece.streams.tolist(), piece.start.tolist(), strict=True)
            start = np.array([max(begin, reached.get(handle, begin)) for handle, begin in starts], np.int64)
            rest = Piece(Kind.RECONCILE, piece.streams, start, piece.stop)
            self._again.append(_Again(found[1].turn, found[1].handles, 0.0, found[1].tries, rest))

    def returned(self, piece: Piece, due: float) -> None:
        """It could not be read; not before `due` again."""
        found = self._busy.pop(id(piece), None)
        if found is None:
            return
        again = found[1]
        if again.tries + 1 >= _TRIES:
            self.given_up += 1
        else:
            self._again.append(_Again(again.turn, again.handles, due, again.tries + 1, again.rest))

    def status(self) -> dict[str, Any]:
        """Counters; nothing when there is nothing to tell."""
        told = {"late": self.late, "slices": self.slices, "given_up": self.given_up}
        return told if self.slices or self.given_up else {}
