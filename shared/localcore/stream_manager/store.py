"""Segments of messages, in files or in memory, and the log they make up.

A segment file is named for the sequence number of its first message and is a row of records:

    length of payload, u32 | CRC-32 of the rest, u32 | time of ingestion in ms, i64 | payload        (big endian)

A message's sequence number is its place: the segment's first number plus its index, so numbers cannot have gaps. Space
is freed by whole segments only. A record counts with its header: sizes are bytes of the file.

What a power cut leaves: a write is safe when its segment was flushed (fsync), and no earlier. The file `durable` beside
the segments holds that point as two i64, big endian: the first number of a segment, and the bytes of it that were
flushed. Older segments are whole; younger ones, and bytes behind the point, may vanish. A segment is flushed when it is
full, when the log is closed, and after each message if the stream asks for it.

Errors:

    StoreError (Exception)      a message that should be there cannot be read
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from localcore.powercut import Lost

_HEADER = struct.Struct(">IIq")
_TIME = struct.Struct(">q")
_DURABLE = struct.Struct(">qq")

RECORD_OVERHEAD = _HEADER.size
"""Bytes that the store adds to each payload."""


class StoreError(Exception):
    """A message that should be there cannot be read."""


@dataclass(frozen=True, slots=True)
class Message:
    sequence: int
    ingest_ms: int
    payload: bytes


class Segment(Protocol):
    """A row of messages that is freed as a whole."""

    first: int
    size: int
    newest_ms: int

    def __len__(self) -> int: ...
    def append(self, ingest_ms: int, payload: bytes) -> None: ...
    def read(self, index: int) -> tuple[int, bytes]: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def remove(self) -> None: ...


class MemorySegment:
    def __init__(self, first: int) -> None:
        self.first = first
        self.size = 0
        self.newest_ms = 0
        self._messages: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._messages)

    def append(self, ingest_ms: int, payload: bytes) -> None:
        self._messages.append((ingest_ms, payload))
        self.size += RECORD_OVERHEAD + len(payload)
        self.newest_ms = ingest_ms

    def read(self, index: int) -> tuple[int, bytes]:
        return self._messages[index]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def remove(self) -> None:
        self._messages.clear()


class FileSegment:
    """A segment in a file. What follows the last whole record, after a crash in mid-write, is cut off on opening."""

    def __init__(self, path: Path, first: int) -> None:
        self.first = first
        self.size = 0
        self.newest_ms = 0
        self._path = path
        self._offsets = array("Q")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._recover()

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, ingest_ms: int, payload: bytes) -> None:
        crc = zlib.crc32(payload, zlib.crc32(_TIME.pack(ingest_ms)))
        record = _HEADER.pack(len(payload), crc, ingest_ms) + payload
        written = os.pwrite(self._file, record, self.size)
        if written != len(record):  # a full disk: the next record overwrites what there is of this one
            raise OSError(f"{self._path}: {written} of {len(record)} bytes could be written; free some disk space")
        self._offsets.append(self.size)
        self.size += len(record)
        self.newest_ms = ingest_ms

    def read(self, index: int) -> tuple[int, bytes]:
        start = self._offsets[index]
        end = self._offsets[index + 1] if index + 1 < len(self._offsets) else self.size
        record = os.pread(self._file, end - start, start)
        parsed = _parse(record, 0)
        if parsed is None:
            raise StoreError(f"{self._path}: the record at byte {start} is damaged")
        ingest_ms, _ = parsed
        return ingest_ms, record[_HEADER.size :]

    def flush(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)

    def _recover(self) -> None:
        data = self._path.read_bytes()
        while (parsed := _parse(data, self.size)) is not None:
            self._offsets.append(self.size)
            self.newest_ms, self.size = parsed
        if self.size < len(data):
            os.ftruncate(self._file, self.size)


def discard_unflushed_tail(folder: Path) -> Lost:
    """Takes from a log that nobody has open what a power cut takes: all behind its durable point.

    The name of a segment file stays when nothing older is left, and with it the number that comes next.
    """
    point = (folder / "durable").read_bytes()
    first, size = _DURABLE.unpack(point) if point else (0, 0)
    lost = Lost()
    older = False
    for path in sorted(folder.glob("*.segment")):
        begin, length = int(path.stem), path.stat().st_size
        keep = length if begin < first else min(size, length) if begin == first else 0
        if begin > first and older:
            path.unlink()
        elif keep < length:
            os.truncate(path, keep)
        older = True
        lost += Lost(int(keep < length), length - keep)
    return lost


def _parse(data: bytes, start: int) -> tuple[int, int] | None:
    """The time of the record at `start` and where it ends; None if there is no whole record."""
    if len(data) - start < _HEADER.size:
        return None
    length, crc, ingest_ms = _HEADER.unpack_from(data, start)
    end = start + _HEADER.size + length
    if end > len(data) or zlib.crc32(memoryview(data)[start + 8 : end]) != crc:
        return None
    return ingest_ms, end


class Log:
    """The messages of one stream: segments, of which the last is written to.

    folder: where the segments live; None keeps them in memory.
    segment_bytes: a segment that would grow beyond is closed; a single larger message fills one alone.
    """

    def __init__(self, folder: Path | None, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self._folder = folder
        self._durable: int | None = None
        self._segments: list[Segment] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._durable = os.open(folder / "durable", os.O_RDWR | os.O_CREAT, 0o600)
            for path in sorted(folder.glob("*.segment")):
                self._segments.append(FileSegment(path, int(path.stem)))
        if not self._segments:
            self._segments.append(self._new_segment(0))
        self.total_bytes = sum(segment.size for segment in self._segments)

    @property
    def oldest(self) -> int:
        """The number of the oldest message that is kept; the next number if there is none."""
        return self._segments[0].first

    @property
    def next(self) -> int:
        """The number the next message gets."""
        active = self._segments[-1]
        return active.first + len(active)

    def append(self, ingest_ms: int, payload: bytes) -> int:
        """Writes a message, not necessarily to the medium yet, and returns its number. Raises OSError."""
        active = self._segments[-1]
        if active.size and active.size + RECORD_OVERHEAD + len(payload) > self.segment_bytes:
            active = self._roll()
        before = active.size
        active.append(ingest_ms, payload)
        self.total_bytes += active.size - before
        return active.first + len(active) - 1

    def read(self, start: int, count: int) -> list[Message]:
        """Up to `count` messages from number `start`, or from the oldest if that is younger. Raises StoreError."""
        start = max(start, self.oldest)
        messages: list[Message] = []
        for segment in self._segments:
            last = segment.first + len(segment)
            while segment.first <= start < last and len(messages) < count:
                messages.append(Message(start, *segment.read(start - segment.first)))
                start += 1
        if not messages and start < self.next:
            raise StoreError(f"message {start} is missing from its segment")
        return messages

    def free_segment(self) -> bool:
        """Drops the oldest segment with all its messages. False when nothing is left to drop."""
        if not self.total_bytes:
            return False
        if len(self._segments) == 1:
            self._roll()
        segment = self._segments.pop(0)
        self.total_bytes -= segment.size
        segment.remove()
        return True

    def expired(self, before_ms: int) -> bool:
        """Whether every message of the oldest segment was ingested before that time."""
        oldest = self._segments[0]
        return len(oldest) > 0 and oldest.newest_ms < before_ms

    def flush(self) -> None:
        """Brings everything to the medium and notes that it is there."""
        active = self._segments[-1]
        active.flush()
        if self._durable is not None:
            os.pwrite(self._durable, _DURABLE.pack(active.first, active.size), 0)

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        self._close()

    def remove(self) -> None:
        """Drops all messages and closes the files."""
        for segment in self._segments:
            segment.remove()
        self._segments.clear()
        self._close()

    def _close(self) -> None:
        for segment in self._segments:
            segment.close()
        if self._durable is not None:
            os.close(self._durable)

    def _roll(self) -> Segment:
        self.flush()
        self._segments.append(self._new_segment(self.next))
        return self._segments[-1]

    def _new_segment(self, first: int) -> Segment:
        if self._folder is None:
            return MemorySegment(first)
        return FileSegment(self._folder / f"{first:020}.segment", first)
