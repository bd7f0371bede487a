"""The S3 sink: a file is sealed, tasked and, once S3 has it, deleted; only then its range is acknowledged."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import time
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest
from stream_manager import (
    EventType,
    S3ExportTaskDefinition,
    Status,
    StatusContext,
    StatusLevel,
    StatusMessage,
    Util,
)

from stream_exporter import files as files_module
from stream_exporter.config import S3Sink

#: Each range that is delivered becomes a file (below what a configuration may say).
S3 = S3Sink(type="s3", bucket="plant-archive", prefix="sluice/", pack_interval=0.02, rotate_interval=60.0).model_copy(
    update={"rotate_size": 1}
)
SLOW = S3.model_copy(update={"rotate_size": 10_000_000})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "TICK", 0.02)


def tasks(bench: Any) -> list[S3ExportTaskDefinition]:
    """The tasks of the stream, read and checked by the SDK's own classes."""
    found = []
    for payload in bench.stored("SluiceS3"):
        task = Util.deserialize_json_bytes_to_obj(payload, S3ExportTaskDefinition)
        Util.validate_and_serialize_to_json_bytes(task)  # raises when a field breaks a limit
        found.append(task)
    return found


def path_of(task: S3ExportTaskDefinition) -> Path:
    return Path(unquote(urlsplit(task.input_url).path))


def ids(path: Path) -> list[str]:
    """The ids of a file's lines, without the epoch."""
    content = path.read_bytes()
    lines = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line)["id"].partition(".")[2] for line in lines.splitlines()]


def numbers(first: int, last: int) -> list[str]:
    return [f"{seq}.{n}" for seq in range(first, last + 1) for n in range(10)]


def answer(bench: Any, task: S3ExportTaskDefinition, status: Status, message: str = "") -> None:
    """What stream manager writes to the status stream about a task."""
    report = StatusMessage(
        event_type=EventType.S3Task,
        status_level=StatusLevel.INFO,
        status=status,
        status_context=StatusContext(s3_export_task_definition=task, stream_name="SluiceS3"),
        message=message,
        timestamp_epoch_ms=time.time_ns() // 1_000_000,
    )
    payload = Util.validate_and_serialize_to_json_bytes(report)
    bench.server.append(bench.server.streams.get("SluiceS3Status"), payload)


def files(bench: Any, suffix: str = "") -> list[str]:
    return sorted(path.name for path in (bench.root / "spool" / "test").glob(f"*{suffix}"))


def publish(bench: Any, first: int, last: int) -> None:
    bench.publish(*[bench.batch(seq) for seq in range(first, last + 1)])


async def tasked(bench: Any, settings: S3Sink = S3) -> Any:
    """A sink whose first file, batches 1 to 10, is tasked."""
    sink = bench.sink(settings)
    publish(bench, 1, 10)
    await bench.until(lambda: len(sink.uploads.tasked()) == 1, "the task")
    return sink


async def died(bench: Any) -> None:
    await bench.until(lambda: bench.died, "the death")
    await bench.kill()


# --- what arrives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compression", "suffix"), [("gzip", ".jsonl.gz"), ("none", ".jsonl")])
async def test_a_file_holds_the_lines_and_its_task_names_it(bench: Any, compression: str, suffix: str) -> None:
    await tasked(bench, S3.model_copy(update={"compression": compression}))

    (task,) = tasks(bench)
    assert ids(path_of(task)) == numbers(1, 10)
    assert task.bucket == "plant-archive"
    day = time.strftime("%Y/%m/%d", time.gmtime())
    assert task.key.startswith(f"sluice/opcua-collector/line1/{day}/{bench.epoch}-")
    assert task.key.endswith(f"-1-10{suffix}")


async def test_each_write_is_a_member_of_the_same_gzip_file(bench: Any) -> None:
    sink = bench.sink(SLOW)
    sizes = []
    for seq in (1, 2, 3):
        publish(bench, seq, seq)
        await bench.until(lambda: sink._held == 0 and files(bench, ".part") != [], "the write")
        sizes.append(sink.status()["spool_bytes"])
    await sink.stop(2.0)

    (task,) = tasks(bench)
    assert ids(path_of(task)) == numbers(1, 3)
    assert gzip.decompress(path_of(task).read_bytes()[: sizes[0]]).count(b"\n") == 10


async def test_a_file_is_sealed_when_it_is_old_though_nothing_comes(bench: Any) -> None:
    sink = bench.sink(SLOW.model_copy(update={"rotate_interval": 0.2}))
    publish(bench, 1, 1)
    await bench.until(lambda: files(bench, ".part") != [], "the open file")
    assert tasks(bench) == []

    await bench.until(lambda: len(tasks(bench)) == 1, "the task")
    assert sink.ledger.appended == 10


async def test_stopping_seals_and_tasks_what_was_taken(bench: Any) -> None:
    sink = bench.sink(SLOW.model_copy(update={"pack_interval": 60.0}))
    await bench.until(sink.has_room, "the start")
    publish(bench, 1, 1)

    await sink.stop(2.0)

    assert sink.ledger.status()["waiting"] == 0
    assert len(tasks(bench)) == 1
    assert files(bench, ".part") == []


# --- statuses ---------------------------------------------------------------------------------------------------------


async def test_success_deletes_the_file_and_acknowledges_its_range_and_nothing_else_does(bench: Any) -> None:
    sink = await tasked(bench)
    sink.uploads.first_pause = 60.0
    (task,) = tasks(bench)
    for status in (Status.InProgress, Status.Warning, Status.Failure, Status.Canceled):
        answer(bench, task, status, "on its way")
    await bench.until(lambda: sink.failures == 2, "the failures")
    assert path_of(task).exists()
    assert bench.acknowledged() == 0

    answer(bench, task, Status.Success)

    await bench.until(lambda: bench.acknowledged() == 10, "the acknowledgement")
    assert files(bench) == []
    assert bench.store.units("test") == []
    status = sink.status()
    assert (status["state"], status["spool_bytes"], status["files_uploaded"]) == ("running", 0, 1)


async def test_what_is_appended_may_be_acknowledged_when_its_file_is_sealed(bench: Any) -> None:
    await tasked(bench, S3.model_copy(update={"ack_on": "appended"}))

    await bench.until(lambda: bench.acknowledged() == 10, "the acknowledgement")
    assert len(files(bench)) == 1


async def test_a_status_stream_that_was_made_anew_is_read_from_its_beginning(bench: Any) -> None:
    sink = await tasked(bench)
    (task,) = tasks(bench)
    for _ in range(5):
        answer(bench, task, Status.InProgress)
    await bench.until(lambda: sink._cursor == 5, "the reading")
    bench.server.streams.delete("SluiceS3Status")
    await bench.until(lambda: "SluiceS3Status" in bench.server.streams.names(), "the new stream")

    answer(bench, task, Status.Success)

    await bench.until(lambda: not path_of(task).exists(), "the deletion")


async def test_a_missing_bucket_is_told_by_name_with_a_remedy_and_the_file_is_tried_again(bench: Any) -> None:
    sink = await tasked(bench)
    sink.uploads.first_pause = 0.1
    (task,) = tasks(bench)
    answer(bench, task, Status.Failure, "NoSuchBucket: The specified bucket does not exist")

    await bench.until(lambda: sink.status()["state"] == "failed", "the condition")
    assert "plant-archive" in sink.status()["why"]
    assert "make the bucket plant-archive" in sink.status()["remedy"]
    await bench.until(lambda: len(tasks(bench)) == 2, "the second task")
    assert bench.stored("SluiceS3")[0] == bench.stored("SluiceS3")[1]
    assert sink.ledger.appended == 100
    answer(bench, task, Status.Success)
    await bench.until(lambda: sink.status()["state"] == "running", "the condition to go")
    answer(bench, task, Status.Failure, "the file cannot be read: No such file or directory")
    await bench.until(lambda: sink._cursor == 3, "the late failure to be read")
    assert sink.status()["state"] == "running", "of the order that was given twice, for a file that is uploaded"


async def test_a_status_never_deletes_what_is_not_ours(bench: Any, tmp_path: Path) -> None:
    precious = tmp_path / "precious.jsonl"
    precious.write_text("keep me")
    sink = await tasked(bench)
    (task,) = tasks(bench)
    foreign = S3ExportTaskDefinition(input_url=precious.as_uri(), bucket="abc", key="k")
    answer(bench, foreign, Status.Success)
    for nonsense in (b"{}", b"\xff", b'{"status":0}', b"[]", b'{"status":[],"statusContext":{}}'):
        bench.server.append(bench.server.streams.get("SluiceS3Status"), nonsense)
    answer(bench, task, Status.Success)

    await bench.until(lambda: sink.uploaded == 1, "the deletion")
    assert precious.exists()
    assert sink.unreadable == 5


async def test_an_exported_task_of_which_nobody_tells_is_given_again(bench: Any) -> None:
    sink = await tasked(bench)
    sink.uploads.silence = 0.2
    bench.export("SluiceS3")

    await bench.until(lambda: len(tasks(bench)) == 2, "the second task")
    assert tasks(bench)[0].key == tasks(bench)[1].key
    answer(bench, tasks(bench)[1], Status.Success)
    await bench.until(lambda: bench.acknowledged() == 10, "the acknowledgement")


@pytest.mark.parametrize("how", ["deleted", "power cut"])
async def test_tasks_that_the_stream_loses_are_given_again(bench: Any, how: str) -> None:
    sink = await tasked(bench)
    publish(bench, 11, 12)
    await bench.until(lambda: len(sink.uploads.tasked()) == 2, "both tasks")
    before = {task.key for task in tasks(bench)}
    if how == "deleted":
        bench.server.streams.delete("SluiceS3")
    else:
        await bench.cut_power()

    await bench.until(lambda: {task.key for task in tasks(bench)} == before, "the tasks")
    for task in tasks(bench):
        answer(bench, task, Status.Success)
    await bench.until(lambda: bench.acknowledged() == 12, "the acknowledgement")
    assert files(bench) == []


# --- deaths -----------------------------------------------------------------------------------------------------------


async def test_what_an_open_file_held_when_its_writer_was_killed_comes_again(bench: Any) -> None:
    bench.sink(SLOW)
    publish(bench, 1, 3)
    await bench.until(lambda: files(bench, ".part") != [], "the open file")
    (bench.root / "spool" / "test" / "notes.part").write_text("not ours")
    await bench.kill()

    (sink,) = await bench.restart()
    publish(bench, 4, 5)
    await bench.until(lambda: sink.ledger.status()["received"] == 50, "all batches, from the first on")
    await sink.stop(2.0)

    (task,) = tasks(bench)
    assert ids(path_of(task)) == numbers(1, 5)
    assert "notes.part" in files(bench)
    assert sink.ledger.status()["appended"] == 50


@pytest.mark.parametrize("point", ["received", "sealed", "appended", "committed"])
async def test_a_file_is_tasked_once_wherever_its_writer_was_killed(bench: Any, point: str) -> None:
    bench.dies_at = [point]
    bench.sink(S3)
    publish(bench, 1, 10)
    await died(bench)
    (sink,) = await bench.restart()
    await bench.until(lambda: len(sink.uploads.tasked()) == 1, "the task")
    bench.dies_at = ["received"]
    publish(bench, 11, 12)
    await died(bench)
    (sink,) = await bench.restart()

    await bench.until(lambda: len(sink.uploads.tasked()) == 2, "both tasks")
    assert [ids(path_of(task)) for task in tasks(bench)] == [numbers(1, 10), numbers(11, 12)]
    assert sink.ledger.status()["appended"] == sink.ledger.status()["received"] == 120


@pytest.mark.parametrize("point", ["uploaded", "exported"])
async def test_an_uploaded_file_is_forgotten_wherever_its_writer_was_killed(bench: Any, point: str) -> None:
    await tasked(bench)
    bench.dies_at = [point]
    answer(bench, tasks(bench)[0], Status.Success)
    await died(bench)

    await bench.restart()

    await bench.until(lambda: bench.acknowledged() == 10, "the acknowledgement")
    assert (files(bench), bench.store.units("test"), len(tasks(bench))) == ([], [], 1)


async def test_files_are_sealed_while_stream_manager_is_away_and_tasked_when_it_is_back(bench: Any) -> None:
    await bench.server.stop()
    bench.sink(S3)
    publish(bench, 1, 10)
    await bench.until(lambda: len(files(bench, ".gz")) == 1, "the sealed file")
    line = ("test", "opcua-collector/line1", bench.epoch)
    await bench.until(lambda: bench.store.committed_to(*line) == 10, "its row on the medium")
    await bench.kill()
    (sink,) = await bench.restart()
    publish(bench, 11, 12)
    await bench.until(lambda: len(files(bench, ".gz")) == 2, "another sealed file")
    assert bench.acknowledged() == 0

    await bench.start_server()

    await bench.until(lambda: len(sink.uploads.tasked()) == 2, "the tasks")
    assert [ids(path_of(task)) for task in tasks(bench)] == [numbers(1, 10), numbers(11, 12)]


async def test_settings_that_change_reach_files_that_wait_and_leave_their_content(bench: Any) -> None:
    await bench.server.stop()
    first = bench.sink(S3)
    publish(bench, 1, 10)
    await bench.until(lambda: len(files(bench, ".gz")) == 1, "the sealed file")
    await first.stop(0.5)
    await bench.start_server()

    sink = bench.sink(S3.model_copy(update={"bucket": "other-archive", "compression": "none"}))
    publish(bench, 11, 12)

    await bench.until(lambda: len(sink.uploads.tasked()) == 2, "the tasks")
    assert [task.bucket for task in tasks(bench)] == ["other-archive"] * 2
    assert [task.key.partition(".")[2] for task in tasks(bench)] == ["jsonl.gz", "jsonl"]
    assert [ids(path_of(task)) for task in tasks(bench)] == [numbers(1, 10), numbers(11, 12)]


# --- no room, no disk -------------------------------------------------------------------------------------------------


async def test_a_full_spool_takes_no_more_says_so_and_loses_nothing(bench: Any) -> None:
    sink = bench.sink(SLOW.model_copy(update={"spool_size": 5000, "compression": "none", "pack_interval": 0.0}))
    await bench.until(sink.has_room, "the start")
    for seq in range(1, 41):
        publish(bench, seq, seq)
        await bench.until(lambda: sink._held == 0 or not sink.has_room(), "the batch to be written or held")
    await bench.until(lambda: sink.status()["state"] == "failed", "the report")
    assert not sink.has_room()
    assert sink.status()["spool_bytes"] <= 5000
    assert "spoolSize" in sink.status()["remedy"]

    uploaded: dict[str, list[str]] = {}

    def upload() -> bool:
        for task in tasks(bench):
            if path_of(task).exists():
                uploaded[task.key] = ids(path_of(task))
                answer(bench, task, Status.Success)
        return bool(bench.acknowledged() == 40)

    await bench.until(upload, "everything to be uploaded")
    assert sorted(line for lines in uploaded.values() for line in lines) == sorted(numbers(1, 40))
    assert sink.ledger.status()["dropped"] == 0
    await bench.until(lambda: sink.status()["state"] == "running", "the condition to go")


async def test_a_range_larger_than_the_spool_passes_alone(bench: Any) -> None:
    sink = bench.sink(SLOW.model_copy(update={"spool_size": 5000, "compression": "none"}))
    publish(bench, 1, 40)

    await bench.until(lambda: len(sink.uploads.tasked()) == 1, "the task, long before its file is old")
    assert not sink.has_room()
    assert "spoolSize" in sink.status()["remedy"]
    answer(bench, tasks(bench)[0], Status.Success)
    await bench.until(sink.has_room, "room")
    await bench.until(lambda: sink.status()["state"] == "running", "the condition to go")


async def test_a_full_disk_is_reported_waited_for_and_loses_nothing(bench: Any) -> None:
    sink = bench.sink(SLOW.model_copy(update={"compression": "none"}))
    publish(bench, 1, 1)
    await bench.until(lambda: files(bench, ".part") != [] and sink._held == 0, "the open file")
    (name,) = files(bench, ".part")
    before = (bench.root / "spool" / "test" / name).read_bytes()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        publish(bench, 2, 2)
        await bench.until(lambda: sink.status()["state"] == "failed", "the report")
        status = sink.status()
        written = (bench.root / "spool" / "test" / name).read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "plant-archive" in status["why"]
    assert "File too large" in status["why"]
    assert "free space" in status["remedy"]
    assert written == before
    await bench.until(lambda: sink.status()["state"] == "running", "the disk to be used again")
    await sink.stop(2.0)
    (task,) = tasks(bench)
    assert ids(path_of(task)) == numbers(1, 2)


async def test_a_file_that_the_disk_does_not_take_comes_again(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = bench.sink(S3)
    await bench.until(sink.has_room, "the start")
    flush = os.fsync
    failing = mock.Mock(side_effect=[OSError(errno.EIO, "Input/output error")])

    def fsync(descriptor: int) -> None:
        if ".part" in str(Path(f"/proc/self/fd/{descriptor}").readlink()) and not failing.called:
            failing()
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(bench, 1, 10)

    await bench.until(lambda: len(sink.uploads.tasked()) == 1, "the task")
    assert failing.called
    (task,) = tasks(bench)
    assert ids(path_of(task)) == numbers(1, 10)
    assert sink.ledger.status()["received"] == sink.ledger.status()["appended"] == 100
