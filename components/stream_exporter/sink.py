"""What every sink does: take batches as they come, pack them for a while, deliver range by range, keep the ledger.

Each sink has its own queue, its own client of stream manager on its own thread, and its own task: a sink that is slow,
broken or waiting for its destination holds no other. Its queue is bounded; what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sluice.batch import SampleBatch, ValueType
from sluice.tasks import end, within
from stream_exporter.conditions import Conditions
from stream_exporter.ledger import Ledger
from stream_exporter.messages import Encoded, Encoder
from stream_exporter.pipe import Pipe, until_set
from stream_exporter.stream_client import StreamClient

logger = logging.getLogger(__name__)

#: Samples that are packed at most, so that one range stays small in memory.
PACK_SAMPLES = 20_000

#: Seconds between looks at the stream and its export.
WATCH_INTERVAL = 2.0

#: What waits is bounded in bytes too, roughly: texts may be long, and many small batches cost more than their samples.
SAMPLE_BYTES = 64
BATCH_BYTES = 1024
LEAST_ROOM = 16 << 20


class Sink(ABC):
    """One destination. `run` works until `stop`; `offer` never waits."""

    pipe: Pipe

    def __init__(self, name: str, client: StreamClient, *, pack_interval: float, max_waiting: int) -> None:
        self.name = name
        self.ledger = Ledger()
        self.conditions = Conditions(f"sinks.{name}")
        self.stopping = asyncio.Event()
        self._client = client
        self._pack_interval = pack_interval
        self._max_waiting = max_waiting
        self._queue: list[SampleBatch] = []
        self._queued = 0  # samples in the queue
        self._ranges: deque[list[SampleBatch]] = deque()  # taken out of the queue, not in delivery yet
        self._held = 0  # samples in the queue and in delivery
        self._held_bytes = 0
        self._most_bytes = max(LEAST_ROOM, max_waiting * SAMPLE_BYTES)
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._examples: dict[str, str] = {}  # the last filtered sample of each reason
        self._tasks: list[asyncio.Task[None]] = []

    def offer(self, batch: SampleBatch) -> None:
        """Take a batch, or drop it when too much is waiting."""
        samples = len(batch.columns)
        self.ledger.receive(samples)
        size = bytes_of(batch)
        if self._held + samples > self._max_waiting or self._held_bytes + size > self._most_bytes:
            self.ledger.drop("queue-full", samples)
            why = "samples are waiting, as many as `maxWaiting` allows, or as large: newer ones are dropped"
            self.conditions.report("queue", why, "mend what the sink waits for, or raise `maxWaiting`")
            return
        self._queue.append(batch)
        self._queued += samples
        self._held += samples
        self._held_bytes += size
        self._arrived.set()
        if self._queued >= PACK_SAMPLES:
            self._enough.set()

    def undelivered(self) -> list[SampleBatch]:
        """After `stop`: the batches of which nothing was delivered, in order."""
        return [batch for part in (*self._ranges, self._queue) for batch in part]

    def lost(self) -> int:
        """After `stop`: samples that are in doubt or were given up; what `undelivered` gives is not among them."""
        return self.ledger.waiting - count_samples(self.undelivered())

    def take_over(self, predecessor: Sink) -> None:
        """Take what a sink that has stopped could not deliver, before what was offered here already."""
        lost = predecessor.lost()
        self.ledger.receive(lost)
        self.ledger.drop("changed", lost)
        batches = predecessor.undelivered()
        self.ledger.receive(count_samples(batches))
        self._queue[:0] = batches
        self._queued += count_samples(batches)
        self._held += count_samples(batches)
        self._held_bytes += sum(map(bytes_of, batches))
        if batches:
            self._arrived.set()

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(self._guarded(job)) for job in self.jobs()]

    async def stop(self, limit: float) -> None:
        """Deliver what was taken, without retries, within `limit` seconds; what is left stays counted as waiting."""
        self.stopping.set()
        self._arrived.set()
        self._enough.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit)
        await end(*self._tasks)
        if self.ledger.waiting:
            logger.warning("sinks.%s: %d samples were not delivered before the stop", self.name, self.ledger.waiting)
        try:
            await within(0.5, self._client.close())
        except asyncio.TimeoutError:
            logger.warning("sinks.%s: a call to stream manager is still under way and is abandoned", self.name)

    def status(self) -> dict[str, Any]:
        """Condition and stream numbers, as a status shows a connection."""
        return {**self.conditions.status(), **self.pipe.status()}

    async def encoded(self, batches: Sequence[SampleBatch], encoder: Encoder) -> Encoded:
        """The range as messages, made now, off the event loop; what is filtered is accounted for.

        A range that cannot be encoded at all is dropped: it costs itself.
        """
        now_ns = time.time_ns()
        try:
            encoded = await self._client.work(lambda: encoder.encode(batches, now_ns))
        except Exception:
            logger.exception("sinks.%s: a range of %s cannot be encoded", self.name, batches[0].header.stream)
            self.ledger.drop("internal-error", count_samples(batches))
            return Encoded(())
        self.ledger.filter(encoded.filtered)
        for reason, example in encoded.examples.items():
            if reason not in self._examples:
                logger.warning("sinks.%s: filtered (%s): %s", self.name, reason, example)
            self._examples[reason] = example
        return encoded

    def jobs(self) -> list[Callable[[], Awaitable[None]]]:
        """What runs side by side while the sink works; each ends soon after `stopping` is set."""
        return [self._run, self._watch]

    @abstractmethod
    async def deliver(self, batches: Sequence[SampleBatch]) -> bool:
        """Bring one contiguous range of one input stream on its way, trying until that is done or stopping is set.

        False when stopping came first and nothing of the range went anywhere.
        """

    async def finish(self) -> None:  # noqa: B027 - most sinks have nothing to do here
        """What is to be done after the last range."""

    async def _guarded(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job until it ends; an error of ours costs what it was about, not the sink."""
        while True:
            try:
                await job()
                return
            except Exception:  # noqa: PERF203 - a job fails seldom
                logger.exception("sinks.%s: %s failed and starts again", self.name, job.__name__)
                if await until_set(self.stopping, 1.0):
                    return

    async def _run(self) -> None:
        while not self.stopping.is_set():
            await self._arrived.wait()
            await until_set(self._enough, self._pack_interval)
            await self._deliver_queue()
        await self._deliver_queue()
        await self.finish()

    async def _deliver_queue(self) -> None:
        batches, self._queue, self._queued = self._queue, [], 0
        self._arrived.clear()
        self._enough.clear()
        self._ranges.extend(ranges(batches))
        while self._ranges:
            part = self._ranges.popleft()
            try:
                if not await self.deliver(part):
                    self._ranges.appendleft(part)
                    return
            except Exception:
                logger.exception("sinks.%s: delivering failed", self.name)
            self._held -= count_samples(part)
            self._held_bytes -= sum(map(bytes_of, part))
            if self._held < self._max_waiting // 2:
                self.conditions.clear("queue")

    async def _watch(self) -> None:
        """Look at the stream from the start on, so that what is wrong is known before there is data."""
        await self.pipe.watch()
        while not await until_set(self.stopping, WATCH_INTERVAL):
            await self.pipe.watch()


def ranges(batches: Sequence[SampleBatch]) -> list[list[SampleBatch]]:
    """The batches as contiguous ranges of one input stream each, at most PACK_SAMPLES samples (or one batch) in one.

    Order is kept within a stream.
    """
    open_ranges: dict[tuple[str, str], list[SampleBatch]] = {}
    sizes: dict[tuple[str, str], int] = {}
    found: list[list[SampleBatch]] = []
    for batch in batches:
        key = (batch.header.stream, batch.header.epoch)
        current = open_ranges.get(key)
        size = len(batch.columns)
        follows = current is not None and current[-1].header.seq + 1 == batch.header.seq
        if current is not None and follows and sizes[key] + size <= PACK_SAMPLES:
            current.append(batch)
            sizes[key] += size
        else:
            open_ranges[key] = [batch]
            sizes[key] = size
            found.append(open_ranges[key])
    return found


def bytes_of(batch: SampleBatch) -> int:
    """About how much memory a batch takes while it waits."""
    columns = batch.columns
    texts = 0
    if columns.type is ValueType.STRING:
        texts = sum(map(len, filter(None, columns.value.tolist())))
    return BATCH_BYTES + SAMPLE_BYTES * len(columns) + texts


def count_samples(batches: Sequence[SampleBatch]) -> int:
    """Samples of a range."""
    return sum(len(batch.columns) for batch in batches)
