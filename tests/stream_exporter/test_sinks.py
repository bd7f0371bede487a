"""Sinks: each sample is appended once or accounted for, and no sink holds another."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from sluice.batch import Sample
from stream_exporter.config import KinesisSink, SiteWiseSink

KINESIS = KinesisSink(type="kinesis", kinesis_stream="plant-data", pack_interval=0.02)
SITEWISE = SiteWiseSink(type="sitewise", pack_interval=0.02)


def lines(payloads: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for payload in payloads for line in payload.splitlines()]


def ids(bench: Any, stream: str = "SluiceKinesis") -> list[str]:
    return [line["id"] for line in lines(bench.stored(stream))]


def balanced(sink: Any) -> bool:
    ledger = sink.ledger.status()
    parts = ledger["filtered"] + ledger["appended"] + ledger["dropped"] + ledger["waiting"]
    return bool(ledger["received"] == parts)


async def test_every_sample_is_appended_once(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    for seq in range(1, 31):
        bench.publish(bench.batch(seq))
        assert balanced(sink)
    await bench.until(lambda: sink.ledger.appended == 300, "all samples")

    found = lines(bench.stored("SluiceKinesis"))
    assert sorted(line["id"] for line in found) == sorted(
        f"{bench.epoch}.{seq}.{index}" for seq in range(1, 31) for index in range(10)
    )
    assert sink.ledger.status()["waiting"] == 0
    assert sink.status()["state"] == "running"


async def test_what_comes_within_the_pack_interval_is_packed(bench: Any) -> None:
    sink = bench.sink(SITEWISE.model_copy(update={"pack_interval": 0.3}))
    for seq in range(1, 6):
        bench.publish(bench.batch(seq))
    await bench.until(lambda: sink.ledger.appended == 50, "all samples")

    entries = [json.loads(payload) for payload in bench.stored("SluiceSiteWise")]
    assert [len(entry["propertyValues"]) for entry in entries] == [10, 10, 5, 10, 10, 5]


async def test_streams_and_epochs_are_never_packed_together(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    for seq in range(1, 4):
        bench.publish(bench.batch(seq))
        bench.publish(bench.batch(seq, stream="opcua-collector/line2"))
    await bench.until(lambda: sink.ledger.appended == 60, "all samples")

    assert [len(lines([payload])) for payload in bench.stored("SluiceKinesis")] == [30, 30]


async def test_the_stream_is_made_with_files_and_overwriting_and_its_export(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")

    definition = bench.server.streams.get("SluiceKinesis").definition
    assert (definition.strategy.name, definition.persistence.name) == ("OVERWRITE_OLDEST_DATA", "FILE")
    assert (definition.max_size, definition.segment_size) == (256 << 20, 16 << 20)
    (export,) = definition.exports
    assert (export.kind, export.wire["kinesisStreamName"]) == ("kinesis", "plant-data")


@pytest.mark.parametrize("kind", ["rst", "fin", "split", "delay", "lose_reply"])
@pytest.mark.parametrize("settings", [KINESIS, SITEWISE], ids=["kinesis", "sitewise"])
async def test_an_append_without_an_answer_is_looked_up_and_not_repeated(
    bench: Any, kind: str, settings: KinesisSink | SiteWiseSink
) -> None:
    bench.fault(kind, operation="append", seconds=0.6)
    sink = bench.sink(settings)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")
    bench.publish(bench.batch(2))
    await bench.until(lambda: sink.ledger.appended == 20, "the samples after it")

    messages = bench.stored(settings.stream)
    assert len(set(messages)) == len(messages) == (2 if settings is KINESIS else 4)
    assert sink.status()["uncertain_appends"] == 1


async def test_an_append_that_was_lost_on_its_way_is_appended_again(bench: Any) -> None:
    bench.fault("rst", operation="append", accept=False)
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")

    assert len(bench.stored("SluiceKinesis")) == 1


async def test_a_stream_manager_that_is_away_is_waited_for_and_reported(bench: Any) -> None:
    await bench.server.stop()
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.status()["state"] == "failed", "the report")
    status = sink.status()
    assert f"127.0.0.1:{bench.port}" in status["why"]
    assert "aws.greengrass.StreamManager" in status["remedy"]
    assert sink.ledger.status()["waiting"] == 10

    await bench.start_server()

    await bench.until(lambda: sink.ledger.appended == 10, "the samples")
    assert sink.status()["state"] == "running"


async def test_what_somebody_deleted_with_its_stream_comes_again_in_a_new_one(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")
    bench.server.streams.delete("SluiceKinesis")

    bench.publish(bench.batch(2))

    await bench.until(lambda: len(ids(bench)) == 20, "what was lost and the samples after it")
    assert len(set(ids(bench))) == 20
    await bench.until(lambda: sink.ledger.status()["waiting"] == 0, "the ledger")
    assert sink.ledger.appended == sink.ledger.received == 20
    assert sink.status()["shortened"] == 1
    assert "batches 1 to 1 of opcua-collector/line1" in sink.status()["may_repeat"][0]
    bench.fault("lose_reply", operation="append")
    bench.publish(bench.batch(3))
    await bench.until(lambda: sink.ledger.appended == 30, "the samples without an answer")
    assert len(ids(bench)) == 30


async def test_a_stream_that_was_deleted_after_its_export_costs_nothing(bench: Any) -> None:
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")
    bench.export("SluiceKinesis")
    await bench.until(lambda: bench.acknowledged() == 1, "the export")
    bench.server.streams.delete("SluiceKinesis")

    bench.publish(bench.batch(2))

    await bench.until(lambda: sink.ledger.appended == 20, "the samples after it")
    assert ids(bench) == [f"{bench.epoch}.2.{index}" for index in range(10)]
    assert "may_repeat" not in sink.status()


async def test_a_sink_that_hangs_holds_no_other_and_has_room_for_no_more_than_it_may(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        port = black_hole.getsockname()[1]
        stuck = bench.sink(SITEWISE.model_copy(update={"max_waiting": 1000}), name="stuck", timeout=60.0, port=port)
        sink = bench.sink(KINESIS, name="well")
        for seq in range(1, 151):
            bench.publish(bench.batch(seq))
            assert balanced(stuck)
        await bench.until(lambda: sink.ledger.appended == 1500, "the other sink's samples")

        assert stuck.status()["uncertain_appends"] == 0, "the stuck sink still hangs in its first call"
        assert stuck.ledger.status()["waiting"] == 1000
        assert not stuck.has_room()
        assert stuck.ledger.status()["dropped"] == 0
        assert bench.acknowledged() == 0, "a required sink holds what it has not exported"


async def test_long_texts_that_wait_are_bounded_by_their_bytes(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        stuck = bench.sink(KINESIS, timeout=60.0, port=black_hole.getsockname()[1])
        for seq in range(1, 61):
            bench.publish(bench.batch(seq, [Sample("Log", time.time_ns(), "x" * 1_000_000)]))

        assert stuck.ledger.status()["waiting"] == 32, "of 1 MB each, in 500,000 times 64 bytes"


async def test_what_there_was_no_room_for_comes_when_there_is(bench: Any) -> None:
    await bench.server.stop()
    sink = bench.sink(KINESIS.model_copy(update={"max_waiting": 1000}))
    for seq in range(1, 301):
        bench.publish(bench.batch(seq))
    assert sink.ledger.waiting == 1000

    await bench.start_server()

    await bench.until(lambda: sink.ledger.appended == 3000, "all samples")
    assert len(set(ids(bench))) == len(ids(bench)) == 3000


async def test_stopping_appends_what_was_taken(bench: Any) -> None:
    sink = bench.sink(KINESIS.model_copy(update={"pack_interval": 60.0}))
    for seq in range(1, 4):
        bench.publish(bench.batch(seq))

    await sink.stop(2.0)

    assert sink.ledger.status()["waiting"] == 0
    assert len(lines(bench.stored("SluiceKinesis"))) == 30


async def test_stopping_while_stream_manager_hangs_ends_in_time_and_says_what_is_left(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        sink = bench.sink(KINESIS, timeout=30.0, port=black_hole.getsockname()[1])
        bench.publish(bench.batch(1))
        began = time.monotonic()
        await sink.stop(0.3)

        assert time.monotonic() - began < 15.0, "half of what the call would take"
        assert sink.ledger.status()["waiting"] == 10
        assert bench.acknowledged() == 0


async def test_what_the_destination_cannot_take_is_filtered_and_shown_with_its_remedy(bench: Any) -> None:
    sink = bench.sink(SITEWISE)
    bench.publish(bench.batch(1, [Sample("Old", 1_000_000_000, 1.0), Sample("New", time.time_ns(), 1.0)]))
    await bench.until(lambda: sink.ledger.appended == 1, "the good sample")

    assert sink.ledger.status()["filtered_by"] == {"too-old": 1}
    shown = sink.status()["filtered"]["too-old"]
    assert "'Old'" in shown["example"]
    assert "7 days" in shown["remedy"]


async def test_a_message_that_the_server_finds_too_large_is_given_up_and_counted(bench: Any) -> None:
    sink = bench.sink(KINESIS.model_copy(update={"stream_size": 20_000, "segment_size": 2048}))
    text = [Sample("A", time.time_ns(), "x" * 4000)]
    bench.publish(bench.batch(1, text, stream="opcua-collector/texts"), bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples that fit")

    assert sink.ledger.status()["dropped_by"] == {"message-too-large": 1}
    assert balanced(sink)
    bench.export("SluiceKinesis")
    await bench.until(lambda: bench.acknowledged("opcua-collector/texts") == 1, "the acknowledgement of it")


async def test_a_stream_that_was_changed_is_put_right_and_exports_of_others_stay(bench: Any) -> None:
    bench.server.streams.create(
        {
            "name": "SluiceKinesis",
            "strategyOnFull": 0,
            "exportDefinition": {"kinesis": [{"identifier": "theirs", "kinesisStreamName": "elsewhere"}]},
        }
    )
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")

    definition = bench.server.streams.get("SluiceKinesis").definition
    assert definition.strategy.name == "OVERWRITE_OLDEST_DATA"
    assert {export.identifier for export in definition.exports} == {"theirs", "sluice"}


async def test_a_sink_under_another_name_goes_on_with_the_export_that_is_there(bench: Any) -> None:
    bench.publish(bench.batch(1))
    for name in ("before", "after"):
        sink = bench.sink(KINESIS, name=name)
        await bench.until(lambda sink=sink: sink.ledger.appended == 10, "the samples")
        await sink.stop(1.0)

    assert len(bench.server.streams.get("SluiceKinesis").definition.exports) == 1, "else each record went out twice"


async def test_drift_that_cannot_be_mended_is_reported(bench: Any) -> None:
    bench.server.streams.create({"name": "SluiceKinesis", "strategyOnFull": 1, "persistence": 1})
    sink = bench.sink(KINESIS)
    bench.publish(bench.batch(1))
    await bench.until(lambda: sink.ledger.appended == 10, "the samples")

    assert "persistence is Memory instead of File" in sink.status()["why"]
    assert "another `stream`" in sink.status()["remedy"]
