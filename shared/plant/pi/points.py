"""Points: what is configured of one, and how it takes what is written to it.

A point's newest event is its snapshot. A newer one displaces it: compression decides then whether the old one is
archived or forgotten. What is older than the snapshot goes straight into the archive. In `archive` the snapshot is the
last row, as clients read it; `snapshot_archived` says whether it would outlive a displacement.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, Literal

from plant.pi.archive import Archive
from plant.pi.compression import ExceptionReporting, SwingingDoor
from plant.pi.events import TICK_NS, Change, Event, Mode
from plant.pi.states import DigitalSet

PointType = Literal["Int16", "Int32", "Float16", "Float32", "Float64", "Digital", "Timestamp", "String", "Blob"]

INTEGERS: Final = frozenset(("Int16", "Int32"))
TEXTS: Final = frozenset(("Timestamp", "String", "Blob"))

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PointDefinition:
    """The attributes of a point, named as PI does. Durations in seconds.

    PI's own points compress with `compdev` 2 % of the span; here every event is archived unless `compressing` is set.
    """

    name: str
    type: PointType = "Float64"
    id: int | None = None
    """None: the server gives the next one."""
    unit: str = ""
    descriptor: str = ""
    source: str = "S"
    step: bool = False
    future: bool = False
    """Events may lie further ahead than ten minutes; they are never compressed."""
    zero: float = 0.0
    span: float = 100.0
    excdev: float = 0.0
    excmax: float = 600.0
    excmin: float = 0.0
    compressing: bool = False
    compdev: float = 0.0
    compmax: float = 28800.0
    compmin: float = 0.0
    digital_set: DigitalSet | None = None
    created_event: bool = False
    """Its first event is the state Pt Created, as of every point that PI makes."""
    point_class: str = "classic"
    display_digits: int = -5
    visible_to: frozenset[str] | None = None
    """Users who may know that it is there; None: all."""
    readers: frozenset[str] | None = None
    """Users who may read its data; None: all."""

    def __post_init__(self) -> None:
        if not self.name.strip() or any(letter in self.name for letter in "\\|;{}[]*?'\"`"):
            raise ValueError(f"the name {self.name!r} is none that PI would take")
        if (self.type == "Digital") != (self.digital_set is not None):
            raise ValueError(f"{self.name}: a digital set belongs to type Digital, and to no other")


class PiPoint:
    """One point. Made by `PiSystem.add`, and written to by it."""

    def __init__(self, definition: PointDefinition, number: int, server: str, created_ns: int = 0) -> None:
        self.definition = definition
        self.id = number
        self.server = server
        self.created_ns = created_ns
        self.exists = True
        """False once it was removed; nobody finds it any more."""
        self.archive = Archive(integers=definition.type in INTEGERS)
        self.snapshot_archived = True
        self.exception = ExceptionReporting(
            definition.excdev, round(definition.excmax * _SECOND_NS), round(definition.excmin * _SECOND_NS)
        )
        self._door = SwingingDoor(
            definition.compdev,
            round(definition.compmax * _SECOND_NS),
            round(definition.compmin * _SECOND_NS),
            step=self.holds,
        )

    @property
    def name(self) -> str:
        """The tag."""
        return self.definition.name

    @property
    def path(self) -> str:
        r"""`\\SERVER\TAG`."""
        return f"\\\\{self.server}\\{self.definition.name}"

    @property
    def units(self) -> str:
        """The engineering unit as answers abbreviate it."""
        return self.definition.unit

    @property
    def holds(self) -> bool:
        """Whether a value stays until the next one, so that nothing lies between two."""
        return self.definition.step or self.definition.type == "Digital" or self.definition.type in TEXTS

    @property
    def snapshot(self) -> Event | None:
        """The newest event."""
        return self.archive.event(-1) if len(self.archive) else None

    def archived(self, *, snapshot: bool = True) -> list[Event]:
        """All events in order. snapshot=False: without one that could still be forgotten."""
        events = list(self.archive)
        return events if snapshot or self.snapshot_archived else events[:-1]

    def load(self, times_ns: list[int], values: list[float]) -> None:
        """Put a past of good numbers into the archive at once, telling nobody. Raises ValueError (`Archive.extend`)."""
        self.archive.extend(times_ns, values)
        self.snapshot_archived = True
        self._restart()

    def taken(self, event: Event) -> Event:
        """The event as this point keeps it: ticks of 100 ns, its type's precision. Raises ValueError."""
        time_ns = event.time_ns // TICK_NS * TICK_NS
        kind, value, state, good = self.definition.type, event.value, event.state, event.good
        if state is not None:
            value, good = state.code, good and not state.is_system
        elif value is None:
            raise ValueError(f"{self.name}: an event has a value or a state")
        elif self.definition.digital_set is not None:
            state = self.definition.digital_set.state(value)
            value = state.code
        elif kind in TEXTS:
            value = str(value)
        elif isinstance(value, str):
            raise ValueError(f"{self.name}: {value!r} is no number")
        elif kind in INTEGERS:
            value = int(value)
        elif kind in ("Float16", "Float32"):
            value = _single(value)
        else:
            value = float(value)
        return Event(time_ns, value, good, event.questionable, event.substituted, event.annotated, state)

    def write(self, event: Event, mode: Mode = "insert") -> Change | None:
        """Take an event, already as `taken` makes it; what it did, or None when the mode forbids it."""
        archive = self.archive
        first, behind = archive.first_at(event.time_ns), archive.after(event.time_ns)
        if first < behind:
            if mode == "no-replace":
                return None
            if mode in ("replace", "replace-only"):
                event = replace(event, substituted=True)
                archive.put(first, event)
                self._restart()
                return Change(self, "Update", event)
        elif mode == "replace-only":
            return None
        if behind < len(archive):
            archive.insert(event)
            self._restart()
            return Change(self, "Insert", event)
        return self._newest(event, kept=mode == "insert-no-compression")

    def delete(self, time_ns: int, value: object = ...) -> Change | None:
        """Take the first event at that time away (with that value, if one is given); None when there is none."""
        for row in range(self.archive.first_at(time_ns), self.archive.after(time_ns)):
            if value is ... or self.archive.event(row).value == value:
                newest = row == len(self.archive) - 1
                event = self.archive.delete(row)
                self.snapshot_archived = self.snapshot_archived or newest
                self._restart()
                return Change(self, "Delete", event)
        return None

    def _newest(self, event: Event, *, kept: bool) -> Change:
        archive, compressing = self.archive, self.definition.compressing and not self.definition.future
        snapshot = self.snapshot
        if snapshot is None:
            archive.insert(event)
            self.snapshot_archived = kept or not compressing
            return Change(self, "Add", event)
        archived = True
        if compressing and self.snapshot_archived:
            self._door.restart(snapshot, event)
        elif compressing:
            archived = self._door.displaced(snapshot, event)
        if archived:
            archive.insert(event)
        else:
            archive.put(-1, event)
        self.snapshot_archived = kept or not compressing
        return Change(self, "Add", event, "archived" if archived else "compressed")

    def _restart(self) -> None:
        """Compression goes on from what the archive holds now."""
        if self.definition.compressing and not self.snapshot_archived:
            pivot = self.archive.event(-2) if len(self.archive) > 1 else None
            self._door.restart(pivot, self.snapshot)


def _single(value: float) -> float:
    """The number as a point of 32 bits gives it back: the shortest one that means the same 32 bits."""
    try:
        (single,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    for digits in (6, 7, 8):
        short = float(f"{single:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", single):
            return short
    return float(f"{single:.9g}")
