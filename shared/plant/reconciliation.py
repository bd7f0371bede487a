"""Compares what the plant logged with what each destination received, sample by sample.

A sample is (tag, time). It is

    delivered    received with the value and the quality that the plant logged
    lost         never received so; one that arrived only with another value or quality is lost, and `wrong` too
    duplicated   received rightly more than once
    wrong        received with another value or quality
    unexpected   received, but the plant produced no such tag at that time

so that for every destination: produced = delivered + lost + excluded. It balances when lost, duplicated, wrong and
unexpected are 0, nothing was excluded, and the log has its end mark.

Where the guarantee is that a reader drops repeats by record id (Kinesis), repeats of an id are dropped before counting.
`raw_repeats` counts what arrived more than once before anything is dropped.

Values and qualities are compared as they can arrive: doubles and integers by value, a double also when it was written
without a fraction, booleans and strings as such; an OPC UA status code by its severity as GOOD, UNCERTAIN or BAD
(Part 4, 7.39).

The log is held as columns and each destination's deliveries are taken as they come: a sample costs some 70 bytes, and
about 130 more while a destination is compared whose repeats are dropped by id.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from plant.log import EndMark, LogError, Value, read_log
from plant.tags import DEFAULT_ASSET

QUALITIES = ("GOOD", "UNCERTAIN", "BAD", "BAD")
"""By the severity of a status code, its two highest bits; the reserved fourth is treated as bad."""


_MISSING, _DELIVERED, _EXCLUDED = range(3)


class Delivered(NamedTuple):
    """A sample as a destination received it.

    `quality` is GOOD, UNCERTAIN or BAD. `id` is what a reader would drop repeats by, `at_ns` when it was accepted; both
    None where there is none.
    """

    tag: str
    time_ns: int
    value: Value
    quality: str
    id: str | None = None
    at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One sample that is not as it should be: what was expected and what was received, as (value, quality).

    `row` and `expected` are None for a sample that was never produced, `got` for one that was never received.
    """

    tag: str
    time_ns: int
    row: int | None
    expected: tuple[Value, str] | None
    got: tuple[Value, str] | None

    def as_dict(self) -> dict[str, Any]:
        """For the report: the time in both forms, what was expected and received as value and quality."""
        seconds, rest = divmod(self.time_ns, 1_000_000_000)
        return {
            "tag": self.tag,
            "time": f"{_iso(seconds)}.{rest:09}Z",
            "time_ns": self.time_ns,
            "row": self.row,
            "expected": _pair(self.expected),
            "got": _pair(self.got),
        }


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from a sample's source time to its acceptance: median and 99th percentile over `samples`."""

    samples: int
    p50: float
    p99: float

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"p50": round(self.p50, 3), "p99": round(self.p99, 3)}


@dataclass(frozen=True, slots=True)
class Destination:
    """What one destination received. The `first_…` findings are the earliest in the order of production."""

    delivered: int
    lost: int
    duplicated: int
    raw_repeats: int
    wrong: int
    unexpected: int
    first_lost: Finding | None = None
    first_duplicated: Finding | None = None
    first_wrong: Finding | None = None
    first_unexpected: Finding | None = None
    latency: Latency | None = None

    @property
    def balances(self) -> bool:
        """Whether every sample arrived once and as it was produced."""
        return not (self.lost or self.duplicated or self.wrong or self.unexpected)

    def as_dict(self) -> dict[str, Any]:
        """For the report; findings and latency appear when there are any."""
        counts = ("delivered", "lost", "duplicated", "raw_repeats", "wrong", "unexpected")
        report: dict[str, Any] = {name: getattr(self, name) for name in counts}
        for name in ("first_lost", "first_duplicated", "first_wrong", "first_unexpected"):
            finding: Finding | None = getattr(self, name)
            if finding is not None:
                report[name] = finding.as_dict()
        if self.latency is not None:
            report["latency_ms"] = self.latency.as_dict()
        return report


@dataclass(frozen=True, slots=True)
class Report:
    """The whole comparison. `exclusions` names every tag that was left out, with the reason and the samples."""

    produced: int
    excluded: int
    ended: bool
    destinations: Mapping[str, Destination]
    exclusions: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    latency: Latency | None = None

    @property
    def balances(self) -> bool:
        """Whether everything that was produced arrived everywhere once, with nothing left out of the comparison."""
        return self.ended and not self.excluded and all(d.balances for d in self.destinations.values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        report: dict[str, Any] = {
            "produced": self.produced,
            "excluded": self.excluded,
            "destinations": {name: destination.as_dict() for name, destination in self.destinations.items()},
            "latency_ms": {"p50": None, "p99": None} if self.latency is None else self.latency.as_dict(),
        }
        if not self.ended:
            report["ended"] = False
        if self.exclusions:
            report["exclusions"] = {
                tag: {"reason": reason, "samples": samples} for tag, (reason, samples) in self.exclusions.items()
            }
        return report


def reconcile(
    log: Path | Sequence[Path],
    deliveries: Mapping[str, Iterable[Delivered]],
    *,
    assets: Collection[str] = (DEFAULT_ASSET,),
    repeats_dropped_by_id: Collection[str] = ("kinesis",),
    exclude: Mapping[str, str] | None = None,
    appends: Iterable[tuple[int, int, bytes]] | None = None,
    files: Collection[str] = ("s3",),
) -> Report:
    """Compare a plant's log, or those of several plants, with what each destination received.

    Args:
        log: the plant's own log; of several, no two may have a tag of the same name.
        deliveries: by destination, what it received, in any order.
        assets: asset paths that a destination puts before the tag (`{asset}/{tag}`), taken off again.
        repeats_dropped_by_id: destinations whose readers drop repeats by record id.
        exclude: tags left out of the comparison, each with its reason.
        appends: (sequence number, accepted at, payload) of what the streams accepted, from which the latency is taken;
            without it the latency is that of the deliveries, those of `files` apart.
        files: destinations that receive files, whose latency says when a file was sealed.

    Raises:
        plant.log.LogError: the log is not one.
    """
    produced = _Produced.read([log] if isinstance(log, Path) else log)
    excluded = {tag: (reason, len(produced.samples(tag))) for tag, reason in (exclude or {}).items()}
    prefixes = tuple(f"{asset.rstrip('/')}/" for asset in assets if asset)
    destinations: dict[str, Destination] = {}
    live = array("d")
    for name, received in deliveries.items():
        comparison = _Comparison(produced, prefixes, excluded.keys(), drop_by_id=name in repeats_dropped_by_id)
        for sample in received:
            comparison.add(sample)
        destinations[name] = comparison.result()
        if name not in files:
            live.extend(comparison.latencies)
    return Report(
        produced=len(produced.tag),
        excluded=sum(samples for _, samples in excluded.values()),
        ended=produced.ended,
        destinations=destinations,
        exclusions=excluded,
        latency=_latency(live if appends is None else _append_latencies(appends)),
    )


class _Produced:
    """The log as columns, one entry per sample in the order of production."""

    def __init__(self) -> None:
        self.tags: dict[str, int] = {}
        self.tag = array("i")
        self.row = array("i")
        self.time = array("q")
        self.quality = bytearray()
        self.value: list[Value] = []
        self.ended = False
        self._times: list[array[int]] = []  # per tag, ascending
        self._samples: list[array[int]] = []  # per tag, the sample at each of its times
        self._texts: dict[str, str] = {}

    @classmethod
    def read(cls, paths: Sequence[Path]) -> _Produced:
        produced = cls()
        ended = [produced._read(path) for path in paths]  # each to its end, whatever the others have
        produced.ended = all(ended)
        return produced

    def _read(self, path: Path) -> bool:
        """Whether the log was ended."""
        rows, before, ended, of_others = 0, len(self.tag), False, set(self.tags)
        for line in read_log(path):
            if isinstance(line, EndMark):
                samples = len(self.tag) - before
                if (line.rows, line.samples) != (rows, samples):
                    raise LogError(
                        f"{path}: the end mark says {line.rows} rows and {line.samples} samples, "
                        f"the log has {rows} and {samples}: the log is damaged"
                    )
                ended = True
                continue
            rows += 1
            for tag, value in line.values.items():
                if tag in of_others:
                    raise LogError(f"{path}: row {line.row}: {tag} is also in the log of another plant")
                self._add(tag, line.time_ns, line.row, value, line.statuses.get(tag, 0), path)
        return ended

    def _add(self, tag: str, time_ns: int, row: int, value: Value, status: int, path: Path) -> None:
        index = self.tags.get(tag)
        if index is None:
            index = self.tags[tag] = len(self.tags)
            self._times.append(array("q"))
            self._samples.append(array("i"))
        times = self._times[index]
        if times and times[-1] >= time_ns:
            raise LogError(f"{path}: row {row}: {tag} goes back in time from {times[-1]} to {time_ns}")
        self._samples[index].append(len(self.tag))
        times.append(time_ns)
        self.tag.append(index)
        self.row.append(row)
        self.time.append(time_ns)
        self.quality.append(status >> 30)
        self.value.append(self._texts.setdefault(value, value) if isinstance(value, str) else value)

    def samples(self, tag: str) -> Sequence[int]:
        """Numbers of a tag's samples."""
        index = self.tags.get(tag)
        return () if index is None else self._samples[index]

    def find(self, tag: str, time_ns: int) -> int:
        """Number of a sample; -1 when it was not produced."""
        index = self.tags.get(tag)
        if index is None:
            return -1
        times = self._times[index]
        at = bisect_left(times, time_ns)
        return self._samples[index][at] if at < len(times) and times[at] == time_ns else -1

    def expected(self, sample: int) -> tuple[Value, str]:
        return self.value[sample], QUALITIES[self.quality[sample]]

    def finding(self, sample: int, names: list[str], got: tuple[Value, str] | None) -> Finding:
        return Finding(names[self.tag[sample]], self.time[sample], self.row[sample], self.expected(sample), got)


class _Comparison:
    """One destination against what was produced."""

    def __init__(
        self, produced: _Produced, prefixes: tuple[str, ...], excluded: Collection[str], *, drop_by_id: bool
    ) -> None:
        self._produced = produced
        self._prefixes = prefixes
        self._excluded = excluded
        self._ids: set[str] | None = set() if drop_by_id else None
        self._seen = bytearray(len(produced.tag))
        self._duplicated = self._raw_repeats = self._wrong = self._unexpected = 0
        self._first_duplicated: tuple[int, tuple[Value, str]] | None = None
        self._first_wrong: tuple[int, tuple[Value, str]] | None = None
        self._first_unexpected: Finding | None = None
        self.latencies = array("d")

    def add(self, sample: Delivered) -> None:
        tag = self._tag(sample.tag)
        if tag in self._excluded:
            return
        if self._ids is not None and sample.id is not None:
            if sample.id in self._ids:
                self._raw_repeats += 1
                return
            self._ids.add(sample.id)
        got = (sample.value, sample.quality)
        number = self._produced.find(tag, sample.time_ns)
        if number < 0:
            self._unexpected += 1
            first = self._first_unexpected
            if first is None or (sample.time_ns, tag) < (first.time_ns, first.tag):
                self._first_unexpected = Finding(tag, sample.time_ns, None, None, got)
            return
        if not _same(self._produced.expected(number), got):
            self._wrong += 1
            if self._first_wrong is None or number < self._first_wrong[0]:
                self._first_wrong = (number, got)
            return
        if self._seen[number]:
            self._raw_repeats += 1
            self._duplicated += 1
            if self._first_duplicated is None or number < self._first_duplicated[0]:
                self._first_duplicated = (number, got)
            return
        self._seen[number] = _DELIVERED
        if sample.at_ns is not None:
            self.latencies.append((sample.at_ns - sample.time_ns) / 1e6)

    def result(self) -> Destination:
        produced, names = self._produced, list(self._produced.tags)
        for tag in self._excluded:
            for number in produced.samples(tag):
                self._seen[number] = _EXCLUDED
        first_lost = self._seen.find(_MISSING)
        return Destination(
            delivered=self._seen.count(_DELIVERED),
            lost=self._seen.count(_MISSING),
            duplicated=self._duplicated,
            raw_repeats=self._raw_repeats,
            wrong=self._wrong,
            unexpected=self._unexpected,
            first_lost=None if first_lost < 0 else produced.finding(first_lost, names, None),
            first_duplicated=self._first_duplicated
            and produced.finding(self._first_duplicated[0], names, self._first_duplicated[1]),
            first_wrong=self._first_wrong and produced.finding(self._first_wrong[0], names, self._first_wrong[1]),
            first_unexpected=self._first_unexpected,
            latency=_latency(self.latencies),
        )

    def _tag(self, tag: str) -> str:
        if tag not in self._produced.tags:
            for prefix in self._prefixes:
                if tag.startswith(prefix):
                    return tag[len(prefix) :]
        return tag


def _same(expected: tuple[Value, str], got: tuple[Value, str]) -> bool:
    value, other = expected[0], got[0]
    if expected[1] != got[1]:
        return False
    if isinstance(value, float):  # a double may be written without a fraction
        return isinstance(other, (int, float)) and not isinstance(other, bool) and value == other
    return type(value) is type(other) and value == other


def _append_latencies(appends: Iterable[tuple[int, int, bytes]]) -> array[float]:
    latencies = array("d")
    for _, at_ns, payload in appends:
        latencies.extend((at_ns - time_ns) / 1e6 for time_ns in _source_times(payload))
    return latencies


def _source_times(payload: bytes) -> Iterator[int]:
    """Source times in a message: JSON lines with `time_ns`, or one entry for SiteWise."""
    for line in payload.splitlines():
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # not a message of samples; what it should have held is found lost, not late
        if not isinstance(entry, dict):
            continue
        if "time_ns" in entry:
            yield entry["time_ns"]
        for value in entry.get("propertyValues", ()):
            timestamp = value["timestamp"]
            yield timestamp["timeInSeconds"] * 1_000_000_000 + timestamp.get("offsetInNanos", 0)


def _latency(milliseconds: array[float]) -> Latency | None:
    if not milliseconds:
        return None
    p50, p99 = np.percentile(np.frombuffer(milliseconds, dtype=np.float64), (50, 99))
    return Latency(len(milliseconds), float(p50), float(p99))


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _pair(pair: tuple[Value, str] | None) -> dict[str, Value] | None:
    return None if pair is None else {"value": pair[0], "quality": pair[1]}
