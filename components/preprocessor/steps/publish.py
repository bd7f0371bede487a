"""What goes out of what is left: all of an asset if any of it changed (`changes`), or what changed alone
(`compressed`).

A row has changed when its value, type or quality differs from what was last published of its tag. What was not
published said the same as that, so each row is compared with the one before it of its tag. Rows of one asset belong
together when their source time is the same and they come in the same turn. Late rows are published, and not remembered.

The step stands behind all others: with it, repeats that a report makes of values that did not change go no further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.config import Flow
from preprocessor.engine.block import Block, Mask
from preprocessor.engine.step import FlowContext, Step, Turn, grown
from preprocessor.steps.kept_rows import KeptRows, Units, bits_of
from sluice.columns import ValueType

UNCHANGED: Final = "unchanged"


class Publish(Step[Flow]):
    """The step; see the top of this file."""

    rank = 9990

    def __init__(self, settings: Flow, flow: FlowContext) -> None:
        super().__init__("publish", settings, flow)
        self._units = Units(flow.tags)
        self._last = KeptRows()
        self._asset: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # its number: not part of the state
        self._assets: dict[str, int] = {}

    def prepare(self, slots: Sequence[int]) -> None:
        """The asset of each tag; what was published of one that has another unit now means nothing any more."""
        super().prepare(slots)
        size = len(self.flow.tags)
        self._last.grow(size)
        self._asset = grown(self._asset, size)
        for slot in slots:
            asset = self.flow.tags.series[slot].asset
            self._asset[slot] = self._assets.setdefault(asset, len(self._assets))
        for slot in self._units.changed(slots):
            self._last.type[slot] = 0

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        """What is published."""
        wanted = [self._changed(block) for block in blocks]
        if self.settings.publish == "changes" and blocks:
            wanted = self._with_all_of_the_asset(blocks, wanted)
        return [self.drop(block, ~rows, UNCHANGED) for block, rows in zip(blocks, wanted, strict=True)]

    def _changed(self, block: Block) -> Mask:
        """Which rows say something else than the one before of their tag; late ones are none of them."""
        rows = None if block.late is None or not block.late.any() else np.flatnonzero(~block.late)
        part = block if rows is None else block.take(rows)
        changed = np.ones(len(block), dtype=np.bool_)
        if len(part):
            found = self._changed_in_order(part)
            if rows is None:
                return found
            changed[rows] = found
        return changed

    def _changed_in_order(self, block: Block) -> Mask:
        runs, nulls = block.runs(), block.nulls()
        slots = runs.slots.astype(np.intp)
        first = self._last.same(slots, block, runs.starts, nulls)
        if runs.single:
            same = first
        else:
            values = block.value if block.type in (ValueType.STRING, ValueType.DOUBLE) else bits_of(block)
            same = np.zeros(len(block), dtype=np.bool_)
            same[1:] = (
                ((values[1:] == values[:-1]) | nulls[1:])
                & (nulls[1:] == nulls[:-1])
                & (block.quality[1:] == block.quality[:-1])
            )
            same[runs.starts] = first
        self._last.put(slots, block, runs.ends - 1, nulls)
        return ~same

    def _with_all_of_the_asset(self, blocks: Sequence[Block], changed: Sequence[Mask]) -> list[Mask]:
        """All rows of each asset and time of which one has changed; late rows bring no others along."""
        asset = np.concatenate([self._asset[block.slot] for block in blocks])
        t = np.concatenate([block.t for block in blocks])
        moved = np.concatenate(changed)
        late = np.concatenate([np.zeros(len(b), dtype=np.bool_) if b.late is None else b.late for b in blocks])
        order = np.lexsort((t, asset))
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (asset[order][1:] != asset[order][:-1]) | (t[order][1:] != t[order][:-1])
        group = np.empty(len(order), dtype=np.intp)
        group[order] = np.cumsum(first) - 1
        any_moved = np.zeros(int(np.count_nonzero(first)), dtype=np.bool_)
        any_moved[group[moved & ~late]] = True
        wanted = any_moved[group] | late
        return np.split(wanted, np.cumsum([len(block) for block in blocks])[:-1])

    def save(self) -> Mapping[str, Any]:
        """What was last published of each tag."""
        return {"last": self._last.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Under the other way of publishing too: what was published last is the same."""
        last = KeptRows()
        last.load(state["last"])
        self._last = last
        self._last.grow(len(self.flow.tags))

    def explain(self, slot: int) -> dict[str, Any]:
        """What was last published."""
        if slot >= len(self._last) or not self._last.type[slot]:
            return super().explain(slot)
        return {
            "applies": True,
            "publish": self.settings.publish,
            "published": self._last.value(slot),
            "published_quality": int(self._last.quality[slot]),
        }
