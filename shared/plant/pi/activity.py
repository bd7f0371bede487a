"""What else happens in a PI system: late values, edits, deletions, bursts, several values at one time, odd times.

Everything is chosen by a seed, so that a storm can be had again. Values stay what the point's type takes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plant.pi.clock import TICK_NS, Clock
from plant.pi.events import Event
from plant.pi.inlet import Inlet
from plant.pi.points import INTEGERS, TEXTS, PiPoint
from plant.pi.states import system_state
from plant.pi.system import PiSystem

_SECOND_NS = 1_000_000_000
_STATES = (246, 255, 238, 254, 251, 252, 307)
_WORDS = ("normal", "alarm", "maintenance", "Größe ändern", "")
_MOST_STEPS_PER_S = 50.0


@dataclass(frozen=True, slots=True)
class ActivityOptions:
    """How often each thing happens, per server second; `back_s` how long ago late values and edits may lie."""

    late: float = 2.0
    edits: float = 0.5
    deletions: float = 0.2
    bursts: float = 0.1
    same_time: float = 0.5
    states: float = 0.5
    back_s: float = 7200.0


class Activity:
    """Happens to the points of a system."""

    def __init__(self, system: PiSystem, inlet: Inlet, clock: Clock, *, seed: int = 0) -> None:
        self._system = system
        self._inlet = inlet
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - chance, not a secret
        self.counts: Counter[str] = Counter()
        """How often each thing has happened."""

    def late(self, values: int, back_s: float, points: Sequence[PiPoint] | None = None) -> int:
        """Values from up to so many seconds ago arrive now; how many did."""
        chosen = list(self._system) if points is None else [point for point in points if point.exists]
        if not chosen:
            return 0
        events = []
        for _ in range(values):
            point = self._random.choice(chosen)
            events.append((point, self._event(point, self._clock.true_ns() - self._within(back_s))))
        self._inlet.write_many(events)
        self.counts["late"] += values
        return values

    def edit(self, points: Sequence[PiPoint], back_s: float) -> bool:
        """An old event gets another value; False when there is none."""
        found = self._old(points, back_s)
        if found is None:
            return False
        point, event = found
        self._inlet.write(point, self._event(point, event.time_ns), mode="replace")
        self.counts["edits"] += 1
        return True

    def delete(self, points: Sequence[PiPoint], back_s: float) -> bool:
        """An old event is removed; False when there is none."""
        found = self._old(points, back_s)
        if found is None or not self._inlet.delete(found[0], found[1].time_ns):
            return False
        self.counts["deletions"] += 1
        return True

    def burst(self, points: Sequence[PiPoint], values: int = 500) -> None:
        """Many values of one point at once, a tick of 100 ns apart."""
        point = self._random.choice(points)
        last = max(self._clock.true_ns() - values * TICK_NS, self._last(point) + TICK_NS)
        self._inlet.write_many([(point, self._event(point, last + at * TICK_NS)) for at in range(values)])
        self.counts["bursts"] += 1

    def same_time(self, points: Sequence[PiPoint], values: int = 3) -> None:
        """Several values of one point at the same time; two of them the same."""
        point = self._random.choice(points)
        at = max(self._clock.true_ns(), self._last(point) + TICK_NS)
        events = [self._event(point, at) for _ in range(values)]
        self._inlet.write_many([(point, event) for event in (*events, events[-1])])
        self.counts["same time"] += 1

    def state(self, points: Sequence[PiPoint]) -> None:
        """A point has a state of the system in the place of a value."""
        point = self._random.choice(points)
        code = self._random.choice(_STATES)
        self._inlet.write(point, Event.of_system(self._clock.true_ns(), system_state(code).code))
        self.counts["states"] += 1

    async def run(self, points: Sequence[PiPoint], options: ActivityOptions) -> None:
        """Let everything happen at its rate until this is cancelled."""
        things: list[tuple[float, Callable[[Sequence[PiPoint]], object]]] = [
            (options.late, lambda chosen: self.late(self._random.randint(1, 20), options.back_s, chosen)),
            (options.edits, lambda chosen: self.edit(chosen, options.back_s)),
            (options.deletions, lambda chosen: self.delete(chosen, options.back_s)),
            (options.bursts, self.burst),
            (options.same_time, self.same_time),
            (options.states, self.state),
        ]
        rate = sum(rate for rate, _ in things)
        if rate <= 0:
            return
        while True:
            # Things that fall due within one step of our clock happen together: a fast server has many of them.
            step = max(self._clock.ours(1 / rate), 1 / _MOST_STEPS_PER_S)
            await asyncio.sleep(step)
            chosen = [point for point in points if point.exists]
            if not chosen:
                continue
            for _ in range(max(1, round(step * self._clock.speed * rate))):
                self._random.choices([thing for _, thing in things], [rate for rate, _ in things])[0](chosen)

    def _within(self, back_s: float) -> int:
        return self._random.randrange(max(1, round(back_s * _SECOND_NS / TICK_NS))) * TICK_NS

    def _last(self, point: PiPoint) -> int:
        return point.archive.times[-1] if len(point.archive) else 0

    def _old(self, points: Sequence[PiPoint], back_s: float) -> tuple[PiPoint, Event] | None:
        point = self._random.choice(points)
        first = point.archive.first_at(self._clock.true_ns() - round(back_s * _SECOND_NS))
        if first >= len(point.archive):
            return None
        return point, point.archive.event(self._random.randrange(first, len(point.archive)))

    def _event(self, point: PiPoint, time_ns: int) -> Event:
        kind, states = point.definition.type, point.definition.digital_set
        value: float | int | str
        if states is not None:
            value = self._random.choice(states.states).code
        elif kind in TEXTS:
            value = self._random.choice(_WORDS)
        elif kind in INTEGERS:
            value = self._random.randrange(-30_000, 30_000)
        else:
            value = self._random.gauss(50.0, 20.0)
        return Event(
            time_ns,
            value,
            questionable=self._random.random() < 0.1,
            substituted=self._random.random() < 0.1,
            annotated=self._random.random() < 0.1,
        )


__all__ = ["Activity", "ActivityOptions"]
