"""How an export retries, who goes first, and what an end in mid-batch leaves; without network."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from localcore.stream_manager.exports.exporter import Exporter, Outcome, PriorityGate
from localcore.stream_manager.store import Message
from localcore.stream_manager.streams import Stream, Streams


class Recorder:
    """A destination that fails so often, and can be held up."""

    max_batch_bytes = 1 << 20
    pause_s = 0.0
    position_at_once = False

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.times: list[float] = []
        self.sent: list[list[bytes]] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def send(self, messages: Sequence[Message]) -> Outcome:
        self.times.append(time.monotonic())
        self.entered.set()
        assert self.go.wait(30)
        if self.failures:
            self.failures -= 1
            raise OSError("the destination is away")
        self.sent.append([message.payload for message in messages])
        return Outcome()


def make_stream(folder: Path) -> Stream:
    export = {"identifier": "e", "kinesisStreamName": "k"}
    definition = {"name": "s", "strategyOnFull": 1, "exportDefinition": {"kinesis": [export]}}
    return Streams(folder).create(definition)


def make_exporter(stream: Stream, destination: Recorder, time_scale: float = 0.01) -> Exporter:
    config = stream.definition.exports[0]
    return Exporter(stream, config, destination, PriorityGate(1), ThreadPoolExecutor(1), time_scale)


async def until(condition: object, limit: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.005)


async def test_retries_go_on_ever_more_slowly(tmp_path: Path) -> None:
    stream, destination = make_stream(tmp_path), Recorder(failures=4)
    task = asyncio.create_task(make_exporter(stream, destination).run())
    stream.append(b"x", 1)
    await until(lambda: stream.positions["e"].last_exported == 0)
    task.cancel()
    pauses = [after - before for before, after in zip(destination.times, destination.times[1:], strict=False)]
    for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.08), strict=True):
        assert pause >= least
    assert destination.sent == [[b"x"]]


async def test_a_failing_export_says_why_in_its_status(tmp_path: Path) -> None:
    stream, destination = make_stream(tmp_path), Recorder(failures=10**9)
    task = asyncio.create_task(make_exporter(stream, destination, 1.0).run())
    stream.append(b"x", 1)
    await until(lambda: stream.positions["e"].error)
    (status,) = stream.describe()["exportStatuses"]
    assert status["errorMessage"] == "OSError: the destination is away"
    assert status["lastExportedSequenceNumber"] == -1
    task.cancel()


async def test_a_call_under_way_at_the_end_counts(tmp_path: Path) -> None:
    stream, destination = make_stream(tmp_path), Recorder()
    destination.go.clear()
    task = asyncio.create_task(make_exporter(stream, destination).run())
    stream.append(b"x", 1)
    await until(destination.entered.is_set)
    task.cancel()
    destination.go.set()
    await asyncio.wait([task])
    assert stream.positions["e"].last_exported == 0


async def test_what_was_overwritten_before_its_export_is_passed_over(tmp_path: Path) -> None:
    export = {"identifier": "e", "kinesisStreamName": "k"}
    definition = {
        "name": "s",
        "strategyOnFull": 1,
        "maxSize": 2048,
        "streamSegmentSize": 1024,
        "exportDefinition": {"kinesis": [export]},
    }
    stream, destination = Streams(tmp_path).create(definition), Recorder()
    for index in range(10):
        stream.append(b"%0800d" % index, 1)
    task = asyncio.create_task(make_exporter(stream, destination).run())
    await until(lambda: stream.positions["e"].last_exported == 9)
    task.cancel()
    assert destination.sent == [[b"%0800d" % 8, b"%0800d" % 9]]


async def test_the_lower_priority_number_goes_first() -> None:
    gate, order = PriorityGate(1), []
    holding = asyncio.Event()

    async def use(priority: int) -> None:
        async with gate.enter(priority):
            order.append(priority)
            await holding.wait()

    tasks = [asyncio.create_task(use(priority)) for priority in (9, 7, 1, 3)]
    await until(lambda: order == [9])
    holding.set()
    await asyncio.gather(*tasks)
    assert order == [9, 1, 3, 7]


async def test_whoever_stops_waiting_leaves_the_place_to_others() -> None:
    gate = PriorityGate(1)
    async with gate.enter(5):
        waiting = asyncio.create_task(gate.enter(1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
    async with gate.enter(5):
        assert True


def test_a_position_ahead_of_a_lost_tail_goes_back_to_what_there_is(tmp_path: Path) -> None:
    streams = Streams(tmp_path)
    export = {"identifier": "e", "kinesisStreamName": "k"}
    stream = streams.create({"name": "s", "strategyOnFull": 1, "exportDefinition": {"kinesis": [export]}})
    for _ in range(4):
        stream.append(b"x" * 100, 1)
    stream.positions["e"].last_exported = 3
    streams.close()
    (segment,) = (tmp_path / "s").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:150])
    reopened = Streams(tmp_path).get("s")
    assert (reopened.newest, reopened.positions["e"].last_exported) == (0, 0)


def test_messages_expire_by_whole_segments_when_all_of_a_segment_is_too_old(tmp_path: Path) -> None:
    definition = {"name": "s", "strategyOnFull": 1, "streamSegmentSize": 1024, "timeToLiveMillis": 60_000}
    stream = Streams(tmp_path).create(definition)
    for second in range(10):
        stream.append(bytes(400), second * 1000)
    stream.tick(61_001)
    assert stream.oldest == 2, "messages 0 and 1 fill the first segment"
    stream.tick(200_000)
    assert (stream.oldest, stream.newest, stream.total_bytes) == (10, 9, 0)
    assert stream.append(b"x", 200_000) == 10
