r"""The reading part of PI Web API: system, data servers, points, streams, stream sets and batches.

    api = Api(system, ApiOptions())
    application.add_routes(api.routes("/piwebapi"))

Routes and names of parameters are known in any case. What fails is answered `{"Errors": [...]}`. Who may write, be
pushed to, or come in at all is not decided here; `request["user"]` says who asks.

Elements, attributes and event frames would be further routes of `_table`; there are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timezone, tzinfo
from typing import Any, Final, Literal
from urllib.parse import urlencode

import orjson
from aiohttp import web

from plant.pi import batch, reading, summary
from plant.pi import timed_values as written
from plant.pi import webid as web_ids
from plant.pi.calls import Answer, Call, CallError, Query
from plant.pi.events import Event
from plant.pi.points import PiPoint
from plant.pi.selecting import pruned
from plant.pi.system import PiSystem
from plant.pi.timed_values import OneValue, TimedValues, time_text

_Handler = Callable[[Call], Answer]

_SEARCH_MOST: Final = 1000
_PAGE: Final = 1000
_SORTS: Final = ("Ascending", "Descending")
_QUERY: Final = re.compile(r'(?:(\w+):)?(=|<>|<|>)?("[^"]*"|\S+)')


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """In what the reading parts of servers differ, or the documentation is silent."""

    version: str = "1.19.0.621"
    title: str = "PI Web API 2023 SP1"
    search: bool = True
    """points/search: since 2021 SP3."""
    multiple: bool = True
    """points/multiple."""
    unknown: int = 404
    """What those two are answered by a server without them; 400: it takes the word for a web id."""
    max_returned: int = 150_000
    """MaxReturnedItemsPerCall."""
    counted: Literal["returned", "asked"] = "returned"
    """What of a stream set must not be above that: the values found, or streams times maxCount."""
    zone: tzinfo = timezone.utc
    """The server's time zone."""
    bad_id_fails_all: bool = True
    """Whether a web id that is none fails a whole stream set; else its item says Errors in the place of values."""
    nan: written.NaN = "text"
    nesting: int = 100
    """Requests in a batch."""


class Api:
    """Answers calls for a system.

    value_error: asked for each point before its values are read; a text stands in their place.
    """

    def __init__(
        self,
        system: PiSystem,
        options: ApiOptions | None = None,
        *,
        value_error: Callable[[PiPoint], str | None] | None = None,
    ) -> None:
        self._system = system
        self.options = options or ApiOptions()
        self._value_error = value_error or (lambda _: None)
        self.started_ns = system.clock.now_ns()
        """Since when it runs, as its status says."""
        self.asked: set[int] = set()
        """Ids of points whose values were asked for."""
        self._handlers = {(method, route.casefold()): handler for method, route, handler in self._table()}
        self._patterns = sorted({route for _, route, _ in self._table()}, key=lambda route: route.count("{"))

    # ---- the edge to HTTP

    def routes(self, base: str = "/piwebapi") -> list[web.RouteDef]:
        """The routes; the last of them takes what no other does, in any case of its letters."""
        found = [
            web.route(method, f"{base}/{route}".rstrip("/") or "/", self._handler(base, route))
            for method, route, _ in self._table()
        ]
        return [*found, web.get(f"{base}/", self._handler(base, "")), web.route("*", "/{path:.*}", self._other(base))]

    def timed(self, point: PiPoint, event: Event) -> dict[str, Any]:
        """One event of a point as answers have it."""
        return written.timed(point, event)

    def web_id(self, request: web.Request, point: PiPoint) -> str:
        """A point's web id, of the kind that a request asks for. Raises HTTPException."""
        return self._system.web_id_of(point, self._query(request.query.items()).web_id_kind)

    def answer(self, request: web.Request, content: Any, status: int = 200) -> web.Response:
        """An answer with the fields that a request asks for."""
        return _response(Answer(content, status), self._query(request.query.items()))

    def _handler(self, base: str, route: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            ids = tuple(request.match_info.values())
            body = await request.read() if request.can_read_body else b""
            return self._served(request, base, route, ids, body)

        return handle

    def _other(self, base: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            path = request.path
            if not path.casefold().startswith(base + "/"):
                return _response(_errors(404, f"No HTTP resource was found that matches '{path}'."))
            route, ids = self._matched(path[len(base) + 1 :])
            body = await request.read() if request.can_read_body else b""
            return self._served(request, base, route, ids, body)

        return handle

    def _served(self, request: web.Request, base: str, route: str, ids: tuple[str, ...], body: bytes) -> web.Response:
        pairs = tuple(request.query.items())
        address = f"{request.scheme}://{request.host}{request.path}"
        query = self._query(pairs)
        call = Call(
            request.method,
            route,
            ids,
            query,
            f"{request.scheme}://{request.host}{base}",
            request.get("user", ""),
            body,
            address,
            pairs,
        )
        return _response(self.call(call), query)

    def _query(self, pairs: Iterable[tuple[str, str]]) -> Query:
        return Query(pairs, self._system.clock.now_ns(), self.options.zone)

    def _matched(self, path: str) -> tuple[str, tuple[str, ...]]:
        """The route of a path, and what stands for its {id}; a path that has none is its own route."""
        parts = path.strip("/").split("/")
        for route in self._patterns:
            names = route.split("/") if route else [""]
            if len(names) == len(parts) and all(
                name.startswith("{") or name == part.casefold() for name, part in zip(names, parts, strict=True)
            ):
                return route, tuple(part for name, part in zip(names, parts, strict=True) if name.startswith("{"))
        return path, ()

    # ---- calls

    def call(self, call: Call) -> Answer:
        """Answer a call; what is wrong with it is in the answer."""
        handler = self._handlers.get((_SAME.get(call.method, call.method), call.route.casefold()))
        try:
            if handler is None:
                known = any(route == call.route.casefold() for _, route in self._handlers)
                raise CallError(
                    405 if known else 404, f"No HTTP resource was found that matches '{call.address or call.route}'."
                )
            return handler(call)
        except CallError as error:
            return _errors(error.status, *error.texts)

    def nested(self, within: Call, method: str, path: str, pairs: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Answer a call of a batch, its content with the fields that it asks for. path: below the base."""
        route, ids = self._matched(path)
        if route == "batch":
            return _errors(400, "A batch cannot hold a batch.")
        query = self._query(pairs)
        address = f"{within.base}/{path}"
        answer = self.call(Call(method, route, ids, query, within.base, within.user, body, address, tuple(pairs)))
        if answer.status < 400:
            return Answer(pruned(answer.content, query.selection), answer.status, answer.headers)
        return answer

    def _table(self) -> list[tuple[str, str, _Handler]]:
        streams: dict[str, _Handler] = {
            "value": self._values(self._value),
            "end": self._values(self._end),
            "recorded": self._values(self._recorded),
            "recordedattime": self._values(self._recorded_at_time),
            "recordedattimes": self._values(self._recorded_at_times),
            "interpolated": self._values(self._interpolated),
            "interpolatedattimes": self._values(self._interpolated_at_times),
            "plot": self._values(self._plot),
            "summary": self._values(self._summary),
        }
        table: list[tuple[str, str, _Handler]] = [
            ("GET", "", self._landing),
            ("GET", "system", self._system_landing),
            ("GET", "system/status", self._status),
            ("GET", "system/versions", self._versions),
            ("GET", "system/userinfo", self._userinfo),
            ("GET", "system/configuration", self._configuration),
            ("GET", "system/configuration/{id}", self._configuration),
            ("GET", "dataservers", self._dataservers),
            ("GET", "dataservers/{id}", self._dataserver),
            ("GET", "dataservers/{id}/points", self._server_points),
            ("GET", "points", self._point_by_path),
            ("GET", "points/{id}", self._point_by_id),
            ("GET", "points/{id}/attributes", self._attributes),
            ("POST", "batch", lambda call: batch.answer(self, call, most=self.options.nesting)),
        ]
        table += [
            ("GET", "points/search", self._search if self.options.search else self._unknown),
            ("GET", "points/multiple", self._multiple if self.options.multiple else self._unknown),
        ]
        for name, handler in streams.items():
            table += [("GET", f"streams/{{id}}/{name}", handler), ("GET", f"streamsets/{name}", handler)]
        return table

    def _unknown(self, call: Call) -> Answer:
        raise CallError(self.options.unknown, f"No HTTP resource was found that matches '{call.address}'.")

    # ---- system

    def _landing(self, call: Call) -> Answer:
        links = {name: f"{call.base}/{path}" for name, path in _LANDING.items()}
        return Answer({"Links": {"Self": f"{call.base}/", **links}})

    def _system_landing(self, call: Call) -> Answer:
        links = {
            name.title(): f"{call.base}/system/{name}" for name in ("status", "userinfo", "versions", "configuration")
        }
        return Answer(
            {
                "ProductTitle": self.options.title,
                "ProductVersion": self.options.version,
                "Links": {"Self": f"{call.base}/system", **links},
            }
        )

    def _status(self, call: Call) -> Answer:
        up_ns = self._system.clock.now_ns() - self.started_ns
        return Answer({"UpTimeInMinutes": max(0, up_ns) / 60e9, "State": "Running", "CacheInstances": 1})

    def _versions(self, call: Call) -> Answer:
        return Answer({"OSIsoft.REST.Services": {"FullVersion": self.options.version}})

    def _userinfo(self, call: Call) -> Answer:
        return Answer(
            {
                "IdentityType": "WindowsIdentity",
                "Name": call.user or "NT AUTHORITY\\ANONYMOUS LOGON",
                "IsAuthenticated": bool(call.user),
                "SID": "",
                "ImpersonationLevel": "Impersonation",
            }
        )

    def _configuration(self, call: Call) -> Answer:
        known = {
            "MaxReturnedItemsPerCall": self.options.max_returned,
            "EnableCSRFDefense": True,
            "AFCacheTime": 120,
            "RateLimitMaxRequests": 1000,
            "RateLimitDuration": 1,
        }
        if not call.ids:
            return Answer(known)
        for name, value in known.items():
            if name.casefold() == call.ids[0].casefold():
                return Answer({"Name": name, "Value": value})
        raise CallError(404, f"The configuration item '{call.ids[0]}' was not found.")

    # ---- data servers and points

    def _dataservers(self, call: Call) -> Answer:
        server = self._server(call)
        wanted = call.query.text("name") or call.query.text("path").removeprefix("\\\\").rstrip("\\")
        if not ("name" in call.query or "path" in call.query):
            return Answer({"Links": {}, "Items": [server]})
        if wanted.casefold() not in (self._system.name.casefold(), str(self._system.guid)):
            raise CallError(404, f"The specified PI Data Server '{wanted}' was not found.")
        return Answer(server)

    def _dataserver(self, call: Call) -> Answer:
        self._need_server(call.ids[0])
        return Answer(self._server(call))

    def _need_server(self, text: str) -> None:
        try:
            web_id = web_ids.WebId.parse(text)
        except web_ids.WebIdError as error:
            raise CallError(400, f"The specified WebID '{text}' is not valid.") from error
        known = web_id.ids == (self._system.guid,) or web_id.path.casefold() == self._system.path.casefold()
        if web_id.marker != "DS" or not (known or web_id.kind in ("LocalIDOnly", "DefaultIDOnly")):
            raise CallError(404, f"The specified PI Data Server '{text}' was not found.")

    def _server(self, call: Call) -> dict[str, Any]:
        web_id = self._system.web_id.encode(call.query.web_id_kind)
        here = f"{call.base}/dataservers/{web_id}"
        return {
            "WebId": web_id,
            "Id": str(self._system.guid),
            "Name": self._system.name,
            "Path": f"\\\\PIServers[{self._system.name}]",
            "IsConnected": self._system.connected,
            "ServerVersion": self._system.version,
            "ServerTime": time_text(self._system.clock.now_ns()),
            "Links": {"Self": here, "Points": f"{here}/points"},
        }

    def _server_points(self, call: Call) -> Answer:
        self._need_server(call.ids[0])
        name, source = _wildcard(call.query.text("nameFilter", "*")), _wildcard(call.query.text("sourceFilter", "*"))
        found = [
            point for point in self._visible(call) if name.match(point.name) and source.match(point.definition.source)
        ]
        return self._page(call, found, self.options.max_returned)

    def _search(self, call: Call) -> Answer:
        call.query.whole("maxCount", _PAGE, least=1, most=_SEARCH_MOST)
        if "dataServerWebId" in call.query:
            self._need_server(call.query.text("dataServerWebId"))
        tests = _search_tests(call.query.needed("query"))
        return self._page(call, [point for point in self._visible(call) if all(t(point) for t in tests)], _SEARCH_MOST)

    def _page(self, call: Call, found: Sequence[PiPoint], most: int) -> Answer:
        self._need_archive()
        start, count = call.query.whole("startIndex", 0), call.query.whole("maxCount", _PAGE, least=1, most=most)
        links = {"First": 0, "Last": max(0, (len(found) - 1) // count * count)}
        if start > 0:
            links["Previous"] = max(0, start - count)
        if start + count < len(found):
            links["Next"] = start + count
        return Answer(
            {
                "Links": {name: self._link(call, index) for name, index in links.items()},
                "Items": [self._point(call, point) for point in found[start : start + count]],
            }
        )

    @staticmethod
    def _link(call: Call, start: int) -> str:
        pairs = [(name, value) for name, value in call.pairs if name.casefold() != "startindex"]
        query = urlencode([*pairs, ("startIndex", str(start))])
        return f"{call.address}?{query}"

    def _point_by_path(self, call: Call) -> Answer:
        return Answer(self._point(call, self._by_path(call, call.query.needed("path"))))

    def _point_by_id(self, call: Call) -> Answer:
        return Answer(self._point(call, self._by_web_id(call, call.ids[0])))

    def _multiple(self, call: Call) -> Answer:
        mode = call.query.word("includeMode", ("All", "None"), "All")
        wanted = [("WebId", text) for text in call.query.all("webId")]
        wanted += [("Path", text) for text in call.query.all("path")]
        if not wanted:
            raise CallError(400, "At least one of the parameters 'webId' and 'path' is required.")
        items, failed = [], False
        for kind, text in wanted:
            item: dict[str, Any] = {"Identifier": text, "IdentifierType": kind}
            try:
                point = (self._by_web_id if kind == "WebId" else self._by_path)(call, text)
                item["Object"] = self._point(call, point)
            except CallError as error:
                failed = True
                item["Exception"] = {"Errors": list(error.texts)}
                if mode == "None":
                    continue
            items.append(item)
        return Answer({"Links": {}, "Items": items}, 207 if failed else 200)

    def _attributes(self, call: Call) -> Answer:
        point = self._by_web_id(call, call.ids[0])
        wanted = _wildcard(call.query.text("nameFilter", "*"))
        names = {text.casefold() for text in call.query.all("name")}
        here = f"{call.base}/points/{call.ids[0]}/attributes"
        items = [
            {
                "Name": name,
                "Value": value,
                "Links": {"Self": f"{here}/{name}", "Point": f"{call.base}/points/{call.ids[0]}"},
            }
            for name, value in _attributes_of(point)
            if wanted.match(name) and (not names or name in names)
        ]
        return Answer({"Links": {}, "Items": items})

    def _visible(self, call: Call) -> list[PiPoint]:
        return [point for point in self._system if _may(point.definition.visible_to, call.user)]

    def _need_archive(self) -> None:
        if not self._system.connected:
            raise CallError(502, f"Cannot connect to the PI Data Archive '{self._system.name}'.")

    def _by_path(self, call: Call, path: str) -> PiPoint:
        self._need_archive()
        point = self._system.by_path(path)
        if point is None or not _may(point.definition.visible_to, call.user):
            raise CallError(404, f"PI Point not found '{path}'.")
        return point

    def _by_web_id(self, call: Call, text: str) -> PiPoint:
        self._need_archive()
        return self._found(call, text)

    def _found(self, call: Call, text: str) -> PiPoint:
        point = self._system.by_web_id(text)
        if point is not None and _may(point.definition.visible_to, call.user):
            return point
        try:
            web_ids.WebId.parse(text)
        except web_ids.WebIdError as error:
            raise CallError(400, f"The specified WebID '{text}' is not valid.") from error
        raise CallError(404, f"PI Point not found: the specified WebID '{text}' names none.")

    def _point(self, call: Call, point: PiPoint) -> dict[str, Any]:
        web_id = self._system.web_id_of(point, call.query.web_id_kind)
        server = self._system.web_id.encode(call.query.web_id_kind)
        here, stream = f"{call.base}/points/{web_id}", f"{call.base}/streams/{web_id}"
        definition = point.definition
        return {
            "WebId": web_id,
            "Id": point.id,
            "Name": point.name,
            "Path": point.path,
            "Descriptor": definition.descriptor,
            "PointClass": definition.point_class,
            "PointType": definition.type,
            "DigitalSetName": "" if definition.digital_set is None else definition.digital_set.name,
            "Span": definition.span,
            "Zero": definition.zero,
            "EngineeringUnits": definition.unit,
            "Step": definition.step,
            "Future": definition.future,
            "DisplayDigits": definition.display_digits,
            "Links": {
                "Self": here,
                "DataServer": f"{call.base}/dataservers/{server}",
                "Attributes": f"{here}/attributes",
                "InterpolatedData": f"{stream}/interpolated",
                "RecordedData": f"{stream}/recorded",
                "PlotData": f"{stream}/plot",
                "SummaryData": f"{stream}/summary",
                "Value": f"{stream}/value",
                "EndValue": f"{stream}/end",
            },
        }

    # ---- values

    def _values(self, read: Callable[[Query, PiPoint], Any]) -> _Handler:
        """The handler of a stream and of a stream set: `read` gives what is under Value or Items for one point."""

        def handle(call: Call) -> Answer:
            if call.ids:
                return self._one_stream(call, read)
            return self._stream_set(call, read)

        return handle

    def _one_stream(self, call: Call, read: Callable[[Query, PiPoint], Any]) -> Answer:
        point = self._found(call, call.ids[0])
        problem = self._problem(call, point)
        if problem is not None:
            raise CallError(problem[0], problem[1])
        content = read(call.query, point)
        if isinstance(content, OneValue):
            return Answer(content)
        self._need_room(len(content))
        return Answer({"Links": {}, "Items": content, "UnitsAbbreviation": point.units})

    def _stream_set(self, call: Call, read: Callable[[Query, PiPoint], Any]) -> Answer:
        asked = call.query.all("webId")
        if not asked:
            raise CallError(400, "The parameter 'webId' is required.")
        if self.options.counted == "asked" and "maxCount" in call.query:
            self._need_room(len(asked) * call.query.whole("maxCount", _PAGE, least=1))
        kind, items, count = call.query.web_id_kind, [], 0
        for text in asked:
            try:
                point = self._found(call, text)
            except CallError as error:
                if self.options.bad_id_fails_all:
                    raise
                items.append(self._failed(call, read, None, text, error.texts))
                continue
            problem = self._problem(call, point)
            if problem is not None:
                items.append(self._failed(call, read, point, text, problem[1:]))
                continue
            content = read(call.query, point)
            web_id = self._system.web_id_of(point, kind)
            item: dict[str, Any] = {"WebId": web_id, "Name": point.name, "Path": point.path}
            if isinstance(content, OneValue):
                item["Value"] = content
            else:
                count += len(content)
                item["Items"] = content
                item["UnitsAbbreviation"] = point.units
            item["Links"] = {"Source": f"{call.base}/points/{web_id}"}
            items.append(item)
        self._need_room(count)
        if "sortField" in call.query:
            call.query.word("sortField", ("Name",), "Name")
            descending = call.query.word("sortOrder", _SORTS, "Ascending") == "Descending"
            items.sort(key=lambda item: str(item.get("Name", "")).casefold(), reverse=descending)
        return Answer({"Links": {}, "Items": items})

    def _problem(self, call: Call, point: PiPoint) -> tuple[int, str] | None:
        """Why the values of a point are not read: a status for a stream by itself, and a text."""
        self.asked.add(point.id)
        if not _may(point.definition.readers, call.user):
            return 403, f"[-10401] No Read Access - Secure Object: {point.name}"
        text = self._value_error(point)
        if text is not None:
            return 502, text
        if not self._system.connected:
            return 502, f"Cannot connect to the PI Data Archive '{self._system.name}'."
        return None

    def _failed(
        self,
        call: Call,
        read: Callable[[Query, PiPoint], Any],
        point: PiPoint | None,
        text: str,
        texts: Sequence[str],
    ) -> dict[str, Any]:
        """The item of a stream whose values could not be read."""
        item: dict[str, Any] = {"WebId": text}
        if point is not None:
            item = {
                "WebId": self._system.web_id_of(point, call.query.web_id_kind),
                "Name": point.name,
                "Path": point.path,
            }
        value = written.error_value(point, call.query.now_ns, texts)
        if read in (self._value, self._end, self._recorded_at_time):
            item["Value"] = value
        else:
            item["Items"] = [value]
            item["UnitsAbbreviation"] = "" if point is None else point.units
        item["Links"] = {}
        return item

    def _need_room(self, count: int) -> None:
        if count > self.options.max_returned:
            raise CallError(
                400, f"Parameter (maxCount) is greater than the maximum allowed ({self.options.max_returned})."
            )

    def _value(self, query: Query, point: PiPoint) -> OneValue:
        _no_other_units(query)
        if query.text("time"):
            return self._one(point, reading.interpolated_at(point, query.time("time"), query.now_ns))
        return self._one(point, reading.value(point, query.now_ns))

    def _end(self, query: Query, point: PiPoint) -> OneValue:
        _no_other_units(query)
        return self._one(point, reading.end(point, query.now_ns))

    def _recorded(self, query: Query, point: PiPoint) -> TimedValues:
        _no_other_units(query)
        start, end = query.range()
        values = reading.recorded(
            point,
            start,
            end,
            now_ns=query.now_ns,
            boundary=query.word("boundaryType", reading.BOUNDARIES, "Inside"),
            most=query.whole("maxCount", _PAGE, least=1, most=self.options.max_returned),
            test=query.filter(),
            keep_filtered=query.boolean("includeFilteredValues"),
        )
        return TimedValues(point, values.runs, self.options.nan)

    def _recorded_at_time(self, query: Query, point: PiPoint) -> OneValue:
        query.needed("time")
        found = self._at(query, point, query.time("time"))
        return self._one(point, found if found is not None else reading.no_data(query.time("time")))

    def _recorded_at_times(self, query: Query, point: PiPoint) -> TimedValues:
        events = [
            self._at(query, point, time) or reading.no_data(time)
            for time in _ordered(query, query.times(_times(query)))
        ]
        return TimedValues(point, [events], self.options.nan)

    def _at(self, query: Query, point: PiPoint, time_ns: int) -> Event | None:
        mode = query.word("retrievalMode", reading.RETRIEVALS, "Auto")
        found = reading.recorded_at(point, time_ns, mode)
        if found is None and mode == "Exact":
            raise CallError(404, f"No value was recorded at {time_text(time_ns)}.")
        return found

    def _interpolated(self, query: Query, point: PiPoint) -> TimedValues:
        start, end = query.range()
        interval = query.span("interval", "1h")
        self._need_room(abs(end - start) // interval + 1)
        sync = query.time("syncTime") if query.text("syncTime") else None
        outside = query.word("syncTimeBoundaryType", ("Inside", "Outside"), "Inside") == "Outside"
        times = reading.steps(start, end, interval, sync_ns=sync, outside=outside)
        return self._interpolated_values(query, point, times)

    def _interpolated_at_times(self, query: Query, point: PiPoint) -> TimedValues:
        return self._interpolated_values(query, point, _ordered(query, query.times(_times(query))))

    def _interpolated_values(self, query: Query, point: PiPoint, times: Sequence[int]) -> TimedValues:
        keep = query.boolean("includeFilteredValues")
        values = reading.interpolated(point, times, query.now_ns, test=query.filter(), keep_filtered=keep)
        return TimedValues(point, values.runs, self.options.nan)

    def _plot(self, query: Query, point: PiPoint) -> TimedValues:
        start, end = query.range()
        intervals = query.whole("intervals", 24, least=1, most=self.options.max_returned)
        return TimedValues(point, reading.plot(point, start, end, intervals, query.now_ns).runs, self.options.nan)

    def _summary(self, query: Query, point: PiPoint) -> list[dict[str, Any]]:
        start, end = query.range()
        duration = query.span("summaryDuration", "1s") if query.text("summaryDuration") else None
        sample = None
        if query.word("sampleType", summary.SAMPLES, "ExpressionRecordedValues") == "Interval":
            sample = query.span("sampleInterval", "1h")
        for interval in (duration, sample):
            self._need_room(abs(end - start) // interval + 1 if interval else 0)
        found = summary.summaries(
            point,
            start,
            end,
            query.words("summaryType", summary.TYPES, "Total"),
            now_ns=query.now_ns,
            basis=query.word("calculationBasis", summary.BASES, "TimeWeighted"),
            stamp=query.word("timeType", summary.STAMPS, "Auto"),
            duration_ns=duration,
            sample_ns=sample,
            test=query.filter(),
        )
        return [{"Type": kind, "Value": self._one(point, event)} for kind, event in found]

    def _one(self, point: PiPoint, event: Event) -> OneValue:
        return OneValue(point, event, self.options.nan)


_SAME: Final = {"HEAD": "GET"}
_LANDING: Final = {"DataServers": "dataservers", "System": "system", "Batch": "batch"}


def _may(users: frozenset[str] | None, user: str) -> bool:
    return users is None or user in users


def _times(query: Query) -> list[str]:
    times = query.all("time")
    if not times:
        raise CallError(400, "The parameter 'time' is required.")
    return times


def _ordered(query: Query, times: list[int]) -> list[int]:
    return sorted(times, reverse=query.word("sortOrder", _SORTS, "Ascending") == "Descending")


def _no_other_units(query: Query) -> None:
    if query.text("desiredUnits"):
        raise CallError(400, "The parameter 'desiredUnits' is not supported for PI Points.")


def _wildcard(text: str) -> re.Pattern[str]:
    """`*` and `?` as PI knows them, in any case."""
    pattern = "".join(".*" if letter == "*" else "." if letter == "?" else re.escape(letter) for letter in text)
    return re.compile(pattern + r"\Z", re.IGNORECASE)


def _search_tests(text: str) -> list[Callable[[PiPoint], bool]]:
    """The conditions of a search, such as `Tag:=SIN* PointSource:=R PointType:="Float32"`; a word alone is a name."""
    tests, at = [], 0
    while text[at:].strip():
        match = _QUERY.match(text, at + len(text[at:]) - len(text[at:].lstrip()))
        field = None if match is None else _SEARCHED.get((match.group(1) or "name").casefold())
        if match is None or field is None:
            raise CallError(400, f"The query '{text}' is not valid at '{text[at:].strip()}'.")
        tests.append(_search_test(field, match.group(2) or "=", match.group(3).strip('"')))
        at = match.end()
    return tests


def _search_test(field: Callable[[PiPoint], str], sign: str, wanted: str) -> Callable[[PiPoint], bool]:
    pattern = _wildcard(wanted)
    if sign == "<>":
        return lambda point: not pattern.match(field(point))
    if sign in ("<", ">"):
        return lambda point: (field(point).casefold() > wanted.casefold()) == (sign == ">")
    return lambda point: pattern.match(field(point)) is not None


_SEARCHED: Final[dict[str, Callable[[PiPoint], str]]] = {
    "tag": lambda point: point.name,
    "name": lambda point: point.name,
    "pointsource": lambda point: point.definition.source,
    "pointtype": lambda point: point.definition.type,
    "datatype": lambda point: point.definition.type,
    "pointclass": lambda point: point.definition.point_class,
    "descriptor": lambda point: point.definition.descriptor,
    "engunits": lambda point: point.definition.unit,
    "step": lambda point: str(int(point.definition.step)),
    "future": lambda point: str(int(point.definition.future)),
    "id": lambda point: str(point.id),
    "pointid": lambda point: str(point.id),
}


def _attributes_of(point: PiPoint) -> list[tuple[str, Any]]:
    definition = point.definition
    return sorted(
        {
            "archiving": 1,
            "compdev": definition.compdev,
            "compmax": definition.compmax,
            "compmin": definition.compmin,
            "compressing": int(definition.compressing),
            "descriptor": definition.descriptor,
            "digitalset": "" if definition.digital_set is None else definition.digital_set.name,
            "displaydigits": definition.display_digits,
            "engunits": definition.unit,
            "excdev": definition.excdev,
            "excmax": definition.excmax,
            "excmin": definition.excmin,
            "future": int(definition.future),
            "pointid": point.id,
            "pointsource": definition.source,
            "pointtype": definition.type,
            "ptclassname": definition.point_class,
            "scan": 1,
            "span": definition.span,
            "step": int(definition.step),
            "tag": point.name,
            "zero": definition.zero,
        }.items()
    )


def _errors(status: int, *texts: str) -> Answer:
    return Answer({"Errors": list(texts)}, status)


def _response(answer: Answer, query: Query | None = None) -> web.Response:
    content = answer.content
    if query is not None and answer.status < 400:
        content = pruned(content, query.selection)
    return web.Response(
        body=orjson.dumps(content), status=answer.status, headers=answer.headers, content_type="application/json"
    )
