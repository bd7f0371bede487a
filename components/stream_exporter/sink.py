"""What every sink does: take batches as they come, pack them for a while, deliver range by range, know how far it is.

Each sink is a reader of its own: with its own cursors, its own bounded queue, its own client of stream manager on its
own thread, and its own task. One that is slow, broken or waiting for its destination holds no other: it has no room,
falls behind, and gets what it lacks by replays when it has room again. Nothing is dropped for lack of room.

What a sink has taken and not committed is not its to keep: it may be forgotten at any time (`rewind`), and comes again
from where the store's cursors stand.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sluice.batch import Announcement, EventBatch, SampleBatch
from sluice.delivery import Consumer, Gap, Message, Received
from sluice.status import when
from sluice.tasks import end, within
from stream_exporter.conditions import Conditions
from stream_exporter.ledger import Ledger
from stream_exporter.messages import Encoded, Encoder
from stream_exporter.pipe import Pipe, Stopped, StreamReset, until_set
from stream_exporter.ranges import (
    PACK_BYTES,
    PACK_SAMPLES,
    SAMPLE_BYTES,
    Item,
    Range,
    bytes_of,
    count_samples,
    cut,
    given_up,
    key_of,
    of_unit,
    samples_of,
)
from stream_exporter.stream_client import StreamClient
from stream_exporter.trail import Trail
from stream_exporter.units import Key, Unit, UnitStore

logger = logging.getLogger(__name__)

#: Seconds between looks at the stream and its export.
WATCH_INTERVAL = 2.0

#: Bytes that may wait however few samples may.
LEAST_ROOM = 16 << 20

#: Seconds for which an incomplete unit still waits for its range once its stream is numbered anew.
REPLACED_AFTER = 60.0

#: Entries of the lists in a status that name ranges, and streams whose cursors it shows.
TOLD = 20


@dataclass(frozen=True, slots=True)
class Terms:
    """How a sink takes part: how long it packs, how much may wait, and what it may hold back at the producers.

    max_lag: seconds that a sink which is not required may be behind; acknowledge_appended: before it is exported.
    """

    pack_interval: float
    max_waiting: int
    required: bool = True
    max_lag: float = 86_400.0
    acknowledge_appended: bool = False


class _Cursors(Consumer):
    """Cursors whose going back is told: numbers that a producer gives once more are not done with."""

    def __init__(self, cursors: Mapping[Key, int], back: Callable[[Key, int], None]) -> None:
        super().__init__(cursors)
        self._back = back

    def offer(self, message: Message, now: float, room: bool = True) -> Received:
        """Apply the rules to one message."""
        if not isinstance(message.body, Announcement):
            return super().offer(message, now, room)
        key = message.stream, message.of.epoch
        before = self.next(*key)
        received = super().offer(message, now, room)
        after = self.next(*key)
        if before is not None and after is not None and after < before:
            self._back(key, after)
        return received


class _Lax(_Cursors):
    """Those of a sink that nobody waits for: what is older than its lag is passed over, so that it may be deleted."""

    def __init__(self, cursors: Mapping[Key, int], back: Callable[[Key, int], None], trail: Trail) -> None:
        super().__init__(cursors, back)
        self._trail = trail

    def offer(self, message: Message, now: float, room: bool = True) -> Received:
        """Apply the rules to one message, and then the lag."""
        received = super().offer(message, now, room)
        body = message.body
        if not isinstance(body, Announcement) or message.replayed:
            return received
        self._trail.note((body.stream, body.epoch), body.newest, now)
        stood = self._trail.stood((body.stream, body.epoch), now)
        wanted = self.next(body.stream, body.epoch)
        if wanted is None or wanted > stood:
            return received
        self.move(body.stream, body.epoch, stood + 1)
        first = wanted if received.gap is None else received.gap.first
        told = f"batches {first} to {stood} of stream {body.stream!r} are passed over: this sink lags by `maxLag`"
        return Received(gap=Gap(body.stream, body.epoch, first, stood), told=told)


class Sink(ABC):
    """One destination. It is a reader of the inlet (has_room, take, missed, acknowledged); none of those ever waits."""

    pipe: Pipe

    def __init__(self, name: str, client: StreamClient, store: UnitStore, terms: Terms) -> None:
        self.name = name
        self.store = store
        self.ledger = Ledger(store.ledger(name))
        self.conditions = Conditions(f"sinks.{name}")
        self.stopping = asyncio.Event()
        self.moved: Callable[[], None] = lambda: None
        """Called when there is room again, or more is acknowledged."""
        self._client = client
        self._terms = terms
        self._trail = Trail(terms.max_lag)
        self.consumer = self._new_consumer()
        self._queue: deque[Item] = deque()
        self._queued = 0  # samples in the queue
        self._held = 0  # samples in the queue and in delivery
        self._held_bytes = 0
        self._most_bytes = max(LEAST_ROOM, terms.max_waiting * SAMPLE_BYTES)
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._pending: dict[Key, deque[Unit]] = {}  # incomplete units that wait for their ranges, in order
        self._replaced: dict[Key, float] = {}  # since when (monotonic) the stream of one of these is numbered anew
        self._oldest: float | None = None  # since when (monotonic) something waits
        self._examples: dict[str, str] = {}  # the last filtered sample of each reason
        self._missed: deque[str] = deque(maxlen=TOLD)
        self._repeats: deque[str] = deque(maxlen=TOLD)
        self._began = False
        self._tasks: list[asyncio.Task[None]] = []

    # --- the reader ---------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether a batch may come. An incomplete unit always gets its range."""
        if self._pending and self._held < 2 * PACK_SAMPLES and self._held_bytes < 4 * PACK_BYTES:
            return True
        return self._held < self._terms.max_waiting and self._held_bytes < self._most_bytes

    def take(self, batch: SampleBatch | EventBatch) -> None:
        """Take a batch; batches of one stream come in order and once."""
        if isinstance(batch, SampleBatch):
            self.ledger.receive(len(batch.columns))
        self._append(batch)
        for key in self._pending:
            if key[0] == batch.header.stream and key[1] != batch.header.epoch:
                self._replaced.setdefault(key, time.monotonic())

    def missed(self, gap: Gap) -> None:
        """Batches will never come: their producer does not keep them any more, or the sink lags too much."""
        for back, item in enumerate(reversed(self._queue), 1):
            if key_of(item) == key_of(gap):
                if isinstance(item, Gap) and item.last + 1 == gap.first:  # gaps come as long as the sink is stuck
                    self._queue[-back] = replace(item, last=gap.last)
                    return
                break
        self._append(gap)

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        """Up to which number the stream is done with, as far as this sink goes."""
        known = self.store.committed_to if self._terms.acknowledge_appended else self.store.exported_to
        done = known(self.name, stream, epoch) or 0
        return done if self._terms.required else max(done, self._lagged(stream, epoch))

    def _new_consumer(self) -> Consumer:
        cursors = self.store.cursors(self.name)
        if self._terms.required:
            return _Cursors(cursors, self._go_back)
        return _Lax(cursors, self._go_back, self._trail)

    def _go_back(self, key: Key, number: int) -> None:
        """The producer has lost numbers that it had given, and gives them again: for other batches."""
        self.store.move(self.name, *key, number)

    def _lagged(self, stream: str, epoch: str) -> int:
        if self._terms.required:
            return 0
        return self._trail.stood((stream, epoch), asyncio.get_running_loop().time())

    def _append(self, item: Item) -> None:
        samples = samples_of(item)
        self._queue.append(item)
        self._queued += samples
        self._held += samples
        self._held_bytes += bytes_of(item)
        if self._oldest is None:
            self._oldest = time.monotonic()
        self._arrived.set()
        if self._queued >= PACK_SAMPLES:
            self._enough.set()

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(self._guarded(job)) for job in self.jobs()]

    async def stop(self, limit: float) -> None:
        """Deliver what was taken, without retries, within `limit` seconds; what is left comes again after a restart."""
        self.stopping.set()
        self._arrived.set()
        self._enough.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit)
        await end(*self._tasks)
        if self.ledger.waiting:
            logger.info("sinks.%s: %d samples were not delivered and will come again", self.name, self.ledger.waiting)
        try:
            await within(0.5, self._client.close(self.let_go))
        except asyncio.TimeoutError:
            self._client.abandon()
            logger.warning("sinks.%s: a call to stream manager is still under way and is abandoned", self.name)

    def status(self) -> dict[str, Any]:
        """Condition, stream numbers, and how far the sink is."""
        units = self.store.units(self.name)
        status: dict[str, Any] = {
            **self.conditions.status(),
            **self.pipe.status(),
            "required": self._terms.required,
            "unexported_units": len(units),
            "lag_s": round(self._lag(units), 1),
            "cursors": {
                f"{stream} {epoch}": number
                for (stream, epoch), number in list(self.store.cursors(self.name).items())[-TOLD:]
            },
        }
        if self._terms.acknowledge_appended:
            status["risk"] = "ackOn: appended: a power cut that takes stream manager's unflushed tail loses samples"
        if self._pending:
            status["incomplete_units"] = sum(map(len, self._pending.values()))
        if self._missed:
            status["missed"] = list(self._missed)
        if self._repeats:
            status["may_repeat"] = list(self._repeats)
        return status

    def _lag(self, units: Sequence[Unit]) -> float:
        """Seconds since the oldest came of what is not exported."""
        waits = 0.0 if self._oldest is None else time.monotonic() - self._oldest
        decided = min((unit.decided_ns for unit in units), default=None)
        return waits if decided is None else max(waits, time.time() - decided / 1e9)

    def rewind(self) -> None:
        """Forget what is not committed: it comes again."""
        self._queue.clear()
        self._queued = self._held = self._held_bytes = 0
        self._oldest = None
        self.ledger.return_waiting()
        self.consumer = self._new_consumer()
        self.moved()

    def jobs(self) -> list[Callable[[], Awaitable[None]]]:
        """What runs side by side while the sink works; each ends soon after `stopping` is set."""
        return [self._run, self._watch]

    # --- what sinks differ in -----------------------------------------------------------------------------------------

    async def prepare(self) -> None:  # noqa: B027 - a sink may have nothing to do here
        """Resolve what an earlier run left, before anything is delivered. Raises Stopped, StreamReset."""

    @abstractmethod
    async def deliver(self, ranges: Sequence[Range]) -> None:
        """Bring ranges on their way, in order, trying until that is done, and commit or move the cursors behind them.

        Raises Stopped when stopping comes first, and StreamReset when `prepare` has to look again; then what is not
        committed is forgotten, and comes again.
        """

    async def finish(self) -> None:  # noqa: B027
        """What is to be done after the last range."""

    def let_go(self) -> None:  # noqa: B027
        """What is to be let go of at the very end, on the client's thread, where no work is under way then."""

    def lost(self) -> bool:
        """Whether a stream lost what was appended to it, so that `prepare` has to look again."""
        return self.pipe.lost_after is not None

    async def looked(self) -> None:  # noqa: B027
        """The stream and its export were looked at just now."""

    # --- for them -----------------------------------------------------------------------------------------------------

    async def encoded(self, batches: Sequence[SampleBatch], encoder: Encoder, decided_ns: int) -> Encoded:
        """The range as messages, made off the event loop. A range that cannot be encoded at all costs itself."""
        try:
            encoded = await self._client.work(lambda: encoder.encode(batches, decided_ns))
        except Exception:
            logger.exception("sinks.%s: a range of %s cannot be encoded", self.name, batches[0].header.stream)
            return Encoded((), dropped={"internal-error": count_samples(batches)})
        for reason, example in encoded.examples.items():
            if reason not in self._examples:
                logger.warning("sinks.%s: filtered (%s): %s", self.name, reason, example)
            self._examples[reason] = example
        return encoded

    def pass_over(self, part: Range) -> None:
        """Account for a range of which nothing goes anywhere, and move the cursor behind it."""
        self.ledger.events += part.events
        for gap in part.gaps:
            # What a unit that was begun lacks is counted in samples, and the cursor is behind it already.
            first = max(gap.first, self.store.cursors(self.name).get(part.key, 0))
            lag = gap.last <= self._lagged(*part.key)
            self.ledger.miss("lag" if lag else "gone", max(0, gap.last - first + 1))
            why = "it was further behind than `maxLag`" if lag else "the producer does not keep them any more"
            self._tell_missed(f"batches {first} to {gap.last} of {gap.stream} (epoch {gap.epoch}): {why}")
        self.store.move(self.name, *part.key, part.last + 1, ledger=self.ledger.kept())

    def _tell_missed(self, text: str) -> None:
        self._missed.append(f"{when(time.time())} {text}")
        logger.error("sinks.%s: never exported: %s", self.name, text)

    def _tell_repeats(self, text: str) -> None:
        self._repeats.append(f"{when(time.time())} {text}")
        logger.error("sinks.%s: may be exported twice: %s", self.name, text)

    # --- work ---------------------------------------------------------------------------------------------------------

    async def _guarded(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job until it ends; an error of ours costs time, not samples: the job begins again."""
        while True:
            try:
                await job()
                return
            except Stopped:  # noqa: PERF203 - a job fails seldom
                return
            except Exception:
                logger.exception("sinks.%s: %s failed and starts again", self.name, job.__name__)
                if await until_set(self.stopping, 1.0):
                    return

    async def _run(self) -> None:
        while True:
            if self._began:
                self.rewind()
            self._began = True
            try:
                await self.prepare()
                await self._work()
            except StreamReset:
                continue
            return

    async def _work(self) -> None:
        while not self.stopping.is_set():
            await self._arrived.wait()
            await until_set(self._enough, self._terms.pack_interval)
            await self._deliver_queue()
            if self.lost():
                raise StreamReset
        await self._deliver_queue()
        await self.finish()

    async def _deliver_queue(self) -> None:
        self._arrived.clear()
        self._enough.clear()
        while ranges := self._cut():
            await self.deliver(ranges)
            self._held -= sum(part.samples for part in ranges)
            self._held_bytes -= sum(part.bytes for part in ranges)
            self._oldest = time.monotonic() if self._queue else None
            self.moved()

    def _cut(self) -> list[Range]:
        """Take the next ranges out of the queue, together at most PACK_SAMPLES samples and PACK_BYTES, or one batch.

        Order is kept within a stream. What belongs to an incomplete unit stays until it can be completed.
        """
        ranges = self._cut_pending() if self._pending else []
        samples = size = 0
        items: list[Item] = []
        waiting: list[Item] = []
        while self._queue and samples < PACK_SAMPLES and size < PACK_BYTES:
            item = self._queue[0]
            count = samples_of(item)
            if items and samples + count > PACK_SAMPLES:
                break
            self._queue.popleft()
            if key_of(item) in self._pending:
                waiting.append(item)
                continue
            items.append(item)
            samples += count
            size += bytes_of(item)
        self._queue.extendleft(reversed(waiting))
        self._queued -= samples
        return ranges + cut(items)

    def _cut_pending(self) -> list[Range]:
        """The ranges of incomplete units that have come, or are known never to come."""
        found: list[Range] = []
        for key, units in list(self._pending.items()):
            items = [item for item in self._queue if key_of(item) == key]
            taken = 0
            while units:
                part = of_unit(items[taken:], units[0])
                if part is None and time.monotonic() - self._replaced.get(key, math.inf) >= REPLACED_AFTER:
                    part = given_up(items[taken:], units[0])
                if part is None:
                    break
                units.popleft()
                found.append(part[0])
                taken += part[1]
            places = set(map(id, items[:taken]))
            self._queue = deque(item for item in self._queue if id(item) not in places)
            self._queued -= sum(map(samples_of, items[:taken]))
            if not units:
                del self._pending[key]
                self._replaced.pop(key, None)
        return found

    async def _watch(self) -> None:
        """Look at the stream from the start on, so that what is wrong is known before there is data."""
        while True:
            await self.pipe.watch()
            await self.looked()
            if self.lost():
                self._arrived.set()
                self._enough.set()
            if await until_set(self.stopping, WATCH_INTERVAL):
                return
