"""The component: from the bus to the sinks, and changes that touch only what changed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sluice.component import Context, Problems
from sluice.config import OutboxSettings, diff, load
from sluice.ipc import IpcNotFound
from sluice.outlets import Outlets
from sluice.secrets import Secrets
from sluice.streams import covers
from stream_exporter.config import Configuration
from stream_exporter.exporter import StreamExporter

KINESIS = {"type": "kinesis", "kinesisStream": "plant-data", "packInterval": "20ms"}
SITEWISE = {"type": "sitewise", "packInterval": "20ms"}


class Subscribed:
    """One subscription on the bus in memory."""

    active = True

    def __init__(self, bus: Bus, topic_filter: str, handler: Callable[[str, bytes], None]) -> None:
        self._bus = bus
        self.filter = topic_filter
        self.handler = handler

    async def renew(self) -> None: ...

    async def close(self) -> None:
        self._bus.subscriptions.remove(self)


class Bus:
    """An ipc in memory: topics, and the configuration of stream manager's component."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscribed] = []
        self.values: dict[str, Any] = {}

    @property
    def filters(self) -> list[str]:
        return [subscription.filter for subscription in self.subscriptions if "/ack/" not in subscription.filter]

    async def publish(self, topic: str, payload: bytes) -> None:
        await asyncio.sleep(0)
        for subscription in list(self.subscriptions):
            if covers(subscription.filter, topic):
                subscription.handler(topic, payload)

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> Subscribed:
        await asyncio.sleep(0)
        subscription = Subscribed(self, topic_filter, handler)
        self.subscriptions.append(subscription)
        return subscription

    async def get_configuration(self, key_path: Sequence[str] = (), component: str | None = None) -> Any:
        assert component == "aws.greengrass.StreamManager"
        if key_path[0] not in self.values:
            raise IpcNotFound("no such key")
        return self.values[key_path[0]]


class Stage:
    """The component on the bus, a producer that keeps what it publishes, and the bench's stream manager."""

    def __init__(self, bench: Any, tmp_path: Path, outlets: Outlets, bus: Bus) -> None:
        self.bus = bus
        self.bus.values = {"STREAM_MANAGER_SERVER_PORT": "0", "port": float(bench.port)}
        self.problems = Problems()
        self.config = Configuration()
        self.outlets = outlets
        self._folder = tmp_path / "work"
        self._bench = bench
        self.exporter = self._made()
        self.published = 0

    def _made(self) -> StreamExporter:
        ipc: Any = self.bus
        self._folder.mkdir(exist_ok=True)
        secrets = Secrets(ipc, self._folder)
        return StreamExporter(
            Context(ipc, "io.sluice.StreamExporter", self._folder, "thing", secrets, 7000, self.problems)
        )

    async def start(self, **raw: Any) -> None:
        self.config = load(Configuration, raw).config
        await self.exporter.start(self.config)

    async def restart(self) -> None:
        await self.exporter.stop()
        self.exporter = self._made()
        await self.exporter.start(self.config)

    async def apply(self, **raw: Any) -> None:
        config = load(Configuration, raw).config
        changes = diff(self.config, config)
        self.config = config
        await self.exporter.apply(config, changes)

    def publish(self, batches: int, source: str = "line1") -> None:
        self.published += batches
        for _ in range(batches):
            self.outlets.outlet(source).submit([self._bench.batch(1).columns])

    def ledger(self, sink: str) -> dict[str, Any]:
        ledger: dict[str, Any] = self.exporter.status()["ledger"][sink]
        return ledger

    async def appended(self, sink: str, samples: int) -> None:
        await self._bench.until(lambda: self.ledger(sink)["appended"] == samples, f"{samples} samples in {sink}")


def appended_ids(bench: Any) -> list[str]:
    return [json.loads(line)["id"] for payload in bench.stored("SluiceKinesis") for line in payload.splitlines()]


@pytest.fixture
async def stage(bench: Any, tmp_path: Path) -> AsyncIterator[Stage]:
    bus = Bus()
    outlets = await Outlets.open(
        bus, "opcua-collector", tmp_path / "outbox", OutboxSettings(), max_bytes=7000, compress=True
    )
    await outlets.start()
    stage = Stage(bench, tmp_path, outlets, bus)
    yield stage
    await stage.exporter.stop()
    await outlets.close()


async def test_what_is_published_reaches_every_sink(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(5)
    await stage.appended("kinesis", 50)
    await stage.appended("sitewise", 50)

    ids = [tuple(map(int, identity.split(".")[1:])) for identity in appended_ids(bench)]
    assert ids == [(seq, index) for seq in range(1, 6) for index in range(10)]
    assert stage.bus.filters == ["sluice/data/#", "sluice/replay/stream-exporter/#"]


async def test_a_status_shows_sinks_ledgers_and_what_came_in(stage: Stage) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)

    status = json.loads(json.dumps(stage.exporter.status()))
    assert status["connections"]["kinesis"]["state"] == "running"
    assert status["ledger"]["kinesis"]["waiting"] == 0
    assert status["inlet"]["silent"] == []


async def test_the_producer_may_delete_what_every_sink_has_exported(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(5)
    await stage.appended("kinesis", 50)
    await stage.appended("sitewise", 50)

    def ledger(name: str) -> int:
        return int(stage.outlets.ledgers()["opcua-collector/line1"][name])

    bench.export("SluiceKinesis")
    await bench.until(lambda: stage.exporter.status()["connections"]["kinesis"]["unexported_units"] == 0, "one export")
    assert ledger("acknowledged") == 0, "the other sink's is missing"
    bench.export("SluiceSiteWise")

    await bench.until(lambda: ledger("acknowledged") == 50 and ledger("kept") == 0, "the acknowledgement")


async def test_a_restart_goes_on_where_it_stood(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(5)
    await stage.appended("kinesis", 50)

    await stage.restart()
    stage.publish(2)

    await stage.appended("kinesis", 70)
    assert len(set(appended_ids(bench))) == len(appended_ids(bench)) == 70
    assert stage.ledger("kinesis")["received"] == 70


async def test_a_damaged_store_is_told_with_what_may_repeat(stage: Stage, bench: Any, tmp_path: Path) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)
    await stage.exporter.stop()
    (tmp_path / "work" / "exporter.db").write_bytes(b"\xa5" * 100_000)

    await stage.restart()

    await stage.appended("kinesis", 10)
    assert len(appended_ids(bench)) == 20, "what was not acknowledged was appended again"
    told = stage.exporter.status()["connections"]["exporter.db"]
    assert "corrupt" in told["may_repeat"]


async def test_a_store_that_cannot_be_written_is_told_and_nothing_is_appended_before_it_can(
    stage: Stage, bench: Any
) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)
    store = stage.exporter._store
    assert store is not None
    full = [True]

    def disk(connection: sqlite3.Connection) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")

    store._database.submit(disk)
    stage.publish(1)
    await bench.until(lambda: "exporter.db" in stage.exporter.status()["connections"], "word of it")
    told = stage.exporter.status()["connections"]["exporter.db"]
    assert "disk is full" in told["why"]
    assert "free space" in told["remedy"]
    assert len(appended_ids(bench)) == 10
    full.clear()

    await stage.appended("kinesis", 20)
    assert "exporter.db" not in stage.exporter.status()["connections"]


async def test_adding_a_sink_does_not_touch_the_others(stage: Stage) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)
    untouched = stage.exporter._sinks["kinesis"]

    await stage.apply(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(1)

    await stage.appended("sitewise", 20)
    assert stage.exporter._sinks["kinesis"] is untouched
    await stage.appended("kinesis", 20)


async def test_a_sink_that_is_changed_first_delivers_what_it_holds(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": {**KINESIS, "packInterval": "60s"}})
    stage.publish(3)
    await bench.until(lambda: stage.ledger("kinesis")["received"] == 30, "the batches")

    await stage.apply(sinks={"kinesis": {**KINESIS, "kinesisStream": "elsewhere"}})
    stage.publish(1)

    await stage.appended("kinesis", 40)
    assert sum(payload.count(b"\n") for payload in bench.stored("SluiceKinesis")) == 40
    (export,) = bench.server.streams.get("SluiceKinesis").definition.exports
    assert export.wire["kinesisStreamName"] == "elsewhere"


async def test_a_sink_loses_nothing_that_comes_while_it_is_changed(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)
    bench.fault("delay", operation="append", seconds=0.3)
    stage.publish(1)

    change = asyncio.create_task(stage.apply(sinks={"kinesis": KINESIS | {"messageSize": "2000"}}))
    for _ in range(20):
        stage.publish(1)
        await asyncio.sleep(0.01)
    await change
    stage.publish(1)

    await bench.until(lambda: len(appended_ids(bench)) == 230, "all samples, also those offered during the change")
    assert len(set(appended_ids(bench))) == 230


async def test_what_a_changed_sink_could_not_deliver_is_delivered_by_its_successor(stage: Stage, bench: Any) -> None:
    await bench.server.stop()
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(3)
    await bench.until(lambda: stage.exporter.status()["connections"]["kinesis"]["state"] == "failed", "the outage")
    stage.publish(5)

    await stage.apply(sinks={"kinesis": KINESIS | {"messageSize": "2000"}})
    await bench.start_server()
    stage.bus.values["port"] = float(bench.port)

    await bench.until(lambda: len(set(appended_ids(bench))) == 80, "what waited when the sink was changed")
    assert len(appended_ids(bench)) == 80


async def test_a_change_of_sources_does_not_interrupt_what_both_cover(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS}, sources=["*"])
    stage.publish(3)

    change = asyncio.create_task(stage.apply(sinks={"kinesis": KINESIS}, sources=["opcua-collector/line1"]))
    while not change.done():
        stage.publish(1)
        await asyncio.sleep(0)
    stage.publish(3)
    published = 10 * stage.published

    await stage.appended("kinesis", published)
    assert "sluice/data/opcua-collector/line1/#" in stage.bus.filters
    assert "sluice/data/#" not in stage.bus.filters
    counted = stage.exporter.status()["inlet"]["readers"]["kinesis"]
    assert (counted["joined"], counted.get("gaps", 0)) == (1, 0), "one stream, followed all the time"


async def test_a_removed_sink_is_gone_and_its_stream_stays(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(1)
    await stage.appended("kinesis", 10)

    await stage.apply(sinks={"sitewise": SITEWISE})

    assert list(stage.exporter.status()["connections"]) == ["sitewise"]
    assert len(bench.stored("SluiceKinesis")) == 1


async def test_a_removed_sink_holds_nobody_and_begins_at_what_is_kept_when_it_comes_back(
    stage: Stage, bench: Any
) -> None:
    await stage.start(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(1)
    await stage.appended("kinesis", 10)
    await stage.appended("sitewise", 10)
    bench.export("SluiceSiteWise")

    await stage.apply(sinks={"sitewise": SITEWISE})

    await bench.until(
        lambda: stage.outlets.ledgers()["opcua-collector/line1"]["acknowledged"] == 10, "the acknowledgement"
    )
    stage.publish(2)
    await stage.appended("sitewise", 30)
    await stage.apply(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    await stage.appended("kinesis", 20)
    assert len(set(appended_ids(bench))) == 30


async def test_other_sources_are_followed_after_a_change(stage: Stage) -> None:
    await stage.start(sinks={"kinesis": KINESIS})

    await stage.apply(sinks={"kinesis": KINESIS}, sources=["opcua-collector/line1"])

    assert "sluice/data/opcua-collector/line1/#" in stage.bus.filters
    assert "sluice/data/#" not in stage.bus.filters
    stage.publish(1)
    await stage.appended("kinesis", 10)


async def test_a_stream_that_two_sinks_claim_goes_to_the_first_and_is_reported(stage: Stage) -> None:
    await stage.start(sinks={"a": KINESIS, "b": {**KINESIS, "kinesisStream": "other"}})

    assert list(stage.exporter.status()["connections"]) == ["a"]
    (problem,) = stage.problems
    assert (problem.path, problem.value) == ("sinks.b.stream", "SluiceKinesis")

    await stage.apply(sinks={"b": {**KINESIS, "kinesisStream": "other"}})

    assert list(stage.exporter.status()["connections"]) == ["b"]
    assert not list(stage.problems)


async def test_events_are_counted_because_they_have_no_route(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    await stage.outlets.outlet("line1").submit_events([{"a": 1}])

    await bench.until(lambda: stage.ledger("kinesis")["events_passed_over"] == 1, "the events to be counted")
    await bench.until(
        lambda: stage.outlets.ledgers()["opcua-collector/line1/events"]["acknowledged"] == 1, "their acknowledgement"
    )
    assert stage.ledger("kinesis")["received"] == 0


@pytest.mark.parametrize(
    ("values", "environment", "port"),
    [
        ({"STREAM_MANAGER_SERVER_PORT": 8090.0}, None, 8090),
        ({"STREAM_MANAGER_SERVER_PORT": "8090"}, "8091", 8090),
        ({"STREAM_MANAGER_SERVER_PORT": "0", "port": "41234"}, None, 41234),
        ({"STREAM_MANAGER_SERVER_PORT": 0}, "8091", 8091),
        ({}, "8091", 8091),
        ({}, "nonsense", 8088),
        ({"STREAM_MANAGER_SERVER_PORT": {"a": 1}}, None, 8088),
        ({}, None, 8088),
    ],
)
async def test_stream_managers_port_is_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], environment: str | None, port: int
) -> None:
    monkeypatch.delenv("STREAM_MANAGER_SERVER_PORT", raising=False)
    if environment is not None:
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", environment)
    stage.bus.values = values

    assert await stage.exporter.find_port() == port
