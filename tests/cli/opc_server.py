"""An OPC UA server in a thread of its own, for commands that connect to one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

ua: Any = import_module("asyncua.ua")
Server: Any = import_module("asyncua").Server

URI = "urn:plant"


class Plant:
    """The server: a folder `Plant` with `T0` to `T9`, doubles, and a text `Name`."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._server: Any = None

    async def start(self) -> None:
        self._server = server = Server()
        await server.init()
        server.set_endpoint("opc.tcp://127.0.0.1:0/plant/")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        index = await server.register_namespace(URI)
        folder = await server.nodes.objects.add_object(index, "Plant")
        for number in range(10):
            node = ua.NodeId(f"T{number}", index, ua.NodeIdType.String)
            await folder.add_variable(node, ua.QualifiedName(f"T{number}", index), 20.5 + number)
        name = ua.NodeId("Name", index, ua.NodeIdType.String)
        await folder.add_variable(name, ua.QualifiedName("Name", index), "Reactor")
        await server.start()
        port = server.bserver._server.sockets[0].getsockname()[1]
        self.endpoint = f"opc.tcp://127.0.0.1:{port}/plant/"

    async def stop(self) -> None:
        await self._server.stop()

    def open_subscriptions(self) -> int:
        """How many subscriptions the server has now."""
        return len(self._server.iserver.subscription_service.subscriptions)


@contextmanager
def plant() -> Iterator[Plant]:
    """The server, running."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="OPC UA server", daemon=True)
    thread.start()
    made = Plant()
    try:
        asyncio.run_coroutine_threadsafe(made.start(), loop).result(30)
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
