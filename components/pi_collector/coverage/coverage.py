"""How far each stream has been handed on, and what has to be read for it to go on. Pure: time is passed in.

Theory of operation
-------------------
A stream has one *frontier*, `covered`: everything that the archive has up to there was handed on. That is not the time
of its last value: a quiet stream moves on too. It may also have a *live interval*: since `live_from` everything comes
by itself, from a channel or by updates, and up to `confirmed` it has been proven to have come. Between the frontier and
the live interval lies the stream's *hole*.

| state    | live_from | hole | want | what moves the frontier             | what comes next                        |
|----------|-----------|------|------|-------------------------------------|----------------------------------------|
| waiting  | -         | -    | -    | nothing                             | `subscribed`: filling; `want`: polled  |
| filling  | set       | yes  | -    | reading, page by page (`advance`)   | end read: live; `lost`: waiting        |
| live     | set       | no   | -    | `confirmed`                         | `lost`: waiting                        |
| polled   | -         | -    | set  | reading                             | `lost`: waiting; `subscribed`: filling |

*Subscribe, then read.* A hole ends at `live_from` + settle: what reached the server before the subscription is in the
archive once the server's clock has passed that, and what reached it later comes by itself. So the last stretch of a
hole is read when the server's clock is past its end (`target`), everything before up to the clock less settle. Reading
alone proves nothing that is younger than the clock less settle (`proof`), whatever becomes of the subscription while it
is read; the live interval takes over only when the hole was read to its very end. Then the frontier jumps to
`confirmed` and goes with it. A subscription that is lost before makes the hole longer, and nothing else. What is read
twice, or read and came by itself, is dropped by the tail (`tail`).

*Reading begins* an overlap before the frontier, for what came late, but never before `floor`: where the stream began,
or where it had to go on after a time that was given up (maxBackfill). An initial hole is as long as somebody wanted it
to be: maxBackfill does not shorten it.

*Gaps.* When a stream loses what told it of new values it is in a gap of the ledger until its frontier has passed the
gap's end, which is known once it is subscribed or polled again. A restart is such a loss.

*Pieces.* `work` gives what is to be read next: polls before gaps, the oldest frontier first, streams with about the
same frontier together. A stream is in one piece at most, which is busy until it is `finished` or `returned`. A piece
that was returned for a failure comes again in halves, so that one bad stream ends up alone and does not hold the
others; progress puts an end to that. Returned with a `due` that is not in the future it is no failure: a long read may
make room for a poll at any time (`polls_due`).

All columns go by handle. 10,000 streams that are confirmed cost a fraction of a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pi_collector.coverage.ledger import INITIAL, NONE, RESTART, Ledger
from pi_collector.coverage.pieces import Kind, Piece
from pi_collector.values.timed import TICK

Handles = NDArray[np.int32]
Times = NDArray[np.int64]

UNSET: Final = -(2**63)
FOREVER: Final = 2**63 - 1
SECOND: Final = 10**9

REMOVED: Final = "was not collected for a while"
NOT_COLLECTED: Final = "not collected any more"
CLOCK: Final = "the server's clock went back"

_ALIKE: Final = 60 * SECOND
_INITIAL_FROM: Final = 120 * SECOND  # polled streams: a first read of less is no gap
_STEP: Final = 30 * SECOND  # what is not the end of a hole is read in steps of this size at least
_POLLS_IN_A_ROW: Final = 8  # pieces of polls, after which one of a gap has its turn
_CLOCK_BACK: Final = 3600 * SECOND
_PAUSE: Final = 5.0  # seconds before a stream is read again that was read without coming any further,
_LONGEST_PAUSE: Final = 300.0  # times how often, up to this
_TOGETHER: Final = 1_000_000

LIVE: Final = 1
"""Flag: values came by themselves."""
NEW: Final = 2
"""Flag: it was never subscribed or polled."""
BEGINS: Final = 4
"""Flag: in its gap lies what it began with, which maxBackfill does not shorten."""


@dataclass(slots=True, eq=False)
class _Idle:
    """Until when there is certainly nothing to read."""

    lower: int
    mono: float


class Coverage:
    """All streams of a connection, and their gaps in `ledger`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._size = 0
        self._active = np.zeros(0, np.bool_)
        self._covered = np.zeros(0, np.int64)
        self._floor = np.zeros(0, np.int64)
        self._flags = np.zeros(0, np.uint8)
        self._gap = np.zeros(0, np.int32)
        self._gap_end = np.zeros(0, np.int64)
        self._overlap = np.zeros(0, np.int64)
        self._settle = np.zeros(0, np.int64)
        self._max_backfill = np.zeros(0, np.int64)
        self._live_from = np.zeros(0, np.int64)
        self._confirmed = np.zeros(0, np.int64)
        self._hole = np.zeros(0, np.bool_)
        self._hole_end = np.zeros(0, np.int64)
        self._want = np.zeros(0, np.int64)
        self._elsewhere = np.zeros(0, np.bool_)
        self._busy = np.zeros(0, np.bool_)
        self._target = np.zeros(0, np.int64)
        self._proof = np.zeros(0, np.int64)
        self._due = np.zeros(0, np.float64)
        self._failures = np.zeros(0, np.int32)
        self._together = np.zeros(0, np.int32)
        self._dirty = np.zeros(0, np.bool_)
        self._known = np.zeros(0, np.bool_)  # its frontier means something
        self._removed = np.zeros(0, np.bool_)  # and it was not collected for a while
        self._seen = np.zeros(0, np.int64)  # `_successes` when it failed last
        self._successes = 0
        self.lower = UNSET
        """The server's clock, as `work` has heard it last, ns."""
        self.moved = False
        """Frontiers have moved of which no journal tells, since somebody set this to False."""
        self._idle: _Idle | None = None
        self._polls_in_a_row = 0
        self._now = 0.0
        self._busy_pieces: dict[Piece, Times] = {}  # with the frontiers that its streams had

    # --- streams ---

    def grow(self, size: int) -> None:
        """Handles below size exist."""
        if size <= self._size:
            return
        room = max(size, 2 * len(self._active), 64)
        for name, nothing in _COLUMNS.items():
            old = getattr(self, name)
            if len(old) < size:
                grown = np.full(room, nothing, old.dtype)
                grown[: len(old)] = old
                setattr(self, name, grown)
        self._size = size

    def clear(self, handle: int) -> None:
        """The handle will stand for another stream."""
        for name, nothing in _COLUMNS.items():
            getattr(self, name)[handle] = nothing

    def begin(self, handle: int, start_ns: int, overlap_ns: int, settle_ns: int, max_backfill_ns: int) -> None:
        """Collect a stream, or go on with it with other settings. What is kept of it goes before start_ns.

        start_ns: where a stream begins of which nothing is known.
        """
        self.grow(handle + 1)
        self._overlap[handle], self._settle[handle] = overlap_ns, settle_ns
        self._max_backfill[handle] = max_backfill_ns
        self._idle = None
        if self._active[handle]:
            return
        self._active[handle] = True
        self._ledger.streams += 1
        self._dirty[handle] = True
        self._due[handle], self._failures[handle], self._together[handle] = 0.0, 0, _TOGETHER
        cause = REMOVED if self._removed[handle] else RESTART
        self._removed[handle] = False
        if not self._known[handle]:
            self._known[handle] = True
            self._covered[handle] = self._floor[handle] = start_ns
            self._flags[handle] = NEW
        else:
            self.lost(np.array([handle], np.int32), cause)

    def end(self, handle: int, why: str) -> None:
        """Collect it no more. What is known of it stays; the gap in which it is gives it up."""
        if handle >= self._size or not self._active[handle]:
            return
        handles = np.array([handle], np.int32)
        self._active[handle] = False
        self._ledger.streams -= 1
        self._removed[handle] = True
        self._live_from[handle] = self._confirmed[handle] = self._want[handle] = UNSET
        self._hole[handle] = False
        self._give_up(handles, why)
        self._dirty[handle] = True
        self._idle = None

    def give_up(self, handle: int, why: str) -> None:
        """The gap in which the stream is gives it up, whether it is collected or not."""
        self._give_up(np.array([handle], np.int32), why)

    def _give_up(self, handles: Handles, why: str) -> None:
        for number, inside in self._by_gap(handles):
            self._ledger.give_up(number, len(inside), why)
            self._gap[inside], self._gap_end[inside] = NONE, UNSET
            self._flags[inside] &= np.uint8(255 - BEGINS)
            self._dirty[inside] = True

    def _by_gap(self, handles: Handles) -> list[tuple[int, Handles]]:
        numbers = self._gap[handles]
        return [(int(number), handles[numbers == number]) for number in np.unique(numbers) if number != NONE]

    # --- what comes by itself ---

    def subscribed(self, handles: Handles, at_ns: int) -> None:
        """Everything later than this server time comes by itself, from now on."""
        handles = self._collected(handles)
        if not len(handles):
            return
        self._want[handles] = UNSET
        self._elsewhere[handles] = False
        self._live_from[handles] = at_ns
        self._confirmed[handles] = at_ns
        self._hole[handles] = True
        self._hole_end[handles] = at_ns + self._settle[handles]
        self._flags[handles] |= LIVE
        self._dirty[handles] = True
        self._ends(handles, self._hole_end[handles])
        self._idle = None

    def confirmed(self, handles: Handles, upto_ns: int) -> None:
        """What comes by itself has come up to this time: it was handed on, or was never there.

        Call it after the values were handed on, never before.
        """
        handles = handles[self._live_from[handles] != UNSET]
        self._confirmed[handles] = np.maximum(self._confirmed[handles], upto_ns)
        whole = handles[~self._hole[handles]]
        self.moved |= bool(len(whole))
        if upto_ns > self.lower + _CLOCK_BACK:
            self._idle = None  # `work` looks whether the clock is still so far
        # Not noted: a frontier that is kept a little behind costs nothing, and this comes every second.
        self._covered[whole] = np.maximum(self._covered[whole], self._confirmed[whole])

    def lost(self, handles: Handles, cause: str, remedy: str = "") -> None:
        """Nothing comes by itself any more, or the streams cannot be polled: what is missed from now on is a gap.

        Of streams that never came it is none: they have nothing to lose yet, and begin where they begin.
        """
        handles = self._collected(handles)
        handles = handles[(self._flags[handles] & NEW) == 0]
        if not len(handles):
            return
        came = (self._flags[handles] & LIVE) != 0
        fresh = self._gap[handles] == NONE
        self._live_from[handles] = self._confirmed[handles] = self._want[handles] = UNSET
        self._hole[handles] = False
        self._gap_end[handles] = UNSET
        self._flags[handles] &= np.uint8(255 - LIVE)
        self._dirty[handles] = True
        self._idle = None
        if fresh.any():
            self._open(handles[fresh], cause, remedy, bool(came[fresh].any()))

    def _open(self, handles: Handles, cause: str, remedy: str, unrecoverable: bool) -> None:
        number = self._ledger.open(
            handles,
            cause,
            first=int(self._starts(handles).min()),
            remedy=remedy,
            unrecoverable=unrecoverable,
        )
        self._gap[handles] = number
        self._dirty[handles] = True

    def want(self, handles: Handles, upto_ns: int, *, elsewhere: bool = False) -> None:
        """Polled: the archive is to be read up to this time. elsewhere: somebody else does, and calls `advance`.

        Streams whose values come by themselves stay live: reading only proves that they have come.
        """
        handles = self._collected(handles)
        if not len(handles):
            return
        first = handles[(self._want[handles] == UNSET) & (self._live_from[handles] == UNSET)]
        self._want[handles] = np.maximum(self._want[handles], upto_ns)
        self._elsewhere[handles] = elsewhere
        if len(first):
            self._flags[first] &= np.uint8(255 - LIVE)
            self._dirty[first] = True
            # What came by itself until a moment ago may be as young as the present: the gap goes up to there.
            self._ends(first, self._want[first] + self._settle[first])
        self._idle = None

    def _ends(self, handles: Handles, ends: Times) -> None:
        """It is known now up to where these streams have to be read."""
        new = (self._flags[handles] & NEW) != 0
        if new.any():
            self._flags[handles] &= np.uint8(255 - NEW)
            first = new & (self._hole[handles] | (ends - self._covered[handles] > _INITIAL_FROM))
            if first.any():
                self._open(handles[first], INITIAL, "", False)
                self._flags[handles[first]] |= BEGINS
        initial = new | ((self._flags[handles] & BEGINS) != 0)
        long = ~initial & (ends - self._covered[handles] > self._max_backfill[handles])
        if long.any():
            self._shorten(handles[long], ends[long])
        self._gap_end[handles] = ends
        for number, inside in self._by_gap(handles):
            self._ledger.ends(number, int(self._gap_end[inside].max()))
        # What is polled, and was read up to there before.
        self._leave(handles[~self._hole[handles] & (self._covered[handles] >= ends)])

    def _shorten(self, handles: Handles, ends: Times) -> None:
        begins = ends - self._max_backfill[handles]
        self._ledger.given_up_part(
            handles,
            int(self._covered[handles].min()),
            int(begins.max()),
            remedy="read it by command, or set maxBackfill to a longer time",
        )
        self._covered[handles] = begins
        self._floor[handles] = np.maximum(self._floor[handles], begins)
        self._dirty[handles] = True

    def _leave(self, handles: Handles) -> None:
        for number, inside in self._by_gap(handles):
            self._gap[inside], self._gap_end[inside] = NONE, UNSET
            self._flags[inside] &= np.uint8(255 - BEGINS)
            self._dirty[inside] = True
            self._ledger.leave(number, len(inside))

    def _collected(self, handles: Handles) -> Handles:
        handles = np.asarray(handles, np.int32)
        return handles[self._active[handles]]

    # --- what is read ---

    def work(self, server_lower_ns: int, now_mono: float, most_streams: int) -> Piece | None:
        """What is to be read next, None for nothing; busy until it is finished or returned.

        server_lower_ns: the server's clock has reached this; a piece never goes past it. now_mono: seconds.
        """
        if server_lower_ns < self.lower:
            self._idle = None
        self._now, self.lower = now_mono, server_lower_ns
        if self._idle is not None and server_lower_ns < self._idle.lower and now_mono < self._idle.mono:
            return None
        self._mind_the_clock(server_lower_ns)
        n = self._size
        proof = server_lower_ns - self._settle[:n]
        hole, target = self._hole[:n], self._targets(server_lower_ns, proof)
        free = self._active[:n] & ~self._busy[:n] & (hole | ((self._want[:n] != UNSET) & ~self._elsewhere[:n]))
        free &= self._floor[:n] <= server_lower_ns
        ends = hole & (self._hole_end[:n] <= server_lower_ns)
        # The end of a hole is read at once, the way there in steps.
        ready = free & (ends | (target - self._covered[:n] >= np.where(hole, _STEP, 1)))
        able = ready & (self._due[:n] <= now_mono)
        if not able.any():
            self._idle = self._nothing(free & ~ready, ready)
            return None
        polls = able & ~hole & (self._gap[:n] == NONE)
        others = able & ~polls
        # Polls may be due without an end, where there are more than the server is asked for in their interval.
        turn = others.any() and self._polls_in_a_row >= _POLLS_IN_A_ROW
        if polls.any() and not turn:
            self._polls_in_a_row += 1
            return self._piece(Kind.POLL, np.flatnonzero(polls).astype(np.int32), target, proof, most_streams)
        self._polls_in_a_row = 0
        return self._piece(Kind.GAP, np.flatnonzero(others).astype(np.int32), target, proof, most_streams)

    def _targets(self, lower: int, proof: Times) -> Times:
        """By handle: up to where it is read, if it is read at all."""
        n = self._size
        end = self._hole_end[:n]
        hole = np.where(end <= lower, end, np.minimum(end, proof))
        target: Times = np.where(self._hole[:n], hole, np.minimum(self._want[:n], proof))
        return target

    def polls_due(self, server_lower_ns: int, now_mono: float) -> bool:
        """Whether a poll could be read now: what is read of a gap may make room for it."""
        n = self._size
        due = self._active[:n] & ~self._busy[:n] & ~self._elsewhere[:n] & ~self._hole[:n] & (self._gap[:n] == NONE)
        due &= np.minimum(self._want[:n], server_lower_ns - self._settle[:n]) > self._covered[:n]
        return bool((due & (self._due[:n] <= now_mono)).any())

    def _nothing(self, waiting: NDArray[np.bool_], ready: NDArray[np.bool_]) -> _Idle:
        """Until when there is nothing to read: of a hole its end or the next step; of a poll `want` says it."""
        n = self._size
        hole = self._hole[:n]
        waiting = waiting & (hole | (self._want[:n] > self._covered[:n]))
        reached = self._covered[:n] + self._settle[:n]
        at = np.where(hole, np.minimum(self._hole_end[:n], reached + _STEP), reached + 1)[waiting]
        due = self._due[:n][ready]
        # A stream that begins in the future has a floor above all that.
        at = np.maximum(at, self._floor[:n][waiting])
        return _Idle(int(at.min()) if len(at) else FOREVER, float(due.min()) if len(due) else float("inf"))

    def _piece(self, kind: Kind, candidates: Handles, target: Times, proof: Times, most_streams: int) -> Piece:
        starts = self._starts(candidates)
        order = np.argsort(starts, kind="stable")
        candidates, starts = candidates[order], starts[order]
        alike = max(_ALIKE, int(target[candidates[0]] - starts[0]) // 8)
        reach = int(np.searchsorted(starts, int(starts[0]) + alike, "right"))
        together = self._together[candidates[:reach]]
        most = max(1, min(most_streams, int(together[0])))
        # A stream that failed is only asked together with as many others as it may.
        fitting = np.flatnonzero(together >= min(most, reach))[:most]
        handles, starts = candidates[fitting], starts[fitting]
        stop = max(int(target[handles].max()), int(starts.max()))
        piece = Piece(kind, handles, starts, stop)
        self._busy[handles] = True
        self._proof[handles] = proof[handles]
        self._target[handles] = np.where(self._hole[handles], target[handles], proof[handles])
        self._busy_pieces[piece] = self._covered[handles].copy()
        return piece

    def _starts(self, handles: Handles) -> Times:
        starts: Times = np.maximum(self._floor[handles], self._covered[handles] - self._overlap[handles])
        return starts

    def _mind_the_clock(self, lower: int) -> None:
        """Frontiers that a wrong clock has set far ahead come back, or what is written till then would be missed."""
        n = self._size
        ahead = self._active[:n] & (self._covered[:n] - lower > _CLOCK_BACK) & ((self._flags[:n] & NEW) == 0)
        if not ahead.any():
            return
        handles = np.flatnonzero(ahead).astype(np.int32)
        self._covered[handles] = lower - self._settle[handles]
        self._floor[handles] = np.minimum(self._floor[handles], self._covered[handles])
        self._confirmed[handles] = np.minimum(self._confirmed[handles], self._covered[handles])
        self._want[handles] = np.minimum(self._want[handles], self._covered[handles])
        live = handles[self._live_from[handles] != UNSET]
        self._live_from[live] = np.minimum(self._live_from[live], lower)
        self._hole[live], self._hole_end[live] = True, lower + self._settle[live]
        fresh = handles[self._gap[handles] == NONE]
        if len(fresh):
            self._open(fresh, CLOCK, "set the clocks of the PI servers", False)
        self._gap_end[handles] = lower + self._settle[handles]
        for number, inside in self._by_gap(handles):
            self._ledger.ends(number, int(self._gap_end[inside].max()))
        self._dirty[handles] = True

    def advance(self, handles: Handles, upto: Times) -> None:
        """Everything of these streams up to there, ns, has been read and handed on.

        Of what was not given by `work` the caller knows by itself what is proven.
        """
        inside = (handles >= 0) & (handles < self._size)
        handles, upto = handles[inside], np.asarray(upto, np.int64)[inside]
        # Of one that is not collected any more nothing is handed on.
        inside = self._active[handles]
        handles, upto = handles[inside], upto[inside]
        busy = self._busy[handles]
        reached = np.where(busy, np.minimum(upto, self._target[handles]), upto)
        proven = np.where(busy, np.minimum(upto, self._proof[handles]), upto)
        whole = self._hole[handles] & (reached >= self._hole_end[handles])
        proven = np.where(whole, np.maximum(proven, self._confirmed[handles]), proven)
        self._covered[handles] = np.maximum(self._covered[handles], proven)
        self._hole[handles[whole]] = False
        self._dirty[handles] = True
        self._failures[handles], self._together[handles] = 0, _TOGETHER
        self._successes += 1
        end = self._gap_end[handles]
        over = (self._gap[handles] != NONE) & (end != UNSET) & (reached >= end)
        # One that nobody subscribes and nobody polls here: whoever reads it knows no end beyond this.
        over |= (self._gap[handles] != NONE) & (end == UNSET) & ~busy & (self._live_from[handles] == UNSET)
        if over.any():
            self._ledger_ends(handles[over], upto[over])
            self._leave(handles[over])
        self._idle = None

    def _ledger_ends(self, handles: Handles, upto: Times) -> None:
        open_ended = self._gap_end[handles] == UNSET
        for number, _ in self._by_gap(handles[open_ended]):
            self._ledger.ends(number, int(upto[open_ended].max()))

    def finished(self, piece: Piece) -> None:
        """It was read to its end, or as far as can be. A stream that came no further has to wait a little."""
        before = self._free(piece)
        if before is None:
            return
        handles = piece.streams
        # Moved by reading, by what came meanwhile, or with nothing left to read.
        stuck = handles[(self._covered[handles] <= before) & self._unread(handles)]
        self._failures[stuck] += 1
        pause = np.minimum(_PAUSE * 2.0 ** np.minimum(self._failures[stuck] - 1, 10), _LONGEST_PAUSE)
        self._due[stuck] = np.maximum(self._due[stuck], self._now + pause)

    def _unread(self, handles: Handles) -> NDArray[np.bool_]:
        unread: NDArray[np.bool_] = self._hole[handles] | (self._want[handles] > self._covered[handles])
        return unread

    def returned(self, piece: Piece, due_mono: float, streams: Handles | None = None) -> None:
        """It was not read to its end; nor is it asked for before due_mono. streams: those of it that this is true of;
        the others go on at once."""
        if self._free(piece) is None:
            return
        handles = piece.streams if streams is None else np.asarray(streams, np.int32)
        self._due[handles] = due_mono
        if due_mono > self._now:
            # While nothing at all can be read it is not for want of room: only a second failure beside others' success
            # makes the next piece smaller.
            again = handles[(self._failures[handles] > 0) & (self._seen[handles] < self._successes)]
            self._together[again] = max(1, len(piece.streams) // 2)
            self._failures[handles] += 1
            self._seen[handles] = self._successes

    def _free(self, piece: Piece) -> Times | None:
        before = self._busy_pieces.pop(piece, None)
        if before is not None:
            self._busy[piece.streams] = False
            self._target[piece.streams] = self._proof[piece.streams] = FOREVER
            self._idle = None
        return before

    # --- what is known ---

    def covered(self, handle: int) -> int:
        """Everything of the archive up to there, ns, has been handed on."""
        return int(self._covered[handle])

    def is_live(self, handle: int) -> bool:
        """New values come by themselves."""
        return handle < self._size and bool(self._live_from[handle] != UNSET)

    def in_gap(self, handle: int) -> bool:
        """It is in an open gap of the ledger."""
        return handle < self._size and bool(self._gap[handle] != NONE)

    def behind(self) -> int:
        """Streams with a hole."""
        n = self._size
        return int((self._active[:n] & (self._hole[:n] | (self._gap[:n] != NONE))).sum())

    def oldest(self) -> int | None:
        """The frontier that is furthest back, ns; None: there are no streams."""
        active = self._active[: self._size]
        return int(self._covered[: self._size][active].min()) if active.any() else None

    def needed(self, before: int) -> Times:
        """By handle: from when on its values may come again, if everybody's may from `before` on anyway, ns.

        From the archive behind the frontier; from a channel behind what is confirmed, for what the archive gave long
        ago may still be under way there.
        """
        n = self._size
        needed: Times = np.minimum(np.maximum(self._covered[:n] - self._overlap[:n], self._floor[:n]), before)
        live = self._live_from[:n] != UNSET
        needed[live] = np.minimum(needed[live], self._confirmed[:n][live] - self._overlap[:n][live])
        return needed

    def horizon(self, before: int) -> int:
        """The earliest of `needed`, of the streams that are or were just collected."""
        n = self._size
        there = self._known[:n] & ~self._removed[:n]
        return min(before, int(self.needed(before)[there].min())) if there.any() else before

    def recovering(self, streams: Handles, time: Times) -> dict[int, int]:
        """How many of these values lie in which gap, before what comes by itself."""
        numbers = self._gap[streams]
        since = self._live_from[streams]
        inside = (numbers != NONE) & ((since == UNSET) | (time <= since))
        found, counts = np.unique(numbers[inside], return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def status(self) -> dict[str, Any]:
        """For the status."""
        n = self._size
        active = self._active[:n]
        return {
            "streams": int(active.sum()),
            "live": int((active & (self._live_from[:n] != UNSET)).sum()),
            "polled": int((active & (self._live_from[:n] == UNSET) & (self._want[:n] != UNSET)).sum()),
            "behind": self.behind(),
            "reading": int(self._busy[:n].sum()),
            "failing": int((active & (self._failures[:n] > 0)).sum()),
            "oldest_ns": self.oldest(),
        }

    # --- what is kept ---

    def changes(self) -> Handles:
        """Streams of which something changed that has to be kept, since the last call."""
        handles = np.flatnonzero(self._dirty[: self._size]).astype(np.int32)
        self._dirty[handles] = False
        return handles

    def frontiers(self, handles: Handles) -> tuple[Times, Times, NDArray[np.uint8], NDArray[np.int32]]:
        """What is kept of these: covered, floor, flags, gap."""
        return self._covered[handles], self._floor[handles], self._flags[handles], self._gap[handles]

    def restore(
        self, handles: Handles, covered: Times, floor: Times, flags: NDArray[np.uint8], gap: NDArray[np.int32]
    ) -> None:
        """What was kept. The streams are not collected until they `begin`."""
        if len(handles):
            self.grow(int(handles.max()) + 1)
        self._known[handles] = True
        self._covered[handles], self._floor[handles] = covered, floor
        self._flags[handles], self._gap[handles] = flags, gap

    def held_back(self, handles: Handles, floor: Times) -> Times:
        """The frontiers that these had; of streams that are not known where they began."""
        if len(handles):
            self.grow(int(handles.max()) + 1)
        held: Times = np.where(self._known[handles], self._covered[handles], floor)
        return held

    def forgotten(self, handle: int, before: int) -> None:
        """Of a stream that comes back: what was handed on before this time, ns, is not remembered any more, and so not
        read again. Late values of the overlap before its frontier are the price."""
        behind = (int(self._covered[handle]) // TICK + 1) * TICK  # the frontier's own time was handed on, too
        self._floor[handle] = max(int(self._floor[handle]), min(behind, -(-before // TICK) * TICK))

    def was_removed(self, handle: int) -> None:
        """What was kept is of a stream that is not collected any more."""
        self._removed[handle] = True

    def gaps_inside(self) -> dict[int, int]:
        """How many streams are in which gap."""
        numbers, counts = np.unique(self._gap[: self._size], return_counts=True)
        return {int(n): int(c) for n, c in zip(numbers, counts, strict=True) if n != NONE}

    def read_nothing_again(self) -> None:
        """The tail was lost: nothing before the frontiers is read, which could come twice."""
        self._floor[: self._size] = np.maximum(self._floor[: self._size], self._covered[: self._size])


_COLUMNS: Final[dict[str, Any]] = {
    "_active": False,
    "_known": False,
    "_removed": False,
    "_covered": 0,
    "_floor": 0,
    "_flags": 0,
    "_gap": NONE,
    "_gap_end": UNSET,
    "_overlap": 0,
    "_settle": 0,
    "_max_backfill": FOREVER,
    "_live_from": UNSET,
    "_confirmed": UNSET,
    "_hole": False,
    "_hole_end": UNSET,
    "_want": UNSET,
    "_elsewhere": False,
    "_busy": False,
    "_target": FOREVER,
    "_proof": FOREVER,
    "_due": 0.0,
    "_failures": 0,
    "_together": _TOGETHER,
    "_dirty": False,
    "_seen": 0,
}
