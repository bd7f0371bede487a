"""Inlet: follows data topics for the readers of one consumer.

What is done with a message, asked for and told is decided in `following`; here is only what needs a bus, a clock and
tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.bus import Bus, BusSubscription
from sluice.cursors import MessageError
from sluice.delivery import ANNOUNCE_EVERY, DATA_PREFIX, REPLAY_PREFIX, SILENT_AFTER, Gap, data_topic, parse
from sluice.following import MAX_WINDOW, Following, Reader
from sluice.ipc import IpcError
from sluice.retry import Backoff
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

_MESSAGE_OVERHEAD: Final = 300
"""Bytes that a queued message takes beside its payload."""
_LONGEST_PAUSE: Final = 60.0
"""Seconds between renewals of a subscription on which nothing comes whatever is done."""
_LAST_WORK: Final = 1.0
"""Seconds for what is queued when an inlet is closed."""
_ATTEMPTS: Final = 3
"""Publishes of one message of cursors, until it is left to the next round."""
_CALM: Final = 0.02
"""Seconds at least between two messages of cursors."""


@dataclass(slots=True)
class _Watched:
    """One filter's subscription: when something came on it, when it was renewed, how long it may be quiet."""

    filter: str
    heard: float
    renewed: float
    pause: float
    subscription: BusSubscription | None = None


class Inlet:
    """Follows data topics for the readers of one consumer: asks for what they miss, tells how far they are.

    Messages wait in a queue of at most queue_bytes; what does not fit is dropped, counted, and asked for later. A
    subscription on which nothing came for quiet_after seconds, not even an announcement, is taken for dead and renewed,
    at growing intervals of up to a minute, for nucleus lite kills subscriptions without a word; the one for replays
    when what was asked for does not come.
    """

    def __init__(
        self,
        bus: Bus,
        consumer_id: str,
        filters: Sequence[str],
        *,
        window: int = MAX_WINDOW,
        queue_bytes: int = 16 * 2**20,
        quiet_after: float = SILENT_AFTER,
        tell_every: float = ANNOUNCE_EVERY,
        wanted: Callable[[str], bool] = lambda stream: True,
    ) -> None:
        """window: bytes that one answer may have; wanted: streams that are not, though a filter covers them, cost next
        to nothing."""
        self.counters: dict[str, int] = dict.fromkeys(
            ("overflowed", "renewals", "malformed", "foreign", "forged", "untold"), 0
        )
        self._bus = bus
        self._consumer_id = consumer_id
        self._replay_filter = f"{REPLAY_PREFIX}{consumer_id}/#"
        self._filters = tuple(filters)
        self._queue_bytes = queue_bytes
        self._quiet_after = quiet_after
        self._tell_every = tell_every
        self._wanted = wanted
        self._following = Following(consumer_id, window=window, most=max(1, queue_bytes // (2 * window)))
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._look = asyncio.Event()
        self._watched: list[_Watched] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, readers: Mapping[str, Reader]) -> None:
        """Subscribe, and offer every batch to each reader. What a reader raises is logged and counted as failed.

        Raises IpcError when the nucleus refuses a subscription: the recipe's accessControl lacks it.
        """
        self._following.readers = dict(readers)
        self._watched = await self._subscribed((*self._filters, self._replay_filter))
        self._tasks = [
            asyncio.create_task(self._work(), name="inlet"),
            asyncio.create_task(self._tell(), name="inlet cursors"),
            asyncio.create_task(self._watch(), name="inlet watch"),
        ]

    def replace(self, readers: Mapping[str, Reader]) -> None:
        """Go over to other readers. A new one follows each stream from its next announcement on, or its own cursor."""
        self._following.readers = dict(readers)
        self._look.set()

    def moved(self) -> None:
        """A reader has room again, or acknowledges more: look soon."""
        self._look.set()

    async def follow(self, filters: Sequence[str]) -> None:
        """Go over to other filters. What old and new ones both cover flows on: nothing of it is lost, nothing doubled.

        New subscriptions are made before old ones end; where they overlap, messages come twice and the readers drop
        the repeats. Raises IpcError as `start` does, and then follows what it did before.
        """
        wanted = (*filters, self._replay_filter)
        known = {watched.filter for watched in self._watched}
        new = await self._subscribed([topic_filter for topic_filter in wanted if topic_filter not in known])
        ended = [watched for watched in self._watched if watched.filter not in wanted]
        self._watched = [watched for watched in self._watched if watched.filter in wanted] + new
        self._filters = tuple(filters)
        await _closed(ended)
        self._following.forget(lambda stream: not self._covered(stream))

    async def close(self) -> None:
        """End the subscriptions, then the work; what waits in the queue is still worked on for up to a second."""
        await _closed(self._watched)
        if self._tasks:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_LAST_WORK, self._idle.wait())
        await end(*self._tasks)
        self._watched, self._tasks = [], []

    @property
    def gaps(self) -> Sequence[Gap]:
        """The latest gaps."""
        return self._following.gaps

    def status(self) -> dict[str, Any]:
        """Counters, streams, who is silent and the latest gaps."""
        now = asyncio.get_running_loop().time()
        return {
            **self.counters,
            "failed": self._following.failed,
            "queued_bytes": self._queued,
            **self._following.status(now),
        }

    # --- what arrives ---

    async def _subscribed(self, filters: Sequence[str]) -> list[_Watched]:
        now = asyncio.get_running_loop().time()
        made: list[_Watched] = []
        try:
            for topic_filter in filters:
                watched = _Watched(topic_filter, heard=now, renewed=now, pause=self._quiet_after)
                watched.subscription = await self._bus.subscribe(topic_filter, self._listener(watched))
                made.append(watched)
        except BaseException:
            await _closed(made)
            raise
        return made

    def _listener(self, watched: _Watched) -> Callable[[str, bytes], None]:
        loop = asyncio.get_running_loop()

        def take(topic: str, payload: bytes) -> None:
            watched.heard = loop.time()
            if topic.startswith(DATA_PREFIX) and not self._wanted(topic[len(DATA_PREFIX) :]):
                return
            size = len(payload) + _MESSAGE_OVERHEAD
            if self._queue and self._queued + size > self._queue_bytes:
                self.counters["overflowed"] += 1
                return
            self._queue.append((topic, payload))
            self._queued += size
            self._arrived.set()
            self._idle.clear()

        return take

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # readers that never wait must not keep everybody else from running
            while not self._queue:
                self._arrived.clear()
                self._idle.set()
                await self._arrived.wait()
            topic, payload = self._queue.popleft()
            self._queued -= len(payload) + _MESSAGE_OVERHEAD
            try:
                message = parse(topic, payload, self._consumer_id)
            except MessageError as error:
                self.counters[error.counter] += 1
                logger.warning("Not believed: %s", error)
                continue
            # What is not covered is a replay that was on its way when the filters changed.
            if self._covered(message.stream) and self._following.offer(message, loop.time()):
                self._look.set()

    def _covered(self, stream: str) -> bool:
        topic = data_topic(stream)
        return any(covers(topic_filter, topic) for topic_filter in self._filters)

    # --- what is told ---

    async def _tell(self) -> None:
        """Tell cursors every 2 s, and at once when one has moved far or there is something to ask."""
        loop = asyncio.get_running_loop()
        next_round = loop.time()
        while True:
            now = loop.time()
            everything = now >= next_round
            if everything:
                next_round = now + self._tell_every
            self._look.clear()
            for topic, payload in self._following.tell(now, everything=everything):
                await self._publish(topic, payload)
            await asyncio.sleep(_CALM)
            waits = next_round - loop.time()
            due = self._following.demand.due_in(loop.time())
            with contextlib.suppress(asyncio.TimeoutError):
                await within(max(0.0, waits if due is None else min(waits, due)), self._look.wait())

    async def _publish(self, topic: str, payload: bytes) -> None:
        backoff = Backoff(0.05, 0.5)
        for _ in range(_ATTEMPTS):
            try:
                await self._bus.publish(topic, payload)
            except IpcError as error:  # noqa: PERF203 - each is a call to another process
                why = error
                await asyncio.sleep(backoff.next())
            else:
                return
        self.counters["untold"] += 1
        logger.warning("Cursors are not told on %s: %s", topic, why)

    # --- subscriptions that die ---

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._quiet_after / 3)
            for watched in self._watched:
                now = loop.time()
                if watched.heard > watched.renewed:
                    watched.pause = self._quiet_after
                quiet = now - max(watched.heard, watched.renewed)
                if watched.filter == self._replay_filter:  # quiet unless something was asked for
                    quiet = min(quiet, self._following.demand.waits_since(now))
                if quiet >= watched.pause:
                    watched.renewed = now
                    watched.pause = min(2 * watched.pause, _LONGEST_PAUSE)
                    await self._renew(watched)

    async def _renew(self, watched: _Watched) -> None:
        assert watched.subscription is not None
        if not watched.subscription.active:
            return  # the bus is away, and subscribes again by itself
        self.counters["renewals"] += 1
        logger.info("Nothing came on %s for %.0f s: subscribing again", watched.filter, self._quiet_after)
        await watched.subscription.renew()


async def _closed(ended: Sequence[_Watched]) -> None:
    for watched in ended:
        if watched.subscription is not None:
            await watched.subscription.close()


def covers(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic."""
    levels = topic.split("/")
    wanted = topic_filter.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(levels) or level not in ("+", levels[place]):
            return False
    return len(levels) == len(wanted)
