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
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import SECOND, FlowContext, Turn
from preprocessor.expressions.columns import Column, Mask, together
from preprocessor.expressions.compiling import TEXT, Expression, compile_expression
from preprocessor.expressions.resolving import NONE, Names
from sluice.columns import ValueType

KEPT: Final = 8
"""Samples of each tag that are kept over a turn."""
MOST_CHANGES: Final = 1_000
"""Changes of the result that are kept."""
_FEW: Final = 8
"""Up to so many times are evaluated one by one, which is quicker then."""

_NEVER: Final = -(2**63)
Times = NDArray[np.int64]
Value = float | str | None
_NOTHING: Final = Column(np.empty(0), np.empty(0, dtype=np.uint8))
_NO_TIMES: Final = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Samples of one tag. They are few as a rule, and plain lists are quicker then than arrays."""

    t: list[int]
    values: list[Value]
    """None: unknown."""
    quality: list[int]
    text: bool
    """Whether the values are texts."""

    def take(self, rows: Sequence[int]) -> _Rows:
        """These rows."""
        return _Rows(
            [self.t[row] for row in rows],
            [self.values[row] for row in rows],
            [self.quality[row] for row in rows],
            self.text,
        )


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
            _Track(name in self.expression.looks_back, name in self.expression.measures_age)
            for name in self.expression.tags
        ]
        self._newest = _NEVER
        self._tail: deque[tuple[int, Value, int]] = deque(maxlen=MOST_CHANGES)
        """When the result changed, and what it became: value and quality."""
        self._changed: list[tuple[int, Value, int]] = []
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
        self._changed = []
        came = self._came(blocks)
        if not came:
            return
        self._grid = None
        for track in self._tracks:
            track.trim()
        times: list[int] = []
        for number, rows in came:
            times += self._tracks[number].add(rows)
        if not times:
            return
        times = sorted({max(time, self._newest) for time in times})
        self._newest = times[-1]
        results: Iterable[tuple[Value, int]]
        if len(times) <= _FEW and not self.expression.follows:
            results = map(self._single, times)
        else:
            results = _plain(self._evaluated(np.array(times, dtype=np.int64)))
        last = self._tail[-1][1:] if self._tail else None
        for time, result in zip(times, results, strict=True):
            if result != last:
                last = result
                self._changed.append((time, *result))
        self._tail.extend(self._changed)

    def _came(self, blocks: Sequence[Block]) -> list[tuple[int, _Rows]]:
        """The rows of tags in this turn that are not late, each with the tag's number."""
        users = self._names.users
        here = [
            (block, sorted(found)) for block in blocks if len(block) and (found := _slots_in(block).intersection(users))
        ]
        if not here:
            return []
        for _, slots in here:
            for slot in slots:
                self._names.meet(slot)
        meant = self._names.slots
        for number, track in enumerate(self._tracks):
            if track.slot != meant[number]:
                track.begin(meant[number])
                self._grid = None
        came: list[tuple[int, _Rows]] = []
        for block, slots in here:
            for slot in slots:
                numbers = [number for number in users[slot] if meant[number] == slot]
                if numbers:
                    rows = _rows(block, slot)
                    came += [(number, rows) for number in numbers]
        return came

    def _single(self, time: int) -> tuple[Value, int]:
        """The expression at one time, from what is kept of its tags."""
        values: dict[str, Value] = {}
        qualities: dict[str, int] = {}
        for name, track in zip(self.expression.tags, self._tracks, strict=True):
            place = bisect_right(track.t, time) - 1
            if place >= 0:
                values[name], qualities[name] = track.values[place], track.quality[place]
        return self.expression.evaluate_one(values, qualities)

    def _evaluated(self, times: Times) -> Column:
        """The same at many times."""
        tracks = zip(self.expression.tags, self._tracks, strict=True)
        result = self.expression.evaluate({name: track.at(times) for name, track in tracks})
        return result if len(result) == len(times) else _repeated(result, len(times))

    # --- what is asked ---

    def changes(self) -> tuple[Times, Column]:
        """The times of this turn at which its value or quality became another, and what it became.

        A sample for a time at which the signal has been already counts from the newest time on.
        """
        times = np.array([time for time, _, _ in self._changed], dtype=np.int64)
        return times, self._column(self._changed)

    def now(self) -> Column:
        """Its newest value, in one row; unknown when there is none yet."""
        return self._column([self._tail[-1]]) if self._tail else Column.unknown()

    def _column(self, changes: Iterable[tuple[int, Value, int]]) -> Column:
        ones = list(changes)
        return _column(
            [value for _, value, _ in ones], [quality for _, _, quality in ones], self.expression.kind == TEXT
        )

    def truth(self, times: Times) -> Mask:
        """Whether it was true at these times. What is unknown or BAD is not true."""
        return self.at(times).true()

    def at(self, times: Times) -> Column:
        """What it was at these times: made of the last value of each tag at or before. Before the first: unknown.

        For times before what is kept of its tags, it is what it was known to be then, or the oldest that is kept.
        """
        if not len(times):
            return self._column([])
        oldest = max(track.oldest for track in self._tracks)
        found = self._exact(times, oldest)
        if oldest == _NEVER or not self._tail or int(times.min()) >= oldest:
            return found
        back = times < oldest
        changes = np.array([time for time, _, _ in self._tail], dtype=np.int64)
        place = np.maximum(np.searchsorted(changes, times[back], side="right") - 1, 0)
        both = together([found, self._column(self._tail).take(place)])
        rows = np.arange(len(times))
        rows[back] = len(times) + np.arange(len(place))
        return both.take(rows)

    def _exact(self, times: Times, oldest: int) -> Column:
        """The same, from what is kept of its tags."""
        if self.expression.measures_age:
            return self._evaluated(times)
        if self._grid is None:
            known = sorted({time for track in self._tracks for time in track.t if time >= oldest})
            grid = np.array([_NEVER, *known], dtype=np.int64)
            self._grid = grid, self._evaluated(grid)
        grid, values = self._grid
        if int(times.min()) >= int(grid[-1]):
            return _repeated(values.take(slice(-1, None)), len(times))
        return values.take(np.searchsorted(grid, times, side="right") - 1)

    # --- state ---

    def save(self) -> dict[str, Any]:
        """The state, for `load`."""
        return {
            "text": self.expression.text,
            "names": self._names.save(),
            "tracks": {name: track.save() for name, track in zip(self.expression.tags, self._tracks, strict=True)},
            "newest": self._newest,
            "tail": [list(part) for part in zip(*self._tail, strict=True)],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `save` gave, maybe of another text: the tags that both name go on. Call `prepare` before."""
        self._names.load(state["names"])
        for name, track in zip(self.expression.tags, self._tracks, strict=True):
            if name in state["tracks"]:
                track.load(state["tracks"][name])
        self._grid = None
        self._newest = max((track.t[-1] for track in self._tracks if track.t), default=_NEVER)
        if state["text"] == self.expression.text:
            self._newest = int(state["newest"])
            self._tail.extend((int(t), value, int(quality)) for t, value, quality in zip(*state["tail"], strict=True))


class _Track:
    """The latest samples of one tag: the last 8 from before this turn, and those of it."""

    def __init__(self, looks_back: bool, measures_age: bool) -> None:
        self._looks_back = looks_back
        self._measures_age = measures_age
        self.begin(NONE)

    def begin(self, slot: int) -> None:
        """Another tag is meant from now on."""
        self.slot = slot
        self.t: list[int] = []
        self.values: list[Value] = []
        self.quality: list[int] = []
        self.text = False
        self.oldest = _NEVER
        """From when on it is exact: what came before is forgotten."""

    def trim(self) -> None:
        """Forget all but the latest."""
        if len(self.t) > KEPT:
            del self.t[:-KEPT], self.values[:-KEPT], self.quality[:-KEPT]
            # what looks back needs the sample before the oldest that is exact
            self.oldest = self.t[1 if self._looks_back else 0]

    def add(self, rows: _Rows) -> list[int]:
        """Take rows of this turn; those that are not newer are left out. The times of the others."""
        newest = self.t[-1] if self.t else _NEVER
        if rows.t and (rows.t[0] <= newest or any(b <= a for a, b in pairwise(rows.t))):
            kept = []
            for place, time in sorted(enumerate(rows.t), key=itemgetter(1)):
                if time > newest:
                    newest = time
                    kept.append(place)
            rows = rows.take(kept)
        if not rows.t:
            return []
        if rows.text != self.text:
            if self.t:  # another type from now on
                self.oldest = rows.t[0]
                self.t, self.values, self.quality = [], [], []
            self.text = rows.text
        self.t += rows.t
        self.values += rows.values
        self.quality += rows.quality
        return rows.t

    def at(self, times: Times) -> Column:
        """Its values at these times."""
        if not self.t:
            return Column.unknown(len(times))
        t = np.array(self.t, dtype=np.int64)
        values = _column([None, *self.values], [2, *self.quality], self.text)  # row 0: nothing was known yet
        row = np.searchsorted(t, times, side="right")
        column = values.take(row)
        if self._looks_back:
            earlier = np.maximum(row - 1, 0)
            span = np.where(earlier > 0, (t[row - 1] - t[earlier - 1]) / SECOND, np.nan)
            column = column.with_(before=values.take(earlier), span=span)
        if self._measures_age:
            column = column.with_(age=np.where(row > 0, (times - t[row - 1]) / SECOND, np.nan))
        return column

    def save(self) -> list[Any]:
        return [self.slot, self.t, self.values, self.quality, self.text, self.oldest]

    def load(self, state: Sequence[Any]) -> None:
        slot, t, values, quality, text, oldest = state
        self.slot, self.oldest, self.text = int(slot), int(oldest), bool(text)
        self.t, self.values, self.quality = list(map(int, t)), list(values), list(map(int, quality))


# Many signals look into the same blocks: which slots are in one is found out once.
_LOOKED: Final[deque[tuple[weakref.ref[NDArray[np.int32]], frozenset[int]]]] = deque(maxlen=16)


def _slots_in(block: Block) -> frozenset[int]:
    for known, slots in _LOOKED:
        if known() is block.slot:
            return slots
    found = frozenset(block.runs().slots.tolist())
    _LOOKED.append((weakref.ref(block.slot), found))
    return found


def _rows(block: Block, slot: int) -> _Rows:
    """The rows of a tag, but for the late ones."""
    start, end = np.searchsorted(block.slot, (slot, slot + 1)).tolist()
    rows = slice(start, end)
    t, quality = block.t[rows].tolist(), block.quality[rows].tolist()
    values: list[Value]
    if block.type is ValueType.STRING:
        values = block.value[rows].tolist()
    elif block.type is ValueType.DOUBLE:
        values = [value if value - value == 0 else None for value in block.value[rows].tolist()]
    else:
        values = [float(value) for value in block.value[rows].tolist()]
        if block.null is not None:
            nulls = block.null[rows].tolist()
            values = [None if null else value for value, null in zip(values, nulls, strict=True)]
    text = block.type is ValueType.STRING
    if block.late is not None and block.late[rows].any():
        kept = [place for place, late in enumerate(block.late[rows].tolist()) if not late]
        return _Rows(t, values, quality, text).take(kept)
    return _Rows(t, values, quality, text)


def _column(values: Sequence[Value], quality: Sequence[int], text: bool) -> Column:
    if text or any(isinstance(value, str) for value in values):
        texts = np.empty(len(values), dtype=object)
        texts[:] = values
        return Column(texts, np.array(quality, dtype=np.uint8))
    return Column.of(values, quality)


def _plain(column: Column) -> Iterator[tuple[Value, int]]:
    values = column.value.tolist()
    return (
        (None if value != value else value, quality)
        for value, quality in zip(values, column.quality.tolist(), strict=True)
    )


def _repeated(column: Column, size: int) -> Column:
    return Column(np.repeat(column.value, size), np.repeat(column.quality, size))
