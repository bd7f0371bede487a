"""Of one alarm at one tag at most 30 events are told in ten minutes; then one that says how many were not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from preprocessor.engine.step import SECOND

MOST: Final = 30
SPAN: Final = 600 * SECOND


class Flood:
    """Counts by key, in spans of ten minutes by the steady clock that begin with an event."""

    def __init__(self) -> None:
        # in the order in which the spans began: [begin, events, time of the last one that was not told]
        self._spans: dict[int, list[int]] = {}

    def allows(self, key: int, time: int, steady: int) -> bool:
        """Whether an event that happened at this source time may be told."""
        span = self._spans.setdefault(key, [steady, 0, 0])
        span[1] += 1
        if span[1] <= MOST:
            return True
        span[2] = time
        return False

    def over(self, steady: int) -> list[tuple[int, int, int]]:
        """Spans that are over and had events that were not told: key, how many, source time of the last."""
        told = []
        while self._spans:
            key, (begin, events, time) = next(iter(self._spans.items()))
            if steady - begin < SPAN:
                break
            del self._spans[key]
            if events > MOST:
                told.append((key, events - MOST, time))
        return told

    def save(self) -> list[list[int]]:
        """For `load`."""
        return [[key, *span] for key, span in self._spans.items()]

    def load(self, saved: Any) -> None:
        """What `save` gave. Raises ValueError or TypeError."""
        spans: Mapping[int, list[int]] = {
            int(key): [int(begin), int(events), int(time)] for key, begin, events, time in saved
        }
        self._spans = dict(spans)
