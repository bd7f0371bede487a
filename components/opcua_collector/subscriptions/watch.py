"""Who is silent for too long: the server, one of its subscriptions, or the data in it. Pure: time is passed in.

Theory. Each subscription promises a sign within its keep-alive, so each has a deadline of its own. Any answer is life
of the server, but not of a subscription that should have spoken. So of a subscription beyond its deadline

| the server, meanwhile                           | means                                                           |
|-------------------------------------------------|-----------------------------------------------------------------|
| has said nothing for as long                    | the server, or the line to it, is dead                          |
| has answered something                          | it is asked about this subscription: it may be gone by itself   |

A server can send keep-alives and no data, for ever. So each subscription also has a deadline for what flows in it.

A loop that was itself too busy to hear anything is no silence: what one step took longer than it should is not counted,
against anybody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

_NEVER: Final = float("inf")
_MINUTE: Final = 60.0
_LONGEST_WITHOUT: Final = 40.0  # seconds that a server without subscriptions, asked every ten, may give no answer


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the clock finds, by subscription."""

    dead: bool = False
    silent: tuple[int, ...] = ()
    """Beyond their deadlines while the server has answered others."""
    still: tuple[int, ...] = ()
    """They answer, and nothing flows in them."""


@dataclass(slots=True)
class _Deadline:
    limit: float
    heard: float
    flow: float  # seconds after which the data counts as standing still
    flowed: float


class Watch:
    """The deadlines of a session. Asked every few moments, by `look`."""

    def __init__(self, now: float) -> None:
        self._answered = now
        self._looked = now
        self._idle: float | None = now
        self._of: dict[int, _Deadline] = {}
        self._lags: deque[tuple[float, float]] = deque()

    def follow(self, subscription: int, limit: float, now: float, flow: float = _NEVER) -> None:
        """From now on a sign of it is due every `limit` seconds at least, and data every `flow`."""
        known = self._of.get(subscription)
        if known is None:
            self._of[subscription] = _Deadline(limit, now, flow, now)
        else:
            known.limit, known.flow = limit, flow

    def leave(self, subscription: int) -> None:
        """Nothing of it is expected any more."""
        self._of.pop(subscription, None)

    def answered(self, now: float) -> None:
        """The server has answered something, whatever it was."""
        self._answered = now

    def heard(self, subscription: int, now: float, *, data: bool = False) -> None:
        """A message of the subscription came, maybe with data."""
        self._answered = now
        if (known := self._of.get(subscription)) is not None:
            known.heard = now
            if data:
                known.flowed = now

    def idle(self, now: float) -> None:
        """No request is left that the server could answer."""
        self._idle = now

    def asked(self, now: float) -> None:
        """There is one again: what could not be heard meanwhile is nobody's silence."""
        if self._idle is not None:
            self._excuse(now - self._idle, now)
            self._idle = None

    def _excuse(self, seconds: float, now: float) -> None:
        self._answered = min(now, self._answered + seconds)
        for known in self._of.values():
            known.heard = min(now, known.heard + seconds)
            known.flowed = min(now, known.flowed + seconds)

    def ages(self, subscription: int, now: float) -> tuple[float, float]:
        """Seconds since the subscription's last sign, and since its last data."""
        known = self._of.get(subscription)
        return (0.0, 0.0) if known is None else (now - known.heard, now - known.flowed)

    def look(self, now: float, step: float) -> Look:
        """Asked every `step` seconds: what a step took longer was our own delay, not the server's."""
        delay = now - self._looked - step
        self._looked = now
        self._note_lag(now, max(0.0, delay))
        if delay > step:
            self._excuse(delay, now)
        if not self._of:
            return Look(dead=now - self._answered > _LONGEST_WITHOUT)
        silent = {number: known for number, known in self._of.items() if now - known.heard > known.limit}
        if any(now - self._answered > known.limit for known in silent.values()):
            return Look(dead=True)
        still = (number for number, known in self._of.items() if now - known.flowed > known.flow)
        return Look(silent=tuple(silent), still=tuple(number for number in still if number not in silent))

    def lag(self, now: float) -> float:
        """The longest that our own loop was late in the last minute, in seconds."""
        self._note_lag(now, 0.0)
        return self._lags[0][1]

    def _note_lag(self, now: float, lag: float) -> None:
        """Keeps the times in order and the lags falling: the first is the highest that still counts."""
        while self._lags and self._lags[-1][1] <= lag:
            self._lags.pop()
        self._lags.append((now, lag))
        while now - self._lags[0][0] > _MINUTE:
            self._lags.popleft()
