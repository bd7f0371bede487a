"""Streams over the real protocol: the supervised client on the AWS SDK, against the local core's IPC of both nuclei."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc as sdk
import numpy as np
import pytest
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from localcore.ipc import IpcServer
from localcore.profile import PROFILES
from sluice.batch import (
    CLASSIC_MAX_MESSAGE_BYTES,
    LITE_MAX_MESSAGE_BYTES,
    Columns,
    EventBatch,
    SampleBatch,
    Series,
    ValueType,
)
from sluice.config import OutboxSettings
from sluice.delivery import Consumer, Gap
from sluice.ipc import Ipc
from sluice.streams import Inlet, Outlet, Outlets

PUBLISHER, FOLLOWER, FOREIGNER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter", "com.example.Foreigner"
FRAME = {"classic": CLASSIC_MAX_MESSAGE_BYTES, "lite": LITE_MAX_MESSAGE_BYTES}
WINDOW = {"classic": 1_000_000, "lite": 256_000}
STREAM = "opcua-collector/line1"
BOTH = pytest.mark.parametrize("profile", ["classic", "lite"])


def access(**topics: list[str]) -> dict[str, object]:
    """What a recipe's accessControl allows: operation -> resources."""
    policies = {
        name: {"operations": [f"aws.greengrass#{name}"], "resources": resources} for name, resources in topics.items()
    }
    return {"accessControl": {"aws.greengrass.ipc.pubsub": policies}}


def rows(count: int, tags: int = 50) -> Columns:
    rng = np.random.default_rng(count)
    return Columns(
        ValueType.DOUBLE,
        tuple(Series(f"Unit1/XMEAS{i:02d}", "site/area/line1", "kg/h") for i in range(tags)),
        (np.arange(count) % tags).astype(np.int32),
        1_700_000_000_000_000_000 + (np.arange(count) // tags).astype(np.int64) * 1_000_000,
        np.round(rng.normal(50, 5, count), 3),
    )


async def eventually(condition: Callable[[], bool], state: Callable[[], object], limit: float = 60.0) -> None:
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.01)


class Kept:
    """A reader that is done with everything that it gets."""

    def __init__(self, cursors: dict[tuple[str, str], int] | None = None) -> None:
        self.consumer = Consumer(cursors)
        self.parts: list[Columns] = []
        self.numbers: list[int] = []
        self.gaps: list[Gap] = []
        self.samples = 0
        self._done: dict[tuple[str, str], int] = {}

    def has_room(self) -> bool:
        return True

    def take(self, batch: SampleBatch | EventBatch) -> None:
        assert isinstance(batch, SampleBatch)
        self.parts.append(batch.columns)
        self.numbers.append(batch.header.seq)
        self.samples += len(batch.columns)
        self._done[batch.header.stream, batch.header.epoch] = batch.header.seq

    def missed(self, gap: Gap) -> None:
        self.gaps.append(gap)

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        return self._done.get((stream, epoch), 0)


class Site:
    """A core with a producing and a consuming component, each with its own connection."""

    def __init__(self, root: Path, server: IpcServer, publisher: Ipc, follower: Ipc) -> None:
        self.root, self.server, self.publisher, self.follower = root, server, publisher, follower
        self.profile = server.profile.name
        self.longest: dict[str, int] = {}
        for topics in ("sluice/replay/#", "sluice/ack/#"):
            server.observe(topics, self._measure)

    def _measure(self, topic: str, payload: bytes) -> None:
        kind = topic.split("/")[1]
        self.longest[kind] = max(self.longest.get(kind, 0), len(payload))

    @contextlib.asynccontextmanager
    async def producing(self, **options: Any) -> AsyncIterator[Outlet]:
        outlets = await Outlets.open(
            self.publisher,
            "opcua-collector",
            self.root / "outbox",
            OutboxSettings.model_validate({"commitInterval": "20ms"}),
            max_bytes=FRAME[self.profile],
            compress=True,
            **options,
        )
        self.outlets = outlets
        outlet = outlets.outlet("line1")
        await outlets.start()
        try:
            yield outlet
        finally:
            await outlets.close()

    @contextlib.asynccontextmanager
    async def following(self, *readers: Kept, **options: Any) -> AsyncIterator[Inlet]:
        inlet = Inlet(self.follower, "stream-exporter", ["sluice/data/#"], window=WINDOW[self.profile], **options)
        await inlet.start({f"sink{n}": reader for n, reader in enumerate(readers)})
        try:
            yield inlet
        finally:
            await inlet.close()

    def state(self) -> object:
        return self.outlets.status(), self.outlets.ledgers()


@contextlib.asynccontextmanager
async def site(root: Path, profile: str) -> AsyncIterator[Site]:
    server = IpcServer(root / "ipc.socket", PROFILES[profile])
    producing = access(
        PublishToTopic=["sluice/data/opcua-collector/*", "sluice/replay/*/opcua-collector/*"],
        SubscribeToTopic=["sluice/ack/opcua-collector/*"],
    )
    consuming = access(
        PublishToTopic=["sluice/ack/*/stream-exporter"],
        SubscribeToTopic=["sluice/data/*", "sluice/replay/stream-exporter/*"],
    )
    server.configuration(PUBLISHER).merge([], producing, 1.0)
    server.configuration(FOLLOWER).merge([], consuming, 1.0)
    server.configuration(FOREIGNER).merge([], access(PublishToTopic=["sluice/data/*"]), 1.0)
    await server.start()
    clients = [Ipc(socket_path=server.address, token=server.token(name)) for name in (PUBLISHER, FOLLOWER)]
    for client in clients:
        await client.start()
        client.lite = profile == "lite"
    try:
        yield Site(root, server, *clients)
    finally:
        for client in clients:
            await client.close()
        await server.stop()


@BOTH
async def test_every_sample_crosses_the_bus_once_and_unchanged(tmp_path: Path, profile: str) -> None:
    sent, reader = rows(20_000), Kept()
    async with site(tmp_path, profile) as of, of.producing() as outlet, of.following(reader) as inlet:
        for start in range(0, 20_000, 4_000):
            await outlet.submit([sent.slice(start, start + 4_000)])
        await eventually(lambda: reader.samples == 20_000, lambda: (inlet.status(), of.state()))
        await eventually(lambda: of.outlets.ledgers()[STREAM]["acknowledged"] == 20_000, of.state)
        assert (inlet.counters["malformed"], reader.gaps) == (0, [])
    assert np.array_equal(np.concatenate([part.value for part in reader.parts]), sent.value)
    assert np.array_equal(np.concatenate([part.t for part in reader.parts]), sent.t)
    assert [row.tag for part in reader.parts for row in part.samples()] == [sent.series[s].tag for s in sent.s.tolist()]


@pytest.mark.alone
@BOTH
async def test_a_consumer_that_was_away_catches_up_ten_times_faster_than_data_comes(
    tmp_path: Path, profile: str
) -> None:
    """Half the rates of design section 8, because core, producer and consumer share one process here."""
    rate = {"classic": 50_000, "lite": 10_000}[profile]
    piece, seconds = rate // 10, 20
    reader = Kept()
    async with site(tmp_path, profile) as of, of.producing(announce_every=0.2) as outlet:
        async with of.following(reader):
            await outlet.submit([rows(piece)])
            await eventually(lambda: reader.samples == piece, of.state)
        samples = rows(piece)
        for _ in range(seconds):
            await asyncio.gather(*(outlet.submit([samples]) for _ in range(10)))
        again = Kept(reader.consumer.cursors())
        began = time.monotonic()
        live = asyncio.create_task(come(outlet, samples))
        async with of.following(again) as inlet:
            await eventually(lambda: again.samples >= rate * seconds, lambda: (inlet.status(), of.state()))
            took = time.monotonic() - began
            live.cancel()
            await eventually(lambda: again.numbers[-1] == outlet.newest, lambda: (inlet.status(), of.state()))
        assert again.numbers == list(range(reader.numbers[-1] + 1, outlet.newest + 1))
        assert took < seconds / 10, f"{took:.2f} s for {seconds} s of data"
        assert of.longest["replay"] <= FRAME[profile]
        assert of.longest["ack"] <= LITE_MAX_MESSAGE_BYTES


async def come(outlet: Outlet, samples: Columns) -> None:
    """Live data, ten pieces a second."""
    while True:
        await outlet.submit([samples])
        await asyncio.sleep(0.1)


@BOTH
async def test_a_producer_that_restarts_goes_on_and_what_it_had_not_published_comes(
    tmp_path: Path, profile: str
) -> None:
    reader = Kept()
    async with site(tmp_path, profile) as of, of.following(reader) as inlet:
        async with of.producing() as outlet:
            await outlet.submit([rows(100)])
            await eventually(lambda: reader.numbers == [1], inlet.status)
        await of.publisher.close()
        of.publisher = Ipc(socket_path=of.server.address, token=of.server.token(PUBLISHER))
        await of.publisher.start()
        async with of.producing() as outlet:
            await asyncio.gather(*(outlet.submit([rows(100)]) for _ in range(9)))
            await eventually(lambda: len(reader.numbers) == 10, lambda: (inlet.status(), of.state()))
        await of.publisher.close()
    assert (reader.numbers, reader.gaps, reader.consumer.counters["new_epochs"]) == (list(range(1, 11)), [], 0)


async def test_a_nucleus_that_restarts_in_the_midst_costs_nothing(tmp_path: Path) -> None:
    """On lite a component must be started anew with its nucleus: that is a restart of producer and consumer."""
    reader = Kept()
    async with (
        site(tmp_path, "classic") as of,
        of.producing(announce_every=0.2) as outlet,
        of.following(reader) as inlet,
    ):
        await outlet.submit([rows(10)])
        await eventually(lambda: reader.numbers == [1], inlet.status)
        restarting = asyncio.create_task(of.server.restart())
        for _ in range(40):
            await outlet.submit([rows(10)])
        await restarting
        await outlet.submit([rows(10)])
        await eventually(lambda: len(reader.numbers) == 42, lambda: (inlet.status(), of.state()))
    assert (reader.numbers, reader.gaps) == (list(range(1, 43)), [])


async def test_on_lite_a_foreign_message_kills_the_subscription_silently_and_nothing_is_lost(tmp_path: Path) -> None:
    reader = Kept()
    async with (
        site(tmp_path, "lite") as of,
        of.producing(announce_every=0.2) as outlet,
        of.following(reader, quiet_after=0.9) as inlet,
    ):
        await outlet.submit([rows(10)])
        await eventually(lambda: reader.numbers == [1], inlet.status)
        address, token = of.server.address, of.server.token(FOREIGNER)
        connection = await asyncio.to_thread(sdk.connect, ipc_socket=address, authtoken=token, timeout=5.0)
        foreigner = GreengrassCoreIPCClientV2(client=connection, executor=None)
        too_many = model.PublishMessage(json_message=model.JsonMessage(message={"list": list(range(60))}))
        future = foreigner.publish_to_topic_async(topic="sluice/data/com.example/x", publish_message=too_many)
        await asyncio.wait_for(asyncio.wrap_future(future), 30)
        await outlet.submit([rows(10)])
        await eventually(lambda: inlet.counters["renewals"] >= 1, inlet.status)
        await outlet.submit([rows(10)])
        await eventually(lambda: reader.numbers == [1, 2, 3], lambda: (inlet.status(), of.state()))
        await asyncio.to_thread(foreigner.close)


async def test_without_a_consumer_the_outbox_grows_and_the_memory_does_not(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])

    async with site(tmp_path, "classic") as of, of.producing() as outlet:
        samples = rows(20_000)
        for _ in range(10):
            await asyncio.gather(*(outlet.submit([samples]) for _ in range(10)))
        before, kept = resident(), of.outlets.status()["bytes"]
        for _ in range(40):
            await asyncio.gather(*(outlet.submit([samples]) for _ in range(10)))
        grown = resident() - before
        assert of.outlets.status()["bytes"] > 4 * kept > 10_000_000
        assert of.outlets.status()["queued_bytes"] <= 4_000_000
        assert grown < 20_000, f"{grown} KB"
