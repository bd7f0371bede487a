"""All the way: sinks, stream manager and AWS endpoints as processes; what arrives is what was offered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from localcore import Core, received
from sluice.batch import Header, Quality, Sample, SampleBatch, from_samples, sanitize
from stream_exporter.config import AnySink, KinesisSink, S3Sink, SiteWiseSink
from stream_exporter.sinks import make_sink
from stream_exporter.stream_client import StreamClient

KINESIS = KinesisSink(type="kinesis", kinesis_stream="plant-data", pack_interval=0.1)
S3 = S3Sink(type="s3", bucket="plant-archive", prefix="sluice/", pack_interval=0.1, rotate_interval=1.0)
SITEWISE = SiteWiseSink(type="sitewise", nulls="send", pack_interval=0.1)

Told = set[tuple[str, int, float | int | bool | str | None, str]]


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    core = Core(tmp_path)
    await core.start()
    yield core
    await core.stop()


class Sinks:
    """Sinks at work on a core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.sinks: dict[str, Any] = {}

    async def _port(self) -> int:
        return self._core.stream_manager.port

    def add(self, name: str, settings: AnySink) -> Any:
        client = StreamClient(name, self._port, request_timeout=2.0)
        sink: Any = make_sink(name, settings, client, self._core.root / "spool" / name)
        self.sinks[name] = sink
        sink.start()
        return sink

    def offer(self, seqs: Iterable[int]) -> Told:
        """Offer batches of all types and qualities; what they say."""
        said: Told = set()
        for seq in seqs:
            now = time.time_ns() // 1000 * 1000
            values: list[Any] = [1.5 * seq, seq - 3, seq % 2 == 0, f"phase {seq} ä", None]
            samples = [
                Sample(f"T{n}", now, value, Quality.BAD if value is None else Quality(seq % 3), asset="site/line1")
                for n, value in enumerate(values)
            ]
            for number, columns in enumerate(from_samples(samples)):
                batch = SampleBatch(
                    Header("opcua-collector/line1", "9f2c51aa07be", seq * 5 + number), sanitize(columns)
                )
                for sink in self.sinks.values():
                    sink.offer(batch)
            said |= {(sample.tag, sample.time, sample.value, sample.quality.name) for sample in samples}
        return said

    async def until(self, condition: Callable[[], bool], what: str, limit: float = 30.0) -> None:
        deadline = time.monotonic() + limit
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"waited in vain for {what}: {[(n, s.status(), s.ledger.status()) for n, s in self.sinks.items()]}"
                )
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        for sink in self.sinks.values():
            await sink.stop(2.0)


@pytest.fixture
async def sinks(core: Core) -> AsyncIterator[Sinks]:
    sinks = Sinks(core)
    yield sinks
    await sinks.stop()


async def test_everything_arrives_once_and_as_it_was(core: Core, sinks: Sinks) -> None:
    await asyncio.to_thread(core.aws.create_kinesis_stream, "plant-data")
    await asyncio.to_thread(core.aws.create_bucket, "plant-archive")
    sinks.add("kinesis", KINESIS)
    sinks.add("s3", S3)
    sinks.add("sitewise", SITEWISE)

    said = sinks.offer(range(1, 41))

    def arrived(read: Callable[[], Iterable[received.Delivery]], alias: str = "") -> bool:
        found = [(tag.removeprefix(alias), *rest) for tag, *rest in (delivery[:4] for delivery in read())]
        return len(found) == len(said) and {tuple(item) for item in found} == said

    await sinks.until(lambda: arrived(lambda: received.kinesis(core.aws, "plant-data")), "Kinesis")
    await sinks.until(lambda: arrived(lambda: received.sitewise(core.root), "site/line1/"), "SiteWise")
    await sinks.until(lambda: arrived(lambda: received.s3(core.aws, "plant-archive", "sluice/")), "S3")
    await sinks.until(lambda: sinks.sinks["s3"].status()["spool_bytes"] == 0, "the files to be deleted")
    assert [sink.status()["state"] for sink in sinks.sinks.values()] == ["running"] * 3


async def test_missing_destinations_are_told_by_name_hold_nobody_and_get_everything_once_they_exist(
    core: Core, sinks: Sinks
) -> None:
    kinesis = sinks.add("kinesis", KINESIS)
    s3 = sinks.add("s3", S3)
    sitewise = sinks.add("sitewise", SITEWISE)
    s3._first_retask = 0.5

    said = sinks.offer(range(1, 11))

    await sinks.until(lambda: kinesis.status()["state"] == "failed", "word of the missing Kinesis stream")
    assert "make the Kinesis stream plant-data" in kinesis.status()["remedy"]
    await sinks.until(lambda: s3.status()["state"] == "failed", "word of the missing bucket")
    assert "make the bucket plant-archive" in s3.status()["remedy"]
    assert len(list(received.sitewise(core.root))) == len(said)
    assert sitewise.status()["state"] == "running"

    await asyncio.to_thread(core.aws.create_kinesis_stream, "plant-data")
    await asyncio.to_thread(core.aws.create_bucket, "plant-archive")

    await sinks.until(lambda: len(list(received.kinesis(core.aws, "plant-data"))) == len(said), "Kinesis")
    await sinks.until(lambda: len(list(received.s3(core.aws, "plant-archive"))) == len(said), "S3")
    await sinks.until(lambda: s3.status()["state"] == kinesis.status()["state"] == "running", "the conditions to go")


async def test_a_killed_stream_manager_costs_nothing_and_doubles_nothing_in_the_stream(
    core: Core, sinks: Sinks
) -> None:
    await asyncio.to_thread(core.aws.create_kinesis_stream, "plant-data")
    kinesis = sinks.add("kinesis", KINESIS.model_copy(update={"pack_interval": 0.01}))
    said: Told = set()
    for kill in range(2):
        for seq in range(20):
            said |= sinks.offer([kill * 20 + seq + 1])
            await asyncio.sleep(0.005)
            if seq == 10:
                await core.stream_manager.kill()
        await core.stream_manager.start()

    await sinks.until(lambda: kinesis.ledger.waiting == 0, "everything to be appended")
    payloads = [payload for _, _, payload in received.appends(core.root, "SluiceKinesis")]
    assert len(set(payloads)) == len(payloads)
    await sinks.until(
        lambda: (
            {delivery[:4] for delivery in received.kinesis(core.aws, "plant-data")}
            == {(tag, *rest) for tag, *rest in said}
        ),
        "everything to be exported",
    )
