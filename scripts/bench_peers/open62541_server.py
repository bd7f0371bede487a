"""An open62541 server (o6) with many variables that stay as they are. `scripts/bench items` has them monitored.

    python open62541_server.py <variables>

It prints its port as a line of JSON. Without a licence the library ends the process after ten minutes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from importlib import import_module
from typing import Any

o6: Any = import_module("o6")

URI = "urn:sluice:items"


async def main(variables: int) -> None:
    """Serve until standard input ends."""
    with socket.socket() as probe:  # the library cannot tell which port it took for 0
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = o6.Server(port=port, applicationUri=URI)
    folder = await server.addObject("Items", server.objects, nodeId=o6.NodeId("ns=1;s=Items"))
    for number in range(1, variables + 1):
        node = o6.NodeId(f"ns=1;i={number}")
        await server.addVariable(f"Item{number}", folder, o6.Double(float(number)), nodeId=node, writable=False)
    async with server:
        print(json.dumps({"port": port}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(int(sys.argv[1])))
