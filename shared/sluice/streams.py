"""Streams on the local bus: Outlets keep and publish what a component's sources yield, an Inlet follows data topics.

The rules are in `delivery`, what is kept in `outbox`; here is only what needs a bus, a clock and tasks. A bus is
whatever publishes and subscribes like `sluice.ipc.Ipc`.

What a source yields is numbered and encoded when it is submitted, committed with the source's positions, and only then
put into the live queue, from which one task publishes. What does not fit the queue, or fails, is left to replays: one
task per consumer answers what it asks for, a stretch at a time, from the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from sluice import crash
from sluice.batch import LITE_MAX_MESSAGE_BYTES, Announcement, BatchError, Columns, EventBatch, SampleBatch, decode
from sluice.config import OutboxSettings
from sluice.database import DatabaseError
from sluice.delivery import (
    ACK_PREFIX,
    ANNOUNCE_EVERY,
    LIVE_WINDOW,
    MAX_CONSUMERS,
    MAX_STREAMS,
    MAX_WINDOW,
    REPLAY_PREFIX,
    SILENT_AFTER,
    Ask,
    Consumer,
    Cursor,
    Demand,
    Frame,
    Gap,
    Message,
    MessageError,
    Producer,
    Registration,
    ack_topic,
    data_topic,
    decode_cursors,
    encode_cursors,
    parse,
    replay_topic,
)
from sluice.ipc import IpcError, IpcTooLarge
from sluice.outbox import Outbox, Put, Quota, Registered
from sluice.status import when
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

LIVE_QUEUE_BYTES: Final = 4_000_000
"""What may wait to be published live; what does not fit is left to replays."""
_READ_BYTES: Final = 1_000_000
_TOLD_WITHIN: Final = 0.05
"""Seconds within which the outbox tells what it has deleted."""
_MESSAGE_OVERHEAD: Final = 300
"""Bytes that a queued message takes beside its payload."""
_RECENT_GAPS: Final = 20
_LONGEST_PAUSE: Final = 60.0
"""Seconds between renewals of a subscription on which nothing comes whatever is done."""
_LAST_WORK: Final = 1.0
"""Seconds for what is queued when an inlet is closed."""
_TOLD_BEHIND: Final = LIVE_WINDOW // 4
"""Batches by which a cursor moves until the producer is told at once."""
_CALM: Final = 0.02
"""Seconds at least between two messages of cursors."""
_GAP_EVENT_EVERY: Final = 10.0
_ORPHAN_STAYS: Final = 60.0
"""Seconds for which the empty stream of a source without configuration is remembered, in case it comes back."""


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


# --------------------------------------------------------------------------------------------------------- the outlets


@dataclass(slots=True, eq=False)
class _Channel:
    """One stream: its producer, how much of it waits in the live queue, and what is to be told of it."""

    producer: Producer
    waiting: int = 0
    passed: int = 0
    """The newest number that was left to replays while others waited."""
    lost: tuple[int, int, int] | None = None
    """First and last number, and samples, that had to make room and are not told yet."""
    told_lost: float | None = None
    orphan_since: float | None = None

    def pass_over(self, number: int) -> None:
        """Leave everything up to number to replays."""
        if self.waiting:
            self.passed = number
        else:
            self.producer.offered(number)

    def published(self, number: int) -> None:
        """The next of what waited was published, or could not be."""
        self.waiting -= 1
        self.producer.offered(number)
        if not self.waiting:
            self.producer.offered(self.passed)


@dataclass(slots=True, eq=False)
class _Replays:
    """What one consumer wants replayed: the latest ask of each stream."""

    consumer: str
    asked: dict[str, Ask] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Outlets:
    """All streams of one producing component: stores, publishes, announces, answers, deletes what everybody has."""

    def __init__(
        self,
        bus: Bus,
        producer_id: str,
        outbox: Outbox,
        settings: OutboxSettings,
        *,
        max_bytes: int,
        compress: bool,
        announce_every: float = ANNOUNCE_EVERY,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Use `open`, which opens the outbox as well."""
        self.counters: dict[str, int] = dict.fromkeys(
            (
                "published",
                "left_to_replays",
                "publish_failures",
                "replayed",
                "replayed_bytes",
                "asks",
                "malformed",
                "foreign",
                "forged",
                "unknown_stream",
                "unknown_epoch",
                "future",
                "crowded",
                "expired",
                "unreadable",
            ),
            0,
        )
        self._bus = bus
        self._producer_id = producer_id
        self._outbox = outbox
        self._settings = settings
        self._max_bytes = max_bytes
        self._compress = compress
        self._announce_every = announce_every
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._outlets: dict[str, Outlet] = {}
        self._channels: dict[str, _Channel] = {}
        self._live: deque[tuple[_Channel, Frame]] = deque()
        self._queued = 0
        self._uncommitted = 0
        self._due: dict[_Channel, None] = {}
        self._unsettled: dict[_Channel, None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._replays: dict[str, _Replays] = {}
        self._subscription: BusSubscription | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._bus_trouble = ""
        self._closing = False
        outbox.on_evicted = self._evicted

    @classmethod
    async def open(
        cls,
        bus: Bus,
        producer_id: str,
        folder: Path,
        settings: OutboxSettings,
        *,
        max_bytes: int,
        compress: bool,
        announce_every: float = ANNOUNCE_EVERY,
    ) -> Outlets:
        """Open the outbox in the folder. Make the outlets of the configured sources next, then `start`."""
        outbox = await Outbox.open(folder / "outbox.db", _quota(settings), commit_interval=settings.commit_interval)
        return cls(
            bus,
            producer_id,
            outbox,
            settings,
            max_bytes=max_bytes,
            compress=compress,
            announce_every=announce_every,
        )

    async def start(self) -> None:
        """Announce, publish, listen to consumers; also for streams on disk that no outlet was made for.

        Raises IpcError when the nucleus refuses the subscription: the recipe's accessControl lacks it.
        """
        for stream in self._outbox.streams():
            if self._outbox.state(stream).next > 1:
                self._channel(stream)
        self._due = dict.fromkeys(self._channels.values())
        self._subscription = await self._bus.subscribe(f"{ACK_PREFIX}{self._producer_id}/+", self._take)
        self._tasks = [
            asyncio.create_task(self._publish(), name="outlets: publishing"),
            asyncio.create_task(self._tend(), name="outlets: housekeeping"),
        ]

    def outlet(self, source: str) -> Outlet:
        """The outlet of a source; a source that had one goes on where it was."""
        if source not in self._outlets:
            self._outlets[source] = Outlet(self, f"{self._producer_id}/{source}", source)
        return self._outlets[source]

    def remove(self, source: str) -> None:
        """The source is gone from the configuration: what is kept of it is still delivered, and then forgotten."""
        outlet = self._outlets.pop(source, None)
        if outlet is not None:
            outlet.recoverable = False

    def apply(self, settings: OutboxSettings, *, max_bytes: int, compress: bool) -> None:
        """Go over to other settings. Frames that are kept already stay as they are."""
        self._settings = settings
        self._max_bytes = max_bytes
        self._compress = compress
        self._outbox.apply(_quota(settings), settings.commit_interval)
        for channel in self._channels.values():
            channel.producer.resize(max_bytes, compress=compress)
            channel.producer.named = frozenset(settings.consumers)
            channel.producer.expiry = settings.consumer_expiry
            self._unsettled[channel] = None

    @property
    def trouble(self) -> str:
        """Why nothing can be stored, or published, at present; empty when all is well."""
        return self._outbox.trouble or self._bus_trouble

    @property
    def remedy(self) -> str:
        """What mends the trouble."""
        if self._outbox.trouble:
            return self._outbox.remedy
        return "what is kept is delivered when the local bus takes it again" if self._bus_trouble else ""

    def ledgers(self) -> dict[str, dict[str, int]]:
        """The ledger of each stream, for the status."""
        return {
            stream: channel.producer.told(self._outbox.state(stream).samples)
            for stream, channel in self._channels.items()
        }

    def status(self) -> dict[str, Any]:
        """The outbox, who consumes, and counters."""
        now = self._loop.time()
        consumers: dict[str, dict[str, Any]] = {}
        for channel in self._channels.values():
            for name, of in channel.producer.consumers.items():
                told = consumers.setdefault(name, {"heard": 0.0, "behind": 0})
                told["heard"] = max(told["heard"], of.heard)
                told["behind"] += channel.producer.durable - of.acked
        for told in consumers.values():
            told["heard"] = when(told["heard"])
        return {
            **self._outbox.status(),
            "consumers": consumers,
            "queued_bytes": self._queued,
            "not_live": [name for name, channel in self._channels.items() if not channel.producer.live(now)],
            "counters": self._summed(),
        }

    async def close(self, limit: float = 2.0) -> None:
        """Commit and publish what is in hand, within `limit` seconds; the rest of it is delivered after a restart."""
        deadline = self._loop.time() + limit
        if self._subscription is not None:
            await self._subscription.close()
            self._subscription = None
        if self._tasks:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(limit / 2, self._idle.wait())
        await end(*self._tasks, *(of.task for of in self._replays.values() if of.task is not None))
        self._tasks, self._replays = [], {}
        self._settle_all()
        self._closing = True
        await self._outbox.close(max(0.1, deadline - self._loop.time()))

    # --- storing ---

    def _channel(self, stream: str) -> _Channel:
        """The channel of a stream, which is announced before anything of it is published."""
        channel = self._channels.get(stream)
        if channel is None:
            state = self._outbox.state(stream)
            producer = Producer(
                stream,
                state.epoch,
                max_bytes=self._max_bytes,
                compress=self._compress,
                number=state.next,
                ledger=state.ledger,
                consumers={name: Registration(of.acked, of.heard) for name, of in state.consumers.items()},
                named=self._settings.consumers,
                expiry=self._settings.consumer_expiry,
                now=self._loop.time(),
            )
            channel = self._channels[stream] = _Channel(producer)
            self._due[channel] = None
            self._wake.set()
        return channel

    def _commit(
        self, batches: Sequence[tuple[_Channel, Sequence[Frame]]], positions: Mapping[str, bytes | None]
    ) -> asyncio.Future[None]:
        """Store frames and positions in one transaction; then publish the frames."""
        puts = [Put(of.producer.stream, frames, of.producer.ledger.settled()) for of, frames in batches]
        done: asyncio.Future[None] = self._loop.create_future()
        self._uncommitted += 1
        self._idle.clear()
        committed = self._outbox.put(puts, positions)
        committed.add_done_callback(functools.partial(self._committed, batches, done))
        return done

    def _committed(
        self,
        batches: Sequence[tuple[_Channel, Sequence[Frame]]],
        done: asyncio.Future[None],
        committed: asyncio.Future[None],
    ) -> None:
        self._uncommitted -= 1
        self._wake.set()
        if committed.cancelled():
            done.cancel()
            return
        error = committed.exception()
        if error is not None:
            if not self._closing:  # else their source is not told that they are safe, and gives them again
                logger.error("Batches could not be stored and are lost: %s", error)
                for channel, frames in batches:
                    channel.producer.lost(frames)
            if not done.done():
                done.set_exception(error)
                _heeded(done)  # whoever does not wait for it is not told of it at the end either
            return
        crash.point("stored")
        for channel, frames in batches:
            channel.producer.stored(frames)
            self._offer(channel, frames)
        if not done.done():
            done.set_result(None)

    def _evicted(self, stream: str, first: int, last: int, samples: int) -> None:
        """The outbox made room."""
        channel = self._channel(stream)
        lost = channel.producer.evicted(first, last, samples)
        if lost is not None:
            earlier = channel.lost
            channel.lost = lost if earlier is None else (earlier[0], lost[1], earlier[2] + lost[2])

    # --- publishing ---

    def _offer(self, channel: _Channel, frames: Sequence[Frame]) -> None:
        """Have frames published live as far as that makes sense and there is room."""
        live = channel.producer.live(self._loop.time())
        for frame in frames:
            size = len(frame.payload) + _MESSAGE_OVERHEAD
            if not live or self._queued + size > LIVE_QUEUE_BYTES:
                channel.pass_over(frame.seq)
                self.counters["left_to_replays"] += 1
                continue
            channel.waiting += 1
            self._live.append((channel, frame))
            self._queued += size

    async def _publish(self) -> None:
        """Announce every stream every 2 s and whenever it is due, and publish what is queued."""
        next_round = self._loop.time()
        while True:
            self._wake.clear()
            now = self._loop.time()
            if now >= next_round:
                self._due.update(dict.fromkeys(self._channels.values()))
                next_round = now + self._announce_every
            while self._due:
                channel = next(iter(self._due))
                del self._due[channel]
                stream = channel.producer.stream
                payload = channel.producer.announcement(self._outbox.state(stream).oldest)
                await self._send(channel.producer.topic, payload)
            if self._live:
                channel, frame = self._live.popleft()
                self._queued -= len(frame.payload) + _MESSAGE_OVERHEAD
                if await self._send(channel.producer.topic, frame.payload):
                    self.counters["published"] += 1
                channel.published(frame.seq)
                continue
            if not self._uncommitted:
                self._idle.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await within(max(0.0, next_round - self._loop.time()), self._wake.wait())

    async def _send(self, topic: str, payload: bytes) -> bool:
        """Publish once. What fails is in the outbox: who misses it asks for it."""
        try:
            await self._bus.publish(topic, payload)
        except IpcError as error:
            self.counters["publish_failures"] += 1
            self._bus_trouble = f"the local bus does not take what is published: {error}"
            logger.warning("Not published on %s: %s", topic, error)
            await asyncio.sleep(0)  # a bus that is away refuses at once: others must run meanwhile
            return False
        self._bus_trouble = ""
        return True

    # --- consumers ---

    def _take(self, topic: str, payload: bytes) -> None:
        """Cursors and asks of a consumer."""
        try:
            cursors = decode_cursors(topic, payload)
        except MessageError as error:
            self._refuse(error.counter, str(error))
            return
        now, wall = self._loop.time(), self._wall()
        for stream, cursor in cursors.streams.items():
            channel = self._channels.get(stream)
            if channel is None:
                self._refuse("unknown_stream", f"{cursors.consumer} acknowledges stream {stream!r}, which is not here")
                continue
            refused = channel.producer.take(cursors.consumer, cursor, now, wall)
            if refused is None:
                self._settle(channel)
                continue
            logger.warning("The cursors of %s are not believed: %s", cursors.consumer, refused)
            if cursor.epoch != channel.producer.epoch:
                self._due[channel] = None
                self._wake.set()
        for ask in cursors.asks:
            self._want(cursors.consumer, ask)

    def _refuse(self, counter: str, told: str) -> None:
        self.counters[counter] += 1
        logger.warning("Not believed: %s", told)

    def _want(self, consumer: str, ask: Ask) -> None:
        channel = self._channels.get(ask.stream)
        if channel is None:
            self._refuse("unknown_stream", f"{consumer} asks for stream {ask.stream!r}, which is not here")
            return
        if ask.epoch != channel.producer.epoch:
            self._refuse("unknown_epoch", f"{consumer} asks for epoch {ask.epoch} of stream {ask.stream!r}")
            self._due[channel] = None
            self._wake.set()
            return
        replays = self._replays.get(consumer)
        if replays is None:
            if len(self._replays) >= MAX_CONSUMERS:
                self._refuse("crowded", f"{consumer} asks, but {MAX_CONSUMERS} consumers are served already")
                return
            replays = self._replays[consumer] = _Replays(consumer)
            replays.task = asyncio.create_task(self._replay(replays), name=f"outlets: replays to {consumer}")
        self.counters["asks"] += 1
        replays.asked[ask.stream] = ask
        replays.wake.set()

    async def _replay(self, replays: _Replays) -> None:
        """Answer what one consumer asks for, stream after stream."""
        while True:
            while not replays.asked:
                replays.wake.clear()
                await replays.wake.wait()
            stream = next(iter(replays.asked))
            ask = replays.asked.pop(stream)
            channel = self._channels.get(stream)
            if channel is None:
                continue  # an orphan that was empty
            try:
                await self._answer(replays, channel, ask)
            except IpcError as error:  # it asks again
                self.counters["publish_failures"] += 1
                logger.warning("%s does not get what it asked of %s: %s", replays.consumer, stream, error)
                await asyncio.sleep(0)
            except DatabaseError as error:
                logger.error("%s does not get what it asked of %s: %s", replays.consumer, stream, error)

    async def _answer(self, replays: _Replays, channel: _Channel, ask: Ask) -> None:
        """Publish kept batches from the asked number on; then announce how far that went.

        Breaks off when the consumer has asked for something else of the same stream meanwhile.
        """
        producer = channel.producer
        topic = replay_topic(replays.consumer, ask.stream)
        window = min(ask.bytes, MAX_WINDOW)
        number, doubted = ask.first, 0
        while window > 0:
            number = max(number, self._outbox.state(ask.stream).oldest)
            if number > producer.durable:
                break
            frames = await self._outbox.read(ask.stream, number, min(window, _READ_BYTES))
            if not frames or frames[0].seq != number:
                if doubted != number:  # what is deleted just now is gone before we are told
                    doubted = number
                    await asyncio.sleep(_TOLD_WITHIN)
                    continue
                window -= await self._replace(topic, producer, number, "unreadable")
                number += 1
                continue
            for frame in frames:
                if frame.seq != number or window <= 0:
                    break
                await self._replay_frame(topic, producer, frame)
                number += 1
                window -= len(frame.payload)
                if ask.stream in replays.asked:
                    return
        newest = min(number - 1, producer.durable)
        await self._bus.publish(topic, producer.announcement(self._outbox.state(ask.stream).oldest, newest))

    async def _replay_frame(self, topic: str, producer: Producer, frame: Frame) -> None:
        try:
            await self._bus.publish(topic, frame.payload)
        except IpcTooLarge as error:
            logger.error("Batch %d of %s cannot be delivered: %s", frame.seq, producer.stream, error)
            await self._replace(topic, producer, frame.seq, "too-large-for-bus")
            return
        producer.offered(frame.seq)
        self.counters["replayed"] += 1
        self.counters["replayed_bytes"] += len(frame.payload)

    async def _replace(self, topic: str, producer: Producer, number: int, reason: str) -> int:
        """Publish, in the place of a batch that cannot be had, an event that says so; its size."""
        self.counters["unreadable"] += 1
        logger.error("Batch %d of %s is lost (%s): an event takes its place", number, producer.stream, reason)
        payload = producer.instead(number, reason)
        await self._bus.publish(topic, payload)
        producer.offered(number)
        return len(payload)

    # --- housekeeping ---

    async def _tend(self) -> None:
        """Every 2 s: forget consumers that expired, delete what everybody has, tell what was lost, drop orphans."""
        while True:
            await asyncio.sleep(self._announce_every)
            now, wall = self._loop.time(), self._wall()
            for stream, channel in list(self._channels.items()):
                for name in channel.producer.expire(now, wall):
                    logger.warning("%s was not heard of for too long: %s is not kept for it any more", name, stream)
                    self._unsettled[channel] = None
                self._tell_lost(channel, now)
                self._drop_orphan(stream, channel, now)
            self._settle_all()

    def _settle(self, channel: _Channel) -> None:
        """Have the outbox delete what everybody has, and remember who consumes."""
        self._unsettled.pop(channel, None)
        producer = channel.producer
        consumers = {name: Registered(of.acked, of.heard) for name, of in producer.consumers.items()}
        self._outbox.settle(producer.stream, consumers, producer.delete_to(), producer.ledger.settled())

    def _settle_all(self) -> None:
        for channel in list(self._unsettled):
            self._settle(channel)

    def _tell_lost(self, channel: _Channel, now: float) -> None:
        """An event, at most every 10 s per stream, for what had to make room."""
        if channel.lost is None or (channel.told_lost is not None and now - channel.told_lost < _GAP_EVENT_EVERY):
            return
        (first, last, samples), channel.lost, channel.told_lost = channel.lost, None, now
        stream = channel.producer.stream
        logger.error("The outbox is full: batches %d to %d of %s, %d samples, are lost", first, last, stream, samples)
        self._emit(stream, _gap_event(stream, "outbox-full", first=first, last=last, samples=samples))

    def _emit(self, stream: str, event: Mapping[str, Any]) -> None:
        """Put an event of ours on the events stream of the stream's source."""
        channel = self._channel(events_of(stream))
        self._commit([(channel, channel.producer.add_events([event]))], {})

    def _drop_orphan(self, stream: str, channel: _Channel, now: float) -> None:
        if stream.split("/")[1] in self._outlets:
            channel.orphan_since = None
            return
        if channel.orphan_since is None:
            channel.orphan_since = now
        state = self._outbox.state(stream)
        if state.oldest == state.next and channel.lost is None and now - channel.orphan_since >= _ORPHAN_STAYS:
            del self._channels[stream]
            self._due.pop(channel, None)
            self._unsettled.pop(channel, None)
            self._outbox.drop(stream)

    def _summed(self) -> dict[str, int]:
        """Our counters and those of all producers."""
        counters = dict(self.counters)
        for channel in self._channels.values():
            for name, count in channel.producer.counters.items():
                counters[name] += count
        return counters


class Outlet:
    """Stores and publishes the samples and events of one source, in order. Made by `Outlets.outlet`."""

    def __init__(self, outlets: Outlets, stream: str, source: str) -> None:
        self.stream = stream
        self._outlets = outlets
        self._source = source
        self._recoverable = False
        self._data = outlets._channel(stream)

    @property
    def newest(self) -> int:
        """The newest number assigned in the live data stream."""
        return self._data.producer.newest

    @property
    def recoverable(self) -> bool:
        """The source can be read again later: it pauses when the outbox is full, and nothing of it makes room."""
        return self._recoverable

    @recoverable.setter
    def recoverable(self, value: bool) -> None:
        self._recoverable = value
        for stream in (self.stream, f"{self.stream}/backfill"):
            self._outlets._outbox.hold(stream, value)

    @property
    def full(self) -> bool:
        """The outbox is full, and this source is to pause until it is not."""
        return self._recoverable and self._outlets._outbox.full

    def submit(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
        undelivered: int = 0,
    ) -> Awaitable[None]:
        """Store samples and the source's positions in one transaction, then publish. The awaitable ends when durable.

        Order is that of the calls. filtered, undelivered: samples that were received beside these, and left out on
        purpose, or could not be read. Never raises for data: what cannot be encoded is counted, logged and told as an
        event.
        """
        return self._store(self._data, columns, positions, filtered, undelivered)

    def submit_backfill(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
    ) -> Awaitable[None]:
        """The same for samples of the past, on a stream of their own."""
        return self._store(self._outlets._channel(f"{self.stream}/backfill"), columns, positions, filtered, 0)

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] | None = None
    ) -> Awaitable[None]:
        """The same for events, each a JSON object, on a stream of their own."""
        channel = self._outlets._channel(events_of(self.stream))
        frames: list[Frame] = []
        try:
            frames = channel.producer.add_events(events)
        except BatchError as error:
            logger.error("%d events of %s cannot be encoded and are lost: %s", len(events), self.stream, error)
        return self._outlets._commit([(channel, frames)], self._own(positions))

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        """Store positions alone."""
        return self._outlets._commit([], self._own(positions))

    def position(self, key: str) -> bytes | None:
        """A position as it was last submitted; None: never, or deleted."""
        return self._outlets._outbox.position(f"{self._source}/{key}")

    def keep_after(self, number: int) -> None:
        """Keep live frames above number even when everybody has them.

        Call it before `Outlets.start`, or right after `Outlets.outlet`: before consumers can have them deleted.
        """
        self._data.producer.keep_after = number
        self._outlets._unsettled[self._data] = None

    async def recent(self, after: int) -> AsyncIterator[SampleBatch]:
        """The live batches above `after` that are kept, in order."""
        while frames := await self._outlets._outbox.read(self.stream, after + 1, _READ_BYTES):
            for frame in frames:
                try:
                    batch = decode(frame.payload)
                except BatchError as error:
                    logger.error("Batch %d of %s in the outbox cannot be read: %s", frame.seq, self.stream, error)
                    continue
                if isinstance(batch, SampleBatch):
                    yield batch
            after = frames[-1].seq

    def _store(
        self,
        channel: _Channel,
        columns: Sequence[Columns],
        positions: Mapping[str, bytes | None] | None,
        filtered: int,
        undelivered: int,
    ) -> asyncio.Future[None]:
        producer = channel.producer
        producer.filter(filtered)
        producer.drop(undelivered)
        before = producer.ledger.dropped
        frames: list[Frame] = []
        why = "a tag with its context exceeds a frame"
        for part in columns:
            try:
                frames += producer.add(part)
            except BatchError as error:  # noqa: PERF203 - parts are few and large
                why = str(error)
        batches: list[tuple[_Channel, Sequence[Frame]]] = [(channel, frames)]
        dropped = producer.ledger.dropped - before
        if dropped:
            logger.error("%d samples of %s cannot be encoded and are lost: %s", dropped, producer.stream, why)
            events = self._outlets._channel(events_of(self.stream))
            event = _gap_event(producer.stream, "not-encodable", samples=dropped, why=why[:200])
            batches.append((events, events.producer.add_events([event])))
        return self._outlets._commit(batches, self._own(positions))

    def _own(self, positions: Mapping[str, bytes | None] | None) -> dict[str, bytes | None]:
        return {f"{self._source}/{key}": value for key, value in (positions or {}).items()}


def events_of(stream: str) -> str:
    """The events stream of a stream's source."""
    return "/".join(stream.split("/")[:2]) + "/events"


def _gap_event(stream: str, reason: str, **members: Any) -> dict[str, Any]:
    return {"kind": "gap", "reason": reason, "stream": stream, **members, "time_ns": time.time_ns()}


def _quota(settings: OutboxSettings) -> Quota:
    return Quota(settings.max_size, settings.max_age, settings.min_free_disk)


def _heeded(done: asyncio.Future[None]) -> None:
    """What failed is logged already, and nobody waits for it."""
    if not done.cancelled():
        done.exception()


# ----------------------------------------------------------------------------------------------------------- the inlet


class Reader(Protocol):
    """One sink inside a consumer."""

    consumer: Consumer

    def has_room(self) -> bool:
        """False: it is offered nothing, and is behind until it has room again."""

    def take(self, batch: SampleBatch | EventBatch) -> None:
        """Work on the next batch: in order, each once per run. Never raises, never blocks."""

    def missed(self, gap: Gap) -> None:
        """The producer does not have these any more; the cursor is behind them."""

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        """Up to which number it may be deleted; None: this reader does not care."""


@dataclass(slots=True)
class _Watched:
    """One filter's subscription: when something came on it, when it was renewed, how long it may be quiet."""

    filter: str
    heard: float
    renewed: float
    pause: float
    subscription: BusSubscription | None = None


@dataclass(slots=True)
class _Followed:
    """One stream as the inlet knows it: what was announced of it, and what its producer was told last."""

    epoch: str
    newest: int
    heard: float
    told: Cursor | None = None


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
    ) -> None:
        """window: bytes that one answer may have."""
        self.counters: dict[str, int] = dict.fromkeys(
            ("overflowed", "renewals", "failed", "malformed", "foreign", "forged", "untold"), 0
        )
        self.gaps: deque[Gap] = deque(maxlen=_RECENT_GAPS)
        """The latest gaps, for the status."""
        self._bus = bus
        self._consumer_id = consumer_id
        self._replay_filter = f"{REPLAY_PREFIX}{consumer_id}/#"
        self._filters = tuple(filters)
        self._queue_bytes = queue_bytes
        self._quiet_after = quiet_after
        self._tell_every = tell_every
        self._demand = Demand(window, most=max(1, queue_bytes // (2 * window)))
        self._readers: dict[str, Reader] = {}
        self._followed: dict[str, _Followed] = {}
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
        self._readers = dict(readers)
        self._watched = await self._subscribed((*self._filters, self._replay_filter))
        self._tasks = [
            asyncio.create_task(self._work(), name="inlet"),
            asyncio.create_task(self._tell(), name="inlet cursors"),
            asyncio.create_task(self._watch(), name="inlet watch"),
        ]

    def replace(self, readers: Mapping[str, Reader]) -> None:
        """Go over to other readers. A new one follows each stream from its next announcement on, or its own cursor."""
        self._readers = dict(readers)
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
        for stream in [stream for stream in self._followed if not self._covered(stream)]:
            del self._followed[stream]
        self._demand.forget(lambda stream: stream not in self._followed)

    async def close(self) -> None:
        """End the subscriptions, then the work; what waits in the queue is still worked on for up to a second."""
        await _closed(self._watched)
        if self._tasks:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_LAST_WORK, self._idle.wait())
        await end(*self._tasks)
        self._watched, self._tasks = [], []

    def status(self) -> dict[str, Any]:
        """Counters, streams, who is silent and the latest gaps."""
        now = asyncio.get_running_loop().time()
        return {
            **self.counters,
            **self._demand.counters,
            "queued_bytes": self._queued,
            "silent": sorted(name for name, of in self._followed.items() if now - of.heard > SILENT_AFTER),
            "streams": {name: {"epoch": of.epoch, "newest": of.newest} for name, of in self._followed.items()},
            "readers": {
                name: {count: n for count, n in reader.consumer.counters.items() if n}
                for name, reader in self._readers.items()
            },
            "recent_gaps": [f"{gap.stream} {gap.epoch} {gap.first}-{gap.last}" for gap in self.gaps],
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
            while not self._queue:
                self._arrived.clear()
                self._idle.set()
                await self._arrived.wait()
            topic, payload = self._queue.popleft()
            self._queued -= len(payload) + _MESSAGE_OVERHEAD
            try:
                self._offer(parse(topic, payload, self._consumer_id), loop.time())
            except MessageError as error:
                self.counters[error.counter] += 1
                logger.warning("Not believed: %s", error)
            except Exception:
                self.counters["failed"] += 1
                logger.exception("A message on %s was not worked on", topic)
            await asyncio.sleep(0)  # readers that never wait must not keep everybody else from running

    def _offer(self, message: Message, now: float) -> None:
        """Offer one message to every reader, and see whether there is something to ask."""
        stream, body = message.stream, message.body
        if not self._covered(stream):
            return  # a replay that was on its way when the filters changed
        self._demand.arrived(message, now)
        if isinstance(body, Announcement) and not message.replayed:
            self._announced(body, now)
        behind = False
        for name, reader in self._readers.items():
            room = reader.has_room()
            received = reader.consumer.offer(message, now, room)
            if received.told is not None:
                logger.warning("%s: %s", name, received.told)
            if received.gap is not None:
                self.gaps.append(received.gap)
                self._guarded(reader.missed, received.gap)
            if received.batch is not None:
                self._guarded(reader.take, received.batch)
            behind = behind or (room and reader.consumer.wants(stream, message.of.epoch) is not None)
        followed = self._followed.get(stream)
        if followed is None:
            return
        moved = followed.told is None or self._furthest(stream, followed.epoch) - followed.told.next >= _TOLD_BEHIND
        if moved or (behind and self._demand.may_ask(stream, now)):
            self._look.set()

    def _announced(self, of: Announcement, now: float) -> None:
        followed = self._followed.get(of.stream)
        if followed is None:
            if len(self._followed) >= MAX_STREAMS:
                quietest = min(self._followed, key=lambda name: self._followed[name].heard)
                if now - self._followed[quietest].heard <= SILENT_AFTER:
                    return
                del self._followed[quietest]
            followed = self._followed[of.stream] = _Followed(of.epoch, of.newest, now)
        if followed.epoch != of.epoch:
            followed.told = None
        followed.epoch, followed.newest, followed.heard = of.epoch, of.newest, now

    def _guarded(self, call: Callable[[Any], None], what: Any) -> None:
        try:
            call(what)
        except Exception:
            self.counters["failed"] += 1
            logger.exception("A reader failed")

    def _covered(self, stream: str) -> bool:
        topic = data_topic(stream)
        return any(covers(topic_filter, topic) for topic_filter in self._filters)

    def _furthest(self, stream: str, epoch: str) -> int:
        return max((reader.consumer.next(stream, epoch) or 0 for reader in self._readers.values()), default=0)

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
            await self._tell_once(now, everything=everything)
            await asyncio.sleep(_CALM)
            waits = next_round - loop.time()
            due = self._demand.due_in(loop.time())
            with contextlib.suppress(asyncio.TimeoutError):
                await within(max(0.0, waits if due is None else min(waits, due)), self._look.wait())

    async def _tell_once(self, now: float, *, everything: bool) -> None:
        """Publish the cursors of all streams, or of those that moved far, and what there is to ask."""
        cursors: dict[str, dict[str, Cursor]] = {}
        asks: dict[str, list[Ask]] = {}
        for stream in sorted(self._followed, key=self._demand.asked_at):  # not all can be asked for at a time
            followed = self._followed[stream]
            producer = stream.partition("/")[0]
            ask = self._ask(stream, followed, now)
            if ask is not None:
                asks.setdefault(producer, []).append(ask)
            cursor = self._cursor(stream, followed.epoch)
            if cursor is not None and (everything or ask is not None or _moved_far(followed.told, cursor)):
                cursors.setdefault(producer, {})[stream] = cursor
                followed.told = cursor
        for producer in {**cursors, **asks}:
            topic = ack_topic(producer, self._consumer_id)
            told = cursors.get(producer, {})
            # The frame of nucleus lite, whatever the nucleus: these are small anyway.
            messages = encode_cursors(self._consumer_id, told, asks.get(producer, ()), max_bytes=LITE_MAX_MESSAGE_BYTES)
            for payload in messages:
                try:
                    await self._bus.publish(topic, payload)
                except IpcError as error:  # noqa: PERF203 - each is a call to another process
                    self.counters["untold"] += 1
                    logger.warning("Cursors are not told on %s: %s", topic, error)

    def _ask(self, stream: str, followed: _Followed, now: float) -> Ask | None:
        places: dict[str, int] = {}
        for name, reader in self._readers.items():
            number = reader.consumer.wants(stream, followed.epoch)
            if number is not None and reader.has_room():
                places[name] = number
        return self._demand.ask(stream, followed.epoch, places, now)

    def _cursor(self, stream: str, epoch: str) -> Cursor | None:
        """What all readers together are done with, and what the furthest wants; None: nobody follows it yet."""
        furthest = 0
        acked: list[int] = []
        for reader in self._readers.values():
            wanted = reader.consumer.next(stream, epoch)
            done = reader.acknowledged(stream, epoch)
            furthest = max(furthest, wanted or 0)
            if done is not None:  # who has not heard of the epoch yet is done with nothing of it
                acked.append(0 if wanted is None else max(0, min(done, wanted - 1)))
        if not furthest:
            return None
        return Cursor(epoch, min(acked, default=furthest - 1), furthest)

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
                    quiet = min(quiet, self._demand.waits_since(now))
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


def _moved_far(told: Cursor | None, cursor: Cursor) -> bool:
    if told is None or told.epoch != cursor.epoch:
        return True
    return max(cursor.next - told.next, cursor.acked - told.acked) >= _TOLD_BEHIND


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
