"""JSON lines: what Kinesis and S3 get."""

from __future__ import annotations

import gzip
import json
import random
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.batch import Header, Quality, Sample, SampleBatch, from_samples, sanitize
from stream_exporter.destinations import MAX_RECORD_BYTES
from stream_exporter.kinesis import KinesisEncoder
from stream_exporter.lines import GZIP_OVERHEAD, LineEncoder, cut_lines, gzip_member

EPOCH = "9f2c51aa07be"
SECOND = 1_000_000_000
TIMES = st.one_of(
    st.integers(-(2**62), 2**62),
    st.integers(10**18 - 2 * SECOND, 10**18 + 2 * SECOND),
    st.integers(1_769_860_800 * SECOND, 1_769_860_803 * SECOND),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
    "string": TEXT,
}


@st.composite
def batches(draw: st.DrawFn) -> SampleBatch:
    kind = draw(st.sampled_from(sorted(VALUES)))
    count = draw(st.integers(1, 30))
    value = VALUES[kind]
    samples = []
    for index in range(count):
        null = index > 0 and draw(st.booleans())
        samples.append(
            Sample(
                tag=draw(st.sampled_from(["A", "B/ä", 'C"\\', "D\n"])),
                time=draw(TIMES),
                value=None if null else draw(value),
                quality=draw(st.sampled_from([Quality.UNCERTAIN, Quality.BAD] if null else list(Quality))),
                status=draw(st.one_of(st.just(0), st.integers(1, 2**62), st.sampled_from(["nan", "too-large"]))),
                asset=draw(st.sampled_from(["", "site/area/line1"])),
                unit=draw(st.sampled_from(["", "degC", "µm"])),
                batch=draw(st.sampled_from(["", "B-1042"])),
                extra=draw(st.sampled_from([(), (("shift", "late"),), (("value", "a trap"),)])),
            )
        )
    columns = [part for part in from_samples(samples) if part.type.value == kind]
    return SampleBatch(Header("opcua-collector/line1", EPOCH, draw(st.integers(1, 2**40))), sanitize(columns[0]))


def one(sample: Sample) -> dict[str, Any]:
    (columns,) = from_samples([sample])
    line = LineEncoder().encode(SampleBatch(Header("p/s", EPOCH, 7), columns))
    parsed: dict[str, Any] = json.loads(line)
    return parsed


@given(batches())
def test_a_line_says_everything_that_the_sample_says(batch: SampleBatch) -> None:
    lines = LineEncoder().encode(batch)

    assert lines.endswith(b"\n")
    parsed = [json.loads(line) for line in lines.decode().split("\n")[:-1]]
    assert len(parsed) == len(batch.columns)
    for index, (sample, line) in enumerate(zip(batch.columns.samples(), parsed, strict=True)):
        expected: dict[str, Any] = {
            "tag": sample.tag,
            "asset": sample.asset,
            "unit": sample.unit,
            "batch": sample.batch,
            "shift": dict(sample.extra).get("shift", ""),
            "status": sample.status or "",
        }
        expected = {name: value for name, value in expected.items() if value != ""}
        expected["time_ns"] = sample.time
        expected["value"] = sample.value
        expected["quality"] = sample.quality.name
        expected["id"] = f"{EPOCH}.{batch.header.seq}.{index}"
        expected["time"] = line["time"]
        assert line == expected
        assert type(line["value"]) is type(sample.value)
        assert nanoseconds(line["time"]) == sample.time


def nanoseconds(text: str) -> int:
    """The time of an ISO text with nine decimals, by datetime and so independent of how it was written."""
    whole, fraction = text.removesuffix("Z").split(".")
    assert len(fraction) == 9
    since = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since.days * 86400 + since.seconds) * SECOND + int(fraction)


def test_a_line_is_written_as_documented() -> None:
    (columns,) = from_samples(
        [Sample("Unit1/XMEAS01_AFeed", 1769860800250000000, 0.25052, asset="site/area/line1", unit="kscmh")]
    )

    assert LineEncoder().encode(SampleBatch(Header("opcua-collector/line1", EPOCH, 1042), columns)) == (
        b'{"tag":"Unit1/XMEAS01_AFeed","asset":"site/area/line1","unit":"kscmh",'
        b'"time":"2026-01-31T12:00:00.250000000Z","time_ns":1769860800250000000,"value":0.25052,"quality":"GOOD",'
        b'"id":"9f2c51aa07be.1042.0"}\n'
    )


def test_what_is_empty_is_left_out() -> None:
    assert sorted(one(Sample("T", SECOND, 1.0))) == ["id", "quality", "tag", "time", "time_ns", "value"]


@pytest.mark.parametrize("time", [0, -1, 1, 999_999_999, 999_999_999 * SECOND, 1_000_000_000 * SECOND - 1, 2**62])
def test_times_before_2001_and_far_ahead_are_written_alike(time: int) -> None:
    line = one(Sample("T", time, 1))

    assert (line["time_ns"], nanoseconds(line["time"])) == (time, time)


@settings(max_examples=40)
@given(st.lists(batches(), min_size=1, max_size=5), st.integers(1, 3000))
def test_records_are_whole_lines_and_hold_every_sample_once(parts: list[SampleBatch], target: int) -> None:
    encoded = KinesisEncoder(target).encode(parts, 0)

    everything = b"".join(LineEncoder().encode(batch) for batch in parts)
    assert b"".join(message.payload for message in encoded.messages) == everything
    assert encoded.samples == sum(len(batch.columns) for batch in parts)
    for message in encoded.messages:
        assert message.payload.endswith(b"\n")
        assert message.payload.count(b"\n") == message.samples
        assert len(message.payload) <= target or message.samples == 1


@settings(max_examples=30)
@given(st.lists(batches(), min_size=1, max_size=3))
def test_the_same_range_gives_the_same_records(parts: list[SampleBatch]) -> None:
    used = KinesisEncoder(500)
    used.encode(parts[::-1], 1)

    assert used.encode(parts, 2) == KinesisEncoder(500).encode(parts, 3)


@settings(max_examples=40)
@given(st.lists(batches(), min_size=1, max_size=5), st.integers(1, 3000))
def test_compressed_records_hold_the_lines_of_plain_ones(parts: list[SampleBatch], target: int) -> None:
    plain = KinesisEncoder(target).encode(parts, 0)
    compressed = KinesisEncoder(target, compress=True).encode(parts, 0)

    assert [gzip.decompress(message.payload) for message in compressed.messages] == [
        message.payload for message in plain.messages
    ]
    assert [message.samples for message in compressed.messages] == [message.samples for message in plain.messages]
    assert KinesisEncoder(target, compress=True).encode(parts, 7) == compressed, "else what is missing cannot be found"


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_members_one_after_the_other_are_one_gzip_file(parts: list[bytes]) -> None:
    assert gzip.decompress(b"".join(map(gzip_member, parts))) == b"".join(parts)


def test_a_record_holds_its_limit_also_when_nothing_can_be_compressed() -> None:
    noise = random.Random(1).randbytes(MAX_RECORD_BYTES - GZIP_OVERHEAD)
    assert MAX_RECORD_BYTES - GZIP_OVERHEAD < len(gzip_member(noise)) <= MAX_RECORD_BYTES

    text = "".join(random.Random(2).choices([chr(code) for code in range(0x4E00, 0x9FFF)], k=345_000))
    (columns,) = from_samples([Sample("T", SECOND * n, text[: 345_000 - n]) for n in range(3)])
    batch = SampleBatch(Header("p/s", EPOCH, 1), columns)
    encoded = KinesisEncoder(MAX_RECORD_BYTES, compress=True).encode([batch], 0)
    assert encoded.samples == 3
    assert all(len(message.payload) <= MAX_RECORD_BYTES for message in encoded.messages)


def test_records_fill_up_to_their_target() -> None:
    columns = from_samples([Sample("T", SECOND * index, float(index)) for index in range(5000)])
    encoded = KinesisEncoder(50_000).encode([SampleBatch(Header("p/s", EPOCH, 1), columns[0])], 0)

    assert all(49_000 < len(message.payload) <= 50_000 for message in encoded.messages[:-1])


def test_a_line_that_no_record_can_hold_is_counted_and_costs_itself() -> None:
    (columns,) = from_samples([Sample("T", SECOND * n, text) for n, text in enumerate(["a", "x" * 2**20, "b"])])
    encoded = KinesisEncoder(256_000).encode([SampleBatch(Header("p/s", EPOCH, 1), columns)], 0)

    assert encoded.filtered == {"too-large": 1}
    assert [json.loads(line)["value"] for m in encoded.messages for line in m.payload.splitlines()] == ["a", "b"]
    assert all(len(message.payload) <= MAX_RECORD_BYTES for message in encoded.messages)


def test_nothing_in_gives_nothing_out() -> None:
    assert KinesisEncoder(1000).encode([], 0).messages == ()
    assert cut_lines(b"", 10, 10) == ([], 0)
