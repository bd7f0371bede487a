"""Groups against a real server: polled and monitored in one session, heartbeats, parts of arrays, live changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from opcua_collector.config import Connection as Settings

from .test_connection import Plant, Running, Start, node, serving, until
from .test_connection import start as start

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROUPS = {
    "slow": {"mode": "poll", "pollInterval": "100ms"},
    "alive": {"heartbeat": "1s"},
    "rough": {"deadband": {"percent": 10}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    async for plant in serving(Plant()):
        yield plant


def reconfigure(line: Running, plant: Plant, tags: dict[str, Any], **settings: Any) -> None:
    known = {"security": {"policy": "None"}, "publishingInterval": 0.05, "keepAlive": 1, "requestTimeout": 4}
    settings = {"endpoint": plant.endpoint, "tags": tags, "groups": GROUPS, **known, **settings}
    configured = Settings.model_validate(settings)
    line.connection.reconfigure(configured, configured.tags)


def tag(name: str, group: str = "", **what: Any) -> dict[str, Any]:
    return {"node": node(name), **({"group": group} if group else {}), **what}


async def test_polled_and_monitored_tags_share_a_session_and_a_tag_may_go_over(plant: Plant, start: Start) -> None:
    await plant.set("Double", 1.0, 100)
    line = start(plant.endpoint, {"D": tag("Double", "slow"), "I": tag("Int32")}, groups=GROUPS)
    await line.flows("D", "I")
    await plant.set("Double", 2.0, 101)
    await until(lambda: line.sink.of("D") == [1.0, 2.0], line.state)
    assert [s.unit for s in line.sink.samples if s.tag == "D"] == ["°C", "°C"]
    reconfigure(line, plant, {"D": tag("Double"), "I": tag("Int32")})
    await until(lambda: line.connection.status()["monitored"] == 2, line.state)
    await plant.set("Double", 3.0, 102)
    await until(lambda: line.sink.of("D") == [1.0, 2.0, 3.0], line.state)
    reconfigure(line, plant, {"D": tag("Double", "slow"), "I": tag("Int32")})
    await until(lambda: line.connection.status()["monitored"] == 1, line.state)
    await plant.set("Double", 4.0, 103)
    await until(lambda: line.sink.of("D") == [1.0, 2.0, 3.0, 4.0], line.state)
    assert len(line.sink.of("I")) == 1, "the others were not touched"
    assert line.connection.traffic.connects == 1


async def test_all_may_be_polled(plant: Plant, start: Start) -> None:
    await plant.set("String", "a", 200)
    line = start(plant.endpoint, {"S": tag("String")}, mode="poll", pollInterval="100ms")
    await line.flows("S")
    await plant.set("String", "b", 201)
    await until(lambda: line.sink.of("S") == ["a", "b"], line.state)
    assert line.connection.status()["state"] == "running"


async def test_a_silent_tag_beats(plant: Plant, start: Start) -> None:
    await plant.set("Float", 0.5, 400)
    line = start(plant.endpoint, {"F": tag("Float", "alive")}, groups=GROUPS)
    await line.flows("F")
    await until(lambda: any(sample.status == "heartbeat" for sample in line.sink.samples), line.state)
    beat = next(sample for sample in line.sink.samples if sample.status == "heartbeat")
    assert beat.value == 0.5
    await plant.set("Float", 0.75, 401)
    await until(lambda: 0.75 in line.sink.of("F"), line.state)


async def test_small_changes_are_left_out_also_where_a_server_takes_a_deadband_and_forgets_it(
    plant: Plant, start: Start
) -> None:
    await plant.set("Double", 100.0, 500)
    line = start(plant.endpoint, {"D": tag("Double", "rough")}, groups=GROUPS)
    await line.flows("D")
    for second, value in enumerate((110.0, 120.0, 130.0), 501):
        await plant.set("Double", value, second)
        await asyncio.sleep(0.1)
    await until(lambda: line.sink.of("D")[-1] == 130.0, line.state)
    assert line.sink.of("D") == [100.0, 130.0], "25 are a tenth of the range"
