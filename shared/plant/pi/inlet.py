"""The way into PI, as a buffer at an interface keeps it: what cannot be written now arrives later, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plant.pi.events import Event, Mode
from plant.pi.faults import Faults
from plant.pi.points import PiPoint
from plant.pi.system import AHEAD_NS, PiSystem

_Write = tuple[PiPoint, Event, Mode]


class Inlet:
    """Writes to a PI system, and keeps what is written while its archive is down, or its clock so far behind that it
    would refuse it as of the future."""

    def __init__(self, system: PiSystem, faults: Faults) -> None:
        self._system = system
        self._faults = faults
        self._buffer: list[_Write] = []
        faults.healed.append(self._healed)

    @property
    def buffered(self) -> int:
        """Events that wait for the archive."""
        return len(self._buffer)

    def write(self, point: PiPoint, event: Event, *, mode: Mode = "insert") -> None:
        """Write one event."""
        self.write_many([(point, event)], mode=mode)

    def write_many(self, events: Iterable[tuple[PiPoint, Event]], *, mode: Mode = "insert") -> None:
        """Write events in their order; those of points that are there no more are left out."""
        writes = [(point, event, mode) for point, event in events if point.exists]
        if self._faults.archive_is_down:
            self._buffer += writes
            return
        latest = self._system.clock.now_ns() + AHEAD_NS
        if writes and max(event.time_ns for _, event, _ in writes) > latest:
            self._buffer += [write for write in writes if write[1].time_ns > latest]
            writes = [write for write in writes if write[1].time_ns <= latest]
        self._system.write_many([(point, event) for point, event, _ in writes], mode=mode)

    def delete(self, point: PiPoint, time_ns: int) -> bool:
        """Remove the first event at that time; False when nothing was removed, also while the archive is down."""
        return not self._faults.archive_is_down and self._system.delete(point, time_ns) is not None

    def _healed(self, _: str) -> None:
        waiting, self._buffer = self._buffer, []
        for batch in _batches(waiting):
            self.write_many([(point, event) for point, event, _ in batch], mode=batch[0][2])


def _batches(writes: Sequence[_Write]) -> list[list[_Write]]:
    """The writes in their order, those of one mode that follow each other together."""
    batches: list[list[_Write]] = []
    for write in writes:
        if not batches or batches[-1][0][2] != write[2]:
            batches.append([])
        batches[-1].append(write)
    return batches


__all__ = ["Inlet"]
