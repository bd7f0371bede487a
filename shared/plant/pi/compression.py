"""The two sieves of a PI system: exception reporting before the server, compression of the snapshot in it.

**Exception reporting** runs where values are read (in an interface). A value passes when it lies more than `excdev`
from the last one that was sent and `excmin` has gone by, or when more than `excmax` has gone by. The value held just
before it passes with it, so that a step does not become a ramp.

**Compression** decides the fate of a snapshot when a newer event displaces it. From the last archived event, the pivot,
each snapshot since then spans a door of plus and minus `compdev` around itself. As long as the line from the pivot to
the new event passes through all those doors, the snapshot can go: the line that will be drawn in its place lies within
`compdev` of it. When it does not, the snapshot is archived and becomes the pivot. `compmax` since the pivot archives in
any case; less than `compmin` since the pivot archives in none (and only then may the error be larger than `compdev`).
States, text and points with steps have no line: there a snapshot is archived when it differs from the pivot.
"""

from __future__ import annotations

import math
from dataclasses import replace

from plant.pi.events import Event


class ExceptionReporting:
    """The sieve of one point before the server. Times in ns."""

    def __init__(self, excdev: float, excmax_ns: int, excmin_ns: int) -> None:
        self._excdev = excdev
        self._excmax_ns = excmax_ns
        self._excmin_ns = excmin_ns
        self._sent: Event | None = None
        self._held: Event | None = None

    def offer(self, event: Event) -> list[Event]:
        """What is to be sent now that this value was read, oldest first; values come in the order of time."""
        if self._sent is not None and not self._passes(self._sent, event):
            self._held = event
            return []
        held, self._held, self._sent = self._held, None, event
        return [event] if held is None else [held, event]

    def _passes(self, sent: Event, event: Event) -> bool:
        elapsed = event.time_ns - sent.time_ns
        if _kind(event) != _kind(sent) or elapsed > self._excmax_ns:
            return True
        if elapsed < self._excmin_ns:
            return False
        return _distance(event, sent) > self._excdev


class SwingingDoor:
    """Compression of one point. Times in ns. step: values hold until the next one."""

    def __init__(self, compdev: float, compmax_ns: int, compmin_ns: int, *, step: bool) -> None:
        self._compdev = compdev
        self._compmax_ns = compmax_ns
        self._compmin_ns = compmin_ns
        self._step = step
        self._pivot: Event | None = None
        self._upper = math.inf
        self._lower = -math.inf

    def restart(self, pivot: Event | None, snapshot: Event | None) -> None:
        """Begin from this archived event, with this snapshot behind it: at the start and after edits."""
        self._pivot = pivot
        self._upper, self._lower = math.inf, -math.inf
        if pivot is not None and snapshot is not None:
            self._span(pivot, snapshot)

    def displaced(self, snapshot: Event, new: Event) -> bool:
        """Whether the snapshot is archived now that the new event, not older, takes its place."""
        archived = self._pivot is None or self._keeps(self._pivot, snapshot, new)
        if archived:
            self.restart(snapshot, new)
        else:
            assert self._pivot is not None
            self._span(self._pivot, new)
        return archived

    def _keeps(self, pivot: Event, snapshot: Event, new: Event) -> bool:
        if snapshot.annotated:
            return True
        if snapshot.time_ns - pivot.time_ns < self._compmin_ns:
            return False
        if new.time_ns - pivot.time_ns >= self._compmax_ns or _kind(snapshot) != _kind(pivot):
            return True
        if self._step or snapshot.number is None or snapshot.time_ns == pivot.time_ns:
            return _distance(snapshot, pivot) > (self._compdev if self._step else 0.0)
        if _kind(new) != _kind(snapshot) or new.time_ns == snapshot.time_ns:
            return True
        slope = _slope(pivot, new, 0.0)
        return not self._lower <= slope <= self._upper

    def _span(self, pivot: Event, snapshot: Event) -> None:
        """Narrow the doors by this snapshot's."""
        if snapshot.time_ns > pivot.time_ns and _kind(snapshot) == _kind(pivot) and snapshot.number is not None:
            self._upper = min(self._upper, _slope(pivot, snapshot, self._compdev))
            self._lower = max(self._lower, _slope(pivot, snapshot, -self._compdev))


def _slope(pivot: Event, event: Event, deviation: float) -> float:
    assert pivot.number is not None
    assert event.number is not None
    return (event.number + deviation - pivot.number) / (event.time_ns - pivot.time_ns)


def _kind(event: Event) -> object:
    """What two events must have in common for a line between them to mean something."""
    number = event.number
    finite = number is not None and math.isfinite(number)
    return finite, None if finite else str(number), event.good, event.questionable, event.substituted, event.annotated


def _distance(one: Event, other: Event) -> float:
    """How far two events of one kind are apart; infinitely far when they differ and are no numbers."""
    if one.number is not None and other.number is not None and math.isfinite(one.number):
        return abs(one.number - other.number)
    return 0.0 if repr(replace(one, time_ns=0)) == repr(replace(other, time_ns=0)) else math.inf
