"""The OPC UA collector beside stock asyncua and the node-opcua client, on the same replayed notifications, in one run.

    ./scripts/bench collector [--json FILE] [--seconds N]

`replay_server` sends notifications of 10,000 values, 32 a second, to one client after the other, and then as many as
the client asks for. The server, and all that is no client, has one core; the client under test has the other to itself.

- *sluice*: the component as it is deployed, installed from its artifact by the local core, run by its recipe. What it
  takes it stores in its outbox on the disk (quota 512 MB), publishes over local IPC, and deletes when the consumer has
  acknowledged. The consumer is a stand-in on the other core that decodes each batch and adds up what is in it.
- *asyncua*: stock client, data change handler, JSON arrays to MQTT (paho, QoS 0).
- *node-opcua*: its client with groups of monitored items, JSON arrays to MQTT (mqtt.js, QoS 0).

The peers come with `scripts/peers`; without it they are left out, and said so. What MQTT gets is added up and thrown
away. Values per second are all that arrived, from the first notification until the last value was there. CPU is that of
the whole client process, user and system, from before the first notification until the last value is there; memory is
its peak (VmHWM). *Lost* are values that were due and never arrived, because the client asked for too little or dropped
them. The exit status judges sluice alone: nothing lost or altered in any case and, of doubles, at least 300,000 a
second over the whole run, at most 1.5 us of CPU per value and less than 150 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from localcore import Core
from localcore.ipc import IpcServer
from localcore.process import Component, members
from sluice.batch import EventBatch, SampleBatch, ValueType
from sluice.delivery import Consumer, Gap
from sluice.inlet import Inlet

ROOT: Final = Path(__file__).resolve().parents[1]
PEERS: Final = ROOT / ".peers"
COLLECTOR: Final = "io.sluice.OpcUaCollector"
CONNECTION: Final = "replay"
CONSUMER: Final = "bench"

ITEMS: Final = 10_000
RATE: Final = 32.0
"""A little more than what is required: the way of the last values to the consumer belongs to the time that counts."""
LEAST_PER_S: Final = 300_000
MOST_US: Final = 1.5
MOST_MB: Final = 150.0
QUOTA: Final = "512MB"
DRAIN: Final = 8.0
"""Seconds without another value after which no more are expected."""
PATIENCE: Final = 120.0
"""Seconds that a client may take until it monitors everything."""


class BenchError(RuntimeError):
    """The measurement could not be made; the text says which part, and what it said last."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one client did with one kind of values. Rates per second, CPU in microseconds, memory in MB."""

    client: str
    kind: str
    mode: str
    offered: int
    taken: int
    lost: int
    wrong: bool
    """The numbers that arrived do not add up to those that were sent."""
    values_per_s: float
    cpu_us: float
    cores: float
    """CPU seconds per second: 1 is a whole core."""
    rss_mb: float


def judged(figures: Sequence[Figures]) -> list[str]:
    """What is not as it should be of the collector's own figures; nothing: all is well."""
    found: list[str] = []
    ours = [one for one in figures if one.client == "sluice"]
    if not ours:
        found.append("sluice was not measured")
    for one in ours:
        place = f"{one.kind}, {one.mode}"
        if one.taken <= 0:
            found.append(f"{place}: no value arrived")
        if one.lost:
            found.append(f"{place}: {one.lost} of {one.offered} values are missing")
        if one.wrong:
            found.append(f"{place}: the values that arrived do not add up to those that were sent")
        if one.kind == "doubles" and one.mode == "paced":
            if one.values_per_s < LEAST_PER_S:
                found.append(f"{place}: {one.values_per_s:,.0f} values per second, less than {LEAST_PER_S:,}")
            if one.cpu_us > MOST_US:
                found.append(f"{place}: {one.cpu_us:.2f} us of CPU per value, more than {MOST_US:g}")
            if one.rss_mb >= MOST_MB:
                found.append(f"{place}: {one.rss_mb:.0f} MB, not less than {MOST_MB:g}")
    return found


# --- the machine ---


def cores() -> tuple[int, int]:
    """The core of the servers, and that of the client under test. The same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


def pin(pid: int, core: int) -> None:
    """Keep a process, with all of its threads, on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def family(pid: int) -> list[int]:
    """A process and all that it has started: a client may be behind a script that starts it."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used, and those that it has started."""
    rows = [fields for one in family(pid) if (fields := _stat(one))]
    return sum(int(fields[11]) + int(fields[12]) for fields in rows) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory that the largest of them has had resident."""
    peaks = [0.0]
    for one in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/status").read_text(encoding="ascii").splitlines()
            peaks += [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0-m\0")[-1]
    except OSError:  # it ended meanwhile
        return ""


# --- the replay server ---


class Replay:
    """A replay server as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self.endpoint = f"opc.tcp://127.0.0.1:{port}"
        self._process = process

    async def ask(self, **order: Any) -> dict[str, Any]:
        """An order, and the answer to it. Raises BenchError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise BenchError("the replay server has ended: see what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"the replay server: {answer['error']}")
        return answer

    async def watched(self, items: int, alive: Callable[[], str], limit: float = PATIENCE) -> None:
        """Wait until all items are monitored. `alive`: why the client will never do that; empty while it may."""
        deadline = time.monotonic() + limit
        while (found := (await self.ask(do="watched"))["items"]) < items:
            if time.monotonic() > deadline or alive():
                raise BenchError(f"{found} of {items} items are monitored after {limit:g} s: {alive()}")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def replaying(kind: str, items: int, core: int, port: int = 0) -> AsyncIterator[Replay]:
    """A running replay server."""
    command = [sys.executable, "-m", "replay_server", "--kind", kind, "--nodes", str(items), "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        limit=2**20,
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise BenchError("the replay server did not start: see what it wrote above")
        pin(process.pid, core)
        yield Replay(process, json.loads(line)["port"])
    finally:
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    await process.wait()


# --- where values go ---


class Arrived:
    """What has come out of a client: how many values, and the sum of the numbers among them."""

    def __init__(self) -> None:
        self.values = 0
        self.sum = 0.0


class Broker(asyncio.Protocol):
    """MQTT 3.1.1 and 5 as far as QoS 0 publishers need it: it counts the values in what it gets, and forgets them."""

    def __init__(self, arrived: Arrived) -> None:
        self._arrived = arrived
        self._bytes = bytearray()
        self._transport: asyncio.Transport | None = None
        self._five = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while (packet := self._packet()) is not None:
            kind, body = packet
            if kind >> 4 == 1:
                self._five = body[6] == 5
                self._write(b"\x20\x03\x00\x00\x00" if self._five else b"\x20\x02\x00\x00")
            elif kind >> 4 == 3:
                self._publish(body)
            elif kind >> 4 == 12:
                self._write(b"\xd0\x00")

    def _packet(self) -> tuple[int, bytes] | None:
        size = shift = 0
        for place in range(1, 5):
            if place >= len(self._bytes):
                return None
            size |= (self._bytes[place] & 0x7F) << shift
            shift += 7
            if self._bytes[place] < 0x80:
                break
        end = place + 1 + size
        if len(self._bytes) < end:
            return None
        packet = self._bytes[0], bytes(self._bytes[place + 1 : end])
        del self._bytes[:end]
        return packet

    def _publish(self, body: bytes) -> None:
        at = 2 + int.from_bytes(body[:2], "big")
        if self._five:
            at += 1 + body[at]  # properties, of which these publishers have few
        values = [one["v"] for one in orjson.loads(body[at:])]
        self._arrived.values += len(values)
        self._arrived.sum += sum(value for value in values if not isinstance(value, str))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class Reader:
    """A durable consumer that is done with each batch as soon as it has added it up."""

    def __init__(self, arrived: Arrived) -> None:
        self.consumer = Consumer()
        self._arrived = arrived
        self._done: dict[tuple[str, str], int] = {}

    def has_room(self) -> bool:
        return True

    def take(self, batch: SampleBatch | EventBatch) -> None:
        self._done[batch.header.stream, batch.header.epoch] = batch.header.seq
        if not isinstance(batch, SampleBatch):
            return
        self._arrived.values += len(batch.columns)
        if batch.columns.type is not ValueType.STRING:
            self._arrived.sum += float(np.nansum(batch.columns.value.astype(np.float64)))

    def missed(self, gap: Gap) -> None:
        print(f"bench: the collector has dropped batches {gap.first} to {gap.last}", file=sys.stderr)

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        return self._done.get((stream, epoch), 0)


class _Subscription:
    """A subscription inside the core's own process."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    @property
    def active(self) -> bool:
        return True

    async def renew(self) -> None:
        """It cannot go silent."""

    async def close(self) -> None:
        self._cancel()


class InsideBus:
    """The core's local publish/subscribe for a consumer in the same process."""

    def __init__(self, ipc: IpcServer) -> None:
        self._ipc = ipc

    async def publish(self, topic: str, payload: bytes) -> None:
        """As nobody in particular."""
        await self._ipc.publish(topic, payload)

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> _Subscription:
        """Each message, in order."""
        return _Subscription(self._ipc.observe(topic_filter, handler))


# --- measuring ---


async def measured(
    client: str, kind: str, mode: str, pid: int, replay: Replay, arrived: Arrived, options: argparse.Namespace
) -> Figures:
    """Produce for a while, and wait until everything that was sent has arrived, or nothing comes any more."""
    values, total = arrived.values, arrived.sum
    before = cpu_seconds(pid)
    rate = options.rate if mode == "paced" else 0.0
    sent = await replay.ask(do="produce", rate=rate, seconds=options.seconds)
    latest, since = arrived.values, time.monotonic()
    while arrived.values - values < sent["sent"] and time.monotonic() - since < DRAIN:
        if arrived.values != latest:
            latest, since = arrived.values, time.monotonic()
        await asyncio.sleep(0.02)
    took = since - sent["began"]
    spent = cpu_seconds(pid) - before
    taken = arrived.values - values
    complete = taken == sent["sent"]
    wrong = complete and abs(arrived.sum - total - sent["sum"]) > 1e-6 * max(1.0, abs(sent["sum"]))
    return Figures(
        client,
        kind,
        mode,
        int(sent["offered"]),
        taken,
        int(sent["offered"]) - taken,
        wrong,
        round(taken / took),
        round(spent / max(1, taken) * 1e6, 3),
        round(spent / took, 2),
        round(peak_mb(pid), 1),
    )


async def peer(
    client: str, kind: str, modes: Sequence[str], folder: Path, options: argparse.Namespace
) -> list[Figures]:
    """A client of somebody else's, a process for each kind of values."""
    servers, under_test = cores()
    arrived = Arrived()
    broker = await asyncio.get_running_loop().create_server(lambda: Broker(arrived), "127.0.0.1", 0)
    port = broker.sockets[0].getsockname()[1]
    log = folder / f"{client}-{kind}.log"
    async with replaying(kind, options.items, servers) as replay:
        arguments = [replay.endpoint, str(options.items), str(port)]
        environment = dict(os.environ)
        bench = PEERS / "bench"
        if client == "asyncua":
            command = [sys.executable, str(ROOT / "scripts/bench_peers/asyncua_client.py"), *arguments]
            environment["PYTHONPATH"] = str(bench / "python")
        else:
            script = str(ROOT / "scripts/bench_peers/node_client.js")
            command = [str(PEERS / "bin/node"), script, *arguments, str(folder / "pki")]
            modules = (PEERS / "node_opcua/node_modules", bench / "node_modules")
            environment["NODE_PATH"] = os.pathsep.join(map(str, modules))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, stdout=output, stderr=output, preexec_fn=lambda: pin(os.getpid(), under_test)
            )
        try:
            await replay.watched(options.items, lambda: _why(process, log))
            return [await measured(client, kind, mode, process.pid, replay, arrived, options) for mode in modes]
        finally:
            await _ended(process)
            broker.close()


def _why(process: asyncio.subprocess.Process, log: Path) -> str:
    if process.returncode is None:
        return ""
    return f"it ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}"


class Site:
    """A local core that runs a collector from its artifact, and a consumer of what it publishes."""

    def __init__(self, folder: Path, build: Path, name: str = COLLECTOR, package: str = "opcua_collector") -> None:
        self.folder = folder
        self.name = name
        self._package = package
        self.core = Core(folder / "core", aws=False, stream_manager=False)
        self._build = build

    async def __aenter__(self) -> Site:
        await self.core.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.core.stop()

    @property
    def component(self) -> Component:
        """The collector."""
        return self.core.component(self.name)

    async def pid(self) -> int:
        """Its process, once the scripts that start it have become it."""
        deadline = time.monotonic() + 30.0
        while True:
            group = self.component.pid
            found = [] if group is None else [pid for pid, _ in members(group) if self._package in _command(pid)]
            if len(found) == 1:
                return found[0]
            if time.monotonic() > deadline:
                state, log = self.component.state, self.component.log_tail()
                raise BenchError(f"the collector is {state}, {len(found)} processes of it: {log}")
            await asyncio.sleep(0.02)

    async def install(self, port: int, items: int, **connection: Any) -> None:
        """Deploy it with a connection to this port; it runs afterwards."""
        tags = self.folder / "tags.csv"
        with tags.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["tag", "node"])
            rows.writerows(
                (f"Area{n % 7}/Unit{n % 31}/Loop{n}.PV", f"nsu=urn:sluice:replay;i={n}") for n in range(1, items + 1)
            )
        settings = {
            "endpoint": f"opc.tcp://127.0.0.1:{port}",
            "security": {"policy": "None"},
            "publishingInterval": "33ms",
            "tagsFile": str(tags),
            **connection,
        }
        await self.deploy({CONNECTION: settings})

    async def deploy(self, connections: Mapping[str, Any]) -> None:
        """Deploy it with these connections; it runs afterwards."""
        merge = {
            "statusInterval": "1s",
            "outbox": {"maxSize": QUOTA, "consumers": [CONSUMER]},
            "connections": dict(connections),
        }
        document = {"components": {self.name: {"configurationUpdate": {"merge": merge}}}}
        await self.core.deploy(document, self._build / "recipes", self._build / "artifacts")
        await self.core.wait_state(self.name, "RUNNING", 300.0)

    async def begin(self) -> None:
        """Start it anew, with nothing left of what was before."""
        await self.stop()
        for name in ("outbox", "pki"):
            shutil.rmtree(self.component.work_dir / name, ignore_errors=True)
        self.component.start(install=False)
        await self.core.wait_state(self.name, "RUNNING", 60.0)

    async def stop(self) -> None:
        """End its process."""
        await self.component.stop()

    @contextlib.asynccontextmanager
    async def consuming(self) -> AsyncIterator[Arrived]:
        """A consumer of all that it publishes."""
        arrived = Arrived()
        inlet = Inlet(InsideBus(self.core.ipc), CONSUMER, ["sluice/data/#"])
        await inlet.start({"bench": Reader(arrived)})
        try:
            yield arrived
        finally:
            await inlet.close()


async def ours(site: Site, kind: str, modes: Sequence[str], port: int, options: argparse.Namespace) -> list[Figures]:
    """The collector, a process for each kind of values."""
    servers, under_test = cores()
    await site.stop()
    async with replaying(kind, options.items, servers, port) as replay, site.consuming() as arrived:
        await site.begin()
        pid = await site.pid()
        pin(pid, under_test)
        component = site.component
        await replay.watched(options.items, lambda: "" if component.state == "RUNNING" else f"it is {component.state}")
        return [await measured("sluice", kind, mode, pid, replay, arrived, options) for mode in modes]


def built(folder: Path) -> Path:
    """The artifacts of this tree for this machine."""
    build = folder / "build"
    command = [sys.executable, str(ROOT / "scripts/build.py"), "--host-only", "--output", str(build)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"scripts/build.py failed: {done.stdout}{done.stderr}")
    return build


def missing(client: str) -> str:
    """What a client needs that is not installed; empty for nothing."""
    wanted = {
        "sluice": (),
        "asyncua": (PEERS / "bench/python/paho",),
        "node-opcua": (
            PEERS / "bin/node",
            PEERS / "node_opcua/node_modules/node-opcua-client",
            PEERS / "bench/node_modules/mqtt",
        ),
    }[client]
    return ", ".join(str(path.relative_to(ROOT)) for path in wanted if not path.exists())


async def run(options: argparse.Namespace) -> tuple[list[Figures], dict[str, str]]:
    """All clients, all kinds; and which were left out, why."""
    servers, _ = cores()
    os.sched_setaffinity(0, {servers})
    left_out = {client: why for client in options.clients if (why := missing(client))}
    found: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="sluice-collector-") as name:
        folder = Path(name)
        async with contextlib.AsyncExitStack() as stack:
            site: Site | None = None
            port = 0
            if "sluice" in options.clients:
                build = options.build or await asyncio.to_thread(built, folder)
                site = await stack.enter_async_context(Site(folder, build))
                async with replaying(options.kinds[0], options.items, servers) as first:
                    port = first.port  # each later server takes its place
                    await site.install(port, options.items)
                    await site.stop()
            for kind in options.kinds:
                modes = ["paced", "flood"] if kind == options.kinds[0] and options.flood else ["paced"]
                for client in options.clients:
                    if client in left_out:
                        continue
                    if client == "sluice":
                        assert site is not None
                        some = await ours(site, kind, modes, port, options)
                        await site.stop()
                    else:
                        some = await peer(client, kind, modes, folder, options)
                    for one in some:
                        show(one)
                    found += some
    return found, left_out


_ROW: Final = "{:12}{:10}{:8}{:>12}{:>8}{:>8}{:>9}{:>20}"


def show(one: Figures) -> None:
    """A line of the table."""
    lost = f"{one.lost} ({one.lost / max(1, one.offered):.1%})" if one.lost else "0"
    print(
        _ROW.format(
            one.client,
            one.kind,
            one.mode,
            f"{one.values_per_s:,.0f}",
            f"{one.cpu_us:.2f}",
            f"{one.cores:.2f}",
            f"{one.rss_mb:.0f}",
            lost,
        ),
        flush=True,
    )


def main() -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(prog="scripts/bench collector", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement (20)")
    parser.add_argument(
        "--items", type=int, default=ITEMS, help="monitored items, and values of a notification (10000)"
    )
    parser.add_argument("--rate", type=float, default=RATE, help="notifications per second (32)")
    parser.add_argument("--clients", default="sluice,asyncua,node-opcua", help="which, of sluice, asyncua, node-opcua")
    parser.add_argument("--kinds", default="doubles,strings,mix", help="kinds of values, of doubles, strings, mix")
    parser.add_argument("--no-flood", dest="flood", action="store_false", help="only at that rate")
    parser.add_argument("--build", type=Path, help="output folder of scripts/build.py, in the place of a new build")
    options = parser.parse_args()
    options.clients, options.kinds = options.clients.split(","), options.kinds.split(",")
    for name, known in (("clients", ("sluice", "asyncua", "node-opcua")), ("kinds", ("doubles", "strings", "mix"))):
        if unknown := set(getattr(options, name)) - set(known):
            parser.error(f"--{name} {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    print(
        f"notifications of {options.items} values; paced: {options.rate:g} a second; CPU in us per value, memory in MB"
    )
    print(_ROW.format("client", "values", "mode", "values/s", "CPU", "cores", "memory", "lost"))
    try:
        figures, left_out = asyncio.run(run(options))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for client, why in left_out.items():
        print(f"{client} was not measured: {why} is missing; scripts/peers installs it")
    wrong = judged(figures)
    for one in wrong:
        print(f"bench: sluice, {one}", file=sys.stderr)
    if options.json is not None:
        report = {
            "ok": not wrong,
            "wrong": wrong,
            "collector": [asdict(one) for one in figures],
            "left_out": left_out,
            "required": {"cpu_us": MOST_US, "rss_mb": MOST_MB, "values_per_s": LEAST_PER_S},
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
