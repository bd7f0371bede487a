"""Single values far from their neighbours (Hampel), with confirmation by one more value.

A value is *far* when its distance from the median of the tag's window is greater than both `floor` and `threshold`
standard deviations, estimated as 1.4826 times the median of the distances from the median (MAD). The window is the
latest `window` values that were taken; while there are fewer, nothing is far. A signal that stands still between steps
of its resolution has a MAD of 0: it needs a `floor`.

A value that is far is a *candidate*, and waits for the tag's next row:

    the next row is                  the candidate is                          the window
    near the candidate (as far as    a step: both go out as they came          begins anew with the two
      a value may be from the median)
    any other value                  the spike; the value is judged itself     stays
    null or BAD, or another type     the spike, as nothing confirms it         stays
    not there within a while         the spike, as nothing confirms it         stays

A while is twice the tag's usual interval, but at least 2 and at most 10 s. A candidate that had to go out unconfirmed
is still remembered: when the next value agrees with it, it was a step all the same, and the window begins anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask, joined
from preprocessor.engine.step import SECOND, FlowContext, Turn, grown
from preprocessor.step_settings import SpikeSettings
from preprocessor.steps.kept_rows import KeptRows, Units
from preprocessor.steps.sensor import Pauses, PerTag, SensorStep
from sluice.columns import Quality

TO_DEVIATIONS: Final = 1.4826
SHORTEST_WAIT: Final = 2 * SECOND
LONGEST_WAIT: Final = 10 * SECOND
NONE, WAITING, GONE = 0, 1, 2
"""What there is of a candidate: nothing; its row waits here; it went out, and its value is remembered."""

_COLUMNS: Final[Mapping[str, tuple[str, Any]]] = {
    "place": ("int32", -1),  # the row of the tag in the table of windows; -1: the tag is not selected
    "filled": ("int32", 0),  # values in its window
    "next": ("int32", 0),  # where its next value goes
    "t": ("int64", 0),
    "interval": ("float64", 0.0),
    "candidate": ("uint8", NONE),
    "value": ("float64", 0.0),  # of the candidate
    "reach": ("float64", 0.0),  # how far a value may be from it to agree
    "due": ("int64", 0),  # when the waiting ends, by the steady clock
}


@dataclass(slots=True)
class _Verdicts:
    """About the rows of one block, and about candidates of earlier ones."""

    spikes: list[int] = field(default_factory=list)
    """Rows of the block."""
    waiting: list[tuple[int, int]] = field(default_factory=list)
    """Slot and row of the block that is its candidate now."""
    steps_before: list[int] = field(default_factory=list)
    """Slots whose candidate of earlier was a step."""
    spikes_before: list[int] = field(default_factory=list)
    """Slots whose candidate of earlier was a spike."""


class Spike(SensorStep[SpikeSettings]):
    """Marks a spike UNCERTAIN `spike`. Its rows are held for as long as they are candidates."""

    rank = 420
    check = "spike"

    def __init__(self, name: str, settings: SpikeSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._size = settings.window
        self._units = Units(flow.tags)
        self._tags = PerTag(**_COLUMNS)
        self._windows: NDArray[np.float64] = np.zeros((0, self._size))
        self._used = 0
        self._rows = KeptRows()
        self._waiting = 0
        self._pauses = Pauses()
        self._orphans: list[int] = []
        """Tags with a candidate that are not selected any more."""

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        size = len(self.flow.tags)
        self._tags.grow(size)
        self._rows.grow(size)
        places = self._tags["place"]
        for slot in slots:
            if places[slot] < 0 and self.applies(slot):
                places[slot] = self._used
                self._used += 1
        if self._used > len(self._windows):
            more = np.zeros((len(grown(np.zeros(len(self._windows)), self._used)), self._size))
            more[: len(self._windows)] = self._windows
            self._windows = more
        for slot in self._units.changed(slots):
            self._tags["filled"][slot] = 0

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        if self._pauses.begin(turn) and self._waiting:  # what would confirm them may still be on its way
            tags = self._tags
            tags["due"][tags["candidate"] == WAITING] = turn.steady + LONGEST_WAIT
        out = self._given_up(self._orphans)
        self._orphans = []
        released = bool(out)
        for block in blocks:
            before, rest = self._judged(block, turn)
            released |= bool(before)
            out += before
            out.append(rest)
        if self._waiting:
            tags = self._tags
            due = np.flatnonzero((tags["candidate"] == WAITING) & (tags["due"] <= turn.steady)).tolist()
            out += self._given_up(due)
            released |= bool(due)
        return joined(out) if released else out

    def finish(self, turn: Turn) -> Sequence[Block]:
        return self._given_up(np.flatnonzero(self._tags["candidate"] == WAITING).tolist())

    # --- judging ---

    def _judged(self, block: Block, turn: Turn) -> tuple[list[Block], Block]:
        """Candidates of earlier blocks that go out before it, and the block."""
        counted = self.counted(block)
        if not self._waiting and not counted.any():
            return [], block
        single = block.runs().single
        verdicts = _Verdicts()
        one_by_one = counted
        if single:
            alone = counted & (self._tags["candidate"][block.slot] == NONE)
            self._all_at_once(block, np.flatnonzero(alone), verdicts)
            one_by_one = counted & ~alone
        if self._waiting or not single:
            one_by_one = one_by_one | self._ends(block, counted, single)
        if one_by_one.any():
            self._one_by_one(block, np.flatnonzero(one_by_one), counted, verdicts)
        before = self._released(verdicts.steps_before, spikes=False)
        before += self._released(verdicts.spikes_before, spikes=True)
        spikes: Mask = np.zeros(len(block), dtype=np.bool_)
        spikes[verdicts.spikes] = True
        if verdicts.waiting:
            held = self._hold(block, verdicts.waiting, turn)
            spikes, counted = spikes[~held], counted[~held]
            block = block.take(~held)
        return before, self._done(block, spikes, counted)

    def _ends(self, block: Block, counted: Mask, single: bool) -> Mask:
        """Rows that are no values but end the waiting of their tag, as they may not overtake its candidate."""
        ends = self.selected(block) & ~counted
        if block.late is not None:
            ends &= ~block.late
        if ends.any():
            concerned = self._tags["candidate"] == WAITING
            if not single:
                concerned[block.slot[counted]] = True
            ends &= concerned[block.slot]
        return ends

    def _all_at_once(self, block: Block, rows: NDArray[np.intp], verdicts: _Verdicts) -> None:
        """For one value of each tag, of tags without a candidate."""
        tags, slot, size = self._tags, block.slot[rows], self._size
        t, value = block.t[rows], block.numbers()[rows]
        self._time(slot, t)
        far = np.zeros(len(rows), dtype=np.bool_)
        full = np.flatnonzero(tags["filled"][slot] == size)
        if len(full):
            median, reach = _judge(self._windows[tags["place"][slot[full]]], self.settings)
            with np.errstate(over="ignore"):
                far[full] = np.abs(value[full] - median) > reach
            for place in np.flatnonzero(far[full]).tolist():
                row = int(full[place])
                of = int(slot[row])
                tags["value"][of], tags["reach"][of] = value[row], reach[place]
                verdicts.waiting.append((of, int(rows[row])))
        near = ~far
        taken = slot[near]
        place = tags["next"][taken]
        self._windows[tags["place"][taken], place] = value[near]
        tags["next"][taken] = (place + 1) % size
        tags["filled"][taken] = np.minimum(tags["filled"][taken] + 1, size)

    def _time(self, slot: NDArray[np.int32], t: NDArray[np.int64]) -> None:
        """Learn the usual interval of tags."""
        tags = self._tags
        last, interval = tags["t"][slot], tags["interval"][slot]
        passed = np.where(last > 0, np.maximum(t - last, 0), 0).astype(np.float64)
        tags["interval"][slot] = np.where(interval > 0, interval + (passed - interval) / 8, passed)
        tags["t"][slot] = t

    def _one_by_one(self, block: Block, rows: NDArray[np.intp], counted: Mask, verdicts: _Verdicts) -> None:
        """For tags that have several rows, or a candidate. `rows`: values, and rows that end the waiting."""
        slots = block.slot[rows]
        cuts = np.flatnonzero(slots[1:] != slots[:-1]) + 1
        numbers = block.numbers()[rows]
        numbers[~counted[rows]] = np.nan
        values, times, index = numbers.tolist(), block.t[rows].tolist(), rows.tolist()
        bounds = [0, *cuts.tolist(), len(rows)]
        for start, end in pairwise(bounds):
            self._tag(int(slots[start]), values[start:end], times[start:end], index[start:end], verdicts)

    def _tag(self, slot: int, values: list[float], times: list[int], rows: list[int], verdicts: _Verdicts) -> None:
        tags, size = self._tags, self._size
        floor, factor = self.settings.floor, self.settings.threshold * TO_DEVIATIONS
        window = self._window(slot)
        ordered = sorted(window)
        state, candidate, reach = (int(tags["candidate"][slot]), float(tags["value"][slot]), float(tags["reach"][slot]))
        waiting = -1  # the candidate's row in this block; else it is of an earlier one
        last, interval = int(tags["t"][slot]), float(tags["interval"][slot])
        middle, other = size // 2, (size - 1) // 2
        # Half of the window lies within the MAD, so that one side of the median has at least a quarter of it within.
        outer = size // 2 - 1 + (size // 2 + 1) // 2 + size % 2
        inner = size - 1 - outer
        for value, time, row in zip(values, times, rows, strict=True):
            if value == value:
                if last > 0:
                    passed = max(time - last, 0)
                    interval = interval + (passed - interval) / 8 if interval else float(passed)
                last = time
            if state != NONE:
                agrees = abs(value - candidate) <= reach
                if state == WAITING:
                    if waiting < 0:
                        (verdicts.steps_before if agrees else verdicts.spikes_before).append(slot)
                    elif not agrees:
                        verdicts.spikes.append(waiting)
                if agrees:
                    window = [candidate, value]
                    ordered = sorted(window)
                    state = NONE
                    continue
                if value != value:
                    state = GONE
                    continue
                state = NONE
            elif value != value:
                continue
            if len(window) == size:
                median = (ordered[middle] + ordered[other]) / 2
                distance = abs(value - median)
                nearly = min(median - ordered[inner], ordered[outer] - median)  # the MAD is no smaller
                if distance > floor and distance > nearly * factor:
                    distances = sorted([abs(one - median) for one in ordered])
                    reach = max((distances[middle] + distances[other]) / 2 * factor, floor)
                    if distance > reach:
                        state, candidate, waiting = WAITING, value, row
                        continue
                oldest = window.pop(0)
                del ordered[bisect_left(ordered, oldest)]
            window.append(value)
            insort(ordered, value)
        tags["t"][slot], tags["interval"][slot] = last, interval
        tags["candidate"][slot], tags["value"][slot], tags["reach"][slot] = state, candidate, reach
        if state == WAITING:
            verdicts.waiting.append((slot, waiting))
        place = int(tags["place"][slot])
        self._windows[place, : len(window)] = window
        tags["filled"][slot], tags["next"][slot] = len(window), len(window) % size

    def _window(self, slot: int) -> list[float]:
        """The values of a tag's window, oldest first."""
        tags = self._tags
        row: list[float] = self._windows[tags["place"][slot]].tolist()
        start, filled = int(tags["next"][slot]), int(tags["filled"][slot])
        return row[start:] + row[:start] if filled == self._size else row[:filled]

    # --- candidates ---

    def _hold(self, block: Block, waiting: list[tuple[int, int]], turn: Turn) -> Mask:
        """Keep the candidates of a block; which rows they are."""
        tags = self._tags
        slots = np.array([slot for slot, _ in waiting], dtype=np.intp)
        rows = np.array([row for _, row in waiting], dtype=np.intp)
        self._rows.put(slots, block, rows, block.nulls())
        wait = np.clip(2 * tags["interval"][slots], SHORTEST_WAIT, LONGEST_WAIT)
        tags["candidate"][slots], tags["due"][slots] = WAITING, turn.steady + wait.astype(np.int64)
        self._waiting += len(slots)
        held = np.zeros(len(block), dtype=np.bool_)
        held[rows] = True
        self.note(block, held, "waits for the next value", "held")
        return held

    def _given_up(self, slots: list[int]) -> list[Block]:
        """The candidates of these tags, which nothing confirmed in time."""
        self._tags["candidate"][slots] = GONE
        return self._released(slots, spikes=True)

    def _released(self, slots: Sequence[int], *, spikes: bool) -> list[Block]:
        """The candidates of these tags as they go out."""
        if not slots:
            return []
        self._waiting -= len(slots)
        out = []
        for block in self._rows.blocks(np.array(slots, dtype=np.intp)):
            every = np.ones(len(block), dtype=np.bool_)
            out.append(self._done(block, every if spikes else ~every, every))
        return out

    def _done(self, block: Block, spikes: Mask, counted: Mask) -> Block:
        if self._tells:
            for row in np.flatnonzero(spikes).tolist():
                time = int(block.t[row])
                self.tell("single", int(block.slot[row]), time, block.value[row].item(), time)
        return self.act(block, spikes, counted, Quality.UNCERTAIN)

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        size = len(self.flow.tags)
        return {
            **super().save(),
            "tags": self._tags.save(size),
            "windows": self._windows[: self._used],
            "rows": self._rows.save(),
            "pauses": self._pauses.save(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        size = len(self.flow.tags)
        kept = np.array(state["windows"], dtype=np.float64)
        if kept.ndim != 2:
            raise ValueError("the windows are no table")
        rows = KeptRows()
        rows.load(state["rows"])
        rows.grow(size)
        tags = PerTag(**_COLUMNS)
        tags.load(state["tags"], size)
        self._pauses.load(state["pauses"])
        super().load(state)
        kept_at, mine = tags["place"][:size].copy(), self._tags["place"][:size]
        filled = tags["filled"][:size]
        if kept_at[filled > 0].max(initial=-1) >= len(kept):
            raise ValueError("a window is missing")
        for slot in np.flatnonzero(filled > 0).tolist():
            if mine[slot] < 0 or kept_at[slot] < 0:
                filled[slot] = 0
                continue
            row, count = kept[kept_at[slot]], int(filled[slot])
            if len(row) == self._size:
                self._windows[mine[slot]] = row
                continue
            values = np.roll(row, -int(tags["next"][slot])) if count == len(row) else row[:count]
            values = values[-self._size :]
            self._windows[mine[slot], : len(values)] = values
            filled[slot], tags["next"][slot] = len(values), len(values) % self._size
        tags["place"][:size] = mine
        self._tags, self._rows = tags, rows
        waiting = np.flatnonzero(tags["candidate"] == WAITING)
        self._waiting = len(waiting)
        self._orphans = [slot for slot in waiting.tolist() if not self.applies(slot)]

    def explain(self, slot: int) -> dict[str, Any]:
        if not self.applies(slot) or slot >= len(self._tags["place"]):
            return self.explained(slot)
        waits = self._tags["candidate"][slot] == WAITING
        return {
            **self.explained(slot),
            "window": self._window(slot),
            "waiting": self._rows.value(slot) if waits else None,
        }


def _judge(windows: NDArray[np.float64], settings: SpikeSettings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The median of each full window, and how far from it a value may be."""
    middle, other = windows.shape[1] // 2, (windows.shape[1] - 1) // 2
    ordered = np.sort(windows, axis=1)
    median = (ordered[:, middle] + ordered[:, other]) / 2
    distances = np.sort(np.abs(ordered - median[:, None]), axis=1)
    spread = (distances[:, middle] + distances[:, other]) / 2 * (settings.threshold * TO_DEVIATIONS)
    return median, np.maximum(spread, settings.floor)
