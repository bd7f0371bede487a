"""Calls about the server itself, the data server and its points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from plant.pi import searching
from plant.pi.api_options import ApiOptions
from plant.pi.calls import Answer, Call, CallError, Handler
from plant.pi.lookup import Lookup
from plant.pi.points import PiPoint
from plant.pi.system import PiSystem
from plant.pi.timed_values import time_text

_SEARCH_MOST: Final = 1000
_PAGE: Final = 1000
_LANDING: Final = {"DataServers": "dataservers", "System": "system", "Batch": "batch"}


class PointCalls:
    """Answers them for a system."""

    def __init__(self, system: PiSystem, options: ApiOptions, lookup: Lookup) -> None:
        self._system = system
        self._options = options
        self._lookup = lookup
        self.started_ns = system.clock.now_ns()
        """Since when the server runs, as its status says."""

    def table(self) -> list[tuple[str, str, Handler]]:
        """Verbs, routes and who answers them."""
        return [
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
            ("GET", "points/search", self._search if self._options.search else self._unknown),
            ("GET", "points/multiple", self._multiple if self._options.multiple else self._unknown),
            ("GET", "points/{id}", self._point_by_id),
            ("GET", "points/{id}/attributes", self._attributes),
        ]

    def _unknown(self, call: Call) -> Answer:
        raise CallError(self._options.unknown, f"No HTTP resource was found that matches '{call.address}'.")

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
                "ProductTitle": self._options.title,
                "ProductVersion": self._options.version,
                "Links": {"Self": f"{call.base}/system", **links},
            }
        )

    def _status(self, call: Call) -> Answer:
        up_ns = self._system.clock.now_ns() - self.started_ns
        return Answer({"UpTimeInMinutes": max(0, up_ns) / 60e9, "State": "Running", "CacheInstances": 1})

    def _versions(self, call: Call) -> Answer:
        return Answer({"OSIsoft.REST.Services": {"FullVersion": self._options.version}})

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
            "MaxReturnedItemsPerCall": self._options.max_returned,
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
        self._lookup.need_server(call.ids[0])
        return Answer(self._server(call))

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
        self._lookup.need_server(call.ids[0])
        name, source = (
            searching.wildcard(call.query.text("nameFilter", "*")),
            searching.wildcard(call.query.text("sourceFilter", "*")),
        )
        found = [
            point
            for point in self._lookup.visible(call)
            if name.match(point.name) and source.match(point.definition.source)
        ]
        return self._page(call, found, self._options.max_returned)

    def _search(self, call: Call) -> Answer:
        call.query.whole("maxCount", _PAGE, least=1, most=_SEARCH_MOST)
        if "dataServerWebId" in call.query:
            self._lookup.need_server(call.query.text("dataServerWebId"))
        tests = searching.parse(call.query.needed("query"))
        return self._page(
            call, [point for point in self._lookup.visible(call) if all(t(point) for t in tests)], _SEARCH_MOST
        )

    def _page(self, call: Call, found: Sequence[PiPoint], most: int) -> Answer:
        self._lookup.need_archive()
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
        return Answer(self._point(call, self._lookup.by_path(call, call.query.needed("path"))))

    def _point_by_id(self, call: Call) -> Answer:
        return Answer(self._point(call, self._lookup.by_web_id(call, call.ids[0])))

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
                point = (self._lookup.by_web_id if kind == "WebId" else self._lookup.by_path)(call, text)
                item["Object"] = self._point(call, point)
            except CallError as error:
                failed = True
                item["Exception"] = {"Errors": list(error.texts)}
                if mode == "None":
                    continue
            items.append(item)
        return Answer({"Links": {}, "Items": items}, 207 if failed else 200)

    def _attributes(self, call: Call) -> Answer:
        point = self._lookup.by_web_id(call, call.ids[0])
        wanted = searching.wildcard(call.query.text("nameFilter", "*"))
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
