"""A sensor that does not move.

The rule: values of a tag that follow one another make a *run* for as long as the greatest less the smallest of the run
is at most `within`. The first value that would make it more begins a new run, alone. A tag is stuck while its run has
`samples` values and lasts for `for` in source time, from its first value to the latest.

So what is called stuck never moved by more than `within` since the run began, and a tag that stays within the band for
twice as long (and as many samples) as asked is always found: the run that was under way when it got stuck either goes
on, and is older, or breaks within that time, and the next one cannot break any more. A source that leaves out repeats
sends fewer samples, which delays a finding; only a value outside the band ends one.

While `when` is not true (or not known) nothing is judged, and the run begins anew after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask
from preprocessor.engine.step import SECOND, FlowContext, Turn
from preprocessor.expressions.signal import Signal
from preprocessor.step_settings import StuckSettings
from preprocessor.steps.kept_rows import Units
from preprocessor.steps.sensor import PerTag, SensorStep
from sluice.columns import Quality


class Stuck(SensorStep[StuckSettings]):
    """Marks a stuck value UNCERTAIN `stuck`, from the one on that completes the run."""

    rank = 410
    check = "stuck"

    def __init__(self, name: str, settings: StuckSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._for = round(settings.for_ * SECOND)
        self._when = Signal(settings.when, flow, "when", step=name) if settings.when else None
        self._units = Units(flow.tags)
        self._runs = PerTag(count=("int64", 0), start=("int64", 0), low=("float64", 0.0), high=("float64", 0.0))

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._runs.grow(len(self.flow.tags))
        for slot in self._units.changed(slots):
            self._runs["count"][slot] = 0
        if self._when is not None:
            self._when.prepare(slots)

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        if self._when is not None:
            self._when.feed(blocks, turn)
        return [self._judged(block) for block in blocks]

    def _judged(self, block: Block) -> Block:
        counted = self.counted(block)
        rows = np.flatnonzero(counted)
        if not len(rows):
            return block
        wanted = np.ones(len(rows), dtype=np.bool_) if self._when is None else self._when.truth(block.t[rows])
        found = self._all_at_once if block.runs().single else self._one_by_one
        stuck: Mask = np.zeros(len(block), dtype=np.bool_)
        since = np.zeros(len(block), dtype=np.int64)
        stuck[rows], since[rows] = found(block.slot[rows], block.t[rows], block.numbers()[rows], wanted)
        self.transitions(block, counted, stuck, since)
        return self.act(block, stuck, counted, Quality.UNCERTAIN)

    def _all_at_once(
        self, slot: NDArray[np.int32], t: NDArray[np.int64], value: NDArray[np.float64], wanted: Mask
    ) -> tuple[Mask, NDArray[np.int64]]:
        """Which values are stuck, and since when: for one value of each tag."""
        runs = self._runs
        count, start = runs["count"][slot], runs["start"][slot]
        low, high = np.minimum(runs["low"][slot], value), np.maximum(runs["high"][slot], value)
        with np.errstate(over="ignore"):
            goes_on = (count > 0) & (high - low <= self.settings.within) & wanted
        count = np.where(goes_on, count + 1, wanted)
        start = np.where(goes_on, start, t)
        runs["count"][slot], runs["start"][slot] = count, start
        runs["low"][slot], runs["high"][slot] = np.where(goes_on, low, value), np.where(goes_on, high, value)
        return (count >= self.settings.samples) & (t - start >= self._for), start

    def _one_by_one(
        self, slot: NDArray[np.int32], t: NDArray[np.int64], value: NDArray[np.float64], wanted: Mask
    ) -> tuple[list[bool], list[int]]:
        """The same for several values of a tag."""
        within, samples, long = self.settings.within, self.settings.samples, self._for
        runs, wrong, since = self._runs, [], []
        of = -1
        count = start = 0
        low = high = 0.0
        for tag, time, number, judged in zip(slot.tolist(), t.tolist(), value.tolist(), wanted.tolist(), strict=True):
            if tag != of:
                if of >= 0:
                    self._keep(of, count, start, low, high)
                of = tag
                count, start = int(runs["count"][tag]), int(runs["start"][tag])
                low, high = float(runs["low"][tag]), float(runs["high"][tag])
            least, most = min(number, low), max(number, high)
            if judged and count and most - least <= within:
                count, low, high = count + 1, least, most
            else:
                count, start, low, high = int(judged), time, number, number
            wrong.append(count >= samples and time - start >= long)
            since.append(start)
        self._keep(of, count, start, low, high)
        return wrong, since

    def _keep(self, tag: int, count: int, start: int, low: float, high: float) -> None:
        runs = self._runs
        runs["count"][tag], runs["start"][tag], runs["low"][tag], runs["high"][tag] = count, start, low, high

    def save(self) -> Mapping[str, Any]:
        state = {**super().save(), "runs": self._runs.save(len(self.flow.tags))}
        if self._when is not None:
            state["when"] = self._when.save()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._runs.load(state["runs"], len(self.flow.tags))
        if self._when is not None and "when" in state:
            self._when.load(state["when"])

    def explain(self, slot: int) -> dict[str, Any]:
        runs = self._runs
        if slot >= len(runs["count"]):
            return self.explained(slot)
        return {
            **self.explained(slot),
            "run": {
                "samples": int(runs["count"][slot]),
                "since": int(runs["start"][slot]),
                "low": float(runs["low"][slot]),
                "high": float(runs["high"][slot]),
            },
        }
