"""Tags of which nothing comes any more.

Silence is measured by the steady clock: from the turn in which the tag came last, or from the one in which the
component went on after it had not run. Every row counts, late, BAD and backfilled ones too. A tag is told once; the
next row ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from preprocessor.engine.block import Block, Index, joined
from preprocessor.engine.step import FlowContext, Turn
from preprocessor.step_settings import StaleSettings
from preprocessor.steps.kept_rows import KeptRows
from preprocessor.steps.sensor import PerTag, SensorStep, Silence
from sluice.columns import Quality

_NEVER: Final = -(2**63)


class Stale(SensorStep[StaleSettings]):
    """With `mark` the last value is repeated once, UNCERTAIN `stale` (or BAD, if it was), `after` later than it was.

    A row that comes afterwards with a time before that of the repeat is late for the steps behind this one.
    """

    rank = 440
    check = "stale"

    def __init__(self, name: str, settings: StaleSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._tells = True
        self._silence = Silence(settings.after)
        self._rows = KeptRows()
        self._repeats = PerTag(t=("int64", _NEVER))
        """The time of each tag's latest repeat."""

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._silence.grow(len(self.flow.tags))
        self._rows.grow(len(self.flow.tags))
        self._repeats.grow(len(self.flow.tags))

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self._silence.begin(turn)
        out = [self._heard(block, turn) for block in blocks]
        silent = self._silence.fallen(turn)
        if not len(silent):
            return out
        return joined([*out, *self._fallen(silent)])

    def _heard(self, block: Block, turn: Turn) -> Block:
        rows = np.flatnonzero(self.selected(block))
        if not len(rows):
            return block
        for slot in self._silence.hear(block.slot[rows], turn).tolist():
            if not self._wrong["wrong"][slot]:
                continue
            first = int(np.searchsorted(block.slot, slot))
            self._wrong["wrong"][slot] = False
            self.count("ended")
            value = None if block.nulls()[first] else block.value[first : first + 1].tolist()[0]
            self.tell("end", slot, int(block.t[first]), value, int(self._wrong["since"][slot]))
        behind = block.t <= self._repeats["t"][block.slot]
        if behind.any():
            block = block.with_(late=behind if block.late is None else behind | block.late)
        if block.late is not None:
            rows = rows[~block.late[rows]]
        if len(rows):
            # the last row of each tag
            slots = block.slot[rows]
            last = np.append(slots[1:] != slots[:-1], True)
            self._rows.put(slots[last].astype(np.intp), block, rows[last], block.nulls())
        return block

    def _fallen(self, silent: Index) -> list[Block]:
        """Tell of these tags, and repeat them."""
        known = silent[self._rows.type[silent] > 0]
        after = self._silence.after
        for slot in known.tolist():
            last = int(self._rows.t[slot])
            self._wrong["wrong"][slot], self._wrong["since"][slot] = True, last
            self.count("begun")
            self.tell("begin", slot, last + after, self._rows.value(slot), last)
        if self.settings.action != "mark":
            return []
        out = []
        for block in self._rows.blocks(known):
            again = block.with_(t=block.t + after, late=None)
            self.made(len(again), "repeated")
            out.append(self.mark(again, np.ones(len(again), dtype=np.bool_), Quality.UNCERTAIN, self.check))
            self._repeats["t"][again.slot] = again.t
        return out

    def save(self) -> Mapping[str, Any]:
        return {
            **super().save(),
            "silence": self._silence.save(len(self.flow.tags)),
            "rows": self._rows.save(),
            "repeats": self._repeats.save(len(self.flow.tags)),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        size = len(self.flow.tags)
        super().load(state)
        self._silence.load(state["silence"], size)
        self._rows.load(state["rows"])
        self._rows.grow(size)
        self._repeats.load(state["repeats"], size)
        unwanted = np.flatnonzero(~self._selected[:size])
        self._silence.forget(unwanted)

    def explain(self, slot: int) -> dict[str, Any]:
        return {**self.explained(slot), "after": self.settings.after}
