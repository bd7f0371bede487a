"""What all exports share: when a batch goes out, in what order, how it is retried, and how far each export got.

A batch goes out when it is as large as `batchSize`, when its oldest message is `batchIntervalMillis` old, or at once if
no interval is set. Of the exports that are ready, those with the lower `priority` number get one of the five workers
first. What the destination does not take is tried again for ever, ever more slowly, up to every five minutes; the
position moves when the whole batch is done. Exporting frees no space.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from localcore import clock
from localcore.stream_manager.definition import ExportConfig
from localcore.stream_manager.store import Message
from localcore.stream_manager.streams import Stream, Streams

logger = logging.getLogger(__name__)

WORKERS = 5
FIRST_RETRY_S = 1.0
SLOWEST_RETRY_S = 300.0

LINGER_S = 0.01
"""What an export that is ready at once waits for company: at thousands of appends a second it halves the cost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    again: messages to try again. skipped: messages given up, which no retry would help.
    error: the problem, for a person.
    done: called in the event loop when the position behind the batch was noted.
    """

    again: Sequence[Message] = ()
    skipped: Sequence[Message] = ()
    error: str | None = None
    done: Callable[[], None] | None = None


class Destination(Protocol):
    """Where an export sends its batches. `send` runs in a worker thread, one call at a time, and need not catch.

    max_batch_bytes: the most payload in one batch. pause_s: the least time between two calls.
    position_at_once: whether the position must be on the medium before the next step.
    """

    max_batch_bytes: int
    pause_s: float
    position_at_once: bool

    def send(self, messages: Sequence[Message]) -> Outcome: ...


class PriorityGate:
    """Lets a limited number in at a time, the lowest priority number first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def enter(self, priority: int) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Exporter:
    """One export of one stream."""

    def __init__(
        self,
        stream: Stream,
        config: ExportConfig,
        destination: Destination,
        gate: PriorityGate,
        workers: ThreadPoolExecutor,
        time_scale: float,
    ) -> None:
        self.config = config
        self._stream = stream
        self._destination = destination
        self._gate = gate
        self._workers = workers
        self._scale = time_scale
        self._called_at = -float("inf")
        self._ending = False

    async def run(self) -> None:
        """Exports until cancelled; a call that is under way is waited for and counts."""
        while not self._ending:
            batch = await self._batch()
            pending: Sequence[Message] = batch
            skipped = 0
            retry_s = FIRST_RETRY_S
            while pending and not self._ending:
                outcome = await self._send(pending)
                position = self._stream.positions.get(self.config.identifier)
                if position is None:  # an update left this export out
                    return
                position.last_time_ms = clock.now_ms()
                position.error = outcome.error
                skipped += sum(len(message.payload) for message in outcome.skipped)
                if len(outcome.again) < len(pending):
                    retry_s = FIRST_RETRY_S
                pending = outcome.again
                if not pending:
                    position.last_exported = batch[-1].sequence
                    position.exported_messages += len(batch)
                    position.exported_bytes += sum(len(message.payload) for message in batch) - skipped
                    self._stream.exported(at_once=self._destination.position_at_once)
                    if outcome.done is not None:
                        outcome.done()
                elif not self._ending:
                    logger.warning("export %s: retry in %g s: %s", self.config.identifier, retry_s, outcome.error)
                    await asyncio.sleep(retry_s * self._scale)
                    retry_s = min(2 * retry_s, SLOWEST_RETRY_S)

    async def _batch(self) -> list[Message]:
        """Waits until a batch is due and reads it."""
        config, stream = self.config, self._stream
        appended = asyncio.Event()
        stream.on_append.append(appended.set)
        lingered = False
        try:
            while True:
                appended.clear()
                messages = stream.pending(config.identifier, config.batch_size, self._destination.max_batch_bytes)
                wait_s = None
                if messages:
                    if len(messages) >= config.batch_size or (config.batch_interval_ms is None and lingered):
                        return messages
                    if config.batch_interval_ms is None:
                        lingered = True
                        await asyncio.sleep(LINGER_S)
                        continue
                    age_ms = clock.now_ms() - messages[0].ingest_ms
                    wait_s = (config.batch_interval_ms * self._scale - age_ms) / 1000
                    if wait_s <= 0 or messages[-1].sequence < stream.newest:
                        return messages
                try:
                    await asyncio.wait_for(appended.wait(), wait_s)
                except asyncio.TimeoutError:
                    continue
        finally:
            stream.on_append.remove(appended.set)

    async def _send(self, messages: Sequence[Message]) -> Outcome:
        loop = asyncio.get_running_loop()
        pause_s = self._called_at + self._destination.pause_s * self._scale - loop.time()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        async with self._gate.enter(self.config.priority):
            self._called_at = loop.time()
            call = loop.run_in_executor(self._workers, self._call, messages)
            try:
                return await asyncio.shield(call)
            except asyncio.CancelledError:
                self._ending = True
                return await call

    def _call(self, messages: Sequence[Message]) -> Outcome:
        try:
            return self._destination.send(messages)
        except Exception as error:  # noqa: BLE001 - whatever it is, the documentation says that exports go on for ever
            return Outcome(again=messages, error=f"{type(error).__name__}: {error}")


class Exports:
    """The exporters of all streams, as their definitions have them.

    make: builds the destination of an export for a stream.
    """

    def __init__(
        self,
        streams: Streams,
        make: Mapping[str, Callable[[Stream, ExportConfig], Destination]],
        *,
        time_scale: float = 1.0,
    ) -> None:
        self._streams = streams
        self._make = make
        self._scale = time_scale
        self._gate = PriorityGate(WORKERS)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="export")
        self._running: dict[tuple[str, str], tuple[ExportConfig, asyncio.Task[None]]] = {}

    def follow(self, stream: Stream) -> None:
        """Starts, stops and replaces exporters after a stream was created, updated, deleted or found at the start."""
        name = stream.definition.name
        kept = name in self._streams.names()
        wanted = {e.identifier: e for e in stream.definition.exports if kept and not e.disabled}
        replaced: dict[str, asyncio.Task[None]] = {}
        for key, (config, task) in list(self._running.items()):
            if key[0] == name and wanted.get(key[1]) != config:
                task.cancel()
                replaced[key[1]] = task
                del self._running[key]
        for identifier, config in wanted.items():
            if (name, identifier) not in self._running:
                destination = self._make[config.kind](stream, config)
                exporter = Exporter(stream, config, destination, self._gate, self._workers, self._scale)
                run = _run_after(replaced.get(identifier), exporter)
                task = asyncio.get_running_loop().create_task(run, name=f"export {identifier}")
                task.add_done_callback(_log_failure)
                self._running[name, identifier] = (config, task)

    async def stop(self) -> None:
        """Ends all exports; calls under way are waited for."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._workers.shutdown(wait=False)


async def _run_after(former: asyncio.Task[None] | None, exporter: Exporter) -> None:
    if former is not None:
        await asyncio.wait([former])
    await exporter.run()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s ended", task.get_name(), exc_info=error)
