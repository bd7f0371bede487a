"""Changes that are too small to be worth sending, left out here because the server could not. Pure.

A sample of a tag with a width is handed on when it is the first one, when its value is further than the width from
the last one handed on, when its status is another (info bits apart: overflow, limits), or when the value has come or
gone (null, NaN). Before one with another status or a value that came or went, the sample just before it is handed on
too, if it had been held back: what the value was when the quality changed is never hidden.

A sample that is held back has been *seen*: it ends holes, moves the mark from which history is read, and is not asked
for again; only, what is not in the outbox does not survive a kill. Then the mark falls back to the last sample that was
handed on, and history, if it has to be read from there, brings what was held back since: it goes through the same
sieve. So a tag may get a sample again that lies within the width; none is handed on twice, and none is missed. For
that, a sample that ends a hole is handed on whatever its value is: else a kill would forget where the hole ended.
History has its own order and does not know what was handed on live: each part of it that is read begins with a sample.

Samples of many tags are judged at once, the k-th of each tag in one step. A tag that brings far more than others in one
message is gone through value by value, at about 0.1 us each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_TOGETHER: Final = 64  # with as many tags left, a step of numpy costs less than going through their values
_INFO_BITS: Final = 0xFFFF
_NONE_YET: Final = -(2**62)
_NULL: Final = -(2**40)  # keys below: null, by status
_NOT_FINITE: Final = -(2**41)
_EXACT: Final = 2.0**53


@dataclass(slots=True)
class Rows:
    """Samples of numbers, in order: values float64 or int64, statuses as in columns (< 0: a word of ours)."""

    handle: NDArray[np.int64]
    value: NDArray[Any]
    null: NDArray[np.bool_]
    status: NDArray[np.int64]
    time: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.handle)


@dataclass(slots=True)
class Verdict:
    """`keep`: which rows are handed on. `released`: earlier samples that are handed on before the rows `at`."""

    keep: NDArray[np.bool_]
    at: NDArray[np.int64]
    released: Rows


class Deadband:
    """The widths of a connection's tags by client handle, and what was handed on last."""

    def __init__(self) -> None:
        self.any = False
        """Whether any tag has a width."""
        self._width: NDArray[np.float64] = np.zeros(0)  # NaN: none
        self._key: NDArray[np.int64] = np.zeros(0, np.int64)
        self._sent: NDArray[np.int64] = np.zeros(0, np.int64)  # 64 bits of the value, whatever its type
        self._held: NDArray[np.bool_] = np.zeros(0, bool)
        self._held_bits: NDArray[np.int64] = np.zeros(0, np.int64)
        self._held_null: NDArray[np.bool_] = np.zeros(0, bool)
        self._held_status: NDArray[np.int64] = np.zeros(0, np.int64)
        self._held_time: NDArray[np.int64] = np.zeros(0, np.int64)

    def set(self, handle: int, width: float | None) -> None:
        """The tag's width from now on; None: everything is handed on."""
        if width is None:
            if handle < len(self._width) and not np.isnan(self._width[handle]):
                self._width[handle] = np.nan
                self.any = not bool(np.isnan(self._width).all())
            return
        if handle >= len(self._width):
            self._grow(max(64, 2 * handle) - len(self._width))
        if np.isnan(self._width[handle]):
            self._key[handle], self._held[handle] = _NONE_YET, False
        self._width[handle] = width
        self.any = True

    def width(self, handle: int) -> float | None:
        """As set last."""
        if handle >= len(self._width) or np.isnan(self._width[handle]):
            return None
        return float(self._width[handle])

    def _grow(self, more: int) -> None:
        self._width = np.concatenate([self._width, np.full(more, np.nan)])
        self._key = np.concatenate([self._key, np.full(more, _NONE_YET)])
        for name in ("_sent", "_held", "_held_bits", "_held_null", "_held_status", "_held_time"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros(more, column.dtype)]))

    def concerned(self, handle: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these handles have a width."""
        known = handle < len(self._width)
        return np.asarray(known & ~np.isnan(self._width[np.where(known, handle, 0)]))

    def past(self, rows: Rows) -> NDArray[np.bool_]:
        """Which samples of history are handed on; all rows have a width."""
        handles, place = np.unique(rows.handle, return_inverse=True)
        place = place.reshape(-1)
        key = np.full(len(handles), _NONE_YET)
        sent = np.zeros(len(handles), rows.value.dtype)
        return _judged(place, rows, self._width[handles], key, sent)[0]

    def live(self, rows: Rows, certain: NDArray[np.bool_] | None = None) -> Verdict:
        """Which of these samples are handed on, and what was held back before them; all rows have a width.

        certain: those that are handed on whatever they are, as if their quality had changed.
        """
        form = rows.value.dtype
        sent = self._sent.view(form)
        handles = rows.handle
        keep, turned = _judged(handles, rows, self._width, self._key, sent, certain)
        first = np.zeros(len(rows), bool)
        first[np.unique(handles, return_index=True)[1]] = True
        at = np.flatnonzero(first & turned & self._held[handles])
        of = handles[at]
        released = Rows(
            of, self._held_bits[of].view(form), self._held_null[of], self._held_status[of], self._held_time[of]
        )
        backwards, last = np.unique(handles[::-1], return_index=True)
        last = len(rows) - 1 - last
        self._held[backwards] = ~keep[last]
        self._held_bits[backwards] = rows.value[last].view(np.int64)
        self._held_null[backwards] = rows.null[last]
        self._held_status[backwards] = rows.status[last]
        self._held_time[backwards] = rows.time[last]
        return Verdict(keep, at, released)


def _judged(
    place: NDArray[np.int64],
    rows: Rows,
    width: NDArray[np.float64],
    key: NDArray[np.int64],
    sent: NDArray[Any],
    certain: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are kept, and which have another key than the one before; width, key and sent are by place.

    A run of rows of one tag and one key, a *segment*, is all that has to be gone through in its order: what begins
    with another key is kept, whatever comes before it. Key and sent are brought up to date.
    """
    order = np.argsort(place, kind="stable")
    tag, value, keys = place[order], rows.value[order], _keys(rows)[order]
    first = np.ones(len(tag), bool)
    first[1:] = tag[1:] != tag[:-1]
    before = np.empty_like(keys)
    before[1:] = keys[:-1]
    before[first] = key[tag[first]]
    turned = keys != before
    if certain is not None:
        turned |= certain[order]
    kept = turned.copy()
    begin = np.flatnonzero(first | turned)
    end = np.append(begin[1:], len(tag))
    reference = np.where(turned[begin], value[begin], sent[tag[begin]])
    position = begin + turned[begin]
    active = np.flatnonzero((keys[begin] >= 0) & (position < end))
    while len(active) >= _TOGETHER:
        at = position[active]
        moved = _apart(value[at], reference[active], width[tag[at]])
        kept[at] = moved
        reference[active] = np.where(moved, value[at], reference[active])
        position[active] += 1
        active = active[position[active] < end[active]]
    for segment in active.tolist():
        start = int(position[segment])
        most, last = float(width[tag[start]]), reference[segment].item()
        for place_, one in enumerate(value[start : end[segment]].tolist(), start):
            if abs(one - last) > most:
                kept[place_], last = True, one
        reference[segment] = last
    kept[np.flatnonzero(turned & ~first) - 1] = True
    closing = np.flatnonzero(np.append(first[begin][1:], True))  # the last segment of each tag
    of = tag[begin[closing]]
    key[of], sent[of] = keys[begin[closing]], reference[closing]
    keep, back = np.empty(len(tag), bool), np.empty(len(tag), bool)
    keep[order], back[order] = kept, turned
    return keep, back


def _keys(rows: Rows) -> NDArray[np.int64]:
    """What is the same for samples that may stand for each other if their values are close; >= 0 where there is one."""
    status = np.where(rows.status < 0, rows.status, rows.status & ~_INFO_BITS)
    keys = np.where(rows.null | (status < 0), _NULL + status, status)
    if rows.value.dtype == np.float64:
        keys[~rows.null & ~np.isfinite(rows.value)] = _NOT_FINITE
    return keys


def _apart(one: NDArray[Any], other: NDArray[Any], width: NDArray[np.float64]) -> NDArray[np.bool_]:
    if one.dtype == np.float64:
        return np.asarray(np.abs(one - other) > width)
    roughly = np.abs(one.astype(np.float64) - other.astype(np.float64))
    exactly = np.abs(one - other)  # wraps around where float64 tells well enough
    return np.where(roughly < _EXACT, exactly > width, roughly > width)
