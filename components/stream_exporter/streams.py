"""What a stream of stream manager must look like, and what to do about one that does not.

Streams are made or changed, never deleted: a stream holds data that nobody has seen yet. A change always starts from
what `describe` says, because an update takes back to its default whatever it leaves out and forgets the exports that it
does not name: exports that others added to our stream are kept as they are, ours is known by its identifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stream_manager import (
    ExportDefinition,
    IoTSiteWiseConfig,
    KinesisConfig,
    MessageStreamDefinition,
    Persistence,
    S3ExportTaskExecutorConfig,
    StrategyOnFull,
)


class Export(Protocol):
    """One of the SDK's export configurations."""

    identifier: str

    def as_dict(self) -> dict[str, Any]:
        """Its form on the wire."""
        ...


_LIST_OF: Mapping[type[Any], str] = {
    IoTSiteWiseConfig: "iot_sitewise",
    KinesisConfig: "kinesis",
    S3ExportTaskExecutorConfig: "s3_task_executor",
}
_LISTS = ("http", "iot_analytics", "kinesis", "iot_sitewise", "s3_task_executor")


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """A stream as configured: a short pipe in files that overwrites its oldest messages. Sizes in bytes."""

    name: str
    max_size: int
    segment_size: int
    export: Export | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """One respect in which a stream is not as configured."""

    field: str
    found: str
    wanted: str
    remedy: str = ""  # empty: it is put right by the update

    def __str__(self) -> str:
        return f"{self.field} is {self.found} instead of {self.wanted}" + (f": {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Step:
    """What to do: nothing when `update` is None. `drift` is everything that differs, mended or not."""

    update: MessageStreamDefinition | None
    drift: tuple[Drift, ...]


def new_definition(plan: StreamPlan) -> MessageStreamDefinition:
    """The definition to create the stream with."""
    exports = ExportDefinition()
    if plan.export is not None:
        setattr(exports, list_of(plan.export), [plan.export])
    return MessageStreamDefinition(
        name=plan.name,
        max_size=plan.max_size,
        stream_segment_size=plan.segment_size,
        strategy_on_full=StrategyOnFull.OverwriteOldestData,
        persistence=Persistence.File,
        flush_on_write=False,
        export_definition=exports,
    )


def list_of(export: Export) -> str:
    """The list of an ExportDefinition that an export belongs to."""
    return _LIST_OF[type(export)]


def compare(plan: StreamPlan, info: Any) -> Step:
    """Compare a plan with a stream's MessageStreamInfo."""
    found: MessageStreamDefinition = info.definition
    drift: list[Drift] = []

    max_size = plan.max_size
    stored = info.storage_status.total_bytes or 0
    if found.max_size != max_size:
        remedy = ""
        if max_size < stored:
            max_size = found.max_size
            remedy = f"it holds {stored} bytes and shrinks only when it holds less; exported data is freed in time"
        drift.append(Drift("maxSize", str(found.max_size), str(plan.max_size), remedy))
    if found.stream_segment_size != plan.segment_size:
        drift.append(Drift("streamSegmentSize", str(found.stream_segment_size), str(plan.segment_size)))
    if found.strategy_on_full is not StrategyOnFull.OverwriteOldestData:
        drift.append(Drift("strategyOnFull", _name(found.strategy_on_full), "OverwriteOldestData"))
    if found.persistence not in (None, Persistence.File):
        remedy = "persistence cannot change: give the sink another `stream`, or delete this one once it is exported"
        drift.append(Drift("persistence", _name(found.persistence), "File", remedy))

    exports, export_drift = _exports(plan.export, found.export_definition)
    drift.extend(export_drift)
    if all(item.remedy for item in drift):
        return Step(None, tuple(drift))
    update = MessageStreamDefinition(
        name=plan.name,
        max_size=max_size,
        stream_segment_size=min(plan.segment_size, max_size),
        time_to_live_millis=found.time_to_live_millis,
        strategy_on_full=StrategyOnFull.OverwriteOldestData,
        persistence=found.persistence,
        flush_on_write=found.flush_on_write,
        export_definition=exports,
    )
    return Step(update, tuple(drift))


def _exports(wanted: Export | None, found: ExportDefinition | None) -> tuple[ExportDefinition, list[Drift]]:
    """All exports that the stream has to have, and how those found differ."""
    drift: list[Drift] = []
    exports = ExportDefinition()
    for kind in _LISTS:
        there: list[Any] = (getattr(found, kind) if found is not None else None) or []
        if wanted is not None:
            ours = [export for export in there if export.identifier == wanted.identifier]
            there = [export for export in there if export.identifier != wanted.identifier]
            if kind == list_of(wanted):
                drift.extend(_differences(wanted, ours[0]) if ours else [_missing(wanted)])
                there.append(_merged(wanted, ours[0]) if ours else wanted)
        if there:
            setattr(exports, kind, there)
    return exports, drift


def _missing(wanted: Export) -> Drift:
    return Drift(f"export {wanted.identifier}", "missing", "there")


def _differences(wanted: Export, found: Export) -> list[Drift]:
    theirs = found.as_dict()
    return [
        Drift(f"export {wanted.identifier}: {key}", str(theirs.get(key)), str(value))
        for key, value in wanted.as_dict().items()
        if (theirs.get(key) or None) != (value or None)
    ]


def _merged(wanted: Export, found: Export) -> Any:
    """Ours as configured, with what we do not decide (startSequenceNumber above all) as found."""
    kind: Any = type(wanted)
    return kind.from_dict({**found.as_dict(), **wanted.as_dict()})


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
