"""`python -m localcore.aws`: wires and starts; ends when stdin closes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from localcore.aws.faults import Faults
from localcore.aws.moto_http import MotoServer
from localcore.aws.sitewise import SiteWise
from localcore.aws.sitewise_http import make_app
from localcore.child import leave, serve_commands, tell


async def _main(arguments: argparse.Namespace) -> None:
    faults = Faults()
    moto_port = MotoServer(faults).start(arguments.moto_port)
    sitewise = SiteWise(arguments.root)
    runner = web.AppRunner(make_app(sitewise, faults), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.sitewise_port).start()
    sitewise_port = runner.addresses[0][1]

    def handle(command: dict[str, Any]) -> Mapping[str, Any]:
        if command.pop("command") != "fault":
            raise ValueError("the only command is fault")
        faults.order(**command)
        return {"event": "done"}

    tell({"event": "ready", "ports": {"moto": moto_port, "sitewise": sitewise_port}})
    await serve_commands(handle)
    await runner.cleanup()
    sitewise.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="localcore.aws", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the core's folder")
    parser.add_argument("--region", required=True)
    parser.add_argument("--moto-port", type=int, default=0)
    parser.add_argument("--sitewise-port", type=int, default=0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    parsed = parser.parse_args()
    os.environ.setdefault("AWS_DEFAULT_REGION", parsed.region)
    asyncio.run(_main(parsed))
    leave()
