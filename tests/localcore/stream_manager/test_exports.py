"""What is appended arrives at Kinesis, SiteWise and S3, in batches as configured, through trouble and over restarts."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from stream_manager import (
    IoTSiteWiseConfig,
    KinesisConfig,
    ReadMessagesOptions,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    Status,
    StatusConfig,
    StatusLevel,
    StatusMessage,
    Util,
)

from localcore import received
from localcore.aws import AwsProcess
from localcore.stream_manager import StreamManagerProcess

Definition = Callable[..., Any]
Eventually = Callable[..., Any]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(root: Path, aws: AwsProcess, run: Callable[..., Any]) -> Iterator[StreamManagerProcess]:
    """A stream manager whose seconds are hundredths of a second."""
    endpoints = {service: aws.endpoint(service) for service in ("s3", "kinesis", "iotsitewise")}
    process = StreamManagerProcess(root, region="us-east-1", endpoints=endpoints, time_scale=0.01)
    run(process.start())
    yield process
    run(process.stop())


class FakeKinesis(ThreadingHTTPServer):
    """Notes the data of each PutRecords; the records at `failing` of the next request fail."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _FakeKinesisHandler)
        self.calls: list[list[bytes]] = []
        self.keys: list[str] = []
        self.failing: set[int] = set()


class _FakeKinesisHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeKinesis

    def do_POST(self) -> None:
        records = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["Records"]
        self.server.calls.append([base64.b64decode(record["Data"]) for record in records])
        self.server.keys += [record["PartitionKey"] for record in records]
        failing, self.server.failing = self.server.failing, set()
        failure = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "too fast"}
        success = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
        results = [failure if index in failing else success for index in range(len(records))]
        body = json.dumps({"FailedRecordCount": len(failing), "Records": results}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def fake_kinesis() -> Iterator[FakeKinesis]:
    with FakeKinesis() as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        yield fake
        fake.shutdown()


@pytest.fixture(scope="module")
def beside_fake(
    tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Any], fake_kinesis: FakeKinesis
) -> Iterator[StreamManagerProcess]:
    """A stream manager that exports to the fake Kinesis."""
    endpoints = {"kinesis": f"http://127.0.0.1:{fake_kinesis.server_port}"}
    process = StreamManagerProcess(
        tmp_path_factory.mktemp("core"), region="us-east-1", endpoints=endpoints, time_scale=0.01
    )
    run(process.start())
    yield process
    run(process.stop())


def export_status(client: Any, name: str) -> Any:
    return client.describe_message_stream(name).export_statuses[0]


def exported(client: Any, name: str, sequence: int) -> Callable[[], Any]:
    """Whether the export got that far."""
    return lambda: export_status(client, name).last_exported_sequence_number == sequence


def records(aws: AwsProcess, stream: str) -> list[bytes]:
    api = aws.client("kinesis")
    found: list[bytes] = []
    for shard in api.list_shards(StreamName=stream)["Shards"]:
        iterator = api.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found += [record["Data"] for record in api.get_records(ShardIterator=iterator)["Records"]]
    return found


def entry(alias: str, value: Any = 1.5, *, entry_id: str | None = None, seconds_ago: float = 0) -> bytes:
    time_ns = time.time_ns() - int(seconds_ago * 1e9)
    stamp = {"timeInSeconds": time_ns // 10**9, "offsetInNanos": time_ns % 10**9}
    values = [{"value": {"doubleValue": value}, "timestamp": stamp, "quality": "GOOD"}]
    identity = entry_id or f"entry-{next(_numbers)}"
    return json.dumps({"entryId": identity, "propertyAlias": alias, "propertyValues": values}).encode()


def sitewise_values(root: Path, alias: str) -> list[Any]:
    return [delivery[2] for delivery in received.sitewise(root) if delivery[0] == alias]


class TestKinesis:
    def test_every_message_becomes_a_record(
        self, client: Any, aws: AwsProcess, definition: Definition, eventually: Eventually
    ) -> None:
        aws.create_kinesis_stream("everything", shards=2)
        exports = {"kinesis": [KinesisConfig(identifier="k", kinesis_stream_name="everything")]}
        client.create_message_stream(wanted := definition(exports=exports))
        sent = [b"%d" % index for index in range(30)]
        for payload in sent:
            client.append_message(wanted.name, payload)
        eventually(exported(client, wanted.name, 29))
        assert sorted(records(aws, "everything")) == sorted(sent)
        status = export_status(client, wanted.name)
        assert status.exported_messages_count == 30
        assert status.exported_bytes_from_stream == sum(map(len, sent))
        assert status.error_message is None
        assert abs(status.last_export_time - time.time() * 1000) < 10_000

    def test_a_missing_stream_is_named_and_retried_until_it_exists(
        self, client: Any, aws: AwsProcess, definition: Definition, eventually: Eventually
    ) -> None:
        exports = {"kinesis": [KinesisConfig(identifier="k", kinesis_stream_name="not-yet")]}
        client.create_message_stream(wanted := definition(exports=exports))
        client.append_message(wanted.name, b"patience")
        eventually(lambda: "not-yet" in (export_status(client, wanted.name).error_message or ""))
        assert export_status(client, wanted.name).last_exported_sequence_number == -1
        aws.create_kinesis_stream("not-yet")
        eventually(exported(client, wanted.name, 0))
        assert records(aws, "not-yet") == [b"patience"]
        assert export_status(client, wanted.name).error_message is None

    def test_an_outage_is_retried(
        self, client: Any, aws: AwsProcess, definition: Definition, eventually: Eventually, run: Callable[..., Any]
    ) -> None:
        aws.create_kinesis_stream("outage")
        exports = {"kinesis": [KinesisConfig(identifier="k", kinesis_stream_name="outage")]}
        run(aws.fault("kinesis", "unavailable", 3))
        client.create_message_stream(wanted := definition(exports=exports))
        client.append_message(wanted.name, b"x")
        eventually(exported(client, wanted.name, 0))
        assert records(aws, "outage") == [b"x"]

    def test_only_the_records_that_failed_are_sent_again(
        self,
        beside_fake: StreamManagerProcess,
        fake_kinesis: FakeKinesis,
        connect: Callable[..., Any],
        definition: Definition,
        eventually: Eventually,
    ) -> None:
        client = connect(beside_fake)
        config = {"identifier": "k", "kinesis_stream_name": "s", "batch_size": 4, "batch_interval_millis": 10**9}
        client.create_message_stream(wanted := definition(exports={"kinesis": [KinesisConfig(**config)]}))
        fake_kinesis.calls.clear()
        fake_kinesis.failing = {1, 3}
        for index in range(4):
            client.append_message(wanted.name, b"%d" % index)
        eventually(exported(client, wanted.name, 3))
        assert fake_kinesis.calls == [[b"0", b"1", b"2", b"3"], [b"1", b"3"]]
        assert len(set(fake_kinesis.keys)) == len(fake_kinesis.keys), "partition keys are random"

    def test_a_batch_waits_for_its_size(
        self,
        beside_fake: StreamManagerProcess,
        fake_kinesis: FakeKinesis,
        connect: Callable[..., Any],
        definition: Definition,
        eventually: Eventually,
    ) -> None:
        client = connect(beside_fake)
        config = {"identifier": "k", "kinesis_stream_name": "s", "batch_size": 3, "batch_interval_millis": 10**9}
        client.create_message_stream(wanted := definition(exports={"kinesis": [KinesisConfig(**config)]}))
        fake_kinesis.calls.clear()
        for index in range(7):
            client.append_message(wanted.name, b"%d" % index)
        eventually(exported(client, wanted.name, 5))
        assert fake_kinesis.calls == [[b"0", b"1", b"2"], [b"3", b"4", b"5"]]

    def test_a_batch_goes_out_when_its_oldest_message_is_as_old_as_the_interval(
        self,
        beside_fake: StreamManagerProcess,
        fake_kinesis: FakeKinesis,
        connect: Callable[..., Any],
        definition: Definition,
        eventually: Eventually,
    ) -> None:
        client = connect(beside_fake)
        config = KinesisConfig(identifier="k", kinesis_stream_name="s", batch_interval_millis=60_000)
        client.create_message_stream(wanted := definition(exports={"kinesis": [config]}))
        fake_kinesis.calls.clear()
        began = time.monotonic()
        for index in range(2):
            client.append_message(wanted.name, b"%d" % index)
        eventually(exported(client, wanted.name, 1))
        assert fake_kinesis.calls == [[b"0", b"1"]]
        assert time.monotonic() - began >= 0.6, "60 s, of which each lasts 10 ms here"

    def test_a_request_stays_below_five_mebibytes(
        self,
        beside_fake: StreamManagerProcess,
        fake_kinesis: FakeKinesis,
        connect: Callable[..., Any],
        definition: Definition,
        eventually: Eventually,
    ) -> None:
        client = connect(beside_fake)
        config = KinesisConfig(identifier="k", kinesis_stream_name="s", batch_size=12, batch_interval_millis=10**9)
        client.create_message_stream(wanted := definition(exports={"kinesis": [config]}))
        fake_kinesis.calls.clear()
        for _ in range(12):
            client.append_message(wanted.name, bytes(500_000))
        eventually(exported(client, wanted.name, 9))
        assert [len(call) for call in fake_kinesis.calls] == [10]

    def test_a_disabled_export_rests_and_goes_on_where_it_stopped(
        self, client: Any, aws: AwsProcess, definition: Definition, eventually: Eventually
    ) -> None:
        aws.create_kinesis_stream("switched")

        def with_export(disabled: bool, **more: Any) -> Any:
            export = KinesisConfig(identifier="k", kinesis_stream_name="switched", disabled=disabled)
            return definition(exports={"kinesis": [export]}, **more)

        client.create_message_stream(wanted := with_export(False))
        client.append_message(wanted.name, b"1")
        eventually(exported(client, wanted.name, 0))
        client.update_message_stream(with_export(True, name=wanted.name))
        client.append_message(wanted.name, b"2")
        assert export_status(client, wanted.name).last_exported_sequence_number == 0
        client.update_message_stream(with_export(False, name=wanted.name))
        eventually(exported(client, wanted.name, 1))
        assert records(aws, "switched") == [b"1", b"2"]

    def test_a_new_export_starts_at_its_start_sequence_number(
        self, client: Any, aws: AwsProcess, definition: Definition, eventually: Eventually
    ) -> None:
        aws.create_kinesis_stream("from-three")
        client.create_message_stream(wanted := definition())
        for index in range(5):
            client.append_message(wanted.name, b"%d" % index)
        export = KinesisConfig(identifier="k", kinesis_stream_name="from-three", start_sequence_number=3)
        client.update_message_stream(definition(name=wanted.name, exports={"kinesis": [export]}))
        eventually(exported(client, wanted.name, 4))
        assert records(aws, "from-three") == [b"3", b"4"]

    def test_exporting_frees_no_space(
        self, client: Any, aws: AwsProcess, definition: Definition, eventually: Eventually
    ) -> None:
        aws.create_kinesis_stream("still-there")
        export = KinesisConfig(identifier="k", kinesis_stream_name="still-there")
        client.create_message_stream(wanted := definition(exports={"kinesis": [export]}))
        client.append_message(wanted.name, b"x")
        before = client.describe_message_stream(wanted.name).storage_status.total_bytes
        eventually(exported(client, wanted.name, 0))
        assert client.describe_message_stream(wanted.name).storage_status.total_bytes == before


class TestRestart:
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_nothing_is_lost_and_after_a_clean_end_nothing_repeats(
        self,
        tmp_path: Path,
        aws: AwsProcess,
        run: Callable[..., Any],
        connect: Callable[..., Any],
        definition: Definition,
        eventually: Eventually,
        end: str,
    ) -> None:
        target = f"restart-{end}"
        aws.create_kinesis_stream(target)
        process = StreamManagerProcess(
            tmp_path, region="us-east-1", endpoints={"kinesis": aws.endpoint("kinesis")}, time_scale=0.01
        )
        run(process.start())
        client = connect(process)
        export = KinesisConfig(identifier="k", kinesis_stream_name=target)
        client.create_message_stream(wanted := definition(exports={"kinesis": [export]}))
        for index in range(20):
            client.append_message(wanted.name, b"%d" % index)
        eventually(lambda: export_status(client, wanted.name).last_exported_sequence_number > 0)
        run(getattr(process, end)())
        run(process.start())
        client = connect(process)
        client.append_message(wanted.name, b"20")
        eventually(exported(client, wanted.name, 20))
        run(process.stop())
        found = records(aws, target)
        assert set(found) == {b"%d" % index for index in range(21)}
        if end == "stop":
            assert len(found) == 21


class TestSiteWise:
    @pytest.fixture
    def stream(self, client: Any, definition: Definition) -> str:
        exports = {"iot_sitewise": [IoTSiteWiseConfig(identifier="sw")]}
        client.create_message_stream(wanted := definition(exports=exports))
        name: str = wanted.name
        return name

    def test_every_entry_arrives(self, client: Any, root: Path, stream: str, eventually: Eventually) -> None:
        for index in range(25):
            client.append_message(stream, entry(f"every/{index % 3}", index / 2))
        eventually(exported(client, stream, 24))
        for tag in range(3):
            assert sitewise_values(root, f"every/{tag}") == [index / 2 for index in range(tag, 25, 3)]
        assert export_status(client, stream).error_message is None

    def test_throttled_and_unavailable_requests_are_retried(
        self,
        client: Any,
        root: Path,
        aws: AwsProcess,
        stream: str,
        run: Callable[..., Any],
        eventually: Eventually,
    ) -> None:
        for number, kind in enumerate(("throttle", "throttle_entries", "unavailable")):
            run(aws.fault("iotsitewise", kind, 2))
            client.append_message(stream, entry(f"retried/{kind}"))
            eventually(exported(client, stream, number))
            assert sitewise_values(root, f"retried/{kind}") == [1.5]
        assert export_status(client, stream).exported_messages_count == 3

    @pytest.mark.parametrize(
        ("poison", "problem"),
        [
            (entry("poison", seconds_ago=8 * 24 * 3600), "TimestampOutOfRangeException"),
            (entry("poison", 1e11), "InvalidRequestException"),
            (entry("poison", float("nan")), "not the JSON"),
            (b"\xff", "not the JSON"),
            (b"[]", "not the JSON"),
        ],
        ids=["too-old", "too-large", "nan", "bytes", "no-entry"],
    )
    def test_a_poisoned_message_is_given_up_and_said(
        self, client: Any, root: Path, stream: str, eventually: Eventually, poison: bytes, problem: str
    ) -> None:
        client.append_message(stream, poison)
        eventually(exported(client, stream, 0))
        status = export_status(client, stream)
        assert problem in status.error_message
        assert (status.exported_messages_count, status.exported_bytes_from_stream) == (1, 0)
        alias = f"after/{next(_numbers)}"
        client.append_message(stream, entry(alias))
        eventually(lambda: sitewise_values(root, alias) == [1.5])

    def test_entry_ids_that_repeat_in_a_batch_cost_the_whole_batch(
        self, client: Any, root: Path, definition: Definition, eventually: Eventually
    ) -> None:
        config = IoTSiteWiseConfig(identifier="sw", batch_size=2, batch_interval_millis=10**9)
        client.create_message_stream(wanted := definition(exports={"iot_sitewise": [config]}))
        for _ in range(2):
            client.append_message(wanted.name, entry("repeated", entry_id="same"))
        eventually(exported(client, wanted.name, 1))
        assert sitewise_values(root, "repeated") == []
        assert "InvalidRequestException" in export_status(client, wanted.name).error_message


class TestS3:
    @pytest.fixture
    def bucket(self, aws: AwsProcess) -> str:
        name = f"bucket-{next(_numbers)}"
        aws.create_bucket(name)
        return name

    @pytest.fixture
    def tasks(self, client: Any, definition: Definition) -> Callable[..., tuple[str, str]]:
        """Makes a stream for tasks and one for their status."""

        def make(level: Any = StatusLevel.TRACE, **config: Any) -> tuple[str, str]:
            client.create_message_stream(reports := definition())
            executor = S3ExportTaskExecutorConfig("s3", status_config=StatusConfig(level, reports.name), **config)
            client.create_message_stream(wanted := definition(exports={"s3_task_executor": [executor]}))
            return wanted.name, reports.name

        return make

    @staticmethod
    def task(path: Path, bucket: str, key: str, metadata: dict[str, str] | None = None) -> bytes:
        definition = S3ExportTaskDefinition(
            input_url=path.as_uri(), bucket=bucket, key=key, user_metadata=metadata or {}
        )
        payload: bytes = Util.validate_and_serialize_to_json_bytes(definition)
        return payload

    @staticmethod
    def reports(client: Any, name: str) -> list[Any]:
        newest = client.describe_message_stream(name).storage_status.newest_sequence_number
        if newest < 0:
            return []
        messages = client.read_messages(name, ReadMessagesOptions(0, newest + 1, newest + 1))
        return [Util.deserialize_json_bytes_to_obj(message.payload, StatusMessage) for message in messages]

    def test_a_file_is_uploaded_with_its_metadata_under_a_key_of_the_day(
        self,
        client: Any,
        aws: AwsProcess,
        bucket: str,
        tasks: Callable[..., tuple[str, str]],
        tmp_path: Path,
        eventually: Eventually,
    ) -> None:
        path = tmp_path / "with space.txt"
        path.write_bytes(b"content")
        stream, status = tasks()
        day = time.strftime("%Y/%m/%d", time.gmtime())
        client.append_message(stream, self.task(path, bucket, "a/!{timestamp:yyyy/MM/dd}/b", {"Sluice-Unit": "u1"}))
        eventually(exported(client, stream, 0))
        found = aws.client("s3").get_object(Bucket=bucket, Key=f"a/{day}/b")
        assert (found["Body"].read(), found["Metadata"]) == (b"content", {"sluice-unit": "u1"})
        eventually(lambda: len(self.reports(client, status)) == 2)
        begun, done = self.reports(client, status)
        assert (begun.status, begun.status_level) == (Status.InProgress, StatusLevel.INFO)
        assert (done.status, done.status_level) == (Status.Success, StatusLevel.INFO)
        assert done.status_context.s3_export_task_definition.bucket == bucket
        assert done.status_context.sequence_number == 0
        assert done.status_context.stream_name == stream
        assert path.exists(), "the file is the client's to delete"

    def test_a_large_file_goes_in_parts(
        self,
        client: Any,
        aws: AwsProcess,
        bucket: str,
        tasks: Callable[..., tuple[str, str]],
        tmp_path: Path,
        eventually: Eventually,
    ) -> None:
        path = tmp_path / "large"
        path.write_bytes(bytes(range(256)) * 4096 * 6)
        stream, _ = tasks(size_threshold_for_multipart_upload_bytes=5 << 20)
        client.append_message(stream, self.task(path, bucket, "large", {"k": "v"}))
        eventually(exported(client, stream, 0))
        found = aws.client("s3").get_object(Bucket=bucket, Key="large")
        assert found["Body"].read() == path.read_bytes()
        assert found["ETag"].strip('"').endswith("-2"), "two parts"
        assert found["Metadata"] == {"k": "v"}

    def test_tasks_that_no_retry_would_mend_fail_by_name_and_the_next_goes_on(
        self,
        client: Any,
        aws: AwsProcess,
        bucket: str,
        tasks: Callable[..., tuple[str, str]],
        tmp_path: Path,
        eventually: Eventually,
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        stream, status = tasks(StatusLevel.ERROR)
        client.append_message(stream, self.task(tmp_path / "missing", bucket, "1"))
        client.append_message(stream, self.task(path, "no-such-bucket", "2"))
        client.append_message(stream, b"not a task")
        client.append_message(stream, self.task(path, bucket, "!{timestamp:ww}"))
        client.append_message(stream, self.task(path, bucket, "5"))
        eventually(exported(client, stream, 4))
        assert [o["Key"] for o in aws.client("s3").list_objects_v2(Bucket=bucket)["Contents"]] == ["5"]
        eventually(lambda: len(self.reports(client, status)) == 4)
        failures = self.reports(client, status)
        assert [failure.status for failure in failures] == [Status.Failure] * 4, "successes are below this level"
        for failure, part in zip(failures, (str(tmp_path / "missing"), "no-such-bucket", "task", "ww"), strict=True):
            assert part in failure.message

    def test_an_outage_is_a_warning_and_the_upload_succeeds_later(
        self,
        client: Any,
        aws: AwsProcess,
        bucket: str,
        tasks: Callable[..., tuple[str, str]],
        tmp_path: Path,
        run: Callable[..., Any],
        eventually: Eventually,
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        stream, status = tasks()
        run(aws.fault("s3", "unavailable", 2))
        client.append_message(stream, self.task(path, bucket, "key"))
        eventually(lambda: len(self.reports(client, status)) == 4)
        assert [report.status for report in self.reports(client, status)] == [
            Status.InProgress,
            Status.Warning,
            Status.Warning,
            Status.Success,
        ]
        assert aws.client("s3").get_object(Bucket=bucket, Key="key")["Body"].read() == b"content"

    def test_an_object_that_was_never_uploaded_is_not_there(self, aws: AwsProcess, bucket: str) -> None:
        with pytest.raises(ClientError, match="NoSuchKey"):
            aws.client("s3").get_object(Bucket=bucket, Key="nothing")
