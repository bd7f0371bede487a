"""When a flow sends: while an expression is true, when it changes, or when it becomes true.

- *whileTrue*: rows pass whose own time lies in a time in which `when` is true; what is unknown is not true.
- *onChange*, *onTrue*: the newest row of each tag is remembered, and nothing passes. When `when` changes (onChange), or
  becomes true after it was false (onTrue), the newest value of every tag that was seen goes out, with the time of the
  change; quality, status and context are the value's own. Of the rows of the same turn those up to that time count.
  A time in which `when` is unknown changes nothing: what follows is compared with what was known before.

`when` is looked at behind all other steps: a tag that it names must come through them, and not be filtered on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.config import Flow
from preprocessor.engine.block import Block, Index, Mask
from preprocessor.engine.step import FlowContext, Step, Turn, grown
from preprocessor.expressions.signal import Signal
from preprocessor.steps.kept_rows import KeptRows, Units

MOST_ROWS: Final = 1_000_000
"""Rows that the changes of one turn may make; of more changes than that allows the newest count."""
REPEATED: Final = "repeated"
REPLACED: Final = "replaced"
NOT_TRUE: Final = "when_not_true"


class Mode(Step[Flow]):
    """The step; see the top of this file."""

    rank = 9980

    def __init__(self, settings: Flow, flow: FlowContext) -> None:
        super().__init__("mode", settings, flow)
        self._signal = Signal(settings.when, flow, "when")
        self._passes = settings.mode == "whileTrue"
        self._units = Units(flow.tags)
        self._newest = KeptRows()
        self._fresh: Mask = np.zeros(0, dtype=np.bool_)  # the newest has not gone out yet
        self._known: float | str | None = None  # what `when` was when it was last known
        self._settled = True

    def prepare(self, slots: Sequence[int]) -> None:
        """Room for new tags; what is kept of a tag that has another unit now means nothing any more."""
        super().prepare(slots)
        self._signal.prepare(slots)
        self._grow()
        for slot in self._units.changed(slots):
            if self._fresh[slot]:
                self.gone(1, "unit_changed")
            self._fresh[slot] = False
            self._newest.type[slot] = 0

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        """What passes, or what every tag was at each change."""
        self._signal.feed(blocks, turn)
        if self._passes:
            found = [] if self._settled else list(self.finish(turn))
            self._settled = True
            return found + [self.drop(block, ~self._signal.truth(block.t), NOT_TRUE) for block in blocks]
        found = []
        left = [block if block.late is None else self.drop(block, block.late, "late") for block in blocks]
        for time in self._changes():
            left = [self._remembered(block, block.t <= time) for block in left]
            found += self._snapshot(time)
        for block in left:
            self._remembered(block, np.ones(len(block), dtype=np.bool_))
        return found

    def finish(self, turn: Turn) -> Sequence[Block]:
        """The newest rows that never went out, with their own times."""
        slots = np.flatnonzero(self._fresh)
        self._fresh[slots] = False
        return self._newest.blocks(slots)

    def _changes(self) -> list[int]:
        """The times at which `when` changed, or became true."""
        times, column = self._signal.changes()
        if not len(times):
            return []
        found = []
        known = column.known() & (column.quality < 2)
        for time, value, is_known in zip(times.tolist(), column.value.tolist(), known.tolist(), strict=True):
            if not is_known:
                continue
            before, self._known = self._known, value
            if before is None or before == value:
                continue
            if self.settings.mode == "onChange" or (_true(value) and not _true(before)):
                found.append(int(time))
        most = max(1, MOST_ROWS // max(1, int(np.count_nonzero(self._newest.type))))
        if len(found) > most:
            self.count("changes_skipped", len(found) - most)
            self.flow.tell("changes-skipped", found[0], changes=len(found) - most, until_ns=found[-most - 1])
            found = found[-most:]
        return found

    def _remembered(self, block: Block, rows: Mask) -> Block:
        """Remember the newest of these rows, and give back the others."""
        if not rows.any():
            return block
        part = block.take(rows)
        runs = part.runs()
        slots: Index = runs.slots.astype(np.intp)
        replaced = len(part) - len(slots) + int(np.count_nonzero(self._fresh[slots]))
        if replaced:
            self.gone(replaced, REPLACED)
        self._newest.put(slots, part, runs.ends - 1, part.nulls())
        self._fresh[slots] = True
        return block.take(~rows)

    def _snapshot(self, time: int) -> list[Block]:
        """Every tag's newest value, at this time."""
        slots = np.flatnonzero(self._newest.type)
        again = len(slots) - int(np.count_nonzero(self._fresh))
        if again:
            self.made(again, REPEATED)
        self._fresh[:] = False
        found = []
        for block in self._newest.blocks(slots):
            stamped: NDArray[np.int64] = np.full(len(block), time, dtype=np.int64)
            found.append(block.with_(t=stamped, backfill=False))
        return found

    # --- state ---

    def _grow(self) -> None:
        self._newest.grow(len(self.flow.tags))
        self._fresh = grown(self._fresh, len(self._newest))

    def save(self) -> Mapping[str, Any]:
        """The newest row of each tag, and what `when` was."""
        return {
            "when": self.settings.when,
            "signal": self._signal.save(),
            "newest": self._newest.save(),
            "fresh": self._fresh,
            "known": self._known,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Under another mode too. What another expression was is not known: its next value is no change."""
        newest = KeptRows()
        newest.load(state["newest"])
        fresh = np.array(state["fresh"], dtype=np.bool_)
        known = state["known"]
        if len(fresh) != len(newest) or not (known is None or isinstance(known, (float, int, str))):
            raise ValueError("what is remembered does not fit together")
        self._signal.load(state["signal"])
        if state["when"] == self.settings.when:
            self._known = known
        self._newest, self._fresh = newest, fresh
        self._grow()
        self._settled = False

    def explain(self, slot: int) -> dict[str, Any]:
        """What `when` was, and what is remembered of the tag."""
        found: dict[str, Any] = {"applies": True, "mode": self.settings.mode, "when": self.settings.when}
        if not self._passes:
            found["was"] = self._known
            if slot < len(self._newest) and self._newest.type[slot]:
                found["newest"] = self._newest.value(slot)
                found["newest_ns"] = int(self._newest.t[slot])
                found["sent"] = not bool(self._fresh[slot])
        return found


def _true(value: float | str) -> bool:
    return isinstance(value, (int, float)) and value != 0
