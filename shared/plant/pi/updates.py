"""Stream updates: a client registers streams, and asks with markers for what has happened since.

    register -> <hex>_0      nothing is kept from before
    ask <hex>_0 -> events 1 to 12, and the marker <hex>_12
    ask <hex>_12 -> events 13 to …; asking with <hex>_0 again gives 1 to … as long as they are kept

What is registered lives in this server's memory alone: it is lost at its next start, expires when nobody asks
(404, "Cache not found"), and a marker that it never gave out is refused (409, "Invalid marker"). Of a stream set the
markers that are bad get an Exception each, and only when all are the whole answer is the error. A stream whose events
were more than are kept, whose point was changed or removed, is told with an Exception and not registered any more.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plant.pi.clock import Clock
from plant.pi.events import Change
from plant.pi.points import PiPoint
from plant.pi.timed_values import timed

NOT_FOUND, INVALID = "Cache not found.", "Invalid marker."
CHANGED = "The signup was updated and any cached data could be invalid."
REMOVED = "The signup was removed because it is no longer valid."
OVERFLOWED = "The cache of the signup has overflowed; events were lost."

_PREVIOUS = {"archived": "PreviousEventArchived", "compressed": "PreviousEventCompressed"}
_SECOND_NS = 1_000_000_000
_SWEEPS = 10
"""Looks for expired registrations in the time that one lives: looking at all of them for each marker would be slow."""


class UpdatesError(Exception):
    """A marker that cannot be answered: the HTTP status and the text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class UpdatesOptions:
    """How long and how much the server keeps."""

    expires_s: float = 600.0
    """Server seconds without a request after which a registration is forgotten."""
    kept: int = 10_000
    """Events of a stream that are kept."""


@dataclass(slots=True)
class _Registration:
    point: PiPoint
    web_id: str
    hex: str
    asked_ns: int
    events: deque[Change]
    count: int = 0
    broken: str = ""

    @property
    def marker(self) -> str:
        return f"{self.hex}_{self.count}"


class Updates:
    """The registrations of a server."""

    def __init__(self, clock: Clock, options: UpdatesOptions) -> None:
        self._clock = clock
        self._options = options
        self._by_point: dict[int, _Registration] = {}
        self._by_hex: dict[str, _Registration] = {}
        self._expires_ns = round(options.expires_s * _SECOND_NS)
        self._swept_ns = 0

    def watched(self) -> set[int]:
        """Points that are registered."""
        self._expire()
        return set(self._by_point)

    def forget(self) -> None:
        """Know no registration any more."""
        self._by_point.clear()
        self._by_hex.clear()

    def changed(self, changes: Sequence[Change]) -> None:
        """Take over what happened."""
        for change in changes:
            registration = self._by_point.get(change.point.id)
            if registration is not None:
                registration.events.append(change)
                registration.count += 1

    def point_changed(self, number: int, *, removed: bool = False) -> None:
        """Somebody changed a point, or removed it: its stream has to be registered again."""
        registration = self._by_point.get(number)
        if registration is not None:
            registration.broken = REMOVED if removed else CHANGED

    def register(self, point: PiPoint, web_id: str) -> dict[str, Any]:
        """Register a stream; its item of the answer."""
        self._expire()
        status = "AlreadyRegistered"
        registration = self._by_point.get(point.id)
        if registration is None or registration.broken:
            if registration is not None:
                self._drop(registration)
            events: deque[Change] = deque(maxlen=self._options.kept)
            registration = _Registration(point, web_id, uuid.uuid4().hex, self._clock.now_ns(), events)
            self._by_point[point.id] = self._by_hex[registration.hex] = registration
            status = "Succeeded"
        registration.asked_ns = self._clock.now_ns()
        return {**_source(registration), "LatestMarker": registration.marker, "Status": status}

    def failed(self, web_id: str, errors: Sequence[str]) -> dict[str, Any]:
        """The item of a stream that cannot be registered."""
        return {"Source": web_id, "Status": "Failed", "Exception": {"Errors": list(errors)}}

    def updates(self, marker: str) -> dict[str, Any]:
        """What has happened since that marker. Raises UpdatesError for one that is not known."""
        self._expire()
        name, _, digits = marker.rpartition("_")
        registration = self._by_hex.get(name)
        if registration is None:
            known = bool(name) and digits.isdigit() and len(name) == 32
            raise UpdatesError(404, NOT_FOUND) if known else UpdatesError(409, INVALID)
        number = int(digits) if digits.isdigit() and len(digits) < 19 else -1
        if not 0 <= number <= registration.count:
            raise UpdatesError(409, INVALID)
        registration.asked_ns = self._clock.now_ns()
        first = registration.count - len(registration.events)
        if number < first and not registration.broken:
            registration.broken = OVERFLOWED
        item = {**_source(registration), "RequestedMarker": marker, "LatestMarker": registration.marker}
        if registration.broken:
            self._drop(registration)
            return {**item, "Status": "Failed", "Exception": {"Errors": [registration.broken]}, "Events": []}
        events = [self._event(registration.events[at]) for at in range(number - first, len(registration.events))]
        return {**item, "Status": "Updated", "Events": events, "Links": {}}

    def answer(self, markers: Sequence[str]) -> list[dict[str, Any]]:
        """The items of several markers. Raises UpdatesError when not one of them is known."""
        found = [self._either(marker) for marker in markers]
        errors = [one for one in found if isinstance(one, UpdatesError)]
        if errors and len(errors) == len(markers):
            raise errors[0]
        return [
            {"RequestedMarker": marker, "Status": "Failed", "Exception": {"Errors": [one.text]}}
            if isinstance(one, UpdatesError)
            else one
            for marker, one in zip(markers, found, strict=True)
        ]

    def _either(self, marker: str) -> dict[str, Any] | UpdatesError:
        try:
            return self.updates(marker)
        except UpdatesError as error:
            return error

    def _event(self, change: Change) -> dict[str, Any]:
        event = {"Action": change.action, **timed(change.point, change.event)}
        if change.previous is not None:
            event["PreviousEventAction"] = _PREVIOUS[change.previous]
        return event

    def _drop(self, registration: _Registration) -> None:
        self._by_hex.pop(registration.hex, None)
        if self._by_point.get(registration.point.id) is registration:
            del self._by_point[registration.point.id]

    def _expire(self) -> None:
        now = self._clock.now_ns()
        if self._swept_ns <= now < self._swept_ns + self._expires_ns // _SWEEPS:
            return
        self._swept_ns = now
        for registration in [one for one in self._by_hex.values() if one.asked_ns < now - self._expires_ns]:
            self._drop(registration)


def _source(registration: _Registration) -> dict[str, Any]:
    point = registration.point
    return {"Source": registration.web_id, "SourceName": point.name, "SourcePath": point.path}


__all__ = ["CHANGED", "INVALID", "NOT_FOUND", "OVERFLOWED", "REMOVED", "Updates", "UpdatesError", "UpdatesOptions"]
