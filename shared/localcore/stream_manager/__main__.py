"""`python -m localcore.stream_manager`: wires and starts; ends when stdin closes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localcore import clock
from localcore.child import leave, serve_commands, tell
from localcore.stream_manager.definition import ExportConfig, RefusedError
from localcore.stream_manager.exports.exporter import Destination, Exports
from localcore.stream_manager.exports.kinesis import KinesisDestination
from localcore.stream_manager.exports.s3 import S3Destination
from localcore.stream_manager.exports.sitewise import SiteWiseDestination
from localcore.stream_manager.process import ENDPOINT_VARIABLES, TOKEN_VARIABLE
from localcore.stream_manager.server import Fault, Server
from localcore.stream_manager.streams import Stream

logger = logging.getLogger("localcore.stream_manager")

_NO_ENDPOINT = "http://127.0.0.1:9"  # the discard port: an export without an endpoint retries for ever


async def _main(arguments: argparse.Namespace) -> None:
    server = Server(arguments.root, auth_token=os.environ.get(TOKEN_VARIABLE))
    exports = Exports(server.streams, _destinations(server, arguments.region), time_scale=arguments.time_scale)
    server.on_change = exports.follow
    for stream in server.streams:
        exports.follow(stream)

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
    await exports.stop()
    await server.stop()


def _destinations(server: Server, region: str) -> Mapping[str, Callable[[Stream, ExportConfig], Destination]]:
    endpoint = {service: os.environ.get(variable, _NO_ENDPOINT) for service, variable in ENDPOINT_VARIABLES.items()}
    loop = asyncio.get_running_loop()

    def append_status(status_stream: str, payload: bytes) -> None:
        try:
            server.append(server.streams.get(status_stream), payload)
        except RefusedError as refused:
            logger.warning("a task's status is lost: %s", refused)

    def report(status_stream: str, payload: bytes) -> None:
        loop.call_soon_threadsafe(append_status, status_stream, payload)

    return {
        "kinesis": lambda _, config: KinesisDestination(config.wire["kinesisStreamName"], region, endpoint["kinesis"]),
        "IotSitewise": lambda _, config: SiteWiseDestination(endpoint["iotsitewise"]),
        "s3TaskExecutor": lambda stream, config: S3Destination(
            stream.definition.name, config, region, endpoint["s3"], report
        ),
    }


async def _tick(server: Server) -> None:
    while True:
        await asyncio.sleep(1)
        for stream in server.streams:
            stream.tick(clock.now_ms())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="localcore.stream_manager", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the core's folder")
    parser.add_argument("--region", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--time-scale", type=float, default=1.0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_main(parser.parse_args()))
    leave()
