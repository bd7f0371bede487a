"""Reads back what the endpoints of a core received, as plain tuples for whoever reconciles.

A delivery is (tag, time_ns, value, quality, id, at_ns): the source time in ns, quality as `GOOD`, `UNCERTAIN` or `BAD`,
the sample's id if it carries one, and the time of acceptance in ns if the destination told it. For SiteWise the tag is
the property alias, and every accepted put counts, not what overwriting left. Kinesis records and S3 objects hold JSON
lines, plain or as gzip, one sample per line, with `tag`, `time_ns`, `value`, `quality` and `id`; a quality left out is
GOOD, a value left out is null.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from localcore.aws import AwsProcess
from localcore.witness import appends_path, puts_path

Delivery = tuple[str, int, float | int | bool | str | None, str, str | None, int | None]

_NS = 1_000_000_000
_GZIP_MAGIC = b"\x1f\x8b"


def sitewise(root: Path) -> Iterator[Delivery]:
    """Every value of every entry that SiteWise accepted, in the order of acceptance."""
    path = puts_path(root)
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            put = orjson.loads(line)
            entry = put["entry"]
            for item in entry["propertyValues"]:
                stamp = item["timestamp"]
                time_ns = stamp["timeInSeconds"] * _NS + stamp.get("offsetInNanos", 0)
                ((member, value),) = item["value"].items()
                value = None if member == "nullValue" else value
                yield entry["propertyAlias"], time_ns, value, item.get("quality", "GOOD"), None, put["at_ns"]


def kinesis(aws: AwsProcess, stream: str) -> Iterator[Delivery]:
    """Every sample of every record in all shards of a Kinesis stream; repeats are not removed."""
    return map(_delivery, kinesis_lines(aws, stream))


def s3(aws: AwsProcess, bucket: str, prefix: str = "") -> Iterator[Delivery]:
    """Every sample of every object below a prefix."""
    return map(_delivery, s3_lines(aws, bucket, prefix))


def kinesis_lines(aws: AwsProcess, stream: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Every line of every record in all shards of a Kinesis stream, as it is, and when it was accepted."""
    api = aws.client("kinesis")
    for page in api.get_paginator("list_shards").paginate(StreamName=stream):
        for shard in page["Shards"]:
            iterator = api.get_shard_iterator(
                StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while iterator:
                answer = api.get_records(ShardIterator=iterator, Limit=1000)
                for record in answer["Records"]:
                    at_ns = int(record["ApproximateArrivalTimestamp"].timestamp() * 1000) * 1_000_000
                    yield from _lines(record["Data"], at_ns)
                iterator = answer["NextShardIterator"] if answer["Records"] else None


def s3_lines(aws: AwsProcess, bucket: str, prefix: str = "") -> Iterator[tuple[dict[str, Any], int]]:
    """Every line of every object below a prefix, as it is, and when the object was stored."""
    api = aws.client("s3")
    for page in api.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            body = api.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            yield from _lines(body, int(item["LastModified"].timestamp() * 1000) * 1_000_000)


def appends(root: Path, stream: str) -> Iterator[tuple[int, int, bytes]]:
    """(sequence number, time of acceptance in ns, payload) of every message that stream manager stored in a stream."""
    path = appends_path(root, stream)
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            append = orjson.loads(line)
            yield append["seq"], append["at_ns"], base64.b64decode(append["payload"])


def _lines(data: bytes, at_ns: int) -> Iterator[tuple[dict[str, Any], int]]:
    if data.startswith(_GZIP_MAGIC):
        data = gzip.decompress(data)
    for line in data.splitlines():
        yield orjson.loads(line), at_ns


def _delivery(line: tuple[dict[str, Any], int]) -> Delivery:
    sample, at_ns = line
    quality = sample.get("quality", "GOOD")
    return sample["tag"], sample["time_ns"], sample.get("value"), quality, sample.get("id"), at_ns
