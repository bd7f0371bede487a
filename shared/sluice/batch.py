"""Batches: the wire form of samples, events and announcements.

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

Columns themselves are in `sluice.columns`, and can be imported from here too; `sluice.cutting` cuts them to the frame
size before they are encoded.

Errors: BatchError, a ValueError, for a payload that is not a batch or columns that cannot become one; it names the
field and the value.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from sluice.columns import (
    DTYPES,
    NAN,
    NOT_UNICODE,
    TOO_LARGE,
    BatchError,
    Columns,
    Quality,
    Sample,
    Series,
    ValueType,
    from_samples,
    sanitize,
    shown,
)

__all__ = [
    "CLASSIC_MAX_MESSAGE_BYTES",
    "EPOCH_PATTERN",
    "LITE_MAX_MESSAGE_BYTES",
    "MAX_DECODED_BYTES",
    "NAN",
    "NOT_UNICODE",
    "STREAM_PATTERN",
    "TOO_LARGE",
    "VERSION",
    "Announcement",
    "BatchError",
    "Columns",
    "EventBatch",
    "Header",
    "Quality",
    "Sample",
    "SampleBatch",
    "Series",
    "ValueType",
    "decode",
    "encode",
    "encode_announcement",
    "encode_events",
    "encode_sanitized",
    "from_samples",
    "sanitize",
]

VERSION: Final = 1
LITE_MAX_MESSAGE_BYTES: Final = 7_000
"""Nucleus lite closes the whole connection above 7,299 bytes of binary message, less for long topics."""
CLASSIC_MAX_MESSAGE_BYTES: Final = 120_000
MAX_DECODED_BYTES: Final = 16 * 1024 * 1024
"""What a payload may decompress to before it is refused."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
STREAM_PATTERN: Final = re.compile(rf"{_NAME}/{_NAME}(/backfill|/events)?", re.ASCII)
EPOCH_PATTERN: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_LEVEL: Final = 1  # on batches level 3 takes twice the time for 1 % fewer bytes


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
    return encode_sanitized(header, sanitize(columns), compress)


def encode_sanitized(header: Header, columns: Columns, compress: bool) -> bytes:
    """The same for columns that are known to be sanitized."""
    t0 = int(columns.t.min()) if len(columns) else 0
    body: dict[str, Any] = {
        "v": VERSION,
        "kind": "samples",
        "stream": header.stream,
        "epoch": header.epoch,
        "seq": header.seq,
        "type": columns.type.value,
        "series": _series_list(columns.series),
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


class _Lists(threading.local):
    """The lists of series that were written last: batch after batch of a source has the very same ones."""

    def __init__(self) -> None:
        self.written: deque[tuple[tuple[Series, ...], orjson.Fragment]] = deque(maxlen=4)


_lists = _Lists()


def _series_list(series: tuple[Series, ...]) -> orjson.Fragment:
    for known, fragment in _lists.written:
        if known is series:
            return fragment
    try:
        fragment = orjson.Fragment(b"[%b]" % b",".join([one.text or one.written() for one in series]))
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise BatchError("samples", f"cannot be written as JSON: {error}") from error
    _lists.written.append((series, fragment))
    return fragment


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


def encode_events(
    header: Header, events: Sequence[Mapping[str, Any] | orjson.Fragment], *, compress: bool = True
) -> bytes:
    """The payload of a batch of events, or of what is written as JSON already. Raises BatchError when one cannot be."""
    body = {
        "v": VERSION,
        "kind": "events",
        "stream": header.stream,
        "epoch": header.epoch,
        "seq": header.seq,
        "events": list(events),
    }
    return _dumped(body, compress)


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


def decode(payload: bytes, *, max_bytes: int = MAX_DECODED_BYTES) -> SampleBatch | EventBatch | Announcement:
    """What a payload means. Raises BatchError, naming field and value, for anything that is not exactly a batch.

    Unknown members are ignored, so that a later release may add some.
    """
    try:
        body = orjson.loads(_raw(payload, max_bytes))
    except orjson.JSONDecodeError as error:
        raise BatchError("payload", f"not JSON: {error}; it starts with {shown(bytes(payload[:20]))}") from error
    if type(body) is not dict:
        raise BatchError("payload", f"{shown(body)} is not a JSON object", body)
    version = body.get("v")
    if type(version) is not int or version != VERSION:
        raise BatchError("v", f"{shown(version)} is not the version this release reads, {VERSION}", version)
    kind = body.get("kind")
    reader = _KINDS.get(kind) if type(kind) is str else None
    if reader is None:
        raise BatchError("kind", f"{shown(kind)} is none of {', '.join(_KINDS)}", kind)
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
        raise BatchError("stream", f"{shown(stream)} is not <producer>/<source>, with /backfill or /events", stream)
    if type(epoch) is not str or not EPOCH_PATTERN.fullmatch(epoch):
        raise BatchError("epoch", f"{shown(epoch)} is not 12 hex characters", epoch)
    return stream, epoch


def _integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = body.get(name)
    if type(value) is not int or not low <= value <= high:
        raise BatchError(name, f"{shown(value)} is not an integer from {low} to {high}", value)
    return value


def _read_samples(body: Mapping[str, Any]) -> SampleBatch:
    header = _header(body)
    name = body.get("type")
    of = _TYPES.get(name) if type(name) is str else None
    if of is None:
        raise BatchError("type", f"{shown(name)} is none of {', '.join(_TYPES)}", name)
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
        raise BatchError("series", f"{shown(entries)} is not a list", entries)
    series = []
    for i, entry in enumerate(entries):
        if type(entry) is not dict:
            raise BatchError(f"series[{i}]", f"{shown(entry)} is not an object", entry)
        try:
            series.append(_series(tuple(entry.items())))
        except BatchError as error:
            raise BatchError(f"series[{i}].{error.field}", str(error).partition(": ")[2], error.value) from None
        except TypeError:  # a member that is a list or an object
            raise BatchError(f"series[{i}]", f"{shown(entry)} has a member that is not a string", entry) from None
    return tuple(series)


@lru_cache(maxsize=16_384)
def _series(members: tuple[tuple[str, Any], ...]) -> Series:
    """The series of a JSON object. Remembered, because the same few come with every batch."""
    known = {"tag": "", "asset": "", "unit": "", "batch": ""}
    extra = []
    for name, text in members:
        if type(text) is not str:
            raise BatchError(name, f"{shown(text)} is not a string", text)
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
        raise BatchError(name, f"{shown(items)} is not a list", items)
    if size is not None and len(items) != size:
        raise BatchError(name, f"has {len(items)} entries, but s has {size}", len(items))
    if not allowed.issuperset(map(type, items)):
        i = next(i for i, item in enumerate(items) if type(item) not in allowed)
        raise BatchError(f"{name}[{i}]", f"{shown(items[i])} is not {meant}", items[i])
    return items


def _out_of_range(name: str, items: Sequence[Any], low: int, high: int, meant: str) -> BatchError:
    """The error that names the first item outside low to high."""
    i = next(i for i, item in enumerate(items) if type(item) is int and not low <= item <= high)
    return BatchError(f"{name}[{i}]", f"{shown(items[i])} is not {meant}", items[i])


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
    value: NDArray[Any]
    if of is ValueType.DOUBLE:
        value = np.array(items, dtype=np.float64)  # null becomes NaN, and nothing else does: JSON has no NaN
        nan = np.isnan(value)
        return value, nan if nan.any() else None
    null = np.array([item is None for item in items], dtype=np.bool_) if None in items else None
    if of is ValueType.STRING:
        value = np.empty(size, dtype=object)
        value[:] = items
        return value, null
    try:
        filled = items if null is None else [0 if item is None else item for item in items]
        return np.array(filled, dtype=DTYPES[of]), null
    except OverflowError:
        raise _out_of_range("value", items, _INT64_MIN, _INT64_MAX, meant) from None


def _read_events(body: Mapping[str, Any]) -> EventBatch:
    header = _header(body)
    events = body.get("events")
    if type(events) is not list:
        raise BatchError("events", f"{shown(events)} is not a list", events)
    for i, event in enumerate(events):
        if type(event) is not dict:
            raise BatchError(f"events[{i}]", f"{shown(event)} is not an object", event)
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
