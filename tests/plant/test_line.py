"""The line between gateway and plant: it passes everything on, until it is told not to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from plant.line import Line

LIMIT = 5.0


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def said(reader: asyncio.StreamReader, count: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(count), LIMIT)


async def answer_of(port: int) -> bytes:
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    return await said(reader, 1)


def test_bytes_pass_in_order_in_both_directions() -> None:
    async def run() -> None:
        async with echo() as port, Line(port) as line:
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            data = bytes(range(256)) * 4000
            writer.write(data)
            assert await said(reader, len(data)) == data
            writer.close()

    asyncio.run(run())


def test_a_cut_resets_what_is_connected_and_lets_new_connections_work() -> None:
    async def run() -> None:
        async with echo() as port, Line(port) as line:
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"x")
            await said(reader, 1)
            await line.cut()
            assert line.connections == 0
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.readexactly(1), LIMIT)
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"again")
            assert await said(reader, 5) == b"again"
            assert line.accepted == 2
            writer.close()

    asyncio.run(run())


def test_a_black_hole_swallows_without_a_word_and_lets_all_through_at_its_end() -> None:
    async def run() -> None:
        async with echo() as port, Line(port) as line:
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            line.blackhole(True)
            writer.write(b"hello")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.2)
            line.blackhole(False)
            assert await said(reader, 5) == b"hello"
            writer.close()

    asyncio.run(run())


def test_a_delay_counts_each_way_and_does_not_hold_up_what_follows() -> None:
    async def run() -> None:
        async with echo() as port, Line(port) as line:
            line.delay(0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            started = time.monotonic()
            for _ in range(5):
                writer.write(b"x")
                await asyncio.sleep(0.01)
            await said(reader, 5)
            assert 0.2 <= time.monotonic() - started < 0.2 + LIMIT
            writer.close()

    asyncio.run(run())


def test_new_connections_are_reset_while_they_are_refused() -> None:
    async def run() -> None:
        async with echo() as port, Line(port) as line:
            line.refuse(True)
            with pytest.raises(ConnectionError):
                await answer_of(line.port)
            line.refuse(False)
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"x")
            assert await said(reader, 1) == b"x"
            writer.close()

    asyncio.run(run())


def test_a_server_that_does_not_listen_is_a_reset() -> None:
    async def run() -> None:
        async with echo() as port:
            pass
        async with Line(port) as line:
            with pytest.raises(ConnectionError):
                await answer_of(line.port)

    asyncio.run(run())


def test_a_half_open_line_is_reset_to_the_client_alone_and_the_server_is_told_nothing() -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(1))
            with contextlib.suppress(ConnectionError):
                await reader.read(1)
            ended.set()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with Line(server.sockets[0].getsockname()[1]) as line:
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"x")
            await said(reader, 1)
            await line.half_open()
            with pytest.raises(ConnectionResetError):
                await said(reader, 1)
            assert await line_works(line.port)
            assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), LIMIT)
        server.close()

    async def line_works(port: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"y")
        return await said(reader, 1) == b"y"

    asyncio.run(run())
