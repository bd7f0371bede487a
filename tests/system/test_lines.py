"""Whatever a line does between collector and server costs no value that the server kept; what it did not is read back.

The oracle is the plant's own log, written before any client can see a value.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from plant.line import Line
from plant.reconciliation import Report
from rehearsal import Rehearsal

pytestmark = pytest.mark.system

COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
LIMIT = 30.0
RATE = 1000
FIFTY_HERTZ = 52 * 50  # values per second: 52 variables, each fifty times


def line1(rehearsal: Rehearsal) -> dict[str, Any]:
    """What the collector says of its connection."""
    found: dict[str, Any] = rehearsal.statuses.get("opcua-collector", {}).get("connections", {}).get("line1", {})
    return found


async def begin(rehearsal: Rehearsal, line: Line, **settings: Any) -> None:
    """Deploy, produce, and wait until it flows."""
    collector = rehearsal.collector_config(port=line.port)
    collector["statusInterval"] = "1s"
    collector["connections"]["line1"] |= {"publishingInterval": "100ms", "keepAlive": "500ms", **settings}
    sinks = {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}}
    site = {
        "components": {
            COLLECTOR: {"configurationUpdate": {"merge": collector}},
            EXPORTER: {"configurationUpdate": {"merge": {"sinks": sinks}}},
        }
    }
    await rehearsal.provide(site)
    await rehearsal.deploy(site)
    await rehearsal.start_production()
    await rehearsal.wait_for(lambda: line1(rehearsal).get("messages", 0) > 5, "messages", LIMIT)


async def end(rehearsal: Rehearsal) -> Report:
    """End production, wait until all is there, and compare."""
    assert rehearsal.plant is not None
    await rehearsal.drain(await rehearsal.plant.finish(), settle=3.0)
    return await asyncio.to_thread(rehearsal.reconcile)


async def resumed(rehearsal: Rehearsal, times: int) -> None:
    """Wait until the session has been taken up again that often, and runs."""
    await rehearsal.wait_for(
        lambda: line1(rehearsal).get("resumed", 0) >= times and line1(rehearsal).get("state") == "running",
        f"session that was resumed {times} times",
        LIMIT,
    )


async def test_a_line_that_is_cut_half_open_and_swallows_everything_costs_nothing(build: Path, tmp_path: Path) -> None:
    async with Rehearsal(tmp_path, build, rate=RATE, units=1) as rehearsal:
        assert rehearsal.plant is not None
        port = int(rehearsal.plant.endpoint.split(":")[2].split("/")[0])
        async with Line(port) as line:
            await begin(rehearsal, line, requestTimeout="1s")
            line.refuse(True)
            await line.cut()
            await asyncio.sleep(2.0)  # the length of the outage
            line.refuse(False)
            await resumed(rehearsal, 1)

            await line.half_open()
            await resumed(rehearsal, 2)

            line.blackhole(True)
            await rehearsal.wait_for(
                lambda: line1(rehearsal).get("state") == "waiting", "notice of a server that is silent", LIMIT
            )
            assert "does not answer" in line1(rehearsal)["why"], line1(rehearsal)
            line.blackhole(False)
            await resumed(rehearsal, 3)
            report = await end(rehearsal)
            told = line1(rehearsal)
    assert report.balances, (report.as_dict(), told)
    assert told.get("renewed", 0) == 1, told  # at the start
    assert told.get("gaps", 0) == 0, told


@pytest.mark.alone
async def test_a_line_of_300_ms_costs_nothing_at_100_ms_and_fifty_values_a_second(build: Path, tmp_path: Path) -> None:
    """With one request outstanding, as other clients have it, a quarter of these values is lost with a queue of 10."""
    async with Rehearsal(tmp_path, build, rate=FIFTY_HERTZ, units=1) as rehearsal:
        assert rehearsal.plant is not None
        port = int(rehearsal.plant.endpoint.split(":")[2].split("/")[0])
        async with Line(port) as line:
            line.delay(0.15)
            await begin(rehearsal, line, queueSize=10, samplingInterval="0s")
            await asyncio.sleep(5.0)  # the length of the production run
            report = await end(rehearsal)
            told = line1(rehearsal)
            counters = await rehearsal.plant.counters()
    assert report.balances, (report.as_dict(), told)
    assert counters["dropped"] == 0, "the server's queues ran over"
    assert told.get("overflows", 0) == 0, told
    assert 5 <= told["requests"] <= 10, told


async def test_what_the_servers_queues_could_not_keep_is_read_back_from_its_history(
    build: Path, tmp_path: Path
) -> None:
    async with Rehearsal(tmp_path, build, rate=RATE, units=1) as rehearsal:
        assert rehearsal.plant is not None
        port = int(rehearsal.plant.endpoint.split(":")[2].split("/")[0])
        async with Line(port) as line:
            await begin(rehearsal, line, queueSize=5, samplingInterval="0s")
            line.refuse(True)
            await line.cut()
            await asyncio.sleep(3.0)  # the length of the outage
            line.refuse(False)
            await resumed(rehearsal, 1)
            report = await end(rehearsal)
            counters = await rehearsal.plant.counters()
            told = line1(rehearsal)
    assert counters["dropped"] > 0, "the outage was too short to cost the server's queues anything"
    assert report.balances, (report.as_dict(), told)
