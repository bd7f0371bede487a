"""Where windows begin and end.

The windows of a tag are numbered in order of time; both their starts and their ends rise with the number. A calendar
tells of a number when its window is, and of a time which windows are near. All of it works on columns: `slots` are the
tags that are asked for (the calendar of batches alone looks at them), one for each time or number.

    Regular     every so often since 1970 UTC, overlapping or not
    Days        days, weeks and shifts by the clocks of a time zone
    Sequence    while an expression is true: the same for all tags
    Batches     a window for each batch of a tag

What a calendar numbers may change when the process starts again: starts are kept, not numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Many
from datetime import date, datetime, time, timedelta
from difflib import get_close_matches
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.refusal import Refusal
from preprocessor.windows.ragged import NEVER, OPEN, Times

Slots = NDArray[np.int32]
Numbers = NDArray[np.int64]

SECOND: Final = 1_000_000_000
DAY: Final = 86_400
MOST_OVERLAP: Final = 100
"""Windows that one sample may be in."""
MOST_SEQUENCE: Final = 10_000
"""Windows of one expression, and of the batches of one tag, that are known at a time."""
_MOST_A_DAY: Final = 1_440
_QUARTER: Final = 900
_EPOCH: Final = date(1970, 1, 1)
_FIRST_DAY: Final = -100_000
_LAST_DAY: Final = 100_000
_AROUND: Final = 400
"""Days that are looked up beyond those that are asked for."""


class Calendar(ABC):
    """The windows of tags. `fixed`: all of them are known from the beginning."""

    fixed = True

    @abstractmethod
    def after(self, slots: Slots, times: Times) -> Numbers:
        """The first window that ends behind each time; one that is not known yet has start and end OPEN."""

    @abstractmethod
    def begins(self, slots: Slots, times: Times) -> Numbers:
        """The first window that begins at or behind each time."""

    @abstractmethod
    def start(self, slots: Slots, numbers: Numbers) -> Times:
        """When these windows begin."""

    @abstractmethod
    def end(self, slots: Slots, numbers: Numbers) -> Times:
        """When these windows end: the first ns that is not in them; OPEN while that is not known."""


class Regular(Calendar):
    """A window of `size` every `slide`, `offset` later than since 1970-01-01 00:00 UTC; all in ns."""

    def __init__(self, size: int, slide: int, offset: int = 0) -> None:
        self._size, self._slide, self._offset = size, slide, offset

    def after(self, slots: Slots, times: Times) -> Numbers:
        return (times - (self._offset + self._size)) // self._slide + 1

    def begins(self, slots: Slots, times: Times) -> Numbers:
        return -((self._offset - times) // self._slide)

    def start(self, slots: Slots, numbers: Numbers) -> Times:
        return numbers * self._slide + self._offset

    def end(self, slots: Slots, numbers: Numbers) -> Times:
        return numbers * self._slide + (self._offset + self._size)


class Days(Calendar):
    """Windows by the clocks of a time zone: of whole days from midnight on, or parts of a day.

    A window of n days begins at midnight of every n-th day since 1970-01-01; one of 7 days on Mondays. A window that is
    a part of a day begins where local clocks show a multiple of it: three shifts a day stay at 6, 14 and 22 o'clock
    when the clocks are changed, and the one in which that happens is an hour longer or shorter. Where an hour is there
    twice, windows of an hour are as well. All in s.
    """

    def __init__(self, size: int, slide: int, offset: int, zone: ZoneInfo) -> None:
        self._zone = zone
        self._step = slide
        self._width = size // slide
        self._offset = offset
        self._days = max(1, slide // DAY)
        self._monday = 4 if size == 7 * DAY == slide else 0  # 1970-01-01 was a Thursday
        self._first = self._last = 0
        self._edges: Times = np.zeros(0, dtype=np.int64)
        self._zero = 0
        """Place in `_edges` of window 0."""

    def after(self, slots: Slots, times: Times) -> Numbers:
        self._reach(times)
        # windows end where the one `width` further begins
        return np.searchsorted(self._edges, times, side="right") - self._width - self._zero

    def begins(self, slots: Slots, times: Times) -> Numbers:
        self._reach(times)
        return np.searchsorted(self._edges, times, side="left") - self._zero

    def start(self, slots: Slots, numbers: Numbers) -> Times:
        return self._at(numbers)

    def end(self, slots: Slots, numbers: Numbers) -> Times:
        return self._at(numbers + self._width)

    def _at(self, numbers: Numbers) -> Times:
        if not len(numbers):
            return np.zeros(0, dtype=np.int64)
        while int(numbers.min()) + self._zero < 0 and self._first > _FIRST_DAY:
            self._extend(self._first - _AROUND * self._days, self._last)
        while int(numbers.max()) + self._zero >= len(self._edges) and self._last < _LAST_DAY:
            self._extend(self._first, self._last + _AROUND * self._days)
        place = numbers + self._zero
        found = self._edges[np.clip(place, 0, len(self._edges) - 1)]
        return np.where(place >= len(self._edges), OPEN, np.where(place < 0, NEVER, found))

    def _reach(self, times: Times) -> None:
        if not len(times):
            return
        margin = (self._width + 1) * self._days + 2
        low = int(times.min()) // (DAY * SECOND) - margin
        high = int(times.max()) // (DAY * SECOND) + margin
        if not len(self._edges):
            self._extend(low - _AROUND, high + _AROUND)
        elif (low < self._first and self._first > _FIRST_DAY) or (high > self._last and self._last < _LAST_DAY):
            self._extend(min(low - _AROUND, self._first), max(high + _AROUND, self._last))

    def _extend(self, first: int, last: int) -> None:
        """Know the edges of these days since 1970, and keep the numbers of those that were known."""
        first, last = max(first, _FIRST_DAY), min(last, _LAST_DAY)
        before = self._edges
        self._first, self._last = first, last
        edges = np.array(sorted(set(self._edges_of(first, last))), dtype=np.int64) * SECOND
        if len(before):
            self._zero += int(np.searchsorted(edges, before[0]))
        else:
            self._zero = 0
        self._edges = edges

    def _edges_of(self, first: int, last: int) -> list[int]:
        edges: list[int] = []
        if self._step >= DAY:
            days = (day for day in range(first, last) if (day - self._monday) % self._days == 0)
            return [self._utc(day, self._offset, 0) for day in days]
        clocks = range(self._offset % self._step, DAY, self._step)
        midnight = self._utc(first, 0, 0)
        for day in range(first, last):
            following = self._utc(day + 1, 0, 0)
            if following - midnight == DAY:
                edges.extend(midnight + clock for clock in clocks)
            else:
                edges.extend(self._utc(day, clock, fold) for clock in clocks for fold in (0, 1))
            midnight = following
        return edges

    def _utc(self, day: int, seconds: int, fold: int) -> int:
        """The second since 1970 at which clocks show this time of the day; when they skip it: when they do.

        fold: 0 for the first, 1 for the second time of two.
        """
        further, seconds = divmod(seconds, DAY)
        when = datetime.combine(_EPOCH + timedelta(days=day + further), time(), self._zone) + timedelta(seconds=seconds)
        earlier = int(when.replace(fold=1).timestamp())
        later = int(when.replace(fold=0).timestamp())
        if earlier >= later:
            return earlier if fold else later
        # Between the two the clocks are put forward, past this time.
        before = self._offset_at(earlier)
        while later - earlier > 1:
            middle = (earlier + later) // 2
            earlier, later = (middle, later) if self._offset_at(middle) == before else (earlier, middle)
        return later

    def _offset_at(self, second: int) -> timedelta | None:
        return datetime.fromtimestamp(second, self._zone).utcoffset()


class Sequence(Calendar):
    """Windows that begin and end when something says so; the same for all tags. At most 10,000 are known."""

    fixed = False

    def __init__(self) -> None:
        self.base = 0
        """The number of the first that is known."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._last = NEVER
        self._columns: tuple[Times, Times] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the newest window has not ended."""
        return bool(self._ends) and self._ends[-1] == OPEN

    @property
    def last(self) -> int:
        """The time of the last edge, NEVER before the first."""
        return self._last

    def edge(self, when: int, opens: bool) -> None:
        """A window ends at this time, and the next one begins if it `opens`. Edges come in order of time."""
        when = max(when, self._last)
        if self.is_open:
            if when > self._starts[-1]:
                self._ends[-1] = when
            else:  # it lasted for no time at all
                del self._starts[-1], self._ends[-1]
        if opens:
            self._starts.append(when)
            self._ends.append(OPEN)
        self._last = when
        if len(self._starts) > MOST_SEQUENCE:
            del self._starts[0], self._ends[0]
            self.base += 1
        self._columns = None

    def after(self, slots: Slots, times: Times) -> Numbers:
        return np.searchsorted(self._edges()[1], times, side="right") + self.base

    def begins(self, slots: Slots, times: Times) -> Numbers:
        return np.searchsorted(self._edges()[0], times, side="left") + self.base

    def start(self, slots: Slots, numbers: Numbers) -> Times:
        return self._of(self._edges()[0], numbers)

    def end(self, slots: Slots, numbers: Numbers) -> Times:
        return self._of(self._edges()[1], numbers)

    def _of(self, edges: Times, numbers: Numbers) -> Times:
        place = numbers - self.base
        known = (place >= 0) & (place < len(edges))
        found = np.where(place < 0, NEVER, OPEN)
        found[known] = edges[place[known]]
        return found

    def _edges(self) -> tuple[Times, Times]:
        if self._columns is None:
            self._columns = np.array(self._starts, dtype=np.int64), np.array(self._ends, dtype=np.int64)
        return self._columns

    def forget(self, before: int) -> None:
        """Windows that ended at or before this time are of no interest any more."""
        count = 0
        while count < len(self._ends) and self._ends[count] <= before:
            count += 1
        if count:
            del self._starts[:count], self._ends[:count]
            self.base += count
            self._columns = None

    def __len__(self) -> int:
        return len(self._starts)

    def save(self) -> list[Any]:
        """For `load`."""
        return [self._last, list(self._starts), list(self._ends)]

    def load(self, saved: Many[Any]) -> None:
        """The same windows again, with other numbers."""
        last, starts, ends = saved
        self._last, self._starts, self._ends = int(last), list(map(int, starts)), list(map(int, ends))
        if len(self._starts) != len(self._ends):
            raise ValueError("windows without starts or ends")
        self.base, self._columns = 0, None


class Batches(Calendar):
    """For each tag a sequence of its own."""

    fixed = False

    def __init__(self) -> None:
        self._of: dict[int, Sequence] = {}

    def of(self, slot: int) -> Sequence:
        """The windows of a tag."""
        return self._of.setdefault(slot, Sequence())

    def after(self, slots: Slots, times: Times) -> Numbers:
        return self._each("after", slots, times, 0)

    def begins(self, slots: Slots, times: Times) -> Numbers:
        return self._each("begins", slots, times, 0)

    def start(self, slots: Slots, numbers: Numbers) -> Times:
        return self._each("start", slots, numbers, OPEN)

    def end(self, slots: Slots, numbers: Numbers) -> Times:
        return self._each("end", slots, numbers, OPEN)

    def _each(self, what: str, slots: Slots, given: NDArray[np.int64], unknown: int) -> NDArray[np.int64]:
        found = np.full(len(given), unknown, dtype=np.int64)
        for place, slot in enumerate(slots.tolist()):
            sequence = self._of.get(slot)
            if sequence is not None:
                one = slice(place, place + 1)
                found[one] = getattr(sequence, what)(slots[one], given[one])
        return found

    def forget(self, slot: int, before: int) -> None:
        """As `Sequence.forget`, of one tag."""
        sequence = self._of.get(slot)
        if sequence is not None:
            sequence.forget(before)

    def save(self) -> list[Any]:
        """For `load`."""
        return [[slot, sequence.save()] for slot, sequence in self._of.items()]

    def load(self, saved: Many[Any]) -> None:
        """The same windows again."""
        self._of = {}
        for slot, sequence in saved:
            self.of(int(slot)).load(sequence)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of a name such as Europe/Berlin. Raises Refusal."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(available_timezones())
        near = get_close_matches(name, known, 1, 0.6) or [
            one for one in known if one.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()
        ]
        remedy = f"did you mean {near[0]}?" if near else "write a name of the IANA database, such as Europe/Berlin"
        raise Refusal("zone", name, "is no time zone that is known here", remedy) from None


def calendar_of(window: float, slide: float | None, offset: float, zone: str) -> Calendar:
    """The calendar of windows of a length, in s. Raises Refusal for what cannot be laid out."""
    by_clocks = zone_of(zone)
    step = window if slide is None else slide
    if step > window:
        raise Refusal("slide", f"{step:g}s", "leaves pauses between windows", f"at most {window:g}s, as `window`")
    size_ns, step_ns, offset_ns = round(window * SECOND), round(step * SECOND), round(offset * SECOND)
    if size_ns > MOST_OVERLAP * step_ns:
        remedy = f"at least {window / MOST_OVERLAP:g}s for windows of {window:g}s"
        raise Refusal("slide", f"{step:g}s", f"puts a sample into more than {MOST_OVERLAP} windows", remedy)
    if zone == "UTC" or _same_everywhere(step_ns):
        if step_ns == size_ns == 7 * DAY * SECOND:
            offset_ns += 4 * DAY * SECOND  # 1970-01-01 was a Thursday, and weeks begin on Mondays
        return Regular(size_ns, step_ns, offset_ns)
    if size_ns % step_ns:
        raise Refusal("slide", f"{step:g}s", "does not go into `window` evenly", f"a part of {window:g}s")
    whole_days = step_ns % (DAY * SECOND) == 0
    part_of_day = (DAY * SECOND) % step_ns == 0 and step_ns % SECOND == 0 and DAY * SECOND // step_ns <= _MOST_A_DAY
    if not (whole_days or part_of_day):
        problem = f"does not go into a day of {zone} evenly"
        raise Refusal("window", f"{step:g}s", problem, "days, or a part of one such as 8h or 15m; or zone: UTC")
    if offset_ns % SECOND:
        raise Refusal("offset", f"{offset:g}s", "is no whole number of seconds", "whole seconds, or zone: UTC")
    return Days(size_ns // SECOND, step_ns // SECOND, offset_ns // SECOND, by_clocks)


def _same_everywhere(step: int) -> bool:
    """Whether windows lie alike in all zones, as clocks differ by quarters of an hour."""
    return _QUARTER * SECOND % step == 0


def saved_of(calendar: Calendar) -> Any:
    """What a calendar that is not fixed must keep."""
    return calendar.save() if isinstance(calendar, (Sequence, Batches)) else None


def restore(calendar: Calendar, saved: Any) -> None:
    """Give a calendar what `saved_of` gave."""
    if isinstance(calendar, (Sequence, Batches)) and saved is not None:
        calendar.load(saved)
