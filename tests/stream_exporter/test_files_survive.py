"""Whatever happens to the S3 sink and around it, each sample is in exactly one object.

The sink's own code runs on its own store and its own folder; stream manager, S3 and the medium are models in memory
that do what they may: lose what was not flushed, answer or not, tell late, twice or never. A sink is killed wherever it
just is, also at each crash point; what it had submitted and nobody had flushed is gone.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stream_manager import S3ExportTaskExecutorConfig, StatusConfig, StatusLevel

from sluice import crash
from sluice.batch import Header, Sample, SampleBatch, from_samples
from stream_exporter import files, pipe, remedies, sink, units
from stream_exporter.files import FileSink
from stream_exporter.sink import Terms
from stream_exporter.spool import Spool
from stream_exporter.stream_client import Appended, NoSuchStream, StoredMessage, Uncertain, Unreachable
from stream_exporter.streams import StreamPlan
from stream_exporter.units import UnitStore

EPOCH = "9f2c51aa07be"
STREAMS = ("opcua-collector/line1", "opcua-collector/line2")
TASKS, STATUSES = "SluiceS3", "SluiceS3Status"
POINTS = ("received", "sealed", "appended", "committed", "uploaded", "exported")
EXPORT = S3ExportTaskExecutorConfig(
    identifier="sluice",
    priority=5,
    disabled=False,
    status_config=StatusConfig(status_level=StatusLevel.INFO, status_stream_name=STATUSES),
)


class Medium:
    """What is on the disk of the exporter's store: works are done when they are flushed, and lost when it is killed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement in units._SCHEMA:
            self.connection.execute(statement)

    def open(self) -> Any:
        return Database(self.connection, self._seconds)


class Database:
    """Satisfies what UnitStore uses of sluice.database.Database; a work takes `seconds` to be durable."""

    trouble = remedy = ""
    aside = None
    path = Path("exporter.db")

    def __init__(self, connection: sqlite3.Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._waiting: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self.dead = False

    def submit(self, work: Callable[[sqlite3.Connection], Any], *, ahead: bool = False) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((work, done))
        loop.call_later(self._seconds, self._flush)
        return done

    def _flush(self) -> None:
        if not self.dead and self._waiting:
            work, done = self._waiting.pop(0)
            done.set_result(work(self._connection))

    async def read(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return work(self._connection)


class Cloud:
    """Stream manager and S3: messages by stream, the position of the export, objects by key."""

    def __init__(self, *, quick: bool) -> None:
        self.messages: dict[str, list[bytes]] = {}
        self.definitions: dict[str, Any] = {}
        self.exported = -1
        self.objects: dict[str, bytes] = {}
        self.answers = "yes"  # else "lost": done without an answer; "refused": not done; "away"
        self.quick = quick  # exports at once

    def export(self, *, fails: bool = False, silent: bool = False) -> None:
        """Do the next task: upload its file, tell it."""
        tasks = self.messages.get(TASKS, [])
        if self.exported + 1 >= len(tasks):
            return
        self.exported += 1
        task = json.loads(tasks[self.exported])
        path = Path(unquote(urlsplit(task["inputUrl"]).path))
        done = not fails and path.exists()
        if done:
            self.objects[task["key"]] = path.read_bytes()
        if not silent:
            status = {"eventType": 0, "statusLevel": 2, "status": 0 if done else 1, "message": "" if done else "no"}
            content = {**status, "statusContext": {"s3ExportTaskDefinition": task}}
            self.messages.setdefault(STATUSES, []).append(json.dumps(content).encode())

    def lose_tails(self, count: int) -> None:
        """A power cut: the newest messages were not on the medium."""
        for kept in self.messages.values():
            del kept[len(kept) - min(count, len(kept)) :]
        self.exported = min(self.exported, len(self.messages.get(TASKS, [])) - 1)

    def lines(self) -> dict[tuple[str, int], list[str]]:
        """What each object holds: stream and first number -> `<stream> <number>.<index>` of each line."""
        found = {}
        for key, content in self.objects.items():
            stream = "/".join(key.split("/")[:2])
            ids = [json.loads(line)["id"] for line in gzip.decompress(content).splitlines()]
            first = int(ids[0].split(".")[1])
            assert (stream, first) not in found, f"two objects begin at {stream} {first}"
            found[stream, first] = [f"{stream} {identity.removeprefix(EPOCH + '.')}" for identity in ids]
        return found


class Info:
    """What describe says."""

    def __init__(self, definition: Any, newest: int, exported: int | None) -> None:
        self.definition = definition
        self.storage_status = mock.Mock(newest_sequence_number=newest, total_bytes=0)
        status = mock.Mock(
            export_config_identifier="sluice",
            last_exported_sequence_number=exported,
            exported_messages_count=0,
            error_message=None,
        )
        self.export_statuses = [] if exported is None else [status]


class Client:
    """Satisfies what a sink uses of StreamClient."""

    rebuilt = 1

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def _call(self) -> None:
        await asyncio.sleep(0)
        if self._cloud.answers == "away":
            raise Unreachable("away", "wait")

    async def describe(self, stream: str) -> Info:
        await self._call()
        if stream not in self._cloud.definitions:
            raise NoSuchStream("no such stream", "make it")
        newest = len(self._cloud.messages.get(stream, [])) - 1
        return Info(self._cloud.definitions[stream], newest, self._cloud.exported if stream == TASKS else None)

    async def create(self, definition: Any) -> None:
        await self._call()
        self._cloud.definitions[definition.name] = definition

    async def read(self, stream: str, start: int, count: int) -> list[StoredMessage]:
        await self._call()
        if stream not in self._cloud.definitions:
            raise NoSuchStream("no such stream", "make it")
        kept = self._cloud.messages.get(stream, [])
        return [StoredMessage(number, kept[number]) for number in range(start, min(start + count, len(kept)))]

    async def append_all(self, stream: str, payloads: Any, connection: int) -> Appended:
        assert connection == self.rebuilt
        answers, self._cloud.answers = self._cloud.answers, "yes"
        await asyncio.sleep(0)
        if answers == "away" or stream not in self._cloud.definitions:
            self._cloud.answers = answers
            return Appended(0, None, Unreachable("away", "wait"))
        if answers != "refused":
            self._cloud.messages.setdefault(stream, []).extend(payloads)
            if self._cloud.quick:
                self._cloud.export()
        if answers != "yes":
            return Appended(0, None, Uncertain("no answer", "wait"))
        return Appended(len(payloads), len(self._cloud.messages[stream]) - 1, None)

    async def work(self, function: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return function()

    async def close(self) -> None: ...


class World:
    """A sink with what it lives on. `outbox` is what the producer keeps, per stream: number -> batch.

    quick: whether stream manager exports at once; seconds: what the sink's store takes to flush.
    """

    def __init__(self, folder: Path, *, quick: bool, seconds: float) -> None:
        self.folder = folder
        self.cloud = Cloud(quick=quick)
        self.medium = Medium(seconds)
        self.outbox: dict[str, dict[int, SampleBatch]] = {stream: {} for stream in STREAMS}
        self.offered: list[str] = []
        self.newest = dict.fromkeys(STREAMS, 0)
        self.seen: dict[str, bytes] = {}  # sealed files
        self.sink: Any = None
        self.database: Any = None
        self._armed: str | None = None
        self.died = False

    async def start(self, spool_size: int = 10**9) -> None:
        self.died = False
        self.database = self.medium.open()
        store = UnitStore(self.database)
        await store._load()
        store.adopt("s3", "s3")
        client: Any = Client(self.cloud)
        self.sink = FileSink(
            "s3",
            client,
            store,
            Spool(self.folder, max_bytes=spool_size, rotate_size=400, rotate_interval=1e9),
            StreamPlan(TASKS, 256 << 20, 1 << 20, EXPORT),
            StreamPlan(STATUSES, 4 << 20, 1 << 20),
            remedies.s3("archive"),
            Terms(pack_interval=0.0, max_waiting=100_000),
            bucket="archive",
            prefix="",
            compress=True,
        )
        self.sink.uploads.silence = 0.02
        self.sink.uploads.first_pause = 0.001
        self.sink.start()

    def point(self, name: str) -> None:
        if name == self._armed:
            self._armed = None
            self.database.dead = self.died = True
            raise asyncio.CancelledError

    def produce(self, stream: str, count: int) -> None:
        for _ in range(count):
            self.newest[stream] += 1
            number = self.newest[stream]
            (columns,) = from_samples([Sample(f"T{n}", 1_769_860_800 * 10**9 + n, float(number)) for n in range(2)])
            self.outbox[stream][number] = SampleBatch(Header(stream, EPOCH, number), columns)
            self.offered += [f"{stream} {number}.{n}" for n in range(2)]

    def tasked(self, file: str) -> bool:
        """Whether anybody was ever told to upload the file: only then it may count as uploaded when it is gone."""
        rows = self.medium.connection.execute("SELECT newest FROM units WHERE settings = ?", (file,)).fetchall()
        return any(newest is not None for (newest,) in rows) or file in str(self.cloud.messages.get(TASKS))

    def pump(self) -> None:
        """What the inlet does: offer what is wanted, acknowledge, delete."""
        for stream, kept in self.outbox.items():
            acked = self.sink.acknowledged(stream, EPOCH) or 0
            done = [number for number in kept if number <= acked]
            uploaded = {line for lines in self.cloud.lines().values() for line in lines} if done else set()
            for number in done:
                assert f"{stream} {number}.0" in uploaded, f"{stream} {number} was acknowledged and is nowhere"
                del kept[number]
            if self.sink.consumer.next(stream, EPOCH) is None:
                self.sink.consumer.move(stream, EPOCH, min(kept, default=self.newest[stream] + 1))
            while self.sink.has_room():
                number = self.sink.consumer.next(stream, EPOCH)
                if number not in kept:
                    assert number > self.newest[stream], f"{stream} {number} is wanted and was deleted"
                    break
                self.sink.consumer.move(stream, EPOCH, number + 1)
                self.sink.take(kept[number])

    async def run(self, turns: int) -> None:
        for _ in range(turns):
            if self.died:
                await self.kill()
                await self.start()
            self.pump()
            for path in self.folder.glob("*.gz"):
                if path.name not in self.seen:
                    self.seen[path.name] = path.read_bytes()
            await asyncio.sleep(0.0005)

    async def kill(self) -> None:
        """SIGKILL: nothing is closed, nothing that was not flushed is stored."""
        self.database.dead = True
        for task in self.sink._tasks:
            task.cancel()
        await asyncio.gather(*self.sink._tasks, return_exceptions=True)
        for file in self.sink._spool._open.values():
            os.close(file.descriptor)

    def cut_power(self, tail: int, deleted: int) -> None:
        """The medium never got what was written to open files, the newest messages, and some deletions of files."""
        for path in self.folder.glob("*.part"):
            path.write_bytes(path.read_bytes()[: tail * 7])
        self.cloud.lose_tails(tail)
        gone = [name for name in self.seen if not (self.folder / name).exists()]
        for name in gone[len(gone) - deleted :]:
            (self.folder / name).write_bytes(self.seen[name])

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("produce", stream, count):
                self.produce(stream, count)
            case ("rotate", turns):
                self.sink._spool._rotate_interval = 0.0
                await self.run(turns)
                self.sink._spool._rotate_interval = 1e9
            case ("kill", after):
                await self.run(after)
                await self.kill()
                await self.start()
            case ("crash", point):
                self._armed = point
            case ("power cut", tail, deleted):
                await self.kill()
                self.cut_power(tail, deleted)
                await self.start()
            case ("export", fails, silent):
                self.cloud.export(fails=fails, silent=silent)
            case ("tell again", count):
                told = self.cloud.messages.get(STATUSES, [])
                told.extend(told[-count:])
            case ("delete streams",):
                self.cloud.messages.clear()
                self.cloud.definitions.clear()
                self.cloud.exported = -1
            case ("delete status stream",):
                self.cloud.messages.pop(STATUSES, None)
                self.cloud.definitions.pop(STATUSES, None)
            case ("answers", how):
                self.cloud.answers = how
            case ("fsync fails", after):
                effects = [None] * after + [OSError(errno.EIO, "I/O error")] + [None] * 1000
                with mock.patch.object(os, "fsync", mock.Mock(side_effect=effects)):
                    await self.do(("rotate", 8))
            case ("somebody deletes a file", index):
                await self.kill()
                for path in sorted(self.folder.glob("*.jsonl.gz"))[index : index + 1]:
                    if not self.tasked(path.name):
                        path.unlink()
                await self.start()

    async def settle(self) -> None:
        """Let everything heal; all that was produced must be acknowledged."""
        self._armed = None
        self.cloud.answers = "yes"
        deadline = time.monotonic() + 20.0
        while any(self.outbox.values()) or any(self.folder.iterdir()):
            assert time.monotonic() < deadline, (self.sink.status(), self.sink.ledger.status())
            self.sink._spool._rotate_interval = 0.0
            self.cloud.export()
            await self.run(2)

    def check(self) -> None:
        arrived = [line for _, lines in sorted(self.cloud.lines().items()) for line in lines]
        assert arrived == [line for stream in STREAMS for line in self.offered if line.startswith(stream)]
        ledger = self.sink.ledger.status()
        assert (ledger["received"], ledger["appended"], ledger["waiting"]) == (len(arrived), len(arrived), 0)
        assert self.sink.store.units("s3") == []


STEP = st.one_of(
    st.tuples(st.just("produce"), st.sampled_from(STREAMS), st.integers(1, 8)),
    st.tuples(st.just("produce"), st.sampled_from(STREAMS), st.integers(1, 8)),
    st.tuples(st.just("rotate"), st.integers(1, 8)),
    st.tuples(st.just("rotate"), st.integers(1, 8)),
    st.tuples(st.just("kill"), st.integers(0, 8)),
    st.tuples(st.just("crash"), st.sampled_from(POINTS)),
    st.tuples(st.just("power cut"), st.integers(0, 5), st.integers(0, 3)),
    st.tuples(st.just("export"), st.booleans(), st.booleans()),
    st.tuples(st.just("export"), st.just(False), st.just(False)),
    st.tuples(st.just("tell again"), st.integers(1, 4)),
    st.tuples(st.just("delete streams")),
    st.tuples(st.just("delete status stream")),
    st.tuples(st.just("answers"), st.sampled_from(["lost", "refused", "away", "yes"])),
    st.tuples(st.just("fsync fails"), st.integers(0, 3)),
    st.tuples(st.just("somebody deletes a file"), st.integers(0, 2)),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink's pauses, short enough for hundreds of lives."""
    monkeypatch.setattr(files, "TICK", 0.001)
    monkeypatch.setattr(sink, "WATCH_INTERVAL", 0.001)
    monkeypatch.setattr(pipe, "SETTLE", 0.0)
    monkeypatch.setattr(pipe, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(pipe, "LONGEST_PAUSE", 0.002)


FIRST = (("produce", STREAMS[0], 3),)


async def live(world: World, steps: list[tuple[Any, ...]]) -> None:
    with mock.patch.object(crash, "point", world.point):
        await world.start()
        for step in steps:
            await world.do(step)
            await world.run(2)
        await world.settle()
        world.check()
        await world.kill()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=25), quick=st.booleans(), seconds=st.sampled_from([0.0, 0.0005, 0.01]))
@example(steps=[*FIRST, ("crash", "appended"), ("rotate", 8), ("produce", STREAMS[0], 2)], quick=True, seconds=0.01)
@example(steps=[*FIRST, ("crash", "sealed"), ("rotate", 8), ("produce", STREAMS[0], 2)], quick=True, seconds=0.01)
@example(steps=[*FIRST, ("crash", "uploaded"), ("rotate", 8), ("kill", 1)], quick=True, seconds=0.01)
@example(steps=[*FIRST, ("answers", "lost"), ("rotate", 8), ("kill", 1)], quick=True, seconds=0.01)
@example(steps=[*FIRST, ("answers", "lost"), ("crash", "exported"), ("rotate", 8)], quick=True, seconds=0.01)
@example(steps=[*FIRST, ("rotate", 8), ("export", False, True), ("kill", 2)], quick=False, seconds=0.0)
@example(steps=[*FIRST, ("rotate", 8), ("power cut", 5, 0), ("kill", 0), ("kill", 0)], quick=False, seconds=0.0)
@example(steps=[*FIRST, ("crash", "exported"), ("rotate", 8), ("power cut", 0, 3)], quick=True, seconds=0.0005)
@example(steps=[*FIRST, ("produce", STREAMS[1], 3), ("fsync fails", 1)], quick=False, seconds=0.0)
@example(
    steps=[("answers", "away"), *FIRST, ("rotate", 8), *FIRST, ("rotate", 8), ("somebody deletes a file", 0)],
    quick=False,
    seconds=0.0,
)
def test_each_sample_is_in_exactly_one_object(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], quick: bool, seconds: float
) -> None:
    world = World(tmp_path_factory.mktemp("spool"), quick=quick, seconds=seconds)
    asyncio.run(live(world, steps))
