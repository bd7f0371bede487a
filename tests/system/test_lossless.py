"""What no product of this field survives: a part that dies again and again, is away, finds its disk full. Nothing is
lost, nothing is doubled, and what is wrong is told. scripts/chaos does all of it at once, at random and for longer."""

from __future__ import annotations

import asyncio
import copy
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from localcore import received
from localcore.process import Component
from plant.reconciliation import Report
from rehearsal import Rehearsal

pytestmark = pytest.mark.system

COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
LIMIT = 30.0


def configuration(site: dict[str, Any], component: str) -> dict[str, Any]:
    """What the site document merges into a component's configuration."""
    merge: dict[str, Any] = site["components"][component]["configurationUpdate"]["merge"]
    return merge


async def begin(rehearsal: Rehearsal, site: dict[str, Any]) -> None:
    """Deploy, produce, and wait until it flows."""
    for component in (COLLECTOR, EXPORTER):
        configuration(site, component)["statusInterval"] = "1s"
    await rehearsal.provide(site)
    await rehearsal.deploy(site)
    await rehearsal.start_production()
    await rehearsal.wait_for(lambda: exported(rehearsal) > 0, "first export", LIMIT)


def exported(rehearsal: Rehearsal) -> int:
    """Up to which batch everything is exported, as the collector heard from the exporter."""
    ledger = rehearsal.statuses.get("opcua-collector", {}).get("ledger", {})
    return int(ledger.get("opcua-collector/line1", {}).get("acknowledged", 0))


async def end(rehearsal: Rehearsal) -> Report:
    """Stop production, wait until all has arrived, and compare with the plant's log."""
    assert rehearsal.plant is not None
    produced = await rehearsal.plant.finish()
    await rehearsal.drain(produced, patience=30.0)
    return await asyncio.to_thread(rehearsal.reconcile)


def shown(rehearsal: Rehearsal, report: Report) -> str:
    """The comparison and the last word of every component, for a failure."""
    return orjson.dumps([report.as_dict(), rehearsal.statuses], option=orjson.OPT_INDENT_2).decode()


def restarted(component: Component, times: int) -> bool:
    """Whether the nucleus has started it again that often, and it runs."""
    return component.restarts >= times and component.pid is not None


async def test_a_third_kill_breaks_a_component_and_a_redeployment_resumes_it(build: Path, tmp_path: Path) -> None:
    async with Rehearsal(tmp_path, build, rate=500) as rehearsal:
        await begin(rehearsal, rehearsal.demo_site())
        exporter, collector = rehearsal.core.component(EXPORTER), rehearsal.core.component(COLLECTOR)
        for kills in (1, 2):
            exporter.kill()
            await rehearsal.wait_for(partial(restarted, exporter, kills), "restart", LIMIT)
        exporter.kill()
        await rehearsal.wait_for(lambda: exporter.state == "BROKEN", "BROKEN", LIMIT)
        before = rehearsal.statuses["opcua-collector"]["ledger"]["opcua-collector/line1"]["stored"]
        await asyncio.sleep(3.0)  # the length of its absence
        ledger = rehearsal.statuses["opcua-collector"]["ledger"]["opcua-collector/line1"]
        assert collector.state == "RUNNING"
        assert ledger["stored"] > before + 500, ledger  # the collector goes on
        assert exporter.state == "BROKEN"
        await rehearsal.core.redeploy()
        await rehearsal.core.wait_state(EXPORTER, "RUNNING", LIMIT)
        report = await end(rehearsal)
        assert report.balances, shown(rehearsal, report)


async def test_a_broken_sink_that_is_not_required_holds_nobody(build: Path, tmp_path: Path) -> None:
    async with Rehearsal(tmp_path, build, rate=500) as rehearsal:
        site = rehearsal.demo_site()
        await rehearsal.provide(site)
        configuration(site, EXPORTER)["sinks"]["nowhere"] = {
            "type": "kinesis",
            "kinesisStream": "no-such-stream",
            "stream": "Nowhere",
            "required": False,
            "maxLag": "3s",
        }
        for component in (COLLECTOR, EXPORTER):
            configuration(site, component)["statusInterval"] = "1s"
        await rehearsal.deploy(site)
        await rehearsal.start_production()
        await rehearsal.wait_for(lambda: exported(rehearsal) > 3000, "export past the broken sink's lag", LIMIT)
        told = orjson.dumps(rehearsal.statuses["stream-exporter"]["connections"]["nowhere"]).decode()
        assert "no-such-stream" in told, told
        rehearsal.site = copy.deepcopy(site)
        configuration(dict(rehearsal.site), EXPORTER)["sinks"].pop("nowhere")  # it is not judged
        report = await end(rehearsal)
        assert report.balances, shown(rehearsal, report)


@pytest.mark.parametrize("component", [COLLECTOR, EXPORTER])
async def test_a_full_disk_is_a_state_that_recovers(build: Path, tmp_path: Path, component: str) -> None:
    """The disk of one component takes no more: a real limit of the kernel's on the running process."""
    async with Rehearsal(tmp_path, build, rate=500) as rehearsal:
        await begin(rehearsal, rehearsal.demo_site())
        process = rehearsal.core.component(component)
        process.limit_file_size(8192)
        short = "opcua-collector" if component == COLLECTOR else "stream-exporter"
        await rehearsal.wait_for(
            lambda: (
                rehearsal.statuses[short].get("state") == "degraded"
                and "disk" in orjson.dumps(rehearsal.statuses[short]).decode()
            ),
            "word of the full disk",
            LIMIT,
        )
        pid = process.pid
        await asyncio.sleep(2.0)  # the length of the fault
        process.limit_file_size(None)
        await rehearsal.wait_for(
            lambda: rehearsal.statuses[short].get("state") == "running", "recovery from the full disk", LIMIT
        )
        assert process.pid == pid, "the component was restarted"
        report = await end(rehearsal)
        assert report.balances, shown(rehearsal, report)


@pytest.mark.alone
async def test_an_exporter_that_was_away_catches_up_ten_times_faster_than_the_plant(
    build: Path, tmp_path: Path
) -> None:
    """Nothing is lost, and the producer's memory does not grow with what waits. The long form: scripts/chaos --away."""
    async with Rehearsal(tmp_path, build, rate=1000) as rehearsal:
        await begin(rehearsal, rehearsal.demo_site())
        exporter, collector = rehearsal.core.component(EXPORTER), rehearsal.core.component(COLLECTOR)
        memory = collector.rss_mb
        await exporter.stop()
        await asyncio.sleep(15.0)  # the length of its absence
        waiting = collector.rss_mb
        back = time.time_ns()
        exporter.start(install=False)
        await rehearsal.core.wait_state(EXPORTER, "RUNNING", LIMIT)
        report = await end(rehearsal)
        assert report.balances, shown(rehearsal, report)
        assert waiting < memory + 10, f"the collector grew from {memory} to {waiting} MB while nobody took its data"
        rate = catching_up(rehearsal, back)
        assert rate >= 10_000, f"it caught up with {rate:.0f} values/s; the plant makes 1,000"


def catching_up(rehearsal: Rehearsal, back: int) -> float:
    """Values per second that the stream took from the exporter's return until they were less than 2 s old."""
    begun = last = values = 0
    for _, at, payload in received.appends(rehearsal.core.root, "SluiceKinesis"):
        if at < back:
            continue
        begun = begun or at
        lines = payload.splitlines()
        if at - int(orjson.loads(lines[-1])["time_ns"]) < 2_000_000_000:
            break
        last, values = at, values + len(lines)
    assert last > begun, "nothing of the backlog was found in the stream"
    return values * 1e9 / (last - begun)
