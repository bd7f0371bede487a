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

KINESIS = KinesisSink(type="kinesis", kinesis_stream="plant-data", pack_interval=0.1)
S3 = S3Sink(type="s3", bucket="plant-archive", prefix="sluice/", pack_interval=0.1, rotate_interval=1.0)
SITEWISE = SiteWiseSink(type="sitewise", nulls="send", pack_interval=0.1)

Told = set[tuple[str, int, float | int | bool | str | None, str]]


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    core = Core(tmp_path / "core")
    await core.start()
    yield core
    await core.stop()


class Sinks:
    """Sinks at work on a core, read by a bench."""

    def __init__(self, core: Core, bench: Any) -> None:
        self._bench = bench
        self._said = 0
        self.published = 0  # batches
        bench.root = core.root
        bench.port = core.stream_manager.port

    @property
    def sinks(self) -> dict[str, Any]:
        return {sink.name: sink for sink in self._bench.sinks}

    def add(self, name: str, settings: AnySink) -> Any:
        return self._bench.sink(settings, name=name, timeout=2.0)

    def offer(self, count: int) -> Told:
        """Publish batches of all types and qualities; what they say."""
        said: Told = set()
        for _ in range(count):
            self._said += 1
            now = time.time_ns() // 1000 * 1000
            quality = Quality(self._said % 3)
            values: list[Any] = [1.5 * self._said, self._said - 3, self._said % 2 == 0, f"phase {self._said} ä", None]
            samples = [
                Sample(f"T{n}", now, value, Quality.BAD if value is None else quality, asset="site/line1")
                for n, value in enumerate(values)
            ]
            for columns in from_samples(samples):
                self.published += 1
                header = Header("opcua-collector/line1", "9f2c51aa07be", self.published)
                self._bench.publish(SampleBatch(header, sanitize(columns)))
            said |= {(sample.tag, sample.time, sample.value, sample.quality.name) for sample in samples}
        return said

    async def until(self, condition: Callable[[], bool], what: str, limit: float = 30.0) -> None:
        deadline = time.monotonic() + limit
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                states = [(name, sink.status(), sink.ledger.status()) for name, sink in self.sinks.items()]
                raise AssertionError(f"waited in vain for {what}: {states}")
            await asyncio.sleep(0.1)


@pytest.fixture
def sinks(core: Core, bench: Any) -> Sinks:
    return Sinks(core, bench)


async def test_everything_arrives_once_and_as_it_was(core: Core, sinks: Sinks) -> None:
    await asyncio.to_thread(core.aws.create_kinesis_stream, "plant-data")
    await asyncio.to_thread(core.aws.create_bucket, "plant-archive")
    sinks.add("kinesis", KINESIS)
    sinks.add("s3", S3)
    sinks.add("sitewise", SITEWISE)

    said = sinks.offer(40)

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
    s3.uploads.first_pause = 0.5

    said = sinks.offer(10)

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


@pytest.mark.parametrize("fault", ["stream manager", "exporter", "power"])
async def test_kills_and_power_cuts_lose_nothing_on_the_way_to_kinesis(
    core: Core, sinks: Sinks, bench: Any, fault: str
) -> None:
    await asyncio.to_thread(core.aws.create_kinesis_stream, "plant-data")
    sinks.add("kinesis", KINESIS.model_copy(update={"pack_interval": 0.01}))
    said: Told = set()
    for _ in range(2):
        for _ in range(20):
            said |= sinks.offer(1)
            await asyncio.sleep(0.005)
        if fault != "stream manager":
            await bench.kill()
        if fault == "stream manager":
            await core.stream_manager.kill()
            await core.stream_manager.start()
        elif fault == "power":
            await core.power_cut()
            await core.boot()
        bench.port = core.stream_manager.port
        if not bench.sinks:
            await bench.restart()
        said |= sinks.offer(5)

    def exported() -> bool:
        return {delivery[:4] for delivery in received.kinesis(core.aws, "plant-data")} == said

    await sinks.until(exported, "everything to be exported")
    await sinks.until(lambda: bool(bench.acknowledged() == sinks.published), "all of it to be acknowledged")
    if fault != "power":
        payloads = [payload for _, _, payload in received.appends(core.root, "SluiceKinesis")]
        assert len(set(payloads)) == len(payloads)
    ledger = sinks.sinks["kinesis"].ledger
    assert (ledger.received, ledger.appended, ledger.waiting) == (len(said), len(said), 0)
