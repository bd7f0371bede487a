"""Ranges of the past that somebody has asked for (the command `backfill`): what of them is still to be read. Pure.

A request is a range of time and a list of tags. It knows of each tag up to where its samples have been handed on, which
is noted together with them: so a request goes on after a restart where it was, and hands each sample of its range on
once. It knows nothing of what was collected before: what a range has in common with samples that came live, or with
another request, comes again.

Requests of a connection are read one after the other, in the order in which they came, a day of all tags before the
next day; by the same reader as gaps (`backfill`), which calls what is public here as it calls `gaps.Gaps`.

| a tag                                     | becomes                                                              |
|-------------------------------------------|----------------------------------------------------------------------|
| has a history                             | read in pieces of a day, until its range is done                     |
| has none, or the server refuses           | left out, with the reason in the result                              |
| is not monitored for `patience` seconds   | the same: nobody knows its node                                      |
| failed, or its session ended              | read on, a little later                                              |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from opcua_collector.history.gaps import Piece
from opcua_collector.history.marks import NoteError, number, pack, texts, unpack

MOST_REQUESTS: Final = 8
"""Requests of a connection that are not done."""
PATIENCE: Final = 60.0
"""Seconds for which a tag may not be monitored while the connection runs."""
WINDOW: Final = 24 * 3600 * 10**9
_MOST_DONE: Final = 16  # requests that are done and still known
_NAMED: Final = 20  # tags left out that are named, with the reason
_ALIKE: Final = 10 * 10**9  # tags that may be read with one call differ by so much at most
NOT_MONITORED: Final = "it is not collected at present: see the status for what is wrong with its node"


@dataclass(slots=True, eq=False)
class Request:
    """One range. Times are nanoseconds since 1970: first <= time < until."""

    id: str
    first: int
    until: int
    tags: int
    """How many there were at first."""
    at: dict[str, int]
    """Of the tags that are not done: samples up to this time have been handed on."""
    values: int = 0
    left_out: int = 0
    why: dict[str, str] = field(default_factory=dict)
    """Of some of the tags that were left out: the reason."""

    @property
    def over(self) -> bool:
        """Nothing is left to read."""
        return not self.at

    @property
    def progress(self) -> float:
        """From 0 to 1, by tags and time."""
        span = max(1, self.until - self.first)
        left = sum(min(1.0, (self.until - 1 - at) / span) for at in self.at.values())
        return 1.0 - left / max(1, self.tags)

    def result(self) -> dict[str, Any]:
        """What was done so far."""
        told: dict[str, Any] = {
            "tags": self.tags,
            "tags_done": self.tags - len(self.at) - self.left_out,
            "values": self.values,
        }
        if self.left_out:
            told |= {"tags_left_out": self.left_out, "why": dict(self.why)}
        return told


class Requested:
    """The requests of a connection.

    handle_of: the tag's client handle, None while it has none; history_of: "" for a tag with a history, why there is
    none, or None while that is not known.
    """

    def __init__(
        self,
        handle_of: Callable[[str], int | None],
        history_of: Callable[[str], str | None],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self.unknown: set[int] = set()
        """Empty: which tags have a history is found out for the gaps."""
        self._handle_of = handle_of
        self._history_of = history_of
        self._patience = patience
        self._requests: dict[str, Request] = {}  # by id, in the order in which they came
        self._tags: dict[int, str] = {}  # by handle: pieces under way
        self._busy: dict[str, Piece] = {}
        self._due: dict[str, float] = {}
        self._missed: dict[str, float] = {}  # tags that are not monitored: since when
        self._ready: deque[str] = deque()  # tags by time, as found lately

    def add(self, identity: str, first: int, until: int, tags: Collection[str]) -> None:
        """Ask for a range; the id must be new."""
        self._requests[identity] = Request(identity, first, until, len(tags), dict.fromkeys(tags, first - 1))
        done = [one.id for one in self._requests.values() if one.over]
        for old in done[:-_MOST_DONE]:
            del self._requests[old]

    def get(self, identity: str) -> Request | None:
        """A request that is known, done or not."""
        return self._requests.get(identity)

    @property
    def waiting(self) -> int:
        """How many are not done."""
        return sum(not one.over for one in self._requests.values())

    @property
    def _present(self) -> Request | None:
        return next((one for one in self._requests.values() if not one.over), None)

    # --- what the reader asks ---

    def eligible(self, handle: int, why: str) -> None:
        """Known from the gaps."""

    def events(self, now: float) -> list[dict[str, Any]]:
        """None: what could not be read is part of the result."""
        return []

    def work(self, now: float, most: int) -> list[Piece]:
        """What to read next with one call, at most one piece per tag, alike in time."""
        request = self._present
        if request is None:
            return []
        if not self._ready:
            self._look(request, now)
        pieces: list[Piece] = []
        while self._ready and len(pieces) < most:
            tag = self._ready[0]
            at, handle = request.at.get(tag), self._handle_of(tag)
            if at is None or handle is None or tag in self._busy:
                self._ready.popleft()
                continue
            if pieces and at - pieces[0].at > _ALIKE:
                break
            self._ready.popleft()
            piece = Piece(handle, at, min(at + 1 + WINDOW, request.until))
            self._busy[tag], self._tags[handle] = piece, tag
            pieces.append(piece)
        return pieces

    def _look(self, request: Request, now: float) -> None:
        """Find what can be read, earliest first; leave out what cannot."""
        found = []
        for tag, at in list(request.at.items()):
            if tag in self._busy or self._due.get(tag, now) > now:
                continue
            why = None if self._handle_of(tag) is None else self._history_of(tag)
            if why == "":
                self._missed.pop(tag, None)
                found.append((at, tag))
            elif why:
                self._leave_out(request, tag, why)
            elif now - self._missed.setdefault(tag, now) >= self._patience:
                self._leave_out(request, tag, NOT_MONITORED)
        self._ready = deque(tag for _, tag in sorted(found))

    def _leave_out(self, request: Request, tag: str, why: str) -> None:
        del request.at[tag]
        request.left_out += 1
        if len(request.why) < _NAMED:
            request.why[tag] = why
        self._missed.pop(tag, None)
        self._due.pop(tag, None)

    def bounds(self, piece: Piece) -> tuple[int, int] | None:
        """What of the piece is still wanted: at < time < end. None: nothing."""
        found = self._of(piece)
        return None if found is None else (found[0].at[found[1]], piece.until)

    def advanced(self, piece: Piece, upto: int) -> None:
        """Samples of the piece up to this time have been handed on."""
        if (found := self._of(piece)) is not None:
            request, tag = found
            request.at[tag] = max(request.at[tag], upto)

    def brought(self, values: int) -> None:
        """So many values of the present request have been handed on."""
        if (request := self._present) is not None:
            request.values += values

    def finished(self, piece: Piece) -> None:
        """The piece has been read to its end."""
        if (found := self._of(piece)) is None:
            return
        request, tag = found
        self._release(piece, tag)
        self._due.pop(tag, None)
        if piece.until >= request.until:
            del request.at[tag]
        else:
            request.at[tag] = piece.until - 1

    def refused(self, piece: Piece, why: str) -> None:
        """The server keeps no history of the tag after all."""
        if (found := self._of(piece)) is not None:
            self._release(piece, found[1])
            self._leave_out(*found, why)

    def returned(self, piece: Piece, due: float) -> None:
        """The piece was not read to its end; not before `due` again."""
        if (found := self._of(piece)) is not None:
            self._release(piece, found[1])
            self._due[found[1]] = due

    def paused(self) -> None:
        """The connection does not run: nobody is missed meanwhile."""
        self._missed.clear()

    def _of(self, piece: Piece) -> tuple[Request, str] | None:
        """Request and tag of a piece that is being read; None when it is over meanwhile."""
        tag = self._tags.get(piece.handle)
        request = self._present
        if tag is None or self._busy.get(tag) is not piece or request is None or tag not in request.at:
            return None
        return request, tag

    def _release(self, piece: Piece, tag: str) -> None:
        del self._busy[tag], self._tags[piece.handle]

    # --- what survives ---

    def dump(self, newest: int) -> bytes:
        """The state as bytes; `newest` is not needed."""
        rows = [(place, tag, at) for place, one in enumerate(self._requests.values()) for tag, at in one.at.items()]
        requests = [
            [one.id, one.first, one.until, one.tags, one.values, one.left_out, one.why]
            for one in self._requests.values()
        ]
        columns = [np.array([row[0] for row in rows], np.int64), np.array([row[2] for row in rows], np.int64)]
        return pack({"requests": requests, "tags": [tag for _, tag, _ in rows]}, columns)

    def load(self, data: bytes | None) -> str:
        """Take a dump over. Returns what is wrong with it, and then takes nothing."""
        if data is None:
            return ""
        try:
            head, (places, ats) = unpack(data, 2)
            tags = texts(head, "tags", len(places))
            requests = [_request(row) for row in head.get("requests") or ()]
            for place, tag, at in zip(places.tolist(), tags, ats.tolist(), strict=True):
                requests[place].at[tag] = at
        except (NoteError, IndexError, TypeError, ValueError, KeyError) as error:
            return f"the notes of ranges that were asked for cannot be read and are dropped: {error}"
        self._requests = {one.id: one for one in requests}
        return ""

    def status(self) -> dict[str, Any]:
        """What there is still to do; nothing when there is nothing."""
        request = self._present
        if request is None:
            return {}
        return {"requests": self.waiting, "tags": len(request.at), "progress": round(request.progress, 3)}


def _request(row: Any) -> Request:
    identity, first, until, tags, values, left_out, why = row
    if not isinstance(identity, str) or not isinstance(why, Mapping):
        raise NoteError("a request is none")
    counts = {"first": first, "until": until, "tags": tags, "values": values, "left_out": left_out}
    whole = {name: number(counts, name) for name in counts}
    return Request(
        identity,
        whole["first"],
        whole["until"],
        whole["tags"],
        {},
        whole["values"],
        whole["left_out"],
        {str(tag): str(text) for tag, text in why.items()},
    )
