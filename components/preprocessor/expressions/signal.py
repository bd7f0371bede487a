"""An expression over tags, followed through time.

A signal knows what its expression was at any time: of each tag it keeps the latest 8 samples beside those of this turn,
which makes it exact for as far back as they reach, and of the result the latest 1,000 changes for all times before.
Samples that come late (not newer than what their tag had before) are not looked at: they never move a signal back.

    signal.feed(blocks, turn)       once in each turn, before anything is asked
    signal.at(times)                the values at these times
    signal.changes()                what it became in this turn
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import SECOND, FlowContext, Turn
from preprocessor.expressions.columns import Column, Mask, together
from preprocessor.expressions.compiling import Expression, compile_expression
from preprocessor.expressions.resolving import NONE, Names
from sluice.columns import ValueType

KEPT: Final = 8
"""Samples of each tag that are kept over a turn."""
MOST_CHANGES: Final = 1_000
"""Changes of the result that are kept."""

_NEVER: Final = -(2**63)
_NOTHING: Final = Column(np.empty(0), np.empty(0, dtype=np.uint8))
_NO_TIMES: Final = np.empty(0, dtype=np.int64)
Times = NDArray[np.int64]


class Signal:
    """One expression over tags in one flow.

    place: where it stands, relative to its step; step: the step's name, empty for the flow's own. Raises Refusal.
    """

    def __init__(self, text: str, flow: FlowContext, place: str, *, step: str = "") -> None:
        full = f"steps.{step}.{place}" if step else place
        self.expression: Expression = compile_expression(text, place=place)
        if not self.expression.tags:
            raise Refusal(place, text, "names no tag, so that it never changes", "write tags in braces, such as {Run}")
        self._names = Names(self.expression.tags, flow, [full] * len(self.expression.tags))
        self._tracks = [
            _Track(flow, name in self.expression.looks_back, name in self.expression.measures_age)
            for name in self.expression.tags
        ]
        self._newest = _NEVER
        self._tail_times: Times = _NO_TIMES
        self._tail = _NOTHING
        self._changes: tuple[Times, Column] = (_NO_TIMES, _NOTHING)
        self._grid: tuple[Times, Column] | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that it looks at, as they are written."""
        return self.expression.tags

    def prepare(self, slots: Sequence[int]) -> None:
        """These slots are new."""
        self._names.prepare(slots)

    def feed(self, blocks: Sequence[Block], turn: Turn) -> None:
        """Take the samples of this turn. Once in each turn, also without blocks."""
        self._names.watch(turn, bool(blocks))
        self._changes = (_NO_TIMES, _NOTHING)
        came = self._came(blocks)
        if not came:
            return
        self._grid = None
        times = []
        for track in self._tracks:
            track.trim()
        for number, rows in came.items():
            new = self._tracks[number].add(rows)
            if len(new):
                times.append(new)
        if not times:
            return
        grid = times[0] if len(times) == 1 else np.concatenate(times)
        if len(times) > 1 or grid[0] < self._newest:
            grid = np.unique(np.maximum(grid, self._newest))
        self._newest = int(grid[-1])
        self._remember(grid, self._evaluated(grid))

    def _came(self, blocks: Sequence[Block]) -> dict[int, list[tuple[Times, NDArray[Any], NDArray[np.uint8]]]]:
        """The rows of each tag in this turn that are not late, by the tag's number."""
        users = self._names.users
        here = [
            (block, sorted(found)) for block in blocks if len(block) and (found := _slots_in(block).intersection(users))
        ]
        before = list(self._names.slots)
        for _, slots in here:
            for slot in slots:
                self._names.meet(slot)
        meant = self._names.slots
        if meant != before:
            self._grid = None
            for number, track in enumerate(self._tracks):
                track.clear_unless(meant[number])
        came: dict[int, list[tuple[Times, NDArray[Any], NDArray[np.uint8]]]] = {}
        for block, slots in here:
            for slot in slots:
                numbers = [number for number in users[slot] if meant[number] == slot]
                if not numbers:
                    continue
                start, end = np.searchsorted(block.slot, (slot, slot + 1))
                rows = _rows(block, slice(int(start), int(end)))
                for number in numbers:
                    came.setdefault(number, []).append(rows)
        return came

    def _evaluated(self, times: Times) -> Column:
        """The expression at these times, from what is kept of its tags."""
        tracks = zip(self.expression.tags, self._tracks, strict=True)
        result = self.expression.evaluate({name: track.at(times) for name, track in tracks})
        return result if len(result) == len(times) else _repeated(result, len(times))

    def _remember(self, times: Times, values: Column) -> None:
        """Keep what changed: the value before counts, so that the first row may be no change."""
        if len(self._tail) and self._tail.text == values.text:
            changed = _different(together([self._tail.take(slice(-1, None)), values]))
        else:  # the first ones, or its tags became texts, or numbers again
            self._tail_times, self._tail = _NO_TIMES, _NOTHING
            changed = np.concatenate((np.ones(1, dtype=np.bool_), _different(values)))
        if not changed.any():
            return
        self._changes = (times[changed], values.take(changed))
        self._tail_times = np.concatenate((self._tail_times, self._changes[0]))[-MOST_CHANGES:]
        tail = together([self._tail, self._changes[1]]) if len(self._tail) else self._changes[1]
        self._tail = tail.take(slice(-MOST_CHANGES, None))

    # --- what is asked ---

    def changes(self) -> tuple[Times, Column]:
        """The times of this turn at which its value or quality became another, and what it became.

        A sample for a time at which the signal has been already counts from the newest time on.
        """
        return self._changes

    def now(self) -> Column:
        """Its newest value, in one row; unknown when there is none yet."""
        return self._tail.take(slice(-1, None)) if len(self._tail) else Column.unknown()

    def truth(self, times: Times) -> Mask:
        """Whether it was true at these times. What is unknown or BAD is not true."""
        return self.at(times).true()

    def at(self, times: Times) -> Column:
        """What it was at these times: made of the last value of each tag at or before. Before the first: unknown.

        For times before what is kept of its tags, it is what it was known to be then, or the oldest that is kept.
        """
        if not len(times):
            return self._evaluated(_NO_TIMES) if self._tail.text else _NOTHING
        oldest = max(track.oldest for track in self._tracks)
        if self.expression.measures_age:
            found = self._evaluated(times)
        else:
            if self._grid is None:
                known = np.unique(np.concatenate([track.t for track in self._tracks]))
                grid = np.concatenate(([_NEVER], known[known >= oldest]))
                self._grid = grid, self._evaluated(grid)
            grid, values = self._grid
            if len(grid) == 1 or int(times.min()) >= int(grid[-1]):
                found = _repeated(values.take(slice(-1, None)), len(times))
            else:
                found = values.take(np.searchsorted(grid, times, side="right") - 1)
        if oldest == _NEVER or not len(self._tail) or int(times.min()) >= oldest:
            return found
        back = times < oldest
        before = self._tail.take(np.maximum(np.searchsorted(self._tail_times, times[back], side="right") - 1, 0))
        both = together([found, before])
        place = np.arange(len(times))
        place[back] = len(times) + np.arange(len(before))
        return both.take(place)

    # --- state ---

    def save(self) -> dict[str, Any]:
        """The state, for `load`."""
        return {
            "text": self.expression.text,
            "names": self._names.save(),
            "tracks": {name: track.save() for name, track in zip(self.expression.tags, self._tracks, strict=True)},
            "newest": self._newest,
            "tail": [self._tail_times, _kept(self._tail.value), self._tail.quality],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave, maybe of another text: the tags that both name go on. Call `prepare` before."""
        self._names.load(state["names"])
        for name, track in zip(self.expression.tags, self._tracks, strict=True):
            if name in state["tracks"]:
                track.load(state["tracks"][name])
        self._grid = None
        if state["text"] == self.expression.text:
            times, values, quality = state["tail"]
            self._newest = int(state["newest"])
            self._tail_times = np.asarray(times, dtype=np.int64)
            self._tail = Column(_restored(values), np.asarray(quality, dtype=np.uint8))
        else:
            self._newest = max((int(track.t[-1]) for track in self._tracks if len(track.t)), default=_NEVER)


class _Track:
    """The latest samples of one tag: the last 8 from before this turn, and those of it."""

    def __init__(self, flow: FlowContext, looks_back: bool, measures_age: bool) -> None:
        self._flow = flow
        self._looks_back = looks_back
        self._measures_age = measures_age
        self._slot = NONE
        self.t: Times = _NO_TIMES
        self.values = _NOTHING
        self.oldest = _NEVER
        """From when on it is exact: what came before is forgotten."""

    def clear_unless(self, slot: int) -> None:
        """The tag is another one now."""
        if slot != self._slot:
            self._slot, self.t, self.values, self.oldest = slot, _NO_TIMES, _NOTHING, _NEVER

    def trim(self) -> None:
        """Forget all but the latest."""
        # what looks back needs the sample before the oldest that is exact
        if len(self.t) > KEPT:
            self.t, self.values = self.t[-KEPT:], self.values.take(slice(-KEPT, None))
            self.oldest = int(self.t[1 if self._looks_back else 0])

    def add(self, rows: Sequence[tuple[Times, NDArray[Any], NDArray[np.uint8]]]) -> Times:
        """Take rows of this turn; those that are not newer are left out. Their times."""
        t = np.concatenate([one[0] for one in rows]) if len(rows) > 1 else rows[0][0]
        values = together([Column(one[1], one[2]) for one in rows])
        if not len(t):
            return t
        last = int(self.t[-1]) if len(self.t) else _NEVER
        if int(t[0]) <= last or (len(t) > 1 and bool((t[1:] <= t[:-1]).any())):
            _, first = np.unique(t, return_index=True)
            order = first[t[first] > last]
            t, values = t[order], values.take(order)
        if not len(t):
            return t
        if len(self.t) and self.values.text == values.text:
            self.values = together([self.values, values])
            self.t = np.concatenate((self.t, t))
        else:
            if len(self.t):  # another type from now on
                self.oldest = int(t[0])
            self.t, self.values = t, values
        return t

    def at(self, times: Times) -> Column:
        """Its values at these times."""
        if not len(self.t):
            return Column.unknown(len(times))
        place = np.searchsorted(self.t, times, side="right") - 1
        column = self._picked(place)
        if self._looks_back:
            before = np.maximum(place, 0)
            span = np.where(place > 0, (self.t[before] - self.t[np.maximum(place - 1, 0)]) / SECOND, np.nan)
            column = column.with_(before=self._picked(place - 1), span=span)
        if self._measures_age:
            age = np.where(place >= 0, (times - self.t[np.maximum(place, 0)]) / SECOND, np.nan)
            column = column.with_(age=age)
        return column

    def _picked(self, place: NDArray[np.intp]) -> Column:
        nothing = place < 0
        if not nothing.any():
            return self.values.take(place)
        found = self.values.take(np.maximum(place, 0))
        value, quality = found.value.copy(), found.quality.copy()
        value[nothing] = None if found.text else np.nan
        quality[nothing] = 2
        return Column(value, quality)

    def save(self) -> list[Any]:
        return [self._slot, self.t, _kept(self.values.value), self.values.quality, self.oldest]

    def load(self, state: Sequence[Any]) -> None:
        slot, t, values, quality, oldest = state
        self._slot, self.oldest = int(slot), int(oldest)
        self.t = np.asarray(t, dtype=np.int64)
        self.values = Column(_restored(values), np.asarray(quality, dtype=np.uint8))


# Many signals look into the same blocks: which slots are in one is found out once.
_LOOKED: Final[deque[tuple[weakref.ref[NDArray[np.int32]], frozenset[int]]]] = deque(maxlen=16)


def _slots_in(block: Block) -> frozenset[int]:
    for known, slots in _LOOKED:
        if known() is block.slot:
            return slots
    found = frozenset(block.runs().slots.tolist())
    _LOOKED.append((weakref.ref(block.slot), found))
    return found


def _rows(block: Block, rows: slice) -> tuple[Times, NDArray[Any], NDArray[np.uint8]]:
    """Time, value and quality of these rows, but for the late ones."""
    part = block.take(rows)
    if part.late is not None and part.late.any():
        part = part.take(~part.late)
    return part.t, part.value if part.type is ValueType.STRING else finite(part.numbers()), part.quality


def finite(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers with NaN in place of infinities, which a step before may have made."""
    wrong = np.isinf(numbers)
    return np.where(wrong, np.nan, numbers) if wrong.any() else numbers


def _repeated(column: Column, size: int) -> Column:
    return Column(np.repeat(column.value, size), np.repeat(column.quality, size))


def _different(values: Column) -> Mask:
    """Which rows, from the second on, differ from the one before."""
    value, quality = values.value, values.quality
    other: Mask = quality[1:] != quality[:-1]
    if values.text:
        texts = value.tolist()
        return other | np.array([a != b for a, b in pairwise(texts)], dtype=np.bool_)
    other |= ~((value[1:] == value[:-1]) | (np.isnan(value[1:]) & np.isnan(value[:-1])))
    return other


def _kept(values: NDArray[Any]) -> Any:
    """Values for `pack`, which takes no arrays of objects."""
    return values.tolist() if values.dtype.hasobject else values


def _restored(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    texts = np.empty(len(values), dtype=object)
    texts[:] = values
    return texts
