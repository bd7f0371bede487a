"""The reading part of the API over HTTP, as clients meet it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.pi.authentication import USER
from plant.pi.calls import Call, Query
from plant.pi.http_api import Api, ApiOptions
from plant.pi.selecting import ALL, pruned
from plant.pi.system import DigitalSet, Event, PiPoint, PiSystem, PointDefinition

_S = 1_000_000_000
_NOW = 1_700_000_000 * _S  # 2023-11-14T22:13:20Z


class _Clock:
    def now_ns(self) -> int:
        return _NOW


class _Pi:
    """A system, and what its API answers."""

    def __init__(self, system: PiSystem, client: Any) -> None:
        self.system = system
        self.client = client
        self.user = ""
        self.broken: dict[int, str] = {}

    async def get(self, path: str, *query: tuple[str, str], status: int = 200, method: str = "GET") -> Any:
        async with self.client.request(
            method, f"/piwebapi/{path}", params=list(query), headers={"x-user": self.user}
        ) as response:
            content = await response.json()
            assert response.status == status, content
            return content

    def id(self, point: PiPoint) -> str:
        return self.system.web_id_of(point, "IDOnly")

    def point(self, name: str, values: int = 0, **attributes: Any) -> PiPoint:
        """A point, and one value for each of the last seconds: the second's number, the last one now."""
        point = self.system.add(PointDefinition(name, **attributes))
        for number in range(values):
            self.system.write(point, Event(_NOW - (values - 1 - number) * _S, number))
        return point


@asynccontextmanager
async def _served(**options: Any) -> AsyncIterator[_Pi]:
    @web.middleware
    async def named(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        request[USER] = request.headers.get("x-user", "")
        return await handler(request)

    system = PiSystem(_Clock())
    application = web.Application(middlewares=[named])
    api = Api(system, ApiOptions(**options), value_error=lambda point: pi.broken.get(point.id))
    application.add_routes(api.routes())
    async with TestClient(TestServer(application)) as client:
        pi = _Pi(system, client)
        yield pi


def _values(item: dict[str, Any]) -> list[Any]:
    return [value["Value"] for value in item["Items"]]


# ---- system, servers, points


async def test_the_server_says_what_it_is_and_where_its_time_stands() -> None:
    async with _served(version="1.11.0.640") as pi:
        assert (await pi.get("system"))["ProductVersion"] == "1.11.0.640"
        assert (await pi.get("system/status"))["State"] == "Running"
        assert (await pi.get("system/userinfo"))["IsAuthenticated"] is False
        assert (await pi.get("system/configuration/maxreturneditemspercall"))["Value"] == 150_000
        assert "none" in (await pi.get("system/configuration/none", status=404))["Errors"][0]
        assert (await pi.get(""))["Links"]["DataServers"].endswith("/piwebapi/dataservers")
        (server,) = (await pi.get("dataservers"))["Items"]
        assert (server["Name"], server["IsConnected"], server["ServerTime"]) == (
            "PISERVER",
            True,
            "2023-11-14T22:13:20Z",
        )
        for query in (("name", "piserver"), ("path", r"\\PISERVER")):
            assert (await pi.get("dataservers", query))["WebId"] == server["WebId"]
        assert (await pi.get(f"dataservers/{server['WebId']}"))["Id"] == server["Id"]
        await pi.get("dataservers", ("name", "other"), status=404)


async def test_a_point_is_found_by_its_path_and_its_web_id_in_any_case() -> None:
    async with _served() as pi:
        point = pi.point("Sin", unit="degC", descriptor="a wave", type="Float32", span=50.0)
        by_path = await pi.get("Points", ("PATH", r"\\piserver\SIN"), ("webidtype", "idonly"))
        assert by_path == await pi.get(f"points/{pi.id(point)}", ("webIdType", "IDOnly"))
        assert by_path["WebId"] == pi.id(point)
        assert {name: by_path[name] for name in ("Id", "Name", "Path", "PointType", "EngineeringUnits", "Span")} == {
            "Id": point.id,
            "Name": "Sin",
            "Path": r"\\PISERVER\Sin",
            "PointType": "Float32",
            "EngineeringUnits": "degC",
            "Span": 50.0,
        }
        attributes = await pi.get(f"points/{pi.id(point)}/attributes", ("nameFilter", "*dev"))
        assert [item["Name"] for item in attributes["Items"]] == ["compdev", "excdev"]
        assert "not found" in (await pi.get("points", ("path", r"\\piserver\none"), status=404))["Errors"][0]
        assert "not valid" in (await pi.get("points/nonsense", status=400))["Errors"][0]
        assert "required" in (await pi.get("points", status=400))["Errors"][0]


async def test_several_points_come_with_207_and_an_exception_for_each_that_failed() -> None:
    async with _served() as pi:
        point = pi.point("A")
        all_well = await pi.get("points/multiple", ("webId", pi.id(point)), ("path", r"\\PISERVER\a"))
        assert [item["Object"]["Name"] for item in all_well["Items"]] == ["A", "A"]
        some = await pi.get("points/multiple", ("path", r"\\PISERVER\a"), ("path", r"\\PISERVER\b"), status=207)
        assert [sorted(item) for item in some["Items"]] == [
            ["Identifier", "IdentifierType", "Object"],
            ["Exception", "Identifier", "IdentifierType"],
        ]


async def test_lists_of_points_are_turned_page_by_page() -> None:
    async with _served() as pi:
        for number in range(25):
            pi.point(f"Tag{number:02}", source="R" if number % 2 else "S")
        server = (await pi.get("dataservers"))["Items"][0]["WebId"]
        for path, query in (
            (f"dataservers/{server}/points", ("nameFilter", "tag*")),
            ("points/search", ("query", "Tag:=Tag*")),
        ):
            names, start, pages = [], 0, 0
            while True:
                page = await pi.get(path, query, ("maxCount", "10"), ("startIndex", str(start)))
                names += [item["Name"] for item in page["Items"]]
                pages += 1
                if "Next" not in page["Links"]:
                    break
                assert f"startIndex={start + 10}" in page["Links"]["Next"]
                start += 10
            assert names == [f"Tag{number:02}" for number in range(25)]
            assert pages == 3
            assert "Previous" in page["Links"]
        odd = await pi.get(
            f"dataservers/{server}/points", ("sourceFilter", "r"), ("selectedFields", "Items.Name;Links.Next")
        )
        assert len(odd["Items"]) == 12
        assert odd["Items"][0] == {"Name": "Tag01"}
        last = await pi.get("points/search", ("query", "*"), ("maxCount", "5"), ("startIndex", "20"))
        assert (len(last["Items"]), "Next" in last["Links"]) == (5, False)
        await pi.get("points/search", ("query", "*"), ("maxCount", "1001"), status=400)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("Tag:=a*", ["A1", "A2"]),
        ("a?", ["A1", "A2"]),
        ("PointSource:=R", ["A2", "B1"]),
        ("tag:=A* pointsource:=R", ["A2"]),
        ("Tag:<>A*", ["B1"]),
        ('Descriptor:="two words"', ["B1"]),
        ("PointType:=Float64 name:=*1", ["A1", "B1"]),
    ],
)
async def test_searches(query: str, names: list[str]) -> None:
    async with _served() as pi:
        pi.point("A1")
        pi.point("A2", source="R")
        pi.point("B1", source="R", descriptor="two words")
        found = await pi.get("points/search", ("query", query))
        assert [item["Name"] for item in found["Items"]] == names


async def test_a_search_for_what_is_not_known_is_refused() -> None:
    async with _served() as pi:
        assert "not valid" in (await pi.get("points/search", ("query", "Colour:=red"), status=400))["Errors"][0]


async def test_an_old_server_knows_neither_search_nor_multiple() -> None:
    async with _served(search=False, multiple=False) as pi:
        await pi.get("points/search", ("query", "*"), status=404)
        await pi.get("points/multiple", ("path", "x"), status=404)


# ---- streams and stream sets


async def test_recorded_values_come_with_their_flags_states_and_units() -> None:
    async with _served() as pi:
        point = pi.point("A", unit="degC")
        pi.system.write(point, Event(_NOW - 1_500_000_100, 1.5, questionable=True))
        pi.system.write(point, Event.of_system(_NOW, "I/O Timeout"))
        answer = await pi.get(f"streams/{pi.id(point)}/recorded")
        assert answer["UnitsAbbreviation"] == "degC"
        assert answer["Items"] == [
            {
                "Timestamp": "2023-11-14T22:13:18.4999999Z",
                "UnitsAbbreviation": "degC",
                "Good": True,
                "Questionable": True,
                "Substituted": False,
                "Annotated": False,
                "Value": 1.5,
            },
            {
                "Timestamp": "2023-11-14T22:13:20Z",
                "UnitsAbbreviation": "degC",
                "Good": False,
                "Questionable": False,
                "Substituted": False,
                "Annotated": False,
                "Value": {"Name": "I/O Timeout", "Value": 246, "IsSystem": True},
            },
        ]


async def test_of_more_than_max_count_the_first_come_without_a_word() -> None:
    async with _served() as pi:
        one, other = pi.point("A", 1200), pi.point("B", 3)
        streams = (("webId", pi.id(one)), ("webId", pi.id(other)))
        answer = await pi.get("streamsets/recorded", *streams)
        assert [len(item["Items"]) for item in answer["Items"]] == [1000, 3]
        answer = await pi.get("streamsets/recorded", *streams, ("maxCount", "2"))
        assert [_values(item) for item in answer["Items"]] == [[0, 1], [0, 1]]
        assert set(answer) == {"Items", "Links"}
        backwards = await pi.get(
            "streamsets/recorded", *streams, ("maxCount", "2"), ("startTime", "*"), ("endTime", "*-1d")
        )
        assert [_values(item) for item in backwards["Items"]] == [[1199, 1198], [2, 1]]


async def test_what_is_above_the_servers_maximum_is_refused_with_its_text() -> None:
    async with _served(max_returned=100) as pi:
        points = [pi.point(name, 60) for name in "AB"]
        streams = [("webId", pi.id(point)) for point in points]
        text = "Parameter (maxCount) is greater than the maximum allowed (100)."
        assert await pi.get("streamsets/recorded", *streams[:1], ("maxCount", "101"), status=400) == {"Errors": [text]}
        assert await pi.get("streamsets/recorded", *streams, ("maxCount", "100"), status=400) == {"Errors": [text]}
        assert await pi.get("streamsets/recorded", *streams, ("maxCount", "50"))
        await pi.get(f"streams/{pi.id(points[0])}/interpolated", ("interval", "1s"), ("startTime", "*-1h"), status=400)


async def test_a_server_may_count_what_is_asked_for() -> None:
    async with _served(max_returned=100, counted="asked") as pi:
        streams = [("webId", pi.id(pi.point(name))) for name in "AB"]
        await pi.get("streamsets/recorded", *streams, ("maxCount", "51"), status=400)
        await pi.get("streamsets/recorded", *streams, ("maxCount", "50"))


async def test_value_and_end_of_a_stream_set_have_one_value_each() -> None:
    async with _served() as pi:
        present, future = pi.point("A", 3), pi.point("F", future=True)
        pi.system.write(future, Event(_NOW - _S, 1.0))
        pi.system.write(future, Event(_NOW + 9999 * _S, 2.0))
        streams = (("webId", pi.id(present)), ("webId", pi.id(future)))
        for path, expected in (("value", [2, 1]), ("end", [2, 2])):
            answer = await pi.get(f"streamsets/{path}", *streams)
            assert [item["Value"]["Value"] for item in answer["Items"]] == expected
        assert (await pi.get(f"streams/{pi.id(present)}/value", ("time", "*-1.5s")))["Value"] == 0.5


async def test_each_way_to_read_is_there_for_streams_and_stream_sets() -> None:
    async with _served() as pi:
        point = pi.point("A", 11, unit="degC")
        stream, streams = f"streams/{pi.id(point)}", ("webId", pi.id(point))

        async def both(path: str, *query: tuple[str, str]) -> Any:
            one = await pi.get(f"{stream}/{path}", *query)
            (item,) = (await pi.get(f"streamsets/{path}", streams, *query))["Items"]
            assert item.get("Items", item.get("Value")) == one.get("Items", one)
            return one

        window = (("startTime", "*-10s"), ("endTime", "*"))
        assert _values(await both("interpolated", *window, ("interval", "5s"))) == [0, 5, 10]
        assert _values(await both("interpolatedattimes", ("time", "*"), ("time", "*-9.5s"))) == [0.5, 10]
        assert _values(await both("plot", *window, ("intervals", "1"))) == [0, 10]
        assert (await both("recordedattime", ("time", "*-0.5s"), ("retrievalMode", "After")))["Value"] == 10
        assert _values(await both("recordedattimes", ("time", "*"), ("time", "*-1s"), ("sortOrder", "Descending"))) == [
            10,
            9,
        ]
        summary = await both("summary", *window, ("summaryType", "Average"), ("summaryType", "Count"))
        told = [(one["Type"], one["Value"]["Value"], one["Value"]["UnitsAbbreviation"]) for one in summary["Items"]]
        assert told == [("Average", 5.0, "degC"), ("Count", 10.0, "")]
        assert _values(await both("recorded", *window, ("filterExpression", "'.' > 8"))) == [9, 10]
        assert _values(await both("recorded", ("startTime", "*-1.5s"), ("boundaryType", "outside"))) == [8, 9, 10]
        exactly = (("time", "*-0.5s"), ("retrievalMode", "Exact"))
        await pi.get(f"{stream}/recordedattime", *exactly, status=404)
        (item,) = (await pi.get("streamsets/recordedattime", streams, *exactly))["Items"]
        assert "No value" in item["Value"]["Errors"][0]["Message"][0]


async def test_an_empty_range_is_no_error() -> None:
    async with _served() as pi:
        answer = await pi.get(f"streams/{pi.id(pi.point('A'))}/recorded")
        assert answer["Items"] == []


@pytest.mark.parametrize(
    "query",
    [
        ("startTime", "nonsense"),
        ("boundaryType", "Sideways"),
        ("maxCount", "many"),
        ("maxCount", "0"),
        ("filterExpression", "'.' ~ 5"),
        ("timeZone", "Mars"),
        ("desiredUnits", "K"),
        ("includeFilteredValues", "perhaps"),
        ("webIdType", "Short"),
    ],
)
async def test_a_parameter_that_is_wrong_is_refused(query: tuple[str, str]) -> None:
    async with _served() as pi:
        point = pi.point("A", 1)
        answer = await pi.get("streamsets/recorded", ("webId", pi.id(point)), query, status=400)
        assert len(answer["Errors"]) == 1


async def test_times_without_a_zone_are_the_servers() -> None:
    async with _served(zone=ZoneInfo("Europe/Berlin")) as pi:
        stream = f"streams/{pi.id(pi.point('A', 3))}/recorded"
        here = (("startTime", "2023-11-14 23:13:19"), ("endTime", "2023-11-14 23:13:20"))
        assert _values(await pi.get(stream, *here)) == [1, 2]
        assert _values(await pi.get(stream, *here, ("timeZone", "UTC"))) == []


@pytest.mark.parametrize("bad", ["nonsense", "I1DPtNdEETiNm02M4FYFgorKtQ_____w"])
async def test_one_bad_web_id_fails_the_set_or_itself(bad: str) -> None:
    async with _served() as pi:
        good = pi.id(pi.point("A", 2))
        await pi.get("streamsets/recorded", ("webId", good), ("webId", bad), status=400 if bad == "nonsense" else 404)
        await pi.get("streamsets/recorded", status=400)
    async with _served(bad_id_fails_all=False) as pi:
        pi.point("A", 2)
        for path, one in (("recorded", "Items"), ("value", "Value")):
            answer = await pi.get(f"streamsets/{path}", ("webId", good), ("webId", bad))
            assert len(answer["Items"]) == 2
            failed = answer["Items"][1][one]
            failed = failed[0] if isinstance(failed, list) else failed
            assert failed["Value"] is None
            assert failed["Good"] is True
            assert failed["Errors"][0]["FieldName"] == "Value"


async def test_a_point_whose_values_cannot_be_read_says_so_and_the_others_are_read() -> None:
    async with _served() as pi:
        well, broken = pi.point("A", 2), pi.point("B", 2)
        pi.broken[broken.id] = "PI Point not found."
        answer = await pi.get("streamsets/recorded", ("webId", pi.id(well)), ("webId", pi.id(broken)))
        assert _values(answer["Items"][0]) == [0, 1]
        assert answer["Items"][1]["Items"][0]["Errors"] == [{"FieldName": "Value", "Message": ["PI Point not found."]}]
        await pi.get(f"streams/{pi.id(broken)}/value", status=502)


async def test_who_may_not_read_a_point_is_told_and_who_may_not_see_it_does_not_find_it() -> None:
    async with _served() as pi:
        closed = pi.point("A", 2, readers=frozenset({"ann"}))
        hidden = pi.point("B", 2, visible_to=frozenset({"ann"}))
        for pi.user, status in (("ann", 200), ("bob", 403)):
            await pi.get(f"streams/{pi.id(closed)}/recorded", status=status)
            await pi.get(f"points/{pi.id(closed)}")
            await pi.get(f"points/{pi.id(hidden)}", status=200 if status == 200 else 404)
        (item,) = (await pi.get("streamsets/recorded", ("webId", pi.id(closed))))["Items"]
        assert "No Read Access" in item["Items"][0]["Errors"][0]["Message"][0]
        assert [item["Name"] for item in (await pi.get("points/search", ("query", "*")))["Items"]] == ["A"]


async def test_without_the_archive_points_are_not_found_out_and_values_say_errors() -> None:
    async with _served() as pi:
        point = pi.point("A", 2)
        pi.system.connected = False
        assert (await pi.get("dataservers"))["Items"][0]["IsConnected"] is False
        await pi.get("points", ("path", point.path), status=502)
        (item,) = (await pi.get("streamsets/value", ("webId", pi.id(point))))["Items"]
        assert "Cannot connect" in item["Value"]["Errors"][0]["Message"][0]


async def test_items_are_in_the_order_of_the_web_ids_or_of_their_names() -> None:
    async with _served() as pi:
        streams = [("webId", pi.id(pi.point(name))) for name in "BCA"]
        for query, names in (((), "BCA"), ((("sortField", "Name"),), "ABC")):
            answer = await pi.get("streamsets/value", *streams, *query)
            assert "".join(item["Name"] for item in answer["Items"]) == names
        answer = await pi.get("streamsets/value", *streams, ("sortField", "Name"), ("sortOrder", "Descending"))
        assert [item["Name"] for item in answer["Items"]] == ["C", "B", "A"]


async def test_only_the_selected_fields_are_sent() -> None:
    async with _served() as pi:
        digital = pi.system.add(PointDefinition("D", type="Digital", digital_set=DigitalSet("S", ["Off", "On"])))
        pi.system.write(digital, Event(_NOW, "On"))
        answer = await pi.get(
            "streamsets/recorded",
            ("webId", pi.id(digital)),
            ("webIdType", "IDOnly"),
            ("selectedFields", "Items.WebId;Items.Items.Timestamp;Items.Items.Value"),
        )
        value = {"Timestamp": "2023-11-14T22:13:20Z", "Value": {"Name": "On", "Value": 1, "IsSystem": False}}
        assert answer == {"Items": [{"WebId": pi.id(digital), "Items": [value]}]}


async def test_paths_are_known_in_any_case_and_others_are_answered_with_errors() -> None:
    async with _served() as pi:
        point = pi.point("A", 1)
        answer = await pi.get("StreamSets/ReCorded", ("WEBID", pi.id(point)))
        assert _values(answer["Items"][0]) == [0]
        assert _values(await pi.get(f"STREAMS/{pi.id(point)}/Recorded")) == [0]
        for path, method, status in (
            ("nothing", "GET", 404),
            ("streamsets/recorded", "POST", 405),
            ("points", "PUT", 405),
        ):
            assert (await pi.get(path, status=status, method=method))["Errors"]
        async with pi.client.head("/piwebapi/system") as response:
            assert (response.status, await response.read()) == (200, b"")


_READS = [
    "value", "end", "recorded", "recordedattime", "recordedattimes", "interpolated", "interpolatedattimes", "plot",
    "summary",
]  # fmt: skip
_ROUTES = [
    "points", "points/{id}", "points/search", "points/multiple", "points/{id}/attributes", "dataservers",
    "dataservers/{id}", "dataservers/{id}/points", "system/configuration/{id}", "nothing",
    *(f"{of}/{name}" for of in ("streams/{id}", "streamsets") for name in _READS),
]  # fmt: skip
_NAMES = [
    "webId", "path", "startTime", "endTime", "time", "timeZone", "interval", "syncTime", "maxCount", "startIndex",
    "intervals", "summaryType", "summaryDuration", "sampleType", "sampleInterval", "calculationBasis",
    "boundaryType", "filterExpression", "selectedFields", "sortOrder", "query", "nameFilter", "webIdType",
    "syncTimeBoundaryType", "includeFilteredValues", "retrievalMode",
]  # fmt: skip
_SYSTEM = PiSystem(_Clock())
_POINT = _SYSTEM.add(PointDefinition("A"))
for _second in range(20):
    _SYSTEM.write(_POINT, Event(_NOW - _second * 60 * _S, _second))
_WORDS = [
    _SYSTEM.web_id_of(_POINT), _SYSTEM.web_id.encode(), "9" * 5000,
    r"\\PISERVER\A", "*", "*-1h", "-5m", "+99999999999h", "*+9000y", "1s", "9999-12-31T23:59:59.9999999Z",
    "0001-01-01", "10", "0", "-1", "true", "All", "Outside", "Average", "Interval", "EventWeighted",
    "EventWeightedExcludeEarliestEvent", "Items.Value", "IDOnly", "Name:=A", "Exact", "Before", "Descending",
    "100ns", "1ms", "\x00", "'.' > 1",
]  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(_ROUTES),
    st.one_of(st.sampled_from(_WORDS), st.text(max_size=20)),
    st.lists(st.tuples(st.sampled_from(_NAMES), st.one_of(st.sampled_from(_WORDS), st.text(max_size=20))), max_size=6),
)
def test_whatever_is_asked_is_answered(route: str, name: str, pairs: list[tuple[str, str]]) -> None:
    api = Api(_SYSTEM)
    ids = (name,) if "{id}" in route else ()
    query = Query([("webId", _WORDS[0]), ("time", "*"), *pairs], _NOW, ZoneInfo("Europe/Berlin"))
    answer = api.call(Call("GET", route, ids, query, "http://h/piwebapi"))
    assert answer.status in (200, 207, 400, 404)
    if answer.status >= 400:
        assert set(answer.content) == {"Errors"}
    else:
        orjson.loads(orjson.dumps(pruned(answer.content, query.selection if "webIdType" in query else ALL)))
