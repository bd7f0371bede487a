"""What a point receives and what is told of it.

Times are ns since 1970 UTC; a PI system knows 100 ns, so whatever is finer is cut off when it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from plant.pi.states import DigitalState, system_state

if TYPE_CHECKING:
    from plant.pi.points import PiPoint

TICK_NS: Final = 100

Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One value of a point at one time.

    value: a number or text; for a state its code. state: a digital state, the point's or the system's, which then
    stands in the place of the value. An event with a state of the system is never good.
    """

    time_ns: int
    value: Value
    good: bool = True
    questionable: bool = False
    substituted: bool = False
    annotated: bool = False
    state: DigitalState | None = None

    @classmethod
    def of_system(cls, time_ns: int, wanted: int | str) -> Event:
        """An event that holds a state of the system, by its code or its name, such as "I/O Timeout"."""
        state = system_state(wanted)
        return cls(time_ns, state.code, good=False, state=state)

    @property
    def number(self) -> float | None:
        """The value, where it is a number and no state."""
        return self.value if self.state is None and isinstance(self.value, (int, float)) else None


Mode = Literal["insert", "replace", "no-replace", "replace-only", "insert-no-compression"]
"""What a write does where events are there already (AFUpdateOption).

insert: it is added, whatever is there at its time. replace: it takes the place of what is there, and is added where
nothing is. no-replace: it is added only where nothing is. replace-only: it takes the place of what is there, or nothing
happens. insert-no-compression: it is added and kept, whatever comes after it.
"""

Action = Literal["Add", "Insert", "Update", "Delete", "Refresh"]
"""What happened to a stream (AFDataPipeAction).

Add: a new end of the stream. Insert: an event older than its end. Update: an event that was there has another value.
Delete: an event is there no more. Refresh: everything from the event's time on is to be read again.
"""

Previous = Literal["archived", "compressed"]
"""What became of the snapshot that a new one displaced."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to a point's stream, in the order in which it happened."""

    point: PiPoint
    action: Action
    event: Event
    previous: Previous | None = None
    """Of `Add` alone, and not for a stream's first event."""
