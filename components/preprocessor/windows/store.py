"""Samples that windows are still made of, as columns: what came lately as it came, all before sorted by tag and time.

A row is put in where its time says. Of rows of one tag at one time the one that came last counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.windows.ragged import Times, found, spread

_FRESH: Final = 65_536
"""Rows that may wait unsorted, or a quarter of all if that is more."""
_COLUMNS: Final = ("slot", "t", "value", "code", "context")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Samples as columns. `code`: the quality in the lower two bits, the kind of the value above."""

    slot: NDArray[np.int32]
    t: Times
    value: NDArray[np.float64]
    code: NDArray[np.uint8]
    context: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: Any) -> Rows:
        """These rows."""
        return Rows(self.slot[rows], self.t[rows], self.value[rows], self.code[rows], self.context[rows])

    def by_time(self) -> Rows:
        """Sorted by slot and time; of rows at the same time the one that stands last."""
        if len(self) < 2:
            return self
        same = self.slot[1:] == self.slot[:-1]
        if bool((np.where(same, self.t[1:] > self.t[:-1], self.slot[1:] > self.slot[:-1])).all()):
            return self
        rows = self.take(np.lexsort((self.t, self.slot)))
        again = (rows.slot[1:] == rows.slot[:-1]) & (rows.t[1:] == rows.t[:-1])
        return rows.take(np.flatnonzero(np.append(~again, True))) if again.any() else rows

    def save(self) -> dict[str, Any]:
        """For `rows_of`."""
        return {name: getattr(self, name) for name in _COLUMNS}


def rows_of(saved: Mapping[str, Any]) -> Rows:
    """What `save` gave. Raises ValueError for columns that do not agree."""
    blank = no_rows()
    rows = Rows(*(np.array(saved[name], dtype=getattr(blank, name).dtype) for name in _COLUMNS))
    if len({len(getattr(rows, name)) for name in _COLUMNS}) != 1:
        raise ValueError("samples with columns of different lengths")
    return rows


def no_rows() -> Rows:
    """None."""
    return Rows(
        np.zeros(0, dtype=np.int32),
        np.zeros(0, dtype=np.int64),
        np.zeros(0),
        np.zeros(0, dtype=np.uint8),
        np.zeros(0, dtype=np.int32),
    )


def together(parts: list[Rows]) -> Rows:
    """The rows of all, in this order."""
    if len(parts) == 1:
        return parts[0]
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


class Store:
    """The samples of all tags."""

    def __init__(self) -> None:
        self._sorted = no_rows()
        self._fresh: list[Rows] = []
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._sorted) + self._waiting

    def add(self, rows: Rows) -> None:
        """Samples that came, in the order in which they did."""
        if not len(rows):
            return
        self._fresh.append(rows)
        self._waiting += len(rows)
        if self._waiting > max(_FRESH, len(self._sorted) // 4):
            self._sort()

    def count(self, slot: int) -> int:
        """How many of them are a tag's."""
        return sum(int(np.count_nonzero(rows.slot == slot)) for rows in (self._sorted, *self._fresh))

    def all(self) -> Rows:
        """All of them, by tag and time."""
        self._sort()
        return self._sorted

    def keep(self, rows: Rows) -> None:
        """Have these instead; sorted by tag and time."""
        self._sorted, self._fresh, self._waiting = rows, [], 0

    def of(self, slots: NDArray[np.int32], since: Times) -> Rows:
        """The rows of these tags, in rising order, by tag and time: at least from the last one at or before `since`."""
        rows = self._sorted
        low = np.searchsorted(rows.slot, slots, side="left")
        high = np.searchsorted(rows.slot, slots, side="right")
        low = np.maximum(found(rows.t, low, high, since, after=True) - 1, low)
        parts = [rows.take(spread(low, high - low))]
        if self._fresh:
            fresh = together(self._fresh)
            self._fresh = [fresh]
            wanted = np.zeros(int(max(slots[-1], fresh.slot.max())) + 1, dtype=np.bool_)
            wanted[slots] = True
            mask = wanted[fresh.slot]
            parts.append(fresh if mask.all() else fresh.take(mask))
        return together(parts).by_time()

    def _sort(self) -> None:
        if self._fresh:
            self.keep(together([self._sorted, *self._fresh]).by_time())

    def save(self) -> dict[str, Any]:
        """For `load`. What is unsorted stays so: what comes of it does not depend on when it is stored."""
        return {"sorted": self._sorted.save(), "fresh": together([no_rows(), *self._fresh]).save()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """The same rows again."""
        self.keep(rows_of(saved["sorted"]))
        fresh = rows_of(saved["fresh"])
        self._fresh, self._waiting = ([fresh], len(fresh)) if len(fresh) else ([], 0)
