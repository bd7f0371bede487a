"""One row of each tag, kept for later, as columns by slot: what report, compress, mode and publish remember.

Values of all types but texts stand in one column of 64 bits: as they are for DOUBLE, as integers for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Index, Mask
from preprocessor.engine.step import Step, grown
from preprocessor.engine.tags import Tags
from preprocessor.engineering_units import find
from sluice.columns import DTYPES, ValueType

UNIT_CHANGED: Final = "unit-changed"
MOST_CHANGES_TOLD: Final = 100
CODES: Final[Mapping[ValueType, int]] = {
    ValueType.DOUBLE: 1,
    ValueType.INTEGER: 2,
    ValueType.BOOLEAN: 3,
    ValueType.STRING: 4,
}
"""The types by number; 0: no row is kept."""
_TYPES: Final = {code: of for of, code in CODES.items()}
_COLUMNS: Final = ("type", "bits", "t", "quality", "null", "status", "context", "backfill")


class KeptRows:
    """A row for each slot. Whoever uses it calls `grow` first: `put` and the columns reach as far as that."""

    def __init__(self) -> None:
        self.type: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        """The number of the value's type (`CODES`); 0: nothing is kept of this tag."""
        self.bits: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.t: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.quality: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self.null: Mask = np.zeros(0, dtype=np.bool_)
        self.status: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.context: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self.backfill: Mask = np.zeros(0, dtype=np.bool_)
        self.texts: dict[int, str | None] = {}
        # Columns that never held anything but zeros need not be written.
        self._has_status = self._has_context = self._has_backfill = False

    def __len__(self) -> int:
        return len(self.type)

    def grow(self, size: int) -> None:
        """Room for so many slots."""
        if len(self.type) < size:
            for name in _COLUMNS:
                setattr(self, name, grown(getattr(self, name), size))

    def put(self, slots: Index, block: Block, rows: Index, nulls: Mask) -> None:
        """Keep these rows of a block, row `rows[i]` for slot `slots[i]`. `nulls`: which rows of the block are null."""
        of = block.type
        self.type[slots] = CODES[of]
        if of is ValueType.STRING:
            self.texts.update(zip(slots.tolist(), block.value[rows].tolist(), strict=True))
        else:
            self.bits[slots] = bits_of(block)[rows]
        self.t[slots] = block.t[rows]
        self.quality[slots] = block.quality[rows]
        self.null[slots] = nulls[rows]
        status = block.status[rows]
        if self._has_status or status.any():
            self.status[slots] = status
            self._has_status = True
        if self._has_context or block.context is not None:
            self.context[slots] = 0 if block.context is None else block.context[rows]
            self._has_context = True
        if self._has_backfill or block.backfill:
            self.backfill[slots] = block.backfill
            self._has_backfill = True

    def copy(self, other: KeptRows, slots: Index) -> None:
        """Keep what `other` keeps of these tags."""
        for name in _COLUMNS:
            getattr(self, name)[slots] = getattr(other, name)[slots]
        self._has_status |= other._has_status
        self._has_context |= other._has_context
        self._has_backfill |= other._has_backfill
        if other.texts:
            self.texts.update((slot, other.texts[slot]) for slot in slots.tolist() if slot in other.texts)

    def same(self, slots: Index, block: Block, rows: Index, nulls: Mask) -> Mask:
        """Whether row `rows[i]` has the type, the value and the quality that is kept for slot `slots[i]`."""
        alike: Mask = (self.type[slots] == CODES[block.type]) & (self.quality[slots] == block.quality[rows])
        both = nulls[rows]
        alike &= self.null[slots] == both
        if block.type is ValueType.STRING:
            get = self.texts.get
            kept = [get(slot) for slot in slots.tolist()]
            equal = np.array([a == b for a, b in zip(kept, block.value[rows].tolist(), strict=True)], dtype=np.bool_)
        elif block.type is ValueType.DOUBLE:
            equal = self.bits[slots].view(np.float64) == block.value[rows]
        else:
            equal = self.bits[slots] == bits_of(block)[rows]
        alike &= equal | both
        return alike

    def blocks(self, slots: Index) -> list[Block]:
        """The rows of these slots (ascending; all of them kept) as blocks, one for each type and kind."""
        if not len(slots):
            return []
        kinds = self.type[slots].astype(np.intp) * 2 + self.backfill[slots]
        found = []
        for kind in np.unique(kinds).tolist():
            of, backfill = _TYPES[kind // 2], bool(kind % 2)
            chosen = slots[kinds == kind]
            null = self.null[chosen]
            if of is ValueType.STRING:
                value: NDArray[Any] = np.empty(len(chosen), dtype=object)
                value[:] = [self.texts.get(slot) for slot in chosen.tolist()]
            elif of is ValueType.DOUBLE:
                value = self.bits[chosen].view(np.float64)
            else:
                value = self.bits[chosen].astype(DTYPES[of])
            found.append(
                Block(
                    of,
                    chosen.astype(np.int32),
                    self.t[chosen],
                    value,
                    self.quality[chosen],
                    self.status[chosen],
                    null if of in (ValueType.INTEGER, ValueType.BOOLEAN) and null.any() else None,
                    context=self.context[chosen] if self._has_context else None,
                    backfill=backfill,
                )
            )
        return found

    def value(self, slot: int) -> float | int | bool | str | None:
        """The value that is kept of one tag, for people; None as well when it is null or nothing is kept."""
        if slot >= len(self.type) or not self.type[slot] or self.null[slot]:
            return None
        of = _TYPES[int(self.type[slot])]
        if of is ValueType.STRING:
            return self.texts.get(slot)
        if of is ValueType.DOUBLE:
            return float(self.bits[slot : slot + 1].view(np.float64)[0])
        return bool(self.bits[slot]) if of is ValueType.BOOLEAN else int(self.bits[slot])

    def save(self) -> dict[str, Any]:
        """For `load`."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        columns["texts"] = [list(self.texts), list(self.texts.values())]
        return columns

    def load(self, saved: Mapping[str, Any]) -> None:
        """What `save` gave. Raises ValueError, KeyError or TypeError for anything else; then nothing has changed."""
        columns = {name: np.array(saved[name], dtype=getattr(self, name).dtype) for name in _COLUMNS}
        if len({column.shape for column in columns.values()}) != 1 or columns["type"].ndim != 1:
            raise ValueError("the columns of kept rows are not of one length")
        if columns["type"].max(initial=0) > max(_TYPES):
            raise ValueError("a kept row has a type that is none")
        slots, texts = saved["texts"]
        kept = dict(zip(map(int, slots), texts, strict=True))
        size = len(self)
        for name, column in columns.items():
            setattr(self, name, column)
        self.grow(size)
        self.texts = kept
        self._has_status = bool(self.status.any())
        self._has_context = bool(self.context.any())
        self._has_backfill = bool(self.backfill.any())


class Units:
    """The units that tags had, to see when one gets another: then what was kept of it means nothing any more."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._known: dict[int, str] = {}

    def changed(self, slots: Sequence[int]) -> list[int]:
        """Of these, the tags whose unit is another than when they were last asked for."""
        found = []
        for slot in slots:
            unit = self._tags.series[slot].unit
            if self._known.setdefault(slot, unit) != unit:
                self._known[slot] = unit
                found.append(slot)
        return found

    def replaced(self, slots: Sequence[int]) -> list[tuple[int, str]]:
        """Of these, the tags whose values mean something else from now on, and the unit that they had.

        A unit that is given to a tag without one, or is written in another way, says only more of the same values.
        """
        found = []
        for slot in slots:
            unit = self._tags.series[slot].unit
            before = self._known.setdefault(slot, unit)
            if not unit or before == unit:
                continue
            self._known[slot] = unit
            if before and (find(before) is None or find(before) != find(unit)):
                found.append((slot, before))
        return found


def tell_another_unit(step: Step[Any], slot: int, time_ns: int, was: str, **members: Any) -> None:
    """An event that a tag begins anew in another unit. After many, as when two sources send one tag in two units, only
    few are told: 100, then the 128th, the 256th, the 512th, …; all are counted."""
    step.count(UNIT_CHANGED)
    number = step.counters[UNIT_CHANGED]
    if number <= MOST_CHANGES_TOLD or number.bit_count() == 1:
        series = step.flow.tags.series[slot]
        of = {"step": step.name, "tag": series.tag, "asset": series.asset, "was": was, "unit": series.unit}
        step.flow.tell(UNIT_CHANGED, time_ns, **of, **members)


def bits_of(block: Block) -> NDArray[np.int64]:
    """The values of a block as 64 bits each, null integers and booleans as 0; not for texts."""
    if block.type is ValueType.DOUBLE:
        return np.ascontiguousarray(block.value).view(np.int64)
    bits = block.value if block.type is ValueType.INTEGER else block.value.astype(np.int64)
    return bits if block.null is None else np.where(block.null, 0, bits)
