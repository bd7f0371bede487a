"""The PI plant as a process, judged by an independent client: what it logged is what it served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from plant import PlantError
from plant.log import EndMark, read_log
from plant.pi import truth
from plant.pi.process import PiProcess
from plant.pi.production import definitions
from plant.reconciliation import Delivered, reconcile
from plant.tags import tags

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
QUALITY = ("GOOD", "UNCERTAIN", "BAD")


def ns(text: str) -> int:
    """A timestamp of PI in ns."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc) - EPOCH
    return round(seconds.total_seconds()) * 10**9 + int(rest.ljust(9, "0") or 0)


def delivered(name: str, timed: dict[str, Any]) -> Delivered:
    """A timed value as a collector gives it, by the reference's table."""
    value, quality = timed["Value"], "UNCERTAIN" if timed["Questionable"] else "GOOD"
    if isinstance(value, dict):
        value, quality = (None, "BAD") if value["IsSystem"] else (value["Name"], quality)
    return Delivered(name, ns(timed["Timestamp"]), value, quality)


class Reader:
    """A client that follows every point by a channel, and reads the archive."""

    def __init__(self, pi: PiProcess, client: aiohttp.ClientSession) -> None:
        self._pi = pi
        self._client = client
        self._ids: list[str] = []
        self.received: list[Delivered] = []

    async def get(self, path: str) -> Any:
        async with self._client.get(f"{self._pi.url}/{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def find(self) -> str:
        """The points of the server as a query."""
        server = (await self.get("dataservers"))["Items"][0]["WebId"]
        points = await self.get(f"dataservers/{server}/points?maxCount=100000&webIdType=IDOnly")
        self._ids = [f"webId={item['WebId']}" for item in points["Items"]]
        return "&".join(self._ids)

    async def follow(self) -> None:
        async with self._client.ws_connect(f"{self._pi.url}/streamsets/channel?{await self.find()}") as socket:
            async for message in socket:
                for item in message.json()["Items"]:
                    self.received += [delivered(item["Name"], timed) for timed in item["Items"]]

    async def read(self) -> list[Delivered]:
        """All that the archive holds."""
        found: list[Delivered] = []
        query = "startTime=1970-01-01T00:00:00Z&endTime=*%2B1h&maxCount=3000&webIdType=IDOnly"
        for first in range(0, len(self._ids), 50):
            body = await self.get(f"streamsets/recorded?{'&'.join(self._ids[first : first + 50])}&{query}")
            for item in body["Items"]:
                found += [delivered(item["Name"], timed) for timed in item["Items"]]
        return found


@asynccontextmanager
async def following(pi: PiProcess) -> AsyncIterator[Reader]:
    async with aiohttp.ClientSession() as client:
        reader = Reader(pi, client)
        task = asyncio.create_task(reader.follow())
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.wait([task])


async def arrived(reader: Reader, samples: int) -> None:
    deadline = asyncio.get_running_loop().time() + 30
    while len(reader.received) < samples:
        assert asyncio.get_running_loop().time() < deadline, f"{len(reader.received)} of {samples}"
        await asyncio.sleep(0.05)


def test_points_have_the_types_units_and_names_of_the_plant() -> None:
    points = {one.name: one for one in definitions(2)}
    assert len(points) == len(tags(2))
    assert points["U2.XMEAS01_AFeed"].type == "Float32"
    assert points["U1.XMEAS01_AFeed"].unit == "kscmh"
    assert points["U1.XMV01_DFeedValve"].type == "Float64"
    assert [points[f"U1.{name}"].type for name in ("Row", "Running", "Phase")] == ["Int32", "Digital", "String"]
    assert not points["U1.XMEAS01_AFeed"].compressing
    assert {one.name for one in definitions(1, compressing=True) if one.compdev > 0} == {
        f"U1.{tag.tag.split('/')[1]}" for tag in tags(1)[:52]
    }


async def test_what_a_channel_brought_and_what_the_archive_holds_is_what_was_logged(tmp_path: Path) -> None:
    async with (
        PiProcess(tmp_path, rate=2000, units=1, speed=2, poll=0.2, start_ago=3600) as pi,
        following(pi) as reader,
    ):
        await pi.produce()
        deadline = asyncio.get_running_loop().time() + 30
        while pi.samples() < 4500:  # a unit is calibrated every 100 rows: until that has happened and is over
            assert asyncio.get_running_loop().time() < deadline, pi.samples()
            await asyncio.sleep(0.05)
        produced = await pi.finish()
        await arrived(reader, produced)
        archived = await reader.read()
        counters = await pi.counters()
        assert await pi.archive() == produced
    report = reconcile(pi.log, {"channel": reader.received, "archive": archived})
    assert report.balances, report.as_dict()
    assert {one.quality for one in archived} == set(QUALITY)
    assert {type(one.value) for one in archived} == {float, int, str, type(None)}
    assert list(read_log(pi.log))[-1] == EndMark(counters["rows"], produced)
    assert (counters["written"], counters["dropped"]) == (0, 0)
    # The PI system's own log says the same, from the other side.
    assert len(list(truth.produced(pi.truth))) == produced
    assert sum(map(len, truth.archive(pi.truth).values())) == produced
    in_frames = [sample for frame in truth.frames_read(pi.truth) for sample, _ in frame.samples]
    assert len(set(in_frames)) == len(in_frames) <= produced
    assert truth.ended(pi.truth)


async def test_nothing_is_produced_before_every_point_is_watched_and_reading_counts(tmp_path: Path) -> None:
    async with PiProcess(tmp_path, rate=500, units=1) as pi, aiohttp.ClientSession() as client:
        with pytest.raises(PlantError, match="no 'started'"):
            await pi.produce(timeout=0.3)
        reader = Reader(pi, client)
        await reader.find()
        await reader.read()
        await pi.wait_event("started", 30)
        assert (await pi.counters())["watched"] == pi.items


async def test_faults_storms_and_a_new_password_are_ordered_by_commands(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("first\n")
    options: dict[str, Any] = {"user": "reader", "password_file": password, "tls": "valid", "produce": True}
    async with (
        PiProcess(tmp_path / "pi", rate=500, units=1, speed=10, **options) as pi,
        aiohttp.ClientSession() as client,
    ):

        async def status(secret: str) -> int:
            login = {"Authorization": aiohttp.encode_basic_auth("reader", secret)}
            async with client.get(f"{pi.url}/system/status", headers=login, ssl=False) as response:
                return response.status

        assert pi.authority is not None
        assert pi.authority.exists()
        assert [await status("first"), await status("second")] == [200, 401]
        await pi.set_password("reader", "second")
        assert [await status("first"), await status("second")] == [401, 200]
        await pi.fault("errors", status=503)
        assert await status("second") == 503
        await pi.heal()
        assert await status("second") == 200
        with pytest.raises(PlantError, match="expected one of"):
            await pi.fault("nothing")
        await pi.fault("process", number=4)
        await pi.storm(late=50.0, edits=20.0, deletions=20.0, bursts=5.0, same_time=20.0, states=20.0)
        deadline = asyncio.get_running_loop().time() + 30
        while len((await pi.counters())["activity"]) < 6:
            assert asyncio.get_running_loop().time() < deadline, await pi.counters()
            await asyncio.sleep(0.1)
        await pi.calm()
        await pi.finish()
        counters = await pi.counters()
        archived = await pi.archive()
    assert counters["written"] == 0
    kept = truth.archive(pi.truth)
    assert sum(map(len, kept.values())) == archived
    # The archive holds what reached it, but for what was removed or replaced.
    balance: dict[str, int] = {}
    for reached in truth.produced(pi.truth):
        balance[reached.how] = balance.get(reached.how, 0) + 1
    assert balance["Add"] + balance["Insert"] - balance["Delete"] == archived
    assert {fault["name"] for fault in truth.faults(pi.truth)} >= {"errors", "heal"}


async def test_a_load_has_a_past_and_a_steady_stream_that_its_log_knows(tmp_path: Path) -> None:
    options: dict[str, Any] = {"points": 200, "past": 20, "past_span": 600, "produce": True, "expect_items": 0}
    async with PiProcess(tmp_path, rate=2000, **options) as pi, aiohttp.ClientSession() as client:
        assert pi.items == 200
        await pi.wait_event("started", 30)
        deadline = asyncio.get_running_loop().time() + 30
        while pi.samples() < 200 * 20 + 500:
            assert asyncio.get_running_loop().time() < deadline, pi.samples()
            await asyncio.sleep(0.05)
        produced = await pi.finish()
        reader = Reader(pi, client)
        await reader.find()
        archived = await reader.read()
        assert await pi.archive() == produced == len(archived)
    report = reconcile(pi.log, {"archive": archived})
    assert report.balances, report.as_dict()
