"""Batches: samples as columns, their wire form, and cutting to the frame size.

A *sample* is (tag, time, value, quality) with the source's native status beside it. A *batch* is columns, not rows, of
samples of one value type. On the wire it is strict UTF-8 JSON (no NaN), or that as one zstd frame, told by its magic:

    {"v":1, "kind":"samples", "stream":"opcua-collector/line1", "epoch":"9f2c5a0b77d1", "seq":1042, "type":"double",
     "series":[{"tag":"Reactor/Temp","unit":"degC","asset":"Site/Area/Line1","batch":"B-1042"}, …],
     "s":[0,0,1],                            index into series, per sample
     "t0":1700000000000000000,               smallest source time of the batch, ns since 1970 UTC
     "dt":[0,500000000,0],                   ns after t0, never negative
     "value":[21.5,null,3.25],
     "q":[0,2,0], "status":[0,"nan",0]}      left out when every sample is GOOD / has no native status

`q` is 0 GOOD, 1 UNCERTAIN, 2 BAD. `status` is 0 (none), the source's own positive code, or a word: Sluice's (`nan`,
`too-large`, `not-unicode`) or that of a protocol whose statuses are words. Null is legal only with BAD or UNCERTAIN.
Two more kinds travel on the same topics:

    {"v":1, "kind":"events",   "stream", "epoch", "seq", "events":[{…}, …]}         one JSON object per event
    {"v":1, "kind":"announce", "stream", "epoch", "oldest":1, "newest":1042}        numbers kept; newest 0: none yet

Errors:

    ValueError
    └── BatchError      a payload that is not a batch, or columns that cannot become one; names the field and the value
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

VERSION: Final = 1
LITE_MAX_MESSAGE_BYTES: Final = 7_000
"""Nucleus lite closes the whole connection above 7,299 bytes of binary message, less for long topics."""
CLASSIC_MAX_MESSAGE_BYTES: Final = 120_000
MAX_DECODED_BYTES: Final = 16 * 1024 * 1024
"""What a payload may decompress to before it is refused."""

NAN: Final = "nan"
TOO_LARGE: Final = "too-large"
NOT_UNICODE: Final = "not-unicode"

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
STREAM_PATTERN: Final = re.compile(rf"{_NAME}/{_NAME}(/backfill|/events)?", re.ASCII)
EPOCH_PATTERN: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_LEVEL: Final = 1  # on batches level 3 takes twice the time for 1 % fewer bytes


class BatchError(ValueError):
    """A payload that is not a batch, or columns that cannot become one.

    `field` is the place in the batch (`value[3]`), `value` what stood there.
    """

    def __init__(self, field: str, problem: str, value: Any = None) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.value = value


class ValueType(str, Enum):
    """The type of every value of a batch. A tag's type never changes by value."""

    DOUBLE = "double"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"


class Quality(IntEnum):
    """How far a sample may be trusted. Higher is worse."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2


@dataclass(frozen=True, slots=True)
class Series:
    """What samples of one tag share: its unit, its place in the plant, the production batch it ran in.

    `extra` carries further context by name; the names of the other fields are not allowed in it.
    """

    tag: str
    asset: str = ""
    unit: str = ""
    batch: str = ""
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as an object, for tests and slow paths. `time` is ns since 1970 UTC; `status` 0 means none."""

    tag: str
    time: int
    value: float | int | bool | str | None
    quality: Quality = Quality.GOOD
    status: int | str = 0
    asset: str = ""
    unit: str = ""
    batch: str = ""
    extra: tuple[tuple[str, str], ...] = ()


_DTYPES: Final[Mapping[ValueType, np.dtype[Any]]] = {
    ValueType.DOUBLE: np.dtype(np.float64),
    ValueType.INTEGER: np.dtype(np.int64),
    ValueType.BOOLEAN: np.dtype(np.bool_),
    ValueType.STRING: np.dtype(object),
}


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Samples of one value type as columns of equal length, not yet numbered.

    Null is NaN in a DOUBLE column, None in a STRING column, and a set bit of `null` in the others. Raises BatchError
    when lengths or types of the columns do not agree.
    """

    type: ValueType
    series: tuple[Series, ...]
    s: NDArray[np.int32]
    """Index into series."""
    t: NDArray[np.int64]
    """Source time, ns since 1970 UTC."""
    value: NDArray[Any]
    """float64, int64, bool or object (str or None)."""
    quality: NDArray[np.uint8] | None = None
    """None: all GOOD."""
    status: NDArray[np.int64] | None = None
    """None: none has one. Below 0 it means words[-status - 1]."""
    words: tuple[str, ...] = ()
    null: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        expected = (
            ("s", self.s, np.int32),
            ("t", self.t, np.int64),
            ("value", self.value, _DTYPES[self.type]),
            ("quality", self.quality, np.uint8),
            ("status", self.status, np.int64),
            ("null", self.null, np.bool_),
        )
        size = len(self.s)
        for name, column, dtype in expected:
            if column is None:
                continue
            if column.shape != (size,):
                raise BatchError(name, f"shape {column.shape}, but s has {size} entries", column.shape)
            if column.dtype != dtype:
                raise BatchError(name, f"column of {column.dtype}, not {np.dtype(dtype)}", str(column.dtype))

    def __len__(self) -> int:
        return len(self.s)

    def slice(self, start: int, stop: int) -> Columns:
        """The samples from start up to stop, with only the series that they use. Columns are views, not copies."""
        part = self.s[start:stop]
        series = self.series
        used = np.zeros(len(series), dtype=np.bool_)
        used[part] = True
        kept = np.flatnonzero(used)
        if len(kept) < len(series):
            index = np.empty(len(series), dtype=np.int32)
            index[kept] = np.arange(len(kept), dtype=np.int32)
            part = index[part]
            series = tuple([series[i] for i in kept.tolist()])
        return Columns(
            type=self.type,
            series=series,
            s=part,
            t=self.t[start:stop],
            value=self.value[start:stop],
            quality=None if self.quality is None else self.quality[start:stop],
            status=None if self.status is None else self.status[start:stop],
            words=self.words,
            null=None if self.null is None else self.null[start:stop],
        )

    def statuses(self) -> list[int | str]:
        """Native status per sample as it stands on the wire."""
        if self.status is None:
            return [0] * len(self)
        return [code if code >= 0 else self.words[-code - 1] for code in self.status.tolist()]

    def values(self) -> list[Any]:
        """Value per sample as Python objects, null as None."""
        values: list[Any] = self.value.tolist()
        if self.type is ValueType.DOUBLE:
            for i in np.flatnonzero(np.isnan(self.value)).tolist():
                values[i] = None
        elif self.null is not None:
            for i in np.flatnonzero(self.null).tolist():
                values[i] = None
        return values

    def samples(self) -> Iterator[Sample]:
        """Each sample as an object: for tests and slow paths, never for every sample that passes."""
        qualities = [0] * len(self) if self.quality is None else self.quality.tolist()
        rows = zip(self.s.tolist(), self.t.tolist(), self.values(), qualities, self.statuses(), strict=True)
        for s, t, value, quality, status in rows:
            of = self.series[s]
            yield Sample(of.tag, t, value, Quality(quality), status, of.asset, of.unit, of.batch, of.extra)

    def same_as(self, other: Columns) -> bool:
        """Whether both mean the same samples, however their series and words are laid out."""
        return self.type is other.type and list(self.samples()) == list(other.samples())


def from_samples(samples: Iterable[Sample]) -> list[Columns]:
    """Columns of the samples, one per value type in order of first appearance; order is kept inside a type.

    A null takes the type that its tag has elsewhere in these samples, DOUBLE when nothing tells.
    Raises BatchError for an integer beyond 64 bits or a time beyond 1677-2262.
    """
    rows = list(samples)
    types_of_tags: dict[tuple[str, str], ValueType] = {}
    for row in rows:
        if row.value is not None:
            types_of_tags.setdefault((row.tag, row.asset), _type_of(row))
    groups: dict[ValueType, list[Sample]] = {}
    for row in rows:
        known = types_of_tags.get((row.tag, row.asset), ValueType.DOUBLE)
        groups.setdefault(known if row.value is None else _type_of(row), []).append(row)
    return [_columns_of(of, group) for of, group in groups.items()]


def _type_of(sample: Sample) -> ValueType:
    if isinstance(sample.value, bool):
        return ValueType.BOOLEAN
    if isinstance(sample.value, int):
        return ValueType.INTEGER
    return ValueType.STRING if isinstance(sample.value, str) else ValueType.DOUBLE


def _columns_of(of: ValueType, rows: Sequence[Sample]) -> Columns:
    for row in rows:
        if not _INT64_MIN <= row.time <= _INT64_MAX:
            raise BatchError("time", f"{row.time} of tag {row.tag!r} is not within 64 bits of ns since 1970", row.time)
        if of is ValueType.INTEGER and row.value is not None and not _INT64_MIN <= int(row.value) <= _INT64_MAX:
            raise BatchError("value", f"{_shown(row.value)} of tag {row.tag!r} is not within 64 bits", row.value)
    index: dict[Series, int] = {}
    words: dict[str, int] = {}
    s = [index.setdefault(Series(r.tag, r.asset, r.unit, r.batch, r.extra), len(index)) for r in rows]
    status = [-1 - words.setdefault(r.status, len(words)) if isinstance(r.status, str) else r.status for r in rows]
    quality = np.array([r.quality for r in rows], dtype=np.uint8)
    null = np.array([r.value is None for r in rows], dtype=np.bool_)
    if of is ValueType.STRING:
        value: NDArray[Any] = np.empty(len(rows), dtype=object)
        value[:] = [r.value for r in rows]
    else:
        filler = np.nan if of is ValueType.DOUBLE else 0
        value = np.array([filler if r.value is None else r.value for r in rows], dtype=_DTYPES[of])
    return Columns(
        type=of,
        series=tuple(index),
        s=np.array(s, dtype=np.int32),
        t=np.array([r.time for r in rows], dtype=np.int64),
        value=value,
        quality=quality if quality.any() else None,
        status=np.array(status, dtype=np.int64) if any(status) else None,
        words=tuple(words),
        null=null if of in (ValueType.INTEGER, ValueType.BOOLEAN) and null.any() else None,
    )


# ------------------------------------------------------------------------------------------------------- data quality


def sanitize(columns: Columns) -> Columns:
    """Columns in which null stands only beside BAD or UNCERTAIN. The same object when there is nothing to do.

    NaN that calls itself GOOD and every ±Inf become null, BAD, `nan` (NaN beside another quality already is a null);
    other nulls that call themselves GOOD become UNCERTAIN; text that is not Unicode (a lone surrogate) becomes null,
    BAD, `not-unicode`. The native status of a sample that was BAD already is kept.
    """
    if columns.type is ValueType.DOUBLE:
        finite = np.isfinite(columns.value)
        if finite.all():
            return columns
        wrong = ~finite & (_is_good(columns) | np.isinf(columns.value))
        if not wrong.any():
            return columns
        return _degraded(replace(columns, value=np.where(wrong, np.nan, columns.value)), wrong, Quality.BAD, NAN)
    if columns.type is ValueType.STRING:
        columns = _without_surrogates(columns)
        null = np.array([text is None for text in columns.value], dtype=np.bool_)
    elif columns.null is None:
        return columns
    else:
        null = columns.null
    wrong = null & _is_good(columns)
    return _degraded(columns, wrong, Quality.UNCERTAIN, None) if wrong.any() else columns


def _is_good(columns: Columns) -> NDArray[np.bool_]:
    if columns.quality is None:
        return np.ones(len(columns), dtype=np.bool_)
    return np.equal(columns.quality, Quality.GOOD)


def _without_surrogates(columns: Columns) -> Columns:
    wrong = np.array([text is not None and not _is_unicode(text) for text in columns.value], dtype=np.bool_)
    if not wrong.any():
        return columns
    value = columns.value.copy()
    value[wrong] = None
    return _degraded(replace(columns, value=value), wrong, Quality.BAD, NOT_UNICODE)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _degraded(columns: Columns, where: NDArray[np.bool_], quality: Quality, word: str | None) -> Columns:
    """The columns with a worse quality at some places, and the word as their status unless they were BAD for a reason
    of their own."""
    size = len(columns)
    qualities = np.zeros(size, dtype=np.uint8) if columns.quality is None else columns.quality.copy()
    status, words = columns.status, columns.words
    if word is not None:
        if word not in words:
            words = (*words, word)
        status = np.zeros(size, dtype=np.int64) if status is None else status.copy()
        status[where & ~((qualities == Quality.BAD) & (status != 0))] = -1 - words.index(word)
    qualities[where] = np.maximum(qualities[where], np.uint8(quality))
    return replace(columns, quality=qualities, status=status, words=words)


def _emptied(columns: Columns, word: str) -> Columns:
    """The samples without their values: null, BAD, and the word as the reason."""
    size = len(columns)
    value: NDArray[Any] = np.zeros(size, dtype=columns.value.dtype)
    if columns.type is ValueType.DOUBLE:
        value.fill(np.nan)
    elif columns.type is ValueType.STRING:
        value.fill(None)
    return replace(
        columns,
        value=value,
        quality=np.full(size, Quality.BAD, dtype=np.uint8),
        status=np.full(size, -1, dtype=np.int64),
        words=(word,),
        null=np.ones(size, dtype=np.bool_) if columns.type in (ValueType.INTEGER, ValueType.BOOLEAN) else None,
    )


# -------------------------------------------------------------------------------------------------------- the payloads


@dataclass(frozen=True, slots=True)
class Header:
    """Which batch this is: number `seq` (from 1) of a stream within an epoch (12 hex characters)."""

    stream: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """A numbered batch of samples. A sample's id for readers is `<epoch>.<seq>.<index in batch>`."""

    header: Header
    columns: Columns


@dataclass(frozen=True, slots=True)
class EventBatch:
    """A numbered batch of events: alarms, gap records, audit. Each event is one JSON object."""

    header: Header
    events: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the producer of a stream holds: the numbers oldest to newest. Nothing yet: oldest 1, newest 0."""

    stream: str
    epoch: str
    oldest: int
    newest: int


class _Zstd(threading.local):
    """Compressors keep state and are not safe to share between threads: each thread has its own."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def encode(header: Header, columns: Columns, *, compress: bool = True) -> bytes:
    """The payload of one batch: JSON, or that as one zstd frame when it is smaller. The columns are sanitized.

    Raises BatchError when a tag or status is not Unicode, a quality is unknown or an index points beyond the series.
    """
    return _encode(header, sanitize(columns), compress)


def _encode(header: Header, columns: Columns, compress: bool) -> bytes:
    t0 = int(columns.t.min()) if len(columns) else 0
    body: dict[str, Any] = {
        "v": VERSION,
        "kind": "samples",
        "stream": header.stream,
        "epoch": header.epoch,
        "seq": header.seq,
        "type": columns.type.value,
        "series": [_series_entry(series) for series in columns.series],
        "s": np.ascontiguousarray(columns.s),
        "t0": t0,
        # The difference of two 64-bit times needs 64 bits without a sign: wrapping around is exact.
        "dt": (columns.t - t0).view(np.uint64),
        "value": _wire_values(columns),
    }
    if len(columns) and (columns.s.min() < 0 or columns.s.max() >= len(columns.series)):
        raise BatchError("s", f"index beyond the {len(columns.series)} series", int(columns.s.max()))
    if columns.quality is not None and columns.quality.any():
        if columns.quality.max() > Quality.BAD:
            raise BatchError("quality", f"{columns.quality.max()} is not 0, 1 or 2", int(columns.quality.max()))
        body["q"] = np.ascontiguousarray(columns.quality)
    if columns.status is not None and columns.status.any():
        body["status"] = columns.statuses() if columns.words else np.ascontiguousarray(columns.status)
    return _dumped(body, compress)


def _series_entry(series: Series) -> dict[str, str]:
    entry = {"tag": series.tag}
    if series.unit:
        entry["unit"] = series.unit
    if series.asset:
        entry["asset"] = series.asset
    if series.batch:
        entry["batch"] = series.batch
    if series.extra:
        entry.update(series.extra)
    return entry


def _wire_values(columns: Columns) -> Any:
    if columns.type is ValueType.STRING or columns.null is not None:
        return columns.values()
    return np.ascontiguousarray(columns.value)  # orjson writes NaN as null


def _dumped(body: Mapping[str, Any], compress: bool) -> bytes:
    try:
        raw = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise BatchError(str(body["kind"]), f"cannot be written as JSON: {error}") from error
    if not compress:
        return raw
    packed = _zstd.compress(raw)
    return packed if len(packed) < len(raw) else raw


def encode_events(header: Header, events: Sequence[Mapping[str, Any]], *, compress: bool = True) -> bytes:
    """The payload of a batch of events. Raises BatchError when one cannot be written as JSON."""
    return _dumped(_events_body(header, list(events)), compress)


def _events_body(header: Header, events: Sequence[Any]) -> dict[str, Any]:
    return {
        "v": VERSION,
        "kind": "events",
        "stream": header.stream,
        "epoch": header.epoch,
        "seq": header.seq,
        "events": events,
    }


def encode_announcement(announcement: Announcement) -> bytes:
    """The payload of an announcement: always plain JSON, it is small."""
    body = {
        "v": VERSION,
        "kind": "announce",
        "stream": announcement.stream,
        "epoch": announcement.epoch,
        "oldest": announcement.oldest,
        "newest": announcement.newest,
    }
    return _dumped(body, compress=False)


# ------------------------------------------------------------------------------------------------------------- cutting
#
# How many samples fit a frame is known only after encoding: it depends on how tags repeat and how well values compress.
# So a part is guessed, encoded and measured, and the encoded bytes are kept, for they are what is sent. The guess is in
# *weight*, about the bytes of a sample before compression (so that one long text does not spoil the guess for its
# neighbours), and comes from the bytes per weight of the part before:
#
#   the part fits      it is given out; if the guess limited it, its ratio makes the next guess, at most 4 times larger
#   it does not        its own ratio makes the next guess; if that fails again, halve
#   one sample alone   loses its value: null, BAD, `too-large`
#   even so too large  it is given out without payload: its tag and context alone are larger than a frame
#
# No sample is encoded more often than a constant: after a failure the guess at least halves every other time, after a
# success it at most quadruples. A part weighs at most 64 frames, so that what a reader unpacks stays bounded.

_SAMPLE_WEIGHT: Final = 24
_FIRST_RATIO: Final = 0.5
_FILL: Final = 0.96
_MAX_GROWTH: Final = 4.0
_MAX_EXPANSION: Final = 64


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of columns with its payload, numbered `seq`. No payload and number 0: it cannot be sent at all."""

    seq: int
    columns: Columns
    payload: bytes | None
    too_large: int = 0
    """How many samples lost their value because they alone exceed a frame: 0 or 1."""


class Cutter:
    """Cuts columns into encoded parts of at most max_bytes each; remembers how well the last ones compressed."""

    def __init__(self, max_bytes: int, *, compress: bool = True) -> None:
        self.max_bytes = max_bytes
        self.compress = compress
        self._ratios: dict[ValueType, float] = {}

    def parts(self, columns: Columns, header: Header) -> Iterator[Part]:
        """The columns in order, cut and encoded; parts are numbered from header.seq on."""
        columns = sanitize(columns)
        ends = _weights(columns)
        ratio = self._ratios.get(columns.type, _FIRST_RATIO)
        start, seq, size = 0, header.seq, len(columns)
        while start < size:
            base = int(ends[start - 1]) if start else 0
            failures, limit = 0, min(_FILL * self.max_bytes / ratio, _MAX_EXPANSION * self.max_bytes)
            stop = max(start + 1, int(np.searchsorted(ends, base + limit, side="right")))
            while True:
                part = columns.slice(start, stop)  # even of all: unused series take room
                weight = int(ends[stop - 1]) - base
                if weight > _MAX_EXPANSION * self.max_bytes:
                    break  # one sample alone, not worth encoding
                payload = _encode(Header(header.stream, header.epoch, seq), part, self.compress)
                if len(payload) <= self.max_bytes:
                    break
                failures += 1
                if stop - start == 1:
                    break
                ratio = len(payload) / weight
                half = start + (stop - start) // 2
                fitting = int(np.searchsorted(ends, base + _FILL * self.max_bytes / ratio, side="right"))
                stop = half if failures > 1 else max(start + 1, min(fitting, stop - 1))
            if weight > _MAX_EXPANSION * self.max_bytes or len(payload) > self.max_bytes:
                given = self._without_value(part, Header(header.stream, header.epoch, seq))
            else:
                given = Part(seq, part, payload)
                if stop < size or failures or len(payload) > self.max_bytes // 2:
                    ratio = max(len(payload) / weight, ratio / _MAX_GROWTH)
            yield given
            if given.payload is not None:
                seq += 1
            start = stop
        self._ratios[columns.type] = ratio

    def _without_value(self, sample: Columns, header: Header) -> Part:
        emptied = _emptied(sample, TOO_LARGE)
        payload = _encode(header, emptied, self.compress)
        if len(payload) > self.max_bytes:
            return Part(0, sample, None)
        return Part(header.seq, emptied, payload, too_large=1)


def _weights(columns: Columns) -> NDArray[np.int64]:
    """The running total of the samples' weights."""
    if columns.type is not ValueType.STRING:
        return np.arange(1, len(columns) + 1, dtype=np.int64) * _SAMPLE_WEIGHT
    lengths = [0 if text is None else len(text) for text in columns.value]
    return np.cumsum(np.array(lengths, dtype=np.int64) + _SAMPLE_WEIGHT)


def cut(columns: Columns, max_bytes: int, *, header_room: int = 256, compress: bool = True) -> list[Columns]:
    """The columns in parts that each encode to at most max_bytes, in order, none lost.

    header_room is what stream, epoch and number may take. A sample too large for a frame is null, BAD, `too-large` in
    its part. Raises BatchError when its tag and context alone are too large. To send the parts use Cutter: it encodes
    once.
    """
    parts = list(Cutter(max_bytes - header_room, compress=compress).parts(columns, Header("", "", 0)))
    for part in parts:
        if part.payload is None:
            series = part.columns.series[int(part.columns.s[0])]
            problem = f"tag {_shown(series.tag)} with its context exceeds a frame of {max_bytes} bytes"
            raise BatchError("series", problem, series.tag)
    return [part.columns for part in parts]


def cut_events(
    events: Iterable[Mapping[str, Any]], max_bytes: int, header: Header, *, compress: bool = True
) -> Iterator[tuple[int, bytes]]:
    """(number of events, payload) of at most max_bytes each, numbered from header.seq on.

    An event too large for a frame keeps those of its first members that fit, and says so: `"too_large": <its bytes>`.
    Raises BatchError when an event cannot be written as JSON.
    """
    # Cut by the size before compression: events are few, and a payload is then never larger than was counted.
    room = max_bytes - len(_dumped(_events_body(replace(header, seq=_INT64_MAX), []), compress=False))
    seq, group, used = header.seq, list[orjson.Fragment](), 0
    for event in events:
        text = _dumped_event(event)
        if len(text) > room:
            text = _shortened(event, len(text), room)
        if group and used + len(text) + 1 > room:
            yield len(group), _dumped(_events_body(replace(header, seq=seq), group), compress)
            seq, group, used = seq + 1, [], 0
        group.append(orjson.Fragment(text))
        used += len(text) + 1
    if group:
        yield len(group), _dumped(_events_body(replace(header, seq=seq), group), compress)


def _dumped_event(event: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(dict(event), option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise BatchError("events", f"cannot be written as JSON: {error}", _shown(event)) from error


def _shortened(event: Mapping[str, Any], size: int, room: int) -> bytes:
    kept: dict[str, Any] = {"too_large": size}
    for name, member in event.items():
        longer = {**kept, name: member}
        if len(_dumped_event({name: member})) <= room // 8 and len(_dumped_event(longer)) <= room:
            kept = longer
    return _dumped_event(kept)


# ------------------------------------------------------------------------------------------------------------ decoding


def decode(payload: bytes, *, max_bytes: int = MAX_DECODED_BYTES) -> SampleBatch | EventBatch | Announcement:
    """What a payload means. Raises BatchError, naming field and value, for anything that is not exactly a batch.

    Unknown members are ignored, so that a later release may add some.
    """
    try:
        body = orjson.loads(_raw(payload, max_bytes))
    except orjson.JSONDecodeError as error:
        raise BatchError("payload", f"not JSON: {error}; it starts with {_shown(bytes(payload[:20]))}") from error
    if type(body) is not dict:
        raise BatchError("payload", f"{_shown(body)} is not a JSON object", body)
    version = body.get("v")
    if type(version) is not int or version != VERSION:
        raise BatchError("v", f"{_shown(version)} is not the version this release reads, {VERSION}", version)
    kind = body.get("kind")
    reader = _KINDS.get(kind) if type(kind) is str else None
    if reader is None:
        raise BatchError("kind", f"{_shown(kind)} is none of {', '.join(_KINDS)}", kind)
    return reader(body)


def _raw(payload: bytes, max_bytes: int) -> bytes:
    if payload[:4] != _ZSTD_MAGIC:
        if len(payload) > max_bytes:
            raise BatchError("payload", f"{len(payload)} bytes, more than {max_bytes}", len(payload))
        return payload
    try:
        size = zstandard.frame_content_size(payload)
        if size > max_bytes:
            raise BatchError("payload", f"unpacks to {size} bytes, more than {max_bytes}", size)
        # An empty frame is then refused as JSON; one that hides its size is held to the limit while it unpacks.
        return _zstd.decompress(payload, max_output_size=max_bytes, allow_extra_data=False) if size else b""
    except zstandard.ZstdError as error:
        raise BatchError("payload", f"not one whole zstd frame of at most {max_bytes} bytes: {error}") from error


def _header(body: Mapping[str, Any]) -> Header:
    return Header(*_stream(body), _integer(body, "seq", 1, _INT64_MAX))


def _stream(body: Mapping[str, Any]) -> tuple[str, str]:
    stream, epoch = body.get("stream"), body.get("epoch")
    if type(stream) is not str or not STREAM_PATTERN.fullmatch(stream):
        raise BatchError("stream", f"{_shown(stream)} is not <producer>/<source>, with /backfill or /events", stream)
    if type(epoch) is not str or not EPOCH_PATTERN.fullmatch(epoch):
        raise BatchError("epoch", f"{_shown(epoch)} is not 12 hex characters", epoch)
    return stream, epoch


def _integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = body.get(name)
    if type(value) is not int or not low <= value <= high:
        raise BatchError(name, f"{_shown(value)} is not an integer from {low} to {high}", value)
    return value


def _read_samples(body: Mapping[str, Any]) -> SampleBatch:
    header = _header(body)
    name = body.get("type")
    of = _TYPES.get(name) if type(name) is str else None
    if of is None:
        raise BatchError("type", f"{_shown(name)} is none of {', '.join(_TYPES)}", name)
    series = _read_series(body)
    s = _read_s(body, len(series))
    size = len(s)
    quality = _read_quality(body, size)
    status, words = _read_status(body, size)
    value, null = _read_values(body, of, size)
    if null is not None:
        misplaced = null if quality is None else null & (quality == Quality.GOOD)
        if misplaced.any():
            raise BatchError(f"value[{int(misplaced.argmax())}]", "null with quality GOOD")
    columns = Columns(
        type=of,
        series=series,
        s=s,
        t=_read_times(body, size),
        value=value,
        quality=quality,
        status=status,
        words=words,
        null=null if of in (ValueType.INTEGER, ValueType.BOOLEAN) else None,
    )
    return SampleBatch(header, columns)


def _read_series(body: Mapping[str, Any]) -> tuple[Series, ...]:
    entries = body.get("series")
    if type(entries) is not list:
        raise BatchError("series", f"{_shown(entries)} is not a list", entries)
    series = []
    for i, entry in enumerate(entries):
        if type(entry) is not dict:
            raise BatchError(f"series[{i}]", f"{_shown(entry)} is not an object", entry)
        try:
            series.append(_series(tuple(entry.items())))
        except BatchError as error:
            raise BatchError(f"series[{i}].{error.field}", str(error).partition(": ")[2], error.value) from None
        except TypeError:  # a member that is a list or an object
            raise BatchError(f"series[{i}]", f"{_shown(entry)} has a member that is not a string", entry) from None
    return tuple(series)


@lru_cache(maxsize=16_384)
def _series(members: tuple[tuple[str, Any], ...]) -> Series:
    """The series of a JSON object. Remembered, because the same few come with every batch."""
    known = {"tag": "", "asset": "", "unit": "", "batch": ""}
    extra = []
    for name, text in members:
        if type(text) is not str:
            raise BatchError(name, f"{_shown(text)} is not a string", text)
        if name in known:
            known[name] = text
        else:
            extra.append((name, text))
    if not known["tag"]:
        raise BatchError("tag", "missing or empty")
    return Series(**known, extra=tuple(extra))


def _read_list(body: Mapping[str, Any], name: str, size: int | None, allowed: frozenset[type], meant: str) -> list[Any]:
    """The list of that name, of that size, with members of the allowed types alone (a bool is no int here)."""
    items = body.get(name)
    if type(items) is not list:
        raise BatchError(name, f"{_shown(items)} is not a list", items)
    if size is not None and len(items) != size:
        raise BatchError(name, f"has {len(items)} entries, but s has {size}", len(items))
    if not allowed.issuperset(map(type, items)):
        i = next(i for i, item in enumerate(items) if type(item) not in allowed)
        raise BatchError(f"{name}[{i}]", f"{_shown(items[i])} is not {meant}", items[i])
    return items


def _out_of_range(name: str, items: Sequence[Any], low: int, high: int, meant: str) -> BatchError:
    """The error that names the first item outside low to high."""
    i = next(i for i, item in enumerate(items) if type(item) is int and not low <= item <= high)
    return BatchError(f"{name}[{i}]", f"{_shown(items[i])} is not {meant}", items[i])


_INTEGERS: Final = frozenset({int})
_INTEGERS_AND_WORDS: Final = frozenset({int, str})
_MEMBERS: Final[Mapping[ValueType, tuple[frozenset[type], str]]] = {
    ValueType.DOUBLE: (frozenset({float, int, type(None)}), "a number or null"),
    ValueType.INTEGER: (frozenset({int, type(None)}), "an integer of 64 bits or null"),
    ValueType.BOOLEAN: (frozenset({bool, type(None)}), "true, false or null"),
    ValueType.STRING: (frozenset({str, type(None)}), "a string or null"),
}


def _read_s(body: Mapping[str, Any], series: int) -> NDArray[np.int32]:
    meant = f"an index into the {series} series"
    items = _read_list(body, "s", None, _INTEGERS, meant)
    try:
        s = np.array(items, dtype=np.int32)
    except OverflowError:
        raise _out_of_range("s", items, 0, series - 1, meant) from None
    if len(s) and (s.min() < 0 or s.max() >= series):
        raise _out_of_range("s", items, 0, series - 1, meant)
    return s


def _read_times(body: Mapping[str, Any], size: int) -> NDArray[np.int64]:
    t0 = _integer(body, "t0", _INT64_MIN, _INT64_MAX)
    room = _INT64_MAX - t0
    meant = f"0 to {room} ns after t0"
    items = _read_list(body, "dt", size, _INTEGERS, meant)
    try:
        dt = np.array(items, dtype=np.uint64)
    except OverflowError:
        raise _out_of_range("dt", items, 0, room, meant) from None
    if size and int(dt.max()) > room:
        raise _out_of_range("dt", items, 0, room, meant)
    return dt.view(np.int64) + t0


def _read_quality(body: Mapping[str, Any], size: int) -> NDArray[np.uint8] | None:
    if "q" not in body:
        return None
    meant = "0 (GOOD), 1 (UNCERTAIN) or 2 (BAD)"
    items = _read_list(body, "q", size, _INTEGERS, meant)
    try:
        quality = np.array(items, dtype=np.uint8)
    except OverflowError:
        raise _out_of_range("q", items, 0, 2, meant) from None
    if size and quality.max() > Quality.BAD:
        raise _out_of_range("q", items, 0, 2, meant)
    return quality if quality.any() else None


def _read_status(body: Mapping[str, Any], size: int) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if "status" not in body:
        return None, ()
    meant = "a status code of 64 bits, not negative, or a word"
    items = _read_list(body, "status", size, _INTEGERS_AND_WORDS, meant)
    try:
        numbers = np.array([item if type(item) is int else 0 for item in items], dtype=np.int64)
    except OverflowError:
        raise _out_of_range("status", items, 0, _INT64_MAX, meant) from None
    if size and numbers.min() < 0:
        raise _out_of_range("status", items, 0, _INT64_MAX, meant)
    words: dict[str, int] = {}
    for i, item in enumerate(items):
        if type(item) is str:
            numbers[i] = -1 - words.setdefault(item, len(words))
    return (numbers if numbers.any() else None), tuple(words)


def _read_values(body: Mapping[str, Any], of: ValueType, size: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The value column and where it is null (None: nowhere)."""
    allowed, meant = _MEMBERS[of]
    items = _read_list(body, "value", size, allowed, meant)
    null = np.array([item is None for item in items], dtype=np.bool_) if None in items else None
    if of is ValueType.STRING:
        value: NDArray[Any] = np.empty(size, dtype=object)
        value[:] = items
        return value, null
    if null is not None and of is not ValueType.DOUBLE:
        filled = [0 if item is None else item for item in items]
    else:
        filled = items
    try:
        return np.array(filled, dtype=_DTYPES[of]), null  # a null double becomes NaN by itself
    except OverflowError:
        raise _out_of_range("value", items, _INT64_MIN, _INT64_MAX, meant) from None


def _read_events(body: Mapping[str, Any]) -> EventBatch:
    header = _header(body)
    events = body.get("events")
    if type(events) is not list:
        raise BatchError("events", f"{_shown(events)} is not a list", events)
    for i, event in enumerate(events):
        if type(event) is not dict:
            raise BatchError(f"events[{i}]", f"{_shown(event)} is not an object", event)
    return EventBatch(header, tuple(events))


def _read_announcement(body: Mapping[str, Any]) -> Announcement:
    stream, epoch = _stream(body)
    newest = _integer(body, "newest", 0, _INT64_MAX)
    return Announcement(stream, epoch, _integer(body, "oldest", 1, min(newest + 1, _INT64_MAX)), newest)


_TYPES: Final[Mapping[str, ValueType]] = {of.value: of for of in ValueType}
_Reader = Callable[[Mapping[str, Any]], SampleBatch | EventBatch | Announcement]
_KINDS: Final[Mapping[str, _Reader]] = {
    "samples": _read_samples,
    "events": _read_events,
    "announce": _read_announcement,
}


def _shown(value: Any) -> str:
    """A value for an error text: one short line whatever it is, however deep or long."""
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."
