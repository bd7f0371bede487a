"""How much is asked of a server, in which order, and when not at all.

    over any w seconds   at most  requestsPerSecond * factor * w + a burst of 0.25 s   requests are sent
    at any moment        at most  parallel * factor (1 at least)   of them are without an answer, and one fewer of
                                  those that read the past, so that what is live finds a place; where there is one
                                  place only, the past has it while nothing live waits
    in the order         LIVE, BACKFILL, RECONCILE, and in each as they were made; where so much is live that others
                         would never come, one request in five is theirs

`factor` is 1 while all is well, is halved by every sign that the server has too much to do (429, 503, an answer that
does not come in time; once a second at most) and comes back by a fiftieth of the whole with each answer: additive
increase, multiplicative decrease. Retry-After holds everything for as long as the server says.

A `Breaker` stands before each address: after five failures in a row nothing is sent there for a while, then one
request, whose end decides. So a server that is down costs one request a minute, not twenty a second.

All rules are pure: times are seconds of a clock that does not go back, passed in. `Pace` is the thin shell that waits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any, Final

from pi_collector.config import Load
from sluice.retry import Backoff

BURST: Final = 0.25
"""Seconds of the permitted rate that may be sent at once, after as long without any."""
LEAST_FACTOR: Final = 0.05
"""Of what is permitted, that is always asked: without a request nobody would learn that the server is well again."""
LONGEST_HOLD: Final = 600.0
"""Seconds for which a Retry-After is obeyed at most."""
FAILURES: Final = 5
"""Failures in a row after which an address is left alone for a while."""
SHARE: Final = 4
"""Live requests in a row for one of the others, if one waits."""
_RECOVER: Final = 0.02
_ONCE: Final = 1.0  # seconds within which further signs of overload are the same one
_NEARLY: Final = 1e-9  # of a request: as much as adding up fractions may be wrong
_RECENT: Final = 10  # seconds that the shown rate is of
_AHEAD: Final = 0.25  # seconds of the permitted values that may be read at once


class Priority(IntEnum):
    """What a request is for; the smaller goes first."""

    LIVE = 0
    """The present: polls, registrations, channels, what somebody waits for."""
    BACKFILL = 1
    """What is missing."""
    RECONCILE = 2
    """What was read before and is looked at again."""


LIVE: Final = Priority.LIVE
BACKFILL: Final = Priority.BACKFILL
RECONCILE: Final = Priority.RECONCILE
_PAST_FIRST: Final = (BACKFILL, RECONCILE, LIVE)


class Rules:
    """Whether a request may be sent now, and how long it has to wait otherwise. Pure."""

    def __init__(self, load: Load) -> None:
        self.rate = load.requests_per_second
        self.parallel = load.parallel
        self.factor = 1.0
        self.busy = 0
        """Requests without an answer."""
        self.past = 0
        """Those of them that read the past."""
        self._held_until = -math.inf
        self._cut_at = -math.inf
        self._tokens = self.burst
        self._at: float | None = None

    @property
    def burst(self) -> float:
        """Requests that may be sent at once."""
        return max(1.0, self.rate * self.factor * BURST)

    @property
    def places(self) -> int:
        """Requests that may be without an answer at a time."""
        return max(1, math.ceil(self.parallel * self.factor))

    def wait(self, priority: Priority, now: float) -> float | None:
        """Seconds until it may be sent; 0: at once; None: when one of the others has ended."""
        places = self.places
        if self.busy >= places or (priority > LIVE and self.past >= max(1, places - 1)):
            return None
        if now < self._held_until:
            return self._held_until - now
        self._fill(now)
        missing = 1.0 - self._tokens
        return missing / (self.rate * self.factor) if missing > _NEARLY else 0.0

    def take(self, priority: Priority, now: float) -> None:
        """One is sent now; `wait` said 0."""
        self._fill(now)
        self._tokens -= 1.0
        self.busy += 1
        self.past += priority > LIVE

    def ended(self, priority: Priority) -> None:
        """One has its answer, or none will come."""
        self.busy -= 1
        self.past -= priority > LIVE

    def well(self, now: float) -> None:
        """The server answered as it should."""
        self._fill(now)
        self.factor = min(1.0, self.factor + _RECOVER)

    def overloaded(self, now: float) -> None:
        """A sign that the server has too much to do."""
        if now - self._cut_at >= _ONCE:
            self._fill(now)
            self._cut_at = now
            self.factor = max(LEAST_FACTOR, self.factor / 2)

    def hold(self, seconds: float, now: float) -> None:
        """Nothing is sent for so long."""
        self._held_until = max(self._held_until, now + min(max(seconds, 0.0), LONGEST_HOLD))

    def held(self, now: float) -> float:
        """Seconds for which nothing is sent yet."""
        return max(0.0, self._held_until - now)

    def _fill(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._tokens += (now - self._at) * self.rate * self.factor
        self._at = now if self._at is None else max(now, self._at)
        self._tokens = min(self._tokens, self.burst)


class Breaker:
    """Whether an address is asked at all. Pure.

    closed --(FAILURES in a row)--> open --(1..60 s)--> one trial --> closed, or open for longer
    """

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self._backoff = Backoff(1.0, 60.0)
        self._until: float | None = None
        self._trial = False

    def may(self, now: float) -> bool:
        """Whether a request may go there now; if so it is told `well`, `failed` or `abandoned` afterwards."""
        if self._until is None:
            return True
        if now < self._until or self._trial:
            return False
        self._trial = True
        return True

    def closed_for(self, now: float) -> float:
        """Seconds until it is asked again; 0 when it is asked."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    def well(self) -> None:
        """It answered."""
        self.failures = 0
        self._until = None
        self._trial = False
        self._backoff.reset()

    def failed(self, now: float) -> None:
        """It did not, or said that it cannot."""
        self.failures += 1
        trial, self._trial = self._trial, False
        if trial or (self._until is None and self.failures >= FAILURES):
            self._until = now + self._backoff.next()

    def abandoned(self) -> None:
        """Nobody waited for what it would say: the next one is the trial."""
        self._trial = False


class Spending:
    """Values of the past, so many a second. Pure."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_until = -math.inf

    def spend(self, values: int, now: float) -> float:
        """So many were read; seconds to wait before the next ones are asked for. At a rate of 0 nobody asks."""
        if self.rate <= 0:
            return 0.0
        self._paid_until = max(self._paid_until, now) + values / self.rate
        return max(0.0, self._paid_until - now - _AHEAD)


class Pace:
    """Holds the requests of one connection to its `load`. `apply` changes it at any time."""

    def __init__(self, load: Load) -> None:
        self.rules = Rules(load)
        self.requests = 0
        """Sent so far."""
        self.waited = 0.0
        """Seconds that requests were held here, all together."""
        self._spending = Spending(load.backfill_values_per_second)
        self._queues: tuple[deque[asyncio.Future[None]], ...] = tuple(deque() for _ in Priority)
        self._timer: asyncio.TimerHandle | None = None
        self._in_a_row = 0  # live ones, while others waited
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT + 1)  # (second, requests)

    def apply(self, load: Load) -> None:
        """Go over to other settings; requests under way come to their end."""
        self.rules.rate = load.requests_per_second
        self.rules.parallel = load.parallel
        self._spending.rate = load.backfill_values_per_second
        self._go_on()

    @property
    def waiting(self) -> int:
        """Requests that have not been sent yet."""
        return sum(not turn.done() for queue in self._queues for turn in queue)

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for one's turn, and have it inside. Cancelled, it is the next one's."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn: asyncio.Future[None] = loop.create_future()
        queue = self._queues[priority]
        queue.append(turn)
        self._go_on()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self.rules.ended(priority)
            elif turn in queue:
                queue.remove(turn)
            self._go_on()
            raise
        self.waited += loop.time() - began
        self._count(int(loop.time()))
        try:
            yield
        finally:
            self.rules.ended(priority)
            self._go_on()

    def well(self) -> None:
        """The server answered as it should."""
        self.rules.well(asyncio.get_running_loop().time())

    def overloaded(self, retry_after: float = 0.0) -> None:
        """The server has too much to do, and says perhaps for how long it wants to be left alone."""
        now = asyncio.get_running_loop().time()
        self.rules.overloaded(now)
        self.rules.hold(retry_after, now)

    async def spend(self, values: int) -> None:
        """So many values of the past were read: comes back when the next ones may be asked for."""
        seconds = self._spending.spend(values, asyncio.get_running_loop().time())
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _go_on(self) -> None:
        """Give everybody the turn who may have it, and come back when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._next_goes():
            pass

    def _next_goes(self) -> bool:
        """Give one the turn, if one may have it now."""
        loop = asyncio.get_running_loop()
        for priority in _PAST_FIRST if self._in_a_row >= SHARE else tuple(Priority):
            queue = self._queues[priority]
            while queue and queue[0].done():  # cancelled
                queue.popleft()
            if not queue:
                continue
            seconds = self.rules.wait(priority, loop.time())
            if seconds is None:
                continue  # the next to end comes here; what is live may go all the same
            if seconds > 0:
                self._timer = loop.call_later(seconds, self._go_on)
                return False  # nobody goes before who waits for the clock alone
            self.rules.take(priority, loop.time())
            queue.popleft().set_result(None)
            others = priority is LIVE and any(self._queues[other] for other in (BACKFILL, RECONCILE))
            self._in_a_row = self._in_a_row + 1 if others else 0
            return True
        return False

    def _count(self, second: int) -> None:
        self.requests += 1
        if self._recent and self._recent[-1][0] == second:
            self._recent[-1] = (second, self._recent[-1][1] + 1)
        else:
            self._recent.append((second, 1))

    def status(self) -> dict[str, Any]:
        """For the status: requests a second over the last ten, seconds that requests were held, and why."""
        now = asyncio.get_running_loop().time()
        lately = sum(count for second, count in self._recent if int(now) - _RECENT <= second < int(now))
        told: dict[str, Any] = {
            "requests": self.requests,
            "requests_per_s": round(lately / _RECENT, 1),
            "waited_s": round(self.waited, 3),
        }
        if waiting := self.waiting:
            told["waiting"] = waiting
        if self.rules.factor < 1:
            told["slowed_to"] = round(self.rules.factor, 2)
        if held := self.rules.held(now):
            told["held_for_s"] = round(held, 1)
        return told
