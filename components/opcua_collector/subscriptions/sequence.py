"""Order and gaps of one subscription's notification messages (Part 4, 5.14.1 and 7.25). Pure: no clocks, no sockets.

Theory of operation. The server numbers messages 1, 2, 3 … 4294967295, 1 …; 0 does not exist. Several PublishRequests
are outstanding at once, so answers may overtake each other. A keep-alive has no number of its own: it carries the
number that the *next* message will have, and so proves that everything before it was sent.

| arrives                           | what is done                                                                 |
|-----------------------------------|------------------------------------------------------------------------------|
| the expected number               | delivered, and after it whatever waited for it                               |
| a later number                    | waits; what lies before it is *overdue*                                      |
| an earlier number, or one waiting | a repetition: acknowledged again, not delivered again                        |
| an earlier number, far away       | the server counts anew: what waited, then this is delivered, counted on there|
| number 0                          | a server with its own idea of numbers: delivered, never sequenced            |
| keep-alive with a later number    | what lies before it is overdue                                               |
| Republish gives an overdue number | as if it had come by itself                                                  |
| nobody has an overdue number      | missing: told, passed over (`pass_over`); should it come after all, a repeat |

`Sequence` itself forgets nothing and waits for ever: who uses it decides when an answer can no more be under way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

M = TypeVar("M")

LAST: Final = 2**32 - 1
_FAR: Final = 100_000


def following(number: int, steps: int = 1) -> int:
    """The number `steps` after `number`, rolling over from 4294967295 to 1."""
    return (number - 1 + steps) % LAST + 1


def distance(start: int, number: int) -> int:
    """Steps from `start` to `number`; negative when it lies behind. The shorter way round decides which."""
    steps = (number - start) % LAST
    return steps if steps <= LAST // 2 else steps - LAST


@dataclass(frozen=True, slots=True)
class Missing:
    """Messages that were sent and have not come: numbers `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return distance(self.first, self.last) + 1


@dataclass(frozen=True, slots=True)
class Step(Generic[M]):
    """What follows from one arrival: messages to deliver in order, and whether it was a repetition."""

    ready: tuple[M, ...] = ()
    repeated: bool = False


@dataclass(slots=True)
class Sequence(Generic[M]):
    """The rules above for one subscription. `expected`: the number of the next message to deliver."""

    expected: int = 1
    _waiting: dict[int, M] = field(default_factory=dict)
    _announced: int = 0  # number that a keep-alive says comes next; 0: none beyond what is expected

    @property
    def overdue(self) -> Missing | None:
        """The first messages that are known to have been sent and have not come."""
        known = [*self._waiting, *([self._announced] if self._announced else [])]
        if not known:
            return None
        nearest = min(known, key=lambda number: distance(self.expected, number))
        return Missing(self.expected, following(nearest, -1))

    @property
    def waiting(self) -> int:
        """How many messages wait for others before them."""
        return len(self._waiting)

    def receive(self, number: int, message: M) -> Step[M]:
        """A message with data."""
        if number == 0:
            return Step((message,))
        steps = distance(self.expected, number)
        if steps < -_FAR:
            waited = [self._waiting[old] for old in sorted(self._waiting, key=lambda old: distance(self.expected, old))]
            self.forget(following(number))
            return Step((*waited, message))
        if steps < 0 or number in self._waiting:
            return Step(repeated=True)
        self._waiting[number] = message
        return Step(self._drain())

    def keep_alive(self, number: int) -> None:
        """A message without data, which carries the next number."""
        if number and 0 < distance(self.expected, number) <= _FAR:
            self._announced = number

    def pass_over(self) -> Step[M]:
        """Nobody has the first of what is overdue: goes on behind it."""
        overdue = self.overdue
        if overdue is None:
            return Step()
        self.expected = following(overdue.last)
        return Step(self._drain())

    def forget(self, expected: int) -> None:
        """Nothing waits any more, `expected` comes next: the rest is asked for again."""
        self.expected = expected
        self._waiting.clear()
        self._announced = 0

    def _drain(self) -> tuple[M, ...]:
        ready = []
        while (message := self._waiting.pop(self.expected, None)) is not None:
            ready.append(message)
            self.expected = following(self.expected)
        if self._announced and distance(self.expected, self._announced) <= 0:
            self._announced = 0
        return tuple(ready)
