"""Decoded notifications -> columns of samples. Pure.

A tag has one type for ever, fixed from its node's data type when it is subscribed (`typed.Typing`): a value of another
type becomes null, BAD, `type-mismatch`, and is counted; so are values out of the type's range and structures that
contradict their definition.

Two kinds of first notification of a new monitored item are no samples and are filtered, counted: the promise of a value
to come (BadWaitingForInitialData), and the repetition of what was already handed on before the item was made again. So
is what history has brought before it came live. What was handed on last is known over the component's end (`restore`);
of that, time and status tell a repetition.

The assembler tells `gaps` what comes: where samples are missing before one, and where a hole ends.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opcua_collector.history.gaps import Gaps
from opcua_collector.history.marks import ANY_STATUS, Mark, Marks
from opcua_collector.types.typed import (
    HEARTBEAT_CODE,
    MISMATCH_CODE,
    NAN_CODE,
    NATIVE,
    RANGE_CODE,
    UNDECODABLE_CODE,
    WORDS,
    Converter,
    Typing,
)
from opcua_collector.types.typed import Rule as Rule
from opcua_collector.values.deadband import Deadband, Rows
from opcua_collector.values.notifications import Block, Publication
from opcua_collector.values.quality import OVERFLOW, WAITING_FOR_INITIAL_DATA, overflows, quality_of
from sluice.batch import Columns, Quality, Series, ValueType, sanitize

_UNKNOWN: Final = -1
_NEVER: Final = -(2**63)
_BAD: Final = 0x80000000
_LONGEST: Final = 200  # characters of a text that are remembered for those who ask
#: Info bits of a status: what is known of the node, or of its type, is not true any more (Part 8, 5.2; Part 4, 7.39).
_CHANGED: Final = 0xC000


@dataclass(slots=True)
class Counts:
    """Since the start of the connection."""

    received: int = 0
    filtered: int = 0
    unknown: int = 0  # notifications of items that were deleted meanwhile: filtered too
    type_mismatch: int = 0
    out_of_range: int = 0
    overflows: int = 0  # samples that say the server's queue ran over
    untimed: int = 0  # samples without a usable source time; server time where that is wanted
    from_server: int = 0  # samples that have the server's time
    deadband: int = 0  # samples that changed too little: filtered too
    undecodable: int = 0  # items that could not be read, structures that contradict their definition
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
        self.server_time = False
        """Whether a sample has the server's time before the source's; set by the connection."""
        self.arrived: NDArray[np.int64] = np.zeros(0, np.int64)
        """By handle: when something came of it last, kept or filtered (monotonic ns); 0: nothing yet."""
        self.changed: set[int] = set()
        """Handles of which the server says that unit, range or type may be others now; who looks empties it."""
        self._series: list[Series | None] = []
        self._converters: list[Converter] = []
        self._places: dict[Typing, int] = {}
        self._typing: NDArray[np.int32] = np.empty(0, np.int32)  # by handle: place among the converters
        self._deadband = Deadband()
        self._parked_bits: dict[str, int] = {}
        self._fresh: NDArray[np.bool_] = np.empty(0, bool)
        self._latest: NDArray[np.int64] = np.empty(0, np.int64)  # time of the last sample handed on,
        self._latest_status: NDArray[np.int64] = np.empty(0, np.int64)  # its status,
        self._latest_mark: NDArray[np.int64] = np.empty(0, np.int64)  # and 64 bits that tell its value from others
        self._latest_null: NDArray[np.bool_] = np.empty(0, bool)
        self._latest_text: NDArray[Any] = np.empty(0, object)  # the value itself, of tags that are texts
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
        if handle >= len(self._typing):
            room = max(64, 2 * handle)
            self.arrived = _grown(self.arrived, room, 0)
            self._typing = _grown(self._typing, room, _UNKNOWN)
            self._fresh = _grown(self._fresh, room, False)
            self._latest = _grown(self._latest, room, _NEVER)
            self._latest_status = _grown(self._latest_status, room, 0)
            self._latest_mark = _grown(self._latest_mark, room, 0)
            self._latest_null = _grown(self._latest_null, room, False)
            self._latest_text = _grown(self._latest_text, room, None)
            self._restored = _grown(self._restored, room, False)
        self.arrived[handle] = 0
        mark = self.parked.pop(series.tag, None)
        bits = self._parked_bits.pop(series.tag, None)
        if mark is not None:
            self._latest[handle], self._latest_status[handle] = mark.time, mark.status
            # Whether the first notification of the present item came before the end is not known.
            self._restored[handle] = bits is None
            self._fresh[handle] = self._any_fresh = True
            self._latest_mark[handle] = bits or 0
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

    def fix(self, handle: int, typing: Typing | Rule) -> None:
        """How the tag's values are typed, as its node says at this subscription; a rule alone is enough where it is."""
        known = Typing(typing) if isinstance(typing, Rule) else typing
        place = self._places.get(known)
        if place is None:
            place = self._places[known] = len(self._converters)
            self._converters.append(Converter(known))
        self._typing[handle] = place

    def filter(self, handle: int, width: float | None) -> None:
        """From now on a number is handed on only when it is further than `width` from the last one; None: each is."""
        self._deadband.set(handle, width)

    def last(self, handle: int) -> tuple[int, Any, int | str] | None:
        """Time, value and status of the last sample that came; a value that is not known any more is None."""
        if not 0 <= handle < len(self._series) or self._latest[handle] == _NEVER:
            return None
        status = int(self._latest_status[handle])
        shown: int | str = 0 if status == ANY_STATUS else WORDS[-1 - status] if status < 0 else status
        return int(self._latest[handle]), self._last_value(handle), shown

    def _last_value(self, handle: int) -> Any:
        if self._restored[handle] or self._typing[handle] == _UNKNOWN:
            return None
        type_ = self._converters[self._typing[handle]].type
        if type_ is ValueType.STRING:
            return self._latest_text[handle]
        bits = self._latest_mark[handle : handle + 1]
        if type_ is ValueType.DOUBLE:
            number = float(bits.view(np.float64)[0])
            return number if np.isfinite(number) else None
        if self._latest_status[handle] < 0 or self._latest_null[handle]:
            return None
        return bool(bits[0]) if type_ is ValueType.BOOLEAN else int(bits[0])

    def park(self, handle: int) -> None:
        """The tag goes on under another handle later, of the next `add`; what still arrives for this one is filtered.

        What was handed on last and what it lacks stay known.
        """
        series = self._series[handle]
        assert series is not None
        if self._latest[handle] != _NEVER:
            status = int(self._latest_status[handle])
            self.parked[series.tag] = Mark(int(self._latest[handle]), ANY_STATUS if status < 0 else status)
            if not self._restored[handle] and status >= 0:
                self._parked_bits[series.tag] = int(self._latest_mark[handle])
        self.gaps.leave(handle)
        self.remove(handle)

    def keep(self, tags: Container[str]) -> None:
        """Forget what is known of tags that have no handle and are not wanted any more."""
        for tag in [tag for tag in self.parked if tag not in tags]:
            del self.parked[tag]
            self._parked_bits.pop(tag, None)
        self.gaps.keep(tags)

    def remove(self, handle: int) -> None:
        """The tag is gone: what still arrives for it is filtered."""
        self.gaps.remove(handle)
        self._series[handle] = None
        self._typing[handle] = _UNKNOWN
        self._latest[handle] = _NEVER
        self._latest_text[handle] = None
        self._deadband.set(handle, None)
        self.changed.discard(handle)
        self._seen.clear()

    def another(self, handle: int) -> int:
        """The tag goes on with a new client handle, which is returned; what still arrives for this one is filtered."""
        series, typing = self._series[handle], self._typing[handle]
        assert series is not None
        width = self._deadband.width(handle)
        time, status = self._latest[handle], self._latest_status[handle]
        mark, restored = self._latest_mark[handle], self._restored[handle]
        text, null = self._latest_text[handle], self._latest_null[handle]
        self.gaps.leave(handle)
        self.remove(handle)
        new = self.add(series)
        self._typing[new] = typing
        self._deadband.set(new, width)
        self._latest_text[new], self._latest_null[new] = text, null
        self._latest[new], self._latest_status[new] = time, status
        self._latest_mark[new], self._restored[new] = mark, restored
        return new

    def subscribed(self, handle: int) -> None:
        """The item was created (again): its first notification may repeat what is known."""
        self._fresh[handle] = True
        self._any_fresh = True

    def columns(self, publication: Publication, now: int = 0) -> list[Columns]:
        """The samples of one message, by type, in the message's order inside a type. `now`: monotonic ns."""
        self.counts.undecodable += len(publication.quarantined)
        self.counts.lost += publication.lost
        self.counts.untimed += publication.untimed
        self.counts.from_server += publication.from_server
        overflowed = 0
        for block in publication.blocks:
            self.counts.received += len(block)
            overflowed += overflows(block.status)
            self._note(block, now)
        self.counts.overflows += overflowed
        found = []
        for type_, some in self._typed(publication.blocks):
            part = self._new(type_, some, bool(overflowed))
            if len(part.index):
                found.append(sanitize(self._columns(type_, part)))
        return found

    def beats(self, blocks: Iterable[Block]) -> list[Columns]:
        """Heartbeats: what a server says of silent tags. They are no news: neither the last of their tags nor live.

        Each has the status `heartbeat`, whatever its value is: by that a replay of the outbox knows them.
        """
        found = []
        for type_, part in self._typed(blocks):
            if type_ is ValueType.DOUBLE:
                nowhere = ~np.isfinite(part.value) & ~part.null
                part.null |= nowhere
                part.status[nowhere] = NAN_CODE
            columns = self._columns(type_, part)
            status = np.full(len(part.index), HEARTBEAT_CODE, np.int64)
            found.append(sanitize(replace(columns, status=status, words=WORDS)))
        return found

    def latest(self, handles: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of the last sample that came of each; below 0: none is known."""
        return self._latest[handles]

    def again(self, handles: NDArray[np.int64]) -> None:
        """What comes next of these may repeat what is known."""
        if len(handles):
            self._fresh[handles] = True
            self._any_fresh = True

    def brought(self, blocks: Iterable[Block]) -> list[Columns]:
        """The same for samples from history, which are neither live nor the last of their tags."""
        found = []
        for type_, some in self._typed(blocks):
            part = self._apart(type_, some, None)
            if len(part.index):
                found.append(sanitize(self._columns(type_, part)))
        return found

    def _note(self, block: Block, now: int) -> None:
        """What there is to know of a message beside its samples."""
        handle = block.handle
        changed = (block.status & _CHANGED) != 0
        if changed.any():
            self.changed.update(one for one in handle[changed].tolist() if 0 <= one < len(self._series))
        if now:
            known = handle < len(self.arrived)
            self.arrived[handle if known.all() else handle[known]] = now

    def _typed(self, blocks: Iterable[Block]) -> list[tuple[ValueType, _Part]]:
        parts: dict[ValueType, list[_Part]] = {}
        for block in blocks:
            if len(block):
                for type_, part in self._parts(block):
                    parts.setdefault(type_, []).append(part)
        return [(type_, _joined(some)) for type_, some in parts.items()]

    def _parts(self, block: Block) -> Iterator[tuple[ValueType, _Part]]:
        handle = block.handle
        known = handle < len(self._typing)
        if known.all():
            places = self._typing[handle]
        else:
            places = np.full(len(handle), _UNKNOWN, self._typing.dtype)
            places[known] = self._typing[handle[known]]
        first = int(places[0])
        uniform = bool((places == first).all())
        for place in [first] if uniform else np.unique(places).tolist():
            rows: Any = slice(None) if uniform else places == place
            if place == _UNKNOWN:
                lost = len(handle[rows])
                self.counts.unknown += lost
                self.counts.filtered += lost
                continue
            converter = self._converters[place]
            index = block.index[rows]
            raw = None if block.value is None else block.value[rows]
            made = converter.convert(block.family, raw, len(index))
            status = block.status[rows].astype(np.int64)
            if made.status is not None:
                self._count(made.status)
                status = np.where(made.status != 0, made.status, status)
            yield converter.type, _Part(index, handle[rows], made.value, made.null, status, block.time[rows])

    def _count(self, codes: NDArray[np.int64]) -> None:
        """Of words in the place of statuses."""
        self.counts.type_mismatch += int(np.count_nonzero(codes == MISMATCH_CODE))
        self.counts.out_of_range += int(np.count_nonzero(codes == RANGE_CODE))
        self.counts.undecodable += int(np.count_nonzero(codes == UNDECODABLE_CODE))

    def _new(self, type_: ValueType, part: _Part, overflowed: bool) -> _Part:
        """What is no repetition and no small change; from now on it has been handed on."""
        part = self._without_brought(part)
        marks = _marks(part.value)
        if self._any_fresh:
            part, marks = self._first_checked(part, marks)
        ends = self._tell_lost(part) if overflowed else self.gaps.passed(part.handle, part.time)
        self._latest[part.handle] = part.time
        self._latest_status[part.handle] = part.status
        self._latest_mark[part.handle] = marks
        self._restored[part.handle] = False
        if type_ is ValueType.STRING:
            self._latest_text[part.handle] = _shortened(part.value)
        elif type_ is not ValueType.DOUBLE:
            self._latest_null[part.handle] = part.null
        if not self._deadband.any:
            return part
        return self._apart(type_, part, ends)

    def _apart(self, type_: ValueType, part: _Part, ends: Sequence[int] | None) -> _Part:
        """Without changes that are too small; with what had been held back before a change of quality.

        ends: rows that end a hole, which are never held back: in the outbox they say where what is read back ends, so
        that a restart does not have it read again. None: the rows are of history.
        """
        if not self._deadband.any or type_ not in (ValueType.DOUBLE, ValueType.INTEGER):
            return part
        concerned = np.flatnonzero(self._deadband.concerned(part.handle))
        if not len(concerned):
            return part
        some = part.rows(concerned)
        rows = Rows(some.handle, some.value, some.null, some.status, some.time)
        keep = np.ones(len(part.index), bool)
        if ends is None:
            keep[concerned] = self._deadband.past(rows)
            self._held_back(len(keep) - int(np.count_nonzero(keep)))
            return part.rows(keep)
        verdict = self._deadband.live(rows, np.isin(concerned, ends) if ends else None)
        keep[concerned] = verdict.keep
        self._held_back(len(keep) - int(np.count_nonzero(keep)) - len(verdict.at))
        left = part.rows(keep)
        if not len(verdict.at):
            return left
        old = verdict.released
        earlier = _Part(some.index[verdict.at], old.handle, old.value, old.null, old.status, old.time)
        return _joined([earlier, left])  # what has the same place in the message stays in this order

    def _held_back(self, count: int) -> None:
        """So many more than before; fewer, where some of them are handed on now."""
        self.counts.deadband += count
        self.counts.filtered += count

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

    def _tell_lost(self, part: _Part) -> list[int]:
        """Tells where the server dropped samples before one; a tag's rows in their order. Which of them end a hole."""
        flagged = (part.status >= 0) & ((part.status & OVERFLOW) == OVERFLOW)
        concerned = np.isin(part.handle, part.handle[flagged])
        before: dict[int, int | None] = {}
        ends = []
        for row in np.flatnonzero(concerned).tolist():
            handle, time = int(part.handle[row]), int(part.time[row])
            if flagged[row]:
                ends.append(row)
                self.gaps.lost(handle, before[handle] if handle in before else self._mark_of(handle), time)
            elif self.gaps.passed(part.handle[row : row + 1], part.time[row : row + 1]):
                ends.append(row)
            before[handle] = time
        others = np.flatnonzero(~concerned)
        passed = self.gaps.passed(part.handle[others], part.time[others])
        return [*ends, *(int(others[row]) for row in passed)]

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
            for handle in handles[known & self.gaps.are_open(handles)].tolist():
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
            value[null] = NATIVE[type_][1]
            if quality is None:
                quality = np.zeros(len(null), np.uint8)
            quality[null & (quality == Quality.GOOD)] = Quality.UNCERTAIN  # null is legal only when it is not good
        status = part.status if part.status.any() else None
        words = WORDS if status is not None and bool((status < 0).any()) else ()
        masked = any_null and type_ in (ValueType.INTEGER, ValueType.BOOLEAN)
        return Columns(type_, series, s, part.time, value, quality, status, words, null if masked else None)

    def _dictionary(self, type_: ValueType, handle: NDArray[np.int64]) -> tuple[NDArray[np.int32], tuple[Series, ...]]:
        """Index into the series that occur, and these; remembered, because the next message brings the same ones."""
        used = np.zeros(len(self._typing), bool)
        used[handle] = True
        handles = np.flatnonzero(used)
        place = np.empty(len(self._typing), np.int32)
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


def _shortened(texts: NDArray[Any]) -> NDArray[Any]:
    """What is remembered of them: not more than a little."""
    if max(map(len, filter(None, texts.tolist())), default=0) <= _LONGEST:
        return texts
    found = np.empty(len(texts), object)
    found[:] = [text if text is None or len(text) <= _LONGEST else text[:_LONGEST] + "…" for text in texts]
    return found


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
