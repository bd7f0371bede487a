"""Streams on the local bus: an Outlet publishes what one source yields, an Inlet follows data topics.

The rules are in `delivery`; here is only what needs a bus, a clock and tasks. A bus is whatever publishes and
subscribes like `sluice.ipc.Ipc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sluice.batch import Columns, EventBatch, SampleBatch
from sluice.delivery import SILENT_AFTER, Consumer, Frame, Gap, Ledger, Producer, new_epoch
from sluice.ipc import IpcDisconnected, IpcError, IpcTimeout
from sluice.retry import Backoff
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

BatchHandler = Callable[[SampleBatch | EventBatch], Awaitable[None]]

_MESSAGE_OVERHEAD: Final = 300
"""Bytes that a queued message takes beside its payload."""
_RECENT_GAPS: Final = 20
_LONGEST_PAUSE: Final = 60.0
"""Seconds between renewals of a subscription on which nothing comes whatever is done."""
_LAST_WORK: Final = 1.0
"""Seconds for what is queued when an inlet is closed."""


class BusSubscription(Protocol):
    """A subscription that stays until closed."""

    @property
    def active(self) -> bool:
        """The bus has accepted it on the present connection."""

    async def renew(self) -> None:
        """Subscribe again, because it has gone silent. Never raises."""

    async def close(self) -> None:
        """End it: the handler is not called again."""


class Bus(Protocol):
    """What a stream needs of local IPC."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Raises IpcError: IpcTimeout or IpcDisconnected may pass, others do not by waiting."""

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> BusSubscription:
        """Have the handler called in the event loop for each message, in order. Raises IpcError when refused."""


class Outlet:
    """Publishes the samples and events of one source, in order, and announces.

    When `send` returns, its samples are settled: published, or counted as dropped. While the bus is away, send waits up
    to `patience` seconds for it before it gives a batch up; who calls it is slowed down by that, which is intended.
    """

    def __init__(
        self,
        bus: Bus,
        producer_id: str,
        source: str,
        *,
        max_bytes: int,
        compress: bool = True,
        patience: float = 10.0,
        announce_every: float = 2.0,
    ) -> None:
        self.stream = f"{producer_id}/{source}"
        self.trouble = ""
        """Why the latest batch was given up, for the status; empty after a success."""
        self._bus = bus
        self._patience = patience
        self._lock = asyncio.Lock()
        self._data = Producer(
            self.stream, new_epoch(), max_bytes=max_bytes, compress=compress, announce_every=announce_every
        )
        self._events = Producer(
            f"{self.stream}/events", new_epoch(), max_bytes=max_bytes, compress=compress, announce_every=announce_every
        )

    @property
    def ledger(self) -> Ledger:
        """Where the source's samples went."""
        return self._data.ledger

    def filtered(self, count: int) -> None:
        """Note samples that the source yielded and that were left out on purpose."""
        self.ledger.filter(count)

    def undelivered(self, count: int) -> None:
        """Note samples that the source yielded and that could not be read."""
        self.ledger.drop(count)

    def ledgers(self) -> dict[str, dict[str, int]]:
        """The ledger of each stream in use, for the status."""
        used = [self._data] if not self._events.ledger.received else [self._data, self._events]
        return {producer.stream: producer.ledger.as_dict() for producer in used}

    def resize(self, max_bytes: int, *, compress: bool) -> None:
        """Publish frames of another size, or another form, from now on."""
        for producer in (self._data, self._events):
            producer.resize(max_bytes, compress=compress)

    async def send(self, columns: Columns) -> None:
        """Publish samples. Raises BatchError when they cannot be encoded (and counts them as dropped)."""
        try:
            await self._lock.acquire()
        except asyncio.CancelledError:
            self.undelivered(len(columns))
            raise
        try:
            await self._settle(self._data, self._data.add(columns))
        finally:
            self._lock.release()

    async def send_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Publish events, each a JSON object, on the source's events stream."""
        async with self._lock:
            await self._settle(self._events, self._events.add_events(events))

    async def run(self) -> None:
        """Announce until cancelled. Start it before the first send: then nobody misses the first batch unnoticed."""
        loop = asyncio.get_running_loop()
        while True:
            async with self._lock:
                now = loop.time()
                await self._announce(self._data, now)
                if self._events.ledger.received:
                    await self._announce(self._events, now)
            await asyncio.sleep(self._data.due_in(loop.time()))

    async def _announce(self, producer: Producer, now: float) -> None:
        payload = producer.announcement(now)
        error = None if payload is None else await self._refused(producer.topic, payload)
        if error is not None:
            logger.warning("Announcement of %s was not published: %s", producer.stream, error)

    async def _settle(self, producer: Producer, frames: Sequence[Frame]) -> None:
        settled = 0
        try:
            for frame in frames:
                if await self._published(producer, frame.payload):
                    producer.sent(frame)
                else:
                    producer.lost(frame)
                settled += 1
        finally:  # cancelled half-way: the rest is given up
            for frame in frames[settled:]:
                producer.lost(frame)

    async def _published(self, producer: Producer, payload: bytes) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        backoff = Backoff(0.1, 1.0)
        while (error := await self._refused(producer.topic, payload)) is not None:
            pause = backoff.next()
            passing = isinstance(error, IpcTimeout | IpcDisconnected)
            if not passing or loop.time() + pause > deadline:
                self.trouble = f"batches are lost because the local bus does not take them: {error}"
                logger.error("A batch of %s is lost: %s", producer.stream, error)
                return False
            await asyncio.sleep(pause)  # and again: if it had arrived after all, the consumer drops the repeat
        self.trouble = ""
        return True

    async def _refused(self, topic: str, payload: bytes) -> IpcError | None:
        try:
            await self._bus.publish(topic, payload)
        except IpcError as error:
            return error
        return None


@dataclass(slots=True)
class _Watched:
    """One filter's subscription: when something came on it, when it was renewed, how long it may be quiet."""

    filter: str
    heard: float
    renewed: float
    pause: float
    subscription: BusSubscription | None = None


class Inlet:
    """Follows data topics and hands batches, in order, to one handler that may take its time.

    Messages wait in a queue of at most queue_bytes; what does not fit is dropped, counted, and shows as a gap. A
    subscription on which nothing came for quiet_after seconds, not even an announcement, is taken for dead and renewed,
    at growing intervals of up to a minute, for nucleus lite kills subscriptions without a word.
    """

    def __init__(
        self,
        bus: Bus,
        filters: Sequence[str],
        *,
        queue_bytes: int = 16 * 2**20,
        quiet_after: float = SILENT_AFTER,
    ) -> None:
        self.consumer = Consumer()
        self.counters: dict[str, int] = dict.fromkeys(("overflowed", "renewals", "failed"), 0)
        self.gaps: deque[Gap] = deque(maxlen=_RECENT_GAPS)
        """The latest gaps, for the status."""
        self._bus = bus
        self._filters = tuple(filters)
        self._queue_bytes = queue_bytes
        self._quiet_after = quiet_after
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._watched: list[_Watched] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, handler: BatchHandler) -> None:
        """Subscribe and hand batches to the handler. What the handler raises is logged and counted as failed.

        Raises IpcError when the nucleus refuses a subscription: the recipe's accessControl lacks it.
        """
        self._watched = await self._subscribed(self._filters)
        self._tasks = [
            asyncio.create_task(self._work(handler), name="inlet"),
            asyncio.create_task(self._watch(), name="inlet watch"),
        ]

    async def follow(self, filters: Sequence[str]) -> None:
        """Go over to other filters. What old and new ones both cover flows on: nothing of it is lost, nothing doubled.

        New subscriptions are made before old ones end; where they overlap, messages come twice and the consumer drops
        the repeats. Raises IpcError as `start` does, and then follows what it did before.
        """
        known = {watched.filter for watched in self._watched}
        new = await self._subscribed([topic_filter for topic_filter in filters if topic_filter not in known])
        ended = [watched for watched in self._watched if watched.filter not in filters]
        self._watched = [watched for watched in self._watched if watched.filter in filters] + new
        self._filters = tuple(filters)
        await _closed(ended)
        self.consumer.forget(lambda topic: not any(covers(topic_filter, topic) for topic_filter in filters))

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

    async def close(self) -> None:
        """End the subscriptions, then the work; what waits in the queue is still worked on for up to a second."""
        await _closed(self._watched)
        if self._tasks:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_LAST_WORK, self._idle.wait())
        await end(*self._tasks)
        self._watched, self._tasks = [], []

    def status(self) -> dict[str, Any]:
        """Counters, cursors, silent streams and the latest gaps."""
        now = asyncio.get_running_loop().time()
        return {
            **self.consumer.counters,
            **self.counters,
            "queued_bytes": self._queued,
            "silent": self.consumer.silent(now),
            "streams": self.consumer.cursors(),
            "recent_gaps": [f"{gap.stream} {gap.epoch} {gap.first}-{gap.last}" for gap in self.gaps],
        }

    def _listener(self, watched: _Watched) -> Callable[[str, bytes], None]:
        loop = asyncio.get_running_loop()

        def take(topic: str, payload: bytes) -> None:
            watched.heard = loop.time()
            size = len(payload) + _MESSAGE_OVERHEAD
            if self._queue and self._queued + size > self._queue_bytes:
                self.counters["overflowed"] += 1
                logger.warning("Data is dropped because %d bytes wait to be worked on already", self._queued)
                return
            self._queue.append((topic, payload))
            self._queued += size
            self._arrived.set()
            self._idle.clear()

        return take

    async def _work(self, handler: BatchHandler) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._arrived.clear()
                self._idle.set()
                await self._arrived.wait()
            topic, payload = self._queue.popleft()
            self._queued -= len(payload) + _MESSAGE_OVERHEAD
            received = self.consumer.receive(topic, payload, loop.time())
            if received.rejected:
                logger.warning("Not accepted: %s", received.rejected)
            for gap in received.gaps:
                self.gaps.append(gap)
                logger.error("Stream %s lost %d batches, %d to %d", gap.stream, len(gap), gap.first, gap.last)
            for batch in received.batches:
                await self._hand_over(handler, batch)
            await asyncio.sleep(0)  # a handler that never waits must not keep everybody else from running

    async def _hand_over(self, handler: BatchHandler, batch: SampleBatch | EventBatch) -> None:
        try:
            await handler(batch)
        except Exception:
            self.counters["failed"] += 1
            logger.exception("Batch %d of %s was not worked on", batch.header.seq, batch.header.stream)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._quiet_after / 3)
            for watched in self._watched:
                now = loop.time()
                if watched.heard > watched.renewed:
                    watched.pause = self._quiet_after
                if now - max(watched.heard, watched.renewed) >= watched.pause:
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
