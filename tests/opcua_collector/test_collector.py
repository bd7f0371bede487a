"""The component as a process between an OPC UA server and the local core's IPC; the plant's own log is the judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from localcore.ipc import IpcServer
from localcore.profile import PROFILES
from plant.process import PlantProcess
from plant.reconciliation import Delivered, reconcile
from plant.tags import tags as plant_tags
from plant.tags import write_tags_csv
from sluice.batch import EventBatch, SampleBatch, decode
from sluice.outbox import Outbox, Quota

ROOT = Path(__file__).resolve().parents[2]
NAME = "io.sluice.OpcUaCollector"
QUALITY = ("GOOD", "UNCERTAIN", "BAD")


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.02)


class Site:
    """The component's process, and what it publishes."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.folder = folder
        self.server = IpcServer(folder / "ipc.socket", PROFILES[profile])
        self.delivered: dict[str, list[Delivered]] = {}
        self.events: list[dict[str, Any]] = []
        self.status: dict[str, Any] = {}
        self.replies: list[dict[str, Any]] = []
        self.process: asyncio.subprocess.Process | None = None
        policy = {"operations": ["aws.greengrass#PublishToTopic"], "resources": ["sluice/*"]}
        hears = {
            "operations": ["aws.greengrass#SubscribeToTopic"],
            "resources": ["sluice/ack/opcua-collector/*", "sluice/command/opcua-collector"],
        }
        self.merge({"accessControl": {"aws.greengrass.ipc.pubsub": {"p": policy, "s": hears}}, "statusInterval": "1s"})

    def merge(self, document: dict[str, Any]) -> None:
        self.server.configuration(NAME).merge([], document, time.time())

    async def start(self) -> None:
        await self.server.start()
        self.server.observe("sluice/#", self._take)
        self.work.mkdir()
        await self.begin()

    @property
    def work(self) -> Path:
        return self.folder / "work"

    async def begin(self, crash: str = "") -> None:
        """Start the process, again if need be; `crash`: where it kills itself."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT / 'components'}",
            "SVCUID": self.server.token(NAME),
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": self.server.address,
            "AWS_IOT_THING_NAME": "gateway",
            **({"GGC_VERSION": self.server.profile.version} if self.server.profile.version else {}),
            **({"SLUICE_CRASH": crash} if crash else {}),
        }
        with (self.folder / "component.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-u", "-m", "opcua_collector", cwd=self.work, env=environment, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def kept(self) -> list[Delivered]:
        """What is in the outbox; the component has ended."""
        outbox = await Outbox.open(self.work / "outbox/outbox.db", Quota(10**9, None, 0))
        found: list[Delivered] = []
        for stream in outbox.streams():
            after = 0
            while frames := await outbox.read(stream, after + 1, 10_000_000):
                after = frames[-1].seq
                batches = [decode(frame.payload) for frame in frames]
                for batch in (batch for batch in batches if isinstance(batch, SampleBatch)):
                    found += [Delivered(s.tag, s.time, s.value, QUALITY[s.quality]) for s in batch.columns.samples()]
        await outbox.close()
        return found

    def _take(self, topic: str, payload: bytes) -> None:
        if topic.startswith("sluice/status/"):
            self.status = json.loads(payload)
            return
        if topic.startswith("sluice/reply/"):
            self.replies.append(json.loads(payload))
            return
        if topic.startswith("sluice/command/"):
            return
        batch = decode(payload)
        if isinstance(batch, EventBatch):
            self.events += batch.events
        elif isinstance(batch, SampleBatch):
            into = self.delivered.setdefault(topic.removeprefix("sluice/data/opcua-collector/"), [])
            into += [
                Delivered(s.tag, s.time, s.value, QUALITY[s.quality], f"{batch.header.epoch}.{batch.header.seq}.{n}")
                for n, s in enumerate(batch.columns.samples())
            ]

    async def ask(self, identity: str, command: str, **arguments: Any) -> None:
        body = {"v": 1, "kind": "command", "id": identity, "command": command, "arguments": arguments}
        await self.server.publish("sluice/command/opcua-collector", json.dumps(body).encode())

    def answer(self, identity: str, state: str) -> dict[str, Any] | None:
        """The last answer of this kind."""
        found = [one for one in self.replies if (one["id"], one["state"]) == (identity, state)]
        return found[-1] if found else None

    def count(self, line: str = "line1") -> int:
        return len(self.delivered.get(line, ()))

    def line(self, name: str = "line1") -> dict[str, Any]:
        return dict(self.status.get("connections", {}).get(name, {}))

    def ledger(self) -> dict[str, int]:
        return dict(self.status.get("ledger", {}).get("opcua-collector/line1", {"kept": 0}))

    def rejected(self) -> dict[str, dict[str, Any]]:
        return {entry["path"]: entry for entry in self.status.get("config", {}).get("rejected", ())}

    def log(self) -> str:
        return (self.folder / "component.log").read_text()[-3000:]

    def state(self) -> Any:
        return self.status, self.log()

    def resident_mb(self) -> float:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)


@pytest.fixture(params=["classic"])
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    site = Site(tmp_path, request.param)
    yield site
    with contextlib.suppress(ProcessLookupError, asyncio.TimeoutError, AssertionError):
        await site.stop()
    await site.server.stop()


@pytest.mark.parametrize("site", ["classic", "lite"], indirect=True)
async def test_every_sample_of_the_plant_is_published_once_and_a_change_of_tags_disturbs_no_other(
    site: Site, tmp_path: Path
) -> None:
    write_tags_csv(tmp_path / "tags.csv", 1)
    async with PlantProcess(tmp_path / "plant", rate=2000, units=1) as plant:
        line1 = {
            "endpoint": plant.endpoint,
            "security": {"policy": "None"},
            "publishingInterval": "100ms",
            "tagsFile": str(tmp_path / "tags.csv"),
        }
        site.merge({"connections": {"line1": line1, "dead": {**line1, "endpoint": "opc.tcp://127.0.0.1:1/x"}}})
        await site.start()
        await plant.watched()
        await plant.produce()
        await until(lambda: site.count() > 1000, site.state)
        extra = {"node": plant_tags(1)[0].node}
        site.merge({"connections": {"line1": {"tags": {"Extra": extra, "Nowhere": {"node": "nsu=urn:no;i=1"}}}}})
        await until(lambda: any(d.tag == "Extra" for d in site.delivered["line1"]), site.state)
        samples = await plant.finish()

        def ours() -> list[Delivered]:
            return [sample for sample in site.delivered["line1"] if sample.tag != "Extra"]

        await until(lambda: len(ours()) >= samples, site.state)
        report = reconcile(plant.log, {"bus": ours()}).as_dict()
        assert report["destinations"]["bus"]["lost"] == 0, report
        assert report["destinations"]["bus"]["duplicated"] == 0, report
        assert report["destinations"]["bus"]["delivered"] == samples, report
        await until(lambda: "connections.line1.tags.Nowhere.node" in site.rejected(), site.state)
        rejected = site.rejected()
        assert "urn:no" in rejected["connections.line1.tags.Nowhere.node"]["problem"]
        assert "refuses" in rejected["connections.dead.endpoint"]["problem"]
        await until(lambda: site.ledger()["kept"] >= samples, site.state)
        line, ledger = site.line(), site.ledger()
        assert (line["state"], line["connects"]) == ("running", 1)
        assert ledger["received"] == ledger["filtered"] + ledger["stored"] + ledger["in_flight"]
        assert ledger["stored"] == ledger["kept"]  # nobody has acknowledged anything
        assert site.status["outbox"]["trouble"] == ""
        assert site.line("dead")["state"] in ("waiting", "connecting")
    assert await site.stop() == 0


async def test_filters_collect_every_variable_and_begin_after_a_restart_with_what_was_last_seen(
    site: Site, tmp_path: Path
) -> None:
    named = {tag.path.replace("/2:", "/").removeprefix("/Objects/"): tag.tag for tag in plant_tags(1)}
    async with PlantProcess(tmp_path / "plant", rate=2000, units=1) as plant:
        line1 = {
            "endpoint": plant.endpoint,
            "security": {"policy": "None"},
            "publishingInterval": "100ms",
            "select": {"all": {"path": "/Plant/**"}, "nothing": {"path": "/Plnt/**"}},
        }
        site.merge({"connections": {"line1": line1}})
        await site.start()
        await plant.watched()
        await plant.produce()
        await until(lambda: site.count() > 500, site.state)
        await until(lambda: "connections.line1.select.nothing.path" in site.rejected(), site.state)
        assert "did you mean /Plant?" in site.rejected()["connections.line1.select.nothing.path"]["remedy"]
        site.merge({"connections": {"line1": {"select": {"nothing": {"delete": True}}}}})
        await until(lambda: not site.rejected(), site.state)
        await until((site.work / "space" / "line1.zst").exists, site.state)
        await site.kill()
        site.status = {}
        await site.begin()
        await until(lambda: site.line().get("state") == "running", site.state)
        assert site.line()["recovery"]["rung"] in ("resumed", "transferred"), site.state()
        samples = await plant.finish()
        await until(lambda: site.ledger()["kept"] >= samples, site.state)
        select = site.line()["select"]
        assert (select["tags"], select["filters"]) == (len(named), {"all": len(named)})
        assert await site.stop() == 0
        kept = [sample._replace(tag=named[sample.tag]) for sample in await site.kept()]
        report = reconcile(plant.log, {"outbox": kept}).as_dict()["destinations"]["outbox"]
        assert (report["lost"], report["duplicated"], report["delivered"]) == (0, 0, samples), report


async def test_a_killed_collector_goes_on_where_it_was_and_loses_and_doubles_nothing(
    site: Site, tmp_path: Path
) -> None:
    async with PlantProcess(tmp_path / "plant", rate=2000, units=1) as plant:
        tags = {tag.tag: {"node": tag.node} for tag in plant_tags(1)}
        line1 = {
            "endpoint": plant.endpoint,
            "security": {"policy": "Basic256Sha256", "trust": "first-use"},
            "publishingInterval": "100ms",
            "tags": tags,
        }
        site.merge({"connections": {"line1": line1}})
        await site.start()
        await plant.watched()
        await plant.produce()
        await until(lambda: site.count() > 500, site.state)
        await site.kill()
        for crash in ("stored:3", "stored:7"):  # committed, not yet published, nor acknowledged to the server
            await site.begin(crash)
            assert site.process is not None
            assert await asyncio.wait_for(site.process.wait(), 30) == -signal.SIGKILL, site.state()
        site.status = {}
        await site.begin()
        await until(lambda: site.line().get("state") == "running", site.state)
        assert site.line()["recovery"]["rung"] in ("resumed", "transferred"), site.state()
        samples = await plant.finish()
        await until(lambda: site.ledger()["kept"] >= samples, site.state)
        assert await site.stop() == 0
        report = reconcile(plant.log, {"outbox": await site.kept()}).as_dict()["destinations"]["outbox"]
        assert (report["lost"], report["duplicated"], report["delivered"]) == (0, 0, samples), report


async def test_an_outbox_that_cannot_be_written_is_told_with_its_remedy_and_mends_itself(
    site: Site, tmp_path: Path
) -> None:
    async with PlantProcess(tmp_path / "plant", rate=500, units=1, policies=["None"]) as plant:
        tags = {tag.tag: {"node": tag.node} for tag in plant_tags(1)}
        site.merge(
            {"connections": {"line1": {"endpoint": plant.endpoint, "security": {"policy": "None"}, "tags": tags}}}
        )
        await site.start()
        await plant.watched()
        await plant.produce()
        await until(lambda: site.count() > 100, site.state)
        assert site.process is not None
        size = sum(file.stat().st_size for file in (site.work / "outbox").iterdir())
        resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
        await until(lambda: site.status["state"] == "degraded", site.state)
        assert "outbox.db cannot be written" in site.status["why"]
        assert site.process.returncode is None
        resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await until(lambda: site.status["state"] == "running", site.state)
        samples = await plant.finish()
        await until(lambda: site.ledger()["kept"] >= samples, site.state)
        assert await site.stop() == 0
        report = reconcile(plant.log, {"outbox": await site.kept()}).as_dict()["destinations"]["outbox"]
        assert (report["lost"], report["duplicated"], report["delivered"]) == (0, 0, samples), report


async def test_an_idle_collector_is_small_and_a_lost_plant_is_found_again(site: Site, tmp_path: Path) -> None:
    async with PlantProcess(tmp_path / "plant", rate=100, units=1) as plant:
        tags = {tag.tag: {"node": tag.node} for tag in plant_tags(1)[:50]}
        line1 = {"endpoint": plant.endpoint, "security": {"policy": "None"}, "tags": tags}
        site.merge({"connections": {"line1": line1}})
        await site.start()
        await until(lambda: site.line().get("monitored") == 50, site.state)
        assert site.resident_mb() <= 110
        await plant.close()
        await until(lambda: site.line().get("state") == "waiting", site.state)
        assert site.line()["remedy"]
    assert site.process is not None
    assert site.process.returncode is None


async def test_a_range_that_is_asked_for_is_read_again_once_also_when_the_collector_is_killed_meanwhile(
    site: Site, tmp_path: Path
) -> None:
    async with PlantProcess(tmp_path / "plant", rate=2000, units=1, policies=["None"]) as plant:
        tags = {tag.tag: {"node": tag.node} for tag in plant_tags(1)}
        site.merge(
            {"connections": {"line1": {"endpoint": plant.endpoint, "security": {"policy": "None"}, "tags": tags}}}
        )
        await site.start()
        await plant.watched()
        began = time.time_ns()
        await plant.produce()
        await until(lambda: site.count() > 3000, site.state)
        samples = await plant.finish()
        await until(lambda: site.ledger()["kept"] >= samples, site.state)
        asked = {"connection": "line1", "from": began - 60 * 10**9, "to": time.time_ns()}
        await site.kill()
        site.replies.clear()

        async def killed_when_asked() -> None:
            """It dies at its first commit, of what it reads on request. On a slow machine the server has forgotten it
            before it is back, and the first commit is of what is monitored anew: then it is begun again.

            Nobody hears a component that starts: who asks asks again until there is an answer.
            """
            while site.answer("b1", "accepted") is None and site.answer("b1", "working") is None:
                if site.process is None or site.process.returncode is not None:
                    await site.begin("stored:1")
                await site.ask("b1", "backfill", **asked)
                await asyncio.sleep(0.2)
            assert site.process is not None
            await site.process.wait()

        await asyncio.wait_for(killed_when_asked(), 60)
        assert site.process is not None
        assert site.process.returncode == -signal.SIGKILL, site.state()
        site.status = {}
        await site.begin()
        await until(lambda: site.answer("b1", "done"), site.state)
        done = site.answer("b1", "done")
        assert done is not None
        assert done["result"] == {"tags": len(tags), "tags_done": len(tags), "values": samples}, done
        await site.ask("b1", "backfill", **asked)
        await until(lambda: sum(one["state"] == "done" for one in site.replies) == 2, site.state)
        await site.ask("b2", "backfill", **asked | {"connection": "line2"})
        await until(lambda: site.answer("b2", "refused"), site.state)
        await site.ask("s", "status")
        await until(lambda: site.answer("s", "done"), site.state)
        told = site.answer("s", "done")
        assert told is not None
        assert told["result"]["connections"]["line1"]["requested"]["values"] > 0
        assert await site.stop() == 0
        kept = await site.kept()
        assert len(kept) == 2 * samples  # once live, once from history
        report = reconcile(plant.log, {"outbox": kept[:samples]}).as_dict()["destinations"]["outbox"]
        assert (report["lost"], report["duplicated"], report["delivered"]) == (0, 0, samples), report


async def test_the_outbox_of_a_newer_release_is_left_alone_and_the_status_says_what_to_deploy(
    site: Site, tmp_path: Path
) -> None:
    await site.start()
    await until(lambda: site.status.get("state") == "running", site.state)
    assert await site.stop() == 0
    outbox = site.work / "outbox" / "outbox.db"
    with contextlib.closing(sqlite3.connect(outbox)) as connection:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        connection.execute(f"PRAGMA user_version={version + 1}")
        connection.execute(f"PRAGMA application_id={(0 << 24) + (2 << 14)}")
        before = list(connection.iterdump())
    site.status = {}
    await site.begin()
    await until(lambda: site.status.get("state") == "degraded", site.state)
    why = site.status["why"]
    assert "outbox.db was left by 0.2.0 in version" in why
    assert "deploy 0.2.0 again and let it deliver what is kept" in why
    assert site.process is not None
    assert site.process.returncode is None
    await site.ask("s", "status")
    await until(lambda: site.answer("s", "done"), site.state)
    assert await site.stop() == 0
    with contextlib.closing(sqlite3.connect(outbox)) as connection:
        assert list(connection.iterdump()) == before
        connection.execute(f"PRAGMA user_version={version}")
    site.status = {}
    await site.begin()
    await until(lambda: site.status.get("state") == "running", site.state)
