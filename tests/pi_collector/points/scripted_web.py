"""A PI Web API of one dictionary of points, in the place of the client: what it is asked is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from pi_collector.web.errors import (
    ForbiddenError,
    NotFoundError,
    PiError,
    RefusedError,
    TooMuchError,
    UnsupportedError,
)
from pi_collector.web.pace import LIVE, Priority

SERVER = "SRV"


def described(name: str, number: int, **more: Any) -> dict[str, Any]:
    """A point, as the server's answers have it."""
    return {
        "WebId": f"I1DP{number}",
        "Id": number,
        "Name": name,
        "Path": f"\\\\{SERVER}\\{name}",
        "Descriptor": "",
        "PointType": "Float32",
        "DigitalSetName": "",
        "EngineeringUnits": "degC",
        "Step": False,
        "Future": False,
        **more,
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    path: str
    query: tuple[tuple[str, str], ...]
    priority: Priority
    fresh: bool

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def one(self, name: str, otherwise: str = "") -> str:
        return next(iter(self.all(name)), otherwise)


@dataclass
class ScriptedWeb:
    """Points by path in lower case. `multiple`, `searches`, `id_only`: what the server is able to do."""

    address: str = "https://pi/piwebapi"
    generation: int = 1
    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    servers: dict[str, bool] = field(default_factory=lambda: {SERVER: True})
    multiple: bool = True
    searches: bool = True
    id_only: bool = True
    links: bool = True
    most: int = 10**9
    error: PiError | None = None
    asked: list[Asked] = field(default_factory=list)
    before: Callable[[Asked], None] = lambda asked: None

    def add(self, name: str, number: int, **more: Any) -> None:
        self.points[f"\\\\{SERVER}\\{name}".casefold()] = described(name, number, **more)

    def remove(self, name: str) -> dict[str, Any]:
        return self.points.pop(f"\\\\{SERVER}\\{name}".casefold())

    def count(self, path: str) -> int:
        return sum(one.path == path for one in self.asked)

    async def get(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = LIVE, fresh: bool = False
    ) -> bytes:
        asked = Asked(path, tuple(query), priority, fresh)
        self.asked.append(asked)
        self.before(asked)
        if self.error is not None:
            raise self.error
        if not self.id_only and asked.one("webIdType"):
            raise RefusedError(400, ["The parameter 'webIdType' is not known."], "is refused")
        return orjson.dumps(self._answer(path, asked))

    def _answer(self, path: str, asked: Asked) -> Any:
        if path == "dataservers":
            return {
                "Items": [
                    {"WebId": f"I1DS{name}", "Name": name, "IsConnected": connected}
                    for name, connected in self.servers.items()
                ]
            }
        if path == "points/multiple":
            if not self.multiple:
                raise NotFoundError(404, ["Unknown or invalid WebID."], "is not there")
            wanted = [("path", one) for one in asked.all("path")] + [("webId", one) for one in asked.all("webId")]
            if len(wanted) > self.most:
                raise TooMuchError(414, [], "is too long")
            return {"Items": [self._item(kind, value) for kind, value in reversed(wanted)]}
        if path == "points":
            return self._single("path", asked.one("path"))
        if path == "points/search":
            if not self.searches:
                raise UnsupportedError(405, [], "is not known")
            return self._page(asked, lambda name: True)
        if path.startswith("dataservers/") and path.endswith("/points"):
            begins = asked.one("nameFilter").rstrip("*").casefold()
            return self._page(asked, lambda name: name.casefold().startswith(begins))
        return self._single("webId", path.removeprefix("points/"))

    def _find(self, kind: str, value: str) -> dict[str, Any] | None:
        if kind == "path":
            return self.points.get(value.casefold())
        return next((point for point in self.points.values() if point["WebId"] == value), None)

    def _item(self, kind: str, value: str) -> dict[str, Any]:
        found = self._find(kind, value)
        denied = value.casefold() in self.denied
        if found is not None and not denied:
            return {"Identifier": value, "IdentifierType": kind, "Object": found, "Exception": None}
        said = "Access denied." if denied else f"PI Point not found '{value}'."
        return {"Identifier": value, "IdentifierType": kind, "Object": None, "Exception": {"Errors": [said]}}

    def _single(self, kind: str, value: str) -> dict[str, Any]:
        if value.casefold() in self.denied:
            raise ForbiddenError(403, ["Access denied."], "may not be read")
        found = self._find(kind, value)
        if found is None:
            raise NotFoundError(404, [f"PI Point not found '{value}'."], "is not there")
        return found

    def _page(self, asked: Asked, wanted: Callable[[str], bool]) -> dict[str, Any]:
        found = [point for point in self.points.values() if wanted(point["Name"])]
        start, count = int(asked.one("startIndex", "0")), int(asked.one("maxCount", "1000"))
        page = found[start : start + count]
        more = self.links and start + count < len(found)
        return {"Items": page, "Links": {"Next": "https://pi/next"} if more else {}}
