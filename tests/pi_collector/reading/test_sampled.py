"""Sampled modes against a small server of our own, whose values are functions of time; and against the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest

from pi_collector.config import Connection, Load
from pi_collector.coverage.state import State
from pi_collector.intake import Intake, StoreError
from pi_collector.points.point import Point, Stream
from pi_collector.reading.sampled import Sampled
from pi_collector.values.times import format7, parse
from pi_collector.web.errors import NotFoundError, PiError, TooMuchError, UnreachableError
from pi_collector.web.pace import Priority
from plant.pi.clock import Clock
from plant.pi.server import PiServer
from plant.pi.system import Event, PiSystem, PointDefinition
from sluice.columns import Sample
from sluice.tasks import end, within

from ..kept_outlet import KeptOutlet
from ..values.streams import settings, stream

SECOND = 10**9
NOW = 1_714_557_600 * SECOND
POLL = 0.1

Rule = Callable[[str, int], Any]
"""Value of a point at a time."""


class FakeClock:
    """The server's clock: stands until the test moves it."""

    def __init__(self) -> None:
        self.lower = NOW
        self.asked = 0
        self.away: PiError | None = None

    async def after(self) -> int:
        self.asked += 1
        if self.away is not None:
            raise self.away
        return self.lower


class Server:
    """Answers as a PI Web API would. What is wrong with it at present stands in its attributes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.rule: Rule = lambda name, time: float(time // SECOND % 1000)
        self.unknown: set[str] = set()
        self.errors: dict[str, str] = {}
        self.left_out: set[str] = set()
        self.most = 10**9
        self.requests: list[tuple[str, list[str]]] = []
        self.ahead = 0
        """ns by which the newest value of a point is ahead of the present."""

    async def get(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = Priority.LIVE
    ) -> bytes:
        await asyncio.sleep(0)
        given = dict(query)
        names = [value for key, value in query if key == "webId"]
        self.requests.append((path, names))
        if self.clock.away is not None:
            raise self.clock.away
        if self.unknown & set(names):
            raise NotFoundError(404, ["PI Point not found."], "does not know a point")
        if path in ("streamsets/value", "streamsets/end"):
            time = self.clock.lower + (self.ahead if path.endswith("end") else 0)
            return self._answer({name: [self._timed(name, time)] for name in names}, value=True)
        first, last = parse([given["startTime"], given["endTime"]]).tolist()
        step = round(float((given.get("interval") or given["summaryDuration"]).rstrip("s")) * SECOND)
        times = range(first, last + (path == "streamsets/interpolated"), step)
        if len(times) * len(names) > self.most:
            raise TooMuchError(400, [], "Parameter is greater than the maximum allowed")
        if path == "streamsets/interpolated":
            return self._answer({name: [self._timed(name, time) for time in times] for name in names})
        types = [value for key, value in query if key == "summaryType"]
        return self._answer(
            {
                name: [{"Type": kind, "Value": self._timed(f"{name}.{kind}", time)} for kind in types for time in times]
                for name in names
            }
        )

    def _timed(self, name: str, time: int) -> dict[str, Any]:
        return {"Timestamp": format7(time), "Value": self.rule(name, time), "Good": True}

    def _answer(self, values: Mapping[str, list[dict[str, Any]]], value: bool = False) -> bytes:
        items = []
        for name, own in values.items():
            if name in self.left_out:
                continue
            item: dict[str, Any] = {"WebId": name}
            if name in self.errors:
                item["Errors"] = [self.errors[name]]
            elif value:
                item["Value"] = own[0]
            else:
                item["Items"] = own
            items.append(item)
        return orjson.dumps({"Items": items})


class Told:
    """Problems as they stand."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None:
        self.now[scope] = problem

    def clear(self, scope: str) -> None:
        self.now.pop(scope, None)


class Site:
    """Streams of one connection that are sampled. `initial`: seconds before NOW with which they begin."""

    def __init__(self, client: Any, connection: Connection, *, initial: float = 0.0, load: Load | None = None) -> None:
        self.client = client
        self.connection = connection
        self.outlet = KeptOutlet()
        self.state = State(lambda: NOW / 1e9)
        self.intake = Intake("line1", self.outlet, self.state, connection, clock=lambda: NOW)
        self.told = Told()
        self.lost: list[str] = []
        self.sampled = Sampled(
            "line1",
            client,
            self.intake,
            self.state,
            self.told,
            load=Load.model_validate({"requests_per_second": 1000}) if load is None else load,
            lost=self.lost.append,
        )
        self.initial = round(initial * SECOND)
        self.streams: list[Stream] = []

    def collect(self, *streams: Stream, begin: int = NOW) -> None:
        for one in streams:
            handle = self.state.handle(one.key)
            assert handle == one.handle
            plan = one.plan
            self.state.coverage.begin(
                handle,
                begin - self.initial,
                round(plan.overlap * SECOND),
                round(plan.settle * SECOND),
                round(plan.max_backfill * SECOND),
            )
            assert not self.intake.fix(one)
            self.streams.append(one)
        self.sampled.want(self.streams)

    @property
    def samples(self) -> list[Sample]:
        return self.outlet.samples

    def of(self, tag: str) -> list[tuple[int, Any]]:
        return [(sample.time, sample.value) for sample in self.samples if sample.tag == tag]

    def gaps(self) -> dict[str, int]:
        return self.state.ledger.counts()

    def __str__(self) -> str:
        return f"{len(self.samples)} samples, the last {self.samples[-3:]}; {self.sampled.status()}; {self.told.now}"

    async def until(self, condition: Callable[[], object], seconds: float = 15.0) -> None:
        async def wait() -> None:
            while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.01)

        try:
            await within(seconds, wait())
        except asyncio.TimeoutError:
            pytest.fail(f"not within {seconds} s: {self}")

    async def polls(self, count: int = 3) -> None:
        """Until there have been some more polls of each mode."""
        before = {mode: of["polls"] for mode, of in self.sampled.status().items()}
        await self.until(lambda: all(of["polls"] >= before[mode] + count for mode, of in self.sampled.status().items()))


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[Site]:
    task = asyncio.create_task(site.sampled.run())
    try:
        yield site
    finally:
        await end(task) if not task.done() else task.result()
        site.intake.close()


def site_of(mode: str, *types: str, initial: float = 0.0, load: Load | None = None, **of: Any) -> tuple[Site, Server]:
    """Streams T0, T1, … of that mode, and the server that they are read from."""
    connection = settings(mode=mode, poll_interval=POLL, **{"settle": 10, "overlap": 0, "interval": 60, **of})
    server = Server()
    site = Site(server, connection, initial=initial, load=load)
    site.collect(*(stream(handle, kind, connection) for handle, kind in enumerate(types or ("Float64",))))
    return site, server


def closed(first: int, last: int, interval: int = 60) -> list[int]:
    """Whole multiples of the interval from first to last, both inclusive; found one by one."""
    return [second * SECOND for second in range(first // SECOND, last // SECOND + 1) if second % interval == 0]


# --- the newest value ---


async def test_snapshot_hands_on_what_has_another_time_or_value() -> None:
    site, server = site_of("snapshot", "Float64", "Float64")
    async with running(site):
        await site.polls()
        assert (len(site.of("T0")), len(site.of("T1"))) == (1, 1)
        server.clock.lower += SECOND
        await site.until(lambda: len(site.of("T0")) == 2)
        server.rule = lambda name, time: -1.0 if name == "W0" else float(time // SECOND % 1000)
        await site.until(lambda: len(site.of("T0")) == 3)
        await site.polls()
    assert site.of("T0") == [(NOW, 600.0), (NOW + SECOND, 601.0), (NOW + SECOND, -1.0)]
    assert site.of("T1") == [(NOW, 600.0), (NOW + SECOND, 601.0)]
    assert {path for path, _ in server.requests} == {"streamsets/value"}
    assert not site.outlet.of("backfill")


async def test_end_gives_what_is_known_of_the_future() -> None:
    site, server = site_of("end")
    server.ahead = 3600 * SECOND
    async with running(site):
        await site.until(lambda: site.of("T0"))
    assert site.of("T0") == [(NOW + 3600 * SECOND, 200.0)]
    assert site.state.coverage.covered(0) == NOW, "what is to come is not covered"


async def test_an_error_of_a_snapshot_is_a_bad_value() -> None:
    site, server = site_of("snapshot")
    server.rule = lambda name, time: None
    async with running(site):
        await site.until(lambda: site.samples)
    assert [(s.value, s.quality.name, s.status) for s in site.samples] == [(None, "BAD", "PI_ERROR: no value")]


# --- closed windows ---


async def test_interpolated_values_stand_at_whole_multiples_and_come_when_the_window_is_closed() -> None:
    site, server = site_of("interpolated", "Float64", "Int32", initial=300)
    async with running(site):
        await site.until(lambda: len(site.of("T0")) == 5)
        await site.polls()
        expected = closed(NOW - 300 * SECOND, NOW - 10 * SECOND)
        assert [time for time, _ in site.of("T0")] == expected
        server.clock.lower = NOW + 9 * SECOND + 999_999_900
        await site.polls()
        assert len(site.of("T0")) == 5, "it is settled only 10 s later"
        server.clock.lower = NOW + 10 * SECOND
        await site.until(lambda: len(site.of("T0")) == 6)
    assert site.of("T0") == site.of("T1") == [(time, server.rule("", time)) for time in [*expected, NOW]]
    assert site.state.coverage.covered(0) == NOW


async def test_summaries_stand_at_the_begin_of_their_window_and_each_is_a_tag() -> None:
    connection = settings(
        mode="summary", poll_interval=POLL, settle=10, overlap=0, interval=60, summaries=["Average", "Count"]
    )
    server = Server()
    server.rule = lambda name, time: 1.5 if name.endswith("Average") else 4
    site = Site(server, connection, initial=120)
    point = stream(0, "Int32", connection).point
    for handle, kind in enumerate(("Average", "Count")):
        site.collect(Stream(handle, f"T0.{kind}", point, stream(0, "Int32", connection).plan, "", "", kind))
    server.clock.lower = NOW + 9 * SECOND
    async with running(site):
        await site.until(lambda: len(site.of("T0.Count")) == 1)
        await site.polls()
        assert site.of("T0.Average") == [(NOW - 120 * SECOND, 1.5)], "the next one ends at NOW, which is not settled"
        server.clock.lower = NOW + 10 * SECOND
        await site.until(lambda: len(site.of("T0.Count")) == 2)
    assert site.of("T0.Count") == [(NOW - 120 * SECOND, 4.0), (NOW - 60 * SECOND, 4.0)]
    assert {tuple(names) for _, names in server.requests} == {("W0",)}, "both in one question"


async def test_what_came_late_comes_again_with_the_same_time() -> None:
    site, server = site_of("interpolated", initial=1200, overlap=240)
    async with running(site):
        await site.until(lambda: len(site.of("T0")) == 20)
        late = {NOW - 120 * SECOND: 7.0, NOW - 60 * SECOND: 8.0, NOW - 900 * SECOND: 9.0}
        before = server.rule
        server.rule = lambda name, time: late.get(time, before(name, time))
        server.clock.lower += 60 * SECOND
        await site.until(lambda: len(site.of("T0")) == 23)
        await site.polls()
    assert site.of("T0")[20:] == [
        (NOW - 120 * SECOND, 7.0),
        (NOW - 60 * SECOND, 8.0),
        (NOW, before("", NOW)),
    ], "what is older than the overlap is not looked at again"


async def test_the_overlap_is_not_read_again_with_every_window() -> None:
    site, server = site_of("interpolated", initial=90, overlap=3600)
    asked = []
    get = server.get

    async def counting(path: str, query: Sequence[tuple[str, str]] = (), **of: Any) -> bytes:
        given = dict(query)
        asked.append(int(np.ptp(parse([given["startTime"], given["endTime"]]))) // (60 * SECOND) + 1)
        return await get(path, query, **of)

    server.get = counting  # type: ignore[method-assign]
    async with running(site):
        for _ in range(40):
            server.clock.lower += 60 * SECOND
            count = len(site.of("T0"))
            await site.until(lambda count=count: len(site.of("T0")) > count)  # type: ignore[misc]
    assert [time for time, _ in site.of("T0")] == closed(NOW - 60 * SECOND, NOW + 40 * 60 * SECOND - 10 * SECOND)
    assert sum(asked) < 40 * 8, asked


# --- what goes wrong ---


AWAY = UnreachableError("no address answers", "see that the server runs")


async def test_windows_that_were_missed_are_read_after_an_outage_and_it_is_told() -> None:
    site, server = site_of("interpolated", "Float64", "Float64", initial=90)
    async with running(site):
        await site.until(lambda: len(site.of("T1")) == 1)
        gaps = site.gaps()
        server.clock.away = AWAY
        await site.until(lambda: site.gaps()["opened"] == gaps["opened"] + 1)
        server.clock.lower += 3600 * SECOND
        server.clock.away = None
        await site.until(lambda: len(site.of("T1")) == 61)
        server.clock.lower += 60 * SECOND
        await site.until(lambda: site.gaps()["open"] == 0)
    assert [time for time, _ in site.of("T0")] == closed(NOW - 60 * SECOND, NOW + 3650 * SECOND)
    assert [time for time, _ in site.of("T1")] == closed(NOW - 60 * SECOND, NOW + 3650 * SECOND)
    assert site.gaps()["abandoned"] == gaps["abandoned"]
    assert site.outlet.of("backfill"), "the past goes into the stream of the past"


async def test_a_long_past_of_one_stream_does_not_keep_the_present_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi_collector.reading.sampled._PAST_AT_ONCE", 0.2)
    load = Load.model_validate({"values_per_request": 100})
    site, server = site_of("interpolated", "Float64", interval=1, initial=60, load=load)
    get = server.get

    async def slow(path: str, query: Sequence[tuple[str, str]] = (), **how: Any) -> bytes:
        await asyncio.sleep(0.02)
        return await get(path, query, **how)

    server.get = slow  # type: ignore[method-assign]
    async with running(site):
        await site.polls()
        site.collect(stream(1, "Float64", site.connection), begin=NOW - 7 * 86400 * SECOND)
        await site.until(lambda: site.of("T1"))
        before = len(site.of("T0"))
        server.clock.lower += 5 * SECOND
        await site.until(lambda: len(site.of("T0")) == before + 5)
        server.clock.lower += 5 * SECOND
        await site.until(lambda: len(site.of("T0")) == before + 10)
        read = [time for time, _ in site.of("T1")]
        assert len(read) < 7 * 86400, "its past is still being read"
        first = NOW - (7 * 86400 + 60) * SECOND
        assert read == [first + number * SECOND for number in range(len(read))], "without a hole, and each once"


async def test_one_failure_is_no_gap() -> None:
    site, server = site_of("snapshot")
    async with running(site):
        await site.until(lambda: site.samples)
        server.clock.away = AWAY
        await site.until(lambda: site.sampled.status()["snapshot"]["failures"] == 1)
        server.clock.away = None
        server.clock.lower += SECOND
        await site.until(lambda: len(site.samples) == 2)
    assert site.gaps()["opened"] == 0


async def test_an_outage_longer_than_max_backfill_is_given_up_in_part_and_told() -> None:
    site, server = site_of("interpolated", initial=90, max_backfill=600)
    async with running(site):
        await site.until(lambda: len(site.of("T0")) == 1)
        server.clock.away = AWAY
        await site.until(lambda: site.gaps()["open"] == 1)
        server.clock.lower += 3600 * SECOND
        server.clock.away = None
        await site.until(lambda: len(site.of("T0")) > 10)
        server.clock.lower += 60 * SECOND
        await site.until(lambda: site.gaps()["open"] == 0)
    read = [time for time, _ in site.of("T0")]
    assert read[0] == NOW - 60 * SECOND
    assert read[1:] == closed(read[1], NOW + 3600 * SECOND)
    assert NOW + 3540 * SECOND - 600 * SECOND <= read[1] <= NOW + 3600 * SECOND - 600 * SECOND
    assert site.gaps()["abandoned"] == 1


async def test_one_bad_point_does_not_fail_the_others() -> None:
    site, server = site_of("interpolated", *["Float64"] * 10, initial=90)
    server.unknown = {"W3"}
    async with running(site):
        await site.until(lambda: len({sample.tag for sample in site.samples}) == 9)
        await site.until(lambda: site.lost)
        assert "T3" not in {sample.tag for sample in site.samples}
        assert site.lost[0] == "W3"
        assert "1 tags cannot be read" in site.told.now["connections.line1.sampled"]
        assert site.sampled.status()["interpolated"]["aside"] == 1
        asked = sum("W3" in names for _, names in server.requests)
        server.clock.lower += 60 * SECOND
        await site.until(lambda: len(site.of("T0")) == 2)
        assert sum("W3" in names for _, names in server.requests) == asked, "it is left alone for a while"
        site.sampled._aside[3].until = 0.0  # some seconds later
        server.unknown = set()
        await site.until(lambda: len(site.of("T3")) == 2)
        assert site.told.now == {}


@pytest.mark.parametrize("how", ["errors", "left_out"])
async def test_a_stream_that_is_not_answered_is_read_later(how: str) -> None:
    site, server = site_of("interpolated", "Float64", "Float64", initial=90)
    if how == "errors":
        server.errors["W1"] = "No access"
    else:
        server.left_out.add("W1")
    async with running(site):
        await site.until(lambda: len(site.of("T0")) == 1 and site.told.now)
        assert site.of("T1") == []
        assert site.state.coverage.covered(1) < site.state.coverage.covered(0)
        server.errors, server.left_out = {}, set()
        server.clock.lower += 60 * SECOND
        site.sampled._aside[1].until = 0.0
        await site.until(lambda: len(site.of("T1")) == 2)
    assert site.of("T0") == site.of("T1")


@pytest.mark.parametrize("most", [1, 7, 50])
async def test_less_is_asked_for_where_the_server_gives_less(most: int) -> None:
    site, server = site_of("interpolated", *["Float64"] * 5, initial=1200)
    server.most = most
    async with running(site):
        await site.until(lambda: len(site.samples) == 5 * 20)
        await site.polls()
    for handle in range(5):
        assert sorted(site.of(f"T{handle}")) == [
            (time, server.rule("", time)) for time in closed(NOW - 1200 * SECOND, NOW - 10 * SECOND)
        ]


async def test_addresses_are_as_long_as_is_allowed() -> None:
    load = Load.model_validate({"points_per_request": 7, "url_bytes": 1000})
    site, server = site_of("snapshot", *["Float64"] * 50, load=load)
    async with running(site):
        await site.until(lambda: len(site.samples) == 50)
    assert max(len(names) for _, names in server.requests) <= 7


async def test_nothing_is_asked_while_there_is_no_room() -> None:
    site, server = site_of("snapshot")
    site.outlet.full = True
    async with running(site):
        await asyncio.sleep(3 * POLL)
        assert server.requests == []
        site.outlet.full = False
        await site.until(lambda: site.samples)


async def test_what_cannot_be_stored_ends_it() -> None:
    site, _ = site_of("snapshot")
    site.outlet.at_once = False
    task = asyncio.create_task(site.sampled.run())
    await site.until(lambda: site.outlet.waiting)
    site.outlet.refuse(RuntimeError("disk gone"))
    with pytest.raises(StoreError, match="disk gone"):
        await within(10.0, task)
    site.intake.close()


# --- while it runs ---


async def test_streams_come_and_go() -> None:
    site, server = site_of("snapshot", "Float64")
    async with running(site):
        await site.until(lambda: site.of("T0"))
        site.collect(stream(1, "Float64", site.connection))
        await site.until(lambda: site.of("T1"))
        site.sampled.want(site.streams[1:])
        site.intake.forget(0)
        server.clock.lower += SECOND
        await site.until(lambda: len(site.of("T1")) == 2)
        await site.polls()
    assert len(site.of("T0")) == 1
    assert server.requests[-1][1] == ["W1"]


async def test_recorded_streams_are_none_of_its() -> None:
    connection = settings()
    server = Server()
    site = Site(server, connection)
    site.collect(stream(0, "Float64", connection))
    async with running(site):
        await asyncio.sleep(2 * POLL)
    assert (server.requests, site.sampled.status()) == ([], {})


# --- against the simulator ---


class Plain:
    """A client that asks the simulator, and knows its clock."""

    def __init__(self, server: PiServer, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session

    @property
    def clock(self) -> Plain:
        return self

    @property
    def lower(self) -> int:
        return self._server.clock.now_ns()

    async def after(self) -> int:
        return self._server.clock.now_ns()

    async def get(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = Priority.LIVE
    ) -> bytes:
        async with self._session.get(f"{self._server.url}/{path}", params=list(query)) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            return body


async def test_the_simulator_is_read_in_every_mode() -> None:
    clock = Clock()
    system = PiSystem(clock)
    point = system.add(PointDefinition("LEVEL", unit="m"))
    begin = clock.now_ns() // (60 * SECOND) * 60 * SECOND - 600 * SECOND
    for i in range(21):  # a straight line: half a metre a minute
        system.write(point, Event(begin + i * 30 * SECOND, i / 4))
    async with PiServer(system, clock) as server, aiohttp.ClientSession() as session:
        groups = {mode: {"mode": mode} for mode in ("snapshot", "end", "interpolated", "summary")}
        groups["summary"]["summaries"] = ["Minimum", "Average"]  # type: ignore[assignment]
        connection = settings(poll_interval=POLL, settle=1, overlap=0, interval=60, groups=groups)
        site = Site(Plain(server, session), connection)
        known = Point(system.web_id_of(point, "IDOnly"), "S", point.id, "LEVEL", "", "Float64")
        plans = {mode: stream(0, "Float64", connection, group=mode).plan for mode in groups}
        wanted = [("snapshot", ""), ("end", ""), ("interpolated", ""), ("summary", "Minimum"), ("summary", "Average")]
        site.collect(
            *(
                Stream(handle, f"LEVEL.{mode}.{kind}", known, plans[mode], "m", "", kind)
                for handle, (mode, kind) in enumerate(wanted)
            ),
            begin=begin,
        )
        async with running(site):
            await site.until(lambda: len({sample.tag for sample in site.samples}) == 5)
    newest = (begin + 600 * SECOND, 5.0)
    assert (site.of("LEVEL.snapshot."), site.of("LEVEL.end.")) == ([newest], [newest])
    line = [(begin + minute * 60 * SECOND, minute / 2) for minute in range(10)]
    assert site.of("LEVEL.interpolated.")[:10] == [(time, pytest.approx(value)) for time, value in line]
    assert site.of("LEVEL.summary.Minimum")[:9] == [(time, pytest.approx(value)) for time, value in line[:9]]
    assert site.of("LEVEL.summary.Average")[:9] == [(time, pytest.approx(value + 0.25)) for time, value in line[:9]]
    assert {verb.split()[0] for verb in server.requests} == {"GET"}
