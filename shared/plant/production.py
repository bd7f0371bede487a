"""Production: rows at a fixed schedule, each into the plant's own log first and then to the server.

    waiting --start--> held --every expected item is watched--> producing --stop--> ended

Row n is due n periods after the first. A row that is late is produced at once, with the time at which that really
happens, and none is left out. Times are whole ticks of the server (of asyncua's: a microsecond) and always ascend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from plant.log import PlantLog
from plant.unit import Reading, Unit, Value, samples_per_row

_WATCH_INTERVAL = 0.05
_PROGRESS_INTERVAL = 0.5
_TICK_NS = 1_000

Report = Callable[[str, dict[str, object]], None]


class Named(Protocol):
    """Something with the name that it has everywhere in the plant."""

    @property
    def tag(self) -> str:
        """Its name."""


class Server(Protocol):
    """What serves the rows."""

    @property
    def tags(self) -> Sequence[Named]:
        """All its variables, unit by unit."""

    @property
    def watched(self) -> int:
        """How many of them somebody follows."""

    @property
    def dropped(self) -> int:
        """Values that left a queue before a client fetched them."""

    @property
    def services(self) -> Mapping[str, int]:
        """What clients asked for, and how often."""

    async def show(self, time_ns: int, readings: Sequence[Reading]) -> None:
        """Serve a row."""


class Production:
    """Runs the units of a server.

    Args:
        server: serves the rows.
        log: the plant's own log, which has each row first.
        units: the copies of the process.
        rate: samples per second of the server's time.
        expect_items: how many variables must be watched before the first row.
        report: report(event, fields) is told what happens.
        folder: other recorded runs.
        now_ns: the server's time; tick_ns: its resolution; speed: its seconds in one of ours.
        delivered: what the log says of (column, value, status), where a reader is given something else.
    """

    def __init__(
        self,
        server: Server,
        log: PlantLog,
        units: Sequence[Unit],
        *,
        rate: float,
        expect_items: int,
        report: Report,
        folder: Path | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        tick_ns: int = _TICK_NS,
        speed: float = 1.0,
        delivered: Callable[[int, Value, int], tuple[Value, int]] | None = None,
    ) -> None:
        self._server = server
        self._log = log
        self._units = list(units)
        self._tags = [tag.tag for tag in server.tags]
        self._width = len(self._tags) // len(self._units)
        self._samples_per_row = samples_per_row(folder=folder) * len(self._units)
        self._now_ns = now_ns
        self._tick_ns = tick_ns
        self._speed = speed
        self._delivered = delivered
        self._period = self._samples_per_row / rate / speed
        self._expect_items = expect_items
        self._report = report
        self._last_ns = 0
        self._wanted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._rescheduled = asyncio.Event()
        self._late_rows = 0

    def start(self) -> None:
        """Produce as soon as the server sees every expected item."""
        self._wanted.set()

    def stop(self) -> None:
        """Finish the row, produce the closing one, end the log."""
        self._stopping.set()
        self._wanted.set()

    def set_rate(self, rate: float) -> None:
        """Produce that many samples per second from now on."""
        self._period = self._samples_per_row / rate / self._speed
        self._rescheduled.set()

    def set_fault(self, number: int, unit: int | None = None) -> None:
        """Let a fault set in (0 ends it) in one unit, the first being 1, or in all."""
        for chosen in self._units if unit is None else [self._units[unit - 1]]:
            chosen.set_fault(number)

    @property
    def units(self) -> int:
        """How many units produce."""
        return len(self._units)

    async def run(self) -> None:
        """From waiting to ended."""
        await self._hold()
        if not self._stopping.is_set():
            self._report("started", {"watched": self._server.watched, "period_s": round(self._period, 6)})
            telling = asyncio.create_task(self._tell())
            try:
                await self._produce()
            finally:
                telling.cancel()
        await self._row([unit.stop() for unit in self._units])
        self._log.end()
        self._report(
            "finished",
            {
                "rows": self._log.rows,
                "samples": self._log.samples,
                "late_rows": self._late_rows,
                "dropped": self._server.dropped,
                "services": self._server.services,
            },
        )

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_INTERVAL)
            self._report("progress", {"rows": self._log.rows, "samples": self._log.samples})

    async def _hold(self) -> None:
        watched = 0
        while not (self._wanted.is_set() and (watched >= self._expect_items or self._stopping.is_set())):
            now = self._server.watched
            if now != watched:
                watched = now
                self._report("watched", {"items": watched, "expected": self._expect_items})
                continue
            await asyncio.sleep(_WATCH_INTERVAL)

    async def _produce(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                if await self._interrupted(wait):
                    due = time.monotonic()
                    continue
            else:
                self._late_rows += wait < -self._period
                await asyncio.sleep(0)  # the connections get their turn even when every row is late
            await self._row([unit.step() for unit in self._units])
            due += self._period

    async def _interrupted(self, wait: float) -> bool:
        """Wait for the next row; true when production stops or its rate changes before."""
        waiters = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(self._rescheduled.wait())]
        try:
            done, _ = await asyncio.wait(waiters, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        self._rescheduled.clear()
        return bool(done)

    async def _row(self, readings: Sequence[Reading]) -> None:
        tick = self._tick_ns
        self._last_ns = max(self._now_ns() // tick * tick, self._last_ns + tick)
        values: dict[str, Value] = {}
        statuses: dict[str, int] = {}
        first = 0
        for reading in readings:
            for column in reading.changed:
                tag = self._tags[first + column]
                value, status = reading.values[column], reading.statuses[column]
                if self._delivered is not None:
                    value, status = self._delivered(first + column, value, status)
                values[tag] = value
                if status:
                    statuses[tag] = status
            first += self._width
        self._log.write(self._last_ns, values, statuses)
        await self._server.show(self._last_ns, readings)
