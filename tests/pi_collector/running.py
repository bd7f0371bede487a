"""A connection that runs against a simulated PI Web API, and waiting for what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pi_collector.config import Connection as Settings
from pi_collector.config import Tag
from pi_collector.connection import Connection
from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.points import PiPoint, PointDefinition
from plant.pi.server import Options, PiServer
from plant.pi.system import Event, PiSystem
from sluice.config import SecretRef
from sluice.log import Secret
from sluice.tasks import end

from .disk import Disk, Outlet, Row

SECOND = 10**9
SPEED = 20.0
FAST = ChannelOptions(poll_s=0.4)


async def until(condition: Callable[[], object], what: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition; when it does not come, say what there is."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, what()
        await asyncio.sleep(0.01)


class Problems:
    """What was reported, by place."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[str, str]] = {}

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None:
        self.told[scope] = (problem, remedy)

    def clear(self, scope: str) -> None:
        for place in [place for place in self.told if place == scope or place.startswith(f"{scope}.")]:
            del self.told[place]


async def no_secret(reference: SecretRef) -> Secret:
    raise AssertionError(f"nobody configured a secret, and {reference} was asked for")


class Plant:
    """A PI system with points of these names, and a server for it."""

    def __init__(self, *names: str, speed: float = SPEED, options: Options | None = None) -> None:
        self.clock = Clock(speed)
        self.system = PiSystem(self.clock)
        for name in names:
            self.system.add(PointDefinition(name))
        self.server = PiServer(self.system, self.clock, options or Options(channels=FAST))

    def point(self, name: str) -> PiPoint:
        found = self.system.by_name(name)
        assert found is not None, name
        return found

    def write(self, name: str, value: float, *, ago: float = 0.0) -> None:
        """Write a value of `ago` server seconds before now."""
        self.system.write(self.point(name), Event(self.clock.now_ns() - round(ago * SECOND), value))

    def history(self, name: str, values: int, *, first: float, last: float = 0.0) -> None:
        """Write values evenly from `first` to `last` server seconds before now."""
        now = self.clock.now_ns()
        for number in range(values):
            ago = first - (first - last) * number / values
            self.system.write(self.point(name), Event(now - round(ago * SECOND), float(number)))

    def archived(self, *names: str, since: int = 0) -> set[Row]:
        """All that the archive holds, from `since` (ns) on."""
        points = [self.point(name) for name in names] if names else list(self.system)
        return {
            (point.name, event.time_ns, event.value)
            for point in points
            for event in self.system.archived(point)
            if event.time_ns >= since
        }


def settings(plant: Plant, **more: Any) -> Settings:
    base = {
        "url": plant.server.url,
        "settle": "2s",
        "overlap": "10s",
        "heartbeat": "1s",
        "pollInterval": "200ms",
        "load": {"requestsPerSecond": 500, "parallel": 4},
    }
    return Settings.model_validate({**base, **more})


def tags(*names: str, **more: Any) -> dict[str, Tag]:
    return {name: Tag.model_validate({"point": name, **more}) for name in names}


class Run:
    """One run of a connection, from its start to its end or to a power failure."""

    def __init__(self, plant: Plant, folder: Path, disk: Disk, wanted: dict[str, Tag], made: Settings) -> None:
        self.plant = plant
        self.problems = Problems()
        self.outlet = Outlet(disk)
        self.connection = Connection(
            "site",
            made,
            wanted,
            outlet=self.outlet,
            secret=no_secret,
            directory=folder,
            problems=self.problems,
        )
        self.task = asyncio.create_task(self.connection.run())

    async def kill(self) -> None:
        """Like kill -9: nothing that is not on the disk gets there."""
        self.outlet.kill()
        await end(self.task)

    async def stop(self) -> None:
        await end(self.task)
        await asyncio.sleep(0.05)

    def shown(self) -> Any:
        return self.connection.status(), self.problems.told

    async def state(self, wanted: str, seconds: float = 20.0) -> None:
        await until(lambda: self.connection.status()["state"] == wanted, self.shown, seconds)

    async def live(self, *names: str) -> None:
        """Until every stream comes by itself, or is polled, and none has a hole."""
        count = len(names)

        def there() -> bool:
            told = self.connection.status().get("streams", {})
            moving = told.get("live", 0) + told.get("polled", 0)
            return bool(moving >= (count or told.get("streams", 1)) and told.get("behind") == 0)

        await until(there, self.shown)


@asynccontextmanager
async def running(plant: Plant, folder: Path, disk: Disk, wanted: dict[str, Tag], **more: Any) -> AsyncIterator[Run]:
    """Within a plant whose server is started."""
    run = Run(plant, folder, disk, wanted, settings(plant, **more))
    try:
        yield run
    finally:
        await run.stop()


async def arrived(disk: Disk, expected: Callable[[], set[Row]], shown: Callable[[], object]) -> None:
    """Until everything expected is on the disk: each once, and nothing else."""
    await until(lambda: expected() <= set(disk.rows), lambda: (_missing(disk, expected()), shown()), 30.0)
    again = {row: count for row, count in disk.counted().items() if count > 1}
    assert not again, f"came several times: {list(again.items())[:10]}"


def _missing(disk: Disk, expected: set[Row]) -> str:
    lacking = sorted(expected - set(disk.rows))
    return f"{len(lacking)} of {len(expected)} are missing, such as {lacking[:5]}"
