"""What a document's configuration will cost: values and bytes per second, flash per day, hours that the disk covers.

Upper bounds, from what is configured: a server sends a value at most once in a sampling interval, and only when it has
changed; `change` is the fraction of the intervals in which it has. What comes of PI's archive is an assumption, see
`cli.rates`. Bytes per value are those that the README states
under "Measured"; hours of outage are computed with the largest of them, so there are rather more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from cli.finding import Findings
from cli.gateway import Gateway
from cli.rates import asked, rates, unlimited
from cli.routes import Source, exported, sources
from sluice.config import Problem

DAY: Final = 86_400.0

OUTBOX_WRITTEN: Final = 22.0
"""Bytes that the collector's outbox writes to flash per value; also the most that a kept value occupies."""
CHAIN_WRITTEN: Final[Mapping[str, float]] = {"s3": 32, "kinesis gzip": 40, "sitewise": 80, "kinesis none": 236}
"""Bytes per value that the whole chain writes with one sink of a kind, its producer's outbox (18 to 22) included."""
_OUTBOX_IN_CHAIN: Final = 18.0
LINE: Final = 205.0
LINE_GZIP: Final = 21.0
"""Bytes of a JSON line, and of one in a gzip member of lines of many tags."""

SITEWISE_VALUES: Final = 10  # in an entry
SITEWISE_ENTRIES: Final = 10  # in a request
SITEWISE_REQUESTS_QUOTA: Final = 1_000.0
SITEWISE_VALUES_QUOTA: Final = 1_000.0
SITEWISE_PROPERTY_QUOTA: Final = 10.0
KINESIS_SHARD_BYTES: Final = 1_000_000.0
KINESIS_SHARD_RECORDS: Final = 1_000.0
_ENTRY_HEAD: Final = 75.0  # bytes of an entry beside its alias and its values
_ENTRY_VALUE: Final = 105.0


@dataclass(frozen=True, slots=True)
class ConnectionEstimate:
    """A connection. values_per_s is None where no interval limits it (samplingInterval: 0).

    Of a PI Web API also what is asked of it: streams, requests and bytes of answers per second, websockets.
    """

    source: str
    tags: int
    values_per_s: float | None
    fastest_tag_per_s: float
    outage_hours: float | None
    streams: int | None = None
    requests_per_s: float | None = None
    bytes_per_s: float | None = None
    sockets: int | None = None


@dataclass(frozen=True, slots=True)
class SinkEstimate:
    """A sink: what arrives, what it sends, what that needs at the destination; None for what it does not have."""

    sink: str
    kind: str
    values_per_s: float
    bytes_per_s: float
    flash_gb_per_day: float
    requests_per_s: float | None = None
    records_per_s: float | None = None
    shards: int | None = None
    objects_per_day: float | None = None
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one document. `change` is the fraction of sampling intervals in which a tag has a new value."""

    change: float
    connections: tuple[ConnectionEstimate, ...]
    sinks: tuple[SinkEstimate, ...]
    values_per_s: float
    flash_gb_per_day: float
    disk_bytes: int
    outbox_bytes: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def estimate(gateway: Gateway, change: float = 1.0) -> Estimate:
    """All figures of a document. `change` from 0 to 1."""
    found = {source.name: rates(source, change) for source in sources(gateway)}
    taken = exported(gateway)
    by_producer: dict[str, float] = {}
    for source in sources(gateway):
        name = source.producer.member.id
        by_producer[name] = by_producer.get(name, 0.0) + sum(found[source.name])
    connections = tuple(
        _connection(source, found[source.name], by_producer[source.producer.member.id], change)
        for source in sources(gateway)
    )
    exporter = gateway.exporter
    sinks = tuple(_sink(name, sink, taken, found) for name, sink in (exporter.config.sinks.items() if exporter else ()))
    outboxes = {
        producer.member.id: producer.config.outbox.max_size
        for producer in gateway.producers()
        if hasattr(producer.config, "outbox")
    }
    total = sum(by_producer.values())
    flash = total * OUTBOX_WRITTEN * DAY / 1e9 + sum(sink.flash_gb_per_day for sink in sinks)
    disk = sum(outboxes.values()) + sum(sink.disk_bytes for sink in sinks)
    return Estimate(change, connections, sinks, round(total, 3), round(flash, 3), disk, outboxes)


def _connection(source: Source, each: list[float], of_producer: float, change: float) -> ConnectionEstimate:
    load = asked(source, change)
    return ConnectionEstimate(
        source.name,
        len(source.producer.tags(source.connection)),
        None if unlimited(source) else round(sum(each), 3),
        round(max(each, default=0.0), 3),
        _hours(source, of_producer),
        *((load.streams, load.requests_per_s, load.bytes_per_s, load.sockets) if load is not None else ()),
    )


def _hours(source: Source, values_per_s: float) -> float | None:
    """How long the producer's outbox holds what comes, at its connections' rate together."""
    if not values_per_s:
        return None
    return float(round(source.producer.config.outbox.max_size / (values_per_s * OUTBOX_WRITTEN) / 3600, 1))


def _sink(name: str, sink: Any, taken: list[Source], rates: Mapping[str, list[float]]) -> SinkEstimate:
    each = [rate for source in taken for rate in rates[source.name]]
    values = sum(each)
    streams = sum(1 for source in taken if any(rates[source.name]))
    disk = sink.stream_size or max(256 << 20, 3 * sink.segment_size)
    if sink.type == "sitewise":
        entries = sum(rate / _per_entry(rate, sink.pack_interval) for rate in each if rate)
        alias = sum(
            len(source.settings.asset) + len(tag) + 1
            for source in taken
            for tag in source.producer.tags(source.connection)
        ) / max(1, len(each))
        size = entries * (_ENTRY_HEAD + alias) + values * _ENTRY_VALUE
        requests = entries / SITEWISE_ENTRIES
        flash = _flash(values, "sitewise")
        return SinkEstimate(name, "sitewise", _r(values), _r(size), flash, requests_per_s=_r(requests), disk_bytes=disk)
    line = LINE_GZIP if sink.compression == "gzip" else LINE
    size = values * line
    if sink.type == "kinesis":
        # A record is a pack interval's lines of one stream, or messageSize bytes of them, before compression.
        records = max(streams / sink.pack_interval if values else 0.0, values * LINE / sink.message_size)
        records = min(records, values)
        shards = max(1, math.ceil(size / KINESIS_SHARD_BYTES), math.ceil(records / KINESIS_SHARD_RECORDS))
        flash = _flash(values, f"kinesis {sink.compression}")
        return SinkEstimate(
            name, "kinesis", _r(values), _r(size), flash, records_per_s=_r(records), shards=shards, disk_bytes=disk
        )
    objects = sum(
        max(DAY / sink.rotate_interval, sum(rates[source.name]) * line * DAY / sink.rotate_size)
        for source in taken
        if any(rates[source.name])
    )
    disk += sink.spool_size
    return SinkEstimate(
        name, "s3", _r(values), _r(size), _flash(values, "s3"), objects_per_day=_r(objects), disk_bytes=disk
    )


def _per_entry(rate: float, pack_interval: float) -> float:
    """Values of one property that go into one entry."""
    return min(float(SITEWISE_VALUES), max(1.0, rate * pack_interval))


def _flash(values_per_s: float, kind: str) -> float:
    return _r(values_per_s * (CHAIN_WRITTEN[kind] - _OUTBOX_IN_CHAIN) * DAY / 1e9)


def _r(value: float) -> float:
    return round(value, 3)


# --- what the figures say -------------------------------------------------------------------------------------------


_COUNTED: Final = {"opcua_collector": "see how many there are with scripts/sluice browse --select"}


def check_estimate(gateway: Gateway, found: Estimate, findings: Findings) -> None:
    """Rates beyond what a destination takes unasked. Warnings: they are upper bounds, and quotas can be raised."""
    for source in sources(gateway):
        if getattr(source.settings, "select", None):
            place = f"connections.{source.connection}.select"
            problem = "finds its tags on the server, so that their number is not in the figures"
            remedy = _COUNTED.get(source.producer.member.package, "see the status of the component once it runs")
            findings.add("note", source.producer.member.name, Problem(place, None, problem, remedy))
        _check_load(source, found, findings)
    exporter = gateway.exporter
    if exporter is None:
        return
    name = exporter.member.name

    def warn(path: str, problem: str, remedy: str) -> None:
        findings.add("warning", name, Problem(path, None, problem, remedy))

    for sink in found.sinks:
        place = f"sinks.{sink.sink}"
        if sink.kind == "sitewise":
            if sink.values_per_s > SITEWISE_VALUES_QUOTA:
                warn(
                    place,
                    f"may get {sink.values_per_s:,.0f} values/s, and SiteWise's default quota of a region is "
                    f"{SITEWISE_VALUES_QUOTA:,.0f}",
                    "ask for a higher quota, or sample less often",
                )
            if sink.requests_per_s is not None and sink.requests_per_s > SITEWISE_REQUESTS_QUOTA:
                warn(
                    place,
                    f"may make {sink.requests_per_s:,.0f} requests/s, and SiteWise's default quota of a region is "
                    f"{SITEWISE_REQUESTS_QUOTA:,.0f}",
                    "ask for a higher quota, or use a longer packInterval",
                )
            _fast_tags(gateway, found, sink.sink, findings)
        if sink.shards is not None and sink.shards > 1:
            warn(
                place,
                f"may send {sink.bytes_per_s / 1e6:.1f} MB/s in {sink.records_per_s:,.0f} records/s, which is more "
                "than one shard takes",
                f"give the stream {sink.shards} shards or on-demand capacity, or set compression: gzip",
            )


def _check_load(source: Source, found: Estimate, findings: Findings) -> None:
    """A PI Web API that would have to be asked more often than it may be."""
    requests = next(one.requests_per_s for one in found.connections if one.source == source.name)
    if requests is None or requests <= (most := source.settings.load.requests_per_second):
        return
    place = f"connections.{source.connection}.load.requestsPerSecond"
    problem = f"is too few: the intervals of this connection take {requests:,.1f} requests/s"
    remedy = "poll less often, use transport: channel, or raise it as far as the server's administrator allows"
    findings.add("warning", source.producer.member.name, Problem(place, most, problem, remedy))


def _fast_tags(gateway: Gateway, found: Estimate, sink: str, findings: Findings) -> None:
    fastest = {one.source: one.fastest_tag_per_s for one in found.connections}
    for source in exported(gateway):
        rate = fastest[source.name]
        if rate > SITEWISE_PROPERTY_QUOTA:
            problem = (
                f"may have tags of {rate:,.0f} values/s, and SiteWise (sinks.{sink}) takes "
                f"{SITEWISE_PROPERTY_QUOTA:,.0f} a second of one property"
            )
            remedy = "sample less often (samplingInterval), or send fast tags to Kinesis or S3"
            place = f"connections.{source.connection}"
            findings.add("warning", source.producer.member.name, Problem(place, None, problem, remedy))
