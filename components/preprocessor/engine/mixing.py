"""Tags whose samples come in several types, made one type again.

Batches hold one value type each, so a historian's tag that sends a number, the word Bad and a number again comes in two
batches, and the order between them is lost. Time tells it: where rows of a tag meet that came in several types, they
are sorted by time, and which of them are late is found out anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from preprocessor.engine.block import Block, Mask, concatenated
from sluice.columns import ValueType

_NEVER: Final = 2**63 - 1


def as_one(parts: Sequence[Block], mixed: Mapping[int, int]) -> list[Block]:
    """The parts with those of one type and kind made one block, in the order in which these first stand.

    mixed: tags that came in several types, and the newest time that each had before (`FlowContext.mixed`).
    """
    groups: dict[tuple[ValueType, bool], list[Block]] = {}
    for part in parts:
        if len(part):
            groups.setdefault((part.type, part.backfill), []).append(part)
    return [group[0] if len(group) == 1 else _merged(group, mixed) for group in groups.values()]


def _merged(parts: Sequence[Block], mixed: Mapping[int, int]) -> Block:
    block = concatenated(parts)
    size = int(block.slot[-1]) + 1
    shared: Mask = np.zeros(size, dtype=np.bool_)
    seen: Mask = np.zeros(size, dtype=np.bool_)
    for part in parts:
        shared[part.slot[seen[part.slot]]] = True
        seen[part.slot] = True
    rows = shared[block.slot]
    if not rows.any():
        return block
    block = block.take(np.lexsort((np.where(rows, block.t, 0), block.slot)))  # stable: all others stay as they came
    again: Mask = np.zeros(len(block), dtype=np.bool_)
    again[1:] = rows[1:] & (block.slot[1:] == block.slot[:-1]) & (block.t[1:] == block.t[:-1])
    late = again if block.late is None else block.late | again
    if mixed and not block.backfill:
        newest = np.full(size, _NEVER, dtype=np.int64)
        known = [slot for slot in mixed if slot < size and shared[slot]]
        newest[known] = [mixed[slot] for slot in known]
        late = late & ~((block.t > newest[block.slot]) & ~again)
    return block.with_(late=late if late.any() else None)
