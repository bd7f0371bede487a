"""What ran where and when: batches and their phases as intervals of time on asset paths.

    BEGIN ──> running ──end────> complete
                     ──abort──> aborted
                     ──abandon> abandoned

Theory. A *frame* is something that runs on an asset and everything below it for a time: a batch. Its interval is half
open, [start, end): a sample at the very end belongs to what comes next. A frame that runs has no end yet. It may have
*phases*, one after the other, which lie inside it.

Several frames may cover one sample. They are ranked: the one on the most specific asset path wins, among those of one
asset the one that started last, among those the one that was begun last. Of each asset this is kept as a *timeline*, a
list of times and of who wins from there on, so that a lookup of many samples is one search in a sorted column. What
happens in order of time (nearly always) is appended to the timeline; only what is told afterwards (a frame that began
earlier, an end that is moved) makes it anew.

What is told afterwards changes the answer for times that were asked about before. Each operation therefore adds to
`changes` for which times another frame wins on its asset now, so that the caller can correct what it has said.

Frames are remembered for 30 days and at most 10,000 of an asset; `forgotten` counts the others. Sans-I/O: times are
passed in, ns since 1970 UTC.

    ValueError
    └── ContextError    a frame that there is not, or one that cannot do this any more; saved state that makes no sense
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]

OPEN: Final = 2**63 - 1
"""The end of a frame or phase that still runs."""
LONGEST_KEPT: Final = 30 * 86_400 * 1_000_000_000
MOST_FRAMES: Final = 10_000
"""Frames that are remembered of one asset."""
MOST_IN_ALL: Final = 100_000
MOST_PHASES: Final = 1_000
"""Phases of one frame; further ones are refused."""


class ContextError(ValueError):
    """An operation on a frame that there is not, or that is over."""


class State(str, Enum):
    """Where a frame is in its life."""

    RUNNING = "running"
    COMPLETE = "complete"
    ABORTED = "aborted"
    ABANDONED = "abandoned"
    """Nobody said how it ended: it ran for too long, or what followed it is not looked at any more."""


AFTER: Final[Mapping[tuple[State, str], State]] = {
    (State.RUNNING, "end"): State.COMPLETE,
    (State.RUNNING, "abort"): State.ABORTED,
    (State.RUNNING, "abandon"): State.ABANDONED,
}
"""The state after an event. What is not here cannot happen, and raises ContextError."""


@dataclass(slots=True)
class Phase:
    """A part of a frame, [start, end)."""

    name: str
    start: int
    end: int = OPEN


@dataclass(slots=True)
class Frame:
    """Something that runs on an asset, [start, end). Changed by its `History` alone."""

    number: int
    """From 1 on, never given twice."""
    asset: str
    id: str
    start: int
    end: int = OPEN
    state: State = State.RUNNING
    reason: str = ""
    """Why it ended, where that is not told by the state."""
    joined: bool = False
    """It ran already when it was seen first: its real start is earlier."""
    phases: list[Phase] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.state is State.RUNNING


@dataclass(frozen=True, slots=True)
class Change:
    """On this asset another frame wins within [start, end) than before; 0 stands for none.

    Below the asset this holds wherever no more specific path has a frame.
    """

    asset: str
    start: int
    end: int
    before: int
    after: int


@dataclass(slots=True)
class _Asset:
    """The frames of one asset, and who wins from which time on."""

    frames: dict[int, Frame] = field(default_factory=dict)
    edges: list[int] = field(default_factory=list)
    winners: list[int] = field(default_factory=list)
    arrays: tuple[Times, Times] | None = None

    def winner(self, time: int) -> int:
        place = bisect_right(self.edges, time) - 1
        return self.winners[place] if place >= 0 else 0

    def columns(self) -> tuple[Times, Times]:
        if self.arrays is None:
            self.arrays = np.array(self.edges, dtype=np.int64), np.array(self.winners, dtype=np.int64)
        return self.arrays


class History:
    """Frames by asset. Every operation adds what it changed to `changes`, which the caller empties."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.forgotten = 0
        """Frames that were too old or too many."""
        self.refused_phases = 0
        self._assets: dict[str, _Asset] = {}
        self._frames: dict[int, Frame] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._frames)

    # --- looking up ---

    def at(self, asset: str, times: Times) -> Times:
        """The number of the frame that each of these times of the asset belongs to; 0: none."""
        found: Times = np.zeros(len(times), dtype=np.int64)
        if not self._assets or not len(times):
            return found
        missing: NDArray[np.intp] | None = None  # None: all of them
        for path in _with_ancestors(asset):
            of = self._assets.get(path)
            if of is None or not of.edges:
                continue
            edges, winners = of.columns()
            places = np.searchsorted(edges, times if missing is None else times[missing], side="right")
            here = np.concatenate(([0], winners))[places]
            if missing is None:
                found = here
            else:
                found[missing] = here
            missing = np.flatnonzero(found == 0)
            if not len(missing):
                break
        return found

    def phases_at(self, number: int, times: Times) -> Times:
        """Which phase of a frame each of these times belongs to, as a place in its `phases`; -1: none."""
        phases = self.frame(number).phases
        if not phases:
            return np.full(len(times), -1, dtype=np.int64)
        starts = np.array([phase.start for phase in phases], dtype=np.int64)
        ends = np.array([phase.end for phase in phases], dtype=np.int64)
        places = np.searchsorted(starts, times, side="right") - 1
        inside = (places >= 0) & (times < ends[places])
        return np.where(inside, places, -1).astype(np.int64)

    def frame(self, number: int) -> Frame:
        """A frame by its number. Raises ContextError when it is not, or not any more, known."""
        frame = self._frames.get(number)
        if frame is None:
            raise ContextError(f"there is no frame {number}")
        return frame

    def get(self, number: int) -> Frame | None:
        """A frame by its number; None when it is not, or not any more, known."""
        return self._frames.get(number)

    def running(self, asset: str) -> list[Frame]:
        """The frames that run on exactly this asset, the one that wins first."""
        of = self._assets.get(asset)
        frames = [] if of is None else [frame for frame in of.frames.values() if frame.running]
        return sorted(frames, key=lambda frame: (-frame.start, -frame.number))

    def known(self, asset: str, id_: str) -> Frame | None:
        """The frame of exactly this asset with this id that was begun last."""
        of = self._assets.get(asset)
        frames = () if of is None else reversed(of.frames.values())
        return next((frame for frame in frames if frame.id == id_), None)

    # --- what happens ---

    def begin(self, asset: str, id_: str, start: int, *, joined: bool = False) -> Frame:
        """A frame begins to run. It may have begun earlier than what is known already; others may run beside it."""
        frame = Frame(self._next, asset, id_, start, joined=joined)
        self._next += 1
        of = self._assets.setdefault(asset, _Asset())
        self._forget(asset, of, start)
        of.frames[frame.number] = self._frames[frame.number] = frame
        if not of.edges or start >= of.edges[-1]:
            self._append(asset, of, start)
        else:
            self._again(asset, of)
        return frame

    def end(self, number: int, time: int, event: str = "end", reason: str = "") -> Frame:
        """A frame ends: `event` is end, abort or abandon. Not before it began. Raises ContextError."""
        frame = self.frame(number)
        state = AFTER.get((frame.state, event))
        if state is None:
            raise ContextError(f"a frame that is {frame.state.value} cannot {event}")
        frame.state, frame.reason = state, reason
        frame.end = max(time, frame.start)
        for phase in frame.phases:
            phase.start, phase.end = min(phase.start, frame.end), min(phase.end, frame.end)
        of = self._assets[frame.asset]
        if frame.end >= of.edges[-1]:
            self._append(frame.asset, of, frame.end)
        else:
            self._again(frame.asset, of)
        return frame

    def phase(self, number: int, name: str, start: int) -> bool:
        """A phase begins, and ends the one before. False when the frame has no place for it. Raises ContextError."""
        frame = self.frame(number)
        if not frame.running:
            raise ContextError(f"a frame that is {frame.state.value} cannot have another phase")
        if len(frame.phases) >= MOST_PHASES:
            self.refused_phases += 1
            return False
        start = max(start, frame.start)
        if frame.phases:
            last = frame.phases[-1]
            start = max(start, last.start)
            last.end = start
        frame.phases.append(Phase(name, start))
        return True

    def move(self, number: int, *, start: int | None = None, end: int | None = None) -> Frame:
        """A frame began or, when it is over, ended at another time than was told. Raises ContextError."""
        frame = self.frame(number)
        if end is not None and frame.running:
            raise ContextError("a frame that is running has no end that could be moved")
        frame.start = frame.start if start is None else start
        frame.end = max(frame.end if end is None else end, frame.start)
        for phase in frame.phases:
            phase.start = min(max(phase.start, frame.start), frame.end)
            phase.end = min(max(phase.end, frame.start), frame.end)
        self._again(frame.asset, self._assets[frame.asset])
        return frame

    def delete(self, number: int) -> None:
        """There never was such a frame. Raises ContextError."""
        frame = self.frame(number)
        of = self._assets[frame.asset]
        del of.frames[number], self._frames[number]
        self._again(frame.asset, of)

    # --- state ---

    def save(self) -> dict[str, Any]:
        """Plain values, for `load`."""
        return {
            "next": self._next,
            "forgotten": self.forgotten,
            "refused_phases": self.refused_phases,
            "frames": [
                [
                    one.number, one.asset, one.id, one.start, one.end, one.state.value, one.reason, one.joined,
                    [[phase.name, phase.start, phase.end] for phase in one.phases],
                ]
                for one in self._frames.values()
            ],
        }  # fmt: skip

    def load(self, saved: Mapping[str, Any]) -> None:
        """What `save` gave, into an empty one. Raises ContextError."""
        try:
            for number, asset, id_, start, end, state, reason, joined, phases in saved["frames"]:
                parts = [Phase(str(name), int(begin), int(over)) for name, begin, over in phases]
                frame = Frame(
                    int(number), str(asset), str(id_), int(start), int(end), State(state), str(reason), bool(joined),
                    parts,
                )  # fmt: skip
                self._frames[frame.number] = frame
                self._assets.setdefault(frame.asset, _Asset()).frames[frame.number] = frame
            self._next = max(int(saved["next"]), max(self._frames, default=0) + 1)
            self.forgotten = int(saved["forgotten"])
            self.refused_phases = int(saved["refused_phases"])
        except (KeyError, TypeError, ValueError) as error:
            raise ContextError(f"these are no frames: {error}") from None
        for of in self._assets.values():
            of.edges, of.winners = _timeline(of.frames.values())

    # --- timelines ---

    def _append(self, asset: str, of: _Asset, time: int) -> None:
        """Something happened at or behind the last edge: who wins from there on?

        All ends that are known are edges, so that behind the last one there is only what runs.
        """
        best = max(
            ((one.start, one.number) for one in of.frames.values() if one.start <= time < one.end), default=(0, 0)
        )[1]
        before = of.winners[-1] if of.winners else 0
        if of.edges and of.edges[-1] == time:
            of.winners[-1] = best
        else:
            of.edges.append(time)
            of.winners.append(best)
        of.arrays = None
        if best != before:
            self.changes.append(Change(asset, time, OPEN, before, best))

    def _again(self, asset: str, of: _Asset) -> None:
        """The timeline anew, and where it differs from what it was."""
        edges, winners = of.edges, of.winners
        of.edges, of.winners = _timeline(of.frames.values())
        of.arrays = None
        self.changes += _differences(asset, edges, winners, of)

    def _forget(self, asset: str, of: _Asset, now: int) -> None:
        """Make room: what is over for 30 days goes, and the oldest tenth when there are too many."""
        first = next(iter(of.frames.values()), None)
        if first is None or (first.end > now - LONGEST_KEPT - LONGEST_KEPT // 30 and len(of.frames) < MOST_FRAMES):
            gone: list[int] = []
        else:
            gone = [one.number for one in of.frames.values() if one.end < now - LONGEST_KEPT]
            if len(of.frames) - len(gone) >= MOST_FRAMES:
                over = [one.number for one in of.frames.values() if not one.running] or list(of.frames)
                gone = over[: max(len(gone), MOST_FRAMES // 10)]
            self._drop(gone)
            of.edges, of.winners = _timeline(of.frames.values())
            of.arrays = None
        if len(self._frames) >= MOST_IN_ALL:
            over = [one.number for one in self._frames.values() if not one.running] or list(self._frames)
            touched = {self._frames[number].asset: None for number in over[: MOST_IN_ALL // 10]}
            self._drop(over[: MOST_IN_ALL // 10])
            for path in touched:
                if path != asset and not self._assets[path].frames:
                    del self._assets[path]
                    continue
                one = self._assets[path]
                one.edges, one.winners = _timeline(one.frames.values())
                one.arrays = None

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self._assets[self._frames.pop(number).asset].frames[number]
            self.forgotten += 1


def _with_ancestors(asset: str) -> list[str]:
    """The path, then each above it, at last the empty one, which is above all."""
    paths = [asset]
    while asset:
        asset = asset.rpartition("/")[0]
        paths.append(asset)
    return paths


def _timeline(frames: Iterable[Frame]) -> tuple[list[int], list[int]]:
    """Times, and which frame wins from each on."""
    starting = sorted((one for one in frames if one.start < one.end), key=lambda one: (one.start, one.number))
    times = sorted({one.start for one in starting} | {one.end for one in starting if one.end != OPEN})
    edges: list[int] = []
    winners: list[int] = []
    open_: list[tuple[int, int, int]] = []  # (-start, -number, end): the one that wins first
    place = 0
    for time in times:
        while place < len(starting) and starting[place].start <= time:
            one = starting[place]
            heapq.heappush(open_, (-one.start, -one.number, one.end))
            place += 1
        while open_ and open_[0][2] <= time:
            heapq.heappop(open_)
        edges.append(time)
        winners.append(-open_[0][1] if open_ else 0)
    return edges, winners


def _differences(asset: str, edges: list[int], winners: list[int], now: _Asset) -> list[Change]:
    """Where two timelines differ; neighbouring stretches with the same two answers are one."""
    then = _Asset(edges=edges, winners=winners)
    times = sorted({*edges, *now.edges})
    found: list[Change] = []
    for place, time in enumerate(times):
        before, after = then.winner(time), now.winner(time)
        if before == after:
            continue
        end = times[place + 1] if place + 1 < len(times) else OPEN
        last = found[-1] if found else None
        if last is not None and (last.end, last.before, last.after) == (time, before, after):
            found[-1] = Change(asset, last.start, end, before, after)
        else:
            found.append(Change(asset, time, end, before, after))
    return found
