"""What was done with the samples of watched tags, row by row, for `explain`."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from preprocessor.engine.block import Block
from preprocessor.engine.step import FlowContext

MOST_WATCHED: Final = 20
MOST_KEPT: Final = 40
"""Decisions that are kept of each tag."""


class Trace:
    """The last decisions on each watched tag. At most 20 tags are watched; the one asked for longest ago gives way."""

    def __init__(self, flow: FlowContext) -> None:
        self._flow = flow
        self._decisions: dict[int, deque[dict[str, Any]]] = {}
        flow.trace = self.note

    def watch(self, slot: int) -> None:
        """From now on write down what is done with this tag."""
        decisions = self._decisions.pop(slot, None)
        self._decisions[slot] = deque(maxlen=MOST_KEPT) if decisions is None else decisions
        while len(self._decisions) > MOST_WATCHED:
            del self._decisions[next(iter(self._decisions))]
        self._flow.watching = set(self._decisions)

    def decisions(self, slot: int) -> list[dict[str, Any]]:
        """What was done with the tag since it is watched, the latest last."""
        return list(self._decisions.get(slot, ()))

    def note(self, step: str, reason: str, rows: Block, what: str) -> None:
        """Write down what a step did with these rows."""
        values = rows.value.tolist()
        nulls = rows.nulls().tolist()
        for place, slot in enumerate(rows.slot.tolist()):
            if (decisions := self._decisions.get(slot)) is not None:
                decisions.append(
                    {
                        "step": step,
                        "reason": reason,
                        "what": what,
                        "time_ns": int(rows.t[place]),
                        "value": None if nulls[place] else values[place],
                        "quality": int(rows.quality[place]),
                        "status": self._flow.words.text(int(rows.status[place])),
                    }
                )
