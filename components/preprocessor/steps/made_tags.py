"""Tags that a step makes: of each tag one, `<tag>.<what>`; others by the same names; turns of samples tag by tag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Index, Mask
from preprocessor.engine.step import FlowContext, grown
from sluice.columns import Series, ValueType

UNKNOWN: Final = -2
_WIDE: Final = 32
"""Rows that a round must have on average, for rounds to cost less than going tag by tag."""


class MadeTags:
    """The tag `<tag>.<suffix>` of each tag of a flow, made when it is first needed."""

    def __init__(self, flow: FlowContext, stage: str, suffix: str, unit: Callable[[str], str]) -> None:
        self._flow, self._stage, self._suffix, self._unit = flow, stage, suffix, unit
        self._slots: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._twins = Twins(flow, stage)

    def prepare(self, slots: Sequence[int]) -> None:
        """These tags are new, or have another unit."""
        self._slots = grown(self._slots, len(self._flow.tags), UNKNOWN)
        self._twins.prepare(slots)
        for slot in slots:
            if self._slots[slot] >= 0:
                self._slots[slot] = self._made(slot)

    def of(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """The slots of the made tags; -1 where there is no room for one."""
        found = self._slots[slots]
        if (found == UNKNOWN).any():
            for slot in np.unique(slots[found == UNKNOWN]).tolist():
                self._slots[slot] = self._made(slot)
            found = self._slots[slots]
        return found

    def _made(self, slot: int) -> int:
        series = self._flow.tags.series[slot]
        made = Series(f"{series.tag}.{self._suffix}", series.asset, self._unit(series.unit), extra=series.extra)
        place = self._flow.tags.slot(made, stage=self._stage)
        self._twins.made(place, f"steps.{self._stage}.tags")
        return place

    def look(self, passing: Iterable[Block]) -> None:
        """Tell of tags in these blocks, which go on beside the made ones, that have the name of one of them."""
        self._twins.look(passing)


class Twins:
    """Tags that pass a step under the name and asset of a tag that the step makes: nobody could tell the two apart."""

    def __init__(self, flow: FlowContext, stage: str) -> None:
        self._flow, self._stage = flow, stage
        self._made: dict[tuple[str, str], str] = {}
        """Where the settings of each made tag stand, by asset and name."""
        self._twins: Mask = np.zeros(0, dtype=np.bool_)
        self._any = False

    def prepare(self, slots: Sequence[int]) -> None:
        """These tags are new."""
        self._twins = grown(self._twins, len(self._flow.tags))
        for slot in slots:
            series = self._flow.tags.series[slot]
            if (series.asset, series.tag) in self._made and self._flow.tags.stages[slot] != self._stage:
                self._twins[slot] = self._any = True

    def made(self, slot: int, place: str) -> None:
        """The step makes this tag. place: where that is configured."""
        if slot < 0:
            return
        series = self._flow.tags.series[slot]
        self._made[series.asset, series.tag] = place
        self.prepare(self._flow.tags.find(series.tag))

    def look(self, passing: Iterable[Block]) -> None:
        """Tell of those that are in these blocks, which go on beside what the step makes."""
        if not self._any:
            return
        for block in passing:
            there = self._twins[block.slot]
            for slot in np.unique(block.slot[there]).tolist() if there.any() else ():
                self._twins[slot] = False  # told once
                series = self._flow.tags.series[slot]
                full = f"{series.asset}/{series.tag}" if series.asset else series.tag
                self._flow.problem(
                    self._made[series.asset, series.tag],
                    f"makes {full}, and a tag of that name comes from elsewhere as well: both go out as one tag",
                    "give what is made another tag or asset, or keep the other out of the flow",
                )


def rounds(block: Block) -> Iterator[Index] | None:
    """The first row of each tag, then the second, and so on; None where tags have so many rows that it does not pay."""
    runs = block.runs()
    counts = runs.ends - runs.starts
    most = int(counts.max()) if len(counts) else 0
    if most > 1 and len(block) < _WIDE * most:
        return None
    return (runs.starts[counts > number] + number for number in range(most))


def block_of(
    given: Block, rows: Mask, slots: NDArray[np.int32], of: ValueType, value: NDArray[Any], **columns: Any
) -> Block:
    """Rows of a block with other tags, values and types; those without a tag are left out. `slots`, `value` and the
    columns have a place for every row of the block."""
    wanted = rows & (slots >= 0)
    taken = {name: column[wanted] for name, column in columns.items() if column is not None}
    part = given.take(wanted)
    return part.with_(**{"type": of, "slot": slots[wanted], "value": value[wanted], "null": None, **taken}).sorted()
