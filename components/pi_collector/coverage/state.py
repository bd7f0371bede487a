"""Everything that is remembered of a connection's streams: frontiers and gaps, what was handed on, and their handles.

Nothing here does I/O: positions are given and taken as bytes. Whoever hands values on does, without a pause between:

    rows = state.fresh(timed)                               # what was not handed on before
    state.advance(handles, upto)                            # when they were read: how far that was
    outlet.submit(columns, positions=state.journal())       # one transaction

and likewise `ledger.events`, `journal`, `submit_events`. When `due` says so: `outlet.note(checkpoint())`.
What is kept, and why the order of these transactions is enough, stands in `kept`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from pi_collector.coverage import kept
from pi_collector.coverage.coverage import NOT_COLLECTED, UNSET, Coverage
from pi_collector.coverage.kept import DamagedError
from pi_collector.coverage.ledger import Ledger
from pi_collector.coverage.tail import MOST, Tail, keys_of
from pi_collector.values.timed import Timed

logger = logging.getLogger(__name__)

EVERY: Final = 10.0
"""Seconds from one checkpoint to the next, if anything has happened."""
JOURNALS: Final = 2_000
"""Journals after which a checkpoint is due in any case,"""
KEYS: Final = 200_000
"""and keys."""
REMEMBERED: Final = 7 * 86400.0
"""Seconds that a stream is remembered which is not collected any more."""
MOST_REMOVED: Final = 20_000
_STALE: Final = 600.0  # seconds for which answers may still be under way to what a handle stood for
_BEGIN_WITHIN: Final = 3600.0  # seconds after the start: what was collected before and is not by then is removed


class State:
    """The state of one connection. now_wall_s: seconds since 1970, for how long removed streams are remembered."""

    def __init__(self, now_wall_s: Callable[[], float], *, most_keys: int = MOST) -> None:
        self.ledger = Ledger()
        self.coverage = Coverage(self.ledger)
        self.tail = Tail(most=most_keys)
        self.unknown = 0
        """Rows of handles that stand for nothing."""
        self.reconcile_ns = 3600 * 10**9
        """How far before the server's present values are read again, at the most: their keys are kept. May change."""
        self._wall = now_wall_s
        self._keys: list[str] = []  # by handle; "" for a free one
        self._handles: dict[str, int] = {}
        self._salts: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._free: deque[tuple[int, float]] = deque()  # handles, and since when they stand for nothing
        self._gone: dict[str, float] = {}  # removed at, by key, oldest first
        self._unbegun: set[int] = set()  # loaded, and not asked for since
        self._loaded_at = now_wall_s()
        self._names: dict[str, list[Any]] = {}  # changed since the last journal, by key: [handle, removed at]
        self._first = self._next = 0  # journals
        self._folded: tuple[dict[str, bytes | None], int] | None = None  # a checkpoint, and the journals before it
        self._streams_changed = True
        self._fresh_keys: list[tuple[NDArray[np.uint64], int, int]] = []
        self._since: float | None = None  # when the first thing happened that no checkpoint has
        self._stray: dict[str, None] = {}  # positions of a state that was damaged

    # --- streams ---

    def handle(self, key: str) -> int:
        """The stream's handle, kept or new."""
        found = self._handles.get(key)
        if found is None:
            if self._free and self._wall() - self._free[0][1] >= _STALE:
                found, _ = self._free.popleft()
                self.coverage.clear(found)
            else:
                found = len(self._keys)
                self._keys.append("")
            self._know(key, found)
            self._names[key] = [found, None]
            self._streams_changed = True
        elif key in self._gone:
            del self._gone[key]
            self.coverage.forgotten(found, self.tail.forgotten)
            self._names[key] = [found, None]
            self._streams_changed = True
        self._unbegun.discard(found)
        return found

    @property
    def streams(self) -> int:
        """How many are known, collected at present or not."""
        return len(self._handles)

    def key(self, handle: int) -> str:
        """The stream's key; empty for a handle that stands for nothing."""
        return self._keys[handle] if 0 <= handle < len(self._keys) else ""

    def _know(self, key: str, handle: int) -> None:
        self._handles[key] = handle
        self._keys[handle] = key
        self.coverage.grow(len(self._keys))
        if len(self._salts) < len(self._keys):
            self._salts = np.concatenate([self._salts, np.zeros(max(64, len(self._keys)), np.uint64)])
        self._salts[handle] = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")

    def release(self, handle: int) -> None:
        """The stream is not collected any more. It is remembered for a while, should it come back."""
        key = self.key(handle)
        if not key or key in self._gone:
            return
        self.coverage.end(handle, NOT_COLLECTED)
        self._gone[key] = self._wall()
        self._names[key] = [handle, self._gone[key]]
        self._streams_changed = True
        if len(self._gone) > MOST_REMOVED:
            self._forget(next(iter(self._gone)))

    def _forget(self, key: str) -> None:
        handle = self._handles.pop(key)
        self._gone.pop(key, None)
        self._keys[handle] = ""
        self.coverage.clear(handle)
        self._free.append((handle, self._wall()))
        self._names[key] = [None, None]
        self._streams_changed = True

    def _forget_old(self) -> None:
        now = self._wall()
        for key in [key for key, since in self._gone.items() if now - since > REMEMBERED]:
            self._forget(key)
        if self._unbegun and now - self._loaded_at > _BEGIN_WITHIN:
            for handle in self._unbegun:
                self.coverage.give_up(handle, NOT_COLLECTED)
                self.release(handle)
            self._unbegun = set()

    # --- values ---

    def fresh(self, timed: Timed, answers: NDArray[np.int32] | None = None) -> NDArray[np.bool_]:
        """Rows that were not handed on before; from now on they count as handed on.

        answers: the number of each row's answer, rising, where there are several: the same as a call for each. None:
        one.
        """
        mask, keys, order = self._unseen(timed, answers)
        unseen = keys[mask]
        if len(unseen):
            rows = order[mask]
            stream, time = timed.stream[rows], timed.time[rows]
            self.tail.note(unseen, stream, time)
            self._fresh_keys.append((unseen, int(time.min()), int(time.max())))
            for number, values in self.coverage.recovering(stream, time).items():
                self.ledger.recovered(number, values)
        return _by_row(mask, order, len(timed))

    def known(self, timed: Timed) -> NDArray[np.bool_]:
        """Rows that were handed on before. Takes no note."""
        mask, _, order = self._unseen(timed, None)
        return ~_by_row(mask, order, len(timed))

    def _unseen(
        self, timed: Timed, answers: NDArray[np.int32] | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint64], NDArray[np.intp]]:
        """Which keys of the rows are not remembered, all keys, and of which row each is."""
        stream = timed.stream
        if not len(stream):
            return np.zeros(0, np.bool_), np.zeros(0, np.uint64), np.zeros(0, np.intp)
        strange = (stream < 0) | (stream >= len(self._keys))
        if strange.any():
            self.unknown += int(strange.sum())
            rows = np.flatnonzero(~strange)
            mask, keys, order = self._unseen(timed.take(rows), None if answers is None else answers[rows])
            return mask, keys, rows[order]
        keys, order = keys_of(self._salts[stream], timed.time, timed.hash, answers)
        unseen = ~self.tail.seen(keys, int(timed.time.min()), int(timed.time.max()))
        if answers is not None:  # what an earlier one has, too, was handed on with it
            unseen[1:] &= keys[1:] != keys[:-1]
        return unseen, keys, order

    def advance(self, handles: NDArray[np.int32], upto: NDArray[np.int64]) -> None:
        """These streams have been read, and handed on, completely up to there (ns each)."""
        self.coverage.advance(handles, upto)

    # --- what is kept ---

    def journal(self) -> dict[str, bytes | None]:
        """Positions for the transaction of all that happened since the last call; empty when nothing has."""
        sections = self._changes()
        if not sections:
            return {}
        number = self._next
        self._next += 1
        return {kept.journal_key(number): kept.pack(sections), kept.JOURNAL: self._pointer()}

    def _changes(self) -> dict[str, bytes]:
        sections: dict[str, bytes] = {}
        if self._fresh_keys:
            keys = np.concatenate([keys for keys, _, _ in self._fresh_keys])
            span = np.array([min(f for _, f, _ in self._fresh_keys), max(t for _, _, t in self._fresh_keys)], np.int64)
            sections["keys"], sections["span"] = kept.content(keys), kept.content(span)
            self._fresh_keys = []
        if self._names:
            sections["names"] = orjson.dumps(self._names)
            self._names = {}
        sections.update(self._frontiers(self.coverage.changes()))
        sections.update(self.ledger.dump(whole=False))
        return sections

    def _frontiers(self, handles: NDArray[np.int32]) -> dict[str, bytes]:
        if not len(handles):
            return {}
        covered, floor, flags, gap = self.coverage.frontiers(handles)
        return {
            "handles": kept.steps(handles),
            "covered": kept.content(covered),
            "floor": kept.content(floor),
            "flags": kept.content(flags),
            "gap": kept.content(gap),
        }

    def _pointer(self) -> bytes:
        tails = [segment.number for segment in self.tail.segments]
        numbers = np.array([self._first, self._next, min(tails, default=self.tail.next), self.tail.next], np.int64)
        return kept.pack({"numbers": kept.content(numbers)})

    def due(self, now_mono: float) -> bool:
        """Whether it is time for a checkpoint."""
        if self._folded is not None:
            return False
        if self._next == self._first and not self.tail.open and not self.coverage.moved:
            self._since = None
            return False
        if self._since is None:
            self._since = now_mono
        return now_mono - self._since >= EVERY or self._next - self._first >= JOURNALS or self.tail.open >= KEYS

    def checkpoint(self) -> dict[str, bytes | None]:
        """Positions that take the place of all journals so far, when all of these are durable."""
        self._changes()
        self.fold()
        return self.folded()

    def fold(self) -> None:
        """Take a checkpoint down as all is now. It is given by `folded`, which is for when all journals so far are
        durable: one that is stored though a journal before it was refused would be ahead of what is."""
        self._forget_old()
        self._since = None
        self.coverage.moved = False
        lower = self.coverage.lower
        horizon = UNSET if lower == UNSET else lower - self.reconcile_ns
        new, gone = self.tail.fold(self.coverage.needed(horizon), self.coverage.horizon(horizon))
        positions: dict[str, bytes | None] = {} if self._folded is None else self._folded[0]
        positions.update(dict.fromkeys(self._stray))
        self._stray = {}
        for number in gone:
            positions[kept.tail_key(number)] = None
        for segment in new:
            positions[kept.tail_key(segment.number)] = segment.note
        handles = np.array(sorted(self._handles.values()), np.int32)
        head = {
            "journal": self._next,
            "tails": [
                [segment.number, len(segment.run.keys), segment.crc, segment.run.first, segment.run.last]
                for segment in self.tail.segments
            ],
            "next_tail": self.tail.next,
            "shortened": self.tail.shortened,
            "forgotten": self.tail.forgotten,
        }
        positions[kept.COVERAGE] = kept.pack(
            {"head": orjson.dumps(head), **self._frontiers(handles), **self.ledger.dump(whole=True)}
        )
        if self._streams_changed:
            names = [[self._keys[handle], int(handle), self._gone.get(self._keys[handle])] for handle in handles]
            positions[kept.STREAMS] = kept.pack({"names": orjson.dumps(names)})
            self._streams_changed = False
        self._folded = positions, self._next

    def folded(self) -> dict[str, bytes | None]:
        """Positions of the checkpoint that was taken down last; empty when it was given before."""
        if self._folded is None:
            return {}
        (positions, following), self._folded = self._folded, None
        for number in range(self._first, following):
            positions[kept.journal_key(number)] = None
        self._first = following
        positions[kept.JOURNAL] = self._pointer()
        return positions

    def positions(self) -> list[str]:
        """All that may be kept, for who wants to delete it."""
        journals = [kept.journal_key(number) for number in range(self._first, self._next)]
        tails = [kept.tail_key(segment.number) for segment in self.tail.segments]
        return [kept.JOURNAL, kept.COVERAGE, kept.STREAMS, *journals, *tails, *self._stray]

    # --- what was kept ---

    def load(self, position: Callable[[str], bytes | None]) -> list[str]:
        """What was kept, into a new state. Says what of it could not be read, and what that costs; never raises."""
        troubles: list[str] = []
        pointer = self._read(position, kept.JOURNAL, troubles)
        first, following, first_tail, next_tail = 0, 0, 0, 0
        with _told(troubles, kept.JOURNAL, "what happened since the last checkpoint is read again"):
            if pointer is not None:
                first, following, first_tail, next_tail = map(int, kept.column(pointer, "numbers", np.int64, 4))
        streams = self._read(position, kept.STREAMS, troubles)
        coverage = self._read(position, kept.COVERAGE, troubles)
        lost = pointer is not None and coverage is None and first > 0
        with _told(troubles, kept.STREAMS, "streams begin anew"):
            self._load_names(streams)
        head: dict[str, Any] = {"journal": 0, "tails": [], "next_tail": 0, "shortened": 0}
        with _told(troubles, kept.COVERAGE, "streams begin anew, and what they had may come twice"):
            if coverage is not None:
                head = {**head, **orjson.loads(coverage["head"])}
                self._load_frontiers(coverage)
                self.ledger.load(coverage)
        whole = self._load_tails(position, head, troubles)
        self._stray = {
            kept.tail_key(number): None
            for number in range(first_tail, next_tail)
            if number not in {tail[0] for tail in head["tails"]}
        }
        self._first = int(head["journal"]) if coverage is not None else first
        self._next = max(following, self._first)
        self.tail.next = max(self.tail.next, int(head["next_tail"]), next_tail)
        stored = True
        for number in range(self._first, self._next):
            if position(kept.journal_key(number)) is None:
                troubles.append(
                    f"Position {kept.journal_key(number)} is missing: it was never stored, nor was what it told of. "
                    "Streams go on from before it."
                )
                stored = False
            else:
                whole &= self._load_journal(position, number, troubles, whole=stored)
        if lost:
            troubles.append("What was kept of the streams is gone: they begin anew, and what they had may come twice.")
        if not whole:
            self.coverage.read_nothing_again()
            troubles.append(
                "What was handed on before is not all remembered: nothing is read again from before the place where "
                "each stream goes on, and values behind that may come twice."
            )
        self._settle()
        self._streams_changed = True
        return troubles

    def _read(self, position: Callable[[str], bytes | None], key: str, troubles: list[str]) -> dict[str, bytes] | None:
        note = position(key)
        if note is None:
            return None
        try:
            return kept.unpack(note)
        except DamagedError as error:
            troubles.append(f"Position {key} cannot be read: {error}.")
            return None

    def _load_names(self, sections: Mapping[str, bytes] | None) -> None:
        for key, handle, gone in orjson.loads(sections["names"]) if sections else []:
            self._name(str(key), int(handle), gone)

    def _name(self, key: str, handle: int, gone: float | None) -> None:
        if not 0 <= handle <= 10_000_000:
            raise DamagedError(f"it has the handle {handle}")
        self._keys += [""] * (handle + 1 - len(self._keys))
        if (old := self._keys[handle]) and old != key:
            self._handles.pop(old, None)
            self._gone.pop(old, None)
            self.coverage.clear(handle)
        self._know(key, handle)
        self._gone.pop(key, None)
        if gone is not None:
            self._gone[key] = float(gone)

    def _load_frontiers(self, sections: Mapping[str, bytes], *, whole: bool = True) -> None:
        """whole False: something before was not stored, and the frontiers lie beyond it: only the rest is taken."""
        handles = kept.from_steps(sections, "handles")
        rows = len(handles)
        covered, floor = (kept.column(sections, name, np.int64, rows) for name in ("covered", "floor"))
        flags, gap = kept.column(sections, "flags", np.uint8, rows), kept.column(sections, "gap", np.int32, rows)
        known = np.array([bool(self.key(int(handle))) for handle in handles], np.bool_)
        if not whole:
            covered = self.coverage.held_back(handles, floor)
        self.coverage.restore(handles[known], covered[known], floor[known], flags[known], gap[known])

    def _load_tails(
        self, position: Callable[[str], bytes | None], head: Mapping[str, Any], troubles: list[str]
    ) -> bool:
        whole = True
        self.tail.shortened = int(head["shortened"])
        self.tail.forgotten = max(self.tail.forgotten, int(head.get("forgotten", self.tail.forgotten)))
        for number, count, crc, first, last in head["tails"]:
            key = kept.tail_key(number)
            if not self.tail.restore(number, position(key) or b"", count, crc, first, last):
                whole = False
                self._stray[key] = None
                troubles.append(f"Position {key} is damaged: {count} values are not remembered.")
        return whole

    def _load_journal(
        self, position: Callable[[str], bytes | None], number: int, troubles: list[str], *, whole: bool
    ) -> bool:
        """whole: all journals before it are there."""
        key = kept.journal_key(number)
        sections = self._read(position, key, troubles)
        if sections is None:
            troubles.append(f"What position {key} said of up to some thousand values is not remembered.")
            return False
        before = len(troubles)
        with _told(troubles, key, "what it said is not remembered"):
            if "names" in sections:
                for name, (handle, gone) in orjson.loads(sections["names"]).items():
                    if handle is None:
                        if name in self._handles:
                            self._drop(name)
                    else:
                        self._name(name, int(handle), gone)
            if "handles" in sections:
                self._load_frontiers(sections, whole=whole)
            self.ledger.load(sections)
            keys = kept.column(sections, "keys", np.uint64)
            if len(keys):
                first, last = map(int, kept.column(sections, "span", np.int64, 2))
                self.tail.loaded(keys, first, last)
        return len(troubles) == before

    def _drop(self, key: str) -> None:
        handle = self._handles.pop(key)
        self._gone.pop(key, None)
        self._keys[handle] = ""
        self.coverage.clear(handle)

    def _settle(self) -> None:
        """After loading: what was collected before is expected to be collected again."""
        self._free = deque((handle, -_STALE) for handle, key in enumerate(self._keys) if not key)
        self._gone = dict(sorted(self._gone.items(), key=lambda item: item[1]))
        for key in self._gone:
            self.coverage.was_removed(self._handles[key])
        self._unbegun = {handle for key, handle in self._handles.items() if key not in self._gone}
        self.ledger.settle(self.coverage.gaps_inside())
        self._loaded_at = self._wall()

    def status(self) -> dict[str, Any]:
        """For the status."""
        return {
            **self.coverage.status(),
            "gaps": self.ledger.status(),
            "remembered": self.tail.status(),
            "journals": self._next - self._first,
        }


def _by_row(mask: NDArray[np.bool_], order: NDArray[np.intp], rows: int) -> NDArray[np.bool_]:
    by_row = np.zeros(rows, np.bool_)
    by_row[order] = mask
    return by_row


@contextmanager
def _told(troubles: list[str], key: str, cost: str) -> Iterator[None]:
    try:
        yield
    except (DamagedError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        troubles.append(f"Position {key} makes no sense ({error}): {cost}.")
