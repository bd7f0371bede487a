"""Outlets: all streams of one producing component, kept until their consumers have them.

What a source yields is numbered and encoded when it is submitted, committed with the source's positions, and only then
put into the live queue, from which one task publishes. What does not fit the queue, or fails, is left to replays: one
task per consumer answers what it asks for, a stretch at a time, from the outbox. The rules are in `delivery`, what is
kept is in `outbox`; here is only what needs a bus, a clock and tasks.
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
from typing import Any, Final

from sluice import crash
from sluice.batch import BatchError, Columns, SampleBatch, decode
from sluice.bus import Bus, BusSubscription
from sluice.config import OutboxSettings
from sluice.cursors import ACK_PREFIX, Ask, MessageError, decode_cursors
from sluice.database import DatabaseError
from sluice.delivery import ANNOUNCE_EVERY, HEARD_WITHIN, MAX_CONSUMERS, Frame, Producer, Registration, replay_topic
from sluice.following import MAX_WINDOW
from sluice.ipc import IpcDisconnected, IpcError, IpcTimeout, IpcTooLarge
from sluice.outbox import Outbox, Put, Quota, Registered
from sluice.retry import Backoff
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
_ATTEMPTS: Final = 4
"""Publishes of one part of an answer, until the rest is left to the next ask."""
_GAP_EVENT_EVERY: Final = 10.0
_ORPHAN_STAYS: Final = 60.0
"""Seconds for which the empty stream of a source without configuration is remembered, in case it comes back."""


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
            channel = self._channel(outlet.stream)
            channel.producer.keep_after = None
            self._unsettled[channel] = None

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

    def sources(self) -> set[str]:
        """The sources that have positions, configured or not."""
        return {key.partition("/")[0] for key in self._outbox.positions("")}

    def consumers(self) -> set[str]:
        """Everybody for whom something is kept, by id."""
        return {name for channel in self._channels.values() for name in channel.producer.consumers}

    def forget(self, consumer: str) -> int:
        """Keep nothing more for a consumer, until it is heard again; how many batches waited for it.

        Raises ValueError, with the remedy, for one that is configured, was heard just now, or is not known.
        """
        if consumer in self._settings.consumers:
            raise ValueError("is named under outbox.consumers, for whom everything is kept: take it out there first")
        now = self._loop.time()
        known = {
            channel: channel.producer.consumers[consumer]
            for channel in self._channels.values()
            if consumer in channel.producer.consumers
        }
        if not known:
            names = ", ".join(sorted(self.consumers())) or "nobody"
            raise ValueError(f"is not known: those for whom data is kept are {names}")
        if any(of.seen is not None and now - of.seen <= HEARD_WITHIN for of in known.values()):
            raise ValueError("runs, and would register again at once: stop or remove it first")
        waiting = sum(channel.producer.durable - of.acked for channel, of in known.items())
        for channel in known:
            del channel.producer.consumers[consumer]
            self._settle(channel)
        logger.warning("%s was forgotten: %d batches had been kept for it", consumer, waiting)
        return waiting

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
        await self._insist(topic, producer.announcement(self._outbox.state(ask.stream).oldest, newest))

    async def _replay_frame(self, topic: str, producer: Producer, frame: Frame) -> None:
        try:
            await self._insist(topic, frame.payload)
        except IpcTooLarge as error:
            logger.error("Batch %d of %s cannot be delivered: %s", frame.seq, producer.stream, error)
            await self._replace(topic, producer, frame.seq, "too-large-for-bus")
            return
        producer.offered(frame.seq)
        self.counters["replayed"] += 1
        self.counters["replayed_bytes"] += len(frame.payload)

    async def _insist(self, topic: str, payload: bytes) -> None:
        """Publish a part of an answer, and again when that fails for the moment; what had arrived is only a repeat."""
        backoff = Backoff(0.05, 0.5)
        for _ in range(_ATTEMPTS - 1):
            try:
                await self._bus.publish(topic, payload)
            except (IpcTimeout, IpcDisconnected):  # noqa: PERF203 - each is a call to another process
                self.counters["publish_failures"] += 1
                await asyncio.sleep(backoff.next())
            else:
                return
        await self._bus.publish(topic, payload)

    async def _replace(self, topic: str, producer: Producer, number: int, reason: str) -> int:
        """Publish, in the place of a batch that cannot be had, an event that says so; its size."""
        self.counters["unreadable"] += 1
        logger.error("Batch %d of %s is lost (%s): an event takes its place", number, producer.stream, reason)
        payload = producer.instead(number, reason)
        await self._insist(topic, payload)
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
        empty = state.oldest == state.next == channel.producer.newest + 1  # and nothing is under way to the disk
        if empty and channel.lost is None and now - channel.orphan_since >= _ORPHAN_STAYS:
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

    @property
    def roomy(self) -> bool:
        """Less than half of what may be kept is kept: there is room for more than what comes by itself."""
        return self._outlets._outbox.roomy

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
        return self._outlets._commit([self._events(events)], self._own(positions))

    def submit_turn(
        self,
        live: Sequence[Columns] = (),
        backfill: Sequence[Columns] = (),
        events: Sequence[Mapping[str, Any]] = (),
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
    ) -> Awaitable[None]:
        """The same for everything that came of one piece of work: all of it, with the positions, in one transaction.

        filtered: samples that the work left out on purpose, counted in the live stream.
        """
        batches: list[tuple[_Channel, Sequence[Frame]]] = []
        if live or filtered:
            batches += self._samples(self._data, live, filtered, 0)
        if backfill:
            batches += self._samples(self._outlets._channel(f"{self.stream}/backfill"), backfill, 0, 0)
        if events:
            batches.append(self._events(events))
        return self._outlets._commit(batches, self._own(positions))

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        """Store positions alone."""
        return self._outlets._commit([], self._own(positions))

    def position(self, key: str) -> bytes | None:
        """A position as it was last submitted; None: never, or deleted."""
        return self._outlets._outbox.position(f"{self._source}/{key}")

    def positions(self) -> dict[str, bytes]:
        """All positions of this source, likewise."""
        return self._outlets._outbox.positions(f"{self._source}/")

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
                await asyncio.sleep(0)  # a large one takes its time: others have theirs between
            after = frames[-1].seq

    def _store(
        self,
        channel: _Channel,
        columns: Sequence[Columns],
        positions: Mapping[str, bytes | None] | None,
        filtered: int,
        undelivered: int,
    ) -> asyncio.Future[None]:
        return self._outlets._commit(self._samples(channel, columns, filtered, undelivered), self._own(positions))

    def _samples(
        self, channel: _Channel, columns: Sequence[Columns], filtered: int, undelivered: int
    ) -> list[tuple[_Channel, Sequence[Frame]]]:
        """The frames of these samples; with an event when some cannot be encoded."""
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
        return batches

    def _events(self, events: Sequence[Mapping[str, Any]]) -> tuple[_Channel, Sequence[Frame]]:
        """The frames of these events."""
        channel = self._outlets._channel(events_of(self.stream))
        frames: list[Frame] = []
        try:
            frames = channel.producer.add_events(events)
        except BatchError as error:
            logger.error("%d events of %s cannot be encoded and are lost: %s", len(events), self.stream, error)
        return channel, frames

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
