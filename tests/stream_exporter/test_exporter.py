"""The component: from the bus to the sinks, and changes that touch only what changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sluice.component import Context, Problems
from sluice.config import diff, load
from sluice.delivery import Producer
from sluice.ipc import IpcNotFound
from sluice.secrets import Secrets
from stream_exporter.config import ExporterSettings
from stream_exporter.exporter import StreamExporter

KINESIS = {"type": "kinesis", "kinesisStream": "plant-data", "packInterval": "20ms"}
SITEWISE = {"type": "sitewise", "packInterval": "20ms"}


class Subscribed:
    """One subscription on the bus in memory."""

    active = True

    def __init__(self, bus: Bus, topic_filter: str) -> None:
        self._bus = bus
        self._filter = topic_filter

    async def renew(self) -> None: ...

    async def close(self) -> None:
        del self._bus.handlers[self._filter]


class Bus:
    """An ipc in memory: topics, and the configuration of stream manager's component."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[str, bytes], None]] = {}
        self.values: dict[str, Any] = {}

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> Subscribed:
        await asyncio.sleep(0)
        self.handlers[topic_filter] = handler
        return Subscribed(self, topic_filter)

    async def get_configuration(self, key_path: Sequence[str] = (), component: str | None = None) -> Any:
        assert component == "aws.greengrass.StreamManager"
        if key_path[0] not in self.values:
            raise IpcNotFound("no such key")
        return self.values[key_path[0]]


class Stage:
    """A component on the bus, with the bench's stream manager."""

    def __init__(self, bench: Any, tmp_path: Path) -> None:
        self.bus = Bus()
        self.bus.values = {"STREAM_MANAGER_SERVER_PORT": "0", "port": float(bench.port)}
        ipc: Any = self.bus
        self.problems = Problems()
        self.exporter = StreamExporter(
            Context(ipc, "io.sluice.StreamExporter", tmp_path, "thing", Secrets(ipc, tmp_path), 7000, self.problems)
        )
        self.config = ExporterSettings()
        self._producer = Producer("opcua-collector/line1", bench.epoch, max_bytes=7000)
        self._bench = bench
        self.published = 0

    async def start(self, **raw: Any) -> None:
        self.config = load(ExporterSettings, raw).config
        await self.exporter.start(self.config)

    async def apply(self, **raw: Any) -> None:
        config = load(ExporterSettings, raw).config
        changes = diff(self.config, config)
        self.config = config
        await self.exporter.apply(config, changes)

    def publish(self, batches: int) -> None:
        self.published += batches
        for _ in range(batches):
            for frame in self._producer.add(self._bench.batch(1).columns):
                for handler in list(self.bus.handlers.values()):
                    handler(self._producer.topic, frame.payload)

    def ledger(self, sink: str) -> dict[str, Any]:
        ledger: dict[str, Any] = self.exporter.status()["ledger"][sink]
        return ledger

    async def appended(self, sink: str, samples: int) -> None:
        await self._bench.until(lambda: self.ledger(sink)["appended"] == samples, f"{samples} samples in {sink}")


def appended_ids(bench: Any) -> list[str]:
    return [json.loads(line)["id"] for payload in bench.stored("SluiceKinesis") for line in payload.splitlines()]


@pytest.fixture
async def stage(bench: Any, tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(bench, tmp_path)
    yield stage
    await stage.exporter.stop()


async def test_what_is_published_reaches_every_sink(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(5)
    await stage.appended("kinesis", 50)
    await stage.appended("sitewise", 50)

    ids = [json.loads(line)["id"] for payload in bench.stored("SluiceKinesis") for line in payload.splitlines()]
    assert ids == [f"{bench.epoch}.{seq}.{index}" for seq in range(1, 6) for index in range(10)]
    assert list(stage.bus.handlers) == ["sluice/data/#"]


async def test_a_status_shows_sinks_ledgers_and_what_came_in(stage: Stage) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)

    status = json.loads(json.dumps(stage.exporter.status()))
    assert status["connections"]["kinesis"]["state"] == "running"
    assert status["ledger"]["kinesis"]["waiting"] == 0
    assert status["inlet"]["silent"] == []


async def test_adding_a_sink_does_not_touch_the_others(stage: Stage) -> None:
    await stage.start(sinks={"kinesis": KINESIS})
    stage.publish(1)
    await stage.appended("kinesis", 10)
    untouched = stage.exporter._sinks["kinesis"]

    await stage.apply(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(1)

    await stage.appended("sitewise", 10)
    assert stage.exporter._sinks["kinesis"] is untouched
    await stage.appended("kinesis", 20)


async def test_a_sink_that_is_changed_first_delivers_what_it_holds(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": {**KINESIS, "packInterval": "60s"}})
    stage.publish(3)
    await bench.until(lambda: stage.ledger("kinesis")["received"] == 30, "the batches")

    await stage.apply(sinks={"kinesis": {**KINESIS, "kinesisStream": "elsewhere"}})
    stage.publish(1)

    await stage.appended("kinesis", 10)
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
    assert list(stage.bus.handlers) == ["sluice/data/opcua-collector/line1/#"]
    inlet = stage.exporter.status()["inlet"]
    assert (inlet["joined"], inlet["gaps"], inlet["repeats"]) == (1, 0, inlet["repeats"]), (
        "one stream, followed all the time"
    )


async def test_a_removed_sink_is_gone_and_its_stream_stays(stage: Stage, bench: Any) -> None:
    await stage.start(sinks={"kinesis": KINESIS, "sitewise": SITEWISE})
    stage.publish(1)
    await stage.appended("kinesis", 10)

    await stage.apply(sinks={"sitewise": SITEWISE})

    assert list(stage.exporter.status()["connections"]) == ["sitewise"]
    assert len(bench.stored("SluiceKinesis")) == 1


async def test_other_sources_are_followed_after_a_change(stage: Stage) -> None:
    await stage.start(sinks={"kinesis": KINESIS})

    await stage.apply(sinks={"kinesis": KINESIS}, sources=["opcua-collector/line1"])

    assert list(stage.bus.handlers) == ["sluice/data/opcua-collector/line1/#"]
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
    producer = Producer("opcua-collector/line1/events", bench.epoch, max_bytes=7000)
    for frame in producer.add_events([{"a": 1}]):
        stage.bus.handlers["sluice/data/#"](producer.topic, frame.payload)

    await bench.until(
        lambda: stage.exporter.status()["counters"]["event_batches_passed_over"] == 1, "the events to be counted"
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
