"""An open62541 server (o6) that produces counted values, logs each before a client can see it, and obeys commands.

    python server.py '{"port":0,"tags":20,"log":"/path/log.jsonl"}'

Speaks as node_opcua/server.js does: {"event":"ready","port":…} and answers on stdout; on stdin "start" with a rate of
values per second in all, and "stop". Half of the variables are doubles (D0, D1, …), half are strings (S0, …). It ends
when stdin does. Without a licence the library ends the process after ten minutes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Any

o6: Any = import_module("o6")

URI = "urn:sluice:tests:open62541"
FILETIME_OF_1970 = 116_444_736_000_000_000


def free_port() -> int:
    """A port that nobody listens on: the library cannot tell which one it took for 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(**message: Any) -> None:
    """One event."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def value_of(tag: str, number: int) -> Any:
    """What a tag says when it is the n-th that changes."""
    return number + 0.5 if tag[0] == "D" else f"n° {number} ✓"


class Plant:
    """The variables, and what was produced."""

    def __init__(self, server: Any, tags: int, log: IO[str]) -> None:
        self.names = [f"{kind}{number}" for kind in "DS" for number in range(tags // 2)]
        self.produced = 0
        self._server = server
        self._nodes = {name: o6.NodeId(f"ns=1;s={name}") for name in self.names}
        self._log = log

    async def build(self) -> None:
        """Make the variables."""
        folder = await self._server.addObject("Plant", self._server.objects, nodeId=o6.NodeId("ns=1;s=Plant"))
        for name, node in self._nodes.items():
            first = o6.Double(-1.0) if name[0] == "D" else "-1"
            await self._server.addVariable(name, folder, first, nodeId=node, writable=False)

    async def produce(self, pause: float) -> None:
        """Rows, each at a time that no other has, until cancelled."""
        last = 0
        while True:
            now = last = max(int(time.time() * 1000), last + 1)
            row = {name: value_of(name, self.produced + i) for i, name in enumerate(self.names)}
            lines = [{"tag": name, "time_ms": now, "value": value} for name, value in row.items()]
            self._log.write("".join(json.dumps(line) + "\n" for line in lines))
            self._log.flush()
            stamp = o6.DateTime(now * 10_000 + FILETIME_OF_1970)
            self.produced += len(row)
            for name, value in row.items():
                told = o6.Double(value) if isinstance(value, float) else value
                await self._server.write(self._nodes[name], o6.DataValue(value=told, sourceTimestamp=stamp))
            await asyncio.sleep(pause)


async def main(options: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    port = options["port"] or free_port()
    server = o6.Server(port=port, applicationUri=URI)
    with Path(options["log"]).open("a") as log:
        plant = Plant(server, options["tags"], log)
        await plant.build()
        async with server:
            say(event="ready", port=port)
            reader = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            producing: asyncio.Task[None] | None = None
            while line := await reader.readline():
                message = json.loads(line)
                if message["command"] == "start":
                    producing = asyncio.create_task(plant.produce(len(plant.names) / message["rate"]))
                    say(event="started")
                elif message["command"] == "stop" and producing is not None:
                    producing.cancel()
                    await asyncio.wait([producing])
                    say(event="finished", samples=plant.produced)


asyncio.run(main(json.loads(sys.argv[1])))
