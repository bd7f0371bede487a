"""moto's services answer boto3, faults are used up, and what was received is read back as plain tuples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcore import received
from localcore.aws import AwsProcess
from localcore.child import ChildError


def lines(*samples: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(sample).encode() + b"\n" for sample in samples)


FIRST = {"tag": "T1", "time_ns": 1_700_000_000_000_001_000, "value": 1.5, "quality": "GOOD", "id": "e.1.0"}
SECOND = {"tag": "T2", "time_ns": 1_700_000_000_000_002_000, "quality": "BAD", "id": "e.1.1"}
THIRD = {"tag": "T1", "time_ns": 1_700_000_000_000_003_000, "value": "text"}
EXPECTED = [
    ("T1", 1_700_000_000_000_001_000, 1.5, "GOOD", "e.1.0"),
    ("T2", 1_700_000_000_000_002_000, None, "BAD", "e.1.1"),
    ("T1", 1_700_000_000_000_003_000, "text", "GOOD", None),
]


def test_samples_are_read_from_all_shards_of_a_kinesis_stream(aws: AwsProcess) -> None:
    aws.create_kinesis_stream("shards", shards=3)
    kinesis = aws.client("kinesis")
    kinesis.put_record(StreamName="shards", Data=gzip.compress(lines(FIRST, SECOND)), PartitionKey="a")
    for index in range(20):
        kinesis.put_record(StreamName="shards", Data=lines(THIRD), PartitionKey=str(index))
    found = list(received.kinesis(aws, "shards"))
    assert sorted({delivery[:5] for delivery in found}, key=str) == sorted(EXPECTED, key=str)
    assert len(found) == 22
    assert all(at_ns is not None and at_ns > 1_700_000_000 * 10**9 for *_, at_ns in found)


def test_samples_are_read_from_the_objects_below_a_prefix(aws: AwsProcess) -> None:
    aws.create_bucket("objects")
    s3 = aws.client("s3")
    s3.put_object(
        Bucket="objects", Key="sluice/1.jsonl.gz", Body=gzip.compress(lines(FIRST)) + gzip.compress(lines(SECOND))
    )
    s3.put_object(Bucket="objects", Key="sluice/2.jsonl", Body=lines(THIRD))
    s3.put_object(Bucket="objects", Key="other/3", Body=b"not ours")
    assert [delivery[:5] for delivery in received.s3(aws, "objects", "sluice/")] == EXPECTED


def test_nothing_received_is_nothing_read(aws: AwsProcess, tmp_path: Path) -> None:
    assert list(received.sitewise(tmp_path)) == []
    assert list(received.appends(tmp_path, "none")) == []
    aws.create_bucket("empty")
    assert list(received.s3(aws, "empty")) == []


def test_secrets_are_kept(aws: AwsProcess) -> None:
    secrets = aws.client("secretsmanager")
    secrets.create_secret(Name="plant/opc", SecretString='{"password":"p"}')
    assert secrets.get_secret_value(SecretId="plant/opc")["SecretString"] == '{"password":"p"}'


@pytest.mark.parametrize("service", ["s3", "kinesis", "secretsmanager"])
def test_an_ordered_outage_answers_503_and_ends(aws: AwsProcess, run: Callable[..., Any], service: str) -> None:
    client = aws.client(service)
    call = {"s3": "list_buckets", "kinesis": "list_streams", "secretsmanager": "list_secrets"}[service]
    run(aws.fault(service, "unavailable", 50))
    with pytest.raises(ClientError, match="503"):
        getattr(client, call)()
    run(aws.fault(service, "unavailable", 0))
    getattr(client, call)()


def test_an_unknown_fault_is_refused_by_name(aws: AwsProcess, run: Callable[..., Any]) -> None:
    with pytest.raises(ChildError, match="earthquake"):
        run(aws.fault("s3", "earthquake"))


def test_a_restart_keeps_the_ports(tmp_path: Path, run: Callable[..., Any]) -> None:
    process = AwsProcess(tmp_path, region="eu-central-1")
    run(process.start())
    before = [process.endpoint(service) for service in ("s3", "kinesis", "iotsitewise")]
    process.create_bucket("gone-afterwards")
    run(process.kill())
    assert not process.running
    run(process.start())
    assert [process.endpoint(service) for service in ("s3", "kinesis", "iotsitewise")] == before
    assert process.client("s3").list_buckets()["Buckets"] == []
    run(process.stop())
