"""The streams of one stream manager: definitions, messages, and how far each export got. No clock, no network.

On the medium a stream is a folder: `definition.json`, `exports.json` (the exports' positions), and the log's segments.

Positions of exports are written on each `tick`, about once a second, so that a killed server exports again what it
exported last: the documentation promises no more than that everything is exported at least once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localcore.powercut import Lost
from localcore.stream_manager.definition import (
    Persistence,
    RefusedError,
    StrategyOnFull,
    StreamDefinition,
    check_name,
    parse_definition,
)
from localcore.stream_manager.protocol import Status
from localcore.stream_manager.store import RECORD_OVERHEAD, Log, Message, StoreError, discard_unflushed_tail

logger = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 4 << 20
"""The documentation names no limit for a message; this is the lowest one that is told of."""

MAX_RESPONSE_BYTES = 8 << 20
"""What one read may return. Nothing is documented here either."""


@dataclass(slots=True)
class ExportPosition:
    """How far one export got; -1 is before the first message. Times in ms since 1970."""

    last_exported: int = -1
    last_time_ms: int | None = None
    error: str | None = None
    exported_bytes: int = 0
    exported_messages: int = 0

    def wire(self, identifier: str) -> dict[str, Any]:
        status: dict[str, Any] = {
            "exportConfigIdentifier": identifier,
            "lastExportedSequenceNumber": self.last_exported,
            "exportedBytesFromStream": self.exported_bytes,
            "exportedMessagesCount": self.exported_messages,
        }
        if self.last_time_ms is not None:
            status["lastExportTime"] = self.last_time_ms
        if self.error is not None:
            status["errorMessage"] = self.error
        return status


class Stream:
    """One message stream. `on_append` is called after each accepted message."""

    def __init__(self, definition: StreamDefinition, folder: Path) -> None:
        self.definition = definition
        self.on_append: list[Callable[[], None]] = []
        self._folder = folder
        self._in_files = definition.persistence is Persistence.FILE
        self._log = Log(folder if self._in_files else None, definition.segment_size)
        self._positions_moved = False
        self.positions: dict[str, ExportPosition] = {}
        path = folder / "exports.json"
        if path.exists():
            # A position ahead of the messages means that a power cut took the log's tail.
            for identifier, saved in json.loads(path.read_text()).items():
                position = ExportPosition(**saved)
                position.last_exported = min(position.last_exported, self._log.next - 1)
                self.positions[identifier] = position
        self._follow_exports()

    @property
    def newest(self) -> int:
        """The number of the message appended last; -1 before the first."""
        return self._log.next - 1

    @property
    def oldest(self) -> int:
        return self._log.oldest

    @property
    def total_bytes(self) -> int:
        """Bytes stored, including what the store adds to each message."""
        return self._log.total_bytes

    def append(self, payload: object, now_ms: int) -> int:
        """Stores a message and returns its sequence number. Raises RefusedError."""
        if not isinstance(payload, bytes) or not payload:
            raise RefusedError(Status.INVALID_REQUEST, "payload: at least one byte is required")
        definition = self.definition
        limit = min(MAX_PAYLOAD_BYTES, definition.segment_size - RECORD_OVERHEAD)
        if len(payload) > limit:
            raise RefusedError(
                Status.REQUEST_PAYLOAD_TOO_LARGE,
                f"stream {definition.name}: a message of {len(payload)} bytes; {limit} bytes fit",
            )
        self._expire(now_ms)
        needed = RECORD_OVERHEAD + len(payload)
        try:
            while self._log.total_bytes + needed > definition.max_size:
                if definition.strategy is StrategyOnFull.REJECT_NEW_DATA:
                    raise RefusedError(
                        Status.INVALID_REQUEST,
                        f"stream {definition.name} is full: {self._log.total_bytes} of {definition.max_size} bytes",
                    )
                self._log.free_segment()
            sequence = self._log.append(now_ms, payload)
            if definition.flush_on_write:
                self._log.flush()
        except OSError as error:
            raise RefusedError(Status.UNKNOWN_FAILURE, f"stream {definition.name}: {error}") from error
        for appended in self.on_append:
            appended()
        return sequence

    def read(self, start: int, least: int, most: int, now_ms: int) -> list[Message]:
        """From `start` (or the oldest) on, at least `least` and up to `most` messages; none if there are fewer.

        Raises RefusedError.
        """
        self._expire(now_ms)
        available = self._log.next - max(start, self._log.oldest)
        if available < least:
            return []
        messages: list[Message] = []
        size = 0
        try:
            while len(messages) < min(most, available):
                begin = messages[-1].sequence + 1 if messages else start
                for message in self._log.read(begin, min(most - len(messages), 64)):
                    size += RECORD_OVERHEAD + len(message.payload)
                    if size > MAX_RESPONSE_BYTES and len(messages) >= least:
                        return messages
                    messages.append(message)
        except StoreError as error:
            raise RefusedError(Status.MESSAGE_STORE_READ_ERROR, str(error)) from error
        if size > MAX_RESPONSE_BYTES and len(messages) > 1:
            raise RefusedError(
                Status.RESPONSE_PAYLOAD_TOO_LARGE,
                f"stream {self.definition.name}: {least} messages are more than {MAX_RESPONSE_BYTES} bytes",
            )
        return messages

    def update(self, definition: StreamDefinition) -> None:
        """Takes over a new definition; exports that it leaves out are forgotten. Raises RefusedError."""
        if definition.persistence is not self.definition.persistence:
            raise RefusedError(Status.UPDATE_NOT_ALLOWED, f"stream {definition.name}: persistence cannot change")
        if definition.max_size < self._log.total_bytes:
            raise RefusedError(
                Status.UPDATE_NOT_ALLOWED,
                f"stream {definition.name}: maxSize {definition.max_size} is below the {self.total_bytes} bytes stored",
            )
        self._refuse_starts_ahead(definition)
        self.definition = definition
        self._log.segment_bytes = definition.segment_size
        self._follow_exports()
        self.save()

    def describe(self) -> dict[str, Any]:
        return {
            "definition": dict(self.definition.wire),
            "storageStatus": {
                "oldestSequenceNumber": self._log.oldest,
                "newestSequenceNumber": self.newest,
                "totalBytes": self._log.total_bytes,
            },
            "exportStatuses": [self.positions[e.identifier].wire(e.identifier) for e in self.definition.exports],
        }

    def pending(self, identifier: str, most: int, max_bytes: int) -> list[Message]:
        """The next messages for an export: up to `most`, up to `max_bytes` of payload, and one if there is any."""
        position = self.positions[identifier]
        messages: list[Message] = []
        while not messages and position.last_exported < self.newest:
            try:
                messages = self._log.read(position.last_exported + 1, most)
            except StoreError as error:  # noqa: PERF203 - a damaged store is rare
                position.error = str(error)
                position.last_exported += 1
        room = max_bytes
        for count, message in enumerate(messages):
            room -= len(message.payload)
            if room < 0 and count:
                return messages[:count]
        return messages

    def exported(self, *, at_once: bool = False) -> None:
        """Notes that positions moved: they are saved on the next tick, or at once."""
        self._positions_moved = True
        if at_once:
            self._save_positions()

    def tick(self, now_ms: int) -> None:
        """To be called about once a second: frees what expired, saves positions that moved."""
        self._expire(now_ms)
        if self._positions_moved:
            self._save_positions()

    def save(self) -> None:
        """Brings definition and positions to the medium."""
        if self._in_files:
            _write(self._folder / "definition.json", dict(self.definition.wire))
            self._save_positions()

    def close(self) -> None:
        """Ends cleanly: all is flushed."""
        self.save()
        self._log.close()

    def remove(self) -> None:
        """Deletes everything; an export that is still under way finds nothing to write to."""
        self._in_files = False
        self._log.remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _save_positions(self) -> None:
        try:
            if self._in_files:
                _write(self._folder / "exports.json", {key: asdict(p) for key, p in self.positions.items()})
            self._positions_moved = False
        except OSError as error:
            logger.warning("stream %s: positions of exports: %s", self.definition.name, error)

    def _expire(self, now_ms: int) -> None:
        time_to_live = self.definition.time_to_live_ms
        if time_to_live is not None:
            while self._log.expired(now_ms - time_to_live):
                self._log.free_segment()

    def _follow_exports(self) -> None:
        self.positions = {
            export.identifier: self.positions.get(export.identifier)
            or ExportPosition(last_exported=export.start_sequence - 1)
            for export in self.definition.exports
        }

    def _refuse_starts_ahead(self, definition: StreamDefinition) -> None:
        for export in definition.exports:
            new = export.identifier not in self.positions
            if new and export.start_sequence > max(self.newest, 0):
                raise RefusedError(
                    Status.INVALID_REQUEST,
                    f"export {export.identifier}: startSequenceNumber {export.start_sequence} is above the newest "
                    f"message, {self.newest}",
                )


class Streams:
    """All streams below one folder. Every method raises RefusedError for what the server refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: dict[str, Stream] = {}
        for path in sorted(folder.glob("*/definition.json")):
            definition = parse_definition(json.loads(path.read_text()))
            self._streams[definition.name] = Stream(definition, path.parent)

    def __iter__(self) -> Any:
        return iter(self._streams.values())

    def names(self) -> list[str]:
        return list(self._streams)

    def get(self, name: object) -> Stream:
        stream = self._streams.get(name) if isinstance(name, str) else None
        if stream is None:
            raise RefusedError(Status.RESOURCE_NOT_FOUND, f"the message stream {name!r} does not exist")
        return stream

    def create(self, wire: object) -> Stream:
        definition = parse_definition(wire)
        if definition.name in self._streams:
            raise RefusedError(Status.INVALID_REQUEST, f"the message stream {definition.name!r} already exists")
        for export in definition.exports:
            if export.start_sequence:
                raise RefusedError(
                    Status.INVALID_REQUEST,
                    f"export {export.identifier}: startSequenceNumber {export.start_sequence} in an empty stream",
                )
        self._refuse_unknown_status_streams(definition)
        folder = self._folder / folder_name(definition.name)
        shutil.rmtree(folder, ignore_errors=True)
        stream = Stream(definition, folder)
        stream.save()
        self._streams[definition.name] = stream
        return stream

    def update(self, wire: object) -> Stream:
        definition = parse_definition(wire)
        stream = self.get(definition.name)
        self._refuse_unknown_status_streams(definition)
        stream.update(definition)
        return stream

    def delete(self, name: object) -> Stream:
        stream = self.get(name)
        del self._streams[stream.definition.name]
        stream.remove()
        return stream

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _refuse_unknown_status_streams(self, definition: StreamDefinition) -> None:
        for export in definition.exports:
            name = (export.wire.get("statusConfig") or {}).get("statusStreamName")
            if name is not None and name not in self._streams:
                raise RefusedError(
                    Status.INVALID_REQUEST,
                    f"export {export.identifier}: the status stream {name!r} does not exist; create it first",
                )


def discard_unflushed(root: Path) -> Lost:
    """Takes what a power cut takes from the streams of a core whose stream manager does not run."""
    lost = Lost()
    for durable in (root / "stream_manager").glob("*/durable"):
        lost += discard_unflushed_tail(durable.parent)
    return lost


def folder_name(stream: str) -> str:
    """A folder for a stream of any legal name, legible where the name allows it."""
    check_name(stream)
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", stream):
        return stream
    return f"{re.sub('[^A-Za-z0-9_-]', '_', stream)[:48]}.{hashlib.sha256(stream.encode()).hexdigest()[:12]}"


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
