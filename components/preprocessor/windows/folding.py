"""What is known of windows, from the samples in them: sums that more can be added to.

Theory. The samples of a tag, in order of time, are *points*. Each point stands for a *piece* of time: from itself to
the next point, the last one on and on. A window takes in the pieces that reach into it, cut at its edges: so the value
that held when it began counts from its start, and each point counts as a sample in the windows that its own time lies
in. A piece counts as good or it does not; its value holds (stepped), or runs in a line to that of the next point
(sloped, when both are good numbers; with nothing known behind it, it holds).

`Sums` of a window can be made in parts, cut at any point: `folded` of the points up to one, `merged` with `folded` of
that point and those behind it, is `folded` of all. Sums of values are taken as differences from a first value, so that
the spread of large values does not drown in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.windows.ragged import OPEN, Index, Times, found, spread

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

NUMBER: Final = 0
BOOLEAN: Final = 1
TEXT: Final = 2
NOTHING: Final = 3
"""Kinds of values: what the number of a value means. A text's is its place in a table."""
_SECONDS: Final = 1e-9
_FAR: Final = np.iinfo(np.int64).max


@dataclass(slots=True, eq=False)
class Points:
    """Points of several tags, sorted by slot and time; no two of a tag at the same time."""

    slot: NDArray[np.int32]
    t: Times
    value: Floats
    kind: Codes
    good: Mask
    """Whether the value may be used."""
    uncertain: Mask
    context: NDArray[np.int32]
    changed: Mask
    """Whether a good value is another than the good one before it."""

    def __len__(self) -> int:
        return len(self.slot)

    def next(self) -> Times:
        """The time of each tag's next point; OPEN behind its last."""
        behind = np.full(len(self), OPEN, dtype=np.int64)
        same = self.slot[1:] == self.slot[:-1]
        behind[:-1][same] = self.t[1:][same]
        return behind


@dataclass(slots=True, eq=False)
class Sums:
    """What is known of windows, a row for each: `slot` and `start` say which."""

    slot: NDArray[np.int32]
    start: Times
    good: Counts
    """ns for which a good value is known."""
    true: Counts
    """Of these, ns for which it was true, not 0 and not empty."""
    doubtful: Counts
    """Of these, ns for which it was UNCERTAIN."""
    reference: Floats
    """The first good value: the sums are of differences from it."""
    first_sum: Floats
    """Difference times seconds."""
    second_sum: Floats
    """Difference squared times seconds."""
    low: Floats
    high: Floats
    samples: Counts
    """Points in the window, good or not."""
    count: Counts
    """Good points in the window, and the sum of their values: """
    sum: Floats
    first: Floats
    """The first good point's value, and the last one's; the kind is NOTHING while there is none."""
    first_kind: Codes
    last: Floats
    last_kind: Codes
    head: Floats
    """The value at the beginning of the first good piece, and at the end of the last one."""
    head_kind: Codes
    tail: Floats
    tail_kind: Codes
    transitions: Counts
    kinds: Codes
    """Bits of the kinds of the good pieces."""
    context: NDArray[np.int32]
    """That of the last piece."""

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: Any) -> Sums:
        """These rows."""
        return Sums(*(getattr(self, one.name)[rows] for one in fields(self)))

    def save(self) -> dict[str, Any]:
        """For `load`."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Sums:
        """What `save` gave. Raises ValueError for columns that do not agree."""
        blank = cls.none(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))
        loaded = cls(*(np.array(saved[one.name], dtype=getattr(blank, one.name).dtype) for one in fields(cls)))
        if len({len(getattr(loaded, one.name)) for one in fields(cls)}) != 1:
            raise ValueError("sums of windows with columns of different lengths")
        return loaded

    @classmethod
    def none(cls, slot: NDArray[np.int32], start: Times) -> Sums:
        """Windows of which nothing is known."""
        size = len(slot)

        def zeros() -> Counts:
            return np.zeros(size, dtype=np.int64)

        def unknown() -> Floats:
            return np.full(size, np.nan)

        def nothing() -> Codes:
            return np.full(size, NOTHING, dtype=np.uint8)

        return cls(
            slot,
            start,
            good=zeros(),
            true=zeros(),
            doubtful=zeros(),
            reference=unknown(),
            first_sum=np.zeros(size),
            second_sum=np.zeros(size),
            low=np.full(size, np.inf),
            high=np.full(size, -np.inf),
            samples=zeros(),
            count=zeros(),
            sum=np.zeros(size),
            first=unknown(),
            first_kind=nothing(),
            last=unknown(),
            last_kind=nothing(),
            head=unknown(),
            head_kind=nothing(),
            tail=unknown(),
            tail_kind=nothing(),
            transitions=zeros(),
            kinds=np.zeros(size, dtype=np.uint8),
            context=np.zeros(size, dtype=np.int32),
        )


def concatenated(parts: list[Sums]) -> Sums:
    """The rows of all of them."""
    return Sums(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Sums)))


def folded(points: Points, before: Sums, begin: Times, end: Times, *, sloped: bool) -> Sums:
    """`before`, and what the points say of these windows from `begin` to `end`. Both within the window of the row.

    Points must reach back to the last one at or before each `begin`, or be all that are known of the tag.
    """
    size = len(before)
    if not size or not len(points):
        return before
    low = np.searchsorted(points.slot, before.slot, side="left")
    high = np.searchsorted(points.slot, before.slot, side="right")
    first = np.maximum(found(points.t, low, high, begin, after=True) - 1, low)
    counts = np.maximum(found(points.t, first, high, end, after=False) - first, 0)
    counts[begin >= end] = 0
    at = spread(first, counts)
    if not len(at):
        return before
    some = np.flatnonzero(counts)
    lengths = counts[some]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    of = np.repeat(some, lengths)
    return _added(before, some, starts, ends, _Pieces(points, at, of, begin, end, before.start, sloped))


class _Pieces:
    """The pieces that reach into windows, window after window."""

    def __init__(
        self, points: Points, at: Counts, of: Index, begin: Times, end: Times, start: Times, sloped: bool
    ) -> None:
        self.of = of
        t, behind = points.t, points.next()
        here, there = t[at], behind[at]
        self.begin = np.maximum(here, begin[of])
        self.end = np.minimum(there, end[of])
        self.length = np.maximum(self.end - self.begin, 0)
        self.good = points.good[at] & (self.length > 0)
        self.value = points.value[at]
        self.kind = points.kind[at]
        self.uncertain = points.uncertain[at]
        self.context = points.context[at]
        self.is_sample = here >= start[of]
        self.changed = points.changed[at] & self.is_sample
        self.from_ = self.to = self.value
        if sloped:
            number = points.good & (points.kind == NUMBER)
            follows = np.zeros(len(points), dtype=np.bool_)
            follows[:-1] = number[1:] & number[:-1] & (behind[:-1] < OPEN)
            runs = follows[at]
            following = points.value[np.minimum(at + 1, len(points) - 1)]
            span = np.where(runs, there - here, 1).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                rise = np.where(runs, following - self.value, 0.0)
                self.from_ = np.where(self.begin > here, self.value + rise * ((self.begin - here) / span), self.value)
                self.to = np.where(
                    runs & (self.end == there), following, self.value + rise * ((self.end - here) / span)
                )


def _added(before: Sums, some: Index, starts: Index, ends: Index, pieces: _Pieces) -> Sums:
    """`before` with the pieces added; rows `some` have pieces starts[i] to ends[i] - 1."""
    result = before.take(slice(None))
    for column in fields(Sums):
        setattr(result, column.name, getattr(before, column.name).copy())
    good = pieces.good
    place = np.arange(len(good), dtype=np.int64)
    first = np.minimum.reduceat(np.where(good, place, _FAR), starts)
    last = np.maximum.reduceat(np.where(good, place, -1), starts)
    has = last >= 0
    rows, head, tail = some[has], first[has], last[has]

    fresh = np.isnan(result.reference[rows])
    result.reference[rows[fresh]] = pieces.from_[head[fresh]]
    nothing = result.head_kind[rows] == NOTHING
    result.head[rows[nothing]] = pieces.from_[head[nothing]]
    result.head_kind[rows[nothing]] = pieces.kind[head[nothing]]
    result.tail[rows] = pieces.to[tail]
    result.tail_kind[rows] = pieces.kind[tail]

    lengths = np.where(good, pieces.length, 0)
    result.good[some] += np.add.reduceat(lengths, starts)
    result.doubtful[some] += np.add.reduceat(np.where(pieces.uncertain, lengths, 0), starts)
    result.true[some] += np.add.reduceat(np.where(pieces.value != 0, lengths, 0), starts)

    reference = result.reference[pieces.of]
    seconds = lengths * _SECONDS
    with np.errstate(over="ignore", invalid="ignore"):
        one = np.where(good, pieces.from_ - reference, 0.0)
        if pieces.from_ is pieces.to:
            by_time = one * seconds
            squares = one * by_time
        else:
            other = np.where(good, pieces.to - reference, 0.0)
            by_time = (one + other) / 2 * seconds
            squares = (one * one + one * other + other * other) / 3 * seconds
        result.first_sum[some] += np.add.reduceat(by_time, starts)
        result.second_sum[some] += np.add.reduceat(squares, starts)
    lower, upper = (
        (pieces.from_, pieces.from_)
        if pieces.from_ is pieces.to
        else (np.minimum(pieces.from_, pieces.to), np.maximum(pieces.from_, pieces.to))
    )
    result.low[some] = np.minimum(result.low[some], np.minimum.reduceat(np.where(good, lower, np.inf), starts))
    result.high[some] = np.maximum(result.high[some], np.maximum.reduceat(np.where(good, upper, -np.inf), starts))
    bits = np.where(good, np.left_shift(1, pieces.kind), 0).astype(np.uint8)
    result.kinds[some] |= np.bitwise_or.reduceat(bits, starts)

    sample = good & pieces.is_sample
    result.samples[some] += np.add.reduceat(pieces.is_sample.astype(np.int64), starts)
    result.count[some] += np.add.reduceat(sample.astype(np.int64), starts)
    with np.errstate(over="ignore", invalid="ignore"):
        result.sum[some] += np.add.reduceat(np.where(sample, pieces.value, 0.0), starts)
    result.transitions[some] += np.add.reduceat(pieces.changed.astype(np.int64), starts)
    first = np.minimum.reduceat(np.where(sample, place, _FAR), starts)
    last = np.maximum.reduceat(np.where(sample, place, -1), starts)
    has = last >= 0
    rows, head, tail = some[has], first[has], last[has]
    nothing = result.first_kind[rows] == NOTHING
    result.first[rows[nothing]] = pieces.value[head[nothing]]
    result.first_kind[rows[nothing]] = pieces.kind[head[nothing]]
    result.last[rows] = pieces.value[tail]
    result.last_kind[rows] = pieces.kind[tail]
    result.context[some] = pieces.context[ends - 1]
    return result
