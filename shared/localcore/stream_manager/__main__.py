"""`python -m localcore.stream_manager`: wires and starts; ends when stdin closes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localcore.child import serve_commands, tell
from localcore.stream_manager.process import TOKEN_VARIABLE
from localcore.stream_manager.server import Fault, Server


async def _main(arguments: argparse.Namespace) -> None:
    server = Server(arguments.root, auth_token=os.environ.get(TOKEN_VARIABLE))

    def handle(command: dict[str, Any]) -> Mapping[str, Any]:
        match command.pop("command"):
            case "fault":
                server.faults.append(Fault(**command))
            case "cut":
                for connection in list(server.connections):
                    connection.end(command["kind"])
            case unknown:
                raise ValueError(f"unknown command {unknown!r}")
        return {"event": "done"}

    port = await server.start(arguments.port)
    ticker = asyncio.create_task(_tick(server))
    tell({"event": "ready", "port": port})
    await serve_commands(handle)
    ticker.cancel()
    await server.stop()


async def _tick(server: Server) -> None:
    while True:
        await asyncio.sleep(1)
        for stream in server.streams:
            stream.tick(time.time_ns() // 1_000_000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="localcore.stream_manager", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the core's folder")
    parser.add_argument("--region", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--time-scale", type=float, default=1.0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_main(parser.parse_args()))
