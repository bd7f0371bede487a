"""Finding what a call names, for who asks: points and the data server. What is not found raises CallError."""

from __future__ import annotations

from plant.pi import webid as web_ids
from plant.pi.calls import Call, CallError
from plant.pi.points import PiPoint
from plant.pi.system import PiSystem


def may(users: frozenset[str] | None, user: str) -> bool:
    """Whether one of those users asks; None: anybody may."""
    return users is None or user in users


class Lookup:
    """Finds what is in a system."""

    def __init__(self, system: PiSystem) -> None:
        self._system = system

    def visible(self, call: Call) -> list[PiPoint]:
        """The points that may be seen, by name."""
        return [point for point in self._system if may(point.definition.visible_to, call.user)]

    def need_archive(self) -> None:
        """Refuse the call while the archive cannot be reached."""
        if not self._system.connected:
            raise CallError(502, f"Cannot connect to the PI Data Archive '{self._system.name}'.")

    def by_path(self, call: Call, path: str) -> PiPoint:
        """The point at a path; the archive is asked."""
        self.need_archive()
        point = self._system.by_path(path)
        if point is None or not may(point.definition.visible_to, call.user):
            raise CallError(404, f"PI Point not found '{path}'.")
        return point

    def by_web_id(self, call: Call, text: str) -> PiPoint:
        """The point of a web id; the archive is asked."""
        self.need_archive()
        return self.found(call, text)

    def found(self, call: Call, text: str) -> PiPoint:
        """The point of a web id, as far as the web server knows it by itself."""
        point = self._system.by_web_id(text)
        if point is not None and may(point.definition.visible_to, call.user):
            return point
        try:
            web_ids.WebId.parse(text)
        except web_ids.WebIdError as error:
            raise CallError(400, f"The specified WebID '{text}' is not valid.") from error
        raise CallError(404, f"PI Point not found: the specified WebID '{text}' names none.")

    def need_server(self, text: str) -> None:
        """Refuse a web id that is not the data server's."""
        try:
            web_id = web_ids.WebId.parse(text)
        except web_ids.WebIdError as error:
            raise CallError(400, f"The specified WebID '{text}' is not valid.") from error
        known = web_id.ids == (self._system.guid,) or web_id.path.casefold() == self._system.path.casefold()
        if web_id.marker != "DS" or not (known or web_id.kind in ("LocalIDOnly", "DefaultIDOnly")):
            raise CallError(404, f"The specified PI Data Server '{text}' was not found.")
