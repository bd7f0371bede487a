"""Samples as AWS IoT SiteWise's PutAssetPropertyValueEntry, one entry per message of the stream.

A message that SiteWise refuses costs the other values of its request, so everything SiteWise would refuse is decided
here, before the append, and counted by reason (`REMEDIES` says what to do about each):

- at most 10 values per entry (BatchPutAssetPropertyValue's limit), all of one property;
- `propertyAlias` of 1 to 2,048 characters, none of them a control character;
- a time from 7 days ago to 10 minutes ahead, both inclusive, at the decision time;
- a string of at most 1,024 bytes without control characters, an integer of 32 bits;
- no null: whether stream manager passes `nullValue` on is not documented, so it is written only when asked for;
- no two values of one property with the same time and quality in a range: the later one counts, as in SiteWise,
  where it would overwrite the earlier.

The entries are written here and not by the SDK's model classes, which refuse negative integers and empty strings,
write NaN as invalid JSON, and cost twenty times as much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sluice.batch import Columns, SampleBatch, Series, ValueType
from stream_exporter.destinations import MAX_ALIAS_CHARACTERS, Integers, alias_fields
from stream_exporter.json_text import QUALITY_NAMES, null_mask, number_texts, value_texts
from stream_exporter.messages import Encoded, Message

VALUES_PER_ENTRY = 10
MAX_STRING_BYTES = 1024
OLDEST_NS = 7 * 24 * 3600 * 1_000_000_000
NEWEST_NS = 10 * 60 * 1_000_000_000

#: Aliases that are kept rendered; more distinct ones than this are rendered again.
CACHED_ALIASES = 50_000

#: Why a sample is not exported, and what to do about it.
REMEDIES: Mapping[str, str] = {
    "alias": "SiteWise takes aliases of 1 to 2,048 characters without control characters: change the tag's name, its "
    "asset path or the sink's `alias`",
    "too-old": "SiteWise takes values of the last 7 days: check the source's clock, or use an S3 sink for history",
    "too-new": "SiteWise takes values at most 10 minutes ahead: check the clocks of the source and of this device",
    "null": "SiteWise is not sent nulls: set the sink's `nulls: send` if the stream manager in use passes nullValue on",
    "integer-range": "SiteWise's integers have 32 bits: set `integers: double`, and the property's data type to DOUBLE",
    "string-too-long": "SiteWise takes strings of at most 1,024 bytes",
    "string-control": "SiteWise takes strings without control characters",
    "repeat": "a value came twice, with the same time and quality: it was sent once",
    "superseded": "SiteWise keeps one value per property, time and quality: the later one was sent. Give each tag an "
    "alias of its own, or have the source stamp each change with its time; an S3 or Kinesis sink gets them all",
}

_REASONS = tuple(REMEDIES)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENTRY_ID_SAFE = re.compile(r"[^a-zA-Z0-9_-]")
_VARIANTS: Mapping[ValueType, bytes] = {
    ValueType.DOUBLE: b"doubleValue",
    ValueType.INTEGER: b"integerValue",
    ValueType.BOOLEAN: b"booleanValue",
    ValueType.STRING: b"stringValue",
}
_RAW_TYPES: Mapping[ValueType, bytes] = {
    ValueType.DOUBLE: b"D",
    ValueType.INTEGER: b"I",
    ValueType.BOOLEAN: b"B",
    ValueType.STRING: b"S",
}
_TAILS = tuple(b'},"quality":"%s"}' % name.encode("ascii") for name in QUALITY_NAMES)


@dataclass(frozen=True, slots=True)
class SiteWiseRules:
    """What the engineer decides about SiteWise entries."""

    alias: str = "{asset}/{tag}"
    integers: Integers = Integers.INTEGER
    send_nulls: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """What is left of one batch after the filters: columns of equal length."""

    alias: NDArray[np.int32]
    time: NDArray[np.int64]
    quality: NDArray[np.uint8]
    texts: list[bytes]  # `"doubleValue":1.5`


class SiteWiseEncoder:
    """Encodes ranges as entries. Satisfies messages.Encoder."""

    def __init__(self, rules: SiteWiseRules) -> None:
        alias_fields(rules.alias)
        self._rules = rules
        self._aliases: dict[tuple[str, Series], bytes | None] = {}

    def encode(self, batches: Sequence[SampleBatch], now_ns: int) -> Encoded:
        """Entries of the range, property by property, values in order of time."""
        if not batches:
            return Encoded(())
        account = _Account()
        rendered: dict[bytes, int] = {}
        parts = [part for batch in batches if (part := self._filter(batch, rendered, now_ns, account)) is not None]
        header = batches[0].header
        identity = b"%s-%d" % (_ENTRY_ID_SAFE.sub("_", header.epoch)[:32].encode("ascii"), header.seq)
        messages = tuple(_entries(parts, list(rendered), identity, account))
        return Encoded(messages, account.filtered, account.examples)

    def _filter(self, batch: SampleBatch, rendered: dict[bytes, int], now_ns: int, account: _Account) -> _Part | None:
        columns = batch.columns
        if not len(columns):
            return None
        aliases = self._alias_numbers(batch, rendered)
        reasons = _Reasons(len(columns))
        if (aliases < 0).any():
            reasons.add("alias", (aliases < 0)[columns.s])
        oldest = max(now_ns - OLDEST_NS, 1_000_000_000)  # timeInSeconds begins at 1
        if columns.t.min() < oldest:
            reasons.add("too-old", columns.t < oldest)
        if columns.t.max() > now_ns + NEWEST_NS:
            reasons.add("too-new", columns.t > now_ns + NEWEST_NS)
        nulls = null_mask(columns)
        if not self._rules.send_nulls and nulls.any():
            reasons.add("null", nulls)
        if columns.type is ValueType.INTEGER and self._rules.integers is Integers.INTEGER:
            reasons.add("integer-range", (columns.value != columns.value.astype(np.int32)) & ~nulls)
        elif columns.type is ValueType.STRING:
            _check_strings(columns, reasons)
        keep = account.charge(reasons, batch)
        quality = columns.quality if columns.quality is not None else np.zeros(len(columns), dtype=np.uint8)
        texts = self._variants(columns, nulls)
        alias = aliases[columns.s]
        if keep is None:
            return _Part(alias, columns.t, quality, texts)
        return _Part(alias[keep], columns.t[keep], quality[keep], [texts[i] for i in np.flatnonzero(keep).tolist()])

    def _alias_numbers(self, batch: SampleBatch, rendered: dict[bytes, int]) -> NDArray[np.int32]:
        """The number of each series' alias in `rendered` (grows); -1 where the alias cannot be one."""
        source = batch.header.stream
        numbers = []
        for series in batch.columns.series:
            key = (source, series)
            if key in self._aliases:
                alias = self._aliases[key]
            else:
                if len(self._aliases) >= CACHED_ALIASES:
                    self._aliases.clear()
                alias = self._aliases[key] = self._alias(source, series)
            numbers.append(-1 if alias is None else rendered.setdefault(alias, len(rendered)))
        return np.array(numbers, dtype=np.int32)

    def _alias(self, stream: str, series: Series) -> bytes | None:
        alias = self._rules.alias.format(
            asset=series.asset, tag=series.tag, unit=series.unit, source=stream.partition("/")[2]
        )
        if not 1 <= len(alias) <= MAX_ALIAS_CHARACTERS or _CONTROL.search(alias):
            return None
        return orjson.dumps(alias)

    def _variants(self, columns: Columns, nulls: NDArray[np.bool_]) -> list[bytes]:
        kind = columns.type
        if kind is ValueType.INTEGER and self._rules.integers is Integers.DOUBLE:
            kind = ValueType.DOUBLE
            texts = number_texts(columns.value.astype(np.float64))
        else:
            texts = value_texts(columns)
        name = b'"%s":' % _VARIANTS[kind]
        texts = [name + text for text in texts]
        if self._rules.send_nulls:
            null = b'"nullValue":{"valueType":"%s"}' % _RAW_TYPES[kind]
            for index in np.flatnonzero(nulls).tolist():
                texts[index] = null
        return texts


class _Reasons:
    """The first reason, per sample, not to export it; 255 where there is none."""

    NONE = 255

    def __init__(self, count: int) -> None:
        self.count = count
        self.codes: NDArray[np.uint8] | None = None

    def add(self, reason: str, mask: NDArray[np.bool_]) -> None:
        if self.codes is None:
            self.codes = np.full(self.count, self.NONE, dtype=np.uint8)
        self.codes[mask & (self.codes == self.NONE)] = _REASONS.index(reason)


class _Account:
    """Counts what is filtered, and keeps one example per reason."""

    def __init__(self) -> None:
        self.filtered: dict[str, int] = {}
        self.examples: dict[str, str] = {}

    def charge(self, reasons: _Reasons, batch: SampleBatch) -> NDArray[np.bool_] | None:
        """Which samples to keep: a mask, or None for all."""
        codes = reasons.codes
        if codes is None:
            return None
        keep: NDArray[np.bool_] = codes == _Reasons.NONE
        for code in np.unique(codes[~keep]).tolist():
            found = np.flatnonzero(codes == code)
            reason = _REASONS[code]
            self.filtered[reason] = self.filtered.get(reason, 0) + len(found)
            self.examples.setdefault(reason, _describe(batch, int(found[0])))
        return keep

    def repeats(self, pairs: Sequence[tuple[bytes, int, bytes, bytes]]) -> None:
        """Count samples that a later one of the range replaces: (alias, time, text, later text) each."""
        for alias, time, text, later in pairs:
            reason = "repeat" if text == later else "superseded"
            self.filtered[reason] = self.filtered.get(reason, 0) + 1
            if reason not in self.examples:
                moment, shown = np.datetime64(time, "ns"), [t[:80].decode("utf-8", "replace") for t in (text, later)]
                self.examples[reason] = f"{alias[:200].decode()} at {moment}Z: {shown[0]}, then {shown[1]}"


def _describe(batch: SampleBatch, index: int) -> str:
    columns = batch.columns
    series = columns.series[int(columns.s[index])]
    time = str(np.datetime64(int(columns.t[index]), "ns"))
    return f"{batch.header.stream}: {series.tag[:100]!r} at {time}Z, value {str(columns.value[index])[:60]!r}"


def _check_strings(columns: Columns, reasons: _Reasons) -> None:
    values = columns.value.tolist()
    too_long = [value is not None and len(value.encode()) > MAX_STRING_BYTES for value in values]
    control = [value is not None and _CONTROL.search(value) is not None for value in values]
    if any(too_long):
        reasons.add("string-too-long", np.array(too_long))
    if any(control):
        reasons.add("string-control", np.array(control))


def _entries(parts: Sequence[_Part], aliases: Sequence[bytes], identity: bytes, account: _Account) -> Iterator[Message]:
    if not sum(len(part.texts) for part in parts):
        return
    alias = np.concatenate([part.alias for part in parts])
    time = np.concatenate([part.time for part in parts])
    quality = np.concatenate([part.quality for part in parts])
    texts: Sequence[bytes] = [text for part in parts for text in part.texts]

    order = np.lexsort((quality, time, alias))  # stable: of equal ones the later sample comes last
    alias, time, quality = alias[order], time[order], quality[order]
    repeated = (alias[1:] == alias[:-1]) & (time[1:] == time[:-1]) & (quality[1:] == quality[:-1])
    if repeated.any():
        account.repeats(
            [
                (aliases[alias[i]], int(time[i]), texts[order[i]], texts[order[i + 1]])
                for i in np.flatnonzero(repeated).tolist()
            ]
        )
        keep = np.append(~repeated, True)
        order, alias, time, quality = order[keep], alias[keep], time[keep], quality[keep]

    starts = _entry_starts(alias)
    yield from _written(
        starts, _heads(alias, starts, aliases, identity), [texts[i] for i in order.tolist()], time, quality
    )


def _entry_starts(alias: NDArray[np.int32]) -> NDArray[np.intp]:
    """Where entries start: at each new property, and every tenth value of one."""
    count = len(alias)
    new = np.append(True, alias[1:] != alias[:-1])
    runs = np.flatnonzero(new)
    position = np.arange(count) - np.repeat(runs, np.diff(np.append(runs, count)))
    return np.flatnonzero(position % VALUES_PER_ENTRY == 0)


def _heads(
    alias: NDArray[np.int32], starts: NDArray[np.intp], aliases: Sequence[bytes], identity: bytes
) -> list[bytes]:
    """What stands before each value's variant."""
    heads = [b',{"value":{'] * len(alias)
    for number, (start, name) in enumerate(zip(starts.tolist(), alias[starts].tolist(), strict=True)):
        heads[start] = b'\n{"entryId":"%s-%d","propertyAlias":%s,"propertyValues":[{"value":{' % (
            identity,
            number,
            aliases[name],
        )
    return heads


def _written(
    starts: NDArray[np.intp],
    heads: list[bytes],
    texts: list[bytes],
    time: NDArray[np.int64],
    quality: NDArray[np.uint8],
) -> Iterator[Message]:
    count = len(texts)
    seconds = time // 1_000_000_000
    distinct, inverse = np.unique(seconds, return_inverse=True)
    middles = [b'},"timestamp":{"timeInSeconds":%d,"offsetInNanos":' % second for second in distinct.tolist()]
    pieces: list[Any] = [b""] * (5 * count)
    pieces[0::5] = heads
    pieces[1::5] = texts
    pieces[2::5] = [middles[i] for i in inverse.tolist()]
    pieces[3::5] = number_texts(time - seconds * 1_000_000_000)
    pieces[4::5] = [_TAILS[i] for i in quality.tolist()]
    ends = np.append(starts[1:], count)
    for last in (ends * 5 - 1).tolist():
        pieces[last] += b"]}"
    # JSON text has no raw line end, so one join and one split make all messages.
    entries = b"".join(pieces).split(b"\n")[1:]
    for payload, samples in zip(entries, (ends - starts).tolist(), strict=True):
        yield Message(payload, samples)
