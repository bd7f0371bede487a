"""Clients of others read the simulated PI Web API, and get what it holds: piwebx and tagreader, unmodified, from PyPI.

They show that the simulator is not made for our collector alone. scripts/peers installs them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from plant.pi.authentication import Authentication
from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.server import Options, PiServer
from plant.pi.states import DigitalSet
from plant.pi.system import Event, PiSystem, PointDefinition

pytestmark = pytest.mark.peers

PYTHON = Path(__file__).resolve().parents[2] / ".peers" / "pi" / "bin" / "python"
SCRIPTS = Path(__file__).parent / "pi_conformance"
LIMIT = 60.0
SECOND = 1_000_000_000


class Client:
    """A client's process; `told` gives what it says, in its order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def told(self, what: str) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), LIMIT)
        if not line:
            assert self._process.stderr is not None
            raise AssertionError(f"it ended before {what}: {(await self._process.stderr.read())[-3000:].decode()}")
        message = json.loads(line)
        assert message["what"] == what, message
        return message["got"]


@asynccontextmanager
async def client(script: str, **told: Any) -> AsyncIterator[Client]:
    assert PYTHON.exists(), f"{PYTHON} is not installed: run scripts/peers, or scripts/test --peers"
    process = await asyncio.create_subprocess_exec(
        str(PYTHON),
        str(SCRIPTS / script),
        json.dumps(told),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def iso(time_ns: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat()


def same_time(one: str, other: str) -> bool:
    return datetime.fromisoformat(one) == datetime.fromisoformat(other)


@pytest.fixture
def system() -> PiSystem:
    """A ramp A, a digital B, and C with a hole of bad values, each with an event per second over a minute."""
    system = PiSystem(Clock())
    system.add(PointDefinition("AREA.A", type="Float32", unit="degC", descriptor="A ramp"))
    system.add(PointDefinition("AREA.B", type="Digital", digital_set=DigitalSet("Pump", ["Off", "On"])))
    system.add(PointDefinition("AREA.C", type="Int32", unit="kg"))
    begin = (system.clock.now_ns() // SECOND - 120) * SECOND
    a, b, c = system
    for at in range(60):
        now = begin + at * SECOND
        system.write(a, Event(now, at + 0.5))
        system.write(b, Event(now, at % 2))
        system.write(c, Event.of_system(now, "I/O Timeout") if 20 <= at < 30 else Event(now, at))
    return system


async def test_piwebx_finds_points_and_reads_their_past_and_what_a_channel_brings(system: PiSystem) -> None:
    a, b, c = system
    held = system.archived(a)
    begin, end = held[0].time_ns, held[-1].time_ns
    clock = system.clock
    assert isinstance(clock, Clock)
    async with (
        PiServer(system, clock, Options(channels=ChannelOptions(poll_s=0.1))) as server,
        client(
            "with_piwebx.py",
            url=server.url,
            points=["area.a", "area.b", "area.c"],
            start=iso(begin),
            end=iso(end),
            values=3,
        ) as peer,
    ):
        search = await peer.told("search")
        assert search == {"found": ["AREA.A", "AREA.B", "AREA.C"], "missing": ["NOT THERE"]}
        assert await peer.told("types") == ["Float32", "Digital", "Int32"]

        recorded = await peer.told("recorded")
        assert len(recorded) == len(held)
        for (at, values), event, state, number in zip(
            recorded, held, system.archived(b), system.archived(c), strict=True
        ):
            assert same_time(at, iso(event.time_ns))
            # piwebx gives None for what is not good, and a state's name.
            assert state.state is not None
            assert values == [event.value, state.state.name, number.value if number.good else None]

        interpolated = await peer.told("interpolated")
        assert [values[0] for _, values in interpolated] == [event.value for event in held]
        current = await peer.told("current")
        assert current[0] == held[-1].value

        initial = await peer.told("open")
        assert {name for name, *_ in initial} == {"AREA.A", "AREA.B", "AREA.C"}
        written = [Event(clock.now_ns() + at * 1000, 100.0 + at) for at in range(3)]
        system.write_many([(a, event) for event in written])
        channel = await peer.told("channel")
        assert [(name, value) for name, _, value in channel] == [("AREA.A", event.value) for event in written]
        assert all(same_time(at, iso(event.time_ns)) for (_, at, _), event in zip(channel, written, strict=True))
    assert server.written == 0


async def test_tagreader_logs_in_searches_and_reads_raw_interpolated_and_summarised_values(system: PiSystem) -> None:
    (a, *_) = system
    held = system.archived(a)
    begin = held[0].time_ns
    clock = system.clock
    assert isinstance(clock, Clock)
    login = Authentication({"PLANT\\reader": "a: password"})
    async with (
        PiServer(system, clock, authentication=login) as server,
        client(
            "with_tagreader.py",
            url=server.url,
            server=system.name,
            user="PLANT\\reader",
            password="a: password",
            point="AREA.A",
            pattern="AREA.*",
            start=iso(begin),
            end=iso(begin + 20 * SECOND),
        ) as peer,
    ):
        assert await peer.told("search") == [["AREA.A", "A ramp"], ["AREA.B", ""], ["AREA.C", ""]]
        assert await peer.told("units") == {"AREA.A": "degC"}
        assert await peer.told("descriptions") == {"AREA.A": "A ramp"}

        raw = await peer.told("RAW")
        assert [value for _, value in raw] == [event.value for event in held[:21]]
        assert all(same_time(at, iso(event.time_ns)) for (at, _), event in zip(raw, held, strict=False))
        interpolated = await peer.told("INT")
        assert [value for _, value in interpolated] == [held[at].value for at in range(0, 21, 2)]
        average, lowest, highest = [await peer.told(name) for name in ("AVG", "MIN", "MAX")]
        # A ramp of one per second over intervals of two: its middle, its beginning and its end.
        assert [value for _, value in average] == pytest.approx([1.5 + 2 * at for at in range(10)])
        assert [value for _, value in lowest] == pytest.approx([0.5 + 2 * at for at in range(10)])
        assert [value for _, value in highest] == pytest.approx([2.5 + 2 * at for at in range(10)])
    assert server.written == 0
