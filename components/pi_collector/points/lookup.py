"""Questions to a server about its points: which there are at these paths, what has become of these ids, which data
servers it knows.

Many points are asked for in one request (`points/multiple`), as far as its address has room; servers that do not know
that call are asked for one after the other. Whatever is wrong with one point costs that point: its answer is a
`Refusal`. Only what is wrong with the server itself raises PiError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol
from urllib.parse import quote

from pi_collector.config import Load
from pi_collector.points.point import Point
from pi_collector.values.decode import loads
from pi_collector.web.errors import (
    ForbiddenError,
    MalformedError,
    NotFoundError,
    RefusedError,
    TooMuchError,
    UnsupportedError,
)
from pi_collector.web.pace import LIVE, Priority

Query = Sequence[tuple[str, str]]

FIELDS: Final = (
    "WebId", "Id", "Name", "Path", "Descriptor", "PointType", "DigitalSetName", "EngineeringUnits", "Step", "Future",
)  # fmt: skip
"""What is wanted of a point's answer."""
_ID_ONLY: Final = ("webIdType", "IDOnly")
_LONGEST: Final = 300
_DENIED: Final = re.compile(r"access|denied|permission|not authori|forbidden", re.IGNORECASE)
_ABSENT: Final = re.compile(r"not (be )?found|does not exist|unknown|no such|deleted|no longer", re.IGNORECASE)


class Web(Protocol):
    """What is needed of `web.client.Client`."""

    @property
    def address(self) -> str: ...
    async def get(self, path: str, query: Query = (), *, priority: Priority = LIVE, fresh: bool = False) -> bytes: ...


class Why(str, Enum):
    """Why a point cannot be had."""

    ABSENT = "absent"
    DENIED = "denied"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server says in the place of a point."""

    why: Why
    said: str = ""


@dataclass(frozen=True, slots=True)
class DataServer:
    """A data archive that the server knows."""

    web_id: str
    name: str
    connected: bool


Found = Point | Refusal


class Lookup:
    """Asks one server. What it turns out not to know is remembered until `forget`."""

    def __init__(self, web: Web, load: Load) -> None:
        self._web = web
        self.load = load
        self._multiple = True
        self._id_only = True

    def forget(self) -> None:
        """It may be another server, or a newer one, from now on."""
        self._multiple = self._id_only = True

    # --- points ---

    async def by_path(
        self, paths: Sequence[str], *, priority: Priority = LIVE, fresh: bool = False
    ) -> Mapping[str, Found]:
        """The points at these paths, of one request: see `chunks`. Raises PiError."""
        return await self._several("path", paths, priority, fresh)

    async def by_web_id(
        self, web_ids: Sequence[str], *, priority: Priority = LIVE, fresh: bool = False
    ) -> Mapping[str, Found]:
        """What these WebIds, of one request, stand for now. Raises PiError."""
        return await self._several("webId", web_ids, priority, fresh)

    def chunks(self, parameter: str, values: Sequence[str]) -> Iterator[Sequence[str]]:
        """`values` in parts of which each has room in one request."""
        room = (
            self.load.url_bytes
            - len(f"{self._web.address}/points/multiple?")
            - len(_encoded([*_several_fields(), _ID_ONLY]))
        )
        least = 0
        size = 0
        for place, value in enumerate(values):
            more = len(parameter) + 2 + len(quote(value, safe=""))
            if place > least and (size + more > room or place - least >= self.load.points_per_request):
                yield values[least:place]
                least, size = place, 0
            size += more
        if least < len(values):
            yield values[least:]

    async def _several(
        self, parameter: str, values: Sequence[str], priority: Priority, fresh: bool
    ) -> Mapping[str, Found]:
        if not self._multiple or len(values) == 1:
            return {value: await self._one(parameter, value, priority, fresh) for value in values}
        query = [(parameter, value) for value in values]
        try:
            body = await self._get("points/multiple", [*query, *_several_fields()], priority, fresh)
        except (NotFoundError, UnsupportedError):
            self._multiple = False
            return await self._several(parameter, values, priority, fresh)
        except TooMuchError:
            half = len(values) // 2
            first = await self._several(parameter, values[:half], priority, fresh)
            return {**first, **await self._several(parameter, values[half:], priority, fresh)}
        except ForbiddenError as error:
            return dict.fromkeys(values, Refusal(Why.DENIED, _said(error.errors)))
        except RefusedError as error:
            if error.status != 400:
                raise
            # Something in it is no path for this server, or the call is none that it knows.
            return {value: await self._one(parameter, value, priority, fresh) for value in values}
        return _of_several(parameter, values, _items(_json(body)))

    async def _one(self, parameter: str, value: str, priority: Priority, fresh: bool) -> Found:
        where, query = ("points", [("path", value)]) if parameter == "path" else (f"points/{quote(value, safe='')}", [])
        try:
            body = await self._get(where, [*query, ("selectedFields", ";".join(FIELDS))], priority, fresh)
        except ForbiddenError as error:
            return Refusal(Why.DENIED, _said(error.errors))
        except NotFoundError as error:
            return Refusal(Why.ABSENT, _said(error.errors))
        except RefusedError as error:
            if error.status != 400:
                raise
            return refusal(error.errors)
        return point_of(_json(body)) or _NO_POINT

    async def _get(self, path: str, query: Query, priority: Priority, fresh: bool) -> bytes:
        """Asked with short WebIds, as far as the server knows that there are such."""
        if self._id_only:
            try:
                return await self._web.get(path, [*query, _ID_ONLY], priority=priority, fresh=fresh)
            except RefusedError as error:
                if error.status != 400 or not any("webidtype" in text.lower() for text in error.errors):
                    raise
                self._id_only = False
        return await self._web.get(path, query, priority=priority, fresh=fresh)

    # --- what else there is ---

    async def data_servers(self, *, priority: Priority = LIVE) -> list[DataServer]:
        """The data archives that the server knows. Raises PiError."""
        fields = ("selectedFields", "Items.WebId;Items.Name;Items.IsConnected")
        found = []
        for item in _items(_json(await self._get("dataservers", [fields], priority, fresh=True))):
            web_id, name = _text(item, "WebId"), _text(item, "Name")
            if web_id and name:
                found.append(DataServer(web_id, name, item.get("IsConnected") is not False))
        return found

    async def page(self, path: str, query: Query, *, priority: Priority) -> tuple[list[Point], int, bool]:
        """One page of a list of points: those that can be understood, how many there were, and whether the server
        says that there are more. Raises PiError."""
        fields = ("selectedFields", ";".join((*(f"Items.{field}" for field in FIELDS), "Links.Next")))
        content = _json(await self._get(path, [*query, fields], priority, fresh=True))
        items = _items(content)
        links = content.get("Links")
        more = isinstance(links, dict) and bool(links.get("Next"))
        return [point for item in items if (point := point_of(item)) is not None], len(items), more


_NO_POINT: Final = Refusal(Why.OTHER, "an answer that describes no point")
_LEFT_OUT: Final = Refusal(Why.OTHER, "an answer without it")


def _several_fields() -> Query:
    fields = ("Items.Identifier", "Items.Exception", *(f"Items.Object.{field}" for field in FIELDS))
    return [("includeMode", "All"), ("selectedFields", ";".join(fields))]


def _encoded(query: Query) -> str:
    return "".join(f"&{name}={quote(value, safe='')}" for name, value in query)


# --- answers ---


def _json(body: bytes) -> dict[str, Any]:
    """Raises MalformedError."""
    try:
        content = loads(body)
    except MalformedError:
        raise MalformedError(f"answers {len(body)} bytes that are no JSON", _LOOK) from None
    if not isinstance(content, dict):
        raise MalformedError("answers JSON that is no object", _LOOK)
    return content


_LOOK: Final = "see that a PI Web API, and nothing else, answers at this address"


def _items(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Raises MalformedError."""
    items = content.get("Items")
    if not isinstance(items, list):
        raise MalformedError("answers without the list that was asked for", _LOOK)
    return [item for item in items if isinstance(item, dict)]


def _text(item: Mapping[str, Any], name: str) -> str:
    """A text of an answer. What is no character in it (half a surrogate) becomes a question mark."""
    value = item.get(name)
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def point_of(item: Any) -> Point | None:
    """A point, as an answer describes it; None where it describes none."""
    if not isinstance(item, dict):
        return None
    web_id, name, path, kind = (_text(item, field) for field in ("WebId", "Name", "Path", "PointType"))
    number = item.get("Id")
    server = path.removeprefix("\\\\").partition("\\")[0]
    if not (web_id and name and kind and server) or not isinstance(number, int) or isinstance(number, bool):
        return None
    return Point(
        web_id=web_id,
        server=server,
        id=number,
        name=name,
        path=path,
        type=kind,
        unit=_text(item, "EngineeringUnits").strip(),
        step=_true(item, "Step"),
        future=_true(item, "Future"),
        descriptor=_text(item, "Descriptor"),
        digital_set=_text(item, "DigitalSetName"),
    )


def _true(item: Mapping[str, Any], name: str) -> bool:
    value = item.get(name)
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _of_several(parameter: str, values: Iterable[str], items: Iterable[Mapping[str, Any]]) -> dict[str, Found]:
    """Answers come in any order, each with what it was asked by."""
    folded = parameter == "path"  # PI's names are the same in upper and lower case, WebIds are not
    answers: dict[str, Found] = {}
    for item in items:
        point = point_of(item.get("Object"))
        identifier = _text(item, "Identifier") or (
            (point.path if folded else point.web_id) if point is not None else ""
        )
        found: Found = point if point is not None else refusal(_errors(item.get("Exception")))
        answers[identifier.casefold() if folded else identifier] = found
    return {value: answers.get(value.casefold() if folded else value, _LEFT_OUT) for value in values}


def _errors(exception: Any) -> list[str]:
    errors = exception.get("Errors") if isinstance(exception, dict) else None
    return [error for error in errors if isinstance(error, str)] if isinstance(errors, list) else []


def refusal(errors: Sequence[str]) -> Refusal:
    """Why there is no point, by what the server says."""
    said = _said(errors)
    if _DENIED.search(said):
        return Refusal(Why.DENIED, said)
    return Refusal(Why.ABSENT if _ABSENT.search(said) else Why.OTHER, said)


def _said(errors: Sequence[str]) -> str:
    return " ".join(" ".join(errors).split())[:_LONGEST]
