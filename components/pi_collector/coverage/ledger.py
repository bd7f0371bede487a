"""The gaps of a connection: what was lost when and why, and what became of it. Pure.

Theory of operation. A *gap* is a set of streams that lost what told us of new values, and the time that has to be read
in its place. A stream is in one open gap at most: what it loses while it is in one makes that one longer.

| happens                                  | the gap                                                                  |
|------------------------------------------|--------------------------------------------------------------------------|
| `open`                                   | opened; the same cause before the opening is told: joins that one         |
| `open`, and MOST are open                | joins the newest, which is told again as widened                         |
| `leave`: a stream is covered past its end | has one less; the last one closes it: filled                            |
| `give_up`: a stream is removed           | has one less; the last one closes it: abandoned, with both counts        |
| `given_up_part`: older than maxBackfill  | a gap of its own, opened and abandoned at once                           |

So opened = filled + abandoned + open, always. Each is told by events: when it is opened and when it is closed. An event
counts as told once the journal that is asked for after `events` is durable, with the event: see `State.journal`.

Bounded: MOST open ones; closed ones wait for being told, MOST_UNTOLD of them, beyond which the oldest go untold
(`untold` counts them; the counts of all stay right).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from pi_collector.coverage import kept

MOST: Final = 64
MOST_UNTOLD: Final = 256
NONE: Final = -1

INITIAL: Final = "initial"
RESTART: Final = "restart"
TOO_OLD: Final = "older than maxBackfill"

SNAPSHOTS: Final = (
    "values that PI's compression discarded in this time were in the snapshot alone: the archive does not have them"
)
"""What a gap of streams whose values came by themselves has lost for ever."""

_EVENT_BYTES: Final = 2_500
_OTHER_BYTES: Final = 1_400  # of an event, beside the tags
_TEXT: Final = 200  # characters of cause and remedy
_PARTS: Final = 128
_UNSET: Final = -(2**63)

Handles = NDArray[np.int32]
GapState = Literal["open", "filled", "abandoned"]


@dataclass(slots=True, eq=False)
class Gap:
    """One entry of the ledger."""

    number: int
    id: str
    cause: str
    remedy: str = ""
    unrecoverable: str = ""
    first: int = 2**63 - 1
    """From when on it is read, the earliest of its streams, ns."""
    last: int = _UNSET
    """Until when, the latest of its streams, ns, as far as it is known."""
    streams: int = 0
    left: int = 0
    """Streams that are still in it."""
    given_up: int = 0
    why: str = ""
    """Why streams were given up."""
    recovered: int = 0
    """Values that reading it has brought."""
    every: bool = False
    """Its streams are all of the connection."""
    state: GapState = "open"
    opening_told: bool = False
    widened: int = 0
    """Causes that joined for want of room."""
    widening_told: int = 0
    members: list[Handles] = field(default_factory=list)

    @property
    def handles(self) -> Handles:
        """Its streams, those that have left it too."""
        if len(self.members) > 1:
            self.members = [np.concatenate(self.members)]
        return self.members[0] if self.members else np.empty(0, np.int32)


_KEPT: Final = (
    "number",
    "id",
    "cause",
    "remedy",
    "unrecoverable",
    "first",
    "last",
    "streams",
    "left",
    "given_up",
    "why",
    "recovered",
    "every",
    "state",
    "opening_told",
    "widened",
    "widening_told",
)


class Ledger:
    """All gaps of a connection. prefix: makes ids unique; a ledger that is loaded has the one it was kept with."""

    def __init__(self, prefix: str | None = None) -> None:
        self.opened = 0
        self.filled = 0
        self.abandoned = 0
        self.untold = 0
        """Gaps that were closed and never told."""
        self.streams = 0
        """How many the connection has: a gap of all of them is told without their names. May change at any time."""
        self._prefix = secrets.token_hex(3) if prefix is None else prefix
        self._next = 1
        self._gaps: dict[int, Gap] = {}  # open, or not told to the end
        self._dirty: set[int] = set()
        self._grown: set[int] = set()  # with other members
        self._changed = False

    # --- what happens ---

    def open(
        self,
        handles: Handles,
        cause: str,
        *,
        first: int,
        remedy: str = "",
        unrecoverable: bool = False,
    ) -> int:
        """Streams that are in no gap lost something: the number of the gap in which they are now."""
        cause, remedy = cause[:_TEXT], remedy[:_TEXT]
        gap = self._to_join(cause)
        if gap is None:
            gap = self._new(cause, remedy)
        elif gap.cause != cause:
            gap.widened += 1
        gap.members.append(handles)
        gap.streams += len(handles)
        gap.left += len(handles)
        gap.first = min(gap.first, first)
        if unrecoverable:
            gap.unrecoverable = SNAPSHOTS
        self._touched(gap, grown=True)
        return gap.number

    def _to_join(self, cause: str) -> Gap | None:
        there = [gap for gap in self._gaps.values() if gap.state == "open"]
        for gap in there:
            if gap.cause == cause and not gap.opening_told:
                return gap
        return there[-1] if len(there) >= MOST else None

    def _new(self, cause: str, remedy: str = "") -> Gap:
        gap = Gap(self._next, f"{self._prefix}-{self._next}", cause, remedy)
        self._next += 1
        self.opened += 1
        self._gaps[gap.number] = gap
        return gap

    def ends(self, number: int, last: int) -> None:
        """The gap goes up to this time, ns, for some of its streams."""
        gap = self._gaps[number]
        if last > gap.last:
            gap.last = last
            self._touched(gap)

    def leave(self, number: int, streams: int) -> None:
        """So many of its streams are covered past the gap's end."""
        self._less(self._gaps[number], streams, 0)

    def give_up(self, number: int, streams: int, why: str) -> None:
        """So many of its streams will not be read any more."""
        self._gaps[number].why = why[:_TEXT]
        self._less(self._gaps[number], streams, streams)

    def _less(self, gap: Gap, streams: int, given_up: int) -> None:
        gap.left -= streams
        gap.given_up += given_up
        if gap.left <= 0 and gap.state == "open":
            self._close(gap)
        self._touched(gap)

    def _close(self, gap: Gap) -> None:
        if gap.given_up:
            gap.state = "abandoned"
            self.abandoned += 1
        else:
            gap.state = "filled"
            self.filled += 1
        closed = [other.number for other in self._gaps.values() if other.state != "open"]
        for number in closed[: max(0, len(closed) - MOST_UNTOLD)]:
            del self._gaps[number]
            self._dirty.add(number)
            self.untold += 1

    def given_up_part(self, handles: Handles, first: int, last: int, cause: str = TOO_OLD, remedy: str = "") -> None:
        """A time of some streams, ns, will not be read."""
        gap = self._new(cause[:_TEXT], remedy[:_TEXT])
        gap.members, gap.streams, gap.first, gap.last = [handles], len(handles), first, last
        gap.given_up, gap.why = len(handles), gap.cause
        self._close(gap)
        self._touched(gap, grown=True)

    def recovered(self, number: int, values: int) -> None:
        """Reading has brought so many values of it."""
        gap = self._gaps[number]
        gap.recovered += values
        self._touched(gap)

    def __contains__(self, number: int) -> bool:
        gap = self._gaps.get(number)
        return gap is not None and gap.state == "open"

    def _touched(self, gap: Gap, *, grown: bool = False) -> None:
        self._changed = True
        self._dirty.add(gap.number)
        if grown:
            self._grown.add(gap.number)

    # --- what is told ---

    def events(self, wall_ns: int, names: Callable[[int], str]) -> list[dict[str, Any]]:
        """What is to be told now, each once. The next `State.journal` notes that: store it with them."""
        told: list[dict[str, Any]] = []
        for gap in list(self._gaps.values()):
            if not gap.opening_told:
                gap.opening_told = True
                gap.every = gap.streams == self.streams
                gap.widening_told = gap.widened
                told += _event(gap, "opened", wall_ns, names)
                self._touched(gap)
            elif gap.widening_told != gap.widened:
                gap.widening_told = gap.widened
                gap.every = gap.streams == self.streams
                told += _event(gap, "widened", wall_ns, names)
                self._touched(gap)
            if gap.state != "open":
                told += _event(gap, gap.state, wall_ns, names)
                del self._gaps[gap.number]
                self._touched(gap)
        return told

    def counts(self) -> dict[str, int]:
        """opened = filled + abandoned + open."""
        return {
            "opened": self.opened,
            "filled": self.filled,
            "abandoned": self.abandoned,
            "open": sum(gap.state == "open" for gap in self._gaps.values()),
        }

    def status(self) -> dict[str, Any]:
        """The counts, and the oldest open gaps."""
        there = [gap for gap in self._gaps.values() if gap.state == "open"]
        described = [
            {
                "id": gap.id,
                "cause": gap.cause,
                "from_ns": gap.first,
                "streams": gap.streams,
                "left": gap.left,
                "recovered": gap.recovered,
            }
            for gap in there[:5]
        ]
        return {**self.counts(), "untold": self.untold, "oldest": described}

    # --- what is kept ---

    def dump(self, *, whole: bool) -> dict[str, bytes]:
        """Sections of a note: all of it, or what has changed since the last dump; nothing when nothing has."""
        if not whole and not self._changed:
            return {}
        numbers = list(self._gaps) if whole else sorted(self._dirty)
        grown = list(self._gaps) if whole else sorted(self._grown)
        head = {
            "prefix": self._prefix,
            "next": self._next,
            "counts": [self.opened, self.filled, self.abandoned, self.untold],
            "gaps": [{name: getattr(self._gaps[n], name) for name in _KEPT} for n in numbers if n in self._gaps],
            "gone": [n for n in numbers if n not in self._gaps],
        }
        sections = {"ledger": orjson.dumps(head)}
        for number in grown:
            if number in self._gaps:
                sections[f"members/{number}"] = kept.steps(self._gaps[number].handles)
        self._dirty.clear()
        self._grown.clear()
        self._changed = False
        return sections

    def load(self, sections: Mapping[str, bytes]) -> None:
        """Sections as `dump` made them, one after another.

        Raises DamagedError, ValueError, KeyError or TypeError for others.
        """
        if "ledger" not in sections:
            return
        head = orjson.loads(sections["ledger"])
        self._prefix, self._next = str(head["prefix"]), int(head["next"])
        self.opened, self.filled, self.abandoned, self.untold = (int(count) for count in head["counts"])
        for number in head["gone"]:
            self._gaps.pop(number, None)
        for record in head["gaps"]:
            gap = Gap(**{name: record[name] for name in _KEPT})
            if gap.number in self._gaps:
                gap.members = self._gaps[gap.number].members
            self._gaps[gap.number] = gap
        for name in sections:
            if name.startswith("members/") and (found := self._gaps.get(int(name.removeprefix("members/")))):
                found.members = [kept.from_steps(sections, name)]

    def settle(self, inside: Mapping[int, int]) -> None:
        """After loading: how many streams are in each gap. One that has none is closed, and one that lacks its record
        is made up, so that nothing that was noted is without an end."""
        for number, streams in inside.items():
            if number not in self._gaps:
                gap = Gap(number, f"{self._prefix}-{number}", "its record was damaged", streams=streams)
                self._gaps[number] = gap
                self._next = max(self._next, number + 1)
        self._gaps = dict(sorted(self._gaps.items()))
        for number, gap in list(self._gaps.items()):
            if gap.state == "open":
                gap.left = inside.get(number, 0)
                if gap.left == 0:
                    self._close(gap)
                self._touched(gap)
        held = sum(gap.state == "open" for gap in self._gaps.values())
        self.opened = self.filled + self.abandoned + held


def _event(gap: Gap, state: str, wall_ns: int, names: Callable[[int], str]) -> list[dict[str, Any]]:
    common: dict[str, Any] = {
        "kind": "gap",
        "state": state,
        "id": gap.id,
        "time_ns": wall_ns,
        "cause": gap.cause,
        "from_ns": gap.first,
        "streams": gap.streams,
    }
    if gap.last != _UNSET:
        common["to_ns"] = gap.last
    if gap.remedy:
        common["remedy"] = gap.remedy
    if gap.unrecoverable:
        common["unrecoverable"] = gap.unrecoverable
    if gap.widened:
        common["other_causes"] = gap.widened
    if state != "opened":
        common["recovered"] = gap.recovered
        common["given_up"] = gap.given_up
        if gap.why:
            common["why"] = gap.why
    if gap.every:
        return [{**common, "all": True}]
    parts = _parts([names(int(handle)) for handle in gap.handles])
    told = parts[:_PARTS]
    events = [
        {**common, "tags": part, **({"part": number, "parts": len(told)} if len(told) > 1 else {})}
        for number, part in enumerate(told, 1)
    ]
    if len(parts) > _PARTS:
        events[-1]["tags_left_out"] = sum(map(len, parts[_PARTS:]))
    return events


def _parts(names: Iterable[str]) -> Sequence[list[str]]:
    parts: list[list[str]] = [[]]
    size = 0
    for name in names:
        length = len(orjson.dumps(name)) + 1
        if size + length > _EVENT_BYTES - _OTHER_BYTES and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += length
    return parts
