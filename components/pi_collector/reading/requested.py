"""Ranges of the past that somebody has asked for (the command `backfill`): what of them is still to be read. Pure.

A request is a range of time and a list of tags. It knows of each tag up to where its values have been handed on, which
is noted together with them: so a request goes on after a restart where it was, and hands each value of its range on
once. It knows nothing of what was collected before: what a range has in common with values that came live, or with
another request, comes again.

Requests of a connection are read one after the other, in the order in which they came, a day of all tags before the
next day; by the same reader as gaps.

| a tag                                     | becomes                                                              |
|-------------------------------------------|----------------------------------------------------------------------|
| has a point that is collected             | read in pieces of a day, until its range is done                     |
| is calculated by the server               | left out, with the reason in the result                              |
| is not collected for `patience` seconds   | the same: its point is not known, or set aside                       |
| failed                                    | read on a little later; left out after `TRIES` times in a row        |

Two positions are kept: `requested`, how far each request is, with every transaction that moves one; and
`requested/<number>`, the names of a request's tags, which are many and never change, once.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pi_collector.coverage.pieces import Kind, Piece
from pi_collector.values.timed import TICK

POSITION: Final = "requested"
MOST_REQUESTS: Final = 8
"""Requests of a connection that are not done."""
PATIENCE: Final = 60.0
"""Seconds for which a tag may not be collected while the connection runs."""
TRIES: Final = 10
"""Times that the reading of a tag may fail one after the other."""
WINDOW: Final = 24 * 3600 * 10**9
NOT_COLLECTED: Final = "it is not collected at present: see the status for what is wrong with its point"
_MOST_DONE: Final = 16  # requests that are done and still known
_NAMED: Final = 20  # tags left out that are named, with the reason
_ALIKE: Final = 60 * 10**9  # tags that may be read with one call differ by so much at most
_MOST_TAGS: Final = 200_000
_LARGEST: Final = 64_000_000  # bytes of a note, unpacked
_VERSION: Final = 1
_WHY: Final = 200  # characters of a reason


@dataclass(slots=True, eq=False)
class Request:
    """One range. Times are nanoseconds since 1970: first <= time < until."""

    id: str
    first: int
    until: int
    tags: int
    """How many there were at first."""
    names: tuple[str, ...]
    """The tags; empty when it is over, as are the columns."""
    at: NDArray[np.int64]
    """Of each tag: values up to this time have been handed on; always just before a tick."""
    open: NDArray[np.bool_]
    """Of each tag: it is not done."""
    number: int
    """Under which its tags are kept."""
    values: int = 0
    left_out: int = 0
    why: dict[str, str] = field(default_factory=dict)
    """Of some of the tags that were left out: the reason."""

    @property
    def over(self) -> bool:
        """Nothing is left to read."""
        return not self.open.any()

    @property
    def progress(self) -> float:
        """From 0 to 1, by tags and time."""
        span = max(1, self.until - self.first)
        left = np.minimum(1.0, (self.until - 1 - self.at[self.open]) / span).sum()
        return 1.0 - float(left) / max(1, self.tags)

    def result(self) -> dict[str, Any]:
        """What was done so far."""
        told: dict[str, Any] = {
            "tags": self.tags,
            "tags_done": self.tags - int(self.open.sum()) - self.left_out,
            "values": self.values,
        }
        if self.left_out:
            told |= {"tags_left_out": self.left_out, "why": dict(self.why)}
        return told


class Requested:
    """The requests of a connection.

    handle_of: the handle of a tag's stream, None while it has none; past_of: "" for a tag whose past can be read, why
    it cannot, or None while that is not known.
    """

    def __init__(
        self,
        handle_of: Callable[[str], int | None],
        past_of: Callable[[str], str | None],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._handle_of = handle_of
        self._past_of = past_of
        self._patience = patience
        self._requests: dict[str, Request] = {}  # by id, in the order in which they came
        self._numbers = 0
        self._unwritten: dict[str, bytes | None] = {}  # tags of requests that came or went since the last dump
        self._busy: dict[int, tuple[Request, int, Piece]] = {}  # by handle: the tag's place in its request
        self._due: dict[int, float] = {}  # by place in the present request
        self._missed: dict[int, float] = {}  # the same: not collected since when
        self._failed: dict[int, int] = {}  # the same: how often in a row
        self._of: Request | None = None  # whose these four are
        self._ready: deque[tuple[int, int]] = deque()  # (place, handle) by time, as found lately

    def add(self, identity: str, first: int, until: int, tags: Collection[str]) -> None:
        """Ask for a range; the id must be new."""
        self._numbers += 1
        names = tuple(tags)[:_MOST_TAGS]
        request = Request(
            identity,
            first,
            until,
            len(names),
            names,
            np.full(len(names), _before_tick(first), np.int64),
            np.ones(len(names), np.bool_),
            self._numbers,
        )
        self._requests[identity] = request
        self._unwritten[f"{POSITION}/{request.number}"] = zlib.compress(json.dumps(names).encode(), 1)
        done = [one for one in self._requests.values() if one.over]
        for old in done[:-_MOST_DONE]:
            self._drop_names(old)
            del self._requests[old.id]

    def get(self, identity: str) -> Request | None:
        """A request that is known, done or not."""
        return self._requests.get(identity)

    @property
    def waiting(self) -> int:
        """How many are not done."""
        return sum(not one.over for one in self._requests.values())

    @property
    def _present(self) -> Request | None:
        request = next((one for one in self._requests.values() if not one.over), None)
        if request is not self._of:
            self._of = request
            self._ready.clear()
            for kept in (self._due, self._missed, self._failed):
                kept.clear()
        return request

    # --- what the reader asks ---

    def work(self, lower: int, now: float, most: int) -> Piece | None:
        """What to read next with one call: tags alike in time, none of them busy, and never past `lower` (ns)."""
        request = self._present
        if request is None:
            return None
        if not self._ready:
            self._look(request, now)
        places: list[int] = []
        handles: list[int] = []
        stop = 0
        while self._ready and len(places) < most:
            place, handle = self._ready[0]
            if not request.open[place] or handle in self._busy:
                self._ready.popleft()
                continue
            at = int(request.at[place])
            if places and (at - int(request.at[places[0]]) > _ALIKE or at >= stop):
                break
            self._ready.popleft()
            if not places:
                stop = min(at + WINDOW, request.until - 1, lower)
                if stop <= at:
                    break  # the server's clock has not come there yet
            places.append(place)
            handles.append(handle)
        if not places:
            return None
        piece = Piece(Kind.REQUESTED, np.array(handles, np.int32), request.at[places] + 1, stop)
        for place, handle in zip(places, handles, strict=True):
            self._busy[handle] = request, place, piece
        return piece

    def _look(self, request: Request, now: float) -> None:
        """Find what can be read, earliest first; leave out what cannot."""
        found = []
        taken: set[int] = set()
        for place in np.flatnonzero(request.open).tolist():
            if self._due.get(place, now) > now:
                continue
            tag = request.names[place]
            if request.at[place] >= request.until - 1:
                request.open[place] = False
                continue
            handle, why = self._handle_of(tag), self._past_of(tag)
            if why:
                self._leave_out(request, place, why)
            elif handle is None or why is None:
                if now - self._missed.setdefault(place, now) >= self._patience:
                    self._leave_out(request, place, NOT_COLLECTED)
            elif handle not in self._busy and handle not in taken:
                self._missed.pop(place, None)
                taken.add(handle)
                found.append((int(request.at[place]), place, handle))
        self._ready = deque((place, handle) for _, place, handle in sorted(found))

    def _leave_out(self, request: Request, place: int, why: str) -> None:
        request.open[place] = False
        request.left_out += 1
        if len(request.why) < _NAMED:
            request.why[request.names[place]] = why[:_WHY]
        for kept in (self._due, self._missed, self._failed):
            kept.pop(place, None)

    def advanced(self, piece: Piece, handles: NDArray[np.int32], upto: NDArray[np.int64], values: int) -> None:
        """So many values were handed on, and of these streams everything of the piece up to these times."""
        request = None
        for handle, to in zip(handles.tolist(), upto.tolist(), strict=True):
            if (found := self._busy.get(handle)) is not None and found[2] is piece:
                request, place, _ = found
                request.at[place] = max(int(request.at[place]), _after_tick(min(to, piece.stop)))
                self._failed.pop(place, None)
        if request is not None:
            request.values += values

    def finished(self, piece: Piece) -> None:
        """The piece has been read to its end."""
        for request, place in self._release(piece, piece.streams):
            self._due.pop(place, None)
            request.at[place] = max(int(request.at[place]), _after_tick(piece.stop))
            request.open[place] = request.at[place] < request.until - 1

    def failed(self, piece: Piece, handles: NDArray[np.int32], why: str, due: float) -> None:
        """These streams of the piece were not read to its end; not before `due` again, and not for ever."""
        for request, place in self._release(piece, handles):
            self._due[place] = due
            self._failed[place] = self._failed.get(place, 0) + 1
            if self._failed[place] >= TRIES:
                self._leave_out(request, place, why)

    def returned(self, piece: Piece, due: float) -> None:
        """Nobody's fault in particular: read on not before `due`."""
        for _, place in self._release(piece, piece.streams):
            self._due[place] = due

    def _release(self, piece: Piece, handles: NDArray[np.int32]) -> list[tuple[Request, int]]:
        released = []
        for handle in handles.tolist():
            found = self._busy.get(handle)
            if found is None or found[2] is not piece:
                continue
            del self._busy[handle]
            if found[0] is self._present and found[0].open[found[1]]:
                released.append((found[0], found[1]))
        return released

    def paused(self) -> None:
        """The connection does not run: nobody is missed meanwhile."""
        self._missed.clear()

    def interrupted(self) -> None:
        """Whatever was under way comes to nothing."""
        self._busy.clear()
        self._ready.clear()

    # --- what survives ---

    def dump(self) -> dict[str, bytes | None]:
        """The positions to note with what was handed on just now. The names of tags are in it when they are new."""
        requests = list(self._requests.values())
        for one in requests:
            if one.over:
                self._drop_names(one)
        head = json.dumps(
            {
                "v": _VERSION,
                "numbers": self._numbers,
                "requests": [
                    [
                        *(one.id, one.first, one.until, one.tags, one.number),
                        *(one.values, one.left_out, one.why, len(one.names)),
                    ]
                    for one in requests
                ],
            }
        ).encode()
        columns = b"".join(one.at.tobytes() + one.open.tobytes() for one in requests)
        written, self._unwritten = self._unwritten, {}
        return {POSITION: zlib.compress(len(head).to_bytes(4, "little") + head + columns, 1), **written}

    def _drop_names(self, request: Request) -> None:
        if request.names:
            request.names, request.at, request.open = (), np.empty(0, np.int64), np.empty(0, np.bool_)
            self._unwritten[f"{POSITION}/{request.number}"] = None

    def load(self, position: Callable[[str], bytes | None]) -> str:
        """Take a dump over. Returns what is wrong with it, and then takes nothing."""
        data = position(POSITION)
        if data is None:
            return ""
        try:
            plain = _unpacked(data)
            size = int.from_bytes(plain[:4], "little")
            head = json.loads(plain[4 : 4 + size])
            if head["v"] != _VERSION:
                raise ValueError(f"version {head['v']!r}")
            place = 4 + size
            requests = []
            for row in head["requests"]:
                request, place = _request(row, plain, place, position)
                requests.append(request)
            numbers = int(head["numbers"])
        except (ValueError, TypeError, KeyError, LookupError, AttributeError, zlib.error, RecursionError) as error:
            return f"the notes of ranges that were asked for cannot be read and are dropped: {error!r}"
        self._requests = {one.id: one for one in requests}
        self._numbers = numbers
        return ""

    def positions(self) -> list[str]:
        """Of everything that may be kept."""
        return [POSITION, *(f"{POSITION}/{one.number}" for one in self._requests.values())]

    def status(self) -> dict[str, Any]:
        """What there is still to do; nothing when there is nothing."""
        request = self._present
        if request is None:
            return {}
        return {"requests": self.waiting, "tags": int(request.open.sum()), "progress": round(request.progress, 3)}


def _before_tick(time: int) -> int:
    """The end of all that lies before the first tick from `time` on."""
    return -(-time // TICK) * TICK - 1


def _after_tick(time: int) -> int:
    """The end of the tick that `time` is in: values stand at its beginning."""
    return time // TICK * TICK + TICK - 1


def _request(row: Any, plain: bytes, place: int, position: Callable[[str], bytes | None]) -> tuple[Request, int]:
    """A request of a dump whose columns begin at place, and where they end. Raises what is no such thing."""
    identity, first, until, tags, number, values, left_out, why, left = row
    numbers = [first, until, tags, number, values, left_out, left]
    if not isinstance(identity, str) or not all(type(one) is int for one in numbers) or left not in (0, tags):
        raise ValueError("a request is none")
    if not 0 <= tags <= _MOST_TAGS or len(plain) < place + 9 * left:
        raise ValueError("a request is cut off")
    names: tuple[str, ...] = ()
    if left:
        kept = position(f"{POSITION}/{number}")
        names = tuple(json.loads(_unpacked(kept))) if kept is not None else ()
        if len(names) != tags or not all(isinstance(name, str) for name in names):
            raise ValueError("the tags of a request are not those that it had")
    at = np.frombuffer(plain, np.int64, left, place).copy()
    place += 8 * left
    open_ = np.frombuffer(plain, np.uint8, left, place).astype(np.bool_)
    place += left
    reasons = {str(tag): str(text)[:_WHY] for tag, text in dict(why).items()}
    return Request(identity, first, until, tags, names, at, open_, number, values, left_out, reasons), place


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    plain = unpacking.decompress(data, _LARGEST)
    if not unpacking.eof:
        raise ValueError("cut off, or too large")
    return plain
