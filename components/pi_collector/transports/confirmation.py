"""Up to which server time a channel has sent everything, and whether it still lives. Pure: time is passed in.

Theory. A channel says nothing of what it has left to send. But its server works in turns: it looks for news, sends what
it found, and looks again; after some looks without news it sends an empty message, the heartbeat. So:

    we               our ping k, when the server's clock is at D or later
    server           pong k
    server           message: its look may have been before the ping came
    server           another message: its look was after the one before was sent, so after pong k, so after D

Everything that was there at D has then been sent, for on one connection nothing overtakes. `D - settle` is *confirmed*:
settle is what a value may need from its own time until the server's looks can see it. Arrival alone confirms nothing,
whatever its time: a frame can be the second half of what one look found.

So two messages only count as two looks when they cannot be of one:

| message                            | a look of its own                                             |
|------------------------------------|---------------------------------------------------------------|
| empty (heartbeat)                  | always: a look that found nothing sends nothing else          |
| with values, after an empty one    | always                                                        |
| with values, after one with values | yes, but not if it is the same again, which some servers send |

Without messages nothing is confirmed: a server that knows no heartbeats leaves coverage where it is, and who asks
(`unproven`) lets the archive prove it.

Silence. A heartbeat is due every so many looks, but how long a look takes is the server's affair: it is learnt from the
heartbeats that came. Three times the longest of them without any message, and the channel is dead even though its line
answers pings. Without pong and without message for three heartbeats of ours, the line is (half-open). What our own loop
was late is nobody's silence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MOST: Final = 8
"""Pings without proof at the same time; what they cost is bounded, and a slow server is asked less often."""
OFTEN: Final = 0.25
"""Seconds from one ping to the next at least."""
PATIENCE: Final = 3
_LEARNT: Final = 16  # heartbeats of which the longest is remembered
_PREFIX: Final = b"sluice-"


@dataclass(slots=True)
class _Ping:
    """One question: `at` is what the server's clock had reached when it was sent."""

    number: int
    at: int
    sent: float
    looks: int = -1
    """-1: no pong yet; else looks that are known to have sent something since."""


class Confirmation:
    """What the pings, pongs and messages of one channel prove."""

    def __init__(self, now: float) -> None:
        self._open: deque[_Ping] = deque()
        self._number = 0
        self._asked_at = -1
        self._asked = float("-inf")
        self._last: bytes | str | None = None
        """The message before, for one that is the same again."""
        self._proven = -1
        self._proven_at = now

    @property
    def proven(self) -> int:
        """Server time (ns) up to which everything that was there has been sent; -1: none."""
        return self._proven

    def unproven(self, now: float) -> float:
        """Seconds without a new proof."""
        return now - self._proven_at

    def ask(self, lower: int, now: float, every: float) -> bytes | None:
        """What the next ping is to carry, or None while none is due.

        lower: the server's clock has reached this (ns). every: seconds after which one is due whatever is known, so
        that the line is heard of.
        """
        if now - self._asked < OFTEN:
            return None
        useful = lower > self._asked_at and len(self._open) < MOST
        if not useful and now - self._asked < every:
            return None
        self._number += 1
        self._asked = now
        if useful:
            self._asked_at = lower
            self._open.append(_Ping(self._number, lower, now))
        return _PREFIX + str(self._number).encode()

    def pong(self, payload: bytes, now: float) -> None:
        """An answer to one of our pings; it answers those before it too. Any other payload says nothing."""
        digits = payload[len(_PREFIX) :]
        if not payload.startswith(_PREFIX) or not digits.isdigit() or len(digits) > 18:
            return
        number = int(digits)
        if number > self._number:
            return  # nobody asked that
        for ping in self._open:
            if ping.number <= number and ping.looks < 0:
                ping.looks = 0

    def message(self, content: bytes | str | None, now: float) -> bool:
        """The server sent something; None: a heartbeat. Whether `proven` has risen.

        To be called after the message's values were handed on.
        """
        repeated = content is not None and content == self._last
        self._last = content
        if repeated:
            return False
        risen = False
        for ping in self._open:
            if ping.looks >= 0:
                ping.looks += 1
        while self._open and self._open[0].looks >= 2:
            ping = self._open.popleft()
            if ping.at > self._proven:
                self._proven = ping.at
                risen = True
        if risen:
            self._proven_at = now
        return risen


class Watch:
    """Whether a channel lives. heartbeat: seconds, our setting."""

    def __init__(self, heartbeat: float, now: float) -> None:
        self.heartbeat = heartbeat
        self._heard = now
        self._message = now
        self._looked = now
        self._excused = 0.0
        self._cadence: deque[float] = deque(maxlen=_LEARNT)

    @property
    def cadence(self) -> float | None:
        """Seconds from a message to a heartbeat, the longest of the last ones; None: none was ever heard."""
        return max(self._cadence, default=None)

    def heard(self, now: float) -> None:
        """A pong, or anything else that came over the line."""
        self._heard = now

    def message(self, now: float, *, empty: bool) -> None:
        """A message came; empty: a heartbeat."""
        if empty:
            self._cadence.append(max(0.0, now - self._message))
        self._heard = self._message = now

    def excuse(self, seconds: float, now: float) -> None:
        """For so long we did not listen."""
        self._heard = min(now, self._heard + seconds)
        self._message = min(now, self._message + seconds)

    def look(self, now: float, step: float) -> str:
        """What is wrong with it, or "". Asked every `step` seconds: what a step took longer was our own delay."""
        delay = now - self._looked - step
        self._looked = now
        if delay > step:
            self.excuse(delay, now)
        if now - self._heard > PATIENCE * self.heartbeat:
            return f"the websocket gave no sign of life for {now - self._heard:.0f} s, not even to pings (half-open)"
        cadence = self.cadence
        if cadence is not None and now - self._message > max(PATIENCE * cadence, self.heartbeat):
            silence = now - self._message
            return f"the channel sent nothing for {silence:.0f} s, after heartbeats every {cadence:.1f} s"
        return ""
