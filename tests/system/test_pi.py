"""The PI collector under what a plant does to it, judged by the PI system's own log: every value that the archive holds
and every value of a frame that was read has arrived once, nothing else has, and what nobody can have any more lies in a
gap that was told. scripts/chaos --pi does the storm for longer, with kills in it, and with any seed."""

from __future__ import annotations

import asyncio
import csv
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from plant.pi.judge import Arrived, Verdict, judge
from rehearsal import Rehearsal
from rehearsal.command import Stage
from rehearsal.pi_storm import rehearse
from rehearsal.recorder import Recorder
from rehearsal.site import EXPORTER, PI_COLLECTOR

pytestmark = pytest.mark.system

LIMIT = 40.0
SEED = 110
"""One with thirteen kinds of faults in 35 s."""
SECOND = 1_000_000_000
POINTS, PAST = 100, 2000
"""A load with a past: so many values of each point lie in the hour before the collector first starts."""
RATE = 500.0


async def test_a_storm_of_faults_loses_doubles_and_invents_nothing(build: Path, tmp_path: Path) -> None:
    task = asyncio.current_task()
    assert task is not None
    found = await rehearse(tmp_path, build, 35.0, SEED, kills=0, stage=Stage(task, live=False))
    assert found["passed"], orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    judged = found["judged"]
    assert judged["archive"] > 10_000
    assert judged["frames"] > 2_000
    assert judged["listed"] > 0
    assert judged["gaps"]["filled"] > 2
    hit = {name for name in found["blows"] if found["hits"].get(name)}
    assert len(found["blows"]) >= 12
    assert len(hit) >= 8, (found["blows"], found["hits"])


class Killed:
    """A collector of a load with a past, the exporter that takes all of it, and a recorder beside."""

    def __init__(self, rehearsal: Rehearsal, recorder: Recorder) -> None:
        assert rehearsal.pi is not None
        self.rehearsal = rehearsal
        self.recorder = recorder
        self.pi = rehearsal.pi
        self.component = rehearsal.core.component(PI_COLLECTOR)
        self.kills: list[int] = []
        """Values that had been published at each kill."""

    def told(self) -> dict[str, Any]:
        """What the collector last said of its connection."""
        status: dict[str, Any] = self.rehearsal.statuses.get("pi-collector", {}).get("connections", {})
        return dict(status.get("historian", {}))

    async def kill(self) -> None:
        """SIGKILL; it is started again by the nucleus."""
        restarts = self.component.restarts
        await self.rehearsal.wait_for(lambda: self.component.pid is not None, "collector to kill", LIMIT)
        self.component.kill()
        self.kills.append(self.recorder.values)
        await self.pi.killed()
        await self.rehearsal.wait_for(lambda: self.component.restarts > restarts, "restart", LIMIT)

    async def published(self, values: int, what: str) -> None:
        """Wait until so many values have been published."""
        await self.rehearsal.wait_for(lambda: self.recorder.values >= values, f"{what}: {values} values", LIMIT)

    async def settled(self) -> None:
        """Wait until every gap is closed and nothing new has come for some seconds."""
        last, since = -1, time.monotonic()
        deadline = since + LIMIT
        while time.monotonic() < since + 4.0:
            assert time.monotonic() < deadline, self.told()
            open_gaps = self.told().get("gaps", {}).get("open", 1)
            if self.recorder.values != last or open_gaps:
                last, since = self.recorder.values, time.monotonic()
            await asyncio.sleep(0.1)

    def verdict(self) -> Verdict:
        """The PI system's own log against what was published."""
        arrived = [Arrived(*sample) for sample in self.recorder.samples()]
        return judge(self.pi.truth, arrived, list(self.recorder.events()), unsaved_ns=2 * SECOND)


def points_of(folder: Path) -> tuple[Path, list[str]]:
    """A table of the load's points, and their names."""
    names = [f"L{number:0{len(str(POINTS))}}" for number in range(1, POINTS + 1)]
    path = folder / "load.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("tag", "point"), *((name, name) for name in names)])
    return path, names


async def test_a_collector_killed_while_it_reads_the_past_and_while_it_follows_loses_and_doubles_nothing(
    build: Path, tmp_path: Path
) -> None:
    options = {"units": None, "points": POINTS, "past": PAST, "past_span": 3600.0}

    def hours() -> float:
        """Seconds in which an hour is one of ours: a component that dies three times within an hour is BROKEN."""
        return time.monotonic() * 3600.0

    async with Rehearsal(tmp_path, build, with_plant=False, pi=RATE, pi_options=options, clock=hours) as rehearsal:
        table, _ = points_of(tmp_path)
        connection = {
            **rehearsal.collectors()[PI_COLLECTOR]["connections"]["historian"],
            "tagsFile": str(table),
            "initial": "2h",
            # Nothing is read a second time only to be sure: what is passed by stays missing.
            "reconcile": {"every": "7d", "window": "1h"},
            # The past in many small answers, so that a kill falls into the middle of it.
            "load": {"valuesPerRequest": 5000, "backfillValuesPerSecond": 25000},
        }
        collector = {"statusInterval": "1s", "connections": {"historian": connection}}
        exporter = {"statusInterval": "1s", "sinks": {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}}}
        site = {
            "components": {
                PI_COLLECTOR: {"configurationUpdate": {"merge": collector}},
                EXPORTER: {"configurationUpdate": {"merge": exporter}},
            }
        }
        recorder = Recorder(tmp_path / "published", "pi-collector")
        recorder.start(rehearsal.core.ipc)
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        run = Killed(rehearsal, recorder)
        past = POINTS * PAST
        await run.published(past // 10, "first part of the past")
        await run.kill()
        await run.published(past // 10 + past // 4, "second part of the past")
        await run.kill()
        assert all(past // 10 <= count <= past * 8 // 10 for count in run.kills), f"of {past}: {run.kills}"
        await run.published(past, "all of the past")

        await rehearsal.start_production()
        for _ in range(2):
            await run.published(recorder.values + round(3 * RATE), "live values")
            await run.kill()
        await run.published(recorder.values + round(3 * RATE), "live values")
        await run.pi.finish()
        await run.settled()
        await run.pi.archive()
        asked = await run.pi.counters()
        await run.component.stop()
        verdict = await asyncio.to_thread(run.verdict)
        missing = recorder.missing()
        recorder.close()
    assert verdict.passed, verdict.as_dict()
    assert not missing, missing
    assert verdict.archive > past
    assert verdict.frames > 2 * RATE
    assert verdict.archive == verdict.delivered, verdict.as_dict()
    assert asked["written"] == 0, asked["requests"]
