"""Nothing is lost and nothing doubled, whatever ends between plant and outbox; the plant's own log is the judge.

Connections here are abandoned and made anew over the same outbox, as after the end of their process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import orjson
import pytest
import pytest_asyncio
from asyncua.client.ua_session import UaSession

from opcua_collector import connection, groups
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.connection import Connection
from opcua_collector.groups import SubscribedGroup
from opcua_collector.items import Items
from opcua_collector.kept import load_session
from opcua_collector.services import browse, monitoring
from opcua_collector.services.connecting import Identity
from opcua_collector.services.session import Look, Session
from opcua_collector.services.wire import Monitored
from opcua_collector.stack import UaStatusCodeError
from opcua_collector.subscriptions import publishing
from plant.line import Line
from plant.log import LoggedRow, read_log
from plant.opcua_server import PlantServer
from plant.process import PlantProcess
from plant.reconciliation import Delivered, reconcile
from plant.tags import UNIT_WIDTH
from plant.tags import tags as plant_tags
from plant.unit import Reading
from sluice.batch import EventBatch, Sample, SampleBatch, decode
from sluice.config import OutboxSettings
from sluice.log import Secret
from sluice.streams import Outlets

QUALITY = ("GOOD", "UNCERTAIN", "BAD")
T0 = 1_795_313_720_078_276_000
ROW = UNIT_WIDTH - 3
TAGS = {tag.tag: {"node": tag.node} for tag in plant_tags(1)}
ROW_TAG = plant_tags(1)[ROW].tag


class Subscription:
    active = True

    async def renew(self) -> None: ...

    async def close(self) -> None: ...


class Bus:
    """A local bus on which nobody listens: all that comes stays in the outbox."""

    async def publish(self, topic: str, payload: bytes) -> None: ...

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> Subscription:
        return Subscription()


class Reports:
    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        self.found[scope] = problem

    def clear(self, scope: str) -> None:
        self.found = {path: problem for path, problem in self.found.items() if not path.startswith(scope)}


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.01)


class Gateway:
    """A collector with one connection, which can end and begin again."""

    def __init__(self, folder: Path, endpoint: str, tags: Mapping[str, Any], **settings: Any) -> None:
        self.folder = folder
        self.settings = {
            "endpoint": endpoint,
            "security": {"policy": "None"},
            "publishingInterval": "50ms",
            "keepAlive": 1,
            "requestTimeout": 4,
            "tags": tags,
            **settings,
        }
        self.reports = Reports()
        self.password: Secret | None = None
        self.outlets: Outlets
        self.connection: Connection
        self.task: asyncio.Task[None]

    async def begin(self, **changes: Any) -> None:
        """Start, as a process does; its outbox may be there already."""
        self.settings |= changes
        configured = Settings.model_validate(self.settings)
        self.outlets = await Outlets.open(
            Bus(), "opcua-collector", self.folder / "outbox", OutboxSettings(), max_bytes=120_000, compress=True
        )
        self.connection = Connection(
            "line1",
            configured,
            configured.tags,
            outlet=self.outlets.outlet("line1"),
            identity=Identity(self.folder / "pki", "urn:test:collector"),
            password=self._resolve,
            problems=self.reports,
        )
        await self.outlets.start()
        self.task = asyncio.create_task(self.connection.run())

    async def _resolve(self, _: Settings) -> Secret | None:
        return self.password

    def change(self, **changes: Any) -> None:
        self.settings |= changes
        configured = Settings.model_validate(self.settings)
        self.connection.reconfigure(configured, configured.tags)

    async def end(self, *, warning: bool = True) -> None:
        """Stop. Without warning, what is noted at a proper end is not."""
        if not warning:
            self.connection._intake.checkpoint = lambda: None  # type: ignore[method-assign]
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.outlets.close()

    def status(self) -> dict[str, Any]:
        return self.connection.status()

    @property
    def rung(self) -> str:
        return str(self.status().get("recovery", {}).get("rung", ""))

    @property
    def items(self) -> Items:
        """Of the tags that name no group."""
        return self.group("").items

    def group(self, name: str) -> SubscribedGroup:
        group = self.connection._groups[name]
        assert isinstance(group, SubscribedGroup)
        return group

    def state(self) -> Any:
        return self.status(), self.reports.found, self.outlets.ledgers()

    async def runs(self) -> None:
        await until(lambda: self.connection.state.state == "running", self.state)

    async def monitors(self, count: int) -> None:
        await until(lambda: self.status()["monitored"] == count, self.state)

    async def connects(self, count: int) -> None:
        await until(lambda: self.status().get("connects") == count, self.state)

    async def samples(self) -> list[Sample]:
        """All that is in the outbox, live and read back."""
        found: list[Sample] = []
        for batch in await self._batches("opcua-collector/line1") + await self._batches(
            "opcua-collector/line1/backfill"
        ):
            assert isinstance(batch, SampleBatch)
            found += batch.columns.samples()
        return found

    async def events(self, kind: str) -> list[Mapping[str, Any]]:
        batches = await self._batches("opcua-collector/line1/events")
        events = [event for batch in batches if isinstance(batch, EventBatch) for event in batch.events]
        return [event for event in events if event["kind"] == kind]

    async def _batches(self, stream: str) -> list[Any]:
        found: list[Any] = []
        after = 0
        while frames := await self.outlets._outbox.read(stream, after + 1, 10_000_000):
            found += [decode(frame.payload) for frame in frames]
            after = frames[-1].seq
        return found

    async def of(self, tag: str) -> list[Any]:
        return [sample.value for sample in await self.samples() if sample.tag == tag]

    async def count(self, tag: str, least: int) -> None:
        end = time.monotonic() + 30
        while len(await self.of(tag)) < least:
            assert time.monotonic() < end, (await self.of(tag), self.state())
            await asyncio.sleep(0.02)


# --- against a plant as a process -----------------------------------------------------------------------------------


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[PlantProcess]:
    async with PlantProcess(tmp_path / "plant", rate=2000, units=1, policies=["None"]) as plant:
        yield plant


@pytest.fixture
async def line(plant: PlantProcess) -> AsyncIterator[Line]:
    async with Line(urlparse(plant.endpoint).port or 0) as line:
        yield line


@pytest.fixture
async def gateway(tmp_path: Path, plant: PlantProcess, line: Line) -> AsyncIterator[Gateway]:
    """Runs, and the plant produces."""
    gateway = Gateway(tmp_path / "gateway", f"opc.tcp://127.0.0.1:{line.port}/plant", TAGS)
    await gateway.begin()
    await plant.watched()
    await plant.produce()
    await until(lambda: plant.samples() > 500, gateway.state)
    yield gateway
    await gateway.end()


async def judge(gateway: Gateway, plant: PlantProcess) -> None:
    """All that the plant logged is in the outbox, each sample once."""
    produced = await plant.finish()
    await until(lambda: gateway.outlets.ledgers()["opcua-collector/line1"]["kept"] >= produced, gateway.state)
    delivered = [Delivered(s.tag, s.time, s.value, QUALITY[s.quality]) for s in await gateway.samples()]
    report = reconcile(plant.log, {"outbox": delivered}).as_dict()["destinations"]["outbox"]
    assert (report["lost"], report["duplicated"], report["wrong"], report["unexpected"]) == (0, 0, 0, 0), report
    assert report["delivered"] == produced
    assert not await gateway.events("gap")


async def test_a_line_that_is_cut_for_seconds_and_then_again_and_again_costs_nothing(
    gateway: Gateway, plant: PlantProcess, line: Line
) -> None:
    line.refuse(True)
    await line.cut()
    await asyncio.sleep(2.5)  # the length of the outage
    line.refuse(False)
    await gateway.connects(2)
    assert gateway.rung == "resumed"
    for cuts in range(3, 7):
        await line.cut()
        await gateway.connects(cuts)
    await judge(gateway, plant)
    status = gateway.status()
    assert (status["renewed"], status["resumed"]) == (1, 5), status


async def test_a_line_that_swallows_everything_costs_nothing(gateway: Gateway, plant: PlantProcess, line: Line) -> None:
    """Half-open: nobody is told that it is dead, until the keep-alive does not come."""
    line.blackhole(True)
    await until(lambda: gateway.connection.state.state == "waiting", gateway.state)
    line.blackhole(False)
    await until(lambda: gateway.connection.state.state == "running", gateway.state)
    assert gateway.rung == "resumed"
    await judge(gateway, plant)


async def test_a_slow_line_costs_nothing_and_is_not_taken_for_a_dead_one(
    gateway: Gateway, plant: PlantProcess, line: Line
) -> None:
    await gateway.end()
    line.delay(0.15)  # 300 ms there and back
    await gateway.begin()
    await gateway.connects(1)
    before = plant.samples()
    await until(lambda: plant.samples() > before + 4000, gateway.state)
    await judge(gateway, plant)
    status = gateway.status()
    assert (status["connects"], status.get("losses", 0), gateway.rung) == (1, 0, "resumed"), status
    assert status["requests"] > 5


@pytest.mark.alone
async def test_a_collector_that_ends_with_or_without_warning_goes_on_where_it_was_in_less_than_a_second(
    gateway: Gateway, plant: PlantProcess
) -> None:
    for warning in (True, False, True, False):
        await gateway.end(warning=warning)
        await asyncio.sleep(0.3)  # it is away
        began = time.monotonic()
        await gateway.begin()
        await gateway.runs()
        assert time.monotonic() - began < 1.0
        assert gateway.rung == "resumed"
        await until(lambda: gateway.status()["received"] > 200, gateway.state)
    await judge(gateway, plant)


def logged(plant: PlantProcess, wanted: Collection[str]) -> set[tuple[str, int]]:
    """What the plant produced of these tags: tag and time."""
    rows = (row for row in read_log(plant.log) if isinstance(row, LoggedRow))
    return {(tag, row.time_ns) for row in rows for tag in row.values if tag in wanted}


def in_groups(every: int, first: int = 0) -> dict[str, Any]:
    """The plant's tags; each so-many-th one is in group fast, the one behind it in group slow."""
    groups = {first: {"group": "fast"}, (first + 1) % every: {"group": "slow"}}
    return {tag: {**TAGS[tag], **groups.get(number % every, {})} for number, tag in enumerate(TAGS)}


GROUPS = {"fast": {"publishingInterval": "20ms"}, "slow": {"publishingInterval": "200ms"}}


@pytest.fixture
async def grouped(tmp_path: Path, plant: PlantProcess, line: Line) -> AsyncIterator[Gateway]:
    """The same with tags in three groups: a session with three subscriptions."""
    endpoint = f"opc.tcp://127.0.0.1:{line.port}/plant"
    gateway = Gateway(tmp_path / "gateway", endpoint, in_groups(3), groups=GROUPS)
    await gateway.begin()
    await plant.watched()
    await plant.produce()
    await until(lambda: plant.samples() > 500, gateway.state)
    yield gateway
    await gateway.end()


async def test_groups_have_subscriptions_of_their_own_and_lose_nothing_over_cuts_and_kills(
    grouped: Gateway, plant: PlantProcess, line: Line
) -> None:
    groups = grouped.status()["groups"]
    assert {name: group["publishing_interval_s"] for name, group in groups.items()} == {
        "(connection)": 0.05,
        "fast": 0.02,
        "slow": 0.2,
    }
    for cuts in range(2, 4):
        await line.cut()
        await grouped.connects(cuts)
        assert grouped.rung == "resumed"
    for warning in (False, True):
        await grouped.end(warning=warning)
        await asyncio.sleep(0.3)
        await grouped.begin()
        await grouped.runs()
        assert grouped.rung == "resumed"
    await judge(grouped, plant)


async def test_tags_and_intervals_of_one_group_change_and_groups_come_and_go_while_the_others_lose_nothing(
    grouped: Gateway, plant: PlantProcess
) -> None:
    """The plant's own log is the judge of all tags that stay where they are."""
    await until(lambda: grouped.status()["monitored"] == len(TAGS), grouped.state)
    grouped.change(groups={**GROUPS, "fast": {"publishingInterval": "40ms"}})
    await until(lambda: grouped.status()["groups"]["fast"]["publishing_interval_s"] == 0.04, grouped.state)
    changed = {
        tag: {**one, "group": "new"} if one.get("group") == "slow" else one
        for tag, one in grouped.settings["tags"].items()
    }
    grouped.change(tags=changed, groups={**GROUPS, "new": {"publishingInterval": "60ms"}})
    await until(lambda: set(grouped.status()["groups"]) == {"(connection)", "fast", "new"}, grouped.state)
    await until(lambda: grouped.status()["monitored"] == len(TAGS), grouped.state)
    fast = {tag for tag, one in changed.items() if one.get("group") == "fast"}
    grouped.change(tags={tag: one for tag, one in changed.items() if tag not in fast})
    await until(lambda: set(grouped.status()["groups"]) == {"(connection)", "new"}, grouped.state)
    await until(lambda: grouped.status()["monitored"] == len(TAGS) - len(fast), grouped.state)
    status = grouped.status()
    assert (status["connects"], status.get("losses", 0), status.get("ended", 0)) == (1, 0, 0), status
    await plant.finish()
    staying = [tag.tag for tag in plant_tags(1) if tag.tag not in fast]
    produced = logged(plant, staying)

    async def lacking() -> set[tuple[str, int]]:
        return produced - {(sample.tag, sample.time) for sample in await grouped.samples()}

    end = time.monotonic() + 30
    while lack := await lacking():
        assert time.monotonic() < end, (len(lack), sorted(lack)[:5], grouped.state())
        await asyncio.sleep(0.1)
    times = [(sample.tag, sample.time) for sample in await grouped.samples() if sample.tag in staying]
    assert len(times) == len(set(times))
    assert (await plant.counters())["services"].get("Write", 0) == 0


# --- against a server in this process -------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantServer]:
    plant = PlantServer(1, work=tmp_path_factory.mktemp("server"), user=("operator", "Kennwort-7"))
    await plant.start()
    yield plant
    await plant.stop()


_rows = iter(range(1, 1_000_000))
USER = {"name": "operator", "password": {"file": "x"}, "allowUnencrypted": True}
SOME = {ROW_TAG: TAGS[ROW_TAG]}


async def show(server: PlantServer, count: int, column: int = ROW) -> list[int]:
    """Show rows in which only one column is new, numbers that never come again; return those numbers."""
    shown = [next(_rows) for _ in range(count)]
    for row in shown:
        values: list[Any] = [None] * UNIT_WIDTH
        values[column] = row
        await server.show(T0 + row * 1_000_000, [Reading(tuple(values), (0,) * UNIT_WIDTH, (column,))])
    return shown


class Rig(Gateway):
    """A gateway to the server in this process, over a line."""

    def __init__(self, folder: Path, line: Line, **settings: Any) -> None:
        super().__init__(folder, f"opc.tcp://127.0.0.1:{line.port}/plant", SOME, user=USER, **settings)
        self.password = Secret("Kennwort-7")
        self.line = line

    async def away(self) -> None:
        """The line is cut, until `back`."""
        self.line.refuse(True)
        await self.line.cut()
        await until(lambda: self.connection.state.state == "waiting", self.state)

    async def back(self) -> None:
        connects = self.status()["connects"]
        self.line.refuse(False)
        await self.connects(connects + 1)


@pytest_asyncio.fixture(loop_scope="module")
async def rig(tmp_path: Path, server: PlantServer) -> AsyncIterator[Rig]:
    async with Line(urlparse(server.endpoint).port or 0) as line:
        rig = Rig(tmp_path, line)
        await rig.begin()
        await rig.monitors(1)
        yield rig
        rig.connection.leave()
        await rig.end()


here = pytest.mark.asyncio(loop_scope="module")


async def has(rig: Rig, rows: list[int]) -> None:
    """These are there, in this order and each once."""
    end = time.monotonic() + 30
    while [value for value in await rig.of(ROW_TAG) if value in rows] != rows:
        assert time.monotonic() < end, (rows, await rig.of(ROW_TAG), rig.state())
        await asyncio.sleep(0.02)


@here
async def test_a_session_that_was_forgotten_is_replaced_and_its_subscription_transferred(
    rig: Rig, server: PlantServer
) -> None:
    shown = await show(server, 3)
    await has(rig, shown)
    await rig.away()
    await server.forget(subscriptions=False)
    shown += await show(server, 3)
    await rig.back()
    assert rig.rung == "transferred"
    shown += await show(server, 3)
    await has(rig, shown)
    assert server.subscriptions == 1
    assert not await rig.events("gap")


@here
async def test_a_subscription_that_was_forgotten_is_made_anew_and_what_came_meanwhile_is_read_back(
    rig: Rig, server: PlantServer
) -> None:
    before = await show(server, 3)
    await has(rig, before)
    await rig.away()
    await server.forget(subscriptions=True)
    away = await show(server, 5)
    await rig.back()
    assert rig.rung == "renewed"
    await rig.monitors(1)
    assert rig.status()["gaps"] == 1
    after = await show(server, 3)
    await has(rig, before + after + away[:-1])  # read back last; the value that stood there at first is one of the live
    assert [value for value in await rig.of(ROW_TAG) if value in away].count(away[-1]) == 1
    assert not await rig.events("gap")


@here
@pytest.mark.parametrize("mode", ["SignAndEncrypt", "Sign"])
async def test_a_protected_session_is_resumed_over_a_lost_line_and_by_another_process(
    rig: Rig, server: PlantServer, mode: str
) -> None:
    """The signature covers the nonce that the server gave last: a stale one would not do."""
    rig.connection.leave()
    await rig.end()
    secured = {"policy": "Basic256Sha256", "mode": mode, "trust": "first-use"}
    user = {"name": "operator", "password": {"file": "x"}}
    await rig.begin(security=secured, user=user)
    await rig.connects(1)
    await rig.monitors(1)
    shown = await show(server, 2)
    await has(rig, shown)
    await rig.away()
    shown += await show(server, 2)
    await rig.back()
    assert (rig.rung, rig.status()["policy"]) == ("resumed", f"Basic256Sha256/{mode}")
    await has(rig, shown)
    await rig.end()
    shown += await show(server, 2)
    await rig.begin()
    await rig.connects(1)
    assert rig.rung == "resumed"
    await has(rig, shown)
    assert server.subscriptions == 1


@here
async def test_tags_that_changed_while_it_was_away_are_made_good_and_take_nobodys_values(
    rig: Rig, server: PlantServer
) -> None:
    other = plant_tags(1)[0]
    gone = plant_tags(1)[1]
    rig.change(tags={**SOME, gone.tag: TAGS[gone.tag]})
    await rig.monitors(2)
    await show(server, 1, column=1)
    await rig.count(gone.tag, 1)
    await rig.end()
    shown = await show(server, 2)
    await show(server, 1, column=1)
    await rig.begin(tags={**SOME, other.tag: TAGS[other.tag], "New": TAGS[other.tag]})
    await rig.monitors(3)
    assert rig.rung == "resumed"
    values = await show(server, 1, column=0)
    await show(server, 1, column=1)
    await rig.count("New", 1)
    await rig.count(other.tag, 1)
    await has(rig, shown)
    assert (await rig.of("New"))[-1:] == (await rig.of(other.tag))[-1:] == [float(values[0])]
    assert len(await rig.of(gone.tag)) == 1


@here
async def test_an_item_that_it_did_not_live_to_note_gives_its_values_to_nobody(rig: Rig, server: PlantServer) -> None:
    """Killed between the creation of an item and the note of it: its client handle must never mean another tag."""
    unnoted, other = plant_tags(1)[2], plant_tags(1)[3]
    outlet = rig.outlets.outlet("line1")
    note = outlet.note
    written: list[bytes | None] = []

    def forgetful(positions: Mapping[str, bytes | None]) -> Any:
        if "items" in positions:
            written.append(positions["items"])
            if len(written) > 1:  # the first reserves the handle
                positions = {}
        return note(positions)

    outlet.note = forgetful  # type: ignore[method-assign]
    rig.change(tags={**SOME, unnoted.tag: TAGS[unnoted.tag]})
    await rig.monitors(2)
    await rig.end()
    await rig.begin(tags={**SOME, other.tag: TAGS[other.tag]})
    await rig.monitors(2)
    assert rig.rung == "resumed"
    await show(server, 2, column=2)
    values = await show(server, 1, column=3)
    await rig.count(other.tag, 1)
    assert (await rig.of(other.tag))[-1] == float(values[0])
    assert not await rig.of(unnoted.tag)
    assert set(await rig.of(other.tag)) <= {None, float(values[0])}


@here
async def test_what_an_item_brought_that_it_did_not_live_to_note_is_read_back(rig: Rig, server: PlantServer) -> None:
    """Its values came and were kept; those of the time until it is made again are nobody's, so they are a gap."""
    added = plant_tags(1)[2]
    outlet = rig.outlets.outlet("line1")
    note = outlet.note
    written: list[bytes | None] = []

    def forgetful(positions: Mapping[str, bytes | None]) -> Any:
        if "items" in positions:
            written.append(positions["items"])
            if len(written) > 1:  # the first reserves the handle
                positions = {}
        return note(positions)

    outlet.note = forgetful  # type: ignore[method-assign]
    rig.change(tags={**SOME, added.tag: TAGS[added.tag]})
    await rig.monitors(2)
    values = await show(server, 2, column=2)
    await rig.count(added.tag, 2)
    await rig.end(warning=False)
    values += await show(server, 3, column=2)
    await rig.begin()
    await rig.monitors(2)
    assert rig.rung == "resumed"
    values += await show(server, 2, column=2)
    await complete(rig, added.tag, values)


@here
async def test_nothing_is_remembered_of_a_tag_that_is_removed_before_its_other_group_has_it(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await has(rig, await show(server, 2))

    async def refused(*_: Any) -> Any:
        raise UaStatusCodeError(0x80770000)  # BadTooManySubscriptions

    monkeypatch.setattr(Session, "subscribe", refused)
    rig.change(tags={ROW_TAG: {**TAGS[ROW_TAG], "group": "fast"}, FAST: TAGS[FAST]}, groups={"fast": {"outage": "1m"}})
    assembler = rig.connection._intake.assembler
    assert (list(assembler.parked), rig.connection._intake.gaps.status()["tags"]) == ([ROW_TAG], 1)
    rig.change(tags={FAST: TAGS[FAST]})
    assert (assembler.parked, rig.connection._intake.gaps.status()) == ({}, {})


@here
async def test_many_groups_each_have_a_subscription_and_the_status_says_how_many_it_leaves_out(
    rig: Rig, server: PlantServer
) -> None:
    some = [tag.tag for tag in plant_tags(1)][:20]
    tags = {**{tag: {**TAGS[tag], "group": f"g{number}"} for number, tag in enumerate(some)}, **SOME}
    rig.change(tags=tags, groups={f"g{number}": {"publishingInterval": "100ms"} for number in range(20)})
    await rig.monitors(21)
    status = rig.status()
    assert (len(status["groups"]), status["more_groups"]) == (16, 5)
    shown, other = await show(server, 2), await show(server, 2, column=5)
    await has(rig, shown)
    await fast(rig, other)
    await rig.end(warning=False)
    shown += await show(server, 2)
    other += await show(server, 2, column=5)
    await rig.begin()
    await has(rig, shown)
    await fast(rig, other)
    assert rig.rung == "resumed"


@here
async def test_a_tag_that_is_in_another_group_after_a_restart_lacks_nothing(rig: Rig, server: PlantServer) -> None:
    await two_groups(rig, server)
    moved = plant_tags(1)[5]
    values = await show(server, 2, column=5)
    await fast(rig, values)
    await rig.end()
    values += await show(server, 3, column=5)
    await rig.begin(tags={**SOME, moved.tag: TAGS[moved.tag]}, groups={})
    await rig.monitors(2)
    assert rig.rung == "resumed"
    values += await show(server, 2, column=5)
    await complete(rig, moved.tag, values)


async def complete(rig: Rig, tag: str, values: list[int]) -> None:
    """All of these have come, each once, live or read back."""
    wanted = sorted(map(float, values))
    end = time.monotonic() + 30
    while (found := sorted(value for value in await rig.of(tag) if value in wanted)) != wanted:
        assert time.monotonic() < end, (found, wanted, rig.state())
        await asyncio.sleep(0.05)


@here
async def test_a_server_that_refuses_its_clock_or_does_not_answer_is_collected_without(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [UaStatusCodeError(0x80DB0000), asyncio.TimeoutError(), (0x80DB0000, 0.0)]
    asked: list[int] = []

    async def refuses(self: Session, subscription: int, interval: float) -> tuple[int, float]:
        asked.append(subscription)
        answer = answers[(len(asked) - 1) % len(answers)]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def reached(count: int) -> bool:
        return len(asked) >= count

    monkeypatch.setattr(Session, "canary", refuses)
    rig.change(tags=TWO, groups={"a": {}, "fast": {"publishingInterval": "20ms"}})
    await rig.monitors(2)
    await until(lambda: len(asked) == 1, rig.state)
    await until(lambda: "unproven" in str(rig.status()), rig.state)
    for session in (2, 3):
        await rig.away()
        await rig.back()
        await until(partial(reached, session), rig.state)
        await has(rig, await show(server, 2))
    assert rig.status()["connects"] == 3, "it costs no session"


@here
async def test_a_subscription_of_an_earlier_release_lives_on_at_a_server_that_changes_none(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await has(rig, await show(server, 1))
    await rig.end()
    kept = load_session(rig.outlets.outlet("line1").position("session"), Settings.model_validate(rig.settings))
    assert kept is not None
    modified: list[int] = []

    async def unknown(*_: Any) -> Any:
        modified.append(1)
        raise UaStatusCodeError(0x800B0000)  # BadServiceUnsupported

    monkeypatch.setattr(Session, "modify", unknown)
    old = {name: replace(one, asked=None, canary=0.0) for name, one in kept.subscriptions.items()}
    monkeypatch.setattr(connection, "load_session", lambda *_: replace(kept, subscriptions=old))
    shown = await show(server, 3)
    await rig.begin()
    await rig.connects(1)
    await until(lambda: modified, rig.state)
    await has(rig, shown)
    assert (rig.rung, rig.status().get("ended", 0), rig.status().get("gaps", 0)) == ("resumed", 0, 0)


@here
async def test_an_item_of_which_the_answer_was_lost_gives_its_values_once(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line was cut between the server's creation of an item and its answer: a second one must not double it."""
    added = plant_tags(1)[4]
    monitor = monitoring.monitor

    async def made_and_not_told(*arguments: Any) -> Any:
        monkeypatch.undo()
        await monitor(*arguments)
        await rig.line.cut()
        raise ConnectionResetError

    monkeypatch.setattr(monitoring, "monitor", made_and_not_told)
    rig.change(tags={**SOME, added.tag: TAGS[added.tag]})
    await rig.connects(2)
    assert rig.rung == "resumed"
    await rig.monitors(2)
    values = [float(value) for value in await show(server, 3, column=4)]
    await rig.count(added.tag, 3)
    shown = await show(server, 1)
    await has(rig, shown)
    assert [value for value in await rig.of(added.tag) if value in values] == values


@here
async def test_settings_that_need_another_session_end_the_old_one_politely(rig: Rig, server: PlantServer) -> None:
    shown = await show(server, 2)
    await has(rig, shown)
    rig.change(user={**USER, "password": {"file": "y"}})
    await rig.connects(2)
    await rig.monitors(1)
    assert (rig.rung, server.subscriptions, server.sessions) == ("renewed", 1, 1)
    assert rig.status()["gaps"] == 1
    shown += await show(server, 2)
    await has(rig, shown)


@here
async def test_settings_that_need_another_channel_only_keep_the_session(rig: Rig, server: PlantServer) -> None:
    shown = await show(server, 2)
    rig.change(requestTimeout=3)
    await rig.connects(2)
    assert rig.rung == "resumed"
    shown += await show(server, 2)
    await has(rig, shown)


@here
async def test_a_connection_that_is_removed_says_goodbye_and_leaves_nothing_but_its_data(
    rig: Rig, server: PlantServer
) -> None:
    shown = await show(server, 2)
    await has(rig, shown)
    rig.connection.leave()
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)
    rig.connection.forget()
    assert server.subscriptions == 0
    outlet = rig.outlets.outlet("line1")
    assert all(outlet.position(key) is None for key in ("session", "items", "sequence", "marks", "gaps"))
    await has(rig, shown)


@here
async def test_a_restarted_server_is_not_taken_for_the_old_one(rig: Rig, server: PlantServer) -> None:
    """Its ids count from the beginning: the session with our token, and the subscription, may be somebody else's."""
    shown = await show(server, 1)
    await has(rig, shown)
    await rig.away()
    kept = rig.connection._kept
    assert kept is not None
    rig.connection._kept = replace(kept, started="2020-01-01")
    await rig.back()
    assert (rig.rung, rig.status()["gaps"]) == ("renewed", 1)
    await rig.monitors(1)
    shown += await show(server, 2)
    await has(rig, shown)


@here
async def test_a_full_outbox_pauses_a_source_that_can_be_read_again_and_it_resumes(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = await show(server, 1)
    await has(rig, shown)
    outlet = rig.outlets.outlet("line1")
    full = True
    monkeypatch.setattr(type(outlet), "full", property(lambda self: full))
    shown += await show(server, 1)  # the answer that is under way is taken, no other is asked for
    await until(lambda: rig.connection.state.state == "paused", rig.state)
    assert "consumer" in rig.connection.state.remedy
    shown += await show(server, 5)
    full = False
    await rig.connects(2)
    assert rig.rung == "resumed"
    await has(rig, shown)


@here
async def test_damaged_notes_mean_a_new_beginning_and_nothing_worse(rig: Rig, server: PlantServer) -> None:
    await has(rig, await show(server, 1))
    await rig.end()
    await rig.begin()
    await rig.connects(1)
    await rig.outlets.outlet("line1").note({"session": b"\xff rubbish", "items": b"{}", "sequence": b"x"})
    await rig.end()
    await rig.begin()
    await rig.connects(1)
    assert rig.rung == "renewed"
    await rig.monitors(1)
    await has(rig, await show(server, 1))


@here
async def test_items_as_another_release_writes_them_mean_a_new_subscription_and_nothing_worse(
    rig: Rig, server: PlantServer
) -> None:
    """After a way back to an older release what it finds may be of another shape."""
    await has(rig, await show(server, 1))
    outlet = rig.outlets.outlet("line1")
    await until(lambda: outlet.position("items"), rig.state)
    kept = orjson.loads(outlet.position("items") or b"")
    kept["items"][0][9] = [0.05, 10, True, "value", 0, 0.0, "", "something new"]
    await rig.end()
    await rig.begin()
    await rig.connects(1)
    await rig.outlets.outlet("line1").note({"items": orjson.dumps(kept)})
    await rig.end()
    await rig.begin()
    await rig.connects(1)
    assert rig.rung == "renewed"
    await rig.monitors(1)
    await has(rig, await show(server, 1))


@here
async def test_tries_that_come_to_nothing_cost_a_server_no_session(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small servers have five, and each would be taken until its timeout."""
    shown = await show(server, 1)
    await has(rig, shown)
    made = ended = 0
    create, close = UaSession.create_session, UaSession.close_session

    async def created(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        return await create(*arguments)

    async def closed(*arguments: Any) -> None:
        nonlocal ended
        await close(*arguments)
        ended += 1

    async def refused(*_: Any) -> Any:
        raise UaStatusCodeError(0x80770000)  # BadTooManySubscriptions

    monkeypatch.setattr(UaSession, "create_session", created)
    monkeypatch.setattr(UaSession, "close_session", closed)
    await rig.away()
    await server.forget(subscriptions=True)
    rig.password = Secret("another")
    rig.line.refuse(False)
    await until(lambda: made == 3, rig.state)
    assert "connections.line1.user" in rig.reports.found
    assert ended >= 2
    with monkeypatch.context() as patch:
        patch.setattr(Session, "subscribe", refused)
        rig.password = Secret("Kennwort-7")
        await until(lambda: "no subscription left" in str(rig.reports.found), rig.state)
        begun = made
        await until(lambda: made == begun + 2, rig.state)
        assert ended >= made - 1
    await rig.connects(2)
    await rig.monitors(1)
    shown += await show(server, 2)
    await has(rig, shown)
    assert (server.sessions, server.subscriptions) == (1, 1)


@here
async def test_what_was_transferred_into_a_session_outlives_it(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is lost before anything was fetched: the subscription is transferred once more, into another session."""
    shown = await show(server, 2)
    await has(rig, shown)
    await rig.away()
    await server.forget(subscriptions=False)
    shown += await show(server, 3)
    transfer = Session.transfer
    transferred = 0

    async def interrupted(*arguments: Any) -> Any:
        nonlocal transferred
        transferred += 1
        answer = await transfer(*arguments)
        if transferred == 1:
            raise UaStatusCodeError(0x80260000)  # BadSessionClosed
        return answer

    monkeypatch.setattr(Session, "transfer", interrupted)
    await rig.back()
    assert (rig.rung, transferred) == ("transferred", 2)
    await has(rig, shown)
    assert (server.sessions, server.subscriptions) == (1, 1)
    assert not await rig.events("gap")


@here
async def test_a_queue_of_one_value_tells_of_no_loss_so_what_an_outage_cost_is_read_back(
    rig: Rig, server: PlantServer
) -> None:
    rig.change(queueSize=1)
    await until(lambda: rig.status()["queue"] == 1, rig.state)
    before = await show(server, 1)
    await has(rig, before)
    await rig.away()
    away = await show(server, 5)
    await rig.back()
    assert (rig.rung, rig.status()["queue"]) == ("resumed", 1)
    await has(rig, before + away[-1:] + away[:-1])


@here
async def test_a_tag_that_was_refused_and_then_half_monitored_lacks_what_it_lacked_before(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new client handle, because of what the server may send twice, is no new tag."""
    before = await show(server, 2)
    await has(rig, before)
    await rig.away()
    await server.forget(subscriptions=True)
    away = await show(server, 3)
    monitor = monitoring.monitor
    calls = 0

    async def hindered(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            return [Monitored(0x80340000)]  # BadNodeIdUnknown
        made = await monitor(*arguments)
        if calls == 2:
            await rig.line.cut()
            raise ConnectionResetError
        return made

    monkeypatch.setattr(monitoring, "monitor", hindered)
    await rig.back()
    await until(lambda: "does not exist" in str(rig.reports.found), rig.state)
    rig.items._trouble[ROW_TAG].due = 0.0
    rig.change()
    await rig.monitors(1)
    assert calls == 3
    after = await show(server, 2)
    await has(rig, before + away[-1:] + after + away[:-1])


@here
async def test_a_node_of_a_server_that_was_restarted_is_asked_for_nothing_until_it_is_found_again(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its namespaces may have another order: the old node id can stand for another tag, and so can its history."""
    await has(rig, await show(server, 1))
    items = rig.items
    (handle,) = items.names
    assert items.node(handle) is not None
    found: list[Any] = []
    resolve = browse.resolve

    async def looked(*arguments: Any) -> Any:
        found.append(items.node(handle))
        return await resolve(*arguments)

    monkeypatch.setattr(browse, "resolve", looked)
    await rig.away()
    await server.forget(subscriptions=True)
    await rig.back()
    await rig.monitors(1)
    assert found == [None]
    assert items.node(handle) is not None


@here
async def test_a_node_that_is_refused_again_and_again_costs_the_disk_nothing(rig: Rig, server: PlantServer) -> None:
    outlet = rig.outlets.outlet("line1")
    rig.change(tags={**SOME, "Gone": {"node": "nsu=urn:sluice:plant;s=Gone"}})
    await until(lambda: rig.status().get("bad_tags"), rig.state)
    noted: list[str] = []
    note = outlet.note

    def listen(positions: Mapping[str, bytes | None]) -> Any:
        noted.extend(positions)
        return note(positions)

    outlet.note = listen  # type: ignore[method-assign]
    trouble = rig.items._trouble["Gone"]
    refused = rig.reports.found.pop("connections.line1.tags.Gone.node")
    trouble.due = 0.0
    rig.change()
    await until(lambda: rig.reports.found.get("connections.line1.tags.Gone.node") == refused, rig.state)
    assert trouble is rig.items._trouble["Gone"]
    assert "items" not in noted


# --- several subscriptions ---

FAST = plant_tags(1)[5].tag
TWO = {**SOME, FAST: {**TAGS[FAST], "group": "fast"}}


async def two_groups(rig: Rig, server: PlantServer) -> int:
    """The rig has two subscriptions; the id of that of group fast."""
    rig.change(tags=TWO, groups={"fast": {"publishingInterval": "20ms"}})
    await rig.monitors(2)
    assert server.subscriptions == 2
    feed = rig.group("fast").feed
    assert feed is not None
    return feed.subscribed.id


async def drop(server: PlantServer, subscription: int) -> None:
    """The server forgets one subscription and says nothing."""
    await server._internal.mended_subscriptions.delete_subscriptions([subscription])


async def fast(rig: Rig, rows: list[int]) -> None:
    """These came for the tag of group fast, in this order and each once."""
    wanted = [float(row) for row in rows]
    end = time.monotonic() + 30
    while [value for value in await rig.of(FAST) if value in wanted] != wanted:
        assert time.monotonic() < end, (wanted, await rig.of(FAST), rig.state())
        await asyncio.sleep(0.02)


@here
async def test_of_two_subscriptions_the_one_that_is_gone_is_made_anew_and_the_other_resumed(
    rig: Rig, server: PlantServer
) -> None:
    number = await two_groups(rig, server)
    shown, other = await show(server, 2), await show(server, 2, column=5)
    await has(rig, shown)
    await fast(rig, other)
    gaps = rig.status().get("gaps", 0)
    await rig.away()
    await drop(server, number)
    shown += await show(server, 3)
    missed = await show(server, 3, column=5)
    await rig.back()
    assert rig.rung == "renewed", "the worst of both"
    await rig.monitors(2)
    shown += await show(server, 2)
    other += await show(server, 2, column=5)
    await has(rig, shown)
    await fast(rig, [*other[:2], missed[-1], *other[2:], *missed[:-1]])  # what history has comes last
    assert (server.subscriptions, rig.status()["gaps"]) == (2, gaps + 1)
    assert not await rig.events("gap")


@here
async def test_a_subscription_that_the_server_drops_without_a_word_is_missed_alone(
    rig: Rig, server: PlantServer
) -> None:
    number = await two_groups(rig, server)
    shown = await show(server, 2)
    await fast(rig, await show(server, 1, column=5))
    await drop(server, number)
    missed = await show(server, 3, column=5)
    shown += await show(server, 2)
    await until(lambda: rig.status().get("ended") == 1, rig.state)
    await rig.monitors(2)
    await until(lambda: server.subscriptions == 2, rig.state)
    await fast(rig, missed[-1:] + missed[:-1])
    await has(rig, shown)
    status = rig.status()
    assert (status["connects"], status.get("losses", 0), status["state"]) == (1, 0, "running")


@here
async def test_a_group_that_gets_no_subscription_waits_alone_and_is_told(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_REFUSED_PAUSES", (0.2, 0.2))

    async def refused(*_: Any) -> Any:
        raise UaStatusCodeError(0x80770000)  # BadTooManySubscriptions

    with monkeypatch.context() as patch:
        patch.setattr(Session, "subscribe", refused)
        rig.change(tags=TWO, groups={"fast": {"publishingInterval": "20ms"}})
        await until(lambda: "connections.line1.groups.fast" in rig.reports.found, rig.state)
        await has(rig, await show(server, 3))
        await rig.away()
        await rig.back()
        assert rig.rung == "resumed"
        await has(rig, await show(server, 3))
    await rig.monitors(2)
    assert "connections.line1.groups.fast" not in rig.reports.found
    await fast(rig, await show(server, 2, column=5))


@here
async def test_a_group_that_is_removed_or_polled_has_no_subscription_any_more_nor_notes(
    rig: Rig, server: PlantServer
) -> None:
    await two_groups(rig, server)
    outlet = rig.outlets.outlet("line1")
    await until(lambda: outlet.position("items/fast") is not None, rig.state)
    rig.change(groups={"fast": {"mode": "poll", "pollInterval": "50ms"}})
    await until(lambda: server.subscriptions == 1, rig.state)
    await until(lambda: outlet.position("items/fast") is None, rig.state)
    assert outlet.position("sequence/fast") is None
    (polled,) = await show(server, 1, column=5)
    await fast(rig, [polled])
    rig.change(groups={"fast": {"publishingInterval": "20ms"}})
    await until(lambda: server.subscriptions == 2, rig.state)
    await rig.monitors(2)
    await rig.end()
    await rig.begin(tags=SOME, groups={})
    await rig.connects(1)
    assert rig.rung == "resumed"
    assert server.subscriptions == 1
    await until(lambda: rig.outlets.outlet("line1").position("items/fast") is None, rig.state)
    await has(rig, await show(server, 2))


@here
async def test_intervals_of_a_living_subscription_change_and_it_loses_nothing(rig: Rig, server: PlantServer) -> None:
    shown = await show(server, 2)
    rig.change(publishingInterval="20ms", keepAlive=2, outage="2m")
    await until(lambda: rig.status()["publishing_interval_s"] == 0.02, rig.state)
    status = rig.status()
    assert (status["keep_alive_s"], status["lifetime_s"], status["connects"]) == (2.0, 150.0, 1)
    shown += await show(server, 3)
    await has(rig, shown)
    await rig.end()
    shown += await show(server, 1)
    await rig.begin()
    await rig.connects(1)
    assert (rig.rung, rig.status()["publishing_interval_s"]) == ("resumed", 0.02)
    await has(rig, shown)
    assert not await rig.events("gap")


@here
async def test_tags_that_are_discovered_come_and_go_and_those_of_the_configuration_go_before_them(
    rig: Rig, server: PlantServer
) -> None:
    found = {"Found": Tag.model_validate(TAGS[FAST]), ROW_TAG: Tag.model_validate(TAGS[FAST])}
    rig.connection.discovered(found)
    await rig.monitors(2)
    (row,) = await show(server, 1, column=5)
    await rig.count("Found", 1)
    await until(lambda: rig.status()["monitored"] == 2, rig.state)
    await has(rig, await show(server, 2))
    assert float(row) not in await rig.of(ROW_TAG)
    rig.change()
    assert set(rig.connection.tags) == {"Found", ROW_TAG}
    rig.connection.discovered({})
    await rig.monitors(1)
    await has(rig, await show(server, 1))


@here
async def test_what_runs_beside_publishing_has_each_session_and_what_is_known_of_its_server(
    rig: Rig, server: PlantServer
) -> None:
    seen: list[tuple[Session, tuple[str, ...]]] = []

    async def beside(session: Session, facts: Any) -> None:
        seen.append((session, (await asyncio.shield(facts)).spaces))

    rig.connection.beside.append(beside)
    await rig.away()
    await rig.back()
    await until(lambda: len(seen) == 1, rig.state)
    assert "urn:sluice:plant" in seen[0][1]
    described = rig.connection.describe()
    assert described["groups"][""]["subscription"] > 0
    assert described["limits"]["read"] > 0
    assert described["session"]["resumed"] is True
    assert orjson.dumps(described)


@here
async def test_a_server_without_a_session_left_is_given_time(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost sessions end by themselves; who knocks all the time may keep them from it."""
    tries: list[float] = []

    async def crowded(*_: Any) -> Any:
        tries.append(time.monotonic())
        raise UaStatusCodeError(0x80560000)  # BadTooManySessions

    await rig.away()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_CROWDED", 1.5)
        patch.setattr(connection, "connect", crowded)
        rig.line.refuse(False)
        await until(lambda: len(tries) == 3, rig.state)
        assert "no session left" in rig.reports.found["connections.line1.endpoint"]
    assert min(later - sooner for sooner, later in pairwise(tries)) >= 1.5
    await rig.connects(2)
    assert rig.rung == "resumed"
    await has(rig, await show(server, 1))


@here
async def test_clocks_that_differ_are_told_and_no_more_when_they_do_not(
    rig: Rig, server: PlantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_TEND", 0.05)
    monkeypatch.setattr(publishing, "_LOOK", 0.1)
    look, ahead = Session.look, 42

    async def elsewhen(session: Session) -> Look:
        found = await look(session)
        return replace(found, clock=found.clock + ahead * 10**9)

    monkeypatch.setattr(Session, "look", elsewhen)
    await rig.away()
    await rig.back()
    place = "connections.line1.timestamps"
    await until(lambda: "ahead of ours" in rig.reports.found.get(place, ""), rig.state)
    ahead = -42
    await until(lambda: "behind ours" in rig.reports.found.get(place, ""), rig.state)
    ahead = 0
    await until(lambda: place not in rig.reports.found, rig.state)
    assert abs(rig.status()["clock_ahead_s"]) < 5
