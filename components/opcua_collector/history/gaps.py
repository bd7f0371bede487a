"""What each tag lacks, until history has brought it or an event has told that it is lost. Pure: time is passed in.

Theory of operation. The samples of a tag have ascending times. While all is well, whatever the server sends after the
mark (the last sample handed on) follows it without a break. When that is not so any more, the tag has a *hole* behind
its mark, which ends before the first live sample that comes afterwards:

    ... samples | mark  . . . hole . . .  | first live sample, samples ...
                  at                        end            had: time <= at; wanted: at < time < end

| happens                              | hole of the tag                                                             |
|--------------------------------------|-----------------------------------------------------------------------------|
| `open`                               | begins at its mark; an open one goes on. A tag without a mark has none      |
| `lost` (overflow bit)                | previous sample .. this one; or ends the open hole                          |
| `passed`: live sample, time > at     | ends the open hole there; a settled one is over, with nothing to read       |
| `unchanged`: a recreated item repeats its mark | over: nothing lies between                                        |
| `watched`, and `patience` passes     | is read up to a server time behind the moment from which it was watched     |
| `advanced`                           | begins later: history up to there has been handed on                        |
| `finished`                           | over; or settled, while no live sample has come and history has given some; |
|                                      | part of an event where samples were dropped for certain and history had none|
| no history, `refused`, too old, too many | becomes part of an event, told once, and is over                        |

*Settled*: the tag is quiet. All that its hole lacked was handed on by history, up to `at`, and the mark is behind that.
Until a live sample later than `at` comes, one at or before it is a repeat (`repeats`), and a new hole begins at `at`.
This holds from the first value of history on, for a live sample may come while the hole is still being read: then it
ends the hole, and what history brings of that time later is left out (`bounds`).

So each sample is handed on once, whichever way brings it first, if the state here is as durable as the samples. Each
`dump` tells the last live batch (`newest`) that it has seen. After a kill, `replay` of the later ones, which are in the
outbox, makes up for what was not written. Thus a connection writes position "gaps":
  - `outlet.note({"gaps": gaps.dump(outlet.newest)})` after each message or step after which `changed` is true,
  - with its marks (`opcua_collector.history.marks`).
The backfill writes it with the samples and events that it hands on.

With 100,000 tags in holes a message still must not wait. So a look for what can be read is made in portions, and a dump
of more than a few thousand tags has *segments*, which are packed once, and behind them the *changes* since: each dump
packs one segment anew, and what has changed in the others. What stands later holds.

How Connection uses the rest:
  - `Gaps` goes into `Assembler(gaps)`, which calls `add`, `remove`, `passed`, `lost`, `unchanged` and `repeats`.
  - `open(None, reason)` when a subscription is made anew, messages are missing and cannot be republished, or the
    server ends the subscription (BadTimeout); before the next message is handed to the assembler.
  - `watched(handles, server time, now)` when the items of these tags are monitored again; at once, for None (all), when
    messages were missing or a session was resumed. Tags that are not watched keep their hole until they are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opcua_collector.history.marks import Marks, NoteError, news, number, pack, texts, unpack
from opcua_collector.values.quality import OVERFLOW
from sluice.batch import SampleBatch

PATIENCE: Final = 5.0
"""Seconds that a tag may take for its first live sample before it counts as quiet."""
SETTLING: Final = 2.0
"""Seconds that a server may take to write into its history what it has sent."""
MAX_WINDOW: Final = 24 * 3600.0

OVERFLOWED: Final = "overflow"
TOO_OLD: Final = "older than the longest gap that is read from history"
TOO_MANY: Final = "one of more gaps than can be remembered"
HAD_NOTHING: Final = "history had nothing"
NOT_READ: Final = "the configuration says not to read history (history.read)"

_MOST_PER_TAG: Final = 32
_NAMED: Final = 20  # tags named in one event
_SECOND: Final = 10**9
_NEVER: Final = -(2**63)
_SLACK: Final = 10 * _SECOND  # time that a tag may be read too much, to be asked together with others
_PORTION: Final = 5_000  # tags that are looked at, or packed, at once
_SEGMENTS: Final = 32
_JOINED: Final = b"gaps"  # how a dump of several notes begins


@dataclass(slots=True, eq=False)
class _Hole:
    at: int
    end: int | None
    reason: str
    why: str = ""  # it cannot be read
    brought: bool = False  # open, and history has brought the samples up to `at`
    given: bool = False  # history has brought some of it
    settled: bool = False
    since: int = _NEVER  # where it began, if known: what a clock that was set back says of before it, it did not bring
    until: int | None = None  # watched: where to read to if no live sample comes
    due: float | None = None  # when to do something about it

    @property
    def stop(self) -> int | None:
        """Where to read to; None: it is not known yet."""
        return self.until if self.end is None else self.end

    def settle(self) -> None:
        self.settled, self.until, self.due = True, None, None


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Something to read: samples of a tag with at < time < until."""

    handle: int
    at: int
    until: int


@dataclass(slots=True)
class _Told:
    """An event in the making."""

    count: int = 0
    first: int = 2**63 - 1
    last: int = _NEVER
    tags: list[str] = field(default_factory=list)


class Gaps:
    """The holes of a connection's tags. `mark_of` and `all_marks` are the assembler's, set by it."""

    def __init__(
        self, *, patience: float = PATIENCE, settling: float = SETTLING, max_window: float = MAX_WINDOW
    ) -> None:
        self.patience = patience
        self.settling = settling
        self.max_window = max_window
        """Seconds; what of a gap is older than that before its end is told and not read. May change at any time."""
        self.reads = True
        """Gaps are read from history. While that is not wanted they are told instead. May change at any time."""
        self.newest = 0
        """Number of the last live batch that a loaded state had seen."""
        self.changed = False
        """Something happened that `replay` could not repeat, since the last dump."""
        self.unknown: set[int] = set()
        """Handles of which it is not known whether the server keeps a history."""
        self.all_marks: Callable[[], Iterable[tuple[str, int]]] = lambda: ()
        self.mark_of: Callable[[int], int | None] = lambda handle: None
        self._holes: dict[str, list[_Hole]] = {}  # by time; only the last one may be open
        self._todo: set[str] = set()  # tags with a hole that is not settled
        self._ready: list[tuple[int, int, str]] = []  # (at, stop, tag): what can be read, as found lately
        self._unseen: list[str] = []  # tags that are still to be looked at for that
        self._given_up = False  # some holes may have a `why`
        self._segments: list[bytes] = []  # as packed last; empty: there are few holes
        self._segment_of: dict[str, int] = {}  # neighbours together, which are alike: that packs best
        self._stale: set[str] = set()  # tags that have changed since their segment was packed
        self._turn = 0
        self._busy: dict[str, tuple[_Hole, Piece]] = {}
        self._why: dict[str, str] = {}  # tag -> "" for one with history, else why there is none
        self._refused: set[str] = set()  # of these, those whose history the server refused
        self._tags: dict[int, str] = {}
        self._handles: dict[str, int] = {}
        self._open: NDArray[np.bool_] = np.zeros(64, bool)  # by handle: the last hole has no end
        self._had: NDArray[np.int64] = np.full(64, _NEVER, np.int64)  # and history has brought the samples up to here
        self._since: NDArray[np.int64] = np.full(64, _NEVER, np.int64)  # not from before this
        self._opened = self._bringing = 0  # how many of them

    # --- tags ---

    def add(self, handle: int, tag: str) -> None:
        """The tag has this handle from now on."""
        if handle >= len(self._open):
            more = max(handle + 1, 2 * len(self._open)) - len(self._open)
            self._open = np.concatenate([self._open, np.zeros(more, bool)])
            self._had = np.concatenate([self._had, np.full(more, _NEVER, np.int64)])
            self._since = np.concatenate([self._since, np.full(more, _NEVER, np.int64)])
        self._tags[handle] = tag
        self._handles[tag] = handle
        if tag not in self._why:
            self.unknown.add(handle)
        self._look(tag)

    def remove(self, handle: int) -> None:
        """The tag is not wanted any more, and nothing of it."""
        tag = self._tags.get(handle)
        if tag is None:
            return
        self.changed |= self._holes.pop(tag, None) is not None
        self._look(tag)
        self._todo.discard(tag)
        self._busy.pop(tag, None)
        self._why.pop(tag, None)
        self._refused.discard(tag)
        self.unknown.discard(handle)
        del self._tags[handle], self._handles[tag]

    def leave(self, handle: int) -> None:
        """The tag will have another handle at once; what it lacks, it still lacks."""
        tag = self._tags.pop(handle, None)
        if tag is None:
            return
        del self._handles[tag]
        self._busy.pop(tag, None)
        self._refused.discard(tag)
        self._why.pop(tag, None)
        self.unknown.discard(handle)
        self._opened -= int(self._open[handle])
        self._bringing -= int(self._had[handle] != _NEVER)
        self._open[handle], self._had[handle] = False, _NEVER

    def eligible(self, handle: int, why: str) -> None:
        """Whether the server keeps a history of the tag: "", or why not."""
        tag = self._tags.get(handle)
        if tag is not None:
            self._why[tag] = why
            self.unknown.discard(handle)

    def history(self, tag: str) -> str | None:
        """Whether the server keeps a history of the tag: "", or why not; None: it is not known yet."""
        return self._why.get(tag)

    def ask_again(self) -> None:
        """A new session: what the last one refused may be allowed now."""
        for tag in self._refused:
            self._why.pop(tag, None)
            self.unknown.add(self._handles[tag])
        self._refused.clear()

    @property
    def recoverable(self) -> bool:
        """Whether each tag has a history: then the source can be read again later."""
        return self.reads and bool(self._handles) and not self.unknown and not any(self._why.values())

    # --- holes open ---

    def open(self, handles: Iterable[int] | None, reason: str, only: Container[str] | None = None) -> None:
        """Samples may be lost behind the present marks of these tags, or of all, or of those in `only`."""
        if handles is None:
            marks: Iterable[tuple[str, int | None]] = self.all_marks()
            if only is not None:
                marks = [(tag, mark) for tag, mark in marks if tag in only]
        else:
            marks = [(self._tags[handle], self.mark_of(handle)) for handle in handles if handle in self._tags]
        opened: list[tuple[int, int]] = []
        for tag, mark in marks:
            if mark is None:
                continue
            if tag in self._holes:
                self._begin(tag, mark, reason)
                continue
            self._holes[tag] = [_Hole(mark, None, reason, since=mark)]
            self._todo.add(tag)
            handle = self._handles.get(tag)
            if handle is not None:
                opened.append((handle, mark))
            if self._segments:
                self._stale.add(tag)
        if opened:
            at = np.array(opened, np.int64)
            self._open[at[:, 0]], self._since[at[:, 0]] = True, at[:, 1]
            self._opened += len(opened)
        self.changed = True

    def _begin(self, tag: str, mark: int, reason: str) -> None:
        hole = self._tail(tag)
        if hole is None:
            self._append(tag, _Hole(mark, None, reason, since=mark))
            return
        hole.settled, hole.until, hole.due = False, None, None
        if mark > hole.at:
            hole.at, hole.brought = mark, False
        self._look(tag)

    def lost(self, handle: int, before: int | None, time: int) -> None:
        """The server dropped samples of this tag between its last one (none: None) and the one at `time`."""
        tag = self._tags.get(handle)
        if tag is not None:
            self._lost(tag, before, time)

    def _lost(self, tag: str, before: int | None, time: int) -> None:
        hole = self._tail(tag)
        if hole is not None:
            if time > hole.at:
                hole.settled = False
                self._end(tag, hole, time)
        elif before is not None and time > before + 1:
            self._append(tag, _Hole(before, time, OVERFLOWED))
        self.changed = True

    def _append(self, tag: str, hole: _Hole) -> None:
        holes = self._holes.setdefault(tag, [])
        holes.append(hole)
        if len(holes) > _MOST_PER_TAG:
            self._give_up_one(tag, holes)
        self._look(tag)

    def _give_up_one(self, tag: str, holes: list[_Hole]) -> None:
        """The oldest that is not being read will be told as lost, as one with those given up before it."""
        busy = self._busy.get(tag)
        before: _Hole | None = None
        for hole in holes:
            if hole.why == TOO_MANY:
                before = hole
            elif not hole.why and (busy is None or busy[0] is not hole):
                if before is None:
                    hole.why, self._given_up = TOO_MANY, True
                else:
                    before.end = hole.end
                    holes.remove(hole)
                return

    # --- holes end ---

    def watched(self, handles: Iterable[int] | None, server_ns: int, now: float) -> None:
        """These tags are monitored since `server_ns` (the server's clock): what comes later comes live."""
        tags = list(self._todo) if handles is None else [self._tags[h] for h in handles if h in self._tags]
        for tag in tags:
            hole = self._tail(tag)
            if hole is not None and not hole.settled and hole.until is None:
                # Beyond the moment itself, for clocks of sources may be ahead of the server's; live samples of that
                # time come within the patience, and end the hole.
                hole.until = max(server_ns, hole.at) + int(self.patience * _SECOND)
                hole.due = now + self.patience

    def passed(self, handles: NDArray[np.int64], times: NDArray[np.int64]) -> list[int]:
        """Live samples, in order. Which of them end a hole: these have to be handed on, for a replay to end it too."""
        if not self._opened:
            return []
        rows = np.flatnonzero(self._open[handles]).tolist()
        return [
            row
            for row, handle, time in zip(rows, handles[rows].tolist(), times[rows].tolist(), strict=True)
            if self._open[handle] and self._passed(self._tags[handle], time)
        ]

    def _passed(self, tag: str, time: int) -> bool:
        hole = self._tail(tag)
        if hole is None or time <= hole.at:
            return False
        if hole.settled:
            self._drop(tag, hole)
        else:
            self._end(tag, hole, time)
        return True

    def _end(self, tag: str, hole: _Hole, time: int) -> None:
        hole.end, hole.brought, hole.until, hole.due = time, False, None, None
        if time <= hole.at + 1:
            self._drop(tag, hole)
        else:
            self._look(tag)

    def are_open(self, handles: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of which the last hole has no end."""
        return self._open[handles]

    def unchanged(self, handle: int) -> None:
        """A recreated item repeated the last sample that was handed on: there is none behind it."""
        tag = self._tags.get(handle)
        hole = None if tag is None else self._tail(tag)
        if tag is None or hole is None:
            return
        if hole.brought:
            hole.settle()
            self._look(tag)
        else:
            self._drop(tag, hole)
        self.changed = True

    def repeats(self, handles: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which of these live samples history has brought before them; None: none."""
        if not self._bringing:
            return None
        found = (times <= self._had[handles]) & (times >= self._since[handles])
        return found if found.any() else None

    def is_last(self, handle: int, time: int) -> bool:
        """Whether a sample that repeats is the last one that history has brought."""
        return bool(self._had[handle] == time)

    # --- holes are read ---

    def work(self, now: float, most: int) -> list[Piece]:
        """What to read next with one request, at most one piece per tag: alike in time, oldest first.

        Each piece is busy until `finished`, `refused` or `returned`.
        """
        pieces = self._group(now, most)
        if not pieces:
            if not self._unseen:
                self._unseen = list(self._todo)
            some = self._unseen[-_PORTION:]
            del self._unseen[-_PORTION:]
            self._ready = sorted(
                (hole.at, hole.stop, tag)
                for tag in some
                if tag in self._todo and (hole := self._next(tag, now)) is not None and hole.stop is not None
            )
            pieces = self._group(now, most)
        return pieces

    def _group(self, now: float, most: int) -> list[Piece]:
        """The first of the ready ones, and others that are alike in time: they leave the ready ones.

        All are asked for from the first one's `at` to the last `until`: what that is more than the time of a tag's own
        shall not be much.
        """
        pieces: list[Piece] = []
        left: list[tuple[int, int, str]] = []
        start, stop, limit = 0, _NEVER, 2**63
        seen = 0
        for entry in self._ready:
            if len(pieces) >= most or entry[0] >= limit:
                break
            seen += 1
            at, until, tag = entry
            hole = self._next(tag, now)
            if hole is None or (hole.at, hole.stop) != (at, until):
                continue  # something has happened to it meanwhile
            if not pieces:
                start = at
            latest = min(limit, 2 * until - at + _SLACK - (at - start))
            if max(stop, until) > latest:
                left.append(entry)
                continue
            stop, limit = max(stop, until), latest
            piece = Piece(self._handles[tag], at, until)
            self._busy[tag] = (hole, piece)
            pieces.append(piece)
        self._ready[:seen] = left
        return pieces

    def _next(self, tag: str, now: float) -> _Hole | None:
        """The tag's first hole, if it can be read now."""
        if not self.reads or tag in self._busy or self._why.get(tag) != "" or tag not in self._handles:
            return None
        hole = next((hole for hole in self._holes.get(tag, ()) if not hole.why), None)
        if hole is None or hole.settled or hole.stop is None:
            return None
        if hole.due is None:
            hole.due = now + self.settling
        if now < hole.due:
            return None
        oldest = hole.stop - int(self.max_window * _SECOND)
        if hole.at < oldest - 1:
            self._holes[tag].insert(0, _Hole(hole.at, oldest, hole.reason, TOO_OLD))
            hole.at = oldest - 1
            self.changed = self._given_up = True
            self._look(tag)
        return hole

    def bounds(self, piece: Piece) -> tuple[int, int] | None:
        """What of the piece is still wanted: at < time < end. None: nothing."""
        hole = self._read(piece)
        if hole is None:
            return None
        return hole.at, piece.until if hole.end is None else min(hole.end, piece.until)

    def advanced(self, piece: Piece, upto: int) -> None:
        """Samples of the piece up to this time have been handed on."""
        hole = self._read(piece)
        if hole is not None and upto > hole.at:
            hole.at = upto
            hole.brought, hole.given = hole.end is None, True
            self._look(self._tags[piece.handle])
            self.changed = True

    def brought(self, values: int) -> None:
        """So many values have been handed on; how many there will be nobody knows."""

    def finished(self, piece: Piece) -> None:
        """The piece has been read to its end."""
        hole = self._read(piece)
        if hole is None:
            return
        tag = self._tags[piece.handle]
        del self._busy[tag]
        if hole.end is not None:
            hole.due = None
            if hole.end <= piece.until and hole.reason == OVERFLOWED and not hole.given:
                hole.why, self._given_up = (
                    HAD_NOTHING,
                    True,
                )  # the server said that it had dropped some: they are nowhere
                self._look(tag)
            elif hole.end <= piece.until:
                self._drop(tag, hole)
        elif hole.until == piece.until:
            if hole.brought:
                hole.settle()
                self._look(tag)
            else:
                self._drop(tag, hole)
        self.changed = True

    def refused(self, piece: Piece, why: str) -> None:
        """The server keeps no history of the tag after all."""
        if self._read(piece) is not None:
            tag = self._tags[piece.handle]
            del self._busy[tag]
            self._why[tag] = why
            self._refused.add(tag)

    def returned(self, piece: Piece, due: float) -> None:
        """The piece was not read to its end; not before `due` again."""
        hole = self._read(piece)
        if hole is not None:
            del self._busy[self._tags[piece.handle]]
            if hole.stop is not None:
                hole.due = due

    def _read(self, piece: Piece) -> _Hole | None:
        """The hole of a piece that is being read; None when it is over meanwhile."""
        hole, busy = self._busy.get(self._tags.get(piece.handle, ""), (None, None))
        return hole if busy is piece else None

    # --- what is lost is told ---

    def events(self, now: float) -> list[dict[str, Any]]:
        """What cannot be read, as gap events: one per cause, told once. To be handed on together with a dump.

        While tags of a cause are watched and may still end their holes, it waits for them.
        """
        if self.reads and not self._given_up and not any(self._why.values()):
            return []
        told: dict[tuple[str, str], _Told] = {}
        waiting: set[str] = set()
        self._given_up = False
        over: list[tuple[str, _Hole, tuple[str, str]]] = []
        for tag in self._todo:
            why = self._why.get(tag, "") if self.reads else NOT_READ
            for hole in self._holes[tag]:
                reason = hole.why or why
                self._given_up |= bool(hole.why)
                if not reason or (tag in self._busy and self._busy[tag][0] is hole):
                    continue
                if hole.stop is None or hole.settled:
                    continue
                if hole.end is None and hole.due is not None and now < hole.due:
                    waiting.add(hole.reason)
                    continue
                over.append((tag, hole, (hole.reason, reason)))
        for tag, hole, cause in sorted(over, key=lambda one: one[0]):
            if cause[0] in waiting:
                continue
            of = told.setdefault(cause, _Told())
            of.count += 1
            of.first, of.last = min(of.first, hole.at), max(of.last, hole.stop or hole.at)
            if len(of.tags) < _NAMED and tag not in of.tags:
                of.tags.append(tag)
            self._drop(tag, hole)
        self.changed |= bool(told)
        return [
            {
                "reason": reason,
                "recoverable": False,
                "why": why,
                "from_ns": of.first,
                "to_ns": of.last,
                "gaps": of.count,
                "tags": of.tags,
            }
            for (reason, why), of in told.items()
        ]

    # --- what survives ---

    def dump(self, newest: int) -> bytes:
        """The state as bytes; `newest`: number of the last live batch handed to the outlet."""
        self.changed = False
        if len(self._holes) <= _PORTION:
            self._segments, self._segment_of, self._stale = [], {}, set()
            return self._packed(newest, self._holes)
        self._pack_some(newest)
        packed = [*self._segments, self._packed(newest, self._stale)]
        return b"".join([_JOINED, *(part for one in packed for part in (len(one).to_bytes(4, "little"), one))])

    def _pack_some(self, newest: int) -> None:
        """Pack a segment in which something has changed, or all of them: so many that few changes are left."""
        wanted = set(range(_SEGMENTS))
        if self._segments:
            changed = {self._segment(tag) for tag in self._stale}
            turns = [(self._turn + step) % _SEGMENTS for step in range(1, _SEGMENTS + 1)]
            due = [turn for turn in turns if turn in changed]
            wanted = set(due[: 1 if len(self._stale) <= _PORTION else _SEGMENTS])
            self._turn = due[0] if due else self._turn
        else:
            self._segments = [b""] * _SEGMENTS
            size = len(self._holes)
            self._segment_of = {tag: place * _SEGMENTS // size for place, tag in enumerate(self._holes)}
        tags: dict[int, list[str]] = {segment: [] for segment in wanted}
        for tag in self._holes:
            if (segment := self._segment(tag)) in wanted:
                tags[segment].append(tag)
        for segment, some in tags.items():
            self._segments[segment] = self._packed(newest, some)
        self._stale = {tag for tag in self._stale if self._segment(tag) not in wanted}

    def _segment(self, tag: str) -> int:
        return self._segment_of.get(tag, hash(tag) % _SEGMENTS)

    def _packed(self, newest: int, tags: Iterable[str]) -> bytes:
        """The holes of these tags as a note."""
        reasons: dict[str, int] = {}
        whys: dict[str, int] = {}
        found = [(tag, hole) for tag in tags for hole in self._holes.get(tag, ())]
        columns: list[list[int]] = [
            [hole.at for _, hole in found],
            [_NEVER if hole.end is None else hole.end for _, hole in found],
            [reasons.setdefault(hole.reason, len(reasons)) for _, hole in found],
            [whys.setdefault(hole.why, len(whys)) for _, hole in found],
            [hole.brought | hole.settled << 1 | hole.given << 2 for _, hole in found],
        ]
        head = {"newest": newest, "tags": [tag for tag, _ in found], "reasons": list(reasons), "whys": list(whys)}
        if over := [tag for tag in tags if tag not in self._holes]:
            head["over"] = over
        return pack(head, [np.array(column, np.int64) for column in columns])

    def load(self, data: bytes | None) -> str:
        """Take a dump over, before the first tag is added. Returns what is wrong with it, and then takes nothing."""
        if data is None:
            return ""
        holes: dict[str, list[_Hole]] = {}
        try:
            for note in _notes(data):
                newest, found, over = _unpacked(note)
                for tag in over:
                    holes.pop(tag, None)
                holes.update(found)
        except NoteError as error:
            return f"the notes of gaps that are still to be filled cannot be read and are dropped: {error}"
        self.newest = newest
        self._holes = holes
        self._given_up = True
        for tag in self._holes:
            self._look(tag)
        if len(self._holes) > _PORTION:
            self._pack_some(newest)
        return ""

    def keep(self, tags: Container[str]) -> None:
        """Forget what was loaded of tags that are not wanted any more."""
        for tag in [tag for tag in self._holes if tag not in tags and tag not in self._handles]:
            del self._holes[tag]
            self._look(tag)
            self.changed = True

    def replay(self, batch: SampleBatch, marks: Marks) -> None:
        """A live batch that was handed on before the component's end; the marks are those before it."""
        if batch.header.seq <= self.newest:
            return
        self.newest = batch.header.seq
        columns = batch.columns
        flagged = np.zeros(len(columns), bool)
        if columns.status is not None:
            flagged = (columns.status >= 0) & ((columns.status & OVERFLOW) == OVERFLOW)
        concerned = np.zeros(len(columns.series), bool)
        concerned[columns.s[flagged]] = True
        for place, series in enumerate(columns.series):
            concerned[place] |= self._tail(series.tag) is not None
        rows = np.flatnonzero(concerned[columns.s] & news(columns))
        before: dict[str, int | None] = {}
        for row, place in zip(rows.tolist(), columns.s[rows].tolist(), strict=True):
            tag, time = columns.series[place].tag, int(columns.t[row])
            if flagged[row]:
                mark = marks.of.get(tag)
                self._lost(tag, before.get(tag, None if mark is None else mark.time), time)
            else:
                self._passed(tag, time)
            before[tag] = time

    def status(self) -> dict[str, Any]:
        """What there is still to do; nothing when there is nothing."""
        count = longest = 0
        for tag in self._todo:
            for hole in self._holes[tag]:
                if not hole.settled and not hole.why:
                    count += 1
                    stop = hole.until if hole.end is None else hole.end
                    if stop is not None and stop - hole.at > longest:
                        longest = stop - hole.at
        if not count:
            return {}
        return {"tags": len(self._todo), "gaps": count, "longest_s": round(longest / _SECOND, 3)}

    # --- the state of a tag ---

    def _tail(self, tag: str) -> _Hole | None:
        """Its open hole."""
        holes = self._holes.get(tag)
        return holes[-1] if holes and holes[-1].end is None else None

    def _drop(self, tag: str, hole: _Hole) -> None:
        holes = self._holes.get(tag, [])
        if hole in holes:
            holes.remove(hole)
            if not holes:
                del self._holes[tag]
        if tag in self._busy and self._busy[tag][0] is hole:
            del self._busy[tag]
        self._look(tag)

    def _look(self, tag: str) -> None:
        """Bring what is known by tag, and by handle, in line with the tag's holes."""
        if self._segments:
            self._stale.add(tag)
        if any(not hole.settled for hole in self._holes.get(tag, ())):
            self._todo.add(tag)
        else:
            self._todo.discard(tag)
        handle = self._handles.get(tag)
        if handle is None:
            return
        tail = self._tail(tag)
        had = tail.at if tail is not None and tail.brought else _NEVER
        self._opened += (tail is not None) - int(self._open[handle])
        self._bringing += (had != _NEVER) - int(self._had[handle] != _NEVER)
        self._open[handle], self._had[handle] = tail is not None, had
        self._since[handle] = _NEVER if tail is None else tail.since


def _notes(data: bytes) -> Iterator[bytes]:
    """The notes of a dump, in the order in which they hold. Raises NoteError."""
    if not data.startswith(_JOINED):
        yield data
        return
    at = len(_JOINED)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4 + size
        if size == 0 or at > len(data):
            raise NoteError("it ends inside a part")
        yield data[at - size : at]
    if at == len(_JOINED):
        raise NoteError("it has no parts")


def _unpacked(note: bytes) -> tuple[int, dict[str, list[_Hole]], list[str]]:
    """The newest batch that a note has seen, its holes, and the tags that have none any more. Raises NoteError."""
    head, columns = unpack(note, 5)
    tags = texts(head, "tags", len(columns[0]))
    reasons, whys = texts(head, "reasons"), texts(head, "whys")
    holes: dict[str, list[_Hole]] = {}
    for tag, at, end, reason, why, flags in zip(tags, *(column.tolist() for column in columns), strict=True):
        if not (0 <= reason < len(reasons) and 0 <= why < len(whys)):
            raise NoteError("it lacks a reason")
        hole = _Hole(at, None if end == _NEVER else end, reasons[reason], whys[why], bool(flags & 1))
        hole.settled, hole.given = bool(flags & 2), bool(flags & 4)
        holes.setdefault(tag, []).append(hole)
    return number(head, "newest"), holes, texts(head, "over") if "over" in head else []
