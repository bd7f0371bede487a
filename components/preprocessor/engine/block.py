"""Blocks: samples on their way through a flow, as columns.

A *block* is samples of one value type. Its rows are sorted by slot (the number of the tag in the flow's `Tags`), and
within a slot in the order of arrival: every step may rely on that, and keeps it. Steps give new blocks and leave the
columns of those that they were given alone, for columns are shared.

Null is NaN in a DOUBLE column, None in a STRING column, and a set bit of `null` in INTEGER and BOOLEAN columns; it
stands only beside UNCERTAIN or BAD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.columns import DTYPES, ValueType

Mask = NDArray[np.bool_]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The rows of a block tag by tag: tag `slots[i]` has the rows `starts[i]` to `ends[i] - 1`."""

    slots: NDArray[np.int32]
    starts: Index
    ends: Index

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def single(self) -> bool:
        """Whether no tag has more than one row."""
        return len(self.slots) == 0 or int(self.ends[-1]) == len(self.slots)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Samples of one value type, sorted by slot. All columns are of the same length."""

    type: ValueType
    slot: NDArray[np.int32]
    t: NDArray[np.int64]
    """Source time, ns since 1970 UTC."""
    value: NDArray[Any]
    """float64, int64, bool or object (str or None)."""
    quality: NDArray[np.uint8]
    status: NDArray[np.int64]
    """Native status; 0: none; below 0: a word of the flow's `Words`."""
    null: Mask | None = None
    """INTEGER and BOOLEAN alone; None: no row is null."""
    late: Mask | None = None
    """Rows that are not newer than what their tag had before; None: none is. Steps that need order let them pass."""
    context: NDArray[np.int32] | None = None
    """What a row goes out with beside its tag, in the flow's `Contexts`; None, or 0: nothing."""
    backfill: bool = False
    """Came on a backfill stream, and goes out on one."""

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: Mask | Index | slice) -> Block:
        """These rows. An index must be ascending within each slot, as `sorted_by` gives it."""
        return Block(
            self.type,
            self.slot[rows],
            self.t[rows],
            self.value[rows],
            self.quality[rows],
            self.status[rows],
            None if self.null is None else self.null[rows],
            None if self.late is None else self.late[rows],
            None if self.context is None else self.context[rows],
            self.backfill,
        )

    def sorted(self) -> Block:
        """Sorted by slot, the order within a slot kept. The same block when it is sorted already."""
        if len(self.slot) < 2 or bool((self.slot[1:] >= self.slot[:-1]).all()):
            return self
        return self.take(np.argsort(self.slot, kind="stable"))

    def runs(self) -> Runs:
        """The rows tag by tag."""
        if not len(self.slot):
            empty = np.empty(0, dtype=np.intp)
            return Runs(self.slot, empty, empty)
        cuts = np.flatnonzero(self.slot[1:] != self.slot[:-1]) + 1
        starts = np.concatenate(([0], cuts))
        return Runs(self.slot[starts], starts, np.concatenate((cuts, [len(self.slot)])))

    def nulls(self) -> Mask:
        """Which rows are null."""
        if self.type is ValueType.DOUBLE:
            isnan: Mask = np.isnan(self.value)
            return isnan
        if self.type is ValueType.STRING:
            return np.array([text is None for text in self.value.tolist()], dtype=np.bool_)
        return np.zeros(len(self), dtype=np.bool_) if self.null is None else self.null

    def numbers(self) -> NDArray[np.float64]:
        """The values as float64, null as NaN; a text is NaN. Integers beyond 2^53 lose their last digits."""
        if self.type is ValueType.DOUBLE:
            return self.value
        if self.type is ValueType.STRING:
            return np.full(len(self), np.nan)
        numbers = self.value.astype(np.float64)
        if self.null is not None:
            numbers[self.null] = np.nan
        return numbers

    def emptied(self, rows: Mask) -> Block:
        """The same rows, these of them without their values. They must be no better than UNCERTAIN."""
        if not rows.any():
            return self
        value = self.value.copy()
        if self.type is ValueType.DOUBLE:
            value[rows] = np.nan
            return self.with_(value=value)
        if self.type is ValueType.STRING:
            value[rows] = None
            return self.with_(value=value)
        value[rows] = 0
        return self.with_(value=value, null=rows.copy() if self.null is None else self.null | rows)

    def with_(self, **columns: Any) -> Block:
        """The same rows with other columns."""
        return replace(self, **columns)


def empty_values(of: ValueType, size: int) -> NDArray[Any]:
    """A column of nulls (of zeros, for types whose nulls stand beside the column)."""
    if of is ValueType.DOUBLE:
        return np.full(size, np.nan)
    if of is ValueType.STRING:
        return np.full(size, None, dtype=object)
    return np.zeros(size, dtype=DTYPES[of])


def joined(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with those of the same type and kind (live, backfill) made one; rows of a tag keep their order."""
    groups: dict[tuple[ValueType, bool], list[Block]] = {}
    for block in blocks:
        if len(block):
            groups.setdefault((block.type, block.backfill), []).append(block)
    return [group[0] if len(group) == 1 else concatenated(group) for group in groups.values()]


def concatenated(blocks: Sequence[Block]) -> Block:
    """One block of several of the same type and kind, those that stand first arriving first."""
    first = blocks[0]

    def together(parts: Sequence[NDArray[Any] | None], dtype: Any) -> NDArray[Any] | None:
        if all(part is None for part in parts):
            return None
        column: NDArray[Any] = np.concatenate(
            [
                np.zeros(len(block), dtype=dtype) if part is None else part
                for block, part in zip(blocks, parts, strict=True)
            ]
        )
        return column

    return Block(
        first.type,
        np.concatenate([block.slot for block in blocks]),
        np.concatenate([block.t for block in blocks]),
        np.concatenate([block.value for block in blocks]),
        np.concatenate([block.quality for block in blocks]),
        np.concatenate([block.status for block in blocks]),
        together([block.null for block in blocks], np.bool_),
        together([block.late for block in blocks], np.bool_),
        together([block.context for block in blocks], np.int32),
        first.backfill,
    ).sorted()
