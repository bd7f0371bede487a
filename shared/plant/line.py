"""A TCP line to a server that can be cut, swallow everything, be slow, or refuse, as lines in a plant do.

async with Line(4840) as line:
    ...connect to 127.0.0.1:line.port...
    await line.cut()          # every connection is reset; new ones work
    await line.half_open()    # every connection is reset to the client alone: the server waits for it for ever
    line.blackhole(True)      # nothing passes any more, in either direction, and nobody is told
    line.delay(0.15)          # each piece arrives that many seconds late: 300 ms there and back
    line.refuse(True)         # new connections are reset at once
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_PIECE = 65536
_HOST = "127.0.0.1"


class Line:
    """Forwards connections from `port` to `target`, both on this machine. Bytes already passed on are never lost.

    target: the server's port. port: 0 takes a free one.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.port = port
        self.accepted = 0
        """Connections so far, refused ones apart."""
        self._target = target
        self._delay = 0.0
        self._refuse = False
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._forlorn: list[asyncio.StreamWriter] = []  # ends at the server whose client has gone without a word

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._connected, _HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        while self._forlorn:
            _reset(self._forlorn.pop())

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._pairs)

    async def cut(self) -> None:
        """Reset every connection, to both sides; what is under way in them is gone."""
        tasks = dict(self._pairs)
        for task, writers in tasks.items():
            for writer in writers:
                _reset(writer)
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def half_open(self) -> None:
        """Reset every connection to the client alone, as when its device loses power: the server is told nothing.

        The server's ends stay open until it closes them, or the line ends.
        """
        tasks = dict(self._pairs)
        for task, (client, *servers) in tasks.items():
            _reset(client)
            self._forlorn += servers
            self._pairs[task] = [client]
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def blackhole(self, on: bool) -> None:
        """Swallow silence: bytes wait, connections stay; when it ends they go on as if nothing had been."""
        if on:
            self._open.clear()
        else:
            self._open.set()

    def delay(self, seconds: float) -> None:
        """Let each piece that is read from now on arrive that much later."""
        self._delay = seconds

    def refuse(self, on: bool) -> None:
        """Reset new connections at once, while True."""
        self._refuse = on

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuse:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = [writer]
        self.accepted += 1
        try:
            there, back = await asyncio.open_connection(_HOST, self._target)
            self._pairs[task].append(back)
            await _side_by_side(self._pass(reader, back), self._pass(there, writer), asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the server does not listen, or the line was cut: the client sees a reset
        finally:
            for end in self._pairs.pop(task):
                _reset(end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass pieces on in order, each after the delay that holds when it comes."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def read() -> None:
            while data := await reader.read(_PIECE):
                await under_way.put((loop.time() + self._delay, data))
            await under_way.put((0.0, b""))

        async def write() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._open.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        await _side_by_side(read(), write(), asyncio.FIRST_EXCEPTION)


async def _side_by_side(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None], until: str) -> None:
    """Run both until the first has ended, or both have, or one fails; what still runs then is ended."""
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    if writer.transport is not None:
        writer.transport.abort()
