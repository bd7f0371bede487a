"""What the PI plant produces: the units of the plant as points of PI, or a load of many plain points.

A unit's points are named `U1.XMEAS01_AFeed`: measurements Float32, valves Float64, `Row` Int32, `Running` Digital
(Stopped, Running), `Phase` String. A bad value is the state Bad Input of the system, an uncertain one is Questionable.
Without compression the archive keeps every event, and the plant's row log says what a collector delivers of them: then
PI is judged as the OPC UA plant is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plant.log import PlantLog, Value
from plant.pi.clock import TICK_NS
from plant.pi.events import Event
from plant.pi.points import PiPoint, PointDefinition, PointType
from plant.pi.server import PiServer
from plant.pi.states import DigitalSet, system_state
from plant.pi.truth import Sample
from plant.tags import UNIT_WIDTH, tags
from plant.unit import Reading

RUNNING = DigitalSet("Running", ["Stopped", "Running"])
_BAD_INPUT = system_state("Bad Input")
_TYPES: dict[str, PointType] = {"Int32": "Int32", "Boolean": "Digital", "String": "String"}
_COMPDEV, _COMPMAX_S = 0.005, 600.0
_SECOND_NS = 1_000_000_000
_LOAD_STEPS_PER_S = 20.0
_PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True)
class Named:
    """A point's name, as `tag`."""

    tag: str


def definitions(units: int, *, compressing: bool = False, excdev: float = 0.0) -> list[PointDefinition]:
    """The points of that many units, unit by unit in the order of their columns.

    compressing: as PI does it, with 0.5 % of the span. excdev: of the span; smaller changes never reach PI.
    """
    found = []
    for tag in tags(units):
        unit, name = tag.tag.split("/")
        kind: PointType = _TYPES.get(tag.type) or ("Float32" if name.startswith("XMEAS") else "Float64")
        analogue, span = kind.startswith("Float"), tag.high - tag.low
        found.append(
            PointDefinition(
                f"{unit.replace('Unit', 'U')}.{name}",
                type=kind,
                unit=tag.unit,
                descriptor=tag.description,
                source="PLANT",
                step=not analogue,
                zero=tag.low,
                span=span or 100.0,
                compressing=compressing,
                compdev=_COMPDEV * span if analogue else 0.0,
                compmax=_COMPMAX_S,
                excdev=excdev * span if analogue else 0.0,
                digital_set=RUNNING if kind == "Digital" else None,
            )
        )
    return found


class PiUnits:
    """The units behind a PI server, as `plant.production.Production` drives them."""

    def __init__(self, server: PiServer, units: int, *, compressing: bool = False, excdev: float = 0.0) -> None:
        self._server = server
        self.points = [server.system.add(one) for one in definitions(units, compressing=compressing, excdev=excdev)]
        self.tags = [Named(point.name) for point in self.points]

    @property
    def watched(self) -> int:
        """Points that somebody follows."""
        return len(self._server.watched)

    @property
    def dropped(self) -> int:
        """Values that did not fit into the queue of a channel."""
        return self._server.channels.lost

    @property
    def services(self) -> Mapping[str, int]:
        """Requests by verb and route."""
        return self._server.requests

    async def show(self, time_ns: int, readings: Sequence[Reading]) -> None:
        """Let a row reach PI."""
        events, first = [], 0
        for reading in readings:
            for column in reading.changed:
                point = self.points[first + column]
                event = _event(point, time_ns, reading.values[column], reading.statuses[column])
                if point.definition.excdev > 0:
                    events += [(point, passed) for passed in point.exception.offer(event)]
                else:
                    events.append((point, event))
            first += UNIT_WIDTH
        self._server.inlet.write_many(events)

    def delivered(self, column: int, value: Value, status: int) -> tuple[Value, int]:
        """What a collector gives for a value: the state's name, the precision of the point."""
        point = self.points[column]
        event = point.taken(_event(point, 0, value, status))
        if event.state is None:
            return event.value, status
        return (None if event.state.is_system else event.state.name), status


def _event(point: PiPoint, time_ns: int, value: Value, status: int) -> Event:
    severity = status >> 30
    if value is None or severity >= 2:
        return Event(time_ns, _BAD_INPUT.code, good=False, state=_BAD_INPUT)
    if point.definition.digital_set is not None:
        return Event(time_ns, int(value), questionable=severity == 1)
    return Event(time_ns, value, questionable=severity == 1)


class Load:
    """Many plain points with a steady stream of events, for measuring; each has its turn.

    Args:
        server: receives them.
        log: the plant's row log.
        points: how many; rate: events per server second, of all together.
        expect_items: how many points must be watched before the first event.
        report: is told what happens.
    """

    def __init__(
        self,
        server: PiServer,
        log: PlantLog,
        points: int,
        *,
        rate: float,
        expect_items: int,
        report: Callable[[str, dict[str, object]], None],
    ) -> None:
        width = len(str(points))
        self._server = server
        self._log = log
        self._points = [
            server.system.add(PointDefinition(f"L{number:0{width}}", type="Float32", unit="degC", source="LOAD"))
            for number in range(1, points + 1)
        ]
        self._rate = rate
        self._expect_items = expect_items
        self._report = report
        self._next = 0
        # A stride that meets every point in its turn, so that each moment's events are spread over all of them.
        self._stride = next(
            one for one in range(round(points * 0.618) + 1, 2 * points + 2) if math.gcd(one, points) == 1
        )
        self._last_ns = 0
        self._late_rows = 0
        self._wanted = asyncio.Event()
        self._stopping = asyncio.Event()

    def past(self, values: int, span_s: float) -> None:
        """Give every point that many values, evenly over so many seconds until now; nobody is told of them."""
        now = self._server.clock.now_ns()
        step = max(TICK_NS, round(span_s * _SECOND_NS / max(1, values)) // TICK_NS * TICK_NS)
        times = [now - (values - at) * step for at in range(values)]
        for row, at in enumerate(times):
            taken = {point.name: _wave(row, number) for number, point in enumerate(self._points)}
            self._log.write(at, taken, {})
        for number, point in enumerate(self._points):
            column = [_wave(row, number) for row in range(values)]
            point.load(times, column)
            self._server.truth.note(
                now, [(Sample(point.id, at, value, 1, None), "Insert") for at, value in zip(times, column, strict=True)]
            )
        self._last_ns = times[-1] if times else 0

    def start(self) -> None:
        """Produce as soon as enough points are watched."""
        self._wanted.set()

    def stop(self) -> None:
        """End the log."""
        self._stopping.set()
        self._wanted.set()

    def set_rate(self, rate: float) -> None:
        """So many events per server second from now on."""
        self._rate = rate

    async def run(self) -> None:
        """From waiting to ended."""
        await self._hold()
        if not self._stopping.is_set():
            self._report("started", {"watched": len(self._server.watched), "period_s": 1 / _LOAD_STEPS_PER_S})
            await self._produce()
        self._log.end()
        self._report(
            "finished",
            {
                "rows": self._log.rows,
                "samples": self._log.samples,
                "late_rows": self._late_rows,
                "dropped": self._server.channels.lost,
                "services": dict(self._server.requests),
            },
        )

    async def _hold(self) -> None:
        watched = 0
        while not (self._wanted.is_set() and (watched >= self._expect_items or self._stopping.is_set())):
            now = len(self._server.watched)
            if now != watched:
                watched = now
                self._report("watched", {"items": watched, "expected": self._expect_items})
            await asyncio.sleep(0.05)

    async def _produce(self) -> None:
        period, due, owed, told = 1 / _LOAD_STEPS_PER_S, time.monotonic(), 0.0, 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now < due:
                await asyncio.sleep(due - now)
                continue
            self._late_rows += now > due + period
            await asyncio.sleep(0)  # the connections get their turn even when every row is late
            owed += self._rate * self._server.clock.speed * period
            # A point has one value at one time: more events than points in a step take another step.
            count = min(int(owed), len(self._points))
            owed -= count
            self._row(count)
            due += period
            if now >= told + _PROGRESS_S:
                told = now
                self._report("progress", {"rows": self._log.rows, "samples": self._log.samples})

    def _row(self, count: int) -> None:
        if not count:
            return
        self._last_ns = max(self._server.clock.true_ns(), self._last_ns + TICK_NS)
        chosen = [(self._next + at * self._stride) % len(self._points) for at in range(count)]
        self._next = (self._next + count * self._stride) % len(self._points)
        events = [(self._points[n], Event(self._last_ns, _wave(self._log.rows, n))) for n in chosen]
        self._log.write(self._last_ns, {point.name: event.value for point, event in events}, {})
        self._server.inlet.write_many(events)


def _wave(row: int, number: int) -> float:
    """A number that 32 bits hold exactly."""
    return round((50 + 40 * math.sin((row + number) / 30)) * 64) / 64


__all__ = ["Load", "PiUnits", "definitions"]
