"""Values that change faster than the process can.

A value is believed when it can be reached from the last believed value of its tag: |change| <= limit * seconds. One
that cannot is doubtful, and marked; the next one is then compared with both. So after a spike the tag is believed again
at once, where a comparison with the value before would doubt the way back as well; and a level that two values in a
row agree on is believed, however it was reached: a sensor that was exchanged is not doubted for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask
from preprocessor.engine.step import SECOND, FlowContext, Turn
from preprocessor.step_settings import RateSettings
from preprocessor.steps.kept_rows import Units
from preprocessor.steps.sensor import PerTag, SensorStep
from sluice.columns import Quality


class Rate(SensorStep[RateSettings]):
    """Marks a doubtful value UNCERTAIN `rate`."""

    rank = 430
    check = "rate"

    def __init__(self, name: str, settings: RateSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._limit = settings.limit / SECOND  # per ns
        self._units = Units(flow.tags)
        self._tags = PerTag(
            known=("bool", False),
            t=("int64", 0),
            v=("float64", 0.0),
            doubt=("bool", False),
            doubt_t=("int64", 0),
            doubt_v=("float64", 0.0),
        )

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._tags.grow(len(self.flow.tags))
        for slot in self._units.changed(slots):
            self._tags["known"][slot] = self._tags["doubt"][slot] = False

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        return [self._judged(block) for block in blocks]

    def _judged(self, block: Block) -> Block:
        counted = self.counted(block)
        rows = np.flatnonzero(counted)
        if not len(rows):
            return block
        found = self._all_at_once if block.runs().single else self._one_by_one
        doubtful: Mask = np.zeros(len(block), dtype=np.bool_)
        doubtful[rows] = found(block.slot[rows], block.t[rows], block.numbers()[rows])
        self.transitions(block, counted, doubtful)
        return self.act(block, doubtful, counted, Quality.UNCERTAIN)

    def _all_at_once(self, slot: NDArray[np.int32], t: NDArray[np.int64], value: NDArray[np.float64]) -> Mask:
        """Which values are doubtful: for one value of each tag."""
        tags, limit = self._tags, self._limit
        doubt = tags["doubt"][slot]
        with np.errstate(over="ignore"):
            fine: Mask = np.abs(value - tags["v"][slot]) <= limit * (t - tags["t"][slot])
            if doubt.any():
                fine |= doubt & (np.abs(value - tags["doubt_v"][slot]) <= limit * (t - tags["doubt_t"][slot]))
        fine |= ~tags["known"][slot]
        believed = slot[fine]
        tags["known"][believed], tags["t"][believed], tags["v"][believed] = True, t[fine], value[fine]
        tags["doubt"][slot] = ~fine
        if fine.all():
            return ~fine
        doubtful = slot[~fine]
        tags["doubt_t"][doubtful], tags["doubt_v"][doubtful] = t[~fine], value[~fine]
        return ~fine

    def _one_by_one(self, slot: NDArray[np.int32], t: NDArray[np.int64], value: NDArray[np.float64]) -> list[bool]:
        """The same for several values of a tag."""
        tags, limit, doubtful = self._tags, self._limit, []
        of = -1
        last: tuple[int, float] | None = None
        other: tuple[int, float] | None = None
        for tag, time, number in zip(slot.tolist(), t.tolist(), value.tolist(), strict=True):
            if tag != of:
                if of >= 0:
                    self._keep(of, last, other)
                of = tag
                last = (int(tags["t"][tag]), float(tags["v"][tag])) if tags["known"][tag] else None
                other = (int(tags["doubt_t"][tag]), float(tags["doubt_v"][tag])) if tags["doubt"][tag] else None
            if (
                last is None
                or abs(number - last[1]) <= limit * (time - last[0])
                or (other is not None and abs(number - other[1]) <= limit * (time - other[0]))
            ):
                last, other = (time, number), None
                doubtful.append(False)
            else:
                other = (time, number)
                doubtful.append(True)
        self._keep(of, last, other)
        return doubtful

    def _keep(self, tag: int, last: tuple[int, float] | None, other: tuple[int, float] | None) -> None:
        tags = self._tags
        tags["known"][tag], tags["doubt"][tag] = last is not None, other is not None
        if last is not None:
            tags["t"][tag], tags["v"][tag] = last
        if other is not None:
            tags["doubt_t"][tag], tags["doubt_v"][tag] = other

    def save(self) -> Mapping[str, Any]:
        return {**super().save(), "tags": self._tags.save(len(self.flow.tags))}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._tags.load(state["tags"], len(self.flow.tags))

    def explain(self, slot: int) -> dict[str, Any]:
        tags = self._tags
        if slot >= len(tags["known"]) or not tags["known"][slot]:
            return self.explained(slot)
        return {
            **self.explained(slot),
            "limit": self.settings.limit,
            "believed": {"time_ns": int(tags["t"][slot]), "value": float(tags["v"][slot])},
        }
