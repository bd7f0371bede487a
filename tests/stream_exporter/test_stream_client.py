"""The owner of the SDK client survives every known defect of it, and leaves nothing behind.

The server is the local core's stream manager; the defects are those of stream-manager 1.1.2.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from stream_manager import MessageStreamDefinition, StrategyOnFull

from localcore.stream_manager.server import Fault, Server
from stream_exporter.stream_client import NoSuchStream, Refused, StreamClient, TooLarge, Uncertain, Unreachable

STREAM = "SluiceTest"


class World:
    """A server, and an owner that talks to it."""

    def __init__(self, server: Server, port: int, client: StreamClient) -> None:
        self.server = server
        self.port = port
        self.client = client

    def fault(self, kind: str, **arguments: Any) -> None:
        self.server.faults.append(Fault(kind, **arguments))

    def stored(self) -> list[bytes]:
        stream = self.server.streams.get(STREAM)
        if stream.newest < 0:
            return []
        return [message.payload for message in stream.read(0, 1, 10_000, time.time_ns() // 1_000_000)]


def finder(port: int) -> Callable[[], Awaitable[int]]:
    async def find() -> int:
        return port

    return find


def definition(name: str = STREAM) -> MessageStreamDefinition:
    return MessageStreamDefinition(name=name, strategy_on_full=StrategyOnFull.OverwriteOldestData)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    server = Server(tmp_path)
    port = await server.start()
    client = StreamClient("test", finder(port), request_timeout=0.4)
    await client.create(definition())
    yield World(server, port, client)
    await client.close()
    await server.stop()


async def test_messages_are_appended_in_order_and_numbered(world: World) -> None:
    result = await world.client.append_all(STREAM, [b"%d" % n for n in range(500)])

    assert (result.count, result.newest, result.error) == (500, 499, None)
    assert world.stored() == [b"%d" % n for n in range(500)]


async def test_what_the_server_refuses_is_an_answer_and_costs_no_connection(world: World) -> None:
    with pytest.raises(NoSuchStream):
        await world.client.describe("Nothing")
    with pytest.raises(Refused, match="already exists"):
        await world.client.create(definition())
    result = await world.client.append_all(STREAM, [b"a", b"x" * (5 << 20), b"b"])

    assert (result.count, type(result.error)) == (1, TooLarge)
    assert await world.client.read(STREAM, 1, 10) == []
    assert world.client.rebuilt == 1


async def test_messages_are_read_from_a_number_on(world: World) -> None:
    await world.client.append_all(STREAM, [b"a", b"b", b"c"])

    found = await world.client.read(STREAM, 1, 10)

    assert [(message.sequence_number, message.payload) for message in found] == [(1, b"b"), (2, b"c")]


@pytest.mark.parametrize(
    ("kind", "arguments", "stored_after_fault"),
    [
        ("rst", {}, [b"1", b"2"]),
        ("rst", {"accept": False}, [b"1"]),
        ("fin", {}, [b"1", b"2"]),
        ("split", {"split_at": 2, "seconds": 0.05}, [b"1", b"2"]),
        ("delay", {"seconds": 0.8}, [b"1", b"2"]),
        ("lose_reply", {}, [b"1", b"2"]),
    ],
    ids=["a-reset", "a-reset-before", "d-fin", "b-split-length", "c-late-reply", "lost-reply"],
)
async def test_after_a_fault_the_result_is_uncertain_and_the_next_call_works(
    world: World, kind: str, arguments: dict[str, Any], stored_after_fault: list[bytes]
) -> None:
    world.fault(kind, operation="append", **arguments)
    world.server.faults.insert(0, Fault("delay", operation="append", seconds=0.0))  # the first append goes well

    began = time.monotonic()
    result = await world.client.append_all(STREAM, [b"1", b"2", b"3"])

    assert time.monotonic() - began < 10.0, "a call never hangs"
    assert result.count == 1
    assert isinstance(result.error, Uncertain)
    assert STREAM in result.error.why
    assert world.stored() == stored_after_fault
    again = await world.client.append_all(STREAM, [b"4"])
    assert (again.count, again.error) == (1, None)
    assert world.stored() == [*stored_after_fault, b"4"]
    assert world.client.rebuilt == 2


async def test_nobody_listening_is_told_with_place_and_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    client = StreamClient("test", finder(free), request_timeout=0.3)

    with pytest.raises(Unreachable) as raised:
        await client.describe(STREAM)

    assert f"127.0.0.1:{free}" in raised.value.why
    assert "aws.greengrass.StreamManager" in raised.value.remedy
    await client.close()


async def test_something_that_listens_but_is_no_stream_manager_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = StreamClient("test", finder(silent.getsockname()[1]), request_timeout=0.3)

        with pytest.raises(Unreachable, match="does not answer as stream manager does"):
            await client.describe(STREAM)

        await client.close()


async def test_a_wrong_token_is_told_with_its_remedy(tmp_path: Path) -> None:
    server = Server(tmp_path, auth_token="the right one")
    client = StreamClient("test", finder(await server.start()), request_timeout=0.3)

    with pytest.raises(Unreachable, match="refused the connection") as raised:
        await client.describe(STREAM)

    assert "STREAM_MANAGER_AUTHENTICATE_CLIENT" in raised.value.remedy
    await client.close()
    await server.stop()


async def test_a_server_that_comes_back_on_another_port_is_found(tmp_path: Path) -> None:
    server = Server(tmp_path)
    ports = [await server.start()]

    async def find() -> int:
        return ports[-1]

    client = StreamClient("test", find, request_timeout=0.4)
    await client.create(definition())
    await server.stop()
    assert isinstance((await client.append_all(STREAM, [b"1"])).error, Uncertain)
    server = Server(tmp_path)
    ports.append(await server.start())

    assert (await client.append_all(STREAM, [b"2"])).count == 1
    await client.close()
    await server.stop()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("kind", ["rst", "fin", "split", "lose_reply", "silent", "refused"])
async def test_no_fault_leaves_a_thread_or_a_descriptor_behind(tmp_path: Path, kind: str) -> None:
    """Defects e and f of the SDK: a failed constructor, and close() after a reset, leak both."""
    server = Server(tmp_path, auth_token="unknown to the client" if kind == "refused" else None)
    port = await server.start()
    silent = socket.create_server(("127.0.0.1", 0), backlog=50)
    client = StreamClient("test", finder(silent.getsockname()[1] if kind == "silent" else port), request_timeout=0.1)

    async def trouble() -> None:
        if kind not in ("silent", "refused"):
            server.faults.append(Fault(kind, operation="append", seconds=0.01))
        result = await client.append_all(STREAM, [b"1"])
        assert result.error is not None
        for connection in list(server.connections):
            connection.end("fin")

    if kind not in ("silent", "refused"):
        await client.create(definition())
    await trouble()
    await settled(server)
    threads, descriptors = threading.active_count(), open_descriptors()
    for _ in range(8):
        await trouble()
    await settled(server)

    assert threading.active_count() <= threads
    assert open_descriptors() <= descriptors

    await client.close()
    await until(lambda: threading.active_count() < threads, "the owner's thread to end")
    silent.close()
    await server.stop()


async def settled(server: Server) -> None:
    """Wait until the server has seen all its connections end."""
    await until(lambda: not server.connections, "the server's connections to end")
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, 30 s at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def test_calls_of_several_tasks_are_made_one_after_the_other(world: World) -> None:
    world.fault("delay", operation="append", seconds=0.1)

    results = await asyncio.gather(*(world.client.append_all(STREAM, [b"%d" % n]) for n in range(20)))

    assert [result.newest for result in results] == list(range(20))


async def test_closing_while_a_call_hangs_takes_no_longer_than_the_call(world: World) -> None:
    world.fault("lose_reply", operation="append")
    call = asyncio.create_task(world.client.append_all(STREAM, [b"1"]))
    await asyncio.sleep(0)

    began = time.monotonic()
    await world.client.close()

    assert time.monotonic() - began < 10.0, "the reply never comes"
    assert isinstance((await call).error, Uncertain)
