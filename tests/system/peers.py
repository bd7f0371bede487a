"""Servers of somebody else's as processes, a collector and an exporter before them, and the comparison with their logs.

The oracle is each server's own log, written before any client can see a value. scripts/peers installs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from localcore.process import Component
from plant.line import Line
from rehearsal import Rehearsal

PEERS = Path(__file__).resolve().parents[2] / ".peers"
LIMIT = 30.0
COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
TAGS, RATE = 20, 400
NAMES = [f"T{number}" for number in range(TAGS)]
FIRST = (-1, "-1")
"""What the variables say before production begins."""

Deployment = dict[str, Any]


class Peer:
    """A server's process: events on its stdout, commands on its stdin."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.port = 0
        self.certificate = ""
        """Path of the server's certificate, where it has one."""
        self.folder = folder
        self._process = process

    async def told(self, event: str) -> dict[str, Any]:
        """The next event, which must be this one. Lines that are none are the library's own."""
        assert self._process.stdout is not None
        line = b""
        while not line.startswith(b"{"):
            line = await asyncio.wait_for(self._process.stdout.readline(), LIMIT)
            assert line, f"the server ended: {(self.folder / 'stderr.log').read_text()[-2000:]}"
        message: dict[str, Any] = json.loads(line)
        assert message["event"] == event, message
        return message

    async def ask(self, command: str, event: str, **arguments: Any) -> dict[str, Any]:
        """Send a command; the event that answers it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        return await self.told(event)

    def logged(self) -> dict[tuple[str, int], Any]:
        """What it produced: (tag, time in ns) -> value."""
        rows = map(json.loads, (self.folder / "log.jsonl").read_text().splitlines())
        return {(row["tag"], row["time_ms"] * 1_000_000): row["value"] for row in rows}


@contextlib.asynccontextmanager
async def _peer(
    folder: Path, program: Path, script: Path, options: Mapping[str, Any], environment: Mapping[str, str]
) -> AsyncIterator[Peer]:
    assert program.exists(), f"{program} is not installed: run scripts/peers, or scripts/test --peers"
    folder.mkdir()
    told = json.dumps({"port": 0, "tags": TAGS, "log": str(folder / "log.jsonl"), **options})
    with (folder / "stderr.log").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            str(program),
            str(script),
            told,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "HOME": str(folder), **environment},
        )
    server = Peer(process, folder)
    try:
        ready = await server.told("ready")
        server.port, server.certificate = ready["port"], ready.get("certificate", "")
        yield server
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), LIMIT)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


def node_opcua(folder: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[Peer]:
    """A running node-opcua server in a folder of its own; its options: node_opcua/server.js."""
    script = Path(__file__).parent / "node_opcua" / "server.js"
    return _peer(
        folder, PEERS / "bin" / "node", script, options, {"NODE_PATH": str(PEERS / "node_opcua" / "node_modules")}
    )


def open62541(folder: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[Peer]:
    """A running open62541 server in a folder of its own; its options: open62541/server.py."""
    script = Path(__file__).parent / "open62541" / "server.py"
    return _peer(folder, PEERS / "open62541" / "bin" / "python", script, options, {})


def nodes(names: Iterable[str] = NAMES) -> dict[str, Any]:
    """Tags for variables of the peer."""
    return {name: {"node": f"ns=1;s={name}"} for name in names}


def line1(port: int, **settings: Any) -> dict[str, Any]:
    """A connection to the peer that takes each change."""
    return {
        "endpoint": f"opc.tcp://127.0.0.1:{port}",
        "security": {"policy": "None"},
        "publishingInterval": "100ms",
        "samplingInterval": "0s",  # each change, not what a sampling timer happens to see
        "tags": nodes(),
        **settings,
    }


def site(**connections: Any) -> Deployment:
    """The connections into Kinesis."""
    sinks = {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}}
    collector = {"connections": connections, "statusInterval": "1s"}
    return {
        "components": {
            COLLECTOR: {"configurationUpdate": {"merge": collector}},
            EXPORTER: {"configurationUpdate": {"merge": {"sinks": sinks}}},
        }
    }


@contextlib.asynccontextmanager
async def flowing(
    build: Path, tmp_path: Path, server: Peer, *, rate: int = RATE, **settings: Any
) -> AsyncIterator[tuple[Rehearsal, Line]]:
    """Everything runs, the server produces, and something has arrived. `settings`: of the connection."""
    async with Line(server.port) as line, Rehearsal(tmp_path / "device", build, with_plant=False) as rehearsal:
        configured = line1(line.port, **settings)
        document = site(line1=configured)
        await rehearsal.provide(document)
        await rehearsal.deploy(document)
        await rehearsal.wait_for(
            lambda: connection(rehearsal).get("monitored") == len(configured["tags"]), "subscription", LIMIT
        )
        await server.ask("start", "started", rate=rate)
        await arrived(rehearsal, 1)
        yield rehearsal, line


def connection(rehearsal: Rehearsal, name: str = "line1") -> dict[str, Any]:
    """What the collector says of its connection."""
    found: dict[str, Any] = rehearsal.statuses.get("opcua-collector", {}).get("connections", {}).get(name, {})
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


async def judge(rehearsal: Rehearsal, server: Peer, *, first: int = TAGS) -> None:
    """Stop production, wait until all is there, and compare with the server's log: each sample once.

    first: how many samples there are of values from before production.
    """
    produced = (await server.ask("stop", "finished"))["samples"]
    await rehearsal.drain(produced + first)
    logged = server.logged()
    assert len(logged) == produced
    samples = list(rehearsal.deliveries()["kinesis"]())
    once = {sample.id: sample for sample in samples}.values()
    got = Counter((sample.tag, sample.time_ns) for sample in once if sample.value not in FIRST)
    values = {(sample.tag, sample.time_ns): sample.value for sample in once if sample.value not in FIRST}
    told = orjson.dumps(rehearsal.statuses, option=orjson.OPT_INDENT_2).decode()
    lost = sorted(logged.keys() - got.keys(), key=lambda key: key[1])
    doubled = [key for key, count in got.items() if count > 1]
    assert not lost, f"{len(lost)} of {produced} lost, the first {lost[:3]}, the last {lost[-1]}; {told}"
    assert not doubled, f"{len(doubled)} doubled, the first {doubled[:3]}; {told}"
    other = [(key, value, logged.get(key)) for key, value in values.items() if value != logged.get(key)]
    assert not other, f"{len(other)} were never produced so, the first {other[:3]}, the last {other[-1]}; {told}"


def restarted(component: Component, times: int) -> bool:
    """Whether the nucleus has started it again that often, and it runs."""
    return component.restarts >= times and component.state == "RUNNING"
