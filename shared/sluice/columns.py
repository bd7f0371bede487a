"""Samples as columns: the data model that everything in Sluice shares.

A *sample* is (tag, time, value, quality) with the source's native status beside it. `Columns` are samples of one value
type, column by column, and the way in which they travel through a component: never one object per sample. Null is
legal only with quality BAD or UNCERTAIN; `sanitize` sees to it.

Errors:

    ValueError
    └── BatchError      columns that do not agree, or a payload (`sluice.batch`) that is none; names field and value
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

NAN: Final = "nan"
TOO_LARGE: Final = "too-large"
NOT_UNICODE: Final = "not-unicode"

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


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
    text: bytes = field(default=b"", init=False, repr=False, compare=False)
    """As JSON, once `written`: it goes into every batch with a sample of the tag."""

    def written(self) -> bytes:
        """Its entry in a batch, as JSON. Raises TypeError for what is not Unicode."""
        entry = {"tag": self.tag}
        for name in ("unit", "asset", "batch"):
            if member := getattr(self, name):
                entry[name] = member
        entry.update(self.extra)
        # A copy: what orjson gives is the shrunk rest of a kilobyte, which leaves holes in the memory for as long.
        object.__setattr__(self, "text", b"%b" % orjson.dumps(entry))
        return self.text


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


DTYPES: Final[Mapping[ValueType, np.dtype[Any]]] = {
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
            ("value", self.value, DTYPES[self.type]),
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
            raise BatchError("value", f"{shown(row.value)} of tag {row.tag!r} is not within 64 bits", row.value)
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
        value = np.array([filler if r.value is None else r.value for r in rows], dtype=DTYPES[of])
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
        if _is_unicode_throughout(columns.value):
            return columns
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


def _is_unicode_throughout(texts: NDArray[Any]) -> bool:
    """Whether each is a text, none is missing, and all are Unicode: found out without a look at each."""
    try:
        return _is_unicode("".join(texts.tolist()))
    except TypeError:
        return False


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


def emptied(columns: Columns, word: str) -> Columns:
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


def shown(value: Any) -> str:
    """A value for an error text: one short line whatever it is, however deep or long."""
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."
