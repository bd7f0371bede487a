"""Cutting: columns and events into encoded parts that each fit a frame.

How many samples fit a frame is known only after encoding: it depends on how tags repeat and how well values compress.
So a part is guessed, encoded and measured, and the encoded bytes are kept, for they are what is sent. The guess is in
*weight*, about the bytes of a sample before compression (so that one long text does not spoil the guess for its
neighbours), and comes from the bytes per weight of the part before:

  the part fits      it is given out; if the guess limited it, its ratio makes the next guess, at most 4 times larger
  it does not        its own ratio makes the next guess; if that fails again, halve
  one sample alone   loses its value: null, BAD, `too-large`
  even so too large  it is given out without payload: its tag and context alone are larger than a frame

No sample is encoded more often than a constant: after a failure the guess at least halves every other time, after a
success it at most quadruples. A part weighs at most 64 frames, so that what a reader unpacks stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from sluice.batch import Header, encode_events, encode_sanitized
from sluice.columns import TOO_LARGE, BatchError, Columns, ValueType, emptied, sanitize, shown

_INT64_MAX: Final = 2**63 - 1
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
        start, seq = 0, header.seq
        while start < len(columns):
            part, start = self._next(columns, ends, start, Header(header.stream, header.epoch, seq))
            yield part
            if part.payload is not None:
                seq += 1

    def _next(self, columns: Columns, ends: NDArray[np.int64], start: int, header: Header) -> tuple[Part, int]:
        """The part that begins at start, and where it ends."""
        ratio = self._ratios.get(columns.type, _FIRST_RATIO)
        base = int(ends[start - 1]) if start else 0
        heaviest = _MAX_EXPANSION * self.max_bytes

        def end(weight: float) -> int:
            return max(start + 1, int(np.searchsorted(ends, base + weight, side="right")))

        stop, failures = end(min(_FILL * self.max_bytes / ratio, heaviest)), 0
        while True:
            part = columns.slice(start, stop)  # even of all: unused series take room
            weight = int(ends[stop - 1]) - base
            payload = None if weight > heaviest else encode_sanitized(header, part, self.compress)
            if payload is not None and len(payload) <= self.max_bytes:
                break
            if payload is None or stop == start + 1:
                return self._without_value(part, header), stop
            ratio, failures = len(payload) / weight, failures + 1
            half = start + (stop - start) // 2
            stop = half if failures > 1 else min(end(_FILL * self.max_bytes / ratio), stop - 1)
        if stop < len(columns) or failures or len(payload) > self.max_bytes // 2:  # the rest alone teaches nothing
            self._ratios[columns.type] = max(len(payload) / weight, ratio / _MAX_GROWTH)
        return Part(header.seq, part, payload), stop

    def _without_value(self, sample: Columns, header: Header) -> Part:
        without = emptied(sample, TOO_LARGE)
        payload = encode_sanitized(header, without, self.compress)
        if len(payload) > self.max_bytes:
            return Part(0, sample, None)
        return Part(header.seq, without, payload, too_large=1)


def _weights(columns: Columns) -> NDArray[np.int64]:
    """The running total of the samples' weights."""
    if columns.type is not ValueType.STRING:
        return np.arange(1, len(columns) + 1, dtype=np.int64) * _SAMPLE_WEIGHT
    texts = columns.value.tolist()
    try:
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    except TypeError:  # some are missing
        lengths = np.array([0 if text is None else len(text) for text in texts], dtype=np.int64)
    return np.cumsum(lengths + _SAMPLE_WEIGHT)


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
            problem = f"tag {shown(series.tag)} with its context exceeds a frame of {max_bytes} bytes"
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
    room = max_bytes - len(encode_events(replace(header, seq=_INT64_MAX), [], compress=False))
    seq, group, used = header.seq, list[orjson.Fragment](), 0
    for event in events:
        text = _dumped_event(event)
        if len(text) > room:
            text = _shortened(event, len(text), room)
        if group and used + len(text) + 1 > room:
            yield len(group), encode_events(replace(header, seq=seq), group, compress=compress)
            seq, group, used = seq + 1, [], 0
        group.append(orjson.Fragment(text))
        used += len(text) + 1
    if group:
        yield len(group), encode_events(replace(header, seq=seq), group, compress=compress)


def _dumped_event(event: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(dict(event), option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise BatchError("events", f"cannot be written as JSON: {error}", shown(event)) from error


def _shortened(event: Mapping[str, Any], size: int, room: int) -> bytes:
    kept: dict[str, Any] = {"too_large": size}
    for name, member in event.items():
        longer = {**kept, name: member}
        if len(_dumped_event({name: member})) <= room // 8 and len(_dumped_event(longer)) <= room:
            kept = longer
    return _dumped_event(kept)
