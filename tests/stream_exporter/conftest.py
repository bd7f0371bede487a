"""A stream manager (the local core's, in this process), sinks that use it, and producers that keep what they published.

Sinks are read as an inlet reads them: announcements, and then whatever they want and have room for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from localcore.stream_manager.server import Fault, Server
from localcore.stream_manager.streams import discard_unflushed
from sluice import crash
from sluice.batch import Announcement, EventBatch, Header, Sample, SampleBatch, from_samples
from sluice.delivery import Message
from stream_exporter import pipe as pipe_module
from stream_exporter import sink as sink_module
from stream_exporter.config import AnySink
from stream_exporter.sink import Sink
from stream_exporter.sinks import make_sink
from stream_exporter.stream_client import StreamClient
from stream_exporter.units import UnitStore

EPOCH = "9f2c51aa07be"
LINE = "opcua-collector/line1"


def epoch_of(stream: str) -> str:
    """Every stream has an epoch of its own."""
    return EPOCH if stream == LINE else hashlib.sha256(stream.encode()).hexdigest()[:12]


class Died(BaseException):
    """The process was killed at a crash point."""


class Kept:
    """What a producer keeps of one stream's epoch."""

    def __init__(self) -> None:
        self.oldest = 1
        self.batches: dict[int, SampleBatch | EventBatch] = {}

    @property
    def newest(self) -> int:
        return max(self.batches, default=self.oldest - 1)

    def delete_to(self, number: int) -> None:
        self.oldest = max(self.oldest, number + 1)
        self.batches = {seq: batch for seq, batch in self.batches.items() if seq > number}


class Bench:
    """Where a test puts sinks to work."""

    epoch = EPOCH

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server = Server(root)
        self.port = 0
        self.sinks: list[Sink] = []
        self.streams: dict[tuple[str, str], Kept] = {}
        self.exporting = False
        self.dies_at: list[str] = []  # crash points, in the order in which they kill
        self.died = False
        self._dead: list[Server] = []
        self._store: UnitStore | None = None
        self._made: list[tuple[AnySink, dict[str, Any]]] = []

    @property
    def store(self) -> UnitStore:
        assert self._store is not None
        return self._store

    async def open_store(self) -> None:
        self._store = await UnitStore.open(self.root / "exporter.db")

    # --- stream manager -----------------------------------------------------------------------------------------------

    async def start_server(self) -> None:
        """Start the stream manager, or start it again with what it stored, on another port."""
        self.server = Server(self.root)
        self.port = await self.server.start()

    async def find_port(self) -> int:
        return self.port

    async def cut_power(self, *, durable: Sequence[str] = ()) -> None:
        """Stream manager dies and loses what was not flushed, which is all but the named streams' messages."""
        for name in durable:
            self.server.streams.get(name)._log.flush()
        assert self.server._listener is not None
        self.server._listener.close()
        self._dead.append(self.server)
        self._reset_dead()
        discard_unflushed(self.root)
        await self.start_server()

    def _reset_dead(self) -> None:
        """End the connections of servers that lost their power; some were only about to be accepted then."""
        for server in self._dead:
            for connection in list(server.connections):
                connection.end("rst")

    def fault(self, kind: str, **arguments: Any) -> None:
        """Order a fault for coming requests."""
        self.server.faults.append(Fault(kind, **arguments))

    def stored(self, stream: str) -> list[bytes]:
        """The messages of a stream; none when it does not exist."""
        if stream not in self.server.streams.names():
            return []
        found = self.server.streams.get(stream)
        if found.newest < 0:
            return []
        return [message.payload for message in found.read(0, 1, 100_000, time.time_ns() // 1_000_000)]

    def export(self, stream: str, up_to: int | None = None) -> None:
        """Have stream manager report that everything, or everything up to a number, is exported."""
        found = self.server.streams.get(stream)
        for position in found.positions.values():
            position.last_exported = found.newest if up_to is None else up_to

    # --- sinks --------------------------------------------------------------------------------------------------------

    def sink(self, settings: AnySink, *, name: str = "test", timeout: float = 0.4, port: int | None = None) -> Any:
        """A sink at work. Its files are in `spool/<name>`."""
        more = {"name": name, "timeout": timeout, "port": port}
        self._made = [*(made for made in self._made if made[1]["name"] != name), (settings, more)]

        async def fixed_port() -> int:
            return port or 0

        client = StreamClient(name, self.find_port if port is None else fixed_port, request_timeout=timeout)
        sink = make_sink(name, settings, client, self.store, self.root / "spool" / name)
        self.sinks = [other for other in self.sinks if other.name != name] + [sink]
        sink.start()
        return sink

    async def kill(self) -> None:
        """Abandon everything in its tracks, as SIGKILL does; what was submitted and not committed is lost."""
        tasks = [task for sink in self.sinks for task in sink._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sinks, self.sinks = self.sinks, []
        await self.store.close(0.0)
        for sink in sinks:
            await sink._client.close()

    async def restart(self) -> list[Any]:
        """The sinks again, from what is stored, after a `kill`."""
        self.died = False
        await self.open_store()
        made, self._made = self._made, []
        return [self.sink(settings, **more) for settings, more in made]

    def pass_point(self, name: str) -> None:
        if self.died:
            raise Died
        if self.dies_at and self.dies_at[0] == name:
            self.dies_at.pop(0)
            self.died = True
            for sink in self.sinks:
                for task in sink._tasks:
                    task.cancel()
            raise Died

    # --- what is published --------------------------------------------------------------------------------------------

    def batch(
        self, seq: int, samples: Sequence[Sample] | None = None, stream: str = LINE, epoch: str | None = None
    ) -> Any:
        """Batch number `seq`: ten values of two tags at the present time, or the samples given (of one type)."""
        epoch = epoch or epoch_of(stream)
        if samples is None:
            now = time.time_ns() // 1000 * 1000
            samples = [Sample(f"T{n % 2}", now + n, seq + n / 10, asset="site/line1") for n in range(10)]
        (columns,) = from_samples(samples)
        return SampleBatch(Header(stream, epoch, seq), columns)

    def publish(self, *batches: SampleBatch | EventBatch) -> None:
        """Have a producer store these, and offer them to the sinks."""
        for batch in batches:
            kept = self.streams.setdefault((batch.header.stream, batch.header.epoch), Kept())
            if not kept.batches:
                kept.oldest = batch.header.seq
            kept.batches[batch.header.seq] = batch
        self.offer()

    def offer(self) -> None:
        """Announce every stream, and give each sink what it wants, as far as it has room."""
        now = asyncio.get_running_loop().time()
        for sink in self.sinks:
            for (stream, epoch), kept in self.streams.items():
                announcement = Announcement(stream, epoch, kept.oldest, kept.newest)
                gap = sink.consumer.offer(Message(announcement), now, sink.has_room()).gap
                if gap is not None:
                    sink.missed(gap)
                while (number := sink.consumer.wants(stream, epoch)) is not None and sink.has_room():
                    received = sink.consumer.offer(Message(kept.batches[number]), now, True)
                    assert received.batch is not None
                    sink.take(received.batch)

    def acknowledged(self, stream: str = LINE) -> int:
        """Up to which number all sinks together are done with a stream."""
        return min(sink.acknowledged(stream, epoch_of(stream)) or 0 for sink in self.sinks)

    async def live(self) -> None:
        """Offer for ever, and export for ever while `exporting`."""
        while True:
            self.offer()
            self._reset_dead()
            if self.exporting:
                for name in self.server.streams.names():
                    self.export(name)
            await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool], what: str, limit: float = 20.0) -> None:
        """Wait for a condition; fail with the sinks' state when it does not come."""
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                states = [(sink.name, sink.status(), sink.ledger.status()) for sink in self.sinks]
                raise AssertionError(f"waited {limit:g} s in vain for {what}: {states}")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for sink in self.sinks:
            await sink.stop(1.0)
        await self.store.close()
        await self.server.stop()


@pytest.fixture(scope="session")
def bench_class() -> type[Bench]:
    return Bench


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(pipe_module, "SETTLE", 0.1)
    monkeypatch.setattr(sink_module, "WATCH_INTERVAL", 0.05)
    bench = Bench(tmp_path)
    monkeypatch.setattr(crash, "point", bench.pass_point)
    await bench.start_server()
    await bench.open_store()
    living = asyncio.create_task(bench.live())
    yield bench
    living.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await living
    await bench.stop()
