"""Ranges of different lengths, side by side in one array: what numpy has no words for."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.intp]
Times = NDArray[np.int64]

NEVER: Final = -(2**62)
"""A time before all others."""
OPEN: Final = 2**62
"""A time after all others: the end of what has not ended."""


def spread(starts: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, … counts[0] of them, then those of the next."""
    total = int(counts.sum())
    if not total:
        return np.zeros(0, dtype=np.int64)
    ends = np.cumsum(counts)
    places: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - counts), counts)
    return places


def found(times: Times, low: Index, high: Index, wanted: Times, *, after: bool) -> Index:
    """In each range low[i] to high[i] of ascending times the first place whose time is at or behind wanted[i].

    after: the first place whose time is behind it. high[i] where there is none.
    """
    low, high = low.astype(np.intp), high.astype(np.intp)
    if not len(times):
        return low
    last = len(times) - 1
    while True:
        searching = low < high
        if not searching.any():
            return low
        middle = (low + high) >> 1
        there = times[np.minimum(middle, last)]
        before = (there <= wanted) if after else (there < wanted)
        low = np.where(searching & before, middle + 1, low)
        high = np.where(searching & ~before, middle, high)


def rows_in(
    slots: NDArray[np.int32], starts: Times, wanted_slots: NDArray[np.int32], wanted_starts: Times
) -> NDArray[np.int64]:
    """In columns sorted by slot and start the row of each wanted one; -1 where there is none."""
    low = np.searchsorted(slots, wanted_slots, side="left")
    high = np.searchsorted(slots, wanted_slots, side="right")
    row = found(starts, low, high, wanted_starts, after=False)
    there = row < high
    there[there] = starts[row[there]] == wanted_starts[there]
    return np.where(there, row, -1).astype(np.int64)
