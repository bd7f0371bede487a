"""What a stream is told to be: the definition on the wire, checked and with its defaults filled in.

A definition stays a map in its wire form, because `describe` must give back what an update can be made from; what the
server works with are the few attributes below. The limits are those the SDK documents for each field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from localcore.stream_manager.protocol import Status

_MAX_I64 = 2**63 - 1
_MAX_MILLIS = 9223372036854
_NAME = re.compile(r"[\w ,.\-]{1,255}")

LOWEST_PRIORITY = 10


class StrategyOnFull(IntEnum):
    REJECT_NEW_DATA = 0
    OVERWRITE_OLDEST_DATA = 1


class Persistence(IntEnum):
    FILE = 0
    MEMORY = 1


class RefusedError(Exception):
    """A request is answered with another status than success; `str()` is the message the client reads."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def _invalid(message: str) -> RefusedError:
    return RefusedError(Status.INVALID_REQUEST, message)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """One export of a stream. kind: `kinesis`, `IotSitewise` or `s3TaskExecutor`, the key of its list on the wire."""

    kind: str
    identifier: str
    priority: int
    disabled: bool
    batch_size: int
    batch_interval_ms: int | None
    start_sequence: int
    wire: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamDefinition:
    name: str
    max_size: int
    segment_size: int
    time_to_live_ms: int | None
    strategy: StrategyOnFull
    persistence: Persistence
    flush_on_write: bool
    exports: tuple[ExportConfig, ...]
    wire: Mapping[str, Any]


BATCH_SIZE_LIMITS = {"kinesis": 500, "IotSitewise": 10, "s3TaskExecutor": 1}
"""The most messages that one request to each destination carries, and what a batch is by default."""

_NOT_MODELLED = ("http", "iotAnalytics")


def check_name(name: object, what: str = "name") -> str:
    """A name that a stream or an export may have. Raises RefusedError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(f"{what} {name!r}: 1 to 255 letters, digits, spaces, commas, periods, hyphens and underscores")
    return name


def parse_definition(wire: object) -> StreamDefinition:
    """Checks a definition as the server must. Raises RefusedError with InvalidRequest."""
    if not isinstance(wire, dict):
        raise _invalid("definition: a map is required")
    name = check_name(wire.get("name"))
    max_size = _integer(wire, "maxSize", 1024, _MAX_I64, 256 << 20)
    segment_size = _integer(wire, "streamSegmentSize", 1024, 2**31 - 1, 16 << 20)
    if max_size < segment_size:
        raise _invalid(f"maxSize {max_size}: must not be below streamSegmentSize {segment_size}")
    strategy = wire.get("strategyOnFull")
    if strategy not in (0, 1):
        raise _invalid(f"strategyOnFull {strategy!r}: 0 (RejectNewData) or 1 (OverwriteOldestData) is required")
    persistence = wire.get("persistence", 0)
    if persistence not in (0, 1):
        raise _invalid(f"persistence {persistence!r}: 0 (File) or 1 (Memory)")
    exports = _exports(wire.get("exportDefinition") or {})
    time_to_live = wire.get("timeToLiveMillis")
    complete = {
        "name": name,
        "maxSize": max_size,
        "streamSegmentSize": segment_size,
        "strategyOnFull": strategy,
        "persistence": persistence,
        "flushOnWrite": _boolean(wire, "flushOnWrite"),
        "exportDefinition": {
            kind: [dict(export.wire) for export in exports if export.kind == kind]
            for kind in (*_NOT_MODELLED, *BATCH_SIZE_LIMITS)
        },
    }
    if time_to_live is not None:
        complete["timeToLiveMillis"] = _integer(wire, "timeToLiveMillis", 60000, _MAX_MILLIS, 0)
    return StreamDefinition(
        name=name,
        max_size=max_size,
        segment_size=segment_size,
        time_to_live_ms=time_to_live,
        strategy=StrategyOnFull(strategy),
        persistence=Persistence(persistence),
        flush_on_write=bool(complete["flushOnWrite"]),
        exports=exports,
        wire=complete,
    )


def _exports(wire: object) -> tuple[ExportConfig, ...]:
    if not isinstance(wire, dict):
        raise _invalid("exportDefinition: a map is required")
    for kind in wire:
        if kind in _NOT_MODELLED and wire[kind]:
            raise _invalid(f"exportDefinition.{kind}: this stand-in exports to {', '.join(BATCH_SIZE_LIMITS)} only")
    exports = tuple(_export(kind, item) for kind in BATCH_SIZE_LIMITS for item in wire.get(kind) or ())
    identifiers = [export.identifier for export in exports]
    for identifier in identifiers:
        if identifiers.count(identifier) > 1:
            raise _invalid(f"exportDefinition: the identifier {identifier!r} is used more than once")
    return exports


def _export(kind: str, wire: object) -> ExportConfig:
    if not isinstance(wire, dict):
        raise _invalid(f"exportDefinition.{kind}: each entry must be a map")
    identifier = check_name(wire.get("identifier"), f"exportDefinition.{kind}.identifier")
    if kind == "kinesis" and not wire.get("kinesisStreamName"):
        raise _invalid(f"export {identifier}: kinesisStreamName is required")
    if kind == "s3TaskExecutor":
        _integer(wire, "sizeThresholdForMultipartUploadBytes", 5 << 20, _MAX_I64, 5 << 20)
        status = wire.get("statusConfig") or {}
        if status.get("statusLevel", 0) not in range(5):
            raise _invalid(f"export {identifier}: statusConfig.statusLevel is 0 to 4")
        if status.get("statusStreamName") is not None:
            check_name(status["statusStreamName"], f"export {identifier}: statusConfig.statusStreamName")
    interval = None
    if wire.get("batchIntervalMillis") is not None:
        interval = _integer(wire, "batchIntervalMillis", 60000, _MAX_MILLIS, 0)
    limit = BATCH_SIZE_LIMITS[kind]
    return ExportConfig(
        kind=kind,
        identifier=identifier,
        priority=_integer(wire, "priority", 1, 10, LOWEST_PRIORITY),
        disabled=_boolean(wire, "disabled"),
        batch_size=_integer(wire, "batchSize", 1, limit, limit),
        batch_interval_ms=interval,
        start_sequence=_integer(wire, "startSequenceNumber", 0, _MAX_I64, 0),
        wire=wire,
    )


def _integer(wire: Mapping[str, Any], key: str, low: int, high: int, default: int) -> int:
    value = wire.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _invalid(f"{key} {value!r}: an integer from {low} to {high}")
    return value


def _boolean(wire: Mapping[str, Any], key: str) -> bool:
    value = wire.get(key, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _invalid(f"{key} {value!r}: true or false")
    return value
