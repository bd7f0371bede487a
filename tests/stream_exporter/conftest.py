"""A stream manager (the local core's, in this process), sinks that use it, and batches to offer them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from localcore.stream_manager.server import Fault, Server
from sluice.batch import Header, Sample, SampleBatch, from_samples
from stream_exporter.config import AnySink
from stream_exporter.sink import Sink
from stream_exporter.sinks import make_sink
from stream_exporter.stream_client import StreamClient

EPOCH = "9f2c51aa07be"


class Bench:
    """Where a test puts sinks to work."""

    epoch = EPOCH

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server = Server(root)
        self.port = 0
        self.sinks: list[Sink] = []

    async def start_server(self) -> None:
        """Start the stream manager, or start it again with what it stored, on another port."""
        self.server = Server(self.root)
        self.port = await self.server.start()

    async def find_port(self) -> int:
        return self.port

    def sink(self, settings: AnySink, *, name: str = "test", timeout: float = 0.4, port: int | None = None) -> Any:
        """A sink at work. Its files are in `spool/<name>`."""

        async def fixed_port() -> int:
            return port or 0

        client = StreamClient(name, self.find_port if port is None else fixed_port, request_timeout=timeout)
        sink = make_sink(name, settings, client, self.root / "spool" / name)
        self.sinks.append(sink)
        sink.start()
        return sink

    def batch(self, seq: int, samples: Sequence[Sample] | None = None, stream: str = "opcua-collector/line1") -> Any:
        """Batch number `seq`: ten values of two tags at the present time, or the samples given (of one type)."""
        if samples is None:
            now = time.time_ns() // 1000 * 1000
            samples = [Sample(f"T{n % 2}", now + n, seq + n / 10, asset="site/line1") for n in range(10)]
        (columns,) = from_samples(samples)
        return SampleBatch(Header(stream, EPOCH, seq), columns)

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

    async def until(self, condition: Callable[[], bool], what: str, limit: float = 30.0) -> None:
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
        await self.server.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.start_server()
    yield bench
    await bench.stop()
