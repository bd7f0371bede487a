"""The preprocessor as it is deployed, for `scripts/bench preprocessor`: what it costs, and how it comes back.

The component, installed from its artifact and run by the local core, has one core to itself. A collector of ours
publishes from an outbox of its own, and a consumer that acknowledges takes what comes out; both are in the core's
process, on the other core.

- *share*: 10,000 values a second, as 10,000 tags at 1 Hz and as 200 tags at 50 Hz, through gate, conversion, range,
  alarm, one-minute windows and report, and beside it counters and totals of a tenth of them. CPU, bytes written to the
  disk and memory are those of the component's process.
- *back*: then it is killed, while all that flows: seconds from the kill until samples that were made after it come out.
- *hold*: many tags at one value in ten seconds through gate and report, in this process: the longest time for which
  anything else had to wait for the event loop.

Nothing may be missing: what the flows say that they received is what was produced for them, and what they say that they
sent is what has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from collector_bench import CONSUMER, QUOTA, BenchError, InsideBus, Site, cores, cpu_seconds, peak_mb, pin
from preprocessor import compile as compiler
from preprocessor.config import Flow as FlowSettings
from preprocessor.flow import Flow
from preprocessor.problems import FlowProblems
from sluice import garbage
from sluice.batch import CLASSIC_MAX_MESSAGE_BYTES, Announcement, EventBatch, Header, SampleBatch
from sluice.columns import Columns, Series, ValueType
from sluice.component import Problems
from sluice.config import OutboxSettings
from sluice.delivery import Consumer, Gap, Message
from sluice.inlet import Inlet
from sluice.outlets import Outlets

PREPROCESSOR: Final = "io.sluice.Preprocessor"
PRODUCER: Final = "opcua-collector"
SOURCE: Final = "line1"
PER_S: Final = 10_000
SHAPES: Final = ((10_000, 1), (200, 50))
"""Tags, and values of each in a second."""
HELD_TAGS: Final = (75_000, 100_000)
HELD_SECONDS: Final = 35.0
MOST_CORE: Final = 0.10
MOST_IDLE_MB: Final = 75.0
MOST_HOLD_S: Final = 0.1
MOST_BACK_S: Final = 3.0
PATIENCE: Final = 60.0
_WARM: Final = 20.0
"""Seconds until it is measured: then all tags are known, and a checkpoint was made."""
_SECOND: Final = 1_000_000_000
_PARTS: Final = 10
"""So often in a second the collector gives something."""
_INPUT: Final = {"stream": f"{PRODUCER}/{SOURCE}"}
FLOWS: Final[dict[str, Any]] = {
    "main": {
        "inputs": {"line1": _INPUT},
        "steps": {
            "gate": {"type": "quality"},
            "units": {"type": "convert", "units": {"degF": "degC"}},
            "possible": {"type": "range", "tags": "Area*/**", "low": -50, "high": 400, "softHigh": 200},
            "high": {
                "type": "alarm",
                "tags": "Area*/**",
                "limits": {"high": 90, "highHigh": 120},
                "hysteresis": 2,
                "onDelay": "5s",
            },
            "minutes": {
                "type": "aggregate",
                "window": "1m",
                "functions": ["average", "minimum", "maximum", "percentGood"],
                "inputs": "pass",
            },
            "report": {"type": "report", "absolute": 0.5, "maxInterval": "10m"},
        },
    },
    "totals": {
        "inputs": {"line1": {**_INPUT, "tags": ["Count/*", "Rate/*"]}},
        "steps": {
            "count": {"type": "counter", "tags": "Count/*", "inputs": "drop"},
            "sum": {"type": "totalize", "tags": "Rate/*", "per": "h", "inputs": "drop"},
        },
    },
}
"""Of twenty tags one is a counter, and one a rate."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """The component at work. CPU as a share of a core and in us per value, memory in MB."""

    shape: str
    core: float
    cpu_us: float
    idle_mb: float
    rss_mb: float
    bytes_per_value: float
    produced: int
    lost: int
    """Produced and not received, or sent and not arrived; doubles count as well."""
    arrived: int
    back_s: float
    """Seconds from kill -9 until samples that were made after it came out."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Many slow tags: seconds for which the event loop was held at most, CPU as a share of a core, memory in MB."""

    tags: int
    hold_s: float
    core: float
    rss_mb: float
    checkpoints: int


def judged(deployed: Sequence[Deployed], holds: Sequence[Hold]) -> list[str]:
    """What is not as it should be; nothing: all is well."""
    found = []
    for one in deployed:
        if one.lost or not one.arrived:
            found.append(f"deployed, {one.shape}: {one.lost} of {one.produced:,} values do not add up")
        if one.core > MOST_CORE:
            found.append(f"deployed, {one.shape}: {one.core:.1%} of a core, more than {MOST_CORE:.0%}")
        if one.idle_mb > MOST_IDLE_MB:
            found.append(f"deployed, {one.shape}: {one.idle_mb:.0f} MB when nothing comes, more than {MOST_IDLE_MB:g}")
        if one.back_s > MOST_BACK_S:
            found.append(f"deployed, {one.shape}: {one.back_s:.1f} s until it was back, more than {MOST_BACK_S:g}")
    for hold in holds:
        if hold.hold_s > MOST_HOLD_S:
            found.append(f"{hold.tags:,} tags: the event loop was held for {hold.hold_s * 1000:.0f} ms")
        if not hold.checkpoints:
            found.append(f"{hold.tags:,} tags: no checkpoint was made")
    return found


# --- a collector ---


class Collector:
    """Gives the values of so many tags, so many of each in a second, in tenths of a second."""

    def __init__(self, tags: int, hertz: float) -> None:
        self.tags = tags
        self.hertz = hertz
        self.produced = self.counted = 0
        self._chance = np.random.default_rng(7)
        self._series = tuple(map(_series, range(tags)))
        self._level = self._chance.normal(50, 20, tags)
        self._rising = np.arange(tags) % 20 == 0
        self._of_totals = np.arange(tags) % 20 <= 1
        self._scan = 0

    def tenth(self, number: int, wall: int) -> list[Columns]:
        """What is due in this tenth of a second: some scans of all tags, or one of some."""
        scans = round(self.hertz / _PARTS)
        if scans:
            return [self._scanned(slice(0, self.tags), scans, wall)]
        parts = round(_PARTS / self.hertz)
        place = number % parts
        return [self._scanned(slice(self.tags * place // parts, self.tags * (place + 1) // parts), 1, wall)]

    def _scanned(self, of: slice, scans: int, wall: int) -> Columns:
        series = self._part(of)
        count = len(series)
        values, times = [], []
        for scan in range(scans):
            self._scan += 1
            level = self._level[of] + self._chance.normal(0, 0.02, count)
            self._level[of] = level
            noisy = level + self._chance.normal(0, 0.1, count)
            level[self._rising[of]] += 0.01
            values.append(np.where(self._rising[of], self._counts(of), noisy).round(4))
            back = round(_SECOND / self.hertz) * (scans - 1 - scan)
            times.append(np.full(count, wall - back, dtype=np.int64))
        self.produced += count * scans
        self.counted += int(np.count_nonzero(self._of_totals[of])) * scans
        s = np.tile(np.arange(count, dtype=np.int32), scans)
        return Columns(ValueType.DOUBLE, series, s, np.concatenate(times), np.concatenate(values))

    def _counts(self, of: slice) -> Any:
        return np.full(of.stop - of.start, self._scan * 0.01)

    def _part(self, of: slice) -> tuple[Series, ...]:
        return self._series if of.stop - of.start == self.tags else self._series[of]


def _series(number: int) -> Series:
    asset = f"Site/Area{number % 7}"
    if number % 20 == 0:
        return Series(f"Count/{number}", asset)
    if number % 20 == 1:
        return Series(f"Rate/{number}", asset, "kg/h")
    return Series(f"Area{number % 7}/Unit{number % 31}/Loop{number}.PV", asset, "degF" if number % 4 == 0 else "degC")


@contextlib.asynccontextmanager
async def _producing(bus: Any, folder: Path, collector: Collector) -> AsyncIterator[Callable[[], None]]:
    """A collector that produces until it is told to stop. It keeps what is not acknowledged."""
    outlets = await Outlets.open(
        bus,
        PRODUCER,
        folder,
        OutboxSettings.model_validate({"consumers": ["preprocessor"]}),
        max_bytes=CLASSIC_MAX_MESSAGE_BYTES,
        compress=True,
    )
    outlet = outlets.outlet(SOURCE)
    await outlets.start()
    ended = asyncio.Event()

    async def produce() -> None:
        number, began = 0, time.monotonic()
        while not ended.is_set():
            outlet.submit(collector.tenth(number, time.time_ns()))
            number += 1
            await asyncio.sleep(max(0.0, began + number / _PARTS - time.monotonic()))

    task = asyncio.create_task(produce())
    try:
        yield ended.set
        await task
    finally:
        task.cancel()
        await outlets.close()


# --- a consumer ---


class Taken:
    """A durable consumer: how much came on each stream, and the newest time of it."""

    def __init__(self) -> None:
        self.consumer = Consumer()
        self.values: Counter[str] = Counter()
        self.newest = 0
        self._done: dict[tuple[str, str], int] = {}

    def has_room(self) -> bool:
        """Always."""
        return True

    def take(self, batch: SampleBatch | EventBatch) -> None:
        """Count it."""
        self._done[batch.header.stream, batch.header.epoch] = batch.header.seq
        if isinstance(batch, SampleBatch):
            self.values[batch.header.stream] += len(batch.columns)
            if len(batch.columns):
                self.newest = max(self.newest, int(batch.columns.t.max()))

    def missed(self, gap: Gap) -> None:
        """It shows in the counts."""

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        """All that came."""
        return self._done.get((stream, epoch), 0)


class Told:
    """The latest status of the component."""

    def __init__(self, site: Site) -> None:
        self.status: dict[str, Any] = {}
        site.core.ipc.observe("sluice/status/preprocessor", self._heard)

    def _heard(self, topic: str, payload: bytes) -> None:
        self.status = orjson.loads(payload)

    def ledger(self, flow: str) -> Mapping[str, int]:
        """What a flow says of itself."""
        found: Mapping[str, int] = self.status.get("connections", {}).get(flow, {}).get("ledger", {})
        return found

    def lost(self, collector: Collector, taken: Taken) -> int:
        """What does not add up at present."""
        off = 0
        for flow in FLOWS:
            ledger = self.ledger(flow)
            off += abs(ledger.get("received", 0) - collector.produced)
            off += abs(ledger.get("sent", 0) - taken.values[f"preprocessor/{flow}"])
        return off


async def deployed(folder: Path, build: Path, tags: int, hertz: int, seconds: float) -> Deployed:
    """The component from its artifact: a measurement, then a kill."""
    servers, under_test = cores()
    os.sched_setaffinity(0, {servers})
    collector, taken = Collector(tags, hertz), Taken()
    async with Site(folder, build, PREPROCESSOR, "preprocessor\0") as site:
        told = Told(site)
        merge = {"statusInterval": "1s", "outbox": {"maxSize": QUOTA, "consumers": [CONSUMER]}, "flows": FLOWS}
        document = {"components": {PREPROCESSOR: {"configurationUpdate": {"merge": merge}}}}
        await site.core.deploy(document, build / "recipes", build / "artifacts")
        await site.core.wait_state(PREPROCESSOR, "RUNNING", 300.0)
        pid = await site.pid()
        pin(pid, under_test)
        await _until(lambda: bool(told.ledger("totals")), "the flows do not run")
        await asyncio.sleep(2.0)
        idle = resident_mb(pid)
        bus = InsideBus(site.core.ipc)
        inlet = Inlet(bus, CONSUMER, ["sluice/data/preprocessor/#"])
        await inlet.start({"bench": taken})
        try:
            async with _producing(bus, folder / "collector", collector) as stop:
                await asyncio.sleep(_WARM)
                _alive(site, pid)
                before, values, wrote, began = cpu_seconds(pid), collector.produced, written(pid), time.monotonic()
                await asyncio.sleep(seconds)
                took = time.monotonic() - began
                spent, values, wrote = cpu_seconds(pid) - before, collector.produced - values, written(pid) - wrote
                _alive(site, pid)
                rss = peak_mb(pid)
                back = await _killed(site, pid, under_test, taken)
                await asyncio.sleep(3.0)
                stop()
            for _ in range(150):
                if not told.lost(collector, taken):
                    break
                await asyncio.sleep(0.1)
            lost = told.lost(collector, taken)
        finally:
            await inlet.close()
    return Deployed(
        f"{tags:,} tags at {hertz} Hz",
        round(spent / took, 4),
        round(spent / values * 1e6, 2),
        round(idle, 1),
        round(rss, 1),
        round(wrote / values, 1),
        collector.produced,
        lost,
        sum(taken.values.values()),
        round(back, 2),
    )


async def _killed(site: Site, pid: int, core: int, taken: Taken) -> float:
    """Kill it, and wait for samples of later."""
    at, began = time.time_ns(), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await _until(lambda: site.component.pid is not None, "it is not started again")
    pin(site.component.pid or 0, core)  # what it starts is there too
    await _until(lambda: taken.newest > at, "nothing comes after kill -9")
    return time.monotonic() - began


async def _until(met: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > deadline:
            raise BenchError(f"{otherwise} within {PATIENCE:g} s")
        await asyncio.sleep(0.01)


def _alive(site: Site, pid: int) -> None:
    if not Path(f"/proc/{pid}").exists() or site.component.restarts:
        raise BenchError(f"the preprocessor has ended: {site.component.log_tail()}")


def resident_mb(pid: int) -> float:
    """What a process has in memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def written(pid: int) -> int:
    """Bytes that a process has had written to the disk."""
    for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise BenchError(f"/proc/{pid}/io tells no write_bytes: this kernel does not count them")


# --- many slow tags ---


class _Silence:
    """A subscription on which nothing comes."""

    active = True

    async def renew(self) -> None:
        """There is nothing to do."""

    async def close(self) -> None:
        """There is nothing to do."""


class _Nobody:
    """A bus on which nobody listens."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """It is gone."""

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> _Silence:
        """Nothing comes."""
        return _Silence()


def held(folder: Path, tags: int, seconds: float) -> Hold:
    """See `hold`; for a process of its own, whose memory is that of the flow alone."""
    with garbage.seldom():
        return asyncio.run(hold(folder, tags, seconds))


async def hold(folder: Path, tags: int, seconds: float) -> Hold:
    """So many tags at one value in ten seconds, through gate and report, with an outbox on the disk. The first ten
    seconds, in which all tags are new, count as well."""
    settings = {
        "inputs": {"line1": _INPUT},
        "steps": {"gate": {"type": "quality"}, "report": {"type": "report", "absolute": 0.5, "maxInterval": "10m"}},
    }
    definition = compiler.definition("main", FlowSettings.model_validate(settings), {}, folder)
    limit = CLASSIC_MAX_MESSAGE_BYTES
    outlets = await Outlets.open(_Nobody(), "preprocessor", folder, OutboxSettings(), max_bytes=limit, compress=True)
    flow = Flow("main", outlets.outlet("main"), compiler.build, FlowProblems(Problems()))
    flow.configure(definition)
    await outlets.start()
    flow.start()
    await _until(lambda: flow.work is not None and flow.has_room(), "the flow does not run")
    collector, stream, epoch = Collector(tags, 0.1), f"{PRODUCER}/{SOURCE}", "0123456789ab"
    flow.consumer.offer(Message(Announcement(stream, epoch, 1, 2**40)), 0.0)
    worst = 0.0

    async def probe() -> None:
        """Processor time counts, not what other processes on this core took."""
        nonlocal worst
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - before)
            await asyncio.sleep(0.0005)

    watching = asyncio.create_task(probe())
    own, spent, began, number = 0.0, time.process_time(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        before = time.thread_time()
        (columns,) = collector.tenth(number, time.time_ns())
        own += time.thread_time() - before
        number += 1
        received = flow.consumer.offer(Message(SampleBatch(Header(stream, epoch, number), columns)), 0.0)
        if received.batch is not None:
            flow.take(received.batch)
        await asyncio.sleep(max(0.0, began + number / _PARTS - time.monotonic()))
    spent = time.process_time() - spent - own
    watching.cancel()
    made = 0 if flow.work is None else flow.work.counters["checkpoints"]
    await flow.stop(2.0)
    await outlets.close()
    return Hold(tags, round(worst, 4), round(spent / seconds, 4), round(peak_mb(os.getpid()), 1), made)
