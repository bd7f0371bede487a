"""Nothing is lost or doubled against node-opcua, a server of somebody else's, whatever happens between it and us.

The oracle is the server's own log, written before any client can see a value. (Our plant's server is asyncua, which
never answers BadMessageNotAvailable by itself and whose Transfer and Republish had to be mended.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from localcore.process import Component
from plant.line import Line
from rehearsal import Rehearsal
from sluice.batch import EventBatch, decode

pytestmark = [pytest.mark.system, pytest.mark.peers]

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = REPOSITORY / ".peers"
SERVER = Path(__file__).parent / "node_opcua" / "server.js"
LIMIT = 30.0
COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
TAGS, RATE = 20, 400


class NodeOpcua:
    """A node-opcua server as a process. See node_opcua/server.js."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.port = 0
        self._process = process
        self._folder = folder

    async def told(self, event: str) -> dict[str, Any]:
        """The next event, which must be this one. Lines that are none are node-opcua's own log."""
        assert self._process.stdout is not None
        line = b""
        while not line.startswith(b"{"):
            line = await asyncio.wait_for(self._process.stdout.readline(), LIMIT)
            assert line, f"node-opcua ended: {(self._folder / 'stderr.log').read_text()[-2000:]}"
        message: dict[str, Any] = json.loads(line)
        assert message["event"] == event, message
        return message

    async def ask(self, command: str, event: str, **arguments: Any) -> dict[str, Any]:
        """Send a command; the event that answers it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        return await self.told(event)

    def logged(self) -> dict[tuple[str, int], float]:
        """What it produced: (tag, time in ns) -> value."""
        rows = map(json.loads, (self._folder / "log.jsonl").read_text().splitlines())
        return {(row["tag"], row["time_ms"] * 1_000_000): row["value"] for row in rows}


@contextlib.asynccontextmanager
async def node_opcua(folder: Path, *, history: bool) -> AsyncIterator[NodeOpcua]:
    """A running server in a folder of its own."""
    node = PEERS / "bin" / "node"
    assert node.exists(), "node-opcua is not installed: run scripts/peers, or scripts/test --peers"
    folder.mkdir()
    options = json.dumps({"port": 0, "tags": TAGS, "log": str(folder / "log.jsonl"), "history": history})
    with (folder / "stderr.log").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            str(node),
            str(SERVER),
            options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "NODE_PATH": str(PEERS / "node_opcua" / "node_modules"), "HOME": str(folder)},
        )
    server = NodeOpcua(process, folder)
    try:
        server.port = (await server.told("ready"))["port"]
        yield server
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), LIMIT)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


def site(port: int) -> dict[str, Any]:
    """The server's variables into Kinesis."""
    tags = {f"T{number}": {"node": f"ns=1;s=T{number}"} for number in range(TAGS)}
    connection = {
        "endpoint": f"opc.tcp://127.0.0.1:{port}",
        "security": {"policy": "None"},
        "publishingInterval": "100ms",
        "samplingInterval": "0s",  # each change, not what a sampling timer happens to see
        "tags": tags,
    }
    sinks = {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}}
    return {
        "components": {
            COLLECTOR: {"configurationUpdate": {"merge": {"connections": {"line1": connection}}}},
            EXPORTER: {"configurationUpdate": {"merge": {"sinks": sinks}}},
        }
    }


@contextlib.asynccontextmanager
async def flowing(build: Path, tmp_path: Path, *, history: bool) -> AsyncIterator[tuple[Rehearsal, NodeOpcua, Line]]:
    """Everything runs, the server produces, and something has arrived."""
    async with (
        node_opcua(tmp_path / "server", history=history) as server,
        Line(server.port) as line,
        Rehearsal(tmp_path / "device", build, with_plant=False) as rehearsal,
    ):
        document = site(line.port)
        await rehearsal.provide(document)
        await rehearsal.deploy(document)
        await rehearsal.wait_for(lambda: connection(rehearsal).get("monitored") == TAGS, "subscription", LIMIT)
        await server.ask("start", "started", rate=RATE)
        await arrived(rehearsal, 1)
        yield rehearsal, server, line


def connection(rehearsal: Rehearsal) -> dict[str, Any]:
    """What the collector says of its connection."""
    found: dict[str, Any] = rehearsal.statuses.get("opcua-collector", {}).get("connections", {}).get("line1", {})
    return found


async def arrived(rehearsal: Rehearsal, least: int) -> None:
    """Wait until that many samples are in Kinesis."""
    read = rehearsal.deliveries()["kinesis"]
    deadline = time.monotonic() + LIMIT
    count = 0
    while count < least:
        assert time.monotonic() < deadline, f"{count} of {least} samples arrived; {rehearsal.statuses}"
        await asyncio.sleep(0.2)
        count = await asyncio.to_thread(lambda: sum(1 for _ in read()))


def restarted(component: Component, times: int) -> bool:
    """Whether the nucleus has started it again that often, and it runs."""
    return component.restarts >= times and component.state == "RUNNING"


async def judge(rehearsal: Rehearsal, server: NodeOpcua) -> None:
    """Stop production, wait until all is there, and compare with the server's log: each sample once."""
    produced = (await server.ask("stop", "finished"))["samples"]
    await rehearsal.drain(produced + TAGS)  # with the values that the variables had at first
    logged = server.logged()
    assert len(logged) == produced
    samples = list(rehearsal.deliveries()["kinesis"]())
    once = {sample.id: sample for sample in samples}.values()
    got = Counter((sample.tag, sample.time_ns) for sample in once if sample.value != -1)
    values = {(sample.tag, sample.time_ns): sample.value for sample in once if sample.value != -1}
    told = orjson.dumps(rehearsal.statuses, option=orjson.OPT_INDENT_2).decode()
    lost = sorted(logged.keys() - got.keys(), key=lambda key: key[1])
    doubled = [key for key, count in got.items() if count > 1]
    assert not lost, f"{len(lost)} of {produced} lost, the first {lost[:3]}, the last {lost[-1]}; {told}"
    assert not doubled, f"{len(doubled)} doubled, the first {doubled[:3]}; {told}"
    assert values == logged, told


async def test_a_cut_line_costs_nothing_because_the_session_goes_on(build: Path, tmp_path: Path) -> None:
    """ActivateSession and Republish: asyncua's own reconnect lost every value of such an outage against this server."""
    async with flowing(build, tmp_path, history=False) as (rehearsal, server, line):
        line.refuse(True)
        await line.cut()
        await asyncio.sleep(2.5)  # the length of the outage
        line.refuse(False)
        before = (await server.ask("counters", "counters"))["cumulated_subscriptions"]
        await judge(rehearsal, server)
        after = await server.ask("counters", "counters")
        assert (before, after["cumulated_subscriptions"]) == (1, 1), after
        assert after["cumulated_sessions"] == 1, after


async def test_a_killed_collector_resumes_where_it_was(build: Path, tmp_path: Path) -> None:
    async with flowing(build, tmp_path, history=False) as (rehearsal, server, _):
        collector = rehearsal.core.component(COLLECTOR)
        for kills in (1, 2):
            collector.kill()
            await rehearsal.wait_for(partial(restarted, collector, kills), "restart", LIMIT)
            await asyncio.sleep(1.5)  # it works for a while
        await judge(rehearsal, server)
        after = await server.ask("counters", "counters")
        assert after["cumulated_subscriptions"] == 1, after


async def test_a_server_that_forgets_everything_is_read_back_from_its_history(build: Path, tmp_path: Path) -> None:
    """A restarted server has no session and no subscription of ours: what came meanwhile is in its history."""
    async with flowing(build, tmp_path, history=True) as (rehearsal, server, line):
        line.refuse(True)
        await line.cut()
        await server.ask("forget", "forgotten")
        await asyncio.sleep(2.0)  # the length of the outage
        line.refuse(False)
        await judge(rehearsal, server)


async def test_a_gap_that_no_server_can_fill_is_told(build: Path, tmp_path: Path) -> None:
    """Without history the loss is certain, and said: one event names the tags and the time."""
    async with flowing(build, tmp_path, history=False) as (rehearsal, server, line):
        events: list[dict[str, Any]] = []

        def note(topic: str, payload: bytes) -> None:
            batch = decode(payload)
            if isinstance(batch, EventBatch):
                events.extend(dict(event) for event in batch.events)

        rehearsal.core.ipc.observe("sluice/data/+/+/events", note)
        line.refuse(True)
        await line.cut()
        await server.ask("forget", "forgotten")
        await asyncio.sleep(1.0)  # the length of the outage
        line.refuse(False)
        await rehearsal.wait_for(lambda: any(event["kind"] == "gap" for event in events), "gap event", LIMIT)
        gap = next(event for event in events if event["kind"] == "gap")
        assert gap["connection"] == "line1", gap
        assert len(gap["tags"]) == TAGS, gap
