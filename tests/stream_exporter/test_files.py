"""The S3 sink: files are complete when they are sealed, tasked once, and deleted only when S3 has them."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any
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

from stream_exporter.config import S3Sink
from stream_exporter.s3 import FileName, task_status, whole

#: A file is complete as soon as something is in it (below what a configuration may say).
S3 = S3Sink(type="s3", bucket="plant-archive", prefix="sluice/", pack_interval=0.02, rotate_interval=1.0).model_copy(
    update={"rotate_size": 1500}
)


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


def files(bench: Any, suffix: str) -> list[str]:
    return sorted(path.name for path in (bench.root / "spool" / "test").glob(f"*{suffix}"))


async def tasked(bench: Any, batches: int = 10) -> Any:
    """A sink that has had its first file tasked."""
    sink = bench.sink(S3)
    for seq in range(1, batches + 1):
        sink.offer(bench.batch(seq))
    await bench.until(lambda: sink.ledger.appended == batches * 10, "the tasks")
    await bench.until(lambda: len(files(bench, ".tasked")) == len(tasks(bench)), "the markers")
    return sink


async def test_a_file_holds_the_lines_and_its_task_names_it(bench: Any) -> None:
    await tasked(bench)

    (task,) = tasks(bench)
    found = [json.loads(line) for line in path_of(task).read_bytes().splitlines()]
    assert [line["id"] for line in found] == [f"{bench.epoch}.{seq}.{n}" for seq in range(1, 11) for n in range(10)]
    assert task.bucket == "plant-archive"
    day = time.strftime("%Y/%m/%d", time.gmtime())
    assert task.key.startswith(f"sluice/opcua-collector/line1/{day}/{bench.epoch}-")
    assert task.key.endswith("-1-10.jsonl")


async def test_a_file_is_sealed_when_it_is_old(bench: Any) -> None:
    sink = bench.sink(S3.model_copy(update={"rotate_size": 10_000_000}))
    sink.offer(bench.batch(1))
    await bench.until(lambda: files(bench, ".part") != [], "the open file")
    assert tasks(bench) == []

    await bench.until(lambda: sink.ledger.appended == 10, "the task")
    assert len(tasks(bench)) == 1


async def test_success_deletes_the_file_and_nothing_else_does(bench: Any) -> None:
    sink = await tasked(bench)
    (task,) = tasks(bench)
    for status in (Status.InProgress, Status.Warning, Status.Failure, Status.Canceled):
        answer(bench, task, status, "on its way")
    await bench.until(lambda: sink.failures == 2, "the failures")
    assert path_of(task).exists()

    answer(bench, task, Status.Success)

    await bench.until(lambda: not path_of(task).exists(), "the deletion")
    await bench.until(lambda: sink.status()["state"] == "running", "the condition to go")
    assert files(bench, "") == []
    assert sink.status()["spool_bytes"] == 0


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
    sink._first_retask = 0.1
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


async def test_files_that_were_sealed_and_not_tasked_are_tasked_after_a_restart(bench: Any) -> None:
    await bench.server.stop()
    first = bench.sink(S3)
    for seq in range(1, 11):
        first.offer(bench.batch(seq))
    await bench.until(lambda: len(files(bench, ".jsonl")) == 1, "the sealed file")
    await first.stop(1.0)
    assert first.ledger.status()["waiting"] == 100
    await bench.start_server()

    second = bench.sink(S3)

    await bench.until(lambda: second.ledger.appended == 100, "the task")
    assert len(tasks(bench)) == 1
    assert second.ledger.status()["received"] == 100


@pytest.mark.parametrize("marker", [True, False], ids=["with-marker", "crashed-before-the-marker"])
async def test_a_file_that_was_tasked_is_not_tasked_again_after_a_restart(bench: Any, marker: bool) -> None:
    first = await tasked(bench)
    await first.stop(1.0)
    if not marker:
        for path in (bench.root / "spool" / "test").glob("*.tasked"):
            path.unlink()

    second = bench.sink(S3)
    second.offer(bench.batch(11))
    await bench.until(lambda: len(tasks(bench)) == 2, "the task of the new file")

    assert len({task.key for task in tasks(bench)}) == 2
    answer(bench, tasks(bench)[0], Status.Success)
    await bench.until(lambda: second.uploaded == 1, "the deletion by the second run")


async def test_what_a_killed_writer_left_is_exported_up_to_its_last_whole_line(bench: Any) -> None:
    folder = bench.root / "spool" / "test"
    folder.mkdir(parents=True)
    line = '{"tag":"A","value":1,"id":"%s.%d.0"}\n'
    name = f"opcua-collector~line1~{bench.epoch}~20260131T120000Z~7"
    (folder / f"{name}.part").write_text(line % (bench.epoch, 7) + line % (bench.epoch, 8) + '{"tag":"A","val')
    (folder / f"{name.replace('~7', '~9')}.part").write_text('{"tag":')
    (folder / "notes.txt").write_text("not ours")

    sink = bench.sink(S3)

    await bench.until(lambda: sink.ledger.appended == 2, "the task")
    (task,) = tasks(bench)
    assert path_of(task).read_text() == line % (bench.epoch, 7) + line % (bench.epoch, 8)
    assert task.key.endswith("/2026/01/31/9f2c51aa07be-20260131T120000Z-7-8.jsonl")
    assert (folder / "notes.txt").exists()
    assert files(bench, ".part") == []


async def test_stopping_seals_and_tasks_what_was_taken(bench: Any) -> None:
    sink = bench.sink(S3.model_copy(update={"pack_interval": 60.0, "rotate_interval": 3600.0}))
    await bench.until(lambda: (bench.root / "spool" / "test").exists(), "the folder")
    sink.offer(bench.batch(1))

    await sink.stop(2.0)

    assert sink.ledger.status()["waiting"] == 0
    assert len(tasks(bench)) == 1
    assert files(bench, ".part") == []


async def test_the_spool_is_bounded_and_what_does_not_fit_is_counted(bench: Any) -> None:
    sink = bench.sink(S3.model_copy(update={"spool_size": 5000}))
    for seq in range(1, 41):
        sink.offer(bench.batch(seq))
        await bench.until(lambda: sink._held == 0, "the batch to be written or dropped")

    status = sink.status()
    assert status["spool_bytes"] <= 5000
    ledger = sink.ledger.status()
    assert 0 < ledger["dropped_by"]["spool-full"] < 400
    assert ledger["received"] == 400 == ledger["appended"] + ledger["dropped"] + ledger["waiting"]
    assert "spoolSize" in status["remedy"]
    for task in tasks(bench):
        answer(bench, task, Status.Success)
    await bench.until(lambda: sink.status()["spool_bytes"] < 2000, "room")
    sink.offer(bench.batch(41))
    await bench.until(lambda: sink.status()["state"] == "running", "the condition to go")


async def test_a_full_disk_is_reported_waited_for_and_loses_nothing(bench: Any) -> None:
    sink = bench.sink(S3.model_copy(update={"rotate_interval": 60.0, "rotate_size": 1_000_000}))
    sink.offer(bench.batch(1))
    await bench.until(lambda: files(bench, ".part") != [] and sink._held == 0, "the open file")
    (name,) = files(bench, ".part")
    before = (bench.root / "spool" / "test" / name).read_bytes()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        sink.offer(bench.batch(2))
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
    assert len(path_of(task).read_bytes().splitlines()) == 20


@pytest.mark.parametrize("stream", ["opcua-collector/line1", "a.b/c_d-e/backfill", "x/y"])
def test_a_file_name_says_all_that_its_key_needs(stream: str) -> None:
    name = FileName.new(stream, "9f2c51aa07be", 7, 1_769_860_800_000_000_000)
    sealed = name.sealed(12)

    assert FileName.parse(str(name)) == name
    assert FileName.parse(str(sealed)) == sealed
    assert sealed.key("p/") == f"p/{stream}/2026/01/31/9f2c51aa07be-20260131T120000Z-7-12.jsonl"


@pytest.mark.parametrize(
    "name", ["", "a.jsonl", "x~y~9f2c51aa07be~20260131T120000Z~7.jsonl", "x~y~9~20260131T120000Z~7.part", "../x.part"]
)
def test_a_foreign_file_name_is_not_read_as_ours(name: str) -> None:
    assert FileName.parse(name) is None


def test_an_open_file_without_a_readable_line_has_nothing_to_export() -> None:
    for content in (b"", b"{", b"x\n", b'{"id":7}\n', b'{"id":"a.b"}\n', b"[]\n"):
        assert whole(content) is None


def test_a_status_that_is_none_is_told_apart() -> None:
    for message in (b"", b"null", b'{"statusContext":{"s3ExportTaskDefinition":{"inputUrl":7}},"status":0}'):
        assert task_status(message) is None
