"""How long the OPC UA collector takes until it monitors very many items, and what that costs.

    ./scripts/bench items [--json FILE] [--items N]

The component, installed from its artifact and run by the local core, with a table of 100,000 tags: against the replay
server, and against open62541 (`scripts/peers` installs it; without it, it is left out and said so), with 32,000 of
them, for it takes no more. Measured are the
time from the start of the process until the server monitors all; the longest that a command waits for its answer, which
is how long the event loop is busy at a time, meanwhile and then with a value of every tag each second; memory; and the
time until all is taken up again after the component was killed, while the replay server goes on with its values.
Nothing of the server's limits is known beforehand, and the load on it is the default's. The exit status is 0 when all
items are monitored within 60 s and no value is missing, altered or there twice, over the kill as well. What the server
had to drop because it was not asked for it is missing too, and told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from collector_bench import (
    PEERS,
    Arrived,
    BenchError,
    Replay,
    Site,
    built,
    cores,
    cpu_seconds,
    peak_mb,
    pin,
    replaying,
)

ITEMS: Final = 100_000
MOST_62541: Final = 32_000
"""The server of o6 refuses the 32,769th monitored item of all its clients."""
WITHIN: Final = 60.0
PATIENCE: Final = 300.0
_ASK_EVERY: Final = 0.02
_BEFORE_KILL: Final = 3.5
_OVER_KILL: Final = 15.0
_DRAIN: Final = 30.0
"""Seconds without another value after which no more are expected."""
_REPEATS: Final = 2.0
"""Seconds in which what is sent twice would have arrived twice."""
_COMMANDS, _REPLIES = "sluice/command/opcua-collector", "sluice/reply/opcua-collector"


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds, MB, and milliseconds for the longest waits."""

    server: str
    items: int
    seconds: float
    wait_ms: float
    cpu_s: float
    rss_mb: float
    live_wait_ms: float | None
    live_rss_mb: float | None
    dropped: int
    """By the server, which was asked for too little."""
    lost: int
    """Sent, and arrived nowhere; below 0: arrived twice."""
    lost_over_kill: int
    """The same of what flowed while the component was killed and came back."""
    wrong: bool
    """The numbers that arrived do not add up to those that were sent."""
    back_s: float
    back_wait_ms: float


def judged(figures: list[Figures]) -> list[str]:
    """What is not as it should be; nothing: all is well."""
    found = [] if figures else ["nothing was measured"]
    for one in figures:
        if one.seconds > WITHIN:
            found.append(f"{one.server}: {one.items} items took {one.seconds:.0f} s, more than {WITHIN:.0f}")
        if one.dropped:
            found.append(f"{one.server}: {one.dropped} values were not asked for in time, and the server dropped them")
        if one.lost:
            found.append(f"{one.server}: {one.lost} values are missing")
        if one.lost_over_kill:
            found.append(f"{one.server}: {one.lost_over_kill} values are missing after the component was killed")
        if one.wrong:
            found.append(f"{one.server}: the values that arrived do not add up to those that were sent")
    return found


class Waits:
    """Asks the component for what it does not know, all the time: the longest wait for an answer."""

    def __init__(self, site: Site) -> None:
        self._ipc = site.core.ipc
        self._asked: dict[str, float] = {}
        self._longest = 0.0
        self._heard = False
        self._number = 0
        self._cancel = self._ipc.observe(_REPLIES, self._answered)
        self._task = asyncio.create_task(self._ask())

    def _answered(self, topic: str, payload: bytes) -> None:
        identity = orjson.loads(payload).get("id", "")
        if identity not in self._asked:
            return
        while True:  # what was asked before the first that is answered came before it listened
            earlier = next(iter(self._asked))
            asked = self._asked.pop(earlier)
            if earlier == identity:
                break
        if self._heard:
            self._longest = max(self._longest, time.monotonic() - asked)
        self._heard = True

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(_ASK_EVERY)
            if len(self._asked) < 3 or not self._heard:
                self._number += 1
                identity = f"wait-{self._number}"
                self._asked[identity] = time.monotonic()
                command = {"v": 1, "kind": "command", "id": identity, "command": "nothing", "arguments": {}}
                await self._ipc.publish(_COMMANDS, orjson.dumps(command))

    def begin(self) -> None:
        """Forget what was before."""
        self._asked.clear()
        self._longest = 0.0
        self._heard = False

    @property
    def longest_ms(self) -> float:
        """Since `begin`, with those who wait still."""
        waiting = (time.monotonic() - asked for asked in self._asked.values() if self._heard)
        return round(max(self._longest, *waiting, 0.0) * 1000, 1)

    async def close(self) -> None:
        """Ask no more."""
        self._task.cancel()
        self._cancel()


async def monitoring(site: Site, items: int, began: float) -> float:
    """Seconds since `began` until the component's status says that all are monitored."""
    seen: dict[str, Any] = {}

    def status(topic: str, payload: bytes) -> None:
        seen.update(orjson.loads(payload).get("connections", {}).get("replay", {}))

    cancel = site.core.ipc.observe("sluice/status/opcua-collector", status)
    try:
        while seen.get("monitored", 0) < items:
            if time.monotonic() - began > PATIENCE:
                told = {key: seen.get(key) for key in ("state", "why", "remedy", "tags", "monitored", "bad_tags")}
                raise BenchError(f"not all of {items} items are monitored after {PATIENCE:.0f} s: {told}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began
    finally:
        cancel()


async def against_replay(site: Site, options: argparse.Namespace) -> Figures:
    """The replay server, whose values also flow for a while: one of each tag a second."""
    servers, under_test = cores()
    async with replaying("doubles", options.items, servers) as replay:
        await site.install(replay.port, options.items)
        async with site.consuming() as arrived:
            await site.begin()
            began = time.monotonic()
            pid = await site.pid()
            pin(pid, under_test)
            waits = Waits(site)
            await replay.watched(options.items, lambda: "", PATIENCE)
            seconds = time.monotonic() - began
            wait, cpu, rss = waits.longest_ms, cpu_seconds(pid), peak_mb(pid)
            waits.begin()
            flow = Flow(replay, arrived)
            await flow.run(options.seconds)
            live_wait, live_rss = waits.longest_ms, peak_mb(pid)
            again = Flow(replay, arrived)
            flowing = asyncio.create_task(again.run(_OVER_KILL))
            await asyncio.sleep(_BEFORE_KILL)
            back, back_wait = await _back(site, waits, options.items)
            await flowing
            await waits.close()
            await site.stop()
    return Figures(
        "replay", options.items, round(seconds, 1), wait, round(cpu, 1), round(rss), live_wait, round(live_rss),
        flow.dropped + again.dropped, flow.lost, again.lost, flow.wrong or again.wrong, round(back, 1), back_wait,
    )  # fmt: skip


class Flow:
    """A value of each tag a second, for a while, and what became of them."""

    def __init__(self, replay: Replay, arrived: Arrived) -> None:
        self.dropped = 0
        self.lost = 0
        self.wrong = False
        self._replay = replay
        self._arrived = arrived

    async def run(self, seconds: float) -> None:
        """Let them flow, and wait until all have arrived, or none has for a while."""
        values, total = self._arrived.values, self._arrived.sum
        sent = await self._replay.ask(do="produce", rate=1.0, seconds=seconds, patience=PATIENCE)
        latest, since = self._arrived.values, time.monotonic()
        while latest - values < sent["sent"] and time.monotonic() - since < _DRAIN:
            await asyncio.sleep(0.05)
            if self._arrived.values != latest:
                latest, since = self._arrived.values, time.monotonic()
        await asyncio.sleep(_REPEATS)
        self.dropped = int(sent["dropped"])
        self.lost = int(sent["sent"]) - (self._arrived.values - values)
        self.wrong = not self.lost and abs(self._arrived.sum - total - sent["sum"]) > 1e-6 * max(1.0, abs(sent["sum"]))


async def _back(site: Site, waits: Waits, items: int) -> tuple[float, float]:
    """Kill it: seconds until it collects from all again, and the longest wait once it answers."""
    site.component.kill()
    began = time.monotonic()
    await asyncio.sleep(1.0)
    await site.core.wait_state(site.component.name, "RUNNING", 60.0)
    await site.pid()
    waits.begin()
    back = await monitoring(site, items, began)
    return back, waits.longest_ms


@contextlib.asynccontextmanager
async def open62541(items: int, core: int) -> AsyncIterator[int]:
    """An open62541 server with so many variables; its port."""
    script = Path(__file__).parent / "bench_peers" / "open62541_server.py"
    python = PEERS / "open62541" / "bin" / "python"
    process = await asyncio.create_subprocess_exec(
        str(python), str(script), str(items), stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        while not (line := await asyncio.wait_for(process.stdout.readline(), PATIENCE)).startswith(b"{"):
            if not line:
                raise BenchError("the open62541 server did not start: see what it wrote above")
        pin(process.pid, core)
        yield json.loads(line)["port"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def against_open62541(site: Site, options: argparse.Namespace) -> Figures:
    """A server of somebody else's."""
    servers, under_test = cores()
    items = min(options.items, MOST_62541)
    async with open62541(items, servers) as port:
        tags = site.folder / "tags62541.csv"
        with tags.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["tag", "node"])
            rows.writerows((f"Area{n % 7}/Loop{n}.PV", f"nsu=urn:sluice:items;i={n}") for n in range(1, items + 1))
        await site.install(port, 1, tagsFile=str(tags), publishingInterval="1s")
        async with site.consuming():
            await site.begin()
            began = time.monotonic()
            pid = await site.pid()
            pin(pid, under_test)
            waits = Waits(site)
            seconds = await monitoring(site, items, began)
            wait, cpu, rss = waits.longest_ms, cpu_seconds(pid), peak_mb(pid)
            back, back_wait = await _back(site, waits, items)
            await waits.close()
            await site.stop()
    return Figures(
        "open62541", items, round(seconds, 1), wait, round(cpu, 1), round(rss), None, None, 0, 0, 0, False,
        round(back, 1), back_wait,
    )  # fmt: skip


async def run(options: argparse.Namespace) -> list[Figures]:
    """Both servers, as far as they are there."""
    servers, _ = cores()
    os.sched_setaffinity(0, {servers})
    found = []
    with tempfile.TemporaryDirectory(prefix="sluice-items-") as name:
        build = options.build or await asyncio.to_thread(built, Path(name))
        for server, measure in (("replay", against_replay), ("open62541", against_open62541)):
            if server not in options.servers:
                continue
            if server == "open62541" and not (PEERS / "open62541/bin/python").exists():
                print("open62541 was not measured: .peers/open62541 is missing; scripts/peers installs it")
                continue
            folder = Path(name) / server  # a core of its own: what the one has left shall not meet the other
            folder.mkdir()
            async with Site(folder, build) as site:
                one = await measure(site, options)
            found.append(one)
            live = "" if one.live_wait_ms is None else f"; live {one.live_wait_ms:.0f} ms, {one.live_rss_mb:.0f} MB"
            print(
                f"{one.server}: {one.items} items after {one.seconds} s, {one.cpu_s} s of CPU, {one.rss_mb:.0f} MB,"
                f" longest wait {one.wait_ms:.0f} ms{live}; back {one.back_s} s after a kill,"
                f" longest wait {one.back_wait_ms:.0f} ms; dropped by the server {one.dropped}, lost {one.lost},"
                f" over the kill {one.lost_over_kill}",
                flush=True,
            )
    return found


def main() -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(prog="scripts/bench items", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--items", type=int, default=ITEMS, help="monitored items (100000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long values flow (20)")
    parser.add_argument("--servers", default="replay,open62541", help="which, of replay, open62541")
    parser.add_argument("--build", type=Path, help="output folder of scripts/build.py, in the place of a new build")
    options = parser.parse_args()
    options.servers = options.servers.split(",")
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
            "items": [asdict(one) for one in figures],
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
