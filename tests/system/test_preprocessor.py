"""The preprocessor between collectors and exporter, killed wherever it hurts: every sample still passes once, every
window and every total is exact, by the plant's own log. And what is configured wrong costs itself alone."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from localcore.process import Component
from plant.log import LoggedRow, read_log
from rehearsal import Rehearsal
from rehearsal.flow import Flow
from rehearsal.site import COLLECTOR, EXPORTER, PI_COLLECTOR, PREPROCESSOR
from sluice.batch import SampleBatch, decode

pytestmark = pytest.mark.system

LIMIT = 40.0
IDLE_MB = 85.0
"""Measured: 77 to 80, of which 55 are Python, numpy, the SDK and the library that every component has."""
BACK_WITHIN = 3.0
"""Seconds from a kill until it gives out samples again."""


def hours() -> float:
    """Seconds in which an hour is one of ours: a component that dies three times within an hour is BROKEN."""
    return time.monotonic() * 3600.0


def merge_of(site: dict[str, Any], component: str) -> dict[str, Any]:
    merge: dict[str, Any] = site["components"][component]["configurationUpdate"]["merge"]
    return merge


def told(rehearsal: Rehearsal) -> str:
    """The last word of every component, for a failure."""
    return orjson.dumps(rehearsal.statuses, option=orjson.OPT_INDENT_2).decode()


class Heard:
    """What the preprocessor publishes on the bus of one flow, by tag: (time, value) in order, and the epochs."""

    def __init__(self, rehearsal: Rehearsal, flow: str) -> None:
        self.epochs: dict[str, int] = {}
        """The newest number of each."""
        self.samples: dict[str, list[tuple[int, Any]]] = {}
        rehearsal.core.ipc.observe(f"sluice/data/preprocessor/{flow}", self._on_message)

    def _on_message(self, topic: str, payload: bytes) -> None:
        batch = decode(payload)
        if not isinstance(batch, SampleBatch):
            return
        before = self.epochs.get(batch.header.epoch, 0)
        self.epochs[batch.header.epoch] = max(before, batch.header.seq)
        if batch.header.seq > before:
            of = batch.columns
            for s, t, value in zip(of.s.tolist(), of.t.tolist(), of.values(), strict=True):
                self.samples.setdefault(of.series[s].tag, []).append((t, value))


@asynccontextmanager
async def flowing(
    build: Path, root: Path, change: Callable[[dict[str, Any]], None] = lambda site: None, **options: Any
) -> AsyncIterator[Rehearsal]:
    """A plant, its collectors, the preprocessor and the exporter; the plant produces and something has arrived."""
    options = {"rate": 500.0, "units": 1, "pi": 100.0, "clock": hours, **options}
    async with Rehearsal(root, build, preprocess=True, **options) as rehearsal:
        site = rehearsal.demo_site()
        for component in site["components"]:
            merge_of(site, component)["statusInterval"] = "1s"
        change(site)
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        await rehearsal.start_production()
        await rehearsal.wait_for(lambda: given_out(rehearsal) > 0, "samples that passed the preprocessor", LIMIT)
        yield rehearsal


def problems(rehearsal: Rehearsal) -> list[dict[str, Any]]:
    """What the preprocessor says of its configuration."""
    config = rehearsal.statuses.get("preprocessor", {}).get("config", {})
    return list(config.get("rejected", []))


def given_out(rehearsal: Rehearsal) -> int:
    """Samples that the exporter has exported of those that pass through."""
    ledger = rehearsal.statuses.get("preprocessor", {}).get("ledger", {})
    return int(ledger.get("preprocessor/through", {}).get("acknowledged", 0))


async def judged(rehearsal: Rehearsal) -> None:
    """Stop the plant, wait until all has arrived, and compare it with the plant's own log."""
    produced = await rehearsal.finish_production()
    await rehearsal.drain(produced, patience=30.0)
    report = await asyncio.to_thread(rehearsal.reconcile)
    assert report.balances, f"{orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2).decode()}{told(rehearsal)}"
    for name, verdict in (await rehearsal.drain_processed()).items():
        assert verdict.balances, f"{name}: {verdict}; {told(rehearsal)}"
        assert verdict.exact >= 50, f"{name}: {verdict}"
        assert verdict.totals >= 10, f"{name}: {verdict}"


async def dies(
    rehearsal: Rehearsal, component: Component, point: str = "", died: Callable[[], None] = lambda: None
) -> None:
    """Kill the component, now or at a crash point that it carries after a kill, and wait until it runs again.

    died: called when it is dead for the last time.
    """
    deaths = component.restarts + (2 if point else 1)
    component.crash_at = point
    await rehearsal.wait_for(lambda: component.pid is not None, "process to kill", LIMIT)
    component.kill()
    await rehearsal.wait_for(lambda: component.restarts >= deaths, f"death at {point or 'once'}", LIMIT)
    died()
    component.crash_at = ""
    await rehearsal.wait_for(lambda: component.state == "RUNNING", "its restart", LIMIT)


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_killed_at_every_commit_it_loses_and_doubles_no_sample_no_window_and_no_total(
    build: Path, tmp_path: Path, profile: str
) -> None:
    async with flowing(build, tmp_path, profile=profile) as rehearsal:
        component = rehearsal.core.component(PREPROCESSOR)
        flow = Flow({"preprocessor": PREPROCESSOR}, EXPORTER)
        flow.start(rehearsal.core.ipc)

        def recoveries() -> dict[str, Any]:
            return flow.recoveries().get(PREPROCESSOR, {"times": 0})

        for point in ("turn-stored:1", "checkpoint-stored:1", "turn-stored:20", "checkpoint-stored:2", ""):
            times = recoveries()["times"]
            await dies(rehearsal, component, point, lambda: flow.died(PREPROCESSOR))
            await rehearsal.wait_for(lambda times=times: recoveries()["times"] > times, "work again", LIMIT)  # type: ignore[misc]
            await asyncio.sleep(1.0)  # it works for a while between two deaths
        await judged(rehearsal)
    assert recoveries()["median_s"] < BACK_WITHIN, recoveries()


@pytest.mark.parametrize("component", [COLLECTOR, PI_COLLECTOR, EXPORTER])
async def test_whoever_dies_beside_it_windows_and_totals_stay_exact(
    build: Path, tmp_path: Path, component: str
) -> None:
    """Killed collectors read the past again: those samples come late, and revise windows that were given out."""
    async with flowing(build, tmp_path) as rehearsal:
        for _ in range(2):
            await dies(rehearsal, rehearsal.core.component(component))
            await asyncio.sleep(3.0)  # a window or two between two deaths
        await judged(rehearsal)


async def test_a_power_cut_takes_no_window_and_no_total(build: Path, tmp_path: Path) -> None:
    async with flowing(build, tmp_path) as rehearsal:
        await asyncio.sleep(3.0)  # a window or two
        await rehearsal.core.power_cut()
        await asyncio.sleep(1.0)  # without power
        await rehearsal.core.boot()
        await rehearsal.core.wait_state(PREPROCESSOR, "RUNNING", LIMIT)
        before = rehearsal.samples()
        await rehearsal.wait_for(lambda: rehearsal.samples() > before + 1000, "production after the power cut", LIMIT)
        # A stream manager that lost its tail is sent it again; SiteWise overwrites, Kinesis repeats by id.
        produced = await rehearsal.finish_production()
        await rehearsal.drain(produced, patience=30.0, repeats=False)
        report = await asyncio.to_thread(rehearsal.reconcile, overwritten=True)
        assert report.balances, told(rehearsal)
        verdicts = await rehearsal.drain_processed()
        assert all(one.balances for one in verdicts.values()), verdicts


async def test_collectors_are_told_only_what_a_checkpoint_holds(build: Path, tmp_path: Path) -> None:
    """Else a crash would find nothing to go through again."""

    def rarely(site: dict[str, Any]) -> None:
        for flow in merge_of(site, PREPROCESSOR)["flows"].values():
            flow["checkpointInterval"] = "10s"

    def ledger() -> dict[str, int]:
        found: dict[str, int] = rehearsal.statuses["opcua-collector"]["ledger"]["opcua-collector/line1"]
        return found

    async with flowing(build, tmp_path, rarely, pi=None) as rehearsal:
        # The first turn of a flow makes a checkpoint, so that there is a definition to build again from.
        await rehearsal.wait_for(lambda: given_out(rehearsal) > 1_500, "export", LIMIT)
        held = ledger()
        assert held["kept"] > 1_000, f"exported were {given_out(rehearsal)}; {held}"
        await rehearsal.wait_for(lambda: ledger()["acknowledged"] > held["acknowledged"] + 1_000, "checkpoint", LIMIT)
        rehearsal.core.component(PREPROCESSOR).kill()
        await judged(rehearsal)


async def test_a_change_of_one_flow_touches_no_other(build: Path, tmp_path: Path) -> None:
    """The deadband of a flow is changed while it runs: it goes on under its new rule with the state that it had."""

    def banded(site: dict[str, Any]) -> None:
        merge_of(site, PREPROCESSOR)["flows"]["banded"] = {
            "inputs": {"plant": {"stream": "opcua-collector/line1", "tags": ["Unit1/Row"]}},
            "steps": {"report": {"type": "report", "absolute": 1e9, "previous": False}},
        }
        merge_of(site, EXPORTER)["sources"] = [f"preprocessor/{flow}" for flow in ("through", "windows", "totals")]

    async with flowing(build, tmp_path, banded) as rehearsal:
        heard = {name: Heard(rehearsal, name) for name in ("banded", "windows", "totals")}
        component = rehearsal.core.component(PREPROCESSOR)
        before = component.pid
        await rehearsal.wait_for(lambda: len(heard["totals"].samples.get("Unit1/Row.total", ())) > 20, "totals", LIMIT)
        assert sum(map(len, heard["banded"].samples.values())) <= 1, "the first value says all"
        changed = copy.deepcopy(dict(rehearsal.site))
        merge_of(changed, PREPROCESSOR)["flows"]["banded"]["steps"]["report"]["absolute"] = 0
        await rehearsal.deploy(changed)
        await rehearsal.wait_for(lambda: len(heard["banded"].samples.get("Unit1/Row", ())) > 20, "every row", LIMIT)
        assert component.pid == before, "it was started again"
        assert [len(heard[name].epochs) for name in ("banded", "windows", "totals")] == [1, 1, 1], "numbered anew"
        assert problems(rehearsal) == []
        await judged(rehearsal)
        assert rehearsal.plant is not None
        rows = {
            line.time_ns: line.values["Unit1/Row"]
            for line in read_log(rehearsal.plant.log)
            if isinstance(line, LoggedRow) and "Unit1/Row" in line.values
        }
    seen = heard["banded"].samples["Unit1/Row"]
    assert all(rows[at] == value for at, value in seen)
    times = [at for at, _ in seen[1:]]
    assert times == sorted(at for at in rows if times[0] <= at <= times[-1]), "some are missing after the change"


async def test_a_wrong_flow_is_refused_with_its_place_and_mended_by_a_deployment(build: Path, tmp_path: Path) -> None:
    def wrong(site: dict[str, Any]) -> None:
        flows = merge_of(site, PREPROCESSOR)["flows"]
        derive = {"type": "derive", "outputs": {"twice": {"expression": "{Unit1/Row} * * 2", "tag": "Twice"}}}
        flows["wrong"] = {"inputs": {"plant": {"stream": "opcua-collector/line1"}}, "steps": {"sums": derive}}
        merge_of(site, EXPORTER)["sources"] = [f"preprocessor/{flow}" for flow in ("through", "windows", "totals")]

    async with flowing(build, tmp_path, wrong, pi=None) as rehearsal:
        heard = Heard(rehearsal, "wrong")
        await rehearsal.wait_for(lambda: bool(problems(rehearsal)), "word of the mistake", LIMIT)
        [refused] = problems(rehearsal)
        assert refused["path"] == "flows.wrong.steps.sums.outputs.twice.expression", refused
        assert "column" in refused["problem"], refused
        assert refused["remedy"], refused
        assert not heard.samples
        mended = copy.deepcopy(dict(rehearsal.site))
        flows = merge_of(mended, PREPROCESSOR)["flows"]
        flows["wrong"]["steps"]["sums"]["outputs"]["twice"]["expression"] = "{Unit1/Row} * 2"
        await rehearsal.deploy(mended)
        await rehearsal.wait_for(lambda: len(heard.samples.get("Twice", ())) > 10, "what the mended flow gives", LIMIT)
        await rehearsal.wait_for(lambda: not problems(rehearsal), "word that nothing is wrong any more", LIMIT)
        await judged(rehearsal)


@pytest.mark.alone
async def test_with_nothing_to_do_it_takes_little_memory(build: Path, tmp_path: Path) -> None:
    async with Rehearsal(tmp_path, build, rate=100, units=1, preprocess=True) as rehearsal:
        site = rehearsal.demo_site()
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        await rehearsal.wait_for(lambda: "preprocessor" in rehearsal.statuses, "status", LIMIT)
        await asyncio.sleep(5.0)  # it settles
        idle = rehearsal.core.component(PREPROCESSOR).rss_mb
    assert idle <= IDLE_MB, f"{idle:.1f} MB"
