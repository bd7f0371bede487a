"""Values outside of what is possible (BAD) or likely (UNCERTAIN). Each row is judged alone, late ones as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask
from preprocessor.engine.step import FlowContext, Turn
from preprocessor.step_settings import RangeSettings
from preprocessor.steps.sensor import NUMBERS, SensorStep
from sluice.columns import Quality

WORD: Final = "out-of-range"


class Range(SensorStep[RangeSettings]):
    """A value on a limit is inside. The event is about all limits together: a tag is in its range or it is not."""

    rank = 400
    check = WORD

    def __init__(self, name: str, settings: RangeSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._hard = settings.low, settings.high
        self._soft = settings.soft_low, settings.soft_high

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        return [self._judged(block) if block.type in NUMBERS else block for block in blocks]

    def _judged(self, block: Block) -> Block:
        values = block.numbers()
        hard, soft = _beyond(values, self._hard), _beyond(values, self._soft)
        needs_all = self._tells or self._action == "hold"
        if not needs_all and not hard.any() and not soft.any():
            return block
        # null is NaN, which lies beyond no limit
        judged = self.selected(block) & (block.quality < Quality.BAD)
        hard &= judged
        soft &= judged & ~hard
        if needs_all:
            counted = self.counted(block)
            if self._tells:
                self.transitions(block, counted, hard | soft)
        else:
            counted = judged
        # soft ones first: they are not good values to hold, and dropping changes the rows
        return self.act(self.mark(block, soft, Quality.UNCERTAIN, WORD), hard, counted, Quality.BAD)

    def explain(self, slot: int) -> dict[str, Any]:
        low, high = self._hard
        soft_low, soft_high = self._soft
        return {**self.explained(slot), "low": low, "high": high, "softLow": soft_low, "softHigh": soft_high}


def _beyond(values: NDArray[np.float64], limits: tuple[float | None, float | None]) -> Mask:
    low, high = limits
    beyond: Mask = np.zeros(len(values), dtype=np.bool_)
    if low is not None:
        beyond |= values < low
    if high is not None:
        beyond |= values > high
    return beyond
