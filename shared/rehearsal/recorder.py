"""Everything that a producer published on the bus, live or again, each batch once: for judges of the producer itself.

A consumer with a cursor (the exporter) sees to it that each batch is published to the end; whoever listens beside finds
all of them. Payloads are kept in a file, so that a long run needs no memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard

from localcore.ipc import IpcServer

_MAGIC = b"\x28\xb5\x2f\xfd"
_LARGEST = 64 * 1024 * 1024
_QUALITIES = ("GOOD", "UNCERTAIN", "BAD")


class Recorder:
    """Listens from start() on to the streams of a producer, by its short id."""

    def __init__(self, path: Path, producer: str) -> None:
        self.batches = 0
        self.values = 0
        self.repeats = 0
        self.malformed = 0
        self._producer = producer
        self._seen: set[tuple[str, str, int]] = set()
        self._file: IO[bytes] = path.open("w+b")

    def start(self, ipc: IpcServer) -> None:
        """Begin to listen."""
        ipc.observe(f"sluice/data/{self._producer}/#", self.on_message)
        ipc.observe(f"sluice/replay/+/{self._producer}/#", self.on_message)

    def on_message(self, topic: str, payload: bytes) -> None:
        """A message of the producer; announcements and repeats are passed over."""
        batch = _decoded(payload)
        if batch is None:
            self.malformed += 1
            return
        if batch.get("kind") not in ("samples", "events"):
            return
        key = (batch["stream"], batch["epoch"], batch["seq"])
        if key in self._seen:
            self.repeats += 1
            return
        self._seen.add(key)
        self.batches += 1
        self.values += len(batch.get("s", ()))
        self._file.seek(0, 2)
        self._file.write(struct.pack("<I", len(payload)) + payload)

    def missing(self) -> dict[str, int]:
        """Numbers below the newest that were not heard, by stream and epoch: what is judged would not be everything."""
        newest: dict[str, int] = {}
        heard: dict[str, int] = {}
        for stream, epoch, number in self._seen:
            name = f"{stream} {epoch}"
            newest[name] = max(newest.get(name, 0), number)
            heard[name] = heard.get(name, 0) + 1
        return {name: newest[name] - count for name, count in heard.items() if newest[name] != count}

    def samples(self) -> Iterator[tuple[str, int, Any, str, int | str]]:
        """(tag, time in ns, value, quality, status) of every sample, in the order heard."""
        for batch in self._batches("samples"):
            size = len(batch["s"])
            qualities, statuses = batch.get("q") or [0] * size, batch.get("status") or [0] * size
            tags = [series["tag"] for series in batch["series"]]
            rows = zip(batch["s"], batch["dt"], batch["value"], qualities, statuses, strict=True)
            for s, dt, value, quality, status in rows:
                yield tags[s], batch["t0"] + dt, value, _QUALITIES[quality], status

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Every event, in the order heard."""
        for batch in self._batches("events"):
            yield from batch["events"]

    def close(self) -> None:
        """Nothing is heard any more."""
        self._file.close()

    def _batches(self, kind: str) -> Iterator[dict[str, Any]]:
        self._file.flush()
        self._file.seek(0)
        while head := self._file.read(4):
            batch = _decoded(self._file.read(struct.unpack("<I", head)[0]))
            if batch is not None and batch["kind"] == kind:
                yield batch


def _decoded(payload: bytes) -> dict[str, Any] | None:
    try:
        if payload[:4] == _MAGIC:
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=_LARGEST)
        batch = orjson.loads(payload)
    except (zstandard.ZstdError, ValueError):
        return None
    return batch if isinstance(batch, dict) else None
