"""A simulated PI Web API, the real client, state and intake, and transports between them; what arrives is kept.

The reader is the plainest one that can be: it reads what coverage wants, in one request, as the archive has it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from pi_collector.config import Connection
from pi_collector.coverage.state import State
from pi_collector.intake import Intake
from pi_collector.plan import plan
from pi_collector.points.point import Point, Stream
from pi_collector.transports.choosing import Way
from pi_collector.transports.transports import Transports
from pi_collector.values.decode import decode_recorded
from pi_collector.web import requests
from pi_collector.web.client import Client
from pi_collector.web.errors import PiError
from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.server import Options, PiServer
from plant.pi.system import Event, PiPoint, PiSystem, PointDefinition
from sluice.columns import Columns
from sluice.component import Problems
from sluice.tasks import end

SPEED = 20.0
"""Server seconds in one of ours: settling takes no time to speak of."""
SETTLE = 2.0
POLL = 0.1
STRANGE = "I1DP" + "A" * 28
"""A WebId of nothing."""


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 15.0) -> None:
    """Wait for a condition, and say what there is when it does not come."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, state()
        await asyncio.sleep(0.01)


class Outlet:
    """Keeps what is submitted. `hold`: from now on nothing becomes durable until `release`."""

    def __init__(self) -> None:
        self.values: list[tuple[str, int, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.full = False
        self._held: list[asyncio.Future[None]] | None = None

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for future in held:
            future.set_result(None)

    def submit(self, columns: Sequence[Columns], **_: Any) -> Awaitable[None]:
        for part in columns:
            self.values += [
                (part.series[s].tag, int(t), value.item() if hasattr(value, "item") else value)
                for s, t, value in zip(part.s.tolist(), part.t.tolist(), part.value, strict=True)
            ]
        return self._future()

    submit_backfill = submit

    def submit_events(self, events: Sequence[Mapping[str, Any]], **_: Any) -> Awaitable[None]:
        self.events += [dict(event) for event in events]
        return self._future()

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        return self._future()

    def _future(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._held is None:
            future.set_result(None)
        else:
            self._held.append(future)
        return future


class Rig:
    """All of it."""

    def __init__(self, server: PiServer, client: Client, settings: Connection) -> None:
        self.server = server
        self.client = client
        self.settings = settings
        self.outlet = Outlet()
        self.state = State(time.time)
        self.intake = Intake("pi", self.outlet, self.state, settings)
        self.problems = Problems()
        self.refused: list[tuple[str, str]] = []
        self.streams: list[Stream] = []
        self.transports = Transports(
            "pi",
            settings,
            client,
            self.intake,
            self.state,
            self.problems,
            refused=lambda stream, why: self.refused.append((stream.tag, why)),
        )

    # --- the plant

    def point(self, name: str) -> PiPoint:
        found = self.server.system.by_name(name)
        assert found is not None, f"there is no {name}"
        return found

    def write(self, name: str, value: float, *, ago_s: float = 0.0) -> None:
        self.server.system.write(self.point(name), Event(self.server.clock.now_ns() - round(ago_s * 1e9), value))

    def stream(self, name: str, *, group: str = "", web_id: str = "") -> Stream:
        """The stream of a point; web_id: another one than it has."""
        found = self.point(name)
        point = Point(
            web_id or self.server.system.web_id_of(found, "IDOnly"), "PISERVER", found.id, name, found.path, "Float64"
        )
        collected = plan(self.settings, group)
        handle = self.state.handle(f"piserver:{found.id}|recorded")
        return Stream(handle, name, point, collected, "", "")

    def want(self, *streams: Stream) -> None:
        """Collect these alone."""
        for gone in [one for one in self.streams if one.handle not in {stream.handle for stream in streams}]:
            self.state.coverage.end(gone.handle, "not wanted")
        self.streams = list(streams)
        for stream in streams:
            assert not self.intake.fix(stream)
            self.state.coverage.begin(
                stream.handle,
                self.client.clock.lower,
                round(stream.plan.overlap * 1e9),
                round(stream.plan.settle * 1e9),
                round(stream.plan.max_backfill * 1e9),
            )
        self.transports.want(streams)

    # --- what came

    def got(self, tag: str) -> list[Any]:
        """Values of a tag, in the order of their times."""
        return [value for _, value in sorted((t, value) for name, t, value in self.outlet.values if name == tag)]

    def ways(self) -> Counter[str]:
        """How many streams come which way."""
        counts: Counter[str] = Counter()
        for told in self.transports.status().values():
            counts.update(told["streams"])
        return counts

    def all_by(self, way: Way) -> bool:
        """Whether everything comes that way, and nothing is left to be read."""
        coverage = self.state.coverage
        live = [coverage.is_live(stream.handle) for stream in self.streams]
        return self.ways() == {way.word: len(live)} and not coverage.behind() and (way is Way.POLL or all(live))

    def covered(self, name: str) -> int:
        return self.state.coverage.covered(self.stream(name).handle)

    def gaps(self) -> list[dict[str, Any]]:
        """Gap events so far, but for those of streams that begin."""
        self.intake.events(self.state.ledger.events(time.time_ns(), self.intake.name))
        return [event for event in self.outlet.events if event["kind"] == "gap" and event["cause"] != "initial"]

    def told(self) -> object:
        """For messages of tests."""
        return self.transports.status(), self.state.coverage.status(), self.transports.counts, self.gaps()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Transports and reader run."""
        tasks = [asyncio.create_task(self.transports.run()), asyncio.create_task(self.read())]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await end(*tasks)

    async def read(self) -> None:
        """Reads what coverage wants, for ever."""
        while True:
            piece = self.state.coverage.work(self.client.clock.lower, time.monotonic(), 100)
            if piece is None:
                await asyncio.sleep(0.02)
                continue
            by_handle = {stream.handle: stream for stream in self.streams}
            streams = [by_handle[handle] for handle in piece.streams.tolist() if handle in by_handle]
            handles = {stream.point.web_id: stream.handle for stream in streams}
            try:
                body = await self.client.get(*requests.recorded(handles, int(piece.start.min()), piece.stop, 1000))
            except PiError:
                self.state.coverage.returned(piece, time.monotonic() + 0.2)
                continue
            decoded = decode_recorded(body, handles, self.intake.typings)
            well = np.array([handle for handle in piece.streams.tolist() if handle not in decoded.errors], np.int32)
            await self.intake.hand_on(
                decoded.timed, live=False, advances=(well, np.full(len(well), piece.stop, np.int64))
            )
            self.state.coverage.finished(piece)


@asynccontextmanager
async def rig(
    *names: str,
    directory: Path,
    options: Options | None = None,
    speed: float = SPEED,
    running: bool = True,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A server with points of these names. running: all are wanted, and run. settings: of the connection, by alias."""
    clock = Clock(speed)
    system = PiSystem(clock)
    for name in names:
        system.add(PointDefinition(name))
    options = options or Options(channels=ChannelOptions(poll_s=0.5))
    async with PiServer(system, clock, options) as server:
        connection = Connection.model_validate(
            {
                "url": server.url,
                "settle": SETTLE,
                "pollInterval": POLL,
                "heartbeat": 1,
                "load": {"requestsPerSecond": 500, **settings.pop("load", {})},
                **settings,
            }
        )
        client = Client("pi", connection, secret=_no_secret, directory=directory, problems=Problems())
        await client.start()
        made = Rig(server, client, connection)
        try:
            if running:
                made.want(*(made.stream(name) for name in names))
            async with made.running() if running else nullcontext():
                yield made
        finally:
            made.intake.close()
            await client.close()


async def _no_secret(_: Any) -> Any:
    raise AssertionError("no secret is configured")
