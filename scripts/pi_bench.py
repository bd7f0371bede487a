"""What the PI collector takes while it follows 10,000 points, and how fast it reads the past.

    ./scripts/bench pi [--json FILE] [--seconds N]

The component, installed from its artifact and run by the local core, has one core to itself; the simulated PI Web API
and all else have the other.

- *live*: 10,000 points in 500 events a second, by channels. CPU is that of the whole component, user and system, over
  the time measured; memory its peak (VmHWM) since its start.
- *backfill*: the same points with a history of an hour, which the component reads at its start (`initial: 1h`, all its
  load limits raised), stores in its outbox and publishes to a consumer that acknowledges. Beside it, in the same run,
  the server's own maximum: a plain client that asks for the same ranges, four at a time, and throws the answers away.

What arrived is compared with what the PI system's own log says. The exit status judges: nothing missing or doubled,
live under 15 % of a core and at most 130 MB, backfill at 50,000 events a second or more.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from collector_bench import BenchError, Site, built, cores, cpu_seconds, peak_mb, pin
from plant import PiProcess

COLLECTOR: Final = "io.sluice.PiCollector"
CONNECTION: Final = "historian"
POINTS: Final = 10_000
RATE: Final = 500.0
HISTORY: Final = 3600.0
"""Seconds of the past that each point has."""
MOST_CORE: Final = 0.15
MOST_MB: Final = 130.0
LEAST_PER_S: Final = 50_000
PATIENCE: Final = 300.0
_SETTLE: Final = 5.0
_LOAD: Final = {
    "requestsPerSecond": 1000,
    "parallel": 6,
    "pointsPerRequest": 150,
    "backfillValuesPerSecond": 10_000_000,
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Rates per second, CPU as a share of a core, memory in MB."""

    what: str
    events: int
    lost: int
    """Produced, and arrived nowhere; below 0: arrived twice."""
    events_per_s: float
    core: float
    cpu_us: float
    """Per event."""
    rss_mb: float
    server_per_s: float | None = None
    """What the server gives to a client that throws it away."""


def judged(figures: Sequence[Figures]) -> list[str]:
    """What is not as it should be; nothing: all is well."""
    found = [] if {one.what for one in figures} >= {"live", "backfill"} else ["not everything was measured"]
    for one in figures:
        if one.lost:
            found.append(f"{one.what}: {one.lost} of {one.events} events are missing")
        if one.events <= 0:
            found.append(f"{one.what}: no event arrived")
        if one.what == "live" and one.rss_mb > MOST_MB:
            found.append(f"{one.what}: {one.rss_mb:.0f} MB, more than {MOST_MB:g}")
        if one.what == "live" and one.core > MOST_CORE:
            found.append(f"{one.what}: {one.core:.1%} of a core, more than {MOST_CORE:.0%}")
        if one.what == "backfill" and one.events_per_s < LEAST_PER_S:
            found.append(f"{one.what}: {one.events_per_s:,.0f} events per second, less than {LEAST_PER_S:,}")
    return found


def _points() -> list[str]:
    """The names that the simulated load gives its points."""
    return [f"L{number:0{len(str(POINTS))}}" for number in range(1, POINTS + 1)]


def _connection(pi: PiProcess, folder: Path, **more: Any) -> dict[str, Any]:
    points = folder / "points.csv"
    with points.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag", "point"])
        rows.writerows((name, name) for name in _points())
    return {"url": pi.url, "tagsFile": str(points), "load": _LOAD, "settle": "2s", "overlap": "10s", **more}


async def maximum(pi: PiProcess, begin: str, stop: str) -> float:
    """Events per second that the server gives to a client that only counts them."""
    async with aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}) as session:
        web_ids: list[str] = []
        names = _points()
        for first in range(0, len(names), 100):
            query = [("path", f"\\\\{pi.server}\\{name}") for name in names[first : first + 100]]
            query += [("webIdType", "IDOnly"), ("selectedFields", "Items.Object.WebId")]
            async with session.get(f"{pi.url}/points/multiple", params=query) as answer:
                found = orjson.loads(await answer.read())
            web_ids += [item["Object"]["WebId"] for item in found["Items"]]
        chunks = [web_ids[first : first + 150] for first in range(0, len(web_ids), 150)]
        waiting = iter(chunks)
        count = 0

        async def work() -> None:
            nonlocal count
            for chunk in waiting:
                query = [("webId", one) for one in chunk]
                query += [("startTime", begin), ("endTime", stop), ("maxCount", "1000"), ("boundaryType", "Inside")]
                query += [("selectedFields", "Items.WebId;Items.Items.Timestamp;Items.Items.Value;Items.Items.Good")]
                async with session.get(f"{pi.url}/streamsets/recorded", params=query) as answer:
                    count += (await answer.read()).count(b'"Timestamp"')

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(4)))
        return count / (time.monotonic() - started)


async def live(folder: Path, build: Path, seconds: float) -> Figures:
    """10,000 points, followed."""
    servers, under_test = cores()
    async with (
        PiProcess(folder / "pi", points=POINTS, rate=RATE, no_truth=True) as pi,
        Site(folder, build, COLLECTOR, "pi_collector") as site,
    ):
        pin(pi.pid, servers)
        await site.deploy({CONNECTION: _connection(pi, folder)})
        async with site.consuming() as arrived:
            pid = await site.pid()
            pin(pid, under_test)
            await pi.watched(PATIENCE)
            await pi.produce()
            await asyncio.sleep(_SETTLE)
            before, events, began = cpu_seconds(pid), arrived.values, time.monotonic()
            await asyncio.sleep(seconds)
            spent, taken, took = cpu_seconds(pid) - before, arrived.values - events, time.monotonic() - began
            produced = await pi.finish()
            await _arrived(lambda: arrived.values, produced)
            return Figures(
                "live",
                produced,
                produced - arrived.values,
                round(taken / took, 1),
                round(spent / took, 4),
                round(spent / max(1, taken) * 1e6, 1),
                round(peak_mb(pid), 1),
            )


async def backfill(folder: Path, build: Path, values: int) -> Figures:
    """The past of 10,000 points, so many values each."""
    servers, under_test = cores()
    async with (
        PiProcess(folder / "pi", points=POINTS, rate=RATE, past=values, past_span=HISTORY, no_truth=True) as pi,
        Site(folder, build, COLLECTOR, "pi_collector") as site,
    ):
        pin(pi.pid, servers)
        begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - HISTORY - 60.0))
        stop = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        server = await maximum(pi, begin, stop)
        total = POINTS * values
        await site.deploy({CONNECTION: _connection(pi, folder, initial=begin)})
        async with site.consuming() as arrived:
            pid = await site.pid()
            pin(pid, under_test)
            deadline = time.monotonic() + PATIENCE
            while arrived.values < total * 0.02:
                _before(deadline, arrived.values, total)
                await asyncio.sleep(0.01)
            before, events, began = cpu_seconds(pid), arrived.values, time.monotonic()
            while arrived.values < total * 0.98:
                _before(deadline, arrived.values, total)
                await asyncio.sleep(0.01)
            spent, taken, took = cpu_seconds(pid) - before, arrived.values - events, time.monotonic() - began
            await _arrived(lambda: arrived.values, total)
            return Figures(
                "backfill",
                total,
                total - arrived.values,
                round(taken / took),
                round(spent / took, 3),
                round(spent / max(1, taken) * 1e6, 2),
                round(peak_mb(pid), 1),
                round(server),
            )


def _before(deadline: float, values: int, total: int) -> None:
    if time.monotonic() > deadline:
        raise BenchError(f"{values} of {total} events after {PATIENCE:g} s")


async def _arrived(count: Any, wanted: int, patience: float = 15.0) -> None:
    """Wait until all is there, and a little longer, for what comes twice."""
    latest, since = count(), time.monotonic()
    while time.monotonic() - since < (2.0 if latest >= wanted else patience):
        await asyncio.sleep(0.05)
        if count() != latest:
            latest, since = count(), time.monotonic()


async def run(options: argparse.Namespace) -> list[Figures]:
    """Everything, one after the other."""
    servers, _ = cores()
    os.sched_setaffinity(0, {servers})
    found = []
    with tempfile.TemporaryDirectory(prefix="sluice-pi-bench-") as name:
        build = options.build or await asyncio.to_thread(built, Path(name))
        for what in options.what:
            folder = Path(name) / what
            folder.mkdir()
            one = await (
                live(folder, build, options.seconds) if what == "live" else backfill(folder, build, options.values)
            )
            show(one)
            found.append(one)
    return found


_ROW: Final = "{:10}{:>12}{:>6}{:>12}{:>10}{:>10}{:>9}{:>14}"


def show(one: Figures) -> None:
    """A line of the table."""
    server = "" if one.server_per_s is None else f"{one.server_per_s:,.0f}"
    print(
        _ROW.format(
            one.what,
            f"{one.events:,}",
            one.lost,
            f"{one.events_per_s:,.0f}",
            f"{one.core:.1%}",
            f"{one.cpu_us:.1f}",
            f"{one.rss_mb:.0f}",
            server,
        ),
        flush=True,
    )


def main() -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(prog="scripts/bench pi", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the live measurement (60)")
    parser.add_argument("--values", type=int, default=300, help="values of each point in the past (300)")
    parser.add_argument("--what", default="live,backfill", help="which, of live, backfill")
    parser.add_argument("--build", type=Path, help="output folder of scripts/build.py, in the place of a new build")
    options = parser.parse_args()
    options.what = options.what.split(",")
    if unknown := set(options.what) - {"live", "backfill"}:
        parser.error(f"--what {', '.join(sorted(unknown))}: there are live, backfill")
    print(f"{POINTS:,} points; CPU as a share of a core and in us per event, memory in MB")
    print(_ROW.format("", "events", "lost", "events/s", "CPU", "us/event", "memory", "server's max"))
    try:
        figures = asyncio.run(run(options))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    wrong = judged(figures)
    for one in wrong:
        print(f"bench: {one}", file=sys.stderr)
    if options.json is not None:
        report = {
            "ok": not wrong,
            "wrong": wrong,
            "pi": [asdict(one) for one in figures],
            "required": {"core": MOST_CORE, "rss_mb": MOST_MB, "backfill_per_s": LEAST_PER_S},
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
