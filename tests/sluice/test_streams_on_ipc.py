"""Streams over the real protocol: the supervised client on the AWS SDK, against the local core's IPC of both nuclei."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import awsiot.greengrasscoreipc as sdk
import numpy as np
import pytest
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from localcore.ipc import IpcServer
from localcore.profile import PROFILES
from sluice.batch import CLASSIC_MAX_MESSAGE_BYTES, LITE_MAX_MESSAGE_BYTES, Columns, SampleBatch, Series, ValueType
from sluice.ipc import Ipc
from sluice.streams import BatchHandler, Inlet, Outlet

PUBLISHER, FOLLOWER, FOREIGNER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter", "com.example.Foreigner"
FRAME = {"classic": CLASSIC_MAX_MESSAGE_BYTES, "lite": LITE_MAX_MESSAGE_BYTES}


def access(operation: str, resource: str) -> dict[str, object]:
    policy = {"operations": [f"aws.greengrass#{operation}"], "resources": [resource]}
    return {"accessControl": {"aws.greengrass.ipc.pubsub": {"policy": policy}}}


def rows(count: int, tags: int = 50) -> Columns:
    rng = np.random.default_rng(count)
    return Columns(
        ValueType.DOUBLE,
        tuple(Series(f"Unit1/XMEAS{i:02d}", "site/area/line1", "kg/h") for i in range(tags)),
        (np.arange(count) % tags).astype(np.int32),
        1_700_000_000_000_000_000 + (np.arange(count) // tags).astype(np.int64) * 1_000_000,
        np.round(rng.normal(50, 5, count), 3),
    )


async def eventually(condition: Callable[[], bool], state: Callable[[], object], limit: float = 30.0) -> None:
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.01)


class Site:
    """A core with a publishing and a following component, each with its own connection."""

    def __init__(self, server: IpcServer, publisher: Ipc, follower: Ipc) -> None:
        self.server, self.publisher, self.follower = server, publisher, follower
        self.max_bytes = FRAME[server.profile.name]

    def outlet(self, **options: float) -> Outlet:
        return Outlet(self.publisher, "opcua-collector", "line1", max_bytes=self.max_bytes, **options)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def following(self, handler: BatchHandler, **options: float) -> AsyncIterator[Inlet]:
        inlet = Inlet(self.follower, ["sluice/data/#"], **options)  # type: ignore[arg-type]
        await inlet.start(handler)
        try:
            yield inlet
        finally:
            await inlet.close()


@contextlib.asynccontextmanager
async def site(root: Path, profile: str) -> AsyncIterator[Site]:
    server = IpcServer(root / "ipc.socket", PROFILES[profile])
    server.configuration(PUBLISHER).merge([], access("PublishToTopic", "sluice/data/opcua-collector/*"), 1.0)
    server.configuration(FOLLOWER).merge([], access("SubscribeToTopic", "sluice/data/*"), 1.0)
    server.configuration(FOREIGNER).merge([], access("PublishToTopic", "sluice/data/*"), 1.0)
    await server.start()
    clients = [Ipc(socket_path=server.address, token=server.token(name)) for name in (PUBLISHER, FOLLOWER)]
    for client in clients:
        await client.start()
    try:
        yield Site(server, *clients)
    finally:
        for client in clients:
            await client.close()
        await server.stop()


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_every_sample_crosses_the_bus_once_and_unchanged(tmp_path: Path, profile: str) -> None:
    arrived: list[Columns] = []

    async def handler(batch: object) -> None:
        assert isinstance(batch, SampleBatch)
        arrived.append(batch.columns)

    sent = rows(20_000)
    async with site(tmp_path, profile) as of, of.following(handler) as inlet:
        outlet = of.outlet()
        for start in range(0, 20_000, 4_000):
            await outlet.send(sent.slice(start, start + 4_000))
        await eventually(lambda: sum(map(len, arrived)) == 20_000, inlet.status)
        told = inlet.status()
    assert (told["gaps"], told["repeats"], told["malformed"], told["batches"]) == (0, 0, 0, outlet.ledger.batches)
    assert np.array_equal(np.concatenate([part.value for part in arrived]), sent.value)
    assert np.array_equal(np.concatenate([part.t for part in arrived]), sent.t)
    assert [row.tag for part in arrived for row in part.samples()] == [sent.series[s].tag for s in sent.s.tolist()]
    assert (outlet.ledger.published, outlet.ledger.in_flight) == (20_000, 0)


async def test_on_lite_a_foreign_message_kills_the_subscription_silently_and_the_inlet_renews_it(
    tmp_path: Path,
) -> None:
    seqs: list[int] = []

    async def handler(batch: object) -> None:
        assert isinstance(batch, SampleBatch)
        seqs.append(batch.header.seq)

    async with site(tmp_path, "lite") as of, of.following(handler, quiet_after=0.6) as inlet:
        outlet = of.outlet(announce_every=0.1)
        announcing = asyncio.create_task(outlet.run())
        await outlet.send(rows(10))
        await eventually(lambda: seqs == [1], inlet.status)
        address, token = of.server.address, of.server.token(FOREIGNER)
        connection = await asyncio.to_thread(sdk.connect, ipc_socket=address, authtoken=token, timeout=5.0)
        foreigner = GreengrassCoreIPCClientV2(client=connection, executor=None)
        too_many = model.PublishMessage(json_message=model.JsonMessage(message={"list": list(range(60))}))
        future = foreigner.publish_to_topic_async(topic="sluice/data/com.example/x", publish_message=too_many)
        await asyncio.wait_for(asyncio.wrap_future(future), 30)
        await outlet.send(rows(10))
        await eventually(lambda: inlet.counters["renewals"] >= 1, inlet.status)
        await eventually(lambda: len(inlet.gaps) == 1, inlet.status)
        await outlet.send(rows(10))
        await eventually(lambda: seqs == [1, 3], inlet.status)
        assert [(gap.first, gap.last) for gap in inlet.gaps] == [(2, 2)]
        announcing.cancel()
        await asyncio.to_thread(foreigner.close)


async def test_a_nucleus_that_restarts_costs_at_most_what_was_on_its_way_and_that_is_reported(tmp_path: Path) -> None:
    seqs: list[int] = []

    async def handler(batch: object) -> None:
        assert isinstance(batch, SampleBatch)
        seqs.append(batch.header.seq)

    async with site(tmp_path, "classic") as of, of.following(handler) as inlet:
        outlet = of.outlet(announce_every=0.1)
        announcing = asyncio.create_task(outlet.run())
        await outlet.send(rows(10))
        await eventually(lambda: seqs == [1], inlet.status)
        restarting = asyncio.create_task(of.server.restart())
        for _ in range(20):
            await outlet.send(rows(10))
        await restarting
        await eventually(lambda: len(seqs) + missing(inlet) == 21, inlet.status)
        await eventually(lambda: inlet.consumer.counters["announcements"] > 0, inlet.status)
        await outlet.send(rows(10))
        await eventually(lambda: seqs[-1] == 22, inlet.status)
        announcing.cancel()
    assert seqs == sorted(set(seqs))
    assert len(seqs) + missing(inlet) == 22
    assert (outlet.ledger.published, outlet.ledger.dropped) == (220, 0)


def missing(inlet: Inlet) -> int:
    return sum(len(gap) for gap in inlet.gaps)
