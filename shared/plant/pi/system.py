r"""The PI system: one data server with its points.

    system = PiSystem(Clock())
    point = system.add(PointDefinition("SINUSOID", type="Float32", unit="degC"))
    system.write(point, Event(system.clock.now_ns(), 12.5))
    system.archived(point)

Asset servers with elements, attributes and event frames would stand beside the data server; there are none.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

from plant.pi import webid
from plant.pi.events import Action, Change, Event, Mode, Previous
from plant.pi.points import PiPoint, PointDefinition
from plant.pi.states import DigitalSet, DigitalState, system_state

DEFAULT_GUID: Final = uuid.UUID("1144d7b4-8d38-4d9b-8ce0-5605828acab5")
AHEAD_NS: Final = 600 * 1_000_000_000
"""How far ahead of the server's clock an event of a point without future may lie."""

PointChange = Literal["added", "renamed", "changed", "removed"]

_FREE: Final = frozenset(
    ("unit", "descriptor", "source", "zero", "span", "display_digits", "visible_to", "readers", "point_class")
)
_REMEMBERED = 50_000  # web ids, so that one that is asked for again and again is read once


class PiError(Exception):
    """What a PI server refuses; the text says it as the server would."""


class SystemClock(Protocol):
    """The time that a PI system goes by."""

    def now_ns(self) -> int:
        """ns since 1970 UTC."""


class PiSystem:
    """A data server: its points by id, by name and by web id; and who wants to know what happens to them."""

    def __init__(self, clock: SystemClock, name: str = "PISERVER", guid: uuid.UUID = DEFAULT_GUID) -> None:
        self.clock = clock
        self.name = name
        self.guid = guid
        self.version = "3.4.445.688"
        self.connected = True
        """Whether PI Web API reaches the archive. False: points and values answer with errors."""
        self.listeners: list[Callable[[Sequence[Change]], None]] = []
        """Called with what happened to streams, after it has, in its order."""
        self.point_listeners: list[Callable[[PiPoint, PointChange], None]] = []
        """Called when a point was added, renamed, changed or removed, after it was."""
        self._points: dict[int, PiPoint] = {}
        self._by_name: dict[str, PiPoint] = {}
        self._by_web_id: dict[str, PiPoint] = {}
        self._web_ids: dict[tuple[PiPoint, webid.Kind], str] = {}
        self._sorted: list[PiPoint] | None = None
        self._next = 1

    @property
    def path(self) -> str:
        r"""`\\SERVER`."""
        return f"\\\\{self.name}"

    @property
    def web_id(self) -> webid.WebId:
        """The data server's."""
        return webid.of_data_server(self.guid, self.path)

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[PiPoint]:
        """All points, by name."""
        if self._sorted is None:
            self._sorted = [self._by_name[name] for name in sorted(self._by_name)]
        return iter(self._sorted)

    # ---- points

    def add(self, definition: PointDefinition) -> PiPoint:
        """Make a point. Raises PiError when its name or its id is taken."""
        number = self._next if definition.id is None else definition.id
        if number in self._points:
            raise PiError(f"[-10549] Point ID {number} is in use.")
        if definition.name.casefold() in self._by_name:
            raise PiError(f"[-10550] Tag {definition.name!r} already exists in table.")
        self._next = max(self._next, number) + 1
        point = PiPoint(replace(definition, id=number), number, self.name, self.clock.now_ns())
        self._points[number] = point
        self._by_name[definition.name.casefold()] = point
        self._told(point, "added")
        if definition.created_event:
            self.write(point, Event.of_system(point.created_ns, "Pt Created"))
        return point

    def remove(self, point: PiPoint) -> None:
        """Remove a point and all its events. Its id is never given again."""
        if self._points.pop(point.id, None) is not point:
            raise PiError(f"[-5] Point {point.name!r} does not exist.")
        del self._by_name[point.name.casefold()]
        point.exists = False
        self._told(point, "removed")

    def rename(self, point: PiPoint, name: str) -> None:
        """Give a point another name; its id and its events stay. Raises PiError when the name is taken, ValueError
        for one that is none."""
        taken = self._by_name.get(name.casefold())
        if taken not in (None, point):
            raise PiError(f"[-10550] Tag {name!r} already exists in table.")
        definition = replace(point.definition, name=name)
        del self._by_name[point.name.casefold()]
        point.definition = definition
        self._by_name[name.casefold()] = point
        self._told(point, "renamed")

    def change(self, point: PiPoint, **attributes: object) -> None:
        """Change attributes that have no part in keeping events: unit, descriptor, source, readers, ….

        Raises TypeError for one that decides how events are kept; such a point is recreated.
        """
        if not _FREE.issuperset(attributes):
            raise TypeError(f"{', '.join(sorted(set(attributes) - _FREE))}: remove the point and add another")
        point.definition = replace(point.definition, **attributes)  # type: ignore[arg-type] # names were looked at
        self._told(point, "changed")

    def recreate(self, point: PiPoint, definition: PointDefinition | None = None) -> PiPoint:
        """Remove a point and make one of the same name: with another id, and without events."""
        self.remove(point)
        return self.add(replace(definition or point.definition, id=None))

    def by_id(self, number: int) -> PiPoint | None:
        """The point with that id."""
        return self._points.get(number)

    def by_name(self, name: str) -> PiPoint | None:
        """The point with that name, in any case."""
        return self._by_name.get(name.casefold())

    def by_path(self, path: str) -> PiPoint | None:
        r"""The point at `\\SERVER\TAG`, in any case; the server may be written with its GUID, the tag with `?id`."""
        server, _, tag = path.removeprefix("\\\\").partition("\\")
        server, _, guid = server.partition("?")
        tag, _, number = tag.partition("?")
        if server.casefold() not in (self.name.casefold(), str(self.guid)) and guid.casefold() != str(self.guid):
            return None
        return self.by_name(tag) or (self.by_id(int(number)) if number.isdecimal() and len(number) <= 10 else None)

    def by_web_id(self, text: str) -> PiPoint | None:
        """The point of a web id of any kind; None for what is none, or somebody else's."""
        found = self._by_web_id.get(text)
        if found is None:
            try:
                web_id = webid.WebId.parse(text)
            except webid.WebIdError:
                return None
            found = self._of(web_id)
            if found is not None:
                if len(self._by_web_id) >= _REMEMBERED:
                    self._by_web_id.clear()
                self._by_web_id[text] = found
        return found

    def web_id_of(self, point: PiPoint, kind: webid.Kind = "Full") -> str:
        """A point's web id of that kind."""
        key = (point, kind)
        found = self._web_ids.get(key)
        if found is None:
            found = webid.of_point(self.guid, point.id, point.path).encode(kind)
            if len(self._web_ids) >= _REMEMBERED:
                self._web_ids.clear()
            self._web_ids[key] = found
        return found

    # ---- events

    def write(self, point: PiPoint, event: Event, *, mode: Mode = "insert") -> Change | None:
        """Write an event; what it did, or None when the mode forbids it.

        Raises PiError for one too far ahead, ValueError for one that the point's type does not take.
        """
        changes = self.write_many([(point, event)], mode=mode)
        return changes[0] if changes else None

    def write_many(self, events: Iterable[tuple[PiPoint, Event]], *, mode: Mode = "insert") -> list[Change]:
        """Write events of any points in their order; listeners hear of all of them together.

        Raises as `write` does, at the first that is refused: those before it are written, and told.
        """
        changes: list[Change] = []
        ahead = self.clock.now_ns() + AHEAD_NS
        try:
            for point, event in events:
                if event.time_ns > ahead and not point.definition.future:
                    raise PiError(f"[-11046] {point.name}: the target date is in the future.")
                change = point.write(point.taken(event), mode)
                if change is not None:
                    changes.append(change)
        finally:
            self._changed(changes)
        return changes

    def report(self, point: PiPoint, event: Event) -> list[Change]:
        """Offer a value that an interface has read: exception reporting decides what is written of it."""
        return self.write_many([(point, passed) for passed in point.exception.offer(event)])

    def replace(self, point: PiPoint, event: Event) -> Change | None:
        """Give the event at that time another value, or add it; it counts as substituted then."""
        return self.write(point, event, mode="replace")

    def delete(self, point: PiPoint, time_ns: int, value: object = ...) -> Change | None:
        """Remove the first event at that time (with that value, if one is given); None when there is none."""
        change = point.delete(time_ns, value)
        if change is not None:
            self._changed([change])
        return change

    def refresh(self, point: PiPoint, from_ns: int) -> None:
        """Tell everyone to read the point again from that time on."""
        self._changed([Change(point, "Refresh", Event(from_ns, None))])

    def archived(self, point: PiPoint, *, snapshot: bool = True) -> list[Event]:
        """All that can be read of a point, in order. snapshot=False: without one that could still be forgotten."""
        return point.archived(snapshot=snapshot)

    # ---- within

    def _of(self, web_id: webid.WebId) -> PiPoint | None:
        if web_id.marker != "DP":
            return None
        if web_id.kind == "PathOnly":
            return self.by_path(web_id.path)
        *server, number = web_id.ids
        if server not in ([], [self.guid]) or not isinstance(number, int):
            return None
        return self.by_id(number)

    def _told(self, point: PiPoint, change: PointChange) -> None:
        self._by_web_id.clear()
        self._web_ids.clear()
        self._sorted = None
        for listener in self.point_listeners:
            listener(point, change)

    def _changed(self, changes: Sequence[Change]) -> None:
        if changes:
            for listener in self.listeners:
                listener(changes)


__all__ = [
    "AHEAD_NS",
    "Action",
    "Change",
    "DigitalSet",
    "DigitalState",
    "Event",
    "Mode",
    "PiError",
    "PiPoint",
    "PiSystem",
    "PointDefinition",
    "Previous",
    "system_state",
]
