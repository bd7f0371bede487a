"""The server's time, as far as its answers prove it. Not our own clock: that one may be hours off, and so may theirs.

    lower          the server's clock was at least here when it was heard last
    await after()  an upper bound of the server's clock at the moment of the call

Two sources, each an `Instant` with what it is worth:

    Date header    of every answer; whole seconds, rounded down: the time lies within the second that begins there
    ServerTime     of the data archive, asked for every second or so: the clock by which values are stored

`lower` is the smaller of the newest of both, `after` the larger: each is safe, for coverage that ends too early is read
again, and coverage that ends too late is a gap. Nothing is extrapolated: how fast the server's clock runs is not known.

A clock that jumps back takes `lower` with it: less is covered than was, which harms nothing. One of the two that jumps
forward for a while harms nothing while the other one is right. What remains: where the server tells no ServerTime (very
old, or not allowed), a Date header that is hours ahead lets coverage pass those hours; the skew against our own clock
is told then, and reconciliation reads what was passed over within its window.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from pi_collector.values.times import NEVER, parse
from pi_collector.web.errors import MalformedError

SKEW: Final = 10.0
"""Seconds between the server's clock and ours from which on it is told."""
NO_SKEW: Final = 8.0
"""Seconds up to which it is told no more."""
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Instant:
    """A time that a server told: its clock was at `ns`, or less than `within` ns later."""

    ns: int
    within: int

    @property
    def end(self) -> int:
        """It was not later than this."""
        return self.ns + self.within


def from_date(header: str | None) -> Instant | None:
    """Of a Date header; None when there is none, or it is no date."""
    if not header:
        return None
    try:
        moment = parsedate_to_datetime(header[:100])
        if moment.tzinfo is None or not 1990 <= moment.year <= 2200:
            return None
        return Instant(int(moment.timestamp()) * _SECOND, _SECOND)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def from_server_time(text: Any) -> Instant | None:
    """Of a ServerTime; one without a fraction may have been cut to the second. None when it is no time."""
    if not isinstance(text, str):
        return None
    ns = int(parse([text])[0])
    if ns == NEVER or ns < 631_152_000 * _SECOND:  # 1990
        return None
    return Instant(ns, 100 if "." in text else _SECOND)


@dataclass(frozen=True, slots=True)
class Look:
    """What one small question to the server told of its time."""

    date: Instant | None
    server_time: Instant | None


class Clock:
    """The clock of one PI system. `ask` sends the small question; what it raises, `after` raises."""

    def __init__(self, ask: Callable[[], Awaitable[Look]]) -> None:
        self._ask = ask
        self._date: Instant | None = None
        self._server_time: Instant | None = None
        self._ahead: float | None = None
        self._exact = False  # it is of the ServerTime
        self._told = 0.0  # the difference that is told; 0: none
        self._silent = 0  # answers in a row without a Date

    @property
    def lower(self) -> int:
        """ns since 1970 UTC; 0: nothing was heard yet."""
        heard = [instant.ns for instant in (self._date, self._server_time) if instant is not None]
        return min(heard, default=0)

    async def after(self) -> int:
        """Asks the server; its clock was not later than this (ns) when this was called.

        Raises PiError when it cannot be asked, MalformedError when it tells no time at all.
        """
        look = await self._ask()
        heard = [instant.end for instant in (look.date, look.server_time) if instant is not None]
        if not heard:
            raise MalformedError(
                "tells no time: its answers have neither a Date header nor a ServerTime",
                "see that no proxy takes the Date header away",
            )
        return max(heard)

    # --- what was heard ---

    def date(self, header: str | None, sent: float, received: float) -> Instant | None:
        """An answer came with this Date header; when it was asked for and came, by our clock (s since 1970 UTC)."""
        instant = from_date(header)
        if instant is None:
            self._silent += 1
            return None
        self._silent = 0
        self._date = instant
        if not self._exact:
            self._measure(instant, sent, received)
        return instant

    def server_time(self, instant: Instant | None, sent: float, received: float) -> None:
        """The archive told its time, or tells none any more: then the Date header alone counts."""
        self._server_time = instant
        self._exact = instant is not None
        if instant is not None:
            self._measure(instant, sent, received)

    def _measure(self, instant: Instant, sent: float, received: float) -> None:
        """How far the server's clock is ahead at the least: less what rounding and the way may have made of it."""
        least = instant.ns / _SECOND - received
        most = instant.end / _SECOND - sent
        self._ahead = least if least > 0 else most if most < 0 else 0.0

    # --- what is told ---

    @property
    def ahead_s(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours at the least; negative: behind; None: not known."""
        return self._ahead

    def trouble(self) -> tuple[str, str] | None:
        """(problem, remedy) when the clocks differ, or the server's is not to be had."""
        ahead = self._ahead
        if ahead is None:
            return (
                (
                    "tells no time: its answers have neither a Date header nor a ServerTime",
                    "see that no proxy takes the Date header away; nothing can be read of the archive without it",
                )
                if self._silent and self._server_time is None
                else None
            )
        if abs(ahead) > (NO_SKEW if self._told else SKEW):
            # Told anew only when it is another one: a clock that drifts is not news every second.
            if not 0.8 < ahead / (self._told or 1e-9) < 1.25:
                self._told = ahead
        else:
            self._told = 0.0
            return None
        return (
            f"has a clock that is {_about(abs(self._told))} {'ahead of' if ahead > 0 else 'behind'} this gateway's",
            "have both follow a time server; the server's clock decides what is read, so nothing is missed meanwhile",
        )

    def status(self) -> dict[str, Any]:
        """For the status."""
        return {} if self._ahead is None else {"clock_ahead_s": round(self._ahead, 1)}


def _about(seconds: float) -> str:
    """For people: 45 s, 12 min, 3.0 h, 20 days."""
    for least, unit, word, digits in ((172_800, 86_400, "days", 0), (7200, 3600, "h", 1), (600, 60, "min", 0)):
        if round(seconds) >= least:
            return f"{seconds / unit:,.{digits}f} {word}"
    return f"{seconds:.0f} s"
