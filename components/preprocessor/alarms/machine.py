"""From a condition to an alarm: the state machine of one alarm at one tag (a *point*), after ISA-18.2.

States:

    NORMAL      the condition is false
    RISING      it is true, for less than the on-delay so far
    ACTIVE      the alarm was raised
    FALLING     the alarm was raised, and its condition is false, for less than the off-delay so far
    INHIBITED   the condition is true, but nobody is to hear of it

What happens, and what is told of it:

              ALARM     LEVEL     OVER      DELAY     INHIBIT     FREE
    NORMAL    RISING    .         .         .         .           .
    RISING    .         RISING    NORMAL    ACTIVE    INHIBITED   .
                                            raised
    ACTIVE    .         ACTIVE    FALLING   .         INHIBITED   .
                        changed                       suppressed
    FALLING   ACTIVE    .         .         NORMAL    NORMAL      .
                                            returned  suppressed
    INHIBITED .         .         NORMAL    .         .           RISING

ALARM: the condition becomes true; LEVEL: it goes from one level to another (high to high-high); OVER: it becomes
false; DELAY: the delay of the state has passed; INHIBIT: the inhibit expression is true; FREE: it is not any more.

A value holds until the next one, so a delay that ended before a row came ended with the value that held then: the row
is looked at afterwards. Time is source time; when nothing comes, the steady clock says that a delay has passed, and
the transition carries the source time at which it did. A level that changes is told at once, without delay: hysteresis
keeps it calm. An alarm that comes back within the off-delay is the same alarm. Acknowledging and shelving are for those
who show alarms to people, and are no business of a gateway.

Times of one point never go back: a transition is not before the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from preprocessor.engine.step import SECOND

RAISED: Final = "raised"
CHANGED: Final = "changed"
RETURNED: Final = "returned"
SUPPRESSED: Final = "suppressed"


class State(IntEnum):
    """Where a point stands."""

    NORMAL = 0
    RISING = 1
    ACTIVE = 2
    FALLING = 3
    INHIBITED = 4


class Stimulus(IntEnum):
    """What may happen to it."""

    ALARM = 0
    LEVEL = 1
    OVER = 2
    DELAY = 3
    INHIBIT = 4
    FREE = 5


TABLE: Final[Mapping[tuple[State, Stimulus], tuple[State, str]]] = {
    (State.NORMAL, Stimulus.ALARM): (State.RISING, ""),
    (State.RISING, Stimulus.LEVEL): (State.RISING, ""),
    (State.RISING, Stimulus.OVER): (State.NORMAL, ""),
    (State.RISING, Stimulus.DELAY): (State.ACTIVE, RAISED),
    (State.RISING, Stimulus.INHIBIT): (State.INHIBITED, ""),
    (State.ACTIVE, Stimulus.LEVEL): (State.ACTIVE, CHANGED),
    (State.ACTIVE, Stimulus.OVER): (State.FALLING, ""),
    (State.ACTIVE, Stimulus.INHIBIT): (State.INHIBITED, SUPPRESSED),
    (State.FALLING, Stimulus.ALARM): (State.ACTIVE, ""),
    (State.FALLING, Stimulus.DELAY): (State.NORMAL, RETURNED),
    (State.FALLING, Stimulus.INHIBIT): (State.NORMAL, SUPPRESSED),
    (State.INHIBITED, Stimulus.OVER): (State.NORMAL, ""),
    (State.INHIBITED, Stimulus.FREE): (State.RISING, ""),
}
"""What is not in it changes nothing."""

DELAYED: Final = (State.RISING, State.FALLING)
ALIVE: Final = (State.ACTIVE, State.FALLING)
"""The alarm was raised and has not ended."""


@dataclass(slots=True)
class Point:
    """One alarm at one tag."""

    state: State = State.NORMAL
    level: int = 0
    """The level of the condition now; 0: it is false."""
    told: int = 0
    """The level that was told last."""
    since: int = 0
    """Source time at which the delay began, ns."""
    steady: int = 0
    """The steady clock when it did."""
    raised: int = 0
    """Source time at which the alarm was raised, ns."""
    moved: int = 0
    """Source time of the latest transition that was told, ns."""
    number: int = 0
    """Alarms raised at this point so far."""
    first: bool = False
    """Whether it was the first active alarm of its asset."""
    asset: str = ""
    """The asset that it counts for as long as it is active."""
    value: Any = None
    """The value that the condition was judged by last."""
    batch: str = ""
    """The production batch of that row."""


class Transition(NamedTuple):
    """What is told of a point."""

    told: str
    time: int
    level: int
    value: Any
    batch: str
    number: int
    """Of the occurrence."""
    raised: int
    """When it was raised."""


class Machine:
    """The rules by which the points of one alarm move."""

    def __init__(self, on_delay: float, off_delay: float) -> None:
        """Delays in seconds."""
        self._on, self._off = round(on_delay * SECOND), round(off_delay * SECOND)

    def delay(self, point: Point) -> int:
        """How long the point's state lasts until DELAY, ns."""
        return self._on if point.state == State.RISING else self._off

    def see(
        self, point: Point, time: int, level: int, value: Any, batch: str, inhibited: bool, steady: int
    ) -> list[Transition]:
        """The condition has this level at this source time; value and batch are of the row that says so."""
        told = self._passed(point, time)
        before = point.level
        point.level, point.value, point.batch = level, value, batch
        if level and not before:
            told += self._move(point, Stimulus.ALARM, time, steady)
            if inhibited:
                told += self._move(point, Stimulus.INHIBIT, time, steady)
            elif point.state == State.ACTIVE and level != point.told:
                told += self._move(point, Stimulus.LEVEL, time, steady)
        elif before and not level:
            told += self._move(point, Stimulus.OVER, time, steady)
        elif level != before:
            told += self._move(point, Stimulus.LEVEL, time, steady)
        return told + self._passed(point, time)

    def inhibit(self, point: Point, time: int, inhibited: bool, steady: int) -> list[Transition]:
        """The inhibit expression becomes true, or ceases to be, at this source time."""
        told = self._passed(point, time)
        told += self._move(point, Stimulus.INHIBIT if inhibited else Stimulus.FREE, time, steady)
        return told + self._passed(point, time)

    def wait_over(self, point: Point) -> list[Transition]:
        """The delay has passed, and nothing came."""
        return self._move(point, Stimulus.DELAY, point.since + self.delay(point), 0) if point.state in DELAYED else []

    def _passed(self, point: Point, time: int) -> list[Transition]:
        """The end of a delay that lies at or before this time."""
        return self.wait_over(point) if point.state in DELAYED and time - point.since >= self.delay(point) else []

    def _move(self, point: Point, stimulus: Stimulus, time: int, steady: int) -> list[Transition]:
        after, told = TABLE.get((point.state, stimulus), (point.state, ""))
        if after in DELAYED and after != point.state:
            point.since, point.steady = time, steady
        point.state = after
        if not told:
            return []
        point.moved = max(time, point.moved)
        if told == RAISED:
            point.raised = point.moved
            point.number += 1
        if told in (RAISED, CHANGED):
            point.told = point.level
        return [Transition(told, point.moved, point.told, point.value, point.batch, point.number, point.raised)]
