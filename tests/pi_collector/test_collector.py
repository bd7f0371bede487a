"""The component as a process between a simulated PI system and the local core's IPC: what configuration makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from localcore.ipc import IpcServer
from localcore.profile import PROFILES
from plant.pi.clock import Clock
from plant.pi.events import Event
from plant.pi.points import PointDefinition
from plant.pi.server import PiServer
from plant.pi.system import PiSystem
from sluice.batch import EventBatch, SampleBatch, decode
from sluice.tasks import within

ROOT = Path(__file__).resolve().parents[2]
NAME = "io.sluice.PiCollector"
SECOND = 1_000_000_000


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 40.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.05)


class Site:
    """The component's process, the PI systems that it collects from, and what it publishes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.core = IpcServer(folder / "ipc.socket", PROFILES["classic"])
        self.clock = Clock()
        self.system = PiSystem(self.clock)
        self.pi = PiServer(self.system, self.clock)
        self.written: dict[str, set[tuple[int, float]]] = {}
        self.taken: dict[str, Counter[tuple[int, float]]] = {}
        self.events: list[dict[str, Any]] = []
        self.status: dict[str, Any] = {}
        self.process: asyncio.subprocess.Process | None = None
        self._frames: set[tuple[str, str, int]] = set()
        says = {"operations": ["aws.greengrass#PublishToTopic"], "resources": ["sluice/*"]}
        hears = {
            "operations": ["aws.greengrass#SubscribeToTopic"],
            "resources": ["sluice/ack/pi-collector/*", "sluice/command/pi-collector"],
        }
        self.merge({"accessControl": {"aws.greengrass.ipc.pubsub": {"p": says, "s": hears}}, "statusInterval": "1s"})

    def merge(self, document: dict[str, Any]) -> None:
        self.core.configuration(NAME).merge([], document, time.time())

    def connect(self, name: str = "lab", **settings: Any) -> None:
        given = {"url": self.pi.url, "settle": 0, "overlap": "2s", "pollInterval": "500ms", "initial": "1h", **settings}
        self.merge({"connections": {name: given}})

    async def start(self) -> None:
        await self.core.start()
        self.core.observe("sluice/#", self._take)
        self.work.mkdir()
        await self.begin()

    async def begin(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT / 'components'}",
            "SVCUID": self.core.token(NAME),
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": self.core.address,
            "AWS_IOT_THING_NAME": "gateway",
            **({"GGC_VERSION": self.core.profile.version} if self.core.profile.version else {}),
        }
        with (self.folder / "component.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-u", "-m", "pi_collector", cwd=self.work, env=environment, stdout=log, stderr=log
            )

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await within(30, self.process.wait())

    def write(self, *names: str) -> None:
        """One value for each of these points, now."""
        for name in names:
            point = self.system.by_name(name)
            assert point is not None
            value = float(len(self.written.setdefault(name, set())))
            now = self.clock.now_ns() // 100 * 100
            self.written[name].add((now, value))
            self.system.write(point, Event(now, value))

    def _take(self, topic: str, payload: bytes) -> None:
        if topic.startswith("sluice/status/"):
            self.status = json.loads(payload)
        elif topic.startswith("sluice/data/"):
            batch = decode(payload)
            if not isinstance(batch, (EventBatch, SampleBatch)):
                return
            identity = (topic, batch.header.epoch, batch.header.seq)
            if identity in self._frames:  # a frame is published again until somebody takes it
                return
            self._frames.add(identity)
            if isinstance(batch, EventBatch):
                self.events += batch.events
            else:
                for sample in batch.columns.samples():
                    assert isinstance(sample.value, float), sample
                    self.taken.setdefault(sample.tag, Counter())[sample.time, sample.value] += 1

    def has(self, tag: str, name: str) -> bool:
        """Whether all that was written has come, once, and nothing else."""
        return self.taken.get(tag, Counter()) == Counter(self.written.get(name, set()))

    def rejected(self) -> dict[str, dict[str, Any]]:
        return {entry["path"]: entry for entry in self.status.get("config", {}).get("rejected", ())}

    def state(self) -> Any:
        counts = {tag: sum(found.values()) for tag, found in self.taken.items()}
        wanted = {name: len(found) for name, found in self.written.items()}
        return wanted, counts, self.status, (self.folder / "component.log").read_text()[-3000:]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    for name in ("SINUSOID", "CDT158", "LEVEL"):
        made.system.add(PointDefinition(name, unit="degC"))
    async with made.pi:
        yield made
        with contextlib.suppress(ProcessLookupError, asyncio.TimeoutError, AssertionError):
            await made.stop()
        await made.core.stop()


async def test_tags_come_and_go_while_others_flow_and_a_restart_loses_nothing(site: Site, tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("tag,point\nTemp,sinusoid\n", encoding="utf-8")
    site.write("SINUSOID", "CDT158")
    site.connect(tagsFile=str(table), tags={"Nothing": {"point": "NOTHING"}})
    site.connect("dead", url="http://127.0.0.1:1/piwebapi", tags={"X": {"point": "X"}})
    await site.start()
    await until(lambda: site.has("Temp", "SINUSOID"), site.state)
    site.write("SINUSOID", "CDT158")
    table.write_text("tag,point\nTemp,sinusoid\nOther,CDT158\n", encoding="utf-8")
    await until(lambda: site.has("Temp", "SINUSOID") and site.has("Other", "CDT158"), site.state)
    await until(lambda: "connections.lab.tags.Nothing" in site.rejected(), site.state)
    await until(lambda: "connections.dead.url" in site.rejected(), site.state)
    assert "is not found" in site.rejected()["connections.lab.tags.Nothing"]["problem"]
    assert "refuses" in site.rejected()["connections.dead.url"]["problem"]

    assert site.process is not None
    site.process.kill()
    await site.process.wait()
    site.write("SINUSOID", "CDT158")
    await site.begin()
    await until(lambda: site.has("Temp", "SINUSOID") and site.has("Other", "CDT158"), site.state)

    site.merge({"connections": {"dead": None, "lab": {"tags": {"Nothing": None, "Level": {"point": "LEVEL"}}}}})
    site.write("LEVEL", "SINUSOID")
    await until(lambda: site.has("Level", "LEVEL") and site.has("Temp", "SINUSOID"), site.state)
    await until(lambda: not site.rejected(), site.state)
    await until(lambda: list(site.status["connections"]) == ["lab"], site.state)
    ledger = site.status["ledger"]["pi-collector/lab"]
    assert ledger["received"] == ledger["filtered"] + ledger["stored"] + ledger["in_flight"]
    assert await site.stop() == 0
    posts = {route for route in site.pi.requests if not route.startswith("GET ")}
    assert posts <= {"POST batch", "POST streamsets/updates"}


async def test_what_becomes_of_a_point_is_an_event(site: Site) -> None:
    site.connect(tags={"Temp": {"point": "SINUSOID"}})
    await site.start()
    site.write("SINUSOID")
    await until(lambda: site.has("Temp", "SINUSOID"), site.state)
    point = site.system.by_name("SINUSOID")
    assert point is not None
    site.system.rename(point, "SINUSOID.old")
    site.written["SINUSOID.old"] = site.written.pop("SINUSOID")
    body = {"v": 1, "kind": "command", "id": "r1", "command": "refresh", "arguments": {"connection": "lab"}}
    await site.core.publish("sluice/command/pi-collector", json.dumps(body).encode())
    await until(lambda: any(event["kind"] == "point-renamed" for event in site.events), site.state)
    [event] = [event for event in site.events if event["kind"] == "point-renamed"]
    assert (event["was"], event["now"], event["tags"]) == ("SINUSOID", "SINUSOID.old", ["Temp"])
    site.write("SINUSOID.old")
    await until(lambda: site.has("Temp", "SINUSOID.old"), site.state)


async def test_a_configuration_with_mistakes_costs_only_what_is_wrong(site: Site) -> None:
    site.connect(tags={"Temp": {"point": "SINUSOID"}, "Wrong": {"path": "SINUSOID"}}, gropus={})
    site.connect("other", url="ftp://pi", tags={"X": {"point": "X"}})
    await site.start()
    site.write("SINUSOID")
    await until(lambda: site.has("Temp", "SINUSOID"), site.state)
    await until(lambda: site.rejected(), site.state)
    assert set(site.rejected()) == {"connections.lab.tags.Wrong.path", "connections.other.url"}
    assert [entry["path"] for entry in site.status["warnings"]] == ["connections.lab.gropus"]
