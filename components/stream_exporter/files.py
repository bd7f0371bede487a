"""The S3 sink: lines go to files, a message of the stream has stream manager upload each, its status deletes it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from sluice.batch import Header, SampleBatch
from stream_exporter.lines import LineEncoder
from stream_exporter.messages import Encoded, Message
from stream_exporter.pipe import Pause, Pipe, until_set
from stream_exporter.remedies import Destination
from stream_exporter.s3 import TaskStatus, task, task_file, task_status
from stream_exporter.sink import Sink
from stream_exporter.spool import SealedFile, Spool, SpoolFullError
from stream_exporter.stream_client import StreamClient, StreamError
from stream_exporter.streams import StreamPlan

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between looks at file ages and at the status stream.
TICK = 0.5

#: Messages of a stream read at once.
PAGE = 100

#: A failed upload is ordered again after this many seconds, then after twice as long, up to the longest.
FIRST_RETASK = 15.0
LONGEST_RETASK = 600.0


class FileEncoder:
    """A range as one message: its lines. Satisfies messages.Encoder."""

    def __init__(self) -> None:
        self._lines = LineEncoder()

    def encode(self, batches: Sequence[SampleBatch], now_ns: int) -> Encoded:
        """All lines of the range, in order."""
        lines = b"".join([self._lines.encode(batch) for batch in batches])
        return Encoded((Message(lines, sum(len(batch.columns) for batch in batches)),) if lines else ())


class FileSink(Sink):
    """Files to S3. Samples count as appended when the task of their file is accepted."""

    def __init__(
        self,
        name: str,
        client: StreamClient,
        spool: Spool,
        plan: StreamPlan,
        status_plan: StreamPlan,
        destination: Destination,
        *,
        bucket: str,
        prefix: str,
        pack_interval: float,
        max_waiting: int,
        first_retask: float = FIRST_RETASK,
    ) -> None:
        super().__init__(name, client, pack_interval=pack_interval, max_waiting=max_waiting)
        self.pipe = Pipe((status_plan, plan), client, self.conditions, destination, self.stopping, report_export=False)
        self.uploaded = 0
        self.failures = 0
        self.unreadable = 0  # messages of the status stream that say nothing about a task
        self._stream = plan.name
        self._status_stream = status_plan.name
        self._destination = destination
        self._bucket = bucket
        self._prefix = prefix
        self._spool = spool
        self._encoder = FileEncoder()
        self._first_retask = first_retask
        self._recovered = asyncio.Event()
        self._finished = False
        self._sealed: deque[SealedFile] = deque()  # to be tasked, oldest first
        self._sealed_some = asyncio.Event()
        self._tasked: dict[str, SealedFile] = {}
        self._retasks: dict[str, tuple[float, float]] = {}  # file name -> (when, pause that led there)
        self._cursor = 0

    def jobs(self) -> list[Callable[[], Awaitable[None]]]:
        """With ordering uploads and looking after files."""
        return [*super().jobs(), self._order, self._look_after]

    async def deliver(self, batches: Sequence[SampleBatch]) -> bool:
        """Write the range to the stream's file; a full disk is waited for, a full spool drops it."""
        await self._recovered.wait()
        encoded = await self.encoded(batches, self._encoder)
        for message in encoded.messages:
            write = partial(self._write, batches[0].header, batches[-1].header.seq, message.payload)
            try:
                await self._on_disk(write)
            except SpoolFullError:
                self.ledger.drop("spool-full", message.samples)
                why = f"the files waiting for {self._destination.place} fill `spoolSize`: newer samples are dropped"
                self.conditions.report("spool", why, "mend what the uploads wait for, or raise `spoolSize`")
            else:
                self.conditions.clear("spool")
        await self._seal()
        return True

    async def finish(self) -> None:
        """Seal what is open and order its upload, without retries."""
        try:
            await self._seal(everything=True)
        finally:
            self._finished = True
            self._sealed_some.set()

    def lost(self) -> int:
        """None: what is written waits in files, which whoever uses the folder next finds and counts."""
        return 0

    def status(self) -> dict[str, Any]:
        """With the files."""
        return {
            **super().status(),
            "spool_bytes": self._spool.bytes,
            "files_waiting": len(self._sealed),
            "files_tasked": len(self._tasked),
            "files_uploaded": self.uploaded,
            "files_failed": self.failures,
            "status_unreadable": self.unreadable,
        }

    def _write(self, header: Header, last: int, lines: bytes) -> None:
        self._spool.write(
            header.stream, header.epoch, header.seq, last, lines, now_ns=time.time_ns(), now=time.monotonic()
        )

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _order(self) -> None:
        """Order uploads, oldest file first; ends when finished and nothing is left, or stopping and it fails."""
        if not self._recovered.is_set():
            await self._recover()
        while not (self._finished and not self._sealed):
            await self._sealed_some.wait()
            self._sealed_some.clear()
            while self._sealed:
                file = self._sealed[0]
                message = Message(task(file.path, self._bucket, file.name.key(self._prefix)), file.samples)
                if not await self.pipe.append((message,), self.ledger.append, self._refused):
                    return
                self._sealed.popleft()
                await self._remember(file)

    def _refused(self, samples: int) -> None:
        self.ledger.drop("task-too-large", samples)

    async def _remember(self, file: SealedFile) -> None:
        self._tasked[file.path.name] = file
        try:
            await self._client.work(partial(self._spool.mark_tasked, file))
        except OSError as error:
            logger.warning("%s: no marker can be written (%s): a restart may upload it again", file.path, error)

    async def _recover(self) -> None:
        try:
            waiting, tasked = await self._on_disk(self._spool.recover)
        finally:
            self._recovered.set()
        for file in waiting:
            self.ledger.receive(file.samples)
        self._tasked.update((file.path.name, file) for file in tasked)
        if not waiting:
            return
        logger.info("sinks.%s: %d files of an earlier run are waiting for their upload", self.name, len(waiting))
        known = await self._tasked_files()
        if self.stopping.is_set():
            return  # perhaps not all was read: the next run looks again
        for file in waiting:
            if file.path.name in known:
                self.ledger.append(file.samples)
                await self._remember(file)
        self._sealed.extendleft(file for file in reversed(waiting) if file.path.name not in known)
        self._sealed_some.set()

    async def _tasked_files(self) -> set[str]:
        """Names of the files that the stream holds tasks for."""
        pause = Pause(self.stopping)
        names: set[str] = set()
        cursor = 0
        while not self.stopping.is_set():
            try:
                messages = await self.pipe.read(self._stream, cursor, PAGE)
            except StreamError:
                await pause()
                continue
            if not messages:
                break
            names.update(name for message in messages if (name := task_file(message.payload)) is not None)
            cursor = messages[-1].sequence_number + 1
        return names

    # --- files and their statuses -----------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        await self._recovered.wait()
        while not await until_set(self.stopping, TICK):
            await self._seal()
            await self._read_statuses()
            self._retask(time.monotonic())

    async def _seal(self, *, everything: bool = False) -> None:
        self._add_sealed(await self._on_disk(lambda: self._spool.seal(time.monotonic(), everything=everything)))

    def _add_sealed(self, files: Iterable[SealedFile]) -> None:
        self._sealed.extend(files)
        if self._sealed:
            self._sealed_some.set()

    async def _read_statuses(self) -> None:
        while True:
            try:
                messages = await self.pipe.read(self._status_stream, self._cursor, PAGE)
                if not messages and await self.pipe.was_made_anew(self._status_stream, self._cursor):
                    self._cursor = 0
                    continue
            except StreamError:
                return
            for message in messages:
                self._cursor = message.sequence_number + 1
                status = task_status(message.payload)
                if status is None:
                    self.unreadable += 1
                else:
                    await self._settle(status)
            if len(messages) < PAGE:
                return

    async def _settle(self, status: TaskStatus) -> None:
        file = self._tasked.get(status.file)
        if file is None:
            return  # of another user of the stream, or settled before
        if status.outcome == "success":
            del self._tasked[status.file]
            self._retasks.pop(status.file, None)
            self.uploaded += 1
            if not self._retasks:
                self.conditions.clear("upload")
            await self._on_disk(partial(self._spool.delete, file))
        elif status.outcome != "under way":
            problem = self._destination.problem(status.message or status.outcome)
            self.conditions.report("upload", problem.why, problem.remedy)
            if status.outcome == "warning":
                return  # stream manager tries again by itself
            self.failures += 1
            _, pause = self._retasks.get(status.file, (0.0, self._first_retask / 2))
            pause = min(pause * 2, LONGEST_RETASK)
            self._retasks[status.file] = (time.monotonic() + pause, pause)

    def _retask(self, now: float) -> None:
        for name, (when, pause) in list(self._retasks.items()):
            if when <= now and name in self._tasked:
                self._retasks[name] = (float("inf"), pause)
                file = self._tasked[name]
                self._add_sealed([SealedFile(file.name, file.path, 0)])

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Do file work, trying until the disk takes it; after stopping the error is raised."""
        pause = Pause(self.stopping)
        while True:
            try:
                result = await self._client.work(work)
            except OSError as error:  # noqa: PERF203 - each is a call to another thread
                why = f"the files for {self._destination.place} cannot be written ({error})"
                self.conditions.report("disk", why, "free space or mend the disk of the component's work folder")
                if self.stopping.is_set():
                    raise
                await pause()
            else:
                self.conditions.clear("disk")
                return result
