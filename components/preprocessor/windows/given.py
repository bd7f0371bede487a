"""What windows gave that may still be revised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.windows.ragged import Times, rows_in
from preprocessor.windows.results import Results

_COLUMNS: Final = ("slot", "start", "end", "rev", "value", "kind", "quality", "word")


class Given:
    """Results by tag and window, a row for each window, sorted by slot and start."""

    def __init__(self, functions: int) -> None:
        self._functions = functions
        self.slot = np.zeros(0, dtype=np.int32)
        self.start = np.zeros(0, dtype=np.int64)
        self.end = np.zeros(0, dtype=np.int64)
        self.rev = np.zeros(0, dtype=np.int32)
        """How often the result was revised."""
        self.value = np.zeros((0, functions))
        self.kind, self.quality, self.word = (np.zeros((0, functions), dtype=np.uint8) for _ in range(3))
        self._fresh: list[tuple[Any, ...]] = []
        self._waiting = 0
        self._most = 4_096

    def __len__(self) -> int:
        return len(self.slot) + self._waiting

    def add(self, slot: NDArray[np.int32], start: Times, end: Times, results: Results) -> None:
        """Windows that gave their first results."""
        if len(slot):
            rev = np.zeros(len(slot), dtype=np.int32)
            self._fresh.append((slot, start, end, rev, results.value, results.kind, results.quality, results.word))
            self._waiting += len(slot)

    def settle(self) -> None:
        """Have all rows in the columns."""
        if not self._fresh:
            return
        parts = [tuple(getattr(self, name) for name in _COLUMNS), *self._fresh]
        columns = [np.concatenate([part[place] for part in parts]) for place in range(len(_COLUMNS))]
        order = np.lexsort((columns[1], columns[0]))
        for name, column in zip(_COLUMNS, columns, strict=True):
            setattr(self, name, column[order])
        self._fresh, self._waiting = [], 0

    def forget(self, horizon: Times) -> None:
        """Windows that ended at or before the horizon of their tag are revised no more. Looked at when there are many
        more than last time."""
        if len(self) <= self._most:
            return
        self.settle()
        self.keep(self.end > horizon[self.slot])
        self._most = max(4_096, 2 * len(self))

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these rows; all must be settled."""
        if not rows.all():
            for name in _COLUMNS:
                setattr(self, name, getattr(self, name)[rows])

    def rows(self, slot: NDArray[np.int32], start: Times) -> NDArray[np.intp]:
        """The row of each of these windows, -1 for those that gave nothing. All must be settled."""
        return rows_in(self.slot, self.start, slot, start)

    def results(self, rows: NDArray[np.intp]) -> Results:
        """What these rows say."""
        return Results(self.value[rows], self.kind[rows], self.quality[rows], self.word[rows])

    def put(self, rows: NDArray[np.intp], results: Results) -> None:
        """These rows say something else now."""
        self.rev[rows] += 1
        self.value[rows], self.kind[rows] = results.value, results.kind
        self.quality[rows], self.word[rows] = results.quality, results.word

    def save(self) -> dict[str, Any]:
        """For `load`."""
        self.settle()
        return {"most": self._most, **{name: getattr(self, name) for name in _COLUMNS}}

    def load(self, saved: Mapping[str, Any]) -> None:
        """The same rows again. Raises ValueError for columns that do not agree."""
        columns = {name: np.array(saved[name], dtype=getattr(self, name).dtype) for name in _COLUMNS}
        size = len(columns["slot"])
        for name, column in columns.items():
            if column.shape != (size, *getattr(self, name).shape[1:]):
                raise ValueError(f"results of windows whose {name} is no column of {size}")
            setattr(self, name, column)
        self._fresh, self._waiting = [], 0
        self._most = int(saved["most"])
