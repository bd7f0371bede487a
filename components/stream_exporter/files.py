"""The S3 sink: lines go to files, a message of the stream has stream manager upload each, its status deletes it.

Theory of operation
-------------------
A range is written to the stream's open file. Nothing of that counts before the file is sealed: then its row and the
cursor behind its range are committed together, its task is appended, the task's number is committed, and with the word
of its Success it is deleted and its row removed. Each step waits until the one before is on the medium:

    sealed, flushed  ->  row  ->  task  ->  its number  ->  Success  ->  file deleted  ->  row removed

so that row and file tell after any death how far it came (`uploads.py`), and every range is in exactly one file. What
an open file held comes again. All file work is done by one task (`_run`, which also gives up open files when what is
not committed is forgotten), except deleting what is uploaded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sluice import crash
from sluice.batch import SampleBatch
from stream_exporter.lines import LineEncoder, gzip_member
from stream_exporter.messages import Encoded, Message
from stream_exporter.pipe import Pause, Pipe, Stopped, StreamReset, size_of, until_set
from stream_exporter.ranges import Range
from stream_exporter.remedies import Destination
from stream_exporter.s3 import FileName, TaskStatus, task, task_file, task_status
from stream_exporter.sink import Sink, Terms
from stream_exporter.spool import FileLostError, SealedFile, Spool
from stream_exporter.stream_client import StreamClient, StreamError
from stream_exporter.streams import StreamPlan
from stream_exporter.units import Unit, UnitStore
from stream_exporter.uploads import Recovered, Uploads, recover

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between looks at file ages and at the status stream.
TICK = 0.5

#: Messages of a stream read at once.
PAGE = 100


class FileEncoder:
    """A range as one message: its lines, plain or as one gzip member. Satisfies messages.Encoder."""

    def __init__(self, *, compress: bool) -> None:
        self._compress = compress
        self._lines = LineEncoder()

    def encode(self, batches: Sequence[SampleBatch], now_ns: int) -> Encoded:
        """All lines of the range, in order."""
        lines = b"".join([self._lines.encode(batch) for batch in batches])
        if not lines:
            return Encoded(())
        samples = sum(len(batch.columns) for batch in batches)
        return Encoded((Message(gzip_member(lines) if self._compress else lines, samples),))


class FileSink(Sink):
    """Files to S3. Samples count as appended when their file is sealed."""

    def __init__(
        self,
        name: str,
        client: StreamClient,
        store: UnitStore,
        spool: Spool,
        plan: StreamPlan,
        status_plan: StreamPlan,
        destination: Destination,
        terms: Terms,
        *,
        bucket: str,
        prefix: str,
        compress: bool,
    ) -> None:
        super().__init__(name, client, store, terms)
        self.pipe = Pipe((status_plan, plan), client, self.conditions, destination, self.stopping, report_export=False)
        self.uploads = Uploads()
        self.uploaded = 0
        self.failures = 0
        self.unreadable = 0  # messages of the status stream that say nothing about a task
        self._status_stream = status_plan.name
        self._destination = destination
        self._bucket = bucket
        self._prefix = prefix
        self._spool = spool
        self._encoder = FileEncoder(compress=compress)
        self._recovered = False
        self._full = False  # what is to be written waits for room in the spool
        self._in_doubt: tuple[Unit, ...] = ()  # of an earlier run: sealed, and perhaps tasked
        self._orders: deque[Unit] = deque()  # to be tasked, oldest first
        self._ordered = asyncio.Event()
        self._finished = False
        self._stored: dict[str, asyncio.Future[None]] = {}  # by file name: what was submitted last about it
        self._successes: list[Unit] = []  # uploaded, their files not deleted yet
        self._cursor = 0  # in the status stream

    def has_room(self) -> bool:
        """Not while the files on this device are as large as they may be."""
        return self._recovered and not self._full and self._spool.has_room and super().has_room()

    def jobs(self) -> list[Callable[[], Awaitable[None]]]:
        """With ordering uploads and looking after files."""
        return [*super().jobs(), self._order, self._look_after]

    def status(self) -> dict[str, Any]:
        """With the files."""
        return {
            **super().status(),
            "spool_bytes": self._spool.bytes,
            "files_waiting": len(self._orders),
            "files_tasked": len(self.uploads.tasked()),
            "files_uploaded": self.uploaded,
            "files_failed": self.failures,
            "status_unreadable": self.unreadable,
        }

    def let_go(self) -> None:
        """Files that could not be sealed."""
        self._spool.close()

    # --- what an earlier run left -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Compare rows and files; again in the same run: give up what is open, for it comes again."""
        if self._recovered:
            self._add(await self._on_disk(self._spool.discard))
            self._restart_stream()
            self.rewind()
            return
        files = await self._on_disk(self._spool.recover)
        found = recover(self.store.units(self.name), files, self.store.cursors(self.name))
        for name in found.deleted:
            await self._on_disk(partial(self._spool.delete, name))
        await self._account(found)
        for unit in found.tasked:
            self.uploads.add(unit)
        numbers = [unit.newest for unit in found.tasked if unit.newest is not None]
        if numbers:
            self.pipe.expect(max(numbers))
        self._restart_stream()
        for unit in found.sealed:
            self._place_order(unit)
        self._in_doubt = found.sealed
        for name in found.adopted:
            file = await self._on_disk(partial(self._spool.measure, name))
            self.ledger.receive(file.samples)
            self._take_on(file)
        self._recovered = True
        self.rewind()

    async def _account(self, found: Recovered) -> None:
        if found.exported:
            self.store.exported(found.exported)
        if found.undone:
            samples = sum(unit.samples for unit in found.undone)
            self.ledger.undo(samples, {}, {})
            self.store.undo(found.undone, found.cursors, ledger=self.ledger.kept())
            logger.error(
                "sinks.%s: %d files are gone that were not uploaded: somebody deleted them; their %d samples are read "
                "again from the producers",
                self.name,
                len(found.undone),
                samples,
            )

    # --- files --------------------------------------------------------------------------------------------------------

    async def deliver(self, ranges: Sequence[Range]) -> None:
        """Write the ranges to their streams' files; a full disk and a full spool are waited for."""
        crash.point("received")
        for part in ranges:
            decided_ns = time.time_ns()
            encoded = Encoded(())
            if part.batches:
                encoded = await self.encoded(part.batches, self._encoder, decided_ns)
            if encoded.messages:
                await self._write(part, encoded.messages[0], decided_ns)
            else:
                await self._pass_over(part, encoded)

    async def finish(self) -> None:
        """Seal what is open, so that its upload is ordered without retries."""
        self._add(await self._on_disk(lambda: self._spool.seal(time.monotonic(), everything=True)))

    async def _run(self) -> None:
        try:
            await super()._run()
        finally:
            self._finished = self.stopping.is_set()
            self._ordered.set()

    async def _deliver_queue(self) -> None:
        await super()._deliver_queue()
        self._add(await self._on_disk(lambda: self._spool.seal(time.monotonic())))

    async def _write(self, part: Range, message: Message, now_ns: int) -> None:
        while not self._spool.fits(len(message.payload)):
            self._full = True
            self._tell_room()
            self._add(await self._on_disk(lambda: self._spool.seal(time.monotonic(), everything=True)))
            if await until_set(self.stopping, TICK):
                raise Stopped
        self._full = False
        await self._on_disk(
            lambda: self._spool.write(
                *part.key,
                part.first,
                part.last,
                message.payload,
                message.samples,
                now_ns=now_ns,
                now=time.monotonic(),
            )
        )
        self._tell_room()

    def _tell_room(self) -> None:
        if self._full or not self._spool.has_room:
            why = f"the files waiting for {self._destination.place} fill `spoolSize`: what is newer waits outside"
            self.conditions.report("spool", why, "mend what the uploads wait for, or raise `spoolSize`")
        elif self.conditions.get("spool") is not None:
            self.conditions.clear("spool")
            self.moved()

    async def _pass_over(self, part: Range, encoded: Encoded) -> None:
        """Nothing of the range is to be written: the cursor moves behind it once what comes before is sealed."""
        self._add(await self._on_disk(lambda: self._spool.seal_stream(part.stream)))
        for reason, samples in encoded.dropped.items():
            self.ledger.drop(reason, samples)
        self.pass_over(part)

    def _add(self, files: Sequence[SealedFile]) -> None:
        for file in files:
            self._take_on(file)

    def _take_on(self, file: SealedFile) -> None:
        """Commit the file's row, and order its upload."""
        name = file.name
        assert name.last is not None
        unit = Unit(
            sink=self.name,
            number=self.store.next_number(self.name),
            stream=name.stream,
            epoch=name.epoch,
            first=name.first,
            last=name.last,
            samples=file.samples,
            messages=1,
            bytes=size_of(self._task(name)),
            settings=str(name),
            decided_ns=name.opened_ns,
            noted=self.pipe.newest,
        )
        self.ledger.append(file.samples)
        self._stored[unit.settings] = self.store.commit(unit, None, ledger=self.ledger.kept())
        self._place_order(unit)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Do file work, trying until the disk takes it. Raises Stopped, and StreamReset for what is to come again."""
        pause = Pause(self.stopping)
        while True:
            try:
                result = await self._client.work(work)
            except OSError as error:  # noqa: PERF203 - each is a call to another thread
                why = f"the files for {self._destination.place} cannot be written ({error})"
                self.conditions.report("disk", why, "free space or mend the disk of the component's work folder")
                await pause()
                if self.stopping.is_set():
                    raise Stopped from error
                if isinstance(error, FileLostError):
                    raise StreamReset from error
            else:
                self.conditions.clear("disk")
                return result

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _task(self, name: FileName) -> Message:
        return Message(task(self._spool.path(name), self._bucket, name.key(self._prefix)), 0)

    def _place_order(self, unit: Unit) -> None:
        self.uploads.add(unit)
        self._orders.append(unit)
        self._ordered.set()

    async def _order(self) -> None:
        """Order uploads, oldest file first; ends when finished and nothing is left, or stopping and it fails."""
        while not (self._finished and not self._orders):
            await self._ordered.wait()
            self._ordered.clear()
            while self._orders:
                try:
                    await self._find_tasks()
                    await self._order_one(self._orders[0])
                except StreamReset:  # noqa: PERF203 - a stream is seldom lost
                    self._restart_stream()
                else:
                    self._orders.popleft()

    async def _order_one(self, unit: Unit) -> None:
        await self._on_medium(unit)
        crash.point("sealed")
        name = FileName.parse(unit.settings)
        if name is None or not self.uploads.waits(unit.settings):
            return  # its Success was told already, or its task was found
        number = await self.pipe.append((self._task(name),))
        crash.point("appended")
        if unit.settings in self.uploads:
            self._note_task(unit, number)
            await self._on_medium(unit)
            crash.point("committed")

    async def _find_tasks(self) -> None:
        """Look for tasks that were appended by an earlier run which did not live to note it."""
        if not self._in_doubt:
            return
        found = await self.pipe.read_back(max(0, min(unit.noted for unit in self._in_doubt) + 1))
        numbers = {task_file(message.payload): message.sequence_number for message in found}
        for unit in self._in_doubt:
            if unit.settings in numbers and unit.settings in self.uploads:
                self._note_task(unit, numbers[unit.settings])
        self._in_doubt = ()

    def _note_task(self, unit: Unit, number: int) -> None:
        self._stored[unit.settings] = self.store.commit(unit, number, ledger=self.ledger.kept())
        self.uploads.add(replace(unit, newest=number))

    async def _on_medium(self, unit: Unit) -> None:
        stored = self._stored.get(unit.settings)
        if stored is not None:
            await asyncio.shield(stored)

    def _restart_stream(self) -> None:
        """The stream has lost tasks: order again what it lost."""
        if self.pipe.lost_after is not None:
            self.uploads.lose(self.pipe.lost_after, time.monotonic())
        self.pipe.restart((number, unit.bytes) for number, unit in self.uploads.tasked())

    async def looked(self) -> None:
        """Note what is exported, and what is lost."""
        if self.pipe.lost_after is not None:
            self._restart_stream()
        if self.pipe.exported is not None:
            self.uploads.look(self.pipe.exported, time.monotonic())

    # --- statuses -----------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        while not await until_set(self.stopping, TICK):
            if self._spool.due(time.monotonic()):
                self._arrived.set()
                self._enough.set()
            if self._recovered:
                await self._read_statuses()
                await self._delete_uploaded()
                self._tell_room()
                for unit in self.uploads.due(time.monotonic()):
                    self._orders.append(unit)
                    self._ordered.set()

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
                    self._hear(status)
            if len(messages) < PAGE:
                return

    def _hear(self, status: TaskStatus) -> None:
        if status.file not in self.uploads:
            return  # of another user of the stream, or settled before
        unit = self.uploads.tell(status, time.monotonic())
        if unit is not None:
            self.uploaded += 1
            if unit.newest is None:
                # Its task got no answer yet, or was appended by a run that did not live to note it.
                self._stored[unit.settings] = self.store.commit(unit, 0, ledger=self.ledger.kept())
            self._successes.append(unit)
            if not self.uploads.failing:
                self.conditions.clear("upload")
        elif status.outcome != "under way":
            problem = self._destination.problem(status.message or status.outcome)
            self.conditions.report("upload", problem.why, problem.remedy)
            self.failures += status.outcome != "warning"  # stream manager tries again by itself

    async def _delete_uploaded(self) -> None:
        """Delete what is uploaded, unless its row does not say yet, on the medium, that it was tasked."""
        waiting: list[Unit] = []
        for unit in self._successes:
            if not _is_done(self._stored.get(unit.settings)):
                waiting.append(unit)
                continue
            crash.point("uploaded")
            name = FileName.parse(unit.settings)
            if name is not None:
                await self._on_disk(partial(self._spool.delete, name))
            self._stored.pop(unit.settings, None)
            self.store.exported((unit,)).add_done_callback(self._exported)
        self._successes = waiting

    def _exported(self, stored: asyncio.Future[None]) -> None:
        if _is_done(stored):
            crash.point("exported")
            self.moved()


def _is_done(stored: asyncio.Future[None] | None) -> bool:
    """Whether what was submitted, if anything was, is on the medium."""
    return stored is None or (stored.done() and not stored.cancelled() and stored.exception() is None)
