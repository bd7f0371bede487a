"""Samples as JSON lines, the form in which Kinesis and S3 get them: one sample per line.

    {"tag":"Unit1/XMEAS01_AFeed","asset":"site/area/line1","unit":"kscmh","time":"2026-01-31T12:00:00.250000000Z",
     "time_ns":1769860800250000000,"value":0.25052,"quality":"GOOD","id":"9f2c51aa07be.1042.7"}

(one line in reality, ended by a newline). `tag`, `time`, `time_ns`, `value`, `quality` and `id` are always there;
`asset`, `unit`, `batch` and what else travels with a series are left out when empty, `status` (the source's native
status: a number, or a word) when there is none. `value` is null where the source had none. `id` is
`<epoch>.<number of the batch>.<index in the batch>`: a reader drops repeats by it.

Lines may travel as gzip members (RFC 1952), each of whole lines. Members may follow one another: what reads gzip files
reads them as one. A reader of both forms tells them apart by the first two bytes, 1f 8b; a line begins with `{`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from sluice.batch import Columns, SampleBatch, Series
from stream_exporter.json_text import QUALITY_NAMES, value_texts, write_digits
from stream_exporter.messages import Message

#: Names of a line that a series' own extra context cannot take.
RESERVED = frozenset({"tag", "asset", "unit", "batch", "time", "time_ns", "value", "quality", "status", "id"})

#: Series whose prefix is kept; more distinct ones than this are rendered again.
CACHED_SERIES = 50_000

#: Lines of 200 bytes become 14, at a cost below that of making them. Higher levels cost twice as much for a tenth less.
GZIP_LEVEL = 3

#: What a member may be larger than lines that cannot be made smaller (zlib's deflateBound: 18 bytes, and 5 per 16 KB).
GZIP_OVERHEAD = 1024

_GZIP_FORMAT = 31  # zlib's name for a gzip header and trailer, with the largest window; no name and no time in it

_TEN_DIGIT_SECONDS = 1_000_000_000  # from 2001-09-09 on, seconds since 1970 have ten digits
_TIME_TEMPLATE = '"time":"%s.000000000Z","time_ns":%d000000000,"value":'
_FRACTION = slice(28, 37)
_NANOSECONDS = slice(60, 69)
_TEMPLATE_WIDTH = 78

_ENDS = [b'%d"}\n' % index for index in range(4096)]


class LineEncoder:
    """Encodes batches as lines; keeps the constant start of each series' lines (a cache: it never changes a result)."""

    def __init__(self) -> None:
        self._prefixes: dict[Series, bytes] = {}

    def encode(self, batch: SampleBatch) -> bytes:
        """The lines of one batch, in the order of its samples."""
        columns = batch.columns
        count = len(columns)
        if not count:
            return b""
        prefixes = [self._prefix(series) for series in columns.series]
        pieces: list[bytes] = [b""] * (5 * count)
        pieces[0::5] = [prefixes[index] for index in columns.s.tolist()]
        pieces[1::5] = _time_pieces(columns.t)
        pieces[2::5] = value_texts(columns)
        pieces[3::5] = _tails(batch)
        pieces[4::5] = _ENDS[:count] if count <= len(_ENDS) else [b'%d"}\n' % index for index in range(count)]
        return b"".join(pieces)

    def _prefix(self, series: Series) -> bytes:
        prefix = self._prefixes.get(series)
        if prefix is None:
            if len(self._prefixes) >= CACHED_SERIES:
                self._prefixes.clear()
            prefix = self._prefixes[series] = _series_prefix(series)
        return prefix


def cut_lines(lines: bytes, target: int, limit: int) -> tuple[list[Message], int]:
    """Cut lines into messages of whole lines, each at most `target` bytes; a longer line is a message of its own.

    Lines longer than `limit` bytes are left out; their number is the second result.
    """
    messages: list[Message] = []
    too_large = 0
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + target) + 1
        if not end:
            end = lines.index(b"\n", start) + 1
            if end - start > limit:
                too_large += 1
                start = end
                continue
        messages.append(Message(lines[start:end], lines.count(b"\n", start, end)))
        start = end
    return messages, too_large


def gzip_member(lines: bytes) -> bytes:
    """The lines as one gzip member; the same lines always become the same bytes."""
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    return compressor.compress(lines) + compressor.flush()


def _series_prefix(series: Series) -> bytes:
    extra = [(name, value) for name, value in series.extra if name not in RESERVED]
    context = [("asset", series.asset), ("unit", series.unit), ("batch", series.batch), *extra]
    fields = {"tag": series.tag, **{name: value for name, value in context if value}}
    return orjson.dumps(fields)[:-1] + b","


def _time_pieces(times: NDArray[np.int64]) -> Sequence[bytes]:
    seconds = times // 1_000_000_000
    if seconds.min() < _TEN_DIGIT_SECONDS:
        return [_time_piece(time) for time in times.tolist()]
    distinct, inverse = np.unique(seconds, return_inverse=True)
    templates = b"".join((_TIME_TEMPLATE % (_calendar(second), second)).encode("ascii") for second in distinct.tolist())
    rows = np.frombuffer(templates, dtype=np.uint8).reshape(len(distinct), _TEMPLATE_WIDTH)[inverse]
    nanoseconds = times - seconds * 1_000_000_000
    write_digits(rows[:, _FRACTION], nanoseconds)
    rows[:, _NANOSECONDS] = rows[:, _FRACTION]
    pieces: list[bytes] = rows.view(f"S{_TEMPLATE_WIDTH}").ravel().tolist()
    return pieces


def _time_piece(time: int) -> bytes:
    second, nanosecond = divmod(time, 1_000_000_000)
    return b'"time":"%s.%09dZ","time_ns":%d,"value":' % (_calendar(second).encode("ascii"), nanosecond, time)


def _calendar(second: int) -> str:
    return str(np.datetime64(second, "s"))


def _tails(batch: SampleBatch) -> Sequence[bytes]:
    columns = batch.columns
    identity = b',"id":"%s.%d.' % (orjson.dumps(batch.header.epoch)[1:-1], batch.header.seq)
    if columns.quality is None and columns.status is None:
        return [_tail(0, 0, columns, identity)] * len(columns)
    qualities = [0] * len(columns) if columns.quality is None else columns.quality.tolist()
    statuses = [0] * len(columns) if columns.status is None else columns.status.tolist()
    tails = {pair: _tail(*pair, columns, identity) for pair in set(zip(qualities, statuses, strict=True))}
    return [tails[pair] for pair in zip(qualities, statuses, strict=True)]


def _tail(quality: int, status: int, columns: Columns, identity: bytes) -> bytes:
    tail = b',"quality":"%s"' % QUALITY_NAMES[quality].encode("ascii")
    if status:
        native = columns.words[-status - 1] if status < 0 else status
        tail += b',"status":' + orjson.dumps(native)
    return tail + identity
