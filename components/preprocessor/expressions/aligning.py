"""Many tags followed through time at once: what each was at a time, found for all rows in a few passes over columns.

A *place* is a number for whatever is followed: a tag, a result that others use, a member of an instance. `Followed`
keeps of each place the two newest samples, and behind them a tail of some more for samples that come late.

    found = followed.look(rows, places, times)       what those places were at those times, `rows` of this turn included
    followed.take(rows)                              remember the rows; once, after all questions of the turn

A value holds from its sample until the next. Of several samples for one time the one that came last counts. A place
that had its first sample after a time was nothing then; what was forgotten is the oldest that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.expressions.columns import Column, Index, Mask, nulls

Times = NDArray[np.int64]
Places = NDArray[np.int32]

NEVER: Final = -(2**63)
_MOST_KEPT: Final = 32_768
"""Samples in the tails of all places together, as long as each has four."""
_SECOND: Final = 1e9
NULL_TEXT: Final = False


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Samples of places, column by column."""

    place: Places
    t: Times
    value: NDArray[np.float64]
    """NaN for texts, and for what is unknown."""
    quality: NDArray[np.uint8]
    text: NDArray[Any] | None = None
    """A str, NULL_TEXT for a text that is null, None for what is no text. No array: no row is a text."""

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: Mask | Index | slice) -> Rows:
        """These rows."""
        return Rows(
            self.place[rows],
            self.t[rows],
            self.value[rows],
            self.quality[rows],
            None if self.text is None else self.text[rows],
        )

    def in_order(self) -> Rows:
        """By place and time, and of several rows of one place for one time the last alone."""
        place, t = self.place, self.t
        if len(place) < 2:
            return self
        ahead = (place[1:] > place[:-1]) | ((place[1:] == place[:-1]) & (t[1:] > t[:-1]))
        if ahead.all():
            return self
        ordered = self.take(np.lexsort((t, place)))
        last = np.ones(len(place), dtype=np.bool_)
        last[:-1] = (ordered.place[1:] != ordered.place[:-1]) | (ordered.t[1:] != ordered.t[:-1])
        return ordered if last.all() else ordered.take(last)


NO_ROWS: Final = Rows(
    np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.uint8)
)


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """One after the other."""
    parts = [part for part in parts if len(part)] or [NO_ROWS]
    if len(parts) == 1:
        return parts[0]
    text: NDArray[Any] | None = None
    if any(part.text is not None for part in parts):
        text = np.concatenate(
            [np.full(len(part), None, dtype=object) if part.text is None else part.text for part in parts]
        )
    return Rows(
        np.concatenate([part.place for part in parts]),
        np.concatenate([part.t for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.quality for part in parts]),
        text,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What places were at times: rows of a table, one for each question."""

    table: Rows
    row: Index
    """In the table; -1: nothing was known then."""
    before: Index
    """The sample before it; -1: there was none."""
    time: Times
    """What was asked."""

    @property
    def known(self) -> Mask:
        """Whether the place had had a sample by then."""
        return self.row >= 0

    def take(self, rows: Mask | Index | slice) -> Found:
        """The answers to these questions."""
        return Found(self.table, self.row[rows], self.before[rows], self.time[rows])

    @property
    def texts(self) -> Mask:
        """Whether it was a text."""
        if self.table.text is None:
            return np.zeros(len(self.row), dtype=np.bool_)
        return ~nulls(self.table.text)[self.row] & (self.row >= 0)

    def ages(self) -> NDArray[np.float64]:
        """Seconds since the sample that was found; NaN: none was."""
        ages = (self.time - self.table.t[self.row]) / _SECOND
        return np.where(self.row >= 0, np.maximum(ages, 0.0), np.nan)

    def column(self, *, text: bool = False, looks_back: bool = False, measures_age: bool = False) -> Column:
        """The answers as a column of numbers, or of texts."""
        column = self._picked(self.row, text)
        if looks_back:
            both = (self.row >= 0) & (self.before >= 0)
            span = np.where(both, (self.table.t[self.row] - self.table.t[self.before]) / _SECOND, np.nan)
            column = column.with_(before=self._picked(self.before, text), span=span)
        return column.with_(age=self.ages()) if measures_age else column

    def _picked(self, rows: Index, text: bool) -> Column:
        table = self.table
        if text:
            assert table.text is not None
            value: NDArray[Any] = table.text[rows]
            value[np.equal(value, NULL_TEXT)] = None
        else:
            value = table.value[rows]
        quality = table.quality[rows]
        nothing = rows < 0
        if nothing.any():
            value[nothing] = None if text else np.nan
            quality[nothing] = 2
        return Column(value, quality)


class Followed:
    """The newest samples of many places. depth: samples that are kept of each for what comes late."""

    def __init__(self, most_places: int) -> None:
        self.depth = min(1_000, max(4, _MOST_KEPT // max(1, most_places)))
        self.size = 0
        """Places that there are."""
        self.first: Times = np.empty(0, dtype=np.int64)
        """The time of the first sample of each place; the greatest int64: it had none."""
        self._newest = NO_ROWS
        """The two newest samples of each place, in order."""
        self._bounds: Index = np.zeros(1, dtype=np.intp)
        """Where in `_newest` the samples of each place begin."""
        self._tail: list[Rows] = []
        self._waiting = 0
        """Rows of the tail that are not in order yet."""

    def grow(self, size: int) -> None:
        """There are so many places now."""
        if size > self.size:
            self.first = np.concatenate((self.first, np.full(size - self.size, 2**63 - 1, dtype=np.int64)))
            self._bounds = np.concatenate((self._bounds, np.full(size - self.size, self._bounds[-1])))
            self.size = size

    def take(self, rows: Rows) -> None:
        """Remember these rows."""
        if not len(rows):
            return
        np.minimum.at(self.first, rows.place, rows.t)
        came = np.zeros(self.size, dtype=np.bool_)
        came[rows.place] = True
        known = self._newest
        table = joined_rows([known, rows]).in_order() if len(known) else rows.in_order()
        # of each place the last two: whatever has not two more of its place behind it
        keep = np.ones(len(table), dtype=np.bool_)
        keep[:-2] = table.place[2:] != table.place[:-2]
        self._newest = table if keep.all() else table.take(keep)
        self._bounds = np.searchsorted(self._newest.place, np.arange(self.size + 1))
        self._tail.append(rows)
        self._waiting += len(rows)
        if self._waiting > max(_MOST_KEPT, 2 * self.size):
            self._settle()

    def look(self, rows: Rows, places: Places, times: Times, *, looks_back: bool = False) -> Found:
        """What these places were at these times, when the rows, which are not remembered yet, have come as well."""
        wanted = np.zeros(self.size, dtype=np.bool_)
        wanted[places] = True
        newest = self._newest.take(wanted[self._newest.place]) if len(self._newest) else NO_ROWS
        came = rows.take(wanted[rows.place]) if len(rows) else NO_ROWS
        found = _found(joined_rows([newest, came]).in_order(), places, times)
        deeper = self._deeper(found, places, looks_back)
        if deeper.any():
            wanted[:] = False
            wanted[places] = True
            tail = self._settle()
            table = joined_rows([tail.take(wanted[tail.place]), came]).in_order()
            found = _found(table, places, times)
        first = self.first
        if len(came):
            first = first.copy()
            np.minimum.at(first, came.place, came.t)
        forgotten = (found.row < 0) & (first[places] <= times)
        if forgotten.any():
            oldest = np.searchsorted(found.table.place, places[forgotten])
            row = found.row.copy()
            row[forgotten] = oldest
            found = Found(found.table, row, found.before, times)
        return found

    def _deeper(self, found: Found, places: Places, looks_back: bool) -> Mask:
        """Which questions reach behind the two newest samples of a place that has more in its tail."""
        start = self._bounds[places]
        has = self._bounds[places + 1] > start
        none: Mask = np.zeros(len(places), dtype=np.bool_)
        if not has.any():
            return none
        oldest = np.where(has, self._newest.t[np.where(has, start, 0)], NEVER)
        more = has & (self.first[places] < oldest)
        if not more.any():
            return none
        deeper: Mask = more & (found.time < oldest)
        if looks_back:
            at = np.where(found.row >= 0, found.table.t[found.row], NEVER)
            deeper |= more & (at <= oldest)
        return deeper

    def _settle(self) -> Rows:
        """The tail in order, and no more of each place than is kept. When this is done changes nothing."""
        if self._waiting:
            table = joined_rows(self._tail).in_order()
            keep = np.ones(len(table), dtype=np.bool_)
            keep[: -self.depth] = table.place[self.depth :] != table.place[: -self.depth]
            self._tail = [table.take(keep)]
            self._waiting = 0
        return self._tail[0] if self._tail else NO_ROWS

    def newest(self, place: int) -> tuple[int, float | str | None, int] | None:
        """The newest sample of a place: time, value, quality; None: it had none."""
        if place >= self.size or self._bounds[place] == self._bounds[place + 1]:
            return None
        row = int(self._bounds[place + 1]) - 1
        table = self._newest
        text = None if table.text is None else table.text[row]
        value = float(table.value[row])
        return (
            int(table.t[row]),
            text if text is not None else (None if value != value else value),
            int(table.quality[row]),
        )

    def save(self) -> dict[str, Any]:
        """The state, for `load`."""
        return {"first": self.first, "newest": _saved(self._newest), "tail": _saved(self._settle())}

    def load(self, state: Mapping[str, Any], places: Places) -> None:
        """Go on from what was saved. places: the place of today for each of those then; -1: it is gone. Call `grow`
        before, and this once, into an empty one."""
        for place, first in zip(places.tolist(), np.asarray(state["first"]).tolist(), strict=True):
            if place >= 0:
                self.first[place] = first
        self._newest = _moved(_loaded(state["newest"]), places)
        self._bounds = np.searchsorted(self._newest.place, np.arange(self.size + 1))
        tail = _moved(_loaded(state["tail"]), places)
        self._tail = [tail] if len(tail) else []


def _found(table: Rows, places: Places, times: Times) -> Found:
    """The last row of each place at or before each time. The table is in order."""
    size = len(table)
    place = np.concatenate((table.place, places))
    # rows of the table stand before questions of the same place and time, for sorting keeps the order of equals
    order = np.lexsort((np.concatenate((table.t, times)), place))
    row = np.maximum.accumulate(np.where(order < size, order, -1))
    asked = order >= size
    found = np.empty(len(places), dtype=np.intp)
    found[order[asked] - size] = row[asked]
    if not size:
        return Found(_NOTHING, np.full(len(places), -1), np.full(len(places), -1), times)
    mine = (found >= 0) & (table.place[found] == places)
    found[~mine] = -1
    before = np.maximum(found - 1, -1)
    before[(before < 0) | (table.place[before] != places)] = -1
    return Found(table, found, before, times)


_NOTHING: Final = Rows(
    np.full(1, -1, dtype=np.int32), np.zeros(1, dtype=np.int64), np.full(1, np.nan), np.full(1, 2, dtype=np.uint8)
)
"""A table of nothing, which -1 can point into."""


def _saved(rows: Rows) -> list[Any]:
    text = None if rows.text is None else rows.text.tolist()
    return [rows.place, rows.t, rows.value, rows.quality, text]


def _loaded(state: Sequence[Any]) -> Rows:
    place, t, value, quality, text = state
    texts: NDArray[Any] | None = None
    if text is not None:
        texts = np.empty(len(text), dtype=object)
        texts[:] = text
    return Rows(
        np.asarray(place, dtype=np.int32),
        np.asarray(t, dtype=np.int64),
        np.asarray(value, dtype=np.float64),
        np.asarray(quality, dtype=np.uint8),
        texts,
    )


def _moved(rows: Rows, places: Places) -> Rows:
    if not len(rows):
        return rows
    moved = places[rows.place]
    kept = moved >= 0
    rows = Rows(moved, rows.t, rows.value, rows.quality, rows.text).take(kept)
    return rows.in_order()
