"""What the tests of the PI server share: a server with a few points, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.server import Options, PiServer
from plant.pi.states import DigitalSet
from plant.pi.system import Event, PiPoint, PiSystem, PointDefinition

FAST = ChannelOptions(poll_s=0.02)
POST = {"X-Requested-With": "test"}


async def until(condition: Callable[[], bool], what: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition, and say what there is when it does not come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, what()
        await asyncio.sleep(0.005)


def system_with(*names: str, clock: Clock | None = None) -> PiSystem:
    """A system with a Float64 point of each name, and a digital one, Running."""
    system = PiSystem(clock or Clock())
    for name in names:
        system.add(PointDefinition(name, unit="degC"))
    system.add(PointDefinition("Running", type="Digital", digital_set=DigitalSet("States", ["Stopped", "Running"])))
    return system


@asynccontextmanager
async def serving(
    *names: str, options: Options | None = None, clock: Clock | None = None, **arguments: Any
) -> AsyncIterator[tuple[PiServer, aiohttp.ClientSession]]:
    """A server with points of these names, and a client of its own."""
    clock = clock or Clock()
    options = options or Options(channels=FAST)
    async with (
        PiServer(system_with(*names, clock=clock), clock, options, **arguments) as server,
        aiohttp.ClientSession() as client,
    ):
        yield server, client


def point(server: PiServer, name: str) -> PiPoint:
    """The point of that name."""
    found = server.system.by_name(name)
    assert found is not None, f"there is no {name}"
    return found


def channel_url(server: PiServer, *names: str, **parameters: object) -> str:
    """Where a channel for these points is opened."""
    ids = [("webId", server.system.web_id_of(point(server, name), "IDOnly")) for name in names]
    query = "&".join(f"{key}={value}" for key, value in [*ids, *parameters.items()])
    return f"{server.url}/streamsets/channel?{query}"


def write(server: PiServer, name: str, value: float, *, ago_s: float = 0.0) -> Event:
    """Write a value; the event as the archive has it."""
    change = server.system.write(point(server, name), Event(server.clock.now_ns() - round(ago_s * 1e9), value))
    assert change is not None
    return change.event


async def frame(socket: Any) -> dict[str, Any]:
    """The next frame of a channel."""
    message = await socket.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.TEXT, message
    body: dict[str, Any] = message.json()
    return body
