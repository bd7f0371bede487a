"""Requests of PI Web API as paths and queries, and how many streams fit into one. Pure.

Every question to the server is made here, so that whoever asks says what is wanted and not how it is written:

    client.get(*requests.recorded(web_ids, start, stop, max_count))

Times are absolute, in UTC and with all seven digits: anything else is read by the server in its own time zone, by its
own clock, or in the format of its country. Boundaries are always `Inside`: the other two repeat values or invent them.
`selectedFields` names what is read of an answer and leaves out the rest, about 60 % of it; `Errors` is always named,
for a value that has them is none. WebIds and markers are opaque texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

from pi_collector.values.times import format7

Query = Sequence[tuple[str, str]]

_ID_ONLY: Final = ("webIdType", "IDOnly")
"""Answers name streams as they were asked for: without it by another kind of WebId, the longest."""

BASE: Final = 128
"""Bytes of an address that are reserved for what stands before the path, such as /piwebapi."""
_PATH: Final = re.compile(r"([A-Za-z0-9_.~%-]+(/[A-Za-z0-9_.~%-]+)*)?")
_VALUE: Final = ("Timestamp", "Value", "Good", "Questionable", "Substituted", "Annotated", "Errors")
_STREAM: Final = ("Items.WebId", "Items.UnitsAbbreviation", "Items.Errors")
_POINT: Final = (
    *("WebId", "Id", "Name", "Path", "Descriptor", "PointType", "DigitalSetName", "EngineeringUnits"),
    *("Step", "Future"),
)

_RECORDED: Final = ";".join((*_STREAM, *(f"Items.Items.{field}" for field in _VALUE)))
_CURRENT: Final = ";".join((*_STREAM, *(f"Items.Value.{field}" for field in _VALUE)))
_SUMMARY: Final = ";".join((*_STREAM, "Items.Items.Type", *(f"Items.Items.Value.{field}" for field in _VALUE)))
_POINTS: Final = ";".join((*(f"Items.{field}" for field in _POINT), "Links.Next"))
_MULTIPLE: Final = ";".join(
    (
        *("Items.Identifier", "Items.IdentifierType", "Items.Exception"),
        *(f"Items.Object.{field}" for field in _POINT),
    )
)
_SERVERS: Final = ";".join(f"Items.{field}" for field in ("WebId", "Name", "Path", "IsConnected", "ServerTime"))


class Request(NamedTuple):
    """What `Client.get`, `register` and `websocket` take: a path below the address, and the query in its order."""

    path: str
    query: Query


# --- how an address is written, and what fits into one ---


def written(path: str, query: Query) -> str:
    """Path and query as they stand in the address.

    Raises ValueError for a path that is more than names between slashes: nothing that was made from names of points or
    from answers may lead elsewhere on the server.
    """
    if not _PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise ValueError(f"the path {path!r} is none below the address")
    return f"{path}?{_query(query)}" if query else path


def _query(query: Query) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)


def chunks(
    path: str, fixed: Query, streams: Sequence[str], most: int, url_bytes: int, *, parameter: str = "webId"
) -> list[list[int]]:
    """Indexes of `streams`, in order, in as few requests as have at most `most` of them and `url_bytes` of address.

    fixed: the rest of the query. parameter: what each one is given as. What is too long even alone has a request of
    its own: the server says what it thinks of it.
    """
    begin = BASE + len(written(path, fixed))
    extra = len(parameter) + 2  # the name, =, and what stands before: ? or &
    found: list[list[int]] = []
    used = url_bytes
    for index, stream in enumerate(streams):
        size = extra + len(quote(stream, safe=""))
        if not found or used + size > url_bytes or len(found[-1]) >= most:
            found.append([])
            used = begin
        found[-1].append(index)
        used += size
    return found


def span(seconds: float) -> str:
    """A duration as PI writes it."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _streams(web_ids: Iterable[str]) -> list[tuple[str, str]]:
    return [("webId", web_id) for web_id in web_ids]


# --- values ---


def recorded_query(start: int, stop: int, max_count: int) -> Query:
    """All of `recorded` but its streams, for `chunks`."""
    return (
        ("startTime", format7(start)),
        ("endTime", format7(stop)),
        ("boundaryType", "Inside"),
        ("maxCount", str(max_count)),
        _ID_ONLY,
        ("selectedFields", _RECORDED),
    )


def recorded(web_ids: Iterable[str], start: int, stop: int, max_count: int) -> Request:
    """Values of the archive from `start` to `stop` (ns, both inclusive); at most max_count of each, without a word."""
    return Request("streamsets/recorded", [*recorded_query(start, stop, max_count), *_streams(web_ids)])


def recorded_alone(web_id: str, start: int, stop: int, max_count: int) -> Request:
    """The same of one stream, such as for one part of a batch."""
    fields = ";".join(("UnitsAbbreviation", *(f"Items.{field}" for field in _VALUE)))
    query = [*recorded_query(start, stop, max_count)[:-1], ("selectedFields", fields)]
    return Request(f"streams/{quote(web_id, safe='')}/recorded", query)


def value_query() -> Query:
    """All of `value` and `end_value` but their streams, for `chunks`."""
    return (_ID_ONLY, ("selectedFields", _CURRENT))


def value(web_ids: Iterable[str]) -> Request:
    """The newest value of each by the server's present."""
    return Request("streamsets/value", [*value_query(), *_streams(web_ids)])


def end_value(web_ids: Iterable[str]) -> Request:
    """The last value of each, which for points with a future lies in it."""
    return Request("streamsets/end", [*value_query(), *_streams(web_ids)])


def interpolated_query(start: int, stop: int, interval: float) -> Query:
    """All of `interpolated` but its streams, for `chunks`."""
    return (
        ("startTime", format7(start)),
        ("endTime", format7(stop)),
        ("interval", span(interval)),
        _ID_ONLY,
        ("selectedFields", _RECORDED),
    )


def interpolated(web_ids: Iterable[str], start: int, stop: int, interval: float) -> Request:
    """Values that the server interpolates at `start` and every `interval` seconds up to `stop` (ns)."""
    return Request("streamsets/interpolated", [*interpolated_query(start, stop, interval), *_streams(web_ids)])


def summary_query(start: int, stop: int, interval: float, summaries: Iterable[str]) -> Query:
    """All of `summary` but its streams, for `chunks`."""
    return (
        ("startTime", format7(start)),
        ("endTime", format7(stop)),
        ("summaryDuration", span(interval)),
        *(("summaryType", kind) for kind in summaries),
        ("calculationBasis", "TimeWeighted"),
        ("timeType", "EarliestTime"),
        _ID_ONLY,
        ("selectedFields", _SUMMARY),
    )


def summary(web_ids: Iterable[str], start: int, stop: int, interval: float, summaries: Iterable[str]) -> Request:
    """What the server calculates of each `interval` seconds between `start` and `stop` (ns); it stands at their
    beginning."""
    return Request("streamsets/summary", [*summary_query(start, stop, interval, summaries), *_streams(web_ids)])


# --- points ---


def data_servers() -> Request:
    """The data archives that the server knows, whether they are connected, and their time."""
    return Request("dataservers", (("selectedFields", _SERVERS),))


def point(path: str) -> Request:
    r"""One point by its path, \\SERVER\NAME."""
    return Request("points", (("path", path), _ID_ONLY, ("selectedFields", ";".join(_POINT))))


def point_of(web_id: str) -> Request:
    """One point by its WebId."""
    query = (_ID_ONLY, ("selectedFields", ";".join(_POINT)))
    return Request(f"points/{quote(web_id, safe='')}", query)


def points_query() -> Query:
    """All of `points_by_path` and `points_by_id` but what is asked for, for `chunks` with parameter path or webId."""
    return (_ID_ONLY, ("includeMode", "All"), ("selectedFields", _MULTIPLE))


def points_by_path(paths: Iterable[str]) -> Request:
    """Many points by their paths; each fails or succeeds by itself."""
    return Request("points/multiple", [*points_query(), *(("path", path) for path in paths)])


def points_by_id(web_ids: Iterable[str]) -> Request:
    """Many points by their WebIds; each fails or succeeds by itself."""
    return Request("points/multiple", [*points_query(), *_streams(web_ids)])


def points_search(server: str, query: str, start_index: int, max_count: int = 1000) -> Request:
    """Points of a data server (its WebId) by a query such as ``Tag:=Unit1*``; 2021 SP3 and later, 1000 at most."""
    return Request(
        "points/search",
        (
            ("dataServerWebId", server),
            ("query", query),
            *_page(start_index, max_count),
        ),
    )


def points_list(
    server: str, *, name: str = "", source: str = "", start_index: int = 0, max_count: int = 1000
) -> Request:
    """Points of a data server (its WebId) by name with * and ?, and by point source."""
    filters = (("nameFilter", name), ("sourceFilter", source))
    return Request(
        f"dataservers/{quote(server, safe='')}/points",
        (*((key, text) for key, text in filters if text), *_page(start_index, max_count)),
    )


def _page(start_index: int, max_count: int) -> Query:
    return (
        ("startIndex", str(start_index)),
        ("maxCount", str(max_count)),
        _ID_ONLY,
        ("selectedFields", _POINTS),
    )


# --- what comes by itself ---


def channel_query(heartbeat: int) -> Query:
    """All of `channel` but its streams, for `chunks`. heartbeat: polls of the server that find nothing new."""
    return (("includeInitialValues", "true"), ("heartbeatRate", str(heartbeat)), _ID_ONLY)


def channel(web_ids: Iterable[str], heartbeat: int) -> Request:
    """A websocket on which new values of the streams come, at first the newest ones."""
    return Request("streamsets/channel", [*channel_query(heartbeat), *_streams(web_ids)])


def register_query() -> Query:
    """All of `register` but its streams, for `chunks`."""
    return (_ID_ONLY,)


def register(web_ids: Iterable[str]) -> Request:
    """Register streams for updates; to be sent with `Client.register`."""
    return Request("streamsets/updates", [*register_query(), *_streams(web_ids)])


def updates_query() -> Query:
    """All of `updates` but its markers, for `chunks` with parameter marker."""
    return (_ID_ONLY,)


def updates(markers: Iterable[str]) -> Request:
    """What has come since each marker."""
    return Request("streamsets/updates", [*updates_query(), *(("marker", marker) for marker in markers)])
