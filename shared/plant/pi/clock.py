"""The PI server's clock: it may start at any time, run faster than ours, and be wrong.

    clock = Clock(speed=20)          from now on, 20 server seconds in one of ours
    clock.now_ns()                   the archive's time
    clock.true_ns()                  the time at the machines, which is right when the archive's is not
    clock.date_ns()                  what the `Date` header says
    await clock.sleep(5)             five server seconds: 0.25 of ours
    clock.skew(hours)                the whole server jumps; clock.skew(hours, date_only=True): its Date header alone

Times are integer nanoseconds since 1970 UTC, in PI's ticks of 100 ns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

TICK_NS = 100
_SECOND_NS = 1_000_000_000


class Clock:
    """A clock that runs at `speed`, from `start_ns` (the present when None) plus `skew_s`.

    now: what it is driven by, in our seconds; a test may give its own.
    """

    def __init__(
        self,
        speed: float = 1.0,
        start_ns: int | None = None,
        skew_s: float = 0.0,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed {speed}: expected a number above 0, 1 is the speed of our own clock")
        self.speed = speed
        self._now = now
        self._begun = now()
        self._start_ns = time.time_ns() if start_ns is None else start_ns
        self._skew_ns = round(skew_s * _SECOND_NS)
        self._date_skew_ns = 0

    def now_ns(self) -> int:
        """The server's present."""
        return (self.true_ns() + self._skew_ns) // TICK_NS * TICK_NS

    def true_ns(self) -> int:
        """The present at the machines, whatever the server's clock says."""
        elapsed = round((self._now() - self._begun) * self.speed * _SECOND_NS)
        return (self._start_ns + elapsed) // TICK_NS * TICK_NS

    def date_ns(self) -> int:
        """The time that the web server writes into its answers."""
        return self.now_ns() + self._date_skew_ns

    def date(self) -> str:
        """The `Date` header: whole seconds, rounded down."""
        return formatdate(self.date_ns() // _SECOND_NS, usegmt=True)

    def skew(self, seconds: float, *, date_only: bool = False) -> None:
        """Let the clock be wrong by that many seconds (0: right again): all of it, or its `Date` header alone."""
        if date_only:
            self._date_skew_ns = round(seconds * _SECOND_NS)
        else:
            self._skew_ns = round(seconds * _SECOND_NS)

    def ours(self, server_s: float) -> float:
        """That many server seconds in ours."""
        return server_s / self.speed

    async def sleep(self, server_s: float) -> None:
        """Wait that many server seconds."""
        await asyncio.sleep(server_s / self.speed)


__all__ = ["TICK_NS", "Clock"]
