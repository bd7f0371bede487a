"""What one point remembers: its events in the order of time, and among equal times in the order in which they came.

Columns, not objects: a bench holds millions of events. The newest row is the snapshot. Numbers stand in the column of
values itself; text and states stand there as the index of an object that is kept once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from plant.pi.events import Event
from plant.pi.states import DigitalState

BAD: Final = 1
QUESTIONABLE: Final = 2
SUBSTITUTED: Final = 4
ANNOTATED: Final = 8
OBJECT: Final = 16
"""The value is the index of an object: text, a state, or nothing."""


class Archive:
    """The events of a point. integers: its numbers are whole."""

    __slots__ = ("_known", "flags", "integers", "objects", "times", "values")

    def __init__(self, integers: bool = False) -> None:
        self.integers = integers
        self.times = array("q")
        self.values = array("d")
        self.flags = bytearray()
        self.objects: list[str | DigitalState | None] = []
        self._known: dict[str | DigitalState | None, int] = {}

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[Event]:
        return map(self.event, range(len(self.times)))

    def first_at(self, time_ns: int) -> int:
        """The first row that is not before the time."""
        return bisect_left(self.times, time_ns)

    def after(self, time_ns: int) -> int:
        """The first row that is after the time."""
        return bisect_right(self.times, time_ns)

    def event(self, row: int) -> Event:
        """A row; negative ones count from the end."""
        flags = self.flags[row]
        value: float | int | str | None = self.values[row]
        state = None
        if flags & OBJECT:
            thing = self.objects[int(self.values[row])]
            if isinstance(thing, DigitalState):
                value, state = thing.code, thing
            else:
                value = thing
        elif self.integers:
            value = int(self.values[row])
        return Event(
            self.times[row],
            value,
            not flags & BAD,
            bool(flags & QUESTIONABLE),
            bool(flags & SUBSTITUTED),
            bool(flags & ANNOTATED),
            state,
        )

    def insert(self, event: Event) -> int:
        """Put an event after all that is not later; returns its row."""
        row = self.after(event.time_ns)
        value, flags = self._columns(event)
        self.times.insert(row, event.time_ns)
        self.values.insert(row, value)
        self.flags.insert(row, flags)
        return row

    def put(self, row: int, event: Event) -> None:
        """Put an event in the place of a row; the order of times has to stay."""
        self.values[row], self.flags[row] = self._columns(event)
        self.times[row] = event.time_ns

    def delete(self, row: int) -> Event:
        """Take a row away; returns it."""
        event = self.event(row)
        del self.times[row], self.values[row], self.flags[row]
        return event

    def extend(self, times_ns: Sequence[int], values: Sequence[float]) -> None:
        """Put many good numbers behind the last row at once. Raises ValueError when times do not ascend."""
        times = array("q", times_ns)
        numbers = array("d", values)
        last = self.times[-1] if self.times else None
        if len(times) != len(numbers):
            raise ValueError(f"{len(times)} times for {len(numbers)} values")
        if any(earlier > later for earlier, later in pairwise(times)) or (
            last is not None and times and times[0] < last
        ):
            raise ValueError("the times do not ascend from the archive's last one on")
        self.times.extend(times)
        self.values.extend(numbers)
        self.flags.extend(bytes(len(times)))

    def _columns(self, event: Event) -> tuple[float, int]:
        flags = (
            (0 if event.good else BAD)
            | (QUESTIONABLE if event.questionable else 0)
            | (SUBSTITUTED if event.substituted else 0)
            | (ANNOTATED if event.annotated else 0)
        )
        thing = event.state if event.state is not None else event.value
        if isinstance(thing, (int, float)):
            return float(thing), flags
        index = self._known.get(thing)
        if index is None:
            index = self._known[thing] = len(self.objects)
            self.objects.append(thing)
        return float(index), flags | OBJECT
