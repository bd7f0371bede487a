"""Order and gaps of one subscription's notification messages (Part 4, 5.14.1 and 7.25). Pure: no clocks, no sockets.

Theory of operation. The server numbers messages 1, 2, 3 … 4294967295, 1 …; 0 does not exist. Several PublishRequests
are outstanding at once, so answers may overtake each other. A keep-alive has no number of its own: it carries the
number that the *next* message will have, and so proves that everything before it was sent.

| arrives                          | what is done                                                                  |
|----------------------------------|-------------------------------------------------------------------------------|
| the expected number              | delivered, and after it whatever waited for it                                |
| a later number                   | waits; what lies between is *overdue*                                         |
| a later number, waiting room full| the overdue numbers are missing: told, passed over                            |
| an earlier number                | a repetition: acknowledged again, not delivered again                         |
| an earlier number, far away      | the server has begun to count anew: delivered, counted on from there          |
| number 0                         | a server with its own idea of numbers: delivered, never sequenced             |
| keep-alive with a later number   | what lies between is overdue                                                  |
| overdue for too long (`give_up`) | missing: told, passed over                                                    |
| a number that was given up       | delivered all the same, late                                                  |

`room` bounds how many messages wait, and so for how long one is waited for. Missing numbers are what Republish asks the
server for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

M = TypeVar("M")

LAST: Final = 2**32 - 1
_FAR: Final = 100_000
_REMEMBERED: Final = 1000  # numbers given up that may still come


def following(number: int, steps: int = 1) -> int:
    """The number `steps` after `number`, rolling over from 4294967295 to 1."""
    return (number - 1 + steps) % LAST + 1


def distance(start: int, number: int) -> int:
    """Steps from `start` to `number`; negative when it lies behind. The shorter way round decides which."""
    steps = (number - start) % LAST
    return steps if steps <= LAST // 2 else steps - LAST


@dataclass(frozen=True, slots=True)
class Missing:
    """Messages that never came: numbers `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return distance(self.first, self.last) + 1


@dataclass(frozen=True, slots=True)
class Step(Generic[M]):
    """What follows from one arrival: messages to deliver in order, numbers given up before them."""

    ready: tuple[M, ...] = ()
    missing: tuple[Missing, ...] = ()
    repeated: bool = False
    late: bool = False
    renumbered: bool = False


@dataclass(slots=True)
class Sequence(Generic[M]):
    """The rules above for one subscription."""

    room: int
    expected: int = 1
    _waiting: dict[int, M] = field(default_factory=dict)
    _given_up: dict[int, None] = field(default_factory=dict)  # in order of being given up
    _announced: int = 0  # number that a keep-alive says comes next; 0: none beyond what is expected

    @property
    def overdue(self) -> bool:
        """Whether messages are known to have been sent that have not come."""
        return bool(self._waiting) or self._announced != 0

    def receive(self, number: int, message: M) -> Step[M]:
        """A message with data."""
        if number == 0:
            return Step((message,))
        steps = distance(self.expected, number)
        if steps < -_FAR:
            self.expected = following(number)
            self._waiting.clear()
            self._given_up.clear()
            self._announced = 0
            return Step((message,), renumbered=True)
        if number in self._given_up:
            del self._given_up[number]
            return Step((message,), late=True)
        if steps < 0 or number in self._waiting:
            return Step(repeated=True)
        self._waiting[number] = message
        if steps == 0:
            return Step(self._drain())
        return self.give_up() if len(self._waiting) >= self.room else Step()

    def keep_alive(self, number: int) -> Step[M]:
        """A message without data, which carries the next number."""
        if number and 0 < distance(self.expected, number) <= _FAR:
            self._announced = number
        return Step()

    def give_up(self) -> Step[M]:
        """What is overdue is missing: goes on behind it."""
        ready: list[M] = []
        missing: list[Missing] = []
        while self.overdue:
            known = [*self._waiting, *([self._announced] if self._announced else [])]
            nearest = min(known, key=lambda number: distance(self.expected, number))
            if nearest != self.expected:
                gap = Missing(self.expected, following(nearest, -1))
                missing.append(gap)
                self._remember(gap)
            self.expected = nearest
            if self._announced == nearest:
                self._announced = 0
            ready += self._drain()
        return Step(tuple(ready), tuple(missing))

    def _remember(self, gap: Missing) -> None:
        for steps in range(min(len(gap), _REMEMBERED)):
            self._given_up[following(gap.last, -steps)] = None
        while len(self._given_up) > _REMEMBERED:
            del self._given_up[next(iter(self._given_up))]

    def _drain(self) -> tuple[M, ...]:
        ready = []
        while (message := self._waiting.pop(self.expected, None)) is not None:
            ready.append(message)
            self.expected = following(self.expected)
        if self._announced and distance(self.expected, self._announced) <= 0:
            self._announced = 0
        return tuple(ready)
