"""The unmodified stream-manager SDK finds a stream manager: every operation, every refusal, and what restarts keep."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stream_manager import (
    InvalidRequestException,
    KinesisConfig,
    NotEnoughMessagesException,
    Persistence,
    ReadMessagesOptions,
    RequestPayloadTooLargeException,
    ResourceNotFoundException,
    ResponsePayloadTooLargeException,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StatusLevel,
    StrategyOnFull,
    UpdateNotAllowedException,
)
from stream_manager.data import HTTPConfig, Operation
from stream_manager.exceptions import ConnectFailedException, ServerOutOfMemoryException, UnknownOperationException

from localcore import received
from localcore.stream_manager import StreamManagerProcess
from localcore.stream_manager.store import RECORD_OVERHEAD

Definition = Callable[..., Any]


def read(client: Any, name: str, start: int = 0, least: int = 1, most: int | None = None, timeout_ms: int = 0) -> Any:
    options = ReadMessagesOptions(start, least, most, timeout_ms)
    return client.read_messages(name, options)


def test_a_stream_begins_empty_and_describes_itself_with_all_defaults(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    info = client.describe_message_stream(wanted.name)
    assert info.definition.as_dict()["maxSize"] == 256 << 20
    assert info.definition.stream_segment_size == 16 << 20
    assert info.definition.strategy_on_full is StrategyOnFull.OverwriteOldestData
    assert info.definition.persistence is Persistence.File
    assert info.definition.flush_on_write is False
    assert info.definition.time_to_live_millis is None
    status = info.storage_status
    assert (status.oldest_sequence_number, status.newest_sequence_number, status.total_bytes) == (0, -1, 0)
    assert info.export_statuses == []


def test_appends_are_numbered_from_zero_and_read_back(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    assert [client.append_message(wanted.name, b"m%d" % i) for i in range(5)] == list(range(5))
    messages = read(client, wanted.name, 1, 2, 3)
    assert [(m.sequence_number, m.payload, m.stream_name) for m in messages] == [
        (i, b"m%d" % i, wanted.name) for i in (1, 2, 3)
    ]
    assert client.describe_message_stream(wanted.name).storage_status.total_bytes == 5 * (2 + RECORD_OVERHEAD)
    assert len(client.read_messages(wanted.name)) == 1, "without options one message is read"


def test_what_was_appended_is_witnessed(client: Any, root: Path, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    client.append_message(wanted.name, b"one")
    client.append_message(wanted.name, b"two")
    assert [(seq, payload) for seq, _, payload in received.appends(root, wanted.name)] == [(0, b"one"), (1, b"two")]


def test_creating_an_existing_stream_is_an_invalid_request(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    with pytest.raises(InvalidRequestException, match="already exists"):
        client.create_message_stream(wanted)


@pytest.mark.parametrize("operation", ["describe_message_stream", "delete_message_stream", "read_messages"])
def test_an_unknown_stream_is_not_found(client: Any, operation: str) -> None:
    with pytest.raises(ResourceNotFoundException, match="nowhere"):
        getattr(client, operation)("nowhere")


def test_appending_to_or_updating_an_unknown_stream_is_not_found(client: Any, definition: Definition) -> None:
    with pytest.raises(ResourceNotFoundException):
        client.append_message("nowhere", b"x")
    with pytest.raises(ResourceNotFoundException):
        client.update_message_stream(definition())


def test_a_deleted_stream_is_gone_and_its_name_begins_anew(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    client.append_message(wanted.name, b"x")
    client.delete_message_stream(wanted.name)
    assert wanted.name not in client.list_streams()
    client.create_message_stream(wanted)
    assert client.append_message(wanted.name, b"y") == 0


def test_300_streams_are_listed(client: Any, definition: Definition) -> None:
    names = []
    for _ in range(300):
        wanted = definition(persistence=Persistence.Memory)
        client.create_message_stream(wanted)
        names.append(wanted.name)
    assert set(names) <= set(client.list_streams())
    for name in names:
        client.delete_message_stream(name)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"max_size": 2048, "stream_segment_size": 4096}, "maxSize 2048"),
        ({"exports": {"http": [HTTPConfig(identifier="h", uri="http://127.0.0.1")]}}, "http"),
        (
            {"exports": {"kinesis": [KinesisConfig(identifier="k", kinesis_stream_name="s")] * 2}},
            "'k' is used more than once",
        ),
        (
            {"exports": {"kinesis": [KinesisConfig("k", "s", start_sequence_number=1)]}},
            "startSequenceNumber 1",
        ),
        (
            {
                "exports": {
                    "s3_task_executor": [
                        S3ExportTaskExecutorConfig("e", status_config=StatusConfig(StatusLevel.INFO, "no"))
                    ]
                }
            },
            "status stream 'no' does not exist",
        ),
    ],
    ids=["max-below-segment", "http", "same-identifier", "start-ahead", "no-status-stream"],
)
def test_a_definition_that_cannot_be_is_refused(
    client: Any, definition: Definition, overrides: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidRequestException, match=problem):
        client.create_message_stream(definition(**overrides))


def test_a_read_below_the_oldest_starts_at_the_oldest(client: Any, definition: Definition) -> None:
    wanted = definition(max_size=2048, stream_segment_size=1024)
    client.create_message_stream(wanted)
    for _ in range(20):
        client.append_message(wanted.name, bytes(200))
    oldest = client.describe_message_stream(wanted.name).storage_status.oldest_sequence_number
    assert oldest > 0
    assert [m.sequence_number for m in read(client, wanted.name, 0, 1, 2)] == [oldest, oldest + 1]


def test_too_few_messages_are_an_error_at_once_or_after_the_read_timeout(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    client.append_message(wanted.name, b"x")
    for timeout_ms in (0, 50):
        with pytest.raises(NotEnoughMessagesException):
            read(client, wanted.name, 0, 2, 2, timeout_ms)
    with pytest.raises(NotEnoughMessagesException):
        read(client, wanted.name, 7)


def test_a_waiting_read_is_answered_as_soon_as_messages_arrive_and_holds_no_append_up(
    client: Any, definition: Definition
) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(read(client, wanted.name, 0, 2, 2, 4000)))
    reader.start()
    client.append_message(wanted.name, b"1")
    client.append_message(wanted.name, b"2")
    reader.join(3)
    assert [m.payload for m in got] == [b"1", b"2"]


def test_a_full_stream_that_rejects_keeps_what_it_has(client: Any, definition: Definition) -> None:
    wanted = definition(max_size=2048, stream_segment_size=1024, strategy_on_full=StrategyOnFull.RejectNewData)
    client.create_message_stream(wanted)
    for _ in range(2048 // (500 + RECORD_OVERHEAD)):
        client.append_message(wanted.name, bytes(500))
    for _ in range(2):
        with pytest.raises(InvalidRequestException, match="full"):
            client.append_message(wanted.name, bytes(500))
    assert client.describe_message_stream(wanted.name).storage_status.oldest_sequence_number == 0


@pytest.mark.parametrize("persistence", Persistence)
def test_a_full_stream_that_overwrites_frees_whole_segments(
    client: Any, definition: Definition, persistence: Persistence
) -> None:
    per_segment = 4
    size = 1000 + RECORD_OVERHEAD
    wanted = definition(
        max_size=3 * per_segment * size, stream_segment_size=per_segment * size, persistence=persistence
    )
    client.create_message_stream(wanted)
    oldest = []
    for _ in range(20):
        client.append_message(wanted.name, bytes(1000))
        oldest.append(client.describe_message_stream(wanted.name).storage_status.oldest_sequence_number)
    assert oldest == [0] * 12 + [4] * 4 + [8] * 4


def test_a_message_too_large_is_refused_and_the_stream_goes_on(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    with pytest.raises(RequestPayloadTooLargeException, match="4194304 bytes fit"):
        client.append_message(wanted.name, bytes((4 << 20) + 1))
    assert client.append_message(wanted.name, b"x") == 0


def test_a_message_must_fit_a_segment(client: Any, definition: Definition) -> None:
    wanted = definition(max_size=4096, stream_segment_size=1024)
    client.create_message_stream(wanted)
    client.append_message(wanted.name, bytes(1024 - RECORD_OVERHEAD))
    with pytest.raises(RequestPayloadTooLargeException):
        client.append_message(wanted.name, bytes(1025 - RECORD_OVERHEAD))


def test_a_read_returns_no_more_than_a_response_holds(client: Any, definition: Definition) -> None:
    wanted = definition()
    client.create_message_stream(wanted)
    for _ in range(4):
        client.append_message(wanted.name, bytes(3 << 20))
    assert len(read(client, wanted.name, 0, 1, 4)) == 2
    with pytest.raises(ResponsePayloadTooLargeException):
        read(client, wanted.name, 0, 4, 4)


def test_an_update_takes_defaults_for_what_it_leaves_out_and_forgets_exports(
    client: Any, definition: Definition
) -> None:
    export = KinesisConfig(identifier="k", kinesis_stream_name="s", disabled=True)
    wanted = definition(
        max_size=1 << 20, stream_segment_size=1 << 16, flush_on_write=True, exports={"kinesis": [export]}
    )
    client.create_message_stream(wanted)
    assert [s.export_config_identifier for s in client.describe_message_stream(wanted.name).export_statuses] == ["k"]
    client.update_message_stream(definition(name=wanted.name))
    info = client.describe_message_stream(wanted.name)
    assert info.definition.max_size == 256 << 20
    assert info.definition.flush_on_write is False
    assert info.definition.export_definition.kinesis == []
    assert info.export_statuses == []


def test_an_update_made_from_a_description_keeps_everything(client: Any, definition: Definition) -> None:
    exports = {"kinesis": [KinesisConfig(identifier="k", kinesis_stream_name="s", disabled=True, batch_size=7)]}
    client.create_message_stream(wanted := definition(time_to_live_millis=90_000, exports=exports))
    described = client.describe_message_stream(wanted.name)
    client.update_message_stream(described.definition)
    assert client.describe_message_stream(wanted.name).as_dict() == described.as_dict()


def test_an_update_may_not_change_persistence_nor_go_below_what_is_stored(client: Any, definition: Definition) -> None:
    client.create_message_stream(wanted := definition())
    with pytest.raises(UpdateNotAllowedException, match="persistence"):
        client.update_message_stream(definition(name=wanted.name, persistence=Persistence.Memory))
    for _ in range(5):
        client.append_message(wanted.name, bytes(1000))
    with pytest.raises(UpdateNotAllowedException, match="below the 5080 bytes stored"):
        client.update_message_stream(definition(name=wanted.name, max_size=4096, stream_segment_size=1024))
    client.update_message_stream(definition(name=wanted.name, max_size=5080, stream_segment_size=1024))


def test_an_ordered_refusal_reaches_the_client_as_its_exception(
    client: Any, server: StreamManagerProcess, definition: Definition, run: Callable[..., Any]
) -> None:
    client.create_message_stream(wanted := definition())
    run(server.fault("refuse", operation="append", status=15))
    with pytest.raises(ServerOutOfMemoryException):
        client.append_message(wanted.name, b"x")
    assert client.append_message(wanted.name, b"x") == 0


def test_an_operation_that_the_server_does_not_know_is_answered_so(
    client: Any, server: StreamManagerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Operation.ListStreams, "_value_", 99)
    with pytest.raises(UnknownOperationException, match="operation 99"):
        client.list_streams()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_keeps_file_streams_and_their_numbers_and_loses_memory_streams(
    tmp_path: Path, run: Callable[..., Any], connect: Callable[..., Any], definition: Definition, end: str
) -> None:
    process = StreamManagerProcess(tmp_path, region="us-east-1", endpoints={})
    run(process.start())
    port = process.port
    client = connect(process)
    client.create_message_stream(in_file := definition(stream_segment_size=1024, max_size=1 << 20))
    client.create_message_stream(in_memory := definition(persistence=Persistence.Memory))
    for index in range(30):
        client.append_message(in_file.name, b"%0100d" % index)
        client.append_message(in_memory.name, b"x")
    run(getattr(process, end)())
    assert not process.running
    run(process.start())
    assert process.port == port
    client = connect(process)
    assert client.list_streams() == [in_file.name]
    assert [m.payload for m in read(client, in_file.name, 0, 30, 30)] == [b"%0100d" % i for i in range(30)]
    assert client.append_message(in_file.name, b"next") == 30
    run(process.stop())


def test_only_clients_with_the_token_get_in(
    tmp_path: Path,
    run: Callable[..., Any],
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = StreamManagerProcess(tmp_path, region="us-east-1", endpoints={}, auth_token="right")
    run(process.start())
    for token in (None, "wrong"):
        monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)
        with pytest.raises(ConnectFailedException):
            connect(process)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "right")
    assert connect(process).list_streams() == []
    run(process.stop())
