"""The S3 sink with stream manager and S3 as processes that are killed and lose power: each sample is in one object."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localcore import Core, received
from stream_exporter import files as files_module
from stream_exporter.config import S3Sink

LINES = ("opcua-collector/line1", "opcua-collector/line2/backfill")
S3 = S3Sink(type="s3", bucket="plant-archive", prefix="sluice/", pack_interval=0.05, rotate_interval=1.0).model_copy(
    update={"rotate_size": 1_500}
)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    core = Core(tmp_path / "core")
    await core.start()
    yield core
    await core.stop()


@pytest.fixture
def at(bench: Any, core: Core, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bench, with the core's stream manager."""
    monkeypatch.setattr(files_module, "TICK", 0.1)
    bench.port = core.stream_manager.port
    return bench


def arrived(core: Core) -> list[str]:
    """The id of each line in each object, repeats included; of which stream, its tag's asset says."""
    return sorted(f"{tag} {id_}" for tag, _, _, _, id_, _ in received.s3(core.aws, "plant-archive", "sluice/"))


async def until_all_arrived(at: Any, core: Core, said: list[str]) -> None:
    deadline = asyncio.get_running_loop().time() + 60.0
    while (found := await asyncio.to_thread(arrived, core)) != sorted(said):
        states = [(sink.status(), sink.ledger.status()) for sink in at.sinks]
        repeats = len(found) - len(set(found))
        assert asyncio.get_running_loop().time() < deadline, (len(found), repeats, len(said), states)
        await asyncio.sleep(0.1)


class Line:
    """Publishes batches of one stream whose tags are its own."""

    def __init__(self, at: Any, stream: str) -> None:
        self._at = at
        self._stream = stream
        self._seq = 0

    def publish(self) -> list[str]:
        self._seq += 1
        batch = self._at.batch(self._seq, stream=self._stream)
        samples = list(batch.columns.samples())
        named = self._at.batch(self._seq, [replace(s, tag=f"{self._stream}/{s.tag}") for s in samples], self._stream)
        self._at.publish(named)
        return [f"{s.tag} {batch.header.epoch}.{self._seq}.{n}" for n, s in enumerate(named.columns.samples())]


async def test_kills_and_power_cuts_in_quick_succession_lose_and_double_nothing(at: Any, core: Core) -> None:
    await asyncio.to_thread(core.aws.create_bucket, "plant-archive")
    dice = random.Random(1)
    at.sink(S3)
    lines = [Line(at, stream) for stream in LINES]
    said: list[str] = []
    faults = ["sink", "sink", "stream manager", "power", "power", "sink", "both"]
    dice.shuffle(faults)
    for fault in faults:
        for _ in range(dice.randrange(10, 40)):
            said += dice.choice(lines).publish()
            await asyncio.sleep(0.01)
        if fault in ("sink", "both", "power"):
            await at.kill()
        if fault in ("stream manager", "both"):
            await core.stream_manager.kill()
            await core.stream_manager.start()
        if fault == "power":
            await core.power_cut()
            await core.boot()
        at.port = core.stream_manager.port
        if not at.sinks:
            (sink,) = await at.restart()
            sink.uploads.silence = 3.0  # a power cut takes words of success

    await until_all_arrived(at, core, said)
    await at.until(lambda: all(at.store.units(sink.name) == [] for sink in at.sinks), "every file to be forgotten")
    assert list((at.root / "spool" / "test").glob("*.jsonl.gz")) == []


async def test_a_bucket_that_is_made_late_gets_everything_once(at: Any, core: Core) -> None:
    sink = at.sink(S3)
    sink.uploads.first_pause = 0.5
    line = Line(at, LINES[0])
    said = [identity for _ in range(30) for identity in line.publish()]
    await at.until(lambda: sink.failures > 0, "the failure")
    assert "make the bucket plant-archive" in sink.status()["remedy"]

    await asyncio.to_thread(core.aws.create_bucket, "plant-archive")

    await until_all_arrived(at, core, said)
    await at.until(lambda: sink.status()["state"] == "running", "the condition to go")
    await at.until(lambda: bool(at.acknowledged() == 30), "the acknowledgement")
