"""`scripts/chaos --pi`: the PI collector under everything that can happen to a PI Web API, at twenty times real time.

The PI system compresses what reaches it, has values that come late, edits and deletions, and is cut off, silenced,
throttled, restarted and more at random, by a seed. The collector runs from its artifact; the exporter takes what it
publishes, so that all of it is published; a recorder beside it keeps each batch. Judged by the PI system's own log
(plant.pi.judge): all that the archive holds at the end and every value of every frame that was read has arrived once,
nothing else has, and what nobody can have lies in a gap that the collector told.
"""

from __future__ import annotations

import asyncio
import csv
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plant.pi.judge import Arrived, Verdict, judge
from rehearsal.command import Stage, say
from rehearsal.recorder import Recorder
from rehearsal.rehearsal import Rehearsal
from rehearsal.schedule import simulated_clock
from rehearsal.site import EXPORTER, PI_COLLECTOR, pi_points

SPEED: Final = 20.0
RATE: Final = 30.0
"""Values of the plant per second of the server; 600 in one of ours."""
START_AGO: Final = 4 * 3600.0
"""Seconds by which the PI system's clock is behind at first, so that it does not overtake ours."""
GROUPS: Final[Mapping[str, Mapping[str, Any]]] = {
    "channel": {"transport": "channel"},
    "updates": {"transport": "updates", "pollInterval": "500ms"},
    "poll": {"transport": "poll", "pollInterval": "1s"},
    "auto": {},
}
"""The points are dealt out to these."""
POINTS: Final = "storm.csv"
ACTIVITY: Final[Mapping[str, float]] = {"late": 1.0, "edits": 0.3, "deletions": 0.0, "bursts": 0.02, "back_s": 5400.0}
"""Per second of the server: what reaches PI beside the plant's values. What is deleted, nobody can have once."""
QUIET: Final = 10.0
"""Seconds at the end in which nothing new goes wrong."""
DRAIN: Final = 60.0
"""Seconds after that in which all that is missing must have been read."""
CALM: Final = 10.0, 5.0
"""After so many seconds of faults, so many without: what is told of gaps would excuse everything if one followed the
other for ever."""
_OUTSIDE: Final = 0.05
"""Share of all values that must be of promised points (half of them are) and reach PI outside all their gaps, for what
is told of gaps to prove anything."""
_UNSAVED_NS: Final = 40 * 1_000_000_000
"""Of server time, two seconds of ours: what a collector may hold before it is stored."""
_PROMISING: Final = ("channel", "updates")
"""Groups whose every value is delivered or told; the others read the archive, always or while nothing better can be
had, and that alone is promised."""
LASTING: Final[Mapping[str, Mapping[str, Any]]] = {
    "silence": {},
    "refuse_upgrades": {"status": 503},
    "delay": {"seconds": 0.5},
    "throttle": {"share": 0.5, "retry_after": 1},
    "errors": {"status": 503, "share": 0.5},
    "web_exceptions": {"share": 0.4},
    "truncate": {"share": 0.4},
    "drip": {"bytes_per_s": 20000},
    "value_errors": {"share": 0.3},
    "archive_down": {},
    # So far is a subscription's beginning not certain, and a gap open: of a day of it nothing else would be seen.
    "skew": {"seconds": 100, "date_only": True},
    "duplicate": {"share": 0.7},
}
MOMENTARY: Final[Mapping[str, Mapping[str, Any]]] = {
    "cut": {},
    "close": {"code": 1001},
    "oversize": {},
    "late": {"values": 300, "back_s": 5400},
    "restart": {},
}


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing that happens: at which second, what, and for how long (0: at once over)."""

    at: float
    name: str
    arguments: Mapping[str, Any]
    seconds: float = 0.0


def blows(seed: int, seconds: float, kills: int) -> list[Blow]:
    """Everything that happens, in the order of time: each fault at least once where there is room, by the seed."""
    dice = random.Random(f"sluice pi storm {seed} {seconds:g} {kills}")  # noqa: S311 - it must repeat
    end = seconds - QUIET
    found: list[Blow] = []
    at = 2.0
    waiting: list[str] = []
    calm = at + CALM[0]
    while at < end:
        if at >= calm:
            at += CALM[1]
            calm = at + CALM[0]
            continue
        if not waiting:
            waiting = [*LASTING, *MOMENTARY]
            dice.shuffle(waiting)
        name = waiting.pop()
        lasts = round(dice.uniform(0.5, 4.0), 1) if name in LASTING else 0.0
        found.append(Blow(round(at, 1), name, {**LASTING, **MOMENTARY}[name], min(lasts, max(0.5, end - at))))
        at += dice.uniform(0.5, 4.0)
    part = (end - 4.0) / max(1, kills)
    found += [
        Blow(round(4.0 + part * number + dice.uniform(0.0, part * 0.8), 1), "kill", {}) for number in range(kills)
    ]
    return sorted(found, key=lambda blow: (blow.at, blow.name))


def site(rehearsal: Rehearsal) -> dict[str, Any]:
    """The collector with all points of the PI system, dealt out to the groups, and an exporter that takes all."""
    assert rehearsal.pi is not None
    points_csv = rehearsal.root / POINTS
    groups = list(GROUPS)
    with points_csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tag", "point", "group"))
        writer.writerows(
            (point, point, groups[number % len(groups)]) for number, point in enumerate(pi_points(rehearsal.pi))
        )
    connection: dict[str, Any] = {
        **rehearsal.collectors()[PI_COLLECTOR]["connections"]["historian"],
        "tagsFile": str(points_csv),
        "digitals": "code",
        # Times of the server, which pass twenty times as fast as ours.
        "settle": "10s",
        "overlap": "20s",
        "reconcile": {"every": "4s", "window": "3h"},
        # Values that come late lie up to 5400 s back: before a point's beginning they would be nobody's.
        "initial": "2h",
        "heartbeat": "1s",
        "requestTimeout": "5s",
        "load": {"requestsPerSecond": 200, "parallel": 6},
        "groups": {name: dict(group) for name, group in GROUPS.items()},
    }
    collector = {"statusInterval": "1s", "connections": {"historian": connection}}
    exporter = {"statusInterval": "1s", "sinks": {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}}}
    return {
        "components": {
            PI_COLLECTOR: {"configurationUpdate": {"merge": collector}},
            EXPORTER: {"configurationUpdate": {"merge": exporter}},
        }
    }


async def rehearse(
    root: Path, artifacts: Path, seconds: float, seed: int, *, kills: int, stage: Stage
) -> dict[str, Any]:
    """One run; returns the report."""
    options = {
        "speed": SPEED,
        "start_ago": START_AGO,
        "compress": True,
        "units": 4,
        "poll": 4.0,
        "seed": seed,
    }
    # Its clock is for the rule that makes a component BROKEN: it is killed now and then.
    async with Rehearsal(
        root, artifacts, with_plant=False, pi=RATE, pi_options=options, clock=simulated_clock
    ) as rehearsal:
        assert rehearsal.pi is not None
        recorder = Recorder(root / "published", "pi-collector")
        recorder.start(rehearsal.core.ipc)
        document = site(rehearsal)
        async with stage.doing("deploying " + ", ".join(document["components"])):
            await rehearsal.provide(document)
            await rehearsal.deploy(document)
            await rehearsal.start_production()
            await rehearsal.pi.storm(**ACTIVITY)
        done, deaths = await _blow(rehearsal, blows(seed, seconds, kills), seconds, stage)
        async with stage.doing("healing; stopping the PI system; waiting until all that is missing was read"):
            await rehearsal.pi.heal()
            await rehearsal.pi.calm()
            produced = await rehearsal.pi.finish()
            await _settled(rehearsal, recorder)
            await rehearsal.pi.archive()
            counters = await rehearsal.pi.counters()
            used = rehearsal.components()
            status = rehearsal.statuses.get("pi-collector", {}).get("connections", {})
            await rehearsal.core.component(PI_COLLECTOR).stop()
            verdict = await asyncio.to_thread(_judged, rehearsal.pi.truth, recorder)
        missing = recorder.missing()
        report = {
            "seed": seed,
            "seconds": seconds,
            "speed": SPEED,
            "produced": produced,
            "blows": dict(sorted(done.items())),
            "kills": deaths,
            "judged": verdict.as_dict(),
            "hits": counters["hits"],
            "requests": counters["requests"],
            "activity": counters["activity"],
            "components": used,
            "status": status,
            "problems": [
                *verdict.problems,
                *(f"the recorder did not hear {count} batches of {name}" for name, count in missing.items()),
                *(["the collector wrote: " + str(counters["written"])] if counters["written"] else []),
                *proves_nothing(verdict, done, counters),
                *differs(verdict.gaps, status.get("historian", {}).get("gaps", {})),
            ],
        }
        report["passed"] = verdict.passed and not report["problems"]
        recorder.close()
        return report


async def _blow(
    rehearsal: Rehearsal, planned: Sequence[Blow], seconds: float, stage: Stage
) -> tuple[Counter[str], int]:
    """Let it all happen; what did, and how often the collector was killed."""
    assert rehearsal.pi is not None
    pi, done, deaths = rehearsal.pi, Counter[str](), 0
    started = time.monotonic()
    under_way: set[asyncio.Task[None]] = set()

    async def last(blow: Blow) -> None:
        await pi.fault(blow.name, **blow.arguments)
        if blow.name == "refuse_upgrades":
            await pi.fault("cut")  # else nobody would want an upgrade
        try:
            await asyncio.sleep(blow.seconds)
        finally:
            await pi.heal(blow.name)

    async def play() -> None:
        nonlocal deaths
        for blow in planned:
            await asyncio.sleep(max(0.0, started + blow.at - time.monotonic()))
            say(f"{time.monotonic() - started:6.1f} s  {blow.name} {dict(blow.arguments)} {blow.seconds or ''}")
            done[blow.name] += 1
            if blow.name == "kill":
                await _kill(rehearsal)
                deaths += 1
            elif blow.seconds:
                task = asyncio.create_task(last(blow))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                await pi.fault(blow.name, **blow.arguments)

    playing = asyncio.create_task(play())
    try:
        await stage.flow(
            rehearsal, lambda passed: passed >= seconds or (playing.done() and playing.exception() is not None)
        )
        if playing.done():
            playing.result()
    finally:
        for task in (playing, *under_way):
            task.cancel()
        await asyncio.gather(playing, *under_way, return_exceptions=True)
    return done, deaths


def proves_nothing(verdict: Verdict, done: Mapping[str, int], counters: Mapping[str, Any]) -> list[str]:
    """Why a run that balances says little: nothing was hit, or there was nothing to be lost."""
    problems = [
        f"{name} was ordered {count} times and hit nothing"
        for name, count in done.items()
        if count > 1 and name != "kill" and not counters["hits"].get(name)
    ]
    happened = counters["activity"]
    problems += [f"PI had no {name}" for name in ("late", "edits", "bursts", "states") if not happened.get(name)]
    if not verdict.frames:
        problems.append("no frame of a channel was read")
    if verdict.outside < _OUTSIDE * verdict.produced:
        problems.append(
            f"only {verdict.outside} of {verdict.produced} values reached PI outside all gaps: a loss in silence would "
            f"hardly be seen"
        )
    return problems


def differs(told: Mapping[str, int], status: Mapping[str, int]) -> list[str]:
    """Whether the events of gaps and the collector's own count of them say the same."""
    counted = {name: status.get(name) for name in told}
    return [] if counted == dict(told) else [f"gaps by their events {dict(told)}, by the collector's status {counted}"]


async def _kill(rehearsal: Rehearsal) -> None:
    component = rehearsal.core.component(PI_COLLECTOR)
    await rehearsal.wait_for(lambda: component.pid is not None, "running collector to kill", 30.0)
    component.kill()
    assert rehearsal.pi is not None
    await rehearsal.pi.killed()


async def _settled(rehearsal: Rehearsal, recorder: Recorder) -> None:
    """Wait until nothing new is published and no gap is open, and another reconciliation has gone by."""
    quiet_for = 12.0
    deadline = time.monotonic() + DRAIN + quiet_for
    last, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        now = recorder.values
        if now != last or _open_gaps(rehearsal):
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= quiet_for:
            return
        await asyncio.sleep(0.5)


def _open_gaps(rehearsal: Rehearsal) -> int:
    connections = rehearsal.statuses.get("pi-collector", {}).get("connections", {})
    return sum(int(one.get("gaps", {}).get("open", 0)) for one in connections.values())


def _judged(log: Path, recorder: Recorder) -> Verdict:
    arrived = [Arrived(*sample) for sample in recorder.samples()]
    with (log.parent.parent / POINTS).open(newline="") as file:
        promised = {row["tag"] for row in csv.DictReader(file) if row["group"] in _PROMISING}
    return judge(log, arrived, list(recorder.events()), promised=promised, unsaved_ns=_UNSAVED_NS)


def tell(report: Mapping[str, Any]) -> None:
    """What a person wants to know of a run."""
    found = report["judged"]
    say(f"happened: {', '.join(f'{name} {count}' for name, count in report['blows'].items())}")
    say(
        f"archive {found['archive']:,} (missing {found['archive_missing']}), in frames that were read "
        f"{found['frames']:,} (missing {found['frames_missing']}), delivered {found['delivered']:,}: doubled "
        f"{found['doubled']}, invented {found['invented']}; compressed away in gaps that were told {found['listed']}, "
        f"in silence {found['unlisted']}, outside all gaps {found['outside']:,}; gaps {found['gaps']}"
    )
    for name, used in report["components"].items():
        say(f"{name}: {used['rss_mb']:.0f} MB, {used['cpu_s']:.1f} s of CPU")
    for problem in report["problems"]:
        say(f"problem: {problem}")
    say("it balances" if report["passed"] else "it FAILED")


__all__ = ["Blow", "blows", "differs", "proves_nothing", "rehearse", "site", "tell"]
