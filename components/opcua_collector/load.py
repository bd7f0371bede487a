"""How much is asked of a server: a hard ceiling on requests, whoever in the collector makes them.

    over any w seconds      at most  requestsPerSecond * w + a burst of 0.25 s     requests are sent
    at any moment           at most  parallel                                     of them are without an answer,
                            and one fewer of those that read history

They go in the order in which they were made. What belongs to session, channel and the flow of notifications is neither
counted nor held: Publish waits at the server by its nature, Republish and the session's own services are what a
connection lives on. Everything else is: reading, browsing, creating items, history, heartbeats, polls.

A request that waits here has not been sent: its own timeout begins when it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from opcua_collector.config import Load
from opcua_collector.stack import StackSession, ua

T = TypeVar("T")

BURST: Final = 0.25
"""Seconds of the permitted rate that may be sent at once, after as long without any."""
_NEARLY: Final = 1e-9  # of a request: as much as adding up fractions may be wrong
_RECENT: Final = 10  # seconds that the shown rate is of

FREE: Final = frozenset(
    getattr(ua, f"{service}Request")
    for service in (
        *("Publish", "Republish"),
        *("CreateSession", "ActivateSession", "CloseSession", "Cancel"),
        *("OpenSecureChannel", "CloseSecureChannel", "GetEndpoints", "FindServers"),
    )
)
"""Requests that are neither counted nor held."""


class Bucket:
    """When the next request may be sent. Pure: times are seconds of any clock that does not go back."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = self.burst
        self._at: float | None = None

    @property
    def burst(self) -> float:
        """Requests that may be sent at once."""
        return max(1.0, self.rate * BURST)

    def wait(self, now: float) -> float:
        """Seconds until one may be sent; 0: at once."""
        self._fill(now)
        missing = 1.0 - self._tokens
        return missing / self.rate if missing > _NEARLY else 0.0

    def take(self, now: float) -> None:
        """One is sent now; `wait` said 0."""
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._tokens += (now - self._at) * self.rate
        self._at = now if self._at is None else max(now, self._at)
        self._tokens = min(self._tokens, self.burst)


class Slots:
    """So many at a time, in the order in which they came. `most` may change at any time."""

    def __init__(self, most: int) -> None:
        self.busy = 0
        self._most = most
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return sum(not one.done() for one in self._queue)

    def allow(self, most: int) -> None:
        """So many from now on; those who have their turn keep it."""
        self._most = most
        self._next()

    async def acquire(self) -> None:
        """Wait for one's turn, which `release` ends. Cancelled, it has none."""
        if self.busy < self._most and not self._queue:
            self.busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self.release()
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def release(self) -> None:
        """The next one's turn."""
        self.busy -= 1
        self._next()

    def _next(self) -> None:
        while self._queue and self.busy < self._most:
            turn = self._queue.popleft()
            if not turn.done():
                self.busy += 1
                turn.set_result(None)


class Pace:
    """Holds the requests of one session to its connection's `load`. `apply` changes it at any time."""

    def __init__(self, load: Load) -> None:
        self.requests = 0
        """Sent since the session began."""
        self.waited = 0.0
        """Seconds that requests were held here, all together."""
        self.bare: Callable[..., Awaitable[Any]] | None = None
        """Sends a request at once, for who holds it here himself."""
        self._bucket = Bucket(load.requests_per_second)
        self._slots = Slots(load.parallel)
        self._past = Slots(_for_the_past(load.parallel))
        self._door = asyncio.Lock()
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT + 1)  # (second, requests)

    def apply(self, load: Load) -> None:
        """Go over to other settings; requests under way come to their end."""
        self._bucket.rate = load.requests_per_second
        self._slots.allow(load.parallel)
        self._past.allow(_for_the_past(load.parallel))

    def follow(self, before: Pace) -> None:
        """Go on with what the session before has left of its burst: a line that breaks gives no other one."""
        rate = self._bucket.rate
        self._bucket = before._bucket
        self._bucket.rate = rate

    @classmethod
    def over(cls, stack: StackSession, load: Load) -> Pace:
        """Hold what this session sends from now on."""
        pace = cls(load)
        pace.bare = send = stack._send_request

        async def held(request: Any, *arguments: Any, **named: Any) -> Any:
            kind = type(request)
            if kind in FREE:
                return await send(request, *arguments, **named)
            return await pace.hold(lambda: send(request, *arguments, **named), past=kind is ua.HistoryReadRequest)

        stack._send_request = held
        return pace

    async def hold(self, send: Callable[[], Awaitable[T]], *, past: bool = False) -> T:
        """What `send` gives, which is called as soon as it may be, and never once this is cancelled.

        past: it reads history, which may take minutes: one place is always left for what is of the present.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        if past:
            await self._past.acquire()
        try:
            await self._slots.acquire()
            try:
                async with self._door:  # who is first waits here alone, so nobody overtakes
                    while (seconds := self._bucket.wait(clock())) > 0:  # noqa: ASYNC110 - the bucket tells no event
                        await asyncio.sleep(seconds)
                    # From here to the line nothing waits: what is counted at this moment is sent at this moment.
                    self._bucket.take(clock())
                self._count(int(clock()))
                self.waited += clock() - began
                return await send()
            finally:
                self._slots.release()
        finally:
            if past:
                self._past.release()

    def _count(self, second: int) -> None:
        self.requests += 1
        if self._recent and self._recent[-1][0] == second:
            self._recent[-1] = (second, self._recent[-1][1] + 1)
        else:
            self._recent.append((second, 1))

    def status(self) -> dict[str, Any]:
        """For the status: requests a second over the last ten, and the seconds that requests were held, in all."""
        now = int(asyncio.get_running_loop().time())
        lately = sum(count for second, count in self._recent if now - _RECENT <= second < now)
        told: dict[str, Any] = {"requests_per_s": round(lately / _RECENT, 1), "waited_s": round(self.waited, 3)}
        if waiting := self._slots.waiting + self._past.waiting:
            told["waiting"] = waiting
        return told


def _for_the_past(parallel: int) -> int:
    """How many requests at a time may read history."""
    return max(1, parallel - 1)
