"""Decoded notifications -> columns of samples. Pure.

A tag has one type for ever, fixed from its node's data type when it is subscribed (`Rule`): a value of another
type becomes null, BAD, `type-mismatch`, and is counted. An unsigned 64-bit value that int64 cannot hold becomes null,
BAD, `out-of-range`.

Two kinds of first notification of a new monitored item are no samples and are filtered, counted: the promise of a value
to come (BadWaitingForInitialData), and the repetition of what was already handed on before the item was made again. So
is what history has brought before it came live. What was handed on last is known over the component's end (`restore`);
of that, time and status tell a repetition.

The assembler tells `gaps` what comes: where samples are missing before one, and where a hole ends.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opcua_collector.gaps import Gaps
from opcua_collector.marks import ANY_STATUS, Mark, Marks
from opcua_collector.notifications import BOOLEAN, INTEGERS, NULL, REALS, UINT64, Block, Publication
from opcua_collector.quality import OVERFLOW, WAITING_FOR_INITIAL_DATA, overflows, quality_of
from sluice.batch import Columns, Quality, Series, ValueType, sanitize

TYPE_MISMATCH: Final = "type-mismatch"
OUT_OF_RANGE: Final = "out-of-range"
_WORDS: Final = (TYPE_MISMATCH, OUT_OF_RANGE)
_MISMATCH, _RANGE = -1, -2  # status: place in _WORDS, counted -1, -2


class Rule(IntEnum):
    """How the values of a tag are typed."""

    DOUBLE = 0
    INTEGER = 1
    BOOLEAN = 2
    STRING = 3
    NUMBER = 4  # data type Number: any numeric value, as double


TYPE_OF_RULE: Final = {
    Rule.DOUBLE: ValueType.DOUBLE,
    Rule.INTEGER: ValueType.INTEGER,
    Rule.BOOLEAN: ValueType.BOOLEAN,
    Rule.STRING: ValueType.STRING,
    Rule.NUMBER: ValueType.DOUBLE,
}

_NATIVE: Final[dict[ValueType, Any]] = {
    ValueType.DOUBLE: np.float64,
    ValueType.INTEGER: np.int64,
    ValueType.BOOLEAN: np.bool_,
    ValueType.STRING: object,
}
_NOTHING: Final[dict[ValueType, Any]] = {  # what stands in the value column where there is no value
    ValueType.DOUBLE: np.nan,
    ValueType.INTEGER: 0,
    ValueType.BOOLEAN: False,
    ValueType.STRING: None,
}
_UNKNOWN: Final = -1
_NEVER: Final = -(2**63)
_BAD: Final = 0x80000000
_LARGEST: Final = np.uint64(np.iinfo(np.int64).max)


def rule_of_family(family: int) -> Rule:
    """The rule that values of this family satisfy."""
    if family in REALS:
        return Rule.DOUBLE
    if family in INTEGERS or family == UINT64:
        return Rule.INTEGER
    return Rule.BOOLEAN if family == BOOLEAN else Rule.STRING


@dataclass(slots=True)
class Counts:
    """Since the start of the connection."""

    received: int = 0
    filtered: int = 0
    unknown: int = 0  # notifications of items that were deleted meanwhile: filtered too
    type_mismatch: int = 0
    out_of_range: int = 0
    overflows: int = 0  # samples that say the server's queue ran over
    untimed: int = 0  # samples without a usable source time
    undecodable: int = 0
    lost: int = 0  # items of damaged messages that could not even be told apart


@dataclass(slots=True)
class _Part:
    """Rows on their way into columns of one type."""

    index: NDArray[np.int64]
    handle: NDArray[np.int64]
    value: NDArray[Any]
    null: NDArray[np.bool_]
    status: NDArray[np.int64]  # < 0: a word of ours
    time: NDArray[np.int64]

    def rows(self, rows: Any) -> _Part:
        return _Part(
            self.index[rows], self.handle[rows], self.value[rows], self.null[rows], self.status[rows], self.time[rows]
        )


class Assembler:
    """Knows what each client handle stands for; turns publications into columns."""

    def __init__(self, gaps: Gaps | None = None) -> None:
        self.counts = Counts()
        self.gaps = Gaps() if gaps is None else gaps
        self.gaps.mark_of = self._mark_of
        self.gaps.all_marks = self._all_marks
        self.parked: dict[str, Mark] = {}
        """Marks of an earlier run of tags that have no handle yet."""
        self._series: list[Series | None] = []
        self._rule: NDArray[np.int8] = np.empty(0, np.int8)
        self._fresh: NDArray[np.bool_] = np.empty(0, bool)
        self._latest: NDArray[np.int64] = np.empty(0, np.int64)  # time of the last sample handed on,
        self._latest_status: NDArray[np.int64] = np.empty(0, np.int64)  # its status,
        self._latest_mark: NDArray[np.int64] = np.empty(0, np.int64)  # and 64 bits that tell its value from others
        self._restored: NDArray[np.bool_] = np.empty(0, bool)  # handed on by an earlier run: these are not known
        self._any_fresh = False
        self._seen: dict[ValueType, tuple[bytes, tuple[Series, ...]]] = {}

    @property
    def handles(self) -> int:
        """Client handles are below this."""
        return len(self._series)

    def restore(self, marks: Marks, tags: Container[str]) -> None:
        """Go on from what an earlier run has handed on of these tags. Before the first `add`."""
        self.parked = {tag: mark for tag, mark in marks.of.items() if tag in tags}
        self.gaps.keep(tags)

    def add(self, series: Series, handle: int | None = None) -> int:
        """A new tag, whose type is not known yet; returns its client handle: the next one, or the given, a free one."""
        if handle is None:
            handle = len(self._series)
        self._series += [None] * (handle + 1 - len(self._series))
        self._series[handle] = series
        if handle >= len(self._rule):
            room = max(64, 2 * handle)
            self._rule = _grown(self._rule, room, _UNKNOWN)
            self._fresh = _grown(self._fresh, room, False)
            self._latest = _grown(self._latest, room, _NEVER)
            self._latest_status = _grown(self._latest_status, room, 0)
            self._latest_mark = _grown(self._latest_mark, room, 0)
            self._restored = _grown(self._restored, room, False)
        mark = self.parked.pop(series.tag, None)
        if mark is not None:
            self._latest[handle], self._latest_status[handle] = mark.time, mark.status
            # Whether the first notification of the present item came before the end is not known.
            self._restored[handle] = self._fresh[handle] = self._any_fresh = True
        self.gaps.add(handle, series.tag)
        return handle

    def marks(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Handle, time and status of the last sample handed on, of each tag that has one."""
        handles = np.flatnonzero(self._latest[: len(self._series)] != _NEVER)
        return handles, self._latest[handles], self._latest_status[handles]

    def _mark_of(self, handle: int) -> int | None:
        time = int(self._latest[handle])
        return None if time == _NEVER else time

    def _all_marks(self) -> Iterator[tuple[str, int]]:
        for handle, series in enumerate(self._series):
            mark = self._mark_of(handle)
            if series is not None and mark is not None:
                yield series.tag, mark
        yield from ((tag, mark.time) for tag, mark in self.parked.items())

    def series(self, handle: int) -> Series | None:
        """What the handle stands for."""
        return self._series[handle]

    def relabel(self, handle: int, series: Series) -> None:
        """Another context (unit, asset) from now on."""
        if self._series[handle] != series:
            self._series[handle] = series
            self._seen.clear()

    def fix(self, handle: int, rule: Rule) -> None:
        """The tag's type, as its node says at this subscription."""
        self._rule[handle] = rule

    def remove(self, handle: int) -> None:
        """The tag is gone: what still arrives for it is filtered."""
        self.gaps.remove(handle)
        self._series[handle] = None
        self._rule[handle] = _UNKNOWN
        self._latest[handle] = _NEVER
        self._seen.clear()

    def another(self, handle: int) -> int:
        """The tag goes on with a new client handle, which is returned; what still arrives for this one is filtered."""
        series, rule = self._series[handle], self._rule[handle]
        assert series is not None
        time, status = self._latest[handle], self._latest_status[handle]
        mark, restored = self._latest_mark[handle], self._restored[handle]
        self.gaps.leave(handle)
        self.remove(handle)
        new = self.add(series)
        self._rule[new] = rule
        self._latest[new], self._latest_status[new] = time, status
        self._latest_mark[new], self._restored[new] = mark, restored
        return new

    def subscribed(self, handle: int) -> None:
        """The item was created (again): its first notification may repeat what is known."""
        self._fresh[handle] = True
        self._any_fresh = True

    def columns(self, publication: Publication) -> list[Columns]:
        """The samples of one message, by type, in the message's order inside a type."""
        self.counts.undecodable += len(publication.quarantined)
        self.counts.lost += publication.lost
        self.counts.untimed += publication.untimed
        overflowed = 0
        for block in publication.blocks:
            self.counts.received += len(block)
            overflowed += overflows(block.status)
        self.counts.overflows += overflowed
        found = []
        for type_, some in self._typed(publication.blocks):
            part = self._new(some, bool(overflowed))
            if len(part.index):
                found.append(sanitize(self._columns(type_, part)))
        return found

    def brought(self, blocks: Iterable[Block]) -> list[Columns]:
        """The same for samples from history, which are neither live nor the last of their tags."""
        return [sanitize(self._columns(type_, part)) for type_, part in self._typed(blocks) if len(part.index)]

    def _typed(self, blocks: Iterable[Block]) -> list[tuple[ValueType, _Part]]:
        parts: dict[ValueType, list[_Part]] = {}
        for block in blocks:
            if len(block):
                for type_, part in self._parts(block):
                    parts.setdefault(type_, []).append(part)
        return [(type_, _joined(some)) for type_, some in parts.items()]

    def _parts(self, block: Block) -> Iterator[tuple[ValueType, _Part]]:
        handle = block.handle
        known = handle < len(self._rule)
        rules = self._rule[handle] if known.all() else np.where(known, self._rule[np.where(known, handle, 0)], _UNKNOWN)
        home = None if block.family == NULL else rule_of_family(block.family)
        first = int(rules[0])
        uniform = bool((rules == first).all())
        for rule in [first] if uniform else np.unique(rules).tolist():
            rows: Any = slice(None) if uniform else rules == rule
            if rule == _UNKNOWN:
                lost = len(handle[rows])
                self.counts.unknown += lost
                self.counts.filtered += lost
                continue
            type_ = TYPE_OF_RULE[Rule(rule)]
            part = _part(type_, block, rows)
            if home is not None and rule != home and not (rule == Rule.NUMBER and home <= Rule.INTEGER):
                self.counts.type_mismatch += len(part.index)
                part.null[:] = True
                part.status[:] = _MISMATCH
            elif block.family == UINT64 and rule == Rule.INTEGER and block.value is not None:
                beyond = block.value[rows] > _LARGEST
                if beyond.any():
                    self.counts.out_of_range += int(np.count_nonzero(beyond))
                    part.null |= beyond
                    part.status[beyond] = _RANGE
            yield type_, part

    def _new(self, part: _Part, overflowed: bool) -> _Part:
        """What is no repetition; from now on it has been handed on."""
        part = self._without_brought(part)
        marks = _marks(part.value)
        if self._any_fresh:
            part, marks = self._first_checked(part, marks)
        if overflowed:
            self._tell_lost(part)
        else:
            self.gaps.passed(part.handle, part.time)
        self._latest[part.handle] = part.time
        self._latest_status[part.handle] = part.status
        self._latest_mark[part.handle] = marks
        self._restored[part.handle] = False
        return part

    def _without_brought(self, part: _Part) -> _Part:
        """Without what history has brought before."""
        repeats = self.gaps.repeats(part.handle, part.time)
        if repeats is None:
            return part
        for row in np.flatnonzero(repeats).tolist():
            handle, time = int(part.handle[row]), int(part.time[row])
            if self._fresh[handle]:
                self._fresh[handle] = False
                if self.gaps.is_last(handle, time):
                    self.gaps.unchanged(handle)
        self.counts.filtered += int(np.count_nonzero(repeats))
        return part.rows(~repeats)

    def _tell_lost(self, part: _Part) -> None:
        """Tells where the server dropped samples before one; a tag's rows in their order."""
        flagged = (part.status >= 0) & ((part.status & OVERFLOW) == OVERFLOW)
        concerned = np.isin(part.handle, part.handle[flagged])
        before: dict[int, int | None] = {}
        for row in np.flatnonzero(concerned).tolist():
            handle, time = int(part.handle[row]), int(part.time[row])
            if flagged[row]:
                self.gaps.lost(handle, before[handle] if handle in before else self._mark_of(handle), time)
            else:
                self.gaps.passed(part.handle[row : row + 1], part.time[row : row + 1])
            before[handle] = time
        self.gaps.passed(part.handle[~concerned], part.time[~concerned])

    def _first_checked(self, part: _Part, marks: NDArray[np.int64]) -> tuple[_Part, NDArray[np.int64]]:
        fresh = np.flatnonzero(self._fresh[part.handle])
        if len(fresh):
            handles, first = np.unique(part.handle[fresh], return_index=True)
            rows = fresh[first]
            waiting = (part.status[rows] & 0xFFFF0000) == WAITING_FOR_INITIAL_DATA
            waiting &= part.status[rows] >= 0
            # A server may change a value or its quality and leave the time: only what is the same in all is a repeat.
            known = part.time[rows] == self._latest[handles]
            latest = self._latest_status[handles]
            # Overflow belongs to the queue in which the value waited, not to the value.
            known &= (part.status[rows] & ~OVERFLOW == latest & ~OVERFLOW) | (latest == ANY_STATUS)
            known &= (marks[rows] == self._latest_mark[handles]) | self._restored[handles]
            for handle in handles[known].tolist():
                self.gaps.unchanged(handle)
            drop = rows[waiting | known]
            self._fresh[handles] = False
            self._any_fresh = bool(self._fresh.any())
            if len(drop):
                self.counts.filtered += len(drop)
                keep = np.ones(len(part.index), bool)
                keep[drop] = False
                return part.rows(keep), marks[keep]
        return part, marks

    def _columns(self, type_: ValueType, part: _Part) -> Columns:
        s, series = self._dictionary(type_, part.handle)
        quality = quality_of(np.where(part.status < 0, _BAD, part.status).astype(np.uint32))
        value, null = part.value, part.null
        any_null = bool(null.any())
        if any_null:
            value[null] = _NOTHING[type_]
            if quality is None:
                quality = np.zeros(len(null), np.uint8)
            quality[null & (quality == Quality.GOOD)] = Quality.UNCERTAIN  # null is legal only when it is not good
        status = part.status if part.status.any() else None
        words = _WORDS if status is not None and bool((status < 0).any()) else ()
        masked = any_null and type_ in (ValueType.INTEGER, ValueType.BOOLEAN)
        return Columns(type_, series, s, part.time, value, quality, status, words, null if masked else None)

    def _dictionary(self, type_: ValueType, handle: NDArray[np.int64]) -> tuple[NDArray[np.int32], tuple[Series, ...]]:
        """Index into the series that occur, and these; remembered, because the next message brings the same ones."""
        used = np.zeros(len(self._rule), bool)
        used[handle] = True
        handles = np.flatnonzero(used)
        place = np.empty(len(self._rule), np.int32)
        place[handles] = np.arange(len(handles), dtype=np.int32)
        mark = handles.tobytes()
        seen = self._seen.get(type_)
        if seen is None or seen[0] != mark:
            found = tuple(series for series in map(self._series.__getitem__, handles.tolist()) if series is not None)
            seen = self._seen[type_] = (mark, found)
        return place[handle], seen[1]


def _marks(value: NDArray[Any]) -> NDArray[np.int64]:
    """64 bits per value that differ when the values do."""
    if value.dtype == object:
        return np.fromiter(map(hash, value), np.int64, len(value))
    return value.view(np.int64) if value.itemsize == 8 else value.astype(np.int64)


def _grown(column: NDArray[Any], size: int, filling: Any) -> NDArray[Any]:
    grown: NDArray[Any] = np.full(size, filling, column.dtype)
    grown[: len(column)] = column
    return grown


def _part(type_: ValueType, block: Block, rows: Any) -> _Part:
    """Rows of a block in the form of `type_`; what cannot have that form is overwritten by the caller's rules."""
    index = block.index[rows]
    form = _NATIVE[type_]
    if block.value is None:
        value: NDArray[Any] = np.full(len(index), _NOTHING[type_], form)
        null: NDArray[np.bool_] = np.ones(len(index), bool)
    else:
        raw = block.value[rows]
        if raw.dtype == object:
            null = np.fromiter((value is None for value in raw), bool, len(raw))
        else:
            null = np.zeros(len(index), bool)
        if (raw.dtype == object) == (form is object):
            with np.errstate(invalid="ignore"):  # a NaN where the tag is an integer: it becomes null, type-mismatch
                value = raw.astype(form)  # a copy: nulls are written into it
        else:
            value = np.full(len(index), _NOTHING[type_], form)
    return _Part(index, block.handle[rows], value, null, block.status[rows].astype(np.int64), block.time[rows])


def _joined(parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    index = np.concatenate([part.index for part in parts])
    order = np.argsort(index, kind="stable")
    return _Part(
        index[order],
        np.concatenate([part.handle for part in parts])[order],
        np.concatenate([part.value for part in parts])[order],
        np.concatenate([part.null for part in parts])[order],
        np.concatenate([part.status for part in parts])[order],
        np.concatenate([part.time for part in parts])[order],
    )
