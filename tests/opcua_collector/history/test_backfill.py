"""Gaps are filled from the server's history, whatever the server answers and wherever the collector dies."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from opcua_collector.config import Connection as Settings
from opcua_collector.history import backfill
from opcua_collector.history.backfill import Backfill
from opcua_collector.history.gaps import HAD_NOTHING, NOT_READ, Gaps
from opcua_collector.history.marks import Mark, Marks, dump, restore
from opcua_collector.history.requested import NOT_MONITORED, Requested
from opcua_collector.services.browse import OperationLimits, operation_limits
from opcua_collector.services.connecting import Identity, connect
from opcua_collector.stack import UaStatusCodeError, ua
from opcua_collector.values.notifications import Block, Publication
from opcua_collector.values.samples import Assembler, Rule
from plant.log import LoggedRow, PlantLog, read_log
from plant.opcua_server import PlantServer
from plant.unit import Unit
from sluice.batch import Columns, Header, Sample, SampleBatch, Series
from sluice.tasks import end

binary: Any = import_module("asyncua.ua.ua_binary")
SECOND = 10**9
T0 = 1_772_323_200 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
VALUE = struct.Struct("<BBdIqq")  # a DataValue: double, status, source and server time
HEADER = b"\x01\x00\x9b\x02" + bytes(17) + b"\xff\xff\xff\xff" + bytes(3)  # type and ResponseHeader
GOOD_MORE, NO_DATA = 0x00A60000, 0x809B0000
BAD_POINT, NO_POINTS = 0x804A0000, 0x804B0000
UNSUPPORTED, INTERNAL, TOO_MANY, HALTED = 0x80720000, 0x80020000, 0x80100000, 0x800E0000


@pytest.fixture(autouse=True, scope="module")
def soon() -> Iterator[None]:
    """No pause that only spares a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "_TICK", 0.005)
        patch.setattr(backfill, "_PAUSE", 0.005)
        yield


# --- a server with an archive ---------------------------------------------------------------------------------------


@dataclass
class Archive:
    """Answers Read of access levels and HistoryRead as Part 4 and 11 say, and as it is told to."""

    values: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # by node: (time, value), ascending
    page: int = 1000
    most_points: int = 1000
    most_nodes: int = 100
    statuses: dict[str, list[int]] = field(default_factory=dict)  # answered once each, in the place of values
    hidden: set[str] = field(default_factory=set)  # nodes without history
    whole: list[Exception] = field(default_factory=list)  # raised in the place of an answer
    repeating: bool = False  # each answer is the first page again, with the same point
    without_points: bool = False
    calls: list[int] = field(default_factory=list)  # nodes per HistoryRead
    in_flight: int = 0
    most_in_flight: int = 0
    points: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    released: int = 0
    on_call: Callable[[], Awaitable[None] | None] = lambda: None

    @property
    def stack(self) -> Archive:
        return self

    async def _send_request(self, request: Any, timeout: float | None = None) -> bytes:
        if isinstance(request, ua.ReadRequest):
            return self._levels(request.Parameters.NodesToRead)
        parameters = request.Parameters
        if parameters.ReleaseContinuationPoints:
            for one in parameters.NodesToRead:
                self.released += self.points.pop(one.ContinuationPoint, None) is not None
            return HEADER + struct.pack("<i", 0)
        self.calls.append(len(parameters.NodesToRead))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            if (waiting := self.on_call()) is not None:
                await waiting
            if self.whole:
                raise self.whole.pop(0)
            if len(parameters.NodesToRead) > self.most_nodes:
                raise UaStatusCodeError(TOO_MANY)
            results = [self._result(one, parameters.HistoryReadDetails) for one in parameters.NodesToRead]
            return HEADER + struct.pack("<i", len(results)) + b"".join(results)
        finally:
            self.in_flight -= 1

    def _levels(self, wanted: Sequence[Any]) -> bytes:
        response = ua.ReadResponse()
        for one in wanted:
            level = 1 if one.NodeId.Identifier in self.hidden else 5
            value = ua.Variant(True) if one.AttributeId == 20 else ua.Variant(level, ua.VariantType.Byte)
            response.Results.append(ua.DataValue(value))
        return bytes(binary.struct_to_binary(response))

    def _result(self, one: Any, details: Any) -> bytes:
        node = one.NodeId.Identifier
        if self.statuses.get(node):
            return _packed(self.statuses[node].pop(0), b"", None)
        start, stop = ns(details.StartTime), ns(details.EndTime)
        first = next((i for i, (t, _) in enumerate(self.values[node]) if t >= start), 10**9)
        if one.ContinuationPoint:
            known = self.points.pop(one.ContinuationPoint, None)
            if known is None:
                return _packed(BAD_POINT, b"", None)
            first = known[1]
        last = first
        most = min(self.page, details.NumValuesPerNode)
        found = self.values[node]
        while last < len(found) and found[last][0] < stop and last - first < most:
            last += 1
        more = last < len(found) and found[last][0] < stop
        point = b""
        if more and not self.without_points:
            if len(self.points) >= self.most_points:
                return _packed(NO_POINTS, b"", None)
            point = f"{node}:{last}".encode()
            self.points[point] = (node, first if self.repeating else last)
        status = GOOD_MORE if more and self.without_points else 0 if last > first else NO_DATA
        return _packed(status, point, found[first:last])


def _packed(status: int, point: bytes, values: Sequence[tuple[int, float]] | None) -> bytes:
    head = struct.pack("<Ii", status, len(point) or -1) + point
    if not values:
        return head + b"\0\0\0"
    rows = b"".join(VALUE.pack(0x0F, 11, v, 0, filetime(t), filetime(t)) for t, v in values)
    return head + b"\x01\x00\x92\x02\x01" + struct.pack("<ii", 4 + len(rows), len(values)) + rows


def filetime(time_ns: int) -> int:
    return time_ns // 100 + 116_444_736_000_000_000


def ns(stamp: datetime) -> int:
    return (stamp - EPOCH) // timedelta(microseconds=1) * 1000


# --- a collector around it ------------------------------------------------------------------------------------------


class _Durable:
    """Ends soon; need not be waited for."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()


class Outlet:
    """Keeps what is handed over, in order; a kill leaves what was durable."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, dict[str, bytes]]] = []
        self.full = False
        self.recoverable = False
        self.most = 0  # samples in one submit

    @property
    def newest(self) -> int:
        return len(self.of("live"))

    def of(self, kind: str) -> list[Any]:
        return [what for one, what, _ in self.kept if one == kind]

    def put(self, kind: str, what: Any, positions: Mapping[str, bytes | None] | None = None) -> Awaitable[None]:
        self.kept.append((kind, what, dict(positions or {})))  # type: ignore[arg-type]
        return _Durable()

    def submit_backfill(
        self, columns: Sequence[Columns], *, positions: Mapping[str, bytes | None] | None = None, filtered: int = 0
    ) -> Awaitable[None]:
        self.most = max(self.most, sum(map(len, columns)))
        return self.put("past", columns, positions)

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] | None = None
    ) -> Awaitable[None]:
        return self.put("events", events, positions)

    def position(self, key: str) -> bytes | None:
        return next((positions[key] for _, _, positions in reversed(self.kept) if key in positions), None)

    def samples(self, kind: str) -> list[Sample]:
        return [sample for columns in self.of(kind) for some in columns for sample in some.samples()]

    def events(self) -> list[Mapping[str, Any]]:
        return [event for events in self.of("events") for event in events]


class Collector:
    """One life of a collector: begins from what the outlet kept."""

    def __init__(self, tags: Sequence[str], outlet: Outlet, archive: Any, **options: Any) -> None:
        self.tags, self.outlet, self.archive = tags, outlet, archive
        marks = restore(outlet.position("marks"))
        self.gaps = Gaps(patience=0.0, settling=0.0, **options)
        assert self.gaps.load(outlet.position("gaps")) == ""
        for number, columns in enumerate(outlet.of("live"), 1):
            for some in columns:
                batch = SampleBatch(Header("a/b", "0123456789ab", number), some)
                self.gaps.replay(batch, marks)
                marks.advance(batch)
        self.assembler = Assembler(self.gaps)
        self.assembler.restore(marks, set(tags))
        for tag in tags:
            self.assembler.fix(self.assembler.add(Series(tag)), Rule.DOUBLE)
        self.behind = False
        self.backfill = Backfill(
            "line1",
            outlet,
            self.assembler,
            node=lambda handle: ua.NodeId(tags[handle], 2, ua.NodeIdType.String),
            behind=lambda: self.behind,
            rate=1e9,
        )

    def live(self, *rows: tuple[int, int], status: int = 0) -> None:
        """(handle, time) each, in one message."""
        handle, stamp = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        block = Block(11, np.arange(len(rows)), handle, number_of(stamp), np.full(len(rows), status, np.uint32), stamp)
        columns = self.assembler.columns(Publication(blocks=(block,)))
        if columns:
            self.outlet.put("live", columns)
        self.note()

    def note(self) -> None:
        if self.gaps.changed:
            self.outlet.put("note", None, {"gaps": self.gaps.dump(self.outlet.newest)})

    def lost(self) -> None:
        """Whatever the server sends from now on, something before it is missing."""
        self.gaps.open(None, "recreated")
        self.note()

    def watched(self, server_ns: int) -> None:
        self.gaps.watched(None, server_ns, time.monotonic() - 1)

    @asynccontextmanager
    async def filling(self) -> Any:
        task = asyncio.create_task(self.backfill.run(self.archive, OperationLimits()))
        try:
            yield task
        finally:
            await end(task)

    async def fill_until(self, calls: int) -> None:
        """Until history has been asked so often, or nothing is left; the last answer never comes."""
        first, reached = len(self.archive.calls), asyncio.Event()

        async def hang() -> None:
            if len(self.archive.calls) > first + calls:
                reached.set()
                await asyncio.Event().wait()

        self.archive.on_call = hang
        async with self.filling():
            await until(lambda: reached.is_set() or not self.gaps.status())
        self.archive.on_call = lambda: None

    async def fill(self, limit: float = 20.0) -> None:
        """Until nothing is left to read or to tell."""
        async with self.filling() as task:
            deadline = time.monotonic() + limit
            while self.gaps.status() or self.gaps._todo:
                assert not task.done(), task
                assert time.monotonic() < deadline, (self.gaps.status(), self.backfill.status())
                await asyncio.sleep(0.002)


def number_of(stamp: Any) -> Any:
    return (stamp - T0) / SECOND


def plant(tags: int, samples: int, step: int = SECOND) -> dict[str, list[tuple[int, float]]]:
    """An archive of as many tags, each with samples at T0, T0 + step …"""
    return {f"T{n}": [(T0 + i * step, i * step / SECOND) for i in range(samples)] for n in range(tags)}


def after_an_outage(archive: Archive, outlet: Outlet | None = None, **options: Any) -> Collector:
    """The first sample of each tag came, and the last one; what is between did not."""
    collector = Collector(list(archive.values), outlet or Outlet(), archive, **options)
    handles = range(len(archive.values))
    collector.live(*((handle, T0) for handle in handles))
    collector.lost()
    last = [values[-1][0] for values in archive.values.values()]
    collector.live(*zip(handles, last, strict=True))
    return collector


def check_all_once(archive: Archive, outlet: Outlet, tags: Sequence[str] | None = None) -> None:
    found = Counter((s.tag, s.time, s.value) for kind in ("live", "past") for s in outlet.samples(kind))
    wanted = Counter((tag, t, v) for tag in tags or archive.values for t, v in archive.values[tag])
    assert found == wanted


# --- what is read -----------------------------------------------------------------------------------------------------


async def test_what_is_missing_comes_from_history_once_and_in_order_per_tag() -> None:
    archive = Archive(plant(7, 300))
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)
    for tag in archive.values:
        times = [s.time for s in collector.outlet.samples("past") if s.tag == tag]
        assert times == sorted(times)
    assert collector.backfill.status() == {"calls": 1, "values": 7 * 298}


async def test_five_thousand_nodes_and_a_minute_take_one_call_per_hundred_nodes() -> None:
    archive = Archive(plant(5000, 61))
    collector = after_an_outage(archive)
    began = time.process_time()
    await collector.fill(60.0)
    spent = time.process_time() - began
    assert len(collector.outlet.samples("past")) == 5000 * 59
    assert len(archive.calls) == 50
    assert archive.most_in_flight <= backfill.CALLS
    assert collector.outlet.most <= 2 * backfill._SLICE
    assert spent < 60, f"{spent:.1f} s of CPU"


@pytest.mark.parametrize("page", [1, 2, 7, 99])
async def test_continuation_points_are_followed_to_their_end(page: int) -> None:
    archive = Archive(plant(3, 100), page=page)
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)
    assert archive.points == {}


async def test_values_of_one_time_that_a_page_cuts_apart_all_come() -> None:
    times = [0, 1, 1, 1, 1, 2, 2, 3, 9]
    archive = Archive({"T0": [(T0 + t * SECOND, float(n)) for n, t in enumerate(times)]}, page=2)
    archive.values["T0"][-1] = (T0 + 9 * SECOND, 9.0)
    collector = after_an_outage(archive)
    await collector.fill()
    assert [s.value for s in collector.outlet.samples("past")] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


async def test_a_server_with_few_continuation_points_is_asked_for_fewer_nodes_at_once() -> None:
    archive = Archive(plant(20, 50), page=10, most_points=3)
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)


async def test_more_data_without_a_point_is_read_on_from_the_last_value() -> None:
    archive = Archive(plant(2, 50), page=10, without_points=True)
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)


@pytest.mark.parametrize("status", [BAD_POINT, NO_POINTS, INTERNAL])
async def test_a_node_that_is_put_off_is_read_later_and_nothing_twice(status: int) -> None:
    archive = Archive(plant(3, 50), page=10, statuses={"T1": [status, status]})
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)
    assert collector.outlet.events() == []


async def test_a_lost_point_in_the_middle_costs_nothing() -> None:
    archive = Archive(plant(3, 50), page=10)
    forgotten = iter([False, False, True, False, True])

    def forget() -> None:
        if next(forgotten, False):
            archive.points.clear()

    archive.on_call = forget
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)


async def test_a_server_that_calls_it_too_much_is_asked_for_half() -> None:
    archive = Archive(plant(60, 20), most_nodes=9)
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)
    assert max(archive.calls[4:]) <= 9


@pytest.mark.parametrize("error", [asyncio.TimeoutError(), ConnectionError("gone"), UaStatusCodeError(HALTED)])
async def test_a_call_that_fails_is_made_again(error: Exception) -> None:
    archive = Archive(plant(3, 20), whole=[error, error])
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)
    assert collector.backfill.status()["failed"] == 2


async def test_no_data_ends_a_gap() -> None:
    archive = Archive(plant(1, 2))
    archive.values["T0"] = [(T0, 0.0), (T0 + 60 * SECOND, 60.0)]
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)
    assert len(archive.calls) == 1


async def test_a_point_that_always_leads_to_the_same_page_is_not_followed_for_ever() -> None:
    archive = Archive(plant(2, 50), page=10, repeating=True)
    collector = after_an_outage(archive)
    await collector.fill()
    check_all_once(archive, collector.outlet)  # begun anew behind the last value each time
    assert len(archive.calls) < 50 / 9 * 2 * (backfill._IDLE_PAGES + 2)


async def test_a_node_of_which_nothing_can_be_read_is_told() -> None:
    archive = Archive(plant(2, 50), statuses={"T1": [INTERNAL] * 99})
    collector = after_an_outage(archive)
    await collector.fill()
    [event] = collector.outlet.events()
    assert (event["tags"], event["why"]) == (["T1"], "the server answers BadInternalError")
    assert {s.tag for s in collector.outlet.samples("past")} == {"T0"}


# --- nodes without history --------------------------------------------------------------------------------------------


async def test_tags_without_history_are_told_in_one_event_per_cause() -> None:
    archive = Archive(plant(50, 20), hidden={f"T{n}" for n in range(40)})
    collector = after_an_outage(archive)
    await collector.fill()
    [event] = collector.outlet.events()
    assert (event["kind"], event["connection"], event["reason"]) == ("gap", "line1", "recreated")
    assert (event["gaps"], len(event["tags"]), event["recoverable"]) == (40, 20, False)
    assert event["why"] == "the server keeps no history of it"
    assert (event["from_ns"], event["to_ns"]) == (T0, T0 + 19 * SECOND)
    assert {s.tag for s in collector.outlet.samples("past")} == {f"T{n}" for n in range(40, 50)}


async def test_a_refusal_is_remembered_until_the_next_session_and_told() -> None:
    archive = Archive(plant(2, 20), statuses={"T1": [UNSUPPORTED, UNSUPPORTED]})
    collector = after_an_outage(archive)
    await collector.fill()
    [event] = collector.outlet.events()
    assert (event["tags"], event["why"]) == (["T1"], "the server answers BadHistoryOperationUnsupported")
    calls = len(archive.calls)
    for tag, values in archive.values.items():
        archive.values[tag] = [*values, *((T0 + n * SECOND, float(n)) for n in range(20, 30))]
    collector.lost()
    collector.live((0, T0 + 29 * SECOND), (1, T0 + 29 * SECOND))
    await collector.fill()
    assert archive.calls[calls:] == [1]
    assert [one["tags"] for one in collector.outlet.events()] == [["T1"], ["T1"]]


async def test_what_is_older_than_the_longest_window_is_told_and_the_rest_is_read() -> None:
    archive = Archive(plant(1, 101))
    collector = after_an_outage(archive, max_window=30.0)
    await collector.fill()
    assert [s.time for s in collector.outlet.samples("past")] == [T0 + n * SECOND for n in range(70, 100)]
    [event] = collector.outlet.events()
    assert (event["from_ns"], event["to_ns"]) == (T0, T0 + 70 * SECOND)
    assert event["why"].startswith("older than")


async def test_the_source_is_recoverable_when_every_tag_has_a_history() -> None:
    archive = Archive(plant(3, 5))
    collector = after_an_outage(archive)
    await collector.fill()
    assert collector.gaps.recoverable
    archive = Archive(plant(3, 5), hidden={"T1"})
    collector = after_an_outage(archive)
    await collector.fill()
    assert not collector.gaps.recoverable


# --- in nobody's way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["full", "behind"])
async def test_nothing_is_asked_while_live_data_waits_or_the_outbox_is_full(what: str) -> None:
    archive = Archive(plant(2, 30), page=5)
    collector = after_an_outage(archive)

    def hinder(hindered: bool) -> None:
        if what == "full":
            collector.outlet.full = hindered
        else:
            collector.behind = hindered

    archive.on_call = lambda: hinder(len(archive.calls) == 2)
    async with collector.filling():
        await until(lambda: len(archive.calls) == 2)
        for _ in range(10):
            await asyncio.sleep(0.005)
            assert len(archive.calls) == 2
        assert "waits" in collector.backfill.status()
        hinder(False)
        await until(lambda: not collector.gaps.status())
    check_all_once(archive, collector.outlet)


async def until(condition: Callable[[], Any], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def test_no_faster_than_the_rate() -> None:
    archive = Archive(plant(2, 402), page=50)
    collector = after_an_outage(archive)
    collector.backfill.rate = 2000.0
    began = time.monotonic()
    await collector.fill()
    assert time.monotonic() - began >= 0.35  # 800 values
    check_all_once(archive, collector.outlet)


async def test_a_rate_that_is_raised_holds_at_once_and_few_values_come_at_a_time() -> None:
    archive = Archive(plant(2, 402), page=1000)
    collector = after_an_outage(archive)
    collector.backfill.rate = 10.0
    async with collector.filling():
        await until(lambda: collector.outlet.of("past"))
        assert collector.outlet.most <= 20, "no more at once than two seconds of the rate"
        calls = len(archive.calls)
        await asyncio.sleep(0.05)
        assert len(archive.calls) == calls, "it waits for the rate"
        collector.backfill.rate = 100_000.0
        await until(lambda: not collector.gaps.status())
    check_all_once(archive, collector.outlet)


async def test_history_that_is_not_wanted_is_not_asked_and_the_gap_is_told() -> None:
    archive = Archive(plant(3, 20))
    collector = after_an_outage(archive)
    collector.gaps.reads = False
    await collector.fill()
    assert archive.calls == []
    [event] = collector.outlet.events()
    assert (event["kind"], event["gaps"], event["why"]) == ("gap", 3, NOT_READ)


async def test_an_overflow_of_which_history_knows_nothing_is_told() -> None:
    archive = Archive(plant(2, 20))
    archive.values["T0"] = [(t, v) for t, v in archive.values["T0"] if not T0 + SECOND <= t < T0 + 19 * SECOND]
    collector = Collector(list(archive.values), Outlet(), archive)
    collector.live((0, T0), (1, T0))
    collector.live((0, T0 + 19 * SECOND), (1, T0 + 19 * SECOND), status=0x480)
    await collector.fill()
    [event] = collector.outlet.events()
    assert (event["reason"], event["why"], event["tags"]) == ("overflow", HAD_NOTHING, ["T0"])
    assert len([s for s in collector.outlet.samples("past") if s.tag == "T1"]) == 18


async def test_points_are_given_back_when_the_session_ends() -> None:
    archive = Archive(plant(3, 50), page=10)
    collector = after_an_outage(archive)
    reached = asyncio.Event()

    async def hang() -> None:
        if len(archive.calls) == 3:
            reached.set()
            await asyncio.Event().wait()

    archive.on_call = hang
    async with collector.filling():
        await reached.wait()
    assert archive.released == 3


# --- dies and goes on ------------------------------------------------------------------------------------------------


LIVES = st.lists(
    st.tuples(
        st.integers(0, 12),  # it dies when it has asked so often
        st.floats(0, 1),  # and this part of what it wrote last was durable
        st.booleans(),  # the next life has to make the subscription anew
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40)
@given(lives=LIVES, page=st.integers(1, 15))
async def test_wherever_it_is_killed_each_sample_comes_once(lives: list[tuple[int, float, bool]], page: int) -> None:
    tags, samples = 4, 40
    archive = Archive(plant(tags, samples), page=page, hidden={"T3"})
    outlet = Outlet()
    after_an_outage(archive, outlet)
    for calls, part, anew in lives:
        collector = Collector(list(archive.values), outlet, archive)
        if anew:
            collector.lost()
            collector.live(*((handle, T0 + (samples - 1) * SECOND) for handle in range(tags)))
        collector.watched(T0 + samples * SECOND)
        durable = len(outlet.kept)
        await collector.fill_until(calls)
        written = len(outlet.kept) - durable
        del outlet.kept[durable + round(part * written) :]
    collector = Collector(list(archive.values), outlet, archive)
    collector.watched(T0 + samples * SECOND)
    await collector.fill()
    check_all_once(Archive({tag: archive.values[tag] for tag in ("T0", "T1", "T2")}), without(outlet, "T3"))
    assert [event["tags"] for event in outlet.events()] == [["T3"]]


def without(outlet: Outlet, tag: str) -> Outlet:
    """The same without the samples of a tag."""
    found = Outlet()
    for kind in ("live", "past"):
        rest = [sample for sample in outlet.samples(kind) if sample.tag != tag]
        found.kept.append((kind, [_Samples(rest)], {}))
    return found


@dataclass
class _Samples:
    found: list[Sample]

    def samples(self) -> list[Sample]:
        return self.found


@settings(max_examples=40)
@given(sessions=st.lists(st.integers(0, 10), min_size=1, max_size=4), page=st.integers(1, 15))
async def test_a_session_that_ends_anywhere_is_gone_on_from_by_the_next(sessions: list[int], page: int) -> None:
    archive = Archive(plant(4, 40), page=page)
    collector = after_an_outage(archive)
    for calls in sessions:
        await collector.fill_until(calls)
    await collector.fill()
    check_all_once(archive, collector.outlet)


@settings(max_examples=40)
@given(
    first=st.tuples(*[st.integers(1, 29)] * 3),  # the first sample that comes live, of each tag
    at=st.tuples(*[st.integers(1, 8)] * 3),  # and after how many calls it comes
    page=st.integers(1, 12),
)
async def test_live_samples_that_come_while_history_is_read_come_once(
    first: tuple[int, ...], at: tuple[int, ...], page: int
) -> None:
    """The tags are quiet after the outage: history is read up to the present, in which live data begins again."""
    archive = Archive(plant(3, 30), page=page)
    collector = Collector(list(archive.values), Outlet(), archive)
    collector.live(*((handle, T0) for handle in range(3)))
    collector.lost()
    collector.watched(T0 + 30 * SECOND)
    quiet = {0, 1, 2}

    def go_live(calls: int) -> None:
        for handle in sorted(quiet):
            if calls >= at[handle]:
                collector.live(*((handle, T0 + n * SECOND) for n in range(first[handle], 30)))
                quiet.remove(handle)

    archive.on_call = lambda: go_live(len(archive.calls))
    await collector.fill()
    go_live(99)
    await collector.fill()
    check_all_once(archive, collector.outlet)


# --- the plant -------------------------------------------------------------------------------------------------------


async def test_two_minutes_of_the_plant_that_nobody_saw_are_those_of_its_log(tmp_path: Path) -> None:
    server = PlantServer(2, work=tmp_path, policies=("None",))
    await server.start()
    try:
        rows = 120
        start = time.time_ns() // SECOND * SECOND - rows * SECOND
        await produce(server, PlantLog(tmp_path / "plant.log"), start, rows)
        settings = Settings.model_validate({"endpoint": server.endpoint, "security": {"policy": "None"}})
        session = await connect("line1", settings, Identity(tmp_path, "urn:test"), None)
        try:
            tags = [tag.tag for tag in server.tags]
            before = Assembler()
            before.restore(Marks(0, {tag: Mark(start, 0) for tag in tags}), tags)
            outlet = Outlet()
            outlet.put("note", None, {"marks": dump(before, {}, 0)})
            collector = Collector(tags, outlet, session)
            for handle, tag in enumerate(server.tags):
                collector.assembler.fix(handle, RULES[tag.type])
            collector.backfill._values = 50
            collector.lost()
            collector.watched(start + rows * SECOND)
            await collector.fill()
            limits = await operation_limits(session.stack)
        finally:
            await session.close(politely=True)
    finally:
        await server.stop()
    found = Counter((s.tag, s.time, s.value, s.status) for s in outlet.samples("past"))
    assert found == Counter(logged(tmp_path / "plant.log", start))
    assert collector.gaps.recoverable
    assert 1 <= limits.history <= 100
    assert server.services["HistoryRead"] == collector.backfill.counts.calls


RULES = {"Double": Rule.DOUBLE, "Int32": Rule.INTEGER, "Boolean": Rule.BOOLEAN, "String": Rule.STRING}


async def produce(server: PlantServer, log: PlantLog, start: int, rows: int) -> None:
    """Rows one second apart, from `start` on."""
    units = [Unit(0), Unit(50)]
    width = len(server.tags) // len(units)
    for row in range(rows):
        readings = [unit.step() for unit in units]
        values: dict[str, Any] = {}
        bad: dict[str, int] = {}
        for unit, reading in enumerate(readings):
            for column in reading.changed:
                tag = server.tags[unit * width + column].tag
                values[tag] = reading.values[column]
                if reading.statuses[column]:
                    bad[tag] = reading.statuses[column]
        log.write(start + row * SECOND, values, bad)
        await server.show(start + row * SECOND, readings)
    log.end()


def logged(path: Path, after: int) -> Iterator[tuple[str, int, Any, int]]:
    for row in read_log(path):
        if isinstance(row, LoggedRow) and row.time_ns > after:
            for tag, value in row.values.items():
                yield tag, row.time_ns, value, row.statuses.get(tag, 0)


# --- ranges that somebody asked for ---------------------------------------------------------------------------------


class Reader:
    """One life of what reads ranges on request: begins from what the outlet kept."""

    def __init__(
        self, outlet: Outlet, archive: Archive, *, why: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        tags = list(archive.values)
        self.archive = archive
        collector = Collector(tags, outlet, archive)
        for handle, tag in enumerate(tags):
            collector.gaps.eligible(handle, (why or {}).get(tag, ""))
        self.handles: dict[str, int] = {tag: handle for handle, tag in enumerate(tags)}
        self.requested = Requested(self.handles.get, collector.gaps.history, **options)
        assert self.requested.load(outlet.position("requests")) == ""
        self.outlet = outlet
        self.wait = ""
        self.backfill = Backfill(
            "line1",
            outlet,
            collector.assembler,
            node=lambda handle: ua.NodeId(tags[handle], 2, ua.NodeIdType.String),
            behind=lambda: False,
            work=self.requested,
            position="requests",
            wait=lambda: self.wait,
            rate=1e9,
        )

    def ask(self, identity: str, first: int, until_: int, tags: Sequence[str] | None = None) -> None:
        if self.requested.get(identity) is None:
            self.requested.add(identity, first, until_, tags or list(self.archive.values))

    async def read(self, calls: int | None = None) -> None:
        """Until nothing is left, or history has been asked so often."""
        task = asyncio.create_task(self.backfill.run(self.archive, OperationLimits()))
        first, reached = len(self.archive.calls), asyncio.Event()

        async def hang() -> None:
            if calls is not None and len(self.archive.calls) > first + calls:
                reached.set()
                await asyncio.Event().wait()

        self.archive.on_call = hang
        try:
            await until(lambda: task.done() or reached.is_set() or not self.requested.waiting)
            assert not task.done(), task
        finally:
            self.archive.on_call = lambda: None
            await end(task)

    def check(self, *ranges: tuple[int, int], tags: Sequence[str] | None = None) -> None:
        """Each sample of each range came, once per range."""
        found = Counter((sample.tag, sample.time) for sample in self.outlet.samples("past"))
        wanted = Counter(
            (tag, time)
            for first, until_ in ranges
            for tag, samples in self.archive.values.items()
            for time, _ in samples
            if first <= time < until_ and (tags is None or tag in tags)
        )
        assert found == wanted


@settings(max_examples=40)
@given(
    first=st.integers(-5, 45),
    length=st.integers(1, 50),
    page=st.integers(1, 15),
    lives=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=4),
)
async def test_a_range_comes_once_wherever_sessions_end_and_processes_die(
    first: int, length: int, page: int, lives: list[tuple[int, int]]
) -> None:
    """lives: after how many calls it dies, and how many of its last writes never came to the disk."""
    archive, outlet = Archive(plant(4, 40), page=page), Outlet()
    begin, stop = T0 + first * SECOND, T0 + (first + length) * SECOND
    for calls, lost in lives:
        reader = Reader(outlet, archive)
        reader.ask("1", begin, stop)
        await reader.read(calls)
        if lost:
            del outlet.kept[-lost:]
    reader = Reader(outlet, archive)
    reader.ask("1", begin, stop)
    await reader.read()
    reader.check((begin, stop))
    request = reader.requested.get("1")
    assert request is not None
    assert (request.progress, request.result()["values"]) == (1.0, len(outlet.samples("past")))


async def test_several_days_are_read_day_after_day_of_all_tags() -> None:
    archive = Archive(plant(3, 72, 3600 * SECOND), page=5)
    reader = Reader(Outlet(), archive)
    stop = T0 + 72 * 3600 * SECOND
    reader.ask("1", T0, stop)
    await reader.read()
    reader.check((T0, stop))
    days = [(sample.time - T0) // (24 * 3600 * SECOND) for sample in reader.outlet.samples("past")]
    assert days == sorted(days)


async def test_one_request_is_read_after_the_other_and_each_has_its_own_count() -> None:
    reader = Reader(Outlet(), Archive(plant(2, 30)))
    reader.ask("a", T0, T0 + 20 * SECOND, ["T0"])
    reader.ask("b", T0 + 10 * SECOND, T0 + 30 * SECOND)
    await reader.read()
    results = [request.result() for one in "ab" if (request := reader.requested.get(one)) is not None]
    assert results == [{"tags": 1, "tags_done": 1, "values": 20}, {"tags": 2, "tags_done": 2, "values": 40}]
    found = Counter((sample.tag, sample.time) for sample in reader.outlet.samples("past"))
    assert {
        count for (tag, time), count in found.items() if tag == "T0" and T0 + 10 * SECOND <= time < T0 + 20 * SECOND
    } == {2}


async def test_tags_without_a_history_are_left_out_with_the_reason() -> None:
    archive = Archive(plant(4, 10), statuses={"T1": [UNSUPPORTED]})
    reader = Reader(Outlet(), archive, why={"T2": "the server keeps no history of it"}, patience=0.05)
    del reader.handles["T3"]
    reader.ask("1", T0, T0 + 10 * SECOND)
    await reader.read()
    reader.check((T0, T0 + 10 * SECOND), tags=["T0"])
    request = reader.requested.get("1")
    assert request is not None
    assert request.result() == {
        "tags": 4,
        "tags_done": 1,
        "values": 10,
        "tags_left_out": 3,
        "why": {
            "T1": "the server answers BadHistoryOperationUnsupported",
            "T2": "the server keeps no history of it",
            "T3": NOT_MONITORED,
        },
    }


async def test_what_goes_before_is_waited_for() -> None:
    reader = Reader(Outlet(), Archive(plant(1, 10)))
    reader.wait = "for room in the outbox"
    reader.ask("1", T0, T0 + 10 * SECOND)
    task = asyncio.create_task(reader.backfill.run(reader.archive, OperationLimits()))
    try:
        await until(lambda: reader.backfill.status().get("waits") == "for room in the outbox")
        assert reader.archive.calls == []
        reader.wait = ""
        await until(lambda: not reader.requested.waiting)
    finally:
        await end(task)
    reader.check((T0, T0 + 10 * SECOND))


def test_notes_that_cannot_be_read_are_dropped_with_a_word() -> None:
    whole = Requested(lambda tag: None, lambda tag: None)
    whole.add("1", T0, T0 + SECOND, ["T0"])
    data = whole.dump(0)
    for damaged in (b"", b"junk", data[:-3]):
        fresh = Requested(lambda tag: None, lambda tag: None)
        assert "cannot be read and are dropped" in fresh.load(damaged)
        assert fresh.get("1") is None
    fresh = Requested(lambda tag: None, lambda tag: None)
    assert fresh.load(data) == ""
    assert fresh.get("1") is not None


def test_requests_that_are_done_are_known_for_a_while_and_not_for_ever() -> None:
    requested = Requested(lambda tag: None, lambda tag: None)
    for number in range(100):
        requested.add(str(number), T0, T0 + SECOND, [])
    assert requested.get("99") is not None
    assert requested.get("50") is None


async def test_nodes_that_nobody_has_found_yet_are_gone_through_in_portions() -> None:
    """A hundred thousand in one go would hold everything else up for a second."""
    assembler = Assembler()
    tags = [f"T{number}" for number in range(10_000)]
    for tag in tags:
        assembler.add(Series(tag))
    looked: list[int] = []
    most = turn = 0

    def node(handle: int) -> None:
        nonlocal most
        looked.append(handle)
        most = max(most, len(looked) - turn)

    backfill = Backfill("line1", Outlet(), assembler, node=node, behind=lambda: False)
    task = asyncio.create_task(backfill.run(Archive(), OperationLimits()))
    while len(looked) < len(tags):
        turn = len(looked)
        await asyncio.sleep(0)
        assert not task.done()
    task.cancel()
    assert most <= 1000
