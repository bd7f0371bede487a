"""The reader against a scripted archive: what goes wrong costs whom it concerns, and the live goes first."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from pi_collector.config import Connection as Settings
from pi_collector.coverage.state import State
from pi_collector.intake import Intake
from pi_collector.plan import plan
from pi_collector.points.point import Point, Stream, key_of
from pi_collector.reading import reader as module
from pi_collector.reading.reader import Reader
from pi_collector.reading.reconcile import Reconciling
from pi_collector.reading.requested import Requested
from pi_collector.values.decode import decode_recorded
from pi_collector.values.times import format7, parse
from pi_collector.web.answers import Answer, refusal
from pi_collector.web.errors import MalformedError, PiError, UnreachableError
from pi_collector.web.pace import LIVE, Priority
from sluice.tasks import end

from ..disk import Disk, Outlet
from ..running import until

SECOND = 10**9
NOW = 1_750_000_000 * SECOND


class Clock:
    lower = NOW


class Pace:
    spent = 0

    async def spend(self, values: int) -> None:
        self.spent += values


class Archive:
    """Values by web id. `answer` may change what a request is answered with; it raises, or returns bytes or None."""

    def __init__(self) -> None:
        self.clock, self.pace = Clock(), Pace()
        self.values: dict[str, list[int]] = {}
        self.asked: list[tuple[str, list[str], int, int, int, Priority]] = []
        self.batches = 0
        self.no_batch: PiError | None = None
        self.answer: Callable[[str, list[str], int, int, int], Awaitable[bytes | None]] | None = None
        self.busy = self.most_busy = 0

    async def get(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = LIVE, fresh: bool = False
    ) -> bytes:
        told = dict(query)
        start, stop = (int(parse([told[name]])[0]) for name in ("startTime", "endTime"))
        count = int(told["maxCount"])
        alone = re.fullmatch(r"streams/(.+)/recorded", path)
        ids = [alone.group(1)] if alone else [value for name, value in query if name == "webId"]
        self.asked.append((path, ids, start, stop, count, priority))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await asyncio.sleep(0.001)
            if self.answer is not None and (body := await self.answer(path, ids, start, stop, count)) is not None:
                return body
        finally:
            self.busy -= 1
        items = [{"WebId": one, "Items": self.page(one, start, stop, count)} for one in ids]
        return orjson.dumps({"Items": items[0]["Items"] if alone else items})

    def page(self, web_id: str, start: int, stop: int, count: int) -> list[dict[str, Any]]:
        found = [time for time in self.values.get(web_id, []) if start <= time <= stop][:count]
        return [{"Timestamp": format7(time), "Value": float(time % 1000), "Good": True} for time in found]

    async def batch(self, parts: Mapping[str, Mapping[str, Any]], *, priority: Priority = LIVE) -> Mapping[str, Answer]:
        self.batches += 1
        if self.no_batch is not None:
            raise self.no_batch
        answers = {}
        for name, part in parts.items():
            assert part["Method"] == "GET"
            split = urlsplit(part["Resource"])
            try:
                answers[name] = Answer(200, orjson.loads(await self.get(split.path, parse_qsl(split.query))))
            except PiError as error:
                answers[name] = Answer(getattr(error, "status", 500), {"Errors": [error.problem]})
        return answers


class Site:
    """A state, an intake and a reader over a scripted archive."""

    def __init__(self, names: str, **load: Any) -> None:
        self.disk = Disk()
        self.outlet = Outlet(self.disk, delay=0.001)
        self.archive = Archive()
        settings = Settings.model_validate(
            {"url": "https://pi/piwebapi", "settle": "0s", "overlap": "0s", "load": {"parallel": 4, **load}}
        )
        self.state = State(lambda: 0.0)
        self.intake = Intake("site", self.outlet, self.state, settings)
        self.streams: dict[int, Stream] = {}
        self.lost: list[str] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        how = plan(settings)
        for name in names:
            point = Point(name, "S", ord(name), name, f"\\\\S\\{name}", "Float64")
            stream = Stream(self.state.handle(key_of(point, how)), name, point, how, "", "")
            self.streams[stream.handle] = stream
            assert self.intake.fix(stream) == ""
        self.requested = Requested(self.handle, lambda tag: "")
        self.reconciling = Reconciling(lambda handle: 0, self.state.coverage.covered)
        self.reader = Reader(
            "site", settings.load, self.archive, self.state.coverage, self.intake, self.outlet, self.intake.typings,
            self.requested, self.reconciling, self.state.known,
            stream_of=self.streams.get, lost=self.lost.append, tell=lambda kind, **what: self.told.append((kind, what)),
        )  # fmt: skip
        self.reader.name(stream.point.web_id for stream in self.streams.values())

    def handle(self, name: str) -> int | None:
        return next((handle for handle, stream in self.streams.items() if stream.tag == name), None)

    def handles(self, names: str) -> NDArray[np.int32]:
        return np.array([self.handle(name) for name in names], np.int32)

    def begin(self, names: str, back: int) -> None:
        """Streams that begin so many seconds ago and come live from now on: a hole."""
        for handle in self.handles(names).tolist():
            self.state.coverage.begin(handle, NOW - back * SECOND, 0, 0, 10**18)
        self.state.coverage.subscribed(self.handles(names), NOW)

    def fill(self, names: str, values: int, back: int) -> None:
        for name in names:
            self.archive.values[name] = [
                (NOW - back * SECOND + number * back * SECOND // values) // 100 * 100 for number in range(values)
            ]

    def arrived(self, names: str) -> bool:
        return {(name, time) for name, time, _ in self.disk.rows} >= {
            (name, time) for name in names for time in self.archive.values[name]
        }

    def shown(self) -> object:
        return self.reader.status(), self.state.status(), len(self.disk.rows)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reader.run())
        try:
            yield
            assert not task.done(), task.result()
        finally:
            self.intake.close()
            await end(task)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_LOOK", 0.002), ("_LITTLE_LATER", 0.001), ("_PAUSES", (0.01, 0.1))):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "_STREAM_PAUSES", (0.02, 0.1))


async def test_holes_are_read_page_by_page_each_value_once() -> None:
    site = Site("ABC", valuesPerRequest=100)
    site.fill("AB", 1000, 7200)
    site.fill("C", 3, 7200)
    site.begin("ABC", 8000)
    async with site.reading():
        await until(lambda: site.arrived("ABC") and not site.state.coverage.behind(), site.shown)
    assert set(site.disk.counted().values()) == {1}
    assert not site.disk.live, "it is the past"
    assert site.archive.pace.spent >= 2003


async def test_one_bad_stream_that_fails_the_whole_call_is_found_and_costs_nobody_else() -> None:
    site = Site("ABC")
    site.fill("ABC", 100, 3600)
    site.begin("ABC", 4000)

    async def answer(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        if "B" in ids:
            raise refusal(404, ("PI Point not found.",))
        return None

    site.archive.answer = answer
    async with site.reading():
        await until(lambda: site.arrived("AC"), site.shown)
        handle = site.handle("B")
        assert handle is not None
        await until(lambda: site.reader.trouble_of(handle) != "", site.shown)
        assert "B" in site.lost, "its point is looked up again"
        assert site.archive.batches, "each alone, in one request"
        assert site.state.coverage.covered(handle) < NOW - 3900 * SECOND, "what was not read is not covered"
        site.archive.answer = None
        await until(lambda: site.arrived("B") and not site.state.coverage.behind(), site.shown)
        await until(lambda: site.reader.trouble_of(handle) == "", site.shown)
    assert set(site.disk.counted().values()) == {1}


async def test_a_server_without_batches_is_asked_one_by_one() -> None:
    site = Site("ABC")
    site.fill("AC", 10, 3600)
    site.begin("ABC", 4000)
    site.archive.no_batch = refusal(405, ())

    async def answer(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        if "B" in ids:
            raise refusal(400, ("The specified parameter is invalid.",))
        return None

    site.archive.answer = answer
    async with site.reading():
        await until(lambda: site.arrived("AC"), site.shown)
    assert site.archive.batches == 1


async def test_an_error_of_one_stream_inside_an_answer_holds_its_coverage_and_no_other() -> None:
    site = Site("AB")
    site.fill("AB", 100, 3600)
    site.begin("AB", 4000)
    errors = True

    async def answer(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        if not errors:
            return None
        items: list[dict[str, Any]] = [
            {"WebId": one, "Items": site.archive.page(one, start, stop, count)} for one in ids
        ]
        for item in items:
            if item["WebId"] == "B":
                item["Items"] = [{"Timestamp": format7(start), "Errors": [{"Message": ["Access denied."]}]}]
        if len(items) == 1 and path != "streamsets/recorded":
            return orjson.dumps({"Items": items[0]["Items"]})
        return orjson.dumps({"Items": items})

    site.archive.answer = answer
    async with site.reading():
        await until(lambda: site.arrived("A"), site.shown)
        handle = site.handle("B")
        assert handle is not None
        await until(lambda: site.reader.trouble_of(handle) == "Access denied.", site.shown)
        assert site.state.coverage.covered(handle) < NOW - 3900 * SECOND
        errors = False
        await until(lambda: site.arrived("B"), site.shown)
    assert set(site.disk.counted().values()) == {1}


async def test_a_stream_that_an_answer_leaves_out_is_asked_for_alone() -> None:
    site = Site("AB")
    site.fill("AB", 50, 3600)
    site.begin("AB", 4000)

    async def answer(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        if path == "streamsets/recorded":
            return orjson.dumps({"Items": [{"WebId": "A", "Items": site.archive.page("A", start, stop, count)}]})
        return None

    site.archive.answer = answer
    async with site.reading():
        await until(lambda: site.arrived("AB"), site.shown)


@pytest.mark.parametrize(
    "error",
    [MalformedError("broke an answer off"), refusal(500, ("Error occurred during writing of the output stream.",))],
    ids=["cut off", "WebException"],
)
async def test_an_answer_that_breaks_off_when_it_is_large_is_asked_for_in_smaller_parts(error: PiError) -> None:
    site = Site("AB")
    site.fill("AB", 1000, 3600)
    site.begin("AB", 4000)

    async def answer(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        if count * len(ids) > 20_000:
            raise error
        return None

    site.archive.answer = answer
    async with site.reading():
        await until(lambda: site.arrived("AB"), site.shown)
    assert set(site.disk.counted().values()) == {1}


async def test_a_server_that_gives_less_at_once_than_configured_is_asked_for_less() -> None:
    site = Site("AB")
    site.fill("AB", 1000, 3600)
    site.begin("AB", 4000)

    async def answer(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        if count * len(ids) > 5_000:
            raise refusal(400, (f"Parameter (maxCount) is greater than the maximum allowed ({5000 // len(ids)})",))
        return None

    site.archive.answer = answer
    async with site.reading():
        await until(lambda: site.arrived("AB"), site.shown)


async def test_while_nobody_answers_nothing_moves_and_then_everything_comes() -> None:
    site = Site("AB")
    site.fill("AB", 100, 3600)
    site.begin("AB", 4000)

    async def away(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        raise UnreachableError("refuses the connection")

    site.archive.answer = away
    async with site.reading():
        await until(lambda: site.reader.counts.failures >= 5, site.shown)
        assert not site.disk.rows
        assert site.state.coverage.behind() == 2
        site.archive.answer = None
        await until(lambda: site.arrived("AB"), site.shown)
    assert set(site.disk.counted().values()) == {1}


async def test_an_error_of_our_own_costs_a_try_and_not_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site("A")
    site.fill("A", 10, 3600)
    site.begin("A", 4000)
    true = decode_recorded
    left = 3

    def broken(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise ZeroDivisionError
        return true(*arguments)

    monkeypatch.setattr(module, "decode_recorded", broken)
    async with site.reading():
        await until(lambda: site.arrived("A"), site.shown)


async def test_polls_go_first_and_into_the_live_stream_while_the_past_is_read() -> None:
    site = Site("AB", parallel=2, valuesPerRequest=200)
    site.fill("A", 20_000, 7200)
    site.begin("A", 8000)
    handle = site.handle("B")
    assert handle is not None
    site.state.coverage.begin(handle, NOW - 5 * SECOND, 0, 0, 10**18)
    site.archive.values["B"] = [NOW - 3 * SECOND]
    async with site.reading():
        await until(lambda: len(site.disk.past) > 200, site.shown)
        site.state.coverage.want(site.handles("B"), NOW)
        await until(lambda: site.arrived("B"), site.shown)
        assert not site.arrived("A"), "the past makes room"
        await until(lambda: site.arrived("A"), site.shown)
    assert [row[0] for row in site.disk.live] == ["B"]
    assert {asked[5] for asked in site.archive.asked if asked[1] == ["B"]} == {LIVE}


async def test_the_past_waits_for_room_and_polls_do_not() -> None:
    site = Site("AB")
    site.fill("A", 100, 3600)
    site.begin("A", 4000)
    handle = site.handle("B")
    assert handle is not None
    site.state.coverage.begin(handle, NOW - 5 * SECOND, 0, 0, 10**18)
    site.archive.values["B"] = [NOW - 3 * SECOND]
    site.outlet.roomy = False
    async with site.reading():
        site.state.coverage.want(site.handles("B"), NOW)
        await until(lambda: site.arrived("B"), site.shown)
        await asyncio.sleep(0.05)
        assert not site.disk.past
        site.outlet.roomy = True
        await until(lambda: site.arrived("A"), site.shown)


async def test_the_past_can_be_paused_by_the_configuration_and_goes_on_where_it_was() -> None:
    site = Site("A", valuesPerRequest=200)
    site.fill("A", 5_000, 7200)
    site.begin("A", 8000)
    load = site.reader.load
    async with site.reading():
        await until(lambda: len(site.disk.past) > 400, site.shown)
        site.reader.load = load.model_copy(update={"backfill_values_per_second": 0})
        await until(lambda: not site.reader.status().get("reading"), site.shown)
        before = len(site.archive.asked)
        await asyncio.sleep(0.05)
        assert len(site.archive.asked) == before, "nothing more is asked for"
        assert site.reader.status()["paused"] == "load.backfillValuesPerSecond is 0"
        assert not site.arrived("A")
        site.reader.load = load
        await until(lambda: site.arrived("A"), site.shown)
    assert set(site.disk.counted().values()) == {1}


async def test_latency_is_overlapped_and_places_are_bounded() -> None:
    site = Site("ABCDEF", parallel=4, pointsPerRequest=1, valuesPerRequest=1000)
    site.fill("ABCDEF", 3000, 86400)
    site.begin("ABCDEF", 90_000)

    async def slow(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        await asyncio.sleep(0.01)
        return None

    site.archive.answer = slow
    async with site.reading():
        await until(lambda: site.arrived("ABCDEF"), site.shown)
    assert 2 <= site.archive.most_busy <= 2 * module.UNDER_WAY, "two places for the past, two requests each"


async def test_more_values_at_one_time_than_the_server_gives_are_told_and_passed_by() -> None:
    site = Site("A", valuesPerRequest=100)
    crowded = NOW - 1000 * SECOND
    site.archive.values["A"] = [crowded] * 150 + [NOW - 500 * SECOND]
    site.begin("A", 4000)
    async with site.reading():
        await until(lambda: ("A", NOW - 500 * SECOND, 0.0) in site.disk.rows, site.shown)
        await until(lambda: site.told, site.shown)
    kind, what = site.told[0]
    assert (kind, what["tag"], what["times_ns"]) == ("values-left-out", "A", [crowded])


async def test_a_long_web_id_leaves_room_for_fewer_in_one_address() -> None:
    site = Site("AB", pointsPerRequest=100, urlBytes=1500)
    site.reader.name(["x" * 300])
    assert 1 <= site.reader._most <= 4


@pytest.mark.parametrize("asked_for", [False, True])
async def test_what_was_on_its_way_when_its_streams_left_comes_when_they_are_back(asked_for: bool) -> None:
    site = Site("AB", valuesPerRequest=100)
    site.fill("AB", 2000, 86400)
    if asked_for:
        site.requested.add("range", NOW - 90_000 * SECOND, NOW, ["A", "B"])
    else:
        site.begin("AB", 90_000)
    streams = dict(site.streams)
    left = asyncio.Event()
    spent = 0

    async def spend(values: int) -> None:
        nonlocal spent
        spent += values
        if spent > 500 and not left.is_set():
            await asyncio.sleep(0.05)  # meanwhile the next answer comes, of the other stream
            site.streams.clear()
            for handle in streams:
                site.state.release(handle)
                site.intake.forget(handle)
            left.set()

    async def slow(path: str, ids: list[str], start: int, stop: int, count: int) -> bytes | None:
        await asyncio.sleep(0.03 * (ids == ["B"]))
        return None

    site.archive.pace.spend = spend  # type: ignore[method-assign]
    site.archive.answer = slow
    async with site.reading():
        await until(left.is_set, site.shown)
        await asyncio.sleep(0.1)
        for handle, stream in streams.items():
            assert site.state.handle(stream.key) == handle
            site.intake.fix(stream)
        site.streams.update(streams)
        if not asked_for:
            site.begin("AB", 0)
        await until(lambda: site.arrived("AB"), site.shown, 5.0)
    assert set(site.disk.counted().values()) == {1}
