"""What was handed on before, so that it is not handed on again. Pure.

Theory of operation. The same value comes by several ways: from a channel, from the archive that is read behind it, and
again when that is read anew. What tells values apart is (stream, time, value, ordinal): the ordinal counts identical
rows within one answer, for PI keeps several events of one time. All that is remembered of a value is a key of 64 bits,
mixed from those four; with 6,000,000 keys kept one value in 3,000,000,000,000 is taken for another.

Keys lie in sorted runs, each of which knows between which times its values lie. A look-up is a binary search in the
runs whose times overlap with what is asked, mostly one or two:

    open runs   what was handed on since the last checkpoint: a run per call, merged whenever the one before it is not
                twice as large
    segments    of checkpoints; immutable, the bytes of a position as they are. Neighbours of about one size are merged,
                FACTOR at a time, so that there are few, and each key is written a few times only

Forgotten is, at a checkpoint, an open key whose value lies before what its stream can be read from again (`needed`:
frontier less overlap, or the reconciliation window, whichever is earlier), so that a long backfill leaves nothing
behind; and a segment all of whose values lie before the horizon, which is that of the stream that is furthest behind.

Bounded: beyond `most` keys the oldest segment goes (`shortened` counts its keys): values of that time that are read
again come twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST: Final = 6_000_000
FACTOR: Final = 6
LARGEST: Final = 1_000_000
"""Keys of one segment, at most: what is written at once."""

Keys = NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_EARLIEST: Final = -(2**63)
_LATEST: Final = 2**63 - 1


def mixed(values: Keys) -> Keys:
    """Each number mixed thoroughly (the finalizer of splitmix64): the same on every machine and in every version."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    mixed: Keys = values ^ (values >> np.uint64(31))
    return mixed


def keys_of(
    salts: Keys, time: NDArray[np.int64], hashes: Keys, answers: NDArray[np.int32] | None = None
) -> tuple[Keys, NDArray[np.intp]]:
    """The keys of values, sorted, and of which row each is. Identical rows get ordinals, in the order of the rows.

    answers: the number of each row's answer, rising; ordinals begin anew with each. Identical keys are then in the
    order of the answers. None: one answer.
    """
    keys = mixed(mixed(salts + _GOLDEN * time.view(np.uint64)) ^ (hashes + _GOLDEN))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    if same.any():
        rows = np.arange(len(keys))
        if answers is not None:
            of = answers[order]
            same &= of[1:] == of[:-1]
        begins = np.concatenate(([True], ~same))
        ordinal = (rows - np.maximum.accumulate(np.where(begins, rows, 0))).astype(np.uint64)
        keys = np.where(ordinal > 0, mixed(keys + _GOLDEN * ordinal), keys)
        again = np.argsort(keys, kind="stable")
        keys, order = keys[again], order[again]
    return keys, order


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Sorted keys of values between two times, ns, both inclusive."""

    keys: Keys
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run that is kept, under a number."""

    number: int
    run: Run
    note: bytes
    """The position's bytes: the keys as they are."""
    crc: int


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What was noted by one call, until the next checkpoint decides what of it is kept."""

    keys: Keys
    stream: NDArray[np.int32]
    time: NDArray[np.int64]


class Tail:
    """All keys of a connection."""

    def __init__(self, *, most: int = MOST) -> None:
        self.most = most
        self.shortened = 0
        """Keys that had to go for want of room."""
        self.forgotten = _EARLIEST
        """Keys of values before this time, ns, may have gone."""
        self._segments: list[Segment] = []  # oldest first
        self._open: list[Run] = []
        self._rows: list[_Rows] = []  # since the last fold
        self._loose: list[Run] = []  # of journals that were loaded: they have no rows
        self._fresh = 0
        self.next = 0
        """Number of the next segment."""

    def __len__(self) -> int:
        return sum(len(segment.run.keys) for segment in self._segments) + self.open

    @property
    def open(self) -> int:
        """Keys since the last checkpoint."""
        return self._fresh + sum(len(run.keys) for run in self._loose)

    @property
    def segments(self) -> Sequence[Segment]:
        """Those that are kept, oldest first."""
        return self._segments

    def seen(self, keys: Keys, first: int, last: int) -> NDArray[np.bool_]:
        """Which of these sorted keys, of values between two times, are remembered."""
        found = np.zeros(len(keys), np.bool_)
        for run in self._runs():
            if run.first <= last and run.last >= first and len(run.keys):
                at = np.searchsorted(run.keys, keys)
                at[at == len(run.keys)] = 0
                found |= run.keys[at] == keys
        return found

    def _runs(self) -> list[Run]:
        return [*self._open, *self._loose, *(segment.run for segment in self._segments)]

    def note(self, keys: Keys, stream: NDArray[np.int32], time: NDArray[np.int64]) -> None:
        """Remember sorted keys, with the streams and times of their values."""
        if not len(keys):
            return
        self._rows.append(_Rows(keys, stream, time))
        self._fresh += len(keys)
        run = Run(keys, int(time.min()), int(time.max()))
        while self._open and len(self._open[-1].keys) < 2 * len(run.keys):
            run = _merged([self._open.pop(), run])
        self._open.append(run)

    def loaded(self, keys: Keys, first: int, last: int) -> None:
        """Keys of a journal that was kept."""
        if len(keys):
            run = Run(np.sort(keys), first, last)
            while self._loose and len(self._loose[-1].keys) < 2 * len(run.keys):
                run = _merged([self._loose.pop(), run])
            self._loose.append(run)

    def restore(self, number: int, note: bytes, count: int, crc: int, first: int, last: int) -> bool:
        """A segment that was kept, oldest first; False: it is damaged."""
        if len(note) != 8 * count or zlib.crc32(note) != crc:
            return False
        self._segments.append(Segment(number, Run(np.frombuffer(note, "<u8"), first, last), note, crc))
        self.next = max(self.next, number + 1)
        return True

    def fold(self, needed: NDArray[np.int64], horizon: int) -> tuple[list[Segment], list[int]]:
        """What is open becomes a segment: which are new and which go, by number.

        needed: by handle, the time before which its values are not read again, ns.
        """
        before = {segment.number for segment in self._segments}
        runs = [*self._loose, *self._kept(needed)]
        self._open, self._rows, self._loose, self._fresh = [], [], [], 0
        if runs:
            self._append([_merged(runs)])
        self.forget_before(horizon)
        self._merge()
        self._bound()
        after = {segment.number for segment in self._segments}
        return [segment for segment in self._segments if segment.number not in before], sorted(before - after)

    def _kept(self, needed: NDArray[np.int64]) -> list[Run]:
        if not self._rows:
            return []
        keys = np.concatenate([rows.keys for rows in self._rows])
        stream = np.concatenate([rows.stream for rows in self._rows])
        time = np.concatenate([rows.time for rows in self._rows])
        wanted = time >= needed[stream]
        if not wanted.any():
            return []
        time = time[wanted]
        return [Run(np.sort(keys[wanted]), int(time.min()), int(time.max()))]

    def _append(self, runs: Sequence[Run], at: int | None = None) -> None:
        for run in runs:
            for start in range(0, len(run.keys), LARGEST):
                keys = run.keys[start : start + LARGEST]
                note = keys.astype("<u8", copy=False).tobytes()
                segment = Segment(
                    self.next, Run(np.frombuffer(note, "<u8"), run.first, run.last), note, zlib.crc32(note)
                )
                self.next += 1
                self._segments.insert(len(self._segments) if at is None else at, segment)
                at = None if at is None else at + 1

    def forget_before(self, horizon: int) -> None:
        """Segments all of whose values lie before it, ns, go."""
        gone = [segment.run.last for segment in self._segments if segment.run.last < horizon]
        if gone:
            self.forgotten = max(self.forgotten, max(gone) + 1)
            self._segments = [segment for segment in self._segments if segment.run.last >= horizon]

    def _merge(self) -> None:
        while (found := self._alike()) is not None:
            start, stop = found
            runs = [segment.run for segment in self._segments[start:stop]]
            del self._segments[start:stop]
            self._append([_merged(runs)], start)

    def _alike(self) -> tuple[int, int] | None:
        """FACTOR neighbours or more, none of which is of a higher level of size than the newest of them."""
        levels = [_level(len(segment.run.keys)) for segment in self._segments]
        stop = len(levels)
        while stop > 0:
            start = stop - 1
            while start > 0 and levels[start - 1] <= levels[stop - 1]:
                start -= 1
            size = sum(len(segment.run.keys) for segment in self._segments[start:stop])
            if stop - start >= FACTOR and size <= LARGEST:
                return start, stop
            stop -= 1
        return None

    def _bound(self) -> None:
        kept = sum(len(segment.run.keys) for segment in self._segments)
        while kept > self.most and self._segments:
            oldest = min(self._segments, key=lambda segment: (segment.run.last, segment.number))
            self._segments.remove(oldest)
            kept -= len(oldest.run.keys)
            self.shortened += len(oldest.run.keys)
            self.forgotten = max(self.forgotten, oldest.run.last + 1)

    def status(self) -> dict[str, Any]:
        """For the status."""
        return {"keys": len(self), "segments": len(self._segments), "shortened": self.shortened}


def _merged(runs: Sequence[Run]) -> Run:
    # Timsort finds the sorted runs by itself: this merges them.
    keys = np.sort(np.concatenate([run.keys for run in runs]), kind="stable")
    return Run(
        keys,
        min((run.first for run in runs), default=_LATEST),
        max((run.last for run in runs), default=_EARLIEST),
    )


def _level(count: int) -> int:
    level = 0
    while count >= FACTOR:
        count //= FACTOR
        level += 1
    return level
