"""Which transport streams have now, and when a better one is tried again. Pure: time is passed in.

Theory. The ways are channel, updates, poll, the best first. With transport `auto` each set of streams has the best way
that nothing stands against; with another it has that one, whatever happens. A way can fail for three reasons:

| reason | means                                                | such as                                              |
|--------|------------------------------------------------------|------------------------------------------------------|
| LOSS   | it was cut, or could not be had for now              | RST, close 1001, 503, silence, an answer too late    |
| CANNOT | this server, or what stands before it, has it not    | 404, 405, 501, an upgrade that is answered with 200  |
| AWAY   | no request of any kind gets through                  | no address answers, our own login is refused         |

AWAY says nothing of the way, so nothing is concluded from it. A LOSS of what has lived for a while is nothing but that;
three in a row within seconds of their beginning are as good as a CANNOT.

States of each way, and what events do to them; poll is always READY or LIVE, and so is every way of a fixed transport:

| state  | had  | loss                        | third loss in a row, cannot     | away              |
|--------|------|-----------------------------|---------------------------------|-------------------|
| READY  | LIVE | READY after a growing pause | DENIED for 1, 2, 4 … 30 minutes | READY after pause |
| LIVE   | LIVE | READY after a growing pause | DENIED for 1, 2, 4 … 30 minutes | READY after pause |
| DENIED | LIVE | DENIED, for longer          | DENIED, for longer              | DENIED, as before |

Pauses grow from 0.2 s over 1, 2, 4 … to 60 s, and begin anew once a way has lived.

The way in use is the best that is not DENIED. A better one that is DENIED is tried beside it when its time has come
(`trial`), so that what works is not given up for what may not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from pi_collector.config import Transport
from pi_collector.web.errors import (
    CredentialsError,
    MalformedError,
    PiError,
    RefusedError,
    ThrottledError,
    TooMuchError,
    UnauthorizedError,
    UnreachableError,
    UnsupportedError,
)

QUICK: Final = 10.0
"""Seconds: what is lost sooner than this after it began has not lived."""
WELL: Final = 60.0
"""Seconds of life after which all that was held against a way is forgotten."""
IN_A_ROW: Final = 3
"""Losses without a life between them that are as good as a refusal."""
FIRST_PAUSE: Final = 0.2
"""Seconds before the first new attempt."""
LONGEST_PAUSE: Final = 60.0
FIRST_DENIAL: Final = 60.0
"""Seconds before a way that could not be had is tried again."""
LONGEST_DENIAL: Final = 1800.0


class Way(IntEnum):
    """The best first."""

    CHANNEL = 0
    UPDATES = 1
    POLL = 2

    @property
    def word(self) -> str:
        """As in the configuration."""
        return self.name.lower()


class Reason(Enum):
    """Why a way failed: see the theory."""

    LOSS = "loss"
    CANNOT = "cannot"
    AWAY = "away"


class FailedError(Exception):
    """A way could not be begun, or has ended."""

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        reason: Reason = Reason.LOSS,
        *,
        after: float = 0.0,
        suspects: bool = False,
        too_large: bool = False,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.reason = reason
        self.after = after
        """Seconds for which the server wants to be left alone."""
        self.suspects = suspects
        """Streams that the server does not know may be the reason: it refuses all for one."""
        self.too_large = too_large
        """Fewer streams may work."""


def failed(error: PiError | OSError | asyncio.TimeoutError) -> FailedError:
    """What an opening, a registration or a poll that ended so says of its way; the first row that fits.

    | error                                               | reason                                       |
    |-----------------------------------------------------|----------------------------------------------|
    | no address answers, our login or secret is no good  | AWAY                                         |
    | 429                                                 | LOSS, again when the server allows it        |
    | 413, 414, 431, more than the maximum                | LOSS, and fewer streams may work             |
    | 405, 501, 426, below 400, a page instead of JSON    | CANNOT                                       |
    | 4xx that speaks of the protocol                     | CANNOT: what is in between takes no upgrade  |
    | any other 4xx                                       | LOSS, and maybe for the streams              |
    | 5xx, a line that breaks, no answer in time          | LOSS                                         |
    """
    if isinstance(error, asyncio.TimeoutError):
        return FailedError("no answer came in time")
    if not isinstance(error, PiError):
        return FailedError(f"the line broke ({error.strerror or type(error).__name__})")
    problem, remedy = error.problem, error.remedy
    if isinstance(error, (UnreachableError, CredentialsError, UnauthorizedError)):
        return FailedError(problem, remedy, Reason.AWAY)
    if isinstance(error, ThrottledError):
        return FailedError(problem, remedy, after=error.retry_after)
    if isinstance(error, TooMuchError):
        return FailedError(problem, remedy, too_large=True)
    if isinstance(error, (UnsupportedError, MalformedError)):
        return FailedError(problem, remedy, Reason.CANNOT)
    if isinstance(error, RefusedError) and error.status < 500:
        protocol = any("protocol" in text.lower() for text in error.errors)
        if error.status < 400 or error.status == 426 or protocol:
            return FailedError(problem, remedy, Reason.CANNOT)
        return FailedError(problem, remedy, suspects=True)
    return FailedError(problem, remedy)


class _State(Enum):
    READY = "ready"
    LIVE = "live"
    DENIED = "denied"


@dataclass(slots=True)
class _Of:
    """What is known of one way."""

    state: _State = _State.READY
    at: float = 0.0
    """READY, DENIED: not tried before this."""
    pause: float = 0.0
    """The last one before a new attempt."""
    denial: float = 0.0
    """The last one before a new trial."""
    quick: int = 0
    """Losses in a row, without a life between them."""
    since: float = 0.0
    """LIVE: since when."""
    why: str = ""


def _spread() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing


class Choice:
    """The ways of one set of streams. spread: a factor for each pause, so that not all knock at the same moment."""

    def __init__(self, transport: Transport, *, spread: Callable[[], float] = _spread) -> None:
        self._spread = spread
        self._of = {way: _Of() for way in Way}
        self._ways = _ways(transport)

    def fix(self, transport: Transport) -> None:
        """Another setting: what was learnt of the ways stays."""
        self._ways = _ways(transport)

    def allows(self, way: Way) -> bool:
        """Whether the setting has it."""
        return way in self._ways

    @property
    def way(self) -> Way:
        """What is to be used."""
        return next((way for way in self._ways if self._of[way].state is not _State.DENIED), self._ways[-1])

    def pause(self, now: float) -> float:
        """Seconds to wait before the way in use is begun."""
        return max(0.0, self._of[self.way].at - now)

    def trial(self, now: float) -> Way | None:
        """A better way than the one in use whose time to be tried has come."""
        better = (way for way in self._ways if way < self.way)
        return next((way for way in better if self._of[way].at <= now), None)

    def next_trial(self) -> float:
        """When `trial` will have one; infinity: never."""
        return min((self._of[way].at for way in self._ways if way < self.way), default=float("inf"))

    def had(self, way: Way, now: float) -> None:
        """It works."""
        of = self._of[way]
        of.state, of.since, of.why = _State.LIVE, now, ""

    def lives(self, way: Way, now: float) -> None:
        """It still does."""
        of = self._of[way]
        if of.state is _State.LIVE and now - of.since >= WELL:
            of.pause = of.denial = 0.0
            of.quick = 0

    def failed(self, way: Way, reason: Reason, why: str, now: float, *, after: float = 0.0) -> None:
        """It could not be begun, or has ended. after: seconds for which the server wants to be left alone."""
        of = self._of[way]
        lived = now - of.since if of.state is _State.LIVE else 0.0
        self.lives(way, now)
        of.why = why
        of.quick = 1 if lived >= QUICK else of.quick + (reason is not Reason.AWAY)
        if lived >= QUICK:
            of.pause = 0.0
        of.pause = min(LONGEST_PAUSE, {0.0: FIRST_PAUSE, FIRST_PAUSE: 1.0}.get(of.pause, of.pause * 2))
        deniable = len(self._ways) > 1 and way is not Way.POLL
        if deniable and (reason is Reason.CANNOT or of.quick >= IN_A_ROW):
            of.state = _State.DENIED
        elif of.state is _State.LIVE:
            of.state = _State.READY
        if of.state is _State.DENIED:
            if reason is not Reason.AWAY or not of.denial:
                of.denial = min(LONGEST_DENIAL, of.denial * 2 or FIRST_DENIAL)
            of.quick = 0
            of.pause = 0.0
            of.at = now + max(after, of.denial * self._spread())
        else:
            of.at = now + max(after, of.pause * self._spread())

    def again(self, way: Way, now: float) -> None:
        """What kept it from working was mended: it is tried at once."""
        of = self._of[way]
        of.at, of.quick, of.pause = now, 0, 0.0

    def held_against(self) -> str:
        """Why it is not the best way that the setting allows, or why that one does not work; "" when it does."""
        told = ((way, self._of[way]) for way in self._ways if way <= self.way)
        return "; ".join(f"{way.word}: {of.why}" for way, of in told if of.why and of.state is not _State.LIVE)


def _ways(transport: Transport) -> tuple[Way, ...]:
    return tuple(Way) if transport == "auto" else (Way[transport.upper()],)
